//! One connection per test process that outlives every test's runtime: it marks the process as alive, sweeps what dead
//! ones left, and drops databases.
//!
//! Databases are named `test_<token>_<n>` and `tpl_<token>_<name>`: the token of the process (a test's database) or of
//! the program's build (a template). While a process lives, its connection holds a shared advisory lock on both tokens;
//! a database whose token nobody holds is left over.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_postgres::{Client, NoTls};

use super::{shared, token};
use crate::env;

/// An advisory lock's class for "a process with this token lives".
const ALIVE: i32 = 0x6a6f_0002;

struct Request {
    statement: String,
    done: SyncSender<Result<(), String>>,
}

/// The process's connection.
pub(super) struct ProcessConnection {
    url: String,
    run_token: u32,
    build_token: u32,
    requests: UnboundedSender<Request>,
}

impl ProcessConnection {
    /// The connection of this process; the first call starts it, and the shared server when there is no other.
    pub(super) fn get() -> &'static Self {
        static CONNECTION: OnceLock<ProcessConnection> = OnceLock::new();
        CONNECTION.get_or_init(|| match Self::start() {
            Ok(connection) => connection,
            Err(message) => panic!("no PostgreSQL for this test: {message}"),
        })
    }

    fn start() -> Result<Self, String> {
        let run_token = token(uuid::Uuid::new_v4());
        let build_token = token(build());
        let (requests, receiver) = unbounded_channel();
        let (ready, answer) = sync_channel(1);
        // A thread of its own: tests have a runtime each, and a connection dies with the runtime that drives it.
        thread::Builder::new()
            .name("postgres-connection".to_owned())
            .spawn(move || {
                let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(ready.send(Err(error.to_string()))),
                };
                runtime.block_on(async {
                    match open(&[run_token, build_token]).await {
                        Ok((url, client)) => {
                            drop(ready.send(Ok(url)));
                            serve(&client, receiver).await;
                        }
                        Err(message) => drop(ready.send(Err(message))),
                    }
                });
            })
            .map_err(|error| error.to_string())?;
        let url = answer.recv().map_err(|_| "the connection's thread ended".to_owned())??;
        Ok(Self { url, run_token, build_token, requests })
    }

    /// The URL of the server's own database `postgres` (or the one in JOBS_TEST_DATABASE_URL).
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The URL of another database of that server.
    pub(super) fn url_of(&self, database: &str) -> String {
        let (server, options) =
            self.url.split_once('?').map_or((self.url.as_str(), None), |(url, rest)| (url, Some(rest)));
        let scheme = server.find("://").map_or(0, |at| at + 3);
        let end = server[scheme..].find('/').map_or(server.len(), |at| scheme + at);
        let options = options.map_or_else(String::new, |options| format!("?{options}"));
        format!("{}/{database}{options}", &server[..end])
    }

    /// What the databases of this process are named by.
    pub(super) fn run_token(&self) -> u32 {
        self.run_token
    }

    /// What the templates of this program's build are named by.
    pub(super) fn build_token(&self) -> u32 {
        self.build_token
    }

    /// Runs a statement and waits for it; a failure is only told, because tests end here.
    pub(super) fn execute(&self, statement: String) {
        let (done, answer) = sync_channel(1);
        let sent = self.requests.send(Request { statement: statement.clone(), done });
        let result = match sent {
            Ok(()) => answer.recv().unwrap_or_else(|_| Err("the connection is gone".to_owned())),
            Err(_) => Err("the connection is gone".to_owned()),
        };
        if let Err(message) = result {
            eprintln!("{statement}: {message}");
        }
    }
}

/// What tells one build of one test program from another.
fn build() -> (std::path::PathBuf, u64, Option<std::time::SystemTime>) {
    let program = std::env::current_exe().unwrap_or_default();
    let metadata = program.metadata().ok();
    let size = metadata.as_ref().map_or(0, std::fs::Metadata::len);
    (program, size, metadata.and_then(|metadata| metadata.modified().ok()))
}

async fn open(tokens: &[u32]) -> Result<(String, Client), String> {
    let (url, client) = match env::var(env::JOBS_TEST_DATABASE_URL) {
        Some(url) => {
            let client = connect(&url).await.map_err(|error| {
                format!("{} is set, but its server cannot be used: {}", env::JOBS_TEST_DATABASE_URL, text(&error))
            })?;
            (url, client)
        }
        None => shared::connect().await.map_err(|error| format!("{error:#}"))?,
    };
    prepare(&client, tokens).await.map_err(|error| text(&error))?;
    Ok((url, client))
}

pub(super) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn prepare(client: &Client, tokens: &[u32]) -> Result<(), tokio_postgres::Error> {
    for token in tokens {
        client.batch_execute(&format!("SELECT pg_advisory_lock_shared({ALIVE}, {})", token.cast_signed())).await?;
    }
    let databases = client
        .query("SELECT datname::text FROM pg_database WHERE datname ~ '^(test|tpl)_[0-9a-f]{8}_' ORDER BY 1", &[])
        .await?;
    for row in databases {
        let name: String = row.get(0);
        let token = name.split('_').nth(1).and_then(|token| u32::from_str_radix(token, 16).ok());
        let Some(token) = token.filter(|token| !tokens.contains(token)) else { continue };
        let key = token.cast_signed();
        let lock = client.query_one(&format!("SELECT pg_try_advisory_lock({ALIVE}, {key})"), &[]).await?;
        if lock.get(0) {
            let dropped = client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
            client.batch_execute(&format!("SELECT pg_advisory_unlock({ALIVE}, {key})")).await?;
            dropped?;
        }
    }
    Ok(())
}

async fn serve(client: &Client, mut requests: UnboundedReceiver<Request>) {
    while let Some(request) = requests.recv().await {
        let result = client.batch_execute(&request.statement).await.map_err(|error| text(&error));
        // Nobody waits any more when the test was aborted.
        let _ = request.done.send(result);
    }
}

pub(super) fn text(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}
