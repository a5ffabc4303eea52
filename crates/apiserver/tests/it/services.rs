//! Addresses and ports of services: given once, whoever asks, and nobody's again when the service is gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use apimachinery::{Value, value};
use apiserver::allocate::{ServiceRange, repair};
use storage::{At, Expect, Key};

use crate::cluster::{Cluster, With, admin, memory};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const BITMAP: &str = "/registry/ranges/servicenodeports";

fn service(name: &str, spec: &Value) -> Value {
    let mut service = value!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}]}});
    for (key, value) in spec.as_object().unwrap().iter() {
        service.set_at(&["spec", key], value.clone());
    }
    service
}

async fn create(cluster: &Cluster, name: &str, spec: &Value) -> (u16, Value) {
    cluster.send(&admin(), &format!("POST {SERVICES}"), Some(&service(name, spec))).await
}

async fn get(cluster: &Cluster, path: &str) -> (u16, Value) {
    cluster.send(&admin(), &format!("GET {path}"), None).await
}

async fn delete(cluster: &Cluster, path: &str) -> u16 {
    cluster.send(&admin(), &format!("DELETE {path}"), None).await.0
}

/// Which addresses are whose.
async fn addresses(cluster: &Cluster) -> BTreeSet<String> {
    cluster.server.hub().catch_up().await.unwrap();
    let list = get(cluster, ADDRESSES).await.1;
    let of = |it: &Value| {
        let parent = |member| it.str_at(&["spec", "parentRef", member]);
        format!("{} {}/{}", it.str_at(&["metadata", "name"]), parent("namespace"), parent("name"))
    };
    list.items_at(&["items"]).iter().map(of).collect()
}

fn node_port(service: &Value) -> Option<i64> {
    service.items_at(&["spec", "ports"])[0].i64_at(&["nodePort"])
}

fn set<const N: usize>(all: [&str; N]) -> BTreeSet<String> {
    all.map(str::to_owned).into()
}

const KUBERNETES: &str = "10.96.0.1 default/kubernetes";

#[tokio::test]
async fn each_address_of_a_service_is_an_object_as_long_as_the_service_has_it() {
    let cluster = Cluster::start().await;
    assert_eq!(addresses(&cluster).await, set([KUBERNETES]));
    let (code, made) = create(&cluster, "a", &value!({"clusterIP": "10.96.0.7"})).await;
    assert_eq!((code, made.str_at(&["spec", "clusterIP"])), (201, "10.96.0.7"));
    let (code, address) = get(&cluster, &format!("{ADDRESSES}/10.96.0.7")).await;
    assert_eq!(code, 200);
    assert_eq!(
        address["metadata"]["labels"],
        value!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    assert_eq!(
        address["spec"],
        value!({"parentRef": {"resource": "services", "namespace": "default", "name": "a"}})
    );
    // What cannot be had, and what fails later, leaves nothing behind.
    let (code, refused) = create(&cluster, "b", &value!({"clusterIP": "10.96.0.7"})).await;
    assert_eq!(
        (code, refused.str_at(&["message"])),
        (
            422,
            "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.7\"]: failed to allocate IP 10.96.0.7: provided IP is already allocated"
        )
    );
    let (code, refused) = create(&cluster, "b", &value!({"clusterIP": "10.1.0.7"})).await;
    assert_eq!(code, 422);
    let why =
        "failed to allocate IP 10.1.0.7: the provided network does not match the current range";
    assert!(refused.str_at(&["message"]).ends_with(why), "{refused:?}");
    assert_eq!(create(&cluster, "a", &value!({})).await.0, 409);
    assert_eq!(addresses(&cluster).await, set([KUBERNETES, "10.96.0.7 default/a"]));
    // What only could be is as upstream's: nobody's.
    let body = service("c", &value!({"type": "NodePort"}));
    let dry = cluster.send(&admin(), &format!("POST {SERVICES}?dryRun=All"), Some(&body)).await;
    assert_eq!(dry.1.str_at(&["spec", "clusterIP"]), "10.96.0.0");
    assert_eq!(node_port(&dry.1), Some(32_769));
    // A service that is elsewhere has none, and one that comes back gets another.
    let external = value!({"spec": {"type": "ExternalName", "externalName": "x.io", "clusterIP": null, "clusterIPs": null}});
    let changed = cluster.send(&admin(), &format!("PATCH {SERVICES}/a"), Some(&external)).await;
    assert_eq!(changed.0, 200, "{changed:?}");
    assert_eq!(addresses(&cluster).await, set([KUBERNETES]));
    let back = value!({"spec": {"type": "ClusterIP", "externalName": null}});
    let changed = cluster.send(&admin(), &format!("PATCH {SERVICES}/a"), Some(&back)).await;
    assert_eq!(changed.0, 200, "{changed:?}");
    assert_eq!(addresses(&cluster).await.len(), 2);
    assert_eq!(delete(&cluster, &format!("{SERVICES}/a")).await, 200);
    assert_eq!(addresses(&cluster).await, set([KUBERNETES]));
}

#[tokio::test]
async fn addresses_come_from_every_range_that_is_ready() {
    let with = With {
        service_range: Some(ServiceRange::new([10, 0, 0, 0].into(), 29)),
        ..With::default()
    };
    let cluster = Cluster::start_changed(with).await;
    let all = async |from: usize, until: usize| {
        for n in from..until {
            let (code, made) = create(&cluster, &format!("s{n}"), &value!({})).await;
            assert_eq!(code, 201, "{made:?}");
            cluster.server.hub().catch_up().await.unwrap();
        }
    };
    // Six addresses, of which one is the server's.
    all(0, 5).await;
    let (code, full) = create(&cluster, "s5", &value!({})).await;
    let why = "Internal error occurred: failed to allocate a serviceIP: range is full";
    assert_eq!((code, full.str_at(&["message"])), (500, why));
    let more = value!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "more"}, "spec": {"cidrs": ["10.7.0.0/29"]}});
    assert_eq!(cluster.send(&admin(), &format!("POST {CIDRS}"), Some(&more)).await.0, 201);
    cluster.server.hub().catch_up().await.unwrap();
    all(5, 8).await;
    let given = addresses(&cluster).await;
    assert_eq!(given.iter().filter(|it| it.starts_with("10.7.0.")).count(), 3, "{given:?}");
    // What is not ready gives none.
    let status = value!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Terminating",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let told = cluster.send(&admin(), &format!("PATCH {CIDRS}/more/status"), Some(&status)).await;
    assert_eq!(told.0, 200, "{told:?}");
    cluster.server.hub().catch_up().await.unwrap();
    assert_eq!(create(&cluster, "s9", &value!({})).await.0, 500);
}

