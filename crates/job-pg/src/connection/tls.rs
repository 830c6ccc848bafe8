//! TLS to Postgres with libpq's modes: `require` encrypts without checking, `verify-ca` checks the chain, `verify-full`
//! the host name as well.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::libpq::{PGSSLCERT, PGSSLKEY, PGSSLMODE, PGSSLROOTCERT};
use crate::config::{ClientCertificate, PostgresConfig, SslMode};
use crate::error::DbError;
use job_utils::config::Var;

/// How a connection is set up.
pub(crate) type MakeConnect = MakeRustlsConnect;

/// What an application may have of its own.
pub(crate) type Own = ClientConfig;

/// A connector with an application's own settings.
pub(crate) fn connector_with(own: Own) -> MakeConnect {
    MakeRustlsConnect::new(own)
}

/// A connector for the configured mode.
pub(crate) fn connector(config: &PostgresConfig) -> Result<MakeConnect, DbError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let trust = match config.ssl_mode {
        SslMode::VerifyCa | SslMode::VerifyFull => Some(Trust::read(config.ssl_root_cert.as_deref())?),
        SslMode::Disable | SslMode::Prefer | SslMode::Require => None,
    };
    let name = config.ssl_mode == SslMode::VerifyFull;
    let verifier = Arc::new(LibpqVerifier { trust, name, provider: provider.clone() });
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DbError::config(&PGSSLMODE, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let client = match &config.ssl_client {
        None => client.with_no_client_auth(),
        Some(shown) => {
            let (chain, key) = own_certificate(shown)?;
            let refused = |error: rustls::Error| unusable(&PGSSLCERT, &shown.certificate, &error);
            client.with_client_auth_cert(chain, key).map_err(refused)?
        }
    };
    Ok(MakeRustlsConnect::new(client))
}

fn unusable(var: &Var, path: &Path, reason: &dyn std::fmt::Display) -> DbError {
    DbError::config(var, format!("{}: {reason}", path.display()))
}

/// The certificates of a file.
fn certificates(var: &Var, path: &Path) -> Result<Vec<CertificateDer<'static>>, DbError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| unusable(var, path, &error))?;
    if certificates.is_empty() {
        return Err(unusable(var, path, &"no certificate in it"));
    }
    Ok(certificates)
}

/// The client's certificate with its chain, and its key.
fn own_certificate(
    shown: &ClientCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), DbError> {
    let key = PrivateKeyDer::from_pem_file(&shown.key).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            unusable(&PGSSLKEY, &shown.key, &"no private key in it that can be read without a password")
        }
        error => unusable(&PGSSLKEY, &shown.key, &error),
    })?;
    Ok((certificates(&PGSSLCERT, &shown.certificate)?, key))
}

/// The roots that are trusted.
#[derive(Debug)]
struct Trust {
    store: RootCertStore,
    /// The roots as they were configured: a server whose own certificate is one of them is trusted, as in libpq. That
    /// is what `openssl req -x509` makes, and a chain of one is no chain to the usual verification.
    configured: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn read(file: Option<&Path>) -> Result<Self, DbError> {
        let mut store = RootCertStore::empty();
        let Some(path) = file else {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                let message = "the system has no root certificates: name a file that has them";
                return Err(DbError::config(&PGSSLROOTCERT, message));
            }
            return Ok(Self { store, configured: Vec::new() });
        };
        let configured = certificates(&PGSSLROOTCERT, path)?;
        for certificate in &configured {
            store.add(certificate.clone()).map_err(|error| unusable(&PGSSLROOTCERT, path, &error))?;
        }
        Ok(Self { store, configured })
    }
}

/// Checks as much as the mode asks for: nothing, the chain, or the chain and the host name.
#[derive(Debug)]
struct LibpqVerifier {
    trust: Option<Trust>,
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for LibpqVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            if !trust.configured.contains(end_entity) {
                let algorithms = self.provider.signature_verification_algorithms.all;
                let roots = &trust.store;
                verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
            }
            if self.name {
                verify_server_name(&certificate, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
