//! How many replicas a metric asks for. Upstream: `pkg/controller/podautoscaler/replica_calculator.go`.
//!
//! Values are thousandths, as quantities are compared upstream. Knows nothing of where they come from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pods;

/// How far a ratio may be from 1 before anything is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tolerances {
    /// Above 1.
    pub up: f64,
    /// Below 1.
    pub down: f64,
}

impl Tolerances {
    fn contain(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What was measured of a pod.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PodMetric {
    /// Thousandths.
    pub value: i64,
    /// The end of the time that was measured.
    pub at: Timestamp,
    /// How long it is.
    pub window: SignedDuration,
}

/// By name of the pod.
pub(super) type PodMetrics = BTreeMap<String, PodMetric>;

/// What a calculation is made with besides metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    /// The pods that the scale's selector takes.
    pub pods: &'a [Arc<Pod>],
    /// How many replicas are asked for now.
    pub current: i32,
    /// What is near enough.
    pub tolerances: Tolerances,
    /// Now.
    pub now: Timestamp,
    /// How long after its start the processor time of a pod may be that of starting.
    pub cpu_initialization: SignedDuration,
    /// How long after its start a pod that is not ready may never have been.
    pub readiness_delay: SignedDuration,
}

/// What a metric asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proposal {
    /// How many replicas.
    pub replicas: i32,
    /// Per cent of what is requested, where that is the target.
    pub utilization: Option<i32>,
    /// What is used, in thousandths.
    pub usage: i64,
}

/// What is wanted of a pod.
#[derive(Debug, Clone, Copy)]
pub(super) enum PodTarget<'a> {
    /// So many per cent of what the pods request, by pod.
    Utilization(i32, &'a BTreeMap<String, i64>),
    /// So many thousandths each.
    Value(i64),
}

/// Pods by what their metrics say.
#[derive(Debug, Default)]
struct Groups {
    ready: u32,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
}

