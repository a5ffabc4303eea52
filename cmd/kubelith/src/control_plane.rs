//! Controllers in the server's process, each under upstream's identity, through the same filters as any client.

use std::sync::Arc;

use apiserver::{InProcess, Server};
use auth::UserInfo;
use client::Client;
use client::EventRecorder;
use client::reflector::Caches;
use component_base::{Clock, Random, ShutdownSignal};
use controllers::Setup;
use controllers::certificates::CertificateSigner;
use scheduler::{Profile, Scheduler};

/// The namespace of the controllers' service accounts.
const NAMESPACE: &str = "kube-system";
/// The identity under which the caches are filled that the controllers share.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

/// The identity of the scheduler.
const SCHEDULER: &str = "system:kube-scheduler";

/// What the parts of the control plane are given.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) server: Arc<Server>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    /// The cluster's authority, as PEM.
    pub(crate) root_ca: Arc<str>,
    /// Signs approved certificate requests.
    pub(crate) authority: Arc<dyn CertificateSigner>,
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
        authority: Some(Arc::clone(&parts.authority)),
        stop: parts.stop.clone(),
    };
    controllers::start_all(&setup, |_| true);
}

/// Starts the scheduler.
pub(crate) fn start_scheduler(parts: &Parts) {
    let client = parts.client(UserInfo::new(SCHEDULER, &[]), "kube-scheduler");
    let (clock, random) = (Arc::clone(&parts.clock), Arc::clone(&parts.random));
    let events =
        EventRecorder::new("default-scheduler", "", Arc::clone(&clock), Arc::clone(&random));
    tokio::spawn(Arc::clone(&events).run(client.clone(), parts.stop.clone()));
    let scheduler = Scheduler {
        client,
        caches: parts.caches(SCHEDULER),
        events,
        clock,
        random,
        profile: Profile::default(),
    };
    tokio::spawn(scheduler.run(parts.stop.clone()));
}
