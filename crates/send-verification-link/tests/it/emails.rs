//! What is sent, and what is refused.

use job_testkit::Signal;
use job_testkit::mailgun::FakeMailgun;
use job_testkit::smtp::SmtpServer;
use serde_json::{Value, json};

use crate::graphql::GraphQl;
use crate::program::{Program, SOON};
use crate::{DATABASE_ID, SENDER_ID, dry_run, invitation, reset, verification};

const NOT_ONE: &str = "'email' must name exactly one mailbox, such as ada@example.com";

fn done() -> (u16, bool, Value) {
    (200, false, json!({ "complete": true }))
}

fn dry() -> (u16, bool, Value) {
    (200, false, json!({ "complete": true, "dryRun": true }))
}

#[tokio::test]
async fn a_dry_run_logs_type_email_subject_and_link_of_each_kind() {
    let (_graphql, mut program) = dry_run().await;
    let mut to_org = invitation();
    to_org["invite_type"] = json!(2);
    // The placeholder that stands in the documentation for an address.
    to_org["email"] = json!("[email protected]");
    for payload in [invitation(), to_org, reset(), verification()] {
        assert_eq!(program.job(&payload).await, dry());
    }
    let lines = program.dry_runs(4).await;
    let fields = |line: &Value| {
        ["email_type", "email", "subject", "link"].map(|name| line[name].as_str().unwrap_or_default().to_owned())
    };
    let lines: Vec<_> = lines.iter().map(fields).collect();
    assert_eq!(
        lines,
        [
            [
                "invite_email",
                "ada@example.com",
                "Grace Hopper invited you to Example!",
                "https://app.example.com/register?invite_token=invite-token-123&email=ada%40example.com&type=app",
            ],
            [
                "invite_email",
                "[email protected]",
                "Grace Hopper invited you to Example!",
                "https://app.example.com/register?invite_token=invite-token-123&email=%5Bemail+protected%5D&type=org",
            ],
            [
                "forgot_password",
                "ada@example.com",
                "Example Password Reset Request",
                &format!("https://app.example.com/reset-password?role_id={SENDER_ID}&reset_token=reset-token-123"),
            ],
            [
                "email_verification",
                "ada@example.com",
                "Example Email Verification",
                "https://app.example.com/verify-email?email_id=b8f4d2f6-55a4-4c8e-9f3e-6f6a4b7f0a01\
                 &verification_token=verify-token-123",
            ],
        ]
    );
}

#[tokio::test]
async fn a_missing_field_is_answered_400_before_anything_is_looked_up() {
    let (graphql, program) = dry_run().await;
    for (payload, field) in [
        (json!({}), "email_type"),
        (json!({ "email_type": "newsletter", "email": "a" }), "email_type"),
        (json!({ "email_type": "invite_email" }), "email"),
        (json!({ "email_type": "invite_email", "email": "a" }), "invite_token_or_sender_id"),
        (json!({ "email_type": "forgot_password", "email": "a" }), "user_id_or_reset_token"),
        (json!({ "email_type": "email_verification", "email": "a" }), "email_id_or_verification_token"),
    ] {
        let error = format!("Missing required field: {field}");
        assert_eq!(program.job(&payload).await, (400, false, json!({ "error": error })));
        // The payload is looked at before the database.
        let answer = program.post(&[], &payload).await;
        assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "error": error }));
    }
    let answer = program.post(&[], &reset()).await;
    assert_eq!(answer.status(), 400);
    let error = "Missing X-Database-Id header or DEFAULT_DATABASE_ID";
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "error": error }));
    assert_eq!(graphql.queries().len(), 0);
}

#[tokio::test]
async fn a_token_goes_to_one_mailbox_or_to_none() {
    let (graphql, mailgun, smtp) = (GraphQl::start().await, FakeMailgun::start().await, SmtpServer::start().await);
    let (url, api, host, port) = (graphql.url(), mailgun.url(), smtp.host(), smtp.port().to_string());
    let by_mailgun = [
        ("GRAPHQL_URL", url.as_str()),
        ("MAILGUN_KEY", "k"),
        ("MAILGUN_DOMAIN", "mg.example.com"),
        ("MAILGUN_FROM", "no-reply@example.com"),
        ("MAILGUN_URL", &api),
    ];
    let by_smtp = [
        ("GRAPHQL_URL", url.as_str()),
        ("EMAIL_SEND_USE_SMTP", "true"),
        ("SMTP_HOST", &host),
        ("SMTP_PORT", &port),
        ("SMTP_FROM", "no-reply@example.com"),
    ];
    let dry = [("GRAPHQL_URL", url.as_str()), ("SIMPLE_EMAIL_DRY_RUN", "true")];
    for variables in [&by_mailgun[..], &by_smtp, &dry] {
        let program = Program::start(variables).await;
        for email in [
            "victim@example.com, attacker@evil.example",
            "victim@example.com;attacker@evil.example",
            "victim@example.com\r\nBcc: attacker@evil.example",
            "everybody: victim@example.com, attacker@evil.example;",
            "<victim@example.com> <attacker@evil.example>",
            "=?utf-8?q?victim=40example.com=2C?= <attacker@evil.example>",
        ] {
            let mut payload = reset();
            payload["email"] = json!(email);
            assert_eq!(program.job(&payload).await, (400, false, json!({ "error": NOT_ONE })), "{email}");
        }
    }
    assert_eq!((mailgun.requests().len(), smtp.connections(), graphql.queries().len()), (0, 0, 0));
}

