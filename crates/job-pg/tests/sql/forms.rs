//! The ways to write a call: untyped literals, named arguments, the older form with a db_id, and prepared statements
//! whose parameters have no type, as node-postgres sends them.

use crate::sql::support::{Session, database};

const TENANT: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

/// Task, payload, key, queue, database_id of the last row, then the table is emptied.
async fn made(s: &Session, table: &str) -> String {
    let shown = s
        .show(&format!(
            "SELECT task_identifier, payload, key, queue_name, database_id FROM app_jobs.{table} ORDER BY id"
        ))
        .await;
    s.run(&format!("DELETE FROM app_jobs.{table}")).await;
    shown
}

#[tokio::test]
async fn add_job_takes_untyped_literals_named_arguments_and_typed_payloads() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (call, expected) in [
        ("'x'", "x|{}|~|~|~"),
        ("'x', '{\"a\":1}'", "x|{\"a\":1}|~|~|~"),
        ("'x', '{\"a\":1}', 'k'", "x|{\"a\":1}|k|~|~"),
        ("'x', '{\"a\":1}', 'k', 'q'", "x|{\"a\":1}|k|q|~"),
        ("'x', '{}', 'k', 'q', now()", "x|{}|k|q|~"),
        ("'x', '{}', 'k', 'q', now(), 3, 1", "x|{}|k|q|~"),
        ("'x', '{}', 'k', 'q', '2030-01-01', 3", "x|{}|k|q|~"),
        ("'x', '{}', 'k', 'q', '2030-01-01', 3, 1", "x|{}|k|q|~"),
        ("'x', '{}', 'k', 'q', '2030-01-01'", "x|{}|k|q|~"),
        ("'x', '{}', 'k', 'q', '2030-01-01', '3', '1'", "x|{}|k|q|~"),
        ("'x', NULL, NULL, NULL, NULL, NULL, NULL", "x|{}|~|~|~"),
        ("'x', '{}', 'k', 'q', now(), NULL, NULL", "x|{}|k|q|~"),
        ("'x', NULL", "x|{}|~|~|~"),
        ("'x'::text", "x|{}|~|~|~"),
        ("'x'::varchar, '{}'::varchar", "x|{}|~|~|~"),
        ("'x', '{\"a\":1}'::json", "x|{\"a\":1}|~|~|~"),
        ("'x', json_build_object('a', 1)::json", "x|{\"a\" : 1}|~|~|~"),
        ("identifier := 'x'", "x|{}|~|~|~"),
        ("identifier := 'x', payload := '{}'", "x|{}|~|~|~"),
        ("payload := '{\"a\":1}', identifier := 'x', queue_name := 'q'", "x|{\"a\":1}|~|q|~"),
        ("identifier => 'x', job_key => 'k', run_at => now(), max_attempts => 2, priority => 1", "x|{}|k|~|~"),
        ("'x', queue_name := 'q'", "x|{}|~|q|~"),
        ("'x', '{}', max_attempts := 2", "x|{}|~|~|~"),
    ] {
        s.run(&format!("SELECT app_jobs.add_job({call})")).await;
        assert_eq!(made(&s, "jobs").await, expected, "add_job({call})");
    }
}

#[tokio::test]
async fn add_scheduled_job_takes_the_same_forms() {
    let db = database().await;
    let s = Session::open(&db).await;
    let rule = "'{\"rule\":\"* * * * *\"}'";
    for (call, expected) in [
        ("'x'".to_owned(), "x|{}|~|~|~"),
        ("'x', '{\"a\":1}'".to_owned(), "x|{\"a\":1}|~|~|~"),
        (format!("'x', '{{\"a\":1}}', {rule}"), "x|{\"a\":1}|~|~|~"),
        (format!("'x', '{{}}', {rule}, 'k'"), "x|{}|k|~|~"),
        (format!("'x', '{{}}', {rule}, 'k', 'q'"), "x|{}|k|q|~"),
        (format!("'x', '{{}}', {rule}, 'k', 'q', 3, 1"), "x|{}|k|q|~"),
        (format!("'x', '{{}}'::json, {rule}::json"), "x|{}|~|~|~"),
        (
            format!("identifier := 'x', payload := json_build_object('foo', 'bar'), schedule_info := {rule}"),
            "x|{\"foo\" : \"bar\"}|~|~|~",
        ),
        (format!("identifier := 'x', schedule_info := {rule}, job_key := 'k'"), "x|{}|k|~|~"),
        (format!("identifier := 'x', payload := '{{}}', schedule_info := {rule}, priority := 3"), "x|{}|~|~|~"),
    ] {
        s.run(&format!("SELECT app_jobs.add_scheduled_job({call})")).await;
        assert_eq!(made(&s, "scheduled_jobs").await, expected, "add_scheduled_job({call})");
    }
}

