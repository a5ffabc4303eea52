//! Resource quotas: what a namespace uses, counted anew when something is gone or asks for another amount. Upstream:
//! `pkg/controller/resourcequota`.
//!
//! What a write uses was counted by admission before it was stored. This controller gives back.

use std::sync::Arc;

use apimachinery::quantity::{Format, Quantity};
use apimachinery::{Value, value};
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ResourceQuota;
use quota::{Amounts, BARE, Kind, add, amounts, given_up, in_scope, scopes, used_by};

use crate::custom::{self, CustomResources};

/// How long a count holds that nothing has changed (upstream: `--resource-quota-sync-period`): what was refused after
/// admission had counted it leaves no trace.
pub const RECOUNT: SignedDuration = SignedDuration::from_mins(5);

/// The controller.
#[derive(Debug, Clone)]
pub struct ResourceQuotas {
    /// What is counted.
    resources: Vec<Resource>,
    custom: Arc<CustomResources>,
    /// How long a count holds.
    recount: SignedDuration,
}

impl Default for ResourceQuotas {
    fn default() -> Self {
        Self { resources: countable(), custom: Arc::default(), recount: RECOUNT }
    }
}

impl ResourceQuotas {
    /// One that counts these resources too, and whose counts hold for so long.
    #[must_use]
    pub fn new(more: &[Resource], recount: SignedDuration) -> Self {
        let mut resources = countable();
        resources.extend(more.iter().filter(|it| it.namespaced).cloned());
        Self { resources, custom: Arc::default(), recount }
    }
}

/// Every namespaced resource, each once.
fn countable() -> Vec<Resource> {
    let listed = |facts: &&api::ResourceFacts| {
        facts.namespaced
            && ["create", "list", "watch"].iter().all(|verb| facts.verbs.contains(verb))
            && facts.resource != "events"
    };
    let mut resources: Vec<Resource> = Vec::new();
    for facts in api::resources().iter().filter(listed) {
        let resource = Resource::built_in(facts.group, facts.resource);
        if !resources.contains(&resource) {
            resources.push(resource);
        }
    }
    resources
}

/// What it sees of a quota.
#[derive(Debug)]
pub struct Observed {
    quota: Value,
    /// What its namespace uses of what the quota bounds.
    used: Amounts,
    /// What of it pods use whose end is due.
    ending: Vec<(Timestamp, Amounts)>,
}

impl Controller for ResourceQuotas {
    const NAME: &'static str = "resourcequota-controller";
    const QUEUE: &'static str = "resourcequota_primary";
    /// A quota.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        // Its status changes with every write that admission counts: no reason to count again.
        let watches = watches.on::<ResourceQuota>(|change, _| {
            let spec = |it: &Option<std::sync::Arc<client::reflector::Cached>>| {
                it.as_ref().map(|it| it.value()["spec"].clone())
            };
            if spec(&change.old) == spec(&change.new) { Vec::new() } else { vec![change.key()] }
        });
        let watches = self.resources.iter().fold(watches, |watches, resource| {
            let own = resource.clone();
            watches.on_resource(resource.clone(), move |change, snapshot| {
                given_back(&own, change, snapshot)
            })
        });
        let custom = Arc::clone(&self.custom);
        let which = move |change: &StoreChange| custom.learn(change).filter(|it| it.namespaced);
        watches.on_defined(custom::definitions(), which, given_back)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let quota = snapshot.store::<ResourceQuota>().get(key)?.to_value();
        let hard = amounts(&quota["spec"]["hard"]);
        let mut ending = Vec::new();
        let custom = self.custom.all();
        let custom = custom.iter().filter(|it| it.namespaced);
        let counted =
            |name: &str| self.resources.iter().chain(custom.clone()).any(|it| is_bound(name, it));
        let names = hard.keys().filter(|it| counted(it));
        let mut used: Amounts =
            names.map(|name| (name.clone(), Quantity::new(0, Format::DecimalSI))).collect();
        for resource in self.resources.iter().chain(custom).filter(|it| bounds(&hard, it)) {
            let kind = Kind::of(&resource.group, &resource.plural);
            for object in snapshot.store_for(resource).list(&key.namespace) {
                let object = object.value();
                if in_scope(kind, &object, &quota) {
                    let mut own = used_by(&resource.group, &resource.plural, &object);
                    own.retain(|name, _| hard.contains_key(name));
                    add(&mut used, &own);
                    let given_up = (kind == Kind::Pod).then(|| given_up(&object)).flatten();
                    ending.extend(given_up.map(|(end, mut own)| {
                        own.retain(|name, _| hard.contains_key(name));
                        (end, own)
                    }));
                }
            }
        }
        Some(Observed { quota, used, ending })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let quota = &observed.quota;
        let mut status = value!({"hard": {}, "used": {}});
        let hard = quota["spec"].get("hard").cloned().unwrap_or_else(Value::object);
        let mut used = observed.used.clone();
        for (end, own) in &observed.ending {
            if *end >= now {
                // A moment later than its end.
                plan.requeue_by(end.saturating_add(SignedDuration::from_secs(1)).unwrap_or(*end));
                continue;
            }
            for (name, amount) in own {
                if let Some(sum) = used.get_mut(name) {
                    *sum -= *amount;
                }
            }
        }
        for (name, amount) in &used {
            status.set_at(&["used", name], amount.to_text());
        }
        status.set_at(&["hard"], hard);
        plan.requeue_by(now.saturating_add(self.recount).unwrap_or(now));
        if same(&quota["status"], &status) {
            return plan;
        }
        let mut object = quota.clone();
        object.set_at(&["status"], status);
        plan.act(Action::Update {
            resource: Resource::of::<ResourceQuota>(),
            subresource: "status",
            object,
        });
        plan
    }
}

