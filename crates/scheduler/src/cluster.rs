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
use parking_lot::Mutex;

use crate::alike::Alike;
use crate::devices::Devices;
use crate::emptied::Emptied;
use crate::groups::Groups;
use crate::labels::Labels;
use crate::node::{NodeLite, Replaced, Row};
use crate::pod::PodLite;
use crate::remembered::Remembered;
use crate::tallies::{Attitude, HeldTerm, Question, Tallies};
use crate::topology::Domains;
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
    namespaces: Namespaces,
    services: BTreeMap<ObjectKey, Selector>,
    workloads: BTreeMap<(CompactString, ObjectKey), Selector>,
    budgets: BTreeMap<ObjectKey, Budget>,
    nominated: BTreeMap<CompactString, Vec<Arc<PodLite>>>,
    /// The node that is being emptied for each of these pods.
    nominations: BTreeMap<ObjectKey, CompactString>,
    image_nodes: BTreeMap<CompactString, i64>,
    remembered: Remembered,
    alike: Alike,
    emptied: Emptied,
    tallies: Tallies,
    topology: Topology,
    /// Claims, volumes and storage classes.
    pub volumes: Volumes,
    /// Devices, and claims of them.
    pub devices: Devices,
    /// Groups of pods that are scheduled together.
    pub groups: Groups,
}

static NO_LABELS: std::sync::LazyLock<Arc<Labels>> = std::sync::LazyLock::new(Arc::default);

type Namespaces = BTreeMap<CompactString, Arc<Labels>>;

fn labels_in(namespaces: &Namespaces, name: &str) -> Arc<Labels> {
    Arc::clone(namespaces.get(name).unwrap_or(&NO_LABELS))
}

/// The domains of the labels that somebody asked about, until nodes change.
#[derive(Debug, Default)]
struct Topology(Mutex<BTreeMap<CompactString, Arc<Domains>>>);

