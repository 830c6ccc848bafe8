//! The corpus through every target, without a fuzzer: what was found once stays found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use job_fuzz::{TARGETS, Target};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// Runs every seed of a target, and the beginnings of each: a message that is cut off is the commonest broken one.
fn replay(name: &str) {
    let (_, target): &(_, Target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let corpus = fuzz().join("corpus").join(name);
    let seeds = names(&corpus);
    assert!(!seeds.is_empty(), "no seed in {}", corpus.display());
    let mut broken = Vec::new();
    for seed in seeds {
        let input = std::fs::read(corpus.join(&seed)).unwrap();
        for length in (0..=input.len()).rev() {
            if catch_unwind(|| target(&input[..length])).is_err() {
                broken.push(format!("{seed} (its first {length} of {} bytes)", input.len()));
                break;
            }
        }
    }
    assert!(broken.is_empty(), "{name} fails on {}; what is wrong stands above", broken.join(", "));
}

#[test]
fn answer() {
    replay("answer");
}

#[test]
fn callback() {
    replay("callback");
}

#[test]
fn configuration() {
    replay("configuration");
}

#[test]
fn encoding() {
    replay("encoding");
}

#[test]
fn schedule_info() {
    replay("schedule_info");
}

#[test]
fn task_to_url() {
    replay("task_to_url");
}

#[test]
fn every_target_has_a_program_and_a_corpus_and_nothing_else_has() {
    let targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names(&fuzz().join("corpus")), targets);
    let programs: Vec<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), programs);
}
