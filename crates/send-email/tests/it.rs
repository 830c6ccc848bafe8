//! The real program over real HTTP, with a fake Mailgun and a real SMTP server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use job_testkit::mailgun::FakeMailgun;
use job_testkit::process::Program;
use job_testkit::smtp::SmtpServer;
use job_testkit::{Process, Signal};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(20);

struct Running {
    process: Process,
    url: String,
}

impl Running {
    async fn start(variables: &[(&str, &str)]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let program = Program::at(env!("CARGO_BIN_EXE_send-email")).env("PORT", port.to_string());
        let mut process = program.envs(variables.iter().copied()).spawn();
        process.wait_for_line("listening", SOON).await;
        Self { process, url: format!("http://127.0.0.1:{port}/email:send_email") }
    }

    /// The answer's status, whether X-Job-Error is true, and the body.
    async fn job(&self, payload: &Value) -> (u16, bool, Value) {
        let answer = reqwest::Client::new().post(&self.url).json(payload).send().await.unwrap();
        let error = answer.headers().get("x-job-error").is_some_and(|value| value == "true");
        (answer.status().as_u16(), error, answer.json().await.unwrap())
    }
}

fn message() -> Value {
    json!({ "to": "ada@example.com", "subject": "Your report", "html": "<b>ready</b>", "text": "ready" })
}

fn variables(mailgun: &FakeMailgun) -> Vec<(&'static str, String)> {
    vec![
        ("MAILGUN_API_KEY", "key".to_owned()),
        ("MAILGUN_DOMAIN", "mg.example.com".to_owned()),
        ("MAILGUN_FROM", "no-reply@example.com".to_owned()),
        ("MAILGUN_URL", mailgun.url()),
    ]
}

fn borrowed<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[tokio::test]
async fn the_payloads_message_goes_to_mailgun_once() {
    let mailgun = FakeMailgun::start().await;
    let running = Running::start(&borrowed(&variables(&mailgun))).await;
    assert_eq!(running.job(&message()).await, (200, false, json!({ "complete": true })));
    let mut payload = message();
    payload["from"] = json!("boss@example.com");
    payload["replyTo"] = json!("desk@example.com");
    assert_eq!(running.job(&payload).await, (200, false, json!({ "complete": true })));
    let requests = mailgun.requests();
    assert_eq!(requests.len(), 2);
    let fields = ["from", "to", "subject", "html", "text", "h:Reply-To"];
    let sent = |index: usize| fields.map(|name| requests[index].field(name));
    let same = [Some("ada@example.com"), Some("Your report"), Some("<b>ready</b>"), Some("ready")];
    assert_eq!(sent(0), [Some("no-reply@example.com"), same[0], same[1], same[2], same[3], None]);
    assert_eq!(sent(1), [Some("boss@example.com"), same[0], same[1], same[2], same[3], Some("desk@example.com")]);
}

#[tokio::test]
async fn an_incomplete_payload_and_a_refused_mail_are_the_jobs_error_as_the_original_throws_them() {
    let mailgun = FakeMailgun::start().await;
    let running = Running::start(&borrowed(&variables(&mailgun))).await;
    for (payload, error) in [
        (json!({}), "Missing required field 'to'"),
        (json!({ "to": "ada@example.com" }), "Missing required field 'subject'"),
        (json!({ "to": "ada@example.com", "subject": "s" }), "Either 'html' or 'text' must be provided"),
    ] {
        assert_eq!(running.job(&payload).await, (200, true, json!({ "message": error })));
    }
    assert_eq!(mailgun.requests().len(), 0);
    mailgun.answer(500, "");
    let message = json!({ "message": "Mailgun did not take the message: HTTP 500" });
    assert_eq!(running.job(&self::message()).await, (200, true, message));
}

#[tokio::test]
async fn a_real_smtp_server_gets_the_message() {
    let smtp = SmtpServer::start().await;
    let variables = [
        ("EMAIL_SEND_USE_SMTP", "yes".to_owned()),
        ("SMTP_HOST", smtp.host()),
        ("SMTP_PORT", smtp.port().to_string()),
        ("SMTP_FROM", "no-reply@example.com".to_owned()),
    ];
    let running = Running::start(&borrowed(&variables)).await;
    assert_eq!(running.job(&message()).await, (200, false, json!({ "complete": true })));
    let mails = smtp.mails();
    assert_eq!((mails.len(), mails[0].header("subject").as_deref()), (1, Some("Your report")));
}

