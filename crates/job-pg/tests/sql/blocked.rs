//! A forgotten transaction of a producer holds up what needs its rows, and nothing else.

use std::time::Duration;

use job_pg::{
    CallbackDb, Fire, Materialised, ScheduledJob, SchedulerDb, SchedulerHeartbeat, SchedulerInstance, SettleError,
    Settled,
};
use job_utils::outcome::Outcome;
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use crate::sql::support::{LIMIT, Session, database, handle};

#[tokio::test]
async fn an_outcome_that_must_wait_for_a_row_does_not_hold_up_the_others() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('a', job_key := 'k'), app_jobs.add_job('b'), app_jobs.add_job('c')").await;
    s.run("SELECT app_jobs.get_job('work1') FROM generate_series(1, 3)").await;
    let id =
        async |task: &str| s.number(&format!("SELECT id FROM app_jobs.jobs WHERE task_identifier = '{task}'")).await;
    let (keyed, free, failing) = (id("a").await, id("b").await, id("c").await);

    let producer = Session::open(&db).await;
    producer.run("BEGIN; SELECT app_jobs.add_job('d', job_key := 'k')").await;

    let settler = CallbackDb::new(handle(db.url(), "app_jobs"));
    // One batch: the three are queued before the settler's task runs.
    let held = tokio::spawn({
        let settler = settler.clone();
        async move { settler.settle("work1", keyed, None, Outcome::Complete).await }
    });
    let done = timeout(LIMIT, settler.settle("work1", free, None, Outcome::Complete)).await.unwrap();
    assert_eq!(done.unwrap(), Settled::Done);
    let failed = timeout(LIMIT, settler.settle("work1", failing, None, Outcome::retry("no"))).await.unwrap();
    assert_eq!(failed.unwrap(), Settled::Done);
    assert!(!held.is_finished(), "its row is held, since its key is replaced");
    assert_eq!(s.show("SELECT task_identifier FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await, "a");

    producer.run("COMMIT").await;
    assert_eq!(timeout(LIMIT, held).await.unwrap().unwrap().unwrap(), Settled::Done);
}

/// A trigger of the application's refuses one of many outcomes that were in one batch with it.
#[tokio::test]
async fn one_refused_outcome_of_five_hundred_costs_a_few_statements() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "CREATE SEQUENCE tries;
         CREATE FUNCTION count_try() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM nextval('public.tries'); RETURN NULL; END $$;
         CREATE TRIGGER a BEFORE DELETE ON app_jobs.jobs FOR EACH STATEMENT EXECUTE FUNCTION count_try();
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         CREATE TRIGGER b BEFORE DELETE ON app_jobs.jobs FOR EACH ROW WHEN (OLD.id = 333) EXECUTE FUNCTION refuse();
         INSERT INTO app_jobs.jobs (task_identifier) SELECT 'x' FROM generate_series(1, 500);
         SELECT app_jobs_internal.claim_jobs('work1', NULL, 500, '4 hours')",
    )
    .await;
    let settler = CallbackDb::new(handle(db.url(), "app_jobs"));
    let mut outcomes = JoinSet::new();
    for id in 1..=500 {
        let settler = settler.clone();
        outcomes.spawn(async move { (id, settler.settle("work1", id, None, Outcome::Complete).await) });
    }
    while let Some(outcome) = timeout(LIMIT, outcomes.join_next()).await.unwrap() {
        match outcome.unwrap() {
            (333, Err(SettleError::Refused(reason))) => assert!(reason.contains("no"), "{reason}"),
            (id, stored) => assert_eq!(stored.unwrap(), Settled::Done, "{id}"),
        }
    }
    assert_eq!(s.show("SELECT id FROM app_jobs.jobs").await, "333");
    // At most three levels of eight parts, and a few batches at the beginning.
    let tries = s.number("SELECT last_value FROM tries").await;
    assert!(tries <= 40, "{tries} statements");
}

#[tokio::test]
async fn a_fire_that_would_have_to_wait_for_a_row_holds_up_no_other_and_is_made_later() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_scheduled_job('s', schedule_info := '{}')").await;
    let schedule = s.number("SELECT id FROM app_jobs.scheduled_jobs").await;
    let instance = SchedulerInstance { id: Uuid::new_v4(), lease: Duration::from_secs(8), listens: false };
    let scheduler = SchedulerDb::new(handle(db.url(), "app_jobs"), "scheduler", instance);
    s.run("SELECT app_jobs.add_scheduled_job('free', schedule_info := '{}')").await;
    let what = SchedulerHeartbeat { tasks: None, limit: 10, alone: false, compare: false };
    let claimed = scheduler.heartbeat(what).await.unwrap().claimed;
    let at = scheduler.now().await.unwrap();
    let fire = |row: &ScheduledJob| Fire { schedule: row.id, digest: row.digest, at, overlap: false };
    let [waits, free] = &claimed[..] else { panic!("{claimed:?}") };
    let holder = Session::open(&db).await;
    holder.run(&format!("BEGIN; SELECT FROM app_jobs.scheduled_jobs WHERE id = {schedule} FOR UPDATE")).await;
    assert_eq!(waits.id, schedule);
    let fires = [fire(free), fire(waits), Fire { schedule: 99, ..fire(free) }];
    let made = timeout(LIMIT, scheduler.materialise(&fires)).await.unwrap().unwrap();
    let expected = matches!(made[..], [Materialised::Job(_), Materialised::Blocked(_), Materialised::Lost]);
    assert!(expected, "the others are tried: {made:?}");
    holder.run("ROLLBACK").await;
    let made = scheduler.materialise(&fires).await.unwrap();
    let expected = matches!(made[..], [Materialised::Known, Materialised::Job(_), Materialised::Lost]);
    assert!(expected, "what was made is not made again: {made:?}");
}

#[tokio::test]
async fn an_outcome_outlives_a_statement_timeout_of_the_role() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('a')").await;
    s.run("SELECT app_jobs.get_job('work1')").await;
    let job = s.number("SELECT id FROM app_jobs.jobs").await;
    let name = db.name();
    s.run(&format!("ALTER DATABASE {name} SET statement_timeout = '150ms'")).await;
    let holder = Session::open(&db).await;
    holder.run("BEGIN; LOCK TABLE app_jobs.jobs").await;
    let settler = CallbackDb::new(handle(db.url(), "app_jobs"));
    let outcome = tokio::spawn(async move { settler.settle("work1", job, None, Outcome::Complete).await });
    // Two cancelled statements at least.
    let cancelled = "SELECT count(*) >= 1 FROM pg_stat_activity
                      WHERE datname = current_database() AND wait_event_type = 'Lock'";
    job_testkit::eventually(LIMIT, async || s.is(cancelled).await).await;
    job_testkit::eventually(LIMIT, async || !s.is(cancelled).await).await;
    assert!(!outcome.is_finished());
    holder.run("COMMIT").await;
    assert_eq!(timeout(LIMIT, outcome).await.unwrap().unwrap().unwrap(), Settled::Done);
}
