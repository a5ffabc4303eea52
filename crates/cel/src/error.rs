//! Why an evaluation has no value.

use std::borrow::Cow;

/// Why an evaluation has no value. `&&`, `||` and the quantifiers absorb [`EvalError::Failed`]; the others end it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A function refused its arguments, a key is missing, a number overflows.
    #[error("{0}")]
    Failed(Cow<'static, str>),
    /// The expression cost more than one call may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimitExceeded,
    /// All expressions together cost more than the request may.
    #[error(
        "validation failed due to running out of cost budget, no further validation rules will be run"
    )]
    OutOfBudget,
    /// The caller wants no answer any more.
    #[error("operation interrupted")]
    Interrupted,
}

impl From<&'static str> for EvalError {
    fn from(message: &'static str) -> Self {
        Self::new(message)
    }
}

impl From<String> for EvalError {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl EvalError {
    /// A failure with this text.
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Failed(message.into())
    }

    pub(crate) fn no_such_overload() -> Self {
        Self::new("no such overload")
    }

    pub(crate) fn no_such_key(key: &str) -> Self {
        Self::new(format!("no such key: {key}"))
    }

    /// Whether `&&`, `||` and the quantifiers may go on.
    pub(crate) fn is_absorbable(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}
