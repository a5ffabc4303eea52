//! What users do to a cluster, by chance: every sort of object is made, changed, scaled, undone and deleted.

mod autoscale;
mod custom;
mod devices;
mod disks;
mod objects;
mod user;

use apimachinery::{Value, value};
use client::Resource;
use client::call::DeleteParams;
use compact_str::CompactString;

use crate::demand::Demand;
use crate::dice::Dice;
use crate::node::CPU_MILLI;
use crate::observer::{Place, State};
use crate::rules::{controller, is_deleting};
pub(crate) use user::User;

/// The namespaces that are worked in.
const NAMESPACES: [&str; 4] = ["red", "green", "blue", "grey"];
/// How many names there are for objects of one sort in a namespace.
const NAMES: i64 = 3;
/// How often, in a thousand, what was written is read back.
const READ_BACK: u32 = 400;
/// How many nodes' worth of pods find a place easily, whatever else happened.
const EASY_NODES: i64 = 2;

/// A sort of operation, and how often it is done beside the others.
type Sort = (u32, Deed);

#[derive(Debug, Clone, Copy)]
enum Deed {
    Namespace,
    DeleteNamespace,
    Create(Workload),
    Scale,
    ChangeTemplate,
    Pause,
    Delete,
    Job,
    CronJob,
    ChangeJob,
    Service,
    Budget,
    Evict,
    DeletePod,
    Pod,
    Cordon,
    Drain,
    Quota,
    ConfigMap,
    Cycle,
    Touch,
    Remove,
    Retention,
    Claim,
    PodWithClaim,
    DeleteClaim,
    Volumes,
    Define,
    Undefine,
    Widget,
    ChangeWidget,
    DeviceClaim,
    PodWithDevice,
    DeleteDeviceClaim,
    Autoscaler,
    ChangeAutoscaler,
}

#[derive(Debug, Clone, Copy)]
enum Workload {
    Deployment,
    ReplicaSet,
    ReplicationController,
    StatefulSet,
    DaemonSet,
}

const SORTS: &[Sort] = &[
    (30, Deed::Namespace),
    (2, Deed::DeleteNamespace),
    (50, Deed::Create(Workload::Deployment)),
    (15, Deed::Create(Workload::ReplicaSet)),
    (15, Deed::Create(Workload::ReplicationController)),
    (30, Deed::Create(Workload::StatefulSet)),
    (8, Deed::Create(Workload::DaemonSet)),
    (110, Deed::Scale),
    (90, Deed::ChangeTemplate),
    (15, Deed::Pause),
    (35, Deed::Delete),
    (45, Deed::Job),
    (6, Deed::CronJob),
    (25, Deed::ChangeJob),
    (25, Deed::Service),
    (25, Deed::Budget),
    (90, Deed::Evict),
    (40, Deed::DeletePod),
    (15, Deed::Pod),
    (10, Deed::Cordon),
    (4, Deed::Drain),
    (10, Deed::Quota),
    (60, Deed::ConfigMap),
    (4, Deed::Cycle),
    (80, Deed::Touch),
    (45, Deed::Remove),
    (10, Deed::Retention),
    (30, Deed::Claim),
    (30, Deed::PodWithClaim),
    (12, Deed::DeleteClaim),
    (20, Deed::Volumes),
    (4, Deed::Define),
    (2, Deed::Undefine),
    (25, Deed::Widget),
    (25, Deed::ChangeWidget),
    (12, Deed::DeviceClaim),
    (30, Deed::PodWithDevice),
    (8, Deed::DeleteDeviceClaim),
    (15, Deed::Autoscaler),
    (10, Deed::ChangeAutoscaler),
];

/// The group and plural of what is kept of a kind.
fn resource(kind: &str) -> Resource {
    let (group, plural) = match kind {
        "Deployment" => ("apps", "deployments"),
        "ReplicaSet" => ("apps", "replicasets"),
        "ReplicationController" => ("", "replicationcontrollers"),
        "StatefulSet" => ("apps", "statefulsets"),
        "DaemonSet" => ("apps", "daemonsets"),
        "Job" => ("batch", "jobs"),
        "CronJob" => ("batch", "cronjobs"),
        "Service" => ("", "services"),
        "PodDisruptionBudget" => ("policy", "poddisruptionbudgets"),
        "ResourceQuota" => ("", "resourcequotas"),
        "ConfigMap" => ("", "configmaps"),
        "Namespace" => ("", "namespaces"),
        "Node" => ("", "nodes"),
        "PersistentVolumeClaim" => ("", "persistentvolumeclaims"),
        "PersistentVolume" => ("", "persistentvolumes"),
        "ResourceClaim" => ("resource.k8s.io", "resourceclaims"),
        "HorizontalPodAutoscaler" => ("autoscaling", "horizontalpodautoscalers"),
        "CustomResourceDefinition" => ("apiextensions.k8s.io", "customresourcedefinitions"),
        "Widget" => return custom::widgets(),
        _ => ("", "pods"),
    };
    Resource::built_in(group, plural)
}

