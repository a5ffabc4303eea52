//! NodeRestriction: a node writes its own node object, and pods that are bound to it, and nothing else of that sort.

use std::sync::Arc;

use apimachinery::{Object, Status, Value};
use async_trait::async_trait;

use crate::service_account::MIRROR;
use crate::{Attributes, Objects, Operation, Plugin};

const LEASES: &str = "kube-node-lease";
/// Labels below these domains are not a node's to set, but for those in [`ALLOWED`].
const DOMAINS: [&str; 2] = ["kubernetes.io", "k8s.io"];
/// Labels that a node sets about itself.
const ALLOWED: [&str; 13] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Domains in which a node may set any label.
const ALLOWED_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

#[derive(Debug)]
pub(crate) struct NodeRestriction {
    objects: Arc<dyn Objects>,
}

impl NodeRestriction {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    async fn check(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        match (attributes.group, attributes.resource, attributes.subresource) {
            ("", "pods", "") => Self::pod(node, attributes),
            ("", "pods", "status") => Self::pod_status(node, attributes),
            ("", "pods", "eviction") => self.eviction(node, attributes).await,
            ("", "nodes", _) => Self::node(node, attributes),
            ("", "serviceaccounts", "token") => self.token(node, attributes).await,
            ("coordination.k8s.io", "leases", _) => Self::lease(node, attributes),
            ("storage.k8s.io", "csinodes", _) if attributes.object_name() != node => {
                Err(attributes
                    .forbid("can only access CSINode with the same name as the requesting node"))
            }
            _ => Ok(()),
        }
    }

    fn pod(node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        match attributes.operation {
            Operation::Create => Self::new_pod(node, attributes),
            Operation::Delete => {
                let pod = attributes.old.unwrap_or(&Value::Null);
                if pod.str_at(&["spec", "nodeName"]) == node {
                    return Ok(());
                }
                Err(attributes.forbid(&format!(
                    "node {node:?} can only delete pods with spec.nodeName set to itself"
                )))
            }
            Operation::Update | Operation::Connect => Err(attributes.forbid(&format!(
                "unexpected operation, node {node:?} can only create and delete mirror pods"
            ))),
        }
    }

    fn new_pod(node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        let pod = &*attributes.object;
        let refuse = |why: String| Err(attributes.forbid(&why));
        if pod.at(&["metadata", "annotations", MIRROR]).is_none() {
            return refuse(format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            ));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            return refuse(format!(
                "node {node:?} can only create pods with spec.nodeName set to itself"
            ));
        }
        let owners = pod.items_at(&["metadata", "ownerReferences"]);
        let own =
            |owner: &Value| owner.str_at(&["kind"]) == "Node" && owner.str_at(&["name"]) == node;
        if owners.len() > 1 || !owners.iter().all(own) {
            return refuse(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
            return refuse(format!(
                "node {node:?} can not create pods that reference a service account"
            ));
        }
        for volume in pod.items_at(&["spec", "volumes"]) {
            for (member, word) in [
                ("secret", "secrets"),
                ("configMap", "configmaps"),
                ("persistentVolumeClaim", "persistentvolumeclaims"),
                ("projected", "projected volumes"),
            ] {
                if volume.get(member).is_some() {
                    return refuse(format!(
                        "node {node:?} can not create pods that reference {word}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn pod_status(node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        let old = attributes.old.unwrap_or(&Value::Null);
        if old.str_at(&["spec", "nodeName"]) != node {
            return Err(attributes.forbid(&format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            )));
        }
        let labels = |it: &Value| it["metadata"]["labels"].clone();
        if labels(old) != labels(attributes.object) {
            let why = format!("node {node:?} cannot update labels through pod status");
            return Err(attributes.forbid(&why));
        }
        Ok(())
    }

    async fn eviction(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        let pod = self.pod_now(attributes.namespace, attributes.object_name()).await?;
        if pod.is_some_and(|it| it.str_at(&["spec", "nodeName"]) == node) {
            return Ok(());
        }
        Err(attributes
            .forbid(&format!("node {node} can only evict pods with spec.nodeName set to itself")))
    }

    async fn pod_now(&self, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        let found = match self.objects.get("", "pods", namespace, name) {
            Some(found) => Some(found),
            None => self.objects.get_live("", "pods", namespace, name).await?,
        };
        found.map(|it| it.to_value()).transpose().map_err(Status::internal)
    }

    fn node(node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        let name = attributes.object_name();
        if name != node {
            let why = format!("node {node:?} is not allowed to modify node {name:?}");
            return Err(attributes.forbid(&why));
        }
        let (now, before) = (&*attributes.object, attributes.old);
        if let (Operation::Update, Some(before)) = (attributes.operation, before)
            && now["spec"]["taints"] != before["spec"]["taints"]
        {
            return Err(
                attributes.forbid(&format!("node {node:?} is not allowed to modify taints"))
            );
        }
        if attributes.operation == Operation::Delete {
            return Ok(());
        }
        let empty = Object::new();
        let old_labels =
            before.and_then(|it| it["metadata"]["labels"].as_object()).unwrap_or(&empty);
        let new_labels = now["metadata"]["labels"].as_object().unwrap_or(&empty);
        let changed = |key: &&str| old_labels.get(key) != new_labels.get(key);
        let mut forbidden: Vec<&str> = new_labels
            .keys()
            .chain(old_labels.keys())
            .filter(changed)
            .filter(|key| is_forbidden(key))
            .collect();
        forbidden.sort_unstable();
        forbidden.dedup();
        if forbidden.is_empty() {
            return Ok(());
        }
        let verb = if before.is_some() { "modify" } else { "set the following" };
        Err(attributes.forbid(&format!(
            "node {node:?} is not allowed to {verb} labels: {}",
            forbidden.join(", ")
        )))
    }

    async fn token(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
        let reference = &attributes.object["spec"]["boundObjectRef"];
        if reference.str_at(&["kind"]) != "Pod" || reference.str_at(&["apiVersion"]) != "v1" {
            return Err(attributes.forbid("node requested token not bound to a pod"));
        }
        let uid = reference.str_at(&["uid"]);
        if uid.is_empty() {
            let why = "node requested token with a pod binding without a uid";
            return Err(attributes.forbid(why));
        }
        let pod = self.pod_now(attributes.namespace, reference.str_at(&["name"])).await?;
        let Some(pod) = pod else {
            return Err(
                attributes.forbid("node requested token bound to a pod that does not exist")
            );
        };
        let actual = pod.str_at(&["metadata", "uid"]);
        if actual != uid {
            return Err(attributes.forbid(&format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            )));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            let why = "node requested token bound to a pod scheduled on a different node";
            return Err(attributes.forbid(why));
        }
        Ok(())
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
}

/// Whether a label is not a node's to set.
fn is_forbidden(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let within = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|it| it.ends_with('.'))
    };
    DOMAINS.iter().any(|it| within(it))
        && !ALLOWED.contains(&key)
        && !ALLOWED_DOMAINS.iter().any(|it| within(it))
        || domain == "node-restriction.kubernetes.io"
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.user.as_node().is_some()
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        match attributes.user.as_node() {
            Some(node) => self.check(node, attributes).await,
            None => Ok(()),
        }
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        // Some writes are only judged: deletes, tokens, evictions.
        self.mutate(attributes).await
    }
}
