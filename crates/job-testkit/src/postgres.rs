//! A fresh database per test, gone at its end.
//!
//! The server is the one of JOBS_TEST_DATABASE_URL, else one of the testkit's own that every test process on this
//! machine shares (`target/test-postgres`).

mod process_connection;
mod shared;

use std::collections::hash_map::DefaultHasher;
use std::fmt::Display;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls};

use crate::env;
use process_connection::ProcessConnection;

/// An advisory lock's class for "this template is being made".
const MAKING: i32 = 0x6a6f_0003;

/// A database of one test. Dropping it drops the database, whoever is still connected.
#[derive(Debug)]
pub struct TestDb {
    name: String,
    url: String,
}

impl TestDb {
    /// A database without any object in it.
    pub async fn empty() -> Self {
        Self::create("template0").await
    }

    /// A copy of the template `name`. The first caller makes the template: `migrate` gets the URL of an empty database
    /// and leaves it as every copy shall be. A template belongs to one build of one test program, so a changed
    /// migration makes a new one; two templates of one program need two names (lower-case letters, digits, `_`).
    ///
    /// ```no_run
    /// # async fn migrate(url: String) -> Result<(), std::io::Error> { Ok(()) }
    /// # async fn example() {
    /// let db = job_testkit::TestDb::from_template("migrated", |url| migrate(url)).await;
    /// let client = db.connect().await;
    /// # }
    /// ```
    pub async fn from_template<F, Fut, E>(name: &str, migrate: F) -> Self
    where
        F: FnOnce(String) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: Display,
    {
        let template = format!("tpl_{:08x}_{name}", ProcessConnection::get().build_token());
        assert!(template.len() < 63 && plain(name), "the template's name {name:?} is not short, lower-case and plain");
        make_template(&template, migrate).await;
        Self::create(&template).await
    }

    async fn create(template: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let connection = ProcessConnection::get();
        let name = format!("test_{:08x}_{}", connection.run_token(), NEXT.fetch_add(1, Ordering::Relaxed));
        let admin = connect(connection.url()).await;
        run(&admin, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        Self { url: connection.url_of(&name), name }
    }

    /// The database's URL, for a superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection, driven by a task of this runtime.
    pub async fn connect(&self) -> Client {
        connect(&self.url).await
    }

    /// The database's URL for another user of the server.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        let (host, port) = self.address();
        format!("postgres://{user}:{password}@{host}:{port}/{}", self.name)
    }

    /// The PG* variables that lead here, for a program that is started: through the pooler of JOBS_TEST_POOLER, where
    /// there is one.
    pub fn env(&self) -> Vec<(String, String)> {
        let pooler = env::var(env::JOBS_TEST_POOLER);
        let pooler =
            pooler.map(|pooler| pooler.rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())));
        self.env_at(pooler.map(|pooler| pooler.expect("JOBS_TEST_POOLER is a host and a port")))
    }

    /// The PG* variables that lead here and through no pooler, as a migration needs it.
    pub fn direct_env(&self) -> Vec<(String, String)> {
        self.env_at(None)
    }

    fn env_at(&self, pooler: Option<(String, String)>) -> Vec<(String, String)> {
        let config = self.config();
        let (host, port) = self.address();
        let (host, port) = pooler.unwrap_or((host, port.to_string()));
        let mut pairs = vec![
            ("PGHOST".to_owned(), host),
            ("PGPORT".to_owned(), port),
            ("PGUSER".to_owned(), config.get_user().unwrap_or("postgres").to_owned()),
            ("PGDATABASE".to_owned(), self.name.clone()),
        ];
        if let Some(password) = config.get_password() {
            pairs.push(("PGPASSWORD".to_owned(), String::from_utf8_lossy(password).into_owned()));
        }
        pairs
    }

    /// Host and port of the server.
    pub fn address(&self) -> (String, u16) {
        let config = self.config();
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(directory)) => directory.to_string_lossy().into_owned(),
            None => "localhost".to_owned(),
        };
        (host, config.get_ports().first().copied().unwrap_or(5432))
    }

    fn config(&self) -> Config {
        self.url.parse().expect("the URL was parsed before the database was made")
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        ProcessConnection::get().execute(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}

/// Connects to a database of a test; a task of this runtime drives the connection until the client is dropped.
pub async fn connect(url: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.unwrap_or_else(|error| panic!("cannot connect to {url}: {error}"));
    tokio::spawn(connection);
    client
}

async fn make_template<F, Fut, E>(template: &str, migrate: F)
where
    F: FnOnce(String) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    let connection = ProcessConnection::get();
    let admin = connect(connection.url()).await;
    // One maker at a time, among threads and processes. The lock ends with the connection, also when making fails.
    let key = token(template).cast_signed();
    run(&admin, &format!("SELECT pg_advisory_lock({MAKING}, {key})")).await;
    let ready = admin
        .query_opt("SELECT datallowconn FROM pg_database WHERE datname = $1", &[&template])
        .await
        .unwrap_or_else(|error| panic!("cannot look for the template {template}: {error}"));
    // A template that still lets people in was left half made by a killed process.
    if ready.is_some_and(|row| !row.get::<_, bool>(0)) {
        return;
    }
    run(&admin, &format!("DROP DATABASE IF EXISTS {template} WITH (FORCE)")).await;
    run(&admin, &format!("CREATE DATABASE {template} TEMPLATE template0")).await;
    if let Err(error) = migrate(connection.url_of(template)).await {
        panic!("the template {template} could not be made: {error}");
    }
    // Whoever is connected would make copying fail.
    run(&admin, &format!("ALTER DATABASE {template} ALLOW_CONNECTIONS false")).await;
    run(&admin, &format!("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{template}'"))
        .await;
}

async fn run(client: &Client, statement: &str) {
    if let Err(error) = client.batch_execute(statement).await {
        let message = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
        panic!("{statement}: {message}");
    }
}

fn plain(name: &str) -> bool {
    name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}

/// Stands for any value in names and advisory locks.
fn token(value: impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish() as u32
}
