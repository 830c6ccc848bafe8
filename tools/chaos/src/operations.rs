//! What operators do in a run: limits, rates, pauses and calls on many jobs. Pure: the same seed and length give the
//! same calls.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::plan::FUNCTIONS;
use super::workload::{QUEUES, TENANTS, queue_name, task, tenant};

/// Every gate is open again this long before faults end: what waits behind them is to be done by the system alone.
const OPEN_END: Duration = Duration::from_millis(1500);
/// The first call.
const START: Duration = Duration::from_millis(400);
/// A snapshot is held for one of so many parts of the run.
const HELD_PART: u32 = 3;

/// A kind of gate, as SQL has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum GateKind {
    Task,
    Queue,
    Tenant,
    /// It closes by itself as well.
    Host,
    All,
}

impl GateKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Queue => "queue",
            Self::Tenant => "tenant",
            Self::Host => "host",
            Self::All => "all",
        }
    }

    pub(crate) fn read(name: &str) -> Option<Self> {
        [Self::Task, Self::Queue, Self::Tenant, Self::Host, Self::All].into_iter().find(|kind| kind.name() == name)
    }
}

/// A gate. The name `*` is each one of the kind that has no row of its own; `all` has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Gate {
    pub(crate) kind: GateKind,
    pub(crate) name: String,
}

impl Gate {
    pub(crate) fn new(kind: GateKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) starts: u32,
    pub(crate) per: Duration,
    pub(crate) burst: u32,
}

impl Rate {
    /// How long one token takes.
    pub(crate) fn step(self) -> Duration {
        self.per / self.starts.max(1)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:?}, burst {}", self.starts, self.per, self.burst)
    }
}

/// What `set_limit` is told; nothing lifts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Limit {
    pub(crate) max_running: Option<u32>,
    pub(crate) rate: Option<Rate>,
}

/// What an operator calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    SetLimit {
        gate: Gate,
        limit: Limit,
    },
    /// Until `Resume`, or for a time.
    Pause {
        gate: Gate,
        lasts: Option<Duration>,
    },
    Resume {
        gate: Gate,
    },
    /// Whether tenants are served fairly from now on.
    SetFair {
        on: bool,
    },
    /// Of so many jobs, whatever they do, those that wait are due after a time, with another priority and attempts
    /// anew where these are given.
    Reschedule {
        jobs: u32,
        after: Duration,
        priority: Option<i32>,
        attempts: Option<i32>,
    },
    /// permanently_fail_jobs.
    Fail {
        jobs: u32,
    },
    Complete {
        jobs: u32,
    },
    Cancel {
        jobs: u32,
    },
    /// A transaction that keeps its snapshot for a time.
    HoldSnapshot {
        lasts: Duration,
    },
}

impl Act {
    /// Whether it sets something for a gate.
    pub(crate) fn sets_gate(&self) -> bool {
        matches!(self, Self::SetLimit { .. } | Self::Pause { .. } | Self::Resume { .. } | Self::SetFair { .. })
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetLimit { gate, limit } if *limit == Limit::default() => write!(f, "{gate}: limit lifted"),
            Self::SetLimit { gate, limit } => {
                write!(f, "{gate}: limit")?;
                limit.max_running.map_or(Ok(()), |most| write!(f, " {most} running"))?;
                limit.rate.map_or(Ok(()), |rate| write!(f, " rate {rate}"))
            }
            Self::Pause { gate, lasts: None } => write!(f, "{gate}: paused"),
            Self::Pause { gate, lasts: Some(lasts) } => write!(f, "{gate}: paused for {lasts:?}"),
            Self::Resume { gate } => write!(f, "{gate}: resumed"),
            Self::SetFair { on } => write!(f, "tenants: {}", if *on { "fair" } else { "in the common order" }),
            Self::Reschedule { jobs, after, priority, attempts } => {
                write!(f, "reschedule {jobs} jobs by {after:?}")?;
                priority.map_or(Ok(()), |priority| write!(f, ", priority {priority}"))?;
                attempts.map_or(Ok(()), |attempts| write!(f, ", attempts {attempts}"))
            }
            Self::Fail { jobs } => write!(f, "fail {jobs} jobs for good"),
            Self::Complete { jobs } => write!(f, "complete {jobs} jobs"),
            Self::Cancel { jobs } => write!(f, "cancel {jobs} jobs"),
            Self::HoldSnapshot { lasts } => write!(f, "a snapshot is held for {lasts:?}"),
        }
    }
}

