//! NodeRestriction: a node writes its own node object, and pods that are bound to it, and nothing else of that sort.
//!
//! Upstream asks this before anything is judged, and once, so that what webhooks add is not the node's doing; so does this.

use std::sync::Arc;

use api::pod_references::{self, MIRROR, is_mirror};
use apimachinery::status::GroupResource;
use apimachinery::{Object, Status, Value};
use async_trait::async_trait;
use auth::Authorizer;

use crate::{Attributes, Objects, Operation, Plugin};

mod certificates;
mod tokens;

const LEASES: &str = "kube-node-lease";
/// Labels below these domains are not a node's to set, but for those in [`ALLOWED`].
const DOMAINS: [&str; 2] = ["kubernetes.io", "k8s.io"];
/// Labels that a node sets about itself.
const ALLOWED: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Domains in which a node may set any label.
const ALLOWED_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Labels that no node sets about itself, so that what is placed by them is not drawn to one that was taken over.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// What a node that grows a volume says of its claim.
const OF_CLAIM: [&str; 4] =
    ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"];

#[derive(Debug)]
pub(crate) struct NodeRestriction {
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
}

impl NodeRestriction {
    pub(crate) fn new(objects: Arc<dyn Objects>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { objects, authorizer }
    }

    async fn check(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        if node.is_empty() {
            let why = format!("could not determine node from user {:?}", attributes.user.name);
            return Err(attributes.forbid(&why));
        }
        match (attributes.group, attributes.resource, attributes.subresource) {
            ("", "pods", "") => self.pod(node, attributes).await,
            ("", "pods", "status") => pod_status(node, attributes),
            ("", "pods", "eviction") => self.eviction(node, attributes).await,
            ("", "pods", other) => Err(attributes.forbid(&format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            ))),
            ("", "nodes", _) => own_node(node, attributes),
            ("", "persistentvolumeclaims", "status") => claim_status(node, attributes),
            ("", "persistentvolumeclaims", _) => {
                Err(attributes.forbid("may only update PVC status"))
            }
            ("", "serviceaccounts", "token") => self.token(node, attributes).await,
            ("coordination.k8s.io", "leases", _) => lease(node, attributes),
            ("storage.k8s.io", "csinodes", _) if attributes.object_name() != node => {
                Err(attributes
                    .forbid("can only access CSINode with the same name as the requesting node"))
            }
            ("resource.k8s.io", "resourceslices", _) => slice(node, attributes),
            ("certificates.k8s.io", "certificatesigningrequests", _) => {
                certificates::own(node, attributes)
            }
            ("certificates.k8s.io", "podcertificaterequests", _) => {
                self.certificate_request(node, attributes).await
            }
            _ => Ok(()),
        }
    }

    async fn pod(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        match attributes.operation {
            Operation::Create => self.new_pod(node, attributes).await,
            Operation::Delete => {
                let pod = attributes.old.unwrap_or(&Value::Null);
                if pod.str_at(&["spec", "nodeName"]) == node {
                    return Ok(());
                }
                Err(attributes.forbid(&format!(
                    "node {node:?} can only delete pods with spec.nodeName set to itself"
                )))
            }
            operation @ (Operation::Update | Operation::Connect) => {
                Err(attributes.forbid(&format!(
                    "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                    word(operation)
                )))
            }
        }
    }

    async fn new_pod(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        let pod = &*attributes.object;
        if !is_mirror(pod) {
            return Err(attributes.forbid(&format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            )));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            return Err(attributes.forbid(&format!(
                "node {node:?} can only create pods with spec.nodeName set to itself"
            )));
        }
        self.owner(node, attributes).await?;
        let why = match pod_references::first_of(pod) {
            Ok(None) => return Ok(()),
            Ok(Some(named)) => format!("node {node:?} can not create pods that reference {named}"),
            Err(why) => why,
        };
        Err(attributes.forbid(&why))
    }

    /// A mirror pod is its node's, as it is now, and does not hold it.
    async fn owner(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        let only = |what: &str| {
            let why = format!("node {node:?} can only create pods with {what} set to itself");
            Err(attributes.forbid(&why))
        };
        let owner = match attributes.object.items_at(&["metadata", "ownerReferences"]) {
            [] => return only("an owner reference"),
            [owner] => owner,
            _ => return only("a single owner reference"),
        };
        let of = |member: &str| owner.str_at(&[member]);
        if (of("apiVersion"), of("kind"), of("name")) != ("v1", "Node", node) {
            return only("an owner reference");
        }
        if !owner.bool_at(&["controller"]) {
            return only("a controller owner reference");
        }
        if owner.bool_at(&["blockOwnerDeletion"]) {
            return Err(attributes.forbid(&format!(
                "node {node:?} must not set blockOwnerDeletion on an owner reference"
            )));
        }
        let Some(known) = self.now("", "nodes", ("", node)).await? else {
            return Err(lacking(GroupResource { group: "", resource: "node" }, node));
        };
        let (said, uid) = (of("uid"), known.str_at(&["metadata", "uid"]));
        if said != uid {
            let why = format!("node {node} UID mismatch: expected {said} got {uid}");
            return Err(attributes.forbid(&why));
        }
        Ok(())
    }

    async fn eviction(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        if attributes.operation != Operation::Create {
            let why = format!("unexpected operation {}", word(attributes.operation));
            return Err(attributes.forbid(&why));
        }
        let name = attributes.object_name();
        if name.is_empty() {
            return Err(attributes.forbid("could not determine pod from request data"));
        }
        let pod = self.pod_now(attributes.namespace, name).await?;
        if pod.str_at(&["spec", "nodeName"]) == node {
            return Ok(());
        }
        Err(attributes
            .forbid(&format!("node {node} can only evict pods with spec.nodeName set to itself")))
    }

    async fn pod_now(&self, namespace: &str, name: &str) -> Result<Value, Status> {
        let found = self.now("", "pods", (namespace, name)).await?;
        found.ok_or_else(|| lacking(GroupResource { group: "", resource: "pod" }, name))
    }

    /// An object: as the caches have it, or else as the store has.
    async fn now(
        &self,
        group: &str,
        resource: &str,
        (namespace, name): (&str, &str),
    ) -> Result<Option<Value>, Status> {
        if name.is_empty() {
            return Ok(None);
        }
        let found = match self.objects.get(group, resource, namespace, name) {
            Some(found) => Some(found),
            None => self.objects.get_live(group, resource, namespace, name).await?,
        };
        found.map(|it| it.to_value()).transpose().map_err(Status::internal)
    }

    async fn token(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        let reference = &attributes.object["spec"]["boundObjectRef"];
        let of = |member: &str| reference.str_at(&[member]);
        if (of("apiVersion"), of("kind")) != ("v1", "Pod") || of("name").is_empty() {
            return Err(attributes.forbid("node requested token not bound to a pod"));
        }
        let uid = of("uid");
        if uid.is_empty() {
            let why = "node requested token with a pod binding without a uid";
            return Err(attributes.forbid(why));
        }
        let pod = self.pod_now(attributes.namespace, of("name")).await?;
        if pod.str_at(&["metadata", "uid"]) != uid {
            return Err(attributes.forbid(&format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            )));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            let why = "node requested token bound to a pod scheduled on a different node";
            return Err(attributes.forbid(why));
        }
        self.audience(attributes, &pod).await
    }
}

