//! The service as a value in an application's own process.

use std::time::Duration;

use job_service::{
    Cancelled, Context, Db, Field, HandlerResult, IntoJob, SchedulerConfig, SchedulerError, ServerConfig, ServerError,
    Service, ServiceError, Shutdown, Task, Uuid, Worker, WorkerError, enqueue, migrate, schedule,
};
use job_testkit::{Answer, FakeFunction, TestDb, eventually};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::support::{Bench, LIMIT, get, migrated};

#[derive(Serialize, Deserialize)]
struct Tick {}

impl Task for Tick {
    const IDENTIFIER: &'static str = "tick";
}

async fn tick(_: Tick, context: Context<mpsc::UnboundedSender<()>>) -> HandlerResult {
    Ok(context.state().send(())?)
}

/// Handlers here and functions over HTTP in one worker, callbacks and schedules, from an empty database on.
#[tokio::test]
async fn all_parts_run_in_one_process_and_stop_in_order() {
    let postgres = TestDb::empty().await;
    let db = Db::from_url(postgres.url()).unwrap();
    let function = FakeFunction::answering(Answer::accepted()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let callback = format!("http://{}", listener.local_addr().unwrap());
    let (ticks, mut ticked) = mpsc::unbounded_channel();
    let worker = Worker::builder(db.clone()).state(ticks).task(tick).dispatch(&function.url(), &callback);
    let service = Service::builder(db.clone())
        .migrate()
        .worker(worker.build().unwrap())
        .server_on(ServerConfig::default(), listener)
        .scheduler(SchedulerConfig::default())
        .build();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(service.run(shutdown.clone()));

    let client = postgres.connect().await;
    eventually(LIMIT, async || db.ready().await.is_ok()).await;
    let schedule = "SELECT app_jobs.add_scheduled_job('tick', '{}', '{\"rule\": \"* * * * * *\"}'::json)";
    client.batch_execute(schedule).await.unwrap();
    ticked.recv().await.unwrap();
    client.batch_execute("SELECT app_jobs.add_job('there')").await.unwrap();
    eventually(LIMIT, async || !function.requests().is_empty()).await;
    let request = function.requests().remove(0);
    assert_eq!(request.target, "/there");
    let token = request.header("x-job-token").unwrap();
    assert_eq!(token.split('.').next(), request.header("x-job-id"));
    assert_eq!(request.call_back().await.0, 200);
    let there = "SELECT count(*) FROM app_jobs.jobs WHERE task_identifier = 'there'";
    assert_eq!(client.query_one(there, &[]).await.unwrap().get::<_, i64>(0), 0);

    shutdown.trigger();
    let stopped = running.await.unwrap().unwrap();
    assert_eq!((stopped.worker.orphaned, stopped.scheduler.released), (0, 1));
}

/// Dropping the future is the hard way to stop, and nothing stays behind: no session, so that the next process with the
/// ids takes over at once; no connection of the server's; and what a handler has spawned is told.
#[tokio::test]
async fn a_service_that_is_dropped_leaves_nothing_behind() {
    type Told = mpsc::UnboundedSender<Option<Cancelled>>;
    async fn spawns(_: Tick, context: Context<Told>) {
        let spawned = context.clone();
        tokio::spawn(async move { spawned.state().send(Some(spawned.cancelled().await)) });
        context.state().send(None).unwrap();
        std::future::pending().await
    }
    let postgres = TestDb::from_template("service", migrated).await;
    let client = postgres.connect().await;
    let number = async |sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    let (told, mut heard) = mpsc::unbounded_channel();
    let start = |listener| {
        // Its own pool, which is gone with it.
        let db = Db::from_url(postgres.url()).unwrap();
        let worker = Worker::builder(db.clone()).id("worker-dropped").state(told.clone()).task(spawns);
        let mut scheduler = SchedulerConfig::default();
        (scheduler.scheduler_id, scheduler.lease) = ("scheduler-dropped".into(), Duration::from_secs(3600));
        let service = Service::builder(db).worker(worker.build().unwrap()).scheduler(scheduler);
        tokio::spawn(service.server_on(ServerConfig::default(), listener).build().run(Shutdown::new()))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let running = start(listener);
    let schedule = "SELECT app_jobs.add_scheduled_job('tick', '{}', '{\"rule\": \"* * * * * *\"}'::json)";
    client.batch_execute(schedule).await.unwrap();
    assert_eq!(heard.recv().await, Some(None));
    // A connection that is kept open.
    let mut asked = TcpStream::connect(address).await.unwrap();
    asked.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 1000];
    assert!(asked.read(&mut answer).await.unwrap() > 0);

    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let gone = tokio::time::timeout(LIMIT, async { while asked.read(&mut answer).await.unwrap_or(0) > 0 {} });
    gone.await.expect("the server's connection ends");
    let stopping = async { while heard.recv().await != Some(Some(Cancelled::Stopping)) {} };
    tokio::time::timeout(LIMIT, stopping).await.expect("the spawned task tells");
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    eventually(LIMIT, async || number(sessions).await == 0).await;

    // The lease is an hour: who cannot be told from the one before has to wait for it.
    let fires = "SELECT count(*) FROM app_jobs.schedule_fires";
    let before = number(fires).await;
    let running = start(TcpListener::bind("127.0.0.1:0").await.unwrap());
    eventually(LIMIT, async || number(fires).await > before).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
}

/// A typo is told where it was made. SQL goes on to accept it, and the scheduler to tell.
#[tokio::test]
async fn a_rule_that_no_scheduler_could_use_is_refused() {
    let postgres = TestDb::from_template("service", migrated).await;
    let client = postgres.connect().await;
    for (rule, message) in [
        (json!("0 25 * * *"), r#"schedule_info, hour: 25 is not within 0-23 (character 3 of "0 25 * * *")"#),
        (json!({"rule": "@daly"}), "@daly"),
        (json!({"rule": "@daily", "tz": "Europe/Berlyn"}), "Europe/Berlyn"),
        (json!({"rule": "0 0 30 2 *"}), "the rule can never fire: no date matches it"),
    ] {
        let error = schedule(&client, &rule, Tick {}).await.unwrap_err();
        assert_eq!(error.field(), Some(Field::Rule), "{error:?}");
        assert!(error.to_string().starts_with("rule: ") && error.to_string().contains(message), "{error}");
    }
    let rules = [r#""0 23 * * *""#, r#"{"rule":"@daily","tz":"Europe/Berlin"}"#, r#"{"hour":1,"minute":0}"#];
    for rule in rules {
        schedule(&client, &serde_json::from_str::<Value>(rule).unwrap(), Tick {}.into_job().key(rule)).await.unwrap();
    }
    let typo = r#"SELECT app_jobs.add_scheduled_job('tick', '{}', '"0 25 * * *"'::json)"#;
    client.batch_execute(typo).await.unwrap();
    let stored =
        client.query("SELECT schedule_info::text FROM app_jobs.scheduled_jobs ORDER BY id", &[]).await.unwrap();
    let stored: Vec<String> = stored.iter().map(|row| row.get(0)).collect();
    assert_eq!((&stored[..3], &stored[3..]), (&rules.map(String::from)[..], &[r#""0 25 * * *""#.to_owned()][..]));
}

/// As an application says its schedules: at every start.
#[tokio::test]
async fn a_schedule_said_at_every_start_is_one_schedule() {
    let postgres = TestDb::from_template("service", migrated).await;
    let client = postgres.connect().await;
    let tenants = [Uuid::from_u128(1), Uuid::from_u128(2)];
    for rule in ["*/5 * * * *", "*/5 * * * *", "*/10 * * * *"] {
        schedule(&client, rule, Tick {}).await.unwrap();
        schedule(&client, rule, Tick {}.into_job().key("another")).await.unwrap();
        for tenant in tenants {
            schedule(&client, rule, Tick {}.into_job().tenant(tenant)).await.unwrap();
        }
    }
    let stored = "SELECT key, schedule_info::text FROM app_jobs.scheduled_jobs ORDER BY key";
    let stored = client.query(stored, &[]).await.unwrap();
    let stored: Vec<(String, String)> = stored.iter().map(|row| (row.get(0), row.get(1))).collect();
    let keys =
        ["another".to_owned(), "tick".to_owned(), format!("tick:{}", tenants[0]), format!("tick:{}", tenants[1])];
    assert_eq!(stored, keys.map(|key| (key, r#""*/10 * * * *""#.to_owned())));
}

#[tokio::test]
async fn settings_that_no_part_could_work_with_are_refused() {
    let db = Db::from_url("postgres://localhost/nowhere").unwrap();
    let (mut scheduler, mut server) = (SchedulerConfig::default(), ServerConfig::default());
    (scheduler.lease, server.callback_timeout) = (Duration::ZERO, Duration::MAX);
    let service = Service::builder(db.clone()).scheduler(scheduler.clone()).server(server.clone()).build();
    let error = service.run(Shutdown::new()).await.unwrap_err().to_string();
    let (scheduling, serving) =
        ("JOBS_SCHEDULER_LEASE: must be at least 1s", "JOBS_CALLBACK_TIMEOUT: is longer than 87600h");
    assert!(error.contains(&format!("{scheduling}\n  {serving}")), "{error}");
    let error = job_scheduler::run_with(scheduler, db.clone(), Default::default(), Shutdown::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(scheduling), "{error}");
    let listener = job_server::bind(0).await.unwrap();
    let error =
        job_server::run_with(server, db, listener, Default::default(), Shutdown::new()).await.unwrap_err().to_string();
    assert!(error.contains(serving), "{error}");
}

#[tokio::test]
async fn two_services_in_one_process_do_not_know_each_other() {
    let mut running = Vec::new();
    let shutdown = Shutdown::new();
    for _ in 0..2 {
        let postgres = TestDb::empty().await;
        let db = Db::from_url(postgres.url()).unwrap();
        let _ = migrate(&db).await.unwrap();
        let (ticks, ticked) = mpsc::unbounded_channel();
        let worker = Worker::builder(db.clone()).state(ticks).task(tick).build().unwrap();
        let service = Service::builder(db.clone()).worker(worker).build();
        running.push((postgres, db, ticked, tokio::spawn(service.run(shutdown.clone()))));
    }
    for (_, db, ticked, _) in &mut running {
        enqueue(db, Tick {}).await.unwrap();
        ticked.recv().await.unwrap();
        assert!(ticked.try_recv().is_err());
    }
    shutdown.trigger();
    for (_, _, _, service) in running {
        service.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_before_anything_runs() {
    let taken = TcpListener::bind("[::]:0").await.unwrap();
    let postgres = TestDb::empty().await;
    let db = Db::from_url(postgres.url()).unwrap();
    let mut config = ServerConfig::default();
    config.port = taken.local_addr().unwrap().port();
    let error = Service::builder(db).server(config).build().run(Shutdown::new()).await.unwrap_err();
    assert!(matches!(error, job_service::ServiceError::Server(_)), "{error:?}");
}

/// A user of the database who may not see the jobs, so that a part that connects as it waits for rights; and can then
/// be barred, so that the part fails. Once a part has begun, it tries again for good: nothing fails it.
struct Guest {
    name: String,
    db: Db,
}

impl Guest {
    async fn of(bench: &Bench) -> Self {
        let name = format!("{}_guest", bench.db.name());
        bench.sql.batch_execute(&format!("CREATE ROLE {name} LOGIN PASSWORD 'secret'")).await.unwrap();
        Self { db: Db::from_url(&bench.db.url_as(&name, "secret")).unwrap(), name }
    }

    async fn is_here(&self, bench: &Bench) -> bool {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
        bench.sql.query_one(sessions, &[&self.name]).await.unwrap().get::<_, i64>(0) > 0
    }

    async fn bar(&self, bench: &Bench) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename";
        let name = &self.name;
        bench.sql.batch_execute(&format!("ALTER ROLE {name} NOLOGIN; {end} = '{name}'")).await.unwrap();
    }

    async fn leave(self, bench: &Bench) {
        drop(self.db);
        bench.sql.batch_execute(&format!("DROP ROLE {}", self.name)).await.unwrap();
    }
}

async fn count(bench: &Bench, sql: &str) -> i64 {
    bench.sql.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_worker_that_fails_stops_the_scheduler_and_then_the_callback_server_and_says_why() {
    let bench = Bench::new().await;
    let guest = Guest::of(&bench).await;
    let (ticks, _) = mpsc::unbounded_channel();
    let worker = Worker::builder(guest.db.clone()).state(ticks).task(tick).build().unwrap();
    let mut scheduler = SchedulerConfig::default();
    // So that it sends no heartbeat meanwhile.
    scheduler.lease = Duration::from_secs(3600);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = Service::builder(Db::from_url(bench.db.url()).unwrap())
        .worker(worker)
        .server_on(ServerConfig::default(), listener)
        .scheduler(scheduler)
        .build();
    let running = tokio::spawn(service.run(Shutdown::new()));
    let never = "SELECT app_jobs.add_scheduled_job('tick', '{}', '{\"rule\": \"0 0 1 1 *\"}'::json)";
    bench.sql.batch_execute(never).await.unwrap();
    let held = "SELECT count(*) FROM app_jobs.scheduled_jobs WHERE locked_at IS NOT NULL";
    eventually(LIMIT, async || count(&bench, held).await == 1 && guest.is_here(&bench).await).await;
    assert_eq!(get(port, "/healthz").await, Some(200));

    // The scheduler cannot leave yet: until it has, the server goes on.
    let holder = bench.db.connect().await;
    holder.batch_execute("BEGIN; SELECT FROM app_jobs.schedulers FOR UPDATE").await.unwrap();
    guest.bar(&bench).await;
    let leaving = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock' AND query LIKE '%leave_scheduler%'";
    eventually(LIMIT, async || count(&bench, leaving).await == 1).await;
    assert_eq!(get(port, "/healthz").await, Some(200));
    assert!(!running.is_finished());
    holder.batch_execute("COMMIT").await.unwrap();

    let error = tokio::time::timeout(LIMIT, running).await.expect("all parts end").unwrap().unwrap_err();
    assert!(matches!(error, ServiceError::Worker(WorkerError::Db(_))), "{error:?}");
    assert_eq!(count(&bench, held).await, 0, "the schedule was given back");
    assert_eq!(get(port, "/healthz").await, None, "the server is gone");
    guest.leave(&bench).await;
}

#[tokio::test]
async fn a_scheduler_or_a_server_that_fails_stops_the_worker_which_ends_what_it_runs() {
    for part in ["scheduler", "server"] {
        let bench = Bench::new().await;
        let guest = Guest::of(&bench).await;
        async fn wait(_: Tick, context: Context<mpsc::UnboundedSender<Option<Cancelled>>>) -> HandlerResult {
            context.state().send(None)?;
            context.state().send(Some(context.cancelled().await))?;
            Ok(())
        }
        let (says, mut said) = mpsc::unbounded_channel();
        let db = Db::from_url(bench.db.url()).unwrap();
        let worker = Worker::builder(db.clone()).state(says).task(wait).build().unwrap();
        let service = Service::builder(guest.db.clone()).worker(worker);
        let service = match part {
            "scheduler" => service.scheduler(SchedulerConfig::default()),
            _ => service.server_on(ServerConfig::default(), TcpListener::bind("127.0.0.1:0").await.unwrap()),
        };
        let running = tokio::spawn(service.build().run(Shutdown::new()));
        enqueue(&db, Tick {}).await.unwrap();
        assert_eq!(said.recv().await.unwrap(), None, "it runs");
        eventually(LIMIT, async || guest.is_here(&bench).await).await;
        assert!(said.is_empty() && !running.is_finished());

        guest.bar(&bench).await;
        let error = tokio::time::timeout(LIMIT, running).await.expect("all parts end").unwrap().unwrap_err();
        match part {
            "scheduler" => assert!(matches!(error, ServiceError::Scheduler(SchedulerError::Db(_))), "{error:?}"),
            _ => assert!(matches!(error, ServiceError::Server(ServerError::Db(_))), "{error:?}"),
        }
        assert_eq!(said.recv().await.unwrap(), Some(Cancelled::Stopping), "{part}");
        assert_eq!(count(&bench, "SELECT count(*) FROM app_jobs.jobs").await, 0, "{part}: the job is done");
        guest.leave(&bench).await;
    }
}

/// What can be moved to another thread can be spawned.
#[test]
fn its_futures_are_send() {
    fn is_send<F: Future + Send>(_: F) {}
    let db = Db::from_url("postgres://localhost/nowhere").unwrap();
    async fn plain(_: Tick, _: Context) {}
    is_send(Worker::builder(db.clone()).task(plain).build().unwrap().run(Shutdown::new()));
    let worker = Worker::builder(db.clone()).task(plain).build().unwrap();
    is_send(async move { worker.run_due().await });
    is_send(Service::builder(db.clone()).scheduler(SchedulerConfig::default()).build().run(Shutdown::new()));
    is_send(enqueue(&db, Tick {}));
    is_send(job_service::enqueue_many(&db, [Tick {}]));
    is_send(migrate(&db));
    is_send(schedule(&db, "@daily", Tick {}));
    async fn in_transactions(client: &mut Client, context: &Context) -> HandlerResult {
        context
            .transaction(async |transaction| -> HandlerResult { Ok(enqueue(transaction, Tick {}).await.map(drop)?) })
            .await?;
        let transaction = client.transaction().await?;
        enqueue(&transaction, Tick {}).await?;
        job_service::enqueue_many(&transaction, [Tick {}]).await?;
        schedule(&transaction, "@daily", Tick {}).await?;
        context.complete_in(&transaction).await?;
        Ok(transaction.commit().await?)
    }
    let _ = |client: &mut Client, context: &Context| is_send(in_transactions(client, context));
}
