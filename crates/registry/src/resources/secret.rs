//! Secret: what is written as text becomes data, which is what is stored.

use apimachinery::{FieldErrors, Object, Path, Value, validation, value};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;

use super::pem;
use crate::declaration::{Declaration, FieldLabel};
use crate::table;

/// The most that a secret may hold, in bytes.
const MAX_DATA_BYTES: usize = 1 << 20;

/// Says whose token a secret holds.
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

/// The selectable fields.
const FIELDS: &[FieldLabel] = &[FieldLabel::new("type", |it| it.str_at(&["type"]).into())];

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "secrets",
        warnings: |it, _| warnings(it),
        default,
        validate,
        validate_update,
        fields: FIELDS,
        row,
        ..Declaration::PLAIN
    }
}

fn default(value: &mut Value) {
    value.default_at(&["type"], "Opaque");
    let Some(Value::Object(texts)) = value.remove_at(&["stringData"]) else { return };
    for (key, text) in texts {
        let encoded = BASE64_STANDARD.encode(text.as_str().unwrap_or_default());
        value.object_at_mut(&["data"]).insert(key, encoded);
    }
}

fn validate(value: &Value, errors: &mut FieldErrors) {
    let data = Path::new("data");
    let mut total = 0;
    for (key, bytes) in
        value.get("data").and_then(Value::as_object).into_iter().flat_map(|it| it.iter())
    {
        errors.invalid_all(&data.key(key), key, validation::config_map_key(key));
        total += bytes.as_str().map_or(0, |text| text.len() / 4 * 3);
    }
    if total > MAX_DATA_BYTES {
        errors.too_long(&data, MAX_DATA_BYTES);
    }
    by_type(value, &data, errors);
}

