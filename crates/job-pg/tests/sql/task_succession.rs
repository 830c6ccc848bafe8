//! complete_and_claim_next: the next job of a task with a limit takes the place of the one that ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use fastrand::Rng;
use tokio::task::JoinSet;

use crate::sql::support::{LIMIT, Session, database};

const INSTANCE: &str = "00000000-0000-0000-0000-00000000000a";
const TENANT: &str = "7b0e6c2e-1111-4222-8333-944455566677";
const RUNNING: &str = "SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL";

/// Claims up to so many jobs with epochs from the given one on; returns their ids in order of the epochs.
async fn claim(s: &Session, jobs: usize, epoch: i64) -> Vec<(i64, i64)> {
    let epochs: Vec<String> = (0..jobs as i64).map(|n| (epoch + n).to_string()).collect();
    read(
        &s.show_claim(&format!(
            "SELECT id, epoch FROM app_jobs_internal.claim_instance_jobs(
                    '{INSTANCE}', 'work', '{{{}}}', NULL, {jobs}, '4 h') ORDER BY epoch",
            epochs.join(",")
        ))
        .await,
    )
}

/// No place is left to claims for a second.
async fn leave_nothing(s: &Session) {
    s.run("SELECT set_config('jobs.left_at', extract(epoch FROM clock_timestamp())::text, false)").await;
}

/// Completes jobs, each of which is to have a successor of its task; returns those, with epochs from the given one on.
async fn next(s: &Session, ended: &[(i64, i64)], epoch: i64) -> Vec<(i64, i64)> {
    leave_nothing(s).await;
    next_of(s, ended, epoch, "4 h").await
}

/// The same, of a worker for which a lock counts so long.
async fn next_of(s: &Session, ended: &[(i64, i64)], epoch: i64, expiry: &str) -> Vec<(i64, i64)> {
    let list = |each: &dyn Fn(usize) -> String| {
        let all: Vec<_> = (0..ended.len()).map(each).collect();
        format!("'{{{}}}'", all.join(","))
    };
    let nulls = list(&|_| "NULL".to_owned());
    read(
        &s.show_claim(&format!(
            "SELECT id, epoch FROM app_jobs_internal.complete_and_claim_next(
                    {}, {}, {}, {nulls}, {nulls}, {}, '{INSTANCE}', NULL, NULL, '{expiry}', {})
              WHERE id IS NOT NULL ORDER BY epoch",
            list(&|i| ended[i].0.to_string()),
            list(&|_| "work".to_owned()),
            list(&|i| ended[i].1.to_string()),
            list(&|i| (epoch + i as i64).to_string()),
            list(&|_| "t".to_owned()),
        ))
        .await,
    )
}

fn read(rows: &str) -> Vec<(i64, i64)> {
    let pair = |row: &str| row.split_once('|').map(|(id, epoch)| (id.parse().unwrap(), epoch.parse().unwrap()));
    rows.lines().map(|row| pair(row).unwrap()).collect()
}

fn ids(jobs: &[(i64, i64)]) -> Vec<i64> {
    let mut ids: Vec<i64> = jobs.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn the_next_jobs_of_a_task_with_a_limit_take_the_places_of_those_that_end_in_order() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.set_limit('task', 't', 2)").await;
    s.run("SELECT app_jobs.add_job('t', '{}', priority := p) FROM unnest('{3,1,2,5,4,6}'::int[]) p").await;
    let first = claim(&s, 9, 1).await;
    assert_eq!(ids(&first), [2, 3]);
    s.run("BEGIN").await;
    let second = next(&s, &first, 11).await;
    assert_eq!(ids(&second), [1, 5]);
    assert!(second.iter().all(|(_, epoch)| [11, 12].contains(epoch)), "{second:?}");
    // Nobody sees fewer than two, before and after.
    assert_eq!(claim(&other, 9, 21).await, []);
    s.run("COMMIT").await;
    assert_eq!(claim(&other, 9, 21).await, []);
    assert_eq!(s.number(RUNNING).await, 2);
    // What is more urgent comes first, also when it has come last.
    let urgent = s.number("SELECT id FROM app_jobs.add_job('t', '{}', priority := -1)").await;
    let third = next(&s, &second[..1], 31).await;
    assert_eq!(ids(&third), [urgent]);
    assert_eq!(next(&s, &third, 41).await.len(), 1);
    let stale = next(&s, &third, 51).await;
    assert_eq!(stale, [], "it was not held");
    assert_eq!(s.number(RUNNING).await, 2);
}

