//! jobs is an ordinary table: job_queues, created_at and updated_at follow whatever anybody writes.

use crate::sql::support::{Session, database};

/// What job_queues must hold, from jobs alone.
const EXPECTED: &str = "SELECT queue_name, count(*), max(locked_at), (array_agg(locked_by ORDER BY locked_at DESC) \
    FILTER (WHERE locked_at IS NOT NULL))[1] FROM app_jobs.jobs WHERE queue_name IS NOT NULL GROUP BY 1 ORDER BY 1";
const ACTUAL: &str = "SELECT queue_name, job_count, locked_at, locked_by FROM app_jobs.job_queues ORDER BY 1";

/// Runs a statement, then compares.
async fn holds_after(s: &Session, statement: &str) {
    s.run(statement).await;
    assert_eq!(s.show(ACTUAL).await, s.show(EXPECTED).await, "after {statement}");
}

#[tokio::test]
async fn job_queues_follows_every_direct_write() {
    let db = database().await;
    let s = Session::open(&db).await;
    for statement in [
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name)
         SELECT 'x', CASE g % 4 WHEN 0 THEN NULL ELSE 'q' || g % 4 END FROM generate_series(1, 40) g",
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, locked_at, locked_by) VALUES ('x', 'q9', now(), 'worker-9')",
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, locked_at, locked_by) VALUES ('x', 'q1', now(), 'worker-1')",
        "UPDATE app_jobs.jobs SET locked_at = now(), locked_by = 'operator' WHERE id IN (2, 3)",
        "UPDATE app_jobs.jobs SET locked_at = now() + id * interval '1 minute', locked_by = 'operator-2' WHERE id IN (2, 6)",
        "UPDATE app_jobs.jobs SET locked_by = 'operator-3' WHERE id = 2",
        "UPDATE app_jobs.jobs SET queue_name = 'moved' WHERE id IN (1, 2, 4)",
        "UPDATE app_jobs.jobs SET queue_name = NULL WHERE id IN (2, 5)",
        "UPDATE app_jobs.jobs SET queue_name = 'q2' WHERE queue_name = 'q3'",
        "UPDATE app_jobs.jobs SET queue_name = 'swap' || id, locked_at = CASE WHEN locked_at IS NULL THEN now() END,
                locked_by = 'swapper' WHERE id < 9",
        "UPDATE app_jobs.jobs SET id = id + 1000",
        "UPDATE app_jobs.jobs SET priority = 1",
        "UPDATE app_jobs.jobs SET priority = 1 WHERE false",
        "DELETE FROM app_jobs.jobs WHERE locked_at IS NOT NULL",
        "DELETE FROM app_jobs.jobs WHERE id % 2 = 0",
        "DELETE FROM app_jobs.jobs WHERE false",
        "WITH gone AS (DELETE FROM app_jobs.jobs WHERE id % 3 = 0 RETURNING queue_name)
         INSERT INTO app_jobs.jobs (task_identifier, queue_name) SELECT 'y', queue_name || 'b' FROM gone",
        "BEGIN; DELETE FROM app_jobs.jobs; ROLLBACK",
        "DELETE FROM app_jobs.jobs",
    ] {
        holds_after(&s, statement).await;
    }
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.job_queues").await, 0);
}

#[tokio::test]
async fn job_queues_follows_upserts_and_merges_of_others() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.jobs (id, task_identifier, queue_name) VALUES (1, 'x', 'q1'), (2, 'x', 'q1')").await;
    holds_after(
        &s,
        "INSERT INTO app_jobs.jobs (id, task_identifier, queue_name) VALUES (1, 'x', 'q2'), (3, 'x', 'q3')
         ON CONFLICT (id) DO UPDATE SET queue_name = excluded.queue_name",
    )
    .await;
    holds_after(
        &s,
        "INSERT INTO app_jobs.jobs (id, task_identifier, queue_name) VALUES (1, 'x', 'q9') ON CONFLICT DO NOTHING",
    )
    .await;
    // MERGE came with PostgreSQL 15.
    if s.number("SELECT current_setting('server_version_num')").await >= 150_000 {
        holds_after(
            &s,
            "MERGE INTO app_jobs.jobs j USING (VALUES (1, 'm1'), (2, NULL), (7, 'm7')) v (id, q) ON j.id = v.id
             WHEN MATCHED AND q IS NULL THEN DELETE
             WHEN MATCHED THEN UPDATE SET queue_name = v.q
             WHEN NOT MATCHED THEN INSERT (id, task_identifier, queue_name) VALUES (v.id, 'x', v.q)",
        )
        .await;
    }
}

