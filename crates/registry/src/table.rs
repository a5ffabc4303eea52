//! Cells of tables, as `kubectl get` shows them.

use apimachinery::Value;
use apimachinery::duration::{Duration, human};
use apimachinery::time::parse_time;
use jiff::Timestamp;

/// Name and creation time: the table of resources that have no columns of their own.
#[must_use]
pub fn name_and_creation(value: &Value, _now: Timestamp) -> Vec<Value> {
    vec![
        value.str_at(&["metadata", "name"]).into(),
        value.str_at(&["metadata", "creationTimestamp"]).into(),
    ]
}

/// How long ago a time was, as upstream's columns show it; `<unknown>` where there is none.
#[must_use]
pub fn age(value: &Value, path: &[&str], now: Timestamp) -> Value {
    let Ok(then) = parse_time(value.str_at(path)) else { return "<unknown>".into() };
    human(Duration::from_seconds(now.duration_since(then).as_secs())).into()
}

/// The age of the object itself.
#[must_use]
pub fn created(value: &Value, now: Timestamp) -> Value {
    age(value, &["metadata", "creationTimestamp"], now)
}
