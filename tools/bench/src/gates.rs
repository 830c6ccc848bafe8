//! Gates: what is measured of jobs that something holds back. A kind of measurement a file, with the columns that its
//! table has.

mod command;
mod host;
mod priorities;
mod queue;

use anyhow::Result;

use super::program::Program;
use super::results::Outcome;
use super::run::Runner;

pub(super) use command::{Behind, Command, Isolation};
pub(super) use priorities::Priorities;
pub(super) use queue::OneQueue;

/// A column of a table: its head, the figure below it, and how many digits that has behind the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) head: &'static str,
    pub(super) figure: &'static str,
    pub(super) digits: usize,
}

impl Column {
    const fn new(head: &'static str, figure: &'static str, digits: usize) -> Self {
        Self { head, figure, digits }
    }
}

/// What is measured.
#[derive(Clone, Copy)]
pub(super) enum Gate {
    OneQueue(OneQueue),
    Priorities(Priorities),
    /// A host that is down for so many seconds.
    Host {
        seconds: u64,
    },
    /// What a command of bench/ours measures.
    Command(Command),
}

impl Gate {
    /// The service of ours that must be built.
    pub(super) fn service(self) -> Option<&'static str> {
        matches!(self, Self::OneQueue(_) | Self::Host { .. }).then_some("job-service")
    }

    /// Whether it has a line in the table of rates.
    pub(super) fn is_rate(self) -> bool {
        matches!(self, Self::OneQueue(_) | Self::Priorities(_))
    }

    /// The columns of a table of its own.
    pub(super) fn columns(self) -> Option<&'static [Column]> {
        match self {
            Self::OneQueue(_) => None,
            Self::Priorities(_) => Some(priorities::COLUMNS),
            Self::Host { .. } => Some(host::COLUMNS),
            Self::Command(command) => Some(command.columns()),
        }
    }

    /// With so many jobs, in a database with the program's schema.
    pub(super) async fn measure(
        self,
        runner: &Runner<'_>,
        program: &Program,
        database: &str,
        jobs: u64,
    ) -> Result<Outcome> {
        match self {
            Self::OneQueue(queue) => queue::measure(runner, program, database, queue, jobs).await,
            Self::Priorities(rows) => priorities::measure(runner, program, database, rows, jobs).await,
            Self::Host { seconds } => host::measure(runner, program, database, seconds, jobs).await,
            Self::Command(command) => command.measure(runner, program, database).await,
        }
    }
}
