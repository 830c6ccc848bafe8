//! Settings of single tasks: JOBS_TASKS.

mod limit;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use job_pg::Limit;
use job_utils::config::{HttpUrl, LONGEST, Reader, in_words, nearest, parse_duration, parse_http_url};
use job_utils::variables;
use job_utils::wire::dispatch::function_url;

use crate::config::JOBS_TASK_CONCURRENCY;

variables! {
    /// Settings of single tasks, as JSON or as the path of a JSON or TOML file: `{"mail": {"url": "http://mail:8080",
    /// "timeout": "1m"}}`; see docs/tasks.md.
    pub(super) JOBS_TASKS = "" for "worker, service";
}

/// The name that stands for all tasks which are not named.
const REST: &str = "*";

/// The longest task identifier, in characters.
const LONGEST_NAME: usize = 126;

/// The largest file that is read.
const FILE_LIMIT: u64 = 1 << 20;

/// How a task's jobs are dispatched, as far as it differs from what the other variables say for all.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct TaskSettings {
    /// Where its function is. Without a path, the path is the task's.
    pub url: Option<HttpUrl>,
    /// How long the function may take to answer.
    pub timeout: Option<Duration>,
    /// How long the head of its answer may take, when that is less.
    pub first_byte_timeout: Option<Duration>,
    /// How many of its jobs run at once.
    pub concurrency: Option<usize>,
    /// Whether every 2xx but 202 is a completion.
    pub complete_on_2xx: Option<bool>,
    /// How failed attempts are tried again.
    pub retry: Option<RetrySettings>,
    /// The limit that a worker sets at its start, for all workers.
    pub limit: Option<Limit>,
}

/// How failed attempts of a task are tried again.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct RetrySettings {
    /// No more attempts than these, although the job may have more.
    pub max_attempts: Option<u16>,
    /// The wait after the first failure. Without it, the waits are the usual ones.
    pub first: Option<Duration>,
    /// The longest wait: from one failure to the next it doubles up to this. As long as `first` unless given, which
    /// makes all waits equal.
    pub cap: Option<Duration>,
    /// Up to this share is taken off each wait, at random.
    pub jitter: f64,
}

/// The settings of all tasks.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct AllTasks {
    /// By task identifier.
    pub named: BTreeMap<String, TaskSettings>,
    /// Of those that are not named; and what a named one does not say is as here. But the concurrency is that of all of
    /// them together, and the limit is for each task for which no limit is set.
    pub rest: TaskSettings,
}

impl AllTasks {
    /// The settings of a task.
    pub fn of(&self, task: &str) -> TaskSettings {
        let rest = TaskSettings { concurrency: None, limit: None, ..self.rest.clone() };
        let Some(own) = self.named.get(task).cloned() else { return rest };
        TaskSettings {
            url: own.url.or(rest.url),
            timeout: own.timeout.or(rest.timeout),
            first_byte_timeout: own.first_byte_timeout.or(rest.first_byte_timeout),
            concurrency: own.concurrency,
            complete_on_2xx: own.complete_on_2xx.or(rest.complete_on_2xx),
            retry: own.retry.or(rest.retry),
            limit: own.limit,
        }
    }

    /// Every URL.
    pub fn urls(&self) -> impl Iterator<Item = &HttpUrl> {
        self.named.values().chain([&self.rest]).filter_map(|settings| settings.url.as_ref())
    }

