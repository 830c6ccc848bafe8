//! A change of a job's row, as the audit trigger wrote it down, and what it means.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::history::Micros;
use super::operations::{Gate, GateKind, Limit, Rate};

/// What the checker knows of a row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Row {
    /// As what it was enqueued; None for a schedule's job.
    pub(crate) n: Option<u64>,
    /// The schedule that made it.
    pub(crate) schedule: Option<u32>,
    pub(crate) task: String,
    pub(crate) queue: Option<String>,
    pub(crate) tenant: Option<String>,
    /// Where its task is sent to.
    pub(crate) host: Option<String>,
    pub(crate) priority: i32,
    pub(crate) run_at: Micros,
    pub(crate) attempts: i32,
    pub(crate) max_attempts: i32,
    /// locked_by.
    pub(crate) holder: Option<String>,
    pub(crate) locked_at: Option<Micros>,
    /// None where the schema has no epochs.
    pub(crate) epoch: Option<i64>,
    pub(crate) interruptions: i32,
    pub(crate) superseded: bool,
    pub(crate) error: Option<String>,
}

impl Row {
    /// From `chaos.facts`.
    pub(crate) fn read(value: &Value) -> Result<Self> {
        let number = |name: &str| value[name].as_i64();
        let required = |name: &'static str| number(name).with_context(|| format!("no {name} in {value}"));
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Ok(Self {
            n: value["n"].as_u64(),
            schedule: number("schedule").and_then(|schedule| u32::try_from(schedule).ok()),
            task: text("task").unwrap_or_default(),
            queue: text("queue"),
            tenant: text("tenant"),
            host: text("host"),
            priority: i32::try_from(required("priority")?)?,
            run_at: Micros(required("run_at")?),
            attempts: i32::try_from(required("attempts")?)?,
            max_attempts: i32::try_from(required("max_attempts")?)?,
            holder: text("holder"),
            locked_at: number("locked_at").map(Micros),
            epoch: number("epoch"),
            interruptions: i32::try_from(number("interruptions").unwrap_or_default())?,
            superseded: value["superseded"].as_bool().unwrap_or_default(),
            error: text("error"),
        })
    }

    pub(crate) fn is_held(&self) -> bool {
        self.locked_at.is_some()
    }

    /// Whether it can be claimed when its time comes.
    pub(crate) fn waits(&self) -> bool {
        !self.is_held() && self.attempts < self.max_attempts
    }

    /// Whether it has failed for good.
    pub(crate) fn is_exhausted(&self) -> bool {
        !self.is_held() && self.attempts >= self.max_attempts
    }

    /// The gates that it has to pass where something is set for them.
    pub(crate) fn gates(&self) -> Vec<Gate> {
        let queue = self.queue.iter().map(|queue| Gate::new(GateKind::Queue, queue));
        let tenant = self.tenant.iter().map(|tenant| Gate::new(GateKind::Tenant, tenant));
        let host = self.host.iter().map(|host| Gate::new(GateKind::Host, host));
        let always = [Gate::new(GateKind::All, ""), Gate::new(GateKind::Task, &self.task)];
        always.into_iter().chain(tenant).chain(queue).chain(host).collect()
    }

    /// The place among the jobs of its queue.
    pub(crate) fn order(&self, job: i64) -> (i32, Micros, i64) {
        (self.priority, self.run_at, job)
    }

    fn has_claim_of(&self, other: &Self) -> bool {
        self.holder == other.holder && self.locked_at == other.locked_at && self.epoch == other.epoch
    }
}

/// Which transactions a statement could see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Snapshot {
    below: u64,
    under_way: Vec<u64>,
}

impl Snapshot {
    /// From PostgreSQL's `xmin:xmax:xid,xid`.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let mut parts = text.split(':').skip(1);
        let below = parts.next().and_then(|part| part.parse().ok());
        let under_way = parts.next().unwrap_or_default().split(',').filter(|xid| !xid.is_empty()).map(str::parse);
        Ok(Self {
            below: below.with_context(|| format!("not a snapshot: {text}"))?,
            under_way: under_way.collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn sees(&self, xid: u64) -> bool {
        xid < self.below && !self.under_way.contains(&xid)
    }
}

/// A change of a job's row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Change {
    pub(crate) seq: u64,
    pub(crate) job: i64,
    pub(crate) at: Micros,
    /// now() of its transaction.
    pub(crate) now: Micros,
    /// When its transaction was committed; None where that is not known.
    pub(crate) committed: Option<Micros>,
    pub(crate) xid: u64,
    /// The operator's call that made it.
    pub(crate) call: Option<usize>,
    /// Under which gates the row stands after it.
    pub(crate) key: Option<String>,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) old: Option<Row>,
    pub(crate) new: Option<Row>,
}

