//! Certificates of X.509 version 1, which have no extensions: `openssl x509 -req` makes such ones, and upstream's server
//! takes them from clients (Go's `crypto/x509` does). The verifier of the TLS library refuses them, so that they are judged
//! here: by the authority itself, since who has no extensions cannot have signed for others.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::asn1_rs::{BitString, ToDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Version};

/// A verifier that takes certificates of version 1 by `authorities` too.
#[must_use]
pub fn with_version_one(
    others: Arc<dyn ClientCertVerifier>,
    authorities: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
) -> Arc<dyn ClientCertVerifier> {
    Arc::new(WithVersionOne { others, authorities, algorithms })
}

#[derive(Debug)]
struct WithVersionOne {
    others: Arc<dyn ClientCertVerifier>,
    authorities: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The certificate, where it is of version 1.
fn of_version_one<'c>(certificate: &'c CertificateDer<'_>) -> Option<X509Certificate<'c>> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    (parsed.version() == X509Version::V1).then_some(parsed)
}

/// What webpki calls an algorithm: its identifier without the frame.
fn id_of(algorithm: &AlgorithmIdentifier<'_>) -> Option<Vec<u8>> {
    let mut id = algorithm.algorithm.to_der_vec().ok()?;
    if let Some(parameters) = &algorithm.parameters {
        id.extend(parameters.to_der_vec().ok()?);
    }
    Some(id)
}

fn bits<'b>(bits: &'b BitString<'_>) -> &'b [u8] {
    bits.data.as_ref()
}

/// Whether `key` has signed `message` by one of the algorithms.
fn is_signed<'a>(
    key: &SubjectPublicKeyInfo<'_>,
    message: &[u8],
    signature: &[u8],
    algorithms: impl IntoIterator<Item = &'a &'static dyn SignatureVerificationAlgorithm>,
) -> bool {
    let Some(of_key) = id_of(&key.algorithm) else { return false };
    let key = bits(&key.subject_public_key);
    let mut fitting =
        algorithms.into_iter().filter(|it| it.public_key_alg_id().as_ref() == of_key.as_slice());
    fitting.any(|it| it.verify_signature(key, message, signature).is_ok())
}

/// Whether an authority may sign, and for clients.
fn may_sign(authority: &X509Certificate<'_>) -> bool {
    let constraints = authority.basic_constraints().ok().flatten();
    let is_authority = match constraints {
        Some(it) => it.value.ca,
        None => authority.version() != X509Version::V3,
    };
    let usage = authority.key_usage().ok().flatten();
    let extended = authority.extended_key_usage().ok().flatten();
    is_authority
        && usage.is_none_or(|it| it.value.key_cert_sign())
        && extended.is_none_or(|it| it.value.any || it.value.client_auth)
}

impl WithVersionOne {
    fn verify(&self, leaf: &X509Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let lasts = |it: &X509Certificate<'_>| {
            let validity = it.validity();
            if seconds < validity.not_before.timestamp() {
                return Err(CertificateError::NotValidYet);
            }
            let is_over = seconds > validity.not_after.timestamp();
            if is_over { Err(CertificateError::Expired) } else { Ok(()) }
        };
        lasts(leaf)?;
        let by = id_of(&leaf.signature_algorithm).ok_or(CertificateError::BadEncoding)?;
        let by = || self.algorithms.all.iter().filter(|it| it.signature_alg_id().as_ref() == by);
        let signed = |authority: &X509Certificate<'_>| {
            let (message, signature) = (leaf.tbs_certificate.as_ref(), &leaf.signature_value);
            authority.subject().as_raw() == leaf.issuer().as_raw()
                && may_sign(authority)
                && lasts(authority).is_ok()
                && is_signed(authority.public_key(), message, bits(signature), by())
        };
        let mut known = self.authorities.iter().filter_map(|it| parse_x509_certificate(it).ok());
        match known.any(|(_, authority)| signed(&authority)) {
            true => Ok(()),
            false => Err(CertificateError::UnknownIssuer),
        }
    }

    /// The signature of a handshake, by the key of a certificate of version 1.
    fn handshake(
        &self,
        message: &[u8],
        certificate: &X509Certificate<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let mut known = self.algorithms.mapping.iter();
        let algorithms = known.find(|(scheme, _)| *scheme == signed.scheme);
        let algorithms = algorithms.map(|(_, all)| *all).unwrap_or_default();
        match is_signed(certificate.public_key(), message, signed.signature(), algorithms) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }
}