    /// Reads JOBS_TASKS.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let mut all = Self::default();
        let Some(value) = reader.optional(&JOBS_TASKS) else { return all };
        let mut faults = Faults::default();
        match document(value.trim()) {
            Err(message) => faults.0.push(message),
            Ok(Value::Object(tasks)) => {
                for (task, settings) in &tasks {
                    let at = quoted(task);
                    let Value::Object(settings) = settings else {
                        faults.add(&at, "is not an object: write {\"url\": \"http://host:port\"}");
                        continue;
                    };
                    let settings = faults.task(&at, settings);
                    match task.as_str() {
                        REST => all.rest = settings,
                        _ if (1..=LONGEST_NAME).contains(&task.chars().count()) => {
                            all.named.insert(task.clone(), settings);
                        }
                        _ => faults.add(&at, "a task identifier has 1 to 126 characters"),
                    }
                }
            }
            Ok(_) => faults.0.push("is not an object from task to its settings".to_owned()),
        }
        if !faults.0.is_empty() {
            reader.fault(&JOBS_TASKS, faults.0.join("; "));
        }
        all
    }

    /// What is wrong with a task's times, given those for all and the expiry of a lock.
    pub(crate) fn problem(&self, timeout: Duration, first_byte: Option<Duration>, expiry: Duration) -> Option<String> {
        let rest = (REST.to_owned(), self.of(REST));
        let mut tasks = self.named.keys().map(|task| (quoted(task), self.of(task))).chain([rest]);
        tasks.find_map(|(at, settings)| {
            let own = settings.timeout.unwrap_or(timeout);
            let first = settings.first_byte_timeout.or(first_byte.filter(|_| settings.timeout.is_none()));
            if settings.timeout.is_some_and(|own| own.is_zero() || own > LONGEST) {
                return Some(format!("{at}.timeout: must be longer than 0 and at most {}", in_words(LONGEST)));
            }
            if settings.timeout.is_some_and(|own| own > expiry) {
                return Some(format!("{at}.timeout: must not exceed JOBS_JOB_EXPIRY, which is {}", in_words(expiry)));
            }
            if settings.first_byte_timeout.is_some() && first.is_some_and(|first| first.is_zero() || first > own) {
                return Some(format!("{at}.first_byte_timeout: must be longer than 0 and at most {}", in_words(own)));
            }
            if settings.concurrency == Some(0) {
                return Some(format!("{at}.concurrency: must be at least 1"));
            }
            None
        })
    }
}

/// Reads JOBS_TASK_CONCURRENCY. The number follows the last `=`: a task identifier can hold anything.
fn read_task_concurrency(reader: &mut Reader<'_>) -> BTreeMap<String, usize> {
    let mut limits = BTreeMap::new();
    for entry in reader.list(&JOBS_TASK_CONCURRENCY) {
        match entry.rsplit_once('=').map(|(task, limit)| (task.trim(), limit.trim().parse())) {
            Some((task, Ok(limit))) if limit > 0 && !task.is_empty() => {
                limits.insert(task.to_owned(), limit);
            }
            _ => reader
                .fault(&JOBS_TASK_CONCURRENCY, format!("{entry:?} is not task=number, with a number of at least 1")),
        }
    }
    limits
}

/// The limits of single tasks, by both variables.
pub(crate) fn read_limits(reader: &mut Reader<'_>, tasks: &AllTasks) -> BTreeMap<String, usize> {
    let mut limits = read_task_concurrency(reader);
    for (task, settings) in &tasks.named {
        let Some(limit) = settings.concurrency else { continue };
        match limits.insert(task.clone(), limit) {
            Some(other) if other != limit => {
                let message = format!("{task}.concurrency: JOBS_TASK_CONCURRENCY says {other}: say it once");
                reader.fault(&JOBS_TASKS, message);
            }
            _ => {}
        }
    }
    limits
}

impl TaskSettings {
    /// Where a task's jobs are posted to, if the settings say so.
    ///
    /// # Errors
    /// The task's identifier cannot be a path.
    pub fn url_of(&self, task: &str) -> Option<Result<url::Url, String>> {
        let url = self.url.as_ref()?;
        if !matches!(url.path(), "" | "/") {
            return Some(Ok(url::Url::clone(url)));
        }
        let with_path = function_url(url, task).map_err(|error| error.to_string()).map(|mut with_path| {
            with_path.set_query(url.query());
            with_path
        });
        Some(with_path)
    }
}

