//! Many connections at once: each job is claimed exactly once, and named queues never overlap.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::sql::support::{LIMIT, Session, database};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_connections_claiming_5000_jobs_claim_each_exactly_once() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "INSERT INTO app_jobs.jobs (task_identifier, priority, run_at)
         SELECT 'x', g % 3, now() - g % 7 * interval '1 minute' FROM generate_series(1, 5000) g",
    )
    .await;
    let mut workers = JoinSet::new();
    for worker in 0..16 {
        let s = Session::open(&db).await;
        workers.spawn(async move {
            let get = format!("'worker-{worker}'");
            let mut claimed = Vec::new();
            // None may also mean that the others were just claiming what is left: then they have it.
            while let Some(id) = s.get_job(&get).await {
                claimed.push(id);
            }
            claimed
        });
    }
    let claimed = workers.join_all().await;
    let all: Vec<i64> = claimed.iter().flatten().copied().collect();
    assert_eq!(all.len(), 5000);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 5000, "no job was claimed twice");
    assert!(claimed.iter().filter(|ids| !ids.is_empty()).count() > 8, "the work was shared");
    assert_eq!(s.show("SELECT min(attempts), max(attempts), count(locked_by) FROM app_jobs.jobs").await, "1|1|5000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_completions_failures_and_releases_at_once_lose_and_double_nothing() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, max_attempts)
         SELECT 'x', CASE WHEN g % 2 = 0 THEN 'q' || g % 7 END, 100 FROM generate_series(1, 400) g",
    )
    .await;
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let s = Session::open(&db).await;
        workers.spawn(async move {
            let me = format!("worker-{worker}");
            let (mut done, mut turn) = (Vec::new(), 0);
            while s.is("SELECT EXISTS (SELECT FROM app_jobs.jobs)").await {
                let Some(id) = s.get_job(&format!("'{me}'")).await else { continue };
                turn += 1;
                match turn % 5 {
                    3 => s.run(&format!("SELECT app_jobs.fail_job('{me}', {id}, 'no'), app_jobs.reschedule_jobs('{{{id}}}', run_at := now())")).await,
                    4 => s.run(&format!("SELECT app_jobs.release_jobs('{me}')")).await,
                    _ => {
                        let completed = s.number(&format!("SELECT id FROM app_jobs.complete_job('{me}', {id})")).await;
                        done.push(completed);
                    }
                }
            }
            done
        });
    }
    let mut done: Vec<i64> = workers.join_all().await.into_iter().flatten().collect();
    done.sort_unstable();
    assert_eq!(done, (1..=400).collect::<Vec<_>>(), "each job was completed exactly once");
    assert_eq!(s.show("SELECT * FROM app_jobs.job_queues").await, "", "and the queues' counts came out even");
}

/// The first jobs without a queue wait until two of them run: on a busy machine none might happen to.
#[derive(Default)]
struct SideBySide {
    running: AtomicUsize,
    met: watch::Sender<bool>,
}

