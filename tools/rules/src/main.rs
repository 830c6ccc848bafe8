//! `cargo xtask rules`: our timetable beside croniter and cron-parser, with an arbiter over all three.
//!
//! Schedules of a seed are evaluated by `job-scheduler next --batch`, by the arbiter (`rules/arbiter.py`), which takes
//! the documented rules literally, and by both rivals. Ours must equal the arbiter. Where a rival differs, one of its
//! known quirks (`rules/quirks.py`) must give exactly its answer.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

mod answer;
mod cron;
mod explain;
mod generate;
mod programs;
mod reasons;
mod report;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use fastrand::Rng;
use serde_json::Value;

use answer::Answer;
use explain::explain;
use generate::{Case, Zones, case, examples};
use programs::Program;
use programs::Programs;
use report::Report;

/// How many schedules a small run has.
const SMALL: usize = 600;

/// How many of the differences that must not be are shown.
const SHOWN: usize = 10;

/// Compares when schedules fire with other evaluators of cron rules, and explains every difference
#[derive(Parser)]
#[command(bin_name = "cargo xtask rules")]
struct Options {
    /// How many schedules
    #[arg(long, default_value_t = 10_000)]
    rules: usize,
    /// Decides the schedules; a random one when it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Some hundred schedules, within seconds
    #[arg(long, conflicts_with = "rules")]
    small: bool,
    /// Write the table of reasons into docs/rules.md
    #[arg(long, conflicts_with = "small")]
    write: bool,
    /// Where Python, Node or their packages cannot be had, say so and leave the comparison out
    #[arg(long)]
    or_skip: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    toolkit::main(run(Options::parse())).await
}

async fn run(options: Options) -> Result<()> {
    match Programs::prepare().await {
        Ok(programs) => compare(&programs, options).await,
        Err(missing) if options.or_skip => {
            println!("--- schedules beside croniter and cron-parser: SKIPPED ({missing:#})");
            Ok(())
        }
        Err(missing) => Err(missing),
    }
}

/// Compares; a difference that nothing explains is an error.
async fn compare(programs: &Programs, options: Options) -> Result<()> {
    let zones = Zones::load()?;
    zones.must_be(&programs.zones(Zones::FIRST, Zones::LAST).await?)?;
    let seed = options.seed.unwrap_or_else(|| Rng::new().u64(1..100_000));
    let count = if options.small { SMALL } else { options.rules };
    println!("rules: seed {seed}, {count} schedules");
    let mut cases = examples()?;
    cases.extend((0..count).map(|number| case(&zones, seed, number)));
    let count = cases.len();

    let questions: Vec<Value> = cases.iter().map(|case| case.question.clone()).collect();
    let asked: Vec<(usize, Value)> =
        cases.iter().enumerate().filter_map(|(number, case)| Some((number, case.for_rivals()?))).collect();
    let for_rivals: Vec<Value> = asked.iter().map(|(_, question)| question.clone()).collect();
    // The table of zones goes first, and has no answer.
    let for_cron_parser: Vec<Value> = std::iter::once(zones.table()?).chain(for_rivals.iter().cloned()).collect();
    let (ours, arbiter, croniter, cron_parser) = tokio::try_join!(
        answers(programs, Program::Ours, &questions, count),
        answers(programs, Program::Arbiter, &questions, count),
        answers(programs, Program::Croniter, &for_rivals, asked.len()),
        answers(programs, Program::CronParser, &for_cron_parser, asked.len()),
    )?;

    must_equal_the_arbiter(&cases, &ours, &arbiter)?;
    let (croniter, cron_parser) = tokio::try_join!(
        explain(programs, "croniter", &cases, &asked, &ours, &croniter),
        explain(programs, "cron-parser", &cases, &asked, &ours, &cron_parser),
    )?;
    let mut left_out: BTreeMap<&str, usize> = BTreeMap::new();
    for why in cases.iter().filter_map(|case| case.cron.as_ref().err()) {
        *left_out.entry(why).or_default() += 1;
    }
    let fires = ours.iter().map(|answer| answer.next.len()).sum();
    let report = Report { seed, schedules: count, fires, left_out, rivals: [croniter, cron_parser] };
    println!("{report}");
    if options.write {
        report.write()?;
    }
    Ok(())
}

async fn answers(programs: &Programs, program: Program, questions: &[Value], count: usize) -> Result<Vec<Answer>> {
    let answers = programs.ask(program, questions).await?;
    if answers.len() != count {
        bail!("{program:?} was asked {count} questions and gave {} answers", answers.len());
    }
    answers.iter().map(Answer::parse).collect()
}

fn must_equal_the_arbiter(cases: &[Case], ours: &[Answer], arbiter: &[Answer]) -> Result<()> {
    let mut differences = 0;
    for ((case, ours), arbiter) in cases.iter().zip(ours).zip(arbiter) {
        if ours.next == arbiter.next && ours.error.is_some() == arbiter.error.is_some() {
            continue;
        }
        differences += 1;
        if differences <= SHOWN {
            let line = case.question.to_string().replace('\'', r"'\''");
            println!("echo '{line}' | job-scheduler next --batch\n  ours    {ours}\n  arbiter {arbiter}");
        }
    }
    match differences {
        0 => Ok(()),
        _ => bail!("{differences} schedule(s) fire at other times than documented"),
    }
}
