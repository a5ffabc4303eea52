//! What must hold of the devices of a claim together.

use compact_str::CompactString;

use crate::claim::{Constraint, ConstraintKind, Request};
use crate::slice::Device;

/// A device that is chosen, and for which request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice<'a> {
    pub(crate) request: &'a Request,
    /// Which of the request's ways.
    pub(crate) way: usize,
    pub(crate) device: &'a Device,
}

impl Choice<'_> {
    fn is_meant(&self, requests: &[CompactString]) -> bool {
        requests.is_empty()
            || requests.contains(&self.request.name)
            || requests.contains(&self.request.reference(self.way))
    }
}

/// Whether one more device can be chosen beside others of the claim.
pub(crate) fn allows<'a>(
    constraint: &Constraint,
    chosen: impl Iterator<Item = Choice<'a>>,
    more: Choice<'_>,
) -> bool {
    if !more.is_meant(&constraint.requests) {
        return true;
    }
    let (name, same) = match &constraint.kind {
        ConstraintKind::Match(name) => (name, true),
        ConstraintKind::Distinct(name) => (name, false),
        ConstraintKind::Unknown => return false,
    };
    let Some(attribute) = more.device.attribute(name) else { return false };
    let mut others = chosen.filter(|it| it.is_meant(&constraint.requests));
    others.all(|it| {
        let other = it.device.attribute(name);
        other.is_some_and(|other| attribute.same(other) == same)
    })
}
