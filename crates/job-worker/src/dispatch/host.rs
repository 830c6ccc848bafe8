//! Host: what this process knows of a host that functions run on.
//!
//! Of a host that has not been used since the start, or since it failed, requests start one after the other: what
//! starts together must not fail together. The next one starts when the one before it has its answer or has none for
//! [`TURN`]. The first answer ends that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use job_pg::{HostNews, HostState, Job};
use job_utils::outcome::Outcome;
use job_utils::wire::dispatch::Answer;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::dispatch::failure::{Failure, Progress};

/// How long a request to a host of which nothing is known holds up the next one.
pub(crate) const TURN: Duration = Duration::from_millis(50);

/// How often it is told at most that a host works which some other worker cannot use.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// What an exchange says of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It is up.
    Up,
    /// It is down; `unreachable`: there was no connection.
    Down {
        /// Whether there was no connection.
        unreachable: bool,
    },
    /// It asks to be left alone for so long.
    Asked(Duration),
    /// There is a connection, and no answer that tells more.
    Connected,
    /// Nothing.
    Nothing,
}

impl Sign {
    /// What an answer with this status says.
    pub(crate) fn of_answer(status: u16, answer: &Answer) -> Self {
        match (status, answer) {
            // A function has thought about it.
            (_, Answer::Ended(Outcome::Discard { .. })) => Self::Up,
            (429, Answer::Ended(Outcome::Snooze { after, .. })) => Self::Asked(*after),
            (503, Answer::Ended(Outcome::Retry { after: Some(after), .. })) => Self::Asked(*after),
            (502..=504, Answer::Ended(_)) => Self::Down { unreachable: false },
            _ => Self::Up,
        }
    }

    /// What it says that there is no answer. Whoever has ended a connection early may have been started.
    pub(crate) fn of_failure(failure: &Failure) -> Self {
        match failure {
            Failure::Connect(_)
            | Failure::ConnectTimeout
            | Failure::Tls(_)
            | Failure::OutOfTime(_, Progress::Connecting) => Self::Down { unreachable: true },
            Failure::Answer(_) | Failure::FirstByte(_) | Failure::Endless { .. } | Failure::OutOfTime(..) => {
                Self::Connected
            }
            Failure::NoDescriptor(_) | Failure::Refused(_) => Self::Nothing,
        }
    }
}

/// Whether a job may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Now.
    Send,
    /// When it is its turn.
    InTurn,
    /// It has not passed the host's gate.
    GiveBack,
    /// The database does not know that its task goes here.
    Untold,
}

/// The right to be the only one that tries a host.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// One host.
pub(crate) struct Host {
    /// Scheme, host and port.
    pub(crate) name: String,
    /// There is nothing to be thought of: it works, and has no gate.
    clear: AtomicBool,
    state: Mutex<State>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    /// It has been used since the start, or the last failure.
    proven: bool,
    /// It has been used since the failure that was told last.
    anew: bool,
    /// A failure has been told, and no success since.
    failed: bool,
    gated: bool,
    /// Some worker could not use it.
    suspected: bool,
    closed: Option<Closed>,
    /// When a success was told last.
    told: Option<Instant>,
    /// Somebody tries to connect.
    testing: bool,
    /// Until when others have its jobs, since this worker cannot reach it.
    left_until: Option<Instant>,
}

/// Its gate is closed.
struct Closed {
    /// Jobs of claims that began before have not passed it.
    since: Instant,
    why: Why,
}

/// Why a gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The host has asked for it. It opens by itself.
    Asked,
    /// It is down. The first success opens it.
    Down {
        /// Whether there was no connection.
        unreachable: bool,
    },
}

impl State {
    fn is_clear(&self) -> bool {
        self.proven && self.is_unsaid()
    }

    fn is_down(&self) -> bool {
        self.closed.as_ref().is_some_and(|closed| closed.why != Why::Asked)
    }

    fn is_unreachable(&self) -> bool {
        self.closed.as_ref().is_some_and(|closed| closed.why == Why::Down { unreachable: true })
    }

    /// Nobody says anything of it.
    fn is_unsaid(&self) -> bool {
        !self.failed && !self.gated && !self.suspected && self.closed.is_none()
    }
}

