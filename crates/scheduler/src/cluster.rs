//! The scheduler's picture of the cluster: nodes with their pods, and columns of what every pod is compared with.
//!
//! [`Row`]s are the truth; the columns are derived from a row each time it changes. Knows no watch: somebody calls
//! `set_*` and `remove_*`.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::labels::{Requirement, Selector};
use apimachinery::{Object, Value};
use client::ObjectKey;
use compact_str::CompactString;

use crate::labels::Labels;
use crate::node::{NodeLite, Row};
use crate::pod::PodLite;
use crate::remembered::Remembered;
use crate::volumes::Volumes;

/// The node says that it takes no new pods.
pub const UNSCHEDULABLE: u8 = 1;
/// It has taints that keep pods away.
pub const HARD_TAINTS: u8 = 2;
/// It has taints that would rather keep pods away.
pub const SOFT_TAINTS: u8 = 4;

/// One entry for each node, in the order of the rows.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// Thousandths of a CPU that nobody asked for.
    pub free_milli_cpu: Vec<i64>,
    /// Bytes that nobody asked for.
    pub free_memory: Vec<i64>,
    /// Bytes that nobody asked for.
    pub free_ephemeral_storage: Vec<i64>,
    /// How many more pods it takes.
    pub free_pods: Vec<i64>,
    /// CPU as it is scored.
    pub milli_cpu: Amounts,
    /// Memory as it is scored.
    pub memory: Amounts,
    /// The flags above.
    pub flags: Vec<u8>,
    /// All flags of all nodes.
    pub any_flags: u8,
}

/// A resource of every node, in the order of the rows.
#[derive(Debug, Clone, Default)]
pub struct Amounts {
    /// What there is.
    pub has: Vec<i64>,
    /// What is asked for.
    pub asked: Vec<i64>,
    /// The same, with defaults for containers that ask for none.
    pub filled: Vec<i64>,
}

/// How many disruptions a set of pods bears.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Which pods.
    pub selector: Selector,
    /// How many more.
    pub allowed: i64,
    /// Pods that are counted already.
    pub disrupted: Vec<CompactString>,
}

/// Nodes, pods, and what else decides.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    rows: Vec<Row>,
    columns: Columns,
    index: BTreeMap<CompactString, usize>,
    /// The node of each pod that has one.
    placed: BTreeMap<ObjectKey, CompactString>,
    /// Pods on nodes that are not known (yet, or any more).
    homeless: BTreeMap<CompactString, Vec<Arc<PodLite>>>,
    namespaces: BTreeMap<CompactString, Arc<Labels>>,
    services: BTreeMap<ObjectKey, Selector>,
    workloads: BTreeMap<(CompactString, ObjectKey), Selector>,
    budgets: BTreeMap<ObjectKey, Budget>,
    nominated: BTreeMap<CompactString, Vec<Arc<PodLite>>>,
    image_nodes: BTreeMap<CompactString, i64>,
    rows_with_terms: usize,
    remembered: Remembered,
    /// Claims, volumes and storage classes.
    pub volumes: Volumes,
}

static NO_LABELS: std::sync::LazyLock<Labels> = std::sync::LazyLock::new(Labels::default);

