//! Callers in stricter isolation levels get a right answer or a serialization error, never a double claim.

use std::collections::HashMap;

use job_testkit::eventually_some;
use tokio::task::JoinSet;

use crate::sql::support::{LIMIT, Session, database};

const SERIALIZATION_FAILURE: &str = "40001";

#[tokio::test]
async fn a_snapshot_from_before_anothers_claim_does_not_claim_the_job_again() {
    let db = database().await;
    let (a, b) = (Session::open(&db).await, Session::open(&db).await);
    for queue in ["NULL", "'q'"] {
        let id = a.add_job(&format!("'x', '{{}}', queue_name := {queue}")).await;
        b.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
        b.show("SELECT count(*) FROM app_jobs.jobs").await;
        assert_eq!(a.get_job("'worker-1'").await, Some(id));
        match b.try_show("SELECT id FROM app_jobs.get_job('worker-2')").await {
            Ok(claimed) => assert_eq!(claimed, "~"),
            Err(error) => assert_eq!(error.code().unwrap().code(), SERIALIZATION_FAILURE, "{error}"),
        }
        b.run("ROLLBACK").await;
        assert_eq!(a.show("SELECT attempts, locked_by FROM app_jobs.jobs").await, "1|worker-1");
        a.run("SELECT app_jobs.release_jobs('worker-1'); DELETE FROM app_jobs.jobs").await;
    }
}

