//! Objects are stored anew where a migration asks for it.

use apimachinery::{Value, value};

use crate::cluster;

fn migration(name: &str, resource: &str) -> Value {
    value!({"apiVersion": "storagemigration.k8s.io/v1", "kind": "StorageVersionMigration",
        "metadata": {"name": name}, "spec": {"resource": {"group": "", "resource": resource}}})
}

#[tokio::test(start_paused = true)]
async fn a_migration_runs_and_says_how_it_ended() {
    let cluster = cluster(&["storage-version-migrator-controller"]).await;
    let map = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default"}});
    let before = cluster.create("", "configmaps", map).await;
    const GROUP: &str = "storagemigration.k8s.io";
    for (resource, wanted) in [("configmaps", "Succeeded"), ("nopes", "Failed")] {
        cluster.create(GROUP, "storageversionmigrations", migration(resource, resource)).await;
        let over = cluster
            .eventually("it is over", async |it| {
                let migration = it.get(GROUP, "storageversionmigrations", "", resource).await?;
                let conditions = migration.items_at(&["status", "conditions"]);
                let is_true = |it: &&Value| it.str_at(&["status"]) == "True";
                let kind = conditions.iter().find(is_true)?.str_at(&["type"]).to_owned();
                (kind != "Running").then_some((kind, migration))
            })
            .await;
        assert_eq!(over.0, wanted, "{:?}", over.1);
    }
    let migration = cluster.get(GROUP, "storageversionmigrations", "", "configmaps").await.unwrap();
    assert!(!migration.str_at(&["status", "resourceVersion"]).is_empty());
    // What is stored well already is left alone.
    let after = cluster.get("", "configmaps", "default", "m").await.unwrap();
    assert_eq!(after["metadata"], before["metadata"]);
}
