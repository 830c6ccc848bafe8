//! The only place that reads the environment.
//!
//! Each variable is a [`Var`]: name, default, unit and reason side by side. A service's configuration is read with a
//! [`Reader`], which goes on after a fault so that one start reports every fault at once. The table in
//! docs/configuration.md is made from them.

pub mod id;
mod misspelt;
mod nearest;
pub mod shared;
mod tasks;

pub use crate::http_url::{HttpUrl, parse_http_url, shown};
pub use crate::secret::Secret;
pub use jiff::tz::TimeZone;
pub use misspelt::{Known, misspelt};
pub use nearest::nearest;
pub use tasks::Tasks;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// One environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var {
    /// The variable's name.
    pub name: &'static str,
    /// What it is when unset or empty, as one would write it; "" when there is no default.
    pub default: &'static str,
    /// Which programs read it.
    pub used_by: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
}

/// Defines variables as constants of type [`Var`]. What their documentation says is what the table of variables says.
///
/// ```
/// job_utils::variables! {
///     /// Files that a user may upload in an hour.
///     pub UPLOAD_LIMIT = "5" for "uploads";
/// }
/// assert_eq!((UPLOAD_LIMIT.name, UPLOAD_LIMIT.default), ("UPLOAD_LIMIT", "5"));
/// assert_eq!(UPLOAD_LIMIT.about, "Files that a user may upload in an hour.");
/// ```
#[macro_export]
macro_rules! variables {
    ($($(#[doc = $about:literal])+ $visibility:vis $name:ident = $default:literal for $used_by:expr;)+) => {$(
        $(#[doc = $about])+
        $visibility const $name: $crate::config::Var = $crate::config::Var {
            name: stringify!($name),
            default: $default,
            used_by: $used_by,
            about: concat!($($about),+).trim_ascii_start(),
        };
    )+};
}

/// Where variables come from: the process's environment, or a map in tests.
pub trait Env {
    /// The variable's value, None when it is unset.
    fn get(&self, name: &str) -> Option<String>;

    /// The names of all variables, where they can be told.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    fn get(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    fn names(&self) -> Vec<String> {
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }
}

impl Env for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        HashMap::get(self, name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

impl Env for BTreeMap<&str, &str> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).map(|value| (*value).to_owned())
    }

    fn names(&self) -> Vec<String> {
        self.keys().map(|name| (*name).to_owned()).collect()
    }
}

/// What is wrong with one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The variable's name.
    pub name: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// Everything that is wrong with a configuration. A program that gets one exits with 64.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Every fault, in the order of reading.
    pub faults: Vec<Fault>,
}

crate::debug_as_chain!(ConfigError);

impl ConfigError {
    /// Refuses settings that have problems, as their `problems()` found them.
    ///
    /// # Errors
    /// There are some.
    pub fn none_of(problems: impl IntoIterator<Item = (&'static Var, String)>) -> Result<(), Self> {
        let faults: Vec<Fault> = problems.into_iter().map(|(var, message)| Fault { name: var.name, message }).collect();
        if faults.is_empty() { Ok(()) } else { Err(Self { faults }) }
    }

    /// The value when both are; else every fault of both, the second's first.
    ///
    /// # Errors
    /// Either has faults.
    pub fn both<T>(first: Result<(), Self>, second: Result<T, Self>) -> Result<T, Self> {
        match (first, second) {
            (Ok(()), second) => second,
            (Err(first), Ok(_)) => Err(first),
            (Err(first), Err(mut second)) => {
                second.faults.extend(first.faults);
                Err(second)
            }
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not valid")?;
        for fault in &self.faults {
            write!(f, "\n  {}: {}", fault.name, fault.message)?;
        }
        Ok(())
    }
}

/// What is to be said of a variable whose value can be used.
#[derive(Debug, PartialEq, Eq)]
struct Notice {
    warns: bool,
    name: &'static str,
    message: String,
}

impl Notice {
    fn log(&self) {
        if self.warns {
            tracing::warn!("{}: {}", self.name, self.message);
        } else {
            tracing::info!("{}: {}", self.name, self.message);
        }
    }
}

/// Reads variables and collects faults.
///
/// ```
/// use job_utils::config::{Reader, Var};
/// const PORT: Var = Var { name: "PORT", default: "8080", used_by: "functions", about: "Port to listen on." };
/// let env = std::collections::BTreeMap::from([("PORT", "eighty")]);
/// let mut reader = Reader::new(&env);
/// let port: u16 = reader.number(&PORT);
/// let error = reader.finish(port).unwrap_err();
/// assert!(error.to_string().contains("PORT: \"eighty\" is not a whole number"));
/// ```
pub struct Reader<'a> {
    env: &'a dyn Env,
    faults: Vec<Fault>,
    notices: Vec<Notice>,
}

impl<'a> Reader<'a> {
    /// A reader of `env` without faults.
    pub fn new(env: &'a dyn Env) -> Self {
        Self { env, faults: Vec::new(), notices: Vec::new() }
    }

