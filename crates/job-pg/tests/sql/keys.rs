//! job_key: one job a key, whatever two sessions do at once.

use job_testkit::eventually;

use crate::sql::support::{LIMIT, Session, database};

const TENANT: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const OTHER: &str = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

#[tokio::test]
async fn the_same_key_replaces_a_waiting_job_in_place() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x', '{\"n\":1}', 'k', 'q1', '2030-01-01', 3, 1").await;
    s.run("UPDATE app_jobs.jobs SET attempts = 2, last_error = 'no', created_at = created_at - interval '1 day'").await;
    let created = s.show("SELECT created_at FROM app_jobs.jobs").await;
    let shown = s
        .show(
            "SELECT id, task_identifier, payload, key, queue_name, run_at, max_attempts, priority, attempts, last_error
               FROM app_jobs.add_job('y', '{\"n\":2}', 'k', 'q2', '2031-01-01', 4, 2)",
        )
        .await;
    assert_eq!(shown, format!("{id}|y|{{\"n\":2}}|k|q2|2031-01-01 00:00:00+00|4|2|0|~"));
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 1);
    assert_eq!(s.show("SELECT created_at FROM app_jobs.jobs").await, created);
    assert_eq!(s.show("SELECT queue_name, job_count FROM app_jobs.job_queues").await, "q2|1");
    // What the call leaves out is the default again, not what the row had.
    let shown =
        s.show("SELECT payload, queue_name, max_attempts, priority FROM app_jobs.add_job('y', job_key := 'k')").await;
    assert_eq!(shown, "{}|~|25|0");
}

#[tokio::test]
async fn the_same_key_revives_a_job_that_failed_for_good() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x', '{}', 'k', max_attempts := 1").await;
    s.get_job("'worker'").await;
    s.run(&format!("SELECT app_jobs.fail_job('worker', {id}, 'no')")).await;
    assert_eq!(s.add_job("'x', '{}', 'k'").await, id);
    assert_eq!(s.get_job("'worker'").await, Some(id));
}

#[tokio::test]
async fn a_running_job_keeps_running_loses_its_key_and_is_never_retried() {
    let db = database().await;
    let s = Session::open(&db).await;
    for end in ["fail", "release", "expire"] {
        s.run("DELETE FROM app_jobs.jobs").await;
        let old = s.add_job("'x', '{\"n\":1}', 'k'").await;
        assert_eq!(s.get_job("'worker-1'").await, Some(old));
        let new = s.add_job("'x', '{\"n\":2}', 'k'").await;
        assert_ne!(new, old);
        let row = format!("SELECT key, locked_by, payload FROM app_jobs.jobs WHERE id = {old}");
        assert_eq!(s.show(&row).await, "~|worker-1|{\"n\":1}", "it runs on, without its key");
        assert_eq!(s.show(&format!("SELECT key, attempts FROM app_jobs.jobs WHERE id = {new}")).await, "k|0");
        match end {
            "fail" => s.run(&format!("SELECT app_jobs.fail_job('worker-1', {old}, 'no')")).await,
            "release" => s.run("SELECT app_jobs.release_jobs('worker-1')").await,
            _ => {
                s.run(&format!("UPDATE app_jobs.jobs SET locked_at = now() - interval '1 year' WHERE id = {old}")).await
            }
        }
        s.run("UPDATE app_jobs.jobs SET run_at = now() - interval '1 hour'").await;
        assert!(s.is(&format!("SELECT attempts >= max_attempts FROM app_jobs.jobs WHERE id = {old}")).await, "{end}");
        assert_eq!(s.get_job("'worker-2'").await, Some(new), "{end}");
        assert_eq!(s.get_job("'worker-2'").await, None, "{end}: the old job must not run again");
    }
}

#[tokio::test]
async fn a_running_job_that_lost_its_key_still_completes() {
    let db = database().await;
    let s = Session::open(&db).await;
    let old = s.add_job("'x', '{}', 'k'").await;
    s.get_job("'worker-1'").await;
    let new = s.add_job("'x', '{}', 'k'").await;
    assert_eq!(s.number(&format!("SELECT id FROM app_jobs.complete_job('worker-1', {old})")).await, old);
    assert_eq!(s.number("SELECT id FROM app_jobs.jobs").await, new);
}

