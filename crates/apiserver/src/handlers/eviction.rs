//! POST to `pods/NAME/eviction`: a delete that asks the pod's disruption budget first. Upstream:
//! `pkg/registry/core/pod/storage/eviction.go`.
//!
//! It does not know how many pods a budget allows to go: that is the disruption controller's arithmetic. It takes one
//! from what the budget's status allows, by compare-and-set, and writes down which pod that was for.

use std::sync::Arc;

use admission::{Objects as _, Operation};
use apimachinery::labels::Selector;
use apimachinery::status::{Cause, GroupResource};
use apimachinery::{Status, Value, time, value};
use auth::Objects as _;
use http::Response;

use super::admit::{Admission, admit, judge};
use super::create::place_in_namespace;
use super::delete::{self, DeleteOptions};
use crate::Server;
use crate::body::Body;
use crate::decode;
use crate::error::MODIFIED;
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::negotiate_without_rows;
use crate::objects::CachedObjects;
use crate::options::WriteOptions;
use crate::persist::{self, Current, Replaced};
use crate::posted;
use crate::respond;
use crate::target::Target;

/// How often an eviction that lost a race is tried again (upstream: 20 steps).
const ATTEMPTS: usize = 20;
/// The most pods that a budget waits for at once (upstream: `MaxDisruptedPodSize`).
const MAX_DISRUPTED_PODS: usize = 2_000;
const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// The version that clients of old post, which says the same.
const ALSO: [&str; 1] = ["policy/v1beta1"];

/// What the pod's budget says.
enum Verdict {
    /// It may go.
    Free,
    /// It may go as long as it is in this very state: it is not ready, and so does not count.
    Unhealthy { budget: String },
}

/// Evicts a pod.
pub(crate) async fn create(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let body = exchange.read(body).await?;
    let write = WriteOptions::of(exchange, "CreateOptions")?;
    let form = negotiate_without_rows(exchange)?;
    let kind = (&posted::EVICTION, ALSO.as_slice());
    let mut eviction = decode::posted(exchange, kind, &body, write.field_validation)?;
    place_in_namespace(target, &mut eviction)?;
    let name = exchange.info.name.to_string();
    if eviction.str_at(&["metadata", "name"]) != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let given = eviction.get("deleteOptions").cloned().unwrap_or_else(Value::object);
    refuse_two_minds(exchange, &given)?;
    let mut options = DeleteOptions::checked(&given)?;
    options.dry_run |= write.dry_run;
    let admission = Admission {
        operation: Operation::Create,
        target,
        subresource: "eviction",
        name: name.clone(),
        dry_run: options.dry_run,
        delete_options: Value::Null,
    };
    admit(server, exchange, &admission, &mut eviction, None).await?;
    judge(server, exchange, &admission, &mut eviction, None).await?;
    evict(server, target, &name, &options).await?;
    let mut done = Status { success: true, ..Status::default() }.to_value();
    done.set_at(&["code"], 201);
    Ok(respond::plain(form, 201, &done))
}

/// What is asked for in the query and in the options has to be the same, where both say something.
fn refuse_two_minds(exchange: &Exchange, options: &Value) -> Result<(), Status> {
    let asked: Vec<&str> = exchange.query.all("dryRun").collect();
    let said: Vec<&str> = options.items_at(&["dryRun"]).iter().filter_map(Value::as_str).collect();
    if asked.is_empty() || said.is_empty() || asked == said {
        return Ok(());
    }
    let (asked, said) = (asked.join(" "), said.join(" "));
    let message =
        format!("Non-matching dry-run options in request and content: [{asked}] and [{said}]");
    Err(Status { code: 500, message, ..Status::default() })
}

async fn evict(
    server: &Arc<Server>,
    target: &Target,
    name: &str,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let pod = match without_budget(server, target, name, options).await? {
        Budgeted::Gone => return Ok(()),
        Budgeted::Pod(pod) => pod,
    };
    let verdict = ask_budget(server, &pod, options.dry_run).await?;
    let Verdict::Unhealthy { budget } = verdict else {
        return remove(server, target, name, options).await;
    };
    // It must not have become ready since.
    let mut exact = options.clone();
    exact.resource_version = Some(pod.str_at(&["metadata", "resourceVersion"]).to_owned());
    match remove(server, target, name, &exact).await {
        Err(status) if status.reason == "Conflict" && options.resource_version.is_none() => {
            Err(unprocessed(&budget))
        }
        other => other,
    }
}

enum Budgeted {
    /// The pod needed no budget and is on its way.
    Gone,
    /// This pod's budget has to be asked.
    Pod(Value),
}

