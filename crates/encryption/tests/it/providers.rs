//! What is stored, and who can read it.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use component_base::{RealClock, Shutdown, SystemRandom};
use encryption::{EncryptedStore, GroupResource, Layout, Parts};
use prometheus_client::registry::Registry;
use storage::memory::MemoryStore;
use storage::{At, Expect, Key, Kv, RangeReq, Store};
use tempfile::NamedTempFile;

/// A key of 32 bytes by its number.
fn key(number: u8) -> String {
    let secret = BASE64_STANDARD.encode([number; 32]);
    format!("{{name: key{number}, secret: {secret}}}")
}

/// A configuration in which secrets and apps have these providers.
pub(crate) fn config(providers: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text(providers).as_bytes()).unwrap();
    file
}

pub(crate) fn text(providers: &str) -> String {
    let providers = providers.replace("KEY1", &key(1)).replace("KEY2", &key(2));
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
         - {{resources: [secrets, '*.apps'], providers: {providers}}}\n"
    )
}

pub(crate) fn parts() -> Parts {
    let secrets = GroupResource { group: String::new(), resource: "secrets".into() };
    let sets = GroupResource { group: "apps".into(), resource: "daemonsets".into() };
    let nodes = GroupResource { group: String::new(), resource: "nodes".into() };
    let layout = [
        ("/registry/secrets/".to_owned(), secrets),
        ("/registry/daemonsets/".to_owned(), sets),
        ("/registry/minions/".to_owned(), nodes),
    ];
    Parts {
        clock: Arc::new(RealClock),
        random: Arc::new(SystemRandom::new()),
        layout: Arc::new(Layout::new(layout)),
        server: "me".to_owned(),
    }
}

pub(crate) async fn open(inner: &MemoryStore, file: &Path) -> EncryptedStore {
    EncryptedStore::start(Arc::new(inner.clone()), file, parts()).await.unwrap()
}

pub(crate) fn memory() -> MemoryStore {
    MemoryStore::new(Arc::new(RealClock))
}

pub(crate) async fn put(store: &dyn Store, key: &str, value: &str) {
    let value = Bytes::copy_from_slice(value.as_bytes());
    store.put(Key::from(key), value, Expect::Any, None).await.unwrap();
}

/// The value of a key as text, or why there is none.
pub(crate) async fn get(store: &dyn Store, key: &str) -> String {
    match store.get(&Key::from(key), At::Latest).await {
        Ok((kv, _)) => String::from_utf8_lossy(&kv.unwrap().value).into_owned(),
        Err(error) => error.to_string(),
    }
}

pub(crate) async fn kv(store: &dyn Store, key: &str) -> Kv {
    store.get(&Key::from(key), At::Latest).await.unwrap().0.unwrap()
}

const SECRET: &str = "/registry/secrets/default/s";

#[tokio::test]
async fn values_begin_as_upstreams_do_and_are_only_those_of_named_resources() {
    for (providers, prefix) in [
        ("[aesgcm: {keys: [KEY1]}]", "k8s:enc:aesgcm:v1:key1:"),
        ("[aescbc: {keys: [KEY2, KEY1]}]", "k8s:enc:aescbc:v1:key2:"),
        ("[secretbox: {keys: [KEY1]}]", "k8s:enc:secretbox:v1:key1:"),
        ("[identity: {}, aesgcm: {keys: [KEY1]}]", "plain"),
    ] {
        let (inner, file) = (memory(), config(providers));
        let store = open(&inner, file.path()).await;
        for (key, is_named) in [
            (SECRET, true),
            ("/registry/daemonsets/default/d", true),
            ("/registry/apps/pandas/default/p", true),
            ("/registry/minions/n", false),
            ("/registry/other.example/pandas/p", false),
            ("/registry/leases", false),
        ] {
            put(&store, key, "plain text").await;
            assert_eq!(get(&store, key).await, "plain text", "{providers} {key}");
            let stored = get(&inner, key).await;
            let expected = if is_named { prefix } else { "plain" };
            assert!(stored.starts_with(expected), "{providers} {key}: {stored}");
            assert_eq!(stored.contains("plain text"), expected == "plain", "{key}");
        }
    }
}

#[tokio::test]
async fn keys_rotate_and_what_is_stale_is_known() {
    let inner = memory();
    for (providers, is_stale) in [
        ("[aescbc: {keys: [KEY1]}, identity: {}]", false),
        ("[aescbc: {keys: [KEY1, KEY2]}]", false),
        ("[aescbc: {keys: [KEY2, KEY1]}]", true),
        ("[aesgcm: {keys: [KEY1]}, aescbc: {keys: [KEY1]}]", true),
        ("[aescbc: {keys: [KEY2]}, aescbc: {keys: [KEY1]}]", true),
        ("[identity: {}, aescbc: {keys: [KEY1]}]", true),
    ] {
        let file = config("[aescbc: {keys: [KEY1]}]");
        put(&open(&inner, file.path()).await, SECRET, "v").await;
        let file = config(providers);
        let store = open(&inner, file.path()).await;
        let found = kv(&store, SECRET).await;
        assert_eq!(found.value, "v", "{providers}");
        assert_eq!(store.is_stale(&found).await.unwrap(), is_stale, "{providers}");
        put(&store, SECRET, "v").await;
        let found = kv(&store, SECRET).await;
        assert!(!store.is_stale(&found).await.unwrap(), "{providers}: it was written anew");
    }
}

