//! What is to be done for a pod that needs claims, and for a claim that somebody let go of.

use apimachinery::{Value, value};
use client::call::PatchKind;
use client::events::{EventType, ObjectReference};
use client::{ObjectKey, Resource};
use controller::{Action, Event, Plan};
use dynamic_resource_allocation::claim::{FINALIZER, POD_CLAIM_NAME, RESERVED_FOR_MAX};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;

use super::{ClaimSeen, Holder, Memory, PodSeen, is_done};
use crate::owner;

/// Who writes the claims of a pod into its status.
const FIELD_MANAGER: &str = "ResourceClaimController";
const FAILED: &str = "FailedResourceClaimCreation";
/// The longest start of a generated name: a hyphen and five letters come behind it.
const NAME_START_MAX: usize = 57;

/// Makes the claims of a pod's templates, and has the pod say which they are.
pub(super) fn pod(seen: &PodSeen) -> Plan {
    let mut plan = Plan::nothing();
    let pod = &seen.pod;
    if pod.at(&["metadata", "deletionTimestamp"]).is_some() || is_done(pod) {
        return plan;
    }
    let mut statuses: Vec<(String, Option<String>)> = given(pod);
    let before = statuses.clone();
    for used in pod.items_at(&["spec", "resourceClaims"]) {
        let name = used.str_at(&["name"]);
        if used.get("resourceClaimTemplateName").is_none() {
            continue;
        }
        let status = statuses.iter().find(|(it, _)| it == name).map(|(_, claim)| claim.clone());
        let settled = match &status {
            None => false,
            Some(None) => true,
            Some(Some(claim)) => seen.claims.get(claim).is_some_and(|it| is_for(it, pod)),
        };
        if settled {
            continue;
        }
        match seen.made.get(name) {
            Some(made) => {
                let made = made.str_at(&["metadata", "name"]).to_owned();
                statuses.retain(|(it, _)| it != name);
                statuses.push((name.to_owned(), Some(made)));
            }
            None => {
                if let Err(why) = create(&mut plan, seen, used) {
                    let told = format!("PodResourceClaim {name}: {why}");
                    plan.event(about(pod), EventType::Warning, FAILED, told.clone());
                    plan.error = Some(format!("pod {}, {told}", shown(pod)));
                    break;
                }
            }
        }
    }
    if statuses != before {
        plan.act(say(pod, &statuses));
    }
    if !pod.str_at(&["spec", "nodeName"]).is_empty() {
        reserve(&mut plan, seen);
    }
    plan
}

/// The claims that a pod's status tells of.
fn given(pod: &Value) -> Vec<(String, Option<String>)> {
    let statuses = pod.items_at(&["status", "resourceClaimStatuses"]).iter();
    let claim = |it: &Value| it.get("resourceClaimName").and_then(Value::as_str).map(str::to_owned);
    statuses.map(|it| (it.str_at(&["name"]).to_owned(), claim(it))).collect()
}

fn is_for(claim: &Value, pod: &Value) -> bool {
    let uid = pod.str_at(&["metadata", "uid"]);
    let owners = claim.items_at(&["metadata", "ownerReferences"]);
    owners.iter().any(|it| it.bool_at(&["controller"]) && it.str_at(&["uid"]) == uid)
}

fn about(pod: &Value) -> ObjectReference {
    ObjectReference { api_version: "v1".into(), kind: "Pod".into(), ..ObjectReference::of(pod) }
}

fn shown(pod: &Value) -> String {
    let part = |member| pod.str_at(&["metadata", member]);
    format!("{}/{}", part("namespace"), part("name"))
}