/// Evicts a pod at once that no budget counts: one that is over, not yet running, or going already.
async fn without_budget(
    server: &Arc<Server>,
    target: &Target,
    name: &str,
    options: &DeleteOptions,
) -> Result<Budgeted, Status> {
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        let pod = persist::current(server, target, name).await?.value;
        let going = pod.at(&["metadata", "deletionTimestamp"]).is_some();
        let phase = pod.str_at(&["status", "phase"]);
        if !going && !matches!(phase, "Succeeded" | "Failed" | "Pending") {
            return Ok(Budgeted::Pod(Arc::unwrap_or_clone(pod)));
        }
        let mut exact = options.clone();
        if !going && phase == "Pending" && exact.resource_version.is_none() {
            // It may begin to run meanwhile.
            exact.resource_version = Some(pod.str_at(&["metadata", "resourceVersion"]).to_owned());
        }
        match remove(server, target, name, &exact).await {
            Ok(()) => return Ok(Budgeted::Gone),
            Err(status) if status.reason == "Conflict" && options.resource_version.is_none() => {
                let uid = pod.str_at(&["metadata", "uid"]);
                if options.uid.as_deref().is_some_and(|wanted| wanted != uid) {
                    return Err(status);
                }
                failure = Some(status);
            }
            Err(status) => return Err(status),
        }
    }
    Err(failure.unwrap_or_else(|| Status::conflict(target.group_resource(), name, MODIFIED)))
}

/// Writes into the pod why it goes, and deletes it.
async fn remove(
    server: &Arc<Server>,
    target: &Target,
    name: &str,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let mut options = options.clone();
    if !options.dry_run {
        let version = mark(server, target, name, &options).await?;
        if options.resource_version.is_some() {
            options.resource_version = Some(version);
        }
    }
    delete::remove_unasked(server, target, name, &options).await?;
    Ok(())
}

/// Sets the condition DisruptionTarget; the pod's version afterwards comes back.
async fn mark(
    server: &Arc<Server>,
    target: &Target,
    name: &str,
    options: &DeleteOptions,
) -> Result<String, Status> {
    let mut current: Current = persist::current(server, target, name).await?;
    for _ in 0..ATTEMPTS {
        delete::check_preconditions(target, name, options, &current.value)?;
        let mut pod = Value::clone(&current.value);
        set_target(&mut pod, &time::format_time(server.clock.now()));
        match persist::replace(server, target, name, &current.kv, pod, false).await? {
            Replaced::Done(stored) => {
                let stored = stored.into_value()?;
                return Ok(stored.str_at(&["metadata", "resourceVersion"]).to_owned());
            }
            Replaced::Conflict(newer) => current = newer,
        }
    }
    Err(Status::conflict(target.group_resource(), name, MODIFIED))
}

fn set_target(pod: &mut Value, now: &str) {
    const KIND: &str = "DisruptionTarget";
    let mut conditions = pod.items_at(&["status", "conditions"]).to_vec();
    let before = conditions.iter().find(|it| it.str_at(&["type"]) == KIND);
    let since = before.filter(|it| it.str_at(&["status"]) == "True");
    let since = since.map_or(now, |it| it.str_at(&["lastTransitionTime"])).to_owned();
    let condition = value!({"type": KIND, "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": since});
    match conditions.iter_mut().find(|it| it.str_at(&["type"]) == KIND) {
        Some(existing) => *existing = condition,
        None => conditions.push(condition),
    }
    pod.set_at(&["status", "conditions"], Value::Array(conditions));
}

/// Asks the pod's budget, and takes one disruption from it where the pod counts.
async fn ask_budget(server: &Server, pod: &Value, dry_run: bool) -> Result<Verdict, Status> {
    let objects = CachedObjects::new(Arc::clone(&server.hub), Arc::clone(&server.catalog));
    let namespace = pod.str_at(&["metadata", "namespace"]);
    let mut names = Vec::new();
    for budget in objects.list("policy", "poddisruptionbudgets", namespace) {
        let budget = budget.to_value().map_err(Status::internal)?;
        if selects(&budget, pod) {
            names.push(budget.str_at(&["metadata", "name"]).to_owned());
        }
    }
    let name = match names.as_slice() {
        [] => return Ok(Verdict::Free),
        [one] => one,
        _ => {
            return Err(Status {
                code: 500,
                message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.".into(),
                ..Status::default()
            });
        }
    };
    for _ in 0..ATTEMPTS {
        let live = objects.get_live("policy", "poddisruptionbudgets", namespace, name).await?;
        let Some(live) = live else { return Ok(Verdict::Free) };
        let mut budget = live.to_value().map_err(Status::internal)?;
        if !is_ready(pod) && lets_unhealthy_go(&budget) {
            return Ok(Verdict::Unhealthy { budget: name.clone() });
        }
        take_one(&mut budget, pod.str_at(&["metadata", "name"]), server)?;
        if dry_run
            || objects.compare_and_set_status("policy", "poddisruptionbudgets", budget).await?
        {
            return Ok(Verdict::Free);
        }
    }
    let why = format!("couldn't update PodDisruptionBudget {name:?} due to conflicts");
    Err(Status::timeout(why, 10))
}

