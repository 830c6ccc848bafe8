//! Producers that add to a queue while a worker works on it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use deadpool_postgres::Object;
use job_pg::{IsolationLevel, NewJob, enqueue, is_conflict};
use rivalkit::{Args, Span};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Tally, Timed, add, connection, stop, tidy, workers};

/// The command's flags.
pub const FLAGS: &[&str] = &["clients", "isolation", "queue", "seconds"];

/// The queue that is busy, whoever adds to it.
const QUEUE: &str = "busy";
/// Its jobs: more than are done in the time, and each as long as a quick function.
const BACKLOG: u64 = 20_000;
const JOB: Timed = Timed { ms: 2 };

/// `--clients` for `--seconds`, each transaction with a look at the database and one job, in the queue that a worker is
/// at work on (`--queue busy`), or in none (`--queue none`) beside it.
///
/// # Errors
/// What the database or the worker said, other than that transactions stand in each other's way.
pub async fn measure(args: &Args) -> Result<Value> {
    let url = args.required("url")?;
    let level = match args.required("isolation")? {
        "read-committed" => IsolationLevel::ReadCommitted,
        "repeatable-read" => IsolationLevel::RepeatableRead,
        "serializable" => IsolationLevel::Serializable,
        other => bail!("--isolation {other}"),
    };
    let queue = (args.required("queue")? == QUEUE).then_some(QUEUE);
    let client = connection(url).await?;
    add(&client, BACKLOG, |_| NewJob::of(&JOB).queue(QUEUE)).await?;
    tidy(&client).await?;
    let mut producers = Vec::new();
    for _ in 0..args.number("clients", None)? {
        producers.push(connection(url).await?);
    }
    let tally = Arc::new(Tally::default());
    let worker = workers(url, 1, &tally)?;
    tally.begun(10).await?;

    let end = Instant::now() + Duration::from_secs(args.number("seconds", None)?);
    let (span, before) = (Span::begin(), tally.finished());
    let mut tasks = JoinSet::new();
    for mut producer in producers {
        tasks.spawn(async move {
            let (mut added, mut refused) = (0_u64, 0_u64);
            while Instant::now() < end {
                match add_one(&mut producer, level, queue).await {
                    Ok(()) => added += 1,
                    Err(error) if error.chain().any(is_conflict) => refused += 1,
                    Err(error) => return Err(error),
                }
            }
            Ok((added, refused))
        });
    }
    let (mut added, mut refused) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        let one = done??;
        (added, refused) = (added + one.0, refused + one.1);
    }
    let (seconds, _) = span.end();
    let finished = tally.finished() - before;
    stop(worker).await?;
    Ok(json!({
        "jobs": added,
        "per_s": added as f64 / seconds,
        "committed_percent": 100.0 * added as f64 / (added + refused) as f64,
        "done_per_s": finished as f64 / seconds,
    }))
}

async fn add_one(producer: &mut Object, level: IsolationLevel, queue: Option<&str>) -> Result<()> {
    let transaction = producer.build_transaction().isolation_level(level).start().await?;
    // Whatever else it does: from here on its snapshot is fixed.
    transaction.batch_execute("SELECT 1").await?;
    let job = NewJob::of(&JOB);
    enqueue(&transaction, if let Some(queue) = queue { job.queue(queue) } else { job }).await?;
    Ok(transaction.commit().await?)
}
