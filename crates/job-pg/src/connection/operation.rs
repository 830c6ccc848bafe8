//! Operation: a statement on a pooled connection gets its answer within a bound, and does not outlive whoever waits for
//! it.
//!
//! A network that drops packets says nothing, and neither does Postgres while a statement waits for a lock. So whatever
//! the pool's connections are used for in this crate goes through here. Without an answer in time the connection is
//! given up and the statement cancelled, as far as a cancellation gets through; the same happens to a statement that
//! nobody waits for any more. Postgres does not notice a client that has gone while a statement waits for a lock: a
//! claim that is carried out after its worker has ended locks jobs for nobody; a release that is takes jobs from a
//! successor with the same id.
//!
//! When a connection gets no answer, is lost, or leads to a standby, others may be broken as well. Idle ones leave the
//! pool then, and the listener asks whether the server answers ([`ConnectionAlarm`]). While all is well that costs
//! nothing.

use std::ops::Deref;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::runtime::Handle;
use tokio::sync::{SemaphorePermit, watch};
use tokio_postgres::Error;

use crate::connection::Db;
use crate::connection::pool_wait;
use crate::error::DbError;

/// How long cancelling a statement may take. On a busy machine that is more than a moment, and a statement that is left
/// waits for its lock, and holds its locks, for nobody.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end of a process waits for cancellations.
const LAST_CANCEL_TIMEOUT: Duration = Duration::from_millis(500);

/// A timer that is so late tells of a process that was halted, or whose threads were all held by something that blocks.
const LATE: Duration = Duration::from_millis(250);

/// How long an answer that is there may take to be read after that.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection is good for after its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Discard,
}

/// A connection for one operation. Dropped before the operation has ended, it cancels the statement under way.
pub(crate) struct Operation {
    db: Db,
    limit: Duration,
    /// None only once dropped.
    object: Option<Object>,
    /// Set when the operation has ended.
    fate: OnceLock<Fate>,
}

impl Db {
    /// A connection from the pool for one operation, whose answer comes within JOBS_STATEMENT_TIMEOUT or not at all.
    pub(crate) async fn operation(&self) -> Result<Operation, DbError> {
        let object = self.connection().await?;
        Ok(Operation::new(self, object, self.statement_timeout()))
    }

    /// [`Db::operation`] with a shorter limit: the connection comes within `limit`, and the answer too.
    pub(crate) async fn operation_within(
        &self,
        operation: &'static str,
        limit: Duration,
    ) -> Result<Operation, DbError> {
        let limit = limit.min(self.statement_timeout());
        match tokio::time::timeout(limit, self.connection()).await {
            Ok(object) => Ok(Operation::new(self, object?, limit)),
            Err(_) => Err(DbError::Timeout { operation, limit }),
        }
    }

    /// [`Db::operation`] for a transaction that may take long. It waits for a connection without a limit, and never
    /// takes the last ones of the pool.
    pub(crate) async fn long_operation(&self) -> Result<LongOperation<'_>, DbError> {
        let _wait = pool_wait::begin();
        // It is never closed.
        let permit = self.long_operation_permits().acquire().await.ok();
        let object = self.connection_without_limit().await?;
        Ok(LongOperation { operation: Operation::new(self, object, self.statement_timeout()), _permit: permit })
    }

    /// Waits until abandoned statements have been cancelled, not for long.
    pub(crate) async fn cancelled(&self) {
        self.cancelling().close();
        // Without an answer, Postgres itself does not answer: nothing more can be done.
        let _ = tokio::time::timeout(LAST_CANCEL_TIMEOUT, self.cancelling().wait()).await;
        self.cancelling().reopen();
    }
}

