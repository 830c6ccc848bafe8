//! A worker's builder: it refuses what a worker cannot work with, and says everything at once.

use std::time::Duration;

use job_worker::{Context, Db, Task, TaskOptions, Tasks, Worker, WorkerBuilder, WorkerConfig};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Greet;

impl Task for Greet {
    const IDENTIFIER: &'static str = "greet";
}

#[tokio::test]
async fn what_cannot_be_built_says_everything_that_is_wrong() {
    async fn greet(_: Greet, _: Context) {}
    let db = Db::from_url("postgres://localhost/nowhere").unwrap();
    let error = Worker::builder(db.clone())
        .id("abc")
        .concurrency(0)
        .lease(Duration::ZERO)
        .poll_interval(Duration::ZERO)
        .dispatch("ftp://functions", "nowhere")
        .task_with(TaskOptions::new().concurrency(0), greet)
        .task(greet)
        .raw_task("", TaskOptions::new(), |_| async {})
        .raw_task("long", TaskOptions::new().timeout(Duration::from_secs(5 * 3600)), |_| async {})
        .build()
        .unwrap_err();
    let settings: Vec<&str> = error.faults.iter().map(|fault| fault.setting.as_str()).collect();
    let expected = [
        "dispatch: functions",
        "dispatch: callback",
        "task \"greet\"",
        "task \"greet\"",
        "task \"\"",
        "task \"long\"",
        "id",
        "concurrency",
        "poll_interval",
        "lease",
    ];
    assert_eq!(settings, expected, "{error}");
    assert_eq!(Worker::builder(db).build().unwrap_err().faults[0].setting, "task");
}

#[tokio::test]
async fn what_no_clock_can_hold_is_refused_as_in_the_environment() {
    async fn greet(_: Greet, _: Context) {}
    let db = Db::from_url("postgres://localhost/nowhere").unwrap();
    let error = Worker::builder(db)
        .concurrency(usize::MAX)
        .prefetch(usize::MAX)
        .poll_interval(Duration::MAX)
        .shutdown_grace(Duration::MAX)
        .timeout(Duration::MAX)
        .lease(Duration::MAX)
        .task_with(TaskOptions::new().timeout(Duration::from_secs(1)), greet)
        .build()
        .unwrap_err();
    let mut settings: Vec<&str> = error.faults.iter().map(|fault| fault.setting.as_str()).collect();
    settings.dedup();
    let expected = ["concurrency", "prefetch", "poll_interval", "shutdown_grace", "timeout", "lease"];
    assert_eq!(settings, expected, "{error}");
    assert!(error.to_string().contains("shutdown_grace: is longer than 87600h"), "{error}");
}

#[tokio::test]
async fn settings_that_would_undo_others_or_leave_nothing_to_do_are_refused() {
    async fn greet(_: Greet, _: Context) {}
    let db = Db::from_url("postgres://localhost/nowhere").unwrap();
    let faults = |builder: WorkerBuilder| builder.build().map(drop).unwrap_err().faults;
    let mut config = WorkerConfig::default();
    config.worker_id = "from-config".into();
    let after = faults(Worker::builder(db.clone()).id("mine").task(greet).config(config.clone()));
    assert_eq!(after[0].setting, "config");
    assert_eq!(after[0].message, "comes after id, and would undo it: give it first");
    let worker = Worker::builder(db.clone()).config(config.clone()).task(greet).lease(Duration::from_secs(5)).build();
    assert_eq!(worker.unwrap().id(), "from-config");

    let mut others = config;
    others.tasks = Tasks::Only(vec!["other".into()]);
    let nothing = faults(Worker::builder(db.clone()).config(others.clone()).task(greet));
    let never = "tasks (JOBS_SUPPORTED) leaves out all that have handlers: the worker would do nothing";
    assert_eq!((nothing[0].setting.as_str(), nothing[0].message.as_str()), ("task", never));
    assert!(Worker::builder(db.clone()).config(others.clone()).task(greet).dispatch_as_configured().build().is_ok());
    let other = Worker::builder(db.clone()).config(others.clone()).raw_task("other", TaskOptions::new(), |_| async {});
    assert!(other.build().is_ok());
    assert!(Worker::builder(db).config(others).dispatch_as_configured().build().is_ok());
}

#[tokio::test]
async fn no_task_may_take_longer_than_a_lock_counts() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let build = |expiry| {
        let db = Db::from_url("postgres://localhost/nowhere").unwrap();
        let options = TaskOptions::new().timeout(hours(5));
        Worker::builder(db).job_expiry(hours(expiry)).raw_task("long", options, |_| async {}).build()
    };
    assert!(build(5).is_ok());
    let said = build(2).unwrap_err().to_string();
    assert!(
        said.contains("task \"long\": timeout must not exceed job_expiry (JOBS_JOB_EXPIRY), which is 2h"),
        "{said}"
    );
    let never = build(0).unwrap_err();
    assert!(never.faults.iter().any(|fault| fault.setting == "job_expiry"), "{never}");
}
