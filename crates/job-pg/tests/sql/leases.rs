//! Who takes over when nobody ends an attempt: heartbeats, leases, deadlines.

use job_testkit::eventually;

use crate::sql::support::{LIMIT, Session, database};

pub(crate) const A: &str = "'00000000-0000-4000-8000-00000000000a'";
pub(crate) const B: &str = "'00000000-0000-4000-8000-00000000000b'";

/// Claims up to 10 jobs for an instance of `worker-a` or `worker-b`; shows their ids.
pub(crate) async fn claim(s: &Session, instance: &str) -> String {
    let worker = if instance == A { "worker-a" } else { "worker-b" };
    s.show(&format!(
        "SELECT coalesce(string_agg(id::text, ',' ORDER BY id), '') \
         FROM app_jobs_internal.claim_instance_jobs({instance}, '{worker}', NULL, NULL, 10, '4 hours')"
    ))
    .await
}

/// A heartbeat; shows what it rescued, whose, and what was overdue.
async fn heartbeat(s: &Session, instance: &str) -> String {
    let worker = if instance == A { "worker-a" } else { "worker-b" };
    s.show(&format!("SELECT rescued, silent, overdue FROM app_jobs_internal.heartbeat('{worker}', {instance}, '30 s', true, 'no callback', '4 hours')")).await
}

/// Lets an instance look as if its last heartbeat had come so long ago, and the first of an unbroken row of them even
/// longer.
async fn age(s: &Session, instance: &str, heartbeat: &str, steady: &str) {
    s.run(&format!(
        "UPDATE app_jobs.workers SET heartbeat_at = now() - interval '{heartbeat}', \
         steady_since = now() - interval '{steady}' WHERE instance = {instance}"
    ))
    .await;
}

/// Functions accept the jobs that meet the condition, for an hour.
pub(crate) async fn accept(s: &Session, condition: &str) {
    let left = format!(
        "SELECT count(*) FROM (SELECT app_jobs_internal.accept_held_jobs(array_agg(id), array_agg(epoch), '1 h') \
         FROM app_jobs.jobs WHERE {condition}) a"
    );
    assert_eq!(s.number(&left).await, 0);
}

pub(crate) async fn jobs(s: &Session) -> String {
    s.show("SELECT id, attempts, interruptions, locked_by, last_error FROM app_jobs.jobs ORDER BY id").await
}

#[tokio::test]
async fn an_extension_does_not_wait_for_a_row_that_somebody_holds() {
    let db = database().await;
    let (s, producer) = (Session::open(&db).await, Session::open(&db).await);
    s.add_job("'x', job_key := 'k'").await;
    claim(&s, A).await;
    producer.run("BEGIN; SELECT app_jobs.add_job('x', job_key := 'k')").await;
    let error = s.error("SELECT app_jobs_internal.extend_job('worker-a', 1, NULL, '1 h')").await;
    assert_eq!(error.code().code(), "55P03");
    producer.run("ROLLBACK").await;
    assert!(s.is("SELECT app_jobs_internal.extend_job('worker-a', 1, NULL, '1 h')").await);
}

#[tokio::test]
async fn an_extension_before_the_answer_ends_nothing_early_and_keeps_the_job_from_being_started_again() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    heartbeat(&s, A).await;
    claim(&s, A).await;
    heartbeat(&s, B).await;
    age(&s, B, "1 s", "1 h").await;
    s.run("SELECT app_jobs_internal.extend_job('worker-a', 1, NULL, '10 s')").await;
    s.run("UPDATE app_jobs.jobs SET deadline = now() - interval '1 s'").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}", "its worker lives: no callback is due");
    // The function shows that it is at it; its worker is gone.
    s.run("SELECT app_jobs_internal.extend_job('worker-a', 1, NULL, '10 min')").await;
    age(&s, A, "31 s", "1 h").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}");
    assert_eq!(s.show("SELECT worker_id FROM app_jobs.workers").await, "worker-b");
    s.run("UPDATE app_jobs.jobs SET deadline = now() - interval '1 s', locked_at = now() - interval '20 min'").await;
    assert_eq!(heartbeat(&s, B).await, "{1}|{worker-a}|{}");
}

