//! The extension: the same schema as migrate's, and neither over the other.

use job_pg::migrate::Migrated;
use job_testkit::{TestDb, env};

use crate::sql::catalog::{describe, differences, everything};
use crate::sql::support::{Role, Session, database, migrate_schema};

const CREATE: &str = "CREATE EXTENSION \"pgpm-database-jobs\"";

#[tokio::test]
async fn the_extensions_catalog_is_the_migrated_one() {
    if !env::extension_installed("the_extensions_catalog_is_the_migrated_one") {
        return;
    }
    let (migrated, extended) = (database().await, TestDb::empty().await);
    let (m, e) = (Session::open(&migrated).await, Session::open(&extended).await);
    e.run(CREATE).await;
    assert_eq!(differences(&describe(&m, "app_jobs").await, &describe(&e, "app_jobs").await), Vec::<String>::new());
    let control =
        e.show("SELECT extrelocatable, extnamespace::regnamespace FROM pg_extension WHERE extname ~ 'pgpm'").await;
    assert_eq!(control, "f|app_jobs");
}

/// As psql (ON_ERROR_ROLLBACK) and tools of migrations do it.
#[tokio::test]
async fn within_a_savepoint_the_extension_is_the_same_and_nothing_is_publics() {
    if !env::extension_installed("within_a_savepoint_the_extension_is_the_same_and_nothing_is_publics") {
        return;
    }
    let (migrated, extended) = (database().await, TestDb::empty().await);
    let (m, e) = (Session::open(&migrated).await, Session::open(&extended).await);
    e.run(&format!("BEGIN; SAVEPOINT a; {CREATE}; RELEASE SAVEPOINT a; COMMIT")).await;
    assert_eq!(differences(&describe(&m, "app_jobs").await, &describe(&e, "app_jobs").await), Vec::<String>::new());
    let public = "SELECT count(*) FROM pg_proc p CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
                   WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) AND a.grantee = 0";
    assert_eq!(e.number(public).await, 0);
}

#[tokio::test]
async fn the_seeds_statement_works_twice() {
    if !env::extension_installed("the_seeds_statement_works_twice") {
        return;
    }
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    for _ in 0..2 {
        s.run("CREATE EXTENSION IF NOT EXISTS \"pgpm-database-jobs\"").await;
    }
    let id = s.add_job("'x', '{}', 'k', 'q'").await;
    assert_eq!(s.get_job("'worker'").await, Some(id));
}

#[tokio::test]
async fn migrate_over_the_extensions_schema_says_so_and_changes_nothing() {
    if !env::extension_installed("migrate_over_the_extensions_schema_says_so_and_changes_nothing") {
        return;
    }
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    s.run(CREATE).await;
    let before = everything(&s).await;
    assert_eq!(migrate_schema(db.url(), "app_jobs").await.unwrap(), Migrated::OwnedByExtension);
    assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new());
    // Another schema is not the extension's.
    assert!(matches!(migrate_schema(db.url(), "more_jobs").await.unwrap(), Migrated::Applied { .. }));
}

#[tokio::test]
async fn the_extension_over_a_migrated_schema_is_a_clear_error_that_changes_nothing() {
    if !env::extension_installed("the_extension_over_a_migrated_schema_is_a_clear_error_that_changes_nothing") {
        return;
    }
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x'").await;
    let before = everything(&s).await;
    let error = s.error(CREATE).await;
    assert!(error.message().contains("app_jobs already has a table"), "{}", error.message());
    assert!(error.detail().unwrap_or_default().contains("Nothing was changed"));
    assert!(error.hint().is_some());
    assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new());
    assert_eq!(s.get_job("'worker'").await, Some(id));
}

#[tokio::test]
async fn the_extension_over_the_originals_schema_is_a_clear_error_that_changes_nothing() {
    if !env::extension_installed("the_extension_over_the_originals_schema_is_a_clear_error_that_changes_nothing") {
        return;
    }
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    s.run("CREATE SCHEMA app_jobs; CREATE TABLE app_jobs.jobs (id bigserial PRIMARY KEY, task_identifier text)").await;
    let before = everything(&s).await;
    let error = s.error(CREATE).await;
    assert!(error.message().contains("app_jobs already has a table"), "{}", error.message());
    assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new());
}

