//! Hosts that are down, or ask to be left alone: their jobs wait and lose no attempt, and run when they are back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use job_testkit::{Answer, FakeFunction, Gate, Signal, eventually};
use tokio::net::TcpStream;

use super::connections::acceptor;
use super::messages::listening;
use super::support::{Bench, LIMIT};
use super::tls::Certificates;

/// Long enough for pauses that have grown for some seconds.
const RECOVERY: Duration = Duration::from_secs(60);

/// A function that answers as a proxy does whose server is gone, until it is up.
async fn down_until(up: &Arc<AtomicBool>) -> FakeFunction {
    let up = up.clone();
    FakeFunction::start(move |_| {
        let answer = if up.load(Ordering::Relaxed) { Answer::complete() } else { Answer::text(503, "no upstream") };
        std::future::ready(answer)
    })
    .await
}

async fn add_many(bench: &Bench, jobs: usize, max_attempts: usize) {
    bench
        .run(&format!(
            "INSERT INTO app_jobs.jobs (task_identifier, max_attempts)
             SELECT 'greet', {max_attempts} FROM generate_series(1, {jobs})"
        ))
        .await;
}

/// What the gates table says of hosts: each one's name, and whether it is closed.
async fn closed(bench: &Bench) -> Vec<String> {
    let sql = "SELECT name FROM app_jobs.gates WHERE closed_reason IS NOT NULL AND kind = 'host'";
    bench.sql.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Waits until the host is closed and all jobs wait, none of which has lost an attempt.
async fn all_wait(bench: &Bench, host: &str, jobs: i64) {
    eventually(LIMIT, async || closed(bench).await == [host]).await;
    eventually(LIMIT, async || bench.count("attempts = 0 AND locked_at IS NULL").await == jobs).await;
}

#[tokio::test]
async fn thousands_of_jobs_of_a_host_that_is_down_make_few_requests_lose_no_attempt_and_run_when_it_is_back() {
    let bench = Bench::new().await;
    let up = Arc::new(AtomicBool::default());
    let function = down_until(&up).await;
    add_many(&bench, 3_000, 1).await;
    let worker = |id| bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_CONCURRENCY", "16").spawn();
    let (mut one, _two) = (worker("worker-1"), worker("worker-2"));
    let line = one.wait_for_line("the host is closed", LIMIT).await;
    assert!(line.contains(&function.url()), "{line}");
    // Those that close it, and the probes after 1, 3 and 7 s.
    function.wait_for(8, LIMIT).await;
    eventually(LIMIT, async || bench.count("attempts > 0").await <= 1).await;
    let requests = function.requests();
    assert!(requests.len() <= 10, "{} requests", requests.len());
    let last = requests.windows(2).last().unwrap();
    assert!(last[1].at - last[0].at > Duration::from_millis(900), "probes keep apart");
    assert_eq!(bench.count("true").await, 3_000);
    up.store(true, Ordering::Relaxed);
    one.wait_for_line("the host is open", RECOVERY).await;
    eventually(RECOVERY, async || bench.count("true").await == 0).await;
    assert!(function.requests().len() < 3_000 + 12);
    assert_eq!(closed(&bench).await, [""; 0]);
}

#[tokio::test]
async fn a_host_that_refuses_connections_is_found_to_be_back_within_seconds_without_a_request() {
    let bench = Bench::new().await;
    let address = FakeFunction::answering(Answer::complete()).await.stop().await;
    let url = format!("http://{address}");
    let mut worker = bench.worker(&url).spawn();
    add_many(&bench, 500, 1).await;
    all_wait(&bench, &url, 500).await;
    // Whatever the pause is, a connection tells.
    bench.run("UPDATE app_jobs.gates SET closed_until = now() + interval '1 hour'").await;
    let function = FakeFunction::start_at(address, async |_| Answer::complete()).await;
    let back = Instant::now();
    bench.empty().await;
    assert!(back.elapsed() < Duration::from_secs(15), "{:?}", back.elapsed());
    assert_eq!(function.requests().len(), 500, "each once");
    worker.wait_for_line("the host is open", LIMIT).await;
    let told = worker.lines().iter().filter(|line| line.contains("the host is ")).count();
    assert_eq!(told, 2, "closed and open, once each:\n{}", worker.output());
}

#[tokio::test]
async fn other_hosts_go_on_while_one_is_down() {
    let bench = Bench::new().await;
    let down = FakeFunction::answering(Answer::complete()).await.stop().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let map = format!(r#"{{"greet": "http://{down}"}}"#);
    let _worker = bench.worker(&function.url()).env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map).spawn();
    add_many(&bench, 100, 1).await;
    all_wait(&bench, &format!("http://{down}"), 100).await;
    for task in ["a", "b", "a"] {
        bench.gone(bench.add(task).await).await;
    }
    assert_eq!(bench.count("attempts = 0").await, 100);
}

#[tokio::test]
async fn a_single_job_on_its_last_attempt_fails_when_its_connection_is_refused() {
    let bench = Bench::new().await;
    let address = FakeFunction::answering(Answer::complete()).await.stop().await;
    let _worker = bench.worker(&format!("http://{address}")).spawn();
    let failed = bench.failed(bench.add_with("greet", "{}", ", max_attempts := 1").await).await;
    assert_eq!(failed.attempts, 1);
    assert!(failed.last_error.unwrap().contains("Connection refused"));
    assert_eq!(closed(&bench).await, [""; 0]);
}

#[tokio::test]
async fn retry_after_of_one_answer_keeps_the_jobs_of_all_workers_from_the_host_until_then() {
    for (status, lost) in [(429, 0), (503, 1)] {
        let bench = Bench::new().await;
        let asked = Arc::new(AtomicBool::default());
        let function = FakeFunction::start({
            let asked = asked.clone();
            move |_| {
                let first = !asked.swap(true, Ordering::Relaxed);
                let busy = Answer::text(status, "later").header("Retry-After", "3");
                std::future::ready(if first { busy } else { Answer::complete() })
            }
        })
        .await;
        let _one = bench.worker(&function.url()).env("HOSTNAME", "worker-1").spawn();
        bench.add("greet").await;
        eventually(LIMIT, async || closed(&bench).await == [function.url()]).await;
        let _two = bench.worker(&function.url()).env("HOSTNAME", "worker-2").spawn();
        add_many(&bench, 40, 1).await;
        bench.idle().await;
        assert_eq!(function.requests().len(), 1);
        assert_eq!((bench.count("true").await, bench.count("attempts > 0").await), (41, lost));
        bench.empty().await;
        let requests = function.requests();
        assert_eq!(requests.len(), 42);
        let wait = requests[1].at - requests[0].at;
        assert!(wait > Duration::from_millis(2900), "{status}: {wait:?}");
    }
}

#[tokio::test]
async fn a_worker_that_dies_while_it_tries_a_host_leaves_the_next_try_to_another() {
    let bench = Bench::new().await;
    let (up, gate) = (Arc::new(AtomicBool::default()), Gate::closed());
    let function = FakeFunction::start({
        let (up, gate) = (up.clone(), gate.clone());
        move |request| {
            let (up, gate) = (up.load(Ordering::Relaxed), gate.clone());
            async move {
                if !up {
                    return Answer::text(502, "bad gateway");
                }
                // The probe of the first worker never ends.
                if request.header("x-worker-id") == Some("worker-1") {
                    gate.passed().await;
                }
                Answer::complete()
            }
        }
    })
    .await;
    add_many(&bench, 50, 1).await;
    let worker = |id| bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_LEASE", "5s").spawn();
    let mut one = worker("worker-1");
    all_wait(&bench, &function.url(), 50).await;
    up.store(true, Ordering::Relaxed);
    let known = function.requests().len();
    function.wait_for(known + 1, LIMIT).await;
    eventually(LIMIT, async || bench.count("locked_by = 'worker-1'").await == 1).await;
    one.signal(Signal::Kill);
    one.exit(LIMIT).await;
    let _two = worker("worker-2");
    eventually(RECOVERY, async || bench.count("true").await == 0).await;
    gate.open();
}

#[tokio::test]
async fn a_worker_that_cannot_reach_a_host_keeps_no_other_from_it_and_loses_no_attempts() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    // TLS before the function, with a certificate that only one of the workers trusts.
    let made = Certificates::new();
    for authority in ["ours", "theirs"] {
        made.authority(authority);
    }
    made.server("server", "ours");
    let (tls, address) = (acceptor(&made, b"http/1.1"), function.address());
    let port = listening(move |stream| {
        let tls = tls.clone();
        async move {
            let Ok(mut secure) = tls.accept(stream).await else { return };
            let mut plain = TcpStream::connect(address).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut secure, &mut plain).await;
        }
    })
    .await;
    let url = format!("https://localhost:{port}");
    let worker = |id, trusts: &str| {
        let program = bench.worker(&url).env("HOSTNAME", id).env("JOBS_CONCURRENCY", "2");
        program.env("SSL_CERT_FILE", made.file(trusts).to_str().unwrap()).spawn()
    };
    let mut cut_off = worker("worker-1", "theirs.crt");
    add_many(&bench, 50, 1).await;
    all_wait(&bench, &url, 50).await;
    let _works = worker("worker-2", "ours.crt");
    eventually(RECOVERY, async || bench.count("true").await == 0).await;
    // The one goes on to fail, and the other to work.
    for _ in 0..5 {
        add_many(&bench, 20, 1).await;
        bench.idle().await;
        eventually(RECOVERY, async || bench.count("true").await == 0).await;
    }
    assert_eq!(function.requests().len(), 150, "each once");
    cut_off.wait_for_line("cannot connect", LIMIT).await;
    assert_eq!(closed(&bench).await, [""; 0]);
}

