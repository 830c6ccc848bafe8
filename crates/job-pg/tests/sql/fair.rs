//! Fairness: tenants share the run time by their weights, whatever runs, ends, dies or comes back. A simulated clock:
//! time passes for a job that runs by moving its lock back.

use job_testkit::TestDb;

use crate::sql::gates::claim;
use crate::sql::support::{Session, database};

pub(crate) const A: &str = "00000000-0000-0000-0000-00000000000a";
pub(crate) const B: &str = "00000000-0000-0000-0000-00000000000b";
pub(crate) const C: &str = "00000000-0000-0000-0000-00000000000c";

/// A worker with so many slots that runs jobs for so many seconds, each as long as its payload says. used has what each
/// tenant's jobs have run.
const SIMULATION: &str = "
    CREATE TABLE public.used (tenant text, seconds float8);
    CREATE PROCEDURE public.simulate(slots int, seconds float8) LANGUAGE plpgsql AS $$
    DECLARE
        passed float8 := 0;
        step float8;
        free int;
    BEGIN
        LOOP
            free := slots - (SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL);
            IF free > 0 THEN
                PERFORM app_jobs_internal.claim_instance_jobs(NULL, 'worker', '{}', NULL, free, NULL);
                COMMIT;
            END IF;
            step := (SELECT greatest(min((payload ->> 's')::float8 - extract(epoch FROM clock_timestamp() - locked_at)), 0.5)
                       FROM app_jobs.jobs WHERE locked_at IS NOT NULL);
            EXIT WHEN step IS NULL OR passed + step > seconds;
            passed := passed + step;
            UPDATE app_jobs.jobs SET locked_at = locked_at - make_interval(secs => step) WHERE locked_at IS NOT NULL;
            COMMIT;
            WITH done AS (
                DELETE FROM app_jobs.jobs j WHERE locked_at IS NOT NULL
                   AND clock_timestamp() - locked_at >= make_interval(secs => (payload ->> 's')::float8)
                RETURNING *)
            INSERT INTO public.used
            SELECT coalesce(database_id::text, ''), extract(epoch FROM clock_timestamp() - locked_at) FROM done;
            COMMIT;
        END LOOP;
    END $$;
    SELECT app_jobs.set_fair('tenant', true)";

/// What each has used, and what its jobs that run have.
const USED: &str = "SELECT u.tenant, sum(u.seconds) FROM (
        SELECT tenant, seconds FROM public.used
        UNION ALL
        SELECT coalesce(database_id::text, ''), extract(epoch FROM clock_timestamp() - locked_at)
          FROM app_jobs.jobs WHERE locked_at IS NOT NULL) u GROUP BY u.tenant ORDER BY u.tenant";

pub(crate) async fn simulation() -> (TestDb, Session) {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(SIMULATION).await;
    (db, s)
}

/// Jobs of a tenant that take so many seconds each; an empty name is none.
pub(crate) async fn backlog(s: &Session, tenant: &str, jobs: usize, seconds: f64) {
    s.run(&format!(
        "INSERT INTO app_jobs.jobs (task_identifier, payload, database_id)
         SELECT 't', '{{\"s\": {seconds}}}', nullif('{tenant}', '')::uuid FROM generate_series(1, {jobs})"
    ))
    .await;
}

/// What each tenant has used, by name, since the last call.
async fn used(s: &Session) -> Vec<(String, f64)> {
    let shown = s.show(USED).await;
    s.run(
        "DELETE FROM public.used; INSERT INTO public.used
         SELECT coalesce(database_id::text, ''), -extract(epoch FROM clock_timestamp() - locked_at)
           FROM app_jobs.jobs WHERE locked_at IS NOT NULL",
    )
    .await;
    shown
        .lines()
        .map(|line| line.split_once('|').map(|(name, used)| (name.to_owned(), used.parse().unwrap())).unwrap())
        .collect()
}

