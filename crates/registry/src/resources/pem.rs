//! Certificates as text, as far as they are checked before they are stored.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
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

/// A block of a text, as Go reads it.
pub(super) struct Block {
    pub(super) label: String,
    pub(super) has_headers: bool,
    pub(super) contents: Vec<u8>,
}

/// The blocks of a text; what stands between them, and what is no base64, is passed over.
pub(super) fn all_blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, bool, String)> = None;
    for line in text.lines().map(str::trim) {
        let begins = line.strip_prefix("-----BEGIN ").and_then(|it| it.strip_suffix("-----"));
        if let Some(label) = begins {
            open = Some((label.to_owned(), false, String::new()));
        } else if line.starts_with("-----END ") {
            let Some((label, has_headers, text)) = open.take() else { continue };
            if let Ok(contents) = BASE64_STANDARD.decode(text) {
                blocks.push(Block { label, has_headers, contents });
            }
        } else if let Some((_, has_headers, text)) = &mut open {
            match line.contains(':') {
                true => *has_headers = true,
                false => text.push_str(line),
            }
        }
    }
    blocks
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
