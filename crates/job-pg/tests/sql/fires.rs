//! Schedulers under a lease: who holds a schedule, from when on its fires are owed, and what a fire makes.

use job_testkit::{TestDb, eventually};

use crate::sql::support::{Ear, LIMIT, Session, database};

const A: &str = "00000000-0000-4000-8000-00000000000a";
const B: &str = "00000000-0000-4000-8000-00000000000b";

/// A session, when the server has been up for a lease: before that, none passes.
async fn session(db: &TestDb) -> Session {
    let s = Session::open(db).await;
    eventually(LIMIT, async || s.is("SELECT clock_timestamp() - pg_postmaster_start_time() > interval '3 s'").await)
        .await;
    s
}

/// A heartbeat of `instance`.
async fn beat(s: &Session, id: &str, instance: &str) {
    s.run(&format!("SELECT FROM app_jobs_internal.scheduler_heartbeat('{id}', '{instance}', '3 s', false)")).await;
}

/// A heartbeat, and then a claim of whatever there is: the ids.
async fn claim(s: &Session, id: &str, instance: &str) -> String {
    beat(s, id, instance).await;
    s.show(&format!(
        "SELECT id FROM app_jobs_internal.claim_schedules('{id}', '{instance}', NULL, 10, false) ORDER BY id"
    ))
    .await
}

/// As if its last heartbeat had come a minute ago.
async fn silence(s: &Session, instance: &str) {
    s.run(&format!(
        "UPDATE app_jobs.schedulers SET heartbeat_at = heartbeat_at - interval '1 min' WHERE instance = '{instance}'"
    ))
    .await;
}

async fn add(s: &Session, task: &str) -> i64 {
    s.number(&format!("SELECT id FROM app_jobs.add_scheduled_job('{task}')")).await
}

/// What fires of `instance` make, each of them (schedule, SQL of its time): outcomes in one line.
async fn fire(s: &Session, id: &str, instance: &str, fires: &[(i64, &str)]) -> String {
    let list = |values: Vec<String>| format!("ARRAY[{}]", values.join(", "));
    let ids = list(fires.iter().map(|(id, _)| format!("{id}::bigint")).collect());
    let digests = list(
        fires
            .iter()
            .map(|(id, _)| {
                format!(
                    "(SELECT app_jobs_internal.schedule_digest(s) FROM app_jobs.scheduled_jobs s WHERE s.id = {id})"
                )
            })
            .collect(),
    );
    let ats = list(fires.iter().map(|(_, at)| format!("({at})::timestamptz")).collect());
    let overlapping = list(fires.iter().map(|_| "false".to_owned()).collect());
    s.show(&format!(
        "SELECT string_agg(f.outcome, ' ') FROM app_jobs_internal.fire_schedules('{id}', '{instance}', {ids}, {digests}, {ats}, {overlapping}) f"
    ))
    .await
}

#[tokio::test]
async fn a_schedule_is_held_by_one_instance_until_its_lease_has_passed() {
    let db = database().await;
    let s = session(&db).await;
    let schedule = add(&s, "x").await;
    // Who is not registered claims nothing.
    let unregistered =
        format!("SELECT count(*) FROM app_jobs_internal.claim_schedules('sched-a', '{A}', NULL, 10, false)");
    assert_eq!(s.number(&unregistered).await, 0);
    assert_eq!(claim(&s, "sched-a", A).await, schedule.to_string());
    let held = format!("sched-a|t|{A}");
    let holder = "SELECT locked_by, locked_at IS NOT NULL, instance FROM app_jobs.scheduled_jobs";
    assert_eq!(s.show(holder).await, held);
    assert_eq!(claim(&s, "sched-a", A).await, "");
    assert_eq!(claim(&s, "sched-b", B).await, "");
    silence(&s, A).await;
    // A heartbeat in time keeps it.
    beat(&s, "sched-a", A).await;
    assert_eq!(claim(&s, "sched-b", B).await, "");
    silence(&s, A).await;
    assert_eq!(claim(&s, "sched-b", B).await, schedule.to_string());
    assert_eq!(s.show(holder).await, format!("sched-b|t|{B}"));
    // The original's call sees it as taken, and what it takes itself has no lease.
    assert_eq!(s.show("SELECT id FROM app_jobs.get_scheduled_job('original')").await, "~");
    s.run(&format!("SELECT app_jobs_internal.leave_scheduler('{B}')")).await;
    assert_eq!(s.number("SELECT id FROM app_jobs.get_scheduled_job('original')").await, schedule);
    s.run("UPDATE app_jobs.scheduled_jobs SET locked_at = now() - interval '1 year'").await;
    assert_eq!(claim(&s, "sched-a", A).await, "");
    // Unless the process is alone under the same id.
    beat(&s, "original", B).await;
    let alone = format!("SELECT id FROM app_jobs_internal.claim_schedules('original', '{B}', NULL, 10, true)");
    assert_eq!(s.number(&alone).await, schedule);
}

