//! How a handler gets more time.

use std::sync::Arc;
use std::time::Duration;

use job_fn::{App, Context, Extended};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::receiver::Receiver;
use crate::{Function, json};

#[tokio::test]
async fn an_extension_goes_to_the_callback_url_of_the_attempt_and_tells_when_that_has_ended() {
    let receiver = Receiver::start([]).await;
    let function = Function::start(App::new(async |context: Context, _: Value| {
        let granted = context.extend(Duration::from_secs(600)).await?;
        anyhow::Ok(json!({ "granted": granted == Extended::Granted }))
    }))
    .await;
    let url = format!("{}/hook/it?epoch=7&signature=s", receiver.url());
    assert_eq!(json(function.dispatch(&url, "{}").send().await.unwrap()).await, (200, json!({ "granted": true })));
    let received = receiver.wait_for(2).await;
    let extension = &received[0];
    assert_eq!(extension.uri, "/hook/it/extend?epoch=7&signature=s");
    assert_eq!(extension.body, json!({ "seconds": 600.0 }));
    assert_eq!((extension.header("x-worker-id"), extension.header("x-job-id")), (Some("worker-0"), Some("42")));
    assert_eq!(received[1].uri, "/hook/it?epoch=7&signature=s");
}

#[tokio::test]
async fn an_extension_that_nobody_grants_is_an_error_that_shows_no_token() {
    let receiver = Receiver::start([(503, None)]).await;
    let function = Function::start(App::new(async |context: Context, _: Value| {
        let error = context.extend(Duration::from_secs(1)).await.unwrap_err();
        anyhow::Ok(format!("{error} {error:?} {context:?}"))
    }))
    .await;
    let (_, told) =
        json(function.dispatch(&format!("{}?signature=secret", receiver.url()), "{}").send().await.unwrap()).await;
    let told = told.as_str().unwrap();
    assert!(told.contains("503") && !told.contains("secret"), "{told}");
    let (_, told) = json(function.dispatch("http://127.0.0.1:9/?signature=secret", "{}").send().await.unwrap()).await;
    let told = told.as_str().unwrap();
    assert!(told.contains("cannot be reached") && !told.contains("secret"), "{told}");
    // A request that names no job service.
    let (_, told) = json(reqwest::Client::new().post(function.url()).body("{}").send().await.unwrap()).await;
    assert!(told.as_str().unwrap().contains("named no job service"), "{told}");
}

#[tokio::test]
async fn a_heartbeat_extends_again_and_again_until_its_guard_is_dropped() {
    let receiver = Receiver::start([]).await;
    let enough = Arc::new(Notify::new());
    let waiting = enough.clone();
    let function = Function::start(App::new(move |context: Context, _: Value| {
        let enough = waiting.clone();
        async move {
            let heartbeat = context.heartbeat(Duration::from_secs(3));
            enough.notified().await;
            drop(heartbeat);
            anyhow::Ok(())
        }
    }))
    .await;
    let answer = tokio::spawn(function.dispatch(&receiver.url(), "{}").send());
    receiver.wait_for(3).await;
    enough.notify_one();
    assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    assert_eq!(function.stop().await.abandoned, 0);
    let received = receiver.received();
    let (extensions, callbacks): (Vec<_>, Vec<_>) = received.iter().partition(|call| call.uri == "/callback/extend");
    assert!(extensions.len() >= 3 && callbacks.len() == 1, "{received:?}");
    assert_eq!(received.last().unwrap().uri, "/callback", "nothing comes after the end");
}
