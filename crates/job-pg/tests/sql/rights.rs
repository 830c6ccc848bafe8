//! Who may do what: PUBLIC nothing, a producer enqueue, administrators work.

use crate::sql::support::{Role, Session, database};

const SIGNATURE: &str = "p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'";

#[tokio::test]
async fn public_may_call_nothing_and_touch_nothing() {
    let db = database().await;
    let s = Session::open(&db).await;
    let callable = s
        .show(&format!(
            "SELECT {SIGNATURE} FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
              WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) AND a.grantee = 0 ORDER BY 1"
        ))
        .await;
    assert_eq!(callable, "", "EXECUTE is revoked from PUBLIC on every function");
    let touchable = s
        .show(
            "SELECT c.relname, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a
              WHERE c.relnamespace = 'app_jobs'::regnamespace AND a.grantee = 0
             UNION ALL
             SELECT n.nspname, a.privilege_type FROM pg_namespace n, aclexplode(n.nspacl) a
              WHERE n.nspname ~ '^app_jobs' AND a.grantee = 0",
        )
        .await;
    assert_eq!(touchable, "");
    assert!(s.number("SELECT count(*) FROM pg_proc WHERE pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace)").await > 20);
}

#[tokio::test]
async fn the_functions_that_run_as_their_owner_are_these_and_have_a_fixed_search_path() {
    let db = database().await;
    let s = Session::open(&db).await;
    let definers = s
        .show(
            "SELECT p.proname, count(*), string_agg(DISTINCT coalesce(array_to_string(p.proconfig, ' '), 'none'), ' and ')
               FROM pg_proc p WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) AND p.prosecdef GROUP BY 1 ORDER BY 1",
        )
        .await;
    let path = "search_path=pg_catalog, pg_temp";
    let expected = [
        ("add_job", 4),
        ("add_job_for_any_tenant", 1),
        ("add_scheduled_job", 10),
        ("add_scheduled_job_for_any_tenant", 1),
        ("close_host", 1),
        ("complete_in_transaction", 1),
        ("enqueue_all_for_any_tenant", 1),
        ("enqueue_all_for_own_tenant", 1),
        ("enqueue_for_any_tenant", 1),
        ("enqueue_for_own_tenant", 1),
        ("refuse_large_payload", 1),
        ("sweep_hosts", 1),
        ("tg_add_job_with_row", 1),
        ("tg_add_job_with_row_id", 1),
        ("tg_gates_counted", 1),
        ("tg_gates_limited", 1),
        ("tg_jobs_deleted", 1),
        ("tg_jobs_inserted", 1),
        ("tg_jobs_placed", 1),
        ("tg_jobs_updated", 1),
        ("tg_payload_bounded", 1),
        ("tg_schedule_bounded", 1),
        ("tg_scheduled_jobs_checked", 1),
        ("trigger_job_with_fields", 1),
    ];
    let settings = |name: &str| match name {
        "tg_jobs_placed" => format!("plan_cache_mode=force_generic_plan {path}"),
        _ => path.to_owned(),
    };
    let expected: Vec<String> =
        expected.iter().map(|(name, forms)| format!("{name}|{forms}|{}", settings(name))).collect();
    assert_eq!(definers, expected.join("\n"));
}

/// Functions without a search_path of their own that somebody may call: they call nothing but by exact types, for which
/// PostgreSQL's own comes first, as `overloads_in_a_callers_search_path_are_never_called` tries. (The forms of add_job
/// and add_scheduled_job with a db_id choose the function to call; those with wrong names raise an error.)
const EXACT: &str = "add_job add_scheduled_job graphql_add_job graphql_add_scheduled_job instance_lock retry_at \
    schedule_digest waiter_horizon waiter_horizon_passed waiter_lock wake_workers";

