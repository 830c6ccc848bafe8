//! The next job of a queue takes the place of the one that has ended, in the statement that completes it.

use job_testkit::{Answer, FakeFunction, Proxy, Signal, eventually};

use super::support::{Bench, LIMIT};

/// Writes down which transaction completes a job of a queue and which one claims one.
const RECORD: &str = "
    CREATE TABLE ends (xid xid8);
    CREATE TABLE starts (xid xid8);
    CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO public.ends VALUES (pg_current_xact_id());
        ELSIF NEW.locked_at IS NOT NULL THEN
            INSERT INTO public.starts VALUES (pg_current_xact_id());
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER record AFTER UPDATE OR DELETE ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION record()";

/// How many jobs were claimed as another one was completed.
async fn followed(bench: &Bench) -> i64 {
    let sql = "SELECT count(*) FROM starts WHERE xid IN (SELECT xid FROM ends)";
    bench.sql.query_one(sql, &[]).await.unwrap().get(0)
}

fn sent(function: &FakeFunction) -> Vec<String> {
    function.requests().into_iter().map(|request| request.target).collect()
}

#[tokio::test]
async fn a_job_of_a_queue_is_claimed_as_the_one_before_it_is_completed() {
    let bench = Bench::new().await;
    bench.run(RECORD).await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = bench.worker(&function.url()).env("JOBS_TASK_CONCURRENCY", "limited=3").spawn();
    for (task, others) in [("step", 5), ("limited", 0)] {
        bench.run("TRUNCATE starts, ends").await;
        // Others have slots of their own.
        bench
            .run(&format!(
                "SELECT app_jobs.add_job('{task}', queue_name := 'q') FROM generate_series(1, 60);
                 SELECT app_jobs.add_job('other') FROM generate_series(1, {others})"
            ))
            .await;
        bench.empty().await;
        // Some may be claimed otherwise, where the machine halts the worker for long.
        let followed = followed(&bench).await;
        assert!((30..=59).contains(&followed), "{task}: {followed}");
    }
}

#[tokio::test]
async fn a_worker_with_one_slot_gives_it_to_the_first_job_of_all() {
    let bench = Bench::new().await;
    bench.run(RECORD).await;
    let function = FakeFunction::answering(Answer::complete()).await;
    bench
        .run(
            "SELECT app_jobs.add_job('job-' || lpad(n::text, 2, '0'), priority := n, queue_name := 'q' || n % 2)
               FROM generate_series(1, 40) n",
        )
        .await;
    let _worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "1").env("JOBS_PREFETCH", "0").spawn();
    bench.empty().await;
    assert_eq!(followed(&bench).await, 0);
    for queue in 0..2 {
        let of_queue = |target: &String| target[5..].parse::<i32>().unwrap() % 2 == queue;
        let started: Vec<_> = sent(&function).into_iter().filter(of_queue).collect();
        assert_eq!(started.len(), 20);
        assert!(started.is_sorted(), "{started:?}");
    }
}

#[tokio::test]
async fn a_stop_amid_a_queue_leaves_nothing_claimed_and_repeats_nothing() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    bench.run("SELECT app_jobs.add_job('step', queue_name := 'q' || n % 3) FROM generate_series(1, 3000) n").await;
    let mut stops = 0;
    while bench.count("true").await > 300 {
        let before = function.requests().len();
        let mut worker = bench.worker(&function.url()).spawn();
        eventually(LIMIT, async || function.requests().len() > before + 50).await;
        worker.signal(Signal::Term);
        assert_eq!(worker.exit_code(LIMIT).await, 0);
        assert_eq!(bench.count("locked_at IS NOT NULL OR attempts > 0").await, 0);
        assert_eq!(bench.count("true").await, 3000 - i64::try_from(function.requests().len()).unwrap());
        stops += 1;
        if stops == 8 {
            break;
        }
    }
    assert!(stops > 1);
}

#[tokio::test]
async fn a_job_whose_claim_is_lost_with_the_answer_of_an_outcome_starts_again_within_seconds() {
    let bench = Bench::new().await;
    // The outcome takes its time, so that the connection can be cut meanwhile.
    bench
        .run(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM pg_sleep(1);
                 RETURN OLD;
             END $$;
             CREATE TRIGGER slow BEFORE DELETE ON app_jobs.jobs FOR EACH ROW WHEN (OLD.task_identifier = 'first')
                 EXECUTE FUNCTION slow()",
        )
        .await;
    let proxy = Proxy::start(bench.db.address().1).await.unwrap();
    let function = FakeFunction::answering(Answer::complete()).await;
    bench.add_with("first", "{}", ", queue_name := 'q'").await;
    let second = bench.add_with("second", "{}", ", queue_name := 'q'").await;
    let worker = bench.worker(&function.url()).env("PGHOST", "127.0.0.1").env("PGPORT", proxy.port().to_string());
    let mut worker = worker.env("JOBS_LEASE", "10min").spawn();
    let sleeping =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    let sleeping = async || bench.sql.query_one(sleeping, &[]).await.unwrap().get::<_, i64>(0);
    eventually(LIMIT, async || sleeping().await == 1).await;
    proxy.cut();
    // It is committed all the same, and nobody is told.
    let held = bench.held(second).await;
    assert_eq!(held.attempts, 1);
    bench.gone(second).await;
    worker.wait_for_line("gave up jobs that this worker had lost track of", LIMIT).await;
    assert_eq!(sent(&function), ["/first", "/second"]);
}
