//! What is measured: one table of scenarios, for a full run and for a quick one. The groups are in files by subject.

mod gates;
mod library;
mod services;

use std::time::Duration;

use super::gates::Gate;
use super::program::Kind;
use super::schedules::Schedules;

/// How large a run is.
pub(super) struct Scale {
    pub(super) quick: bool,
    /// Runs of each program in a scenario; rivals of slow scenarios have fewer.
    reps: u32,
    jobs: u64,
    single: u64,
    latency: u64,
    http: u64,
    pub(super) not_due: [u64; 2],
    pub(super) dead: [u64; 2],
    idle_seconds: u64,
    pub(super) schedules: u64,
    /// Of the schedules, due in a minute.
    pub(super) due: u64,
    /// How long a scheduler may take to start, how long it rests then, and how long its fires are looked at.
    schedule_seconds: [u64; 3],
    /// After this time scenarios get one run each, and after 1.1 times as much none.
    pub(super) budget: Duration,
}

impl Scale {
    pub(super) fn new(quick: bool) -> Self {
        if quick {
            Self {
                quick,
                reps: 1,
                jobs: 30_000,
                single: 4_000,
                latency: 40,
                http: 20_000,
                not_due: [100_000, 1_000_000],
                dead: [100_000, 200_000],
                idle_seconds: 15,
                schedules: 10_000,
                due: 100,
                schedule_seconds: [10, 6, 20],
                budget: Duration::from_secs(360),
            }
        } else {
            Self {
                quick,
                reps: 3,
                jobs: 100_000,
                single: 20_000,
                latency: 200,
                http: 100_000,
                not_due: [1_000_000, 10_000_000],
                dead: [200_000, 1_000_000],
                idle_seconds: 60,
                schedules: 100_000,
                due: 1_000,
                schedule_seconds: [30, 20, 60],
                budget: Duration::from_secs(95 * 60),
            }
        }
    }
}

/// Scenarios that are run in turn and shown in one table.
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) note: &'static str,
    pub(super) scenarios: Vec<Scenario>,
}

/// One thing to measure.
#[derive(Clone)]
pub(super) struct Scenario {
    /// For `--only` and the bars.
    pub(super) name: &'static str,
    pub(super) title: String,
    pub(super) who: &'static [Kind],
    pub(super) reps: u32,
    /// Rounds of the rivals, when they get fewer.
    pub(super) rival_reps: u32,
    pub(super) jobs: u64,
    /// Jobs of the rivals, when they get fewer.
    pub(super) rival_jobs: u64,
    /// Rows not due in the table.
    pub(super) fill: u64,
    pub(super) work: Work,
}

/// The kind of work.
#[derive(Clone, Copy)]
pub(super) enum Work {
    /// Adding jobs.
    Add { mode: &'static str, clients: u32, notify: Option<&'static str>, beside: Beside },
    /// Draining jobs with handlers in the worker's process.
    Drain(Drain),
    /// The time from adding to the handler's start; at a rate for some seconds, whatever the number of jobs.
    Latency { rate: Rate },
    /// Bare POSTs over so many connections.
    Post { clients: u32 },
    /// Draining jobs over HTTP.
    HttpDrain { function: Function },
    /// The time from adding to done over HTTP.
    HttpLatency { function: Function },
    /// A scheduler that holds so many schedules as there are jobs.
    Schedules(Schedules),
    /// Jobs that something holds back.
    Gate(Gate),
    /// A job-service without work.
    Idle,
}

impl Work {
    /// The service of ours that must be built.
    pub(super) fn service(self) -> Option<&'static str> {
        match self {
            Self::HttpDrain { .. } | Self::HttpLatency { .. } | Self::Idle => Some("job-service"),
            Self::Schedules(_) => Some("job-scheduler"),
            Self::Gate(gate) => gate.service(),
            _ => None,
        }
    }
}

