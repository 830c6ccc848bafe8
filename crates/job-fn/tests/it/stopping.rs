//! What happens to work under way when a function stops or its caller hangs up.

use std::sync::Arc;
use std::time::Duration;

use job_fn::{App, Context};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::receiver::Receiver;
use crate::{Function, SOON, json};

/// A function whose handlers report that they have begun and wait to be let go.
fn gated() -> (App, Arc<Semaphore>, Arc<Semaphore>) {
    let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (begins, waits) = (Arc::clone(&begun), Arc::clone(&gate));
    let app = App::new(move |_: Context, _: Value| {
        let (begins, waits) = (Arc::clone(&begins), Arc::clone(&waits));
        async move {
            begins.add_permits(1);
            waits.acquire().await?.forget();
            anyhow::Ok("done")
        }
    });
    (app, begun, gate)
}

async fn passed(gate: &Semaphore) {
    tokio::time::timeout(SOON, gate.acquire()).await.expect("in time").unwrap().forget();
}

#[tokio::test]
async fn a_stop_refuses_new_work_and_waits_for_handlers_and_callbacks() {
    let receiver = Receiver::start([(503, None), (503, None)]).await;
    let (app, begun, gate) = gated();
    let function = Function::start(app).await;
    let answer = tokio::spawn(function.dispatch(&receiver.url(), "{}").send());
    passed(&begun).await;
    function.shutdown.trigger();
    job_testkit::eventually(SOON, async || TcpStream::connect(function.address).await.is_err()).await;
    assert!(!function.running.is_finished());
    gate.add_permits(1);
    assert_eq!(json(answer.await.unwrap().unwrap()).await, (200, json!("done")));
    assert_eq!(function.stop().await.abandoned, 0);
    assert_eq!(receiver.received().len(), 3, "the callback was tried until it got through, before the stop ended");
}

#[tokio::test]
async fn a_stop_ends_after_its_grace_and_counts_what_it_left() {
    let receiver = Receiver::start([]).await;
    let (app, begun, _gate) = gated();
    let function = Function::start(app.grace(Duration::from_millis(50))).await;
    let answer = tokio::spawn(function.dispatch(&receiver.url(), "{}").send());
    passed(&begun).await;
    assert_eq!(function.stop().await.abandoned, 1);
    assert_eq!(answer.await.unwrap().unwrap().status(), 503);
    assert_eq!(receiver.received().len(), 0);
}

#[tokio::test]
async fn a_caller_that_hangs_up_stops_neither_the_handler_nor_the_callback() {
    let receiver = Receiver::start([]).await;
    let (app, begun, gate) = gated();
    let function = Function::start(app).await;
    let mut stream = TcpStream::connect(function.address).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: f\r\nx-worker-id: w\r\nx-job-id: 1\r\nx-callback-url: {}\r\ncontent-length: 2\r\n\r\n{{}}",
        receiver.url()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    passed(&begun).await;
    drop(stream);
    gate.add_permits(1);
    assert_eq!(receiver.wait_for(1).await[0].body, json!({ "status": "success" }));
}
