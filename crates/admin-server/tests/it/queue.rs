//! The queue: look at jobs and schedules, enqueue.

use job_testkit::TestDb;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::support::{DATABASE, Server};

const ADD: &str = "mutation($input: AddJobInput!) { addJob(input: $input) { clientMutationId result {
    id taskIdentifier queueName payload priority runAt attempts maxAttempts key lastError lockedAt lockedBy createdAt
    updatedAt databaseId actorId } } }";

const BY_ID: &str = "query($id: BigInt!) { jobs(where: {id: {equalTo: $id}}, first: 1) { nodes {
    id taskIdentifier queueName payload priority runAt attempts maxAttempts key lastError lockedAt lockedBy createdAt
    updatedAt databaseId actorId } } }";

async fn add(server: &Server, input: Value) -> Value {
    server.data(ADD, json!({ "input": input })).await["addJob"]["result"].take()
}

#[tokio::test]
async fn an_added_job_is_found_by_its_id() {
    let server = Server::start().await;
    let input = json!({
        "clientMutationId": "m-1", "dbId": DATABASE, "identifier": "email:send_email",
        "payload": { "to": "a@b.example", "n": [1, null, true] }, "jobKey": "k", "queueName": "q",
        "runAt": "2030-01-31T12:00:00+01:00", "maxAttempts": 3, "priority": -1
    });
    let data = server.data(ADD, json!({ "input": input })).await;
    assert_eq!(data["addJob"]["clientMutationId"], "m-1");
    let job = &data["addJob"]["result"];
    let found = server.data(BY_ID, json!({ "id": job["id"] })).await;
    assert_eq!(found["jobs"]["nodes"], json!([job]));
    let expected = json!({
        "id": "1", "taskIdentifier": "email:send_email", "queueName": "q",
        "payload": { "to": "a@b.example", "n": [1, null, true] }, "priority": -1, "runAt": "2030-01-31T11:00:00Z",
        "attempts": 0, "maxAttempts": 3, "key": "k", "lastError": null, "lockedAt": null, "lockedBy": null,
        "createdAt": job["createdAt"], "updatedAt": job["updatedAt"], "databaseId": DATABASE, "actorId": null
    });
    assert_eq!(job, &expected);
    assert!(job["createdAt"].as_str().unwrap().ends_with('Z'), "{job}");
}

#[tokio::test]
async fn what_is_left_out_or_null_has_the_queues_default() {
    let server = Server::start().await;
    let nulls = json!({
        "identifier": "t", "dbId": null, "payload": null, "jobKey": null, "queueName": null, "runAt": null,
        "maxAttempts": null, "priority": null
    });
    for input in [json!({ "identifier": "t" }), nulls] {
        let job = add(&server, input).await;
        let fields = ["databaseId", "payload", "key", "queueName", "maxAttempts", "priority"].map(|name| &job[name]);
        assert_eq!(json!(fields), json!([null, {}, null, null, 25, 0]));
    }
}

#[tokio::test]
async fn an_id_is_asked_for_as_a_string_or_as_a_number() {
    let server = Server::start().await;
    let client = server.db.connect().await;
    client
        .batch_execute("INSERT INTO app_jobs.jobs (id, task_identifier) VALUES (9007199254740993, 't')")
        .await
        .unwrap();
    for id in [json!("9007199254740993"), json!(9_007_199_254_740_993_i64)] {
        let found = server.data(BY_ID, json!({ "id": id })).await;
        assert_eq!(found["jobs"]["nodes"][0]["id"], "9007199254740993");
    }
    let found = server.data("{ jobs(where: {id: {equalTo: 9007199254740993}}) { nodes { id } } }", json!({})).await;
    assert_eq!(found["jobs"]["nodes"], json!([{ "id": "9007199254740993" }]));
    let found = server.data(BY_ID, json!({ "id": "9007199254740992" })).await;
    assert_eq!(found["jobs"]["nodes"], json!([]));
    for id in ["1 OR true", "'; DROP TABLE app_jobs.jobs; --", ""] {
        let answer = server.ask(BY_ID, json!({ "id": id })).await;
        assert!(answer["errors"][0]["message"].is_string() && answer["data"].is_null(), "{answer}");
    }
}

