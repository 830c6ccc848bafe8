//! The command line that every bench program has.

use std::collections::HashMap;
use std::process::exit;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

/// One parsed command line. Flags that the command does not know end the process with status 2.
pub struct Args {
    /// The first argument.
    pub command: String,
    flags: HashMap<String, String>,
}

impl Args {
    /// Reads the process's arguments. `extra` are the flags that this program knows beyond the common ones.
    ///
    /// # Errors
    /// No command, or a flag without its value.
    pub fn read(extra: &[&str]) -> Result<Args> {
        let mut words = std::env::args().skip(1);
        let command = words.next().context("no command")?;
        let mut known = vec!["url"];
        known.extend(match command.as_str() {
            "setup" => &[][..],
            "enqueue" => &["jobs", "mode", "clients", "payload-bytes", "queues", "priorities", "future", "notify"],
            "drain" => &["jobs", "workers", "cap-seconds"],
            "latency" => &["jobs", "rate"],
            "idle" => &["seconds"],
            _ => &[],
        });
        known.extend(extra);
        let mut flags = HashMap::new();
        while let Some(word) = words.next() {
            let flag = word.strip_prefix("--").with_context(|| format!("not a flag: {word}"))?;
            if !known.contains(&flag) {
                unsupported(&format!("--{flag}"));
            }
            let value =
                if flag == "future" { String::new() } else { words.next().context("a flag without its value")? };
            flags.insert(flag.to_owned(), value);
        }
        Ok(Args { command, flags })
    }

    /// Whether the flag was given.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains_key(flag)
    }

    /// The flag's text, if it was given.
    #[must_use]
    pub fn text(&self, flag: &str) -> Option<&str> {
        self.flags.get(flag).map(String::as_str)
    }

    /// The flag's text.
    ///
    /// # Errors
    /// It was not given.
    pub fn required(&self, flag: &str) -> Result<&str> {
        self.text(flag).with_context(|| format!("--{flag} is missing"))
    }

    /// The flag's number, or `default` when it was not given.
    ///
    /// # Errors
    /// It is not a number, or neither it nor a default was given.
    pub fn number(&self, flag: &str, default: Option<u64>) -> Result<u64> {
        match (self.text(flag), default) {
            (Some(text), _) => text.parse().with_context(|| format!("--{flag} {text}")),
            (None, Some(default)) => Ok(default),
            (None, None) => bail!("--{flag} is missing"),
        }
    }

    /// `--cap-seconds`; without it an hour.
    ///
    /// # Errors
    /// It is not a number.
    pub fn cap(&self) -> Result<Duration> {
        Ok(Duration::from_secs(self.number("cap-seconds", Some(3600))?))
    }
}

/// Says on stdout what this program cannot do and ends the process with status 2: the harness writes a dash.
pub fn unsupported(what: &str) -> ! {
    println!("{}", json!({ "unsupported": what }));
    exit(2)
}
