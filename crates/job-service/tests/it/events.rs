//! What a listener of events is told.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use job_service::events::{Event, Source};
use job_service::{
    BoxError, Context, Db, HandlerResult, IntoJob, Outcome, SchedulerConfig, ServerConfig, Service, Shutdown, Task,
    Timestamp, Worker, enqueue,
};
use job_testkit::{Answer, FakeFunction, TestDb, eventually, eventually_some};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::support::{LIMIT, migrated};

#[derive(Serialize, Deserialize)]
struct Work {
    end: String,
}

impl Task for Work {
    const IDENTIFIER: &'static str = "work";
}

async fn work(job: Work, context: Context<AtomicBool>) -> HandlerResult<Outcome> {
    match job.end.as_str() {
        "complete" => Ok(Outcome::Complete),
        "discard" => Ok(Outcome::discard("never")),
        "snooze" => Ok(Outcome::snooze(Duration::from_secs(3600))),
        "transaction" => {
            let completed: Result<(), BoxError> = context.transaction(async |_| Ok(())).await;
            completed.map(|()| Outcome::Complete)
        }
        // Once.
        "release" if !context.state().swap(true, Ordering::Relaxed) => {
            let conflict = "DO $$ BEGIN RAISE EXCEPTION 'in the way' USING ERRCODE = '40001'; END $$";
            context.db().connection().await?.batch_execute(conflict).await?;
            Ok(Outcome::Complete)
        }
        "release" => Ok(Outcome::Complete),
        _ => Err("not today")?,
    }
}

/// What a listener was told: of each job in order, and of schedules.
#[derive(Default)]
struct Told {
    of_job: HashMap<i64, Vec<&'static str>>,
    fires: Vec<(i64, Timestamp)>,
    invalid: Vec<i64>,
}

impl Told {
    fn add(&mut self, event: &Event<'_>) {
        let (job_id, stage) = match event {
            Event::ScheduleFired { schedule_id, at, .. } => return self.fires.push((*schedule_id, *at)),
            Event::ScheduleInvalid { schedule_id, .. } => return self.invalid.push(*schedule_id),
            Event::CallbackRefused { job_id, .. } => (job_id.unwrap_or_default(), "callback refused"),
            Event::AttemptStarted(attempt) => (attempt.job_id, "started"),
            Event::AttemptEnded(attempt) if attempt.duration.is_some() => (attempt.job_id, "ended"),
            Event::JobAccepted(attempt) => (attempt.job_id, "accepted"),
            Event::JobCompleted(attempt) if attempt.source == Source::Callback => {
                (attempt.job_id, "completed by callback")
            }
            Event::JobCompleted(attempt) => (attempt.job_id, "completed"),
            Event::JobRetrying { attempt, error: "not today", .. } => (attempt.job_id, "retrying"),
            Event::JobFailed { attempt, error: "not today" | "never" } => (attempt.job_id, "failed"),
            Event::JobSnoozed { attempt, .. } => (attempt.job_id, "snoozed"),
            Event::JobReleased { attempt, .. } => (attempt.job_id, "released"),
            Event::CallbackSettled(attempt) => (attempt.job_id, "callback settled"),
            Event::CallbackStale { attempt, .. } => (attempt.job_id, "callback stale"),
            // The job of the fire before may still run.
            Event::FireSkipped { .. } => return,
            _ => (0, "what nobody expects"),
        };
        self.of_job.entry(job_id).or_default().push(stage);
    }
}

