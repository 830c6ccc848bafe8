//! Gates of hosts: which jobs they hold, when they close by themselves and how they open.

use job_pg::{AdminDb, Gate};
use job_testkit::eventually;

use crate::sql::gates::claim;
use crate::sql::support::{Ear, LIMIT, Session, database, handle};

const HOST: &str = "http://h:1";

/// A database in which the tasks `t` and `u` go to [`HOST`] and `v` to another, with so many due jobs of `t`.
async fn with_jobs(jobs: usize) -> (job_testkit::TestDb, Session) {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(&format!(
        "SELECT app_jobs_internal.tell_task_hosts('{{t,u,v}}', '{{{HOST},{HOST},https://i}}');
         INSERT INTO app_jobs.jobs (task_identifier, max_attempts) SELECT 't', 1 FROM generate_series(1, {jobs})"
    ))
    .await;
    (db, s)
}

/// A worker claims a job, and its request fails: the verdict. The attempt ends as that says.
async fn fail(s: &Session, worker: &str, id: i64) -> String {
    let verdict = s
        .show(&format!(
            "SELECT app_jobs_internal.host_failed('{worker}', '{HOST}', true, false, {id}, attempts, 'refused', run_at)
                          FROM app_jobs.jobs WHERE id = {id}"
        ))
        .await;
    let counted = verdict == "counted";
    s.run(&format!(
        "SELECT app_jobs_internal.end_held_jobs(ARRAY[id], ARRAY[locked_by], ARRAY[epoch], '{{refused}}', '{{0}}', '{{{counted}}}', '{{false}}')
           FROM app_jobs.jobs WHERE id = {id}"
    ))
    .await;
    verdict
}

async fn claim_by(s: &Session, worker: &str, most: usize) -> Vec<i64> {
    claim(s, &format!("'{worker}', NULL, {most}, NULL")).await
}

/// Five jobs fail: the gate closes.
async fn close(s: &Session) {
    for (n, id) in claim_by(s, "worker-1", 5).await.into_iter().enumerate() {
        assert_eq!(fail(s, "worker-1", id).await, if n < 4 { "counted" } else { "closed" });
    }
}

/// The time of the next probe is now.
async fn let_probe(s: &Session) {
    s.run("UPDATE app_jobs.gates SET closed_until = now() - interval '1 ms' WHERE kind = 'host'").await;
}

#[tokio::test]
async fn five_failures_in_a_row_of_several_jobs_close_a_host_and_use_up_no_attempt() {
    let (_db, s) = with_jobs(10).await;
    let other = s.add_job("'v'").await;
    let unknown = s.add_job("'w'").await;
    let ids = claim_by(&s, "worker-1", 6).await;
    // Whoever claimed before it closes has sent its requests.
    let (last, first) = ids.split_last().unwrap();
    for id in &first[..4] {
        assert_eq!(fail(&s, "worker-1", *id).await, "counted");
    }
    assert_eq!(s.show("SELECT * FROM app_jobs.gates").await, "");
    assert_eq!(s.show("SELECT app_jobs_internal.host_news()").await, format!("s {HOST}"));
    assert_eq!(fail(&s, "worker-2", first[4]).await, "closed");
    assert_eq!(fail(&s, "worker-2", *last).await, "closed");
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE attempts > 0").await, 0);
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE last_error = 'refused'").await, 6);
    let gate = "SELECT kind, name, closed_reason, closed_until > now(), closed_until <= now() + interval '1 s'
                  FROM app_jobs.gates";
    assert_eq!(s.show(gate).await, format!("host|{HOST}|refused|t|t"));
    assert_eq!(claim_by(&s, "worker-1", 100).await, [other, unknown], "others run");
    assert_eq!(s.show("SELECT app_jobs_internal.host_news()").await, format!("u {HOST}"));
}

