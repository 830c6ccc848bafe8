//! How a worker reaches Postgres: TLS in libpq's modes, several hosts, a Unix socket. Servers of our own.

use std::path::{Path, PathBuf};
use std::process::Command;

use job_pg::Db;
use job_pg::rustls::crypto::aws_lc_rs;
use job_pg::rustls::pki_types::CertificateDer;
use job_pg::rustls::pki_types::pem::PemObject;
use job_pg::rustls::{ClientConfig, RootCertStore};
use job_testkit::cluster::account::Account;
use job_testkit::cluster::free_port;
use job_testkit::{Cluster, Process, Signal, eventually, eventually_some};
use tokio_postgres::Client;

use super::support::{LIMIT, migrated, program};

/// Certificates made with the openssl program.
pub(crate) struct Certificates(tempfile::TempDir);

impl Certificates {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        let output = command.args(arguments.split_whitespace()).current_dir(self.0.path()).output();
        let output = output.expect("the openssl program is needed");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// An authority.
    pub(crate) fn authority(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
             -keyout {name}.key -out {name}.crt"
        ));
    }

    /// A server's certificate for the host `localhost`, signed by an authority.
    pub(crate) fn server(&self, name: &str, authority: &str) {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \
             -addext subjectAltName=DNS:localhost -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 2 \
             -copy_extensions copy -out {name}.crt"
        ));
    }

    /// A certificate that signs itself, made as PostgreSQL's manual shows, but with a subjectAltName.
    fn self_signed(&self, name: &str) {
        self.openssl(&format!(
            "req -new -x509 -days 2 -nodes -text -subj /CN=localhost -addext subjectAltName=DNS:localhost \
             -keyout {name}.key -out {name}.crt"
        ));
    }

    /// Makes the server use a certificate from now on.
    async fn install(&self, name: &str, cluster: &Cluster, client: &Client) {
        let account = Account::for_server().unwrap();
        for (extension, mode) in [("crt", 0o644), ("key", 0o600)] {
            let target = cluster.directory().join("data").join(format!("{name}.{extension}"));
            std::fs::copy(self.file(&format!("{name}.{extension}")), &target).unwrap();
            std::fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            if let Some(account) = account {
                account.own(&target).unwrap();
            }
        }
        for setting in
            [format!("ssl_cert_file = '{name}.crt'"), format!("ssl_key_file = '{name}.key'"), "ssl = on".to_owned()]
        {
            client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
        }
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let port = cluster.port();
        eventually(LIMIT, async || {
            let shown = format!("-connect 127.0.0.1:{port} -starttls postgres -servername localhost");
            let output = Command::new("openssl").arg("s_client").args(shown.split_whitespace()).output().unwrap();
            let own = std::fs::read_to_string(self.file(&format!("{name}.crt"))).unwrap();
            let own = own[own.find("-----BEGIN").unwrap()..].trim().to_owned();
            String::from_utf8_lossy(&output.stdout).contains(&own)
        })
        .await;
    }
}

