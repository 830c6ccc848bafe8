//! Who may end an attempt, and who takes over when nobody does: epochs, heartbeats, deadlines.

use crate::sql::support::{Session, database};

const A: &str = "'00000000-0000-4000-8000-00000000000a'";
const B: &str = "'00000000-0000-4000-8000-00000000000b'";

/// Claims up to 10 jobs for an instance of `worker-a` or `worker-b`; shows their ids.
async fn claim(s: &Session, instance: &str) -> String {
    let worker = if instance == A { "worker-a" } else { "worker-b" };
    s.show(&format!(
        "SELECT coalesce(string_agg(id::text, ',' ORDER BY id), '') \
         FROM app_jobs.claim_jobs('{worker}', NULL, 10, '4 hours', instance := {instance})"
    ))
    .await
}

/// A heartbeat; shows what it rescued, whose, and what was overdue.
async fn heartbeat(s: &Session, instance: &str) -> String {
    let worker = if instance == A { "worker-a" } else { "worker-b" };
    s.show(&format!("SELECT rescued, silent, overdue FROM app_jobs.heartbeat('{worker}', {instance}, '30 s', true, 'no callback', '4 hours')")).await
}

/// Lets an instance look as if its last heartbeat had come so long ago, and the first of an unbroken row of them even longer.
async fn age(s: &Session, instance: &str, heartbeat: &str, steady: &str) {
    s.run(&format!(
        "UPDATE app_jobs.workers SET heartbeat_at = now() - interval '{heartbeat}', \
         steady_since = now() - interval '{steady}' WHERE instance = {instance}"
    ))
    .await;
}

async fn jobs(s: &Session) -> String {
    s.show("SELECT id, attempts, interruptions, locked_by, last_error FROM app_jobs.jobs ORDER BY id").await
}

#[tokio::test]
async fn an_outcome_counts_only_for_the_claim_whose_epoch_it_carries() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x'").await;
    let mut epochs = Vec::new();
    for _ in 0..3 {
        s.get_job("'worker'").await.unwrap();
        epochs.push(s.number("SELECT epoch FROM app_jobs.jobs").await);
        // Given back, and claimed again by the same worker: attempts say nothing.
        if epochs.len() < 3 {
            s.run("SELECT app_jobs.release_jobs('worker')").await;
        }
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2] && epochs[0] != epochs[2], "{epochs:?}");
    for stale in &epochs[..2] {
        for (call, unchanged) in [
            (format!("complete_held_jobs('{{{id}}}', '{{worker}}', '{{{stale}}}')"), "{1}"),
            (format!("fail_held_jobs('{{{id}}}', '{{worker}}', '{{{stale}}}', '{{no}}', '{{NULL}}', '{{t}}')"), "{1}"),
            (format!("extend_job('worker', {id}, {stale}, '1 h')"), "f"),
        ] {
            assert_eq!(s.show(&format!("SELECT app_jobs.{call}")).await, unchanged, "{call}");
        }
    }
    let live = epochs[2];
    let other = format!("SELECT app_jobs.complete_held_jobs('{{{id}}}', '{{other}}', '{{{live}}}')");
    assert_eq!(s.show(&other).await, "{1}", "the right epoch of the wrong worker");
    assert_eq!(s.show("SELECT attempts, locked_by, last_error, deadline FROM app_jobs.jobs").await, "1|worker|~|~");
    let complete = format!("SELECT app_jobs.complete_held_jobs('{{{id}}}', '{{worker}}', '{{{live}}}')");
    assert_eq!(s.show(&complete).await, "{}");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
}

#[tokio::test]
async fn without_an_epoch_an_outcome_is_that_of_whatever_claim_the_worker_holds() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    s.get_job("'worker'").await.unwrap();
    assert_eq!(s.show("SELECT app_jobs.complete_held_jobs('{1}', '{other}', '{NULL}')").await, "{1}");
    let fail = "SELECT app_jobs.fail_held_jobs('{1}', '{worker}', '{NULL}', '{no}', '{NULL}', '{t}')";
    assert_eq!(s.show(fail).await, "{}");
    assert_eq!(jobs(&s).await, "1|1|0|~|no");
}