/// Whether the amounts are the same, however they are written.
fn same(a: &Value, b: &Value) -> bool {
    ["hard", "used"].iter().all(|it| {
        let has = |status: &Value| status.get(it).is_some();
        has(a) && amounts(&a[*it]) == amounts(&b[*it])
    })
}

/// Whether a quota bounds anything that objects of a resource use.
fn bounds(hard: &Amounts, resource: &Resource) -> bool {
    hard.keys().any(|name| is_bound(name, resource))
}

/// Whether objects of a resource use what a quota calls so.
fn is_bound(name: &str, resource: &Resource) -> bool {
    let (group, plural) = (resource.group.as_str(), resource.plural.as_str());
    let count = if group.is_empty() {
        format!("count/{plural}")
    } else {
        format!("count/{plural}.{group}")
    };
    let special = match (group, plural) {
        ("", "pods") => is_of_pods(name),
        ("", "services") => name.starts_with("services"),
        ("", "persistentvolumeclaims") => {
            name == "persistentvolumeclaims"
                || name == "requests.storage"
                || name.contains(".storageclass.storage.k8s.io/")
        }
        ("", plain) => name == plain && BARE.contains(&plain),
        ("resource.k8s.io", "resourceclaims") => {
            name.ends_with(".deviceclass.resource.k8s.io/devices")
        }
        _ => false,
    };
    name == count || special
}

/// Whether it is an amount of pods, or of what containers ask for. Upstream: `podEvaluator.MatchingResources`.
fn is_of_pods(name: &str) -> bool {
    let plain = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits."));
    let extended = name.contains('/') && !name.contains("kubernetes.io/");
    match plain.unwrap_or(name) {
        "pods" => plain.is_none(),
        "cpu" | "memory" | "ephemeral-storage" => true,
        other => {
            let limit = name.starts_with("limits.");
            !limit && (other.starts_with("hugepages-") || plain.is_some() && extended)
        }
    }
}

/// The quotas of a namespace in which an object is gone or uses another amount than before.
fn given_back(resource: &Resource, change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let Some(old) = &change.old else { return Vec::new() };
    let quotas = snapshot.store::<ResourceQuota>().list(&old.key.namespace);
    if quotas.is_empty() {
        return Vec::new();
    }
    let varies = matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        ("", "pods" | "services" | "persistentvolumeclaims")
            | ("resource.k8s.io", "resourceclaims")
    );
    if let Some(new) = change.new.as_ref() {
        let used = |it: &client::reflector::Cached| {
            used_by(&resource.group, &resource.plural, &it.value())
        };
        let kind = Kind::of(&resource.group, &resource.plural);
        let same_scopes = || scopes(kind, &old.value()) == scopes(kind, &new.value());
        if !varies || (used(old) == used(new) && same_scopes()) {
            return Vec::new();
        }
    }
    let name = |hard: &Value| bounds(&amounts(hard), resource);
    let concerned = quotas.iter().filter(|it| name(&it.value()["spec"]["hard"]));
    concerned.map(|it| it.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_counts_only_what_it_bounds() {
        let check = |hard: &str, expected: &str| {
            let hard = amounts(&apimachinery::json::parse(hard.as_bytes()).unwrap());
            let counted: Vec<String> = countable()
                .iter()
                .filter(|it| bounds(&hard, it))
                .map(|it| it.plural.to_string())
                .collect();
            assert_eq!(counted.join(" "), expected, "{hard:?}");
        };
        check(r#"{"pods":"1"}"#, "pods");
        check(r#"{"requests.example.com/gpu":"1"}"#, "pods");
        check(r#"{"hugepages-2Mi":"1"}"#, "pods");
        check(r#"{"example.com/gpu":"1"}"#, "");
        check(r#"{"count/widgets.example.com":"1"}"#, "");
        check(r#"{"count/deployments.apps":"1"}"#, "deployments");
        check(r#"{"secrets":"1","count/secrets":"2"}"#, "secrets");
        check(
            r#"{"gold.storageclass.storage.k8s.io/requests.storage":"1"}"#,
            "persistentvolumeclaims",
        );
    }

    #[test]
    fn equal_amounts_may_be_written_differently() {
        let status = |text: &str| apimachinery::json::parse(text.as_bytes()).unwrap();
        let a = status(r#"{"hard":{"cpu":"1"},"used":{"cpu":"500m"}}"#);
        assert!(same(&a, &status(r#"{"hard":{"cpu":"1000m"},"used":{"cpu":"0.5"}}"#)));
        assert!(!same(&a, &status(r#"{"hard":{"cpu":"1"},"used":{"cpu":"1"}}"#)));
        assert!(!same(&Value::Null, &a));
    }
}