fn selects(budget: &Value, pod: &Value) -> bool {
    // A budget without selector selects nothing, one with an empty selector everything.
    let Some(selector) = budget.at(&["spec", "selector"]) else { return false };
    Selector::from_value(Some(selector)).is_ok_and(|selector| {
        selector.matches(|key| pod.at(&["metadata", "labels", key]).and_then(Value::as_str))
    })
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.items_at(&["status", "conditions"]);
    conditions.iter().any(|it| it.str_at(&["type"]) == "Ready" && it.str_at(&["status"]) == "True")
}

/// Whether a pod that is not ready may go without being counted.
fn lets_unhealthy_go(budget: &Value) -> bool {
    let number = |member: &str| budget.i64_at(&["status", member]).unwrap_or_default();
    let (healthy, wanted) = (number("currentHealthy"), number("desiredHealthy"));
    budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow"
        || (healthy >= wanted && wanted > 0)
}

/// Takes one disruption from a budget, for this pod.
fn take_one(budget: &mut Value, pod: &str, server: &Server) -> Result<(), Status> {
    let name = budget.str_at(&["metadata", "name"]).to_owned();
    let of = GroupResource { group: "policy", resource: "poddisruptionbudget" };
    let observed = budget.i64_at(&["status", "observedGeneration"]).unwrap_or_default();
    if observed < budget.i64_at(&["metadata", "generation"]).unwrap_or_default() {
        return Err(unprocessed(&name));
    }
    let allowed = budget.i64_at(&["status", "disruptionsAllowed"]).unwrap_or_default();
    if allowed < 0 {
        return Err(Status::forbidden(of, &name, "pdb disruptions allowed is negative"));
    }
    let waiting = budget.at(&["status", "disruptedPods"]).and_then(Value::as_object);
    if waiting.is_some_and(|it| it.len() > MAX_DISRUPTED_PODS) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(of, &name, why));
    }
    if allowed == 0 {
        return Err(violates(refusal(budget, &name)));
    }
    budget.set_at(&["status", "disruptionsAllowed"], allowed - 1);
    let now = time::format_time(server.clock.now());
    if allowed == 1 {
        forbid_more(budget, &now);
    }
    budget.set_at(&["status", "disruptedPods", pod], now);
    Ok(())
}

/// Why a budget allows nothing now.
fn refusal(budget: &Value, name: &str) -> String {
    let number = |member: &str| budget.i64_at(&["status", member]).unwrap_or_default();
    let (healthy, wanted) = (number("currentHealthy"), number("desiredHealthy"));
    let conditions = budget.items_at(&["status", "conditions"]);
    let condition = conditions
        .iter()
        .find(|it| it.str_at(&["type"]) == "DisruptionAllowed")
        .filter(|it| it.str_at(&["status"]) == "False" && !it.str_at(&["message"]).is_empty());
    let says = |member: &str| condition.map(|it| it.str_at(&[member])).unwrap_or_default();
    let stem = format!("The disruption budget {name} does not allow evicting pods currently");
    match (says("reason"), says("message")) {
        ("SyncFailed", message) => format!("{stem} because it failed sync: {message}"),
        _ if healthy <= wanted => format!(
            "The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
        ),
        ("", "") => stem,
        (reason, message) => format!("{stem} ({reason}): {message}"),
    }
}

/// The budget's condition once nothing more is allowed.
fn forbid_more(budget: &mut Value, now: &str) {
    let generation = budget.i64_at(&["status", "observedGeneration"]).unwrap_or_default();
    let condition = value!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods",
        "message": "", "observedGeneration": generation, "lastTransitionTime": now});
    let mut conditions = budget.items_at(&["status", "conditions"]).to_vec();
    match conditions.iter_mut().find(|it| it.str_at(&["type"]) == "DisruptionAllowed") {
        Some(existing) if existing.str_at(&["status"]) == "False" => return,
        Some(existing) => *existing = condition,
        None => conditions.push(condition),
    }
    budget.set_at(&["status", "conditions"], Value::Array(conditions));
}

fn unprocessed(name: &str) -> Status {
    violates(format!("The disruption budget {name} is still being processed by the server."))
}

fn violates(message: String) -> Status {
    let mut status = Status::too_many_requests(VIOLATES, 0);
    if let Some(details) = &mut status.details {
        details.causes = vec![Cause { reason: "DisruptionBudget", message, field: String::new() }];
    }
    status
}
