//! Resource claims and tainted devices on a real API server. Devices are given by hand here; the scheduler's tests give them.

use apimachinery::{Value, value};
use client::Resource;
use client::call::{DeleteParams, PatchKind};
use test_cluster::TestCluster;

use crate::cluster;

const GROUP: &str = "resource.k8s.io";
const CONTROLLERS: &[&str] = &["resourceclaim-controller", "device-taint-eviction-controller"];

fn pod(name: &str) -> Value {
    value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "n1", "resourceClaims": [{"name": "c", "resourceClaimTemplateName": "t"}],
            "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "c"}]}}]}})
}

async fn template(cluster: &TestCluster) {
    let template = value!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "t", "namespace": "default"},
        "spec": {"metadata": {"labels": {"x": "y"}}, "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}}});
    cluster.create(GROUP, "resourceclaimtemplates", template).await;
}

/// The claim that was made for a pod, once the pod says so.
async fn claim_of(cluster: &TestCluster, pod: &str) -> Value {
    let what = format!("{pod} has its claim");
    let found = cluster.eventually(&what, async |it| {
        let pod = it.get("", "pods", "default", pod).await?;
        let status = pod.items_at(&["status", "resourceClaimStatuses"]).first().cloned()?;
        it.get(GROUP, "resourceclaims", "default", status.str_at(&["resourceClaimName"])).await
    });
    found.await
}

/// Gives a claim a device, as the scheduler would.
async fn give(cluster: &TestCluster, claim: &Value, pod: &str, tolerations: Value) {
    let claims = Resource::built_in(GROUP, "resourceclaims");
    let name = claim.str_at(&["metadata", "name"]);
    let patch = value!({"metadata": {"finalizers": ["resource.kubernetes.io/delete-protection"]}});
    cluster.client.patch(&claims, "default", name, "", PatchKind::Merge, &patch).await.unwrap();
    let pod = cluster.get("", "pods", "default", pod).await.unwrap();
    let (pod, uid) = (pod.str_at(&["metadata", "name"]), pod.str_at(&["metadata", "uid"]));
    let mut given = value!({"request": "r", "driver": "d", "pool": "p", "device": "x"});
    given.set_at(&["tolerations"], tolerations);
    let status = value!({"status": {"allocation": {"devices": {"results": [given]}},
        "reservedFor": [{"resource": "pods", "name": pod, "uid": uid}]}});
    let kind = PatchKind::Merge;
    cluster.client.patch(&claims, "default", name, "status", kind, &status).await.unwrap();
}

