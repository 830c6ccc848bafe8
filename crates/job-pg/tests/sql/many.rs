//! add_jobs: many jobs in one call, each as a call of add_job of its own would leave it.

use job_pg::{Field, NewJob, enqueue, enqueue_many};

use crate::sql::support::{Ear, Role, Session, database};

const TENANT: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const OTHER: &str = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const ROWS: &str = "SELECT id, task_identifier, payload, key, queue_name, run_at, max_attempts, priority, database_id \
                    FROM app_jobs.jobs ORDER BY id";

#[tokio::test]
async fn both_forms_write_what_they_are_given_and_return_ids_in_order() {
    let db = database().await;
    let s = Session::open(&db).await;
    let expected = format!(
        "1|a|{{\"n\": 123456789012345678901, \"f\":1.10}}|~|q|2030-01-01 00:00:00+00|3|-1|{TENANT}\n\
         2|b|{{}}|k|~|2031-01-01 00:00:00+00|25|0|~\n3|c|null|~|~|2032-01-01 00:00:00+00|25|0|~"
    );
    let json = format!(
        r#"SELECT app_jobs.add_jobs('[
            {{"identifier": "a", "payload": {{"n": 123456789012345678901, "f":1.10}}, "queue_name": "q",
              "run_at": "2030-01-01T00:00:00Z", "max_attempts": 3, "priority": -1, "db_id": "{TENANT}"}},
            {{"identifier": "b", "job_key": "k", "run_at": "2031-01-01T00:00:00Z", "max_attempts": null}},
            {{"identifier": "c", "payload": null, "run_at": "2032-01-01T00:00:00Z"}}]')"#
    );
    let arrays = format!(
        r#"SELECT app_jobs.add_jobs('{{a,b,c}}',
            ARRAY['{{"n": 123456789012345678901, "f":1.10}}', NULL, 'null']::json[], '{{NULL,k,NULL}}', '{{q,NULL,NULL}}',
            '{{2030-01-01T00:00:00Z,2031-01-01T00:00:00Z,2032-01-01T00:00:00Z}}', '{{3,NULL,NULL}}',
            priorities := '{{-1,NULL,NULL}}', db_ids := '{{{TENANT},NULL,NULL}}')"#
    );
    for call in [json, arrays] {
        assert_eq!(s.show(&call).await, "1\n2\n3", "{call}");
        assert_eq!(s.show(ROWS).await, expected, "{call}");
        s.run("TRUNCATE app_jobs.jobs RESTART IDENTITY").await;
    }
    for nothing in ["'[]'", "NULL::json", "'{}'::text[], NULL", "NULL::text[], NULL"] {
        assert_eq!(s.show(&format!("SELECT app_jobs.add_jobs({nothing})")).await, "", "{nothing}");
    }
}

#[tokio::test]
async fn keys_follow_the_rule_of_single_calls() {
    let db = database().await;
    let s = Session::open(&db).await;
    let running = s.add_job("'old', '{}', 'running'").await;
    assert_eq!(s.get_job("'worker'").await, Some(running));
    let waiting = s.add_job("'old', '{}', 'waiting'").await;
    let ids = s
        .show(
            "SELECT app_jobs.add_jobs('{plain,first,w,r,last,plain}', NULL,
                                      '{NULL,twice,waiting,running,twice,NULL}', '{q,q,q,q,q,q}')",
        )
        .await;
    let ids: Vec<i64> = ids.lines().map(|id| id.parse().unwrap()).collect();
    assert_eq!(ids[1], ids[4], "one key is one job");
    assert_eq!(ids[2], waiting, "replaced in place");
    assert!(ids[0] < ids[1] && ids[1] < ids[3] && ids[3] < ids[5], "a queue's order is the batch's: {ids:?}");
    assert_eq!(
        s.show("SELECT task_identifier, key, queue_name FROM app_jobs.jobs WHERE locked_at IS NULL ORDER BY key, id")
            .await,
        "r|running|q\nlast|twice|q\nw|waiting|q\nplain|~|q\nplain|~|q"
    );
    let old = format!("SELECT key, attempts >= max_attempts, superseded FROM app_jobs.jobs WHERE id = {running}");
    assert_eq!(s.show(&old).await, "~|t|t", "the running job goes on without its key");
    assert_eq!(s.show("SELECT queue_name, job_count FROM app_jobs.job_queues").await, "q|5");
}

