//! Kubernetes' functions of lists.

use std::cmp::Ordering;

use apimachinery::duration::Duration;

use super::equal;
use super::standard::no_overload;
use super::time;
use crate::decl::{Body, Decl, f};
use crate::error::EvalError;
use crate::value::{List, Result, Val};

fn list<'a, 'v>(args: &'a [Val<'v>]) -> Result<&'a List<'v>> {
    match args {
        [Val::List(list), ..] => Ok(list),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn order(left: &Val<'_>, right: &Val<'_>) -> Result<Ordering> {
    equal::compare(left, right).ok_or_else(EvalError::no_such_overload)
}

fn is_sorted<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let mut previous: Option<Val<'v>> = None;
    for item in list(args)?.iter() {
        let item = item?;
        if let Some(previous) = &previous
            && order(previous, &item)?.is_gt()
        {
            return Ok(Val::Bool(false));
        }
        previous = Some(item);
    }
    Ok(Val::Bool(true))
}

fn extreme<'v>(args: &[Val<'v>], wanted: Ordering, empty: &'static str) -> Result<Val<'v>> {
    let mut best: Option<Val<'v>> = None;
    for item in list(args)?.iter() {
        let item = item?;
        let better = match &best {
            Some(best) => order(&item, best)? == wanted,
            None => true,
        };
        if better {
            best = Some(item);
        }
    }
    best.ok_or_else(|| EvalError::new(empty))
}

fn min<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    extreme(args, Ordering::Less, "min called on empty list")
}

fn max<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    extreme(args, Ordering::Greater, "max called on empty list")
}

fn sum_from<'v>(args: &[Val<'v>], zero: Val<'v>) -> Result<Val<'v>> {
    let mut sum = zero;
    for item in list(args)?.iter() {
        sum = match (sum, item?) {
            (Val::Int(a), Val::Int(b)) => {
                Val::Int(a.checked_add(b).ok_or_else(|| EvalError::new("integer overflow"))?)
            }
            (Val::Uint(a), Val::Uint(b)) => Val::Uint(
                a.checked_add(b).ok_or_else(|| EvalError::new("unsigned integer overflow"))?,
            ),
            (Val::Double(a), Val::Double(b)) => Val::Double(a + b),
            (Val::Duration(a), Val::Duration(b)) => Val::Duration(time::sum(a, b)?),
            _ => return no_overload(),
        };
    }
    Ok(sum)
}

/// The sum of what the list is of; an unknown list is of what its first item is.
fn sum<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let list = list(args)?;
    let zero = match if list.is_empty() { Val::Int(0) } else { list.get(0)? } {
        Val::Int(_) => Val::Int(0),
        Val::Uint(_) => Val::Uint(0),
        Val::Double(_) => Val::Double(0.0),
        Val::Duration(_) => Val::Duration(Duration::from_nanos(0)),
        _ => return no_overload(),
    };
    sum_from(args, zero)
}

fn position<'v>(args: &[Val<'v>], last: bool) -> Result<Val<'v>> {
    let [Val::List(list), wanted] = args else { return no_overload() };
    let mut found = -1;
    for (index, item) in (0i64..).zip(list.iter()) {
        if equal::equal(&item?, wanted)? {
            found = index;
            if !last {
                break;
            }
        }
    }
    Ok(Val::Int(found))
}

const MIN: Body = min;
const MAX: Body = max;
const SORTED: Body = is_sorted;

pub(super) const FUNCTIONS: &[Decl] = &[
    f("isSorted", "list_int_is_sorted_bool", "list(int).() -> bool", SORTED),
    f("isSorted", "list_uint_is_sorted_bool", "list(uint).() -> bool", SORTED),
    f("isSorted", "list_double_is_sorted_bool", "list(double).() -> bool", SORTED),
    f("isSorted", "list_bool_is_sorted_bool", "list(bool).() -> bool", SORTED),
    f("isSorted", "list_duration_is_sorted_bool", "list(duration).() -> bool", SORTED),
    f("isSorted", "list_timestamp_is_sorted_bool", "list(timestamp).() -> bool", SORTED),
    f("isSorted", "list_string_is_sorted_bool", "list(string).() -> bool", SORTED),
    f("isSorted", "list_bytes_is_sorted_bool", "list(bytes).() -> bool", SORTED),
    f("sum", "list_int_sum_int", "list(int).() -> int", sum),
    f("sum", "list_uint_sum_uint", "list(uint).() -> uint", |args| match list(args)? {
        it if it.is_empty() => Ok(Val::Uint(0)),
        _ => sum(args),
    }),
    f("sum", "list_double_sum_double", "list(double).() -> double", |args| match list(args)? {
        it if it.is_empty() => Ok(Val::Double(0.0)),
        _ => sum(args),
    }),
    f("sum", "list_duration_sum_duration", "list(duration).() -> duration", |args| {
        match list(args)? {
            it if it.is_empty() => Ok(Val::Duration(Duration::from_nanos(0))),
            _ => sum(args),
        }
    }),
    f("max", "list_int_max_int", "list(int).() -> int", MAX),
    f("max", "list_uint_max_uint", "list(uint).() -> uint", MAX),
    f("max", "list_double_max_double", "list(double).() -> double", MAX),
    f("max", "list_bool_max_bool", "list(bool).() -> bool", MAX),
    f("max", "list_duration_max_duration", "list(duration).() -> duration", MAX),
    f("max", "list_timestamp_max_timestamp", "list(timestamp).() -> timestamp", MAX),
    f("max", "list_string_max_string", "list(string).() -> string", MAX),
    f("max", "list_bytes_max_bytes", "list(bytes).() -> bytes", MAX),
    f("min", "list_int_min_int", "list(int).() -> int", MIN),
    f("min", "list_uint_min_uint", "list(uint).() -> uint", MIN),
    f("min", "list_double_min_double", "list(double).() -> double", MIN),
    f("min", "list_bool_min_bool", "list(bool).() -> bool", MIN),
    f("min", "list_duration_min_duration", "list(duration).() -> duration", MIN),
    f("min", "list_timestamp_min_timestamp", "list(timestamp).() -> timestamp", MIN),
    f("min", "list_string_min_string", "list(string).() -> string", MIN),
    f("min", "list_bytes_min_bytes", "list(bytes).() -> bytes", MIN),
    f("indexOf", "list_a_index_of_int", "list(A).(A) -> int", |args| position(args, false)),
    f("lastIndexOf", "list_a_last_index_of_int", "list(A).(A) -> int", |args| position(args, true)),
];
