//! Keys that a plugin keeps.

use std::time::Duration;

use storage::Store;
use tempfile::NamedTempFile;

use crate::plugin::Plugin;
use crate::providers::{config, get, kv, memory, open, put};

const SECRET: &str = "/registry/secrets/default/s";

fn kms(plugin: &Plugin) -> NamedTempFile {
    let socket = plugin.socket();
    config(&format!(
        "[kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}', timeout: 200ms}}, identity: {{}}]",
        socket.display()
    ))
}

#[tokio::test]
async fn a_plugin_is_asked_once_for_many_writes_and_again_after_a_restart() {
    let (plugin, inner) = (Plugin::start("k1"), memory());
    let file = kms(&plugin);
    let store = open(&inner, file.path()).await;
    for index in 0..20 {
        put(&store, &format!("{SECRET}{index}"), "hidden").await;
        assert_eq!(get(&store, &format!("{SECRET}{index}")).await, "hidden");
    }
    assert_eq!((plugin.called("Encrypt"), plugin.called("Decrypt")), (1, 0));
    let stored = kv(&inner, "/registry/secrets/default/s3").await.value;
    assert!(stored.starts_with(b"k8s:enc:kms:v2:vault:\x0a"), "{stored:?}");
    assert!(!stored.windows(6).any(|it| it == b"hidden"));
    // Another server has another seed, and asks for the one that was used.
    let store = open(&inner, file.path()).await;
    for index in 0..20 {
        assert_eq!(get(&store, &format!("{SECRET}{index}")).await, "hidden");
    }
    assert_eq!((plugin.called("Encrypt"), plugin.called("Decrypt")), (2, 1));
    assert_eq!(store.check_plugins().await, Ok(()));
}

#[tokio::test]
async fn a_new_key_of_the_plugin_makes_values_stale() {
    let (plugin, inner) = (Plugin::start("k1"), memory());
    let file = kms(&plugin);
    let store = open(&inner, file.path()).await;
    put(&store, SECRET, "v").await;
    assert!(!store.is_stale(&kv(&store, SECRET).await).await.unwrap());
    plugin.behaviour.lock().key = "k2".into();
    // What it says of its health is asked again after a while only; another server asks at once.
    let store = open(&inner, file.path()).await;
    let found = kv(&store, SECRET).await;
    assert_eq!(found.value, "v");
    assert!(store.is_stale(&found).await.unwrap());
    put(&store, SECRET, "v").await;
    assert!(!store.is_stale(&kv(&store, SECRET).await).await.unwrap());
}

#[tokio::test]
async fn a_plugin_that_is_not_well_is_told_and_comes_back() {
    let (mut plugin, inner) = (Plugin::start("k1"), memory());
    let file = kms(&plugin);
    put(&open(&inner, file.path()).await, SECRET, "v").await;
    let socket = plugin.socket().display().to_string();
    plugin.stop();
    let store = open(&inner, file.path()).await;
    let error = get(&store, SECRET).await;
    assert!(error.contains("KMS provider vault has not told its key yet"), "{error}");
    assert_eq!(
        store.check_plugins().await.unwrap_err(),
        format!(
            "failed to perform status section of the healthz check for KMS Provider vault, error: rpc error: code = Unavailable desc = connection error: desc = \"transport: error while dialing: dial unix {socket}: No such file or directory (os error 2)\""
        )
    );
    plugin.restart();
    for (change, expected) in [
        (
            ("hangs", true),
            "failed to perform status section of the healthz check for KMS Provider vault, error: rpc error: code = DeadlineExceeded desc = context deadline exceeded",
        ),
        (
            ("refuses", true),
            "failed to perform status section of the healthz check for KMS Provider vault, error: rpc error: code = Internal desc = the vault is shut",
        ),
        (
            ("sick", true),
            "kmsv2 Provider vault is not healthy, error: got unexpected healthz status: sick",
        ),
        (
            ("keyless", true),
            "kmsv2 Provider vault is not healthy, error: got invalid KMSv2 KeyID hash \"\": keyID is empty",
        ),
    ] {
        {
            let mut behaviour = plugin.behaviour.lock();
            behaviour.hangs = change.0 == "hangs";
            behaviour.refuses = change.0 == "refuses";
            behaviour.health = if change.0 == "sick" { "sick" } else { "ok" }.into();
            behaviour.key = if change.0 == "keyless" { "" } else { "k1" }.into();
        }
        let store = open(&inner, file.path()).await;
        assert_eq!(store.check_plugins().await.unwrap_err(), expected);
        let mut registry = prometheus_client::registry::Registry::default();
        store.register(&mut registry);
        let count = "apiserver_envelope_encryption_invalid_key_id_from_status_total{error=\"empty\",provider_name=\"vault\"} ";
        let is_counted = component_base::metrics::text(&registry).contains(count);
        assert_eq!(is_counted, change.0 == "keyless");
    }
    plugin.behaviour.lock().key = "k1".into();
    // The answer is remembered for a moment.
    for _ in 0..1_000 {
        if store.check_plugins().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(get(&store, SECRET).await, "v");
}

#[tokio::test]
async fn what_a_plugin_refuses_to_decrypt_counts_by_its_code() {
    let (plugin, inner) = (Plugin::start("k1"), memory());
    let file = kms(&plugin);
    put(&open(&inner, file.path()).await, SECRET, "v").await;
    // Another server does not know the key, and asks.
    let store = open(&inner, file.path()).await;
    let mut registry = prometheus_client::registry::Registry::default();
    store.register(&mut registry);
    plugin.behaviour.lock().refuses = true;
    let error = get(&store, SECRET).await;
    let why = "failed to decrypt DEK, error: rpc error: code = Internal desc = the vault is shut";
    assert!(error.contains(why), "{error}");
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let is_count = |it: &&str| it.starts_with("apiserver_storage_transformation_operations");
    let counts: Vec<&str> = text.lines().filter(is_count).collect();
    let counted = |it: &&str| it.contains(r#"status="Internal""#) && it.ends_with(" 1");
    assert!(counts.iter().any(counted), "{counts:?}");
}
