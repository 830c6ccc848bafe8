//! The Dockerfiles: what two files have to say alike, which targets there are, and whether what they copy is a
//! workspace.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::context;
use toolkit::steps::{cargo_program, output_of};

const PROGRAMS: &str = "deploy/Dockerfile";
const POSTGRES: &str = "deploy/postgres/Dockerfile";
const FIRST: &str = "FROM rust:";
const LAST: &str = "# --- the end of the common stages";

pub(super) fn check(root: &Path) -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"));
    let (programs, postgres) = (read(PROGRAMS)?, read(POSTGRES)?);
    let problems = problems(&programs, &postgres, &read("rust-toolchain.toml")?, &read("Cargo.toml")?);
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// What is copied into the build is a workspace, and has every program: cargo reads it, as it will there.
pub(super) async fn copied(root: &Path) -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"));
    let (programs, ignored) = (read(PROGRAMS)?, read(".dockerignore")?);
    let copy = tempfile::tempdir()?;
    for source in copies(stage(&programs, "plan")) {
        context::copy(root, source, &context::patterns(&ignored), copy.path())?;
    }
    let mut cargo = tokio::process::Command::new(cargo_program());
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(copy.path());
    let metadata = output_of(cargo).await.with_context(|| format!("what {PROGRAMS} copies is no workspace"))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages: Vec<&str> =
        metadata["packages"].as_array().into_iter().flatten().filter_map(|package| package["name"].as_str()).collect();
    let missing: Vec<&str> = listed(&programs).into_iter().filter(|program| !packages.contains(program)).collect();
    if !missing.is_empty() {
        bail!("{PROGRAMS} does not copy {}", missing.join(", "));
    }
    for manifest in metadata["packages"].as_array().into_iter().flatten().filter_map(|it| it["manifest_path"].as_str())
    {
        let text = std::fs::read_to_string(manifest).with_context(|| format!("cannot read {manifest}"))?;
        if !tests_have_paths(&text) {
            bail!(
                "{manifest}: a [[test]] without a path, which `cargo chef cook` looks for in tests/, where .dockerignore leaves nothing"
            );
        }
    }
    Ok(())
}

/// Whether each [[test]] of a manifest says where it is. `cargo metadata` does not ask.
fn tests_have_paths(manifest: &str) -> bool {
    let sections = manifest.split("[[test]]").skip(1).map(|rest| rest.split("\n[").next().unwrap_or_default());
    sections.into_iter().all(|section| section.lines().any(|line| line.starts_with("path = ")))
}

/// Every image that the Dockerfiles make.
pub(super) fn targets(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join(PROGRAMS)).with_context(|| format!("cannot read {PROGRAMS}"))?;
    Ok(programs(&text).into_iter().chain(["postgres"]).map(|name| format!("jobs/{name}")).collect())
}

/// The targets of a Dockerfile that are programs of ours.
pub fn programs(dockerfile: &str) -> Vec<&str> {
    stages(dockerfile).into_iter().filter(|(_, base)| *base == "base").map(|(name, _)| name).collect()
}

/// What PROGRAMS names.
fn listed(dockerfile: &str) -> Vec<&str> {
    let listed = dockerfile.lines().find_map(|line| line.strip_prefix("ENV PROGRAMS=\"")?.strip_suffix('"'));
    listed.unwrap_or_default().split(' ').collect()
}

/// The lines of a stage after its FROM.
fn stage<'a>(dockerfile: &'a str, name: &str) -> &'a str {
    let rest = dockerfile.split_once(&format!(" AS {name}\n")).map_or("", |(_, rest)| rest);
    rest.split("\nFROM ").next().unwrap_or_default()
}

/// What a stage copies from the context, without where to.
fn copies(stage: &str) -> Vec<&str> {
    let lines = stage.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|rest| !rest.starts_with("--from"));
    let sources = lines.filter_map(|rest| rest.rsplit_once(' ')).map(|(sources, _)| sources);
    sources.flat_map(|sources| sources.split(' ')).collect()
}

/// The directories at the top that Cargo.toml's members are in.
fn members(manifest: &str) -> Vec<&str> {
    let list = manifest.lines().find_map(|line| line.strip_prefix("members = [")?.strip_suffix(']'));
    let members = list.unwrap_or_default().split(',').map(|member| member.trim().trim_matches('"'));
    members.filter_map(|member| member.split('/').next()).filter(|member| !member.is_empty()).collect()
}

/// The crates that a plain `cargo build` builds.
fn default_members(manifest: &str) -> Vec<&str> {
    let list = manifest.split_once("\ndefault-members = [").and_then(|(_, rest)| rest.split_once(']'));
    let members = list.map_or("", |(list, _)| list).split(',').map(|member| member.trim().trim_matches('"'));
    members.filter_map(|member| member.strip_prefix("crates/")).collect()
}

/// The stages as (name, base), in order.
fn stages(dockerfile: &str) -> Vec<(&str, &str)> {
    let words = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM "));
    words.filter_map(|line| line.split_once(" AS ")).map(|(base, name)| (name, base)).collect()
}

