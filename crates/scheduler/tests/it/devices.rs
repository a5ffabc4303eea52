//! Pods with resource claims on a real API server, in virtual time. Claims of templates are made by hand here.

use apimachinery::{Value, value};
use client::Resource;
use client::call::{DeleteParams, PatchKind};
use test_cluster::TestCluster;

use crate::cluster::{configured, event, node, on_node, pod, refused};

const GROUP: &str = "resource.k8s.io";
const DEFAULT: &str =
    "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration";

async fn cluster(config: &str) -> TestCluster {
    let cluster = configured(config, &[]).await;
    let class = value!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "gpu"},
        "spec": {"selectors": [{"cel": {"expression": "device.driver == 'gpu.example.com'"}}]}});
    cluster.create(GROUP, "deviceclasses", class).await;
    cluster
}

/// A slice of a node's devices; its pool is called as the node.
fn slice(node: &str, devices: &[Value]) -> Value {
    let mut slice = value!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": node},
        "spec": {"driver": "gpu.example.com", "nodeName": node, "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}});
    slice.set_at(&["spec", "devices"], Value::Array(devices.to_vec()));
    slice
}

fn device(name: &str) -> Value {
    value!({"name": name})
}

fn claim(name: &str, count: i64) -> Value {
    value!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name, "namespace": "default"},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "count": count}}]}}})
}

fn using(name: &str, claim: &str) -> Value {
    let mut pod = pod(name, "1", 0);
    let claims = value!([{"name": "c", "resourceClaimName": claim}]);
    pod.set_at(&["spec", "resourceClaims"], claims);
    pod
}

async fn given(cluster: &TestCluster, name: &str, holders: usize) -> Value {
    let what = format!("claim {name} is had by {holders}");
    let found = cluster.eventually(&what, async |it| {
        let claim = it.get(GROUP, "resourceclaims", "default", name).await?;
        (claim.items_at(&["status", "reservedFor"]).len() == holders).then_some(claim)
    });
    found.await
}

