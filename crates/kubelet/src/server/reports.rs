//! What the node tells of its pods: lists, statistics, metrics.

use std::fmt::Write;

use apimachinery::{Value, value};
use cri::{
    ContainerFilter, ContainerState, ContainerStats, PodSandboxFilter, PodSandboxState,
    PodSandboxStats,
};
use http::StatusCode;

use super::Context;
use super::routes::Refusal;

/// The pods of the node, as a list.
pub(super) fn pods(context: &Context) -> Value {
    let items: Vec<Value> = context.manager.objects().iter().map(|it| it.to_value()).collect();
    value!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": (Value::Array(items))})
}

pub(super) async fn stats(context: &Context) -> Result<Vec<PodSandboxStats>, Refusal> {
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

/// The agent's own metrics.
pub(super) async fn metrics(context: &Context) -> Result<String, Refusal> {
    let failed = |it: cri::CriError| (StatusCode::INTERNAL_SERVER_ERROR, it.to_rpc());
    let runtime = &context.shared.runtime;
    let filter =
        PodSandboxFilter { state: Some(PodSandboxState::Ready), ..PodSandboxFilter::default() };
    let pods = runtime.list_pod_sandbox(&filter).await.map_err(failed)?.len();
    let all = runtime.list_containers(&ContainerFilter::default()).await.map_err(failed)?;
    let mut text = format!(
        "# HELP kubelet_running_pods [ALPHA] Number of pods that have a running pod sandbox\n\
         # TYPE kubelet_running_pods gauge\nkubelet_running_pods {pods}\n\
         # HELP kubelet_running_containers [ALPHA] Number of containers currently running\n\
         # TYPE kubelet_running_containers gauge\n"
    );
    let states = [
        (ContainerState::Created, "created"),
        (ContainerState::Exited, "exited"),
        (ContainerState::Running, "running"),
    ];
    for (state, name) in states {
        let count = all.iter().filter(|it| it.state == state).count();
        if count > 0 {
            let _ =
                writeln!(text, "kubelet_running_containers{{container_state=\"{name}\"}} {count}");
        }
    }
    let _ = write!(
        text,
        "# HELP kubelet_desired_pods [ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.\n\
         # TYPE kubelet_desired_pods gauge\nkubelet_desired_pods{{static=\"\"}} {}\n\
         # HELP kubelet_node_name [ALPHA] The node's name. The count is always 1.\n\
         # TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{}\"}} 1\n",
        context.manager.active_pods().len(),
        context.shared.config.node_name
    );
    text.push_str(&component_base::metrics::process());
    Ok(text)
}

/// The agent's configuration as far as it has one, under upstream's names.
pub(super) fn configz(context: &Context) -> Value {
    let config = &context.shared.config;
    let dns: Vec<Value> = config.cluster_dns.iter().map(|it| it.to_string().into()).collect();
    let count = |it: usize| i64::try_from(it).unwrap_or(i64::MAX);
    value!({"kubeletconfig": {
        "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "port": (i64::from(config.port)), "maxPods": (i64::from(config.max_pods)),
        "clusterDomain": (config.cluster_domain.as_str()), "clusterDNS": (Value::Array(dns)),
        "podPidsLimit": (if config.pod_pids_limit == 0 { -1 } else { config.pod_pids_limit }),
        "containerLogMaxSize": (config.container_log_max_bytes.to_string().as_str()),
        "containerLogMaxFiles": (count(config.container_log_max_files)),
        "imageGCHighThresholdPercent": (config.image_gc_high_percent),
        "imageGCLowThresholdPercent": (config.image_gc_low_percent),
        "nodeLeaseDurationSeconds": (i64::try_from(config.lease_duration.as_secs()).unwrap_or(i64::MAX)),
        "evictionHard": {
            "memory.available": (config.eviction_memory_bytes.to_string().as_str()),
            "nodefs.available": (format!("{}%", config.eviction_disk_percent).as_str())
        }
    }})
}

/// The pods whose sandboxes run, as the runtime knows them.
pub(super) async fn running_pods(context: &Context) -> Result<Value, Refusal> {
    let failed = |it: cri::CriError| (StatusCode::INTERNAL_SERVER_ERROR, it.to_rpc());
    let runtime = &context.shared.runtime;
    let filter =
        PodSandboxFilter { state: Some(PodSandboxState::Ready), ..PodSandboxFilter::default() };
    let running =
        ContainerFilter { state: Some(ContainerState::Running), ..ContainerFilter::default() };
    let containers = runtime.list_containers(&running).await.map_err(failed)?;
    let sandboxes = runtime.list_pod_sandbox(&filter).await.map_err(failed)?;
    let items = sandboxes.iter().map(|sandbox| {
        let own = containers.iter().filter(|it| it.pod_sandbox_id == sandbox.id);
        let own = own.map(|it| {
            value!({"name": (it.metadata.name.as_str()), "image": (it.image_id.as_str()), "resources": {}})
        });
        let it = &sandbox.metadata;
        value!({
            "metadata": {"name": (it.name.as_str()), "namespace": (it.namespace.as_str()), "uid": (it.uid.as_str())},
            "spec": {"containers": (Value::Array(own.collect()))}, "status": {}
        })
    });
    let items = Value::Array(items.collect());
    Ok(value!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// A metric's samples: labels, value, and when it was measured, in milliseconds since the epoch.
type Samples = Vec<(String, f64, i64)>;

/// Processor and memory use, as the metrics server reads it.
pub(super) async fn resource_metrics(context: &Context) -> Result<String, Refusal> {
    let all = stats(context).await?;
    let root = context.shared.hierarchies.as_ref().map(|it| it.stats("")).unwrap_or_default();
    let cpu_of = |it: &cri::CpuUsage| seconds(it.usage_core_nano_seconds);
    let memory_of = |it: &cri::MemoryUsage| bytes(it.working_set_bytes);
    let millis = |nanoseconds: i64| nanoseconds / 1_000_000;
    let of_containers = |of: &dyn Fn(&ContainerStats) -> f64| -> Samples {
        let each = all.iter().flat_map(|pod| pod.containers.iter().map(move |it| (pod, it)));
        each.map(|(pod, it)| {
            (labels(pod, Some(&it.metadata.name)), of(it), millis(it.cpu.timestamp))
        })
        .collect()
    };
    let of_pods = |of: &dyn Fn(&PodSandboxStats) -> f64| -> Samples {
        all.iter().map(|it| (labels(it, None), of(it), millis(it.cpu.timestamp))).collect()
    };
    let now = context.shared.clock.now().as_millisecond();
    let one = |value: f64| vec![(String::new(), value, now)];
    let starts = starts(context, &all).await;
    let metrics = [
        ("container_cpu_usage_seconds_total", of_containers(&|it| cpu_of(&it.cpu))),
        ("container_memory_working_set_bytes", of_containers(&|it| memory_of(&it.memory))),
        ("container_start_time_seconds", starts),
        ("pod_cpu_usage_seconds_total", of_pods(&|it| cpu_of(&it.cpu))),
        ("pod_memory_working_set_bytes", of_pods(&|it| memory_of(&it.memory))),
        ("node_cpu_usage_seconds_total", one(seconds(root.cpu_nanos))),
        ("node_memory_working_set_bytes", one(bytes(root.memory.working_set))),
    ];
    let mut text = String::new();
    for (name, samples) in metrics {
        let (kind, help) = described(name);
        let _ = writeln!(text, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for (labels, value, at) in samples {
            let _ = writeln!(text, "{name}{labels} {value} {at}");
        }
    }
    text.push_str(
        "# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n\
         # TYPE resource_scrape_error gauge\nresource_scrape_error 0\n",
    );
    Ok(text)
}

/// When containers were started.
async fn starts(context: &Context, all: &[PodSandboxStats]) -> Samples {
    let mut samples = Samples::new();
    for pod in all {
        for it in &pod.containers {
            // One that is gone meanwhile is left out.
            let Ok(status) = context.shared.runtime.container_status(&it.id).await else {
                continue;
            };
            let started = seconds(u64::try_from(status.started_at).unwrap_or_default());
            let at = it.cpu.timestamp / 1_000_000;
            samples.push((labels(pod, Some(&it.metadata.name)), started, at));
        }
    }
    samples
}

/// A metric's kind and upstream's help.
fn described(name: &str) -> (&'static str, String) {
    let whose = name.split('_').next().unwrap_or_default();
    if name.ends_with("_total") {
        ("counter", format!("Cumulative cpu time consumed by the {whose} in core-seconds"))
    } else if name.ends_with("_bytes") {
        ("gauge", format!("Current working set of the {whose} in bytes"))
    } else {
        ("gauge", format!("Start time of the {whose} since unix epoch in seconds"))
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
