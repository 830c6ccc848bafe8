//! Any pool: connections of our own pool, or of the application's.

use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType, Timeouts,
};
use tokio::sync::OnceCell;
use tokio_postgres::Config;

use crate::config::postgres::JOBS_POOL_SIZE;
use crate::connection::connect::Connector;
use crate::error::DbError;

/// A pool of connections.
pub(crate) enum AnyPool {
    /// It connects as everything else here does.
    Own(Pool),
    /// The application's, with settings of its own.
    Application(ApplicationPool),
}

/// The application's pool.
pub(crate) struct ApplicationPool {
    pool: Pool,
    /// Leads to the same database.
    connector: Connector,
    /// Whether it is known if a pooler is in between.
    pooler_checked: OnceCell<()>,
}

impl AnyPool {
    /// A pool of so many connections.
    pub(crate) fn own(client: Config, connector: Connector, size: usize) -> Result<Self, DbError> {
        // Fast: a broken connection is noticed by the client itself, no query before each use.
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let limit = Some(connector.limit());
        Pool::builder(Manager::from_connect(client, connector, recycling))
            .max_size(size)
            .wait_timeout(limit)
            .create_timeout(limit)
            .runtime(Runtime::Tokio1)
            .build()
            .map(Self::Own)
            .map_err(|error| DbError::config(&JOBS_POOL_SIZE, error.to_string()))
    }

    /// The application's pool, and what connects to the same database.
    pub(crate) fn application(pool: Pool, connector: Connector) -> Self {
        Self::Application(ApplicationPool { pool, connector, pooler_checked: OnceCell::new() })
    }

    fn pool(&self) -> &Pool {
        match self {
            Self::Own(pool) | Self::Application(ApplicationPool { pool, .. }) => pool,
        }
    }

    /// How many connections there are at most.
    pub(crate) fn max_size(&self) -> usize {
        self.pool().status().max_size
    }

    /// Closes the connections that nobody uses at this moment.
    pub(crate) fn drop_idle(&self) {
        self.pool().retain(|_, _| false);
    }

    /// A connection, with a limit for the wait until one is free, or without.
    pub(crate) async fn get(&self, limited: bool) -> Result<Object, PoolError> {
        match self {
            Self::Own(pool) if limited => pool.get().await,
            Self::Own(pool) => pool.timeout_get(&Timeouts { wait: None, ..pool.timeouts() }).await,
            // In a box: whatever awaits a connection would be as deep as this otherwise, and the compiler has a limit
            // to that.
            Self::Application(pool) => Box::pin(pool.get(limited)).await,
        }
    }
}

impl ApplicationPool {
    /// The limits are ours: those of the pool may be none, and it may have no runtime, without which it knows no limit.
    async fn get(&self, limited: bool) -> Result<Object, PoolError> {
        self.check_pooler().await?;
        let without = Timeouts::new();
        let connection = self.pool.timeout_get(&without);
        let limit = if limited { self.connector.limit() } else { Duration::MAX };
        tokio::time::timeout(limit, connection).await.unwrap_or_else(|_| {
            let busy = self.pool.status().available == 0;
            Err(PoolError::Timeout(if busy { TimeoutType::Wait } else { TimeoutType::Create }))
        })
    }

    /// Finds out if a pooler is in between, before anything is prepared: a connection of theirs does not tell, so it
    /// takes one of our own, once.
    async fn check_pooler(&self) -> Result<(), PoolError> {
        if self.connector.knows() {
            return Ok(());
        }
        let asked = self.pooler_checked.get_or_try_init(async || {
            // Dropped, it is closed in order.
            self.connector.dedicated().await.map(drop)
        });
        asked.await.copied().map_err(PoolError::Backend)
    }
}
