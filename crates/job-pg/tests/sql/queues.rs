//! Named queues: one job at a time, in order, whoever works; jobs without a queue run side by side.

use std::collections::HashMap;

use job_testkit::eventually;

use crate::sql::support::{LIMIT, Session, database};

#[tokio::test]
async fn a_queue_gives_one_job_at_a_time_in_order() {
    let db = database().await;
    let (a, b) = (Session::open(&db).await, Session::open(&db).await);
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(a.add_job("'x', '{}', queue_name := 'q'").await);
    }
    for (turn, job) in jobs.iter().enumerate() {
        let (one, other) = if turn % 2 == 0 { (&a, &b) } else { (&b, &a) };
        assert_eq!(one.get_job("'worker-1'").await, Some(*job));
        assert_eq!(other.get_job("'worker-2'").await, None, "the queue is busy");
        assert_eq!(one.get_job("'worker-1'").await, None, "for its own worker, too");
        assert_eq!(
            one.show("SELECT locked_by, job_count, locked_at IS NOT NULL FROM app_jobs.job_queues").await,
            format!("worker-1|{}|t", 3 - turn)
        );
        one.run(&format!("SELECT app_jobs.complete_job('worker-1', {job})")).await;
    }
    assert_eq!(a.show("SELECT * FROM app_jobs.job_queues").await, "", "a queue without jobs has no row");
}

#[tokio::test]
async fn a_busy_queue_does_not_hold_up_other_queues_or_jobs_without_one() {
    let db = database().await;
    let s = Session::open(&db).await;
    let first = s.add_job("'x', '{}', queue_name := 'q1'").await;
    s.add_job("'x', '{}', queue_name := 'q1'").await;
    let other = s.add_job("'x', '{}', queue_name := 'q2'").await;
    let (free, free2) = (s.add_job("'x'").await, s.add_job("'x'").await);
    for expected in [Some(first), Some(other), Some(free), Some(free2), None] {
        assert_eq!(s.get_job("'worker'").await, expected);
    }
}

#[tokio::test]
async fn a_failed_job_that_waits_for_its_retry_does_not_block_its_queue() {
    let db = database().await;
    let s = Session::open(&db).await;
    let first = s.add_job("'x', '{}', queue_name := 'q'").await;
    let second = s.add_job("'x', '{}', queue_name := 'q'").await;
    s.get_job("'worker'").await;
    s.run(&format!("SELECT app_jobs.fail_job('worker', {first}, 'no')")).await;
    assert_eq!(s.show("SELECT job_count, locked_by, locked_at FROM app_jobs.job_queues").await, "2|~|~");
    assert_eq!(s.get_job("'worker'").await, Some(second));
    // Its time comes while the other runs: it waits for the queue.
    s.run(&format!("UPDATE app_jobs.jobs SET run_at = now() - interval '1 day' WHERE id = {first}")).await;
    assert_eq!(s.get_job("'worker'").await, None);
    s.run(&format!("SELECT app_jobs.complete_job('worker', {second})")).await;
    assert_eq!(s.get_job("'worker'").await, Some(first));
}

#[tokio::test]
async fn an_exhausted_job_does_not_block_its_queue() {
    let db = database().await;
    let s = Session::open(&db).await;
    let first = s.add_job("'x', '{}', queue_name := 'q', max_attempts := 1").await;
    let second = s.add_job("'x', '{}', queue_name := 'q'").await;
    s.get_job("'worker'").await;
    s.run(&format!("SELECT app_jobs.fail_job('worker', {first}, 'no')")).await;
    assert_eq!(s.get_job("'worker'").await, Some(second));
}

