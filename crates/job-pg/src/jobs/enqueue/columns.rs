//! The jobs of one statement, as columns.

use jiff::Timestamp;
use postgres_types::{ToSql, Type};
use uuid::Uuid;

use crate::jobs::NewJob;

/// How many jobs go into one statement. More gain nothing (measured from 500 to 5000: 15 % up to here, 3 % after), and
/// a statement holds its rows in memory on both sides.
const CHUNK_JOBS: usize = 2000;

/// How many bytes of payload go into one statement, unless a single job has more.
const CHUNK_BYTES: usize = 4 << 20;

/// How many of the jobs, at least one, make the next statement.
pub(super) fn chunk_length(jobs: &[NewJob]) -> usize {
    let mut bytes = 0;
    let fitting = jobs.iter().take(CHUNK_JOBS).take_while(|job| {
        bytes += job.payload.len();
        bytes <= CHUNK_BYTES
    });
    fitting.count().max(1)
}

/// The jobs of one statement, a column each; None where no job says anything.
pub(super) struct Columns<'a> {
    identifiers: Vec<&'a str>,
    payloads: Vec<Option<&'a str>>,
    keys: Option<Vec<Option<&'a str>>>,
    key_modes: Option<Vec<&'static str>>,
    queues: Option<Vec<Option<&'a str>>>,
    run_ats: Option<Vec<Option<Timestamp>>>,
    delays: Option<Vec<Option<f64>>>,
    max_attempts: Option<Vec<Option<i32>>>,
    priorities: Option<Vec<Option<i32>>>,
    tenants: Option<Vec<Option<Uuid>>>,
    actors: Option<Vec<Option<Uuid>>>,
    first_position: i64,
}

impl<'a> Columns<'a> {
    /// `first`: the place of the first job, from 0.
    pub(super) fn of(jobs: &'a [NewJob], first: usize) -> Self {
        fn column<'a, T>(jobs: &'a [NewJob], value: impl Fn(&'a NewJob) -> Option<T>) -> Option<Vec<Option<T>>> {
            jobs.iter().any(|job| value(job).is_some()).then(|| jobs.iter().map(value).collect())
        }
        let modes = jobs.iter().any(NewJob::has_options_of_enqueue);
        Self {
            identifiers: jobs.iter().map(|job| job.task.as_str()).collect(),
            payloads: jobs.iter().map(|job| (!job.payload.is_empty()).then_some(job.payload.as_str())).collect(),
            keys: column(jobs, |job| job.key.as_deref()),
            key_modes: modes.then(|| jobs.iter().map(|job| job.key_mode.as_str()).collect()),
            queues: column(jobs, |job| job.queue.as_deref()),
            run_ats: column(jobs, |job| job.run_at),
            delays: column(jobs, |job| job.delay),
            max_attempts: column(jobs, |job| job.max_attempts),
            priorities: column(jobs, |job| job.priority),
            tenants: column(jobs, |job| job.tenant),
            actors: column(jobs, |job| job.actor),
            first_position: i64::try_from(first).unwrap_or(i64::MAX - 1) + 1,
        }
    }

    /// Whether add_jobs cannot say it.
    pub(super) fn have_options_of_enqueue(&self) -> bool {
        self.key_modes.is_some()
    }

    /// For the call of add_jobs, and with two more for that of enqueue_all.
    pub(super) fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&self.identifiers, Type::TEXT_ARRAY),
            (&self.payloads, Type::TEXT_ARRAY),
            (&self.keys, Type::TEXT_ARRAY),
            (&self.queues, Type::TEXT_ARRAY),
            (&self.run_ats, Type::TIMESTAMPTZ_ARRAY),
            (&self.delays, Type::FLOAT8_ARRAY),
            (&self.max_attempts, Type::INT4_ARRAY),
            (&self.priorities, Type::INT4_ARRAY),
            (&self.tenants, Type::UUID_ARRAY),
            (&self.first_position, Type::INT8),
        ];
        if self.have_options_of_enqueue() {
            parameters
                .extend([(&self.key_modes as &(dyn ToSql + Sync), Type::TEXT_ARRAY), (&self.actors, Type::UUID_ARRAY)]);
        }
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_takes_jobs_up_to_a_number_and_a_size_and_at_least_one() {
        let job = |bytes: usize| NewJob::raw("x", "x".repeat(bytes));
        assert_eq!(chunk_length(&vec![job(2); 2001]), 2000);
        assert_eq!(chunk_length(&vec![job(1 << 20); 6]), 4);
        assert_eq!(chunk_length(&[job(5 << 20), job(1)]), 1);
        assert_eq!(chunk_length(&[job(1), job(5 << 20)]), 1);
    }
}
