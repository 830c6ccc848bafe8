//! What others have put where a migration writes and calls: none of it runs with the rights of whoever migrates. And
//! settings of the role that migrates, which change nothing.

use job_testkit::{TestDb, env};

use crate::sql::catalog::{describe, differences, everything};
use crate::sql::migrate::{ALL, applied};
use crate::sql::support::{Place, Role, Session, database, migrate_schema};

/// What anybody with CREATE on the database can make: a jobs schema in which code of his waits for whoever migrates.
fn trap(role: &str) -> String {
    format!(
        "CREATE SCHEMA app_jobs; GRANT ALL ON SCHEMA app_jobs TO PUBLIC;
         CREATE TABLE app_jobs.schema_history (version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255),
            checksum varchar(255));
         GRANT ALL ON app_jobs.schema_history TO PUBLIC;
         CREATE FUNCTION app_jobs.become_it() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN EXECUTE format('GRANT %I TO {role}', current_user); RETURN NEW; END $$;
         CREATE TRIGGER t BEFORE INSERT ON app_jobs.schema_history FOR EACH ROW EXECUTE FUNCTION app_jobs.become_it()"
    )
}

/// What migrate says that does not happen.
async fn refusal(url: &str) -> String {
    let error = format!("{:?}", migrate_schema(url, "app_jobs").await.unwrap_err());
    assert!(error.contains("nothing was changed"), "{error}");
    error
}

#[tokio::test]
async fn a_jobs_schema_that_somebody_else_has_made_is_refused_and_none_of_his_code_runs() {
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    let (evil, owner) = (Role::create(&db, &s, "evil").await, Role::create(&db, &s, "owner").await);
    s.run(&format!("GRANT CREATE ON DATABASE {} TO {}, {}", db.name(), evil.name, owner.name)).await;
    evil.session().await.run(&trap(&evil.name)).await;
    let before = everything(&s).await;
    for url in [db.url(), &owner.url] {
        let error = refusal(url).await;
        assert!(error.contains(&format!("app_jobs\" belongs to {}", evil.name)), "{error}");
        assert!(error.contains("ALTER SCHEMA \"app_jobs\" OWNER TO"), "{error}");
    }
    if env::extension_installed("a_jobs_schema_that_somebody_else_has_made_is_refused_and_none_of_his_code_runs") {
        let error = s.error("CREATE EXTENSION \"pgpm-database-jobs\"").await;
        assert!(error.message().contains(&format!("app_jobs belongs to {}", evil.name)), "{error}");
        assert!(error.hint().unwrap_or_default().contains("ALTER SCHEMA"), "{error}");
    }
    // The schema alone is not all: what is in it is still his.
    s.run("ALTER SCHEMA app_jobs OWNER TO CURRENT_USER").await;
    let error = refusal(db.url()).await;
    assert!(error.contains(&format!("app_jobs.schema_history belongs to {}", evil.name)), "{error}");
    s.run("ALTER TABLE app_jobs.schema_history OWNER TO CURRENT_USER").await;
    assert!(refusal(db.url()).await.contains("app_jobs.schema_history has a trigger"));
    s.run("DROP TRIGGER t ON app_jobs.schema_history; CREATE RULE r AS ON INSERT TO app_jobs.schema_history DO ALSO NOTHING")
        .await;
    assert!(refusal(db.url()).await.contains("app_jobs.schema_history has a rule"));
    s.run("ALTER TABLE app_jobs.schema_history RENAME TO t; CREATE VIEW app_jobs.schema_history AS SELECT * FROM app_jobs.t")
        .await;
    assert!(refusal(db.url()).await.contains("app_jobs.schema_history is no plain table"));
    s.run("DROP TABLE app_jobs.t CASCADE").await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), ALL);
    let members = format!("SELECT count(*) FROM pg_auth_members WHERE member = '{}'::regrole", evil.name);
    assert_eq!(s.number(&members).await, 0);
    assert!(before.contains("become_it"), "the trap was there");
    evil.remove(&s).await;
    owner.remove(&s).await;
}

