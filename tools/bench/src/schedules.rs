//! Schedules: a scheduler as a process of its own that holds many, what it costs, and how late their fires are.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use job_testkit::process::{Process, Program as Child};
use job_testkit::wait::try_poll;
use tokio_postgres::Client;

use super::http::{last_lines, pause, settings_of_ours};
use super::meter::{Meter, Spent};
use super::program::{self, Kind, ORIGINAL, Program, bench};
use super::results::{Figures, Outcome};
use super::run::Runner;
use super::server::{process_peak_kb, process_rss_kb};

/// What a scheduler does.
#[derive(Clone, Copy)]
pub(super) struct Schedules {
    pub(super) fires: Fires,
    /// How long it may take to start; rivals, twice as long.
    pub(super) start: Duration,
    /// How long it rests before the first fire, at least.
    pub(super) rest: Duration,
}

/// When schedules are due.
#[derive(Clone, Copy)]
pub(super) enum Fires {
    /// So many in each minute, over all its seconds; what is measured ends after some seconds.
    Spread { per_minute: u64, seconds: u64 },
    /// So many in the same second.
    Together { due: u64 },
}

/// How long a process may take to stop.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the last fires may take.
const LAST_FIRES: Duration = Duration::from_secs(30);
/// After the start and before the fires: neither is idleness.
const BETWEEN: Duration = Duration::from_secs(2);
/// Within it all fires of one second are made as a rule: nobody asks before.
const TOGETHER: Duration = Duration::from_secs(2);
/// Rows that are added in a second, or fewer.
const ADDED_PER_S: u64 = 10_000;

/// $1 schedules with the rule of one instant, each day, in the order in which they are due. From $2 on so many as $3
/// are due in each minute; or, with $4, they are all due at $2, and the others at least an hour later. Both systems
/// have these columns; the original's scheduler takes no notice of `overlap`.
const ADD: &str = "
INSERT INTO app_jobs.scheduled_jobs (database_id, task_identifier, payload, schedule_info)
SELECT '00000000-0000-0000-0000-000000000000', 'noop', json_build_object('due', extract(epoch FROM due)),
       json_build_object('rule', to_char(due AT TIME ZONE 'UTC', 'FMSS FMMI FMHH24') || ' * * *', 'overlap', 'allow')
  FROM generate_series(0, $1::bigint - 1) AS i,
       to_timestamp($2::float8
           + CASE WHEN NOT $4::bool THEN i * 60 / $3::bigint WHEN i < $3 THEN 0 ELSE 3600 + i % 36000 END) AS due
 ORDER BY i";

/// Both claim in the order of ids: when the last one is held, all are.
const HELD: &str = "SELECT locked_at IS NOT NULL FROM app_jobs.scheduled_jobs WHERE id = $1";
const FREE: &str = "SELECT count(*) FROM app_jobs.scheduled_jobs WHERE locked_at IS NULL";

/// Its entries are no rows. For its jobs the database writes down when each was made, as ours does.
const PREPARE_GRAPHILE: &str =
    "ALTER TABLE graphile_worker._private_jobs ALTER COLUMN created_at SET DEFAULT clock_timestamp()";

/// Whose scheduler it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum System {
    Ours,
    Original,
    /// The cron in a worker of the package for Node: entries are read at the start, and fire at whole minutes.
    Graphile,
}

impl System {
    /// None: the program has no schedules to the second, or we do not know how to add them.
    fn of(program: &Program) -> Option<Self> {
        match (program.kind, program.name.as_str()) {
            (Kind::Ours, _) => Some(Self::Ours),
            (_, ORIGINAL) => Some(Self::Original),
            (_, "npm-graphile-worker") => Some(Self::Graphile),
            _ => None,
        }
    }

    /// How many of the first $1 have fired.
    fn fired(self) -> &'static str {
        match self {
            Self::Ours | Self::Original => "SELECT count(last_scheduled) FROM app_jobs.scheduled_jobs WHERE id <= $1",
            Self::Graphile => "SELECT least(count(*), $1) FROM graphile_worker._private_jobs",
        }
    }

    /// Milliseconds by which each fire was late, with the number of its schedule.
    fn late(self) -> &'static str {
        match self {
            // Until the last row of the same transaction was written, since nobody sees a job before.
            Self::Ours => {
                "SELECT extract(epoch FROM max(created_at) OVER (PARTITION BY xmin::text) - fire_at)::float8 * 1000 AS ms,
                        schedule_id AS id
                   FROM app_jobs.schedule_fires WHERE outcome = 'made'"
            }
            Self::Graphile => {
                "SELECT extract(epoch FROM max(created_at) OVER (PARTITION BY xmin::text) - run_at)::float8 * 1000 AS ms, 1::bigint AS id
                   FROM graphile_worker._private_jobs"
            }
            // Until the transaction began, of which each makes one job: that is the time that it writes down.
            Self::Original => {
                "SELECT extract(epoch FROM last_scheduled - to_timestamp((payload->>'due')::float8))::float8 * 1000 AS ms, id
                   FROM app_jobs.scheduled_jobs WHERE last_scheduled IS NOT NULL"
            }
        }
    }
}

