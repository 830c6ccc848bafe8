//! What a handler's result looks like from outside.

use job_fn::{App, Context, FunctionError};
use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::{ACTOR, DATABASE, ENTITY, Function, ORGANIZATION, json};

#[tokio::test]
async fn a_result_is_answered_as_json_and_called_back_as_success() {
    let receiver = Receiver::start([]).await;
    let function = Function::start(App::new(async |_: Context, payload: Value| {
        Ok::<_, FunctionError>(json!({ "complete": true, "got": payload }))
    }))
    .await;
    let answer = function.dispatch(&receiver.url(), r#"{"n":9007199254740993}"#).send().await.unwrap();
    assert!(!answer.headers().contains_key("x-job-error"));
    let echoed = [
        ("x-worker-id", "worker-0"),
        ("x-job-id", "42"),
        ("x-database-id", DATABASE),
        ("x-actor-id", ACTOR),
        ("x-entity-id", ENTITY),
        ("x-organization-id", ORGANIZATION),
    ];
    for (name, value) in echoed {
        assert_eq!(answer.headers()[name], value);
    }
    assert_eq!(json(answer).await, (200, json!({ "complete": true, "got": { "n": 9_007_199_254_740_993_i64 } })));

    let callback = receiver.wait_for(1).await.remove(0);
    assert_eq!(callback.uri, "/callback", "a callback URL without a path means /callback");
    assert_eq!(callback.body, json!({ "status": "success" }));
    assert_eq!(callback.header("x-job-error"), None);
    assert_eq!(callback.header("content-type"), Some("application/json"));
    for (name, value) in echoed {
        assert_eq!(callback.header(name), Some(value));
    }
    assert_eq!(function.stop().await.abandoned, 0);
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_handler_that_returns_nothing_answers_complete() {
    let function = Function::start(App::new(async |_: Context, _: Value| anyhow::Ok(()))).await;
    let answer = reqwest::Client::new().post(function.url()).body("{}").send().await.unwrap();
    assert_eq!(json(answer).await, (200, json!({ "complete": true })));
}

#[tokio::test]
async fn a_status_of_the_handlers_choice_is_called_back_as_http_and_the_number() {
    let receiver = Receiver::start([]).await;
    let function = Function::start(App::new(async |_: Context, _: Value| {
        Err::<(), _>(FunctionError::status(503, "the printer is out of paper"))
    }))
    .await;
    let answer = function.dispatch(&receiver.url(), "{}").send().await.unwrap();
    assert_eq!(answer.headers()["x-job-id"], "42");
    assert_eq!(json(answer).await, (503, json!({ "error": "the printer is out of paper" })));
    let callback = receiver.wait_for(1).await.remove(0);
    assert_eq!(callback.header("x-job-error"), Some("true"));
    assert_eq!(callback.body, json!({ "status": "error", "error": "HTTP 503" }));
}

#[tokio::test]
async fn a_failure_for_good_says_so_in_the_answer_and_in_the_callback() {
    for (error, status, answered, reported) in [
        (FunctionError::discard("gone"), 200, json!({ "message": "gone" }), "gone"),
        (FunctionError::status(404, "gone").and_discard(), 404, json!({ "error": "gone" }), "HTTP 404"),
    ] {
        let receiver = Receiver::start([]).await;
        let function = Function::start(App::new(move |_: Context, _: Value| {
            let error = error.clone();
            async move { Err::<(), _>(error) }
        }))
        .await;
        let answer = function.dispatch(&receiver.url(), "{}").send().await.unwrap();
        assert_eq!(answer.headers()["x-job-retry"], "false");
        assert_eq!(json(answer).await, (status, answered));
        let callback = receiver.wait_for(1).await.remove(0);
        assert_eq!(callback.header("x-job-error"), Some("true"));
        assert_eq!(callback.body, json!({ "status": "error", "error": reported, "retry": false }));
    }
}

#[tokio::test]
async fn a_handler_knows_its_task_and_attempt() {
    let function = Function::start(App::new(async |context: Context, _: Value| {
        anyhow::Ok(json!({ "task": context.task, "attempt": context.attempt, "of": context.max_attempts }))
    }))
    .await;
    let request = reqwest::Client::new().post(function.url()).body("{}");
    let request = request.header("X-Job-Task", "gr%C3%B6%C3%9Fe%2050%25");
    let answer = request.header("X-Job-Attempt", "3").header("X-Job-Max-Attempts", "25").send().await.unwrap();
    assert_eq!(json(answer).await, (200, json!({ "task": "größe 50%", "attempt": 3, "of": 25 })));
    let answer = reqwest::Client::new().post(function.url()).body("{}").send().await.unwrap();
    assert_eq!(json(answer).await, (200, json!({ "task": null, "attempt": null, "of": null })));
}

#[tokio::test]
async fn a_thrown_error_is_answered_200_with_x_job_error_and_called_back_with_its_message() {
    async fn read(_: Context, _: Value) -> anyhow::Result<()> {
        Err(anyhow::Error::from(std::io::Error::other("disk \"full\"")).context("cannot store the report"))
    }
    let receiver = Receiver::start([]).await;
    let function = Function::start(App::new(read)).await;
    let answer = function.dispatch(&receiver.url(), "{}").send().await.unwrap();
    assert_eq!(answer.headers()["x-job-error"], "true");
    let message = "cannot store the report: disk \"full\"";
    assert_eq!(json(answer).await, (200, json!({ "message": message })));
    let callback = receiver.wait_for(1).await.remove(0);
    assert_eq!(callback.header("x-job-error"), Some("true"));
    assert_eq!(callback.body, json!({ "status": "error", "error": message }));
}

#[tokio::test]
async fn a_panic_fails_its_job_with_its_message_and_the_function_lives_on() {
    async fn divide(_: Context, payload: Value) -> anyhow::Result<i64> {
        let by = payload["by"].as_i64().unwrap_or_default();
        assert!(by != 0, "cannot divide by {by}");
        Ok(100 / by)
    }
    let receiver = Receiver::start([]).await;
    let function = Function::start(App::new(divide)).await;
    let answer = function.dispatch(&receiver.url(), r#"{"by":0}"#).send().await.unwrap();
    assert_eq!(answer.headers()["x-job-error"], "true");
    let message = "the function panicked: cannot divide by 0";
    assert_eq!(json(answer).await, (200, json!({ "message": message })));
    let callback = receiver.wait_for(1).await.remove(0);
    assert_eq!(callback.header("x-job-error"), Some("true"));
    assert_eq!(callback.body, json!({ "status": "error", "error": message }));

    let answer = function.dispatch(&receiver.url(), r#"{"by":4}"#).send().await.unwrap();
    assert_eq!(json(answer).await, (200, json!(25)));
}

#[tokio::test]
async fn a_panic_before_the_first_await_is_caught_too() {
    let handler = |_: Context, _: Value| {
        assert!(std::hint::black_box(false), "at once");
        async { anyhow::Ok(()) }
    };
    let function = Function::start(App::new(handler)).await;
    let answer = reqwest::Client::new().post(function.url()).body("{}").send().await.unwrap();
    assert_eq!(json(answer).await, (200, json!({ "message": "the function panicked: at once" })));
}
