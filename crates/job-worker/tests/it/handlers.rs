//! Tasks that run in the worker's own process.

use std::collections::BTreeMap;

use job_testkit::{Answer, FakeFunction, eventually};
use job_utils::config::WorkerConfig;
use job_utils::db::Db;
use job_utils::shutdown::Shutdown;
use job_worker::{Handlers, Job, Stopped};
use tokio::task::JoinHandle;

use super::support::{Bench, LIMIT};

/// A worker in this process, with a function for what has no handler.
async fn embedded(bench: &Bench, id: &str, handlers: Handlers, url: &str, shutdown: &Shutdown) -> JoinHandle<Stopped> {
    let env = BTreeMap::from([
        ("DATABASE_URL", bench.db.url()),
        ("HOSTNAME", id),
        ("KNATIVE_SERVICE_URL", url),
        ("JOBS_POLL_INTERVAL", "1h"),
    ]);
    let config = WorkerConfig::from_env(&env).unwrap();
    let db = Db::new(&config.postgres).unwrap();
    let running = job_worker::run_with(config, handlers, db, shutdown.clone());
    tokio::spawn(async move { running.await.unwrap() })
}

#[tokio::test]
async fn a_task_with_a_handler_runs_here_and_others_are_dispatched() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let (seen, mut payloads) = tokio::sync::mpsc::unbounded_channel();
    let handlers = Handlers::new()
        .add("here", move |job: Job| {
            let seen = seen.clone();
            async move { seen.send((job.payload, job.attempts)).map_err(|error| error.to_string()) }
        })
        .add("long", |_| async { Err("ü".repeat(1 << 20)) })
        .add("fails", |_| async { Err("not\0today".to_owned()) })
        .add("panics", |job: Job| async move {
            if job.attempts == 1 { panic!("attempt {}", job.attempts) } else { Ok(()) }
        });
    let shutdown = Shutdown::new();
    let worker = embedded(&bench, "embedded", handlers, &function.url(), &shutdown).await;

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
async fn thousands_of_jobs_end_each_once() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let ran = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = ran.clone();
    let handlers = Handlers::new().add("many", move |job: Job| {
        let log = log.clone();
        async move {
            log.lock().unwrap().push(job.id);
            Ok(())
        }
    });
    bench
        .run(
            "SELECT app_jobs.add_job('many', '{}'::json, priority := n % 3, \
             queue_name := CASE n % 5 WHEN 0 THEN 'queue-' || n % 100 END) FROM generate_series(1, 5000) n",
        )
        .await;
    let (first, second) = (Shutdown::new(), Shutdown::new());
    let workers = (
        embedded(&bench, "embedded-1", handlers.clone(), &function.url(), &first).await,
        embedded(&bench, "embedded-2", handlers, &function.url(), &second).await,
    );
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
    let env = BTreeMap::from([
        ("DATABASE_URL", bench.db.url()),
        ("HOSTNAME", "embedded"),
        ("JOBS_POLL_INTERVAL", "1h"),
        ("JOBS_POOL_SIZE", "2"),
        ("JOBS_LEASE", "3s"),
    ]);
    let config = WorkerConfig::from_env(&env).unwrap();
    let db = Db::new(&config.postgres).unwrap();
    let pool = db.clone();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let handlers = Handlers::new().add("hog", move |_| {
        let (pool, started) = (pool.clone(), started.clone());
        async move {
            let hog = async || {
                let client = pool.connection().await.map_err(|error| error.to_string())?;
                client.batch_execute("SELECT pg_sleep(8)").await.map_err(|error| error.to_string())
            };
            started.send(()).map_err(|error| error.to_string())?;
            tokio::try_join!(hog(), hog()).map(drop)
        }
    });
    let shutdown = Shutdown::new();
    let worker = tokio::spawn(job_worker::run_with(config, handlers, db, shutdown.clone()));
    let id = bench.add("hog").await;
    starts.recv().await.unwrap();
    // It would take the job over, once it has been there for a lease itself.
    let mut other = other.spawn();
    other.wait_for_line("worker looks for jobs", LIMIT).await;
    bench.gone(id).await;
    assert!(starts.try_recv().is_err(), "it was started once");
    assert_eq!(function.requests().len(), 0, "{}", other.output());
    shutdown.trigger();
    worker.await.unwrap().unwrap();
}
