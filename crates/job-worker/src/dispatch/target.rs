//! Target: where a task's jobs go, with everything of the request that is the same for all of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{AllTasks, Gateway, TaskSettings, WorkerConfig};
use crate::config::{JOBS_DISPATCH_FIRST_BYTE_TIMEOUT, JOBS_DISPATCH_TIMEOUT};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use job_pg::{Job, attempt_token};
use job_utils::config::shown;
use job_utils::wire::dispatch::function_url;
use job_utils::wire::headers;
use job_utils::wire::signature::CallbackUrls;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;

use crate::dispatch::connect::{Connector, ServerAddress, authority};
use crate::dispatch::failure::Limit;
use crate::dispatch::host::Host;
use crate::dispatch::origin::Origin;
use crate::dispatch::payload::Payload;
use crate::dispatch::secrets::{Secrets, credentials};
use crate::retry::Retry;

const X_WORKER_ID: HeaderName = HeaderName::from_static(headers::X_WORKER_ID);
const X_JOB_ID: HeaderName = HeaderName::from_static(headers::X_JOB_ID);
const X_DATABASE_ID: HeaderName = HeaderName::from_static(headers::X_DATABASE_ID);
const X_ACTOR_ID: HeaderName = HeaderName::from_static(headers::X_ACTOR_ID);
const X_ENTITY_ID: HeaderName = HeaderName::from_static(headers::X_ENTITY_ID);
const X_ORGANIZATION_ID: HeaderName = HeaderName::from_static(headers::X_ORGANIZATION_ID);
const X_JOB_ATTEMPT: HeaderName = HeaderName::from_static(headers::X_JOB_ATTEMPT);
const X_JOB_MAX_ATTEMPTS: HeaderName = HeaderName::from_static(headers::X_JOB_MAX_ATTEMPTS);
const X_CALLBACK_URL: HeaderName = HeaderName::from_static(headers::X_CALLBACK_URL);

/// What a task identifier is not shown with in a header: what is no visible ASCII character, and the sign of the
/// encoding.
const HIDDEN: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// How many tasks' targets are cached. A task's name can be anything, so there may be many more of them.
const CACHE_SIZE: usize = 1000;

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

/// How a task's jobs are treated.
pub(crate) struct Policy {
    pub(crate) timeout: Limit,
    /// How long the head of an answer may take, when that is less.
    pub(crate) first_byte_timeout: Option<Limit>,
    pub(crate) complete_on_2xx: bool,
    pub(crate) retry: Retry,
}

impl Policy {
    /// What the task's own settings do not say is as for all.
    fn of(settings: &TaskSettings, shared: &Shared) -> Self {
        let own = |time, setting| Limit { time, setting };
        let timeout = settings.timeout.map(|time| own(time, "timeout of the task"));
        let first_byte = settings.first_byte_timeout.map(|time| own(time, "first_byte_timeout of the task"));
        let timeout = timeout.unwrap_or(own(shared.timeout, JOBS_DISPATCH_TIMEOUT.name));
        let all = shared.first_byte_timeout.map(|time| own(time, JOBS_DISPATCH_FIRST_BYTE_TIMEOUT.name));
        Self {
            timeout,
            first_byte_timeout: first_byte.or(all).filter(|first| first.time < timeout.time),
            complete_on_2xx: settings.complete_on_2xx.unwrap_or(shared.complete_on_2xx),
            retry: settings.retry.as_ref().map(Retry::of).unwrap_or_default(),
        }
    }
}

/// Where a task's jobs go.
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) origin: Arc<Origin>,
    /// What no message may repeat.
    pub(crate) secrets: Secrets,
    pub(crate) policy: Policy,
    /// The database knows that the task goes there.
    told: AtomicBool,
    uri: Uri,
    headers: HeaderMap,
}

impl Target {
    fn new(task: &str, url: Url, origin: Arc<Origin>, shared: &Shared) -> Result<Self, String> {
        let cannot = |error: &dyn std::fmt::Display| format!("{}: {error}", shown(&url));
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut all = shared.headers.clone();
        // Percent-encoded it is always a header's.
        if let Ok(task) = HeaderValue::try_from(utf8_percent_encode(task, HIDDEN).to_string()) {
            all.insert(headers::X_JOB_TASK, task);
        }
        // HTTP/2 has the host in the URI, HTTP/1.1 in a header.
        let uri = if shared.http2 {
            Uri::builder().scheme(url.scheme()).authority(authority(&url)).path_and_query(path).build()
        } else {
            let host = HeaderValue::from_str(&authority(&url)).map_err(|error| cannot(&error))?;
            all.insert(HOST, host);
            Uri::builder().path_and_query(path).build()
        };
        if let Some(authorization) = authorization(&url) {
            all.insert(AUTHORIZATION, authorization);
        }
        let uri = uri.map_err(|error| cannot(&error))?;
        let secrets = Secrets::of([&url, &shared.callback_url]);
        let policy = Policy::of(&shared.tasks.of(task), shared);
        Ok(Self { url, origin, secrets, policy, told: AtomicBool::default(), uri, headers: all })
    }

    /// Whether the database knows that the task goes there.
    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    pub(crate) fn set_told(&self, told: bool) {
        self.told.store(told, Ordering::Relaxed);
    }

