//! The three requests of "Test GraphQL access" in the guide, with the bodies as written there.

use serde_json::json;

use super::support::{DATABASE, Server, USER};

#[tokio::test]
async fn the_private_api_can_be_introspected() {
    let server = Server::start().await;
    let (_, answer) = server.body(r#"{"query": "{ __schema { queryType { fields { name } } } }"}"#).await;
    let fields = [("databases",), ("users",), ("jobs",), ("scheduledJobs",)].map(|(name,)| json!({ "name": name }));
    assert_eq!(answer, json!({ "data": { "__schema": { "queryType": { "fields": fields } } } }));
}

#[tokio::test]
async fn databases_are_listed() {
    let server = Server::start().await;
    let (_, answer) = server.body(r#"{"query": "{ databases { nodes { id name } } }"}"#).await;
    let nodes = json!([{ "id": DATABASE, "name": "constructive" }]);
    assert_eq!(answer, json!({ "data": { "databases": { "nodes": nodes } } }));
}

#[tokio::test]
async fn users_are_listed() {
    let server = Server::start().await;
    let (_, answer) = server.body(r#"{"query": "{ users { nodes { id username displayName } } }"}"#).await;
    let nodes = json!([{ "id": USER, "username": "ada", "displayName": "Ada Lovelace" }]);
    assert_eq!(answer, json!({ "data": { "users": { "nodes": nodes } } }));
}