#[tokio::test]
async fn what_cannot_be_read_says_why_and_hides_nothing_else() {
    let (inner, file) = (memory(), config("[aesgcm: {keys: [KEY1]}]"));
    put(&open(&inner, file.path()).await, SECRET, "v").await;
    put(&inner, "/registry/secrets/default/plain", "p").await;
    let other = key(1).replace("key1", "key9");
    for (providers, error) in [
        (
            "[aesgcm: {keys: [KEY2]}]".to_owned(),
            "no matching key was found for the provided AES-GCM transformer",
        ),
        ("[secretbox: {keys: [KEY1]}]".to_owned(), "no matching prefix found"),
        ("[identity: {}]".to_owned(), "no matching prefix found"),
        (
            format!(
                "[aesgcm: {{keys: [{}]}}]",
                other.replace("key9", "key1").replace("AQEB", "AgIC")
            ),
            "cipher: message authentication failed",
        ),
    ] {
        let file = config(&providers);
        let store = open(&inner, file.path()).await;
        assert_eq!(get(&store, SECRET).await, error, "{providers}");
    }
    let file = config("[aesgcm: {keys: [KEY2]}, identity: {}]");
    let store = open(&inner, file.path()).await;
    let prefix = Key::from("/registry/secrets/");
    let request = RangeReq { prefix, after: None, limit: 0, keys_only: false, at: At::Latest };
    let page = store.range(request).await.unwrap();
    let [plain, secret] = page.kvs.as_slice() else { panic!("{page:?}") };
    assert_eq!(plain.value, "p");
    assert_eq!(
        secret.readable().unwrap_err().to_string(),
        format!(
            "unable to transform key \"{SECRET}\": no matching key was found for the provided AES-GCM transformer"
        )
    );
    // Copied to another place it is worth nothing.
    let stored = get(&inner, SECRET).await;
    let raw = kv(&inner, SECRET).await.value;
    assert!(stored.starts_with("k8s:enc:aesgcm:v1:key1:"));
    let key = Key::from("/registry/secrets/default/copy");
    inner.put(key, raw, Expect::Absent, None).await.unwrap();
    let file = config("[aesgcm: {keys: [KEY1]}]");
    let store = open(&inner, file.path()).await;
    assert_eq!(
        get(&store, "/registry/secrets/default/copy").await,
        "cipher: message authentication failed"
    );
}

#[tokio::test]
async fn a_resource_that_is_not_named_cannot_be_encrypted_data() {
    let (inner, file) = (memory(), config("[identity: {}]"));
    let store = open(&inner, file.path()).await;
    put(&inner, "/registry/minions/n", "k8s:enc:aesgcm:v1:key1:xxxx").await;
    let error = get(&store, "/registry/minions/n").await;
    assert_eq!(error, "identity transformer tried to read encrypted data");
}

#[tokio::test]
async fn a_changed_file_is_followed_and_a_wrong_one_is_not() {
    const RELOADS: &str = "apiserver_encryption_config_controller_automatic_reloads_total{";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, text("[aesgcm: {keys: [KEY1]}]")).unwrap();
    let (inner, stop) = (memory(), Shutdown::new());
    let store = open(&inner, &path).await;
    store.follow(&path, stop.signal()).unwrap();
    let counted = || {
        let mut registry = Registry::default();
        store.register(&mut registry);
        let text = component_base::metrics::text(&registry);
        let lines = text.lines().filter(|it| it.starts_with(RELOADS));
        let mut all: Vec<&str> = lines.map(|it| it.rsplit("status=").next().unwrap()).collect();
        all.sort_unstable();
        all.join(" ")
    };
    let wait = async |wanted: &str| {
        for _ in 0..1_000 {
            if counted() == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{}", counted());
    };
    // Replaced, as editors and kubelets do.
    let new = directory.path().join("new");
    std::fs::write(&new, text("[aesgcm: {keys: [KEY2, KEY1]}]")).unwrap();
    std::fs::rename(&new, &path).unwrap();
    wait("\"success\"} 1").await;
    put(&store, SECRET, "v").await;
    assert!(get(&inner, SECRET).await.starts_with("k8s:enc:aesgcm:v1:key2:"));
    std::fs::write(&new, "kind: Nothing").unwrap();
    std::fs::rename(&new, &path).unwrap();
    wait("\"failure\"} 1 \"success\"} 1").await;
    assert_eq!(get(&store, SECRET).await, "v");
    stop.request();
}

#[tokio::test]
async fn files_that_are_no_good_are_told() {
    let start = async |text: &str| {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let store = EncryptedStore::start(Arc::new(memory()), file.path(), parts()).await;
        store.unwrap_err().replace(&file.path().display().to_string(), "F")
    };
    assert_eq!(
        start("").await,
        "error while parsing file: encryption provider configuration file \"F\" is empty"
    );
    let error = start("kind: Pod").await;
    assert!(
        error.starts_with("error while parsing file: no kind \"Pod\" is registered"),
        "{error}"
    );
    let missing = EncryptedStore::start(Arc::new(memory()), Path::new("/no/such"), parts()).await;
    assert_eq!(
        missing.unwrap_err(),
        "error while parsing file: error opening encryption provider configuration file \"/no/such\": No such file or directory (os error 2)"
    );
}
