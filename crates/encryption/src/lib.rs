//! Encryption at rest: a store around another one that keeps some resources encrypted, with upstream's providers and in
//! its formats. Upstream: `k8s.io/apiserver/pkg/storage/value` and `pkg/server/options/encryptionconfig`.
//!
//! Knows no kinds: somebody else says whose a key is ([`Owners`]).

mod cipher;
mod config;
mod kms;
mod metrics;
mod provider;
mod reload;
mod store;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use component_base::{Clock, Random};
use prometheus_client::registry::Registry;
use storage::{Key, Store};
use tokio::task::JoinHandle;

pub use config::GroupResource;

use cipher::Cipher;
use config::{CipherKind, Entry, ProviderConfig};
use kms::{Kms, Setup};
use metrics::Metrics;
use provider::{Keys, Provider};

/// What every key begins with.
const ROOT: &str = "/registry/";
/// The largest configuration, in bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Says whose a key is.
pub trait Owners: Send + Sync + std::fmt::Debug {
    /// The resource that a key is of.
    fn resource_of(&self, key: &Key) -> Option<GroupResource>;
}

/// Upstream's places of resources.
#[derive(Debug, Default)]
pub struct Layout {
    by_prefix: BTreeMap<String, GroupResource>,
}

impl Layout {
    /// The resources that keys with these prefixes are of. Other keys are `/registry/GROUP/RESOURCE/...`.
    #[must_use]
    pub fn new(by_prefix: impl IntoIterator<Item = (String, GroupResource)>) -> Self {
        Self { by_prefix: by_prefix.into_iter().collect() }
    }
}

impl Owners for Layout {
    fn resource_of(&self, key: &Key) -> Option<GroupResource> {
        let text = std::str::from_utf8(key.as_bytes()).ok()?;
        let mut end = ROOT.len();
        for _ in 0..2 {
            end += text.get(end..)?.find('/')? + 1;
            if let Some(found) = self.by_prefix.get(&text[..end]) {
                return Some(found.clone());
            }
        }
        let (group, resource) = text[ROOT.len()..end - 1].split_once('/')?;
        Some(GroupResource { group: group.to_owned(), resource: resource.to_owned() })
    }
}

/// What encryption needs of the process.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Nonces and keys: must be that of the system but in tests.
    pub random: Arc<dyn Random>,
    /// Whose keys are whose.
    pub layout: Arc<dyn Owners>,
    /// What the server is called, which metrics tell the hash of.
    pub server: String,
}

/// What a configuration makes.
#[derive(Debug, Default)]
struct State {
    by_resource: BTreeMap<GroupResource, Arc<[Arc<Provider>]>>,
    kms: Vec<Arc<Kms>>,
    /// Ask the plugins how they are.
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for State {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl State {
    fn of(entries: Vec<Entry>, setup: &Setup) -> Result<Self, String> {
        let mut state = Self::default();
        let mut lists: BTreeMap<GroupResource, Vec<Arc<Provider>>> = BTreeMap::new();
        for entry in entries {
            let made = entry.providers.into_iter().map(|it| provider(it, setup).map(Arc::new));
            let made = made.collect::<Result<Vec<_>, _>>()?;
            let plugins = made.iter().filter_map(|it| match &**it {
                Provider::Kms(kms) => Some(Arc::clone(kms)),
                Provider::Identity | Provider::Keys(_) => None,
            });
            state.kms.extend(plugins);
            for resource in entry.resources {
                lists.entry(resource).or_default().extend(made.iter().cloned());
            }
        }
        state.by_resource = lists.into_iter().map(|(key, list)| (key, list.into())).collect();
        Ok(state)
    }

    /// Asks every plugin how it is.
    async fn prime(&self) -> Result<(), String> {
        let asked = self.kms.iter().map(|it| it.ask());
        let wrong: Vec<String> =
            futures::future::join_all(asked).await.into_iter().filter_map(Result::err).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) }
    }

    /// And goes on asking.
    fn follow(&mut self) {
        self.tasks = self.kms.iter().map(|it| tokio::spawn(Arc::clone(it).follow())).collect();
    }

