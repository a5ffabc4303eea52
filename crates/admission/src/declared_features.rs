//! NodeDeclaredFeatureValidator: a pod on a node is changed only in ways that its node knows. Upstream:
//! `plugin/pkg/admission/nodedeclaredfeatures` and `k8s.io/component-helpers/nodedeclaredfeatures`.

use std::sync::Arc;

use apimachinery::{Status, Value};
use async_trait::async_trait;
use quota::{Amounts, amounts};

use crate::{Attributes, Objects, Operation, Plugin};

/// What a change asks of a node, in upstream's order.
const FEATURES: [Feature; 3] = [
    Feature { name: "GuaranteedQoSPodCPUResize", needed: resizes_guaranteed_cpu },
    Feature { name: "InPlacePodLevelResourcesVerticalScaling", needed: resizes_pod },
    Feature { name: "InPlacePodVerticalScalingInitContainers", needed: resizes_init_containers },
];

struct Feature {
    name: &'static str,
    /// Whether a change from one pod to another needs it.
    needed: fn(&Value, &Value) -> bool,
}

/// Containers of a list, as they were and as they are.
fn both<'p>(
    old: &'p Value,
    new: &'p Value,
    list: &str,
) -> impl Iterator<Item = (&'p Value, &'p Value)> {
    old.items_at(&["spec", list]).iter().zip(new.items_at(&["spec", list]))
}

fn resizes_guaranteed_cpu(old: &Value, new: &Value) -> bool {
    let cpu = |it: &Value| amounts(&it["resources"]["requests"]).get("cpu").copied();
    let differs = |(old, new): (&Value, &Value)| match (cpu(old), cpu(new)) {
        (Some(old), Some(new)) => old != new,
        (Some(one), None) | (None, Some(one)) => !one.is_zero(),
        (None, None) => false,
    };
    old.str_at(&["status", "qosClass"]) == "Guaranteed" && both(old, new, "containers").any(differs)
}

fn resizes_pod(old: &Value, new: &Value) -> bool {
    let of = |pod: &Value| -> [Amounts; 2] {
        ["requests", "limits"].map(|it| amounts(&pod["spec"]["resources"][it]))
    };
    of(old) != of(new)
}

fn resizes_init_containers(old: &Value, new: &Value) -> bool {
    let is_sidecar = |it: &Value| it.str_at(&["restartPolicy"]) == "Always";
    both(old, new, "initContainers")
        .any(|(old, new)| !is_sidecar(old) && old["resources"] != new["resources"])
}

#[derive(Debug)]
pub(crate) struct NodeDeclaredFeatureValidator {
    objects: Arc<dyn Objects>,
}

impl NodeDeclaredFeatureValidator {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

#[async_trait]
impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Update
            && attributes.group.is_empty()
            && attributes.resource == "pods"
            && matches!(attributes.subresource, "" | "resize")
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let node = attributes.object.str_at(&["spec", "nodeName"]);
        let Some(old) = attributes.old.filter(|_| !node.is_empty()) else { return Ok(()) };
        let mut needed: Vec<&str> = FEATURES
            .iter()
            .filter(|it| (it.needed)(old, attributes.object))
            .map(|it| it.name)
            .collect();
        if needed.is_empty() {
            return Ok(());
        }
        let Some(found) = self.objects.get("", "nodes", "", node) else {
            return Err(attributes.forbid(&format!("node {node:?} not found")));
        };
        let found = found.value().map_err(Status::internal)?;
        let declared = found.items_at(&["status", "declaredFeatures"]);
        needed.retain(|it| !declared.iter().any(|declared| declared.as_str() == Some(it)));
        if needed.is_empty() {
            return Ok(());
        }
        Err(attributes.forbid(&format!(
            "pod update requires features {} which are not available on node {node:?}",
            needed.join(", ")
        )))
    }
}
