//! Who may end an attempt: each claim has its own epoch.

use crate::sql::leases::{A, B, accept, claim, jobs};
use crate::sql::support::{Ear, Session, database};

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
            (
                format!(
                    "end_held_jobs('{{{id}}}', '{{worker}}', '{{{stale}}}', '{{no}}', '{{NULL}}', '{{t}}', '{{f}}')"
                ),
                "{1}",
            ),
            (format!("extend_job('worker', {id}, {stale}, '1 h')"), "f"),
        ] {
            assert_eq!(s.show(&format!("SELECT app_jobs_internal.{call}")).await, unchanged, "{call}");
        }
    }
    let live = epochs[2];
    let other = format!("SELECT app_jobs_internal.complete_held_jobs('{{{id}}}', '{{other}}', '{{{live}}}')");
    assert_eq!(s.show(&other).await, "{1}", "the right epoch of the wrong worker");
    assert_eq!(s.show("SELECT attempts, locked_by, last_error, deadline FROM app_jobs.jobs").await, "1|worker|~|~");
    let complete = format!("SELECT app_jobs_internal.complete_held_jobs('{{{id}}}', '{{worker}}', '{{{live}}}')");
    assert_eq!(s.show(&complete).await, "{}");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
}

#[tokio::test]
async fn without_an_epoch_an_outcome_is_that_of_whatever_claim_the_worker_holds() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    s.get_job("'worker'").await.unwrap();
    assert_eq!(s.show("SELECT app_jobs_internal.complete_held_jobs('{1}', '{other}', '{NULL}')").await, "{1}");
    let fail = "SELECT app_jobs_internal.end_held_jobs('{1}', '{worker}', '{NULL}', '{no}', '{NULL}', '{t}', '{f}')";
    assert_eq!(s.show(fail).await, "{}");
    assert_eq!(jobs(&s).await, "1|1|0|~|no");
}

#[tokio::test]
async fn a_claim_of_many_jobs_gives_each_an_epoch_that_no_other_can_be_told_from() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 30)").await;
    // Drawn by the database; by the caller, here with a sign bit; and by the caller for fewer jobs than there are.
    claim(&s, A).await;
    for (epochs, jobs) in [("'{7,-9223372036854775807}'", 2), ("'{8,9}'", 18)] {
        s.run(&format!(
            "SELECT FROM app_jobs_internal.claim_instance_jobs({A}, 'worker-a', {epochs}::bigint[], NULL, {jobs}, '4 h')"
        ))
        .await;
    }
    let epochs = "SELECT count(*), count(DISTINCT epoch), bool_and(epoch >= 0) FROM app_jobs.jobs";
    assert_eq!(s.show(epochs).await, "30|30|t");
    // What one random number of the whole call and the job's id make would be the same for all of it.
    for part in ["epoch # id", "epoch - id", "epoch + id", "(epoch >> 32)"] {
        assert_eq!(
            s.number(&format!("SELECT count(DISTINCT {part}) FROM app_jobs.jobs WHERE epoch > 9")).await,
            26,
            "{part}"
        );
    }
    let given = "SELECT string_agg(epoch::text, ',' ORDER BY epoch) FROM app_jobs.jobs WHERE epoch < 10";
    assert_eq!(s.show(given).await, "1,7,8,9");
}

#[tokio::test]
async fn an_attempt_can_be_put_off_with_and_without_counting() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 2)").await;
    claim(&s, A).await;
    s.run(
        "SELECT app_jobs_internal.end_held_jobs(array_agg(id ORDER BY id), '{worker-a,worker-a}', array_agg(epoch ORDER BY id), \
         '{busy,down}', '{60,30}', '{f,t}', '{f,f}') FROM app_jobs.jobs",
    )
    .await;
    let wait =
        "SELECT id, attempts, last_error, round(extract(epoch FROM run_at - updated_at)) FROM app_jobs.jobs ORDER BY 1";
    assert_eq!(s.show(wait).await, "1|0|busy|60\n2|1|down|30");
    // The wait is the given one, and the usual one is not added. Without one, a failed attempt waits as any other.
    s.run("UPDATE app_jobs.jobs SET run_at = now() - interval '1 s'").await;
    claim(&s, A).await;
    let again = |delays: &str| {
        format!(
            "SELECT app_jobs_internal.end_held_jobs(array_agg(id ORDER BY id), '{{worker-a,worker-a}}', \
             array_agg(epoch ORDER BY id), '{{busy,down}}', '{delays}', '{{f,t}}', '{{f,f}}') FROM app_jobs.jobs"
        )
    };
    s.run(&again("{1,1}")).await;
    assert_eq!(s.show(wait).await, "1|0|busy|1\n2|2|down|1");
    s.run("UPDATE app_jobs.jobs SET run_at = now() - interval '1 s'").await;
    claim(&s, A).await;
    s.run(&again("{1,NULL}")).await;
    assert_eq!(s.show(wait).await, "1|0|busy|1\n2|3|down|20");
}

