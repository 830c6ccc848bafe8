//! A migrated database with a worker on it, and what becomes of its jobs.

use std::collections::HashMap;
use std::time::Duration;

use job_pg::Db;
use job_pg::config::PostgresConfig;
use job_pg::migrate::migrate;
use job_testkit::process::Program;
use job_testkit::{TestDb, eventually, eventually_some};
use job_utils::config::Reader;
use tokio_postgres::Client;

/// Long enough for a busy machine; nothing waits for it when all goes well.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The id of the workers here.
pub(crate) const ID: &str = "worker-test";

pub(crate) async fn migrated(url: String) -> Result<(), String> {
    migrated_to(url, "app_jobs").await
}

/// Migrates another schema than the usual one.
pub(crate) async fn migrated_to(url: String, schema: &str) -> Result<(), String> {
    let env = HashMap::from([("DATABASE_URL".to_owned(), url), ("JOBS_SCHEMA".to_owned(), schema.to_owned())]);
    let mut reader = Reader::new(&env);
    let postgres = PostgresConfig::read(&mut reader);
    let db = Db::new(&postgres).map_err(|error| error.to_string())?;
    migrate(&db).await.map(drop).map_err(|error| error.to_string())
}

/// A worker with these variables and nothing else. Notifications have to do: a poll would come too late for the tests.
pub(crate) fn program() -> Program {
    Program::at(env!("CARGO_BIN_EXE_job-worker"))
        .env("HOSTNAME", ID)
        .env("JOBS_POLL_INTERVAL", "1h")
        .env("RUST_LOG", "info,job_worker=debug")
}

/// A row of the table of jobs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    pub(crate) attempts: i32,
    pub(crate) last_error: Option<String>,
    pub(crate) locked_by: Option<String>,
    pub(crate) locked: bool,
    /// Seconds from the last update to the next run.
    pub(crate) wait: f64,
}

/// A database of one test.
pub(crate) struct Bench {
    pub(crate) db: TestDb,
    pub(crate) sql: Client,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let db = TestDb::from_template("worker", migrated).await;
        let sql = db.connect().await;
        Self { db, sql }
    }

    /// A worker whose functions are all at `url`.
    pub(crate) fn worker(&self, url: &str) -> Program {
        program().envs(self.db.env()).env("KNATIVE_SERVICE_URL", url)
    }

    /// A callback server as a process of its own.
    pub(crate) fn server(&self, port: u16) -> Program {
        Program::named("job-server").envs(self.db.env()).env("INTERNAL_JOBS_CALLBACK_PORT", port.to_string())
    }

    /// Adds a job that is due now.
    pub(crate) async fn add(&self, task: &str) -> i64 {
        self.add_with(task, "{}", "").await
    }

    /// Adds a job with a payload and further named arguments, as in `, priority := 1`.
    pub(crate) async fn add_with(&self, task: &str, payload: &str, more: &str) -> i64 {
        let sql = format!("SELECT id FROM app_jobs.add_job(identifier := $1, payload := ($2::text)::json {more})");
        self.sql.query_one(&sql, &[&task, &payload]).await.unwrap().get(0)
    }

    /// The job's row, None when it is gone.
    pub(crate) async fn job(&self, id: i64) -> Option<State> {
        let sql = "SELECT attempts, last_error, locked_by, locked_at IS NOT NULL, \
                   extract(epoch FROM run_at - updated_at)::float8 FROM app_jobs.jobs WHERE id = $1";
        let row = self.sql.query_opt(sql, &[&id]).await.unwrap()?;
        Some(State {
            attempts: row.get(0),
            last_error: row.get(1),
            locked_by: row.get(2),
            locked: row.get(3),
            wait: row.get(4),
        })
    }

    /// Waits until the job is done and its row gone.
    #[track_caller]
    pub(crate) fn gone(&self, id: i64) -> impl Future<Output = ()> {
        eventually_some(LIMIT, async move || self.job(id).await.is_none().then_some(()))
    }

    /// Waits until an attempt has failed, and returns the row.
    #[track_caller]
    pub(crate) fn failed(&self, id: i64) -> impl Future<Output = State> {
        eventually_some(LIMIT, async move || {
            let job = self.job(id).await.expect("a failed job stays");
            (job.last_error.is_some() && !job.locked).then_some(job)
        })
    }

    /// Waits until a worker holds the job, and returns the row.
    #[track_caller]
    pub(crate) fn held(&self, id: i64) -> impl Future<Output = State> {
        eventually_some(LIMIT, async move || self.job(id).await.filter(|job| job.locked))
    }

    /// Waits until no job is left.
    #[track_caller]
    pub(crate) fn empty(&self) -> impl Future<Output = ()> {
        eventually_some(LIMIT, async move || (self.count("true").await == 0).then_some(()))
    }

    /// How many jobs meet a condition.
    pub(crate) async fn count(&self, condition: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM app_jobs.jobs WHERE {condition}");
        self.sql.query_one(&sql, &[]).await.unwrap().get(0)
    }

    /// Waits until the worker's sessions have been idle for a while: it has looked, and sleeps.
    pub(crate) async fn idle(&self) {
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND application_name = 'jobs' AND (state <> 'idle' OR state_change > clock_timestamp() - interval '50 ms')";
        let client = self.db.connect().await;
        eventually(LIMIT, async || client.query_one(busy, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    }

    /// The newest job.
    pub(crate) async fn last_id(&self) -> i64 {
        self.sql.query_one("SELECT max(id) FROM app_jobs.jobs", &[]).await.unwrap().get(0)
    }

    /// Runs statements.
    pub(crate) async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap();
    }
}
