//! What a process and the server spend between two moments.

use std::time::Instant;

use anyhow::Result;

use super::results::Figures;
use super::run::spent;
use super::server::{Server, process_cpu_seconds};

/// The readings of a moment.
pub(super) struct Meter {
    start: Instant,
    log: u64,
    server: Option<f64>,
    program: Option<f64>,
}

/// What was spent since then.
pub(super) struct Spent {
    pub(super) seconds: f64,
    /// Statements that the server's log shows: see [`Server::log_statements`].
    pub(super) statements: usize,
    /// CPU seconds of all the server's processes.
    pub(super) server: Option<f64>,
    /// CPU seconds of the program.
    pub(super) program: Option<f64>,
}

impl Meter {
    pub(super) fn start(server: &Server, pid: u32) -> Result<Self> {
        let (log, program) = (server.log_size()?, process_cpu_seconds(pid));
        Ok(Self { log, server: server.cpu_seconds(), program, start: Instant::now() })
    }

    pub(super) fn read(&self, server: &Server, pid: u32) -> Result<Spent> {
        Ok(Spent {
            seconds: self.start.elapsed().as_secs_f64(),
            program: spent(self.program, process_cpu_seconds(pid)),
            server: spent(self.server, server.cpu_seconds()),
            statements: server.statements_since(self.log)?,
        })
    }
}

impl Spent {
    /// The figures of a time without work.
    pub(super) fn idle(&self) -> Figures {
        let mut figures = Figures::new();
        figures.extend(self.percent(self.program).map(|value| ("cpu_percent", value)));
        figures.extend(self.percent(self.server).map(|value| ("pg_percent", value)));
        figures.insert("statements_per_min", self.statements as f64 * 60.0 / self.seconds);
        figures
    }

    /// CPU seconds as a share of one core.
    pub(super) fn percent(&self, cpu: Option<f64>) -> Option<f64> {
        cpu.map(|cpu| 100.0 * cpu / self.seconds)
    }
}