fn devices_of(claim: &Value) -> Vec<&str> {
    let results = claim.items_at(&["status", "allocation", "devices", "results"]).iter();
    results.map(|it| it.str_at(&["device"])).collect()
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_the_devices_it_claims_and_the_node_that_has_them() {
    let cluster = cluster(DEFAULT).await;
    for name in ["n1", "n2"] {
        node(&cluster, name, "8").await;
    }
    cluster.create(GROUP, "resourceslices", slice("n2", &[device("a"), device("b")])).await;
    for name in ["x", "y"] {
        cluster.create(GROUP, "resourceclaims", claim(name, 1)).await;
        cluster.create("", "pods", using(name, name)).await;
    }
    for name in ["x", "y"] {
        assert_eq!(on_node(&cluster, name).await, "n2");
    }
    let (x, y) = (given(&cluster, "x", 1).await, given(&cluster, "y", 1).await);
    let mut all = [devices_of(&x), devices_of(&y)].concat();
    all.sort_unstable();
    assert_eq!(all, ["a", "b"]);
    assert_eq!(
        x.items_at(&["metadata", "finalizers"]),
        [Value::from("resource.kubernetes.io/delete-protection")]
    );
    assert!(!x.str_at(&["status", "allocation", "allocationTimestamp"]).is_empty());
    let pod = cluster.get("", "pods", "default", "x").await.unwrap();
    let consumer = &x.items_at(&["status", "reservedFor"])[0];
    assert_eq!(consumer.str_at(&["uid"]), pod.str_at(&["metadata", "uid"]));
    let term = &x.items_at(&["status", "allocation", "nodeSelector", "nodeSelectorTerms"])[0];
    assert_eq!(term.items_at(&["matchFields"])[0].items_at(&["values"]), [Value::from("n2")]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_devices_that_others_have() {
    let cluster = cluster(DEFAULT).await;
    node(&cluster, "n1", "8").await;
    cluster.create(GROUP, "resourceslices", slice("n1", &[device("a")])).await;
    for name in ["first", "second"] {
        cluster.create(GROUP, "resourceclaims", claim(name, 1)).await;
    }
    cluster.create("", "pods", using("first", "first")).await;
    on_node(&cluster, "first").await;
    cluster.create("", "pods", using("second", "second")).await;
    let (reason, message) = refused(&cluster, "second").await;
    assert_eq!(reason, "Unschedulable");
    assert_eq!(
        message,
        "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    let claims = Resource::built_in(GROUP, "resourceclaims");
    let patch = value!({"status": {"allocation": null, "reservedFor": null}});
    let kind = PatchKind::Merge;
    cluster.client.patch(&claims, "default", "first", "status", kind, &patch).await.unwrap();
    assert_eq!(on_node(&cluster, "second").await, "n1");
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_shared_and_ties_its_pods_to_a_node() {
    let cluster = cluster(DEFAULT).await;
    for name in ["n1", "n2"] {
        node(&cluster, name, "8").await;
    }
    cluster.create(GROUP, "resourceslices", slice("n1", &[device("a")])).await;
    cluster.create(GROUP, "resourceclaims", claim("c", 1)).await;
    for name in ["p1", "p2", "p3"] {
        cluster.create("", "pods", using(name, "c")).await;
    }
    for name in ["p1", "p2", "p3"] {
        assert_eq!(on_node(&cluster, name).await, "n1");
    }
    given(&cluster, "c", 3).await;
    let mut elsewhere = using("elsewhere", "c");
    elsewhere.set_at(&["spec", "nodeSelector"], value!({"kubernetes.io/hostname": "n2"}));
    let nodes = Resource::built_in("", "nodes");
    let label = value!({"metadata": {"labels": {"kubernetes.io/hostname": "n2"}}});
    cluster.client.patch(&nodes, "", "n2", "", PatchKind::Merge, &label).await.unwrap();
    cluster.create("", "pods", elsewhere).await;
    let (_, message) = refused(&cluster, "elsewhere").await;
    let expected = "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 resourceclaim not available on the node.";
    assert!(message.starts_with(expected), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_not_tried_before_its_claims_are_there() {
    let cluster = cluster(DEFAULT).await;
    node(&cluster, "n1", "8").await;
    cluster.create(GROUP, "resourceslices", slice("n1", &[device("a")])).await;
    let mut waiting = pod("waiting", "1", 0);
    let claims = value!([{"name": "c", "resourceClaimTemplateName": "t"}]);
    waiting.set_at(&["spec", "resourceClaims"], claims);
    let waiting = cluster.create("", "pods", waiting).await;
    let uid = waiting.str_at(&["metadata", "uid"]);
    let mut claim = claim("made", 1);
    let owner = value!([{"apiVersion": "v1", "kind": "Pod", "name": "waiting", "uid": uid, "controller": true}]);
    claim.set_at(&["metadata", "ownerReferences"], owner);
    cluster.create(GROUP, "resourceclaims", claim).await;
    // Nothing but the pod's status says which claim is its own.
    cluster.create("", "pods", pod("after", "1", 0)).await;
    on_node(&cluster, "after").await;
    let pod = cluster.get("", "pods", "default", "waiting").await.unwrap();
    assert!(pod.items_at(&["status", "conditions"]).is_empty(), "it was not tried");
    let pods = Resource::built_in("", "pods");
    let status =
        value!({"status": {"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "made"}]}});
    let kind = PatchKind::Strategic;
    cluster.client.patch(&pods, "default", "waiting", "status", kind, &status).await.unwrap();
    assert_eq!(on_node(&cluster, "waiting").await, "n1");
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_until_its_devices_are_ready() {
    let cluster = cluster(DEFAULT).await;
    node(&cluster, "n1", "8").await;
    let mut fabric = device("a");
    fabric.set_at(&["bindingConditions"], value!(["Attached"]));
    fabric.set_at(&["bindingFailureConditions"], value!(["Broken"]));
    cluster.create(GROUP, "resourceslices", slice("n1", &[fabric])).await;
    cluster.create(GROUP, "resourceclaims", claim("c", 1)).await;
    cluster.create("", "pods", using("p", "c")).await;
    let message = event(&cluster, "p", "BindingConditionsPending").await;
    assert_eq!(message, "waiting for binding conditions for device on node n1");
    given(&cluster, "c", 1).await;
    let claims = Resource::built_in(GROUP, "resourceclaims");
    let condition = value!({"type": "Attached", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = value!({"status": {"devices": [{"driver": "gpu.example.com", "pool": "n1", "device": "a", "conditions": [condition]}]}});
    let kind = PatchKind::Merge;
    cluster.client.patch(&claims, "default", "c", "status", kind, &status).await.unwrap();
    assert_eq!(on_node(&cluster, "p").await, "n1");
}

#[tokio::test(start_paused = true)]
async fn devices_that_never_get_ready_are_given_back_and_others_tried() {
    let short = format!(
        "{DEFAULT}\nprofiles:\n- pluginConfig:\n  - name: DynamicResources\n    args:\n      bindingTimeout: 30s\n"
    );
    let cluster = cluster(&short).await;
    node(&cluster, "n1", "8").await;
    let mut fabric = device("a");
    fabric.set_at(&["bindingConditions"], value!(["Attached"]));
    fabric.set_at(&["bindingFailureConditions"], value!(["Broken"]));
    cluster.create(GROUP, "resourceslices", slice("n1", &[fabric])).await;
    cluster.create(GROUP, "resourceclaims", claim("c", 1)).await;
    cluster.create("", "pods", using("p", "c")).await;
    let (reason, message) = refused(&cluster, "p").await;
    assert_eq!(reason, "SchedulerError");
    assert!(message.starts_with("running PreBind plugin \"DynamicResources\": "), "{message}");
    assert!(message.contains("binding timeout"), "{message}");
    node(&cluster, "n2", "8").await;
    cluster.create(GROUP, "resourceslices", slice("n2", &[device("b")])).await;
    let slices = Resource::built_in(GROUP, "resourceslices");
    let params = DeleteParams::default();
    cluster.client.delete(&slices, "", "n1", &params).await.unwrap();
    assert_eq!(on_node(&cluster, "p").await, "n2");
    assert_eq!(devices_of(&given(&cluster, "c", 1).await), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_taints_a_device_keeps_new_pods_away() {
    let cluster = cluster(DEFAULT).await;
    node(&cluster, "n1", "8").await;
    cluster.create(GROUP, "resourceslices", slice("n1", &[device("a"), device("b")])).await;
    let rule = value!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceTaintRule", "metadata": {"name": "r"},
        "spec": {"deviceSelector": {"device": "a"}, "taint": {"key": "broken", "effect": "NoSchedule"}}});
    cluster.create(GROUP, "devicetaintrules", rule).await;
    cluster.create(GROUP, "resourceclaims", claim("c", 1)).await;
    cluster.create("", "pods", using("p", "c")).await;
    on_node(&cluster, "p").await;
    assert_eq!(devices_of(&given(&cluster, "c", 1).await), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn nodes_where_better_alternatives_are_free_are_better() {
    let cluster = cluster(DEFAULT).await;
    for name in ["n1", "n2", "n3"] {
        node(&cluster, name, "8").await;
    }
    cluster.create(GROUP, "resourceslices", slice("n1", &[device("a")])).await;
    cluster.create(GROUP, "resourceslices", slice("n2", &[device("a"), device("b")])).await;
    cluster.create(GROUP, "resourceslices", slice("n3", &[device("a")])).await;
    let way =
        |name: &str, count: i64| value!({"name": name, "deviceClassName": "gpu", "count": count});
    let mut claim = claim("c", 1);
    let requests = value!([{"name": "r", "firstAvailable": [(way("two", 2)), (way("one", 1))]}]);
    claim.set_at(&["spec", "devices", "requests"], requests);
    cluster.create(GROUP, "resourceclaims", claim).await;
    cluster.create("", "pods", using("p", "c")).await;
    assert_eq!(on_node(&cluster, "p").await, "n2");
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_fails_is_told_and_tried_again() {
    let cluster = cluster(DEFAULT).await;
    node(&cluster, "n1", "8").await;
    cluster.create(GROUP, "resourceslices", slice("n1", &[device("a")])).await;
    let mut claim = claim("c", 1);
    let selector = value!([{"cel": {"expression": "device.attributes['gpu.example.com'].nope"}}]);
    claim.items_at_mut(&["spec", "devices", "requests"])[0]
        .set_at(&["exactly", "selectors"], selector);
    cluster.create(GROUP, "resourceclaims", claim).await;
    cluster.create("", "pods", using("p", "c")).await;
    let (reason, message) = refused(&cluster, "p").await;
    assert_eq!(reason, "SchedulerError");
    assert_eq!(
        message,
        "running \"DynamicResources\" filter plugin: claim default/c: selector #0 on device gpu.example.com/n1/a: \
         CEL runtime error: no such key: nope"
    );
}

/// A pod whose container asks for so much of a resource.
fn asking(name: &str, resource: &str, count: &str) -> Value {
    let mut pod = pod(name, "1", 0);
    let mut containers = pod.items_at(&["spec", "containers"]).to_vec();
    for list in ["requests", "limits"] {
        containers[0].set_at(&["resources", list, resource], count);
    }
    pod.set_at(&["spec", "containers"], Value::Array(containers));
    pod
}

async fn serve(cluster: &TestCluster, resource: &str) {
    let classes = Resource::built_in(GROUP, "deviceclasses");
    let patch = value!({"spec": {"extendedResourceName": resource}});
    cluster.client.patch(&classes, "", "gpu", "", PatchKind::Merge, &patch).await.unwrap();
}

/// The claim that a pod's status says was made for its extended resources.
async fn made_for(cluster: &TestCluster, pod: &str) -> Value {
    let what = format!("{pod} says which claim it has");
    let found = cluster.eventually(&what, async |it| {
        let pod = it.get("", "pods", "default", pod).await?;
        let claim = ["status", "extendedResourceClaimStatus", "resourceClaimName"];
        it.get(GROUP, "resourceclaims", "default", pod.str_at(&claim)).await
    });
    found.await
}

#[tokio::test(start_paused = true)]
async fn devices_serve_what_a_pod_asks_for_by_the_name_of_a_resource() {
    let cluster = cluster(DEFAULT).await;
    node(&cluster, "n1", "8").await;
    cluster.create(GROUP, "resourceslices", slice("n1", &[device("a"), device("b")])).await;
    cluster.create("", "pods", asking("p", "example.com/gpu", "2")).await;
    let (_, message) = refused(&cluster, "p").await;
    assert!(message.contains("1 Insufficient example.com/gpu"), "{message}");
    serve(&cluster, "example.com/gpu").await;
    assert_eq!(on_node(&cluster, "p").await, "n1");
    let claim = made_for(&cluster, "p").await;
    assert_eq!(devices_of(&claim), ["a", "b"]);
    let name = claim.str_at(&["metadata", "name"]);
    assert!(name.starts_with("p-extended-resources-"), "{name}");
    let annotation = ["metadata", "annotations", "resource.kubernetes.io/extended-resource-claim"];
    assert_eq!(claim.str_at(&annotation), "true");
    let pod = cluster.get("", "pods", "default", "p").await.unwrap();
    let uid = pod.str_at(&["metadata", "uid"]);
    assert_eq!(claim.items_at(&["metadata", "ownerReferences"])[0].str_at(&["uid"]), uid);
    assert_eq!(claim.items_at(&["status", "reservedFor"])[0].str_at(&["uid"]), uid);
    let mapping = &pod.items_at(&["status", "extendedResourceClaimStatus", "requestMappings"])[0];
    assert_eq!(mapping.str_at(&["requestName"]), "container-0-request-1");
    assert_eq!(mapping.str_at(&["resourceName"]), "example.com/gpu");
    // None are left, by whichever name.
    let implicit = "deviceclass.resource.kubernetes.io/gpu";
    cluster.create("", "pods", asking("q", implicit, "1")).await;
    let (_, message) = refused(&cluster, "q").await;
    assert!(message.contains("1 cannot allocate all claims"), "{message}");
    cluster.create(GROUP, "resourceslices", slice("n2", &[device("c")])).await;
    node(&cluster, "n2", "8").await;
    assert_eq!(on_node(&cluster, "q").await, "n2");
    assert_eq!(devices_of(&made_for(&cluster, "q").await), ["c"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_a_resource_itself_needs_no_devices() {
    let cluster = cluster(DEFAULT).await;
    serve(&cluster, "example.com/gpu").await;
    node(&cluster, "n1", "8").await;
    let has = value!({"status": {"capacity": {"example.com/gpu": "1"}, "allocatable": {"example.com/gpu": "1"}}});
    crate::cluster::patch(&cluster, "nodes", "n1", "status", has).await;
    cluster.create("", "pods", asking("p", "example.com/gpu", "1")).await;
    assert_eq!(on_node(&cluster, "p").await, "n1");
    assert_eq!(cluster.list(GROUP, "resourceclaims", "default").await.len(), 0);
    cluster.create("", "pods", asking("q", "example.com/gpu", "1")).await;
    let (_, message) = refused(&cluster, "q").await;
    assert!(message.contains("1 Insufficient example.com/gpu"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_made_in_vain_goes_before_the_pod_is_tried_again() {
    let cluster = cluster(DEFAULT).await;
    serve(&cluster, "example.com/gpu").await;
    let waiting = asking("p", "example.com/gpu", "1");
    let waiting = cluster.create("", "pods", waiting).await;
    let uid = waiting.str_at(&["metadata", "uid"]);
    let mut left = claim("left", 1);
    left.set_at(
        &["metadata", "annotations"],
        value!({"resource.kubernetes.io/extended-resource-claim": "true"}),
    );
    left.set_at(
        &["metadata", "ownerReferences"],
        value!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]),
    );
    cluster.create(GROUP, "resourceclaims", left).await;
    cluster.create(GROUP, "resourceslices", slice("n1", &[device("a")])).await;
    node(&cluster, "n1", "8").await;
    assert_eq!(on_node(&cluster, "p").await, "n1");
    assert!(cluster.get(GROUP, "resourceclaims", "default", "left").await.is_none());
    assert_eq!(devices_of(&made_for(&cluster, "p").await), ["a"]);
}