    /// Notes that a variable's value cannot be used. One fault a variable: the first says what is wrong, and a service
    /// of several parts reads some variables more than once.
    pub fn fault(&mut self, var: &Var, message: impl Into<String>) {
        if self.faults.iter().all(|fault| fault.name != var.name) {
            self.faults.push(Fault { name: var.name, message: message.into() });
        }
    }

    /// Warns of a value that can be used but does something else than it seems to. [`Reader::finish`] logs it, once.
    pub fn warn(&mut self, var: &Var, message: impl Into<String>) {
        self.notice(Notice { warns: true, name: var.name, message: message.into() });
    }

    /// Says what follows from a variable that is perhaps unset. [`Reader::finish`] logs it, once.
    pub fn inform(&mut self, var: &Var, message: impl Into<String>) {
        self.notice(Notice { warns: false, name: var.name, message: message.into() });
    }

    fn notice(&mut self, notice: Notice) {
        if !self.notices.contains(&notice) {
            self.notices.push(notice);
        }
    }

    /// The value, or every fault found so far.
    pub fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        if !self.faults.is_empty() {
            return Err(ConfigError { faults: self.faults });
        }
        self.notices.iter().for_each(Notice::log);
        Ok(value)
    }

    /// The variable as the user set it; an empty variable is an unset one.
    pub fn optional(&mut self, var: &Var) -> Option<String> {
        self.env.get(var.name).filter(|value| !value.is_empty())
    }

    /// The variable, or its default.
    pub fn text(&mut self, var: &Var) -> String {
        self.optional(var).unwrap_or_else(|| var.default.to_owned())
    }

    /// A value that is never shown.
    pub fn secret(&mut self, var: &Var) -> Option<Secret> {
        self.optional(var).map(Secret::new)
    }

    /// The path that a variable holds; None when it is unset.
    pub fn path(&mut self, var: &Var) -> Option<PathBuf> {
        self.optional(var).map(PathBuf::from)
    }

