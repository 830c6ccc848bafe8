//! Functions that are not ready for a job and say when to ask again.

use std::time::Duration;

use job_testkit::{Answer, FakeFunction};

use super::support::{Bench, LIMIT};

#[tokio::test]
async fn a_429_with_retry_after_snoozes_the_job_and_is_told_as_no_failure() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::text(429, "slow down").header("Retry-After", "120")).await;
    let mut worker = bench.worker(&function.url()).spawn();
    let id = bench.add("busy").await;
    let put_off = bench.failed(id).await;
    assert_eq!(put_off.last_error, Some(format!("HTTP 429: slow down (POST {}/busy)", function.url())));
    let line = worker.wait_for_line("job snoozed", LIMIT).await;
    assert!(line.contains(&format!("job.id={id}")) && line.contains("after=\"2m\""), "{line}");
    assert_eq!(function.requests().len(), 1);
}

#[tokio::test]
async fn without_a_usable_retry_after_429_and_503_are_failures_like_any_other() {
    let bench = Bench::new().await;
    let function = FakeFunction::start(async |request| match request.target.as_str() {
        "/plain" => Answer::text(429, "slow down"),
        "/soon" => Answer::text(429, "slow down").header("Retry-After", "soon"),
        "/down" => Answer::text(503, "restarting").header("Retry-After", "-5"),
        // Of others it means nothing.
        _ => Answer::text(500, "down").header("Retry-After", "120"),
    })
    .await;
    let _worker = bench.worker(&function.url()).spawn();
    for (task, last_error) in [
        ("plain", "HTTP 429: slow down"),
        ("soon", "HTTP 429: slow down"),
        ("down", "HTTP 503: restarting"),
        ("other", "HTTP 500: down"),
    ] {
        let failed = bench.failed(bench.add(task).await).await;
        let told = format!("{last_error} (POST {}/{task})", function.url());
        assert_eq!((failed.last_error.as_deref(), failed.attempts), (Some(&*told), 1), "{task}");
        assert!((failed.wait - 1f64.exp()).abs() < 0.5, "{task}: {failed:?}");
    }
}

#[tokio::test]
async fn a_job_is_due_when_the_function_said_and_a_429_uses_up_no_attempt() {
    let bench = Bench::new().await;
    // A host each: it is closed to all its jobs until then.
    let mut functions = Vec::new();
    for (task, status, wait) in [
        ("busy", 429, "120"),
        ("down", 503, "120"),
        ("long", 429, "999999"),
        // Two minutes after the answer's Date, whatever the clock here says.
        ("date", 503, "Sun, 06 Nov 1994 08:51:37 GMT"),
    ] {
        let answer = Answer::text(status, "not now").header("Retry-After", wait);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let answer = if task == "date" { answer.header("Date", date) } else { answer };
        functions.push((task, FakeFunction::answering(answer).await));
    }
    let urls = functions.iter().map(|(task, function)| format!(r#""{task}": "{}/{task}""#, function.url()));
    let map = format!("{{{}}}", urls.collect::<Vec<_>>().join(", "));
    let _worker = bench.worker("http://127.0.0.1:9").env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map).spawn();
    // With one attempt only, and in a queue: one that waits is not exhausted, and holds nobody up.
    for ((task, function), (attempts, wait, last_error)) in functions.iter().zip([
        (0, 120.0, "HTTP 429: not now"),
        (1, 120.0, "HTTP 503: not now"),
        (0, 86400.0, "HTTP 429: not now"),
        (1, 120.0, "HTTP 503: not now"),
    ]) {
        let id = bench.add_with(task, "{}", ", max_attempts := 1, queue_name := 'one'").await;
        let put_off = bench.failed(id).await;
        let told = format!("{last_error} (POST {}/{task})", function.url());
        assert_eq!((put_off.attempts, put_off.last_error.as_deref()), (attempts, Some(&*told)), "{task}");
        assert!((put_off.wait - wait).abs() < 5.0 && put_off.locked_by.is_none(), "{task}: {put_off:?}");
    }
}

#[tokio::test]
async fn a_job_that_was_snoozed_by_a_429_runs_when_its_time_has_come() {
    let bench = Bench::new().await;
    // Busy three times, and the job has one attempt.
    let function = FakeFunction::start({
        let calls = std::sync::atomic::AtomicUsize::new(0);
        move |_| {
            let busy = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3;
            let answer = if busy { Answer::status(429).header("Retry-After", "1") } else { Answer::complete() };
            std::future::ready(answer)
        }
    })
    .await;
    let _worker = bench.worker(&function.url()).spawn();
    bench.gone(bench.add_with("busy", "{}", ", max_attempts := 1").await).await;
    let requests = function.requests();
    assert_eq!(requests.len(), 4);
    for pair in requests.windows(2) {
        let between = pair[1].at - pair[0].at;
        assert!(between > Duration::from_millis(950) && between < Duration::from_secs(5), "{between:?}");
    }
}
