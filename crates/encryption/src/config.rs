//! `EncryptionConfiguration` of `apiserver.config.k8s.io/v1`: which resources are encrypted, and by what. Read strictly.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use apimachinery::shape::{self, Shape};
use apimachinery::{FieldErrors, Path, Value};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

/// A resource of a group; `*` for any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupResource {
    /// The group; empty for the core one.
    pub group: String,
    /// The plural name.
    pub resource: String,
}

impl GroupResource {
    /// `deployments.apps`
    pub(crate) fn parse(text: &str) -> Self {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        Self { group: group.to_owned(), resource: resource.to_owned() }
    }
}

impl std::fmt::Display for GroupResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { group, resource } = self;
        if group.is_empty() { f.write_str(resource) } else { write!(f, "{resource}.{group}") }
    }
}

/// Resources, and what they are kept by.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) resources: Vec<GroupResource>,
    pub(crate) providers: Vec<ProviderConfig>,
}

/// A cipher by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CipherKind {
    AesGcm,
    AesCbc,
    Secretbox,
}

#[derive(Debug)]
pub(crate) enum ProviderConfig {
    Identity,
    Keys { kind: CipherKind, keys: Vec<(String, Key)> },
    Kms { name: String, socket: PathBuf, timeout: Duration },
}

/// A key, which is shown to nobody.
pub(crate) struct Key(pub(crate) Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

const KEYS: Shape = Shape::Object(&[(
    "keys",
    Shape::List(&Shape::Object(&[("name", Shape::Text), ("secret", Shape::Text)])),
)]);
const PROVIDER: Shape = Shape::Object(&[
    ("aesgcm", KEYS),
    ("aescbc", KEYS),
    ("secretbox", KEYS),
    ("identity", Shape::Object(&[])),
    (
        "kms",
        Shape::Object(&[
            ("apiVersion", Shape::Text),
            ("name", Shape::Text),
            ("cachesize", Shape::Integer),
            ("endpoint", Shape::Text),
            ("timeout", Shape::Text),
        ]),
    ),
]);
const FILE: Shape = Shape::Object(&[
    ("apiVersion", Shape::Text),
    ("kind", Shape::Text),
    (
        "resources",
        Shape::List(&Shape::Object(&[
            ("resources", Shape::List(&Shape::Text)),
            ("providers", Shape::List(&PROVIDER)),
        ])),
    ),
]);

/// The providers in the order that decides which of several is told.
const PROVIDERS: [&str; 5] = ["kms", "aesgcm", "aescbc", "secretbox", "identity"];
/// How long a plugin is waited for, where nothing else is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

/// Reads a file.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Entry>, String> {
    let config = shape::read(text, FILE)?;
    let (version, kind) = (config.str_at(&["apiVersion"]), config.str_at(&["kind"]));
    if (version, kind) != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration") {
        return Err(format!(
            "no kind {kind:?} is registered for version {version:?}; it must be an EncryptionConfiguration of apiserver.config.k8s.io/v1"
        ));
    }
    let mut errors = FieldErrors::new();
    let entries = config.items_at(&["resources"]);
    validate(entries, &mut errors);
    if !errors.is_empty() {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(if all.len() == 1 { all.concat() } else { format!("[{}]", all.join(", ")) });
    }
    entries.iter().map(entry).collect()
}

/// Of one that was validated.
fn entry(entry: &Value) -> Result<Entry, String> {
    let resources = texts(entry).map(GroupResource::parse).collect();
    let providers = entry.items_at(&["providers"]).iter().map(provider);
    Ok(Entry { resources, providers: providers.collect::<Result<_, _>>()? })
}

fn texts(entry: &Value) -> impl Iterator<Item = &str> {
    entry.items_at(&["resources"]).iter().filter_map(Value::as_str)
}

fn has(provider: &Value, name: &str) -> bool {
    provider.get(name).is_some_and(|it| !it.is_null())
}