#[tokio::test]
async fn a_claim_of_many_jobs_gives_each_its_own_epoch() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 10)").await;
    claim(&s, A).await;
    let epochs = "SELECT count(DISTINCT epoch), bool_and(epoch >= 0) FROM app_jobs.jobs";
    assert_eq!(s.show(epochs).await, "10|t");
}

#[tokio::test]
async fn an_attempt_can_be_put_off_with_and_without_counting() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 2)").await;
    claim(&s, A).await;
    s.run(
        "SELECT app_jobs.fail_held_jobs(array_agg(id ORDER BY id), '{worker-a,worker-a}', array_agg(epoch ORDER BY id), \
         '{busy,down}', '{60,30}', '{f,t}') FROM app_jobs.jobs",
    )
    .await;
    let wait =
        "SELECT id, attempts, last_error, round(extract(epoch FROM run_at - updated_at)) FROM app_jobs.jobs ORDER BY 1";
    assert_eq!(s.show(wait).await, "1|0|busy|60\n2|1|down|30");
    // Asked to come again at once, a failed attempt waits as any other: e seconds and not 1.
    s.run("UPDATE app_jobs.jobs SET run_at = now() - interval '1 s'").await;
    claim(&s, A).await;
    s.run(
        "SELECT app_jobs.fail_held_jobs(array_agg(id ORDER BY id), '{worker-a,worker-a}', array_agg(epoch ORDER BY id), \
         '{busy,down}', '{1,1}', '{f,t}') FROM app_jobs.jobs",
    )
    .await;
    assert_eq!(s.show(wait).await, "1|0|busy|1\n2|2|down|7");
}

#[tokio::test]
async fn a_lock_that_is_set_or_lifted_by_hand_is_nobodys_claim() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    claim(&s, A).await;
    s.run("SELECT app_jobs.extend_job('worker-a', 1, NULL, '1 h')").await;
    s.run("UPDATE app_jobs.jobs SET locked_by = 'operator'").await;
    let claimed = "SELECT epoch, instance, deadline FROM app_jobs.jobs";
    assert_eq!(s.show(claimed).await, "~|~|~");
}

#[tokio::test]
async fn the_jobs_of_a_silent_instance_start_again_after_its_lease_and_their_attempt_does_not_count() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x'), app_jobs.add_job('y', queue_name := 'q'), app_jobs.add_job('z')").await;
    assert_eq!(heartbeat(&s, A).await, "{}|{}|{}");
    assert_eq!(claim(&s, A).await, "1,2,3");
    // A function has accepted the third: it is at it, whatever becomes of the worker.
    s.run("SELECT app_jobs.accept_held_jobs(array[id], array[epoch], '1 h') FROM app_jobs.jobs WHERE id = 3").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}");
    age(&s, B, "1 s", "31 s").await;
    age(&s, A, "29 s", "1 h").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}", "the lease has not passed");
    age(&s, A, "31 s", "1 h").await;
    let found = heartbeat(&s, B).await;
    assert!(matches!(found.as_str(), "{1,2}|{worker-a}|{}" | "{2,1}|{worker-a}|{}"), "{found}");
    let why = "worker worker-a gave no sign of life for 30.0 s (JOBS_LEASE) while it ran the job";
    assert_eq!(jobs(&s).await, format!("1|0|1|~|{why}\n2|0|1|~|{why}\n3|1|0|worker-a|~"));
    assert_eq!(s.show("SELECT locked_by FROM app_jobs.job_queues").await, "~", "the queue is free");
    assert_eq!(s.show("SELECT worker_id FROM app_jobs.workers").await, "worker-b", "nothing is left to rescue");
    assert_eq!(claim(&s, B).await, "1,2");
}