/// The workload of one run.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) user: User,
    dice: Dice,
}

impl Driver {
    pub(crate) fn new(user: User, seed: u64) -> Self {
        Self { user, dice: Dice::new(seed, "workload") }
    }

    /// Does one thing.
    pub(crate) async fn act(&self) {
        let total: u32 = SORTS.iter().map(|it| it.0).sum();
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        let mut point = u32::try_from(self.dice.below(total)).unwrap_or(0);
        for (weight, deed) in SORTS {
            if point < *weight {
                return self.perform(*deed).await;
            }
            point -= weight;
        }
    }

    async fn perform(&self, deed: Deed) {
        match deed {
            Deed::Namespace => self.namespace().await,
            Deed::DeleteNamespace => self.delete_namespace().await,
            Deed::Create(workload) => self.create_workload(workload).await,
            Deed::Scale => self.scale().await,
            Deed::ChangeTemplate => self.change_template().await,
            Deed::Pause => self.pause().await,
            Deed::Delete => {
                let kinds = [
                    "Deployment",
                    "StatefulSet",
                    "DaemonSet",
                    "ReplicaSet",
                    "ReplicationController",
                ];
                self.delete_one(&kinds).await;
            }
            Deed::Job => self.make("Job", objects::job).await,
            Deed::CronJob => self.make("CronJob", objects::cron_job).await,
            Deed::ChangeJob => self.change_job().await,
            Deed::Service => self.for_app("Service", objects::service).await,
            Deed::Budget => self.for_app("PodDisruptionBudget", objects::budget).await,
            Deed::Evict => self.evict().await,
            Deed::DeletePod => self.delete_pod().await,
            Deed::Pod => self.make("Pod", objects::pod).await,
            Deed::Cordon => self.cordon().await,
            Deed::Drain => self.drain().await,
            Deed::Quota => self.make("ResourceQuota", objects::quota).await,
            Deed::ConfigMap => self.config_map().await,
            Deed::Cycle => self.cycle().await,
            Deed::Touch => self.touch().await,
            Deed::Remove => {
                let kinds = [
                    "Service",
                    "PodDisruptionBudget",
                    "ResourceQuota",
                    "ConfigMap",
                    "Job",
                    "CronJob",
                    "HorizontalPodAutoscaler",
                ];
                self.delete_one(&kinds).await;
            }
            Deed::Retention => self.change_retention().await,
            Deed::Claim => self.claim().await,
            Deed::PodWithClaim => self.pod_with_claim().await,
            Deed::DeleteClaim => self.delete_claim().await,
            Deed::Volumes => self.tend_volumes().await,
            Deed::Define => self.define().await,
            Deed::Undefine => self.undefine().await,
            Deed::Widget => self.widget().await,
            Deed::ChangeWidget => self.change_widget().await,
            Deed::DeviceClaim => self.device_claim().await,
            Deed::PodWithDevice => self.pod_with_device().await,
            Deed::DeleteDeviceClaim => self.delete_device_claim().await,
            Deed::Autoscaler => self.autoscaler().await,
            Deed::ChangeAutoscaler => self.change_autoscaler().await,
        }
    }

