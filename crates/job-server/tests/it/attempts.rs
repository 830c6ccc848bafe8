//! Which attempt a callback is for, who may send it, and how a function gets more time.

use job_testkit::Signal;
use job_utils::config::Secret;
use job_utils::outcome::AfterFailure;
use job_utils::wire::signature::{CallbackSecrets, CallbackUrls};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::support::{Bench, HOLDER, LIMIT, send};

const OLD: &str = "an old secret of 26 letters";
const NEW: &str = "a new secret of 26 letters";

async fn epoch(bench: &Bench, id: i64) -> i64 {
    bench.sql.query_one("SELECT epoch FROM app_jobs.jobs WHERE id = $1", &[&id]).await.unwrap().get(0)
}

/// A callback to a path with a query, for a job of [`HOLDER`].
fn to(bench: &Bench, path_and_query: &str, id: i64) -> RequestBuilder {
    let request = bench.request(reqwest::Method::POST, path_and_query);
    request.header("X-Worker-Id", HOLDER).header("X-Job-Id", id)
}

/// Path and query that a worker with these secrets gives out.
fn given_out(path: &str, secrets: &str, id: i64, epoch: i64) -> String {
    let base = format!("http://server{path}").parse().unwrap();
    let urls = CallbackUrls::new(&base, CallbackSecrets::parse(&Secret::new(secrets)));
    urls.of(id, HOLDER, epoch, AfterFailure::Usual).strip_prefix("http://server").unwrap().to_owned()
}

/// The same for a task with a policy.
fn given_out_with(secrets: &str, id: i64, epoch: i64, after: AfterFailure) -> String {
    let urls =
        CallbackUrls::new(&"http://server/callback".parse().unwrap(), CallbackSecrets::parse(&Secret::new(secrets)));
    urls.of(id, HOLDER, epoch, after).strip_prefix("http://server").unwrap().to_owned()
}

fn is_stale(body: &str) -> bool {
    serde_json::from_str::<Value>(body).unwrap()["stale"] == json!(true)
}

#[tokio::test]
async fn a_callback_of_an_earlier_attempt_is_stale_and_changes_nothing() {
    let mut bench = Bench::with(&[("RUST_LOG", "info,job_server=debug")]).await;
    let id = bench.held().await;
    let first = epoch(&bench, id).await;
    bench
        .sql
        .batch_execute("SELECT app_jobs.release_jobs('worker-test'), app_jobs.get_job('worker-test')")
        .await
        .unwrap();
    let second = epoch(&bench, id).await;
    let before = bench.job(id).await;
    let (status, body) = send(to(&bench, &format!("/callback?epoch={first}"), id)).await;
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer, json!({"workerId": HOLDER, "jobId": id.to_string(), "stale": true}));
    let failure = to(&bench, &format!("/callback?epoch={first}"), id).header("X-Job-Error", "true");
    let (status, body) = send(failure).await;
    assert_eq!((status, is_stale(&body)), (200, true));
    assert_eq!(bench.job(id).await, before);
    bench.server.wait_for_line("stale callback changed nothing", LIMIT).await;
    bench.server.wait_for_line("stale=2", LIMIT).await;

    let (status, body) = send(to(&bench, &format!("/callback?epoch={second}"), id)).await;
    assert_eq!((status, is_stale(&body)), (200, false));
    assert_eq!(bench.job(id).await, None);
    let (status, body) = send(to(&bench, &format!("/callback?epoch={second}"), id)).await;
    assert_eq!((status, is_stale(&body)), (200, true), "a duplicate");
    bench.server.signal(Signal::Term);
    bench.server.wait_for_line("callback server stopped stale=3", LIMIT).await;
}

