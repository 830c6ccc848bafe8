//! The deployment of a run: a cluster, the real services, function instances, and a proxy on every way between them.
//! Faults strike here.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use job_testkit::wait::try_poll;
use job_testkit::{Cluster, ClusterOptions, Process, Program, Proxy, Signal, env};
use serde_json::json;

use super::checker::worker_id;
use super::database::{self, NAME};
use super::history::{Event, History};
use super::plan::{FUNCTIONS, Fault, Kind, LEASE, Link, SERVERS, Service, Target, WORKERS};
use super::recorder::Recorder;
use super::workload::task;
use toolkit::reaper::Reaper;

/// How long a service may take to stop in order; more than its own grace.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What services say once they are at work.
const LISTENING: &[&str] = &["worker looks for jobs", "callback server listens", "scheduler looks for schedules"];

/// How long an accepted job waits for its callback.
const CALLBACK_TIMEOUT: &str = "10s";
/// When a lock no longer counts, whoever has it (JOBS_JOB_EXPIRY): longer than any run.
pub(crate) const EXPIRY: Duration = Duration::from_secs(3600);
/// Callbacks are signed.
const SECRET: &str = "the secret of a chaos run";

/// A port for a process that is killed and comes back. It is below those that systems give to connections, one of which
/// could have it meanwhile.
fn own_port(taken: &BTreeMap<Service, u16>) -> Result<u16> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    let mut tries = (0..1000).map(|_| fastrand::u16(10_000..30_000));
    tries.find(|port| !taken.values().any(|other| other == port) && is_free(port)).context("no free port")
}

/// Everything that runs.
pub(crate) struct Deployment {
    cluster: Cluster,
    history: History,
    recorder: Recorder,
    links: BTreeMap<Link, Proxy>,
    ports: BTreeMap<Service, u16>,
    processes: BTreeMap<Service, Process>,
    /// What processes of the past wrote.
    logs: Vec<(Service, Vec<String>)>,
    reaper: Option<Reaper>,
}

impl Deployment {
    /// Starts everything.
    pub(crate) async fn start(history: History) -> Result<Self> {
        let directory = env::target_dir().join("chaos-postgres");
        let mut cluster = Cluster::start(&directory, ClusterOptions { durable: false, max_connections: 100 }).await?;
        let own = cluster.url(NAME);
        database::prepare(&cluster.url("postgres"), &own).await?;
        cluster.restart().await?;
        let mut ports = BTreeMap::new();
        let mut targets = BTreeMap::from([(Link::Producers, cluster.port())]);
        for service in services() {
            match service {
                Service::Function(index) => {
                    ports.insert(service, own_port(&ports)?);
                    targets.insert(Link::Function(index), ports[&service]);
                }
                Service::Server(index) => {
                    ports.insert(service, own_port(&ports)?);
                    targets.insert(Link::Callback(index), ports[&service]);
                    targets.insert(Link::Database(service), cluster.port());
                }
                Service::Worker(_) | Service::Scheduler => {
                    targets.insert(Link::Database(service), cluster.port());
                }
            }
        }
        let mut links = BTreeMap::new();
        for (link, target) in targets {
            links.insert(link, Proxy::start(target).await?);
        }
        let recorder = Recorder::start(history.clone()).await?;
        let (processes, logs, reaper) = (BTreeMap::new(), Vec::new(), None);
        let mut deployment = Self { cluster, history, recorder, links, ports, processes, logs, reaper };
        // Those that others call first.
        for service in services() {
            deployment.spawn(service)?;
        }
        deployment.start_reaper()?;
        Ok(deployment)
    }

    /// Straight to the database.
    pub(crate) fn url(&self) -> String {
        self.cluster.url(NAME)
    }

    /// To the database as the producers reach it.
    pub(crate) fn producers_url(&self) -> Result<String> {
        Ok(format!("postgres://postgres@127.0.0.1:{}/{NAME}", self.link(Link::Producers)?.port()))
    }

    fn link(&self, link: Link) -> Result<&Proxy> {
        self.links.get(&link).with_context(|| format!("no proxy for {link}"))
    }

