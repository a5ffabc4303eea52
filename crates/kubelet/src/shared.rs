//! What all workers of an agent share: the runtime, the client, the clock, the node's own facts.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use client::events::{EventType, ObjectReference};
use client::reflector::Cached;
use client::{Client, EventRecorder, Store};
use component_base::task::BlockingPool;
use component_base::{Clock, Random};
use cri::{ImageService, RuntimeService};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use sys::cgroup::Hierarchies;
use tokio::sync::Notify;

use crate::config::Config;
use crate::fields::FieldFacts;
use crate::images::Pulls;
use crate::node::Machine;
use crate::objects::Objects;
use crate::pod::status::NodeFacts;
use crate::pressure::Pressure;
use crate::spec::{self, ContainerKind};
use crate::static_pods::{self, mirror::Mirrors};
use crate::volumes::token::Tokens;

/// The parts of an agent that do not change.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    pub(crate) images: Arc<dyn ImageService>,
    pub(crate) events: Arc<EventRecorder>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) objects: Objects,
    pub(crate) services: Store,
    pub(crate) tokens: Tokens,
    pub(crate) pulls: Pulls,
    pub(crate) blocking: BlockingPool,
    /// None where the kernel has no groups: then containers run without limits of the pod.
    pub(crate) hierarchies: Option<Hierarchies>,
    pub(crate) machine: Machine,
    pub(crate) runtime_name: String,
    /// Messages of containers that ended, by id: read once.
    pub(crate) messages: Mutex<BTreeMap<String, String>>,
    /// What the server shows of static pods.
    pub(crate) mirrors: Mirrors,
    /// What the node is short of.
    pub(crate) pressure: Pressure,
    /// Rung when the node's status is to be written now.
    pub(crate) status_due: Arc<Notify>,
}

impl Shared {
    /// Records an event about a pod.
    pub(crate) fn event(&self, pod: &Pod, kind: EventType, reason: &str, message: &str) {
        self.events.record(reference(pod), kind, reason, message);
    }

    /// Records an event about a container of a pod.
    pub(crate) fn container_event(
        &self,
        pod: &Pod,
        (list, name): (ContainerKind, &str),
        (kind, reason): (EventType, &str),
        message: &str,
    ) {
        self.events.record(reference(pod).field(list.field_path(name)), kind, reason, message);
    }

    /// A pod with the status that people are told; that of a static pod stands in its mirror.
    pub(crate) fn told_pod(&self, object: &Cached) -> Option<Pod> {
        let mut pod = object.decode::<Pod>()?;
        if static_pods::is_static(&pod)
            && let Some(mirror) = self.mirrors.get(&object.key)
        {
            pod.status = mirror.decode::<Pod>()?.status;
        }
        Some(pod)
    }

    pub(crate) fn node_facts(&self) -> NodeFacts {
        NodeFacts {
            addresses: self.config.node_ips.iter().map(ToString::to_string).collect(),
            runtime_name: self.runtime_name.clone(),
        }
    }

    pub(crate) fn field_facts(&self, pod: &Pod, pod_ips: Vec<String>) -> FieldFacts {
        let host_ips: Vec<String> = self.node_facts().addresses;
        let pod_ips = if spec::is_host_network(pod) { host_ips.clone() } else { pod_ips };
        FieldFacts { host_ips, pod_ips, allocatable: self.machine.allocatable(&self.config) }
    }

    /// The variables of the services that a pod sees.
    pub(crate) fn service_variables(&self, pod: &Pod) -> Vec<(String, String)> {
        let links = spec::spec(pod).enable_service_links.unwrap_or(true);
        let namespace = spec::namespace(pod);
        let api = self.services.get(&client::ObjectKey::new("default", "kubernetes"));
        let own = if links { self.services.list(namespace) } else { Vec::new() };
        let mut all: Vec<Value> = Vec::new();
        for service in api.iter().chain(&own) {
            let value = service.to_value();
            if !all.iter().any(|it| it.str_at(&["metadata", "name"]) == service.key.name) {
                all.push(value);
            }
        }
        crate::environment::service_variables(&all)
    }
}

/// A reference to a pod, for events.
pub(crate) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: spec::namespace(pod).to_owned(),
        name: spec::name(pod).to_owned(),
        uid: spec::uid(pod).to_owned(),
        resource_version: pod.metadata.resource_version.clone().unwrap_or_default(),
        field_path: String::new(),
    }
}
