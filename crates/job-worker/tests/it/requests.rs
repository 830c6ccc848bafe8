//! What a function is sent: URL, headers, payload.

use std::collections::HashSet;

use job_testkit::{Answer, FakeFunction};
use serde_json::json;

use super::support::{Bench, ID, LIMIT};

const DATABASE: &str = "6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11";
const ACTOR: &str = "0c7f6f5e-6f25-4c7b-8f5a-0a3a5b1c2d3e";
const ENTITY: &str = "9f3f1c0e-2f2b-4e0e-8a3e-0d5d3a1b7c11";
const ORGANIZATION: &str = "b1a7d5a4-66a1-4c55-9c8e-7f1f0e6a2d22";

#[tokio::test]
async fn the_request_carries_the_ids_and_the_default_callback_url() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = bench.worker(&function.url()).spawn();
    let claims = format!(
        "SELECT set_config('jwt.claims.database_id', '{DATABASE}', false), \
         set_config('jwt.claims.user_id', '{ACTOR}', false), set_config('jwt.claims.entity_id', '{ENTITY}', false), \
         set_config('jwt.claims.organization_id', '{ORGANIZATION}', false)"
    );
    bench.run(&claims).await;
    let id = bench.add("email:send_verification_link").await;
    bench.gone(id).await;
    bench.run("RESET ALL").await;
    let anonymous = bench.add("plain").await;
    bench.gone(anonymous).await;

    let requests = function.requests();
    let full = &requests[0];
    assert_eq!((full.method.as_str(), full.target.as_str()), ("POST", "/email:send_verification_link"));
    assert_eq!(full.header("content-type"), Some("application/json"));
    assert_eq!(full.header("x-worker-id"), Some(ID));
    assert_eq!(full.header("x-job-id"), Some(id.to_string().as_str()));
    assert_eq!(full.header("x-database-id"), Some(DATABASE));
    assert_eq!(full.header("x-actor-id"), Some(ACTOR));
    assert_eq!(full.header("x-entity-id"), Some(ENTITY));
    assert_eq!(full.header("x-organization-id"), Some(ORGANIZATION));
    let callback = full.header("x-callback-url").unwrap().strip_prefix("http://jobs-callback:12345/callback?epoch=");
    assert!(callback.is_some_and(|epoch| epoch.parse::<u64>().is_ok()), "{callback:?}");
    let bare = &requests[1];
    assert_eq!(bare.header("x-job-id"), Some(anonymous.to_string().as_str()));
    for name in ["x-database-id", "x-actor-id", "x-entity-id", "x-organization-id"] {
        assert!(!bare.headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn a_function_cannot_tell_from_its_token_those_of_jobs_claimed_with_it() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    bench.run("SELECT app_jobs.add_job('many') FROM generate_series(1, 50)").await;
    let _worker = bench.worker(&function.url()).spawn();
    let requests = function.wait_for(50, LIMIT).await;
    let tokens: Vec<(u64, u64)> = requests
        .iter()
        .map(|request| {
            let (id, epoch) = request.header("x-job-token").unwrap().split_once('.').unwrap();
            (id.parse().unwrap(), epoch.parse().unwrap())
        })
        .collect();
    // One random number a claim, with the job's id in it, would leave as many of these as there were claims.
    let salts: HashSet<u64> = tokens.iter().map(|(id, epoch)| id ^ epoch).collect();
    let differences: HashSet<u64> = tokens.iter().map(|(id, epoch)| epoch.wrapping_sub(*id)).collect();
    assert_eq!((salts.len(), differences.len()), (50, 50));
}

#[tokio::test]
async fn the_callback_url_is_the_configured_one() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let cases = [
        (vec![("INTERNAL_JOBS_CALLBACK_PORT", "8080")], "http://jobs-callback:8080/callback"),
        (vec![("JOBS_CALLBACK_HOST", "me"), ("INTERNAL_JOBS_CALLBACK_PORT", "81")], "http://me:81/callback"),
        (
            vec![("INTERNAL_JOBS_CALLBACK_URL", "http://knative-job-service.interweb.svc.cluster.local:8080")],
            "http://knative-job-service.interweb.svc.cluster.local:8080/callback",
        ),
        (vec![("INTERNAL_JOBS_CALLBACK_URL", "https://jobs/hook?key=a%20b")], "https://jobs/hook?key=a%20b"),
        // An empty variable is an unset one.
        (vec![("INTERNAL_JOBS_CALLBACK_URL", ""), ("JOBS_CALLBACK_HOST", "me")], "http://me:12345/callback"),
    ];
    for (env, expected) in cases {
        let mut worker = bench.worker(&function.url()).envs(env).spawn();
        bench.gone(bench.add("where").await).await;
        let requests = function.requests();
        let callback = requests.last().unwrap().header("x-callback-url").unwrap();
        assert_eq!(callback.split_once("epoch=").unwrap().0.trim_end_matches(['?', '&']), expected);
        worker.signal(job_testkit::Signal::Term);
        assert_eq!(worker.exit_code(LIMIT).await, 0);
    }
}

