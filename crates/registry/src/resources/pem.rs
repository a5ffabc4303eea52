//! Certificates as text, as far as they are checked before they are stored.

use ring::rand::SystemRandom;
use ring::rsa::KeyPair as RsaKeyPair;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a block of a certificate is called.
pub(super) const CERTIFICATE: &str = "CERTIFICATE";
/// Algorithms of keys (RFC 3279, RFC 5480, RFC 8410).
const RSA: &str = "1.2.840.113549.1.1.1";
const ELLIPTIC: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";

/// The blocks of a text, as far as they can be read; what stands between them is not looked at.
pub(super) fn blocks(text: &[u8]) -> Vec<Pem> {
    Pem::iter_from_buffer(text).map_while(Result::ok).collect()
}

/// Which blocks of a text have headers within.
pub(super) fn with_headers(text: &str) -> Vec<usize> {
    let (mut found, mut index, mut inside) = (Vec::new(), 0, false);
    for line in text.lines().map(str::trim) {
        if line.starts_with("-----BEGIN ") {
            inside = true;
        } else if line.starts_with("-----END ") {
            inside = false;
            index += 1;
        } else if inside && line.contains(':') && found.last() != Some(&index) {
            found.push(index);
        }
    }
    found
}

/// Whether a block has headers within.
fn has_headers(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.lines().any(|line| !line.starts_with("-----") && line.contains(':'))
}

/// A certificate out of a block.
pub(super) fn certificate(block: &Pem) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(&block.contents).ok().map(|it| it.1)
}

/// The algorithm of a private key, as certificates name it, and its public key as they hold it; `None` where the key is of a
/// kind or a form that cannot be read here.
pub(super) fn public_key(block: &Pem) -> Option<(&'static str, Vec<u8>)> {
    let der = block.contents.as_slice();
    let rsa = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der));
    if let Ok(key) = rsa {
        return Some((RSA, key.public().as_ref().to_vec()));
    }
    let random = SystemRandom::new();
    for curve in [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING] {
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(curve, der, &random) {
            return Some((ELLIPTIC, key.public_key().as_ref().to_vec()));
        }
    }
    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
    Some((ED25519, key.public_key().as_ref().to_vec()))
}

/// What is wrong with a text that is to hold certificates and nothing else, where there is one.
pub(super) fn wrong_certificates(text: &[u8]) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let blocks = blocks(text);
    if blocks.is_empty() {
        return Some("must contain at least one CERTIFICATE PEM block".into());
    }
    if let Some(other) = blocks.iter().find(|it| it.label != CERTIFICATE) {
        let label = apimachinery::field::quote(&other.label);
        return Some(format!("only CERTIFICATE PEM blocks are allowed, found {label}"));
    }
    if has_headers(text) {
        return Some("no PEM block headers are permitted".into());
    }
    let wrong = blocks.iter().any(|it| certificate(it).is_none());
    wrong.then(|| "x509: malformed certificate".into())
}
