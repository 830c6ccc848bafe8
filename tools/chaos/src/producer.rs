//! A producer: enqueues its share of the jobs in transactions of its own, through a network that breaks.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use job_testkit::wait::work_for;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

use super::history::{Event, History};
use super::workload::{Level, Spec, Transaction};

/// How long one statement may take before the connection is given up.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two tries while Postgres is away.
const PAUSE: Duration = Duration::from_millis(200);

const ADD: &str = "SELECT (app_jobs.add_job($8::text::uuid, $1::text, $2::json, $3::text, $4::text, \
                   now() + $5::float8 * interval '1 ms', $6::int, $7::int)).id";

/// What all producers of a run share.
#[derive(Clone)]
pub(crate) struct Producers {
    pub(crate) seed: u64,
    /// Leads through the proxy.
    pub(crate) url: String,
    pub(crate) jobs: u64,
    /// Over how much time the jobs are spread.
    pub(crate) span: Duration,
    pub(crate) history: History,
}

/// What became of a transaction.
enum End {
    Committed(Vec<i64>),
    /// It can be tried again, over another connection.
    Aborted,
    /// An error of serialization: it is tried again.
    Refused,
    RolledBack,
    /// The connection was lost between COMMIT and its answer: it must not be tried again.
    Unresolved,
}

impl Producers {
    /// Enqueues the jobs from `first` on, every `step`-th.
    pub(crate) async fn run(self, first: u64, step: u64) -> Result<()> {
        let start = Instant::now();
        let mut rng = Rng::with_seed(self.seed ^ (first << 32));
        let mut connection = None;
        let mut n = first;
        while n < self.jobs {
            let size = if rng.u32(0..4) == 0 { rng.u64(2..6) } else { 1 };
            let batch: Vec<Spec> = (0..size)
                .map(|index| n + index * step)
                .take_while(|n| *n < self.jobs)
                .map(|n| Spec::of(self.seed, n, self.jobs))
                .collect();
            let roll_back = rng.u32(0..100) == 0;
            let transaction = Transaction::random(&mut rng);
            let due = start + self.span.mul_f64(n as f64 / self.jobs as f64);
            n += size * step;
            work_for(due.saturating_duration_since(Instant::now())).await;
            self.enqueue(&mut connection, &batch, transaction, roll_back).await;
        }
        Ok(())
    }

    /// Tries until it is known, or cannot be known, what became of the batch.
    async fn enqueue(
        &self,
        connection: &mut Option<Connection>,
        batch: &[Spec],
        transaction: Transaction,
        roll_back: bool,
    ) {
        loop {
            let end = match connection {
                Some(open) => commit(&mut open.client, batch, transaction, roll_back).await,
                None => {
                    *connection = timeout(PATIENCE, Connection::open(&self.url)).await.ok().and_then(Result::ok);
                    if connection.is_none() {
                        work_for(PAUSE).await;
                    }
                    continue;
                }
            };
            let tell = |event: fn(u64) -> Event| batch.iter().for_each(|spec| self.history.add(event(spec.n)));
            match end {
                End::Committed(jobs) => {
                    for (spec, job) in batch.iter().zip(jobs) {
                        self.history.add(Event::Committed { n: spec.n, job });
                    }
                    return;
                }
                End::RolledBack => tell(|n| Event::RolledBack { n }),
                End::Unresolved => tell(|n| Event::Unresolved { n }),
                End::Aborted => {
                    *connection = None;
                    continue;
                }
                End::Refused => {
                    let serializable = transaction.level == Level::Serializable;
                    self.history.add(Event::SerializationFailed { serializable });
                    continue;
                }
            }
            *connection = None;
            return;
        }
    }
}

/// A connection that is closed when it is dropped, whatever it is waiting for.
struct Connection {
    client: Client,
    driver: JoinHandle<()>,
}

impl Connection {
    async fn open(url: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let driver = tokio::spawn(async move {
            // The client is told of its end.
            let _ = connection.await;
        });
        Ok(Self { client, driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn commit(client: &mut Client, batch: &[Spec], how: Transaction, roll_back: bool) -> End {
    let mut jobs = Vec::new();
    let open = async {
        let transaction = client.build_transaction().isolation_level(how.level.of_driver()).start().await?;
        for spec in batch {
            let delay = spec.delay.as_millis() as f64;
            let payload = spec.payload();
            let values: [&(dyn ToSql + Sync); 8] = [
                &spec.task,
                &payload,
                &spec.key,
                &spec.queue,
                &delay,
                &spec.max_attempts,
                &spec.priority,
                &spec.tenant,
            ];
            let row = transaction.query_one(ADD, &values);
            jobs.push(row.await?.get(0));
        }
        Ok::<_, tokio_postgres::Error>(transaction)
    };
    let transaction = match timeout(PATIENCE, open).await {
        Ok(Ok(transaction)) => transaction,
        Ok(Err(error)) if is_serialization(&error) => return End::Refused,
        _ => return End::Aborted,
    };
    work_for(how.open).await;
    if roll_back {
        let _ = timeout(PATIENCE, transaction.rollback()).await;
        return End::RolledBack;
    }
    match timeout(PATIENCE, transaction.commit()).await {
        Ok(Ok(())) => End::Committed(jobs),
        Ok(Err(error)) if is_serialization(&error) => End::Refused,
        _ => End::Unresolved,
    }
}

/// Whether Postgres has rolled a transaction back for the sake of others.
fn is_serialization(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED))
}
