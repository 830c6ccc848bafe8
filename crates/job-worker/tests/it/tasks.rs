//! Settings of single tasks: JOBS_TASKS.

use std::time::Duration;

use job_testkit::cluster::free_port;
use job_testkit::{Answer, FakeFunction, eventually};
use serde_json::json;

use super::support::{Bench, LIMIT};

#[tokio::test]
async fn two_functions_on_two_ports_are_reached_in_production() {
    let bench = Bench::new().await;
    let mail = FakeFunction::answering(Answer::complete()).await;
    let report = FakeFunction::answering(Answer::text(200, "done")).await;
    let rest = FakeFunction::answering(Answer::complete()).await;
    let tasks = json!({
        "mail": { "url": mail.url() },
        "report:monthly": { "url": format!("{}/monthly?format=pdf", report.url()), "complete_on_2xx": true },
    });
    let worker = bench.worker(&rest.url()).env("NODE_ENV", "production").env("JOBS_TASKS", tasks.to_string());
    let _worker = worker.spawn();
    for task in ["mail", "report:monthly", "other"] {
        bench.gone(bench.add_with(task, "{}", ", max_attempts := 1").await).await;
    }
    for (function, target) in [(&mail, "/mail"), (&report, "/monthly?format=pdf"), (&rest, "/other")] {
        let targets: Vec<_> = function.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(targets, [target]);
    }
}

#[tokio::test]
async fn each_task_has_its_own_time_retries_and_limit() {
    let bench = Bench::new().await;
    let function = FakeFunction::start(async |request| match request.target.as_str() {
        "/slow" => std::future::pending().await,
        _ => Answer::text(500, "down"),
    })
    .await;
    // On a host of its own, which is left alone then.
    let busy = FakeFunction::answering(Answer::text(503, "busy").header("Retry-After", "60")).await;
    let busy_url = format!("{}/busy", busy.url());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tasks.toml");
    let url = function.url();
    std::fs::write(
        &path,
        format!(
            "slow = {{ timeout = '1s', concurrency = 1 }}\n\
             busy = {{ url = '{busy_url}', retry = {{ max_attempts = 1 }} }}\n\
             ['*']\nurl = '{url}'\nretry = {{ first = '100s', max_attempts = 3 }}\n"
        ),
    )
    .unwrap();
    let worker = bench.worker("http://127.0.0.1:9").env("JOBS_TASKS", path.to_str().unwrap());
    let _worker = worker.spawn();
    let (slow, second) = (bench.add("slow").await, bench.add("slow").await);
    eventually(LIMIT, async || function.requests().len() == 1).await;
    let failed = bench.failed(bench.add("any").await).await;
    assert_eq!((failed.attempts, failed.wait.round()), (1, 100.0));
    let asked = function.requests().pop().unwrap();
    assert_eq!((asked.target.as_str(), asked.header("x-job-max-attempts")), ("/any", Some("3")));
    let busy = bench.failed(bench.add("busy").await).await;
    assert_eq!((busy.attempts, busy.last_error.as_deref()), (25, Some(&*format!("HTTP 503: busy (POST {busy_url})"))));
    for id in [slow, second] {
        let last_error = bench.failed(id).await.last_error.unwrap();
        assert_eq!(last_error, format!("no answer from {url}/slow within 1s (timeout of the task)"));
    }
    let slow: Vec<_> = function.requests().into_iter().filter(|request| request.target == "/slow").collect();
    assert!(slow[1].at - slow[0].at >= Duration::from_millis(900), "one at a time");
}

/// Fails by its callback before it answers 500, or for the task `accepts` after it has answered.
async fn calls_back() -> FakeFunction {
    FakeFunction::start(async |mut request| {
        if request.target.starts_with("/accepts") {
            return Answer::accepted();
        }
        if request.target.ends_with("template") {
            // As functions made from the original's Python template do.
            let url = format!("{}/callback", request.header("x-callback-url").unwrap());
            request.headers.insert("x-callback-url", url.parse().unwrap());
        }
        let (status, answer) = request.call_back_error("by callback").await;
        Answer::text(500, format!("callback: {status} {answer}"))
    })
    .await
}

