//! What newer versions of the original have, and what tools around it do to the tables.

use crate::sql::support::{Role, Session, database};

#[tokio::test]
async fn a_batch_takes_escapes_that_stand_for_no_character() {
    let db = database().await;
    let s = Session::open(&db).await;
    let payloads = [
        r#"{"a\u0000b":"x\ud83d y\\u0000 \\\u0000\u0000 \ud83d\ude00","n":12345678901234567890}"#,
        r#""\u0000""#,
        r#"["\udc00", "\\", "\"\\\u0000"]"#,
    ];
    for payload in payloads {
        let literal = payload.replace('\'', "''");
        s.run(&format!("SELECT app_jobs.add_job('one', '{literal}')")).await;
        let batch = format!(
            r#"[{{"identifier": "plain", "payload": {{"b": "\\"}}}}, {{"identifier": "odd", "payl\u006fad": {payload}, "job_key": "k\ud83d\ude00"}},
                {{"identifier": "none", "payload": null, "max_attempts": 3}}]"#
        );
        s.run(&format!("SELECT app_jobs.add_jobs('{}')", batch.replace('\'', "''"))).await;
        let rows = s.show("SELECT task_identifier, payload, key, max_attempts FROM app_jobs.jobs ORDER BY id").await;
        let expected =
            format!("one|{payload}|~|25\nplain|{{\"b\": \"\\\\\"}}|~|25\nodd|{payload}|k😀|25\nnone|null|~|3");
        assert_eq!(rows, expected);
        s.run("DELETE FROM app_jobs.jobs").await;
    }
    // A column cannot hold them, and a job at fault is named as ever.
    for (batch, told) in [
        (r#"[{"identifier": "a", "payload": "\u0000"}, {"identifier": "b\u0000"}]"#, "job 2: "),
        (
            r#"[{"identifier": "a", "payload": "\u0000"}, {"identifier": "b", "o\u0000dd": 1}]"#,
            r#"job 2: unknown key "o\u0000dd""#,
        ),
        (r#"[{"identifier": "a", "payload": "\u0000"}, 7]"#, "job 2: not an object"),
        (
            r#"[{"identifier": "a", "payload": "\u0000"}, {"identifier": "b", "max_attempts": 0}]"#,
            "job 2: max_attempts",
        ),
    ] {
        let error = s.error(&format!("SELECT app_jobs.add_jobs('{batch}')")).await;
        assert!(error.message().starts_with(told), "{batch}: {}", error.message());
    }
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
}

#[tokio::test]
async fn remove_job_takes_a_waiting_job_away_and_leaves_a_running_one_its_attempt() {
    let db = database().await;
    let s = Session::open(&db).await;
    let waiting = s.add_job("'x', '{}', 'k', 'q'").await;
    assert_eq!(s.number("SELECT id FROM app_jobs.remove_job('k')").await, waiting);
    assert_eq!(s.show("SELECT id FROM app_jobs.remove_job('k')").await, "~");
    assert_eq!(s.show("SELECT id FROM app_jobs.remove_job(NULL)").await, "~");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.job_queues").await, 0);
    let running = s.add_job("'x', '{}', 'k'").await;
    assert_eq!(s.get_job("'worker'").await, Some(running));
    assert_eq!(s.number("SELECT id FROM app_jobs.remove_job('k')").await, running);
    s.run(&format!("SELECT app_jobs.fail_job('worker', {running}, 'no')")).await;
    s.run("UPDATE app_jobs.jobs SET run_at = now()").await;
    assert_eq!(s.get_job("'worker'").await, None, "it is not tried again");
}

#[tokio::test]
async fn force_unlock_workers_starts_their_jobs_again_and_nobody_elses() {
    let db = database().await;
    let s = Session::open(&db).await;
    let gone = s.add_job("'x', '{}', 'a', 'q'").await;
    assert_eq!(s.get_job("'gone'").await, Some(gone));
    let alive = s.add_job("'x', '{}', 'b'").await;
    assert_eq!(s.get_job("'alive'").await, Some(alive));
    s.run("SELECT app_jobs.force_unlock_workers('{gone,nobody}')").await;
    let rows = s.show("SELECT id, locked_by, attempts FROM app_jobs.jobs ORDER BY id").await;
    assert_eq!(rows, format!("{gone}|~|1\n{alive}|alive|1"));
    assert_eq!(s.show("SELECT locked_by FROM app_jobs.job_queues").await, "~");
    assert_eq!(s.get_job("'other'").await, Some(gone));
    // What the one that was thought gone says now changes nothing.
    assert_eq!(s.show(&format!("SELECT id FROM app_jobs.complete_job('gone', {gone})")).await, "~");
}

#[tokio::test]
async fn an_insert_of_ones_own_can_name_the_key_in_its_conflict_clause() {
    let db = database().await;
    let s = Session::open(&db).await;
    let schedule = "INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info, key) VALUES ('x', '{}', 'k')
                    ON CONFLICT (key) DO UPDATE SET task_identifier = 'y'";
    let job = "INSERT INTO app_jobs.jobs (task_identifier, key) VALUES ('x', 'k')
               ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET task_identifier = 'y'";
    for (table, insert) in [("scheduled_jobs", schedule), ("jobs", job)] {
        s.run(insert).await;
        s.run(insert).await;
        assert_eq!(s.show(&format!("SELECT task_identifier, key FROM app_jobs.{table}")).await, "y|k");
    }
}

/// What docs/roles.md grants a role of an API.
#[tokio::test]
async fn a_role_of_an_api_enqueues_for_its_own_tenant_once_it_is_granted_and_for_no_other() {
    let db = database().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "authenticated").await;
    let s = role.session().await;
    let (own, other) = ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
    s.run(&format!("SELECT set_config('jwt.claims.database_id', '{own}', false)")).await;
    assert_eq!(s.error("SELECT app_jobs.add_job('x')").await.code().code(), "42501", "nothing is granted by itself");
    admin.run(&format!("GRANT jobs_producer TO {}", role.name)).await;
    for call in [
        "add_job('x')".to_owned(),
        "add_job('x', '{}'::jsonb)".to_owned(),
        format!("add_job('{own}'::uuid, 'x')"),
        "graphql_add_job(NULL, 'x')".to_owned(),
        format!("graphql_add_job('{own}', 'x', run_at := now())"),
        "graphql_add_scheduled_job(NULL, 'x', schedule_info := '\"* * * * *\"')".to_owned(),
        "add_scheduled_job('x', '{}', '* * * * *')".to_owned(),
    ] {
        assert_eq!(s.show(&format!("SELECT database_id FROM app_jobs.{call}")).await, own, "{call}");
    }
    for call in [
        format!("add_job('{other}'::uuid, 'x')"),
        format!("graphql_add_job('{other}', 'x')"),
        format!("graphql_add_scheduled_job('{other}', 'x')"),
        "set_max_payload(100000)".to_owned(),
        "remove_job('k')".to_owned(),
        "force_unlock_workers('{worker}')".to_owned(),
    ] {
        assert_eq!(s.error(&format!("SELECT app_jobs.{call}")).await.code().code(), "42501", "{call}");
    }
    let hint = s.error("SELECT app_jobs.add_job('x', key := 'k')").await;
    assert!(hint.hint().unwrap_or_default().contains("job_key"), "{}", hint.message());
}
