//! The plan: which faults strike when, for a seed. Pure: the same seed and length give the same plan.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// How many of each there are.
pub(crate) const WORKERS: usize = 2;
pub(crate) const SERVERS: usize = 2;
pub(crate) const FUNCTIONS: usize = 3;

/// How long a worker's jobs are its own while it is silent (JOBS_LEASE). Short, so that many leases end in a run.
pub(crate) const LEASE: Duration = Duration::from_secs(5);

/// The run begins in peace, and ends so: what the last faults did must be mended by the system, not by the next fault.
const CALM_START: Duration = Duration::from_millis(1500);
const CALM_END: Duration = Duration::from_millis(1500);

/// How long nothing else happens after a graceful stop has begun, so that what follows follows from the stop. Longer
/// than the slowest function works.
pub(crate) const QUIET: Duration = Duration::from_secs(4);

/// How long nothing has happened before a graceful stop.
const RECOVERY: Duration = Duration::from_secs(1);

/// How long Postgres stays up at the least. Whoever rescues jobs waits a full lease after each outage.
const POSTGRES_UP: Duration = Duration::from_secs(8);

/// A process of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Worker(usize),
    Server(usize),
    Scheduler,
    Function(usize),
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(index) => write!(f, "worker-{index}"),
            Self::Server(index) => write!(f, "server-{index}"),
            Self::Scheduler => write!(f, "scheduler"),
            Self::Function(index) => write!(f, "function-{index}"),
        }
    }
}

/// A way between two processes, through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Link {
    /// From a service to Postgres.
    Database(Service),
    /// From the producers to Postgres.
    Producers,
    /// From the workers to a function.
    Function(usize),
    /// From the functions to a callback server.
    Callback(usize),
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(service) => write!(f, "{service}→postgres"),
            Self::Producers => write!(f, "producers→postgres"),
            Self::Function(index) => write!(f, "workers→function-{index}"),
            Self::Callback(index) => write!(f, "functions→server-{index}"),
        }
    }
}

/// What a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Service(Service),
    Link(Link),
    Postgres,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Link(link) => link.fmt(f),
            Self::Postgres => f.write_str("postgres"),
        }
    }
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// SIGKILL, and a new process after the fault's time. For Postgres: the server is killed and started again.
    Kill,
    /// SIGSTOP, and SIGCONT after the fault's time.
    Halt,
    /// A function answers 503 for the fault's time, as a proxy does whose server is down.
    Down,
    /// SIGTERM, wait for the end, and a new process.
    Stop,
    /// Postgres is stopped in order and started again.
    Restart,
    /// Open connections are reset.
    Cut,
    /// Nothing passes for the fault's time.
    Blackhole,
    /// Everything arrives later by so much.
    Delay(Duration),
    /// The same, and at the end connections are reset with all that is on its way: commits whose answers are lost, and
    /// claims.
    Lose(Duration),
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) target: Target,
    pub(crate) kind: Kind,
    /// How long it lasts; zero for what ends by itself.
    pub(crate) lasts: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, target, kind, lasts } = self;
        write!(f, "{:6.2} s  {target}: ", at.as_secs_f64())?;
        match kind {
            Kind::Kill => write!(f, "SIGKILL, back after {lasts:?}"),
            Kind::Halt => write!(f, "SIGSTOP for {lasts:?}"),
            Kind::Down => write!(f, "answers 503 for {lasts:?}"),
            Kind::Stop => write!(f, "SIGTERM, then started again"),
            Kind::Restart => write!(f, "restart, down for {lasts:?}"),
            Kind::Cut => write!(f, "connections reset"),
            Kind::Blackhole => write!(f, "nothing passes for {lasts:?}"),
            Kind::Delay(by) => write!(f, "{by:?} late for {lasts:?}"),
            Kind::Lose(by) => write!(f, "{by:?} late for {lasts:?}, then reset"),
        }
    }
}

