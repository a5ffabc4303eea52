//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is going; some namespaces never go.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Status;
use apimachinery::obj::Obj;
use apimachinery::status::{Cause, Details, GroupResource};
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{Attributes, Objects, Operation, Plugin};

/// The namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

/// How many namespaces are remembered.
const JUDGED: usize = 1_000;

#[derive(Debug)]
pub(crate) struct NamespaceLifecycle {
    objects: Arc<dyn Objects>,
    /// The namespaces written into lately, as they were then, and whether they were being terminated.
    judged: Mutex<BTreeMap<String, (Arc<Obj>, bool)>>,
}

impl NamespaceLifecycle {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects, judged: Mutex::default() }
    }

    /// Whether a namespace is being terminated: from the caches, or from the store where they do not know it yet;
    /// `None` where there is none.
    async fn is_terminating(&self, name: &str) -> Result<Option<bool>, Status> {
        if let Some(found) = self.objects.get("", "namespaces", "", name) {
            return self.judge(found).map(Some);
        }
        let found = self.objects.get_live("", "namespaces", "", name).await?;
        found.map(|it| self.judge(it)).transpose()
    }

    /// Decodes a namespace once for all writes into it, until it changes.
    fn judge(&self, namespace: Arc<Obj>) -> Result<bool, Status> {
        let name = namespace.facts.name.to_string();
        if let Some((judged, terminating)) = self.judged.lock().get(&name)
            && Arc::ptr_eq(judged, &namespace)
        {
            return Ok(*terminating);
        }
        let value = namespace.to_value().map_err(Status::internal)?;
        let terminating = value.str_at(&["status", "phase"]) == "Terminating"
            || value.at(&["metadata", "deletionTimestamp"]).is_some();
        let mut judged = self.judged.lock();
        if judged.len() >= JUDGED {
            judged.clear();
        }
        judged.insert(name, (namespace, terminating));
        Ok(terminating)
    }

    /// Refuses what may not be created or deleted there.
    pub(crate) async fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
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
        match self.is_terminating(name).await? {
            Some(true) => Err(terminating(attributes, name)),
            Some(false) => Ok(()),
            None => {
                Err(Status::not_found(GroupResource { group: "", resource: "namespaces" }, name))
            }
        }
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

    fn looks_at(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create || attributes.is("", "namespaces")
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
