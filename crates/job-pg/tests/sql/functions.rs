//! Who may call which function of the schema: each one is decided on here and in grants.sql. A function that is new is
//! nobody's, and fails the test, until it is in both.

use std::collections::{BTreeMap, BTreeSet};

use crate::sql::support::{Place, Role, Session, database, migrate_schema};

/// Whoever makes jobs, for its own tenant.
const ENQUEUES: &str = "administrator jobs_producer jobs_runtime";
/// What makes schedules, for its own tenant: the services make none.
const SCHEDULES: &str = "administrator jobs_producer";
/// The services, and what operators do by hand.
const WORKS: &str = "administrator jobs_runtime";
const ADMINISTERS: &str = "administrator";
/// The owner, and what runs as the owner.
const NOBODY: &str = "";

/// Every function, with all of its forms, and who may call it.
const FUNCTIONS: &[(&str, &str)] = &[
    ("accept_held_jobs", WORKS),
    ("add_job", ENQUEUES),
    ("add_job_for_any_tenant", WORKS),
    ("add_jobs", ENQUEUES),
    ("add_scheduled_job", SCHEDULES),
    ("add_scheduled_job_for_any_tenant", ADMINISTERS),
    ("add_up_usage", WORKS),
    ("added_upto", WORKS),
    ("cancel_jobs", WORKS),
    ("changeable_jobs", WORKS),
    ("claim_instance_jobs", WORKS),
    ("claim_jobs", WORKS),
    ("claim_scheduled_jobs", WORKS),
    ("claim_schedules", WORKS),
    ("claim_uuid", NOBODY),
    ("close_host", WORKS),
    ("complete_and_claim_next", WORKS),
    ("complete_held_jobs", WORKS),
    ("complete_in_transaction", WORKS),
    ("complete_job", WORKS),
    ("complete_jobs", WORKS),
    ("cron_fault", NOBODY),
    ("end_held_jobs", WORKS),
    ("ended_instances", WORKS),
    ("enqueue", ENQUEUES),
    ("enqueue_all", ENQUEUES),
    ("enqueue_all_for_any_tenant", WORKS),
    ("enqueue_all_for_own_tenant", ENQUEUES),
    ("enqueue_for_any_tenant", WORKS),
    ("enqueue_for_own_tenant", ENQUEUES),
    ("enqueue_from_schedule", WORKS),
    ("enqueue_job", WORKS),
    ("enqueue_jobs", NOBODY),
    ("enqueue_scheduled_job", NOBODY),
    ("exhausted_jobs", WORKS),
    ("extend_job", WORKS),
    ("fail_job", WORKS),
    ("fair_gates", WORKS),
    ("fair_shares", WORKS),
    ("fire_schedule", WORKS),
    ("fire_schedules", WORKS),
    ("force_unlock_workers", WORKS),
    ("forget_worker", WORKS),
    ("free_jobs", WORKS),
    ("gate_key", WORKS),
    ("gate_name", ADMINISTERS),
    ("gate_room", WORKS),
    ("gates_behind", WORKS),
    ("get_job", WORKS),
    ("get_scheduled_job", WORKS),
    ("graphql_add_job", ENQUEUES),
    ("graphql_add_scheduled_job", SCHEDULES),
    ("has_trusted_json", NOBODY),
    ("heartbeat", WORKS),
    ("host_asked", WORKS),
    ("host_failed", WORKS),
    ("host_news", WORKS),
    ("host_succeeded", WORKS),
    ("id_batches", WORKS),
    ("instance_lock", WORKS),
    ("interrupt_jobs", WORKS),
    ("jobs_held_elsewhere", WORKS),
    ("json_expression", NOBODY),
    ("leave_scheduler", WORKS),
    ("lock_claimed_jobs", WORKS),
    ("lock_free_schedules", WORKS),
    ("lock_idle_jobs", WORKS),
    ("lock_limits", ADMINISTERS),
    ("mark_schedules", WORKS),
    ("next_run_at", WORKS),
    ("open_gates", WORKS),
    ("open_queues", WORKS),
    ("open_ruled_gates", WORKS),
    ("pause", ADMINISTERS),
    ("permanently_fail_jobs", WORKS),
    ("positions_left", WORKS),
    ("prune_schedule_fires", WORKS),
    ("recount_usage", WORKS),
    ("refuse_held_gate", ADMINISTERS),
    ("refuse_large_payload", WORKS),
    ("refuse_other_table", NOBODY),
    ("refuse_untyped_db_id", NOBODY),
    ("register_waiter", WORKS),
    ("release_held_jobs", WORKS),
    ("release_jobs", WORKS),
    ("release_scheduled_jobs", WORKS),
    ("release_schedules", WORKS),
    ("remove_job", WORKS),
    ("require_worker_id", WORKS),
    ("reschedule_jobs", WORKS),
    ("resume", ADMINISTERS),
    ("retry_at", WORKS),
    ("return_attempts", WORKS),
    ("row_expression", NOBODY),
    ("rule_json", NOBODY),
    ("run_at_of", NOBODY),
    ("run_scheduled_job", WORKS),
    ("schedule_digest", WORKS),
    ("schedule_fault", NOBODY),
    ("scheduler_heartbeat", WORKS),
    ("set_fair", ADMINISTERS),
    ("set_limit", ADMINISTERS),
    ("set_max_payload", ADMINISTERS),
    ("set_notify", ADMINISTERS),
    ("set_weight", ADMINISTERS),
    ("show_all_tenants_to", NOBODY),
    ("spend_tokens", WORKS),
    ("sweep", WORKS),
    ("sweep_hosts", WORKS),
    ("take_back_jobs", WORKS),
    ("tell_task_hosts", WORKS),
    ("tenant_weight", WORKS),
    ("tg_add_job_with_row", NOBODY),
    ("tg_add_job_with_row_id", NOBODY),
    ("tg_gates_counted", NOBODY),
    ("tg_gates_limited", NOBODY),
    ("tg_jobs_deleted", NOBODY),
    ("tg_jobs_inserted", NOBODY),
    ("tg_jobs_placed", NOBODY),
    ("tg_jobs_touch", NOBODY),
    ("tg_jobs_updated", NOBODY),
    ("tg_payload_bounded", NOBODY),
    ("tg_schedule_bounded", NOBODY),
    ("tg_scheduled_jobs_checked", NOBODY),
    ("tg_scheduled_jobs_notify", NOBODY),
    ("tg_scheduled_jobs_renewed", NOBODY),
    ("trigger_job_with_fields", NOBODY),
    ("trigger_task", NOBODY),
    ("unregister_waiter", WORKS),
    ("waiter_horizon", WORKS),
    ("waiter_horizon_passed", WORKS),
    ("waiter_lock", WORKS),
    ("wake_workers", WORKS),
    ("warn_of_held_jobs", WORKS),
    ("warn_operator", WORKS),
    ("write_jobs", NOBODY),
];