#[tokio::test]
async fn who_was_cut_off_rescues_nobody_until_its_own_heartbeats_have_come_for_a_lease() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    heartbeat(&s, A).await;
    claim(&s, A).await;
    // A new process does not know whether there was an outage.
    age(&s, A, "1 h", "2 h").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}");
    // Nor does one that was away itself for more than half a lease.
    age(&s, B, "16 s", "1 h").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}");
    assert!(s.is(&format!("SELECT steady_since = heartbeat_at FROM app_jobs.workers WHERE instance = {B}")).await);
    age(&s, B, "5 s", "29 s").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}");
    age(&s, B, "5 s", "31 s").await;
    assert_eq!(heartbeat(&s, B).await, "{1}|{worker-a}|{}");
}

#[tokio::test]
async fn from_the_fourth_interruption_on_it_counts_as_a_failed_attempt() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x', max_attempts := 2").await;
    let interrupt = format!("SELECT app_jobs.interrupt_jobs({A}, 'it died')");
    for n in 1..=3 {
        assert_eq!(claim(&s, A).await, "1");
        s.run(&interrupt).await;
        assert_eq!(jobs(&s).await, format!("1|0|{n}|~|it died"));
    }
    for attempts in 1..=2 {
        s.run("UPDATE app_jobs.jobs SET run_at = now() - interval '1 s'").await;
        assert_eq!(claim(&s, A).await, "1");
        s.run(&interrupt).await;
        assert_eq!(jobs(&s).await, format!("1|{attempts}|{}|~|it died", 3 + attempts));
        assert!(s.is("SELECT run_at > now() FROM app_jobs.jobs").await, "and is tried again later");
    }
    s.run("UPDATE app_jobs.jobs SET run_at = now() - interval '1 s'").await;
    assert_eq!(claim(&s, A).await, "", "a job that kills its worker ends");
}

#[tokio::test]
async fn a_job_replaced_by_key_has_no_interruptions_and_a_superseded_one_does_not_run_again() {
    let db = database().await;
    let s = Session::open(&db).await;
    let interrupt = format!("SELECT app_jobs.interrupt_jobs({A}, 'it died')");
    s.add_job("'x', job_key := 'k'").await;
    for _ in 0..3 {
        claim(&s, A).await;
        s.run(&interrupt).await;
    }
    s.run("SELECT app_jobs.add_job('x', job_key := 'k')").await;
    claim(&s, A).await;
    s.run(&interrupt).await;
    assert_eq!(jobs(&s).await, "1|0|1|~|it died", "it began anew");
    claim(&s, A).await;
    let newer = s.add_job("'x', job_key := 'k'").await;
    s.run(&interrupt).await;
    assert!(s.is("SELECT attempts = max_attempts FROM app_jobs.jobs WHERE id = 1").await, "a newer one took its place");
    assert_eq!(claim(&s, A).await, newer.to_string());
}

#[tokio::test]
async fn what_somebody_holds_is_left_for_the_next_time_and_holds_up_nobody_else() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.add_job('a', queue_name := 'q'), app_jobs.add_job('b', queue_name := 'r'), app_jobs.add_job('c')")
        .await;
    claim(&s, A).await;
    s.run("SELECT app_jobs.extend_job('worker-a', 3, NULL, '1 h')").await;
    s.run("UPDATE app_jobs.jobs SET deadline = now() - interval '1 s' WHERE id = 3").await;
    other.run("BEGIN; SELECT app_jobs.add_job('d', queue_name := 'q')").await;
    assert_eq!(s.show(&format!("SELECT app_jobs.interrupt_jobs({A}, 'it died')")).await, "{2}");
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{3}");
    other.run("COMMIT").await;
    assert_eq!(s.show(&format!("SELECT app_jobs.interrupt_jobs({A}, 'it died')")).await, "{1}");
}

#[tokio::test]
async fn only_what_an_instance_does_not_know_of_is_interrupted() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 3)").await;
    claim(&s, A).await;
    assert_eq!(s.show(&format!("SELECT app_jobs.interrupt_jobs({A}, 'lost', '{{1,3}}')")).await, "{2}");
}

