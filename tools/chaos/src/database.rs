//! The harness's own way to Postgres, past all proxies: the schema, the audit, the schedules, the end.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use job_pg::config::PostgresConfig;
use job_pg::{Db, migrate};
use job_utils::config::Reader;
use serde_json::Value;
use tokio_postgres::{Client, NoTls};

use super::change::{Change, ClosingAttempt, GateChange, Row, Setting, Snapshot};
use super::history::{Event, History, Micros};
use super::operations::{Gate, GateKind};
use super::workload::{SCHEDULES, task, tick};

/// The database's name.
pub(crate) const NAME: &str = "chaos";

const AUDIT: &str = include_str!("audit.sql");

const CHANGES: &str = "SELECT seq, job_id, chaos.micros(at), chaos.micros(now), xid, snapshot, chaos.facts(old), \
                       chaos.facts(new), chaos.committed(xid), call, new->>'gate_key' FROM chaos.changes ORDER BY seq";

const GATE_CHANGES: &str =
    "SELECT chaos.micros(at), kind, name, call, chaos.gate_facts(new) FROM chaos.gate_changes ORDER BY seq";

const CLOSING_ATTEMPTS: &str = "SELECT job_id, attempt, chaos.micros(at) FROM chaos.closing_attempts";

const ROWS: &str = "SELECT j.id, chaos.facts(to_jsonb(j)) FROM app_jobs.jobs j";

/// Jobs that have not ended.
const OPEN: &str = "SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL OR attempts < max_attempts";

/// A connection for one moment: Postgres is restarted under everybody's hands.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("cannot connect to Postgres")?;
    tokio::spawn(connection);
    Ok(client)
}

/// Makes the database anew, with the schema and the audit. `server` leads to the database postgres, `own` to this one.
pub(crate) async fn prepare(server: &str, own: &str) -> Result<()> {
    let client = connect(server).await?;
    // When each transaction was committed; it has effect with the next start of the server.
    client.batch_execute("ALTER SYSTEM SET track_commit_timestamp = on").await?;
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")).await?;
    client.batch_execute(&format!("CREATE DATABASE {NAME}")).await?;
    let variables = BTreeMap::from([("DATABASE_URL", own)]);
    let mut reader = Reader::new(&variables);
    let config = PostgresConfig::read(&mut reader);
    let _applied = migrate::migrate(&Db::new(&reader.finish(config)?)?).await?;
    connect(own).await?.batch_execute(AUDIT).await.context("cannot install the audit")
}

/// Adds the schedules; each fires every second.
pub(crate) async fn add_schedules(url: &str, history: &History) -> Result<()> {
    let client = connect(url).await?;
    for schedule in 0..SCHEDULES {
        let add = "SELECT app_jobs.add_scheduled_job(identifier := $1::text, payload := $2::json, \
                   schedule_info := '\"* * * * * *\"'::json)::text";
        let task = task(usize::try_from(schedule)? + 1);
        client.query_one(add, &[&task, &tick(schedule)]).await?;
        history.add(Event::ScheduleAdded { schedule });
    }
    Ok(())
}

pub(crate) async fn remove_schedules(url: &str, history: &History) -> Result<()> {
    for schedule in 0..SCHEDULES {
        // Before they are gone: what happens from now on need not.
        history.add(Event::ScheduleRemoved { schedule });
    }
    connect(url).await?.batch_execute("DELETE FROM app_jobs.scheduled_jobs").await?;
    Ok(())
}

/// How many jobs have not ended.
pub(crate) async fn open_jobs(url: &str) -> Result<i64> {
    Ok(connect(url).await?.query_one(OPEN, &[]).await?.get(0))
}

/// Where the jobs of each task are sent to, as workers have told.
async fn hosts(client: &Client) -> Result<BTreeMap<String, String>> {
    let known = "SELECT to_regclass('app_jobs.task_hosts') IS NOT NULL";
    if !client.query_one(known, &[]).await?.get::<_, bool>(0) {
        return Ok(BTreeMap::new());
    }
    let rows = client.query("SELECT task, host FROM app_jobs.task_hosts", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Every change of a job's row, in order.
pub(crate) async fn changes(url: &str) -> Result<Vec<Change>> {
    let client = connect(url).await?;
    let hosts = hosts(&client).await?;
    let read = |row: &tokio_postgres::Row| {
        let facts = |index: usize| {
            let read = row.get::<_, Option<Value>>(index).map(|value| Row::read(&value)).transpose()?;
            anyhow::Ok(read.map(|row| Row { host: hosts.get(&row.task).cloned(), ..row }))
        };
        anyhow::Ok(Change {
            seq: u64::try_from(row.get::<_, i64>(0))?,
            job: row.get(1),
            at: Micros(row.get(2)),
            now: Micros(row.get(3)),
            xid: u64::try_from(row.get::<_, i64>(4))?,
            snapshot: row.get::<_, Option<&str>>(5).map(Snapshot::read).transpose()?,
            old: facts(6)?,
            new: facts(7)?,
            committed: row.get::<_, Option<i64>>(8).map(Micros),
            call: row.get::<_, Option<i32>>(9).map(usize::try_from).transpose()?,
            key: row.get(10),
        })
    };
    client.query(CHANGES, &[]).await?.iter().map(read).collect()
}

/// Every change of what is set for a gate, in order.
pub(crate) async fn gate_changes(url: &str) -> Result<Vec<GateChange>> {
    let read = |row: &tokio_postgres::Row| {
        let kind = row.get(1);
        Ok(GateChange {
            at: Micros(row.get(0)),
            gate: Gate::new(
                GateKind::read(kind).with_context(|| format!("a gate of the kind {kind}"))?,
                row.get::<_, &str>(2),
            ),
            call: row.get::<_, Option<i32>>(3).map(usize::try_from).transpose()?,
            new: row.get::<_, Option<Value>>(4).map(|value| Setting::read(&value)).transpose()?,
        })
    };
    connect(url).await?.query(GATE_CHANGES, &[]).await?.iter().map(read).collect()
}

/// The attempts that have closed a host.
pub(crate) async fn closing_attempts(url: &str) -> Result<Vec<ClosingAttempt>> {
    let rows = connect(url).await?.query(CLOSING_ATTEMPTS, &[]).await?;
    Ok(rows.iter().map(|row| ClosingAttempt { job: row.get(0), attempt: row.get(1), at: Micros(row.get(2)) }).collect())
}

/// The jobs that are in the table.
pub(crate) async fn rows(url: &str) -> Result<BTreeMap<i64, Row>> {
    let rows = connect(url).await?.query(ROWS, &[]).await?;
    rows.iter().map(|row| Ok((row.get(0), Row::read(&row.get::<_, Value>(1))?))).collect()
}
