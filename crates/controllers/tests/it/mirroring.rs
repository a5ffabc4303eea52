//! Endpoints without a selector, mirrored in slices.

use apimachinery::value;
use client::Resource;
use client::call::{DeleteParams, PatchKind};

use crate::cluster;

const DISCOVERY: &str = "discovery.k8s.io";

#[tokio::test(start_paused = true)]
async fn slices_mirror_what_somebody_writes_as_long_as_there_is_a_service() {
    let cluster = cluster(&["endpointslice-mirroring-controller"]).await;
    let endpoints = value!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s", "namespace": "default", "labels": {"x": "y"}},
        "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]});
    cluster.create("", "endpoints", endpoints).await;
    let service = value!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]}});
    cluster.create("", "services", service).await;
    let slices = cluster
        .eventually("a slice", async |it| {
            let slices = it.list(DISCOVERY, "endpointslices", "default").await;
            (!slices.is_empty()).then_some(slices)
        })
        .await;
    assert_eq!(slices[0].str_at(&["metadata", "labels", "x"]), "y");
    assert_eq!(
        slices[0].items_at(&["endpoints"])[0].items_at(&["addresses"])[0].as_str(),
        Some("10.1.2.3")
    );
    let name = slices[0].str_at(&["metadata", "name"]).to_owned();
    let resource = Resource::built_in("", "endpoints");
    let patch = value!({"subsets": [{"addresses": [{"ip": "10.1.2.4"}], "ports": [{"port": 81}]}]});
    cluster.client.patch(&resource, "default", "s", "", PatchKind::Merge, &patch).await.unwrap();
    cluster
        .eventually("the same slice with another port", async |it| {
            let slice = it.get(DISCOVERY, "endpointslices", "default", &name).await?;
            (slice.items_at(&["ports"])[0].i64_at(&["port"]) == Some(81)).then_some(())
        })
        .await;
    let services = Resource::built_in("", "services");
    cluster.client.delete(&services, "default", "s", &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("no slice", async |it| {
            it.list(DISCOVERY, "endpointslices", "default").await.is_empty().then_some(())
        })
        .await;
}
