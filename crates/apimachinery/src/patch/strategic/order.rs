//! The order of merged lists: what the patch names comes in the patch's order, the rest stays where it was.

use crate::patch::{PatchError, go_text};
use crate::value::Value;

/// What tells items apart: the merge key's value, or the item itself where there is no key.
pub(super) fn keys(items: &[Value], key: &str) -> Vec<Value> {
    items.iter().filter_map(|item| id(item, key).cloned()).collect()
}

fn id<'v>(item: &'v Value, key: &str) -> Option<&'v Value> {
    if key.is_empty() { Some(item) } else { item.as_object()?.get(key) }
}

/// Both lists with each scalar once.
pub(super) fn merge_scalars(target: Vec<Value>, patch: &[Value]) -> Vec<Value> {
    let live = target.clone();
    let mut both: Vec<Value> = Vec::with_capacity(target.len() + patch.len());
    for item in target.into_iter().chain(patch.iter().cloned()) {
        if !both.contains(&item) {
            both.push(item);
        }
    }
    arrange(both, patch, &live, "")
}

/// Items named in `wanted` in that order; the others, in the order of `live`, go before the first wanted item
/// that they stood before.
pub(super) fn arrange(
    items: Vec<Value>,
    wanted: &[Value],
    live: &[Value],
    key: &str,
) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| {
        let id = id(item, key)?;
        list.iter().position(|it| it == id)
    };
    let (mut first, mut rest): (Vec<_>, Vec<_>) =
        items.into_iter().partition(|item| place(wanted, item).is_some());
    first.sort_by_key(|item| place(wanted, item));
    rest.sort_by_key(|item| place(live, item));
    let mut arranged = Vec::with_capacity(first.len() + rest.len());
    let mut rest = rest.into_iter().peekable();
    for item in first {
        let at = place(live, &item);
        while let Some(other) = rest.peek() {
            let before = at.zip(place(live, other)).is_some_and(|(at, other)| other < at);
            if !before {
                break;
            }
            arranged.extend(rest.next());
        }
        arranged.push(item);
    }
    arranged.extend(rest);
    arranged
}

/// The items of a patch must be in the order that the patch itself gives.
pub(super) fn check(patch: &[Value], order: &[Value], key: &str) -> Result<(), PatchError> {
    let directive = |item: &&Value| item.as_object().is_some_and(|it| it.contains_key("$patch"));
    let mut places = order.iter();
    let mut named = patch.iter().filter(|item| !directive(item));
    let fits = named.all(|item| {
        let id = id(item, key);
        places.any(|place| id.is_some() && self::id(place, key) == id)
    });
    if fits {
        return Ok(());
    }
    let (patch, order) =
        (go_text(&Value::Array(patch.to_vec())), go_text(&Value::Array(order.to_vec())));
    Err(PatchError::Internal(format!(
        "The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n"
    )))
}
