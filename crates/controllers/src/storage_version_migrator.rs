//! Writes every object of a resource anew, as it is, so that all are stored as they would be stored today: in today's
//! version, under today's key. Upstream: `pkg/controller/storageversionmigrator`.
//!
//! Each object gets an empty apply: who changes it meanwhile is not disturbed, and what was stored differently is
//! stored anew. Of one resource one migration runs at a time, the oldest first; a definition is told that it does, and once
//! it is over that its objects are of one version. Knows no storage.

use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::call::PatchKind;
use client::{ObjectKey, Resource};
use controller::plan::Refused;
use controller::{Action, Controller, Fetch, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;

use crate::custom::{self, CustomResources};
use crate::garbage_collector;

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct StorageVersionMigrator {
    custom: Arc<CustomResources>,
}

/// Who applies nothing.
const MANAGER: &str = "storage-version-migrator-controller";
/// Who tells definitions.
const RUNNER: &str = "migration-runner-controller";
/// What it tells them.
const MIGRATING: &str = "StorageMigrating";
/// How long a resource may take until its objects are followed.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// What it sees of a migration.
#[derive(Debug)]
pub struct Observed {
    migration: Arc<Value>,
    /// Whether no other of the same resource runs, or is older and waits.
    is_next: bool,
    /// What is migrated; `None` where there is no such resource.
    resource: Option<Resource>,
    /// Whether its objects can be followed.
    is_followed: bool,
    /// What defines it, where it is a custom one.
    definition: Option<Arc<Value>>,
    /// Where it is, by a live read, where one was made.
    place: Option<Value>,
    /// Its objects, alike.
    list: Option<Value>,
}

impl Controller for StorageVersionMigrator {
    const NAME: &'static str = "storage-version-migrator-controller";
    const QUEUE: &'static str = "storage-version-migrator-controller";
    /// A migration.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        let custom = Arc::clone(&self.custom);
        watches
            .on_resource(custom::definitions(), move |change, _| {
                custom.learn(change);
                Vec::new()
            })
            .on::<StorageVersionMigration>(|change, snapshot| {
                let Some(changed) = change.new.as_ref().or(change.old.as_ref()) else {
                    return Vec::new();
                };
                let all = snapshot.store::<StorageVersionMigration>().list("");
                let (of, key) = (changed.value(), change.key());
                let same = all.iter().filter(|it| it.key != key && is_of_same(&it.value(), &of));
                same.map(|it| it.key.clone()).chain([key.clone()]).collect()
            })
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let store = snapshot.store::<StorageVersionMigration>();
        let migration = store.get(key)?.value();
        let others: Vec<Arc<Value>> =
            store.list("").iter().filter(|it| it.key != *key).map(|it| it.value()).collect();
        let is_before = |other: &Value| {
            !is_over(other) && (has_condition(other, "Running") || age(other) < age(&migration))
        };
        let is_next = !others.iter().any(|other| is_of_same(other, &migration) && is_before(other));
        let resource = self.resource(&migration);
        let fetched = |it: Option<Fetch>| snapshot.fetched(&it?).flatten().cloned();
        let name =
            format!("{}.{}", resource_at(&migration, "resource"), resource_at(&migration, "group"));
        let definition = snapshot.store_for(&custom::definitions()).get(&ObjectKey::new("", name));
        Some(Observed {
            is_next,
            is_followed: resource.as_ref().is_some_and(is_followed),
            definition: definition.map(|it| it.value()),
            place: fetched(resource.as_ref().map(fetch_place)),
            list: fetched(resource.as_ref().map(fetch_all)),
            resource,
            migration,
        })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let migration = &observed.migration;
        let runs = has_condition(migration, "Running");
        if is_over(migration) {
            if runs {
                if let Some(definition) = &observed.definition {
                    plan.act(tell_over(definition, has_condition(migration, "Succeeded"), now));
                    plan.then();
                }
                plan.act(update(over(migration, now)));
            }
            return plan;
        }
        let Some(resource) = &observed.resource else {
            // A status has a version: here that of which it is true.
            let mut migration = Value::clone(migration);
            let version = migration.str_at(&["metadata", "resourceVersion"]).to_owned();
            migration.default_zero_at(&["status", "resourceVersion"], version);
            plan.act(fail(&failing(&migration, now), "resource does not exist in discovery"));
            return plan;
        };
        if runs {
            migrate(&mut plan, observed, resource, now);
        } else if observed.is_next {
            start(&mut plan, observed, resource, now);
        }
        plan
    }
}

impl StorageVersionMigrator {
    fn resource(&self, migration: &Value) -> Option<Resource> {
        let (group, plural) = (resource_at(migration, "group"), resource_at(migration, "resource"));
        let built_in = api::resources().iter().any(|it| it.group == group && it.resource == plural);
        if built_in {
            return Some(Resource::built_in(group, plural));
        }
        self.custom.all().into_iter().find(|it| it.group == group && it.plural == plural)
    }
}

