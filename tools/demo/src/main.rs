//! `cargo xtask demo`: the whole system as real processes on a real PostgreSQL, three jobs and a schedule from enqueue
//! to done.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

mod database;
mod enqueue;
mod report;
mod stack;
mod tracked_jobs;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use job_testkit::Cluster;
use job_testkit::env;
use job_utils::shutdown::Shutdown;
use toolkit::reaper::Reaper;
use toolkit::setup;

use database::Database;
use enqueue::Psql;
use stack::Stack;
use watch::Watch;

/// How long the three jobs, or the schedule's, may take. A healthy stack needs a second.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the whole system on a private PostgreSQL and shows three jobs and a schedule from enqueue to done
#[derive(Parser)]
#[command(bin_name = "cargo xtask demo")]
struct Options {
    /// Keep the stack up afterwards, until Ctrl-C
    #[arg(long)]
    stay: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    toolkit::exit_code(run(Options::parse()).await)
}

/// A signal stops the stack in order, so it does not end this future.
async fn run(Options { stay }: Options) -> Result<()> {
    let shutdown = Shutdown::on_signals()?;
    let bin = setup::postgres().await?;
    println!("PostgreSQL: {}", bin.display());
    let database = Database::prepare(bin).await?;
    println!("database: {}", database.psql_line());
    let mut stack = None;
    let result = tokio::select! {
        result = show(&database, &mut stack, stay) => result,
        () = shutdown.triggered() => if stay { Ok(()) } else { Err(anyhow::anyhow!("interrupted")) },
    };
    if let Some(stack) = stack {
        stack.stop().await;
    }
    database.stop().await?;
    result
}

/// Everything between the first process and the last line. Processes go to `stack`, for the caller to stop.
async fn show(database: &Database, stack: &mut Option<Stack>, stay: bool) -> Result<()> {
    stack::run("job-service", "migrate", database).await?;
    stack::run("admin-server", "migrate", database).await?;
    let stack = stack.insert(Stack::start(database)?);
    let _reaper = Reaper::start(database.cluster().map(Cluster::pid_file).as_deref(), &stack.pids())?;
    stack.ready().await?;

    let psql = Psql::new(database).await?;
    let mut watch = Watch::start(database).await?;
    println!("\nthree jobs through psql:");
    let enqueued = psql.three_jobs();
    watch
        .until(stack, LIMIT, enqueued, |tracked_jobs, _| tracked_jobs.count_done(tracked_jobs::Origin::Enqueued) == 3)
        .await?;

    println!("\na schedule that fires every second, for 4 seconds:");
    let schedule = psql.schedule();
    let fired = watch.until(stack, LIMIT, schedule, |tracked_jobs, _| tracked_jobs.schedule_is_over());
    let schedule = fired.await?;
    watch.remove_schedule(schedule).await?;

    let mails = stack.mails();
    println!("\n{}", report::table(watch.tracked_jobs(), &mails));
    report::verify(watch.tracked_jobs(), &mails)?;
    println!("all done");
    if stay {
        println!("\n{}\n\nCtrl-C stops the stack.", stack.invitation(database));
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Where the demo keeps its private cluster.
fn directory() -> PathBuf {
    env::target_dir().join("demo-postgres")
}

/// A wait's error names what was waited for.
fn late<T>(result: Result<T, job_testkit::wait::Wait>, what: &str) -> Result<T> {
    result.ok().with_context(|| format!("{what}: not within {LIMIT:?}"))
}
