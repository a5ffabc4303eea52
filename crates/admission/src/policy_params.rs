//! Who makes policies read objects as their parameters may read these objects: what a policy says of a request is told.
//! Upstream: `authz.go` of the registries of admission policies and their bindings.

use std::sync::Arc;

use apimachinery::{FieldErrors, Path, Status, Value};
use async_trait::async_trait;
use auth::user::MASTERS;
use auth::{Authorizer, UserInfo};

use crate::{Attributes, Objects, Operation, Plugin};

const GROUP: &str = "admissionregistration.k8s.io";

/// The plugin.
#[derive(Debug)]
pub(crate) struct PolicyParameters {
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
}

impl PolicyParameters {
    pub(crate) fn new(objects: Arc<dyn Objects>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { objects, authorizer }
    }

    /// Whether they may read what is called so of a kind; of all kinds that it may be, where nobody knows it.
    async fn may_read(
        &self,
        user: &UserInfo,
        kind: Option<&Value>,
        (namespace, name): (&str, &str),
    ) -> bool {
        let (group, version, resource) = match kind {
            Some(kind) => {
                let api_version = kind.str_at(&["apiVersion"]);
                let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
                let found = self.objects.resource_of_kind(group, version, kind.str_at(&["kind"]));
                (group, version, found.map_or("*", |it| it.resource))
            }
            None => ("*", "*", "*"),
        };
        let of = auth::Attributes::of(user);
        let asked =
            auth::Attributes { verb: "get", group, version, resource, namespace, name, ..of };
        self.authorizer.authorize(&asked).await.is_allowed()
    }

    /// Why a policy may not have its kind of parameters.
    async fn kind_refusal(&self, attributes: &Attributes<'_>) -> Option<String> {
        let kind = member(attributes.object, "paramKind")?;
        if attributes.old.is_some_and(|old| member(old, "paramKind") == Some(kind)) {
            return None;
        }
        if self.may_read(attributes.user, Some(kind), ("*", "*")).await {
            return None;
        }
        Some(format!(
            "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
            shown(attributes.user),
            kind.str_at(&["kind"]),
            kind.str_at(&["apiVersion"])
        ))
    }

    /// Why a binding may not have its parameters.
    async fn reference_refusal(&self, attributes: &Attributes<'_>) -> Option<String> {
        let (object, policies) = (&*attributes.object, policies_of(attributes.resource));
        let reference = member(object, "paramRef")?;
        let policy = |it: &Value| it.str_at(&["spec", "policyName"]).to_owned();
        let same = |old: &Value| {
            member(old, "paramRef") == Some(reference) && policy(old) == policy(object)
        };
        if attributes.old.is_some_and(same) {
            return None;
        }
        let found = self.objects.get(GROUP, policies, "", &policy(object));
        let found = found.and_then(|it| it.to_value().ok());
        let kind = found.as_ref().and_then(|it| member(it, "paramKind"));
        let place = (reference.str_at(&["namespace"]), reference.str_at(&["name"]));
        if self.may_read(attributes.user, kind, place).await {
            return None;
        }
        let user = shown(attributes.user);
        let lacks = "does not have \"get\" permission on the object referenced by paramRef";
        Some(format!("user {user} {lacks}"))
    }
}

fn member<'v>(object: &'v Value, name: &str) -> Option<&'v Value> {
    object.at(&["spec", name]).filter(|it| !it.is_null())
}

fn policies_of(bindings: &str) -> &'static str {
    match bindings {
        "mutatingadmissionpolicybindings" => "mutatingadmissionpolicies",
        _ => "validatingadmissionpolicies",
    }
}

/// A user as Go prints one.
fn shown(user: &UserInfo) -> String {
    let extra = user.extra.iter().map(|(key, values)| format!("{key}:[{}]", values.join(" ")));
    let extra: Vec<String> = extra.collect();
    let groups = user.groups.join(" ");
    format!("&{{{} {} [{groups}] map[{}]}}", user.name, user.uid, extra.join(" "))
}

#[async_trait]
impl Plugin for PolicyParameters {
    fn name(&self) -> &'static str {
        "PolicyParameters"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.group == GROUP
            && attributes.subresource.is_empty()
            && attributes.resource.contains("admissionpolic")
            && matches!(attributes.operation, Operation::Create | Operation::Update)
            && !attributes.user.is_in(MASTERS)
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let (name, refusal) = if attributes.resource.ends_with("bindings") {
            ("paramRef", self.reference_refusal(attributes).await)
        } else {
            ("paramKind", self.kind_refusal(attributes).await)
        };
        let Some(why) = refusal else { return Ok(()) };
        let mut errors = FieldErrors::new();
        errors.forbidden(&Path::new("spec").child(name), &why);
        Err(Status::invalid(GROUP, attributes.kind, attributes.object_name(), &errors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_shown_as_go_prints_one() {
        let mut user = UserInfo::new("vap", &["a", "b"]);
        user.extra.insert("k".into(), vec!["x".into(), "y".into()]);
        assert_eq!(shown(&user), "&{vap  [a b system:authenticated] map[k:[x y]]}");
    }
}
