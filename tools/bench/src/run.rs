//! The runner: carries out scenarios, in turn over all programs, and keeps what they measured.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use job_testkit::process::Program as Child;
use serde_json::Value;

use super::http;
use super::plan::{Beside, Drain, Group, Rate, Scenario, Work};
use super::program::{Kind, Program, Programs, Reply};
use super::results::{Figures, Outcome, Results};
use super::schedules;
use super::server::Server;

/// How long a rival's drain may take. What it has done by then counts.
pub(super) const RIVAL_CAP: u64 = 20;
pub(super) const OUR_CAP: u64 = 120;
/// How long jobs are added at a rate.
const RATE_SECONDS: u64 = 4;

/// A run of the whole plan.
pub(super) struct Runner<'a> {
    pub(super) server: &'a Server,
    pub(super) programs: &'a Programs,
    pub(super) results: Results,
    /// Databases with rows that are not due, by program and number.
    filled: HashMap<(String, u64), String>,
    start: Instant,
    budget: Duration,
}

impl<'a> Runner<'a> {
    pub(super) fn new(server: &'a Server, programs: &'a Programs, budget: Duration) -> Self {
        let (filled, results) = (HashMap::new(), Results::default());
        Self { server, programs, results, filled, start: Instant::now(), budget }
    }

    pub(super) async fn group(&mut self, group: &Group) -> Result<()> {
        println!("\n{}", group.title);
        let reps = group.scenarios.iter().map(|scenario| scenario.reps).max().unwrap_or_default();
        for rep in 0..reps {
            for scenario in group.scenarios.iter().filter(|scenario| rep < scenario.reps) {
                for program in self.who(scenario) {
                    if program.kind == Kind::Rival && rep >= scenario.rival_reps {
                        continue;
                    }
                    self.once(scenario, &program, rep).await?;
                }
            }
        }
        for (_, database) in self.filled.drain() {
            self.server.drop_database(&database).await?;
        }
        Ok(())
    }

    fn who(&self, scenario: &Scenario) -> Vec<Program> {
        let all = [&self.programs.limits, &self.programs.ours].into_iter().chain(&self.programs.rivals);
        all.filter(|program| scenario.who.contains(&program.kind)).cloned().collect()
    }

    async fn once(&mut self, scenario: &Scenario, program: &Program, rep: u32) -> Result<()> {
        let last = self.results.last(scenario.name, &program.name);
        if last.is_some_and(|outcome| !matches!(outcome, Outcome::Measured { .. })) {
            return Ok(());
        }
        let elapsed = self.start.elapsed();
        let outcome = if rep > 0 && elapsed > self.budget {
            return Ok(());
        } else if elapsed > self.budget.mul_f64(1.1) {
            Outcome::NoTime
        } else {
            self.measure(scenario, program).await.unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")))
        };
        let shown = match &outcome {
            Outcome::Measured { figures, .. } => {
                let one =
                    |(name, value): (&&str, &f64)| format!("{name} {value:.*}", if *value < 100.0 { 2 } else { 0 });
                figures.iter().map(one).collect::<Vec<_>>().join(", ")
            }
            other => format!("{other:?}"),
        };
        let minutes = self.start.elapsed().as_secs_f64() / 60.0;
        if !matches!(outcome, Outcome::Unsupported) {
            println!("{minutes:5.1} min  {:22} {:20} {shown}", scenario.name, program.name);
        }
        self.results.add(scenario.name, &program.name, outcome);
        Ok(())
    }

    async fn measure(&mut self, scenario: &Scenario, program: &Program) -> Result<Outcome> {
        if !http::takes_part(scenario, program) {
            return Ok(Outcome::Unsupported);
        }
        let Some(database) = self.database(program, scenario.fill).await? else { return Ok(Outcome::Unsupported) };
        let result = self.work(scenario, program, &database).await;
        if scenario.fill == 0 {
            self.server.drop_database(&database).await?;
        }
        result
    }

