//! What one claim takes, beside jobs that may not start.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use deadpool_postgres::Object;
use job_pg::{AdminDb, ClaimRequest, Claimed, Cursor, Gate, Instance, Limit, NewJob, Uuid, WorkerDb};
use rivalkit::{Args, percentile};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{PATIENCE, add, connection, db, tidy};

/// The command's flags.
pub const FLAGS: &[&str] = &["claims", "batch", "blocked", "behind", "queues"];

/// Claims before those that are timed.
const FIRST: u64 = 5;
/// Tasks whose jobs go to the host that is closed.
const TASKS_OF_A_HOST: usize = 300;
/// Long enough for the whole command.
const LEASE: Duration = Duration::from_secs(3600);

/// `--claims` of `--batch` jobs each, from the beginning of what is due. Without `--behind` of the jobs that are
/// there; else `--blocked` jobs are added first, behind a gate that it closes (queue, limit, pause or host), and then
/// those that are claimed, in `--queues` named queues. What is claimed is deleted before the next claim. Claims are
/// timed from the first on that finds something; one that finds nothing counts with the next.
///
/// # Errors
/// What the database said, or nothing to claim.
pub async fn measure(args: &Args) -> Result<Value> {
    let (url, batch) = (args.required("url")?, args.number("batch", None)?);
    let claims = args.number("claims", None)?;
    let client = connection(url).await?;
    if let Some(behind) = args.text("behind") {
        let queues = args.number("queues", None)?;
        block(&client, &AdminDb::new(db(url)?), behind, args.number("blocked", None)?).await?;
        add(&client, (claims + FIRST + 1) * batch, |job| {
            NewJob::raw("noop", "{}").queue(format!("queue-{}", job % queues))
        })
        .await?;
    }
    tidy(&client).await?;

    let instance = Instance {
        id: Uuid::new_v4(),
        lease: LEASE,
        listens: false,
        overdue_message: String::new(),
        job_expiry: LEASE,
    };
    let worker = WorkerDb::new(db(url)?, "worker-0", instance);
    worker.heartbeat().await?;
    let (mut times, mut taken, mut first) = (Vec::new(), 0, None);
    let (mut cursor, mut claim, mut begun, mut time) = (Cursor::default(), 0, Instant::now(), 0.0);
    while claim < claims + FIRST {
        let request = ClaimRequest {
            tasks: None,
            excluded: &[],
            limit: usize::try_from(batch)?,
            from_start: true,
            careful: false,
            cursor: &cursor,
            freed: &[],
            horizon: Duration::from_secs(60),
            heartbeat: None,
            payload_bytes: 1 << 20,
        };
        let start = Instant::now();
        let reply = worker.claim(request).await?;
        time += start.elapsed().as_secs_f64() * 1000.0;
        cursor.advance_gates(reply.last_gate);
        let jobs = match reply.claimed {
            Claimed::Jobs(jobs) => jobs,
            // The first ones put jobs behind the gate that has been set for them, and where there are very many gates
            // others have come to the last one. A worker looks again at once.
            _ if begun.elapsed() < PATIENCE => continue,
            _ => bail!("claim {claim} found nothing"),
        };
        first.get_or_insert_with(|| begun.elapsed().as_secs_f64());
        cursor.advance(&jobs);
        if claim >= FIRST {
            times.push(time);
            taken += jobs.len();
        }
        claim += 1;
        (begun, time) = (Instant::now(), 0.0);
        if let Some(job) = jobs.iter().find(|job| job.task.starts_with("blocked")) {
            bail!("job {} was claimed behind a closed gate", job.id);
        }
        let queues: BTreeSet<_> = jobs.iter().filter_map(|job| job.queue.as_ref()).collect();
        if !queues.is_empty() && queues.len() < jobs.len() {
            bail!("two jobs of a queue were claimed at once");
        }
        let ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
        client.execute("DELETE FROM app_jobs.jobs WHERE id = ANY ($1)", &[&ids]).await?;
    }
    Ok(json!({
        "claims": claims,
        "first_s": first,
        "taken": taken as f64 / claims as f64,
        "p50_ms": percentile(&times, 0.5),
        "p99_ms": percentile(&times, 0.99),
        "max_ms": percentile(&times, 1.0),
    }))
}

/// Adds jobs before all others, behind a gate that is closed.
async fn block(client: &Object, admin: &AdminDb, behind: &str, jobs: u64) -> Result<()> {
    let task = Gate::Task("blocked");
    let queue = match behind {
        "queue" => Some("full"),
        "limit" => {
            admin.set_limit(task, Limit { max_running: Some(1), ..Limit::default() }).await?;
            None
        }
        "pause" => {
            admin.pause(task, None, None).await?;
            None
        }
        "host" => {
            let tell = "SELECT app_jobs_internal.tell_task_hosts(
                array_agg('blocked' || n), array_agg('http://down:1'::text)) FROM generate_series(0, $1::bigint - 1) n";
            client.query(tell, &[&i64::try_from(TASKS_OF_A_HOST)?]).await?;
            admin.pause(Gate::Host("http://down:1"), None, None).await?;
            None
        }
        other => bail!("--behind {other}"),
    };
    let tasks: Vec<_> = match behind {
        "host" => (0..TASKS_OF_A_HOST).map(|n| format!("blocked{n}")).collect(),
        _ => vec!["blocked".to_owned()],
    };
    add(client, jobs, |n| {
        let job = NewJob::raw(&tasks[n as usize % tasks.len()], "{}");
        if let Some(queue) = queue { job.queue(queue) } else { job }
    })
    .await?;
    if behind == "queue" || behind == "limit" {
        // It runs all the while.
        client.query_one("SELECT id FROM app_jobs.get_job('worker-1', ARRAY['blocked'])", &[]).await?;
    }
    Ok(())
}
