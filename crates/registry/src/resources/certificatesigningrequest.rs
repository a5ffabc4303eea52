//! CertificateSigningRequest, with its approval.

use apimachinery::validation::{self, Problems};
use apimachinery::{FieldErrors, Path, Value, time};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use compact_str::CompactString;
use jiff::Timestamp;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::pem;
use crate::declaration::{Declaration, FieldLabel};
use crate::rules;
use crate::{Part, Rules, check, metadata, status, table};

/// What a block of a request is called.
const REQUEST: &str = "CERTIFICATE REQUEST";
/// The sizes of RSA keys whose signatures can be verified here.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const SIGNER: &str =
    "must be a fully qualified domain and path of the form 'example.com/signer-name'";
/// The shortest life of a certificate, in seconds.
const SECONDS_MIN: i64 = 600;
/// The longest name of a signer: a domain, and a path as long as four labels, in bytes.
const SIGNER_MAX: usize = 571;
/// The signer that requests of `certificates.k8s.io/v1beta1` had who named none.
const SIGNER_LEGACY: &str = "kubernetes.io/legacy-unknown";
/// Conditions that only an approval may add or change.
const DECISIONS: &[&str] = &["Approved", "Denied"];

/// The selectable fields.
const FIELDS: &[FieldLabel] = &[FieldLabel::new("spec.signerName", |it| {
    CompactString::from(it.str_at(&["spec", "signerName"]))
})];

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "certificates.k8s.io",
        resource: "certificatesigningrequests",
        name: metadata::path_segment_name,
        prepare_update: |it, old| keep(it, old, "spec"),
        prepare_status: keep_decisions,
        prepare_subresource: |_, it, old| {
            keep(it, old, "spec");
            let conditions = it.at(&["status", "conditions"]).cloned();
            keep(it, old, "status");
            match conditions {
                Some(conditions) => it.set_at(&["status", "conditions"], conditions),
                None => {
                    it.remove_at(&["status", "conditions"]);
                }
            }
        },
        stamp: |part, it, old, now| {
            if part != Part::Main {
                stamp(it, old, &time::format_time(now));
            }
        },
        validate,
        validate_create: |it, errors| {
            if it.str_at(&["spec", "signerName"]) == SIGNER_LEGACY {
                let path = Path::new("spec");
                let detail = "the legacy signerName is not allowed via this API version";
                errors.invalid_text(&path.child("signerName"), SIGNER_LEGACY, detail);
            }
        },
        validate_update: |it, old, errors| changed(it, old, Through::Main, errors),
        validate_status: |it, old, errors| {
            conditions(it, Some(old), errors);
            certificate(it, old, errors);
            changed(it, old, Through::Status, errors);
        },
        validate_subresource: |_, it, old, errors| {
            conditions(it, Some(old), errors);
            changed(it, old, Through::Approval, errors);
        },
        fields: FIELDS,
        row,
        rules: Rules { has_status: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn keep(value: &mut Value, old: &Value, member: &str) {
    match old.get(member) {
        Some(before) => value.set_at(&[member], before.clone()),
        None => {
            value.remove_at(&[member]);
        }
    }
}

fn validate(request: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &request["spec"];
    let encoded = spec.str_at(&["request"]);
    let bytes = BASE64_STANDARD.decode(encoded).unwrap_or_default();
    if let Some(detail) = fault(&String::from_utf8_lossy(&bytes)) {
        errors.invalid(&path.child("request"), &spec["request"], &detail);
    }
    if spec.items_at(&["usages"]).is_empty() {
        errors.required(&path.child("usages"), "");
    }
    let mut seen: Vec<Value> = Vec::new();
    rules::each(spec, "usages", &path, errors, |usage, at, errors| {
        if !USAGES.contains(&usage.as_str().unwrap_or_default()) {
            errors.not_supported(at, usage, USAGES.iter().copied());
        } else if seen.contains(usage) {
            errors.duplicate(at, usage);
        }
        seen.push(usage.clone());
    });
    signer_name(spec, &path, errors);
    if let Some(seconds) = spec.i64_at(&["expirationSeconds"]).filter(|it| *it < SECONDS_MIN) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.child("expirationSeconds"), &seconds.into(), detail);
    }
    conditions(request, None, errors);
}