impl SideBySide {
    async fn wait_for_another(&self) {
        let mut met = self.met.subscribe();
        if self.running.fetch_add(1, Ordering::SeqCst) > 0 {
            self.met.send_replace(true);
        }
        let met = tokio::time::timeout(LIMIT, met.wait_for(|met| *met)).await;
        assert!(met.is_ok(), "jobs without a queue run side by side");
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_queues_never_overlap_and_keep_order_while_jobs_without_one_run_side_by_side() {
    let db = database().await;
    let s = Session::open(&db).await;
    // The order of ids within a queue is the order of its payload numbers.
    s.run(
        "CREATE TABLE public.log (at bigserial, what text, queue text, job bigint);
         INSERT INTO app_jobs.jobs (task_identifier, queue_name)
         SELECT 'x', CASE WHEN g % 6 < 5 THEN 'q' || g % 6 END FROM generate_series(1, 300) g",
    )
    .await;
    let (mut workers, free) = (JoinSet::new(), Arc::new(SideBySide::default()));
    for worker in 0..8 {
        let (s, free) = (Session::open(&db).await, free.clone());
        workers.spawn(async move {
            while s.is("SELECT EXISTS (SELECT FROM app_jobs.jobs)").await {
                let claimed = s.show(&format!("SELECT id, queue_name FROM app_jobs.get_job('worker-{worker}')")).await;
                let Some((id, queue)) = claimed.split_once('|').filter(|(id, _)| *id != "~") else { continue };
                // Between claim and completion: what the log says here is what ran.
                s.run(&format!(
                    "INSERT INTO public.log (what, queue, job) VALUES ('start', nullif('{queue}', '~'), {id})"
                ))
                .await;
                if queue == "~" {
                    free.wait_for_another().await;
                }
                s.run(&format!(
                    "INSERT INTO public.log (what, queue, job) VALUES ('end', nullif('{queue}', '~'), {id})"
                ))
                .await;
                s.run(&format!("SELECT app_jobs.complete_job('worker-{worker}', {id})")).await;
            }
        });
    }
    workers.join_all().await;
    let log = s.show("SELECT what, queue, job FROM public.log ORDER BY at").await;
    let mut running: BTreeMap<&str, HashSet<i64>> = BTreeMap::new();
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    let mut side_by_side = 0;
    for line in log.lines() {
        let [what, queue, job] = line.split('|').collect::<Vec<_>>().try_into().unwrap();
        let job: i64 = job.parse().unwrap();
        let now = running.entry(queue).or_default();
        if what == "end" {
            now.remove(&job);
            continue;
        }
        if queue == "~" {
            side_by_side = side_by_side.max(now.len() + 1);
        } else {
            assert!(now.is_empty(), "job {job} of queue {queue} started while {now:?} ran");
            assert!(last.insert(queue, job).is_none_or(|before| before < job), "job {job} of queue {queue} came late");
        }
        now.insert(job);
    }
    assert_eq!(log.lines().count(), 600, "every job started and ended once");
    assert!(side_by_side > 1, "jobs without a queue ran side by side");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_queue_keeps_its_order_although_it_becomes_free_while_others_are_looking() {
    let db = database().await;
    let s = Session::open(&db).await;
    // Long enough for a look to meet the moment in which the queue becomes free.
    s.run("INSERT INTO app_jobs.jobs (task_identifier, queue_name) SELECT 'x', 'q' FROM generate_series(1, 300)").await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let (s, order) = (Session::open(&db).await, Arc::clone(&order));
        workers.spawn(async move {
            while order.lock().unwrap().len() < 300 {
                if let Some(id) = s.get_job(&format!("'worker-{worker}'")).await {
                    order.lock().unwrap().push(id);
                    s.run(&format!("SELECT app_jobs.complete_job('worker-{worker}', {id})")).await;
                }
            }
        });
    }
    workers.join_all().await;
    let order = order.lock().unwrap();
    let late: Vec<&[i64]> = order.windows(2).filter(|pair| pair[0] > pair[1]).collect();
    assert_eq!(late, Vec::<&[i64]>::new(), "pairs of jobs that ran in the wrong order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_schedulers_take_each_schedule_once() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info) SELECT 'x', '{}' FROM generate_series(1, 200)").await;
    let mut schedulers = JoinSet::new();
    for scheduler in 0..8 {
        let s = Session::open(&db).await;
        schedulers.spawn(async move {
            let mut taken = Vec::new();
            while let Ok(id) = s
                .show(&format!("SELECT id FROM app_jobs.get_scheduled_job('scheduler-{scheduler}')"))
                .await
                .parse::<i64>()
            {
                taken.push(id);
            }
            taken
        });
    }
    let mut taken: Vec<i64> = schedulers.join_all().await.into_iter().flatten().collect();
    taken.sort_unstable();
    assert_eq!(taken, (1..=200).collect::<Vec<_>>());
}