/// The value as JSON, or what is in the file that it names. What is said of it quotes nothing: there may be a URL with
/// a password in it.
fn document(value: &str) -> Result<Value, String> {
    if value.starts_with(['{', '[', '"']) {
        return json(value, "");
    }
    // JSON within quotes, as an env file may keep them: it may hold passwords, and is not shown as a path.
    if value.contains(['{', '@', '"']) {
        return Err(
            "is neither JSON nor the path of a file: write JSON, {\"task\": {\"url\": \"http://host:port\"}}, without \
                    quotes around it, or the path of a JSON or TOML file, without {, @ and \" in it"
                .to_owned(),
        );
    }
    let path = Path::new(value);
    let shown = path.display();
    let text = file(path).map_err(|error| {
        format!("{shown}: {error}; write JSON, {{\"task\": {{\"url\": \"http://host:port\"}}}}, or the path of a JSON or TOML file")
    })?;
    let is_toml = match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("toml") => true,
        Some(extension) if extension.eq_ignore_ascii_case("json") => false,
        _ => !text.trim_start().starts_with('{'),
    };
    if !is_toml {
        return json(&text, &format!("{shown}: "));
    }
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        format!("{shown}: not TOML (line {line})")
    })
}

fn json(text: &str, place: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("{place}not JSON (line {}, column {})", error.line(), error.column()))
}

fn file(path: &Path) -> std::io::Result<String> {
    // What is no file, such as a pipe, may have no end, or never begin.
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("is not a file"));
    }
    let mut text = String::new();
    let length = fs::File::open(path)?.take(FILE_LIMIT + 1).read_to_string(&mut text)?;
    if u64::try_from(length).unwrap_or(u64::MAX) > FILE_LIMIT {
        return Err(std::io::Error::other("is larger than 1 MiB"));
    }
    Ok(text)
}

/// A name within a path of names: quoted when it could be taken for something else.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '/' | '*');
    if !name.is_empty() && name.chars().all(plain) { name.to_owned() } else { format!("{name:?}") }
}

/// Everything that is wrong, each with its place.
#[derive(Default)]
struct Faults(Vec<String>);

const TASK: &[&str] = &["url", "timeout", "first_byte_timeout", "concurrency", "complete_on_2xx", "retry", "limit"];
const RETRY: &[&str] = &["max_attempts", "first", "cap", "jitter"];

impl Faults {
    fn add(&mut self, place: &str, problem: &str) {
        self.0.push(format!("{place}: {problem}"));
    }

    fn unknown(&mut self, place: &str, key: &str, known: &[&str]) {
        let hint = nearest(key, known.iter().copied(), 1 + key.len() / 4)
            .map(|name| format!("; do you mean {name}?"))
            .unwrap_or_default();
        self.add(
            &format!("{place}.{}", quoted(key)),
            &format!("there is no such setting{hint} (there are {})", known.join(", ")),
        );
    }

    fn task(&mut self, task: &str, settings: &Map<String, Value>) -> TaskSettings {
        let mut read = TaskSettings::default();
        for (key, value) in settings {
            let at = format!("{task}.{key}");
            match key.as_str() {
                "url" => match value.as_str().map_or_else(|| Err("is not a text".to_owned()), parse_http_url) {
                    Ok(url) => read.url = Some(url),
                    Err(message) => self.add(&at, &message),
                },
                "timeout" => read.timeout = self.duration(&at, value),
                "first_byte_timeout" => read.first_byte_timeout = self.duration(&at, value),
                "concurrency" => read.concurrency = self.number(&at, value, 1_000_000),
                "complete_on_2xx" => match value.as_bool() {
                    Some(flag) => read.complete_on_2xx = Some(flag),
                    None => self.add(&at, "is neither true nor false"),
                },
                "retry" => match value.as_object() {
                    Some(retry) => read.retry = Some(self.retry(&at, retry)),
                    None => self
                        .add(&at, "is not an object: write {\"max_attempts\": 5, \"first\": \"1s\", \"cap\": \"10m\"}"),
                },
                "limit" => match value.as_object() {
                    Some(limit) => read.limit = Some(self.limit(&at, limit)),
                    None => self.add(
                        &at,
                        "is not an object: write {\"max_running\": 5, \"rate\": 100, \"per\": \"1s\", \"burst\": 5}",
                    ),
                },
                _ => self.unknown(task, key, TASK),
            }
        }
        read
    }

