//! Forms that people write and that were refused once: jsonb, a bare rule as text, an empty queue name; and what is
//! told where a call is wrong.

use crate::sql::support::{Session, database};

const JSONB: &str = "jsonb_build_object('a', 12345678901234567890)";
const JSON: &str = "json_build_object('a', 1)";

/// The row that a call makes; the table is emptied.
async fn made(s: &Session, call: &str) -> String {
    let (table, more) =
        if call.starts_with("add_job") { ("jobs", "run_at > now()") } else { ("scheduled_jobs", "schedule_info") };
    let row = format!(
        "SELECT task_identifier, payload, key, queue_name, max_attempts, priority, {more} FROM app_jobs.{call}"
    );
    let row = s.show(&row).await;
    s.run(&format!("DELETE FROM app_jobs.{table}")).await;
    row
}

#[tokio::test]
async fn payloads_of_type_jsonb_are_taken() {
    let db = database().await;
    let s = Session::open(&db).await;
    let payload = "{\"a\": 12345678901234567890}";
    for (call, expected) in [
        (format!("add_job('x', {JSONB})"), format!("x|{payload}|~|~|25|0|f")),
        (format!("add_job('x'::text, {JSONB})"), format!("x|{payload}|~|~|25|0|f")),
        (format!("add_job('x'::varchar, {JSONB}, 'k'::varchar)"), format!("x|{payload}|k|~|25|0|f")),
        (format!("add_job('x', {JSONB}, 'k', 'q', '2930-01-01', 3, 1)"), format!("x|{payload}|k|q|3|1|t")),
        (format!("add_job('x', {JSONB}, 'k', 'q', now() + interval '1 h')"), format!("x|{payload}|k|q|25|0|t")),
        (format!("add_job('x', payload := {JSONB}, queue_name := 'q')"), format!("x|{payload}|~|q|25|0|f")),
        (
            format!("add_job(identifier := 'x', payload := {JSONB}, max_attempts := 3)"),
            format!("x|{payload}|~|~|3|0|f"),
        ),
        (format!("add_job('x', {JSONB}, NULL, NULL, NULL, NULL, NULL)"), format!("x|{payload}|~|~|25|0|f")),
        ("add_job('x', NULL::jsonb)".to_owned(), "x|{}|~|~|25|0|f".to_owned()),
        (format!("add_scheduled_job('x', {JSONB})"), format!("x|{payload}|~|~|25|0|{{}}")),
        (format!("add_scheduled_job('x', {JSONB}, {JSONB}, 'k')"), format!("x|{payload}|k|~|25|0|{payload}")),
        (format!("add_scheduled_job('x', '{{}}', {JSONB}, 'k')"), format!("x|{{}}|k|~|25|0|{payload}")),
        (format!("add_scheduled_job('x', schedule_info := {JSONB})"), format!("x|{{}}|~|~|25|0|{payload}")),
        (
            format!("add_scheduled_job(identifier := 'x', payload := {JSON}, schedule_info := {JSONB})"),
            format!("x|{{\"a\" : 1}}|~|~|25|0|{payload}"),
        ),
        (
            format!(
                "add_scheduled_job(identifier := 'x', payload := {JSONB}, schedule_info := {JSONB}, priority := 2)"
            ),
            format!("x|{payload}|~|~|25|2|{payload}"),
        ),
    ] {
        assert_eq!(made(&s, &call).await, expected, "{call}");
    }
}

