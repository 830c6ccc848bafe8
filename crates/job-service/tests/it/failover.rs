//! A replica takes the primary's place: PGHOST names both, and jobs, callbacks and schedules go on with the new one.

use std::time::Duration;

use job_testkit::{Answer, Cluster, FakeFunction, Gate, Process, Signal, eventually};
use tokio_postgres::Client;

use super::support::{LIMIT, callback, migrated, program};

async fn connect(cluster: &Cluster) -> Client {
    job_testkit::postgres::connect(&cluster.url("postgres")).await
}

/// A primary with the schema, and its replica.
async fn pair() -> (Cluster, Cluster) {
    let primary = Cluster::temporary().await.unwrap();
    migrated(primary.url("postgres")).await.unwrap();
    let replica = primary.replica().await.unwrap();
    (primary, replica)
}

/// Answers `/tick` with a completion, `/slow` too when the gate is open, and accepts everything else.
async fn function(gate: &Gate) -> FakeFunction {
    let gate = gate.clone();
    FakeFunction::start(move |request| {
        let gate = gate.clone();
        async move {
            match request.target.as_str() {
                "/slow" => gate.passed().await,
                "/tick" => {}
                _ => return Answer::accepted(),
            }
            Answer::complete()
        }
    })
    .await
}

/// A service that may use either server.
async fn service(first: &Cluster, second: &Cluster, function: &FakeFunction) -> Process {
    let service = program().envs(first.env("postgres")).env("PGHOST", "127.0.0.1,127.0.0.1");
    let service = service.env("PGPORT", format!("{},{}", first.port(), second.port())).env("JOBS_LEASE", "6s");
    let service = service.envs(callback().1).env("KNATIVE_SERVICE_URL", function.url());
    let mut service = service.env("JOBS_STATEMENT_TIMEOUT", "2s").spawn();
    service.wait_for_line("worker looks for jobs", LIMIT).await;
    service.wait_for_line("scheduler looks for schedules", LIMIT).await;
    service
}

/// How often a task was dispatched.
fn seen(function: &FakeFunction, task: &str) -> usize {
    function.requests().iter().filter(|request| request.target == task).count()
}

async fn called_back(function: &FakeFunction, task: &str) {
    eventually(LIMIT, async || seen(function, task) > 0).await;
    let request = function.requests().into_iter().find(|request| request.target == task).unwrap();
    assert_eq!(request.call_back().await.0, 200);
}