#[tokio::test]
async fn the_older_forms_take_a_db_id_in_first_place_or_by_name() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (function, table, extra) in [("add_job", "jobs", ""), ("add_scheduled_job", "scheduled_jobs", ", '{}'")] {
        for (call, expected) in [
            (format!("'{TENANT}'::uuid, 'x'"), format!("x|{{}}|~|~|{TENANT}")),
            (format!("'{TENANT}'::uuid, 'x', '{{\"a\":1}}'"), format!("x|{{\"a\":1}}|~|~|{TENANT}")),
            (format!("'{TENANT}'::uuid, 'x', '{{}}'::json{extra}, 'k', 'q'"), format!("x|{{}}|k|q|{TENANT}")),
            (format!("db_id := '{TENANT}', identifier := 'x'"), format!("x|{{}}|~|~|{TENANT}")),
            (
                format!("db_id := '{TENANT}', identifier := 'x', payload := '{{}}', job_key := 'k'"),
                format!("x|{{}}|k|~|{TENANT}"),
            ),
            (format!("identifier := 'x', db_id := '{TENANT}'"), format!("x|{{}}|~|~|{TENANT}")),
        ] {
            s.run(&format!("SELECT app_jobs.{function}({call})")).await;
            assert_eq!(made(&s, table).await, expected, "{function}({call})");
        }
    }
}

#[tokio::test]
async fn an_untyped_uuid_in_first_place_gets_a_hint_to_cast_it() {
    let db = database().await;
    let s = Session::open(&db).await;
    for function in ["add_job", "add_scheduled_job"] {
        for call in [
            format!("'{TENANT}', 'x'"),
            format!("'{}', 'x'", TENANT.to_uppercase()),
            format!("'{{{TENANT}}}', 'x'"),
            format!("'{TENANT}', 'x', '{{}}'"),
            format!("'{TENANT}', '{{}}'"),
        ] {
            let error = s.error(&format!("SELECT app_jobs.{function}({call})")).await;
            let hint = error.hint().unwrap_or_default();
            assert!(hint.contains("::uuid") && hint.contains("Cast"), "{function}({call}): {} {hint}", error.message());
        }
    }
    assert_eq!(made(&s, "jobs").await, "");
}

#[tokio::test]
async fn parameters_without_a_type_are_understood_as_node_postgres_sends_them() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (call, types) in [
        ("get_job($1)", "text"),
        ("get_job($1, $2)", "text, _text"),
        ("get_job($1, $2, $3)", "text, _text, interval"),
        ("complete_job($1, $2)", "text, int8"),
        ("fail_job($1, $2, $3)", "text, int8, text"),
        ("release_jobs($1)", "text"),
        ("get_scheduled_job($1)", "text"),
        ("get_scheduled_job($1, $2)", "text, _text"),
        ("release_scheduled_jobs($1)", "text"),
        ("release_scheduled_jobs($1, $2)", "text, _int8"),
        ("run_scheduled_job($1)", "int8"),
        ("run_scheduled_job($1, $2)", "int8, interval"),
        ("add_job($1)", "text"),
        ("add_job($1, $2)", "text, text"),
        ("add_job($1, $2, $3)", "text, text, text"),
        ("add_job($1, $2::json)", "text, json"),
        ("add_job($1::uuid, $2, $3)", "uuid, text, json"),
        ("add_job(db_id := $1, identifier := $2, payload := $3)", "uuid, text, json"),
        ("add_job(identifier := $1, payload := $2, queue_name := $3)", "text, text, text"),
        ("add_scheduled_job($1, $2, $3)", "text, text, text"),
        ("add_scheduled_job(identifier := $1, payload := $2, schedule_info := $3)", "text, text, text"),
        ("reschedule_jobs($1, $2, $3, $4, $5)", "_int8, timestamptz, int4, int4, int4"),
        ("permanently_fail_jobs($1, $2)", "_int8, text"),
        ("complete_jobs($1)", "_int8"),
    ] {
        let statement = s.client.prepare(&format!("SELECT * FROM app_jobs.{call}")).await;
        let statement = statement.unwrap_or_else(|error| panic!("{call}: {error}: {:?}", error.as_db_error()));
        let inferred: Vec<&str> = statement.params().iter().map(tokio_postgres::types::Type::name).collect();
        assert_eq!(inferred.join(", "), types, "{call}");
    }
}

#[tokio::test]
async fn a_prepared_statement_without_types_claims_fails_completes_and_releases() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x'").await;
    s.run(
        "PREPARE claim AS SELECT id, attempts FROM app_jobs.get_job($1, $2);
         PREPARE fail AS SELECT id, last_error FROM app_jobs.fail_job($1, $2, $3);
         PREPARE complete AS SELECT id FROM app_jobs.complete_job($1, $2);
         PREPARE release AS SELECT app_jobs.release_jobs($1)",
    )
    .await;
    assert_eq!(s.show("EXECUTE claim('worker-1', '{x,y}')").await, format!("{id}|1"));
    assert_eq!(s.show(&format!("EXECUTE fail('worker-1', '{id}', 'no')")).await, format!("{id}|no"));
    s.run("UPDATE app_jobs.jobs SET run_at = now()").await;
    assert_eq!(s.show("EXECUTE claim('worker-1', NULL)").await, format!("{id}|2"));
    s.run("EXECUTE release('worker-1')").await;
    assert_eq!(s.show("EXECUTE claim('worker-1', '{x}')").await, format!("{id}|2"));
    assert_eq!(s.show(&format!("EXECUTE complete('worker-1', '{id}')")).await, id.to_string());
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
}
