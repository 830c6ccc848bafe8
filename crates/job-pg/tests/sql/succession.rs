//! complete_and_claim_next: a queue's next job takes the place of the one that ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use fastrand::Rng;
use job_testkit::TestDb;
use tokio::task::JoinSet;

use crate::sql::support::{Ear, LIMIT, Session, database};

const INSTANCE: &str = "00000000-0000-0000-0000-00000000000a";
const TENANT: &str = "7b0e6c2e-1111-4222-8333-944455566677";

/// Claims a job as worker `work`, by the epoch.
async fn claim(s: &Session, epoch: i64) -> i64 {
    s.number(&format!(
        "SELECT id FROM app_jobs_internal.claim_instance_jobs('{INSTANCE}', 'work', '{{{epoch}}}', NULL, 1, '4 h')"
    ))
    .await
}

/// The call that completes a job of queue `q` by an epoch and claims the next one by epoch + 1, with the last arguments
/// `own_tasks`, `task_identifiers` and `excluded_tasks`.
fn call(id: i64, epoch: i64, [own, tasks, excluded]: [&str; 3]) -> String {
    format!(
        "SELECT id, attempts, epoch FROM app_jobs_internal.complete_and_claim_next('{{{id}}}', '{{work}}', '{{{epoch}}}',
                '{{q}}', {own}, '{{{}}}', '{INSTANCE}', {tasks}, {excluded}, '4 h')",
        epoch + 1
    )
}

const ANY: [&str; 3] = ["'{NULL}'", "NULL", "NULL"];

/// On a busy machine a look may have taken long enough for the next ones not to begin at the beginning of the queue.
async fn look_from_the_beginning(s: &Session) {
    s.run("SELECT set_config('jobs.look_at', '', false)").await;
}

/// Completes a job; returns the one that is claimed, if any.
async fn next(s: &Session, id: i64, epoch: i64) -> Option<i64> {
    let shown = s.show(&call(id, epoch, ANY)).await;
    let (next, rest) = shown.split_once('|')?;
    assert!(rest.ends_with(&format!("|{}", epoch + 1)), "{shown}");
    Some(next.parse().unwrap())
}

async fn add(s: &Session, more: &str) -> i64 {
    s.number(&format!("SELECT id FROM app_jobs.add_job('t', '{{}}', queue_name := 'q'{more})")).await
}

#[tokio::test]
async fn the_next_job_of_a_queue_takes_the_place_of_the_one_that_ends_in_order_and_silently() {
    let db = database().await;
    let s = Session::open(&db).await;
    let late = add(&s, "").await;
    let urgent = add(&s, ", priority := -1").await;
    let early = add(&s, ", run_at := now() - interval '1 hour'").await;
    let last = add(&s, ", priority := 5").await;
    add(&s, ", run_at := now() + interval '1 hour'").await;
    let mut running = claim(&s, 1).await;
    assert_eq!(running, urgent);
    // What comes while it runs takes its place in the order, too.
    let more_urgent = add(&s, ", priority := -2").await;
    let mut ear = Ear::on(&db, "jobs:insert").await;
    for (epoch, expected) in (1..).zip([more_urgent, early, late, last]) {
        look_from_the_beginning(&s).await;
        assert_eq!(next(&s, running, epoch).await, Some(expected));
        running = expected;
        let claimed = "SELECT attempts, locked_by, instance, epoch, accepted, deadline FROM app_jobs.jobs
                        WHERE locked_at IS NOT NULL";
        assert_eq!(s.show(claimed).await, format!("1|work|{INSTANCE}|{}|f|~", epoch + 1));
    }
    assert_eq!(ear.count().await, 0, "nobody else can start anything");
    assert_eq!(next(&s, running, 5).await, None);
    assert_eq!(ear.count().await, 1, "the queue is free");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 1);
}

#[tokio::test]
async fn what_was_not_held_is_named_by_its_position_and_has_no_successor() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('t', '{}', queue_name := q) FROM unnest('{a,b,c,a,b,c}'::text[]) q").await;
    s.run("SELECT app_jobs.add_job('t')").await;
    let claimed = "SELECT string_agg(id::text, ',' ORDER BY id) FROM app_jobs_internal.claim_instance_jobs(
                          $1, 'work', '{1,1,1,1}', NULL, 4, '4 h')";
    let claimed = s.show(&claimed.replace("$1", &format!("'{INSTANCE}'"))).await;
    assert_eq!(claimed, "1,2,3,7");
    let shown = s
        .show(&format!(
            "SELECT id, attempts, epoch FROM app_jobs_internal.complete_and_claim_next(
                    '{{1,2,3,7,99}}', '{{work,work,other,work,work}}', '{{1,2,1,NULL,1}}', '{{a,b,c,NULL,NULL}}',
                    '{{NULL,NULL,NULL,NULL,NULL}}', '{{11,12,13,14,15}}', '{INSTANCE}', NULL, NULL, '4 h')"
        ))
        .await;
    assert_eq!(shown, "4|1|11\n~|2|~\n~|3|~\n~|5|~");
    assert_eq!(
        s.show("SELECT id, locked_at IS NOT NULL FROM app_jobs.jobs ORDER BY id").await,
        "2|t\n3|t\n4|t\n5|f\n6|f"
    );
}