/// Why a text is no request for a certificate that its key has signed.
fn fault(text: &str) -> Option<String> {
    let Some(block) = pem::all_blocks(text).into_iter().next().filter(|it| it.label == REQUEST)
    else {
        return Some(format!("PEM block type must be {REQUEST}"));
    };
    let (rest, request) = match X509CertificationRequest::from_der(&block.contents) {
        Ok(read) => read,
        Err(error) => return Some(format!("asn1: structure error: {error}")),
    };
    if !rest.is_empty() {
        return Some("asn1: syntax error: trailing data".into());
    }
    let key = &request.certification_request_info.subject_pki;
    let forged = matches!(request.verify_signature(), Err(X509Error::SignatureVerificationError));
    if !forged {
        return None;
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => (RSA_BITS.contains(&rsa.key_size()))
            .then(|| "crypto/rsa: verification error".to_owned()),
        Ok(PublicKey::EC(_)) => Some("x509: ECDSA verification failure".into()),
        _ => Some("x509: Ed25519 verification failure".into()),
    }
}

/// `example.com/signer-name`
pub(super) fn signer_name(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !check::required_text(spec, "signerName", path, errors) {
        return;
    }
    let (name, at) = (spec.str_at(&["signerName"]), path.child("signerName"));
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        errors.invalid_text(&at, name, SIGNER);
        return;
    };
    if domain.len() > validation::SUBDOMAIN_LENGTH_MAX {
        errors.too_long(&at, validation::SUBDOMAIN_LENGTH_MAX);
    }
    labels(domain, validation::dns1123_label, &at, errors);
    if domain.split('.').count() < 2 {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid_text(&at, domain, detail);
    }
    labels(rest, validation::dns1123_subdomain, &at, errors);
    if name.len() > SIGNER_MAX {
        errors.too_long(&at, SIGNER_MAX);
    }
}

/// The first part of a text with dots that breaks a rule, and how.
fn labels(text: &str, rule: fn(&str) -> Problems, path: &Path<'_>, errors: &mut FieldErrors) {
    let odd = text.split('.').map(|it| (it, rule(it))).find(|(_, problems)| !problems.is_empty());
    let Some((label, problems)) = odd else { return };
    for problem in problems {
        errors.invalid_text(path, text, &format!("validating label {label:?}: {problem}"));
    }
}

fn of_type<'v>(request: &'v Value, kind: &str) -> Vec<&'v Value> {
    let all = request.items_at(&["status", "conditions"]).iter();
    all.filter(|it| it.str_at(&["type"]) == kind).collect()
}

/// Checks conditions; what was wrong with those before is let be.
fn conditions(request: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let path = Path::new("status");
    let types = |of: &Value| -> Vec<String> {
        let all = of.items_at(&["status", "conditions"]).iter();
        all.map(|it| it.str_at(&["type"]).to_owned()).collect()
    };
    let before = old.map(types).unwrap_or_default();
    let repeated = before.iter().enumerate().any(|(index, it)| before[..index].contains(it));
    let nameless = before.iter().any(String::is_empty);
    let both = DECISIONS.iter().all(|it| before.iter().any(|kind| kind == it));
    let mut seen: Vec<String> = Vec::new();
    rules::each(&request["status"], "conditions", &path, errors, |condition, at, errors| {
        let kind = condition.str_at(&["type"]).to_owned();
        if !nameless {
            check::required_text(condition, "type", at, errors);
        }
        let statuses: &[&str] = match kind.as_str() {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => status::CONDITION_STATUSES,
        };
        rules::required_one_of(condition, "status", statuses, at, errors);
        let other = DECISIONS.iter().find(|it| **it != kind);
        let decides = DECISIONS.contains(&kind.as_str());
        if !both && decides && other.is_some_and(|it| seen.iter().any(|kind| kind == it)) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.invalid_text(&path.child("conditions"), &kind, detail);
        }
        if !repeated && seen.contains(&kind) {
            errors.duplicate(&at.child("type"), &Value::from(kind.as_str()));
        }
        seen.push(kind);
    });
}

