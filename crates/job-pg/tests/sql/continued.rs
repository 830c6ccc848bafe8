//! Looks that continue where the last one ended: what they see, what they leave to a deep look, and what they cost.

use crate::sql::support::{Session, database};

/// A look from `after` (run_at, id) on, at priority 0, as `id,id,…` in order.
async fn look(s: &Session, after: (&str, i64), more: &str) -> String {
    let (run_at, id) = after;
    s.show(&format!(
        "SELECT string_agg(id::text, ',' ORDER BY run_at, id) FROM app_jobs_internal.claim_jobs('worker', NULL, 10, '4 hours', \
         deep := false, after_priorities := '{{0}}', after_run_ats := ARRAY[{run_at}]::timestamptz[], \
         after_ids := ARRAY[{id}::bigint] {more})"
    ))
    .await
}

#[tokio::test]
async fn a_look_goes_on_after_its_position_and_a_deep_one_finds_what_lies_behind() {
    let db = database().await;
    let s = Session::open(&db).await;
    let mut jobs = Vec::new();
    for minutes in [30, 20, 20, 10] {
        jobs.push(s.add_job(&format!("'x', '{{}}', run_at := now()::date - interval '{minutes} minutes'")).await);
    }
    let urgent = s.add_job("'x', '{}', run_at := now()::date, priority := -1").await;
    s.add_job("'x', '{}', run_at := now() + interval '1 hour'").await;
    // Of two with one run_at, the id decides. The other priority is not among those asked for.
    let position = ("now()::date - interval '20 minutes'", jobs[1]);
    assert_eq!(look(&s, position, "").await, format!("{},{}", jobs[2], jobs[3]));
    assert_eq!(look(&s, position, "").await, "~", "claimed");
    assert_eq!(s.get_job("'worker'").await, Some(urgent));
    assert_eq!(s.get_job("'worker'").await, Some(jobs[0]));
    assert_eq!(s.get_job("'worker'").await, Some(jobs[1]));
    assert_eq!(s.get_job("'worker'").await, None);
}

#[tokio::test]
async fn a_look_goes_on_through_all_later_priorities_where_the_last_position_stands_for_them() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SELECT app_jobs.add_job('x', '{}', run_at := now()::date - interval '1 minute' * p, priority := p)
           FROM generate_series(0, 9) AS p",
    )
    .await;
    let take = |priorities: &str, jobs: usize| {
        format!(
            "SELECT string_agg(priority::text, ',' ORDER BY priority)
               FROM app_jobs_internal.claim_jobs('worker', NULL, {jobs}, NULL, deep := false,
                    after_priorities := '{priorities}', after_run_ats := '{{-infinity,infinity}}', after_ids := '{{0,0}}')"
        )
    };
    assert_eq!(s.show(&take("{0,3}", 9)).await, "0");
    assert_eq!(s.show(&take("{0,3,NULL}", 3)).await, "4,5,6");
    assert_eq!(s.show(&take("{1,8,NULL}", 9)).await, "1,9");
}

#[tokio::test]
async fn the_next_job_of_a_freed_queue_is_found_behind_the_position() {
    let db = database().await;
    let s = Session::open(&db).await;
    let mut jobs = Vec::new();
    for queue in ["a", "a", "b", "b"] {
        jobs.push(s.add_job(&format!("'x', '{{}}', queue_name := '{queue}'")).await);
    }
    assert_eq!(s.get_job("'worker'").await, Some(jobs[0]));
    let end = ("now()", i64::MAX);
    let freed = ", free_gates := ARRAY['queue''a''', 'queue''b''', 'gone']";
    assert_eq!(look(&s, end, freed).await, jobs[2].to_string(), "a is still busy, b has one place");
    s.run(&format!("SELECT app_jobs.complete_job('worker', {})", jobs[0])).await;
    assert_eq!(look(&s, end, freed).await, jobs[1].to_string());
    assert_eq!(look(&s, end, freed).await, "~", "both are busy");
}

#[tokio::test]
async fn freed_queues_are_known_by_their_keys_whatever_their_names() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (names, of_another_kind) in [(vec!["a", "it''s", " queue''", "''"], false), (vec!["b", r"a\b''"], true)] {
        for name in &names {
            s.run(&format!("SELECT app_jobs.add_job('x', queue_name := '{name}') FROM generate_series(1, 2)")).await;
        }
        let keys = s.show("SELECT string_agg(quote_literal(gate_key), ',') FROM app_jobs.jobs").await;
        assert_eq!(keys.contains("queueE"), of_another_kind, "{keys}");
        let claim = format!(
            "SELECT count(*) FROM app_jobs_internal.claim_jobs('worker', NULL, 9, NULL, deep := false,
                after_priorities := '{{0}}', after_run_ats := '{{now}}', after_ids := '{{0}}',
                free_gates := ARRAY[{keys}, 'queue''gone'''])"
        );
        assert_eq!(s.number(&claim).await, i64::try_from(names.len()).unwrap(), "one of each");
        assert_eq!(s.number(&claim).await, 0);
        s.run("DELETE FROM app_jobs.jobs").await;
    }
}