/// A call, and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) at: Duration,
    pub(crate) act: Act,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.2} s  operator: {}", self.at.as_secs_f64(), self.act)
    }
}

/// What is dealt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Card {
    LimitTask,
    LimitTasks,
    RateTask,
    LimitTenant,
    LimitTenants,
    RateTenant,
    LimitQueue,
    RateQueue,
    LimitHosts,
    Fair,
    PauseTask,
    PauseQueue,
    PauseTenant,
    PauseAll,
    Reschedule,
    Fail,
    Complete,
    Cancel,
}

/// Each is dealt once before any is dealt again; the more important ones are in it twice.
const DECK: &[Card] = &[
    Card::LimitTask,
    Card::LimitTask,
    Card::LimitTasks,
    Card::RateTask,
    Card::RateTask,
    Card::LimitTenant,
    Card::LimitTenants,
    Card::RateTenant,
    Card::LimitQueue,
    Card::LimitQueue,
    Card::RateQueue,
    Card::LimitHosts,
    Card::Fair,
    Card::PauseTask,
    Card::PauseQueue,
    Card::PauseTenant,
    Card::PauseAll,
    Card::Reschedule,
    Card::Reschedule,
    Card::Reschedule,
    Card::Fail,
    Card::Complete,
    Card::Cancel,
    Card::Cancel,
];

/// Calls in the order of their time.
pub(crate) fn calls(seed: u64, length: Duration) -> Vec<Call> {
    let mut rng = Rng::with_seed(seed ^ 0x6761_7465_7300);
    let end = length.saturating_sub(OPEN_END);
    let held = length / HELD_PART;
    let hold = Call { at: between(&mut rng, START, length.mul_f64(0.5)), act: Act::HoldSnapshot { lasts: held } };
    let mut calls = vec![hold];
    let mut set = Set::default();
    let mut hand: Vec<Card> = Vec::new();
    let mut at = START;
    while at < end {
        calls.extend(set.over(at));
        if hand.is_empty() {
            hand = DECK.to_vec();
            rng.shuffle(&mut hand);
        }
        if let Some(card) = hand.pop() {
            calls.extend(set.deal(card, at, &mut rng).map(|act| Call { at, act }));
        }
        at += Duration::from_millis(rng.u64(150..650));
    }
    calls.extend(set.over(end));
    calls.extend(set.rest(end));
    calls.sort_by_key(|call| call.at);
    calls
}

/// What is set, and when it is over.
#[derive(Default)]
struct Set {
    limits: BTreeMap<Gate, (Limit, Duration)>,
    /// The flag: whether it ends by a call, and not by itself.
    pauses: BTreeMap<Gate, (Duration, bool)>,
    /// Until when tenants are served fairly.
    fair: Option<Duration>,
}

