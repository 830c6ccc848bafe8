//! A worker as a library: typed handlers, and how each way to end an attempt is stored.

use std::fmt::{Debug, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use job_testkit::{eventually, eventually_some};
use job_worker::{
    Cancelled, Context, Db, HandlerResult, Hook, IntoJob, JobError, Next, Outcome, Retry, Shutdown, Stopped, Task,
    TaskOptions, Worker, WorkerBuilder, enqueue, enqueue_many,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinHandle;
use tracing::field::Field;
use tracing::span::{Attributes, Id};
use tracing::{Instrument, Span, Subscriber};
use tracing_subscriber::layer::{self, Layer, SubscriberExt};

use super::support::{Bench, LIMIT};

#[derive(Debug, Serialize, Deserialize)]
struct Greet {
    name: String,
}

impl Task for Greet {
    const IDENTIFIER: &'static str = "greet";
}

fn ada() -> Greet {
    Greet { name: "Ada".into() }
}

fn builder(bench: &Bench) -> WorkerBuilder {
    let db = Db::from_url(bench.db.url()).unwrap();
    Worker::builder(db).poll_interval(Duration::from_secs(3600))
}

/// A worker that runs until it is stopped.
struct Running {
    worker: JoinHandle<Stopped>,
    shutdown: Shutdown,
}

impl Running {
    fn start<S: Send + Sync + 'static>(worker: WorkerBuilder<S>) -> Self {
        let shutdown = Shutdown::new();
        let running = worker.build().unwrap().run(shutdown.clone());
        Self { worker: tokio::spawn(async move { running.await.unwrap() }), shutdown }
    }

    async fn stop(self) -> Stopped {
        self.shutdown.trigger();
        self.worker.await.unwrap()
    }
}

#[tokio::test]
async fn a_handler_gets_its_payload_its_job_and_the_applications_state() {
    struct App {
        greeting: &'static str,
        said: mpsc::UnboundedSender<String>,
    }
    async fn greet(job: Greet, context: Context<App>) -> HandlerResult {
        let App { greeting, said } = context.state();
        let meta = context.job();
        said.send(format!("{greeting} {} {} {}", job.name, meta.attempts, meta.priority))?;
        Ok(())
    }
    let bench = Bench::new().await;
    let (said, mut heard) = mpsc::unbounded_channel();
    let running = Running::start(builder(&bench).state(App { greeting: "hello", said }).task(greet));
    let id = enqueue(&bench.sql, ada().into_job().priority(-7)).await.unwrap().id;
    assert_eq!(heard.recv().await.unwrap(), "hello Ada 1 -7");
    bench.gone(id).await;

    // A payload that is not of the type fails the attempt, and says what is wrong with it.
    let odd = bench.add_with("greet", r#"{"nom": "Ada"}"#, "").await;
    let failed = bench.failed(odd).await;
    assert_eq!(failed.last_error.as_deref(), Some("payload: missing field `name` at line 1 column 14"));
    assert_eq!(running.stop().await.finished, 0);
}

#[tokio::test]
async fn tasks_without_a_handler_are_left_for_others() {
    async fn greet(_: Greet, _: Context) {}
    let bench = Bench::new().await;
    let other = bench.add("other").await;
    let running = Running::start(builder(&bench).task(greet));
    bench.gone(enqueue(&bench.sql, ada()).await.unwrap().id).await;
    running.stop().await;
    let other = bench.job(other).await.unwrap();
    assert_eq!((other.attempts, other.last_error), (0, None), "never claimed");
}

#[tokio::test]
async fn each_way_to_end_an_attempt_is_stored_as_such() {
    async fn end(job: Greet, context: Context) -> HandlerResult<Outcome> {
        let hour = Duration::from_secs(3600);
        match job.name.as_str() {
            "done" => Ok(Outcome::Complete),
            "error" => Err("no")?,
            "retry" => Err(JobError::retry_after(hour, "later"))?,
            "fail" => Err(JobError::discard("never"))?,
            "snooze" => Ok(Outcome::snooze(hour)),
            "panic" => panic!("attempt {}", context.job().attempts),
            other => Err(format!("unexpected: {other}"))?,
        }
    }
    let bench = Bench::new().await;
    let running = Running::start(builder(&bench).task(end));
    let add = async |name: &str| enqueue(&bench.sql, Greet { name: name.into() }).await.unwrap().id;
    let ended = async |name: &str| {
        let id = add(name).await;
        let job = eventually_some(LIMIT, async || bench.job(id).await.filter(|job| !job.locked && job.wait != 0.0));
        let job = job.await;
        (job.attempts, job.last_error.unwrap_or_default(), job.wait.round())
    };
    bench.gone(add("done").await).await;
    // The usual wait after a first attempt: e seconds.
    assert_eq!(ended("error").await, (1, "no".into(), 3.0));
    assert_eq!(ended("retry").await, (1, "later".into(), 3600.0));
    assert_eq!(ended("panic").await, (1, "panicked: attempt 1".into(), 3.0));
    assert_eq!(ended("snooze").await, (0, String::new(), 3600.0), "no attempt is used up");
    let failed = bench.failed(add("fail").await).await;
    assert_eq!((failed.attempts, failed.last_error.as_deref()), (25, Some("never")), "no attempt is left");
    // After all that the worker lives.
    bench.gone(add("done").await).await;
    running.stop().await;
}

#[tokio::test]
async fn a_task_has_its_own_retry_policy() {
    async fn fail(_: Greet, _: Context) -> HandlerResult {
        Err("no")?
    }
    let bench = Bench::new().await;
    let retry = Retry::exponential(Duration::from_secs(100), Duration::from_secs(150)).max_attempts(3);
    let running = Running::start(builder(&bench).task_with(TaskOptions::new().retry(retry), fail));
    let id = enqueue(&bench.sql, ada()).await.unwrap().id;
    for (attempt, wait) in [(1, 100.0), (2, 150.0)] {
        let job =
            eventually_some(LIMIT, async || bench.job(id).await.filter(|job| !job.locked && job.attempts == attempt));
        assert_eq!(job.await.wait.round(), wait);
        bench.run(&format!("UPDATE app_jobs.jobs SET run_at = now() WHERE id = {id}")).await;
        bench.run("NOTIFY \"jobs:insert\"").await;
    }
    eventually(LIMIT, async || bench.job(id).await.is_some_and(|job| !job.locked && job.attempts == 25)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_retry_policy_that_panics_leaves_the_usual_wait() {
    async fn fail(_: Greet, _: Context) -> HandlerResult {
        Err("no")?
    }
    let bench = Bench::new().await;
    let retry = Retry::custom(|attempt| panic!("no wait for {attempt}"));
    let running = Running::start(builder(&bench).task_with(TaskOptions::new().retry(retry), fail));
    for _ in 0..2 {
        let job = bench.failed(enqueue(&bench.sql, ada()).await.unwrap().id).await;
        let error = "no (the task's retry policy panicked: no wait for 1)";
        assert_eq!((job.attempts, job.last_error.as_deref(), job.wait.round()), (1, Some(error), 3.0));
    }
    assert_eq!(running.stop().await.orphaned, 0);
}

#[tokio::test]
async fn a_handler_that_panics_when_its_time_is_up_fails_as_any_other() {
    struct Bad;
    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("not now");
        }
    }
    async fn stuck(_: Greet, _: Context) {
        let _bad = Bad;
        std::future::pending().await
    }
    let bench = Bench::new().await;
    let short = TaskOptions::new().timeout(Duration::from_millis(50));
    let running = Running::start(builder(&bench).task_with(short, stuck));
    for _ in 0..2 {
        let job = bench.failed(enqueue(&bench.sql, ada()).await.unwrap().id).await;
        assert_eq!(job.last_error.as_deref(), Some("not done within 50ms, and panicked: not now when dropped"));
    }
    assert_eq!(running.stop().await.orphaned, 0);
}

#[tokio::test]
async fn a_handler_that_takes_too_long_fails_and_one_that_looks_has_the_last_word() {
    async fn stuck(_: Greet, _: Context) {
        std::future::pending().await
    }
    #[derive(Serialize, Deserialize)]
    struct Attentive;
    impl Task for Attentive {
        const IDENTIFIER: &'static str = "attentive";
    }
    async fn attentive(_: Attentive, context: Context) -> HandlerResult {
        let why = context.cancelled().await;
        Err(format!("gave up: {why:?} {:?}", context.is_cancelled()))?
    }
    let bench = Bench::new().await;
    let short = || TaskOptions::new().timeout(Duration::from_millis(50));
    let running = Running::start(builder(&bench).task_with(short(), stuck).task_with(short(), attentive));
    let id = enqueue(&bench.sql, ada()).await.unwrap().id;
    assert_eq!(bench.failed(id).await.last_error.as_deref(), Some("not done within 50ms"));
    let id = enqueue(&bench.sql, Attentive).await.unwrap().id;
    assert_eq!(bench.failed(id).await.last_error.as_deref(), Some("gave up: TimedOut Some(TimedOut)"));
    running.stop().await;
}

#[tokio::test]
async fn a_stop_tells_handlers_and_waits_for_them() {
    async fn waits(_: Greet, context: Context<mpsc::UnboundedSender<()>>) -> HandlerResult<Outcome> {
        context.state().send(())?;
        match context.cancelled().await {
            // Not at once: a claim that is under way would take it again.
            Cancelled::Stopping => Ok(Outcome::snooze(Duration::from_secs(3600))),
            other => Err(format!("{other:?}"))?,
        }
    }
    let bench = Bench::new().await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let running = Running::start(builder(&bench).state(started).task(waits));
    let id = enqueue(&bench.sql, ada()).await.unwrap().id;
    starts.recv().await.unwrap();
    let stopped = running.stop().await;
    assert_eq!((stopped.finished, stopped.released, stopped.orphaned), (1, 0, 0));
    let job = bench.job(id).await.unwrap();
    assert_eq!((job.attempts, job.locked, job.last_error), (0, false, None));
}

#[tokio::test]
async fn what_does_not_end_within_the_grace_is_given_back() {
    async fn stuck(_: Greet, context: Context<mpsc::UnboundedSender<()>>) -> HandlerResult {
        context.state().send(())?;
        std::future::pending().await
    }
    let bench = Bench::new().await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let worker = builder(&bench).shutdown_grace(Duration::from_millis(100)).state(started).task(stuck);
    let running = Running::start(worker);
    let id = enqueue(&bench.sql, ada()).await.unwrap().id;
    starts.recv().await.unwrap();
    assert_eq!(running.stop().await.released, 1);
    let job = bench.job(id).await.unwrap();
    assert_eq!((job.attempts, job.locked, job.last_error), (0, false, None));
}

/// A thousand handlers at once: none of them goes on before all have started.
#[tokio::test]
async fn a_thousand_handlers_run_at_once() {
    const MANY: usize = 1000;
    async fn meet(_: Greet, context: Context<Barrier>) {
        context.state().wait().await;
    }
    let bench = Bench::new().await;
    let running = Running::start(builder(&bench).concurrency(MANY).state(Barrier::new(MANY)).task(meet));
    enqueue_many(&bench.sql, (0..MANY).map(|_| ada())).await.unwrap();
    bench.empty().await;
    running.stop().await;
}

#[tokio::test]
async fn a_task_runs_no_more_at_once_than_it_may() {
    #[derive(Serialize, Deserialize)]
    struct Narrow;
    impl Task for Narrow {
        const IDENTIFIER: &'static str = "narrow";
    }
    let bench = Bench::new().await;
    // How many run now, and the most there were.
    let gauge = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let state = gauge.clone();
    let measure = async |_: Narrow, context: Context<Arc<(AtomicUsize, AtomicUsize)>>| {
        let (now, most) = &**context.state();
        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        // Meanwhile as many others start as may.
        let client = context.db().connection().await.unwrap();
        client.simple_query("SELECT pg_sleep(0.01)").await.unwrap();
        now.fetch_sub(1, SeqCst);
    };
    let narrow = TaskOptions::new().concurrency(2);
    let worker = builder(&bench).concurrency(8).state(state).task_with(narrow, measure);
    enqueue_many(&bench.sql, (0..40).map(|_| Narrow)).await.unwrap();
    let running = Running::start(worker);
    bench.empty().await;
    assert_eq!(gauge.1.load(SeqCst), 2);
    running.stop().await;
}

tokio::task_local! {
    static USER: Option<uuid::Uuid>;
}

/// Makes the job's actor known to whatever the handler calls, and refuses jobs without one.
struct Authenticated;

impl Hook for Authenticated {
    async fn around(&self, context: &Context, next: Next<'_>) -> Outcome {
        match context.job().actor {
            None => Outcome::discard("nobody has asked for this"),
            actor => USER.scope(actor, next.run()).await,
        }
    }
}

/// Tells how every attempt has ended.
struct Told(mpsc::UnboundedSender<Outcome>);

impl Hook for Told {
    async fn around(&self, _context: &Context, next: Next<'_>) -> Outcome {
        let outcome = next.run().await;
        self.0.send(outcome.clone()).unwrap();
        outcome
    }
}

#[tokio::test]
async fn hooks_go_around_every_handler_the_first_outermost() {
    async fn greet(job: Greet, context: Context) -> HandlerResult {
        assert_eq!(USER.get(), context.job().actor);
        match job.name.as_str() {
            "panic" => panic!("in the handler"),
            "slow" => std::future::pending().await,
            _ => Ok(()),
        }
    }
    let bench = Bench::new().await;
    let (told, mut outcomes) = mpsc::unbounded_channel();
    let once = TaskOptions::new().timeout(Duration::from_millis(50)).retry(Retry::never());
    let running = Running::start(builder(&bench).hook(Told(told)).hook(Authenticated).task_with(once, greet));
    let actor = uuid::Uuid::from_u128(7);
    let retry = |error: &str| Outcome::Retry { error: error.into(), after: None };
    for (name, actor, expected) in [
        ("Ada", Some(actor), Outcome::Complete),
        ("panic", Some(actor), retry("panicked: in the handler")),
        ("slow", Some(actor), retry("not done within 50ms")),
        ("Ada", None, Outcome::discard("nobody has asked for this")),
    ] {
        let mut job = Greet { name: name.into() }.into_job();
        if let Some(actor) = actor {
            job = job.actor(actor);
        }
        enqueue(&bench.sql, job).await.unwrap();
        assert_eq!(outcomes.recv().await.unwrap(), expected);
    }
    running.stop().await;
}

/// Sends each new span of attempts: its id, its name and its fields.
struct Spans(mpsc::UnboundedSender<(Id, String)>);

impl<S: Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: layer::Context<'_, S>) {
        let mut said = attributes.metadata().name().to_owned();
        if said == "job.run" {
            attributes.record(&mut |field: &Field, value: &dyn Debug| write!(said, " {field}={value:?}").unwrap());
            self.0.send((id.clone(), said)).unwrap();
        }
    }
}