#[tokio::test]
async fn without_a_secret_a_callback_without_an_epoch_is_matched_by_the_worker_and_the_server_warns_once() {
    let mut bench = Bench::new().await;
    bench.server.wait_for_line("JOBS_CALLBACK_SECRET is not set", LIMIT).await;
    let id = bench.held().await;
    assert_eq!(send(to(&bench, "/callback?tenant=a", id)).await.0, 200);
    assert_eq!(bench.job(id).await, None);
    let warnings = bench.server.lines().iter().filter(|line| line.contains("JOBS_CALLBACK_SECRET")).count();
    assert_eq!(warnings, 1);
}

#[tokio::test]
async fn an_epoch_that_is_none_is_refused() {
    let bench = Bench::new().await;
    let id = bench.held().await;
    let before = bench.job(id).await;
    for query in ["epoch=", "epoch=x", "epoch=-1", "epoch=99999999999999999999"] {
        let (status, body) = send(to(&bench, &format!("/callback?{query}"), id)).await;
        assert!(status == 400 && body.contains("epoch"), "{query}: {status} {body}");
    }
    assert_eq!(bench.job(id).await, before);
}

#[tokio::test]
async fn with_a_secret_only_what_a_worker_has_signed_is_taken() {
    let mut bench = Bench::with(&[("JOBS_CALLBACK_SECRET", &format!("{NEW},{OLD}"))]).await;
    for path in ["/callback", "/callback/extend"] {
        let (id, other) = (bench.held().await, bench.held().await);
        let live = epoch(&bench, id).await;
        let before = bench.job(id).await;
        let signed = given_out(path, NEW, id, live);
        let unsigned = [
            path.to_owned(),
            format!("{path}?epoch={live}"),
            format!("{path}?epoch={live}&signature="),
            given_out(path, "another secret altogether", id, live),
            given_out(path, NEW, id, live + 1).replace(&(live + 1).to_string(), &live.to_string()),
            given_out(path, NEW, other, live),
            signed.replace("signature=", "signatures="),
        ];
        for url in unsigned {
            let (status, body) = send(to(&bench, &url, id)).await;
            assert!(status == 401 && body.contains("X-Callback-Url"), "{status} {body}");
        }
        let thief = bench.request(reqwest::Method::POST, &signed).header("X-Job-Id", id);
        assert_eq!(send(thief.header("X-Worker-Id", "other-worker")).await.0, 401);
        assert_eq!(bench.job(id).await, before);
        // Both secrets are good while one is replaced.
        assert_eq!(send(to(&bench, &signed, id)).await.0, 200);
        let of_other = given_out(path, OLD, other, epoch(&bench, other).await);
        assert_eq!(send(to(&bench, &of_other, other)).await.0, 200);
        bench.sql.batch_execute("DELETE FROM app_jobs.jobs").await.unwrap();
    }
    assert_eq!(send(bench.post()).await, (200, r#""OK""#.to_owned()), "a health probe needs none");
    let output = bench.server.output();
    assert!(!output.contains("signature") && !output.contains("secret of 26"), "{output}");
    assert!(!output.contains("is not set"), "{output}");
    assert!(bench.server.is_running());
}

#[tokio::test]
async fn a_function_can_have_its_deadline_extended() {
    let bench = Bench::with(&[("JOBS_CALLBACK_TIMEOUT", "2h")]).await;
    let id = bench.held().await;
    let live = epoch(&bench, id).await;
    let left = async || -> f64 {
        let left = "SELECT round(extract(epoch FROM deadline - updated_at))::float8 FROM app_jobs.jobs WHERE id = $1";
        bench.sql.query_one(left, &[&id]).await.unwrap().get(0)
    };
    let extend = |body: &str| {
        // As curl sends it: whatever is there must be JSON.
        let request = to(&bench, &format!("/callback/extend?epoch={live}"), id);
        request.header("Content-Type", "application/x-www-form-urlencoded").body(body.to_owned())
    };
    let (status, body) = send(extend(r#"{"seconds": 600}"#)).await;
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer, json!({"workerId": HOLDER, "jobId": id.to_string()}));
    assert_eq!(left().await, 600.0);
    assert_eq!(send(extend("")).await.0, 200);
    assert_eq!(left().await, 7200.0);
    for bad in ["{", r#"{"seconds": 0}"#, r#"{"seconds": "soon"}"#, r#"{"seconds": 1e9}"#] {
        let (status, body) = send(extend(bad)).await;
        assert!(status == 400 && body.contains("error"), "{bad}: {status} {body}");
    }
    let (status, body) = send(to(&bench, &format!("/callback/extend?epoch={}", live / 2), id)).await;
    assert_eq!((status, is_stale(&body)), (200, true));
    assert_eq!(left().await, 7200.0);
    let no_job = bench.request(reqwest::Method::POST, "/callback/extend").header("X-Worker-Id", HOLDER);
    assert_eq!(send(no_job).await.0, 400);
    assert_eq!(send(bench.request(reqwest::Method::GET, "/callback/extend")).await.0, 405);
    assert!(bench.job(id).await.is_some());
}

/// Fails a job by a callback to a path with a query.
async fn fail(bench: &Bench, path_and_query: &str, id: i64) -> (u16, String) {
    let request = to(bench, path_and_query, id).header("X-Job-Error", "true");
    send(request.header("Content-Type", "application/json").body(r#"{"error":"no"}"#)).await
}

/// Attempts, and the seconds until the next.
async fn next(bench: &Bench, id: i64) -> (i32, f64) {
    let sql = "SELECT attempts, extract(epoch FROM run_at - updated_at)::float8 FROM app_jobs.jobs WHERE id = $1";
    let row = bench.sql.query_one(sql, &[&id]).await.unwrap();
    (row.get(0), row.get::<_, f64>(1).round())
}

#[tokio::test]
async fn what_follows_a_failure_is_taken_as_the_worker_has_signed_it_and_not_otherwise() {
    let bench = Bench::with(&[("JOBS_CALLBACK_SECRET", NEW)]).await;
    let minute = AfterFailure::Retry(std::time::Duration::from_secs(60));
    for (after, others) in [
        (AfterFailure::Usual, ["&last=1", "&retry_ms=1000"]),
        (AfterFailure::Last, ["", "&last=0"]),
        (minute, ["", "&retry_ms=1"]),
    ] {
        let id = bench.held().await;
        let before = bench.job(id).await;
        let url = given_out_with(NEW, id, epoch(&bench, id).await, after);
        let signed = url.find("&signature=").unwrap();
        let begins = url.find("epoch=").and_then(|at| url[at..].find('&').map(|length| at + length)).unwrap();
        for other in others {
            let changed = format!("{}{other}{}", &url[..begins], &url[signed..]);
            let (status, body) = fail(&bench, &changed, id).await;
            assert!(status == 401 && body.contains("X-Callback-Url as it is"), "{changed}: {status} {body}");
            assert_eq!(bench.job(id).await, before, "{changed}");
        }
        assert_eq!(fail(&bench, &format!("{url}/callback"), id).await.0, 200, "{url}");
        let (attempts, wait) = next(&bench, id).await;
        match after {
            // e seconds, less what the look took.
            AfterFailure::Usual => assert!(attempts == 1 && (1.0..=3.0).contains(&wait), "{attempts} {wait}"),
            AfterFailure::Retry(_) => assert_eq!((attempts, wait), (1, 60.0)),
            AfterFailure::Last => assert_eq!(attempts, 25),
        }
        bench.sql.batch_execute("DELETE FROM app_jobs.jobs").await.unwrap();
    }
    // A success is one, whatever follows a failure.
    let id = bench.held().await;
    let url = given_out_with(NEW, id, epoch(&bench, id).await, AfterFailure::Last);
    assert_eq!(send(to(&bench, &url, id)).await.0, 200);
    assert_eq!(bench.job(id).await, None);
}
