//! The specification's own examples, executed as written, through the real psql and curl, against job-service,
//! admin-server and send-verification-link (dry run) as processes.
//!
//! The files in `seed/` are its code blocks of sections 1, 4 and 5, letter by letter. Only these differ when they run:
//! host and port, the container prefix (`docker exec … postgres` is left out) and the quotes that the extension's name
//! needs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails its test")]

use std::process::Command;
use std::time::Duration;

use job_testkit::cluster::free_port;
use job_testkit::process::Program;
use job_testkit::{Answer, Cluster, FakeFunction, Process, Signal, eventually, eventually_some};
use serde_json::Value;
use tokio_postgres::Client;

/// Long enough for a busy machine; nothing waits for it when all goes well.
const LIMIT: Duration = Duration::from_secs(30);

/// What makes the blocks run here: no container, and a uuidgen where there is none.
const PRELUDE: &str = "set -eu
docker() { shift 3; \"$@\"; }
command -v uuidgen >/dev/null || uuidgen() { cat /proc/sys/kernel/random/uuid; }
";

/// The stack of the specification's section 4, without containers.
struct Stack {
    admin_port: u16,
    admin: Process,
    function: Process,
    service: Process,
    /// Stands behind `some-task-name`.
    other: FakeFunction,
    sql: Client,
    cluster: Cluster,
}

/// A program that runs to its end with exit code 0.
async fn succeeds(program: Program) {
    let mut process = program.spawn();
    assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
}

/// Runs a command with the database's programs on its PATH; returns what it printed.
fn output(cluster: &Cluster, command: &mut Command) -> String {
    let path = job_testkit::env::var("PATH").unwrap_or_default();
    command.env_clear().env("PATH", format!("{}:{path}", cluster.bin().display()));
    command.envs(cluster.env("constructive"));
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// Runs blocks as one shell script, as a reader does who copies one after the other.
fn shell(cluster: &Cluster, blocks: &[&str]) -> String {
    let script = format!("{PRELUDE}{}", blocks.join("\n"));
    output(cluster, Command::new("bash").arg("-c").arg(script))
}

/// Runs SQL in psql; rows come as CSV with a header.
fn psql(cluster: &Cluster, sql: &str) -> String {
    let options = ["-X", "-v", "ON_ERROR_STOP=1", "--csv", "-U", "postgres", "-d", "constructive", "-c"];
    output(cluster, Command::new("psql").args(options).arg(sql.trim()))
}

/// Section 1: the jobs schema, by the extension where the server has it, else by `job-service migrate`.
async fn install(cluster: &Cluster) {
    let block = include_str!("seed/1-install.sql");
    if job_testkit::env::extension_installed("the specification's CREATE EXTENSION") {
        psql(cluster, &block.replace("pgpm-database-jobs", "\"pgpm-database-jobs\""));
        psql(cluster, &block.replace("pgpm-database-jobs", "\"pgpm-database-jobs\""));
    }
    // Over the extension's schema this changes nothing.
    let service = Program::at(env!("CARGO_BIN_EXE_job-service"));
    succeeds(service.arg("migrate").envs(cluster.env("constructive"))).await;
    let tables = psql(cluster, include_str!("seed/1-look.psql"));
    for table in ["app_jobs,jobs,table", "app_jobs,scheduled_jobs,table"] {
        assert!(tables.lines().any(|line| line.starts_with(table)), "{table}: {tables}");
    }
}

impl Stack {
    async fn start() -> Self {
        let cluster = Cluster::temporary().await.unwrap();
        let postgres = job_testkit::postgres::connect(&cluster.url("postgres")).await;
        postgres.batch_execute("CREATE DATABASE constructive").await.unwrap();
        install(&cluster).await;
        succeeds(Program::named("admin-server").arg("migrate").envs(cluster.env("constructive"))).await;

        let [admin_port, function_port, callback_port] = std::array::from_fn(|_| free_port().unwrap());
        let admin = Program::named("admin-server").envs(cluster.env("constructive"));
        let admin = admin.env("PORT", admin_port.to_string()).env("API_IS_PUBLIC", "false").spawn();
        let graphql = format!("http://127.0.0.1:{admin_port}/graphql");
        let function = Program::named("send-verification-link")
            .env("PORT", function_port.to_string())
            .env("GRAPHQL_URL", &graphql)
            .env("META_GRAPHQL_URL", &graphql)
            .env("GRAPHQL_HOST_HEADER", "private.localhost")
            .env("META_GRAPHQL_HOST_HEADER", "private.localhost")
            .env("MAILGUN_API_KEY", "your-api-key")
            .env("MAILGUN_DOMAIN", "mg.example.com")
            .env("MAILGUN_FROM", "[email protected]")
            .env("MAILGUN_REPLY", "[email protected]")
            .env("SEND_VERIFICATION_LINK_DRY_RUN", "true")
            .spawn();
        let other = FakeFunction::answering(Answer::complete()).await;
        let service = Program::at(env!("CARGO_BIN_EXE_job-service"))
            .envs(cluster.env("constructive"))
            .env("JOBS_SCHEMA", "app_jobs")
            .env("JOBS_SUPPORT_ANY", "true")
            .env("HOSTNAME", "knative-job-service-1")
            .env("INTERNAL_JOBS_CALLBACK_PORT", callback_port.to_string())
            .env("INTERNAL_JOBS_CALLBACK_URL", format!("http://127.0.0.1:{callback_port}"))
            .env("KNATIVE_SERVICE_URL", format!("http://127.0.0.1:{function_port}"))
            .env("INTERNAL_GATEWAY_URL", format!("http://127.0.0.1:{function_port}"))
            .env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", format!(r#"{{"some-task-name": "{}"}}"#, other.url()))
            .spawn();
        for port in [admin_port, function_port, callback_port] {
            let listens = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
            eventually(LIMIT, listens).await;
        }
        let sql = job_testkit::postgres::connect(&cluster.url("constructive")).await;
        Self { admin_port, admin, function, service, other, sql, cluster }
    }

    async fn jobs(&self) -> i64 {
        self.sql.query_one("SELECT count(*) FROM app_jobs.jobs", &[]).await.unwrap().get(0)
    }

    /// Runs one curl command of section 4; where there is no curl, sends what it would send.
    async fn curl(&self, block: &str) -> Value {
        let block = block.replace("localhost:3001", &format!("localhost:{}", self.admin_port));
        let answer = if Command::new("curl").arg("--version").output().is_ok() {
            let cluster = &self.cluster;
            shell(cluster, &[&block.replace("curl ", "curl -sS --fail ")])
        } else {
            let between = |from: &str, to: &str| {
                let parts = block.split(from).skip(1);
                parts.filter_map(|rest| rest.split_once(to)).map(|(part, _)| part.to_owned()).collect::<Vec<_>>()
            };
            let url = between("POST ", " ").remove(0).replace("localhost", "127.0.0.1");
            let mut request = reqwest::Client::new().post(url).body(between("-d '", "'").remove(0));
            for header in between("-H \"", "\"") {
                let (name, value) = header.split_once(": ").unwrap();
                request = request.header(name, value);
            }
            request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
        };
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// Section 4, "Test GraphQL access".
    async fn graphql(&self) {
        let blocks: Vec<_> = include_str!("seed/4-graphql.sh").split("\n\n").collect();
        let [introspection, databases, users] = blocks[..] else { panic!("three commands: {blocks:?}") };
        let answer = self.curl(introspection).await;
        let fields = answer["data"]["__schema"]["queryType"]["fields"].as_array().unwrap();
        for name in ["databases", "users"] {
            assert!(fields.iter().any(|field| field["name"] == name), "{name}: {answer}");
        }
        let answer = self.curl(databases).await;
        let nodes = answer["data"]["databases"]["nodes"].as_array().unwrap();
        assert!(nodes.iter().any(|node| node["id"].is_string() && node["name"] == "constructive"), "{answer}");
        let answer = self.curl(users).await;
        let nodes = answer["data"]["users"]["nodes"].as_array().unwrap();
        let whole = |node: &Value| ["id", "username", "displayName"].iter().all(|field| node[field].is_string());
        assert!(!nodes.is_empty() && nodes.iter().all(whole), "{answer}");
    }

    /// Section 5: an enqueue block; the e-mail's line in the function's log, which shows subject and link.
    async fn enqueue(&mut self, block: &str, email_type: &str) -> String {
        let printed = shell(&self.cluster, &[include_str!("seed/5-ids.sh"), block]);
        assert!(printed.contains("Database ID: ") && printed.contains("email:send_verification_link"), "{printed}");
        let line = self.function.wait_for_line(email_type, LIMIT).await;
        eventually(LIMIT, async || self.jobs().await == 0).await;
        line
    }

    /// Section 5, "You can inspect the queue directly".
    fn inspect(&self) -> Vec<String> {
        psql(&self.cluster, include_str!("seed/5-jobs.sql")).lines().map(str::to_owned).collect()
    }

    /// Section 5, "Scheduled jobs".
    async fn schedule(&self) {
        let block = include_str!("seed/5-schedule.sql");
        psql(&self.cluster, block);
        let inspect = || psql(&self.cluster, include_str!("seed/5-schedules.sql"));
        let shown = inspect();
        assert!(
            shown.starts_with("id,task_identifier,payload,schedule_info,last_scheduled,last_scheduled_id\n"),
            "{shown}"
        );
        assert!(shown.contains("some-task-name") && shown.contains("*/5 * * * *"), "{shown}");
        let watched = "SELECT id FROM app_jobs.scheduled_jobs WHERE locked_by = 'knative-job-service-1'";
        let row = eventually_some(LIMIT, async || self.sql.query_opt(watched, &[]).await.unwrap()).await;
        let id: i64 = row.get(0);

        // What the scheduler does when the five minutes are over; the worker then processes the job like any other.
        psql(&self.cluster, &format!("SELECT app_jobs.run_scheduled_job({id})"));
        let request = self.other.wait_for(1, LIMIT).await.remove(0);
        assert_eq!(request.json(), serde_json::json!({"foo": "bar"}));
        eventually(LIMIT, async || self.jobs().await == 0).await;
        let fields = inspect();
        let row = fields.lines().nth(1).unwrap();
        assert!(!row.ends_with(",,"), "last_scheduled and last_scheduled_id are set: {row}");

        // The same block with a rule that need not be waited for: the scheduler does it by itself.
        psql(&self.cluster, "DELETE FROM app_jobs.scheduled_jobs");
        psql(&self.cluster, &block.replace("*/5 * * * *", "* * * * * *"));
        self.other.wait_for(3, LIMIT).await;
        psql(&self.cluster, "DELETE FROM app_jobs.scheduled_jobs");
        eventually(LIMIT, async || self.jobs().await == 0).await;
    }

    async fn stop(mut self) {
        for process in [&mut self.service, &mut self.function, &mut self.admin] {
            process.signal(Signal::Term);
            assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
        }
    }
}

#[tokio::test]
async fn every_example_of_the_specification_runs_as_written_with_the_result_it_describes() {
    let mut stack = Stack::start().await;
    stack.graphql().await;

    let line = stack.enqueue(include_str!("seed/5-invite.sh"), "invite_email").await;
    assert!(line.contains("Ada Lovelace invited you to Constructive!"), "{line}");
    assert!(line.contains("https://app.constructive.example/register?invite_token=invite-token-123&email="), "{line}");
    let line = stack.enqueue(include_str!("seed/5-forgot.sh"), "forgot_password").await;
    assert!(line.contains("Constructive Password Reset Request"), "{line}");
    assert!(line.contains("&reset_token=reset-token-123"), "{line}");
    let line = stack.enqueue(include_str!("seed/5-verification.sh"), "email_verification").await;
    assert!(line.contains("Constructive Email Verification"), "{line}");
    assert!(line.contains("&verification_token=verify-token-123"), "{line}");
    let completed = async || stack.service.lines().iter().filter(|line| line.contains("job completed")).count();
    eventually(LIMIT, async || completed().await == 3).await;

    // Completed jobs are removed; a failed one shows a last_error and an incremented attempts.
    let header = "id,task_identifier,attempts,max_attempts,last_error,locked_by,locked_at,run_at,created_at,updated_at";
    assert_eq!(stack.inspect(), [header]);
    psql(&stack.cluster, "SELECT app_jobs.add_job('email:send_verification_link')");
    let attempted = "SELECT FROM app_jobs.jobs WHERE attempts > 0 AND locked_at IS NULL";
    eventually(LIMIT, async || stack.sql.query_opt(attempted, &[]).await.unwrap().is_some()).await;
    let rows = stack.inspect();
    // The function answers with the reason and calls back with the status alone: the reason stays.
    let shown = ",email:send_verification_link,1,25,Missing required field: email_type,,,";
    let told = rows.len() == 2 && rows[1].contains(shown);
    assert!(told, "{rows:?}\n{}", stack.service.output());
    psql(&stack.cluster, "DELETE FROM app_jobs.jobs");

    stack.schedule().await;
    stack.stop().await;
}
