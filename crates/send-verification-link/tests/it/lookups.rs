//! What the GraphQL APIs are asked, and what their answers mean.

use serde_json::{Value, json};

use crate::graphql::{GraphQl, site};
use crate::program::Program;
use crate::{DATABASE_ID, SENDER_ID, dry_run, invitation, reset};

fn failed(message: impl Into<String>) -> (u16, bool, Value) {
    (200, true, json!({ "message": message.into() }))
}

async fn subject(program: &mut Program, count: usize) -> String {
    program.dry_runs(count).await[count - 1]["subject"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_api_is_asked_its_query_with_the_configured_headers() {
    let (users, meta) = (GraphQl::start().await, GraphQl::start().await);
    let program = Program::start(&[
        ("GRAPHQL_URL", &users.url()),
        ("META_GRAPHQL_URL", &meta.url()),
        ("GRAPHQL_HOST_HEADER", "private.localhost"),
        ("META_GRAPHQL_HOST_HEADER", "meta.localhost"),
        ("GRAPHQL_AUTH_TOKEN", "token-secret"),
        ("GRAPHQL_API_NAME", "private"),
        ("GRAPHQL_SCHEMATA", "app_public,app_private"),
        ("SEND_VERIFICATION_LINK_DRY_RUN", "true"),
    ])
    .await;
    assert_eq!(program.job(&invitation()).await.0, 200);

    let asked = meta.queries();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("host"), Some("meta.localhost"));
    assert_eq!(asked[0].header("x-meta-schema"), Some("true"));
    assert_eq!(asked[0].header("x-database-id"), Some(DATABASE_ID));
    assert_eq!(asked[0].header("authorization"), Some("Bearer token-secret"));
    assert_eq!(asked[0].header("x-api-name"), None);
    assert_eq!(asked[0].body["variables"], json!({ "databaseId": DATABASE_ID }));
    let query = asked[0].body["query"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        query,
        "query GetDatabaseInfo($databaseId: UUID!) { databases(where: {id: {equalTo: $databaseId}}, first: 1) { nodes \
         { sites { nodes { domains { nodes { subdomain domain } } logo title siteThemes { nodes { theme } } \
         siteModules(where: {name: {equalTo: \"legal_terms_module\"}}) { nodes { data } } } } } } }"
    );

    let asked = users.queries();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("host"), Some("private.localhost"));
    assert_eq!(asked[0].header("x-meta-schema"), None);
    assert_eq!(asked[0].header("x-database-id"), Some(DATABASE_ID));
    assert_eq!(asked[0].header("authorization"), Some("Bearer token-secret"));
    assert_eq!(asked[0].header("x-api-name"), Some("private"));
    assert_eq!(asked[0].header("x-schemata"), Some("app_public,app_private"));
    assert_eq!(asked[0].body["variables"], json!({ "userId": SENDER_ID }));
    let query = asked[0].body["query"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        query,
        "query GetUser($userId: UUID!) { users(where: {id: {equalTo: $userId}}, first: 1) { nodes { username \
         displayName profilePicture } } }"
    );
    assert!(!program.process.output().contains("token-secret"));
}

#[tokio::test]
async fn without_further_settings_one_api_is_asked_with_its_own_host() {
    let (graphql, program) = dry_run().await;
    assert_eq!(program.job(&invitation()).await.0, 200);
    let asked = graphql.queries();
    assert_eq!(asked.len(), 2);
    for query in asked {
        assert_eq!(query.header("host"), Some(graphql.address()));
        assert_eq!(query.header("authorization"), None);
    }
    assert_eq!(program.job(&reset()).await.0, 200);
    assert_eq!(graphql.queries().len(), 3, "only an invitation asks for a user");
}

#[tokio::test]
async fn without_a_display_name_or_such_a_user_the_subject_is_a_welcome() {
    let (graphql, mut program) = dry_run().await;
    let users = [json!([]), json!([{ "username": "x", "displayName": null }]), json!([{ "displayName": " " }])];
    for (done, users) in users.into_iter().enumerate() {
        graphql.change(|world| world.users = users);
        assert_eq!(program.job(&invitation()).await.0, 200);
        assert_eq!(subject(&mut program, done + 1).await, "Welcome to Example!");
    }
}

#[tokio::test]
async fn a_missing_site_and_an_incomplete_one_have_their_own_errors() {
    let (graphql, program) = dry_run().await;
    for databases in [json!([]), json!([{ "sites": { "nodes": [] } }]), json!([{ "sites": null }])] {
        graphql.change(|world| world.databases = databases);
        assert_eq!(program.job(&reset()).await, failed("Site not found for database"));
    }
    for field in ["domains", "siteThemes", "siteModules"] {
        for nothing in [json!({ "nodes": [] }), Value::Null] {
            let mut site = site();
            site[field] = nothing;
            graphql.change(|world| world.databases = json!([{ "sites": { "nodes": [site] } }]));
            assert_eq!(program.job(&reset()).await, failed("Missing site configuration for email"), "{field}");
        }
    }
}

#[tokio::test]
async fn json_columns_may_come_as_text_and_a_bare_site_will_do() {
    let (graphql, mut program) = dry_run().await;
    graphql.change_site(|site| {
        for path in ["/logo", "/siteThemes/nodes/0/theme", "/siteModules/nodes/0/data"] {
            let value = site.pointer_mut(path).unwrap();
            *value = json!(value.to_string());
        }
    });
    assert_eq!(program.job(&reset()).await.0, 200);
    assert_eq!(subject(&mut program, 1).await, "Example Password Reset Request");
    graphql.change_site(|site| {
        site["logo"] = Value::Null;
        site["siteThemes"]["nodes"][0]["theme"] = json!({});
        site["siteModules"]["nodes"][0]["data"] = json!({ "company": {} });
    });
    assert_eq!(program.job(&reset()).await.0, 200);
    assert_eq!(subject(&mut program, 2).await, "Example App Password Reset Request");
}

#[tokio::test]
async fn an_api_that_refuses_or_is_away_gives_an_error_to_act_on() {
    let (graphql, program) = dry_run().await;
    let place = graphql.address();
    for (status, body, message) in [
        (
            200,
            json!({ "data": null, "errors": [{ "message": "no such field" }] }),
            "GetDatabaseInfo: no such field".into(),
        ),
        (400, json!({ "errors": [{ "message": "not a uuid" }] }), "GetDatabaseInfo: not a uuid".to_owned()),
        (
            502,
            json!("bad gateway"),
            format!("GetDatabaseInfo: the GraphQL API at {place} answered HTTP 502: \"bad gateway\""),
        ),
        (
            200,
            json!({ "data": {} }),
            format!("GetDatabaseInfo: the GraphQL API at {place} answered HTTP 200: {{\"data\":{{}}}}"),
        ),
    ] {
        graphql.change(|world| world.instead = Some((status, body)));
        assert_eq!(program.job(&reset()).await, failed(message));
    }

    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = free.local_addr().unwrap();
    drop(free);
    let url = format!("http://user:hunter2@{place}/graphql");
    let program = Program::start(&[("GRAPHQL_URL", &url), ("SEND_VERIFICATION_LINK_DRY_RUN", "true")]).await;
    let (status, error, body) = program.job(&reset()).await;
    assert_eq!((status, error), (200, true));
    let message = body["message"].as_str().unwrap();
    assert!(
        message.starts_with(&format!("GetDatabaseInfo: the GraphQL API at {place} cannot be reached (")),
        "{message}"
    );
    assert!(message.contains("onnection refused"), "{message}");
    assert!(!program.process.output().contains("hunter2"), "{}", program.process.output());
}
