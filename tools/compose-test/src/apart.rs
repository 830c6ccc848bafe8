//! Programs that the stack has no service of: each runs on its network, is healthy, and ends in order when it is told
//! to.

use anyhow::{Context, Result, bail};

use super::engine::{PROJECT, docker, logs};
use super::stack;
use deploy_check::compose::NETWORK;

/// Where the database is: what docker-compose.jobs.yml passes.
const DATABASE: &[&str] = &[
    "PGHOST=postgres",
    "PGPORT=5432",
    "PGUSER=postgres",
    "PGPASSWORD=password",
    "PGDATABASE=constructive",
    "JOBS_SCHEMA=app_jobs",
];

/// Each program, where its database is if it has one, and what else it needs. Ports are the images'.
const PROGRAMS: [(&str, &[&str], &[&str]); 3] = [
    ("job-server", DATABASE, &[]),
    ("job-scheduler", DATABASE, &[]),
    ("send-email", &[], &["SEND_EMAIL_DRY_RUN=true"]),
];

pub(super) async fn check() -> Result<()> {
    for (program, database, own) in PROGRAMS {
        let container = format!("{PROJECT}-{program}");
        let tested = started_and_stopped(program, &container, &[database, own].concat()).await;
        let said = if tested.is_err() { logs(&container).await.unwrap_or_default() } else { String::new() };
        // Gone in any case: the network could not be removed otherwise.
        let removed = docker(&["rm", "--force", "--volumes", &container]).await;
        tested.with_context(|| format!("{program} by itself: {said}"))?;
        removed?;
    }
    Ok(())
}

/// Confined as in the stack, with as much time to stop.
async fn started_and_stopped(program: &str, container: &str, variables: &[&str]) -> Result<()> {
    let image = format!("jobs/{program}");
    let mut arguments = vec!["run", "--detach", "--name", container, "--network", NETWORK, "--stop-timeout", "30"];
    arguments.extend(["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]);
    // The test is the image's.
    arguments.extend(["--health-interval", "2s"]);
    for variable in variables {
        arguments.extend(["--env", variable]);
    }
    arguments.push(&image);
    docker(&arguments).await?;
    stack::healthy(container).await?;
    stack::stop(container).await?;
    if logs(container).await?.is_empty() {
        bail!("{container} has written nothing");
    }
    Ok(())
}
