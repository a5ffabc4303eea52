//! CertificateSigningRequest, with its approval.

use apimachinery::{FieldErrors, Path, Value, time, validation};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use compact_str::CompactString;
use jiff::Timestamp;

use crate::declaration::{Declaration, FieldLabel};
use crate::rules;
use crate::{Part, Rules, check, metadata, table};

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
        default: |it| {
            for condition in it.items_at_mut(&["status", "conditions"]) {
                condition.default_zero_at(&["status"], "True");
            }
        },
        name: metadata::path_segment_name,
        prepare_update: |it, old| keep(it, old, "spec"),
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
        validate_status: |it, old, errors| {
            conditions(it, errors);
            same_decisions(it, old, errors);
        },
        validate_subresource: |_, it, _, errors| conditions(it, errors),
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
    let text = String::from_utf8_lossy(&bytes);
    let is_request = text.contains("-----BEGIN CERTIFICATE REQUEST-----")
        && text.contains("-----END CERTIFICATE REQUEST-----");
    if !is_request {
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        errors.invalid(&path.child("request"), &spec["request"], detail);
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
    conditions(request, errors);
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
    if name.len() > SIGNER_MAX {
        errors.too_long(&at, SIGNER_MAX);
    }
    errors.invalid_all(&at, domain, validation::dns1123_subdomain(domain));
    if domain.split('.').count() < 2 {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid_text(&at, domain, detail);
    }
    for part in rest.split('.') {
        errors.invalid_all(&at, part, validation::dns1123_subdomain(part));
    }
}

fn conditions(request: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    let mut seen = Vec::new();
    rules::each(&request["status"], "conditions", &path, errors, |condition, at, errors| {
        let kind = condition.str_at(&["type"]).to_owned();
        check::required_text(condition, "type", at, errors);
        let statuses: &[&str] = match kind.as_str() {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        rules::required_one_of(condition, "status", statuses, at, errors);
        if seen.contains(&kind) {
            errors.duplicate(&at.child("type"), &Value::from(kind.as_str()));
        }
        seen.push(kind);
    });
    if DECISIONS.iter().all(|it| seen.iter().any(|kind| kind == it)) {
        let shown = &request["status"]["conditions"];
        let detail = "Approved and Denied conditions are mutually exclusive";
        errors.invalid(&path.child("conditions"), shown, detail);
    }
}

/// What has been decided stays decided, and only an approval decides.
fn same_decisions(request: &Value, old: &Value, errors: &mut FieldErrors) {
    let decisions = |it: &Value| -> Vec<Value> {
        let all = it.items_at(&["status", "conditions"]).iter();
        all.filter(|it| DECISIONS.contains(&it.str_at(&["type"]))).cloned().collect()
    };
    if decisions(request) != decisions(old) {
        let path = Path::new("status");
        let detail = "updates may not add, change or remove Approved and Denied conditions";
        errors.forbidden(&path.child("conditions"), detail);
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
