//! The program as a process, and requests to it.

use std::time::Duration;

use job_testkit::Process;
use reqwest::Response;
use serde_json::Value;
use tokio::net::TcpListener;

pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Program {
    pub(crate) process: Process,
    url: String,
}

impl Program {
    /// Starts it with these variables on a free port, and waits until it listens.
    pub(crate) async fn start(variables: &[(&str, &str)]) -> Self {
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
            free.local_addr().unwrap().port()
        };
        let mut process = job_testkit::process::Program::at(env!("CARGO_BIN_EXE_send-verification-link"))
            .envs([("PORT", port.to_string()), ("LOG_FORMAT", "json".to_owned())])
            .envs(variables.iter().copied())
            .spawn();
        process.wait_for_line("listening", SOON).await;
        Self { process, url: format!("http://127.0.0.1:{port}/email:send_verification_link") }
    }

    pub(crate) async fn post(&self, headers: &[(&str, &str)], payload: &Value) -> Response {
        let mut request = reqwest::Client::new().post(&self.url).json(payload);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    /// The status, whether X-Job-Error is true, and the body, of a job of the test's database.
    pub(crate) async fn job(&self, payload: &Value) -> (u16, bool, Value) {
        let headers = [("x-worker-id", "worker-0"), ("x-job-id", "1"), ("x-database-id", crate::DATABASE_ID)];
        let answer = self.post(&headers, payload).await;
        let error = answer.headers().get("x-job-error").is_some_and(|value| value == "true");
        (answer.status().as_u16(), error, answer.json().await.unwrap())
    }

    /// The fields of the dry run's lines, in the order of the jobs.
    pub(crate) async fn dry_runs(&mut self, count: usize) -> Vec<Value> {
        let mut found = Vec::new();
        job_testkit::eventually(SOON, async || {
            found = self.process.lines().iter().filter(|line| line.contains("dry run")).cloned().collect();
            found.len() >= count
        })
        .await;
        found.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].clone()).collect()
    }
}