    fn spawn(&mut self, service: Service) -> Result<()> {
        let program = self.program(service)?;
        let process = program.try_spawn().with_context(|| format!("cannot start {service}"))?;
        if let Some(old) = self.processes.insert(service, process) {
            self.logs.push((service, old.lines()));
        }
        Ok(())
    }

    fn program(&self, service: Service) -> Result<Program> {
        let local = |port: u16| format!("http://127.0.0.1:{port}");
        let database = |program: Program| -> Result<Program> {
            let port = self.link(Link::Database(service))?.port().to_string();
            let variables = [("PGHOST", "127.0.0.1"), ("PGPORT", &port), ("PGUSER", "postgres"), ("PGDATABASE", NAME)];
            let seconds = |duration: Duration| format!("{}s", duration.as_secs());
            Ok(program
                .envs(variables)
                .env("JOBS_POLL_INTERVAL", "1s")
                .env("JOBS_LEASE", seconds(LEASE))
                .env("JOBS_CALLBACK_SECRET", SECRET)
                .env("JOBS_CALLBACK_TIMEOUT", CALLBACK_TIMEOUT)
                .env("JOBS_DISPATCH_TIMEOUT", "8s")
                .env("JOBS_JOB_EXPIRY", seconds(EXPIRY))
                .env("JOBS_SHUTDOWN_GRACE", "15s"))
        };
        Ok(match service {
            Service::Worker(index) => {
                let mut tasks = BTreeMap::new();
                for function in 1..=FUNCTIONS {
                    tasks.insert(task(function), local(self.link(Link::Function(function))?.port()));
                }
                let callback = self.link(Link::Callback(index))?.port();
                database(Program::named("job-worker"))?
                    .env("HOSTNAME", worker_id(index))
                    .env("INTERNAL_JOBS_CALLBACK_URL", format!("{}/callback", local(callback)))
                    .env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", json!(tasks).to_string())
            }
            Service::Server(_) => database(Program::named("job-server"))?
                .env("INTERNAL_JOBS_CALLBACK_PORT", self.ports[&service].to_string()),
            Service::Scheduler => database(Program::named("job-scheduler"))?.env("HOSTNAME", "chaos-scheduler"),
            Service::Function(index) => {
                let (port, recorder) = (self.ports[&service], self.recorder.port);
                let arguments = format!("function --index {index} --port {port} --recorder {recorder}");
                let program = Program::at(this_program()?);
                let program = arguments.split(' ').fold(program, |program, argument| program.arg(argument));
                if index == FUNCTIONS { program.arg("--sdk") } else { program }
            }
        })
    }

    /// The processes of now end with this one, however it ends.
    fn start_reaper(&mut self) -> Result<()> {
        let pids: Vec<u32> = self.processes.values().map(Process::pid).collect();
        self.reaper = Some(Reaper::start(Some(&self.cluster.pid_file()), &pids)?);
        Ok(())
    }

    fn process(&mut self, service: Service) -> Result<&mut Process> {
        let process = self.processes.get_mut(&service).with_context(|| format!("{service} was never started"))?;
        if !process.is_running() {
            bail!("{service} has ended by itself; it wrote last:\n{}", last_lines(process, 15));
        }
        Ok(process)
    }

