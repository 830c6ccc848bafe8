//! `cargo xtask ci`: the slower checks. A workspace build unifies features and hides a trespass, so each crate is built
//! alone.

use anyhow::{Result, bail};
use clap::Args;

use toolkit::steps::{Steps, cargo, cargo_output};

use crate::tidy::workspace::Workspace;
use crate::tools::{CHAOS, DEPLOY_CHECK, RULES, USAGE};

/// What a crate must not link, with these arguments for its features: a function no database client, an application
/// neither what only a program needs nor what it has no use for.
const NOT_LINKED: &[(&str, &str, &[&str])] = &[
    ("mailer", "", &["tokio-postgres", "clap", "tracing-subscriber"]),
    ("send-email", "", &["tokio-postgres"]),
    ("send-verification-link", "", &["tokio-postgres"]),
    ("job-utils", "", &["tokio-postgres", "axum", "clap", "tracing-subscriber"]),
    ("job-pg", "--no-default-features", &["rustls"]),
    ("job-pg", "", &["axum", "hyper", "clap", "tracing-subscriber"]),
    ("job-fn", "", &["tokio-postgres", "clap"]),
    ("job-fn", "--no-default-features", &["tokio-postgres", "clap", "tracing-subscriber"]),
    ("job-worker", "--no-default-features", &["axum", "hyper", "clap", "tracing-subscriber", "rustls"]),
    ("job-worker", "--no-default-features --features dispatch", &["axum", "clap", "tracing-subscriber"]),
    ("job-server", "--no-default-features", &["clap", "tracing-subscriber"]),
    ("job-scheduler", "--no-default-features", &["axum", "hyper", "clap", "tracing-subscriber"]),
    ("job-service", "--no-default-features", &["clap", "tracing-subscriber"]),
];

/// Builds that the workspace's and those by name leave out.
const WITH_OTHER_FEATURES: &[&str] = &[
    "job-pg --no-default-features",
    "job-utils --features http-server",
    "job-utils --features service",
    "job-fn --no-default-features",
    "job-worker --no-default-features",
    "job-worker --no-default-features --features dispatch",
    "job-server --no-default-features",
    "job-scheduler --no-default-features",
    "job-service --no-default-features",
    "job-service --no-default-features --features cron",
];

/// The programs of bench/ that are ours: they are in a workspace of their own, which no other check builds.
const BENCH: &[&str] = &[
    "check",
    "--quiet",
    "--locked",
    "--manifest-path",
    "bench/Cargo.toml",
    "--target-dir",
    "target",
    "-p",
    "ours",
    "-p",
    "limits",
    "-p",
    "function",
    "--all-targets",
];

/// One plan for every change; `cargo xtask chaos` takes others.
const SOME_CHAOS: &[&str] = &["--seed", "20", "--seconds", "20", "--jobs", "1500"];

/// Some schedules for every change; `cargo xtask rules` takes others, and more.
const SOME_RULES: &[&str] = &["--small", "--seed", "4", "--or-skip"];

/// What may be left out.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave out, visibly, what `deploy-check --offline` leaves out
    #[arg(long)]
    offline: bool,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let mut steps = Steps::new("cargo xtask ci");
    let workspace = Workspace::load()?;
    let alone = workspace.crates.iter().filter(|(_, one)| !one.directory.starts_with("tools/"));
    for name in alone.map(|(name, _)| name) {
        steps.cargo(&format!("{name} alone"), &["check", "--quiet", "-p", name]).await?;
    }
    for build in WITH_OTHER_FEATURES {
        let arguments: Vec<&str> = ["check", "--quiet", "-p"].into_iter().chain(build.split(' ')).collect();
        steps.cargo(build, &arguments).await?;
    }
    // What they share with our workspace is not checked again.
    let shared = [("CARGO_PROFILE_DEV_DEBUG", "line-tables-only".to_owned())];
    steps.step("programs that bench measures", cargo(BENCH, &shared)).await?;
    let without_tls = ["test", "--quiet", "-p", "job-pg", "--no-default-features", "--lib", "connection::plain"];
    steps.cargo("job-pg without TLS", &without_tls).await?;
    steps.step("nothing is linked that is of no use", not_linked()).await?;
    steps.cargo("build", &["build", "--workspace", "--all-targets", "--quiet"]).await?;
    steps.step("what users do", USAGE.run(&["all"])).await?;
    let doc = &["doc", "--workspace", "--no-deps", "--quiet"];
    steps.step("documentation", cargo(doc, &[("RUSTDOCFLAGS", "-D warnings".to_owned())])).await?;
    if cargo_output(&["--list"]).await?.lines().any(|line| line.trim_start().starts_with("deny")) {
        steps.cargo("licences and advisories", &["deny", "--workspace", "check"]).await?;
    } else {
        steps.skip("licences and advisories", "cargo-deny is not installed");
    }
    let offline: &[&str] = if options.offline { &["--offline"] } else { &[] };
    steps.step("deploy-check", DEPLOY_CHECK.run(offline)).await?;
    steps.step("schedules beside croniter and cron-parser", RULES.run(SOME_RULES)).await?;
    steps.step("chaos, 20 s of it", CHAOS.run(SOME_CHAOS)).await?;
    steps.finish();
    Ok(())
}

async fn not_linked() -> Result<()> {
    for (name, features, crates) in NOT_LINKED {
        let mut arguments = vec!["tree", "--quiet", "-p", *name, "-e", "normal", "--prefix", "none"];
        arguments.extend(features.split_whitespace());
        let tree = cargo_output(&arguments).await?;
        if !tree.lines().next().is_some_and(|line| line.starts_with(name)) {
            bail!("`cargo {}` does not begin with {name}: this check sees nothing", arguments.join(" "));
        }
        let is_unwanted = |line: &&str| crates.iter().any(|name| line.split(' ').next() == Some(name));
        if let Some(line) = tree.lines().find(is_unwanted) {
            let unwanted = line.split(' ').next().unwrap_or_default();
            bail!("{name} {features} links {line}; see `cargo tree -p {name} {features} -e normal -i {unwanted}`");
        }
    }
    Ok(())
}
