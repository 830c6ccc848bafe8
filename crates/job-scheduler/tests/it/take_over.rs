//! Who holds the schedules when a scheduler is killed, halted, or was never registered.

use std::time::Duration;

use job_testkit::process::Signal;
use job_testkit::{eventually, throughout};

use super::support::{
    EVERY_SECOND, ID, LIMIT, Running, collect_fires, database, fired, fires, gaps_and_doubles, held, ledger, number,
    process, schedule,
};

#[tokio::test]
async fn a_killed_schedulers_schedules_fire_elsewhere_after_its_lease_and_the_gap_is_made_up() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let id = schedule(&client, "tick", EVERY_SECOND).await;
    let lease = [("JOBS_SCHEDULER_LEASE", "5s")];
    let mut first = process(db.url(), "sched-first", &lease);
    fires(&client, "tick", 2).await;
    let second = process(db.url(), "sched-second", &lease);
    eventually(LIMIT, async || number(&client, "SELECT count(*) FROM app_jobs.schedulers").await == 2).await;

    first.signal(Signal::Kill);
    first.exit(LIMIT).await;
    held(&client, "sched-second", 1).await;
    let before = ledger(&client, id).await;
    eventually(LIMIT, async || ledger(&client, id).await >= before + 2).await;
    assert_eq!(gaps_and_doubles(&client).await, (0, 0));
    // The killed one is forgotten.
    eventually(LIMIT, async || number(&client, "SELECT count(*) FROM app_jobs.schedulers").await == 1).await;
    drop(second);
}

#[tokio::test]
async fn a_killed_schedulers_schedules_fire_at_once_when_its_id_comes_back() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    schedule(&client, "tick", EVERY_SECOND).await;
    let lease = [("JOBS_SCHEDULER_LEASE", "1h")];
    let mut first = process(db.url(), ID, &lease);
    fires(&client, "tick", 2).await;
    first.signal(Signal::Kill);
    first.exit(LIMIT).await;
    // Another one has to wait for the lease.
    let other = Running::start(db.url(), &[("HOSTNAME", "sched-other"), lease[0]]);
    eventually(LIMIT, async || number(&client, "SELECT count(*) FROM app_jobs.schedulers").await == 2).await;
    let second = Running::start(db.url(), &lease);
    fires(&client, "tick", 2).await;
    held(&client, ID, 1).await;
    assert_eq!(gaps_and_doubles(&client).await, (0, 0));
    assert_eq!((second.stop().await.released, other.stop().await.orphaned), (1, 0));
}

#[tokio::test]
async fn a_halted_scheduler_that_goes_on_fires_nothing_that_another_one_holds() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let id = schedule(&client, "tick", EVERY_SECOND).await;
    let lease = [("JOBS_SCHEDULER_LEASE", "4s")];
    let halted = process(db.url(), "sched-halted", &lease);
    fires(&client, "tick", 2).await;
    let other = process(db.url(), "sched-other", &lease);
    eventually(LIMIT, async || number(&client, "SELECT count(*) FROM app_jobs.schedulers").await == 2).await;
    halted.signal(Signal::Stop);
    held(&client, "sched-other", 1).await;
    fires(&client, "tick", 2).await;
    halted.signal(Signal::Continue);
    // It is back, and leaves the schedule where it is.
    let lives = "SELECT count(*) FROM app_jobs.schedulers
                  WHERE scheduler_id = 'sched-halted' AND heartbeat_at > now() - interval '1 second'";
    eventually(LIMIT, async || number(&client, lives).await == 1).await;
    fires(&client, "tick", 3).await;
    held(&client, "sched-other", 1).await;
    assert_eq!(gaps_and_doubles(&client).await, (0, 0));
    let makers = format!("SELECT count(DISTINCT scheduler_id) FROM app_jobs.schedule_fires WHERE schedule_id = {id}");
    assert_eq!(number(&client, &makers).await, 2);
    drop((halted, other));
}

#[tokio::test]
async fn a_scheduler_that_never_registered_keeps_what_it_locked() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    schedule(&client, "theirs", EVERY_SECOND).await;
    client.execute("SELECT app_jobs.get_scheduled_job('original-1', NULL)", &[]).await.unwrap();
    client.execute("UPDATE app_jobs.scheduled_jobs SET locked_at = now() - interval '1 year'", &[]).await.unwrap();
    schedule(&client, "mine", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[("JOBS_SCHEDULER_LEASE", "1s")]);
    fires(&client, "mine", 1).await;
    throughout(Duration::from_secs(3), async || {
        number(&client, "SELECT count(*) FROM app_jobs.scheduled_jobs WHERE locked_by = 'original-1'").await == 1
    })
    .await;
    // Its own call works, and once it gives the schedule up another one takes it, from then on.
    client.execute("SELECT app_jobs.run_scheduled_job(1)", &[]).await.unwrap();
    // However long it is since its last fire: what it did meanwhile is its own affair.
    client.execute("UPDATE app_jobs.scheduled_jobs SET fired_until = now() - interval '1 day'", &[]).await.unwrap();
    client.execute("SELECT app_jobs.release_scheduled_jobs('original-1', NULL)", &[]).await.unwrap();
    fires(&client, "theirs", 1).await;
    scheduler.stop().await;
    // One was made by hand.
    assert_eq!(gaps_and_doubles(&client).await, (0, 1));
}