#[tokio::test]
async fn a_freed_queue_has_no_precedence_over_more_urgent_jobs() {
    let db = database().await;
    let s = Session::open(&db).await;
    let first = s.add_job("'x', '{}', queue_name := 'q', priority := -1").await;
    let later = s.add_job("'x', '{}', queue_name := 'q', priority := 100").await;
    assert_eq!(s.get_job("'worker'").await, Some(first));
    s.run(&format!("SELECT app_jobs.complete_job('worker', {first})")).await;
    let urgent = s.add_job("'x'").await;
    let one = "SELECT id FROM app_jobs_internal.claim_jobs('worker', NULL, 1, NULL, deep := false, after_priorities := '{0}', \
               after_run_ats := '{-infinity}', after_ids := '{0}', free_gates := ARRAY['queue''q'''])";
    assert_eq!(s.show(one).await, urgent.to_string());
    assert_eq!(s.show(one).await, later.to_string());
    assert_eq!(s.show(one).await, "");
}

#[tokio::test]
async fn a_freed_queue_whose_jobs_have_several_gates_keeps_its_order() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.set_limit('task', 'limited', 100)").await;
    let mut jobs = Vec::new();
    for task in ["x", "limited", "x", "limited", "limited"] {
        jobs.push(s.add_job(&format!("'{task}', '{{}}', queue_name := 'q'")).await);
    }
    let end = ("now()", i64::MAX);
    let plain = ", free_gates := ARRAY['queue''q''']";
    let limited = ", free_gates := ARRAY['task''limited'' queue''q''']";
    let last = jobs[4].to_string();
    for (job, freed, next) in
        [(jobs[0], plain, "~"), (jobs[1], limited, "~"), (jobs[2], plain, "~"), (jobs[3], limited, &last)]
    {
        assert_eq!(s.get_job("'worker'").await, Some(job));
        s.run(&format!("SELECT app_jobs.complete_job('worker', {job})")).await;
        assert_eq!(look(&s, end, freed).await, next, "after {job}");
    }
}

#[tokio::test]
async fn of_a_freed_queue_of_several_at_once_no_later_job_passes_one_with_another_gate() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.set_limit('task', '*', 100), app_jobs.set_limit('queue', 'q', 2)").await;
    let mut jobs = Vec::new();
    for task in ["a", "b", "a"] {
        jobs.push(s.add_job(&format!("'{task}', '{{}}', queue_name := 'q'")).await);
    }
    let freed = ", free_gates := ARRAY['task''a'' queue''q''']";
    assert_eq!(look(&s, ("now()", i64::MAX), freed).await, "~", "a look from the start finds them");
    assert_eq!(s.get_job("'worker'").await, Some(jobs[0]));
    assert_eq!(s.get_job("'worker'").await, Some(jobs[1]));
}

#[tokio::test]
async fn a_batch_takes_one_job_of_each_queue_and_any_number_of_others() {
    let db = database().await;
    let s = Session::open(&db).await;
    let (first, free) = (s.add_job("'x', '{}', queue_name := 'q'").await, s.add_job("'x'").await);
    s.add_job("'x', '{}', queue_name := 'q'").await;
    let other = s.add_job("'x', '{}', queue_name := 'r'").await;
    let also = s.add_job("'x'").await;
    let deep = "SELECT string_agg(id::text, ',' ORDER BY run_at, id) FROM app_jobs_internal.claim_jobs('worker', NULL, 10, NULL)";
    assert_eq!(s.show(deep).await, format!("{first},{free},{other},{also}"));
}

#[tokio::test]
async fn excluded_tasks_are_left_by_both_kinds_of_look() {
    let db = database().await;
    let s = Session::open(&db).await;
    let (left, taken) = (s.add_job("'left'").await, s.add_job("'taken'").await);
    let excluded = ", excluded_tasks := '{left,other}'";
    assert_eq!(look(&s, ("'-infinity'", 0), excluded).await, taken.to_string());
    let deep = "SELECT id FROM app_jobs_internal.claim_jobs('worker', NULL, 10, '4 hours', excluded_tasks := '{left}')";
    assert_eq!(s.show(deep).await, "");
    assert_eq!(s.get_job("'worker'").await, Some(left));
}