#[tokio::test]
async fn a_bare_rule_is_taken_as_text_wherever_it_stands() {
    let db = database().await;
    let s = Session::open(&db).await;
    let rule = "*/5 * * * *";
    for (call, expected) in [
        (format!("'x', '{{}}', '{rule}'"), format!("x|{{}}|~|~|25|0|\"{rule}\"")),
        (format!("'x', '{{}}', '{rule}', 'k', 'q', 3, 1"), format!("x|{{}}|k|q|3|1|\"{rule}\"")),
        (format!("'x', '{{}}', '{rule}', 'k', 'q', '3', '1'"), format!("x|{{}}|k|q|3|1|\"{rule}\"")),
        (format!("'x', '{{}}', '{rule}', NULL, NULL, NULL, NULL"), format!("x|{{}}|~|~|25|0|\"{rule}\"")),
        (
            format!("'x'::varchar, '{{}}'::varchar, '{rule}'::varchar, 'k'::varchar"),
            format!("x|{{}}|k|~|25|0|\"{rule}\""),
        ),
        (format!("'x', {JSON}, '{rule}'"), format!("x|{{\"a\" : 1}}|~|~|25|0|\"{rule}\"")),
        (
            format!("'x', {JSONB}, '{rule}', max_attempts := 3"),
            format!("x|{{\"a\": 12345678901234567890}}|~|~|3|0|\"{rule}\""),
        ),
        (format!("identifier := 'x', schedule_info := '{rule}'"), format!("x|{{}}|~|~|25|0|\"{rule}\"")),
        (format!("'x', schedule_info := '{rule}'::text, job_key := 'k'"), format!("x|{{}}|k|~|25|0|\"{rule}\"")),
        (
            format!("identifier := 'x', payload := {JSON}, schedule_info := '{rule}', job_key := 'k'"),
            format!("x|{{\"a\" : 1}}|k|~|25|0|\"{rule}\""),
        ),
        (
            format!("identifier := 'x', payload := '{{}}', schedule_info := '{rule}'"),
            format!("x|{{}}|~|~|25|0|\"{rule}\""),
        ),
        // JSON stays JSON.
        (format!("'x', '{{}}', ' \"{rule}\"'"), format!("x|{{}}|~|~|25|0| \"{rule}\"")),
        ("'x', '{}', '{\"hour\": 5}'".to_owned(), "x|{}|~|~|25|0|{\"hour\": 5}".to_owned()),
        ("'x', '{}', '1900000000000'".to_owned(), "x|{}|~|~|25|0|1900000000000".to_owned()),
        ("'x', '{}', '2930-01-01T00:00:00Z'".to_owned(), "x|{}|~|~|25|0|\"2930-01-01T00:00:00Z\"".to_owned()),
        ("'x', '{}', NULL".to_owned(), "x|{}|~|~|25|0|{}".to_owned()),
    ] {
        assert_eq!(made(&s, &format!("add_scheduled_job({call})")).await, expected, "{call}");
    }
    assert_eq!(s.error("SELECT app_jobs.add_scheduled_job('x', '{}', '{broken')").await.code().code(), "22P02");
}

#[tokio::test]
async fn a_name_that_is_no_argument_gets_a_hint_that_has_the_right_one() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (call, hint) in [
        ("add_job('x', key := 'k')", "key is job_key"),
        ("add_job('x', '{}', key := 'k')", "key is job_key"),
        ("add_job('x', payload := '{}', key := 'k')", "key is job_key"),
        ("add_job('x', '{}'::json, key := 'k')", "key is job_key"),
        ("add_job('x'::text, '{}'::jsonb, key := 'k', run_at := now(), max_attempts := 3)", "key is job_key"),
        ("add_job('x', queue := 'q', job_key := 'k')", "queue is queue_name"),
        ("add_job(task := 'x')", "task, task_identifier and name are identifier"),
        ("add_job(task := 'x', payload := '{}')", "task, task_identifier and name are identifier"),
        ("add_job('x', '{}', delay := '10 minutes')", "now() + interval"),
        ("add_job('x', attempts := '3')", "max_attempts"),
        ("add_job()", "identifier"),
        ("add_scheduled_job('x', '{}', '* * * * *', key := 'k')", "key is job_key"),
        ("add_scheduled_job('x', '{}'::json, '* * * * *', key := 'k')", "key is job_key"),
        ("add_scheduled_job('x', '{}'::jsonb, '* * * * *', key := 'k')", "key is job_key"),
        ("add_scheduled_job('x', '{}'::jsonb, '{}'::jsonb, key := 'k')", "key is job_key"),
        ("add_scheduled_job('x', schedule_info := '* * * * *', key := 'k')", "key is job_key"),
        ("add_scheduled_job('x', '{}', cron := '* * * * *')", "rule, cron and schedule are schedule_info"),
        ("add_scheduled_job('x', rule := '* * * * *')", "rule, cron and schedule are schedule_info"),
        ("add_scheduled_job('x', '{}'::json, rule := '* * * * *')", "rule, cron and schedule are schedule_info"),
    ] {
        let error = s.error(&format!("SELECT app_jobs.{call}")).await;
        assert!(error.hint().unwrap_or_default().contains(hint), "{call}: {} {:?}", error.message(), error.hint());
    }
    for (call, hint) in [
        ("add_job('x', max_attempts := 0)", "Leave max_attempts out"),
        ("add_job('x', '{}', 'k', max_attempts := 0)", "Leave max_attempts out"),
        ("add_job('x', '{}'::jsonb, max_attempts := -1)", "Leave max_attempts out"),
        ("add_job('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, 'x', max_attempts := 0)", "Leave max_attempts out"),
        ("enqueue('x', '{}', 'k', 'ignore', max_attempts := 0)", "Leave max_attempts out"),
        ("add_scheduled_job('x', max_attempts := 0)", "Leave max_attempts out"),
        ("add_job('x', '{}', 'k', 'q', '10 minutes')", "now() + interval '10 minutes'"),
        ("add_job('x', '{}', 'k', 'q', 'PT10M', '3')", "now() + interval 'PT10M'"),
    ] {
        let error = s.error(&format!("SELECT app_jobs.{call}")).await;
        assert!(error.hint().unwrap_or_default().contains(hint), "{call}: {} {:?}", error.message(), error.hint());
    }
    for table in ["jobs", "scheduled_jobs"] {
        assert_eq!(s.number(&format!("SELECT count(*) FROM app_jobs.{table}")).await, 0);
    }
}

