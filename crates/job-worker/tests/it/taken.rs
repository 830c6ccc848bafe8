//! Attempts whose jobs are taken away while they run: their slots are free again within ten seconds, however long the
//! lease is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use job_testkit::{eventually, eventually_some};
use job_worker::{Cancelled, Context, Db, HandlerResult, Shutdown, TaskOptions, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::support::{Bench, LIMIT};

/// The ten seconds that are promised, and what a busy machine may take. Without the promise it would be the 15 minutes
/// of JOBS_DISPATCH_TIMEOUT.
const PROMISED: Duration = Duration::from_secs(10 + 50);

#[tokio::test]
async fn attempts_whose_jobs_are_taken_away_free_their_slots_within_ten_seconds() {
    let bench = Bench::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (of_server, ends) = (asked.clone(), closed.clone());
    // Answers `/quick` at once and all else never; counts those that it does not answer, and how many of them are given
    // up.
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (asked, closed) = (of_server.clone(), ends.clone());
            tokio::spawn(async move {
                let (mut request, mut waits) = (Vec::new(), 0);
                while stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&request).into_owned();
                    if !text.ends_with("{}") {
                        continue;
                    }
                    if text.starts_with("POST /quick") {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"complete\":true}";
                        stream.write_all(answer).await.unwrap();
                        request.clear();
                    } else {
                        asked.fetch_add(1, SeqCst);
                        waits = 1;
                    }
                }
                closed.fetch_add(waits, SeqCst);
            });
        }
    });
    let mut worker = bench.worker(&url).env("JOBS_CONCURRENCY", "4").env("JOBS_LEASE", "1h").spawn();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(bench.add("slow").await);
    }
    eventually(LIMIT, async || asked.load(SeqCst) == 4).await;
    let quick = bench.add("quick").await;
    let [deleted, unlocked, stolen, claimed] = ids[..] else { unreachable!() };
    bench.run(&format!("DELETE FROM app_jobs.jobs WHERE id = {deleted}")).await;
    let unlock = "SET locked_by = NULL, locked_at = NULL, run_at = now() + interval '1 hour'";
    bench.run(&format!("UPDATE app_jobs.jobs {unlock} WHERE id = {unlocked}")).await;
    bench.run(&format!("UPDATE app_jobs.jobs SET locked_by = 'thief-1' WHERE id = {stolen}")).await;
    // Claimed anew by another worker.
    let unlock = format!("UPDATE app_jobs.jobs SET locked_by = NULL, locked_at = NULL WHERE id = {claimed}");
    bench.run(&format!("BEGIN; {unlock}; SELECT app_jobs.get_job('other-1', '{{slow}}'); COMMIT")).await;
    eventually(PROMISED, async || bench.job(quick).await.is_none()).await;
    // All four, each named once; and their requests are closed.
    eventually(LIMIT, async || closed.load(SeqCst) == 4).await;
    worker.wait_for_line("ended attempts whose jobs were taken away", LIMIT).await;
    let mut told = Vec::new();
    for line in worker.lines().iter().filter_map(|line| line.split_once("jobs=[")) {
        told.extend(line.1.trim_end_matches(']').split(", ").map(|id| id.parse::<i64>().unwrap()));
    }
    told.sort_unstable();
    assert_eq!(told, ids);
    // Nothing was settled.
    let left = bench.job(stolen).await.unwrap();
    assert_eq!((left.locked_by.as_deref(), left.last_error, left.attempts), (Some("thief-1"), None, 1));
    let left = bench.job(unlocked).await.unwrap();
    assert_eq!((left.locked, left.last_error, left.attempts), (false, None, 1));
    let left = bench.job(claimed).await.unwrap();
    assert_eq!((left.locked_by.as_deref(), left.last_error, left.attempts), (Some("other-1"), None, 2));
    server.abort();
}