#[tokio::test]
async fn an_accepted_job_fails_at_its_deadline_which_can_be_extended_and_is_never_shortened() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x'), app_jobs.add_job('y', queue_name := 'q')").await;
    claim(&s, A).await;
    let accept = "SELECT count(*) FROM (SELECT app_jobs.accept_held_jobs(array_agg(id), array_agg(epoch), '1 h') \
                  FROM app_jobs.jobs) a";
    assert_eq!(s.show(accept).await, "0", "all of them were set");
    let epoch = s.number("SELECT epoch FROM app_jobs.jobs WHERE id = 1").await;
    assert!(s.is(&format!("SELECT app_jobs.extend_job('worker-a', 1, {epoch}, '2 h')")).await);
    assert!(s.is(&format!("SELECT app_jobs.extend_job('worker-a', 1, {epoch}, '1 s')")).await);
    let deadlines = "SELECT id, round(extract(epoch FROM deadline - updated_at) / 3600) FROM app_jobs.jobs ORDER BY 1";
    assert_eq!(s.show(deadlines).await, "1|2\n2|1");
    s.run("UPDATE app_jobs.jobs SET deadline = now() - interval '2 s' + id * interval '1 ms', updated_at = clock_timestamp()").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{1,2}");
    assert_eq!(jobs(&s).await, "1|1|0|~|no callback\n2|1|0|~|no callback");
    assert_eq!(s.show("SELECT DISTINCT epoch, instance, deadline FROM app_jobs.jobs").await, "~|~|~");
}

#[tokio::test]
async fn an_acceptance_that_comes_after_the_outcome_changes_nothing_and_one_that_must_wait_is_told() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 3)").await;
    claim(&s, A).await;
    let epochs = s.show("SELECT string_agg(epoch::text, ',' ORDER BY id) FROM app_jobs.jobs").await;
    s.run("SELECT app_jobs.complete_job('worker-a', 1), app_jobs.release_jobs('worker-a')").await;
    assert_eq!(claim(&s, A).await, "2,3");
    let accept = format!("SELECT app_jobs.accept_held_jobs('{{1,2,3}}', '{{{epochs}}}', '1 h')");
    assert_eq!(s.show(&accept).await, "");
    assert_eq!(s.show("SELECT DISTINCT deadline FROM app_jobs.jobs").await, "~");

    let accept = "SELECT app_jobs.accept_held_jobs(array_agg(id), array_agg(epoch), '1 h') FROM app_jobs.jobs";
    other.run("BEGIN; SELECT FROM app_jobs.jobs WHERE id = 3 FOR UPDATE").await;
    assert_eq!(s.show(accept).await, "3");
    other.run("COMMIT").await;
    assert_eq!(s.show(accept).await, "");
}

#[tokio::test]
async fn a_job_whose_callback_may_still_come_is_not_claimed_however_old_its_lock_is_nor_is_the_next_of_its_queue() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x', queue_name := 'q'), app_jobs.add_job('y', queue_name := 'q')").await;
    assert_eq!(claim(&s, A).await, "1");
    s.run("SELECT app_jobs.extend_job('worker-a', 1, NULL, '1 h')").await;
    s.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '5 hours' WHERE id = 1").await;
    assert_eq!(claim(&s, B).await, "");
    let freed = "SELECT count(*) FROM app_jobs.claim_jobs('worker-b', NULL, 10, '4 hours', deep := false, free_queues := '{q}')";
    assert_eq!(s.number(freed).await, 0);
    // Where nobody sees to deadlines, the lock is as any other.
    s.run("UPDATE app_jobs.jobs SET deadline = now() - interval '2 min' WHERE id = 1").await;
    assert_eq!(claim(&s, B).await, "1");
    assert_eq!(s.show("SELECT deadline FROM app_jobs.jobs WHERE id = 1").await, "~");
}

