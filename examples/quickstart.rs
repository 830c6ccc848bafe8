//! A type of job, its handler, a worker, and a job: all in one process.

use job_worker::{Context, Db, Shutdown, Task, Worker, enqueue, migrate};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Greet {
    name: String,
}

impl Task for Greet {
    const IDENTIFIER: &'static str = "greet";
}

async fn greet(job: Greet, context: Context) {
    println!("hello {}, attempt {}", job.name, context.job().attempts);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Db::from_env()?; // DATABASE_URL, else the PG* variables, else localhost
    migrate(&db).await?; // makes the schema app_jobs
    enqueue(&db, Greet { name: "Ada".into() }).await?;
    Worker::builder(db).task(greet).build()?.run(Shutdown::on_signals()?).await?; // until Ctrl-C
    Ok(())
}