#[tokio::test]
async fn an_applications_subscriber_sees_the_span_in_which_the_handler_runs() {
    type Seen = mpsc::UnboundedSender<[Option<Id>; 3]>;
    async fn look(_: Greet, context: Context<Seen>) -> HandlerResult {
        let spawned = tokio::spawn(async { Span::current().id() }.instrument(context.span().clone()));
        Ok(context.state().send([Span::current().id(), context.span().id(), spawned.await?])?)
    }
    let (new, mut spans) = mpsc::unbounded_channel();
    let (seen, mut inside) = mpsc::unbounded_channel();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(Spans(new)));
    // While there is one subscriber only, the first thread that reaches the span decides whether it is ever of
    // interest: that of another test has none.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let bench = Bench::new().await;
    let running = Running::start(builder(&bench).state(seen).task(look));
    let job = enqueue(&bench.sql, ada()).await.unwrap().id;
    let (id, said) = spans.recv().await.unwrap();
    assert_eq!(said, format!("job.run job.id={job} job.task=\"greet\" job.attempts=1 job.max_attempts=25"));
    assert_eq!(inside.recv().await.unwrap(), [(); 3].map(|()| Some(id.clone())));
    running.stop().await;
}

#[tokio::test]
async fn a_hook_that_panics_fails_the_attempt_and_not_the_worker() {
    struct Bad;
    impl Hook for Bad {
        async fn around(&self, _context: &Context, _next: Next<'_>) -> Outcome {
            panic!("no meter")
        }
    }
    async fn greet(_: Greet, _: Context) {}
    let bench = Bench::new().await;
    let running = Running::start(builder(&bench).hook(Bad).task(greet));
    for _ in 0..2 {
        let id = enqueue(&bench.sql, ada()).await.unwrap().id;
        assert_eq!(bench.failed(id).await.last_error.as_deref(), Some("a hook panicked: no meter"));
    }
    running.stop().await;
}

