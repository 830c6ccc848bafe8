//! pg_dump and pg_restore: waiting, running and scheduled jobs come back, and the schema works on.

use std::path::PathBuf;

use job_testkit::process::Program;
use job_testkit::{TestDb, cluster, env};

use crate::sql::catalog::{describe, differences};
use crate::sql::support::{LIMIT, Session, database, migrate_schema};

async fn program(name: &str, db: &TestDb, arguments: &[&str]) {
    let mut program = Program::at(cluster::locate::bin_dir().unwrap().join(name)).envs(db.env());
    for argument in arguments {
        program = program.arg(argument);
    }
    let mut process = program.spawn();
    assert_eq!(process.exit_code(LIMIT).await, 0, "{name}: {}", process.output());
    assert_eq!(process.output(), "", "{name} has nothing to complain about");
}

/// Dumps a database and restores it as another one.
async fn copy(db: &TestDb) -> TestDb {
    copy_with(db, &[]).await
}

/// [`copy`] with options of pg_restore.
async fn copy_with(db: &TestDb, options: &[&str]) -> TestDb {
    let file = PathBuf::from(concat!(env!("CARGO_TARGET_TMPDIR"), "/")).join(format!("{}.dump", db.name()));
    let file_name = file.to_str().unwrap();
    program("pg_dump", db, &["--format=custom", "--file", file_name]).await;
    let restored = TestDb::empty().await;
    let arguments = [options, &["--exit-on-error", "--dbname", restored.name(), file_name]].concat();
    program("pg_restore", &restored, &arguments).await;
    std::fs::remove_file(&file).unwrap();
    restored
}

/// A database with jobs in every state, in a copy of which everything is as it was and goes on.
async fn survives_dump_and_restore(db: &TestDb) {
    let s = Session::open(db).await;
    s.run(
        "SELECT app_jobs.add_job('first', '{\"big\": 9007199254740993}', 'k1', 'q1');
         SELECT app_jobs.add_job('second', '{}', NULL, 'q1');
         SELECT app_jobs.add_job('third', '{}', NULL, 'q2');
         SELECT app_jobs.add_job('gone'); DELETE FROM app_jobs.jobs WHERE task_identifier = 'gone';
         SELECT app_jobs.add_scheduled_job('tick', '{}', '{\"rule\": \"* * * * *\"}', 'tick');
         SELECT app_jobs.get_job('worker-1');
         SELECT app_jobs.set_notify('on_demand')",
    )
    .await;
    let everything = "SELECT * FROM app_jobs.jobs ORDER BY id; SELECT * FROM app_jobs.scheduled_jobs; \
                      SELECT * FROM app_jobs.job_queues ORDER BY 1; SELECT * FROM app_jobs.settings";
    let before = s.show(everything).await;
    let restored = copy(db).await;
    let r = Session::open(&restored).await;
    assert_eq!(r.show(everything).await, before);
    let queues = r.show("SELECT queue_name, job_count, locked_by FROM app_jobs.job_queues ORDER BY 1").await;
    assert_eq!(queues, "q1|2|worker-1\nq2|1|~");
    assert_eq!(r.add_job("'next'").await, 5, "ids go on, also after the last job is gone");
    assert_eq!(r.number("SELECT id FROM app_jobs.add_scheduled_job('next')").await, 2);
    assert_eq!(r.get_job("'worker-2'").await, Some(3), "q1 is busy in the copy, too");
    assert_eq!(r.number("SELECT id FROM app_jobs.complete_job('worker-1', 1)").await, 1);
    assert_eq!(r.get_job("'worker-2'").await, Some(2));
    assert!(r.is("SELECT has_schema_privilege('administrator', 'app_jobs', 'USAGE')").await);
    assert!(r.is("SELECT has_table_privilege('administrator', 'app_jobs.jobs', 'INSERT')").await);
    assert_eq!(
        r.show(
            "SELECT p.proname FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                        WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) AND a.grantee = 0"
        )
        .await,
        "",
        "PUBLIC got nothing"
    );
}

