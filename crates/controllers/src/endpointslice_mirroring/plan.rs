//! Which slices Endpoints are to have.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::{Value, value};
use client::Resource;
use client::events::{EventType, ObjectReference};
use controller::{Action, Plan};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::subsets::{self, Group};
use super::{MANAGED_BY, MANAGER, Memory, Observed, SERVICE_NAME};
use crate::owner;
use crate::trigger::LAST_CHANGE;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) fn plan(observed: &Observed, memory: &mut Memory, max: usize) -> Plan {
    let mut plan = Plan::nothing();
    let Some(endpoints) = &observed.endpoints else {
        observed.slices.iter().for_each(|slice| delete(&mut plan, slice));
        return plan;
    };
    let wanted = subsets::wanted(endpoints, max);
    memory.skipped = wanted.invalid + wanted.surplus;
    tell(&mut plan, endpoints, (&wanted, max), &mut memory.told);
    let mut existing: BTreeMap<Group, Vec<&Arc<Value>>> = BTreeMap::new();
    for slice in &observed.slices {
        existing.entry(group(slice)).or_default().push(slice);
    }
    // Slices that are left over become those that are to be made, where the kind of addresses is the same.
    let mut made = Vec::new();
    let mut unused = Vec::new();
    for (group, mut members) in wanted.groups {
        members.truncate(max);
        let mut slices = existing.remove(&group).unwrap_or_default().into_iter();
        let object = make(endpoints, &group, members);
        match slices.next() {
            Some(slice) if says_same(slice, &object) => {}
            Some(slice) => update(&mut plan, slice, &object),
            None => made.push(object),
        }
        unused.extend(slices);
    }
    unused.extend(existing.into_values().flatten());
    for slice in unused {
        let family = slice.str_at(&["addressType"]);
        match made.iter().position(|it| it.str_at(&["addressType"]) == family) {
            Some(place) => update(&mut plan, slice, &made.remove(place)),
            None => delete(&mut plan, slice),
        }
    }
    for object in made {
        plan.act(Action::Create {
            resource: resource(),
            namespace: object.str_at(&["metadata", "namespace"]).to_owned(),
            object,
            exists_is_fine: false,
        });
    }
    plan
}

fn resource() -> Resource {
    Resource::of::<EndpointSlice>()
}

/// Tells, once of each version, what cannot be mirrored.
fn tell(
    plan: &mut Plan,
    endpoints: &Value,
    (wanted, max): (&subsets::Wanted, usize),
    told: &mut String,
) {
    let version = endpoints.str_at(&["metadata", "resourceVersion"]);
    if version == told.as_str() {
        return;
    }
    version.clone_into(told);
    let about = ObjectReference {
        api_version: "v1".into(),
        kind: "Endpoints".into(),
        ..ObjectReference::of(endpoints)
    };
    if wanted.invalid > 0 {
        let message = format!(
            "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
            wanted.invalid
        );
        plan.event(about.clone(), EventType::Warning, "InvalidIPAddress", message);
    }
    if wanted.surplus > 0 {
        let message = format!(
            "A max of {max} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
            wanted.surplus
        );
        plan.event(about, EventType::Warning, "TooManyAddressesToMirror", message);
    }
}

/// The group of a slice, its ports written as those that are wanted.
fn group(slice: &Value) -> Group {
    let family = if slice.str_at(&["addressType"]) == "IPv6" { "IPv6" } else { "IPv4" };
    let ports: Value = slice.items_at(&["ports"]).iter().cloned().collect();
    let mut ports = ports;
    if let Some(ports) = ports.as_array_mut() {
        ports.sort_by_cached_key(apimachinery::json::to_string);
    }
    Group { family, ports: apimachinery::json::to_string(&ports) }
}

/// A slice as it is to be, without a name.
fn make(endpoints: &Value, group: &Group, members: Vec<Value>) -> Value {
    let name = endpoints.str_at(&["metadata", "name"]);
    let owner = value!({"apiVersion": "v1", "kind": "Endpoints", "name": name,
        "uid": (endpoints.str_at(&["metadata", "uid"])), "controller": true, "blockOwnerDeletion": true});
    let labels = endpoints.at(&["metadata", "labels"]).cloned();
    let mut object = value!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": (group.family),
        "metadata": {"generateName": (format!("{name}-")), "namespace": (endpoints.str_at(&["metadata", "namespace"])),
            "labels": (labels.unwrap_or_else(Value::object)), "ownerReferences": [owner]},
        "endpoints": (Value::Array(members)),
        "ports": (apimachinery::json::parse(group.ports.as_bytes()).unwrap_or_default())
    });
    object.set_at(&["metadata", "labels", SERVICE_NAME], name);
    object.set_at(&["metadata", "labels", MANAGED_BY], MANAGER);
    let annotations = endpoints.at(&["metadata", "annotations"]).and_then(Value::as_object);
    for (key, text) in annotations.into_iter().flat_map(apimachinery::Object::iter) {
        if key != LAST_CHANGE && key != LAST_APPLIED {
            object.set_at(&["metadata", "annotations", key], text.clone());
        }
    }
    object
}

