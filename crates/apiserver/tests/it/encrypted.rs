//! Objects that are kept encrypted, through the whole server and on disk.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use apimachinery::{Value, value};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use component_base::{RealClock, SystemRandom};
use encryption::{EncryptedStore, GroupResource, Layout, Parts};
use storage::Store;
use storage_embedded::EmbeddedStore;
use tempfile::NamedTempFile;

use crate::cluster::{Cluster, With, admin, memory};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
/// What must not be found on disk.
const HIDDEN: &str = "nobody-may-read-this";

fn config(providers: &str) -> NamedTempFile {
    let key = |number: u8| BASE64_STANDARD.encode([number; 32]);
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
         - resources: [secrets, '*.example.com']\n  providers: {}\n",
        providers.replace("KEY1", &key(1)).replace("KEY2", &key(2))
    );
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

async fn encrypted(inner: Arc<dyn Store>, providers: &str) -> Arc<dyn Store> {
    let file = config(providers);
    let secrets = GroupResource { group: String::new(), resource: "secrets".into() };
    let parts = Parts {
        clock: Arc::new(RealClock),
        random: Arc::new(SystemRandom::new()),
        layout: Arc::new(Layout::new([("/registry/secrets/".to_owned(), secrets)])),
        server: "me".to_owned(),
    };
    Arc::new(EncryptedStore::start(inner, file.path(), parts).await.unwrap())
}

async fn cluster(inner: &Arc<dyn Store>, providers: &str) -> Cluster {
    Cluster::on(encrypted(Arc::clone(inner), providers).await, With::default()).await
}

fn secret(name: &str) -> Value {
    value!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
        "data": {"key": (BASE64_STANDARD.encode(HIDDEN))}})
}

/// Whether any file below a directory holds a text.
fn holds(directory: &Path, text: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, text);
        }
        std::fs::read(path).unwrap().windows(text.len()).any(|it| it == text)
    })
}