#[tokio::test]
async fn a_fire_between_a_stop_and_the_next_holder_is_made_up() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    schedule(&client, "tick", EVERY_SECOND).await;
    let mut schedulers = vec![Running::start(db.url(), &[("HOSTNAME", "sched-0")])];
    fires(&client, "tick", 1).await;
    for number in 1..6 {
        schedulers.push(Running::start(db.url(), &[("HOSTNAME", &format!("sched-{number}"))]));
        let registered = "SELECT count(*) FROM app_jobs.schedulers";
        eventually(LIMIT, async || self::number(&client, registered).await == 2).await;
        assert_eq!(schedulers.remove(0).stop().await.released, 1);
        fires(&client, "tick", 1).await;
    }
    schedulers.remove(0).stop().await;
    assert_eq!(gaps_and_doubles(&client).await, (0, 0));
}

#[tokio::test]
async fn a_restart_of_the_only_scheduler_loses_no_fire_however_it_was_ended() {
    for signal in [Signal::Term, Signal::Kill] {
        let db = database().await;
        let client = db.connect().await;
        collect_fires(&client).await;
        let id = schedule(&client, "tick", EVERY_SECOND).await;
        // Longer than anything here takes on a busy machine.
        let lease = [("JOBS_SCHEDULER_LEASE", "1m")];
        let mut first = process(db.url(), ID, &lease);
        fires(&client, "tick", 2).await;
        first.signal(signal);
        first.exit(LIMIT).await;
        // A fire falls due that nobody makes.
        let due = "SELECT clock_timestamp() > max(fire_at) + interval '2 s' FROM app_jobs.schedule_fires";
        eventually(LIMIT, async || client.query_one(due, &[]).await.unwrap().get(0)).await;
        let before = ledger(&client, id).await;
        let second = Running::start(db.url(), &lease);
        eventually(LIMIT, async || ledger(&client, id).await >= before + 3).await;
        second.stop().await;
        assert_eq!(gaps_and_doubles(&client).await, (0, 0), "{signal:?}");
    }
}

#[tokio::test]
async fn a_stop_hands_over_what_it_can_and_what_is_locked_follows() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let locked = schedule(&client, "locked", EVERY_SECOND).await;
    schedule(&client, "free", EVERY_SECOND).await;
    // The lease has no part in it.
    let lease = [("JOBS_SCHEDULER_LEASE", "1h")];
    let first = Running::start(db.url(), &[("HOSTNAME", "sched-first"), lease[0]]);
    held(&client, "sched-first", 2).await;
    let mut owner = db.connect().await;
    let transaction = owner.transaction().await.unwrap();
    transaction.execute("SELECT FROM app_jobs.scheduled_jobs WHERE id = $1 FOR UPDATE", &[&locked]).await.unwrap();
    let second = Running::start(db.url(), &[("HOSTNAME", "sched-second"), lease[0]]);
    assert_eq!(first.stop().await.released, 1);
    held(&client, "sched-second", 1).await;
    fires(&client, "free", 1).await;
    transaction.rollback().await.unwrap();
    // Nothing wakes the other one for it, but a change.
    schedule(&client, "third", EVERY_SECOND).await;
    held(&client, "sched-second", 3).await;
    fires(&client, "locked", 1).await;
    second.stop().await;
}

#[tokio::test]
async fn who_holds_schedules_without_a_lease_is_told_with_the_remedy() {
    let db = database().await;
    let client = db.connect().await;
    schedule(&client, "theirs", EVERY_SECOND).await;
    client.execute("SELECT app_jobs.get_scheduled_job('original-1', NULL)", &[]).await.unwrap();
    let mut scheduler = process(db.url(), ID, &[("JOBS_SCHEDULER_LEASE", "1s")]);
    let line = scheduler.wait_for_line("release_scheduled_jobs('original-1')", LIMIT).await;
    assert!(line.contains("without a lease"), "{line}");
}

#[tokio::test]
async fn a_schedule_locked_by_hand_is_left_alone_until_it_is_released() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let id = schedule(&client, "tick", EVERY_SECOND).await;
    schedule(&client, "other", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    fires(&client, "tick", 1).await;
    client.execute("UPDATE app_jobs.scheduled_jobs SET locked_by = 'by-hand' WHERE id = $1", &[&id]).await.unwrap();
    let before = fired(&client, "tick").await;
    fires(&client, "other", 3).await;
    assert_eq!(fired(&client, "tick").await, before);
    client.execute("SELECT app_jobs.release_scheduled_jobs('by-hand', NULL)", &[]).await.unwrap();
    fires(&client, "tick", 2).await;
    scheduler.stop().await;
}
