//! Columns that a job has from its transaction's settings beside tenant and actor: entity_id and organization_id. And
//! ids that a trigger of the application's gives.

use crate::sql::support::{Session, database};

const ENTITY: &str = "11111111-1111-4111-8111-111111111111";
const ORGANIZATION: &str = "22222222-2222-4222-8222-222222222222";

/// Every way to make a job, each of which makes one.
const WAYS: &[&str] = &[
    "SELECT add_job('x')",
    "SELECT add_job('x', '{}')",
    "SELECT add_job('x', '{}'::jsonb, 'a')",
    "SELECT add_job('x', '{}', NULL, NULL, '2026-01-01', '3')",
    "SELECT add_job('6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11'::uuid, 'x')",
    "SELECT graphql_add_job(NULL, 'x', '{}')",
    "SELECT add_jobs('[{\"identifier\": \"x\"}]')",
    "SELECT add_jobs('{x}', '{\"1\"}', '{b}')",
    "SELECT enqueue('x', '{}', 'c', 'ignore')",
    "SELECT enqueue('x', '{}', db_id := '6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11')",
    "SELECT enqueue_all('{x}', '{\"1\"}', '{d}', '{preserve_run_at}')",
    "INSERT INTO jobs (task_identifier) VALUES ('x')",
];

async fn claims(s: &Session, entity: &str, organization: &str) {
    s.run(&format!(
        "SET search_path = app_jobs, app_jobs_internal; SELECT set_config('jwt.claims.entity_id', '{entity}', false),
                set_config('jwt.claims.organization_id', '{organization}', false)"
    ))
    .await;
}

#[tokio::test]
async fn every_way_to_make_a_job_takes_entity_and_organization_from_the_settings() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (entity, organization, shown) in
        [(ENTITY, ORGANIZATION, format!("{ENTITY}|{ORGANIZATION}")), ("", "", "~|~".to_owned())]
    {
        claims(&s, entity, organization).await;
        for way in WAYS {
            s.run(&format!("DELETE FROM jobs; {way}")).await;
            assert_eq!(s.show("SELECT entity_id, organization_id FROM jobs").await, shown, "{way}");
        }
    }
    // A job with a key is replaced with all that it has; one that runs keeps it.
    s.run(
        "DELETE FROM jobs; SELECT add_job('x', '{}', 'k'), enqueue('x', '{}', 'l'), add_jobs('{x}', '{\"1\"}', '{m}')",
    )
    .await;
    claims(&s, ENTITY, ORGANIZATION).await;
    s.run(
        "SELECT add_job('x', '{}', 'k'), enqueue('x', '{}', 'l', 'preserve_run_at'), add_jobs('{x}', '{\"1\"}', '{m}')",
    )
    .await;
    let both = format!("{ENTITY}|{ORGANIZATION}|3");
    let kinds = "SELECT entity_id, organization_id, count(*) FROM jobs GROUP BY 1, 2";
    assert_eq!(s.show(kinds).await, both);
    s.run("UPDATE jobs SET locked_at = now(), locked_by = 'worker'").await;
    claims(&s, "", "").await;
    s.run(
        "SELECT add_job('x', '{}', 'k'), enqueue('x', '{}', 'l', 'preserve_run_at'), add_jobs('{x}', '{\"1\"}', '{m}')",
    )
    .await;
    assert_eq!(s.show(&format!("{kinds} ORDER BY 1")).await, format!("{both}\n~|~|3"));
}

#[tokio::test]
async fn a_schedule_hands_entity_and_organization_on_to_its_jobs_and_takes_none_from_who_fires_it() {
    let db = database().await;
    let s = Session::open(&db).await;
    claims(&s, ENTITY, ORGANIZATION).await;
    s.run("SELECT add_scheduled_job('with', '{}', '{}', 'k'); SELECT add_scheduled_job('with', '{}', '{}', 'k')").await;
    claims(&s, "", "").await;
    s.run("SELECT add_scheduled_job('without')").await;
    assert_eq!(
        s.show("SELECT entity_id, organization_id FROM run_scheduled_job(1)").await,
        format!("{ENTITY}|{ORGANIZATION}")
    );
    claims(&s, ORGANIZATION, ENTITY).await;
    let without = s.number("SELECT id FROM scheduled_jobs WHERE task_identifier = 'without'").await;
    assert_eq!(s.show(&format!("SELECT entity_id, organization_id FROM run_scheduled_job({without})")).await, "~|~");
    // The scheduler's own way.
    let instance = "'00000000-0000-4000-8000-00000000000a'";
    s.run(&format!(
        "DELETE FROM jobs; UPDATE scheduled_jobs SET last_scheduled_id = NULL, fired_until = now() - interval '1 h';
         SELECT FROM scheduler_heartbeat('scheduler', {instance}, '1 h', false);
         SELECT FROM claim_schedules('scheduler', {instance}, NULL, 10, false);
         SELECT FROM scheduled_jobs s, fire_schedules('scheduler', {instance}, ARRAY[s.id], ARRAY[schedule_digest(s)],
                                                      ARRAY[now() - interval '1 s'], '{{t}}')"
    ))
    .await;
    let jobs = "SELECT task_identifier, entity_id, organization_id FROM jobs ORDER BY 1";
    assert_eq!(s.show(jobs).await, format!("with|{ENTITY}|{ORGANIZATION}\nwithout|~|~"));
}

#[tokio::test]
async fn a_setting_that_is_not_a_uuid_is_an_error_that_names_it() {
    let db = database().await;
    let s = Session::open(&db).await;
    for name in ["entity_id", "organization_id"] {
        claims(&s, "", "").await;
        s.run(&format!("SET jwt.claims.{name} = 'acme'")).await;
        let (insert, functions) = WAYS.split_last().unwrap();
        for way in functions {
            let error = s.error(way).await;
            assert!(error.message().contains(&format!("jwt.claims.{name} is not a uuid: 'acme'")), "{way}: {error:?}");
        }
        assert_eq!(s.error(insert).await.code().code(), "22P02", "in a plain INSERT PostgreSQL says which value");
    }
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
}

#[tokio::test]
async fn a_batch_tells_the_ids_that_a_trigger_gave() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "CREATE FUNCTION numbered() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.id := (NEW.payload ->> 'id')::bigint; RETURN NEW; END $$;
         CREATE TRIGGER numbered BEFORE INSERT ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION numbered()",
    )
    .await;
    let without_keys =
        "SELECT app_jobs.add_jobs('{x,x,x}', '{\"{\\\"id\\\": 900}\",\"{\\\"id\\\": 700}\",\"{\\\"id\\\": 800}\"}')";
    assert_eq!(s.show(without_keys).await, "900\n700\n800");
    let mixed = "SELECT app_jobs.add_jobs('{x,x,x,x}', '{\"{\\\"id\\\": 40}\",\"{\\\"id\\\": 30}\",\"{\\\"id\\\": 20}\",\"{\\\"id\\\": 10}\"}', \
                 '{NULL,b,NULL,a}')";
    assert_eq!(s.show(mixed).await, "40\n30\n20\n10");
    let stored =
        "SELECT string_agg(id || ':' || coalesce(key, '-'), ' ' ORDER BY id) FROM app_jobs.jobs WHERE id < 100";
    assert_eq!(s.show(stored).await, "10:a 20:- 30:b 40:-");
}
