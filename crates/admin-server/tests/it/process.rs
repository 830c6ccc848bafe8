//! The program itself: arguments, exit codes, signals, waiting for Postgres.

use job_testkit::process::Program;
use job_testkit::{Cluster, Signal, TestDb, eventually_some};
use reqwest::StatusCode;

use super::support::{LIMIT, answer, migrated};

fn program() -> Program {
    Program::at(env!("CARGO_BIN_EXE_admin-server"))
}

/// The address in the line that tells it.
fn address(line: &str) -> String {
    let address = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    format!("http://{address}")
}

#[tokio::test]
async fn it_listens_on_loopback_answers_and_stops_on_sigterm_with_0() {
    let db = migrated().await;
    let mut process = program().envs(db.env()).env("PORT", "0").env("NO_COLOR", "1").spawn();
    let line = process.wait_for_line("admin-server listens", LIMIT).await;
    let address = address(&line);
    assert!(address.starts_with("http://127.0.0.1:"), "{line}");
    let request = reqwest::Client::new().post(format!("{address}/graphql")).header("host", "private.localhost");
    let request = request.header("content-type", "application/json").body(r#"{"query": "{ users { nodes { id } } }"}"#);
    assert_eq!(answer(request).await.0, StatusCode::OK);
    process.signal(Signal::Term);
    assert_eq!(process.exit_code(LIMIT).await, 0);
}

#[tokio::test]
async fn all_interfaces_without_a_token_are_warned_about_and_a_token_is_never_shown() {
    let db = TestDb::empty().await;
    let all = [("PORT", "0"), ("ADMIN_HOST", "0.0.0.0"), ("NO_COLOR", "1")];
    let mut process = program().envs(db.env()).envs(all).spawn();
    process.wait_for_line("ADMIN_TOKEN is not set", LIMIT).await;
    let mut process =
        program().envs(db.env()).envs(all).env("ADMIN_TOKEN", "s3cret-token").env("RUST_LOG", "trace").spawn();
    process.wait_for_line("admin-server listens", LIMIT).await;
    process.wait_for_line("waiting for the schema", LIMIT).await;
    process.signal(Signal::Int);
    assert_eq!(process.exit_code(LIMIT).await, 0);
    let output = process.output();
    assert!(!output.contains("s3cret-token") && !output.contains("ADMIN_TOKEN is not set"), "{output}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_names_every_variable_and_exits_with_64() {
    let bad = [("PORT", "http"), ("ADMIN_HOST", "example.com"), ("API_IS_PUBLIC", "true")];
    let mut process = program().envs(bad).spawn();
    assert_eq!(process.exit_code(LIMIT).await, 64);
    let output = process.output();
    assert!(bad.iter().all(|(name, _)| output.contains(&format!("{name}: "))), "{output}");
    let mut process = program().arg("frobnicate").spawn();
    assert_eq!(process.exit_code(LIMIT).await, 64);
}

#[tokio::test]
async fn a_taken_port_and_a_wrong_user_exit_with_70() {
    let db = TestDb::empty().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut process = program().envs(db.env()).env("PORT", port).spawn();
    assert_eq!(process.exit_code(LIMIT).await, 70);
    assert!(process.output().contains("cannot listen on 127.0.0.1"), "{}", process.output());
    let mut process = program().envs(db.env()).env("PORT", "0").env("PGUSER", "nobody_here").spawn();
    assert_eq!(process.exit_code(LIMIT).await, 70);
    let mut process = program().arg("migrate").envs(db.env()).env("PGUSER", "nobody_here").spawn();
    assert_eq!(process.exit_code(LIMIT).await, 70);
}

#[tokio::test]
async fn migrate_as_a_command_makes_the_tables_whatever_the_port_says() {
    let db = TestDb::empty().await;
    let mut process = program().arg("migrate").envs(db.env()).env("PORT", "nonsense").spawn();
    assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
    let client = db.connect().await;
    let users = client.query_one("SELECT count(*) FROM roles_public.users", &[]).await.unwrap();
    assert_eq!(users.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn postgres_may_come_late_and_go_away() {
    let mut cluster = Cluster::temporary().await.unwrap();
    cluster.stop().await.unwrap();
    let mut service = program().envs(cluster.env("postgres")).env("PORT", "0").env("NO_COLOR", "1").spawn();
    let address = address(&service.wait_for_line("admin-server listens", LIMIT).await);
    service.wait_for_line("waiting for Postgres at 127.0.0.1", LIMIT).await;
    let mut migrate = program().arg("migrate").envs(cluster.env("postgres")).spawn();
    migrate.wait_for_line("waiting for Postgres at 127.0.0.1", LIMIT).await;
    let ask = async || {
        let request = reqwest::Client::new().post(format!("{address}/graphql")).header("host", "private.localhost");
        let body = r#"{"query": "{ users { nodes { username } } }"}"#;
        answer(request.header("content-type", "application/json").body(body)).await.1
    };
    assert_eq!(ask().await["errors"][0]["message"], "the database cannot be reached now, try again");
    let health = async |path: &str| reqwest::get(format!("{address}/{path}")).await.unwrap().status();
    assert_eq!(health("healthz").await, StatusCode::OK);
    assert_eq!(health("readyz").await, StatusCode::SERVICE_UNAVAILABLE);

    cluster.start_again().await.unwrap();
    assert_eq!(migrate.exit_code(LIMIT).await, 0, "{}", migrate.output());
    assert_eq!(ask().await["data"]["users"]["nodes"][0]["username"], "ada");

    cluster.restart().await.unwrap();
    let username = eventually_some(LIMIT, async || {
        ask().await["data"]["users"]["nodes"][0]["username"].as_str().map(str::to_owned)
    });
    assert_eq!(username.await, "ada");
    assert_eq!(health("readyz").await, StatusCode::OK);
}

#[tokio::test]
async fn the_command_health_asks_the_server_that_runs_here() {
    let db = migrated().await;
    let mut process = program().envs(db.env()).env("PORT", "0").env("NO_COLOR", "1").spawn();
    let line = process.wait_for_line("admin-server listens", LIMIT).await;
    let port = address(&line).rsplit(':').next().unwrap().to_owned();
    let mut asked = program().arg("health").env("PORT", &port).spawn();
    assert_eq!(asked.exit_code(LIMIT).await, 0, "{}", asked.output());
    process.signal(Signal::Term);
    assert_eq!(process.exit_code(LIMIT).await, 0);
    let mut asked = program().arg("health").env("PORT", &port).spawn();
    assert_eq!(asked.exit_code(LIMIT).await, 70, "{}", asked.output());
}