/// The worker's sessions that use TLS, and all.
async fn sessions(client: &Client) -> (i64, i64) {
    let sql = "SELECT count(*) FILTER (WHERE s.ssl), count(*) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) \
               WHERE a.application_name = 'jobs'";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

struct Stage {
    cluster: Cluster,
    client: Client,
}

impl Stage {
    async fn new() -> Self {
        let cluster = Cluster::temporary().await.unwrap();
        migrated(cluster.url("postgres")).await.unwrap();
        let client = job_testkit::postgres::connect(&cluster.url("postgres")).await;
        Self { cluster, client }
    }

    /// A worker that reaches the server as `env` says.
    fn worker(&self, id: &str, env: &[(&str, &str)]) -> Process {
        let worker = program().envs(self.cluster.env("postgres")).env("KNATIVE_SERVICE_URL", "http://127.0.0.1:9");
        let worker = worker.env("HOSTNAME", id).env("PGHOST", "localhost");
        worker.envs(env.iter().copied()).spawn()
    }

    /// It works, and its sessions are all with TLS or all without.
    async fn works(&self, id: &str, env: &[(&str, &str)], tls: bool) {
        let mut worker = self.worker(id, env);
        worker.wait_for_line("worker looks for jobs", LIMIT).await;
        let (encrypted, all) = eventually_some(LIMIT, async || {
            let (encrypted, all) = sessions(&self.client).await;
            (all >= 2).then_some((encrypted, all))
        })
        .await;
        assert_eq!(encrypted, if tls { all } else { 0 }, "{id}");
        worker.signal(Signal::Term);
        assert_eq!(worker.exit_code(LIMIT).await, 0, "{id}");
    }

    /// It does not get through, and says why.
    async fn refuses(&self, id: &str, env: &[(&str, &str)], reason: &str) {
        let mut worker = self.worker(id, env);
        let line = worker.wait_for_line("waiting for Postgres", LIMIT).await;
        assert!(line.to_lowercase().contains(reason), "{id}: {line}");
        assert_eq!(sessions(&self.client).await.1, 0, "{id}");
        worker.signal(Signal::Term);
        assert_eq!(worker.exit_code(LIMIT).await, 0, "{id}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn the_tls_modes_mean_what_they_mean_in_libpq() {
    let stage = Stage::new().await;
    let port = stage.cluster.port();

    // Without TLS on the server.
    stage.works("off-disable", &[("PGSSLMODE", "disable")], false).await;
    stage.works("off-prefer", &[], false).await;
    stage.refuses("off-require", &[("PGSSLMODE", "require")], "tls").await;

    let made = Certificates::new();
    made.authority("ours");
    made.authority("theirs");
    made.server("server", "ours");
    made.self_signed("alone");
    made.install("server", &stage.cluster, &stage.client).await;
    let (ours, theirs) = (made.file("ours.crt"), made.file("theirs.crt"));
    let (ours, theirs) = (text(&ours), text(&theirs));

    stage.works("on-disable", &[("PGSSLMODE", "disable")], false).await;
    stage.works("on-prefer", &[], true).await;
    stage.works("on-require", &[("PGSSLMODE", "require")], true).await;
    let mode = |mode, root| [("PGSSLMODE", mode), ("PGSSLROOTCERT", root)];
    stage.works("on-ca", &mode("verify-ca", ours), true).await;
    stage.works("on-full", &mode("verify-full", ours), true).await;
    stage.refuses("on-ca-theirs", &mode("verify-ca", theirs), "certificate").await;
    stage.refuses("on-full-theirs", &mode("verify-full", theirs), "certificate").await;
    stage.refuses("on-require-theirs", &mode("require", theirs), "certificate").await;
    // The certificate is for localhost.
    let by_number = |mode| [("PGSSLMODE", mode), ("PGSSLROOTCERT", ours), ("PGHOST", "127.0.0.1")];
    stage.works("on-ca-number", &by_number("verify-ca"), true).await;
    stage.refuses("on-full-number", &by_number("verify-full"), "certificate").await;
    // The same in a URL.
    let url = format!("postgres://localhost:{port}/?sslmode=verify-full&sslrootcert={ours}");
    stage.works("url-full", &[("DATABASE_URL", &url)], true).await;

    // A certificate that signs itself is its own root.
    made.install("alone", &stage.cluster, &stage.client).await;
    let alone = made.file("alone.crt");
    let alone = text(&alone);
    stage.works("alone-require", &[("PGSSLMODE", "require")], true).await;
    stage.refuses("alone-theirs", &mode("verify-ca", theirs), "certificate").await;
    stage.works("alone-ca", &mode("verify-ca", alone), true).await;
    stage.works("alone-full", &mode("verify-full", alone), true).await;
    let by_number = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", alone), ("PGHOST", "127.0.0.1")];
    stage.refuses("alone-number", &by_number, "certificate").await;
}

#[tokio::test]
async fn a_worker_takes_the_first_host_that_answers_and_what_a_url_leaves_out_from_the_variables() {
    let stage = Stage::new().await;
    let port = stage.cluster.port();
    // What a URL leaves out.
    stage.works("url-empty", &[("DATABASE_URL", "postgres:///postgres?sslmode=disable")], false).await;

    // Several hosts: the first is refused; the second is ours.
    let (dead, hosts) = (free_port().unwrap(), "127.0.0.1,127.0.0.1");
    let ports = format!("{dead},{port}");
    stage.works("hosts", &[("PGHOST", hosts), ("PGPORT", &ports)], false).await;
    let url = format!("postgres://postgres@127.0.0.1:{dead},127.0.0.1:{port}/postgres");
    stage.works("hosts-url", &[("DATABASE_URL", &url)], false).await;

    // The first takes connections and never says a word, as a machine that hangs does.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ports = format!("{},{port}", silent.local_addr().unwrap().port());
    stage.works("hosts-silent", &[("PGHOST", hosts), ("PGPORT", &ports)], false).await;

    // A Unix socket.
    let directory = stage.cluster.directory().to_owned();
    stage.works("socket", &[("PGHOST", text(&directory))], false).await;

    // A URL that leaves out the port alone.
    stage.works("url-without-port", &[("DATABASE_URL", "postgres://localhost/postgres")], false).await;
}

/// A server that asks for a certificate of the client, and takes those of one authority.
#[tokio::test]
async fn a_client_shows_its_certificate_to_a_server_that_asks_for_one() {
    let stage = Stage::new().await;
    let made = Certificates::new();
    for (authority, client) in [("ours", "client"), ("theirs", "stranger")] {
        made.authority(authority);
        made.server(client, authority);
    }
    made.server("server", "ours");
    made.install("server", &stage.cluster, &stage.client).await;
    let data = stage.cluster.directory().join("data");
    std::fs::copy(made.file("ours.crt"), data.join("clients.crt")).unwrap();
    std::fs::write(data.join("pg_hba.conf"), "hostssl all all all trust clientcert=verify-ca\n").unwrap();
    stage.client.batch_execute("ALTER SYSTEM SET ssl_ca_file = 'clients.crt'").await.unwrap();
    stage.client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let shown = "SELECT current_setting('ssl_ca_file') = 'clients.crt'";
    eventually(LIMIT, async || stage.client.query_one(shown, &[]).await.unwrap().get(0)).await;

    let [certificate, key, stranger, strangers_key] =
        ["client.crt", "client.key", "stranger.crt", "stranger.key"].map(|name| text(&made.file(name)).to_owned());
    let mut worker = stage.worker("shows-none", &[]);
    assert_eq!(worker.exit_code(LIMIT).await, 70);
    assert!(worker.output().contains("requires a valid client certificate"), "{}", worker.output());
    stage.works("shown-by-variables", &[("PGSSLCERT", &certificate), ("PGSSLKEY", &key)], true).await;
    let url = format!("postgres:///postgres?sslmode=require&sslcert={certificate}&sslkey={key}");
    stage.works("shown-by-url", &[("DATABASE_URL", &url)], true).await;
    stage.refuses("stranger", &[("PGSSLCERT", &stranger), ("PGSSLKEY", &strangers_key)], "alert").await;

    // What cannot be used is named.
    made.openssl("pkey -aes256 -in client.key -out locked.key -passout pass:x");
    let locked = text(&made.file("locked.key")).to_owned();
    for (certificate, key, named) in [
        (&certificate, &locked, "PGSSLKEY"),
        (&certificate, &strangers_key, "PGSSLCERT"),
        (&key, &key, "PGSSLCERT"),
        (&certificate, &certificate, "PGSSLKEY"),
    ] {
        let mut worker = stage.worker("refused", &[("PGSSLCERT", certificate), ("PGSSLKEY", key)]);
        let code = worker.exit_code(LIMIT).await;
        let output = worker.output();
        assert!(code == 64 && output.contains(&format!("{named}: ")), "{named}: exit {code}\n{output}");
    }
}

/// An application's own TLS: it is used and checked, also when the URL asks for none, and without it on the server
/// there is no connection.
#[tokio::test]
async fn tls_of_an_applications_own_is_required() {
    let stage = Stage::new().await;
    let made = Certificates::new();
    let db = |root: &str| {
        made.authority(root);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(made.file(&format!("{root}.crt"))).unwrap()).unwrap();
        let tls = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into());
        let tls =
            tls.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
        let url = format!("postgres://postgres@localhost:{}/postgres?sslmode=disable", stage.cluster.port());
        Db::builder(&url).tls(tls).build().unwrap()
    };
    let (ours, theirs) = (db("ours"), db("theirs"));
    assert!(ours.ready().await.is_err(), "no TLS on the server");
    made.server("server", "ours");
    made.install("server", &stage.cluster, &stage.client).await;
    ours.ready().await.unwrap();
    assert_eq!(sessions(&stage.client).await, (1, 1));
    let refused = format!("{:?}", theirs.ready().await.unwrap_err());
    assert!(refused.contains("UnknownIssuer"), "{refused}");
}
