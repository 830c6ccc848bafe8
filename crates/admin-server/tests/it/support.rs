//! A running admin-server per test, and how to ask it.

use std::collections::BTreeMap;
use std::time::Duration;

use admin_server::{AdminError, Config, MigrateConfig};
use job_pg::config::PostgresConfig;
use job_pg::{Db, migrate};
use job_testkit::TestDb;
use job_utils::shutdown::Shutdown;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Longer than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// The database that the migration makes.
pub(crate) const DATABASE: &str = "0b6c3a52-7d1f-4e8b-9a3c-2f4d5e6a7b81";
/// The user that the migration makes.
pub(crate) const USER: &str = "5f9b1c1e-6d0a-4c57-9d6a-0b1e2c3d4e5f";

/// The settings that lead to a database.
pub(crate) fn config(url: &str, more: &[(&str, &str)]) -> Config {
    let env: BTreeMap<&str, &str> = [("DATABASE_URL", url)].into_iter().chain(more.iter().copied()).collect();
    Config::from_env(&env).unwrap()
}

/// The same for `migrate`.
pub(crate) fn migrate_config(url: &str) -> MigrateConfig {
    MigrateConfig::from_env(&BTreeMap::from([("DATABASE_URL", url)])).unwrap()
}

/// A database with the jobs schema and the development data.
pub(crate) async fn migrated() -> TestDb {
    TestDb::from_template("migrated", |url| async move {
        let config = migrate_config(&url);
        admin_server::migrate(&config, &Shutdown::new()).await.map_err(|error| error.to_string())?;
        jobs_schema(&config.postgres).await
    })
    .await
}

/// Makes the jobs schema.
pub(crate) async fn jobs_schema(postgres: &PostgresConfig) -> Result<(), String> {
    let db = Db::new(postgres).map_err(|error| error.to_string())?;
    migrate::migrate(&db).await.map(|_| ()).map_err(|error| error.to_string())
}

/// An admin-server of one test.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) db: TestDb,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), AdminError>>,
}

impl Server {
    /// Over a migrated database.
    pub(crate) async fn start() -> Self {
        Self::start_on(migrated().await, &[]).await
    }

    /// Over a given database, with further settings.
    pub(crate) async fn start_on(db: TestDb, more: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = Shutdown::new();
        let config = config(db.url(), more);
        let task = tokio::spawn(admin_server::run_on(config, listener, shutdown.clone()));
        Self { address, db, shutdown, task }
    }

    /// A POST to the API with everything it asks for but a body.
    pub(crate) fn post(&self) -> RequestBuilder {
        self.post_to("private.localhost").header("content-type", "application/json")
    }

    /// A POST to the API of a host.
    pub(crate) fn post_to(&self, host: &str) -> RequestBuilder {
        reqwest::Client::new().post(format!("{}/graphql", self.address)).header("host", host)
    }

    /// The answer to a body as it is.
    pub(crate) async fn body(&self, body: impl Into<String>) -> (StatusCode, Value) {
        answer(self.post().body(body.into())).await
    }

    /// The answer to a query with variables.
    pub(crate) async fn ask(&self, query: &str, variables: Value) -> Value {
        let (status, answer) = self.body(json!({ "query": query, "variables": variables }).to_string()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// The data that a query finds; errors fail the test.
    pub(crate) async fn data(&self, query: &str, variables: Value) -> Value {
        let mut answer = self.ask(query, variables).await;
        assert!(answer.get("errors").is_none(), "{answer}");
        answer["data"].take()
    }

    /// The message and the code of a query's error.
    pub(crate) async fn error(&self, query: &str, variables: Value) -> (String, String) {
        let answer = self.ask(query, variables).await;
        let error = &answer["errors"][0];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&error["message"]), text(&error["extensions"]["code"]))
    }

    /// Stops it and returns how it ended.
    pub(crate) async fn stop(self) -> Result<(), AdminError> {
        self.shutdown.trigger();
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap()
    }
}

/// Status and JSON body of the answer.
pub(crate) async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let (status, kind) = (response.status(), response.headers()["content-type"].clone());
    assert_eq!(kind, "application/json");
    (status, response.json().await.unwrap())
}
