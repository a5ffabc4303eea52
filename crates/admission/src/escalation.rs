//! Nobody gives rights they do not have, unless they may `escalate` roles or `bind` them.

use std::sync::Arc;

use apimachinery::{Status, Value, validation};
use async_trait::async_trait;
use auth::rbac::{GROUP, Rbac, RoleRef, Rule, missing};
use auth::user::MASTERS;
use auth::{Authorizer, UserInfo};

use crate::{Attributes, Operation, Plugin};

#[derive(Debug)]
pub(crate) struct RoleEscalation {
    rbac: Arc<Rbac>,
    authorizer: Arc<dyn Authorizer>,
}

impl RoleEscalation {
    pub(crate) fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { rbac, authorizer }
    }

    async fn may(&self, asked: &auth::Attributes<'_>) -> bool {
        self.authorizer.authorize(asked).await.is_allowed()
    }

    /// Whether the user has every one of these rules.
    fn confirm(&self, attributes: &Attributes<'_>, rules: &[Rule]) -> Result<(), Status> {
        let (owned, errors) = self.rbac.user_rules(attributes.user, attributes.namespace);
        let lacking = missing(&owned, rules);
        if lacking.is_empty() {
            return Ok(());
        }
        Err(attributes.forbid(&refusal(attributes.user, &lacking, &errors)))
    }

    async fn check_role(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let rules = attributes.object.get("rules");
        let aggregation = attributes.object.get("aggregationRule");
        let same = |member: &str, now: Option<&Value>| {
            attributes.old.is_some_and(|old| old.get(member) == now)
        };
        if same("rules", rules) && same("aggregationRule", aggregation) {
            return Ok(());
        }
        let asked = auth::Attributes {
            verb: "escalate",
            group: GROUP,
            version: attributes.version,
            resource: attributes.resource,
            namespace: attributes.namespace,
            name: attributes.object_name(),
            ..auth::Attributes::of(attributes.user)
        };
        if self.may(&asked).await {
            return Ok(());
        }
        if aggregation.is_some() && !same("aggregationRule", aggregation) {
            let everything = [
                Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() },
                Rule { verbs: all(), urls: all(), ..Rule::default() },
            ];
            let (owned, errors) = self.rbac.user_rules(attributes.user, "");
            if !missing(&owned, &everything).is_empty() {
                let mut why =
                    "must have cluster-admin privileges to use the aggregationRule".to_owned();
                if !errors.is_empty() {
                    why = format!("{why}: {}", errors.join(", "));
                }
                return Err(attributes.forbid(&why));
            }
        }
        self.confirm(attributes, &Rule::all_of(attributes.object))
    }

    async fn check_binding(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let object = &*attributes.object;
        let same =
            |member: &str| attributes.old.is_some_and(|old| old.get(member) == object.get(member));
        if same("roleRef") && same("subjects") {
            return Ok(());
        }
        let reference = RoleRef {
            kind: object.str_at(&["roleRef", "kind"]),
            name: object.str_at(&["roleRef", "name"]),
            namespace: attributes.namespace,
        };
        let cluster_wide = reference.kind == "ClusterRole";
        let asked = auth::Attributes {
            verb: "bind",
            group: GROUP,
            version: attributes.version,
            resource: if cluster_wide { "clusterroles" } else { "roles" },
            namespace: attributes.namespace,
            name: reference.name,
            ..auth::Attributes::of(attributes.user)
        };
        if self.may(&asked).await {
            return Ok(());
        }
        can_be_read(&reference)?;
        let rules = self.rbac.role_rules(reference).map_err(|_| {
            let resource = if cluster_wide { "clusterroles" } else { "roles" };
            let of = apimachinery::status::GroupResource { group: GROUP, resource };
            Status::not_found(of, reference.name)
        })?;
        self.confirm(attributes, &rules)
    }
}

/// Upstream reads the role before the binding is checked: what cannot be asked for is told as it is told of a request.
fn can_be_read(role: &RoleRef<'_>) -> Result<(), Status> {
    if !matches!(role.kind, "ClusterRole" | "Role") {
        let kind = apimachinery::field::quote(role.kind);
        let message = format!("unsupported role reference kind: {kind}");
        return Err(Status { code: 500, message, ..Status::default() });
    }
    if role.name.is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    let problems = validation::path_segment_name(role.name);
    if problems.is_empty() {
        return Ok(());
    }
    let (name, problems) = (apimachinery::field::quote(role.name), problems.join(";"));
    Err(Status::bad_request(format!("Name parameter invalid: {name}: {problems}")))
}

fn all<T: From<&'static str>>() -> Vec<T> {
    vec!["*".into()]
}

fn refusal(user: &UserInfo, lacking: &[Rule], errors: &[String]) -> String {
    let mut lines: Vec<String> = lacking.iter().map(ToString::to_string).collect();
    lines.sort_unstable();
    lines.dedup();
    let groups: Vec<String> = user.groups.iter().map(|it| apimachinery::field::quote(it)).collect();
    let mut text = format!(
        "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        apimachinery::field::quote(&user.name),
        groups.join(" "),
        lines.join("\n")
    );
    if !errors.is_empty() {
        text.push_str(&format!("; resolution errors: [{}]", errors.join(", ")));
    }
    text
}

#[async_trait]
impl Plugin for RoleEscalation {
    fn name(&self) -> &'static str {
        "RoleEscalation"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.group == GROUP
            && attributes.subresource.is_empty()
            && matches!(attributes.operation, Operation::Create | Operation::Update)
            && !attributes.user.is_in(MASTERS)
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        match attributes.resource {
            "roles" | "clusterroles" => self.check_role(attributes).await,
            "rolebindings" | "clusterrolebindings" => self.check_binding(attributes).await,
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_that_name_no_role_are_told_as_requests_are() {
        let told = |kind, name| {
            can_be_read(&RoleRef { kind, name, namespace: "" })
                .map_err(|status| (status.code, status.message))
                .err()
        };
        assert_eq!(told("Role", "system:a"), None);
        assert_eq!(told("Role", ""), Some((400, "Name parameter required.".into())));
        let slash = "Name parameter invalid: \"a/b\": may not contain '/'".to_owned();
        assert_eq!(told("ClusterRole", "a/b"), Some((400, slash)));
        let kind = "unsupported role reference kind: \"X\"".to_owned();
        assert_eq!(told("X", "a"), Some((500, kind)));
    }
}
