//! Base images: pulled, or where no registry can be reached made with debootstrap and `docker import` under the same
//! names. What is made says so in its label and here. The rust stand-in holds this machine's compiler and the crates of
//! the lock files, fetched by this machine's own cargo, so that the build inside needs no network.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use job_testkit::env;
use tokio::process::Command;

use super::engine::docker;
use toolkit::setup;
use toolkit::steps::{cargo_program, output_of};

/// On every image that is made here; its value says what of.
const LABEL: &str = "jobs.standin";

/// What the images need beside a minimal Debian: a linker, certificates, PostgreSQL.
const PACKAGES: &str = "--include=gcc,libc6-dev,make,ca-certificates,postgresql";

const POSTGRES_ENTRYPOINT: &str = include_str!("standin/postgres-entrypoint.sh");
const MINIO_PLACEHOLDER: &str = include_str!("standin/minio-placeholder.sh");

/// The base images that the Dockerfiles and the compose file name.
struct Bases {
    rust: String,
    postgres: String,
    minio: String,
    /// cargo-chef with its version, as the Dockerfile installs it.
    chef: String,
    /// Debian's release.
    release: String,
}

impl Bases {
    fn read(root: &Path) -> Result<Self> {
        let find = |path: &str, from: &str, until: &str| {
            let text = std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))?;
            let rest = text.split_once(from).with_context(|| format!("{path} has no {from:?}"))?.1;
            let value = rest.split(until).next().unwrap_or_default().lines().next().unwrap_or_default();
            anyhow::Ok(value.trim().to_owned())
        };
        let rust = format!("rust:{}", find("deploy/Dockerfile", "FROM rust:", " ")?);
        let release = rust.rsplit('-').next().unwrap_or_default().to_owned();
        Ok(Self {
            rust,
            release,
            postgres: format!("postgres:{}", find("deploy/postgres/Dockerfile", "FROM postgres:", "\n")?),
            minio: find("docker-compose.yml", "image: minio", "\n").map(|rest| format!("minio{rest}"))?,
            chef: format!("cargo-chef@{}", find("deploy/Dockerfile", "cargo-chef@", "\n")?),
        })
    }
}

/// What `jobs/postgres` is made of.
pub(super) fn postgres_base(root: &Path) -> Result<String> {
    Bases::read(root).map(|bases| bases.postgres)
}

/// Every base image is there afterwards.
pub(super) async fn ensure(root: &Path) -> Result<()> {
    let bases = Bases::read(root)?;
    let made_of = fingerprint(root, &bases)?;
    for image in [&bases.rust, &bases.postgres, &bases.minio] {
        let label = format!("{{{{index .Config.Labels {LABEL:?}}}}}");
        match docker(&["image", "inspect", "--format", &label, image]).await {
            // The crates in it must be those of the lock file.
            Ok(label) if label.trim() == made_of => println!("    {image}: STAND-IN, made before"),
            Ok(label) if label.trim().is_empty() || label.trim() == "<no value>" => println!("    {image}: there"),
            _ if docker(&["pull", "--quiet", image]).await.is_ok() => println!("    {image}: pulled"),
            _ => make(root, &bases, image, &made_of)
                .await
                .with_context(|| format!("{image} cannot be pulled, and no stand-in can be made"))?,
        }
    }
    Ok(())
}

/// Of all that goes into a stand-in: another lock file wants other crates.
fn fingerprint(root: &Path, bases: &Bases) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    std::fs::read(root.join("Cargo.lock")).context("cannot read Cargo.lock")?.hash(&mut hasher);
    (&bases.rust, &bases.chef, PACKAGES, POSTGRES_ENTRYPOINT, MINIO_PLACEHOLDER).hash(&mut hasher);
    Ok(format!("{:x}", hasher.finish()))
}

async fn make(root: &Path, bases: &Bases, image: &str, made_of: &str) -> Result<()> {
    let work = env::target_dir().join("compose-test");
    let debian = debian(&work, &bases.release).await?;
    let mut import = Import::of(&debian);
    import.changes.push(format!("LABEL {LABEL}={made_of}"));
    let what = if image == bases.rust {
        rust(root, bases, &work, &mut import).await?;
        "Debian with this machine's Rust and the crates of Cargo.lock".to_owned()
    } else if image == bases.postgres {
        format!("Debian's PostgreSQL {}, with an entrypoint of ours", postgres(&work, &debian, &mut import)?)
    } else {
        import.script(&work, "placeholder", MINIO_PLACEHOLDER)?;
        import.changes.push("ENTRYPOINT [\"/usr/local/bin/placeholder\"]".to_owned());
        "a PLACEHOLDER that does nothing".to_owned()
    };
    import.run(image).await?;
    println!("    {image}: STAND-IN, since it cannot be pulled here: {what}");
    Ok(())
}

