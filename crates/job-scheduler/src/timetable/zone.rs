//! From wall-clock times to instants: what happens to a rule when its zone changes the clocks.
//!
//! A rule that names hours fires by the wall clock: a time that is skipped fires once, at the end of the gap, and a
//! time that is repeated fires the first time only. A rule that names no hours (every minute, every quarter of an hour)
//! follows elapsed time: it fires whenever the wall clock shows a matching time, in a repeated hour twice, and has
//! nothing to make up for a skipped one.

use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp, civil::DateTime};

use super::error::{RuleError, shown};
use super::fields::Fields;

const SECOND: SignedDuration = SignedDuration::from_secs(1);
/// More than any two wall clocks are apart.
const FAR: SignedDuration = SignedDuration::from_hours(72);

/// The zone with an IANA name (`Europe/Berlin`, any case).
///
/// The rules are those built into the program: every scheduler of one version fires at the same instants, on whatever
/// host it runs, and reading them is no I/O.
pub(super) fn named(name: &str, place: &str) -> Result<TimeZone, RuleError> {
    if name.eq_ignore_ascii_case("utc") || name.eq_ignore_ascii_case("z") {
        return Ok(TimeZone::UTC);
    }
    TimeZoneDatabase::bundled().get(name).map_err(|_| {
        RuleError::new(place, format!("{} is not a time zone (write an IANA name such as Europe/Berlin)", shown(name)))
    })
}

/// The rule's first instant after `after`; None after its last.
pub(super) fn next_after(fields: &Fields, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    // Whole seconds from here on, and "not before" rather than "after".
    let from =
        Timestamp::from_second(after.as_duration().as_secs() - i64::from(after.as_duration().subsec_nanos() < 0))
            .and_then(|second| second.checked_add(SECOND))
            .ok()?;
    if fields.names_hours() { by_wall_clock(fields, zone, from) } else { by_elapsed_time(fields, zone, from) }
}

fn by_wall_clock(fields: &Fields, zone: &TimeZone, from: Timestamp) -> Option<Timestamp> {
    // Later wall-clock times never map to earlier instants, so the first match that maps into the range is the answer.
    let mut wall = first_wall(zone, from);
    if let Some(instant) = instant_of(zone, wall)
        && instant < from
    {
        // The second pass of a repeated hour: all of it has had its fires.
        wall = end_of_fold(zone, from).unwrap_or(wall);
    }
    loop {
        wall = fields.at_or_after(wall)?;
        let instant = instant_of(zone, wall)?;
        if instant >= from {
            return Some(instant);
        }
        wall = wall.checked_add(SECOND).ok()?;
    }
}

/// The wall-clock time at which the search for instants from `from` on begins: a second after that of the second
/// before. Where a gap ends at `from` that is the beginning of the gap, whose times fire at its end.
fn first_wall(zone: &TimeZone, from: Timestamp) -> DateTime {
    let before = from.checked_sub(SECOND).ok().and_then(|before| zone.to_datetime(before).checked_add(SECOND).ok());
    before.unwrap_or_else(|| zone.to_datetime(from))
}

fn by_elapsed_time(fields: &Fields, zone: &TimeZone, mut from: Timestamp) -> Option<Timestamp> {
    // Between two changes of the clocks wall time and elapsed time run alike.
    loop {
        let offset = zone.to_offset(from);
        let change = zone.following(from).next().map(|transition| transition.timestamp());
        let mut next = change;
        if let Some(wall) = fields.at_or_after(offset.to_datetime(from)) {
            let instant = offset.to_timestamp(wall).ok()?;
            match change {
                // No change takes clocks back so far that a match before `wall` could come again, so all changes until
                // shortly before it can be left out.
                Some(change) if change > instant => return Some(instant),
                Some(change) if change.duration_since(from) > FAR => {
                    next = instant.checked_sub(FAR).ok().max(Some(change));
                }
                Some(_) => {}
                None => return Some(instant),
            }
        }
        from = next?;
        if zone.to_datetime(from).year() > fields.last_year() {
            return None;
        }
    }
}

/// The instant at which a rule that names hours fires for this wall-clock time.
fn instant_of(zone: &TimeZone, wall: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(wall).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(wall).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wall).ok(),
        AmbiguousOffset::Gap { after, .. } => {
            // With the offset that only holds later, the time lies before the change.
            let earlier = after.to_timestamp(wall).ok()?;
            zone.following(earlier).find(|change| change.offset() == after).map(|change| change.timestamp())
        }
    }
}

/// The wall-clock time at which the repeated hour ends whose second pass holds `instant`.
fn end_of_fold(zone: &TimeZone, instant: Timestamp) -> Option<DateTime> {
    // `preceding` leaves out a change at the instant itself.
    let change = zone.preceding(instant.checked_add(SECOND).ok()?).next()?.timestamp();
    let before = zone.to_offset(change.checked_sub(SECOND).ok()?);
    Some(before.to_datetime(change))
}