impl Host {
    pub(crate) fn new(name: String) -> Self {
        Self { name, clear: AtomicBool::default(), state: Mutex::default(), turn: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let changed = change(&mut state);
        self.clear.store(state.is_clear(), Ordering::Relaxed);
        changed
    }

    /// Whether there is nothing to be thought of.
    pub(crate) fn is_clear(&self) -> bool {
        self.clear.load(Ordering::Relaxed)
    }

    /// Whether somebody says something of it.
    pub(crate) fn is_unsaid(&self) -> bool {
        self.state().is_unsaid()
    }

    /// Whether a job may be sent; `admitted`: it was claimed since the gate is closed, and so has passed it.
    pub(crate) fn permission(&self, job: &Job, admitted: bool) -> Permission {
        let state = self.state();
        match &state.closed {
            _ if (state.gated || state.closed.is_some()) && !passes_task(job) => Permission::Untold,
            Some(_) if admitted => Permission::Send,
            Some(_) => Permission::GiveBack,
            None if state.proven => Permission::Send,
            None => Permission::InTurn,
        }
    }

    /// Waits until nobody else tries it.
    pub(crate) async fn turn(&self) -> Turn {
        self.turn.clone().lock_owned().await
    }

    /// Whether it is closed, and jobs of a claim that began then have passed its gate.
    pub(crate) fn admits(&self, began: Instant) -> bool {
        self.state().closed.as_ref().is_some_and(|closed| closed.since <= began)
    }

    /// A request has been under way for a while, or there was a connection at least.
    pub(crate) fn connected(&self) {
        self.change(|state| state.proven = true);
    }

    /// It has been used. Returns whether others have to know.
    pub(crate) fn used(&self) -> bool {
        self.change(|state| {
            (state.proven, state.anew) = (true, true);
            let recently = state.told.is_some_and(|told| told.elapsed() < TELL_INTERVAL);
            let tells = state.is_down() || (state.failed || state.suspected) && !recently;
            if tells {
                state.told = Some(Instant::now());
                // Those that are used at the same time need not tell it as well.
                (state.failed, state.suspected) = (false, false);
            }
            tells
        })
    }

    /// Leaves its jobs to other workers until then.
    pub(crate) fn leave(&self, until: Instant) {
        self.change(|state| state.left_until = Some(until));
    }

    /// Whether its jobs are left to others.
    pub(crate) fn is_left(&self, now: Instant) -> bool {
        self.state().left_until.is_some_and(|until| until > now)
    }

    /// A failure is about to be told. Returns whether it has been used since the last one.
    pub(crate) fn failed(&self) -> bool {
        self.change(|state| {
            (state.proven, state.failed) = (false, true);
            std::mem::take(&mut state.anew)
        })
    }

    /// Its gate has closed. Returns whether that is new.
    pub(crate) fn close(&self, why: Why) -> bool {
        self.change(|state| {
            // What is down and asks as well is opened by a success.
            let why = if why == Why::Asked && state.is_down() { Why::Down { unreachable: false } } else { why };
            state.closed.replace(Closed { since: Instant::now(), why }).is_none()
        })
    }

    /// A success has opened its gate, if it was down. Returns whether it was.
    pub(crate) fn open(&self) -> bool {
        self.change(|state| state.closed.take_if(|closed| closed.why != Why::Asked).is_some())
    }

    /// Whether it is closed because there was no connection.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.state().is_unreachable()
    }

    /// Whether to begin to try to connect to it; until [`Host::end_test`] nobody else does.
    pub(crate) fn begin_test(&self) -> bool {
        self.change(|state| state.is_unreachable() && !std::mem::replace(&mut state.testing, true))
    }

    pub(crate) fn end_test(&self) {
        self.change(|state| state.testing = false);
    }

    /// What a claim that began then has been told. `whole`: of hosts that are only suspected, too. Returns whether the
    /// gate has closed or opened by that.
    pub(crate) fn told(&self, news: &[HostNews], whole: bool, began: Instant) -> Option<bool> {
        let own = news.iter().find(|news| news.host == self.name).map(|news| news.state);
        let all = news.iter().any(|news| news.host == "*");
        self.change(|state| {
            let why = match own {
                Some(HostState::Asked) => Some(Why::Asked),
                Some(HostState::Closed { unreachable }) => Some(Why::Down { unreachable }),
                _ => None,
            };
            state.gated = all || why.is_some() || own == Some(HostState::Gated);
            if whole || own.is_some() {
                state.suspected = matches!(own, Some(HostState::Suspected | HostState::Closed { .. }));
            }
            match (why, &mut state.closed) {
                (Some(why), Some(closed)) => {
                    closed.why = why;
                    None
                }
                (Some(why), closed) => {
                    *closed = Some(Closed { since: began, why });
                    Some(true)
                }
                // The claim may have begun before it closed.
                (_, Some(closed)) if closed.since <= began => {
                    state.closed = None;
                    Some(false)
                }
                _ => None,
            }
        })
    }
}

