//! Random plans of everything that changes what may start: no limit is ever exceeded, and what may start is claimed.

use fastrand::Rng;

use crate::sql::gates::claim;
use crate::sql::support::{Session, database};

const TENANTS: [&str; 3] = ["'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0000-0000-000000000002'", "NULL"];

/// For each gate of a job what is set for it, how many of its jobs run and what is left in its bucket, told from the
/// tables alone.
const GATES_OF_JOBS: &str = "
    SELECT j.id, j.locked_at IS NOT NULL AS runs, n.kind, n.name,
           coalesce(g.max_running, CASE n.kind WHEN 'queue' THEN 1 END) AS most,
           (SELECT count(*) FROM app_jobs.jobs r
             WHERE r.locked_at IS NOT NULL AND n.name = CASE n.kind WHEN 'task' THEN r.task_identifier
                   WHEN 'queue' THEN r.queue_name
                   WHEN 'host' THEN (SELECT h.host FROM app_jobs.task_hosts h WHERE h.task = r.task_identifier)
                   ELSE r.database_id::text END) AS running,
           g.burst - coalesce((SELECT extract(epoch FROM greatest(t.full_at - now(), '0')) FROM app_jobs.gate_tokens t
                                WHERE t.kind = n.kind AND t.name = n.name), 0) * g.rate / extract(epoch FROM g.per)
               AS tokens,
           g.paused_at IS NOT NULL AND coalesce(g.paused_until > now(), true) AS paused
      FROM app_jobs.jobs j
     CROSS JOIN LATERAL (VALUES ('task', j.task_identifier), ('queue', j.queue_name),
                                ('tenant', j.database_id::text),
                                ('host', (SELECT h.host FROM app_jobs.task_hosts h
                                           WHERE h.task = j.task_identifier))) AS n (kind, name)
      LEFT JOIN LATERAL (
           SELECT * FROM app_jobs.gates g
            WHERE g.kind = n.kind AND g.name IN (n.name, '*')
              AND (g.max_running IS NOT NULL OR g.rate IS NOT NULL OR g.paused_at IS NOT NULL)
            ORDER BY g.name = '*' LIMIT 1) g ON true
     WHERE n.name IS NOT NULL";

/// One random change.
async fn step(s: &Session, rng: &mut Rng) -> String {
    let tenant = TENANTS[rng.usize(..3)];
    let (kind, name) = match rng.u8(..4) {
        0 => ("task", ["'a'", "'b'", "'*'"][rng.usize(..3)]),
        1 => ("queue", ["'q'", "'r'", "'*'"][rng.usize(..3)]),
        2 => ("host", ["'http://h:1'", "'http://i'", "'*'"][rng.usize(..3)]),
        _ => ("tenant", [TENANTS[0], TENANTS[1], "'*'"][rng.usize(..3)]),
    };
    let (kind, name) = if rng.u8(..12) == 0 { ("all", "NULL") } else { (kind, name) };
    let running = "(SELECT id FROM app_jobs.jobs WHERE locked_at IS NOT NULL ORDER BY md5(id::text) LIMIT 1)";
    let sql = match rng.u8(..15) {
        0..5 => format!(
            "INSERT INTO app_jobs.jobs (task_identifier, queue_name, database_id, priority, run_at)
             VALUES ('{}', {}, {tenant}, {}, now() + {} * interval '1 hour')",
            ["a", "b", "c"][rng.usize(..3)],
            ["'q'", "'r'", "NULL", "NULL"][rng.usize(..4)],
            rng.u8(..3),
            rng.u8(..5) / 4,
        ),
        5..7 => format!("SELECT FROM app_jobs.complete_job('worker', {running})"),
        7 => format!("SELECT FROM app_jobs.fail_job('worker', {running}, 'no')"),
        8 => "UPDATE app_jobs.jobs SET run_at = now() WHERE run_at > now()".to_owned(),
        9..11 if kind != "all" => {
            let max = ["NULL", "1", "2", "3"][rng.usize(..4)];
            let rate = ["NULL", "1, '1 day', 2", "3, '1 day', 5"][rng.usize(..3)];
            format!("SELECT app_jobs.set_limit('{kind}', {name}, {max}, {rate})")
        }
        11 => format!("SELECT app_jobs.pause('{kind}', {name})"),
        12 => format!("SELECT app_jobs.resume('{kind}', {name})"),
        14 => format!(
            "SELECT app_jobs.set_fair('tenant', {}), app_jobs.set_weight('tenant', {}, 2)",
            rng.bool(),
            TENANTS[0]
        ),
        13 if rng.u8(..4) == 0 => "DELETE FROM app_jobs.gates; DELETE FROM app_jobs.gate_tokens".to_owned(),
        _ => "SELECT app_jobs.resume('all', NULL)".to_owned(),
    };
    s.run(&sql).await;
    sql
}

#[tokio::test]
async fn whatever_is_done_no_limit_is_exceeded_and_what_may_start_is_claimed() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs_internal.tell_task_hosts('{a,b,c}', '{http://h:1,http://h:1,http://i}')").await;
    let (mut started, mut held) = (0, 0);
    for seed in 0..25 {
        let mut rng = Rng::with_seed(seed);
        let mut plan = Vec::new();
        s.run("DELETE FROM app_jobs.jobs; DELETE FROM app_jobs.gates; DELETE FROM app_jobs.gate_tokens").await;
        for _ in 0..60 {
            plan.push(step(&s, &mut rng).await);
            if rng.bool() {
                continue;
            }
            let to_the_end = rng.bool();
            loop {
                let ids = claim(&s, &format!("'worker', NULL, {}, NULL", rng.u8(1..5))).await;
                started += ids.len();
                if ids.is_empty() {
                    break;
                }
                plan.push(format!("{ids:?} are claimed"));
                let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
                let over = format!(
                    "SELECT * FROM ({GATES_OF_JOBS}) g
                      WHERE id IN ({}) AND (running > most OR tokens < -0.001 OR paused)",
                    ids.join(", ")
                );
                let over = s.show(&over).await;
                assert_eq!(over, "", "over a limit, seed {seed}:\n{}", plan.join("\n"));
                if !to_the_end {
                    break;
                }
            }
            if to_the_end {
                let may_start = format!(
                    "SELECT id FROM ({GATES_OF_JOBS}) g JOIN app_jobs.jobs j USING (id)
                      WHERE NOT runs AND j.run_at <= now() AND j.attempts < j.max_attempts
                        AND NOT EXISTS (SELECT FROM app_jobs.gates WHERE kind = 'all' AND paused_at IS NOT NULL)
                      GROUP BY id
                     HAVING NOT bool_or(paused) AND NOT coalesce(bool_or(running >= most), false)
                            AND NOT coalesce(bool_or(tokens < 0.999), false)"
                );
                let left = s.show(&may_start).await;
                assert_eq!(left, "", "nothing claims them, seed {seed}:\n{}", plan.join("\n"));
                held +=
                    s.number("SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NULL AND run_at <= now()").await;
            }
        }
    }
    assert!(started > 150 && held > 150, "{started} jobs started, {held} were held back");
}
