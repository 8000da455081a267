//! Whom a client trusts, in the terms of rustls.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// Whose signature makes a certificate good.
#[derive(Debug, Clone)]
pub enum Roots {
    /// Whom the system trusts, or the environment names (`SSL_CERT_FILE`, `SSL_CERT_DIR`).
    System,
    /// These certificates, in DER.
    These(Vec<Vec<u8>>),
}

/// What is checked of a server's certificate.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The authorities; None checks nothing at all.
    pub roots: Option<Roots>,
    /// Whether the certificate must name the host.
    pub named: bool,
}

/// The configuration of every connection.
pub(super) fn config(trust: &Trust) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let (mut inner, mut roots) = (None, Vec::new());
    if let Some(trusted) = &trust.roots {
        roots = certificates(trusted);
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        if store.is_empty() {
            return Err(
                "no certificate of an authority was found to trust: install the system's \
                        (ca-certificates), or name a file with SSL_CERT_FILE"
                    .into(),
            );
        }
        let store = Arc::new(store);
        let builder = WebPkiServerVerifier::builder_with_provider(store, Arc::clone(&provider));
        inner = Some(builder.build().map_err(|error| error.to_string())?);
    }
    let verifier = Verifier {
        inner,
        roots,
        named: trust.named,
        provider,
    };
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(roots: &Roots) -> Vec<CertificateDer<'static>> {
    match roots {
        // What of the system's cannot be read is as if it was not there.
        Roots::System => rustls_native_certs::load_native_certs().certs,
        Roots::These(certificates) => {
            let certificates = certificates.iter();
            certificates
                .map(|der| CertificateDer::from(der.clone()))
                .collect()
        }
    }
}

/// The usual checks, or fewer, as it was asked for.
#[derive(Debug)]
struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    roots: Vec<CertificateDer<'static>>,
    named: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified =
            inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.named => Ok(ServerCertVerified::assertion()),
            // A server that is its own authority, and trusted as such. Its time was looked at before.
            Err(Error::InvalidCertificate(CertificateError::Other(other)))
                if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
                    && self.roots.iter().any(|root| root == end_entity) =>
            {
                if self.named {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
