//! add_job: what becomes of its arguments, and what it refuses.

use crate::sql::support::{Session, database};

const TENANT: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const OTHER: &str = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

#[tokio::test]
async fn a_job_of_a_task_alone_has_the_defaults() {
    let db = database().await;
    let s = Session::open(&db).await;
    let job = s
        .show(
            "BEGIN; SELECT database_id, actor_id, queue_name, task_identifier, payload, priority, run_at = now(), attempts,
                    max_attempts, key, last_error, locked_at, locked_by, created_at = now(), updated_at = now()
               FROM app_jobs.add_job('email'); COMMIT",
        )
        .await;
    assert_eq!(job, "~|~|~|email|{}|0|t|0|25|~|~|~|~|t|t");
    assert_eq!(s.show("SELECT count(*), min(task_identifier) FROM app_jobs.jobs").await, "1|email");
}

#[tokio::test]
async fn every_argument_is_stored_and_the_row_returned_is_the_row_stored() {
    let db = database().await;
    let s = Session::open(&db).await;
    let returned = s
        .show("SELECT * FROM app_jobs.add_job('email', '{\"a\": 1}'::json, 'k', 'q', '2030-01-02 03:04:05+00', 3, -7)")
        .await;
    assert_eq!(returned, s.show("SELECT * FROM app_jobs.jobs").await);
    let job = s
        .show("SELECT id, task_identifier, payload, key, queue_name, run_at, max_attempts, priority FROM app_jobs.jobs")
        .await;
    assert_eq!(job, "1|email|{\"a\": 1}|k|q|2030-01-02 03:04:05+00|3|-7");
}

#[tokio::test]
async fn an_explicit_null_means_the_default() {
    let db = database().await;
    let s = Session::open(&db).await;
    let shape = "SELECT payload, key, queue_name, run_at = now(), max_attempts, priority FROM app_jobs";
    let expected = "{}|~|~|t|25|0";
    for arguments in [
        "'x', NULL::json, NULL, NULL, NULL, NULL, NULL",
        "'x', NULL::text, NULL, NULL, NULL::timestamptz, NULL::int, NULL::int",
        "NULL::uuid, 'x', NULL, NULL, NULL, NULL, NULL, NULL",
    ] {
        assert_eq!(s.show(&format!("{shape}.add_job({arguments})")).await, expected, "{arguments}");
    }
    assert!(s.is("SELECT bool_and(database_id IS NULL) FROM app_jobs.jobs").await);
}

#[tokio::test]
async fn tenant_and_actor_come_from_the_transactions_settings() {
    let db = database().await;
    let s = Session::open(&db).await;
    let ids = "SELECT database_id, actor_id FROM app_jobs.add_job";
    s.run(&format!(
        "BEGIN; SELECT set_config('jwt.claims.database_id', '{TENANT}', true), set_config('jwt.claims.user_id', '{OTHER}', true)"
    ))
    .await;
    assert_eq!(s.show(&format!("{ids}('x')")).await, format!("{TENANT}|{OTHER}"));
    assert_eq!(s.show(&format!("{ids}('x', '{{}}')")).await, format!("{TENANT}|{OTHER}"));
    // The argument wins; a NULL one leaves the claim.
    assert_eq!(s.show(&format!("{ids}('{OTHER}'::uuid, 'x')")).await, format!("{OTHER}|{OTHER}"));
    assert_eq!(s.show(&format!("{ids}(NULL::uuid, 'x')")).await, format!("{TENANT}|{OTHER}"));
    let schedule = "SELECT database_id, actor_id FROM app_jobs.add_scheduled_job";
    assert_eq!(s.show(&format!("{schedule}('x')")).await, format!("{TENANT}|{OTHER}"));
    assert_eq!(s.show(&format!("{schedule}('{OTHER}'::uuid, 'x')")).await, format!("{OTHER}|{OTHER}"));
    s.run("COMMIT").await;
    // After a local setting ends, Postgres leaves '' behind: that is no tenant, not an error.
    assert_eq!(s.show("SELECT current_setting('jwt.claims.database_id', true)").await, "");
    assert_eq!(s.show(&format!("{ids}('x')")).await, "~|~");
}

#[tokio::test]
async fn a_claim_that_is_not_a_uuid_is_an_error_that_names_it_and_makes_no_job() {
    let db = database().await;
    let s = Session::open(&db).await;
    for setting in ["jwt.claims.database_id", "jwt.claims.user_id"] {
        for value in ["not-a-uuid", " ", "null", "0", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", "{}"] {
            s.run(&format!("SELECT set_config('{setting}', '{value}', false)")).await;
            for call in ["add_job('x')", "add_job('x', '{}')", "add_scheduled_job('x')", "add_scheduled_job('x', '{}')"]
            {
                let error = s.error(&format!("SELECT app_jobs.{call}")).await;
                assert!(error.message().contains(setting), "{call}: {}", error.message());
                assert!(error.message().contains(&format!("'{value}'")), "{call}: {}", error.message());
            }
        }
        s.run(&format!("SELECT set_config('{setting}', '', false)")).await;
    }
    assert_eq!(
        s.show("SELECT (SELECT count(*) FROM app_jobs.jobs), (SELECT count(*) FROM app_jobs.scheduled_jobs)").await,
        "0|0"
    );
}

