//! Certificates as text, as far as they are checked before they are stored.

use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

const CERTIFICATE: &str = "CERTIFICATE";

/// The blocks of a text, as far as they can be read; what stands between them is not looked at.
pub(super) fn blocks(text: &[u8]) -> Vec<Pem> {
    Pem::iter_from_buffer(text).map_while(Result::ok).collect()
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
