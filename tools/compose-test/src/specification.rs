//! The specification's commands as written, each printed with its output.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use job_testkit::env;
use job_testkit::wait::try_poll;
use serde_json::Value;
use tokio::process::Command;

use super::engine::{docker, logs, psql};
use super::stack::LIMIT;
use toolkit::steps::output_of;

const GRAPHQL: &str = include_str!("../../../crates/job-service/tests/seed/4-graphql.sh");
const IDS: &str = include_str!("../../../crates/job-service/tests/seed/5-ids.sh");
const LOOK: &str = include_str!("../../../crates/job-service/tests/seed/5-jobs.sql");
const SCHEDULE: &str = include_str!("../../../crates/job-service/tests/seed/5-schedule.sql");
const SCHEDULES: &str = include_str!("../../../crates/job-service/tests/seed/5-schedules.sql");

/// Each block of section 5, and what the function's log then shows.
const ENQUEUE: [(&str, &[&str]); 3] = [
    (
        include_str!("../../../crates/job-service/tests/seed/5-invite.sh"),
        &["invited you to", "invite_token=invite-token-123"],
    ),
    (
        include_str!("../../../crates/job-service/tests/seed/5-forgot.sh"),
        &["Password Reset Request", "reset_token=reset-token-123"],
    ),
    (
        include_str!("../../../crates/job-service/tests/seed/5-verification.sh"),
        &["Email Verification", "verification_token=verify-token-123"],
    ),
];

/// Section 4, "Test GraphQL access".
pub(super) async fn graphql() -> Result<()> {
    let expected =
        ["/data/__schema/queryType/fields/0/name", "/data/databases/nodes/0/id", "/data/users/nodes/0/username"];
    let blocks: Vec<&str> = GRAPHQL.split("\n\n").collect();
    if blocks.len() != expected.len() {
        bail!("section 4 has {} blocks, and this test knows {}", blocks.len(), expected.len());
    }
    for (block, pointer) in blocks.into_iter().zip(expected) {
        let printed = run(block, Terminal::No).await?;
        let answer: Value = serde_json::from_str(printed.trim()).with_context(|| format!("not JSON: {printed}"))?;
        if answer.pointer(pointer).is_none_or(|value| value.as_str().is_none_or(str::is_empty)) {
            bail!("{pointer} is missing in {printed}");
        }
    }
    Ok(())
}

/// Section 5: enqueue each type at a terminal, watch the logs, look at the queue.
pub(super) async fn jobs() -> Result<()> {
    for (block, shown) in ENQUEUE {
        let printed = run(&format!("{IDS}\n{block}"), Terminal::Yes).await?;
        if !printed.contains("email:send_verification_link") {
            bail!("no job was added: {printed}");
        }
        let sent = async || {
            let logs = logs("send-verification-link").await.ok()?;
            logs.lines().find(|line| shown.iter().all(|part| line.contains(part))).map(str::to_owned)
        };
        let line = try_poll(LIMIT, sent).await.ok().context("the function did not get the job")?;
        println!("docker logs send-verification-link:\n{line}");
    }
    done(LIMIT).await?;
    // A row is gone a moment before its line is in the log.
    let mut completed = String::new();
    let all = async || {
        let service = logs("knative-job-service").await.ok()?;
        let lines: Vec<&str> = service.lines().filter(|line| line.contains("job completed")).collect();
        completed = lines.join("\n");
        (lines.len() >= ENQUEUE.len()).then_some(lines.len())
    };
    let told = try_poll(LIMIT, all).await.unwrap_or_default();
    println!("docker logs knative-job-service:\n{completed}");
    if told != ENQUEUE.len() {
        bail!("the log does not tell of {} completed jobs", ENQUEUE.len());
    }
    let query = ["exec", "-i", "postgres", "psql", "-U", "postgres", "-d", "constructive", "-c", LOOK];
    println!("{LOOK}{}", docker(&query).await?);
    Ok(())
}

/// The second section 5: add a schedule, and look at it. The stack's scheduler leaves it alone (JOBS_SUPPORTED).
pub(super) async fn schedules() -> Result<()> {
    let query =
        ["exec", "-i", "postgres", "psql", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "constructive", "-c"];
    for block in [SCHEDULE, SCHEDULES] {
        let printed = docker(&[&query[..], &[block]].concat()).await?;
        println!("{block}{printed}");
        if !printed.contains("some-task-name") || !printed.contains("(1 row)") {
            bail!("there is no schedule, or more than that one: {printed}");
        }
    }
    // Later steps start a scheduler of their own.
    psql("DELETE FROM app_jobs.scheduled_jobs").await.map(drop)
}

/// Section 1, in a database of its own: the schema of `constructive` was made by the migration.
pub(super) async fn extension() -> Result<()> {
    docker(&["exec", "-i", "postgres", "createdb", "-U", "postgres", "extension_test"]).await?;
    let block = "docker exec -it postgres psql -v ON_ERROR_STOP=1 -U postgres -d extension_test -P pager=off \\\n  \
                 -c 'CREATE EXTENSION IF NOT EXISTS \"pgpm-database-jobs\"' -c '\\dt app_jobs.*'";
    let printed = run(block, Terminal::Yes).await?;
    if !printed.contains("scheduled_jobs") {
        bail!("the extension has no table scheduled_jobs: {printed}");
    }
    Ok(())
}

/// Waits until no job is left.
pub(super) async fn done(limit: std::time::Duration) -> Result<()> {
    let none = async || (psql("SELECT count(*) FROM app_jobs.jobs").await.ok()?.trim() == "0").then_some(());
    if try_poll(limit, none).await.is_err() {
        bail!(
            "jobs are left: {}",
            psql("SELECT task_identifier, attempts, last_error, locked_by FROM app_jobs.jobs LIMIT 3").await?
        );
    }
    Ok(())
}

/// Whether a command needs one (`docker exec -it`).
#[derive(PartialEq, Eq)]
enum Terminal {
    Yes,
    No,
}

/// Runs a block of the specification, printed with what it prints.
async fn run(block: &str, terminal: Terminal) -> Result<String> {
    println!("$ {}", block.trim().replace('\n', "\n  "));
    let script: PathBuf = env::target_dir().join("compose-test/block.sh");
    std::fs::create_dir_all(env::target_dir().join("compose-test"))?;
    std::fs::write(&script, block)?;
    let mut command = if terminal == Terminal::Yes {
        // A pseudo-terminal of util-linux; --return for the block's own exit code. Of a size: without one psql takes
        // every output for too long, and waits at a pager for somebody to read it.
        let block = format!("stty rows 60 columns 250; bash '{}'", script.display());
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &block, "/dev/null"]);
        command
    } else {
        let mut command = Command::new("bash");
        command.arg(&script);
        command
    };
    command.stdin(Stdio::null()).current_dir(env::workspace_dir());
    let printed =
        tokio::time::timeout(LIMIT, output_of(command)).await.context("it does not end")??.replace(['\r', '\0'], "");
    println!("{}", printed.trim_end());
    Ok(printed)
}