/// What `addJob` answers for a payload, and what is stored, both as text: a parser in between could change them as
/// well.
async fn payload_texts(server: &Server, payload: &str) -> (String, String) {
    let query = "mutation($p: JSON) { addJob(input: {identifier: \\\"t\\\", payload: $p}) { result { payload } } }";
    let response = server.post().body(format!(r#"{{"query": "{query}", "variables": {{"p": {payload}}}}}"#)).send();
    let answered = response.await.unwrap().text().await.unwrap();
    let client = server.db.connect().await;
    let stored = client.query_one("SELECT payload::text FROM app_jobs.jobs", &[]).await.unwrap().get(0);
    (answered, stored)
}

#[tokio::test]
async fn numbers_of_a_payload_keep_every_digit() {
    let server = Server::start().await;
    let payload = r#"{"z":123456789012345678901234567890,"a":9007199254740993,"f":1.10,"e":1E400}"#;
    let (answered, stored) = payload_texts(&server, payload).await;
    assert_eq!(answered, format!(r#"{{"data":{{"addJob":{{"result":{{"payload":{payload}}}}}}}}}"#));
    assert_eq!(stored, payload);
}

#[tokio::test]
async fn a_payload_that_looks_like_a_marker_of_the_json_library_stays_what_it_is() {
    for payload in [r#"{"$serde_json::private::RawValue":"[1]"}"#, r#"{"$serde_json::private::RawValue":"["}"#] {
        let server = Server::start().await;
        let (answered, stored) = payload_texts(&server, payload).await;
        assert_eq!(answered, format!(r#"{{"data":{{"addJob":{{"result":{{"payload":{payload}}}}}}}}}"#));
        assert_eq!(stored, payload);
    }
}

#[tokio::test]
async fn a_payload_may_stand_in_the_query() {
    let server = Server::start().await;
    let query = r#"mutation { addJob(input: {identifier: "t", payload: {a: [1, "x", {b: null}], n: 9007199254740993}}) {
                   result { payload } } }"#;
    let data = server.data(query, json!({})).await;
    let payload = json!({ "a": [1, "x", { "b": null }], "n": 9_007_199_254_740_993_i64 });
    assert_eq!(data["addJob"]["result"]["payload"], payload);
    let rounded =
        r#"mutation { addJob(input: {identifier: "t", payload: 123456789012345678901234567890}) { result { id } } }"#;
    let answer = server.ask(rounded, json!({})).await;
    let message = answer["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains("keeps its digits only in a variable"), "{message}");
}

#[tokio::test]
async fn hostile_texts_are_parameters() {
    let server = Server::start().await;
    let hostile = r#"x'); DROP TABLE app_jobs.jobs; -- $1 " \ 🦀"#;
    let job = add(
        &server,
        json!({
            "identifier": hostile, "payload": { (hostile): hostile },
            "jobKey": hostile, "queueName": hostile
        }),
    )
    .await;
    let texts = [&job["taskIdentifier"], &job["key"], &job["queueName"], &job["payload"][hostile]];
    assert!(texts.iter().all(|text| *text == hostile), "{job}");
    let query = "query($task: String!) { jobs(where: {taskIdentifier: {equalTo: $task}}) { nodes { id } } }";
    let found = server.data(query, json!({ "task": hostile })).await;
    assert_eq!(found["jobs"]["nodes"], json!([{ "id": job["id"] }]));
    let found = server.data(query, json!({ "task": "' OR true --" })).await;
    assert_eq!(found["jobs"]["nodes"], json!([]));
}

#[tokio::test]
async fn a_job_key_replaces_the_waiting_job_of_its_tenant_only() {
    let server = Server::start().await;
    let first = add(&server, json!({ "identifier": "t", "jobKey": "k", "payload": 1 })).await;
    let second = add(&server, json!({ "identifier": "t", "jobKey": "k", "payload": 2 })).await;
    assert_eq!((&second["id"], &second["payload"]), (&first["id"], &json!(2)));
    let input = json!({ "identifier": "t", "jobKey": "k", "dbId": DATABASE });
    let (message, code) = server.error(ADD, json!({ "input": input })).await;
    assert_eq!(message, "the job key 'k' is in use under another database_id");
    assert_eq!(code, "BAD_USER_INPUT");
}

#[tokio::test]
async fn what_the_queue_refuses_is_told_without_sql() {
    let server = Server::start().await;
    let long = "x".repeat(127);
    let cases = [
        (json!({ "identifier": "" }), "the task identifier is empty"),
        (json!({ "identifier": long }), "the task identifier has more than 126 characters"),
        (json!({ "identifier": "t", "queueName": long }), "the queue name has more than 126 characters"),
        (json!({ "identifier": "t", "jobKey": "x".repeat(513) }), "the job key has more than 512 characters"),
        (json!({ "identifier": "t", "maxAttempts": 0 }), "max_attempts is not greater than 0"),
        (json!({ "identifier": "a\u{0}b" }), "a text holds a NUL character"),
        (json!({ "identifier": "t", "runAt": "-009000-01-01T00:00:00Z" }), "run_at is out of range"),
    ];
    for (input, expected) in cases {
        let (message, code) = server.error(ADD, json!({ "input": input })).await;
        assert_eq!((message.as_str(), code.as_str()), (expected, "BAD_USER_INPUT"));
    }
    let left = server.data("{ jobs { nodes { id } } }", json!({})).await;
    assert_eq!(left["jobs"]["nodes"], json!([]));
}

#[tokio::test]
async fn a_failed_and_a_running_job_are_shown_as_they_are() {
    let server = Server::start().await;
    let client = server.db.connect().await;
    let rows = "INSERT INTO app_jobs.jobs (task_identifier, attempts, last_error, locked_at, locked_by, run_at) VALUES
                ('failed', 2, 'HTTP 500: \"oops\"', NULL, NULL, 'infinity'),
                ('running', 1, NULL, '2026-01-31 12:00:00+00', 'worker-0', '-infinity')";
    client.batch_execute(rows).await.unwrap();
    let query = "{ jobs { nodes { taskIdentifier attempts lastError lockedAt lockedBy runAt } } }";
    let data = server.data(query, json!({})).await;
    let nodes = data["jobs"]["nodes"].as_array().unwrap();
    assert_eq!(nodes[0]["lastError"], "HTTP 500: \"oops\"");
    assert_eq!((&nodes[0]["attempts"], &nodes[0]["lockedAt"]), (&json!(2), &Value::Null));
    assert_eq!((&nodes[1]["lockedAt"], &nodes[1]["lockedBy"]), (&json!("2026-01-31T12:00:00Z"), &json!("worker-0")));
    assert!(nodes.iter().all(|node| node["runAt"].is_string()), "{data}");
}

/// Postgres has times that an instant cannot be; a row with one hides no other.
#[tokio::test]
async fn jobs_and_schedules_beyond_all_years_are_shown_at_the_nearest_instant() {
    let server = Server::start().await;
    let client = server.db.connect().await;
    let rows = "INSERT INTO app_jobs.jobs (task_identifier, run_at, locked_at, locked_by, created_at, updated_at)
                SELECT 't', at, at, 'worker-0', at, at
                  FROM unnest(ARRAY['20000-01-01', 'infinity', '-infinity', '0044-03-15 BC', '2030-01-01Z']::timestamptz[]) at;
                INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info, last_scheduled, paused_at, ended_at)
                SELECT 't', '{}', at, at, at FROM unnest(ARRAY['20000-01-01', '-infinity', '2030-01-01Z']::timestamptz[]) at";
    client.batch_execute(rows).await.unwrap();
    let (last, first) = ("9999-12-30T22:00:00.999999999Z", "-004713-11-24T00:00:00Z");
    let data = server.data("{ jobs { nodes { runAt createdAt } } }", json!({})).await;
    let expected = [last, last, first, "-000043-03-15T00:00:00Z", "2030-01-01T00:00:00Z"];
    let run_ats: Vec<&Value> = data["jobs"]["nodes"].as_array().unwrap().iter().map(|node| &node["runAt"]).collect();
    assert_eq!(run_ats, expected);
    let data = server.data("{ scheduledJobs { nodes { lastScheduled pausedAt endedAt } } }", json!({})).await;
    let nodes = data["scheduledJobs"]["nodes"].as_array().unwrap();
    let ended: Vec<&Value> = nodes.iter().map(|node| &node["endedAt"]).collect();
    assert_eq!(ended, [last, first, "2030-01-01T00:00:00Z"]);
}

#[tokio::test]
async fn schedules_are_listed() {
    let server = Server::start().await;
    let client = server.db.connect().await;
    let rows = r#"SELECT app_jobs.add_scheduled_job('a', '{"n": 1}'::json, '{"rule": "*/5 * * * *"}'::json, 'k');
                  SELECT app_jobs.add_scheduled_job('b', '{}'::json, '"* * * * *"'::json)"#;
    client.batch_execute(rows).await.unwrap();
    let query = "query($where: ScheduledJobFilter) { scheduledJobs(where: $where) { nodes {
                 id taskIdentifier queueName payload priority maxAttempts key lockedAt lockedBy scheduleInfo
                 lastScheduled lastScheduledId databaseId actorId pausedAt endedAt lastError } } }";
    let data = server.data(query, json!({ "where": { "taskIdentifier": { "equalTo": "a" } } })).await;
    let expected = json!({
        "id": "1", "taskIdentifier": "a", "queueName": null, "payload": { "n": 1 }, "priority": 0, "maxAttempts": 25,
        "key": "k", "lockedAt": null, "lockedBy": null, "scheduleInfo": { "rule": "*/5 * * * *" },
        "lastScheduled": null, "lastScheduledId": null, "databaseId": null, "actorId": null,
        "pausedAt": null, "endedAt": null, "lastError": null
    });
    assert_eq!(data["scheduledJobs"]["nodes"], json!([expected]));
    let data = server.data(query, json!({})).await;
    assert_eq!(data["scheduledJobs"]["nodes"][1]["scheduleInfo"], "* * * * *");
    let told = "UPDATE app_jobs.scheduled_jobs SET last_error = 'no', paused_at = '2030-01-01Z', ended_at = '2030-01-02Z' WHERE id = 2";
    client.batch_execute(told).await.unwrap();
    let told = &server.data(query, json!({})).await["scheduledJobs"]["nodes"][1];
    assert_eq!((&told["lastError"], &told["pausedAt"]), (&json!("no"), &json!("2030-01-01T00:00:00Z")));
    assert_eq!(told["endedAt"], "2030-01-02T00:00:00Z");
}

#[tokio::test]
async fn another_jobs_schema_is_honoured() {
    let db = TestDb::empty().await;
    let settings = [("JOBS_SCHEMA", "Other_Jobs")];
    super::support::jobs_schema(&super::support::config(db.url(), &settings).postgres).await.unwrap();
    let server = Server::start_on(db, &settings).await;
    let job = add(&server, json!({ "identifier": "t" })).await;
    let client = server.db.connect().await;
    let row = client.query_one("SELECT id::text, task_identifier FROM \"Other_Jobs\".jobs", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (job["id"].as_str().unwrap(), "t"));
}

#[tokio::test]
async fn without_a_jobs_schema_the_command_that_makes_it_is_named() {
    let server = Server::start_on(TestDb::empty().await, &[]).await;
    let expected = "the database has no jobs schema; make it with `job-service migrate`";
    for query in ["{ jobs { nodes { id } } }", "{ scheduledJobs { nodes { id } } }"] {
        assert_eq!(server.error(query, json!({})).await, (expected.to_owned(), "NO_JOBS_SCHEMA".to_owned()));
    }
    assert_eq!(server.error(ADD, json!({ "input": { "identifier": "t" } })).await.0, expected);
    let status = reqwest::get(format!("{}/readyz", server.address)).await.unwrap().status();
    assert_eq!(status, StatusCode::OK);
}