#[tokio::test]
async fn a_queue_whose_worker_is_gone_is_free_after_the_expiry() {
    let db = database().await;
    let s = Session::open(&db).await;
    for exhausted in [false, true] {
        s.run("DELETE FROM app_jobs.jobs").await;
        let first = s
            .add_job(&format!("'x', '{{}}', queue_name := 'q', max_attempts := {}", if exhausted { 1 } else { 9 }))
            .await;
        let second = s.add_job("'x', '{}', queue_name := 'q'").await;
        assert_eq!(s.get_job("'gone-worker'").await, Some(first));
        assert_eq!(s.get_job("'worker', NULL, '1 hour'").await, None, "a young lock holds the queue");
        s.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '2 hours' WHERE locked_at IS NOT NULL").await;
        assert_eq!(s.get_job("'worker'").await, None, "not older than the default expiry");
        let next = if exhausted { second } else { first };
        assert_eq!(s.get_job("'worker', NULL, '1 hour'").await, Some(next), "exhausted: {exhausted}");
        assert_eq!(s.get_job("'worker', NULL, '1 hour'").await, None, "the queue has a new lock");
        assert_eq!(s.show("SELECT locked_by FROM app_jobs.job_queues").await, "worker");
    }
}

#[tokio::test]
async fn a_claim_in_another_sessions_open_transaction_holds_the_queue() {
    let db = database().await;
    let (a, b) = (Session::open(&db).await, Session::open(&db).await);
    let first = a.add_job("'x', '{}', queue_name := 'q'").await;
    a.add_job("'x', '{}', queue_name := 'q'").await;
    b.run("SET lock_timeout = '10s'").await;
    a.run("BEGIN").await;
    assert_eq!(a.get_job("'worker-1'").await, Some(first));
    assert_eq!(b.get_job("'worker-2'").await, None, "neither waits nor takes the second");
    a.run("COMMIT").await;
    assert_eq!(b.get_job("'worker-2'").await, None);
}

#[tokio::test]
async fn a_completion_that_rolls_back_keeps_the_queue_locked() {
    let db = database().await;
    let s = Session::open(&db).await;
    let first = s.add_job("'x', '{}', queue_name := 'q'").await;
    s.add_job("'x', '{}', queue_name := 'q'").await;
    s.get_job("'worker'").await;
    s.run(&format!("BEGIN; SELECT app_jobs.complete_job('worker', {first}); ROLLBACK")).await;
    assert_eq!(s.get_job("'worker'").await, None);
}

#[tokio::test]
async fn a_queue_can_have_any_name() {
    let db = database().await;
    let s = Session::open(&db).await;
    for name in ["", " ", "it''s", "\\", "\"; drop table app_jobs.jobs; --", "日本", "NULL", "{a,b}"] {
        let id = s.add_job(&format!("'x', '{{}}', queue_name := '{name}'")).await;
        assert_eq!(s.get_job("'worker'").await, Some(id), "{name}");
        assert_eq!(s.show("SELECT queue_name FROM app_jobs.job_queues").await, name.replace("''", "'"));
        s.run(&format!("SELECT app_jobs.complete_job('worker', {id})")).await;
        assert_eq!(s.number("SELECT count(*) FROM app_jobs.job_queues").await, 0, "{name}");
    }
}

#[tokio::test]
async fn an_open_transaction_of_a_producer_holds_up_nobody_else_in_its_queue() {
    let db = database().await;
    let (s, producer) = (Session::open(&db).await, Session::open(&db).await);
    let first = s.add_job("'x', '{}', queue_name := 'q'").await;
    producer.run("BEGIN; SELECT app_jobs.add_job('open', queue_name := 'q', priority := -1)").await;
    s.run("SET lock_timeout = '100ms'").await;
    let second = s.add_job("'x', '{}', queue_name := 'q'").await;
    for job in [first, second] {
        assert_eq!(s.get_job("'worker'").await, Some(job));
        assert_eq!(s.get_job("'other-worker'").await, None, "one at a time");
        s.run(&format!("SELECT app_jobs.complete_job('worker', {job})")).await;
    }
    producer.run("COMMIT").await;
    assert!(s.get_job("'worker'").await.is_some_and(|open| open > first));
}

