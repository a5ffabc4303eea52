//! ClusterTrustBundle and PodCertificateRequest.

use std::collections::BTreeMap;

use apimachinery::{FieldErrors, Object, Path, Value, validation};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::certificatesigningrequest::signer_name;
use super::{pem, pod_certificate_status};
use crate::declaration::{Alternative, Declaration, FieldLabel, MetadataChecks, NameUse};
use crate::{Rules, metadata, rules, status};

const GROUP: &str = "certificates.k8s.io";
/// The shortest and the longest life of a certificate that may be asked for, in seconds.
const SECONDS: std::ops::RangeInclusive<i64> = 3_600..=7_862_400;
/// The longest of the cluster's own signers.
const KUBERNETES_SECONDS_MAX: i64 = 86_400;
/// The longest uid.
const UID_MAX: usize = 128;
/// The longest request for the sake of its key, in bytes (upstream's limit of the fields that it stands for).
const STUB_BYTES_MAX: usize = 10 << 10;
const ED25519: &str = "1.3.101.112";
const ELLIPTIC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
/// Its signatures are not verified: what verifies all others here does not know them.
const P521: &str = "1.3.132.0.35";

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
        row: |it, _| {
            let signer = it.str_at(&["spec", "signerName"]);
            let signer = if signer.is_empty() { "<none>" } else { signer };
            vec![it.str_at(&["metadata", "name"]).into(), signer.into()]
        },
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
    if let Some(said) = spec.get("unverifiedUserAnnotations").and_then(Value::as_object) {
        user_annotations(said, &path.child("unverifiedUserAnnotations"), errors);
    }
    for who in ["pod", "serviceAccount", "node"] {
        let (name, uid) = (format!("{who}Name"), format!("{who}UID"));
        let text = spec.str_at(&[&name]);
        errors.invalid_all(&path.child(&name), text, validation::dns1123_subdomain(text));
        match spec.str_at(&[&uid]) {
            "" => errors.invalid_text(&path.child(&uid), "", "must not be empty"),
            text if text.len() > UID_MAX => errors.too_long(&path.child(&uid), UID_MAX),
            _ => {}
        }
    }
    let at = path.child("maxExpirationSeconds");
    let Some(seconds) = spec.i64_at(&["maxExpirationSeconds"]) else {
        errors.required(&at, "must be set");
        return;
    };
    let most = match spec.str_at(&["signerName"]).starts_with("kubernetes.io/") {
        true => KUBERNETES_SECONDS_MAX,
        false => *SECONDS.end(),
    };
    if !(*SECONDS.start()..=most).contains(&seconds) {
        let detail = format!("must be in the range [{}, {most}]", SECONDS.start());
        errors.invalid(&at, &seconds.into(), &detail);
    }
    stub(spec.str_at(&["stubPKCS10Request"]), &path.child("stubPKCS10Request"), errors);
}

/// What users say besides: like annotations, and each under the name of a domain.
fn user_annotations(said: &Object, path: &Path<'_>, errors: &mut FieldErrors) {
    metadata::annotations(said, path, errors);
    for (key, _) in said.iter().filter(|(key, _)| !key.contains('/')) {
        let detail = "must be a domain-prefixed key (such as \"acme.io/foo\")";
        errors.invalid_text(path, key, detail);
    }
}

/// A request for a certificate that is there for its key alone, and for the proof that whoever asks has it.
fn stub(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let contents = BASE64_STANDARD.decode(text).unwrap_or_default();
    if contents.len() > STUB_BYTES_MAX {
        errors.too_long(path, STUB_BYTES_MAX);
        return;
    }
    let Ok((_, request)) = X509CertificationRequest::from_der(&contents) else {
        errors.invalid_text(path, text, "must be a valid PKCS#10 CSR");
        return;
    };
    let key = &request.certification_request_info.subject_pki;
    if let Some((shown, detail)) = unfit_key(key) {
        errors.invalid_text(path, &shown.unwrap_or_else(|| text.to_owned()), detail);
    } else if curve(key).as_deref() != Some(P521) && request.verify_signature().is_err() {
        errors.invalid_text(path, OMITTED, "could not verify the signature of the PKCS#10 CSR");
    }
}

/// The OID of a key's curve, where it has one.
fn curve(key: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    let parameters = key.algorithm.parameters.as_ref()?;
    (key.algorithm.algorithm.to_id_string() == ELLIPTIC)
        .then(|| parameters.as_oid().map(|it| it.to_id_string()).unwrap_or_default())
}

/// What is wrong with a key: what is shown of it, where it is not the request, and the words.
fn unfit_key(key: &SubjectPublicKeyInfo<'_>) -> Option<(Option<String>, &'static str)> {
    if key.algorithm.algorithm.to_id_string() == ED25519 {
        return None;
    }
    if let Some(curve) = curve(key) {
        let known = [P256, P384, P521].contains(&curve.as_str());
        let detail = "elliptic public keys must use curve P256 or P384";
        return (!known).then(|| (Some(format!("curve {curve}")), detail));
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if [3072, 4096].contains(&rsa.key_size()) => None,
        Ok(PublicKey::RSA(rsa)) => Some((
            Some(format!("{}-bit modulus", rsa.key_size())),
            "RSA keys must have modulus size 3072 or 4096",
        )),
        _ => Some((None, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")),
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

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

    #[test]
    fn requests_of_pods_prove_that_they_have_their_key() {
        let stub_of = |algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
        };
        let check = |change: &dyn Fn(&mut Value), expected: &[&str]| {
            let mut request = value!({"spec": {"signerName": "ex.com/s", "podName": "p", "podUID": "1",
                "serviceAccountName": "a", "serviceAccountUID": "2", "nodeName": "n", "nodeUID": "3",
                "maxExpirationSeconds": 90000}});
            let stub = BASE64_STANDARD.encode(stub_of(&rcgen::PKCS_ED25519));
            request.set_at(&["spec", "stubPKCS10Request"], stub);
            change(&mut request);
            let mut errors = FieldErrors::new();
            validate_request(&request, &mut errors);
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(all.len(), expected.len(), "{all:?}");
            for (told, expected) in all.iter().zip(expected) {
                assert!(told.contains(expected), "{told} is not {expected}");
            }
        };
        check(&|_| {}, &[]);
        let with = |stub: Vec<u8>| {
            move |it: &mut Value| {
                it.set_at(&["spec", "stubPKCS10Request"], BASE64_STANDARD.encode(&stub));
            }
        };
        check(&with(stub_of(&rcgen::PKCS_ECDSA_P384_SHA384)), &[]);
        let stub = "spec.stubPKCS10Request: Invalid value: ";
        check(&with(vec![0; 3]), &[&format!("{stub}\"AAAA\": must be a valid PKCS#10 CSR")]);
        let mut forged = stub_of(&rcgen::PKCS_ED25519);
        *forged.last_mut().unwrap() ^= 1;
        check(&with(forged), &["could not verify the signature"]);
        check(
            &|it| it.set_at(&["spec", "signerName"], "kubernetes.io/kube-apiserver-client-pod"),
            &["must be in the range [3600, 86400]"],
        );
        check(
            &|it| it.set_at(&["spec", "podUID"], ""),
            &["spec.podUID: Invalid value: \"\": must not"],
        );
        check(
            &|it| {
                it.set_at(&["spec", "unverifiedUserAnnotations"], value!({"a": "b", "c.d/e": ""}))
            },
            &[
                "spec.unverifiedUserAnnotations: Invalid value: \"a\": must be a domain-prefixed key",
            ],
        );
    }
}
