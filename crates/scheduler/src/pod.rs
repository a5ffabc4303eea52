//! What the scheduler keeps of a pod: some 250 bytes and, where a pod has them, its rarer parts behind pointers.

use std::collections::VecDeque;
use std::sync::Arc;

use apimachinery::Value;
use client::{ObjectKey, csi_translation};
use compact_str::{CompactString, format_compact};

use crate::labels::Labels;
use crate::plugins::is_extended;
use crate::resources::PodRequests;
use crate::terms::{NodeWish, PodTerms, Spread, Toleration};
use crate::volumes::Csi;

/// A port of the node that a container takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The port.
    pub port: i64,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: CompactString,
    /// The address; `0.0.0.0` is all.
    pub ip: CompactString,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        const ALL: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ALL || other.ip == ALL)
    }
}

/// What matters only until a pod has a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ask {
    /// Its tolerations.
    pub tolerations: Vec<Toleration>,
    /// What it says about nodes.
    pub nodes: NodeWish,
    /// How it is to be spread.
    pub spread: Vec<Spread>,
    /// The images of its containers, and those that are its volumes.
    pub images: Vec<CompactString>,
    /// What must go before it is looked at.
    pub gates: Vec<CompactString>,
    /// The name and kind of the object that controls it.
    pub controller: Option<(CompactString, CompactString)>,
    /// `preemptionPolicy: Never`
    pub never_preempts: bool,
    /// The node that is being emptied for it.
    pub nominated_node: CompactString,
    /// Which scheduler it wants.
    pub scheduler_name: CompactString,
    /// The resource claims it uses.
    pub resource_claims: Vec<ResourceClaimUse>,
    /// The volume claims it uses.
    pub claims: Vec<ClaimUse>,
    /// The disks it names itself.
    pub disks: Vec<Disk>,
    /// What few pods have.
    pub rare: Option<Box<Rare>>,
    /// What its node must be able to do, as nodes declare it.
    pub features: Vec<&'static str>,
    /// The group that it is scheduled with.
    pub group: Option<CompactString>,
}

/// What few pods have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rare {
    /// Its containers that ask for extended resources, in order.
    pub extended: Vec<ContainerAsk>,
    /// The volumes of in-tree plugins that it names itself, as CSI drivers know them.
    pub in_tree: Vec<Csi>,
}

impl Ask {
    /// Its containers that ask for extended resources, in order.
    #[must_use]
    pub fn extended(&self) -> &[ContainerAsk] {
        self.rare.as_ref().map_or(&[], |it| &it.extended)
    }

    /// The volumes of in-tree plugins that it names itself, as CSI drivers know them.
    #[must_use]
    pub fn in_tree(&self) -> &[Csi] {
        self.rare.as_ref().map_or(&[], |it| &it.in_tree)
    }

    /// How many volumes it may have attached.
    #[must_use]
    pub fn volumes(&self) -> usize {
        self.claims.len() + self.in_tree().len()
    }
}

/// A disk that only so many pods of a node may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Which: of two disks of one sort that have a name in common, the names are of one disk.
    pub names: Vec<CompactString>,
    /// Whether all who only read it may share it; `None` where nobody may.
    pub read_only: Option<bool>,
}

impl Disk {
    /// Whether both cannot be had on one node.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        let shared = self.read_only == Some(true) && other.read_only == Some(true);
        !shared && self.names.iter().any(|it| other.names.contains(it))
    }
}

/// A container that asks for extended resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerAsk {
    /// Its name.
    pub name: CompactString,
    /// Its place among all containers, those that initialise first.
    pub index: usize,
    /// Whether it is over before others begin.
    pub is_short: bool,
    /// What it asks for.
    pub amounts: Vec<Amount>,
}

/// So much of an extended resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    /// Which.
    pub resource: CompactString,
    /// How much.
    pub count: i64,
    /// Its place among everything that the container asks for, by name.
    pub place: usize,
}

/// A resource claim that a pod uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceClaimUse {
    /// What the pod calls it.
    pub name: CompactString,
    /// Which it is.
    pub claim: ClaimRef,
}

/// Which resource claim a pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimRef {
    /// The one of this name.
    Named(CompactString),
    /// The one of this name, which was made for the pod.
    Generated(CompactString),
    /// One that is still to be made for the pod.
    NotCreated,
    /// None after all.
    NotNeeded,
    /// It is said in a way that is not known here.
    Unknown,
}

impl ClaimRef {
    /// The claim's name, where there is one.
    #[must_use]
    pub fn name(&self) -> Option<&CompactString> {
        match self {
            Self::Named(name) | Self::Generated(name) => Some(name),
            Self::NotCreated | Self::NotNeeded | Self::Unknown => None,
        }
    }
}

