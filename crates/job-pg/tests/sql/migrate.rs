//! migrate: once, twice, at once, beside others, over what is not ours, and with few rights.

use job_pg::config::{PostgresConfig, SchemaName};
use job_pg::migrate::{MIGRATIONS, MigrateError, Migrated};
use job_testkit::{Cluster, TestDb, eventually};
use job_utils::config::Reader;

use crate::sql::catalog::{describe, differences, everything};
use crate::sql::support::{LIMIT, Role, Session, database, migrate_schema};

/// What there is to apply in a new schema: the migrations, the functions and the triggers.
pub(crate) const ALL: usize = MIGRATIONS.len() + 2;

/// How many migrations, functions and triggers among them, were applied.
pub(crate) fn applied(migrated: &Migrated) -> usize {
    match migrated {
        Migrated::Applied { migrations, .. } => migrations.len(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_second_run_changes_nothing_and_keeps_jobs() {
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), ALL);
    let id = s.add_job("'x', '{}', queue_name := 'q'").await;
    let before = describe(&s, "app_jobs").await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 0);
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
    assert_eq!(s.get_job("'worker'").await, Some(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_at_once_apply_each_migration_once_also_for_two_schemas() {
    let db = TestDb::empty().await;
    let runs = ["app_jobs", "app_jobs", "other_jobs", "app_jobs", "other_jobs"].map(|schema| {
        let url = db.url().to_owned();
        tokio::spawn(async move { applied(&migrate_schema(&url, schema).await.unwrap()) })
    });
    let mut total = 0;
    for run in runs {
        total += run.await.unwrap();
    }
    assert_eq!(total, 2 * ALL);
}

#[tokio::test]
async fn a_second_schema_in_one_database_is_a_system_of_its_own() {
    let db = database().await;
    let s = Session::open(&db).await;
    let _ = migrate_schema(db.url(), "Jobs2").await.unwrap();
    s.add_job("'x', '{}', 'k', 'q'").await;
    s.run(
        "SELECT \"Jobs2\".add_job('y', '{}', 'k', 'q'), \"Jobs2\".add_job('y', '{}'), \"Jobs2\".add_scheduled_job('y', '{}', '{}');
         SELECT \"Jobs2\".run_scheduled_job(1)",
    )
    .await;
    assert_eq!(s.show("SELECT task_identifier FROM \"Jobs2\".get_job('worker')").await, "y");
    assert_eq!(s.show("SELECT task_identifier FROM app_jobs.get_job('worker')").await, "x");
    assert_eq!(s.show("SELECT id FROM app_jobs.get_job('worker')").await, "~");
    s.run("SELECT \"Jobs2\".fail_job('worker', 1, 'no'), \"Jobs2\".release_jobs('worker'), \"Jobs2\".complete_jobs('{1,2,3}')").await;
    assert_eq!(s.show("SELECT count(*), min(locked_by) FROM app_jobs.jobs").await, "1|worker");
    // Both describe the same, each in its own name: nothing in one refers to the other.
    let (one, two) = (describe(&s, "app_jobs").await, describe(&s, "Jobs2").await);
    assert_eq!(differences(&one.replace("app_jobs", "Jobs2"), &two), Vec::<String>::new());
    let histories =
        "SELECT count(*) FROM pg_tables WHERE tablename = 'schema_history' AND schemaname IN ('app_jobs', 'Jobs2')";
    assert_eq!(s.number(histories).await, 2);
}

#[test]
fn a_hostile_schema_name_is_refused_before_anything_happens() {
    for name in [
        "x\"; drop schema public cascade; --",
        "x y",
        "x.y",
        "'x'",
        "1x",
        "pg_temp",
        "information_schema",
        "é",
        "@extschema@",
    ] {
        assert!(SchemaName::new(name).is_err(), "{name}");
        let env = [("JOBS_SCHEMA", name)].into_iter().collect::<std::collections::BTreeMap<_, _>>();
        let mut reader = Reader::new(&env);
        let config = PostgresConfig::read(&mut reader);
        let error = reader.finish(config).unwrap_err();
        assert!(error.to_string().contains("JOBS_SCHEMA"), "{name}: {error}");
    }
}

/// Something like the original's schema: tables, a function and a row.
const ORIGINAL: &str = "CREATE SCHEMA app_jobs;
    CREATE TABLE app_jobs.jobs (id bigserial PRIMARY KEY, queue_name text, task_identifier text NOT NULL, payload json);
    CREATE TABLE app_jobs.job_queues (queue_name text PRIMARY KEY, job_count int);
    CREATE TABLE app_jobs.scheduled_jobs (id bigserial PRIMARY KEY);
    CREATE FUNCTION app_jobs.get_job(text, text[]) RETURNS app_jobs.jobs LANGUAGE sql AS 'SELECT * FROM app_jobs.jobs';
    INSERT INTO app_jobs.jobs (task_identifier) VALUES ('theirs')";

#[tokio::test]
async fn over_the_originals_schema_it_is_a_clear_error_that_changes_nothing() {
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    s.run(ORIGINAL).await;
    let before = everything(&s).await;
    let error = migrate_schema(db.url(), "app_jobs").await.unwrap_err();
    assert!(matches!(error, MigrateError::Foreign(_)), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("app_jobs") && message.contains("nothing was changed") && message.contains("JOBS_SCHEMA"),
        "{message}"
    );
    assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new());
    assert_eq!(s.show("SELECT task_identifier FROM app_jobs.jobs").await, "theirs");
    // Beside it there is room.
    assert_eq!(applied(&migrate_schema(db.url(), "our_jobs").await.unwrap()), ALL);
}

#[tokio::test]
async fn something_else_in_the_way_is_an_error_that_changes_nothing() {
    for (in_the_way, schema) in [
        ("CREATE SCHEMA app_jobs; CREATE TABLE app_jobs.scheduled_jobs (id int)", "app_jobs"),
        (
            "CREATE SCHEMA app_jobs; CREATE FUNCTION app_jobs.complete_jobs(bigint[]) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "app_jobs",
        ),
        (
            "CREATE SCHEMA app_jobs_internal; CREATE FUNCTION app_jobs_internal.tg_jobs_touch() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "app_jobs",
        ),
        ("CREATE SCHEMA app_jobs; CREATE VIEW app_jobs.jobs AS SELECT 1 AS id", "app_jobs"),
    ] {
        let db = TestDb::empty().await;
        let s = Session::open(&db).await;
        s.run(in_the_way).await;
        let before = everything(&s).await;
        let error = migrate_schema(db.url(), schema).await.unwrap_err();
        assert!(error.to_string().contains("nothing was changed"), "{in_the_way}: {error}");
        assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new(), "{in_the_way}");
    }
}

#[tokio::test]
async fn a_role_that_may_only_create_in_the_database_migrates_and_works() {
    let db = TestDb::empty().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "migrator").await;
    admin.run(&format!("GRANT CREATE ON DATABASE {} TO {}", db.name(), role.name)).await;
    assert_eq!(applied(&migrate_schema(&role.url, "app_jobs").await.unwrap()), ALL);
    assert_eq!(applied(&migrate_schema(&role.url, "app_jobs").await.unwrap()), 0);
    let s = role.session().await;
    let id = s.add_job("'x', '{}', 'k', 'q'").await;
    assert_eq!(s.get_job("'worker'").await, Some(id));
    s.run(&format!("SELECT app_jobs.complete_job('worker', {id})")).await;
    s.run("SELECT app_jobs.add_scheduled_job('x'); SELECT app_jobs.run_scheduled_job(1)").await;
    drop(s);
    role.remove(&admin).await;
}

