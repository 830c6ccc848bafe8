//! The shapes of the APIs' answers, and a site made of them.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Site;

#[derive(Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    pub(super) data: Value,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) errors: Vec<GraphQlError>,
}

#[derive(Deserialize)]
pub(super) struct GraphQlError {
    pub(super) message: String,
}

#[derive(Deserialize)]
pub(super) struct Databases {
    #[serde(deserialize_with = "nodes")]
    pub(super) databases: Vec<Database>,
}

#[derive(Deserialize)]
pub(super) struct Database {
    #[serde(default, deserialize_with = "nodes")]
    pub(super) sites: Vec<SiteNode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SiteNode {
    #[serde(default, deserialize_with = "nodes")]
    domains: Vec<Domain>,
    #[serde(default)]
    logo: Value,
    title: Option<String>,
    #[serde(default, deserialize_with = "nodes")]
    site_themes: Vec<Theme>,
    #[serde(default, deserialize_with = "nodes")]
    site_modules: Vec<Module>,
}

#[derive(Deserialize)]
struct Domain {
    subdomain: Option<String>,
    domain: Option<String>,
}

#[derive(Deserialize)]
struct Theme {
    #[serde(default)]
    theme: Value,
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
pub(super) struct Users {
    #[serde(deserialize_with = "nodes")]
    pub(super) users: Vec<User>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct User {
    pub(super) display_name: Option<String>,
}

impl SiteNode {
    /// None when the site lacks what an e-mail cannot do without.
    pub(super) fn build(&self) -> Option<Site> {
        let domain = self.domains.first()?;
        let theme = object(&self.site_themes.first()?.theme)?;
        let legal = object(&self.site_modules.first()?.data)?;
        let text = |value: &Value, pointer: &str| filled(value.pointer(pointer).and_then(Value::as_str));
        let name = text(&legal, "/company/name");
        let nick = text(&legal, "/company/nick").or_else(|| name.clone()).or_else(|| filled(self.title.as_deref()))?;
        Some(Site {
            subdomain: filled(domain.subdomain.as_deref()),
            domain: filled(domain.domain.as_deref())?,
            logo: object(&self.logo).and_then(|logo| serde_json::from_value(logo).ok()).unwrap_or_default(),
            primary: text(&theme, "/primary"),
            support: text(&legal, "/emails/support"),
            website: text(&legal, "/company/website"),
            name,
            nick,
        })
    }
}

/// A JSON column's object. Some servers send such a column as a text that holds the JSON.
fn object(value: &Value) -> Option<Value> {
    match value {
        Value::Object(_) => Some(value.clone()),
        Value::String(text) => serde_json::from_str(text).ok().filter(Value::is_object),
        _ => None,
    }
}

pub(super) fn filled(text: Option<&str>) -> Option<String> {
    text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The `nodes` of a connection; none when the connection is null.
fn nodes<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    struct Connection<T> {
        nodes: Vec<T>,
    }
    Ok(Option::<Connection<T>>::deserialize(deserializer)?.map(|connection| connection.nodes).unwrap_or_default())
}

fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