#[tokio::test]
async fn a_function_of_somebody_elses_in_place_of_one_of_ours_is_no_schema_up_to_date() {
    let db = database().await;
    let s = Session::open(&db).await;
    let before = describe(&s, "app_jobs").await;
    let evil = Role::create(&db, &s, "evil").await;
    s.run(&format!("ALTER SCHEMA app_jobs OWNER TO {}", evil.name)).await;
    let e = evil.session().await;
    e.run("DROP FUNCTION app_jobs.remove_job(text)").await;
    e.run("CREATE FUNCTION app_jobs.remove_job(text) RETURNS int LANGUAGE sql AS 'SELECT 1'").await;
    let error = refusal(db.url()).await;
    assert!(error.contains(&format!("belongs to {}", evil.name)) && error.contains("JOBS_SCHEMA"), "{error}");
    // The schema is ours again, and his function still there.
    s.run("ALTER SCHEMA app_jobs OWNER TO CURRENT_USER").await;
    let error = refusal(db.url()).await;
    assert!(error.contains(&format!("app_jobs.remove_job(text) belongs to {}", evil.name)), "{error}");
    assert!(error.contains("DROP ROUTINE app_jobs.remove_job(text), and migrate installs it again"), "{error}");
    s.run("DROP ROUTINE app_jobs.remove_job(text)").await;
    assert_eq!(applied(&migrate_schema(db.url(), "app_jobs").await.unwrap()), 1);
    assert_eq!(differences(&before, &describe(&s, "app_jobs").await), Vec::<String>::new());
    drop(e);
    evil.remove(&s).await;
}

#[tokio::test]
async fn whoever_migrates_runs_no_code_of_a_plain_owners() {
    let place = Place::new().await;
    let other = Role::create(&place.db, &place.admin, "other").await;
    place.admin.run(&format!("GRANT {} TO {}", place.owner.name, other.name)).await;
    // What runs is his choice, and a role that SET ROLE has taken on can be RESET.
    place
        .owner
        .session()
        .await
        .run(&format!(
            "CREATE OR REPLACE FUNCTION app_jobs.show_all_tenants_to(role_name text) RETURNS void LANGUAGE plpgsql AS $$
                 BEGIN RESET ROLE; EXECUTE format('GRANT %I TO {}', current_user); END $$",
            place.owner.name
        ))
        .await;
    for url in [place.db.url(), &other.url] {
        let error = refusal(url).await;
        assert!(error.contains(&format!("belong to {}, whose code would run", place.owner.name)), "{error}");
    }
    let members = format!("SELECT count(*) FROM pg_auth_members WHERE member = '{}'::regrole", place.owner.name);
    assert_eq!(place.admin.number(&members).await, 0);
    place.end(vec![other]).await;
}

#[tokio::test]
async fn settings_of_the_role_that_migrates_change_nothing() {
    let db = TestDb::empty().await;
    let s = Session::open(&db).await;
    let reference = database().await;
    let expected = describe(&Session::open(&reference).await, "app_jobs").await;
    // Of a role of its own, whose settings do not reach other tests.
    let role = Role::create(&db, &s, "owner").await;
    s.run(&format!("ALTER ROLE {} SUPERUSER", role.name)).await;
    for setting in [
        "quote_all_identifiers = on",
        "standard_conforming_strings = off",
        "statement_timeout = '400ms'",
        "lock_timeout = '300ms'",
        "default_transaction_isolation = 'serializable'",
        "row_security = off",
        "session_replication_role = replica",
        "search_path = public",
        "\"plpgsql.extra_errors\" = 'all'",
        "\"IntervalStyle\" = 'sql_standard'",
        "\"DateStyle\" = 'SQL, DMY'",
        "transform_null_equals = on",
    ] {
        s.run(&format!("ALTER ROLE {} SET {setting}", role.name)).await;
    }
    assert_eq!(applied(&migrate_schema(&role.url, "app_jobs").await.unwrap()), ALL);
    let made = describe(&s, "app_jobs").await.replace(&role.name, &s.show("SELECT current_user").await);
    assert_eq!(differences(&expected, &made), Vec::<String>::new());
    assert_eq!(applied(&migrate_schema(&role.url, "app_jobs").await.unwrap()), 0);
    s.run("UPDATE app_jobs.schema_state SET digest = ''").await;
    assert_eq!(applied(&migrate_schema(&role.url, "app_jobs").await.unwrap()), 2);
    // Migrations take turns, for longer than the role's statements may take.
    let holder = Session::open(&db).await;
    holder.run("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('pgpm-database-jobs.migrate', 0))").await;
    let (_, waited) = tokio::join!(holder.run("SELECT pg_sleep(1.5); COMMIT"), migrate_schema(&role.url, "app_jobs"));
    assert_eq!(applied(&waited.unwrap()), 0);
    s.run(&format!("REASSIGN OWNED BY {} TO CURRENT_USER", role.name)).await;
    role.remove(&s).await;
}
