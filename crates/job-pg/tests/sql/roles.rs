//! The least-privilege set-up: an owner that migrates and is no superuser, jobs_runtime for the services, jobs_producer
//! for applications. Each tries what it must not be able to do, and does what it is for.

use job_pg::{Field, NewJob, enqueue, enqueue_many};

use crate::sql::support::{Place, Session};

const OWN: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const OTHER: &str = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a22";

/// Each statement ends with "permission denied", or "must be owner".
async fn all_denied(s: &Session, statements: &[&str]) {
    for statement in statements {
        let error = s.error(statement).await;
        assert_eq!(error.code().code(), "42501", "{statement}: {}", error.message());
    }
}

/// What a role may do to the tables and sequences, one line each.
async fn table_rights(s: &Session, role: &str) -> String {
    s.show(&format!(
        "SELECT c.relname, string_agg(r.name, ' ' ORDER BY r.n)
           FROM pg_class c
          CROSS JOIN unnest('{{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}}'::text[]) WITH ORDINALITY AS r (name, n)
          WHERE c.relnamespace = 'app_jobs'::regnamespace AND c.relkind = 'r' AND has_table_privilege('{role}', c.oid, r.name)
          GROUP BY 1
         UNION ALL
         SELECT c.relname, 'sequence' FROM pg_class c
          WHERE c.relnamespace = 'app_jobs'::regnamespace AND c.relkind = 'S'
            AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege('{role}', c.oid, 'USAGE, SELECT, UPDATE') END
         UNION ALL
         SELECT n.nspname, 'CREATE' FROM pg_namespace n
          WHERE n.nspname ~ '^app_jobs' AND has_schema_privilege('{role}', n.oid, 'CREATE')
         ORDER BY 1"
    ))
    .await
}

#[tokio::test]
async fn a_producer_may_call_the_functions_that_enqueue_and_nothing_else() {
    let place = Place::new().await;
    let role = place.member("jobs_producer").await;
    let callable = place
        .admin
        .show(&format!(
            "SELECT p.proname, count(*) FROM pg_proc p
              WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) AND has_function_privilege('{}', p.oid, 'EXECUTE')
              GROUP BY 1 ORDER BY 1",
            role.name
        ))
        .await;
    assert_eq!(
        callable,
        "add_job|6\nadd_jobs|2\nadd_scheduled_job|13\nenqueue|1\nenqueue_all|1\n\
         enqueue_all_for_own_tenant|1\nenqueue_for_own_tenant|1\ngraphql_add_job|1\ngraphql_add_scheduled_job|1"
    );
    assert_eq!(table_rights(&place.admin, &role.name).await, "");
    place.admin.run("SELECT app_jobs.add_job('x', '{}', 'k')").await;
    place.admin.run(&format!("GRANT TEMPORARY ON DATABASE {} TO {}", place.db.name(), role.name)).await;
    let s = role.session().await;
    s.run("CREATE TEMP TABLE mine (id int)").await;
    all_denied(
        &s,
        &[
            "SELECT id FROM app_jobs.jobs",
            "SELECT id FROM app_jobs.scheduled_jobs",
            "SELECT queue_name FROM app_jobs.job_queues",
            "SELECT name FROM app_jobs.settings",
            "SELECT version FROM app_jobs.schema_history",
            "SELECT last_value FROM app_jobs.jobs_id_seq",
            "INSERT INTO app_jobs.jobs (task_identifier) VALUES ('x')",
            "UPDATE app_jobs.jobs SET priority = -1",
            "DELETE FROM app_jobs.jobs",
            "TRUNCATE app_jobs.jobs",
            "COPY app_jobs.jobs TO STDOUT",
            "SELECT app_jobs.get_job('worker')",
            "SELECT app_jobs_internal.claim_jobs('worker', NULL, 1, NULL)",
            "SELECT app_jobs.complete_job('worker', 1)",
            "SELECT app_jobs.fail_job('worker', 1, 'no')",
            "SELECT app_jobs.release_jobs('worker')",
            "SELECT app_jobs.reschedule_jobs('{1}')",
            "SELECT app_jobs.permanently_fail_jobs('{1}')",
            "SELECT app_jobs.complete_jobs('{1}')",
            "SELECT app_jobs.get_scheduled_job('scheduler')",
            "SELECT app_jobs.run_scheduled_job(1)",
            "SELECT app_jobs.set_notify('on_demand')",
            "SELECT app_jobs.show_all_tenants_to(current_user)",
            "SELECT app_jobs_internal.enqueue_job(NULL, NULL, 'x', '{}', NULL, NULL, NULL, NULL, NULL)",
            "SELECT app_jobs_internal.write_jobs(NULL, NULL, '{x}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
            "CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row_id('x')",
            "CREATE TABLE app_jobs.mine (id int)",
            "CREATE FUNCTION app_jobs.add_job(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "ALTER TABLE app_jobs.jobs DISABLE ROW LEVEL SECURITY",
            "DROP FUNCTION app_jobs.add_job(text, json, text, text, timestamptz, int, int)",
            "DROP SCHEMA app_jobs CASCADE",
            "GRANT SELECT ON app_jobs.jobs TO PUBLIC",
            "SET ROLE administrator",
            "SET ROLE jobs_runtime",
        ],
    )
    .await;
    drop(s);
    place.end(vec![role]).await;
}

