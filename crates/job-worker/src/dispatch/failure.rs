//! Failure: why a function's answer never came, in words that a person can act on.

use std::error::Error;
use std::io;
use std::time::Duration;

use job_utils::config::in_words;
use job_utils::error::chain;
use rustls::CertificateError;

use crate::dispatch::connect::CONNECT_TIMEOUT;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection: why.
    Connect(String),
    /// No connection, because this process or the machine has no descriptor left for one.
    NoDescriptor(String),
    /// No connection in time.
    ConnectTimeout,
    /// A connection, but no TLS over it.
    Tls(io::Error),
    /// A connection, but no valid answer over it.
    Answer(hyper::Error),
    /// The server has refused the request over HTTP/2, and says that it was not looked at.
    Refused(hyper::Error),
    /// The request was sent, and the head of the answer did not come in time.
    FirstByte(Limit),
    /// A success whose body has no end within the limit.
    Endless {
        /// Its status.
        status: u16,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The time for everything together is over.
    OutOfTime(Limit, Progress),
}

/// How long something may take, and the setting that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) time: Duration,
    pub(crate) setting: &'static str,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "within {} ({})", in_words(self.time), self.setting)
    }
}

/// How far a dispatch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is no connection yet.
    Connecting,
    /// The request is on its way, or the function at work.
    Waiting,
    /// The answer is being read.
    Reading {
        /// Its status.
        status: u16,
        /// How much of its body has come, in bytes.
        length: usize,
    },
}

impl Failure {
    /// What is wrong with an exchange of which no byte of an answer came.
    pub(crate) fn of(error: hyper::Error) -> Self {
        if is_unprocessed(&error) { Self::Refused(error) } else { Self::Answer(error) }
    }

    /// How long to wait before the next try, where the function cannot have been started and nothing is wrong with the
    /// job: no attempt is used up then. With up to as much again at random, so that those who failed together do not
    /// come together.
    pub(crate) fn not_started(&self) -> Option<Duration> {
        let wait = match self {
            // Descriptors are given back when jobs end.
            Self::NoDescriptor(_) => Duration::from_secs(3),
            Self::Refused(_) => Duration::from_secs(1),
            _ => return None,
        };
        Some(wait.mul_f64(1.0 + fastrand::f64()))
    }

    /// The failure of a POST to `url`, as `last_error` has it. With `http2` the function had to speak HTTP/2.
    pub(crate) fn message(&self, url: &str, http2: bool) -> String {
        match self {
            Self::Connect(cause) | Self::NoDescriptor(cause) => format!("cannot connect to {url}: {cause}"),
            Self::ConnectTimeout => format!("cannot connect to {url} within {}", in_words(CONNECT_TIMEOUT)),
            Self::Tls(error) => format!("cannot connect to {url}: {}{}", chain(error), tls_hint(error)),
            Self::Answer(error) => {
                let hint = if http2 {
                    " (JOBS_HTTP2 is set: the function must speak HTTP/2)"
                } else if error.is_parse() {
                    " (does an HTTP/1.1 server listen there? TLS needs an https URL, HTTP/2 alone JOBS_HTTP2)"
                } else if is_broken_off(error) {
                    " (the connection ended too early: has the function crashed, or been restarted?)"
                } else {
                    ""
                };
                format!("no valid HTTP answer from {url}: {}{hint}", chain(error))
            }
            Self::Refused(error) => format!("refused by {url}: {}", chain(error)),
            Self::FirstByte(limit) => format!("no answer from {url} {limit}"),
            Self::Endless { status, limit } => {
                format!("the answer of {url} has no end: HTTP {status} and more than {} MiB", limit >> 20)
            }
            Self::OutOfTime(limit, progress) => match progress {
                Progress::Connecting => format!("cannot connect to {url} {limit}"),
                Progress::Waiting => format!("no answer from {url} {limit}"),
                Progress::Reading { status, length } => {
                    format!("no end of the answer of {url} {limit}: HTTP {status} and {length} bytes so far")
                }
            },
        }
    }
}

/// What to look at when TLS fails.
fn tls_hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return " (the server closed the connection instead)";
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            " (trusted are the system's root certificates, or those in SSL_CERT_FILE)"
        }
        Some(rustls::Error::InvalidMessage(_)) => " (does the server speak TLS there? The URL is https)",
        _ => "",
    }
}

/// Whether the server says that it did not look at a request: the one way of being sure once it was written. Over
/// HTTP/2 a stream is refused (REFUSED_STREAM), or is beyond the last one of a GOAWAY; RFC 9113, 8.7, allows to send it
/// again. Streams that the server may have looked at end in another error when the connection does.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(next) = cause {
        if let Some(error) = next.downcast_ref::<h2::Error>() {
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (refused || error.is_go_away());
        }
        cause = next.source();
    }
    false
}

/// Whether the connection ended before the answer did.
pub(crate) fn is_broken_off(error: &hyper::Error) -> bool {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(next) = cause {
        if next.downcast_ref().is_some_and(hyper::Error::is_incomplete_message) {
            return true;
        }
        if let Some(error) = next.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
            );
        }
        cause = next.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_time_runs_out_the_message_says_how_far_it_came() {
        let limit = Limit { time: Duration::from_secs(900), setting: "JOBS_DISPATCH_TIMEOUT" };
        let message = |progress| Failure::OutOfTime(limit, progress).message("http://fn/task", false);
        assert_eq!(
            message(Progress::Connecting),
            "cannot connect to http://fn/task within 15m (JOBS_DISPATCH_TIMEOUT)"
        );
        assert_eq!(message(Progress::Waiting), "no answer from http://fn/task within 15m (JOBS_DISPATCH_TIMEOUT)");
        assert_eq!(
            message(Progress::Reading { status: 200, length: 3 }),
            "no end of the answer of http://fn/task within 15m (JOBS_DISPATCH_TIMEOUT): HTTP 200 and 3 bytes so far"
        );
        assert_eq!(
            Failure::Endless { status: 200, limit: 64 << 20 }.message("http://fn/task", false),
            "the answer of http://fn/task has no end: HTTP 200 and more than 64 MiB"
        );
    }
}
