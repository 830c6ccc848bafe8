//! Connections to Postgres of a program that is built without the feature `tls`.

use std::convert::Infallible;

use tokio_postgres::NoTls;

use crate::config::libpq::{PGSSLCERT, PGSSLMODE};
use crate::config::{PostgresConfig, SslMode};
use crate::error::DbError;

/// How a connection is set up.
pub(crate) type MakeConnect = NoTls;

/// What an application may have of its own.
pub(crate) type Own = Infallible;

/// There is none.
pub(crate) fn connector_with(own: Own) -> MakeConnect {
    match own {}
}

/// A connector for the configured mode. `prefer` connects to a server that lets it in without TLS, as libpq does.
pub(crate) fn connector(config: &PostgresConfig) -> Result<MakeConnect, DbError> {
    match config.ssl_mode {
        // A certificate that is given is to be shown: without TLS it would be left out without a word.
        SslMode::Prefer if config.ssl_client.is_some() => {
            let problem = "a client certificate needs TLS, and this program is built without: add the feature `tls` of \
                           job-worker or job-pg, or say sslmode=disable";
            Err(DbError::config(&PGSSLCERT, problem))
        }
        SslMode::Disable | SslMode::Prefer => Ok(NoTls),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
            let problem =
                "it asks for TLS, and this program is built without: add the feature `tls` of job-worker or job-pg";
            Err(DbError::config(&PGSSLMODE, problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use job_utils::config::Reader;
    use job_utils::error::chain;

    use crate::Db;
    use crate::config::PostgresConfig;

    #[test]
    fn a_mode_that_needs_tls_is_refused_by_name() {
        for (mode, refused) in
            [("disable", false), ("allow", false), ("prefer", false), ("require", true), ("verify-full", true)]
        {
            let built = Db::builder(&format!("postgres://localhost/shop?sslmode={mode}")).build();
            let error = built.err().map(|error| chain(&error)).unwrap_or_default();
            assert_eq!(error.contains("PGSSLMODE") && error.contains("feature `tls`"), refused, "{mode}: {error}");
        }
    }

    #[test]
    fn a_client_certificate_that_could_not_be_shown_is_refused() {
        for (mode, refused) in [("prefer", true), ("disable", false)] {
            let env = BTreeMap::from([("PGSSLMODE", mode), ("PGSSLCERT", "/c.pem"), ("PGSSLKEY", "/k.pem")]);
            let mut reader = Reader::new(&env);
            let config = PostgresConfig::read(&mut reader);
            let error = Db::new(&reader.finish(config).unwrap()).err().map(|error| chain(&error)).unwrap_or_default();
            assert_eq!(error.contains("PGSSLCERT") && error.contains("feature `tls`"), refused, "{mode}: {error}");
        }
    }
}