#[tokio::test]
async fn the_payload_arrives_byte_for_byte() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = bench.worker(&function.url()).spawn();
    let megabyte = json!({"text": "ü\"\\'; drop table jobs; --".repeat(48_000)}).to_string();
    assert!(megabyte.len() > 1 << 20);
    let payloads = [
        r#"{"big": 9007199254740993, "bigger": 123456789012345678901234567890, "exact": 1.10, "e": 1E400}"#,
        "{ \"spaces\" :\t[ 1,2 ],\n \"twice\": 1, \"twice\": 2 }",
        r#"{"unicode": "grüße 😀 \u0000 \ud83d", "slash": "a\/b"}"#,
        "[]",
        "null",
        "\"text\"",
        "{}",
        &megabyte,
    ];
    for (n, payload) in payloads.iter().enumerate() {
        bench.gone(bench.add_with("echo", payload, "").await).await;
        let request = &function.requests()[n];
        let length = request.header("content-length").and_then(|value| value.parse().ok());
        assert!(request.body == payload.as_bytes(), "{n}: {}", &request.text()[..200.min(request.body.len())]);
        assert_eq!(length, Some(payload.len()), "{n}: sent with its length, not chunked");
    }
}

#[tokio::test]
async fn a_hostile_task_identifier_reaches_only_its_own_path() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let elsewhere = FakeFunction::answering(Answer::complete()).await;
    let _worker = bench.worker(&format!("{}/base/", function.url())).spawn();
    let at_elsewhere = format!("@{}/", elsewhere.address());
    let to_elsewhere = format!("//{}/", elsewhere.address());
    let longest = "ü😀".repeat(63);
    assert_eq!(longest.chars().count(), 126);
    let plain_longest = "x".repeat(126);
    let tasks = [
        "../x",
        "..",
        ".",
        "a?b",
        "a#b",
        "//evil/",
        "/x",
        "x/",
        "a//b",
        "a/../b",
        "a/./b",
        "%2e%2e/x",
        "%2e%2e",
        "..%2fx",
        "..\\x",
        "\\\\evil",
        ";x",
        " ",
        " x ",
        "a b",
        "a\tb",
        "a\nb",
        "a\r\nX-Evil: 1",
        "größe",
        "😀",
        "http://evil/",
        "x:y",
        "x%",
        "%00",
        "\u{202e}x",
        "..;/x",
        &at_elsewhere,
        &to_elsewhere,
        &longest,
        &plain_longest,
    ];
    for task in tasks {
        let before = function.requests().len();
        let id = bench.add(task).await;
        if matches!(task, "." | "..") {
            let last_error = bench.failed(id).await.last_error.unwrap();
            assert!(last_error.contains("task identifier"), "{task:?}: {last_error}");
            assert_eq!(function.requests().len(), before, "{task:?}");
            bench.run("DELETE FROM app_jobs.jobs").await;
            continue;
        }
        bench.gone(id).await;
        let requests = function.requests();
        assert_eq!(requests.len(), before + 1, "{task:?}");
        let request = &requests[before];
        let path = request.target.strip_prefix("/base/").unwrap_or_else(|| panic!("{task:?}: {}", request.target));
        let decoded = percent_decode(path);
        assert_eq!(decoded, task, "the whole identifier is in the path, and nothing else: {}", request.target);
        assert!(!path.contains(['?', '#']), "{task:?}: {}", request.target);
        let climbs = path.split('/').any(|part| matches!(percent_decode(part).as_str(), "" | "." | ".."));
        assert!(!climbs, "{task:?}: {}", request.target);
        assert!(!request.headers.contains_key("x-evil"), "{task:?}");
    }
    assert_eq!(elsewhere.requests().len(), 0);
    assert_eq!(function.requests().iter().filter(|request| request.target == "/base/x:y").count(), 1);
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            let digits = std::str::from_utf8(&digits).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn the_base_url_may_end_with_a_slash_have_a_path_or_come_from_the_fallback() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let url = function.url();
    for (name, value, target) in [
        ("KNATIVE_SERVICE_URL", format!("{url}/"), "/task"),
        ("KNATIVE_SERVICE_URL", format!("{url}/a/b"), "/a/b/task"),
        ("KNATIVE_SERVICE_URL", format!("{url}/a//"), "/a/task"),
        ("INTERNAL_GATEWAY_URL", format!("{url}/fallback"), "/fallback/task"),
    ] {
        let worker = bench.worker("").env(name, &value);
        let mut worker = worker.spawn();
        bench.gone(bench.add("task").await).await;
        assert_eq!(function.requests().last().unwrap().target, target, "{name}={value}");
        worker.signal(job_testkit::Signal::Term);
        assert_eq!(worker.exit_code(LIMIT).await, 0);
    }
}

