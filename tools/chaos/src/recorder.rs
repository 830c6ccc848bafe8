//! The harness's end of what functions tell it: a server on 127.0.0.1 that writes into the history.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::history::History;

/// The running server; it ends with its handle.
pub(crate) struct Recorder {
    pub(crate) port: u16,
    server: JoinHandle<()>,
    down: Down,
}

/// The functions that are to answer 503 and do nothing.
type Down = Arc<Mutex<BTreeSet<usize>>>;

impl Recorder {
    pub(crate) async fn start(history: History) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let down = Down::default();
        let router = Router::new()
            .route("/start", post(start))
            .route("/finish", post(finish))
            .with_state((history, down.clone()));
        let server = tokio::spawn(async move {
            // It serves until it is aborted.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { port, server, down })
    }

    /// From now on a function answers 503, or works again.
    pub(crate) fn set_down(&self, function: usize, down: bool) {
        let mut functions = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        if down {
            functions.insert(function);
        } else {
            functions.remove(&function);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn start(
    State((history, down)): State<(History, Down)>,
    Json(body): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    let begun = || {
        let job = body["job"].as_i64().context("no job")?;
        let function = body["function"].as_u64().context("no function")?;
        let worker = body["worker"].as_str().context("no worker")?.to_owned();
        let function = usize::try_from(function)?;
        anyhow::Ok(history.start(job, body["n"].as_u64(), worker, body["epoch"].as_i64(), function))
    };
    let is_down = |function| down.lock().unwrap_or_else(PoisonError::into_inner).contains(&function);
    if body["function"].as_u64().and_then(|function| usize::try_from(function).ok()).is_some_and(is_down) {
        return Ok(Json(json!({ "down": true })));
    }
    let (run, failures) = begun().map_err(|_| StatusCode::BAD_REQUEST)?;
    Ok(Json(json!({ "run": run, "failures": failures })))
}

async fn finish(
    State((history, _)): State<(History, Down)>,
    Json(body): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    let (Some(run), Some(success)) = (body["run"].as_u64(), body["success"].as_bool()) else {
        return Err(StatusCode::BAD_REQUEST);
    };
    history.finish(run, success);
    Ok(Json(Value::Null))
}
