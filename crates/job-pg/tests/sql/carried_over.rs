//! Schemas of before the first release: the last is taken over, earlier ones are recognised. The dumps are what pg_dump
//! wrote of them.

use std::io::Read;

use flate2::read::GzDecoder;
use job_pg::migrate::MigrateError;
use job_testkit::TestDb;

use crate::sql::catalog::{describe, differences, everything};
use crate::sql::migrate::{ALL, applied};
use crate::sql::support::{Role, Session, database, migrate_schema};

/// A database from a dump.
async fn restored(dump: &[u8]) -> TestDb {
    let db = TestDb::empty().await;
    let mut sql = String::new();
    let _ = GzDecoder::new(dump).read_to_string(&mut sql).unwrap();
    Session::open(&db).await.run(&sql).await;
    db
}

/// A schema of migration 25 of the history before the first release.
async fn of_version_25() -> TestDb {
    restored(include_bytes!("v25.sql.gz")).await
}

/// A schema of today's tables with the functions of version 7 of `migrations/version.txt`. The history is not in the
/// dump: it is that of every schema with these tables, as `fresh` has it.
async fn of_functions_7(fresh: &Session) -> TestDb {
    let db = restored(include_bytes!("functions7.sql.gz")).await;
    let rows = "SELECT format('(%s, %L, %L, %L)', version, name, applied_on, checksum) FROM app_jobs.schema_history
                 WHERE version < 3";
    let history = fresh.show(rows).await.replace('\n', ", ");
    Session::open(&db).await.run(&format!("INSERT INTO app_jobs.schema_history VALUES {history}")).await;
    db
}

#[tokio::test]
async fn a_schema_of_an_unreleased_version_is_recognised_and_left_alone() {
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    s.run(
        "CREATE SCHEMA app_jobs; CREATE TABLE app_jobs.jobs (id int);
         CREATE TABLE app_jobs.schema_history (version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), checksum varchar(255));
         INSERT INTO app_jobs.schema_history VALUES (2, 'enqueue', '2026-10-01T00:00:00Z', '1'), (17, 'random_epochs', '2026-10-01T00:00:00Z', '1')",
    )
    .await;
    let before = everything(&s).await;
    let error = migrate_schema(db.url(), "app_jobs").await.unwrap_err();
    assert!(matches!(error, MigrateError::Unreleased { version: 17, .. }), "{error:?}");
    assert!(error.to_string().contains("V17__random_epochs"), "{error}");
    assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new());
}

#[tokio::test]
async fn a_schema_of_the_last_unreleased_version_is_taken_over_with_its_jobs() {
    let fresh = database().await;
    let f = Session::open(&fresh).await;
    let db = of_version_25().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x', '{}', 'k', 'q'").await;
    s.run("SELECT app_jobs.add_scheduled_job('x', '{}', '{\"rule\": \"* * * * *\"}', 'k')").await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), ALL - 1, "V1 is what it has");
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 0);
    // The order of columns added later is the same; the dump writes the schema's name without quotes.
    assert_eq!(differences(&describe(&f, "app_jobs").await, &describe(&s, "app_jobs").await), Vec::<String>::new());
    assert_eq!(s.get_job("'worker'").await, Some(id));
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.scheduled_jobs").await, 1);
}

/// The last one whose internal functions were among the others.
#[tokio::test]
async fn a_schema_with_functions_of_version_7_is_brought_up_to_date_with_its_jobs() {
    let fresh = database().await;
    let f = Session::open(&fresh).await;
    let db = of_functions_7(&f).await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x', '{}', 'k', 'q'").await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 3, "V3, functions and triggers");
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 0);
    assert_eq!(differences(&describe(&f, "app_jobs").await, &describe(&s, "app_jobs").await), Vec::<String>::new());
    assert_eq!(s.get_job("'worker'").await, Some(id));
}

