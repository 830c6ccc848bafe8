//! The jobs of a run: what the producers enqueue, and what the functions are to do with it. Pure: job `n` of a seed is
//! always the same.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio_postgres::IsolationLevel;

use super::plan::FUNCTIONS;

/// Named queues, each with jobs of several priorities.
pub(crate) const QUEUES: u32 = 8;
/// Tenants, besides the jobs without one.
pub(crate) const TENANTS: u32 = 4;
/// Keys that jobs take from each other.
const KEYS: u32 = 12;

/// Schedules that fire every second.
pub(crate) const SCHEDULES: u32 = 2;

/// More failures than any job has attempts.
const ALWAYS: u32 = 1000;

/// How a function says how a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In its answer.
    Answer,
    /// By a callback, some time after it has accepted the job.
    Callback,
    /// By a callback just before its answer, and in its answer.
    Both,
}

/// How a function fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A status of 500.
    Status,
    /// 200 with X-Job-Error.
    Thrown,
    /// 429 with Retry-After.
    Busy,
}

/// What a function is to do with a job. It is the job's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behaviour {
    pub(crate) mode: Mode,
    pub(crate) work: Duration,
    /// So many runs fail before one succeeds.
    pub(crate) fails: u32,
    pub(crate) failure: Failure,
}

impl Behaviour {
    /// What a payload asks for; a quick success when it asks for nothing.
    pub(crate) fn read(payload: &Value) -> Self {
        let number = |name: &str| payload[name].as_u64().unwrap_or_default();
        Self {
            mode: match payload["mode"].as_str() {
                Some("callback") => Mode::Callback,
                Some("both") => Mode::Both,
                _ => Mode::Answer,
            },
            work: Duration::from_millis(number("work_ms")),
            fails: u32::try_from(number("fails")).unwrap_or(ALWAYS),
            failure: match payload["failure"].as_str() {
                Some("thrown") => Failure::Thrown,
                Some("busy") => Failure::Busy,
                _ => Failure::Status,
            },
        }
    }

    fn write(self) -> Value {
        let mode = match self.mode {
            Mode::Answer => "answer",
            Mode::Callback => "callback",
            Mode::Both => "both",
        };
        let failure = match self.failure {
            Failure::Status => "status",
            Failure::Thrown => "thrown",
            Failure::Busy => "busy",
        };
        json!({ "mode": mode, "work_ms": self.work.as_millis() as u64, "fails": self.fails, "failure": failure })
    }

    fn random(rng: &mut Rng) -> Self {
        let mode = match rng.u32(0..100) {
            0..55 => Mode::Answer,
            55..85 => Mode::Callback,
            _ => Mode::Both,
        };
        let work = match rng.u32(0..1000) {
            0..800 => 0..5,
            800..900 => 20..100,
            900..990 => 300..1000,
            _ => 1500..2500,
        };
        let failure = match rng.u32(0..12) {
            0..6 => Failure::Status,
            6..11 => Failure::Thrown,
            // It closes the function's host for all of its jobs.
            _ => Failure::Busy,
        };
        Self { mode, work: Duration::from_millis(rng.u64(work)), fails: 0, failure }
    }
}

/// An isolation level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Level {
    pub(crate) fn of_driver(self) -> IsolationLevel {
        match self {
            Self::ReadCommitted => IsolationLevel::ReadCommitted,
            Self::RepeatableRead => IsolationLevel::RepeatableRead,
            Self::Serializable => IsolationLevel::Serializable,
        }
    }
}

/// In which isolation level a transaction enqueues, and for how long it stays open after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) level: Level,
    pub(crate) open: Duration,
}

impl Transaction {
    /// Any level; a few stay open for long.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let levels = [Level::ReadCommitted, Level::RepeatableRead, Level::Serializable];
        let level = levels[rng.usize(..levels.len())];
        let open = if rng.u32(0..100) == 0 { rng.u64(500..3000) } else { 0 };
        Self { level, open: Duration::from_millis(open) }
    }
}

/// One job, as it is enqueued.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    pub(crate) n: u64,
    pub(crate) task: String,
    pub(crate) queue: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) priority: i32,
    /// How long after its enqueueing it is due.
    pub(crate) delay: Duration,
    pub(crate) max_attempts: i32,
    pub(crate) behaviour: Behaviour,
}

