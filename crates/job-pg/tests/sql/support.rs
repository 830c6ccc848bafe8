//! A migrated database, and ways to ask it that read like psql.

use std::collections::HashMap;
use std::time::Duration;

use job_pg::Db;
use job_pg::config::PostgresConfig;
use job_pg::migrate::{self, MigrateError, Migrated};
use job_testkit::{TestDb, eventually};
use job_utils::config::Reader;
use tokio::sync::mpsc;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

/// Long enough for a busy machine; nothing waits that long unless it fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A database of its own, migrated by the product's own migration.
pub(crate) async fn database() -> TestDb {
    TestDb::from_template("sql", async |url| migrate_schema(&url, "app_jobs").await.map(drop)).await
}

/// `job-service migrate` on a database.
pub(crate) async fn migrate_schema(url: &str, schema: &str) -> Result<Migrated, MigrateError> {
    migrate::migrate(&handle(url, schema)).await
}

/// The product's handle on a database.
pub(crate) fn handle(url: &str, schema: &str) -> Db {
    handle_with(url, schema, &[])
}

/// [`handle`] with more variables.
pub(crate) fn handle_with(url: &str, schema: &str, more: &[(&str, &str)]) -> Db {
    let env = [("DATABASE_URL", url), ("PGSSLMODE", "disable"), ("JOBS_SCHEMA", schema)];
    let env = env.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let env: HashMap<String, String> = env.collect();
    let mut reader = Reader::new(&env);
    let config = PostgresConfig::read(&mut reader);
    Db::new(&reader.finish(config).unwrap()).unwrap()
}

/// One connection.
pub(crate) struct Session {
    pub(crate) client: Client,
}

impl Session {
    /// Connects as the superuser.
    pub(crate) async fn open(db: &TestDb) -> Self {
        Self { client: db.connect().await }
    }

    /// Connects with a URL.
    pub(crate) async fn open_url(url: &str) -> Self {
        Self { client: job_testkit::postgres::connect(url).await }
    }

    /// Every row as `psql -At` prints it: columns with `|` between, rows on lines of their own, NULL as `~`.
    pub(crate) async fn show(&self, sql: &str) -> String {
        self.try_show(sql).await.unwrap_or_else(|error| panic!("{sql}\n{error}: {:?}", error.as_db_error()))
    }

    /// [`Self::show`], where an error may happen.
    pub(crate) async fn try_show(&self, sql: &str) -> Result<String, tokio_postgres::Error> {
        let mut lines = Vec::new();
        for message in self.client.simple_query(sql).await? {
            if let SimpleQueryMessage::Row(row) = message {
                let columns: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or("~")).collect();
                lines.push(columns.join("|"));
            }
        }
        Ok(lines.join("\n"))
    }

    /// One value as a number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let shown = self.show(sql).await;
        shown.parse().unwrap_or_else(|_| panic!("{sql}\ngave {shown:?}, which is no number"))
    }

    /// Whether one value is true.
    pub(crate) async fn is(&self, sql: &str) -> bool {
        match self.show(sql).await.as_str() {
            "t" => true,
            "f" => false,
            other => panic!("{sql}\ngave {other:?}, which is neither true nor false"),
        }
    }

    /// Runs statements whose results do not matter.
    pub(crate) async fn run(&self, sql: &str) {
        self.show(sql).await;
    }

    /// The error that a statement must end with.
    pub(crate) async fn error(&self, sql: &str) -> DbError {
        match self.try_show(sql).await {
            Ok(shown) => panic!("{sql}\nhad to fail, but gave {shown:?}"),
            Err(error) => match error.as_db_error() {
                Some(error) => error.clone(),
                None => panic!("{sql}\n{error}"),
            },
        }
    }

    /// The id of a job made by a call of add_job with these arguments.
    pub(crate) async fn add_job(&self, arguments: &str) -> i64 {
        self.number(&format!("SELECT id FROM app_jobs.add_job({arguments})")).await
    }

    /// What a claim shows. On a busy machine it may wait too long for a lock, such as that for the table to grow. Then
    /// it is made again, as workers do.
    pub(crate) async fn show_claim(&self, claim: &str) -> String {
        loop {
            match self.try_show(claim).await {
                Ok(shown) => return shown,
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {}
                Err(error) => panic!("{claim}\n{error}: {:?}", error.as_db_error()),
            }
        }
    }

    /// The id of the job that get_job claims; None when there is none.
    pub(crate) async fn get_job(&self, arguments: &str) -> Option<i64> {
        match self.show_claim(&format!("SELECT id FROM app_jobs.get_job({arguments})")).await.as_str() {
            "~" => None,
            id => Some(id.parse().unwrap()),
        }
    }

    /// The server process of this connection.
    pub(crate) async fn pid(&self) -> i64 {
        self.number("SELECT pg_backend_pid()").await
    }

    /// Waits until the server process `pid` waits for a lock.
    pub(crate) async fn wait_until_blocked(&self, pid: i64) {
        eventually(LIMIT, async || self.is(&format!("SELECT cardinality(pg_blocking_pids({pid})) > 0")).await).await;
    }
}