#[tokio::test]
async fn a_key_taken_over_twice_leaves_one_waiting_job() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x', '{}', 'k'").await;
    s.get_job("'worker-1'").await;
    let second = s.add_job("'x', '{}', 'k'").await;
    assert_eq!(s.add_job("'x', '{}', 'k'").await, second, "the new one waits, so it is replaced");
    s.get_job("'worker-2'").await;
    let third = s.add_job("'x', '{}', 'k'").await;
    assert_eq!(s.number("SELECT id FROM app_jobs.jobs WHERE key = 'k'").await, third);
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NULL").await, 1);
}

#[tokio::test]
async fn a_key_under_another_database_id_is_an_error_waiting_or_running() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job(&format!("'{TENANT}'::uuid, 'x', '{{}}', 'k'")).await;
    s.add_job("'x', '{}', 'tenantless'").await;
    for state in ["waiting", "running"] {
        if state == "running" {
            s.run("SELECT app_jobs.get_job('worker'), app_jobs.get_job('worker')").await;
        }
        let before = s.show("SELECT * FROM app_jobs.jobs ORDER BY id").await;
        for call in [
            format!("'{OTHER}'::uuid, 'evil', '{{}}', 'k'"),
            "'evil', '{}', 'k'".to_owned(),
            format!("'{OTHER}'::uuid, 'evil', '{{}}', 'tenantless'"),
        ] {
            let error = s.error(&format!("SELECT app_jobs.add_job({call})")).await;
            assert!(error.message().contains("another database_id"), "{state}: {}", error.message());
        }
        assert_eq!(s.show("SELECT * FROM app_jobs.jobs ORDER BY id").await, before, "{state}");
    }
}

#[tokio::test]
async fn two_sessions_adding_one_key_at_once_leave_one_job() {
    let db = database().await;
    let (a, b, watch) = (Session::open(&db).await, Session::open(&db).await, Session::open(&db).await);
    a.run("BEGIN").await;
    let first = a.add_job("'x', '{\"n\":1}', 'k'").await;
    let pid = b.pid().await;
    let second = tokio::spawn(async move { b.add_job("'x', '{\"n\":2}', 'k'").await });
    watch.wait_until_blocked(pid).await;
    a.run("COMMIT").await;
    assert_eq!(second.await.unwrap(), first, "the second replaces the first in place");
    assert_eq!(watch.show("SELECT count(*), min(payload::text) FROM app_jobs.jobs").await, "1|{\"n\":2}");
}

#[tokio::test]
async fn two_sessions_adding_one_key_at_once_get_their_job_when_the_first_rolls_back() {
    let db = database().await;
    let (a, b, watch) = (Session::open(&db).await, Session::open(&db).await, Session::open(&db).await);
    a.run("BEGIN").await;
    a.add_job("'x', '{\"n\":1}', 'k'").await;
    let pid = b.pid().await;
    let second = tokio::spawn(async move { b.add_job("'x', '{\"n\":2}', 'k'").await });
    watch.wait_until_blocked(pid).await;
    a.run("ROLLBACK").await;
    second.await.unwrap();
    assert_eq!(watch.show("SELECT count(*), min(payload::text) FROM app_jobs.jobs").await, "1|{\"n\":2}");
}

#[tokio::test]
async fn two_sessions_taking_the_key_of_a_running_job_at_once_both_succeed() {
    let db = database().await;
    let (a, b, watch) = (Session::open(&db).await, Session::open(&db).await, Session::open(&db).await);
    let running = a.add_job("'x', '{}', 'k', 'q'").await;
    a.get_job("'worker'").await;
    a.run("BEGIN").await;
    let first = a.add_job("'x', '{\"n\":1}', 'k'").await;
    let pid = b.pid().await;
    let second = tokio::spawn(async move { b.add_job("'x', '{\"n\":2}', 'k'").await });
    watch.wait_until_blocked(pid).await;
    a.run("COMMIT").await;
    assert_eq!(second.await.unwrap(), first);
    let rows = watch.show("SELECT id, key, locked_by, payload FROM app_jobs.jobs ORDER BY id").await;
    assert_eq!(rows, format!("{running}|~|worker|{{}}\n{first}|k|~|{{\"n\":2}}"));
}