/// Whatever else stands in the way: the job is completed, nothing is claimed, and workers are woken.
#[tokio::test]
async fn a_job_has_no_successor_where_a_gate_or_another_worker_has_a_say() {
    let db = database().await;
    let s = Session::open(&db).await;
    let due = "UPDATE app_jobs.jobs SET run_at = now() - interval '1 s' WHERE id = $3;
               UPDATE app_jobs.jobs SET gate_key = 'run_at' WHERE id = $3";
    // $1: the job that ends; $2: the next one; $3: the one behind it.
    let cases = [
        ("", ""),
        ("SELECT app_jobs.set_limit('queue', 'q', 2)", "a limit of its queue"),
        ("SELECT app_jobs.set_limit('queue', '*', 1)", "a limit of all queues"),
        ("SELECT app_jobs.set_limit('queue', 'q', 2); SELECT app_jobs.set_limit('queue', 'q')", "a limit of before"),
        ("SELECT app_jobs.set_limit('queue', '*', 2); SELECT app_jobs.set_limit('queue', '*')", "one of all, before"),
        ("SELECT app_jobs.pause('queue', 'q')", "a pause of its queue"),
        ("SELECT app_jobs.pause('queue', '*')", "a pause of all queues"),
        ("SELECT app_jobs.pause('all', NULL)", "a pause of all"),
        ("SELECT app_jobs.pause('task', 'next')", "a pause of the next one's task"),
        ("SELECT app_jobs.set_limit('task', '*', 9)", "a limit of tasks"),
        ("SELECT app_jobs.set_limit('tenant', '*', 9)", "a limit of tenants"),
        ("UPDATE app_jobs.jobs SET locked_at = now(), locked_by = 'other' WHERE id = $3", "another one runs"),
        ("UPDATE app_jobs.jobs SET locked_at = now() - interval '11 s' WHERE id = $1", "an old claim"),
        ("UPDATE app_jobs.jobs SET queue_name = 'r' WHERE id = $1", "it was moved"),
        ("UPDATE app_jobs.jobs SET run_at = now() + interval '1 h' WHERE id <> $1", "not due"),
        ("UPDATE app_jobs.jobs SET attempts = max_attempts WHERE id <> $1", "failed for good"),
        (due, "one has become due that stands nowhere yet"),
    ];
    for (set, case) in cases {
        s.run("TRUNCATE app_jobs.jobs, app_jobs.gates, app_jobs.gate_tokens").await;
        s.run(&format!(
            "INSERT INTO app_jobs.jobs (task_identifier, queue_name, database_id, priority)
             VALUES ('t', 'q', NULL, 1), ('next', 'q', '{TENANT}', 2), ('last', 'q', NULL, 3)"
        ))
        .await;
        let ids = s.show("SELECT id FROM app_jobs.jobs ORDER BY id").await;
        let ids: Vec<i64> = ids.lines().map(|id| id.parse().unwrap()).collect();
        assert_eq!(claim(&s, 1).await, ids[0]);
        let set = (1..).zip(&ids).fold(set.to_owned(), |set, (n, id)| set.replace(&format!("${n}"), &id.to_string()));
        s.run(&set).await;
        look_from_the_beginning(&s).await;
        let mut ear = Ear::on(&db, "jobs:insert").await;
        let expected = case.is_empty().then_some(ids[1]);
        assert_eq!(next(&s, ids[0], 1).await, expected, "{case}");
        assert!(!s.is(&format!("SELECT EXISTS (SELECT FROM app_jobs.jobs WHERE id = {})", ids[0])).await, "{case}");
        assert_eq!(ear.count().await, usize::from(!case.is_empty()), "{case}");
    }
}