/// Every function of a schema with the roles, of those `of`, that may call it; a function whose forms differ comes
/// twice. Of no other roles is asked: another test may be dropping one.
async fn callable(s: &Session, of: &str) -> String {
    s.show(&format!(
        "SELECT DISTINCT p.proname, (
                SELECT coalesce(string_agg(r.name, ' ' ORDER BY r.name), '') FROM unnest('{{{of}}}'::text[]) AS r (name)
                 WHERE has_function_privilege(r.name, p.oid, 'EXECUTE'))
           FROM pg_proc p WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) ORDER BY 1"
    ))
    .await
}

#[tokio::test]
async fn every_function_is_granted_to_whom_it_is_for_and_to_nobody_else() {
    let place = Place::new().await;
    let found = callable(&place.admin, "administrator,jobs_runtime,jobs_producer").await;
    let expected: Vec<String> = FUNCTIONS.iter().map(|(name, roles)| format!("{name}|{roles}")).collect();
    let sorted: BTreeMap<&str, &str> = FUNCTIONS.iter().copied().collect();
    assert_eq!(sorted.len(), FUNCTIONS.len(), "each function once");
    let undecided: Vec<&str> = found.lines().filter(|line| !expected.iter().any(|known| known == line)).collect();
    assert_eq!(undecided, Vec::<&str>::new(), "decide in this file and in migrations/grants.sql who may call these");
    let gone: Vec<&String> =
        expected.iter().filter(|known| !found.lines().any(|line| line == known.as_str())).collect();
    assert_eq!(gone, Vec::<&String>::new(), "these are not there");
    // Nobody else has a right to any: not PUBLIC, and no role that the server may have.
    let others = place
        .admin
        .show(
            "SELECT DISTINCT p.proname, a.grantee FROM pg_proc p CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
               LEFT JOIN pg_roles r ON r.oid = a.grantee
              WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) AND a.grantee <> p.proowner
                AND coalesce(r.rolname, '') NOT IN ('administrator', 'jobs_runtime', 'jobs_producer')",
        )
        .await;
    assert_eq!(others, "");
    place.end(vec![]).await;
}

