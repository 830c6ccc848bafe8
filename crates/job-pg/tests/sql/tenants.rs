//! Row level security: whose rows a role sees, and who sees all as before.

use job_testkit::TestDb;

use crate::sql::support::{Role, Session, database, migrate_schema};

const OWN: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const OTHER: &str = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a22";

const ALL_RIGHTS: &str =
    "SELECT, INSERT, UPDATE, DELETE ON app_jobs.jobs, app_jobs.scheduled_jobs, app_jobs.job_queues";

/// A job and a schedule of each of two tenants, and of none.
async fn rows_of_three(admin: &Session) {
    for tenant in [format!("'{OWN}'"), format!("'{OTHER}'"), "NULL".to_owned()] {
        admin
            .run(&format!(
                "SELECT app_jobs.add_job({tenant}::uuid, 'x', queue_name := 'q' || coalesce({tenant}, '')),
                        app_jobs.add_scheduled_job({tenant}::uuid, 'x')"
            ))
            .await;
    }
}

async fn claim(s: &Session, tenant: &str) {
    s.run(&format!("SELECT set_config('jwt.claims.database_id', '{tenant}', false)")).await;
}

/// How many rows of jobs, scheduled_jobs and job_queues a session sees.
async fn sees(s: &Session) -> String {
    s.show(
        "SELECT (SELECT count(*) FROM app_jobs.jobs), (SELECT count(*) FROM app_jobs.scheduled_jobs),
                (SELECT count(*) FROM app_jobs.job_queues)",
    )
    .await
}

#[tokio::test]
async fn a_role_with_rights_to_the_tables_sees_and_writes_the_rows_of_its_tenant() {
    let db = database().await;
    let admin = Session::open(&db).await;
    rows_of_three(&admin).await;
    let role = Role::create(&db, &admin, "tenant").await;
    admin.run(&format!("GRANT USAGE ON SCHEMA app_jobs TO {0}; GRANT {ALL_RIGHTS} TO {0}", role.name)).await;
    let s = role.session().await;
    assert_eq!(sees(&s).await, "0|0|0", "without a claim");
    claim(&s, "").await;
    assert_eq!(sees(&s).await, "0|0|0", "with an empty one");
    claim(&s, OWN).await;
    assert_eq!(sees(&s).await, "1|1|1");
    assert_eq!(s.show("SELECT DISTINCT database_id FROM app_jobs.jobs").await, OWN);
    claim(&s, OTHER).await;
    assert_eq!(s.show("SELECT DISTINCT database_id FROM app_jobs.scheduled_jobs").await, OTHER);
    claim(&s, "broken").await;
    assert_eq!(s.error("SELECT id FROM app_jobs.jobs").await.code().code(), "22P02");

    claim(&s, OWN).await;
    for table in ["jobs (task_identifier,", "scheduled_jobs (schedule_info, task_identifier,"] {
        let info = if table.starts_with('s') { "'{}', " } else { "" };
        for tenant in [format!("'{OTHER}'"), "NULL".to_owned()] {
            let error =
                s.error(&format!("INSERT INTO app_jobs.{table} database_id) VALUES ({info}'mine', {tenant})")).await;
            assert_eq!(error.code().code(), "42501", "{}", error.message());
        }
        s.run(&format!("INSERT INTO app_jobs.{table} database_id) VALUES ({info}'mine', '{OWN}')")).await;
        let name = table.split(' ').next().unwrap();
        let moved = format!("UPDATE app_jobs.{name} SET database_id = '{OTHER}'");
        assert_eq!(s.error(&moved).await.code().code(), "42501", "{name}: a row stays its tenant's");
        s.run(&format!(
            "UPDATE app_jobs.{name} SET priority = 9; DELETE FROM app_jobs.{name} WHERE task_identifier = 'x'"
        ))
        .await;
        let left = format!("SELECT database_id, task_identifier, priority FROM app_jobs.{name} ORDER BY id");
        assert_eq!(admin.show(&left).await, format!("{OTHER}|x|0\n~|x|0\n{OWN}|mine|9"), "{name}");
    }
    // What is derived follows the writes of a role that does not see it.
    assert_eq!(admin.show("SELECT queue_name FROM app_jobs.job_queues ORDER BY 1").await, format!("q\nq{OTHER}"));
    assert_eq!(s.show("SELECT queue_name FROM app_jobs.job_queues").await, "", "of its own tenant's jobs");
    drop(s);
    role.remove(&admin).await;
}