/// A minimal Debian with the packages that the stand-ins need.
async fn debian(work: &Path, release: &str) -> Result<PathBuf> {
    let directory = work.join(format!("debian-{release}"));
    if directory.join("usr/bin/gcc").exists() {
        return Ok(directory);
    }
    let debootstrap = setup::debootstrap().await?;
    // One that was cut off is begun anew.
    let half = work.join("debian.half");
    let _ = std::fs::remove_dir_all(&half);
    std::fs::create_dir_all(work).with_context(|| format!("cannot make {}", work.display()))?;
    println!("    debootstrap {release}: a few minutes");
    let mut command = Command::new(debootstrap);
    command.args(["--variant=minbase", PACKAGES, release]).arg(&half).stdout(Stdio::null());
    output_of(command).await?;
    std::fs::rename(&half, &directory)?;
    Ok(directory)
}

/// This machine's compiler, and what cargo needs to build without a network.
async fn rust(root: &Path, bases: &Bases, work: &Path, import: &mut Import) -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "sysroot"]).current_dir(root);
    let sysroot = PathBuf::from(output_of(rustc).await?.trim());
    let (parent, name) = (sysroot.parent(), sysroot.file_name());
    let (parent, name) = parent.zip(name).context("rustc has no sysroot")?;
    let name = name.to_string_lossy();
    // bin and lib: documentation is most of the rest.
    import.add(parent, &[&format!("{name}/bin"), &format!("{name}/lib")], &name, "usr/local/rust");
    fetch(root, work, &bases.chef).await?;
    import.add(work, &["cargo"], "cargo", "usr/local/cargo");
    import
        .changes
        .push("ENV PATH=/usr/local/cargo/bin:/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    import.changes.push("ENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true".to_owned());
    Ok(())
}

/// Fetches the crates of the workspace and of cargo-chef as this machine's cargo is configured to.
async fn fetch(root: &Path, work: &Path, chef: &str) -> Result<()> {
    let home = work.join("cargo");
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    // A registry of one's own, where there is one; its credentials stay where they are.
    let own =
        env::var("CARGO_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(env::var("HOME")?).join(".cargo")));
    if let Some(own) = own
        && own.join("config.toml").is_file()
    {
        std::fs::copy(own.join("config.toml"), home.join("config.toml"))
            .context("cannot copy cargo's configuration")?;
    }
    let cargo = |arguments: &[&str], directory: &Path| {
        let mut command = Command::new(cargo_program());
        command.args(arguments).current_dir(directory).env("CARGO_HOME", &home);
        output_of(command)
    };
    cargo(&["fetch", "--locked", "--quiet"], root).await?;
    // Outside of any workspace: it downloads the crate to tell of it.
    cargo(&["info", "--quiet", chef], Path::new("/")).await?;
    let sources = home.join("registry/src");
    let directory = chef.replace('@', "-");
    let registries = std::fs::read_dir(&sources).with_context(|| format!("cannot read {}", sources.display()))?;
    let mut places = registries.filter_map(|entry| Some(entry.ok()?.path().join(&directory)));
    let chef = places.find(|place| place.is_dir()).with_context(|| format!("{chef} was not downloaded"))?;
    cargo(&["fetch", "--locked", "--quiet"], &chef).await?;
    // Unpacked again where they are compiled.
    std::fs::remove_dir_all(&sources)?;
    // What is in the image from here on: which registry the crates are of, and nothing that lets anybody in.
    let config = home.join("config.toml");
    if config.is_file() {
        let kept = sources_of(&std::fs::read_to_string(&config)?)?;
        std::fs::write(&config, kept)?;
    }
    Ok(())
}

/// Of a cargo configuration what a build without a network needs: where crates come from, by which their directory is
/// named. Tokens, proxies and everything else are left out.
fn sources_of(config: &str) -> Result<String> {
    let mut kept = String::new();
    let mut section = String::new();
    for line in config.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            section = trimmed.trim_matches(['[', ']']).trim().to_owned();
            if section.starts_with("source") {
                kept.push_str(&format!("[{section}]\n"));
            }
            continue;
        }
        let key = trimmed.split('=').next().unwrap_or_default().trim();
        let full = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        let place = ["replace-with", "registry", "local-registry", "directory"].iter().any(|name| full.ends_with(name));
        if full.starts_with("source.") && place {
            kept.push_str(trimmed);
            kept.push('\n');
        }
    }
    if kept.lines().any(|line| line.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))) {
        bail!("cargo's configuration has a password in a URL, which would be in the image");
    }
    Ok(kept)
}

