//! A BEFORE INSERT trigger of the application's that returns NULL: the row goes elsewhere, and every call that enqueues
//! ends, with a row of NULLs.

use job_pg::{AddJobError, AdminDb, EnqueueError, KeyMode, NewJob, enqueue, enqueue_many, schedule};
use job_testkit::TestDb;

use crate::sql::support::{Session, database, handle};

/// Rows of these tasks go into `elsewhere`, which has no key; a call that does not end is an error after a while.
const DIVERT: &str = "
    SET statement_timeout = '20s';
    CREATE TABLE elsewhere (task text, key text);
    CREATE FUNCTION divert() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.task_identifier LIKE 'away%' THEN
            INSERT INTO public.elsewhere VALUES (NEW.task_identifier, NEW.key);
            RETURN NULL;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER divert BEFORE INSERT ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION divert();
    CREATE TRIGGER divert BEFORE INSERT ON app_jobs.scheduled_jobs FOR EACH ROW EXECUTE FUNCTION divert()";

async fn diverting() -> (TestDb, Session) {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(DIVERT).await;
    (db, s)
}

/// How many rows have come to `elsewhere` since the last look.
async fn diverted(s: &Session) -> i64 {
    let count = s.number("SELECT count(*) FROM elsewhere").await;
    s.run("TRUNCATE elsewhere").await;
    count
}

const TENANT: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

#[tokio::test]
async fn every_form_gives_a_row_of_nulls_and_ends() {
    let (_db, s) = diverting().await;
    for call in [
        "add_job('away')".to_owned(),
        "add_job('away', '{}', 'k')".to_owned(),
        "add_job('away', '{}'::json, 'k')".to_owned(),
        "add_job('away', '{}', 'k', 'q', '2030-01-01', '3')".to_owned(),
        format!("add_job('{TENANT}'::uuid, 'away', '{{}}', 'k')"),
        "enqueue('away', '{}', 'k')".to_owned(),
        "enqueue('away', '{}', 'k', 'preserve_run_at')".to_owned(),
        "enqueue('away', '{}', 'k', 'ignore')".to_owned(),
        format!("enqueue('away', '{{}}', 'k', 'ignore', db_id := '{TENANT}')"),
        "add_scheduled_job('away', '{}', '{}')".to_owned(),
        "add_scheduled_job('away', '{}', '{}', 'k')".to_owned(),
        format!("add_scheduled_job('{TENANT}'::uuid, 'away', '{{}}', '{{}}', 'k')"),
    ] {
        assert_eq!(s.show(&format!("SELECT id FROM app_jobs.{call}")).await, "~", "{call}");
        assert_eq!(diverted(&s).await, 1, "{call}: the trigger sees the row once");
    }
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.scheduled_jobs").await, 0);
}

#[tokio::test]
async fn of_a_batch_the_others_are_made_and_have_their_places() {
    let (_db, s) = diverting().await;
    for (keys, modes) in [
        ("NULL", "NULL"),
        ("'{a,b,c,d}'", "NULL"),
        ("'{a,b,NULL,NULL}'", "NULL"),
        ("'{a,b,c,d}'", "'{ignore,ignore,ignore,ignore}'"),
        ("'{a,b,c,d}'", "'{preserve_run_at,ignore,replace,NULL}'"),
    ] {
        for function in ["add_jobs", "enqueue_all"] {
            let call = match (function, modes) {
                ("add_jobs", "NULL") => format!("add_jobs('{{here,away,away,also}}', NULL, {keys}) AS e (id)"),
                ("add_jobs", _) => continue,
                _ => format!("enqueue_all('{{here,away,away,also}}', NULL, {keys}, {modes}) AS e"),
            };
            let ids = s.show(&format!("SELECT e.id FROM app_jobs.{call}")).await;
            let ids: Vec<&str> = ids.lines().collect();
            assert_eq!((ids.len(), ids[1], ids[2]), (4, "~", "~"), "{call}: {ids:?}");
            for (place, task) in [(0, "here"), (3, "also")] {
                let row = format!("SELECT task_identifier FROM app_jobs.jobs WHERE id = {}", ids[place]);
                assert_eq!(s.show(&row).await, task, "{call}");
            }
            assert_eq!(diverted(&s).await, 2, "{call}");
            s.run("DELETE FROM app_jobs.jobs").await;
        }
    }
    let json = r#"'[{"identifier": "away"}, {"identifier": "here"}, {"identifier": "away", "job_key": "k"}]'"#;
    let ids = s.show(&format!("SELECT app_jobs.add_jobs({json})")).await;
    let here = s.show("SELECT id FROM app_jobs.jobs").await;
    assert_eq!(ids, format!("~\n{here}\n~"));
}

