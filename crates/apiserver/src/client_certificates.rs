//! Certificates that clients present: a bad one does not end the handshake, as in upstream's server, but is worth
//! nothing, and its bearer is not taken for somebody without credentials.
//!
//! Does not know who a certificate belongs to: that is read by an authenticator.

mod version_one;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use auth::Shown;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use tokio::time::Instant;

use crate::Peer;
pub use version_one::with_version_one;

/// How the server speaks TLS, and which clients' certificates it believes.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Made with [`accepting`] `clients`.
    pub config: Arc<ServerConfig>,
    /// Says which certificates are good.
    pub clients: Arc<dyn ClientCertVerifier>,
    /// Says which are those of front proxies; without it there are none.
    pub front_proxies: Option<Arc<dyn ClientCertVerifier>>,
}

/// How the server speaks TLS from now on; it may be replaced while it serves.
#[derive(Debug, Clone)]
pub struct Speaking(Arc<ArcSwap<Tls>>);

impl From<Tls> for Speaking {
    fn from(tls: Tls) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(tls)))
    }
}

impl Speaking {
    /// New connections are made so; who is at the end of others is judged so from their next request on.
    pub fn replace(&self, tls: Tls) {
        self.0.store(Arc::new(tls));
    }

    /// As it is now.
    #[must_use]
    pub fn now(&self) -> Arc<Tls> {
        self.0.load_full()
    }
}

/// How long it is believed who is at the other end: certificates end.
const JUDGED_FOR: Duration = Duration::from_secs(60);

/// Who is at the other end of a connection that may last longer than what makes a certificate good.
#[derive(Debug)]
pub struct Judged {
    speaking: Speaking,
    certificates: Vec<CertificateDer<'static>>,
    address: Option<IpAddr>,
    last: ArcSwap<(Arc<Tls>, Instant, Peer)>,
}

impl Judged {
    /// Whoever presented these certificates, leaf first, from this address.
    #[must_use]
    pub fn new(
        speaking: Speaking,
        certificates: &[CertificateDer<'_>],
        address: Option<IpAddr>,
    ) -> Self {
        let certificates: Vec<_> = certificates.iter().map(|it| it.clone().into_owned()).collect();
        let tls = speaking.now();
        let peer = Peer { address, ..tls.peer(&certificates) };
        let last = ArcSwap::from_pointee((tls, Instant::now(), peer));
        Self { speaking, certificates, address, last }
    }

    /// Who it is now.
    #[must_use]
    pub fn now(&self) -> Peer {
        let last = self.last.load();
        let (by, at, peer) = &**last;
        if self.certificates.is_empty() {
            return peer.clone();
        }
        let tls = self.speaking.now();
        if Arc::ptr_eq(&tls, by) && at.elapsed() < JUDGED_FOR {
            return peer.clone();
        }
        let peer = Peer { address: self.address, ..tls.peer(&self.certificates) };
        self.last.store(Arc::new((tls, Instant::now(), peer.clone())));
        peer
    }
}

impl Tls {
    /// The peer of a connection that presented these certificates, leaf first.
    pub(crate) fn peer(&self, certificates: &[CertificateDer<'_>]) -> Peer {
        let [leaf, others @ ..] = certificates else { return Peer::default() };
        let good = |verifier: &Arc<dyn ClientCertVerifier>| {
            let verified = verifier.verify_client_cert(leaf, others, UnixTime::now());
            verified.map(|_| Arc::new(certificates.iter().map(|it| it.to_vec()).collect::<Shown>()))
        };
        let as_client = good(&self.clients);
        let as_proxy = self.front_proxies.as_ref().and_then(|it| good(it).ok());
        let has_bad_certificate = match &as_client {
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(%error, "a client presented a certificate that is no client's");
                true
            }
        };
        Peer {
            certificates: as_client.unwrap_or_default(),
            proxy_certificates: as_proxy.unwrap_or_default(),
            has_bad_certificate,
            ..Peer::default()
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