/// The share of each is what it should be, within a twentieth.
fn assert_shares(used: &[(String, f64)], weights: &[(&str, f64)]) {
    let all: f64 = used.iter().map(|(_, used)| used).sum();
    let weight: f64 = weights.iter().map(|(_, weight)| weight).sum();
    for (tenant, own) in weights {
        let of_tenant = used.iter().find(|(name, _)| name == tenant).map_or(0.0, |(_, used)| *used);
        let error = (of_tenant / all) / (own / weight) - 1.0;
        assert!(error.abs() <= 0.05, "{tenant} is {:.1} % off its share: {used:?}", error * 100.0);
    }
}

/// The tenant of the job that get_job claims: the last letter of its name.
pub(crate) async fn next(s: &Session) -> String {
    s.show("SELECT right(coalesce(database_id::text, '-'), 1) FROM app_jobs.get_job('worker')").await
}

#[tokio::test]
async fn tenants_share_the_run_time_by_their_weights_however_long_their_jobs_are() {
    let (_db, s) = simulation().await;
    s.run(&format!("SELECT app_jobs.set_weight('tenant', '{C}', 3)")).await;
    backlog(&s, A, 100, 40.0).await;
    backlog(&s, B, 700, 4.0).await;
    backlog(&s, C, 600, 12.0).await;
    backlog(&s, "", 400, 8.0).await;
    s.run("CALL public.simulate(8, 600)").await;
    assert_shares(&used(&s).await, &[(A, 1.0), (B, 1.0), (C, 3.0), ("", 1.0)]);
    s.run(&format!("SELECT app_jobs.set_weight('tenant', '{C}', NULL), app_jobs.set_weight('tenant', '{A}', 2)")).await;
    // What runs already had its turns by the weights of before.
    s.run("CALL public.simulate(8, 60)").await;
    used(&s).await;
    s.run("CALL public.simulate(8, 500)").await;
    assert_shares(&used(&s).await, &[(A, 2.0), (B, 1.0), (C, 1.0), ("", 1.0)]);
}

#[tokio::test]
async fn twenty_tenants_share_the_run_time_whatever_their_backlogs_are() {
    let (_db, s) = simulation().await;
    let tenants: Vec<String> = (0..20).map(|n| format!("00000000-0000-0000-0000-0000000000{:02x}", n + 16)).collect();
    for (n, tenant) in tenants.iter().enumerate() {
        backlog(&s, tenant, if n == 0 { 3000 } else { 300 }, if n % 2 == 0 { 20.0 } else { 2.0 }).await;
    }
    s.run("CALL public.simulate(40, 100)").await;
    let used = used(&s).await;
    let least = used.iter().map(|(_, used)| *used).fold(f64::MAX, f64::min);
    let most = used.iter().map(|(_, used)| *used).fold(0.0, f64::max);
    // 200 s for each, but for what its jobs take that ran at the beginning, when nobody knew how long they are.
    assert!(used.len() == 20 && least >= 150.0 && most <= 250.0, "{used:?}");
}

#[tokio::test]
async fn who_was_idle_has_neither_saved_up_run_time_nor_owes_any() {
    let (_db, s) = simulation().await;
    backlog(&s, B, 20, 4.0).await;
    s.run("CALL public.simulate(8, 20)").await;
    backlog(&s, A, 1000, 10.0).await;
    s.run("CALL public.simulate(8, 400)").await;
    used(&s).await;
    // B was idle for 400 s.
    backlog(&s, B, 600, 4.0).await;
    backlog(&s, C, 200, 10.0).await;
    s.run("CALL public.simulate(8, 20)").await;
    used(&s).await;
    s.run("CALL public.simulate(8, 480)").await;
    assert_shares(&used(&s).await, &[(A, 1.0), (B, 1.0), (C, 1.0)]);
}

