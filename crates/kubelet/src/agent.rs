//! The agent as a whole: what it is made from, and how its parts run together.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::call::ListParams;
use client::{Client, EventRecorder, Reflector, Resource, Store};
use component_base::task::BlockingPool;
use component_base::{Clock, Random, ShutdownSignal};
use cri::{ImageService, PodSandboxFilter, RuntimeService};
use parking_lot::Mutex;
use sys::cgroup::Hierarchies;
use tokio::sync::Notify;

use crate::config::Config;
use crate::images::Pulls;
use crate::log_rotation;
use crate::manager::Manager;
use crate::node::{self, Machine};
use crate::objects::Objects;
use crate::pressure::Pressure;
use crate::server::{self, Context};
use crate::shared::Shared;
use crate::static_pods;
use crate::static_pods::mirror::Mirrors;
use crate::volumes;
use crate::volumes::token::Tokens;

/// Pieces of blocking work at once: files and mounts of volumes.
const BLOCKING_LIMIT: usize = 8;

/// What an agent is made from.
#[derive(Debug)]
pub struct Parts {
    /// Its configuration.
    pub config: Config,
    /// A client under the node's identity.
    pub client: Client,
    /// What runs containers.
    pub runtime: Arc<dyn RuntimeService>,
    /// What keeps images.
    pub images: Arc<dyn ImageService>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Names of files.
    pub random: Arc<dyn Random>,
    /// Where the agent's own server answers; none for an agent without one.
    pub serving: Option<Serving>,
}

/// A listening socket and what it proves itself with. Clients may present certificates that this accepts.
#[derive(Debug)]
pub struct Serving {
    /// Usually on port 10250.
    pub listener: tokio::net::TcpListener,
    /// Its certificate and the authority of its clients.
    pub tls: Arc<rustls::ServerConfig>,
}

