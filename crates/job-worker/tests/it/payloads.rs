//! Payloads of every size: small ones come with their claim, larger ones when their job starts.

use std::collections::HashMap;

use job_testkit::{Answer, FakeFunction};
use job_worker::{Context, Db, HandlerResult, Shutdown, TaskOptions, Worker};
use tokio::sync::mpsc;

use super::support::{Bench, LIMIT};

/// A string of so many characters, as JSON: of the kind that compresses well, or not at all.
fn payload(length: usize, compresses: bool) -> String {
    let mut state = 7_u64;
    let mut character = |i: usize| {
        if compresses {
            return if i.is_multiple_of(100) { 'ü' } else { 'x' };
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Of one to four bytes each.
        char::from_u32(0x20 + (state >> 33) as u32 % 0xd700).filter(|c| !"\"\\".contains(*c)).unwrap_or('€')
    };
    format!("\"{}\"", (0..length).map(&mut character).collect::<String>())
}

fn payloads() -> Vec<String> {
    let lengths = [10, 900, 3000, 21_000, 66_000, 87_000, 262_142, 262_143, 600_000];
    lengths.iter().flat_map(|length| [payload(*length, true), payload(*length, false)]).collect()
}

#[tokio::test]
async fn payloads_of_every_size_arrive_at_functions_as_they_were_written() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut sent = HashMap::new();
    for payload in payloads() {
        sent.insert(bench.add_with("any", &payload, "").await.to_string(), payload);
    }
    // What is compressed is among them, and what is not.
    assert!(bench.count("pg_column_compression(payload) IS NOT NULL").await > 2);
    assert!(bench.count("pg_column_compression(payload) IS NULL AND pg_column_size(payload) > 70000").await > 2);
    let _worker = bench.worker(&function.url()).spawn();
    let requests = function.wait_for(sent.len(), LIMIT).await;
    bench.empty().await;
    for request in &requests {
        let id = request.header("x-job-id").unwrap();
        assert!(request.text() == sent[id], "the payload of job {id}, of {} bytes", sent[id].len());
    }
}

#[tokio::test]
async fn payloads_of_every_size_arrive_at_handlers_and_those_larger_than_the_memory_for_them_run_alone() {
    let bench = Bench::new().await;
    let mut sent = HashMap::new();
    for payload in payloads() {
        sent.insert(bench.add_with("any", &payload, "").await, payload);
    }
    let (seen, mut payloads) = mpsc::unbounded_channel();
    let mut config = job_worker::WorkerConfig::default();
    // Less than the largest has.
    config.payload_memory = 1 << 20;
    let worker = Worker::builder(Db::from_url(bench.db.url()).unwrap()).config(config).state(seen).raw_task(
        "any",
        TaskOptions::new(),
        |context: Context<mpsc::UnboundedSender<(i64, String)>>| async move {
            let job = context.job();
            HandlerResult::Ok(context.state().send((job.id, job.payload.clone()))?)
        },
    );
    let shutdown = Shutdown::new();
    let running = worker.build().unwrap().run(shutdown.clone());
    let running = tokio::spawn(async move { running.await.unwrap() });
    while !sent.is_empty() {
        let (id, payload) = tokio::time::timeout(LIMIT, payloads.recv()).await.unwrap().unwrap();
        assert!(sent.remove(&id).is_some_and(|sent| sent == payload), "the payload of job {id}");
    }
    bench.empty().await;
    shutdown.trigger();
    running.await.unwrap();
}
