//! Pods: waiting for a node, or on one and not ready.

use apimachinery::Value;
use client::ObjectKey;
use scheduler::PodLite;

use crate::Case;
use crate::claims;
use crate::explanation::{Explanation, Finding, Scheduling, State, counted, some_of};
use crate::objects::{Objects, condition, is_true, key_of};
use crate::picture;
use crate::scheduling::{self, Around, Outcome};

/// Why a pod is as it is.
pub(crate) fn explain(case: &Case<'_>) -> Explanation {
    let pod = case.object;
    let phase = pod.str_at(&["status", "phase"]);
    if PodLite::has_ended(pod) {
        let (reason, message) =
            (pod.str_at(&["status", "reason"]), pod.str_at(&["status", "message"]));
        let why = [reason, message].iter().filter(|it| !it.is_empty()).copied().collect::<Vec<_>>();
        let summary = match why.is_empty() {
            true => format!("{} has ended: {phase}", case.name()),
            false => format!("{} has ended: {phase}, {}", case.name(), why.join(": ")),
        };
        return Explanation::new(case.subject, State::Ended, summary).with(containers(pod));
    }
    if pod.str_at(&["spec", "nodeName"]).is_empty() {
        return unbound(case);
    }
    bound(case)
}

fn unbound(case: &Case<'_>) -> Explanation {
    let pod = case.object;
    let wanted = pod.str_at(&["spec", "schedulerName"]);
    let Some(profile) = case.explainer.profile(wanted) else {
        let summary = format!(
            "{} waits for scheduler {wanted}, which is none of those asked here",
            case.name()
        );
        let finding = Finding::new("OtherScheduler", summary.clone());
        return Explanation::new(case.subject, State::Waiting, summary).with(vec![finding]);
    };
    let mut picture = case.picture.borrow_mut();
    let cluster = picture.get_or_insert_with(|| picture::of(case.objects));
    let lite = PodLite::from_value(pod);
    let blocked: Vec<(&str, String)> = profile
        .pre_enqueue
        .iter()
        .filter_map(|it| Some((it.name(), it.blocks(cluster, &lite)?)))
        .collect();
    let mut free = pod.clone();
    free.remove_at(&["spec", "schedulingGates"]);
    let outcome = scheduling::outcome(&Around::of(case.objects), cluster, profile, &free);
    let group = lite.group().filter(|_| profile.gangs);
    if blocked.is_empty() {
        return decided(case, outcome, group.as_ref());
    }
    let by_group = group.is_some() && blocked.iter().any(|it| it.0 == "GangScheduling");
    let mut findings: Vec<Finding> = blocked
        .into_iter()
        .map(|(plugin, message)| Finding::new("Gated", format!("{plugin}: {message}")))
        .collect();
    let then = match outcome {
        Outcome::Fits(node) => format!("without them it would fit on node {node}"),
        Outcome::Refused(it) => format!("and without them it would not fit: {}", it.message),
        Outcome::Failed(error) => format!("and without them: {error}"),
    };
    let gates: Vec<&str> =
        pod.items_at(&["spec", "schedulingGates"]).iter().map(|it| it.str_at(&["name"])).collect();
    let what = match gates.is_empty() {
        true if by_group => "its group and enough pods in it".to_owned(),
        true => "what its resource claims need".to_owned(),
        false => format!("its scheduling gates {} to be removed", some_of(&gates)),
    };
    findings.push(Finding::new("Afterwards", then.clone()));
    let summary = format!("{} waits for {what}; {then}", case.name());
    Explanation::new(case.subject, State::Gated, summary).with(findings)
}

fn decided(case: &Case<'_>, outcome: Outcome, group: Option<&ObjectKey>) -> Explanation {
    let name = case.name();
    match outcome {
        Outcome::Fits(node) => {
            let told = condition(case.object, "PodScheduled").map(|it| it.str_at(&["message"]));
            let mut findings = Vec::new();
            if let Some(told) = told.filter(|it| !it.is_empty()) {
                let message = format!("when it was last looked at: {told}");
                findings.push(Finding::new("LastAttempt", message));
            }
            let summary = match group {
                Some(group) => format!(
                    "{name} alone fits on node {node} now: it waits for its group {} to get nodes together",
                    group.name
                ),
                None => format!(
                    "{name} fits on node {node} now: it waits for the scheduler to look at it"
                ),
            };
            Explanation::new(case.subject, State::Waiting, summary).with(findings)
        }
        Outcome::Failed(error) => {
            let summary = format!("{name} cannot be decided about: {error}");
            let finding = Finding::new("SchedulerError", error);
            Explanation::new(case.subject, State::Waiting, summary).with(vec![finding])
        }
        Outcome::Refused(scheduling) => {
            let mut explanation = Explanation::new(
                case.subject,
                State::Unschedulable,
                summary_of(&name, &scheduling),
            );
            explanation.findings = unbound_claims(case.objects, case.object);
            explanation.scheduling = Some(*scheduling);
            explanation
        }
    }
}

