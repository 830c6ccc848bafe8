//! Reservations: slots for jobs that are claimed as others are completed; and what is known when such a claim, or
//! another one, is lost.

use job_pg::{ClaimId, Job};
use tokio::time::Instant;

use super::Slots;

impl Slots {
    /// Reserves a slot of a lane for a job that is to be claimed with this epoch, in the place of one that has ended.
    /// Not the last free slot: it is for the first job of all. Nor while lost jobs are searched for, as it would be
    /// taken for one of those.
    pub(crate) fn reserve(&self, index: usize, epoch: i64) -> bool {
        let mut state = self.state();
        let buffered: usize = state.lanes.iter().map(|lane| lane.buffer.len()).sum();
        let lane = &state.lanes[index];
        // Those of the job that has ended, of this one, and one more.
        let spare = state.running + buffered + state.reserved.len() + 2 <= self.concurrency
            && lane.running + lane.buffer.len() + lane.reserved + 2 <= lane.limit;
        let reserved = spare && !state.stopped && !state.searching;
        if reserved {
            state.lanes[index].reserved += 1;
            state.reserved.push(epoch);
        }
        reserved
    }

    /// What has become of a reservation. Returns the claim when it is to be given back, as nothing starts any more. It
    /// is held until then.
    pub(crate) fn reservation_ended(&self, index: usize, epoch: i64, job: Option<Job>) -> Option<ClaimId> {
        let mut state = self.state();
        state.lanes[index].reserved -= 1;
        state.reserved.retain(|reserved| *reserved != epoch);
        let job = job?;
        let claim = job.claim_id();
        state.held.insert(claim);
        if state.stopped {
            return Some(claim);
        }
        state.buffered += job.payload.len();
        state.lanes[index].buffer.push_back(job);
        state.lanes[index].filled = Instant::now();
        drop(state);
        self.succeeded.notify_one();
        None
    }

    /// Starts what is held and has a slot.
    pub(crate) fn start_held(&self) -> Vec<(usize, Job)> {
        let mut state = self.state();
        let mut starts = Vec::new();
        for lane in 0..state.lanes.len() {
            while state.can_start(lane, self.concurrency) {
                starts.extend(state.start(lane).map(|job| (lane, job)));
            }
        }
        starts
    }

    /// A claim may have been carried out without its answer, or an outcome cannot be stored: jobs may be locked for
    /// this process that it does not know of.
    pub(crate) fn request_reconcile(&self) {
        self.state().reconcile = true;
    }

    /// Whether that was requested since the last call.
    pub(crate) fn take_reconcile_request(&self) -> bool {
        std::mem::take(&mut self.state().reconcile)
    }

    /// A search for jobs begins that this process does not know of. Returns the epochs of the claims that it knows of,
    /// but for those whose deadline is stored, and of those that are on their way with outcomes: no more come until the
    /// search has ended.
    pub(crate) fn begin_search(&self) -> Vec<i64> {
        let mut state = self.state();
        state.searching = true;
        let known = state.held.iter().chain(state.accepted.iter().map(|(claim, _)| claim)).map(|claim| claim.1);
        known.chain(state.reserved.iter().copied()).collect()
    }

    /// It has ended.
    pub(crate) fn search_ended(&self) {
        self.state().searching = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_slot_is_for_the_first_job_of_all() {
        // Of the whole worker, and of a lane.
        for (slots, most) in
            [(Slots::new(4, 0, 0, [4]), 3), (Slots::new(9, 0, 0, [4, 9]), 3), (Slots::new(1, 9, 9, [1]), 0)]
        {
            let reserved = (0..9).filter(|epoch| slots.reserve(0, *epoch)).count();
            assert_eq!(reserved, most);
            assert_eq!(slots.wanted(0, 0), 4_usize.min(most + 1) - most, "claims leave them alone");
            (0..9).take(most).for_each(|epoch| assert_eq!(slots.reservation_ended(0, epoch, None), None));
            assert_eq!(slots.wanted(0, 0), most + 1);
        }
    }

    #[test]
    fn none_is_reserved_while_lost_jobs_are_searched_for_or_when_the_worker_stops() {
        let slots = Slots::new(9, 0, 0, [9]);
        assert!(slots.reserve(0, 7));
        assert_eq!(slots.begin_search(), [7], "it is on its way, and not lost");
        assert!(!slots.reserve(0, 8));
        slots.search_ended();
        assert!(slots.reserve(0, 8));
        slots.stop_starting();
        assert!(!slots.reserve(0, 9));
    }
}
