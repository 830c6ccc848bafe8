//! Messages on their way to a fake Mailgun and to a real SMTP server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;

use job_testkit::mailgun::FakeMailgun;
use job_testkit::smtp::SmtpServer;
use job_utils::config::Reader;
use mailer::{Config, Delivery, MailError, Mailer, Message, Senders};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::ServerConfig;

fn mailer(pairs: &[(&str, &str)], dry_run: bool) -> Mailer {
    let env: HashMap<String, String> = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let mut reader = Reader::new(&env);
    let config = Config::read(&mut reader, dry_run, Senders::OfMessages);
    Mailer::new(reader.finish(config).unwrap()).unwrap()
}

fn by_mailgun(url: &str) -> Mailer {
    mailer(
        &[
            ("MAILGUN_API_KEY", "key-secret"),
            ("MAILGUN_DOMAIN", "mg.example.com"),
            ("MAILGUN_FROM", "Example <no-reply@example.com>"),
            ("MAILGUN_REPLY", "help@example.com"),
            ("MAILGUN_URL", url),
        ],
        false,
    )
}

fn by_smtp(server: &SmtpServer, more: &[(&str, &str)]) -> Mailer {
    let (host, port) = (server.host(), server.port().to_string());
    let mut pairs = vec![
        ("EMAIL_SEND_USE_SMTP", "true"),
        ("SMTP_HOST", host.as_str()),
        ("SMTP_PORT", port.as_str()),
        ("SMTP_FROM", "Example <no-reply@example.com>"),
    ];
    pairs.extend_from_slice(more);
    mailer(&pairs, false)
}

fn message() -> Message {
    Message {
        to: "ada@example.com".into(),
        subject: "Grüße & <b>".into(),
        html: Some("<p>Hello+World & co</p>".into()),
        text: Some("Hello".into()),
        ..Message::default()
    }
}

#[tokio::test]
async fn mailgun_gets_one_post_with_basic_auth_and_form_fields() {
    let mailgun = FakeMailgun::start().await;
    assert_eq!(by_mailgun(&mailgun.url()).send(&message()).await.unwrap(), Delivery::Sent);
    let requests = mailgun.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].method.as_str(), requests[0].uri.path()), ("POST", "/v3/mg.example.com/messages"));
    // Base64 of api:key-secret.
    assert_eq!(requests[0].authorization, "Basic YXBpOmtleS1zZWNyZXQ=");
    let form: Vec<_> = requests[0].form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        form,
        [
            ("from", "Example <no-reply@example.com>"),
            ("to", "ada@example.com"),
            ("subject", "Grüße & <b>"),
            ("html", "<p>Hello+World & co</p>"),
            ("text", "Hello"),
            ("h:Reply-To", "help@example.com"),
        ]
    );
}

#[tokio::test]
async fn the_base_url_may_hold_a_path_and_the_version() {
    let mailgun = FakeMailgun::start().await;
    for (suffix, path) in [("/", "/v3/"), ("/v3", "/v3/"), ("/v3/", "/v3/"), ("/proxy", "/proxy/v3/")] {
        by_mailgun(&format!("{}{suffix}", mailgun.url())).send(&message()).await.unwrap();
        assert_eq!(mailgun.requests().pop().unwrap().uri.path(), format!("{path}mg.example.com/messages"), "{suffix}");
    }
}

#[tokio::test]
async fn what_the_message_says_goes_before_the_configuration() {
    let mailgun = FakeMailgun::start().await;
    let message = Message {
        from: Some("boss@example.com".into()),
        reply_to: Some("\"Desk, Front\" <desk@example.com>".into()),
        to: "ada@example.com, Bob <bob@example.com>".into(),
        html: None,
        ..message()
    };
    by_mailgun(&mailgun.url()).send(&message).await.unwrap();
    let request = mailgun.requests().remove(0);
    assert_eq!(request.field("from"), Some("boss@example.com"));
    assert_eq!(request.field("to"), Some("ada@example.com, Bob <bob@example.com>"));
    assert_eq!(request.field("h:Reply-To"), Some("\"Desk, Front\" <desk@example.com>"));
    assert_eq!(request.field("html"), None);
}

