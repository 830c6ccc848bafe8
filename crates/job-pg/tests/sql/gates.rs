//! pause, resume and set_limit: what they keep from starting and what they don't, and what they refuse.

use std::time::Duration;

use job_pg::{AdminDb, Gate, GateError, Limit, Rate, Timestamp};
use job_testkit::eventually;

use crate::sql::support::{Ear, LIMIT, Role, Session, database, handle};

const TENANT: &str = "7b0e6c2e-1111-4222-8333-944455566677";

/// A job of each kind of gate: of task `t`, of queue `q`, of [`TENANT`], and one of none of them.
async fn one_of_each(s: &Session) -> [i64; 4] {
    [
        s.add_job("'t'").await,
        s.add_job("'x', queue_name := 'q'").await,
        s.number(&format!(
            "INSERT INTO app_jobs.jobs (task_identifier, database_id) VALUES ('x', '{TENANT}') RETURNING id"
        ))
        .await,
        s.add_job("'x'").await,
    ]
}

/// What a claim of ten takes; again when it says that it has passed something by.
pub(crate) async fn claim(s: &Session, arguments: &str) -> Vec<i64> {
    let claim = format!(
        "BEGIN; SELECT id FROM app_jobs_internal.claim_jobs({arguments}) ORDER BY 1;
         SELECT current_setting('jobs.gate_skipped', true) = 'on'; COMMIT"
    );
    loop {
        let shown = match s.try_show(&claim).await {
            Ok(shown) => shown,
            // Another claim is just putting the same job in its place.
            Err(error) if error.code().is_some_and(|code| code.code() == "55P03") => {
                s.run("ROLLBACK").await;
                continue;
            }
            Err(error) => panic!("{error}: {:?}", error.as_db_error()),
        };
        let ids: Vec<i64> = shown.lines().filter_map(|line| line.parse().ok()).collect();
        if !ids.is_empty() || !shown.lines().any(|line| line == "t") {
            return ids;
        }
    }
}

async fn claim_all(s: &Session) -> Vec<i64> {
    let mut all = Vec::new();
    loop {
        let ids = claim(s, "'worker', NULL, 10, NULL").await;
        if ids.is_empty() {
            all.sort_unstable();
            return all;
        }
        all.extend(ids);
    }
}

#[tokio::test]
async fn a_pause_keeps_its_jobs_from_starting_and_nothing_else() {
    let db = database().await;
    let s = Session::open(&db).await;
    let [task, queue, tenant, _] = one_of_each(&s).await;
    for (kind, name, held) in [
        ("task", "'t'".to_owned(), Some(task)),
        ("queue", "'q'".to_owned(), Some(queue)),
        ("tenant", format!("'{{{}}}'", TENANT.to_uppercase()), Some(tenant)),
        ("queue", "'*'".to_owned(), Some(queue)),
        ("tenant", "'*'".to_owned(), Some(tenant)),
        ("all", "NULL".to_owned(), None),
    ] {
        let before = s.number("SELECT count(*) FROM app_jobs.jobs").await;
        s.run(&format!("SELECT app_jobs.pause('{kind}', {name}, reason => 'too much')")).await;
        let started = claim_all(&s).await;
        match held {
            Some(held) => assert!(started.len() == 3 && !started.contains(&held), "{kind}: {started:?}"),
            None => assert_eq!(started, [] as [i64; 0]),
        }
        let row = "SELECT kind, paused_at <= now(), paused_until, reason FROM app_jobs.gates";
        assert_eq!(s.show(row).await, format!("{kind}|t|~|too much"));
        assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, before, "new jobs are accepted");
        s.run(&format!("SELECT app_jobs.resume('{kind}', {name})")).await;
        assert_eq!(s.show("SELECT * FROM app_jobs.gates").await, "", "a row that says nothing is gone");
        assert_eq!(claim_all(&s).await.len(), held.map_or(4, |_| 1), "{kind}");
        s.run("SELECT app_jobs.release_jobs('worker')").await;
    }
    s.run("SELECT app_jobs.pause('task', '*')").await;
    assert_eq!(claim_all(&s).await, [] as [i64; 0], "every job has a task");
}

