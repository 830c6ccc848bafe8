//! What the functions ask: a database with its site, a user.

use job_testkit::TestDb;
use serde_json::json;

use super::support::{DATABASE, Server, USER};

const GET_DATABASE_INFO: &str = r#"
    query GetDatabaseInfo($databaseId: UUID!) {
      databases(where: {id: {equalTo: $databaseId}}, first: 1) {
        nodes {
          sites {
            nodes {
              domains { nodes { subdomain domain } }
              logo
              title
              siteThemes { nodes { theme } }
              siteModules(where: {name: {equalTo: "legal_terms_module"}}) { nodes { data } }
            }
          }
        }
      }
    }"#;

const GET_USER: &str = r#"
    query GetUser($userId: UUID!) {
      users(where: {id: {equalTo: $userId}}, first: 1) {
        nodes { username displayName profilePicture }
      }
    }"#;

const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn a_database_is_found_with_its_site() {
    let server = Server::start().await;
    let client = server.db.connect().await;
    // Another tenant with a site of its own, and another module of the same site: neither belongs into the answer.
    let others = format!(
        "INSERT INTO services_public.site_modules (database_id, site_id, name, data)
         SELECT database_id, id, 'other_module', '{{\"other\": true}}' FROM services_public.sites;
         INSERT INTO metaschema_public.database (id, name) VALUES ('{UNKNOWN}', 'other');
         INSERT INTO services_public.sites (database_id, title) VALUES ('{UNKNOWN}', 'Other');"
    );
    client.batch_execute(&others).await.unwrap();
    let data = server.data(GET_DATABASE_INFO, json!({ "databaseId": DATABASE })).await;
    let site = json!({
        "domains": { "nodes": [{ "subdomain": "app", "domain": "constructive.example" }] },
        "logo": { "url": "https://app.constructive.example/logo.png", "mime": "image/png" },
        "title": "Constructive",
        "siteThemes": { "nodes": [{ "theme": { "primary": "#01A1FF" } }] },
        "siteModules": { "nodes": [{ "data": {
            "emails": { "support": "support@constructive.example" },
            "company": {
                "website": "https://constructive.example", "nick": "Constructive", "name": "Constructive, Inc."
            }
        } }] }
    });
    assert_eq!(data, json!({ "databases": { "nodes": [{ "sites": { "nodes": [site] } }] } }));
}

#[tokio::test]
async fn a_user_is_found() {
    let server = Server::start().await;
    let data = server.data(GET_USER, json!({ "userId": USER })).await;
    let picture = json!({ "url": "https://app.constructive.example/ada.png", "mime": "image/png" });
    let user = json!({ "username": "ada", "displayName": "Ada Lovelace", "profilePicture": picture });
    assert_eq!(data, json!({ "users": { "nodes": [user] } }));
}

#[tokio::test]
async fn the_functions_headers_do_no_harm() {
    let server = Server::start().await;
    let body = json!({ "query": GET_USER, "operationName": "GetUser", "variables": { "userId": USER } });
    let request = server.post().header("x-meta-schema", "true").header("x-database-id", DATABASE);
    let request =
        request.header("x-api-name", "private").header("x-schemata", "a,b").header("authorization", "Bearer x");
    let (_, answer) = super::support::answer(request.body(body.to_string())).await;
    assert_eq!(answer["data"]["users"]["nodes"][0]["username"], "ada");
}

#[tokio::test]
async fn an_unknown_id_finds_nothing() {
    let server = Server::start().await;
    let data = server.data(GET_DATABASE_INFO, json!({ "databaseId": UNKNOWN })).await;
    assert_eq!(data, json!({ "databases": { "nodes": [] } }));
    assert_eq!(server.data(GET_USER, json!({ "userId": UNKNOWN })).await, json!({ "users": { "nodes": [] } }));
}

#[tokio::test]
async fn an_id_that_is_no_uuid_is_an_error_and_not_a_search_for_everything() {
    let server = Server::start().await;
    for id in [json!("'; drop table roles_public.users; --"), json!(7), json!(null)] {
        let answer = server.ask(GET_USER, json!({ "userId": id })).await;
        assert!(answer["errors"][0]["message"].is_string(), "{answer}");
        assert!(answer["data"].is_null(), "{answer}");
    }
    let answer = server.ask(GET_USER, json!({})).await;
    assert!(answer["errors"][0]["message"].is_string() && answer["data"].is_null(), "{answer}");
    let (message, code) = server.error("{ users(where: {id: {equalTo: null}}) { nodes { id } } }", json!({})).await;
    assert_eq!((message.as_str(), code.as_str()), ("equalTo must not be null", "BAD_USER_INPUT"));
}