#[tokio::test]
async fn the_disk_does_not_know_what_a_secret_says_and_a_restart_does() {
    let directory = tempfile::tempdir().unwrap();
    let open = async || {
        let options = storage_embedded::Options::new(
            directory.path().to_owned(),
            Arc::new(|why: &str| panic!("the store has failed: {why}")),
        );
        // Tasks of the server before let go of the directory a moment after it.
        for _ in 0..1_000 {
            if let Ok(store) = EmbeddedStore::open(&options) {
                return Arc::new(store) as Arc<dyn Store>;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("the directory stays locked");
    };
    let providers = "[aescbc: {keys: [{name: one, secret: KEY1}]}, identity: {}]";
    let inner = open().await;
    let first = cluster(&inner, providers).await;
    first.done(&format!("POST {SECRETS}"), Some(&secret("s"))).await;
    let patch = value!({"metadata": {"labels": {"a": "b"}}});
    first.done(&format!("PATCH {SECRETS}/s"), Some(&patch)).await;
    let mut watch = first.watch(&format!("{SECRETS}?watch=1")).await;
    let seen = futures::StreamExt::next(&mut watch).await.unwrap();
    assert_eq!(seen.str_at(&["object", "data", "key"]), BASE64_STANDARD.encode(HIDDEN));
    drop((watch, first));
    drop(inner);
    for text in [HIDDEN.to_owned(), BASE64_STANDARD.encode(HIDDEN)] {
        assert!(!holds(directory.path(), text.as_bytes()));
    }
    assert!(holds(directory.path(), b"k8s:enc:aescbc:v1:one:"));
    assert!(
        holds(directory.path(), b"kube-root-ca.crt") || holds(directory.path(), b"kube-system")
    );
    let inner = open().await;
    let again = cluster(&inner, providers).await;
    for path in [format!("GET {SECRETS}/s"), format!("GET {SECRETS}?fieldSelector=metadata.name=s")]
    {
        let found = again.done(&path, None).await;
        let found = found.items_at(&["items"]).first().cloned().unwrap_or(found);
        assert_eq!(found.str_at(&["data", "key"]), BASE64_STANDARD.encode(HIDDEN));
        assert_eq!(found.str_at(&["metadata", "labels", "a"]), "b");
    }
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_what_is_stale() {
    let inner = memory();
    let one = "[aescbc: {keys: [{name: one, secret: KEY1}]}]";
    let two = "[aescbc: {keys: [{name: two, secret: KEY2}, {name: one, secret: KEY1}]}]";
    let first = cluster(&inner, one).await;
    let made = first.done(&format!("POST {SECRETS}"), Some(&secret("s"))).await;
    let version = |it: &Value| it.str_at(&["metadata", "resourceVersion"]).to_owned();
    let same = first.done(&format!("PUT {SECRETS}/s"), Some(&made)).await;
    assert_eq!(version(&same), version(&made), "nothing is stale");
    drop(first);
    let second = cluster(&inner, two).await;
    let found = second.done(&format!("GET {SECRETS}/s"), None).await;
    let written = second.done(&format!("PUT {SECRETS}/s"), Some(&found)).await;
    assert_ne!(version(&written), version(&found), "the other key is the first now");
    let same = second.done(&format!("PUT {SECRETS}/s"), Some(&written)).await;
    assert_eq!(version(&same), version(&written));
    let (kv, _) =
        inner.get(&"/registry/secrets/default/s".into(), storage::At::Latest).await.unwrap();
    assert!(kv.unwrap().value.starts_with(b"k8s:enc:aescbc:v1:two:"));
}

const ONE: &str = "[aesgcm: {keys: [{name: one, secret: KEY1}]}, identity: {}]";
const TWO: &str = "[aesgcm: {keys: [{name: two, secret: KEY2}]}, identity: {}]";
/// What it says of a secret of another key.
const WHY: &str = "no matching key was found for the provided AES-GCM transformer";
const OPTION: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// A store with a secret in it that servers with the second key cannot read, and a config map.
async fn with_secret() -> Arc<dyn Store> {
    let inner = memory();
    let first = cluster(&inner, ONE).await;
    first.done(&format!("POST {SECRETS}"), Some(&secret("s"))).await;
    let map = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    first.done("POST /api/v1/namespaces/default/configmaps", Some(&map)).await;
    inner
}

/// A server with the second key and these gates.
async fn other(inner: &Arc<dyn Store>, gates: &str) -> Cluster {
    let mut features = component_base::feature_gates::FeatureGates::default();
    features.set(gates).unwrap();
    let operating = apiserver::Operating { features: features.into(), ..Default::default() };
    let with = With { operating: Some(operating), ..With::default() };
    Cluster::on(encrypted(Arc::clone(inner), TWO).await, with).await
}

#[tokio::test]
async fn without_its_key_a_secret_is_an_error_and_others_are_not() {
    let inner = with_secret().await;
    let other = other(&inner, "AllowUnsafeMalformedObjectDeletion=false").await;
    let whole = format!("unable to transform key \"/registry/secrets/default/s\": {WHY}");
    for (request, why) in [
        (format!("GET {SECRETS}/s"), WHY),
        (format!("DELETE {SECRETS}/s"), WHY),
        // Nobody knows the option here.
        (format!("DELETE {SECRETS}/s?{OPTION}=true"), WHY),
        (format!("GET {SECRETS}"), &whole),
        (format!("GET {SECRETS}?limit=1"), &whole),
        ("GET /api/v1/secrets?watch=1".to_owned(), &whole),
    ] {
        let (code, answer) = other.send(&admin(), &request, None).await;
        let said = answer.str_at(&["message"]);
        assert_eq!((code, said), (500, &*format!("Internal error occurred: {why}")), "{request}");
        assert_eq!(answer.str_at(&["reason"]), "InternalError");
    }
    other.done("GET /api/v1/namespaces/default/configmaps/m", None).await;
    other.done("GET /api/v1/namespaces/kube-system/secrets", None).await;
    drop(other);
    let right = cluster(&inner, ONE).await;
    right.done(&format!("GET {SECRETS}/s"), None).await;
    right.done(&format!("GET {SECRETS}"), None).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let inner = with_secret().await;
    let other = cluster(&inner, TWO).await;
    let corrupt = |key: &str| {
        format!(
            "StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: \
             data from the storage is not transformable revision=0: {WHY}"
        )
    };
    for request in [format!("GET {SECRETS}/s"), format!("DELETE {SECRETS}/s")] {
        let (code, answer) = other.send(&admin(), &request, None).await;
        let wanted = format!("Internal error occurred: {}", corrupt("/secrets/default/s"));
        assert_eq!((code, answer.str_at(&["message"])), (500, &*wanted), "{request}");
        assert_eq!(answer.str_at(&["reason"]), "InternalError");
    }
    let key = "/registry/secrets/default/s";
    for request in [format!("GET {SECRETS}"), "GET /api/v1/secrets?watch=1".to_owned()] {
        let (code, answer) = other.send(&admin(), &request, None).await;
        assert_eq!((code, answer.str_at(&["reason"])), (500, "StorageReadError"), "{request}");
        let message = answer.str_at(&["message"]);
        assert!(message.starts_with("failed to read one or more secrets from the storage"));
        let details = value!({"name": "list", "kind": "secrets", "causes": [{"reason": "UnexpectedServerResponse",
            "message": (corrupt(key)), "field": key}]});
        assert_eq!(answer.at(&["details"]), Some(&details));
    }
    // A hundred are named, and that there are more.
    drop(other);
    let first = cluster(&inner, ONE).await;
    for number in 0..100 {
        first.done(&format!("POST {SECRETS}"), Some(&secret(&format!("s{number}")))).await;
    }
    drop(first);
    let other = cluster(&inner, TWO).await;
    let (_, answer) = other.send(&admin(), &format!("GET {SECRETS}"), None).await;
    let causes = answer.items_at(&["details", "causes"]);
    assert_eq!((causes.len(), causes[100].str_at(&["reason"])), (101, "FieldValueTooMany"));
}

#[tokio::test]
async fn who_may_deletes_what_cannot_be_read() {
    let inner = with_secret().await;
    let other = cluster(&inner, TWO).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = |verbs: &[&str]| {
        value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": (verbs.iter().copied().collect::<Value>())}]})
    };
    other.done(&format!("POST {rbac}/clusterroles"), Some(&role(&["delete"]))).await;
    let binding = value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "u"}]});
    other.done(&format!("POST {rbac}/clusterrolebindings"), Some(&binding)).await;
    let user = || crate::cluster::As::User(auth::UserInfo::new("u", &["system:authenticated"]));
    let delete = format!("DELETE {SECRETS}/s");
    let ignoring = value!({OPTION: true});
    let (code, answer) = other.send(&user(), &delete, Some(&ignoring)).await;
    let wanted = "secrets \"s\" is forbidden: not permitted to do \"unsafe-delete-ignore-read-errors\", reason: ";
    assert_eq!(code, 403);
    assert!(answer.str_at(&["message"]).starts_with(wanted), "{answer:?}");
    let both = role(&["delete", "unsafe-delete-ignore-read-errors"]);
    other.done(&format!("PUT {rbac}/clusterroles/r"), Some(&both)).await;
    let with = |member: &str, value: Value| {
        let mut options = value!({OPTION: true});
        options.set_at(&[member], value);
        options
    };
    for (member, value) in [
        ("gracePeriodSeconds", value!(0)),
        ("propagationPolicy", value!("Orphan")),
        ("orphanDependents", value!(true)),
        ("preconditions", value!({"uid": "x"})),
    ] {
        let (code, answer) = other.send(&user(), &delete, Some(&with(member, value))).await;
        let wanted = format!(
            "DeleteOptions.meta.k8s.io \"\" is invalid: {OPTION}: Invalid value: true: cannot be set together with .{member}"
        );
        assert_eq!((code, answer.str_at(&["message"])), (422, &*wanted));
    }
    let (code, answer) = other.send(&admin(), &format!("DELETE {SECRETS}"), Some(&ignoring)).await;
    assert_eq!(code, 422);
    assert!(answer.str_at(&["message"]).contains("is not allowed with DELETECOLLECTION"));
    // What can be read, or is not there, does not go this way.
    for path in [format!("{SECRETS}/none"), "/api/v1/namespaces/default/configmaps/m".to_owned()] {
        let (code, answer) = other.send(&admin(), &format!("DELETE {path}"), Some(&ignoring)).await;
        let wanted =
            "is exclusively used to delete corrupt object(s), try again by removing this option";
        assert_eq!(code, 422);
        assert!(answer.str_at(&["message"]).ends_with(wanted), "{answer:?}");
    }
    let trial = other.send(&user(), &delete, Some(&with("dryRun", value!(["All"])))).await;
    assert_eq!(trial.0, 200, "{trial:?}");
    let key = "/registry/secrets/default/s".into();
    assert!(inner.get(&key, storage::At::Latest).await.unwrap().0.is_some());
    // Who followed secrets may have known this one, and has to list again.
    let map = other.done("GET /api/v1/namespaces/default/configmaps", None).await;
    let version = map.str_at(&["metadata", "resourceVersion"]);
    let mut watch = other.watch(&format!("{SECRETS}?watch=1&resourceVersion={version}")).await;
    let (code, answer) = other.send(&user(), &delete, Some(&ignoring)).await;
    let done = value!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": "s", "kind": "Secret"}, "code": 200});
    assert_eq!((code, answer), (200, done));
    let seen = futures::StreamExt::next(&mut watch).await.unwrap();
    assert_eq!(seen.str_at(&["type"]), "ERROR");
    assert_eq!(seen.i64_at(&["object", "code"]), Some(410));
    let left = other.done(&format!("GET {SECRETS}"), None).await;
    assert_eq!(left.items_at(&["items"]).len(), 0);
    let (code, _) = other.send(&admin(), &format!("GET {SECRETS}/s"), None).await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn what_is_no_object_is_named_and_goes_too() {
    let store = memory();
    let key: storage::Key = "/registry/configmaps/default/broken".into();
    let broken = bytes::Bytes::from_static(br#"{"kind":"ConfigMap","metadata":{"na"#);
    store.put(key.clone(), broken, storage::Expect::Absent, None).await.unwrap();
    let cluster = Cluster::on(Arc::clone(&store), With::default()).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let (code, answer) = cluster.send(&admin(), &format!("GET {maps}/broken"), None).await;
    let said = answer.str_at(&["message"]).to_owned();
    assert_eq!(code, 500);
    assert!(said.contains("AdditionalErrorMsg: object not decodable revision=2: "), "{said}");
    let (_, list) = cluster.send(&admin(), &format!("GET {maps}"), None).await;
    assert_eq!(list.items_at(&["details", "causes"]).len(), 1, "{list:?}");
    let (code, _) = cluster.send(&admin(), &format!("DELETE {maps}/broken"), None).await;
    assert_eq!(code, 500);
    cluster.done(&format!("DELETE {maps}/broken?{OPTION}=true"), None).await;
    assert!(store.get(&key, storage::At::Latest).await.unwrap().0.is_none());
    cluster.done(&format!("GET {maps}"), None).await;
}

#[tokio::test]
async fn custom_resources_are_encrypted_by_their_group() {
    let inner = memory();
    let cluster =
        cluster(&inner, "[secretbox: {keys: [{name: one, secret: KEY1}]}, identity: {}]").await;
    let definition = value!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "pandas.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "pandas", "singular": "panda", "kind": "Panda", "listKind": "PandaList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.done(&format!("POST {path}"), Some(&definition)).await;
    let pandas = "/apis/example.com/v1/namespaces/default/pandas";
    let panda = value!({"apiVersion": "example.com/v1", "kind": "Panda", "metadata": {"name": "p"}, "text": HIDDEN});
    for _ in 0..1_000 {
        let (code, _) = cluster.send(&admin(), &format!("POST {pandas}"), Some(&panda)).await;
        if code == 201 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let found = cluster.done(&format!("GET {pandas}/p"), None).await;
    assert_eq!(found.str_at(&["text"]), HIDDEN);
    let key = "/registry/example.com/pandas/default/p".into();
    let (kv, _) = inner.get(&key, storage::At::Latest).await.unwrap();
    assert!(kv.unwrap().value.starts_with(b"k8s:enc:secretbox:v1:one:"));
}