fn provider(provider: &Value) -> Result<ProviderConfig, String> {
    if has(provider, "kms") {
        let text = |member| provider.str_at(&["kms", member]);
        let name = text("name").to_owned();
        if text("apiVersion") != "v2" {
            return Err(format!(
                "could not configure KMS plugin {name:?}: KMS v1 is not built here; use apiVersion v2"
            ));
        }
        let socket = text("endpoint").trim_start_matches("unix://").into();
        return Ok(ProviderConfig::Kms { name, socket, timeout: timeout(text("timeout"))? });
    }
    let kinds = [
        ("aesgcm", CipherKind::AesGcm),
        ("aescbc", CipherKind::AesCbc),
        ("secretbox", CipherKind::Secretbox),
    ];
    let Some((name, kind)) = kinds.into_iter().find(|(name, _)| has(provider, name)) else {
        return Ok(ProviderConfig::Identity);
    };
    let keys = provider.items_at(&[name, "keys"]).iter().map(|key| {
        let secret = BASE64_STANDARD.decode(key.str_at(&["secret"]));
        let secret = secret.map_err(|error| error.to_string())?;
        Ok((key.str_at(&["name"]).to_owned(), Key(Zeroizing::new(secret))))
    });
    Ok(ProviderConfig::Keys { kind, keys: keys.collect::<Result<_, String>>()? })
}

fn timeout(text: &str) -> Result<Duration, String> {
    if text.is_empty() {
        return Ok(DEFAULT_TIMEOUT);
    }
    let parsed =
        apimachinery::duration::Duration::parse(text).map_err(|error| error.to_string())?;
    Ok(Duration::from_nanos(u64::try_from(parsed.as_nanos()).unwrap_or_default()))
}

fn validate(entries: &[Value], errors: &mut FieldErrors) {
    let root = Path::new("resources");
    let at_least_one = |path: &Path<'_>| format!("at least one {path} is required");
    if entries.is_empty() {
        errors.required(&root, &at_least_one(&root));
    }
    let mut kms_names = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = root.index(index);
        let (resources, providers) = (path.child("resources"), path.child("providers"));
        if entry.items_at(&["resources"]).is_empty() {
            errors.required(&resources, &at_least_one(&resources));
        }
        validate_overlap(entry, &resources, errors);
        for (index, resource) in texts(entry).enumerate() {
            if let Some(why) = wrong_resource(resource) {
                errors.invalid_text(&resources.index(index), resource, why);
            }
        }
        let all = entry.items_at(&["providers"]);
        if all.is_empty() {
            errors.required(&providers, &at_least_one(&providers));
        }
        for (index, provider) in all.iter().enumerate() {
            validate_provider(provider, &providers.index(index), &mut kms_names, errors);
        }
    }
}

fn validate_overlap(entry: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let all: Vec<GroupResource> = texts(entry).map(GroupResource::parse).collect();
    let (mut is_twice, mut overlaps) = (false, false);
    for (index, one) in all.iter().enumerate() {
        for other in all.iter().enumerate().filter(|it| it.0 != index).map(|it| it.1) {
            let everything = one.group == "*" && one.resource == "*";
            let wild = one.resource == "*" || other.resource == "*";
            is_twice |= one == other;
            overlaps |= one != other && (everything || (one.group == other.group && wild));
        }
    }
    let value = entry.get("resources").cloned().unwrap_or_default();
    if is_twice {
        errors.invalid(path, &value, "the same resource cannot be specified multiple times");
    }
    if overlaps {
        let why = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
        errors.invalid(path, &value, why);
    }
}

fn wrong_resource(text: &str) -> Option<&'static str> {
    let GroupResource { group, resource } = GroupResource::parse(text);
    if text.chars().any(char::is_uppercase) {
        return Some("resource name should not contain capital letters");
    }
    if text == "*" {
        return Some(
            "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
        );
    }
    if matches!(text, "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations") {
        return Some("resources which do not have REST API/s cannot be encrypted");
    }
    match (group.as_str(), resource.as_str()) {
        ("events.k8s.io", _) => Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        ),
        ("extensions", _) => {
            Some("'extensions' group has been removed and cannot be used for encryption")
        }
        ("*", resource) if resource != "*" => {
            Some("encrypting the same resource across groups is not supported")
        }
        _ => None,
    }
}

