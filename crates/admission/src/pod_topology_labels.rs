//! PodTopologyLabels: a pod has the labels that tell its node's zone and region, from when it is bound.

use std::sync::Arc;

use apimachinery::Status;
use apimachinery::obj::Obj;
use async_trait::async_trait;

use crate::{Attributes, Objects, Operation, Plugin};

/// The labels that are taken over.
const LABELS: &[&str] = &["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

#[derive(Debug)]
pub(crate) struct PodTopologyLabels {
    objects: Arc<dyn Objects>,
}

impl PodTopologyLabels {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// A node that is not known has no labels to give.
    async fn node(&self, name: &str) -> Result<Option<Arc<Obj>>, Status> {
        match self.objects.get("", "nodes", "", name) {
            Some(found) => Ok(Some(found)),
            None => self.objects.get_live("", "nodes", "", name).await,
        }
    }
}

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    /// A binding, or a pod that comes with its node.
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create
            && (attributes.group, attributes.resource) == ("", "pods")
            && matches!(attributes.subresource, "" | "binding")
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let name = match attributes.subresource {
            "binding" => attributes.object.str_at(&["target", "name"]),
            _ => attributes.object.str_at(&["spec", "nodeName"]),
        };
        if name.is_empty() {
            return Ok(());
        }
        let Some(node) = self.node(name).await? else { return Ok(()) };
        for label in LABELS {
            if let Some(text) = node.facts.label(label) {
                attributes.object.set_at(&["metadata", "labels", label], text);
            }
        }
        Ok(())
    }
}
