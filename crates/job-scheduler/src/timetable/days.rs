//! Which days of a month a rule names, as a bit mask: the day-of-month and the day-of-week field together.

use jiff::civil::Date;

/// One bit a week, from bit 0 on: shifted to a weekday's first date it marks all its dates in a month.
const WEEKLY: u32 = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28;
/// Dates 1-31 as bits.
pub(super) const ALL_DATES: u32 = 0xffff_fffe;
/// Sunday (bit 0) to Saturday (bit 6).
pub(super) const ALL_WEEKDAYS: u8 = 0x7f;

/// How the two day fields of a rule are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    /// A day matches when both fields do.
    Both,
    /// A day matches when one of the fields does: cron, when both are restricted.
    Either,
}

/// The days a rule fires on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Days {
    /// Dates 1-31 as bits.
    pub(super) dates: u32,
    /// The last day of the month, whatever its date.
    pub(super) last_date: bool,
    /// Weekdays as bits, Sunday is bit 0.
    pub(super) weekdays: u8,
    /// Weekdays of which only the last in a month counts.
    pub(super) last_weekdays: u8,
    /// Weekdays of which only the first, second, … fifth in a month counts.
    pub(super) nth_weekdays: [u8; 5],
    /// How dates and weekdays are joined.
    pub(super) join: Join,
}

impl Days {
    /// Every day.
    pub(super) fn all() -> Self {
        Self { dates: ALL_DATES, weekdays: ALL_WEEKDAYS, ..Self::none() }
    }

    /// No day.
    pub(super) fn none() -> Self {
        Self { dates: 0, last_date: false, weekdays: 0, last_weekdays: 0, nth_weekdays: [0; 5], join: Join::Both }
    }

    /// The matching dates of the month that starts with `first`, as bits 1-31.
    pub(super) fn in_month(&self, first: Date) -> u32 {
        let length = first.days_in_month();
        let in_month = ALL_DATES & (u32::MAX >> (31 - length));
        let dates = (self.dates | u32::from(self.last_date) << length) & in_month;
        let weekdays = self.weekdays_in_month(first, in_month);
        match self.join {
            Join::Both => dates & weekdays,
            Join::Either => dates | weekdays,
        }
    }

    fn weekdays_in_month(&self, first: Date, in_month: u32) -> u32 {
        if self.weekdays == ALL_WEEKDAYS {
            return in_month;
        }
        let first_weekday = first.weekday().to_sunday_zero_offset();
        let mut matching = 0;
        for weekday in 0..7_i8 {
            let bit = 1_u8 << weekday;
            let its_dates = (WEEKLY << (1 + (weekday - first_weekday).rem_euclid(7))) & in_month;
            if self.weekdays & bit != 0 {
                matching |= its_dates;
            }
            if self.last_weekdays & bit != 0 {
                matching |= 1 << its_dates.ilog2();
            }
            for (nth, weekdays) in self.nth_weekdays.iter().enumerate() {
                if weekdays & bit != 0 {
                    // A fifth one may lie beyond bit 31.
                    let date = 1_u64 << (its_dates.trailing_zeros() as usize + 7 * nth);
                    matching |= date as u32 & its_dates;
                }
            }
        }
        matching
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn dates(mask: u32) -> Vec<u32> {
        (0..32).filter(|day| mask & (1 << day) != 0).collect()
    }

    #[test]
    fn a_month_has_as_many_days_as_the_calendar_says() {
        assert_eq!(dates(Days::all().in_month(date(2024, 2, 1))).len(), 29);
        assert_eq!(dates(Days::all().in_month(date(2100, 2, 1))).len(), 28);
        assert_eq!(dates(Days::all().in_month(date(2026, 1, 1))).len(), 31);
    }

    #[test]
    fn weekdays_last_weekdays_and_nth_weekdays_fall_on_the_calendar_s_dates() {
        let mondays = Days { dates: ALL_DATES, weekdays: 1 << 1, ..Days::none() };
        assert_eq!(dates(mondays.in_month(date(2026, 6, 1))), [1, 8, 15, 22, 29]);
        let last_friday = Days { dates: ALL_DATES, last_weekdays: 1 << 5, ..Days::none() };
        assert_eq!(dates(last_friday.in_month(date(2026, 2, 1))), [27]);
        assert_eq!(dates(last_friday.in_month(date(2026, 1, 1))), [30]);
        let mut fifth_monday = Days { dates: ALL_DATES, ..Days::none() };
        fifth_monday.nth_weekdays[4] = 1 << 1;
        assert_eq!(dates(fifth_monday.in_month(date(2026, 6, 1))), [29]);
        assert_eq!(dates(fifth_monday.in_month(date(2026, 7, 1))), [0_u32; 0]);
    }
}
