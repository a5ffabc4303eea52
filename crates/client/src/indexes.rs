//! What shared caches can be looked up by besides the key, so that nobody walks a namespace to find what belongs together.

use apimachinery::Value;
use compact_str::{CompactString, format_compact};

use crate::csi_translation::OfDriver;
use crate::reflector::{Cached, Indexer};
use crate::resource::Resource;
use crate::volumes;

/// The index by the uid of the owner that controls an object.
pub const BY_CONTROLLER: &str = "controller";
/// The index by the uids of all owners of an object.
pub const BY_OWNER: &str = "owner";
/// The index of objects that nobody controls, by namespace.
pub const ORPHANS: &str = "orphans";
/// The index by the node a pod runs on.
pub const BY_NODE: &str = "node";
/// The index of pods that are over, under [`OVER`].
pub const BY_PHASE: &str = "phase";
/// What [`BY_PHASE`] has pods under that are over.
pub const OVER: &str = "over";
/// The index of nodes by their ranges of pod addresses.
pub const BY_POD_CIDR: &str = "podCIDR";
/// The index by labels, each as [`label_entry`] writes it.
pub const BY_LABEL: &str = "label";
/// The index of what has a selector, by one label that it asks for, as [`label_entry`] writes it; selectors that name no
/// label lie under [`any_label`].
pub const BY_SELECTOR: &str = "selector";
/// The index of endpoint slices by their service: `NAMESPACE/NAME`.
pub const BY_SERVICE: &str = "service";

/// The index of pods by the claims they have, each as [`claim_entry`] writes it.
pub const BY_CLAIM: &str = "claim";
/// The index of DaemonSets' pods by the node they are on or meant for.
pub const BY_DAEMON_NODE: &str = "daemonNode";
/// The index of claims and volumes by the VolumeAttributesClasses they name.
pub const BY_ATTRIBUTES_CLASS: &str = "attributesClass";
/// The index of volumes by the claim that they are meant for, as [`claim_entry`] writes it.
pub const FOR_CLAIM: &str = "forClaim";
/// The index of volumes that are meant for no claim and of claims that have no volume, by class as [`unbound_entry`]
/// writes it; of claims that name a volume and are not bound or have lost it, by that as [`volume_entry`] writes it.
pub const UNBOUND: &str = "unbound";
/// The index of attachments by the volume that is attached.
pub const BY_VOLUME: &str = "volume";
/// The index of nodes by the volumes that their status says are attached, and of volumes of drivers by what they are called
/// there.
pub const BY_ATTACHED: &str = "volumesAttached";
/// The index of token secrets by their account, as [`account_entry`] writes it.
pub const BY_SERVICE_ACCOUNT: &str = "serviceAccount";

/// The type of secrets that hold the tokens of accounts.
const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
/// Where a pod says which nodes it must run on.
pub const NODE_TERMS: [&str; 5] = [
    "spec",
    "affinity",
    "nodeAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
];

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The indexes that the shared cache of a resource has.
#[must_use]
pub fn indexes(resource: &Resource) -> Vec<(&'static str, Indexer)> {
    let mut indexes: Vec<(&'static str, Indexer)> =
        vec![(BY_CONTROLLER, controller_uid), (BY_OWNER, owner_uids)];
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => {
            indexes.extend([(BY_NODE, node_of_pod as Indexer), (BY_LABEL, labels)]);
            indexes.extend([(ORPHANS, orphan as Indexer), (BY_PHASE, over)]);
            indexes.extend([(BY_CLAIM, claims as Indexer), (BY_DAEMON_NODE, daemon_node)]);
        }
        ("", plural @ ("persistentvolumeclaims" | "persistentvolumes")) => {
            indexes.push((BY_ATTRIBUTES_CLASS, classes));
            if plural == "persistentvolumes" {
                indexes.extend([(FOR_CLAIM, for_claim as Indexer), (UNBOUND, unbound_volume)]);
                indexes.push((BY_ATTACHED, unique_name));
            } else {
                indexes.push((UNBOUND, unbound_claim));
            }
        }
        ("", "secrets") => indexes.push((BY_SERVICE_ACCOUNT, account)),
        ("", "nodes") => {
            indexes.extend([(BY_POD_CIDR, pod_ranges as Indexer), (BY_ATTACHED, attached)]);
        }
        ("storage.k8s.io", "volumeattachments") => {
            indexes.extend([(BY_VOLUME, attached_volume as Indexer), (BY_NODE, node_name)]);
        }
        ("apps", "replicasets") => {
            indexes.extend([(ORPHANS, orphan as Indexer), (BY_SELECTOR, selector)]);
        }
        ("apps", "controllerrevisions") => indexes.push((ORPHANS, orphan)),
        ("discovery.k8s.io", "endpointslices") => indexes.push((BY_SERVICE, service)),
        ("", "services" | "replicationcontrollers")
        | ("apps", "deployments" | "daemonsets" | "statefulsets")
        | ("batch", "jobs")
        | ("policy", "poddisruptionbudgets") => indexes.push((BY_SELECTOR, selector)),
        _ => {}
    }
    indexes
}

