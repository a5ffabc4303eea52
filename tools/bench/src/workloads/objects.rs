//! The objects of the workloads, as upstream's templates have them (`test/integration/scheduler_perf/templates`).
//!
//! Knows no server. The nth object of a kind has its number in its name where somebody names it again; pods are named by
//! the server.

use serde_json::{Value, json};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
/// The node that gets all pods where there is one such.
const ALONE: &str = "scheduler-perf-node";
/// Who attaches volumes.
const EBS: &str = "ebs.csi.aws.com";
/// Whose devices there are, and how many a node has.
const DRIVER: &str = "test-driver.cdi.k8s.io";
const DEVICES: usize = 10;
/// How many nodes have devices.
const DEVICE_NODES: usize = 500;
/// The class of important pods.
const IMPORTANT: &str = "important";

/// A node that takes so many pods, with more labels than its name.
fn node_of(name: &str, pods: &str, labels: &[(&str, &str)]) -> Value {
    let mut all = json!({HOST: name});
    for (key, value) in labels {
        all[*key] = json!(value);
    }
    let has = json!({"cpu": "4", "memory": "32Gi", "pods": pods});
    json!({"metadata": {"name": name, "labels": all}, "spec": {}, "status": {"capacity": has, "allocatable": has,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Fake"}]}})
}

fn name_of_node(nth: usize) -> String {
    format!("scheduler-perf-{nth}")
}

/// `node-default.yaml`
pub(super) fn node(nth: usize) -> Value {
    node_of(&name_of_node(nth), "110", &[])
}

/// The same, all in one zone.
pub(super) fn node_in_zone(nth: usize) -> Value {
    node_of(&name_of_node(nth), "110", &[(ZONE, "zone1")])
}

/// The same, in three zones by turns.
pub(super) fn node_in_zones(nth: usize) -> Value {
    node_of(&name_of_node(nth), "110", &[(ZONE, ["moon-1", "moon-2", "moon-3"][nth % 3])])
}

/// `node-with-taint.yaml`
pub(super) fn tainted_node(nth: usize) -> Value {
    let mut node = node_of(&format!("taint-node-{nth}"), "110", &[]);
    node["spec"]["taints"] = json!([{"key": "foo", "effect": "NoSchedule"}]);
    node
}

/// `node-with-name.yaml`
pub(super) fn lone_node(_: usize) -> Value {
    node_of(ALONE, "90000", &[])
}

/// `node-default.yaml` where volumes are attached.
pub(super) fn attaching_node(nth: usize) -> Value {
    let mut node = node(nth);
    for member in ["capacity", "allocatable"] {
        node["status"][member][format!("attachable-volumes-csi-{EBS}")] = json!("39");
    }
    node
}

/// What such a node says of its driver.
pub(super) fn csi_node(nth: usize) -> Value {
    let name = name_of_node(nth);
    json!({"metadata": {"name": name}, "spec": {"drivers": [
        {"name": EBS, "nodeID": name, "allocatable": {"count": 39}, "topologyKeys": []}]}})
}

/// The same where the driver has taken over the volumes of the tree.
pub(super) fn migrated_csi_node(nth: usize) -> Value {
    let mut node = csi_node(nth);
    node["metadata"]["annotations"] =
        json!({"storage.alpha.kubernetes.io/migrated-plugins": "kubernetes.io/aws-ebs"});
    node
}

/// `churn/node-default.yaml`
pub(super) fn useless_node() -> Value {
    let mut node = node_of("node-churn", "0", &[]);
    node["metadata"] = json!({"generateName": "node-churn-"});
    node
}

/// `churn/service-default.yaml`
pub(super) fn service() -> Value {
    json!({"metadata": {"generateName": "service-churn-"}, "spec": {"selector": {"app": "foo"},
        "ports": [{"protocol": "TCP", "port": 8080, "targetPort": 8080}]}})
}

/// The class that important pods name: a server that has the admission plugin Priority takes no numbers.
pub(super) fn priority(_: usize) -> Value {
    json!({"metadata": {"name": IMPORTANT}, "value": 10})
}

/// A pod that asks for nothing.
fn light(prefix: &str, labels: &Value, mut spec: Value) -> Value {
    spec["containers"] = json!([{"name": "pause", "image": "registry.k8s.io/pause:3.10.1"}]);
    json!({"metadata": {"generateName": prefix, "labels": labels}, "spec": spec})
}

/// A pod that asks for some CPU.
fn asking(prefix: &str, cpu: &str, labels: &Value, spec: Value) -> Value {
    let mut pod = light(prefix, labels, spec);
    let asks = json!({"cpu": cpu, "memory": "500Mi"});
    let container = &mut pod["spec"]["containers"][0];
    container["ports"] = json!([{"containerPort": 80}]);
    container["resources"] = json!({"limits": asks, "requests": asks});
    pod
}

fn colored(color: &str, spec: Value) -> Value {
    asking("pod-", "100m", &json!({"color": color}), spec)
}

/// `pod-default.yaml`
pub(super) fn pod() -> Value {
    asking("pod-", "100m", &json!({}), json!({}))
}

/// Whom a term means: pods of a color in two namespaces.
fn in_both(color: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key, "namespaces": ["sched-1", "sched-0"]})
}

/// The same in all namespaces with a label.
fn in_team(color: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key,
        "namespaceSelector": {"matchLabels": {"team": "devops"}}})
}