/// Every way to enqueue under a tenant that is given, without a key.
fn calls_for(tenant: &str) -> [String; 6] {
    [
        format!("SELECT app_jobs.add_job('{tenant}'::uuid, 'x')"),
        format!("SELECT app_jobs.add_job(identifier := 'x', db_id := '{tenant}', job_key := 'k1')"),
        format!("SELECT app_jobs.add_jobs('{{x,y}}', NULL, db_ids := '{{NULL,{tenant}}}')"),
        format!(
            "SELECT app_jobs.add_jobs('{{x,y}}', NULL, job_keys := '{{k2,k3}}', db_ids := '{{{tenant},{tenant}}}')"
        ),
        format!("SELECT app_jobs.add_jobs('[{{\"identifier\": \"x\", \"db_id\": \"{tenant}\"}}]')"),
        format!("SELECT app_jobs.add_scheduled_job('{tenant}'::uuid, 'x', '{{}}', '{{}}')"),
    ]
}

#[tokio::test]
async fn a_producer_enqueues_for_its_own_tenant_in_every_form_and_for_no_other() {
    let place = Place::new().await;
    let role = place.member("jobs_producer").await;
    let s = role.session().await;
    // The claim is written in another way than the argument: both are the same uuid.
    s.run(&format!("SELECT set_config('jwt.claims.database_id', '{{{}}}', false)", OWN.to_uppercase())).await;
    for call in calls_for(OWN) {
        s.run(&call).await;
    }
    for call in [
        "SELECT app_jobs.add_job('x')",
        "SELECT app_jobs.add_job('x', '{}', 'k', 'q')",
        "SELECT app_jobs.add_job('x', '{}', 'k', 'q', NULL, NULL)",
        "SELECT app_jobs.add_job(NULL::uuid, 'x')",
        "SELECT app_jobs.add_jobs('[{\"identifier\": \"x\", \"db_id\": null}]')",
        "SELECT app_jobs.add_scheduled_job('x', '{}', '{}', 'k')",
        "SELECT app_jobs.add_scheduled_job(NULL::uuid, 'x', '{}')",
    ] {
        s.run(call).await;
    }
    let tenants =
        "SELECT DISTINCT database_id FROM app_jobs.jobs UNION SELECT database_id FROM app_jobs.scheduled_jobs";
    assert_eq!(place.admin.show(tenants).await, OWN);
    let count = "SELECT (SELECT count(*) FROM app_jobs.jobs), (SELECT count(*) FROM app_jobs.scheduled_jobs)";
    let before = place.admin.show(count).await;
    assert_eq!(before, "11|3");
    for call in calls_for(OTHER) {
        let error = s.error(&call).await;
        assert_eq!(error.code().code(), "42501", "{call}: {}", error.message());
        assert!(error.message().contains("_for_any_tenant"), "{call}: {}", error.message());
    }
    // Without a claim no tenant is its own; with a broken one neither.
    for claim in ["", "broken"] {
        s.run(&format!("SELECT set_config('jwt.claims.database_id', '{claim}', false)")).await;
        for call in calls_for(OWN) {
            assert_eq!(s.error(&call).await.code().code(), "42501", "claim {claim:?}: {call}");
        }
    }
    assert_eq!(place.admin.show(count).await, before);
    assert_eq!(s.error("SELECT app_jobs.add_job(NULL::uuid, 'x')").await.code().code(), "22P02", "a broken claim");
    s.run("SELECT set_config('jwt.claims.database_id', '', false); SELECT app_jobs.add_job(NULL::uuid, 'without')")
        .await;
    assert_eq!(place.admin.show("SELECT database_id FROM app_jobs.jobs WHERE task_identifier = 'without'").await, "~");
    drop(s);
    place.end(vec![role]).await;
}

