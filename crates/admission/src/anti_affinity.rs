//! LimitPodHardAntiAffinityTopology: pods keep others away from their node, and from nothing larger.

use apimachinery::Status;
use async_trait::async_trait;

use crate::{Attributes, Operation, Plugin};

const HOSTNAME: &str = "kubernetes.io/hostname";
const TERMS: [&str; 4] =
    ["spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];

#[derive(Debug)]
pub(crate) struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && attributes.is("", "pods")
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let terms = attributes.object.items_at(&TERMS).iter();
        let mut keys = terms.map(|it| it.str_at(&["topologyKey"]));
        match keys.find(|it| *it != HOSTNAME) {
            None => Ok(()),
            Some(key) => Err(attributes.forbid(&format!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is allowed"
            ))),
        }
    }
}