#[tokio::test]
async fn a_deadline_that_passed_during_an_outage_has_half_a_lease_for_its_callback_to_arrive() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    claim(&s, A).await;
    accept(&s, "true").await;
    s.run("UPDATE app_jobs.jobs SET deadline = now() - interval '10 s'").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}", "a process that has just come");
    age(&s, B, "16 s", "1 h").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}", "and one that was away itself");
    age(&s, B, "1 s", "9 s").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}");
    age(&s, B, "1 s", "16 s").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{1}");
}

#[tokio::test]
async fn one_job_that_cannot_be_changed_stops_neither_heartbeats_nor_other_rescues() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SELECT app_jobs.add_job('a', queue_name := 'q'), app_jobs.add_job('b', queue_name := 'r'), app_jobs.add_job('c'), \
         app_jobs.add_job('d')",
    )
    .await;
    heartbeat(&s, A).await;
    claim(&s, A).await;
    accept(&s, "id > 2").await;
    s.run("UPDATE app_jobs.jobs SET interruptions = 3, attempts = 2, deadline = deadline - interval '2 h'").await;
    heartbeat(&s, B).await;
    age(&s, A, "1 min", "1 h").await;
    age(&s, B, "1 s", "1 h").await;
    s.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON app_jobs.jobs FOR EACH ROW WHEN (OLD.id IN (1, 3)) EXECUTE FUNCTION refuse()",
    )
    .await;
    assert_eq!(heartbeat(&s, B).await, "{2}|{worker-a}|{4}");
    let beats = format!("SELECT heartbeat_at > now() - interval '1 s' FROM app_jobs.workers WHERE instance = {B}");
    assert!(s.is(&beats).await);
}

#[tokio::test]
async fn a_claim_of_an_instance_that_was_forgotten_is_rescued_all_the_same() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    claim(&s, A).await;
    heartbeat(&s, B).await;
    age(&s, B, "1 s", "1 h").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}", "it may be about to register again");
    s.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '31 s'").await;
    assert_eq!(heartbeat(&s, B).await, "{1}|{worker-a}|{}");
    assert_eq!(jobs(&s).await, "1|0|1|~|worker worker-a is gone");
}

#[tokio::test]
async fn among_different_leases_a_gap_is_measured_by_the_shortest() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    s.run(&format!("SELECT app_jobs_internal.heartbeat('worker-a', {A}, '10 s', true, '', '4 hours')")).await;
    claim(&s, A).await;
    heartbeat(&s, B).await;
    // Both were cut off for 12 s.
    age(&s, A, "12 s", "1 h").await;
    age(&s, B, "12 s", "1 h").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}");
}

#[tokio::test]
async fn the_jobs_of_a_silent_instance_start_again_after_its_lease_and_their_attempt_does_not_count() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x'), app_jobs.add_job('y', queue_name := 'q'), app_jobs.add_job('z')").await;
    assert_eq!(heartbeat(&s, A).await, "{}|{}|{}");
    assert_eq!(claim(&s, A).await, "1,2,3");
    // A function has accepted the third: it is at it, whatever becomes of the worker.
    accept(&s, "id = 3").await;
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
    let interrupt = format!("SELECT app_jobs_internal.interrupt_jobs({A}, 'it died')");
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
    let interrupt = format!("SELECT app_jobs_internal.interrupt_jobs({A}, 'it died')");
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
    s.run("SELECT app_jobs.add_job('a', job_key := 'k'), app_jobs.add_job('b'), app_jobs.add_job('c')").await;
    claim(&s, A).await;
    accept(&s, "id = 3").await;
    heartbeat(&s, B).await;
    age(&s, B, "1 s", "1 h").await;
    s.run("UPDATE app_jobs.jobs SET deadline = now() - interval '1 s' WHERE id = 3").await;
    other.run("BEGIN; SELECT FROM app_jobs.jobs WHERE id = 1 FOR UPDATE").await;
    assert_eq!(s.show(&format!("SELECT app_jobs_internal.interrupt_jobs({A}, 'it died')")).await, "{2}");
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{3}");
    other.run("COMMIT").await;
    assert_eq!(s.show(&format!("SELECT app_jobs_internal.interrupt_jobs({A}, 'it died')")).await, "{1}");
}