fn requires(kind: &str, term: &Value) -> Value {
    json!({"affinity": {kind: {REQUIRED: [term]}}})
}

fn prefers(kind: &str, term: &Value) -> Value {
    json!({"affinity": {kind: {PREFERRED: [{"weight": 1, "podAffinityTerm": term}]}}})
}

/// `pod-with-pod-affinity.yaml`
pub(super) fn affinity() -> Value {
    colored("blue", requires("podAffinity", &in_both("blue", ZONE)))
}

/// `pod-with-pod-anti-affinity.yaml`
pub(super) fn anti_affinity() -> Value {
    colored("green", requires("podAntiAffinity", &in_both("green", HOST)))
}

/// `pod-with-pod-anti-affinity-label.yaml`
pub(super) fn green() -> Value {
    colored("green", json!({}))
}

/// `pod-with-preferred-pod-affinity.yaml`
pub(super) fn preferred_affinity() -> Value {
    colored("red", prefers("podAffinity", &in_both("red", HOST)))
}

/// `pod-with-preferred-pod-anti-affinity.yaml`
pub(super) fn preferred_anti_affinity() -> Value {
    colored("yellow", prefers("podAntiAffinity", &in_both("yellow", HOST)))
}

/// `pod-affinity-ns-selector.yaml`
pub(super) fn team_affinity() -> Value {
    colored("blue", requires("podAffinity", &in_team("blue", ZONE)))
}

/// `pod-anti-affinity-ns-selector.yaml`
pub(super) fn team_anti_affinity() -> Value {
    colored("green", requires("podAntiAffinity", &in_team("green", HOST)))
}

/// `pod-preferred-affinity-ns-selector.yaml`
pub(super) fn preferred_team_affinity() -> Value {
    colored("red", prefers("podAffinity", &in_team("red", HOST)))
}

/// `pod-preferred-anti-affinity-ns-selector.yaml`
pub(super) fn preferred_team_anti_affinity() -> Value {
    colored("green", prefers("podAntiAffinity", &in_team("green", HOST)))
}

fn on_nodes(term: &Value) -> Value {
    json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}}})
}

/// `pod-with-node-affinity.yaml`
pub(super) fn node_affinity() -> Value {
    let zones = json!({"key": ZONE, "operator": "In", "values": ["zone1", "zone2"]});
    let spec = on_nodes(&json!({"matchExpressions": [zones]}));
    asking("node-affinity-", "100m", &json!({}), spec)
}

/// `daemonset-pod.yaml`
pub(super) fn daemon() -> Value {
    let name = json!({"key": "metadata.name", "operator": "In", "values": [ALONE]});
    light("daemonset-", &json!({}), on_nodes(&json!({"matchFields": [name]})))
}

