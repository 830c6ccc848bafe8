//! A migrated database with a scheduler on it, and what its schedules made.

use std::collections::HashMap;
use std::time::Duration;

use job_pg::Db;
use job_pg::migrate::migrate;
use job_scheduler::SchedulerConfig;
use job_scheduler::{SchedulerError, Stopped};
use job_testkit::process::Program;
use job_testkit::{Process, TestDb, eventually};
use job_utils::shutdown::Shutdown;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// Long enough for a busy machine; nothing waits for it when all goes well.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const EVERY_SECOND: &str = r#"{"rule": "* * * * * *"}"#;
/// The id of the schedulers here.
pub(crate) const ID: &str = "sched-test";

pub(crate) fn config(url: &str, more: &[(&str, &str)]) -> SchedulerConfig {
    // Notifications have to do: a poll would come too late for the tests.
    let mut env = HashMap::from([("DATABASE_URL", url), ("HOSTNAME", ID), ("JOBS_POLL_INTERVAL", "1h")]);
    env.extend(more.iter().copied());
    let env: HashMap<String, String> = env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    SchedulerConfig::from_env(&env).unwrap()
}

pub(crate) async fn migrated(url: String) -> Result<(), String> {
    let db = Db::new(&config(&url, &[]).postgres).map_err(|error| error.to_string())?;
    migrate(&db).await.map(drop).map_err(|error| error.to_string())
}

pub(crate) async fn database() -> TestDb {
    TestDb::from_template("scheduler", migrated).await
}

/// A scheduler in this process.
pub(crate) struct Running {
    shutdown: Shutdown,
    task: JoinHandle<Result<Stopped, SchedulerError>>,
}

impl Running {
    pub(crate) fn start(url: &str, more: &[(&str, &str)]) -> Self {
        let shutdown = Shutdown::new();
        let task = tokio::spawn(job_scheduler::run(config(url, more), shutdown.clone()));
        Self { shutdown, task }
    }

    pub(crate) async fn stop(self) -> Stopped {
        self.shutdown.trigger();
        tokio::time::timeout(LIMIT, self.task).await.expect("it stops in time").unwrap().unwrap()
    }
}

/// Adds a schedule for `task`.
pub(crate) async fn schedule(client: &Client, task: &str, info: &str) -> i64 {
    let sql = "SELECT id FROM app_jobs.add_scheduled_job(identifier := $1, payload := '{}'::json, schedule_info := ($2::text)::json)";
    client.query_one(sql, &[&task, &info]).await.unwrap().get(0)
}

/// Makes every job of a schedule vanish at once into a table `fired`, as a very fast worker would.
pub(crate) async fn collect_fires(client: &Client) {
    client
        .batch_execute(
            "CREATE TABLE fired (task text, at timestamptz);
             CREATE FUNCTION collect() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.fired VALUES (NEW.task_identifier, clock_timestamp());
                 DELETE FROM app_jobs.jobs WHERE id = NEW.id;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER collect AFTER INSERT ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION collect()",
        )
        .await
        .unwrap();
}

/// How many jobs `task` had, and in how many different seconds.
pub(crate) async fn fired(client: &Client, task: &str) -> (i64, i64) {
    let sql = "SELECT count(*), count(DISTINCT date_trunc('second', at)) FROM fired WHERE task = $1";
    let row = client.query_one(sql, &[&task]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Each fire of a schedule that fires every second made one job. A statement that stalls on a busy machine may push one
/// job into the next second; whatever fires twice does so again and again.
pub(crate) async fn assert_one_job_a_second(client: &Client, task: &str) {
    let (jobs, seconds) = fired(client, task).await;
    assert!(jobs >= 4, "{task}: {jobs} jobs tell nothing");
    assert!(jobs <= seconds + 1, "{task}: {jobs} jobs in {seconds} seconds");
}

/// Waits until `task` had at least `jobs` more jobs than now.
#[track_caller]
pub(crate) fn fires(client: &Client, task: &str, jobs: i64) -> impl Future<Output = ()> {
    let counted = async move |task: &str| fired(client, task).await.0;
    async move {
        let before = counted(task).await;
        eventually(LIMIT, async || counted(task).await >= before + jobs).await;
    }
}

/// Waits until `scheduler` holds `count` schedules.
pub(crate) async fn held(client: &Client, scheduler: &str, count: i64) {
    let sql = "SELECT count(*) FROM app_jobs.scheduled_jobs WHERE locked_by = $1 AND locked_at IS NOT NULL";
    eventually(LIMIT, async || client.query_one(sql, &[&scheduler]).await.unwrap().get::<_, i64>(0) == count).await;
}

/// Schedules `task` and pins from when on its fires count: `age` ago, as if it had been added then.
pub(crate) async fn schedule_since(client: &Client, task: &str, info: &str, age: &str) -> i64 {
    let id = schedule(client, task, info).await;
    let sql = "UPDATE app_jobs.scheduled_jobs SET fired_until = clock_timestamp() - ($2::text)::interval WHERE id = $1";
    client.execute(sql, &[&id, &age]).await.unwrap();
    id
}

/// The binary, on a database, as `scheduler`.
pub(crate) fn process(url: &str, scheduler: &str, more: &[(&str, &str)]) -> Process {
    let program = Program::at(env!("CARGO_BIN_EXE_job-scheduler")).env("DATABASE_URL", url).env("HOSTNAME", scheduler);
    program.env("JOBS_POLL_INTERVAL", "1h").envs(more.iter().copied()).spawn()
}

/// A number.
pub(crate) async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// How many fires of a schedule the ledger has.
pub(crate) async fn ledger(client: &Client, schedule: i64) -> i64 {
    number(client, &format!("SELECT count(*) FROM app_jobs.schedule_fires WHERE schedule_id = {schedule}")).await
}

/// How many fires of schedules that fire every second are missing in the ledger between their first and their last, and
/// how many jobs there were ([`collect_fires`]) beyond those that the ledger tells of.
pub(crate) async fn gaps_and_doubles(client: &Client) -> (i64, i64) {
    let gaps = "SELECT coalesce(sum(extract(epoch FROM f.last - f.first)::bigint + 1 - f.fires), 0)::bigint
                  FROM (SELECT min(fire_at) AS first, max(fire_at) AS last, count(*) AS fires
                          FROM app_jobs.schedule_fires WHERE outcome <> 'missed' GROUP BY schedule_id) f";
    let doubles = "SELECT (SELECT count(*) FROM fired) - count(*) FROM app_jobs.schedule_fires WHERE outcome = 'made'";
    (number(client, gaps).await, number(client, doubles).await)
}

/// What the row of a schedule says is wrong with it; `-` for nothing.
pub(crate) async fn last_error(client: &Client, schedule: i64) -> String {
    let sql = "SELECT coalesce(last_error, '-') FROM app_jobs.scheduled_jobs WHERE id = $1";
    client.query_one(sql, &[&schedule]).await.unwrap().get(0)
}
