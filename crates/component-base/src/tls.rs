//! TLS as every part speaks it: one provider of cryptography, and the one way to trust whoever answers.

use std::fmt::Debug;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    WantsVerifier,
};

/// Whom a client takes for the server it wants.
#[derive(Debug)]
pub enum Trust {
    /// Whoever has a certificate by one of these authorities for the name that is called.
    Authorities(RootCertStore),
    /// Whoever answers. For asking whether somebody does, for what somebody wants it for by name, and for reading what
    /// proves a server; never with a secret.
    Anybody,
    /// Whoever this judge takes.
    Judged(Arc<dyn Judge>),
}

/// Judges the certificate that a server shows. That the server has its key is checked besides.
pub trait Judge: Debug + Send + Sync {
    /// # Errors
    /// Why the server is not the one that is called.
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), Error>;
}

/// Where the configuration of a client begins: the provider, the versions, and whom to trust.
///
/// # Errors
/// When the provider cannot do what the protocol needs.
pub fn client(trust: Trust) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder: ConfigBuilder<ClientConfig, WantsVerifier> =
        ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
    let judge = match trust {
        Trust::Authorities(roots) => return Ok(builder.with_root_certificates(roots)),
        Trust::Anybody => Arc::new(Anybody),
        Trust::Judged(judge) => judge,
    };
    let verifier = Arc::new(Verifier { provider, judge });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

/// The same connections with whoever answers: see [`Trust::Anybody`]. They know nothing of each other's sessions, so that
/// whoever is believed here is believed nowhere else.
#[must_use]
pub fn unverified(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    let provider = Arc::clone(config.crypto_provider());
    let verifier = Arc::new(Verifier { provider, judge: Arc::new(Anybody) });
    config.dangerous().set_certificate_verifier(verifier);
    config.resumption = Resumption::disabled();
    config
}

/// Takes any certificate.
#[derive(Debug)]
struct Anybody;

impl Judge for Anybody {
    fn judge(
        &self,
        _leaf: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<(), Error> {
        Ok(())
    }
}

/// Takes a certificate that its judge takes and whose key the server has.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    judge: Arc<dyn Judge>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge.judge(leaf, others, name, ocsp, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
