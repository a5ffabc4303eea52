//! What the node tells of its pods: lists, statistics, metrics.

use std::fmt::Write;

use apimachinery::{Value, time, value};
use cri::{ContainerStats, PodSandboxFilter, PodSandboxState, PodSandboxStats};
use http::StatusCode;

use super::Context;
use super::routes::Refusal;
use crate::pod::observed::time_of;

/// The pods of the node, as a list.
pub(super) fn pods(context: &Context) -> Value {
    let items: Vec<Value> = context.manager.objects().iter().map(|it| it.to_value()).collect();
    value!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": (Value::Array(items))})
}

async fn stats(context: &Context) -> Result<Vec<PodSandboxStats>, Refusal> {
    let failed = |it: cri::CriError| (StatusCode::INTERNAL_SERVER_ERROR, it.to_rpc());
    let runtime = &context.shared.runtime;
    let filter =
        PodSandboxFilter { state: Some(PodSandboxState::Ready), ..PodSandboxFilter::default() };
    let mut all = Vec::new();
    for sandbox in runtime.list_pod_sandbox(&filter).await.map_err(failed)? {
        match runtime.pod_sandbox_stats(&sandbox.id).await {
            Ok(it) => all.push(it),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(all)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn usage(cpu: &cri::CpuUsage, memory: &cri::MemoryUsage) -> (Value, Value) {
    let at = |nanoseconds: i64| time::format_time(time_of(nanoseconds));
    let cpu = value!({"time": (at(cpu.timestamp)), "usageCoreNanoSeconds": (number(cpu.usage_core_nano_seconds))});
    let memory = value!({
        "time": (at(memory.timestamp)), "usageBytes": (number(memory.usage_bytes)),
        "workingSetBytes": (number(memory.working_set_bytes)), "rssBytes": (number(memory.rss_bytes)),
        "pageFaults": (number(memory.page_faults)), "majorPageFaults": (number(memory.major_page_faults))
    });
    (cpu, memory)
}

fn of_container(it: &ContainerStats) -> Value {
    let (cpu, memory) = usage(&it.cpu, &it.memory);
    let rootfs = value!({"usedBytes": (number(it.writable_layer.used_bytes)), "inodesUsed": (number(it.writable_layer.inodes_used))});
    value!({"name": (it.metadata.name.as_str()), "cpu": cpu, "memory": memory, "rootfs": rootfs})
}

/// The summary of the node and its pods.
pub(super) async fn summary(context: &Context) -> Result<Value, Refusal> {
    let pods: Vec<Value> = stats(context).await?.iter().map(|it| {
        let (cpu, memory) = usage(&it.cpu, &it.memory);
        let containers: Vec<Value> = it.containers.iter().map(of_container).collect();
        let mut pod = value!({
            "podRef": {"name": (it.metadata.name.as_str()), "namespace": (it.metadata.namespace.as_str()), "uid": (it.metadata.uid.as_str())},
            "containers": (Value::Array(containers)), "cpu": cpu, "memory": memory,
            "process_stats": {"process_count": (number(it.process_count))}
        });
        if let Some(interface) = it.interfaces.first() {
            pod.set_at(&["network"], value!({
                "name": (interface.name.as_str()), "rxBytes": (number(interface.rx_bytes)), "rxErrors": (number(interface.rx_errors)),
                "txBytes": (number(interface.tx_bytes)), "txErrors": (number(interface.tx_errors))
            }));
        }
        pod
    }).collect();
    let shared = &context.shared;
    let root = shared.hierarchies.as_ref().map(|it| it.stats("")).unwrap_or_default();
    let now = time::format_time(shared.clock.now());
    Ok(value!({
        "node": {"nodeName": (shared.config.node_name.as_str()),
            "cpu": {"time": (now.as_str()), "usageCoreNanoSeconds": (number(root.cpu_nanos))},
            "memory": {"time": (now.as_str()), "usageBytes": (number(root.memory.usage)),
                "workingSetBytes": (number(root.memory.working_set)), "rssBytes": (number(root.memory.rss))}},
        "pods": (Value::Array(pods))
    }))
}

/// The agent's own metrics.
pub(super) fn metrics(context: &Context) -> String {
    let running = context.manager.active_pods().len();
    format!(
        "# HELP kubelet_running_pods [ALPHA] Number of pods that have a running pod sandbox\n\
         # TYPE kubelet_running_pods gauge\nkubelet_running_pods {running}\n\
         # HELP kubelet_node_name [ALPHA] The node's name. The count is always 1.\n\
         # TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{}\"}} 1\n",
        context.shared.config.node_name
    )
}

/// A metric's samples: labels and value.
type Samples = Vec<(String, f64)>;

/// Processor and memory use, as the metrics server reads it.
pub(super) async fn resource_metrics(context: &Context) -> Result<String, Refusal> {
    let all = stats(context).await?;
    let root = context.shared.hierarchies.as_ref().map(|it| it.stats("")).unwrap_or_default();
    let cpu_of = |it: &cri::CpuUsage| seconds(it.usage_core_nano_seconds);
    let memory_of = |it: &cri::MemoryUsage| bytes(it.working_set_bytes);
    let of_containers = |of: &dyn Fn(&ContainerStats) -> f64| -> Samples {
        let each = all.iter().flat_map(|pod| pod.containers.iter().map(move |it| (pod, it)));
        each.map(|(pod, it)| (labels(pod, Some(&it.metadata.name)), of(it))).collect()
    };
    let of_pods = |of: &dyn Fn(&PodSandboxStats) -> f64| -> Samples {
        all.iter().map(|it| (labels(it, None), of(it))).collect()
    };
    let one = |value: f64| vec![(String::new(), value)];
    let metrics = [
        ("container_cpu_usage_seconds_total", of_containers(&|it| cpu_of(&it.cpu))),
        ("container_memory_working_set_bytes", of_containers(&|it| memory_of(&it.memory))),
        ("pod_cpu_usage_seconds_total", of_pods(&|it| cpu_of(&it.cpu))),
        ("pod_memory_working_set_bytes", of_pods(&|it| memory_of(&it.memory))),
        ("node_cpu_usage_seconds_total", one(seconds(root.cpu_nanos))),
        ("node_memory_working_set_bytes", one(bytes(root.memory.working_set))),
        ("resource_scrape_error", one(0.0)),
    ];
    let mut text = String::new();
    for (name, samples) in metrics {
        let (kind, help) = described(name);
        let _ = writeln!(text, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    }
    Ok(text)
}

/// A metric's kind and upstream's help.
fn described(name: &str) -> (&'static str, String) {
    let whose = name.split('_').next().unwrap_or_default();
    if name.ends_with("_total") {
        ("counter", format!("Cumulative cpu time consumed by the {whose} in core-seconds"))
    } else if name.ends_with("_bytes") {
        ("gauge", format!("Current working set of the {whose} in bytes"))
    } else {
        ("gauge", "1 if there was an error while getting container metrics, 0 otherwise".into())
    }
}

fn labels(pod: &PodSandboxStats, container: Option<&str>) -> String {
    let place = format!("namespace=\"{}\",pod=\"{}\"", pod.metadata.namespace, pod.metadata.name);
    match container {
        Some(name) => format!("{{container=\"{name}\",{place}}}"),
        None => format!("{{{place}}}"),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a metric is a double")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[allow(clippy::cast_precision_loss, reason = "a metric is a double")]
fn bytes(value: u64) -> f64 {
    value as f64
}