#[tokio::test]
async fn a_queue_runs_whatever_wrote_its_rows_and_however_they_vanish() {
    let db = database().await;
    let s = Session::open(&db).await;
    // As a subscriber of logical replication writes, or a restore with --disable-triggers.
    s.run(
        "SET session_replication_role = replica;
         INSERT INTO app_jobs.jobs (id, task_identifier, queue_name, run_at) VALUES
             (1, 'x', 'q', now()), (2, 'x', 'q', now()), (3, 'x', NULL, now() + interval '1 hour'), (4, 'x', 'r', now());
         RESET session_replication_role",
    )
    .await;
    assert_eq!(s.get_job("'worker'").await, Some(1));
    assert_eq!(s.get_job("'worker'").await, Some(4));
    assert_eq!(s.get_job("'worker'").await, None, "2 is behind 1, and 3 is not due");
    assert_eq!(s.show("SELECT gate_key FROM app_jobs.jobs ORDER BY id").await, "queue'q'\nqueue'q'\nrun_at\nqueue'r'");
    s.run("SET session_replication_role = replica; DELETE FROM app_jobs.jobs WHERE id = 1; RESET session_replication_role")
        .await;
    assert_eq!(s.get_job("'worker'").await, Some(2));
    s.run("TRUNCATE app_jobs.jobs").await;
    let id = s.add_job("'x', '{}', queue_name := 'q'").await;
    assert_eq!(s.get_job("'worker'").await, Some(id));
}

#[tokio::test]
async fn jobs_behind_a_busy_queue_hold_up_no_other_queue_however_many_there_are() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x', queue_name := 'busy') FROM generate_series(1, 1500)").await;
    assert!(s.get_job("'worker'").await.is_some());
    s.run("SELECT app_jobs.add_job('x', queue_name := 'q' || n) FROM generate_series(1, 30) n").await;
    let free = s.add_job("'x'").await;
    let claimed = "SELECT count(*), count(DISTINCT queue_name), count(*) FILTER (WHERE queue_name IS NULL)
                     FROM app_jobs_internal.claim_jobs('worker', NULL, 20, NULL)";
    assert_eq!(s.show(claimed).await, "20|20|0", "in order: these came before the one without a queue");
    assert_eq!(s.show(claimed).await, "11|10|1");
    assert_eq!(s.show(claimed).await, "0|0|0");
    assert!(s.is(&format!("SELECT locked_at IS NOT NULL FROM app_jobs.jobs WHERE id = {free}")).await);
}

#[tokio::test]
async fn jobs_that_become_due_take_their_place_in_the_order() {
    let db = database().await;
    let s = Session::open(&db).await;
    let at = "run_at := now() + interval '300 ms'";
    let later = s.add_job(&format!("'x', '{{}}', {at}, priority := 5")).await;
    let urgent = s.add_job(&format!("'x', '{{}}', {at}, priority := -5")).await;
    let queued = s.add_job(&format!("'x', '{{}}', queue_name := 'q', {at}, priority := -4")).await;
    let plain = s.add_job("'x', '{}', priority := 1").await;
    eventually(LIMIT, async || s.is("SELECT bool_and(run_at < now()) FROM app_jobs.jobs").await).await;
    for job in [urgent, queued, plain, later] {
        assert_eq!(s.get_job("'worker'").await, Some(job));
    }
}

#[tokio::test]
async fn a_single_job_is_found_behind_many_closed_queues() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier, queue_name) SELECT 'x', 'busy' FROM generate_series(1, 300)")
        .await;
    assert!(s.get_job("'worker'").await.is_some());
    let other_task = "INSERT INTO app_jobs.jobs (task_identifier, queue_name) SELECT 'other', 'o' || n FROM generate_series(1, 50) n";
    s.run(other_task).await;
    let free = s.add_job("'x', '{}', queue_name := 'z', priority := 1").await;
    assert_eq!(s.get_job("'worker', '{x}'").await, Some(free), "of the tasks that are asked for");
    // More gates than a page has.
    s.run("TRUNCATE app_jobs.jobs; INSERT INTO app_jobs.jobs (task_identifier, queue_name) SELECT 'x', 'q' || n % 1011 FROM generate_series(1, 2022) n")
        .await;
    assert_eq!(s.number("SELECT count(*) FROM app_jobs_internal.claim_jobs('worker', NULL, 2000, NULL)").await, 1011);
    let last = s.add_job("'x', '{}', queue_name := 'zz', priority := 1").await;
    assert_eq!(s.get_job("'worker'").await, Some(last));
}

