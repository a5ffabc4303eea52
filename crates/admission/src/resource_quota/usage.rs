//! How much of what an object uses, and which quotas it counts for.

use apimachinery::Value;

use quota::{Amounts, Kind, in_scope, selects, used_by};

use crate::{Attributes, Operation};

/// Amounts that, where a quota bounds them, every container must say.
const REQUIRED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// What a write would use.
pub(super) struct Usage<'u> {
    kind: Kind,
    object: &'u Value,
    old: Option<&'u Value>,
    now: Amounts,
    before: Amounts,
}

/// Whether what is written can change what an object uses: the object itself, a resize of a pod, and what a claim of a volume
/// has got (upstream: the `Handles` of each evaluator).
pub(super) fn is_charged_for(attributes: &Attributes<'_>) -> bool {
    match (attributes.group, attributes.resource, attributes.subresource) {
        (_, _, "") | ("", "pods", "resize") => true,
        ("", "persistentvolumeclaims", "status") => attributes.operation == Operation::Update,
        _ => false,
    }
}

/// Whether an update can change what an object uses.
pub(super) fn changes_by_update(attributes: &Attributes<'_>) -> bool {
    matches!(
        (attributes.group, attributes.resource),
        ("", "pods" | "services" | "persistentvolumeclaims")
            | ("resource.k8s.io", "resourceclaims")
    )
}

impl<'u> Usage<'u> {
    pub(super) fn of(attributes: &'u Attributes<'_>) -> Self {
        let (group, resource) = (attributes.group, attributes.resource);
        let object = &*attributes.object;
        let old = attributes.old.filter(|_| attributes.operation == Operation::Update);
        Self {
            kind: Kind::of(group, resource),
            object,
            old,
            now: used_by(group, resource, object),
            before: old.map(|old| used_by(group, resource, old)).unwrap_or_default(),
        }
    }

    /// Whether the object counts for a quota.
    pub(super) fn in_scope(&self, quota: &Value) -> bool {
        in_scope(self.kind, self.object, quota)
    }

    /// The names of all that the object uses, as quotas bound them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.now.iter().filter(|(_, amount)| !amount.is_zero()).map(|(name, _)| name.as_str())
    }

    /// Whether the object has a scope, as a selector of scopes says.
    pub(super) fn selected(&self, selector: &Value) -> bool {
        selects(self.kind, self.object, selector)
    }

    /// What the write adds to what a quota counts; less than nothing where an update gives back.
    pub(super) fn change(&self, quota: &Value) -> Amounts {
        let mut change = self.now.clone();
        let counted = self.old.is_some_and(|old| in_scope(self.kind, old, quota));
        if counted {
            for (resource, amount) in &self.before {
                match change.get_mut(resource) {
                    Some(sum) => *sum -= *amount,
                    None => {
                        change.insert(resource.clone(), -*amount);
                    }
                }
            }
        }
        change
    }

    /// What containers must say because the quota bounds it, and do not: `limits.cpu for: a,b; memory for: a`.
    pub(super) fn lacking(&self, hard: &Amounts) -> Option<String> {
        if self.kind != Kind::Pod || self.old.is_some() {
            return None;
        }
        let spec = &self.object["spec"];
        let containers =
            || spec.items_at(&["containers"]).iter().chain(spec.items_at(&["initContainers"]));
        let lacking = REQUIRED.iter().filter(|it| hard.contains_key(**it)).filter_map(|required| {
            let (member, resource) = match required.split_once('.') {
                Some((member, resource)) => (member, resource),
                None => ("requests", *required),
            };
            let says = |of: &Value| of.at(&["resources", member, resource]).is_some();
            if says(spec) {
                return None;
            }
            let mut names: Vec<&str> =
                containers().filter(|it| !says(it)).map(|it| it.str_at(&["name"])).collect();
            names.sort_unstable();
            names.dedup();
            (!names.is_empty()).then(|| format!("{required} for: {}", names.join(",")))
        });
        let mut lacking: Vec<String> = lacking.collect();
        lacking.sort_unstable();
        (!lacking.is_empty()).then(|| lacking.join("; "))
    }
}
