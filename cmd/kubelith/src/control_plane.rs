//! Controllers in the server's process, each under upstream's identity, through the same filters as any client.

use std::sync::Arc;

use anyhow::Result;
use apimachinery::duration::Duration;
use apiserver::{InProcess, Server};
use auth::UserInfo;
use auth::service_account::{Named, TokenIssuer};
use client::Client;
use client::leader::Election;
use client::reflector::Caches;
use component_base::feature_gates::FeatureGates;
use component_base::{Clock, Random, ShutdownSignal};
use controllers::certificates::CertificateSigner;
use controllers::node_ipam::NodeRanges;
use controllers::serviceaccount_token::{TokenFor, TokenSigner};

use crate::controller_manager::{Manager, ManagerOptions};
use crate::scheduler::Seen;

/// The namespace of the controllers' service accounts.
const NAMESPACE: &str = "kube-system";
/// The identity under which the caches are filled that the controllers share.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

/// The identity of the scheduler.
const SCHEDULER: &str = "system:kube-scheduler";

/// Under which fake nodes write.
const FAKE_NODES: &str = "system:kubelith:fake-nodes";
/// How often a fake node renews its lease: half of what it is good for, since thousands share a process.
const FAKE_RENEWAL: std::time::Duration = std::time::Duration::from_secs(20);

/// What the parts of the control plane are given.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) server: Arc<Server>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    /// The cluster's authority, as PEM.
    pub(crate) root_ca: Arc<str>,
    /// How nodes get the ranges of their pods' addresses.
    pub(crate) node_ranges: NodeRanges,
    /// Signs approved certificate requests.
    pub(crate) authority: Arc<dyn CertificateSigner>,
    /// Signs the tokens in Secrets.
    pub(crate) tokens: Arc<dyn TokenSigner>,
    /// What is counted of the elections of all parts.
    pub(crate) elections: client::leader::Metrics,
    /// Other API servers may have the same store.
    pub(crate) shares_store: bool,
    pub(crate) stop: ShutdownSignal,
}

/// What controllers and scheduler of one process know of the cluster, once for both: they read it under the controller
/// manager's identity, and write each under their own.
pub(crate) fn caches(parts: &Parts) -> Arc<Caches> {
    let client = parts.client(UserInfo::new(CONTROLLER_MANAGER, &[]), "caches");
    Caches::new(client, Arc::clone(&parts.random), parts.stop.clone())
}

/// The issuer of tokens, as the controller of Secrets needs it.
#[derive(Debug)]
pub(crate) struct SecretTokens(pub(crate) Arc<TokenIssuer>);

impl TokenSigner for SecretTokens {
    fn sign(&self, token: TokenFor<'_>) -> Result<String, String> {
        let account = Named { name: token.account.to_owned(), uid: token.uid.to_owned() };
        let signed = self.0.issue_legacy(token.namespace, &account, token.secret);
        signed.map_err(|error| error.to_string())
    }
}

impl Parts {
    /// A client in the process, as this user.
    pub(crate) fn client(&self, user: UserInfo, agent: &str) -> Client {
        Client::new(Arc::new(InProcess::new(Arc::clone(&self.server), user)), agent)
    }
}

/// A second at least.
pub(crate) fn period(text: &str) -> Result<std::time::Duration, String> {
    Ok(std::time::Duration::from_secs(seconds(text)?.unsigned_abs()))
}

/// Whole seconds of a duration.
pub(crate) fn seconds(text: &str) -> Result<i64, String> {
    let duration = Duration::parse(text).map_err(|error| error.to_string())?;
    if duration.as_seconds() < 1 {
        return Err("must be a second at least".into());
    }
    Ok(duration.as_seconds())
}

/// Starts the controllers.
pub(crate) fn start_controllers(
    parts: &Parts,
    caches: &Arc<Caches>,
    options: &ManagerOptions,
    election: Option<Election>,
    features: &Arc<FeatureGates>,
) -> Result<()> {
    let authorities = options.signers(Some(&parts.authority))?;
    let metrics = controllers::Metrics::default();
    parts.server.metrics().register(|registry| metrics.register(registry));
    let for_controllers = parts.clone();
    let manager = Manager {
        client: parts.client(UserInfo::new(CONTROLLER_MANAGER, &[]), "kube-controller-manager"),
        client_for: Arc::new(move |account| {
            let user = UserInfo::service_account(NAMESPACE, account);
            for_controllers.client(user, "kube-controller-manager")
        }),
        clock: Arc::clone(&parts.clock),
        random: Arc::clone(&parts.random),
        root_ca: Arc::clone(&parts.root_ca),
        node_ranges: parts.node_ranges.clone(),
        authorities,
        tokens: Some(Arc::clone(&parts.tokens)),
        metrics,
        elections: parts.elections.clone(),
        options: options.clone(),
        features: Arc::clone(features),
        more: parts.server.optional_resources(),
        caches: election.is_none().then(|| Arc::clone(caches)),
        one_server: !parts.shares_store,
        election,
        migration: None,
        stop: parts.stop.clone(),
    };
    tokio::spawn(manager.for_ever());
    Ok(())
}

/// Starts the scheduler.
pub(crate) fn start_scheduler(
    parts: &Parts,
    caches: &Arc<Caches>,
    config: scheduler::Configuration,
    features: &FeatureGates,
) -> Result<()> {
    let metrics = scheduler::Metrics::default();
    parts.server.metrics().register(|registry| metrics.register(registry));
    let own = crate::scheduler::Parts {
        client: parts.client(UserInfo::new(SCHEDULER, &[]), "kube-scheduler"),
        clock: Arc::clone(&parts.clock),
        random: Arc::clone(&parts.random),
        elections: parts.elections.clone(),
        caches: Some(Arc::clone(caches)),
        stop: parts.stop.clone(),
    };
    let seen = Seen::default();
    let told = seen.clone();
    parts.server.metrics().show_resources(move || told.text());
    crate::scheduler::start(own, (config, seen), metrics, features)
}

/// Starts nodes without machines, which say that they are of this version.
pub(crate) fn start_fake_nodes(parts: &Parts, count: u32) {
    let settings = fakenodes::Settings {
        count,
        capacity: fakenodes::Capacity::default(),
        version: crate::VERSION.into(),
        renew_every: FAKE_RENEWAL,
    };
    let user = UserInfo::new(FAKE_NODES, &[auth::user::MASTERS]);
    let own = fakenodes::Parts {
        client: parts.client(user, "fake-nodes"),
        clock: Arc::clone(&parts.clock),
        random: Arc::clone(&parts.random),
        stop: parts.stop.clone(),
    };
    tokio::spawn(fakenodes::run(settings, own));
}