/// The migration runs from now on, and its resource's definition is told so first.
fn start(plan: &mut Plan, observed: &Observed, resource: &Resource, now: Timestamp) {
    let Some(place) = &observed.place else {
        plan.fetches.push(fetch_place(resource));
        return;
    };
    if let Some(error) = place.get("error") {
        plan.error = Some(could_not_list(resource, error));
        return;
    }
    let migration = &observed.migration;
    if let Some(definition) = &observed.definition {
        let message = format!("Migration {} is running", migration.str_at(&["metadata", "name"]));
        // An apply takes away what it does not name any more.
        let stored = definition["status"]["storedVersions"].clone();
        let told = ("True", "MigrationRunning", message.as_str());
        plan.act(tell(definition, told, Some(stored), now));
        plan.then();
    }
    let told = ("Running", "MigrationRunning", "The migration is running");
    let mut running = with_condition(migration, told, now);
    let version = place.str_at(&["answer", "metadata", "resourceVersion"]);
    running.default_zero_at(&["status", "resourceVersion"], version);
    plan.act(update(running));
}

/// Every object is written anew that was not written since the migration began.
fn migrate(plan: &mut Plan, observed: &Observed, resource: &Resource, now: Timestamp) {
    let migration = &observed.migration;
    if !observed.is_followed {
        let created = time::parse_time(migration.str_at(&["metadata", "creationTimestamp"]));
        let patience = created.map_or(now, |it| it + PATIENCE);
        if now < patience {
            plan.requeue_by(patience);
        } else {
            let migration = failing(migration, now);
            plan.act(fail(&migration, &unhandled("resource does not exist in GC")));
        }
        return;
    }
    let Some(list) = &observed.list else {
        plan.fetches.push(fetch_all(resource));
        return;
    };
    if let Some(error) = list.get("error") {
        plan.error = Some(could_not_list(resource, error));
        return;
    }
    let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
    let since = number(migration.str_at(&["status", "resourceVersion"]));
    for object in list.items_at(&["answer", "items"]) {
        if number(object.str_at(&["metadata", "resourceVersion"])) <= since {
            plan.act(rewrite(resource, object));
        }
    }
    if let Some(stage) = plan.stages.last_mut() {
        let object = failing(migration, now);
        stage.refused = Some(Refused { object, write: |it, why| fail(it, &unhandled(why)) });
    }
    plan.then();
    let told = ("Succeeded", "StorageVersionMigrationSucceeded", "");
    plan.act(update(with_condition(migration, told, now)));
}

fn resource_at<'v>(migration: &'v Value, member: &str) -> &'v str {
    migration.str_at(&["spec", "resource", member])
}

fn is_of_same(one: &Value, other: &Value) -> bool {
    ["group", "resource"].iter().all(|it| resource_at(one, it) == resource_at(other, it))
}

/// The older one is the lesser.
fn age(migration: &Value) -> (Option<Timestamp>, String) {
    let created = time::parse_time(migration.str_at(&["metadata", "creationTimestamp"]));
    (created.ok(), migration.str_at(&["metadata", "name"]).to_owned())
}

fn is_over(migration: &Value) -> bool {
    has_condition(migration, "Succeeded") || has_condition(migration, "Failed")
}

/// Whether the garbage collector, whose caches upstream's migrations use, knows it.
fn is_followed(resource: &Resource) -> bool {
    custom::is_custom(resource) || garbage_collector::resources().contains(resource)
}

fn path(resource: &Resource) -> String {
    let Resource { group, version, plural, .. } = resource;
    match group.as_str() {
        "" => format!("/api/{version}/{plural}"),
        group => format!("/apis/{group}/{version}/{plural}"),
    }
}

/// All objects of a resource.
fn fetch_all(resource: &Resource) -> Fetch {
    Fetch::path(resource.clone(), path(resource))
}

/// The version of a resource.
fn fetch_place(resource: &Resource) -> Fetch {
    Fetch::path(resource.clone(), format!("{}?limit=1", path(resource)))
}

fn could_not_list(resource: &Resource, error: &Value) -> String {
    format!("could not list {resource:?}: {}", error.str_at(&["message"]))
}

/// An apply of nothing to this very object, as it is.
fn rewrite(resource: &Resource, object: &Value) -> Action {
    let metadata = |member| object.str_at(&["metadata", member]);
    let api_version = match resource.group.as_str() {
        "" => resource.version.to_string(),
        group => format!("{group}/{}", resource.version),
    };
    let mut patch = value!({
        "apiVersion": api_version, "kind": (resource.kind.as_str()),
        "metadata": {"name": (metadata("name")), "uid": (metadata("uid")), "resourceVersion": (metadata("resourceVersion"))}
    });
    if !metadata("namespace").is_empty() {
        patch.set_at(&["metadata", "namespace"], metadata("namespace"));
    }
    Action::Patch {
        resource: resource.clone(),
        key: ObjectKey::new(metadata("namespace"), metadata("name")),
        subresource: "",
        kind: PatchKind::Apply { manager: MANAGER },
        patch,
        gone_is_fine: true,
    }
}

