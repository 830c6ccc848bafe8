//! The service behind PgBouncer in transaction mode: the way of jobs and schedules without prepared statements, session
//! locks and notifications; and past it.

use std::collections::HashMap;
use std::time::Duration;

use job_pg::config::PostgresConfig;
use job_pg::{Db, NewJob, SchedulerDb, SchedulerInstance, enqueue, enqueue_many};
use job_testkit::{
    Answer, FakeFunction, Gate, PgBouncer, Process, Signal, TestDb, eventually, eventually_some, pgbouncer,
};
use job_utils::config::Reader;
use serde_json::json;
use uuid::Uuid;

use super::support::{Bench, LIMIT, callback, program};

const DOCUMENT: &str = include_str!("../../../../docs/pgbouncer.md");

/// Sessions behind the pooler: fewer than a service has connections, so that it cannot keep one.
const SESSIONS: usize = 3;

const LOCKED: &str = "SELECT (SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL) \
                      + (SELECT count(*) FROM app_jobs.scheduled_jobs WHERE locked_at IS NOT NULL) \
                      + (SELECT count(*) FROM app_jobs.job_queues WHERE locked_at IS NOT NULL)";

/// What listening sessions hold: the name and the instance of the worker, and of the scheduler. Not what a claim holds
/// while it lasts, nor what a writer has alone for a moment to see whether somebody listens.
const NAMES: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock' \
                     AND (classid::bigint << 32) + objid::bigint <> hashtextextended('app_jobs.limits', 0) \
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// A database with a pooler in front of it.
struct Behind {
    bench: Bench,
    bouncer: PgBouncer,
}

impl Behind {
    async fn new() -> Self {
        Self::with(SESSIONS, &[]).await
    }

    async fn with(sessions: usize, settings: &[&str]) -> Self {
        let bench = Bench::new().await;
        let bouncer = PgBouncer::start_with(bench.db.url(), sessions, settings).await.unwrap();
        Self { bench, bouncer }
    }

    fn service(&self, function: &FakeFunction, id: &str, more: &[(&str, &str)]) -> Process {
        let program = program().envs(self.bouncer.env(self.bench.db.name())).envs(callback().1);
        let program = program.env("HOSTNAME", id).env("KNATIVE_SERVICE_URL", function.url());
        program.env("JOBS_POLL_INTERVAL", "1s").envs(more.iter().copied()).spawn()
    }

    async fn count(&self, sql: &str) -> i64 {
        self.bench.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Waits until the sessions have been idle for a while: the service has looked for everything, and sleeps.
    async fn idle(&self) {
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
                    AND (state <> 'idle' OR state_change > clock_timestamp() - interval '100 ms')";
        eventually(LIMIT, async || self.count(busy).await == 0).await;
    }

    async fn empty(&self) {
        eventually(LIMIT, async || self.count("SELECT count(*) FROM app_jobs.jobs").await == 0).await;
    }
}

/// Whether it goes on without a statement that its session does not know, or that another process has prepared there.
fn assert_quiet(service: &Process) {
    // At its stop the callback server says how many it has refused.
    let output = service.output().replace("refused=0", "");
    for trouble in ["prepared statement", "bind message", "cannot claim", "cannot use its database", "refused"] {
        assert!(!output.contains(trouble), "{trouble}:\n{output}");
    }
}

#[tokio::test]
async fn jobs_go_their_way_behind_a_pooler_and_so_does_a_stop_and_a_restart() {
    if !pgbouncer::installed("jobs_go_their_way_behind_a_pooler_and_so_does_a_stop_and_a_restart") {
        return;
    }
    let behind = Behind::new().await;
    let function = FakeFunction::start(async |request| match request.target.as_str() {
        "/accept" => Answer::accepted(),
        "/fail" if request.json()["broken"] == json!(true) => Answer::text(500, "down"),
        _ => Answer::complete(),
    })
    .await;
    let mut service = behind.service(&function, "behind-1", &[]);
    service.wait_for_line("a pooler is in between", LIMIT).await;
    service.wait_for_line("polling instead of listening", LIMIT).await;
    service.wait_for_line("worker looks for jobs", LIMIT).await;

    // Enqueued through the pooler as well, by the client's own connection and in a transaction.
    let mut producer = job_testkit::postgres::connect(&behind.bouncer.url(behind.bench.db.name())).await;
    let transaction = producer.transaction().await.unwrap();
    enqueue(&transaction, NewJob::new("answer", &json!({}))).await.unwrap();
    let accepted = enqueue(&transaction, NewJob::new("accept", &json!({}))).await.unwrap().id;
    transaction.commit().await.unwrap();
    let broken = enqueue(&producer, NewJob::new("fail", &json!({"broken": true}))).await.unwrap().id;
    let jobs = (0..20).map(|n| NewJob::new("line", &json!(n)).queue("line"));
    enqueue_many(&producer, jobs).await.unwrap();

    // The answer completes, the callback completes, a failure is kept and tried again, a queue keeps its order.
    let seen =
        |task: &str| function.requests().into_iter().filter(|request| request.target == task).collect::<Vec<_>>();
    let request = eventually_some(LIMIT, async || seen("/accept").pop()).await;
    assert_eq!(request.header("x-job-id"), Some(accepted.to_string().as_str()));
    service.wait_for_line("job accepted", LIMIT).await;
    assert_eq!(request.call_back().await.0, 200);
    assert_eq!(behind.bench.job(accepted).await, None);
    let failed = eventually_some(LIMIT, async || {
        behind.bench.job(broken).await.filter(|(_, error, locked)| error.is_some() && !locked)
    });
    let told = format!("HTTP 500: down (POST {}/fail)", function.url());
    assert_eq!(failed.await, (1, Some(told), false));
    behind
        .bench
        .sql
        .batch_execute("UPDATE app_jobs.jobs SET payload = '{}' WHERE task_identifier = 'fail'")
        .await
        .unwrap();
    behind.empty().await;
    assert_eq!(seen("/fail").len(), 2);
    let order: Vec<i64> = seen("/line").iter().map(|request| request.json().as_i64().unwrap()).collect();
    assert_eq!(order, (0..20).collect::<Vec<_>>());

    // What the documentation shows.
    let shown: Vec<&str> = DOCUMENT.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!shown.is_empty());
    producer.batch_execute(&shown.concat()).await.unwrap();
    let greeted = eventually_some(LIMIT, async || seen("/greet").pop()).await;
    assert_eq!(greeted.header("x-database-id"), Some("6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11"));