#[tokio::test]
async fn a_task_has_no_successor_where_another_gate_or_transaction_has_a_say() {
    let db = database().await;
    let s = Session::open(&db).await;
    let host = "INSERT INTO app_jobs.task_hosts (task, host) VALUES ('t', 'http://h:80'); ";
    let cases = [
        ("", ""),
        ("SELECT app_jobs.pause('queue', 'q'), app_jobs.pause('task', 'other')", ""),
        ("SELECT app_jobs.set_limit('task', 't', 1)", "a lower limit"),
        ("SELECT app_jobs.set_limit('task', 't', 3)", "a higher limit, of which claims know"),
        ("SELECT app_jobs.set_limit('task', 't')", "no limit"),
        ("SELECT app_jobs.set_limit('task', 't', 2, 1, '1 s')", "a rate"),
        ("SELECT app_jobs.pause('task', 't')", "a pause of the task"),
        ("SELECT app_jobs.pause('all', NULL)", "a pause of all"),
        (&format!("{host}SELECT app_jobs.set_limit('host', 'http://h:80', 5)"), "a limit of its host"),
        (&format!("{host}SELECT app_jobs.pause('host', '*')"), "a pause of hosts"),
        ("SELECT app_jobs.set_limit('tenant', '*', 5)", "a limit of tenants"),
        ("SELECT app_jobs.set_fair('tenant', true)", "fairness"),
        ("UPDATE app_jobs.jobs SET locked_at = now() - interval '11 s' WHERE locked_at IS NOT NULL", "an old claim"),
        (
            "UPDATE app_jobs.jobs SET locked_at = now() - interval '3 s' WHERE locked_at IS NOT NULL",
            "a lock that may be over",
        ),
        ("UPDATE app_jobs.jobs SET run_at = now() + interval '1 h' WHERE locked_at IS NULL", "not due"),
        ("UPDATE app_jobs.jobs SET attempts = max_attempts WHERE locked_at IS NULL", "failed for good"),
        ("UPDATE app_jobs.jobs SET task_identifier = 'u' WHERE locked_at IS NULL", "of another task"),
        ("UPDATE app_jobs.jobs SET queue_name = 'r' WHERE locked_at IS NULL", "of a queue"),
        (
            "SELECT app_jobs.set_limit('task', 'u', 2); UPDATE app_jobs.jobs SET task_identifier = 'u'",
            "another task now",
        ),
        ("UPDATE app_jobs.jobs SET queue_name = 'r'", "all of a queue"),
    ];
    for (set, case) in cases {
        s.run("TRUNCATE app_jobs.jobs, app_jobs.gates, app_jobs.gate_tokens, app_jobs.task_hosts").await;
        s.run("SELECT app_jobs.set_limit('task', task, 2) FROM unnest('{t,u}'::text[]) task").await;
        s.run(&format!(
            "INSERT INTO app_jobs.jobs (task_identifier, database_id)
             SELECT 't', nullif('{TENANT}', CASE WHEN n > 2 THEN '{TENANT}' ELSE '' END)::uuid FROM generate_series(1, 4) n"
        ))
        .await;
        let first = claim(&s, 9, 1).await;
        assert_eq!(first.len(), 2, "{case}");
        s.run(set).await;
        s.run("SELECT set_config('jobs.look_at', '', false)").await;
        leave_nothing(&s).await;
        let expiry = if case == "a lock that may be over" { "4 s" } else { "4 h" };
        let second = next_of(&s, &first[..1], 11, expiry).await;
        assert_eq!(second.len(), usize::from(case.is_empty()), "{set} {case}");
        assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 3, "{case}");
    }
}

#[tokio::test]
async fn a_place_a_second_is_left_to_claims_and_more_where_jobs_with_queues_wait() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.set_limit('task', 't', 9)").await;
    s.run("SELECT app_jobs.add_job('t')").await;
    s.run("SELECT app_jobs.add_job('t') FROM generate_series(1, 2500)").await;
    let mut held = claim(&s, 9, 1).await;
    s.run("SELECT set_config('jobs.left_at', '0', false)").await;
    held = next_of(&s, &held, 11, "4 h").await;
    assert_eq!(held.len(), 8);
    held = next_of(&s, &held, 21, "4 h").await;
    assert_eq!(held.len(), 8, "none more for a second");
    held.extend(claim(&s, 9, 31).await);
    assert_eq!(held.len(), 9);
    let mut statements = 0..200;
    held.truncate(5);
    while held.len() == 5 && statements.next().is_some() {
        held = next(&s, &held, 1000 + 10 * statements.start).await;
    }
    assert_eq!(statements, 200..200, "nobody else waits");
    s.run("SELECT app_jobs.add_job('t', '{}', queue_name := 'q')").await;
    statements = 200..400;
    while held.len() == 5 && statements.next().is_some() {
        held = next(&s, &held, 1000 + 10 * statements.start).await;
    }
    assert_eq!(held.len(), 4, "one of 16 statements leaves a place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_claims_ends_or_dies_no_more_run_than_the_limit_says_and_none_is_left() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.set_limit('task', 't', 5)").await;
    s.run(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, priority, max_attempts)
         SELECT 't', CASE WHEN g % 10 = 0 THEN 'q' || g % 3 END, g % 3, 1000 FROM generate_series(1, 1500) g",
    )
    .await;
    let epochs = Arc::new(AtomicI64::new(1));
    let mut workers = JoinSet::new();
    for worker in 0..5_u64 {
        let (s, epochs, mut rng) = (Session::open(&db).await, epochs.clone(), Rng::with_seed(29 + worker));
        workers.spawn(async move {
            let mut held = Vec::new();
            let mut followed = 0;
            while s.is("SELECT EXISTS (SELECT FROM app_jobs.jobs)").await {
                held.extend(claim(&s, 3, epochs.fetch_add(3, Ordering::Relaxed)).await);
                // Some are lost, as by a process that is killed; they are taken back below.
                held.retain(|_| rng.u8(..20) > 0);
                let next = next(&s, &held, epochs.fetch_add(held.len() as i64, Ordering::Relaxed)).await;
                followed += next.len();
                held = next;
            }
            followed
        });
    }
    let begun = Instant::now();
    let lost = "SELECT app_jobs_internal.free_jobs(ARRAY(SELECT id FROM app_jobs.jobs
                       WHERE locked_at < now() - interval '300 ms' FOR UPDATE SKIP LOCKED), NULL)";
    let (mut followed, mut most) = (0, 0);
    while !workers.is_empty() {
        while let Some(ended) = workers.try_join_next() {
            followed += ended.unwrap();
        }
        assert!(begun.elapsed() < LIMIT * 4, "{}", s.show("SELECT * FROM app_jobs.jobs LIMIT 20").await);
        s.run(lost).await;
        most = most.max(s.number(RUNNING).await);
        assert!(most <= 5, "{most} run");
    }
    assert!(followed > 500, "{followed} jobs took the place of one that ended");
    assert_eq!(most, 5);
}
