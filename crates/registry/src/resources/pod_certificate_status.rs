//! Checks of the status of a PodCertificateRequest: a certificate is issued, denied or failed once (upstream:
//! `ValidatePodCertificateRequestStatusUpdate`). They do not know what time it is.

use apimachinery::{FieldErrors, Path, Value, time};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::pem;
use crate::{check, status};

const KINDS: [&str; 3] = ["Issued", "Denied", "Failed"];
/// The longest chain of certificates, in bytes.
const CHAIN_MAX: usize = 100 * 1024;
const HOUR: i64 = 3_600;
/// How long after its begin, and before its end, a certificate is renewed.
const MARGIN: SignedDuration = SignedDuration::from_mins(10);

pub(super) fn validate(request: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    if !errors.is_empty() {
        return;
    }
    conditions(request, &path.child("conditions"), errors);
    status::conditions(&request["status"], &path, errors);
    if !errors.is_empty() {
        return;
    }
    let (now, before) = (&request["status"], &old["status"]);
    let ended = |of: &Value| KINDS.iter().any(|kind| status::holds(of, kind));
    if ended(old) {
        if now != before {
            let detail = "immutable after PodCertificateRequest is issued, denied, or failed";
            check::invalid_unshown(&path, detail, errors);
        }
    } else if status::holds(request, "Issued") {
        issued(request, &path, errors);
    } else if ended(request) {
        let mut members = now.as_object().into_iter().flat_map(apimachinery::Object::iter);
        if members.any(|(name, _)| name != "conditions") {
            let detail = "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
            check::invalid_unshown(&path, detail, errors);
        }
    } else if now != before {
        let detail =
            "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"";
        check::invalid_unshown(&path, detail, errors);
    }
}

/// One of the known conditions, and it is true.
fn conditions(request: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut known = 0;
    for (index, condition) in request.items_at(&["status", "conditions"]).iter().enumerate() {
        // Upstream takes the index for a member.
        let index = format!("[{index}]");
        let at = path.child(&index);
        let kind = condition.str_at(&["type"]);
        if !KINDS.contains(&kind) {
            errors.not_supported(&at.child("type"), &kind.into(), KINDS);
            continue;
        }
        known += 1;
        if known > 1 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.invalid_text(&at.child("type"), kind, detail);
        }
        check::one_of(condition, "status", &["True"], &at, errors);
    }
}

/// The first thing wrong with a certificate and what is told of it.
fn issued(request: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let status = &request["status"];
    let (chain, at) = (status.str_at(&["certificateChain"]), path.child("certificateChain"));
    if chain.len() > CHAIN_MAX {
        errors.too_long(&at, CHAIN_MAX);
        return;
    }
    let blocks = pem::blocks(chain.as_bytes());
    let wrong = match blocks.first() {
        None => Some("issued certificate chain must contain at least one certificate"),
        Some(leaf) if leaf.label != "CERTIFICATE" => {
            Some("issued certificate chain must consist entirely of CERTIFICATE PEM blocks")
        }
        Some(leaf) if pem::certificate(leaf).is_none() => {
            Some("leaf certificate does not parse as valid X.509")
        }
        Some(_) => None,
    };
    if let Some(detail) = wrong {
        errors.invalid_text(&at, chain, detail);
        return;
    }
    if blocks.first().and_then(pem::certificate).is_some_and(|leaf| !is_for_key(request, &leaf)) {
        let detail = "leaf certificate was not issued to the requested public key";
        errors.invalid_text(&at, chain, detail);
        return;
    }
    for (member, detail) in [
        ("notBefore", "must be present and consistent with the issued certificate"),
        ("notAfter", "must be present and consistent with the issued certificate"),
        ("beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]"),
    ] {
        if status.str_at(&[member]).is_empty() {
            errors.required(&path.child(member), detail);
        }
    }
    let Some(leaf) = blocks.first().and_then(pem::certificate).filter(|_| errors.is_empty()) else {
        return;
    };
    let validity = leaf.validity();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if let Some((member, detail)) = wrong_times(request, (from, to)) {
        match member {
            "certificateChain" => {
                let nanoseconds = (to - from).saturating_mul(1_000_000_000);
                errors.invalid(&at, &nanoseconds.into(), &detail);
            }
            _ => errors.invalid_text(&path.child(member), status.str_at(&[member]), &detail),
        }
        return;
    }
    for block in &blocks[1..] {
        let detail = if block.label != "CERTIFICATE" {
            "issued certificate chain must consist entirely of CERTFICATE PEM blocks"
        } else if pem::certificate(block).is_none() {
            "intermediate certificate does not parse as valid X.509"
        } else {
            continue;
        };
        errors.invalid_text(&at, chain, detail);
        return;
    }
}

