//! A date as it is written: the forms that `Date.parse` of V8 (Node, Chrome) reads, ISO 8601 first and then nearly
//! anything.
//!
//! Where V8 makes a date of what nobody means as one, this reads none: a day that its month does not have, a date
//! without a year, words and signs that V8 passes over.

use jiff::civil::{Date, DateTime, Time};

/// Longer texts are no dates.
const LONGEST: usize = 200;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
/// Names of zones with their hours from UTC.
const ZONES: [(&str, i32); 12] = [
    ("ut", 0),
    ("utc", 0),
    ("z", 0),
    ("gmt", 0),
    ("est", -5),
    ("edt", -4),
    ("cst", -6),
    ("cdt", -5),
    ("mst", -7),
    ("mdt", -6),
    ("pst", -8),
    ("pdt", -7),
];

/// The last year, and the first, of JavaScript's dates. Nearly: they end within them.
const YEARS: std::ops::RangeInclusive<i64> = -271_820..=275_759;

/// A date as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// A wall-clock time, and its offset in seconds; None: that of the reader.
    At(DateTime, Option<i32>),
    /// Before all instants there are.
    Earlier,
    /// After them.
    Later,
}

impl Written {
    /// Reads a text; None when it is no date.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let tokens = tokens(text)?;
        match iso(&tokens) {
            Iso::Is(written) => written,
            Iso::Not => Reader::default().read(&tokens),
        }
    }

    fn of(year: i64, month: u32, day: u32, clock: Clock, offset: Option<i32>) -> Option<Self> {
        // The calendar repeats itself every 400 years.
        let date = Date::new(i16::try_from(year.rem_euclid(400) + 2000).ok()?, to_i8(month)?, to_i8(day)?).ok()?;
        if !YEARS.contains(&year) {
            return None;
        }
        let Clock { hour, minute, second, nanosecond } = clock;
        if hour > 24 || hour == 24 && (minute, second, nanosecond) != (0, 0, 0) {
            return None;
        }
        let nanosecond = i32::try_from(nanosecond).ok()?;
        let time = Time::new(to_i8(hour % 24)?, to_i8(minute)?, to_i8(second)?, nanosecond).ok()?;
        let beyond = if year < 0 { Self::Earlier } else { Self::Later };
        let Ok(date) = Date::new(i16::try_from(year).unwrap_or(i16::MAX), date.month(), date.day()) else {
            return Some(beyond);
        };
        let Ok(date) = (if hour == 24 { date.tomorrow() } else { Ok(date) }) else { return Some(beyond) };
        Some(Self::At(date.to_datetime(time), offset))
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    hour: u32,
    minute: u32,
    second: u32,
    nanosecond: u32,
}

fn to_i8(number: u32) -> Option<i8> {
    i8::try_from(number).ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// Its digits.
    Number(&'a str),
    Word(&'a str),
    Mark(char),
    Space,
}

use Token::{Mark, Number, Space, Word};

/// What a text consists of; None for what no date has.
fn tokens(text: &str) -> Option<Vec<Token<'_>>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = |is: fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let (token, length) = match first {
            '0'..='9' => {
                let length = run(|c| c.is_ascii_digit());
                (Number(&rest[..length]), length)
            }
            ':' | '.' | '-' | '+' | ',' | '/' => (Mark(first), 1),
            // A remark.
            '(' => (Mark('('), remark(rest)),
            _ if first.is_whitespace() || first == '\u{feff}' => (Space, first.len_utf8()),
            _ if first.is_alphabetic() => {
                let length = run(char::is_alphabetic);
                (Word(&rest[..length]), length)
            }
            _ => return None,
        };
        tokens.push(token);
        rest = &rest[length..];
    }
    Some(tokens)
}

