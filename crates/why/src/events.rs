//! What events tell of an object.

use std::sync::Arc;

use apimachinery::Value;

use crate::Case;

/// Reason and message of the last event about an object that is `wanted`.
pub(crate) fn last(
    case: &Case<'_>,
    uid: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Option<(String, String)> {
    let events = case.objects.list("", "events", &case.subject.key.namespace);
    let mine = |it: &&Arc<Value>| {
        // Events are stored in one version, and told of in two.
        let about = ["involvedObject", "regarding"].map(|at| it.str_at(&[at, "uid"]));
        about.contains(&uid) && wanted(it)
    };
    let last = events.iter().filter(mine).max_by_key(|it| time_of(it))?;
    let message = [last.str_at(&["message"]), last.str_at(&["note"])].concat();
    Some((last.str_at(&["reason"]).to_owned(), message))
}

fn time_of(event: &Value) -> String {
    let times = [
        ["series", "lastObservedTime"].as_slice(),
        &["lastTimestamp"],
        &["deprecatedLastTimestamp"],
        &["eventTime"],
        &["metadata", "creationTimestamp"],
    ];
    let told = times.iter().map(|path| event.str_at(path)).find(|it| !it.is_empty());
    told.unwrap_or_default().to_owned()
}