    // A schedule fires, and is given back by the stop like everything else.
    let add = "SELECT app_jobs.add_scheduled_job('tick', '{}', '{\"rule\": \"* * * * * *\"}'::json)";
    producer.batch_execute(add).await.unwrap();
    eventually(LIMIT, async || seen("/tick").len() > 1).await;
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
    assert_eq!(behind.count(LOCKED).await, 0);
    assert_quiet(&service);

    // What comes meanwhile is done by the next service, and the schedule goes on.
    enqueue(&producer, NewJob::new("meanwhile", &json!({}))).await.unwrap();
    let ticks = seen("/tick").len();
    let mut service = behind.service(&function, "behind-1", &[]);
    eventually(LIMIT, async || seen("/meanwhile").len() == 1 && seen("/tick").len() > ticks).await;
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
    assert_quiet(&service);
}

#[tokio::test]
async fn two_services_share_the_sessions_of_a_pooler_and_do_each_job_once() {
    if !pgbouncer::installed("two_services_share_the_sessions_of_a_pooler_and_do_each_job_once") {
        return;
    }
    let behind = Behind::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut services = [behind.service(&function, "behind-1", &[]), behind.service(&function, "behind-2", &[])];
    for service in &mut services {
        service.wait_for_line("worker looks for jobs", LIMIT).await;
    }
    let add = "SELECT app_jobs.add_job('many', queue_name := CASE WHEN n % 4 = 0 THEN 'line ' || n % 8 END) \
               FROM generate_series(1, 400) n";
    behind.bench.sql.batch_execute(add).await.unwrap();
    behind.empty().await;
    let mut requests: HashMap<String, usize> = HashMap::new();
    for request in function.requests() {
        *requests.entry(request.header("x-job-id").unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!((requests.len(), function.requests().len()), (400, 400));
    for service in &mut services {
        service.signal(Signal::Term);
        assert_eq!(service.exit_code(LIMIT).await, 0);
        assert_quiet(service);
    }
    assert_eq!(behind.count(LOCKED).await, 0);
}

#[tokio::test]
async fn a_cancelled_job_frees_its_slot_behind_a_pooler() {
    if !pgbouncer::installed("a_cancelled_job_frees_its_slot_behind_a_pooler") {
        return;
    }
    let behind = Behind::new().await;
    let function = FakeFunction::waiting(&Gate::closed(), |target| target != "/quick", Answer::complete()).await;
    let mut service = behind.service(&function, "behind-1", &[("JOBS_CONCURRENCY", "1")]);
    let slow = behind.bench.add("slow").await;
    function.wait_for(1, LIMIT).await;
    behind.bench.add("quick").await;
    let cancel = format!("SELECT count(*) FROM app_jobs.cancel_jobs(ARRAY[{slow}], 'no longer wanted')");
    assert_eq!(behind.count(&cancel).await, 1);
    // A heartbeat alone would take 6.5 s.
    let promised = Duration::from_secs(2 + 3);
    eventually(promised, async || behind.count("SELECT count(*) FROM app_jobs.jobs").await == 0).await;
    service.wait_for_line("no longer wanted", LIMIT).await;
}

#[tokio::test]
async fn a_service_outlives_its_pooler() {
    if !pgbouncer::installed("a_service_outlives_its_pooler") {
        return;
    }
    let mut behind = Behind::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut service = behind.service(&function, "behind-1", &[]);
    behind.bench.add("before").await;
    behind.empty().await;
    behind.bouncer.restart().await.unwrap();
    behind.bench.add("after").await;
    behind.empty().await;
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
}

#[tokio::test]
async fn a_killed_services_schedules_fire_again_after_the_schedulers_lease() {
    if !pgbouncer::installed("a_killed_services_schedules_fire_again_after_the_schedulers_lease") {
        return;
    }
    let behind = Behind::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    // The worker's as well: the kill may leave a job running, and a schedule does not fire beside its previous job.
    let lease = [("JOBS_SCHEDULER_LEASE", "2s"), ("JOBS_LEASE", "2s")];
    let mut service = behind.service(&function, "behind-1", &lease);
    let add = "SELECT app_jobs.add_scheduled_job('tick', '{}', '{\"rule\": \"* * * * * *\"}'::json)";
    behind.bench.sql.batch_execute(add).await.unwrap();
    function.wait_for(1, LIMIT).await;
    service.signal(Signal::Kill);
    service.exit(LIMIT).await;
    let mut service = behind.service(&function, "behind-1", &lease);
    let before = function.requests().len();
    function.wait_for(before + 2, LIMIT).await;
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
}

#[tokio::test]
async fn a_pooler_outlives_statements_that_are_cancelled() {
    if !pgbouncer::installed("a_pooler_outlives_statements_that_are_cancelled") {
        return;
    }
    let behind = Behind::new().await;
    let env: HashMap<String, String> = behind.bouncer.env(behind.bench.db.name()).into_iter().collect();
    let mut reader = Reader::new(&env);
    let config = PostgresConfig::read(&mut reader);
    let db = Db::new(&reader.finish(config).unwrap()).unwrap();
    let instance = SchedulerInstance { id: Uuid::new_v4(), lease: LIMIT, listens: false };
    let scheduler = SchedulerDb::new(db, "behind-1", instance);
    behind.bench.sql.batch_execute("BEGIN; LOCK TABLE app_jobs.schedulers").await.unwrap();
    for _ in 0..50 {
        let given_up = tokio::time::timeout(Duration::from_millis(20), scheduler.leave()).await;
        assert!(given_up.is_err(), "it waits for the table");
    }
    let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'app_jobs.schedulers'::regclass AND NOT granted";
    eventually(LIMIT, async || behind.count(waiting).await == 0).await;
    behind.bench.sql.batch_execute("COMMIT").await.unwrap();
    scheduler.leave().await.unwrap_or_else(|error| panic!("{error:?}: {}", behind.bouncer.log()));
}

#[tokio::test]
async fn a_pooler_that_drops_options_is_found_out_as_well() {
    if !pgbouncer::installed("a_pooler_that_drops_options_is_found_out_as_well") {
        return;
    }
    let behind = Behind::with(SESSIONS, &["ignore_startup_parameters = extra_float_digits, options"]).await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut service = behind.service(&function, "behind-1", &[]);
    service.wait_for_line("a pooler is in between", LIMIT).await;
    behind.bench.add("task").await;
    behind.empty().await;
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
    assert_quiet(&service);
}

#[tokio::test]
async fn a_pooler_in_session_mode_is_listened_through_when_it_is_named_one() {
    if !pgbouncer::installed("a_pooler_in_session_mode_is_listened_through_when_it_is_named_one") {
        return;
    }
    let behind = Behind::with(20, &["pool_mode = session"]).await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let session = [("JOBS_LISTEN", "on"), ("JOBS_POLL_INTERVAL", "1h")];
    let mut service = behind.service(&function, "behind-1", &session);
    service.wait_for_line("worker looks for jobs", LIMIT).await;
    eventually(LIMIT, async || behind.count(NAMES).await == 4).await;
    for task in ["first", "second"] {
        behind.idle().await;
        behind.bench.add(task).await;
        behind.empty().await;
    }
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
    assert!(!service.output().contains("pooler"), "{}", service.output());
}

#[tokio::test]
async fn a_connection_past_the_pooler_listens_and_holds_the_id() {
    if !pgbouncer::installed("a_connection_past_the_pooler_listens_and_holds_the_id") {
        return;
    }
    let behind = Behind::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    // With an hour between polls, only a notification is in time.
    let past = [("JOBS_POLL_INTERVAL", "1h"), ("JOBS_LISTEN_URL", behind.bench.db.url())];
    let mut service = behind.service(&function, "behind-1", &past);
    service.wait_for_line("a pooler is in between", LIMIT).await;
    service.wait_for_line("worker looks for jobs", LIMIT).await;
    eventually(LIMIT, async || behind.count(NAMES).await == 4).await;
    for task in ["first", "second"] {
        behind.idle().await;
        behind.bench.add(task).await;
        behind.empty().await;
    }
    // A killed service's session ends with it, so the next one takes back its jobs and schedules.
    let add = "SELECT app_jobs.add_scheduled_job('yearly', '{}', '{\"rule\": \"0 0 1 1 *\"}'::json)";
    behind.bench.sql.batch_execute(add).await.unwrap();
    eventually(LIMIT, async || behind.count(LOCKED).await == 1).await;
    service.signal(Signal::Kill);
    service.exit(LIMIT).await;
    assert!(!service.output().contains("polling"), "{}", service.output());
    let mut service = behind.service(&function, "behind-1", &past);
    service.wait_for_line("schedules changed taken=1", LIMIT).await;
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
    assert_eq!(behind.count(LOCKED).await, 0);
}

#[tokio::test]
async fn a_url_for_listening_that_leads_elsewhere_or_nowhere_or_through_a_pooler_is_told_and_the_service_polls() {
    if !pgbouncer::installed("a_url_for_listening_that_leads_elsewhere_…") {
        return;
    }
    let behind = Behind::new().await;
    let other = TestDb::empty().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let nowhere = format!("postgres://postgres@127.0.0.1:{}/x", job_testkit::cluster::free_port().unwrap());
    let through = behind.bouncer.url(behind.bench.db.name());
    for (url, told) in [
        (other.url(), "JOBS_LISTEN_URL leads to"),
        (nowhere.as_str(), "cannot listen, polling meanwhile"),
        (through.as_str(), "polling instead of listening"),
    ] {
        let mut service = behind.service(&function, "behind-1", &[("JOBS_LISTEN_URL", url)]);
        service.wait_for_line(told, LIMIT).await;
        behind.bench.add("polled").await;
        behind.empty().await;
        service.signal(Signal::Term);
        assert_eq!(service.exit_code(LIMIT).await, 0);
    }
}

#[tokio::test]
async fn a_service_that_is_told_not_to_listen_does_not_and_finds_its_jobs() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let env = [("JOBS_LISTEN", "off"), ("JOBS_POLL_INTERVAL", "1s")];
    let (mut service, _) = bench.service(&function.url(), &env).await;
    service.wait_for_line("JOBS_LISTEN is off", LIMIT).await;
    let id = bench.add("polled").await;
    eventually(LIMIT, async || bench.job(id).await.is_none()).await;
    // Statements hold some for a moment; those of a session that listens would stay.
    eventually(LIMIT, async || bench.sql.query_one(NAMES, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
    assert!(!service.output().contains("pooler"), "{}", service.output());
}

#[tokio::test]
async fn a_migration_through_a_pooler_is_refused_and_one_past_it_is_made() {
    if !pgbouncer::installed("a_migration_through_a_pooler_is_refused_and_one_past_it_is_made") {
        return;
    }
    let db = TestDb::empty().await;
    let bouncer = PgBouncer::start(db.url(), SESSIONS).await.unwrap();
    let migrate = || program().arg("migrate").envs(bouncer.env(db.name()));
    let mut process = migrate().spawn();
    assert_eq!(process.exit_code(LIMIT).await, 70, "{}", process.output());
    assert!(process.output().contains("JOBS_MIGRATE_URL"), "{}", process.output());
    let sql = db.connect().await;
    let made = "SELECT to_regnamespace('app_jobs') IS NOT NULL";
    assert!(!sql.query_one(made, &[]).await.unwrap().get::<_, bool>(0));
    let mut process = migrate().env("JOBS_MIGRATE_URL", db.url()).spawn();
    assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
    assert!(sql.query_one(made, &[]).await.unwrap().get::<_, bool>(0));
    let mut process = migrate().env("JOBS_MIGRATE_URL", "nonsense").spawn();
    assert_eq!(process.exit_code(LIMIT).await, 64, "{}", process.output());
    assert!(process.output().contains("JOBS_MIGRATE_URL"), "{}", process.output());
}