#[tokio::test]
async fn times_that_begin_with_a_number_are_times() {
    let db = database().await;
    let s = Session::open(&db).await;
    for time in ["2930-01-01", "10 may 2930", "1 January 2930 10:00", "20300101T000000Z", "tomorrow", "infinity"] {
        let later =
            s.show(&format!("SELECT run_at > now() FROM app_jobs.add_job('x', '{{}}', 'k', 'q', '{time}')")).await;
        assert_eq!(later, "t", "{time}");
    }
}

#[tokio::test]
async fn parameters_without_a_type_keep_the_types_that_they_had() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (call, types) in [
        ("add_job($1, $2, $3, $4)", "text, text, text, text"),
        ("add_job($1, $2, $3, $4, $5, $6, $7)", "text, text, text, text, text, text, text"),
        ("add_job($1, $2::jsonb)", "text, jsonb"),
        ("add_job($1, payload := $2, run_at := $3)", "text, text, timestamptz"),
        ("add_job(identifier := $1, run_at := $2, max_attempts := $3)", "text, timestamptz, int4"),
        ("add_job($1::uuid, $2, $3)", "uuid, text, json"),
        ("add_job(db_id := $1, identifier := $2, payload := $3)", "uuid, text, json"),
        ("add_scheduled_job($1, $2)", "text, text"),
        ("add_scheduled_job($1, $2, $3)", "text, text, text"),
        ("add_scheduled_job($1, $2::json, $3::json)", "text, json, json"),
        ("add_scheduled_job($1, $2::jsonb, $3::jsonb, $4)", "text, jsonb, jsonb, text"),
        ("add_scheduled_job($1::uuid, $2, $3, $4)", "uuid, text, json, json"),
        ("add_scheduled_job(db_id := $1, identifier := $2, schedule_info := $3)", "uuid, text, json"),
    ] {
        let statement = s.client.prepare(&format!("SELECT * FROM app_jobs.{call}")).await;
        let statement = statement.unwrap_or_else(|error| panic!("{call}: {error}: {:?}", error.as_db_error()));
        let inferred: Vec<&str> = statement.params().iter().map(tokio_postgres::types::Type::name).collect();
        assert_eq!(inferred.join(", "), types, "{call}");
    }
    // By name and without a payload, it is a type that node-postgres and psycopg, which send text, need not know.
    s.run("PREPARE by_name AS SELECT schedule_info FROM app_jobs.add_scheduled_job(identifier := $1, schedule_info := $2)").await;
    assert_eq!(s.show("EXECUTE by_name('x', '* * * * *')").await, "\"* * * * *\"");
}

#[tokio::test]
async fn an_empty_queue_name_is_none() {
    let db = database().await;
    let s = Session::open(&db).await;
    for call in [
        "add_job('x', '{}'::json, NULL, '')",
        "add_job('x', '{}', 'k', '')",
        "add_job('x', '{}'::jsonb, 'l', '')",
        "add_job('x', '{}', 'm', '', '2030-01-01')",
        "add_job('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, 'x', queue_name := '')",
        "enqueue('x', '{}', 'n', 'ignore', '')",
        "add_jobs('{x,y}', NULL, NULL, '{\"\",\"\"}')",
        "add_jobs('{x,y}', NULL, '{o,p}', '{\"\",\"\"}')",
    ] {
        s.run(&format!("SELECT app_jobs.{call}")).await;
    }
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE queue_name IS NULL").await, 10);
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.job_queues").await, 0);
    let schedule = s.number("SELECT id FROM app_jobs.add_scheduled_job('x', '{}', '{}', 'k', '')").await;
    assert_eq!(s.show("SELECT queue_name FROM app_jobs.scheduled_jobs").await, "~");
    s.run(&format!("SELECT app_jobs.run_scheduled_job({schedule})")).await;
}