#[tokio::test]
async fn the_crate_enqueues_as_a_producer() {
    let place = Place::new().await;
    let role = place.member("jobs_producer").await;
    let s = role.session().await;
    s.run(&format!("SELECT set_config('jwt.claims.database_id', '{OWN}', false)")).await;
    s.run(&format!("SELECT set_config('jwt.claims.user_id', '{OWN}', false)")).await;
    let job = |tenant: Option<&str>| {
        let job = NewJob::raw("x", "");
        if let Some(tenant) = tenant { job.tenant(tenant.parse().unwrap()) } else { job }
    };
    let actor = |actor: &str| job(None).actor(actor.parse().unwrap());
    for own in [job(None), job(Some(OWN)), actor(OWN)] {
        enqueue(&s.client, own.clone()).await.unwrap();
        enqueue_many(&s.client, [own, job(None)]).await.unwrap();
    }
    for (other, field) in [
        (job(Some(OTHER)), Field::Tenant),
        (actor(OTHER), Field::Actor),
        (actor(OTHER).tenant(OTHER.parse().unwrap()), Field::Tenant),
    ] {
        for error in [
            enqueue(&s.client, other.clone()).await.unwrap_err(),
            enqueue_many(&s.client, [job(None), other]).await.unwrap_err(),
        ] {
            assert_eq!(error.field(), Some(field), "{error:?}");
            assert_eq!(error.sql_state().map(|state| state.code()), Some("42501"), "{error:?}");
        }
    }
    let error = enqueue_many(&s.client, [job(None), actor(OTHER)]).await.unwrap_err();
    assert!(error.to_string().starts_with("jobs[1].actor: "), "{error}");
    // Neither can the parts be called past the choice, nor jobs be completed.
    for call in [
        "enqueue_for_any_tenant(NULL, NULL, 'x', '{}', NULL, NULL, NULL, NULL, NULL, NULL)",
        "enqueue_all_for_any_tenant('{x}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1)",
        "enqueue_job(NULL, NULL, 'x', '{}', NULL, NULL, NULL, NULL, NULL, NULL)",
        "complete_in_transaction('1.1')",
    ] {
        let schema = if call.starts_with("enqueue_job") { "app_jobs_internal" } else { "app_jobs" };
        assert_eq!(s.error(&format!("SELECT {schema}.{call}")).await.code().code(), "42501", "{call}");
    }
    assert_eq!(
        place.admin.show("SELECT database_id, count(*) FROM app_jobs.jobs GROUP BY 1").await,
        format!("{OWN}|9")
    );
    drop(s);
    place.end(vec![role]).await;
}