#[tokio::test]
async fn what_runs_goes_on_and_ends_while_its_gate_is_paused() {
    let db = database().await;
    let s = Session::open(&db).await;
    let (done, failed) = (s.add_job("'t'").await, s.add_job("'t'").await);
    assert_eq!(claim_all(&s).await, [done, failed]);
    s.run("SELECT app_jobs.pause('task', 't')").await;
    s.run(&format!("SELECT app_jobs.complete_job('worker', {done}), app_jobs.fail_job('worker', {failed}, 'no')"))
        .await;
    s.run("UPDATE app_jobs.jobs SET run_at = now()").await;
    assert_eq!(claim_all(&s).await, [] as [i64; 0]);
    s.run("SELECT app_jobs.resume('task', 't')").await;
    assert_eq!(claim_all(&s).await, [failed]);
}

#[tokio::test]
async fn a_pause_ends_by_itself_and_workers_know_when() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'t'").await;
    s.run("SELECT app_jobs.pause('task', 't', until => clock_timestamp() + interval '1 second')").await;
    assert_eq!(claim_all(&s).await, [] as [i64; 0]);
    let next = "SELECT app_jobs_internal.next_run_at(NULL, NULL, '1 hour')
                     = (SELECT paused_until FROM app_jobs.gates)";
    assert!(s.is(next).await);
    eventually(LIMIT, async || claim_all(&s).await == [id]).await;
    assert!(s.is("SELECT locked_at >= paused_until FROM app_jobs.jobs, app_jobs.gates").await);
    // A later pause of the same gate says how long it lasts from now on.
    s.run("SELECT app_jobs.pause('task', 't', until => now() + interval '1 hour'), app_jobs.pause('task', 't')").await;
    assert_eq!(s.show("SELECT paused_until FROM app_jobs.gates").await, "~");
}

#[tokio::test]
async fn a_pause_that_is_over_leaves_the_limit_of_all_others_in_force() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.set_limit('task', '*', max_running => 1), app_jobs.add_job('t'), app_jobs.add_job('t')")
        .await;
    s.run("SELECT app_jobs.pause('task', 't', until => clock_timestamp() + interval '10 milliseconds')").await;
    eventually(LIMIT, async || !claim_all(&s).await.is_empty()).await;
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await, 1);
}

#[tokio::test]
async fn workers_are_woken_by_whatever_lets_jobs_start() {
    let db = database().await;
    let s = Session::open(&db).await;
    let mut ear = Ear::on(&db, "jobs:insert").await;
    for change in [
        "pause('task', 't', until => now() + interval '1 hour')",
        "resume('task', 't')",
        "set_limit('task', 't', max_running => 1)",
        "set_limit('task', 't', max_running => 2)",
        "set_limit('task', 't')",
        "set_fair('tenant', true)",
    ] {
        for mode in ["always", "on_demand"] {
            s.run(&format!("SELECT app_jobs.set_notify('{mode}')")).await;
            let waiter = Session::open(&db).await;
            waiter.run("SELECT app_jobs_internal.register_waiter()").await;
            ear.count().await;
            s.run(&format!("SELECT app_jobs.{change}")).await;
            assert_eq!(ear.count().await, 1, "{change}, {mode}");
        }
    }
}

#[tokio::test]
async fn a_wrong_argument_is_named_with_what_to_give_instead() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (call, message, hint) in [
        ("pause('tasks', 't')", "kind is 'tasks'", "Give task, queue, tenant or host, or all."),
        ("pause(NULL, 't')", "kind is NULL", "Give task"),
        ("pause('host', 'h')", "name is 'h' for the kind host", "A host is the beginning of a function's URL"),
        ("set_limit('host', 'h', 1)", "name is 'h' for the kind host", "A host is the beginning of a function's URL"),
        ("pause('task', NULL)", "name is NULL for the kind task", "'*' for each task"),
        ("resume('queue', '')", "name is '' for the kind queue", "Give the name of one queue"),
        ("pause('all', 't')", "name is 't' for the kind all", "give NULL"),
        ("pause('tenant', 'acme')", "name is 'acme' for the kind tenant", "A tenant is a uuid"),
        ("pause('task', 't', until => '2000-01-01')", "until is 2000-01-01 00:00:00+00, which is past", "a later time"),
        ("set_fair('task', true)", "kind is 'task'", "Give tenant: fairness is among tenants."),
        ("set_fair('tenant', NULL)", "on is NULL", "Give true or false."),
        ("set_weight('queue', 'q', 1)", "kind is 'queue'", "only tenants have a weight"),
        ("set_weight('tenant', 'acme', 1)", "name is 'acme' for the kind tenant", "A tenant is a uuid"),
        ("set_weight('tenant', '*', 0)", "weight is 0", "Give 0.001 to 1000000"),
        ("set_weight('tenant', '*', 'NaN')", "weight is NaN", "Give 0.001 to 1000000"),
        ("set_limit('all', NULL, 1)", "kind is 'all'", "Give task, queue, tenant or host."),
        ("set_limit('task', 't', max_running => 0)", "max_running is 0", "Give at least 1"),
        ("set_limit('task', 't', rate => 0)", "rate is 0", "a longer per"),
        ("set_limit('task', 't', rate => 1, per => NULL)", "per is NULL", "1 millisecond to 366 days"),
        ("set_limit('task', 't', rate => 1, per => '-1 s')", "per is '-00:00:01'", "1 millisecond to 366 days"),
        ("set_limit('task', 't', rate => 1, burst => 0)", "burst is 0", "Give at least 1"),
        ("set_limit('task', 't', burst => 5)", "burst is 5 without a rate", "Give the rate"),
        ("set_limit('task', 't', rate => 2000000)", "rate is 2000000 per 00:00:01", "a million per second"),
        ("set_limit('task', 't', rate => 1, per => '1 day', burst => 999999)", "burst is 999999", "a smaller burst"),
    ] {
        let error = s.error(&format!("SET timezone TO 'UTC'; SELECT app_jobs.{call}")).await;
        assert!(error.message().starts_with(message), "{call}: {error:?}");
        assert!(error.hint().is_some_and(|told| told.contains(hint)), "{call}: {error:?}");
    }
    assert_eq!(s.show("SELECT * FROM app_jobs.gates").await, "");
}

