//! The order of merged lists: what the patch names comes in the patch's order, the rest stays where it was.

use std::collections::{BTreeMap, BTreeSet};

use crate::json;
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
    let mut seen = BTreeSet::new();
    let all = target.into_iter().chain(patch.iter().cloned());
    let both = all.filter(|item| seen.insert(json::to_vec(item))).collect();
    arrange(both, patch, &live, "")
}

/// Where each key stands first. Found by its text, so that long lists take no squares of their length.
struct Places(BTreeMap<Vec<u8>, usize>);

impl Places {
    fn of(keys: &[Value]) -> Self {
        let places = keys.iter().enumerate().rev();
        Self(places.map(|(place, key)| (json::to_vec(key), place)).collect())
    }

    fn find(&self, item: &Value, key: &str) -> Option<usize> {
        self.0.get(&json::to_vec(id(item, key)?)).copied()
    }
}

/// Items named in `wanted` in that order; the others, in the order of `live`, go before the first wanted item
/// that they stood before.
pub(super) fn arrange(
    items: Vec<Value>,
    wanted: &[Value],
    live: &[Value],
    key: &str,
) -> Vec<Value> {
    let (wanted, live) = (Places::of(wanted), Places::of(live));
    let (mut first, mut rest): (Vec<_>, Vec<_>) =
        items.into_iter().partition(|item| wanted.find(item, key).is_some());
    first.sort_by_cached_key(|item| wanted.find(item, key));
    rest.sort_by_cached_key(|item| live.find(item, key));
    let mut arranged = Vec::with_capacity(first.len() + rest.len());
    let mut rest = rest.into_iter().peekable();
    for item in first {
        let at = live.find(&item, key);
        while let Some(other) = rest.peek() {
            let before = at.zip(live.find(other, key)).is_some_and(|(at, other)| other < at);
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