/// How indexes write a label of an object in a namespace.
#[must_use]
pub fn label_entry(namespace: &str, key: &str, value: &str) -> CompactString {
    format_compact!("{namespace}/{key}={value}")
}

/// How indexes write that a selector asks for no label by value.
#[must_use]
pub fn any_label(namespace: &str) -> CompactString {
    format_compact!("{namespace}/")
}

/// How the index of slices writes a service.
#[must_use]
pub fn service_entry(namespace: &str, name: &str) -> CompactString {
    format_compact!("{namespace}/{name}")
}

/// How the index of pods writes a claim.
#[must_use]
pub fn claim_entry(namespace: &str, name: &str) -> CompactString {
    format_compact!("{namespace}/{name}")
}

/// How the indexes of what is unbound write a class; empty for none.
#[must_use]
pub fn unbound_entry(class: &str) -> CompactString {
    format_compact!("class/{class}")
}

/// How the index of claims that are unbound writes the volume that one names.
#[must_use]
pub fn volume_entry(name: &str) -> CompactString {
    format_compact!("volume/{name}")
}

/// How the index of secrets writes an account.
#[must_use]
pub fn account_entry(namespace: &str, name: &str) -> CompactString {
    format_compact!("{namespace}/{name}")
}

/// The names of the claims that a pod has, those of its ephemeral volumes included.
#[must_use]
pub fn claims_of_pod(pod: &Value) -> Vec<CompactString> {
    let volumes = pod.items_at(&["spec", "volumes"]).iter();
    let claim = |volume: &Value| match volume.str_at(&["persistentVolumeClaim", "claimName"]) {
        "" if volume.at(&["ephemeral"]).is_some() => {
            let pod = pod.str_at(&["metadata", "name"]);
            Some(format_compact!("{pod}-{}", volume.str_at(&["name"])))
        }
        "" => None,
        name => Some(name.into()),
    };
    volumes.filter_map(claim).collect()
}