#[tokio::test]
async fn a_key_of_another_tenant_is_an_error_that_names_the_job_and_enqueues_nothing() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job(&format!("'{TENANT}'::uuid, 'x', '{{}}', 'theirs'")).await;
    for keys in ["{NULL,mine,theirs}", "{NULL,same,same}"] {
        let error = s
            .error(&format!("SELECT app_jobs.add_jobs('{{a,b,c}}', NULL, '{keys}', db_ids := '{{NULL,NULL,{OTHER}}}')"))
            .await;
        assert_eq!(error.code().code(), "23505");
        assert!(error.message().starts_with("job 3: the job key"), "{}", error.message());
    }
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 1);
}

#[tokio::test]
async fn an_error_names_the_job_at_fault_and_nothing_is_enqueued() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (arguments, code, message) in [
        ("'{a,,c}'::text[], NULL", "22P02", "malformed array"),
        ("ARRAY['a', '', 'c'], NULL", "22023", "job 2: the task identifier is empty"),
        ("ARRAY['a', 'b', NULL], NULL", "22023", "job 3: the task identifier is empty"),
        ("ARRAY['a', 'b'], NULL, max_attempts := '{1,0}'", "23514", "job 2: max_attempts is 0"),
        (
            "ARRAY['a', 'b'], NULL, max_attempts := '{1,0}', first_position := 2001",
            "23514",
            "job 2002: max_attempts is 0",
        ),
        ("ARRAY['a', repeat('x', 127)], NULL", "23514", "job 2: new row"),
        ("ARRAY['a', 'b'], NULL, job_keys := ARRAY['k', repeat('x', 513)]", "23514", "job 2: new row"),
        ("ARRAY['a', 'b'], ARRAY['{}']::json[]", "2202E", "payloads has 1 elements for 2 identifiers"),
        ("'{}'::json", "22023", "jobs is no JSON array but of type object"),
        ("'[{\"identifier\": \"a\"}, 7]'", "22023", "job 2: not an object but of type number"),
        ("'[{\"identifier\": \"a\"}, {\"identifer\": \"b\"}]'", "22023", "job 2: unknown key \"identifer\""),
        ("'[{\"identifier\": \"a\"}, {\"payload\": {}}]'", "22023", "job 2: the task identifier is empty"),
        (
            "'[{\"identifier\": \"a\"}, {\"identifier\": \"b\", \"max_attempts\": \"x\"}]'",
            "22P02",
            "job 2: invalid input",
        ),
        ("'[{\"identifier\": \"a\"}, {\"identifier\": \"b\", \"run_at\": \"soon\"}]'", "22007", "job 2: invalid input"),
        ("'[{\"identifier\": \"a\"}, {\"identifier\": \"b\", \"priority\": 3000000000}]'", "22003", "job 2: value"),
        ("'[{]'", "22P02", "invalid input syntax for type json"),
    ] {
        let error = s.error(&format!("SELECT app_jobs.add_jobs({arguments})")).await;
        assert!(error.message().starts_with(message), "{arguments}: {}", error.message());
        assert_eq!(error.code().code(), code, "{arguments}");
    }
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
}

#[tokio::test]
async fn claims_count_and_a_batch_wakes_once() {
    let db = database().await;
    let (s, mut ear) = (Session::open(&db).await, Ear::on(&db, "jobs:insert").await);
    s.run(&format!(
        "SELECT set_config('jwt.claims.database_id', '{TENANT}', false), set_config('jwt.claims.user_id', '{OTHER}', false)"
    ))
    .await;
    s.run(&format!("SELECT app_jobs.add_jobs('{{a,b}}', NULL, db_ids := '{{NULL,{OTHER}}}')")).await;
    assert_eq!(ear.count().await, 1);
    s.run("SELECT app_jobs.add_jobs('[]')").await;
    assert_eq!(ear.count().await, 0);
    let ids = "SELECT database_id, actor_id FROM app_jobs.jobs ORDER BY id";
    assert_eq!(s.show(ids).await, format!("{TENANT}|{OTHER}\n{OTHER}|{OTHER}"));
    s.run("SELECT set_config('jwt.claims.database_id', 'broken', false)").await;
    let error = s.error("SELECT app_jobs.add_jobs('{a}', NULL)").await;
    assert!(error.message().starts_with("the setting jwt.claims.database_id"), "{}", error.message());
    s.run(&format!("SELECT app_jobs.add_jobs('{{a}}', NULL, db_ids := '{{{OTHER}}}')")).await;
}

