//! Equality and order of values, across the types of numbers.

use std::cmp::Ordering;

use crate::error::EvalError;
use crate::value::{List, Map, Result, Val};

/// How many parts of two values are compared. Values can share parts so often that all of them could not be.
const STEPS_MAX: u32 = 2_000_000;

/// Whether two values are equal. Values of different types are not, but for numbers.
///
/// # Errors
/// Where a part is not what its schema says, or there are too many.
pub(crate) fn equal(left: &Val<'_>, right: &Val<'_>) -> Result<bool> {
    Comparison { steps: STEPS_MAX }.equal(left, right)
}

struct Comparison {
    steps: u32,
}

impl Comparison {
    fn equal(&mut self, left: &Val<'_>, right: &Val<'_>) -> Result<bool> {
        self.steps = self.steps.checked_sub(1).ok_or(EvalError::CostLimitExceeded)?;
        Ok(match (left, right) {
            (Val::Null, Val::Null) | (Val::Optional(None), Val::Optional(None)) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::String(a), Val::String(b)) => **a == **b,
            (Val::Bytes(a), Val::Bytes(b)) => a == b,
            (Val::Duration(a), Val::Duration(b)) => a == b,
            (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
            (Val::Type(a), Val::Type(b)) => a.name() == b.name(),
            (Val::Opaque(a), Val::Opaque(b)) => a.equals(b),
            (Val::Optional(Some(a)), Val::Optional(Some(b))) => return self.equal(a, b),
            (Val::List(a), Val::List(b)) => return self.lists(a, b),
            (Val::Map(a), Val::Map(b)) => return self.maps(a, b),
            _ => numbers(left, right).is_some_and(Ordering::is_eq),
        })
    }

    fn lists(&mut self, left: &List<'_>, right: &List<'_>) -> Result<bool> {
        if let Some(equal) = crate::schema::lists_equal_by_schema(left, right)? {
            return Ok(equal);
        }
        if left.len() != right.len() {
            return Ok(false);
        }
        for (a, b) in left.iter().zip(right.iter()) {
            if !self.equal(&a?, &b?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn maps<'s>(&mut self, left: &Map<'s>, right: &Map<'s>) -> Result<bool> {
        if left.len() != right.len() || left.struct_name() != right.struct_name() {
            return Ok(false);
        }
        for (key, value) in left.entries()? {
            match right.get(&key)? {
                Some(other) if self.equal(&value, &other)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Whether a list has an item that is equal.
pub(crate) fn contains(list: &List<'_>, wanted: &Val<'_>) -> Result<bool> {
    for item in list.iter() {
        if equal(&item?, wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The order of two numbers of any types; none where one is not a number.
pub(crate) fn numbers(left: &Val<'_>, right: &Val<'_>) -> Option<Ordering> {
    match (left, right) {
        (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Double(a), other) => integer(other).and_then(|b| double_with(*a, b)),
        (other, Val::Double(b)) => {
            integer(other).and_then(|a| double_with(*b, a)).map(Ordering::reverse)
        }
        _ => Some(integer(left)?.cmp(&integer(right)?)),
    }
}

fn integer(value: &Val<'_>) -> Option<i128> {
    match value {
        Val::Int(number) => Some(i128::from(*number)),
        Val::Uint(number) => Some(i128::from(*number)),
        _ => None,
    }
}

/// As upstream compares: the integer becomes a double, and may lose digits.
#[expect(clippy::cast_precision_loss, reason = "as the language compares")]
fn double_with(double: f64, integer: i128) -> Option<Ordering> {
    double.partial_cmp(&(integer as f64))
}

/// The order of two values; none where there is none.
pub(crate) fn compare(left: &Val<'_>, right: &Val<'_>) -> Option<Ordering> {
    match (left, right) {
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        (Val::String(a), Val::String(b)) => Some((**a).cmp(&**b)),
        (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
        (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
        (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
        _ => numbers(left, right),
    }
}
