//! Rows with few and with many priorities.

use anyhow::Result;

use super::super::program::{Kind, Program, Reply};
use super::super::results::Outcome;
use super::super::run::{OUR_CAP, RIVAL_CAP, Runner, copy, outcome, rate, spent};
use super::Column;
use super::command::claim_values;

/// Rows in the table.
#[derive(Clone, Copy)]
pub(crate) struct Priorities {
    pub(crate) rows: u64,
    /// Whether each has a priority of its own, or all have one.
    pub(crate) each: bool,
    /// Whether they are due. When they are not, others are added that are.
    pub(crate) due: bool,
}

/// Claims that are timed, and all jobs that they may take.
const CLAIMS: u64 = 100;
const CLAIMED: u64 = 120 * 100;

pub(super) const COLUMNS: &[Column] = &[
    Column::new("claim of 100: p50 ms", "p50_ms", 2),
    Column::new("p99 ms", "p99_ms", 2),
    Column::new("most ms", "max_ms", 2),
];

/// Times claims, and then the drain of so many jobs.
pub(super) async fn measure(
    runner: &Runner<'_>,
    program: &Program,
    database: &str,
    Priorities { rows, each, due }: Priorities,
    jobs: u64,
) -> Result<Outcome> {
    let add = ["enqueue", "--mode", "bulk", "--future"];
    let words = if due { &add[..3] } else { &add[..] };
    let priorities = if each { rows } else { 1 };
    let values =
        [("--jobs", rows.to_string()), ("--priorities", priorities.to_string()), ("--clients", "2".to_owned())];
    if let Reply::Unsupported = runner.call(program, database, words, &values).await? {
        return Ok(Outcome::Unsupported);
    }
    if !due {
        runner.call(program, database, &add[..3], &[("--jobs", (jobs + CLAIMED).to_string())]).await?;
    }
    let client = runner.server.connect(database).await?;
    client.batch_execute("VACUUM (ANALYZE)").await?;
    client.batch_execute("CHECKPOINT").await?;

    let claims = if program.kind == Kind::Ours {
        Some(runner.call(program, database, &["claims"], &claim_values(CLAIMS)).await?)
    } else {
        None
    };
    let cap = if program.kind == Kind::Rival { RIVAL_CAP } else { OUR_CAP };
    let values = [("--jobs", jobs.to_string()), ("--cap-seconds", cap.to_string())];
    let before = runner.server.cpu_seconds();
    let reply = runner.call(program, database, &["drain"], &values).await?;
    let server = spent(before, runner.server.cpu_seconds());
    Ok(outcome(reply, |answer| {
        let mut figures = rate(answer, server);
        if let Some(Reply::Done(claims)) = &claims {
            let names = COLUMNS.iter().map(|column| (column.figure, column.figure)).collect::<Vec<_>>();
            copy(claims, &names, &mut figures);
        }
        figures
    }))
}