#[tokio::test]
async fn fires_are_owed_since_the_last_one_where_a_scheduler_was_there_all_along() {
    let db = database().await;
    let s = session(&db).await;
    let owed = "SELECT CASE owed_since WHEN fired_until THEN 'all' ELSE 'from now on' END FROM app_jobs.scheduled_jobs";
    // The schedule is older than the first scheduler.
    s.run("SELECT app_jobs.add_scheduled_job('x'); UPDATE app_jobs.scheduled_jobs SET fired_until = now() - interval '1 day'").await;
    claim(&s, "sched-a", A).await;
    assert_eq!(s.show(owed).await, "from now on");
    // A takes it, B lives; A ends.
    beat(&s, "sched-b", B).await;
    silence(&s, A).await;
    s.run("UPDATE app_jobs.schedulers SET lease = '1 h' WHERE scheduler_id = 'sched-b'").await;
    s.run("UPDATE app_jobs.schedulers SET covered_since = now() - interval '1 h' WHERE scheduler_id = 'sched-b'").await;
    let again = format!("SELECT count(*) FROM app_jobs_internal.claim_schedules('sched-b', '{B}', NULL, 10, false)");
    assert_eq!(s.number(&again).await, 1);
    assert_eq!(s.show(owed).await, "all");
    // B leaves, and nobody is there until the next one comes: within a lease, or later.
    for (ago, expected) in [("1 s", "all"), ("1 h", "from now on")] {
        s.run(&format!("SELECT app_jobs_internal.leave_scheduler('{B}'), app_jobs_internal.leave_scheduler('{A}')"))
            .await;
        s.run(&format!("UPDATE app_jobs.scheduled_jobs SET released_at = clock_timestamp() - interval '{ago}'")).await;
        claim(&s, "sched-a", A).await;
        assert_eq!(s.show(owed).await, expected);
    }
    // One that comes while another lives has what that one covers.
    s.run(&format!(
        "UPDATE app_jobs.schedulers SET covered_since = '2020-01-01', heartbeat_at = now() WHERE instance = '{A}'"
    ))
    .await;
    beat(&s, "sched-b", B).await;
    let covered =
        "SELECT count(*) FROM app_jobs.schedulers WHERE covered_since = '2020-01-01' AND scheduler_id = 'sched-b'";
    assert_eq!(s.number(covered).await, 1);
}

