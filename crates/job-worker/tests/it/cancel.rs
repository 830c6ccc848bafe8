//! Jobs that are cancelled: waiting, ahead of a slot, running, accepted, and while a worker stops.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use job_testkit::cluster::free_port;
use job_testkit::process::Signal;
use job_testkit::{Answer, FakeFunction, Gate, eventually};
use job_worker::{AdminDb, Cancelled, CancelledJobs, Context, Db, Event, HandlerResult, Shutdown, TaskOptions, Worker};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::support::{Bench, LIMIT};

/// The two seconds that are promised, and what a busy machine may take. A heartbeat alone would take 6.5 s.
const PROMISED: Duration = Duration::from_secs(2 + 3);

/// A function that answers `/quick` at once, and all else when the gate opens.
async fn function(gate: &Gate) -> FakeFunction {
    FakeFunction::waiting(gate, |target| target != "/quick", Answer::complete()).await
}

/// Cancels jobs; returns how many, and when the call came back.
async fn cancel(bench: &Bench, ids: &str) -> (i64, Instant) {
    let sql = format!("SELECT count(*) FROM app_jobs.cancel_jobs(ARRAY({ids}), 'no longer wanted')");
    (bench.sql.query_one(&sql, &[]).await.unwrap().get(0), Instant::now())
}

#[tokio::test]
async fn the_slot_of_a_cancelled_job_is_free_within_two_seconds_whether_its_worker_listens_or_not() {
    for listen in ["on", "off"] {
        let bench = Bench::new().await;
        let function = function(&Gate::closed()).await;
        let worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "1").env("JOBS_LISTEN", listen);
        let mut worker = worker.env("JOBS_POLL_INTERVAL", "1s").env("JOBS_LEASE", "1h").spawn();
        let slow = bench.add("slow").await;
        function.wait_for(1, LIMIT).await;
        let quick = bench.add("quick").await;
        let (cancelled, at) = cancel(&bench, &format!("VALUES ({slow})")).await;
        assert_eq!((cancelled, bench.job(slow).await), (1, None));
        bench.gone(quick).await;
        assert!(at.elapsed() < PROMISED, "JOBS_LISTEN={listen}: {:?}", at.elapsed());
        worker.wait_for_line("job cancelled", LIMIT).await;
        let told = worker.lines().into_iter().find(|line| line.contains("job cancelled")).unwrap();
        assert!(told.contains("no longer wanted") && told.contains("slow"), "{told}");
        assert!(!worker.output().contains("taken away"), "{}", worker.output());
        // Nobody has to be told any more.
        let rows = "SELECT count(*) FROM app_jobs.cancelled_attempts";
        eventually(LIMIT, async || bench.sql.query_one(rows, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    }
}

#[tokio::test]
async fn what_is_cancelled_ahead_of_a_slot_never_starts() {
    let bench = Bench::new().await;
    let function = function(&Gate::closed()).await;
    bench.run("SELECT app_jobs.add_job('quick') FROM generate_series(1, 400)").await;
    bench.run("SELECT app_jobs.add_job('slow') FROM generate_series(1, 400)").await;
    let worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "1");
    let _worker = worker.spawn();
    let slow = || function.requests().iter().filter(|request| request.target == "/slow").count();
    eventually(LIMIT, async || slow() == 1).await;
    eventually(LIMIT, async || bench.count("locked_at IS NOT NULL").await > 1).await;
    assert_eq!(cancel(&bench, "SELECT id FROM app_jobs.jobs").await.0, 400);
    let quick = bench.add("quick").await;
    bench.gone(quick).await;
    assert_eq!(slow(), 1);
}

#[tokio::test]
async fn the_callback_of_a_cancelled_job_is_stale() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let port = free_port().unwrap();
    let _server = bench.server(port).spawn();
    let url = format!("http://127.0.0.1:{port}");
    let mut worker = bench.worker(&function.url()).env("INTERNAL_JOBS_CALLBACK_URL", &url).spawn();
    for stored in [false, true] {
        let id = bench.add("accepted").await;
        let request = function.wait_for(1 + usize::from(stored), LIMIT).await.pop().unwrap();
        worker.wait_for_line("job accepted", LIMIT).await;
        if stored {
            eventually(LIMIT, async || bench.count("accepted").await == 1).await;
        }
        assert_eq!(cancel(&bench, &format!("VALUES ({id})")).await.0, 1);
        let (status, body) = if stored { request.call_back_error("no").await } else { request.call_back().await };
        assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()["stale"].clone()), (200, json!(true)));
        assert_eq!(bench.job(id).await, None, "nothing is tried again");
    }
}