#[tokio::test]
async fn what_has_the_key_already_stays_true_to_the_keys_rule() {
    let (_db, s) = diverting().await;
    // A job that waits stays as it was: no upsert has come to it.
    let waiting = s.add_job("'here', '{\"n\":1}', 'k'").await;
    for call in ["add_job('away', '{}', 'k')", "enqueue('away', '{}', 'k')"] {
        assert_eq!(s.show(&format!("SELECT id FROM app_jobs.{call}")).await, "~");
        let row = format!("{waiting}|here|{{\"n\":1}}|k|f");
        assert_eq!(s.show("SELECT id, task_identifier, payload, key, superseded FROM app_jobs.jobs").await, row);
    }
    // The mode says that it stays, and so it does.
    let kept = s.show("SELECT id, kept FROM app_jobs.enqueue('away', '{}', 'k', 'ignore')").await;
    assert_eq!(kept, format!("{waiting}|t"));
    // One that runs goes on: nothing has taken its place here.
    assert_eq!(s.get_job("'worker'").await, Some(waiting));
    assert_eq!(s.show("SELECT id FROM app_jobs.add_job('away', '{}', 'k')").await, "~");
    assert_eq!(s.show("SELECT key, superseded FROM app_jobs.jobs").await, "k|f");
    // Under a key of another tenant it is no error: there is no row that could get in its way.
    assert_eq!(s.show(&format!("SELECT id FROM app_jobs.add_job('{TENANT}'::uuid, 'away', '{{}}', 'k')")).await, "~");
}

#[tokio::test]
async fn a_trigger_that_changes_the_key_or_refuses_the_update_ends_it_too() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SET statement_timeout = '20s';
         CREATE FUNCTION prefix() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.key := 'p:' || NEW.key; RETURN NEW; END $$;
         CREATE TRIGGER prefix BEFORE INSERT ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION prefix()",
    )
    .await;
    let first = s.add_job("'x', '{}', 'k'").await;
    assert_eq!(s.get_job("'worker'").await, Some(first));
    let second = s.add_job("'x', '{}', 'k'").await;
    assert_ne!(second, first, "the running one has lost the key that it really has");
    assert_eq!(s.show("SELECT key FROM app_jobs.jobs ORDER BY id").await, "~\np:k");
    let third = s.show("SELECT app_jobs.add_jobs('{x,y}', NULL, '{k,l}')").await;
    assert!(third.starts_with("~\n") || third.starts_with(&format!("{second}\n")), "{third}");

    s.run(
        "DROP TRIGGER prefix ON app_jobs.jobs; UPDATE app_jobs.jobs SET key = NULL; DELETE FROM app_jobs.jobs;
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';",
    )
    .await;
    let held = s.add_job("'x', '{}', 'k'").await;
    s.get_job("'worker'").await;
    s.run("CREATE TRIGGER keep BEFORE UPDATE ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION keep()").await;
    for call in ["add_job('x', '{}', 'k')", "enqueue('x', '{}', 'k', 'preserve_run_at')"] {
        assert_eq!(s.show(&format!("SELECT id FROM app_jobs.{call}")).await, "~", "{call}");
    }
    assert_eq!(s.show("SELECT app_jobs.add_jobs('{x}', NULL, '{k}')").await, "~");
    assert_eq!(s.show("SELECT id, key FROM app_jobs.jobs").await, format!("{held}|k"));
}

