//! What is to be done for a service: its Endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::{Value, value};
use client::Resource;
use client::events::EventType;
use controller::{Action, Event, Plan};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};

use super::subsets::{self, Subset};
use super::{MANAGED_BY, MANAGER};
use crate::owner::{self, key_of, reference_to, to_value};
use crate::trigger::LAST_CHANGE;

/// The most addresses of an object (upstream: `maxCapacity`).
const MAX_ADDRESSES: usize = 1_000;
/// The annotation of an object that has not all addresses.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const TRUNCATED: &str = "truncated";
const HEADLESS: &str = "service.kubernetes.io/headless";

pub(super) fn delete(endpoints: &Endpoints) -> Plan {
    let mut plan = Plan::nothing();
    plan.act(owner::delete(Resource::of::<Endpoints>(), &endpoints.metadata));
    plan
}

pub(super) fn bring(
    service: &Service,
    pods: &[Arc<Pod>],
    current: Option<&Endpoints>,
    changed: Option<Timestamp>,
) -> Plan {
    let mut plan = Plan::nothing();
    let mut subsets = subsets::of(service, pods);
    let truncated = subsets::truncate(&mut subsets, MAX_ADDRESSES);
    let wanted: Value = subsets.iter().map(Subset::to_value).collect();
    let labels = labels(service);
    let mut object = current.map_or_else(|| new(service), to_value);
    let annotated = object.str_at(&["metadata", "annotations", OVER_CAPACITY]) == TRUNCATED;
    let same = subsets::same(object.items_at(&["subsets"]), wanted.as_array().unwrap_or_default())
        && object.at(&["metadata", "labels"]) == Some(&labels)
        && annotated == truncated;
    if same && current.is_some() {
        return plan;
    }
    if subsets.is_empty() {
        object.remove_at(&["subsets"]);
    } else {
        object.set_at(&["subsets"], wanted);
    }
    object.set_at(&["metadata", "labels"], labels);
    annotate(&mut object, LAST_CHANGE, changed.map(|it| it.to_string()));
    annotate(&mut object, OVER_CAPACITY, truncated.then(|| TRUNCATED.to_owned()));
    write(&mut plan, service, current.is_some(), object);
    plan
}

fn new(service: &Service) -> Value {
    let key = key_of(&service.metadata);
    value!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": (key.name.as_str()), "namespace": (key.namespace.as_str())}})
}

/// The service's own labels, and those that say what this is.
fn labels(service: &Service) -> Value {
    let own: BTreeMap<String, String> = service.metadata.labels.clone().unwrap_or_default();
    let mut labels = to_value(&own);
    labels.remove_at(&[HEADLESS]);
    if service.spec.as_ref().and_then(|it| it.cluster_ip.as_deref()) == Some("None") {
        labels.set_at(&[HEADLESS], "");
    }
    labels.set_at(&[MANAGED_BY], MANAGER);
    labels
}

fn annotate(object: &mut Value, key: &str, text: Option<String>) {
    match text {
        Some(text) => object.set_at(&["metadata", "annotations", key], text),
        None => {
            object.remove_at(&["metadata", "annotations", key]);
        }
    }
}

fn write(plan: &mut Plan, service: &Service, exists: bool, object: Value) {
    let key = key_of(&service.metadata);
    let resource = Resource::of::<Endpoints>();
    let (reason, verb, action) = if exists {
        let action = Action::Update { resource, subresource: "", object };
        ("FailedToUpdateEndpoint", "update", action)
    } else {
        let namespace = key.namespace.to_string();
        let action = Action::Create { resource, namespace, object, exists_is_fine: false };
        ("FailedToCreateEndpoint", "create", action)
    };
    plan.act(action).on_failure = vec![Event {
        about: reference_to("v1", "Endpoints", &service.metadata),
        kind: EventType::Warning,
        reason,
        message: format!("Failed to {verb} endpoint for service {key}: {{error}}"),
    }];
}
