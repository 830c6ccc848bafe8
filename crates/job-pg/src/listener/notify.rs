//! Wake-ups on demand: a listening connection says that it waits, and learns from when on it can sleep.
//!
//! Before it sleeps, a worker registers and then claims. A writer that asked before the registration whether anybody
//! waits may commit after that claim, without a notification. Its transaction is below the horizon that comes with the
//! registration: so the worker claims again, at short and growing intervals, until [`Horizon`] has passed and one claim
//! came after that. A transaction that stays open for long is left to the poll interval.

use postgres_types::Type;
use tokio_postgres::{Client, Error};

use crate::config::SchemaName;
use crate::connection::Db;
use crate::error::DbError;

const REGISTER: &str = "SELECT @internal@.register_waiter()::text";

const HORIZON: &str = "SELECT @internal@.waiter_horizon()::text";

const PASSED: &str = "SELECT @internal@.waiter_horizon_passed($1::text::xid8)";

const UNREGISTER: &str = "SELECT @internal@.unregister_waiter()";

/// A transaction id above all that were in use when a waiter registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon(u64);

/// What a registration as a waiter says about sleeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum WaiterState {
    /// Registered just now: sleep once the horizon has passed and a claim after that found nothing.
    Until(Horizon),
    /// Every write wakes: registered before, or the schema always notifies. Sleep.
    Registered,
    /// There is no connection, or it failed: writes may not wake. Poll often, and register again.
    Unregistered,
}

/// What a connection has registered.
pub(crate) struct Registrar {
    register: String,
    horizon: String,
    unregister: String,
    registered: bool,
    /// Whether the last registration found that every write notifies. The first to find it gets a horizon all the same:
    /// it may have been on demand until a moment ago.
    always: bool,
}

impl Registrar {
    pub(crate) fn new(schema: &SchemaName) -> Self {
        let [register, horizon, unregister] = [REGISTER, HORIZON, UNREGISTER].map(|sql| schema.apply(sql));
        Self { register, horizon, unregister, registered: false, always: false }
    }

    pub(crate) async fn register(&mut self, client: &Client) -> WaiterState {
        if self.registered {
            return WaiterState::Registered;
        }
        match self.ask(client).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::debug!("cannot register as a waiter: {error}");
                WaiterState::Unregistered
            }
        }
    }

    async fn ask(&mut self, client: &Client) -> Result<WaiterState, Error> {
        let mut horizon: Option<String> = client.query_typed_one(&self.register, &[]).await?.try_get(0)?;
        self.registered = horizon.is_some();
        if std::mem::replace(&mut self.always, horizon.is_none()) && horizon.is_none() {
            return Ok(WaiterState::Registered);
        }
        if horizon.is_none() {
            horizon = client.query_typed_one(&self.horizon, &[]).await?.try_get(0)?;
        }
        Ok(horizon
            .and_then(|id| id.parse().ok())
            .map_or(WaiterState::Unregistered, |id| WaiterState::Until(Horizon(id))))
    }

    pub(crate) async fn unregister(&mut self, client: &Client) {
        // After an error the connection is lost, and the registration with it.
        if std::mem::take(&mut self.registered)
            && let Err(error) = client.query_typed_one(&self.unregister, &[]).await
        {
            tracing::debug!("cannot unregister as a waiter: {error}");
        }
    }
}

impl Db {
    pub(crate) async fn horizon_passed(&self, horizon: Horizon) -> Result<bool, DbError> {
        let client = self.operation().await?;
        let horizon = horizon.0.to_string();
        let passed = async { self.row(&client, PASSED, &[(&horizon, Type::TEXT)]).await?.try_get(0) };
        client.run("look for the horizon", passed).await
    }
}