#[tokio::test]
async fn a_dry_run_logs_recipient_and_subject_and_sends_nothing() {
    let mailgun = FakeMailgun::start().await;
    let mut variables = variables(&mailgun);
    variables.push(("SEND_EMAIL_DRY_RUN", "true".to_owned()));
    variables.push(("SMTP_HOTS", "mail.example.com".to_owned()));
    let mut running = Running::start(&borrowed(&variables)).await;
    assert!(running.process.output().contains("SMTP_HOTS is set, and nothing reads it: did you mean SMTP_HOST?"));
    assert_eq!(running.job(&message()).await, (200, false, json!({ "complete": true, "dryRun": true })));
    let line = running.process.wait_for_line("dry run", SOON).await;
    assert!(line.contains("ada@example.com") && line.contains("Your report"), "{line}");
    assert_eq!(mailgun.requests().len(), 0);
    running.process.signal(Signal::Term);
    assert_eq!(running.process.exit_code(SOON).await, 0);
}

#[tokio::test]
async fn a_bad_configuration_exits_with_64() {
    let mut process = Program::at(env!("CARGO_BIN_EXE_send-email")).env("SEND_EMAIL_DRY_RUN", "perhaps").spawn();
    assert_eq!(process.exit_code(SOON).await, 64);
    assert!(process.output().contains("SEND_EMAIL_DRY_RUN: \"perhaps\" is neither true"), "{}", process.output());
}

#[tokio::test]
async fn the_command_health_asks_the_function_that_runs_here() {
    let running = Running::start(&[("SEND_EMAIL_DRY_RUN", "true")]).await;
    let port = running.url.split([':', '/']).nth(4).unwrap().to_owned();
    let health = || Program::at(env!("CARGO_BIN_EXE_send-email")).arg("health").env("PORT", &port).spawn();
    let mut asked = health();
    assert_eq!(asked.exit_code(SOON).await, 0, "{}", asked.output());
    drop(running);
    let mut asked = health();
    assert_eq!(asked.exit_code(SOON).await, 70, "{}", asked.output());
}

#[tokio::test]
async fn it_starts_without_a_sender_and_a_message_that_has_none_either_is_the_jobs_error() {
    let mailgun = FakeMailgun::start().await;
    let mut variables = variables(&mailgun);
    variables.retain(|(name, _)| *name != "MAILGUN_FROM");
    let running = Running::start(&borrowed(&variables)).await;
    let mut payload = message();
    payload["from"] = json!("boss@example.com");
    assert_eq!(running.job(&payload).await, (200, false, json!({ "complete": true })));
    assert_eq!(mailgun.requests()[0].field("from"), Some("boss@example.com"));
    let (_, error, answer) = running.job(&message()).await;
    assert!(error && answer["message"].as_str().unwrap().contains("MAILGUN_FROM"), "{answer}");
    assert_eq!(mailgun.requests().len(), 1);
}

#[tokio::test]
async fn a_sender_that_cannot_be_one_is_refused_at_the_start() {
    let mailgun = FakeMailgun::start().await;
    let mut variables = variables(&mailgun);
    variables.push(("MAILGUN_FROM", "Acme, Inc. <x@y.com>".to_owned()));
    let mut process = Program::at(env!("CARGO_BIN_EXE_send-email")).envs(variables).spawn();
    assert_eq!(process.exit_code(SOON).await, 64);
    assert!(process.output().contains("MAILGUN_FROM: is not one e-mail address"), "{}", process.output());
}

#[tokio::test]
async fn the_originals_variables_keep_a_staging_set_up_from_mailing_customers() {
    let mailgun = FakeMailgun::start().await;
    let mut variables = variables(&mailgun);
    variables.push(("SIMPLE_EMAIL_DRY_RUN", "true".to_owned()));
    let running = Running::start(&borrowed(&variables)).await;
    assert_eq!(running.job(&message()).await, (200, false, json!({ "complete": true, "dryRun": true })));
    assert_eq!(mailgun.requests().len(), 0);

    let last = variables.len() - 1;
    variables[last] = ("MAILGUN_DEV_EMAIL", "dev@staging.example".to_owned());
    let mut running = Running::start(&borrowed(&variables)).await;
    assert_eq!(running.job(&message()).await, (200, false, json!({ "complete": true })));
    assert_eq!(mailgun.requests()[0].field("to"), Some("dev+ada_at_example.com@staging.example"));
    running.process.wait_for_line("MAILGUN_DEV_EMAIL: is set", SOON).await;
}
