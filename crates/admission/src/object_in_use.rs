//! StorageObjectInUseProtection: claims and volumes carry a finalizer that holds them while they are in use.

use apimachinery::Status;
use async_trait::async_trait;

use crate::{Attributes, Operation, Plugin};

#[derive(Debug)]
pub(crate) struct StorageObjectInUseProtection;

fn finalizer(attributes: &Attributes<'_>) -> Option<&'static str> {
    match (attributes.group, attributes.resource, attributes.subresource) {
        ("", "persistentvolumeclaims", "") => Some("kubernetes.io/pvc-protection"),
        ("", "persistentvolumes", "") => Some("kubernetes.io/pv-protection"),
        ("storage.k8s.io", "volumeattributesclasses", "") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && finalizer(attributes).is_some()
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let Some(name) = finalizer(attributes) else { return Ok(()) };
        attributes.add_finalizer(name);
        Ok(())
    }
}
