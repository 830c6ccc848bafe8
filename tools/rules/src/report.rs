//! What a comparison came to: the table on the terminal and in docs/rules.md.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use job_testkit::env;

use super::generate::{COUNT, ZONES};
use super::reasons::{REASONS, Reason, by_name};

const DOCUMENT: &str = "docs/rules.md";
const BEGIN: &str = "<!-- rules:begin -->\n";
const END: &str = "<!-- rules:end -->\n";

/// A whole run.
pub(super) struct Report<'a> {
    pub(super) seed: u64,
    pub(super) schedules: usize,
    pub(super) fires: usize,
    /// Schedules that no cron rule means, by kind.
    pub(super) left_out: BTreeMap<&'a str, usize>,
    pub(super) rivals: [Rival; 2],
}

/// What became of one rival's answers.
pub(super) struct Rival {
    name: &'static str,
    asked: usize,
    different: usize,
    /// Answers that were made wrong, of which none was explained.
    made_wrong: usize,
    reasons: BTreeMap<&'static str, usize>,
}

impl Rival {
    /// Counts the reasons for all differences of a rival.
    pub(super) fn new(
        name: &'static str,
        asked: usize,
        made_wrong: usize,
        reasons_of_each: &[Vec<String>],
    ) -> Result<Self> {
        let mut reasons = BTreeMap::new();
        for name in reasons_of_each.iter().flatten() {
            let reason =
                by_name(name).with_context(|| format!("{name} has no reason in tools/rules/src/reasons.rs"))?;
            *reasons.entry(reason.name).or_default() += 1;
        }
        Ok(Self { name, asked, different: reasons_of_each.len(), made_wrong, reasons })
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        for reason in REASONS {
            let Reason { name, why, .. } = reason;
            writeln!(f, "{:>6}  {name}: {}\n        {why}", self.count(name), reason.shown())?;
        }
        Ok(())
    }
}

impl Report<'_> {
    /// The sentences above the table.
    fn summary(&self) -> String {
        let mut text = format!(
            "Seed {}: {} schedules in {} zones, {} fires, all of them the arbiter's.\n",
            self.seed,
            self.schedules,
            ZONES.len(),
            self.fires
        );
        for Rival { name, asked, different, made_wrong, .. } in &self.rivals {
            text.push_str(&format!(
                "{name} was asked {asked} of them and answers {different} in another way, each for a reason below; of \
                 {made_wrong} answers made wrong on purpose none is explained.\n"
            ));
        }
        let left_out: Vec<String> = self.left_out.iter().map(|(what, count)| format!("{what} ({count})")).collect();
        text.push_str(&format!("No cron rule means: {}.", left_out.join(", ")));
        text
    }

    /// How many differences have this reason.
    fn count(&self, name: &str) -> usize {
        self.rivals.iter().filter_map(|rival| rival.reasons.get(name)).sum()
    }

    /// What stands in the document.
    fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.summary().replace('\n', "\n\n"));
        text.push_str("| reason | differences | for example | why ours is right |\n|---|---:|---|---|\n");
        for reason in REASONS {
            let Reason { name, why, .. } = reason;
            let escaped = name.replace('*', r"\*");
            text.push_str(&format!("| {escaped} | {} | {} | {why} |\n", self.count(name), reason.shown()));
        }
        text
    }

    /// Writes the table into the document, in place of what is there.
    pub(super) fn write(&self) -> Result<()> {
        let path = env::workspace_dir().join(DOCUMENT);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {DOCUMENT}"))?;
        let (before, rest) = text.split_once(BEGIN).with_context(|| format!("{DOCUMENT} has no {BEGIN}"))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("{DOCUMENT} has no {END}"))?;
        let text = format!("{before}{BEGIN}{}{END}{after}", self.table());
        std::fs::write(&path, text).with_context(|| format!("cannot write {DOCUMENT}"))?;
        println!("{DOCUMENT} is written; {COUNT} fires of each schedule");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_document_as_it_is_here() {
        let document = std::fs::read_to_string(env::workspace_dir().join(DOCUMENT)).unwrap();
        for reason in REASONS {
            let row = |line: &&str| line.starts_with(&format!("| {} |", reason.name.replace('*', r"\*")));
            let row = document.lines().find(row).unwrap_or_else(|| panic!("{} is not in {DOCUMENT}", reason.name));
            let end = format!("| {} | {} |", reason.shown(), reason.why);
            assert!(row.ends_with(&end), "{row}\nends otherwise than\n{end}\n(cargo xtask rules --seed 1 --write)");
        }
    }

    #[test]
    fn a_reason_that_is_not_known_is_an_error() {
        let of = |names: &[&str]| vec![names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
        let rival = Rival::new("croniter", 2, 1, &of(&["croniter: equal range"])).unwrap();
        assert_eq!((rival.different, rival.reasons["croniter: equal range"]), (1, 1));
        assert!(Rival::new("croniter", 2, 1, &of(&["croniter: equal range", "croniter: mood"])).is_err());
    }
}