/// Debian's PostgreSQL with the official image's manners. Its major version.
fn postgres(work: &Path, debian: &Path, import: &mut Import) -> Result<String> {
    let versions = debian.join("usr/lib/postgresql");
    let mut majors = std::fs::read_dir(&versions)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let major = majors.next().context("debootstrap brought no PostgreSQL")?;
    import.script(work, "docker-entrypoint.sh", POSTGRES_ENTRYPOINT)?;
    // Empty, and of the user that the package made: a new volume takes that over.
    let data = debian.join("var/lib/postgresql/data");
    std::fs::create_dir_all(&data)?;
    let owner = std::fs::metadata(debian.join("var/lib/postgresql"))?;
    let (user, group) = (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
    std::os::unix::fs::chown(&data, Some(user), Some(group))?;
    // As in the official image: a tmpfs there takes the mode over, and not the owner.
    let sockets = debian.join("run/postgresql");
    std::fs::create_dir_all(&sockets)?;
    std::fs::set_permissions(&sockets, std::os::unix::fs::PermissionsExt::from_mode(0o3777))?;
    import.changes.extend([
        format!("ENV PG_MAJOR={major} PGDATA=/var/lib/postgresql/data LANG=C.UTF-8"),
        format!(
            "ENV PATH=/usr/lib/postgresql/{major}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        ),
        "VOLUME /var/lib/postgresql/data".to_owned(),
        "EXPOSE 5432".to_owned(),
        "ENTRYPOINT [\"/usr/local/bin/docker-entrypoint.sh\"]".to_owned(),
        "CMD [\"postgres\"]".to_owned(),
    ]);
    Ok(major)
}

/// One `tar | docker import`.
struct Import {
    tar: Vec<String>,
    changes: Vec<String>,
}

impl Import {
    /// Of a directory that becomes the root.
    fn of(root: &Path) -> Self {
        let root = root.display();
        Self { tar: vec!["-C".to_owned(), root.to_string(), ".".to_owned()], changes: Vec::new() }
    }

    /// Adds what is below `directory`, with the first part of its names replaced. Docker takes no path twice, so a
    /// directory must not be there already.
    fn add(&mut self, directory: &Path, names: &[&str], from: &str, to: &str) {
        self.tar.insert(0, format!("--transform=s,^{from}/,{to}/,"));
        self.tar.extend(["-C".to_owned(), directory.display().to_string()]);
        self.tar.extend(names.iter().map(|name| (*name).to_owned()));
    }

    /// Adds a program.
    fn script(&mut self, work: &Path, name: &str, text: &str) -> Result<()> {
        let directory = work.join("scripts");
        std::fs::create_dir_all(&directory)?;
        let path = directory.join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        self.add(work, &[&format!("scripts/{name}")], "scripts", "usr/local/bin");
        Ok(())
    }

    async fn run(self, image: &str) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.arg("--create").args(&self.tar).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut tar = tar.spawn().context("cannot run tar")?;
        let stream: Stdio = tar.stdout.take().context("tar has no output")?.try_into()?;
        let mut import = Command::new("docker");
        import.arg("import");
        for change in &self.changes {
            import.args(["--change", change]);
        }
        import.args(["-", image]).stdin(stream);
        output_of(import).await?;
        let status = tar.wait().await?;
        if !status.success() {
            bail!("tar failed ({status})");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::sources_of;

    #[test]
    fn only_where_crates_come_from_is_kept_of_a_configuration() {
        let config = "[net]\nretry = 3\n[source.crates-io]\nreplace-with = 'mirror' # here\n[source.mirror]\n\
                      registry = \"sparse+https://example.com/\"\n[registries.mirror]\nindex = \"sparse+https://example.com/\"\n\
                      token = \"abc\"\n[registry]\ntoken = 'def'\n[http]\nproxy = 'user:ghi@proxy'\n";
        let kept = "[source.crates-io]\nreplace-with = 'mirror' # here\n[source.mirror]\n\
                    registry = \"sparse+https://example.com/\"\n";
        assert_eq!(sources_of(config).unwrap(), kept);
        assert!(sources_of("[source.a]\nregistry = 'https://me:secret@example.com/'\n").is_err());
        assert_eq!(
            sources_of("source.crates-io.replace-with = 'a'\nregistry.token = 'b'\n").unwrap(),
            "source.crates-io.replace-with = 'a'\n"
        );
    }
}
