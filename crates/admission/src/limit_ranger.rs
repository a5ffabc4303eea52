//! LimitRanger: containers get the defaults of their namespace, and pods and claims stay within its bounds.

use std::sync::Arc;

use apimachinery::quantity::Quantity;
use apimachinery::{Object, Status, Value};
use async_trait::async_trait;

use crate::{Attributes, Objects, Operation, Plugin};
use quota::{Amounts, amounts};

/// The annotation that tells what was set.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

#[derive(Debug)]
pub(crate) struct LimitRanger {
    objects: Arc<dyn Objects>,
}

impl LimitRanger {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    fn ranges(&self, namespace: &str) -> Vec<Value> {
        let ranges = self.objects.list("", "limitranges", namespace);
        ranges.iter().filter_map(|it| it.to_value().ok()).collect()
    }
}

fn is_claim(attributes: &Attributes<'_>) -> bool {
    attributes.is("", "persistentvolumeclaims")
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_new_pod()
            || is_claim(attributes)
                && matches!(attributes.operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        if !is_claim(attributes) {
            for range in self.ranges(attributes.namespace) {
                set_defaults(attributes.object, &range);
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        for range in self.ranges(attributes.namespace) {
            let mut problems = Vec::new();
            for limit in range.items_at(&["spec", "limits"]) {
                if is_claim(attributes) {
                    check_claim(limit, attributes.object, &mut problems);
                } else {
                    check_pod(limit, attributes.object, &mut problems);
                }
            }
            match problems.as_slice() {
                [] => {}
                [one] => return Err(attributes.forbid(one)),
                many => return Err(attributes.forbid(&format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

/// Sets what a range has as default for containers.
fn set_defaults(pod: &mut Value, range: &Value) {
    let (mut requests, mut limits) = (Object::new(), Object::new());
    for limit in range.items_at(&["spec", "limits"]) {
        if limit.str_at(&["type"]) == "Container" {
            for (into, member) in [(&mut requests, "defaultRequest"), (&mut limits, "default")] {
                for (name, amount) in limit[member].as_object().into_iter().flat_map(Object::iter) {
                    into.insert(name, amount.clone());
                }
            }
        }
    }
    let mut told = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod.items_at_mut(&["spec", list]) {
            let name = container.str_at(&["name"]).to_owned();
            for (member, defaults, noun) in
                [("requests", &requests, "request"), ("limits", &limits, "limit")]
            {
                let set = fill(container, member, defaults);
                if !set.is_empty() {
                    told.push(format!("{} {noun} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        pod.set_at(&["metadata", "annotations", ANNOTATION], text);
    }
}

/// Sets the members that are missing; their names come back.
fn fill(container: &mut Value, member: &str, defaults: &Object) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults.iter() {
        if container.default_at(&["resources", member, name], amount.clone()) {
            set.push(name.to_owned());
        }
    }
    set
}

fn check_pod(limit: &Value, pod: &Value, problems: &mut Vec<String>) {
    match limit.str_at(&["type"]) {
        "Container" => {
            for list in ["containers", "initContainers"] {
                for container in pod.items_at(&["spec", list]) {
                    let of = |member: &str| amounts(&container["resources"][member]);
                    check(limit, "Container", &of("requests"), &of("limits"), problems);
                }
            }
        }
        "Pod" => {
            let of = |member| quota::of_pod(pod, member);
            check(limit, "Pod", &of("requests"), &of("limits"), problems);
        }
        _ => {}
    }
}

fn check(
    limit: &Value,
    kind: &str,
    requests: &Amounts,
    limits: &Amounts,
    problems: &mut Vec<String>,
) {
    for (name, least) in &amounts(&limit["min"]) {
        let at_least = format!("minimum {name} usage per {kind} is {least}");
        problems.extend(too_low(&at_least, *least, requests.get(name), limits.get(name)));
    }
    for (name, most) in &amounts(&limit["max"]) {
        let at_most = format!("maximum {name} usage per {kind} is {most}");
        problems.extend(too_high(&at_most, *most, requests.get(name), limits.get(name)));
    }
    for (name, ratio) in &amounts(&limit["maxLimitRequestRatio"]) {
        let at_most = format!("{name} max limit to request ratio per {kind} is {ratio}");
        problems.extend(too_far(&at_most, *ratio, requests.get(name), limits.get(name)));
    }
}

fn too_low(
    rule: &str,
    least: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    match (request, limit) {
        (None, _) => Some(format!("{rule}.  No request is specified")),
        (Some(request), _) if *request < least => Some(format!("{rule}, but request is {request}")),
        (_, Some(limit)) if *limit < least => Some(format!("{rule}, but limit is {limit}")),
        _ => None,
    }
}

fn too_high(
    rule: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    match (request, limit) {
        (_, None) => Some(format!("{rule}.  No limit is specified")),
        (_, Some(limit)) if *limit > most => Some(format!("{rule}, but limit is {limit}")),
        (Some(request), _) if *request > most => Some(format!("{rule}, but request is {request}")),
        _ => None,
    }
}

fn too_far(
    rule: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let Some(request) = request.filter(|it| !it.is_zero()) else {
        return Some(format!("{rule}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|it| !it.is_zero()) else {
        return Some(format!("{rule}, but no limit is specified or limit is 0"));
    };
    let ratio = limit.as_f64() / request.as_f64();
    (ratio > most.as_f64()).then(|| format!("{rule}, but provided ratio is {ratio:.6}"))
}

fn check_claim(limit: &Value, claim: &Value, problems: &mut Vec<String>) {
    const KIND: &str = "PersistentVolumeClaim";
    if limit.str_at(&["type"]) != KIND {
        return;
    }
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    for (name, least) in &amounts(&limit["min"]) {
        let rule = format!("minimum {name} usage per {KIND} is {least}");
        problems.extend(too_low(&rule, *least, requests.get(name), None));
    }
    for (name, most) in &amounts(&limit["max"]) {
        let rule = format!("maximum {name} usage per {KIND} is {most}");
        match requests.get(name) {
            None => problems.push(format!("{rule}.  No request is specified")),
            Some(request) if request > most => {
                problems.push(format!("{rule}, but request is {request}"));
            }
            Some(_) => {}
        }
    }
}
