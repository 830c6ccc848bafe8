//! Limits are exact: with many claimers, whenever they are set, and in every isolation level.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use job_testkit::{TestDb, eventually};
use tokio::task::JoinSet;

use crate::sql::gates::claim;
use crate::sql::support::{LIMIT, Session, database};

const TENANT: &str = "7b0e6c2e-1111-4222-8333-944455566677";

/// Eight workers that claim a few jobs and complete them, until told to stop or, when `to_the_end`, nothing is left.
async fn eight_workers(db: &TestDb, to_the_end: bool, stop: &Arc<AtomicBool>) -> JoinSet<()> {
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let (s, stop) = (Session::open(db).await, stop.clone());
        workers.spawn(async move {
            let mut turn = worker;
            while !stop.load(Ordering::Relaxed)
                && (!to_the_end || s.is("SELECT EXISTS (SELECT FROM app_jobs.jobs)").await)
            {
                turn += 1;
                let ids = claim(&s, &format!("'worker-{worker}', NULL, {}, NULL", 1 + turn % 4)).await;
                for id in ids {
                    let end = if (id + turn) % 9 == 0 { "fail_job" } else { "complete_job" };
                    let message = if end == "fail_job" { ", 'no'" } else { "" };
                    s.run(&format!(
                        "SELECT app_jobs.{end}('worker-{worker}', {id}{message});
                         UPDATE app_jobs.jobs SET run_at = now() WHERE id = {id}"
                    ))
                    .await;
                }
            }
        });
    }
    workers
}