#[tokio::test]
async fn adding_the_key_of_a_job_that_is_being_claimed_waits_and_then_follows_the_rule() {
    let db = database().await;
    let (a, b, watch) = (Session::open(&db).await, Session::open(&db).await, Session::open(&db).await);
    let old = a.add_job("'x', '{}', 'k'").await;
    a.run("BEGIN").await;
    assert_eq!(a.get_job("'worker'").await, Some(old));
    let pid = b.pid().await;
    let added = tokio::spawn(async move { b.add_job("'x', '{}', 'k'").await });
    watch.wait_until_blocked(pid).await;
    a.run("COMMIT").await;
    let new = added.await.unwrap();
    assert_ne!(new, old, "the claim won: the job runs, and a new one has the key");
    assert_eq!(watch.show("SELECT id, key FROM app_jobs.jobs ORDER BY id").await, format!("{old}|~\n{new}|k"));
}

#[tokio::test]
async fn many_sessions_fighting_for_few_keys_while_a_worker_runs_them_all_succeed() {
    let db = database().await;
    let mut producers = Vec::new();
    for producer in 0..6 {
        let s = Session::open(&db).await;
        producers.push(tokio::spawn(async move {
            for n in 0..40 {
                s.add_job(&format!("'x', '{{}}', 'k{}', 'q{}'", (producer + n) % 3, n % 2)).await;
            }
        }));
    }
    let s = Session::open(&db).await;
    let mut ran = 0;
    while producers.iter().any(|producer| !producer.is_finished()) {
        if let Some(id) = s.get_job("'worker'").await {
            s.run(&format!("SELECT app_jobs.complete_job('worker', {id})")).await;
            ran += 1;
        }
    }
    for producer in producers {
        producer.await.unwrap();
    }
    assert!(ran > 0, "the worker ran while keys were fought for");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await, 0);
    assert!(s.number("SELECT count(*) FROM app_jobs.jobs").await <= 3, "at most one job a key is left");
    let counts = "SELECT coalesce(sum(job_count), 0) FROM app_jobs.job_queues";
    assert_eq!(s.number(counts).await, s.number("SELECT count(*) FROM app_jobs.jobs").await);
}

/// Enqueues under the key of a job to which another session does something meanwhile, which that one commits or takes
/// back. Returns what is left, job by job: its number, key, attempts, whether it runs, and whether it has its old time;
/// whether the call kept the old job; and whether it waited for the other session.
async fn enqueue_meanwhile(mode: &str, meanwhile: &str, end: &str) -> (String, bool, bool) {
    let db = database().await;
    let (a, b, watch) = (Session::open(&db).await, Session::open(&db).await, Session::open(&db).await);
    let old = a.add_job("'x', '{\"n\":1}', 'k', run_at := now() - interval '1 hour'").await;
    if meanwhile != "claimed" {
        assert_eq!(a.get_job("'worker'").await, Some(old));
    }
    a.run("BEGIN").await;
    match meanwhile {
        "claimed" => assert_eq!(a.get_job("'worker'").await, Some(old)),
        "completed" => a.run(&format!("SELECT app_jobs.complete_job('worker', {old})")).await,
        _ => a.run(&format!("SELECT app_jobs.fail_job('worker', {old}, 'no')")).await,
    }
    let pid = b.pid().await;
    let call = format!("SELECT id = {old} AND kept FROM app_jobs.enqueue('x', '{{\"n\":2}}', 'k', '{mode}')");
    let call = tokio::spawn(async move { b.is(&call).await });
    let blocked = format!("SELECT cardinality(pg_blocking_pids({pid})) > 0");
    eventually(LIMIT, async || call.is_finished() || watch.is(&blocked).await).await;
    let waited = !call.is_finished();
    a.run(end).await;
    let kept = call.await.unwrap();
    let left = "SELECT string_agg(concat_ws('/', payload->>'n', coalesce(key, '-'), attempts, locked_at IS NOT NULL, \
                run_at < now() - interval '30 minutes'), ' ' ORDER BY id) FROM app_jobs.jobs";
    (watch.show(left).await, kept, waited)
}

