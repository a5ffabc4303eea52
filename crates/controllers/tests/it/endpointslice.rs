//! EndpointSlices.

use apimachinery::value;
use client::Resource;
use client::call::PatchKind;

use crate::cluster;

#[tokio::test(start_paused = true)]
async fn a_service_has_a_slice_with_its_ready_pods() {
    let cluster = cluster(&["endpointslice-controller"]).await;
    let service = value!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]}});
    cluster.create("", "services", service).await;
    cluster
        .eventually("an empty slice", async |it| {
            let slices = it.list("discovery.k8s.io", "endpointslices", "default").await;
            (slices.len() == 1 && slices[0].items_at(&["endpoints"]).is_empty()).then_some(())
        })
        .await;
    let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]}});
    cluster.create("", "pods", pod).await;
    let patch = value!({"status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    cluster
        .client
        .patch(&Resource::built_in("", "pods"), "default", "p", "status", PatchKind::Merge, &patch)
        .await
        .unwrap();
    let slice = cluster
        .eventually("the pod in the only slice", async |it| {
            let slices = it.list("discovery.k8s.io", "endpointslices", "default").await;
            (slices.len() == 1 && slices[0].items_at(&["endpoints"]).len() == 1)
                .then(|| slices[0].clone())
        })
        .await;
    assert_eq!(slice.items_at(&["ports"])[0].i64_at(&["port"]), Some(8080));
    let endpoint = &slice.items_at(&["endpoints"])[0];
    assert_eq!(endpoint.items_at(&["addresses"])[0].as_str(), Some("10.0.0.7"));
    assert!(endpoint.bool_at(&["conditions", "ready"]));
    assert_eq!(endpoint.str_at(&["nodeName"]), "n1");
}
