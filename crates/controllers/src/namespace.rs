//! Namespaces that are being deleted: everything in them goes, then they do. Upstream: `pkg/controller/namespace`.

mod remote;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::reflector::{Cached, StoreChange};
use client::{ObjectKey, Resource};
use compact_str::CompactString;
use controller::{Action, Controller, Fetch, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;

use crate::custom::{self, CustomResources};
use crate::owner::to_value;
use remote::{Remotes, Seen};

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    custom: Arc<CustomResources>,
    remotes: Arc<Remotes>,
    /// Resources that the server has besides those of every server.
    more: Vec<Resource>,
    /// The only API server is part of this process.
    one_server: bool,
}

impl Namespaces {
    /// One that knows these resources too. With `one_server` the API server of this process is the only one, so that
    /// nobody has to be waited for.
    #[must_use]
    pub fn new(more: &[Resource], one_server: bool) -> Self {
        let more = more.iter().filter(|it| it.namespaced).cloned().collect();
        Self { more, one_server, ..Self::default() }
    }

    /// How long nothing is done about a namespace that is going.
    fn grace(&self) -> SignedDuration {
        if self.one_server { GRACE_OF_ONE } else { GRACE }
    }

    /// Every built-in resource in which namespaces may have something.
    fn built_in(&self) -> impl Iterator<Item = Resource> + '_ {
        resources().into_iter().chain(self.more.iter().cloned())
    }
}

/// The finalizer that this controller takes away.
const FINALIZER: &str = "kubernetes";
/// How long nothing is done about a namespace that is going: until then every server has seen it (upstream's).
const GRACE: SignedDuration = SignedDuration::from_secs(5);
/// The same where the server that marked it is the only one: what is being written is written by then, and who watches has
/// seen that it goes. Times have whole seconds, so that this is three at least.
const GRACE_OF_ONE: SignedDuration = SignedDuration::from_secs(4);
/// How soon a namespace whose content is still going is looked at again, in seconds.
const LOOK_AGAIN_SECONDS: i64 = 1;

/// What it sees of a namespace.
#[derive(Debug)]
pub struct Observed {
    namespace: Namespace,
    /// What is in it, by resource.
    content: Vec<Left>,
    /// What has to be read before that is known.
    fetches: Vec<Fetch>,
    /// What other servers have in it.
    remote: Seen,
}

/// What a namespace has of a resource.
#[derive(Debug)]
struct Left {
    resource: Resource,
    count: usize,
    finalizers: Vec<CompactString>,
    /// All of it is on its way out.
    is_going: bool,
}

impl Left {
    fn cached(resource: Resource, objects: &[Arc<Cached>]) -> Self {
        Self {
            resource,
            count: objects.len(),
            finalizers: objects.iter().flat_map(|it| it.finalizers()).cloned().collect(),
            is_going: objects.iter().all(|it| it.is_deleting()),
        }
    }

    fn listed(resource: &Resource, objects: &[Value]) -> Self {
        let finalizers = objects.iter().flat_map(|it| it.items_at(&["metadata", "finalizers"]));
        Self {
            resource: resource.clone(),
            count: objects.len(),
            finalizers: finalizers.filter_map(Value::as_str).map(Into::into).collect(),
            is_going: objects.iter().all(|it| it.at(&["metadata", "deletionTimestamp"]).is_some()),
        }
    }
}

/// Events: nobody has a cache of them.
fn is_event(resource: &Resource) -> bool {
    resource.plural == "events"
}

/// A namespace that is going and has lost its last object of a resource.
fn emptied(resource: &Resource, change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let namespace = change.key().namespace;
    if change.new.is_some() || snapshot.store_for(resource).has_any(&namespace) {
        return Vec::new();
    }
    let key = ObjectKey::new("", namespace);
    let is_going = snapshot.store::<Namespace>().get(&key).is_some_and(|it| it.is_deleting());
    if is_going { vec![key] } else { Vec::new() }
}

/// Every namespaced resource that can be listed and deleted, each once.
fn resources() -> Vec<Resource> {
    let deletable = |facts: &&api::ResourceFacts| {
        facts.namespaced
            && facts.verbs.contains(&"deletecollection")
            && facts.verbs.contains(&"list")
    };
    let mut resources: Vec<Resource> = Vec::new();
    for facts in api::resources().iter().filter(deletable) {
        let resource = Resource::built_in(facts.group, facts.resource);
        // Events are served in two groups, some resources in two versions: the same objects.
        if !resources.contains(&resource) && facts.group != "events.k8s.io" {
            resources.push(resource);
        }
    }
    resources
}

fn fetch(resource: &Resource, namespace: &str) -> Fetch {
    Fetch::read(resource.clone(), ObjectKey::new(namespace, ""))
}

