//! `cargo xtask compose-test`: the images, and the compose stack with the specification's examples run against it as
//! written.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

mod apart;
mod confined;
mod engine;
mod image;
mod load;
mod specification;
mod stack;
mod standin;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use job_testkit::env;

use deploy_check::compose::FILES;
use engine::{Engine, docker};
use toolkit::setup;
use toolkit::steps::Steps;

/// Builds the images and runs the specification's examples against the compose stack; needs a Docker engine
#[derive(Parser)]
#[command(bin_name = "cargo xtask compose-test")]
struct Options {
    /// Leave the stack up afterwards
    #[arg(long)]
    keep: bool,
    /// How many jobs the measurement under load takes
    #[arg(long, default_value_t = 1000)]
    jobs: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    toolkit::main(run(Options::parse())).await
}

async fn run(options: Options) -> Result<()> {
    let mut steps = Steps::new("cargo xtask compose-test");
    let engine = steps.step("a Docker engine", Engine::find()).await?;
    steps.step("the names are free", names_are_free()).await?;
    steps.step("uuidgen and curl", async { setup::uuidgen().await.and(setup::curl().await) }).await?;
    steps.step("base images", standin::ensure(&env::workspace_dir())).await?;
    let mut attached = None;
    let tested = test(&mut steps, &engine, &options, &mut attached).await;
    if tested.is_err() {
        for container in stack::CONTAINERS {
            let logs = engine::logs(container).await.unwrap_or_default();
            let lines: Vec<&str> = logs.lines().collect();
            println!("--- the last of {container}\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
    if options.keep {
        println!("the stack is left up: docker-compose -p {} down --volumes, for both files", engine::PROJECT);
        tested?;
    } else {
        let down = down(&engine, attached).await;
        // What the test found comes first.
        if let (Err(_), Err(error)) = (&tested, &down) {
            println!("the stack could not be taken down: {error:#}");
        }
        tested.and(down)?;
    }
    steps.finish();
    Ok(())
}

async fn test(
    steps: &mut Steps,
    engine: &Engine,
    options: &Options,
    attached: &mut Option<stack::Attached>,
) -> Result<()> {
    steps.step("images", image::build(engine)).await?;
    steps.step("sizes, users and labels of the images", image::settings()).await?;
    steps.step("what is in the images", image::contents()).await?;
    steps.step("every program answers", image::answers()).await?;
    steps.step("section 4: docker-compose up -d", stack::up(engine)).await?;
    let up = steps.step("section 4: the jobs services", stack::Attached::start(engine)).await?;
    *attached = Some(up);
    steps.step("memory, idle", stack::memory("idle")).await?;
    steps.step("section 4: GraphQL", specification::graphql()).await?;
    steps.step("section 5: jobs", specification::jobs()).await?;
    steps.step("section 5: scheduled jobs", specification::schedules()).await?;
    steps.step("section 1: CREATE EXTENSION", specification::extension()).await?;
    steps.step("confined", confined::check(engine)).await?;
    steps.step("jobs under load", load::measure(options.jobs)).await?;
    steps.step("docker kill -s KILL under load", load::killed(options.jobs * 2)).await?;
    steps.step("SIGTERM under load", load::stopped(options.jobs * 2)).await?;
    steps.step("three workers beside the service", load::scaled(engine, options.jobs * 2)).await?;
    steps.step("the programs that the stack has no service of", apart::check()).await?;
    steps.step("SIGTERM", stack::stop_all()).await
}

/// Takes the stack down, and waits for who watches it.
async fn down(engine: &Engine, attached: Option<stack::Attached>) -> Result<()> {
    for file in FILES.iter().rev() {
        engine.compose(file, &["down", "--volumes", "--timeout", "30"]).await?;
    }
    match attached {
        Some(attached) => attached.ended().await,
        None => Ok(()),
    }
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
