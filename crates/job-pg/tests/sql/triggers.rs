//! The trigger functions for an application's tables, fed with the values that break naive ones.

use serde_json::{Value, json};

use crate::sql::support::{Session, database};

/// Values that end up in a payload exactly as they are.
const HOSTILE: &[&str] = &[
    "it's",
    "''; drop table app_jobs.jobs; --",
    "'; drop schema app_jobs cascade; --",
    "back\\slash \\' \\\\ \\u0041",
    "\"double\" $$dollar$$ $1 %s %I",
    "日本語 ✓ 😀 e\u{301}",
    "line\nbreak\ttab\r\u{1}",
    "{\"json\": [1, null]}",
    "",
    "null",
];

async fn payload(s: &Session) -> Value {
    let shown = s.show("SELECT task_identifier || ' ' || payload FROM app_jobs.jobs ORDER BY id DESC LIMIT 1").await;
    let (task, payload) = shown.split_once(' ').unwrap();
    assert_eq!(task, "task");
    serde_json::from_str(payload).unwrap()
}

/// A table with a trigger on every kind of row event.
async fn table(s: &Session, trigger: &str) {
    s.run(&format!(
        "CREATE TABLE public.t (id bigint PRIMARY KEY, name text, flag boolean, at timestamptz, data jsonb, \"odd \"\"name'\" text);
         CREATE TRIGGER enqueue AFTER INSERT OR UPDATE OR DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION app_jobs.{trigger}"
    ))
    .await;
}

#[tokio::test]
async fn with_row_id_the_payload_is_the_id_from_new_or_old() {
    let db = database().await;
    let s = Session::open(&db).await;
    table(&s, "tg_add_job_with_row_id('task')").await;
    s.run("INSERT INTO public.t (id, name) VALUES (9007199254740993, 'x')").await;
    assert_eq!(s.show("SELECT payload::jsonb FROM app_jobs.jobs").await, "{\"id\": 9007199254740993}");
    s.run("UPDATE public.t SET id = 8").await;
    assert_eq!(payload(&s).await, json!({"id": 8}));
    s.run("DELETE FROM public.t").await;
    assert_eq!(payload(&s).await, json!({"id": 8}));
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 3);
}

#[tokio::test]
async fn with_row_id_a_uuid_or_text_id_is_a_string_and_a_table_without_id_is_an_error() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "CREATE TABLE public.u (id text); CREATE TABLE public.n (x int);
         CREATE TRIGGER enqueue AFTER INSERT ON public.u FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row_id('task');
         CREATE TRIGGER enqueue AFTER INSERT ON public.n FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row_id('task')",
    )
    .await;
    for value in HOSTILE {
        s.client.execute("INSERT INTO public.u VALUES ($1)", &[value]).await.unwrap();
        assert_eq!(payload(&s).await, json!({"id": value}));
    }
    s.run("INSERT INTO public.u VALUES (NULL)").await;
    assert_eq!(payload(&s).await, json!({"id": null}));
    s.error("INSERT INTO public.n VALUES (1)").await;
}

#[tokio::test]
async fn with_row_the_payload_is_the_whole_row() {
    let db = database().await;
    let s = Session::open(&db).await;
    table(&s, "tg_add_job_with_row('task')").await;
    for (id, value) in (0_i64..).zip(HOSTILE) {
        s.client
            .execute("INSERT INTO public.t VALUES ($1, $2, true, NULL, '{\"a\": [1]}', $2)", &[&id, value])
            .await
            .unwrap();
        assert_eq!(
            payload(&s).await,
            json!({"id": id, "name": value, "flag": true, "at": null, "data": {"a": [1]}, "odd \"name'": value})
        );
    }
    s.run("UPDATE public.t SET name = 'new' WHERE id = 0").await;
    assert_eq!(payload(&s).await["name"], "new");
    s.run("DELETE FROM public.t WHERE id = 0").await;
    assert_eq!(payload(&s).await["name"], "new");
}

#[tokio::test]
async fn with_fields_the_payload_is_those_columns_as_text_and_null_as_null() {
    let db = database().await;
    let s = Session::open(&db).await;
    table(&s, "trigger_job_with_fields('task', 'id', 'name', 'flag', 'data', 'odd \"name''')").await;
    for (id, value) in (0_i64..).zip(HOSTILE) {
        s.client
            .execute("INSERT INTO public.t VALUES ($1, $2, true, now(), '{\"a\": [1]}', $2)", &[&id, value])
            .await
            .unwrap();
        let expected =
            json!({"id": id.to_string(), "name": value, "flag": "true", "data": "{\"a\": [1]}", "odd \"name'": value});
        assert_eq!(payload(&s).await, expected);
    }
    s.run("UPDATE public.t SET name = NULL, flag = NULL, data = NULL, id = 9007199254740993 WHERE id = 0").await;
    let row = payload(&s).await;
    assert_eq!(
        row,
        json!({"id": "9007199254740993", "name": null, "flag": null, "data": null, "odd \"name'": HOSTILE[0]})
    );
    s.run("DELETE FROM public.t WHERE id = 9007199254740993").await;
    assert_eq!(payload(&s).await, row, "on DELETE from the old row");
    assert_eq!(
        s.number("SELECT count(*) FROM pg_tables WHERE schemaname = 'app_jobs' AND tablename = 'jobs'").await,
        1
    );
}

