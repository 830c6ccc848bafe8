//! What an application is told: in the log of a failed attempt, in `last_error`, and by the errors that its `main` ends
//! with.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::support::{Bench, LIMIT};
use job_testkit::eventually;
use job_worker::{
    Context, Db, DbError, EnqueueError, HandlerResult, IntoJob, MigrateError, NotReady, Retry, Shutdown, Task,
    TaskOptions, Worker, enqueue, migrate,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Work {}

impl Task for Work {
    const IDENTIFIER: &'static str = "work";
}

/// What a subscriber writes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_failed_attempt_is_told_with_the_attempts_that_its_tasks_policy_allows() {
    async fn work(_: Work, context: Context) -> HandlerResult {
        tracing::info!("{} of {}", context.job().attempts, context.max_attempts());
        Err("no")?
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // As in library.rs: of two subscribers each decides for itself what is of interest.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let bench = Bench::new().await;
    let db = Db::from_url(bench.db.url()).unwrap();
    let five = TaskOptions::new().retry(Retry::fixed(Duration::ZERO).max_attempts(5));
    let worker = Worker::builder(db).task_with(five, work).build().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    let few = enqueue(&bench.sql, Work {}.into_job().max_attempts(3)).await.unwrap().id;
    let many = enqueue(&bench.sql, Work {}).await.unwrap().id;
    eventually(LIMIT, async || log.text().matches("job failed job.id").count() == 2).await;
    shutdown.trigger();
    running.await.unwrap().unwrap();
    let text = log.text();
    let of = |job: i64, said: &str| {
        let id = format!("job.id={job} ");
        text.lines().filter(|line| line.contains(said) && line.contains(&id)).map(str::to_owned).collect::<Vec<_>>()
    };
    for (job, most) in [(few, 3), (many, 5)] {
        let failed: Vec<String> = of(job, "attempt failed job.id");
        assert_eq!(failed.len(), most - 1, "{text}");
        let told = format!("job.max_attempts={most} ");
        assert!(failed.iter().all(|line| line.contains(&told)), "{text}");
        // The span's too, in which the handler runs.
        let inside = of(job, &format!("1 of {most}"));
        assert_eq!(inside.len(), 1, "{text}");
        assert!(inside[0].contains(&format!("job.max_attempts={most}}}")), "{text}");
    }
}

#[tokio::test]
async fn a_handler_whose_time_was_spent_waiting_for_the_pool_says_so() {
    let bench = Bench::new().await;
    let db = Db::builder(bench.db.url()).pool_size(2).build().unwrap();
    let short = TaskOptions::new().timeout(Duration::from_millis(200));
    let worker = Worker::builder(db).raw_task("greedy", short.clone(), async |context: Context| -> HandlerResult {
        let mut held = Vec::new();
        loop {
            held.push(context.db().connection().await?);
        }
    });
    let worker = worker.raw_task("slow", short, async |context: Context| -> HandlerResult {
        drop(context.db().connection().await?);
        std::future::pending().await
    });
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.build().unwrap().run(shutdown.clone()));
    let slow = bench.add("slow").await;
    assert_eq!(bench.failed(slow).await.last_error.as_deref(), Some("not done within 200ms"));
    let greedy = bench.add("greedy").await;
    let told = bench.failed(greedy).await.last_error.unwrap();
    let expected = told.starts_with("not done within 200ms: it has waited ")
        && told.ends_with("ms for a connection of the pool (pool_size of Db::builder, JOBS_POOL_SIZE)");
    assert!(expected, "{told}");
    shutdown.trigger();
    running.await.unwrap().unwrap();
}

/// How `main() -> Result<(), Box<dyn Error>>` ends with it, and a log with its Display.
fn both(error: &(impl std::error::Error + ?Sized)) -> [String; 2] {
    [format!("{error:?}"), error.to_string()]
}

#[tokio::test]
async fn an_error_says_what_the_reader_needs_once_and_its_debug_is_a_sentence() {
    let bench = Bench::new().await;
    let unknown = Db::from_url(&bench.db.url_as("nobody_of_that_name", "secret")).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = Db::from_url(&format!("postgres://127.0.0.1:{port}/shop")).unwrap();
    for (db, why) in [(unknown, "nobody_of_that_name"), (closed, "refused")] {
        let errors = [
            both(&db.connection().await.map(drop).unwrap_err()),
            both(&db.ready().await.unwrap_err()),
            both(&migrate(&db).await.unwrap_err()),
            both(&enqueue(&db, Work {}).await.unwrap_err()),
            both(
                &Worker::builder(db).task(async |_: Work, _: Context| {}).build().unwrap().run_due().await.unwrap_err(),
            ),
        ];
        for [debug, display] in &errors[..4] {
            assert!(display.contains(why) && display.contains("no connection to Postgres"), "{display}");
            assert_eq!(debug, display, "it has no cause that the message does not say");
        }
        for [debug, _] in &errors {
            assert_eq!(debug.matches(why).count(), 1, "{debug}");
            assert!(!debug.contains(['{', '\n']) && !debug.contains("secret"), "{debug}");
        }
    }

    // Without the schema: the way to make it from here, and not only by a program that an application does not have.
    let empty = job_testkit::TestDb::empty().await;
    let db = Db::from_url(empty.url()).unwrap();
    let missing = db.ready().await.unwrap_err();
    assert!(matches!(missing, NotReady::Schema { .. }), "{missing:?}");
    let refused = enqueue(&db, Work {}).await.unwrap_err();
    assert!(matches!(refused, EnqueueError::NoSchema { .. }) && !refused.is_transient(), "{refused:?}");
    let many = job_worker::enqueue_many(&empty.connect().await, [Work {}]).await.unwrap_err();
    for [_, display] in [both(&missing), both(&refused), both(&many)] {
        for way in ["no jobs schema \"app_jobs\"", "`migrate(&db)`", "`job-service migrate`", "CREATE EXTENSION"] {
            assert!(display.contains(way), "{display}");
        }
    }
    migrate(&db).await.unwrap();
    // A function that is missing to a trigger of the application is no missing schema.
    empty
        .connect()
        .await
        .batch_execute(
            "CREATE FUNCTION bad() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM not_there(); RETURN NEW; END';
             CREATE TRIGGER bad BEFORE INSERT ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION bad()",
        )
        .await
        .unwrap();
    let error = enqueue(&db, Work {}).await.unwrap_err();
    assert!(matches!(error, EnqueueError::Db(DbError::Query { .. })), "{error:?}");

    // Settings: each on a line of its own, and what is wrong with it.
    let wrong = Db::builder("postgres://localhost/shop").pool_size(1).build().map(drop).unwrap_err();
    assert!(format!("{wrong:?}").contains("\n  JOBS_POOL_SIZE: 1 is not within 2 to "), "{wrong:?}");
    let nothing = Worker::builder(db).build().unwrap_err();
    assert!(format!("{nothing:?}").contains("\n  task: there is none"), "{nothing:?}");
    let foreign: MigrateError = {
        let db = job_testkit::TestDb::empty().await;
        db.connect().await.batch_execute("CREATE SCHEMA app_jobs; CREATE TABLE app_jobs.jobs (id int)").await.unwrap();
        migrate(&Db::from_url(db.url()).unwrap()).await.unwrap_err()
    };
    assert_eq!(format!("{foreign:?}"), foreign.to_string());
}