/// Conditions that only an approval changes are what they were, if there are as many.
fn keep_decisions(request: &mut Value, old: &Value) {
    for kind in DECISIONS {
        let before = of_type(old, kind);
        if of_type(request, kind).len() != before.len() {
            continue;
        }
        let mut before = before.into_iter().cloned();
        let all = request.items_at_mut(&["status", "conditions"]).iter_mut();
        for condition in all.filter(|it| it.str_at(&["type"]) == *kind) {
            if let Some(earlier) = before.next() {
                *condition = earlier;
            }
        }
    }
}

/// A new certificate is one. It is not looked at where the one before was none.
fn certificate(request: &Value, old: &Value, errors: &mut FieldErrors) {
    let of = |it: &Value| {
        let text = it.str_at(&["status", "certificate"]);
        BASE64_STANDARD.decode(text).unwrap_or_default()
    };
    let (now, before) = (of(request), of(old));
    if now == before || pem::wrong_certificates(&before).is_some() {
        return;
    }
    if let Some(problem) = pem::wrong_certificates(&now) {
        let status = Path::new("status");
        errors.invalid_text(&status.child("certificate"), "<certificate data>", &problem);
    }
}

/// Which part of a request is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    Main,
    Status,
    Approval,
}

/// What has been decided stays decided, only an approval decides, and a certificate is issued once.
fn changed(request: &Value, old: &Value, through: Through, errors: &mut FieldErrors) {
    let path = Path::new("status");
    let at = path.child("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        if of_type(request, kind).len() < of_type(old, kind).len() {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            errors.forbidden(&at, &detail);
        }
    }
    for kind in DECISIONS.iter().filter(|_| through != Through::Approval) {
        let (now, before) = (of_type(request, kind), of_type(old, kind));
        if now.len() > before.len() {
            let detail = format!("updates may not add a condition of type {kind:?}");
            errors.forbidden(&at, &detail);
        }
    }
    let of = |it: &Value| it.str_at(&["status", "certificate"]).to_owned();
    if of(request) != of(old) {
        let at = path.child("certificate");
        if through != Through::Status {
            errors.forbidden(&at, "updates may not set certificate content");
        } else if !of(old).is_empty() {
            errors.forbidden(&at, "updates may not modify existing certificate content");
        }
    }
}

fn row(request: &Value, now: Timestamp) -> Vec<Value> {
    let spec = |member| request.str_at(&["spec", member]);
    let duration = request.i64_at(&["spec", "expirationSeconds"]).map(|seconds| {
        apimachinery::duration::human(apimachinery::duration::Duration::from_seconds(seconds))
    });
    let or_none =
        |text: &str| -> Value { if text.is_empty() { "<none>".into() } else { text.into() } };
    vec![
        request.str_at(&["metadata", "name"]).into(),
        table::created(request, now),
        or_none(spec("signerName")),
        spec("username").into(),
        duration.map_or("<none>".into(), |it| it.to_string().into()),
        state(request).into(),
    ]
}

