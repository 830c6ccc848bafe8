//! When a callback is sent, and how long a function insists.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use job_fn::{App, CallbackOrigins, Config, Context};
use job_utils::config::Reader;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::receiver::Receiver;
use crate::{Function, json};

fn echo() -> App {
    App::new(async |_: Context, payload: Value| anyhow::Ok(payload))
}

#[tokio::test]
async fn the_path_and_query_of_the_callback_url_are_kept() {
    let receiver = Receiver::start([]).await;
    let function = Function::start(echo()).await;
    let url = format!("{}/hook/it?token=a%2Fb&x=1", receiver.url());
    function.dispatch(&url, "{}").send().await.unwrap();
    assert_eq!(receiver.wait_for(1).await[0].uri, "/hook/it?token=a%2Fb&x=1");
    function.dispatch(&format!("{}?token=t", receiver.url()), "{}").send().await.unwrap();
    assert_eq!(receiver.wait_for(2).await[1].uri, "/callback?token=t");
}

#[tokio::test]
async fn no_callback_without_all_three_headers_or_with_a_url_that_is_none() {
    let receiver = Receiver::start([]).await;
    let function = Function::start(echo()).await;
    let url = receiver.url();
    for headers in [
        vec![("x-worker-id", "w"), ("x-job-id", "1")],
        vec![("x-callback-url", url.as_str()), ("x-job-id", "1")],
        vec![("x-callback-url", url.as_str()), ("x-worker-id", "w")],
        vec![("x-callback-url", url.as_str()), ("x-worker-id", "w"), ("x-job-id", "")],
        vec![("x-callback-url", "not a url"), ("x-worker-id", "w"), ("x-job-id", "1")],
        vec![("x-callback-url", "ftp://x/"), ("x-worker-id", "w"), ("x-job-id", "1")],
    ] {
        let mut request = reqwest::Client::new().post(function.url()).body("{}");
        for (name, value) in &headers {
            request = request.header(*name, *value);
        }
        assert_eq!(request.send().await.unwrap().status(), 200, "{headers:?}");
    }
    // Stopping waits for every callback under way.
    assert_eq!(function.stop().await.abandoned, 0);
    assert_eq!(receiver.received().len(), 0);
}

#[tokio::test]
async fn the_callback_waits_until_the_answer_is_written() {
    let receiver = Receiver::start([]).await;
    // More than the sockets' buffers hold, so that the answer cannot be written while nobody reads it.
    let function = Function::start(App::new(async |context: Context, _: Value| {
        anyhow::Ok(if context.job_id.as_deref() == Some("1") { "x".repeat(32 << 20) } else { String::new() })
    }))
    .await;
    let mut slow = TcpStream::connect(function.address).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: f\r\nx-worker-id: w\r\nx-job-id: 1\r\nx-callback-url: {}\r\n\
         content-length: 2\r\nconnection: close\r\n\r\n{{}}",
        receiver.url()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.read_exact(&mut [0; 12]).await.unwrap();
    // Another job's callback gets through meanwhile.
    function.dispatch(&receiver.url(), "{}").send().await.unwrap();
    let received = receiver.wait_for(1).await;
    assert_eq!(received[0].header("x-job-id"), Some("42"));
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() > 32 << 20);
    assert_eq!(receiver.wait_for(2).await[1].header("x-job-id"), Some("1"));
}

#[tokio::test]
async fn a_callback_is_sent_again_after_503_and_429_until_it_is_taken() {
    let receiver = Receiver::start([(503, None), (429, None), (500, None)]).await;
    let function = Function::start(echo()).await;
    assert_eq!(function.dispatch(&receiver.url(), "{}").send().await.unwrap().status(), 200);
    for callback in receiver.wait_for(4).await {
        assert_eq!(callback.body, json!({ "status": "success" }));
        assert_eq!(callback.header("x-job-id"), Some("42"));
    }
    assert_eq!(function.stop().await.abandoned, 0);
    assert_eq!(receiver.received().len(), 4);
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let receiver = Receiver::start([(503, Some(("retry-after", "2")))]).await;
    let function = Function::start(echo()).await;
    function.dispatch(&receiver.url(), "{}").send().await.unwrap();
    let received = receiver.wait_for(2).await;
    assert!(received[1].at - received[0].at >= Duration::from_secs(2));
}