/// Every function of a schema, without its forms' arguments.
async fn functions_of(s: &Session, schema: &str) -> BTreeSet<String> {
    let names = format!("SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = '{schema}'::regnamespace");
    s.show(&names).await.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_jobs_schema_holds_the_interface_with_comments_and_nothing_else() {
    let place = Place::new().await;
    let mut interface = functions_of(&place.admin, "app_jobs").await;
    let internal = functions_of(&place.admin, "app_jobs_internal").await;
    // The list of cargo xtask tidy, which says of each file's functions where they belong.
    let tidy = include_str!("../../../../xtask/src/tidy/migrations.rs");
    let list = tidy.split("const INTERFACE: &[&str] = &[").nth(1).and_then(|rest| rest.split("];").next()).unwrap();
    for name in list.split('"').skip(1).step_by(2) {
        assert!(interface.remove(name), "{name} is of the interface");
    }
    assert_eq!(interface, BTreeSet::new(), "these belong into the schema of internal functions");
    assert!(internal.len() > 40, "{internal:?}");
    let silent = place
        .admin
        .show(
            "SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'app_jobs'::regnamespace
                AND coalesce(obj_description(p.oid, 'pg_proc'), '') !~ '^(@behavior -[*]\n)?(@name [a-z_]+\n)?[A-Z]'",
        )
        .await;
    assert_eq!(silent, "", "each has a comment that says what it does");
    // Tables, views, types: internal is what is called, and nothing else.
    let others = "SELECT count(*) FROM pg_class WHERE relnamespace = 'app_jobs_internal'::regnamespace";
    assert_eq!(place.admin.number(others).await, 0);
    // Who may look into the schema of internal functions.
    let rights =
        "SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END, a.privilege_type
          FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
         WHERE n.nspname = 'app_jobs_internal' AND a.grantee <> n.nspowner ORDER BY 1";
    assert_eq!(place.admin.show(rights).await, "administrator|USAGE\njobs_runtime|USAGE");
    place.end(vec![]).await;
}

/// The names in the lists of functions (`… CONSTANT text[] := '{…}'`) of an SQL file.
fn listed(sql: &str) -> Vec<&str> {
    let lists = sql.split("CONSTANT text[] :=").skip(1).filter_map(|rest| rest.split(';').next());
    let names = lists.filter_map(|list| list.split('{').nth(1)?.split('}').next());
    names.flat_map(|names| names.split(',').map(str::trim)).collect()
}

#[tokio::test]
async fn a_list_of_functions_names_none_that_is_not_there() {
    let place = Place::new().await;
    let found = place
        .admin
        .show("SELECT DISTINCT p.proname FROM pg_proc p WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace)")
        .await;
    let grants = include_str!("../../migrations/grants.sql");
    for (file, sql, lists) in
        [("grants.sql", grants, 3), ("after_functions.sql", include_str!("../../migrations/after_functions.sql"), 1)]
    {
        assert_eq!(sql.matches("CONSTANT text[]").count(), lists, "the lists of {file}");
        let names = listed(sql);
        assert!(names.len() >= 10, "{file}: {names:?}");
        let gone: Vec<&&str> = names.iter().filter(|name| !found.lines().any(|line| line == **name)).collect();
        assert_eq!(gone, Vec::<&&str>::new(), "{file} names functions that are not there");
    }
    // What the roles got, they got by the lists.
    let granted = FUNCTIONS.iter().filter(|(_, roles)| !roles.is_empty()).map(|(name, _)| *name);
    let by_list: BTreeSet<&str> = listed(grants).into_iter().collect();
    assert_eq!(by_list, granted.collect::<BTreeSet<&str>>());
    place.end(vec![]).await;
}

#[tokio::test]
async fn a_trigger_function_is_granted_to_none_of_the_roles_however_they_got_it() {
    let db = database().await;
    let s = Session::open(&db).await;
    let owner = Role::create(&db, &s, "shop").await;
    // As earlier versions did, and as somebody may have done by hand.
    s.run(&format!(
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app_jobs, app_jobs_internal TO administrator, jobs_runtime, jobs_producer;
         GRANT EXECUTE ON FUNCTION app_jobs.tg_add_job_with_row_id() TO {}",
        owner.name
    ))
    .await;
    let _ = migrate_schema(db.url(), "app_jobs").await.unwrap();
    let found = callable(&s, "administrator,jobs_runtime,jobs_producer").await;
    let expected: Vec<String> = FUNCTIONS.iter().map(|(name, roles)| format!("{name}|{roles}")).collect();
    assert_eq!(found, expected.join("\n"));
    // A role of one's own keeps what it was given.
    let own = callable(&s, &owner.name).await;
    let own: Vec<&str> = own.lines().filter(|line| !line.ends_with('|')).collect();
    assert_eq!(own, [format!("tg_add_job_with_row_id|{}", owner.name)]);
    owner.remove(&s).await;
}
