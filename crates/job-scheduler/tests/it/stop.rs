//! Starting and stopping: who holds the schedules before and after.

use job_testkit::process::{Program, Signal};

use super::support::{
    EVERY_SECOND, ID, LIMIT, Running, assert_one_job_a_second, collect_fires, database, fires, held, schedule,
};

#[tokio::test]
async fn a_stop_gives_the_schedules_back_and_another_scheduler_takes_them() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    for task in ["one", "two", "three"] {
        schedule(&client, task, EVERY_SECOND).await;
    }
    let first = Running::start(db.url(), &[]);
    held(&client, ID, 3).await;
    let stopped = first.stop().await;
    assert_eq!((stopped.released, stopped.orphaned), (3, 0));
    held(&client, ID, 0).await;
    let second = Running::start(db.url(), &[("HOSTNAME", "sched-other")]);
    held(&client, "sched-other", 3).await;
    fires(&client, "two", 1).await;
    second.stop().await;
}

#[tokio::test]
async fn a_scheduler_takes_back_what_a_killed_one_with_its_id_held() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    schedule(&client, "tick", EVERY_SECOND).await;
    let lock = "UPDATE app_jobs.scheduled_jobs SET locked_by = $1, locked_at = now() - interval '1 day'";
    client.execute(lock, &[&ID]).await.unwrap();
    let scheduler = Running::start(db.url(), &[]);
    fires(&client, "tick", 1).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn two_schedulers_share_the_schedules_and_no_fire_comes_twice() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let first = Running::start(db.url(), &[]);
    let second = Running::start(db.url(), &[("HOSTNAME", "sched-other")]);
    let tasks: Vec<String> = (0..10).map(|number| format!("task-{number}")).collect();
    for task in &tasks {
        schedule(&client, task, EVERY_SECOND).await;
    }
    fires(&client, &tasks[9], 4).await;
    for task in &tasks {
        fires(&client, task, 1).await;
    }
    let released = first.stop().await.released + second.stop().await.released;
    assert!(released >= tasks.len(), "{released}");
    for task in &tasks {
        assert_one_job_a_second(&client, task).await;
    }
}

#[tokio::test]
async fn the_binary_stops_on_sigterm_with_code_0_and_leaves_nothing_locked() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    schedule(&client, "tick", EVERY_SECOND).await;
    let program = Program::at(env!("CARGO_BIN_EXE_job-scheduler")).envs(db.env()).env("HOSTNAME", ID);
    let mut process = program.spawn();
    fires(&client, "tick", 1).await;
    held(&client, ID, 1).await;
    process.signal(Signal::Term);
    assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
    held(&client, ID, 0).await;
    assert!(process.output().contains("scheduler stopped"), "{}", process.output());
}

#[tokio::test]
async fn the_binary_refuses_a_bad_zone_with_code_64_and_names_the_variable() {
    let program = Program::at(env!("CARGO_BIN_EXE_job-scheduler")).env("TZ", "Mars/Phobos");
    let mut process = program.spawn();
    assert_eq!(process.exit_code(LIMIT).await, 64, "{}", process.output());
    assert!(process.output().contains("TZ: "), "{}", process.output());
}

#[tokio::test]
async fn the_first_of_two_schedulers_of_one_name_leaves_without_the_schedules_of_the_second() {
    let db = database().await;
    let client = db.connect().await;
    client
        .batch_execute(
            "CREATE TABLE released (task text);
             CREATE FUNCTION released() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.released VALUES (OLD.task_identifier);
                 RETURN NULL;
             END $$;
             CREATE TRIGGER released AFTER UPDATE ON app_jobs.scheduled_jobs FOR EACH ROW
             WHEN (OLD.locked_by IS NOT NULL AND NEW.locked_by IS NULL) EXECUTE FUNCTION released()",
        )
        .await
        .unwrap();
    let only_other = [("JOBS_SUPPORT_ANY", "false"), ("JOBS_SUPPORTED", "other")];
    let first = Running::start(db.url(), &only_other);
    schedule(&client, "other", "{\"rule\": \"0 0 1 1 *\"}").await;
    held(&client, ID, 1).await;
    let second = Running::start(db.url(), &[]);
    schedule(&client, "mine", "{\"rule\": \"0 0 1 1 *\"}").await;
    held(&client, ID, 2).await;
    assert_eq!(first.stop().await.released, 1);
    // The second would take its schedule again at once: ask what was released, not what is held.
    let released = "SELECT array_agg(task) FROM released";
    assert_eq!(client.query_one(released, &[]).await.unwrap().get::<_, Vec<String>>(0), ["other"]);
    second.stop().await;
    held(&client, ID, 0).await;
}

#[tokio::test]
async fn the_binary_refuses_unknown_arguments_with_code_64_and_tells_its_version_with_0() {
    let run = async |argument: &str| {
        let mut process = Program::at(env!("CARGO_BIN_EXE_job-scheduler")).arg(argument).spawn();
        (process.exit_code(LIMIT).await, process.output())
    };
    assert_eq!(run("--nonsense").await.0, 64);
    assert_eq!(run("--version").await, (0, concat!("job-scheduler ", env!("CARGO_PKG_VERSION")).to_owned()));
}

#[tokio::test]
async fn the_command_health_asks_the_scheduler_that_runs_here() {
    let db = database().await;
    let port = job_testkit::cluster::free_port().unwrap().to_string();
    let program = || Program::at(env!("CARGO_BIN_EXE_job-scheduler")).env("JOBS_HEALTH_PORT", &port);
    let mut nobody = program().arg("health").spawn();
    assert_eq!(nobody.exit_code(LIMIT).await, 70, "{}", nobody.output());
    let mut scheduler = program().envs(db.env()).env("HOSTNAME", ID).spawn();
    scheduler.wait_for_line("scheduler looks for schedules", LIMIT).await;
    let mut asked = program().arg("health").spawn();
    assert_eq!(asked.exit_code(LIMIT).await, 0, "{}", asked.output());
}
