//! A function over real HTTP, with a real callback receiver.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod answers;
mod callbacks;
mod extensions;
mod receiver;
mod requests;
mod stopping;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use job_fn::{App, Stopped};
use job_utils::shutdown::Shutdown;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Long enough for a busy machine; nothing waits this long when all is well.
const SOON: Duration = Duration::from_secs(20);

/// Whom the jobs here are for.
const DATABASE: &str = "5b720132-17d5-424d-9bcb-ee7b17c13d43";
const ACTOR: &str = "0c7f6f5e-6f25-4c7b-8f5a-0a3a5b1c2d3e";
const ENTITY: &str = "9f3f1c0e-2f2b-4e0e-8a3e-0d5d3a1b7c11";
const ORGANIZATION: &str = "b1a7d5a4-66a1-4c55-9c8e-7f1f0e6a2d22";

/// A running function.
struct Function {
    address: SocketAddr,
    shutdown: Shutdown,
    running: JoinHandle<anyhow::Result<Stopped>>,
}

impl Function {
    async fn start(app: App) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let running = tokio::spawn(app.run(listener, shutdown.clone()));
        Self { address, shutdown, running }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// A dispatch as the worker makes it.
    fn dispatch(&self, callback_url: &str, body: &'static str) -> reqwest::RequestBuilder {
        reqwest::Client::new()
            .post(self.url())
            .header("content-type", "application/json")
            .header("x-worker-id", "worker-0")
            .header("x-job-id", "42")
            .header("x-database-id", DATABASE)
            .header("x-actor-id", ACTOR)
            .header("x-entity-id", ENTITY)
            .header("x-organization-id", ORGANIZATION)
            .header("x-callback-url", callback_url)
            .body(body)
    }

    async fn stop(self) -> Stopped {
        self.shutdown.trigger();
        tokio::time::timeout(SOON, self.running).await.expect("stops in time").unwrap().unwrap()
    }
}

async fn json(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    (status, response.json().await.unwrap())
}
