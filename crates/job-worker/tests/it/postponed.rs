//! Functions that are not ready for a job and say when to ask again.

use job_testkit::{Answer, FakeFunction};

use super::support::{Bench, LIMIT};

#[tokio::test]
async fn a_429_with_retry_after_postpones_the_job_and_is_told_as_no_failure() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::text(429, "slow down").header("Retry-After", "120")).await;
    let mut worker = bench.worker(&function.url()).spawn();
    let id = bench.add("busy").await;
    let postponed = bench.failed(id).await;
    assert_eq!(postponed.last_error.as_deref(), Some("HTTP 429: slow down"));
    let line = worker.wait_for_line("job postponed", LIMIT).await;
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
        assert_eq!((failed.last_error.as_deref(), failed.attempts), (Some(last_error), 1), "{task}");
        assert!((failed.wait - 1f64.exp()).abs() < 0.5, "{task}: {failed:?}");
    }
}
