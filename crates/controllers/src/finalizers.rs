//! Finalizers: what keeps an object until nobody needs it any more.

use apimachinery::Value;
use client::Resource;
use controller::Action;

/// What an object needs of its finalizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It stays as it is.
    None,
    /// It is to have it.
    Add,
    /// It is going, and may go as far as this finalizer is concerned.
    Release,
}

/// What is to be done: objects get the finalizer while they live and lose it when they are going and nobody uses them.
pub fn step(object: &Value, finalizer: &str, in_use: impl FnOnce() -> bool) -> Step {
    let list = object.items_at(&["metadata", "finalizers"]);
    let has = list.iter().any(|it| it.as_str() == Some(finalizer));
    let going = object.at(&["metadata", "deletionTimestamp"]).is_some();
    match (has, going) {
        (false, false) => Step::Add,
        (true, true) if !in_use() => Step::Release,
        (false, true) | (true, false | true) => Step::None,
    }
}

/// The write that gives an object a finalizer or takes it.
#[must_use]
pub fn write(resource: Resource, object: &Value, finalizer: &str, step: Step) -> Option<Action> {
    let mut list = object.items_at(&["metadata", "finalizers"]).to_vec();
    match step {
        Step::None => return None,
        Step::Add => list.push(finalizer.into()),
        Step::Release => list.retain(|it| it.as_str() != Some(finalizer)),
    }
    let mut object = object.clone();
    if list.is_empty() {
        object.remove_at(&["metadata", "finalizers"]);
    } else {
        object.set_at(&["metadata", "finalizers"], Value::Array(list));
    }
    Some(Action::Update { resource, subresource: "", object })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finalizer_stays_while_the_object_lives_or_is_used() {
        let check = |metadata: &str, in_use: bool, expected: Step| {
            let text = format!(r#"{{"metadata":{metadata}}}"#);
            let object = apimachinery::json::parse(text.as_bytes()).unwrap();
            assert_eq!(step(&object, "f", || in_use), expected, "{metadata}");
        };
        check("{}", false, Step::Add);
        check(r#"{"finalizers":["f"]}"#, false, Step::None);
        check(r#"{"deletionTimestamp":"x"}"#, false, Step::None);
        check(r#"{"deletionTimestamp":"x","finalizers":["f"]}"#, true, Step::None);
        check(r#"{"deletionTimestamp":"x","finalizers":["f"]}"#, false, Step::Release);
    }
}