#[tokio::test]
async fn a_role_that_may_not_create_gets_an_error_that_changes_nothing() {
    let db = TestDb::empty().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "guest").await;
    let before = everything(&admin).await;
    let error = migrate_schema(&role.url, "app_jobs").await.unwrap_err();
    assert!(error.to_string().contains("CREATE on the database"), "{error}");
    assert_eq!(differences(&before, &everything(&admin).await), Vec::<String>::new());
    role.remove(&admin).await;
}

#[tokio::test]
async fn it_tells_which_other_roles_see_all_tenants() {
    let db = database().await;
    let s = Session::open(&db).await;
    let role = Role::create(&db, &s, "watcher").await;
    let told = async || match migrate_schema(db.url(), "app_jobs").await.unwrap() {
        Migrated::Applied { unrestricted_roles, .. } => unrestricted_roles,
        other => panic!("{other:?}"),
    };
    assert_eq!(told().await, Vec::<String>::new());
    s.run(&format!("SELECT app_jobs.show_all_tenants_to('{}')", role.name)).await;
    assert_eq!(told().await.join(" "), role.name);
    s.run("SELECT app_jobs.show_all_tenants_to('public')").await;
    assert_eq!(told().await, ["PUBLIC"], "a policy for everybody lists nobody else");
    role.remove(&s).await;
}

