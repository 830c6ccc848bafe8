//! The function's settings.

use job_utils::config::{ConfigError, Env, HttpUrl, Reader, Secret, Var};
use job_utils::variables;
use mailer::Senders;
use reqwest::header::HeaderValue;

const ME: &str = "send-verification-link";

variables! {
    /// GraphQL API that knows the users. Required.
    pub GRAPHQL_URL = "" for ME;
    /// GraphQL API that knows the databases and sites; when unset `GRAPHQL_URL`.
    pub META_GRAPHQL_URL = "" for ME;
    /// Host header for `GRAPHQL_URL`, for servers that choose an API by it.
    pub GRAPHQL_HOST_HEADER = "" for ME;
    /// Host header for `META_GRAPHQL_URL`; when both are unset `GRAPHQL_HOST_HEADER`.
    pub META_GRAPHQL_HOST_HEADER = "" for ME;
    /// Bearer token for both GraphQL APIs, without the word Bearer.
    pub GRAPHQL_AUTH_TOKEN = "" for ME;
    /// Sent as `X-Api-Name` when the users are looked up.
    pub GRAPHQL_API_NAME = "" for ME;
    /// Sent as `X-Schemata` when the users are looked up.
    pub GRAPHQL_SCHEMATA = "" for ME;
    /// Database of requests without `X-Database-Id`.
    pub DEFAULT_DATABASE_ID = "" for ME;
    /// When set, links to local hosts (localhost, 0.0.0.0, *.localhost) use http and this port.
    pub LOCAL_APP_PORT = "" for ME;
    /// Log the e-mail's type, recipient, subject and link instead of sending it.
    pub SEND_VERIFICATION_LINK_DRY_RUN = "false" for ME;
    /// Older name of `SEND_VERIFICATION_LINK_DRY_RUN`.
    pub SEND_EMAIL_LINK_DRY_RUN = "false" for ME;
}

/// Every variable that this crate reads.
pub const VARS: &[&Var] = &[
    &GRAPHQL_URL,
    &META_GRAPHQL_URL,
    &GRAPHQL_HOST_HEADER,
    &META_GRAPHQL_HOST_HEADER,
    &GRAPHQL_AUTH_TOKEN,
    &GRAPHQL_API_NAME,
    &GRAPHQL_SCHEMATA,
    &DEFAULT_DATABASE_ID,
    &LOCAL_APP_PORT,
    &SEND_VERIFICATION_LINK_DRY_RUN,
    &SEND_EMAIL_LINK_DRY_RUN,
];

/// One GraphQL API.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where to post.
    pub url: HttpUrl,
    /// The Host header, if it differs from the URL's host.
    pub host: Option<HeaderValue>,
}

/// The GraphQL APIs and how to be let in.
#[derive(Debug, Clone)]
pub struct GraphQl {
    /// Knows users.
    pub users: Endpoint,
    /// Knows databases and sites.
    pub meta: Endpoint,
    /// The bearer token.
    pub token: Option<Secret>,
    /// `X-Api-Name`.
    pub api_name: Option<HeaderValue>,
    /// `X-Schemata`.
    pub schemata: Option<HeaderValue>,
}

/// The function's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: job_fn::Config,
    /// How to send; in a dry run, not at all.
    pub mail: mailer::Config,
    /// Where to look things up.
    pub graphql: GraphQl,
    /// The database of requests that name none.
    pub default_database_id: Option<String>,
    /// The port of local sites.
    pub local_app_port: Option<u16>,
}

impl Config {
    /// Reads every setting, and reports every fault.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let listen = job_fn::Config::read(&mut reader);
        let dry_run = mailer::dry_run(&mut reader, &[&SEND_VERIFICATION_LINK_DRY_RUN, &SEND_EMAIL_LINK_DRY_RUN]);
        let mail = mailer::Config::read(&mut reader, dry_run, Senders::Configured);
        let default_database_id = reader.optional(&DEFAULT_DATABASE_ID);
        let local_app_port = reader.optional(&LOCAL_APP_PORT).map(|_| reader.number(&LOCAL_APP_PORT));
        match graphql(&mut reader) {
            Some(graphql) => reader.finish(Self { listen, mail, graphql, default_database_id, local_app_port }),
            // Without the API there is a fault, so this is an error.
            None => Err(faults(reader)),
        }
    }
}

fn faults(reader: Reader<'_>) -> ConfigError {
    reader.finish(()).err().unwrap_or(ConfigError { faults: Vec::new() })
}