/// What a secret of a type that Kubernetes knows must hold.
fn by_type(secret: &Value, data: &Path<'_>, errors: &mut FieldErrors) {
    // A key whose bytes are null is there.
    let members = secret.get("data").and_then(Value::as_object);
    let given = |key: &str| members.is_some_and(|it| it.contains_key(key));
    match secret.str_at(&["type"]) {
        "kubernetes.io/service-account-token" => {
            let account = ["metadata", "annotations", ACCOUNT_NAME];
            if secret.str_at(&account).is_empty() {
                let (metadata, annotations) = (Path::new("metadata"), "annotations");
                errors.required(&metadata.child(annotations).key(ACCOUNT_NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => holds_json(members, ".dockercfg", data, errors),
        "kubernetes.io/dockerconfigjson" => holds_json(members, ".dockerconfigjson", data, errors),
        "kubernetes.io/basic-auth" if !given("username") && !given("password") => {
            for key in ["username", "password"] {
                errors.required(&data.key(key), "");
            }
        }
        "kubernetes.io/ssh-auth" if secret.str_at(&["data", "ssh-privatekey"]).is_empty() => {
            errors.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"].into_iter().filter(|key| !given(key)) {
                errors.required(&data.key(key), "");
            }
        }
        _ => {}
    }
}

fn holds_json(members: Option<&Object>, key: &str, data: &Path<'_>, errors: &mut FieldErrors) {
    let at = data.key(key);
    let Some(encoded) = members.and_then(|it| it.get(key)) else {
        errors.required(&at, "");
        return;
    };
    let encoded = encoded.as_str().unwrap_or_default();
    let bytes = BASE64_STANDARD.decode(encoded).unwrap_or_default();
    if let Err(error) = apimachinery::json::parse(&bytes) {
        errors.invalid_text(&at, "<secret contents redacted>", &error.to_string());
    }
}

fn validate_update(value: &Value, old: &Value, errors: &mut FieldErrors) {
    if value.get("type") != old.get("type") {
        let kind = value.get("type").cloned().unwrap_or_default();
        errors.invalid(&Path::new("type"), &kind, "field is immutable");
    }
    if !old.bool_at(&["immutable"]) {
        return;
    }
    if !value.bool_at(&["immutable"]) {
        errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
    }
    if value.get("data") != old.get("data") {
        errors.forbidden(&Path::new("data"), "field is immutable when `immutable` is set");
    }
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    let count = value.get("data").and_then(Value::as_object).map_or(0, apimachinery::Object::len);
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let name = value.str_at(&["metadata", "name"]);
    vec![name.into(), value.str_at(&["type"]).into(), value!(count), table::created(value, now)]
}

/// What Go's `tls.X509KeyPair` says of a certificate and a key, as far as their frames go.
fn warnings(secret: &Value) -> Vec<String> {
    if secret.str_at(&["type"]) != "kubernetes.io/tls" {
        return Vec::new();
    }
    let begins = |member: &str| -> Vec<String> {
        let text = BASE64_STANDARD.decode(secret.str_at(&["data", member])).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines = text.lines().filter_map(|it| it.trim().strip_prefix("-----BEGIN "));
        lines.filter_map(|it| it.strip_suffix("-----")).map(str::to_owned).collect()
    };
    let (certificate, key) = (begins("tls.crt"), begins("tls.key"));
    let is_key = |it: &String| it == "PRIVATE KEY" || it.ends_with(" PRIVATE KEY");
    let said = if certificate.is_empty() {
        "tls: failed to find any PEM data in certificate input".to_owned()
    } else if !certificate.iter().any(|it| it == "CERTIFICATE") {
        if certificate.len() == 1 && is_key(&certificate[0]) {
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".to_owned()
        } else {
            format!(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]",
                certificate.join(" ")
            )
        }
    } else if key.is_empty() {
        "tls: failed to find any PEM data in key input".to_owned()
    } else if !key.iter().any(is_key) {
        if key.len() == 1 && key[0] == "CERTIFICATE" {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        } else {
            format!(
                "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
                key.join(" ")
            )
        }
    } else {
        return mismatch(secret).map(str::to_owned).into_iter().collect();
    };
    vec![said]
}

/// What is wrong with a key and the certificate that is to be of it, both of which can be found.
fn mismatch(secret: &Value) -> Option<&'static str> {
    let text = |member: &str| BASE64_STANDARD.decode(secret.str_at(&["data", member])).ok();
    let (certificates, keys) = (pem::blocks(&text("tls.crt")?), pem::blocks(&text("tls.key")?));
    let certificate = certificates.iter().find(|it| it.label == "CERTIFICATE")?;
    let Some(certificate) = pem::certificate(certificate) else {
        return Some("x509: malformed certificate");
    };
    let key = keys.iter().find(|it| it.label.ends_with("PRIVATE KEY"))?;
    let (kind, public) = pem::public_key(key)?;
    let subject = certificate.public_key();
    let same_kind = subject.algorithm.algorithm.to_id_string() == kind;
    if !same_kind {
        return Some("tls: private key type does not match public key type");
    }
    let same = subject.subject_public_key.data.as_ref() == public.as_slice();
    (!same).then_some("tls: private key does not match public key")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIBLjCB4aADAgECAhR2OZKzY8/D9EmSMj1QmOJnZX+30TAFBgMrZXAwDDEKMAgG\nA1UEAwwBYTAgFw0yNjExMjgwMzUzMzRaGA8yMTI2MTEwNDAzNTMzNFowDDEKMAgG\nA1UEAwwBYTAqMAUGAytlcAMhAOoD8cofQG9G0p9sDR+9zaPCmAReKrjJoH9FwVKJ\nt6wQo1MwUTAdBgNVHQ4EFgQUq4jz6x8Oh6JkbPDC8ZvUDckV/C8wHwYDVR0jBBgw\nFoAUq4jz6x8Oh6JkbPDC8ZvUDckV/C8wDwYDVR0TAQH/BAUwAwEB/zAFBgMrZXAD\nQQD4nPzJTiu3eshmgLn3O2oI5De1KvCgjXOFdHh5xb3ETWab3RhBw6i3F53PFq23\nUizxtQ7PVCEphsKDdkCMGtoF\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIMIgwENNZl54pFifxALSL3Rdg12nEbK+T6NEc1XZvo9U\n-----END PRIVATE KEY-----\n";
    const OTHER_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIBtKkG2drj1Mt2FQA3yYvAiRsJoT7CRTAHhOUsV0ulKr\n-----END PRIVATE KEY-----\n";
    const ELLIPTIC_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgQ+5DRZSfACgQ9WxB\nPptDUqFcukoX8KGSxz38+KxRVc6hRANCAAQZ2HCuj3n5Hehw2jumPBR9yPf1NQEO\nVK6ALNTlrlLB5wzGOWm6umt8sdGPIwAyxR7Qjz3uavE78WfPBus9Kjrq\n-----END PRIVATE KEY-----\n";

    #[test]
    fn a_key_that_does_not_belong_to_its_certificate_is_warned_of() {
        let check = |certificate: &str, key: &str, expected: &[&str]| {
            let encoded = |text: &str| BASE64_STANDARD.encode(text);
            let secret = value!({"type": "kubernetes.io/tls",
                "data": {"tls.crt": (encoded(certificate)), "tls.key": (encoded(key))}});
            assert_eq!(warnings(&secret), expected);
        };
        check(CERTIFICATE, KEY, &[]);
        check(CERTIFICATE, OTHER_KEY, &["tls: private key does not match public key"]);
        let other = "tls: private key type does not match public key type";
        check(CERTIFICATE, ELLIPTIC_KEY, &[other]);
        check("", KEY, &["tls: failed to find any PEM data in certificate input"]);
    }
}
