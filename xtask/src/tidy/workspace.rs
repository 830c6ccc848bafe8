//! What the rules look at: every text file of the repository, and every crate with what it depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use toolkit::steps::cargo_program;
use toolkit::workspace_dir;

/// The repository.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// Path from the top, with `/`, and content.
    pub(crate) files: BTreeMap<String, String>,
    /// Name and dependencies.
    pub(crate) crates: BTreeMap<String, Crate>,
}

/// A crate of this workspace.
#[derive(Debug, Default)]
pub(crate) struct Crate {
    /// `[dependencies]` (build-dependencies too), ours and others.
    pub(crate) normal: BTreeSet<String>,
    /// From the top.
    pub(crate) directory: String,
    /// `[dev-dependencies]`.
    pub(crate) dev: BTreeSet<String>,
}

impl Workspace {
    pub(crate) fn load() -> Result<Self> {
        let mut workspace = Self { crates: crates()?, ..Self::default() };
        workspace.walk(&workspace_dir(), "")?;
        Ok(workspace)
    }

    fn walk(&mut self, directory: &Path, prefix: &str) -> Result<()> {
        let entries = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            // A link leads to a file that is looked at where it is.
            if kind.is_dir() && !matches!(name.as_str(), "target" | ".git" | "node_modules") {
                self.walk(&entry.path(), &format!("{path}/"))?;
            } else if kind.is_file() {
                let bytes = std::fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
                self.files.insert(path, String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        Ok(())
    }

    /// Files whose name ends so.
    pub(crate) fn ending(&self, suffix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.ends_with(suffix))
            .map(|(path, content)| (path.as_str(), content.as_str()))
    }

    /// A file or a directory.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let below = format!("{path}/");
        self.files.contains_key(path) || self.files.keys().any(|file| file.starts_with(&below))
    }

    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect();
        Self { files, ..Self::default() }
    }
}

fn crates() -> Result<BTreeMap<String, Crate>> {
    let output = Command::new(cargo_program())
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(workspace_dir())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    Ok(packages.iter().map(|package| (text(&package["name"]), dependencies(package))).collect())
}

fn dependencies(package: &Value) -> Crate {
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    let directory = manifest.parent().and_then(|directory| directory.strip_prefix(workspace_dir()).ok());
    let directory = directory.unwrap_or(Path::new("")).to_string_lossy().into_owned();
    let mut result = Crate { directory, ..Crate::default() };
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let kind = if dependency["kind"] == "dev" { &mut result.dev } else { &mut result.normal };
        kind.insert(text(&dependency["name"]));
    }
    result
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
