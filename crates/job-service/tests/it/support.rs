//! A migrated database and the service on it.

use std::collections::HashMap;
use std::time::Duration;

use job_pg::Db;
use job_pg::config::PostgresConfig;
use job_pg::migrate::migrate;
use job_testkit::cluster::free_port;
use job_testkit::process::Program;
use job_testkit::{Process, TestDb};
use job_utils::config::Reader;
use tokio_postgres::Client;

/// Long enough for a busy machine; nothing waits for it when all goes well.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The service's name here.
pub(crate) const ID: &str = "service-test";

pub(crate) async fn migrated(url: String) -> Result<(), String> {
    let env = HashMap::from([("DATABASE_URL".to_owned(), url)]);
    let mut reader = Reader::new(&env);
    let postgres = PostgresConfig::read(&mut reader);
    let db = Db::new(&postgres).map_err(|error| error.to_string())?;
    migrate(&db).await.map(drop).map_err(|error| error.to_string())
}

/// The service with these variables and nothing else.
pub(crate) fn program() -> Program {
    Program::at(env!("CARGO_BIN_EXE_job-service")).env("HOSTNAME", ID).env("JOBS_POLL_INTERVAL", "1h")
}

/// The service's callback port, and the variables that set it.
pub(crate) fn callback() -> (u16, [(&'static str, String); 2]) {
    let port = free_port().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    (port, [("INTERNAL_JOBS_CALLBACK_PORT", port.to_string()), ("INTERNAL_JOBS_CALLBACK_URL", url)])
}

/// A database of one test.
pub(crate) struct Bench {
    pub(crate) sql: Client,
    pub(crate) db: TestDb,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let db = TestDb::from_template("service", migrated).await;
        let sql = db.connect().await;
        Self { sql, db }
    }

    /// A service whose functions are all at `url`, and its callback port. It looks for jobs and schedules already.
    pub(crate) async fn service(&self, url: &str, env: &[(&str, &str)]) -> (Process, u16) {
        let (port, callback) = callback();
        let service = program().envs(self.db.env()).envs(callback).env("KNATIVE_SERVICE_URL", url);
        let mut service = service.envs(env.iter().copied()).spawn();
        service.wait_for_line("worker looks for jobs", LIMIT).await;
        service.wait_for_line("scheduler looks for schedules", LIMIT).await;
        (service, port)
    }

    /// Adds a job and returns its id.
    pub(crate) async fn add(&self, task: &str) -> i64 {
        self.sql.query_one("SELECT id FROM app_jobs.add_job($1::text)", &[&task]).await.unwrap().get(0)
    }

    /// Attempts, last error and whether it is locked; None when the job is gone.
    pub(crate) async fn job(&self, id: i64) -> Option<(i32, Option<String>, bool)> {
        let sql = "SELECT attempts, last_error, locked_at IS NOT NULL FROM app_jobs.jobs WHERE id = $1";
        let row = self.sql.query_opt(sql, &[&id]).await.unwrap()?;
        Some((row.get(0), row.get(1), row.get(2)))
    }
}

/// The status of a GET.
pub(crate) async fn get(port: u16, path: &str) -> Option<u16> {
    let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.ok()?;
    Some(answer.status().as_u16())
}
