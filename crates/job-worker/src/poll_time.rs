//! Poll time: how long a handler holds the thread that it runs on, from one await to the next.

use std::pin::Pin;
use std::task::{Context as Waker, Poll};
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::monitor::BLOCKED;

/// A handler that is timed each time it gets its thread.
pub(crate) struct Timed<'a, F> {
    running: Pin<&'a mut F>,
    context: &'a Context,
    /// When it got it last, and when it let go of it.
    last: Option<(Instant, Instant)>,
}

impl<'a, F> Timed<'a, F> {
    pub(crate) fn new(running: Pin<&'a mut F>, context: &'a Context) -> Self {
        Self { running, context, last: None }
    }

    /// How long it has just held its thread, when its time was up meanwhile: no timer could end it then.
    pub(crate) fn held_beyond(&self, end: Instant) -> Option<Duration> {
        let (entered, left) = self.last?;
        (entered < end && end < left).then(|| left - entered)
    }
}

impl<F: Future> Future for Timed<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, waker: &mut Waker<'_>) -> Poll<F::Output> {
        let entered = Instant::now();
        let monitor = self.context.monitor();
        if let Some(monitor) = monitor {
            monitor.enter();
        }
        let polled = self.running.as_mut().poll(waker);
        let left = Instant::now();
        let held = left - entered;
        if let Some(monitor) = monitor {
            monitor.leave(held);
        }
        if held >= BLOCKED {
            let job = self.context.job();
            tracing::warn!(
                job.id = job.id,
                job.task = job.task,
                "task {} held a thread for {} s: use spawn_blocking for what blocks",
                job.task,
                held.as_secs()
            );
        }
        self.last = Some((entered, left));
        polled
    }
}