impl Cluster {
    /// Every node.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The columns.
    #[must_use]
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Scores of earlier pods.
    pub(crate) fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// A node by name.
    #[must_use]
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.index.get(name).map(|index| &self.rows[*index])
    }

    /// The place of a node among the rows.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The node that a pod is on.
    #[must_use]
    pub fn node_of(&self, pod: &ObjectKey) -> Option<&CompactString> {
        self.placed.get(pod)
    }

    /// The labels of a namespace; none where it is not known.
    #[must_use]
    pub fn namespace_labels(&self, namespace: &str) -> &Labels {
        self.namespaces.get(namespace).map_or(&NO_LABELS, |it| it)
    }

    /// The disruption budgets of a namespace.
    pub fn budgets<'a, 'n>(
        &'a self,
        namespace: &'n str,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Budget)> + use<'a, 'n> {
        let from = ObjectKey::new(namespace, "");
        self.budgets.range(from..).take_while(move |(key, _)| key.namespace == namespace)
    }

    /// How many nodes hold an image.
    #[must_use]
    pub fn nodes_with_image(&self, image: &str) -> i64 {
        self.image_nodes.get(image).copied().unwrap_or_default()
    }

    /// Whether any pod on any node says something about other pods.
    #[must_use]
    pub fn has_pod_terms(&self) -> bool {
        self.rows_with_terms > 0
    }

    /// Pods for which nodes are being emptied, by node.
    pub fn nominated(&self) -> impl Iterator<Item = (&CompactString, &[Arc<PodLite>])> {
        self.nominated.iter().map(|(node, pods)| (node, pods.as_slice()))
    }

    /// Adds or replaces a node.
    pub fn set_node(&mut self, node: NodeLite) {
        self.count_images(&node, 1);
        if let Some(index) = self.position(&node.name) {
            let old = std::mem::replace(&mut self.rows[index].node, Arc::new(node));
            self.count_images(&old, -1);
            return self.refresh(index);
        }
        let index = self.rows.len();
        self.index.insert(node.name.clone(), index);
        let mut row = Row::default();
        let waiting = self.homeless.remove(&node.name).unwrap_or_default();
        waiting.into_iter().for_each(|pod| row.add(pod));
        row.node = Arc::new(node);
        self.rows_with_terms += usize::from(row.pods_with_terms > 0);
        self.rows.push(row);
        self.columns.push();
        self.remembered.rearranged();
        self.refresh(index);
    }

    /// Forgets a node; its pods wait for it to come back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(index) = self.index.remove(name) else { return };
        let row = self.rows.swap_remove(index);
        self.columns.swap_remove(index);
        self.remembered.rearranged();
        self.rows_with_terms -= usize::from(row.pods_with_terms > 0);
        self.count_images(&row.node, -1);
        if !row.pods.is_empty() {
            self.homeless.insert(name.into(), row.pods);
        }
        if let Some(moved) = self.rows.get(index) {
            self.index.insert(moved.node.name.clone(), index);
            self.refresh(index);
        }
        self.columns.sum_flags();
    }

    /// Puts a pod on the node that it names, or moves it there.
    pub fn set_pod(&mut self, pod: Arc<PodLite>) {
        self.remove_pod(&pod.key);
        self.placed.insert(pod.key.clone(), pod.node.clone());
        match self.position(&pod.node) {
            Some(index) => self.change(index, |row| row.add(pod)),
            None => self.homeless.entry(pod.node.clone()).or_default().push(pod),
        }
    }

    /// Takes a pod off its node.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> Option<Arc<PodLite>> {
        let node = self.placed.remove(key)?;
        if let Some(index) = self.position(&node) {
            let pod = self.rows[index].pods.iter().find(|it| it.key == *key).cloned()?;
            self.change(index, |row| drop(row.remove(&pod)));
            return Some(pod);
        }
        let waiting = self.homeless.get_mut(&node)?;
        let position = waiting.iter().position(|it| it.key == *key)?;
        let pod = waiting.swap_remove(position);
        if waiting.is_empty() {
            self.homeless.remove(&node);
        }
        Some(pod)
    }

    /// Notes that a node is being emptied for a pod (`Some`), or not any more.
    pub fn nominate(&mut self, pod: &Arc<PodLite>, node: Option<&str>) {
        self.nominated.retain(|_, pods| {
            pods.retain(|it| it.key != pod.key);
            !pods.is_empty()
        });
        if let Some(node) = node {
            self.nominated.entry(node.into()).or_default().push(Arc::clone(pod));
        }
    }

    /// Sets or forgets a namespace's labels.
    pub fn set_namespace(&mut self, name: &str, namespace: Option<&Value>) {
        match namespace {
            Some(value) => {
                let labels = Labels::from_value(value.at(&["metadata", "labels"]));
                self.namespaces.insert(name.into(), Arc::new(labels));
            }
            None => drop(self.namespaces.remove(name)),
        }
    }

    /// Sets or forgets a service: pods that it selects are spread.
    pub fn set_service(&mut self, key: &ObjectKey, service: Option<&Value>) {
        let selector =
            service.and_then(|it| it.at(&["spec", "selector"])).and_then(Value::as_object);
        match selector {
            Some(labels) => drop(self.services.insert(key.clone(), Selector::from_labels(labels))),
            None => drop(self.services.remove(key)),
        }
    }

    /// Sets or forgets a workload (`ReplicaSet`, `StatefulSet`, `ReplicationController`): its pods are spread.
    pub fn set_workload(&mut self, kind: &str, key: &ObjectKey, workload: Option<&Value>) {
        let at = (kind.into(), key.clone());
        let Some(workload) = workload else {
            self.workloads.remove(&at);
            return;
        };
        let selector = workload.at(&["spec", "selector"]);
        let selector = if kind == "ReplicationController" {
            let labels: Option<&Object> = selector.and_then(Value::as_object);
            labels.map_or(Selector::NOTHING, Selector::from_labels)
        } else {
            Selector::from_value(selector).unwrap_or(Selector::NOTHING)
        };
        self.workloads.insert(at, selector);
    }

    /// Sets or forgets a disruption budget.
    pub fn set_budget(&mut self, key: &ObjectKey, budget: Option<&Value>) {
        let Some(value) = budget else {
            self.budgets.remove(key);
            return;
        };
        let disrupted = value.at(&["status", "disruptedPods"]).and_then(Value::as_object);
        let selector = Selector::from_value(value.at(&["spec", "selector"]));
        let budget = Budget {
            selector: selector.unwrap_or(Selector::NOTHING),
            allowed: value.i64_at(&["status", "disruptionsAllowed"]).unwrap_or_default(),
            disrupted: disrupted.into_iter().flat_map(Object::keys).map(Into::into).collect(),
        };
        self.budgets.insert(key.clone(), budget);
    }

    /// What the services and the workload of a pod select together: the pods that it is spread among where it does not
    /// say itself. `None` where there are none.
    #[must_use]
    pub fn siblings_of(&self, pod: &PodLite) -> Option<Selector> {
        let mut requirements: Vec<Requirement> = Vec::new();
        let from = ObjectKey::new(pod.key.namespace.clone(), "");
        let services = self.services.range(from..);
        for (_, selector) in services.take_while(|(key, _)| key.namespace == pod.key.namespace) {
            if selector.matches(|key| pod.labels.get(key)) {
                requirements.extend_from_slice(selector.requirements());
            }
        }
        if let Some((kind, name)) = &pod.ask.controller {
            let at = (kind.clone(), ObjectKey::new(pod.key.namespace.clone(), name.clone()));
            let workload = self.workloads.get(&at);
            requirements.extend(workload.into_iter().flat_map(|it| it.requirements().to_vec()));
        }
        (!requirements.is_empty()).then(|| Selector::new(requirements))
    }

    fn change(&mut self, index: usize, change: impl FnOnce(&mut Row)) {
        let row = &mut self.rows[index];
        self.rows_with_terms -= usize::from(row.pods_with_terms > 0);
        change(row);
        self.rows_with_terms += usize::from(row.pods_with_terms > 0);
        self.refresh(index);
    }

    fn count_images(&mut self, node: &NodeLite, by: i64) {
        for (name, _) in &node.images {
            let count = self.image_nodes.entry(name.clone()).or_default();
            *count += by;
            if *count <= 0 {
                self.image_nodes.remove(name);
            }
        }
    }

    /// Derives a node's entries in the columns.
    fn refresh(&mut self, index: usize) {
        self.remembered.changed(index);
        let (row, columns) = (&self.rows[index], &mut self.columns);
        let (has, asked) = (&row.node.allocatable, &row.requested);
        columns.free_milli_cpu[index] = has.milli_cpu - asked.milli_cpu;
        columns.free_memory[index] = has.memory - asked.memory;
        columns.free_ephemeral_storage[index] = has.ephemeral_storage - asked.ephemeral_storage;
        columns.milli_cpu.set(index, [has.milli_cpu, asked.milli_cpu, row.nonzero_milli_cpu]);
        columns.memory.set(index, [has.memory, asked.memory, row.nonzero_memory]);
        let pods = i64::try_from(row.pods.len()).unwrap_or(i64::MAX);
        columns.free_pods[index] = row.node.allowed_pods - pods;
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let flags = flag(row.node.unschedulable, UNSCHEDULABLE)
            | flag(row.node.taints.iter().any(|it| it.is_hard()), HARD_TAINTS)
            | flag(row.node.taints.iter().any(|it| !it.is_hard()), SOFT_TAINTS);
        if std::mem::replace(&mut columns.flags[index], flags) != flags {
            columns.sum_flags();
        }
    }
}