#[tokio::test]
async fn attempts_that_were_not_stored_yet_when_the_host_closed_are_given_back_by_the_next_call() {
    let (_db, s) = with_jobs(6).await;
    let ids = claim_by(&s, "worker-1", 6).await;
    let fails = async |id: i64| {
        s.show(&format!(
            "SELECT app_jobs_internal.host_failed('worker-1', '{HOST}', false, false, {id}, 1, 'no', now())"
        ))
        .await
    };
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(fails(*id).await, if n < 4 { "counted" } else { "closed" });
    }
    s.run("SELECT app_jobs.fail_job('worker-1', id, 'no') FROM app_jobs.jobs").await;
    // One of them has been changed since.
    s.run(&format!("UPDATE app_jobs.jobs SET last_error = 'cancelled' WHERE id = {}", ids[1])).await;
    let_probe(&s).await;
    assert!(s.is(&format!("SELECT app_jobs_internal.host_succeeded('worker-2', '{HOST}')")).await);
    let attempts = "SELECT attempts FROM app_jobs.jobs ORDER BY id";
    assert_eq!(s.show(attempts).await.replace('\n', " "), "0 1 0 0 1 1", "those of the last two were not told");
    assert_eq!(s.show("SELECT * FROM app_jobs.gates").await, "");
}

#[tokio::test]
async fn an_attempt_that_is_stored_after_another_worker_has_opened_the_host_is_given_back_by_the_next_claim() {
    let (db, s) = with_jobs(5).await;
    let ids = claim_by(&s, "worker-1", 5).await;
    for (n, id) in ids.iter().enumerate() {
        let told =
            format!("SELECT app_jobs_internal.host_failed('worker-1', '{HOST}', false, false, {id}, 1, 'no', now())");
        assert_eq!(s.show(&told).await, if n < 4 { "counted" } else { "closed" });
    }
    assert!(s.is(&format!("SELECT app_jobs_internal.host_succeeded('worker-1', '{HOST}')")).await);
    assert_eq!(s.show("SELECT * FROM app_jobs.host_failures").await, "");
    let owed = "SELECT string_agg(job_id::text, ' ' ORDER BY job_id) FROM app_jobs.attempts_to_return";
    let told: Vec<String> = ids[..4].iter().map(i64::to_string).collect();
    assert_eq!(s.show(owed).await, told.join(" "));
    // One is completed, one is held by somebody, one has been changed, one is as told.
    s.run(&format!("SELECT app_jobs.complete_job('worker-1', {})", ids[0])).await;
    s.run("SELECT app_jobs.fail_job('worker-1', id, 'no') FROM app_jobs.jobs").await;
    s.run(&format!("UPDATE app_jobs.jobs SET last_error = 'by hand' WHERE id = {}", ids[2])).await;
    let holder = Session::open(&db).await;
    holder.run(&format!("BEGIN; SELECT FROM app_jobs.jobs WHERE id = {} FOR UPDATE", ids[1])).await;
    // In a snapshot of its own nothing is given back, and nothing is an error.
    s.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    assert_eq!(claim_by(&s, "worker-2", 5).await, Vec::<i64>::new());
    s.run("COMMIT").await;
    assert_eq!(s.show(owed).await, told.join(" "));
    assert_eq!(claim_by(&s, "worker-2", 5).await, [ids[3]], "due as it was");
    assert_eq!(s.show(owed).await, ids[1].to_string());
    holder.run("COMMIT").await;
    assert_eq!(claim_by(&s, "worker-2", 5).await, [ids[1]]);
    assert_eq!(s.show("SELECT attempts FROM app_jobs.jobs ORDER BY id").await.replace('\n', " "), "1 1 1 1");
    assert_eq!(s.show(owed).await, "~");
}

#[tokio::test]
async fn what_was_to_be_given_back_of_a_job_that_runs_on_is_forgotten_after_five_minutes() {
    let (_db, s) = with_jobs(1).await;
    s.run("INSERT INTO app_jobs.attempts_to_return VALUES (1, 1, 'no', now(), now() - interval '4 minutes')").await;
    assert_eq!(claim_by(&s, "worker-1", 1).await, [1]);
    let beat = "SELECT app_jobs_internal.heartbeat('worker-1', gen_random_uuid(), '30 s', false, 'overdue', '4 h')";
    // Its job waited with other words than the attempt's, so it is not of this one.
    assert_eq!(s.show("SELECT count(*) FROM app_jobs.attempts_to_return").await, "0");
    for (age, left) in [("4 minutes", "1"), ("6 minutes", "0")] {
        s.run(&format!(
            "DELETE FROM app_jobs.attempts_to_return;
             INSERT INTO app_jobs.attempts_to_return VALUES (1, 1, 'no', now(), now() - interval '{age}')"
        ))
        .await;
        s.run(beat).await;
        assert_eq!(s.show("SELECT count(*) FROM app_jobs.attempts_to_return").await, left);
    }
}

