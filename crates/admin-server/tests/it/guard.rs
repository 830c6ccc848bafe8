//! Who gets in: the host name, the token, the kind of request.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::support::{Server, answer, migrated};

const QUERY: &str = r#"{"query": "{ users { nodes { username } } }"}"#;
const JSON: &str = "application/json";

fn message(answer: &Value) -> &str {
    answer["errors"][0]["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn the_private_api_is_selected_by_its_host_name_with_any_port_and_in_any_case() {
    let server = Server::start().await;
    for host in ["private.localhost", "private.localhost:3001", "PRIVATE.LocalHost", "Private.localhost:80"] {
        let (status, answer) = answer(server.post_to(host).header("content-type", JSON).body(QUERY)).await;
        assert_eq!(
            (status, &answer["data"]["users"]["nodes"][0]["username"]),
            (StatusCode::OK, &json!("ada")),
            "{host}"
        );
    }
}

#[tokio::test]
async fn any_other_host_name_gets_a_404_that_says_which_one_to_send() {
    let server = Server::start().await;
    let hosts = [
        "localhost:3001",
        "127.0.0.1",
        "public.localhost",
        "private.localhost.evil.example",
        "xprivate.localhost",
        "[::1]:1",
    ];
    for host in hosts {
        let (status, answer) = answer(server.post_to(host).header("content-type", JSON).body(QUERY)).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{host}");
        let expected = "no API is served for this host name: send the header `Host: private.localhost`, or X-Meta-Schema or \
                        X-Api-Name";
        assert_eq!(answer, json!({ "errors": [{ "message": expected }] }), "{host}");
    }
}

#[tokio::test]
async fn the_api_is_selected_by_the_originals_headers_as_well_but_not_for_a_web_page() {
    let server = Server::start().await;
    let ask = |name: &str, value: &str| {
        server.post_to("admin-server:3000").header("content-type", JSON).header(name, value).body(QUERY)
    };
    for (name, value) in [("X-Meta-Schema", "true"), ("x-meta-schema", "TRUE"), ("X-Api-Name", "private")] {
        let (status, answer) = answer(ask(name, value)).await;
        assert_eq!(
            (status, &answer["data"]["users"]["nodes"][0]["username"]),
            (StatusCode::OK, &json!("ada")),
            "{name}"
        );
        // A page whose own name leads here can send any header, but its origin comes with it.
        for (mark, mark_value) in [("origin", "http://evil.example:3000"), ("sec-fetch-site", "same-origin")] {
            let (status, _) = self::answer(ask(name, value).header(mark, mark_value)).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{name} {mark}");
        }
    }
    for (name, value) in [("X-Meta-Schema", "false"), ("X-Api-Name", ""), ("X-Database-Id", "1"), ("X-Schemata", "a")] {
        assert_eq!(answer(ask(name, value)).await.0, StatusCode::NOT_FOUND, "{name}: {value}");
    }
}

#[tokio::test]
async fn with_a_token_every_request_must_carry_it() {
    let server = Server::start_on(migrated().await, &[("ADMIN_TOKEN", "s3cret-token")]).await;
    for value in [
        None,
        Some("Bearer s3cret-tokem"),
        Some("Bearer s3cret-toke"),
        Some("Bearer "),
        Some("s3cret-token"),
        Some("Basic s3cret-token"),
        Some("Bearer s3cret-token2"),
        Some(""),
    ] {
        let request = server.post().body(QUERY);
        let request = value.into_iter().fold(request, |request, value| request.header("authorization", value));
        let response = request.try_clone().unwrap().send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let (status, answer) = answer(request).await;
        assert_eq!((status, answer["data"].is_null()), (StatusCode::UNAUTHORIZED, true), "{value:?}");
        assert!(message(&answer).contains("ADMIN_TOKEN"), "{answer}");
    }
    for value in ["Bearer s3cret-token", "bearer s3cret-token"] {
        let (status, answer) = answer(server.post().header("authorization", value).body(QUERY)).await;
        assert_eq!((status, &answer["data"]["users"]["nodes"][0]["username"]), (StatusCode::OK, &json!("ada")));
    }
}

#[tokio::test]
async fn a_request_that_a_web_page_could_send_unasked_is_refused() {
    let server = Server::start().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let (status, _) = answer(server.post_to("private.localhost").header("content-type", kind).body(QUERY)).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
    }
    let (status, _) = answer(server.post_to("private.localhost").body(QUERY)).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let with_charset = server.post_to("private.localhost").header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(answer(with_charset.body(QUERY)).await.0, StatusCode::OK);
    let get = reqwest::Client::new().get(format!("{}/graphql?query={{users{{nodes{{id}}}}}}", server.address));
    assert_eq!(answer(get.header("host", "private.localhost")).await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_body_that_is_no_request_is_a_400_and_another_path_a_404() {
    let server = Server::start().await;
    for body in ["", "nonsense", "[]", r#"[{"query": "{a}"}]"#, r#"{"query": 7}"#, "{}"] {
        let (status, answer) = server.body(body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(message(&answer).starts_with("the body is not a GraphQL request"), "{answer}");
    }
    let other = reqwest::Client::new().post(format!("{}/elsewhere", server.address)).body(QUERY);
    assert_eq!(answer(other).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn healthz_answers_every_host_without_a_token() {
    let server = Server::start_on(migrated().await, &[("ADMIN_TOKEN", "s3cret-token")]).await;
    for path in ["healthz", "readyz"] {
        let response = reqwest::get(format!("{}/{path}", server.address)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
    server.stop().await.unwrap();
}
