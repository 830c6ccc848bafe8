//! What is measured: one table of scenarios, for a full run and for a quick one.

use std::time::Duration;

use super::program::Kind;
use super::schedules::{Fires, Schedules};

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
                budget: Duration::from_secs(250),
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
                budget: Duration::from_secs(75 * 60),
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
    /// A job-service without work.
    Idle,
}

impl Work {
    /// The service of ours that must be built.
    pub(super) fn service(self) -> Option<&'static str> {
        match self {
            Self::HttpDrain { .. } | Self::HttpLatency { .. } | Self::Idle => Some("job-service"),
            Self::Schedules(_) => Some("job-scheduler"),
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

/// The original claims one schedule a statement, and looks through those it has.
const RIVAL_SCHEDULES: u64 = 20;

const DRAIN: Work = Work::Drain(Drain::PLAIN);
const ONE_BY_ONE: Work = Work::Latency { rate: Rate::OneByOne };

fn single(notify: Option<&'static str>, beside: Beside) -> Work {
    Work::Add { mode: "single", clients: 10, notify, beside }
}

fn bulk(clients: u32) -> Work {
    Work::Add { mode: "bulk", clients, notify: None, beside: Beside::Nothing }
}

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
        drains(scale),
        adds(scale),
        latencies(scale),
        http(scale),
        not_due(scale),
        dead(scale),
        shapes(scale),
        schedules(scale),
        Group {
            title: "Idle",
            note: "job-service (worker, callback server, scheduler) without work; statements are counted in the server's log.",
            scenarios: vec![Scenario {
                reps: 1,
                ..scale.scenario("idle", "job-service", OURS, scale.idle_seconds, Work::Idle)
            }],
        },
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

fn drains(scale: &Scale) -> Group {
    let drain = |name, title, who, work| scale.scenario(name, title, who, scale.jobs, Work::Drain(work));
    Group {
        title: "Drain in process",
        note: "No-op handlers. The limit claims 500 rows with RETURNING and deletes them, on a table with a primary key \
               and one partial index.",
        scenarios: vec![
            drain("drain-1", "one worker", ALL, Drain::PLAIN),
            drain("drain-2", "two workers", ALL, Drain { workers: 2, ..Drain::PLAIN }).rivals_in_full(scale),
            drain("drain-lazy", "claims not durable", LIMITS, Drain { durable_claim: false, ..Drain::PLAIN }),
        ],
    }
}

fn adds(scale: &Scale) -> Group {
    let one = |name, title, who, work| scale.scenario(name, title, who, scale.single, work).rivals(4);
    let many = |name, title, who, clients| scale.scenario(name, title, who, scale.jobs, bulk(clients));
    let (busy, drain) = (single(Some("demand"), Beside::BusyWorker), single(Some("demand"), Beside::Drain));
    Group {
        title: "Enqueue",
        note: "Single: one job a transaction, 10 at once. Bulk: each library's best bulk way, one client unless said \
               otherwise. The limit is a plain INSERT into the table above, 500 rows a statement in bulk.",
        scenarios: vec![
            one("single-always", "single, always NOTIFY", ALL, single(Some("always"), Beside::Nothing)),
            one("single-demand", "single, NOTIFY on demand, worker busy", OURS, busy),
            one("single-keeping-up", "single, NOTIFY on demand, a worker drains them", OURS, drain),
            one("single-raw", "single, no NOTIFY", LIMITS, single(None, Beside::Nothing)),
            many("bulk", "bulk", ALL, 1),
            many("bulk-2", "bulk, 2 clients", &[Kind::Limits, Kind::Ours], 2),
        ],
    }
}

fn latencies(scale: &Scale) -> Group {
    let at = |name, title, who, jobs, rate| scale.scenario(name, title, who, jobs, Work::Latency { rate });
    Group {
        title: "Latency",
        note: "From the call that adds the job to the start of its handler. The limit is a plain INSERT with pg_notify, and a \
               listener that claims the row.",
        scenarios: vec![
            at("latency", "idle", ALL, scale.latency, Rate::OneByOne),
            at("latency-500", "at 500 jobs/s", OURS_RIVALS, 0, Rate::PerSecond(500)).rivals_in_full(scale),
            at("latency-half", "at half of its own single adds/s", OURS_RIVALS, 0, Rate::Half).rivals_in_full(scale),
        ],
    }
}

fn http(scale: &Scale) -> Group {
    let drain = |name, title, who, jobs, function| scale.scenario(name, title, who, jobs, Work::HttpDrain { function });
    let latency =
        |name, title, function| scale.scenario(name, title, OURS_RIVALS, scale.latency, Work::HttpLatency { function });
    let node = |workers| Function::Node { workers };
    Group {
        title: "HTTP",
        note: "job-service as shipped, against a minimal function in Rust. A job of the original always ends by a \
               callback.",
        scenarios: vec![
            scale.scenario(
                "http-post",
                "bare POSTs, 64 connections",
                LIMITS,
                scale.http * 2,
                Work::Post { clients: 64 },
            ),
            drain("http-answer", "the answer ends the job", OURS_RIVALS, scale.http, Function::Answer).rivals(4),
            drain("http-callback", "a callback ends the job", OURS_RIVALS, scale.http, Function::Callback).rivals(4),
            drain("http-node", "the original's function in Node", OURS_RIVALS, scale.http / 20, node(1)),
            drain("http-node-4", "the same, 4 workers of the original", &[Kind::Rival], scale.http / 20, node(4)),
            latency("http-latency", "idle, add to done, answer", Function::Answer),
            latency("http-latency-callback", "idle, add to done, callback", Function::Callback),
        ],
    }
}

fn not_due(scale: &Scale) -> Group {
    let [some, many] = scale.not_due;
    let drain = |name, who, fill| {
        scale.scenario(name, format!("drain, {} not due", count(fill)), who, scale.jobs, DRAIN).filled(fill)
    };
    let latency = |name, who, fill| {
        scale.scenario(name, format!("latency, {} not due", count(fill)), who, scale.latency, ONE_BY_ONE).filled(fill)
    };
    Group {
        title: "Rows that are not due",
        note: "Rows in the table that are due in a day; and the same without, in turn, since machines change their pace.",
        scenarios: vec![
            drain("not-due-0", OURS, 0),
            latency("not-due-0-latency", OURS, 0),
            drain("not-due", OURS_RIVALS, some).rivals_in_full(scale).seldom(),
            latency("not-due-latency", OURS_RIVALS, some).rivals_in_full(scale).seldom(),
            drain("not-due-many", OURS, many),
            latency("not-due-many-latency", OURS, many),
        ],
    }
}

fn dead(scale: &Scale) -> Group {
    let [few, many] = scale.dead;
    let drain = |name, who, before, held| {
        let title = format!("{} dead rows, {}", count(before), if held { "snapshot held" } else { "no snapshot held" });
        scale.scenario(name, title, who, scale.jobs, Work::Drain(Drain { before, held, ..Drain::PLAIN }))
    };
    Group {
        title: "Dead rows under a held snapshot",
        note: "A forgotten transaction holds its snapshot from the beginning. Jobs are added and drained until the dead \
               rows are there (two a job), then the drain of the next jobs is timed; and the same without the transaction.",
        scenarios: vec![
            drain("dead", OURS_RIVALS, few, false).rivals_in_full(scale).seldom(),
            drain("dead-held", OURS_RIVALS, few, true).rivals_in_full(scale).seldom(),
            drain("dead-many", OURS, many, false),
            drain("dead-many-held", OURS, many, true),
        ],
    }
}

fn shapes(scale: &Scale) -> Group {
    let drain = |name, title, jobs, work| {
        scale.scenario(name, title, OURS_RIVALS, jobs, Work::Drain(work)).rivals_in_full(scale).seldom()
    };
    Group {
        title: "Queues and payloads",
        note: "A drain with one worker.",
        scenarios: vec![
            drain("queues", "10,000 distinct queue names", scale.jobs, Drain { queues: 10_000, ..Drain::PLAIN }),
            drain("payload-1k", "payloads of 1 KiB", scale.jobs, Drain { payload: 1_024, ..Drain::PLAIN }),
            drain("payload-64k", "payloads of 64 KiB", scale.jobs / 20, Drain { payload: 65_536, ..Drain::PLAIN }),
        ],
    }
}

fn schedules(scale: &Scale) -> Group {
    let [start, rest, seconds] = scale.schedule_seconds;
    let (start, rest, due) = (Duration::from_secs(start), Duration::from_secs(rest), scale.due);
    let holding = |name, title, fires, rest| {
        let work = Work::Schedules(Schedules { fires, start, rest });
        scale.scenario(name, title, OURS_RIVALS, scale.schedules, work).rivals(RIVAL_SCHEDULES).rivals_in_full(scale)
    };
    Group {
        title: "Schedules",
        note: "job-scheduler alone; the original's scheduler; and, for one second that is the first of a minute, the cron in a \
               worker of graphile-worker. Rivals get a twentieth of the schedules, because the original looks through those \
               it holds to find the next: the time of its start grows with their square. Start-up: from the start of the \
               process until all are held. Lateness: from the instant of the rule until the last row of the transaction \
               that makes the job is written; for the original until that transaction begins, which is what it writes \
               down. Statements and CPU are those from 1 s before the first fire until all are made, or for a minute.",
        scenarios: vec![
            holding("schedules", format!("{due} due in each minute"), Fires::Spread { per_minute: due, seconds }, rest)
                .seldom(),
            holding(
                "schedules-together",
                format!("{due} due in the same second"),
                Fires::Together { due },
                Duration::ZERO,
            )
            .seldom(),
        ],
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