#[tokio::test]
async fn only_what_an_instance_does_not_know_of_is_interrupted() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 3)").await;
    claim(&s, A).await;
    let known = s.show("SELECT array_agg(epoch) FROM app_jobs.jobs WHERE id <> 2").await;
    assert_eq!(s.show(&format!("SELECT app_jobs_internal.interrupt_jobs({A}, 'lost', '{known}')")).await, "{2}");
}

#[tokio::test]
async fn an_accepted_job_fails_at_its_deadline_which_can_be_extended_and_is_never_shortened() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x'), app_jobs.add_job('y', queue_name := 'q')").await;
    claim(&s, A).await;
    heartbeat(&s, B).await;
    age(&s, B, "1 s", "1 h").await;
    accept(&s, "true").await;
    let epoch = s.number("SELECT epoch FROM app_jobs.jobs WHERE id = 1").await;
    assert!(s.is(&format!("SELECT app_jobs_internal.extend_job('worker-a', 1, {epoch}, '2 h')")).await);
    assert!(s.is(&format!("SELECT app_jobs_internal.extend_job('worker-a', 1, {epoch}, '1 s')")).await);
    let deadlines = "SELECT id, round(extract(epoch FROM deadline - updated_at) / 3600) FROM app_jobs.jobs ORDER BY 1";
    assert_eq!(s.show(deadlines).await, "1|2\n2|1");
    s.run("UPDATE app_jobs.jobs SET deadline = now() - interval '2 s' + id * interval '1 ms', updated_at = clock_timestamp()").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{1,2}");
    assert_eq!(jobs(&s).await, "1|1|0|~|no callback\n2|1|0|~|no callback");
    assert_eq!(s.show("SELECT DISTINCT epoch, instance, accepted, deadline FROM app_jobs.jobs").await, "~|~|f|~");
}

#[tokio::test]
async fn a_job_whose_callback_may_still_come_is_not_claimed_however_old_its_lock_is_nor_is_the_next_of_its_queue() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x', queue_name := 'q'), app_jobs.add_job('y', queue_name := 'q')").await;
    assert_eq!(claim(&s, A).await, "1");
    accept(&s, "id = 1").await;
    s.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '5 hours' WHERE id = 1").await;
    assert_eq!(claim(&s, B).await, "");
    for call in ["reschedule_jobs('{1}')", "permanently_fail_jobs('{1}')", "complete_jobs('{1}')"] {
        assert_eq!(s.show(&format!("SELECT id FROM app_jobs.{call}")).await, "", "{call}");
    }
    let freed = "SELECT count(*) FROM app_jobs_internal.claim_jobs('worker-b', NULL, 10, '4 hours', deep := false, free_gates := ARRAY['queue''q'''])";
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
    assert_eq!(s.show("SELECT app_jobs_internal.ended_instances('worker-a', gen_random_uuid())").await, "{}");
    assert_eq!(claim(&s, B).await, "");
    let expired =
        format!("SELECT expired FROM app_jobs_internal.heartbeat('worker-b', {B}, '30 s', true, '', '4 hours')");
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
    let lock = format!("SELECT pg_advisory_lock_shared(app_jobs_internal.instance_lock({A}))");
    living.run(&lock).await;
    heartbeat(&s, A).await;
    assert_eq!(claim(&s, A).await, "1,2");
    let ended = format!("SELECT app_jobs_internal.ended_instances('worker-a', {B})");
    let take_back = format!("SELECT app_jobs_internal.take_back_jobs('worker-a', {B}, array[{A}]::uuid[])");
    assert_eq!(s.show(&ended).await, "{}", "a live twin");
    assert_eq!(s.show(&take_back).await, "{}", "one that was found ended and has come back");
    let unlock = format!("SELECT pg_advisory_unlock_shared(app_jobs_internal.instance_lock({A}))");
    living.run(&unlock).await;
    let other = format!("SELECT app_jobs_internal.ended_instances('worker-c', {B})");
    assert_eq!(s.show(&other).await, "{}", "another id");
    let not_found_before = format!("SELECT app_jobs_internal.take_back_jobs('worker-a', {B}, '{{}}')");
    assert_eq!(s.show(&not_found_before).await, "{}");
    s.run("UPDATE app_jobs.workers SET listens = false").await;
    assert_eq!(s.show(&take_back).await, "{}", "one that never had a session");
    s.run("UPDATE app_jobs.workers SET listens = true").await;
    assert_eq!(s.show(&take_back).await, "{1,2}");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.workers").await, 0);
    assert_eq!(jobs(&s).await.lines().next(), Some("1|0|1|~|worker worker-a ended while it ran the job"));
}

