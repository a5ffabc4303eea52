//! Administrative access to devices, which is access to those of others too: only in namespaces that are for that. Upstream
//! asks this where claims are stored (`pkg/registry/resource`).

use std::sync::Arc;

use apimachinery::{FieldErrors, Path, Status, Value};
use async_trait::async_trait;

use crate::{Attributes, Objects, Operation, Plugin};

/// The label of namespaces where claims may ask for it.
const LABEL: &str = "resource.kubernetes.io/admin-access";
const REFUSAL: &str = "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace";

#[derive(Debug)]
pub(crate) struct AdminAccess {
    objects: Arc<dyn Objects>,
}

impl AdminAccess {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    async fn is_for_admins(&self, namespace: &str) -> Result<bool, Status> {
        // The label may have been taken away a moment ago: no cache is asked.
        let found = self.objects.get_live("", "namespaces", "", namespace).await?;
        Ok(found.is_some_and(|it| it.facts.label(LABEL) == Some("true")))
    }
}

/// The first request that asks for it.
fn asking(object: &Value) -> Option<usize> {
    let template = object.at(&["spec", "spec", "devices"]);
    let devices = template.or_else(|| object.at(&["spec", "devices"]))?;
    let mut requests = devices.items_at(&["requests"]).iter();
    requests.position(|it| it.bool_at(&["exactly", "adminAccess"]))
}

#[async_trait]
impl Plugin for AdminAccess {
    fn name(&self) -> &'static str {
        "DRAAdminAccess"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        let claims = ["resourceclaims", "resourceclaimtemplates"];
        // What is asked for cannot be changed.
        attributes.operation == Operation::Create
            && claims.iter().any(|it| attributes.is("resource.k8s.io", it))
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let Some(index) = asking(attributes.object) else { return Ok(()) };
        if self.is_for_admins(attributes.namespace).await? {
            return Ok(());
        }
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let (devices, name) = (path.child("devices"), attributes.object_name());
        errors.forbidden(&devices.child("requests").index(index).child("adminAccess"), REFUSAL);
        Err(Status::invalid(attributes.group, attributes.kind, name, &errors))
    }
}
