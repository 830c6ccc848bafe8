//! Retry: how often a task is tried, and how long it waits in between.

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "dispatch")]
use crate::config::RetrySettings;
#[cfg(feature = "dispatch")]
use job_utils::outcome::AfterFailure;
use job_utils::outcome::usual_wait;

/// How failed attempts of a task are tried again. By default as the database does it for all jobs: after e^attempts
/// seconds (6 hours at most), until the job's own attempts are used up.
///
/// ```
/// use std::time::Duration;
/// use job_worker::Retry;
/// let retry = Retry::exponential(Duration::from_secs(1), Duration::from_secs(600)).max_attempts(8).jitter(0.2);
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Retry {
    max_attempts: Option<i32>,
    curve: Curve,
    jitter: f64,
}

#[derive(Clone, Default)]
enum Curve {
    #[default]
    Usual,
    Fixed(Duration),
    Exponential {
        first: Duration,
        cap: Duration,
    },
    Custom(Arc<dyn Fn(i32) -> Duration + Send + Sync>),
}

impl Retry {
    /// Never: the first failure is for good.
    pub fn never() -> Self {
        Self { max_attempts: Some(1), ..Self::default() }
    }

    /// The same wait each time.
    pub fn fixed(wait: Duration) -> Self {
        Self { curve: Curve::Fixed(wait), ..Self::default() }
    }

    /// `first`, then twice as long each time, up to `cap`.
    pub fn exponential(first: Duration, cap: Duration) -> Self {
        Self { curve: Curve::Exponential { first, cap }, ..Self::default() }
    }

    /// Whatever the function says; it gets the number of the attempt that failed, from 1. When it panics, the wait is
    /// the usual one.
    pub fn custom(wait: impl Fn(i32) -> Duration + Send + Sync + 'static) -> Self {
        Self { curve: Curve::Custom(Arc::new(wait)), ..Self::default() }
    }

    /// No more attempts than these, although the job may have more. Not more than the job has: those are 25 unless it
    /// was enqueued with others ([`NewJob::max_attempts`](crate::NewJob::max_attempts)).
    pub fn max_attempts(mut self, attempts: u16) -> Self {
        self.max_attempts = Some(i32::from(attempts.max(1)));
        self
    }

    /// Takes up to this share off each wait, at random, so that jobs that failed together are not tried together. From
    /// 0 to 1.
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        self
    }

    /// The policy of settings.
    #[cfg(feature = "dispatch")]
    pub(crate) fn of(settings: &RetrySettings) -> Self {
        let curve = match (settings.first, settings.cap) {
            (None, _) => Curve::Usual,
            (Some(first), None) => Curve::Fixed(first),
            (Some(first), Some(cap)) => Curve::Exponential { first, cap },
        };
        Self { max_attempts: settings.max_attempts.map(i32::from), curve, ..Self::default() }.jitter(settings.jitter)
    }

    /// What follows when this attempt fails, from 1. With jitter the wait is another one each time that this is asked.
    #[cfg(feature = "dispatch")]
    pub(crate) fn after_failure(&self, attempt: i32) -> AfterFailure {
        match self.wait(attempt) {
            _ if self.is_last(attempt) => AfterFailure::Last,
            Some(wait) => AfterFailure::Retry(wait),
            None => AfterFailure::Usual,
        }
    }

    /// How long to wait after this attempt, from 1, when the function asks for `asked` at least.
    #[cfg(feature = "dispatch")]
    pub(crate) fn wait_of_at_least(&self, asked: Duration, attempt: i32) -> Duration {
        self.wait(attempt).unwrap_or_else(|| usual_wait(attempt)).max(asked)
    }

    /// Whether no attempt follows this one, from 1.
    pub(crate) fn is_last(&self, attempt: i32) -> bool {
        self.max_attempts.is_some_and(|most| attempt >= most)
    }

    /// How many attempts a job has with so many of its own.
    pub(crate) fn most(&self, own: i32) -> i32 {
        self.max_attempts.map_or(own, |most| most.min(own))
    }

    /// How long to wait after this attempt, from 1. None: the database knows.
    pub(crate) fn wait(&self, attempt: i32) -> Option<Duration> {
        let wait = match &self.curve {
            Curve::Usual if self.jitter == 0.0 => return None,
            Curve::Usual => usual_wait(attempt),
            Curve::Fixed(wait) => *wait,
            Curve::Exponential { first, cap } => {
                // Doubled 63 times, a nanosecond is longer than any cap makes sense.
                let doublings = u32::try_from(attempt - 1).unwrap_or(0).min(63);
                let factor = 1_u64 << doublings;
                let seconds = first.as_secs_f64() * factor as f64;
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(*cap)
            }
            Curve::Custom(wait) => wait(attempt),
        };
        Some(wait - wait.mul_f64(self.jitter * fastrand::f64()).min(wait))
    }
}