#[tokio::test]
async fn nothing_stays_behind_a_gate_that_is_gone_however_it_went() {
    let db = database().await;
    let s = Session::open(&db).await;
    let set = format!(
        "SELECT app_jobs.set_limit('task', 't', max_running => 1), app_jobs.set_limit('tenant', '{TENANT}', 1),
                app_jobs.set_limit('queue', 'q', 2)"
    );
    let lift = format!(
        "SELECT app_jobs.set_limit('task', 't'), app_jobs.set_limit('tenant', '{TENANT}'),
                app_jobs.set_limit('queue', 'q')"
    );
    let others = "INSERT INTO app_jobs.gates (kind, name, max_running) VALUES ('task', 'another', 1)";
    for (gone, running_of_q) in [
        (lift.as_str(), 1),
        ("DELETE FROM app_jobs.gates", 1),
        ("TRUNCATE app_jobs.gates, app_jobs.gate_tokens", 1),
        (&format!("DELETE FROM app_jobs.gates; {others}"), 1),
        ("UPDATE app_jobs.gates SET max_running = 1000", 3),
    ] {
        s.run(&set).await;
        s.run(&format!(
            "INSERT INTO app_jobs.jobs (task_identifier, database_id)
             SELECT CASE WHEN g % 2 = 0 THEN 't' ELSE 'x' END, '{TENANT}' FROM generate_series(1, 20) g;
             SELECT app_jobs.add_job('t') FROM generate_series(1, 20);
             SELECT app_jobs.add_job('t', queue_name := 'q') FROM generate_series(1, 3)"
        ))
        .await;
        assert_eq!(claim_all(&s).await.len(), 2, "one of the task, one of the tenant");
        s.run(gone).await;
        assert_eq!(claim_all(&s).await.len(), 40 + running_of_q - 2, "{gone}");
        s.run("SELECT app_jobs.release_jobs('worker'); DELETE FROM app_jobs.jobs; DELETE FROM app_jobs.gates").await;
    }
}