#[tokio::test]
async fn with_fields_a_hostile_column_name_is_only_ever_a_column_name() {
    let db = database().await;
    let s = Session::open(&db).await;
    let names = [
        "x\"; drop table app_jobs.jobs; --",
        "x'; drop table app_jobs.jobs; --",
        "a).b::text, ($1",
        "select",
        "ö",
        "a.b",
        "%s",
    ];
    for name in names {
        let identifier = name.replace('"', "\"\"");
        let literal = name.replace('\'', "''");
        s.run(&format!(
            "DROP TABLE IF EXISTS public.t; CREATE TABLE public.t (\"{identifier}\" text);
             CREATE TRIGGER enqueue AFTER INSERT ON public.t FOR EACH ROW
             EXECUTE FUNCTION app_jobs.trigger_job_with_fields('task', '{literal}');
             INSERT INTO public.t VALUES ('value')"
        ))
        .await;
        assert_eq!(payload(&s).await, json!({name: "value"}));
    }
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, i64::try_from(names.len()).unwrap());
}

#[tokio::test]
async fn with_fields_a_column_that_does_not_exist_is_an_error_and_none_named_is_an_empty_payload() {
    let db = database().await;
    let s = Session::open(&db).await;
    // The last three are functions that a row could be given to, and a type that it could be cast to.
    for name in ["missing", "Name", "to_json", "row_to_json", "text"] {
        s.run(&format!(
            "DROP TABLE IF EXISTS public.t; CREATE TABLE public.t (name text);
             CREATE TRIGGER enqueue AFTER INSERT ON public.t FOR EACH ROW
             EXECUTE FUNCTION app_jobs.trigger_job_with_fields('task', 'name', '{name}')"
        ))
        .await;
        let error = s.error("INSERT INTO public.t VALUES ('x')").await;
        assert!(error.message().contains(name), "{name}: {}", error.message());
    }
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
    s.run(
        "DROP TABLE public.t; CREATE TABLE public.t (name text);
         CREATE TRIGGER enqueue AFTER INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION app_jobs.trigger_job_with_fields('task');
         INSERT INTO public.t VALUES ('x')",
    )
    .await;
    assert_eq!(payload(&s).await, json!({}));
}

#[tokio::test]
async fn a_trigger_without_a_task_is_an_error() {
    let db = database().await;
    let s = Session::open(&db).await;
    for function in ["tg_add_job_with_row_id", "tg_add_job_with_row", "trigger_job_with_fields"] {
        for arguments in ["", "''"] {
            s.run(&format!(
                "DROP TABLE IF EXISTS public.t; CREATE TABLE public.t (id int);
                 CREATE TRIGGER enqueue AFTER INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION app_jobs.{function}({arguments})"
            ))
            .await;
            let error = s.error("INSERT INTO public.t VALUES (1)").await;
            assert!(error.message().contains("task"), "{function}({arguments}): {}", error.message());
        }
    }
}

#[tokio::test]
async fn a_before_trigger_lets_the_row_through_and_the_claims_reach_the_job() {
    let db = database().await;
    let s = Session::open(&db).await;
    let tenant = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    for function in ["tg_add_job_with_row_id", "tg_add_job_with_row", "trigger_job_with_fields"] {
        s.run(&format!(
            "DROP TABLE IF EXISTS public.t; CREATE TABLE public.t (id int); DELETE FROM app_jobs.jobs;
             CREATE TRIGGER enqueue BEFORE INSERT OR UPDATE OR DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION app_jobs.{function}('task');
             SELECT set_config('jwt.claims.database_id', '{tenant}', false);
             INSERT INTO public.t VALUES (1); UPDATE public.t SET id = 2"
        ))
        .await;
        assert_eq!(s.show("SELECT id FROM public.t").await, "2", "{function}");
        s.run("DELETE FROM public.t").await;
        assert_eq!(s.number("SELECT count(*) FROM public.t").await, 0, "{function}");
        assert_eq!(s.show("SELECT count(*), min(database_id::text) FROM app_jobs.jobs").await, format!("3|{tenant}"));
    }
}
