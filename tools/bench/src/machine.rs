//! The machine and the versions, as the report states them: nothing that names this machine or its directories.

use std::path::Path;

use tokio::process::Command;

use super::program::Programs;
use super::server::Server;

/// Lines `what | value` of a table.
pub(super) async fn facts(server: &Server, programs: &Programs) -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |cores| cores.to_string());
    let rustc = Command::new("rustc").arg("--version").output().await;
    let rustc = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let mut facts = vec![
        ("CPU", format!("{}, {cores} cores", field("/proc/cpuinfo", "model name").unwrap_or_else(|| "?".to_owned()))),
        ("Memory", memory().unwrap_or_else(|| "?".to_owned())),
        ("System", system()),
        ("PostgreSQL", format!("{}, on the same machine, over TCP on 127.0.0.1", server.version)),
        ("Settings", server.settings.clone()),
        ("Rust", rustc),
        ("This project", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    facts.extend(programs.node.clone().map(|version| ("Node", version)));
    facts
}

fn system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or(std::env::consts::OS);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // The rest of a kernel's release names who built it for which machines.
    let kernel = kernel.trim().split(['-', '+']).next().unwrap_or_default();
    format!("{}, kernel {kernel}, {}", name.trim_matches('"'), std::env::consts::ARCH)
}

fn memory() -> Option<String> {
    let total = field("/proc/meminfo", "MemTotal")?;
    let kilobytes: f64 = total.split_whitespace().next()?.parse().ok()?;
    Some(format!("{:.0} GiB", kilobytes / 1024.0 / 1024.0))
}

/// The value of the first line `name : value`.
fn field(path: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