/// Creates a claim as its template says. The pod says so once the claim is seen.
fn create(plan: &mut Plan, seen: &PodSeen, used: &Value) -> Result<(), String> {
    let (pod, name) = (&seen.pod, used.str_at(&["name"]));
    let template = used.str_at(&["resourceClaimTemplateName"]);
    let spec = seen.templates.get(template).ok_or_else(|| {
        let missing = format!("resourceclaimtemplate.resource.k8s.io \"{template}\" not found");
        format!("resource claim template \"{template}\": {missing}")
    })?;
    let spec = &spec["spec"];
    let owner = value!({"apiVersion": "v1", "kind": "Pod", "name": (pod.str_at(&["metadata", "name"])),
        "uid": (pod.str_at(&["metadata", "uid"])), "controller": true});
    let start = name_start(pod.str_at(&["metadata", "name"]), name);
    let mut claim = value!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"generateName": start, "ownerReferences": [owner]}, "spec": (spec["spec"].clone())
    });
    for member in ["labels", "annotations"] {
        if let Some(value) = spec.at(&["metadata", member]) {
            claim.set_at(&["metadata", member], value.clone());
        }
    }
    claim.set_at(&["metadata", "annotations", POD_CLAIM_NAME], name);
    let planned = plan.act(Action::Create {
        resource: Resource::of::<ResourceClaim>(),
        namespace: pod.str_at(&["metadata", "namespace"]).to_owned(),
        object: claim,
        exists_is_fine: false,
    });
    planned.on_failure = vec![Event {
        about: about(pod),
        kind: EventType::Warning,
        reason: FAILED,
        message: format!("PodResourceClaim {name}: create ResourceClaim : {{error}}"),
    }];
    Ok(())
}

/// `POD-CLAIM-`, both shortened by their share where it would be too long.
fn name_start(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= NAME_START_MAX {
        return whole;
    }
    let short = |it: &str| it[..it.len() * NAME_START_MAX / whole.len()].to_owned();
    format!("{}-{}", short(pod), short(claim))
}

/// Has the pod say which claims it was given.
fn say(pod: &Value, statuses: &[(String, Option<String>)]) -> Action {
    let each = statuses.iter().map(|(name, claim)| {
        let mut status = value!({"name": (name.as_str())});
        if let Some(claim) = claim {
            status.set_at(&["resourceClaimName"], claim.as_str());
        }
        status
    });
    let part = |member| pod.str_at(&["metadata", member]);
    let mut patch = value!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": (part("name")), "namespace": (part("namespace")), "uid": (part("uid"))}});
    patch.set_at(&["status", "resourceClaimStatuses"], Value::Array(each.collect()));
    Action::Patch {
        resource: Resource::of::<Pod>(),
        key: ObjectKey::new(part("namespace"), part("name")),
        subresource: "status",
        kind: PatchKind::Apply { manager: FIELD_MANAGER },
        patch,
        gone_is_fine: true,
    }
}

/// Gives a pod that is on a node the claims that are allocated already.
fn reserve(plan: &mut Plan, seen: &PodSeen) {
    let uid = seen.pod.str_at(&["metadata", "uid"]);
    let given = given(&seen.pod);
    for used in seen.pod.items_at(&["spec", "resourceClaims"]) {
        let named = used.str_at(&["resourceClaimName"]);
        let generated = named.is_empty();
        let status = given.iter().find(|(it, _)| it == used.str_at(&["name"]));
        let name = if generated { status.and_then(|(_, it)| it.as_deref()) } else { Some(named) };
        let Some(claim) = name.and_then(|it| seen.claims.get(it)) else { continue };
        let holders = claim.items_at(&["status", "reservedFor"]);
        let fits = claim.at(&["status", "allocation"]).is_some_and(|it| !it.is_null())
            && holders.len() < RESERVED_FOR_MAX
            && !holders.iter().any(|it| it.str_at(&["uid"]) == uid);
        if !fits || (generated && !is_for(claim, &seen.pod)) {
            continue;
        }
        let mut holders = holders.to_vec();
        let pod = seen.pod.str_at(&["metadata", "name"]);
        holders.push(value!({"resource": "pods", "name": pod, "uid": uid}));
        let mut object = Value::clone(claim);
        object.set_at(&["status", "reservedFor"], Value::Array(holders));
        let resource = Resource::of::<ResourceClaim>();
        plan.act(Action::Update { resource, subresource: "status", object });
    }
}