#[tokio::test]
async fn a_refusal_says_what_to_check_and_never_holds_the_key() {
    let mailgun = FakeMailgun::start().await;
    for (status, body, expected) in [
        (401, "Forbidden key-secret", "Mailgun did not take the message: HTTP 401; check MAILGUN_API_KEY: Forbidden …"),
        (
            404,
            r#"{"message":"Domain not found"}"#,
            "Mailgun did not take the message: HTTP 404; check MAILGUN_DOMAIN, and MAILGUN_URL if the domain is in the \
             EU region: {\"message\":\"Domain not found\"}",
        ),
        (500, "", "Mailgun did not take the message: HTTP 500"),
    ] {
        mailgun.answer(status, body);
        let error = by_mailgun(&mailgun.url()).send(&message()).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(!format!("{error:?}").contains("key-secret"));
    }
    let url = mailgun.url();
    drop(mailgun);
    let error = job_testkit::eventually_some(std::time::Duration::from_secs(10), async || {
        by_mailgun(&url).send(&message()).await.err()
    })
    .await
    .to_string();
    let place = url.trim_start_matches("http://");
    assert!(error.starts_with(&format!("Mailgun did not take the message: {place} cannot be reached (")), "{error}");
    assert!(!error.contains("key-secret"), "{error}");
}

#[tokio::test]
async fn a_line_break_adds_no_header() {
    let server = SmtpServer::start().await;
    let mailer = by_smtp(&server, &[]);
    let hostile = Message { subject: "Hi\r\nBcc: all@example.com\r\n\r\nBody".into(), ..message() };
    mailer.send(&hostile).await.unwrap();
    let mail = server.mails().remove(0);
    assert_eq!(mail.header("subject").as_deref(), Some("Hi Bcc: all@example.com Body"));
    assert_eq!((mail.header("bcc"), mail.to), (None, vec!["ada@example.com".to_owned()]));

    let with = |field: &str| {
        let value = "x\r\nBcc: all@example.com <ada@example.com>".to_owned();
        match field {
            "to" => Message { to: value, ..message() },
            "from" => Message { from: Some(value), ..message() },
            _ => Message { reply_to: Some(value), ..message() },
        }
    };
    for field in ["to", "from", "replyTo"] {
        let error = mailer.send(&with(field)).await.unwrap_err();
        assert!(matches!(&error, MailError::Address(name) if *name == field), "{field}: {error}");
    }
    assert_eq!(server.mails().len(), 1);
}

#[tokio::test]
async fn a_real_smtp_server_gets_both_bodies_and_the_reply_address() {
    let server = SmtpServer::start().await;
    let mailer =
        by_smtp(&server, &[("SMTP_USER", "user"), ("SMTP_PASS", "pass"), ("MAILGUN_REPLY", "help@example.com")]);
    let message = Message { subject: "Plain subject".into(), ..message() };
    assert_eq!(mailer.send(&message).await.unwrap(), Delivery::Sent);
    let mails = server.mails();
    assert_eq!(mails.len(), 1);
    assert_eq!(
        (mails[0].from.as_str(), &mails[0].to[..]),
        ("no-reply@example.com", &["ada@example.com".to_owned()][..])
    );
    // Base64 of \0user\0pass.
    assert_eq!(mails[0].auth, ["AHVzZXIAcGFzcw=="]);
    assert_eq!(mails[0].header("from").as_deref(), Some("Example <no-reply@example.com>"));
    assert_eq!(mails[0].header("reply-to").as_deref(), Some("help@example.com"));
    assert_eq!(mails[0].header("subject").as_deref(), Some("Plain subject"));
    assert!(mails[0].header("content-type").unwrap().starts_with("multipart/alternative"));
    for part in ["<p>Hello+World & co</p>", "\r\nHello\r\n"] {
        assert!(mails[0].data.contains(part), "{}", mails[0].data);
    }
}

