//! TLS as the cluster's parts speak it: what a server presents, and can replace while it serves; what a client presents.

mod limits;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use apiserver::ProxyClient;
use apiserver::client_certificates::{self, Tls};
use arc_swap::ArcSwap;
use component_base::ShutdownSignal;
use component_base::tls::Trust;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    ALL_VERSIONS, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
};

use crate::pki::Identity;
use crate::sni::Named;
pub(crate) use limits::{LimitOptions, Limits};

/// How often a certificate's end is looked at; it is renewed many days before.
const LOOK_EVERY: Duration = Duration::from_secs(86_400);

/// The authorities of a PEM text.
pub(crate) fn roots(pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

/// A server's certificate, which may be replaced while it serves.
#[derive(Clone)]
pub(crate) struct Serving {
    current: Arc<ArcSwap<CertifiedKey>>,
    /// Those for clients that ask for a name.
    named: Arc<ArcSwap<Named>>,
    limits: Limits,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Serving")
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = self.named.load();
        let found = hello.server_name().and_then(|name| named.find(name)).map(Arc::clone);
        Some(found.unwrap_or_else(|| self.current.load_full()))
    }
}

impl Serving {
    pub(crate) fn new(identity: &Identity) -> Result<Self> {
        let key = Arc::new(identity.certified()?);
        let (named, limits) = Default::default();
        Ok(Self { current: Arc::new(ArcSwap::new(key)), named, limits })
    }

    /// The same where only so much of TLS is spoken.
    pub(crate) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// New connections get this one from now on.
    pub(crate) fn replace(&self, identity: &Identity) -> Result<()> {
        self.current.store(Arc::new(identity.certified()?));
        Ok(())
    }

    /// New connections of clients that ask for a name get these from now on.
    pub(crate) fn replace_named(&self, named: Named) {
        self.named.store(Arc::new(named));
    }

    /// Looks once a day, until `stop`, whether `make` gives a newer certificate: it does when the old one expires soon.
    pub(crate) fn keep_fresh(
        &self,
        make: impl Fn() -> Result<Identity> + Send + 'static,
        stop: ShutdownSignal,
    ) {
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    () = stop.requested() => return,
                }
                if let Err(error) = make().and_then(|it| this.replace(&it)) {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "could not renew a server's certificate"
                    );
                }
            }
        });
    }

    /// What a TLS server presents; clients may present a certificate of `clients`.
    pub(crate) fn server_config(&self, clients: &str) -> Result<ServerConfig> {
        self.config(client_verifier(clients)?)
    }

    /// The same for a server that answers clients whose certificates are no good.
    pub(crate) fn api_server_tls(&self, clients: &str, front_proxies: &str) -> Result<Tls> {
        // Who believes nobody's certificate asks for none.
        let asks = !(clients.trim().is_empty() && front_proxies.trim().is_empty());
        let clients = client_verifier(clients)?;
        let front_proxies = Some(client_verifier(front_proxies)?);
        let config = self.config(match asks {
            true => client_certificates::accepting(Arc::clone(&clients)),
            false => WebPkiClientVerifier::no_client_auth(),
        })?;
        Ok(Tls { config: Arc::new(config), clients, front_proxies })
    }

    fn config(&self, clients: Arc<dyn ClientCertVerifier>) -> Result<ServerConfig> {
        let mut provider = ring::default_provider();
        if let Some(suites) = &self.limits.suites {
            let newest = |it: &SupportedCipherSuite| it.tls13().is_some();
            provider.cipher_suites.retain(|it| newest(it) || suites.contains(&it.suite()));
        }
        let versions: &[&SupportedProtocolVersion] =
            if self.limits.only_newest { &[&TLS13] } else { ALL_VERSIONS };
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if self.limits.without_http2 {
            config.alpn_protocols.remove(0);
        }
        Ok(config)
    }
}

/// Believes certificates of these authorities; none is needed.
fn client_verifier(authorities: &str) -> Result<Arc<dyn ClientCertVerifier>> {
    let provider = Arc::new(ring::default_provider());
    let roots = roots(authorities.as_bytes())?;
    if roots.is_empty() {
        return Ok(Arc::new(Nobody(provider)));
    }
    let algorithms = provider.signature_verification_algorithms;
    let authorities: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(authorities.as_bytes()).collect();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .allow_unauthenticated()
        .build()?;
    Ok(client_certificates::with_version_one(verifier, authorities?, algorithms))
}

/// Believes no certificate: there is no authority.
#[derive(Debug)]
struct Nobody(Arc<CryptoProvider>);

impl ClientCertVerifier for Nobody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Err(rustls::CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl Identity {
    pub(crate) fn certified(&self) -> Result<CertifiedKey> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect();
        let chain = chain?;
        if chain.is_empty() {
            bail!("the server's certificate file holds no certificate");
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let key = ring::sign::any_supported_type(&key)?;
        Ok(CertifiedKey::new(chain, key))
    }

    /// What proves this server to those behind it.
    pub(crate) fn proxy_client(&self) -> Result<ProxyClient> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect();
        Ok(ProxyClient::new(chain?, PrivateKeyDer::from_pem_slice(self.key.as_bytes())?))
    }

    /// What a TLS client presents to servers whose certificates are `authority`'s.
    pub(crate) fn client_config(&self, authority: &str) -> Result<ClientConfig> {
        self.client_of(Trust::Authorities(roots(authority.as_bytes())?))
    }

    /// What a TLS client presents to servers that are trusted so.
    pub(crate) fn client_of(&self, trust: Trust) -> Result<ClientConfig> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        Ok(component_base::tls::client(trust)?.with_client_auth_cert(chain?, key)?)
    }
}