#[tokio::test]
async fn it_tells_who_else_may_create_functions_in_the_schema() {
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    let (owner, other) = (Role::create(&db, &s, "owner").await, Role::create(&db, &s, "other").await);
    let told = async || match migrate_schema(&owner.url, "app_jobs").await.unwrap() {
        Migrated::Applied { creating_roles, .. } => creating_roles,
        other => panic!("{other:?}"),
    };
    s.run(&format!(
        "CREATE SCHEMA app_jobs AUTHORIZATION {0}; GRANT ALL ON SCHEMA app_jobs TO {1} WITH GRANT OPTION;
         CREATE SCHEMA app_jobs_internal AUTHORIZATION {1}",
        other.name, owner.name
    ))
    .await;
    let error = format!("{:?}", migrate_schema(&owner.url, "app_jobs").await.unwrap_err());
    assert!(error.contains(&format!("belongs to {}", other.name)), "a schema of somebody else's: {error}");
    s.run(&format!("ALTER SCHEMA app_jobs OWNER TO {}", owner.name)).await;
    assert_eq!(told().await, Vec::<String>::new());
    s.run("GRANT CREATE ON SCHEMA app_jobs TO PUBLIC").await;
    assert_eq!(told().await, ["PUBLIC"]);
    s.run(&format!(
        "REVOKE CREATE ON SCHEMA app_jobs FROM PUBLIC; GRANT CREATE ON SCHEMA app_jobs_internal TO {}",
        other.name
    ))
    .await;
    assert_eq!(told().await.join(" "), other.name, "the schema of internal functions");
    s.run("ALTER SCHEMA app_jobs OWNER TO CURRENT_USER; REVOKE CREATE ON SCHEMA app_jobs FROM PUBLIC").await;
    other.remove(&s).await;
    owner.remove(&s).await;
}

#[tokio::test]
async fn grants_that_were_lost_are_made_again_by_every_run() {
    let db = database().await;
    let s = Session::open(&db).await;
    let before = describe(&s, "app_jobs").await;
    s.run(
        "REVOKE ALL ON SCHEMA app_jobs FROM administrator; REVOKE ALL ON app_jobs.jobs, app_jobs.job_queues, app_jobs.scheduled_jobs, app_jobs.settings, app_jobs.limits,
            app_jobs.workers, app_jobs.schedulers, app_jobs.schedule_fires FROM administrator;
         REVOKE ALL ON ALL SEQUENCES IN SCHEMA app_jobs FROM administrator;
         REVOKE ALL ON ALL FUNCTIONS IN SCHEMA app_jobs FROM administrator, jobs_producer;
         REVOKE ALL ON SCHEMA app_jobs FROM jobs_runtime; REVOKE ALL ON app_jobs.jobs, app_jobs.workers FROM jobs_runtime;
         ALTER POLICY all_tenants ON app_jobs.jobs TO administrator; DROP POLICY all_tenants ON app_jobs.scheduled_jobs",
    )
    .await;
    assert_ne!(describe(&s, "app_jobs").await, before);
    let _ = migrate_schema(db.url(), "app_jobs").await.unwrap();
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
}