#[tokio::test]
async fn two_batches_with_the_same_new_keys_in_opposite_orders_both_succeed() {
    let db = database().await;
    let (a, b, watch) = (Session::open(&db).await, Session::open(&db).await, Session::open(&db).await);
    let keys: Vec<String> = (0..200).map(|n| format!("k{n:03}")).collect();
    let call =
        |keys: String| format!("SELECT app_jobs.add_jobs(array_fill('x'::text, ARRAY[200]), NULL, '{{{keys}}}')");
    let forwards = call(keys.join(","));
    let backwards = call(keys.iter().rev().cloned().collect::<Vec<_>>().join(","));
    for _ in 0..10 {
        tokio::join!(a.run(&forwards), b.run(&backwards));
        assert_eq!(watch.number("SELECT count(*) FROM app_jobs.jobs").await, 200);
        watch.run("DELETE FROM app_jobs.jobs").await;
    }
}

#[tokio::test]
async fn a_role_that_may_only_call_add_jobs_enqueues_and_nothing_else() {
    let db = database().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "producer").await;
    let s = role.session().await;
    admin
        .run(&format!(
            "GRANT USAGE ON SCHEMA app_jobs TO {0};
             GRANT EXECUTE ON FUNCTION app_jobs.add_jobs(json),
                app_jobs.add_jobs(text[], json[], text[], text[], timestamptz[], int[], int[], uuid[], bigint),
                app_jobs.enqueue_all_for_own_tenant(text[], json[], text[], text[], text[], timestamptz[], int[], int[], bigint) TO {0}",
            role.name
        ))
        .await;
    s.run("CREATE TEMP TABLE jobs (id int); SET search_path = pg_temp, app_jobs, public").await;
    s.run("SELECT app_jobs.add_jobs('[{\"identifier\": \"x\", \"job_key\": \"k\", \"queue_name\": \"q\"}]')").await;
    for forbidden in ["SELECT app_jobs.add_job('x')", "SELECT * FROM app_jobs.jobs", "TABLE app_jobs.settings"] {
        assert_eq!(s.error(forbidden).await.code().code(), "42501", "{forbidden}");
    }
    assert_eq!(admin.number("SELECT count(*) FROM app_jobs.jobs").await, 1);
    drop(s);
    role.remove(&admin).await;
}

#[tokio::test]
async fn the_crate_enqueues_many_in_statements_of_bounded_size() {
    let db = database().await;
    let mut s = Session::open(&db).await;
    let mut jobs: Vec<NewJob> = (0..4500).map(|n| NewJob::new("x", &serde_json::json!(n))).collect();
    let enqueued = enqueue_many(&s.client, jobs.clone()).await.unwrap();
    assert_eq!(enqueued.iter().map(|job| job.id).collect::<Vec<_>>(), (1..=4500).collect::<Vec<i64>>());
    assert!(s.is("SELECT bool_and(payload::text = (id - 1)::text) FROM app_jobs.jobs").await);
    assert_eq!(enqueue_many(&s.client, Vec::<NewJob>::new()).await.unwrap(), []);

    // What only the database can refuse is refused in the third statement, and named by its place in the whole.
    s.run("SELECT app_jobs.add_job('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, 'theirs', '{}', 'theirs')").await;
    s.run("DELETE FROM app_jobs.jobs WHERE id <= 4500").await;
    jobs[4200] = NewJob::raw("x", "{}").key("theirs");
    let transaction = s.client.transaction().await.unwrap();
    let error = enqueue_many(&transaction, jobs.clone()).await.unwrap_err();
    assert_eq!(error.field(), Some(Field::Key), "{error}");
    let message = "jobs[4200].key: the job key 'theirs' is in use under another database_id";
    assert_eq!(error.to_string(), message);
    assert!(error.sql_state().is_some(), "the database was asked");
    transaction.rollback().await.unwrap();
    // Outside a transaction each statement is one of its own.
    enqueue_many(&s.client, jobs.clone()).await.unwrap_err();
    assert_eq!(
        s.number("SELECT count(*) FROM app_jobs.jobs WHERE key IS NULL").await,
        4000,
        "the first two statements"
    );
    s.run("DELETE FROM app_jobs.jobs WHERE key IS NULL").await;
    s.run("UPDATE app_jobs.jobs SET key = NULL").await;
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 1);
    assert!(enqueue(&s.client, jobs[0].clone()).await.unwrap().id > 4500);

    // From a pool, statements are kept.
    let pooled = crate::sql::support::handle(db.url(), "app_jobs").connection().await.unwrap();
    for _ in 0..2 {
        enqueue(&pooled, jobs[0].clone()).await.unwrap();
        enqueue_many(&pooled, jobs[..3].to_vec()).await.unwrap();
    }
    let kept: i64 = pooled.query_one("SELECT count(*) FROM pg_prepared_statements", &[]).await.unwrap().get(0);
    // The count's own statement is one of them.
    assert_eq!(kept, 3);
}
