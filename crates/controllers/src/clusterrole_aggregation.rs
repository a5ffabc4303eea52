//! ClusterRoles that are made of others: their rules are those of every role that their selectors take. Upstream:
//! `pkg/controller/clusterroleaggregation`.

use std::sync::Arc;

use apimachinery::{Value, value};
use client::call::PatchKind;
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::owner::{key_of, to_value};
use crate::select::Selector;

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct ClusterRoleAggregation;

/// What it sees of a role that is made of others.
#[derive(Debug)]
pub struct Observed {
    role: ClusterRole,
    /// The rules it is to have.
    rules: Vec<PolicyRule>,
}

impl Controller for ClusterRoleAggregation {
    const NAME: &'static str = "clusterrole-aggregation-controller";
    const QUEUE: &'static str = "ClusterRoleAggregator";
    /// A role.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.on::<ClusterRole>(aggregates)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let role: ClusterRole = snapshot.get(key)?;
        let selectors = selectors(&role);
        if selectors.is_empty() {
            return None;
        }
        let others: Vec<Arc<ClusterRole>> = snapshot.list("");
        let mut rules: Vec<PolicyRule> = Vec::new();
        for selector in selectors {
            let taken = others.iter().filter(|other| {
                other.metadata.name != role.metadata.name && selector.matches(&other.metadata)
            });
            for rule in taken.flat_map(|other| other.rules.iter().flatten()) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        Some(Observed { role, rules })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let current = observed.role.rules.as_deref().unwrap_or_default();
        if current == observed.rules {
            return plan;
        }
        let key = key_of(&observed.role.metadata);
        let mut patch = value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": (key.name.as_str())}});
        if !observed.rules.is_empty() {
            let rules: Value = observed.rules.iter().map(to_value).collect();
            patch.set_at(&["rules"], rules);
        }
        plan.act(Action::Patch {
            resource: Resource::of::<ClusterRole>(),
            key,
            subresource: "",
            kind: PatchKind::Apply { manager: Self::NAME },
            patch,
            gone_is_fine: true,
        });
        plan
    }
}

fn selectors(role: &ClusterRole) -> Vec<Selector> {
    let rule = role.aggregation_rule.as_ref();
    let selectors = rule.into_iter().flat_map(|it| it.cluster_role_selectors.iter().flatten());
    selectors.map(Selector::of).collect()
}

/// The role itself, and those that take it, or took it.
fn aggregates(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let versions: Vec<Arc<ClusterRole>> =
        [&change.old, &change.new].into_iter().flatten().filter_map(|it| it.decode()).collect();
    let takes = |role: &ClusterRole| {
        selectors(role)
            .iter()
            .any(|selector| versions.iter().any(|it| selector.matches(&it.metadata)))
    };
    // Few roles are made of others; only those are decoded, or a start would decode every role for every role.
    let roles = snapshot.store::<ClusterRole>().list("");
    let made = roles.iter().filter(|it| it.mentions("aggregationRule"));
    let made = made.filter(|it| it.decode().is_some_and(|role| takes(&role)));
    let mut keys: Vec<ObjectKey> = made.map(|it| it.key.clone()).collect();
    keys.push(change.key());
    keys.dedup();
    keys
}
