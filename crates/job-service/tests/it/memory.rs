//! The service's memory, under what deploy/ gives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use job_testkit::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::support::Bench;

/// What `deploy/` and `docker-compose.jobs.yml` give it.
const LIMIT: u64 = 256 << 20;

/// Gigabytes go through two busy cores.
const PATIENCE: Duration = Duration::from_secs(900);

/// Reads bodies to their end, keeps none of them, and answers that the job is done. Returns its URL and how many bytes
/// came.
async fn function() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let read = Arc::<AtomicUsize>::default();
    let count = read.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                let mut bytes = Vec::with_capacity(1 << 16);
                loop {
                    let head = loop {
                        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                            break end + 4;
                        }
                        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                            return;
                        }
                    };
                    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
                    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                    let mut left = length.parse::<usize>().unwrap() - (bytes.len() - head);
                    count.fetch_add(bytes.len() - head, SeqCst);
                    while left > 0 {
                        bytes.clear();
                        let Ok(some @ 1..) = stream.read_buf(&mut bytes).await else { return };
                        left -= some;
                        count.fetch_add(some, SeqCst);
                    }
                    bytes.clear();
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"complete\":true}";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, read)
}

async fn done(bench: &Bench) {
    let left = "SELECT count(*) FROM app_jobs.jobs";
    eventually(PATIENCE, async || bench.sql.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
}

#[tokio::test]
async fn sixteen_jobs_of_10_mb_fit_into_the_shipped_limit() {
    let bench = Bench::new().await;
    let (url, read) = function().await;
    // Random, so that nothing is compressed.
    let text = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 312500))";
    let add = format!(
        "SELECT app_jobs.add_job('large', to_json(p.text)) FROM (SELECT {text} AS text OFFSET 0) p, generate_series(1, 16)"
    );
    bench.sql.batch_execute(&add).await.unwrap();
    let (mut service, _) = bench.service(&url, &[]).await;
    done(&bench).await;
    let peak = service.peak_memory();
    assert!(peak < LIMIT, "{peak} bytes");
    // Each of them once, and none interrupted.
    assert_eq!(read.load(SeqCst), 16 * 10_000_002);
    service.stop(PATIENCE).await;
}

#[tokio::test]
async fn a_thousand_jobs_of_4_mb_fit_into_the_shipped_limit_and_none_is_interrupted() {
    let bench = Bench::new().await;
    let (url, read) = function().await;
    // Compressed, and once: the database of this test would have 4 GB, or compress as much.
    let one = "CREATE TEMP TABLE one AS SELECT to_json(repeat(md5(random()::text), 125000)) AS payload";
    let add = "INSERT INTO app_jobs.jobs (task_identifier, payload) SELECT 'large', payload FROM one, generate_series(1, 1000)";
    bench.sql.batch_execute(&format!("{one}; {add}")).await.unwrap();
    let (mut service, _) = bench.service(&url, &[]).await;
    done(&bench).await;
    let peak = service.peak_memory();
    assert!(peak < LIMIT, "{peak} bytes");
    assert_eq!(read.load(SeqCst), 1000 * 4_000_002);
    service.stop(PATIENCE).await;
}
