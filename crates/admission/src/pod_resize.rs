//! PodResizeValidator: a pod on a node gets no larger than the node. Upstream: `plugin/pkg/admission/podresize`.

use std::sync::Arc;

use apimachinery::quantity::{Format, Quantity};
use apimachinery::status::{Cause, Details};
use apimachinery::{Status, Value};
use async_trait::async_trait;
use quota::{amounts, of_pod};

use crate::{Attributes, Objects, Operation, Plugin};

#[derive(Debug)]
pub(crate) struct PodResizeValidator {
    objects: Arc<dyn Objects>,
}

impl PodResizeValidator {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

/// A number as refusals have it.
type Shown = fn(&Quantity) -> i64;

/// What a pod asks for and a node does not have.
fn excess(pod: &Value, node: &Value) -> Option<String> {
    let (wanted, had) = (of_pod(pod, "requests"), amounts(&node["status"]["allocatable"]));
    let parts: [(&str, Shown); 2] = [("cpu", Quantity::milli_value), ("memory", Quantity::value)];
    let lacking = parts.iter().filter_map(|(resource, shown)| {
        let none = Quantity::new(0, Format::DecimalSI);
        let wanted = wanted.get(*resource).copied().unwrap_or(none);
        let had = had.get(*resource).copied().unwrap_or(none);
        let (requested, allocatable) = (shown(&wanted), shown(&had));
        let text = || format!("{resource}, requested: {requested}, allocatable: {allocatable}");
        (wanted > had).then(text)
    });
    let lacking: Vec<String> = lacking.collect();
    (!lacking.is_empty()).then(|| lacking.join("; "))
}

/// A refusal with its cause.
fn refuse(attributes: &Attributes<'_>, why: &str, reason: &'static str) -> Status {
    let mut status = attributes.forbid(why);
    let causes = &mut status.details.get_or_insert_with(Box::<Details>::default).causes;
    causes.push(Cause { reason, ..Cause::default() });
    status
}

#[async_trait]
impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Update
            && attributes.group.is_empty()
            && (attributes.resource, attributes.subresource) == ("pods", "resize")
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let pod = &*attributes.object;
        let node = pod.str_at(&["spec", "nodeName"]);
        let is_same = attributes.old.is_none_or(|old| old["spec"] == pod["spec"]);
        if node.is_empty() || is_same {
            return Ok(());
        }
        let Some(found) = self.objects.get("", "nodes", "", node) else {
            return Err(attributes.forbid(&format!("node {node:?} not found")));
        };
        if let Some(system) = found.facts.label("kubernetes.io/os")
            && system != "linux"
        {
            let why =
                format!("pod resize is only supported on linux nodes, node {node:?} is {system:?}");
            return Err(refuse(attributes, &why, "UnsupportedPlatform"));
        }
        let found = found.value().map_err(Status::internal)?;
        let Some(excess) = excess(pod, &found) else { return Ok(()) };
        let why = format!("node didn't have enough allocatable resources: {excess}");
        Err(refuse(attributes, &why, "NodeCapacity"))
    }
}
