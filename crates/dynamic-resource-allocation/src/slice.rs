//! What is for the having: ResourceSlices with their devices, and DeviceClasses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use apimachinery::node_selector::NodeSelectorTerm;
use apimachinery::quantity::{Format, Quantity};
use apimachinery::{Object, Value};
use compact_str::CompactString;

use crate::selector::Matches;
use crate::taint::Taint;

/// Which device.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceId {
    /// Its driver.
    pub driver: CompactString,
    /// Its pool.
    pub pool: CompactString,
    /// Its name there.
    pub device: CompactString,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// Labels, whoever keeps them.
pub trait Labels {
    /// The value of a label.
    fn value(&self, key: &str) -> Option<&str>;
}

/// A node, as devices are chosen for it.
#[derive(Clone, Copy)]
pub struct Node<'n> {
    /// Its name.
    pub name: &'n str,
    /// Its labels.
    pub labels: &'n dyn Labels,
}

impl Node<'_> {
    /// Whether one of these terms means it.
    pub(crate) fn is_meant(&self, terms: &[NodeSelectorTerm]) -> bool {
        terms.iter().any(|it| it.matches(self.name, |key| self.labels.value(key)))
    }
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Which nodes reach something.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Place {
    /// One node.
    Node(CompactString),
    /// Those that are selected; the selector is kept as it was written too.
    Selected(Vec<NodeSelectorTerm>, Value),
    /// All.
    All,
    /// Each device says so itself.
    PerDevice,
    /// It is said in a way that is not known here.
    #[default]
    Unknown,
}

impl Place {
    fn of(value: &Value) -> Self {
        let name = value.str_at(&["nodeName"]);
        if !name.is_empty() {
            return Self::Node(name.into());
        }
        if value.bool_at(&["allNodes"]) {
            return Self::All;
        }
        if let Some(selector) = value.get("nodeSelector").filter(|it| !it.is_null()) {
            return Self::Selected(node_terms(selector), selector.clone());
        }
        if value.bool_at(&["perDeviceNodeSelection"]) { Self::PerDevice } else { Self::Unknown }
    }

    /// Whether a node is meant; of what is said elsewhere, no.
    #[must_use]
    pub fn reaches(&self, node: Node<'_>) -> bool {
        match self {
            Self::Node(name) => name == node.name,
            Self::Selected(terms, _) => node.is_meant(terms),
            Self::All => true,
            Self::PerDevice | Self::Unknown => false,
        }
    }
}

/// The terms of a node selector.
pub(crate) fn node_terms(selector: &Value) -> Vec<NodeSelectorTerm> {
    selector.items_at(&["nodeSelectorTerms"]).iter().map(NodeSelectorTerm::from_value).collect()
}

/// What a device is said to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `string`
    String(CompactString),
    /// `version`
    Version(CompactString),
    /// What is not known here. Equal to nothing.
    Unknown,
}

impl Attribute {
    fn of(value: &Value) -> Self {
        let text =
            |member: &str| value.get(member).and_then(Value::as_str).map(CompactString::from);
        let truth = value.get("bool").and_then(Value::as_bool).map(Self::Bool);
        truth
            .or_else(|| value.i64_at(&["int"]).map(Self::Int))
            .or_else(|| text("string").map(Self::String))
            .or_else(|| text("version").map(Self::Version))
            .unwrap_or(Self::Unknown)
    }

    /// Whether both are the same, of what is known.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        !matches!(self, Self::Unknown) && self == other
    }
}

/// How much a device has of something.
#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    /// How much.
    pub value: Quantity,
    /// How it may be asked for.
    pub policy: Option<Policy>,
}

/// How much may be asked for of a capacity.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// What is asked for where nothing is said.
    pub default: Option<Quantity>,
    /// The only amounts; sorted.
    pub values: Vec<Quantity>,
    /// The least, the most, and the step between amounts.
    pub range: Option<[Option<Quantity>; 3]>,
}

/// A quantity in an object; zero where it is none.
pub(crate) fn quantity(value: Option<&Value>) -> Option<Quantity> {
    match value? {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Int(number) => Some(Quantity::new(*number, Format::DecimalSI)),
        _ => None,
    }
}

