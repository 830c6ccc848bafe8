//! The network between the callback server and Postgres breaks, goes silent, and comes back.

use std::time::{Duration, Instant};

use job_testkit::{Proxy, TestDb, throughout};
use tokio::task::JoinHandle;

use super::support::{HOLDER, LIMIT, held, migrated, port, program, state};

/// Status, and how long the answer took.
fn call_back(port: u16, id: i64) -> JoinHandle<(u16, Duration)> {
    let request = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/callback"));
    let request = request.header("X-Worker-Id", HOLDER).header("X-Job-Id", id);
    tokio::spawn(async move {
        let started = Instant::now();
        let status = request.send().await.unwrap().status();
        (status.as_u16(), started.elapsed())
    })
}

#[tokio::test]
async fn a_callback_in_ten_seconds_without_a_network_is_held_and_a_cut_is_made_up() {
    let db = TestDb::from_template("server", migrated).await;
    let sql = db.connect().await;
    let proxy = Proxy::start(db.address().1).await.unwrap();
    let server = program().envs(db.env()).env("PGHOST", "127.0.0.1").env("PGPORT", proxy.port().to_string());
    let mut server = server.env("JOBS_STATEMENT_TIMEOUT", "2s").spawn();
    let port = port(&mut server).await;
    let ids = [held(&sql).await, held(&sql).await, held(&sql).await];
    assert_eq!(call_back(port, ids[0]).await.unwrap().0, 200);

    proxy.blackhole();
    let callback = call_back(port, ids[1]);
    server.wait_for_line("outcomes wait for Postgres", LIMIT).await;
    throughout(Duration::from_secs(8), async || !callback.is_finished() && state(&sql, ids[1]).await.is_some()).await;
    proxy.restore();
    let (status, took) = callback.await.unwrap();
    assert_eq!(status, 200);
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(18), "{took:?}");

    proxy.cut();
    let (status, took) = call_back(port, ids[2]).await.unwrap();
    assert_eq!(status, 200);
    assert!(took < Duration::from_secs(5), "{took:?}");
    for id in ids {
        assert_eq!(state(&sql, id).await, None);
    }
}

#[tokio::test]
async fn a_half_open_connection_costs_a_callback_seconds_and_not_its_answer() {
    let db = TestDb::from_template("server", migrated).await;
    let sql = db.connect().await;
    let target = db.address().1;
    let (one, other) = (Proxy::start(target).await.unwrap(), Proxy::start(target).await.unwrap());
    let ports = format!("{},{}", one.port(), other.port());
    let server = program().envs(db.env()).env("PGHOST", "127.0.0.1,127.0.0.1").env("PGPORT", ports);
    let mut server = server.env("JOBS_STATEMENT_TIMEOUT", "2s").spawn();
    let port = port(&mut server).await;
    let ids = [held(&sql).await, held(&sql).await, held(&sql).await];
    assert_eq!(call_back(port, ids[0]).await.unwrap().0, 200);
    // What the server has leads into silence for good: the statement's limit, and that of connecting to the first host.
    one.blackhole();
    let (status, took) = call_back(port, ids[1]).await.unwrap();
    assert_eq!(status, 200, "{}", server.output());
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(14), "{took:?}");
    // The first host is not tried again at each new connection.
    other.cut();
    let (status, took) = call_back(port, ids[2]).await.unwrap();
    assert_eq!(status, 200);
    assert!(took < Duration::from_secs(4), "{took:?}");
    for id in ids {
        assert_eq!(state(&sql, id).await, None);
    }
}