/// The names of the VolumeAttributesClasses that a claim or a volume has, had or is to have.
#[must_use]
pub fn attributes_classes(value: &Value) -> Vec<CompactString> {
    let mut names: Vec<CompactString> = [
        &["spec", "volumeAttributesClassName"][..],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ]
    .iter()
    .map(|path| value.str_at(path).into())
    .filter(|name: &CompactString| !name.is_empty())
    .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn classes(object: &Cached) -> Vec<CompactString> {
    if object.mentions("AttributesClass") {
        attributes_classes(&object.value())
    } else {
        Vec::new()
    }
}

fn for_claim(volume: &Cached) -> Vec<CompactString> {
    if !volume.mentions("claimRef") {
        return Vec::new();
    }
    let value = volume.value();
    let claim = |member| value.str_at(&["spec", "claimRef", member]);
    match claim("name") {
        "" => Vec::new(),
        name => vec![claim_entry(claim("namespace"), name)],
    }
}

fn unbound_volume(volume: &Cached) -> Vec<CompactString> {
    let value = volume.value();
    let free = value.at(&["spec", "claimRef"]).is_none_or(Value::is_null);
    if free { vec![unbound_entry(volumes::class(&value))] } else { Vec::new() }
}

fn unbound_claim(claim: &Cached) -> Vec<CompactString> {
    let value = claim.value();
    let bound = value.at(&["metadata", "annotations", volumes::BIND_COMPLETED]).is_some();
    match value.str_at(&["spec", "volumeName"]) {
        "" if bound => Vec::new(),
        _ if bound && value.str_at(&["status", "phase"]) != "Lost" => Vec::new(),
        "" => vec![unbound_entry(volumes::class(&value))],
        name => vec![volume_entry(name)],
    }
}

fn owner_uids(object: &Cached) -> Vec<CompactString> {
    object.owners().iter().map(|owner| owner.uid.clone()).collect()
}

fn controller_uid(object: &Cached) -> Vec<CompactString> {
    object.controller().map(|owner| owner.uid.clone()).into_iter().collect()
}

fn orphan(object: &Cached) -> Vec<CompactString> {
    if object.controller().is_some() { Vec::new() } else { vec![object.key.namespace.clone()] }
}

fn node_of_pod(pod: &Cached) -> Vec<CompactString> {
    let node = &pod.pod().node;
    if node.is_empty() { Vec::new() } else { vec![node.clone()] }
}

fn node_name(attachment: &Cached) -> Vec<CompactString> {
    let value = attachment.value();
    let name = value.str_at(&["spec", "nodeName"]);
    if name.is_empty() { Vec::new() } else { vec![name.into()] }
}

fn unique_name(volume: &Cached) -> Vec<CompactString> {
    OfDriver::of(&volume.value()).map(|it| it.unique_name()).into_iter().collect()
}

fn attached(node: &Cached) -> Vec<CompactString> {
    if !node.mentions(BY_ATTACHED) {
        return Vec::new();
    }
    let value = node.value();
    let volumes = value.items_at(&["status", "volumesAttached"]).iter();
    volumes.map(|it| it.str_at(&["name"]).into()).collect()
}

fn attached_volume(attachment: &Cached) -> Vec<CompactString> {
    let value = attachment.value();
    let name = value.str_at(&["spec", "source", "persistentVolumeName"]);
    if name.is_empty() { Vec::new() } else { vec![name.into()] }
}

/// Whether a pod may have claims: its text tells of most that they have none.
#[must_use]
pub fn has_claims(pod: &Cached) -> bool {
    pod.mentions("persistentVolumeClaim") || pod.mentions("ephemeral")
}

fn claims(pod: &Cached) -> Vec<CompactString> {
    if !has_claims(pod) {
        return Vec::new();
    }
    let names = claims_of_pod(&pod.value());
    names.iter().map(|name| claim_entry(&pod.key.namespace, name)).collect()
}

/// The node that a pod is on or meant for: its affinity to the node's name says so.
#[must_use]
pub fn target_node(pod: &Value) -> Option<&str> {
    let name = pod.str_at(&["spec", "nodeName"]);
    if !name.is_empty() {
        return Some(name);
    }
    let fields = pod.items_at(&NODE_TERMS).iter().flat_map(|it| it.items_at(&["matchFields"]));
    let named = fields
        .filter(|it| it.str_at(&["key"]) == "metadata.name" && it.str_at(&["operator"]) == "In");
    named.into_iter().find_map(|it| it.items_at(&["values"]).first()?.as_str())
}

fn daemon_node(pod: &Cached) -> Vec<CompactString> {
    if pod.controller().is_none_or(|it| it.kind != "DaemonSet") {
        return Vec::new();
    }
    target_node(&pod.value()).map(CompactString::from).into_iter().collect()
}

fn account(secret: &Cached) -> Vec<CompactString> {
    if !secret.mentions(TOKEN_TYPE) {
        return Vec::new();
    }
    let value = secret.value();
    if value.str_at(&["type"]) != TOKEN_TYPE {
        return Vec::new();
    }
    let annotations = ["metadata", "annotations", "kubernetes.io/service-account.name"];
    vec![account_entry(&secret.key.namespace, value.str_at(&annotations))]
}

fn over(pod: &Cached) -> Vec<CompactString> {
    if pod.pod().is_over() { vec![OVER.into()] } else { Vec::new() }
}

fn pod_ranges(node: &Cached) -> Vec<CompactString> {
    if !node.mentions("podCIDR") {
        return Vec::new();
    }
    let value = node.value();
    let ranges = value.items_at(&["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
    let mut ranges: Vec<CompactString> = ranges.map(CompactString::from).collect();
    let first = value.str_at(&["spec", "podCIDR"]);
    if ranges.is_empty() && !first.is_empty() {
        ranges.push(first.into());
    }
    ranges
}

fn labels(object: &Cached) -> Vec<CompactString> {
    let namespace = &object.key.namespace;
    object.labels().map(|(key, value)| label_entry(namespace, key, value)).collect()
}

/// One label that the selector cannot do without. A selector of labels is a plain map in the oldest kinds.
fn selector(object: &Cached) -> Vec<CompactString> {
    if !object.mentions("selector") {
        return Vec::new();
    }
    let (namespace, value) = (&object.key.namespace, object.value());
    let Some(selector) = value.at(&["spec", "selector"]).and_then(Value::as_object) else {
        return Vec::new();
    };
    let structured = ["matchLabels", "matchExpressions"]
        .iter()
        .any(|it| selector.get(it).is_some_and(|it| it.as_str().is_none()));
    let labels = if structured {
        selector.get("matchLabels").and_then(Value::as_object)
    } else {
        Some(selector)
    };
    let first = labels.and_then(|labels| labels.iter().next());
    let entry = first.and_then(|(key, text)| Some(label_entry(namespace, key, text.as_str()?)));
    vec![entry.unwrap_or_else(|| any_label(namespace))]
}

fn service(slice: &Cached) -> Vec<CompactString> {
    match slice.label(SERVICE_NAME) {
        None | Some("") => Vec::new(),
        Some(name) => vec![service_entry(&slice.key.namespace, name)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_lie_where_they_are_looked_for() {
        let check = |indexer: Indexer, object: &str, expected: &[&str]| {
            let text = object.replacen('{', r#"{"apiVersion":"v1","kind":"K","#, 1);
            let value = apimachinery::json::parse(text.as_bytes()).unwrap();
            assert_eq!(indexer(&Cached::new(value)), expected, "{object}");
        };
        let of = r#"{"metadata":{"namespace":"ns","labels":{"a":"1","b":"2"},"ownerReferences":[{"uid":"u"},{"uid":"c","controller":true}]}}"#;
        check(labels, of, &["ns/a=1", "ns/b=2"]);
        check(orphan, of, &[]);
        check(orphan, r#"{"metadata":{"namespace":"ns"}}"#, &["ns"]);
        check(controller_uid, of, &["c"]);
        check(owner_uids, of, &["u", "c"]);
        let selecting = |selector: &str| {
            format!(r#"{{"metadata":{{"namespace":"ns"}},"spec":{{"selector":{selector}}}}}"#)
        };
        check(selector, &selecting(r#"{"a":"1","b":"2"}"#), &["ns/a=1"]);
        check(selector, &selecting(r#"{"matchLabels":{"b":"2"}}"#), &["ns/b=2"]);
        check(selector, &selecting(r#"{"matchExpressions":[]}"#), &["ns/"]);
        check(selector, &selecting("{}"), &["ns/"]);
        check(selector, r#"{"metadata":{"namespace":"ns"},"spec":{}}"#, &[]);
        let volumes = r#"{"metadata":{"namespace":"ns","name":"p"},"spec":{"volumes":[{"name":"a","persistentVolumeClaim":{"claimName":"c"}},{"name":"b","ephemeral":{}},{"name":"d"}]}}"#;
        check(claims, volumes, &["ns/c", "ns/p-b"]);
        let daemon = r#"{"metadata":{"ownerReferences":[{"kind":"DaemonSet","controller":true}]},"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"In","values":["n1"]}]}]}}}}}"#;
        check(daemon_node, daemon, &["n1"]);
        check(daemon_node, r#"{"spec":{"nodeName":"n1"}}"#, &[]);
        check(node_of_pod, r#"{"spec":{"nodeName":"n1"}}"#, &["n1"]);
        check(over, r#"{"status":{"phase":"Failed"}}"#, &[OVER]);
        let meant = r#"{"spec":{"claimRef":{"namespace":"ns","name":"c"},"storageClassName":"s"}}"#;
        check(for_claim, meant, &["ns/c"]);
        check(unbound_volume, meant, &[]);
        check(unbound_volume, r#"{"spec":{"storageClassName":"s"}}"#, &["class/s"]);
        check(unbound_claim, r#"{"spec":{}}"#, &["class/"]);
        check(unbound_claim, r#"{"spec":{"volumeName":"v"}}"#, &["volume/v"]);
        let complete = r#"{"metadata":{"annotations":{"pv.kubernetes.io/bind-completed":"yes"}},"spec":{"volumeName":"v"}}"#;
        check(unbound_claim, complete, &[]);
        let lost = complete.replacen('{', r#"{"status":{"phase":"Lost"},"#, 1);
        check(unbound_claim, &lost, &["volume/v"]);
        let classes = r#"{"spec":{"volumeAttributesClassName":"x"},"status":{"currentVolumeAttributesClassName":"x","modifyVolumeStatus":{"targetVolumeAttributesClassName":"y"}}}"#;
        check(super::classes, classes, &["x", "y"]);
    }
}
