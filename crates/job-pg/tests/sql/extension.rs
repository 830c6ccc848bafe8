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