fn validate_provider(
    provider: &Value,
    path: &Path<'_>,
    kms_names: &mut BTreeSet<String>,
    errors: &mut FieldErrors,
) {
    let given: Vec<&str> = PROVIDERS.into_iter().filter(|it| has(provider, it)).collect();
    let name = match given.as_slice() {
        [name] => *name,
        [] => {
            let why = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";
            errors.invalid(path, &Value::object(), why);
            return;
        }
        [..] => {
            // What stands in it is secret.
            let value: Value = given.into_iter().collect();
            let why = "more than one provider specified in a single element, should split into different list elements";
            errors.invalid(path, &value, why);
            return;
        }
    };
    let own = path.child(name);
    match name {
        "kms" => validate_kms(&provider["kms"], &own, kms_names, errors),
        "secretbox" => validate_keys(&provider[name], &own.child("keys"), &[32], errors),
        "aesgcm" | "aescbc" => {
            validate_keys(&provider[name], &own.child("keys"), &[16, 24, 32], errors);
        }
        _ => {}
    }
}

fn validate_keys(provider: &Value, path: &Path<'_>, lengths: &[usize], errors: &mut FieldErrors) {
    let keys = provider.items_at(&["keys"]);
    if keys.is_empty() {
        errors.required(path, "at least one keys is required");
    }
    for (index, key) in keys.iter().enumerate() {
        let path = path.index(index);
        if key.str_at(&["name"]).is_empty() {
            errors.required(&path.child("name"), "name is a mandatory field for a key");
        }
        let (secret, at) = (key.str_at(&["secret"]), path.child("secret"));
        if secret.is_empty() {
            errors.required(&at, "secret is a mandatory field for a key");
            continue;
        }
        match BASE64_STANDARD.decode(secret) {
            Err(_) => errors.invalid_text(&at, "REDACTED", "secrets must be base64 encoded"),
            Ok(bytes) if !lengths.contains(&bytes.len()) => {
                let all: Vec<String> = lengths.iter().map(ToString::to_string).collect();
                let why = format!(
                    "secret is not of the expected length, got {}, expected one of [{}]",
                    bytes.len(),
                    all.join(" ")
                );
                errors.invalid_text(&at, "REDACTED", &why);
            }
            Ok(_) => {}
        }
    }
}

