//! Fairness among tenants, with workers that claim ahead.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use job_testkit::{Answer, FakeFunction, eventually};
use job_worker::{Context, Db, HandlerResult, Shutdown, TaskOptions, Worker};

use super::support::{Bench, LIMIT};

const BIG: &str = "00000000-0000-0000-0000-00000000000a";
const SMALL: &str = "00000000-0000-0000-0000-00000000000b";

impl Bench {
    async fn backlog(&self, task: &str, tenant: &str, jobs: usize) {
        self.run(&format!(
            "INSERT INTO app_jobs.jobs (task_identifier, database_id)
             SELECT '{task}', '{tenant}' FROM generate_series(1, {jobs})"
        ))
        .await;
    }
}

/// A job that takes so long.
async fn take(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

#[tokio::test]
async fn a_small_tenants_jobs_pass_a_backlog_of_quick_ones_that_a_worker_claims_ahead() {
    let bench = Bench::new().await;
    bench.run("SELECT app_jobs.set_fair('tenant', true)").await;
    let function = FakeFunction::start(|_| async {
        take(Duration::from_millis(2)).await;
        Answer::complete()
    })
    .await;
    bench.backlog("big", BIG, 6000).await;
    let _worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "4").spawn();
    let small = || function.requests().iter().filter(|request| request.target == "/small").count();
    let mut passed = Vec::new();
    for n in 1..=5 {
        let before = function.requests().len();
        eventually(LIMIT, async || function.requests().len() >= before + 300).await;
        let before = function.requests().len();
        bench.backlog("small", SMALL, 1).await;
        eventually(LIMIT, async || small() == n).await;
        let at = function.requests().iter().rposition(|request| request.target == "/small").unwrap();
        passed.push(at.saturating_sub(before));
    }
    passed.sort_unstable();
    assert!(bench.count("true").await > 500, "the others are far from done");
    assert!(passed[2] < 150, "so many others came before them: {passed:?}");
}

#[tokio::test]
async fn tenants_share_a_workers_slots_by_what_their_jobs_take() {
    type Used = Arc<Mutex<[f64; 2]>>;
    async fn job(context: Context<Used>) -> HandlerResult {
        let began = Instant::now();
        let small = context.job().tenant.is_some_and(|tenant| tenant.to_string() == SMALL);
        take(Duration::from_millis(if small { 5 } else { 50 })).await;
        context.state().lock().unwrap()[usize::from(small)] += began.elapsed().as_secs_f64();
        Ok(())
    }
    let bench = Bench::new().await;
    bench.run("SELECT app_jobs.set_fair('tenant', true)").await;
    bench.backlog("job", BIG, 3000).await;
    bench.backlog("job", SMALL, 6000).await;
    let used = Used::default();
    let worker = Worker::builder(Db::from_url(bench.db.url()).unwrap()).concurrency(8);
    let worker = worker.state(used.clone()).raw_task("job", TaskOptions::new(), job).build().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    // Ten seconds of slots.
    let total = || used.lock().unwrap().iter().sum::<f64>();
    eventually(LIMIT, async || total() >= 10.0).await;
    let used = *used.lock().unwrap();
    shutdown.trigger();
    running.await.unwrap().unwrap();
    let share = used[1] / (used[0] + used[1]);
    assert!((0.43..=0.57).contains(&share), "the small one's share is {share}: {used:?}");
}
