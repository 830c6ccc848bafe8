//! Lend: connections of a pool, of our own or of the application.

use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType, Timeouts,
};
use tokio::sync::OnceCell;
use tokio_postgres::Config;

use crate::config::postgres::JOBS_POOL_SIZE;
use crate::connection::connect::Connector;
use crate::error::DbError;

/// A pool that lends connections.
pub(crate) enum Lender {
    /// It connects as everything else here does.
    Ours(Pool),
    /// The application's, with settings of its own.
    Theirs(Theirs),
}

/// The application's pool.
pub(crate) struct Theirs {
    pool: Pool,
    /// Leads to the same database.
    connector: Connector,
    /// Whether it is known if a pooler is in between.
    asked: OnceCell<()>,
}

impl Lender {
    /// A pool of so many connections.
    pub(crate) fn ours(client: Config, connector: Connector, size: usize) -> Result<Self, DbError> {
        // Fast: a broken connection is noticed by the client itself, no query before each use.
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let limit = Some(connector.limit());
        Pool::builder(Manager::from_connect(client, connector, recycling))
            .max_size(size)
            .wait_timeout(limit)
            .create_timeout(limit)
            .runtime(Runtime::Tokio1)
            .build()
            .map(Self::Ours)
            .map_err(|error| DbError::config(&JOBS_POOL_SIZE, error.to_string()))
    }

    /// The application's pool, and what connects to the same database.
    pub(crate) fn theirs(pool: Pool, connector: Connector) -> Self {
        Self::Theirs(Theirs { pool, connector, asked: OnceCell::new() })
    }

    fn pool(&self) -> &Pool {
        match self {
            Self::Ours(pool) | Self::Theirs(Theirs { pool, .. }) => pool,
        }
    }

    /// How many connections there are at most.
    pub(crate) fn most(&self) -> usize {
        self.pool().status().max_size
    }

    /// Closes the connections that nobody uses at this moment.
    pub(crate) fn drop_idle(&self) {
        self.pool().retain(|_, _| false);
    }

    /// A connection, with a limit for the wait until one is free, or without.
    pub(crate) async fn lend(&self, limited: bool) -> Result<Object, PoolError> {
        match self {
            Self::Ours(pool) if limited => pool.get().await,
            Self::Ours(pool) => pool.timeout_get(&Timeouts { wait: None, ..pool.timeouts() }).await,
            // In a box: whatever awaits a connection would be as deep as this otherwise, and the compiler has a limit to that.
            Self::Theirs(theirs) => Box::pin(theirs.lend(limited)).await,
        }
    }
}

impl Theirs {
    /// The limits are ours: those of the pool may be none, and it may have no runtime, without which it knows no limit.
    async fn lend(&self, limited: bool) -> Result<Object, PoolError> {
        self.ask().await?;
        let without = Timeouts::new();
        let lent = self.pool.timeout_get(&without);
        let limit = if limited { self.connector.limit() } else { Duration::MAX };
        tokio::time::timeout(limit, lent).await.unwrap_or_else(|_| {
            let busy = self.pool.status().available == 0;
            Err(PoolError::Timeout(if busy { TimeoutType::Wait } else { TimeoutType::Create }))
        })
    }

    /// Finds out if a pooler is in between, before anything is prepared: a connection of theirs does not tell, so it takes one of
    /// our own, once.
    async fn ask(&self) -> Result<(), PoolError> {
        if self.connector.knows() {
            return Ok(());
        }
        let asked = self.asked.get_or_try_init(async || {
            // Dropped, it is closed in order.
            self.connector.dedicated().await.map(drop)
        });
        asked.await.copied().map_err(PoolError::Backend)
    }
}