#[tokio::test]
async fn the_next_job_is_of_a_task_that_the_worker_has_room_for() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (case, arguments, expected) in [
        ("any", ANY, Some(1)),
        ("of this task alone", ["'{t}'", "NULL", "NULL"], None),
        ("of the next one's task", ["'{next}'", "NULL", "NULL"], Some(1)),
        ("of none that has a lane", ["'{NULL}'", "NULL", "'{next}'"], None),
        ("the worker takes the last one only", ["'{NULL}'", "'{t,last}'", "NULL"], Some(2)),
        ("the worker takes none", ["'{NULL}'", "'{t}'", "NULL"], None),
    ] {
        s.run("TRUNCATE app_jobs.jobs").await;
        s.run(
            "INSERT INTO app_jobs.jobs (task_identifier, queue_name) VALUES ('t', 'q'), ('next', 'q'), ('last', 'q')",
        )
        .await;
        let id = claim(&s, 1).await;
        let shown = s.show(&call(id, 1, arguments)).await;
        assert_eq!(shown, expected.map_or_else(String::new, |n| format!("{}|1|2", id + n)), "{case}");
    }
}

#[tokio::test]
async fn while_a_limit_is_set_and_in_stricter_levels_a_job_is_completed_without_a_successor() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    let id = add(&s, "").await;
    let second = add(&s, "").await;
    add(&s, "").await;
    claim(&s, 1).await;
    other.run("BEGIN; SELECT app_jobs.set_limit('queue', 'other', 2)").await;
    assert_eq!(next(&s, id, 1).await, None);
    other.run("ROLLBACK").await;
    assert_eq!(claim(&s, 2).await, second);
    let level = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}; COMMIT", call(second, 2, ANY));
    assert_eq!(s.show(&level).await, "");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NULL").await, 1);
}

#[tokio::test]
async fn what_somebody_holds_keeps_no_other_job_from_following() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    let id = add(&s, "").await;
    let held = add(&s, "").await;
    let free = add(&s, "").await;
    claim(&s, 1).await;
    other.run(&format!("BEGIN; SELECT FROM app_jobs.jobs WHERE id = {held} FOR UPDATE")).await;
    assert_eq!(next(&s, id, 1).await, Some(free));
    other.run("COMMIT").await;
    assert_eq!(next(&s, free, 2).await, Some(held));
}

/// While somebody keeps an old snapshot, the entries of all that has been done stay in the indexes.
#[tokio::test]
async fn under_a_held_snapshot_dead_entries_are_passed_by() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    s.run("INSERT INTO app_jobs.jobs (task_identifier, queue_name) SELECT 't', 'q' FROM generate_series(1, 3000)")
        .await;
    other.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM app_jobs.jobs").await;
    let read = "SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index
                 WHERE indrelid = 'app_jobs.jobs'::regclass";
    let mut id = claim(&s, 1).await;
    for epoch in 1..2500 {
        id = next(&s, id, epoch).await.unwrap();
    }
    let mut entries = Vec::new();
    // Looks behind the job that ends are for two seconds at most: on a busy machine one may come too late.
    for look_at in ["''"].into_iter().chain(["(extract(epoch FROM clock_timestamp()) + 1.9)::text"; 5]) {
        s.run(&format!("BEGIN; SELECT set_config('jobs.look_at', {look_at}, false)")).await;
        let epoch = s.number("SELECT epoch FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await;
        let before = s.number(read).await;
        id = next(&s, id, epoch).await.unwrap();
        entries.push(s.number(read).await - before);
        s.run("COMMIT").await;
    }
    // The walk from the beginning shows that there is something to pass by.
    assert!(entries[0] > 2000 && entries[1..].iter().any(|read| *read < 100), "{entries:?}");
    // What takes long leads to looks that do not.
    s.run("SELECT set_config('jobs.look_at', '', false), set_config('jobs.look_took', '1', false)").await;
    assert!(
        next(&s, id, s.number("SELECT epoch FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await).await.is_some()
    );
    assert!(s.is("SELECT current_setting('jobs.look_at')::float8 > extract(epoch FROM now())").await);
}

/// Workers that claim and complete, and lose some of what they claim, as a process that is killed does.
async fn workers(db: &TestDb, epochs: &Arc<AtomicI64>, seed: u64) -> JoinSet<()> {
    let mut workers = JoinSet::new();
    for worker in 0..6_u64 {
        let (s, epochs, mut rng) = (Session::open(db).await, epochs.clone(), Rng::with_seed(seed + worker));
        workers.spawn(async move {
            let mut held: HashMap<i64, (String, i64)> = HashMap::new();
            while s.is("SELECT EXISTS (SELECT FROM app_jobs.jobs)").await {
                if held.is_empty() {
                    let first = epochs.fetch_add(2, Ordering::Relaxed);
                    let claimed = s
                        .show(&format!(
                            "SELECT id, queue_name, epoch FROM app_jobs_internal.claim_instance_jobs(
                                    '{INSTANCE}', 'worker', '{{{first},{}}}', NULL, 2, '4 h', NULL, true)",
                            first + 1
                        ))
                        .await;
                    held = read(&claimed);
                }
                let ended: Vec<_> = held.drain().filter(|_| rng.u8(..20) > 0).collect();
                if rng.u8(..20) == 0 {
                    // Of these the outcome is not stored: they are taken back, and then settled all the same.
                    let ids: Vec<_> = ended.iter().map(|(id, _)| id.to_string()).collect();
                    s.run(&format!("SELECT app_jobs_internal.free_jobs('{{{}}}', NULL)", ids.join(","))).await;
                }
                let next = epochs.fetch_add(ended.len() as i64, Ordering::Relaxed);
                let list = |each: &dyn Fn(usize) -> String| {
                    let all: Vec<_> = (0..ended.len()).map(each).collect();
                    format!("'{{{}}}'", all.join(","))
                };
                let claimed = s
                    .show(&format!(
                        "SELECT id, queue_name, epoch FROM app_jobs_internal.complete_and_claim_next(
                                {}, {}, {}, {}, {}, {}, '{INSTANCE}', NULL, NULL, '4 h') WHERE id IS NOT NULL",
                        list(&|i| ended[i].0.to_string()),
                        list(&|_| "worker".to_owned()),
                        list(&|i| ended[i].1.1.to_string()),
                        list(&|i| ended[i].1.0.clone()),
                        list(&|_| "NULL".to_owned()),
                        list(&|i| (next + i as i64).to_string()),
                    ))
                    .await;
                held = read(&claimed);
            }
        });
    }
    workers
}