/// What is set for a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Setting {
    pub(crate) limit: Limit,
    pub(crate) paused_at: Option<Micros>,
    pub(crate) paused_until: Option<Micros>,
    /// Until when a host has closed itself.
    pub(crate) closed_until: Option<Micros>,
    /// Whether it stays closed after that, but for one job at a time that finds out.
    pub(crate) probed: bool,
}

impl Setting {
    /// From `chaos.gate_facts`.
    pub(crate) fn read(value: &Value) -> Result<Self> {
        let number = |name: &str| value[name].as_u64();
        let small = |name: &str| number(name).map(u32::try_from).transpose().context(name.to_owned());
        let time = |name: &str| value[name].as_i64().map(Micros);
        let rate = match (small("rate")?, number("per"), small("burst")?) {
            (Some(starts), Some(per), Some(burst)) => Some(Rate { starts, per: Duration::from_micros(per), burst }),
            _ => None,
        };
        Ok(Self {
            limit: Limit { max_running: small("max_running")?, rate },
            paused_at: time("paused_at"),
            paused_until: time("paused_until"),
            closed_until: time("closed_until"),
            probed: value["probed"].as_bool().unwrap_or_default(),
        })
    }

    pub(crate) fn is_paused(&self, now: Micros) -> bool {
        self.paused_at.is_some() && self.paused_until.is_none_or(|until| until > now)
    }

    /// Whether no job at all may start.
    pub(crate) fn is_shut(&self, now: Micros) -> bool {
        self.is_paused(now) || self.closed_until.is_some_and(|until| until > now)
    }

    /// Whether it says anything. A row that does not is as if it were not there.
    pub(crate) fn says(&self, now: Micros) -> bool {
        self.limit != Limit::default() || self.is_shut(now) || self.probed
    }
}

/// A change of what is set for a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GateChange {
    pub(crate) at: Micros,
    pub(crate) gate: Gate,
    pub(crate) call: Option<usize>,
    /// None: the row is gone.
    pub(crate) new: Option<Setting>,
}

/// An attempt that is one of those which have closed a host, and when they did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClosingAttempt {
    pub(crate) job: i64,
    /// Its number, from 1.
    pub(crate) attempt: i32,
    pub(crate) at: Micros,
}

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Inserted,
    Claimed,
    /// Claimed by somebody else while it was held.
    Reclaimed,
    /// The row of a held job is gone.
    Completed,
    /// An attempt ended without success, and is counted or put off.
    Failed,
    /// Given back by its holder, or by its successor.
    Released,
    /// Taken from a silent worker.
    Rescued,
    /// The same claim goes on: a new deadline, a lost key.
    Touched,
    /// A waiting job that was enqueued anew under its key.
    Replaced,
    /// A claim has put a waiting job where it belongs: nothing that is recorded has changed.
    Placed,
    /// A failed attempt that is given back, as its host was down.
    Returned,
    /// The row of a job that nobody held is gone.
    Removed,
    /// A failure of a job that nobody held.
    FailedUnheld,
    /// An operator has changed a job that nobody held, or removed one.
    Operated,
    /// Nothing that a queue does.
    Unexplained,
}

