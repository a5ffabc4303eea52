//! Objects that are being deleted and are still there: who holds them, and what is left of a namespace.

mod finalizers;
mod namespace;

use apimachinery::{Value, time};
use jiff::Timestamp;

use crate::Case;
use crate::explanation::{Explanation, Finding, State, counted};
use crate::pods::node_finding;

/// Why an object that is being deleted is still there.
pub(crate) fn explain(case: &Case<'_>) -> Explanation {
    let object = case.object;
    let kind = &case.subject.kind;
    let mut findings = Vec::new();
    if kind.is("", "namespaces") {
        findings.extend(namespace::findings(case));
    }
    if kind.is("", "pods") {
        findings.extend(ending(case));
    }
    let held = object.items_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str);
    findings.extend(held.map(|finalizer| finalizers::finding(case, finalizer)));
    if findings.is_empty() {
        let message = "nothing holds it any more: it goes with the next write of it";
        findings.push(Finding::new("NothingHoldsIt", message));
    }
    let since = since(object, case.now);
    let first = findings[0].message.clone();
    let more = match findings.len() - 1 {
        0 => String::new(),
        more => format!(" (and {})", counted(more, "more reason")),
    };
    let summary = format!("{} is being deleted{since} and still there: {first}{more}", case.name());
    Explanation::new(case.subject, State::Terminating, summary).with(findings)
}

/// ` since 3m`
fn since(object: &Value, now: Timestamp) -> String {
    let Ok(at) = time::parse_time(object.str_at(&["metadata", "deletionTimestamp"])) else {
        return String::new();
    };
    let grace = object.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or_default();
    let seconds = now.as_second().saturating_sub(at.as_second().saturating_sub(grace));
    match seconds {
        ..0 => String::new(),
        0..120 => format!(" since {seconds}s"),
        120..7_200 => format!(" since {}m", seconds / 60),
        _ => format!(" since {}h", seconds / 3_600),
    }
}

/// A pod with a node goes when the node's agent says that its containers have ended.
fn ending(case: &Case<'_>) -> Vec<Finding> {
    let pod = case.object;
    let node = pod.str_at(&["spec", "nodeName"]);
    // Its end was confirmed, or is not waited for: what is left are finalizers.
    let is_over = pod.i64_at(&["metadata", "deletionGracePeriodSeconds"]) == Some(0);
    if node.is_empty() || is_over {
        return Vec::new();
    }
    if let Some(problem) = node_finding(case.objects, node) {
        let message = format!(
            "{}; its agent has to say that the pod's containers have ended (delete it with --grace-period=0 --force only \
             if they have)",
            problem.message
        );
        return vec![Finding { message, ..problem }];
    }
    let statuses = pod.items_at(&["status", "containerStatuses"]).iter();
    let running =
        statuses.filter(|it| it.at(&["state", "running"]).is_some_and(|it| !it.is_null()));
    let names: Vec<&str> = running.map(|it| it.str_at(&["name"])).collect();
    let at = time::parse_time(pod.str_at(&["metadata", "deletionTimestamp"])).ok();
    let left = at.map_or(0, |at| at.as_second() - case.now.as_second());
    let grace = match left {
        1.. => format!("its containers have {left}s left to end"),
        _ => "its time to end is over".to_owned(),
    };
    let what = match names.is_empty() {
        true => format!("node {node} has not confirmed its end; {grace}"),
        false => format!("{} on node {node} still runs; {grace}", names.join(", ")),
    };
    vec![Finding::new("ContainersEnding", what)]
}
