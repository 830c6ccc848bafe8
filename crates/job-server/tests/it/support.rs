//! A migrated database, a callback server on it, and callbacks as functions send them.

use std::collections::HashMap;
use std::time::Duration;

use job_pg::Db;
use job_pg::config::PostgresConfig;
use job_pg::migrate::migrate;
use job_testkit::process::Program;
use job_testkit::{Process, TestDb};
use job_utils::config::Reader;
use reqwest::RequestBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::Client;

/// Long enough for a busy machine; nothing waits for it when all goes well.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Who holds the jobs here.
pub(crate) const HOLDER: &str = "worker-test";

pub(crate) async fn migrated(url: String) -> Result<(), String> {
    let env = HashMap::from([("DATABASE_URL".to_owned(), url)]);
    let mut reader = Reader::new(&env);
    let postgres = PostgresConfig::read(&mut reader);
    let db = Db::new(&postgres).map_err(|error| error.to_string())?;
    migrate(&db).await.map(drop).map_err(|error| error.to_string())
}

/// A callback server on a port that the system chooses.
pub(crate) fn program() -> Program {
    Program::at(env!("CARGO_BIN_EXE_job-server")).env("INTERNAL_JOBS_CALLBACK_PORT", "0")
}

/// Waits until the server listens; returns its port.
pub(crate) async fn port(server: &mut Process) -> u16 {
    let line = server.wait_for_line("callback server listens", LIMIT).await;
    let port = line.rsplit(':').next().and_then(|port| port.trim().parse().ok());
    port.unwrap_or_else(|| panic!("no port in {line:?}"))
}

/// A row of the table of jobs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    pub(crate) attempts: i32,
    pub(crate) last_error: Option<String>,
    pub(crate) locked_by: Option<String>,
}

/// A job's state in a database.
pub(crate) async fn state(sql: &Client, id: i64) -> Option<State> {
    let row = "SELECT attempts, last_error, locked_by FROM app_jobs.jobs WHERE id = $1";
    let row = sql.query_opt(row, &[&id]).await.unwrap()?;
    Some(State { attempts: row.get(0), last_error: row.get(1), locked_by: row.get(2) })
}

/// Adds a job and claims it for [`HOLDER`].
pub(crate) async fn held(sql: &Client) -> i64 {
    sql.batch_execute("SELECT app_jobs.add_job('task')").await.unwrap();
    let id = sql.query_one("SELECT (app_jobs.get_job($1)).id", &[&HOLDER]).await.unwrap().get::<_, Option<i64>>(0);
    id.expect("a job to claim")
}

/// A database of one test with a server on it.
pub(crate) struct Bench {
    pub(crate) server: Process,
    pub(crate) port: u16,
    pub(crate) sql: Client,
    // The last: sessions end before the database is dropped.
    pub(crate) db: TestDb,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With these variables set for the server.
    pub(crate) async fn with(variables: &[(&str, &str)]) -> Self {
        let db = TestDb::from_template("server", migrated).await;
        let sql = db.connect().await;
        let mut server = program().envs(db.env()).envs(variables.iter().copied()).spawn();
        let port = port(&mut server).await;
        Self { server, port, sql, db }
    }

    /// A request for the route of callbacks, without any header.
    pub(crate) fn post(&self) -> RequestBuilder {
        self.request(reqwest::Method::POST, "/callback")
    }

    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        reqwest::Client::new().request(method, format!("http://127.0.0.1:{}{path}", self.port))
    }

    /// A callback for a job of [`HOLDER`], without a body.
    pub(crate) fn callback(&self, id: i64) -> RequestBuilder {
        self.post().header("X-Worker-Id", HOLDER).header("X-Job-Id", id)
    }

    /// A callback that says the attempt failed, with a JSON body.
    pub(crate) fn failure(&self, id: i64, body: &str) -> RequestBuilder {
        let request = self.callback(id).header("X-Job-Error", "true");
        request.header("Content-Type", "application/json").body(body.to_owned())
    }

    /// A job that [`HOLDER`] has claimed.
    pub(crate) async fn held(&self) -> i64 {
        held(&self.sql).await
    }

    /// The job's state, None when it is gone.
    pub(crate) async fn job(&self, id: i64) -> Option<State> {
        state(&self.sql, id).await
    }

    /// Writes bytes to the server and reads what it answers until it hangs up or the answer is whole.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        // A server that has heard enough may close before everything is written.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        let read = async {
            while let Ok(length) = stream.read(&mut buffer).await {
                answer.extend_from_slice(&buffer[..length]);
                if length == 0 || is_whole(&answer) {
                    break;
                }
            }
        };
        assert!(tokio::time::timeout(LIMIT, read).await.is_ok(), "no answer within {LIMIT:?}");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The server still takes callbacks.
    pub(crate) async fn lives_on(&mut self) {
        assert!(self.server.is_running(), "{}", self.server.output());
        let id = self.held().await;
        assert_eq!(send(self.callback(id)).await.0, 200);
        assert_eq!(self.job(id).await, None);
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

/// Status and body of the answer.
pub(crate) async fn send(request: RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap_or_else(|error| panic!("no answer: {error:?}"));
    (answer.status().as_u16(), answer.text().await.unwrap())
}