/// Says that a handler was dropped.
struct Dropped(mpsc::UnboundedSender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

#[tokio::test]
async fn a_handler_is_told_that_its_job_was_taken_away_and_dropped_when_it_does_not_look() {
    let bench = Bench::new().await;
    let (said, mut heard) = mpsc::unbounded_channel();
    let options = TaskOptions::new;
    let worker = Worker::builder(Db::from_url(bench.db.url()).unwrap())
        .poll_interval(Duration::from_secs(3600))
        .concurrency(2)
        .lease(Duration::from_secs(3))
        .state(said)
        .raw_task("looks", options(), |context: Context<mpsc::UnboundedSender<&'static str>>| async move {
            let why = context.cancelled().await;
            context.state().send(if why == Cancelled::TakenAway { "told" } else { "told of something else" })?;
            HandlerResult::Ok(())
        })
        .raw_task("sleeps", options(), |context: Context<mpsc::UnboundedSender<&'static str>>| async move {
            let _dropped = Dropped(context.state().clone());
            std::future::pending::<()>().await;
        })
        .raw_task("quick", options(), |_| async {});
    let shutdown = Shutdown::new();
    let running = worker.build().unwrap().run(shutdown.clone());
    let running = tokio::spawn(async move { running.await.unwrap() });
    let mut ids = Vec::new();
    for task in ["looks", "sleeps"] {
        ids.push(bench.add(task).await);
        bench.held(ids[ids.len() - 1]).await;
    }
    let quick = bench.add("quick").await;
    bench.run("DELETE FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await;
    let mut both = [heard.recv().await.unwrap(), heard.recv().await.unwrap()];
    both.sort_unstable();
    assert_eq!(both, ["dropped", "told"]);
    bench.gone(quick).await;
    shutdown.trigger();
    assert_eq!(running.await.unwrap().orphaned, 0);
}

#[tokio::test]
async fn a_handler_that_has_ended_its_job_itself_goes_on_for_as_long_as_it_likes() {
    let bench = Bench::new().await;
    let (said, mut heard) = mpsc::unbounded_channel();
    let options = TaskOptions::new;
    type Said = mpsc::UnboundedSender<Option<Cancelled>>;
    /// After its transaction a handler works on for longer than an attempt whose job was taken away may.
    async fn work_on(context: &Context<Said>) -> HandlerResult {
        let why = tokio::time::timeout(Duration::from_secs(5), context.cancelled()).await.ok();
        Ok(context.state().send(why)?)
    }
    let worker = Worker::builder(Db::from_url(bench.db.url()).unwrap())
        .poll_interval(Duration::from_secs(3600))
        .lease(Duration::from_secs(3))
        .state(said)
        .raw_task("within", options(), |context: Context<Said>| async move {
            context.transaction(async |_| HandlerResult::Ok(())).await?;
            work_on(&context).await
        })
        .raw_task("by_token", options(), |context: Context<Said>| async move {
            let client = context.db().connection().await?;
            client.query("SELECT app_jobs.complete_in_transaction($1)", &[&context.token()]).await?;
            work_on(&context).await
        });
    let shutdown = Shutdown::new();
    let running = worker.build().unwrap().run(shutdown.clone());
    let running = tokio::spawn(async move { running.await.unwrap() });
    for task in ["within", "by_token"] {
        let id = bench.add(task).await;
        bench.gone(id).await;
    }
    assert_eq!((heard.recv().await.unwrap(), heard.recv().await.unwrap()), (None, None));
    shutdown.trigger();
    running.await.unwrap();
}

#[tokio::test]
async fn an_attempt_is_not_ended_because_the_database_says_nothing() {
    let bench = Bench::new().await;
    let gate = job_testkit::Gate::closed();
    let opened = gate.clone();
    let function = job_testkit::FakeFunction::start(move |_| {
        let gate = opened.clone();
        async move {
            gate.passed().await;
            job_testkit::Answer::complete()
        }
    })
    .await;
    let url = url::Url::parse(bench.db.url()).unwrap();
    let proxy = job_testkit::Proxy::start(url.port().unwrap()).await.unwrap();
    let worker = bench.worker(&function.url()).env("PGHOST", "127.0.0.1").env("PGPORT", proxy.port().to_string());
    let mut worker = worker.env("JOBS_LEASE", "3s").env("JOBS_STATEMENT_TIMEOUT", "1s").spawn();
    let id = bench.add("slow").await;
    function.wait_for(1, LIMIT).await;
    proxy.blackhole();
    worker.wait_for_line("cannot send a heartbeat", LIMIT).await;
    proxy.restore();
    // A heartbeat has got through since.
    let silent = "SELECT heartbeat_at > clock_timestamp() - interval '1 second' FROM app_jobs.workers";
    eventually_some(LIMIT, async || bench.sql.query_one(silent, &[]).await.unwrap().get::<_, bool>(0).then_some(()))
        .await;
    gate.open();
    bench.gone(id).await;
    assert_eq!(function.requests().len(), 1);
    assert!(!worker.output().contains("taken away"), "{}", worker.output());
}
