//! Jobs claimed ahead of the slots, and limits for single tasks.

use job_testkit::process::Signal;
use job_testkit::{Answer, FakeFunction, Gate, eventually};
use job_worker::{Context, Db, HandlerResult, Shutdown, TaskOptions, Worker};
use tokio::sync::watch;

use super::support::{Bench, LIMIT};

/// A function that is quick until the gate matters: `/slow` waits for it.
async fn quick_but_slow(gate: &Gate) -> FakeFunction {
    let gate = gate.clone();
    FakeFunction::start(move |request| {
        let gate = gate.clone();
        async move {
            if request.target == "/slow" {
                gate.passed().await;
            }
            Answer::complete()
        }
    })
    .await
}

/// A worker with one slot that has got through many quick jobs, holds a slow one, and more of them ahead.
async fn ahead(bench: &Bench, function: &FakeFunction) -> job_testkit::Process {
    bench.run("SELECT app_jobs.add_job('quick') FROM generate_series(1, 400)").await;
    bench.run("SELECT app_jobs.add_job('slow') FROM generate_series(1, 400)").await;
    let worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "1").spawn();
    eventually(LIMIT, async || function.requests().iter().any(|request| request.target == "/slow")).await;
    eventually(LIMIT, async || bench.count("locked_at IS NOT NULL").await > 1).await;
    worker
}

#[tokio::test]
async fn quick_jobs_are_claimed_ahead_and_given_back_when_they_wait_too_long() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = quick_but_slow(&gate).await;
    let _worker = ahead(&bench, &function).await;
    // One is in its slot; the others are free again, with all their attempts, though the worker lives.
    eventually(LIMIT, async || bench.count("locked_at IS NOT NULL").await == 1).await;
    assert_eq!(bench.count("attempts = 0").await, 399);
    gate.open();
    bench.empty().await;
    assert_eq!(function.requests().len(), 800, "each job once");
}

#[tokio::test]
async fn a_stop_gives_back_what_is_ahead_at_once_and_waits_for_what_runs() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = quick_but_slow(&gate).await;
    let mut worker = ahead(&bench, &function).await;
    assert!(bench.count("locked_at IS NOT NULL").await > 1, "not yet given back for its age");
    worker.signal(Signal::Term);
    eventually(LIMIT, async || bench.count("locked_at IS NOT NULL").await == 1).await;
    gate.open();
    assert_eq!(worker.exit_code(LIMIT).await, 0);
    assert_eq!(bench.count("attempts = 0 AND locked_at IS NULL").await, 399);
    assert_eq!(function.requests().len(), 401);
}

#[tokio::test]
async fn nothing_is_claimed_ahead_when_prefetch_is_off() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = quick_but_slow(&gate).await;
    bench.run("SELECT app_jobs.add_job('quick') FROM generate_series(1, 400)").await;
    bench.run("SELECT app_jobs.add_job('slow') FROM generate_series(1, 10)").await;
    let worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "1");
    let _worker = worker.env("JOBS_PREFETCH", "0").spawn();
    eventually(LIMIT, async || function.requests().iter().any(|request| request.target == "/slow")).await;
    bench.idle().await;
    assert_eq!(bench.count("updated_at > created_at").await, 1, "no other job was ever claimed");
    gate.open();
    bench.empty().await;
}

#[tokio::test]
async fn a_limited_task_gets_its_turn_while_others_have_more_than_enough_to_do() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = quick_but_slow(&gate).await;
    bench.run("SELECT app_jobs.add_job('quick') FROM generate_series(1, 3000)").await;
    let worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "2");
    let _worker = worker.env("JOBS_TASK_CONCURRENCY", "rare=1").spawn();
    eventually(LIMIT, async || !function.requests().is_empty()).await;
    bench.gone(bench.add("rare").await).await;
    assert!(bench.count("true").await > 500, "the others are far from done");
}

#[tokio::test]
async fn a_limited_task_runs_no_more_jobs_at_once_and_holds_up_no_other() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = quick_but_slow(&gate).await;
    bench.run("SELECT app_jobs.add_job('slow') FROM generate_series(1, 20)").await;
    let worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "4");
    let _worker = worker.env("JOBS_TASK_CONCURRENCY", "slow=2, other=1").spawn();
    let quick = bench.add("quick").await;
    bench.gone(quick).await;
    bench.gone(bench.add("other").await).await;
    let slow = || function.requests().iter().filter(|request| request.target == "/slow").count();
    eventually(LIMIT, async || slow() == 2).await;
    assert_eq!(bench.count("locked_at IS NOT NULL").await, 2, "what has no slot is not claimed");
    bench.gone(bench.add("quick").await).await;
    assert_eq!(slow(), 2);
    gate.open();
    bench.empty().await;
    assert_eq!(slow(), 20);
}

/// Many slow jobs that end at once look like a rate; but what is claimed ahead of such would only wait.
#[tokio::test]
async fn slow_jobs_that_end_together_are_not_taken_for_quick_ones() {
    async fn slow(context: Context<watch::Receiver<i64>>) -> HandlerResult {
        context.state().clone().wait_for(|done| context.job().id <= *done).await?;
        Ok(())
    }
    let bench = Bench::new().await;
    bench.run("SELECT app_jobs.add_job('slow') FROM generate_series(1, 150)").await;
    let (done, told) = watch::channel(0);
    let worker = Worker::builder(Db::from_url(bench.db.url()).unwrap()).concurrency(50);
    let worker = worker.state(told).raw_task("slow", TaskOptions::new(), slow).build().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    // A handler may begin a while after its job was claimed, on a busy machine.
    let slow = "locked_at < clock_timestamp() - interval '1 s'";
    eventually(LIMIT, async || bench.count(slow).await == 50).await;
    done.send(50).unwrap();
    eventually(LIMIT, async || bench.count("locked_at IS NOT NULL AND id > 50").await >= 50).await;
    bench.idle().await;
    assert_eq!(bench.count("locked_at IS NOT NULL").await, 50);
    done.send(150).unwrap();
    bench.empty().await;
    shutdown.trigger();
    running.await.unwrap().unwrap();
}