#[tokio::test]
async fn what_somebody_holds_keeps_no_other_job_from_starting() {
    let db = database().await;
    let (s, holder) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.add_job('free') FROM generate_series(1, 5)").await;
    s.run("SELECT app_jobs.add_job('queued', queue_name := 'q' || n) FROM generate_series(1, 5) n").await;
    holder.run("BEGIN; UPDATE app_jobs.jobs SET priority = 0 WHERE task_identifier = 'free'").await;
    let claimed = "SELECT count(*) FROM app_jobs_internal.claim_jobs('worker', NULL, 5, NULL)";
    assert_eq!(s.number(claimed).await, 5, "those of the queues");
    holder.run("COMMIT").await;
    assert_eq!(s.number(claimed).await, 5);
}

/// The first job of queue `a`, `b` or `c` is held while nothing is set for gates, and while something is.
#[tokio::test]
async fn the_first_job_of_a_queue_that_somebody_holds_keeps_no_other_queue_waiting() {
    let db = database().await;
    let (s, holder) = (Session::open(&db).await, Session::open(&db).await);
    for set in ["SELECT 1", "SELECT app_jobs.set_limit('task', 'other', max_running => 1)"] {
        s.run(&format!("DELETE FROM app_jobs.jobs; {set}")).await;
        s.run("INSERT INTO app_jobs.jobs (task_identifier, queue_name) VALUES ('t', 'a'), ('t', 'b'), ('t', 'c')")
            .await;
        holder.run("BEGIN; SELECT FROM app_jobs.jobs WHERE queue_name IN ('a', 'b') FOR UPDATE").await;
        let claimed = "SELECT string_agg(queue_name, ' ') FROM app_jobs_internal.claim_jobs('worker', NULL, 1, NULL)";
        assert_eq!(s.show(claimed).await, "c", "{set}");
        holder.run("COMMIT").await;
    }
}

#[tokio::test]
async fn an_urgent_job_before_those_of_a_full_queue_comes_first_and_so_does_the_first_of_a_thousand() {
    let db = database().await;
    let s = Session::open(&db).await;
    for set in ["SELECT 1", "SELECT app_jobs.set_limit('task', 'other', max_running => 1)"] {
        s.run(&format!("DELETE FROM app_jobs.jobs; {set}")).await;
        s.run(
            "INSERT INTO app_jobs.jobs (task_identifier, queue_name) SELECT 't', 'full' FROM generate_series(1, 401);
             SELECT FROM app_jobs.get_job('worker');
             INSERT INTO app_jobs.jobs (task_identifier, queue_name, priority) VALUES ('t', 'urgent', -100);
             INSERT INTO app_jobs.jobs (task_identifier, queue_name, priority)
             SELECT 't', 'later' || n, 1000 - n FROM generate_series(1, 900) n",
        )
        .await;
        let claimed = |jobs: u32, epochs: &str| {
            format!(
                "SELECT string_agg(queue_name, ' ' ORDER BY priority) FROM app_jobs_internal.claim_instance_jobs(
                    NULL, 'worker', {epochs}, NULL, {jobs}, NULL)"
            )
        };
        assert!(s.show(&claimed(10, "'{}'")).await.starts_with("urgent later"), "{set}");
        for epochs in ["'{}'", "NULL"] {
            let first = s
                .show(
                    "SELECT queue_name FROM app_jobs.jobs WHERE locked_at IS NULL AND queue_name <> 'full'
                                 ORDER BY priority LIMIT 1",
                )
                .await;
            assert_eq!(s.show(&claimed(1, epochs)).await, first, "{set}");
        }
    }
}