#[tokio::test]
async fn a_job_of_a_small_tenant_passes_any_backlog_and_a_running_job_counts_while_it_runs() {
    let (_db, s) = simulation().await;
    backlog(&s, A, 2000, 10.0).await;
    for _ in 0..5 {
        assert_eq!(next(&s).await, "a");
    }
    backlog(&s, B, 3, 1.0).await;
    backlog(&s, "", 3, 1.0).await;
    let mut turns = Vec::new();
    for _ in 0..6 {
        turns.push(next(&s).await);
    }
    turns.sort();
    assert_eq!(turns.concat(), "---bbb", "A runs five already");
    // One that runs for an hour by now outweighs all of those.
    s.run("UPDATE app_jobs.jobs SET locked_at = locked_at - interval '1 hour' WHERE database_id IS NULL AND locked_at IS NOT NULL")
        .await;
    backlog(&s, "", 9, 1.0).await;
    for _ in 0..30 {
        assert_eq!(next(&s).await, "a");
    }
}

#[tokio::test]
async fn what_a_job_has_run_counts_however_it_ends() {
    let (_db, s) = simulation().await;
    for end in [
        "complete_job('worker', j.id)",
        "fail_job('worker', j.id, 'no')",
        "release_jobs('worker')",
        "force_unlock_workers('{worker}')",
        "",
    ] {
        s.run("DELETE FROM app_jobs.jobs; DELETE FROM app_jobs.gate_usage_log; DELETE FROM app_jobs.gate_usage").await;
        backlog(&s, A, 1, 1.0).await;
        assert_eq!(next(&s).await, "a");
        s.run("UPDATE app_jobs.jobs SET locked_at = locked_at - interval '50 seconds'").await;
        s.run(&match end {
            "" => "DELETE FROM app_jobs.jobs".to_owned(),
            end => {
                format!("SELECT FROM app_jobs.jobs j CROSS JOIN LATERAL app_jobs.{end} e WHERE j.locked_at IS NOT NULL")
            }
        })
        .await;
        let logged = "SELECT round(sum(seconds)), sum(ended), sum(running), abs(sum(since)) < 10
                        FROM app_jobs.gate_usage_log WHERE name <> '*'";
        assert_eq!(s.show(logged).await, "50|1|0|t", "{end}");
    }
}

#[tokio::test]
async fn what_a_worker_has_measured_counts_and_not_how_long_the_job_was_locked() {
    let (_db, s) = simulation().await;
    backlog(&s, A, 3, 1.0).await;
    s.run("SELECT app_jobs_internal.claim_jobs('worker', NULL, 3, NULL)").await;
    s.run("UPDATE app_jobs.jobs SET locked_at = locked_at - interval '50 seconds'").await;
    s.run(
        "SELECT app_jobs_internal.complete_held_jobs(array_agg(id), array_agg('worker'::text), array_agg(epoch))
           FROM (SELECT * FROM app_jobs.jobs ORDER BY id LIMIT 1) j,
                (SELECT set_config('jobs.run_times', '{\"1\": 2.5}', true)) m",
    )
    .await;
    s.run(
        "SELECT app_jobs_internal.release_held_jobs(instance, array_agg(id), array_agg(epoch))
           FROM (SELECT * FROM app_jobs.jobs ORDER BY id LIMIT 1) j GROUP BY instance",
    )
    .await;
    // Nobody is charged more than the time that the job was locked.
    s.run(
        "SELECT app_jobs_internal.end_held_jobs(ARRAY[id], ARRAY['worker'], ARRAY[epoch], '{no}', '{0}', '{t}', '{f}')
           FROM app_jobs.jobs j, (SELECT set_config('jobs.run_times', '{\"3\": 1e9}', true)) m WHERE id = 3",
    )
    .await;
    let logged =
        "SELECT round(sum(seconds)::numeric, 1) FROM app_jobs.gate_usage_log WHERE ended > 0 GROUP BY xid ORDER BY xid";
    let logged = s.show(logged).await;
    assert!(logged.starts_with("2.5\n") && logged.contains("\n50"), "{logged}");
}

