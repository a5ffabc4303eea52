//! ClusterTrustBundle and PodCertificateRequest.

use std::collections::BTreeMap;

use apimachinery::{FieldErrors, Path, Value, validation};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificatesigningrequest::signer_name;
use super::{pem, pod_certificate_status};
use crate::declaration::{Alternative, Declaration, FieldLabel, MetadataChecks, NameUse};
use crate::{Rules, check, metadata, rules, status};

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
        // By the signer: with the object.
        name: |_, _| Vec::new(),
        validate: validate_bundle,
        validate_update: |it, old, errors| {
            let path = Path::new("spec");
            rules::immutable(&it["spec"], &old["spec"], "signerName", &path, errors);
        },
        fields: BUNDLE_FIELDS,
        ..Declaration::PLAIN
    }
}

/// The most bytes of a bundle (upstream: `MaxTrustBundleSize`).
const MAX_BUNDLE_BYTES: usize = 1 << 20;
/// Bundles are not shown.
const OMITTED: &str = "<value omitted>";

fn validate_bundle(bundle: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &bundle["spec"];
    let (signer, name) = (spec.str_at(&["signerName"]), bundle.str_at(&["metadata", "name"]));
    if !name.is_empty() {
        for detail in bundle_name(signer, name) {
            errors.invalid_text(&Path::new("metadata").child("name"), name, &detail);
        }
    }
    if !signer.is_empty() {
        signer_name(spec, &path, errors);
    }
    anchors(spec.str_at(&["trustBundle"]), &path.child("trustBundle"), errors);
}

/// What is wrong with the name of a bundle: one that a signer vouches for begins with the signer's.
fn bundle_name(signer: &str, name: &str) -> Vec<String> {
    if signer.is_empty() {
        if name.contains(':') {
            return vec![
                "ClusterTrustBundle without signer name must not have \":\" in its name".into(),
            ];
        }
        return metadata::subdomain_name(name, NameUse::Name);
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => metadata::subdomain_name(rest, NameUse::Name),
        None => vec![format!(
            "ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"
        )],
    }
}

/// Every block is the certificate of an authority, and none is there twice (upstream: `validateTrustBundle`).
fn anchors(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if text.len() > MAX_BUNDLE_BYTES {
        errors.too_long(path, MAX_BUNDLE_BYTES);
        return;
    }
    let (mut seen, mut sound) = (BTreeMap::<Vec<u8>, Vec<usize>>::new(), true);
    for (index, block) in pem::all_blocks(text).into_iter().enumerate() {
        let problem = if block.label != pem::CERTIFICATE {
            format!("entry {index} has bad block type: {}", block.label)
        } else if block.has_headers {
            format!("entry {index} has PEM block headers")
        } else {
            match X509Certificate::from_der(&block.contents).ok().map(|it| it.1.is_ca()) {
                None => format!("entry {index} does not parse as X.509"),
                Some(false) => format!("entry {index} does not have the CA bit set"),
                Some(true) => {
                    seen.entry(block.contents).or_default().push(index);
                    continue;
                }
            }
        };
        sound = false;
        errors.invalid_text(path, OMITTED, &problem);
    }
    if !sound {
        return;
    }
    if seen.is_empty() {
        errors.invalid_text(path, OMITTED, "at least one trust anchor must be provided");
    }
    for indices in seen.values().filter(|it| it.len() > 1) {
        let all: Vec<String> = indices.iter().map(ToString::to_string).collect();
        let detail = format!("duplicate trust anchor (indices [{}])", all.join(" "));
        errors.invalid_text(path, OMITTED, &detail);
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
        metadata_checks: MetadataChecks::Update,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_named_after_their_signers() {
        for (signer, name, wrong) in [
            ("", "a.b", false),
            ("", "a:b", true),
            ("ex.com/foo", "ex.com:foo:a", false),
            ("ex.com/foo", "ex.com:bar:a", true),
            ("ex.com/foo", "ex.com:foo:A", true),
        ] {
            assert_eq!(!bundle_name(signer, name).is_empty(), wrong, "{signer} {name}");
        }
    }

    #[test]
    fn bundles_hold_authorities_each_once() {
        let made = |ca: bool| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            if ca {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            }
            params.self_signed(&key).unwrap().pem()
        };
        let (ca, leaf) = (made(true), made(false));
        let headed = ca.replacen(
            "-----BEGIN CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nA: b\n\n",
            1,
        );
        let check = |text: &str, expected: &str| {
            let mut errors = FieldErrors::new();
            anchors(text, &Path::new("t"), &mut errors);
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert!(
                all.join("\n").ends_with(expected) && all.is_empty() == expected.is_empty(),
                "{all:?}"
            );
        };
        check(&format!("note: this\n{ca}"), "");
        check("", "at least one trust anchor must be provided");
        check(&format!("{ca}{leaf}"), "entry 1 does not have the CA bit set");
        check(&format!("{ca}{ca}"), "duplicate trust anchor (indices [0 1])");
        check(&headed, "entry 0 has PEM block headers");
        check(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "entry 0 does not parse as X.509",
        );
    }
}
