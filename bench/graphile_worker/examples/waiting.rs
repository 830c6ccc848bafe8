//! Jobs that wait in graphile_worker's own tables, as it makes and fills them: what examples/from_graphile_worker.rs
//! takes over. `cargo xtask ci` runs the one and then the other.

use anyhow::Result;
use chrono::{TimeDelta, Utc};
use graphile_worker::{Database, IntoTaskHandlerResult, JobSpec, TaskHandler, WorkerContext, WorkerOptions};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize)]
struct SendEmail {
    to: String,
}

impl TaskHandler for SendEmail {
    const IDENTIFIER: &'static str = "send_email";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        Ok::<(), String>(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    let worker = WorkerOptions::default()
        .database(Database::from(pool.clone()))
        .schema("graphile_worker")
        .define_job::<SendEmail>()
        .init()
        .await?;
    let utils = worker.create_utils();
    let email = |to: &str| SendEmail { to: to.to_owned() };
    let queue = |name: &str| JobSpec { queue_name: Some(name.to_owned()), ..JobSpec::default() };

    utils.add_job(email("plain"), JobSpec::default()).await?;
    for to in ["first", "second", "third"] {
        utils.add_job(email(to), queue("ordered")).await?;
    }
    let later = JobSpec {
        run_at: Some(Utc::now() + TimeDelta::hours(1)),
        job_key: Some("later".to_owned()),
        max_attempts: Some(7),
        priority: Some(-3),
        ..queue("mail")
    };
    utils.add_job(email("later"), later).await?;
    // One that a worker of its runs, and one that has failed for good: they stay.
    for (to, state) in [("runs", "locked_at = now(), locked_by = 'theirs'"), ("failed", "attempts = max_attempts")] {
        let id = *utils.add_job(email(to), JobSpec::default()).await?.id();
        let sql = format!("UPDATE graphile_worker._private_jobs SET {state} WHERE id = {id}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await?;
    }
    println!("ok");
    Ok(())
}