impl Set {
    fn deal(&mut self, card: Card, at: Duration, rng: &mut Rng) -> Option<Act> {
        let a_task = Gate::new(GateKind::Task, task(rng.usize(1..=FUNCTIONS)));
        let a_queue = Gate::new(GateKind::Queue, queue_name(rng.u32(0..QUEUES)));
        let a_tenant = Gate::new(GateKind::Tenant, tenant(rng.u32(0..TENANTS)));
        let each = |kind| Gate::new(kind, "*");
        let running =
            |most: std::ops::RangeInclusive<u32>, rng: &mut Rng| Limit { max_running: Some(rng.u32(most)), rate: None };
        let rate = |starts: std::ops::RangeInclusive<u32>, rng: &mut Rng| {
            // The same rate in another time as well.
            let (starts, per) = (rng.u32(starts), [200, 500, 1000][rng.usize(..3)]);
            let starts_per = (starts * u32::try_from(per).unwrap_or(1000) / 1000).max(1);
            Rate { starts: starts_per, per: Duration::from_millis(per), burst: rng.u32(1..=6) }
        };
        let long = at + Duration::from_millis(rng.u64(2000..7000));
        let short = Duration::from_millis(rng.u64(300..2500));
        match card {
            Card::LimitTask => {
                let limit = running(1..=5, rng);
                Some(self.limit(a_task, limit, long, rng))
            }
            Card::LimitTasks => {
                let limit = running(2..=5, rng);
                Some(self.limit(each(GateKind::Task), limit, long, rng))
            }
            Card::LimitTenant => {
                let limit = running(1..=3, rng);
                Some(self.limit(a_tenant, limit, long, rng))
            }
            Card::LimitTenants => {
                let limit = running(1..=3, rng);
                Some(self.limit(each(GateKind::Tenant), limit, long, rng))
            }
            Card::LimitQueue => {
                let limit = running(1..=3, rng);
                Some(self.limit(a_queue, limit, long, rng))
            }
            Card::RateTask => {
                let max_running = rng.bool().then(|| rng.u32(2..=8));
                let limit = Limit { max_running, rate: Some(rate(10..=40, rng)) };
                Some(self.limit(a_task, limit, long, rng))
            }
            Card::RateTenant => {
                let limit = Limit { max_running: None, rate: Some(rate(4..=12, rng)) };
                Some(self.limit(a_tenant, limit, long, rng))
            }
            Card::RateQueue => {
                let limit = Limit { max_running: Some(2), rate: Some(rate(2..=8, rng)) };
                Some(self.limit(a_queue, limit, long, rng))
            }
            Card::LimitHosts => {
                let limit = running(3..=8, rng);
                Some(self.limit(each(GateKind::Host), limit, long, rng))
            }
            Card::Fair => {
                self.fair = Some(long);
                Some(Act::SetFair { on: true })
            }
            Card::PauseTask => self.pause(a_task, at, short, rng),
            Card::PauseQueue => self.pause(a_queue, at, short, rng),
            Card::PauseTenant => self.pause(a_tenant, at, short, rng),
            Card::PauseAll => self.pause(Gate::new(GateKind::All, ""), at, short / 2, rng),
            Card::Reschedule => {
                let jobs = if rng.u32(0..3) == 0 { rng.u32(500..2000) } else { rng.u32(20..200) };
                let after = Duration::from_millis(if rng.bool() { 0 } else { rng.u64(100..2000) });
                let priority = rng.bool().then(|| rng.i32(-1..=1));
                let attempts = (rng.u32(0..3) == 0).then_some(0);
                Some(Act::Reschedule { jobs, after, priority, attempts })
            }
            Card::Fail => Some(Act::Fail { jobs: rng.u32(1..20) }),
            Card::Complete => Some(Act::Complete { jobs: rng.u32(1..20) }),
            Card::Cancel => Some(Act::Cancel { jobs: rng.u32(10..60) }),
        }
    }

    /// A new limit, or sometimes the same again: what was taken from a bucket stays taken.
    fn limit(&mut self, gate: Gate, limit: Limit, until: Duration, rng: &mut Rng) -> Act {
        let known = self.limits.get(&gate).map(|(limit, _)| *limit);
        let limit = known.filter(|_| rng.u32(0..3) == 0).unwrap_or(limit);
        self.limits.insert(gate.clone(), (limit, until));
        Act::SetLimit { gate, limit }
    }

    fn pause(&mut self, gate: Gate, at: Duration, lasts: Duration, rng: &mut Rng) -> Option<Act> {
        if self.pauses.contains_key(&gate) {
            return None;
        }
        let by_call = rng.bool();
        self.pauses.insert(gate.clone(), (at + lasts, by_call));
        Some(Act::Pause { gate, lasts: (!by_call).then_some(lasts) })
    }

    /// The calls that end what is over by now.
    fn over(&mut self, now: Duration) -> Vec<Call> {
        let limits = self.limits.extract_if(.., |_, (_, until)| *until <= now);
        let lifted = limits.map(|(gate, (_, at))| Call { at, act: Act::SetLimit { gate, limit: Limit::default() } });
        let pauses = self.pauses.extract_if(.., |_, (until, _)| *until <= now);
        let resumed = pauses.filter(|(_, (_, by_call))| *by_call);
        let resumed = resumed.map(|(gate, (at, _))| Call { at, act: Act::Resume { gate } });
        let unfair = self.fair.take_if(|until| *until <= now).map(|at| Call { at, act: Act::SetFair { on: false } });
        lifted.chain(resumed).chain(unfair).collect()
    }

    /// The calls that end the rest, pauses with a time included.
    fn rest(self, at: Duration) -> Vec<Call> {
        let limits = self.limits.into_keys().map(|gate| Act::SetLimit { gate, limit: Limit::default() });
        let pauses = self.pauses.into_keys().map(|gate| Act::Resume { gate });
        let unfair = self.fair.map(|_| Act::SetFair { on: false });
        limits.chain(pauses).chain(unfair).map(|act| Call { at, act }).collect()
    }
}

fn between(rng: &mut Rng, from: Duration, until: Duration) -> Duration {
    from + until.saturating_sub(from).mul_f64(rng.f64())
}

#[cfg(test)]
mod tests;