/// Looks at what runs as long as the workers work: whatever `over` gives is over a limit.
async fn watch(s: &Session, workers: &mut JoinSet<()>, over: &str) -> usize {
    let (mut looks, begun) = (0, Instant::now());
    loop {
        while let Some(ended) = workers.try_join_next() {
            ended.unwrap();
        }
        if workers.is_empty() {
            return looks;
        }
        assert_eq!(s.show(over).await, "", "over a limit");
        assert!(begun.elapsed() < LIMIT * 4, "nothing ends: {}", s.show("TABLE app_jobs.jobs LIMIT 20").await);
        looks += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_jobs_run_than_any_of_their_gates_allows() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(&format!(
        "SELECT app_jobs.set_limit('task', 't', max_running => 5), app_jobs.set_limit('task', '*', max_running => 3),
                app_jobs.set_limit('queue', 'q0', max_running => 2), app_jobs.set_limit('queue', 'q1', max_running => 3),
                app_jobs.set_limit('tenant', '{TENANT}', max_running => 4), app_jobs.set_limit('tenant', '*', 2);
         INSERT INTO app_jobs.jobs (task_identifier, queue_name, database_id, priority)
         SELECT (ARRAY['t', 't', 'u', 'v'])[1 + g % 4], (ARRAY['q0', 'q1', 'q2', NULL, NULL])[1 + g % 5],
                (ARRAY['{TENANT}', '00000000-0000-0000-0000-000000000002', NULL])[1 + g % 3]::uuid, g % 7
           FROM generate_series(1, 700) g"
    ))
    .await;
    let mut workers = eight_workers(&db, true, &Arc::default()).await;
    let over = format!(
        "SELECT kind, name, count(*) FROM app_jobs.jobs j
          CROSS JOIN LATERAL (VALUES
                ('task', task_identifier, CASE task_identifier WHEN 't' THEN 5 ELSE 3 END),
                ('queue', queue_name, CASE queue_name WHEN 'q0' THEN 2 WHEN 'q1' THEN 3 ELSE 1 END),
                ('tenant', database_id::text, CASE database_id WHEN '{TENANT}' THEN 4 ELSE 2 END)) AS g (kind, name, most)
          WHERE locked_at IS NOT NULL AND name IS NOT NULL GROUP BY kind, name, most HAVING count(*) > most"
    );
    assert!(watch(&s, &mut workers, &over).await > 20);
}

/// On a busy machine a claim may have been under way for too long.
async fn set_at_last(s: &Session, set: &str) {
    eventually(LIMIT, async || match s.try_show(set).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code().map(|code| code.code()), Some("55P03"), "{error:?}");
            false
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_set_while_jobs_run_and_claims_are_under_way_is_kept_from_that_moment_on() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(&format!(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, database_id)
         SELECT 't', CASE WHEN g % 4 = 0 THEN 'q' || g % 40 END, '{TENANT}' FROM generate_series(1, 20000) g"
    ))
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = eight_workers(&db, false, &stop).await;
    let running = "SELECT id FROM app_jobs.jobs WHERE locked_at IS NOT NULL";
    let mut looks = 0;
    for round in 0..30 {
        let (kind, name) = [("task", "t"), ("tenant", TENANT), ("task", "*"), ("tenant", "*")][round % 4];
        let most = 1 + round % 3;
        set_at_last(&s, &format!("SELECT app_jobs.set_limit('{kind}', '{name}', max_running => {most})")).await;
        let ids = async || -> BTreeSet<i64> { s.show(running).await.lines().map(|id| id.parse().unwrap()).collect() };
        let before = ids().await;
        let until = Instant::now() + Duration::from_millis(150);
        let mut new = 0;
        while Instant::now() < until || new == 0 {
            let now = ids().await;
            new += now.difference(&before).count();
            assert!(
                now.len() <= most || now.is_subset(&before),
                "{most} of {kind} {name}: {before:?} and then {now:?}"
            );
            assert!(Instant::now() < until + LIMIT, "nothing starts under {most} of {kind} {name}");
            looks += 1;
        }
        set_at_last(&s, &format!("SELECT app_jobs.set_limit('{kind}', '{name}')")).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    assert!(looks > 100);
}

#[tokio::test]
async fn a_limit_counts_what_runs_already_however_long_ago_it_was_set() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (kind, name) in [("task", "t"), ("task", "*"), ("tenant", TENANT), ("tenant", "*")] {
        s.run(&format!(
            "INSERT INTO app_jobs.jobs (task_identifier, database_id) SELECT 't', '{TENANT}' FROM generate_series(1, 6)"
        ))
        .await;
        assert_eq!(claim(&s, "'worker', NULL, 3, NULL").await.len(), 3);
        s.run(&format!("SELECT app_jobs.set_limit('{kind}', '{name}', max_running => 4)")).await;
        s.run("UPDATE app_jobs.gates SET set_at = now() - interval '1 hour'").await;
        assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 1, "{kind} {name}");
        s.run(&format!("SELECT app_jobs.set_limit('{kind}', '{name}', max_running => 2)")).await;
        s.run("SELECT app_jobs.complete_job('worker', id) FROM (SELECT id FROM app_jobs.jobs WHERE locked_at IS NOT NULL LIMIT 2) j")
            .await;
        assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 0, "lowered: {kind} {name}");
        s.run(&format!("SELECT app_jobs.set_limit('{kind}', '{name}', max_running => 3)")).await;
        assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 1, "raised: {kind} {name}");
        s.run(&format!("SELECT app_jobs.set_limit('{kind}', '{name}'); DELETE FROM app_jobs.jobs")).await;
    }
}

#[tokio::test]
async fn a_job_that_somebody_holds_while_a_limit_is_set_counts_as_well() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.add_job('t') FROM generate_series(1, 3)").await;
    let running = claim(&s, "'worker', NULL, 1, NULL").await;
    other.run("BEGIN").await;
    other.run(&format!("SELECT FROM app_jobs.jobs WHERE id = {} FOR UPDATE", running[0])).await;
    s.run("SELECT app_jobs.set_limit('task', 't', max_running => 1)").await;
    assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await, [] as [i64; 0]);
    other.run("ROLLBACK").await;
    assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await, [] as [i64; 0]);
    s.run(&format!("SELECT app_jobs.complete_job('worker', {})", running[0])).await;
    assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 1);
}

