//! Cursor: where a worker's last claim ended.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::jobs::claim::Job;

/// How many priorities a cursor remembers. With more of them, it remembers the last one and goes on from there through
/// all later ones.
const PRIORITIES: usize = 100;

/// Where the last claim ended, for every priority seen: what a worker has claimed lies behind, dead index entries and
/// all. And how far it has come among gates, when there are too many to look at all of them.
#[derive(Debug, Clone, Default)]
pub struct Cursor {
    after: BTreeMap<i32, (Timestamp, i64)>,
    /// The last position stands for all later priorities, too: there are so many that each has few jobs.
    through_all: bool,
    gate: Option<String>,
}

impl Cursor {
    /// Whether nothing has been seen yet.
    pub fn is_empty(&self) -> bool {
        self.after.is_empty()
    }

    /// Moves on past claimed jobs. Those with a gate have an order of their own.
    pub fn advance(&mut self, jobs: &[Job]) {
        let mut last = None;
        for job in jobs.iter().filter(|job| job.gate.is_none()) {
            // `-infinity` is an instant that does not go back into the database.
            let at = (job.run_at.max(Timestamp::UNIX_EPOCH), job.id);
            let after = self.after.entry(job.priority).or_insert(at);
            *after = at.max(*after);
            last = last.max(Some((job.priority, at)));
        }
        if let Some((priority, at)) = last.filter(|_| self.after.len() > PRIORITIES) {
            // What comes before the last of these is found from the start.
            self.after = BTreeMap::from([(priority, at)]);
            self.through_all = true;
        }
    }

    /// The positions, as `claim_instance_jobs` has them: priorities, instants and ids. A NULL behind the priorities
    /// says that the last position stands for all later ones.
    pub(super) fn positions(&self) -> (Vec<Option<i32>>, Vec<Timestamp>, Vec<i64>) {
        let priorities = self.after.keys().copied().map(Some).chain(self.through_all.then_some(None)).collect();
        let (run_ats, ids) = self.after.values().copied().unzip();
        (priorities, run_ats, ids)
    }

    /// The last gate that was looked at, when there are more.
    pub(super) fn gate(&self) -> Option<&str> {
        self.gate.as_deref()
    }

    /// A claim has looked at gates up to this one; None: at all of them.
    pub fn advance_gates(&mut self, last: Option<String>) {
        self.gate = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(priority: i32, id: i64) -> Job {
        Job {
            id,
            tenant: None,
            actor: None,
            entity: None,
            organization: None,
            queue: None,
            gate: None,
            task: "task".into(),
            payload: "{}".into(),
            priority,
            run_at: Timestamp::UNIX_EPOCH,
            attempts: 1,
            max_attempts: 25,
            epoch: id,
            deferred: false,
        }
    }

    #[test]
    fn it_remembers_where_each_priority_ended_and_with_many_of_them_the_last_one() {
        let mut cursor = Cursor::default();
        cursor.advance(&[job(0, 5), job(0, 3), job(7, 4), Job { gate: Some("queue'q'".into()), ..job(1, 9) }]);
        let (priorities, _, ids) = cursor.positions();
        assert_eq!((priorities, ids), (vec![Some(0), Some(7)], vec![5, 4]));
        let many: Vec<Job> = (0..100).map(|n| job(100 + n, 1000 - i64::from(n))).collect();
        cursor.advance(&many);
        let (priorities, _, ids) = cursor.positions();
        assert_eq!((priorities, ids), (vec![Some(199), None], vec![901]));
        // More urgent ones come before it.
        cursor.advance(&[job(-1, 2000)]);
        let (priorities, _, ids) = cursor.positions();
        assert_eq!((priorities, ids), (vec![Some(-1), Some(199), None], vec![2000, 901]));
        // A batch of many from the start: the rest of those comes next.
        let urgent: Vec<Job> = (0..100).map(|n| job(n - 200, 3000 + i64::from(n))).collect();
        cursor.advance(&urgent);
        assert_eq!(cursor.positions().0, [Some(-101), None]);
    }
}