#[tokio::test]
async fn a_key_of_another_tenant_is_an_error_for_a_producer() {
    let place = Place::new().await;
    let role = place.member("jobs_producer").await;
    place.admin.run(&format!("SELECT app_jobs.add_job('{OTHER}'::uuid, 'theirs', '{{}}', 'k')")).await;
    place
        .admin
        .run(&format!("SELECT app_jobs.add_scheduled_job('{OTHER}'::uuid, 'theirs', '{{}}', '{{}}', 'k')"))
        .await;
    let s = role.session().await;
    for claim in [OWN, ""] {
        s.run(&format!("SELECT set_config('jwt.claims.database_id', '{claim}', false)")).await;
        for call in [
            "SELECT app_jobs.add_job('mine', '{}', 'k')",
            "SELECT app_jobs.add_jobs('{mine}', NULL, '{k}')",
            "SELECT app_jobs.add_scheduled_job('mine', '{}', '{}', 'k')",
        ] {
            let error = s.error(call).await;
            assert_eq!(error.code().code(), "23505", "{call}: {}", error.message());
        }
    }
    let rows =
        "SELECT task_identifier FROM app_jobs.jobs UNION ALL SELECT task_identifier FROM app_jobs.scheduled_jobs";
    assert_eq!(place.admin.show(rows).await, "theirs\ntheirs");
    drop(s);
    place.end(vec![role]).await;
}

#[tokio::test]
async fn whose_right_it_is_to_name_a_tenant_is_the_role_that_calls_not_the_one_that_began_the_session() {
    let place = Place::new().await;
    let (producer, trusted) = (place.member("jobs_producer").await, place.member("jobs_runtime").await);
    place
        .admin
        .run(&format!(
            "CREATE SCHEMA shop AUTHORIZATION {trusted};
             CREATE SCHEMA own AUTHORIZATION {producer};
             GRANT USAGE ON SCHEMA shop TO {producer};
             SET ROLE {trusted};
             CREATE FUNCTION shop.order(tenant uuid) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
                 'BEGIN PERFORM app_jobs.add_job(tenant, ''order''); END';
             SET ROLE {producer};
             CREATE FUNCTION own.order(tenant uuid) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
                 'BEGIN PERFORM app_jobs.add_job(tenant, ''order''); END';
             GRANT USAGE ON SCHEMA own TO PUBLIC;
             RESET ROLE",
            trusted = trusted.name,
            producer = producer.name
        ))
        .await;
    // A function of the application, whose owner may: its producer enqueues for whomever the function lets it.
    let s = producer.session().await;
    s.run(&format!("SELECT shop.order('{OTHER}')")).await;
    assert_eq!(place.admin.show("SELECT database_id FROM app_jobs.jobs").await, OTHER);
    // A superuser's session in the producer's function, or in its role, is the producer.
    all_denied(&place.admin, &[&format!("SELECT own.order('{OTHER}')")]).await;
    place.admin.run(&format!("SET ROLE {}", producer.name)).await;
    all_denied(&place.admin, &[&format!("SELECT app_jobs.add_job('{OTHER}'::uuid, 'x')")]).await;
    place.admin.run("RESET ROLE; DROP SCHEMA shop CASCADE; DROP SCHEMA own CASCADE").await;
    drop(s);
    place.end(vec![producer, trusted]).await;
}

