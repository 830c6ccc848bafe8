//! The demo's processes: admin-server, send-verification-link in dry run, job-service.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use job_testkit::cluster::free_port;
use job_testkit::process::{Process, Program};
use job_testkit::wait::try_poll;
use serde_json::Value;
use tokio::net::TcpStream;

use super::database::Database;
use super::late;

/// The task that the function is made for.
pub(super) const TASK: &str = "email:send_verification_link";

/// How long a process may take to stop before it is killed: longer than the service's own grace for short jobs.
const STOP: Duration = Duration::from_secs(10);

/// An e-mail that the function would have sent, from its log.
#[derive(Debug, Clone)]
pub(super) struct Mail {
    pub(super) job_id: i64,
    pub(super) subject: String,
    pub(super) link: String,
}

/// The running processes.
pub(super) struct Stack {
    admin: Process,
    function: Process,
    service: Process,
    admin_port: u16,
    function_port: u16,
    callback_port: u16,
}

impl Stack {
    pub(super) fn start(database: &Database) -> Result<Self> {
        let [admin_port, function_port, callback_port] = [free_port()?, free_port()?, free_port()?];
        let local = |port: u16| format!("http://127.0.0.1:{port}");
        let graphql = format!("{}/graphql", local(admin_port));
        let admin = Program::named("admin-server")
            .envs(database.variables())
            .env("PORT", admin_port.to_string())
            .env("API_IS_PUBLIC", "false")
            .try_spawn()?;
        let function = Program::named("send-verification-link")
            .env("PORT", function_port.to_string())
            .env("GRAPHQL_URL", &graphql)
            .env("META_GRAPHQL_URL", &graphql)
            .env("GRAPHQL_HOST_HEADER", "private.localhost")
            .env("META_GRAPHQL_HOST_HEADER", "private.localhost")
            .env("SEND_VERIFICATION_LINK_DRY_RUN", "true")
            .env("JOBS_CALLBACK_ORIGINS", local(callback_port))
            // The report is made from its log.
            .env("LOG_FORMAT", "json")
            .try_spawn()?;
        let service = Program::named("job-service")
            .envs(database.variables())
            .env("HOSTNAME", "demo-worker")
            // A database that others use too may hold other tasks: they are none of the demo's business.
            .env("JOBS_SUPPORT_ANY", "false")
            .env("JOBS_SUPPORTED", TASK)
            .env("INTERNAL_JOBS_CALLBACK_PORT", callback_port.to_string())
            .env("INTERNAL_JOBS_CALLBACK_URL", local(callback_port))
            .env("KNATIVE_SERVICE_URL", local(function_port))
            .env("INTERNAL_GATEWAY_URL", local(function_port))
            .try_spawn()?;
        Ok(Self { admin, function, service, admin_port, function_port, callback_port })
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        vec![self.service.pid(), self.function.pid(), self.admin.pid()]
    }

    /// Waits until all three serve.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let ready = format!("http://127.0.0.1:{}/readyz", self.callback_port);
        let client = reqwest::Client::new();
        let up = try_poll(super::LIMIT, async || {
            if let Err(error) = self.check() {
                return Some(Err(error));
            }
            for port in [self.admin_port, self.function_port] {
                TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            }
            let answer = client.get(&ready).send().await.ok()?;
            answer.status().is_success().then_some(Ok(()))
        });
        let up = up.await;
        late(up, "the stack is up").with_context(|| self.logs())??;
        println!("admin-server, send-verification-link (dry run) and job-service are up");
        Ok(())
    }

    /// An error when a process has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        for process in [&mut self.admin, &mut self.function, &mut self.service] {
            if !process.is_running() {
                bail!("{} ended by itself; it wrote:\n{}", process.name(), process.output());
            }
        }
        Ok(())
    }

    /// What the processes wrote last, for an error.
    pub(super) fn logs(&self) -> String {
        let mut text = String::new();
        for process in [&self.admin, &self.function, &self.service] {
            let lines = process.lines();
            let last = &lines[lines.len().saturating_sub(15)..];
            text.push_str(&format!("--- {}\n{}\n", process.name(), last.join("\n")));
        }
        text
    }

    /// E-mails that the function has logged so far.
    pub(super) fn mails(&self) -> Vec<Mail> {
        self.function.lines().iter().filter_map(|line| mail(line)).collect()
    }

    /// What one may try while the stack is up.
    pub(super) fn invitation(&self, database: &Database) -> String {
        let (admin, function, callback) = (self.admin_port, self.function_port, self.callback_port);
        format!(
            "job-service             http://127.0.0.1:{callback}/callback, /healthz, /readyz\n\
             admin-server            http://127.0.0.1:{admin}/graphql (Host: private.localhost)\n\
             send-verification-link  http://127.0.0.1:{function}/\n\
             database                {}\n\n\
             curl -X POST http://127.0.0.1:{admin}/graphql -H 'Content-Type: application/json' \\\n  \
             -H 'Host: private.localhost' -d '{{\"query\": \"{{ databases {{ nodes {{ id name }} }} }}\"}}'",
            database.psql_line(),
        )
    }

    /// Stops all, the service first: its jobs in flight need the others.
    pub(super) async fn stop(mut self) {
        for process in [&mut self.service, &mut self.function, &mut self.admin] {
            process.stop(STOP).await;
        }
    }
}

/// Runs a program's subcommand to its end.
pub(super) async fn run(program: &str, subcommand: &str, database: &Database) -> Result<()> {
    let mut process = Program::named(program).arg(subcommand).envs(database.variables()).try_spawn()?;
    match process.try_exit(super::LIMIT).await {
        Some(status) if status.success() => {}
        Some(status) => bail!("`{program} {subcommand}` failed ({status}):\n{}", process.output()),
        None => bail!("`{program} {subcommand}` did not end within {:?}:\n{}", super::LIMIT, process.output()),
    }
    println!("{program} {subcommand}: ok");
    Ok(())
}

/// The dry run's log line: JSON with the fields job.id, subject and link.
fn mail(line: &str) -> Option<Mail> {
    let event: Value = serde_json::from_str(line).ok()?;
    let field = |name: &str| event["fields"][name].as_str().map(str::to_owned);
    Some(Mail { job_id: field("job.id")?.parse().ok()?, subject: field("subject")?, link: field("link")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_with_a_link_is_an_email() {
        let line = r#"{"level":"INFO","fields":{"message":"dry run","job.id":"7","email":"a","subject":"S","link":"https://x/"}}"#;
        let mail = mail(line).unwrap();
        assert_eq!((mail.job_id, mail.subject.as_str(), mail.link.as_str()), (7, "S", "https://x/"));
        assert!(super::mail(r#"{"fields":{"message":"listening","job.id":"7"}}"#).is_none());
        assert!(super::mail("plain text").is_none());
    }
}