/// Use against a target.
struct Ratio {
    ratio: f64,
    utilization: Option<i32>,
    usage: i64,
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";

/// Leaves out what must not count, and tells the pods apart by what is left.
fn group(setting: &Setting<'_>, metrics: &mut PodMetrics, is_cpu: bool) -> Groups {
    let mut groups = Groups::default();
    for pod in setting.pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let phase = pods::phase(pod);
        if pod.metadata.deletion_timestamp.is_some() || phase == "Failed" {
            metrics.remove(&name);
        } else if phase == "Pending" {
            metrics.remove(&name);
            groups.unready.insert(name);
        } else if let Some(metric) = metrics.get(&name) {
            if is_cpu && starts_still(setting, pod, metric) {
                metrics.remove(&name);
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// Whether the processor time of a pod may be that of starting.
fn starts_still(setting: &Setting<'_>, pod: &Pod, metric: &PodMetric) -> bool {
    let started = pod.status.as_ref().and_then(|it| it.start_time.as_ref()).map(|it| it.0);
    let (Some(ready), Some(started)) = (pods::condition(pod, "Ready"), started) else {
        return true;
    };
    let since = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |it| it.0);
    let is_unready = ready.status == "False";
    let after = |at: Timestamp, span| at.checked_add(span).unwrap_or(Timestamp::MAX);
    if after(started, setting.cpu_initialization) > setting.now {
        is_unready || metric.at < after(since, metric.window)
    } else {
        is_unready && after(started, setting.readiness_delay) > since
    }
}

#[allow(clippy::cast_precision_loss, reason = "upstream's ratio is one of floats")]
fn ratio(metrics: &PodMetrics, target: PodTarget<'_>) -> Result<Ratio, String> {
    match target {
        PodTarget::Value(target) => {
            let total: i128 = metrics.values().map(|it| i128::from(it.value)).sum();
            let usage = mean(total, metrics.len());
            Ok(Ratio { ratio: usage as f64 / target as f64, utilization: None, usage })
        }
        PodTarget::Utilization(target, requests) => {
            let (mut total, mut requested, mut count) = (0_i128, 0_i128, 0);
            for (name, metric) in metrics {
                let Some(request) = requests.get(name) else { continue };
                total += i128::from(metric.value);
                requested += i128::from(*request);
                count += 1;
            }
            if requested == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let current = i32::try_from(total * 100 / requested).unwrap_or(i32::MAX);
            let ratio = f64::from(current) / f64::from(target);
            Ok(Ratio { ratio, utilization: Some(current), usage: mean(total, count) })
        }
    }
}

fn mean(total: i128, count: usize) -> i64 {
    let count = i128::try_from(count).unwrap_or(1).max(1);
    i64::try_from(total / count).unwrap_or(i64::MAX)
}

/// Rounds up to whole replicas.
#[allow(clippy::cast_possible_truncation, reason = "the conversion saturates")]
fn up(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

/// What a metric of each pod asks for.
///
/// # Errors
/// When there are no pods or no metrics that count.
pub(super) fn of_pods(
    setting: &Setting<'_>,
    mut metrics: PodMetrics,
    target: PodTarget<'_>,
    is_cpu: bool,
) -> Result<Proposal, String> {
    if setting.pods.is_empty() {
        return Err(NO_PODS.into());
    }
    let groups = group(setting, &mut metrics, is_cpu);
    if metrics.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let first = ratio(&metrics, target)?;
    let propose =
        |replicas| Proposal { replicas, utilization: first.utilization, usage: first.usage };
    let unready_matter = !groups.unready.is_empty() && first.ratio > 1.0;
    if !unready_matter && groups.missing.is_empty() {
        let is_near = setting.tolerances.contain(first.ratio);
        let replicas =
            if is_near { setting.current } else { up(first.ratio * f64::from(groups.ready)) };
        return Ok(propose(replicas));
    }
    fill(&mut metrics, &groups, target, first.ratio, setting.now);
    let second = ratio(&metrics, target)?.ratio;
    let turns = (first.ratio < 1.0 && second > 1.0) || (first.ratio > 1.0 && second < 1.0);
    if setting.tolerances.contain(second) || turns {
        return Ok(propose(setting.current));
    }
    let counted = u32::try_from(metrics.len()).unwrap_or(u32::MAX);
    let replicas = up(second * f64::from(counted));
    let against = (second < 1.0 && replicas > setting.current)
        || (second > 1.0 && replicas < setting.current);
    Ok(propose(if against { setting.current } else { replicas }))
}

/// Takes the cautious guess for pods without metrics: that they use all when it goes down, nothing when it goes up.
fn fill(
    metrics: &mut PodMetrics,
    groups: &Groups,
    target: PodTarget<'_>,
    ratio: f64,
    now: Timestamp,
) {
    let guess = |value| PodMetric { value, at: now, window: SignedDuration::ZERO };
    for name in &groups.missing {
        let value = match target {
            PodTarget::Utilization(target, requests) if ratio < 1.0 => {
                let request = requests.get(name).copied().unwrap_or_default();
                Some(request.saturating_mul(i64::from(target.max(100))) / 100)
            }
            PodTarget::Value(target) if ratio < 1.0 => Some(target),
            PodTarget::Utilization(..) if ratio > 1.0 => Some(0),
            PodTarget::Utilization(..) => None,
            PodTarget::Value(_) => Some(0),
        };
        if let Some(value) = value {
            metrics.insert(name.clone(), guess(value));
        }
    }
    if ratio > 1.0 {
        for name in &groups.unready {
            metrics.insert(name.clone(), guess(0));
        }
    }
}

/// What the pods request of a resource, in thousandths, by pod; of one container where it is named.
///
/// # Errors
/// When a container requests nothing.
pub(super) fn requests(
    pods: &[Arc<Pod>],
    container: Option<&str>,
    resource: &str,
) -> Result<BTreeMap<String, i64>, String> {
    let one = |pod: &Pod| {
        let name = pod.metadata.name.clone().unwrap_or_default();
        Ok((name.clone(), request_of(pod, &name, container, resource)?))
    };
    pods.iter().map(|pod| one(pod)).collect()
}

fn request_of(
    pod: &Pod,
    name: &str,
    container: Option<&str>,
    resource: &str,
) -> Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let of_pod = spec.resources.as_ref().and_then(|it| it.requests.as_ref()?.get(resource));
    if let (None, Some(request)) = (container, of_pod) {
        return Ok(milli(&request.0));
    }
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|it| it.restart_policy.as_deref() == Some("Always"));
    let mut sum = 0_i64;
    for it in spec.containers.iter().chain(sidecars) {
        if container.is_some_and(|wanted| wanted != it.name) {
            continue;
        }
        let request = request_of_container(it, resource).ok_or_else(|| {
            format!("missing request for {resource} in container {} of Pod {name}", it.name)
        })?;
        sum = sum.saturating_add(request);
    }
    Ok(sum)
}

fn request_of_container(container: &Container, resource: &str) -> Option<i64> {
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    Some(milli(&requests.get(resource)?.0))
}

/// A quantity in thousandths.
#[must_use]
pub(super) fn milli(text: &str) -> i64 {
    Quantity::parse(text).map(|it| it.milli_value()).unwrap_or_default()
}

/// What one value for all pods together asks for.
///
/// # Errors
/// When there are no pods.
#[allow(clippy::cast_precision_loss, reason = "upstream's ratio is one of floats")]
pub(super) fn of_value(setting: &Setting<'_>, usage: i64, target: i64) -> Result<Proposal, String> {
    let ratio = usage as f64 / target as f64;
    let propose = |replicas| Ok(Proposal { replicas, utilization: None, usage });
    // Nothing is there to be counted: it comes to be, or does not.
    if setting.current == 0 {
        return propose(up(ratio));
    }
    if setting.tolerances.contain(ratio) {
        return propose(setting.current);
    }
    if setting.pods.is_empty() {
        return Err(format!("unable to calculate ready pods: {NO_PODS}"));
    }
    let is_ready = |pod: &&Arc<Pod>| pods::phase(pod) == "Running" && pods::is_ready(pod);
    let ready = setting.pods.iter().filter(is_ready).count();
    propose(up(ratio * f64::from(u32::try_from(ready).unwrap_or(u32::MAX))))
}

/// What one value asks for that is to be shared out among the `status` replicas there are.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "upstream's ratio is one of floats, and conversions saturate"
)]
pub(super) fn of_average(tolerances: Tolerances, usage: i64, target: i64, status: i32) -> Proposal {
    let ratio = usage as f64 / (target as f64 * f64::from(status));
    let replicas =
        if tolerances.contain(ratio) { status } else { up(usage as f64 / target as f64) };
    // With nobody to share it, it is told whole.
    let each = (usage as f64 / f64::from(status.max(1))).ceil() as i64;
    Proposal { replicas, utilization: None, usage: each }
}

#[cfg(test)]
#[path = "calculate_tests.rs"]
mod tests;
