//! `job-service migrate` as a process.

use job_testkit::TestDb;
use job_testkit::process::Program;

use super::support::{LIMIT, program};

fn migrate(db: &TestDb) -> Program {
    program().arg("migrate").envs(db.direct_env())
}

#[tokio::test]
async fn migrating_twice_and_by_three_processes_at_once_is_safe() {
    let db = TestDb::empty().await;
    let mut processes = [migrate(&db).spawn(), migrate(&db).spawn(), migrate(&db).spawn()];
    for process in &mut processes {
        assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
    }
    let mut again = migrate(&db).spawn();
    assert_eq!(again.exit_code(LIMIT).await, 0, "{}", again.output());
    assert!(again.output().contains("up to date"), "{}", again.output());
    db.connect().await.batch_execute("SELECT app_jobs.add_job('x')").await.unwrap();
}

/// With a filter that lets everything of the level through, as an application's subscriber may.
#[tokio::test]
async fn a_migration_logs_what_it_has_applied_in_one_line_and_nothing_of_refinery() {
    let db = TestDb::empty().await;
    for applied in [1, 0] {
        let mut process = migrate(&db).env("RUST_LOG", "info").spawn();
        assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
        let output = process.output();
        assert_eq!(output.lines().filter(|line| line.contains("applied V1__tables, ")).count(), applied, "{output}");
        assert_eq!(output.lines().filter(|line| line.contains("is up to date")).count(), 1, "{output}");
        assert!(!output.contains("refinery"), "{output}");
    }
}

#[tokio::test]
async fn migrate_checks_only_the_variables_it_uses() {
    let db = TestDb::empty().await;
    let odd = [("JOBS_CONCURRENCY", "x"), ("INTERNAL_JOBS_CALLBACK_PORT", "x"), ("HOSTNAME", "x"), ("TZ", "x")];
    let mut process = migrate(&db).envs(odd).spawn();
    assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
    for (name, value) in [("JOBS_SCHEMA", "a b"), ("PGPORT", "x"), ("DATABASE_URL", "nonsense")] {
        let mut process = migrate(&db).env(name, value).spawn();
        assert_eq!(process.exit_code(LIMIT).await, 64, "{}", process.output());
        assert!(process.output().contains(name), "{}", process.output());
    }
}

#[tokio::test]
async fn migrating_a_database_that_does_not_exist_fails_with_70_and_names_it_but_not_before_it_had_time_to_come() {
    let db = TestDb::empty().await;
    let missing = format!("{}_missing", db.name());
    let at = |database: &str| migrate(&db).env("DATABASE_URL", "").env("PGDATABASE", database);
    let mut process = at(&missing).spawn();
    assert_eq!(process.exit_code(LIMIT).await, 70, "{}", process.output());
    let output = process.output();
    assert!(output.contains(&format!("the database {missing} does not exist")), "{output}");

    let mut process = at(&missing).spawn();
    process.wait_for_line("waiting for Postgres", LIMIT).await;
    let sql = db.connect().await;
    sql.batch_execute(&format!("CREATE DATABASE {missing}")).await.unwrap();
    assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
    sql.batch_execute(&format!("DROP DATABASE {missing} WITH (FORCE)")).await.unwrap();
}

#[tokio::test]
async fn a_migration_that_cannot_be_made_is_a_failure_with_70_and_says_why() {
    let db = TestDb::empty().await;
    let sql = db.connect().await;
    sql.batch_execute("CREATE SCHEMA app_jobs; CREATE TABLE app_jobs.jobs (id bigint)").await.unwrap();
    let mut process = migrate(&db).spawn();
    assert_eq!(process.exit_code(LIMIT).await, 70, "{}", process.output());
    assert!(process.output().contains("already"), "{}", process.output());
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'app_jobs'";
    assert_eq!(sql.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 1, "nothing was changed");
}

#[tokio::test]
async fn a_migration_without_rights_to_the_schema_or_with_options_that_are_refused_fails_at_once_with_70() {
    let db = TestDb::empty().await;
    let sql = db.connect().await;
    let role = format!("{}_guest", db.name());
    sql.batch_execute(&format!("CREATE SCHEMA app_jobs; CREATE ROLE {role} LOGIN PASSWORD 'secret'")).await.unwrap();
    let mut process = migrate(&db).env("DATABASE_URL", db.url_as(&role, "secret")).spawn();
    assert_eq!(process.exit_code(LIMIT).await, 70, "{}", process.output());
    let output = process.output();
    assert!(output.contains("permission denied for schema app_jobs") && output.contains("as the owner"), "{output}");
    sql.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();
    for (options, told) in [
        ("-c work_mem=much", "work_mem"),
        ("-c shared_buffers=1MB", "shared_buffers"),
        ("-c no_such_setting=1", "no_such_setting"),
    ] {
        let mut process = migrate(&db).env("PGOPTIONS", options).spawn();
        assert_eq!(process.exit_code(LIMIT).await, 70, "{options}: {}", process.output());
        assert!(process.output().contains(told), "{options}: {}", process.output());
    }
}

#[tokio::test]
async fn the_command_extension_writes_the_files_that_create_extension_needs() {
    let directory = std::env::temp_dir().join(format!("jobs-extension-{}", std::process::id()));
    let mut process = program().arg("extension").arg(&directory).spawn();
    assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
    let written = job_pg::extension::files();
    assert!(written.iter().any(|(name, _)| name == "pgpm-database-jobs.control"));
    for (name, content) in &written {
        assert_eq!(&std::fs::read_to_string(directory.join(name)).unwrap(), content, "{name}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
    let mut process = program().arg("extension").arg("/dev/null/there").spawn();
    assert_eq!(process.exit_code(LIMIT).await, 70, "{}", process.output());
}

#[tokio::test]
async fn told_to_migrate_creates_the_database_too_once_and_by_two_processes_at_once() {
    let db = TestDb::empty().await;
    let missing = format!("{}-made \"here\"", db.name());
    let create = || {
        migrate(&db)
            .arg("--create-database")
            .env("DATABASE_URL", "")
            .env("PGDATABASE", &missing)
            .env("RUST_LOG", "info")
    };
    let mut both = [create().spawn(), create().spawn()];
    for process in &mut both {
        assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
    }
    let made = both.iter().filter(|process| process.output().contains("the database has been created")).count();
    assert_eq!(made, 1);
    let mut again = create().spawn();
    assert_eq!(again.exit_code(LIMIT).await, 0, "{}", again.output());
    assert!(again.output().contains("up to date") && !again.output().contains("created"), "{}", again.output());
    let sql = db.connect().await;
    sql.batch_execute(&format!("DROP DATABASE \"{}\" WITH (FORCE)", missing.replace('"', "\"\""))).await.unwrap();
}
