//! Writes every object of a resource anew, as it is, so that all are stored as they would be stored today: in today's
//! version, under today's key. Upstream: `pkg/controller/storageversionmigrator`.
//!
//! Each object gets an empty apply: who changes it meanwhile is not disturbed, and what was stored differently is
//! stored anew. Knows no storage.

use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::call::PatchKind;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Fetch, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;

use crate::custom::{self, CustomResources};

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct StorageVersionMigrator {
    custom: Arc<CustomResources>,
}

/// Who applies nothing.
const MANAGER: &str = "storage-version-migrator-controller";

/// What it sees of a migration.
#[derive(Debug)]
pub struct Observed {
    migration: Arc<Value>,
    /// What is migrated; `None` where there is no such resource.
    resource: Option<Resource>,
    /// Its objects by a live read, where one was made.
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
            .own::<StorageVersionMigration>()
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let migration = snapshot.store::<StorageVersionMigration>().get(key)?.value();
        let resource = self.resource(&migration);
        let list = resource.as_ref().and_then(|it| snapshot.fetched(&fetch(it)).flatten().cloned());
        Some(Observed { migration, resource, list })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let migration = &observed.migration;
        let is = |kind| has_condition(migration, kind);
        if is("Succeeded") || is("Failed") {
            return plan;
        }
        let Some(resource) = &observed.resource else {
            let at = |member| migration.str_at(&["spec", "resource", member]);
            let why = format!("there is no resource {}.{}", at("resource"), at("group"));
            // A status has a version: here that of which it is true.
            let mut migration = Value::clone(migration);
            let version = migration.str_at(&["metadata", "resourceVersion"]).to_owned();
            migration.default_zero_at(&["status", "resourceVersion"], version);
            plan.act(finish(&migration, "Failed", &why, now));
            return plan;
        };
        let Some(list) = &observed.list else {
            plan.fetches.push(fetch(resource));
            return plan;
        };
        if let Some(error) = list.get("error") {
            plan.error =
                Some(format!("could not list {resource:?}: {}", error.str_at(&["message"])));
            return plan;
        }
        if !is("Running") {
            let version = list.str_at(&["answer", "metadata", "resourceVersion"]);
            let mut running = with_condition(migration, "Running", "", now);
            running.set_at(&["status", "resourceVersion"], version);
            plan.act(update(running));
            return plan;
        }
        for object in list.items_at(&["answer", "items"]) {
            plan.act(rewrite(resource, object));
        }
        plan.then();
        plan.act(finish(migration, "Succeeded", "", now));
        plan
    }
}

impl StorageVersionMigrator {
    fn resource(&self, migration: &Value) -> Option<Resource> {
        let at = |member| migration.str_at(&["spec", "resource", member]);
        let (group, plural) = (at("group"), at("resource"));
        let built_in = api::resources().iter().any(|it| it.group == group && it.resource == plural);
        if built_in {
            return Some(Resource::built_in(group, plural));
        }
        self.custom.all().into_iter().find(|it| it.group == group && it.plural == plural)
    }
}

/// All objects of a resource, with the version of the list.
fn fetch(resource: &Resource) -> Fetch {
    let Resource { group, version, plural, .. } = resource;
    let path = match group.as_str() {
        "" => format!("/api/{version}/{plural}"),
        group => format!("/apis/{group}/{version}/{plural}"),
    };
    Fetch::path(resource.clone(), path)
}

/// An apply of nothing to this very object.
fn rewrite(resource: &Resource, object: &Value) -> Action {
    let metadata = |member| object.str_at(&["metadata", member]);
    let api_version = match resource.group.as_str() {
        "" => resource.version.to_string(),
        group => format!("{group}/{}", resource.version),
    };
    let mut patch = value!({
        "apiVersion": api_version, "kind": (resource.kind.as_str()),
        "metadata": {"name": (metadata("name")), "uid": (metadata("uid"))}
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

fn has_condition(migration: &Value, kind: &str) -> bool {
    let conditions = migration.items_at(&["status", "conditions"]);
    conditions.iter().any(|it| it.str_at(&["type"]) == kind && it.str_at(&["status"]) == "True")
}

/// The migration with a condition that is true from now on, and the others as they were.
fn with_condition(migration: &Value, kind: &str, message: &str, now: Timestamp) -> Value {
    let reason = match kind {
        "Succeeded" => "StorageVersionMigrationSucceeded",
        "Failed" => "StorageVersionMigrationFailed",
        _ => "StorageVersionMigrationInProgress",
    };
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

/// The migration is over: it runs no more.
fn finish(migration: &Value, kind: &str, message: &str, now: Timestamp) -> Action {
    let mut over = with_condition(migration, kind, message, now);
    if let Some(conditions) = over.object_at_mut(&["status"]).entry("conditions").as_array_mut() {
        for condition in conditions.iter_mut().filter(|it| it.str_at(&["type"]) == "Running") {
            condition.set_at(&["status"], "False");
            condition.set_at(&["lastTransitionTime"], time::format_time(now));
        }
    }
    update(over)
}

fn update(migration: Value) -> Action {
    Action::Update {
        resource: Resource::of::<StorageVersionMigration>(),
        subresource: "status",
        object: migration,
    }
}
