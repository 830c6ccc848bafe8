//! One shutdown token for a whole process. Only binaries turn signals into it.

use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

/// Signals this close to the first are the same wish to stop.
const SAME_STOP: Duration = Duration::from_secs(1);

/// Tells every part of a process to stop. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

/// Triggers a [`Shutdown`] when it is dropped.
#[derive(Debug)]
#[must_use = "dropped at once, it triggers at once"]
pub struct TriggerOnDrop(#[allow(dead_code, reason = "it is there to be dropped")] DropGuard);

impl Shutdown {
    /// A token that has not been triggered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells everybody who holds the token or a child of it to stop.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether the token has been triggered.
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the token is triggered.
    pub async fn triggered(&self) {
        self.0.cancelled().await;
    }

    /// A token that is triggered with this one, or alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Triggers the token when the guard is dropped: whoever holds it has then ended, in whatever way.
    pub fn trigger_on_drop(&self) -> TriggerOnDrop {
        TriggerOnDrop(self.0.clone().drop_guard())
    }

    /// A token triggered by the first SIGTERM or SIGINT. A later signal ends the process at once with 130, but for
    /// those within a second of the first: launchers signal both a process and its group, and mean one stop.
    ///
    /// For binaries only: a library leaves signals to its host.
    pub fn on_signals() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = shutdown.clone();
        tokio::spawn(async move {
            let mut first = None;
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                let since = *first.get_or_insert_with(Instant::now);
                if token.is_triggered() && since.elapsed() >= SAME_STOP {
                    tracing::warn!(signal = name, "second signal: quitting at once");
                    std::process::exit(130);
                }
                if !token.is_triggered() {
                    tracing::info!(signal = name, "stopping");
                    token.trigger();
                }
            }
        });
        Ok(shutdown)
    }
}
