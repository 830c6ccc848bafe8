//! Fairness and named queues: whose turn it is never changes the order of a queue's jobs.

use crate::sql::fair::{A, B, C, backlog, next, simulation};
use crate::sql::gates::claim;
use crate::sql::support::Session;

#[tokio::test]
async fn a_queue_with_jobs_of_several_tenants_keeps_its_order_and_a_closed_tenant_holds_up_no_other() {
    let (_db, s) = simulation().await;
    // A is far ahead of the others.
    backlog(&s, A, 5, 1.0).await;
    assert_eq!(claim(&s, "'worker', NULL, 5, NULL").await.len(), 5);
    s.run("UPDATE app_jobs.jobs SET locked_at = locked_at - interval '1 hour'").await;
    s.run(&format!(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, database_id) VALUES
            ('t', 'q', '{A}'), ('t', 'q', '{B}'), ('t', 'q', NULL), ('t', 'q', '{A}'), ('t', NULL, '{C}')"
    ))
    .await;
    let mut order = Vec::new();
    for _ in 0..5 {
        order.push(next(&s).await);
        s.run("SELECT app_jobs.complete_job('worker', id) FROM app_jobs.jobs WHERE locked_at IS NOT NULL AND id > 5")
            .await;
    }
    order.retain(|tenant| tenant != "c");
    assert_eq!(order, ["a", "b", "-", "a"]);
    s.run(&format!(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, database_id) VALUES ('t', 'q', '{A}'), ('t', 'q', '{B}');
         SELECT app_jobs.pause('tenant', '{A}')"
    ))
    .await;
    assert_eq!(next(&s).await, "b");
}

/// A tenant that is far ahead of the others, with nothing left to do.
async fn served(s: &Session, tenant: &str) {
    backlog(s, tenant, 5, 1.0).await;
    assert_eq!(claim(s, "'worker', NULL, 5, NULL").await.len(), 5);
    s.run("UPDATE app_jobs.jobs SET locked_at = locked_at - interval '1 hour'").await;
    s.run("SELECT app_jobs.complete_job('worker', id) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await;
}

/// The payloads of the jobs that a claim takes, in the order of their ids.
async fn claimed(s: &Session, arguments: &str) -> String {
    s.show(&format!(
        "SELECT string_agg(payload #>> '{{}}', ' ' ORDER BY id)
           FROM app_jobs_internal.claim_instance_jobs(NULL, 'worker', '{{}}', {arguments})"
    ))
    .await
}

#[tokio::test]
async fn a_tenants_first_job_that_the_worker_does_not_take_lends_its_place_to_no_other() {
    let (_db, s) = simulation().await;
    s.run(&format!(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, database_id, priority, payload) VALUES
            ('other', 'q', NULL, 0, '\"other\"'), ('t', 'q', NULL, 2, '\"later\"'), ('t', 'q', '{A}', 1, '\"first\"')"
    ))
    .await;
    assert_eq!(claimed(&s, "'{t}', 1, NULL").await, "first");
}

#[tokio::test]
async fn in_a_queue_of_several_at_once_a_tenant_whose_turn_comes_sooner_waits_for_the_jobs_before_its_own() {
    let (_db, s) = simulation().await;
    served(&s, A).await;
    s.run(&format!(
        "SELECT app_jobs.set_limit('queue', 'q', 3);
         INSERT INTO app_jobs.jobs (task_identifier, queue_name, database_id, priority, payload) VALUES
            ('t', 'q', '{A}', 0, '\"first\"'), ('t', 'q', '{B}', 1, '\"second\"'), ('t', NULL, '{B}', 2, '\"free\"'),
            ('t', NULL, '{B}', 2, '\"free\"'), ('t', NULL, '{B}', 2, '\"free\"')"
    ))
    .await;
    assert_eq!(claimed(&s, "NULL, 3, NULL").await, "free free free");
    assert_eq!(claimed(&s, "NULL, 3, NULL").await, "first second");
}

#[tokio::test]
async fn what_has_become_due_or_whose_lock_has_expired_is_not_passed_by_a_later_job_of_its_queue() {
    let (_db, s) = simulation().await;
    s.run(&format!(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, database_id, priority, payload, run_at) VALUES
            ('t', 'q', '{A}', 0, '\"first\"', clock_timestamp() + interval '200 ms'),
            ('t', 'q', '{B}', 1, '\"second\"', now() - interval '1 second')"
    ))
    .await;
    s.run("SELECT pg_sleep_until(max(run_at)) FROM app_jobs.jobs").await;
    // Not from the start, as most claims are.
    let ahead = "NULL, 1, NULL, NULL, false, '{}', '{}', '{}'";
    assert_eq!(claimed(&s, ahead).await, "first");
    s.run("UPDATE app_jobs.jobs SET locked_at = locked_at - interval '5 hours' WHERE locked_at IS NOT NULL").await;
    assert_eq!(claimed(&s, ahead).await, "first");
}

#[tokio::test]
async fn a_job_that_others_leave_its_turn_to_passes_no_earlier_one_of_its_queue_that_has_another_gate() {
    let (db, s) = simulation().await;
    s.run(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, priority, payload) VALUES
            ('t', 'p', 0, '\"p1\"'), ('t', 'p', 0, '\"p2\"'), ('t', 'p', 0, '\"p3\"'),
            ('t', 'q', 1, '\"q1\"'), ('t', 'q', 1, '\"q2\"'), ('t', 'q', 1, '\"q3\"'),
            ('t', NULL, -1, '\"free\"'), ('t', NULL, -1, '\"free\"');
         UPDATE app_jobs.jobs SET gate_key = 'queue' || quote_literal(queue_name) WHERE payload #>> '{}' ~ '2'",
    )
    .await;
    let holder = Session::open(&db).await;
    holder.run("BEGIN; SELECT FROM app_jobs.jobs WHERE payload #>> '{}' ~ '1' FOR UPDATE").await;
    // Three have their turn, the last one p3. It waits for p2, which is only being put in its place; then it is q3's.
    assert_eq!(claimed(&s, "NULL, 3, NULL").await, "free free");
    assert_eq!(claimed(&s, "NULL, 3, NULL").await, "p2 q2");
}
