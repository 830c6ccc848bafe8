//! The images themselves: what they weigh, who they run as, what is in their layers, and whether every program of ours
//! answers.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use job_testkit::env;
use serde_json::Value;
use tokio::process::Command;

use super::engine::{Engine, docker, inspect};
use super::standin;
use deploy_check::compose::FILES;
use deploy_check::images;
use toolkit::steps::output_of;

/// The largest that an image of ours may be, in MB.
const LARGEST: f64 = 40.0;

/// Who every image of ours runs as.
pub(super) const USER: &str = "65532:65532";

/// What a program says when nothing runs that it could ask.
const UNHEALTHY: i32 = 70;

/// What a secret looks like: the values that the compose files pass, and the names of what holds one.
const SECRETS: &[&str] = &["PASSWORD=", "=password", "SECRET=", "API_KEY=", "TOKEN="];

/// Everything that an image from scratch has beside its program. A part of a path's last name that differs from machine
/// to machine (the loader's architecture) is left out.
const FILES_OF_EVERY_IMAGE: &[&str] = &[
    "etc/group",
    "etc/nsswitch.conf",
    "etc/passwd",
    "etc/ssl/certs/ca-certificates.crt",
    "usr/share/doc/ca-certificates/copyright",
    "usr/share/doc/libc6/copyright",
    "usr/share/doc/libgcc-s1/copyright",
];

/// The libraries that programs are linked with, by the beginning of their file's name; the directory is the
/// architecture's.
const LIBRARIES: &[&str] = &["ld-linux", "libc.so.", "libgcc_s.so.", "libm.so."];

/// The programs that deploy/Dockerfile makes an image of.
pub(super) fn programs() -> Result<Vec<String>> {
    let dockerfile = std::fs::read_to_string(env::workspace_dir().join("deploy/Dockerfile"))?;
    let programs: Vec<String> = images::programs(&dockerfile).into_iter().map(str::to_owned).collect();
    if programs.is_empty() {
        bail!("deploy/Dockerfile makes no image: this test sees nothing");
    }
    Ok(programs)
}

/// Builds every image: those of the compose files by compose, the others as deploy/README.md says.
pub(super) async fn build(engine: &Engine) -> Result<()> {
    let [first, jobs] = FILES;
    engine.compose(first, &["build"]).await?;
    engine.compose(jobs, &["--profile", "workers", "build"]).await?;
    let config = engine.config(jobs).await?;
    let by_compose: BTreeSet<&str> = config["services"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, service)| service["image"].as_str())
        .collect();
    for program in programs()? {
        let image = format!("jobs/{program}");
        if !by_compose.contains(image.as_str()) {
            let mut build = Command::new("docker");
            build.args(["build", "-f", "deploy/Dockerfile", "--target", &program, "-t", &image, "."]);
            let status = build.current_dir(env::workspace_dir()).stdin(Stdio::null()).status().await;
            let status = status.context("docker is not there")?;
            if !status.success() {
                bail!("`docker build --target {program}` failed ({status})");
            }
        }
    }
    Ok(())
}

/// What every image weighs, who it runs as, and what its labels say.
pub(super) async fn settings() -> Result<()> {
    for program in programs()? {
        let image = format!("jobs/{program}");
        let shown = inspect(&image).await?;
        let megabytes = megabytes(&shown);
        let user = shown.pointer("/Config/User").and_then(Value::as_str).unwrap_or_default();
        let label = |name: &str| {
            let labels = shown
                .pointer("/Config/Labels")
                .and_then(|labels| labels.get(format!("org.opencontainers.image.{name}")));
            labels.and_then(Value::as_str).unwrap_or_default()
        };
        let (title, version, description) = (label("title"), label("version"), label("description"));
        println!("    {image}: {megabytes:.1} MB, user {user}; {title} {version}: {description}");
        if megabytes >= LARGEST {
            bail!("{image} has {LARGEST} MB or more");
        }
        if user != USER {
            bail!("{image} runs as {user:?} instead of {USER}");
        }
        if title != program
            || version != env!("CARGO_PKG_VERSION")
            || description.is_empty()
            || label("licenses") != "MIT"
        {
            bail!("the labels of {image} are not right: {}", shown.pointer("/Config/Labels").unwrap_or(&Value::Null));
        }
        if shown.pointer("/Config/Healthcheck/Test").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            bail!("{image} has no health check");
        }
    }
    println!("    jobs/postgres: {:.1} MB, most of it its base image", megabytes(&inspect("jobs/postgres").await?));
    Ok(())
}

fn megabytes(shown: &Value) -> f64 {
    shown.pointer("/Size").and_then(Value::as_f64).unwrap_or(f64::INFINITY) / 1e6
}