#[tokio::test]
async fn a_hostile_name_is_a_parameter() {
    let server = Server::start().await;
    let client = server.db.connect().await;
    let name = r#"x'; DROP TABLE services_public.sites; -- "\ $1"#;
    let insert = "INSERT INTO services_public.site_modules (database_id, site_id, name, data)
                  SELECT database_id, id, $1, '1' FROM services_public.sites";
    client.execute(insert, &[&name]).await.unwrap();
    let query = "query($name: String!) { databases { nodes { sites { nodes {
                 siteModules(where: {name: {equalTo: $name}}) { nodes { name data } } } } } } }";
    let data = server.data(query, json!({ "name": name })).await;
    let modules = &data["databases"]["nodes"][0]["sites"]["nodes"][0]["siteModules"]["nodes"];
    assert_eq!(modules, &json!([{ "name": name, "data": 1 }]));
    let data = server.data(query, json!({ "name": "' OR true --" })).await;
    assert_eq!(data["databases"]["nodes"][0]["sites"]["nodes"][0]["siteModules"]["nodes"], json!([]));
}

#[tokio::test]
async fn rows_come_oldest_first_and_equally_old_ones_by_id() {
    let server = Server::start().await;
    let client = server.db.connect().await;
    let rows = "DELETE FROM roles_public.users;
                INSERT INTO roles_public.users (id, username, created_at) VALUES
                ('00000000-0000-4000-8000-00000000000c', 'third', '2026-01-02'),
                ('00000000-0000-4000-8000-00000000000b', 'second', '2026-01-01'),
                ('00000000-0000-4000-8000-00000000000a', 'first', '2026-01-01'),
                ('00000000-0000-4000-8000-000000000001', 'fourth', '2026-01-03')";
    client.batch_execute(rows).await.unwrap();
    let data = server.data("{ users(first: 3) { nodes { username profilePicture } } }", json!({})).await;
    let nodes = ["first", "second", "third"].map(|name| json!({ "username": name, "profilePicture": null }));
    assert_eq!(data, json!({ "users": { "nodes": nodes } }));
}

#[tokio::test]
async fn first_has_bounds() {
    let server = Server::start().await;
    for first in [-1, 1001] {
        let query = format!("{{ users(first: {first}) {{ nodes {{ id }} }} }}");
        let (message, code) = server.error(&query, json!({})).await;
        assert_eq!(message, format!("first: {first} is not between 0 and 1000"));
        assert_eq!(code, "BAD_USER_INPUT");
    }
    assert_eq!(server.data("{ users(first: 0) { nodes { id } } }", json!({})).await["users"]["nodes"], json!([]));
}

#[tokio::test]
async fn missing_tables_are_empty() {
    let server = Server::start_on(TestDb::empty().await, &[]).await;
    let data = server.data("{ databases { nodes { id } } users { nodes { id } } }", json!({})).await;
    assert_eq!(data, json!({ "databases": { "nodes": [] }, "users": { "nodes": [] } }));
    let client = server.db.connect().await;
    let only_databases = format!(
        "CREATE SCHEMA metaschema_public;
         CREATE TABLE metaschema_public.database (id uuid, name text, created_at timestamptz);
         INSERT INTO metaschema_public.database VALUES ('{DATABASE}', 'lonely', NULL)"
    );
    client.batch_execute(&only_databases).await.unwrap();
    let data = server.data(GET_DATABASE_INFO, json!({ "databaseId": DATABASE })).await;
    assert_eq!(data, json!({ "databases": { "nodes": [{ "sites": { "nodes": [] } }] } }));
}

#[tokio::test]
async fn columns_of_other_types_are_read_as_well() {
    let server = Server::start_on(TestDb::empty().await, &[]).await;
    let client = server.db.connect().await;
    let tables = format!(
        "CREATE SCHEMA roles_public;
         CREATE DOMAIN roles_public.picture AS jsonb;
         CREATE DOMAIN roles_public.word AS varchar(20);
         CREATE TABLE roles_public.users (id uuid, username roles_public.word, display_name name,
                                          profile_picture roles_public.picture, created_at date);
         INSERT INTO roles_public.users VALUES ('{USER}', 'ada', 'Ada', '{{\"url\": 1}}', '2026-01-01')"
    );
    client.batch_execute(&tables).await.unwrap();
    let data = server.data(GET_USER, json!({ "userId": USER })).await;
    let user = json!({ "username": "ada", "displayName": "Ada", "profilePicture": { "url": 1 } });
    assert_eq!(data["users"]["nodes"], json!([user]));
}

#[tokio::test]
async fn a_failing_look_up_tells_nothing_of_the_sql() {
    let server = Server::start().await;
    let client = server.db.connect().await;
    client.batch_execute("ALTER TABLE roles_public.users RENAME COLUMN username TO login").await.unwrap();
    let (message, code) = server.error("{ users { nodes { id } } }", json!({})).await;
    assert_eq!(message, "the database could not answer; the server's log says why");
    assert_eq!(code, "DATABASE_ERROR");
}