#[tokio::test]
async fn functions_of_the_application_that_have_the_name_of_an_internal_one_stay() {
    let fresh = database().await;
    let f = Session::open(&fresh).await;
    for db in [of_version_25().await, of_functions_7(&f).await] {
        let s = Session::open(&db).await;
        s.run(
            "CREATE FUNCTION app_jobs.heartbeat(service text) RETURNS text LANGUAGE sql AS 'SELECT service';
             CREATE FUNCTION app_jobs.own_uuid(int) RETURNS int LANGUAGE sql AS 'SELECT 7'",
        )
        .await;
        let _ = migrate_schema(db.url(), "app_jobs").await.unwrap();
        assert_eq!(s.show("SELECT app_jobs.heartbeat('mail'), app_jobs.own_uuid(1)").await, "mail|7");
        assert_eq!(s.show(NOT_OURS).await, "heartbeat own_uuid", "and nothing of the version before is left");
    }
    // In a schema without a list, one with exactly the arguments of a former one is told by its owner.
    let db = of_version_25().await;
    let s = Session::open(&db).await;
    let role = Role::create(&db, &s, "shop").await;
    let theirs = "app_jobs.next_run_at(text[], text[], interval)";
    s.run(&format!(
        "DROP FUNCTION {theirs}; CREATE FUNCTION {theirs} RETURNS int LANGUAGE sql AS 'SELECT 8';
         ALTER FUNCTION {theirs} OWNER TO {}",
        role.name
    ))
    .await;
    let _ = migrate_schema(db.url(), "app_jobs").await.unwrap();
    assert_eq!(s.show("SELECT app_jobs.next_run_at(NULL, NULL, NULL)").await, "8");
    assert_eq!(s.show(NOT_OURS).await, "next_run_at");
    role.remove(&s).await;
}

/// Functions of the jobs schema that migrate has not installed.
const NOT_OURS: &str = "SELECT string_agg(p.proname, ' ' ORDER BY p.proname) FROM pg_proc p
    WHERE p.pronamespace = 'app_jobs'::regnamespace
      AND p.oid::regprocedure::text NOT IN (SELECT signature FROM app_jobs.schema_functions)";

#[tokio::test]
async fn beside_programs_that_call_the_functions_it_would_drop_a_migration_is_refused_until_their_leases_end() {
    let fresh = database().await;
    let f = Session::open(&fresh).await;
    for db in [of_version_25().await, of_functions_7(&f).await] {
        let s = Session::open(&db).await;
        s.run(
            "INSERT INTO app_jobs.workers (instance, worker_id, lease, listens, heartbeat_at, steady_since)
             VALUES (gen_random_uuid(), 'alive-worker', '1 h', true, now(), now()),
                    (gen_random_uuid(), 'killed-worker', '1 s', true, now() - interval '2 s', now()),
                    (gen_random_uuid(), 'worker-of-a-clock-set-back', '1 s', true, now() + interval '1 h', now());
             INSERT INTO app_jobs.schedulers (instance, scheduler_id, lease, listens, heartbeat_at, steady_since, covered_since)
             VALUES (gen_random_uuid(), 'alive-scheduler', '1 h', true, now(), now(), now())",
        )
        .await;
        let before = everything(&s).await;
        let error = migrate_schema(db.url(), "app_jobs").await.unwrap_err();
        let MigrateError::OldPrograms { programs, .. } = &error else { panic!("{error:?}") };
        assert_eq!(programs, "alive-scheduler, alive-worker");
        assert!(error.to_string().contains("stop them"), "{error}");
        assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new());
        // One has stopped, and the other was killed a lease ago.
        s.run("DELETE FROM app_jobs.schedulers; UPDATE app_jobs.workers SET heartbeat_at = heartbeat_at - lease * 2")
            .await;
        let _ = migrate_schema(db.url(), "app_jobs").await.unwrap();
        // From now on a migration and programs of versions that follow each other go together.
        s.run("UPDATE app_jobs.workers SET heartbeat_at = now(); UPDATE app_jobs.schema_state SET digest = ''").await;
        assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 2);
    }
}