impl Columns {
    fn push(&mut self) {
        self.free_milli_cpu.push(0);
        self.free_memory.push(0);
        self.free_ephemeral_storage.push(0);
        self.free_pods.push(0);
        self.flags.push(0);
        [&mut self.milli_cpu, &mut self.memory].into_iter().for_each(Amounts::push);
    }

    fn swap_remove(&mut self, index: usize) {
        self.free_milli_cpu.swap_remove(index);
        self.free_memory.swap_remove(index);
        self.free_ephemeral_storage.swap_remove(index);
        self.free_pods.swap_remove(index);
        self.flags.swap_remove(index);
        self.milli_cpu.swap_remove(index);
        self.memory.swap_remove(index);
    }

    fn sum_flags(&mut self) {
        self.any_flags = self.flags.iter().fold(0, |all, it| all | it);
    }
}

impl Amounts {
    fn push(&mut self) {
        self.has.push(0);
        self.asked.push(0);
        self.filled.push(0);
    }

    fn swap_remove(&mut self, index: usize) {
        self.has.swap_remove(index);
        self.asked.swap_remove(index);
        self.filled.swap_remove(index);
    }

    /// What there is, what is asked for, and that with defaults.
    fn set(&mut self, index: usize, [has, asked, filled]: [i64; 3]) {
        self.has[index] = has;
        self.asked[index] = asked;
        self.filled[index] = filled;
    }
}
