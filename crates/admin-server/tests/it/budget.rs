//! What one request may cost: memory is bounded whatever is in the tables and whatever is asked.

use std::io::Write;
use std::net::TcpStream;

use job_testkit::process::Program;
use job_testkit::{eventually, eventually_some};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::support::{LIMIT, Server, answer, migrated};

const TOO_LARGE: &str = "ANSWER_TOO_LARGE";
/// The attack took 1.2 GB before there was a budget; with it, 58 MB were measured.
const MOST_MEMORY: u64 = 150 << 20;

/// The answer; asked for again where the database was too slow for it, as the error says, on a busy machine.
async fn ask(address: &str, query: &str) -> Value {
    let body = json!({ "query": query }).to_string();
    eventually_some(LIMIT, async || {
        let request = reqwest::Client::new().post(format!("{address}/graphql")).header("host", "private.localhost");
        let answer = answer(request.header("content-type", "application/json").body(body.clone())).await.1;
        (code(&answer) != "DATABASE_UNAVAILABLE").then_some(answer)
    })
    .await
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn twelve_aliases_of_all_payloads_are_refused_and_take_no_memory() {
    let db = migrated().await;
    let client = db.connect().await;
    let fill = "INSERT INTO app_jobs.jobs (task_identifier, payload)
                SELECT 't', json_build_object('x', repeat('x', 100000)) FROM generate_series(1, 1000)";
    client.batch_execute(fill).await.unwrap();
    let program = Program::at(env!("CARGO_BIN_EXE_admin-server"));
    let mut process = program.envs(db.env()).envs([("PORT", "0"), ("NO_COLOR", "1")]).spawn();
    let line = process.wait_for_line("admin-server listens", LIMIT).await;
    let address = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    let address = format!("http://{address}");

    let aliases: String = (0..12).map(|n| format!("a{n}: jobs {{ nodes {{ payload }} }} ")).collect();
    let one_value: String = (0..900).map(|n| format!("a{n}: payload ")).collect();
    let attacks = [format!("{{ {aliases} }}"), format!("{{ jobs(first: 1) {{ nodes {{ {one_value} }} }} }}")];
    for attack in &attacks {
        // As many at once as are executed at once, and as many that wait.
        let all = tokio::join!(
            ask(&address, attack),
            ask(&address, attack),
            ask(&address, attack),
            ask(&address, attack),
            ask(&address, attack),
            ask(&address, attack),
            ask(&address, attack),
            ask(&address, attack),
        );
        for answer in [all.0, all.1, all.2, all.3, all.4, all.5, all.6, all.7] {
            assert_eq!(code(&answer), TOO_LARGE, "{}", answer.to_string().chars().take(300).collect::<String>());
            assert_eq!((answer["errors"].as_array().unwrap().len(), answer["data"].is_null()), (1, true));
        }
    }
    // What is small is answered all the same: payloads that nobody asks for are not read.
    let listed = ask(&address, "{ jobs { nodes { id taskIdentifier } } }").await;
    assert_eq!(listed["data"]["jobs"]["nodes"].as_array().unwrap().len(), 1000);
    let one = ask(&address, "{ jobs(where: {id: {equalTo: 7}}) { nodes { payload } } }").await;
    assert_eq!(one["data"]["jobs"]["nodes"][0]["payload"]["x"].as_str().unwrap().len(), 100_000);

    let peak = process.peak_memory();
    assert!(peak < MOST_MEMORY, "{peak} bytes");
}

#[tokio::test]
async fn one_payload_that_is_too_large_is_not_read() {
    let server = Server::start().await;
    let client = server.db.connect().await;
    // Of a schedule it is what an earlier version let in.
    let fill = "SELECT app_jobs.set_max_payload(33554432);
                INSERT INTO app_jobs.jobs (task_identifier, payload)
                VALUES ('t', json_build_object('x', repeat('x', 20000000)));
                ALTER TABLE app_jobs.scheduled_jobs DISABLE TRIGGER USER;
                INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info)
                VALUES ('t', json_build_object('rule', '* * * * *', 'x', repeat('x', 20000000)))";
    client.batch_execute(fill).await.unwrap();
    for query in ["{ jobs { nodes { payload } } }", "{ scheduledJobs { nodes { scheduleInfo } } }"] {
        let (message, told) = server.error(query, json!({})).await;
        assert_eq!(told, TOO_LARGE, "{message}");
        assert!(message.contains("leave out payload and scheduleInfo"), "{message}");
    }
    let data = server.data("{ jobs { nodes { id } } scheduledJobs { nodes { id payload } } }", json!({})).await;
    assert_eq!(data["jobs"]["nodes"], json!([{ "id": "1" }]));
    assert_eq!(data["scheduledJobs"]["nodes"], json!([{ "id": "1", "payload": {} }]));
}

#[tokio::test]
async fn what_other_tables_hold_and_what_a_mutation_answers_count_as_well() {
    let server = Server::start().await;
    let client = server.db.connect().await;
    let fill = "UPDATE roles_public.users SET profile_picture = jsonb_build_object('url', repeat('x', 20000000))";
    client.batch_execute(fill).await.unwrap();
    let (_, told) = server.error("{ users { nodes { profilePicture } } }", json!({})).await;
    assert_eq!(told, TOO_LARGE);

    let aliases: String = (0..100).map(|n| format!("a{n}: payload ")).collect();
    let query = format!(
        "mutation($p: JSON) {{ addJob(input: {{identifier: \"t\", payload: $p}}) {{ result {{ {aliases} }} }} }}"
    );
    let (_, told) = server.error(&query, json!({ "p": "x".repeat(1 << 20) })).await;
    assert_eq!(told, TOO_LARGE);
}

#[tokio::test]
async fn rows_count_in_the_complexity() {
    let server = Server::start().await;
    let lists =
        |first: &str| -> String { (0..30).map(|n| format!("a{n}: jobs{first} {{ nodes {{ id key }} }} ")).collect() };
    let answer = server.ask(&format!("{{ {} }}", lists("")), json!({})).await;
    assert_eq!(answer["errors"][0]["message"], "Query is too complex.");
    server.data(&format!("{{ {} }}", lists("(first: 100)")), json!({})).await;
}

#[tokio::test]
async fn requests_at_once_have_a_limit() {
    let server = Server::start().await;
    let place = server.address.trim_start_matches("http://").to_owned();
    let half = "POST /graphql HTTP/1.1\r\nHost: private.localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 1000\r\n\r\n{";
    let query = r#"{"query": "{ users { nodes { username } } }"}"#;
    let open: Vec<TcpStream> = (0..32)
        .map(|_| {
            let mut stream = TcpStream::connect(&place).unwrap();
            stream.write_all(half.as_bytes()).unwrap();
            stream
        })
        .collect();
    eventually(LIMIT, async || server.body(query).await.0 == StatusCode::SERVICE_UNAVAILABLE).await;
    let response = server.post().body(query).send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    // Health is not asked in vain.
    assert_eq!(reqwest::get(format!("{}/healthz", server.address)).await.unwrap().status(), StatusCode::OK);
    drop(open);
    eventually(LIMIT, async || server.body(query).await.0 == StatusCode::OK).await;
}
