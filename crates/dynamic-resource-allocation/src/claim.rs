//! What is asked for, and what was given: ResourceClaims.

use std::collections::BTreeMap;

use apimachinery::Value;
use apimachinery::node_selector::NodeSelectorTerm;
use apimachinery::quantity::Quantity;
use compact_str::{CompactString, format_compact};

use crate::slice::{DeviceId, Node, node_terms, quantities, selectors, texts};
use crate::taint::Toleration;

/// How many may have a claim at once: `ResourceClaimReservedForMaxSize`.
pub const RESERVED_FOR_MAX: usize = 256;
/// Keeps a claim until nobody has its devices any more.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// On a claim that was made for a pod: for which of its claims.
pub const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";

/// Says of a claim that the scheduler made it for the extended resources of a pod: `true`.
pub const EXTENDED_RESOURCE_CLAIM: &str = "resource.kubernetes.io/extended-resource-claim";
/// The extended resource that the devices of any class serve begins with this; the name of the class follows.
pub const DEVICE_CLASS_PREFIX: &str = "deviceclass.resource.kubernetes.io/";

/// How many devices are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// So many.
    Exactly(i64),
    /// All there are.
    All,
    /// In a way that is not known here.
    Unknown,
}

/// Devices that are wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// The name of the request, or of one of its alternatives.
    pub name: CompactString,
    /// Their class.
    pub class: CompactString,
    /// How many.
    pub mode: Mode,
    /// Whether they are wanted for watching over them, whoever has them.
    pub admin: bool,
    /// Which: all of these must hold. `None` for a selector of an unknown sort.
    pub selectors: Vec<Option<CompactString>>,
    /// The taints that are borne.
    pub tolerations: Vec<Toleration>,
    /// The same as it was written; null for none.
    pub written_tolerations: Value,
    /// How much of them.
    pub capacity: BTreeMap<CompactString, Quantity>,
}

impl Ask {
    fn of(value: &Value, name: &str) -> Self {
        let mode = match value.str_at(&["allocationMode"]) {
            "ExactCount" => Mode::Exactly(value.i64_at(&["count"]).unwrap_or_default()),
            "All" => Mode::All,
            _ => Mode::Unknown,
        };
        Self {
            name: name.into(),
            class: value.str_at(&["deviceClassName"]).into(),
            mode,
            admin: value.bool_at(&["adminAccess"]),
            selectors: selectors(value),
            tolerations: value
                .items_at(&["tolerations"])
                .iter()
                .map(Toleration::from_value)
                .collect(),
            written_tolerations: value.get("tolerations").cloned().unwrap_or_default(),
            capacity: quantities(value.at(&["capacity", "requests"])),
        }
    }
}

/// A request for devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its name.
    pub name: CompactString,
    /// What will do, the best first. One that is not prioritized has one.
    pub ways: Vec<Ask>,
    /// Whether there are alternatives: `firstAvailable`.
    pub prioritized: bool,
}

impl Request {
    /// A request in a claim.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let name = value.str_at(&["name"]);
        let alternatives = value.items_at(&["firstAvailable"]);
        let ways = match value.get("exactly") {
            Some(exactly) if alternatives.is_empty() => vec![Ask::of(exactly, name)],
            _ => alternatives.iter().map(|it| Ask::of(it, it.str_at(&["name"]))).collect(),
        };
        Self { name: name.into(), ways, prioritized: !alternatives.is_empty() }
    }

    /// What results and configurations call one of its ways.
    #[must_use]
    pub fn reference(&self, way: usize) -> CompactString {
        match self.ways.get(way) {
            Some(ask) if self.prioritized => format_compact!("{}/{}", self.name, ask.name),
            _ => self.name.clone(),
        }
    }
}

/// What must hold of several devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// The requests whose devices are meant; all where there are none.
    pub requests: Vec<CompactString>,
    /// What must hold.
    pub kind: ConstraintKind,
}

/// What must hold of an attribute, which all devices must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConstraintKind {
    /// It is the same of all.
    Match(CompactString),
    /// It is another of each.
    Distinct(CompactString),
    /// What is not known here.
    Unknown,
}

