//! awa's HTTP dispatch: `HttpWorker` in sync mode (the answer completes the job) and in async mode (a callback does).

use std::future::ready;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use awa::{
    Client, HttpWorker, HttpWorkerConfig, HttpWorkerMode, JobContext, JobError, JobResult, UntypedJobEvent, Worker,
};
use axum::Router;
use axum::extract::{Json, Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use rivalkit::{Args, Probe, Profile, Rival, Span, Spec, percentile};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{Awa, builder, pool};

const SPEC: Spec = Spec { payload_bytes: 0, queues: 0, priorities: 0, future: false };
/// How often the end of a drain is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// awa's worker; tells the probe of every job whose answer came, when the answer ends the job.
struct Dispatching {
    inner: HttpWorker,
    probe: Option<Arc<Probe>>,
}

#[async_trait]
impl Worker for Dispatching {
    fn kind(&self) -> &'static str {
        "noop"
    }

    async fn perform(&self, context: &JobContext) -> Result<JobResult, JobError> {
        let result = self.inner.perform(context).await;
        if let Err(error) = &result {
            eprintln!("{error}");
        }
        if let Some(probe) = &self.probe {
            probe.hit(0);
        }
        result
    }
}

/// What the callback receiver needs; the client exists only once the receiver's address is known.
#[derive(Clone)]
struct Receiver {
    client: Arc<OnceCell<Arc<Client>>>,
    probe: Arc<Probe>,
}