impl ClientCertVerifier for WithVersionOne {
    fn offer_client_auth(&self) -> bool {
        self.others.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.others.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.others.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match of_version_one(leaf) {
            Some(leaf) => {
                self.verify(&leaf, now)?;
                Ok(ClientCertVerified::assertion())
            }
            None => self.others.verify_client_cert(leaf, others, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match of_version_one(certificate) {
            Some(certificate) => self.handshake(message, &certificate, signed),
            None => self.others.verify_tls12_signature(message, certificate, signed),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match of_version_one(certificate) {
            // The older schemes are not for TLS 1.3.
            Some(certificate) => match is_of_tls13(signed.scheme) {
                true => self.handshake(message, &certificate, signed),
                false => Err(CertificateError::BadSignature.into()),
            },
            None => self.others.verify_tls13_signature(message, certificate, signed),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.others.supported_verify_schemes()
    }
}

/// RFC 8446, 4.2.3: neither PKCS #1 v1.5 nor SHA-1 signs handshakes.
fn is_of_tls13(scheme: SignatureScheme) -> bool {
    !matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
            | SignatureScheme::ECDSA_SHA1_Legacy
    )
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::crypto::ring;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    /// `openssl x509 -req -CA`, valid for a hundred years from 28 November 2026.
    const CLIENT: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBGzCBwgIBBzAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlhdXRob3JpdHkwIBcN\n\
MjYxMTI4MDc0MTA2WhgPMjEyNjExMDQwNzQxMDZaMB4xDDAKBgNVBAMMA29sZDEO\n\
MAwGA1UECgwFZ3JvdXAwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARHcLT3CDGm\n\
uLQPWAjzp/b9S0bp5+piyqUry3nWYmPjLRUnxhQ1hJ1qrCxecfh3lrDl6cDm9M0L\n\
EWnCeM/5tGs5MAoGCCqGSM49BAMCA0gAMEUCIAipFm9OtzXo6IU+jpAajcpeeBzf\n\
j9Q1igHl/O21LjeMAiEA/BLJSd3D6Mmrc2HNbCMpnJ0hTLFkFxBClUEuP9YvPR4=\n\
-----END CERTIFICATE-----\n";
    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBfjCCASWgAwIBAgIUKZ5McHlR8/eWoQidNBro6R0LCvcwCgYIKoZIzj0EAwIw\n\
FDESMBAGA1UEAwwJYXV0aG9yaXR5MCAXDTI2MTEyODA3NDEwNVoYDzIxMjYxMTA0\n\
MDc0MTA1WjAUMRIwEAYDVQQDDAlhdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjO\n\
PQMBBwNCAAT4dUEHhOoigIhvBu02h+BxI+n3YLlQi8P/9zuK1s6MMD/q6Hs/H7qb\n\
iPUNQWc3CfsAjEOFn8KypTTOMkidNvc9o1MwUTAdBgNVHQ4EFgQURxslyxztIRqD\n\
QYrnOE27AeAv2FcwHwYDVR0jBBgwFoAURxslyxztIRqDQYrnOE27AeAv2FcwDwYD\n\
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiAVIieYuuvLgzW+cnB6pnfU\n\
WXkXMg93NS7s4YLmDNg2cQIgdVzB3hb6Ad7VCCFTOY/qy8RtDWGkpEIizbq++gBD\n\
xuo=\n\
-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgIoq0rMtC0UnSPnOv\n\
nseJceFH7T8dV3xwBIdsl3W2u32hRANCAARHcLT3CDGmuLQPWAjzp/b9S0bp5+pi\n\
yqUry3nWYmPjLRUnxhQ1hJ1qrCxecfh3lrDl6cDm9M0LEWnCeM/5tGs5\n\
-----END PRIVATE KEY-----\n";
    const DAY: u64 = 86_400;
    const MADE: u64 = 1_795_851_666;

    fn certificate(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn verifier(authority: &CertificateDer<'static>) -> Arc<dyn ClientCertVerifier> {
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let others = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        with_version_one(others.build().unwrap(), vec![authority.clone()], algorithms)
    }

    #[test]
    fn they_are_judged_by_their_authority_and_their_time() {
        let client = certificate(CLIENT);
        let ours = verifier(&certificate(AUTHORITY));
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let judged = |by: &Arc<dyn ClientCertVerifier>, certificate, now| {
            by.verify_client_cert(certificate, &[], now).map(drop).map_err(|it| it.to_string())
        };
        assert_eq!(judged(&ours, &client, at(MADE + DAY)), Ok(()));
        let early = judged(&ours, &client, at(MADE - DAY)).unwrap_err();
        assert!(early.contains("NotValidYet"), "{early}");
        let late = judged(&ours, &client, at(MADE + 40_000 * DAY)).unwrap_err();
        assert!(late.contains("Expired"), "{late}");
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // Another authority of the same name.
        let other = verifier(parameters.self_signed(&key).unwrap().der());
        let foreign = judged(&other, &client, at(MADE + DAY)).unwrap_err();
        assert!(foreign.contains("UnknownIssuer"), "{foreign}");
        // One letter of what was signed is another.
        let mut changed = client.to_vec();
        let place = changed.windows(3).position(|it| it == b"old").unwrap();
        changed[place] = b'O';
        let changed = judged(&ours, &changed.into(), at(MADE + DAY)).unwrap_err();
        assert!(changed.contains("UnknownIssuer"), "{changed}");
    }

    #[test]
    fn their_bearers_have_to_have_the_key() {
        let client = certificate(CLIENT);
        let ours = verifier(&certificate(AUTHORITY));
        let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
        let key = ring::sign::any_supported_type(&key).unwrap();
        let scheme = SignatureScheme::ECDSA_NISTP256_SHA256;
        let signature = key.choose_scheme(&[scheme]).unwrap().sign(b"hello").unwrap();
        let length = u16::try_from(signature.len()).unwrap().to_be_bytes();
        let wire = [&u16::from(scheme).to_be_bytes()[..], &length, &signature].concat();
        let mut reader = rustls::internal::msgs::codec::Reader::init(&wire);
        let signed = rustls::internal::msgs::codec::Codec::read(&mut reader).unwrap();
        assert!(ours.verify_tls13_signature(b"hello", &client, &signed).is_ok());
        assert!(ours.verify_tls12_signature(b"hello", &client, &signed).is_ok());
        assert!(ours.verify_tls13_signature(b"hallo", &client, &signed).is_err());
    }
}