/// Every program starts as it is confined in the stack, tells its version, and says when asked that nothing runs here.
pub(super) async fn answers() -> Result<()> {
    for program in programs()? {
        let run = async |argument: &str| {
            let mut run = Command::new("docker");
            run.args(["run", "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]);
            run.args(["--network", "none", &format!("jobs/{program}"), argument])
                .stdin(Stdio::null())
                .kill_on_drop(true);
            run.output().await.context("docker is not there")
        };
        let version = run("--version").await?;
        let told = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        if told != format!("{program} {}", env!("CARGO_PKG_VERSION")) {
            bail!("{program} --version: {told:?}, {}", String::from_utf8_lossy(&version.stderr).trim());
        }
        let health = run("health").await?;
        let said = String::from_utf8_lossy(&health.stderr).trim().to_owned();
        println!("    {told}; health: exit code {}, {said}", health.status.code().unwrap_or(-1));
        if health.status.code() != Some(UNHEALTHY) {
            bail!("{program} health ended with {} and not with {UNHEALTHY}", health.status);
        }
    }
    Ok(())
}

/// No layer holds a file that does not belong there, and neither history nor settings hold what looks like a secret.
pub(super) async fn contents() -> Result<()> {
    for program in programs()? {
        let image = format!("jobs/{program}");
        let files = files(&image, 0).await?;
        let odd: Vec<&String> = files.iter().filter(|file| !belongs(&program, file)).collect();
        if !odd.is_empty() {
            bail!("{image} has files that do not belong there: {odd:?}");
        }
        let wanted =
            FILES_OF_EVERY_IMAGE.iter().map(|file| (*file).to_owned()).chain([format!("usr/local/bin/{program}")]);
        let lacking: Vec<String> = wanted.filter(|file| !files.contains(file)).collect();
        if !lacking.is_empty() {
            bail!("{image} lacks {lacking:?}: this check does not see its files");
        }
        println!("    {image}: {} files in its layers, and all of them belong there", files.len());
        secrets(&image).await?;
    }
    let base = standin::postgres_base(&env::workspace_dir())?;
    let layers = |shown: &Value| shown.pointer("/RootFS/Layers").and_then(Value::as_array).map_or(0, Vec::len);
    let of_base = layers(&inspect(&base).await?);
    let files = files("jobs/postgres", of_base).await?;
    let odd: Vec<&String> = files.iter().filter(|file| !file.contains("/extension/pgpm-database-jobs")).collect();
    if files.is_empty() || !odd.is_empty() {
        bail!("jobs/postgres has over {base} {} files, of which do not belong there: {odd:?}", files.len());
    }
    println!("    jobs/postgres: {} files over those of {base}, all of the extension", files.len());
    secrets("jobs/postgres").await
}

async fn secrets(image: &str) -> Result<()> {
    let history = docker(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", image]).await?;
    let config = inspect(image).await?.pointer("/Config").map(ToString::to_string).unwrap_or_default();
    match SECRETS.iter().find(|secret| history.contains(**secret) || config.contains(**secret)) {
        Some(found) => bail!("{image} shows {found:?} in its history or settings"),
        None => Ok(()),
    }
}

/// Whether a file may be in the image of a program.
fn belongs(program: &str, file: &str) -> bool {
    let (directory, name) = file.rsplit_once('/').unwrap_or(("", file));
    let directory = directory.strip_prefix("usr/").unwrap_or(directory);
    let is_library = directory.starts_with("lib") && LIBRARIES.iter().any(|library| name.starts_with(library));
    is_library || FILES_OF_EVERY_IMAGE.contains(&file) || file == format!("usr/local/bin/{program}")
}

/// Every file in an image's layers, those that a later layer hides included, without the first so many layers.
async fn files(image: &str, skipped: usize) -> Result<BTreeSet<String>> {
    let directory = tempfile::tempdir_in(env::target_dir())?;
    let mut save = Command::new("bash");
    save.args(["-o", "pipefail", "-c", "docker save \"$0\" | tar --extract --directory \"$1\""]);
    output_of({
        save.arg(image).arg(directory.path());
        save
    })
    .await?;
    let manifest = std::fs::read_to_string(directory.path().join("manifest.json"))?;
    let manifest: Value = serde_json::from_str(&manifest)?;
    let layers = manifest.pointer("/0/Layers").and_then(Value::as_array).context("docker save wrote no layers")?;
    let mut files = BTreeSet::new();
    for layer in layers.iter().skip(skipped).filter_map(Value::as_str) {
        let mut list = Command::new("tar");
        list.arg("--list").arg("--file").arg(directory.path().join(layer));
        files.extend(output_of(list).await?.lines().filter(|name| !name.ends_with('/')).map(str::to_owned));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::belongs;

    #[test]
    fn only_the_program_its_libraries_and_what_every_image_has_belong() {
        for file in
            ["usr/local/bin/one", "etc/passwd", "lib/x86_64-linux-gnu/libc.so.6", "usr/lib64/ld-linux-x86-64.so.2"]
        {
            assert!(belongs("one", file), "{file}");
        }
        for file in [
            "usr/local/bin/two",
            "etc/shadow",
            "lib/x86_64-linux-gnu/libssl.so.3",
            "root/.cargo/credentials.toml",
            ".wh.secret",
        ] {
            assert!(!belongs("one", file), "{file}");
        }
    }
}