/// Quantities by name.
pub(crate) fn quantities(value: Option<&Value>) -> BTreeMap<CompactString, Quantity> {
    let members = value.and_then(Value::as_object).into_iter().flat_map(Object::iter);
    members.filter_map(|(name, it)| Some((name.into(), quantity(Some(it))?))).collect()
}

impl Capacity {
    fn of(value: &Value) -> Option<Self> {
        let policy = value.get("requestPolicy").filter(|it| !it.is_null()).map(|it| Policy {
            default: quantity(it.get("default")),
            values: it
                .items_at(&["validValues"])
                .iter()
                .filter_map(|it| quantity(Some(it)))
                .collect(),
            range: it
                .get("validRange")
                .filter(|it| !it.is_null())
                .map(|it| ["min", "max", "step"].map(|member| quantity(it.get(member)))),
        });
        Some(Self { value: quantity(value.get("value"))?, policy })
    }
}

/// Counters by name, of one set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// The set.
    pub set: CompactString,
    /// How much there is, or is used.
    pub amounts: BTreeMap<CompactString, Quantity>,
}

impl Counters {
    fn of(value: &Value, name: &str) -> Self {
        let members = value.get("counters").and_then(Value::as_object).into_iter();
        let amounts = members.flat_map(Object::iter).filter_map(|(counter, it)| {
            Some((CompactString::from(counter), quantity(it.get("value"))?))
        });
        Self { set: value.str_at(&[name]).into(), amounts: amounts.collect() }
    }
}

/// A device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Device {
    /// Which.
    pub id: DeviceId,
    /// Its attributes, by name with or without a domain.
    pub attributes: BTreeMap<CompactString, Attribute>,
    /// Its capacities, likewise.
    pub capacity: BTreeMap<CompactString, Capacity>,
    /// The nodes that reach it, where its slice leaves that to it.
    pub place: Place,
    /// What it uses of its pool's counters.
    pub consumes: Vec<Counters>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether several may have it at once: `allowMultipleAllocations`.
    pub shared: bool,
    /// Whether what gets it must stay on the node that it is first used on.
    pub binds_to_node: bool,
    /// The conditions that must hold before a pod is bound.
    pub binding_conditions: Vec<CompactString>,
    /// The conditions after which it never will be.
    pub binding_failure_conditions: Vec<CompactString>,
}

/// Texts in a list.
pub(crate) fn texts(value: &Value, member: &str) -> Vec<CompactString> {
    value.items_at(&[member]).iter().filter_map(Value::as_str).map(Into::into).collect()
}

impl Device {
    fn of(value: &Value, driver: &str, pool: &str) -> Self {
        let members = |name: &str| value.get(name).and_then(Value::as_object).into_iter();
        let attributes = members("attributes").flat_map(Object::iter);
        let capacity = members("capacity").flat_map(Object::iter);
        Self {
            id: DeviceId {
                driver: driver.into(),
                pool: pool.into(),
                device: value.str_at(&["name"]).into(),
            },
            attributes: attributes.map(|(name, it)| (name.into(), Attribute::of(it))).collect(),
            capacity: capacity
                .filter_map(|(name, it)| Some((name.into(), Capacity::of(it)?)))
                .collect(),
            place: Place::of(value),
            consumes: value
                .items_at(&["consumesCounters"])
                .iter()
                .map(|it| Counters::of(it, "counterSet"))
                .collect(),
            taints: value.items_at(&["taints"]).iter().map(Taint::from_value).collect(),
            shared: value.bool_at(&["allowMultipleAllocations"]),
            binds_to_node: value.bool_at(&["bindsToNode"]),
            binding_conditions: texts(value, "bindingConditions"),
            binding_failure_conditions: texts(value, "bindingFailureConditions"),
        }
    }

    /// An attribute by its whole name: `domain/name`.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.get(name).or_else(|| {
            let (domain, name) = name.split_once('/')?;
            self.attributes.get(name).filter(|_| domain == self.id.driver)
        })
    }
}

