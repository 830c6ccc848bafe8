//! The Dockerfiles: what two files have to say alike, and which targets there are.

use std::path::Path;

use anyhow::{Context, Result, bail};

const PROGRAMS: &str = "deploy/Dockerfile";
const POSTGRES: &str = "deploy/postgres/Dockerfile";
const FIRST: &str = "FROM rust:";
const LAST: &str = "# --- the end of the common stages";

pub(super) fn check(root: &Path) -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"));
    let (programs, postgres, toolchain) = (read(PROGRAMS)?, read(POSTGRES)?, read("rust-toolchain.toml")?);
    let problems = problems(&programs, &postgres, &toolchain);
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// Every image that the Dockerfiles make.
pub(super) fn targets(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join(PROGRAMS)).with_context(|| format!("cannot read {PROGRAMS}"))?;
    let made = stages(&text).into_iter().filter(|(_, base)| *base == "base").map(|(name, _)| name);
    Ok(made.chain(["postgres"]).map(|name| format!("jobs/{name}")).collect())
}

/// The stages as (name, base), in order.
fn stages(dockerfile: &str) -> Vec<(&str, &str)> {
    let words = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM "));
    words.filter_map(|line| line.split_once(" AS ")).map(|(base, name)| (name, base)).collect()
}

fn problems(programs: &str, postgres: &str, toolchain: &str) -> Vec<String> {
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
    let listed = programs.lines().find_map(|line| line.strip_prefix("ENV PROGRAMS=\"")?.strip_suffix('"'));
    let mut listed: Vec<&str> = listed.unwrap_or_default().split(' ').collect();
    let mut targets: Vec<&str> =
        stages(programs).into_iter().filter(|(_, base)| *base == "base").map(|(name, _)| name).collect();
    listed.sort_unstable();
    targets.sort_unstable();
    if listed != targets {
        problems.push(format!("{PROGRAMS}: PROGRAMS is {listed:?}, the targets are {targets:?}"));
    }
    for target in targets {
        let rest = programs.split_once(&format!("FROM base AS {target}\n")).map_or("", |(_, rest)| rest);
        let stage = rest.split("\nFROM ").next().unwrap_or_default();
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

    const COMMON: &str = "FROM rust:1.2.3-bookworm AS chef\nENV PROGRAMS=\"one\"\n# --- the end of the common stages\n";
    const TARGET: &str = "FROM base AS one\nLABEL org.opencontainers.image.title=\"one\"\n\
                          HEALTHCHECK CMD [\"/usr/local/bin/one\", \"health\"]\nENTRYPOINT [\"/usr/local/bin/one\"]\n";

    #[test]
    fn what_differs_or_lacks_is_told() {
        let programs = format!("{COMMON}{TARGET}");
        let postgres = format!("# Other words before.\n{COMMON}FROM postgres:16\n");
        let toolchain = "[toolchain]\nchannel = \"1.2.3\"\n";
        assert_eq!(problems(&programs, &postgres, toolchain), Vec::<String>::new());
        assert_eq!(stages(&programs), [("chef", "rust:1.2.3-bookworm"), ("one", "base")]);

        let told = |programs: &str, postgres: &str, toolchain: &str| problems(programs, postgres, toolchain).join("\n");
        assert!(told(&programs, &postgres.replace("one", "two"), toolchain).contains("differ"));
        assert!(told(&programs, "", toolchain).contains("has no"));
        assert!(told(&programs, &postgres, "channel = \"1.2.4\"").contains("another compiler"));
        let second = format!("{programs}FROM base AS two\n");
        let told = told(&second, &postgres, toolchain);
        assert!(told.contains("the targets are") && told.contains("two lacks CMD"), "{told}");
    }
}
