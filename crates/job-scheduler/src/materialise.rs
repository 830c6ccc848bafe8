//! Materialise: make the jobs of the schedules that fire now.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use job_pg::{DbError, Fire, Materialised, SchedulerDb};
use job_utils::events::{Event, Events, Skipped};
use tokio::time::Instant;

use crate::agenda::Agenda;
use crate::clock::Clock;

/// Fires in one transaction: enough to share a round trip and a commit, few enough for the rows it locks to be free
/// again soon.
const BATCH: usize = 200;

/// When a blocked fire is tried again; the pause doubles from time to time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Fires that could not be made, from one round to the next.
pub(crate) struct BlockedFires {
    /// Schedules whose fire another transaction blocks: when to try again, and the pause after that.
    retries: HashMap<i64, (Instant, Duration)>,
    /// Fires in a batch: fewer after one that took too long.
    batch: usize,
    /// That fires wait has been logged.
    logged: bool,
}

impl Default for BlockedFires {
    fn default() -> Self {
        Self { retries: HashMap::new(), batch: BATCH, logged: false }
    }
}

/// Makes a job for each fire that is due, until `until`: then others get a turn. Returns whether schedules are held no
/// longer or are not what they were. With an error, which is always one of reaching Postgres, fires stay due; those
/// that were made all the same are known next time.
pub(crate) async fn run_once(
    (db, events): (&SchedulerDb, &Events),
    agenda: &mut Agenda,
    clock: &mut Clock,
    blocked: &mut BlockedFires,
    until: Instant,
) -> Result<bool, DbError> {
    let mut lost = false;
    blocked.forget_obsolete(agenda, clock.now());
    while Instant::now() < until {
        let fires = agenda.due(clock.now(), blocked.batch, &blocked.waiting());
        if fires.is_empty() {
            break;
        }
        match db.materialise(&fires).await {
            Ok(made) => {
                blocked.batch = (blocked.batch * 2).min(BATCH);
                let mut early = made.is_empty();
                for (fire, made) in fires.into_iter().zip(made) {
                    early |= made == Materialised::Early;
                    lost |= made == Materialised::Lost;
                    apply(fire, made, agenda, blocked, events);
                }
                if early {
                    clock.follow(db).await?;
                    break;
                }
            }
            // Jobs that are slow to make: by fewer at once it gets through, and a single one that does not is left for
            // later.
            Err(error) if error.took_too_long() => match fires[..] {
                [fire] => blocked.block(fire, "it takes too long"),
                _ => blocked.batch = (fires.len() / 2).max(1),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

fn apply(fire: Fire, made: Materialised, agenda: &mut Agenda, blocked: &mut BlockedFires, events: &Events) {
    let Fire { schedule: schedule_id, at, .. } = fire;
    match made {
        Materialised::Early => return,
        Materialised::Blocked(reason) => return blocked.block(fire, &reason),
        Materialised::Lost => {
            events.emit(&Event::ScheduleTakenAway { schedule_id });
            blocked.clear(schedule_id);
            return agenda.forget(schedule_id);
        }
        Materialised::Job(job_id) => events.emit(&Event::ScheduleFired { schedule_id, at, job_id }),
        Materialised::AlreadyScheduled => {
            events.emit(&Event::FireSkipped { schedule_id, at, reason: Skipped::PreviousJob });
        }
        Materialised::KeptOut(reason) => {
            events.emit(&Event::FireSkipped { schedule_id, at, reason: Skipped::KeptOut(&reason) });
        }
        Materialised::Known => tracing::debug!(schedule.id = schedule_id, %at, "a fire had been dealt with"),
        Materialised::Refused(error) => events.emit(&Event::FireRefused { schedule_id, at, error: &error }),
    }
    blocked.clear(schedule_id);
    agenda.settle(fire);
}

impl BlockedFires {
    /// Forgets the schedules that have no fire due any more: deleted, paused or changed while they were blocked.
    /// Nothing would be tried for them, and so nothing would end the wait for it.
    fn forget_obsolete(&mut self, agenda: &Agenda, now: Timestamp) {
        self.retries.retain(|schedule, _| agenda.is_due(*schedule, now));
        self.logged &= !self.retries.is_empty();
    }

    /// The schedules that are not to be tried now.
    fn waiting(&self) -> HashSet<i64> {
        let now = Instant::now();
        self.retries.iter().filter(|(_, (at, _))| *at > now).map(|(id, _)| *id).collect()
    }

    /// When there is something to do: at the next fire that is not blocked, or when to try a blocked one.
    pub(crate) fn next(&self, agenda: &Agenda, clock: &Clock) -> Option<Instant> {
        let blocked = self.retries.keys().copied().collect();
        let due = agenda.next(&blocked).map(|next| {
            let wait = next.duration_since(clock.now());
            Instant::now() + Duration::try_from(wait).unwrap_or(Duration::ZERO)
        });
        let retry = self.retries.values().map(|(at, _)| *at).min();
        due.into_iter().chain(retry).min()
    }

    fn block(&mut self, Fire { schedule, at, .. }: Fire, reason: &str) {
        let now = Instant::now();
        let (retry_at, pause) = self.retries.entry(schedule).or_insert((now, SHORTEST_PAUSE));
        // Several fires of one schedule are blocked together.
        if *retry_at <= now {
            *retry_at = now + *pause;
            *pause = (*pause * 2).min(LONGEST_PAUSE);
        }
        if !std::mem::replace(&mut self.logged, true) {
            tracing::warn!(schedule.id = schedule, %at, "a fire waits, and others may: {reason}; it is tried again");
        }
    }

    fn clear(&mut self, schedule: i64) {
        if self.retries.remove(&schedule).is_some() && self.retries.is_empty() {
            self.logged = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use job_pg::ScheduledJob;

    use super::*;

    #[test]
    fn a_schedule_that_is_gone_or_changed_while_it_is_blocked_is_waited_for_no_longer() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let (before, now) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:01Z"));
        let row = |id, rule: &str, digest| ScheduledJob::held(id, "task".into(), rule.into(), digest, before, before);
        let mut agenda = Agenda::new(TimeZone::UTC);
        for id in 1..=3 {
            agenda.update(&row(id, r#""* * * * * *""#, id));
        }
        let mut blocked = BlockedFires::default();
        for fire in agenda.due(now, 10, &HashSet::new()) {
            blocked.block(fire, "a test");
        }
        agenda.forget(1);
        agenda.update(&row(2, r#""0 0 1 1 *""#, 4));
        blocked.forget_obsolete(&agenda, now);
        assert_eq!(blocked.retries.keys().collect::<Vec<_>>(), [&3]);
        agenda.forget(3);
        blocked.forget_obsolete(&agenda, now);
        assert!(blocked.retries.is_empty() && !blocked.logged);
    }
}