#[tokio::test]
async fn a_job_gets_its_attempts_back_once_and_keeps_the_time_that_an_operator_gave_it() {
    let (_db, s) = with_jobs(0).await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier, max_attempts) VALUES ('t', 4), ('t', 25), ('u', 25)").await;
    // Two of its attempts had failed for something else.
    s.run("UPDATE app_jobs.jobs SET attempts = 2 WHERE id = 1").await;
    for id in [1, 2, 1] {
        assert_eq!(s.get_job("'worker-1', '{t}'").await, Some(id));
        assert_eq!(fail(&s, "worker-1", id).await, "counted");
    }
    s.run("UPDATE app_jobs.host_failures SET told_ats = ARRAY(SELECT t - interval '6 s' FROM unnest(told_ats) t)")
        .await;
    s.run("SELECT app_jobs.reschedule_jobs('{2}', now() + interval '1 day')").await;
    for verdict in ["counted", "closed"] {
        assert_eq!(claim_by(&s, "worker-1", 1).await, [3]);
        assert_eq!(fail(&s, "worker-1", 3).await, verdict);
    }
    let jobs = "SELECT id, attempts, run_at > now() + interval '23 hours' FROM app_jobs.jobs ORDER BY id";
    assert_eq!(s.show(jobs).await, "1|2|f\n2|0|t\n3|1|f", "the last one was running");
    s.run("SELECT app_jobs_internal.return_attempts(), app_jobs_internal.return_attempts()").await;
    assert_eq!(s.show(jobs).await, "1|2|f\n2|0|t\n3|0|f", "once");
}

#[tokio::test]
async fn jobs_whose_task_has_long_waits_of_its_own_are_due_once_the_host_is_back() {
    let (_db, s) = with_jobs(5).await;
    for verdict in ["counted", "counted", "counted", "counted", "closed"] {
        let id = s.get_job("'worker-1'").await.unwrap();
        assert_eq!(fail(&s, "worker-1", id).await, verdict);
        if verdict == "counted" {
            s.run(&format!("UPDATE app_jobs.jobs SET run_at = now() + interval '1 day' WHERE id = {id}")).await;
        }
    }
    assert!(s.is(&format!("SELECT app_jobs_internal.host_succeeded('worker-1', '{HOST}')")).await);
    assert!(s.is("SELECT bool_and(run_at <= now() AND attempts = 0) FROM app_jobs.jobs").await);
}

#[tokio::test]
async fn a_host_that_is_down_and_that_nobody_has_tried_for_an_hour_is_forgotten() {
    let (_db, s) = with_jobs(1).await;
    s.run("SELECT app_jobs.set_limit('host', 'http://limited:1', max_running => 1)").await;
    for host in ["http://h:1", "http://h:2", "http://limited:1"] {
        s.run(&format!("SELECT app_jobs_internal.close_host('{host}', now(), 'down', '1 s')")).await;
    }
    s.run("UPDATE app_jobs.gates SET closed_until = now() - interval '61 minutes' WHERE name <> 'http://h:2'").await;
    s.run("SELECT app_jobs_internal.heartbeat('worker', gen_random_uuid(), '30 s', false, 'overdue', '4 h')").await;
    assert_eq!(s.show("SELECT name FROM app_jobs.gates ORDER BY name").await, "http://h:2\nhttp://limited:1");
}

#[tokio::test]
async fn resume_opens_a_host_and_who_runs_jobs_closes_one_for_an_hour_at_most() {
    let (_db, s) = with_jobs(10).await;
    close(&s).await;
    assert_eq!(claim_by(&s, "worker-1", 10).await.len(), 0);
    s.run(&format!("SELECT app_jobs.resume('host', '{HOST}')")).await;
    assert_eq!(claim_by(&s, "worker-1", 10).await.len(), 10);
    s.run(&format!("SELECT app_jobs_internal.close_host('{HOST}', 'infinity', 'no', '1 day')")).await;
    let bounded = "SELECT closed_until < now() + interval '61 minutes', probe_pause FROM app_jobs.gates";
    assert_eq!(s.show(bounded).await, "t|00:01:00");
    for host in ["*", "nothing", "HTTP://h:1"] {
        let error = s.error(&format!("SELECT app_jobs_internal.close_host('{host}', now(), 'no', NULL)")).await;
        assert_eq!(error.code().code(), "22023", "{host}");
    }
}