/// A connection that listens to one channel.
pub(crate) struct Ear {
    session: Session,
    heard: mpsc::UnboundedReceiver<(String, String)>,
}

impl Ear {
    /// Listens to the channel.
    pub(crate) async fn on(db: &TestDb, channel: &str) -> Self {
        let (client, mut connection) = tokio_postgres::connect(db.url(), NoTls).await.unwrap();
        let (sender, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(note) = message {
                    let _ = sender.send((note.channel().to_owned(), note.payload().to_owned()));
                }
            }
        });
        let session = Session { client };
        session.run(&format!("LISTEN \"{channel}\"; LISTEN end_of_test_step")).await;
        Self { session, heard }
    }

    /// How many notifications came since the last look. Every one that was committed before is counted: the server
    /// delivers in the order of commits, and a last one of our own marks the end.
    pub(crate) async fn count(&mut self) -> usize {
        self.session.run("NOTIFY end_of_test_step").await;
        let mut count = 0;
        loop {
            let (channel, payload) = tokio::time::timeout(LIMIT, self.heard.recv()).await.unwrap().unwrap();
            if channel == "end_of_test_step" {
                return count;
            }
            assert_eq!(payload, "", "a notification on {channel} has an empty payload");
            count += 1;
        }
    }
}

/// A role of one test. Roles belong to the whole server, so its name holds the database's.
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) url: String,
}

impl Role {
    /// Makes a role that may log in and nothing else.
    pub(crate) async fn create(db: &TestDb, admin: &Session, suffix: &str) -> Self {
        let name = format!("{}_{suffix}", db.name());
        admin.run(&format!("CREATE ROLE {name} LOGIN PASSWORD 'secret'")).await;
        Self { url: db.url_as(&name, "secret"), name }
    }

    /// Connects as the role.
    pub(crate) async fn session(&self) -> Session {
        Session::open_url(&self.url).await
    }

    /// Removes the role and what it owns.
    pub(crate) async fn remove(self, admin: &Session) {
        admin.run(&format!("DROP OWNED BY {0} CASCADE; DROP ROLE {0}", self.name)).await;
    }
}

/// A database that a role without any other right has migrated.
pub(crate) struct Place {
    pub(crate) db: TestDb,
    /// A superuser.
    pub(crate) admin: Session,
    /// Who migrated.
    pub(crate) owner: Role,
}

impl Place {
    /// Migrated as `job-service migrate` does.
    pub(crate) async fn new() -> Self {
        let place = Self::empty().await;
        let _ = migrate_schema(&place.owner.url, "app_jobs").await.unwrap();
        place
    }

    /// Migrated, with the functions of before_attacks.sql in place of today's.
    pub(crate) async fn before_attacks() -> Self {
        let place = Self::new().await;
        place.owner.session().await.run(include_str!("before_attacks.sql")).await;
        place
    }

    async fn empty() -> Self {
        // So that the server has the three roles: the owner may not make them.
        let _made_by_a_superuser = database().await;
        let db = TestDb::empty().await;
        let admin = Session::open(&db).await;
        let owner = Role::create(&db, &admin, "owner").await;
        admin.run(&format!("GRANT CREATE ON DATABASE {} TO {}", db.name(), owner.name)).await;
        Self { db, admin, owner }
    }

    /// A login role that is a member of `group`.
    pub(crate) async fn member(&self, group: &str) -> Role {
        let role = Role::create(&self.db, &self.admin, group).await;
        self.admin.run(&format!("GRANT {group} TO {}", role.name)).await;
        role
    }

    /// Removes the roles, which belong to the whole server.
    pub(crate) async fn end(self, others: Vec<Role>) {
        for role in others {
            role.remove(&self.admin).await;
        }
        self.owner.remove(&self.admin).await;
    }
}

/// A connection that keeps the warnings of its calls.
pub(crate) struct Notices {
    client: Client,
    told: mpsc::UnboundedReceiver<DbError>,
}

impl Notices {
    /// Connects as the superuser.
    pub(crate) async fn open(db: &TestDb) -> Self {
        let (client, mut connection) = tokio_postgres::connect(db.url(), NoTls).await.unwrap();
        let (sender, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message {
                    let _ = sender.send(notice);
                }
            }
        });
        Self { client, told }
    }

    /// Calls a function of the jobs schema: how many rows it gives, and its warnings.
    pub(crate) async fn call(&mut self, call: &str) -> (i64, Vec<String>) {
        let row = self.client.query_one(&format!("SELECT count(*) FROM app_jobs.{call}"), &[]).await.unwrap();
        let mut said = Vec::new();
        // Notices come before the answer.
        while let Ok(notice) = self.told.try_recv() {
            assert_eq!((notice.severity(), notice.hint().is_some()), ("WARNING", true), "{notice}");
            said.push(notice.message().to_owned());
        }
        (row.get(0), said)
    }
}
