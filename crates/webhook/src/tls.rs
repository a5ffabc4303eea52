//! Whom to take for the webhook.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use component_base::tls::{Judge, Trust};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, ConfigBuilder, Error, OtherError, RootCertStore};
use x509_parser::der_parser::{Oid, oid};
use x509_parser::parse_x509_certificate;

use crate::error::CertificateFault;
use crate::kubeconfig::Identity;

/// RSA and ECDSA with SHA-1.
const SHA1: [Oid<'static>; 2] = [oid!(1.2.840.113549.1.1.5), oid!(1.2.840.10045.4.1)];
/// Where distributions keep the authorities that they trust.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Trusts the authorities of a `caBundle`, in base64; the machine's where it is empty.
///
/// # Errors
/// When the bundle holds no certificate, in upstream's words.
pub fn trusting(bundle: &str) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let pem = BASE64_STANDARD.decode(bundle).map_err(|error| unable(&error.to_string()))?;
    trusting_pem(&pem)
}

fn unable(why: &str) -> String {
    format!("unable to load root certificates: {why}")
}

/// Trusts authorities in PEM; the machine's where there are none.
pub(crate) fn trusting_pem(
    given: &[u8],
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let system = || SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok());
    let found = if given.is_empty() { system() } else { None };
    let mut pem = found.as_deref().unwrap_or(given);
    let certificates: Vec<CertificateDer<'static>> =
        rustls_pemfile::certs(&mut pem).filter_map(Result::ok).collect();
    if certificates.is_empty() && !given.is_empty() {
        return Err(unable("unable to parse bytes as PEM block"));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    let authorities = Arc::new(Authorities::new(roots, certificates)?);
    let base = component_base::tls::client(Trust::Judged(authorities));
    base.map_err(|error| error.to_string())
}

/// TLS to one webhook.
pub(crate) fn config(
    bundle: &str,
    identity: Option<&Identity>,
) -> Result<Arc<ClientConfig>, String> {
    let base = trusting(bundle)?;
    let mut config = match identity {
        None => return Ok(anonymous(base)),
        Some(identity) => identity.present(base)?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// TLS to a server of authorities in PEM; of the machine's where there are none.
///
/// # Errors
/// When there is no certificate in what is given.
pub fn with_authorities(pem: &[u8]) -> Result<Arc<ClientConfig>, String> {
    trusting_pem(pem).map(anonymous)
}

fn anonymous(base: ConfigBuilder<ClientConfig, WantsClientCert>) -> Arc<ClientConfig> {
    let mut config = base.with_no_client_auth();
    // One connection for all calls would make one endpoint of a service do all the work.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Takes what the authorities have signed, and what is itself among them: a bundle may be the server's own certificate.
#[derive(Debug)]
struct Authorities {
    signed: Option<Arc<WebPkiServerVerifier>>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    fn new(
        roots: RootCertStore,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let signed = if roots.is_empty() {
            None
        } else {
            let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
            Some(built.build().map_err(|error| error.to_string())?)
        };
        Ok(Self { signed, certificates })
    }

    /// What is wrong with the form of certificates that were not taken.
    fn fault(
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        (name, error): (&ServerName<'_>, &Error),
    ) -> Option<CertificateFault> {
        let Error::InvalidCertificate(why) = error else { return None };
        if matches!(
            why,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        ) {
            let (_, parsed) = parse_x509_certificate(leaf).ok()?;
            let is_named = parsed
                .subject()
                .iter_common_name()
                .any(|it| it.as_str().is_ok_and(|it| it.eq_ignore_ascii_case(&name.to_str())));
            let has_names = parsed.subject_alternative_name().ok()?.is_some();
            return (is_named && !has_names).then_some(CertificateFault::MissingSan);
        }
        let is_weak = |it: &CertificateDer<'_>| {
            parse_x509_certificate(it).is_ok_and(|(_, it)| {
                it.subject() != it.issuer() && SHA1.contains(&it.signature_algorithm.algorithm)
            })
        };
        std::iter::once(leaf).chain(others).any(is_weak).then_some(CertificateFault::InsecureSha1)
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.certificates.iter().any(|it| it == leaf) {
            return Self::verify_named(leaf, name, now);
        }
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let signed = self.signed.as_ref().ok_or_else(unknown)?;
        signed.verify_server_cert(leaf, others, name, ocsp, now).map(drop)
    }

    fn verify_named(
        leaf: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        let bad = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, parsed) = parse_x509_certificate(leaf).map_err(bad)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = parsed.validity();
        if now < validity.not_before.timestamp() || now > validity.not_after.timestamp() {
            return Err(Error::InvalidCertificate(CertificateError::Expired));
        }
        Ok(())
    }
}

impl Judge for Authorities {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.verify(leaf, others, name, ocsp, now).map_err(|error| {
            match Self::fault(leaf, others, (name, &error)) {
                Some(fault) => {
                    let fault = OtherError(Arc::new(fault));
                    Error::InvalidCertificate(CertificateError::Other(fault))
                }
                None => error,
            }
        })
    }
}
