//! Amounts of resources: what a pod asks for and what a node has. Knows nothing of who asks.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use apimachinery::{Object, Value};
use compact_str::CompactString;

/// What a container without a request counts as when nodes are scored, as upstream's.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// The same for memory: 200 MB.
pub const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts by resource; the usual ones have fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages, sorted by name.
    pub scalars: Vec<(CompactString, i64)>,
}

impl Resources {
    /// The amounts of a resource list. `pods` is not among them.
    #[must_use]
    pub fn from_list(list: Option<&Value>) -> Self {
        let mut all = Self::default();
        for (name, value) in list.and_then(Value::as_object).into_iter().flat_map(Object::iter) {
            let quantity = quantity(value);
            match name {
                "cpu" => all.milli_cpu = quantity.milli_value(),
                "memory" => all.memory = quantity.value(),
                "ephemeral-storage" => all.ephemeral_storage = quantity.value(),
                "pods" => {}
                _ => all.scalars.push((name.into(), quantity.value())),
            }
        }
        all
    }

    /// The amount of an extended resource.
    #[must_use]
    pub fn scalar(&self, name: &str) -> i64 {
        let found = self.scalars.binary_search_by(|(it, _)| it.as_str().cmp(name));
        found.map_or(0, |index| self.scalars[index].1)
    }

    /// The amount of any resource.
    #[must_use]
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            other => self.scalar(other),
        }
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.scalars.iter().all(|(_, amount)| *amount == 0)
    }

    /// Whether this much can be had where there is so much and this is in use.
    #[must_use]
    pub fn fits(&self, has: &Self, used: &Self) -> bool {
        let fits = |wanted: i64, has: i64, used: i64| wanted <= 0 || wanted <= has - used;
        fits(self.milli_cpu, has.milli_cpu, used.milli_cpu)
            && fits(self.memory, has.memory, used.memory)
            && fits(self.ephemeral_storage, has.ephemeral_storage, used.ephemeral_storage)
            && self
                .scalars
                .iter()
                .all(|(name, wanted)| fits(*wanted, has.scalar(name), used.scalar(name)))
    }

    /// Whether there is less of anything than in others.
    #[must_use]
    pub fn lacks_of(&self, other: &Self) -> bool {
        self.milli_cpu < other.milli_cpu
            || self.memory < other.memory
            || self.ephemeral_storage < other.ephemeral_storage
            || other.scalars.iter().any(|(name, amount)| self.scalar(name) < *amount)
    }

    /// Adds amounts.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, i64::saturating_add);
    }

    /// Takes amounts away.
    pub fn subtract(&mut self, other: &Self) {
        self.merge(other, i64::saturating_sub);
    }

    /// The larger of each.
    pub fn raise_to(&mut self, other: &Self) {
        self.merge(other, i64::max);
    }

    fn merge(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalars {
            match self.scalars.binary_search_by(|(it, _)| it.cmp(name)) {
                Ok(index) => self.scalars[index].1 = with(self.scalars[index].1, *amount),
                Err(index) => self.scalars.insert(index, (name.clone(), with(0, *amount))),
            }
        }
    }

    fn set(&mut self, name: &str, amount: i64) {
        match name {
            "cpu" => self.milli_cpu = amount,
            "memory" => self.memory = amount,
            "ephemeral-storage" => self.ephemeral_storage = amount,
            other => match self.scalars.binary_search_by(|(it, _)| it.as_str().cmp(other)) {
                Ok(index) => self.scalars[index].1 = amount,
                Err(index) => self.scalars.insert(index, (other.into(), amount)),
            },
        }
    }
}

/// A quantity in an object; the server has checked it, so that what does not parse is nothing.
pub(crate) fn quantity(value: &Value) -> Quantity {
    match value {
        Value::String(text) => Quantity::parse(text).unwrap_or(Quantity::ZERO),
        Value::Int(number) => Quantity::new(*number, apimachinery::quantity::Format::DecimalSI),
        _ => Quantity::ZERO,
    }
}

/// What a pod asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodRequests {
    /// As written.
    pub exact: Resources,
    /// CPU and memory with defaults for containers that ask for none.
    pub nonzero_milli_cpu: i64,
    /// See above.
    pub nonzero_memory: i64,
}

impl PodRequests {
    /// What a pod asks for: its containers together or its largest moment of initialisation, what the pod itself says,
    /// and the overhead of its runtime.
    #[must_use]
    pub fn of(pod: &Value) -> Self {
        let exact = total(pod, Defaults { milli_cpu: 0, memory: 0 });
        let own = pod.at(&["spec", "resources", "requests"]).and_then(Value::as_object);
        let levelled = |name| own.is_some_and(|it| !it.is_empty()) && exact.get(name) != 0;
        let defaults = Defaults {
            milli_cpu: if levelled("cpu") { 0 } else { DEFAULT_MILLI_CPU },
            memory: if levelled("memory") { 0 } else { DEFAULT_MEMORY },
        };
        let filled = total(pod, defaults);
        Self { exact, nonzero_milli_cpu: filled.milli_cpu, nonzero_memory: filled.memory }
    }
}

/// What a container without a request is taken to ask for.
#[derive(Clone, Copy)]
struct Defaults {
    milli_cpu: i64,
    memory: i64,
}

