//! A cron job: a schedule, the scheduler that makes jobs of it, and the worker that runs them, in one process.

use job_service::{
    Context, Db, HandlerResult, IntoJob, SchedulerConfig, Service, Shutdown, Task, Worker, migrate, schedule,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct CleanUp {
    older_than_days: u32,
}

impl Task for CleanUp {
    const IDENTIFIER: &'static str = "clean_up";
}

async fn clean_up(job: CleanUp, _context: Context) -> HandlerResult {
    println!("cleaning up what is older than {} days", job.older_than_days);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Db::from_env()?;
    migrate(&db).await?;
    // At every start: the key makes it one schedule. Five fields are minutes and up, six begin with seconds.
    let rule = std::env::var("RULE").unwrap_or_else(|_| "30 3 * * *".to_owned());
    schedule(&db, rule, CleanUp { older_than_days: 30 }.into_job().key("clean-up").max_attempts(3)).await?;

    let worker = Worker::builder(db.clone()).task(clean_up).build()?;
    let service = Service::builder(db).worker(worker).scheduler(SchedulerConfig::default()).build();
    service.run(Shutdown::on_signals()?).await?;
    Ok(())
}
