//! PodGroupProtection: groups of pods carry a finalizer that holds them while pods are in them.

use apimachinery::Status;
use async_trait::async_trait;

use crate::{Attributes, Operation, Plugin};

const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";

#[derive(Debug)]
pub(crate) struct PodGroupProtection;

#[async_trait]
impl Plugin for PodGroupProtection {
    fn name(&self) -> &'static str {
        "PodGroupProtection"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && attributes.is("scheduling.k8s.io", "podgroups")
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        attributes.add_finalizer(FINALIZER);
        Ok(())
    }
}
