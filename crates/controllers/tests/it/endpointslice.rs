//! EndpointSlices.

use apimachinery::value;
use client::Resource;
use client::call::PatchKind;

use test_cluster::TestCluster;

use crate::cluster;

#[tokio::test(start_paused = true)]
async fn a_service_has_a_slice_with_its_ready_pods() {
    let cluster = TestCluster::new(1).await;
    let setup = crate::setup(&cluster);
    let metrics = setup.metrics.clone();
    controllers::start_all(&setup, |name| name == "endpointslice-controller");
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
    counted(
        &metrics,
        &[
            "endpoint_slice_controller_endpoints_desired 1",
            "endpoint_slice_controller_num_endpoint_slices 1",
            "endpoint_slice_controller_desired_endpoint_slices 1",
            "endpoint_slice_controller_changes{operation=\"create\"} 1",
            "endpoint_slice_controller_endpoints_added_per_sync_sum 1.0",
        ],
    );
    let services = Resource::built_in("", "services");
    cluster.client.delete(&services, "default", "web", &Default::default()).await.unwrap();
    cluster
        .eventually("nothing is counted of a service that is gone", async |_| {
            let text = told(&metrics);
            text.contains("\nendpoint_slice_controller_endpoints_desired 0\n").then_some(())
        })
        .await;
}

fn told(metrics: &controllers::Metrics) -> String {
    let mut registry = prometheus_client::registry::Registry::default();
    metrics.register(&mut registry);
    component_base::metrics::text(&registry)
}

fn counted(metrics: &controllers::Metrics, lines: &[&str]) {
    let text = told(metrics);
    for line in lines {
        let name = line.split(['{', ' ']).next().unwrap();
        let of_name: Vec<&str> = text.lines().filter(|it| it.starts_with(name)).collect();
        assert!(of_name.contains(line), "{line}: {of_name:#?}");
    }
}

/// Nodes in two zones, and a pod in each.
async fn two_zones(cluster: &test_cluster::TestCluster) {
    for (name, zone) in [("n1", "a"), ("n2", "b")] {
        let node = value!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}});
        cluster.create("", "nodes", node).await;
        let status = value!({"status": {"allocatable": {"cpu": "2"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let nodes = Resource::built_in("", "nodes");
        cluster.client.patch(&nodes, "", name, "status", PatchKind::Merge, &status).await.unwrap();
    }
    for (name, node, ip) in [("p1", "n1", "10.0.0.1"), ("p2", "n2", "10.0.0.2")] {
        let pod = value!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        cluster.create("", "pods", pod).await;
        let status = value!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let pods = Resource::built_in("", "pods");
        let patched =
            cluster.client.patch(&pods, "default", name, "status", PatchKind::Merge, &status);
        patched.await.unwrap();
    }
}

/// Waits until the endpoints of the only slice are for these zones.
async fn hinted(cluster: &test_cluster::TestCluster, expected: &str) -> String {
    cluster
        .eventually(expected, async |it| {
            let slices = it.list("discovery.k8s.io", "endpointslices", "default").await;
            let slice = slices.first()?;
            let mut hints: Vec<String> = slice
                .items_at(&["endpoints"])
                .iter()
                .map(|it| {
                    let zones = it.items_at(&["hints", "forZones"]);
                    let hint = zones.first().map_or("-", |it| it.str_at(&["name"]));
                    format!("{}:{hint}", it.str_at(&["nodeName"]))
                })
                .collect();
            hints.sort();
            let version = slice.str_at(&["metadata", "resourceVersion"]).to_owned();
            (hints.join(" ") == expected).then_some(version)
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn hints_follow_the_sizes_of_zones() {
    let cluster = cluster(&["endpointslice-controller"]).await;
    two_zones(&cluster).await;
    let service = value!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default",
            "annotations": {"service.kubernetes.io/topology-mode": "Auto"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP"}]}});
    cluster.create("", "services", service).await;
    let version = hinted(&cluster, "n1:a n2:b").await;
    // A look that changes nothing writes nothing.
    let nodes = Resource::built_in("", "nodes");
    let grown = value!({"status": {"allocatable": {"cpu": "2100m"}}});
    cluster.client.patch(&nodes, "", "n1", "status", PatchKind::Merge, &grown).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(hinted(&cluster, "n1:a n2:b").await, version);
    // One zone has nearly everything: two endpoints cannot be shared out.
    let grown = value!({"status": {"allocatable": {"cpu": "64"}}});
    cluster.client.patch(&nodes, "", "n1", "status", PatchKind::Merge, &grown).await.unwrap();
    hinted(&cluster, "n1:- n2:-").await;
    let messages = cluster
        .eventually("events", async |it| {
            let events = it.list("", "events", "default").await;
            let messages: Vec<String> =
                events.iter().map(|it| it.str_at(&["message"]).to_owned()).collect();
            (messages.len() >= 2).then_some(messages)
        })
        .await;
    for expected in [
        "Topology Aware Hints has been enabled, addressType: IPv4",
        "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (2 endpoints, 2 zones), addressType: IPv4",
    ] {
        assert!(messages.iter().any(|it| it == expected), "{expected}: {messages:?}");
    }
}
