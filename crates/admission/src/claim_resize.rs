//! PersistentVolumeClaimResize: a bound claim grows where its class lets it.

use std::sync::Arc;

use apimachinery::{Status, Value};
use async_trait::async_trait;

use crate::{Attributes, Objects, Operation, Plugin};
use quota::quantity;

#[derive(Debug)]
pub(crate) struct ClaimResize {
    objects: Arc<dyn Objects>,
}

impl ClaimResize {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    fn may_grow(&self, claim: &Value) -> bool {
        let class = claim.str_at(&["spec", "storageClassName"]);
        let class = self.objects.get("storage.k8s.io", "storageclasses", "", class);
        class
            .and_then(|it| it.to_value().ok())
            .is_some_and(|it| it.bool_at(&["allowVolumeExpansion"]))
    }
}

#[async_trait]
impl Plugin for ClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Update && attributes.is("", "persistentvolumeclaims")
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let Some(old) = attributes.old else { return Ok(()) };
        let size = |it: &Value| quantity(&it["spec"]["resources"]["requests"]["storage"]);
        let grows = match (size(attributes.object), size(old)) {
            (Some(now), Some(before)) => now > before,
            _ => false,
        };
        // That a claim must be bound to grow is what its own validation says.
        if !grows || old.str_at(&["status", "phase"]) != "Bound" || self.may_grow(old) {
            return Ok(());
        }
        Err(attributes.forbid(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}