#[tokio::test]
async fn the_development_map_is_posted_to_exactly_as_given_and_a_bad_entry_fails_only_its_own_jobs() {
    let bench = Bench::new().await;
    let gateway = FakeFunction::answering(Answer::complete()).await;
    let mapped = FakeFunction::answering(Answer::complete()).await;
    let map = json!({
        "mapped": format!("{}/some/path/?x=1&y=a%20b", mapped.url()),
        "bare": mapped.url(),
        "bad": "nonsense",
        "ftp": "ftp://example.com/",
        "number": 5,
    });
    let worker = bench.worker(&gateway.url()).env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map.to_string());
    let _worker = worker.spawn();
    for task in ["bad", "ftp", "number"] {
        let last_error = bench.failed(bench.add(task).await).await.last_error.unwrap();
        assert!(last_error.contains("INTERNAL_GATEWAY_DEVELOPMENT_MAP") && last_error.contains(task), "{last_error}");
    }
    for task in ["mapped", "bare", "unmapped"] {
        bench.gone(bench.add(task).await).await;
    }
    let targets = |function: &FakeFunction| -> Vec<String> {
        function.requests().into_iter().map(|request| request.target).collect()
    };
    assert_eq!(targets(&mapped), ["/some/path/?x=1&y=a%20b", "/"]);
    assert_eq!(targets(&gateway), ["/unmapped"]);
}

#[tokio::test]
async fn in_production_the_development_map_is_not_used() {
    let bench = Bench::new().await;
    let gateway = FakeFunction::answering(Answer::complete()).await;
    let mapped = FakeFunction::answering(Answer::complete()).await;
    let map = json!({"mapped": mapped.url()}).to_string();
    let worker = bench.worker(&gateway.url()).env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map);
    let _worker = worker.env("NODE_ENV", "production").spawn();
    bench.gone(bench.add("mapped").await).await;
    assert_eq!((gateway.requests().len(), mapped.requests().len()), (1, 0));
}

#[tokio::test]
async fn only_supported_tasks_are_taken_when_not_every_task_is() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let worker = bench.worker(&function.url()).env("JOBS_SUPPORT_ANY", "No");
    let _worker = worker.env("JOBS_SUPPORTED", " mine:a, mine:b ,,").spawn();
    let other = bench.add("other").await;
    bench.gone(bench.add("mine:b").await).await;
    bench.gone(bench.add("mine:a").await).await;
    let left = bench.job(other).await.expect("nobody takes it");
    assert_eq!((left.attempts, left.locked), (0, false));
}

#[tokio::test]
async fn a_worker_without_any_task_says_so_and_takes_nothing() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let id = bench.add("any").await;
    let mut worker = bench.worker(&function.url()).env("JOBS_SUPPORT_ANY", "false").spawn();
    let warning = worker.wait_for_line("JOBS_SUPPORTED", LIMIT).await;
    assert!(warning.contains("WARN") && warning.contains("no task"), "{warning}");
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    // Another worker does, later; this one has had its chance by then.
    let _other = bench.worker(&function.url()).env("HOSTNAME", "other-worker").spawn();
    bench.gone(id).await;
    assert_eq!(function.requests()[0].header("x-worker-id"), Some("other-worker"));
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_not_used() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let dead = format!("http://127.0.0.1:{}", job_testkit::cluster::free_port().unwrap());
    let worker = ["HTTP_PROXY", "http_proxy", "ALL_PROXY"]
        .into_iter()
        .fold(bench.worker(&function.url()), |worker, name| worker.env(name, &dead));
    let _worker = worker.spawn();
    bench.gone(bench.add("task").await).await;
    assert_eq!(function.requests().len(), 1);
}
