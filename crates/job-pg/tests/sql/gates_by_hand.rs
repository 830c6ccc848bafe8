//! Rows of gates that nobody wrote by set_limit: they hold as exactly, and what is no limit is refused.

use crate::sql::support::{Session, database};

const CLAIM: &str = "SELECT count(*) FROM app_jobs_internal.claim_jobs('worker', NULL, 100, '4 hours')";

/// As if the limit had been set long ago.
const LONG_AGO: &str = "UPDATE app_jobs.gates SET set_at = now() - interval '1 hour' WHERE set_at <> 'infinity'";

#[tokio::test]
async fn a_limit_that_is_written_by_hand_counts_what_runs_already_for_good() {
    let db = database().await;
    let s = Session::open(&db).await;
    let tenant = "6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11";
    for (kind, name) in [("task", "t"), ("task", "*"), ("tenant", tenant), ("tenant", "*")] {
        for role in ["origin", "replica"] {
            s.run("DELETE FROM app_jobs.jobs; DELETE FROM app_jobs.gates").await;
            let add = format!(
                "INSERT INTO app_jobs.jobs (task_identifier, database_id) SELECT 't', '{tenant}' FROM generate_series(1, 3)"
            );
            s.run(&add).await;
            assert_eq!(s.number(CLAIM).await, 3);
            s.run(&add).await;
            s.run(&add).await;
            let insert = format!("INSERT INTO app_jobs.gates (kind, name, max_running) VALUES ('{kind}', '{name}', 4)");
            s.run(&format!("SET session_replication_role = {role}; {insert}; RESET session_replication_role")).await;
            s.run(LONG_AGO).await;
            assert_eq!((s.number(CLAIM).await, s.number(CLAIM).await), (1, 0), "{kind} {name} {role}");
            s.run("UPDATE app_jobs.gates SET max_running = 6").await;
            s.run(LONG_AGO).await;
            assert_eq!((s.number(CLAIM).await, s.number(CLAIM).await), (2, 0), "{kind} {name} {role}");
            s.run("DELETE FROM app_jobs.gates").await;
            assert_eq!(s.number(CLAIM).await, 3);
        }
    }
}

#[tokio::test]
async fn a_job_that_somebody_holds_counts_for_a_limit_that_is_written_by_hand() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier) SELECT 't' FROM generate_series(1, 2)").await;
    assert_eq!(s.number(CLAIM).await, 2);
    s.run("INSERT INTO app_jobs.jobs (task_identifier) SELECT 't' FROM generate_series(1, 2)").await;
    let holder = Session::open(&db).await;
    holder.run("BEGIN; SELECT FROM app_jobs.jobs WHERE id = 1 FOR UPDATE").await;
    s.run("INSERT INTO app_jobs.gates (kind, name, max_running) VALUES ('task', 't', 2)").await;
    s.run(LONG_AGO).await;
    assert_eq!(s.number(CLAIM).await, 0);
    holder.run("COMMIT").await;
    assert_eq!(s.number(CLAIM).await, 0);
    s.run("DELETE FROM app_jobs.jobs WHERE id = 1").await;
    assert_eq!((s.number(CLAIM).await, s.number(CLAIM).await), (1, 0));
}

#[tokio::test]
async fn a_limit_by_hand_waits_for_claims_under_way_and_one_that_is_lifted_does_not() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier) VALUES ('t'); SELECT app_jobs.set_limit('task', 'u', 3)").await;
    let claimer = Session::open(&db).await;
    claimer.run("BEGIN; SELECT app_jobs.get_job('worker')").await;
    let insert = "INSERT INTO app_jobs.gates (kind, name, max_running) VALUES ('task', 't', 1)";
    let error = s.error(insert).await;
    assert_eq!((error.code().code(), error.hint().is_some()), ("55P03", true));
    s.run(
        "DELETE FROM app_jobs.gates WHERE name = 'u'; SELECT app_jobs.pause('task', 't'), app_jobs.resume('task', 't')",
    )
    .await;
    claimer.run("COMMIT").await;
    s.run(insert).await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier) VALUES ('t')").await;
    assert_eq!(s.number(CLAIM).await, 0);
}

#[tokio::test]
async fn what_is_no_gate_is_refused() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (columns, values, constraint) in [
        ("kind, name", "'task', ''", "gates_name"),
        ("kind, name", "'tasks', 't'", "gates_kind"),
        ("kind, name", "'tenant', 'me'", "gates_tenant"),
        ("kind, name, max_running", "'task', 't', 0", "gates_max_running_positive"),
        ("kind, name, rate", "'task', 't', 1", "gates_rate"),
        ("kind, name, rate, per, burst", "'task', 't', 1, '1 us', 1", "gates_rate"),
        ("kind, name, rate, per, burst", "'task', 't', 1, '2 years', 1", "gates_rate"),
        ("kind, name, paused_until", "'task', 't', now()", "gates_paused"),
        ("kind, name, max_running", "'all', '', 1", "gates_all"),
    ] {
        let error = s.error(&format!("INSERT INTO app_jobs.gates ({columns}) VALUES ({values})")).await;
        assert_eq!((error.code().code(), error.constraint()), ("23514", Some(constraint)), "{values}");
    }
}