/// Whether a job was claimed by the gate of its task, and so by that of the task's host.
fn passes_task(job: &Job) -> bool {
    job.gate.as_deref().is_some_and(|gate| gate.contains(&task_gate(&job.task)))
}

/// The gate of a task as `gate_key` has it: quoted by quote_literal.
fn task_gate(task: &str) -> String {
    let quoted = task.replace('\'', "''");
    if quoted.contains('\\') { format!("taskE'{}'", quoted.replace('\\', r"\\")) } else { format!("task'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(unreachable: bool) -> Vec<HostNews> {
        vec![HostNews { host: "http://h".to_owned(), state: HostState::Closed { unreachable } }]
    }

    #[test]
    fn answers_and_failures_say_whether_a_host_is_down() {
        let retry = |after| Answer::Ended(Outcome::Retry { error: "no".into(), after });
        let second = Duration::from_secs(1);
        let down = |unreachable| Sign::Down { unreachable };
        for (status, answer, sign) in [
            (200, Answer::Accepted, Sign::Up),
            (200, Answer::Ended(Outcome::Complete), Sign::Up),
            (500, retry(None), Sign::Up),
            (429, retry(None), Sign::Up),
            (502, retry(None), down(false)),
            (503, retry(None), down(false)),
            (504, retry(None), down(false)),
            (503, retry(Some(second)), Sign::Asked(second)),
            (429, Answer::Ended(Outcome::snooze(second)), Sign::Asked(second)),
            (503, Answer::Ended(Outcome::discard("no")), Sign::Up),
        ] {
            assert_eq!(Sign::of_answer(status, &answer), sign, "{status} {answer:?}");
        }
        assert_eq!(Sign::of_failure(&Failure::Connect("refused".into())), down(true));
        assert_eq!(Sign::of_failure(&Failure::ConnectTimeout), down(true));
        assert_eq!(Sign::of_failure(&Failure::NoDescriptor("none".into())), Sign::Nothing);
    }

    #[test]
    fn the_gate_of_a_task_is_quoted_as_the_database_does() {
        assert_eq!(task_gate("mail"), "task'mail'");
        assert_eq!(task_gate("it's"), "task'it''s'");
        assert_eq!(task_gate(r"a\'b"), r"taskE'a\\''b'");
    }

    #[test]
    fn an_older_claim_does_not_open_what_has_closed_since_and_its_jobs_have_not_passed() {
        let host = Host::new("http://h".to_owned());
        let before = Instant::now();
        host.connected();
        assert!(host.is_clear());
        let down = Why::Down { unreachable: true };
        assert!(host.close(down) && !host.close(down));
        assert!(!host.is_clear() && host.is_unreachable());
        assert_eq!(host.told(&[], true, before - Duration::from_secs(1)), None);
        assert!(!host.admits(before - Duration::from_secs(1)) && host.admits(Instant::now()));
        assert_eq!(host.told(&closed(false), true, Instant::now()), None);
        assert!(!host.is_unreachable());
        assert_eq!(host.told(&[], true, Instant::now()), Some(false));
        assert!(host.is_clear());
        assert_eq!(host.told(&closed(true), true, Instant::now()), Some(true));
    }

    #[test]
    fn a_success_is_told_when_somebody_wants_to_know_and_once_a_second_at_most() {
        let host = Host::new("http://h".to_owned());
        assert!(!host.used(), "nobody does");
        assert!(host.failed(), "it was used since the start");
        assert!(!host.failed());
        assert!(host.used() && !host.used());
        host.failed();
        assert!(!host.used(), "within the second");
        host.close(Why::Asked);
        assert!(!host.used() && !host.open(), "it has to be left alone all the same");
        host.close(Why::Down { unreachable: false });
        assert!(host.used() && host.open(), "that it is up again is told at once");
    }
}