impl Controller for Namespaces {
    const NAME: &'static str = "namespace-controller";
    const QUEUE: &'static str = "namespace";
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        let (custom, remotes) = (Arc::clone(&self.custom), Arc::clone(&self.remotes));
        let watches = self.built_in().filter(|it| !is_event(it)).fold(
            watches.own::<Namespace>(),
            |watches, resource| {
                watches.on_resource(resource.clone(), move |change, snapshot| {
                    emptied(&resource, change, snapshot)
                })
            },
        );
        watches
            .on_resource(custom::definitions(), move |change, _| {
                let _known = custom.learn(change);
                Vec::new()
            })
            .on_resource(remote::api_services(), move |change, _| {
                remotes.learn(change);
                Vec::new()
            })
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let namespace: Namespace = snapshot.get(key)?;
        namespace.metadata.deletion_timestamp.as_ref()?;
        let custom = self.custom.all().into_iter().filter(|it| it.namespaced);
        let all: Vec<Resource> = self.built_in().chain(custom).collect();
        let cached = cached(snapshot, &key.name, &all);
        let (content, fetches) = if cached.is_empty() {
            listed(snapshot, &key.name, &all)
        } else {
            (cached, Vec::new())
        };
        let remote = self.remotes.look(snapshot, &key.name);
        Some(Observed { content, fetches, remote, namespace })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let namespace = &observed.namespace;
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let finalizers = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
        if !finalizers.clone().any(|it| it == FINALIZER) {
            return plan;
        }
        // Every server is to have seen that nothing new may come before what is there goes.
        let since = namespace.metadata.deletion_timestamp.as_ref().map(|it| it.0);
        let due = since.and_then(|it| it.checked_add(self.grace()).ok());
        if let Some(due) = due.filter(|due| now < *due) {
            plan.requeue_by(due);
            return plan;
        }
        plan.fetches.clone_from(&observed.fetches);
        plan.fetches.extend(observed.remote.fetches.iter().cloned());
        if !plan.fetches.is_empty() {
            return plan;
        }
        let remote = observed.remote.content.iter();
        let remote: Vec<Left> = remote.map(|(it, objects)| Left::listed(it, objects)).collect();
        let left: Vec<&Left> =
            observed.content.iter().chain(&remote).filter(|it| it.count > 0).collect();
        let coming = left.iter().filter(|it| !it.is_going).map(|it| it.resource.clone());
        let coming: Vec<Resource> = coming.collect();
        // Events are told of what goes, and are not known before they are asked for.
        let events = Resource::built_in("", "events");
        let events = Some(events).filter(|it| !coming.is_empty() && !coming.contains(it));
        for resource in coming.into_iter().chain(events) {
            plan.act(Action::DeleteCollection { resource, namespace: name.clone() });
        }
        let mut object = to_value(namespace);
        let changed = set_conditions(&mut object, &left, &observed.remote, now);
        plan.then();
        if left.is_empty() && observed.remote.is_known() {
            let rest: Value =
                finalizers.filter(|it| *it != FINALIZER).map(String::as_str).collect();
            object.set_at(&["spec", "finalizers"], rest);
            plan.act(Action::Update {
                resource: Resource::of::<Namespace>(),
                subresource: "finalize",
                object,
            });
            return plan;
        }
        if changed {
            plan.act(Action::Update {
                resource: Resource::of::<Namespace>(),
                subresource: "status",
                object,
            });
        }
        plan.requeue_by(
            now.saturating_add(SignedDuration::from_secs(LOOK_AGAIN_SECONDS)).unwrap_or(now),
        );
        plan
    }
}

/// What lists tell of a namespace, and which have to be read first.
fn listed(snapshot: &Snapshot, namespace: &str, all: &[Resource]) -> (Vec<Left>, Vec<Fetch>) {
    let (mut content, mut fetches) = (Vec::new(), Vec::new());
    for resource in all {
        let wanted = fetch(resource, namespace);
        match snapshot.fetched(&wanted) {
            Some(list) => {
                let objects = list.and_then(Value::as_array).unwrap_or_default();
                content.push(Left::listed(resource, objects));
            }
            None => fetches.push(wanted),
        }
    }
    (content, fetches)
}

/// What the caches tell of a namespace. That nothing is left there has to be told by lists: caches may be late.
fn cached(snapshot: &Snapshot, namespace: &str, all: &[Resource]) -> Vec<Left> {
    let stores = all.iter().filter(|it| !is_event(it)).map(|it| (it, snapshot.store_for(it)));
    let known = stores.filter(|(_, store)| store.is_synced() && store.has_any(namespace));
    known.map(|(it, store)| Left::cached(it.clone(), &store.list(namespace))).collect()
}

