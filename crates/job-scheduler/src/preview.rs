//! `next`: when would a schedule fire? Answers without a database.

use std::io::{BufRead, ErrorKind, Write};

use job_utils::service::ExitError;
use serde_json::{Map, Value, json};

use crate::timetable::{self, RuleError, TimeZone, Timestamp, Timetable};

/// How many fires are shown unless told.
const COUNT: u64 = 5;

/// Prints the next fires of a schedule as RFC 3339 UTC instants, one a line.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("schedule").required(true).args(["rule", "json", "batch"])))]
pub struct Preview {
    /// A cron rule, a date, or a recurrence object as JSON.
    #[arg(long, allow_hyphen_values = true)]
    rule: Option<String>,
    /// A full schedule_info as JSON.
    #[arg(long, value_name = "SCHEDULE_INFO", conflicts_with_all = ["tz", "start", "end"])]
    json: Option<String>,
    /// Read JSON lines {"rule" | "schedule_info", "tz", "from", "count"} from standard input, and answer each with a
    /// line {"next": […]} or {"error": …}, and "warnings" when there are any.
    #[arg(long, conflicts_with_all = ["tz", "start", "end"])]
    batch: bool,
    /// The rule's IANA zone [default: TZ, else UTC].
    #[arg(long)]
    tz: Option<String>,
    /// Show fires strictly after this instant [default: now].
    #[arg(long, value_name = "RFC3339")]
    from: Option<String>,
    /// Nothing fires before or at this instant.
    #[arg(long, value_name = "RFC3339")]
    start: Option<String>,
    /// Nothing fires after this instant.
    #[arg(long, value_name = "RFC3339")]
    end: Option<String>,
    /// How many fires to show.
    #[arg(long, default_value_t = COUNT)]
    count: u64,
}

impl Preview {
    /// Answers on `output`; what has no effect in the schedule is told on standard error. `zone` is for rules that name
    /// none; `now` is the default of `--from`.
    ///
    /// # Errors
    /// A schedule or date that cannot be used, with its bad part marked.
    pub fn run(
        &self,
        zone: &TimeZone,
        now: Timestamp,
        input: impl BufRead,
        mut output: impl Write,
    ) -> Result<(), ExitError> {
        let from = match &self.from {
            Some(from) => timetable::date(&json!(from), zone, "--from").map_err(usage)?,
            None => now,
        };
        if self.batch {
            return written(self.answer_lines(zone, from, input, &mut output));
        }
        let (timetable, warnings) = self.timetable(zone).map_err(usage)?;
        for warning in warnings {
            // Whoever has closed standard error wants no warnings.
            let _ = writeln!(std::io::stderr(), "warning: {warning}");
        }
        written(fires(&timetable, from, self.count).try_for_each(|at| writeln!(output, "{at}")))
    }

    fn timetable(&self, zone: &TimeZone) -> Result<(Timetable, Vec<String>), RuleError> {
        if let Some(text) = &self.json {
            return Timetable::from_json_with_warnings(text, zone);
        }
        let mut schedule = Map::new();
        if let Some(text) = &self.rule {
            schedule.insert("rule".to_owned(), rule_value(text)?);
        }
        for (key, value) in [("tz", &self.tz), ("start", &self.start), ("end", &self.end)] {
            if let Some(text) = value {
                schedule.insert(key.to_owned(), json!(text));
            }
        }
        Timetable::parse_with_warnings(&Value::Object(schedule), zone)
    }

    /// One line for each, whatever is in it: who asks counts on it.
    fn answer_lines(
        &self,
        zone: &TimeZone,
        from: Timestamp,
        input: impl BufRead,
        output: &mut impl Write,
    ) -> std::io::Result<()> {
        for line in input.split(b'\n') {
            let answer = match self.answer(&line?, zone, from) {
                Ok((next, warnings)) if warnings.is_empty() => json!({ "next": next }),
                Ok((next, warnings)) => json!({ "next": next, "warnings": warnings }),
                Err(error) => json!({ "error": error.to_string() }),
            };
            writeln!(output, "{answer}")?;
        }
        Ok(())
    }

    /// The fires that a line asks for, and the warnings. Null is as good as absent in it.
    fn answer(&self, line: &[u8], zone: &TimeZone, from: Timestamp) -> Result<(Vec<String>, Vec<String>), RuleError> {
        let question: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|error| RuleError::new("", format!("the line is not a JSON object: {error}")))?;
        let given = |key: &str| question.get(key).filter(|value| !value.is_null());
        let tz = given("tz").filter(|tz| *tz != "");
        let default_zone = match tz {
            None => zone.clone(),
            Some(Value::String(name)) => timetable::zone(name, "tz")?,
            Some(_) => return Err(RuleError::new("tz", "is not the name of a time zone")),
        };
        let from = match given("from") {
            None => from,
            Some(value) => timetable::date(value, &default_zone, "from")?,
        };
        let count = match given("count") {
            None => self.count,
            Some(count) => count.as_u64().ok_or_else(|| RuleError::new("count", "is not a whole number"))?,
        };
        let (timetable, warnings) = match (given("schedule_info"), given("rule")) {
            // Its own tz wins.
            (Some(schedule), None) => Timetable::parse_with_warnings(schedule, &default_zone)?,
            // As --rule and --tz.
            (None, Some(rule)) => Timetable::parse_with_warnings(&json!({ "rule": rule, "tz": tz }), zone)?,
            _ => return Err(RuleError::new("", "the line needs rule or schedule_info, and not both")),
        };
        Ok((fires(&timetable, from, count).map(|at| at.to_string()).collect(), warnings))
    }
}

fn fires(timetable: &Timetable, from: Timestamp, count: u64) -> impl Iterator<Item = Timestamp> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    std::iter::successors(timetable.next_after(from), |after| timetable.next_after(*after)).take(count)
}

/// A rule from the command line: JSON when it is an object or epoch milliseconds, text otherwise (also `2030`, a year).
fn rule_value(text: &str) -> Result<Value, RuleError> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(value @ Value::Number(_)) if text.len() > 4 => Ok(value),
        Err(error) if text.trim_start().starts_with('{') => {
            Err(RuleError::new("rule", format!("is JSON that cannot be read: {error}")))
        }
        _ => Ok(json!(text)),
    }
}

fn usage(error: RuleError) -> ExitError {
    let pointer = error.pointer().map(|pointer| format!("\n  {}", pointer.replace('\n', "\n  "))).unwrap_or_default();
    ExitError::Usage(format!("{error}{pointer}"))
}

/// A reader that has seen enough (`| head`) is no failure.
fn written(result: std::io::Result<()>) -> Result<(), ExitError> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(ExitError::Failure(error.into())),
        _ => Ok(()),
    }
}
