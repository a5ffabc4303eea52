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

#[tokio::test]
async fn without_its_key_a_secret_is_an_error_and_others_are_not() {
    let inner = memory();
    let first =
        cluster(&inner, "[aesgcm: {keys: [{name: one, secret: KEY1}]}, identity: {}]").await;
    first.done(&format!("POST {SECRETS}"), Some(&secret("s"))).await;
    let map = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    first.done("POST /api/v1/namespaces/default/configmaps", Some(&map)).await;
    drop(first);
    let other =
        cluster(&inner, "[aesgcm: {keys: [{name: two, secret: KEY2}]}, identity: {}]").await;
    let why = "no matching key was found for the provided AES-GCM transformer";
    let whole = format!("unable to transform key \"/registry/secrets/default/s\": {why}");
    for (request, why) in [
        (format!("GET {SECRETS}/s"), why),
        (format!("DELETE {SECRETS}/s"), why),
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
    let right =
        cluster(&inner, "[aesgcm: {keys: [{name: one, secret: KEY1}]}, identity: {}]").await;
    right.done(&format!("GET {SECRETS}/s"), None).await;
    right.done(&format!("GET {SECRETS}"), None).await;
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