/// A kind of fault to be dealt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Card {
    KillWorker,
    /// Long enough for its jobs to be rescued.
    LoseWorker,
    HaltWorker,
    /// It comes back to life after its jobs were rescued.
    ZombieWorker,
    StopWorker,
    KillServer,
    HaltServer,
    KillScheduler,
    HaltScheduler,
    KillFunction,
    HaltFunction,
    DownFunction,
    RestartPostgres,
    KillPostgres,
    CutDatabase,
    BlackholeDatabase,
    /// A worker that is alive but cannot say so for longer than its lease.
    IsolateWorker,
    DelayDatabase,
    LoseAnswers,
    LoseCommits,
    CutFunction,
    BlackholeFunction,
    CutCallback,
    BlackholeCallback,
}

/// Each is dealt once before any is dealt again; the more important ones are in it twice.
const DECK: &[Card] = &[
    Card::KillWorker,
    Card::KillWorker,
    Card::LoseWorker,
    Card::HaltWorker,
    Card::ZombieWorker,
    Card::StopWorker,
    Card::KillServer,
    Card::HaltServer,
    Card::KillScheduler,
    Card::HaltScheduler,
    Card::KillFunction,
    Card::KillFunction,
    Card::HaltFunction,
    Card::DownFunction,
    Card::DownFunction,
    Card::RestartPostgres,
    Card::KillPostgres,
    Card::CutDatabase,
    Card::CutDatabase,
    Card::BlackholeDatabase,
    Card::IsolateWorker,
    Card::DelayDatabase,
    Card::LoseAnswers,
    Card::LoseAnswers,
    Card::LoseCommits,
    Card::CutFunction,
    Card::BlackholeFunction,
    Card::CutCallback,
    Card::BlackholeCallback,
];

/// What a short run must not be without, besides a worker that is away for longer than its lease and a graceful stop.
const FIRST: &[Card] = &[Card::KillWorker, Card::RestartPostgres, Card::KillFunction, Card::LoseAnswers];

/// Fewer cards than this in hand, and none of them possible: more are drawn.
const FEW: usize = 4;

/// Faults in the order of their time.
pub(crate) fn plan(seed: u64, length: Duration) -> Vec<Fault> {
    let mut rng = Rng::with_seed(seed);
    let mut dealer = Dealer { busy: BTreeMap::new(), absent_until: Duration::ZERO, postgres_from: CALM_START };
    let mut faults: Vec<Fault> = Vec::new();
    let mut hand = FIRST.to_vec();
    rng.shuffle(&mut hand);
    hand.insert(0, [Card::ZombieWorker, Card::LoseWorker, Card::IsolateWorker][rng.usize(..3)]);
    hand.push(Card::StopWorker);
    let end = length.saturating_sub(CALM_END);
    let mut at = CALM_START;
    while at < end {
        // A stop whose turn has come waits until it is alone; everything else that is not possible now lets others
        // pass.
        let waits = hand.first() == Some(&Card::StopWorker) && at + QUIET <= end;
        let turns = if waits { 1 } else { hand.len() };
        let dealt = (0..turns).find_map(|index| Some((index, dealer.deal(hand[index], at, end, &mut rng)?)));
        let Some((index, fault)) = dealt else {
            if hand.len() < FEW && !waits {
                let mut more = DECK.to_vec();
                rng.shuffle(&mut more);
                hand.extend(more);
            }
            at += Duration::from_millis(100);
            continue;
        };
        hand.remove(index);
        faults.push(fault);
        at += if fault.kind == Kind::Stop { QUIET } else { millis(&mut rng, 150..1400) };
    }
    faults
}

/// Knows what is possible.
struct Dealer {
    /// Until when a target is under a fault.
    busy: BTreeMap<Target, Duration>,
    /// Until when a worker is away for so long that the other one has to do without it.
    absent_until: Duration,
    /// From when Postgres may be struck again.
    postgres_from: Duration,
}