/// Whether a program can do this.
pub(super) fn takes_part(schedules: Schedules, program: &Program) -> bool {
    match System::of(program) {
        Some(System::Graphile) => matches!(schedules.fires, Fires::Together { .. }),
        Some(_) => true,
        None => false,
    }
}

/// A scheduler, for a database, its schedules, and when the first one is due, in seconds since 1970.
fn scheduler(
    runner: &Runner<'_>,
    system: System,
    database: &str,
    (schedules, count, first): (Schedules, u64, f64),
) -> Result<Child> {
    let npm = bench().join("npm");
    let child = match system {
        System::Ours => Child::at(program::service("job-scheduler")),
        System::Original => {
            let run = npm.join("node_modules/@constructive-io/job-scheduler/run.js");
            Child::at("node").arg("--require").arg(npm.join(ORIGINAL).join("shim.cjs")).arg(run)
        }
        System::Graphile => {
            let Fires::Together { due } = schedules.fires else { bail!("its entries are due at whole minutes") };
            let entries = [("COUNT", count), ("DUE", due), ("AT", first as u64)];
            Child::at("node")
                .arg(npm.join("graphile-worker").join("cron.mjs"))
                .env("DATABASE_URL", runner.server.url(database))
                .envs(entries.map(|(name, value)| (name, value.to_string())))
        }
    };
    let quiet = [("LOG_LEVEL", "error"), ("NODE_ENV", "production"), ("RUST_LOG", "warn")];
    let same = [("HOSTNAME", "bench-scheduler"), ("JOBS_SUPPORT_ANY", "true"), ("TZ", "UTC")];
    let child = child.envs(runner.server.env(database)).envs(quiet).envs(same);
    Ok(if system == System::Ours { settings_of_ours(child) } else { child })
}

pub(super) async fn measure(
    runner: &Runner<'_>,
    program: &Program,
    database: &str,
    mut schedules: Schedules,
    count: u64,
) -> Result<Outcome> {
    let Some(system) = System::of(program) else { return Ok(Outcome::Unsupported) };
    if program.kind == Kind::Rival {
        schedules.start *= 2;
    }
    // Connected before statements are logged: its own do not count.
    let client = runner.server.connect(database).await?;
    runner.server.log_statements(database).await?;
    let (at, first) = add(&client, system, schedules, count).await?;
    let (server, mut figures) = (runner.server, Figures::new());

    let start = Instant::now();
    let mut process = scheduler(runner, system, database, (schedules, count, at))?.try_spawn()?;
    let started = if system == System::Graphile {
        wait_until_ready(&mut process, schedules.start).await?
    } else {
        wait_until_held(&client, &mut process, schedules.start, count).await?
    };
    let seconds = started.duration_since(start).as_secs_f64();
    figures.extend([("held", count as f64), ("startup_s", seconds), ("held_per_s", count as f64 / seconds)]);

    let pid = process.pid();
    pause(BETWEEN).await;
    let rest = Meter::start(server, pid)?;
    pause(first.saturating_duration_since(Instant::now() + BETWEEN / 2)).await;
    let rest = rest.read(server, pid)?;
    if !schedules.rest.is_zero() {
        figures.extend(rest.idle());
    }
    figures.extend(megabytes(process_rss_kb(pid)).map(|value| ("rss_mb", value)));

    let fires = Meter::start(server, pid)?;
    let (due, time) = match schedules.fires {
        Fires::Spread { per_minute, seconds } => (per_minute * seconds / 60, Duration::from_secs(seconds)),
        Fires::Together { due } => (due, TOGETHER),
    };
    pause((first + time).saturating_duration_since(Instant::now())).await;
    let due = i64::try_from(due)?;
    // Of schedules that go on to fire, what follows must not count.
    let spread = if let Fires::Spread { .. } = schedules.fires { Some(fires.read(server, pid)?) } else { None };
    let all = async || (fired(&client, system, due).await.ok()? == due).then_some(());
    let whole = try_poll(LAST_FIRES, all).await.is_ok();
    figures.extend(firing(&spread.map_or_else(|| fires.read(server, pid), Ok)?, due));
    figures.extend(megabytes(process_peak_kb(pid)).map(|value| ("peak_mb", value)));
    if !process.is_running() {
        bail!("the scheduler has ended: {}", last_lines(&process));
    }
    let made = lateness(&client, system, due, &mut figures).await?;
    process.stop(LIMIT).await;
    if system == System::Ours && (!whole || made != due) {
        bail!("{made} of {due} fires were made");
    }
    Ok(Outcome::Measured { figures, settings: None })
}

