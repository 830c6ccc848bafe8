//! The schema of internal functions beside the jobs schema: it is made, left behind, taken away, and somebody else's.

use job_pg::migrate::migrate;
use job_testkit::TestDb;

use crate::sql::catalog::{describe, differences, everything};
use crate::sql::migrate::{ALL, applied};
use crate::sql::support::{Place, Role, Session, database, handle_with, migrate_schema};

#[tokio::test]
async fn after_the_jobs_schema_or_the_internal_one_was_dropped_migrate_makes_both() {
    let db = database().await;
    let s = Session::open(&db).await;
    let before = describe(&s, "app_jobs").await;
    s.add_job("'x', '{}', 'k', 'q'").await;
    s.run("DROP SCHEMA app_jobs_internal CASCADE").await;
    assert_eq!(
        applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()),
        2,
        "functions, and the triggers with them"
    );
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
    // What is left of the functions has the arguments and results that another version gave it. One of them stands in
    // the default of another's argument.
    s.run(
        "DROP SCHEMA app_jobs CASCADE; DROP FUNCTION app_jobs_internal.claim_uuid(text);
         CREATE FUNCTION app_jobs_internal.claim_uuid(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION app_jobs_internal.a() RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION app_jobs_internal.b(n int DEFAULT app_jobs_internal.a()) RETURNS int LANGUAGE sql AS 'SELECT n'",
    )
    .await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), ALL);
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
}

#[tokio::test]
async fn a_schema_of_internal_functions_that_is_somebody_elses_is_refused() {
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    let other = Role::create(&db, &s, "other").await;
    s.run(&format!("CREATE SCHEMA app_jobs_internal AUTHORIZATION {}", other.name)).await;
    let before = everything(&s).await;
    // As a superuser, too: whoever owns the schema could put another function in the place of one of ours.
    let error = format!("{:?}", migrate_schema(db.url(), "app_jobs").await.unwrap_err());
    assert!(error.contains("app_jobs_internal") && error.contains(&format!("belongs to {}", other.name)), "{error}");
    assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new());
    s.run("ALTER SCHEMA app_jobs_internal OWNER TO CURRENT_USER").await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), ALL);
    other.remove(&s).await;
}

#[tokio::test]
async fn a_function_of_the_applications_is_not_replaced_by_one_of_ours() {
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    for (schema, function, result) in
        [("app_jobs", "set_notify(mode text)", "void"), ("app_jobs_internal", "claim_uuid(setting text)", "uuid")]
    {
        s.run(&format!(
            "CREATE SCHEMA {schema}; CREATE FUNCTION {schema}.{function} RETURNS {result} LANGUAGE sql AS 'SELECT NULL::{result}'"
        ))
        .await;
        let before = everything(&s).await;
        let error = format!("{:?}", migrate_schema(db.url(), "app_jobs").await.unwrap_err());
        let told = match schema {
            "app_jobs" => "app_jobs.set_notify(text) is in the way",
            _ => "app_jobs_internal\" is in the way: it holds something",
        };
        assert!(error.contains(told), "{error}");
        assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new());
        s.run(&format!("DROP SCHEMA {schema} CASCADE")).await;
    }
}

/// What a database of the version before had: every function in the jobs schema, and the triggers on those.
const ONE_SCHEMA: &str = "DO $$
    DECLARE routine record;
    BEGIN
        FOR routine IN SELECT p.oid::regprocedure AS signature FROM pg_proc p WHERE p.pronamespace = 'app_jobs_internal'::regnamespace LOOP
            EXECUTE format('ALTER FUNCTION %s SET SCHEMA app_jobs', routine.signature);
        END LOOP;
        DROP SCHEMA app_jobs_internal;
        UPDATE app_jobs.schema_functions SET signature = replace(signature, 'app_jobs_internal.', 'app_jobs.');
        UPDATE app_jobs.schema_state SET digest = '', version = 1;
    END $$";

#[tokio::test]
async fn what_a_superuser_migrates_of_another_owners_schema_belongs_to_that_owner() {
    let place = Place::new().await;
    // As a superuser brings yesterday's schema up to date, in which no function was internal.
    place.admin.run(ONE_SCHEMA).await;
    let error = format!("{:?}", migrate_schema(place.db.url(), "app_jobs").await.unwrap_err());
    assert!(
        error.contains(&format!("PGOPTIONS=\"-c role={}\"", place.owner.name)),
        "the owner's code would run: {error}"
    );
    let as_owner = handle_with(place.db.url(), "app_jobs", &[("PGOPTIONS", &format!("-c role={}", place.owner.name))]);
    assert!(applied(&migrate(&as_owner).await.unwrap()) > 0);
    let others = "SELECT count(*) FROM pg_proc p \
                  WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) \
                  AND p.proowner <> (SELECT relowner FROM pg_class WHERE oid = 'app_jobs.jobs'::regclass)";
    assert_eq!(place.admin.number(others).await, 0);
    let producer = place.member("jobs_producer").await;
    assert!(producer.session().await.add_job("'x', '{}', 'k', 'q'").await > 0);
    // The owner can go on alone.
    place.admin.run("UPDATE app_jobs.schema_state SET digest = '', version = 1").await;
    assert!(applied(&migrate_schema(&place.owner.url, "app_jobs").await.unwrap()) > 0);
    place.end(vec![producer]).await;
}
