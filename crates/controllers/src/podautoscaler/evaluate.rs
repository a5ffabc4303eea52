//! What one metric of a spec asks for, and what the status says of it.

use apimachinery::quantity::{Format, Quantity};
use apimachinery::{Object, Value, value};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, MetricIdentifier, MetricSpec, MetricTarget,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Kinds;
use super::calculate::{self, PodTarget, Proposal, Setting, milli};
use super::sources::{Lack, Reader};
use crate::owner::to_value;

/// Where a metric is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    /// The autoscaler's namespace.
    pub namespace: &'a str,
    /// The scale's selector.
    pub selector: &'a str,
    /// How many replicas the scale's status tells.
    pub status_replicas: i32,
    /// What replicas are calculated with.
    pub setting: Setting<'a>,
    /// The kinds that metrics may be about.
    pub kinds: &'a Kinds,
}

/// A metric that asks for so many replicas.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    /// How many.
    pub replicas: i32,
    /// What upstream calls the metric.
    pub name: String,
    /// Its part of `status.currentMetrics`.
    pub status: Value,
}

/// Why a metric asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invalid {
    /// The reason of event and condition.
    pub reason: &'static str,
    /// The message of the event.
    pub why: String,
    /// The error that is told of the metric.
    pub error: String,
}

/// What one source says: how much is asked for, its name, and the member of the status.
type Said = Result<(Proposal, String, Value), Lack>;

/// What a metric asks for; `None` where something has to be read first.
pub(super) fn metric(
    reader: &mut Reader<'_>,
    scene: &Scene<'_>,
    spec: &MetricSpec,
) -> Option<Result<Asked, Invalid>> {
    let (said, reason, doing, member) = match spec.type_.as_str() {
        "Object" => {
            let doing = "failed to get object metric value: ".to_owned();
            (object(reader, scene, spec), "FailedGetObjectMetric", doing, "object")
        }
        "Pods" => {
            let doing = "failed to get pods metric value: ".to_owned();
            (pods(reader, scene, spec), "FailedGetPodsMetric", doing, "pods")
        }
        "Resource" => {
            let name = spec.resource.as_ref().map_or("", |it| it.name.as_str());
            let doing = format!("failed to get {name} resource metric value: ");
            (resource(reader, scene, spec), "FailedGetResourceMetric", doing, "resource")
        }
        "ContainerResource" => {
            let name = spec.container_resource.as_ref().map_or("", |it| it.container.as_str());
            let doing = format!("failed to get {name} container metric value: ");
            let said = container(reader, scene, spec);
            (said, "FailedGetContainerResourceMetric", doing, "containerResource")
        }
        "External" => {
            let name = spec.external.as_ref().map_or("", |it| it.metric.name.as_str());
            let doing = format!("failed to get {name} external metric value: ");
            (external(reader, scene, spec), "FailedGetExternalMetric", doing, "external")
        }
        other => {
            let error = format!("unknown metric source type {other:?}");
            (Err(Lack::Error(error)), "InvalidMetricSourceType", String::new(), "")
        }
    };
    match said {
        Ok((proposal, name, current)) => {
            let mut status = Object::new();
            status.insert("type", spec.type_.as_str());
            status.insert(member, current);
            Some(Ok(Asked { replicas: proposal.replicas, name, status: Value::Object(status) }))
        }
        Err(Lack::Unread) => None,
        Err(Lack::Error(why)) => Some(Err(Invalid { reason, error: format!("{doing}{why}"), why })),
    }
}

fn quantity(milli: i64) -> Value {
    Value::from(Quantity::from_milli(milli, Format::DecimalSI).to_text().as_str())
}

fn identifier(metric: &MetricIdentifier) -> Value {
    to_value(metric)
}

/// Go's text of a selector.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels.map(|(key, value)| format!("{key}: {value},")).collect();
    let requirement =
        |it: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement| {
            let values = it.values.clone().unwrap_or_default().join(" ");
            format!(
                "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
                it.key, it.operator
            )
        };
    let expressions: String =
        selector.match_expressions.iter().flatten().map(requirement).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

fn of(target: &MetricTarget) -> (Option<i64>, Option<i64>) {
    let read = |it: &Option<k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        it.as_ref().map(|it| milli(&it.0))
    };
    (read(&target.value), read(&target.average_value))
}

fn absent(what: &str) -> Lack {
    Lack::Error(format!("invalid {what} metric source: it is not given"))
}

fn described(
    reader: &mut Reader<'_>,
    scene: &Scene<'_>,
    about: &CrossVersionObjectReference,
    metric: &MetricIdentifier,
) -> Result<i64, Lack> {
    let version = about.api_version.as_deref().unwrap_or_default();
    let is_namespace = about.kind == "Namespace" && !version.contains('/');
    let resource =
        if is_namespace { None } else { Some(scene.kinds.name_in_paths(version, &about.kind)?) };
    let read = reader.object(
        scene.namespace,
        resource.as_deref(),
        &about.name,
        &metric.name,
        metric.selector.as_ref(),
    );
    read.map_err(|it| match it {
        Lack::Unread => Lack::Unread,
        Lack::Error(why) => Lack::Error(format!(
            "unable to get metric {}: {} on {} {}/{why}",
            metric.name, about.kind, scene.namespace, about.name
        )),
    })
}

