//! Certificates that clients present: a bad one does not end the handshake, as in upstream's server, but is worth
//! nothing, and its bearer is not taken for somebody without credentials.
//!
//! Does not know who a certificate belongs to: that is read by an authenticator.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

use crate::Peer;

/// How the server speaks TLS, and which clients' certificates it believes.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Made with [`accepting`] `clients`.
    pub config: Arc<ServerConfig>,
    /// Says which certificates are good.
    pub clients: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// The peer of a connection that presented these certificates, leaf first.
    pub(crate) fn peer(&self, certificates: &[CertificateDer<'_>]) -> Peer {
        let [leaf, others @ ..] = certificates else { return Peer::default() };
        match self.clients.verify_client_cert(leaf, others, UnixTime::now()) {
            Ok(_) => Peer {
                certificates: certificates.iter().map(|it| it.to_vec()).collect(),
                ..Peer::default()
            },
            Err(error) => {
                tracing::debug!(%error, "a client presented a certificate that is no good");
                Peer { has_bad_certificate: true, ..Peer::default() }
            }
        }
    }
}

/// A verifier for the handshake: clients prove that they have the key of whatever certificate they present, and
/// nothing more.
#[must_use]
pub fn accepting(clients: Arc<dyn ClientCertVerifier>) -> Arc<dyn ClientCertVerifier> {
    Arc::new(Accepting(clients))
}

#[derive(Debug)]
struct Accepting(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Accepting {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