#[tokio::test]
async fn the_default_database_is_used_when_the_header_is_missing() {
    let graphql = GraphQl::start().await;
    let program = Program::start(&[
        ("GRAPHQL_URL", &graphql.url()),
        ("SEND_EMAIL_LINK_DRY_RUN", "1"),
        ("DEFAULT_DATABASE_ID", DATABASE_ID),
    ])
    .await;
    assert_eq!(program.post(&[], &reset()).await.status(), 200);
    let other = "00000000-0000-4000-8000-000000000000";
    assert_eq!(program.post(&[("x-database-id", other)], &reset()).await.status(), 200);
    let asked: Vec<_> = graphql.queries().iter().map(|query| query.body["variables"].clone()).collect();
    assert_eq!(asked, [json!({ "databaseId": DATABASE_ID }), json!({ "databaseId": other })]);
}

#[tokio::test]
async fn mailgun_gets_one_message_per_job_and_none_in_a_dry_run() {
    let (graphql, mailgun) = (GraphQl::start().await, FakeMailgun::start().await);
    let variables = [
        ("GRAPHQL_URL", graphql.url()),
        ("MAILGUN_API_KEY", "key-secret".to_owned()),
        ("MAILGUN_DOMAIN", "mg.example.com".to_owned()),
        ("MAILGUN_FROM", "no-reply@mg.example.com".to_owned()),
        ("MAILGUN_REPLY", "info@mg.example.com".to_owned()),
        ("MAILGUN_URL", mailgun.url()),
    ];
    let mut variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let program = Program::start(&variables).await;
    assert_eq!(program.job(&invitation()).await, done());
    let requests = mailgun.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].uri.path(), "/v3/mg.example.com/messages");
    assert_eq!(requests[0].authorization, "Basic YXBpOmtleS1zZWNyZXQ=");
    for (name, value) in [
        ("from", "no-reply@mg.example.com"),
        ("to", "ada@example.com"),
        ("subject", "Grace Hopper invited you to Example!"),
        ("h:Reply-To", "info@mg.example.com"),
    ] {
        assert_eq!(requests[0].field(name), Some(value));
    }
    let html = requests[0].field("html").unwrap();
    for part in [
        "You&#39;ve been invited to Example",
        "Join Us",
        "https://app.example.com/register?invite_token=invite-token-123&amp;email=ada%40example.com&amp;type=app",
        "https://cdn.example.com/logo.png",
        "#ff8800",
        "help@example.com",
        "Example Inc.",
        "https://example.com/about",
    ] {
        assert!(html.contains(part), "{part}: {html}");
    }
    for (payload, line, button) in [
        (reset(), "Click below to reset your password", "Reset Password"),
        (verification(), "Please confirm your email address", "Confirm Email"),
    ] {
        assert_eq!(program.job(&payload).await, done());
        let html = mailgun.requests().pop().unwrap().field("html").unwrap().to_owned();
        assert!(html.contains(line) && html.contains(button), "{html}");
    }
    assert_eq!(mailgun.requests().len(), 3);

    // A placeholder will do in a dry run only.
    let mut placeholder = reset();
    placeholder["email"] = json!("[email protected]");
    assert_eq!(program.job(&placeholder).await, (400, false, json!({ "error": NOT_ONE })));
    mailgun.answer(401, "Forbidden");
    let error = "Mailgun did not take the message: HTTP 401; check MAILGUN_API_KEY: Forbidden";
    assert_eq!(program.job(&reset()).await, (200, true, json!({ "message": error })));
    assert!(!program.process.output().contains("key-secret"));

    let before = mailgun.requests().len();
    variables.push(("SEND_VERIFICATION_LINK_DRY_RUN", "true"));
    let program = Program::start(&variables).await;
    assert_eq!(program.job(&invitation()).await, dry());
    assert_eq!(mailgun.requests().len(), before);
}

#[tokio::test]
async fn a_real_smtp_server_gets_the_mail_and_nothing_in_a_dry_run() {
    let (graphql, smtp) = (GraphQl::start().await, SmtpServer::start().await);
    let variables = [
        ("GRAPHQL_URL", graphql.url()),
        ("EMAIL_SEND_USE_SMTP", "true".to_owned()),
        ("SMTP_HOST", smtp.host()),
        ("SMTP_PORT", smtp.port().to_string()),
        ("SMTP_FROM", "no-reply@example.com".to_owned()),
    ];
    let mut variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let program = Program::start(&variables).await;
    assert_eq!(program.job(&reset()).await, done());
    let mails = smtp.mails();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].to, ["ada@example.com"]);
    assert_eq!(mails[0].header("subject").as_deref(), Some("Example Password Reset Request"));
    let connections = smtp.connections();

    variables.push(("SEND_VERIFICATION_LINK_DRY_RUN", "true"));
    let program = Program::start(&variables).await;
    assert_eq!(program.job(&reset()).await, dry());
    assert_eq!(smtp.connections(), connections);
}