async fn gone(cluster: &TestCluster, group: &str, plural: &str, name: &str) {
    cluster
        .eventually(&format!("{name} is gone"), async |it| {
            it.get(group, plural, "default", name).await.is_none().then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_a_template_lives_as_long_as_its_pod_needs_it() {
    let cluster = cluster(CONTROLLERS).await;
    cluster.create("", "pods", pod("p")).await;
    let told = cluster.eventually("the event", async |it| {
        let events = it.list("", "events", "default").await;
        let failed = |it: &&Value| it.str_at(&["reason"]) == "FailedResourceClaimCreation";
        Some(events.iter().find(failed)?.str_at(&["message"]).to_owned())
    });
    assert_eq!(
        told.await,
        "PodResourceClaim c: resource claim template \"t\": resourceclaimtemplate.resource.k8s.io \"t\" not found"
    );
    template(&cluster).await;
    let claim = claim_of(&cluster, "p").await;
    let name = claim.str_at(&["metadata", "name"]);
    assert!(name.starts_with("p-c-"), "{name}");
    assert_eq!(claim.str_at(&["metadata", "labels", "x"]), "y");
    let annotation = ["metadata", "annotations", "resource.kubernetes.io/pod-claim-name"];
    assert_eq!(claim.str_at(&annotation), "c");
    give(&cluster, &claim, "p", Value::Null).await;
    let pods = Resource::built_in("", "pods");
    let over = value!({"status": {"phase": "Succeeded"}});
    let kind = PatchKind::Merge;
    cluster.client.patch(&pods, "default", "p", "status", kind, &over).await.unwrap();
    gone(&cluster, GROUP, "resourceclaims", name).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_for_extended_resources_goes_with_its_pod() {
    let cluster = cluster(CONTROLLERS).await;
    let mut plain = pod("p");
    plain.remove_at(&["spec", "resourceClaims"]);
    let one = value!({"x.io/gpu": "1"});
    let resources = value!({"requests": (one.clone()), "limits": (one)});
    let container = value!({"name": "c", "image": "i", "resources": (resources)});
    plain.set_at(&["spec", "containers"], vec![container]);
    let made = cluster.create("", "pods", plain).await;
    let owner = value!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": (made.str_at(&["metadata", "uid"])), "controller": true});
    let claim = value!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": "x", "namespace": "default", "ownerReferences": [owner],
            "annotations": {"resource.kubernetes.io/extended-resource-claim": "true"}},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
    let claim = cluster.create(GROUP, "resourceclaims", claim).await;
    give(&cluster, &claim, "p", Value::Null).await;
    let pods = Resource::built_in("", "pods");
    for status in [
        value!({"extendedResourceClaimStatus": {"resourceClaimName": "x", "requestMappings":
            [{"containerName": "c", "resourceName": "x.io/gpu", "requestName": "r"}]}}),
        value!({"phase": "Succeeded"}),
    ] {
        let patch = value!({"status": status});
        let kind = PatchKind::Merge;
        cluster.client.patch(&pods, "default", "p", "status", kind, &patch).await.unwrap();
    }
    gone(&cluster, GROUP, "resourceclaims", "x").await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_claim_gives_back_its_devices_with_the_last_pod() {
    let cluster = cluster(CONTROLLERS).await;
    let claim = value!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "c", "namespace": "default"},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
    let claim = cluster.create(GROUP, "resourceclaims", claim).await;
    let mut pod = pod("p");
    pod.set_at(&["spec", "resourceClaims"], value!([{"name": "c", "resourceClaimName": "c"}]));
    cluster.create("", "pods", pod).await;
    give(&cluster, &claim, "p", Value::Null).await;
    let pods = Resource::built_in("", "pods");
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.client.delete(&pods, "default", "p", &now).await.unwrap();
    cluster
        .eventually("the claim is free", async |it| {
            let claim = it.get(GROUP, "resourceclaims", "default", "c").await?;
            let free = claim.items_at(&["status", "reservedFor"]).is_empty()
                && claim.at(&["status", "allocation"]).is_none()
                && claim.items_at(&["metadata", "finalizers"]).is_empty();
            free.then_some(())
        })
        .await;
}

fn rule(effect: &str) -> Value {
    value!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceTaintRule", "metadata": {"name": "r"},
        "spec": {"deviceSelector": {"driver": "d"}, "taint": {"key": "broken", "effect": effect}}})
}

/// Waits until the rule says this.
async fn condition(cluster: &TestCluster, reason: &str, message: &str) {
    let what = format!("the rule says {reason}: {message}");
    let said = cluster.eventually(&what, async |it| {
        let rule = it.get(GROUP, "devicetaintrules", "", "r").await?;
        let condition = rule.items_at(&["status", "conditions"]).first().cloned()?;
        let said = condition.str_at(&["message"]).starts_with(message);
        (said && condition.str_at(&["reason"]) == reason).then_some(())
    });
    said.await;
}

#[tokio::test(start_paused = true)]
async fn pods_with_tainted_devices_go_when_they_bear_it_no_longer() {
    let cluster = cluster(CONTROLLERS).await;
    template(&cluster).await;
    for name in ["frail", "hardy"] {
        cluster.create("", "pods", pod(name)).await;
        let claim = claim_of(&cluster, name).await;
        let seconds =
            value!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]);
        let tolerations = if name == "hardy" { seconds } else { Value::Null };
        give(&cluster, &claim, name, tolerations).await;
    }
    let before = tokio::time::Instant::now();
    cluster.create(GROUP, "devicetaintrules", rule("NoExecute")).await;
    let going = cluster.eventually("frail is marked", async |it| {
        let pod = it.get("", "pods", "default", "frail").await?;
        pod.at(&["metadata", "deletionTimestamp"])?;
        let conditions = pod.items_at(&["status", "conditions"]);
        conditions.iter().find(|it| it.str_at(&["type"]) == "DisruptionTarget").cloned()
    });
    let target = going.await;
    assert_eq!(target.str_at(&["reason"]), "DeletionByDeviceTaintManager");
    assert_eq!(
        target.str_at(&["message"]),
        "Device Taint manager: deleting due to NoExecute taint"
    );
    let message =
        "1 pod needs to be evicted in 1 namespace. 1 pod evicted since starting the controller.";
    condition(&cluster, "PodsPendingEviction", message).await;
    cluster
        .eventually("hardy is marked", async |it| {
            let pod = it.get("", "pods", "default", "hardy").await?;
            pod.at(&["metadata", "deletionTimestamp"]).map(drop)
        })
        .await;
    assert!(before.elapsed().as_secs() >= 59, "after {:?}", before.elapsed());
    condition(&cluster, "Completed", "2 pods evicted since starting the controller.").await;
}

