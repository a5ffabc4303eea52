//! NamespaceExists and NamespaceAutoProvision: nothing is written into a namespace that does not exist, or it is made.

use std::sync::Arc;

use apimachinery::Status;
use apimachinery::obj::Obj;
use apimachinery::status::GroupResource;
use async_trait::async_trait;

use crate::{Attributes, Objects, Operation, Plugin};

/// A namespace: of the caches, or of the store where they do not know it yet.
pub(crate) async fn find(objects: &dyn Objects, name: &str) -> Result<Option<Arc<Obj>>, Status> {
    match objects.get("", "namespaces", "", name) {
        Some(found) => Ok(Some(found)),
        None => objects.get_live("", "namespaces", "", name).await,
    }
}

/// Whether a write goes into a namespace.
fn is_within(attributes: &Attributes<'_>) -> bool {
    let is_one = attributes.group.is_empty() && attributes.resource == "namespaces";
    !attributes.namespace.is_empty() && !is_one
}

/// Refuses what goes into a namespace that does not exist.
#[derive(Debug)]
pub(crate) struct NamespaceExists {
    objects: Arc<dyn Objects>,
}

impl NamespaceExists {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

#[async_trait]
impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Connect && is_within(attributes)
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let name = attributes.namespace;
        match find(self.objects.as_ref(), name).await? {
            Some(_) => Ok(()),
            None => {
                Err(Status::not_found(GroupResource { group: "", resource: "namespaces" }, name))
            }
        }
    }
}

/// Makes the namespace that something is created in.
#[derive(Debug)]
pub(crate) struct NamespaceAutoProvision {
    objects: Arc<dyn Objects>,
}

impl NamespaceAutoProvision {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

#[async_trait]
impl Plugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && is_within(attributes) && !attributes.dry_run
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let name = attributes.namespace;
        if self.objects.get("", "namespaces", "", name).is_some() {
            return Ok(());
        }
        match attributes.context.create_namespace(name).await {
            // Somebody else was quicker.
            Err(status) if status.reason == "AlreadyExists" => Ok(()),
            made => made,
        }
    }
}