fn problems(programs: &str, postgres: &str, toolchain: &str, manifest: &str) -> Vec<String> {
    let mut problems = Vec::new();
    match (common(programs), common(postgres)) {
        (Some(one), Some(other)) if one == other => {}
        (Some(_), Some(_)) => problems.push(format!(
            "{PROGRAMS} and {POSTGRES} differ before {LAST:?}: the second image would be built from scratch"
        )),
        _ => problems.push(format!("{PROGRAMS} or {POSTGRES} has no {FIRST:?} … {LAST:?}")),
    }
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'));
    let channel = channel.unwrap_or("?");
    if !programs.contains(&format!("{FIRST}{channel}-")) {
        problems.push(format!("{PROGRAMS} builds with another compiler than rust-toolchain.toml ({channel})"));
    }
    let members = members(manifest);
    if members.is_empty() {
        problems
            .push("Cargo.toml has no line `members = […]`: this check does not see what the build needs".to_owned());
    }
    for name in ["plan", "build"] {
        let copied = copies(stage(programs, name));
        for member in members.iter().filter(|member| !copied.contains(*member)) {
            problems.push(format!("{PROGRAMS}: the stage {name} does not copy {member}, a member of the workspace"));
        }
    }
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"')).unwrap_or("?");
    if !programs.contains(&format!("ARG VERSION={version}\n")) {
        problems.push(format!("{PROGRAMS} labels its images with another version than Cargo.toml's ({version})"));
    }
    let mut listed = listed(programs);
    let mut targets = self::programs(programs);
    listed.sort_unstable();
    targets.sort_unstable();
    if listed != targets {
        problems.push(format!("{PROGRAMS}: PROGRAMS is {listed:?}, the targets are {targets:?}"));
    }
    let mut default = default_members(manifest);
    default.sort_unstable();
    if listed != default {
        problems.push(format!("{PROGRAMS}: PROGRAMS is {listed:?}, Cargo.toml's default-members are {default:?}"));
    }
    for target in targets {
        let stage = stage(programs, target);
        for wanted in [
            format!("CMD [\"/usr/local/bin/{target}\", \"health\"]"),
            format!("ENTRYPOINT [\"/usr/local/bin/{target}\"]"),
            format!("org.opencontainers.image.title=\"{target}\""),
        ] {
            if !stage.contains(&wanted) {
                problems.push(format!("{PROGRAMS}: the target {target} lacks {wanted}"));
            }
        }
    }
    problems
}

fn common(dockerfile: &str) -> Option<&str> {
    let start = dockerfile.find(FIRST)?;
    let end = dockerfile.find(LAST)?;
    dockerfile.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: &str = "FROM rust:1.2.3-bookworm AS chef\nENV PROGRAMS=\"one\"\nFROM chef AS plan\nCOPY Cargo.toml Cargo.lock ./\n\
                          COPY crates crates\nCOPY tools tools\nFROM chef AS build\nCOPY --from=plan /recipe /recipe\n\
                          COPY crates crates\nCOPY tools tools\n# --- the end of the common stages\n";
    const TARGET: &str = "FROM scratch AS base\nARG VERSION=0.2.0\nFROM base AS one\nLABEL org.opencontainers.image.title=\"one\"\n\
                          HEALTHCHECK CMD [\"/usr/local/bin/one\", \"health\"]\nENTRYPOINT [\"/usr/local/bin/one\"]\n";
    const TOOLCHAIN: &str = "[toolchain]\nchannel = \"1.2.3\"\n";
    const MANIFEST: &str = "[workspace]\nmembers = [\"crates/*\", \"tools\"]\ndefault-members = [\n    \"crates/one\",\n]\n\
                            version = \"0.2.0\"\n";

    #[test]
    fn what_differs_or_lacks_is_told() {
        let programs = format!("{COMMON}{TARGET}");
        let postgres = format!("# Other words before.\n{COMMON}FROM postgres:16\n");
        assert_eq!(problems(&programs, &postgres, TOOLCHAIN, MANIFEST), Vec::<String>::new());
        assert_eq!(stages(&programs).first(), Some(&("chef", "rust:1.2.3-bookworm")));
        assert_eq!(super::programs(&programs), ["one"]);

        let told = |programs: &str, postgres: &str, toolchain: &str| {
            problems(programs, postgres, toolchain, MANIFEST).join("\n")
        };
        assert!(told(&programs, &postgres.replace("one", "two"), TOOLCHAIN).contains("differ"));
        assert!(told(&programs, "", TOOLCHAIN).contains("has no"));
        assert!(told(&programs, &postgres, "channel = \"1.2.4\"").contains("another compiler"));
        let second = format!("{programs}FROM base AS two\n");
        let told = told(&second, &postgres, TOOLCHAIN);
        assert!(told.contains("the targets are") && told.contains("two lacks CMD"), "{told}");
        let more = problems(&programs, &postgres, TOOLCHAIN, &MANIFEST.replace("one", "other")).concat();
        assert!(more.contains("PROGRAMS is [\"one\"], Cargo.toml's default-members are [\"other\"]"), "{more}");
    }

    #[test]
    fn a_member_that_is_not_copied_is_told() {
        let programs = format!("{COMMON}{TARGET}");
        let told = |manifest: &str| problems(&programs, COMMON, TOOLCHAIN, manifest);
        assert_eq!(told(MANIFEST), Vec::<String>::new());
        let more = told(&MANIFEST.replace("\"tools\"", "\"examples\", \"tools\""));
        let expected = ["plan", "build"]
            .map(|stage| format!("{PROGRAMS}: the stage {stage} does not copy examples, a member of the workspace"));
        assert_eq!(more, expected);
        assert!(told("members = [").concat().contains("this check does not see"));
        assert!(
            told(&MANIFEST.replace("0.2.0", "0.2.1")).concat().contains("another version than Cargo.toml's (0.2.1)")
        );
    }

    #[test]
    fn a_test_says_where_it_is() {
        let manifest = "[package]\nname = \"x\"\n\n[[test]]\nname = \"it\"\npath = \"tests/it.rs\"\n\n[[test]]\nname = \"other\"\n";
        assert!(tests_have_paths(&manifest.replace("\n\n[[test]]\nname = \"other\"\n", "")));
        assert!(!tests_have_paths(manifest));
    }
}
