//! Sizes: what is too large is refused where it is enqueued, by every way in.

use job_pg::{Field, NewJob, enqueue, enqueue_many, schedule};

use crate::sql::support::{Session, database, handle};

/// JSON of so many bytes, as SQL.
fn json(bytes: usize) -> String {
    format!("to_json(repeat('x', {}))", bytes - 2)
}

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_payload_beyond_the_limit_is_refused_with_a_hint_by_every_way_in() {
    let db = database().await;
    let s = Session::open(&db).await;
    let (fits, too_large) = (json(16 * MIB), json(16 * MIB + 1));
    s.run(&format!("SELECT app_jobs.add_job('x', {fits}); SELECT app_jobs.add_job('x', {}, 'k')", json(10 * MIB)))
        .await;
    s.run(&format!("SELECT app_jobs.add_scheduled_job('x', {fits})")).await;
    for (call, place) in [
        (format!("SELECT app_jobs.add_job('x', {too_large})"), ""),
        (format!("SELECT app_jobs.add_job('x', {too_large}::text)"), ""),
        (format!("SELECT app_jobs.add_job('x', {too_large}, 'k')"), ""),
        (format!("SELECT app_jobs.enqueue('x', {too_large}, 'k', 'ignore')"), ""),
        (format!("SELECT app_jobs.add_jobs('{{a,b}}', ARRAY['1', {too_large}])"), "job 2: "),
        (format!("SELECT app_jobs.add_jobs('{{a,b}}', ARRAY['1', {too_large}], '{{k,l}}')"), "job 2: "),
        (format!("INSERT INTO app_jobs.jobs (task_identifier, payload) VALUES ('x', {too_large})"), ""),
        (format!("SELECT app_jobs.enqueue('x', {too_large}, 'k', 'preserve_run_at')"), ""),
        (format!("SELECT app_jobs.add_scheduled_job('x', {too_large})"), ""),
        (format!("UPDATE app_jobs.scheduled_jobs SET payload = {too_large}"), ""),
        (format!("UPDATE app_jobs.jobs SET payload = {too_large}"), ""),
        (
            format!(
                "INSERT INTO app_jobs.jobs (task_identifier, key) VALUES ('x', 'k')
                 ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET payload = {too_large}"
            ),
            "",
        ),
    ] {
        let error = s.error(&call).await;
        assert_eq!(
            error.message(),
            format!("{place}the payload has 16777217 bytes, and 16777216 are allowed"),
            "{call}"
        );
        assert!(error.hint().unwrap_or_default().contains("set_max_payload"), "{call}");
    }
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 2);
}

#[tokio::test]
async fn the_limit_can_be_set_and_rows_beyond_it_go_on() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job(&format!("'x', {}, 'k'", json(MIB))).await;
    s.run("SELECT app_jobs.set_max_payload(100000)").await;
    assert_eq!(s.error(&format!("SELECT app_jobs.add_job('x', {})", json(100_001))).await.code().code(), "23514");
    s.run(&format!("SELECT app_jobs.add_job('x', {})", json(100_000))).await;
    // What is there is claimed, fails, is released, loses its key, and is changed in every other column.
    assert_eq!(s.get_job("'worker'").await, Some(id));
    s.run(&format!("SELECT app_jobs.fail_job('worker', {id}, 'no')")).await;
    s.run("UPDATE app_jobs.jobs SET run_at = now(), payload = payload").await;
    assert_eq!(s.get_job("'worker'").await, Some(id));
    let newer = s.add_job("'x', '{}', 'k'").await;
    assert_ne!(newer, id);
    s.run("SELECT app_jobs.set_max_payload(NULL)").await;
    s.run(&format!("SELECT app_jobs.add_job('x', {})", json(MIB))).await;
    for odd in ["0", "65535", "-1", "536870913"] {
        let error = s.error(&format!("SELECT app_jobs.set_max_payload({odd})")).await;
        assert!(error.hint().unwrap_or_default().contains("65536"), "{odd}: {}", error.message());
    }
}

#[tokio::test]
async fn a_schedule_info_has_64_kib_at_most() {
    let db = database().await;
    let s = Session::open(&db).await;
    let (fits, too_large) = (json(65_536), json(65_537));
    s.run(&format!("SELECT app_jobs.add_scheduled_job('x', '{{}}', {fits})")).await;
    for call in [
        format!("SELECT app_jobs.add_scheduled_job('x', '{{}}', {too_large})"),
        format!("INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info) VALUES ('x', {too_large})"),
        format!("UPDATE app_jobs.scheduled_jobs SET schedule_info = {too_large}"),
    ] {
        let error = s.error(&call).await;
        assert_eq!(error.message(), "schedule_info has 65537 bytes, and 65536 are allowed", "{call}");
        assert!(error.hint().is_some(), "{call}");
    }
    // What was there before the limit was can be claimed, fired and marked.
    s.run(&format!(
        "ALTER TABLE app_jobs.scheduled_jobs DISABLE TRIGGER USER;
         UPDATE app_jobs.scheduled_jobs SET schedule_info = {too_large};
         ALTER TABLE app_jobs.scheduled_jobs ENABLE TRIGGER USER"
    ))
    .await;
    let id = s.number("SELECT id FROM app_jobs.get_scheduled_job('sched')").await;
    s.run(&format!("SELECT app_jobs.run_scheduled_job({id}); SELECT app_jobs.release_scheduled_jobs('sched')")).await;
}

#[tokio::test]
async fn the_fields_name_stands_in_errors_of_the_library() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.set_max_payload(65536)").await;
    let handle = handle(db.url(), "app_jobs");
    let large = || NewJob::raw("x", serde_json::to_string(&"x".repeat(70_000)).unwrap());
    let error = enqueue(&handle, large()).await.unwrap_err();
    assert_eq!(error.to_string(), "payload: the payload has 70002 bytes, and 65536 are allowed");
    let error = enqueue_many(&handle, [NewJob::raw("x", ""), large()]).await.unwrap_err();
    assert_eq!(error.to_string(), "jobs[1].payload: the payload has 70002 bytes, and 65536 are allowed");
    let error = schedule(&handle, "x".repeat(70_000), NewJob::raw("x", "").key("k")).await.unwrap_err();
    assert_eq!(error.field(), Some(Field::Rule), "{error}");
    // A row's size is refused from whoever writes it, and nobody but the table's owner or an administrator sets the
    // limit.
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
}