fn read(rows: &str) -> HashMap<i64, (String, i64)> {
    rows.lines()
        .map(|row| {
            let [id, queue, epoch] = row.split('|').collect::<Vec<_>>().try_into().unwrap();
            (id.parse().unwrap(), (queue.to_owned(), epoch.parse().unwrap()))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_or_sets_limits_no_queue_runs_two_jobs_or_a_later_one_first() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, priority, max_attempts)
         SELECT 't', 'q' || g % 4, hashint4(g) % 3, 1000 FROM generate_series(1, 1500) g",
    )
    .await;
    // Every start, in the transaction that makes it, with what it must not pass by.
    s.run(
        "CREATE TABLE starts (id bigint, queue text, others bigint, earlier bigint);
         CREATE FUNCTION start() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO public.starts
             SELECT NEW.id, NEW.queue_name, count(*) FILTER (WHERE j.locked_at IS NOT NULL),
                    count(*) FILTER (WHERE j.locked_at IS NULL
                                     AND (j.priority, j.run_at, j.id) < (NEW.priority, NEW.run_at, NEW.id))
               FROM app_jobs.jobs j WHERE j.queue_name = NEW.queue_name AND j.id <> NEW.id;
             RETURN NULL;
         END $$;
         CREATE TRIGGER start AFTER UPDATE ON app_jobs.jobs FOR EACH ROW
             WHEN (OLD.locked_at IS NULL AND NEW.locked_at IS NOT NULL) EXECUTE FUNCTION start()",
    )
    .await;
    let mut workers = workers(&db, &Arc::new(AtomicI64::new(1)), 17).await;
    let begun = Instant::now();
    let lost = "SELECT app_jobs_internal.free_jobs(ARRAY(SELECT id FROM app_jobs.jobs
                       WHERE locked_at < now() - interval '300 ms' FOR UPDATE SKIP LOCKED), NULL)";
    let two = "SELECT queue_name FROM app_jobs.jobs WHERE locked_at IS NOT NULL GROUP BY 1 HAVING count(*) > 1";
    let mut sets = 0;
    while !workers.is_empty() {
        while let Some(ended) = workers.try_join_next() {
            ended.unwrap();
        }
        assert!(begun.elapsed() < LIMIT * 4, "{}", s.show("SELECT * FROM app_jobs.jobs LIMIT 20").await);
        s.run(lost).await;
        assert_eq!(s.show(two).await, "", "two of a queue run");
        // Neither a limit of another queue nor a pause changes what is true.
        let set = [
            "set_limit('queue', 'q9', 3)",
            "set_limit('queue', 'q9')",
            "pause('queue', 'q1')",
            "resume('queue', 'q1')",
        ];
        match s.try_show(&format!("SELECT app_jobs.{}", set[sets % 4])).await {
            Ok(_) => sets += 1,
            Err(error) => assert_eq!(error.code().map(|code| code.code()), Some("55P03"), "{error:?}"),
        }
    }
    assert_eq!(s.show("SELECT * FROM starts WHERE others > 0 OR earlier > 0 LIMIT 10").await, "");
    assert!(s.number("SELECT count(*) FROM starts").await >= 1500);
    assert!(sets > 8);
}
