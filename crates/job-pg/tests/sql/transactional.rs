//! Completion in a transaction of the application's own, and the ends of an attempt that only a handler chooses.

use std::time::Duration;

use job_pg::{CallbackDb, Settled};
use job_utils::outcome::Outcome;

use crate::sql::support::{Session, database, handle};

const TOKEN: &str = "SELECT id || '.' || epoch FROM app_jobs.jobs WHERE locked_at IS NOT NULL";

#[tokio::test]
async fn the_work_and_the_end_of_the_job_are_committed_together_or_not_at_all() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("CREATE TABLE work (done int)").await;
    s.add_job("'x', '{}', queue_name := 'q'").await;
    s.get_job("'work1'").await;
    let token = s.show(TOKEN).await;
    let work = format!("BEGIN; INSERT INTO work VALUES (1); SELECT app_jobs.complete_in_transaction('{token}')");
    let left = "SELECT (SELECT count(*) FROM work), (SELECT count(*) FROM app_jobs.jobs)";
    s.run(&work).await;
    s.run("ROLLBACK").await;
    assert_eq!(s.show(left).await, "0|1");
    s.run(&work).await;
    s.run("COMMIT").await;
    assert_eq!(s.show(left).await, "1|0");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.job_queues").await, 0, "the queue is free");

    // A second time is an error, and its work with it.
    let error = s.error(&work).await;
    assert_eq!(error.code().code(), "55000");
    assert!(error.message().ends_with("is no longer live"), "{}", error.message());
    s.run("ROLLBACK").await;
    assert_eq!(s.show(left).await, "1|0");
}

#[tokio::test]
async fn an_attempt_that_was_taken_over_cannot_commit_and_its_successor_can() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    s.get_job("'work1'").await;
    let first = s.show(TOKEN).await;
    s.run("SELECT app_jobs.release_jobs('work1')").await;
    let complete = |token: &str| format!("SELECT app_jobs.complete_in_transaction('{token}')");
    assert_eq!(s.error(&complete(&first)).await.code().code(), "55000", "released");
    // The same worker, the same attempt number: only the epoch tells.
    s.get_job("'work1'").await;
    assert_eq!(s.error(&complete(&first)).await.code().code(), "55000", "started again");
    s.run(&complete(&s.show(TOKEN).await)).await;
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
}

#[tokio::test]
async fn a_token_of_another_tenant_or_of_no_attempt_is_refused() {
    let db = database().await;
    let s = Session::open(&db).await;
    let (own, other) = ("6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11", "6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c12");
    s.run(&format!("SELECT app_jobs.add_job('{own}'::uuid, 'x')")).await;
    s.get_job("'work1'").await;
    let token = s.show(TOKEN).await;
    for bad in ["''", "NULL", "'1'", "'1.'", "'-1.1'", "'1.1; x'", "'1.1.1'"] {
        let error = s.error(&format!("SELECT app_jobs.complete_in_transaction({bad})")).await;
        assert_eq!(error.code().code(), "22023", "{bad}");
    }
    let largest = format!("'{0}.9{0}'", "9".repeat(18));
    let error = s.error(&format!("SELECT app_jobs.complete_in_transaction({largest})")).await;
    assert_eq!(error.code().code(), "55000", "a number that no epoch has");
    let complete = format!("SELECT app_jobs.complete_in_transaction('{token}')");
    s.run(&format!("SELECT set_config('jwt.claims.database_id', '{other}', false)")).await;
    assert_eq!(s.error(&complete).await.code().code(), "55000");
    s.run(&format!("SELECT set_config('jwt.claims.database_id', '{own}', false)")).await;
    s.run(&complete).await;
}

/// Claims the job, ends the attempt like this, and shows attempts, last_error and the wait.
async fn after(s: &Session, callbacks: &CallbackDb, outcome: Outcome) -> String {
    let id = s.get_job("'work1'").await.unwrap();
    assert_eq!(callbacks.settle("work1", id, None, outcome).await.unwrap(), Settled::Done);
    let shown = "SELECT attempts, last_error, round(extract(epoch FROM run_at - updated_at)), locked_at IS NULL, epoch IS NULL \
                 FROM app_jobs.jobs";
    let shown = s.show(shown).await;
    s.run("UPDATE app_jobs.jobs SET run_at = now()").await;
    shown
}

#[tokio::test]
async fn the_ends_of_an_attempt() {
    let db = database().await;
    let s = Session::open(&db).await;
    let callbacks = CallbackDb::new(handle(db.url(), "app_jobs"));
    s.add_job("'x', max_attempts := 5").await;
    let seconds = Duration::from_secs;
    let snoozed = after(&s, &callbacks, Outcome::snooze(seconds(90))).await;
    assert_eq!(snoozed, "0|~|90|t|t", "no attempt is used up, and nothing failed");
    let retried = after(&s, &callbacks, Outcome::retry_after(seconds(0), "soon")).await;
    assert_eq!(retried, "1|soon|0|t|t", "exactly as asked for, although the usual wait is longer");
    let failed = after(&s, &callbacks, Outcome::retry("no")).await;
    assert_eq!(failed, "2|no|7|t|t", "the usual wait");
    let snoozed = after(&s, &callbacks, Outcome::snooze(Duration::MAX)).await;
    assert!(snoozed.starts_with("2|no|31"), "what failed before stays to be read: {snoozed}");
    let ended = after(&s, &callbacks, Outcome::discard("never")).await;
    assert!(ended.starts_with("5|never|"), "{ended}");
    assert_eq!(s.get_job("'work1'").await, None, "no attempt follows");
}
