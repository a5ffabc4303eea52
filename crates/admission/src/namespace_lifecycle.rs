//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is going; some namespaces never go.

use std::sync::Arc;

use apimachinery::status::{Cause, Details, GroupResource};
use apimachinery::{Status, Value};
use async_trait::async_trait;

use crate::{Attributes, Objects, Operation, Plugin};

/// The namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

#[derive(Debug)]
pub(crate) struct NamespaceLifecycle {
    objects: Arc<dyn Objects>,
}

impl NamespaceLifecycle {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// The namespace: from the caches, or from the store where they do not know it yet.
    async fn namespace(&self, name: &str) -> Result<Option<Value>, Status> {
        let found = match self.objects.get("", "namespaces", "", name) {
            Some(found) => Some(found),
            None => self.objects.get_live("", "namespaces", "", name).await?,
        };
        found.map(|it| it.to_value()).transpose().map_err(Status::internal)
    }

    async fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        if attributes.is("", "namespaces") {
            return match attributes.operation {
                Operation::Delete if IMMORTAL.contains(&attributes.name) => {
                    Err(attributes.forbid("this namespace may not be deleted"))
                }
                _ => Ok(()),
            };
        }
        if attributes.namespace.is_empty()
            || attributes.group.is_empty() && attributes.resource == "namespaces"
            || attributes.operation != Operation::Create
            || is_review(attributes)
        {
            return Ok(());
        }
        let name = attributes.namespace;
        let Some(namespace) = self.namespace(name).await? else {
            return Err(Status::not_found(
                GroupResource { group: "", resource: "namespaces" },
                name,
            ));
        };
        if namespace.str_at(&["status", "phase"]) == "Terminating"
            || namespace.at(&["metadata", "deletionTimestamp"]).is_some()
        {
            return Err(terminating(attributes, name));
        }
        Ok(())
    }
}

/// Questions about rights are answered in any namespace.
fn is_review(attributes: &Attributes<'_>) -> bool {
    attributes.group == "authorization.k8s.io" && attributes.resource == "localsubjectaccessreviews"
}

fn terminating(attributes: &Attributes<'_>, namespace: &str) -> Status {
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let mut status = attributes.forbid(&why);
    let cause = Cause {
        reason: "NamespaceTerminating",
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".into(),
    };
    status.details.get_or_insert_with(Box::<Details>::default).causes.push(cause);
    status
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update | Operation::Delete)
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        self.check(attributes).await
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        // Deletes are only judged, creates were checked on their way in.
        match attributes.operation {
            Operation::Delete => self.check(attributes).await,
            Operation::Create | Operation::Update | Operation::Connect => Ok(()),
        }
    }
}
