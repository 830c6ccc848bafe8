//! What a well-formed callback does.

use std::time::Duration;

use job_testkit::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{Bench, HOLDER, LIMIT, State, send};

fn waiting(last_error: &str) -> Option<State> {
    Some(State { attempts: 1, last_error: Some(last_error.to_owned()), locked_by: None })
}

#[tokio::test]
async fn a_success_removes_the_job_and_answers_with_both_ids() {
    let bench = Bench::new().await;
    let id = bench.held().await;
    let body = r#"{"status":"success"}"#;
    let database = "6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11";
    let request = bench.callback(id).header("X-Database-Id", database).header("Content-Type", "application/json");
    let answer = request.body(body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    let expected = format!(r#"{{"jobId":"{id}","workerId":"{HOLDER}"}}"#);
    assert_eq!(answer.text().await.unwrap(), expected);
    assert_eq!(bench.job(id).await, None);
}

#[tokio::test]
async fn a_failure_stores_the_error_frees_the_job_and_delays_it() {
    let bench = Bench::new().await;
    let id = bench.held().await;
    let (status, body) = send(bench.failure(id, r#"{"status":"error","error":"HTTP 500"}"#)).await;
    assert_eq!((status, body), (200, format!(r#"{{"jobId":"{id}","workerId":"{HOLDER}"}}"#)));
    assert_eq!(bench.job(id).await, waiting("HTTP 500"));
    let wait = "SELECT extract(epoch FROM run_at - now())::float8 FROM app_jobs.jobs";
    let wait: f64 = bench.sql.query_one(wait, &[]).await.unwrap().get(0);
    assert!(wait > 0.5 && wait < 2.8, "e seconds after the failure: {wait}");
}

#[tokio::test]
async fn a_failure_for_good_leaves_no_attempt() {
    let bench = Bench::new().await;
    let id = bench.held().await;
    let by_body = bench.failure(id, r#"{"error":"gone","retry":false}"#);
    assert_eq!(send(by_body).await.0, 200);
    let last = |error: &str| Some(State { attempts: 25, last_error: Some(error.to_owned()), locked_by: None });
    assert_eq!(bench.job(id).await, last("gone"));
    let id = bench.held().await;
    let by_header = bench.failure(id, r#"{"error":"gone too"}"#).header("X-Job-Retry", "false");
    assert_eq!(send(by_header).await.0, 200);
    assert_eq!(bench.job(id).await, last("gone too"));
}

#[tokio::test]
async fn the_error_is_the_bodys_error_then_its_message_then_unknown() {
    let bench = Bench::new().await;
    let long = "x".repeat(500_000);
    let long_body = format!(r#"{{"error":"{long}"}}"#);
    let cut = format!("{}… (500000 bytes)", &long[..4000]);
    for (body, last_error) in [
        (r#"{"error":"first","message":"second"}"#, "first"),
        (r#"{"message":"thrown"}"#, "thrown"),
        (r#"{"error":"","message":"second"}"#, "second"),
        (r#"{"error":null,"message":"second"}"#, "second"),
        (r#"{"error":"","message":""}"#, "UNKNOWN_ERROR"),
        (r#"{"error":{"code":5,"text":"a"}}"#, r#"{"code":5,"text":"a"}"#),
        (r#"{"error":["a",1]}"#, r#"["a",1]"#),
        (r#"{"error":404}"#, "404"),
        (r#"{"error":false}"#, "false"),
        (r#"{"error":"a\u0000b"}"#, "a\u{fffd}b"),
        (r#"{"error":{"a":"\u0000"}}"#, "{\"a\":\"\\u0000\"}"),
        // A JavaScript text cut in the middle of an emoji, and a number beyond a double.
        (r#"{"error":"cut \ud83d"}"#, "cut \u{fffd}"),
        (r#"{"error":"a","value":1e999}"#, "a"),
        (
            r#"{"error":"it's; \"quoted\" \\ ü 😀\n'; drop table app_jobs.jobs; --"}"#,
            "it's; \"quoted\" \\ ü 😀\n'; drop table app_jobs.jobs; --",
        ),
        ("{}", "UNKNOWN_ERROR"),
        ("[]", "UNKNOWN_ERROR"),
        ("null", "UNKNOWN_ERROR"),
        ("\"text\"", "UNKNOWN_ERROR"),
        ("", "UNKNOWN_ERROR"),
        (&long_body, &cut),
    ] {
        let id = bench.held().await;
        assert_eq!(send(bench.failure(id, body)).await.0, 200, "{body}");
        let job = bench.job(id).await;
        assert!(job == waiting(last_error), "{body}: {:?}", job.map(|job| job.last_error));
        bench.sql.batch_execute("DELETE FROM app_jobs.jobs").await.unwrap();
    }
}

#[tokio::test]
async fn without_x_job_error_true_a_callback_is_a_success_whatever_its_body_says() {
    let bench = Bench::new().await;
    for value in [None, Some("false"), Some("")] {
        let id = bench.held().await;
        let mut request = bench.callback(id).header("Content-Type", "application/json").body(r#"{"error":"x"}"#);
        if let Some(value) = value {
            request = request.header("X-Job-Error", value);
        }
        assert_eq!(send(request).await.0, 200, "{value:?}");
        assert_eq!(bench.job(id).await, None, "{value:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_json_is_plain_text_and_may_be_empty() {
    let bench = Bench::new().await;
    let bodies: [(Option<&str>, &[u8]); 8] = [
        (None, b""),
        (None, b"{broken"),
        (Some("text/plain"), b"{broken"),
        (Some("text/plain"), b""),
        (Some("application/octet-stream"), &[0, 159, 255]),
        (Some("application/x-www-form-urlencoded"), b"status=success"),
        (Some("application/json"), b""),
        (Some("nonsense"), b"x"),
    ];
    for (content_type, body) in bodies {
        for failed in [false, true] {
            let id = bench.held().await;
            let mut request = bench.callback(id).body(body.to_vec());
            if let Some(value) = content_type {
                request = request.header("Content-Type", value);
            }
            if failed {
                request = request.header("X-Job-Error", "true");
            }
            assert_eq!(send(request).await.0, 200, "{content_type:?} {body:?}");
            let expected = if failed { waiting("UNKNOWN_ERROR") } else { None };
            assert_eq!(bench.job(id).await, expected, "{content_type:?} {body:?}");
            bench.sql.batch_execute("DELETE FROM app_jobs.jobs").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_json_body_is_read_whatever_its_content_types_form() {
    let bench = Bench::new().await;
    for content_type in ["application/json; charset=utf-8", "Application/JSON", "application/problem+json"] {
        let id = bench.held().await;
        let request = bench.callback(id).header("X-Job-Error", "true").header("Content-Type", content_type);
        assert_eq!(send(request.body(r#"{"error":"read"}"#)).await.0, 200);
        assert_eq!(bench.job(id).await, waiting("read"), "{content_type}");
        bench.sql.batch_execute("DELETE FROM app_jobs.jobs").await.unwrap();
    }
}

#[tokio::test]
async fn a_chunked_body_is_read_like_one_with_a_length() {
    let bench = Bench::new().await;
    let id = bench.held().await;
    let head = format!(
        "POST /callback HTTP/1.1\r\nHost: x\r\nX-Worker-Id: {HOLDER}\r\nX-Job-Id: {id}\r\nX-Job-Error: true\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let answer = bench.raw(format!("{head}8\r\n{{\"error\"\r\n9\r\n:\"parts\"}}\r\n0\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(bench.job(id).await, waiting("parts"));
}

#[tokio::test]
async fn duplicates_answer_200_and_change_nothing() {
    let bench = Bench::new().await;
    let gone = bench.held().await;
    let failed = bench.held().await;
    assert_eq!(send(bench.callback(gone)).await.0, 200);
    assert_eq!(send(bench.failure(failed, r#"{"error":"first"}"#)).await.0, 200);
    let before = bench.job(failed).await;
    for _ in 0..3 {
        assert_eq!(send(bench.callback(gone)).await.0, 200);
        assert_eq!(send(bench.failure(gone, "{}")).await.0, 200);
        assert_eq!(send(bench.callback(failed)).await.0, 200);
        assert_eq!(send(bench.failure(failed, r#"{"error":"second"}"#)).await.0, 200);
    }
    assert_eq!(bench.job(gone).await, None);
    assert_eq!(bench.job(failed).await, before);
    assert_eq!(send(bench.callback(i64::MAX)).await.0, 200, "a job that never was");
}

#[tokio::test]
async fn many_duplicates_at_once_store_one_outcome() {
    let bench = Bench::new().await;
    let id = bench.held().await;
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..50 {
        requests.spawn(send(bench.failure(id, &format!(r#"{{"error":"error {n}"}}"#))));
    }
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.unwrap().0, 200);
    }
    let job = bench.job(id).await.unwrap();
    assert_eq!((job.attempts, job.locked_by), (1, None));
    assert!(job.last_error.unwrap().starts_with("error "));
}

#[tokio::test]
async fn many_callbacks_at_once_are_all_stored_each_with_its_own_outcome() {
    let bench = Bench::new().await;
    bench.sql.batch_execute("SELECT app_jobs.add_job('task') FROM generate_series(1, 300)").await.unwrap();
    let claim = "SELECT id FROM app_jobs_internal.claim_jobs($1, NULL, 300, NULL)";
    let ids: Vec<i64> = bench.sql.query(claim, &[&HOLDER]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(ids.len(), 300);
    let mut requests = tokio::task::JoinSet::new();
    for id in &ids {
        let failed = id % 3 == 0;
        requests.spawn(send(if failed {
            bench.failure(*id, &format!(r#"{{"error":"error of {id}"}}"#))
        } else {
            bench.callback(*id)
        }));
    }
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.unwrap().0, 200);
    }
    for id in ids {
        let expected = if id % 3 == 0 { waiting(&format!("error of {id}")) } else { None };
        assert_eq!(bench.job(id).await, expected);
    }
}

#[tokio::test]
async fn a_callback_of_another_worker_changes_nothing() {
    let bench = Bench::new().await;
    let id = bench.held().await;
    let before = bench.job(id).await;
    assert_eq!(before.as_ref().and_then(|job| job.locked_by.as_deref()), Some(HOLDER));
    for worker in ["worker-other", "worker-tes", "worker-test2", "WORKER-TEST", "worker-%", "' or true--"] {
        let request = || bench.post().header("X-Worker-Id", worker).header("X-Job-Id", id);
        assert_eq!(send(request()).await.0, 200, "{worker}");
        assert_eq!(send(request().header("X-Job-Error", "true")).await.0, 200, "{worker}");
        assert_eq!(bench.job(id).await, before, "{worker}");
    }
}

#[tokio::test]
async fn a_waiting_job_cannot_be_called_back() {
    let bench = Bench::new().await;
    bench.sql.batch_execute("SELECT app_jobs.add_job('task')").await.unwrap();
    let id: i64 = bench.sql.query_one("SELECT id FROM app_jobs.jobs", &[]).await.unwrap().get(0);
    let before = bench.job(id).await;
    assert_eq!(send(bench.callback(id)).await.0, 200);
    assert_eq!(send(bench.failure(id, "{}")).await.0, 200);
    assert_eq!(bench.job(id).await, before);
}

#[tokio::test]
async fn a_callback_frees_its_named_queue() {
    let bench = Bench::new().await;
    bench.sql.batch_execute("SELECT app_jobs.add_job('task', queue_name := 'line')").await.unwrap();
    let id = bench.sql.query_one("SELECT (app_jobs.get_job($1)).id", &[&HOLDER]).await.unwrap().get(0);
    let locked = "SELECT count(*) FROM app_jobs.job_queues WHERE locked_at IS NOT NULL";
    assert_eq!(bench.sql.query_one(locked, &[]).await.unwrap().get::<_, i64>(0), 1);
    assert_eq!(send(bench.failure(id, "{}")).await.0, 200);
    assert_eq!(bench.sql.query_one(locked, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn callbacks_share_a_connection_and_older_or_cautious_clients_are_understood() {
    let bench = Bench::new().await;
    let head = |id: i64| format!("Host: x\r\nX-Worker-Id: {HOLDER}\r\nX-Job-Id: {id}\r\n");
    let (one, two, three) = (bench.held().await, bench.held().await, bench.held().await);
    let mut pipelined = format!("POST /callback HTTP/1.1\r\n{}Content-Length: 2\r\n\r\n{{}}", head(one));
    pipelined += &format!("POST /callback HTTP/1.1\r\n{}Connection: close\r\nContent-Length: 0\r\n\r\n", head(two));
    bench.raw(pipelined.as_bytes()).await;
    let both = async || bench.job(one).await.is_none() && bench.job(two).await.is_none();
    job_testkit::eventually(super::support::LIMIT, both).await;
    let old = format!("POST /callback HTTP/1.0\r\n{}Content-Length: 0\r\n\r\n", head(three));
    let answer = bench.raw(old.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.0 200 ") || answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(bench.job(three).await, None);

    let id = bench.held().await;
    let request = bench.failure(id, r#"{"error":"asked first"}"#).header("Expect", "100-continue");
    assert_eq!(send(request).await.0, 200);
    assert_eq!(bench.job(id).await, waiting("asked first"));
}

/// The beginning and the end of a callback, written by a client that waits for no answer.
async fn write_callback(bench: &Bench, id: i64, headers: &str, body: &str) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", bench.port)).await.unwrap();
    let request = format!(
        "POST /callback HTTP/1.1\r\nHost: x\r\nX-Worker-Id: {HOLDER}\r\nX-Job-Id: {id}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn the_outcome_of_a_client_that_has_gone_is_stored_and_told() {
    let mut bench = Bench::with(&[("RUST_LOG", "info")]).await;
    let id = bench.held().await;
    // While somebody holds the row, nothing is answered.
    let holder = bench.db.connect().await;
    holder.batch_execute(&format!("BEGIN; SELECT FROM app_jobs.jobs WHERE id = {id} FOR UPDATE")).await.unwrap();
    let client = write_callback(&bench, id, "", "").await;
    bench.server.wait_for_line("the outcome waits for a row", LIMIT).await;
    drop(client);
    // An answer to somebody else shows that the server goes on; by then it may have seen that this one has gone.
    assert_eq!(send(bench.post()).await.0, 200);
    holder.batch_execute("COMMIT").await.unwrap();
    let line = bench.server.wait_for_line("completed by callback", LIMIT).await;
    assert!(line.contains(&format!("job.id={id}")), "{line}");
    assert_eq!(bench.job(id).await, None);
}

#[tokio::test]
async fn a_failure_without_words_of_a_client_that_has_gone_is_stored() {
    let bench = Bench::new().await;
    let id = bench.held().await;
    let headers = "X-Job-Error: true\r\nContent-Type: application/json\r\n";
    eventually(LIMIT, async || {
        let mut client = write_callback(&bench, id, headers, r#"{"error":"HTTP 500"}"#).await;
        // It has been read by then, as a rule: else the next round brings it.
        let answer = tokio::time::timeout(Duration::from_millis(300), client.read_u8()).await;
        answer.is_ok() || bench.job(id).await == waiting("HTTP 500")
    })
    .await;
    assert_eq!(bench.job(id).await, waiting("HTTP 500"));
}
