//! `cargo xtask bench`: this project beside the limits of the machine and, with `--peers`, beside other job libraries;
//! writes docs/benchmarks.md.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

mod bars;
mod gates;
mod http;
mod machine;
mod meter;
mod plan;
mod program;
mod report;
mod results;
mod run;
mod schedules;
mod server;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use job_testkit::env;

use plan::{Group, Scale, plan};
use program::Programs;
use report::Report;
use run::Runner;
use server::Server;
use toolkit::setup;

/// Measures against the limits of this machine and other job libraries, and writes docs/benchmarks.md
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Options {
    /// One round with small numbers, within 7 minutes; the report goes to target/
    #[arg(long)]
    quick: bool,
    /// Other job libraries too: the programs in bench/, as far as they can be built here
    #[arg(long)]
    peers: bool,
    /// Only scenarios whose name begins so, between commas; the report goes to target/
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these programs: limits, ours, or a rival by the name of its directory; the report goes to target/
    #[arg(long, value_delimiter = ',')]
    programs: Vec<String>,
    /// Name the scenarios and end
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    toolkit::main(run(Options::parse())).await
}

async fn run(options: Options) -> Result<()> {
    let scale = Scale::new(options.quick);
    let groups = select(plan(&scale), &options.only)?;
    if options.list {
        for scenario in groups.iter().flat_map(|group| &group.scenarios) {
            println!("{:24} {}", scenario.name, scenario.title);
        }
        return Ok(());
    }
    setup::postgres().await?;
    let services: BTreeSet<_> =
        groups.iter().flat_map(|group| &group.scenarios).filter_map(|scenario| scenario.work.service()).collect();
    let programs = Programs::prepare(&services, options.peers, &options.programs).await?;
    // Two runs would measure each other, and the second would sweep away the first one's server.
    let lock = env::target_dir().join("bench.lock");
    let lock = File::create(&lock).with_context(|| format!("cannot open {}", lock.display()))?;
    lock.try_lock().ok().context("another `cargo xtask bench` is running")?;
    let server = Server::start().await?;
    println!("PostgreSQL {}: {}", server.version, server.settings);

    let start = Instant::now();
    let mut runner = Runner::new(&server, &programs, scale.budget);
    for group in &groups {
        runner.group(group).await?;
    }
    let report = Report {
        facts: machine::facts(&server, &programs).await,
        groups: &groups,
        results: &runner.results,
        programs: &programs,
        scale: &scale,
        minutes: start.elapsed().as_secs_f64() / 60.0,
    };
    write(&options, &report)?;
    drop(runner);
    server.stop().await
}

fn select(groups: Vec<Group>, only: &[String]) -> Result<Vec<Group>> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|prefix| name.starts_with(prefix.as_str()));
    let mut groups = groups;
    for group in &mut groups {
        group.scenarios.retain(|scenario| wanted(scenario.name));
    }
    groups.retain(|group| !group.scenarios.is_empty());
    if groups.is_empty() {
        bail!("no scenario is called so; `cargo xtask bench --list` names them");
    }
    Ok(groups)
}

/// Writes the report, and all samples beside the other things that cargo makes.
fn write(options: &Options, report: &Report<'_>) -> Result<()> {
    let whole = !options.quick && options.only.is_empty() && options.programs.is_empty();
    let target = env::target_dir();
    let document = match (whole, options.quick) {
        (true, _) => env::workspace_dir().join("docs").join("benchmarks.md"),
        (false, true) => target.join("bench-quick.md"),
        (false, false) => target.join("bench-part.md"),
    };
    let text = report.text();
    put(&document, &text)?;
    put(&target.join("bench-samples.json"), &format!("{:#}\n", report.results.to_json()))?;
    println!("\n{}\n{}", report.bars(), document.display());
    Ok(())
}

fn put(path: &PathBuf, text: &str) -> Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