#[tokio::test]
async fn whatever_is_at_it_at_once_all_that_was_used_is_added_up_once() {
    let (db, s) = simulation().await;
    for tenant in [A, B, C, ""] {
        backlog(&s, tenant, 150, 1.0).await;
    }
    // Somebody's old snapshot, and a transaction that has begun before all that follows and ends after it.
    let (snapshot, late) = (Session::open(&db).await, Session::open(&db).await);
    snapshot.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM app_jobs.jobs").await;
    late.run("BEGIN").await;
    assert!(late.get_job("'late'").await.is_some());
    late.run("UPDATE app_jobs.jobs SET locked_at = locked_at - interval '1 second' WHERE locked_by = 'late'").await;
    late.run("SELECT app_jobs.complete_job('late', id) FROM app_jobs.jobs WHERE locked_by = 'late'").await;
    let work = async |name: &'static str| {
        let own = Session::open(&db).await;
        loop {
            let ids = claim(&own, &format!("'{name}', NULL, 7, NULL")).await;
            if ids.is_empty() {
                return;
            }
            own.run(&format!(
                "UPDATE app_jobs.jobs SET locked_at = locked_at - interval '1 hour' WHERE locked_by = '{name}';
                 SELECT set_config('jobs.run_times', (SELECT json_object_agg(id, 1) FROM app_jobs.jobs)::text, false);
                 SELECT app_jobs_internal.complete_held_jobs(array_agg(id), array_agg(locked_by), array_agg(epoch))
                   FROM app_jobs.jobs WHERE locked_by = '{name}'"
            ))
            .await;
        }
    };
    tokio::join!(work("one-"), work("two-"), work("three"), work("four"));
    late.run("COMMIT").await;
    assert_eq!(s.show("SELECT * FROM app_jobs.jobs").await, "");
    s.run(
        "UPDATE app_jobs.gate_usage SET recounted_at = NULL WHERE name = '*'; SELECT app_jobs_internal.add_up_usage()",
    )
    .await;
    s.run("SELECT app_jobs_internal.add_up_usage()").await;
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.gate_usage_log").await, 0);
    let sums =
        "SELECT count(*), round(sum(served)), sum(running), sum(since) FROM app_jobs.gate_usage WHERE name <> '*'";
    let sums = s.show(sums).await;
    let lifted = s.number("SELECT round(sum(served)) FROM app_jobs.gate_usage WHERE name <> '*'").await;
    assert!((600..660).contains(&lifted) && sums.starts_with("4|") && sums.ends_with("|0|0"), "{sums}");
}