fn graphql(reader: &mut Reader<'_>) -> Option<GraphQl> {
    if reader.optional(&GRAPHQL_URL).is_none() {
        reader.fault(&GRAPHQL_URL, "is required: the GraphQL API that knows the users, as http://host:port/graphql");
    }
    let url = reader.url(&GRAPHQL_URL);
    let meta_url = reader.url(&META_GRAPHQL_URL);
    let host = header(reader, &GRAPHQL_HOST_HEADER);
    let meta_host = header(reader, &META_GRAPHQL_HOST_HEADER);
    let token = reader.secret(&GRAPHQL_AUTH_TOKEN);
    if token.as_ref().is_some_and(|token| HeaderValue::from_str(token.expose()).is_err()) {
        reader.fault(&GRAPHQL_AUTH_TOKEN, "cannot be a header's value: it holds a line break or a control character");
    }
    let api_name = header(reader, &GRAPHQL_API_NAME);
    let schemata = header(reader, &GRAPHQL_SCHEMATA);
    let url = url?;
    // Another server does not have the first one's virtual hosts.
    let meta_host = meta_host.or_else(|| host.clone().filter(|_| meta_url.is_none()));
    let meta = Endpoint { url: meta_url.unwrap_or_else(|| url.clone()), host: meta_host };
    Some(GraphQl { users: Endpoint { url, host }, meta, token, api_name, schemata })
}

fn header(reader: &mut Reader<'_>, var: &Var) -> Option<HeaderValue> {
    let value = reader.optional(var)?;
    let parsed = HeaderValue::from_str(&value).ok();
    if parsed.is_none() {
        reader
            .fault(var, format!("{value:?} cannot be a header's value: it holds a line break or a control character"));
    }
    parsed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(pairs: &[(&'static str, &'static str)]) -> Result<Config, String> {
        let env: BTreeMap<&str, &str> = pairs.iter().copied().collect();
        Config::from_env(&env).map_err(|error| error.to_string())
    }

    #[test]
    fn every_fault_is_reported_at_once_and_names_its_variable() {
        let pairs =
            [("PORT", "x"), ("META_GRAPHQL_URL", "meta"), ("LOCAL_APP_PORT", "70000"), ("GRAPHQL_HOST_HEADER", "a\nb")];
        let error = read(&pairs).unwrap_err();
        for name in [
            "PORT",
            "MAILGUN_API_KEY",
            "MAILGUN_DOMAIN",
            "MAILGUN_FROM",
            "LOCAL_APP_PORT",
            "GRAPHQL_URL",
            "META_GRAPHQL_URL",
            "GRAPHQL_HOST_HEADER",
        ] {
            assert!(error.contains(&format!("\n  {name}: ")), "{name}: {error}");
        }
    }

    #[test]
    fn a_dry_run_needs_only_the_graphql_url() {
        let config = read(&[("GRAPHQL_URL", "http://api:3000/graphql"), ("SEND_VERIFICATION_LINK_DRY_RUN", "YES")]);
        let config = config.unwrap();
        assert_eq!(config.mail.transport, mailer::Transport::DryRun);
        assert_eq!(config.graphql.meta.url, config.graphql.users.url);
    }

    #[test]
    fn the_older_name_of_the_dry_run_counts_when_the_newer_is_unset() {
        let dry = |pairs: &[(&'static str, &'static str)]| {
            let mut all = vec![("GRAPHQL_URL", "http://api"), ("SEND_EMAIL_LINK_DRY_RUN", "true")];
            all.extend_from_slice(pairs);
            read(&all).is_ok_and(|config| config.mail.transport == mailer::Transport::DryRun)
        };
        assert!(dry(&[]));
        assert!(!dry(&[("SEND_VERIFICATION_LINK_DRY_RUN", "false")]));
        assert!(!dry(&[("SEND_EMAIL_LINK_DRY_RUN", "false"), ("SIMPLE_EMAIL_DRY_RUN", "true")]));
        assert!(dry(&[("SEND_EMAIL_LINK_DRY_RUN", ""), ("SIMPLE_EMAIL_DRY_RUN", "true")]));
    }

    #[test]
    fn the_host_header_goes_to_the_meta_api_unless_that_is_another_server() {
        let host = |pairs: &[(&'static str, &'static str)]| {
            let mut all = vec![
                ("GRAPHQL_URL", "http://api"),
                ("GRAPHQL_HOST_HEADER", "private.localhost"),
                ("SEND_EMAIL_LINK_DRY_RUN", "1"),
            ];
            all.extend_from_slice(pairs);
            read(&all).unwrap().graphql.meta.host.map(|host| host.to_str().unwrap().to_owned())
        };
        assert_eq!(host(&[]).as_deref(), Some("private.localhost"));
        assert_eq!(host(&[("META_GRAPHQL_URL", "http://meta")]), None);
        assert_eq!(host(&[("META_GRAPHQL_HOST_HEADER", "meta.localhost")]).as_deref(), Some("meta.localhost"));
    }
}
