//! The routes: `POST /graphql` for the private API's host, and the health checks beside it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use job_pg::{Db, NotReady};
use job_utils::config::Secret;
use job_utils::health;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::budget::Budget;
use crate::request::{self, RequestError};
use crate::schema::{Api, api};

/// The host name of the private API, the only one there is.
const PRIVATE_HOST: &str = "private.localhost";
/// The largest request: payloads of jobs come this way.
const BODY_LIMIT: usize = 2 << 20;
/// How long a request may take, once it has been read.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How long its body may take to arrive.
const BODY_TIME_LIMIT: Duration = Duration::from_secs(10);
/// How many bodies are read, or wait for their turn, at once. Together they have 64 MiB at most.
const MOST_WAITING: usize = 32;
/// How many requests are executed at once: the pool of connections has no more, and each has its budget of memory.
const MOST_RUNNING: usize = 4;
/// The header by which a client asks for the schema of databases and sites.
const META_SCHEMA: &str = "x-meta-schema";
/// The header by which a client asks for an API by its name.
const API_NAME: &str = "x-api-name";

/// A request that is refused before GraphQL sees it.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(
        "no API is served for this host name: send the header `Host: {PRIVATE_HOST}`, or X-Meta-Schema or X-Api-Name"
    )]
    Host,
    #[error("a valid bearer token is required (ADMIN_TOKEN): send the header `Authorization: Bearer …`")]
    Token,
    #[error("the Content-Type is not application/json")]
    ContentType,
    #[error("the body is larger than {BODY_LIMIT} bytes")]
    TooLarge,
    #[error("the body cannot be read")]
    Unreadable,
    #[error(transparent)]
    Body(#[from] RequestError),
    #[error("the request took longer than {} s", TIME_LIMIT.as_secs())]
    TooSlow,
    #[error("the body did not arrive within {} s", BODY_TIME_LIMIT.as_secs())]
    SlowBody,
    #[error("too many requests at once: try again in a moment")]
    Busy,
    #[error("no such route: the API is POST /graphql")]
    Route,
    #[error("method not allowed: the API is POST /graphql")]
    Method,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Host | Self::Route => StatusCode::NOT_FOUND,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unreadable | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::TooSlow | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        };
        let body = Json(json!({ "errors": [{ "message": self.to_string() }] }));
        match self {
            Self::Token => (status, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response(),
            Self::Method => (status, [(header::ALLOW, "POST")], body).into_response(),
            Self::Busy => (status, [(header::RETRY_AFTER, "1")], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}

struct Server {
    api: Api,
    token: Option<Secret>,
    /// Room for requests that are read, wait, or run.
    waiting: Semaphore,
    /// Room for requests that run.
    running: Semaphore,
}

/// The whole application.
pub(crate) fn app(db: Db, token: Option<Secret>) -> Router {
    let probed = db.clone();
    let ready = move || {
        let db = probed.clone();
        // Look-ups work without the jobs schema.
        async move {
            match db.ready().await {
                Err(error @ NotReady::Database(_)) => Err(error),
                // It shows the jobs that its user sees.
                Ok(()) | Err(_) => Ok(()),
            }
        }
    };
    Router::new()
        .route("/graphql", post(graphql).fallback(|| async { Refused::Method }))
        .with_state(Arc::new(Server {
            api: api(db),
            token,
            waiting: Semaphore::new(MOST_WAITING),
            running: Semaphore::new(MOST_RUNNING),
        }))
        .merge(health::routes(ready))
        .fallback(|| async { Refused::Route })
}

async fn graphql(State(server): State<Arc<Server>>, request: Request) -> Result<Response, Refused> {
    let headers = request.headers();
    if !is_private_host(headers) && !selects_by_header(headers) {
        return Err(Refused::Host);
    }
    if !server.token.as_ref().is_none_or(|token| carries(headers, token)) {
        return Err(Refused::Token);
    }
    // A web page of another origin can post text without asking first, but not JSON.
    if !is_json(headers) {
        return Err(Refused::ContentType);
    }
    let too_large = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if too_large.is_some_and(|length| length > BODY_LIMIT) {
        return Err(Refused::TooLarge);
    }
    let _waiting = server.waiting.try_acquire().map_err(|_| Refused::Busy)?;
    let body = tokio::time::timeout(BODY_TIME_LIMIT, to_bytes(request.into_body(), BODY_LIMIT)).await;
    let body = body
        .map_err(|_| Refused::SlowBody)?
        .map_err(|error| if is_too_large(&error) { Refused::TooLarge } else { Refused::Unreadable })?;
    let run = async {
        // It is never closed.
        let _running = server.running.acquire().await.ok();
        let budget = Budget::new();
        let request = request::read(&body)?.data(Arc::clone(&budget));
        Ok(Json(budget.answer(server.api.execute(request).await)).into_response())
    };
    tokio::time::timeout(TIME_LIMIT, run).await.map_err(|_| Refused::TooSlow)?
}

/// Whether the request names the private API's host, with any port and in any case.
fn is_private_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case(PRIVATE_HOST)
}

/// Whether the request selects the API by a header, as clients do that cannot set the host: Node's fetch drops it. A
/// browser can: so what a browser sends for a page has to name the host, which a page of another site cannot, wherever
/// its name leads.
fn selects_by_header(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let meta = text(META_SCHEMA).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let named = text(API_NAME).is_some_and(|name| !name.is_empty());
    (meta || named) && !headers.contains_key(header::ORIGIN) && !headers.contains_key("sec-fetch-site")
}

/// Whether the request carries the token. The time it takes tells nothing of the token but its length.
fn carries(headers: &HeaderMap, token: &Secret) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()) else { return false };
    let Some((scheme, given)) = value.split_at_checked("Bearer ".len()) else { return false };
    let expected = token.expose().as_bytes();
    if !scheme.eq_ignore_ascii_case(b"Bearer ") || given.len() != expected.len() {
        return false;
    }
    given.iter().zip(expected).fold(0, |difference, (a, b)| black_box(difference | (a ^ b))) == 0
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn is_too_large(error: &axum::Error) -> bool {
    let cause = std::error::Error::source(error);
    cause.is_some_and(|cause| cause.to_string().contains("length limit exceeded"))
}
