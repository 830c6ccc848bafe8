//! `cargo xtask deploy-check`: what is in deploy/ and the compose files, as far as it can be checked without a cluster.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

pub mod compose;
mod context;
pub mod images;
mod manifests;
mod tools;

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Parser;
use job_testkit::env;

use toolkit::steps::Steps;
use tools::Tools;

/// Where the overlays are, from the top of the repository.
const OVERLAYS: &str = "deploy/kubernetes/overlays";

/// The one whose images are loaded into the cluster by hand; those of all others come from a registry.
const LOCAL: &str = "local";

/// Checks the Dockerfiles and compose files, and renders and validates the manifests in deploy/kubernetes
#[derive(Parser)]
#[command(bin_name = "cargo xtask deploy-check")]
pub struct Options {
    /// Leave out, visibly, what needs packages from PyPI where they are not installed and cannot be had
    #[arg(long)]
    pub offline: bool,
}

/// Every check, a step each.
///
/// # Errors
/// The first that fails.
pub async fn run(options: Options) -> Result<()> {
    let mut steps = Steps::new("cargo xtask deploy-check");
    let root = env::workspace_dir();
    steps.step("the Dockerfiles", async { images::check(&root) }).await?;
    steps.step("what the images are built from", images::copied(&root)).await?;
    match compose::program().await {
        Some(program) => steps.step("the compose files", compose::check(&program, &root)).await?,
        None => steps.skip("the compose files", "neither docker-compose nor docker compose is there"),
    }
    let tools = async {
        match tools::find(&root).await {
            Err(error) if options.offline => Ok(Err(error)),
            found => found.map(Ok).context(
                "manifests cannot be checked without them (on a machine without a network, --offline leaves that out)",
            ),
        }
    };
    match steps.step("kubectl and kubernetes-validate", tools).await? {
        Err(error) => steps.skip("rendering and validating deploy/kubernetes", &format!("{error:#}")),
        Ok(tools) => {
            for overlay in overlays(&root)? {
                let said = steps.step(&format!("overlay {overlay}"), check(&tools, &root, &overlay)).await?;
                println!("    {said}");
            }
        }
    }
    steps.finish();
    Ok(())
}

fn overlays(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join(OVERLAYS))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if names.is_empty() {
        bail!("{OVERLAYS} has no overlay: this check sees nothing");
    }
    Ok(names)
}

/// Renders an overlay, validates every object against a schema, and checks what no schema says. What was checked how.
async fn check(tools: &Tools, root: &Path, overlay: &str) -> Result<String> {
    let rendered = tools.render(&root.join(OVERLAYS).join(overlay)).await?;
    let objects = manifests::read(&rendered)?;
    let directory = env::target_dir().join("deploy-check").join(overlay);
    let written = manifests::write(&objects, &directory)?;
    tools.validate(&written.kubernetes).await?;
    let schemas = root.join("deploy/kubernetes/schemas");
    let mut uncovered = Vec::new();
    let mut custom = 0;
    for (definition, file) in &written.custom {
        let schema = schemas.join(format!("{definition}.json"));
        if schema.is_file() {
            tools.validate_custom(file, &schema).await?;
            custom += 1;
        } else {
            uncovered.push(definition.as_str());
        }
    }
    let mut problems = manifests::problems(&objects, &images::targets(root)?);
    if overlay != LOCAL {
        problems.extend(manifests::unnamed_images(&objects));
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    let mut said = format!(
        "{} objects valid for Kubernetes {}, {custom} custom ones for schemas of ours (the fields in use, not the whole definition)",
        written.kubernetes.len(),
        tools::KUBERNETES.join(" and ")
    );
    if !uncovered.is_empty() {
        said.push_str(&format!("; NOT COVERED: {}", uncovered.join(", ")));
    }
    Ok(said)
}
