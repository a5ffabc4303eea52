//! Objects are stored anew where a migration asks for it.

use apimachinery::{Value, value};
use client::Resource;

use crate::cluster;

fn migration(name: &str, resource: &str) -> Value {
    value!({"apiVersion": "storagemigration.k8s.io/v1", "kind": "StorageVersionMigration",
        "metadata": {"name": name}, "spec": {"resource": {"group": "", "resource": resource}}})
}

const GROUP: &str = "storagemigration.k8s.io";
const DEFINITIONS: &str = "apiextensions.k8s.io";

/// A condition as type, status, reason and message.
fn told(object: &Value) -> Vec<[String; 4]> {
    let conditions = object.items_at(&["status", "conditions"]).iter();
    let of = |it: &Value| {
        ["type", "status", "reason", "message"].map(|member| it.str_at(&[member]).to_owned())
    };
    conditions.map(of).collect()
}

/// A migration that is over, and was told so to whom it concerns.
async fn over(cluster: &test_cluster::TestCluster, name: &str) -> Value {
    cluster
        .eventually("it is over", async |it| {
            let migration = it.get(GROUP, "storageversionmigrations", "", name).await?;
            let all = told(&migration);
            let is = |kind: &str| all.iter().any(|it| it[0] == kind && it[1] == "True");
            ((is("Succeeded") || is("Failed")) && !is("Running")).then_some(migration)
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn a_migration_runs_and_says_how_it_ended() {
    let cluster = cluster(&["storage-version-migrator-controller"]).await;
    let map = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default"}});
    let before = cluster.create("", "configmaps", map).await;
    let completed = ["Running", "False", "MigrationCompleted", "Migration completed"];
    let failed = |why| ["Failed", "True", "StorageVersionMigrationFailed", why];
    for (resource, wanted) in [
        (
            "configmaps",
            vec![completed, ["Succeeded", "True", "StorageVersionMigrationSucceeded", ""]],
        ),
        ("nopes", vec![failed("resource does not exist in discovery")]),
        (
            "events",
            vec![
                completed,
                failed("migration encountered unhandled error: resource does not exist in GC"),
            ],
        ),
    ] {
        cluster.create(GROUP, "storageversionmigrations", migration(resource, resource)).await;
        assert_eq!(told(&over(&cluster, resource).await), wanted);
    }
    let migration = cluster.get(GROUP, "storageversionmigrations", "", "configmaps").await.unwrap();
    assert!(!migration.str_at(&["status", "resourceVersion"]).is_empty());
    // What is stored well already is left alone.
    let after = cluster.get("", "configmaps", "default", "m").await.unwrap();
    assert_eq!(after["metadata"], before["metadata"]);
}

/// Pandas in two versions, of which one is stored.
fn pandas(stored: &str) -> Value {
    let version = |name: &str| {
        value!({"name": name, "served": true, "storage": (name == stored), "schema": {"openAPIV3Schema":
            {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    value!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "pandas.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "pandas", "singular": "panda", "kind": "Panda", "listKind": "PandaList"},
            "versions": [(version("v1")), (version("v2"))]}})
}

#[tokio::test(start_paused = true)]
async fn a_definition_is_told_and_its_old_versions_may_go() {
    let cluster = cluster(&["storage-version-migrator-controller"]).await;
    let kind = "customresourcedefinitions";
    cluster.create(DEFINITIONS, kind, pandas("v1")).await;
    let definition = async |what: &str, is: &dyn Fn(&Value) -> bool| {
        let is = &is;
        let found = cluster.eventually(what, async |it| {
            it.get(DEFINITIONS, kind, "", "pandas.example.com").await.filter(|it| is(it))
        });
        found.await
    };
    let established =
        |it: &Value| told(it).iter().any(|it| it[0] == "Established" && it[1] == "True");
    let mut current = definition("it is served", &established).await;
    current.set_at(&["spec", "versions"], pandas("v2")["spec"]["versions"].clone());
    cluster.client.update(&Resource::built_in(DEFINITIONS, kind), "", &current).await.unwrap();
    let both = value!(["v1", "v2"]);
    let of = |it: &Value| it["status"]["storedVersions"].clone();
    let of_both = |it: &Value| of(it) == both && established(it);
    definition("both are remembered", &of_both).await;
    // The second waits for the first, whose end it does not disturb.
    for name in ["a", "b"] {
        let mut migration = migration(name, "pandas");
        migration.set_at(&["spec", "resource", "group"], "example.com");
        cluster.create(GROUP, "storageversionmigrations", migration).await;
    }
    let (first, second) = (over(&cluster, "a").await, over(&cluster, "b").await);
    let began = |it: &Value| it.str_at(&["status", "resourceVersion"]).parse::<u64>().unwrap();
    assert!(began(&first) < began(&second), "{first:?} {second:?}");
    let after = definition("v1 is forgotten", &|it| of(it) == value!(["v2"])).await;
    let wanted = "The migration has succeeded and the stored versions have been updated";
    let wanted = ["StorageMigrating", "False", "MigrationSucceeded", wanted].map(str::to_owned);
    assert!(told(&after).contains(&wanted), "{after:?}");
    let conditions = after.items_at(&["status", "conditions"]).iter();
    let seen = conditions.filter_map(|it| it.i64_at(&["observedGeneration"])).max();
    assert_eq!(seen, after.i64_at(&["metadata", "generation"]));
}
