//! Which slices a service is to have.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::{Object, Value, value};
use client::Resource;
use client::events::EventType;
use controller::plan::PlannedAction;
use controller::{Action, Event, Plan};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::topology::{Outcome, Slices};
use super::{MANAGED_BY, MANAGER, Observed, SERVICE_NAME};
use crate::owner::{self, Owner, key_of, to_value};
use crate::pods;
use crate::trigger::LAST_CHANGE;

/// The label of slices of headless services.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// The annotations that ask for hints by the sizes of zones, which goes before the service's own wish.
const TOPOLOGY_MODES: &[&str] =
    &["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];
/// Labels that a service does not hand to its slices.
const OWN_LABELS: &[&str] = &[SERVICE_NAME, MANAGED_BY, HEADLESS];

/// Slices differ by address family and ports: pods may resolve a named port differently.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    family: &'static str,
    /// The ports as JSON text, by which groups are told apart.
    ports: String,
}

/// What slices are made from.
struct Round<'o> {
    observed: &'o Observed,
    /// When what they are made from changed, as text.
    trigger: Option<String>,
}

pub(super) fn plan(observed: &Observed, changed: Option<Timestamp>) -> Plan {
    let round = Round { observed, trigger: changed.map(|it| it.to_string()) };
    let service = &observed.service;
    let mut groups: BTreeMap<Group, Vec<Value>> = BTreeMap::new();
    for family in families(service) {
        for pod in &observed.pods {
            let Some(address) = address(pod, family).filter(|_| counts(pod)) else {
                continue;
            };
            let ports = apimachinery::json::to_string(&ports(service, pod));
            let endpoint = endpoint(observed, pod, &address);
            groups.entry(Group { family, ports }).or_default().push(endpoint);
        }
    }
    if groups.is_empty() {
        // A service without endpoints has one empty slice, so that clients can tell that from not known yet.
        for family in families(service) {
            groups.insert(Group { family, ports: "null".into() }, Vec::new());
        }
    }
    let mut plan = Plan::nothing();
    let mut unused: Vec<&EndpointSlice> = observed.slices.iter().map(AsRef::as_ref).collect();
    for (group, endpoints) in groups {
        let existing = take_group(&mut unused, &group);
        reconcile(&mut plan, &round, &group, endpoints, existing);
    }
    for slice in unused {
        plan.act(Action::Delete {
            resource: Resource::of::<EndpointSlice>(),
            key: key_of(&slice.metadata),
            uid: slice.metadata.uid.clone().unwrap_or_default(),
            propagation: None,
            grace_period_seconds: None,
            resource_version: String::new(),
        });
    }
    hint_by_zones(&mut plan, &round);
    reuse(&mut plan, observed);
    tell_failures(&mut plan, service);
    plan
}

/// Says of each write what is told of the service if it fails.
fn tell_failures(plan: &mut Plan, service: &Service) {
    let key = key_of(&service.metadata);
    for planned in plan.stages.iter_mut().flat_map(|it| &mut it.actions) {
        let what = match &planned.action {
            Action::Update { object, .. } => {
                format!("update {} EndpointSlice", object.str_at(&["metadata", "name"]))
            }
            Action::Delete { key, .. } => format!("delete {} EndpointSlice", key.name),
            _ => "create EndpointSlice".to_owned(),
        };
        planned.on_failure = vec![Event {
            about: owner::reference_to("v1", "Service", &service.metadata),
            kind: EventType::Warning,
            reason: "FailedToUpdateEndpointSlices",
            message: format!(
                "Error updating Endpoint Slices for Service {key}: failed to {what} for Service {key}: {{error}}"
            ),
        }];
    }
}

/// Whether hints are asked for by the sizes of zones.
pub(super) fn hints_by_zones<'s>(annotation: impl Fn(&str) -> Option<&'s str>) -> bool {
    TOPOLOGY_MODES.iter().any(|key| matches!(annotation(key), Some("Auto" | "auto")))
}