#[tokio::test]
async fn a_callback_is_sent_again_after_a_refused_connection() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let function = Function::start(echo()).await;
    let answer = function.dispatch(&format!("http://{address}"), "{}").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(TcpStream::connect(address).await.is_err(), "the job service is down");
    let receiver = Receiver::on(TcpListener::bind(address).await.unwrap(), []);
    assert_eq!(receiver.wait_for(1).await[0].body, json!({ "status": "success" }));
}

#[tokio::test]
async fn any_other_answer_is_final_and_a_redirect_is_not_followed() {
    for answer in [(400, None), (404, None), (302, Some(("location", "/elsewhere")))] {
        let receiver = Receiver::start([answer]).await;
        let function = Function::start(echo()).await;
        function.dispatch(&receiver.url(), "{}").send().await.unwrap();
        assert_eq!(function.stop().await.abandoned, 0);
        assert_eq!(receiver.received().len(), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn a_callback_is_given_up_in_the_end() {
    let receiver = Receiver::start(std::iter::repeat_n((503, None), 1000)).await;
    let function = Function::start(echo().give_up_callbacks_after(Duration::from_millis(500))).await;
    function.dispatch(&receiver.url(), "{}").send().await.unwrap();
    assert_eq!(function.stop().await.abandoned, 0);
    let tries = receiver.received();
    assert!((2..=5).contains(&tries.len()), "{}", tries.len());

    // A wait that would end beyond the limit is not begun.
    let receiver = Receiver::start([(503, Some(("retry-after", "3600")))]).await;
    let function = Function::start(echo().give_up_callbacks_after(Duration::from_secs(60))).await;
    function.dispatch(&receiver.url(), "{}").send().await.unwrap();
    assert_eq!(function.stop().await.abandoned, 0);
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_job_that_wants_a_callback_elsewhere_is_refused_and_neither_run_nor_called_back() {
    let (jobs, stranger) = (Receiver::start([]).await, Receiver::start([]).await);
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = runs.clone();
    let app = App::new(move |_: Context, payload: Value| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move { anyhow::Ok(payload) }
    });
    let function = Function::start(app.callback_origins(CallbackOrigins::of(&jobs.url()).unwrap())).await;
    let port = jobs.address.port();
    for url in [
        stranger.url(),
        format!("{}/callback?token=secret", stranger.url()),
        format!("https://127.0.0.1:{port}/callback"),
        format!("http://localhost:{port}/callback"),
        format!("http://127.0.0.1:{port}@{}/", stranger.address),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        let answer = function.dispatch(&url, "{}").send().await.unwrap();
        let (status, answer) = json(answer).await;
        let error = answer["error"].as_str().unwrap();
        assert!(status == 403 && error.contains("JOBS_CALLBACK_ORIGINS"), "{url}: {status} {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    let answer = function.dispatch(&format!("{}/any/path?token=t", jobs.url()), "{}").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(jobs.wait_for(1).await[0].uri, "/any/path?token=t");
    // Without a callback URL a function can be tried by hand.
    let by_hand = reqwest::Client::new().post(function.url()).body("{}").send().await.unwrap();
    assert_eq!(by_hand.status(), 200);
    assert_eq!(function.stop().await.abandoned, 0);
    assert_eq!((jobs.received().len(), stranger.received().len()), (1, 0));
}

#[tokio::test]
async fn where_to_call_back_is_read_from_the_environment() {
    let read = |pairs: &[(&str, &str)]| {
        let env: BTreeMap<&str, &str> = pairs.iter().copied().collect();
        let mut reader = Reader::new(&env);
        let config = Config::read(&mut reader);
        reader.finish(config)
    };
    let allows = |pairs: &[(&str, &str)], url: &str| {
        let origins = read(pairs).unwrap().callback_origins;
        origins.is_none_or(|origins| origins.allow(&url.parse().unwrap()))
    };
    let url = ("INTERNAL_JOBS_CALLBACK_URL", "http://jobs:8080/callback");
    assert!(allows(&[], "http://anywhere/"));
    assert!(allows(&[url], "http://jobs:8080/callback?epoch=1") && !allows(&[url], "http://jobs/callback"));
    let list = ("JOBS_CALLBACK_ORIGINS", "http://a, https://b:444/ignored");
    assert!(
        allows(&[url, list], "http://a:80/x") && allows(&[url, list], "https://b:444/") && !allows(&[url, list], url.1)
    );
    assert!(allows(&[url, ("JOBS_CALLBACK_ORIGINS", "*")], "http://anywhere/"));
    let error = read(&[("JOBS_CALLBACK_ORIGINS", "jobs:8080")]).unwrap_err();
    assert_eq!(error.faults[0].name, "JOBS_CALLBACK_ORIGINS");
}
