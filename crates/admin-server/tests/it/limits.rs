//! How much a request may ask, and what an introspection may.

use reqwest::StatusCode;
use serde_json::json;

use super::support::{LIMIT, Server};

/// What graphql-js's getIntrospectionQuery asks, with every option on that GraphiQL and code generators use.
const INTROSPECTION: &str = r#"
    query IntrospectionQuery {
      __schema {
        description
        queryType { name }
        mutationType { name }
        subscriptionType { name }
        types { ...FullType }
        directives {
          name
          description
          isRepeatable
          locations
          args(includeDeprecated: true) { ...InputValue }
        }
      }
    }
    fragment FullType on __Type {
      kind
      name
      description
      specifiedByURL
      fields(includeDeprecated: true) {
        name
        description
        args(includeDeprecated: true) { ...InputValue }
        type { ...TypeRef }
        isDeprecated
        deprecationReason
      }
      inputFields(includeDeprecated: true) { ...InputValue }
      interfaces { ...TypeRef }
      enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason }
      possibleTypes { ...TypeRef }
    }
    fragment InputValue on __InputValue {
      name
      description
      type { ...TypeRef }
      defaultValue
      isDeprecated
      deprecationReason
    }
    fragment TypeRef on __Type {
      kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType {
      kind name ofType { kind name ofType { kind name ofType { kind name } } } } } } } } }
    }"#;

#[tokio::test]
async fn the_introspection_of_graphql_clients_is_answered() {
    let server = Server::start().await;
    let data = server.data(INTROSPECTION, json!({})).await;
    let types = data["__schema"]["types"].as_array().unwrap();
    let names: Vec<&str> = types.iter().filter_map(|kind| kind["name"].as_str()).collect();
    for name in ["UUID", "BigInt", "Datetime", "JSON", "Database", "DatabasesConnection", "UUIDFilter", "AddJobInput"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
}

#[tokio::test]
async fn a_query_that_is_too_deep_is_refused() {
    let server = Server::start().await;
    let query = format!("{{ __schema {{ types {{ {} name {} }} }} }}", "ofType {".repeat(20), "}".repeat(20));
    let answer = server.ask(&query, json!({})).await;
    assert_eq!(answer["errors"][0]["message"], "Query is nested too deep.");
    assert!(answer["data"].is_null());
}

#[tokio::test]
async fn a_query_of_too_many_fields_is_refused() {
    let server = Server::start().await;
    let fields: String = (0..400).map(|n| format!("u{n}: users {{ nodes {{ id }} }} ")).collect();
    let answer = server.ask(&format!("{{ {fields} }}"), json!({})).await;
    assert_eq!(answer["errors"][0]["message"], "Query is too complex.");
    assert!(answer["data"].is_null());
}

#[tokio::test]
async fn fragments_that_double_without_end_are_refused_at_once() {
    let server = Server::start().await;
    let double = |n| format!("fragment F{n} on Query {{ ...F{next} ...F{next} }} ", next = n + 1);
    let doubling: String = (0..60).map(double).collect();
    let end = "fragment F60 on Query { users { nodes { id } } }";
    let queries = [
        format!("{{ ...F0 }} {doubling} {end}"),
        "{ ...F } fragment F on Query { ...F ...F }".to_owned(),
        format!("{{ {} }}", "users { nodes { id } } ".repeat(20_000)),
    ];
    for query in queries {
        let (status, answer) =
            tokio::time::timeout(LIMIT, server.body(json!({ "query": query }).to_string())).await.unwrap();
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(answer["errors"][0]["message"].as_str().unwrap().starts_with("the query "), "{answer}");
    }
}

#[tokio::test]
async fn brackets_without_end_are_refused_and_the_server_lives_on() {
    let server = Server::start().await;
    for (open, close) in [("{a", "}"), ("{a(b:[", "])}"), ("[", "]"), ("{a(b:{c:", "})}")] {
        let queries = [open.repeat(100_000), format!("{}{}", open.repeat(100_000), close.repeat(100_000))];
        for query in queries {
            let answer = server.ask(&query, json!({})).await;
            assert!(answer["errors"][0]["message"].is_string() && answer["data"].is_null(), "{answer}");
        }
    }
    let nested =
        format!(r#"{{"query": "{{a}}", "variables": {{"a": {}{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(server.body(nested).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(
        server.data("{ users { nodes { username } } }", json!({})).await["users"]["nodes"][0]["username"],
        "ada"
    );
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let server = Server::start().await;
    let query = "mutation($p: JSON) { addJob(input: {identifier: \"t\", payload: $p}) { result { id } } }";
    let body = |size: usize| json!({ "query": query, "variables": { "p": "x".repeat(size) } }).to_string();
    assert_eq!(server.body(body(1 << 20)).await.0, StatusCode::OK);
    let (status, answer) = server.body(body(3 << 20)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer["errors"][0]["message"].as_str().unwrap().contains("larger than"), "{answer}");
    let left = server.data("{ jobs { nodes { id } } }", json!({})).await;
    assert_eq!(left["jobs"]["nodes"], json!([{ "id": "1" }]));
}

#[tokio::test]
async fn an_unknown_field_and_a_syntax_error_are_graphql_errors() {
    let server = Server::start().await;
    for query in ["{ nothing }", "{ users { nodes { id } }", "{ users }", "mutation { dropEverything }"] {
        let answer = server.ask(query, json!({})).await;
        assert!(answer["errors"][0]["message"].is_string() && answer["data"].is_null(), "{answer}");
    }
}