/// An annotation of a service.
pub(super) fn annotation<'s>(service: &'s Service, key: &str) -> Option<&'s str> {
    service.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The hints of an existing slice's zones.
fn has_zone_hints(slice: &EndpointSlice) -> bool {
    let mut hints = slice.endpoints.iter().flatten().filter_map(|it| it.hints.as_ref());
    hints.any(|it| it.for_zones.as_ref().is_some_and(|it| !it.is_empty()))
}

/// Gives slices hints by the sizes of zones, where the service asks for that, and tells whether it could be.
fn hint_by_zones(plan: &mut Plan, round: &Round<'_>) {
    let service = &round.observed.service;
    let about = || owner::reference_to("v1", "Service", &service.metadata);
    let had_hints = round.observed.slices.iter().any(|it| has_zone_hints(it));
    let Some(parts) = &round.observed.parts else {
        let others = service.spec.as_ref().and_then(|it| it.traffic_distribution.as_ref());
        if had_hints && others.is_none() {
            let told = "Topology Aware Hints has been disabled";
            plan.event(about(), EventType::Warning, "TopologyAwareHintsDisabled", told);
        }
        return;
    };
    for family in families(service) {
        let mut slices = slices_of(plan, round, family);
        let before = slices.unchanged.clone();
        let outcome = slices.hint(parts);
        put_back(plan, round, slices, &before);
        let of_family = |what: &str| format!("{what}, addressType: {family}");
        match outcome {
            Outcome::Hinted if had_hints => {}
            Outcome::Hinted => {
                let told = of_family("Topology Aware Hints has been enabled");
                plan.event(about(), EventType::Normal, "TopologyAwareHintsEnabled", told);
            }
            Outcome::Without(why) => {
                let told = of_family(&why);
                plan.event(about(), EventType::Warning, "TopologyAwareHintsDisabled", told);
            }
        }
    }
}

/// The slice that a write makes or changes, where it is one of this family.
fn written<'p>(planned: &'p mut PlannedAction, family: &str) -> Option<&'p mut Value> {
    match &mut planned.action {
        Action::Create { object, .. } | Action::Update { object, .. } => {
            (object.str_at(&["addressType"]) == family).then_some(object)
        }
        _ => None,
    }
}

/// Takes the slices of a family: those that are written come first, in the order of their writes.
fn slices_of(plan: &mut Plan, round: &Round<'_>, family: &str) -> Slices {
    let actions = plan.stages.iter_mut().flat_map(|it| it.actions.iter_mut());
    let mut touched: BTreeSet<String> = BTreeSet::new();
    let mut slices = Slices::default();
    for planned in actions {
        if let Action::Delete { key, .. } = &planned.action {
            touched.insert(key.name.to_string());
        }
        if let Some(object) = written(planned, family) {
            touched.insert(object.str_at(&["metadata", "name"]).to_owned());
            slices.written.push(object.clone());
        }
    }
    let left = round.observed.slices.iter().filter(|it| {
        let name = it.metadata.name.as_deref().unwrap_or_default();
        it.address_type == family && !touched.contains(name)
    });
    slices.unchanged = left.map(to_value).collect();
    slices
}

/// Puts slices back into their writes; those that were not to be written and are now get one.
fn put_back(plan: &mut Plan, round: &Round<'_>, slices: Slices, before: &[Value]) {
    let mut rest = slices.written.into_iter();
    let family = rest.as_slice().first().map(|it| it.str_at(&["addressType"]).to_owned());
    let Some(family) = family else { return };
    let actions = plan.stages.iter_mut().flat_map(|it| it.actions.iter_mut());
    for object in actions.filter_map(|it| written(it, &family)) {
        if let Some(hinted) = rest.next() {
            *object = hinted;
        }
    }
    for mut object in rest.filter(|it| !before.contains(it)) {
        annotate(round, &mut object);
        let resource = Resource::of::<EndpointSlice>();
        plan.act(Action::Update { resource, subresource: "", object });
    }
}

