//! Functions that make lists from lists.

use std::cmp::Ordering;

use super::equal;
use super::standard::no_overload;
use crate::decl::{Body, Decl, f};
use crate::error::EvalError;
use crate::limits::ITEMS_MAX;
use crate::value::{List, Result, Val};

/// How long a range may be.
const RANGE_MAX: i64 = 10_000_000;

fn too_long() -> EvalError {
    EvalError::new("list size limit exceeded")
}

fn slice<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let [Val::List(list), Val::Int(from), Val::Int(to)] = args else { return no_overload() };
    let refused = |why: &str| Err(EvalError::new(format!("cannot slice({from}, {to}), {why}")));
    let (Ok(start), Ok(end)) = (usize::try_from(*from), usize::try_from(*to)) else {
        return refused("negative indexes not supported");
    };
    if start > end {
        return refused("start index must be less than or equal to end index");
    }
    if end > list.len() {
        return refused(&format!("list is length {}", list.len()));
    }
    Ok(Val::list((start..end).map(|index| list.get(index)).collect::<Result<_>>()?))
}

fn flatten<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let (list, levels) = match args {
        [Val::List(list)] => (list, 1),
        [Val::List(list), Val::Int(levels)] => (list, *levels),
        _ => return no_overload(),
    };
    if levels < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut items = Vec::new();
    flatten_into(&mut items, list, levels)?;
    Ok(Val::list(items))
}

fn flatten_into<'v>(items: &mut Vec<Val<'v>>, list: &List<'v>, levels: i64) -> Result<()> {
    for item in list.iter() {
        match item? {
            Val::List(inner) if levels > 0 => flatten_into(items, &inner, levels - 1)?,
            other => items.push(other),
        }
        if items.len() > ITEMS_MAX {
            return Err(too_long());
        }
    }
    Ok(())
}

/// The items in the order of their keys, which are all of one type.
fn sorted<'v>(list: &List<'v>, keys: &List<'v>) -> Result<Val<'v>> {
    if list.len() != keys.len() {
        let (a, b) = (list.len(), keys.len());
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {a} and {b} elements respectively"
        )));
    }
    let keys = keys.iter().collect::<Result<Vec<_>>>()?;
    let mut order = (0..keys.len()).collect::<Vec<_>>();
    if let Some(first) = keys.first() {
        let ty = first.type_of();
        if matches!(
            first,
            Val::List(_)
                | Val::Map(_)
                | Val::Null
                | Val::Opaque(_)
                | Val::Optional(_)
                | Val::Type(_)
        ) {
            return Err(EvalError::new("list elements must be comparable"));
        }
        if keys.iter().any(|it| it.type_of() != ty) {
            return Err(EvalError::new("list elements must have the same type"));
        }
    }
    order.sort_by(|a, b| equal::compare(&keys[*a], &keys[*b]).unwrap_or(Ordering::Equal));
    Ok(Val::list(order.into_iter().map(|index| list.get(index)).collect::<Result<_>>()?))
}

fn sort<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::List(list)] => sorted(list, list),
        [Val::List(list), Val::List(keys)] => sorted(list, keys),
        _ => no_overload(),
    }
}

fn range<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Int(size)] if *size < 0 => {
            Err(EvalError::new(format!("lists.range: size must be non-negative, got {size}")))
        }
        [Val::Int(size)] if *size > RANGE_MAX => Err(EvalError::new(format!(
            "lists.range: size {size} exceeds maximum allowed ({RANGE_MAX})"
        ))),
        [Val::Int(size)] => Ok(Val::list((0..*size).map(Val::Int).collect())),
        _ => no_overload(),
    }
}

fn reverse<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let [Val::List(list)] = args else { return no_overload() };
    Ok(Val::list((0..list.len()).rev().map(|index| list.get(index)).collect::<Result<_>>()?))
}

fn distinct<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let [Val::List(list)] = args else { return no_overload() };
    let mut items: Vec<Val<'v>> = Vec::new();
    'list: for item in list.iter() {
        let item = item?;
        for known in &items {
            if equal::equal(known, &item)? {
                continue 'list;
            }
        }
        items.push(item);
    }
    Ok(Val::list(items))
}

const SORT: Body = sort;

pub(super) const FUNCTIONS: &[Decl] = &[
    f("slice", "list_slice", "list(T).(int, int) -> list(T)", slice),
    f("flatten", "list_flatten", "list(list(T)).() -> list(T)", flatten),
    f("flatten", "list_flatten_int", "list(dyn).(int) -> list(dyn)", flatten),
    f("lists.range", "lists_range", "(int) -> list(int)", range),
    f("reverse", "list_reverse", "list(T).() -> list(T)", reverse),
    f("distinct", "list_distinct", "list(T).() -> list(T)", distinct),
    f("sort", "list_int_sort", "list(int).() -> list(int)", SORT),
    f("sort", "list_uint_sort", "list(uint).() -> list(uint)", SORT),
    f("sort", "list_double_sort", "list(double).() -> list(double)", SORT),
    f("sort", "list_bool_sort", "list(bool).() -> list(bool)", SORT),
    f("sort", "list_google.protobuf.Duration_sort", "list(duration).() -> list(duration)", SORT),
    f("sort", "list_google.protobuf.Timestamp_sort", "list(timestamp).() -> list(timestamp)", SORT),
    f("sort", "list_string_sort", "list(string).() -> list(string)", SORT),
    f("sort", "list_bytes_sort", "list(bytes).() -> list(bytes)", SORT),
    f(
        "@sortByAssociatedKeys",
        "list_int_sortByAssociatedKeys",
        "list(T).(list(int)) -> list(T)",
        SORT,
    ),
    f(
        "@sortByAssociatedKeys",
        "list_uint_sortByAssociatedKeys",
        "list(T).(list(uint)) -> list(T)",
        SORT,
    ),
    f(
        "@sortByAssociatedKeys",
        "list_double_sortByAssociatedKeys",
        "list(T).(list(double)) -> list(T)",
        SORT,
    ),
    f(
        "@sortByAssociatedKeys",
        "list_bool_sortByAssociatedKeys",
        "list(T).(list(bool)) -> list(T)",
        SORT,
    ),
    f(
        "@sortByAssociatedKeys",
        "list_google.protobuf.Duration_sortByAssociatedKeys",
        "list(T).(list(duration)) -> list(T)",
        SORT,
    ),
    f(
        "@sortByAssociatedKeys",
        "list_google.protobuf.Timestamp_sortByAssociatedKeys",
        "list(T).(list(timestamp)) -> list(T)",
        SORT,
    ),
    f(
        "@sortByAssociatedKeys",
        "list_string_sortByAssociatedKeys",
        "list(T).(list(string)) -> list(T)",
        SORT,
    ),
    f(
        "@sortByAssociatedKeys",
        "list_bytes_sortByAssociatedKeys",
        "list(T).(list(bytes)) -> list(T)",
        SORT,
    ),
];