#[tokio::test]
async fn administrator_the_runtime_role_and_whoever_is_shown_all_see_all_whatever_the_claim() {
    let db = database().await;
    let admin = Session::open(&db).await;
    rows_of_three(&admin).await;
    let mut roles = Vec::new();
    for group in ["administrator", "jobs_runtime"] {
        let role = Role::create(&db, &admin, group).await;
        admin.run(&format!("GRANT {group} TO {}", role.name)).await;
        roles.push(role);
    }
    // A login that only watches, with a name that has to be quoted.
    let watcher = Role::create(&db, &admin, "watcher").await;
    let odd = format!("Watch \"{}\"", watcher.name);
    admin
        .run(&format!(
            "CREATE ROLE {quoted}; GRANT {quoted} TO {watcher};
             GRANT USAGE ON SCHEMA app_jobs TO {quoted}; GRANT SELECT ON ALL TABLES IN SCHEMA app_jobs TO {quoted};
             SELECT app_jobs.show_all_tenants_to('{odd}'), app_jobs.show_all_tenants_to('{odd}')",
            quoted = format!("\"{}\"", odd.replace('"', "\"\"")),
            watcher = watcher.name
        ))
        .await;
    let policy = "SELECT cardinality(roles) FROM pg_policies WHERE tablename = 'jobs' AND policyname = 'all_tenants'";
    assert_eq!(admin.number(policy).await, 3, "once");
    roles.push(watcher);
    for role in &roles {
        let s = role.session().await;
        for tenant in ["", OWN] {
            claim(&s, tenant).await;
            assert_eq!(sees(&s).await, "3|3|3", "{} under {tenant:?}", role.name);
        }
    }
    claim(&admin, OWN).await;
    assert_eq!(sees(&admin).await, "3|3|3", "the owner");
    admin.run(&format!("DROP OWNED BY \"{0}\"; DROP ROLE \"{0}\"", odd.replace('"', "\"\""))).await;
    for role in roles {
        role.remove(&admin).await;
    }
}

#[tokio::test]
async fn the_runtime_role_has_the_owners_plans() {
    let db = database().await;
    let admin = Session::open(&db).await;
    admin.run("INSERT INTO app_jobs.jobs (task_identifier) SELECT 'x' FROM generate_series(1, 1000); ANALYZE app_jobs.jobs").await;
    let mut plans = Vec::new();
    for rights in ["administrator", "jobs_runtime", "nothing"] {
        let role = Role::create(&db, &admin, rights).await;
        if rights == "nothing" {
            admin.run(&format!("GRANT USAGE ON SCHEMA app_jobs TO {0}; GRANT {ALL_RIGHTS} TO {0}", role.name)).await;
        } else {
            admin.run(&format!("GRANT {rights} TO {}", role.name)).await;
        }
        plans.push(plans_of(&role.session().await).await);
        role.remove(&admin).await;
    }
    let owners = plans_of(&admin).await;
    assert!(owners.contains("jobs_claim_idx") && !owners.contains("database_id"), "{owners}");
    assert_eq!(plans[0], owners, "administrator");
    assert_eq!(plans[1], owners, "jobs_runtime");
    assert!(plans[2].contains("database_id ="), "a tenant's role has a filter more: {}", plans[2]);
    assert!(plans[2].contains("InitPlan"), "the claim is read once: {}", plans[2]);
}

/// The plans of statements like those of claim_jobs, complete and the derived lock.
async fn plans_of(s: &Session) -> String {
    s.run("SET enable_seqscan = off; SET enable_bitmapscan = off").await;
    let mut plans = Vec::new();
    for statement in [
        "SELECT j.id FROM app_jobs.jobs j
          WHERE j.gate_key IS NULL AND j.locked_at IS NULL AND j.attempts < j.max_attempts
          ORDER BY j.priority, j.run_at, j.id LIMIT 10 FOR UPDATE SKIP LOCKED",
        "UPDATE app_jobs.jobs SET attempts = attempts + 1, locked_by = 'worker', locked_at = now() WHERE id = ANY ('{1,2}')",
        "DELETE FROM app_jobs.jobs j USING unnest('{1,2}'::bigint[], '{a,b}'::text[]) AS d (id, worker)
          WHERE j.id = d.id AND j.locked_by = d.worker",
        "UPDATE app_jobs.scheduled_jobs SET locked_at = now() WHERE id = 1",
    ] {
        plans.push(s.show(&format!("EXPLAIN (COSTS off) {statement}")).await);
    }
    plans.join("\n")
}

#[tokio::test]
async fn rights_from_default_privileges_show_nothing_of_a_schema_that_is_new() {
    let db = TestDb::empty().await;
    let admin = Session::open(&db).await;
    let role = Role::create(&db, &admin, "reader").await;
    admin.run(&format!("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {}", role.name)).await;
    let _ = migrate_schema(db.url(), "app_jobs").await.unwrap();
    admin.run(&format!("GRANT USAGE ON SCHEMA app_jobs TO {}", role.name)).await;
    rows_of_three(&admin).await;
    let s = role.session().await;
    assert_eq!(sees(&s).await, "0|0|0");
    claim(&s, OWN).await;
    assert_eq!(sees(&s).await, "1|1|1");
    drop(s);
    role.remove(&admin).await;
}
