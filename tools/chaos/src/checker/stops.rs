//! Graceful stops: what was in flight ends by itself, and nothing is left locked.

use super::super::change::What;
use super::super::history::{Event, Micros};
use super::super::plan::Kind;
use super::timelines::Timelines;
use super::{Evidence, Figures, Findings, Rule};

pub(super) fn check(evidence: &Evidence, timelines: &Timelines<'_>, findings: &mut Findings, figures: &mut Figures) {
    for (worker, asked, done, code) in stops(evidence) {
        figures.stops += 1;
        if code != Some(0) {
            findings.other(Rule::Stop, format!("{worker} stopped with {code:?}"));
        }
        for (job, timeline) in &timelines.jobs {
            let held = timeline.claims.iter().filter(|claim| claim.worker == worker);
            for claim in held.filter(|claim| claim.is_live(asked)) {
                figures.in_flight += 1;
                let begun = timeline.runs.iter().find(|run| claim.owns(run) && run.at <= done);
                // An outcome that a fault destroyed is not the stop's doing.
                let from = begun.map_or(claim.at, |run| run.at);
                if timelines.disturbed(from, done, |fault| fault.kind != Kind::Stop) {
                    continue;
                }
                match (&claim.end, begun) {
                    (Some(end), _) if end.at > done => {
                        findings.job(
                            Rule::Stop,
                            *job,
                            format!("{worker} left it locked ({:?} later)", end.at.since(done)),
                        );
                    }
                    (None, _) => findings.job(Rule::Stop, *job, format!("{worker} left it locked")),
                    (Some(end), Some(run)) if end.what == What::Released && run.finished.is_some() => {
                        let text = format!("run {} had ended, but {worker} gave the job back", run.run);
                        findings.job(Rule::Stop, *job, text);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Each stop: who, from when, until when, exit code.
fn stops(evidence: &Evidence) -> Vec<(&str, Micros, Micros, Option<i32>)> {
    let mut stops = Vec::new();
    for (index, entry) in evidence.entries.iter().enumerate() {
        let Event::StopAsked { worker } = &entry.event else { continue };
        let end = evidence.entries[index..].iter().find_map(|later| match &later.event {
            Event::StopDone { worker: stopped, code } if stopped == worker => Some((later.at, *code)),
            _ => None,
        });
        if let Some((done, code)) = end {
            stops.push((worker.as_str(), entry.at, done, code));
        }
    }
    stops
}
