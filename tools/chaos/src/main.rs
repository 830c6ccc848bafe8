//! `cargo xtask chaos`: the real services under a seeded plan of faults, and a proof that every job is accounted for.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

mod change;
mod checker;
mod database;
mod deployment;
pub(crate) mod function;
mod history;
mod operations;
mod operator;
mod plan;
mod producer;
mod recorder;
mod report;
mod workload;

use std::fs::File;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use fastrand::Rng;
use job_testkit::env;
use job_testkit::wait::work_for;
use tokio::task::JoinSet;
use tokio::time::Instant;

use toolkit::setup;

use checker::{Evidence, Terms, Verdict, check};
use deployment::{Deployment, EXPIRY};
use history::History;
use operations::{Call, calls};
use operator::Operator;
use plan::{Fault, LEASE, plan};
use producer::Producers;
use report::Report;

/// How many enqueue at once.
const PRODUCERS: u64 = 3;

/// How long after the last fault every job has ended: failures in a row are tried again after ever longer times.
const PATIENCE: Duration = Duration::from_secs(240);
/// Between two looks whether they have.
const LOOK: Duration = Duration::from_millis(300);

/// How much longer than its lease a dead worker's job may wait.
const MARGIN: Duration = Duration::from_secs(10);

/// Runs the real services under a seeded plan of faults, and proves from what happened that every job is accounted for
#[derive(Parser)]
#[command(bin_name = "cargo xtask chaos", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Part {
    /// A function instance of a run
    #[command(hide = true)]
    Function(function::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { part, options } = Arguments::parse();
    match part {
        Some(Part::Function(instance)) => toolkit::main(function::run(instance)).await,
        None => toolkit::main(run(options)).await,
    }
}

/// Which run.
#[derive(Args, Clone)]
struct Options {
    /// Decides faults and jobs; a random one when it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults strike
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many jobs the producers enqueue meanwhile
    #[arg(long, default_value_t = 5000)]
    jobs: u64,
    /// Print the plan and end
    #[arg(long)]
    plan: bool,
}

async fn run(options: Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| Rng::new().u64(1..100_000));
    let length = Duration::from_secs(options.seconds);
    let faults = plan(seed, length);
    let calls = calls(seed, length);
    println!(
        "chaos: seed {seed}, {} s, {} jobs, {} faults, {} calls of operators",
        options.seconds,
        options.jobs,
        faults.len(),
        calls.len()
    );
    if options.plan {
        lines(&faults, &calls).iter().for_each(|line| println!("{line}"));
        return Ok(());
    }
    setup::postgres().await?;
    // Two runs would sweep away each other's server.
    let lock = env::target_dir().join("chaos.lock");
    let lock = File::create(&lock).with_context(|| format!("cannot open {}", lock.display()))?;
    lock.try_lock().ok().context("another `cargo xtask chaos` is running")?;

    let history = History::default();
    let mut deployment = Deployment::start(history.clone()).await?;
    let lived = live(&mut deployment, seed, &options, &faults, &calls, &history).await;
    if lived.is_err() {
        deployment.mend().await?;
    }
    let url = deployment.url();
    let evidence = Evidence {
        entries: history.entries(),
        changes: database::changes(&url).await?,
        gates: database::gate_changes(&url).await?,
        closing: database::closing_attempts(&url).await?,
        rows: database::rows(&url).await?,
    };
    let terms = Terms { lease: LEASE, expiry: EXPIRY, stuck: LEASE + MARGIN };
    let Verdict { violations, figures } = check(&evidence, &terms);
    let report =
        Report { seed, options: &options, faults: &faults, calls: &calls, evidence: &evidence, figures, violations };
    println!("{}", report.summary());
    if let Err(error) = &lived {
        println!("{error:#}");
    }
    if lived.is_err() || !report.violations.is_empty() {
        let directory = report.write(&deployment.logs())?;
        println!("{}\neverything is in {}", report.worst(), directory.display());
        bail!(
            "seed {seed}: the promise was broken: `cargo xtask chaos --seed {seed} --seconds {} --jobs {}`",
            options.seconds,
            options.jobs
        );
    }
    Ok(())
}

/// Faults and calls in the order of their time, for a person.
fn lines(faults: &[Fault], calls: &[Call]) -> Vec<String> {
    let faults = faults.iter().enumerate().map(|(number, fault)| (fault.at, format!("fault {number:3}: {fault}")));
    let calls = calls.iter().enumerate().map(|(number, call)| (call.at, format!("call  {number:3}: {call}")));
    let mut lines: Vec<_> = faults.chain(calls).collect();
    lines.sort_by_key(|(at, _)| *at);
    lines.into_iter().map(|(_, line)| line).collect()
}

/// From the first job to the last one's end.
async fn live(
    deployment: &mut Deployment,
    seed: u64,
    options: &Options,
    faults: &[Fault],
    calls: &[Call],
    history: &History,
) -> Result<()> {
    let url = deployment.url();
    database::add_schedules(&url, history).await?;
    let producers = Producers {
        seed,
        url: deployment.producers_url()?,
        jobs: options.jobs,
        span: Duration::from_secs(options.seconds).mul_f64(0.95),
        history: history.clone(),
    };
    let mut outside = JoinSet::new();
    for first in 0..PRODUCERS {
        outside.spawn(producers.clone().run(first, PRODUCERS));
    }
    let operator = Operator { url: url.clone(), calls: calls.to_vec(), history: history.clone() };
    outside.spawn(operator.run());
    strike(deployment, faults, Duration::from_secs(options.seconds)).await?;
    while let Some(ended) = outside.join_next().await {
        ended??;
    }
    database::remove_schedules(&url, history).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        deployment.check()?;
        let open = database::open_jobs(&url).await?;
        if open == 0 {
            break;
        }
        if Instant::now() > deadline {
            bail!("{open} jobs have not ended {PATIENCE:?} after the last fault");
        }
        work_for(LOOK).await;
    }
    deployment.stop_services().await
}

/// Lets every fault begin and end in its time. When one takes longer than planned, such as a stop that waits for
/// callbacks, all that follow are as much later: in a burst they would not be the plan any more.
async fn strike(deployment: &mut Deployment, faults: &[Fault], length: Duration) -> Result<()> {
    let start = Instant::now();
    let mut acts: Vec<(Duration, usize, bool)> = Vec::new();
    for (number, fault) in faults.iter().enumerate() {
        acts.push((fault.at, number, true));
        if !fault.lasts.is_zero() || fault.target == plan::Target::Postgres {
            acts.push((fault.at + fault.lasts, number, false));
        }
    }
    // An end before a beginning at the same time.
    acts.sort_by_key(|(at, number, begins)| (*at, *begins, *number));
    let mut late = Duration::ZERO;
    for (at, number, begins) in acts {
        work_for((at + late).saturating_sub(start.elapsed())).await;
        let fault = &faults[number];
        let act = if begins { deployment.begin(number, fault).await } else { deployment.end(number, fault).await };
        act.with_context(|| format!("fault {number} ({fault})"))?;
        if fault.kind == plan::Kind::Stop {
            late = late.max(start.elapsed().saturating_sub(at + plan::QUIET));
        }
    }
    work_for((length + late).saturating_sub(start.elapsed())).await;
    Ok(())
}
