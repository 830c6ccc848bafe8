//! Payloads of every size: small ones come with their claim, larger ones when their job starts.

use std::collections::HashMap;
use std::time::Duration;

use job_testkit::{Answer, FakeFunction, Gate, eventually, eventually_some};
use job_worker::{Context, Db, HandlerResult, Shutdown, TaskOptions, Worker};
use tokio::sync::mpsc;

use super::blocking::on_one_thread;
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

/// Says that it has begun, with the payload's length, and ends when the gate opens.
type Held = (mpsc::UnboundedSender<usize>, Gate, Gate);

#[tokio::test]
async fn a_payload_that_takes_postgres_too_long_is_a_failed_attempt_and_no_endless_one() {
    // By our own limit, and by one of the database's.
    for (limit, told) in [("0", "within 1s"), ("500ms", "statement timeout")] {
        let bench = Bench::new().await;
        let set =
            format!("EXECUTE format('ALTER DATABASE %I SET statement_timeout = ''{limit}''', current_database())");
        bench.run(&format!("DO $$ BEGIN {set}; END $$")).await;
        let (began, mut begun) = mpsc::unbounded_channel();
        let (first, second) = (Gate::closed(), Gate::closed());
        let mut config = job_worker::WorkerConfig::default();
        // There is room for one of them at a time.
        config.payload_memory = 1 << 20;
        let db = Db::builder(bench.db.url()).statement_timeout(Duration::from_secs(1)).build().unwrap();
        let worker = Worker::builder(db).config(config).concurrency(2).state((began, first.clone(), second.clone()));
        let worker = worker
            .raw_task("first", TaskOptions::new(), |context: Context<Held>| async move {
                context.state().0.send(context.job().payload.len())?;
                context.state().1.passed().await;
                HandlerResult::Ok(())
            })
            .raw_task("second", TaskOptions::new(), |context: Context<Held>| async move {
                context.state().0.send(context.job().payload.len())?;
                context.state().2.passed().await;
                HandlerResult::Ok(())
            });
        let shutdown = Shutdown::new();
        let log = on_one_thread(worker, &shutdown);
        let large = payload(700_000, true);
        let ahead = bench.add_with("first", &large, "").await;
        assert_eq!(begun.recv().await, Some(large.len()));
        let id = bench.add_with("second", &large, "").await;
        bench.held(id).await;
        // From now on nobody reads the table; the database answers all the same.
        let other = bench.db.connect().await;
        let lock = "SET statement_timeout = 0; BEGIN; LOCK TABLE app_jobs.jobs IN ACCESS EXCLUSIVE MODE";
        other.batch_execute(lock).await.unwrap();
        first.open();
        eventually(2 * LIMIT, async || log.text().contains("gave up fetching the job's payload")).await;
        other.batch_execute("COMMIT").await.unwrap();
        let error = eventually_some(LIMIT, async || bench.job(id).await.unwrap().last_error).await;
        let why = "its payload cannot be fetched: Postgres took too long to give it, 5 times: ";
        assert!(error.starts_with(why) && error.contains(told), "{error}");
        // The next attempt has it, and nothing was lost.
        assert_eq!(begun.recv().await, Some(large.len()));
        assert_eq!(bench.job(id).await.unwrap().attempts, 2);
        second.open();
        bench.gone(id).await;
        bench.gone(ahead).await;
        shutdown.trigger();
    }
}
