//! A definition of custom resources goes after everything that there was of it.

use super::Rule;
use crate::observer::{Change, Context};

const RULE: &str = "a definition goes after its objects";

#[derive(Debug)]
pub(super) struct Definitions;

impl Rule for Definitions {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let (Some(old), None) = (change.old, change.new) else { return };
        if change.kind != "CustomResourceDefinition" {
            return;
        }
        let kind = old.str_at(&["spec", "names", "kind"]);
        let left = context.state.all(kind).count();
        if left > 0 {
            let what = format!("{} goes, and {left} of its objects are there", change.place.name);
            context.ledger.violation(RULE, what);
        }
    }
}
