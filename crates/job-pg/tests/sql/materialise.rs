//! run_scheduled_job: a schedule makes a job, and waits for it to end.

use crate::sql::support::{Session, database};

const TENANT: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const OTHER: &str = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

async fn add(s: &Session, arguments: &str) -> i64 {
    s.number(&format!("SELECT id FROM app_jobs.add_scheduled_job({arguments})")).await
}

async fn run(s: &Session, arguments: &str) -> i64 {
    s.number(&format!("SELECT id FROM app_jobs.run_scheduled_job({arguments})")).await
}

async fn refused(s: &Session, arguments: &str) {
    let before =
        s.show("SELECT * FROM app_jobs.jobs ORDER BY id; SELECT * FROM app_jobs.scheduled_jobs ORDER BY id").await;
    let error = s.error(&format!("SELECT app_jobs.run_scheduled_job({arguments})")).await;
    assert_eq!(error.message(), "ALREADY_SCHEDULED");
    let after =
        s.show("SELECT * FROM app_jobs.jobs ORDER BY id; SELECT * FROM app_jobs.scheduled_jobs ORDER BY id").await;
    assert_eq!(after, before, "a refusal changes nothing");
}

#[tokio::test]
async fn a_schedule_makes_a_job_of_everything_it_holds() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(&format!("SELECT set_config('jwt.claims.user_id', '{OTHER}', false)")).await;
    let schedule =
        add(&s, &format!("'{TENANT}'::uuid, 'x', '{{\"big\":9007199254740993}}', '{{\"hour\":1}}', 'k', 'q', 3, -7"))
            .await;
    // The schedule's tenant and actor count, not those of whoever runs it.
    s.run(&format!("SELECT set_config('jwt.claims.user_id', '{TENANT}', false), set_config('jwt.claims.database_id', '{OTHER}', false)")).await;
    let job = s
        .show(&format!(
            "BEGIN; SELECT id, database_id, actor_id, queue_name, task_identifier, payload, priority, max_attempts, key, attempts,
                    run_at = now(), locked_by FROM app_jobs.run_scheduled_job({schedule});
             SELECT last_scheduled = now(), last_scheduled_id FROM app_jobs.scheduled_jobs; COMMIT"
        ))
        .await;
    let id = s.number("SELECT id FROM app_jobs.jobs").await;
    assert_eq!(job, format!("{id}|{TENANT}|{OTHER}|q|x|{{\"big\":9007199254740993}}|-7|3|k|0|t|~\nt|{id}"));
    assert_eq!(s.show("SELECT queue_name, job_count FROM app_jobs.job_queues").await, "q|1");
}

#[tokio::test]
async fn a_schedule_that_does_not_exist_is_a_row_of_nulls() {
    let db = database().await;
    let s = Session::open(&db).await;
    for id in ["999", "-1", "NULL"] {
        let row = s.show(&format!("SELECT id, task_identifier, payload FROM app_jobs.run_scheduled_job({id})")).await;
        assert_eq!(row, "~|~|~", "{id}");
    }
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
}

#[tokio::test]
async fn a_previous_job_that_waits_or_runs_refuses_the_next() {
    let db = database().await;
    let s = Session::open(&db).await;
    for key in ["NULL", "'k'"] {
        let schedule = add(&s, &format!("'x', '{{}}', '{{}}', {key}")).await;
        let id = run(&s, &schedule.to_string()).await;
        refused(&s, &schedule.to_string()).await;
        assert_eq!(s.get_job("'worker'").await, Some(id));
        refused(&s, &schedule.to_string()).await;
        s.run(&format!("SELECT app_jobs.fail_job('worker', {id}, 'no')")).await;
        refused(&s, &schedule.to_string()).await;
        s.run("UPDATE app_jobs.jobs SET run_at = now()").await;
        s.get_job("'worker'").await;
        s.run(&format!("SELECT app_jobs.complete_job('worker', {id})")).await;
        let next = run(&s, &schedule.to_string()).await;
        assert_ne!(next, id);
        assert_eq!(
            s.number(&format!("SELECT last_scheduled_id FROM app_jobs.scheduled_jobs WHERE id = {schedule}")).await,
            next
        );
        s.run("DELETE FROM app_jobs.jobs; DELETE FROM app_jobs.scheduled_jobs").await;
    }
}