/// On a server of its own, because roles belong to the whole server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_role_administrator_it_is_created_when_allowed_and_done_without_otherwise() {
    let cluster = Cluster::temporary().await.unwrap();
    let admin = Session::open_url(&cluster.url("postgres")).await;
    for statement in
        ["CREATE ROLE few_rights LOGIN", "CREATE DATABASE a OWNER few_rights", "CREATE DATABASE b", "CREATE DATABASE c"]
    {
        admin.run(statement).await;
    }
    let as_few_rights = cluster.url("a").replace("postgres@", "few_rights@");
    let exists = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'administrator' AND NOT rolcanlogin)";
    let missing = |migrated: Migrated| match migrated {
        Migrated::Applied { missing_roles, .. } => missing_roles.join(" "),
        other => panic!("{other:?}"),
    };

    let without = migrate_schema(&as_few_rights, "app_jobs").await.unwrap();
    assert_eq!(applied(&without), ALL, "it goes on");
    assert_eq!(missing(without), "administrator jobs_runtime jobs_producer", "and says so");
    assert!(!admin.is(exists).await);
    let few = Session::open_url(&as_few_rights).await;
    let id = few.add_job("'x', '{}', queue_name := 'q'").await;
    assert_eq!(few.get_job("'worker'").await, Some(id));

    // Two databases of one server at once: the role belongs to both.
    let (b, c) = (cluster.url("b"), cluster.url("c"));
    let (b, c) = tokio::join!(migrate_schema(&b, "app_jobs"), migrate_schema(&c, "app_jobs"));
    assert_eq!(missing(b.unwrap()) + &missing(c.unwrap()), "");
    assert!(admin.is(exists).await);

    assert_eq!(missing(migrate_schema(&as_few_rights, "app_jobs").await.unwrap()), "", "the next run makes the grants");
    assert!(few.is("SELECT has_table_privilege('administrator', 'app_jobs.jobs', 'UPDATE')").await);
    assert!(few.is("SELECT has_table_privilege('jobs_runtime', 'app_jobs.jobs', 'UPDATE')").await);
    let policy = "SELECT DISTINCT roles FROM pg_policies WHERE policyname = 'all_tenants'";
    assert_eq!(few.show(policy).await, "{administrator,jobs_runtime}");

    // Some of the roles are missing, and may not be made: the others get theirs all the same.
    for statement in ["DROP DATABASE b WITH (FORCE)", "DROP DATABASE c WITH (FORCE)"] {
        admin.run(statement).await;
    }
    let admin = Session::open_url(&cluster.url("a")).await;
    admin.run("DROP OWNED BY jobs_runtime, jobs_producer; DROP ROLE jobs_runtime, jobs_producer").await;
    let again = migrate_schema(&as_few_rights, "app_jobs").await.unwrap();
    assert_eq!(missing(again), "jobs_runtime jobs_producer");
    assert_eq!(few.show(policy).await, "{administrator}");
}

#[tokio::test]
async fn functions_of_another_version_are_replaced_and_rights_to_them_stay() {
    let db = database().await;
    let s = Session::open(&db).await;
    let role = Role::create(&db, &s, "shop").await;
    let before = describe(&s, "app_jobs").await;
    // As another version left it: a function with another text, and some that are no longer, of which one stands in the
    // default of another's argument.
    s.run(&format!(
        "CREATE FUNCTION app_jobs.gone(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION app_jobs.gone_2(int DEFAULT app_jobs.gone(1)) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION app_jobs.gone_3(int DEFAULT app_jobs.gone_2()) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION app_jobs.of_the_application(int) RETURNS int LANGUAGE sql AS 'SELECT 2';
         GRANT EXECUTE ON FUNCTION app_jobs.of_the_application(int) TO administrator, {role};
         GRANT EXECUTE ON FUNCTION app_jobs.get_job(text, text[], interval) TO {role};
         CREATE OR REPLACE FUNCTION app_jobs_internal.retry_at(run_at timestamptz, attempts int) RETURNS timestamptz LANGUAGE sql STABLE
            AS 'SELECT now()';
         INSERT INTO app_jobs.schema_functions VALUES ('app_jobs.gone(integer)'), ('app_jobs.gone_2(integer)'),
            ('app_jobs.gone_3(integer)'); UPDATE app_jobs.schema_state SET digest = '' WHERE part = 'functions'",
        role = role.name
    ))
    .await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 1, "the functions alone");
    assert_eq!(s.number("SELECT count(*) FROM pg_proc WHERE proname ~ '^gone'").await, 0);
    for call in ["get_job(text, text[], interval)", "of_the_application(int)"] {
        assert!(s.is(&format!("SELECT has_function_privilege('{}', 'app_jobs.{call}', 'EXECUTE')", role.name)).await);
    }
    assert!(
        s.is("SELECT has_function_privilege('administrator', 'app_jobs.of_the_application(int)', 'EXECUTE')").await
    );
    s.run(&format!("DROP FUNCTION app_jobs.of_the_application(int); DROP OWNED BY {}", role.name)).await;
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 0);
    role.remove(&s).await;
}