fn spread(when: &str) -> Value {
    let constraint = json!({"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"color": "blue"}}});
    colored("blue", json!({"topologySpreadConstraints": [constraint]}))
}

/// `pod-with-topology-spreading.yaml`
pub(super) fn required_spread() -> Value {
    spread("DoNotSchedule")
}

/// `pod-with-preferred-topology-spreading.yaml`
pub(super) fn preferred_spread() -> Value {
    spread("ScheduleAnyway")
}

/// `pod-with-node-inclusion-policy.yaml`
pub(super) fn spread_over_fitting_nodes() -> Value {
    let constraint = json!({"maxSkew": 1, "topologyKey": HOST, "whenUnsatisfiable": "DoNotSchedule",
        "nodeAffinityPolicy": "Honor", "nodeTaintsPolicy": "Honor", "labelSelector": {"matchLabels": {"foo": "bar"}}});
    asking(
        "spreading-pod-",
        "100m",
        &json!({"foo": "bar"}),
        json!({"topologySpreadConstraints": [constraint]}),
    )
}

/// `pod-with-label.yaml`
pub(super) fn labelled() -> Value {
    light("pod-", &json!({"app": "scheduler-perf"}), json!({}))
}

/// `service.yaml`
pub(super) fn service_of_labelled(_: usize) -> Value {
    json!({"metadata": {"name": "service"}, "spec": {"selector": {"app": "scheduler-perf"}, "ports": [{"port": 80}]}})
}

/// `gated-pod.yaml`
pub(super) fn gated() -> Value {
    light("gated-pod-", &json!({}), json!({"schedulingGates": [{"name": "test.k8s.io/hold"}]}))
}

/// `gated-pod-with-pod-affinity.yaml`
pub(super) fn gated_with_affinity() -> Value {
    let term =
        json!({"labelSelector": {"matchLabels": {"app": "scheduler-perf"}}, "topologyKey": HOST});
    let mut spec = requires("podAffinity", &term);
    spec["schedulingGates"] = json!([{"name": "scheduling-gate-1"}]);
    light("pod-", &json!({"app": "scheduler-perf"}), spec)
}

/// `light-pod.yaml`
pub(super) fn short() -> Value {
    light("light-pod-", &json!({}), json!({"terminationGracePeriodSeconds": 0}))
}

/// `pod-low-priority.yaml`
pub(super) fn unimportant() -> Value {
    asking("pod-", "900m", &json!({}), json!({"terminationGracePeriodSeconds": 0}))
}

/// `pod-high-priority.yaml`
pub(super) fn important() -> Value {
    asking("pod-", "3000m", &json!({}), json!({"priorityClassName": IMPORTANT}))
}

/// `pod-high-priority-large-cpu.yaml`
pub(super) fn too_large() -> Value {
    let mut pod = asking("pod-h-", "9", &json!({}), json!({"priorityClassName": IMPORTANT}));
    let resources = &mut pod["spec"]["containers"][0]["resources"];
    *resources = json!({"requests": resources["requests"]});
    pod
}

/// `pod-with-secret-volume.yaml`
pub(super) fn with_secret() -> Value {
    let spec = json!({"volumes": [{"name": "secret", "secret": {"secretName": "secret"}}]});
    asking("secret-volume-", "100m", &json!({}), spec)
}

fn volume(source: &str, what: &Value) -> Value {
    json!({"spec": {"accessModes": ["ReadOnlyMany"], "capacity": {"storage": "1Gi"},
        "persistentVolumeReclaimPolicy": "Retain", source: what}})
}

/// `pv-aws.yaml`
pub(super) fn aws_volume(name: &str) -> Value {
    volume("awsElasticBlockStore", &json!({"volumeID": name}))
}

/// `pv-csi.yaml`
pub(super) fn csi_volume(name: &str) -> Value {
    volume("csi", &json!({"driver": EBS, "volumeHandle": name}))
}

/// `pvc.yaml`
pub(super) fn volume_claim(name: &str) -> Value {
    json!({"metadata": {"name": name, "annotations": {"pv.kubernetes.io/bind-completed": "true"}},
        "spec": {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}})
}

fn name_of_device_node(nth: usize) -> String {
    format!("scheduler-perf-dra-{nth}")
}

/// `node-with-dra-test-driver.yaml`
pub(super) fn device_node(nth: usize) -> Value {
    node_of(&name_of_device_node(nth), "110", &[])
}

/// What upstream's driver of these tests publishes for such a node.
pub(super) fn slice(nth: usize) -> Value {
    let node = name_of_device_node(nth);
    let device = |nth: usize| {
        json!({"name": format!("instance-{nth}"), "capacity": {"memory": {"value": "1Gi"}}, "attributes": {
            "model": {"string": "A100"}, "family": {"string": "GPU"}, "driverVersion": {"version": "1.2.3"},
            "dra.example.com/numa": {"int": nth}}})
    };
    let devices: Vec<Value> = (0..DEVICES).map(device).collect();
    json!({"metadata": {"name": node}, "spec": {"driver": DRIVER, "nodeName": node, "devices": devices,
        "pool": {"name": node, "generation": 0, "resourceSliceCount": 1}}})
}

/// `deviceclass.yaml`
pub(super) fn device_class(_: usize) -> Value {
    let expression = format!("device.driver == \"{DRIVER}\"");
    json!({"metadata": {"name": "test-class"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}})
}

fn devices() -> Value {
    json!({"devices": {"requests": [{"name": "req-0", "exactly": {"deviceClassName": "test-class"}}]}})
}

/// `resourceclaimtemplate.yaml`
pub(super) fn claim_template(_: usize) -> Value {
    json!({"metadata": {"name": "test-claim-template"}, "spec": {"spec": devices()}})
}

/// `resourceclaim.yaml`
pub(super) fn claim(nth: usize) -> Value {
    json!({"metadata": {"name": format!("test-claim-{nth}")}, "spec": devices()})
}

/// What upstream's `allocResourceClaims` writes, but that each claim is on the next node and not on any.
pub(super) fn allocated(nth: usize) -> (String, Value) {
    let node = name_of_device_node(nth % DEVICE_NODES);
    let device = format!("instance-{}", nth / DEVICE_NODES);
    let result = json!({"request": "req-0", "driver": DRIVER, "pool": node, "device": device});
    let here =
        json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
    let allocation =
        json!({"devices": {"results": [result]}, "nodeSelector": {"nodeSelectorTerms": [here]}});
    (format!("test-claim-{nth}"), json!({"status": {"allocation": allocation}}))
}

/// `pod-with-claim-template.yaml`
pub(super) fn with_claim() -> Value {
    let claims = json!([{"name": "resource", "resourceClaimTemplateName": "test-claim-template"}]);
    let mut pod = light("test-dra", &json!({}), json!({"resourceClaims": claims}));
    pod["spec"]["containers"][0]["resources"] = json!({"claims": [{"name": "resource"}]});
    pod
}
