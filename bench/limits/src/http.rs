//! Bare HTTP POSTs over kept-alive connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rivalkit::{Args, Span};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

type Sender = SendRequest<Full<Bytes>>;

async fn connect(authority: &str) -> Result<Sender> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Posts `--jobs` payloads with a dispatch's headers and reads the answers.
///
/// # Errors
/// A connection that fails, or an answer that is not a success.
pub async fn post(args: &Args) -> Result<Value> {
    let jobs = args.number("jobs", None)?;
    let uri: Uri = args.required("function-url")?.parse()?;
    let authority = Arc::new(uri.authority().context("a URL without a host")?.to_string());
    let mut senders = Vec::new();
    for _ in 0..args.number("clients", Some(64))? {
        senders.push(connect(&authority).await?);
    }
    let next = Arc::new(AtomicU64::new(0));
    let span = Span::begin();
    let mut tasks = JoinSet::new();
    for mut sender in senders {
        let (next, authority) = (next.clone(), authority.clone());
        tasks.spawn(async move {
            loop {
                let job = next.fetch_add(1, Ordering::Relaxed);
                if job >= jobs {
                    return anyhow::Ok(());
                }
                let request = Request::post("/noop")
                    .header(HOST, authority.as_str())
                    .header(CONTENT_TYPE, "application/json")
                    .header("x-worker-id", "worker-0")
                    .header("x-job-id", job)
                    .header("x-callback-url", "http://127.0.0.1:12345/callback")
                    .body(Full::new(Bytes::from(crate::payload(job))))?;
                sender.ready().await?;
                let answer = sender.send_request(request).await?;
                let status = answer.status();
                answer.into_body().collect().await?;
                if !status.is_success() {
                    bail!("the function answered {status}");
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let (seconds, cpu) = span.end();
    Ok(json!({ "jobs": jobs, "seconds": seconds, "client_cpu_seconds": cpu }))
}
