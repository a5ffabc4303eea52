//! The defaults of `PodSpec`, for pods and for the templates of pods.

use apimachinery::quantity::Quantity;
use apimachinery::{Object, Value};
use compact_str::CompactString;

use super::{image, volume_defaults};
use crate::rules;

pub(crate) use volume_defaults::claim_spec;

/// The lists of containers in a pod's spec.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
/// What a pod's spec says for itself may not be finer than thousandths.
const MILLI: i32 = -3;

/// Sets the defaults of a pod: those of its spec, and those that templates leave to their pods.
pub(crate) fn pod(value: &mut Value) {
    forget_init_containers(value);
    if let Some(status) = value.at_mut(&["status"]) {
        rules::first_of(status, "podIP", "podIPs", Some("ip"));
    }
    let spec = value.member_mut("spec");
    for list in ["containers", "initContainers"] {
        for container in spec.items_at_mut(&[list]) {
            requests_from_limits(container);
        }
    }
    pod_level_requests(spec);
    spec.default_at(&["enableServiceLinks"], true);
    if spec.bool_at(&["hostNetwork"]) {
        for list in ["containers", "initContainers"] {
            for container in spec.items_at_mut(&[list]) {
                container.items_at_mut(&["ports"]).iter_mut().for_each(host_port);
            }
        }
    }
    pod_spec(spec);
}

/// Sets the defaults of a template of pods, if it is there.
pub(crate) fn template(template: Option<&mut Value>) {
    if let Some(template) = template {
        forget_init_containers(template);
        pod_spec(template.member_mut("spec"));
    }
}

/// Annotations in which init containers stood before there was a field: old nodes would still believe them.
const INIT_CONTAINERS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

fn forget_init_containers(of: &mut Value) {
    let Some(annotations) = of.at_mut(&["metadata", "annotations"]) else { return };
    let mut gone = false;
    for key in INIT_CONTAINERS {
        gone |= annotations.remove_at(&[key]).is_some();
    }
    if gone && annotations.as_object().is_some_and(Object::is_empty) {
        of.remove_at(&["metadata", "annotations"]);
    }
}

/// Sets the defaults of a pod's spec.
pub(crate) fn pod_spec(spec: &mut Value) {
    service_account(spec);
    spec.default_at(&["dnsPolicy"], "ClusterFirst");
    spec.default_at(&["restartPolicy"], "Always");
    spec.default_at(&["securityContext"], Value::object());
    spec.default_at(&["terminationGracePeriodSeconds"], 30);
    spec.default_at(&["schedulerName"], "default-scheduler");
    spec.items_at_mut(&["volumes"]).iter_mut().for_each(volume_defaults::volume);
    for list in CONTAINERS {
        spec.items_at_mut(&[list]).iter_mut().for_each(container);
    }
    resource_list(spec.get_mut("overhead"));
    if let Some(resources) = spec.get_mut("resources") {
        requirements(resources);
    }
}

/// The account has an older name too; the newer one wins, and both are told.
fn service_account(spec: &mut Value) {
    for member in ["serviceAccountName", "serviceAccount"] {
        let account = spec.str_at(&[member]);
        if !account.is_empty() {
            let account = CompactString::from(account);
            spec.set_at(&["serviceAccountName"], account.clone());
            spec.set_at(&["serviceAccount"], account);
            return;
        }
    }
}

fn container(container: &mut Value) {
    let latest = image::tag(container.str_at(&["image"])) == Some("latest");
    container.default_at(&["imagePullPolicy"], if latest { "Always" } else { "IfNotPresent" });
    container.default_at(&["terminationMessagePath"], "/dev/termination-log");
    container.default_at(&["terminationMessagePolicy"], "File");
    for port in container.items_at_mut(&["ports"]) {
        port.default_at(&["protocol"], "TCP");
    }
    for variable in container.items_at_mut(&["env"]) {
        if let Some(source) = variable.get_mut("valueFrom") {
            field_ref(source.get_mut("fieldRef"));
            if let Some(file) = source.get_mut("fileKeyRef") {
                file.default_at(&["optional"], false);
            }
        }
    }
    if let Some(resources) = container.get_mut("resources") {
        requirements(resources);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name) {
            self::probe(probe);
        }
    }
    for name in ["postStart", "preStop"] {
        http_get(container.at_mut(&["lifecycle", name, "httpGet"]));
    }
}

fn probe(probe: &mut Value) {
    probe.default_at(&["timeoutSeconds"], 1);
    probe.default_at(&["periodSeconds"], 10);
    probe.default_at(&["successThreshold"], 1);
    probe.default_at(&["failureThreshold"], 3);
    http_get(probe.get_mut("httpGet"));
    if let Some(grpc) = probe.get_mut("grpc") {
        grpc.default_at(&["service"], "");
    }
}

fn http_get(action: Option<&mut Value>) {
    if let Some(action) = action {
        action.default_at(&["path"], "/");
        action.default_at(&["scheme"], "HTTP");
    }
}

/// The version of a reference to a field of the pod.
pub(super) fn field_ref(reference: Option<&mut Value>) {
    if let Some(reference) = reference {
        reference.default_at(&["apiVersion"], "v1");
    }
}

fn requirements(resources: &mut Value) {
    resource_list(resources.get_mut("limits"));
    resource_list(resources.get_mut("requests"));
}

/// Amounts finer than a thousandth are rounded up to one.
pub(crate) fn resource_list(list: Option<&mut Value>) {
    for (_, amount) in list.and_then(Value::as_object_mut).into_iter().flat_map(Object::iter_mut) {
        if let Value::String(text) = amount {
            round_to_milli(text);
        }
    }
}

/// Rounds a quantity up to thousandths, if it is finer.
pub(super) fn round_to_milli(text: &mut CompactString) {
    // Only these suffixes and fractions can be that fine; the rest, which is nearly all, is left unread.
    if !text.contains(['n', 'u', '.', 'e', 'E']) {
        return;
    }
    let Ok(quantity) = Quantity::parse(text) else { return };
    let rounded = quantity.rounded(MILLI);
    if rounded != quantity {
        *text = rounded.to_text();
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(resources) = container.get_mut("resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = resources.object_at_mut(&["requests"]);
    for (name, amount) in limits {
        if !requests.contains_key(&name) {
            requests.insert(name, amount);
        }
    }
    if requests.is_empty() {
        resources.remove_at(&["requests"]);
    }
}

/// Requests of the whole pod, where it has limits: what its containers ask for, else the limits.
fn pod_level_requests(spec: &mut Value) {
    let limits = spec.at(&["resources", "limits"]).and_then(Value::as_object).cloned();
    let Some(limits) = limits.filter(|it| !it.is_empty()) else { return };
    let containers = super::resources::aggregate_requests(spec);
    let requests = spec.object_at_mut(&["resources", "requests"]);
    for (name, amount) in containers {
        if matches!(name.as_str(), "cpu" | "memory") && !requests.contains_key(&name) {
            requests.insert(name, amount.to_text());
        }
    }
    for (name, amount) in limits {
        if super::resources::is_pod_level(&name) && !requests.contains_key(&name) {
            requests.insert(name, amount);
        }
    }
}

fn host_port(port: &mut Value) {
    if let Some(number) = port.i64_at(&["containerPort"]) {
        port.default_at(&["hostPort"], number);
    }
}
