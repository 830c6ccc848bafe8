//! Listen: one connection that waits for notifications, reconnects by itself, and holds a process's identity.
//!
//! Behind a pooler in transaction mode there is no session to do so in. Then the listener does not listen, its owner
//! polls, and the identity is unknown; unless JOBS_LISTEN_URL leads past the pooler.
//!
//! The connection says nothing while all is well, so it cannot know that nobody is there any more. The kernel's
//! keepalive finds that out where the other side's kernel has gone (see `pool.rs`); where something in between keeps up
//! appearances, the first statement of the pool that gets no answer makes the listener ask as well.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::connection::Db;
use crate::connection::connect::Connector;
use crate::error::DbError;
use crate::jobs::CANCEL_CHANNEL;
use crate::jobs::heartbeat::{Heartbeat, Instance, Running};
use crate::listener::notify::{Registrar, WaiterState};
use job_utils::backoff::Backoff;
use job_utils::error::chain;

/// Which database of which server a session is in: one that was restarted counts as another.
const WHERE: &str = "SELECT current_database()::text || ' of the server started at ' || \
                     to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')";

/// A session lock under the hash of a name, shared by all that go by it: it ends with the connection, however the
/// process ends.
const TAKE: &str = "SELECT pg_advisory_lock_shared(hashtextextended($1::text, 0::bigint))";

/// The instance's own lock, by which others see that it lives.
const TAKE_INSTANCE: &str = "SELECT pg_advisory_lock_shared(@internal@.instance_lock($1))";

/// Whether nobody else holds the lock: a session's own lock does not stand in its way. One statement, so that a process
/// that is halted in between cannot keep others out.
const ALONE: &str = "SELECT CASE WHEN pg_try_advisory_lock(hashtextextended($1::text, 0::bigint)) \
                     THEN pg_advisory_unlock(hashtextextended($1::text, 0::bigint)) ELSE false END";

/// How long a start waits for the session of a predecessor with the same id to end. Postgres notices a killed process
/// at once; a live process with the same id stays.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer about the identity may take before it counts as unknown.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether this is no primary.
const READ_ONLY: &str = "SELECT current_setting('transaction_read_only') = 'on'";

/// How long that answer may take, or the connection counts as lost.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// No other live session has the id: whatever else is held under it in the database was left behind.
    Sole,
    /// Another live session has the id.
    Shared,
    /// The database does not say: there may be another session.
    Unknown,
}

/// What the connection is asked, and who waits for the answer.
enum Question {
    Identity(oneshot::Sender<Identity>),
    Register(oneshot::Sender<WaiterState>),
    Unregister,
    Heartbeat(Arc<str>, Arc<Instance>, Running, oneshot::Sender<Heartbeat>),
}

/// A listening connection, and the id that it holds. Clones share both, which end with the last of them.
#[derive(Clone)]
pub struct Listener {
    /// Wakes after each notification, and once after each reconnection.
    pub wake: Wake,
    /// The same for notifications that attempts were cancelled; those do not wake the other.
    pub cancelled: Wake,
    /// Whether the id was free when the process came. Others may have come since: see [`Listener::identity`].
    pub identity: Identity,
    listening: Arc<AtomicBool>,
    /// The connection was lost and is back.
    gap: Arc<AtomicBool>,
    questions: mpsc::Sender<Question>,
    /// What holds the connection. Ended with the last clone, however its owner ends: nobody else could end the session,
    /// which would keep the id from whoever comes next.
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Listener {
    /// Connects, listens on `channels` and takes the name `kind` + `id`. Register first, then claim: whatever is
    /// written from now on wakes, unless the listener does not listen. With an `instance` it also holds that one's
    /// lock. Dropped before that, it ends.
    pub async fn start(
        db: &Db,
        channels: &'static [&'static str],
        kind: &'static str,
        id: &str,
        instance: Option<Uuid>,
    ) -> Self {
        let (wake, cancelled) = (Wake::default(), Wake::default());
        let (identified, identity) = oneshot::channel();
        let (questions, asked) = mpsc::channel(1);
        let name = format!("{}.{kind}:{id}", db.schema().as_str());
        let listening = Arc::new(AtomicBool::new(true));
        let gap = Arc::<AtomicBool>::default();
        let mut task = ListenerTask {
            db: db.clone(),
            channels,
            name,
            instance,
            wake: wake.clone(),
            cancelled: cancelled.clone(),
            listening: listening.clone(),
            gap: gap.clone(),
            asked,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(async move { task.listen(identified).await }));
        // It says so before anything else, and does not end by itself.
        let identity = identity.await.unwrap_or(Identity::Unknown);
        Self { wake, cancelled, identity, listening, gap, questions, _task: Arc::new(task) }
    }