#[tokio::test]
async fn two_servers_on_one_store_give_nothing_twice() {
    let store = memory();
    let range = || Some(ServiceRange::new([10, 0, 0, 0].into(), 25));
    let with = || With { shares_store: true, service_range: range(), ..With::default() };
    let one = Cluster::on(Arc::clone(&store), with()).await;
    let other = Cluster::on(Arc::clone(&store), with()).await;
    let spec = value!({"type": "NodePort"});
    let create_all = async |cluster: &Cluster, prefix: &str| {
        let names = (0..60).map(|n| format!("{prefix}{n}"));
        let all = names.map(|name| async {
            let name = name;
            create(cluster, &name, &spec).await
        });
        futures::future::join_all(all).await
    };
    let made = tokio::join!(create_all(&one, "a"), create_all(&other, "b"));
    let made: Vec<Value> = made
        .0
        .into_iter()
        .chain(made.1)
        .map(|(code, it)| {
            assert_eq!(code, 201, "{it:?}");
            it
        })
        .collect();
    let ips: BTreeSet<&str> = made.iter().map(|it| it.str_at(&["spec", "clusterIP"])).collect();
    let ports: BTreeSet<_> = made.iter().map(|it| node_port(it).unwrap()).collect();
    assert_eq!((ips.len(), ports.len()), (120, 120));
    // What one server has given the other refuses, and gives once it is free again.
    let port = *ports.first().unwrap();
    let same = value!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    assert_eq!(create(&other, "late", &same).await.0, 422);
    let owner = made.iter().find(|it| node_port(it) == Some(port));
    let name = owner.unwrap().str_at(&["metadata", "name"]);
    assert_eq!(delete(&one, &format!("{SERVICES}/{name}")).await, 200);
    let (code, made) = create(&other, "late", &same).await;
    assert_eq!(code, 201, "{made:?}");
    let (bitmap, _) = store.get(&Key::from(BITMAP), At::Latest).await.unwrap();
    let bitmap = apimachinery::json::parse(&bitmap.unwrap().value).unwrap();
    assert_eq!(bitmap.str_at(&["range"]), "30000-32767");
}

#[tokio::test]
async fn a_cluster_of_two_families_gives_addresses_of_both() {
    let ranges = ["10.0.0.0/24", "fd00::/112"].map(|it| it.parse().unwrap());
    let with = With { service_range: Some(ServiceRange::of(&ranges).unwrap()), ..With::default() };
    let cluster = Cluster::start_changed(with).await;
    let (code, made) = create(&cluster, "a", &value!({"ipFamilyPolicy": "RequireDualStack"})).await;
    assert_eq!(code, 201, "{made:?}");
    assert_eq!(made["spec"]["ipFamilies"], value!(["IPv4", "IPv6"]));
    let ips: Vec<&str> =
        made.items_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str).collect();
    assert!(ips[0].starts_with("10.0.0.") && ips[1].starts_with("fd00::"), "{ips:?}");
    assert_eq!(made.str_at(&["spec", "clusterIP"]), ips[0]);
    assert_eq!(addresses(&cluster).await.len(), 3);
    let patch = async |patch: Value| {
        let patched = cluster.send(&admin(), &format!("PATCH {SERVICES}/a"), Some(&patch)).await;
        (patched.0, patched.1.items_at(&["spec", "clusterIPs"]).len(), patched.1)
    };
    let (code, count, answer) = patch(value!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await;
    assert_eq!((code, count), (200, 1), "{answer:?}");
    assert_eq!(addresses(&cluster).await.len(), 2);
    let (code, count, answer) =
        patch(value!({"spec": {"ipFamilyPolicy": "PreferDualStack"}})).await;
    assert_eq!((code, count), (200, 2), "{answer:?}");
    assert_eq!(addresses(&cluster).await.len(), 3);
    let (code, _, answer) = patch(value!({"spec": {"ipFamilies": ["IPv6", "IPv4"]}})).await;
    assert_eq!(code, 422, "{answer:?}");
    let (code, six) = create(&cluster, "six", &value!({"ipFamilies": ["IPv6"]})).await;
    assert_eq!(code, 201, "{six:?}");
    assert!(six.str_at(&["spec", "clusterIP"]).starts_with("fd00::"), "{six:?}");
}