    /// The providers of a resource; `None` where the configuration does not name it.
    fn providers(&self, of: &GroupResource) -> Option<&Arc<[Arc<Provider>]>> {
        let any = |group: &str| GroupResource { group: group.into(), resource: "*".into() };
        let find = |it: &GroupResource| self.by_resource.get(it);
        find(of).or_else(|| find(&any(&of.group))).or_else(|| find(&any("*")))
    }
}

fn provider(config: ProviderConfig, setup: &Setup) -> Result<Provider, String> {
    let (kind, keys) = match config {
        ProviderConfig::Identity => return Ok(Provider::Identity),
        ProviderConfig::Kms { name, socket, timeout } => {
            return Ok(Provider::Kms(Arc::new(Kms::new(&name, socket, timeout, setup))));
        }
        ProviderConfig::Keys { kind, keys } => (kind, keys),
    };
    type Make = fn(&[u8]) -> Result<Cipher, String>;
    let (prefix, cipher, make): (_, _, Make) = match kind {
        CipherKind::AesGcm => ("k8s:enc:aesgcm:v1:", "AES-GCM", Cipher::gcm),
        CipherKind::AesCbc => ("k8s:enc:aescbc:v1:", "AES-CBC", Cipher::cbc),
        CipherKind::Secretbox => ("k8s:enc:secretbox:v1:", "secretbox", Cipher::secretbox),
    };
    let keys = keys.iter().map(|(name, key)| Ok((format!("{name}:"), make(&key.0)?)));
    Ok(Provider::Keys(Keys { prefix, cipher, keys: keys.collect::<Result<_, String>>()? }))
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    parts: Parts,
    metrics: Arc<Metrics>,
    state: ArcSwap<State>,
}

impl Inner {
    fn setup(&self) -> Setup {
        Setup {
            clock: Arc::clone(&self.parts.clock),
            random: Arc::clone(&self.parts.random),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// A store that keeps some resources encrypted. Cheap to clone; clones are the same store.
#[derive(Debug, Clone)]
pub struct EncryptedStore(Arc<Inner>);

impl EncryptedStore {
    /// Keeps in `store` what a configuration file says, as it says. Must be called inside a tokio runtime. A plugin that
    /// does not answer is no error: it may come later, and what needs it fails until then.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub async fn start(store: Arc<dyn Store>, file: &Path, parts: Parts) -> Result<Self, String> {
        let read = read(file).and_then(|text| Ok((config::parse(&text)?, text)));
        let (entries, text) = read.map_err(|why| format!("error while parsing file: {why}"))?;
        let (metrics, state) = (Arc::new(Metrics::new(&parts.server)), ArcSwap::default());
        metrics.configured(&text);
        let inner = Inner { store, parts, metrics, state };
        let mut state = State::of(entries, &inner.setup())?;
        if let Err(error) = state.prime().await {
            tracing::warn!(error, "what KMS plugins encrypt cannot be read yet");
        }
        state.follow();
        inner.state.store(Arc::new(state));
        Ok(Self(Arc::new(inner)))
    }

    /// Registers what it counts.
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
    }

    /// How many plugins there are.
    #[must_use]
    pub fn plugins(&self) -> usize {
        self.0.state.load().kms.len()
    }

    /// How one of the plugins is.
    ///
    /// # Errors
    /// Why it is not well.
    pub async fn check_plugin(&self, index: usize) -> Result<(), String> {
        let plugin = self.0.state.load().kms.get(index).cloned();
        match plugin {
            Some(plugin) => plugin.check().await,
            None => Ok(()),
        }
    }

    /// How all of the plugins are.
    ///
    /// # Errors
    /// Why some are not well.
    pub async fn check_plugins(&self) -> Result<(), String> {
        for index in 0..self.plugins() {
            self.check_plugin(index).await?;
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let shown = file.display();
    let opening = |error: std::io::Error| {
        format!("error opening encryption provider configuration file \"{shown}\": {error}")
    };
    let size = std::fs::metadata(file).map_err(opening)?.len();
    if size > MAX_CONFIG_BYTES {
        return Err(format!(
            "encryption provider configuration file \"{shown}\" has more than {MAX_CONFIG_BYTES} bytes"
        ));
    }
    let text = std::fs::read(file).map_err(opening)?;
    if text.is_empty() {
        return Err(format!("encryption provider configuration file \"{shown}\" is empty"));
    }
    Ok(text)
}