    /// Whether notifications can wake its owner. While they cannot, the owner polls often, and the identity is unknown.
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// Whether the connection was lost and is back, since the last call. The server may be another one now, or have
    /// crashed: what it knows may be older than what it has said.
    pub fn take_gap(&self) -> bool {
        self.gap.swap(false, Ordering::Relaxed)
    }

    /// Whether this process is the only live one under its id now.
    pub async fn identity(&self) -> Identity {
        let (question, answer) = oneshot::channel();
        self.ask(Question::Identity(question), answer, ANSWER_TIMEOUT).await.unwrap_or(Identity::Unknown)
    }

    /// Registers this connection as a waiter, before its owner goes to sleep: from then on, writes wake it also where
    /// they notify on demand only. Again and again is fine; one round trip at most, none while registered.
    pub async fn register_waiter(&self) -> WaiterState {
        let (question, answer) = oneshot::channel();
        self.ask(Question::Register(question), answer, ANSWER_TIMEOUT).await.unwrap_or(WaiterState::Unregistered)
    }

    /// Sends a heartbeat on this connection; None when it did not get through.
    pub(crate) async fn heartbeat(
        &self,
        worker_id: Arc<str>,
        instance: Arc<Instance>,
        running: Running,
    ) -> Option<Heartbeat> {
        let limit = instance.heartbeat_timeout();
        let (question, answer) = oneshot::channel();
        self.ask(Question::Heartbeat(worker_id, instance, running, question), answer, limit).await
    }

    /// Ends the registration, when there is so much to do that being woken is of no use. Nothing happens when there is
    /// none; without this call, it stays as long as the connection.
    pub async fn unregister_waiter(&self) {
        // The task lives as long as this.
        let _ = self.questions.send(Question::Unregister).await;
    }

    async fn ask<T>(&self, question: Question, answer: oneshot::Receiver<T>, limit: Duration) -> Option<T> {
        let asked = async {
            self.questions.send(question).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(limit, asked).await.ok().flatten()
    }
}

/// Why a listening connection is over.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// It is broken, or leads to a server that is no primary.
    Lost,
    /// The last listener has been dropped, as at every stop.
    Unowned,
}

/// What holds the connection.
struct ListenerTask {
    db: Db,
    channels: &'static [&'static str],
    name: String,
    instance: Option<Uuid>,
    wake: Wake,
    cancelled: Wake,
    listening: Arc<AtomicBool>,
    gap: Arc<AtomicBool>,
    asked: mpsc::Receiver<Question>,
}