/// A part of a pool of devices.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slice {
    /// The object's name.
    pub name: CompactString,
    /// The driver.
    pub driver: CompactString,
    /// The pool.
    pub pool: CompactString,
    /// Which edition of the pool it belongs to.
    pub generation: i64,
    /// How many slices that edition has.
    pub slice_count: i64,
    /// The nodes that reach its devices.
    pub place: Place,
    /// Its devices.
    pub devices: Vec<Device>,
    /// Counters that devices of the pool use up together.
    pub counters: Vec<Counters>,
    /// The first name that two of its devices have.
    pub(crate) doubled: Option<CompactString>,
    /// Whether one of its devices has conditions of binding.
    pub(crate) binds: bool,
    /// Whether one of its devices uses counters up.
    pub(crate) consumes: bool,
    /// Which devices selectors mean, as far as that was asked.
    pub(crate) matches: Matches,
}

/// The first name that two devices have.
pub(crate) fn doubled<'d>(devices: impl Iterator<Item = &'d Device>) -> Option<CompactString> {
    let mut names = BTreeSet::new();
    let mut names_of = devices.map(|it| &it.id.device);
    names_of.find(|it| !names.insert(it.as_str())).cloned()
}

impl Slice {
    /// A ResourceSlice.
    #[must_use]
    pub fn from_value(slice: &Value) -> Self {
        let spec = &slice["spec"];
        let (driver, pool) = (spec.str_at(&["driver"]), spec.str_at(&["pool", "name"]));
        let devices: Vec<Device> =
            spec.items_at(&["devices"]).iter().map(|it| Device::of(it, driver, pool)).collect();
        Self {
            doubled: doubled(devices.iter()),
            binds: devices.iter().any(|it| !it.binding_conditions.is_empty()),
            consumes: devices.iter().any(|it| !it.consumes.is_empty()),
            name: slice.str_at(&["metadata", "name"]).into(),
            driver: driver.into(),
            pool: pool.into(),
            generation: spec.i64_at(&["pool", "generation"]).unwrap_or_default(),
            slice_count: spec.i64_at(&["pool", "resourceSliceCount"]).unwrap_or_default(),
            place: Place::of(spec),
            devices,
            counters: spec
                .items_at(&["sharedCounters"])
                .iter()
                .map(|it| Counters::of(it, "name"))
                .collect(),
            matches: Matches::default(),
        }
    }

    /// Whether a node reaches any of its devices.
    #[must_use]
    pub fn reaches(&self, node: Node<'_>) -> bool {
        match &self.place {
            Place::PerDevice => self.devices.iter().any(|it| it.place.reaches(node)),
            place => place.reaches(node),
        }
    }
}

/// A sort of devices.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Class {
    /// Its name.
    pub name: CompactString,
    /// Which devices are of it: all of these must hold. `None` for a selector of an unknown sort.
    pub selectors: Vec<Option<CompactString>>,
    /// What is said to the drivers of its devices.
    pub config: Vec<Value>,
    /// The extended resource that its devices serve, besides the one of its own name.
    pub extended_resource: Option<CompactString>,
    /// When it was made, as it is written.
    pub created: CompactString,
}

impl Class {
    /// A DeviceClass.
    #[must_use]
    pub fn from_value(class: &Value) -> Self {
        Self {
            name: class.str_at(&["metadata", "name"]).into(),
            selectors: selectors(&class["spec"]),
            config: class.items_at(&["spec", "config"]).to_vec(),
            extended_resource: class
                .at(&["spec", "extendedResourceName"])
                .and_then(Value::as_str)
                .filter(|it| !it.is_empty())
                .map(Into::into),
            created: class.str_at(&["metadata", "creationTimestamp"]).into(),
        }
    }
}

/// The selectors in a class or request.
pub(crate) fn selectors(of: &Value) -> Vec<Option<CompactString>> {
    let selectors = of.items_at(&["selectors"]).iter();
    selectors.map(|it| Some(it.get("cel")?.get("expression")?.as_str()?.into())).collect()
}