#[tokio::test]
async fn what_is_called_from_outside_sets_its_search_path() {
    let db = database().await;
    let s = Session::open(&db).await;
    let callable = s
        .show(
            "SELECT string_agg(DISTINCT p.proname::text, ' ' ORDER BY p.proname::text) FROM pg_proc p
              WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace)
                AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)
                AND EXISTS (SELECT FROM aclexplode(p.proacl) AS a WHERE a.grantee <> p.proowner)",
        )
        .await;
    assert_eq!(callable, EXACT.split_whitespace().collect::<Vec<_>>().join(" "));
    let forms = s
        .show(
            "SELECT DISTINCT p.proargtypes[0] = 'uuid'::regtype, p.proargtypes::oid[] @> ARRAY['app_jobs.misnamed'::regtype::oid]
               FROM pg_proc p
              WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) AND p.proname IN ('add_job', 'add_scheduled_job')
                AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false) ORDER BY 1",
        )
        .await;
    assert_eq!(forms, "f|t\nt|f");
    let triggers = "SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                     WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace)
                       AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)";
    assert_eq!(s.number(triggers).await, 0);
}

#[tokio::test]
async fn a_role_that_may_only_call_add_job_enqueues_and_nothing_else() {
    let db = database().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "producer").await;
    let s = role.session().await;
    assert_eq!(s.error("SELECT app_jobs.add_job('x')").await.code().code(), "42501", "without a grant");
    admin
        .run(&format!(
            "GRANT USAGE ON SCHEMA app_jobs TO {0};
             GRANT EXECUTE ON FUNCTION app_jobs.add_job(text, json, text, text, timestamptz, int, int) TO {0};
             GRANT EXECUTE ON FUNCTION app_jobs.add_job(text, text, text, text, timestamptz, int, int) TO {0};
             GRANT EXECUTE ON FUNCTION app_jobs.add_job(uuid, text, json, text, text, timestamptz, int, int) TO {0};
             GRANT EXECUTE ON FUNCTION app_jobs.add_scheduled_job(text, json, json, text, text, int, int) TO {0}",
            role.name
        ))
        .await;
    let tenant = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    s.run(&format!("SELECT set_config('jwt.claims.database_id', '{tenant}', false)")).await;
    // A search_path full of traps changes nothing for a function that runs as its owner.
    s.run(
        "CREATE TEMP TABLE jobs (id int); CREATE TEMP TABLE job_queues (id int); SET search_path = pg_temp, app_jobs, public",
    )
    .await;
    assert_eq!(s.show("SELECT task_identifier, database_id FROM app_jobs.add_job('x')").await, format!("x|{tenant}"));
    s.run("SELECT app_jobs.add_job('x', '{}', 'k', 'q'), app_jobs.add_job('x', '{}', 'k', 'q2')").await;
    s.run(&format!(
        "SELECT app_jobs.add_job('{tenant}'::uuid, 'x'), app_jobs.add_scheduled_job('x', schedule_info := '{{}}'::json)"
    ))
    .await;
    for forbidden in [
        "SELECT * FROM app_jobs.jobs",
        "INSERT INTO app_jobs.jobs (task_identifier) VALUES ('x')",
        "SELECT queue_name FROM app_jobs.job_queues",
        "DELETE FROM app_jobs.gates",
        "SELECT app_jobs.get_job('worker')",
        "SELECT app_jobs.complete_job('worker', 1)",
        "SELECT app_jobs.complete_jobs('{1}')",
        "SELECT app_jobs.run_scheduled_job(1)",
        "SELECT app_jobs.add_scheduled_job('x', '{}')",
    ] {
        assert_eq!(s.error(forbidden).await.code().code(), "42501", "{forbidden}");
    }
    assert_eq!(admin.number("SELECT count(*) FROM app_jobs.jobs").await, 3);
    drop(s);
    role.remove(&admin).await;
}

#[tokio::test]
async fn whoever_writes_an_applications_table_causes_its_job_without_any_right_to_the_schema() {
    let db = database().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "writer").await;
    admin
        .run(&format!(
            "CREATE TABLE public.a (id int); CREATE TABLE public.b (id int); CREATE TABLE public.c (id int);
             CREATE TRIGGER t AFTER INSERT ON public.a FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row_id('a');
             CREATE TRIGGER t AFTER INSERT ON public.b FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row('b');
             CREATE TRIGGER t AFTER INSERT ON public.c FOR EACH ROW EXECUTE FUNCTION app_jobs.trigger_job_with_fields('c', 'id');
             GRANT INSERT ON public.a, public.b, public.c TO {}",
            role.name
        ))
        .await;
    let s = role.session().await;
    s.run("INSERT INTO public.a VALUES (1); INSERT INTO public.b VALUES (2); INSERT INTO public.c VALUES (3)").await;
    let jobs = admin.show("SELECT task_identifier, payload::jsonb FROM app_jobs.jobs ORDER BY id").await;
    assert_eq!(jobs, "a|{\"id\": 1}\nb|{\"id\": 2}\nc|{\"id\": \"3\"}");
    drop(s);
    role.remove(&admin).await;
}