fn object(reader: &mut Reader<'_>, scene: &Scene<'_>, spec: &MetricSpec) -> Said {
    let source = spec.object.as_ref().ok_or_else(|| absent("object"))?;
    let about = &source.described_object;
    let status = |current: Value| value!({"describedObject": (to_value(about)), "metric": (identifier(&source.metric)), "current": current});
    match of(&source.target) {
        (Some(target), _) => {
            let usage = described(reader, scene, about, &source.metric)?;
            let proposal = calculate::of_value(&scene.setting, usage, target)?;
            let name = format!("{} metric {}", about.kind, source.metric.name);
            Ok((proposal, name, status(value!({"value": (quantity(proposal.usage))}))))
        }
        (None, Some(target)) => {
            let usage = described(reader, scene, about, &source.metric)?;
            let proposal = average(scene, usage, target);
            let name = external_name(&source.metric);
            Ok((proposal, name, status(value!({"averageValue": (quantity(proposal.usage))}))))
        }
        (None, None) => Err(Lack::Error("invalid object metric source: neither a value target nor an average value target was set".into())),
    }
}

fn average(scene: &Scene<'_>, usage: i64, target: i64) -> Proposal {
    calculate::of_average(scene.setting.tolerances, usage, target, scene.status_replicas)
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, shown(metric.selector.as_ref()))
}

fn pods(reader: &mut Reader<'_>, scene: &Scene<'_>, spec: &MetricSpec) -> Said {
    let source = spec.pods.as_ref().ok_or_else(|| absent("pods"))?;
    let metric = &source.metric;
    let (_, target) = of(&source.target);
    let read = reader.pods(scene.namespace, scene.selector, &metric.name, metric.selector.as_ref());
    let doing = format!("unable to get metric {}: ", metric.name);
    let metrics = read.map_err(|it| it.while_doing(&doing))?;
    let target = PodTarget::Value(target.unwrap_or_default());
    let proposal = calculate::of_pods(&scene.setting, metrics, target, false)?;
    let status = value!({"metric": (identifier(metric)), "current": {"averageValue": (quantity(proposal.usage))}});
    Ok((proposal, format!("pods metric {}", metric.name), status))
}

fn resource(reader: &mut Reader<'_>, scene: &Scene<'_>, spec: &MetricSpec) -> Said {
    let source = spec.resource.as_ref().ok_or_else(|| absent("resource"))?;
    let (proposal, name, current) = of_resource(reader, scene, &source.name, None, &source.target)?;
    Ok((proposal, name, value!({"name": (source.name.as_str()), "current": current})))
}

fn container(reader: &mut Reader<'_>, scene: &Scene<'_>, spec: &MetricSpec) -> Said {
    let source = spec.container_resource.as_ref().ok_or_else(|| absent("container resource"))?;
    let (proposal, name, current) =
        of_resource(reader, scene, &source.name, Some(&source.container), &source.target)?;
    let status = value!({"name": (source.name.as_str()), "container": (source.container.as_str()), "current": current});
    Ok((proposal, name, status))
}

fn of_resource(
    reader: &mut Reader<'_>,
    scene: &Scene<'_>,
    resource: &str,
    container: Option<&str>,
    target: &MetricTarget,
) -> Said {
    let mut read = || {
        let read = reader.resource(scene.namespace, scene.selector, resource, container);
        read.map_err(|it| {
            it.while_doing(&format!("unable to get metrics for resource {resource}: "))
        })
    };
    let is_cpu = resource == "cpu";
    if let (_, Some(target)) = of(target) {
        let proposal = read().and_then(|metrics| {
            Ok(calculate::of_pods(&scene.setting, metrics, PodTarget::Value(target), is_cpu)?)
        });
        let proposal =
            proposal.map_err(|it| it.while_doing(&format!("failed to get {resource} usage: ")))?;
        let current = value!({"averageValue": (quantity(proposal.usage))});
        return Ok((proposal, format!("{resource} resource"), current));
    }
    let Some(percent) = target.average_utilization else {
        return Err(Lack::Error("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into()));
    };
    let proposal = read().and_then(|metrics| {
        let requests = calculate::requests(scene.setting.pods, container, resource)?;
        let target = PodTarget::Utilization(percent, &requests);
        Ok(calculate::of_pods(&scene.setting, metrics, target, is_cpu)?)
    });
    let proposal = proposal
        .map_err(|it| it.while_doing(&format!("failed to get {resource} utilization: ")))?;
    let current = value!({"averageUtilization": (i64::from(proposal.utilization.unwrap_or_default())),
        "averageValue": (quantity(proposal.usage))});
    Ok((proposal, format!("{resource} resource utilization (percentage of request)"), current))
}

fn external(reader: &mut Reader<'_>, scene: &Scene<'_>, spec: &MetricSpec) -> Said {
    let source = spec.external.as_ref().ok_or_else(|| absent("external"))?;
    let metric = &source.metric;
    let targets = of(&source.target);
    if targets == (None, None) {
        return Err(Lack::Error("invalid external metric source: neither a value target nor an average value target was set".into()));
    }
    let read = reader.external(scene.namespace, &metric.name, metric.selector.as_ref());
    let usage = read.map_err(|it| {
        let selector = shown(metric.selector.as_ref());
        it.while_doing(&format!(
            "unable to get external metric {}/{}/{selector}: ",
            scene.namespace, metric.name
        ))
    })?;
    let (proposal, member) = match targets {
        (_, Some(target)) => (average(scene, usage, target), "averageValue"),
        (value, None) => {
            let target = value.unwrap_or_default();
            (calculate::of_value(&scene.setting, usage, target)?, "value")
        }
    };
    let mut current = Object::new();
    current.insert(member, quantity(proposal.usage));
    let status = value!({"metric": (identifier(metric)), "current": (Value::Object(current))});
    Ok((proposal, external_name(metric), status))
}