#[tokio::test]
async fn job_queues_follows_truncate_and_copy() {
    let db = database().await;
    let s = Session::open(&db).await;
    // The server reads the rows itself, which fires the same triggers as COPY from a client.
    let rows = r"x\tq1\nx\tq1\nx\tq2\nx\t\\N\n";
    s.run(&format!("COPY app_jobs.jobs (task_identifier, queue_name) FROM PROGRAM $$printf '{rows}'$$")).await;
    assert_eq!(s.show("SELECT queue_name, job_count FROM app_jobs.job_queues ORDER BY 1").await, "q1|2\nq2|1");
    holds_after(&s, "TRUNCATE app_jobs.jobs").await;
    assert_eq!(s.show(ACTUAL).await, "");
    let id = s.add_job("'x', '{}', queue_name := 'q1'").await;
    assert_eq!(s.get_job("'worker'").await, Some(id), "the table works on after it");
}

#[tokio::test]
async fn a_lock_written_by_hand_holds_the_queue_and_lifting_it_frees_it() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.jobs (id, task_identifier, queue_name) VALUES (1, 'x', 'q'), (2, 'x', 'q')").await;
    s.run("UPDATE app_jobs.jobs SET locked_at = now(), locked_by = 'operator' WHERE id = 2").await;
    assert_eq!(s.get_job("'worker'").await, None);
    s.run("UPDATE app_jobs.jobs SET locked_at = NULL, locked_by = NULL WHERE id = 2").await;
    assert_eq!(s.get_job("'worker'").await, Some(1));
    s.run("DELETE FROM app_jobs.jobs WHERE id = 1").await;
    assert_eq!(s.get_job("'worker'").await, Some(2), "a running job removed by hand frees its queue");
}

#[tokio::test]
async fn updated_at_moves_with_every_update_and_created_at_never() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x'").await;
    let created = s.show("SELECT created_at FROM app_jobs.jobs").await;
    for update in [
        "UPDATE app_jobs.jobs SET priority = 5",
        "UPDATE app_jobs.jobs SET priority = priority",
        "UPDATE app_jobs.jobs SET created_at = '2001-01-01'",
        "UPDATE app_jobs.jobs SET created_at = NULL",
        "UPDATE app_jobs.jobs SET updated_at = '2001-01-01'",
        "UPDATE app_jobs.jobs SET updated_at = NULL",
        "UPDATE app_jobs.jobs SET updated_at = updated_at",
        "UPDATE app_jobs.jobs SET created_at = '2001-01-01', updated_at = '2031-01-01'",
        "SELECT app_jobs.reschedule_jobs('{1}', run_at := now())",
        "SELECT app_jobs.get_job('worker')",
        "SELECT app_jobs.release_jobs('worker')",
        "SELECT app_jobs.get_job('worker')",
        "SELECT app_jobs.fail_job('worker', 1, 'no')",
        "SELECT app_jobs.permanently_fail_jobs('{1}')",
        "UPDATE app_jobs.jobs SET key = 'k'",
        "SELECT app_jobs.add_job('x', '{}', 'k')",
        // Twice in one transaction, in which now() stands still.
        "BEGIN; UPDATE app_jobs.jobs SET priority = 6; UPDATE app_jobs.jobs SET priority = 7; COMMIT",
    ] {
        assert_eq!(id, 1);
        let before = s.show("SELECT updated_at FROM app_jobs.jobs").await;
        s.run(update).await;
        assert!(s.is(&format!("SELECT updated_at > '{before}' FROM app_jobs.jobs")).await, "updated_at after {update}");
        assert_eq!(s.show("SELECT created_at FROM app_jobs.jobs").await, created, "created_at after {update}");
    }
    s.run("BEGIN; UPDATE app_jobs.jobs SET priority = 8").await;
    let first = s.show("SELECT updated_at FROM app_jobs.jobs").await;
    s.run("UPDATE app_jobs.jobs SET priority = 9").await;
    assert!(s.is(&format!("SELECT updated_at > '{first}' FROM app_jobs.jobs")).await, "within one transaction, too");
    s.run("COMMIT").await;
}