impl Dealer {
    fn deal(&mut self, card: Card, at: Duration, end: Duration, rng: &mut Rng) -> Option<Fault> {
        let worker = Service::Worker(rng.usize(1..=WORKERS));
        let server = rng.usize(1..=SERVERS);
        let function = rng.usize(1..=FUNCTIONS);
        let services =
            [Service::Worker(1), Service::Worker(2), Service::Server(1), Service::Server(2), Service::Scheduler];
        let database =
            if rng.u8(0..6) == 0 { Link::Producers } else { Link::Database(services[rng.usize(..services.len())]) };
        let by = millis(rng, 20..300);
        let long = millis(rng, 7000..9000);
        let (target, kind, lasts) = match card {
            Card::KillWorker => (Target::Service(worker), Kind::Kill, millis(rng, 200..2500)),
            Card::LoseWorker => (Target::Service(worker), Kind::Kill, long),
            Card::HaltWorker => (Target::Service(worker), Kind::Halt, millis(rng, 300..2500)),
            Card::ZombieWorker => (Target::Service(worker), Kind::Halt, long),
            Card::StopWorker => (Target::Service(worker), Kind::Stop, Duration::ZERO),
            Card::KillServer => (Target::Service(Service::Server(server)), Kind::Kill, millis(rng, 200..2500)),
            Card::HaltServer => (Target::Service(Service::Server(server)), Kind::Halt, millis(rng, 300..3000)),
            Card::KillScheduler => (Target::Service(Service::Scheduler), Kind::Kill, millis(rng, 200..3000)),
            Card::HaltScheduler => (Target::Service(Service::Scheduler), Kind::Halt, millis(rng, 300..3000)),
            Card::KillFunction => (Target::Service(Service::Function(function)), Kind::Kill, millis(rng, 200..1500)),
            Card::HaltFunction => (Target::Service(Service::Function(function)), Kind::Halt, millis(rng, 300..3000)),
            Card::DownFunction => (Target::Service(Service::Function(function)), Kind::Down, millis(rng, 1500..4000)),
            Card::RestartPostgres => (Target::Postgres, Kind::Restart, millis(rng, 0..1500)),
            Card::KillPostgres => (Target::Postgres, Kind::Kill, millis(rng, 0..1500)),
            Card::CutDatabase => (Target::Link(database), Kind::Cut, Duration::ZERO),
            Card::BlackholeDatabase => (Target::Link(database), Kind::Blackhole, millis(rng, 300..3000)),
            Card::IsolateWorker => (Target::Link(Link::Database(worker)), Kind::Blackhole, long),
            Card::DelayDatabase => (Target::Link(database), Kind::Delay(by), millis(rng, 500..3000)),
            Card::LoseAnswers => (Target::Link(Link::Database(worker)), Kind::Lose(by), millis(rng, 300..1500)),
            Card::LoseCommits => (Target::Link(Link::Producers), Kind::Lose(by), millis(rng, 300..1500)),
            Card::CutFunction => (Target::Link(Link::Function(function)), Kind::Cut, Duration::ZERO),
            Card::BlackholeFunction => {
                (Target::Link(Link::Function(function)), Kind::Blackhole, millis(rng, 300..3000))
            }
            Card::CutCallback => (Target::Link(Link::Callback(server)), Kind::Cut, Duration::ZERO),
            Card::BlackholeCallback => (Target::Link(Link::Callback(server)), Kind::Blackhole, millis(rng, 300..3000)),
        };
        let fault = Fault { at, target, kind, lasts };
        self.allows(&fault, end).then(|| {
            self.take(&fault);
            fault
        })
    }

    fn allows(&self, fault: &Fault, end: Duration) -> bool {
        let until = fault.at + fault.lasts;
        let is_free = |target: Target| self.busy.get(&target).is_none_or(|busy| *busy <= fault.at);
        if !is_free(fault.target) || until > end {
            return false;
        }
        if fault.kind == Kind::Stop {
            // Nothing else is going on, what was has been got over, and its quiet time is within the run.
            return self.busy.values().all(|busy| *busy + RECOVERY <= fault.at) && fault.at + QUIET <= end;
        }
        match fault.target {
            Target::Postgres => self.postgres_from <= fault.at,
            // A process and its own way to Postgres are struck one at a time; and one worker is always near.
            Target::Service(service) | Target::Link(Link::Database(service)) => {
                let other = match fault.target {
                    Target::Service(_) => Target::Link(Link::Database(service)),
                    _ => Target::Service(service),
                };
                let near = !is_long(fault) || self.absent_until <= fault.at;
                is_free(other) && near
            }
            Target::Link(_) => true,
        }
    }

