//! Owner references that are there twice: once is enough, and whoever sent them is told.

use apimachinery::Value;

use crate::exchange::Exchange;

/// When they were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// As they were sent.
    Sent,
    /// After admission, which may have added some.
    Admitted,
}

/// Leaves each owner reference once.
pub(super) fn once(exchange: &mut Exchange, value: &mut Value, when: When) {
    let Some(Value::Array(references)) = value.at_mut(&["metadata", "ownerReferences"]) else {
        return;
    };
    let repeated = repeated(references);
    if repeated.is_empty() {
        return;
    }
    let after = match when {
        When::Sent => "",
        When::Admitted => " after mutating admission happens",
    };
    exchange.warnings.push(format!(
        ".metadata.ownerReferences contains duplicate entries{after}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        repeated.join(", ")
    ));
}

/// Drops what is there already; the UIDs of it come back.
fn repeated(references: &mut Vec<Value>) -> Vec<String> {
    let mut kept: Vec<Value> = Vec::with_capacity(references.len());
    let mut repeated = Vec::new();
    for reference in references.drain(..) {
        if kept.contains(&reference) {
            repeated.push(reference.str_at(&["uid"]).to_owned());
        } else {
            kept.push(reference);
        }
    }
    *references = kept;
    repeated
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::repeated;

    #[test]
    fn what_is_there_twice_is_dropped_and_told() {
        let (a, b) = (value!({"name": "a", "uid": "1"}), value!({"name": "b", "uid": "1"}));
        let mut all = vec![a.clone(), b.clone(), a.clone()];
        assert_eq!(repeated(&mut all), ["1"]);
        assert_eq!(all, [a, b]);
    }
}