/// A slice that would go becomes one that would be made, where the kind of addresses is the same.
fn reuse(plan: &mut Plan, observed: &Observed) {
    let Some(stage) = plan.stages.first_mut() else { return };
    let mut made: Vec<Value> = Vec::new();
    stage.actions.retain(|it| match &it.action {
        Action::Create { object, .. } => {
            made.push(object.clone());
            false
        }
        _ => true,
    });
    for planned in &mut stage.actions {
        let Action::Delete { key, .. } = &planned.action else { continue };
        let old = observed.slices.iter().find(|it| key_of(&it.metadata) == *key);
        let fits =
            |it: &Value| old.is_some_and(|old| it.str_at(&["addressType"]) == old.address_type);
        let (Some(place), Some(old)) = (made.iter().position(fits), old) else { continue };
        let new = made.remove(place);
        let mut object = to_value(old);
        for path in
            [&["endpoints"][..], &["ports"], &["metadata", "labels"], &["metadata", "annotations"]]
        {
            match new.at(path) {
                Some(value) => object.set_at(path, value.clone()),
                None => {
                    object.remove_at(path);
                }
            }
        }
        let resource = Resource::of::<EndpointSlice>();
        planned.action = Action::Update { resource, subresource: "", object };
    }
    for object in made {
        plan.act(Action::Create {
            resource: Resource::of::<EndpointSlice>(),
            namespace: object.str_at(&["metadata", "namespace"]).to_owned(),
            object,
            exists_is_fine: false,
        });
    }
}

fn families(service: &Service) -> Vec<&'static str> {
    let families = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    let mut families: Vec<&'static str> =
        families.map(|it| if it == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if families.is_empty() {
        families.push("IPv4");
    }
    families
}

pub(crate) fn publishes_all(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or_default()
}

/// Whether a pod is an endpoint at all, ready or not: as long as it is not over, on its way out too (upstream:
/// `ShouldPodBeInEndpoints`).
fn counts(pod: &Pod) -> bool {
    !matches!(pods::phase(pod), "Succeeded" | "Failed")
}

fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let wanted = |ip: &str| ip.contains(':') == (family == "IPv6");
    let many = status.pod_ips.iter().flatten().map(|it| it.ip.clone()).find(|ip| wanted(ip));
    many.or_else(|| status.pod_ip.clone()).filter(|ip| !ip.is_empty() && wanted(ip))
}

fn endpoint(observed: &Observed, pod: &Pod, address: &str) -> Value {
    let ready = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let all = publishes_all(&observed.service);
    let mut endpoint = value!({
        "addresses": [address],
        "conditions": {"ready": (all || (ready && !terminating)), "serving": ready, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": (pod.metadata.namespace.clone().unwrap_or_default()),
            "name": (pod.metadata.name.clone().unwrap_or_default()), "uid": (pod.metadata.uid.clone().unwrap_or_default())}
    });
    let spec = pod.spec.as_ref();
    if let Some(node) = spec.and_then(|it| it.node_name.as_deref()).filter(|it| !it.is_empty()) {
        endpoint.set_at(&["nodeName"], node);
        if let Some(zone) = observed.zones.get(node) {
            endpoint.set_at(&["zone"], zone.as_str());
        }
    }
    if all || (ready && !terminating) {
        hint(&mut endpoint, &observed.service);
    }
    let subdomain = spec.and_then(|it| it.subdomain.as_deref()).unwrap_or_default();
    let hostname = spec.and_then(|it| it.hostname.as_deref()).unwrap_or_default();
    if !hostname.is_empty() && Some(subdomain) == observed.service.metadata.name.as_deref() {
        endpoint.set_at(&["hostname"], hostname);
    }
    endpoint
}