fn validate_kms(
    kms: &Value,
    path: &Path<'_>,
    names: &mut BTreeSet<String>,
    errors: &mut FieldErrors,
) {
    let text = |member| kms.str_at(&[member]);
    let version = if text("apiVersion").is_empty() { "v1" } else { text("apiVersion") };
    let (name, at) = (text("name"), path.child("name"));
    if name.is_empty() {
        errors.required(&at, "name is a mandatory field for a provider");
    }
    if version != "v1" && name.contains(':') {
        let why = format!("invalid KMS provider name {name}, must not contain ':'");
        errors.invalid_text(&at, name, &why);
    }
    if !names.insert(name.to_owned()) {
        let why = format!("duplicate KMS provider name {name}, names must be unique");
        errors.invalid_text(&at, name, &why);
    }
    if timeout(text("timeout")).is_ok_and(|it| it.is_zero()) || timeout(text("timeout")).is_err() {
        let why = "timeout should be a positive value";
        errors.invalid_text(&path.child("timeout"), text("timeout"), why);
    }
    let (endpoint, at) = (text("endpoint"), path.child("endpoint"));
    let scheme = endpoint.split_once("://").map_or("", |it| it.0);
    if endpoint.is_empty() {
        errors.invalid_text(&at, "", "endpoint is a mandatory field for a kms");
    } else if scheme != "unix" {
        let why = format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
        errors.invalid_text(&at, endpoint, &why);
    }
    if version != "v1" && kms.get("cachesize").is_some_and(|it| !it.is_null()) {
        let why = "cachesize is not supported in v2";
        errors.invalid(&path.child("cachesize"), &kms["cachesize"], why);
    }
    if !matches!(version, "v1" | "v2") {
        let why =
            "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
        errors.invalid_text(&path.child("apiVersion"), version, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(resources: &str) -> String {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: {resources}"
        );
        match parse(text.as_bytes()) {
            Ok(entries) => format!("{} good", entries.len()),
            Err(why) => why,
        }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn a_configuration_is_read_strictly() {
        let one = |provider: &str| format!("[{{resources: [secrets], providers: [{provider}]}}]");
        let of = |resources: &str| {
            format!("[{{resources: [{resources}], providers: [identity: {{}}]}}]")
        };
        let key = BASE64_STANDARD.encode([1; 32]);
        for (resources, expected) in [
            (one("identity: {}"), "1 good".to_owned()),
            (one(&format!("aescbc: {{keys: [{{name: k, secret: {key}}}]}}")), "1 good".into()),
            (one("kms: {apiVersion: v2, name: vault, endpoint: 'unix:///s', timeout: 1s}"), "1 good".into()),
            (of("'*.apps', secrets, 'pandas.awesome.bears.example'"), "1 good".into()),
            ("[]".into(), "resources: Required value: at least one resources is required".into()),
            ("[{resources: [], providers: []}]".into(), "[resources[0].resources: Required value: at least one resources[0].resources is required, resources[0].providers: Required value: at least one resources[0].providers is required]".into()),
            ("[{resource: []}]".into(), "strict decoding error: unknown field \"resources[0].resource\"".into()),
            (one("identity: {x: y}"), "strict decoding error: unknown field \"resources[0].providers[0].identity.x\"".into()),
            (one("{}"), "resources[0].providers[0]: Invalid value: {}: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity".into()),
            (one("{identity: {}, aesgcm: {}}"), "resources[0].providers[0]: Invalid value: [\"aesgcm\",\"identity\"]: more than one provider specified in a single element, should split into different list elements".into()),
            (one("aesgcm: {keys: []}"), "resources[0].providers[0].aesgcm.keys: Required value: at least one keys is required".into()),
            (one("aesgcm: {keys: [{}]}"), "[resources[0].providers[0].aesgcm.keys[0].name: Required value: name is a mandatory field for a key, resources[0].providers[0].aesgcm.keys[0].secret: Required value: secret is a mandatory field for a key]".into()),
            (one("aescbc: {keys: [{name: k, secret: '?'}]}"), "resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secrets must be base64 encoded".into()),
            (one("secretbox: {keys: [{name: k, secret: AAAA}]}"), "resources[0].providers[0].secretbox.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 3, expected one of [32]".into()),
            (one("kms: {apiVersion: v2, endpoint: 'tcp://a', timeout: 0s, name: 'a:b', cachesize: 1}"), "[resources[0].providers[0].kms.name: Invalid value: \"a:b\": invalid KMS provider name a:b, must not contain ':', resources[0].providers[0].kms.timeout: Invalid value: \"0s\": timeout should be a positive value, resources[0].providers[0].kms.endpoint: Invalid value: \"tcp://a\": unsupported scheme \"tcp\" for KMS provider, only unix is supported, resources[0].providers[0].kms.cachesize: Invalid value: 1: cachesize is not supported in v2]".into()),
            (one("kms: {name: vault, endpoint: 'unix:///s'}"), "could not configure KMS plugin \"vault\": KMS v1 is not built here; use apiVersion v2".into()),
            (of("Secrets"), "resources[0].resources[0]: Invalid value: \"Secrets\": resource name should not contain capital letters".into()),
            (of("'*'"), "resources[0].resources[0]: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources".into()),
            (of("'secrets.*'"), "resources[0].resources[0]: Invalid value: \"secrets.*\": encrypting the same resource across groups is not supported".into()),
            (of("secrets, secrets"), "resources[0].resources: Invalid value: [\"secrets\",\"secrets\"]: the same resource cannot be specified multiple times".into()),
            (of("secrets, '*.'"), "resources[0].resources: Invalid value: [\"secrets\",\"*.\"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked".into()),
            (of("events.events.k8s.io"), "resources[0].resources[0]: Invalid value: \"events.events.k8s.io\": '*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file".into()),
        ] {
            assert_eq!(said(&resources), expected, "{resources}");
        }
        let error = parse(b"kind: Pod").unwrap_err();
        assert!(error.starts_with("no kind \"Pod\" is registered for version \"\""), "{error}");
    }
}
