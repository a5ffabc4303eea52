//! Services that have nobody to send to.

use std::sync::Arc;

use apimachinery::{Object, Value};
use client::ObjectKey;

use crate::Case;
use crate::explanation::{Explanation, Finding, MAX_NAMED, State, counted, some_of};
use crate::objects::{is_going, is_true, key_of};
use crate::pods::of_pod;

/// Why a service is as it is.
pub(crate) fn explain(case: &Case<'_>) -> Explanation {
    let (service, name) = (case.object, case.name());
    let told = |state, finding: Finding| {
        let summary = finding.message.clone();
        Explanation::new(case.subject, state, summary).with(vec![finding])
    };
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        let other = service.str_at(&["spec", "externalName"]);
        let message = format!("{name} is another name of {other}: it has no endpoints");
        return told(State::Settled, Finding::new("ExternalName", message));
    }
    let selector = service.at(&["spec", "selector"]).and_then(Value::as_object);
    let Some(selector) = selector.filter(|it| !it.is_empty()) else {
        return without_selector(case);
    };
    let all: Vec<Arc<Value>> = case.objects.list("", "pods", &case.subject.key.namespace);
    let pods: Vec<Arc<Value>> = all
        .iter()
        .filter(|it| differing(selector, it).is_empty() && !scheduler::PodLite::has_ended(it))
        .cloned()
        .collect();
    if pods.is_empty() {
        return told(State::Waiting, selects_none(case, selector, &all));
    }
    let everybody = service.bool_at(&["spec", "publishNotReadyAddresses"]);
    let serves = |it: &Arc<Value>| (everybody || is_true(it, "Ready")) && !is_going(it);
    let ready: Vec<Arc<Value>> = pods.iter().filter(|it| serves(it)).cloned().collect();
    let mut findings = ports(service, if ready.is_empty() { &pods } else { &ready });
    if ready.is_empty() {
        let because: Vec<Finding> =
            pods.iter().take(MAX_NAMED).map(|pod| of_pod(case, pod)).collect();
        let message = format!(
            "{name} selects {}, and none is ready: {}",
            counted(pods.len(), "pod"),
            because.first().map_or("", |it| it.message.as_str())
        );
        findings.insert(0, Finding::new("NoneReady", message.clone()).because(because));
        return Explanation::new(case.subject, State::NotReady, message).with(findings);
    }
    let state = if findings.is_empty() { State::Settled } else { State::NotReady };
    let summary = match findings.first() {
        None => format!("{name} has {} of {} ready", ready.len(), counted(pods.len(), "pod")),
        Some(first) => first.message.clone(),
    };
    Explanation::new(case.subject, state, summary).with(findings)
}

/// Somebody else keeps the endpoints of such a service.
fn without_selector(case: &Case<'_>) -> Explanation {
    let key = &case.subject.key;
    let slices = case.objects.list("discovery.k8s.io", "endpointslices", &key.namespace);
    let own = slices
        .iter()
        .filter(|it| it.str_at(&["metadata", "labels", "kubernetes.io/service-name"]) == key.name);
    let endpoints: usize = own.map(|it| it.items_at(&["endpoints"]).len()).sum();
    let name = case.name();
    let (state, message) = match endpoints {
        0 => (
            State::Waiting,
            format!(
                "{name} has no selector, and nobody has made EndpointSlices for it (label kubernetes.io/service-name)"
            ),
        ),
        count => (
            State::Settled,
            format!(
                "{name} has no selector; its EndpointSlices have {}",
                counted(count, "endpoint")
            ),
        ),
    };
    let finding = Finding::new("NoSelector", message.clone());
    Explanation::new(case.subject, state, message).with(vec![finding])
}

/// The pairs of a selector that a pod does not have.
fn differing<'s>(selector: &'s Object, pod: &Value) -> Vec<(&'s str, &'s str)> {
    let labels = pod.at(&["metadata", "labels"]).and_then(Value::as_object);
    let differs = |(key, value): &(&str, &Value)| labels.and_then(|it| it.get(key)) != Some(*value);
    let pairs = selector.iter().filter(differs);
    pairs.map(|(key, value)| (key, value.as_str().unwrap_or_default())).collect()
}