async fn complete(State(receiver): State<Receiver>, Path(id): Path<Uuid>) -> StatusCode {
    let Some(client) = receiver.client.get() else { return StatusCode::SERVICE_UNAVAILABLE };
    match client.complete_external(id, None, None).await {
        Ok(_) => {
            receiver.probe.hit(0);
            StatusCode::OK
        }
        Err(error) => {
            eprintln!("{error}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// A worker that is built but not started, and what belongs to it.
struct Dispatcher {
    client: Arc<Client>,
    /// Hit once per answer in answer mode, once per callback in callback mode.
    ended: Arc<Probe>,
    /// In the measure of latency: hit once per completed job by awa's own event after the commit.
    completed: Arc<Probe>,
    callback: bool,
    function: Option<Child>,
}

impl Dispatcher {
    async fn prepare(args: &Args, profile: Profile) -> Result<Dispatcher> {
        let callback = match args.text("mode").unwrap_or("answer") {
            "answer" => false,
            "callback" => true,
            other => bail!("--mode {other}"),
        };
        let jobs = args.number("jobs", None)?;
        let ended = Arc::new(Probe::counting(jobs));
        let completed = Arc::new(Probe::timing(jobs));
        let cell = Arc::new(OnceCell::new());
        let (mut config, mut function) = (HttpWorkerConfig::default(), None);
        if callback {
            let (child, url) = start_function().await?;
            function = Some(child);
            config.url = format!("{url}/noop");
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            config.callback_base_url = Some(format!("http://{}", listener.local_addr()?));
            let app = Router::new()
                .route("/api/callbacks/{id}/complete", post(complete))
                .with_state(Receiver { client: cell.clone(), probe: ended.clone() });
            tokio::spawn(async move { axum::serve(listener, app).await });
        } else {
            config.url = format!("{}/noop", args.required("function-url")?.trim_end_matches('/'));
            config.mode = HttpWorkerMode::Sync { response_timeout: Duration::from_secs(30) };
        }
        let inner = HttpWorker::new("noop".to_owned(), config);
        let dispatching = Dispatching { inner, probe: (!callback).then(|| ended.clone()) };
        let mut builder = builder(pool(args.required("url")?, 20).await?, profile).register_worker(dispatching);
        if profile == Profile::Latency {
            let probe = completed.clone();
            builder = builder.on_event_kind("noop", move |event| {
                if let UntypedJobEvent::Completed { job, .. } = event {
                    probe.hit(job.args["n"].as_u64().unwrap_or_default());
                }
                ready(())
            });
        }
        let client = Arc::new(builder.build()?);
        cell.set(client.clone()).ok().context("set twice")?;
        Ok(Dispatcher { client, ended, completed, callback, function })
    }

    async fn stop(mut self) -> Result<()> {
        self.client.shutdown(Duration::from_secs(30)).await;
        if let Some(function) = &mut self.function {
            function.kill().await?;
        }
        Ok(())
    }
}

/// Drains N jobs over HTTP; the clock runs from the start of the worker until no job is left.
pub(crate) async fn drain() -> Result<()> {
    let args = Args::read(&["jobs", "mode", "function-url", "cap-seconds"])?;
    let jobs = args.number("jobs", None)?;
    let rival = Awa::connect(args.required("url")?, 2).await?;
    let mut added = 0;
    while added < jobs {
        let count = Awa::BULK.min(jobs - added);
        rival.add_many(added, count, &SPEC).await?;
        added += count;
    }
    let dispatcher = Dispatcher::prepare(&args, Profile::Throughput).await?;
    let span = Span::begin();
    dispatcher.client.start().await?;
    let finished = timeout(args.cap()?, async {
        dispatcher.ended.all().await;
        while rival.left().await? > 0 {
            sleep(LOOK).await;
        }
        anyhow::Ok(())
    })
    .await;
    let (seconds, cpu) = span.end();
    if let Ok(result) = &finished {
        result.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    let left = rival.left().await?;
    let settings = if dispatcher.callback {
        "HttpWorker async, callbacks received in the worker's process, a function of its own; 1,024 workers"
    } else {
        "HttpWorker sync, 1,024 workers"
    };
    dispatcher.stop().await?;
    let done = jobs.saturating_sub(left.max(0) as u64);
    println!(
        "{}",
        json!({ "jobs": done, "seconds": seconds, "client_cpu_seconds": cpu, "left": left, "settings": settings })
    );
    Ok(())
}

/// Enqueues one job after the other to an idle worker and times them from the enqueue until they are completed.
pub(crate) async fn latency() -> Result<()> {
    let args = Args::read(&["jobs", "mode", "function-url"])?;
    let jobs = args.number("jobs", None)?;
    let rival = Awa::connect(args.required("url")?, 2).await?;
    let dispatcher = Dispatcher::prepare(&args, Profile::Latency).await?;
    dispatcher.client.start().await?;
    sleep(Duration::from_secs(1)).await;
    let mut times = Vec::new();
    for job in 0..jobs {
        let called = dispatcher.completed.now();
        rival.add_one(job, &SPEC).await?;
        match timeout(Duration::from_secs(60), dispatcher.completed.started(job)).await {
            Ok(done) => times.push((done - called) as f64 / 1e6),
            Err(_) => bail!("job {job} was not completed within a minute"),
        }
        sleep(Duration::from_millis(20)).await;
    }
    dispatcher.stop().await?;
    println!(
        "{}",
        json!({ "p50_ms": percentile(&times, 0.5), "p99_ms": percentile(&times, 0.99), "jobs": times.len() })
    );
    Ok(())
}

async fn start_function() -> Result<(Child, String)> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("function")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the function")?;
    let stdout = child.stdout.take().context("no stdout")?;
    let url = BufReader::new(stdout).lines().next_line().await?.context("the function said nothing")?;
    Ok((child, url))
}

/// A function for callback mode: answers at once, then posts to the `callback_url` of the request's body. Prints its
/// own address.
pub(crate) async fn function() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/noop", post(accept)).with_state(reqwest::Client::new());
    axum::serve(listener, app).await?;
    Ok(())
}

async fn accept(State(client): State<reqwest::Client>, Json(body): Json<Value>) -> StatusCode {
    if let Some(url) = body["callback_url"].as_str().map(str::to_owned) {
        tokio::spawn(async move {
            match client.post(url).json(&json!({})).send().await {
                Ok(answer) if answer.status().is_success() => {}
                Ok(answer) => eprintln!("callback: {}", answer.status()),
                Err(error) => eprintln!("callback: {error}"),
            }
        });
    }
    StatusCode::ACCEPTED
}
