//! Rates: in no time do more jobs start than the bucket gives, by the database's clock.
//!
//! A bucket is full when its rate begins to hold, and setting the same rate again does not fill it.

use super::super::change::Change;
use super::super::history::Micros;
use super::super::operations::{Gate, Rate};
use super::gates::Gates;
use super::limits::by_gate;
use super::{Evidence, Figures, Findings, Rule};

/// What is lost in numbers with a point.
const ERROR: f64 = 1e-6;

pub(super) fn check(evidence: &Evidence, gates: &Gates, findings: &mut Findings, figures: &mut Figures) {
    for (gate, changes) in by_gate(evidence, gates) {
        let claims = changes.into_iter().filter(|change| change.is_claim());
        let mut moments: Vec<(Micros, Option<&Change>)> =
            gates.moments(&gate).into_iter().map(|at| (at, None)).collect();
        moments.extend(claims.map(|claim| (claim.now, Some(claim))));
        moments.sort_by_key(|(at, claim)| (*at, claim.map(|claim| claim.seq)));
        let mut bucket: Option<Bucket> = None;
        for (at, claim) in moments {
            let rate = gates.rate(&gate, at);
            bucket = match (bucket, rate) {
                (Some(bucket), Some(rate)) if bucket.rate == rate => Some(bucket),
                (_, Some(rate)) => Some(Bucket { rate, tokens: f64::from(rate.burst), at }),
                (_, None) => None,
            };
            // A claim that was made later, when another rate was set, took its token from that one.
            let taken = claim.filter(|claim| gates.rate(&gate, claim.at) == rate);
            let (Some(bucket), Some(claim)) = (&mut bucket, taken) else { continue };
            figures.rated += 1;
            if !bucket.take(at) {
                findings.job(Rule::Rate, claim.job, overspent(&gate, bucket));
            }
        }
    }
}

/// The moments after each start at which a bucket may be empty: it gets its next token in that time.
pub(super) fn empty(gate: &Gate, changes: &[&Change], gates: &Gates) -> Vec<(Micros, Micros)> {
    let after = |at: Micros| gates.rate(gate, at).map(|rate| (at, at.plus(rate.step())));
    let claims = changes.iter().filter(|change| change.is_claim()).map(|claim| claim.at);
    // A new bucket may hold less than a token.
    let spans = claims.chain(gates.moments(gate)).filter_map(after).collect();
    super::gates::merged(spans)
}

fn overspent(gate: &Gate, bucket: &Bucket) -> String {
    let Bucket { rate, tokens, .. } = bucket;
    format!("started beyond the rate of {gate}, {rate}: the bucket had {tokens:.2} tokens")
}

struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Micros,
}

impl Bucket {
    /// Takes a token; whether there was one.
    fn take(&mut self, at: Micros) -> bool {
        let Rate { starts, per, burst } = self.rate;
        let new = at.since(self.at).as_secs_f64() * f64::from(starts) / per.as_secs_f64();
        self.tokens = (self.tokens + new).min(f64::from(burst));
        self.at = self.at.max(at);
        let has = self.tokens > 1.0 - ERROR;
        if has {
            self.tokens -= 1.0;
        }
        has
    }
}
