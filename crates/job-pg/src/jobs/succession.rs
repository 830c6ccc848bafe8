//! Succession: the next job of a queue, or of a task with a limit, is claimed in the statement that completes the one
//! before it.

use postgres_types::Type;

use crate::connection::Db;
use crate::connection::statement::Parameters;
use crate::error::DbError;
use crate::jobs::claim::{self, Job};
use crate::jobs::heartbeat::Instance;

/// The columns of the claimed jobs. A row without an id says which outcome has changed nothing: its position, from 1,
/// is in the column of attempts.
const SQL: &str = concat!(
    "SELECT ",
    claim::columns!("$11"),
    " FROM @internal@.complete_and_claim_next($1, $2, $3, $4, $5, $6, $7, $8, $9, make_interval(secs => $10), $12) j"
);

/// A worker that takes the next job of a queue or a task when one of its has ended. `T` is the ticket of the outcome
/// that makes room.
pub trait Succession<T>: Send + Sync + 'static {
    /// Whether the job that has ended may have a successor at all.
    fn may_follow(&self, ended: &T) -> bool;

    /// Reserves room for the next job, if it is wanted. The claim's epoch is the one given.
    fn reserve<'a>(&'a self, ended: &'a T, epoch: i64) -> Option<Wanted<'a>>;

    /// What became of the reservation: the job, or None.
    fn ended(&self, ended: &mut T, epoch: i64, job: Option<Job>);

    /// An answer did not come: jobs may be claimed that nobody knows of.
    fn lost(&self);

    /// For whom, and which jobs.
    fn claimant(&self) -> Claimant<'_>;
}

/// The next job is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Of the queue of the job that has ended; None: of its task, which has a limit.
    pub queue: Option<&'a str>,
    /// The task of the job that has ended.
    pub task: &'a str,
    /// Of a queue, only when it is of this task; None: of any but the excluded ones.
    pub own_task: Option<&'a str>,
}

/// Who claims successors.
pub struct Claimant<'a> {
    /// The worker's process.
    pub instance: &'a Instance,
    /// The tasks of the worker; None: any.
    pub tasks: Option<&'a [String]>,
    /// Those that have limits of their own.
    pub excluded: &'a [String],
    /// How many bytes the payloads may have together.
    pub payload_bytes: usize,
}

/// The outcomes of a statement, an element of each for every one.
#[derive(Default)]
pub(crate) struct Completions<'a> {
    pub(crate) ids: Vec<i64>,
    pub(crate) workers: Vec<&'a str>,
    pub(crate) epochs: Vec<Option<i64>>,
    pub(crate) queues: Vec<Option<&'a str>>,
    pub(crate) of_tasks: Vec<Option<&'a str>>,
    pub(crate) own_tasks: Vec<Option<&'a str>>,
    pub(crate) next_epochs: Vec<i64>,
}

impl Db {
    /// Completes jobs and claims the next ones of their queues and tasks. Returns the positions, from 1, of outcomes
    /// that have changed nothing, and the claimed jobs.
    pub(crate) async fn complete_and_claim_next(
        &self,
        completions: &Completions<'_>,
        claimant: &Claimant<'_>,
    ) -> Result<(Vec<i32>, Vec<Job>), DbError> {
        let client = self.operation().await?;
        let Completions { ids, workers, epochs, queues, of_tasks, own_tasks, next_epochs } = completions;
        let wanted = next_epochs.iter().filter(|epoch| **epoch != 0).count();
        let excluded = Some(claimant.excluded).filter(|excluded| !excluded.is_empty());
        let expiry = claimant.instance.job_expiry.as_secs_f64();
        let share = claim::payload_share(claimant.payload_bytes, wanted);
        let result = async {
            let parameters: Parameters<'_> = &[
                (ids, Type::INT8_ARRAY),
                (workers, Type::TEXT_ARRAY),
                (epochs, Type::INT8_ARRAY),
                (queues, Type::TEXT_ARRAY),
                (own_tasks, Type::TEXT_ARRAY),
                (next_epochs, Type::INT8_ARRAY),
                (&claimant.instance.id, Type::UUID),
                (&claimant.tasks, Type::TEXT_ARRAY),
                (&excluded, Type::TEXT_ARRAY),
                (&expiry, Type::FLOAT8),
                (&share, Type::INT4),
                (of_tasks, Type::TEXT_ARRAY),
            ];
            let (mut unchanged, mut jobs) = (Vec::new(), Vec::with_capacity(wanted));
            for row in self.rows(&client, SQL, parameters).await? {
                match row.try_get::<_, Option<i64>>(0)? {
                    Some(_) => jobs.push(Job::from_row(&row)?),
                    None => unchanged.push(row.try_get(claim::ATTEMPTS)?),
                }
            }
            Ok((unchanged, jobs))
        };
        client.run("complete and claim", result).await
    }
}
