//! Transactions of handlers that have to wait, for a connection or for each other, or are undone: no attempt is used up
//! by that.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::time::Duration;

use job_testkit::{Proxy, eventually};
use job_worker::testing::advance;
use job_worker::{
    Context, Db, HandlerResult, Hook, IntoJob, IsolationLevel, KeyMode, NewJob, Next, Outcome, Retry, Shutdown,
    Stopped, Task, TaskOptions, Worker, WorkerBuilder, enqueue,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::support::{Bench, LIMIT};

#[derive(Serialize, Deserialize)]
struct Work {}

impl Task for Work {
    const IDENTIFIER: &'static str = "work";
}

/// Sends how each attempt ends.
struct Ends(mpsc::UnboundedSender<(i32, Outcome)>);

impl Hook for Ends {
    async fn around(&self, context: &Context, next: Next<'_>) -> Outcome {
        let outcome = next.run().await;
        let _ = self.0.send((context.job().attempts, outcome.clone()));
        outcome
    }
}

type Ended = mpsc::UnboundedReceiver<(i32, Outcome)>;

/// A worker that runs until it is stopped.
struct Running {
    worker: JoinHandle<Stopped>,
    shutdown: Shutdown,
    ended: Ended,
}

impl Running {
    fn start<S: Send + Sync + 'static>(worker: WorkerBuilder<S>) -> Self {
        let (ends, ended) = mpsc::unbounded_channel();
        let (shutdown, worker) = (Shutdown::new(), worker.hook(Ends(ends)).build().unwrap());
        let running = worker.run(shutdown.clone());
        Self { worker: tokio::spawn(async move { running.await.unwrap() }), shutdown, ended }
    }

    /// The next attempt that ends: its number, and how it ends.
    async fn next(&mut self) -> (i32, Outcome) {
        tokio::time::timeout(LIMIT, self.ended.recv()).await.unwrap().unwrap()
    }

    /// The next attempt is given back; returns the error.
    #[track_caller]
    fn given_back(&mut self) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            match self.next().await {
                (1, Outcome::Release { error, .. }) => error,
                other => panic!("{caller}: {other:?}"),
            }
        }
    }

    async fn stop(self) {
        self.shutdown.trigger();
        assert_eq!(self.worker.await.unwrap().orphaned, 0);
    }
}

const DONE: (i32, Outcome) = (1, Outcome::Complete);

/// Waits until a session waits for a lock of another one.
async fn blocked(client: &Client) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(LIMIT, async || client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0).await;
}

/// More handlers than connections: each waits for its turn, longer than the pool itself lets anybody wait. What they
/// enqueue beside their transactions, and what the worker has to do, goes by the connections that they leave.
#[tokio::test]
async fn handlers_wait_for_a_connection_and_leave_some() {
    async fn slow(_: Work, context: Context) -> HandlerResult {
        context
            .transaction(async |transaction| {
                transaction.execute("SELECT pg_sleep(0.8)", &[]).await?;
                // Where every connection could have a transaction, they would wait for each other here.
                enqueue(context.db(), NewJob::raw("beside", "")).await?;
                Ok(())
            })
            .await
    }
    let bench = Bench::new().await;
    let url = format!("{}{}connect_timeout=1", bench.db.url(), if bench.db.url().contains('?') { '&' } else { '?' });
    let db = Db::builder(&url).pool_size(2).build().unwrap();
    // With one host, the pool lets a statement wait for 2 s.
    let mut running = Running::start(Worker::builder(db).concurrency(4).task(slow));
    for _ in 0..4 {
        enqueue(&bench.sql, Work {}).await.unwrap();
    }
    for _ in 0..4 {
        assert_eq!(running.next().await, DONE);
    }
    assert_eq!(
        (bench.count("task_identifier = 'work'").await, bench.count("task_identifier = 'beside'").await),
        (0, 4)
    );
    running.stop().await;
}

#[tokio::test]
async fn an_attempt_whose_work_never_began_is_given_back() {
    async fn work(_: Work, context: Context<Arc<(Notify, Notify)>>) -> HandlerResult {
        let (started, go_on) = &**context.state();
        started.notify_one();
        go_on.notified().await;
        context.transaction(async |_| Ok(())).await
    }
    let bench = Bench::new().await;
    let proxy = Proxy::start(bench.db.address().1).await.unwrap();
    let mut client: tokio_postgres::Config = bench.db.url().parse().unwrap();
    let (user, password) = (client.get_user().map(str::to_owned), client.get_password().map(<[u8]>::to_vec));
    client = tokio_postgres::Config::new();
    client.host("127.0.0.1").port(proxy.port()).dbname(bench.db.name()).connect_timeout(Duration::from_secs(1));
    user.map(|user| client.user(user));
    password.map(|password| client.password(password));
    let db = Db::builder_from(client).build().unwrap();
    let state = Arc::<(Notify, Notify)>::default();
    let mut running = Running::start(Worker::builder(db).state(state.clone()).task(work));
    let id = enqueue(&bench.sql, Work {}).await.unwrap().id;
    state.0.notified().await;
    // Postgres is away when the handler wants its transaction.
    proxy.blackhole();
    proxy.cut();
    state.1.notify_one();
    let error = running.given_back().await;
    // The pool may not have noticed yet that its connection is gone.
    let none = ["no connection to Postgres", "begin failed: connection closed"];
    assert!(none.iter().any(|begin| error.starts_with(begin)), "{error}");
    proxy.restore();
    state.0.notified().await;
    let job = bench.job(id).await.unwrap();
    assert_eq!((job.attempts, job.last_error), (1, Some(error)), "the first attempt again");
    state.1.notify_one();
    assert_eq!(running.next().await, DONE);
    running.stop().await;
}

