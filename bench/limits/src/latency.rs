//! The least that the way of a single job can take: an INSERT with pg_notify, a connection that listens, and one claim
//! on another connection.

use std::future::poll_fn;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use rivalkit::{Args, percentile};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{AsyncMessage, NoTls};

use crate::{CLAIM, INSERT_NOTIFY, connect, payload};

/// Times `--jobs` rows, one after the other with 20 ms between: from the call that inserts a row until it is claimed.
///
/// # Errors
/// What the database said.
pub async fn one_by_one(args: &Args) -> Result<Value> {
    let url = args.required("url")?;
    let (producer, worker) = (connect(url).await?, connect(url).await?);
    let insert = producer.prepare(INSERT_NOTIFY).await?;
    let claim = worker.prepare(CLAIM).await?;
    let (listener, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    let (starts, mut started) = mpsc::unbounded_channel();
    let work = tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            let AsyncMessage::Notification(_) = message? else { continue };
            if !worker.query(&claim, &[&"off"]).await?.is_empty() {
                // Nobody receives any more at the end.
                let _ = starts.send(Instant::now());
            }
        }
        anyhow::Ok(())
    });
    listener.batch_execute("LISTEN \"jobs:insert\"").await?;

    let milliseconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
    let (mut total, mut after) = (Vec::new(), Vec::new());
    for job in 0..args.number("jobs", None)? {
        let called = Instant::now();
        producer.query(&insert, &[&payload(job)]).await?;
        let returned = Instant::now();
        let Ok(start) = timeout(Duration::from_secs(60), started.recv()).await else {
            bail!("row {job} was not claimed within a minute");
        };
        let Some(start) = start else {
            // Why it has ended is its own answer.
            return work.await?.and(Err(anyhow!("the listening connection is lost")));
        };
        total.push(milliseconds(called, start));
        after.push(milliseconds(returned, start));
        sleep(Duration::from_millis(20)).await;
    }
    work.abort();
    Ok(json!({
        "p50_ms": percentile(&total, 0.5),
        "p99_ms": percentile(&total, 0.99),
        "after_commit_p50_ms": percentile(&after, 0.5),
        "jobs": total.len(),
    }))
}
