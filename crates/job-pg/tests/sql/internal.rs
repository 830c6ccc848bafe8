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

/// What is left in the internal schema when the jobs schema was dropped, with what somebody else has put there.
const LEFT_OVER: &str = "DROP SCHEMA app_jobs CASCADE;
    CREATE PROCEDURE app_jobs_internal.of_theirs(int) LANGUAGE sql AS 'SELECT 1';
    CREATE AGGREGATE app_jobs_internal.sum_of_theirs(int) (SFUNC = int4pl, STYPE = int);
    CREATE TYPE app_jobs_internal.kind AS ENUM ('a');
    CREATE FUNCTION app_jobs_internal.about(app_jobs_internal.kind) RETURNS int LANGUAGE sql AS 'SELECT 1'";

#[tokio::test]
async fn procedures_aggregates_and_types_in_the_internal_schema_stop_no_migration() {
    let db = database().await;
    let s = Session::open(&db).await;
    let before = describe(&s, "app_jobs").await;
    s.run(LEFT_OVER).await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), ALL);
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
    // In the place of functions of ours.
    s.run(
        "DROP FUNCTION app_jobs_internal.retry_at(timestamptz, int); DROP FUNCTION app_jobs.remove_job(text);
         CREATE PROCEDURE app_jobs_internal.retry_at(timestamptz, int) LANGUAGE sql AS 'SELECT 1';
         CREATE AGGREGATE app_jobs.remove_job(text) (SFUNC = textcat, STYPE = text)",
    )
    .await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 1);
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
}

#[tokio::test]
async fn what_holds_on_to_an_internal_routine_is_named_with_its_owner() {
    let place = Place::new().await;
    let other = Role::create(&place.db, &place.admin, "other").await;
    let owner = place.owner.session().await;
    owner.run(&format!("GRANT USAGE, CREATE ON SCHEMA app_jobs_internal TO {}", other.name)).await;
    let theirs = other.session().await;
    let refused = async || {
        owner.run("UPDATE app_jobs.schema_state SET digest = '' WHERE part = 'functions'").await;
        let before = everything(&place.admin).await;
        let error = format!("{:?}", migrate_schema(&place.owner.url, "app_jobs").await.unwrap_err());
        assert_eq!(differences(&before, &everything(&place.admin).await), Vec::<String>::new());
        error
    };
    owner.run("CREATE FUNCTION app_jobs_internal.old() RETURNS int LANGUAGE sql AS 'SELECT 1'").await;
    owner.run(&format!("GRANT EXECUTE ON FUNCTION app_jobs_internal.old() TO {}", other.name)).await;
    place.admin.run(&format!("CREATE SCHEMA other AUTHORIZATION {}", other.name)).await;
    theirs.run("CREATE VIEW other.of_it AS SELECT app_jobs_internal.old()").await;
    theirs.run("CREATE TABLE other.t (n int DEFAULT app_jobs_internal.old())").await;
    let error = refused().await;
    assert!(error.contains(&format!("view other.of_it, of {}", other.name)), "{error}");
    assert!(error.contains(&format!("table other.t, of {}", other.name)), "{error}");
    assert!(error.contains("In the way: ") && error.contains("nothing was changed"), "{error}");
    theirs.run("DROP VIEW other.of_it; DROP TABLE other.t").await;
    // What somebody else has made there goes as well: the schema is ours.
    theirs.run("CREATE PROCEDURE app_jobs_internal.of_theirs() LANGUAGE sql AS 'SELECT 1'").await;
    assert_eq!(applied(&migrate_schema(&place.owner.url, "app_jobs").await.unwrap()), 1);
    drop((theirs, owner));
    place.end(vec![other]).await;
}

#[tokio::test]
async fn an_applications_schema_of_types_is_not_taken_for_the_internal_one() {
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    for content in ["TYPE app_jobs_internal.kind AS ENUM ('a')", "DOMAIN app_jobs_internal.name AS text"] {
        s.run(&format!("CREATE SCHEMA app_jobs_internal; CREATE {content}")).await;
        let before = everything(&s).await;
        let error = format!("{:?}", migrate_schema(db.url(), "app_jobs").await.unwrap_err());
        assert!(error.contains("app_jobs_internal\" is in the way: it holds something"), "{error}");
        assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new());
        s.run("DROP SCHEMA app_jobs_internal CASCADE").await;
    }
}

#[tokio::test]
async fn a_type_or_table_that_somebody_has_dropped_is_named() {
    let db = database().await;
    let s = Session::open(&db).await;
    let before = describe(&s, "app_jobs").await;
    let refused = async || format!("{:?}", migrate_schema(db.url(), "app_jobs").await.unwrap_err());
    s.run("DROP DOMAIN app_jobs.rule_text CASCADE").await;
    let error = refused().await;
    assert!(error.contains("\"app_jobs\".rule_text is missing"), "{error}");
    assert!(error.contains("CREATE DOMAIN \"app_jobs\".rule_text AS text, as the owner of the tables"), "{error}");
    s.run("CREATE DOMAIN app_jobs.rule_text AS text").await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 1);
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
    s.run("DROP TABLE app_jobs.limits CASCADE; UPDATE app_jobs.schema_state SET digest = ''").await;
    let error = refused().await;
    assert!(error.contains("limits is missing") && error.contains("Restore it from a dump"), "{error}");
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
