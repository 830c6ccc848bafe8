//! Attacks on the functions that run as the schema's owner: types, casts and tables of the attacker's, changed by
//! another session in between. Each one is tried on the functions of before_attacks.sql too, where it must succeed:
//! else it shows nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::sql::support::{Place, Role, Session, migrate_schema};

/// What one session does, what another does in between, and what the first does then.
struct Attack {
    name: &'static str,
    prepare: &'static str,
    between: &'static str,
    strike: &'static str,
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1";

/// Code of the attacker's that says as whom it runs.
const TRAPS: &str = "
    CREATE TYPE crafty.trap AS ENUM ('bait');
    CREATE TYPE crafty.pair AS (a int);
    CREATE DOMAIN crafty.bag AS crafty.pair;
    CREATE FUNCTION crafty.as_json(crafty.trap) RETURNS json LANGUAGE sql AS 'SELECT to_json(current_user::text)';
    CREATE TABLE crafty.named (id int, \"quote_literal\" text);
    CREATE FUNCTION crafty.as_text(crafty.named) RETURNS text LANGUAGE sql AS 'SELECT current_user::text';
    CREATE CAST (crafty.named AS text) WITH FUNCTION crafty.as_text(crafty.named)";

const ATTACKS: &[Attack] = &[
    Attack {
        name: "a cast of a column's type",
        prepare: "CREATE TABLE crafty.t (id int, a crafty.trap);
            CREATE TRIGGER t AFTER INSERT ON crafty.t FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row('x')",
        between: "CREATE CAST (crafty.trap AS json) WITH FUNCTION crafty.as_json(crafty.trap)",
        strike: "INSERT INTO crafty.t VALUES (1, 'bait')",
    },
    Attack {
        name: "a cast of the id's type",
        prepare: "CREATE TABLE crafty.t (id crafty.trap);
            CREATE TRIGGER t AFTER INSERT ON crafty.t FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row_id('x')",
        between: "CREATE CAST (crafty.trap AS json) WITH FUNCTION crafty.as_json(crafty.trap)",
        strike: "INSERT INTO crafty.t VALUES ('bait')",
    },
    Attack {
        name: "a cast of a type in an array of a composite type",
        prepare: "CREATE TYPE crafty.deep AS (a crafty.trap[]);
            CREATE TABLE crafty.t (id int, a crafty.deep[], b crafty.deep[]);
            CREATE TRIGGER t BEFORE INSERT ON crafty.t FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row('x')",
        between: "CREATE CAST (crafty.trap AS json) WITH FUNCTION crafty.as_json(crafty.trap)",
        strike: "INSERT INTO crafty.t VALUES (1, ARRAY[ROW('{bait}')::crafty.deep], ARRAY[[ROW('{bait}')::crafty.deep]])",
    },
    Attack {
        name: "a column more",
        prepare: "CREATE TABLE crafty.t (id int);
            CREATE CAST (crafty.trap AS json) WITH FUNCTION crafty.as_json(crafty.trap);
            CREATE TRIGGER t AFTER INSERT ON crafty.t FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row('x')",
        between: "ALTER TABLE crafty.t ADD COLUMN a crafty.trap",
        strike: "INSERT INTO crafty.t VALUES (1, 'bait')",
    },
    Attack {
        name: "an attribute more",
        prepare: "CREATE TABLE crafty.t (id int, a crafty.bag);
            CREATE CAST (crafty.trap AS json) WITH FUNCTION crafty.as_json(crafty.trap);
            CREATE TRIGGER t AFTER INSERT ON crafty.t FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row('x')",
        between: "ALTER TYPE crafty.pair ADD ATTRIBUTE b crafty.trap",
        strike: "INSERT INTO crafty.t VALUES (1, ROW(1, 'bait')::crafty.pair)",
    },
    Attack {
        name: "a column that is no longer there, whose name is that of a function",
        prepare: "CREATE TRIGGER t AFTER INSERT ON crafty.named FOR EACH ROW
            EXECUTE FUNCTION app_jobs.trigger_job_with_fields('x', 'quote_literal')",
        between: "ALTER TABLE crafty.named RENAME COLUMN quote_literal TO other",
        strike: "INSERT INTO crafty.named VALUES (1, 'bait')",
    },
];

/// An attacker with the rights that docs/roles.md gives an application that puts the trigger functions on its tables.
async fn attacker(place: &Place) -> Role {
    let role = Role::create(&place.db, &place.admin, "crafty").await;
    place.admin.run(&format!("CREATE SCHEMA crafty AUTHORIZATION {0}", role.name)).await;
    let owner = place.owner.session().await;
    owner
        .run(&format!(
            "GRANT USAGE ON SCHEMA app_jobs TO {0};
             GRANT EXECUTE ON FUNCTION app_jobs.tg_add_job_with_row(), app_jobs.tg_add_job_with_row_id(),
                app_jobs.trigger_job_with_fields() TO {0}",
            role.name
        ))
        .await;
    role
}

/// The payloads that attacks got into the queue, which stay in the transaction: the attacker reads nothing.
async fn payloads(place: &Place) -> String {
    place.admin.show("SELECT payload FROM app_jobs.jobs ORDER BY id").await
}

/// Whether code of the attacker's ran as the owner.
async fn succeeds(place: &Place, role: &Role, attack: &Attack) -> bool {
    let (first, second) = (role.session().await, role.session().await);
    first.run("DROP SCHEMA IF EXISTS crafty CASCADE").await;
    place.admin.run(&format!("DELETE FROM app_jobs.jobs; CREATE SCHEMA crafty AUTHORIZATION {}", role.name)).await;
    first.run(TRAPS).await;
    first.run(attack.prepare).await;
    first.run(BEGIN).await;
    second.run(attack.between).await;
    // An error is no success for the attacker.
    let _ = first.try_show(&format!("{}; COMMIT", attack.strike)).await;
    let shown = payloads(place).await;
    shown.contains(&place.owner.name)
}

#[tokio::test]
async fn what_another_session_changes_meanwhile_never_runs_as_the_owner() {
    for (open, place) in [(true, Place::before_attacks().await), (false, Place::new().await)] {
        let role = attacker(&place).await;
        for attack in ATTACKS {
            let got_in = succeeds(&place, &role, attack).await;
            assert_eq!(got_in, open, "{}: {}", attack.name, payloads(&place).await);
        }
        place.end(vec![role]).await;
    }
}

/// A name of the row within the function's own SQL, for which a column stood until another session took it away.
const ROW_NAMES: &[Attack] = &[
    Attack {
        name: "a column with the name of the row",
        prepare: "CREATE TABLE crafty.t (\"columns 0\" int, a crafty.trap);
            CREATE CAST (crafty.trap AS json) WITH FUNCTION crafty.as_json(crafty.trap);
            CREATE TRIGGER t AFTER INSERT ON crafty.t FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row('x')",
        between: "ALTER TABLE crafty.t DROP COLUMN \"columns 0\"",
        strike: "INSERT INTO crafty.t VALUES ('bait')",
    },
    Attack {
        name: "an attribute with the name of the row",
        prepare: "CREATE TYPE crafty.named_like_it AS (\"columns 1\" int, a crafty.trap);
            CREATE TABLE crafty.t (id crafty.named_like_it);
            CREATE CAST (crafty.trap AS json) WITH FUNCTION crafty.as_json(crafty.trap);
            CREATE TRIGGER t AFTER INSERT ON crafty.t FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row_id('x')",
        between: "ALTER TYPE crafty.named_like_it DROP ATTRIBUTE \"columns 1\"",
        strike: "INSERT INTO crafty.t VALUES (ROW('bait')::crafty.named_like_it)",
    },
];

#[tokio::test]
async fn a_column_that_is_gone_is_not_taken_for_the_row() {
    let place = Place::new().await;
    let role = attacker(&place).await;
    for attack in ROW_NAMES {
        assert!(!succeeds(&place, &role, attack).await, "{}: {}", attack.name, payloads(&place).await);
        // The row was written, and its job made, without what is gone.
        assert!(payloads(&place).await.contains("bait"), "{}: {}", attack.name, payloads(&place).await);
    }
    place.end(vec![role]).await;
}

/// Composite types on the way to the trap, so that whoever looks through the types of a row is slow. In 32 types of 124
/// attributes, as a type may have no more than 1,600.
const WIDE: &str = "DO $$ BEGIN
        FOR i IN 0 .. 3967 LOOP EXECUTE format('CREATE TYPE crafty.c%s AS (x int)', i); END LOOP;
        FOR i IN 0 .. 31 LOOP
            EXECUTE (SELECT format('CREATE TYPE crafty.w%s AS (%s)', i, string_agg(format('a%s crafty.c%s', n, n), ', '))
                       FROM generate_series(i * 124, i * 124 + 123) n);
        END LOOP;
        EXECUTE (SELECT format('CREATE TABLE crafty.wide (id int, a crafty.trap, %s)',
                               string_agg(format('w%s crafty.w%s', n, n), ', ')) FROM generate_series(0, 31) n);
    END $$;
    CREATE TRIGGER t AFTER INSERT ON crafty.wide FOR EACH ROW EXECUTE FUNCTION app_jobs.tg_add_job_with_row('x')";

/// Inserts rows while another session makes and drops the cast. What comes of one moment, the deterministic attacks
/// above show; this one is for the moments that nobody thought of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cast_that_comes_and_goes_among_4000_types_never_runs_as_the_owner() {
    let place = Place::new().await;
    let role = attacker(&place).await;
    let (first, second) = (role.session().await, role.session().await);
    first.run(TRAPS).await;
    first.run(WIDE).await;
    let (over, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
    let insert = async {
        // Until the cast has come and gone a few times, however slow it is at that.
        let mut rows = 0;
        while rows < 10 || turns.load(Ordering::Relaxed) < 3 {
            first.run("INSERT INTO crafty.wide VALUES (1, 'bait')").await;
            rows += 1;
        }
        over.store(true, Ordering::Relaxed);
        rows
    };
    let change = async {
        while !over.load(Ordering::Relaxed) {
            second.run("CREATE CAST (crafty.trap AS json) WITH FUNCTION crafty.as_json(crafty.trap)").await;
            second.run("DROP CAST (crafty.trap AS json)").await;
            turns.fetch_add(1, Ordering::Relaxed);
        }
    };
    let (rows, ()) = tokio::join!(insert, change);
    assert!(!payloads(&place).await.contains(&place.owner.name));
    assert_eq!(place.admin.number("SELECT count(*) FROM app_jobs.jobs WHERE payload ->> 'a' = 'bait'").await, rows);
    place.end(vec![role]).await;
}

/// The trigger functions of this schema's tables that run as the owner, and a trigger for each.
const OWN_TRIGGERS: &[(&str, &str)] = &[
    ("tg_gates_counted", "AFTER INSERT ON mine FOR EACH ROW"),
    ("tg_gates_limited", "BEFORE INSERT ON mine FOR EACH ROW"),
    ("tg_jobs_deleted", "AFTER DELETE ON mine REFERENCING OLD TABLE AS old_rows"),
    ("tg_jobs_inserted", "AFTER INSERT ON mine REFERENCING NEW TABLE AS new_rows"),
    ("tg_jobs_placed", "BEFORE INSERT ON mine FOR EACH ROW"),
    ("tg_jobs_updated", "AFTER UPDATE ON mine REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"),
    ("tg_payload_bounded", "BEFORE INSERT ON mine FOR EACH ROW"),
    ("tg_schedule_bounded", "BEFORE INSERT ON mine FOR EACH ROW"),
    ("tg_scheduled_jobs_checked", "BEFORE INSERT ON mine FOR EACH ROW"),
];

/// A table that looks like jobs to them, whose queue names become text by a function of the attacker's.
const LOOKALIKE: &str = "
    CREATE TABLE crafty.seen (who text); GRANT USAGE ON SCHEMA crafty TO PUBLIC; GRANT INSERT ON crafty.seen TO PUBLIC;
    CREATE TYPE crafty.name AS (name text);
    CREATE FUNCTION crafty.as_text(crafty.name) RETURNS text LANGUAGE sql AS
        'INSERT INTO crafty.seen VALUES (current_user); SELECT ($1).name';
    CREATE CAST (crafty.name AS text) WITH FUNCTION crafty.as_text(crafty.name) AS IMPLICIT;
    CREATE TEMP TABLE mine (queue_name crafty.name, locked_at timestamptz, locked_by text, attempts int, max_attempts int,
                            payload crafty.name, schedule_info crafty.name)";

/// As whom code of the attacker's ran when every one of [`OWN_TRIGGERS`] was put on a table of his, and what errors
/// came.
async fn with_own_triggers(place: &Place, s: &Session) -> (String, Vec<String>) {
    s.run(LOOKALIKE).await;
    let mut errors = Vec::new();
    for (function, on) in OWN_TRIGGERS {
        let trigger = format!("CREATE TRIGGER {function} {on} EXECUTE FUNCTION app_jobs_internal.{function}()");
        let writes = "INSERT INTO mine (queue_name, locked_at, payload) VALUES (ROW('q'), now(), ROW('p')); UPDATE mine SET queue_name = ROW('r'); DELETE FROM mine; \
                      TRUNCATE mine";
        if let Err(error) = s.try_show(&format!("{trigger}; {writes}; DROP TRIGGER {function} ON mine")).await {
            let error = error.as_db_error().unwrap().clone();
            errors.push(format!("{} {}", error.code().code(), error.message()));
        }
    }
    (place.admin.show("SELECT DISTINCT who FROM crafty.seen").await, errors)
}

#[tokio::test]
async fn the_trigger_functions_of_our_tables_are_nobodys_and_refuse_other_tables() {
    let place = Place::before_attacks().await;
    let role = place.member("administrator").await;
    let owner = place.owner.session().await;
    place.admin.run(&format!("CREATE SCHEMA crafty AUTHORIZATION {}", role.name)).await;
    owner
        .run("GRANT USAGE ON SCHEMA app_jobs TO administrator; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app_jobs, app_jobs_internal TO administrator")
        .await;
    let (seen, _) = with_own_triggers(&place, &role.session().await).await;
    assert_eq!(seen, place.owner.name, "an administrator of before becomes the owner");
    // What it was given is taken back, and the functions are today's again, when it is migrated.
    owner.run("DROP FUNCTION app_jobs.require_trusted_json(oid); UPDATE app_jobs.schema_state SET digest = ''").await;
    let _ = migrate_schema(&place.owner.url, "app_jobs").await.unwrap();
    role.session().await.run("DROP SCHEMA crafty CASCADE").await;
    place.admin.run(&format!("CREATE SCHEMA crafty AUTHORIZATION {}", role.name)).await;
    let (seen, errors) = with_own_triggers(&place, &role.session().await).await;
    assert_eq!((seen.as_str(), errors.len()), ("", OWN_TRIGGERS.len()), "{errors:?}");
    assert!(
        errors.iter().all(|error| error.starts_with("42501 permission denied for function app_jobs_internal.tg_")),
        "{errors:?}"
    );

    // Even for whom the owner gives them to.
    role.session().await.run("DROP SCHEMA crafty CASCADE").await;
    place.admin.run(&format!("CREATE SCHEMA crafty AUTHORIZATION {}", role.name)).await;
    owner.run(&format!("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app_jobs, app_jobs_internal TO {}", role.name)).await;
    let (seen, errors) = with_own_triggers(&place, &role.session().await).await;
    assert_eq!((seen.as_str(), errors.len()), ("", OWN_TRIGGERS.len()), "{errors:?}");
    assert!(
        errors.iter().all(|error| error.starts_with("42501 ") && error.contains(" trigger function ")),
        "{errors:?}"
    );
    // These are all there are.
    let definers = "SELECT p.proname FROM pg_proc p WHERE p.pronamespace IN ('app_jobs'::regnamespace, 'app_jobs_internal'::regnamespace) AND p.prosecdef
                       AND p.prorettype = 'trigger'::regtype AND p.proname ~ '^tg_' AND p.proname !~ '^tg_add_job' ORDER BY 1";
    let names: Vec<&str> = OWN_TRIGGERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(place.admin.show(definers).await, names.join("\n"));
    // And on their own table they work.
    owner.add_job("'x', '{}', NULL, 'own'").await;
    assert_eq!(owner.show("SELECT job_count FROM app_jobs.job_queues WHERE queue_name = 'own'").await, "1");
    drop(owner);
    place.end(vec![role]).await;
}

/// The columns that docs/roles.md gives to a tenant's role, as statements for this role.
fn tenant_grants(role: &str) -> String {
    let document = include_str!("../../../../docs/roles.md");
    let statements = document.split(";\n").filter(|statement| statement.ends_with("TO shop_tenant"));
    let from_grant = statements.filter_map(|statement| statement.rfind("GRANT ").map(|start| &statement[start..]));
    from_grant.map(|grant| grant.replace("shop_tenant", role) + ";").collect()
}

#[tokio::test]
async fn a_tenant_that_may_write_its_jobs_takes_no_ids_no_locks_and_no_queue() {
    const TENANT: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let place = Place::new().await;
    let role = Role::create(&place.db, &place.admin, "tenant").await;
    let (owner, s) = (place.owner.session().await, role.session().await);
    owner.run(&tenant_grants(&role.name)).await;
    s.run(&format!("SELECT set_config('jwt.claims.database_id', '{TENANT}', false)")).await;

    // What it is for.
    s.run(&format!(
        "INSERT INTO app_jobs.jobs (database_id, task_identifier, payload, queue_name, run_at, max_attempts, priority, key)
            VALUES ('{TENANT}', 'x', '{{}}', 'mail', now(), 3, 1, 'k');
         INSERT INTO app_jobs.scheduled_jobs (database_id, task_identifier, payload, schedule_info)
            VALUES ('{TENANT}', 'x', '{{}}', '{{\"rule\": \"* * * * *\"}}');
         UPDATE app_jobs.jobs SET run_at = now(), priority = 0 WHERE key = 'k';
         UPDATE app_jobs.scheduled_jobs SET paused_at = now()"
    ))
    .await;

    // The attacks of the issue.
    for attack in [
        format!(
            "INSERT INTO app_jobs.jobs (id, database_id, task_identifier) SELECT g, '{TENANT}', 'x' FROM generate_series(2, 99) g"
        ),
        format!(
            "INSERT INTO app_jobs.jobs (database_id, task_identifier, queue_name, locked_at, locked_by)
                 VALUES ('{TENANT}', 'x', 'mail', 'infinity', 'nobody')"
        ),
        "UPDATE app_jobs.jobs SET locked_at = 'infinity', locked_by = 'nobody'".to_owned(),
        "UPDATE app_jobs.jobs SET id = id + 1".to_owned(),
        "UPDATE app_jobs.scheduled_jobs SET fired_until = 'infinity'".to_owned(),
        "TRUNCATE app_jobs.jobs".to_owned(),
        "DO $$ BEGIN LOCK TABLE app_jobs.jobs IN ACCESS EXCLUSIVE MODE; END $$".to_owned(),
        "DO $$ BEGIN LOCK TABLE app_jobs.scheduled_jobs IN ACCESS EXCLUSIVE MODE; END $$".to_owned(),
        "SELECT setval('app_jobs.jobs_id_seq', 1)".to_owned(),
    ] {
        assert_eq!(s.error(&attack).await.code().code(), "42501", "{attack}");
    }
    // And of every other column that the services keep their own state in, new ones included.
    let columns = owner
        .show(
            "SELECT a.attrelid::regclass, a.attname FROM pg_attribute a
              WHERE a.attrelid IN ('app_jobs.jobs'::regclass, 'app_jobs.scheduled_jobs'::regclass) AND a.attnum > 0
                AND a.attname NOT IN ('database_id', 'actor_id', 'queue_name', 'task_identifier', 'payload', 'priority', 'run_at',
                                      'max_attempts', 'key', 'schedule_info', 'paused_at')",
        )
        .await;
    assert!(columns.lines().count() > 20, "{columns}");
    for (table, column) in columns.lines().filter_map(|line| line.split_once('|')) {
        for attack in
            [format!("INSERT INTO {table} ({column}) VALUES (NULL)"), format!("UPDATE {table} SET {column} = DEFAULT")]
        {
            assert_eq!(s.error(&attack).await.code().code(), "42501", "{attack}");
        }
    }

    assert_eq!(owner.add_job("'theirs', '{}', NULL, 'mail'").await, 2, "everybody else enqueues on");
    let claim = "SELECT string_agg(id::text, ' ') FROM app_jobs_internal.claim_jobs('worker', NULL, 9, NULL)";
    assert_eq!(owner.show(claim).await, "1", "and the queue is served");
    drop((owner, s));
    place.end(vec![role]).await;
}