    /// true, 1, yes, on or false, 0, no, off in any case.
    pub fn flag(&mut self, var: &Var) -> bool {
        let value = self.text(var);
        match value.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => {
                self.fault(var, format!("{value:?} is neither true (1, yes) nor false (0, no)"));
                false
            }
        }
    }

    /// A whole number within the range of its type.
    pub fn number<T: std::str::FromStr + Default>(&mut self, var: &Var) -> T {
        let value = self.text(var);
        value.trim().parse().unwrap_or_else(|_| {
            self.fault(var, format!("{value:?} is not a whole number that fits here (for example {})", var.default));
            T::default()
        })
    }

    /// A whole number within a range.
    pub fn number_within<T>(&mut self, var: &Var, range: RangeInclusive<T>) -> T
    where
        T: std::str::FromStr + Default + PartialOrd + fmt::Display,
    {
        let number = self.number(var);
        if !range.contains(&number) {
            self.fault(var, format!("{number} is not within {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A duration: a whole number with the unit ms, s, m or h; without a unit, seconds.
    pub fn duration(&mut self, var: &Var) -> Duration {
        let value = self.text(var);
        let problem = match parse_duration(&value) {
            Some(duration) if duration <= LONGEST => return duration,
            Some(_) => format!("{value:?} is longer than {}", in_words(LONGEST)),
            None => format!("{value:?} is not a duration (for example {}; units ms, s, m, h)", example_duration(var)),
        };
        self.fault(var, problem);
        Duration::ZERO
    }

    /// A duration that cannot be zero.
    pub fn positive_duration(&mut self, var: &Var) -> Duration {
        let duration = self.duration(var);
        if duration.is_zero() {
            self.fault(var, format!("must be longer than 0 (for example {})", example_duration(var)));
        }
        duration
    }

    /// Entries between commas, without the space around them and without empty ones.
    pub fn list(&mut self, var: &Var) -> Vec<String> {
        self.text(var).split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
    }

    /// An http or https URL as set by the user.
    pub fn url(&mut self, var: &Var) -> Option<HttpUrl> {
        let value = self.optional(var)?;
        match parse_http_url(&value) {
            Ok(url) => Some(url),
            Err(message) => {
                self.fault(var, message);
                None
            }
        }
    }
}

/// Ten years: clocks, and intervals of Postgres, can hold it.
pub const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A duration as one would write it in a setting.
pub fn in_words(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match (seconds, millis) {
        (seconds, 0) if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        (seconds, 0) if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        (seconds, 0) => format!("{seconds}s"),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// A duration that a variable could have: its default, if it has one.
fn example_duration(var: &Var) -> &'static str {
    if var.default.is_empty() { "30s" } else { var.default }
}

/// A duration as a setting has it: a whole number with the unit ms, s, m or h; without a unit, seconds.
pub fn parse_duration(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = value[..digits].parse().ok()?;
    match value[digits..].trim() {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => Some(Duration::from_secs(number)),
        "m" | "min" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("25"), Some(Duration::from_secs(25)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration(" 15 m "), Some(Duration::from_secs(900)));
        assert_eq!(parse_duration("4h"), Some(Duration::from_secs(4 * 3600)));
        for text in ["25s", "500ms", "15m", "4h", "90s", "1500ms"] {
            assert_eq!(parse_duration(text).map(in_words).as_deref(), Some(text));
        }
        for bad in ["", "s", "-1", "1d", "1.5s", "99999999999999999999h"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_number_or_duration_beyond_all_use_is_a_fault() {
        const COUNT: Var = Var { name: "COUNT", default: "5", used_by: "", about: "" };
        const WAIT: Var = Var { name: "WAIT", default: "5s", used_by: "", about: "" };
        let faults = |count: &str, wait: &str| {
            let env = BTreeMap::from([("COUNT", count), ("WAIT", wait)]);
            let mut reader = Reader::new(&env);
            let (_, _): (usize, _) = (reader.number_within(&COUNT, 2..=10), reader.duration(&WAIT));
            reader.finish(()).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(faults("10", "87600h"), "");
        let said = faults("11", "87601h");
        assert!(
            said.contains("COUNT: 11 is not within 2 to 10") && said.contains("WAIT: \"87601h\" is longer"),
            "{said}"
        );
        assert!(faults("1", "18446744073709551615").contains("COUNT: 1 is not within 2 to 10"));
    }

    #[test]
    fn an_empty_variable_is_an_unset_one() {
        const NAME: Var = Var { name: "NAME", default: "fallback", used_by: "", about: "" };
        let env = BTreeMap::from([("NAME", "")]);
        assert_eq!(Reader::new(&env).text(&NAME), "fallback");
    }
}