/// The task's time is up while it still waits for its turn.
#[tokio::test]
async fn an_attempt_whose_time_was_spent_waiting_for_a_connection_is_given_back() {
    async fn holding(_: Work, context: Context<Arc<(Notify, Notify)>>) -> HandlerResult {
        let (started, go_on) = &**context.state();
        context
            .transaction(async |_| {
                started.notify_one();
                go_on.notified().await;
                Ok(())
            })
            .await
    }
    let bench = Bench::new().await;
    let db = Db::builder(bench.db.url()).pool_size(2).build().unwrap();
    let state = Arc::<(Notify, Notify)>::default();
    let short = TaskOptions::new().timeout(Duration::from_millis(100));
    let worker = Worker::builder(db).state(state.clone()).task(holding);
    let mut running = Running::start(worker.raw_task("short", short, async |context: Context<_>| -> HandlerResult {
        context.transaction(async |_| Ok(())).await
    }));
    enqueue(&bench.sql, Work {}).await.unwrap();
    state.0.notified().await;
    bench.add("short").await;
    let told = running.given_back().await;
    assert!(told.starts_with("not done within 100ms: it has waited ") && told.contains("JOBS_POOL_SIZE"), "{told}");
    state.1.notify_one();
    // It is tried again and again until then.
    let mut done = 0;
    while done < 2 {
        match running.next().await {
            DONE => done += 1,
            (1, Outcome::Release { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    running.stop().await;
}

/// A handler that has written into a queue and a producer of its job's key who wants to: the producer waits before it
/// has anything that the handler needs.
#[tokio::test]
async fn a_handler_and_a_producer_of_its_key_do_not_deadlock() {
    async fn work(_: Work, context: Context<Arc<(Notify, Notify)>>) -> HandlerResult {
        let (started, go_on) = &**context.state();
        context
            .transaction(async |transaction| {
                enqueue(transaction, NewJob::raw("next", "").queue("q")).await?;
                started.notify_one();
                go_on.notified().await;
                Ok(())
            })
            .await
    }
    let bench = Bench::new().await;
    let db = Db::from_url(bench.db.url()).unwrap();
    let state = Arc::<(Notify, Notify)>::default();
    let mut running = Running::start(Worker::builder(db).state(state.clone()).task(work));
    let id = enqueue(&bench.sql, Work {}.into_job().key("k")).await.unwrap().id;
    state.0.notified().await;
    let producer = bench.db.connect().await;
    let produced = tokio::spawn(async move {
        let job = NewJob::raw("other", "").key("k").key_mode(KeyMode::Replace).queue("q");
        enqueue(&producer, job).await
    });
    blocked(&bench.sql).await;
    state.1.notify_one();
    assert_eq!(running.next().await, DONE);
    assert_ne!(produced.await.unwrap().unwrap().id, id, "the job was gone by then");
    assert_eq!(bench.count("key = 'k' AND task_identifier = 'other' AND queue_name = 'q'").await, 1);
    running.stop().await;
}

#[tokio::test]
async fn an_attempt_that_loses_a_deadlock_is_made_again_and_not_counted() {
    async fn work(_: Work, context: Context<Arc<(Notify, Notify)>>) -> HandlerResult {
        let (started, go_on) = &**context.state();
        context
            .transaction(async |transaction| {
                transaction.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
                started.notify_one();
                go_on.notified().await;
                transaction.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 2", &[]).await?;
                Ok(())
            })
            .await
    }
    let bench = Bench::new().await;
    bench.run("CREATE TABLE accounts (id int, cents int); INSERT INTO accounts VALUES (1, 0), (2, 0)").await;
    let db = Db::from_url(bench.db.url()).unwrap();
    let state = Arc::<(Notify, Notify)>::default();
    let mut running = Running::start(Worker::builder(db).state(state.clone()).task(work));
    let id = enqueue(&bench.sql, Work {}).await.unwrap().id;
    state.0.notified().await;
    // It never looks for deadlocks itself, so it is the other one that is undone.
    let other = bench.db.connect().await;
    other
        .batch_execute("SET deadlock_timeout = '1h'; BEGIN; UPDATE accounts SET cents = 10 WHERE id = 2")
        .await
        .unwrap();
    let waits = tokio::spawn(async move {
        other.batch_execute("UPDATE accounts SET cents = 10 WHERE id = 1; COMMIT").await.unwrap();
    });
    blocked(&bench.sql).await;
    state.1.notify_one();
    let error = running.given_back().await;
    assert!(error.contains("deadlock detected"), "{error}");
    waits.await.unwrap();
    state.0.notified().await;
    assert_eq!(bench.job(id).await.unwrap().last_error, Some(error));
    state.1.notify_one();
    assert_eq!(running.next().await, DONE);
    let cents = bench.sql.query_one("SELECT sum(cents) FROM accounts", &[]).await.unwrap();
    assert_eq!(cents.get::<_, i64>(0), 22);
    running.stop().await;
}

#[tokio::test]
async fn an_attempt_that_is_not_serializable_is_made_again_and_not_counted() {
    async fn work(_: Work, context: Context<Arc<(Notify, Notify)>>) -> HandlerResult {
        let (started, go_on) = &**context.state();
        context
            .transaction_at(IsolationLevel::RepeatableRead, async |transaction| {
                let cents: i32 = transaction.query_one("SELECT cents FROM accounts", &[]).await?.get(0);
                started.notify_one();
                go_on.notified().await;
                transaction.execute("UPDATE accounts SET cents = $1", &[&(cents + 1)]).await?;
                Ok(())
            })
            .await
    }
    let bench = Bench::new().await;
    bench.run("CREATE TABLE accounts (cents int); INSERT INTO accounts VALUES (0)").await;
    let db = Db::from_url(bench.db.url()).unwrap();
    let state = Arc::<(Notify, Notify)>::default();
    let mut running = Running::start(Worker::builder(db).state(state.clone()).task(work));
    enqueue(&bench.sql, Work {}).await.unwrap();
    state.0.notified().await;
    bench.run("UPDATE accounts SET cents = 10").await;
    state.1.notify_one();
    let error = running.given_back().await;
    assert!(error.contains("could not serialize access"), "{error}");
    state.0.notified().await;
    state.1.notify_one();
    assert_eq!(running.next().await, DONE);
    let cents: i32 = bench.sql.query_one("SELECT cents FROM accounts", &[]).await.unwrap().get(0);
    assert_eq!(cents, 11);
    running.stop().await;
}

/// A handler that is always in its own way does not go round for good.
#[tokio::test]
async fn a_job_that_is_given_back_again_and_again_fails_at_last() {
    async fn work(_: Work, context: Context<Arc<AtomicI32>>) -> HandlerResult {
        context.state().fetch_add(1, SeqCst);
        context
            .transaction(async |transaction| {
                transaction
                    .batch_execute("DO $$BEGIN RAISE 'no' USING ERRCODE = 'serialization_failure'; END$$")
                    .await?;
                Ok(())
            })
            .await
    }
    let bench = Bench::new().await;
    let db = Db::from_url(bench.db.url()).unwrap();
    let runs = Arc::<AtomicI32>::default();
    let worker = Worker::builder(db.clone()).state(runs.clone()).task(work).build().unwrap();
    let id = enqueue(&bench.sql, Work {}).await.unwrap().id;
    let run = async || {
        let ran = worker.run_due().await.unwrap();
        assert!(matches!(ran[0].outcome, Outcome::Release { .. }), "{ran:?}");
        advance(&db, Duration::from_secs(3600)).await.unwrap();
        bench.job(id).await.unwrap()
    };
    for _ in 0..10 {
        let job = run().await;
        assert_eq!((job.attempts, job.last_error.is_some()), (0, true));
    }
    assert_eq!(run().await.attempts, 1, "the eleventh in a row counts");
    assert_eq!(runs.load(SeqCst), 11);
}

/// What is to be done once is not done again.
#[tokio::test]
async fn who_allows_one_attempt_gets_one() {
    async fn work(_: Work, context: Context) -> HandlerResult {
        let conflict = "DO $$BEGIN RAISE 'no' USING ERRCODE = 'serialization_failure'; END$$";
        context.transaction(async |transaction| Ok(transaction.batch_execute(conflict).await?)).await
    }
    let bench = Bench::new().await;
    let db = Db::from_url(bench.db.url()).unwrap();
    let once = TaskOptions::new().retry(Retry::never());
    let by_task = Worker::builder(db.clone()).task_with(once, work).build().unwrap();
    let by_job = Worker::builder(db.clone()).task(work).build().unwrap();
    for (worker, job) in [(by_task, Work {}.into_job()), (by_job, Work {}.into_job().max_attempts(1))] {
        let id = enqueue(&bench.sql, job).await.unwrap().id;
        worker.run_due().await.unwrap();
        let failed = format!("id = {id} AND attempts = max_attempts");
        assert_eq!(bench.count(&failed).await, 1, "it has failed for good");
    }
}
