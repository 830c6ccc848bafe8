//! What applications test with.

use std::time::Duration;

use job_testkit::TestDb;
use job_worker::testing::{advance, assert_enqueued, blocked, enqueued, migrate_url};
use job_worker::{
    AdminDb, Context, Db, Gate, HandlerResult, IntoJob, JobError, Limit, Outcome, Retry, Task, TaskOptions, Worker,
    enqueue,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Count {
    to: u32,
}

impl Task for Count {
    const IDENTIFIER: &'static str = "count";
}

/// Counts down in jobs, fails at 7, and is not ready for 8.
async fn count(job: Count, context: Context) -> HandlerResult {
    match job.to {
        0 => {}
        7 => Err("seven")?,
        8 => Err(JobError::snooze(Duration::from_secs(60)))?,
        6 => {
            context.transaction(async |_| -> HandlerResult { Ok(()) }).await?;
            Err("too late")?;
        }
        to => {
            context
                .transaction(async |transaction| {
                    Ok::<_, job_worker::BoxError>(enqueue(transaction, Count { to: to - 1 }).await?)
                })
                .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn due_jobs_are_run_in_the_test_and_their_outcomes_returned() {
    let postgres = TestDb::from_template("testing", migrate_url).await;
    let db = Db::from_url(postgres.url()).unwrap();
    let at_once = TaskOptions::new().retry(Retry::fixed(Duration::ZERO));
    let worker = Worker::builder(db.clone()).task_with(at_once, count).build().unwrap();
    let ran = async || {
        let ran = worker.run_due().await.unwrap();
        ran.into_iter().map(|ran| (ran.job.payload, ran.outcome)).collect::<Vec<_>>()
    };
    assert_eq!(ran().await, []);

    for to in [2, 7, 8] {
        enqueue(&db, Count { to }).await.unwrap();
    }
    enqueue(&db, Count { to: 9 }.into_job().delay(Duration::from_secs(3600))).await.unwrap();
    enqueue(&db, job_worker::NewJob::raw("other", "")).await.unwrap();
    let done = |to: u32| (format!(r#"{{"to":{to}}}"#), Outcome::Complete);
    let (seven, minute) = ((r#"{"to":7}"#.to_owned(), Outcome::retry("seven")), Duration::from_secs(60));
    let eight = (r#"{"to":8}"#.to_owned(), Outcome::snooze(minute));
    // Those that it enqueues are due as well; a job that is due again at once waits for the next call.
    assert_eq!(ran().await, [done(2), seven.clone(), eight.clone(), done(1), done(0)]);
    assert_eq!(ran().await, std::slice::from_ref(&seven));

    // As a transaction's own eyes see it.
    let mut client = postgres.connect().await;
    let transaction = client.transaction().await.unwrap();
    enqueue(&transaction, Count { to: 1 }).await.unwrap();
    assert_eq!(enqueued::<Count>(&transaction).await.unwrap().len(), 4);
    transaction.rollback().await.unwrap();
    let waiting = enqueued::<Count>(&db).await.unwrap();
    assert_eq!(waiting.iter().map(|job| (job.payload.to, job.attempts)).collect::<Vec<_>>(), [(7, 2), (8, 0), (9, 0)]);
    assert_eq!(waiting[0].last_error.as_deref(), Some("seven"));

    // Time passes.
    assert_eq!(advance(&db, minute).await.unwrap(), 4);
    assert_eq!(ran().await, [seven.clone(), eight]);
    advance(&db, 60 * minute).await.unwrap();
    let nine = assert_enqueued::<Count>(&db, |job| job.payload.to == 9).await;
    assert!(nine.run_at < jiff::Timestamp::now());
    assert_eq!(ran().await.len(), 4, "seven, eight, nine, and the eight that nine has enqueued");
    assert_eq!(enqueued::<Count>(&db).await.unwrap().iter().filter(|job| job.payload.to == 8).count(), 2);
}

#[tokio::test]
async fn what_its_own_transaction_has_done_is_done_and_secrets_are_not_shown() {
    let postgres = TestDb::from_template("testing", migrate_url).await;
    let db = Db::from_url(postgres.url()).unwrap();
    let worker = Worker::builder(db.clone()).task(count).build().unwrap();
    enqueue(&db, Count { to: 6 }).await.unwrap();
    let ran = worker.run_due().await.unwrap();
    assert_eq!((ran.len(), &ran[0].outcome), (1, &Outcome::Complete), "whatever it returned afterwards");
    let (shown, epoch) = (format!("{ran:?}"), ran[0].job.epoch.to_string());
    assert!(shown.contains("task: \"count\"") && !shown.contains("to\"") && !shown.contains(&epoch), "{shown}");
}

#[tokio::test]
#[should_panic(expected = "no such job of count is enqueued, but these: [\n    InQueue {")]
async fn an_assertion_shows_what_is_there_instead() {
    let postgres = TestDb::from_template("testing", migrate_url).await;
    let client = postgres.connect().await;
    enqueue(&client, Count { to: 1 }).await.unwrap();
    assert_enqueued::<Count>(&client, |job| job.payload.to == 2).await;
}

#[tokio::test]
async fn a_test_can_wait_until_a_gate_blocks_a_job() {
    let limit = Duration::from_secs(30);
    let postgres = TestDb::from_template("testing", migrate_url).await;
    let db = Db::from_url(postgres.url()).unwrap();
    let admin = AdminDb::new(db.clone());
    let first = enqueue(&db, Count { to: 0 }.into_job().queue("line")).await.unwrap().id;
    let second = enqueue(&db, Count { to: 0 }.into_job().queue("line")).await.unwrap().id;
    let open = blocked(&db, first, Duration::ZERO).await.unwrap_err();
    assert_eq!(open.to_string(), format!("job {first} is not blocked: it is due, and all its gates are open"));
    let (waiting, pausing) = (db.clone(), admin.clone());
    let waits = tokio::spawn(async move { blocked(&waiting, first, limit).await });
    pausing.pause(Gate::Task("count"), None, None).await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap(), "task count: paused");
    admin.resume(Gate::Task("count")).await.unwrap();
    let client = db.connection().await.unwrap();
    client.query("SELECT app_jobs.get_job('worker')", &[]).await.unwrap();
    assert_eq!(blocked(&db, second, limit).await.unwrap(), "queue line: 1 running");
    admin.set_limit(Gate::Task("count"), Limit { max_running: Some(1), rate: None }).await.unwrap();
    assert_eq!(blocked(&db, second, limit).await.unwrap(), "task count: 1 running");
    let runs = blocked(&db, first, Duration::ZERO).await.unwrap_err();
    assert_eq!(runs.to_string(), format!("job {first} is not blocked: it runs"));
    let gone = blocked(&db, 4711, Duration::ZERO).await.unwrap_err();
    assert_eq!(gone.to_string(), "job 4711 is not blocked: there is no such job");
}
