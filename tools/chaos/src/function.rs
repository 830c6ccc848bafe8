//! A function instance: this program once more, as a process of its own, so that it can be killed and halted.
//!
//! It tells the harness of each start and each end before it tells anybody else, and does what the payload asks for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use clap::Args;
use job_fn::{App, Context, FunctionError};
use job_testkit::wait::work_for;
use job_utils::shutdown::Shutdown;
use job_utils::wire::headers::{X_CALLBACK_URL, X_JOB_ERROR, X_JOB_ID, X_WORKER_ID};
use reqwest::{Client, Url};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::checker::{DOWN, failure_of};
use super::workload::{Behaviour, Failure, Mode};

/// How long a callback is tried again.
const INSIST: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_millis(200);
/// Long enough for a server that holds a callback while its database is away, short enough for a network that is
/// silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Which instance this is.
#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    index: usize,
    #[arg(long)]
    port: u16,
    /// Where the harness listens
    #[arg(long)]
    recorder: u16,
    /// Use the crate job-fn, which decides itself how to report
    #[arg(long)]
    sdk: bool,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await.context("cannot listen")?;
    let client = Client::builder().timeout(ANSWER_TIMEOUT).build()?;
    let recorder = Recorder { client: client.clone(), port: options.recorder, index: options.index };
    if options.sdk {
        let handler = move |context: Context, payload: Value| with_sdk(recorder.clone(), context, payload);
        // The signals end this program from outside.
        App::new(handler).run(listener, Shutdown::new()).await?;
    } else {
        let shared = Arc::new(Shared { recorder, client });
        axum::serve(listener, Router::new().fallback(receive).with_state(shared)).await?;
    }
    Ok(())
}

/// The harness.
#[derive(Clone)]
struct Recorder {
    client: Client,
    port: u16,
    index: usize,
}

/// A run that has been told to the harness.
struct Begun {
    run: u64,
    success: bool,
}

impl Recorder {
    /// None: it is to be down.
    async fn begin(&self, job: &str, worker: &str, epoch: Option<i64>, payload: &Value) -> Result<Option<Begun>> {
        let job: i64 = job.parse().context("not a job id")?;
        let n = &payload["n"];
        let start = json!({ "job": job, "n": n, "worker": worker, "epoch": epoch, "function": self.index });
        let answer = self.post("start", &start).await?;
        if answer["down"] == true {
            return Ok(None);
        }
        let number = |name: &str| answer[name].as_u64().with_context(|| format!("no {name} in {answer}"));
        let success = number("failures")? >= u64::from(Behaviour::read(payload).fails);
        Ok(Some(Begun { run: number("run")?, success }))
    }

    async fn end(&self, begun: &Begun) -> Result<()> {
        self.post("finish", &json!({ "run": begun.run, "success": begun.success })).await.map(drop)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let url = format!("http://127.0.0.1:{}/{path}", self.port);
        Ok(self.client.post(url).json(body).send().await?.error_for_status()?.json().await?)
    }
}

/// A handler of the SDK: it sees neither the callback URL nor its epoch, and always calls back.
async fn with_sdk(recorder: Recorder, context: Context, payload: Value) -> Result<Value, FunctionError> {
    let (job, worker) = (context.job_id.unwrap_or_default(), context.worker_id.unwrap_or_default());
    let begun = recorder.begin(&job, &worker, None, &payload).await?;
    let begun = begun.ok_or_else(|| FunctionError::status(503, DOWN))?;
    let behaviour = Behaviour::read(&payload);
    work_for(behaviour.work).await;
    recorder.end(&begun).await?;
    match (begun.success, behaviour.failure) {
        (true, _) => Ok(json!({ "complete": behaviour.mode != Mode::Callback })),
        (false, Failure::Status) => Err(FunctionError::status(500, failure_of(begun.run))),
        (false, Failure::Busy) => Err(FunctionError::status(429, failure_of(begun.run))),
        (false, Failure::Thrown) => Err(FunctionError::thrown(failure_of(begun.run))),
    }
}

struct Shared {
    recorder: Recorder,
    client: Client,
}

/// A function without the SDK.
async fn receive(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    match attempt(shared, &headers, &body).await {
        Ok(response) => response,
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
    }
}

async fn attempt(shared: Arc<Shared>, headers: &HeaderMap, body: &[u8]) -> Result<Response> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (job, worker) = (header(X_JOB_ID), header(X_WORKER_ID));
    let url = Url::parse(&header(X_CALLBACK_URL)).context("no callback URL")?;
    let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
    let epoch = query.get("epoch").and_then(|epoch| epoch.parse().ok());
    let payload: Value = serde_json::from_slice(body)?;
    let behaviour = Behaviour::read(&payload);
    let Some(begun) = shared.recorder.begin(&job, &worker, epoch, &payload).await? else {
        return Ok((StatusCode::SERVICE_UNAVAILABLE, json!({ "error": DOWN }).to_string()).into_response());
    };
    let report = Report { url, job, worker, error: (!begun.success).then(|| failure_of(begun.run)) };
    if behaviour.mode == Mode::Callback {
        tokio::spawn(async move {
            work_for(behaviour.work).await;
            if shared.recorder.end(&begun).await.is_ok() {
                report.send(&shared.client).await;
            }
        });
        return Ok((StatusCode::ACCEPTED, "{}").into_response());
    }
    work_for(behaviour.work).await;
    shared.recorder.end(&begun).await?;
    let response = answer(&begun, behaviour.failure);
    if behaviour.mode == Mode::Both {
        tokio::spawn(async move { report.send(&shared.client).await });
    }
    Ok(response)
}

fn answer(begun: &Begun, failure: Failure) -> Response {
    let message = failure_of(begun.run);
    let error = json!({ "error": message }).to_string();
    match (begun.success, failure) {
        (true, _) => r#"{"complete":true}"#.into_response(),
        (false, Failure::Status) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
        (false, Failure::Busy) => (StatusCode::TOO_MANY_REQUESTS, [("Retry-After", "1")], error).into_response(),
        (false, Failure::Thrown) => {
            ([(X_JOB_ERROR, "true")], json!({ "message": message }).to_string()).into_response()
        }
    }
}

/// A callback.
struct Report {
    url: Url,
    job: String,
    worker: String,
    error: Option<String>,
}

impl Report {
    /// Sends it until somebody has understood it.
    async fn send(&self, client: &Client) {
        let insisting = async {
            while !self.post(client).await {
                work_for(BETWEEN).await;
            }
        };
        let _ = tokio::time::timeout(INSIST, insisting).await;
    }

    async fn post(&self, client: &Client) -> bool {
        let request = client.post(self.url.clone()).header(X_JOB_ID, &self.job).header(X_WORKER_ID, &self.worker);
        let request = match &self.error {
            None => request.json(&json!({ "status": "success" })),
            Some(error) => request.header(X_JOB_ERROR, "true").json(&json!({ "status": "error", "error": error })),
        };
        request.send().await.is_ok_and(|response| !response.status().is_server_error())
    }
}