#[tokio::test]
async fn a_single_job_that_fails_again_and_again_uses_up_its_attempts() {
    let (_db, s) = with_jobs(0).await;
    let id = s.add_job("'t', max_attempts := 7").await;
    for attempt in 1..=7 {
        assert_eq!(claim_by(&s, "worker-1", 5).await, [id]);
        assert_eq!(fail(&s, "worker-1", id).await, "counted", "{attempt}");
    }
    assert_eq!(claim_by(&s, "worker-1", 5).await, Vec::<i64>::new());
    assert_eq!(s.show("SELECT attempts, last_error FROM app_jobs.jobs").await, "7|refused");
    assert_eq!(s.show("SELECT * FROM app_jobs.gates").await, "");
    // The next one closes the host, and gives back the attempt that is left of those.
    let other = s.add_job("'u'").await;
    assert_eq!(claim_by(&s, "worker-1", 5).await, [other]);
    assert_eq!(fail(&s, "worker-1", other).await, "closed");
}

#[tokio::test]
async fn a_success_of_whichever_worker_begins_the_count_anew_and_so_does_one_told_with_the_failure() {
    let (_db, s) = with_jobs(20).await;
    let ids = claim_by(&s, "worker-1", 20).await;
    for id in &ids[..4] {
        assert_eq!(fail(&s, "worker-1", *id).await, "counted");
    }
    assert!(!s.is(&format!("SELECT app_jobs_internal.host_succeeded('worker-1', '{HOST}')")).await);
    assert_eq!(s.show("SELECT * FROM app_jobs.host_failures").await, "");
    for id in &ids[4..8] {
        assert_eq!(fail(&s, "worker-1", *id).await, "counted");
    }
    let anew =
        format!("SELECT app_jobs_internal.host_failed('worker-1', '{HOST}', true, true, {}, 1, 'no', now())", ids[8]);
    assert_eq!(s.show(&anew).await, "counted");
    for id in &ids[9..12] {
        assert_eq!(fail(&s, "worker-1", *id).await, "counted");
    }
    // Long ago.
    s.run("UPDATE app_jobs.host_failures SET failed_at = failed_at - interval '6 minutes'").await;
    for id in &ids[12..16] {
        assert_eq!(fail(&s, "worker-1", *id).await, "counted");
    }
    assert_eq!(fail(&s, "worker-1", ids[16]).await, "closed");
}

#[tokio::test]
async fn one_job_at_growing_pauses_finds_out_and_its_success_opens_the_host() {
    let (db, s) = with_jobs(20).await;
    close(&s).await;
    for pause in [2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(claim_by(&s, "worker-1", 10).await, Vec::<i64>::new(), "before its time");
        let_probe(&s).await;
        let probe = claim_by(&s, "worker-1", 10).await;
        assert_eq!(probe.len(), 1);
        assert_eq!(claim_by(&s, "worker-2", 10).await, Vec::<i64>::new(), "one of all");
        let until = "SELECT round(extract(epoch FROM closed_until - now())) FROM app_jobs.gates";
        assert_eq!(s.number(until).await, pause);
        // The worker dies with every other probe.
        if pause % 16 != 0 {
            assert_eq!(fail(&s, "worker-1", probe[0]).await, "closed");
        }
        s.run("SELECT app_jobs.release_jobs('worker-1')").await;
    }
    let_probe(&s).await;
    let probe = claim_by(&s, "worker-2", 10).await;
    let mut ear = Ear::on(&db, "jobs:insert").await;
    assert!(s.is(&format!("SELECT app_jobs_internal.host_succeeded('worker-2', '{HOST}')")).await);
    assert!(ear.count().await > 0, "workers are woken");
    assert_eq!(s.number(&format!("SELECT id FROM app_jobs.complete_job('worker-2', {})", probe[0])).await, probe[0]);
    assert_eq!(s.number("SELECT max(attempts) FROM app_jobs.jobs").await, 0);
    let mut claimed = 0;
    while claimed < 19 {
        let ids = claim_by(&s, "worker-1", 10).await;
        assert!(!ids.is_empty());
        claimed += ids.len();
    }
    assert_eq!(s.show("SELECT * FROM app_jobs.gates").await, "");
}

