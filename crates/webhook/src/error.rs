//! Why a call failed, as upstream's clients tell it.

use apimachinery::json;
use bytes::Bytes;
use rustls::{CertificateError, Error as TlsError, OtherError};

/// How much of an answer that is no `Status` is shown, in bytes (upstream: 2048).
pub(crate) const SHOWN_BYTES: usize = 2048;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// There is no client for such a configuration.
    Client(String),
    /// There was no answer.
    Call(String),
    /// The answer was no success.
    Refused {
        /// Its code.
        code: u16,
        /// What it says.
        message: String,
    },
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(why) => write!(f, "could not get REST client: {why}"),
            Self::Call(message) | Self::Refused { message, .. } => {
                write!(f, "failed to call webhook: {message}")
            }
        }
    }
}

impl CallError {
    /// What was wrong, without what was being done.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Client(message) | Self::Call(message) | Self::Refused { message, .. } => message,
        }
    }

    /// The code that such a failure is counted under.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::Client(_) => 400,
            Self::Call(_) => 503,
            Self::Refused { code, .. } => *code,
        }
    }
}

/// An answer that is no success.
pub(crate) fn refused(code: u16, body: &Bytes) -> CallError {
    let status = json::parse(body).ok().filter(|it| it.str_at(&["kind"]) == "Status");
    if let Some(status) = status.filter(|it| it.str_at(&["status"]) != "Success") {
        let message = match status.str_at(&["message"]) {
            "" => "unknown".to_owned(),
            message => message.to_owned(),
        };
        return CallError::Refused { code, message };
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]);
    let text = if text.trim().is_empty() { "unknown".into() } else { text };
    let message = match code {
        400 => "the server rejected our request for an unknown reason".into(),
        401 => "the server has asked for the client to provide credentials".into(),
        403 => text.trim().to_owned(),
        404 => "the server could not find the requested resource".into(),
        405 => "the server does not allow this method on the requested resource".into(),
        409 => "the server reported a conflict".into(),
        415 | 406 => text.trim().to_owned(),
        422 => "the server rejected our request due to an error in our request".into(),
        429 => "the server has received too many requests and has asked us to try again later".into(),
        503 => "the server is currently unable to handle the request".into(),
        504 => "the server was unable to return a response in the time allotted, but may still be processing the request".into(),
        500.. => format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim()),
        _ => format!("the server responded with the status code {code} but did not return more details"),
    };
    CallError::Refused { code, message }
}

/// What a failed connection is told as.
pub(crate) fn dial(address: &str, error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let what = match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {what}")
}

/// The same for a name that has no address.
pub(crate) fn lookup(host: &str) -> String {
    format!("dial tcp: lookup {host}: no such host")
}

/// What a failed handshake with a server of this name is told as.
#[must_use]
pub fn handshake(name: &str, error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|it| it.downcast_ref::<TlsError>());
    match inner {
        Some(TlsError::InvalidCertificate(why)) => {
            format!("tls: failed to verify certificate: {}", certificate(name, why))
        }
        Some(TlsError::InvalidMessage(_)) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        Some(TlsError::AlertReceived(alert)) => format!("remote error: tls: {alert:?}"),
        Some(other) => format!("tls: {other}"),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => error.to_string(),
    }
}

/// What is wrong with the form of a server's certificate, which was taken once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFault {
    /// It tells its name in the subject's common name alone.
    MissingSan,
    /// It, or one that it goes by, is signed with SHA-1.
    InsecureSha1,
}

impl std::error::Error for CertificateFault {}

impl std::fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MissingSan => MISSING_SAN,
            Self::InsecureSha1 => INSECURE_SHA1,
        })
    }
}

const MISSING_SAN: &str = "certificate relies on legacy Common Name field, use SANs instead";
const INSECURE_SHA1: &str = "certificate signed by unknown authority (possibly because of \"x509: cannot verify signature: insecure algorithm SHA1-RSA\")";

/// The fault of a certificate that these words of a failed call are for.
#[must_use]
pub fn certificate_fault(why: &str) -> Option<CertificateFault> {
    [CertificateFault::MissingSan, CertificateFault::InsecureSha1]
        .into_iter()
        .find(|it| why.contains(&it.to_string()))
}

fn certificate(name: &str, why: &CertificateError) -> String {
    match why {
        // An authority that speaks for itself and is not among those trusted, which would have been taken.
        CertificateError::Other(why) if why.to_string().contains("CaUsedAsEndEntity") => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        CertificateError::Other(OtherError(why)) => format!("x509: {why}"),
        // Another authority may have the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names: Vec<&str> =
                presented.iter().map(|it| it.split('"').nth(1).unwrap_or(it)).collect();
            if names.is_empty() {
                return format!(
                    "x509: certificate is not valid for any names, but wanted to match {name}"
                );
            }
            format!("x509: certificate is valid for {}, not {name}", names.join(", "))
        }
        CertificateError::NotValidForName => format!("x509: certificate is not valid for {name}"),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "x509: certificate has expired or is not yet valid".to_owned()
        }
        other => format!("x509: {other}"),
    }
}