#[tokio::test]
async fn a_snapshot_from_before_anothers_claim_does_not_run_a_second_job_of_the_queue() {
    let db = database().await;
    let (a, b) = (Session::open(&db).await, Session::open(&db).await);
    let first = a.add_job("'x', '{}', queue_name := 'q'").await;
    a.add_job("'x', '{}', queue_name := 'q'").await;
    b.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    b.show("SELECT count(*) FROM app_jobs.jobs").await;
    assert_eq!(a.get_job("'worker-1'").await, Some(first));
    match b.try_show("SELECT id FROM app_jobs.get_job('worker-2')").await {
        Ok(claimed) => assert_eq!(claimed, "~"),
        Err(error) => assert_eq!(error.code().unwrap().code(), SERIALIZATION_FAILURE, "{error}"),
    }
    b.run("ROLLBACK").await;
    assert_eq!(a.number("SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await, 1);
}

#[tokio::test]
async fn an_old_snapshot_never_writes_an_old_count_or_lock_into_a_queue() {
    let db = database().await;
    let (a, b) = (Session::open(&db).await, Session::open(&db).await);
    for statement in [
        "SELECT app_jobs.add_job('x', '{}', queue_name := 'q')",
        "DELETE FROM app_jobs.jobs WHERE id = (SELECT min(id) FROM app_jobs.jobs)",
        "UPDATE app_jobs.jobs SET locked_at = now(), locked_by = 'operator' WHERE id = (SELECT min(id) FROM app_jobs.jobs)",
        "UPDATE app_jobs.jobs SET locked_at = NULL, locked_by = NULL WHERE id = (SELECT min(id) FROM app_jobs.jobs)",
    ] {
        a.run("DELETE FROM app_jobs.jobs; INSERT INTO app_jobs.jobs (task_identifier, queue_name) SELECT 'x', 'q' FROM generate_series(1, 3)")
            .await;
        b.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
        b.show("SELECT count(*) FROM app_jobs.jobs").await;
        let running = a.get_job("'worker-1'").await;
        a.run("SELECT app_jobs.add_job('x', '{}', queue_name := 'q')").await;
        match b.try_show(statement).await {
            Ok(_) => b.run("COMMIT").await,
            Err(error) => {
                assert_eq!(error.code().unwrap().code(), SERIALIZATION_FAILURE, "{statement}: {error}");
                b.run("ROLLBACK").await;
            }
        }
        let (count, locked) =
            ("SELECT job_count FROM app_jobs.job_queues", "SELECT locked_at IS NOT NULL FROM app_jobs.job_queues");
        assert_eq!(a.number(count).await, a.number("SELECT count(*) FROM app_jobs.jobs").await, "{statement}");
        assert!(running.is_some() && a.is(locked).await, "the queue of a running job is locked after {statement}");
    }
}

#[tokio::test]
async fn in_stricter_levels_the_key_rule_holds_or_the_call_says_to_try_again() {
    let db = database().await;
    let (a, b) = (Session::open(&db).await, Session::open(&db).await);
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        b.run(&format!("BEGIN ISOLATION LEVEL {level}")).await;
        b.show("SELECT count(*) FROM app_jobs.jobs").await;
        let id = a.add_job("'x', '{\"n\":1}', 'k'").await;
        let error = b.error("SELECT app_jobs.add_job('x', '{\"n\":2}', 'k')").await;
        assert_eq!(error.code().code(), SERIALIZATION_FAILURE, "{level}");
        b.run("ROLLBACK").await;
        b.run(&format!("BEGIN ISOLATION LEVEL {level}")).await;
        assert_eq!(b.add_job("'x', '{\"n\":2}', 'k'").await, id, "the second try replaces");
        b.run("COMMIT").await;
        a.run("DELETE FROM app_jobs.jobs").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_every_level_at_once_run_each_job_exactly_once() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier, queue_name) SELECT 'x', CASE WHEN g % 2 = 0 THEN 'q' || g % 5 END FROM generate_series(1, 200) g")
        .await;
    let mut workers = JoinSet::new();
    for (worker, level) in
        ["READ COMMITTED", "REPEATABLE READ", "REPEATABLE READ", "SERIALIZABLE"].into_iter().enumerate()
    {
        let s = Session::open(&db).await;
        workers.spawn(async move {
            s.run(&format!("SET default_transaction_isolation = '{level}'")).await;
            let mut done = Vec::new();
            while s.show("SELECT count(*) FROM app_jobs.jobs").await != "0" {
                let claimed = s.try_show(&format!("SELECT id FROM app_jobs.get_job('worker-{worker}')")).await;
                let id = match claimed {
                    Ok(id) if id == "~" => continue,
                    Ok(id) => id,
                    Err(error) => {
                        assert_eq!(error.code().unwrap().code(), SERIALIZATION_FAILURE, "{level}: {error}");
                        continue;
                    }
                };
                loop {
                    match s.try_show(&format!("SELECT id FROM app_jobs.complete_job('worker-{worker}', {id})")).await {
                        Ok(completed) => break assert_eq!(completed, id, "{level}"),
                        Err(error) => {
                            assert_eq!(error.code().unwrap().code(), SERIALIZATION_FAILURE, "{level}: {error}")
                        }
                    }
                }
                done.push(id.parse::<i64>().unwrap());
            }
            done
        });
    }
    let mut times: HashMap<i64, u32> = HashMap::new();
    for id in workers.join_all().await.into_iter().flatten() {
        *times.entry(id).or_default() += 1;
    }
    assert_eq!(times.len(), 200);
    assert!(times.values().all(|times| *times == 1));
    assert_eq!(s.show("SELECT * FROM app_jobs.job_queues").await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_of_every_level_commit_into_a_queue_that_others_write_to_and_run() {
    let db = database().await;
    let s = Session::open(&db).await;
    let mut producers = JoinSet::new();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"].into_iter().cycle().take(9) {
        let s = Session::open(&db).await;
        producers.spawn(async move {
            for _ in 0..20 {
                s.run(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1 FROM pg_catalog.pg_class LIMIT 1")).await;
                s.run("SELECT app_jobs.add_job('x', queue_name := 'q')").await;
                s.run("COMMIT").await;
            }
        });
    }
    let mut done = 0;
    while done < 180 {
        match s.get_job("'worker'").await {
            Some(id) => {
                s.run(&format!("SELECT app_jobs.complete_job('worker', {id})")).await;
                done += 1;
            }
            None => tokio::task::yield_now().await,
        }
    }
    producers.join_all().await;
    assert_eq!(s.show("SELECT * FROM app_jobs.job_queues").await, "");
}

#[tokio::test]
async fn in_stricter_levels_a_job_of_a_queue_is_claimed_when_nobody_else_writes() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    let (first, second) =
        (s.add_job("'x', '{}', queue_name := 'q'").await, s.add_job("'x', '{}', queue_name := 'r'").await);
    s.run("SET default_transaction_isolation = 'repeatable read'").await;
    // Other tests write to other databases of the server meanwhile.
    assert_eq!(eventually_some(LIMIT, async || s.get_job("'worker'").await).await, first);
    other.run("BEGIN; SELECT pg_current_xact_id()").await;
    assert_eq!(s.get_job("'worker'").await, None, "somebody else may have claimed");
    other.run("COMMIT").await;
    assert_eq!(eventually_some(LIMIT, async || s.get_job("'worker'").await).await, second);
}