    fn a_namespace(&self) -> &'static str {
        NAMESPACES[self.dice.below(NAMESPACES.len())]
    }

    /// Some object of these kinds that the workload made.
    fn some(&self, kinds: &[&'static str]) -> Option<(&'static str, Place)> {
        let kind = *self.dice.pick(kinds)?;
        let places = self.user.observer.with(|state| ours(state, kind));
        Some((kind, self.dice.pick(&places)?.clone()))
    }

    async fn written(&self, kind: &str, written: Option<Value>) {
        if let Some(written) = written
            && self.dice.chance(READ_BACK)
        {
            self.user.read_back(&resource(kind), &written).await;
        }
    }

    async fn namespace(&self) {
        let name = self.a_namespace();
        let made = self.user.create(&resource("Namespace"), &objects::namespace(name)).await;
        if made.is_some() {
            self.device_template(name).await;
        }
        self.written("Namespace", made).await;
    }

    async fn delete_namespace(&self) {
        let place = Place { namespace: CompactString::default(), name: self.a_namespace().into() };
        self.user.delete(&resource("Namespace"), &place, &DeleteParams::default()).await;
    }

    async fn make(&self, kind: &'static str, object: fn(&Dice, &str, &str) -> Value) {
        let name = format!("{}-{}", kind.to_lowercase(), self.dice.between(1, NAMES));
        let object = object(&self.dice, self.a_namespace(), &name);
        let made = self.user.create(&resource(kind), &object).await;
        self.written(kind, made).await;
    }

    async fn create_workload(&self, workload: Workload) {
        match workload {
            Workload::Deployment => self.make("Deployment", objects::deployment).await,
            Workload::ReplicaSet => self.make("ReplicaSet", objects::replica_set).await,
            Workload::ReplicationController => {
                self.make("ReplicationController", objects::replication_controller).await;
            }
            Workload::StatefulSet => self.make("StatefulSet", objects::stateful_set).await,
            Workload::DaemonSet => self.make("DaemonSet", objects::daemon_set).await,
        }
    }

    /// Makes something that selects the pods of a workload.
    async fn for_app(&self, kind: &'static str, object: fn(&Dice, &str, &str, &str) -> Value) {
        let kinds =
            ["Deployment", "StatefulSet", "Deployment", "ReplicaSet", "ReplicationController"];
        let app = self.some(&kinds);
        let Some((_, app)) = app else { return self.namespace().await };
        let object = object(&self.dice, &app.namespace, &app.name, &app.name);
        let made = self.user.create(&resource(kind), &object).await;
        self.written(kind, made).await;
    }

    async fn scale(&self) {
        let found = self.some(&[
            "Deployment",
            "Deployment",
            "StatefulSet",
            "ReplicaSet",
            "ReplicationController",
        ]);
        let Some((kind, place)) = found else { return self.namespace().await };
        let patch = value!({"spec": {"replicas": (self.dice.between(0, 6))}});
        let subresource = if self.dice.chance(500) { "scale" } else { "" };
        let done = self.user.patch(&resource(kind), &place, subresource, &patch).await;
        if subresource.is_empty() {
            self.written(kind, done).await;
        }
    }

    /// Another image, or an earlier one: both are a rollout.
    async fn change_template(&self) {
        let found = self.some(&["Deployment", "Deployment", "StatefulSet", "DaemonSet"]);
        let Some((kind, place)) = found else { return self.namespace().await };
        let image = format!("i:{}", self.dice.between(1, 4));
        let done = self
            .user
            .update(&resource(kind), &place, |it| {
                let path = ["spec", "template", "spec", "containers"];
                for container in it.items_at_mut(&path) {
                    container.set_at(&["image"], image.as_str());
                }
            })
            .await;
        self.written(kind, done).await;
    }

    async fn pause(&self) {
        let Some((kind, place)) = self.some(&["Deployment"]) else { return self.namespace().await };
        let patch = value!({"spec": {"paused": (self.dice.chance(500))}});
        let done = self.user.patch(&resource(kind), &place, "", &patch).await;
        self.written(kind, done).await;
    }

    async fn change_job(&self) {
        let Some((kind, place)) = self.some(&["Job", "Job", "CronJob"]) else {
            return self.namespace().await;
        };
        let suspend = self.dice.chance(300);
        let mut patch = value!({"spec": {"suspend": suspend}});
        if kind == "Job" && self.dice.chance(500) {
            patch = value!({"spec": {"parallelism": (self.dice.between(0, 4))}});
        }
        let done = self.user.patch(&resource(kind), &place, "", &patch).await;
        self.written(kind, done).await;
    }

    async fn delete_one(&self, kinds: &[&'static str]) {
        let Some((kind, place)) = self.some(kinds) else { return self.namespace().await };
        let ways = [None, Some("Background"), Some("Foreground"), Some("Orphan")];
        let params =
            DeleteParams { propagation: ways[self.dice.below(ways.len())], ..Default::default() };
        self.user.delete(&resource(kind), &place, &params).await;
    }

    fn a_pod(&self, which: impl Fn(&Value) -> bool) -> Option<Place> {
        let pods = self.user.observer.with(|state| -> Vec<Place> {
            let all = state.all("Pod").filter(|(place, pod)| is_ours(place) && which(pod));
            all.map(|(place, _)| place.clone()).collect()
        });
        self.dice.pick(&pods).cloned()
    }

    async fn evict(&self) {
        let Some(pod) = self.a_pod(|_| true) else { return self.namespace().await };
        let eviction = objects::eviction(&pod.namespace, &pod.name);
        self.user.evict(&pod, &eviction).await;
    }

    async fn delete_pod(&self) {
        let forced = self.dice.chance(150);
        // What runs under an ordinal is never said to be gone while it runs.
        let ordinal = |pod: &Value| {
            let owners = pod.items_at(&["metadata", "ownerReferences"]);
            owners.iter().any(|it| it.str_at(&["kind"]) == "StatefulSet")
        };
        let Some(pod) = self.a_pod(|pod| !forced || !ordinal(pod)) else {
            return self.namespace().await;
        };
        let params =
            DeleteParams { grace_period_seconds: forced.then_some(0), ..Default::default() };
        self.user.delete(&resource("Pod"), &pod, &params).await;
    }

    async fn cordon(&self) {
        let Some((_, node)) = self.some(&["Node"]) else { return self.namespace().await };
        let patch = value!({"spec": {"unschedulable": (self.dice.chance(400))}});
        let done = self.user.patch(&resource("Node"), &node, "", &patch).await;
        self.written("Node", done).await;
    }

    /// What `kubectl drain` does, as far as budgets let it.
    async fn drain(&self) {
        let Some((_, node)) = self.some(&["Node"]) else { return self.namespace().await };
        let closed = value!({"spec": {"unschedulable": true}});
        self.user.patch(&resource("Node"), &node, "", &closed).await;
        let on_node = self.user.observer.with(|state| -> Vec<Place> {
            let all = state.all("Pod").filter(|(place, pod)| {
                is_ours(place) && pod.str_at(&["spec", "nodeName"]) == node.name
            });
            all.map(|(place, _)| place.clone()).collect()
        });
        for pod in on_node {
            let eviction = objects::eviction(&pod.namespace, &pod.name);
            self.user.evict(&pod, &eviction).await;
        }
    }

    /// A config map that may belong to others.
    async fn config_map(&self) {
        let namespace = self.a_namespace();
        let owner =
            self.owner(namespace, &["ConfigMap", "ConfigMap", "Deployment", "Service", "Widget"]);
        let name = format!("cm-{}", self.dice.between(1, 12));
        let owners = if self.dice.chance(700) { owner.into_iter().collect() } else { Vec::new() };
        let object = objects::config_map(&self.dice, namespace, &name, owners);
        let made = self.user.create(&resource("ConfigMap"), &object).await;
        self.written("ConfigMap", made).await;
    }

    /// A reference to something of these kinds, as an owner.
    fn owner(&self, namespace: &str, kinds: &[&str]) -> Option<Value> {
        self.user.observer.with(|state| {
            let kind = self.dice.pick(kinds)?;
            let names = state.names(kind, namespace);
            let name = self.dice.pick(&names)?.clone();
            let place = Place { namespace: namespace.into(), name };
            state.get(kind, &place).map(|it| objects::owned_by(&it.value, self.dice.chance(300)))
        })
    }

    /// Two config maps that own each other, of which one is deleted.
    async fn cycle(&self) {
        let namespace = self.a_namespace();
        let names = [1, 2].map(|it| format!("ring-{}-{it}", self.dice.between(1, 3)));
        let maps = resource("ConfigMap");
        let first = objects::config_map(&self.dice, namespace, &names[0], Vec::new());
        let Some(first) = self.user.create(&maps, &first).await else { return };
        let owners = vec![objects::owned_by(&first, true)];
        let second = objects::config_map(&self.dice, namespace, &names[1], owners);
        let Some(second) = self.user.create(&maps, &second).await else { return };
        let place = Place { namespace: namespace.into(), name: names[0].as_str().into() };
        let owner = objects::owned_by(&second, true);
        let patch = value!({"metadata": {"ownerReferences": [owner]}});
        self.user.patch(&maps, &place, "", &patch).await;
        let way = if self.dice.chance(500) { "Foreground" } else { "Background" };
        let params = DeleteParams { propagation: Some(way), ..Default::default() };
        self.user.delete(&maps, &place, &params).await;
    }

    /// Somebody writes to what others work on.
    async fn touch(&self) {
        let kinds = ["Deployment", "ReplicaSet", "StatefulSet", "Pod", "Job", "Node", "Service"];
        let Some((kind, place)) = self.some(&kinds) else { return self.namespace().await };
        let patch = value!({"metadata": {"annotations": {"touched": (self.dice.between(0, 9).to_string())}}});
        let done = self.user.patch(&resource(kind), &place, "", &patch).await;
        self.written(kind, done).await;
    }

    /// Makes what is needed from the first.
    pub(crate) async fn prepare(&self) {
        let classes = Resource::built_in("scheduling.k8s.io", "priorityclasses");
        self.user.create(&classes, &objects::urgent()).await;
        self.prepare_disks().await;
        self.prepare_devices().await;
        self.define().await;
    }

    /// Where more is asked for than fits easily, everything is made small: what does not fit never comes to rest.
    async fn shrink(&self) {
        let kinds = ["Deployment", "StatefulSet", "ReplicaSet", "ReplicationController"];
        let asked = self.user.observer.with(|state| {
            let all = kinds.iter().flat_map(|kind| state.all(kind));
            all.map(|(_, it)| asked_cpu_milli(it)).sum::<i64>()
        });
        if asked <= CPU_MILLI * EASY_NODES {
            return;
        }
        for kind in kinds {
            let places = self.user.observer.with(|state| ours(state, kind));
            for place in places {
                let patch = value!({"spec": {"replicas": (self.dice.between(0, 1))}});
                self.user.patch(&resource(kind), &place, "", &patch).await;
            }
        }
    }

    /// What is done when faults have stopped, so that everything can come to rest: nodes are opened, quotas and
    /// schedules go.
    pub(crate) async fn settle(&self) {
        let all = |kind| self.user.observer.with(|state| ours(state, kind));
        for node in all("Node") {
            let patch = value!({"spec": {"unschedulable": null}});
            self.user.patch(&resource("Node"), &node, "", &patch).await;
        }
        for quota in all("ResourceQuota") {
            self.user.delete(&resource("ResourceQuota"), &quota, &DeleteParams::default()).await;
        }
        for place in all("CronJob") {
            let patch = value!({"spec": {"suspend": true}});
            self.user.patch(&resource("CronJob"), &place, "", &patch).await;
        }
        for place in all("Job") {
            let patch = value!({"spec": {"suspend": false, "parallelism": 2}});
            self.user.patch(&resource("Job"), &place, "", &patch).await;
        }
        self.shrink().await;
        for place in all("Deployment") {
            let patch = value!({"spec": {"paused": false}});
            self.user.patch(&resource("Deployment"), &place, "", &patch).await;
        }
        self.settle_custom().await;
        self.settle_devices().await;
        self.settle_disks().await;
    }

    /// Compares lists of the API with the store.
    pub(crate) async fn compare(&self) {
        for kind in [
            "Pod",
            "Deployment",
            "ReplicaSet",
            "StatefulSet",
            "Job",
            "Service",
            "ConfigMap",
            "Node",
            "PersistentVolumeClaim",
            "PersistentVolume",
            "ResourceClaim",
            "Widget",
        ] {
            self.user.compare_list(&resource(kind)).await;
        }
    }
}

/// What a workload asks for, of processors.
fn asked_cpu_milli(workload: &Value) -> i64 {
    let replicas = workload.i64_at(&["spec", "replicas"]).unwrap_or(1);
    let template = workload.at(&["spec", "template"]);
    replicas * template.map_or(0, |it| Demand::of(it).cpu_milli)
}

/// Whether the workload works there.
pub(crate) fn is_ours(place: &Place) -> bool {
    NAMESPACES.contains(&place.namespace.as_str())
}

/// The namespaces that are there, of those that are worked in.
fn namespaces(state: &State) -> Vec<&'static str> {
    let there = |name: &&str| {
        let place = Place { namespace: CompactString::default(), name: (*name).into() };
        state.get("Namespace", &place).is_some_and(|it| !is_deleting(&it.value))
    };
    NAMESPACES.into_iter().filter(there).collect()
}

/// The objects of a kind that the workload may touch.
fn ours(state: &State, kind: &str) -> Vec<Place> {
    let all = state.all(kind).filter(|(place, _)| is_ours(place) || kind == "Node");
    // A set that a Deployment owns is scaled by nobody else.
    let all = all.filter(|(_, it)| kind != "ReplicaSet" || controller(it, "Deployment").is_none());
    all.map(|(place, _)| place.clone()).collect()
}