/// Dropping what runs is as safe as a crash, and leaves nothing behind in the process: its sessions end, and the next
/// worker with its id has its jobs at once.
#[tokio::test]
async fn a_worker_that_is_dropped_leaves_nothing_that_runs() {
    async fn stuck(_: Greet, context: Context<mpsc::UnboundedSender<i32>>) -> HandlerResult {
        context.state().send(context.job().attempts)?;
        std::future::pending().await
    }
    let bench = Bench::new().await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let worker = || builder(&bench).id("dropped").shutdown_grace(Duration::ZERO).state(started.clone()).task(stuck);
    let running = Running::start(worker());
    enqueue(&bench.sql, ada()).await.unwrap();
    assert_eq!(starts.recv().await, Some(1));
    running.worker.abort();
    assert!(running.worker.await.unwrap_err().is_cancelled());
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'jobs'";
    eventually(LIMIT, async || bench.sql.query_one(sessions, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    let running = Running::start(worker());
    // An interruption is not an attempt.
    assert_eq!(starts.recv().await, Some(1));
    running.stop().await;
}

#[test]
fn it_works_in_a_runtime_with_one_thread_and_in_one_with_many() {
    async fn greet(_: Greet, _: Context) {}
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let many = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for runtime in [current, many] {
        runtime.block_on(async {
            let bench = Bench::new().await;
            let running = Running::start(builder(&bench).task(greet));
            bench.gone(enqueue(&bench.sql, ada()).await.unwrap().id).await;
            running.stop().await;
        });
    }
}