/// As an operator's UPDATE of a job that runs does it.
#[tokio::test]
async fn a_run_at_that_was_put_ahead_while_the_job_ran_is_never_brought_forward() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 5)").await;
    claim(&s, A).await;
    s.run("UPDATE app_jobs.jobs SET run_at = '2100-01-01Z' WHERE id < 5").await;
    // Snoozed, given back, failed with a wait, and discarded; and one that was not put ahead.
    s.run(
        "SELECT app_jobs_internal.end_held_jobs(array_agg(id ORDER BY id), array_fill('worker-a'::text, '{5}'), \
         array_agg(epoch ORDER BY id), '{a,b,c,d,e}', '{60,0,60,NULL,60}', '{f,f,t,t,t}', '{f,f,f,t,f}') FROM app_jobs.jobs",
    )
    .await;
    let waits = "SELECT string_agg(id::text, ',' ORDER BY id) FROM app_jobs.jobs WHERE locked_at IS NULL AND run_at";
    assert_eq!(s.show(&format!("{waits} = '2100-01-01Z'")).await, "1,2,3,4");
    assert_eq!(s.show(&format!("{waits} < now() + interval '1 h'")).await, "5");
    // A wait that ends later than that counts.
    s.run("UPDATE app_jobs.jobs SET run_at = now() WHERE id = 5").await;
    claim(&s, A).await;
    s.run("UPDATE app_jobs.jobs SET run_at = now() + interval '1 h' WHERE id = 5").await;
    s.run("SELECT app_jobs_internal.end_held_jobs('{5}', '{worker-a}', '{NULL}', '{e}', '{7200}', '{f}', '{f}')").await;
    assert_eq!(s.show(&format!("{waits} > now() + interval '100 min' AND id = 5")).await, "5");
}

#[tokio::test]
async fn a_lock_that_is_set_or_lifted_by_hand_is_nobodys_claim() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    claim(&s, A).await;
    s.run("SELECT app_jobs_internal.extend_job('worker-a', 1, NULL, '1 h')").await;
    s.run("UPDATE app_jobs.jobs SET locked_by = 'operator'").await;
    let claimed = "SELECT epoch, instance, deadline FROM app_jobs.jobs";
    assert_eq!(s.show(claimed).await, "~|~|~");
    s.run("SELECT app_jobs.release_jobs('operator')").await;
    claim(&s, A).await;
    s.run("UPDATE app_jobs.jobs SET locked_by = 'operator', updated_at = now() + interval '1 s'").await;
    assert_eq!(s.show(claimed).await, "~|~|~");
}

#[tokio::test]
async fn a_claim_keeps_its_epoch_although_the_clock_was_set_back() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    s.run("UPDATE app_jobs.jobs SET updated_at = now() + interval '1 h'").await;
    assert_eq!(claim(&s, A).await, "1");
    assert!(s.is(&format!("SELECT epoch IS NOT NULL AND instance = {A} FROM app_jobs.jobs")).await);
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
    let late = format!("SELECT app_jobs_internal.accept_held_jobs('{{1,2,3}}', '{{{epochs}}}', '1 h')");
    assert_eq!(s.show(&late).await, "");
    assert_eq!(s.show("SELECT DISTINCT deadline FROM app_jobs.jobs").await, "~");

    let both = "SELECT app_jobs_internal.accept_held_jobs(array_agg(id), array_agg(epoch), '1 h') FROM app_jobs.jobs";
    // Its function asks for more time at this moment.
    other.run("BEGIN; SELECT app_jobs_internal.extend_job('worker-a', 3, NULL, '1 min')").await;
    assert_eq!(s.show(both).await, "3");
    other.run("COMMIT").await;
    assert_eq!(s.show(both).await, "");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE deadline > now() + interval '59 min'").await, 2);
}

#[tokio::test]
async fn a_process_gives_back_its_own_claims_and_no_others() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 3)").await;
    assert_eq!(claim(&s, A).await, "1,2,3");
    let epoch = s.number("SELECT epoch FROM app_jobs.jobs WHERE id = 1").await;
    let release = |instance: &str, epoch: i64| {
        format!("SELECT app_jobs_internal.release_held_jobs({instance}, '{{1}}', '{{{epoch}}}')")
    };
    assert_eq!(s.show(&release(B, epoch)).await, "");
    assert_eq!(s.show(&release(A, epoch)).await, "1");
    assert_eq!(claim(&s, A).await, "1");
    assert_eq!(s.show(&release(A, epoch)).await, "", "it was given back before, and claimed anew");
    accept(&s, "id = 2").await;
    let rest = s.show(&format!("SELECT app_jobs_internal.interrupt_jobs({A}, NULL)")).await;
    assert!(matches!(rest.as_str(), "{1,3}" | "{3,1}"), "{rest}");
    assert_eq!(jobs(&s).await, "1|0|0|~|~\n2|1|0|worker-a|~\n3|0|0|~|~");
}

#[tokio::test]
async fn a_claim_that_leaves_due_jobs_behind_wakes_the_others() {
    let db = database().await;
    let s = Session::open(&db).await;
    let mut ear = Ear::on(&db, "jobs:insert").await;
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