#[tokio::test]
async fn a_worker_that_stops_does_not_wait_for_a_job_that_is_cancelled() {
    let bench = Bench::new().await;
    let function = function(&Gate::closed()).await;
    let mut worker = bench.worker(&function.url()).env("JOBS_SHUTDOWN_GRACE", "10m").spawn();
    let id = bench.add("slow").await;
    function.wait_for(1, LIMIT).await;
    worker.signal(Signal::Term);
    worker.wait_for_line("waiting for jobs in flight", LIMIT).await;
    assert_eq!(cancel(&bench, &format!("VALUES ({id})")).await.0, 1);
    assert_eq!(worker.exit_code(LIMIT).await, 0);
    assert!(worker.output().contains("job cancelled"), "{}", worker.output());
}

/// Says that a handler was dropped.
struct Dropped(mpsc::UnboundedSender<String>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped".to_owned());
    }
}

#[tokio::test]
async fn a_handler_is_told_why_its_job_is_cancelled_and_its_attempt_ends_once() {
    type Said = mpsc::UnboundedSender<String>;
    let bench = Bench::new().await;
    let db = Db::from_url(bench.db.url()).unwrap();
    let (said, mut heard) = mpsc::unbounded_channel();
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    let worker = Worker::builder(db.clone())
        .poll_interval(Duration::from_secs(3600))
        .concurrency(3)
        .on_event(move |event| {
            let mut told = listener.lock().unwrap();
            match event {
                Event::AttemptEnded(attempt) => told.push(format!("{} ended", attempt.job_id)),
                Event::JobCancelled { attempt, reason } => {
                    assert!(attempt.duration.is_some());
                    told.push(format!("{} cancelled: {reason:?}", attempt.job_id));
                }
                Event::AttemptStarted(_) => {}
                other => told.push(format!("{other:?}")),
            }
        })
        .state(said)
        .raw_task("looks", TaskOptions::new(), |context: Context<Said>| async move {
            let why = context.cancelled().await;
            assert_eq!((why, context.is_cancelled()), (Cancelled::Requested, Some(Cancelled::Requested)));
            context.state().send(format!("{why:?}: {}", context.cancel_reason().unwrap_or_default()))?;
            // What it says now does nothing.
            HandlerResult::<()>::Err("too late".into())
        })
        .raw_task("sleeps", TaskOptions::new(), |context: Context<Said>| async move {
            let _dropped = Dropped(context.state().clone());
            std::future::pending::<()>().await;
        })
        .raw_task("by_token", TaskOptions::new(), |context: Context<Said>| async move {
            // It might have ended the job itself.
            let _token = context.token();
            let _dropped = Dropped(context.state().clone());
            std::future::pending::<()>().await;
        });
    let shutdown = Shutdown::new();
    let running = worker.build().unwrap().run(shutdown.clone());
    let running = tokio::spawn(async move { running.await.unwrap() });
    let mut ids = Vec::new();
    for task in ["looks", "sleeps", "by_token"] {
        ids.push(bench.add(task).await);
        bench.held(ids[ids.len() - 1]).await;
    }
    let waiting = bench.add_with("looks", "{}", ", run_at := now() + interval '1 hour'").await;
    let holder = bench.db.connect().await;
    holder.batch_execute("BEGIN").await.unwrap();
    let held = bench.add_with("looks", "{}", ", run_at := now() + interval '1 hour'").await;
    holder.query("SELECT FROM app_jobs.jobs WHERE id = $1 FOR UPDATE", &[&held]).await.unwrap();
    let all = [ids.clone(), vec![waiting, held, 4711]].concat();
    let mut gone = AdminDb::new(db.clone()).cancel_jobs(&all, Some("a better one")).await.unwrap();
    gone.cancelled.sort_unstable();
    assert_eq!(gone.cancelled, [ids.clone(), vec![waiting]].concat());
    assert_eq!(gone.left, [held]);
    assert_ne!(gone, CancelledJobs::default());
    let mut heard = [heard.recv().await.unwrap(), heard.recv().await.unwrap(), heard.recv().await.unwrap()];
    heard.sort_unstable();
    assert_eq!(heard, ["Requested: a better one", "dropped", "dropped"]);
    let events = || {
        let mut events = told.lock().unwrap().clone();
        events.sort_unstable();
        events
    };
    eventually(LIMIT, async || events().len() >= 6).await;
    let mut expected: Vec<String> =
        ids.iter().flat_map(|id| [format!("{id} cancelled: Some(\"a better one\")"), format!("{id} ended")]).collect();
    expected.sort_unstable();
    assert_eq!(events(), expected);
    holder.batch_execute("ROLLBACK").await.unwrap();
    shutdown.trigger();
    assert_eq!(running.await.unwrap().orphaned, 0);
    assert_eq!(events(), expected, "no other outcome follows");
    let error = AdminDb::new(db).cancel_jobs(&[1], Some(&"x".repeat(1001))).await.unwrap_err();
    assert_eq!(error.to_string(), "reason has 1001 characters, and 1000 are allowed. Give a shorter reason.");
}
