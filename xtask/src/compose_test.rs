//! `cargo xtask compose-test`: the images, and the compose stack with the specification's examples run against it as written.

mod confined;
mod engine;
mod load;
mod specification;
mod stack;
mod standin;

use anyhow::{Result, bail};
use clap::Args;
use job_testkit::env;

use crate::deploy_check::compose::FILES;
use crate::setup;
use crate::steps::Steps;
use engine::{Engine, docker};

/// What to run, and what to leave.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave the stack up afterwards
    #[arg(long)]
    keep: bool,
    /// How many jobs the measurement under load takes
    #[arg(long, default_value_t = 1000)]
    jobs: usize,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let mut steps = Steps::new("cargo xtask compose-test");
    let engine = steps.step("a Docker engine", Engine::find()).await?;
    steps.step("the names are free", names_are_free()).await?;
    steps.step("uuidgen", setup::uuidgen()).await?;
    steps.step("base images", standin::ensure(&env::workspace_dir())).await?;
    let tested = test(&mut steps, &engine, &options).await;
    if tested.is_err() {
        for container in stack::CONTAINERS {
            let logs = engine::logs(container).await.unwrap_or_default();
            let lines: Vec<&str> = logs.lines().collect();
            println!("--- the last of {container}\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
    if options.keep {
        println!("the stack is left up: docker-compose -p {} down --volumes, for both files", engine::PROJECT);
    } else {
        for file in FILES.iter().rev() {
            engine.compose(file, &["down", "--volumes", "--timeout", "30"]).await?;
        }
    }
    tested?;
    steps.finish();
    Ok(())
}

async fn test(steps: &mut Steps, engine: &Engine, options: &Options) -> Result<()> {
    let [first, jobs] = FILES;
    // A profile's services are built when they are named.
    steps.step("images of docker-compose.yml", engine.compose(first, &["build"])).await?;
    steps.step("images of docker-compose.jobs.yml", engine.compose(jobs, &["build"])).await?;
    steps.step("the image of job-worker", engine.compose(jobs, &["build", "job-worker"])).await?;
    steps.step("image sizes", stack::sizes()).await?;
    steps.step("docker-compose up -d", stack::up(engine, first, &["postgres"])).await?;
    steps.step("docker-compose -f docker-compose.jobs.yml up", stack::up(engine, jobs, &stack::SERVICES)).await?;
    steps.step("memory, idle", stack::memory("idle")).await?;
    steps.step("section 4: GraphQL", specification::graphql()).await?;
    steps.step("section 5: jobs", specification::jobs()).await?;
    steps.step("section 1: CREATE EXTENSION", specification::extension()).await?;
    steps.step("confined, and without secrets", confined::check(engine)).await?;
    steps.step("jobs under load", load::measure(options.jobs)).await?;
    steps.step("docker kill -s KILL under load", load::killed(options.jobs * 2)).await?;
    steps.step("three workers beside the service", load::scaled(engine, options.jobs * 2)).await?;
    steps.step("SIGTERM", stack::stop()).await
}

/// Container names are the compose files' own: another stack's cannot be told from this test's.
async fn names_are_free() -> Result<()> {
    let there = docker(&["ps", "--all", "--format", "{{.Names}}"]).await?;
    let taken: Vec<&str> = there.lines().filter(|name| stack::CONTAINERS.contains(name)).collect();
    if !taken.is_empty() {
        let project = engine::PROJECT;
        bail!(
            "containers named {} are there already: remove them first (docker-compose down, for both files; with -p {project} if \
             they are of an earlier run of this test)",
            taken.join(", ")
        );
    }
    Ok(())
}
