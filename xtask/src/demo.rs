//! `cargo xtask demo`: the whole system as real processes on a real PostgreSQL, three jobs and a schedule from enqueue to
//! done.

mod database;
mod enqueue;
mod life;
mod report;
mod stack;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use job_testkit::env;
use job_utils::shutdown::Shutdown;

use crate::minder::Minder;
use crate::{setup, steps};
use database::Database;
use enqueue::Psql;
use stack::Stack;
use watch::Watch;

/// How long the three jobs, or the schedule's, may take. A healthy stack needs a second.
const LIMIT: Duration = Duration::from_secs(60);

/// What is started, with the crate of each. xtask is among them so that cargo unifies features as it did to build this
/// program, and compiles nothing twice.
const BUILD: &[&str] =
    &["build", "--bins", "-p", "xtask", "-p", "job-service", "-p", "admin-server", "-p", "send-verification-link"];

pub(crate) async fn run(stay: bool, shutdown: Shutdown) -> Result<()> {
    let bin = setup::postgres().await?;
    println!("PostgreSQL: {}", bin.display());
    tokio::select! {
        built = steps::cargo(BUILD, &[]) => built?,
        () = shutdown.triggered() => bail!("interrupted"),
    }
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
    let _minder = Minder::start(database.cluster(), &stack.pids())?;
    stack.ready().await?;

    let psql = Psql::new(database).await?;
    let mut watch = Watch::start(database).await?;
    println!("\nthree jobs through psql:");
    let enqueued = psql.three_jobs();
    watch.until(stack, LIMIT, enqueued, |lives, _| lives.count_done(life::Origin::Enqueued) == 3).await?;

    println!("\na schedule that fires every second, for 4 seconds:");
    let schedule = psql.schedule();
    let fired = watch.until(stack, LIMIT, schedule, |lives, _| lives.schedule_is_over());
    let schedule = fired.await?;
    watch.remove_schedule(schedule).await?;

    let mails = stack.mails();
    println!("\n{}", report::table(watch.lives(), &mails));
    report::verify(watch.lives(), &mails)?;
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