#[tokio::test]
async fn a_listener_is_told_of_every_stage_once_for_handlers_functions_callbacks_and_schedules() {
    let postgres = TestDb::from_template("service", migrated).await;
    let (db, client) = (Db::from_url(postgres.url()).unwrap(), postgres.connect().await);
    let function = FakeFunction::start(async |request| match &*request.target {
        "/busy" => Answer::text(429, "slow down").header("Retry-After", "3600"),
        "/tick" => Answer::complete(),
        _ => Answer::accepted(),
    })
    .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let callback = format!("http://{}", listener.local_addr().unwrap());
    let (told, of_worker) = (Arc::new(Mutex::new(Told::default())), Arc::new(AtomicUsize::new(0)));
    let (adding, counting) = (told.clone(), of_worker.clone());
    let worker = Worker::builder(db.clone()).state(AtomicBool::new(false)).task(work);
    let worker = worker.dispatch(&function.url(), &callback).on_event(move |event| {
        counting.fetch_add(usize::from(matches!(event, Event::AttemptStarted(_))), Ordering::Relaxed);
    });
    let service = Service::builder(db.clone())
        .worker(worker.build().unwrap())
        .server_on(ServerConfig::default(), listener)
        .scheduler(SchedulerConfig::default())
        .on_event(move |event| adding.lock().unwrap().add(event))
        .build();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(service.run(shutdown.clone()));

    let ended = |job: i64, stages: &'static [&'static str]| {
        let told = told.clone();
        async move {
            eventually(LIMIT, async || {
                told.lock().unwrap().of_job.get(&job).is_some_and(|told| told.len() >= stages.len())
            })
            .await;
            assert_eq!(told.lock().unwrap().of_job[&job], stages);
        }
    };
    for (end, max_attempts, stages) in [
        ("complete", 25, &["started", "ended", "completed"][..]),
        ("transaction", 25, &["started", "ended", "completed"]),
        ("retry", 25, &["started", "ended", "retrying"]),
        ("retry", 1, &["started", "ended", "failed"]),
        ("discard", 25, &["started", "ended", "failed"]),
        ("snooze", 25, &["started", "ended", "snoozed"]),
        ("release", 25, &["started", "ended", "released", "started", "ended", "completed"]),
    ] {
        let job = Work { end: end.into() }.into_job().max_attempts(max_attempts);
        ended(enqueue(&client, job).await.unwrap().id, stages).await;
    }

    let add = async |task: &str| -> i64 {
        client.query_one("SELECT id FROM app_jobs.add_job($1::text)", &[&task]).await.unwrap().get(0)
    };
    let there = add("there").await;
    ended(there, &["started", "ended", "accepted"]).await;
    let request = eventually_some(LIMIT, async || function.requests().into_iter().find(|r| r.target == "/there")).await;
    assert_eq!(request.call_back().await.0, 200);
    ended(there, &["started", "ended", "accepted", "completed by callback", "callback settled"]).await;
    assert_eq!(request.call_back().await.0, 200);
    let late: &[_] = &["started", "ended", "accepted", "completed by callback", "callback settled", "callback stale"];
    ended(there, late).await;
    let refused = reqwest::Client::new().post(format!("{callback}/callback")).header("X-Job-Id", "123456").send();
    assert_eq!(refused.await.unwrap().status(), 400);
    ended(123_456, &["callback refused"]).await;

    let schedule = async |info: &str| -> i64 {
        let sql = "SELECT id FROM app_jobs.add_scheduled_job('tick', '{}', $1::text::json)";
        client.query_one(sql, &[&info]).await.unwrap().get(0)
    };
    let never = schedule(r#"{"rule": "0 0 31 2 *"}"#).await;
    eventually(LIMIT, async || told.lock().unwrap().invalid == [never]).await;
    let tick = schedule(r#"{"rule": "* * * * * *"}"#).await;
    eventually(LIMIT, async || told.lock().unwrap().fires.len() >= 2).await;
    // The last one: no other job is sent there afterwards.
    ended(add("busy").await, &["started", "ended", "snoozed"]).await;

    shutdown.trigger();
    running.await.unwrap().unwrap();
    let fires = "SELECT count(*) FROM app_jobs.schedule_fires WHERE job_id IS NOT NULL";
    let made: i64 = client.query_one(fires, &[]).await.unwrap().get(0);
    let told = told.lock().unwrap();
    assert_eq!(told.of_job.get(&0), None);
    let instants: HashSet<_> = told.fires.iter().collect();
    assert!(told.fires.iter().all(|(schedule, _)| *schedule == tick));
    assert_eq!((told.fires.len(), instants.len()), (made as usize, made as usize));
    let starts = told.of_job.values().flatten().filter(|stage| **stage == "started").count();
    assert_eq!(of_worker.load(Ordering::Relaxed), starts, "a listener of the worker's own is told as well");
}