    fn retry(&mut self, place: &str, settings: &Map<String, Value>) -> RetrySettings {
        let mut read = RetrySettings::default();
        for (key, value) in settings {
            let at = format!("{place}.{key}");
            match key.as_str() {
                "max_attempts" => {
                    read.max_attempts = self.number(&at, value, u16::MAX.into()).and_then(|n| n.try_into().ok())
                }
                "first" => read.first = self.duration(&at, value),
                "cap" => read.cap = self.duration(&at, value),
                "jitter" => match value.as_f64().filter(|share| (0.0..=1.0).contains(share)) {
                    Some(share) => read.jitter = share,
                    None => self.add(&at, "is not a number from 0 to 1"),
                },
                _ => self.unknown(place, key, RETRY),
            }
        }
        match (read.first, read.cap) {
            (None, Some(_)) => self.add(&format!("{place}.cap"), "means nothing without first"),
            (Some(first), Some(cap)) if cap < first => self.add(&format!("{place}.cap"), "is less than first"),
            _ => {}
        }
        read
    }

    fn duration(&mut self, place: &str, value: &Value) -> Option<Duration> {
        let read = match value {
            Value::String(text) => parse_duration(text),
            number => number.as_u64().map(Duration::from_secs),
        };
        let read = read.filter(|duration| !duration.is_zero() && *duration <= LONGEST);
        if read.is_none() {
            self.add(
                place,
                "is not a duration longer than 0: write \"30s\" (units ms, s, m, h), or a number of seconds",
            );
        }
        read
    }