/// Two keys of the queue lie far apart among 300 gates, behind more jobs of a closed gate than the first look sees.
#[tokio::test]
async fn claims_of_several_keep_the_order_of_a_queue_whose_jobs_have_different_gates() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SELECT app_jobs.pause('task', 'paused'), app_jobs.set_limit('task', 'limited', max_running => 100);
         INSERT INTO app_jobs.jobs (task_identifier) SELECT 'paused' FROM generate_series(1, 600);
         INSERT INTO app_jobs.jobs (task_identifier, queue_name) SELECT 't', 'a' || n % 300 FROM generate_series(1, 900) n;
         INSERT INTO app_jobs.jobs (task_identifier, queue_name)
         SELECT CASE WHEN n % 3 = 0 THEN 'limited' ELSE 't' END, '0' || n % 5 FROM generate_series(1, 60) n",
    )
    .await;
    // Puts all behind their gates.
    while s.is("SELECT EXISTS (SELECT FROM app_jobs.jobs WHERE gate_key IS NULL)").await {
        s.run("BEGIN; SELECT app_jobs_internal.claim_jobs('worker', NULL, 5, NULL); COMMIT").await;
        s.run("UPDATE app_jobs.jobs SET locked_at = NULL, locked_by = NULL, attempts = 0 WHERE locked_at IS NOT NULL")
            .await;
    }
    let (mut last, mut claimed) = (HashMap::new(), 0);
    let mut after = String::new();
    while s.is("SELECT EXISTS (SELECT FROM app_jobs.jobs WHERE task_identifier <> 'paused')").await {
        let claim = format!(
            "BEGIN; SELECT queue_name, id FROM app_jobs_internal.claim_instance_jobs(
                        NULL, 'worker', '{{}}', NULL, 10, NULL, after_gate := nullif({}, ''));
             SELECT 'after', quote_literal(current_setting('jobs.last_gate', true)); COMMIT",
            if after.is_empty() { "''" } else { &after }
        );
        for line in s.show(&claim).await.lines() {
            let (queue, id) = line.split_once('|').unwrap();
            if queue == "after" {
                id.clone_into(&mut after);
                continue;
            }
            let id: i64 = id.parse().unwrap();
            let before = last.insert(queue.to_owned(), id);
            assert!(before.is_none_or(|before| before < id), "{queue}: {id} after {before:?}");
            claimed += 1;
        }
        s.run("DELETE FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await;
    }
    assert_eq!(claimed, 960);
}

#[tokio::test]
async fn a_claim_in_an_open_transaction_keeps_what_it_takes_and_one_that_is_due_at_most() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    s.run("BEGIN; SELECT 1").await;
    other
        .run("SELECT app_jobs.add_job('x', run_at := clock_timestamp() + interval '10 ms') FROM generate_series(1, 20)")
        .await;
    other.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 20)").await;
    eventually(LIMIT, async || other.is("SELECT bool_and(run_at < now()) FROM app_jobs.jobs").await).await;
    assert!(s.get_job("'worker'").await.is_some());
    let claimed = "SELECT count(*) FROM app_jobs_internal.claim_jobs('other-worker', NULL, 100, NULL)";
    let left = other.number(claimed).await;
    assert!(left >= 38, "{left} of 39");
    s.run("COMMIT").await;
    assert_eq!(left + other.number(claimed).await, 39);
}

#[tokio::test]
async fn a_job_of_a_queue_that_has_become_due_is_not_passed_by_though_an_urgent_one_cannot_start() {
    let db = database().await;
    let s = Session::open(&db).await;
    let busy = s.add_job("'x', '{}', queue_name := 'busy'").await;
    assert_eq!(s.get_job("'worker'").await, Some(busy));
    let at = "run_at := clock_timestamp() + interval '100 ms'";
    s.add_job(&format!("'x', '{{}}', queue_name := 'busy', {at}, priority := -5")).await;
    let first = s.add_job(&format!("'x', '{{}}', queue_name := 'q', {at}")).await;
    let second = s.add_job("'x', '{}', queue_name := 'q', priority := 1").await;
    // In a transaction whose now() is before they are due, too.
    s.run("BEGIN; SELECT 1").await;
    let due = "SELECT bool_and(run_at < clock_timestamp()) FROM app_jobs.jobs";
    eventually(LIMIT, async || s.is(due).await).await;
    assert_eq!(s.get_job("'worker'").await, Some(first));
    s.run("COMMIT").await;
    s.run(&format!("SELECT app_jobs.complete_job('worker', {first})")).await;
    assert_eq!(s.get_job("'worker'").await, Some(second));
}
