//! Cron rules of a seed, in every way to write them.

use fastrand::Rng;

/// What is near a change of the clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Near {
    /// The hour before it.
    pub(super) hour: u8,
    /// The day of the month.
    pub(super) date: u8,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A field's range, and the names of its values from the first on.
struct Field {
    first: u8,
    last: u8,
    names: &'static [&'static str],
}

const MINUTE: Field = Field { first: 0, last: 59, names: &[] };
const HOUR: Field = Field { first: 0, last: 23, names: &[] };
const DATE: Field = Field { first: 1, last: 31, names: &[] };
const MONTH: Field = Field { first: 1, last: 12, names: &MONTHS };
const WEEKDAY: Field = Field { first: 0, last: 7, names: &WEEKDAYS };

/// A rule with 5 or 6 fields.
pub(super) fn rule(rng: &mut Rng, near: Option<Near>) -> String {
    let mut fields = Vec::new();
    if chance(rng, 25) {
        fields.push(if chance(rng, 20) { "*".to_owned() } else { list(rng, &MINUTE, None) });
    }
    let any_minute = chance(rng, 8);
    fields.push(if any_minute { "*".to_owned() } else { list(rng, &MINUTE, None) });
    let any_hour = chance(rng, 30);
    fields.push(if any_hour { "*".to_owned() } else { list(rng, &HOUR, near.map(|near| near.hour)) });
    fields.push(match rng.u8(..100) {
        ..52 => "*".to_owned(),
        52..58 => "?".to_owned(),
        _ => dates(rng, near.map(|near| near.date)),
    });
    fields.push(if chance(rng, 75) { "*".to_owned() } else { list(rng, &MONTH, None) });
    fields.push(match rng.u8(..100) {
        ..55 => "*".to_owned(),
        55..60 => "?".to_owned(),
        _ => weekdays(rng),
    });
    let blank = if chance(rng, 5) { "  " } else { " " };
    let around = if chance(rng, 3) { " " } else { "" };
    format!("{around}{}{around}", fields.join(blank))
}

/// `@daily` and the like.
pub(super) fn named(rng: &mut Rng) -> String {
    let names = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    let name = names[rng.usize(..names.len())];
    if chance(rng, 15) { any_case(rng, name) } else { name.to_owned() }
}

/// A rule that cannot be used.
pub(super) fn invalid(rng: &mut Rng) -> String {
    let minute = rng.u8(..60);
    match rng.u8(..10) {
        0 => format!("{} 4 * * *", rng.u8(60..)),
        1 => format!("{minute} 24 * * *"),
        2 => format!("{minute} 4 0 * *"),
        3 => format!("{minute} 4 * 13 *"),
        4 => format!("{minute} 4 * * 8"),
        5 => format!("{minute} 4 * * {}-{}", rng.u8(4..7), rng.u8(1..4)),
        6 => format!("{minute} {}-{} * * *", rng.u8(12..24), rng.u8(0..12)),
        7 => format!("{minute} 4 * * * */0"),
        8 => format!("{minute} 4 {} 2 *", rng.u8(30..32)),
        _ => format!("{minute} 4 * *"),
    }
}

/// A value of a field; one near the change of the clocks, if there is one, more often than not.
pub(super) fn value(rng: &mut Rng, first: u8, last: u8, near: Option<u8>) -> u8 {
    match near {
        Some(near) if chance(rng, 80) => {
            let count = last - first + 1;
            // From one before to two after.
            first + (near + count - first + rng.u8(..4) - 1) % count
        }
        _ => rng.u8(first..=last),
    }
}

fn chance(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

fn any_case(rng: &mut Rng, text: &str) -> String {
    text.chars().map(|letter| if rng.bool() { letter.to_ascii_uppercase() } else { letter }).collect()
}

/// A list of one to three entries.
fn list(rng: &mut Rng, field: &Field, near: Option<u8>) -> String {
    entries(rng, |rng| entry(rng, field, near))
}

fn entries(rng: &mut Rng, mut entry: impl FnMut(&mut Rng) -> String) -> String {
    let count = [1, 1, 1, 1, 1, 1, 2, 2, 2, 3][rng.usize(..10)];
    (0..count).map(|_| entry(rng)).collect::<Vec<_>>().join(",")
}

fn entry(rng: &mut Rng, field: &Field, near: Option<u8>) -> String {
    let mut one = || value(rng, field.first, field.last, near);
    let (a, b) = (one(), one());
    let (low, high) = (a.min(b), a.max(b));
    // Some go beyond the end.
    let step = if chance(rng, 5) { rng.u8(60..100) } else { rng.u8(1..=(field.last - field.first).div_ceil(2)) };
    let low = written(rng, field, low);
    match rng.u8(..100) {
        ..50 => low,
        50..68 => format!("{low}-{}", written(rng, field, high)),
        68..78 => format!("{low}-{}/{step}", written(rng, field, high)),
        78..88 => format!("{low}/{step}"),
        88..97 => format!("*/{step}"),
        97..99 => format!("{}-{}", field.first, field.last),
        _ => "*".to_owned(),
    }
}

/// A value as a number or by its name.
fn written(rng: &mut Rng, field: &Field, value: u8) -> String {
    match field.names.get(usize::from(value - field.first)) {
        Some(name) if chance(rng, 35) => any_case(rng, name),
        _ => value.to_string(),
    }
}

fn dates(rng: &mut Rng, near: Option<u8>) -> String {
    entries(rng, |rng| if chance(rng, 12) { "L".to_owned() } else { entry(rng, &DATE, near) })
}

fn weekdays(rng: &mut Rng) -> String {
    entries(rng, |rng| {
        let day = rng.u8(..=7);
        match rng.u8(..100) {
            ..10 => format!("{}L", written(rng, &WEEKDAY, day)),
            10..16 => format!("{}#{}", written(rng, &WEEKDAY, day), rng.u8(1..=5)),
            16..22 => ["1-5", "MON-FRI", "0-6", "1-7", "0-7", "6-7"][rng.usize(..6)].to_owned(),
            _ => entry(rng, &WEEKDAY, None),
        }
    })
}
