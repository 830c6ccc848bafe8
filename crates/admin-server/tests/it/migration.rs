//! `migrate`: the tables, the development data, and what it leaves alone.

use job_testkit::TestDb;
use job_utils::shutdown::Shutdown;
use tokio_postgres::Client;

use super::support::{DATABASE, USER, migrate_config};

const TABLES: [&str; 6] = [
    "metaschema_public.database",
    "roles_public.users",
    "services_public.sites",
    "services_public.domains",
    "services_public.site_themes",
    "services_public.site_modules",
];

async fn migrate(db: &TestDb) {
    admin_server::migrate(&migrate_config(db.url()), &Shutdown::new()).await.unwrap();
}

async fn counts(client: &Client) -> Vec<i64> {
    let mut counts = Vec::new();
    for table in TABLES {
        counts.push(client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0));
    }
    counts
}

#[tokio::test]
async fn it_makes_the_tables_and_one_row_in_each() {
    let db = TestDb::empty().await;
    migrate(&db).await;
    let client = db.connect().await;
    assert_eq!(counts(&client).await, [1; 6]);
    // The look-ups of "Get required IDs" in the guide.
    let id = "SELECT id::text FROM metaschema_public.database ORDER BY created_at LIMIT 1";
    assert_eq!(client.query_one(id, &[]).await.unwrap().get::<_, &str>(0), DATABASE);
    let id = "SELECT id::text FROM roles_public.users ORDER BY created_at LIMIT 1";
    assert_eq!(client.query_one(id, &[]).await.unwrap().get::<_, &str>(0), USER);
}

#[tokio::test]
async fn it_may_run_twice_and_many_times_at_once() {
    let db = TestDb::empty().await;
    let runs = (0..8).map(|_| {
        let config = migrate_config(db.url());
        tokio::spawn(async move { admin_server::migrate(&config, &Shutdown::new()).await })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.unwrap().unwrap();
    }
    migrate(&db).await;
    assert_eq!(counts(&db.connect().await).await, [1; 6]);
}

#[tokio::test]
async fn it_adds_nothing_to_what_is_there() {
    let db = TestDb::empty().await;
    let client = db.connect().await;
    let existing = "CREATE SCHEMA metaschema_public;
                    CREATE TABLE metaschema_public.database (id uuid PRIMARY KEY, name text, created_at timestamptz,
                                                             owner_id uuid);
                    INSERT INTO metaschema_public.database VALUES (gen_random_uuid(), 'mine', now(), gen_random_uuid())";
    client.batch_execute(existing).await.unwrap();
    migrate(&db).await;
    assert_eq!(counts(&client).await, [1, 1, 0, 0, 0, 0]);
    let row = client.query_one("SELECT name, owner_id IS NOT NULL FROM metaschema_public.database", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("mine", true));
}

#[tokio::test]
async fn one_that_fails_changes_nothing() {
    let db = TestDb::empty().await;
    let client = db.connect().await;
    client.batch_execute("CREATE SCHEMA roles_public; CREATE TABLE roles_public.users (id int)").await.unwrap();
    let error = admin_server::migrate(&migrate_config(db.url()), &Shutdown::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "the migration failed, nothing was changed");
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('metaschema_public', 'services_public')";
    assert_eq!(client.query_one(made, &[]).await.unwrap().get::<_, i64>(0), 0);
}
