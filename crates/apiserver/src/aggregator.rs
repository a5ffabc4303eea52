//! Other API servers behind this one: an APIService that names a service says which group and version that serves, and
//! requests for it go there. Upstream: kube-aggregator.
//!
//! One task ([`follow`]) learns from the caches where each is, asks whether it answers, and keeps what it says of itself;
//! requests only look up a route. What a request means is between its client and the other server.

mod ask;
mod availability;
mod discovery;
mod follow;
mod metrics;
mod openapi;
mod pass;
mod registration;
mod routes;
mod view;

use std::sync::Arc;

use admission::services::Services;
use arc_swap::ArcSwap;
use component_base::tls::Trust;
use prometheus_client::registry::Registry;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::cache::Progress;
use crate::objects::CachedObjects;
use crate::request::RequestInfo;

pub(crate) use follow::follow;
pub(crate) use openapi::{document, renamed};
pub(crate) use pass::pass;
pub(crate) use routes::{Remote, Routes};
pub(crate) use view::{Layout, Version as RemoteVersion, View};

/// How this server proves to those behind it that it is the one in front of them.
#[derive(Clone)]
pub struct ProxyClient {
    certificates: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl std::fmt::Debug for ProxyClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProxyClient")
    }
}

impl ProxyClient {
    /// A certificate by the front proxy's authority, leaf first, and its key.
    #[must_use]
    pub fn new(certificates: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { certificates, key: Arc::new(key) }
    }
}

/// How long a write of an APIService waits until somebody has looked at it.
const LOOKED_WITHIN: std::time::Duration = std::time::Duration::from_millis(100);

/// What is known of the servers behind this one.
#[derive(Debug)]
pub(crate) struct Aggregator {
    routes: ArcSwap<Routes>,
    identity: Option<ProxyClient>,
    services: Services,
    metrics: metrics::Metrics,
    /// Up to which revision its follower has looked at APIServices.
    looked: Progress,
}

impl Aggregator {
    pub(crate) fn new(identity: Option<ProxyClient>, objects: &Arc<CachedObjects>) -> Self {
        let services = Services::new(Arc::clone(objects) as Arc<dyn admission::Objects>);
        let (routes, metrics) = (ArcSwap::default(), metrics::Metrics::default());
        Self { routes, identity, services, metrics, looked: Progress::default() }
    }

    /// Waits until an APIService that was written at this revision has been looked at, for a moment at most: whoever
    /// registers a server is told at once what is wrong with it.
    pub(crate) async fn looked_at(&self, revision: u64) {
        // Too late is no failure: the write is done.
        let _ = tokio::time::timeout(LOOKED_WITHIN, self.looked.reached(revision)).await;
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// The server that a request is for, where that is not this one.
    pub(crate) fn route(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        let routes = self.routes.load();
        if routes.is_empty() {
            return None;
        }
        if info.is_resource {
            return routes.find(&info.group, &info.version);
        }
        let rest = info.path.strip_prefix("/apis/")?;
        let (group, version) = rest.trim_end_matches('/').split_once('/')?;
        routes.find(group, version)
    }

    /// TLS to a server that proves itself by these authorities: `None` is whoever answers.
    fn tls(&self, bundle: Option<&str>) -> Result<Arc<ClientConfig>, String> {
        let base = match bundle {
            Some(bundle) => webhook::trusting(bundle)?,
            None => component_base::tls::client(Trust::Anybody).map_err(|it| it.to_string())?,
        };
        let mut config = match &self.identity {
            Some(own) => base
                .with_client_auth_cert(own.certificates.clone(), own.key.clone_key())
                .map_err(|error| error.to_string())?,
            None => base.with_no_client_auth(),
        };
        // Upgrades are of HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