#[tokio::test]
async fn an_id_may_be_given_by_hand_and_nothing_in_the_schema_but_these_has_locks() {
    let db = database().await;
    let s = Session::open(&db).await;
    for table in ["jobs (id, task_identifier)", "scheduled_jobs (id, schedule_info, task_identifier)"] {
        let values = if table.starts_with("jobs") { "77, 'x'" } else { "77, '{}', 'x'" };
        s.run(&format!("INSERT INTO app_jobs.{table} VALUES ({values})")).await;
    }
    assert_eq!(s.get_job("'worker'").await, Some(77));
    let kinds = s
        .show(
            "SELECT string_agg(concat_ws(' ', c.relname, c.relkind), ', ' ORDER BY c.relname) FROM pg_class c
               JOIN pg_attribute a ON a.attrelid = c.oid
              WHERE c.relnamespace = 'app_jobs'::regnamespace AND a.attname = 'locked_at' AND c.relkind <> 'i'",
        )
        .await;
    assert_eq!(kinds, "job_queues v, jobs r, scheduled_jobs r");
}

#[tokio::test]
async fn the_columns_that_others_read_have_the_contracts_names_and_types() {
    let db = database().await;
    let s = Session::open(&db).await;
    let columns = async |table: &str| {
        s.show(&format!(
            "SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN '!' END), ', '
                    ORDER BY attnum) FROM pg_attribute
              WHERE attrelid = 'app_jobs.{table}'::regclass AND attnum > 0 AND NOT attisdropped"
        ))
        .await
    };
    let jobs = columns("jobs").await;
    assert!(
        jobs.starts_with(
            "id bigint !, database_id uuid, actor_id uuid, queue_name text, task_identifier text !, payload json !, \
             priority integer !, run_at timestamp with time zone !, attempts integer !, max_attempts integer !, key text, \
             last_error text, locked_at timestamp with time zone, locked_by text, created_at timestamp with time zone !, \
             updated_at timestamp with time zone !"
        ),
        "{jobs}"
    );
    let schedules = columns("scheduled_jobs").await;
    assert!(
        schedules.starts_with(
            "id bigint !, database_id uuid, actor_id uuid, queue_name text, task_identifier text !, payload json !, \
             priority integer !, max_attempts integer !, key text, locked_at timestamp with time zone, locked_by text, \
             schedule_info json !, last_scheduled timestamp with time zone, last_scheduled_id bigint"
        ),
        "{schedules}"
    );
    assert_eq!(
        columns("job_queues").await,
        "queue_name text, job_count integer, locked_at timestamp with time zone, locked_by text"
    );
    let identity = "SELECT string_agg(attidentity::text, '') FROM pg_attribute
                     WHERE attrelid IN ('app_jobs.jobs'::regclass, 'app_jobs.scheduled_jobs'::regclass) AND attname = 'id'";
    assert_eq!(s.show(identity).await, "dd", "GENERATED BY DEFAULT");
    for table in ["jobs (task_identifier, key)", "scheduled_jobs (schedule_info, task_identifier, key)"] {
        let info = if table.starts_with('s') { "'{}', " } else { "" };
        let insert = format!("INSERT INTO app_jobs.{table} VALUES ({info}'x', 'same')");
        s.run(&insert).await;
        assert_eq!(s.error(&insert).await.code().code(), "23505", "keys of {table} are unique");
    }
}