#[tokio::test]
async fn a_previous_job_that_runs_longer_than_the_expiry_no_longer_refuses() {
    let db = database().await;
    let s = Session::open(&db).await;
    let schedule = add(&s, "'x', '{}', '{}'").await;
    run(&s, &schedule.to_string()).await;
    s.get_job("'worker'").await;
    s.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '30 minutes'").await;
    for arguments in [format!("{schedule}"), format!("{schedule}, NULL"), format!("{schedule}, '31 minutes'")] {
        refused(&s, &arguments).await;
    }
    let second = run(&s, &format!("{schedule}, '29 minutes'")).await;
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 2, "the running one runs on");
    s.get_job("'worker'").await;
    s.run(&format!("UPDATE app_jobs.jobs SET locked_at = now() - interval '61 minutes' WHERE id = {second}")).await;
    run(&s, &schedule.to_string()).await;
}

#[tokio::test]
async fn a_previous_job_that_runs_on_its_last_attempt_still_refuses() {
    let db = database().await;
    let s = Session::open(&db).await;
    let schedule = add(&s, "'x', '{}', '{}', max_attempts := 1").await;
    run(&s, &schedule.to_string()).await;
    s.get_job("'worker'").await;
    refused(&s, &schedule.to_string()).await;
}

#[tokio::test]
async fn a_previous_job_that_failed_for_good_does_not_block_its_schedule() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (key, rows) in [("NULL", 2), ("'k'", 1)] {
        let schedule = add(&s, &format!("'x', '{{}}', '{{}}', {key}, max_attempts := 1")).await;
        let id = run(&s, &schedule.to_string()).await;
        s.get_job("'worker'").await;
        s.run(&format!("SELECT app_jobs.fail_job('worker', {id}, 'no')")).await;
        let next = run(&s, &schedule.to_string()).await;
        assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, rows, "with a key it is replaced in place");
        assert_eq!(s.get_job("'worker'").await, Some(next));
        s.run("DELETE FROM app_jobs.jobs; DELETE FROM app_jobs.scheduled_jobs").await;
    }
}

#[tokio::test]
async fn the_key_of_a_schedule_follows_add_jobs_rule() {
    let db = database().await;
    let s = Session::open(&db).await;
    let schedule = add(&s, "'x', '{\"by\":\"schedule\"}', '{}', 'k'").await;
    let by_hand = s.add_job("'x', '{\"by\":\"hand\"}', 'k'").await;
    assert_eq!(run(&s, &schedule.to_string()).await, by_hand, "a waiting job with the key is replaced");
    assert_eq!(s.show("SELECT payload FROM app_jobs.jobs").await, "{\"by\":\"schedule\"}");
    // Running and expired: it loses the key, a new one takes it.
    s.get_job("'worker'").await;
    s.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '2 hours'").await;
    let next = run(&s, &schedule.to_string()).await;
    assert_ne!(next, by_hand);
    assert_eq!(
        s.show("SELECT id, key, locked_by FROM app_jobs.jobs ORDER BY id").await,
        format!("{by_hand}|~|worker\n{next}|k|~")
    );
    // Another tenant's.
    s.run("DELETE FROM app_jobs.jobs").await;
    s.add_job(&format!("'{TENANT}'::uuid, 'x', '{{}}', 'k'")).await;
    let error = s.error(&format!("SELECT app_jobs.run_scheduled_job({schedule})")).await;
    assert!(error.message().contains("another database_id"), "{}", error.message());
}

#[tokio::test]
async fn two_schedulers_running_one_schedule_at_once_make_one_job() {
    let db = database().await;
    let (a, b, watch) = (Session::open(&db).await, Session::open(&db).await, Session::open(&db).await);
    let schedule = add(&a, "'x', '{}', '{}'").await;
    a.run("BEGIN").await;
    run(&a, &schedule.to_string()).await;
    let pid = b.pid().await;
    let statement = format!("SELECT app_jobs.run_scheduled_job({schedule})");
    let (error, ()) = tokio::join!(b.error(&statement), async {
        watch.wait_until_blocked(pid).await;
        a.run("COMMIT").await;
    });
    assert_eq!(error.message(), "ALREADY_SCHEDULED");
    assert_eq!(watch.number("SELECT count(*) FROM app_jobs.jobs").await, 1);
}
