//! What renders and validates manifests: kubectl and kubernetes-validate, in a Python environment below target/.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use job_testkit::env;
use tokio::process::Command;

/// The versions whose schemas are meant: the oldest that deploy/kubernetes/README.md promises, and the newest that
/// kubernetes-validate in requirements.txt has.
pub(super) const KUBERNETES: [&str; 2] = ["1.30", "1.37"];

const REQUIREMENTS: &str = "deploy/kubernetes/requirements.txt";

/// The environment's programs.
pub(super) struct Tools {
    bin: PathBuf,
}

/// The environment, made where there is none, or one of other requirements or for another place.
pub(super) async fn find(root: &Path) -> Result<Tools> {
    let directory = env::target_dir().join("deploy-check/python");
    let requirements = root.join(REQUIREMENTS);
    let wanted = std::fs::read_to_string(&requirements).with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    // An environment does not work in another place than the one that it was made for.
    let wanted = format!("{}\n{wanted}", directory.display());
    // Written last: an installation that was cut off is not one.
    let stamp = directory.join("requirements.installed");
    let tools = Tools { bin: directory.join("bin") };
    if std::fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(tools);
    }
    let venv =
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory).kill_on_drop(true).output().await;
    said(venv.context("python3 is not there")?, "python3 -m venv")?;
    let pip = tools.command("pip").args(["install", "--quiet", "-r"]).arg(&requirements).output().await;
    said(pip.context("no pip in the environment")?, "pip install")?;
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(tools)
}

impl Tools {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.kill_on_drop(true);
        command
    }

    /// What `kubectl kustomize` makes of a directory.
    pub(super) async fn render(&self, directory: &Path) -> Result<String> {
        let output = self.command("kubectl").arg("kustomize").arg(directory).output().await?;
        said(output, "kubectl kustomize")
    }

    /// Objects of Kubernetes's own kinds. A field that no schema knows is a fault.
    pub(super) async fn validate(&self, files: &[PathBuf]) -> Result<()> {
        if files.is_empty() {
            bail!("no object of a kind of Kubernetes's own was rendered");
        }
        for version in KUBERNETES {
            let mut command = self.command("kubernetes-validate");
            command.args(["--strict", "--quiet", "--kubernetes-version", version]).args(files);
            said(command.output().await?, &format!("kubernetes-validate for {version}"))?;
        }
        Ok(())
    }

    /// An object of another kind, against a schema of ours.
    pub(super) async fn validate_custom(&self, file: &Path, schema: &Path) -> Result<()> {
        let script =
            "import json, jsonschema, sys; jsonschema.validate(*(json.load(open(path)) for path in sys.argv[1:]))";
        let output = self.command("python").args(["-c", script]).arg(file).arg(schema).output().await?;
        said(output, &file.display().to_string()).map(drop)
    }
}

/// What a program printed, or its complaint.
fn said(output: std::process::Output, what: &str) -> Result<String> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if !output.status.success() {
        bail!("{what}: {}{}", text(output.stdout).trim(), text(output.stderr).trim());
    }
    Ok(text(output.stdout))
}