    /// An error when a process has ended that no fault has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        for service in services() {
            self.process(service)?;
        }
        Ok(())
    }

    /// A fault strikes. What ends by itself has ended when this returns.
    pub(crate) async fn begin(&mut self, number: usize, fault: &Fault) -> Result<()> {
        let Fault { target, kind, .. } = *fault;
        self.history.add(Event::FaultBegan { fault: number, target, kind });
        match (target, kind) {
            (Target::Service(service), Kind::Kill) => {
                let process = self.process(service)?;
                process.signal(Signal::Kill);
                process.try_exit(KILL_LIMIT).await.context("a killed process does not end")?;
            }
            (Target::Service(service), Kind::Halt) => self.process(service)?.signal(Signal::Stop),
            (Target::Service(Service::Function(index)), Kind::Down) => self.recorder.set_down(index, true),
            (Target::Service(service), _) => {
                self.stop(service).await?;
                self.spawn(service)?;
                self.start_reaper()?;
            }
            (Target::Postgres, Kind::Kill) => self.cluster.kill().await?,
            (Target::Postgres, _) => self.cluster.stop().await?,
            (Target::Link(link), Kind::Blackhole) => self.link(link)?.blackhole(),
            (Target::Link(link), Kind::Delay(by) | Kind::Lose(by)) => self.link(link)?.delay(by),
            (Target::Link(link), _) => self.link(link)?.cut(),
        }
        if fault.lasts.is_zero() && target != Target::Postgres {
            self.history.add(Event::FaultEnded { fault: number });
        }
        Ok(())
    }

    /// A fault that lasts ends.
    pub(crate) async fn end(&mut self, number: usize, fault: &Fault) -> Result<()> {
        match (fault.target, fault.kind) {
            (Target::Service(service), Kind::Halt) => self.process(service)?.signal(Signal::Continue),
            (Target::Service(Service::Function(index)), Kind::Down) => self.recorder.set_down(index, false),
            (Target::Service(service), _) => {
                self.spawn(service)?;
                self.start_reaper()?;
            }
            (Target::Postgres, _) => self.cluster.start_again().await?,
            (Target::Link(link), kind) => {
                if matches!(kind, Kind::Lose(_)) {
                    self.link(link)?.cut();
                }
                self.link(link)?.restore();
            }
        }
        self.history.add(Event::FaultEnded { fault: number });
        Ok(())
    }

    /// Stops a service in order.
    async fn stop(&mut self, service: Service) -> Result<()> {
        let worker = match service {
            Service::Worker(index) => Some(worker_id(index)),
            _ => None,
        };
        let history = self.history.clone();
        let process = self.process(service)?;
        // A process that has just been started does not hear the signal yet.
        let hears =
            async || process.lines().iter().any(|line| LISTENING.iter().any(|said| line.contains(said))).then_some(());
        if try_poll(KILL_LIMIT, hears).await.is_err() {
            bail!("{service} does not start; it wrote last:\n{}", last_lines(process, 15));
        }
        if let Some(worker) = worker.clone() {
            history.add(Event::StopAsked { worker });
        }
        process.signal(Signal::Term);
        let status = process.try_exit(STOP_LIMIT).await;
        let status =
            status.with_context(|| format!("{service} does not stop; it wrote last:\n{}", last_lines(process, 15)))?;
        if let Some(worker) = worker {
            history.add(Event::StopDone { worker, code: status.code() });
        }
        Ok(())
    }

    /// Stops all services, workers first, so that nothing writes any more.
    pub(crate) async fn stop_services(&mut self) -> Result<()> {
        for service in services().into_iter().rev() {
            match service {
                // It has nothing to put in order.
                Service::Function(_) => self.process(service)?.stop(KILL_LIMIT).await,
                _ => self.stop(service).await?,
            }
        }
        Ok(())
    }

    /// Makes the database readable again when a run was given up in the middle of a fault.
    pub(crate) async fn mend(&mut self) -> Result<()> {
        match database::connect(&self.url()).await {
            Ok(_) => Ok(()),
            Err(_) => self.cluster.start_again().await,
        }
    }

    /// What all processes wrote, those of the past first.
    pub(crate) fn logs(&self) -> String {
        let now = self.processes.iter().map(|(service, process)| (*service, process.lines()));
        let mut text = String::new();
        for (service, lines) in self.logs.iter().cloned().chain(now) {
            text.push_str(&format!("=== {service}\n{}\n", lines.join("\n")));
        }
        text
    }
}

/// Every service, in the order of starting: those that others call come first.
fn services() -> Vec<Service> {
    let functions = (1..=FUNCTIONS).map(Service::Function);
    let servers = (1..=SERVERS).map(Service::Server);
    functions.chain(servers).chain([Service::Scheduler]).chain((1..=WORKERS).map(Service::Worker)).collect()
}

fn last_lines(process: &Process, count: usize) -> String {
    let lines = process.lines();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The file of this program. cargo may have built it anew since it was started, for another set of features.
fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe()?;
    Ok(match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(built_anew) => PathBuf::from(built_anew),
        None => path,
    })
}
