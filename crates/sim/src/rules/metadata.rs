//! What never changes of an object, and what only grows.

use super::{Rule, is_deleting, is_terminal, uid};
use crate::observer::{Change, Context};

const RULE: &str = "what is fixed in an object stays";

#[derive(Debug)]
pub(super) struct Metadata;

impl Rule for Metadata {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let (Some(old), Some(new)) = (change.old, change.new) else { return };
        let broken = |what: &str| {
            let (namespace, name) = (&change.place.namespace, &change.place.name);
            let text = format!("{} {namespace}/{name}: {what}", change.kind);
            context.ledger.violation(RULE, text);
        };
        if uid(old) != uid(new) {
            broken("its uid changed");
        }
        if old["metadata"]["creationTimestamp"] != new["metadata"]["creationTimestamp"] {
            broken("its creationTimestamp changed");
        }
        let generation = |it: &apimachinery::Value| it.i64_at(&["metadata", "generation"]);
        if generation(new) < generation(old) {
            broken("its generation went back");
        }
        if is_deleting(old) && !is_deleting(new) {
            broken("its deletion was taken back");
        }
        if change.kind == "Pod" {
            let node = old.str_at(&["spec", "nodeName"]);
            if !node.is_empty() && node != new.str_at(&["spec", "nodeName"]) {
                broken("its node changed");
            }
            if is_terminal(old)
                && old.str_at(&["status", "phase"]) != new.str_at(&["status", "phase"])
            {
                broken("it was over, and is in another phase now");
            }
        }
    }
}
