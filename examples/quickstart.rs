//! A type of job, its handler, a worker, and a job: all in one process.

use job_worker::{Context, Db, HandlerResult, Shutdown, Task, Worker, enqueue, migrate};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Greet {
    name: String,
}

impl Task for Greet {
    const IDENTIFIER: &'static str = "greet";
}

async fn greet(job: Greet, context: Context) -> HandlerResult {
    println!("hello {}, attempt {}", job.name, context.job().attempts);
    Ok(()) // an error is tried again
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Db::from_env()?; // DATABASE_URL
    migrate(&db).await?;
    enqueue(&db, Greet { name: "Ada".into() }).await?;
    let worker = Worker::builder(db).task(greet).build()?;
    worker.run(Shutdown::on_signals()?).await?; // until Ctrl-C
    Ok(())
}