impl std::fmt::Debug for Retry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let curve = match &self.curve {
            Curve::Usual => "usual".to_owned(),
            Curve::Fixed(wait) => format!("fixed({wait:?})"),
            Curve::Exponential { first, cap } => format!("exponential({first:?}, {cap:?})"),
            Curve::Custom(_) => "custom".to_owned(),
        };
        f.debug_struct("Retry")
            .field("max_attempts", &self.max_attempts)
            .field("curve", &curve)
            .field("jitter", &self.jitter)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_curve() {
        let seconds = |retry: &Retry| [1, 2, 3, 9, 1000].map(|attempt| retry.wait(attempt).map(|wait| wait.as_secs()));
        assert_eq!(seconds(&Retry::default()), [None; 5], "the database knows");
        assert_eq!(seconds(&Retry::fixed(Duration::from_secs(7))), [Some(7); 5]);
        let doubling = Retry::exponential(Duration::from_secs(1), Duration::from_secs(100));
        assert_eq!(seconds(&doubling), [1, 2, 4, 100, 100].map(Some));
        let widest = Retry::exponential(Duration::MAX, Duration::MAX);
        assert_eq!(widest.wait(1000), Some(Duration::MAX));
        let custom = Retry::custom(|attempt| Duration::from_secs(attempt as u64 * 10));
        assert_eq!(seconds(&custom), [10, 20, 30, 90, 10000].map(Some));
    }

    #[cfg(feature = "dispatch")]
    #[test]
    fn of_the_wait_that_a_function_asks_for_and_the_policys_the_longer_counts() {
        let seconds = |retry: &Retry, asked| retry.wait_of_at_least(Duration::from_secs(asked), 3).as_secs();
        let usual = Retry::default();
        assert_eq!((seconds(&usual, 7), seconds(&usual, 120)), (20, 120), "the usual wait is e^3 s");
        let fixed = Retry::fixed(Duration::from_secs(60));
        assert_eq!((seconds(&fixed, 7), seconds(&fixed, 120)), (60, 120));
    }

    #[test]
    fn jitter_takes_off_up_to_its_share() {
        let retry = Retry::fixed(Duration::from_secs(100)).jitter(0.25);
        let waits: Vec<f64> = (0..1000).filter_map(|_| Some(retry.wait(1)?.as_secs_f64())).collect();
        assert!(waits.iter().all(|wait| (75.0..=100.0).contains(wait)));
        assert!(waits.iter().any(|wait| *wait < 80.0) && waits.iter().any(|wait| *wait > 95.0), "they spread");
        let usual = Retry::default().jitter(0.5).wait(20).unwrap().as_secs_f64();
        assert!((11_013.0..=22_027.0).contains(&usual), "{usual}");
        assert!(Retry::fixed(Duration::MAX).jitter(1.0).wait(1).is_some());
        assert_eq!(Retry::fixed(Duration::from_secs(1)).jitter(f64::NAN).wait(1), Some(Duration::from_secs(1)));
    }

    #[test]
    fn attempts_end() {
        assert!(Retry::never().is_last(1));
        assert!(!Retry::default().is_last(i32::MAX));
        let three = Retry::default().max_attempts(3);
        assert!(!three.is_last(2) && three.is_last(3) && three.is_last(4));
    }
}
