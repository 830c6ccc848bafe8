//! PostgreSQL and PgBouncer: found, installed, or asked for in one line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use job_testkit::cluster::locate;
use job_testkit::{env, pgbouncer};
use tokio::process::Command;

/// The directory of PostgreSQL's programs. On a machine without them, as root and with apt-get, they are installed.
pub async fn postgres() -> Result<PathBuf> {
    found_or_installed(
        locate::bin_dir,
        env::JOBS_PG_BIN,
        "postgresql",
        "install PostgreSQL 14 or newer (apt install postgresql, brew install postgresql@17), \
         or set JOBS_PG_BIN to the directory of initdb",
    )
    .await
}

/// PgBouncer's program, in the same way.
pub async fn pgbouncer() -> Result<PathBuf> {
    found_or_installed(
        pgbouncer::program,
        env::JOBS_PGBOUNCER,
        "pgbouncer",
        "install it (apt install pgbouncer, brew install pgbouncer), or set JOBS_PGBOUNCER to the program",
    )
    .await
}

/// uuidgen, which the specification's commands call.
pub async fn uuidgen() -> Result<PathBuf> {
    let find = || {
        let program = PathBuf::from("/usr/bin/uuidgen");
        if program.is_file() { Ok(program) } else { bail!("no uuidgen found") }
    };
    found_or_installed(find, "", "uuid-runtime", "install it (apt install uuid-runtime)").await
}

/// curl, which they call, too.
pub async fn curl() -> Result<PathBuf> {
    let find = || {
        let program = PathBuf::from("/usr/bin/curl");
        if program.is_file() { Ok(program) } else { bail!("no curl found") }
    };
    found_or_installed(find, "", "curl", "install it (apt install curl)").await
}

/// debootstrap's program, in the same way.
pub async fn debootstrap() -> Result<PathBuf> {
    let find = || {
        let places = ["/usr/sbin/debootstrap", "/usr/bin/debootstrap"].map(PathBuf::from);
        places.into_iter().find(|place| place.is_file()).context("no debootstrap found")
    };
    found_or_installed(find, "", "debootstrap", "run this as root on Debian or Ubuntu (apt install debootstrap)").await
}

async fn found_or_installed(
    find: fn() -> Result<PathBuf>,
    chosen: &str,
    package: &str,
    advice: &str,
) -> Result<PathBuf> {
    let missing = match find() {
        Ok(found) => return Ok(found),
        Err(missing) => missing,
    };
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if env::var(chosen).is_some() {
        // Whoever names a place wants that one.
        return Err(missing);
    }
    if !is_root || !Path::new("/usr/bin/apt-get").is_file() {
        bail!("{missing}: {advice}");
    }
    println!("{package} is not here yet: apt-get install {package}");
    if apt(&["install", "-y", "--no-install-recommends", package]).await.is_err() {
        // A fresh container image has no package lists.
        apt(&["update"]).await?;
        apt(&["install", "-y", "--no-install-recommends", package]).await?;
    }
    find().with_context(|| format!("after apt-get install {package}"))
}

async fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").kill_on_drop(true);
    let output = command.output().await.context("cannot run apt-get")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("apt-get {} failed: {}", arguments.join(" "), reason.lines().last().unwrap_or("no reason given"));
    }
    Ok(())
}