/// A volume claim that a pod uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimUse {
    /// Its name.
    pub name: CompactString,
    /// Whether it is made for this pod alone.
    pub ephemeral: bool,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct PodLite {
    /// Where it lies.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: CompactString,
    /// Its node; empty while it has none.
    pub node: CompactString,
    /// Its priority.
    pub priority: i32,
    /// Its generation.
    pub generation: i64,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether it is marked as one that makes room for a more important one.
    pub preempted: bool,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// What it asks for.
    pub requests: Arc<PodRequests>,
    /// When it was started, in nanoseconds; `None` where it was not.
    pub started: Option<i64>,
    /// When it was created, in seconds.
    pub created: i64,
    /// Ports of the node it takes.
    pub ports: Box<[HostPort]>,
    /// What it says about other pods.
    pub terms: Option<Arc<PodTerms>>,
    /// The rest.
    pub ask: Arc<Ask>,
}

impl PodLite {
    /// What matters of a pod.
    #[must_use]
    pub fn from_value(pod: &Value) -> Self {
        let spec = pod.at(&["spec"]).unwrap_or(&Value::Null);
        let metadata = pod.at(&["metadata"]).unwrap_or(&Value::Null);
        let key = ObjectKey::new(metadata.str_at(&["namespace"]), metadata.str_at(&["name"]));
        let labels = Labels::from_value(metadata.at(&["labels"]));
        let seconds = |text: &str| apimachinery::time::parse_time(text).ok();
        let started = seconds(pod.str_at(&["status", "startTime"]));
        let created = seconds(metadata.str_at(&["creationTimestamp"]));
        Self {
            uid: metadata.str_at(&["uid"]).into(),
            node: spec.str_at(&["nodeName"]).into(),
            priority: spec
                .i64_at(&["priority"])
                .and_then(|it| i32::try_from(it).ok())
                .unwrap_or_default(),
            generation: metadata.i64_at(&["generation"]).unwrap_or_default(),
            terminating: !metadata.str_at(&["deletionTimestamp"]).is_empty(),
            preempted: is_preempted(pod),
            requests: Arc::new(PodRequests::of(pod)),
            started: started.and_then(|it| i64::try_from(it.as_nanosecond()).ok()),
            created: created.map_or(0, jiff::Timestamp::as_second),
            ports: host_ports(spec),
            terms: PodTerms::from_spec(spec, &key.namespace).map(Arc::new),
            ask: Arc::new(ask(pod, spec, &labels)),
            labels: Arc::new(labels),
            key,
        }
    }

    /// Has what is equal in `other` in common with it.
    fn share(&mut self, other: &Self) {
        fn one<T: PartialEq>(own: &mut Arc<T>, other: &Arc<T>) {
            if own == other {
                *own = Arc::clone(other);
            }
        }
        one(&mut self.ask, &other.ask);
        one(&mut self.requests, &other.requests);
        one(&mut self.labels, &other.labels);
        if let Some((own, other)) = self.terms.as_mut().zip(other.terms.as_ref()) {
            one(own, other);
        }
    }

    /// Whether it is the same pod to everybody who looks at placed pods.
    pub(crate) fn looks_like(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.terminating == other.terminating
            && self.priority == other.priority
            && self.labels == other.labels
            && self.requests == other.requests
            && self.ports == other.ports
            && self.terms == other.terms
            && self.ask.claims == other.ask.claims
            && self.ask.disks == other.ask.disks
            && self.ask.in_tree().len() == other.ask.in_tree().len()
    }

    /// The group that it is scheduled with, where there is one.
    #[must_use]
    pub fn group(&self) -> Option<ObjectKey> {
        let name = self.ask.group.clone()?;
        Some(ObjectKey::new(self.key.namespace.clone(), name))
    }

    /// Whether it has ended, so that it holds nothing of its node.
    #[must_use]
    pub fn has_ended(pod: &Value) -> bool {
        matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
    }
}

fn is_preempted(pod: &Value) -> bool {
    let mut conditions = pod.items_at(&["status", "conditions"]).iter();
    let target = conditions.find(|it| it.str_at(&["type"]) == "DisruptionTarget");
    target.is_some_and(|it| {
        it.str_at(&["status"]) == "True" && it.str_at(&["reason"]) == "PreemptionByScheduler"
    })
}

/// How many sorts of pods [`Sorts`] remembers.
const SORTS: usize = 32;