impl ListenerTask {
    async fn listen(&mut self, identified: oneshot::Sender<Identity>) {
        let mut identified = Some(identified);
        let Some(connector) = self.db.listening().cloned() else {
            tracing::info!("JOBS_LISTEN is off: polling");
            self.stop_listening(&mut identified);
            match decline(&mut self.asked).await {}
        };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut logged = false;
        let limit = connector.limit() + self.db.statement_timeout() + PREDECESSOR_TIMEOUT;
        loop {
            let wait_for_predecessor = identified.is_some();
            let connecting =
                connect(&self.db, &connector, self.channels, &self.name, self.instance, wait_for_predecessor);
            let session = tokio::select! {
                session = tokio::time::timeout(limit, connecting) => session,
                never = decline(&mut self.asked) => match never {},
            };
            let session = session.unwrap_or_else(|_| Err(DbError::Timeout { operation: "listen", limit }.into()));
            match session {
                Ok((client, messages, identity)) => {
                    self.listening.store(true, Ordering::Relaxed);
                    match identified.take() {
                        Some(identified) => drop(identified.send(identity)),
                        None => self.gap.store(true, Ordering::Relaxed),
                    }
                    if std::mem::take(&mut logged) {
                        tracing::info!("listening again");
                    }
                    backoff.reset();
                    // Whatever was written during the gap sent its notification to nobody.
                    self.wake.wake();
                    self.cancelled.wake();
                    if self.serve(&client, messages).await == Ended::Unowned {
                        return;
                    }
                    tracing::warn!("the listening connection is lost: reconnecting, and polling meanwhile");
                    logged = true;
                    // The rest of the database may well be there.
                    if self.db.listens_elsewhere() {
                        self.stop_listening(&mut identified);
                    }
                }
                Err(CannotListen::Pooled) => {
                    tracing::warn!(
                        "polling instead of listening: a pooler is in between at {}. Set JOBS_LISTEN_URL to a connection \
                         past it, or JOBS_LISTEN=off to say that this is as intended",
                        connector.place()
                    );
                    self.stop_listening(&mut identified);
                    match decline(&mut self.asked).await {}
                }
                Err(error) => {
                    if !std::mem::replace(&mut logged, true) {
                        tracing::warn!("cannot listen, polling meanwhile: {}", chain(&error));
                    }
                    // Idle connections of the pool may be what is in the way. It makes new ones when it needs them.
                    if error.is_full() {
                        self.db.drop_idle();
                    }
                    if self.db.listens_elsewhere() {
                        self.stop_listening(&mut identified);
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                never = decline(&mut self.asked) => match never {},
            }
        }
    }

    /// Nothing can be listened to: whoever waits for the start goes on without, and whoever sleeps polls often from now
    /// on.
    fn stop_listening(&self, identified: &mut Option<oneshot::Sender<Identity>>) {
        if self.listening.swap(false, Ordering::Relaxed) {
            self.wake.wake();
            self.cancelled.wake();
        }
        if let Some(identified) = identified.take() {
            let _ = identified.send(Identity::Unknown);
        }
    }

    /// Passes notifications on and answers questions until the connection is lost, or nobody is left to be told.
    async fn serve(&mut self, client: &Client, mut messages: mpsc::UnboundedReceiver<AsyncMessage>) -> Ended {
        let mut registrar = Registrar::new(self.db.schema());
        let mut connection_alarm = self.db.connection_alarm();
        loop {
            let answered = tokio::select! {
                message = messages.recv() => match message {
                    Some(AsyncMessage::Notification(notification)) => {
                        let cancels = notification.channel() == CANCEL_CHANNEL;
                        if cancels { self.cancelled.wake() } else { self.wake.wake() }
                        true
                    }
                    Some(_) => true,
                    None => return Ended::Lost,
                },
                question = self.asked.recv() => match question {
                    Some(question) => self.answer(client, &mut registrar, question).await,
                    None => return Ended::Unowned,
                },
                // The database's handle is ours: it does not end before.
                _ = connection_alarm.changed() => false,
            };
            if !answered && !is_primary(client, PROOF_TIMEOUT.min(self.db.statement_timeout())).await {
                return Ended::Lost;
            }
            connection_alarm.mark_unchanged();
        }
    }

    /// Answers a question; false when no answer could be had in time.
    async fn answer(&self, client: &Client, registrar: &mut Registrar, question: Question) -> bool {
        // Whoever asked may have stopped waiting.
        match question {
            Question::Identity(question) => {
                let answer = tokio::time::timeout(ANSWER_TIMEOUT, identity(client, &self.name)).await;
                let answered = answer.is_ok();
                let _ = question.send(answer.ok().and_then(Result::ok).unwrap_or(Identity::Unknown));
                answered
            }
            Question::Register(question) => {
                let answer = tokio::time::timeout(ANSWER_TIMEOUT, registrar.register(client)).await;
                let answered = answer.is_ok();
                let _ = question.send(answer.unwrap_or(WaiterState::Unregistered));
                answered
            }
            Question::Unregister => tokio::time::timeout(ANSWER_TIMEOUT, registrar.unregister(client)).await.is_ok(),
            Question::Heartbeat(worker_id, instance, running, question) => {
                let beat = self.db.heartbeat_by(client, &worker_id, &instance, &running);
                let answer = tokio::time::timeout(instance.heartbeat_timeout(), beat).await;
                let answered = answer.is_ok();
                if let Ok(Ok(beat)) = answer {
                    let _ = question.send(beat);
                }
                answered
            }
        }
    }
}

/// Whether there is a server that answers, and takes writes: a primary that is none any more may go on to listen.
async fn is_primary(client: &Client, limit: Duration) -> bool {
    let asked = async { client.query_typed_one(READ_ONLY, &[]).await?.try_get::<_, bool>(0) };
    matches!(tokio::time::timeout(limit, asked).await, Ok(Ok(false)))
}

type ListeningSession = (Client, mpsc::UnboundedReceiver<AsyncMessage>, Identity);

/// Why there is no listening session.
#[derive(Debug, thiserror::Error)]
enum CannotListen {
    /// A pooler gives every transaction another session.
    #[error("a pooler is in between")]
    Pooled,
    /// JOBS_LISTEN_URL leads elsewhere.
    #[error("JOBS_LISTEN_URL leads to {there}, and not to {here}")]
    Elsewhere { here: String, there: String },
    /// The usual connection is needed to compare.
    #[error(transparent)]
    Db(#[from] DbError),
    /// No connection, or a statement failed.
    #[error("the listening connection failed")]
    Sql(#[from] tokio_postgres::Error),
}

impl CannotListen {
    /// Whether the server, the database or our role has no connection left.
    fn is_full(&self) -> bool {
        matches!(self, Self::Sql(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS))
    }
}

/// A session that listens and goes by the name.
async fn connect(
    db: &Db,
    connector: &Connector,
    channels: &[&str],
    name: &str,
    instance: Option<Uuid>,
    wait_for_predecessor: bool,
) -> Result<ListeningSession, CannotListen> {
    let (client, messages) = connector.dedicated().await?;
    if connector.is_pooled() {
        return Err(CannotListen::Pooled);
    }
    if db.listens_elsewhere() {
        // A lock in another database would keep nobody out.
        let there: String = client.query_typed_one(WHERE, &[]).await?.try_get(0)?;
        let usual = db.operation().await?;
        let here: String = usual.run("listen", usual.query_typed_one(WHERE, &[])).await?.try_get(0)?;
        if here != there {
            return Err(CannotListen::Elsewhere { here, there });
        }
    }
    for channel in channels {
        client.batch_execute(&format!("LISTEN \"{channel}\"")).await?;
    }
    client.execute(TAKE, &[&name]).await?;
    if let Some(instance) = instance {
        client.execute(&db.sql(TAKE_INSTANCE), &[&instance]).await?;
    }
    let deadline = tokio::time::Instant::now() + PREDECESSOR_TIMEOUT;
    loop {
        let identity = identity(&client, name).await?;
        if !wait_for_predecessor || identity == Identity::Sole || tokio::time::Instant::now() >= deadline {
            return Ok((client, messages, identity));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn identity(client: &Client, name: &str) -> Result<Identity, tokio_postgres::Error> {
    let alone: bool = client.query_one(ALONE, &[&name]).await?.get(0);
    Ok(if alone { Identity::Sole } else { Identity::Shared })
}

/// Answers that nothing is known, for as long as there is no connection.
async fn decline(asked: &mut mpsc::Receiver<Question>) -> Infallible {
    while let Some(question) = asked.recv().await {
        match question {
            Question::Identity(question) => drop(question.send(Identity::Unknown)),
            Question::Register(question) => drop(question.send(WaiterState::Unregistered)),
            // Dropped, it has no answer.
            Question::Unregister | Question::Heartbeat(..) => {}
        }
    }
    std::future::pending().await
}