/// A connection for a transaction that may take long, and the permit to use one so.
pub(crate) struct LongOperation<'a> {
    pub(crate) operation: Operation,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Operation {
    fn new(db: &Db, object: Object, limit: Duration) -> Self {
        Self { db: db.clone(), limit, object: Some(object), fate: OnceLock::new() }
    }

    /// Waits for what the operation asks of the connection, as long as that may take.
    pub(crate) async fn run<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, DbError> {
        let (begun, mut work) = (Instant::now(), pin!(work));
        let mut answer = tokio::time::timeout(self.limit, &mut work).await;
        if answer.is_err() && begun.elapsed() > self.limit + LATE {
            // The timer was late, too: it was this process that stood still. The answer may be there, unread.
            answer = tokio::time::timeout(UNREAD_TIMEOUT, work).await;
        }
        let Ok(result) = answer else {
            // A shorter limit ends early. That says nothing of other connections.
            if self.limit >= self.db.statement_timeout() {
                self.db.report_broken_connection();
            }
            return Err(DbError::Timeout { operation, limit: self.limit });
        };
        self.answered(result.map_err(DbError::query(operation)))
    }

    /// [`Operation::run`] for work that may end in the middle of an answer, with None: then the rest of it is not
    /// waited for. The statement is cancelled when this is dropped.
    pub(crate) async fn run_or_leave<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<Option<T>, Error>>,
    ) -> Result<Option<T>, DbError> {
        match tokio::time::timeout(self.limit, work).await {
            Ok(Ok(None)) => Ok(None),
            Ok(result) => self.answered(result.map_err(DbError::query(operation))),
            Err(_) => {
                self.db.report_broken_connection();
                Err(DbError::Timeout { operation, limit: self.limit })
            }
        }
    }

    /// Waits for it as long as it takes: whoever no longer wants to wait drops this.
    pub(crate) async fn run_without_limit<T>(
        &self,
        work: impl Future<Output = Result<T, DbError>>,
    ) -> Result<T, DbError> {
        self.answered(work.await)
    }

    fn answered<T>(&self, result: Result<T, DbError>) -> Result<T, DbError> {
        if matches!(result, Err(DbError::Timeout { .. })) {
            // It goes on: whoever drops this cancels it.
            return result;
        }
        let lost = result.as_ref().is_err_and(DbError::is_of_the_connection);
        // Nobody has set it before: an operation runs once.
        let _ = self.fate.set(if lost { Fate::Discard } else { Fate::Keep });
        if lost {
            self.db.report_broken_connection();
        }
        result
    }
}

impl Operation {
    /// The connection, for a transaction of somebody else's, whose end says [`Operation::ended`].
    #[allow(clippy::expect_used, reason = "only drop takes it")]
    pub(crate) fn object(&mut self) -> &mut Object {
        self.object.as_mut().expect("in use")
    }

    /// Whatever was under way has ended, well or not.
    pub(crate) fn ended(&self) {
        let _ = self.fate.set(Fate::Keep);
    }
}

impl Deref for Operation {
    type Target = Object;

    #[allow(clippy::expect_used, reason = "only drop takes it")]
    fn deref(&self) -> &Object {
        self.object.as_ref().expect("in use")
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        match self.fate.get() {
            Some(Fate::Keep) => {}
            Some(Fate::Discard) => drop(Object::take(object)),
            None => {
                // Out of the pool: a cancellation that comes late must not meet another statement.
                let client = Object::take(object);
                // The runtime may be on its way out; then so is the connection.
                let Ok(runtime) = Handle::try_current() else { return };
                let connector = self.db.connector().clone();
                let cancel = async move {
                    let _ = tokio::time::timeout(CANCEL_TIMEOUT, connector.end_statement(&client)).await;
                    drop(client);
                };
                self.db.cancelling().spawn_on(cancel, &runtime);
            }
        }
    }
}

/// Signs that the network or the server has gone: others than those who saw one may want to check.
#[derive(Clone)]
pub(crate) struct ConnectionAlarm(watch::Sender<()>);

impl ConnectionAlarm {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    pub(crate) fn raise(&self) {
        self.0.send_replace(());
    }

    /// Changes with every sign from now on. Ends with the last [`Db`].
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}
