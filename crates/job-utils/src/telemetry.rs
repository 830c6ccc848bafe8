//! Logging for binaries, and the names of the fields that every log line shares.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use crate::config::shared::{LOG_FORMAT, RUST_LOG};

/// Lets one line through in a time and counts the others: for what strangers can bring about as often as they like.
#[derive(Debug)]
pub struct LogLimit {
    pause: Duration,
    /// When the last one was let through, and how many have been left out since.
    last: Mutex<(Option<Instant>, u64)>,
}

impl LogLimit {
    /// One line a second.
    pub fn once_a_second() -> Self {
        Self::once_in(Duration::from_secs(1))
    }

    /// One line in so much time.
    pub fn once_in(pause: Duration) -> Self {
        Self { pause, last: Mutex::default() }
    }

    /// Whether a line may be written now: then how many have been left out since the last one.
    pub fn pass(&self) -> Option<u64> {
        // Whole at any time.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.is_some_and(|at| at.elapsed() < self.pause) {
            last.1 += 1;
            return None;
        }
        last.0 = Some(Instant::now());
        Some(std::mem::take(&mut last.1))
    }
}

/// A duration in milliseconds for a field of a log line: a number in JSON too, which 128 bits are not.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Sets this process's subscriber: lines on standard error. For binaries only.
#[cfg(feature = "service")]
pub fn init(env: &dyn crate::config::Env) -> Result<(), crate::config::ConfigError> {
    use std::io::IsTerminal;

    use tracing_subscriber::EnvFilter;

    let mut reader = crate::config::Reader::new(env);
    let directives = reader.text(&RUST_LOG);
    let filter = EnvFilter::try_new(&directives).unwrap_or_else(|error| {
        reader.fault(&RUST_LOG, format!("{directives:?} is not a log filter ({error})"));
        EnvFilter::new("info")
    });
    let format = reader.text(&LOG_FORMAT);
    if !matches!(format.as_str(), "text" | "json") {
        reader.fault(&LOG_FORMAT, format!("{format:?} is neither text nor json"));
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A log that nobody reads any more (a closed pipe) must not end the task that writes to it, the one for signals
        // least of all: tracing-subscriber's fallback is eprintln!, which panics there.
        .log_internal_errors(false);
    // A subscriber set earlier by the host stays.
    let _ = if format == "json" { builder.json().try_init() } else { builder.try_init() };
    reader.finish(())
}