#[tokio::test]
async fn the_runtime_role_has_the_rights_that_the_services_need_and_no_others() {
    let place = Place::new().await;
    let role = place.member("jobs_runtime").await;
    let rights = table_rights(&place.admin, &role.name).await;
    assert_eq!(
        rights,
        "attempts_to_return|SELECT INSERT UPDATE DELETE\ncancelled_attempts|SELECT INSERT UPDATE DELETE\ngate_tokens|SELECT INSERT UPDATE DELETE\ngate_usage|SELECT INSERT DELETE\ngate_usage_log|SELECT INSERT DELETE\ngates|SELECT\nhost_failures|SELECT INSERT UPDATE DELETE\njobs|SELECT INSERT UPDATE DELETE\nrefused_jobs|SELECT INSERT UPDATE DELETE\nschedule_fires|SELECT INSERT UPDATE DELETE\n\
         scheduled_jobs|SELECT\nschedulers|SELECT INSERT UPDATE DELETE\nsettings|SELECT\n\
         task_hosts|SELECT INSERT UPDATE DELETE\nworkers|SELECT INSERT UPDATE DELETE"
    );
    let columns = "SELECT string_agg(a.attname::text, ' ' ORDER BY a.attname::text) FROM pg_attribute a
                    WHERE a.attrelid = 'app_jobs.scheduled_jobs'::regclass AND a.attacl::text ~ 'jobs_runtime=w'";
    assert_eq!(
        place.admin.show(columns).await,
        "ended_at fired_until instance last_error last_scheduled last_scheduled_id locked_at locked_by owed_since released_at"
    );
    let as_owner = place
        .admin
        .show(&format!(
            "SELECT DISTINCT p.proname FROM pg_proc p
              WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) AND p.prosecdef AND has_function_privilege('{}', p.oid, 'EXECUTE')
              ORDER BY 1",
            role.name
        ))
        .await;
    assert_eq!(
        as_owner,
        "add_job\nadd_job_for_any_tenant\nclose_host\ncomplete_in_transaction\n\
         enqueue_all_for_any_tenant\nenqueue_all_for_own_tenant\nenqueue_for_any_tenant\nenqueue_for_own_tenant\nrefuse_large_payload\nsweep_hosts"
    );
    place.admin.run("SELECT app_jobs.add_scheduled_job('x', '{}', '{}', 'k')").await;
    let s = role.session().await;
    all_denied(
        &s,
        &[
            "SELECT app_jobs.add_scheduled_job('x')",
            "SELECT app_jobs.add_scheduled_job(NULL::uuid, 'x')",
            "SELECT app_jobs_internal.enqueue_scheduled_job(NULL, NULL, 'x', '{}', '{}', NULL, NULL, NULL, NULL)",
            "INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info) VALUES ('x', '{}')",
            "DELETE FROM app_jobs.scheduled_jobs",
            "INSERT INTO app_jobs.gates (kind, name) VALUES ('task', 'x')",
            "DELETE FROM app_jobs.gates",
            "SELECT app_jobs.set_notify('on_demand')",
            "INSERT INTO app_jobs.settings VALUES ('notify', 'on_demand')",
            "DELETE FROM app_jobs.settings",
            "SELECT version FROM app_jobs.schema_history",
            "TRUNCATE app_jobs.jobs",
            "CREATE TABLE app_jobs.mine (id int)",
            "CREATE OR REPLACE FUNCTION app_jobs.get_job(text, text[], interval) RETURNS app_jobs.jobs LANGUAGE sql AS 'SELECT NULL'",
            "ALTER TABLE app_jobs.jobs ADD COLUMN mine int",
            "ALTER TABLE app_jobs.jobs DISABLE TRIGGER ALL",
            "ALTER TABLE app_jobs.jobs DISABLE ROW LEVEL SECURITY",
            "CREATE TRIGGER t AFTER INSERT ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row_id('x')",
            "CREATE INDEX ON app_jobs.jobs (priority)",
            "CREATE POLICY mine ON app_jobs.jobs USING (true)",
            "DROP POLICY own_tenant ON app_jobs.jobs",
            "SELECT app_jobs.show_all_tenants_to('public')",
            "DROP TABLE app_jobs.jobs",
            "DROP SCHEMA app_jobs CASCADE",
            "CREATE ROLE mine",
            "SET ROLE administrator",
        ],
    )
    .await;
    drop(s);
    place.end(vec![role]).await;
}

