//! Abandon: a statement that nobody waits for any more must not be carried out later.
//!
//! Postgres does not notice a client that has gone while a statement waits for a lock. A claim that is carried out after
//! its worker has ended locks jobs for nobody; a release that is takes jobs from a successor with the same id.

use std::ops::Deref;
use std::time::Duration;

use deadpool_postgres::Object;

use crate::db::{Db, DbError};

/// How long cancelling a statement may take.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection for one operation. Dropped before the operation is done, it cancels the statement under way.
pub(crate) struct Abandonable {
    db: Db,
    /// None only once dropped or done.
    object: Option<Object>,
}

impl Db {
    /// A connection from the pool for an operation that is cancelled when it is abandoned.
    pub(crate) async fn abandonable(&self) -> Result<Abandonable, DbError> {
        Ok(Abandonable { db: self.clone(), object: Some(self.connection().await?) })
    }

    /// Waits until abandoned statements have been cancelled, not for long.
    pub(crate) async fn cancelled(&self) {
        self.cancelling().close();
        // Without an answer, Postgres itself does not answer: nothing more can be done.
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, self.cancelling().wait()).await;
        self.cancelling().reopen();
    }
}

impl Abandonable {
    /// The operation has ended, well or not.
    pub(crate) fn done(mut self) {
        drop(self.object.take());
    }
}

impl Deref for Abandonable {
    type Target = Object;

    #[allow(clippy::expect_used, reason = "only drop and done take it, and both end the value")]
    fn deref(&self) -> &Object {
        self.object.as_ref().expect("in use")
    }
}

impl Drop for Abandonable {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        // Out of the pool: a cancellation that comes late must not meet another statement.
        let client = Object::take(object);
        let tls = self.db.tls();
        self.db.cancelling().spawn(async move {
            let _ = tokio::time::timeout(CANCEL_TIMEOUT, client.cancel_token().cancel_query(tls)).await;
            drop(client);
        });
    }
}