impl Clone for Topology {
    /// A copy knows none yet.
    fn clone(&self) -> Self {
        Self::default()
    }
}

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

    /// What earlier pods were told.
    pub(crate) fn alike(&self) -> &Alike {
        &self.alike
    }

    /// What emptying nodes would come to for earlier pods.
    pub(crate) fn emptied(&self) -> &Emptied {
        &self.emptied
    }

    /// The domains of a label.
    pub(crate) fn domains(&self, key: &str) -> Arc<Domains> {
        let mut known = self.topology.0.lock();
        if let Some(domains) = known.get(key) {
            return Arc::clone(domains);
        }
        let domains = Arc::new(Domains::of(&self.rows, key));
        known.insert(key.into(), Arc::clone(&domains));
        domains
    }

    /// How many pods of each row answer to a question.
    pub(crate) fn ask(&self, question: &Question) -> Arc<Vec<u32>> {
        self.tallies.ask(question, &self.rows, &|name| labels_in(&self.namespaces, name))
    }

    /// What placed pods say of others.
    pub(crate) fn held(&self, attitude: Attitude) -> impl Iterator<Item = &HeldTerm> {
        self.tallies.held(attitude)
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

    /// How many pods have a node.
    #[must_use]
    pub fn placed(&self) -> usize {
        self.placed.len()
    }

    /// The node that a pod is on.
    #[must_use]
    pub fn node_of(&self, pod: &ObjectKey) -> Option<&CompactString> {
        self.placed.get(pod)
    }

    /// The labels of a namespace; none where it is not known.
    #[must_use]
    pub fn namespace_labels(&self, namespace: &str) -> &Labels {
        self.namespaces.get(namespace).unwrap_or(&NO_LABELS)
    }

    /// Whether there are any disruption budgets.
    #[must_use]
    pub fn has_budgets(&self) -> bool {
        !self.budgets.is_empty()
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
        self.tallies.holds_any()
    }

    /// Pods for which nodes are being emptied, by node.
    pub fn nominated(&self) -> impl Iterator<Item = (&CompactString, &[Arc<PodLite>])> {
        self.nominated.iter().map(|(node, pods)| (node, pods.as_slice()))
    }

    /// The node that is being emptied for a pod.
    #[must_use]
    pub fn nomination_of(&self, pod: &ObjectKey) -> Option<&CompactString> {
        self.nominations.get(pod)
    }

    /// Pods for which a node is being emptied.
    #[must_use]
    pub fn nominated_on(&self, node: &str) -> &[Arc<PodLite>] {
        self.nominated.get(node).map_or(&[], Vec::as_slice)
    }

    /// Adds or replaces a node.
    pub fn set_node(&mut self, node: NodeLite) {
        if let Some(index) = self.position(&node.name) {
            let same_images = self.rows[index].node.images == node.images;
            if self.rows[index].node.labels != node.labels {
                self.topology = Topology::default();
            }
            if !same_images {
                self.count_images(&node, 1);
            }
            let old = std::mem::replace(&mut self.rows[index].node, Arc::new(node));
            if !same_images {
                self.count_images(&old, -1);
                self.remembered.rearranged();
            }
            return self.refresh(index);
        }
        self.count_images(&node, 1);
        let index = self.rows.len();
        self.index.insert(node.name.clone(), index);
        let mut row = Row { place: index, ..Row::default() };
        let waiting = self.homeless.remove(&node.name).unwrap_or_default();
        row.node = Arc::new(node);
        self.rows.push(row);
        self.columns.push();
        self.tallies.row_added();
        self.rearranged();
        for pod in waiting {
            self.tell(index, &pod, true);
            self.rows[index].add(pod);
        }
        self.refresh(index);
    }

    /// Rows came, went, or moved.
    fn rearranged(&mut self) {
        self.remembered.rearranged();
        self.topology = Topology::default();
    }

    /// A pod comes to a row, or leaves it.
    fn tell(&mut self, index: usize, pod: &PodLite, comes: bool) {
        let namespaces = &self.namespaces;
        self.tallies.pod_moved(index, pod, comes, &|name| labels_in(namespaces, name));
    }

    /// What the pods of a row hold is held there so many times more.
    fn hold(&mut self, index: usize, by: i64) {
        for pod in &self.rows[index].pods {
            if let Some(terms) = pod.terms.as_deref() {
                self.tallies.terms_moved(index, terms, by);
            }
        }
    }

    /// Forgets a node; its pods wait for it to come back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(index) = self.index.remove(name) else { return };
        let last = self.rows.len() - 1;
        self.hold(index, -1);
        if last != index {
            self.hold(last, -1);
        }
        let row = self.rows.swap_remove(index);
        self.columns.swap_remove(index);
        self.tallies.row_removed(index);
        self.rearranged();
        self.count_images(&row.node, -1);
        if !row.pods.is_empty() {
            self.homeless.insert(name.into(), row.pods);
        }
        if let Some(moved) = self.rows.get_mut(index) {
            moved.place = index;
            self.index.insert(moved.node.name.clone(), index);
            self.hold(index, 1);
            self.refresh(index);
        }
        self.columns.sum_flags();
    }

    /// Puts a pod on the node that it names, or moves it there.
    pub fn set_pod(&mut self, pod: Arc<PodLite>) {
        self.groups.placed(&pod);
        if let Some(index) = self.placed.get(&pod.key).and_then(|it| self.position(it))
            && let Some(replaced) = self.rows[index].replace(&pod)
        {
            if replaced == Replaced::Ranked {
                self.remembered.changed(index);
            }
            return;
        }
        self.take_pod(&pod.key);
        self.placed.insert(pod.key.clone(), pod.node.clone());
        match self.position(&pod.node) {
            Some(index) => {
                self.tell(index, &pod, true);
                self.rows[index].add(pod);
                self.refresh(index);
            }
            None => self.homeless.entry(pod.node.clone()).or_default().push(pod),
        }
    }

    /// Takes a pod off its node, and out of its group.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> Option<Arc<PodLite>> {
        self.groups.gone(key);
        self.take_pod(key)
    }

    /// A pod that has a node, where that node is known.
    #[must_use]
    pub fn pod(&self, key: &ObjectKey) -> Option<&Arc<PodLite>> {
        let row = self.row(self.placed.get(key)?)?;
        Some(&row.pods[row.find(key)?])
    }

    /// Thinks a pod away from its node; it stays in its group, and comes back by [`Self::set_pod`].
    pub fn lift(&mut self, key: &ObjectKey) -> Option<Arc<PodLite>> {
        self.take_pod(key)
    }

    fn take_pod(&mut self, key: &ObjectKey) -> Option<Arc<PodLite>> {
        let node = self.placed.remove(key)?;
        if let Some(index) = self.position(&node) {
            let row = &self.rows[index];
            let pod = Arc::clone(&row.pods[row.find(key)?]);
            self.tell(index, &pod, false);
            self.rows[index].remove(&pod);
            self.refresh(index);
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

    /// Whether a node is being emptied for a pod.
    #[must_use]
    pub fn is_nominated(&self, pod: &ObjectKey) -> bool {
        self.nominations.contains_key(pod)
    }

    /// What is said of a node is not what it was, though the node and its pods are.
    fn said_anew(&mut self, node: &str) {
        if let Some(index) = self.position(node) {
            self.remembered.changed(index);
        }
    }

    /// Notes that a node is being emptied for a pod (`Some`), or not any more.
    pub fn nominate(&mut self, pod: &Arc<PodLite>, node: Option<&str>) {
        if let Some(before) = self.nominations.remove(&pod.key) {
            if let Some(pods) = self.nominated.get_mut(&before) {
                pods.retain(|it| it.key != pod.key);
                if pods.is_empty() {
                    self.nominated.remove(&before);
                }
            }
            self.said_anew(&before);
        }
        if let Some(node) = node {
            self.said_anew(node);
            self.nominated.entry(node.into()).or_default().push(Arc::clone(pod));
            self.nominations.insert(pod.key.clone(), node.into());
        }
    }

    /// Sets or forgets an object of a resource that says something about nodes or pods; nodes, pods and resource claims,
    /// of which more follows, have ways of their own.
    pub fn set(&mut self, plural: &str, key: &ObjectKey, object: Option<&Value>) {
        match plural {
            "namespaces" => self.set_namespace(&key.name, object),
            "services" => self.set_service(key, object),
            "replicationcontrollers" => self.set_workload("ReplicationController", key, object),
            "replicasets" => self.set_workload("ReplicaSet", key, object),
            "statefulsets" => self.set_workload("StatefulSet", key, object),
            "poddisruptionbudgets" => self.set_budget(key, object),
            "persistentvolumeclaims" => self.volumes.set_claim(key, object),
            "persistentvolumes" => self.volumes.set_volume(&key.name, object),
            "storageclasses" => self.volumes.set_class(&key.name, object),
            "csinodes" => self.volumes.set_csi_node(&key.name, object),
            "csidrivers" => self.volumes.set_csi_driver(&key.name, object),
            "csistoragecapacities" => self.volumes.set_capacity(key, object),
            "volumeattachments" => self.volumes.set_attachment(&key.name, object),
            "deviceclasses" => self.devices.set_class(&key.name, object),
            "resourceslices" => self.devices.set_slice(&key.name, object),
            "devicetaintrules" => self.devices.set_rule(&key.name, object),
            other => unreachable!("because nobody brings {other} here"),
        }
    }

    /// Sets or forgets a namespace's labels.
    pub fn set_namespace(&mut self, name: &str, namespace: Option<&Value>) {
        let labels = namespace.map(|it| Labels::from_value(it.at(&["metadata", "labels"])));
        let before = self.namespaces.get(name);
        if before.map(|it| &**it) == labels.as_ref() {
            return;
        }
        match labels {
            Some(labels) => drop(self.namespaces.insert(name.into(), Arc::new(labels))),
            None => drop(self.namespaces.remove(name)),
        }
        self.tallies.namespaces_changed();
        // Whom terms mean is part of what was said of nodes.
        self.remembered.rearranged();
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
