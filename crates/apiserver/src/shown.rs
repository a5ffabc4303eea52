//! Values in error messages as the client sent them. Decoding takes an empty map as absent; upstream keeps the two apart
//! until it stores an object, so that its messages show `{}` for one and `null` for the other.
//!
//! Looked at only where a write is refused: what is fine costs nothing.

use apimachinery::schema::{Node, NodeId};
use apimachinery::{Object, Status, Value, json, yaml};
use bytes::Bytes;

use crate::decode::{Syntax, syntax_of};
use crate::exchange::Exchange;

/// How messages begin that may show an absent value.
const SHOWN: [&str; 2] = ["Invalid value: ", "Unsupported value: "];

/// The refusal of a body, with `{}` for the empty maps that it has.
pub(crate) fn with_empty_maps(
    exchange: &Exchange,
    node: NodeId,
    body: &Bytes,
    mut status: Status,
) -> Status {
    if status.reason != "Invalid" {
        return status;
    }
    let Some(details) = &mut status.details else { return status };
    let mut sent = None;
    for cause in &mut details.causes {
        let Some(start) = SHOWN.iter().find(|it| {
            cause.message.strip_prefix(**it).is_some_and(|rest| rest.starts_with("null"))
        }) else {
            continue;
        };
        let sent = sent.get_or_insert_with(|| parse(exchange, body));
        let is_empty = is_empty_map(node, sent, &cause.field);
        if is_empty {
            let told = format!("{}: {}", cause.field, cause.message);
            let rest = &cause.message[start.len() + "null".len()..];
            cause.message = format!("{start}{{}}{rest}");
            status.message =
                status.message.replace(&told, &format!("{}: {}", cause.field, cause.message));
        }
    }
    status
}

/// The body once more; null where it is in no syntax that tells empty from absent.
fn parse(exchange: &Exchange, body: &Bytes) -> Value {
    match syntax_of(exchange) {
        Ok(Syntax::Json) => json::parse(body).unwrap_or_default(),
        Ok(Syntax::Yaml) => yaml::parse_reporting(body).map(|it| it.0).unwrap_or_default(),
        Ok(Syntax::Cbor) => crate::cbor::decode(body, None).unwrap_or_default(),
        Ok(Syntax::Protobuf) | Err(_) => Value::Null,
    }
}

/// Whether an empty map is at a field's path: `spec.template.metadata.labels`, `webhooks[0].rules`.
fn is_empty_map(node: NodeId, sent: &Value, field: &str) -> bool {
    let (mut node, mut value) = (node, sent);
    let steps = field.split(['.', '[']).map(|it| it.trim_end_matches(']'));
    for step in steps {
        let next = match api::schema().node(node) {
            Node::Struct(it) => it.field(step).map(|it| (it.node, value.get(step))),
            Node::Map(map) => Some((map.value, value.get(step))),
            Node::List(list) => {
                let item = step.parse::<usize>().ok().and_then(|it| value.as_array()?.get(it));
                Some((list.item, item))
            }
            _ => None,
        };
        let Some((below, Some(item))) = next else { return false };
        (node, value) = (below, item);
    }
    let is_map = matches!(api::schema().node(node), Node::Map(_));
    is_map && value.as_object().is_some_and(Object::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    #[test]
    fn empty_maps_are_found_by_the_paths_of_fields() {
        let node = api::type_of_kind("apps", "v1", "Deployment").unwrap();
        let sent = value!({"spec": {"selector": {}, "template": {"metadata": {"labels": {}},
            "spec": {"containers": [{"resources": {"limits": {}}}]}}}});
        for (field, expected) in [
            ("spec.template.metadata.labels", true),
            ("spec.template.spec.containers[0].resources.limits", true),
            ("spec.template.spec.containers[1].resources.limits", false),
            ("spec.template.metadata.annotations", false),
            // No map but an object with fields of its own.
            ("spec.selector", false),
        ] {
            assert_eq!(is_empty_map(node, &sent, field), expected, "{field}");
        }
    }
}
