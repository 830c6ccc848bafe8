//! The service as a value in an application's own process.

use job_service::{
    Context, Db, HandlerResult, SchedulerConfig, ServerConfig, Service, Shutdown, Task, Worker, enqueue, migrate,
};
use job_testkit::{Answer, FakeFunction, TestDb, eventually};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::support::LIMIT;

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
async fn a_part_that_fails_ends_the_others_and_says_why() {
    let taken = TcpListener::bind("[::]:0").await.unwrap();
    let postgres = TestDb::empty().await;
    let db = Db::from_url(postgres.url()).unwrap();
    let config = ServerConfig { port: taken.local_addr().unwrap().port(), ..ServerConfig::default() };
    let error = Service::builder(db).server(config).build().run(Shutdown::new()).await.unwrap_err();
    assert!(matches!(error, job_service::ServiceError::Server(_)), "{error:?}");
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
}