#[tokio::test]
async fn a_rule_that_changes_and_a_pause_that_ends_begin_anew() {
    let db = database().await;
    let s = session(&db).await;
    add(&s, "x").await;
    let old = "UPDATE app_jobs.scheduled_jobs SET fired_until = '2020-01-01', ended_at = now(), last_error = 'no'";
    let state = "SELECT fired_until > '2021-01-01', ended_at IS NULL, last_error IS NULL FROM app_jobs.scheduled_jobs";
    for (change, after) in [
        ("payload = '[1]', priority = 5", "f|f|f"),
        ("schedule_info = '{\"hour\":1}'", "t|t|t"),
        ("paused_at = now()", "t|f|f"),
        ("paused_at = clock_timestamp()", "f|f|f"),
        ("paused_at = NULL", "t|f|f"),
    ] {
        s.run(old).await;
        s.run(&format!("UPDATE app_jobs.scheduled_jobs SET {change}")).await;
        assert_eq!(s.show(state).await, after, "{change}");
    }
    // A pause frees it, and neither kind of scheduler takes it then; one that ended neither.
    s.run("UPDATE app_jobs.scheduled_jobs SET ended_at = NULL").await;
    claim(&s, "sched-a", A).await;
    s.run("UPDATE app_jobs.scheduled_jobs SET paused_at = now()").await;
    assert_eq!(s.show("SELECT locked_by, locked_at, instance FROM app_jobs.scheduled_jobs").await, "~|~|~");
    assert_eq!(claim(&s, "sched-a", A).await, "");
    assert_eq!(s.show("SELECT id FROM app_jobs.get_scheduled_job('original')").await, "~");
    s.run("UPDATE app_jobs.scheduled_jobs SET paused_at = NULL, ended_at = now()").await;
    assert_eq!(s.show("SELECT id FROM app_jobs.get_scheduled_job('original')").await, "~");
    // By hand it runs all the same.
    assert!(s.is("SELECT (app_jobs.run_scheduled_job(1)).id IS NOT NULL").await);
}

#[tokio::test]
async fn only_the_holder_of_the_schedule_as_it_is_fires_it_and_not_before_its_time() {
    let db = database().await;
    let s = session(&db).await;
    let schedule = add(&s, "x").await;
    claim(&s, "sched-a", A).await;
    let now = "clock_timestamp()";
    assert_eq!(fire(&s, "sched-b", B, &[(schedule, now)]).await, "lost");
    assert_eq!(fire(&s, "sched-a", B, &[(schedule, now)]).await, "lost");
    assert_eq!(fire(&s, "sched-b", A, &[(schedule, now)]).await, "lost");
    assert_eq!(fire(&s, "sched-a", A, &[(schedule, "clock_timestamp() + interval '1 hour'")]).await, "early");
    assert_eq!(fire(&s, "sched-a", A, &[(schedule, "clock_timestamp() - interval '1 hour'")]).await, "known");
    let stale = format!(
        "SELECT outcome FROM app_jobs_internal.fire_schedules('sched-a', '{A}', '{{{schedule}}}', '{{4711}}', ARRAY[{now}], '{{false}}')"
    );
    assert_eq!(s.show(&stale).await, "lost");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.schedule_fires").await, 0);
    assert_eq!(fire(&s, "sched-a", A, &[(schedule, now)]).await, "made");
    let ledger = "SELECT count(*) FROM app_jobs.schedule_fires f JOIN app_jobs.jobs j ON j.id = f.job_id
                    JOIN app_jobs.scheduled_jobs s ON s.id = f.schedule_id
                   WHERE f.outcome = 'made' AND s.last_scheduled_id = j.id AND s.fired_until = f.fire_at";
    assert_eq!(s.number(ledger).await, 1);
}

#[tokio::test]
async fn several_fires_in_one_call_are_each_dealt_with_once_and_a_refused_one_harms_no_other() {
    let db = database().await;
    let s = session(&db).await;
    let (one, two) = (add(&s, "one").await, add(&s, "two").await);
    s.run("ALTER TABLE app_jobs.jobs ADD CONSTRAINT no_two CHECK (task_identifier <> 'two')").await;
    let three = add(&s, "three").await;
    claim(&s, "sched-a", A).await;
    s.run("UPDATE app_jobs.scheduled_jobs SET fired_until = now() - interval '1 min'").await;
    let (first, second) =
        ("date_trunc('second', now()) - interval '2 s'", "date_trunc('second', now()) - interval '1 s'");
    let fires = [(one, first), (two, first), (three, first), (one, second)];
    assert_eq!(fire(&s, "sched-a", A, &fires).await, "made failed made skipped");
    let reason =
        "SELECT count(*) FROM app_jobs.schedule_fires WHERE outcome = 'failed' AND reason LIKE '%no_two%(23514)'";
    assert_eq!(s.number(reason).await, 1);
    // The same, later than the ledger knows: nothing is made twice.
    let rows =
        "SELECT string_agg(schedule_id || outcome || coalesce(job_id::text, '-'), ' ' ORDER BY schedule_id, fire_at)
                  FROM app_jobs.schedule_fires";
    let before = s.show(rows).await;
    s.run("UPDATE app_jobs.scheduled_jobs SET fired_until = now() - interval '1 min'").await;
    let known = format!("SELECT fire_at FROM app_jobs.schedule_fires WHERE schedule_id = {one} ORDER BY 1 LIMIT 1");
    assert_eq!(fire(&s, "sched-a", A, &[(one, &known)]).await, "known");
    assert_eq!(s.show(rows).await, before);
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 2);
}

