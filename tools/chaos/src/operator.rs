//! The operator: makes the calls of the plan, straight to the database.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use job_testkit::wait::work_for;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

use super::database::connect;
use super::history::{Answer, Event, History};
use super::operations::{Act, Call, Gate, GateKind, Limit};

/// Between two tries while Postgres is away.
const PAUSE: Duration = Duration::from_millis(100);
/// No call takes longer: none waits for a row that somebody holds.
const LIMIT: Duration = Duration::from_secs(10);

/// Jobs, whatever they do: which ones follows from a number.
const SOME_JOBS: &str = "ARRAY(SELECT id FROM app_jobs.jobs ORDER BY hashint8extended(id, $1) LIMIT $2::int8)";

/// The same, but half of them jobs that run where there are any.
const RUNNING_FIRST: &str = "ARRAY((SELECT id FROM app_jobs.jobs WHERE locked_at IS NOT NULL LIMIT $2::int8 / 2) UNION \
           (SELECT id FROM app_jobs.jobs ORDER BY hashint8extended(id, $1) LIMIT $2::int8 / 2))";

/// Who makes the calls of a run.
#[derive(Clone)]
pub(crate) struct Operator {
    pub(crate) url: String,
    pub(crate) calls: Vec<Call>,
    pub(crate) history: History,
}

impl Operator {
    /// Makes every call in its time, or as soon as the one before has returned.
    pub(crate) async fn run(self) -> Result<()> {
        let start = Instant::now();
        let mut client = None;
        let mut holders = JoinSet::new();
        for (number, call) in self.calls.iter().enumerate() {
            work_for(call.at.saturating_sub(start.elapsed())).await;
            match call.act {
                Act::HoldSnapshot { lasts } => _ = holders.spawn(self.clone().hold(number, call.act.clone(), lasts)),
                _ => self.make(&mut client, number, &call.act).await?,
            }
        }
        while let Some(ended) = holders.join_next().await {
            ended?;
        }
        Ok(())
    }

    /// What is set for gates is tried until it is known to be so; a call on many jobs is made once.
    async fn make(&self, client: &mut Option<Client>, number: usize, act: &Act) -> Result<()> {
        loop {
            let open = match client {
                Some(open) => open,
                None => match connect(&self.url).await {
                    Ok(open) => client.insert(open),
                    Err(_) => {
                        work_for(PAUSE).await;
                        continue;
                    }
                },
            };
            self.history.add(Event::CallBegan { call: number, act: act.clone() });
            let answer = match timeout(LIMIT, call(open, number, act)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => match error.as_db_error() {
                    // A server that ends says so, and closes the connection.
                    Some(refusal) if !open.is_closed() && refusal.severity() == "ERROR" => {
                        Answer::Refused(refusal.to_string())
                    }
                    _ => Answer::Unknown,
                },
                Err(_) => bail!("call {number} ({act}) has not returned for {LIMIT:?}"),
            };
            if answer == Answer::Unknown {
                *client = None;
            }
            let again = answer == Answer::Unknown && act.sets_gate();
            self.history.add(Event::CallEnded { call: number, answer });
            if !again {
                return Ok(());
            }
        }
    }

    /// Keeps a snapshot open, and takes another when Postgres was away.
    async fn hold(self, number: usize, act: Act, lasts: Duration) {
        let end = Instant::now() + lasts;
        while Instant::now() < end {
            let Ok(client) = connect(&self.url).await else {
                work_for(PAUSE).await;
                continue;
            };
            self.history.add(Event::CallBegan { call: number, act: act.clone() });
            let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM app_jobs.jobs";
            let taken = client.batch_execute(snapshot).await;
            while taken.is_ok() && Instant::now() < end && !client.is_closed() {
                work_for(PAUSE.min(end.saturating_duration_since(Instant::now()))).await;
            }
            let answer = match client.batch_execute("COMMIT").await {
                Ok(()) => Answer::Done,
                Err(_) => Answer::Unknown,
            };
            self.history.add(Event::CallEnded { call: number, answer });
        }
    }
}

async fn call(client: &Client, number: usize, act: &Act) -> Result<Answer, tokio_postgres::Error> {
    // The audit writes it beside each change.
    client.query_one("SELECT set_config('chaos.call', $1, false)", &[&number.to_string()]).await?;
    let micros = |duration: Duration| duration.as_micros() as f64;
    let sample = |jobs: u32| (i64::try_from(number).unwrap_or_default(), i64::from(jobs));
    let changed = match act {
        Act::SetLimit { gate, limit: Limit { max_running, rate } } => {
            let small = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
            let (starts, burst) = (rate.map(|rate| small(rate.starts)), rate.map(|rate| small(rate.burst)));
            let per = rate.map(|rate| micros(rate.per));
            let set = "SELECT app_jobs.set_limit($1, $2, max_running => $3::int, rate => $4::int, burst => $5::int, \
                       per => coalesce($6::float8 * interval '1 microsecond', interval '1 second'))";
            let (kind, name) = named(gate);
            client.query(set, &[&kind, &name, &max_running.map(small), &starts, &burst, &per]).await?;
            return Ok(Answer::Done);
        }
        Act::Pause { gate, lasts } => {
            let pause = "SELECT app_jobs.pause($1, $2, reason => 'chaos', \
                         until => clock_timestamp() + $3::float8 * interval '1 microsecond')";
            let (kind, name) = named(gate);
            client.query(pause, &[&kind, &name, &lasts.map(micros)]).await?;
            return Ok(Answer::Done);
        }
        Act::Resume { gate } => {
            let (kind, name) = named(gate);
            client.query("SELECT app_jobs.resume($1, $2)", &[&kind, &name]).await?;
            return Ok(Answer::Done);
        }
        Act::SetFair { on } => {
            client.query("SELECT app_jobs.set_fair('tenant', $1)", &[on]).await?;
            return Ok(Answer::Done);
        }
        // It is no call.
        Act::HoldSnapshot { .. } => return Ok(Answer::Done),
        Act::Reschedule { jobs, after, priority, attempts } => {
            let reschedule = format!(
                "SELECT id FROM app_jobs.reschedule_jobs({SOME_JOBS}, \
                 run_at => now() + $3::float8 * interval '1 microsecond', priority => $4::int, attempts => $5::int)"
            );
            let (salt, jobs) = sample(*jobs);
            client.query(&reschedule, &[&salt, &jobs, &micros(*after), priority, attempts]).await?
        }
        Act::Fail { jobs } => {
            let fail = format!("SELECT id FROM app_jobs.permanently_fail_jobs({SOME_JOBS}, 'failed by an operator')");
            let (salt, jobs) = sample(*jobs);
            client.query(&fail, &[&salt, &jobs]).await?
        }
        Act::Complete { jobs } => {
            let complete = format!("SELECT id FROM app_jobs.complete_jobs({SOME_JOBS})");
            let (salt, jobs) = sample(*jobs);
            client.query(&complete, &[&salt, &jobs]).await?
        }
        Act::Cancel { jobs } => {
            let cancel = format!("SELECT id FROM app_jobs.cancel_jobs({RUNNING_FIRST}, 'cancelled by an operator')");
            let (salt, jobs) = sample(*jobs);
            client.query(&cancel, &[&salt, &jobs]).await?
        }
    };
    Ok(Answer::Changed(changed.iter().map(|row| row.get(0)).collect::<BTreeSet<i64>>()))
}

/// Kind and name as the functions take them.
fn named(gate: &Gate) -> (&'static str, Option<&str>) {
    (gate.kind.name(), (gate.kind != GateKind::All).then_some(gate.name.as_str()))
}