fn total(pod: &Value, defaults: Defaults) -> Resources {
    let container_requests = {
        let spec_counts = !is_infeasible(pod);
        move |container| container_requests(pod, container, spec_counts, defaults)
    };
    let mut running = Resources::default();
    for container in pod.items_at(&["spec", "containers"]) {
        running.add(&container_requests(container));
    }
    let mut sidecars = Resources::default();
    let mut largest_init = Resources::default();
    for container in pod.items_at(&["spec", "initContainers"]) {
        let mut moment = container_requests(container);
        if container.str_at(&["restartPolicy"]) == "Always" {
            running.add(&moment);
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        largest_init.raise_to(&moment);
    }
    running.raise_to(&largest_init);
    for (name, amount) in own_requests(pod) {
        running.set(&name, amount);
    }
    running.add(&Resources::from_list(pod.at(&["spec", "overhead"])));
    running
}

/// Whether a resize of a pod is under way that its node can never make.
fn is_infeasible(pod: &Value) -> bool {
    let mut conditions = pod.items_at(&["status", "conditions"]).iter();
    let pending = conditions.find(|it| it.str_at(&["type"]) == "PodResizePending");
    pending.is_some_and(|it| it.str_at(&["reason"]) == "Infeasible")
}

/// What a pod itself asks for, for all of its containers, or holds while a resize of it is under way: the larger.
fn own_requests(pod: &Value) -> BTreeMap<CompactString, i64> {
    let list = pod.at(&["spec", "resources", "requests"]).and_then(Value::as_object);
    let Some(list) = list.filter(|it| !it.is_empty()) else { return BTreeMap::new() };
    let holds = pod.at(&["status", "resources"]).filter(|it| !it.is_null());
    let allocated = pod.at(&["status", "allocatedResources"]).filter(|_| holds.is_some());
    let held = [holds.and_then(|it| it.get("requests")), allocated];
    let held = held.into_iter().flatten().filter_map(Value::as_object);
    let spec = Some(list).filter(|_| holds.is_none() || !is_infeasible(pod));
    let mut all: BTreeMap<CompactString, i64> = BTreeMap::new();
    for (name, value) in spec.into_iter().chain(held).flat_map(Object::iter) {
        let quantity = quantity(value);
        let amount = if name == "cpu" { quantity.milli_value() } else { quantity.value() };
        let largest = all.entry(name.into()).or_insert(amount);
        *largest = amount.max(*largest);
    }
    all
}

/// What a container asks for, or holds while a resize is under way: the larger; what it holds alone, where what it asks for
/// does not count.
fn container_requests(
    pod: &Value,
    container: &Value,
    spec_counts: bool,
    defaults: Defaults,
) -> Resources {
    let list = container.at(&["resources", "requests"]);
    let name = container.str_at(&["name"]);
    let lists = [["status", "containerStatuses"], ["status", "initContainerStatuses"]];
    let mut statuses = lists.iter().flat_map(|path| pod.items_at(path));
    let status = statuses.find(|it| it.str_at(&["name"]) == name);
    let status = status.filter(|it| it.at(&["resources"]).is_some_and(|it| !it.is_null()));
    let held = status.map(|it| [it.at(&["resources", "requests"]), it.at(&["allocatedResources"])]);
    let spec = list.filter(|_| spec_counts || status.is_none());
    let mut requests = Resources::default();
    let mut said = [false; 2];
    for list in [spec].into_iter().chain(held.into_iter().flatten()) {
        requests.raise_to(&Resources::from_list(list));
        for (said, name) in said.iter_mut().zip(["cpu", "memory"]) {
            *said |= list.is_some_and(|list| list.get(name).is_some());
        }
    }
    if !said[0] {
        requests.milli_cpu = defaults.milli_cpu;
    }
    if !said[1] {
        requests.memory = defaults.memory;
    }
    requests
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    /// The amounts of CPU, as written and with defaults.
    fn cpu(spec: Value, status: Value) -> (i64, i64) {
        let requests = PodRequests::of(&value!({"spec": spec, "status": status}));
        (requests.exact.milli_cpu, requests.nonzero_milli_cpu)
    }

    #[test]
    fn while_a_resize_is_under_way_the_larger_counts_unless_it_can_never_be_made() {
        let requests = |cpu: &str| value!({"requests": {"cpu": cpu}});
        let spec = |cpu: &str| value!({"containers": [{"name": "c", "resources": (requests(cpu))}, {"name": "d"}]});
        let holds = |cpu: &str, reason: &str| {
            value!({"conditions": [{"type": "PodResizePending", "reason": reason}],
                "containerStatuses": [{"name": "c", "resources": (requests(cpu)),
                    "allocatedResources": {"cpu": "300m"}}]})
        };
        assert_eq!(cpu(spec("2"), Value::Null), (2_000, 2_100));
        assert_eq!(cpu(spec("2"), holds("1", "Deferred")), (2_000, 2_100));
        assert_eq!(cpu(spec("2"), holds("1", "Infeasible")), (1_000, 1_100));
        assert_eq!(cpu(spec("100m"), holds("200m", "Deferred")), (300, 400));
    }

    #[test]
    fn while_a_pod_itself_is_resized_the_larger_counts_too() {
        let spec = value!({"containers": [{"name": "c"}], "resources": {"requests": {"cpu": "2"}}});
        let holds = |cpu: &str, reason: &str| {
            value!({"conditions": [{"type": "PodResizePending", "reason": reason}],
                "resources": {"requests": {"cpu": cpu}}, "allocatedResources": {"cpu": "1"}})
        };
        assert_eq!(cpu(spec.clone(), holds("3", "Deferred")), (3_000, 3_000));
        assert_eq!(cpu(spec.clone(), holds("500m", "Deferred")), (2_000, 2_000));
        assert_eq!(cpu(spec, holds("500m", "Infeasible")), (1_000, 1_000));
    }
}
