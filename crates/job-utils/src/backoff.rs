//! How long to wait before trying again.

use std::time::Duration;

/// Waits that double from `first` up to `cap`, with up to a quarter taken off so that many clients spread out.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and never exceeds `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, next: first }
    }

    /// How long to wait now: twice as long each time, up to `cap`, less up to a quarter at random.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next.min(self.cap);
        self.next = (self.next * 2).min(self.cap);
        // The clock's nanoseconds are random enough to spread clients, and need no generator.
        let spread = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.subsec_nanos() % 1000);
        wait - wait.mul_f64(f64::from(spread) / 4000.0)
    }

    /// Starts again at the first wait, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
        let waits: Vec<_> = (0..5).map(|_| backoff.next_wait().as_millis()).collect();
        for (wait, full) in waits.iter().zip([100, 200, 400, 400, 400]) {
            assert!((full * 3 / 4..=full).contains(wait), "{waits:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