    fn take(&mut self, fault: &Fault) {
        let until = fault.at + fault.lasts;
        self.busy.insert(fault.target, until);
        if fault.target == Target::Postgres {
            self.postgres_from = until + POSTGRES_UP;
        }
        if is_long(fault) {
            // Time for the other one to take over as well.
            self.absent_until = until + LEASE;
        }
    }
}

/// Whether a worker is away for longer than its lease.
fn is_long(fault: &Fault) -> bool {
    let of_worker =
        matches!(fault.target, Target::Service(Service::Worker(_)) | Target::Link(Link::Database(Service::Worker(_))));
    of_worker && fault.lasts > LEASE
}

fn millis(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn has(faults: &[Fault], kind: Kind, is: impl Fn(Target) -> bool) -> bool {
        faults.iter().any(|fault| fault.kind == kind && is(fault.target))
    }

    #[test]
    fn a_seed_makes_one_plan_and_another_seed_another() {
        assert_eq!(plan(7, MINUTE), plan(7, MINUTE));
        assert_ne!(plan(7, MINUTE), plan(8, MINUTE));
    }

    #[test]
    fn a_short_run_has_every_important_fault_and_all_end_in_time() {
        for seed in 0..200 {
            let length = Duration::from_secs(20);
            let faults = plan(seed, length);
            let worker = |target| matches!(target, Target::Service(Service::Worker(_)));
            assert!(has(&faults, Kind::Kill, worker), "{seed}: {faults:?}");
            assert!(has(&faults, Kind::Stop, worker), "{seed}: {faults:?}");
            assert!(has(&faults, Kind::Restart, |target| target == Target::Postgres), "{seed}: {faults:?}");
            assert!(faults.iter().any(is_long), "{seed}: {faults:?}");
            assert!(faults.iter().all(|fault| fault.at + fault.lasts + CALM_END <= length), "{seed}: {faults:?}");
            assert!(faults.is_sorted_by_key(|fault| fault.at), "{seed}: {faults:?}");
        }
    }

    #[test]
    fn a_graceful_stop_is_alone() {
        for seed in 0..200 {
            let faults = plan(seed, MINUTE);
            for stop in faults.iter().filter(|fault| fault.kind == Kind::Stop) {
                for other in faults.iter().filter(|other| *other != stop) {
                    let apart = other.at + other.lasts + RECOVERY <= stop.at || other.at >= stop.at + QUIET;
                    assert!(apart, "{seed}: {stop} and {other}");
                }
            }
        }
    }

    #[test]
    fn a_target_is_struck_once_at_a_time_and_postgres_stays_up_between() {
        for seed in 0..200 {
            let faults = plan(seed, MINUTE);
            for (index, fault) in faults.iter().enumerate() {
                let rest = if fault.target == Target::Postgres { POSTGRES_UP } else { Duration::ZERO };
                let next = faults[index + 1..].iter().find(|next| next.target == fault.target);
                assert!(next.is_none_or(|next| fault.at + fault.lasts + rest <= next.at), "{seed}: {fault}, {next:?}");
            }
        }
    }

    #[test]
    fn a_minute_has_every_kind() {
        for seed in 0..50 {
            let faults = plan(seed, MINUTE);
            for kind in [Kind::Kill, Kind::Halt, Kind::Down, Kind::Stop, Kind::Cut, Kind::Blackhole] {
                assert!(has(&faults, kind, |_| true), "{seed}: no {kind:?}");
            }
            assert!(faults.iter().any(|fault| matches!(fault.kind, Kind::Delay(_))), "{seed}");
            assert!(faults.iter().any(|fault| matches!(fault.kind, Kind::Lose(_))), "{seed}");
            assert!(faults.len() > 20, "{seed}: {}", faults.len());
        }
    }
}