    /// The request of a job, with its payload as Postgres returned it.
    pub(crate) fn request(&self, job: &Job, payload: Payload, callback: &Callback) -> Request<Payload> {
        let mut request = Request::new(payload);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let mut headers = self.headers.clone();
        headers.insert(X_JOB_ID, HeaderValue::from(job.id));
        headers.insert(X_JOB_ATTEMPT, HeaderValue::from(job.attempts));
        headers.insert(X_JOB_MAX_ATTEMPTS, HeaderValue::from(self.policy.retry.most(job.max_attempts)));
        let after = self.policy.retry.after_failure(job.attempts);
        // A URL's text is always a header's.
        if let Ok(mut url) = HeaderValue::try_from(callback.urls.of(job.id, &callback.worker_id, job.epoch, after)) {
            // It may be signed: whoever has it can end the attempt.
            url.set_sensitive(true);
            headers.insert(X_CALLBACK_URL, url);
        }
        if let Ok(mut token) = HeaderValue::try_from(attempt_token(job.id, job.epoch)) {
            token.set_sensitive(true);
            headers.insert(headers::X_JOB_TOKEN, token);
        }
        for (name, id) in [
            (X_DATABASE_ID, job.tenant),
            (X_ACTOR_ID, job.actor),
            (X_ENTITY_ID, job.entity),
            (X_ORGANIZATION_ID, job.organization),
        ] {
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
    origins: HashMap<url::Origin, Result<Arc<Origin>, String>>,
    /// From the development map.
    mapped: HashMap<String, Result<Arc<Target>, String>>,
    /// Of all other tasks, as jobs asked for them.
    cached: Mutex<HashMap<String, Arc<Target>>>,
    shared: Shared,
}

/// What is the same for all targets.
struct Shared {
    http2: bool,
    headers: HeaderMap,
    callback_url: Url,
    tasks: AllTasks,
    timeout: Duration,
    first_byte_timeout: Option<Duration>,
    complete_on_2xx: bool,
}

impl Targets {
    pub(crate) fn new(config: &WorkerConfig) -> std::io::Result<Self> {
        let Gateway { base, development_map, .. } = &config.gateway;
        let urls = || development_map.values().flatten().chain([base]).chain(config.task_settings.urls());
        let tls = urls().any(|url| url.scheme() == "https");
        let connector = Arc::new(Connector::new(tls, config.http2)?);
        let mut origins = HashMap::new();
        for url in urls() {
            let origin = || {
                let host = Host::new(url.origin().ascii_serialization());
                ServerAddress::of(url).map(|address| Arc::new(Origin::new(host, address, connector.clone())))
            };
            origins.entry(url.origin()).or_insert_with(origin);
        }
        let origin = |url: &Url| origins[&url.origin()].clone();
        let headers = common(config).map_err(std::io::Error::other)?;
        let shared = Shared {
            http2: config.http2,
            headers,
            callback_url: Url::clone(&config.callback_url),
            tasks: config.task_settings.clone(),
            timeout: config.dispatch_timeout,
            first_byte_timeout: config.first_byte_timeout,
            complete_on_2xx: config.complete_on_2xx,
        };
        let mapped = development_map.iter().map(|(task, url)| {
            let bad = |message| format!("INTERNAL_GATEWAY_DEVELOPMENT_MAP: the entry of {task:?}: {message}");
            let target = url.clone().and_then(|url| {
                let origin = origin(&url)?;
                Target::new(task, url.into(), origin, &shared)
            });
            (task.clone(), target.map(Arc::new).map_err(bad))
        });
        Ok(Self { mapped: mapped.collect(), base: Url::clone(base), origins, cached: Mutex::default(), shared })
    }

    /// All servers.
    pub(crate) fn origins(&self) -> impl Iterator<Item = &Arc<Origin>> {
        self.origins.values().flatten()
    }

    /// The tasks that have come, or are mapped, whose host is such a one.
    pub(crate) fn tasks_of(&self, is_one: impl Fn(&Host) -> bool) -> Vec<String> {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let mapped = self.mapped.iter().filter_map(|(task, target)| Some((task, target.as_ref().ok()?)));
        let known = mapped.chain(cached.iter()).filter(|(_, target)| is_one(&target.origin.host));
        known.map(|(task, _)| task.clone()).collect()
    }

    /// A task's target; the error says why there is none.
    pub(crate) fn of(&self, task: &str) -> Result<Arc<Target>, String> {
        if let Some(target) = self.mapped.get(task) {
            return target.clone();
        }
        let cached = || self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = cached().get(task) {
            return Ok(target.clone());
        }
        let url = match self.shared.tasks.of(task).url_of(task) {
            Some(url) => url?,
            None => function_url(&self.base, task).map_err(|error| error.to_string())?,
        };
        // There is one for each URL of the settings.
        let origin = self.origins.get(&url.origin()).cloned().unwrap_or_else(|| Err("it has no origin".to_owned()));
        let target = Arc::new(Target::new(task, url, origin?, &self.shared)?);
        let mut cached = cached();
        if cached.len() >= CACHE_SIZE {
            cached.clear();
        }
        cached.insert(task.to_owned(), target.clone());
        Ok(target)
    }
}

/// The headers that all requests have.
fn common(config: &WorkerConfig) -> Result<HeaderMap, http::header::InvalidHeaderValue> {
    let mut headers = HeaderMap::with_capacity(16);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_WORKER_ID, HeaderValue::from_str(&config.worker_id)?);
    // Replaced by each job's.
    headers.insert(X_JOB_ID, HeaderValue::from_static("0"));
    headers.insert(X_CALLBACK_URL, HeaderValue::from_static(""));
    headers.insert(X_JOB_ATTEMPT, HeaderValue::from_static("0"));
    headers.insert(X_JOB_MAX_ATTEMPTS, HeaderValue::from_static("0"));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("job-worker/", env!("CARGO_PKG_VERSION"))));
    Ok(headers)
}