#[tokio::test(start_paused = true)]
async fn a_rule_without_effect_tells_what_it_would_do() {
    let cluster = cluster(CONTROLLERS).await;
    let slice = value!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "s"},
        "spec": {"driver": "d", "nodeName": "n1", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "x"}, {"name": "y"}]}});
    cluster.create(GROUP, "resourceslices", slice).await;
    template(&cluster).await;
    cluster.create("", "pods", pod("p")).await;
    let claim = claim_of(&cluster, "p").await;
    give(&cluster, &claim, "p", Value::Null).await;
    cluster.create(GROUP, "devicetaintrules", rule("None")).await;
    let message = "2 published devices selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace if";
    condition(&cluster, "NoEffect", message).await;
}

/// How full a driver's pools are is told once, when all of a pool is there.
#[tokio::test(start_paused = true)]
async fn a_question_about_pools_is_answered_once() {
    let features =
        test_cluster::registry::Features { resource_pool_status: true, ..Default::default() };
    const NAMES: &[&str] = &["resourcepoolstatusrequest-controller", "resourceclaim-controller"];
    let asked = ["resource.k8s.io/v1alpha3/resourcepoolstatusrequests=true"];
    let gate = "DRAResourcePoolStatus=true";
    let cluster = crate::cluster_asked(features, gate, &asked, NAMES).await;
    let slice = |name: &str, devices: Value| {
        value!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
            "spec": {"driver": "d", "nodeName": "n1", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 2},
                "devices": devices}})
    };
    let first =
        value!([{"name": "x"}, {"name": "y", "taints": [{"key": "k", "effect": "NoSchedule"}]}]);
    cluster.create(GROUP, "resourceslices", slice("s1", first)).await;
    template(&cluster).await;
    cluster.create("", "pods", pod("p")).await;
    let claim = claim_of(&cluster, "p").await;
    give(&cluster, &claim, "p", value!([])).await;
    let request = value!({"apiVersion": "resource.k8s.io/v1alpha3", "kind": "ResourcePoolStatusRequest",
        "metadata": {"name": "q"}, "spec": {"driver": "d"}});
    let made = cluster.create(GROUP, "resourcepoolstatusrequests", request).await;
    assert_eq!(made.i64_at(&["spec", "limit"]), Some(100));
    let shared = value!([{"name": "z", "allowMultipleAllocations": true,
        "capacity": {"memory": {"value": "8Gi"}}}]);
    cluster.create(GROUP, "resourceslices", slice("s2", shared)).await;
    let told = cluster.eventually("an answer", async |it| {
        let request = it.get(GROUP, "resourcepoolstatusrequests", "", "q").await?;
        (!request.items_at(&["status", "conditions"]).is_empty()).then_some(request)
    });
    let told = told.await;
    let pool = &told.items_at(&["status", "pools"])[0];
    let counts = ["resourceSliceCount", "totalDevices", "allocatedDevices", "unavailableDevices"];
    let counts = counts.map(|it| pool.i64_at(&[it]));
    assert_eq!(counts, [Some(2), Some(3), Some(1), Some(1)]);
    assert_eq!(pool.i64_at(&["availableDevices"]), Some(1));
    assert_eq!(pool.str_at(&["nodeName"]), "n1");
    let capacity = &pool.items_at(&["shareableSummary", "capacity"])[0];
    assert_eq!([capacity.str_at(&["total"]), capacity.str_at(&["available"])], ["8Gi", "8Gi"]);
    let message = told.items_at(&["status", "conditions"])[0].str_at(&["message"]);
    assert_eq!(message, "Calculated status for 1 pools");
    tokio::time::sleep(std::time::Duration::from_secs(3_600)).await;
    cluster
        .eventually("it goes", async |it| {
            it.get(GROUP, "resourcepoolstatusrequests", "", "q").await.is_none().then_some(())
        })
        .await;
}