/// A condition to be set: type, whether it holds, reason, message.
type Wanted = (&'static str, bool, &'static str, String);

/// Upstream's five conditions.
fn conditions(left: &[&Left], remote: &Seen) -> [Wanted; 5] {
    let content: Vec<String> = left
        .iter()
        .map(|Left { resource, count, .. }| {
            let (plural, group) = (&resource.plural, &resource.group);
            format!("{plural}.{group} has {count} resource instances")
        })
        .collect();
    let mut counts: BTreeMap<&CompactString, usize> = BTreeMap::new();
    for finalizer in left.iter().flat_map(|it| &it.finalizers) {
        *counts.entry(finalizer).or_default() += 1;
    }
    let finalizers =
        counts.iter().map(|(name, count)| format!("{name} in {count} resource instances"));
    let finalizers: Vec<String> = finalizers.collect();
    [
        discovered(&remote.undiscovered),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".into(),
        ),
        deleted(&remote.unlisted),
        remaining(&content),
        finalizing(&finalizers),
    ]
}

fn discovered(failures: &[String]) -> Wanted {
    const KIND: &str = "NamespaceDeletionDiscoveryFailure";
    if failures.is_empty() {
        let message = "All resources successfully discovered".into();
        return (KIND, false, "ResourcesDiscovered", message);
    }
    let message = format!(
        "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
        failures.len(),
        failures.join(", ")
    );
    (KIND, true, "DiscoveryFailed", message)
}

fn deleted(failures: &[String]) -> Wanted {
    const KIND: &str = "NamespaceDeletionContentFailure";
    if failures.is_empty() {
        let message = "All content successfully deleted, may be waiting on finalization".into();
        return (KIND, false, "ContentDeleted", message);
    }
    let (count, why) = (failures.len(), failures.join(", "));
    let message = format!("Failed to delete all resource types, {count} remaining: {why}");
    (KIND, true, "ContentDeletionFailed", message)
}

fn remaining(content: &[String]) -> Wanted {
    const KIND: &str = "NamespaceContentRemaining";
    if content.is_empty() {
        return (KIND, false, "ContentRemoved", "All content successfully removed".into());
    }
    let message = format!("Some resources are remaining: {}", content.join(", "));
    (KIND, true, "SomeResourcesRemain", message)
}

fn finalizing(finalizers: &[String]) -> Wanted {
    const KIND: &str = "NamespaceFinalizersRemaining";
    if finalizers.is_empty() {
        let message = "All content-preserving finalizers finished".into();
        return (KIND, false, "ContentHasNoFinalizers", message);
    }
    let names = finalizers.join(", ");
    let message = format!("Some content in the namespace has finalizers remaining: {names}");
    (KIND, true, "SomeFinalizersRemain", message)
}

/// Sets the conditions; says whether any of them changed.
fn set_conditions(object: &mut Value, left: &[&Left], remote: &Seen, now: Timestamp) -> bool {
    let old = object.items_at(&["status", "conditions"]).to_vec();
    let merged = |(kind, holds, reason, message): &Wanted| {
        let status = if *holds { "True" } else { "False" };
        let before = old.iter().find(|it| it.str_at(&["type"]) == *kind);
        let since = before.filter(|it| it.str_at(&["status"]) == status);
        let since = since.map(|it| it.str_at(&["lastTransitionTime"]).to_owned());
        let since = since.unwrap_or_else(|| time::format_time(now).to_string());
        value!({"type": (*kind), "status": status, "reason": (*reason), "message": (message.as_str()),
            "lastTransitionTime": since})
    };
    let conditions: Vec<Value> = conditions(left, remote).iter().map(merged).collect();
    let changed = conditions != old;
    object.set_at(&["status", "conditions"], Value::Array(conditions));
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_waits_for_other_servers_where_there_may_be_any() {
        let gone: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let namespace = value!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": ["kubernetes"]}});
        let namespace: Namespace =
            serde_json::from_str(&apimachinery::json::to_string(&namespace)).unwrap();
        let remote = Seen::default();
        let observed = Observed { namespace, content: Vec::new(), fetches: Vec::new(), remote };
        for (one_server, waits) in [(true, 4), (false, 5)] {
            let controller = Namespaces::new(&[], one_server);
            let after = |seconds| gone.saturating_add(SignedDuration::from_secs(seconds)).unwrap();
            let early = controller.plan(&observed, &mut (), after(waits - 1));
            assert!(early.stages.iter().all(|stage| stage.actions.is_empty()), "{one_server}");
            assert_eq!(early.requeue_at, Some(after(waits)));
            let due = controller.plan(&observed, &mut (), after(waits));
            assert!(due.stages.iter().any(|stage| !stage.actions.is_empty()), "{one_server}");
        }
    }
}