/// An operation as upstream writes it.
fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// 404 in the words of upstream's caches, which name the kind.
fn lacking(kind: GroupResource<'_>, name: &str) -> Status {
    Status::not_found(kind, name)
}

fn pod_status(node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
    if attributes.operation != Operation::Update {
        let why = format!("unexpected operation {:?}", word(attributes.operation));
        return Err(attributes.forbid(&why));
    }
    let (now, old) = (&*attributes.object, attributes.old.unwrap_or(&Value::Null));
    let why = if old.str_at(&["spec", "nodeName"]) != node {
        "can only update pod status for pods with spec.nodeName set to itself"
    } else if !alike(&now["metadata"]["labels"], &old["metadata"]["labels"]) {
        "cannot update labels through pod status"
    } else if !says_same(now, old, "resourceClaimStatuses") {
        "cannot update resource claim statues"
    } else if !says_same(now, old, "extendedResourceClaimStatus") {
        "cannot update extended resource claim status"
    } else {
        return Ok(());
    };
    Err(attributes.forbid(&format!("node {node:?} {why}")))
}

fn says_same(now: &Value, old: &Value, member: &str) -> bool {
    alike(&now["status"][member], &old["status"][member])
}

fn claim_status(node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
    if attributes.operation != Operation::Update {
        let why = format!("unexpected operation {:?}", word(attributes.operation));
        return Err(attributes.forbid(&why));
    }
    let bare = |claim: &Value| {
        let mut bare = claim.clone();
        bare.remove_at(&["metadata", "resourceVersion"]);
        bare.remove_at(&["metadata", "managedFields"]);
        for member in OF_CLAIM {
            bare.remove_at(&["status", member]);
        }
        bare
    };
    let (now, old) = (bare(attributes.object), bare(attributes.old.unwrap_or(&Value::Null)));
    let different = difference(&now, &old);
    if different.is_empty() {
        return Ok(());
    }
    Err(attributes.forbid(&format!(
        "node {node:?} is not allowed to update fields other than status.quantity and status.conditions: {}",
        different.join(", ")
    )))
}

