//! Servers tell in which versions they store, and what those that are gone have told goes.

use std::sync::Arc;

use apimachinery::Value;
use client::Resource;
use client::call::DeleteParams;
use component_base::Shutdown;
use test_cluster::TestCluster;
use test_cluster::apiserver::masterleases::{self, Membership};
use test_cluster::registry::Features;

const GROUP: &str = "internal.apiserver.k8s.io";

fn serve(cluster: &TestCluster, name: &str) -> Shutdown {
    let membership = Membership {
        address: "10.0.0.1".parse().unwrap(),
        port: 6443,
        hostname: name.into(),
        tells_endpoints: false,
        identity: format!("apiserver-{name}"),
        holder: format!("apiserver-{name}_1"),
    };
    let stop = Shutdown::new();
    tokio::spawn(masterleases::run(Arc::clone(&cluster.server), membership, stop.signal()));
    stop
}

/// The server is gone, and nobody believes in it any more.
async fn gone(cluster: &TestCluster, name: &str, stop: Shutdown) {
    stop.request();
    let leases = Resource::built_in("coordination.k8s.io", "leases");
    let (name, now) = (format!("apiserver-{name}"), DeleteParams::default());
    cluster.client.delete(&leases, "kube-system", &name, &now).await.unwrap();
}

fn told(object: &Value) -> String {
    let servers = object.items_at(&["status", "storageVersions"]).iter();
    let servers = servers
        .map(|it| format!("{}={}", it.str_at(&["apiServerID"]), it.str_at(&["encodingVersion"])));
    servers.collect::<Vec<_>>().join(" ")
}

async fn tells(cluster: &TestCluster, name: &str, wanted: &str) -> Value {
    let told = cluster.eventually(wanted, async |it| {
        it.get(GROUP, "storageversions", "", name).await.filter(|it| told(it) == wanted)
    });
    told.await
}

#[tokio::test(start_paused = true)]
async fn what_servers_tell_goes_after_them() {
    const NAMES: &[&str] = &["storageversion-garbage-collector-controller"];
    let features = Features { storage_version_api: true, ..Features::default() };
    let cluster = crate::cluster_asked(
        features,
        "StorageVersionAPI=true",
        &["internal.apiserver.k8s.io/v1alpha1=true"],
        NAMES,
    );
    let cluster = cluster.await;
    let (a, b) = (serve(&cluster, "a"), serve(&cluster, "b"));
    // Who comes second may find what the first has just made: it tells of itself ten minutes later.
    let both = "apiserver-a=apps/v1 apiserver-b=apps/v1";
    let told = tells(&cluster, "apps.deployments", both).await;
    assert_eq!(told.str_at(&["status", "commonEncodingVersion"]), "apps/v1");
    tells(&cluster, "core.pods", "apiserver-a=v1 apiserver-b=v1").await;
    gone(&cluster, "a", a).await;
    tells(&cluster, "apps.deployments", "apiserver-b=apps/v1").await;
    gone(&cluster, "b", b).await;
    cluster
        .eventually("nobody tells any more", async |it| {
            it.list(GROUP, "storageversions", "").await.is_empty().then_some(())
        })
        .await;
}