#[tokio::test]
async fn jobs_with_an_odd_gate_key_start_and_are_counted() {
    let db = database().await;
    let s = Session::open(&db).await;
    for set in ["", "SELECT app_jobs.set_limit('task', 't', max_running => 2)"] {
        s.run(set).await;
        s.run(
            r#"SET session_replication_role = replica;
               INSERT INTO app_jobs.jobs (task_identifier, queue_name, gate_key) VALUES
                   ('a', NULL, 'nonsense'), ('a', NULL, ''), ('a', NULL, 'task''t'''), ('t', NULL, 'task''t'''),
                   ('t', NULL, 'task''t'''), ('t', NULL, 'task''t'''), ('t', NULL, NULL), ('t', NULL, 'queue''q'''),
                   ('t', 'q', 'queue''other'''), ('a', 'q', 'task''t'''), ('a', 'other', NULL), ('a', NULL, 'tenant''t'''),
                   ('t', NULL, 'tenant'), ('a', NULL, 'run_at'), ('a', NULL, 'zzz\\');
               SET session_replication_role = origin"#,
        )
        .await;
        let limited = !set.is_empty();
        let mut started = claim_all(&s).await.len();
        while s.is("SELECT EXISTS (SELECT FROM app_jobs.jobs)").await {
            if limited {
                let running =
                    "SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL AND task_identifier = 't'";
                assert!(s.number(running).await <= 2, "{}", s.show("TABLE app_jobs.jobs").await);
            }
            assert!(
                s.is("SELECT EXISTS (SELECT FROM app_jobs.jobs WHERE locked_at IS NOT NULL)").await,
                "nothing runs"
            );
            s.run("SELECT app_jobs.complete_job('worker', id) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await;
            started += claim_all(&s).await.len();
        }
        assert_eq!(started, 15);
    }
}

#[tokio::test]
async fn only_an_administrator_sets_gates_and_the_services_read_them() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.set_limit('task', 't', max_running => 1)").await;
    for (role, reads, sets) in
        [("administrator", true, true), ("jobs_runtime", true, false), ("jobs_producer", false, false)]
    {
        s.run(&format!("SET ROLE {role}")).await;
        assert_eq!(s.try_show("SELECT * FROM app_jobs.gates").await.is_ok(), reads, "{role}");
        for call in [
            "pause('all', NULL)",
            "resume('all', NULL)",
            "set_limit('task', 't', 1, 5, '1 minute', 2)",
            "set_fair('tenant', true)",
            "set_fair('tenant', false)",
            "set_weight('tenant', '*', 2)",
        ] {
            assert_eq!(s.try_show(&format!("SELECT app_jobs.{call}")).await.is_ok(), sets, "{role}: {call}");
        }
        s.run("RESET ROLE").await;
    }
}

#[tokio::test]
async fn the_library_sets_what_the_functions_set_and_reads_it() {
    let db = database().await;
    let s = Session::open(&db).await;
    let admin = AdminDb::new(handle(db.url(), "app_jobs"));
    let rate = Rate { starts: 100, per: Duration::from_millis(1500), burst: 5 };
    let limit = Limit { max_running: Some(3), rate: Some(rate) };
    let until: Timestamp = "2100-01-02T03:04:05.678901Z".parse().unwrap();
    admin.set_limit(Gate::Task("t"), limit).await.unwrap();
    admin.pause(Gate::Task("t"), Some(until), Some("too much")).await.unwrap();
    admin.pause(Gate::All, None, None).await.unwrap();
    let [all, task] = &admin.gates().await.unwrap()[..] else { panic!("two rows") };
    assert_eq!((all.kind.as_str(), all.name.as_str(), all.paused_until), ("all", "", None));
    assert!(all.paused_at.is_some() && task.paused_at.is_some());
    assert_eq!((task.kind.as_str(), task.name.as_str(), task.limit), ("task", "t", limit));
    assert_eq!((task.paused_until, task.reason.as_deref()), (Some(until), Some("too much")));
    admin.resume(Gate::All).await.unwrap();
    admin.resume(Gate::Task("t")).await.unwrap();
    admin.set_limit(Gate::Task("t"), Limit::default()).await.unwrap();
    admin.set_fair(true).await.unwrap();
    admin.set_weight(TENANT, Some(2.5)).await.unwrap();
    let [all, one] = &admin.gates().await.unwrap()[..] else { panic!("two rows") };
    assert_eq!((all.kind.as_str(), all.name.as_str(), all.fair, all.weight), ("tenant", "*", true, None));
    assert_eq!((one.name.as_str(), one.fair, one.weight), (TENANT, false, Some(2.5)));
    admin.set_weight(TENANT, None).await.unwrap();
    admin.set_fair(false).await.unwrap();
    assert_eq!(admin.gates().await.unwrap(), []);

    let refused = admin.pause(Gate::Tenant("acme"), None, None).await.unwrap_err().to_string();
    assert_eq!(refused, "name is 'acme' for the kind tenant. A tenant is a uuid, the database_id of its jobs.");
    let refused = admin.set_limit(Gate::All, limit).await.unwrap_err();
    assert!(matches!(refused, GateError::Refused(_)), "{refused:?}");
    let role = Role::create(&db, &s, "runtime").await;
    s.run(&format!("GRANT jobs_runtime TO {}", role.name)).await;
    let admin = AdminDb::new(handle(&role.url, "app_jobs"));
    let refused = admin.set_limit(Gate::Task("t"), limit).await.unwrap_err();
    assert!(matches!(refused, GateError::NotAllowed(_)), "{refused:?}");
    assert_eq!(admin.gates().await.unwrap(), [], "it may read them");
    role.remove(&s).await;
}