impl Spec {
    /// Job `n` of `jobs`.
    pub(crate) fn of(seed: u64, n: u64, jobs: u64) -> Self {
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n);
        let mut behaviour = Behaviour::random(&mut rng);
        let mut max_attempts = 25;
        match rng.u32(0..1000) {
            0..40 => behaviour.fails = 1,
            // The second retry comes after 10 s: at the end of a run, that would be all there is to wait for.
            40..50 if n < jobs / 3 => behaviour.fails = 2,
            50..60 => {
                behaviour.fails = ALWAYS;
                // A function that is busy uses up no attempt: the job would never end.
                behaviour.failure = if rng.bool() { Failure::Status } else { Failure::Thrown };
                max_attempts = rng.i32(1..=2);
            }
            _ => {}
        }
        let (mut queue, mut key) = (None, None);
        match rng.u32(0..100) {
            0..20 => queue = Some(queue_name(rng.u32(0..QUEUES))),
            20..23 => key = Some(format!("key-{}", rng.u32(0..KEYS))),
            _ => {}
        }
        let priority = match rng.u32(0..10) {
            0 => -1,
            1 => 1,
            2 => 5,
            _ => 0,
        };
        let delay = if rng.u32(0..100) < 8 { rng.u64(200..4000) } else { 0 };
        let task = task(rng.usize(1..=FUNCTIONS));
        // A key belongs to one tenant.
        let tenant = (key.is_none() && rng.u32(0..4) == 0).then(|| tenant(rng.u32(0..TENANTS)));
        Self { n, task, queue, tenant, key, priority, delay: Duration::from_millis(delay), max_attempts, behaviour }
    }

    /// What the function receives.
    pub(crate) fn payload(&self) -> Value {
        let mut payload = self.behaviour.write();
        payload["n"] = json!(self.n);
        payload
    }
}

/// The task that a function does.
pub(crate) fn task(function: usize) -> String {
    format!("chaos:function-{function}")
}

/// The name of a queue.
pub(crate) fn queue_name(queue: u32) -> String {
    format!("queue-{queue}")
}

/// The uuid of a tenant.
pub(crate) fn tenant(tenant: u32) -> String {
    format!("00000000-0000-4000-8000-{tenant:012x}")
}

/// What a schedule's jobs carry.
pub(crate) fn tick(schedule: u32) -> Value {
    json!({ "schedule": schedule, "mode": "answer", "work_ms": 5 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_the_same_each_time_and_its_payload_says_what_to_do() {
        for n in 0..1000 {
            let spec = Spec::of(3, n, 1000);
            assert_eq!(spec, Spec::of(3, n, 1000));
            assert_eq!(Behaviour::read(&spec.payload()), spec.behaviour);
        }
    }

    #[test]
    fn there_are_jobs_of_every_kind() {
        let specs: Vec<Spec> = (0..2000).map(|n| Spec::of(1, n, 2000)).collect();
        let count = |is: &dyn Fn(&Spec) -> bool| specs.iter().filter(|spec| is(spec)).count();
        assert!(count(&|spec| spec.queue.is_some()) > 200);
        assert!(count(&|spec| spec.tenant.is_some()) > 400);
        assert!(count(&|spec| spec.key.is_some()) > 20);
        assert!(count(&|spec| spec.behaviour.fails == 2) > 0);
        let always = |spec: &Spec| spec.behaviour.fails == ALWAYS;
        assert!(count(&always) > 0);
        assert_eq!(count(&|spec| always(spec) && spec.behaviour.failure == Failure::Busy), 0);
        assert!(count(&|spec| spec.behaviour.work > Duration::from_secs(1)) > 0);
        assert!(count(&|spec| spec.delay > Duration::ZERO) > 0);
        let mut rng = Rng::with_seed(1);
        let transactions: Vec<Transaction> = (0..1000).map(|_| Transaction::random(&mut rng)).collect();
        assert!(transactions.iter().any(|transaction| transaction.open > Duration::from_secs(1)));
        for mode in [Mode::Answer, Mode::Callback, Mode::Both] {
            assert!(count(&|spec| spec.behaviour.mode == mode) > 200, "{mode:?}");
        }
    }
}
