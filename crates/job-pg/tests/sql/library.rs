//! Enqueueing as a library: typed jobs on whatever runs a query, the key's modes, actors, and errors that name the
//! field.

use std::time::Duration;

use job_pg::config::SchemaName;
use job_pg::{EnqueueClient, Enqueued, Field, IntoJob, KeyMode, NewJob, enqueue, enqueue_in, enqueue_many};
use job_testkit::eventually;
use job_utils::task::Task;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::sql::support::{LIMIT, Session, database, handle, handle_with, migrate_schema};

const TENANT: Uuid = Uuid::from_u128(1);
const ACTOR: Uuid = Uuid::from_u128(2);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Greet {
    name: String,
}

impl Task for Greet {
    const IDENTIFIER: &'static str = "greet";
}

fn ada() -> Greet {
    Greet { name: "Ada".into() }
}

const JOBS: &str = "SELECT task_identifier, payload, queue_name, priority, max_attempts, key, database_id, actor_id, \
                    round(extract(epoch FROM run_at - now())) FROM app_jobs.jobs ORDER BY id";

#[tokio::test]
async fn a_transaction_that_is_rolled_back_leaves_no_job_and_one_that_commits_leaves_all() {
    let db = database().await;
    let mut s = Session::open(&db).await;
    for commit in [false, true] {
        let transaction = s.client.transaction().await.unwrap();
        enqueue(&transaction, ada()).await.unwrap();
        enqueue(&transaction, ada().into_job().key("k").key_mode(KeyMode::Ignore)).await.unwrap();
        enqueue_many(&transaction, vec![ada(); 3]).await.unwrap();
        if commit {
            transaction.commit().await.unwrap()
        } else {
            transaction.rollback().await.unwrap()
        }
        assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, if commit { 5 } else { 0 });
    }
}

#[tokio::test]
async fn every_option_arrives_one_by_one_and_in_a_batch() {
    let db = database().await;
    let s = Session::open(&db).await;
    let day = Duration::from_secs(24 * 3600);
    let full = || ada().into_job().queue("q").priority(-3).max_attempts(7).tenant(TENANT).actor(ACTOR).delay(day);
    let tenant = || ada().into_job().tenant(TENANT).delay(day);
    let later = || ada().into_job().run_at(jiff::Timestamp::now() + 2 * day);
    for (key, job) in [("a", full()), ("b", tenant()), ("c", later()), ("d", ada().into_job().delay(day))] {
        assert!(!enqueue(&s.client, job.key(key)).await.unwrap().kept);
    }
    let one_by_one = s.show(JOBS).await;
    let name = r#"{"name":"Ada"}"#;
    assert_eq!(
        one_by_one,
        format!(
            "greet|{name}|q|-3|7|a|{TENANT}|{ACTOR}|86400\ngreet|{name}|~|0|25|b|{TENANT}|~|86400\n\
             greet|{name}|~|0|25|c|~|~|172800\ngreet|{name}|~|0|25|d|~|~|86400"
        )
    );
    s.run("DELETE FROM app_jobs.jobs").await;
    enqueue_many(
        &s.client,
        [full().key("a"), tenant().key("b"), later().key("c"), ada().into_job().delay(day).key("d")],
    )
    .await
    .unwrap();
    assert_eq!(s.show(JOBS).await, one_by_one, "with an actor, so through enqueue_all");
    s.run("DELETE FROM app_jobs.jobs").await;
    enqueue_many(&s.client, [tenant().key("b"), later().key("c"), ada().into_job().delay(day).key("d")]).await.unwrap();
    assert_eq!(s.show(JOBS).await, one_by_one.split_once('\n').unwrap().1, "through add_jobs");
}

/// Enqueues once on a client of whatever kind.
async fn on(client: impl EnqueueClient) -> Enqueued {
    enqueue(client, ada()).await.unwrap()
}

#[tokio::test]
async fn it_works_on_a_pool_a_connection_and_a_transaction_of_either_client() {
    let db = database().await;
    let mut s = Session::open(&db).await;
    let handle = handle(db.url(), "app_jobs");
    let mut object = handle.connection().await.unwrap();
    let config: tokio_postgres::Config = db.url().parse().unwrap();
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(1).build().unwrap();
    let mut ids = vec![on(&handle).await.id, on(&pool).await.id, on(&s.client).await.id, on(&object).await.id];
    let mut transaction = s.client.transaction().await.unwrap();
    ids.push(on(&transaction).await.id);
    ids.push(on(&mut transaction).await.id);
    transaction.commit().await.unwrap();
    let mut transaction = object.transaction().await.unwrap();
    ids.push(on(&transaction).await.id);
    ids.push(on(&mut transaction).await.id);
    transaction.commit().await.unwrap();
    ids.push(on(&mut object).await.id);
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    // Futures that can be moved between threads.
    let spawned =
        tokio::spawn(async move { (on(&handle).await, enqueue_many(&pool, vec![ada()]).await.unwrap().len()) });
    assert_eq!(spawned.await.unwrap().1, 1);
}