#[tokio::test]
async fn a_worker_that_cannot_reach_what_others_use_closes_it_for_nobody() {
    let (_db, s) = with_jobs(40).await;
    close(&s).await;
    // The other one has a request under way.
    assert!(s.is(&format!("SELECT app_jobs_internal.host_succeeded('worker-2', '{HOST}')")).await);
    assert_eq!(s.show("SELECT app_jobs_internal.host_news()").await, format!("s {HOST}"));
    for _ in 0..2 {
        for id in claim_by(&s, "worker-1", 10).await {
            assert_eq!(fail(&s, "worker-1", id).await, "reached");
        }
        assert!(!s.is(&format!("SELECT app_jobs_internal.host_succeeded('worker-2', '{HOST}')")).await);
    }
    assert_eq!(s.show("SELECT * FROM app_jobs.gates").await, "");
    assert_eq!(s.number("SELECT max(attempts) FROM app_jobs.jobs").await, 0);
    // Now that it fails there as well, the host is down.
    for (n, id) in claim_by(&s, "worker-2", 5).await.into_iter().enumerate() {
        assert_eq!(fail(&s, "worker-2", id).await, if n < 4 { "counted" } else { "closed" });
    }
    // What it cannot use is forgotten a minute after its last failure.
    assert!(s.is(&format!("SELECT app_jobs_internal.host_succeeded('worker-1', '{HOST}')")).await);
    s.run("UPDATE app_jobs.host_failures SET failed_at = failed_at - interval '2 minutes'").await;
    assert!(!s.is(&format!("SELECT app_jobs_internal.host_succeeded('worker-1', '{HOST}')")).await);
    assert_eq!(s.show("SELECT * FROM app_jobs.host_failures").await, "");
}

#[tokio::test]
async fn a_host_that_asks_to_wait_is_closed_until_then_and_opens_by_itself() {
    let (_db, s) = with_jobs(5).await;
    s.run(&format!("SELECT app_jobs_internal.host_asked('{HOST}', '2 hours', 'HTTP 429')")).await;
    let gate = "SELECT name, closed_until > now() + interval '59 min', closed_until < now() + interval '61 min',
                       closed_reason FROM app_jobs.gates";
    assert_eq!(s.show(gate).await, format!("{HOST}|t|t|HTTP 429"), "an hour at most");
    assert_eq!(s.show("SELECT app_jobs_internal.host_news()").await, format!("a {HOST}"));
    assert_eq!(claim_by(&s, "worker-1", 10).await, Vec::<i64>::new());
    // A shorter wait that is asked for later makes it no shorter, and a request that was under way does not open it.
    s.run(&format!("SELECT app_jobs_internal.host_asked('{HOST}', '2 s', 'HTTP 429')")).await;
    assert!(!s.is(&format!("SELECT app_jobs_internal.host_succeeded('worker-1', '{HOST}')")).await);
    assert_eq!(s.show(gate).await, format!("{HOST}|t|t|HTTP 429"));
    s.run("UPDATE app_jobs.gates SET closed_until = now() + interval '1 second'").await;
    let next = "SELECT app_jobs_internal.next_run_at(NULL, NULL, '1 hour') <= now() + interval '1 second'";
    assert!(s.is(next).await, "workers know when");
    eventually(LIMIT, async || claim_by(&s, "worker-1", 10).await.len() == 5).await;
    s.run(
        "SELECT app_jobs_internal.heartbeat('worker-1', gen_random_uuid(), interval '30 s', false, 'late', '4 hours')",
    )
    .await;
    assert_eq!(s.show("SELECT * FROM app_jobs.gates").await, "", "nothing is left of it");
}