    fn number(&mut self, place: &str, value: &Value, most: usize) -> Option<usize> {
        let read = value.as_u64().and_then(|number| usize::try_from(number).ok());
        let read = read.filter(|number| (1..=most).contains(number));
        if read.is_none() {
            self.add(place, &format!("is not a whole number from 1 to {most}"));
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WorkerConfig;

    pub(super) fn read(value: &str) -> Result<AllTasks, String> {
        let env = BTreeMap::from([("JOBS_TASKS", value)]);
        WorkerConfig::from_env(&env).map(|config| config.task_settings).map_err(|error| error.to_string())
    }

    #[test]
    fn json_and_files_of_json_and_toml_say_the_same() {
        let json = r#"{"mail": {"url": "http://mail:8080?k=1", "timeout": "1m", "retry": {"max_attempts": 3, "first": 2}},
                       "*": {"first_byte_timeout": "5s", "concurrency": 7, "complete_on_2xx": true}}"#;
        let toml = "[mail]\nurl = 'http://mail:8080?k=1'\ntimeout = '1m'\nretry = { max_attempts = 3, first = '2s' }\n\
                    ['*']\nfirst_byte_timeout = 5\nconcurrency = 7\ncomplete_on_2xx = true\n";
        let read_json = read(json).unwrap();
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("a.json", json), ("a.toml", toml), ("none", toml), ("other", json)] {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            assert_eq!(read(path.to_str().unwrap()).as_ref(), Ok(&read_json), "{name}");
        }
        let mail = read_json.of("mail");
        assert_eq!((mail.timeout, mail.concurrency), (Some(Duration::from_secs(60)), None));
        assert_eq!((mail.first_byte_timeout, mail.complete_on_2xx), (Some(Duration::from_secs(5)), Some(true)));
        assert_eq!(mail.url_of("mail").unwrap().unwrap().as_str(), "http://mail:8080/mail?k=1");
        assert!(read_json.of("other").url_of("other").is_none());
        assert_eq!(read_json.rest.concurrency, Some(7));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (value, told) in [
            (r#"{"mail": {"timeout": "soon"}}"#, "JOBS_TASKS: mail.timeout: is not a duration"),
            (r#"{"mail": {"timeout": 0}}"#, "mail.timeout: is not a duration longer than 0"),
            (r#"{"mail": {"timeout": "5h"}}"#, "mail.timeout: must not exceed JOBS_JOB_EXPIRY, which is 4h"),
            (r#"{"mail": {"timeout": "5s", "first_byte_timeout": "6s"}}"#, "mail.first_byte_timeout: must be longer"),
            (r#"{"mail": {"timout": "5s"}}"#, "mail.timout: there is no such setting; do you mean timeout?"),
            (r#"{"mail": {"x": 1}}"#, "mail.x: there is no such setting (there are url, timeout,"),
            (
                r#"{"a.b": {"retry": {"max_atempts": 1}}}"#,
                "\"a.b\".retry.max_atempts: there is no such setting; do you mean max_attempts?",
            ),
            (r#"{"mail": {"retry": {"cap": "1s"}}}"#, "mail.retry.cap: means nothing without first"),
            (r#"{"mail": {"retry": {"jitter": 2}}}"#, "mail.retry.jitter: is not a number from 0 to 1"),
            (r#"{"mail": {"url": "ftp://user:secret@x"}}"#, "mail.url: \"ftp://x\" is not an http or https URL"),
            (r#"{"mail": {"concurrency": 0}}"#, "mail.concurrency: is not a whole number from 1"),
            (r#"{"mail": {"complete_on_2xx": "yes"}}"#, "mail.complete_on_2xx: is neither true nor false"),
            (r#"{"mail": "http://x"}"#, "mail: is not an object"),
            (r#"{"": {}}"#, "\"\": a task identifier has 1 to 126 characters"),
            ("{\"mail\": {\"url\": \"secret", "JOBS_TASKS: not JSON (line 1, column"),
            ("[1]", "JOBS_TASKS: is not an object"),
            (r#"'{"mail": {"url": "http://user:secret@x"}}'"#, "JOBS_TASKS: is neither JSON nor the path of a file"),
            ("http://user:secret@x", "JOBS_TASKS: is neither JSON nor the path of a file"),
            ("/nowhere/tasks.json", "JOBS_TASKS: /nowhere/tasks.json: "),
            ("/dev/zero", "JOBS_TASKS: /dev/zero: is not a file"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(told) && !error.contains("secret"), "{value}: {error}");
        }
        let both = read(r#"{"a": {"timeout": "x"}, "b": {"timeout": "y"}}"#).unwrap_err();
        assert!(both.contains("a.timeout: ") && both.contains("b.timeout: "), "{both}");
    }

    #[test]
    fn the_older_variable_says_the_same_of_concurrency() {
        let read = |old: &str, new: &str| {
            let env = BTreeMap::from([("JOBS_TASK_CONCURRENCY", old), ("JOBS_TASKS", new)]);
            WorkerConfig::from_env(&env).map(|config| config.task_concurrency).map_err(|error| error.to_string())
        };
        let both = read("a=1,b=2", r#"{"c": {"concurrency": 3}, "b": {"concurrency": 2}}"#).unwrap();
        assert_eq!(both, BTreeMap::from([("a".into(), 1), ("b".into(), 2), ("c".into(), 3)]));
        let error = read("a=1", r#"{"a": {"concurrency": 3}}"#).unwrap_err();
        assert!(error.contains("JOBS_TASKS: a.concurrency: JOBS_TASK_CONCURRENCY says 1"), "{error}");
    }
}
