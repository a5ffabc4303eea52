//! `/metrics/resources`: what each pod asks for and may use, as the scheduler's cache knows it. Upstream:
//! `pkg/scheduler/metrics/resources`.

use std::fmt::Write as _;
use std::sync::Arc;

use apimachinery::Value;
use client::reflector::Caches;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

/// The caches of the scheduler that works, where one does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Option<Arc<Caches>>>>);

impl Seen {
    /// These are its caches from now on.
    pub(super) fn now(&self, caches: &Arc<Caches>) {
        *self.0.lock() = Some(Arc::clone(caches));
    }

    /// Whether it knows the cluster by now.
    pub(super) fn is_synced(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|it| it.are_synced())
    }

    /// The page.
    pub(crate) fn text(&self) -> String {
        let caches = self.0.lock().clone();
        let pods = caches.map(|it| it.store_of::<Pod>().list("")).unwrap_or_default();
        let pods: Vec<Arc<Value>> = pods.iter().map(|it| it.value()).collect();
        let mut out = String::new();
        for (member, name, help) in [
            ("limits", "kube_pod_resource_limit", "What pods may use of each resource"),
            ("requests", "kube_pod_resource_request", "What pods ask for of each resource"),
        ] {
            let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} gauge");
            for pod in pods.iter().filter(|it| !is_over(it)) {
                lines(&mut out, name, pod, member);
            }
        }
        out
    }
}

/// A pod that nobody placed cannot be over.
fn is_over(pod: &Value) -> bool {
    !pod.str_at(&["spec", "nodeName"]).is_empty()
        && matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
}

fn lines(out: &mut String, name: &str, pod: &Value, member: &str) {
    let priority = pod.i64_at(&["spec", "priority"]).map(|it| it.to_string()).unwrap_or_default();
    let amounts = quota::of_pod(pod, member);
    for (resource, amount) in amounts.iter().filter(|(_, amount)| amount.as_f64() != 0.0) {
        let labels = [
            ("namespace", pod.str_at(&["metadata", "namespace"])),
            ("node", pod.str_at(&["spec", "nodeName"])),
            ("pod", pod.str_at(&["metadata", "name"])),
            ("priority", priority.as_str()),
            ("resource", resource.as_str()),
            ("scheduler", pod.str_at(&["spec", "schedulerName"])),
            ("unit", unit(resource)),
        ];
        let labels = labels.map(|(label, value)| format!("{label}=\"{}\"", escaped(value)));
        let _ = writeln!(out, "{name}{{{}}} {}", labels.join(","), amount.as_f64());
    }
}

fn unit(resource: &str) -> &'static str {
    match resource {
        "cpu" => "cores",
        "memory" | "storage" | "ephemeral-storage" => "bytes",
        other if other.starts_with("hugepages-") => "bytes",
        other if other.starts_with("attachable-volumes-") => "integer",
        _ => "",
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    #[test]
    fn a_pod_is_told_by_its_resources() {
        let pod = value!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "m", "priority": 7,
            "schedulerName": "s", "overhead": {"memory": "1Mi"}, "containers": [
                {"resources": {"requests": {"cpu": "250m", "memory": "1Mi"}, "limits": {"cpu": "1"}}},
                {"resources": {"requests": {"cpu": "250m", "example.com/x": "0"}}}]}});
        let mut out = String::new();
        super::lines(&mut out, "r", &pod, "requests");
        super::lines(&mut out, "l", &pod, "limits");
        let of = r#"namespace="n",node="m",pod="p",priority="7""#;
        let expected = format!(
            "r{{{of},resource=\"cpu\",scheduler=\"s\",unit=\"cores\"}} 0.5\n\
             r{{{of},resource=\"memory\",scheduler=\"s\",unit=\"bytes\"}} 2097152\n\
             l{{{of},resource=\"cpu\",scheduler=\"s\",unit=\"cores\"}} 1\n"
        );
        assert_eq!(out, expected);
    }
}