/// Notes when conditions were written and came to be, where who wrote them does not say (upstream:
/// `populateConditionTimestamps`).
fn stamp(request: &mut Value, old: &Value, now: &str) {
    let before = old.items_at(&["status", "conditions"]);
    for condition in request.items_at_mut(&["status", "conditions"]) {
        if condition.str_at(&["lastUpdateTime"]).is_empty() {
            condition.set_at(&["lastUpdateTime"], now);
        }
        if condition.str_at(&["lastTransitionTime"]).is_empty() {
            let same = |it: &&Value| {
                ["type", "status"].iter().all(|member| it[member] == condition[member])
            };
            let since = before.iter().find(same).map(|it| it.str_at(&["lastTransitionTime"]));
            let since = since.filter(|it| !it.is_empty()).unwrap_or(now).to_owned();
            condition.set_at(&["lastTransitionTime"], since);
        }
    }
}

fn state(request: &Value) -> String {
    let has = |kind: &str| {
        let all = request.items_at(&["status", "conditions"]);
        all.iter().any(|it| it.str_at(&["type"]) == kind)
    };
    let mut words = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        words.push_str(",Failed");
    }
    if !request.str_at(&["status", "certificate"]).is_empty() {
        words.push_str(",Issued");
    }
    words
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn only_an_approval_decides_and_a_certificate_is_one() {
        let of = |kinds: &[&str], certificate: &str| {
            let all: Vec<Value> =
                kinds.iter().map(|it| value!({"type": (*it), "status": "True"})).collect();
            value!({"status": {"conditions": (all), "certificate": certificate}})
        };
        let told = |now: &Value, old: &Value| {
            let mut errors = FieldErrors::new();
            let declaration = resource();
            (declaration.validate_status)(now, old, &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<String>>()
        };
        let old = of(&["Approved"], "");
        assert_eq!(
            told(&of(&["Denied"], "YWJj"), &old),
            [
                "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block",
                "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"",
                "status.conditions: Forbidden: updates may not add a condition of type \"Denied\"",
            ]
        );
        assert_eq!(
            told(&of(&["Approved", "Denied", "Denied"], ""), &old)[..2],
            [
                "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
                "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
            ]
        );
        let mut new = value!({"status": {"conditions": [{"type": "Approved", "status": "False"}]}});
        keep_decisions(&mut new, &old);
        assert_eq!(told(&new, &old), [""; 0]);
    }

    #[test]
    fn requests_are_signed_by_their_key() {
        let of = |algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            rcgen::CertificateParams::default().serialize_request(&key).unwrap()
        };
        let pem = |der: &[u8]| {
            let text = BASE64_STANDARD.encode(der);
            format!("-----BEGIN {REQUEST}-----\n{text}\n-----END {REQUEST}-----\n")
        };
        let ecdsa = of(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(fault(&ecdsa.pem().unwrap()), None);
        let mut forged = of(&rcgen::PKCS_ED25519).der().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(fault(&pem(&forged)).unwrap(), "x509: Ed25519 verification failure");
        let mut longer = ecdsa.der().to_vec();
        longer.push(0);
        assert_eq!(fault(&pem(&longer)).unwrap(), "asn1: syntax error: trailing data");
        assert!(fault(&pem(&[0; 3])).unwrap().starts_with("asn1: structure error: "));
        // What is no base64 is no block.
        let broken = ecdsa.pem().unwrap().replacen('\n', "\n\u{fc}", 2);
        assert_eq!(fault(&broken).unwrap(), "PEM block type must be CERTIFICATE REQUEST");
    }

    #[test]
    fn conditions_say_when_they_came_to_be() {
        let of = |conditions: Value| value!({"status": {"conditions": conditions}});
        let old = of(value!([{"type": "Approved", "status": "True", "lastTransitionTime": "1"}]));
        let mut new = of(value!([
            {"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True", "lastUpdateTime": "2"}]));
        stamp(&mut new, &old, "3");
        let expected = of(value!([
            {"type": "Approved", "status": "True", "lastUpdateTime": "3", "lastTransitionTime": "1"},
            {"type": "Failed", "status": "True", "lastUpdateTime": "2", "lastTransitionTime": "3"}]));
        assert_eq!(new, expected);
    }
}
