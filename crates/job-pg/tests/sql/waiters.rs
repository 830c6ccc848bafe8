//! NOTIFY on demand: who waits is woken, nobody else is, and no wake-up is lost on the way to sleep.

use job_pg::{Instance, Listener, WaiterState, WorkerDb};
use job_testkit::eventually;

use crate::sql::support::{Ear, LIMIT, Role, Session, database, handle};

const JOBS: &str = "jobs:insert";

/// Locks of waiters, and of writers that ask for them, in this test's database.
const LOCKS: &str = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                     WHERE l.locktype = 'advisory' AND d.datname = current_database()";

async fn woken(s: &Session, ear: &mut Ear, statement: &str) -> usize {
    s.run(statement).await;
    ear.count().await
}

#[tokio::test]
async fn on_demand_only_a_waiter_is_woken_and_once_per_statement() {
    let db = database().await;
    let (s, waiter) = (Session::open(&db).await, Session::open(&db).await);
    let mut ear = Ear::on(&db, JOBS).await;
    assert_eq!(waiter.show("SELECT app_jobs_internal.register_waiter()").await, "~", "by default every write notifies");
    s.run("SELECT app_jobs.set_notify('on_demand')").await;
    ear.count().await;
    let statements = [
        ("SELECT app_jobs.add_job('x', '{}', 'k')", 1),
        ("SELECT app_jobs.add_jobs('{a,b}', NULL)", 1),
        ("INSERT INTO app_jobs.jobs (task_identifier) SELECT 'x' WHERE false", 0),
        ("SELECT app_jobs.add_job('x', '{}', 'k')", 1),
        (
            "INSERT INTO app_jobs.jobs (id, task_identifier, queue_name, priority) VALUES (91, 'x', 'q', -9), (92, 'x', 'q', -8)",
            1,
        ),
        ("SELECT app_jobs.get_job('worker')", 0),
        ("SELECT app_jobs.complete_job('worker', 91)", 1),
        ("SELECT app_jobs.get_job('worker')", 0),
        ("SELECT app_jobs.fail_job('worker', 92, 'no')", 1),
        ("TRUNCATE app_jobs.jobs", 0),
    ];
    for waits in [false, true] {
        if waits {
            assert_ne!(waiter.show("SELECT app_jobs_internal.register_waiter()").await, "~");
        }
        for (statement, times) in statements {
            assert_eq!(woken(&s, &mut ear, statement).await, if waits { times } else { 0 }, "{statement}, {waits}");
        }
        let strict = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT app_jobs.add_job('x'); COMMIT";
        assert_eq!(woken(&s, &mut ear, strict).await, usize::from(waits));
    }
    assert!(waiter.is("SELECT app_jobs_internal.unregister_waiter()").await);
    assert_eq!(woken(&s, &mut ear, "SELECT app_jobs.add_job('x')").await, 0);
    // A session's end is the end of its registration.
    assert_ne!(waiter.show("SELECT app_jobs_internal.register_waiter()").await, "~");
    let pid = waiter.pid().await;
    drop(waiter);
    eventually(LIMIT, async || s.is(&format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {pid}")).await)
        .await;
    assert_eq!(woken(&s, &mut ear, "SELECT app_jobs.add_job('x')").await, 0);
    assert_eq!(woken(&s, &mut ear, "SELECT app_jobs.set_notify('always')").await, 1);
    assert_eq!(woken(&s, &mut ear, "SELECT app_jobs.add_job('x')").await, 1);
    assert_eq!(s.error("SELECT app_jobs.set_notify('sometimes')").await.code().code(), "22023");
}

#[tokio::test]
async fn a_writer_that_asked_before_the_registration_is_below_the_horizon_until_it_ends() {
    let db = database().await;
    let (producer, waiter) = (Session::open(&db).await, Session::open(&db).await);
    let mut ear = Ear::on(&db, JOBS).await;
    producer.run("SELECT app_jobs.set_notify('on_demand')").await;
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        for write in [
            "SELECT app_jobs.add_job('x')",
            "UPDATE app_jobs.jobs SET attempts = 0, run_at = now()",
            "SAVEPOINT a; SELECT app_jobs.add_jobs('{x}', NULL)",
        ] {
            // Jobs that cannot be claimed, one of which the update revives.
            waiter
                .run(
                    "DELETE FROM app_jobs.jobs; INSERT INTO app_jobs.jobs (task_identifier, attempts) VALUES ('x', 25)",
                )
                .await;
            ear.count().await;
            producer.run(&format!("BEGIN ISOLATION LEVEL {level}; {write}")).await;
            let horizon = waiter.number("SELECT app_jobs_internal.register_waiter()").await;
            let passed = format!("SELECT app_jobs_internal.waiter_horizon_passed('{horizon}')");
            assert_eq!(waiter.get_job("'worker'").await, None, "not committed");
            assert!(!waiter.is(&passed).await, "{level}: {write}: the waiter may not sleep yet");
            producer.run("COMMIT").await;
            assert_eq!(ear.count().await, 0, "{level}: {write}: nobody waited when it asked");
            // Transactions of other tests, in other databases of this server, are below the horizon as well.
            eventually(LIMIT, async || waiter.is(&passed).await).await;
            assert!(
                waiter.get_job("'worker'").await.is_some(),
                "{level}: {write}: the look after the horizon finds it"
            );
            // Whoever asks after the registration wakes, however old its snapshot.
            assert!(waiter.is("SELECT app_jobs_internal.unregister_waiter()").await);
            producer.run(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM app_jobs.jobs")).await;
            assert_ne!(waiter.show("SELECT app_jobs_internal.register_waiter()").await, "~");
            producer.run("SELECT app_jobs.add_job('x'); COMMIT").await;
            assert_eq!(ear.count().await, 1, "{level}");
            assert!(waiter.is("SELECT app_jobs_internal.unregister_waiter()").await);
        }
    }
}

#[tokio::test]
async fn a_writer_needs_no_right_and_does_not_keep_the_lock_whatever_its_transaction_does() {
    let db = database().await;
    let (admin, waiter) = (Session::open(&db).await, Session::open(&db).await);
    admin.run("SELECT app_jobs.set_notify('on_demand')").await;
    let role = Role::create(&db, &admin, "writer").await;
    admin
        .run(&format!(
            "GRANT USAGE ON SCHEMA app_jobs TO {0}; GRANT INSERT ON app_jobs.jobs TO {0};
             SELECT app_jobs.show_all_tenants_to('{0}')",
            role.name
        ))
        .await;
    let s = role.session().await;
    for end in ["COMMIT", "ROLLBACK", "SELECT 1/0"] {
        s.run("BEGIN; INSERT INTO app_jobs.jobs (task_identifier) VALUES ('x')").await;
        assert_eq!(admin.number(LOCKS).await, 0);
        let _ = s.try_show(end).await;
        s.run("ROLLBACK").await;
    }
    assert_ne!(waiter.show("SELECT app_jobs_internal.register_waiter()").await, "~");
    assert_eq!(s.error("SELECT app_jobs_internal.register_waiter()").await.code().code(), "42501");
    drop(s);
    role.remove(&admin).await;
}

#[tokio::test]
async fn the_listener_registers_once_and_the_worker_learns_when_to_sleep() {
    let db = database().await;
    let (s, producer) = (Session::open(&db).await, Session::open(&db).await);
    let mut ear = Ear::on(&db, JOBS).await;
    s.run("SELECT app_jobs.set_notify('on_demand')").await;
    ear.count().await;
    let handle = handle(db.url(), "app_jobs");
    let instance = Instance {
        id: uuid::Uuid::new_v4(),
        lease: LIMIT,
        listens: true,
        overdue_message: String::new(),
        job_expiry: LIMIT,
    };
    let worker = WorkerDb::new(handle.clone(), "worker-0", instance);
    let listener = Listener::start(&handle, &[JOBS], "worker", "worker-0", None).await;
    producer.run("BEGIN; SELECT app_jobs.add_job('x')").await;
    let WaiterState::Until(horizon) = listener.register_waiter().await else { panic!("registered for the first time") };
    assert!(!worker.horizon_passed(horizon).await.unwrap());
    producer.run("COMMIT").await;
    eventually(LIMIT, async || worker.horizon_passed(horizon).await.unwrap()).await;
    assert_eq!(listener.register_waiter().await, WaiterState::Registered);
    assert_eq!(ear.count().await, 0);
    assert_eq!(woken(&s, &mut ear, "SELECT app_jobs.add_job('x')").await, 1);
    listener.unregister_waiter().await;
    // The questions are answered in order.
    listener.identity().await;
    assert_eq!(woken(&s, &mut ear, "SELECT app_jobs.add_job('x')").await, 0);
    s.run("SELECT app_jobs.set_notify('always')").await;
    assert!(matches!(listener.register_waiter().await, WaiterState::Until(_)), "it was on demand until now");
    assert_eq!(listener.register_waiter().await, WaiterState::Registered);
}