/// The length of a text in parentheses, or of all of it where they are not closed.
fn remark(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

fn number(digits: &str) -> Option<u32> {
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() { Some(0) } else { digits.parse().ok().filter(|_| digits.len() <= 9) }
}

/// A number of exactly so many digits, within bounds.
fn fixed(token: Option<&Token<'_>>, length: usize, bounds: std::ops::RangeInclusive<u32>) -> Option<u32> {
    match token {
        Some(Number(digits)) if digits.len() == length => number(digits).filter(|number| bounds.contains(number)),
        _ => None,
    }
}

/// The digits after a point.
fn fraction(digits: &str) -> Option<u32> {
    let mut digits: String = digits.chars().take(9).collect();
    while digits.len() < 9 {
        digits.push('0');
    }
    digits.parse().ok()
}

fn is_word(token: Option<&Token<'_>>, word: &str) -> bool {
    matches!(token, Some(Word(text)) if text.eq_ignore_ascii_case(word))
}

enum Iso {
    /// It begins as a date of the standard's; None: and is none.
    Is(Option<Written>),
    /// Another form.
    Not,
}

/// `2030`, `2030-12`, `2030-12-31`, `+002030-…`, with `T23:59[:59[.9]]` or without, with `Z` or `+01:00` or without.
fn iso(tokens: &[Token<'_>]) -> Iso {
    let (year, mut rest) = match tokens {
        [sign @ Mark('+' | '-'), Number(digits), rest @ ..] if digits.len() == 6 => {
            let Some(year) = number(digits).map(i64::from) else { return Iso::Not };
            if (*sign, year) == (Mark('-'), 0) {
                return Iso::Is(None);
            }
            (if *sign == Mark('-') { -year } else { year }, rest)
        }
        [year, rest @ ..] => match fixed(Some(year), 4, 0..=9999) {
            Some(year) => (i64::from(year), rest),
            None => return Iso::Not,
        },
        [] => return Iso::Not,
    };
    let mut parts = [1; 2];
    for (part, most) in parts.iter_mut().zip([12, 31]) {
        if rest.first() != Some(&Mark('-')) {
            break;
        }
        let Some(value) = fixed(rest.get(1), 2, 1..=most) else { return Iso::Not };
        (*part, rest) = (value, &rest[2..]);
    }
    match rest {
        [] => Iso::Is(Written::of(year, parts[0], parts[1], Clock::default(), Some(0))),
        [token, rest @ ..] if is_word(Some(token), "t") => {
            Iso::Is(iso_time(rest).and_then(|(clock, offset)| Written::of(year, parts[0], parts[1], clock, offset)))
        }
        // With a space and a time after it, it is one of the other forms.
        [Mark('-'), ..] => Iso::Is(None),
        _ => Iso::Not,
    }
}

fn iso_time(tokens: &[Token<'_>]) -> Option<(Clock, Option<i32>)> {
    let [hour, Mark(':'), minute, rest @ ..] = tokens else { return None };
    let mut clock =
        Clock { hour: fixed(Some(hour), 2, 0..=24)?, minute: fixed(Some(minute), 2, 0..=59)?, ..Clock::default() };
    let mut rest = rest;
    if let [Mark(':'), second, after @ ..] = rest {
        clock.second = fixed(Some(second), 2, 0..=59)?;
        rest = after;
        if let [Mark('.'), Number(digits), after @ ..] = rest {
            clock.nanosecond = fraction(digits)?;
            rest = after;
        }
    }
    let offset = match rest {
        [] => None,
        [zone] if is_word(Some(zone), "z") => Some(0),
        [sign @ Mark('+' | '-'), rest @ ..] => {
            let (hours, minutes) = match rest {
                [both] => fixed(Some(both), 4, 0..=2359).map(|both| (both / 100, both % 100))?,
                [hours, Mark(':'), minutes] => (fixed(Some(hours), 2, 0..=23)?, fixed(Some(minutes), 2, 0..=59)?),
                _ => return None,
            };
            Some(Offset { west: *sign == Mark('-'), hours, minutes: Some(minutes) }.seconds()?)
        }
        _ => return None,
    };
    Some((clock, offset))
}

#[derive(Debug, Clone, Copy)]
struct Offset {
    west: bool,
    hours: u32,
    /// None: they may still come.
    minutes: Option<u32>,
}

impl Offset {
    fn seconds(self) -> Option<i32> {
        let minutes = self.minutes.unwrap_or_default();
        if self.hours > 23 || minutes > 59 {
            return None;
        }
        let seconds = i32::try_from(self.hours * 3600 + minutes * 60).ok()?;
        Some(if self.west { -seconds } else { seconds })
    }
}

/// Reads the other forms: parts in nearly any order.
#[derive(Debug, Default)]
struct Reader {
    /// Numbers of the date, as they come.
    days: Vec<u32>,
    month: Option<u32>,
    /// Hour, minute, second and nanosecond, as far as they have come.
    time: Vec<u32>,
    /// The time is complete.
    timed: bool,
    /// AM is 0, PM is 12.
    half: Option<u32>,
    offset: Option<Offset>,
    has_number: bool,
}

impl Reader {
    fn read(mut self, tokens: &[Token<'_>]) -> Option<Written> {
        let mut rest = tokens;
        while let [token, after @ ..] = rest {
            rest = match *token {
                Number(digits) => self.number(digits, after)?,
                Word(word) => self.word(word, after)?,
                Mark('+' | '-') if self.offset.is_some_and(is_utc) || !self.time.is_empty() => {
                    self.offset(*token == Mark('-'), after)?
                }
                Mark('+' | '-') => return None,
                Mark(_) | Space => after,
            };
        }
        self.written()
    }

    fn number<'t, 'a>(&mut self, digits: &str, after: &'t [Token<'a>]) -> Option<&'t [Token<'a>]> {
        self.has_number = true;
        let value = number(digits)?;
        let expected = !self.timed
            && match self.time.len() {
                1 | 2 => true,
                // Milliseconds.
                3 => value < 1000,
                _ => false,
            };
        match after {
            [Mark(':'), after @ ..] => {
                if self.timed || self.time.len() == 3 {
                    return None;
                }
                self.time.push(value);
                Some(after)
            }
            [Mark('.'), Number(fractions), after @ ..] if expected && self.time.len() < 3 => {
                self.time.push(value);
                self.time.resize(3, 0);
                self.time.push(fraction(fractions)?);
                self.timed = true;
                Some(after)
            }
            _ => {
                if let Some(Offset { minutes: minutes @ None, .. }) = &mut self.offset {
                    *minutes = Some(value);
                } else if expected {
                    self.time.push(if self.time.len() == 3 { value * 1_000_000 } else { value });
                    self.timed = true;
                    // What follows directly belongs to the time.
                    let ends = match after {
                        [] | [Space | Mark('+' | '-'), ..] => true,
                        [zone, ..] => is_word(Some(zone), "z"),
                    };
                    return ends.then_some(after);
                } else if self.days.len() < 3 {
                    self.days.push(value);
                    if let ([Mark('-'), after @ ..], 1 | 2) = (after, self.days.len()) {
                        return Some(after);
                    }
                } else {
                    return None;
                }
                Some(after)
            }
        }
    }

    fn word<'t, 'a>(&mut self, word: &str, after: &'t [Token<'a>]) -> Option<&'t [Token<'a>]> {
        let word = word.to_ascii_lowercase();
        let month = word.get(..3).and_then(|start| MONTHS.iter().position(|name| *name == start));
        if let ("am" | "pm", false) = (word.as_str(), self.time.is_empty()) {
            self.half = Some(if word == "pm" { 12 } else { 0 });
        } else if let Some(month) = month {
            self.month = Some(u32::try_from(month).ok()? + 1);
            if let [Mark('-'), after @ ..] = after {
                return Some(after);
            }
        } else if let (Some((_, hours)), true) = (ZONES.iter().find(|(name, _)| *name == word), self.has_number) {
            self.offset = Some(Offset { west: *hours < 0, hours: hours.unsigned_abs(), minutes: Some(0) });
        } else if self.has_number || word.len() < 3 || !WEEKDAYS.iter().any(|name| name.starts_with(&word)) {
            return None;
        }
        Some(after)
    }

    /// An offset: `+1`, `+01`, `+0100`, `+01:00`.
    fn offset<'t, 'a>(&mut self, west: bool, after: &'t [Token<'a>]) -> Option<&'t [Token<'a>]> {
        let (digits, after) = match after {
            [Number(digits), after @ ..] => (*digits, after),
            _ => return None,
        };
        let value = number(digits)?;
        let (hours, minutes) = match (digits.len(), after) {
            (_, [Mark(':'), ..]) => (value, None),
            (1 | 2, _) => (value, Some(0)),
            (3 | 4, _) => (value / 100, Some(value % 100)),
            _ => return None,
        };
        self.offset = Some(Offset { west, hours, minutes });
        Some(after)
    }

    fn written(self) -> Option<Written> {
        let is_day = |number: &u32| (1..=31).contains(number);
        let (year, month, day) = match (self.month, self.days.as_slice()) {
            (Some(month), [year]) if *year > 31 => (*year, month, 1),
            (Some(month), [day, year]) if is_day(day) => (*year, month, *day),
            (Some(month), [year, day]) => (*year, month, *day),
            (None, [month, day, year]) if is_day(month) => (*year, *month, *day),
            (None, [year, month, day]) => (*year, *month, *day),
            (None, [year, month]) if *year > 31 => (*year, *month, 1),
            (None, [year @ 1000..=9999]) => (*year, 1, 1),
            _ => return None,
        };
        // A zero in the first place is no year.
        if self.days.first() == Some(&0) {
            return None;
        }
        let year = match year {
            0..50 => year + 2000,
            50..100 => year + 1900,
            _ => year,
        };
        let part = |index| self.time.get(index).copied().unwrap_or_default();
        let mut clock = Clock { hour: part(0), minute: part(1), second: part(2), nanosecond: part(3) };
        if let Some(half) = self.half {
            if clock.hour > 12 {
                return None;
            }
            clock.hour = clock.hour % 12 + half;
        }
        let offset = match self.offset {
            Some(offset) => Some(offset.seconds()?),
            None => None,
        };
        Written::of(year.into(), month, day, clock, offset)
    }
}

fn is_utc(offset: Offset) -> bool {
    (offset.hours, offset.minutes) == (0, Some(0))
}
