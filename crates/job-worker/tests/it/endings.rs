//! The five ways a job ends, but for the failures on the way to the function (see `failures`).

use std::time::Duration;

use job_testkit::cluster::free_port;
use job_testkit::{Answer, FakeFunction, eventually};
use serde_json::json;

use super::support::{Bench, ID, LIMIT};

/// The job's task decides the answer: the last part of the path.
fn by_task(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> impl Future<Output = FakeFunction> {
    FakeFunction::start(move |request| {
        std::future::ready(answer(request.target.rsplit('/').next().unwrap_or_default()))
    })
}

#[tokio::test]
async fn an_answer_of_complete_true_completes_the_job_at_once() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::json(200, &json!({"complete": true, "dryRun": true}))).await;
    let mut worker = bench.worker(&function.url()).spawn();
    let id = bench.add("greet").await;
    bench.gone(id).await;
    worker.wait_for_line("job completed", LIMIT).await;
    assert_eq!(function.requests().len(), 1);
}

#[tokio::test]
async fn a_callback_of_success_completes_an_accepted_job_and_one_of_failure_fails_it() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let port = free_port().unwrap();
    let _server = bench.server(port).spawn();
    let url = format!("http://127.0.0.1:{port}");
    let mut worker = bench.worker(&function.url()).env("INTERNAL_JOBS_CALLBACK_URL", &url).spawn();

    let good = bench.add("good").await;
    let received = function.wait_for(1, LIMIT).await.remove(0);
    worker.wait_for_line("job accepted", LIMIT).await;
    let held = bench.job(good).await.expect("an accepted job stays");
    assert_eq!((held.locked_by.as_deref(), held.attempts), (Some(ID), 1));
    assert_eq!(received.call_back().await.0, 200);
    assert_eq!(bench.job(good).await, None, "the outcome is stored before the answer");

    let bad = bench.add("bad").await;
    let received = function.wait_for(2, LIMIT).await.remove(1);
    assert_eq!(received.call_back_error("HTTP 500").await.0, 200);
    let failed = bench.job(bad).await.expect("a failed job stays");
    assert_eq!((failed.last_error.as_deref(), failed.locked, failed.attempts), (Some("HTTP 500"), false, 1));
}

#[tokio::test]
async fn an_accepted_job_without_a_callback_fails_at_its_deadline() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let worker = bench.worker(&function.url()).env("JOBS_CALLBACK_TIMEOUT", "2s").env("JOBS_POLL_INTERVAL", "500ms");
    let _worker = worker.spawn();
    let id = bench.add("silent").await;
    let held = bench.held(id).await;
    assert_eq!((held.locked_by.as_deref(), held.attempts), (Some(ID), 1));
    let failed = bench.failed(id).await;
    assert_eq!(failed.last_error.as_deref(), Some("no callback within 2s"));
    assert_eq!(failed.attempts, 1);
    assert_eq!(function.requests().len(), 1, "it was not sent again before its deadline");
}

#[tokio::test]
async fn the_deadline_of_an_accepted_job_does_not_wait_for_the_next_poll() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let _worker = bench.worker(&function.url()).env("JOBS_CALLBACK_TIMEOUT", "2s").spawn();
    let id = bench.add("silent").await;
    assert_eq!(bench.failed(id).await.last_error.as_deref(), Some("no callback within 2s"));
}