impl Constraint {
    fn of(value: &Value) -> Self {
        let named = |member| value.get(member).and_then(Value::as_str).map(CompactString::from);
        let kind = named("matchAttribute")
            .map(ConstraintKind::Match)
            .or_else(|| named("distinctAttribute").map(ConstraintKind::Distinct))
            .unwrap_or(ConstraintKind::Unknown);
        Self { requests: texts(value, "requests"), kind }
    }
}

/// A device that was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// Which.
    pub id: DeviceId,
    /// For which request.
    pub request: CompactString,
    /// Whether for watching over it only.
    pub admin: bool,
    /// Whether others may have it too.
    pub shared: bool,
    /// How much of it.
    pub consumed: BTreeMap<CompactString, Quantity>,
    /// The taints that are borne.
    pub tolerations: Vec<Toleration>,
    /// The conditions that must hold before a pod is bound.
    pub binding_conditions: Vec<CompactString>,
    /// The conditions after which it never will be.
    pub binding_failure_conditions: Vec<CompactString>,
}

impl Given {
    fn of(value: &Value) -> Self {
        let id = DeviceId {
            driver: value.str_at(&["driver"]).into(),
            pool: value.str_at(&["pool"]).into(),
            device: value.str_at(&["device"]).into(),
        };
        Self {
            id,
            request: value.str_at(&["request"]).into(),
            admin: value.bool_at(&["adminAccess"]),
            shared: value.get("shareID").is_some(),
            consumed: quantities(value.get("consumedCapacity")),
            tolerations: value
                .items_at(&["tolerations"])
                .iter()
                .map(Toleration::from_value)
                .collect(),
            binding_conditions: texts(value, "bindingConditions"),
            binding_failure_conditions: texts(value, "bindingFailureConditions"),
        }
    }
}

/// What a claim was given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Allocation {
    /// The devices.
    pub devices: Vec<Given>,
    /// The nodes where they can be used; `None` for all.
    pub nodes: Option<Vec<NodeSelectorTerm>>,
    /// When, as it is written.
    pub timestamp: CompactString,
}

impl Allocation {
    /// An allocation in a claim's status.
    #[must_use]
    pub fn from_value(allocation: &Value) -> Self {
        let selector = allocation.get("nodeSelector").filter(|it| !it.is_null());
        Self {
            devices: allocation.items_at(&["devices", "results"]).iter().map(Given::of).collect(),
            nodes: selector.map(node_terms),
            timestamp: allocation.str_at(&["allocationTimestamp"]).into(),
        }
    }

    /// Whether it can be used on a node.
    #[must_use]
    pub fn reaches(&self, node: Node<'_>) -> bool {
        self.nodes.as_ref().is_none_or(|it| node.is_meant(it))
    }

    /// Whether a pod must wait for any device before it is bound.
    #[must_use]
    pub fn has_binding_conditions(&self) -> bool {
        self.devices.iter().any(|it| !it.binding_conditions.is_empty())
    }
}

/// Somebody who has a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Consumer {
    /// The group; empty for pods.
    pub api_group: CompactString,
    /// `pods`
    pub resource: CompactString,
    /// Its name.
    pub name: CompactString,
    /// Its uid.
    pub uid: CompactString,
}

impl Consumer {
    /// A consumer in a claim's status.
    #[must_use]
    pub fn from_value(consumer: &Value) -> Self {
        let text = |member: &str| consumer.str_at(&[member]).into();
        Self {
            api_group: text("apiGroup"),
            resource: text("resource"),
            name: text("name"),
            uid: text("uid"),
        }
    }

    /// Whether it is a pod.
    #[must_use]
    pub fn is_pod(&self) -> bool {
        self.api_group.is_empty() && self.resource == "pods"
    }
}

/// What a driver says of a device that was given.
#[derive(Debug, Clone, Default, PartialEq)]
struct DeviceStatus {
    id: DeviceId,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Condition {
    kind: CompactString,
    holds: bool,
    reason: CompactString,
    message: String,
}

/// A claim.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claim {
    /// Its namespace.
    pub namespace: CompactString,
    /// Its name.
    pub name: CompactString,
    /// Its uid.
    pub uid: CompactString,
    /// The version it was read at, where that is a number.
    pub version: u64,
    /// Whether it is being deleted.
    pub going: bool,
    /// The uid of what controls it; empty for nothing.
    pub controller: CompactString,
    /// Whether the scheduler made it for the extended resources of a pod.
    pub extended: bool,
    /// What is asked for.
    pub requests: Vec<Request>,
    /// What must hold of the devices together.
    pub constraints: Vec<Constraint>,
    /// What is said to drivers, as it is written.
    pub config: Vec<Value>,
    /// What was given.
    pub allocation: Option<Allocation>,
    /// Who has it.
    pub reserved_for: Vec<Consumer>,
    devices: Vec<DeviceStatus>,
}

