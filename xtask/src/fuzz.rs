//! `cargo xtask fuzz`: every fuzz target for a while, on from the corpus in fuzz/corpus.
//!
//! What it finds on the way stays in fuzz/target/corpus, for the next run; an input that breaks something goes to
//! fuzz/artifacts, and the run fails.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::io::{AsyncBufReadExt, BufReader};

use toolkit::steps::{Steps, cargo_output, command};
use toolkit::workspace_dir;

/// Without a sanitizer the stable toolchain will do: there is no unsafe code here for one to look at.
const BUILD: &[&str] = &["--sanitizer", "none", "--fuzz-dir", "fuzz"];

/// An input that takes longer than this is a fault: nothing here may come near to it.
const TIMEOUT_SECONDS: u32 = 5;

/// Inputs are texts that people write; longer ones only make it slow.
const LONGEST_INPUT: u32 = 4096;

/// How much of a failed run's output is shown.
const LAST_LINES: usize = 60;

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these targets, between commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let targets = targets()?;
    if let Some(unknown) = options.only.iter().find(|name| !targets.contains(name)) {
        bail!("there is no target {unknown}: they are {}", targets.join(", "));
    }
    if !cargo_output(&["--list"]).await?.lines().any(|line| line.trim_start().starts_with("fuzz")) {
        bail!("cargo-fuzz is not installed: `cargo install cargo-fuzz --locked` (and a C++ compiler, for libFuzzer)");
    }
    let mut steps = Steps::new("cargo xtask fuzz");
    steps.cargo("build", &[&["fuzz", "build"], BUILD].concat()).await?;
    let mut results = Vec::new();
    for target in targets.iter().filter(|target| options.only.is_empty() || options.only.contains(target)) {
        results.push(steps.step(target, fuzz(target, options.seconds)).await?);
    }
    println!("{:16} {:>12} {:>10} {:>10}", "target", "inputs", "coverage", "corpus");
    for Findings { target, inputs, coverage, corpus } in results {
        println!("{target:16} {inputs:>12} {coverage:>10} {corpus:>10}");
    }
    steps.finish();
    Ok(())
}

/// What a run came to. Coverage is the number of edges of the instrumented program.
#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    target: String,
    inputs: String,
    coverage: String,
    corpus: String,
}

impl Findings {
    /// Takes in a line of libFuzzer's, such as `#4096 pulse  cov: 1234 ft: 5678 corp: 90/12Kb …`.
    fn take(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let Some(inputs) = words.next().and_then(|word| word.strip_prefix('#')) else { return };
        let words: Vec<&str> = words.collect();
        let after = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1));
        if let (Some(coverage), Some(corpus)) = (after("cov:"), after("corp:")) {
            self.inputs = inputs.to_owned();
            self.coverage = (*coverage).to_owned();
            self.corpus = corpus.split('/').next().unwrap_or_default().to_owned();
        }
    }
}

async fn fuzz(target: &str, seconds: u64) -> Result<Findings> {
    let found = format!("fuzz/target/corpus/{target}");
    std::fs::create_dir_all(workspace_dir().join(&found)).with_context(|| format!("cannot make {found}"))?;
    let seeds = format!("fuzz/corpus/{target}");
    let limits = [
        format!("-max_total_time={seconds}"),
        format!("-timeout={TIMEOUT_SECONDS}"),
        format!("-max_len={LONGEST_INPUT}"),
        format!("-dict=fuzz/dictionaries/{target}.dict"),
    ];
    let mut child = command(&[&["fuzz", "run"], BUILD, &[target, &found, &seeds, "--"]].concat())
        .args(&limits)
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let stderr = child.stderr.take().context("no output")?;
    let mut lines = BufReader::new(stderr).split(b'\n');
    let mut findings = Findings { target: target.to_owned(), ..Findings::default() };
    let mut last = VecDeque::new();
    while let Some(line) = lines.next_segment().await? {
        let line = String::from_utf8_lossy(&line).into_owned();
        findings.take(&line);
        last.push_back(line);
        if last.len() > LAST_LINES {
            last.pop_front();
        }
    }
    if !child.wait().await?.success() {
        last.iter().for_each(|line| eprintln!("{line}"));
        bail!(
            "{target} fails on an input, which is in fuzz/artifacts/{target}: when it is mended, put the input into \
             {seeds} under a name that says what it is"
        );
    }
    Ok(findings)
}

/// The names of the programs in fuzz/fuzz_targets.
fn targets() -> Result<Vec<String>> {
    let directory: PathBuf = workspace_dir().join("fuzz").join("fuzz_targets");
    let entries = std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.strip_suffix(".rs")).map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_with_numbers_counts() {
        let mut findings = Findings::default();
        for line in [
            "INFO: seed corpus: files: 29 min: 1b max: 300b total: 1234b rss: 40Mb",
            "#4096\tpulse  cov: 1234 ft: 5678 corp: 90/12Kb lim: 300 exec/s: 2048 rss: 60Mb",
            "#8192\tDONE   cov: 1240 ft: 5700 corp: 91/12Kb lim: 300 exec/s: 2048 rss: 60Mb",
            "Done 8192 runs in 4 second(s)",
        ] {
            findings.take(line);
        }
        assert_eq!((&*findings.inputs, &*findings.coverage, &*findings.corpus), ("8192", "1240", "91"));
    }
}