/// What waits for the row of a key and is given up does not block the pool.
#[tokio::test]
async fn an_enqueue_that_is_dropped_does_not_leave_a_busy_connection_in_the_pool() {
    const CONNECTIONS: usize = 2;
    async fn drop_waiting(client: impl EnqueueClient, waiting: [JoinHandle<()>; CONNECTIONS], s: &Session) {
        let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND wait_event_type = 'Lock'";
        eventually(LIMIT, async || s.number(blocked).await >= CONNECTIONS as i64).await;
        for waits in waiting {
            waits.abort();
            assert!(waits.await.unwrap_err().is_cancelled());
        }
        let free = enqueue(client, ada().into_job().key("free"));
        tokio::time::timeout(Duration::from_secs(10), free).await.expect("the pool has a connection").unwrap();
    }
    let db = database().await;
    let s = Session::open(&db).await;
    let blocker = Session::open(&db).await;
    blocker.run("BEGIN; SELECT app_jobs.add_job('greet', '{\"name\": \"Bob\"}', 'k')").await;
    let handle = handle_with(db.url(), "app_jobs", &[("JOBS_POOL_SIZE", "2")]);
    let waiting = [handle.clone(), handle.clone()]
        .map(|handle| tokio::spawn(async move { drop(enqueue(&handle, ada().into_job().key("k")).await) }));
    drop_waiting(&handle, waiting, &s).await;
    let blocked =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(LIMIT, async || s.number(blocked).await == 0).await;

    let manager = deadpool_postgres::Manager::new(db.url().parse().unwrap(), tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(CONNECTIONS).build().unwrap();
    let waiting = [pool.clone(), pool.clone()]
        .map(|pool| tokio::spawn(async move { drop(enqueue(&pool, ada().into_job().key("k")).await) }));
    drop_waiting(&pool, waiting, &s).await;
    blocker.run("ROLLBACK").await;
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE key = 'free'").await, 1);
}

#[tokio::test]
async fn another_schema_is_that_of_the_handle_or_named() {
    let db = database().await;
    let _ = migrate_schema(db.url(), "other_jobs").await.unwrap();
    let s = Session::open(&db).await;
    enqueue(&handle(db.url(), "other_jobs"), ada()).await.unwrap();
    enqueue_in(&s.client, &SchemaName::new("other_jobs").unwrap(), ada()).await.unwrap();
    let counts = "SELECT (SELECT count(*) FROM other_jobs.jobs), (SELECT count(*) FROM app_jobs.jobs)";
    assert_eq!(s.show(counts).await, "2|0");
}

#[tokio::test]
async fn the_keys_modes() {
    let db = database().await;
    let s = Session::open(&db).await;
    let hour = Duration::from_secs(3600);
    let job = |n: i32, mode| NewJob::new("x", &serde_json::json!(n)).key("k").key_mode(mode).delay(hour * n as u32);
    let state = "SELECT string_agg(concat_ws('/', id, payload, key, attempts, \
                 round(extract(epoch FROM run_at - now()) / 3600)), ' ' ORDER BY id) FROM app_jobs.jobs";
    let put = async |n, mode| enqueue(&s.client, job(n, mode)).await.unwrap();

    let first = put(1, KeyMode::Replace).await.id;
    assert_eq!(s.show(state).await, format!("{first}/1/k/0/1"));
    assert_eq!(put(2, KeyMode::PreserveRunAt).await.id, first);
    assert_eq!(s.show(state).await, format!("{first}/2/k/0/1"), "it keeps its time");
    let ignored = put(3, KeyMode::Ignore).await;
    assert_eq!((ignored.id, ignored.kept), (first, true));
    assert_eq!(s.show(state).await, format!("{first}/2/k/0/1"), "nothing has changed");
    assert_eq!(put(4, KeyMode::Replace).await.id, first);
    assert_eq!(s.show(state).await, format!("{first}/4/k/0/4"));

    // After a failed attempt the time is that of a retry: not one to keep.
    s.run("UPDATE app_jobs.jobs SET attempts = 3").await;
    assert_eq!(put(2, KeyMode::PreserveRunAt).await.id, first);
    assert_eq!(s.show(state).await, format!("{first}/2/k/0/2"));

    // One that runs stays the one under `ignore`, and goes on without its key under the others.
    s.run("UPDATE app_jobs.jobs SET run_at = now()").await;
    assert_eq!(s.get_job("'work1'").await, Some(first));
    let running = put(5, KeyMode::Ignore).await;
    assert_eq!((running.id, running.kept), (first, true));
    let second = put(5, KeyMode::PreserveRunAt).await;
    assert!(second.id > first && !second.kept);
    assert_eq!(s.show(state).await, format!("{first}/2/25/0 {}/5/k/0/5", second.id));

    // One that has failed for good does not hold its key against `ignore`.
    s.run(&format!("UPDATE app_jobs.jobs SET attempts = max_attempts WHERE id = {}", second.id)).await;
    let third = put(1, KeyMode::Ignore).await;
    assert_eq!((third.id, third.kept), (second.id, false));
    assert_eq!(s.show(state).await, format!("{first}/2/25/0 {}/1/k/0/1", second.id));

    // In a batch as one after the other.
    let batch = [job(6, KeyMode::Ignore), job(7, KeyMode::PreserveRunAt), NewJob::raw("free", "")];
    let batch = enqueue_many(&s.client, batch).await.unwrap();
    assert_eq!(batch.iter().map(|job| job.kept).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!((batch[0].id, batch[1].id), (second.id, second.id));
    assert!(s.show(state).await.contains(&format!("{}/7/k/0/1", second.id)), "{}", s.show(state).await);
    let modes = "SELECT app_jobs.enqueue('x', '{}', 'k', 'sometimes')";
    assert_eq!(s.error(modes).await.message(), "the key mode 'sometimes' is none");
}

#[tokio::test]
async fn sessions_that_ignore_each_others_jobs_make_one() {
    let db = database().await;
    let handle = handle(db.url(), "app_jobs");
    let calls = (0..20).map(|_| {
        let handle = handle.clone();
        tokio::spawn(
            async move { enqueue(&handle, NewJob::raw("x", "").key("k").key_mode(KeyMode::Ignore)).await.unwrap() },
        )
    });
    let mut kept = 0;
    for call in calls.collect::<Vec<_>>() {
        kept += usize::from(call.await.unwrap().kept);
    }
    assert_eq!((kept, Session::open(&db).await.number("SELECT count(*) FROM app_jobs.jobs").await), (19, 1));
}

#[tokio::test]
async fn errors_name_the_field_and_the_place() {
    let db = database().await;
    let mut s = Session::open(&db).await;
    s.run(&format!("SELECT app_jobs.add_job('{TENANT}'::uuid, 'theirs', '{{}}', 'theirs')")).await;
    let told = |error: job_pg::EnqueueError| (error.field(), error.to_string());
    for mode in [KeyMode::Replace, KeyMode::Ignore, KeyMode::PreserveRunAt] {
        let error = enqueue(&s.client, ada().into_job().key("theirs").key_mode(mode)).await.unwrap_err();
        assert_eq!(
            told(error),
            (Some(Field::Key), "key: the job key 'theirs' is in use under another database_id".into())
        );
        let jobs = [ada().into_job().key("theirs").key_mode(mode)];
        let jobs = std::iter::repeat_n(ada().into_job(), 2001).chain(jobs);
        let (field, message) = told(enqueue_many(&s.client, jobs).await.unwrap_err());
        assert_eq!(field, Some(Field::Key));
        assert!(message.starts_with("jobs[2001].key: the job key 'theirs' is in use"), "{message}");
    }
    let many = [NewJob::raw("x", "{}"), NewJob::raw("x", "{broken")];
    let (field, message) = told(enqueue_many(&s.client, many).await.unwrap_err());
    assert_eq!(field, Some(Field::Payload));
    assert_eq!(message, "jobs[1].payload: is not JSON: key must be a string at line 1 column 2");
    let error = enqueue_many(&s.client, vec![ada().into_job(), ada().into_job().max_attempts(-1)]).await.unwrap_err();
    assert_eq!(error.to_string(), "jobs[1].max_attempts: is -1, and must be at least 1");
    s.run("SELECT set_config('jwt.claims.user_id', 'nobody', false)").await;
    let error = enqueue(&s.client, ada()).await.unwrap_err();
    assert_eq!(
        told(error),
        (Some(Field::Actor), "actor: the setting jwt.claims.user_id is not a uuid: 'nobody'".into())
    );
    s.run("SELECT set_config('jwt.claims.user_id', '', false)").await;

    // What is refused before it is sent leaves the transaction as it was.
    let transaction = s.client.transaction().await.unwrap();
    let error = enqueue(&transaction, ada().into_job().queue("q".repeat(127))).await.unwrap_err();
    assert_eq!(told(error), (Some(Field::Queue), "queue: has more than 126 characters".into()));
    let error = enqueue(&transaction, NewJob::raw("x", "{broken")).await.unwrap_err();
    assert_eq!(told(error).0, Some(Field::Payload));
    let error = enqueue(&transaction, ada().into_job().key_mode(KeyMode::Ignore)).await.unwrap_err();
    assert_eq!(told(error).0, Some(Field::Key));
    enqueue(&transaction, ada()).await.unwrap();
    let big = "{\"n\": 123456789012345678901234567890}";
    let id = enqueue(&transaction, NewJob::raw("x", big)).await.unwrap().id;
    let stored = transaction.query_one("SELECT payload::text FROM app_jobs.jobs WHERE id = $1", &[&id]).await;
    assert_eq!(stored.unwrap().get::<_, &str>(0), big);
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_hundred_thousand_jobs_are_one_call() {
    let db = database().await;
    let mut s = Session::open(&db).await;
    let transaction = s.client.transaction().await.unwrap();
    let jobs = (0..100_000).map(|n| NewJob::new("x", &serde_json::json!(n)));
    assert_eq!(enqueue_many(&transaction, jobs).await.unwrap().len(), 100_000);
    transaction.commit().await.unwrap();
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 100_000);
}
