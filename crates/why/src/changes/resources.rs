//! Changes of amounts: the pod asks for less, or the node has more.

use apimachinery::quantity::{Format, Quantity};
use apimachinery::{Value, value};
use scheduler::PodLite;
use scheduler::node::Row;

use super::candidates::{Candidate, escaped, name_of, on_node, on_pod, rank};

const MEBIBYTE: i64 = 1 << 20;

/// The changes for a node that has not enough left.
pub(super) fn of(pod: &Value, node: &Value, row: &Row) -> Vec<Candidate> {
    let wanted = PodLite::from_value(pod).requests.exact.clone();
    let scheduler::NodeLite { allocatable, allowed_pods, .. } =
        scheduler::NodeLite::from_value(node);
    let mut all = Vec::new();
    if i64::try_from(row.pods.len()).is_ok_and(|count| count >= allowed_pods) {
        let want = i64::try_from(row.pods.len()).unwrap_or(i64::MAX).saturating_add(1);
        let amount = want - allowed_pods;
        let text = format!("let node {} take {amount} more pods ({want})", name_of(node));
        all.push(set_allocatable(node, "pods", (amount, &want.to_string()), text));
    }
    let scalars = wanted.scalars.iter().map(|(name, _)| name.as_str());
    for name in ["cpu", "memory", "ephemeral-storage"].into_iter().chain(scalars) {
        let (has, used, want) = (allocatable.get(name), row.requested.get(name), wanted.get(name));
        let missing = want.saturating_sub(has.saturating_sub(used));
        if want == 0 || missing <= 0 {
            continue;
        }
        all.extend(lower(pod, name, missing));
        let (more, total) =
            (text(name, missing, true), text(name, has.saturating_add(missing), true));
        let node_name = name_of(node);
        let told = format!(
            "give node {node_name} {more} more {name} ({} -> {total})",
            text(name, has, false)
        );
        all.push(set_allocatable(node, name, (missing, &total), told));
    }
    all
}

fn set_allocatable(node: &Value, name: &str, (amount, to): (i64, &str), text: String) -> Candidate {
    let path = format!("/status/allocatable/{}", escaped(name));
    let patch = value!([{"op": "add", "path": (path), "value": to}]);
    Candidate { amount, ..on_node(node, format!("allocatable {name}"), text, patch) }
}

/// The container that asks for the most asks for less.
fn lower(pod: &Value, name: &str, by: i64) -> Option<Candidate> {
    let containers = pod.items_at(&["spec", "containers"]).iter().enumerate();
    let asks = |it: &Value| amount(name, it.at(&["resources", "requests", name])?);
    let (nth, container, asked) = containers
        .filter_map(|(nth, it)| Some((nth, it, asks(it)?)))
        .max_by_key(|(_, _, asked)| *asked)?;
    let to = asked.checked_sub(by).filter(|it| *it > 0)?;
    let to_text = text(name, to, false);
    let path = format!("/spec/containers/{nth}/resources/requests/{}", escaped(name));
    let patch = value!([{"op": "replace", "path": (path), "value": (to_text.as_str())}]);
    let told = format!(
        "lower the {name} request of container {} from {} to {to_text}",
        container.str_at(&["name"]),
        text(name, asked, false),
    );
    let candidate = on_pod(format!("lower {name}"), rank::AMOUNT, told, patch);
    Some(Candidate { amount: by, ..candidate })
}

/// An amount as the scheduler counts it: thousandths of CPUs, whole others.
fn amount(name: &str, value: &Value) -> Option<i64> {
    let quantity = match value {
        Value::String(text) => Quantity::parse(text).ok()?,
        Value::Int(number) => Quantity::new(*number, Format::DecimalSI),
        _ => return None,
    };
    Some(if name == "cpu" { quantity.milli_value() } else { quantity.value() })
}

/// An amount as people write it; bytes in whole mebibytes, where there are some.
pub(crate) fn text(name: &str, amount: i64, up: bool) -> String {
    match name {
        "cpu" => Quantity::from_milli(amount, Format::DecimalSI).to_text().into(),
        "memory" | "ephemeral-storage" if amount >= MEBIBYTE => {
            let whole = if up { amount.saturating_add(MEBIBYTE - 1) } else { amount } / MEBIBYTE;
            Quantity::new(whole * MEBIBYTE, Format::BinarySI).to_text().into()
        }
        _ => amount.to_string(),
    }
}
