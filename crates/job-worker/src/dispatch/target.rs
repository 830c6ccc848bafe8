//! Target: where a task's jobs go, with everything of the request that is the same for all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use job_utils::config::{Gateway, WorkerConfig, shown};
use job_utils::db::{Job, attempt_token};
use job_utils::wire::dispatch::function_url;
use job_utils::wire::headers;
use job_utils::wire::signature::CallbackUrls;
use url::Url;

use crate::dispatch::connect::{Connector, Place, authority};
use crate::dispatch::origin::Origin;
use crate::dispatch::payload::Payload;
use crate::dispatch::secrets::{Secrets, credentials};

const X_WORKER_ID: HeaderName = HeaderName::from_static(headers::X_WORKER_ID);
const X_JOB_ID: HeaderName = HeaderName::from_static(headers::X_JOB_ID);
const X_DATABASE_ID: HeaderName = HeaderName::from_static(headers::X_DATABASE_ID);
const X_ACTOR_ID: HeaderName = HeaderName::from_static(headers::X_ACTOR_ID);
const X_CALLBACK_URL: HeaderName = HeaderName::from_static(headers::X_CALLBACK_URL);

/// How many tasks' targets are kept. A task's name can be anything, so there may be many more of them.
const KEPT: usize = 1000;

/// Where functions report, and as whose jobs.
pub(crate) struct Callback {
    pub(crate) urls: CallbackUrls,
    pub(crate) worker_id: String,
}

impl Callback {
    pub(crate) fn new(config: &WorkerConfig) -> Self {
        let urls = CallbackUrls::new(&config.callback_url, config.secrets.clone());
        Self { urls, worker_id: config.worker_id.clone() }
    }
}

/// Where a task's jobs go.
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) origin: Arc<Origin>,
    /// What no message may repeat.
    pub(crate) secrets: Secrets,
    uri: Uri,
    headers: HeaderMap,
}

impl Target {
    fn new(url: Url, origin: Arc<Origin>, shared: &Shared) -> Result<Self, String> {
        let cannot = |error: &dyn std::fmt::Display| format!("{}: {error}", shown(&url));
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut headers = shared.headers.clone();
        // HTTP/2 has the host in the URI, HTTP/1.1 in a header.
        let uri = if shared.http2 {
            Uri::builder().scheme(url.scheme()).authority(authority(&url)).path_and_query(path).build()
        } else {
            let host = HeaderValue::from_str(&authority(&url)).map_err(|error| cannot(&error))?;
            headers.insert(HOST, host);
            Uri::builder().path_and_query(path).build()
        };
        if let Some(authorization) = authorization(&url) {
            headers.insert(AUTHORIZATION, authorization);
        }
        let uri = uri.map_err(|error| cannot(&error))?;
        let secrets = Secrets::of([&url, &shared.callback_url]);
        Ok(Self { url, origin, secrets, uri, headers })
    }

    /// The request of a job, with its payload as Postgres returned it.
    pub(crate) fn request(&self, job: &Job, payload: Payload, callback: &Callback) -> Request<Payload> {
        let mut request = Request::new(payload);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let mut headers = self.headers.clone();
        headers.insert(X_JOB_ID, HeaderValue::from(job.id));
        // A URL's text is always a header's.
        if let Ok(mut url) = HeaderValue::try_from(callback.urls.of(job.id, &callback.worker_id, job.epoch)) {
            // It may be signed: whoever has it can end the attempt.
            url.set_sensitive(true);
            headers.insert(X_CALLBACK_URL, url);
        }
        if let Ok(mut token) = HeaderValue::try_from(attempt_token(job.id, job.epoch)) {
            token.set_sensitive(true);
            headers.insert(headers::X_JOB_TOKEN, token);
        }
        for (name, id) in [(X_DATABASE_ID, job.tenant), (X_ACTOR_ID, job.actor)] {
            // A uuid's text is always a header's.
            if let Some(id) = id.and_then(|id| HeaderValue::from_str(id.hyphenated().encode_lower(&mut [0; 36])).ok()) {
                headers.insert(name, id);
            }
        }
        *request.headers_mut() = headers;
        request
    }
}

/// User and password of a URL, as basic authentication.
fn authorization(url: &Url) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Basic {}", credentials(url)?)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The targets of all tasks.
pub(crate) struct Targets {
    base: Url,
    gateway: Result<Arc<Origin>, String>,
    /// From the development map.
    mapped: HashMap<String, Result<Arc<Target>, String>>,
    /// Of the gateway, as jobs asked for them.
    kept: Mutex<HashMap<String, Arc<Target>>>,
    shared: Shared,
}

/// What is the same for all targets.
struct Shared {
    http2: bool,
    headers: HeaderMap,
    callback_url: Url,
}

impl Targets {
    pub(crate) fn new(config: &WorkerConfig) -> std::io::Result<Self> {
        let Gateway { base, development_map, .. } = &config.gateway;
        let urls = || development_map.values().flatten().chain([base]);
        let tls = urls().any(|url| url.scheme() == "https");
        let connector = Arc::new(Connector::new(tls, config.http2)?);
        let mut origins = HashMap::new();
        for url in urls() {
            let origin = || Place::of(url).map(|place| Arc::new(Origin::new(place, connector.clone())));
            origins.entry(url.origin()).or_insert_with(origin);
        }
        let origin = |url: &Url| origins[&url.origin()].clone();
        let headers = common(config).map_err(std::io::Error::other)?;
        let shared = Shared { http2: config.http2, headers, callback_url: Url::clone(&config.callback_url) };
        let mapped = development_map.iter().map(|(task, url)| {
            let bad = |message| format!("INTERNAL_GATEWAY_DEVELOPMENT_MAP: the entry of {task:?}: {message}");
            let target = url.clone().and_then(|url| {
                let origin = origin(&url)?;
                Target::new(url.into(), origin, &shared)
            });
            (task.clone(), target.map(Arc::new).map_err(bad))
        });
        Ok(Self {
            mapped: mapped.collect(),
            base: Url::clone(base),
            gateway: origin(base),
            kept: Mutex::default(),
            shared,
        })
    }

    /// A task's target; the error says why there is none.
    pub(crate) fn of(&self, task: &str) -> Result<Arc<Target>, String> {
        if let Some(target) = self.mapped.get(task) {
            return target.clone();
        }
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = kept().get(task) {
            return Ok(target.clone());
        }
        let url = function_url(&self.base, task).map_err(|error| error.to_string())?;
        let target = Arc::new(Target::new(url, self.gateway.clone()?, &self.shared)?);
        let mut kept = kept();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(task.to_owned(), target.clone());
        Ok(target)
    }
}

/// The headers that all requests have.
fn common(config: &WorkerConfig) -> Result<HeaderMap, http::header::InvalidHeaderValue> {
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_WORKER_ID, HeaderValue::from_str(&config.worker_id)?);
    // Replaced by each job's.
    headers.insert(X_JOB_ID, HeaderValue::from_static("0"));
    headers.insert(X_CALLBACK_URL, HeaderValue::from_static(""));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("job-worker/", env!("CARGO_PKG_VERSION"))));
    Ok(headers)
}