#[tokio::test]
async fn a_role_without_the_right_cannot_put_the_trigger_functions_on_its_own_table() {
    let db = database().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "outsider").await;
    admin.run(&format!("GRANT USAGE ON SCHEMA app_jobs TO {0}; GRANT CREATE ON SCHEMA public TO {0}", role.name)).await;
    let s = role.session().await;
    s.run("CREATE TABLE public.mine (id int)").await;
    for function in [
        "app_jobs.tg_add_job_with_row_id",
        "app_jobs.tg_add_job_with_row",
        "app_jobs.trigger_job_with_fields",
        "app_jobs_internal.tg_jobs_inserted",
    ] {
        let trigger =
            format!("CREATE TRIGGER t AFTER INSERT ON public.mine FOR EACH ROW EXECUTE FUNCTION {function}('x')");
        assert_eq!(s.error(&trigger).await.code().code(), "42501", "{function}");
    }
    drop(s);
    role.remove(&admin).await;
}

#[tokio::test]
async fn a_login_role_in_administrator_works_schedules_and_writes_directly() {
    let db = database().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "operator").await;
    admin.run(&format!("GRANT administrator TO {}", role.name)).await;
    let s = role.session().await;
    let id = s.add_job("'x', '{}', 'k', 'q'").await;
    assert_eq!(s.get_job("'worker'").await, Some(id));
    s.run(&format!(
        "SELECT app_jobs.fail_job('worker', {id}, 'no'), app_jobs.reschedule_jobs('{{{id}}}', run_at := now())"
    ))
    .await;
    assert_eq!(s.get_job("'worker'").await, Some(id));
    s.run("SELECT app_jobs.release_jobs('worker')").await;
    assert_eq!(s.get_job("'worker'").await, Some(id));
    s.run(&format!("SELECT app_jobs.complete_job('worker', {id})")).await;
    s.run(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name) VALUES ('x', 'q1'), ('x', 'q2');
         UPDATE app_jobs.jobs SET queue_name = 'q3' WHERE queue_name = 'q2';
         DELETE FROM app_jobs.jobs WHERE queue_name = 'q1'",
    )
    .await;
    assert_eq!(s.show("SELECT queue_name, job_count FROM app_jobs.job_queues").await, "q3|1");
    s.run(
        "SELECT app_jobs.add_scheduled_job('x', '{}', '{}', 'k');
         SELECT app_jobs.get_scheduled_job('scheduler-0'); SELECT app_jobs.run_scheduled_job(1);
         UPDATE app_jobs.scheduled_jobs SET schedule_info = '{\"hour\":1}';
         SELECT app_jobs.release_scheduled_jobs('scheduler-0');
         INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info) VALUES ('y', '{}');
         DELETE FROM app_jobs.scheduled_jobs;
         SELECT app_jobs.permanently_fail_jobs(array_agg(id)) FROM app_jobs.jobs;
         SELECT app_jobs.complete_jobs(array_agg(id)) FROM app_jobs.jobs",
    )
    .await;
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
    drop(s);
    role.remove(&admin).await;
}

