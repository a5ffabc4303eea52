//! OwnerReferencesPermissionEnforcement: who gives an object an owner may delete it, and who lets it hold up its owner's
//! end may set the owner's finalizers. Upstream: `plugin/pkg/admission/gc`.

use std::sync::Arc;

use apimachinery::{Status, Value};
use async_trait::async_trait;
use auth::Authorizer;

use crate::{Attributes, Objects, Operation, Plugin};

#[derive(Debug)]
pub(crate) struct OwnerReferences {
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
}

fn references(object: &Value) -> &[Value] {
    object.items_at(&["metadata", "ownerReferences"])
}

fn blocks(reference: &Value) -> bool {
    reference.bool_at(&["blockOwnerDeletion"])
}

/// The references that block now and did not.
fn newly_blocking<'r>(object: &'r Value, old: Option<&Value>) -> Vec<&'r Value> {
    let before = old.map(references).unwrap_or_default();
    let uid = |it: &Value| it.str_at(&["uid"]).to_owned();
    let blocked = |now: &Value| before.iter().any(|it| uid(it) == uid(now) && blocks(it));
    references(object).iter().filter(|it| blocks(it) && !blocked(it)).collect()
}

impl OwnerReferences {
    pub(crate) fn new(objects: Arc<dyn Objects>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { objects, authorizer }
    }

    /// Why something is not permitted, as upstream prints it with the error that there was none of.
    async fn refusal(&self, asked: &auth::Attributes<'_>) -> Option<String> {
        let decision = self.authorizer.authorize(asked).await;
        (!decision.is_allowed()).then(|| format!("{}, <nil>", decision.reason()))
    }

    async fn check_owner(
        &self,
        attributes: &Attributes<'_>,
        reference: &Value,
    ) -> Result<(), Status> {
        let (api_version, kind) = (reference.str_at(&["apiVersion"]), reference.str_at(&["kind"]));
        let unmapped = |why: String| {
            attributes.forbid(&format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} Kind {kind}: {why}"
            ))
        };
        let (group, version) = match api_version.split_once('/') {
            Some((_, rest)) if rest.contains('/') => {
                return Err(unmapped(format!("unexpected GroupVersion string: {api_version}")));
            }
            Some(both) => both,
            None => ("", api_version),
        };
        let owner = self.objects.resource_of_kind(group, version, kind).ok_or_else(|| {
            unmapped(format!("no matches for kind {kind:?} in version {api_version:?}"))
        })?;
        let asked = auth::Attributes {
            verb: "update",
            group,
            version,
            resource: owner.resource,
            subresource: "finalizers",
            namespace: if owner.namespaced { attributes.namespace } else { "" },
            name: reference.str_at(&["name"]),
            ..auth::Attributes::of(attributes.user)
        };
        match self.refusal(&asked).await {
            None => Ok(()),
            Some(why) => Err(attributes.forbid(&format!(
                "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {why}"
            ))),
        }
    }
}

#[async_trait]
impl Plugin for OwnerReferences {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        // A status of a pod changes no owners.
        let is_status = attributes.group.is_empty()
            && attributes.resource == "pods"
            && attributes.subresource == "status";
        matches!(attributes.operation, Operation::Create | Operation::Update) && !is_status
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let before = attributes.old.map(references).unwrap_or_default();
        if references(attributes.object) == before {
            return Ok(());
        }
        // Who makes an object says whose it is.
        if attributes.operation != Operation::Create {
            let asked = auth::Attributes {
                verb: "delete",
                group: attributes.group,
                version: attributes.version,
                resource: attributes.resource,
                subresource: attributes.subresource,
                namespace: attributes.namespace,
                name: attributes.name,
                ..auth::Attributes::of(attributes.user)
            };
            if let Some(why) = self.refusal(&asked).await {
                return Err(attributes.forbid(&format!(
                    "cannot set an ownerRef on a resource you can't delete: {why}"
                )));
            }
        }
        for reference in newly_blocking(attributes.object, attributes.old) {
            self.check_owner(attributes, reference).await?;
        }
        Ok(())
    }
}
