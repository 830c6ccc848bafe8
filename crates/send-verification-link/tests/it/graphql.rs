//! A GraphQL server that knows one database and its users, and remembers what it was asked.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Query {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// What the server says, to be changed by a test.
pub(crate) struct World {
    pub(crate) databases: Value,
    pub(crate) users: Value,
    /// An answer to everything, instead.
    pub(crate) instead: Option<(u16, Value)>,
    pub(crate) queries: Vec<Query>,
}

#[derive(Clone)]
pub(crate) struct GraphQl {
    address: String,
    world: Arc<Mutex<World>>,
}

/// A site as the server knows it.
pub(crate) fn site() -> Value {
    json!({
        "domains": { "nodes": [
            { "subdomain": "app", "domain": "example.com" },
            { "subdomain": "second", "domain": "example.org" },
        ] },
        "logo": { "url": "https://cdn.example.com/logo.png", "mime": "image/png" },
        "title": "Example App",
        "siteThemes": { "nodes": [{ "theme": { "primary": "#ff8800" } }, { "theme": { "primary": "#000000" } }] },
        "siteModules": { "nodes": [{ "data": {
            "emails": { "support": "help@example.com" },
            "company": { "website": "https://example.com/about", "nick": "Example", "name": "Example Inc." },
        } }] },
    })
}

impl GraphQl {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let world = Arc::new(Mutex::new(World {
            databases: json!([{ "sites": { "nodes": [site()] } }]),
            users: json!([{ "username": "grace", "displayName": "Grace Hopper", "profilePicture": null }]),
            instead: None,
            queries: Vec::new(),
        }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&world));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, world }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/graphql", self.address)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().unwrap());
    }

    /// Changes the one site.
    pub(crate) fn change_site(&self, change: impl FnOnce(&mut Value)) {
        self.change(|world| change(&mut world.databases[0]["sites"]["nodes"][0]));
    }

    pub(crate) fn queries(&self) -> Vec<Query> {
        self.world.lock().unwrap().queries.clone()
    }
}

async fn answer(
    State(world): State<Arc<Mutex<World>>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let mut world = world.lock().unwrap();
    let data = match body["operationName"].as_str() {
        Some("GetDatabaseInfo") => json!({ "databases": { "nodes": world.databases } }),
        Some("GetUser") => json!({ "users": { "nodes": world.users } }),
        _ => Value::Null,
    };
    world.queries.push(Query { headers, body });
    match world.instead.clone() {
        Some((status, body)) => (StatusCode::from_u16(status).unwrap(), Json(body)),
        None => (StatusCode::OK, Json(json!({ "data": data }))),
    }
}