#[tokio::test]
async fn how_many_run_is_recounted_where_triggers_were_off() {
    let (_db, s) = simulation().await;
    backlog(&s, A, 20, 1.0).await;
    assert_eq!(claim(&s, "'worker', NULL, 10, NULL").await.len(), 10);
    s.run(
        "SET session_replication_role = replica; DELETE FROM app_jobs.jobs WHERE locked_at IS NOT NULL AND id % 2 = 0;
         SET session_replication_role = origin;
         SELECT app_jobs_internal.add_up_usage()",
    )
    .await;
    s.run("UPDATE app_jobs.gate_usage SET recounted_at = now() - interval '2 minutes' WHERE name = '*'").await;
    s.run("SELECT app_jobs_internal.add_up_usage()").await;
    let running = "SELECT running FROM app_jobs.gate_usage WHERE name <> '*'";
    assert_eq!(
        s.number(running).await,
        s.number("SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await
    );
}

#[tokio::test]
async fn of_more_than_a_thousand_tenants_none_waits_for_ever() {
    let (_db, s) = simulation().await;
    s.run(
        "INSERT INTO app_jobs.jobs (task_identifier, database_id)
         SELECT 't', md5(t::text)::uuid FROM generate_series(1, 2500) t CROSS JOIN generate_series(1, 4) n",
    )
    .await;
    for _ in 0..50 {
        assert_eq!(claim(&s, "'worker', NULL, 100, NULL").await.len(), 100);
    }
    let started = "SELECT count(DISTINCT database_id) FROM app_jobs.jobs WHERE locked_at IS NOT NULL";
    assert_eq!(s.number(started).await, 2500);
    let one_by_one = async |n| {
        for _ in 0..n {
            assert!(s.get_job("'worker'").await.is_some());
        }
    };
    s.run("SELECT app_jobs.release_jobs('worker')").await;
    s.run("SELECT app_jobs.set_fair('tenant', false), app_jobs.set_fair('tenant', true)").await;
    one_by_one(6).await;
    let positions = "SELECT count(DISTINCT database_id > '80000000-0000-0000-0000-000000000000') FROM app_jobs.jobs WHERE locked_at IS NOT NULL";
    assert_eq!(s.number(positions).await, 2, "get_job goes on where the session's last one ended");
}

#[tokio::test]
async fn what_waits_when_fairness_is_set_and_lifted_starts_and_nothing_is_left() {
    let db = database().await;
    let s = Session::open(&db).await;
    for tenant in [A, B, ""] {
        backlog(&s, tenant, 40, 1.0).await;
    }
    assert_eq!(claim(&s, "'worker', NULL, 5, NULL").await.len(), 5);
    assert_eq!(s.show("SELECT DISTINCT gate_key FROM app_jobs.jobs").await, "~");
    assert_eq!(s.show("SELECT * FROM app_jobs.gate_usage_log").await, "", "nothing is logged without fairness");
    s.run("SELECT app_jobs.set_fair('tenant', true)").await;
    assert_eq!(s.show("SELECT kind, name, fair FROM app_jobs.gates").await, "tenant|*|t");
    s.run("SELECT app_jobs.complete_job('worker', id) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await;
    assert_eq!(claim(&s, "'worker', NULL, 30, NULL").await.len(), 30);
    let shares = "SELECT string_agg(n::text, ' ') FROM (
        SELECT count(*) AS n FROM app_jobs.jobs WHERE locked_at IS NOT NULL GROUP BY database_id) c";
    assert_eq!(s.show(shares).await, "10 10 10");
    s.run("SELECT app_jobs.set_fair('tenant', false)").await;
    assert_eq!(s.show("SELECT name FROM app_jobs.gates UNION ALL SELECT name FROM app_jobs.gate_usage").await, "");
    let mut left = 0;
    loop {
        let ids = claim(&s, "'worker', NULL, 30, NULL").await;
        left += ids.len();
        if ids.is_empty() {
            break;
        }
    }
    assert_eq!(left, 85);
    s.run("SELECT app_jobs.complete_job('worker', id) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await;
    assert_eq!(s.show("SELECT * FROM app_jobs.gate_usage_log").await, "");
}

#[tokio::test]
async fn a_weight_alone_holds_nothing_back_and_hides_no_limit() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(&format!("SELECT app_jobs.set_weight('tenant', '{A}', 2.5)")).await;
    backlog(&s, A, 5, 1.0).await;
    assert_eq!(claim(&s, "'worker', NULL, 2, NULL").await.len(), 2);
    assert_eq!(s.show("SELECT DISTINCT gate_key FROM app_jobs.jobs").await, "~");
    s.run("SELECT app_jobs.set_limit('tenant', '*', max_running => 3)").await;
    assert_eq!(claim(&s, "'worker', NULL, 3, NULL").await.len(), 1);
    s.run("SELECT app_jobs.set_fair('tenant', true)").await;
    assert_eq!(claim(&s, "'worker', NULL, 3, NULL").await, [] as [i64; 0], "nor does fairness");
    backlog(&s, "", 5, 1.0).await;
    assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 5, "jobs without a tenant have no limit");
    s.run(&format!("SELECT app_jobs.set_limit('tenant', '*'), app_jobs.set_weight('tenant', '{A}', NULL)")).await;
    assert_eq!(s.show("SELECT name, fair, weight FROM app_jobs.gates").await, "*|t|~");
    assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 2);
}

#[tokio::test]
async fn an_open_transaction_of_get_job_does_not_keep_others_from_adding_up() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.set_fair('tenant', true)").await;
    backlog(&s, A, 10, 1.0).await;
    s.run("SELECT app_jobs.get_job('worker-1')").await;
    other.run("BEGIN").await;
    assert!(other.get_job("'worker-2'").await.is_some());
    s.run(&format!("SELECT app_jobs_internal.claim_instance_jobs('{A}', 'worker-1', '{{1}}', NULL, 1, '4 h')")).await;
    assert!(s.is("SELECT EXISTS (SELECT FROM app_jobs.gate_usage)").await);
    other.run("COMMIT").await;
}
