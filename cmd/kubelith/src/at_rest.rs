//! Flags of encryption at rest, and what is made of them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use apiserver::HealthCheck;
use component_base::{Clock, Random, ShutdownSignal};
use encryption::{EncryptedStore, GroupResource, Layout, Parts};
use storage::Store;

/// Upstream's flags of encryption at rest.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "encryption")]
#[command(next_help_heading = "kube-apiserver")]
pub(crate) struct EncryptionOptions {
    /// Which resources are kept encrypted: an EncryptionConfiguration of apiserver.config.k8s.io/v1
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// Follow changes of that file
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    encryption_provider_config_automatic_reload: bool,
}

/// A store as the flags want it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) store: Arc<dyn Store>,
    /// The same, where it encrypts.
    pub(crate) encrypted: Option<EncryptedStore>,
    pub(crate) checks: Vec<HealthCheck>,
}

impl EncryptionOptions {
    /// The store, encrypted where that is wanted.
    pub(crate) async fn wrap(
        &self,
        store: Arc<dyn Store>,
        (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
        server: &IpAddr,
        stop: ShutdownSignal,
    ) -> Result<Kept> {
        let Some(file) = &self.encryption_provider_config else {
            if self.encryption_provider_config_automatic_reload {
                bail!(
                    "--encryption-provider-config-automatic-reload must be set only when --encryption-provider-config is set"
                );
            }
            return Ok(Kept { store, encrypted: None, checks: Vec::new() });
        };
        let parts = Parts {
            clock: Arc::clone(clock),
            random: Arc::clone(random),
            layout: Arc::new(layout()),
            server: server.to_string(),
        };
        let encrypted = EncryptedStore::start(store, file, parts).await;
        let encrypted = encrypted.map_err(|why| anyhow!("--encryption-provider-config: {why}"))?;
        if self.encryption_provider_config_automatic_reload {
            let following = encrypted.follow(file, stop);
            following.with_context(|| format!("could not follow {}", file.display()))?;
        }
        let checks = self.checks(&encrypted);
        let store = Arc::new(encrypted.clone());
        Ok(Kept { store, encrypted: Some(encrypted), checks })
    }

    /// Upstream's names: plugins that may change have one check together.
    fn checks(&self, encrypted: &EncryptedStore) -> Vec<HealthCheck> {
        if self.encryption_provider_config_automatic_reload {
            let store = encrypted.clone();
            return vec![HealthCheck::new("kms-providers", move || {
                let store = store.clone();
                Box::pin(async move { store.check_plugins().await })
            })];
        }
        let check = |index| {
            let store = encrypted.clone();
            HealthCheck::new(format!("kms-provider-{index}"), move || {
                let store = store.clone();
                Box::pin(async move { store.check_plugin(index).await })
            })
        };
        (0..encrypted.plugins()).map(check).collect()
    }
}

/// Whose the keys of the built-in resources are.
fn layout() -> Layout {
    Layout::new(keys())
}

/// What keys of the built-in resources begin with.
pub(crate) fn keys() -> impl Iterator<Item = (String, GroupResource)> {
    // What is off now may be asked for later, and may be stored.
    let all = registry::Apis::default().configure(&["api/all=true".to_owned()]);
    let features = registry::Features {
        generic_workload: true,
        coordinated_leader_election: true,
        resource_pool_status: true,
        ..registry::Features::default()
    };
    let registry = registry::Registry::of(all.unwrap_or_default().with_features(features));
    let of = |resource: &Arc<dyn registry::AnyResource>| {
        let facts = resource.served().first()?.facts;
        // Events are stored as those of the core group.
        let group = if facts.resource == "events" { "" } else { facts.group };
        let of = GroupResource { group: group.to_owned(), resource: facts.resource.to_owned() };
        Some((resource.storage_prefix().to_owned(), of))
    };
    registry.resources().iter().filter_map(of).collect::<Vec<_>>().into_iter()
}