#[tokio::test]
async fn an_expired_lock_competes_with_free_jobs_by_their_order() {
    let db = database().await;
    let s = Session::open(&db).await;
    let expired = s.add_job("'x', '{}', priority := 5").await;
    assert_eq!(s.get_job("'gone-worker'").await, Some(expired));
    s.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '5 hours'").await;
    let (before, after) = (s.add_job("'x', '{}', priority := 1").await, s.add_job("'x', '{}', priority := 9").await);
    for job in [before, expired, after] {
        assert_eq!(s.get_job("'worker'").await, Some(job));
    }
}

#[tokio::test]
async fn a_batch_tells_the_positions_of_outcomes_that_changed_nothing() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 4)").await;
    s.run("SELECT app_jobs_internal.claim_jobs('worker', NULL, 4, NULL)").await;
    let complete = |ids: &str, workers: &str| {
        format!(
            "SELECT app_jobs_internal.complete_held_jobs('{ids}', '{workers}', array_fill(NULL::bigint, ARRAY[cardinality('{ids}'::bigint[])]))"
        )
    };
    assert_eq!(s.show(&complete("{1,99,2}", "{worker,worker,other}")).await, "{2,3}");
    assert_eq!(s.show(&complete("{2}", "{worker}")).await, "{}");
    let fail = "SELECT app_jobs_internal.end_held_jobs('{2,3}', '{worker,worker}', '{NULL,NULL}', '{gone,no}', '{NULL,NULL}', '{t,t}', '{f,f}')";
    assert_eq!(s.show(fail).await, "{1}");
    assert_eq!(s.show("SELECT id, last_error FROM app_jobs.jobs ORDER BY id").await, "3|no\n4|~");
}

/// How many entries of the indexes of waiting jobs a statement reads, dead ones included.
async fn entries_read(s: &Session, statement: &str) -> i64 {
    s.run("BEGIN").await;
    let count = "SELECT sum(pg_stat_get_xact_tuples_returned(i.indexrelid))::bigint FROM pg_index i
                  WHERE i.indrelid = 'app_jobs.jobs'::regclass AND pg_get_expr(i.indpred, i.indrelid) ~ 'locked_at IS NULL'";
    let before = s.number(count).await;
    s.run(statement).await;
    let read = s.number(count).await - before;
    s.run("ROLLBACK").await;
    read
}

#[tokio::test]
async fn under_a_held_snapshot_a_look_that_continues_reads_no_dead_entries() {
    let db = database().await;
    let (s, holder) = (Session::open(&db).await, Session::open(&db).await);
    holder.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM app_jobs.jobs").await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 3000)").await;
    s.run("SELECT app_jobs_internal.claim_jobs('worker', NULL, 3000, NULL)").await;
    let position = s.show("SELECT quote_literal(max(run_at)) FROM app_jobs.jobs").await;
    s.run(
        "SELECT app_jobs_internal.complete_held_jobs(array_agg(id), array_agg(locked_by), array_agg(epoch)) FROM app_jobs.jobs",
    )
    .await;
    s.run("SELECT app_jobs.add_job('x') FROM generate_series(1, 10)").await;
    let continued = format!(
        "SELECT app_jobs_internal.claim_jobs('worker', NULL, 10, NULL, deep := false, after_priorities := '{{0}}', \
         after_run_ats := ARRAY[{position}]::timestamptz[], after_ids := '{{3000}}')"
    );
    let read = entries_read(&s, &continued).await;
    assert!((10..100).contains(&read), "{read}");
    // Nor does one that goes on through all later priorities.
    s.run("UPDATE app_jobs.jobs SET locked_at = NULL, locked_by = NULL, attempts = 0, priority = id").await;
    let through_all = continued.replace("'{0}', after_run_ats", "'{0,NULL}', after_run_ats");
    assert_ne!(through_all, continued);
    let read = entries_read(&s, &through_all).await;
    assert!((10..100).contains(&read), "{read}");
    let read = entries_read(&s, "SELECT app_jobs_internal.claim_jobs('worker', NULL, 10, NULL)").await;
    assert!(read > 3000, "the dead entries are there: {read}");
    holder.run("COMMIT").await;
}

#[tokio::test]
async fn jobs_of_the_future_are_not_read_by_a_look() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SELECT app_jobs.add_job('x', '{}'::json, run_at := now() + interval '1 hour', priority := n % 3) \
         FROM generate_series(1, 3000) n",
    )
    .await;
    // The planner has seen an empty table and a full one.
    for statistics in ["", "ANALYZE app_jobs.jobs"] {
        s.run(statistics).await;
        let due = s.add_job("'x', '{}', priority := 2").await;
        let read = entries_read(&s, "SELECT app_jobs_internal.claim_jobs('worker', NULL, 10, NULL)").await;
        assert!((1..50).contains(&read), "{read}");
        let read = entries_read(&s, "SELECT app_jobs_internal.next_run_at(NULL, NULL, '2 hours')").await;
        assert!((1..50).contains(&read), "{read}");
        assert_eq!(s.get_job("'worker'").await, Some(due));
    }
}
