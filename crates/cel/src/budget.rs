//! What evaluations may still cost.

use std::fmt;

use crate::error::EvalError;
use crate::limits::{CHECK_FREQUENCY, PER_CALL_LIMIT};

/// What the evaluations for one request or object may cost: each, and together.
pub struct Budget<'a> {
    per_call: u64,
    remaining: u64,
    last: u64,
    interrupted: Option<&'a dyn Fn() -> bool>,
}

impl fmt::Debug for Budget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (per_call, remaining) = (self.per_call, self.remaining);
        write!(f, "Budget {{ per_call: {per_call}, remaining: {remaining} }}")
    }
}

impl<'a> Budget<'a> {
    /// So much for all evaluations together; each is held to [`PER_CALL_LIMIT`].
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self { per_call: PER_CALL_LIMIT, remaining: total, last: 0, interrupted: None }
    }

    /// The same with another limit for each evaluation.
    #[must_use]
    pub fn with_call_limit(mut self, limit: u64) -> Self {
        self.per_call = limit;
        self
    }

    /// The same, asking now and then whether the answer is still wanted.
    #[must_use]
    pub fn with_interrupt(mut self, interrupted: &'a dyn Fn() -> bool) -> Self {
        self.interrupted = Some(interrupted);
        self
    }

    /// What is left.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// What the last evaluation cost, without the variables that it made.
    #[must_use]
    pub fn last_cost(&self) -> u64 {
        self.last
    }

    pub(crate) fn call_limit(&self) -> u64 {
        self.per_call
    }

    /// Whether turn `turn` of a loop finds that nobody waits any more.
    pub(crate) fn is_interrupted(&self, turn: u32) -> bool {
        turn.is_multiple_of(CHECK_FREQUENCY) && self.interrupted.is_some_and(|it| it())
    }

    pub(crate) fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        self.last = cost;
        match self.remaining.checked_sub(cost) {
            Some(rest) => {
                self.remaining = rest;
                Ok(())
            }
            None => {
                self.remaining = 0;
                Err(EvalError::OutOfBudget)
            }
        }
    }
}