#[tokio::test]
async fn an_accepted_job_ends_by_its_deadline_also_when_its_lock_would_expire_at_the_same_time() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    // Every end of a hold: with a message, or by another claim.
    bench
        .run(
            "CREATE TABLE ends (id bigint, error text, taken boolean);
             CREATE FUNCTION ended() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.ends VALUES (OLD.id, NEW.last_error, NEW.locked_at IS NOT NULL);
                 RETURN NULL;
             END $$;
             CREATE TRIGGER ended AFTER UPDATE ON app_jobs.jobs FOR EACH ROW
             WHEN (OLD.locked_at IS NOT NULL AND OLD.locked_at IS DISTINCT FROM NEW.locked_at) EXECUTE FUNCTION ended()",
        )
        .await;
    let limits = [("JOBS_CALLBACK_TIMEOUT", "3s"), ("JOBS_JOB_EXPIRY", "3s"), ("JOBS_DISPATCH_TIMEOUT", "3s")];
    let worker = || bench.worker(&function.url()).envs(limits).env("JOBS_POLL_INTERVAL", "100ms");
    let _workers = ["worker-1", "worker-2"].map(|id| worker().env("HOSTNAME", id).spawn());
    for _ in 0..30 {
        bench.add("silent").await;
    }
    let ended = "SELECT count(DISTINCT id) FROM ends";
    eventually(LIMIT, async || bench.sql.query_one(ended, &[]).await.unwrap().get::<_, i64>(0) == 30).await;
    let odd = "SELECT count(*) FROM ends WHERE taken OR error IS DISTINCT FROM 'no callback within 3s'";
    assert_eq!(bench.sql.query_one(odd, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn an_overdue_job_whose_row_somebody_holds_does_not_hold_up_other_jobs() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let worker = bench.worker(&function.url()).env("JOBS_CALLBACK_TIMEOUT", "1s").env("JOBS_POLL_INTERVAL", "500ms");
    let mut worker = worker.spawn();
    let held = bench.add("held").await;
    worker.wait_for_line("job accepted", LIMIT).await;
    eventually(LIMIT, async || bench.count("deadline IS NOT NULL").await == 1).await;
    bench.run(&format!("BEGIN; SELECT FROM app_jobs.jobs WHERE id = {held} FOR UPDATE")).await;
    let other = bench.db.connect().await;
    // Heartbeats come, and see that it is overdue.
    let passed = "SELECT count(*) FROM app_jobs.jobs j, app_jobs.workers w WHERE w.heartbeat_at > j.deadline";
    eventually(LIMIT, async || other.query_one(passed, &[]).await.unwrap().get::<_, i64>(0) > 0).await;
    other.batch_execute("SELECT app_jobs.add_job('free')").await.unwrap();
    assert_eq!(function.wait_for(2, LIMIT).await[1].target, "/free");
    bench.run("COMMIT").await;
    assert_eq!(bench.failed(held).await.last_error.as_deref(), Some("no callback within 1s"));
}

#[tokio::test]
async fn anything_but_complete_true_is_acceptance_not_completion() {
    let bench = Bench::new().await;
    let function = by_task(|task| match task {
        "text" => Answer::text(200, "complete: true"),
        "string" => Answer::json(200, &json!({"complete": "true"})),
        "false" => Answer::json(201, &json!({"complete": false})),
        "array" => Answer::json(200, &json!([{"complete": true}])),
        "broken" => Answer::text(200, r#"{"complete": true"#),
        _ => Answer::status(204),
    })
    .await;
    let tasks = ["text", "string", "false", "array", "broken", "empty"];
    let mut worker = bench.worker(&function.url()).spawn();
    for task in tasks {
        bench.add(task).await;
        worker.wait_for_line(&format!("job accepted job.id={}", bench.last_id().await), LIMIT).await;
    }
    assert_eq!(bench.count("locked_by = 'worker-test' AND attempts = 1 AND last_error IS NULL").await, 6);
}

#[tokio::test]
async fn with_complete_on_2xx_every_2xx_but_202_completes() {
    let bench = Bench::new().await;
    let function = by_task(|task| match task {
        "ok" => Answer::text(200, "ok"),
        "empty" => Answer::status(204),
        "later" => Answer::text(202, "ok"),
        "later-done" => Answer::json(202, &json!({"complete": true})),
        "error" => Answer::json(200, &json!({"message": "boom"})).header("X-Job-Error", "true"),
        _ => Answer::text(500, "down"),
    })
    .await;
    let mut worker = bench.worker(&function.url()).env("JOBS_COMPLETE_ON_2XX", "true").spawn();
    let later = bench.add("later").await;
    worker.wait_for_line(&format!("job accepted job.id={later}"), LIMIT).await;
    assert!(bench.job(later).await.is_some_and(|job| job.locked));
    for task in ["ok", "empty", "later-done"] {
        bench.gone(bench.add(task).await).await;
    }
    assert_eq!(bench.failed(bench.add("error").await).await.last_error.as_deref(), Some("boom"));
    assert_eq!(
        bench.failed(bench.add("other").await).await.last_error,
        Some(format!("HTTP 500: down (POST {}/other)", function.url()))
    );
}

#[tokio::test]
async fn an_answer_with_x_job_error_or_not_2xx_fails_the_job_with_the_functions_words() {
    let bench = Bench::new().await;
    let long = "x".repeat(5000);
    let cases = [
        ("thrown", Answer::json(200, &json!({"message": "boom"})).header("X-Job-Error", "true"), "boom"),
        ("both", Answer::json(500, &json!({"message": "second", "error": "first"})), "first"),
        ("lines", Answer::json(400, &json!({"error": "a\n\"b\" ü 😀"})), "a\n\"b\" ü 😀"),
        ("empty-error", Answer::json(500, &json!({"error": "", "message": "second"})), "second"),
        ("object", Answer::json(500, &json!({"error": {"code": 5}})), r#"{"code":5}"#),
        ("nul", Answer::json(500, &json!({"error": "a\u{0}b"})), "a\u{fffd}b"),
        ("bare", Answer::status(503), "HTTP 503"),
        ("text", Answer::text(502, "bad gateway\n"), "HTTP 502: bad gateway"),
        ("nul-text", Answer::text(500, "a\u{0}b"), "HTTP 500: a\u{fffd}b"),
        ("complete-error", Answer::json(500, &json!({"complete": true})), r#"HTTP 500: {"complete":true}"#),
        ("not-modified", Answer::status(304), "HTTP 304"),
        ("bare-error", Answer::status(200).header("X-Job-Error", "true"), "HTTP 200"),
        ("long", Answer::text(500, long.clone()), "HTTP 500: x"),
    ];
    let answers = cases.clone();
    let function = by_task(move |task| {
        let case = answers.iter().find(|(name, ..)| *name == task);
        case.map_or(Answer::status(418), |(_, answer, _)| answer.clone())
    })
    .await;
    let _worker = bench.worker(&function.url()).spawn();
    for (task, _, error) in &cases {
        let job = bench.failed(bench.add(task).await).await;
        let last_error = job.last_error.unwrap_or_default();
        assert_eq!(job.attempts, 1, "{task}");
        if error.starts_with("HTTP ") && *task != "long" {
            assert_eq!(last_error, format!("{error} (POST {}/{task})", function.url()), "{task}");
        } else if *task == "long" {
            assert!(last_error.starts_with(error) && last_error.len() < 1000, "{} characters", last_error.len());
        } else {
            assert_eq!(&last_error, error, "{task}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let bench = Bench::new().await;
    let elsewhere = FakeFunction::answering(Answer::complete()).await;
    let target = elsewhere.url();
    let function = by_task(move |task| {
        let status = task.parse().unwrap_or(500);
        Answer::status(status).header("Location", &target)
    })
    .await;
    let _worker = bench.worker(&function.url()).spawn();
    for status in ["301", "302", "303", "307", "308"] {
        let job = bench.failed(bench.add(status).await).await;
        let (asked, place) = (function.url(), elsewhere.url());
        let told = format!("HTTP {status} (POST {asked}/{status}, Location: {place}/; redirects are not followed)");
        assert_eq!(job.last_error, Some(told));
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn a_callback_after_the_answer_has_settled_the_attempt_changes_nothing() {
    let bench = Bench::new().await;
    let function = by_task(|task| if task == "done" { Answer::complete() } else { Answer::text(500, "down") }).await;
    let port = free_port().unwrap();
    let mut server = bench.server(port).spawn();
    server.wait_for_line("callback server listens", LIMIT).await;
    let url = format!("http://127.0.0.1:{port}");
    let _worker = bench.worker(&function.url()).env("INTERNAL_JOBS_CALLBACK_URL", &url).spawn();

    let done = bench.add("done").await;
    bench.gone(done).await;
    let failing = bench.add_with("fails", "{}", ", max_attempts := 1").await;
    let before = bench.failed(failing).await;
    let requests = function.requests();
    // Each report contradicts what the answer said.
    assert_eq!(requests[0].call_back_error("late").await.0, 200);
    assert_eq!(requests[1].call_back().await.0, 200);
    assert_eq!(bench.job(done).await, None);
    assert_eq!(bench.job(failing).await, Some(before));
}

#[tokio::test]
async fn a_callback_that_comes_before_the_answer_counts_and_the_answer_then_changes_nothing() {
    let bench = Bench::new().await;
    let function = FakeFunction::start(async |request| {
        let (status, _) = request.call_back_error("from the callback").await;
        if status == 200 { Answer::complete() } else { Answer::text(500, format!("callback: {status}")) }
    })
    .await;
    let port = free_port().unwrap();
    let mut server = bench.server(port).spawn();
    server.wait_for_line("callback server listens", LIMIT).await;
    let url = format!("http://127.0.0.1:{port}/callback?token=x");
    let mut worker = bench.worker(&function.url()).env("INTERNAL_JOBS_CALLBACK_URL", &url).spawn();
    let id = bench.add_with("both", "{}", ", max_attempts := 1").await;
    worker.wait_for_line("job already settled", LIMIT).await;
    let job = bench.job(id).await.expect("the callback failed it");
    assert_eq!((job.last_error.as_deref(), job.locked), (Some("from the callback"), false));
}

#[tokio::test]
async fn a_retry_waits_e_to_the_attempts_seconds_and_is_made_without_a_poll() {
    let bench = Bench::new().await;
    let function = FakeFunction::start(async |request| {
        if request.json()["fail"] == json!(true) { Answer::text(500, "down") } else { Answer::complete() }
    })
    .await;
    let _worker = bench.worker(&function.url()).spawn();
    let id = bench.add_with("again", r#"{"fail": true}"#, "").await;
    let failed = bench.failed(id).await;
    assert!((failed.wait - 1f64.exp()).abs() < 0.5, "{failed:?}");
    bench.run("UPDATE app_jobs.jobs SET payload = '{}'").await;
    bench.gone(id).await;
    let requests = function.requests();
    assert_eq!(requests.len(), 2);
    let between = requests[1].at - requests[0].at;
    assert!(between > Duration::from_millis(2600) && between < Duration::from_secs(8), "{between:?}");
}