#[tokio::test]
async fn a_host_has_pauses_limits_and_rates_like_other_gates() {
    let (db, s) = with_jobs(20).await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier) SELECT 'u' FROM generate_series(1, 5)").await;
    let running = claim_by(&s, "worker-1", 1).await;
    // What runs already counts, also what runs of its other task.
    s.run("SELECT app_jobs.set_limit('host', 'HTTP://H:1/', max_running => 3)").await;
    assert_eq!(claim_by(&s, "worker-1", 10).await.len(), 2);
    s.run(&format!("SELECT app_jobs.complete_job('worker-1', {})", running[0])).await;
    assert_eq!(claim_by(&s, "worker-1", 10).await.len(), 1);
    s.run(&format!("SELECT app_jobs.release_jobs('worker-1'), app_jobs.set_limit('host', '{HOST}', rate => 4, per => '1 day', burst => 4)")).await;
    assert_eq!(claim_by(&s, "worker-1", 10).await.len(), 4);
    assert_eq!(claim_by(&s, "worker-1", 10).await, Vec::<i64>::new());
    s.run(&format!("SELECT app_jobs.release_jobs('worker-1'), app_jobs.set_limit('host', '{HOST}')")).await;
    let admin = AdminDb::new(handle(db.url(), "app_jobs"));
    admin.pause(Gate::Host(HOST), None, Some("deploy")).await.unwrap();
    assert_eq!(claim_by(&s, "worker-1", 10).await, Vec::<i64>::new());
    let gates = admin.gates().await.unwrap();
    assert_eq!((gates[0].kind.as_str(), gates[0].name.as_str(), gates[0].closed_until), ("host", HOST, None));
    admin.resume(Gate::Host(HOST)).await.unwrap();
    // Each host that has no row of its own, as far as it is known where tasks go.
    s.run("SELECT app_jobs.set_limit('host', '*', max_running => 2)").await;
    let others = [s.add_job("'v'").await, s.add_job("'v'").await, s.add_job("'v'").await];
    let mut claimed = Vec::new();
    for _ in 0..5 {
        claimed.extend(claim_by(&s, "worker-1", 10).await);
    }
    assert_eq!(claimed.len(), 4, "{claimed:?}");
    assert_eq!(claimed.iter().filter(|id| others.contains(id)).count(), 2);
    assert_eq!(admin.gates().await.unwrap().len(), 1);
}

#[tokio::test]
async fn names_of_hosts_are_those_of_urls_and_nothing_else() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (given, name) in [
        ("http://h", "http://h"),
        ("HTTP://Fn.Example:80/", "http://fn.example"),
        ("https://h:443", "https://h"),
        ("https://h:80", "https://h:80"),
        ("http://h:443", "http://h:443"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://[::1]:80", "http://[::1]"),
        ("*", "*"),
    ] {
        assert_eq!(s.show(&format!("SELECT app_jobs_internal.gate_name('host', '{given}')")).await, name);
    }
    for bad in ["h:1", "ftp://h", "http://h/path", "http://user@h", "http://", "http://h:x", "http://a b", "http://h?x"]
    {
        let error = s.error(&format!("SELECT app_jobs.pause('host', '{bad}')")).await;
        assert_eq!(error.message(), format!("name is '{bad}' for the kind host"));
        assert!(error.hint().unwrap().contains("http://functions:8080"), "{error:?}");
    }
}

#[tokio::test]
async fn a_task_that_goes_elsewhere_is_told_anew_and_telling_waits_for_whoever_sets_a_limit() {
    let (db, s) = with_jobs(3).await;
    assert_eq!(s.show("SELECT app_jobs_internal.tell_task_hosts('{t}', '{http://new}')").await, "~");
    assert_eq!(s.show("SELECT host FROM app_jobs.task_hosts WHERE task = 't'").await, "http://new");
    let setter = Session::open(&db).await;
    setter.run("BEGIN; SELECT app_jobs.set_limit('host', 'http://late', max_running => 1)").await;
    let teller = Session::open(&db).await;
    let pid = teller.pid().await;
    let telling =
        tokio::spawn(
            async move { teller.show("SELECT app_jobs_internal.tell_task_hosts('{t}', '{http://late}')").await },
        );
    s.wait_until_blocked(pid).await;
    setter.run("COMMIT").await;
    assert_eq!(telling.await.unwrap(), "g http://late", "it hears of the limit");
    assert_eq!(claim_by(&s, "worker-1", 10).await.len(), 1);
}