#[tokio::test]
async fn the_runtime_role_claims_settles_releases_and_runs_schedules_of_all_tenants() {
    let place = Place::new().await;
    let role = place.member("jobs_runtime").await;
    place
        .admin
        .run(&format!(
            "SELECT app_jobs.add_job('{OWN}'::uuid, 'a', '{{}}', 'k', 'q'), app_jobs.add_job('{OTHER}'::uuid, 'b', '{{}}', NULL, 'q');
             SELECT app_jobs.add_job('c');
             SELECT app_jobs.add_scheduled_job('{OWN}'::uuid, 'tick', '{{}}', '{{}}', 'tick', 'q')"
        ))
        .await;
    let s = role.session().await;
    // A claim of one tenant, left behind in the session, hides nothing from it.
    s.run(&format!("SELECT set_config('jwt.claims.database_id', '{OTHER}', false)")).await;
    let claim = "SELECT string_agg(task_identifier, ' ' ORDER BY id) FROM app_jobs_internal.claim_jobs('worker', NULL, 9, NULL)";
    assert_eq!(s.show(claim).await, "a c", "one job a queue");
    assert_eq!(
        s.show("SELECT app_jobs_internal.end_held_jobs('{1}', '{worker}', '{NULL}', '{no}', '{NULL}', '{t}', '{f}')")
            .await,
        "{}"
    );
    assert_eq!(s.show(claim).await, "b");
    s.run("SELECT app_jobs.release_jobs('worker')").await;
    assert_eq!(s.show(claim).await, "b c");
    assert_eq!(
        s.show("SELECT app_jobs_internal.complete_held_jobs('{2,3}', '{worker,worker}', '{NULL,NULL}')").await,
        "{}"
    );
    assert_eq!(s.number("SELECT id FROM app_jobs.get_scheduled_job('scheduler')").await, 1);
    assert_eq!(s.number("SELECT id FROM app_jobs.run_scheduled_job(1)").await, 4);
    assert_eq!(s.show("SELECT database_id FROM app_jobs.jobs WHERE id = 4").await, OWN);
    s.run("SELECT app_jobs.release_scheduled_jobs('scheduler')").await;
    s.run("SELECT app_jobs.reschedule_jobs('{1}', run_at := now()); SELECT app_jobs.complete_jobs('{4}')").await;
    assert_eq!(s.show("SELECT id FROM app_jobs.get_job('worker')").await, "1");
    assert_eq!(s.show("SELECT id FROM app_jobs.complete_job('worker', 1)").await, "1");
    assert_eq!(
        s.show("SELECT (SELECT count(*) FROM app_jobs.jobs), (SELECT count(*) FROM app_jobs.job_queues)").await,
        "0|0"
    );
    s.run(&format!("SELECT app_jobs.add_job('{OWN}'::uuid, 'x'), app_jobs.add_jobs('{{x}}', NULL)")).await;
    s.run("SELECT app_jobs_internal.register_waiter()").await;
    // A worker's heartbeat, which registers it.
    s.run("SELECT app_jobs_internal.heartbeat('worker', gen_random_uuid(), '30 s', false, 'late', '4 hours')").await;
    assert_eq!(s.show("SELECT worker_id FROM app_jobs.workers").await, "worker");
    drop(s);
    place.end(vec![role]).await;
}

#[tokio::test]
async fn the_owner_migrates_and_administers_and_is_nothing_beyond_its_schema() {
    let place = Place::new().await;
    place.admin.run("CREATE TABLE public.secrets (id int)").await;
    let s = place.owner.session().await;
    all_denied(
        &s,
        &[
            "SELECT id FROM public.secrets",
            "SELECT rolpassword FROM pg_authid",
            "CREATE ROLE mine",
            "ALTER ROLE jobs_runtime LOGIN",
            "GRANT administrator TO current_user",
            "COPY (SELECT 1) TO PROGRAM 'cat'",
            "SELECT pg_read_file('PG_VERSION')",
            "ALTER SYSTEM SET work_mem = '1MB'",
            "SET ROLE administrator",
        ],
    )
    .await;
    s.run(&format!(
        "SELECT app_jobs.add_job('{OWN}'::uuid, 'a'), app_jobs.add_job('{OTHER}'::uuid, 'b'), app_jobs.add_job('c')"
    ))
    .await;
    s.run(&format!("SELECT set_config('jwt.claims.database_id', '{OTHER}', false)")).await;
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 3, "the owner sees every row");
    s.run("SELECT app_jobs.set_notify('on_demand'); ALTER TABLE app_jobs.jobs ADD COLUMN note text").await;
    drop(s);
    place.end(vec![]).await;
}
