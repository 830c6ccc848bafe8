//! Handlers that block the thread they run on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use job_pg::{Instance, Uuid, WorkerDb};
use job_testkit::eventually;
use job_worker::{Cancelled, Context, Db, Retry, Shutdown, TaskOptions, Worker, WorkerBuilder};
use tokio::sync::mpsc;
use tracing_subscriber::fmt::MakeWriter;

use super::support::{Bench, LIMIT};

/// What a worker logs.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn builder(bench: &Bench, id: &str) -> WorkerBuilder {
    let db = Db::builder(bench.db.url()).statement_timeout(Duration::from_secs(2)).build().unwrap();
    Worker::builder(db).id(id).lease(Duration::from_secs(4)).poll_interval(Duration::from_millis(200))
}

/// Runs a worker on one thread of its own; returns what it logs there.
pub(super) fn on_one_thread(worker: WorkerBuilder<impl Send + Sync + 'static>, shutdown: &Shutdown) -> Log {
    let (log, shutdown, worker) = (Log::default(), shutdown.clone(), worker.build().unwrap());
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tracing::subscriber::with_default(subscriber, || runtime.block_on(worker.run(shutdown)).unwrap());
    });
    log
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_is_told_and_timed_out_and_its_worker_is_not_taken_for_dead() {
    let bench = Bench::new().await;
    let (began, mut begun) = mpsc::unbounded_channel();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let shutdown = Shutdown::new();
    let options = TaskOptions::new().timeout(Duration::from_secs(2)).retry(Retry::fixed(Duration::from_secs(3600)));
    let blocks = builder(&bench, "blocks").state((began, blocked)).raw_task(
        "blocks",
        options.clone(),
        |context: Context<(mpsc::UnboundedSender<()>, Mutex<std::sync::mpsc::Receiver<()>>)>| async move {
            let (began, blocked) = context.state();
            began.send(()).unwrap();
            blocked.lock().unwrap().recv_timeout(2 * LIMIT).unwrap();
        },
    );
    let log = on_one_thread(blocks, &shutdown);
    let here = "SELECT count(*) FROM app_jobs.workers WHERE worker_id = 'blocks'";
    eventually(LIMIT, async || bench.sql.query_one(here, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    let id = bench.add("blocks").await;
    begun.recv().await.unwrap();
    let other = builder(&bench, "other").raw_task("blocks", options, |_| async { Err::<(), _>("taken over") });
    let other = tokio::spawn(other.build().unwrap().run(shutdown.clone()));
    // It has been there for two leases, and looked after the other's jobs for one.
    let steady = "SELECT count(*) FROM app_jobs.workers WHERE worker_id = 'other' AND heartbeat_at > steady_since + interval '8 s'";
    eventually(LIMIT, async || bench.sql.query_one(steady, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    assert_eq!(bench.count("locked_by = 'blocks' AND interruptions = 0").await, 1);
    release.send(()).unwrap();
    let failed = bench.failed(id).await;
    let error = failed.last_error.unwrap();
    assert!(error.starts_with("not done within 2s: it held its thread for "), "{error}");
    assert_eq!(failed.attempts, 1);
    eventually(LIMIT, async || log.text().contains("held a thread")).await;
    let log = log.text();
    let told = log.lines().find_map(|line| line.split_once("task blocks held a thread for ")).unwrap().1;
    let (seconds, advice) = told.split_once(' ').unwrap();
    assert!(seconds.parse::<u64>().unwrap() >= 8 && advice.starts_with("s: use spawn_blocking"), "{told}");
    assert!(!log.contains("got no answer"), "Postgres has answered all the time: {log}");
    shutdown.trigger();
    other.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_loop_that_never_awaits_sees_that_its_time_is_up_and_says_itself_how_the_attempt_ends() {
    let bench = Bench::new().await;
    let shutdown = Shutdown::new();
    let options = TaskOptions::new().timeout(Duration::from_millis(1500));
    let worker = builder(&bench, "loops").raw_task("loops", options, |context: Context| async move {
        let (_silent, never) = std::sync::mpsc::channel::<()>();
        loop {
            let _computed = never.recv_timeout(Duration::from_millis(10));
            if context.is_cancelled() == Some(Cancelled::TimedOut) {
                return Err::<(), _>("stopped in the middle");
            }
        }
    });
    let _log = on_one_thread(worker, &shutdown);
    let id = bench.add("loops").await;
    assert_eq!(bench.failed(id).await.last_error.as_deref(), Some("stopped in the middle"));
    shutdown.trigger();
}

#[tokio::test]
async fn a_heartbeat_of_the_thread_that_comes_after_the_workers_end_registers_it_no_more() {
    let bench = Bench::new().await;
    let id = Uuid::new_v4();
    let lease = Duration::from_secs(60);
    let (overdue_message, job_expiry) = ("overdue".to_owned(), Duration::from_secs(3600));
    let instance = Instance { id, lease, listens: false, overdue_message, job_expiry };
    let db = WorkerDb::new(Db::from_url(bench.db.url()).unwrap(), "stands-in", instance);
    assert_eq!(db.heartbeat_apart().await.unwrap(), None, "it has not registered yet");
    db.heartbeat().await.unwrap();
    assert!(db.heartbeat_apart().await.unwrap().is_some());
    // One is under way, and waits, while the registration ends.
    let here = "SELECT count(*) FROM app_jobs.workers WHERE worker_id = 'stands-in'";
    bench.run(&format!("BEGIN; DELETE FROM app_jobs.workers WHERE instance = '{id}'")).await;
    let waiting = tokio::spawn({
        let db = db.clone();
        async move { db.heartbeat_apart().await }
    });
    let other = bench.db.connect().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(LIMIT, async || other.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    bench.run("COMMIT").await;
    assert_eq!(waiting.await.unwrap().unwrap(), None);
    assert_eq!(db.heartbeat_apart().await.unwrap(), None);
    assert_eq!(other.query_one(here, &[]).await.unwrap().get::<_, i64>(0), 0);
}
