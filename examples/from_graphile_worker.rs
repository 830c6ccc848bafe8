//! From graphile_worker to here: a task as it was written there, with what has changed, and the jobs that wait there.
//!
//! | graphile_worker | here |
//! |---|---|
//! | `impl TaskHandler for SendEmail { const IDENTIFIER; async fn run(self, ctx) }` | `impl Task for SendEmail { const IDENTIFIER }`, `async fn send_email(job, context)` |
//! | `WorkerOptions::default().define_job::<SendEmail>()` | `Worker::builder(db).task(send_email)` |
//! | `.add_extension(App { … })`, `ctx.get_ext::<App>()` | `.state(App { … })`, `context.state()`, checked by the compiler |
//! | `utils.add_job(SendEmail { … }, JobSpec { run_at, job_key, … })` | `enqueue(&db, SendEmail { … }.into_job().run_at(…).key(…))` |
//! | `JobKeyMode::{Replace, PreserveRunAt, UnsafeDedupe}` | `KeyMode::{Replace, PreserveRunAt, Ignore}` |
//! | crontab text, known to the worker | `schedule(&db, "30 3 * * *", job)`, a row |
//!
//! The jobs that wait there are moved in one transaction. Stop its workers first: a job that one of them runs is left
//! there.

use job_worker::{Context, Db, HandlerResult, NewJob, Shutdown, Task, Timestamp, Worker, enqueue, migrate};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct SendEmail {
    to: String,
}

impl Task for SendEmail {
    const IDENTIFIER: &'static str = "send_email";
}

async fn send_email(job: SendEmail, _context: Context) -> HandlerResult {
    println!("to {}", job.to);
    Ok(())
}

/// Takes what waits out of graphile_worker's tables, in the order in which it would run there: jobs of one named queue
/// keep theirs. Attempts that have failed there count here.
const TAKE: &str = "WITH taken AS (
        DELETE FROM graphile_worker._private_jobs j USING graphile_worker._private_tasks t
         WHERE t.id = j.task_id AND j.locked_at IS NULL AND j.attempts < j.max_attempts
        RETURNING j.id, t.identifier, j.payload::text AS payload, j.key, j.priority::int AS priority,
                  (j.max_attempts - j.attempts)::int AS attempts_left, j.run_at, j.job_queue_id)
    SELECT j.identifier, j.payload, j.key, j.priority, j.attempts_left, j.run_at, q.queue_name
      FROM taken j LEFT JOIN graphile_worker._private_job_queues q ON q.id = j.job_queue_id
     ORDER BY j.priority, j.run_at, j.id";

async fn take_over(db: &Db) -> Result<usize, Box<dyn std::error::Error>> {
    let mut client = db.connection().await?;
    let transaction = client.transaction().await?;
    let waiting = transaction.query(TAKE, &[]).await?;
    for row in &waiting {
        let (identifier, payload): (&str, &str) = (row.get(0), row.get(1));
        let mut job = NewJob::raw(identifier, payload)
            .priority(row.get(3))
            .max_attempts(row.get::<_, i32>(4))
            .run_at(row.get::<_, Timestamp>(5));
        if let Some(key) = row.get::<_, Option<&str>>(2) {
            job = job.key(key);
        }
        if let Some(queue) = row.get::<_, Option<&str>>(6) {
            job = job.queue(queue);
        }
        enqueue(&transaction, job).await?;
    }
    transaction.commit().await?;
    Ok(waiting.len())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Db::from_env()?;
    migrate(&db).await?;
    println!("took over {} jobs", take_over(&db).await?);
    Worker::builder(db).task(send_email).build()?.run(Shutdown::on_signals()?).await?;
    Ok(())
}