#[tokio::test]
async fn a_migrated_database_survives_dump_and_restore() {
    let db = database().await;
    survives_dump_and_restore(&db).await;
}

#[tokio::test]
async fn data_alone_restored_into_a_migrated_schema_counts_every_job_once() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SELECT app_jobs.add_job('first', '{}', 'k1', 'q1'); SELECT app_jobs.add_job('second', '{}', NULL, 'q1');
         SELECT app_jobs.add_job('third', '{}', NULL, 'q2'); SELECT app_jobs.get_job('worker-1')",
    )
    .await;
    let everything = "SELECT * FROM app_jobs.jobs ORDER BY id; SELECT * FROM app_jobs.job_queues ORDER BY 1";
    let before = s.show(everything).await;
    for options in [&["--data-only"][..], &["--data-only", "--disable-triggers"]] {
        let file = PathBuf::from(concat!(env!("CARGO_TARGET_TMPDIR"), "/")).join(format!("{}.data", db.name()));
        let file_name = file.to_str().unwrap();
        let dump = ["--format=custom", "--data-only", "--exclude-table=app_jobs.schema_*", "--file", file_name];
        program("pg_dump", &db, &dump).await;
        let restored = database().await;
        program(
            "pg_restore",
            &restored,
            &[options, &["--exit-on-error", "--dbname", restored.name(), file_name]].concat(),
        )
        .await;
        std::fs::remove_file(&file).unwrap();
        let r = Session::open(&restored).await;
        assert_eq!(r.show(everything).await, before, "{options:?}");
        // Nothing of the queues is left when their jobs are done, and they are served.
        assert_eq!(r.number("SELECT id FROM app_jobs.complete_job('worker-1', 1)").await, 1);
        for job in [2, 3] {
            assert_eq!(r.get_job("'worker-2'").await, Some(job), "{options:?}");
            assert_eq!(r.number(&format!("SELECT id FROM app_jobs.complete_job('worker-2', {job})")).await, job);
        }
        assert_eq!(r.show("SELECT * FROM app_jobs.job_queues").await, "", "{options:?}");
    }
}

#[tokio::test]
async fn a_restored_migrated_database_is_up_to_date_for_migrate() {
    let db = database().await;
    let restored = copy(&db).await;
    let again = migrate_schema(restored.url(), "app_jobs").await.unwrap();
    assert!(matches!(again, job_pg::migrate::Migrated::Applied { migrations, .. } if migrations.is_empty()));
}

/// Without the rights in it, a dump leaves every function to PUBLIC.
#[tokio::test]
async fn after_a_restore_without_rights_migrate_takes_the_functions_from_public() {
    let db = database().await;
    let before = describe(&Session::open(&db).await, "app_jobs").await;
    let restored = copy_with(&db, &["--no-acl"]).await;
    let r = Session::open(&restored).await;
    r.run("CREATE FUNCTION app_jobs.of_the_application() RETURNS int LANGUAGE sql AS 'SELECT 1'").await;
    let publics = "SELECT count(*) FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                    WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) AND a.grantee = 0";
    assert!(r.number(publics).await > 50);
    let again = migrate_schema(restored.url(), "app_jobs").await.unwrap();
    assert!(matches!(again, job_pg::migrate::Migrated::Applied { migrations, .. } if migrations.is_empty()));
    assert_eq!(r.number(publics).await, 1, "the application's own keeps its rights");
    r.run("DROP FUNCTION app_jobs.of_the_application()").await;
    assert_eq!(differences(&before, &describe(&r, "app_jobs").await), Vec::<String>::new());
}

#[tokio::test]
async fn an_extension_database_survives_dump_and_restore() {
    if !env::extension_installed("an_extension_database_survives_dump_and_restore") {
        return;
    }
    let db = TestDb::empty().await;
    Session::open(&db).await.run("CREATE EXTENSION \"pgpm-database-jobs\"").await;
    survives_dump_and_restore(&db).await;
}