/// What a slice says: sorted, so that order does not count.
fn said(slice: &Value) -> [Value; 5] {
    let at = |path: &[&str]| slice.at(path).cloned().unwrap_or_default();
    let sorted = |list: &str| {
        let mut items = slice.items_at(&[list]).to_vec();
        items.sort_by_cached_key(apimachinery::json::to_string);
        Value::Array(items)
    };
    [
        sorted("endpoints"),
        sorted("ports"),
        at(&["metadata", "labels"]),
        at(&["metadata", "annotations"]),
        at(&["metadata", "ownerReferences"]),
    ]
}

fn says_same(slice: &Value, wanted: &Value) -> bool {
    said(slice) == said(wanted)
}

fn update(plan: &mut Plan, slice: &Value, wanted: &Value) {
    let mut object = slice.clone();
    for path in [
        &["endpoints"][..],
        &["ports"],
        &["metadata", "labels"],
        &["metadata", "annotations"],
        &["metadata", "ownerReferences"],
    ] {
        match wanted.at(path) {
            Some(value) => object.set_at(path, value.clone()),
            None => {
                object.remove_at(path);
            }
        }
    }
    plan.act(Action::Update { resource: resource(), subresource: "", object });
}

fn delete(plan: &mut Plan, slice: &Value) {
    plan.act(owner::delete_value(resource(), slice));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Arc<Value> {
        apimachinery::json::parse(text.as_bytes()).unwrap().into()
    }

    #[test]
    fn slices_follow_their_endpoints() {
        let check = |endpoints: Option<&str>, slices: &[&str], expected: &str| {
            let observed = Observed {
                key: client::ObjectKey::new("ns", "e"),
                endpoints: endpoints.map(parse),
                slices: slices.iter().map(|it| parse(it)).collect(),
            };
            let plan = plan(&observed, &mut Memory::default(), 1_000);
            let actions = plan.stages.iter().flat_map(|it| &it.actions);
            let mut did: Vec<String> = actions
                .map(|it| match &it.action {
                    Action::Create { object, .. } => {
                        format!("create {}", object.items_at(&["endpoints"]).len())
                    }
                    Action::Update { object, .. } => format!(
                        "update {} {}",
                        object.str_at(&["metadata", "name"]),
                        object.items_at(&["endpoints"]).len()
                    ),
                    Action::Delete { key, .. } => format!("delete {}", key.name),
                    _ => "other".into(),
                })
                .collect();
            did.extend(plan.events.iter().map(|it| it.reason.to_owned()));
            assert_eq!(did.join(", "), expected);
        };
        let one = r#"{"metadata":{"name":"s","uid":"u","namespace":"n","resourceVersion":"1"},"subsets":[{"addresses":[{"ip":"10.0.0.1"}],"ports":[{"port":80}]}]}"#;
        let right = r#"{"addressType":"IPv4","metadata":{"name":"s-a","namespace":"n","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslicemirroring-controller.k8s.io","kubernetes.io/service-name":"s"},"ownerReferences":[{"apiVersion":"v1","kind":"Endpoints","name":"s","uid":"u","controller":true,"blockOwnerDeletion":true}]},
            "endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true}}],"ports":[{"name":"","port":80,"protocol":"TCP"}]}"#;
        let other = r#"{"addressType":"IPv4","metadata":{"name":"s-b","namespace":"n"},"endpoints":[],"ports":[{"name":"","port":81,"protocol":"TCP"}]}"#;
        let six = r#"{"addressType":"IPv6","metadata":{"name":"s-6","namespace":"n"},"endpoints":[],"ports":[]}"#;
        check(Some(one), &[], "create 1");
        check(Some(one), &[right], "");
        check(Some(one), &[right, right], "delete s-a");
        check(Some(one), &[other], "update s-b 1");
        check(Some(one), &[six], "delete s-6, create 1");
        check(None, &[right], "delete s-a");
        let bad = r#"{"metadata":{"name":"s","resourceVersion":"1"},"subsets":[{"addresses":[{"ip":"x"}]}]}"#;
        check(Some(bad), &[], "InvalidIPAddress");
        let many: Vec<String> =
            (0..1_001).map(|it| format!(r#"{{"ip":"10.0.{}.{}"}}"#, it / 250, it % 250)).collect();
        let many = format!(
            r#"{{"metadata":{{"name":"s","resourceVersion":"1"}},"subsets":[{{"addresses":[{}]}}]}}"#,
            many.join(",")
        );
        check(Some(&many), &[], "create 1000, TooManyAddressesToMirror");
    }
}
