//! Waiting for a condition. The only place that sleeps, and only between two tries.

use std::panic::Location;
use std::time::{Duration, Instant};

/// How long to wait between two tries: short beside a process's start, long beside a query.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` is true; panics with the caller's place when it is not within `limit`.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut tries = 0;
/// job_testkit::eventually(Duration::from_secs(5), async || { tries += 1; tries == 3 }).await;
/// # }
/// ```
#[track_caller]
pub fn eventually(limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let mut wait = Wait::up_to(limit);
        while !condition().await {
            if !wait.again().await {
                wait.is_over(caller);
            }
        }
    }
}

/// Lets `duration` pass, during which `condition` must be true; panics with the caller's place when it is not. For what
/// must hold throughout an outage; never for waiting until something has happened.
#[track_caller]
pub fn throughout(duration: Duration, mut condition: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let mut wait = Wait::up_to(duration);
        loop {
            if !condition().await {
                panic!("{caller}: the condition held for {:?} only, not {duration:?}", wait.start.elapsed());
            }
            if !wait.again().await {
                return;
            }
        }
    }
}

/// Waits until `find` finds something, and returns it; panics with the caller's place when it does not within `limit`.
#[track_caller]
pub fn eventually_some<T>(limit: Duration, find: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        match try_poll(limit, find).await {
            Ok(found) => found,
            Err(wait) => wait.is_over(caller),
        }
    }
}

/// Like [`eventually_some`], but without a panic when time is up.
pub async fn try_poll<T>(limit: Duration, mut find: impl AsyncFnMut() -> Option<T>) -> Result<T, Wait> {
    let mut wait = Wait::up_to(limit);
    loop {
        if let Some(found) = find().await {
            return Ok(found);
        }
        if !wait.again().await {
            return Err(wait);
        }
    }
}

/// Takes this long, as work does. For a fake function that is to be busy while others might break a rule; never for
/// waiting until something has happened.
pub async fn work_for(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// A limited number of tries with a pause between them.
#[derive(Debug)]
pub struct Wait {
    start: Instant,
    limit: Duration,
    tries: u64,
}

impl Wait {
    fn up_to(limit: Duration) -> Self {
        Self { start: Instant::now(), limit, tries: 0 }
    }

    /// Pauses after a try. False when time is up.
    async fn again(&mut self) -> bool {
        self.tries += 1;
        if self.start.elapsed() >= self.limit {
            return false;
        }
        tokio::time::sleep(POLL).await;
        true
    }

    fn is_over(&self, caller: &Location<'_>) -> ! {
        panic!("{caller}: the condition was not met within {:?} ({} tries)", self.limit, self.tries)
    }
}