#[tokio::test]
async fn a_refused_recipient_and_a_server_that_is_away_are_errors_to_act_on() {
    let server = SmtpServer::start().await;
    server.refuse("550 no such user here");
    let mailer = by_smtp(&server, &[("SMTP_USER", "user"), ("SMTP_PASS", "hunter2")]);
    let error = mailer.send(&message()).await.unwrap_err().to_string();
    let place = format!("the SMTP server {}:{} did not take the message: ", server.host(), server.port());
    assert!(error.starts_with(&place) && error.contains("no such user here"), "{error}");
    assert_eq!(server.mails().len(), 0);
    drop(server);
    let error = job_testkit::eventually_some(std::time::Duration::from_secs(10), async || {
        mailer
            .send(&message())
            .await
            .err()
            .map(|error| error.to_string())
            .filter(|error| !error.contains("no such user"))
    })
    .await;
    assert!(error.starts_with(&place) && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_server_without_starttls_gets_nothing_when_tls_is_required() {
    let server = SmtpServer::start().await;
    let error = by_smtp(&server, &[("SMTP_SECURE", "starttls")]).send(&message()).await.unwrap_err();
    assert!(matches!(error, MailError::Smtp { .. }), "{error}");
    let error = by_smtp(&server, &[("SMTP_SECURE", "true")]).send(&message()).await.unwrap_err();
    assert!(matches!(error, MailError::Smtp { .. }), "{error}");
    assert_eq!((server.connections(), server.mails().len()), (2, 0));
}

#[tokio::test]
async fn a_dry_run_sends_nothing_and_takes_placeholders_for_addresses() {
    let (mailgun, smtp) = (FakeMailgun::start().await, SmtpServer::start().await);
    let (url, host, port) = (mailgun.url(), smtp.host(), smtp.port().to_string());
    let both = [
        ("MAILGUN_API_KEY", "k"),
        ("MAILGUN_DOMAIN", "d"),
        ("MAILGUN_FROM", "f@example.com"),
        ("MAILGUN_URL", &url),
        ("SMTP_HOST", &host),
        ("SMTP_PORT", &port),
    ];
    for smtp in ["true", "false"] {
        let mut pairs = both.to_vec();
        pairs.push(("EMAIL_SEND_USE_SMTP", smtp));
        let message = Message { to: "[email protected]".into(), ..message() };
        assert_eq!(mailer(&pairs, true).send(&message).await.unwrap(), Delivery::DryRun);
    }
    assert_eq!((mailgun.requests().len(), smtp.connections()), (0, 0));
}

#[tokio::test]
async fn a_message_without_body_sender_or_valid_recipient_is_refused_before_anything_is_sent() {
    let (mailer, outbox) = Mailer::memory("no-reply@example.com");
    let error = mailer.send(&Message { html: None, text: None, ..message() }).await.unwrap_err();
    assert_eq!(error.to_string(), "the message has neither 'html' nor 'text'");
    let error = mailer.send(&Message { to: "[email protected]".into(), ..message() }).await.unwrap_err();
    assert_eq!(error.to_string(), "the message's 'to' is not a valid e-mail address");
    assert_eq!(outbox.messages(), []);
    mailer.send(&message()).await.unwrap();
    assert_eq!(outbox.messages()[0].from.as_deref(), Some("no-reply@example.com"));
    let config = Config {
        transport: mailer::config::Transport::Mailgun {
            url: "http://127.0.0.1:9".parse().unwrap(),
            domain: "d".into(),
            key: job_utils::config::Secret::new("k"),
        },
        from: None,
        reply_to: None,
        redirect_to: None,
    };
    let error = Mailer::new(config).unwrap().send(&message()).await.unwrap_err();
    assert!(matches!(error, MailError::NoSender), "{error}");
}

#[tokio::test]
async fn all_mail_goes_to_the_developers_address_by_either_way() {
    let (mailgun, smtp) = (FakeMailgun::start().await, SmtpServer::start().await);
    let url = mailgun.url();
    let dev = ("MAILGUN_DEV_EMAIL", "dev@staging.example");
    let api =
        [("MAILGUN_API_KEY", "k"), ("MAILGUN_DOMAIN", "d"), ("MAILGUN_FROM", "a@b.co"), ("MAILGUN_URL", &url), dev];
    let message = Message { to: "Ada <ada@example.com>, bob@exämple.com".into(), ..message() };
    mailer(&api, false).send(&message).await.unwrap();
    let redirected = ["dev+ada_at_example.com@staging.example", "dev+bob_at_xn--exmple-cua.com@staging.example"];
    assert_eq!(mailgun.requests()[0].field("to"), Some(redirected.join(", ").as_str()));

    by_smtp(&smtp, &[dev]).send(&message).await.unwrap();
    let mail = smtp.mails().remove(0);
    assert_eq!(mail.to, redirected);
    assert_eq!(mail.header("to"), Some(redirected.join(", ")));
    for (name, value) in [("cc", mail.header("cc")), ("bcc", mail.header("bcc"))] {
        assert_eq!(value, None, "{name}");
    }
    assert!(!mail.data.contains("ada@example.com"), "{}", mail.data);
}

#[tokio::test]
async fn a_domain_beyond_ascii_needs_no_smtputf8_and_a_local_part_does() {
    let server = SmtpServer::start().await;
    server.without_smtputf8();
    let mailer = by_smtp(&server, &[("SMTP_REPLY_TO", "help@exämple.com")]);
    let to = |to: &str| Message { to: to.into(), ..message() };
    mailer.send(&to("José <jose@exämple.com>")).await.unwrap();
    let mail = server.mails().remove(0);
    assert_eq!(mail.to, ["jose@xn--exmple-cua.com"]);
    assert_eq!(mail.header("reply-to").as_deref(), Some("help@xn--exmple-cua.com"));
    assert!(mail.data.is_ascii(), "{}", mail.data);

    let error = mailer.send(&to("josé@exämple.com")).await.unwrap_err();
    assert!(error.to_string().contains("SMTPUTF8"), "{error}");
    let server = SmtpServer::start().await;
    by_smtp(&server, &[]).send(&to("josé@exämple.com")).await.unwrap();
    assert_eq!(server.mails()[0].to, ["josé@xn--exmple-cua.com"]);
}

#[tokio::test]
async fn a_body_and_a_subject_arrive_as_they_are_to_be_read() {
    let (server, mailgun) = (SmtpServer::start().await, FakeMailgun::start().await);
    let text = "one\rtwo\r\nthree\nfour\0\r.\rMAIL FROM:<x@y.com>";
    let message = Message {
        subject: "=?UTF-8?Q?Paid=21?= not".into(),
        text: Some(text.into()),
        html: None,
        to: "ada@example.com".into(),
        ..Message::default()
    };
    by_smtp(&server, &[]).send(&message).await.unwrap();
    let mail = server.mails().remove(0);
    // Base64 of the whole subject: a reader decodes it once.
    assert_eq!(mail.header("subject").as_deref(), Some("=?utf-8?b?PT9VVEYtOD9RP1BhaWQ9MjE/PSBub3Q=?="));
    assert!(!mail.data.contains('\0') && !mail.data.replace("\r\n", "").contains('\r'), "{:?}", mail.data);
    let body = mail.data.split_once("\r\n\r\n").unwrap().1;
    assert!(body.starts_with("one\r\ntwo\r\nthree\r\nfour"), "{body:?}");

    by_mailgun(&mailgun.url()).send(&message).await.unwrap();
    let sent = mailgun.requests().remove(0);
    assert_eq!(sent.field("text"), Some("one\ntwo\nthree\nfour\u{FFFD}\n.\nMAIL FROM:<x@y.com>"));
    assert_eq!(sent.field("subject"), Some("=?UTF-8?Q?Paid=21?= not"));
}

#[tokio::test]
async fn the_server_is_greeted_with_our_name_and_tls_can_be_required() {
    let server = SmtpServer::start().await;
    by_smtp(&server, &[("SMTP_NAME", "jobs.example.com")]).send(&message()).await.unwrap();
    assert_eq!(server.mails()[0].hello, "jobs.example.com");
    let error = by_smtp(&server, &[("SMTP_REQUIRE_TLS", "true")]).send(&message()).await.unwrap_err();
    assert!(matches!(error, MailError::Smtp { .. }), "{error}");
    assert_eq!(server.mails().len(), 1);
}

/// TLS with a certificate that nobody knows, in front of a server.
async fn behind_tls(server: &SmtpServer) -> u16 {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (key, certificate) = (path("key.pem"), path("certificate.pem"));
    let made = format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=mail -keyout {key} -out {certificate}"
    );
    let made = std::process::Command::new("openssl").args(made.split_whitespace()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(
        vec![CertificateDer::from_pem_file(certificate).unwrap()],
        PrivateKeyDer::from_pem_file(key).unwrap(),
    );
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config.unwrap()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, inner) = (listener.local_addr().unwrap().port(), (server.host(), server.port()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut outer) = acceptor.accept(stream).await else { continue };
            let mut inner = tokio::net::TcpStream::connect(inner.clone()).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
        }
    });
    port
}

#[tokio::test]
async fn an_unknown_certificate_is_refused_unless_it_is_allowed() {
    let server = SmtpServer::start().await;
    let port = behind_tls(&server).await.to_string();
    let secure = [("SMTP_SECURE", "true"), ("SMTP_PORT", port.as_str())];
    let error = by_smtp(&server, &secure).send(&message()).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(server.mails().len(), 0);
    let allowed = [secure[0], secure[1], ("SMTP_TLS_REJECT_UNAUTHORIZED", "false")];
    by_smtp(&server, &allowed).send(&message()).await.unwrap();
    assert_eq!(server.mails().len(), 1);
}
