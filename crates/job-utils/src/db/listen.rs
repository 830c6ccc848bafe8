//! Listen: one connection that waits for notifications, reconnects by itself, and holds a process's identity.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio_postgres::{AsyncMessage, Client};

use crate::backoff::Backoff;
use crate::db::Db;
use crate::error::chain;
use crate::shutdown::Shutdown;

/// A session lock under the hash of a name: it ends with the connection, however the process ends.
const IDENTIFY: &str = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))";

/// How long a start waits for the session of a predecessor with the same id to end. Postgres notices a killed process at
/// once; a live twin stays.
const TWIN_PATIENCE: Duration = Duration::from_secs(2);

/// Wakes a loop. A wake-up that comes while nobody waits is kept.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Waits for the next wake-up, or takes one that came before.
    pub async fn woken(&self) {
        self.0.notified().await;
    }

    fn wake(&self) {
        self.0.notify_one();
    }
}

/// Whether this process is the only live one under its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// No other live session has the id: whatever it holds in the database was left behind.
    Sole,
    /// Another live session has the id.
    Shared,
}

/// A listening connection.
pub struct Listener {
    /// Wakes after each notification, and once after each reconnection.
    pub wake: Wake,
    /// Whether the id was free when the process came.
    pub identity: Identity,
}

impl Listener {
    /// Connects, listens on `channels` and takes the name `kind` + `id`; returns None when told to stop before that.
    /// Register first, then look: whatever is written from now on wakes.
    pub async fn start(
        db: &Db,
        channels: &'static [&'static str],
        kind: &'static str,
        id: &str,
        shutdown: &Shutdown,
    ) -> Option<Self> {
        let wake = Wake::default();
        let (identified, identity) = oneshot::channel();
        let name = format!("{}.{kind}:{id}", db.schema().as_str());
        tokio::spawn(listen(db.clone(), channels, name, wake.clone(), identified, shutdown.clone()));
        identity.await.ok().map(|identity| Self { wake, identity })
    }
}

async fn listen(
    db: Db,
    channels: &'static [&'static str],
    name: String,
    wake: Wake,
    identified: oneshot::Sender<Identity>,
    shutdown: Shutdown,
) {
    let mut identified = Some(identified);
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut said = false;
    while !shutdown.is_triggered() {
        let result = async {
            let (client, messages) = db.dedicated().await?;
            for channel in channels {
                client.batch_execute(&format!("LISTEN \"{channel}\"")).await?;
            }
            let identity = identify(&client, &name, identified.is_some()).await?;
            Ok::<_, tokio_postgres::Error>((client, messages, identity))
        };
        let session = tokio::select! {
            () = shutdown.triggered() => return,
            session = result => session,
        };
        match session {
            Ok((client, mut messages, identity)) => {
                if let Some(identified) = identified.take() {
                    let _ = identified.send(identity);
                }
                if std::mem::take(&mut said) {
                    tracing::info!("listening again");
                }
                backoff.reset();
                // Whatever was written during the gap sent its notification to nobody.
                wake.wake();
                loop {
                    tokio::select! {
                        () = shutdown.triggered() => return,
                        message = messages.recv() => match message {
                            Some(AsyncMessage::Notification(_)) => wake.wake(),
                            Some(_) => {}
                            None => break,
                        },
                    }
                }
                drop(client);
                tracing::warn!("the listening connection is lost: reconnecting, and polling meanwhile");
                said = true;
            }
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!("cannot listen, polling meanwhile: {}", chain(&error));
                }
            }
        }
        tokio::select! {
            () = shutdown.triggered() => return,
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

async fn identify(client: &Client, name: &str, patient: bool) -> Result<Identity, tokio_postgres::Error> {
    let deadline = tokio::time::Instant::now() + TWIN_PATIENCE;
    loop {
        if client.query_one(IDENTIFY, &[&name]).await?.get(0) {
            return Ok(Identity::Sole);
        }
        if !patient || tokio::time::Instant::now() >= deadline {
            return Ok(Identity::Shared);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
