//! Wall clock and CPU of this process, and percentiles.

use std::time::Instant;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// User and system time of this process so far, in seconds.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Measures wall clock and CPU from its making on.
pub struct Span {
    began: Instant,
    cpu: f64,
}

impl Span {
    /// Starts the clocks.
    #[must_use]
    pub fn begin() -> Span {
        Span { began: Instant::now(), cpu: cpu_seconds() }
    }

    /// Wall clock and CPU since the beginning, in seconds.
    #[must_use]
    pub fn end(&self) -> (f64, f64) {
        (self.began.elapsed().as_secs_f64(), cpu_seconds() - self.cpu)
    }
}

/// Resident memory of this process in kilobytes.
///
/// # Errors
/// `/proc` does not say.
pub fn rss_kb() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("VmRSS without a value")?.parse()?)
}

/// The `fraction` (0.5, 0.99) of the values by nearest rank; 0 without values.
#[must_use]
pub fn percentile(values: &[f64], fraction: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * fraction).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