impl Claim {
    /// A ResourceClaim.
    #[must_use]
    pub fn from_value(claim: &Value) -> Self {
        let metadata = |member: &str| claim.str_at(&["metadata", member]).into();
        let owners = claim.items_at(&["metadata", "ownerReferences"]);
        let controller = owners.iter().find(|it| it.bool_at(&["controller"]));
        let spec = &claim["spec"]["devices"];
        let extended = ["metadata", "annotations", EXTENDED_RESOURCE_CLAIM];
        let allocation = claim.at(&["status", "allocation"]).filter(|it| !it.is_null());
        Self {
            namespace: metadata("namespace"),
            name: metadata("name"),
            uid: metadata("uid"),
            version: claim.str_at(&["metadata", "resourceVersion"]).parse().unwrap_or_default(),
            going: !claim.str_at(&["metadata", "deletionTimestamp"]).is_empty(),
            controller: controller.map(|it| it.str_at(&["uid"]).into()).unwrap_or_default(),
            extended: claim.str_at(&extended) == "true",
            requests: spec.items_at(&["requests"]).iter().map(Request::of).collect(),
            constraints: spec.items_at(&["constraints"]).iter().map(Constraint::of).collect(),
            config: spec.items_at(&["config"]).to_vec(),
            allocation: allocation.map(Allocation::from_value),
            reserved_for: claim
                .items_at(&["status", "reservedFor"])
                .iter()
                .map(Consumer::from_value)
                .collect(),
            devices: claim.items_at(&["status", "devices"]).iter().map(device_status).collect(),
        }
    }

    /// Whether a pod has it.
    #[must_use]
    pub fn is_reserved_for(&self, pod_uid: &str) -> bool {
        self.reserved_for.iter().any(|it| it.uid == pod_uid)
    }

    /// Whether one more may have it.
    #[must_use]
    pub fn can_be_reserved(&self) -> bool {
        self.reserved_for.len() < RESERVED_FOR_MAX
    }

    /// `namespace/name`
    #[must_use]
    pub fn key(&self) -> CompactString {
        format_compact!("{}/{}", self.namespace, self.name)
    }

    /// Whether a pod can be bound as far as its devices go.
    ///
    /// # Errors
    /// Why it never will be.
    pub fn is_ready_for_binding(&self) -> Result<bool, String> {
        let Some(allocation) = &self.allocation else { return Ok(false) };
        for given in allocation.devices.iter().filter(|it| !it.binding_conditions.is_empty()) {
            let Some(status) = self.devices.iter().find(|it| it.id == given.id) else {
                return Ok(false);
            };
            let find = |kind: &CompactString| status.conditions.iter().find(|it| it.kind == *kind);
            let mut failures = given.binding_failure_conditions.iter().filter_map(find);
            if let Some(failed) = failures.find(|it| it.holds) {
                return Err(format!(
                    "claim {} binding failed: reason={}, message={}",
                    self.name,
                    failed.reason,
                    apimachinery::field::quote(&failed.message)
                ));
            }
            if !given.binding_conditions.iter().all(|it| find(it).is_some_and(|it| it.holds)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn device_status(value: &Value) -> DeviceStatus {
    let condition = |it: &Value| Condition {
        kind: it.str_at(&["type"]).into(),
        holds: it.str_at(&["status"]) == "True",
        reason: it.str_at(&["reason"]).into(),
        message: it.str_at(&["message"]).to_owned(),
    };
    DeviceStatus {
        id: DeviceId {
            driver: value.str_at(&["driver"]).into(),
            pool: value.str_at(&["pool"]).into(),
            device: value.str_at(&["device"]).into(),
        },
        conditions: value.items_at(&["conditions"]).iter().map(condition).collect(),
    }
}
