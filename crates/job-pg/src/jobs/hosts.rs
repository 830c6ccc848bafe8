//! Hosts: where the jobs of tasks go, and what workers meet there.

use std::time::Duration;

use jiff::Timestamp;
use postgres_types::Type;

use crate::connection::Db;
use crate::connection::statement::Parameters;
use crate::error::DbError;
use crate::jobs::claim::Job;

const TELL: &str = "SELECT @internal@.tell_task_hosts($1, $2)";
const ASKED: &str = "SELECT @internal@.host_asked($1, make_interval(secs => $2), $3)";
const FAILED: &str = "SELECT @internal@.host_failed($1, $2, $3, $4, $5, $6, $7, $8)";
const SUCCEEDED: &str = "SELECT @internal@.host_succeeded($1, $2)";

/// How long a worker waits for its failure to be taken down. Then it counts as any other.
const LIMIT: Duration = Duration::from_secs(5);

/// What a worker has to know of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNews {
    /// Scheme, host and port; `*` is each one that is not named.
    pub host: String,
    /// What there is.
    pub state: HostState,
}

/// How a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// It has a gate, which lets start what it lets start.
    Gated,
    /// Its gate is closed for a while, because the host has asked for it.
    Asked,
    /// Its gate has closed, because the host is down. `unreachable`: there was no connection.
    Closed {
        /// Whether there was no connection.
        unreachable: bool,
    },
    /// Some worker could not use it, and others had better say that they can.
    Suspected,
}

impl HostNews {
    /// Reads `host_news()`; what a newer schema might say besides is left out.
    pub(crate) fn read(text: Option<&str>) -> Vec<Self> {
        let read = |line: &str| {
            let (state, host) = line.split_once(' ')?;
            let state = match state {
                "g" => HostState::Gated,
                "a" => HostState::Asked,
                "c" => HostState::Closed { unreachable: false },
                "u" => HostState::Closed { unreachable: true },
                "s" => HostState::Suspected,
                _ => return None,
            };
            Some(Self { host: host.to_owned(), state })
        };
        text.into_iter().flat_map(str::lines).filter_map(read).collect()
    }
}

/// A request that has failed in a way that says that its host is down.
#[derive(Debug, Clone, Copy)]
pub struct HostFailure<'a> {
    /// Scheme, host and port.
    pub host: &'a str,
    /// Whether there was no connection.
    pub unreachable: bool,
    /// Whether this worker has used the host since the failure that it told of last.
    pub anew: bool,
    /// Whose request it was.
    pub job: &'a Job,
    /// The message that is stored as the job's `last_error`.
    pub error: &'a str,
}

/// What a failed attempt counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostVerdict {
    /// A failed attempt.
    Counted,
    /// The host is down, and its gate closed: the attempt does not count.
    Closed,
    /// Others can use the host.
    ReachedElsewhere,
}

impl Db {
    pub(crate) async fn tell_task_hosts(&self, tasks: &[String], hosts: &[String]) -> Result<Vec<HostNews>, DbError> {
        let client = self.operation_within("tell where tasks go", LIMIT).await?;
        let parameters: Parameters<'_> = &[(&tasks, Type::TEXT_ARRAY), (&hosts, Type::TEXT_ARRAY)];
        let result = async {
            let row = self.row(&client, TELL, parameters).await?;
            Ok(HostNews::read(row.try_get(0)?))
        };
        client.run("tell where tasks go", result).await
    }

    pub(crate) async fn host_asked(&self, host: &str, wait: Duration, reason: &str) -> Result<(), DbError> {
        let client = self.operation_within("close a host", LIMIT).await?;
        let wait = wait.as_secs_f64();
        let parameters: Parameters<'_> = &[(&host, Type::TEXT), (&wait, Type::FLOAT8), (&reason, Type::TEXT)];
        let result = async { self.row(&client, ASKED, parameters).await.map(drop) };
        client.run("close a host", result).await
    }

    pub(crate) async fn host_failed(&self, worker_id: &str, failure: HostFailure<'_>) -> Result<HostVerdict, DbError> {
        let HostFailure { host, unreachable, anew, job, error } = failure;
        let client = self.operation_within("tell of a host that is down", LIMIT).await?;
        // `-infinity` is an instant that does not go back into the database.
        let run_at = job.run_at.max(Timestamp::UNIX_EPOCH);
        let parameters: Parameters<'_> = &[
            (&worker_id, Type::TEXT),
            (&host, Type::TEXT),
            (&unreachable, Type::BOOL),
            (&anew, Type::BOOL),
            (&job.id, Type::INT8),
            (&job.attempts, Type::INT4),
            (&error, Type::TEXT),
            (&run_at, Type::TIMESTAMPTZ),
        ];
        let result = async {
            let row = self.row(&client, FAILED, parameters).await?;
            Ok(match row.try_get(0)? {
                "closed" => HostVerdict::Closed,
                "reached" => HostVerdict::ReachedElsewhere,
                _ => HostVerdict::Counted,
            })
        };
        client.run("tell of a host that is down", result).await
    }

    pub(crate) async fn host_succeeded(&self, worker_id: &str, host: &str) -> Result<bool, DbError> {
        let client = self.operation_within("tell of a host that is up", LIMIT).await?;
        let parameters: Parameters<'_> = &[(&worker_id, Type::TEXT), (&host, Type::TEXT)];
        let result = async { self.row(&client, SUCCEEDED, parameters).await?.try_get(0) };
        client.run("tell of a host that is up", result).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_hosts_are_read_line_by_line() {
        let news = HostNews::read(Some("g *\nc http://a:1\nu http://b\ns https://c\na http://e\nx http://d\nodd"));
        let news: Vec<_> = news.iter().map(|news| (&*news.host, news.state)).collect();
        let closed = |unreachable| HostState::Closed { unreachable };
        assert_eq!(
            news,
            [
                ("*", HostState::Gated),
                ("http://a:1", closed(false)),
                ("http://b", closed(true)),
                ("https://c", HostState::Suspected),
                ("http://e", HostState::Asked)
            ]
        );
        assert_eq!(HostNews::read(None), []);
    }
}