#[tokio::test]
async fn whoever_may_write_jobs_needs_no_right_to_what_is_derived_from_them() {
    let db = database().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "operator").await;
    admin
        .run(&format!(
            "GRANT USAGE ON SCHEMA app_jobs TO {0}; GRANT SELECT, INSERT, UPDATE, DELETE ON app_jobs.jobs TO {0};
             SELECT app_jobs.show_all_tenants_to('{0}')",
            role.name
        ))
        .await;
    let s = role.session().await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier, queue_name) VALUES ('a', 'q'), ('b', 'q')").await;
    s.run("UPDATE app_jobs.jobs SET priority = 1 WHERE task_identifier = 'a'").await;
    s.run("DELETE FROM app_jobs.jobs WHERE task_identifier = 'b'").await;
    assert_eq!(admin.show("SELECT queue_name, job_count FROM app_jobs.job_queues").await, "q|1");
    drop(s);
    role.remove(&admin).await;
}

#[tokio::test]
async fn a_trigger_runs_no_code_of_the_tables_owner_as_the_schemas_owner() {
    let db = database().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "crafty").await;
    admin
        .run(&format!(
            "GRANT USAGE ON SCHEMA app_jobs TO {0}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app_jobs TO {0};
             CREATE SCHEMA crafty AUTHORIZATION {0}",
            role.name
        ))
        .await;
    let s = role.session().await;
    s.run(
        "CREATE TYPE crafty.trap AS ENUM ('bait');
         CREATE FUNCTION crafty.as_json(crafty.trap) RETURNS json LANGUAGE sql AS 'SELECT to_json(current_user)';
         CREATE CAST (crafty.trap AS json) WITH FUNCTION crafty.as_json(crafty.trap);
         CREATE TYPE crafty.pair AS (a int, b crafty.trap);
         CREATE FUNCTION crafty.as_text(crafty.pair) RETURNS text LANGUAGE sql AS 'SELECT current_user::text';
         CREATE CAST (crafty.pair AS text) WITH FUNCTION crafty.as_text(crafty.pair);
         CREATE TABLE crafty.rows (id int, direct crafty.trap, nested crafty.pair[]);
         CREATE TABLE crafty.nested (id int, nested crafty.pair[]);
         CREATE TABLE crafty.fields (id int, flag bool, direct crafty.trap, pair crafty.pair);
         CREATE TRIGGER t AFTER INSERT ON crafty.rows FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row('r');
         CREATE TRIGGER t AFTER INSERT ON crafty.nested FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row('n');
         CREATE TRIGGER t AFTER INSERT ON crafty.fields
            FOR EACH ROW EXECUTE FUNCTION app_jobs.trigger_job_with_fields('f', 'flag', 'direct', 'pair')",
    )
    .await;
    s.run(
        "INSERT INTO crafty.rows VALUES (1, 'bait', NULL);
         INSERT INTO crafty.nested VALUES (1, ARRAY[(1, 'bait')::crafty.pair]);
         INSERT INTO crafty.fields VALUES (1, true, 'bait', (1, 'bait')), (2, NULL, NULL, NULL)",
    )
    .await;
    let payloads = admin.show("SELECT payload::jsonb FROM app_jobs.jobs ORDER BY id").await;
    assert_eq!(
        payloads,
        "{\"id\": 1, \"direct\": \"bait\", \"nested\": null}\n\
         {\"id\": 1, \"nested\": [{\"a\": 1, \"b\": \"bait\"}]}\n\
         {\"flag\": \"true\", \"pair\": \"(1,bait)\", \"direct\": \"bait\"}\n\
         {\"flag\": null, \"pair\": null, \"direct\": null}"
    );
    drop(s);
    admin.run("DROP SCHEMA crafty CASCADE").await;
    role.remove(&admin).await;
}

#[tokio::test]
async fn nobody_else_has_columns_of_the_tables_row_types() {
    let place = crate::sql::support::Place::new().await;
    let role = place.member("jobs_producer").await;
    place.admin.run(&format!("CREATE SCHEMA shop AUTHORIZATION {}", role.name)).await;
    let s = role.session().await;
    for table in ["jobs", "scheduled_jobs", "gates"] {
        let error = s.error(&format!("CREATE TABLE shop.t (j app_jobs.{table})")).await;
        assert_eq!(error.code().code(), "42501", "{table}");
    }
    // Its calls, and variables of the type, go on.
    s.run("DO $$ DECLARE job app_jobs.jobs; BEGIN job := app_jobs.add_job('x'); END $$").await;
    drop(s);
    place.end(vec![role]).await;
}