    /// A database with the program's schema and, when asked for, rows that are not due.
    async fn database(&mut self, program: &Program, fill: u64) -> Result<Option<String>> {
        let key = (program.name.clone(), fill);
        if let Some(database) = self.filled.get(&key) {
            self.server.connect(database).await?.batch_execute("VACUUM").await?;
            return Ok(Some(database.clone()));
        }
        let database = self.server.create_database().await?;
        if let Reply::Unsupported = self.call(program, &database, &["setup"], &[]).await? {
            return Ok(None);
        }
        if fill > 0 {
            let numbers = [("--jobs", fill.to_string()), ("--clients", "2".to_owned())];
            let reply = self.call(program, &database, &["enqueue", "--mode", "bulk", "--future"], &numbers).await?;
            if let Reply::Unsupported = reply {
                self.server.drop_database(&database).await?;
                return Ok(None);
            }
            // What autovacuum and the checkpointer would do in time, done at once for everybody.
            let client = self.server.connect(&database).await?;
            client.batch_execute("VACUUM (ANALYZE)").await?;
            client.batch_execute("CHECKPOINT").await?;
            self.filled.insert(key, database.clone());
        }
        Ok(Some(database))
    }

    pub(super) async fn call(
        &self,
        program: &Program,
        database: &str,
        words: &[&str],
        values: &[(&str, String)],
    ) -> Result<Reply> {
        let mut arguments: Vec<String> = words.iter().map(ToString::to_string).collect();
        arguments.extend(["--url".to_owned(), self.server.url(database)]);
        for (flag, value) in values {
            arguments.extend([(*flag).to_owned(), value.clone()]);
        }
        program.call(&arguments).await
    }

    async fn work(&self, scenario: &Scenario, program: &Program, database: &str) -> Result<Outcome> {
        let jobs = if program.kind == Kind::Rival { scenario.rival_jobs } else { scenario.jobs };
        match scenario.work {
            Work::Add { .. } => self.add(scenario, program, database, jobs).await,
            Work::Drain(drain) => self.drain(drain, program, database, jobs).await,
            Work::Latency { rate } => {
                let (mut values, mut jobs) = (Vec::new(), jobs);
                let mut figures = Figures::new();
                if let Some(rate) = self.rate(rate, program) {
                    jobs = rate * RATE_SECONDS;
                    values.push(("--rate", rate.to_string()));
                    figures.insert("rate", rate as f64);
                }
                values.push(("--jobs", jobs.to_string()));
                let reply = self.call(program, database, &["latency"], &values).await?;
                let names = &[("p50_ms", "p50_ms"), ("p99_ms", "p99_ms"), ("after_commit_p50_ms", "after_ms")];
                Ok(outcome(reply, |answer| {
                    copy(answer, names, &mut figures);
                    figures
                }))
            }
            Work::Post { clients } => {
                let function = http::Function::start_fast(self.programs, "answer").await?;
                let values = [
                    ("--jobs", jobs.to_string()),
                    ("--clients", clients.to_string()),
                    ("--function-url", function.url.clone()),
                ];
                let reply = self.call(program, database, &["http"], &values).await?;
                Ok(outcome(reply, |answer| rate(answer, None)))
            }
            Work::HttpDrain { function } => http::drain(self, program, database, function, jobs).await,
            Work::HttpLatency { function } => http::latency(self, program, database, function, jobs).await,
            Work::Schedules(one) => schedules::measure(self, program, database, one, jobs).await,
            Work::Gate(gate) => gate.measure(self, program, database, jobs).await,
            Work::Idle => http::idle(self, database, scenario.jobs).await,
        }
    }

    fn rate(&self, rate: Rate, program: &Program) -> Option<u64> {
        match rate {
            Rate::OneByOne => None,
            Rate::PerSecond(rate) => Some(rate),
            Rate::Half => {
                let measured = self.results.median("single-always", &program.name, "per_s").unwrap_or(1_000.0);
                Some((measured / 2.0).round() as u64)
            }
        }
    }

    async fn add(&self, scenario: &Scenario, program: &Program, database: &str, jobs: u64) -> Result<Outcome> {
        let Work::Add { mode, clients, notify, beside } = scenario.work else { bail!("not to be added") };
        let mut values = vec![("--jobs", jobs.to_string()), ("--clients", clients.to_string())];
        match notify {
            // The setting is the database's, not a producer's.
            Some("demand") => {
                let client = self.server.connect(database).await?;
                let present = client.query_one("SELECT to_regproc('app_jobs.set_notify') IS NOT NULL", &[]).await?;
                if !present.get::<_, bool>(0) {
                    return Ok(Outcome::Unsupported);
                }
                client.execute("SELECT app_jobs.set_notify('on_demand')", &[]).await?;
            }
            Some(notify) => values.push(("--notify", notify.to_owned())),
            None => {}
        }
        let url = self.server.url(database);
        let mut beside = match beside {
            Beside::Nothing => None,
            Beside::BusyWorker => {
                let mut worker = self.child(program, &["busy", "--url", &url])?.try_spawn()?;
                worker.wait_for_line("busy", Duration::from_secs(30)).await;
                Some(worker)
            }
            Beside::Drain => {
                Some(self.child(program, &["drain", "--url", &url, "--jobs", &jobs.to_string()])?.try_spawn()?)
            }
        };
        let before = self.server.cpu_seconds();
        let reply = self.call(program, database, &["enqueue", "--mode", mode], &values).await?;
        let server = spent(before, self.server.cpu_seconds());
        if let Some(worker) = &mut beside {
            worker.stop(Duration::from_secs(10)).await;
        }
        Ok(outcome(reply, |answer| rate(answer, server)))
    }