#[tokio::test]
async fn set_limit_waits_for_claims_and_says_who_keeps_it_waiting() {
    let db = database().await;
    let (s, claimer) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.add_job('t') FROM generate_series(1, 3)").await;
    claimer.run("BEGIN").await;
    assert!(claimer.get_job("'worker-1'").await.is_some());
    let error = s.error("SELECT app_jobs.set_limit('task', 't', max_running => 1)").await;
    assert_eq!(error.code().code(), "55P03");
    assert_eq!(error.detail(), Some(format!("Server processes: {}.", claimer.pid().await).as_str()));
    assert!(s.get_job("'worker-2'").await.is_some(), "claims go on when it has given up");
    claimer.run("COMMIT").await;
    s.run("SELECT app_jobs.set_limit('task', 't', max_running => 2)").await;
    assert_eq!(s.get_job("'worker-2'").await, None);
}

#[tokio::test]
async fn a_claim_in_a_snapshot_from_before_a_limit_is_an_error_of_serialization() {
    let db = database().await;
    let (s, old) = (Session::open(&db).await, Session::open(&db).await);
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        s.run("SELECT app_jobs.add_job('t'), app_jobs.add_job('t')").await;
        old.run(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM app_jobs.jobs")).await;
        s.run("SELECT app_jobs.set_limit('task', 't', max_running => 1)").await;
        assert!(s.get_job("'worker-1'").await.is_some());
        assert_eq!(old.error("SELECT app_jobs.get_job('worker-2')").await.code().code(), "40001");
        old.run(&format!("ROLLBACK; BEGIN ISOLATION LEVEL {level}")).await;
        assert_eq!(old.get_job("'worker-2'").await, None, "what has a gate is not claimed here");
        old.run("COMMIT").await;
        s.run("SELECT app_jobs.set_limit('task', 't')").await;
        assert!(s.get_job("'worker-1'").await.is_some());
        s.run("DELETE FROM app_jobs.jobs").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_runs_three_at_once_starts_them_in_order() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SELECT app_jobs.set_limit('queue', 'q', max_running => 3);
         INSERT INTO app_jobs.jobs (task_identifier, queue_name, priority)
         SELECT 'x', 'q', -g / 50 FROM generate_series(1, 200) g;
         CREATE TABLE starts (n int GENERATED ALWAYS AS IDENTITY, job_id bigint, priority int);
         CREATE FUNCTION note_start() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.starts (job_id, priority) VALUES (NEW.id, NEW.priority); RETURN NULL; END';
         CREATE TRIGGER note_start AFTER UPDATE ON app_jobs.jobs FOR EACH ROW
             WHEN (OLD.locked_at IS NULL AND NEW.locked_at IS NOT NULL) EXECUTE FUNCTION note_start()",
    )
    .await;
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let s = Session::open(&db).await;
        workers.spawn(async move {
            while s.is("SELECT EXISTS (SELECT FROM app_jobs.jobs)").await {
                if let Some(id) = s.get_job(&format!("'worker-{worker}'")).await {
                    s.run(&format!("SELECT app_jobs.complete_job('worker-{worker}', {id})")).await;
                }
            }
        });
    }
    let over = "SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL HAVING count(*) > 3";
    watch(&s, &mut workers, over).await;
    let wrong = "SELECT count(*) FROM starts a JOIN starts b ON b.n = a.n + 1
                  WHERE (a.priority, a.job_id) > (b.priority, b.job_id)";
    assert_eq!(s.show(wrong).await, "0");
    assert_eq!(s.show("SELECT count(*) FROM starts").await, "200");
}

#[tokio::test]
async fn what_may_start_starts_in_the_order_of_all_jobs() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SELECT app_jobs.set_limit('task', 'full', max_running => 1), app_jobs.set_limit('task', 'open', max_running => 9);
         INSERT INTO app_jobs.jobs (task_identifier, queue_name, priority)
         SELECT (ARRAY['full', 'open', 'x', 'y'])[1 + g % 4], CASE WHEN g % 8 = 3 THEN 'q' || g END, -g
           FROM generate_series(1, 24) g",
    )
    .await;
    let may_start = "SELECT string_agg(id::text, ' ' ORDER BY priority) FROM app_jobs.jobs
                      WHERE task_identifier <> 'full' OR priority = -24";
    let expected = s.show(may_start).await;
    let mut order = Vec::new();
    // One that found only jobs to be put in their places has claimed none.
    while let [id] = claim(&s, "'worker', NULL, 1, NULL").await[..] {
        order.push(id.to_string());
    }
    assert_eq!(order.join(" "), expected);
}
