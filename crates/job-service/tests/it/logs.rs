//! What a service says, and how loud.

use job_testkit::{Answer, FakeFunction, Signal, eventually};
use serde_json::Value;

use super::support::{Bench, LIMIT};

/// The lines of a log in JSON.
fn lines(service: &job_testkit::Process) -> Vec<Value> {
    service.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test]
async fn durations_are_numbers_an_orderly_stop_warns_of_nothing_and_postgres_is_as_loud_as_it_means_to_be() {
    let bench = Bench::new().await;
    let warn = "CREATE FUNCTION app_jobs.told() RETURNS trigger LANGUAGE plpgsql AS \
                $$ BEGIN RAISE WARNING 'of a trigger'; RAISE NOTICE 'in passing'; RETURN NULL; END $$; \
                CREATE TRIGGER told AFTER DELETE ON app_jobs.jobs EXECUTE FUNCTION app_jobs.told()";
    bench.sql.batch_execute(warn).await.unwrap();
    let function = FakeFunction::start(async |request| match &*request.target {
        "/accepted" => Answer::accepted(),
        "/failed" => Answer::status(500),
        _ => Answer::complete(),
    })
    .await;
    let env = [("LOG_FORMAT", "json"), ("JOBS_CALLBACK_SECRET", "a secret of the callback server")];
    let (mut service, _) = bench.service(&function.url(), &env).await;
    for (task, line) in [("completed", "job completed"), ("accepted", "job accepted"), ("failed", "attempt failed")] {
        bench.add(task).await;
        service.wait_for_line(line, LIMIT).await;
    }
    let said = |service: &_, message: &str| {
        lines(service)
            .into_iter()
            .find(|line| line["fields"]["message"].as_str().is_some_and(|said| said.contains(message)))
    };
    for message in ["job completed", "job accepted", "attempt failed"] {
        let line = said(&service, message).unwrap();
        assert!(line["fields"]["duration_ms"].is_u64(), "{line}");
    }
    eventually(LIMIT, async || said(&service, "of a trigger").is_some()).await;
    assert_eq!(said(&service, "of a trigger").unwrap()["level"], "WARN");
    assert_eq!(said(&service, "in passing").unwrap()["level"], "INFO");

    let before = lines(&service).len();
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
    for line in &lines(&service)[before..] {
        assert!(line["level"] != "WARN" && line["level"] != "ERROR", "an orderly stop: {line}");
    }
}
