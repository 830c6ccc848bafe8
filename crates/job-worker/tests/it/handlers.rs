//! Tasks that run in the worker's own process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use job_testkit::{Answer, FakeFunction, eventually};
use job_worker::WorkerConfig;
use job_worker::{Context, Db, Shutdown, Stopped, TaskOptions, Worker, WorkerBuilder};
use tokio::task::JoinHandle;

use super::support::{Bench, LIMIT};

/// A worker in this process, with a function for what has no handler.
fn embedded(bench: &Bench, id: &str, url: &str, more: &[(&'static str, &'static str)]) -> WorkerBuilder {
    let mut env = BTreeMap::from([
        ("DATABASE_URL", bench.db.url()),
        ("HOSTNAME", id),
        ("KNATIVE_SERVICE_URL", url),
        ("JOBS_POLL_INTERVAL", "1h"),
    ]);
    env.extend(more.iter().copied());
    let config = WorkerConfig::from_env(&env).unwrap();
    let db = Db::new(&config.postgres).unwrap();
    Worker::builder(db).config(config).dispatch_as_configured()
}

fn start(worker: WorkerBuilder, shutdown: &Shutdown) -> JoinHandle<Stopped> {
    let running = worker.build().unwrap().run(shutdown.clone());
    tokio::spawn(async move { running.await.unwrap() })
}

#[tokio::test]
async fn a_task_with_a_handler_runs_here_and_others_are_dispatched() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let (seen, mut payloads) = tokio::sync::mpsc::unbounded_channel();
    let plain = TaskOptions::new;
    let worker = embedded(&bench, "embedded", &function.url(), &[])
        .state(seen)
        .raw_task("here", plain(), |context: Context<_>| async move {
            context.state().send((context.job().payload.clone(), context.job().attempts))
        })
        .raw_task("long", plain(), |_| async { Err::<(), _>("ü".repeat(1 << 20)) })
        .raw_task("fails", plain(), |_| async { Err::<(), _>("not\0today") })
        .raw_task("panics", plain(), |context: Context<_>| async move {
            let attempt = context.job().attempts;
            if attempt == 1 {
                panic!("attempt {attempt}")
            }
        });
    let shutdown = Shutdown::new();
    let worker = {
        let running = worker.build().unwrap().run(shutdown.clone());
        tokio::spawn(async move { running.await.unwrap() })
    };

    let here = bench.add_with("here", r#"{"big": 12345678901234567890}"#, "").await;
    assert_eq!(payloads.recv().await.unwrap(), (r#"{"big": 12345678901234567890}"#.to_owned(), 1));
    bench.gone(here).await;
    bench.gone(bench.add("there").await).await;
    assert_eq!(function.requests().len(), 1);
    assert_eq!(function.requests()[0].target, "/there");

    let failed = bench.failed(bench.add("fails").await).await;
    assert_eq!((failed.last_error.as_deref(), failed.attempts), (Some("not\u{fffd}today"), 1));
    let long = bench.failed(bench.add("long").await).await.last_error.unwrap();
    assert!(
        long.starts_with("üüü") && long.ends_with("ü… (2097152 bytes)") && long.len() <= 4096,
        "{} bytes",
        long.len()
    );
    let panicked = bench.add("panics").await;
    assert_eq!(bench.failed(panicked).await.last_error.as_deref(), Some("panicked: attempt 1"));
    bench.run(&format!("SELECT app_jobs.reschedule_jobs(ARRAY[{panicked}], now())")).await;
    bench.gone(panicked).await;

    shutdown.trigger();
    let stopped = worker.await.unwrap();
    assert_eq!((stopped.finished, stopped.released, stopped.orphaned), (0, 0, 0));
}

#[tokio::test]
async fn of_the_tasks_with_handlers_those_run_that_the_settings_include() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let subset = [("JOBS_SUPPORT_ANY", "false"), ("JOBS_SUPPORTED", "ours,dispatched")];
    let mut worker = embedded(&bench, "embedded", &function.url(), &subset);
    for task in ["ours", "theirs"] {
        worker = worker.raw_task(task, TaskOptions::new(), |_| async {});
    }
    let theirs = bench.add("theirs").await;
    let shutdown = Shutdown::new();
    let worker = start(worker, &shutdown);
    bench.gone(bench.add("ours").await).await;
    bench.gone(bench.add("dispatched").await).await;
    let left = bench.job(theirs).await.expect("it waits for another worker");
    assert_eq!((left.attempts, function.requests().len()), (0, 1));
    shutdown.trigger();
    worker.await.unwrap();
}

#[tokio::test]
async fn thousands_of_jobs_end_each_once() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let ran = Arc::new(Mutex::new(Vec::new()));
    let worker = |id: &str| {
        let log = ran.clone();
        embedded(&bench, id, &function.url(), &[]).raw_task("many", TaskOptions::new(), move |context| {
            let log = log.clone();
            async move { log.lock().unwrap().push(context.job().id) }
        })
    };
    bench
        .run(
            "SELECT app_jobs.add_job('many', '{}'::json, priority := n % 3, \
             queue_name := CASE n % 5 WHEN 0 THEN 'queue-' || n % 100 END) FROM generate_series(1, 5000) n",
        )
        .await;
    let (first, second) = (Shutdown::new(), Shutdown::new());
    let workers = (start(worker("embedded-1"), &first), start(worker("embedded-2"), &second));
    eventually(LIMIT, async || bench.count("true").await == 0).await;
    first.trigger();
    second.trigger();
    workers.0.await.unwrap();
    workers.1.await.unwrap();
    let mut ran = ran.lock().unwrap().clone();
    let starts = ran.len();
    ran.sort_unstable();
    ran.dedup();
    assert_eq!((starts, ran.len()), (5000, 5000));
    assert_eq!(bench.sql.query("SELECT FROM app_jobs.job_queues", &[]).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_pool_that_is_used_up_costs_no_lease() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut other = bench.worker(&function.url()).env("HOSTNAME", "other-worker").env("JOBS_LEASE", "3s");
    other = other.env("JOBS_SUPPORT_ANY", "false").env("JOBS_SUPPORTED", "hog");
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let small = [("JOBS_POOL_SIZE", "2"), ("JOBS_LEASE", "3s")];
    let worker = embedded(&bench, "embedded", &function.url(), &small);
    let worker = worker.raw_task("hog", TaskOptions::new(), move |context| {
        let started = started.clone();
        async move {
            let hog = async || {
                let client = context.db().connection().await.map_err(|error| error.to_string())?;
                client.batch_execute("SELECT pg_sleep(8)").await.map_err(|error| error.to_string())
            };
            started.send(()).map_err(|error| error.to_string())?;
            tokio::try_join!(hog(), hog()).map(drop)
        }
    });
    let shutdown = Shutdown::new();
    let worker = start(worker, &shutdown);
    let id = bench.add("hog").await;
    starts.recv().await.unwrap();
    // It would take the job over, once it has been there for a lease itself.
    let mut other = other.spawn();
    other.wait_for_line("worker looks for jobs", LIMIT).await;
    bench.gone(id).await;
    assert!(starts.try_recv().is_err(), "it was started once");
    assert_eq!(function.requests().len(), 0, "{}", other.output());
    shutdown.trigger();
    worker.await.unwrap();
}