impl What {
    /// Whether an attempt ends with an outcome.
    pub(crate) fn is_settlement(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

impl Change {
    /// Reads the meaning off the row before and after.
    pub(crate) fn what(&self) -> What {
        let (old, new) = match (&self.old, &self.new) {
            (None, Some(_)) => return What::Inserted,
            (Some(_), None) if self.call.is_some() => return What::Operated,
            (Some(old), None) => return if old.is_held() { What::Completed } else { What::Removed },
            (None, None) => return What::Unexplained,
            (Some(old), Some(new)) => (old, new),
        };
        match (old.is_held(), new.is_held()) {
            (false, true) => What::Claimed,
            (true, true) if !new.has_claim_of(old) => What::Reclaimed,
            (true, true) => What::Touched,
            (true, false) if new.interruptions != old.interruptions => What::Rescued,
            (true, false) if new.run_at != old.run_at => What::Failed,
            // Its first interruption again, after it was replaced by key.
            (true, false) if new.error != old.error => What::Rescued,
            (true, false) => What::Released,
            (false, false) if new != old && self.call.is_some() => What::Operated,
            (false, false) if new.n != old.n => What::Replaced,
            (false, false) if new.attempts < old.attempts && new.error == old.error => What::Returned,
            (false, false) if new.error != old.error || new.run_at != old.run_at => What::FailedUnheld,
            (false, false) if new == old => What::Placed,
            (false, false) => What::Unexplained,
        }
    }

    /// Whether a job begins to be held, by whomever.
    pub(crate) fn is_claim(&self) -> bool {
        matches!(self.what(), What::Claimed | What::Reclaimed)
    }

    /// The row, after the change if it is still there.
    pub(crate) fn row(&self) -> Option<&Row> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} by {}", self.what(), self.xid)?;
        let Some(row) = self.row() else { return Ok(()) };
        write!(f, ", attempt {} of {}", row.attempts, row.max_attempts)?;
        write!(f, ", {}", row.task)?;
        for name in [&row.queue, &row.tenant].into_iter().flatten() {
            write!(f, ", {name}")?;
        }
        if let Some(call) = self.call {
            write!(f, ", call {call}")?;
        }
        if row.priority != 0 {
            write!(f, ", priority {}", row.priority)?;
        }
        if let Some(key) = &self.key {
            write!(f, ", under {key}")?;
        }
        let holder = self.old.as_ref().filter(|old| old.is_held()).or(self.new.as_ref());
        if let Some(holder) = holder.and_then(|row| row.holder.as_ref()) {
            write!(f, ", held by {holder}")?;
        }
        if let Some(epoch) = holder.and_then(|row| row.epoch) {
            write!(f, ", epoch {epoch}")?;
        }
        match &row.error {
            Some(error) if self.what() != What::Claimed => write!(f, ": {error}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_was_committed_before_it() {
        let snapshot = Snapshot::read("10:20:12,15").unwrap();
        let seen: Vec<u64> = [9, 10, 12, 14, 15, 19, 20].into_iter().filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [9, 10, 14, 19]);
        assert!(Snapshot::read("10:20:").unwrap().sees(19));
        assert!(Snapshot::read("nonsense").is_err());
    }

    #[test]
    fn a_change_is_read_off_the_rows() {
        let free = Row { n: Some(1), max_attempts: 3, ..Row::default() };
        let held =
            Row { attempts: 1, holder: Some("a".into()), locked_at: Some(Micros(5)), epoch: Some(1), ..free.clone() };
        let what = |old: Option<&Row>, new: Option<&Row>| {
            Change { old: old.cloned(), new: new.cloned(), ..Change::default() }.what()
        };
        let again = Row { locked_at: Some(Micros(9)), epoch: Some(2), ..held.clone() };
        let failed = Row { attempts: 1, run_at: Micros(7), error: Some("no".into()), ..free.clone() };
        let rescued = Row { interruptions: 1, ..free.clone() };
        let other = Row { n: Some(2), ..free.clone() };
        let superseded = Row { superseded: true, attempts: 3, ..held.clone() };
        assert_eq!(what(None, Some(&free)), What::Inserted);
        assert_eq!(what(Some(&free), Some(&held)), What::Claimed);
        assert_eq!(what(Some(&held), Some(&again)), What::Reclaimed);
        assert_eq!(what(Some(&held), Some(&superseded)), What::Touched);
        assert_eq!(what(Some(&held), None), What::Completed);
        assert_eq!(what(Some(&held), Some(&failed)), What::Failed);
        assert_eq!(what(Some(&held), Some(&free)), What::Released);
        assert_eq!(what(Some(&held), Some(&rescued)), What::Rescued);
        assert_eq!(what(Some(&free), Some(&other)), What::Replaced);
        assert_eq!(what(Some(&free), None), What::Removed);
        assert_eq!(what(Some(&free), Some(&failed)), What::FailedUnheld);
        let returned = Row { attempts: 0, run_at: Micros(1), ..failed.clone() };
        assert_eq!(what(Some(&failed), Some(&returned)), What::Returned);
        assert_eq!(what(Some(&free), Some(&free)), What::Placed);
        let by_call = |old: &Row, new: Option<&Row>| {
            let (old, new) = (Some(old.clone()), new.cloned());
            Change { old, new, call: Some(3), ..Change::default() }.what()
        };
        assert_eq!(by_call(&free, None), What::Operated);
        assert_eq!(by_call(&free, Some(&failed)), What::Operated);
        assert_eq!(by_call(&free, Some(&free)), What::Placed);
        assert_eq!(by_call(&held, None), What::Operated);
        assert_eq!(by_call(&held, Some(&failed)), What::Failed);
        let moved = Row { priority: free.priority + 1, ..free.clone() };
        assert_eq!(what(Some(&free), Some(&moved)), What::Unexplained);
    }
}