fn summary_of(name: &str, scheduling: &Scheduling) -> String {
    // The condition's message goes on about devices and preemption after the nodes.
    let refused = scheduling.message.split(". ").next().unwrap_or_default();
    let refused = refused.trim_end_matches('.');
    let mut text = format!("{name} fits nowhere: {refused}");
    if let Some(first) = scheduling.suggestions.first() {
        let (more, fits) = (scheduling.suggestions.len() - 1, counted(first.fits, "node"));
        text.push_str(&format!("; it would fit on {fits} if you {}", first.summary()));
        if more > 0 {
            text.push_str(&format!(" (or {})", counted(more, "other way")));
        }
    }
    if let Some(it) = scheduling.preemption.as_ref().filter(|it| it.has_it) {
        let victims = counted(it.victims.len(), "pod");
        text.push_str(&format!("; its priority lets it push {victims} off node {}", it.node));
    }
    text
}

/// The claims of a pod that cannot be used yet.
fn unbound_claims(objects: &dyn Objects, pod: &Value) -> Vec<Finding> {
    let namespace = pod.str_at(&["metadata", "namespace"]);
    let lite = PodLite::from_value(pod);
    let keys = lite.ask.claims.iter().map(|it| ObjectKey::new(namespace, it.name.clone()));
    keys.filter_map(|key| claims::finding(objects, &key)).collect()
}

fn bound(case: &Case<'_>) -> Explanation {
    let (pod, name) = (case.object, case.name());
    let node = pod.str_at(&["spec", "nodeName"]);
    if is_true(pod, "Ready") {
        return Explanation::new(
            case.subject,
            State::Settled,
            format!("{name} is ready on node {node}"),
        );
    }
    let mut findings = Vec::new();
    findings.extend(node_finding(case.objects, node));
    findings.extend(unbound_claims(case.objects, pod));
    findings.extend(containers(pod));
    findings.extend(readiness_gates(pod));
    if findings.is_empty() {
        findings.push(not_begun(pod, node));
    }
    let why: Vec<&str> = findings.iter().map(|it| it.message.as_str()).collect();
    let summary = format!("{name} on node {node} is not ready: {}", why.join("; "));
    Explanation::new(case.subject, State::NotReady, summary).with(findings)
}

/// What is wrong with a pod's node.
pub(crate) fn node_finding(objects: &dyn Objects, node: &str) -> Option<Finding> {
    let key = ObjectKey::new("", node);
    let Some(object) = objects.get("", "nodes", &key) else {
        return Some(
            Finding::new("NodeGone", format!("node {node} does not exist")).of("nodes", &key),
        );
    };
    if is_true(&object, "Ready") {
        return None;
    }
    let message = condition(&object, "Ready").map_or("", |it| it.str_at(&["message"]));
    let text = match message {
        "" => format!("node {node} is not ready"),
        message => format!("node {node} is not ready: {message}"),
    };
    Some(Finding::new("NodeNotReady", text).of("nodes", &key))
}

fn not_begun(pod: &Value, node: &str) -> Finding {
    let told = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];
    let not_true = told.into_iter().find_map(|kind| {
        let it = condition(pod, kind)?;
        (it.str_at(&["status"]) != "True").then_some((kind, it))
    });
    match not_true {
        Some((kind, it)) => {
            let (reason, message) = (it.str_at(&["reason"]), it.str_at(&["message"]));
            Finding::new(
                "Condition",
                format!("{kind} is not true: {reason} {message}").trim_end().to_owned(),
            )
        }
        None => Finding::new(
            "NodeHasNotBegun",
            format!("the agent of node {node} has not said anything of it yet"),
        ),
    }
}

