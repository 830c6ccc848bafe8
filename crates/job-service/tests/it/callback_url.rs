//! The service tries at its start whether its callback URL leads to it.

use job_testkit::cluster::free_port;
use job_testkit::{Answer, FakeFunction, Gate, eventually};

use super::support::{Bench, LIMIT, callback, program};

/// Until the last try is over, which comes after about 15 s.
const TRIED: std::time::Duration = std::time::Duration::from_secs(90);

#[tokio::test]
async fn a_callback_url_that_leads_to_the_service_is_found_and_not_warned_about() {
    let bench = Bench::new().await;
    let (mut service, _) = bench.service("http://127.0.0.1:1", &[("RUST_LOG", "info,job_worker=debug")]).await;
    service.wait_for_line("the callback URL leads here", LIMIT).await;
    assert!(!service.output().contains("does not lead to"), "{}", service.output());
}

#[tokio::test]
async fn another_service_of_the_same_database_behind_the_url_is_as_good_and_one_of_another_is_told() {
    let (bench, other) = (Bench::new().await, Bench::new().await);
    let (_first, port) = bench.service("http://127.0.0.1:1", &[]).await;
    let url = format!("http://127.0.0.1:{port}/callback");
    let env = [("INTERNAL_JOBS_CALLBACK_URL", &*url), ("RUST_LOG", "info,job_worker=debug"), ("HOSTNAME", "second")];
    let (mut second, _) = bench.service("http://127.0.0.1:1", &env).await;
    let (mut stranger, _) = other.service("http://127.0.0.1:1", &env).await;
    second.wait_for_line("leads to another callback server of this database", TRIED).await;
    stranger.wait_for_line("it leads to the callback server of another database", TRIED).await;
}

#[tokio::test]
async fn a_callback_url_that_leads_elsewhere_is_told_once_with_what_was_tried_and_holds_up_nothing() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let opened = gate.clone();
    // Asked at the callback URL, it answers when the gate is open. Until then each try takes its 5 s, so that the last
    // one is over after 45 s.
    let function = FakeFunction::start(move |request| {
        let gate = opened.clone();
        async move {
            if request.target.starts_with("/callback") {
                gate.passed().await;
            }
            Answer::complete()
        }
    })
    .await;
    let nobody = format!("http://127.0.0.1:{}/callback", free_port().unwrap());
    for (url, tried) in [
        (format!("{}/callback?token=secret", function.url()), "HTTP 200 from something else"),
        (nobody, "cannot connect to http://127.0.0.1:"),
        ("http://jobs-callback.invalid/callback".to_owned(), "cannot connect to http://jobs-callback.invalid"),
    ] {
        let (_, variables) = callback();
        let service = program().envs(bench.db.env()).envs(variables).env("INTERNAL_JOBS_CALLBACK_URL", &url);
        let mut service = service.env("KNATIVE_SERVICE_URL", function.url()).spawn();
        service.wait_for_line("worker looks for jobs", LIMIT).await;
        let id = bench.add("task").await;
        eventually(LIMIT, async || bench.job(id).await.is_none()).await;
        if url.starts_with(&function.url()) {
            assert!(!service.output().contains("does not lead to"), "a job waits for no try");
            gate.open();
        }
        let line = service.wait_for_line("the callback URL does not lead to this callback server", TRIED).await;
        assert!(line.contains("WARN") && line.contains(tried) && !line.contains("secret"), "{line}");
        assert!(line.contains("INTERNAL_JOBS_CALLBACK_URL"), "{line}");
        let warnings = service.lines().iter().filter(|line| line.contains("does not lead to")).count();
        assert_eq!(warnings, 1);
        service.stop(LIMIT).await;
    }
}