#[tokio::test]
async fn a_mark_is_written_for_the_schedule_as_it_is_and_frees_one_that_has_ended() {
    let db = database().await;
    let s = session(&db).await;
    let schedule = add(&s, "x").await;
    claim(&s, "sched-a", A).await;
    let mark = |digest: &str, ended: bool| {
        format!(
            "SELECT app_jobs_internal.mark_schedules('sched-a', '{A}', '{{{schedule}}}', ARRAY[{digest}], '{{what is wrong}}', '{{{ended}}}',
                    ARRAY[date_trunc('day', now())], '{{and so are others}}') FROM app_jobs.scheduled_jobs s"
        )
    };
    let state = "SELECT last_error, ended_at IS NOT NULL, locked_by, instance FROM app_jobs.scheduled_jobs";
    // What is written is returned, and nothing else.
    assert_eq!(s.show(&mark("4711", true)).await, "");
    assert_eq!(s.show(state).await, format!("~|f|sched-a|{A}"));
    let digest = "app_jobs_internal.schedule_digest(s)";
    let other = session(&db).await;
    other.run("BEGIN; SELECT FROM app_jobs.scheduled_jobs FOR UPDATE").await;
    assert_eq!(s.show(&mark(digest, false)).await, "", "somebody holds the row");
    other.run("COMMIT").await;
    assert_eq!(s.show(&mark(digest, false)).await, schedule.to_string());
    assert_eq!(s.show(state).await, format!("what is wrong|f|sched-a|{A}"));
    let missed = "SELECT outcome, reason, fire_at = date_trunc('day', now()) FROM app_jobs.schedule_fires";
    assert_eq!(s.show(missed).await, "missed|and so are others|t");
    assert_eq!(s.show(&mark(digest, true)).await, schedule.to_string());
    assert_eq!(s.show(&mark(digest, true)).await, "", "it is held no longer");
    assert_eq!(s.show(state).await, "what is wrong|t|~|~");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.schedule_fires").await, 1);
}

#[tokio::test]
async fn a_fire_does_not_overtake_a_blocked_one_of_its_schedule() {
    let db = database().await;
    let s = session(&db).await;
    let (blocked, free) = (add(&s, "blocked").await, add(&s, "free").await);
    claim(&s, "sched-a", A).await;
    s.run("UPDATE app_jobs.scheduled_jobs SET fired_until = now() - interval '1 min'").await;
    let other = Session::open(&db).await;
    other.run(&format!("BEGIN; SELECT FROM app_jobs.scheduled_jobs WHERE id = {blocked} FOR UPDATE")).await;
    let (first, second) =
        ("date_trunc('second', now()) - interval '2 s'", "date_trunc('second', now()) - interval '1 s'");
    let fires = [(blocked, first), (free, first), (blocked, second)];
    assert_eq!(fire(&s, "sched-a", A, &fires).await, "blocked made blocked");
    other.run("ROLLBACK").await;
    assert_eq!(fire(&s, "sched-a", A, &fires).await, "made known skipped");
}

#[tokio::test]
async fn a_clock_that_was_set_back_neither_keeps_a_lease_nor_silences_a_changed_rule() {
    let db = database().await;
    let s = session(&db).await;
    add(&s, "x").await;
    claim(&s, "sched-a", A).await;
    s.run("UPDATE app_jobs.schedulers SET heartbeat_at = now() + interval '1 hour'").await;
    s.run("UPDATE app_jobs.scheduled_jobs SET fired_until = now() + interval '1 hour'").await;
    assert_eq!(claim(&s, "sched-b", B).await, "1");
    s.run("UPDATE app_jobs.scheduled_jobs SET schedule_info = '{\"hour\": 1}'").await;
    assert!(s.is("SELECT fired_until <= clock_timestamp() FROM app_jobs.scheduled_jobs").await);
}