#[tokio::test]
async fn a_newer_schema_is_left_as_it_is() {
    let db = database().await;
    let s = Session::open(&db).await;
    // Functions of a newer version, one of them new and granted.
    s.run(
        "CREATE FUNCTION app_jobs.newer() RETURNS int LANGUAGE sql AS 'SELECT 1';
         GRANT EXECUTE ON FUNCTION app_jobs.newer() TO jobs_runtime; INSERT INTO app_jobs.schema_functions VALUES ('app_jobs.newer()');
         UPDATE app_jobs.schema_state SET version = version + 1, digest = 'newer'",
    )
    .await;
    let before = describe(&s, "app_jobs").await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 0);
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
    // A newer migration is refinery's to tell.
    s.run("INSERT INTO app_jobs.schema_history VALUES (4, 'newer', '2027-01-01T00:00:00Z', '1')").await;
    let error = migrate_schema(db.url(), "app_jobs").await.unwrap_err();
    assert!(matches!(error, MigrateError::Refinery(_)) && format!("{error:?}").contains("V4__newer"), "{error:?}");
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
}

#[tokio::test]
async fn a_function_that_is_missing_is_installed_again() {
    let db = database().await;
    let s = Session::open(&db).await;
    let before = describe(&s, "app_jobs").await;
    s.run("DROP FUNCTION app_jobs.remove_job(text)").await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 1);
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_are_installed_beside_open_writers_and_triggers_wait_for_them_without_holding_up_others() {
    let db = database().await;
    let (writer, s) = (Session::open(&db).await, Session::open(&db).await);
    let before = describe(&s, "app_jobs").await;
    writer.run("BEGIN; SELECT app_jobs.add_scheduled_job('x'); SELECT app_jobs.add_job('x')").await;
    s.run("UPDATE app_jobs.schema_state SET digest = '' WHERE part = 'functions'").await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 1, "nobody is waited for");
    s.run("UPDATE app_jobs.schema_state SET digest = ''").await;
    let url = db.url().to_owned();
    let migrating = tokio::spawn(async move { applied(&migrate_schema(&url, "app_jobs").await.unwrap()) });
    // It waits for the writer, and gives up for a while: who came meanwhile has been let by.
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%LOCK TABLE%' AND wait_event_type = 'Lock' AND datname = current_database())";
    eventually(LIMIT, async || s.is(waits).await).await;
    s.add_job("'beside'").await;
    assert!(!migrating.is_finished());
    // Who writes to both tables while it waits, in whatever order, is not in a deadlock with it.
    writer.run("SELECT app_jobs.add_scheduled_job('y'); SELECT app_jobs.add_job('y'); COMMIT").await;
    assert_eq!(migrating.await.unwrap(), 2);
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
}

#[tokio::test]
async fn a_function_that_somebody_has_a_view_of_stays_and_stops_no_migration() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "CREATE FUNCTION app_jobs.gone() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW public.of_it AS SELECT app_jobs.gone();
         INSERT INTO app_jobs.schema_functions VALUES ('app_jobs.gone()'); UPDATE app_jobs.schema_state SET digest = '' WHERE part = 'functions'",
    )
    .await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 1);
    assert!(s.is("SELECT to_regprocedure('app_jobs.gone()') IS NOT NULL").await);
    s.run("DROP VIEW public.of_it; UPDATE app_jobs.schema_state SET digest = '' WHERE part = 'functions'").await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 1);
    assert!(s.is("SELECT to_regprocedure('app_jobs.gone()') IS NULL").await);
}
