//! What the group serves: names and schemas, written as definitions of custom resources are, and its APIService and role.

use apimachinery::{Value, value};

/// The verbs that both resources take.
pub const VERBS: &[&str] = &["get", "list"];

/// The definitions of both resources.
#[must_use]
pub fn definitions() -> [Value; 2] {
    let container = value!({"type": "object", "required": ["name", "usage"], "properties": {
        "name": {"type": "string"}, "usage": (usage())}});
    let nodes = definition("nodes", "NodeMetrics", "Cluster", "usage", usage());
    let list = value!({"type": "array", "items": container});
    [nodes, definition("pods", "PodMetrics", "Namespaced", "containers", list)]
}

fn usage() -> Value {
    value!({"type": "object", "additionalProperties": {"type": "string"},
        "description": "What is used, by resource: cpu over the window, memory at its end."})
}

fn definition(plural: &str, kind: &str, scope: &str, member: &str, schema: Value) -> Value {
    let mut properties = value!({
        "timestamp": {"type": "string", "format": "date-time",
            "description": "The end of the time that was measured."},
        "window": {"type": "string", "description": "How long the time is that was measured."}
    });
    properties.set_at(&[member], schema);
    let required = value!(["timestamp", "window", member]);
    value!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": (format!("{plural}.metrics.k8s.io"))},
        "spec": {
            "group": "metrics.k8s.io", "scope": scope,
            "names": {"plural": plural, "singular": "", "kind": kind, "listKind": (format!("{kind}List"))},
            "versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "required": required, "properties": properties}}}]
        }
    })
}

/// The APIService and the role that metrics-server's manifest brings, for a group that needs no service.
#[must_use]
pub fn objects(now: &str) -> Vec<Value> {
    let available = value!({"type": "Available", "status": "True", "lastTransitionTime": now,
        "reason": "Local", "message": "Local APIServices are always available"});
    vec![
        value!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io",
                "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
            "spec": {"group": "metrics.k8s.io", "version": "v1beta1",
                "groupPriorityMinimum": 100, "versionPriority": 100},
            "status": {"conditions": [available]}
        }),
        value!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "system:aggregated-metrics-reader", "labels": {
                "rbac.authorization.k8s.io/aggregate-to-admin": "true",
                "rbac.authorization.k8s.io/aggregate-to-edit": "true",
                "rbac.authorization.k8s.io/aggregate-to-view": "true"}},
            "rules": [{"apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"],
                "verbs": ["get", "list", "watch"]}]
        }),
    ]
}