/// Takes a claim from those who do not need it any more; the last gives back what it was given.
pub(super) fn claim(seen: &ClaimSeen, memory: &mut Memory) -> Plan {
    let mut plan = Plan::nothing();
    let claim = &seen.claim;
    for holder in &seen.holders {
        match holder {
            Holder::Ask(fetch) => plan.fetches.push((**fetch).clone()),
            Holder::Unknown(entry) => {
                plan.error = Some(format!("unsupported ReservedFor entry: {entry}"));
                return plan;
            }
            Holder::Needs | Holder::Gone => {}
        }
    }
    if !plan.fetches.is_empty() {
        return plan;
    }
    let needing = seen.holders.iter().filter(|it| **it == Holder::Needs).count();
    let protected =
        claim.items_at(&["metadata", "finalizers"]).iter().any(|it| it.as_str() == Some(FINALIZER));
    let allocated = claim.at(&["status", "allocation"]).is_some_and(|it| !it.is_null());
    let going = claim.at(&["metadata", "deletionTimestamp"]).is_some();
    if needing < seen.holders.len() {
        plan.act(release(seen, needing == 0 && protected));
        memory.released = needing == 0;
        // What is left to do is done once this is seen.
        return plan;
    }
    if needing > 0 {
        memory.released = false;
        return plan;
    }
    if protected && going && allocated {
        plan.act(deallocate(claim));
        return plan;
    }
    if protected && !allocated && (going || memory.released) {
        let mut object = Value::clone(claim);
        let finalizers = claim.items_at(&["metadata", "finalizers"]).iter();
        let others = finalizers.filter(|it| it.as_str() != Some(FINALIZER)).cloned();
        object.set_at(&["metadata", "finalizers"], Value::Array(others.collect()));
        let resource = Resource::of::<ResourceClaim>();
        plan.act(Action::Update { resource, subresource: "", object });
    }
    if seen.is_over && !going {
        plan.then();
        plan.act(owner::delete_value(Resource::of::<ResourceClaim>(), claim));
    }
    plan
}

/// Takes the claim from those who do not need it, and what it was given where nobody does. A patch that holds for these
/// holders alone: the garbage collector deletes the claim at the same time, which would make a whole write meet it.
fn release(seen: &ClaimSeen, deallocate: bool) -> Action {
    let part = |member| seen.claim.str_at(&["metadata", member]);
    let path = "/status/reservedFor";
    let holders = seen.claim.items_at(&["status", "reservedFor"]);
    let left = holders.iter().zip(&seen.holders).filter(|(_, it)| **it == Holder::Needs);
    let left: Vec<Value> = left.map(|(it, _)| it.clone()).collect();
    let mut patch = vec![
        value!({"op": "test", "path": "/metadata/uid", "value": (part("uid"))}),
        value!({"op": "test", "path": path, "value": (Value::Array(holders.to_vec()))}),
        match left.is_empty() {
            true => value!({"op": "remove", "path": path}),
            false => value!({"op": "replace", "path": path, "value": (Value::Array(left))}),
        },
    ];
    let given = ["allocation", "devices"].into_iter();
    let given = given.filter(|it| deallocate && seen.claim.at(&["status", it]).is_some());
    patch.extend(given.map(|it| value!({"op": "remove", "path": (format!("/status/{it}"))})));
    Action::Patch {
        resource: Resource::of::<ResourceClaim>(),
        key: ObjectKey::new(part("namespace"), part("name")),
        subresource: "status",
        kind: PatchKind::Json,
        patch: Value::Array(patch),
        gone_is_fine: true,
    }
}

/// Takes from a claim that nobody has what it was given. Whoever gets it meanwhile keeps it.
fn deallocate(claim: &Value) -> Action {
    let mut object = claim.clone();
    object.remove_at(&["status", "allocation"]);
    object.remove_at(&["status", "devices"]);
    Action::Update { resource: Resource::of::<ResourceClaim>(), subresource: "status", object }
}