/// Says whose traffic an endpoint is for, where the service prefers that of its own zone or node.
fn hint(endpoint: &mut Value, service: &Service) {
    let by_size = hints_by_zones(|key| annotation(service, key));
    let wanted = service.spec.as_ref().and_then(|it| it.traffic_distribution.as_deref());
    let node = match wanted.filter(|_| !by_size) {
        Some("PreferSameNode") => endpoint.str_at(&["nodeName"]).to_owned(),
        Some("PreferClose" | "PreferSameZone") => String::new(),
        Some(_) | None => return,
    };
    let zone = endpoint.str_at(&["zone"]).to_owned();
    for (list, name) in [("forZones", zone), ("forNodes", node)] {
        if !name.is_empty() {
            endpoint.set_at(&["hints", list], value!([{"name": name}]));
        }
    }
}

/// The ports of a service as a pod has them; a named port that the pod lacks is left out.
fn ports(service: &Service, pod: &Pod) -> Value {
    let spec = service.spec.as_ref();
    let all = spec.iter().flat_map(|it| it.ports.iter().flatten());
    let ports: Vec<Value> = all
        .filter_map(|port| {
            let number = port_number(port, pod)?;
            let mut entry = Object::new();
            entry.insert("name", port.name.clone().unwrap_or_default());
            entry.insert("port", i64::from(number));
            entry.insert("protocol", port.protocol.clone().unwrap_or_else(|| "TCP".into()));
            if let Some(protocol) = &port.app_protocol {
                entry.insert("appProtocol", protocol.as_str());
            }
            Some(Value::Object(entry))
        })
        .collect();
    if ports.is_empty() { Value::Null } else { Value::Array(ports) }
}

pub(crate) fn port_number(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(0)) | None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|it| it.restart_policy.as_deref() == Some("Always"));
            let containers = spec.containers.iter().chain(sidecars);
            containers.flat_map(|it| it.ports.iter().flatten()).find_map(|it| {
                let same = it.name.as_deref() == Some(name.as_str())
                    && it.protocol.as_deref().unwrap_or("TCP") == protocol;
                same.then_some(it.container_port)
            })
        }
    }
}

/// Takes the slices of a group out of those that are there.
fn take_group<'s>(slices: &mut Vec<&'s EndpointSlice>, group: &Group) -> Vec<&'s EndpointSlice> {
    let fits = |slice: &&EndpointSlice| {
        let ports = to_value(&slice.ports);
        let ports =
            if ports.as_array().is_some_and(<[Value]>::is_empty) { Value::Null } else { ports };
        slice.address_type == group.family && apimachinery::json::to_string(&ports) == group.ports
    };
    let (taken, left) = slices.drain(..).partition(fits);
    *slices = left;
    taken
}

/// Brings the slices of a group to these endpoints with as few writes as can be.
fn reconcile(
    plan: &mut Plan,
    round: &Round<'_>,
    group: &Group,
    endpoints: Vec<Value>,
    existing: Vec<&EndpointSlice>,
) {
    let name = |endpoint: &Value| endpoint.str_at(&["targetRef", "uid"]).to_owned();
    let mut left: BTreeMap<String, Value> =
        endpoints.into_iter().map(|it| (name(&it), it)).collect();
    let mut kept: Vec<(&EndpointSlice, Vec<Value>)> = Vec::new();
    for slice in existing {
        let present: Vec<Value> =
            to_value(&slice.endpoints).as_array().unwrap_or_default().to_vec();
        let by_size = round.observed.parts.is_some();
        let take = |it: &Value| {
            let new = left.remove(&name(it))?;
            // Hints of what is otherwise the same are looked at later.
            Some(if by_size && is_same_but_for_hints(it, &new) { it.clone() } else { new })
        };
        let still = present.iter().filter_map(take).collect();
        kept.push((slice, still));
    }
    let max = round.observed.max_endpoints.max(1);
    // What is new fills slices that have room, the fullest first.
    kept.sort_by_key(|(_, endpoints)| std::cmp::Reverse(endpoints.len()));
    let mut new: Vec<Value> = left.into_values().collect();
    for (_, endpoints) in &mut kept {
        let room = max.saturating_sub(endpoints.len()).min(new.len());
        endpoints.extend(new.drain(..room));
    }
    let mut first_empty = new.is_empty() && kept.iter().all(|(_, endpoints)| endpoints.is_empty());
    for (slice, endpoints) in kept {
        if endpoints.is_empty() && !std::mem::take(&mut first_empty) {
            delete(plan, slice);
            continue;
        }
        update(plan, round, slice, endpoints);
    }
    if first_empty {
        create(plan, round, group, Vec::new());
    }
    for chunk in new.chunks(max) {
        create(plan, round, group, chunk.to_vec());
    }
}