#[tokio::test]
async fn a_role_that_may_only_create_in_the_database_creates_the_extension() {
    if !env::extension_installed("a_role_that_may_only_create_in_the_database_creates_the_extension") {
        return;
    }
    // So that the role administrator is there: this role may not make it.
    let _migrated = database().await;
    let db = TestDb::empty().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "extender").await;
    admin.run(&format!("GRANT CREATE ON DATABASE {} TO {}", db.name(), role.name)).await;
    let s = role.session().await;
    s.run(CREATE).await;
    let id = s.add_job("'x', '{}', 'k', 'q'").await;
    assert_eq!(s.get_job("'worker'").await, Some(id));
    drop(s);
    role.remove(&admin).await;
}

/// What another version left of the functions, by a role that owns them: one has another text, one is missing, and one
/// is no longer. `version` is the extension's then.
fn as_of(version: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION app_jobs_internal.retry_at(run_at timestamptz, attempts int) RETURNS timestamptz
             LANGUAGE sql STABLE AS 'SELECT now()';
         ALTER EXTENSION \"pgpm-database-jobs\" DROP FUNCTION app_jobs.remove_job(text); DROP FUNCTION app_jobs.remove_job(text);
         CREATE FUNCTION app_jobs.gone(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
         ALTER EXTENSION \"pgpm-database-jobs\" ADD FUNCTION app_jobs.gone(int);
         INSERT INTO app_jobs.schema_functions VALUES ('app_jobs.gone(integer)');
         DROP TRIGGER jobs_inserted ON app_jobs.jobs;
         UPDATE app_jobs.schema_state SET version = version - 1, digest = '';
         UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'pgpm-database-jobs'"
    )
}

const UPDATE: &str = "ALTER EXTENSION \"pgpm-database-jobs\" UPDATE";

#[tokio::test]
async fn an_update_of_the_extension_brings_its_functions_and_triggers_up_to_date_and_keeps_jobs() {
    if !env::extension_installed(
        "an_update_of_the_extension_brings_its_functions_and_triggers_up_to_date_and_keeps_jobs",
    ) {
        return;
    }
    let _migrated = database().await;
    let db = TestDb::empty().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "extender").await;
    admin.run(&format!("GRANT CREATE ON DATABASE {} TO {}", db.name(), role.name)).await;
    let s = role.session().await;
    s.run(CREATE).await;
    let members = "SELECT string_agg(pg_describe_object(classid, objid, objsubid), ' '
                    ORDER BY pg_describe_object(classid, objid, objsubid)) FROM pg_depend
                    WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'";
    let (before, members_before) = (describe(&admin, "app_jobs").await, admin.show(members).await);
    let id = s.add_job("'x', '{}', 'k', 'q'").await;
    let number = format!("1.{}", job_pg::migrate::VERSION.split_whitespace().next().unwrap());
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'pgpm-database-jobs'";
    assert_eq!(s.show(version).await, number, "the version follows from the SQL");
    // The version of all before they were numbers.
    admin.run(&as_of("0.1.0")).await;
    s.run(UPDATE).await;
    assert_eq!(s.show(version).await, number);
    assert_eq!(differences(&before, &describe(&admin, "app_jobs").await), Vec::<String>::new());
    assert_eq!(admin.show(members).await, members_before);
    assert_eq!(s.get_job("'worker'").await, Some(id));
    s.run(UPDATE).await;
    assert_eq!(s.get_job("'worker'").await, None);
    drop(s);
    role.remove(&admin).await;
}

#[tokio::test]
async fn an_update_of_an_extension_with_other_tables_or_old_workers_is_refused_and_says_what_to_do() {
    if !env::extension_installed(
        "an_update_of_an_extension_with_other_tables_or_old_workers_is_refused_and_says_what_to_do",
    ) {
        return;
    }
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    s.run(CREATE).await;
    s.run(
        "UPDATE pg_extension SET extversion = '0.1.0' WHERE extname = 'pgpm-database-jobs';
         UPDATE app_jobs.schema_state SET version = 7;
         INSERT INTO app_jobs.workers (instance, worker_id, lease, listens, heartbeat_at, steady_since)
         VALUES (gen_random_uuid(), 'alive-worker', '1 h', true, now(), now())",
    )
    .await;
    let before = everything(&s).await;
    let error = s.error(UPDATE).await;
    assert!(error.message().contains("alive-worker"), "{}", error.message());
    assert!(error.hint().unwrap_or_default().contains("Stop them"), "{error:?}");
    assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new());
    s.run("DELETE FROM app_jobs.workers; ALTER TABLE app_jobs.jobs RENAME gate_key TO not_yet").await;
    let before = everything(&s).await;
    let error = s.error(UPDATE).await;
    assert!(error.message().contains("the tables of this extension"), "{}", error.message());
    assert!(error.hint().unwrap_or_default().contains("pg_dump"), "{error:?}");
    assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new());
}
