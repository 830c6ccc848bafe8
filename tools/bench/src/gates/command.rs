//! Commands of bench/ours that measure gates: they add their jobs and set their limits themselves.

use anyhow::Result;

use super::super::program::Program;
use super::super::results::{Figures, Outcome};
use super::super::run::{Runner, copy, outcome};
use super::Column;

/// A command and its flags; what each measures is in bench/ours/src/gates/.
#[derive(Clone, Copy)]
pub(crate) enum Command {
    Limit { running: u64, job_ms: u64, workers: u64, seconds: u64 },
    Rate { rate: u64, burst: u64, workers: u64, seconds: u64 },
    Producers { clients: u64, isolation: Isolation, queue: bool, seconds: u64 },
    Claims { claims: u64, behind: Behind, blocked: u64, queues: u64 },
    Fair { slots: u64, long_ms: u64, short_ms: u64, waiting: u64, jobs: u64, seconds: u64 },
    Bulk { jobs: u64, waiting: u64, change: u64, job_ms: u64, workers: u64 },
}

/// The isolation level of producers.
#[derive(Clone, Copy)]
pub(crate) enum Isolation {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Isolation {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::ReadCommitted => "read-committed",
            Self::RepeatableRead => "repeatable-read",
            Self::Serializable => "serializable",
        }
    }
}

/// What jobs are blocked by.
#[derive(Clone, Copy)]
pub(crate) enum Behind {
    Queue,
    Limit,
    Pause,
    Host,
}

/// Jobs of a claim.
const BATCH: u64 = 100;
/// Jobs a second that a limit is far from letting start, so that they do not run out.
const FAST: u64 = 4_000;

const LIMIT: &[Column] = &[
    Column::new("starts a second", "per_s", 0),
    Column::new("a job took ms", "job_ms", 2),
    Column::new("of the limit, %", "used_percent", 1),
    Column::new("most at once: handlers", "most_running", 0),
    Column::new("rows", "most_locked", 0),
];
const RATE: &[Column] = &[
    Column::new("starts a second", "per_s", 1),
    Column::new("of the bucket, %", "used_percent", 1),
    Column::new("above the bucket", "above", 2),
];
const PRODUCERS: &[Column] = &[
    Column::new("added a second", "per_s", 0),
    Column::new("committed, %", "committed_percent", 2),
    Column::new("the worker's jobs a second", "done_per_s", 0),
];
const CLAIMS: &[Column] = &[
    Column::new("the first job after s", "first_s", 2),
    Column::new("jobs a claim", "taken", 0),
    Column::new("p50 ms", "p50_ms", 2),
    Column::new("p99 ms", "p99_ms", 2),
    Column::new("most ms", "max_ms", 2),
];
const FAIR: &[Column] = &[
    Column::new("the small one's wait alone, p99 ms", "alone_p99_ms", 1),
    Column::new("beside the other, p50 ms", "beside_p50_ms", 1),
    Column::new("p99 ms", "beside_p99_ms", 1),
    Column::new("its share, %", "share_percent", 1),
    Column::new("slots used without fairness, %", "used_off_percent", 1),
    Column::new("with it", "used_on_percent", 1),
    Column::new("drain without fairness, a second", "off_per_s", 0),
    Column::new("with it", "on_per_s", 0),
    Column::new("error of the share, %", "error_percent", 1),
];
const BULK: &[Column] = &[
    Column::new("seconds", "seconds", 2),
    Column::new("changed", "changed", 0),
    Column::new("left out", "unchanged", 0),
    Column::new("unsettled", "unsettled", 0),
    Column::new("drain before, a second", "before_per_s", 0),
    Column::new("at the slowest, %", "least_percent", 0),
];

impl Command {
    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Self::Limit { .. } => LIMIT,
            Self::Rate { .. } => RATE,
            Self::Producers { .. } => PRODUCERS,
            Self::Claims { .. } => CLAIMS,
            Self::Fair { .. } => FAIR,
            Self::Bulk { .. } => BULK,
        }
    }

    /// The command's name and flags.
    fn call(self) -> (&'static str, Vec<(&'static str, String)>) {
        let numbers = |flags: &[(&'static str, u64)]| {
            flags.iter().map(|(flag, value)| (*flag, value.to_string())).collect::<Vec<_>>()
        };
        match self {
            Self::Limit { running, job_ms, workers, seconds } => {
                let jobs = ("--jobs", (seconds + 5) * FAST);
                let (running, job_ms) = (("--max-running", running), ("--job-ms", job_ms));
                ("limit", numbers(&[jobs, running, job_ms, ("--workers", workers), ("--seconds", seconds)]))
            }
            Self::Rate { rate, burst, workers, seconds } => {
                let bucket = [("--rate", rate), ("--burst", burst)];
                ("rate", numbers(&[bucket[0], bucket[1], ("--workers", workers), ("--seconds", seconds)]))
            }
            Self::Producers { clients, isolation, queue, seconds } => {
                let mut values = numbers(&[("--clients", clients), ("--seconds", seconds)]);
                values.push(("--isolation", isolation.flag().to_owned()));
                values.push(("--queue", if queue { "busy" } else { "none" }.to_owned()));
                ("producers", values)
            }
            Self::Claims { claims, behind, blocked, queues } => {
                let mut values = claim_values(claims);
                values.extend(numbers(&[("--blocked", blocked), ("--queues", queues)]));
                let behind = match behind {
                    Behind::Queue => "queue",
                    Behind::Limit => "limit",
                    Behind::Pause => "pause",
                    Behind::Host => "host",
                };
                values.push(("--behind", behind.to_owned()));
                ("claims", values)
            }
            Self::Fair { slots, long_ms, short_ms, waiting, jobs, seconds } => {
                let times = [("--long-ms", long_ms), ("--short-ms", short_ms), ("--seconds", seconds)];
                let sizes = [("--slots", slots), ("--waiting", waiting), ("--jobs", jobs)];
                ("fair", numbers(&[times, sizes].concat()))
            }
            Self::Bulk { jobs, waiting, change, job_ms, workers } => {
                let sizes = [("--jobs", jobs), ("--waiting", waiting), ("--change", change)];
                ("bulk", numbers(&[sizes[0], sizes[1], sizes[2], ("--job-ms", job_ms), ("--workers", workers)]))
            }
        }
    }

    pub(super) async fn measure(self, runner: &Runner<'_>, program: &Program, database: &str) -> Result<Outcome> {
        let (name, values) = self.call();
        let reply = runner.call(program, database, &[name], &values).await?;
        Ok(outcome(reply, |answer| {
            let mut figures = Figures::new();
            let names: Vec<_> = self.columns().iter().map(|column| (column.figure, column.figure)).collect();
            copy(answer, &names, &mut figures);
            figures
        }))
    }
}

/// The flags of the command `claims` for jobs that are there.
pub(super) fn claim_values(claims: u64) -> Vec<(&'static str, String)> {
    vec![("--claims", claims.to_string()), ("--batch", BATCH.to_string())]
}