/// Why the containers of a pod are not ready, one by one.
fn containers(pod: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (list, what) in
        [("initContainerStatuses", "init container"), ("containerStatuses", "container")]
    {
        for status in pod.items_at(&["status", list]) {
            let sidecar = pod.items_at(&["spec", "initContainers"]).iter().any(|it| {
                it.str_at(&["name"]) == status.str_at(&["name"])
                    && it.str_at(&["restartPolicy"]) == "Always"
            });
            findings.extend(container(status, what, what == "init container" && !sidecar));
        }
    }
    findings
}

fn container(status: &Value, what: &str, runs_once: bool) -> Option<Finding> {
    let name = status.str_at(&["name"]);
    let say = |reason, why: String| Some(Finding::new(reason, format!("{what} {name} {why}")));
    let restarts = status.i64_at(&["restartCount"]).unwrap_or_default();
    if let Some(waiting) = status.at(&["state", "waiting"]).filter(|it| !it.is_null()) {
        let (reason, message) = (waiting.str_at(&["reason"]), waiting.str_at(&["message"]));
        return match reason {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                let image = status.str_at(&["image"]);
                say("ImagePull", format!("cannot get its image {image}: {reason}: {message}"))
            }
            "CrashLoopBackOff" => {
                let last = status.at(&["lastState", "terminated"]).map(ended).unwrap_or_default();
                say("CrashLoop", format!("ends again and again ({restarts} restarts){last}"))
            }
            "PodInitializing" if message.is_empty() => None,
            "" => say("Waiting", "waits".to_owned()),
            reason => say("Waiting", format!("waits: {reason} {message}").trim_end().to_owned()),
        };
    }
    if let Some(end) = status.at(&["state", "terminated"]).filter(|it| !it.is_null()) {
        let failed = end.i64_at(&["exitCode"]) != Some(0);
        return (failed || !runs_once)
            .then(|| Finding::new("Ended", format!("{what} {name} has ended{}", ended(end))));
    }
    let running = status.at(&["state", "running"]).is_some_and(|it| !it.is_null());
    if running && runs_once {
        return say("InitRunning", "is still running, and the others begin after it".to_owned());
    }
    if running && status.at(&["started"]) == Some(&Value::Bool(false)) {
        return say("StartupProbe", "runs, and its startup probe has not succeeded yet".to_owned());
    }
    if running && !status.bool_at(&["ready"]) {
        return say("ReadinessProbe", "runs, and its readiness probe does not succeed".to_owned());
    }
    None
}

/// `: exit code 1, OOMKilled`
fn ended(end: &Value) -> String {
    let code = end.i64_at(&["exitCode"]).unwrap_or_default();
    let more = [end.str_at(&["reason"]), end.str_at(&["message"])];
    let more: Vec<&str> = more.into_iter().filter(|it| !it.is_empty()).collect();
    match more.is_empty() {
        true => format!(": exit code {code}"),
        false => format!(": exit code {code}, {}", more.join(", ")),
    }
}

/// Conditions that others are to set.
fn readiness_gates(pod: &Value) -> Vec<Finding> {
    let gates = pod.items_at(&["spec", "readinessGates"]).iter();
    let names = gates.map(|it| it.str_at(&["conditionType"]));
    let open = names.filter(|name| !is_true(pod, name));
    let finding =
        |name: &str| Finding::new("ReadinessGate", format!("readiness gate {name} is not true"));
    open.map(finding).collect()
}

/// Why another pod is not ready, in a line and its findings: for those whose pods they are.
pub(crate) fn of_pod(case: &Case<'_>, pod: &Value) -> Finding {
    let key = key_of(pod);
    let kind = client::Resource::built_in("", "pods");
    let subject = crate::Subject { kind, key: key.clone() };
    let explanation = Case { subject: &subject, object: pod, ..*case }.explain();
    let reason = match explanation.state {
        State::Unschedulable => "PodUnschedulable",
        State::Gated => "PodGated",
        State::Terminating => "PodTerminating",
        State::Ended => "PodEnded",
        State::NotReady => "PodNotReady",
        State::Waiting | State::Settled | State::Progressing => "PodWaiting",
    };
    Finding::new(reason, explanation.summary).of("pods", &key).because(explanation.findings)
}