/// A pod of each sort that came lately: of pods there are many, and few sorts, which ask for the same.
#[derive(Debug, Default)]
pub(crate) struct Sorts(VecDeque<Arc<PodLite>>);

impl Sorts {
    /// The pod, which has in common with others of its sort what is equal.
    pub(crate) fn share(&mut self, mut pod: PodLite) -> Arc<PodLite> {
        let controller = &pod.ask.controller;
        let like = self.0.iter().position(|it| {
            it.ask.controller == *controller && it.key.namespace == pod.key.namespace
        });
        let like = like.and_then(|it| self.0.remove(it));
        if let Some(like) = &like {
            pod.share(like);
        }
        let pod = Arc::new(pod);
        self.0.push_front(Arc::clone(&pod));
        self.0.truncate(SORTS);
        pod
    }
}

fn host_ports(spec: &Value) -> Box<[HostPort]> {
    let sidecar = |it: &&Value| it.str_at(&["restartPolicy"]) == "Always";
    let sidecars = spec.items_at(&["initContainers"]).iter().filter(sidecar);
    let containers = spec.items_at(&["containers"]).iter().chain(sidecars);
    let ports = containers.flat_map(|it| it.items_at(&["ports"]));
    let or = |text: &str, default: &str| {
        CompactString::from(if text.is_empty() { default } else { text })
    };
    ports
        .filter_map(|it| {
            let port = it.i64_at(&["hostPort"]).filter(|port| *port > 0)?;
            let protocol = or(it.str_at(&["protocol"]), "TCP");
            Some(HostPort { port, protocol, ip: or(it.str_at(&["hostIP"]), "0.0.0.0") })
        })
        .collect()
}

fn ask(pod: &Value, spec: &Value, labels: &Labels) -> Ask {
    let owners = pod.items_at(&["metadata", "ownerReferences"]);
    let controller = owners.iter().find(|it| it.bool_at(&["controller"]));
    let all = ["initContainers", "containers"];
    let images = all.iter().flat_map(|list| spec.items_at(&[list])).map(|it| it.str_at(&["image"]));
    let volumes = spec.items_at(&["volumes"]).iter().filter_map(|it| it.at(&["image"]));
    let images = images.chain(volumes.map(|it| it.str_at(&["reference"])));
    let texts = |list: &str, path: &[&str]| -> Vec<CompactString> {
        spec.items_at(&[list])
            .iter()
            .map(|it| it.str_at(path).into())
            .filter(|it: &CompactString| !it.is_empty())
            .collect()
    };
    Ask {
        tolerations: spec.items_at(&["tolerations"]).iter().map(Toleration::from_value).collect(),
        nodes: NodeWish::from_spec(spec),
        spread: spec
            .items_at(&["topologySpreadConstraints"])
            .iter()
            .map(|it| Spread::from_value(it, labels))
            .collect(),
        images: images.map(Into::into).collect(),
        gates: texts("schedulingGates", &["name"]),
        controller: controller.map(|it| (it.str_at(&["kind"]).into(), it.str_at(&["name"]).into())),
        never_preempts: spec.str_at(&["preemptionPolicy"]) == "Never",
        nominated_node: pod.str_at(&["status", "nominatedNodeName"]).into(),
        scheduler_name: spec.str_at(&["schedulerName"]).into(),
        resource_claims: resource_claims(pod, spec),
        claims: claims(pod, spec),
        disks: spec.items_at(&["volumes"]).iter().filter_map(disk).collect(),
        rare: rare(pod, spec),
        features: features(spec),
        group: spec
            .at(&["schedulingGroup", "podGroupName"])
            .and_then(Value::as_str)
            .filter(|it| !it.is_empty())
            .map(Into::into),
    }
}

/// What a pod needs of its node that nodes of other versions may not know.
fn features(spec: &Value) -> Vec<&'static str> {
    let restarts_all = |container: &Value| {
        let mut rules = container.items_at(&["restartPolicyRules"]).iter();
        rules.any(|it| it.str_at(&["action"]) == "RestartAllContainers")
    };
    let lists = ["containers", "initContainers"];
    let mut containers = lists.iter().flat_map(|list| spec.items_at(&[list]));
    let own_users = spec.at(&["hostUsers"]).and_then(Value::as_bool) == Some(false);
    [
        ("RestartAllContainersOnContainerExits", containers.any(restarts_all)),
        ("UserNamespacesHostNetworkSupport", own_users && spec.bool_at(&["hostNetwork"])),
    ]
    .into_iter()
    .filter_map(|(feature, needed)| needed.then_some(feature))
    .collect()
}