fn megabytes(kilobytes: Option<f64>) -> Option<f64> {
    kilobytes.map(|kilobytes| kilobytes / 1024.0)
}

/// Adds schedules and returns when the first one is due, in seconds since 1970 and on this process's clock: when the
/// scheduler has had time to start and to rest.
async fn add(client: &Client, system: System, schedules: Schedules, count: u64) -> Result<(f64, Instant)> {
    let lead = schedules.start + schedules.rest + 2 * BETWEEN + Duration::from_secs(1 + count / ADDED_PER_S);
    let now = client.query_one("SELECT ceil(extract(epoch FROM clock_timestamp()))::float8", &[]).await?;
    let mut first = now.get::<_, f64>(0) + lead.as_secs() as f64;
    if system == System::Graphile {
        first = (first / 60.0).ceil() * 60.0;
    }
    let (due, together) = match schedules.fires {
        Fires::Spread { per_minute, .. } => (per_minute, false),
        Fires::Together { due } => (due, true),
    };
    if system == System::Graphile {
        client.batch_execute(PREPARE_GRAPHILE).await?;
    } else {
        client.execute(ADD, &[&i64::try_from(count)?, &first, &i64::try_from(due)?, &together]).await?;
        client.batch_execute("VACUUM (ANALYZE) app_jobs.scheduled_jobs").await?;
    }
    let left = client.query_one("SELECT $1::float8 - extract(epoch FROM clock_timestamp())::float8", &[&first]).await?;
    let left = Duration::try_from_secs_f64(left.get(0)).unwrap_or_default();
    if left < schedules.start + schedules.rest + 2 * BETWEEN {
        bail!("adding {count} schedules took too long: the first is due in {left:?}");
    }
    Ok((first, Instant::now() + left))
}

/// Waits until all schedules are held, and returns when they were.
async fn wait_until_held(client: &Client, process: &mut Process, limit: Duration, count: u64) -> Result<Instant> {
    let last = i64::try_from(count)?;
    let held = client.prepare(HELD).await?;
    let polled = async || {
        let row = client.query_one(&held, &[&last]).await.ok()?;
        row.get::<_, bool>(0).then(Instant::now)
    };
    let polled = try_poll(limit, polled).await;
    let free: i64 = client.query_one(FREE, &[]).await?.get(0);
    match polled {
        Ok(at) if free == 0 => Ok(at),
        _ if !process.is_running() => bail!("the scheduler has ended: {}", last_lines(process)),
        _ => bail!("{free} of {count} schedules were not held within {limit:?}"),
    }
}

/// Waits until a process has said `ready`, and returns when it had.
async fn wait_until_ready(process: &mut Process, limit: Duration) -> Result<Instant> {
    let ready = async || process.lines().iter().any(|line| line == "ready").then(Instant::now);
    match try_poll(limit, ready).await {
        Ok(at) => Ok(at),
        Err(_) => bail!("the scheduler did not start within {limit:?}: {}", last_lines(process)),
    }
}

async fn fired(client: &Client, system: System, due: i64) -> Result<i64> {
    Ok(client.query_one(system.fired(), &[&due]).await?.get(0))
}

/// The figures of a time in which so many fires were due.
fn firing(spent: &Spent, due: i64) -> Figures {
    let mut figures = Figures::from([("due", due as f64), ("fire_statements", spent.statements as f64)]);
    figures.insert("statements_per_fire", spent.statements as f64 / due as f64);
    figures.extend(spent.percent(spent.program).map(|value| ("fire_cpu_percent", value)));
    figures.extend(spent.percent(spent.server).map(|value| ("fire_pg_percent", value)));
    figures.extend(spent.program.map(|cpu| ("client_us", cpu * 1e6 / due as f64)));
    figures.extend(spent.server.map(|cpu| ("pg_us", cpu * 1e6 / due as f64)));
    figures
}

/// How late the fires were that were made; returns how many that are.
async fn lateness(client: &Client, system: System, due: i64, figures: &mut Figures) -> Result<i64> {
    let late = system.late();
    let sql = format!(
        "SELECT count(*), percentile_disc(0.5) WITHIN GROUP (ORDER BY ms), percentile_disc(0.99) WITHIN GROUP (ORDER BY ms),
                max(ms), min(ms)
           FROM ({late}) AS late WHERE id <= $1"
    );
    let row = client.query_one(&sql, &[&due]).await?;
    let made: i64 = row.get(0);
    figures.insert("fires", made as f64);
    for (index, name) in [(1, "p50_ms"), (2, "p99_ms"), (3, "max_ms"), (4, "min_ms")] {
        figures.extend(row.get::<_, Option<f64>>(index).map(|value| (name, value)));
    }
    Ok(made)
}