#[tokio::test]
async fn a_db_id_beats_even_a_broken_tenant_claim() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT set_config('jwt.claims.database_id', 'broken', false)").await;
    assert_eq!(s.show(&format!("SELECT database_id FROM app_jobs.add_job('{TENANT}'::uuid, 'x')")).await, TENANT);
}

#[tokio::test]
async fn lengths_are_limited_in_characters_on_jobs_and_on_schedules() {
    let db = database().await;
    let s = Session::open(&db).await;
    for function in ["add_job", "add_scheduled_job"] {
        for (argument, longest) in [("identifier", 126), ("queue_name", 126), ("job_key", 512)] {
            let call = |length: usize| {
                let value = format!("{argument} := repeat('ß', {length})");
                let rest = if argument == "identifier" { String::new() } else { ", identifier := 'x'".to_owned() };
                format!("SELECT app_jobs.{function}({value}{rest})")
            };
            s.run(&call(longest)).await;
            let error = s.error(&call(longest + 1)).await;
            assert_eq!(error.code().code(), "23514", "{function}, {argument}: {}", error.message());
        }
        for attempts in [0, -1] {
            let error = s.error(&format!("SELECT app_jobs.{function}('x', max_attempts := {attempts})")).await;
            assert_eq!(error.code().code(), "23514", "{function}");
        }
        for nameless in ["NULL", "''"] {
            let error = s.error(&format!("SELECT app_jobs.{function}(identifier := {nameless})")).await;
            assert!(error.message().contains("task identifier is empty"), "{function}: {}", error.message());
        }
    }
    // Rows that are written directly have the same limits.
    for table in ["jobs (", "scheduled_jobs (schedule_info, "] {
        let info = if table.starts_with('s') { "'{}', " } else { "" };
        for (columns, values) in [
            ("task_identifier", "repeat('x', 127)"),
            ("task_identifier, queue_name", "'x', repeat('x', 127)"),
            ("task_identifier, key", "'x', repeat('x', 513)"),
            ("task_identifier, max_attempts", "'x', 0"),
            ("task_identifier, locked_by, locked_at", "'x', 'abc', now()"),
        ] {
            let error = s.error(&format!("INSERT INTO app_jobs.{table}{columns}) VALUES ({info}{values})")).await;
            assert_eq!(error.code().code(), "23514", "{table}{columns}");
        }
    }
}

#[tokio::test]
async fn integers_beyond_2_53_in_a_payload_arrive_unchanged() {
    let db = database().await;
    let s = Session::open(&db).await;
    let payload = r#"{"id":9007199254740993,"big":123456789012345678901234567890,"f":1.10,"dup":1,"dup":2}"#;
    for cast in ["", "::json", "::text"] {
        let id = s.add_job(&format!("'x', '{payload}'{cast}")).await;
        assert_eq!(s.show(&format!("SELECT payload FROM app_jobs.get_job('worker') WHERE id = {id}")).await, payload);
    }
    let schedule = s.number(&format!("SELECT id FROM app_jobs.add_scheduled_job('x', '{payload}')")).await;
    assert_eq!(s.show(&format!("SELECT payload FROM app_jobs.run_scheduled_job({schedule})")).await, payload);
}

#[tokio::test]
async fn a_payload_that_is_not_json_is_an_error_and_any_json_value_is_a_payload() {
    let db = database().await;
    let s = Session::open(&db).await;
    assert_eq!(s.error("SELECT app_jobs.add_job('x', 'no json')").await.code().code(), "22P02");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
    for payload in ["[1, 2]", "\"text\"", "null", "7", "{\"quote\": \"it''s\", \"back\": \"\\\\\", \"é\": \"日本\"}"]
    {
        let shown = s.show(&format!("SELECT payload FROM app_jobs.add_job('x', '{payload}')")).await;
        assert_eq!(shown, payload.replace("''", "'"));
    }
}

#[tokio::test]
async fn a_job_enqueued_in_a_transaction_that_rolls_back_never_was() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("BEGIN; SELECT app_jobs.add_job('x', '{}', queue_name := 'q'); ROLLBACK").await;
    assert_eq!(s.get_job("'worker'").await, None);
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.job_queues").await, 0);
}