#[tokio::test]
async fn a_schedule_goes_on_and_each_fire_is_in_the_ledger_with_the_reason() {
    let (_db, s) = diverting().await;
    s.run("ALTER TABLE app_jobs.scheduled_jobs DISABLE TRIGGER divert").await;
    let add = "SELECT id FROM app_jobs.add_scheduled_job($task, '{}', '{}', $task)";
    let away = s.number(&add.replace("$task", "'away'")).await;
    let here = s.number(&add.replace("$task", "'here'")).await;
    for _ in 0..2 {
        assert_eq!(s.show(&format!("SELECT id FROM app_jobs.run_scheduled_job({away})")).await, "~");
        let marks = "SELECT last_scheduled IS NOT NULL, last_scheduled_id FROM app_jobs.scheduled_jobs WHERE id = ";
        assert_eq!(s.show(&format!("{marks}{away}")).await, "t|~");
    }
    let instance = "00000000-0000-4000-8000-00000000000a";
    s.run(&format!(
        "SELECT FROM app_jobs_internal.scheduler_heartbeat('sched', '{instance}', '1 h', false);
         SELECT FROM app_jobs_internal.claim_schedules('sched', '{instance}', NULL, 10, false);
         UPDATE app_jobs.scheduled_jobs SET fired_until = '2020-01-01'"
    ))
    .await;
    let fired = s
        .show(&format!(
            "SELECT f.outcome, f.job_id IS NULL, f.sql_state FROM app_jobs_internal.fire_schedules('sched', '{instance}',
                 ARRAY[{away}, {here}, {away}], ARRAY(SELECT app_jobs_internal.schedule_digest(s) FROM unnest(ARRAY[{away}, {here}, {away}])
                 WITH ORDINALITY AS i (id, n) JOIN app_jobs.scheduled_jobs s ON s.id = i.id ORDER BY i.n),
                 '{{2021-01-01,2021-01-01,2021-01-02}}', '{{f,f,f}}') AS f"
        ))
        .await;
    assert_eq!(fired, "skipped|t|02000\nmade|f|~\nskipped|t|02000");
    let ledger = format!("SELECT count(*), min(reason) FROM app_jobs.schedule_fires WHERE schedule_id = {away}");
    assert_eq!(s.show(&ledger).await, "2|a trigger on the table jobs returned NULL: no job was made here");
    let until = format!("SELECT fired_until FROM app_jobs.scheduled_jobs WHERE id = {away}");
    assert_eq!(s.show(&until).await, "2021-01-02 00:00:00+00");
}

#[tokio::test]
async fn a_schedule_that_a_scheduler_watches_is_not_lost_to_the_trigger() {
    let (_db, s) = diverting().await;
    let watched = s.number("SELECT id FROM app_jobs.add_scheduled_job('here', '{}', '{}', 'k')").await;
    assert_eq!(s.number("SELECT id FROM app_jobs.get_scheduled_job('sched')").await, watched);
    let error = s.error("SELECT app_jobs.add_scheduled_job('away', '{}', '{}', 'k')").await;
    assert!(error.message().contains("'k'") && error.message().contains("trigger"), "{}", error.message());
    assert_eq!(s.number("SELECT id FROM app_jobs.scheduled_jobs").await, watched);
}

#[tokio::test]
async fn applications_in_rust_get_an_error_that_says_so() {
    let (db, s) = diverting().await;
    let handle = handle(db.url(), "app_jobs");
    let told = |error: EnqueueError| {
        assert!(!error.is_transient() && error.field().is_none() && error.sql_state().is_none(), "{error:?}");
        let EnqueueError::KeptOut { positions } = &error else { panic!("{error:?}") };
        (positions.clone(), error.to_string())
    };
    for job in [
        NewJob::raw("away", ""),
        NewJob::raw("away", "").key("k"),
        NewJob::raw("away", "").key("k").key_mode(KeyMode::Ignore),
    ] {
        let (positions, message) = told(enqueue(&handle, job).await.unwrap_err());
        assert!(positions.is_empty() && message.contains("trigger"), "{message}");
    }
    let jobs = ["here", "away", "here", "away"].map(|task| NewJob::raw(task, ""));
    let (positions, message) = told(enqueue_many(&handle, jobs).await.unwrap_err());
    assert_eq!(positions, [1, 3], "{message}");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE task_identifier = 'here'").await, 2);
    told(schedule(&handle, "* * * * *", NewJob::raw("away", "").key("k")).await.unwrap_err());
    let added = AdminDb::new(handle).add_job(&NewJob::raw("away", "").key("k")).await;
    assert!(matches!(added, Err(AddJobError::KeptOut)), "{added:?}");
}