    fn child(&self, program: &Program, arguments: &[&str]) -> Result<Child> {
        Ok(arguments.iter().fold(Child::at(program.path()?), |child, argument| child.arg(argument)))
    }

    async fn drain(&self, drain: Drain, program: &Program, database: &str, jobs: u64) -> Result<Outcome> {
        let Drain { workers, payload, queues, before, held, durable_claim } = drain;
        let cap = if program.kind == Kind::Rival { RIVAL_CAP } else { OUR_CAP };
        let cap = ("--cap-seconds", cap.to_string());
        let holder = self.server.connect(database).await?;
        if held {
            holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class").await?;
        }
        if before > 0 {
            // Each job leaves two: the row as it waited and the row as it ran.
            let count = ("--jobs", (before / 2).to_string());
            self.call(program, database, &["enqueue", "--mode", "bulk"], std::slice::from_ref(&count)).await?;
            self.server.connect(database).await?.batch_execute("ANALYZE").await?;
            self.call(program, database, &["drain"], &[count, ("--cap-seconds", "120".to_owned())]).await?;
        }
        let mut values = vec![("--jobs", jobs.to_string())];
        if payload > 0 {
            values.push(("--payload-bytes", payload.to_string()));
        }
        if queues > 0 {
            values.push(("--queues", queues.to_string()));
        }
        let added = match self.call(program, database, &["enqueue", "--mode", "bulk"], &values).await? {
            Reply::Done(answer) => rate(&answer, None).get("per_s").copied(),
            Reply::Unsupported => return Ok(Outcome::Unsupported),
        };
        // Autovacuum would do so in time; whose plans need it must not depend on when.
        self.server.connect(database).await?.batch_execute("ANALYZE").await?;
        let mut values = vec![("--jobs", jobs.to_string()), ("--workers", workers.to_string())];
        match program.kind {
            Kind::Limits if !durable_claim => values.push(("--durable-claim", "off".to_owned())),
            Kind::Limits => {}
            _ => values.push(cap),
        }
        let before = self.server.cpu_seconds();
        let reply = self.call(program, database, &["drain"], &values).await?;
        let server = spent(before, self.server.cpu_seconds());
        drop(holder);
        Ok(outcome(reply, |answer| {
            let mut figures = rate(answer, server);
            figures.extend(added.map(|added| ("add_per_s", added)));
            figures
        }))
    }
}

/// Turns an answer into figures.
pub(super) fn outcome(reply: Reply, read: impl FnOnce(&Value) -> Figures) -> Outcome {
    match reply {
        Reply::Unsupported => Outcome::Unsupported,
        Reply::Done(answer) => {
            let settings = answer["settings"].as_str().map(str::to_owned);
            Outcome::Measured { figures: read(&answer), settings }
        }
    }
}

/// Copies numbers of an answer under the names of figures.
pub(super) fn copy(answer: &Value, names: &[(&str, &'static str)], figures: &mut Figures) {
    figures.extend(names.iter().filter_map(|(from, to)| Some((*to, answer[*from].as_f64()?))));
}

/// Jobs a second and microseconds of CPU a job, of the client and (in seconds for all jobs) of the server.
pub(super) fn rate(answer: &Value, server: Option<f64>) -> Figures {
    let number = |name: &str| answer[name].as_f64();
    let (Some(jobs), Some(seconds)) = (number("jobs"), number("seconds")) else { return Figures::new() };
    let mut figures = Figures::from([("per_s", jobs / seconds)]);
    if jobs > 0.0 {
        figures.extend(number("client_cpu_seconds").map(|cpu| ("client_us", cpu * 1e6 / jobs)));
        figures.extend(server.map(|cpu| ("pg_us", cpu * 1e6 / jobs)));
    }
    figures
}

/// The difference of two readings.
pub(super) fn spent(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    Some(after? - before?)
}
