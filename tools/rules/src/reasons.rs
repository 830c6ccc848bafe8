//! Why others say something else, and why ours is right. What each reason means exactly is in `quirks.py`.

/// A cron rule, a zone, and an instant.
pub(super) type Example = (&'static str, &'static str, &'static str);

/// Some day.
const FROM: &str = "2026-01-15T10:20:30Z";
/// Before the clocks in Berlin go forward, from 02:00 to 03:00.
const SPRING: &str = "2026-03-28T12:00:00Z";
/// Before they go back, from 03:00 to 02:00.
const AUTUMN: &str = "2026-10-24T12:00:00Z";

/// A quirk that is known.
#[derive(Debug)]
pub(super) struct Reason {
    /// As `quirks.py` has it.
    pub(super) name: &'static str,
    /// Schedules that show it: the rule, the zone, and from when on. Each run begins with them.
    pub(super) examples: &'static [Example],
    /// What happens, and what is right.
    pub(super) why: &'static str,
}

pub(super) const REASONS: &[Reason] = &[
    Reason {
        name: "croniter: equal range",
        examples: &[("0 5-5 * * *", "UTC", FROM)],
        why: "A range from a value to itself is every value there. It has one value.",
    },
    Reason {
        name: "croniter: wrapped range",
        examples: &[("0 22-4 * * *", "UTC", FROM)],
        why: "A range that runs backward wraps around there. In the contract, as in cron, it is an error.",
    },
    Reason {
        name: "croniter: step to Saturday",
        examples: &[("0 0 * * 1/3", "UTC", FROM)],
        why: "`a/n` ends at 6 there. It goes to the maximum, which is 7, so Sunday is among 1, 4 and 7.",
    },
    Reason {
        name: "croniter: * in a list",
        examples: &[("0 0 5,* * MON", "UTC", FROM)],
        why: "A `*` anywhere in a list makes the field unrestricted there. Only a field that is `*` or `?` as a whole is.",
    },
    Reason {
        name: "croniter: full day field",
        examples: &[("0 0 1-31 * */2", "UTC", FROM)],
        why: "A field that lists all days is unrestricted there when the other one has a `*` in it. What counts is what is written.",
    },
    Reason {
        name: "croniter: nth and date",
        examples: &[("0 0 13 * 5L", "UTC", FROM)],
        why: "`5L` or `5#2` beside a date must both match there. Of two restricted fields either will do.",
    },
    Reason {
        name: "croniter: nth without days",
        examples: &[("0 0 * * 5,5#2", "UTC", FROM)],
        why: "Beside `5#2` the plain `5` is dropped there. Every entry of a list counts.",
    },
    Reason {
        name: "croniter: nth beside days refused",
        examples: &[("0 0 * * 1,5L", "UTC", FROM)],
        why: "`5L` or `5#2` beside other days is refused there. Every entry of a list counts.",
    },
    Reason {
        name: "croniter: repeated time fires twice",
        examples: &[("30 2 * * *", "Europe/Berlin", AUTUMN)],
        why: "When the clocks go back, a rule that names hours fires in both passes there. What is daily happens once a day.",
    },
    Reason {
        name: "croniter: repeated half hour left out",
        examples: &[("1,17,31 * L * 0", "Australia/Lord_Howe", "2020-04-04T14:12:00Z")],
        why: "Where the clocks go back by half an hour, some of the second pass is lost there. A rule for every hour fires in both.",
    },
    Reason {
        name: "croniter: skipped second kept",
        examples: &[("20 30 2 * * *", "Europe/Berlin", SPRING)],
        why: "A skipped time is made up for some seconds after the end of the gap there. It is made up for at the end of the gap.",
    },
    Reason {
        name: "cron-parser: step adds Sunday",
        examples: &[("0 0 * * 3/3", "UTC", FROM)],
        why: "Whatever steps up to 7 has Sunday as well there, also where the steps pass over 7. 3/3 is 3 and 6.",
    },
    Reason {
        name: "cron-parser: days counted",
        examples: &[("0 0 1-31 * 5", "UTC", FROM), ("0 0 1-20,5-25 * 5", "UTC", FROM), ("0 0 13 * 0-7", "UTC", FROM)],
        why: "Entries are counted there, those of overlapping ranges twice, and a day field with enough of them is unrestricted. \
              What counts is what is written: only `*` and `?` are unrestricted.",
    },
    Reason {
        name: "cron-parser: hours counted",
        examples: &[("30 0-23,2 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z")],
        why: "Every hour with one listed twice is taken there for a rule that names hours. It is every hour, however it is written.",
    },
    Reason {
        name: "cron-parser: nth and date",
        examples: &[("0 0 20 * 5#2", "UTC", FROM)],
        why: "`5#2` restricts the dates of the other field too there. Of two restricted fields either will do.",
    },
    Reason {
        name: "cron-parser: nth in a list refused",
        examples: &[("0 0 * * 1,5#2", "UTC", FROM)],
        why: "`#` in a list is refused there. Every entry of a list counts.",
    },
    Reason {
        name: "cron-parser: day beyond the month refused",
        examples: &[("0 0 30 2 1", "UTC", FROM)],
        why: "A date that its month does not have is refused there, although Mondays match. Of two restricted fields either will do.",
    },
    Reason {
        name: "cron-parser: gives up",
        examples: &[("0 0 15 2 3#5", "UTC", FROM)],
        why: "What does not fire for 27 years is an error there: here the fifth Wednesdays of a February, which it takes for all. A \
              rule that fires one day is a rule.",
    },
    Reason {
        name: "cron-parser: name refused",
        examples: &[("@midnight", "UTC", FROM), ("@annually", "UTC", FROM), ("@Daily", "UTC", FROM)],
        why: "Not known there, nor are capitals. They are welcome.",
    },
    Reason {
        name: "cron-parser: four fields",
        examples: &[("18 4 * *", "UTC", FROM)],
        why: "Fields that are missing are filled in from the left there. A rule with 4 fields is a slip, and an error.",
    },
    Reason {
        name: "cron-parser: skipped time left out",
        examples: &[("0 0 * * *", "Asia/Beirut", SPRING)],
        why: "What falls into a gap at midnight, of half an hour or of two hours is lost there. It fires once, at the end of the gap.",
    },
    Reason {
        name: "cron-parser: skipped time moved",
        examples: &[("0,30 2 * * *", "Europe/Berlin", SPRING)],
        why: "Skipped times fire as much later as the clocks go forward there, each of them. They fire once, at the end of the gap.",
    },
    Reason {
        name: "cron-parser: hour cut by a gap",
        examples: &[("12 1 * * *", "America/St_Johns", "2011-03-12T12:00:00Z")],
        why: "Times beside a gap that begins or ends within an hour are lost or moved by an hour there. Times that exist fire.",
    },
    Reason {
        name: "cron-parser: first of a repeated midnight left out",
        examples: &[("30 * * * 0", "Atlantic/Azores", "2027-10-30T04:00:00Z")],
        why: "The first pass is passed over there. A time that comes twice fires the first time.",
    },
    Reason {
        name: "cron-parser: repeated time fires twice",
        examples: &[("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z")],
        why: "Asked within a repeated hour, or where the clocks go back by another span than an hour, it fires again there. What is \
              daily happens once a day.",
    },
];

impl Reason {
    /// The examples as a person reads them.
    pub(super) fn shown(&self) -> String {
        let rules = self.examples.iter().map(|(rule, zone, from)| match *from {
            FROM => format!("`{rule}`"),
            _ => format!("`{rule}` in {zone} after {from}"),
        });
        rules.collect::<Vec<_>>().join(", ")
    }
}

/// The reason of that name.
pub(super) fn by_name(name: &str) -> Option<&'static Reason> {
    REASONS.iter().find(|reason| reason.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_one_of_the_script() {
        let script = include_str!("quirks.py");
        for reason in REASONS {
            let (rival, name) = reason.name.split_once(": ").unwrap();
            assert!(["croniter", "cron-parser"].contains(&rival), "{}", reason.name);
            assert!(script.contains(&format!("\"{name}\"")), "{}", reason.name);
        }
    }
}