/// What a tenant with column grants may write, and a trigger of an application's own.
#[tokio::test]
async fn a_job_that_cannot_be_changed_keeps_neither_its_neighbours_nor_those_behind_it_from_being_dealt_with() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.task_identifier = 'refused' THEN RAISE EXCEPTION 'refused'; END IF; RETURN NEW; END $$;
         SELECT app_jobs.add_job(task) FROM unnest('{refused,beside,beside}'::text[]) AS task",
    )
    .await;
    heartbeat(&s, A).await;
    claim(&s, A).await;
    // None of them has a queue: they are given back together, where that is possible.
    s.run("CREATE TRIGGER refuse BEFORE UPDATE ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION refuse()").await;
    age(&s, A, "1 h", "2 h").await;
    heartbeat(&s, B).await;
    age(&s, B, "0 s", "1 h").await;
    assert_eq!(heartbeat(&s, B).await, "{2,3}|{worker-a}|{}");

    // At its deadline, a job at the end of time fails as any other.
    s.run("DROP TRIGGER refuse ON app_jobs.jobs; DELETE FROM app_jobs.jobs; SELECT app_jobs.add_job('x') FROM generate_series(1, 2)").await;
    claim(&s, B).await;
    s.run(
        "UPDATE app_jobs.jobs SET accepted = true, deadline = now() - interval '1 s', updated_at = now();
         UPDATE app_jobs.jobs SET run_at = '294276-12-31 23:59:59+00' WHERE id = 4;
         UPDATE app_jobs.jobs SET run_at = 'infinity' WHERE id = 5",
    )
    .await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{4,5}");
    assert_eq!(
        s.show("SELECT id, locked_by, last_error, run_at > '9999-01-01' FROM app_jobs.jobs ORDER BY 1").await,
        "4|~|no callback|t\n5|~|no callback|t"
    );

    // Nor does a deadline that somebody has put to either end of time hold up heartbeats.
    s.run("UPDATE app_jobs.jobs SET run_at = now(), attempts = 0").await;
    claim(&s, B).await;
    s.run("UPDATE app_jobs.jobs SET accepted = true, deadline = 'infinity', updated_at = now()").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{}");
    s.run("UPDATE app_jobs.jobs SET deadline = '-infinity' WHERE id = 4").await;
    assert_eq!(heartbeat(&s, B).await, "{}|{}|{4}");

    // More than a heartbeat looks at cannot be failed: those behind them are, all the same, by and by.
    s.run(
        "DELETE FROM app_jobs.jobs;
         INSERT INTO app_jobs.jobs (task_identifier, locked_at, locked_by, attempts, accepted, deadline)
         SELECT CASE WHEN n % 100 = 0 THEN 'x' ELSE 'refused' END, now(), 'worker-b', 1, true, now() - interval '1 s' * (3000 - n)
           FROM generate_series(1, 2500) AS n;
         CREATE TRIGGER refuse BEFORE UPDATE ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let done = "SELECT count(*) FROM app_jobs.jobs WHERE task_identifier = 'x' AND locked_at IS NOT NULL";
    eventually(LIMIT, async || {
        heartbeat(&s, B).await;
        s.number(done).await == 0
    })
    .await;
}