/// What names a disk that pods cannot share freely: GCE's, AWS', iSCSI's and Ceph's.
fn disk(volume: &Value) -> Option<Disk> {
    let read_only = |it: &Value| Some(it.bool_at(&["readOnly"]));
    if let Some(it) = volume.at(&["gcePersistentDisk"]).filter(|it| !it.is_null()) {
        let name = format_compact!("gce:{}", it.str_at(&["pdName"]));
        return Some(Disk { names: vec![name], read_only: read_only(it) });
    }
    if let Some(it) = volume.at(&["awsElasticBlockStore"]).filter(|it| !it.is_null()) {
        let name = format_compact!("aws:{}", it.str_at(&["volumeID"]));
        return Some(Disk { names: vec![name], read_only: None });
    }
    if let Some(it) = volume.at(&["iscsi"]).filter(|it| !it.is_null()) {
        let name = format_compact!("iscsi:{}", it.str_at(&["iqn"]));
        return Some(Disk { names: vec![name], read_only: read_only(it) });
    }
    let it = volume.at(&["rbd"]).filter(|it| !it.is_null())?;
    let (pool, image) = (it.str_at(&["pool"]), it.str_at(&["image"]));
    let monitors = it.items_at(&["monitors"]).iter().filter_map(Value::as_str);
    let names = monitors.map(|monitor| format_compact!("rbd:{monitor} {pool} {image}")).collect();
    Some(Disk { names, read_only: read_only(it) })
}

fn rare(pod: &Value, spec: &Value) -> Option<Box<Rare>> {
    let rare = Rare { extended: extended(spec), in_tree: in_tree(pod, spec) };
    (!rare.extended.is_empty() || !rare.in_tree.is_empty()).then(|| Box::new(rare))
}

fn extended(spec: &Value) -> Vec<ContainerAsk> {
    let inits = spec.items_at(&["initContainers"]);
    let all = inits.iter().chain(spec.items_at(&["containers"])).enumerate();
    all.filter_map(|(index, container)| {
        let asked = container.at(&["resources", "requests"]).and_then(Value::as_object)?;
        let amounts: Vec<Amount> = asked
            .iter()
            .enumerate()
            .filter(|(_, (name, _))| is_extended(name))
            .map(|(place, (name, amount))| {
                let count = crate::resources::quantity(amount).value();
                Amount { resource: name.into(), count, place }
            })
            .filter(|it| it.count > 0)
            .collect();
        let sidecar = container.str_at(&["restartPolicy"]) == "Always";
        (!amounts.is_empty()).then(|| ContainerAsk {
            name: container.str_at(&["name"]).into(),
            index,
            is_short: index < inits.len() && !sidecar,
            amounts,
        })
    })
    .collect()
}

fn in_tree(pod: &Value, spec: &Value) -> Vec<Csi> {
    let namespace = pod.str_at(&["metadata", "namespace"]);
    let translated = |it| csi_translation::of_pod(it, namespace);
    spec.items_at(&["volumes"]).iter().filter_map(translated).map(Csi::from).collect()
}

fn resource_claims(pod: &Value, spec: &Value) -> Vec<ResourceClaimUse> {
    let statuses = pod.items_at(&["status", "resourceClaimStatuses"]);
    let used = spec.items_at(&["resourceClaims"]).iter().map(|it| {
        let name = it.str_at(&["name"]);
        let claim = if let Some(claim) = it.get("resourceClaimName").and_then(Value::as_str) {
            ClaimRef::Named(claim.into())
        } else if it.get("resourceClaimTemplateName").is_some() {
            match statuses.iter().find(|status| status.str_at(&["name"]) == name) {
                None => ClaimRef::NotCreated,
                Some(status) => match status.get("resourceClaimName").and_then(Value::as_str) {
                    Some(claim) => ClaimRef::Generated(claim.into()),
                    None => ClaimRef::NotNeeded,
                },
            }
        } else {
            ClaimRef::Unknown
        };
        ResourceClaimUse { name: name.into(), claim }
    });
    used.collect()
}

fn claims(pod: &Value, spec: &Value) -> Vec<ClaimUse> {
    let volumes = spec.items_at(&["volumes"]).iter();
    volumes
        .filter_map(|it| {
            let name = it.str_at(&["persistentVolumeClaim", "claimName"]);
            if !name.is_empty() {
                return Some(ClaimUse { name: name.into(), ephemeral: false });
            }
            it.at(&["ephemeral"])?;
            let made = [pod.str_at(&["metadata", "name"]), it.str_at(&["name"])].join("-");
            Some(ClaimUse { name: made.into(), ephemeral: true })
        })
        .collect()
}
