//! Sets that were written when the type was another.

use super::merge::{Type, list_type, member_type};
use super::set::{FieldSet, SELF, is_leaf};
use crate::schema::{Node, NodeId, Schema};
use crate::value::{Object, Value};

/// Makes a set own as a whole what has become one field since it was written (structured-merge-diff:
/// `ReconcileFieldSetWithSchema`). Who owned a whole that has parts now owns none of them; what the type does not declare
/// stays as it is.
pub(super) fn reconcile(schema: &Schema, node: NodeId, set: &mut FieldSet) {
    steps(schema, Some(node), &mut set.0);
}

fn steps(schema: &Schema, node: Type, set: &mut Object) {
    for (name, below) in set.iter_mut().filter(|(name, _)| *name != SELF) {
        let of = match name.strip_prefix("f:") {
            Some(field) => member_type(schema, node, field).ok().flatten(),
            None => list_type(schema, node).map(|list| list.item),
        };
        let (Some(of), Value::Object(below)) = (of, below) else { continue };
        if is_leaf(below) {
            continue;
        }
        if is_whole(schema, of) {
            *below = Object::new();
        } else {
            steps(schema, Some(of), below);
        }
    }
}

/// Whether a value of this type is one field.
fn is_whole(schema: &Schema, node: NodeId) -> bool {
    match schema.node(node) {
        Node::Struct(it) => it.atomic,
        Node::Map(it) => it.atomic,
        Node::List(_) => list_type(schema, Some(node)).is_none(),
        _ => false,
    }
}
