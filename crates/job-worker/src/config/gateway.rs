//! Where functions are.

use std::collections::HashMap;

use job_utils::config::{HttpUrl, Reader, parse_http_url, shown};
use job_utils::variables;

variables! {
    /// Base URL of the functions; a task is posted to `<base>/<task identifier>`.
    pub KNATIVE_SERVICE_URL = "" for "worker, service";
    /// Base URL of the functions when KNATIVE_SERVICE_URL is unset.
    pub INTERNAL_GATEWAY_URL = "http://gateway:8080" for "worker, service";
    /// JSON object from task identifier to URL, used before the gateway unless NODE_ENV is `production`.
    pub INTERNAL_GATEWAY_DEVELOPMENT_MAP = "" for "worker, service";
    /// `production` turns INTERNAL_GATEWAY_DEVELOPMENT_MAP off.
    pub NODE_ENV = "" for "worker, service";
}
/// Where functions are.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Gateway {
    /// Base URL.
    pub base: HttpUrl,
    /// Task to URL, before the base. An entry that is not a URL fails only its own jobs.
    pub development_map: HashMap<String, Result<HttpUrl, String>>,
}

impl Gateway {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let set = reader.url(&KNATIVE_SERVICE_URL);
        let unset = set.is_none();
        let base = set.or_else(|| {
            let text = reader.text(&INTERNAL_GATEWAY_URL);
            parse_http_url(&text).map_err(|message| reader.fault(&INTERNAL_GATEWAY_URL, message)).ok()
        });
        let production = reader.text(&NODE_ENV) == "production";
        let map = if production { None } else { reader.optional(&INTERNAL_GATEWAY_DEVELOPMENT_MAP) };
        let mut development_map = HashMap::new();
        match map.map(|text| serde_json::from_str::<HashMap<String, serde_json::Value>>(&text)) {
            None => {}
            Some(Ok(entries)) => {
                for (task, value) in entries {
                    let url = match value.as_str() {
                        Some(text) => parse_http_url(text),
                        // Not shown: there may be a URL with a password in it.
                        None => Err("it is not a text; write it as \"http://host:port/path\"".to_owned()),
                    };
                    development_map.insert(task, url);
                }
            }
            Some(Err(error)) => reader.fault(
                &INTERNAL_GATEWAY_DEVELOPMENT_MAP,
                // The error's own text may quote a URL with a password in it.
                format!(
                    "not a JSON object from task to URL (line {}, column {}); write {{\"task\": \"http://host:port/path\"}}",
                    error.line(),
                    error.column()
                ),
            ),
        }
        // A fault was noted when there is no base, so this placeholder is never used.
        #[allow(clippy::expect_used, reason = "a literal URL parses")]
        let base = base.unwrap_or_else(|| parse_http_url("http://gateway:8080").expect("literal"));
        if unset {
            let message = format!(
                "unset, so jobs are posted to {}/<task identifier> (INTERNAL_GATEWAY_URL)",
                shown(&base).trim_end_matches('/')
            );
            reader.inform(&KNATIVE_SERVICE_URL, message);
        }
        Self { base, development_map }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use job_utils::config::ConfigError;

    fn read(env: &[(&str, &str)]) -> Result<Gateway, ConfigError> {
        let env: BTreeMap<&str, &str> = env.iter().copied().collect();
        let mut reader = Reader::new(&env);
        let gateway = Gateway::read(&mut reader);
        reader.finish(gateway)
    }

    #[test]
    fn a_bad_entry_of_the_development_map_is_no_fault_of_the_map() {
        let map = r#"{"good": "http://localhost:1/x?y=1", "bad": "nonsense", "worse": 5}"#;
        let gateway = read(&[("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map)]).unwrap();
        assert!(gateway.development_map["good"].is_ok());
        assert!(gateway.development_map["bad"].is_err());
        assert!(gateway.development_map["worse"].is_err());
        assert!(read(&[("INTERNAL_GATEWAY_DEVELOPMENT_MAP", "[1]")]).is_err());
        let production = [("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map), ("NODE_ENV", "production")];
        assert!(read(&production).unwrap().development_map.is_empty());
    }
}
