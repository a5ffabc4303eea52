//! What the scheduler keeps of a node, and which pods are on it.

use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use compact_str::CompactString;

use crate::labels::Labels;
use crate::pod::PodLite;
use crate::resources::Resources;
use crate::terms::Taint;

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeLite {
    /// Its name.
    pub name: CompactString,
    /// Its labels.
    pub labels: Labels,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`
    pub unschedulable: bool,
    /// What it has to give.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: i64,
    /// The images it holds, by each of their names, with their sizes.
    pub images: Vec<(CompactString, i64)>,
    /// What it says it can do.
    pub features: Vec<CompactString>,
}

impl NodeLite {
    /// What matters of a node.
    #[must_use]
    pub fn from_value(node: &Value) -> Self {
        let allocatable = node.at(&["status", "allocatable"]);
        let pods = allocatable.and_then(|it| it.get("pods")).map(crate::resources::quantity);
        let mut images = Vec::new();
        for image in node.items_at(&["status", "images"]) {
            let size = image.i64_at(&["sizeBytes"]).unwrap_or_default();
            let names = image.items_at(&["names"]).iter().filter_map(Value::as_str);
            images.extend(names.map(|name| (CompactString::from(name), size)));
        }
        images.sort();
        Self {
            name: node.str_at(&["metadata", "name"]).into(),
            labels: Labels::from_value(node.at(&["metadata", "labels"])),
            taints: node
                .items_at(&["spec", "taints"])
                .iter()
                .filter_map(Taint::from_value)
                .collect(),
            unschedulable: node.bool_at(&["spec", "unschedulable"]),
            allocatable: Resources::from_list(allocatable),
            allowed_pods: pods.map_or(0, |it| it.value()),
            images,
            features: node
                .items_at(&["status", "declaredFeatures"])
                .iter()
                .filter_map(|it| it.as_str().map(Into::into))
                .collect(),
        }
    }
}

/// A node with its pods and what they hold.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Its place among the rows.
    pub place: usize,
    /// The node.
    pub node: Arc<NodeLite>,
    /// Its pods.
    pub pods: Vec<Arc<PodLite>>,
    /// What they ask for together.
    pub requested: Resources,
    /// The same, with defaults for containers that ask for none.
    pub nonzero_milli_cpu: i64,
    /// See above.
    pub nonzero_memory: i64,
    /// How many claims and volumes of in-tree plugins they use, each counted for each of its users.
    pub claims: usize,
}

/// What a pod that is taken anew brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// Nothing.
    Same,
    /// It is more or less important than it was, of pods that might go.
    Ranked,
}

impl Row {
    /// Puts a pod on the node.
    pub fn add(&mut self, pod: Arc<PodLite>) {
        self.requested.add(&pod.requests.exact);
        self.nonzero_milli_cpu += pod.requests.nonzero_milli_cpu;
        self.nonzero_memory += pod.requests.nonzero_memory;
        self.claims += pod.ask.volumes();
        self.pods.push(pod);
    }

    /// Takes a pod anew that is there already, where nothing changed that others are told of; `None` otherwise.
    pub(crate) fn replace(&mut self, pod: &Arc<PodLite>) -> Option<Replaced> {
        if pod.node != self.node.name {
            return None;
        }
        let index = self.find(&pod.key)?;
        let there = &mut self.pods[index];
        if !there.looks_like(pod) {
            return None;
        }
        let same = there.started == pod.started;
        self.claims = self.claims + pod.ask.volumes() - there.ask.volumes();
        *there = Arc::clone(pod);
        Some(if same { Replaced::Same } else { Replaced::Ranked })
    }

    /// Where a pod is among those of the node. Whoever is asked about came lately, mostly.
    pub(crate) fn find(&self, key: &ObjectKey) -> Option<usize> {
        self.pods.iter().rposition(|it| it.key == *key)
    }

    /// Takes a pod off the node.
    pub fn remove(&mut self, pod: &PodLite) -> Option<Arc<PodLite>> {
        let index = self.find(&pod.key)?;
        let pod = self.pods.swap_remove(index);
        self.requested.subtract(&pod.requests.exact);
        self.nonzero_milli_cpu -= pod.requests.nonzero_milli_cpu;
        self.nonzero_memory -= pod.requests.nonzero_memory;
        self.claims -= pod.ask.volumes();
        Some(pod)
    }
}
