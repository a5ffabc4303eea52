//! Limits on what expressions may cost, in upstream's units.

/// What one evaluation may cost: about a tenth of a second.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all rules of one object, or all expressions of one policy, may cost together: about a second.
pub const RUNTIME_COST_BUDGET: u64 = 10_000_000;
/// What all match conditions of one request may cost together.
pub const MATCH_CONDITIONS_COST_BUDGET: u64 = 2_500_000;
/// What one rule of a custom resource may cost by its estimate.
pub const STATIC_ESTIMATED_COST_LIMIT: u64 = 10_000_000;
/// What all rules of a custom resource may cost together by their estimates.
pub const STATIC_ESTIMATED_CRD_COST_LIMIT: u64 = 100_000_000;
/// How many turns of a loop pass before somebody asks whether the answer is still wanted.
pub const CHECK_FREQUENCY: u32 = 100;
/// How long the text of a message expression may become.
pub const MESSAGE_EXPRESSION_BYTES_MAX: usize = 5 * 1024;
/// How large requests are, for estimates of what has no limit of its own.
pub const REQUEST_BYTES_MAX: i64 = 3 * 1024 * 1024;

/// Upstream's words for a cost beyond a limit, with `name` for what it is the cost of.
#[must_use]
pub fn excess(name: &str, cost: u64, limit: u64) -> Option<String> {
    if cost <= limit {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a factor for people")]
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        it if it > 100.0 => "more than 100x".to_owned(),
        it if it < 1.5 => format!("{it:.6}x"),
        it => format!("{it:.1}x"),
    };
    Some(format!("{name} exceeds budget by factor of {factor}"))
}

/// What text or bytes one call may make. Upstream has no such limit; its costs do not bound `replace` and `format`.
pub(crate) const RESULT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many items one call may put into a list. Upstream has no such limit; the costs of `flatten` and `split` do not bound
/// it.
pub(crate) const ITEMS_MAX: usize = 1_000_000;
/// How many parts a value may have that becomes JSON or text.
pub(crate) const PARTS_MAX: u32 = 1_000_000;
/// How much text counts as a part more.
pub(crate) const BYTES_A_PART: usize = 16;

/// What each step costs.
pub(crate) const SELECT: u64 = 1;
pub(crate) const LIST_CREATE: u64 = 10;
pub(crate) const MAP_CREATE: u64 = 30;
pub(crate) const STRUCT_CREATE: u64 = 40;
/// Per character of a string that is walked.
pub(crate) const STRING_TRAVERSAL: f64 = 0.1;
/// Per character of a pattern.
pub(crate) const REGEX_LENGTH: f64 = 0.25;

#[cfg(test)]
mod tests {
    use super::excess;

    #[test]
    fn an_excess_is_told_as_a_factor() {
        for (cost, expected) in [
            (10, None),
            (11, Some("estimated rule cost exceeds budget by factor of 1.100000x")),
            (25, Some("estimated rule cost exceeds budget by factor of 2.5x")),
            (1001, Some("estimated rule cost exceeds budget by factor of more than 100x")),
        ] {
            assert_eq!(excess("estimated rule cost", cost, 10).as_deref(), expected, "{cost}");
        }
    }
}
