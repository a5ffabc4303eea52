//! TaintNodesByCondition: a new node is tainted as not ready until its conditions say otherwise.

use apimachinery::{Status, value};
use async_trait::async_trait;

use crate::{Attributes, Operation, Plugin};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

#[derive(Debug)]
pub(crate) struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && attributes.is("", "nodes")
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let mut taints = attributes.object.items_at(&["spec", "taints"]).to_vec();
        let is_it = |it: &apimachinery::Value| {
            it.str_at(&["key"]) == NOT_READY && it.str_at(&["effect"]) == "NoSchedule"
        };
        if !taints.iter().any(is_it) {
            taints.push(value!({"key": NOT_READY, "effect": "NoSchedule"}));
            attributes.object.set_at(&["spec", "taints"], taints);
        }
        Ok(())
    }
}
