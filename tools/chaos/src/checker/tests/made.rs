//! Writes histories, a step at a time.

use std::time::Duration;

use super::super::super::change::{Change, GateChange, Row, Setting, Snapshot};
use super::super::super::history::{Answer, Entry, Event, Micros};
use super::super::super::operations::{Act, Gate, Limit};
use super::super::super::plan::{Kind, Target};
use super::super::{Evidence, Rule, Terms, Verdict, check, worker_id};

const MS: i64 = 1_000;
pub(super) const SECOND: i64 = 1_000 * MS;

const TERMS: Terms =
    Terms { lease: Duration::from_secs(5), expiry: Duration::from_secs(3600), stuck: Duration::from_secs(15) };

/// Writes a history. Each step takes a millisecond.
#[derive(Default)]
pub(super) struct Made {
    pub(super) evidence: Evidence,
    pub(super) clock: i64,
    pub(super) epochs: i64,
    pub(super) runs: u64,
    pub(super) faults: usize,
    pub(super) calls: usize,
    /// The call that is being made.
    pub(super) call: Option<usize>,
}

impl Made {
    pub(super) fn tick(&mut self) -> Micros {
        self.clock += MS;
        Micros(self.clock)
    }

    pub(super) fn wait(&mut self, micros: i64) -> &mut Self {
        self.clock += micros;
        self
    }

    pub(super) fn event(&mut self, event: Event) {
        let at = self.tick();
        self.evidence.entries.push(Entry { at, event });
    }

    /// Writes down a change to this row; None: the row is gone.
    pub(super) fn change(&mut self, job: i64, new: Option<Row>) {
        let at = self.tick();
        let old = match &new {
            Some(new) => self.evidence.rows.insert(job, new.clone()),
            None => self.evidence.rows.remove(&job),
        };
        let seq = self.evidence.changes.len() as u64;
        // Every transaction sees all before it.
        let snapshot = Some(Snapshot::read(&format!("1:{}:", seq + 1)).unwrap());
        let (xid, committed, call) = (seq + 1, Some(at), self.call);
        self.evidence.changes.push(Change {
            seq,
            job,
            at,
            now: at,
            committed,
            xid,
            call,
            snapshot,
            old,
            new,
            key: None,
        });
    }

    /// An operator's call, which does something and returns.
    pub(super) fn call(&mut self, act: Act, answer: Answer, does: impl FnOnce(&mut Self)) -> &mut Self {
        let call = self.calls;
        self.calls += 1;
        self.event(Event::CallBegan { call, act });
        self.call = Some(call);
        does(self);
        self.call = None;
        self.event(Event::CallEnded { call, answer });
        self
    }

    /// Sets something for a gate; None removes the row.
    pub(super) fn set(&mut self, gate: Gate, new: Option<Setting>) -> &mut Self {
        let act = Act::Resume { gate: gate.clone() };
        self.call(act, Answer::Done, |made| {
            let (at, call) = (made.tick(), made.call);
            made.evidence.gates.push(GateChange { at, gate, call, new });
        })
    }

    pub(super) fn limit(&mut self, gate: Gate, max_running: u32) -> &mut Self {
        let limit = Limit { max_running: Some(max_running), rate: None };
        self.set(gate, Some(Setting { limit, ..Setting::default() }))
    }

    pub(super) fn pause(&mut self, gate: Gate, lasts: Option<i64>) -> &mut Self {
        let (paused_at, paused_until) = (Some(Micros(self.clock)), lasts.map(|lasts| Micros(self.clock + lasts)));
        self.set(gate, Some(Setting { paused_at, paused_until, ..Setting::default() }))
    }

    pub(super) fn row(&self, job: i64) -> Row {
        self.evidence.rows[&job].clone()
    }

    pub(super) fn insert_as(&mut self, job: i64, row: Row) {
        self.change(job, Some(row));
        if let Some(n) = self.row(job).n {
            self.event(Event::Committed { n, job });
        }
    }

    /// A job that is due at once; n is its id.
    pub(super) fn insert(&mut self, job: i64) -> &mut Self {
        let (task, run_at) = ("a".to_owned(), Micros(self.clock));
        self.insert_as(job, Row { n: Some(job as u64), max_attempts: 25, run_at, task, ..Row::default() });
        self
    }

    pub(super) fn insert_in(&mut self, job: i64, queue: &str, priority: i32) -> &mut Self {
        let queue = Some(queue.to_owned());
        let run_at = Micros(self.clock);
        self.insert_as(job, Row { n: Some(job as u64), max_attempts: 25, run_at, queue, priority, ..Row::default() });
        self
    }

    pub(super) fn claim(&mut self, job: i64, worker: usize) -> &mut Self {
        self.epochs += 1;
        let (holder, epoch, locked_at) = (Some(worker_id(worker)), Some(self.epochs), Some(Micros(self.clock)));
        let row = self.row(job);
        self.change(job, Some(Row { holder, epoch, locked_at, attempts: row.attempts + 1, ..row }));
        self
    }

    /// A run under the job's claim, or under the one of this epoch; returns its number.
    pub(super) fn start(&mut self, job: i64, epoch: Option<i64>) -> u64 {
        let row = self.evidence.rows.get(&job).cloned().unwrap_or_default();
        self.runs += 1;
        let (run, n, function) = (self.runs, Some(job as u64), 1);
        let worker = row.holder.unwrap_or_else(|| worker_id(1));
        self.event(Event::Started { run, job, n, worker, epoch: epoch.or(row.epoch), function });
        run
    }

    pub(super) fn finish(&mut self, run: u64, success: bool) -> &mut Self {
        self.event(Event::Finished { run, success });
        self
    }

    pub(super) fn complete(&mut self, job: i64) -> &mut Self {
        self.change(job, None);
        self
    }

    pub(super) fn free(&self, job: i64) -> Row {
        Row { holder: None, epoch: None, locked_at: None, ..self.row(job) }
    }

    pub(super) fn fail(&mut self, job: i64, error: &str) -> &mut Self {
        let run_at = Micros(self.clock + 2 * SECOND);
        self.change(job, Some(Row { error: Some(error.to_owned()), run_at, ..self.free(job) }));
        self
    }

    pub(super) fn release(&mut self, job: i64) -> &mut Self {
        let row = self.free(job);
        self.change(job, Some(Row { attempts: row.attempts - 1, ..row }));
        self
    }

    pub(super) fn rescue(&mut self, job: i64) -> &mut Self {
        let row = self.free(job);
        self.change(job, Some(Row { attempts: row.attempts - 1, interruptions: row.interruptions + 1, ..row }));
        self
    }

    /// The whole of a good run.
    pub(super) fn run(&mut self, job: i64, worker: usize) -> &mut Self {
        self.claim(job, worker);
        let run = self.start(job, None);
        self.finish(run, true).complete(job)
    }

    /// Begins a fault; the answer ends it.
    pub(super) fn fault(&mut self, target: Target, kind: Kind) -> Event {
        self.faults += 1;
        self.event(Event::FaultBegan { fault: self.faults, target, kind });
        Event::FaultEnded { fault: self.faults }
    }

    pub(super) fn verdict(&self) -> Verdict {
        check(&self.evidence, &TERMS)
    }

    /// Rule and job of everything that is wrong.
    pub(super) fn wrong(&self) -> Vec<(Rule, Option<i64>)> {
        let violations = self.verdict().violations;
        violations.iter().map(|violation| (violation.rule, violation.job)).collect()
    }
}

pub(super) fn made(write: impl FnOnce(&mut Made)) -> Made {
    let mut made = Made { clock: SECOND, ..Made::default() };
    write(&mut made);
    made
}
