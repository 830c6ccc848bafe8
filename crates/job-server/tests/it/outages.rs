//! Postgres goes away while functions call back. One server of our own, one story.

use std::time::{Duration, Instant};

use job_testkit::Cluster;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::support::{HOLDER, LIMIT, held, migrated, port, program, send, state};

async fn connect(cluster: &Cluster) -> Client {
    job_testkit::postgres::connect(&cluster.url("postgres")).await
}

/// Status, Retry-After and how long the answer took.
type Answer = (u16, Option<String>, Duration);

fn call_back(port: u16, id: i64) -> JoinHandle<Answer> {
    let request = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/callback"));
    let request = request.header("X-Worker-Id", HOLDER).header("X-Job-Id", id);
    tokio::spawn(async move {
        let started = Instant::now();
        let answer = request.send().await.unwrap();
        let retry = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), retry, started.elapsed())
    })
}

#[tokio::test]
async fn a_callback_during_an_outage_is_held_and_stored_and_after_20_seconds_refused() {
    let mut cluster = Cluster::temporary().await.unwrap();
    migrated(cluster.url("postgres")).await.unwrap();
    let mut server = program().envs(cluster.env("postgres")).spawn();
    let port = port(&mut server).await;

    // Connections that the server holds break, and it has a new one for the next callback.
    let sql = connect(&cluster).await;
    let id = held(&sql).await;
    let ids = [held(&sql).await, held(&sql).await, held(&sql).await];
    assert_eq!(call_back(port, id).await.unwrap().0, 200);
    cluster.restart().await.unwrap();
    assert_eq!(call_back(port, ids[0]).await.unwrap().0, 200);

    // A callback comes while Postgres is away.
    cluster.kill().await.unwrap();
    let request = call_back(port, ids[1]);
    server.wait_for_line("outcomes wait for Postgres", LIMIT).await;
    let health = reqwest::Client::new().get(format!("http://127.0.0.1:{port}/healthz"));
    assert_eq!(send(health).await.0, 200);
    let health = reqwest::Client::new().get(format!("http://127.0.0.1:{port}/readyz"));
    assert_eq!(send(health).await.0, 503);
    assert!(!request.is_finished());
    cluster.start_again().await.unwrap();
    assert_eq!(request.await.unwrap().0, 200);
    let sql = connect(&cluster).await;
    for id in [id, ids[0], ids[1]] {
        assert_eq!(state(&sql, id).await, None);
    }
    assert!(state(&sql, ids[2]).await.is_some());
    drop(sql);

    // Postgres stays away for longer than a request is held.
    cluster.stop().await.unwrap();
    let (status, retry, took) = call_back(port, ids[2]).await.unwrap();
    assert_eq!((status, retry.as_deref()), (503, Some("1")));
    assert!(took >= Duration::from_secs(19) && took < Duration::from_secs(25), "{took:?}");
    cluster.start_again().await.unwrap();
    assert_eq!(call_back(port, ids[2]).await.unwrap().0, 200);
    assert_eq!(state(&connect(&cluster).await, ids[2]).await, None);
}
