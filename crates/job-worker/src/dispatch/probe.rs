//! Probe: whether the callback URL that functions are given leads to the callback server of this process.

use std::time::Duration;

use http::header::HOST;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use job_utils::config::shown;
use job_utils::wire::headers::X_CALLBACK_SERVER;
use url::{Position, Url};

use crate::Worker;
use crate::dispatch::connect::{Connector, ServerAddress, authority};
use crate::dispatch::payload::Payload;

/// How long to wait before each try: behind a load balancer the server is not reached before it counts as ready.
const WAITS: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// How long a try may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Asks where the callback URL leads.
#[doc(hidden)]
#[derive(Debug)]
pub struct CallbackProbe {
    url: Url,
}

/// Who has answered.
#[derive(Debug, PartialEq, Eq)]
enum Responder {
    /// This process.
    Here,
    /// Another callback server of the same database.
    Sibling,
    /// Anything else, or nobody.
    Elsewhere(String),
}

impl Worker {
    /// What tells whether functions reach the callback server that runs beside this worker; None when nothing is
    /// dispatched.
    #[doc(hidden)]
    pub fn callback_probe(&self) -> Option<CallbackProbe> {
        self.dispatches.then(|| CallbackProbe { url: Url::clone(&self.config.callback_url) })
    }
}

impl CallbackProbe {
    /// Posts to the URL until the server with this identity answers; warns once when it does not. The identity's last
    /// part is that of all servers of the same database.
    pub async fn run(self, identity: &str) {
        let mut last = Responder::Elsewhere(String::new());
        for wait in WAITS {
            tokio::time::sleep(wait).await;
            last = match tokio::time::timeout(LIMIT, self.ask(identity)).await {
                Ok(Ok(found)) => found,
                Ok(Err(problem)) => Responder::Elsewhere(problem),
                Err(_) => Responder::Elsewhere("no answer in time".to_owned()),
            };
            if last == Responder::Here {
                break;
            }
        }
        let url = shown(&self.url);
        match last {
            Responder::Here => tracing::debug!(url, "the callback URL leads here"),
            Responder::Sibling => {
                tracing::debug!(url, "the callback URL leads to another callback server of this database")
            }
            Responder::Elsewhere(problem) => tracing::warn!(
                url,
                "the callback URL does not lead to this callback server, as tried from here: {problem}. Functions that \
                 cannot call back have their jobs waiting until JOBS_CALLBACK_TIMEOUT: set \
                 INTERNAL_JOBS_CALLBACK_URL to a URL of this process that functions reach, ending in /callback"
            ),
        }
    }

    async fn ask(&self, identity: &str) -> Result<Responder, String> {
        let address = ServerAddress::of(&self.url)?;
        let connector = Connector::new(self.url.scheme() == "https", false).map_err(|error| error.to_string())?;
        let shown = shown(&self.url);
        let mut sender = connector.http1(&address).await.map_err(|failure| failure.message(&shown, false))?;
        let mut request = Request::new(Payload::Left(Full::default()));
        *request.method_mut() = Method::POST;
        let path = &self.url[Position::BeforePath..Position::AfterQuery];
        *request.uri_mut() = path.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
        let host = HeaderValue::from_str(&authority(&self.url)).map_err(|error| error.to_string())?;
        request.headers_mut().insert(HOST, host);
        let answer = sender.sender.send_request(request).await.map_err(|error| error.to_string())?;
        let server = answer.headers().get(X_CALLBACK_SERVER).and_then(|server| server.to_str().ok());
        Ok(match server {
            Some(server) if server == identity => Responder::Here,
            Some(server) if database(server) == database(identity) => Responder::Sibling,
            Some(_) => Responder::Elsewhere("it leads to the callback server of another database".to_owned()),
            None => Responder::Elsewhere(format!("HTTP {} from something else", answer.status().as_u16())),
        })
    }
}

/// The part of an identity that names the database.
fn database(identity: &str) -> Option<&str> {
    identity.rsplit_once('.').map(|(_, database)| database)
}