/// A definition is told how a migration of its objects ended.
fn tell_over(definition: &Value, succeeded: bool, now: Timestamp) -> Action {
    let conditions = definition.items_at(&["status", "conditions"]);
    let generation = definition.i64_at(&["metadata", "generation"]);
    let unchanged = conditions.iter().any(|it| {
        it.str_at(&["type"]) == MIGRATING && it.i64_at(&["observedGeneration"]) == generation
    });
    let (reason, message) = match (succeeded, unchanged) {
        (true, true) => (
            "MigrationSucceeded",
            "The migration has succeeded and the stored versions have been updated",
        ),
        (true, false) => (
            "MigrationSucceeded",
            "The migration has succeeded but the stored versions have not been updated due to a generation mismatch",
        ),
        (false, _) => ("MigrationFailed", "The migration has failed"),
    };
    let versions = definition.items_at(&["spec", "versions"]);
    let stored = versions.iter().find(|it| it.bool_at(&["storage"])).map(|it| it["name"].clone());
    let all = definition["status"]["storedVersions"].clone();
    let stored =
        if succeeded && unchanged { stored.map(|it| Value::Array(vec![it])) } else { Some(all) };
    tell(definition, ("False", reason, message), stored, now)
}

/// What a definition is told, as of its present generation.
fn tell(
    definition: &Value,
    (status, reason, message): (&str, &str, &str),
    stored: Option<Value>,
    now: Timestamp,
) -> Action {
    let metadata = |member| definition.str_at(&["metadata", member]);
    let condition = value!({
        "type": MIGRATING, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": (time::format_time(now)),
        "observedGeneration": (definition["metadata"]["generation"].clone())
    });
    let mut patch = value!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": (metadata("name")), "resourceVersion": (metadata("resourceVersion"))},
        "status": {"conditions": [condition]}
    });
    if let Some(stored) = stored {
        patch.set_at(&["status", "storedVersions"], stored);
    }
    Action::Patch {
        resource: custom::definitions(),
        key: ObjectKey::new("", metadata("name")),
        subresource: "status",
        kind: PatchKind::Apply { manager: RUNNER },
        patch,
        gone_is_fine: true,
    }
}

fn has_condition(migration: &Value, kind: &str) -> bool {
    let conditions = migration.items_at(&["status", "conditions"]);
    conditions.iter().any(|it| it.str_at(&["type"]) == kind && it.str_at(&["status"]) == "True")
}

/// The migration with a condition that is true from now on, and the others as they were.
fn with_condition(
    migration: &Value,
    (kind, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> Value {
    let before = migration.items_at(&["status", "conditions"]);
    let mut conditions: Vec<Value> =
        before.iter().filter(|it| it.str_at(&["type"]) != kind).cloned().collect();
    conditions.push(value!({
        "type": kind, "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": (time::format_time(now))
    }));
    let mut migration = migration.clone();
    migration.set_at(&["status", "conditions"], Value::Array(conditions));
    migration
}

/// The migration runs no more.
fn over(migration: &Value, now: Timestamp) -> Value {
    let generation = migration.i64_at(&["metadata", "generation"]);
    let mut migration = migration.clone();
    if let Some(conditions) =
        migration.object_at_mut(&["status"]).entry("conditions").as_array_mut()
    {
        for condition in conditions.iter_mut().filter(|it| it.str_at(&["type"]) == "Running") {
            condition.set_at(&["status"], "False");
            condition.set_at(&["reason"], "MigrationCompleted");
            condition.set_at(&["message"], "Migration completed");
            condition.set_at(&["lastTransitionTime"], time::format_time(now));
            if let Some(generation) = generation {
                condition.set_at(&["observedGeneration"], generation);
            }
        }
    }
    migration
}

fn unhandled(why: &str) -> String {
    format!("migration encountered unhandled error: {why}")
}

/// A migration, with a failure of this time that has no message yet.
fn failing(migration: &Value, now: Timestamp) -> Value {
    with_condition(migration, ("Failed", "StorageVersionMigrationFailed", ""), now)
}

/// A migration from [`failing`] failed because of this.
fn fail(migration: &Value, why: &str) -> Action {
    let mut migration = migration.clone();
    if let Some(conditions) =
        migration.object_at_mut(&["status"]).entry("conditions").as_array_mut()
        && let Some(condition) = conditions.last_mut()
    {
        condition.set_at(&["message"], why);
    }
    update(migration)
}

fn update(migration: Value) -> Action {
    Action::Update {
        resource: Resource::of::<StorageVersionMigration>(),
        subresource: "status",
        object: migration,
    }
}