#[tokio::test]
async fn a_pause_and_a_limit_of_a_host_hold_for_all_of_its_tasks_and_all_workers() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = FakeFunction::waiting(&gate, |_| true, Answer::complete()).await;
    bench.run(&format!("SELECT app_jobs.set_limit('host', '{}', max_running => 3)", function.url())).await;
    let worker = |id| bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_POLL_INTERVAL", "1s").spawn();
    let (_one, _two) = (worker("worker-1"), worker("worker-2"));
    // The limit is older than what the database knows of where tasks go.
    for task in ["a", "b", "c"] {
        for _ in 0..4 {
            bench.add(task).await;
        }
    }
    function.wait_for(3, LIMIT).await;
    eventually(LIMIT, async || bench.count("locked_at IS NOT NULL").await == 3).await;
    bench.idle().await;
    assert_eq!(function.requests().len(), 3);
    bench.run(&format!("SELECT app_jobs.pause('host', '{}')", function.url())).await;
    gate.open();
    eventually(LIMIT, async || bench.count("true").await == 9).await;
    bench.idle().await;
    assert_eq!(function.requests().len(), 3);
    bench.run(&format!("SELECT app_jobs.resume('host', '{}')", function.url())).await;
    bench.empty().await;
    assert_eq!(function.requests().len(), 12);
    assert_eq!(bench.count("attempts > 1").await, 0);
}