#[tokio::test]
async fn what_is_missing_or_left_behind_is_put_right() {
    let cluster = Cluster::start().await;
    let path = |name: &str| format!("{ADDRESSES}/{name}");
    // An address without its object, and one whose service went long ago.
    assert_eq!(create(&cluster, "a", &value!({"clusterIP": "10.96.0.7"})).await.0, 201);
    assert_eq!(delete(&cluster, &path("10.96.0.7")).await, 200);
    let old = value!({"kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": "10.96.0.9", "uid": "u", "creationTimestamp": "2020-01-01T00:00:00Z",
            "labels": {"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}}});
    let bytes = apimachinery::obj::encode(&old).into();
    let key = Key::from("/registry/ipaddresses/10.96.0.9");
    cluster.server.hub().store().put(key, bytes, Expect::Absent, None).await.unwrap();
    cluster.server.hub().catch_up().await.unwrap();
    tokio::spawn(repair::run(Arc::clone(&cluster.server), cluster.stopping()));
    while addresses(&cluster).await != set([KUBERNETES, "10.96.0.7 default/a"]) {
        tokio::task::yield_now().await;
    }
    let reasons = async || {
        let events = get(&cluster, "/apis/events.k8s.io/v1/namespaces/default/events").await.1;
        let of = |it: &Value| it.str_at(&["reason"]).to_owned();
        events.items_at(&["items"]).iter().map(of).collect::<BTreeSet<_>>()
    };
    while reasons().await != set(["ClusterIPNotAllocated", "IPAddressNotAllocated"]) {
        tokio::task::yield_now().await;
    }
    // An object that people take away comes back at once.
    assert_eq!(delete(&cluster, &path("10.96.0.7")).await, 200);
    while get(&cluster, &path("10.96.0.7")).await.0 != 200 {
        tokio::task::yield_now().await;
    }
    // Who comes later finds the ports of nodes in the store.
    while cluster
        .server
        .hub()
        .store()
        .get(&Key::from(BITMAP), At::Latest)
        .await
        .unwrap()
        .0
        .is_none()
    {
        tokio::task::yield_now().await;
    }
}

/// A store of a server before there were objects of addresses, or one that ended between two writes.
#[tokio::test]
async fn a_server_starts_on_a_store_that_lacks_or_has_too_much() {
    let store = memory();
    let cluster = Cluster::on(Arc::clone(&store), With::default()).await;
    assert_eq!(create(&cluster, "a", &value!({"clusterIP": "10.96.0.7"})).await.0, 201);
    drop(cluster);
    for key in ["/registry/ipaddresses/10.96.0.7", "/registry/services/specs/default/kubernetes"] {
        store.delete(Key::from(key), Expect::Any).await.unwrap();
    }
    let cluster = Cluster::on(store, With::default()).await;
    assert_eq!(addresses(&cluster).await, set([KUBERNETES, "10.96.0.7 default/a"]));
    assert_eq!(get(&cluster, &format!("{SERVICES}/kubernetes")).await.0, 200);
}

#[tokio::test]
async fn what_is_given_is_counted() {
    let cluster = Cluster::start().await;
    create(&cluster, "a", &value!({"clusterIP": "10.96.0.7"})).await;
    create(&cluster, "b", &value!({"type": "NodePort"})).await;
    create(&cluster, "c", &value!({"clusterIP": "10.96.0.7"})).await;
    cluster.server.hub().catch_up().await.unwrap();
    let text = get(&cluster, "/metrics").await.1;
    let text = text.as_str().unwrap();
    for line in [
        "kube_apiserver_clusterip_allocator_allocated_ips{cidr=\"10.96.0.0/12\"} 3",
        "kube_apiserver_clusterip_allocator_available_ips{cidr=\"10.96.0.0/12\"} 1048571",
        "kube_apiserver_clusterip_allocator_allocation_total{cidr=\"10.96.0.0/12\",scope=\"static\"} 2",
        "kube_apiserver_clusterip_allocator_allocation_total{cidr=\"10.96.0.0/12\",scope=\"dynamic\"} 1",
        "kube_apiserver_clusterip_allocator_allocation_errors_total{cidr=\"10.96.0.0/12\",scope=\"static\"} 1",
        "kube_apiserver_nodeport_allocator_allocation_total{scope=\"dynamic\"} 1",
        "kube_apiserver_nodeport_allocator_allocated_ports 1",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}");
    }
}
