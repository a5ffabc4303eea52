//! Endpoints.

use apimachinery::value;

use crate::{cluster, pod_of, ready};

#[tokio::test(start_paused = true)]
async fn a_service_has_endpoints_until_it_is_gone() {
    let cluster = cluster(&["endpoints-controller"]).await;
    let service = value!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default", "labels": {"x": "y"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP"}]}});
    cluster.create("", "services", service).await;
    cluster.create("", "pods", pod_of("p", &value!({"app": "web"}))).await;
    ready(&cluster, "p").await;
    let endpoints = cluster
        .eventually("the pod's address", async |it| {
            let endpoints = it.get("", "endpoints", "default", "web").await?;
            let subset = endpoints.items_at(&["subsets"]).first()?;
            (subset.items_at(&["addresses"]).len() == 1).then_some(endpoints)
        })
        .await;
    assert_eq!(endpoints.str_at(&["metadata", "labels", "x"]), "y");
    let managed = ["metadata", "labels", "endpoints.kubernetes.io/managed-by"];
    assert_eq!(endpoints.str_at(&managed), "endpoint-controller");
    let services = client::Resource::built_in("", "services");
    let params = client::call::DeleteParams::default();
    cluster.client.delete(&services, "default", "web", &params).await.unwrap();
    cluster
        .eventually("no endpoints without a service", async |it| {
            it.get("", "endpoints", "default", "web").await.is_none().then_some(())
        })
        .await;
}
