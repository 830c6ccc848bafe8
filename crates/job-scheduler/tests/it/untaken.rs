//! Schedules whose tasks no scheduler takes are told of, by one that lives.

use job_testkit::{Signal, eventually};

use super::support::{
    EVERY_SECOND, ID, LIMIT, Running, collect_fires, database, fires, held, last_error, number, process, schedule,
};

const LEASE: (&str, &str) = ("JOBS_SCHEDULER_LEASE", "1s");

fn only(task: &'static str) -> [(&'static str, &'static str); 3] {
    [LEASE, ("JOBS_SUPPORT_ANY", "false"), ("JOBS_SUPPORTED", task)]
}

#[tokio::test]
async fn a_schedule_whose_task_no_scheduler_takes_is_told_of_until_one_does() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    schedule(&client, "mine", EVERY_SECOND).await;
    let before = schedule(&client, "theirs", EVERY_SECOND).await;
    let paused = schedule(&client, "theirs", EVERY_SECOND).await;
    client.execute("UPDATE app_jobs.scheduled_jobs SET paused_at = now() WHERE id = $1", &[&paused]).await.unwrap();
    let mut scheduler = process(db.url(), "sched-mine", &only("mine"));
    let told = async |id| last_error(&client, id).await.starts_with(r#"no live scheduler takes the task "theirs""#);
    eventually(LIMIT, async || told(before).await).await;
    let warning = "no live scheduler takes the tasks";
    scheduler.wait_for_line(warning, LIMIT).await;
    // One that comes later, too.
    let after = schedule(&client, "theirs", EVERY_SECOND).await;
    eventually(LIMIT, async || told(after).await).await;
    fires(&client, "mine", 3).await;
    assert_eq!(scheduler.output().matches(warning).count(), 2, "each is told of once: {}", scheduler.output());
    assert_eq!(last_error(&client, paused).await, "-");

    // Another takes it: then nothing is wrong, also with what comes while both live.
    let other = Running::start(db.url(), &only("theirs"));
    fires(&client, "theirs", 2).await;
    let third = schedule(&client, "theirs", EVERY_SECOND).await;
    held(&client, ID, 3).await;
    for id in [before, after, third] {
        eventually(LIMIT, async || last_error(&client, id).await == "-").await;
    }
    let takes = "SELECT count(*) FROM app_jobs.schedulers WHERE tasks IN ('{mine}', '{theirs}')";
    assert_eq!(number(&client, takes).await, 2);
    other.stop().await;
    eventually(LIMIT, async || told(third).await).await;
    scheduler.stop(LIMIT).await;
}

#[tokio::test]
async fn so_is_one_whose_scheduler_was_killed() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let id = schedule(&client, "theirs", EVERY_SECOND).await;
    {
        let killed = process(db.url(), "sched-theirs", &only("theirs"));
        fires(&client, "theirs", 1).await;
        killed.signal(Signal::Kill);
    }
    let scheduler = Running::start(db.url(), &only("mine"));
    eventually(LIMIT, async || last_error(&client, id).await.starts_with("no live scheduler takes")).await;
    let any = Running::start(db.url(), &[LEASE, ("HOSTNAME", "sched-any")]);
    fires(&client, "theirs", 1).await;
    eventually(LIMIT, async || last_error(&client, id).await == "-").await;
    scheduler.stop().await;
    any.stop().await;
}