#[tokio::test]
async fn a_lock_without_an_instance_waits_for_its_expiry() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    s.get_job("'worker-a'").await.unwrap();
    heartbeat(&s, B).await;
    age(&s, B, "1 s", "1 h").await;
    s.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '3 hours'").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}");
    assert_eq!(s.show("SELECT app_jobs.take_back_jobs('worker-a', gen_random_uuid())").await, "{}");
    assert_eq!(claim(&s, B).await, "");
    let expired = format!("SELECT expired FROM app_jobs.heartbeat('worker-b', {B}, '30 s', true, '', '4 hours')");
    assert!(!s.is(&expired).await);
    s.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '5 hours'").await;
    assert!(s.is(&expired).await, "who claims is told to look");
    assert_eq!(claim(&s, B).await, "1");
    assert!(!s.is(&expired).await);
}

#[tokio::test]
async fn the_next_process_of_an_id_takes_back_at_once_what_one_without_a_session_left_and_nothing_else() {
    let db = database().await;
    let (s, living) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 2)").await;
    let lock = format!("SELECT pg_advisory_lock_shared(app_jobs.instance_lock({A}))");
    living.run(&lock).await;
    heartbeat(&s, A).await;
    assert_eq!(claim(&s, A).await, "1,2");
    let take_back = format!("SELECT app_jobs.take_back_jobs('worker-a', {B})");
    assert_eq!(s.show(&take_back).await, "{}", "a live twin");
    let unlock = format!("SELECT pg_advisory_unlock_shared(app_jobs.instance_lock({A}))");
    living.run(&unlock).await;
    let other = format!("SELECT app_jobs.take_back_jobs('worker-c', {B})");
    assert_eq!(s.show(&other).await, "{}", "another id");
    s.run("UPDATE app_jobs.workers SET listens = false").await;
    assert_eq!(s.show(&take_back).await, "{}", "one that never had a session");
    s.run("UPDATE app_jobs.workers SET listens = true").await;
    assert_eq!(s.show(&take_back).await, "{1,2}");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.workers").await, 0);
    assert_eq!(jobs(&s).await.lines().next(), Some("1|0|1|~|worker worker-a ended while it ran the job"));
}

#[tokio::test]
async fn a_process_gives_back_its_own_claims_and_no_others() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 3)").await;
    assert_eq!(claim(&s, A).await, "1,2,3");
    let epoch = s.number("SELECT epoch FROM app_jobs.jobs WHERE id = 1").await;
    let release =
        |instance: &str, epoch: i64| format!("SELECT app_jobs.release_held_jobs({instance}, '{{1}}', '{{{epoch}}}')");
    assert_eq!(s.show(&release(B, epoch)).await, "");
    assert_eq!(s.show(&release(A, epoch)).await, "1");
    assert_eq!(claim(&s, A).await, "1");
    assert_eq!(s.show(&release(A, epoch)).await, "", "it was given back before, and claimed anew");
    s.run("SELECT app_jobs.extend_job('worker-a', 2, NULL, '1 h')").await;
    assert_eq!(s.show(&format!("SELECT app_jobs.release_held_jobs({A}, NULL, NULL)")).await, "1\n3");
    assert_eq!(jobs(&s).await, "1|0|0|~|~\n2|1|0|worker-a|~\n3|0|0|~|~");
}

#[tokio::test]
async fn a_claim_that_leaves_due_jobs_behind_wakes_the_others() {
    let db = database().await;
    let s = Session::open(&db).await;
    let mut ear = crate::sql::support::Ear::on(&db, "jobs:insert").await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 2)").await;
    s.get_job("'dead-worker'").await.unwrap();
    s.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '5 hours' WHERE id = 1").await;
    ear.count().await;
    // It has locked both for a moment, and takes one.
    assert_eq!(s.get_job("'worker'").await, Some(1));
    assert_eq!(ear.count().await, 1);
    assert_eq!(s.get_job("'worker'").await, Some(2));
    assert_eq!(ear.count().await, 0);
}