/// Waits until nothing is left but what the schedule makes.
async fn empty(sql: &Client) {
    let left = "SELECT count(*) FROM app_jobs.jobs WHERE task_identifier <> 'tick'";
    eventually(LIMIT, async || sql.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
}

const TICK: &str = "SELECT app_jobs.add_scheduled_job('tick', '{}', '{\"rule\": \"* * * * * *\"}'::json)";

#[tokio::test]
async fn with_synchronous_replication_a_failover_loses_nothing_and_repeats_nothing() {
    let (mut primary, mut replica) = pair().await;
    let sql = connect(&primary).await;
    sql.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    eventually(LIMIT, async || sql.query_one(synchronous, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    let gate = Gate::closed();
    let function = function(&gate).await;
    let mut service = service(&primary, &replica, &function).await;
    sql.batch_execute(TICK).await.unwrap();
    sql.batch_execute("SELECT app_jobs.add_job('slow'), app_jobs.add_job('accepted')").await.unwrap();
    function.wait_for(3, LIMIT).await;
    eventually(LIMIT, async || seen(&function, "/slow") + seen(&function, "/accepted") == 2).await;
    let accepted = "SELECT count(*) FROM app_jobs.jobs WHERE deadline IS NOT NULL";
    eventually(LIMIT, async || sql.query_one(accepted, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    // A claim does not wait for the replica: what is committed after it takes it along.
    sql.batch_execute("CREATE TABLE flushed ()").await.unwrap();

    primary.kill().await.unwrap();
    // Outcomes of all kinds come while there is no primary.
    gate.open();
    let callback = async { called_back(&function, "/accepted").await };
    let failover = async {
        service.wait_for_line("outcomes wait for Postgres", LIMIT).await;
        replica.promote().await.unwrap();
    };
    tokio::join!(callback, failover);
    let sql = connect(&replica).await;
    empty(&sql).await;
    let ticks = seen(&function, "/tick");
    sql.batch_execute("SELECT app_jobs.add_job('after')").await.unwrap();
    called_back(&function, "/after").await;
    eventually(LIMIT, async || seen(&function, "/tick") >= ticks + 2).await;
    empty(&sql).await;
    for task in ["/slow", "/accepted", "/after"] {
        assert_eq!(seen(&function, task), 1, "{task}: {}", service.output());
    }
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
}

#[tokio::test]
async fn a_primary_that_takes_no_writes_any_more_is_left_for_the_new_one() {
    let (primary, mut replica) = pair().await;
    let sql = connect(&primary).await;
    let gate = Gate::closed();
    let function = function(&gate).await;
    let mut service = service(&primary, &replica, &function).await;
    sql.batch_execute(TICK).await.unwrap();
    sql.batch_execute("SELECT app_jobs.add_job('slow')").await.unwrap();
    eventually(LIMIT, async || seen(&function, "/slow") == 1 && seen(&function, "/tick") > 0).await;
    // A switch-over: no more writes, wait for the replica, promote it. The old server lives on, and so do all
    // connections.
    sql.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let fenced = "SELECT current_setting('transaction_read_only') = 'on'";
    eventually(LIMIT, async || sql.query_one(fenced, &[]).await.unwrap().get(0)).await;
    let caught_up = "SELECT bool_and(replay_lsn = pg_current_wal_lsn()) FROM pg_stat_replication";
    eventually(LIMIT, async || sql.query_one(caught_up, &[]).await.unwrap().get(0)).await;
    replica.promote().await.unwrap();
    let new = connect(&replica).await;
    // Copied with the rest before it was switched on, so it is off here.
    gate.open();
    empty(&new).await;
    let ticks = seen(&function, "/tick");
    eventually(LIMIT, async || seen(&function, "/tick") >= ticks + 2).await;
    // Only a new LISTEN can tell of the next job: there is an hour between two polls.
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'jobs'";
    eventually(LIMIT, async || sql.query_one(ours, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    new.batch_execute("SELECT app_jobs.add_job('after')").await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), called_back(&function, "/after")).await.unwrap();
    empty(&new).await;
    for task in ["/slow", "/after"] {
        assert_eq!(seen(&function, task), 1, "{task}: {}", service.output());
    }
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
}

#[tokio::test]
async fn what_an_asynchronous_replica_has_not_received_is_done_again() {
    let (mut primary, mut replica) = pair().await;
    let sql = connect(&primary).await;
    let gate = Gate::closed();
    let function = function(&gate).await;
    let mut service = service(&primary, &replica, &function).await;
    sql.batch_execute("SELECT app_jobs.add_job('slow')").await.unwrap();
    eventually(LIMIT, async || seen(&function, "/slow") == 1).await;
    sql.batch_execute("CREATE TABLE flushed ()").await.unwrap();
    let copy = connect(&replica).await;
    let flushed = "SELECT to_regclass('flushed') IS NOT NULL";
    eventually(LIMIT, async || copy.query_one(flushed, &[]).await.unwrap().get(0)).await;
    // The replica falls behind: of what comes now it learns nothing.
    replica.stop().await.unwrap();
    gate.open();
    empty(&sql).await;
    primary.kill().await.unwrap();
    replica.start_again().await.unwrap();
    replica.promote().await.unwrap();
    // There the job is locked for a worker that lives and has done it.
    service.wait_for_line("gave up jobs that this worker had lost track of", LIMIT).await;
    eventually(LIMIT, async || seen(&function, "/slow") == 2).await;
    empty(&connect(&replica).await).await;
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
}