/// The members that differ, and theirs, one level deep.
fn difference(now: &Value, old: &Value) -> Vec<String> {
    let members = |a: &Value, b: &Value| {
        let keys = |it: &Value| -> Vec<String> {
            it.as_object().into_iter().flat_map(Object::keys).map(str::to_owned).collect()
        };
        let mut all = [keys(a), keys(b)].concat();
        all.sort_unstable();
        all.dedup();
        all.retain(|key| !alike(&a[key.as_str()], &b[key.as_str()]));
        all
    };
    let of_part = |part: String| {
        let (now, old) = (&now[part.as_str()], &old[part.as_str()]);
        let inside = members(now, old);
        if inside.is_empty() {
            return vec![part];
        }
        inside.into_iter().map(|it| format!("{part}.{it}")).collect()
    };
    members(now, old).into_iter().flat_map(of_part).collect()
}

/// Whether two values say the same: lists and maps that are not there are as good as empty ones.
fn alike(a: &Value, b: &Value) -> bool {
    let is_empty = |it: &Value| match it {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    match (a, b) {
        (Value::Object(of_a), Value::Object(of_b)) => {
            of_a.keys().chain(of_b.keys()).all(|key| alike(&a[key], &b[key]))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
        }
        _ => a == b || (is_empty(a) && is_empty(b)),
    }
}

fn own_node(node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
    let name = attributes.object_name();
    if name != node {
        let why = format!("node {node:?} is not allowed to modify node {name:?}");
        return Err(attributes.forbid(&why));
    }
    let now = &*attributes.object;
    let why = match attributes.operation {
        Operation::Create => own_new_node(node, now),
        Operation::Update => own_changed_node(node, now, attributes.old.unwrap_or(&Value::Null)),
        Operation::Delete | Operation::Connect => None,
    };
    why.map_or(Ok(()), |why| Err(attributes.forbid(&why)))
}

/// Why a node may not register like this.
fn own_new_node(node: &str, now: &Value) -> Option<String> {
    if !now["spec"]["configSource"].is_null() {
        return Some(format!(
            "node {node:?} is not allowed to create pods with a non-nil configSource"
        ));
    }
    let labels = forbidden_labels(now, &Value::Null);
    (!labels.is_empty()).then(|| {
        let labels = labels.join(", ");
        format!("node {node:?} is not allowed to set the following labels: {labels}")
    })
}

/// Why a node may not change itself like this.
fn own_changed_node(node: &str, now: &Value, old: &Value) -> Option<String> {
    let source = &now["spec"]["configSource"];
    let what = if !source.is_null() && !alike(source, &old["spec"]["configSource"]) {
        "update configSource to a new non-nil configSource"
    } else if !alike(&now["spec"]["taints"], &old["spec"]["taints"]) {
        "modify taints"
    } else if !alike(&now["metadata"]["ownerReferences"], &old["metadata"]["ownerReferences"]) {
        // The garbage collector would take the node away, and it could come back as another.
        "modify ownerReferences"
    } else {
        let labels = forbidden_labels(now, old);
        return (!labels.is_empty())
            .then(|| format!("is not allowed to modify labels: {}", labels.join(", ")));
    };
    Some(format!("node {node:?} is not allowed to {what}"))
}

/// The labels that differ and are not a node's to set, sorted.
fn forbidden_labels<'v>(now: &'v Value, old: &'v Value) -> Vec<&'v str> {
    let (now, old) = (&now["metadata"]["labels"], &old["metadata"]["labels"]);
    let keys = [now, old].into_iter().filter_map(Value::as_object).flat_map(Object::keys);
    let mut labels: Vec<&str> =
        keys.filter(|key| now.get(key) != old.get(key)).filter(|key| is_forbidden(key)).collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}

/// Whether a label is not a node's to set.
fn is_forbidden(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let within = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|it| it.ends_with('.'))
    };
    let is_kubernetes_s = DOMAINS.iter().any(|it| within(it));
    let is_node_s = ALLOWED.contains(&key) || ALLOWED_DOMAINS.iter().any(|it| within(it));
    within(RESTRICTED) || (is_kubernetes_s && !is_node_s)
}

fn lease(node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
    if attributes.namespace != LEASES {
        let why = format!("can only access leases in the {LEASES:?} system namespace");
        return Err(attributes.forbid(&why));
    }
    if attributes.object_name() != node {
        let why = "can only access node lease with the same name as the requesting node";
        return Err(attributes.forbid(why));
    }
    Ok(())
}

/// Whose slices others are, the authorizer knows; not so of new ones, and of each that goes with others.
fn slice(node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
    let (slice, verb) = match attributes.operation {
        Operation::Create => (&*attributes.object, "create"),
        Operation::Delete => (attributes.old.unwrap_or(&Value::Null), "delete"),
        Operation::Update | Operation::Connect => return Ok(()),
    };
    if slice.str_at(&["spec", "nodeName"]) == node {
        return Ok(());
    }
    Err(attributes.forbid(&format!(
        "can only {verb} ResourceSlice with the same NodeName as the requesting node"
    )))
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Connect && attributes.user.as_node().is_some()
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        match attributes.user.as_node() {
            Some(node) => self.check(node, attributes).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
