//! ClusterTrustBundle and PodCertificateRequest.

use apimachinery::{FieldErrors, Path, Value, validation};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::certificatesigningrequest::signer_name;
use super::pod_certificate_status;
use crate::declaration::{Alternative, Declaration, FieldLabel};
use crate::{Rules, check, rules, status};

const GROUP: &str = "certificates.k8s.io";
/// The shortest and the longest life of a certificate that may be asked for, in seconds.
const SECONDS: std::ops::RangeInclusive<i64> = 3_600..=7_862_400;

const SIGNER: FieldLabel =
    FieldLabel::new("spec.signerName", |it| it.str_at(&["spec", "signerName"]).into());
const BUNDLE_FIELDS: &[FieldLabel] = &[SIGNER];
const REQUEST_FIELDS: &[FieldLabel] = &[
    SIGNER,
    FieldLabel::new("spec.podName", |it| it.str_at(&["spec", "podName"]).into()),
    FieldLabel::new("spec.nodeName", |it| it.str_at(&["spec", "nodeName"]).into()),
];

pub(super) fn trust_bundle() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "clustertrustbundles",
        alternatives: const { &[Alternative::same(GROUP, "v1beta1")] },
        validate: validate_bundle,
        validate_update: |it, old, errors| {
            let path = Path::new("spec");
            rules::immutable(&it["spec"], &old["spec"], "signerName", &path, errors);
        },
        fields: BUNDLE_FIELDS,
        ..Declaration::PLAIN
    }
}

fn validate_bundle(bundle: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &bundle["spec"];
    let (signer, name) = (spec.str_at(&["signerName"]), bundle.str_at(&["metadata", "name"]));
    if !signer.is_empty() {
        signer_name(spec, &path, errors);
        let prefix = format!("{}:", signer.replace('/', ":"));
        if !name.is_empty() && !name.starts_with(&prefix) {
            let detail = format!(
                "ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"
            );
            errors.invalid_text(&Path::new("metadata").child("name"), name, &detail);
        }
    }
    let at = path.child("trustBundle");
    let text = spec.str_at(&["trustBundle"]);
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        errors.invalid_text(&at, "<value omitted>", "at least one trust anchor must be provided");
    }
}

pub(super) fn pod_certificate_request() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "podcertificaterequests",
        default: |it| {
            it.default_at(&["spec", "maxExpirationSeconds"], 86_400);
        },
        validate: validate_request,
        validate_update: |it, old, errors| {
            let root = Path::new("");
            rules::immutable(it, old, "spec", &root, errors);
        },
        prepare_status: status::keep_metadata,
        validate_status: pod_certificate_status::validate,
        fields: REQUEST_FIELDS,
        rules: Rules { has_status: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn validate_request(request: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &request["spec"];
    signer_name(spec, &path, errors);
    for member in ["podName", "serviceAccountName", "nodeName"] {
        check::required_name(spec, member, validation::dns1123_subdomain, &path, errors);
    }
    for member in ["podUID", "serviceAccountUID", "nodeUID"] {
        check::required_text(spec, member, &path, errors);
    }
    let at = path.child("maxExpirationSeconds");
    match spec.i64_at(&["maxExpirationSeconds"]) {
        None => errors.required(&at, "must be set"),
        Some(seconds) if !SECONDS.contains(&seconds) => {
            let detail = format!("must be in the range [{}, {}]", SECONDS.start(), SECONDS.end());
            errors.invalid(&at, &seconds.into(), &detail);
        }
        Some(_) => {}
    }
    let proof = BASE64_STANDARD.decode(spec.str_at(&["proofOfPossession"])).unwrap_or_default();
    let newer = !spec.str_at(&["stubPKCS10Request"]).is_empty();
    if proof.is_empty() && !newer {
        errors.required(&path.child("proofOfPossession"), "");
    }
}
