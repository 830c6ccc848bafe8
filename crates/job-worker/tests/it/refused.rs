//! Jobs that a trigger, a constraint or a domain of the application's keeps from being claimed: the others run.

use job_testkit::{Answer, FakeFunction, eventually};

use super::support::{Bench, LIMIT};

/// Refuses to have some rows changed at all, and others to have them claimed.
const REFUSE: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'row % stays as it is', OLD.id USING ERRCODE = 'P0002'; END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON app_jobs.jobs FOR EACH ROW
      WHEN (OLD.task_identifier = 'never' OR OLD.task_identifier = 'unclaimed' AND NEW.locked_at IS NOT NULL)
      EXECUTE FUNCTION refuse();
    ALTER TABLE app_jobs.jobs ADD CONSTRAINT no_bad_jobs CHECK (task_identifier <> 'checked') NOT VALID";

#[tokio::test]
async fn a_job_that_cannot_be_claimed_holds_up_no_other_and_is_named() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    // Before all others, with a queue, waiting for its time, and among others.
    let add = "SELECT app_jobs.add_job('never', priority := -1), app_jobs.add_job('never', queue_name := 'line'),
                      app_jobs.add_job('never', run_at := now() + interval '1 second'), app_jobs.add_job('unclaimed'),
                      app_jobs.add_job('checked'), app_jobs.add_job('good', queue_name := 'line'),
                      app_jobs.add_job('good') FROM generate_series(1, 20)";
    bench.run(add).await;
    bench.run(REFUSE).await;
    let worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "4").env("JOBS_POLL_INTERVAL", "1s");
    let mut worker = worker.spawn();
    let good = "task_identifier = 'good'";
    eventually(LIMIT, async || bench.count(good).await == 0).await;
    assert_eq!(function.requests().len(), 40);
    worker.wait_for_line("jobs that cannot be claimed are left out", LIMIT).await;
    let told = worker.lines().into_iter().find(|line| line.contains("are left out")).unwrap();
    assert!(told.contains("stays as it is") || told.contains("no_bad_jobs"), "{told}");
    // What can be changed is put off, and says why; no attempt counts.
    let put_off = "task_identifier = 'unclaimed' AND attempts = 0 AND run_at > now() + interval '10 seconds'
                   AND last_error LIKE 'cannot be claimed: row % stays as it is'";
    eventually(LIMIT, async || bench.count(put_off).await == 20).await;
    assert_eq!(bench.count("attempts > 0 OR locked_at IS NOT NULL").await, 0);
    // New jobs go on coming through.
    let id = bench.add("good").await;
    bench.gone(id).await;
    // Once nothing refuses them any more, they run; here at once.
    bench.run("DROP TRIGGER refuse ON app_jobs.jobs; ALTER TABLE app_jobs.jobs DROP CONSTRAINT no_bad_jobs").await;
    bench.run("UPDATE app_jobs.jobs SET run_at = now(); DELETE FROM app_jobs.refused_jobs").await;
    bench.empty().await;
    assert_eq!(function.requests().len(), 40 + 1 + 5 * 20);
}
