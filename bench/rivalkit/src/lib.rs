//! What the programs of the Rust rivals share. A rival implements [`Rival`]; [`main`] does the rest: it speaks the
//! command line of bench programs and prints one JSON object as its last line.

mod args;
mod clock;
mod probe;
mod run;

use std::future::Future;
use std::sync::Arc;

use anyhow::Result;

pub use args::{Args, unsupported};
pub use clock::{Span, cpu_seconds, percentile, rss_kb};
pub use probe::Probe;
pub use run::main;

/// How jobs are to be made.
#[derive(Clone, Default)]
pub struct Spec {
    /// Bytes of padding in each payload.
    pub payload_bytes: usize,
    /// Named queues that the jobs take in turn; 0: none.
    pub queues: u64,
    /// Distinct priorities of the jobs; 0: all have the default.
    pub priorities: u64,
    /// Whether the jobs are due in a day (spread over an hour) and not now.
    pub future: bool,
}

impl Spec {
    /// The padding of each payload.
    #[must_use]
    pub fn pad(&self) -> String {
        "x".repeat(self.payload_bytes)
    }

    /// The name of the job's queue.
    #[must_use]
    pub fn queue(&self, job: u64) -> Option<String> {
        (self.queues > 0).then(|| format!("queue-{}", job % self.queues))
    }

    /// The job's priority. Neighbours in the order of ids are far apart in that of priorities, so that indexes are
    /// filled in no order.
    #[must_use]
    pub fn priority(&self, job: u64) -> Option<i32> {
        // A prime that divides no round number: every priority comes once before one comes again.
        (self.priorities > 0).then(|| (job * 7_919 % self.priorities) as i32)
    }

    /// Seconds from now at which the job is due; `None`: at once.
    #[must_use]
    pub fn due_in(&self, job: u64) -> Option<u64> {
        self.future.then_some(86_400 + job % 3600)
    }
}

/// What a worker is tuned for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Jobs per second.
    Throughput,
    /// The time from enqueue to start.
    Latency,
    /// Little work while nothing happens; LISTEN stays on.
    Idle,
}

/// One job library.
pub trait Rival: Sized + Send + Sync + 'static {
    /// A worker that is connected and configured but does not run yet.
    type Prepared: Send;
    /// A worker that runs.
    type Running: Send;

    /// Jobs that [`Rival::add_many`] gets at once at the most.
    const BULK: u64;
    /// Whether jobs can name a queue.
    const QUEUES: bool;
    /// Whether jobs can have any of a million priorities.
    const PRIORITIES: bool = false;

    /// Connects a producer with `clients` connections at the most.
    fn connect(url: &str, clients: u32) -> impl Future<Output = Result<Self>> + Send;
    /// Connects the producer of the latency measure; the same one unless the library's producer has a setting for it.
    fn connect_for_latency(url: &str, clients: u32) -> impl Future<Output = Result<Self>> + Send {
        Self::connect(url, clients)
    }
    /// Drops and creates the library's schema.
    fn setup(&self) -> impl Future<Output = Result<()>> + Send;
    /// Adds the jobs `first..first + count` in the library's best bulk way.
    fn add_many(&self, first: u64, count: u64, spec: &Spec) -> impl Future<Output = Result<()>> + Send;
    /// Adds one job in a transaction of its own.
    fn add_one(&self, job: u64, spec: &Spec) -> impl Future<Output = Result<()>> + Send;
    /// Jobs in the database that are neither done nor failed for good.
    fn left(&self) -> impl Future<Output = Result<i64>> + Send;

    /// Connects one worker, with a pool of its own; `index` counts the workers of this process.
    fn prepare(
        url: &str,
        profile: Profile,
        index: u64,
        probe: Arc<Probe>,
    ) -> impl Future<Output = Result<Self::Prepared>> + Send;
    /// Starts it.
    fn start(prepared: Self::Prepared) -> impl Future<Output = Result<Self::Running>> + Send;
    /// Stops it gracefully.
    fn stop(running: Self::Running) -> impl Future<Output = Result<()>> + Send;
    /// The settings in words, for the table's notes.
    fn settings(profile: Profile) -> String;
}