/// Whether a certificate is for the key that was asked for.
fn is_for_key(request: &Value, leaf: &X509Certificate<'_>) -> bool {
    let asked = BASE64_STANDARD.decode(request.str_at(&["spec", "stubPKCS10Request"]));
    let asked = asked.unwrap_or_default();
    X509CertificationRequest::from_der(&asked).is_ok_and(|(_, asked)| {
        asked.certification_request_info.subject_pki.raw == leaf.public_key().raw
    })
}

/// What is wrong with the times of a certificate that is valid from one second to another, and which member tells it.
fn wrong_times(request: &Value, (from, to): (i64, i64)) -> Option<(&'static str, String)> {
    let read = |member: &str| -> Option<Timestamp> {
        time::parse_time(request.str_at(&["status", member])).ok()
    };
    let (begin, end, renewed) = (read("notBefore")?, read("notAfter")?, read("beginRefreshAt")?);
    if begin.as_second() != from {
        let detail = "must be set to the NotBefore time encoded in the leaf certificate";
        return Some(("notBefore", detail.into()));
    }
    if end.as_second() != to {
        let detail = "must be set to the NotAfter time encoded in the leaf certificate";
        return Some(("notAfter", detail.into()));
    }
    let most = request.i64_at(&["spec", "maxExpirationSeconds"]);
    if to - from < HOUR {
        let detail = "leaf certificate lifetime must be >= 1 hour";
        return Some(("certificateChain", detail.into()));
    }
    if let Some(most) = most.filter(|it| to - from > *it) {
        let detail =
            format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})");
        return Some(("certificateChain", detail));
    }
    if renewed.duration_since(begin) < MARGIN {
        let detail = "must be at least 10 minutes after status.notBefore";
        return Some(("beginRefreshAt", detail.into()));
    }
    if end.duration_since(renewed) < MARGIN {
        let detail = "must be at least 10 minutes before status.notAfter";
        return Some(("beginRefreshAt", detail.into()));
    }
    None
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn a_request_ends_once() {
        let of = |kind: &str, state: &str| {
            value!({"status": {"conditions": [{"type": kind, "status": state, "reason": "R",
                "lastTransitionTime": "2024-01-01T00:00:00Z"}]}})
        };
        let told = |now: &Value, old: &Value| {
            let mut errors = FieldErrors::new();
            validate(now, old, &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<String>>()
        };
        let fresh = value!({});
        let denied = of("Denied", "True");
        assert_eq!(told(&denied, &fresh), [""; 0]);
        assert_eq!(
            told(&of("Failed", "True"), &denied),
            [
                "status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"
            ]
        );
        assert_eq!(
            told(&of("Denied", "False"), &fresh),
            [
                "status.conditions.[0].status: Unsupported value: \"False\": supported values: \"True\""
            ]
        );
        assert_eq!(
            told(&of("Issued", "True"), &fresh),
            [
                "status.certificateChain: Invalid value: \"\": issued certificate chain must contain at least one certificate"
            ]
        );
    }
}