#[tokio::test]
async fn every_mode_follows_what_became_of_the_key_meanwhile() {
    let both = ["replace", "preserve_run_at"];
    for (meanwhile, end, replaced, preserved, ignored) in [
        // It runs, goes on without its key and is not tried again; under `ignore` it is the one.
        ("claimed", "COMMIT", "1/-/25/t/t 2/k/0/f/f", "1/-/25/t/t 2/k/0/f/f", "1/k/1/t/t"),
        // It waits as before, for its first attempt: that is a time to keep.
        ("claimed", "ROLLBACK", "2/k/0/f/f", "2/k/0/f/t", "1/k/0/f/t"),
        // It is gone.
        ("completed", "COMMIT", "2/k/0/f/f", "2/k/0/f/f", "2/k/0/f/f"),
        ("completed", "ROLLBACK", "1/-/25/t/t 2/k/0/f/f", "1/-/25/t/t 2/k/0/f/f", "1/k/1/t/t"),
        // It waits for its next attempt: that is no time to keep.
        ("failed", "COMMIT", "2/k/0/f/f", "2/k/0/f/f", "1/k/1/f/f"),
        ("failed", "ROLLBACK", "1/-/25/t/t 2/k/0/f/f", "1/-/25/t/t 2/k/0/f/f", "1/k/1/t/t"),
    ] {
        let case = format!("{meanwhile}, {end}");
        for (mode, expected) in both.into_iter().zip([replaced, preserved]) {
            let (left, kept, waited) = enqueue_meanwhile(mode, meanwhile, end).await;
            assert_eq!((left.as_str(), kept, waited), (expected, false, true), "{mode}: {case}");
        }
        let (left, kept, waited) = enqueue_meanwhile("ignore", meanwhile, end).await;
        let gone = meanwhile == "completed" && end == "COMMIT";
        if gone && !waited {
            // It was there when it was looked for, as far as anything was committed.
            assert_eq!((left.as_str(), kept), ("~", true), "ignore: {case}");
        } else {
            assert_eq!((left.as_str(), kept), (ignored, !gone), "ignore: {case}");
        }
    }
}

#[tokio::test]
async fn many_sessions_with_every_mode_leave_one_job_a_key_and_lose_none_while_a_worker_runs() {
    let db = database().await;
    let mut producers = Vec::new();
    for producer in 0..6 {
        let s = Session::open(&db).await;
        producers.push(tokio::spawn(async move {
            let mut made = std::collections::BTreeSet::new();
            for n in 0..40 {
                let mode = ["replace", "preserve_run_at", "ignore"][(producer + n) % 3];
                let call = format!("app_jobs.enqueue('x', '{{}}', 'k{}', '{mode}', queue_name := 'q{}')", n % 2, n % 3);
                made.insert(s.number(&format!("SELECT id FROM {call}")).await);
            }
            made
        }));
    }
    let s = Session::open(&db).await;
    let mut ran = std::collections::BTreeSet::new();
    let run = async |ran: &mut std::collections::BTreeSet<i64>| {
        let claimed = s.get_job("'worker'").await;
        if let Some(id) = claimed {
            s.run(&format!("SELECT app_jobs.complete_job('worker', {id})")).await;
            assert!(ran.insert(id), "{id} ran twice");
        }
        claimed.is_some()
    };
    while producers.iter().any(|producer| !producer.is_finished()) {
        run(&mut ran).await;
    }
    let beside = ran.len();
    let mut made = std::collections::BTreeSet::new();
    for producer in producers {
        made.extend(producer.await.unwrap());
    }
    assert!(beside > 0, "the worker ran while keys were fought for");
    assert!(s.number("SELECT count(*) FROM app_jobs.jobs").await <= 2, "at most one job a key is left");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await, 0);
    while run(&mut ran).await {}
    assert_eq!(ran, made, "each job that a call named has run, once");
    assert_eq!(s.number("SELECT coalesce(sum(job_count), 0) FROM app_jobs.job_queues").await, 0);
}