#[tokio::test]
async fn hostile_names_and_tokens_are_escaped_in_html_and_encoded_in_links() {
    let (graphql, mailgun) = (GraphQl::start().await, FakeMailgun::start().await);
    let evil = "\"><script>alert('x')</script>\r\nBcc: all@example.com";
    graphql.change(|world| world.users = json!([{ "displayName": evil }]));
    graphql.change_site(|site| {
        site["siteThemes"]["nodes"][0]["theme"]["primary"] = json!("red\" onclick=\"x");
        site["logo"]["url"] = json!("javascript:alert(1)");
    });
    let program = Program::start(&[
        ("GRAPHQL_URL", &graphql.url()),
        ("MAILGUN_KEY", "k"),
        ("MAILGUN_DOMAIN", "mg.example.com"),
        ("MAILGUN_FROM", "no-reply@example.com"),
        ("MAILGUN_URL", &mailgun.url()),
    ])
    .await;
    let mut payload = invitation();
    payload["invite_token"] = json!("t&email=evil@example.com&x=\"<b>#");
    assert_eq!(program.job(&payload).await, done());
    let request = mailgun.requests().remove(0);
    assert_eq!(
        request.field("subject"),
        Some("\"><script>alert('x')</script> Bcc: all@example.com invited you to Example!")
    );
    let html = request.field("html").unwrap();
    for part in ["<script", "onclick=\"x", "javascript:", "<b>#"] {
        assert!(!html.contains(part), "{part}: {html}");
    }
    assert!(html.contains("&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"), "{html}");
    let link = "https://app.example.com/register?invite_token=t%26email%3Devil%40example.com%26x%3D%22%3Cb%3E%23\
                &amp;email=ada%40example.com&amp;type=app\"";
    assert!(html.contains(link), "{html}");
}

#[tokio::test]
async fn a_local_site_has_http_and_the_local_port_when_one_is_set() {
    let graphql = GraphQl::start().await;
    graphql.change_site(|site| site["domains"]["nodes"][0]["domain"] = json!("localhost"));
    let mut variables =
        vec![("GRAPHQL_URL".to_owned(), graphql.url()), ("SEND_VERIFICATION_LINK_DRY_RUN".into(), "true".into())];
    for (port, origin) in [(None, "https://localhost"), (Some("3000"), "http://localhost:3000")] {
        variables.extend(port.map(|port| ("LOCAL_APP_PORT".to_owned(), port.to_owned())));
        let borrowed: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut program = Program::start(&borrowed).await;
        assert_eq!(program.job(&reset()).await, dry());
        let link = program.dry_runs(1).await[0]["link"].as_str().unwrap().to_owned();
        assert_eq!(link, format!("{origin}/reset-password?role_id={SENDER_ID}&reset_token=reset-token-123"));
    }
}

#[tokio::test]
async fn it_calls_back_and_stops_on_sigterm() {
    let callbacks = GraphQl::start().await;
    let (_graphql, mut program) = dry_run().await;
    let url = format!("http://{}/?token=t", callbacks.address());
    let headers = [
        ("x-worker-id", "worker-0"),
        ("x-job-id", "7"),
        ("x-database-id", DATABASE_ID),
        ("x-callback-url", url.as_str()),
    ];
    assert_eq!(program.post(&headers, &reset()).await.status(), 200);
    assert_eq!(program.post(&headers, &json!({})).await.status(), 400);
    program.process.signal(Signal::Term);
    assert_eq!(program.process.exit_code(SOON).await, 0);
    let mut bodies: Vec<_> = callbacks.queries().iter().map(|callback| callback.body.to_string()).collect();
    bodies.sort();
    assert_eq!(bodies, [r#"{"error":"HTTP 400","status":"error"}"#, r#"{"status":"success"}"#]);
}

#[tokio::test]
async fn a_bad_configuration_names_every_variable_and_exits_with_64() {
    let start = |argument: Option<&str>| {
        let program = job_testkit::process::Program::at(env!("CARGO_BIN_EXE_send-verification-link"));
        let program = program.env("PORT", "eighty");
        argument.into_iter().fold(program, job_testkit::process::Program::arg).spawn()
    };
    let mut process = start(None);
    assert_eq!(process.exit_code(SOON).await, 64);
    for name in ["PORT", "GRAPHQL_URL", "MAILGUN_API_KEY", "MAILGUN_DOMAIN", "MAILGUN_FROM"] {
        assert!(process.output().contains(&format!("  {name}: ")), "{name}: {}", process.output());
    }
    let mut process = start(Some("--no-such-argument"));
    assert_eq!(process.exit_code(SOON).await, 64);
    let mut process = start(Some("--version"));
    assert_eq!(process.exit_code(SOON).await, 0);
    assert_eq!(process.output(), concat!("send-verification-link ", env!("CARGO_PKG_VERSION")));
}
