//! Service: the parts as values, put together by a builder.

use job_pg::Db;
use job_pg::migrate::migrate;
use job_scheduler::SchedulerConfig;
use job_server::ServerConfig;
use job_utils::config::ConfigError;
use job_utils::events::{Event, Events};
use job_utils::shutdown::Shutdown;
use job_worker::Worker;
use tokio::net::TcpListener;

use crate::error::ServiceError;
use crate::supervise::{Parts, Stopped, supervise};

/// Worker, callback server and scheduler, or some of them, in the process of an application.
///
/// ```no_run
/// # use serde::{Deserialize, Serialize};
/// use job_service::{Context, Db, SchedulerConfig, Service, Shutdown, Task, Worker};
///
/// #[derive(Serialize, Deserialize)]
/// struct Report {}
///
/// impl Task for Report {
///     const IDENTIFIER: &'static str = "report";
/// }
///
/// async fn report(_: Report, _: Context) {}
///
/// # async fn example(shutdown: Shutdown) -> Result<(), Box<dyn std::error::Error>> {
/// let db = Db::from_url("postgres://localhost/shop")?;
/// let worker = Worker::builder(db.clone()).task(report).build()?;
/// let service = Service::builder(db).migrate().worker(worker).scheduler(SchedulerConfig::default()).build();
/// service.run(shutdown).await?;
/// # Ok(())
/// # }
/// ```
///
/// It installs neither signal handlers nor a subscriber of logs, and two of them can run in one process. All that they
/// share is the limit of connections to their servers, as descriptors are the process's.
#[must_use = "it does nothing until it runs"]
pub struct Service {
    db: Db,
    events: Events,
    migrates: bool,
    worker: Option<Worker>,
    server: Option<Server>,
    scheduler: Option<SchedulerConfig>,
}

/// A callback server that is to be started.
struct Server {
    config: ServerConfig,
    /// None: on the port of its settings.
    listener: Option<TcpListener>,
}

/// A service that is being put together.
#[must_use = "build it"]
pub struct ServiceBuilder {
    service: Service,
}

impl Service {
    /// Begins a service on a pool. The worker has its own, which may be the same.
    pub fn builder(db: Db) -> ServiceBuilder {
        let events = Events::default();
        ServiceBuilder { service: Self { db, events, migrates: false, worker: None, server: None, scheduler: None } }
    }

    /// Runs the parts until told to stop, or until one of them fails. Without any part it waits to be told.
    ///
    /// A stop ends the scheduler and the worker first and the callback server last, so that functions can still report
    /// the jobs they have accepted. Dropping the future is the hard way, as safe as a crash.
    ///
    /// # Errors
    /// A setting cannot be used, the migration fails, the port is taken, or a part fails; the others have been stopped
    /// in order.
    pub async fn run(self, shutdown: Shutdown) -> Result<Stopped, ServiceError> {
        let Self { db, events, migrates, worker, server, scheduler } = self;
        let worker = worker.map(|worker| worker.also_telling(&events));
        let scheduling = scheduler.iter().flat_map(SchedulerConfig::problems);
        let serving = server.iter().flat_map(|server| server.config.problems());
        ConfigError::none_of(scheduling.chain(serving))?;
        if migrates {
            if !db.wait_until_reachable(&shutdown).await? {
                return Ok(Stopped::default());
            }
            let _what_it_did = migrate(&db).await?;
        }
        let server = match server {
            None => None,
            Some(Server { config, listener: Some(listener) }) => Some((config, listener)),
            Some(Server { config, listener: None }) => {
                let listener = job_server::bind(config.port).await?;
                Some((config, listener))
            }
        };
        supervise(Parts { db, events, worker, server, scheduler }, shutdown).await
    }
}

impl ServiceBuilder {
    /// Makes the jobs schema first, or brings it up to date. That needs the rights of its owner.
    pub fn migrate(mut self) -> Self {
        self.service.migrates = true;
        self
    }

    /// With a worker. There is one: another takes its place.
    pub fn worker(mut self, worker: Worker) -> Self {
        self.service.worker = Some(worker);
        self
    }

    /// With a callback server on the port of its settings. Without HTTP functions nobody needs one.
    pub fn server(mut self, config: ServerConfig) -> Self {
        self.service.server = Some(Server { config, listener: None });
        self
    }

    /// With a callback server on a socket that is bound already.
    pub fn server_on(mut self, config: ServerConfig, listener: TcpListener) -> Self {
        self.service.server = Some(Server { config, listener: Some(listener) });
        self
    }

    /// With a scheduler.
    pub fn scheduler(mut self, config: SchedulerConfig) -> Self {
        self.service.scheduler = Some(config);
        self
    }

    /// Tells a listener what happens to jobs, attempts, callbacks and schedules in all parts: see [`Event`]. It is
    /// called where it happens, and must be quick. The log has its lines all the same.
    ///
    /// ```
    /// # use job_service::{Db, Event, Service};
    /// # fn example(db: Db) {
    /// let service = Service::builder(db).on_event(|event| match event {
    ///     Event::JobFailed { attempt, error } => eprintln!("job {} has failed for good: {error}", attempt.job_id),
    ///     _ => {}
    /// });
    /// # }
    /// ```
    pub fn on_event(mut self, listener: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.service.events = self.service.events.with(listener);
        self
    }

    /// The service.
    pub fn build(self) -> Service {
        self.service
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("worker", &self.worker)
            .field("server", &self.server.is_some())
            .field("scheduler", &self.scheduler.is_some())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ServiceBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.service.fmt(f)
    }
}
