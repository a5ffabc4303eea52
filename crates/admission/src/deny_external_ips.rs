//! DenyServiceExternalIPs: services get no external IPs that they did not have.

use std::collections::BTreeSet;

use apimachinery::{Status, Value};
use async_trait::async_trait;

use crate::{Attributes, Operation, Plugin};

#[derive(Debug)]
pub(crate) struct DenyServiceExternalIps;

fn external_ips(service: &Value) -> BTreeSet<&str> {
    service.items_at(&["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect()
}

#[async_trait]
impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && attributes.is("", "services")
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let before = attributes.old.map(external_ips).unwrap_or_default();
        if external_ips(attributes.object).is_subset(&before) {
            return Ok(());
        }
        Err(attributes.forbid("Use of external IPs is denied by admission control"))
    }
}
