//! Controllers in the server's process, each under upstream's identity, through the same filters as any client.

use std::sync::Arc;

use apiserver::{InProcess, Server};
use auth::UserInfo;
use client::Client;
use client::reflector::Caches;
use component_base::{Clock, Random, ShutdownSignal};
use controllers::Setup;

/// The namespace of the controllers' service accounts.
const NAMESPACE: &str = "kube-system";
/// The identity under which the caches are filled that the controllers share.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

/// What the parts of the control plane are given.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) server: Arc<Server>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    /// The cluster's authority, as PEM.
    pub(crate) root_ca: Arc<str>,
    pub(crate) stop: ShutdownSignal,
}

impl Parts {
    /// A client in the process, as this user.
    pub(crate) fn client(&self, user: UserInfo, agent: &str) -> Client {
        Client::new(Arc::new(InProcess::new(Arc::clone(&self.server), user)), agent)
    }

    /// Caches under this identity.
    pub(crate) fn caches(&self, user: &str) -> Arc<Caches> {
        let client = self.client(UserInfo::new(user, &[]), user.trim_start_matches("system:"));
        Caches::new(client, Arc::clone(&self.random), self.stop.clone())
    }
}

/// Starts the controllers.
pub(crate) fn start_controllers(parts: &Parts) {
    let for_controllers = parts.clone();
    let setup = Setup {
        caches: parts.caches(CONTROLLER_MANAGER),
        client_for: Box::new(move |account| {
            let user = UserInfo::service_account(NAMESPACE, account);
            for_controllers.client(user, "kube-controller-manager")
        }),
        clock: Arc::clone(&parts.clock),
        random: Arc::clone(&parts.random),
        root_ca: Arc::clone(&parts.root_ca),
        stop: parts.stop.clone(),
    };
    controllers::start_all(&setup, |_| true);
}
