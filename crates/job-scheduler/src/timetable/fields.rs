//! A rule as sets of field values, and the search for the next wall-clock time in them.
//!
//! The search goes from the largest field to the smallest over bit masks, so that its cost depends on how many months
//! it has to look at, not on how many seconds lie between two fires.

use jiff::Span;
use jiff::civil::{Date, DateTime, Time};

use super::days::Days;

/// Bits 0-59.
pub(super) const ALL_SIXTY: u64 = (1 << 60) - 1;
/// Bits 0-23.
pub(super) const ALL_HOURS: u32 = (1 << 24) - 1;
/// Bits 1-12.
pub(super) const ALL_MONTHS: u16 = 0b1_1111_1111_1110;
/// The last year an instant can lie in.
pub(super) const LAST_YEAR: i16 = 9999;
/// 28 years in a row without a skipped leap day hold each of the 14 possible calendars, so a rule that does not fire
/// in them never does.
const ALL_CALENDARS: (i16, i16) = (2000, 2027);

/// The years a rule names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Years {
    /// Every year.
    Any,
    /// These, ascending.
    Only(Box<[i16]>),
}

/// A rule: the values each field may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) seconds: u64,
    pub(super) minutes: u64,
    pub(super) hours: u32,
    pub(super) days: Days,
    pub(super) months: u16,
    pub(super) years: Years,
}

impl Fields {
    /// Whether the rule names hours. A rule that does not is finer than an hour: it follows elapsed time.
    pub(super) fn names_hours(&self) -> bool {
        self.hours != ALL_HOURS
    }

    /// The last year in which the rule can fire.
    pub(super) fn last_year(&self) -> i16 {
        match &self.years {
            Years::Any => LAST_YEAR,
            Years::Only(years) => years.last().copied().unwrap_or(i16::MIN),
        }
    }

    /// Whether no date of any calendar matches.
    pub(super) fn never_match(&self) -> bool {
        match &self.years {
            Years::Any => {
                let (first, last) = ALL_CALENDARS;
                (first..=last).all(|year| self.first_date_in(year, 1, 1).is_none())
            }
            Years::Only(years) => years.iter().all(|year| self.first_date_in(*year, 1, 1).is_none()),
        }
    }

    /// The first matching wall-clock time not before `from`, in whole seconds; None after the last.
    pub(super) fn at_or_after(&self, from: DateTime) -> Option<DateTime> {
        let date = self.date_at_or_after(from.date())?;
        if date > from.date() {
            return Some(date.to_datetime(self.time_at_or_after(Time::midnight())?));
        }
        match self.time_at_or_after(from.time()) {
            Some(time) => Some(date.to_datetime(time)),
            None => {
                let date = self.date_at_or_after(from.date().tomorrow().ok()?)?;
                Some(date.to_datetime(self.time_at_or_after(Time::midnight())?))
            }
        }
    }

    fn date_at_or_after(&self, from: Date) -> Option<Date> {
        let in_year = |year: i16| match year == from.year() {
            true => self.first_date_in(year, from.month(), from.day()),
            false => self.first_date_in(year, 1, 1),
        };
        match &self.years {
            Years::Any => (from.year()..=LAST_YEAR).find_map(in_year),
            Years::Only(years) => {
                years[years.partition_point(|year| *year < from.year())..].iter().copied().find_map(in_year)
            }
        }
    }

    /// The first matching date of the year that is not before the month and day.
    fn first_date_in(&self, year: i16, month: i8, day: i8) -> Option<Date> {
        (month..=12).filter(|candidate| self.months & (1 << candidate) != 0).find_map(|candidate| {
            let first = Date::new(year, candidate, 1).ok()?;
            let from = if candidate == month { day } else { 1 };
            let days = self.days.in_month(first) & (u32::MAX << from);
            (days != 0).then(|| first.checked_add(Span::new().days(days.trailing_zeros() - 1)).ok()).flatten()
        })
    }

    fn time_at_or_after(&self, from: Time) -> Option<Time> {
        let (mut hour, mut minute) = (from.hour(), from.minute());
        // A fraction of a second is past its second.
        let mut second = from.second() + i8::from(from.subsec_nanosecond() > 0);
        while let Some(next_hour) = at_or_after(u64::from(self.hours), hour) {
            if next_hour > hour {
                (hour, minute, second) = (next_hour, 0, 0);
            }
            while let Some(next_minute) = at_or_after(self.minutes, minute) {
                if next_minute > minute {
                    (minute, second) = (next_minute, 0);
                }
                if let Some(second) = at_or_after(self.seconds, second) {
                    return Time::new(hour, minute, second, 0).ok();
                }
                (minute, second) = (minute + 1, 0);
            }
            (hour, minute, second) = (hour + 1, 0, 0);
        }
        None
    }
}

/// The lowest bit of the mask that is not below `from`.
fn at_or_after(mask: u64, from: i8) -> Option<i8> {
    let rest = mask & u64::MAX.checked_shl(u32::try_from(from).ok()?)?;
    (rest != 0).then_some(rest.trailing_zeros() as i8)
}
