//! Cells that the kinds with pod templates share.

use apimachinery::labels::Selector;
use apimachinery::{Object, Value};
use jiff::Timestamp;

use crate::table;

/// Names and images of the containers of a pod's spec, each joined by commas.
pub(super) fn containers(spec: Option<&Value>) -> [Value; 2] {
    let list = spec.map_or(&[][..], |it| it.items_at(&["containers"]));
    ["name", "image"].map(|member| {
        let texts: Vec<&str> = list.iter().map(|it| it.str_at(&[member])).collect();
        texts.join(",").into()
    })
}

/// A label selector as text.
pub(super) fn selector(selector: Option<&Value>) -> Value {
    let text = Selector::from_value(selector).map(|it| it.to_string()).unwrap_or_default();
    if selector.is_none() || text.is_empty() { "<none>".into() } else { text.into() }
}

/// Labels as text.
pub(super) fn labels(map: Option<&Value>) -> Value {
    let parts: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Object::iter)
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if parts.is_empty() { "<none>".into() } else { parts.join(",").into() }
}

/// A number, 0 where it is absent.
pub(super) fn count(value: &Value, path: &[&str]) -> Value {
    value.i64_at(path).unwrap_or_default().into()
}

/// A text, `<none>` where it is empty.
pub(super) fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// A text, `<unset>` where it is absent.
pub(super) fn or_unset(text: Option<&Value>) -> Value {
    text.and_then(Value::as_str).unwrap_or("<unset>").into()
}

/// How volumes are used, in the order that upstream shows: `RWO,ROX`.
pub(super) fn access_modes(modes: &[Value]) -> Value {
    let given = |mode: &str| modes.iter().any(|it| it.as_str() == Some(mode));
    let short: Vec<&str> = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .into_iter()
    .filter_map(|(mode, short)| given(mode).then_some(short))
    .collect();
    short.join(",").into()
}

/// Name and age: the table of many kinds.
pub(super) fn name_and_age(value: &Value, now: jiff::Timestamp) -> Vec<Value> {
    vec![value.str_at(&["metadata", "name"]).into(), crate::table::created(value, now)]
}

/// The row of what keeps replicas of a template, which ends in what selects them.
pub(super) fn replicas_row(value: &Value, now: Timestamp, selector: Value) -> Vec<Value> {
    let [names, images] = containers(value.at(&["spec", "template", "spec"]));
    vec![
        value.str_at(&["metadata", "name"]).into(),
        count(value, &["spec", "replicas"]),
        count(value, &["status", "replicas"]),
        count(value, &["status", "readyReplicas"]),
        table::created(value, now),
        names,
        images,
        selector,
    ]
}