#[tokio::test]
async fn a_failure_by_callback_is_tried_again_as_the_policy_of_its_task_says() {
    for secret in ["", "a secret of the callback server"] {
        let bench = Bench::new().await;
        let function = calls_back().await;
        let port = free_port().unwrap();
        let mut server = bench.server(port).env("JOBS_CALLBACK_SECRET", secret).spawn();
        server.wait_for_line("callback server listens", LIMIT).await;
        let (never, later) = (json!({ "retry": { "max_attempts": 1 } }), json!({ "retry": { "first": "100s" } }));
        let third = json!({ "retry": { "max_attempts": 3, "first": "100s" } });
        let tasks = json!({
            "never": never, "never:template": never, "accepts:never": never,
            "later": later, "later:template": later, "accepts:later": later,
            "third": third, "accepts:usual": {},
        });
        let worker = bench.worker(&function.url()).env("JOBS_TASKS", tasks.to_string());
        let worker = worker.env("INTERNAL_JOBS_CALLBACK_URL", format!("http://127.0.0.1:{port}/callback?tenant=a"));
        let mut worker = worker.env("JOBS_CALLBACK_SECRET", secret).spawn();
        for (task, attempts, wait) in [
            ("never", 25, None),
            ("never:template", 25, None),
            ("accepts:never", 25, None),
            ("later", 1, Some(100.0)),
            ("later:template", 1, Some(100.0)),
            ("accepts:later", 1, Some(100.0)),
            ("accepts:usual", 1, Some(1_f64.exp().round())),
        ] {
            let id = bench.add(task).await;
            if task.starts_with("accepts") {
                worker.wait_for_line(&format!("job accepted job.id={id}"), LIMIT).await;
                let request = function.requests().pop().unwrap();
                let (status, answer) = request.call_back_error("by callback").await;
                assert_eq!(status, 200, "{task}: {answer}");
            }
            let failed = bench.failed(id).await;
            assert_eq!(failed.last_error.as_deref(), Some("by callback"), "{task}");
            assert_eq!((failed.attempts, wait.map(|_| failed.wait.round())), (attempts, wait), "{task}: {secret:?}");
        }
        // The last attempt by the policy is one of several.
        let id = bench.add("third").await;
        let first = bench.failed(id).await;
        assert_eq!((first.attempts, first.wait.round()), (1, 100.0));
        let again = "run_at := now(), attempts := 2";
        bench.run(&format!("SELECT app_jobs.reschedule_jobs(ARRAY[{id}], {again})")).await;
        eventually(LIMIT, async || bench.job(id).await.is_some_and(|job| !job.locked && job.attempts == 25)).await;
    }
}

#[tokio::test]
async fn a_worker_with_wrong_settings_of_a_task_does_not_start_and_says_where() {
    let bench = Bench::new().await;
    let worker =
        bench.worker("http://127.0.0.1:9").env("JOBS_TASKS", r#"{"mail": {"timout": "5s", "retry": {"first": "x"}}}"#);
    let mut worker = worker.spawn();
    assert_eq!(worker.exit_code(LIMIT).await, 64);
    let output = worker.output();
    for told in [
        "JOBS_TASKS: mail.retry.first: is not a duration",
        "mail.timout: there is no such setting; do you mean timeout?",
    ] {
        assert!(output.contains(told), "{output}");
    }
}

#[tokio::test]
async fn a_limit_of_jobs_tasks_is_one_for_all_workers() {
    let bench = Bench::new().await;
    let function = FakeFunction::start(async |_| std::future::pending().await).await;
    let tasks = json!({ "slow": { "limit": { "max_running": 3, "rate": 1, "per": "1h", "burst": 2 } } });
    let start =
        |id: &str| bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_TASKS", tasks.to_string()).spawn();
    let mut workers = [start("worker-a"), start("worker-b")];
    for worker in &mut workers {
        worker.wait_for_line("worker looks for jobs", LIMIT).await;
    }
    for _ in 0..4 {
        bench.add("slow").await;
    }
    // A job without a gate that was enqueued later has come: the rest of the others waits.
    bench.add("another").await;
    eventually(LIMIT, async || function.requests().iter().any(|request| request.target == "/another")).await;
    eventually(LIMIT, async || function.requests().len() == 3).await;
    let row = bench.db.connect().await;
    let row = row.query_one("SELECT max_running, rate, per = '1h', burst FROM app_jobs.gates", &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2), row.get(3)), (3, 1, true, 2));
}

#[tokio::test]
async fn a_worker_whose_limit_cannot_be_set_says_what_it_needs_and_does_not_start() {
    let bench = Bench::new().await;
    let role = format!("{}_runtime", bench.db.name());
    bench.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret' IN ROLE jobs_runtime")).await;
    let tasks = json!({ "slow": { "limit": { "max_running": 3 } } });
    let start = || {
        let worker = bench.worker("http://127.0.0.1:9").env("PGUSER", &role).env("PGPASSWORD", "secret");
        worker.env("JOBS_TASKS", tasks.to_string()).spawn()
    };
    let mut worker = start();
    assert_eq!(worker.exit_code(LIMIT).await, 70);
    let output = worker.output();
    assert!(output.contains("JOBS_TASKS: slow.limit cannot be set") && output.contains("administrator"), "{output}");
    // Set by somebody else, it needs no right.
    bench.run("SELECT app_jobs.set_limit('task', 'slow', max_running => 3)").await;
    start().wait_for_line("worker looks for jobs", LIMIT).await;
    bench.run(&format!("DROP ROLE {role}")).await;
}
