//! Batches with key modes and actors: the same as one call after the other, and in nobody's way.

use std::fmt::Write;

use crate::sql::support::{Session, database};

/// The states that the job can be in which has the key.
const HOLDERS: [(&str, &str); 6] = [
    ("none", ""),
    ("waits", "UPDATE app_jobs.jobs SET max_attempts = 4"),
    ("failed", "UPDATE app_jobs.jobs SET attempts = 2, last_error = 'no'"),
    ("for_good", "UPDATE app_jobs.jobs SET attempts = max_attempts, last_error = 'no'"),
    ("runs", "UPDATE app_jobs.jobs SET attempts = 1, locked_at = now(), locked_by = 'worker'"),
    ("last_runs", "UPDATE app_jobs.jobs SET attempts = max_attempts, locked_at = now(), locked_by = 'worker'"),
];
const MODES: [&str; 3] = ["replace", "preserve_run_at", "ignore"];

/// One job of a batch, as arguments of `enqueue`.
struct Given {
    key: String,
    mode: &'static str,
    n: usize,
}

impl Given {
    fn call(&self) -> String {
        let Self { key, mode, n } = self;
        format!(
            "app_jobs.enqueue('x', '{n}', {key}, '{mode}', 'q{}', now() + {n} * interval '1 h', {n} + 1, -{n}, NULL, \
             '00000000-0000-0000-0000-{n:012}')",
            n % 3
        )
    }
}

/// All of them in one call.
fn batch(given: &[Given]) -> String {
    let column = |element: &dyn Fn(&Given) -> String| given.iter().map(element).collect::<Vec<_>>().join(", ");
    format!(
        "app_jobs.enqueue_all(array_fill('x'::text, ARRAY[{}]), ARRAY[{}]::json[], ARRAY[{}]::text[], ARRAY[{}], ARRAY[{}], \
         ARRAY[{}]::timestamptz[], ARRAY[{}], ARRAY[{}], NULL, ARRAY[{}]::uuid[])",
        given.len(),
        column(&|one| format!("'{}'", one.n)),
        column(&|one| one.key.clone()),
        column(&|one| format!("'{}'", one.mode)),
        column(&|one| format!("'q{}'", one.n % 3)),
        column(&|one| format!("now() + {} * interval '1 h'", one.n)),
        column(&|one| format!("{} + 1", one.n)),
        column(&|one| format!("-{}", one.n)),
        column(&|one| format!("'00000000-0000-0000-0000-{:012}'", one.n)),
    )
}

/// What a transaction with these calls leaves, and what each call said of its job: by keys, as ids differ.
async fn left(s: &Session, calls: &str) -> String {
    s.run(&format!("BEGIN; CREATE TEMP TABLE said ON COMMIT DROP AS {calls}")).await;
    let shown = s
        .show(
            "SELECT said.n, said.kept, j.key, j.payload FROM said LEFT JOIN app_jobs.jobs j USING (id) ORDER BY said.n;
             SELECT payload, key, queue_name, round(extract(epoch FROM run_at - now()) / 60), attempts, max_attempts, priority, actor_id,
                    last_error, locked_by, superseded
               FROM app_jobs.jobs ORDER BY payload::text::int, key;
             SELECT queue_name, job_count, locked_by FROM app_jobs.job_queues ORDER BY queue_name",
        )
        .await;
    s.run("ROLLBACK").await;
    shown
}

#[tokio::test]
async fn a_batch_does_what_one_call_after_the_other_does_whatever_has_the_keys() {
    let db = database().await;
    let s = Session::open(&db).await;
    let mut given = Vec::new();
    let mut take = |key: String, mode| given.push(Given { key, mode, n: 100 + given.len() });
    for (index, (holder, sql)) in HOLDERS.into_iter().enumerate() {
        for mode in MODES {
            for times in 1..=3 {
                let key = format!("{holder}_{mode}_{times}");
                if !sql.is_empty() {
                    s.run(&format!("SELECT app_jobs.add_job('x', '{index}'::json, '{key}', 'h')")).await;
                    s.run(&format!("{sql} WHERE key = '{key}'")).await;
                }
                for _ in 0..times {
                    take(format!("'{key}'"), mode);
                    take("NULL".to_owned(), mode);
                }
            }
        }
    }
    let mut calls = String::new();
    for (n, one) in given.iter().enumerate() {
        let union = if n == 0 { "" } else { " UNION ALL " };
        write!(calls, "{union}SELECT {n} AS n, e.* FROM {} e", one.call()).unwrap();
    }
    let one_by_one = left(&s, &calls).await;
    let all = format!("SELECT n - 1 AS n, e.id, e.kept FROM {} WITH ORDINALITY AS e (id, kept, n)", batch(&given));
    let together = left(&s, &all).await;
    for (line, (one, all)) in one_by_one.lines().zip(together.lines()).enumerate() {
        assert_eq!(one, all, "line {line}: one by one, and together");
    }
    assert_eq!(one_by_one, together);
    assert!(one_by_one.lines().count() > given.len() + 9 * HOLDERS.len(), "{one_by_one}");
}