/// An agent that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// Its directories cannot be made.
    #[error("could not make {path}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The machine cannot be read.
    #[error("could not read what the machine is")]
    Machine(#[source] std::io::Error),
    /// The runtime does not answer.
    #[error("could not ask the runtime: {0}")]
    Runtime(#[from] cri::CriError),
}

/// A node agent.
#[derive(Debug)]
pub struct Kubelet {
    shared: Arc<Shared>,
    manager: Arc<Manager>,
    pods: Store,
    nodes: Store,
    serving: Option<Serving>,
}

impl Kubelet {
    /// Reads the machine and what an earlier process left.
    ///
    /// # Errors
    /// When directories, the machine or the runtime are not to be had.
    pub async fn open(parts: Parts) -> Result<Self, KubeletError> {
        let Parts { config, client, runtime, images, clock, random, serving } = parts;
        for dir in [config.data_dir.join("pods"), config.log_dir.join("pods")] {
            std::fs::create_dir_all(&dir).map_err(|source| KubeletError::Directory {
                path: dir.display().to_string(),
                source,
            })?;
        }
        let machine = Machine::read(&config).map_err(KubeletError::Machine)?;
        let runtime_name = runtime.version().await?.runtime_name;
        let hierarchies = if config.cgroup_root.is_empty() {
            None
        } else {
            Hierarchies::detect()
                .inspect_err(|error| tracing::warn!(%error, "no cgroups: pods run without limits"))
                .ok()
        };
        let (clock_of_events, random_of_events) = (Arc::clone(&clock), Arc::clone(&random));
        let shared = Arc::new(Shared {
            events: EventRecorder::new(
                "kubelet",
                &config.node_name,
                clock_of_events,
                random_of_events,
            ),
            objects: Objects::new(client.clone(), Arc::clone(&random)),
            services: Store::new(Resource::built_in("", "services"), &[]),
            tokens: Tokens::default(),
            pulls: Pulls::new(),
            blocking: BlockingPool::new("kubelet", BLOCKING_LIMIT),
            messages: Mutex::default(),
            mirrors: Mirrors::default(),
            pressure: Pressure::default(),
            status_due: Arc::default(),
            config,
            client,
            runtime,
            images,
            clock,
            random,
            hierarchies,
            machine,
            runtime_name,
        });
        let nodes = Store::new(Resource::built_in("", "nodes"), &[]);
        let pods = Store::new(Resource::built_in("", "pods"), &[]);
        let manager = Manager::new(Arc::clone(&shared), nodes.clone());
        Ok(Self { shared, manager, pods, nodes, serving })
    }

    /// Wakes what writes the node's status: for whoever changes what the status tells, such as the network getting ready.
    #[must_use]
    pub fn status_trigger(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.status_due)
    }

    /// Runs until `stop`. Containers go on without the agent.
    pub async fn run(mut self, stop: ShutdownSignal) {
        let node = self.shared.config.node_name.clone();
        let started = self.shared.clock.now();
        let mut tasks = tokio::task::JoinSet::new();
        let recorder = Arc::clone(&self.shared.events);
        tasks.spawn(recorder.run(self.shared.client.clone(), stop.clone()));
        let name = format!("metadata.name={node}");
        tasks.spawn(self.reflector(&self.nodes, &name).run(stop.clone()));
        tasks.spawn(self.reflector(&self.shared.services, "").run(stop.clone()));
        tasks.spawn(node::run(Arc::clone(&self.shared), Arc::clone(&self.manager), stop.clone()));
        tasks.spawn(log_rotation::run(Arc::clone(&self.shared), stop.clone()));
        if let Some(Serving { listener, tls }) = self.serving.take() {
            let (shared, manager) = (Arc::clone(&self.shared), Arc::clone(&self.manager));
            let context = Arc::new(Context {
                shared,
                manager,
                access: server::Access::default(),
                rates: server::Rates::default(),
                started,
            });
            tasks.spawn(server::serve(context, listener, tls, stop.clone()));
        }
        tasks.spawn(Arc::clone(&self.manager).run(stop.clone()));
        if let Some(dir) = self.shared.config.static_pods.clone() {
            let (shared, manager) = (Arc::clone(&self.shared), Arc::clone(&self.manager));
            tasks.spawn(static_pods::run(shared, manager, dir, stop.clone()));
        }
        tokio::select! {
            () = self.ready_to_admit() => {}
            () = stop.requested() => {}
        }
        let of_node = format!("spec.nodeName={node}");
        tasks.spawn(self.reflector(&self.pods, &of_node).run(stop.clone()));
        let manager = Arc::clone(&self.manager);
        self.pods.listen(Arc::new(move |change| manager.change(change.clone())));
        tokio::select! {
            () = self.pods.reached(0) => self.remove_orphans().await,
            () = stop.requested() => {}
        }
        stop.requested().await;
        while tasks.join_next().await.is_some() {}
    }

    /// Services give containers their variables, and the node's labels decide who is let in.
    async fn ready_to_admit(&self) {
        self.shared.services.reached(0).await;
        self.nodes.reached(0).await;
        let node = client::ObjectKey::new("", self.shared.config.node_name.as_str());
        let mut revision = 0;
        while self.nodes.get(&node).is_none() {
            revision = self.nodes.revision().max(revision) + 1;
            self.nodes.reached(revision).await;
        }
    }

    fn reflector(&self, store: &Store, fields: &str) -> Reflector {
        let params = ListParams { field_selector: fields.to_owned(), ..ListParams::default() };
        let random = Arc::clone(&self.shared.random);
        Reflector::new(self.shared.client.clone(), store.clone(), "", params, random)
    }

    /// Takes away what an earlier process made for pods that are gone meanwhile.
    async fn remove_orphans(&self) {
        let mut known: BTreeSet<String> =
            self.pods.list("").iter().map(|it| it.uid.to_string()).collect();
        known.extend(self.manager.objects().iter().map(|it| it.uid.to_string()));
        let sandboxes =
            match self.shared.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await {
                Ok(it) => it,
                Err(error) => {
                    tracing::warn!(%error, "could not list sandboxes to find orphans");
                    return;
                }
            };
        for sandbox in sandboxes.iter().filter(|it| !known.contains(&it.metadata.uid)) {
            if let Err(error) = self.shared.runtime.remove_pod_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id, %error, "could not remove an orphaned sandbox");
            }
        }
        let dir = self.shared.config.data_dir.join("pods");
        let names =
            std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|it| it.file_name());
        for name in names.filter(|it| !known.contains(it.to_string_lossy().as_ref())) {
            let path = dir.join(&name);
            let work = move || volumes::tear_down(&path);
            match self.shared.blocking.run(work).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(?name, %error, "could not remove the files of an orphaned pod")
                }
                Err(error) => {
                    tracing::warn!(?name, %error, "could not remove the files of an orphaned pod")
                }
            }
        }
    }
}