/// A drain in process.
#[derive(Clone, Copy)]
pub(super) struct Drain {
    pub(super) workers: u32,
    /// Bytes of padding in a payload.
    pub(super) payload: u32,
    /// Distinct queue names; 0: no names.
    pub(super) queues: u32,
    /// Dead rows that are made before, by adding and draining half as many jobs.
    pub(super) before: u64,
    /// A transaction holds its snapshot all the while.
    pub(super) held: bool,
    /// For the limit: whether claims wait for the disk.
    pub(super) durable_claim: bool,
}

impl Drain {
    const PLAIN: Self = Self { workers: 1, payload: 0, queues: 0, before: 0, held: false, durable_claim: true };
}

/// What runs beside a producer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    Nothing,
    /// A worker that has no free slot, so that nobody waits for a notification.
    BusyWorker,
    /// A worker that drains the jobs as they come.
    Drain,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rate {
    OneByOne,
    PerSecond(u64),
    /// Half of what this program's producers reached in `single-always`.
    Half,
}

/// The function that jobs are dispatched to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    /// The fast one; its answer ends the job.
    Answer,
    /// The fast one; it calls back.
    Callback,
    /// The original's own, in Node; it calls back. With so many workers of the original.
    Node { workers: u32 },
}

const OURS: &[Kind] = &[Kind::Ours];
const LIMITS: &[Kind] = &[Kind::Limits];
const OURS_RIVALS: &[Kind] = &[Kind::Ours, Kind::Rival];
const ALL: &[Kind] = &[Kind::Limits, Kind::Ours, Kind::Rival];

/// A number as people write it.
pub(super) fn count(number: u64) -> String {
    match number {
        _ if number >= 1_000_000 && number.is_multiple_of(100_000) => format!("{}M", number as f64 / 1e6),
        _ if number >= 10_000 && number.is_multiple_of(1_000) => format!("{}k", number / 1_000),
        _ => number.to_string(),
    }
}

/// The whole plan, in the order in which it is run and shown.
pub(super) fn plan(scale: &Scale) -> Vec<Group> {
    vec![
        library::drains(scale),
        library::adds(scale),
        library::latencies(scale),
        services::http(scale),
        library::not_due(scale),
        library::dead(scale),
        library::payloads(scale),
        gates::queues(scale),
        gates::producers(scale),
        gates::claims(scale),
        gates::priorities(scale),
        gates::limits(scale),
        gates::hosts(scale),
        gates::fairness(scale),
        gates::bulk(scale),
        services::schedules(scale),
        services::idle(scale),
    ]
}

impl Scale {
    fn scenario(
        &self,
        name: &'static str,
        title: impl Into<String>,
        who: &'static [Kind],
        jobs: u64,
        work: Work,
    ) -> Scenario {
        let (title, reps) = (title.into(), self.reps);
        Scenario { name, title, who, reps, rival_reps: reps, jobs, rival_jobs: jobs, fill: 0, work }
    }
}

impl Scenario {
    /// With fewer jobs for rivals.
    fn rivals(self, share: u64) -> Self {
        Self { rival_jobs: self.jobs / share, ..self }
    }

    /// With two rounds of the rivals at the most, where they take long.
    fn seldom(self) -> Self {
        Self { rival_reps: self.rival_reps.min(2), ..self }
    }

    /// Without rivals in a quick run: no bar compares with theirs.
    fn rivals_in_full(self, scale: &Scale) -> Self {
        if scale.quick {
            Self { who: if self.who == ALL { &[Kind::Limits, Kind::Ours] } else { OURS }, ..self }
        } else {
            self
        }
    }

    fn filled(self, fill: u64) -> Self {
        Self { fill, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_names_are_unique() {
        assert_eq!([count(10_000_000), count(200_000), count(2_500)], ["10M", "200k", "2500"]);
        let groups = plan(&Scale::new(false));
        let mut names: Vec<_> = groups.iter().flat_map(|group| &group.scenarios).map(|one| one.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