#[tokio::test]
async fn jobs_of_a_batch_keep_its_order() {
    let db = database().await;
    let s = Session::open(&db).await;
    for mode in MODES {
        s.run(&format!(
            "SELECT app_jobs.enqueue_all('{{x,x,x,x}}', '{{1,2,3,4}}', '{{c,NULL,b,a}}', array_fill('{mode}'::text, ARRAY[4]), \
             '{{q,q,q,q}}')"
        ))
        .await;
        let order = "SELECT string_agg(payload::text, ',' ORDER BY run_at, id) FROM app_jobs.jobs";
        assert_eq!(s.show(order).await, "1,2,3,4", "{mode}");
        s.run("DELETE FROM app_jobs.jobs").await;
    }
}

#[tokio::test]
async fn batches_with_the_same_keys_and_queues_in_opposite_orders_all_succeed() {
    let db = database().await;
    let (a, b, c) = (Session::open(&db).await, Session::open(&db).await, Session::open(&db).await);
    let watch = Session::open(&db).await;
    let numbers: Vec<usize> = (0..200).collect();
    let names = |prefix: &str, numbers: &[usize]| {
        numbers.iter().map(|n| format!("{prefix}{n:03}")).collect::<Vec<_>>().join(",")
    };
    let backwards: Vec<usize> = numbers.iter().rev().copied().collect();
    let call = |keys: &[usize], queues: &[usize], mode: &str| {
        format!(
            "SELECT app_jobs.enqueue_all(array_fill('x'::text, ARRAY[200]), NULL, '{{{}}}', \
             array_fill('{mode}'::text, ARRAY[200]), '{{{}}}')",
            names("k", keys),
            names("q", queues)
        )
    };
    for mode in MODES {
        for _ in 0..4 {
            let plain = call(&numbers, &backwards, "replace").replace("enqueue_all", "add_jobs");
            let plain = plain.replace(", array_fill('replace'::text, ARRAY[200])", "");
            let (forth, back) = (call(&numbers, &numbers, mode), call(&backwards, &backwards, mode));
            tokio::join!(a.run(&forth), b.run(&back), c.run(&plain));
            assert_eq!(watch.number("SELECT count(*) FROM app_jobs.jobs").await, 200);
            watch.run("DELETE FROM app_jobs.jobs").await;
        }
    }
}

#[tokio::test]
async fn to_leave_a_running_job_as_it_is_does_not_hold_up_its_end() {
    let db = database().await;
    let (s, producer) = (Session::open(&db).await, Session::open(&db).await);
    for call in ["enqueue('x', '{}', 'k', 'ignore')", "enqueue_all('{x}', NULL, '{k}', '{ignore}')"] {
        let id = s.add_job("'x', job_key := 'k'").await;
        assert_eq!(s.get_job("'worker'").await, Some(id));
        assert_eq!(producer.show(&format!("BEGIN; SELECT * FROM app_jobs.{call}")).await, format!("{id}|t"));
        // It waits for nobody longer than 250 ms, and tells what it left.
        assert_eq!(
            s.show(&format!("SELECT app_jobs_internal.complete_held_jobs('{{{id}}}', '{{worker}}', '{{NULL}}')")).await,
            "{}"
        );
        producer.run("COMMIT").await;
        assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0, "{call}");
    }
}

#[tokio::test]
async fn to_leave_a_waiting_job_as_it_is_keeps_it_from_starting_before_the_commit() {
    let db = database().await;
    let (s, producer) = (Session::open(&db).await, Session::open(&db).await);
    for call in ["enqueue('x', '{}', 'k', 'ignore')", "enqueue_all('{x}', NULL, '{k}', '{ignore}')"] {
        let id = s.add_job("'x', job_key := 'k'").await;
        assert_eq!(producer.show(&format!("BEGIN; SELECT * FROM app_jobs.{call}")).await, format!("{id}|t"));
        assert_eq!(s.get_job("'worker'").await, None, "{call}");
        producer.run("COMMIT").await;
        assert_eq!(s.get_job("'worker'").await, Some(id), "{call}");
        s.run("DELETE FROM app_jobs.jobs").await;
    }
}

#[tokio::test]
async fn at_a_higher_isolation_level_a_job_that_has_ended_since_is_not_taken_for_one_that_runs() {
    let db = database().await;
    let (s, producer) = (Session::open(&db).await, Session::open(&db).await);
    for call in ["enqueue('x', '{}', 'k', 'ignore')", "enqueue_all('{x}', NULL, '{k}', '{ignore}')"] {
        for level in ["REPEATABLE READ", "SERIALIZABLE"] {
            let id = s.add_job("'x', job_key := 'k'").await;
            assert_eq!(s.get_job("'worker'").await, Some(id));
            producer.run(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM app_jobs.jobs")).await;
            s.run(&format!("SELECT app_jobs.complete_job('worker', {id})")).await;
            // Either it makes the job, or the transaction is to be tried again.
            match producer.try_show(&format!("SELECT kept FROM app_jobs.{call}")).await {
                Ok(kept) => assert_eq!(kept, "f", "{call}, {level}"),
                Err(error) => assert_eq!(error.code().unwrap().code(), "40001", "{call}, {level}"),
            }
            producer.run("COMMIT").await;
            s.run("DELETE FROM app_jobs.jobs").await;
        }
    }
}
