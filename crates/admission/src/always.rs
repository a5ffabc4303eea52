//! AlwaysAdmit and AlwaysDeny: nothing is refused, and everything is.

use apimachinery::Status;
use async_trait::async_trait;

use crate::{Attributes, Plugin};

/// Refuses nothing.
#[derive(Debug)]
pub(crate) struct AlwaysAdmit;

#[async_trait]
impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }

    fn handles(&self, _attributes: &Attributes<'_>) -> bool {
        true
    }

    fn looks_at(&self, _attributes: &Attributes<'_>) -> bool {
        false
    }
}

/// Refuses everything.
#[derive(Debug)]
pub(crate) struct AlwaysDeny;

#[async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn handles(&self, _attributes: &Attributes<'_>) -> bool {
        true
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        self.validate(attributes).await
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        Err(attributes.forbid("admission control is denying all modifications"))
    }
}