fn selects_none(case: &Case<'_>, selector: &Object, all: &[Arc<Value>]) -> Finding {
    let pairs: Vec<String> = selector
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let name = case.name();
    let mut near = Vec::new();
    for pod in all.iter().filter(|it| selector.len() > 1 || shares_key(selector, it)) {
        let [(key, value)] = differing(selector, pod)[..] else { continue };
        let pod_key = key_of(pod);
        let given = pod.str_at(&["metadata", "labels", key]);
        let has = match given {
            "" => format!("has no label {key}"),
            other => format!("has {key}={other}"),
        };
        let message = format!("pod {} {has}, not {key}={value}", pod_key.name);
        let finding = Finding::new("NearlySelected", message).of("pods", &pod_key);
        near.push((distance(given, value), finding));
    }
    near.sort_by_key(|(distance, _)| *distance);
    let because: Vec<Finding> = near.into_iter().take(MAX_NAMED).map(|(_, it)| it).collect();
    let more = match (because.first(), elsewhere(case, selector)) {
        (Some(near), _) => format!("; nearest: {}", near.message),
        (None, Some(namespace)) => {
            format!(
                "; pods in namespace {namespace} have those labels, and a service selects in its own only"
            )
        }
        (None, None) => String::new(),
    };
    let message = format!("{name} selects {}, which no pod has{more}", pairs.join(","));
    Finding::new("SelectsNone", message).because(because)
}

/// How many letters have to be changed, added or left out to make one text of the other. Labels are short.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (nth, letter) in from.chars().enumerate() {
        let mut before = std::mem::replace(&mut row[0], nth + 1);
        for (place, other) in to.iter().enumerate() {
            let changed = before + usize::from(letter != *other);
            before = row[place + 1];
            row[place + 1] = changed.min(before + 1).min(row[place] + 1);
        }
    }
    row[to.len()]
}

/// With one label only, every pod differs in one; those count that have it with another value.
fn shares_key(selector: &Object, pod: &Value) -> bool {
    selector.keys().any(|key| !pod.str_at(&["metadata", "labels", key]).is_empty())
}

fn elsewhere(case: &Case<'_>, selector: &Object) -> Option<String> {
    let pods = case.objects.list("", "pods", "");
    let found = pods.iter().find(|it| differing(selector, it).is_empty())?;
    Some(key_of(found).namespace.to_string())
}

/// Ports that lead nowhere, as far as objects tell.
fn ports(service: &Value, pods: &[Arc<Value>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for port in service.items_at(&["spec", "ports"]) {
        let protocol = match port.str_at(&["protocol"]) {
            "" => "TCP",
            other => other,
        };
        let number = port.i64_at(&["port"]).unwrap_or_default();
        match port.at(&["targetPort"]) {
            Some(Value::String(name)) => {
                let without: Vec<String> = pods
                    .iter()
                    .filter(|it| declared(it, protocol).all(|(it, _)| it != name.as_str()))
                    .map(|it| key_of(it).name.to_string())
                    .collect();
                if !without.is_empty() {
                    let message = format!(
                        "port {number} goes to the port named {name}, which {} of {} have not: {}",
                        without.len(),
                        counted(pods.len(), "pod"),
                        some_of(&without)
                    );
                    findings.push(Finding::new("PortNameMissing", message));
                }
            }
            target => {
                let target = target.and_then(Value::as_i64).unwrap_or(number);
                findings.extend(undeclared(number, target, protocol, pods));
            }
        }
    }
    findings
}

/// A pod need not declare its ports; where it declares others and not this one, that may be the mistake.
fn undeclared(port: i64, target: i64, protocol: &str, pods: &[Arc<Value>]) -> Option<Finding> {
    let pod = pods.first()?;
    let all: Vec<i64> = declared(pod, protocol).map(|(_, port)| port).collect();
    if all.is_empty() || all.contains(&target) {
        return None;
    }
    let others: Vec<String> = all.iter().map(ToString::to_string).collect();
    let key: ObjectKey = key_of(pod);
    let message = format!(
        "port {port} goes to {target}, and pod {} declares {protocol} ports {} only (it may listen on {target} all the same)",
        key.name,
        some_of(&others)
    );
    Some(Finding::new("PortNotDeclared", message).of("pods", &key))
}

/// The names and numbers of a pod's ports.
fn declared<'p>(pod: &'p Value, protocol: &'p str) -> impl Iterator<Item = (&'p str, i64)> {
    let sidecar = |it: &&Value| it.str_at(&["restartPolicy"]) == "Always";
    let sidecars = pod.items_at(&["spec", "initContainers"]).iter().filter(sidecar);
    let containers = pod.items_at(&["spec", "containers"]).iter().chain(sidecars);
    let ports = containers.flat_map(|it| it.items_at(&["ports"]));
    let same = move |it: &&Value| match it.str_at(&["protocol"]) {
        "" => protocol == "TCP",
        other => other == protocol,
    };
    ports
        .filter(same)
        .map(|it| (it.str_at(&["name"]), it.i64_at(&["containerPort"]).unwrap_or_default()))
}