#[tokio::test]
async fn who_locks_a_schedule_by_hand_is_an_unregistered_holder() {
    let db = database().await;
    let s = session(&db).await;
    add(&s, "x").await;
    claim(&s, "sched-a", A).await;
    s.run("UPDATE app_jobs.scheduled_jobs SET locked_by = 'by-hand'").await;
    assert_eq!(s.show("SELECT locked_by, instance FROM app_jobs.scheduled_jobs").await, "by-hand|~");
    assert_eq!(claim(&s, "sched-a", A).await, "");
    s.run("UPDATE app_jobs.scheduled_jobs SET locked_by = NULL, locked_at = NULL").await;
    assert_eq!(claim(&s, "sched-a", A).await, "1");
    // What it was given back after, it has dealt with.
    s.run("UPDATE app_jobs.scheduled_jobs SET locked_by = 'by-hand', fired_until = '2020-01-01'").await;
    s.run("SELECT app_jobs.release_scheduled_jobs('by-hand')").await;
    assert!(s.is("SELECT fired_until > now() - interval '1 min' FROM app_jobs.scheduled_jobs").await);
}

#[tokio::test]
async fn old_fires_are_removed_oldest_first_and_no_more_than_asked_for() {
    let db = database().await;
    let s = session(&db).await;
    s.run(
        "INSERT INTO app_jobs.schedule_fires (schedule_id, fire_at, outcome, reason, scheduler_id)
         SELECT n % 3, now() - n * interval '1 hour', 'skipped', '', 'sched-a' FROM generate_series(1, 10) n",
    )
    .await;
    assert_eq!(s.number("SELECT app_jobs_internal.prune_schedule_fires('5 hours 30 min', 3)").await, 3);
    let left = "SELECT round(extract(epoch FROM now() - min(fire_at)) / 3600)::bigint FROM app_jobs.schedule_fires";
    assert_eq!(s.number(left).await, 7);
    assert_eq!(s.number("SELECT app_jobs_internal.prune_schedule_fires('5 hours 30 min', 3)").await, 2);
    assert_eq!(s.number("SELECT app_jobs_internal.prune_schedule_fires('5 hours 30 min', 3)").await, 0);
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.schedule_fires").await, 5);
}

#[tokio::test]
async fn what_a_scheduler_writes_wakes_no_scheduler() {
    for (channel, told) in [("scheduled_jobs:insert", 1), ("scheduled_jobs:change", 0)] {
        let db = database().await;
        let s = session(&db).await;
        for task in ["one", "two", "three"] {
            add(&s, task).await;
        }
        let mut ear = Ear::on(&db, channel).await;
        assert_eq!(claim(&s, "sched-a", A).await, "1\n2\n3");
        assert_eq!(fire(&s, "sched-a", A, &[(1, "clock_timestamp()"), (2, "clock_timestamp()")]).await, "made made");
        assert_eq!(fire(&s, "sched-a", A, &[(1, "clock_timestamp()")]).await, "skipped");
        s.run(&format!(
            "SELECT app_jobs_internal.mark_schedules('sched-a', '{A}', '{{3}}', ARRAY[app_jobs_internal.schedule_digest(s)], '{{bad}}', '{{true}}',
                    '{{NULL}}', '{{NULL}}') FROM app_jobs.scheduled_jobs s WHERE s.id = 3"
        ))
        .await;
        silence(&s, A).await;
        assert_eq!(claim(&s, "sched-b", B).await, "1\n2");
        assert_eq!(ear.count().await, 0, "{channel}");
        // What it gives back, others have to hear of.
        s.run(&format!("SELECT app_jobs_internal.leave_scheduler('{B}')")).await;
        assert_eq!(ear.count().await, told, "{channel}");
    }
}
