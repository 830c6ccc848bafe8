//! A fake Mailgun: a real HTTP server that takes messages the way Mailgun does, and counts every request.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct MailgunRequest {
    /// POST for a message.
    pub method: Method,
    /// Its path and query, as sent.
    pub uri: Uri,
    /// Its Authorization header.
    pub authorization: String,
    /// Its form fields, decoded, in order.
    pub form: Vec<(String, String)>,
}

impl MailgunRequest {
    /// The first form field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
struct Inner {
    requests: Vec<MailgunRequest>,
    answer: (StatusCode, String),
}

type Shared = Arc<Mutex<Inner>>;

/// A fake Mailgun on a port of its own. It answers as Mailgun does to a good message, unless told otherwise; it goes
/// away when dropped.
#[derive(Debug)]
pub struct FakeMailgun {
    address: SocketAddr,
    state: Shared,
    server: JoinHandle<()>,
}

impl FakeMailgun {
    /// Starts a server on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let answer = (StatusCode::OK, r#"{"id":"<1@example.com>","message":"Queued. Thank you."}"#.to_owned());
        let state = Arc::new(Mutex::new(Inner { requests: Vec::new(), answer }));
        let router = Router::new().fallback(take).with_state(Arc::clone(&state));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { address, state, server }
    }

    /// What `MAILGUN_URL` has to be.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers every request from now on with this.
    pub fn answer(&self, status: u16, body: impl Into<String>) {
        let status = StatusCode::from_u16(status).expect("an HTTP status");
        lock(&self.state).answer = (status, body.into());
    }

    /// Every request so far, to whatever path.
    pub fn requests(&self) -> Vec<MailgunRequest> {
        lock(&self.state).requests.clone()
    }
}

impl Drop for FakeMailgun {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(state: &Shared) -> MutexGuard<'_, Inner> {
    // A list of requests is whole at any time, also after a panic elsewhere.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take(
    State(state): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut form = Vec::new();
    if text("content-type") == "application/x-www-form-urlencoded" {
        // A form is written as the query of a URL is.
        let mut url = reqwest::Url::parse("http://form/").expect("a URL");
        url.set_query(Some(&String::from_utf8_lossy(&body)));
        form.extend(url.query_pairs().into_owned());
    }
    let mut state = lock(&state);
    state.requests.push(MailgunRequest { method, uri, authorization: text("authorization"), form });
    state.answer.clone()
}