fn is_same_but_for_hints(old: &Value, new: &Value) -> bool {
    let mut old = old.clone();
    old.remove_at(&["hints"]);
    old == *new
}

fn delete(plan: &mut Plan, slice: &EndpointSlice) {
    plan.act(owner::delete(Resource::of::<EndpointSlice>(), &slice.metadata));
}

fn update(plan: &mut Plan, round: &Round<'_>, slice: &EndpointSlice, endpoints: Vec<Value>) {
    let mut object = to_value(slice);
    object.set_at(&["endpoints"], Value::Array(endpoints));
    object.set_at(&["metadata", "labels"], labels(&round.observed.service));
    let before = to_value(slice);
    let set = |value: &Value| -> BTreeSet<String> {
        value.items_at(&["endpoints"]).iter().map(apimachinery::json::to_string).collect()
    };
    if set(&object) == set(&before)
        && object.at(&["metadata", "labels"]) == before.at(&["metadata", "labels"])
    {
        return;
    }
    annotate(round, &mut object);
    plan.act(Action::Update { resource: Resource::of::<EndpointSlice>(), subresource: "", object });
}

fn create(plan: &mut Plan, round: &Round<'_>, group: &Group, endpoints: Vec<Value>) {
    let service = &round.observed.service;
    let owner = Owner { api_version: "v1", kind: "Service", metadata: &service.metadata };
    let ports = apimachinery::json::parse(group.ports.as_bytes()).unwrap_or_default();
    let name = service.metadata.name.clone().unwrap_or_default();
    let namespace = service.metadata.namespace.clone().unwrap_or_default();
    let mut object = value!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": (group.family),
        "metadata": {"generateName": (format!("{name}-")), "namespace": (namespace.as_str()), "labels": (labels(service)),
            "ownerReferences": [(owner.reference())]},
        "ports": ports, "endpoints": (Value::Array(endpoints))
    });
    annotate(round, &mut object);
    plan.act(Action::Create {
        resource: Resource::of::<EndpointSlice>(),
        namespace,
        object,
        exists_is_fine: false,
    });
}

/// Writes down when what the slice is made from changed.
fn annotate(round: &Round<'_>, object: &mut Value) {
    match &round.trigger {
        Some(trigger) => {
            object.set_at(&["metadata", "annotations", LAST_CHANGE], trigger.as_str());
        }
        None => {
            object.remove_at(&["metadata", "annotations", LAST_CHANGE]);
        }
    }
}

/// The labels of a service's slices: its own, and those that say whose they are.
fn labels(service: &Service) -> Value {
    let mut labels = Object::new();
    for (key, text) in service.metadata.labels.iter().flatten() {
        if !OWN_LABELS.contains(&key.as_str()) {
            labels.insert(key.as_str(), text.as_str());
        }
    }
    labels.insert(SERVICE_NAME, service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY, MANAGER);
    if service.spec.as_ref().and_then(|it| it.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS, "");
    }
    Value::Object(labels)
}
