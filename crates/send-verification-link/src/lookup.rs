//! Look-ups over GraphQL: the site of a database, and a user's name.

mod answer;

use std::time::Duration;

use job_utils::config::Secret;
use job_utils::error::chain;
use reqwest::Client;
use reqwest::header::{HOST, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::{Position, Url};

use answer::{Answer, Databases, Users, filled};

use crate::config::{Endpoint, GraphQl};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(15);
/// How much of an unexpected answer is worth showing, in characters.
const EXCERPT: usize = 200;

const GET_DATABASE_INFO: &str = r#"query GetDatabaseInfo($databaseId: UUID!) {
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

const GET_USER: &str = r"query GetUser($userId: UUID!) {
  users(where: {id: {equalTo: $userId}}, first: 1) {
    nodes { username displayName profilePicture }
  }
}";

/// Why a look-up failed. Its text is what a person reads in the job's `last_error`.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No answer.
    #[error("{operation}: the GraphQL API at {place} cannot be reached ({reason})")]
    Unreachable {
        /// The query's name.
        operation: &'static str,
        /// Host and port.
        place: String,
        /// What went wrong.
        reason: String,
    },
    /// An answer that is not GraphQL's.
    #[error("{operation}: the GraphQL API at {place} answered HTTP {status}: {excerpt}")]
    NotGraphQl {
        /// The query's name.
        operation: &'static str,
        /// Host and port.
        place: String,
        /// The answer's status.
        status: u16,
        /// The start of its body.
        excerpt: String,
    },
    /// The API refused the query.
    #[error("{operation}: {message}")]
    Refused {
        /// The query's name.
        operation: &'static str,
        /// What the API says.
        message: String,
    },
    /// The database has no site.
    #[error("Site not found for database")]
    NoSite,
    /// The site lacks its domain, theme or legal terms.
    #[error("Missing site configuration for email")]
    Incomplete,
}

/// What an e-mail needs to know of a site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// The domain's first label, if it has one of its own.
    pub subdomain: Option<String>,
    /// The domain.
    pub domain: String,
    /// The logo's URL and media type.
    pub logo: Logo,
    /// The theme's primary colour, unchecked.
    pub primary: Option<String>,
    /// Where users find help.
    pub support: Option<String>,
    /// The company's website.
    pub website: Option<String>,
    /// The company's name.
    pub name: Option<String>,
    /// What the company is called among friends: the nick, else the name, else the site's title.
    pub nick: String,
}

/// A site's logo.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Logo {
    /// Where it is.
    pub url: Option<String>,
    /// Its media type.
    pub mime: Option<String>,
}

/// Asks the GraphQL APIs.
pub struct Lookup {
    client: Client,
    api: GraphQl,
}

impl Lookup {
    /// A client for these APIs. Nothing is connected yet.
    pub fn new(api: GraphQl) -> reqwest::Result<Self> {
        let client = Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT).no_proxy().build()?;
        Ok(Self { client, api })
    }

    /// The first site of a database, with its first domain, theme and legal terms.
    pub async fn site(&self, database_id: &str) -> Result<Site, LookupError> {
        let mut headers = HeaderMap::new();
        headers.insert("x-meta-schema", HeaderValue::from_static("true"));
        let variables = json!({ "databaseId": database_id });
        let found: Databases =
            self.query(&self.api.meta, "GetDatabaseInfo", GET_DATABASE_INFO, variables, database_id, headers).await?;
        let site = found.databases.first().and_then(|database| database.sites.first()).ok_or(LookupError::NoSite)?;
        site.build().ok_or(LookupError::Incomplete)
    }

    /// A user's display name; None when there is no such user, or the user has none.
    pub async fn display_name(&self, database_id: &str, user_id: &str) -> Result<Option<String>, LookupError> {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-api-name", &self.api.api_name), ("x-schemata", &self.api.schemata)] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        let variables = json!({ "userId": user_id });
        let found: Users = self.query(&self.api.users, "GetUser", GET_USER, variables, database_id, headers).await?;
        Ok(found.users.first().and_then(|user| filled(user.display_name.as_deref())))
    }

    async fn query<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        operation: &'static str,
        query: &str,
        variables: Value,
        database_id: &str,
        headers: HeaderMap,
    ) -> Result<T, LookupError> {
        let place = endpoint.url[Position::BeforeHost..Position::AfterPort].to_owned();
        let body = json!({ "operationName": operation, "query": query, "variables": variables });
        let mut request = self
            .client
            .post(Url::clone(&endpoint.url))
            .headers(headers)
            .header("x-database-id", database_id)
            .json(&body);
        if let Some(host) = &endpoint.host {
            request = request.header(HOST, host);
        }
        if let Some(token) = self.api.token.as_ref().map(Secret::expose) {
            request = request.bearer_auth(token);
        }
        let unreachable = |error: reqwest::Error| {
            let reason = chain(&error.without_url());
            LookupError::Unreachable { operation, place: place.clone(), reason }
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(unreachable)?;
        let answer: Option<Answer> = serde_json::from_slice(&body).ok();
        if let Some(error) = answer.as_ref().and_then(|answer| answer.errors.first()) {
            return Err(LookupError::Refused { operation, message: error.message.clone() });
        }
        answer.and_then(|answer| serde_json::from_value(answer.data).ok()).ok_or_else(|| {
            let text = String::from_utf8_lossy(&body);
            let excerpt = text.chars().filter(|c| !c.is_control()).take(EXCERPT).collect();
            LookupError::NotGraphQl { operation, place: place.clone(), status, excerpt }
        })
    }
}
