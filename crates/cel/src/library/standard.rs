//! Operators, `size` and the functions of strings that every environment has.

use apimachinery::duration::Duration;

use super::{equal, time};
use crate::decl::{Body, Decl, f};
use crate::error::EvalError;
use crate::value::{Result, Text, Val};

fn overflow() -> EvalError {
    EvalError::new("integer overflow")
}

fn unsigned_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

pub(super) fn no_overload<'v>() -> Result<Val<'v>> {
    Err(EvalError::no_such_overload())
}

macro_rules! order {
    ($name:ident, $test:expr) => {
        fn $name<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
            let [left, right] = args else { return no_overload() };
            let is_number =
                |it: &Val<'_>| matches!(it, Val::Int(_) | Val::Uint(_) | Val::Double(_));
            let order = match equal::compare(left, right) {
                Some(order) => order,
                // Nothing is less or more than what is no number.
                None if is_number(left) && is_number(right) => {
                    return Err(EvalError::new("NaN values cannot be ordered"));
                }
                None => return no_overload(),
            };
            let test: fn(std::cmp::Ordering) -> bool = $test;
            Ok(Val::Bool(test(order)))
        }
    };
}
order!(less, std::cmp::Ordering::is_lt);
order!(less_equals, std::cmp::Ordering::is_le);
order!(greater, std::cmp::Ordering::is_gt);
order!(greater_equals, std::cmp::Ordering::is_ge);

fn add<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Int(a), Val::Int(b)] => a.checked_add(*b).map(Val::Int).ok_or_else(overflow),
        [Val::Uint(a), Val::Uint(b)] => {
            a.checked_add(*b).map(Val::Uint).ok_or_else(unsigned_overflow)
        }
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a + b)),
        [Val::String(a), Val::String(b)] => Ok(Val::string(&[&**a, &**b].concat())),
        [Val::Bytes(a), Val::Bytes(b)] => Ok(Val::Bytes([&**a, &**b].concat().into())),
        [Val::List(a), Val::List(b)] => a.concat(b).map(Val::List),
        [Val::Duration(a), Val::Duration(b)] => time::sum(*a, *b).map(Val::Duration),
        [Val::Timestamp(at), Val::Duration(by)] | [Val::Duration(by), Val::Timestamp(at)] => {
            time::later(*at, *by).map(Val::Timestamp)
        }
        _ => no_overload(),
    }
}

fn subtract<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Int(a), Val::Int(b)] => a.checked_sub(*b).map(Val::Int).ok_or_else(overflow),
        [Val::Uint(a), Val::Uint(b)] => {
            a.checked_sub(*b).map(Val::Uint).ok_or_else(unsigned_overflow)
        }
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a - b)),
        [Val::Duration(a), Val::Duration(b)] => {
            time::sum(*a, time::negative(*b)?).map(Val::Duration)
        }
        [Val::Timestamp(at), Val::Duration(by)] => {
            time::later(*at, time::negative(*by)?).map(Val::Timestamp)
        }
        [Val::Timestamp(a), Val::Timestamp(b)] => time::between(*a, *b).map(Val::Duration),
        _ => no_overload(),
    }
}

fn multiply<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Int(a), Val::Int(b)] => a.checked_mul(*b).map(Val::Int).ok_or_else(overflow),
        [Val::Uint(a), Val::Uint(b)] => {
            a.checked_mul(*b).map(Val::Uint).ok_or_else(unsigned_overflow)
        }
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a * b)),
        _ => no_overload(),
    }
}

fn divide<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => {
            Err(EvalError::new("division by zero"))
        }
        [Val::Int(a), Val::Int(b)] => a.checked_div(*b).map(Val::Int).ok_or_else(overflow),
        [Val::Uint(a), Val::Uint(b)] => Ok(Val::Uint(a / b)),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a / b)),
        _ => no_overload(),
    }
}

fn modulo<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => {
            Err(EvalError::new("modulus by zero"))
        }
        [Val::Int(a), Val::Int(b)] => a.checked_rem(*b).map(Val::Int).ok_or_else(overflow),
        [Val::Uint(a), Val::Uint(b)] => Ok(Val::Uint(a % b)),
        _ => no_overload(),
    }
}

fn negate<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Int(a)] => a.checked_neg().map(Val::Int).ok_or_else(overflow),
        [Val::Double(a)] => Ok(Val::Double(-a)),
        [Val::Duration(a)] => Ok(Val::Duration(Duration::from_nanos(-a.as_nanos()))),
        _ => no_overload(),
    }
}

fn is_in<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [value, Val::List(list)] => equal::contains(list, value).map(Val::Bool),
        [key, Val::Map(map)] => map.contains(key).map(Val::Bool),
        _ => no_overload(),
    }
}

pub(super) fn size<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let size = match args {
        [Val::Opaque(_)] => None,
        [value] => value.size(),
        _ => None,
    };
    size.and_then(|it| i64::try_from(it).ok()).map(Val::Int).ok_or_else(EvalError::no_such_overload)
}

fn texts<'a>(args: &'a [Val<'_>]) -> Result<(&'a Text<'a>, &'a Text<'a>)> {
    match args {
        [Val::String(a), Val::String(b)] => Ok((a, b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

const ADD: Body = add;

/// Operators. Logical ones, `==` and conditionals are steps of a program: their bodies are not called.
pub(super) const OPERATORS: &[Decl] = &[
    f("_?_:_", "conditional", "(bool, A, A) -> A", |_| no_overload()),
    f("_&&_", "logical_and", "(bool, bool) -> bool", |_| no_overload()),
    f("_||_", "logical_or", "(bool, bool) -> bool", |_| no_overload()),
    f("_==_", "equals", "(A, A) -> bool", |_| no_overload()),
    f("_!=_", "not_equals", "(A, A) -> bool", |_| no_overload()),
    f("@not_strictly_false", "not_strictly_false", "(bool) -> bool", |_| no_overload()),
    f("_[_]", "index_list", "(list(A), int) -> A", |_| no_overload()),
    f("_[_]", "index_map", "(map(A, B), A) -> B", |_| no_overload()),
    f("!_", "logical_not", "(bool) -> bool", |args| match args {
        [Val::Bool(truth)] => Ok(Val::Bool(!truth)),
        _ => no_overload(),
    }),
    f("_+_", "add_bytes", "(bytes, bytes) -> bytes", ADD),
    f("_+_", "add_double", "(double, double) -> double", ADD),
    f("_+_", "add_duration_duration", "(duration, duration) -> duration", ADD),
    f("_+_", "add_duration_timestamp", "(duration, timestamp) -> timestamp", ADD),
    f("_+_", "add_timestamp_duration", "(timestamp, duration) -> timestamp", ADD),
    f("_+_", "add_int64", "(int, int) -> int", ADD),
    f("_+_", "add_list", "(list(A), list(A)) -> list(A)", ADD),
    f("_+_", "add_string", "(string, string) -> string", ADD),
    f("_+_", "add_uint64", "(uint, uint) -> uint", ADD),
    f("_-_", "subtract_double", "(double, double) -> double", subtract),
    f("_-_", "subtract_duration_duration", "(duration, duration) -> duration", subtract),
    f("_-_", "subtract_int64", "(int, int) -> int", subtract),
    f("_-_", "subtract_timestamp_duration", "(timestamp, duration) -> timestamp", subtract),
    f("_-_", "subtract_timestamp_timestamp", "(timestamp, timestamp) -> duration", subtract),
    f("_-_", "subtract_uint64", "(uint, uint) -> uint", subtract),
    f("_*_", "multiply_double", "(double, double) -> double", multiply),
    f("_*_", "multiply_int64", "(int, int) -> int", multiply),
    f("_*_", "multiply_uint64", "(uint, uint) -> uint", multiply),
    f("_/_", "divide_double", "(double, double) -> double", divide),
    f("_/_", "divide_int64", "(int, int) -> int", divide),
    f("_/_", "divide_uint64", "(uint, uint) -> uint", divide),
    f("_%_", "modulo_int64", "(int, int) -> int", modulo),
    f("_%_", "modulo_uint64", "(uint, uint) -> uint", modulo),
    f("-_", "negate_double", "(double) -> double", negate),
    f("-_", "negate_int64", "(int) -> int", negate),
    f("@in", "in_list", "(A, list(A)) -> bool", is_in),
    f("@in", "in_map", "(A, map(A, B)) -> bool", is_in),
    f("_<_", "less_bool", "(bool, bool) -> bool", less),
    f("_<_", "less_int64", "(int, int) -> bool", less),
    f("_<_", "less_uint64", "(uint, uint) -> bool", less),
    f("_<_", "less_double", "(double, double) -> bool", less),
    f("_<_", "less_string", "(string, string) -> bool", less),
    f("_<_", "less_bytes", "(bytes, bytes) -> bool", less),
    f("_<_", "less_timestamp", "(timestamp, timestamp) -> bool", less),
    f("_<_", "less_duration", "(duration, duration) -> bool", less),
    f("_<=_", "less_equals_bool", "(bool, bool) -> bool", less_equals),
    f("_<=_", "less_equals_int64", "(int, int) -> bool", less_equals),
    f("_<=_", "less_equals_uint64", "(uint, uint) -> bool", less_equals),
    f("_<=_", "less_equals_double", "(double, double) -> bool", less_equals),
    f("_<=_", "less_equals_string", "(string, string) -> bool", less_equals),
    f("_<=_", "less_equals_bytes", "(bytes, bytes) -> bool", less_equals),
    f("_<=_", "less_equals_timestamp", "(timestamp, timestamp) -> bool", less_equals),
    f("_<=_", "less_equals_duration", "(duration, duration) -> bool", less_equals),
    f("_>_", "greater_bool", "(bool, bool) -> bool", greater),
    f("_>_", "greater_int64", "(int, int) -> bool", greater),
    f("_>_", "greater_uint64", "(uint, uint) -> bool", greater),
    f("_>_", "greater_double", "(double, double) -> bool", greater),
    f("_>_", "greater_string", "(string, string) -> bool", greater),
    f("_>_", "greater_bytes", "(bytes, bytes) -> bool", greater),
    f("_>_", "greater_timestamp", "(timestamp, timestamp) -> bool", greater),
    f("_>_", "greater_duration", "(duration, duration) -> bool", greater),
    f("_>=_", "greater_equals_bool", "(bool, bool) -> bool", greater_equals),
    f("_>=_", "greater_equals_int64", "(int, int) -> bool", greater_equals),
    f("_>=_", "greater_equals_uint64", "(uint, uint) -> bool", greater_equals),
    f("_>=_", "greater_equals_double", "(double, double) -> bool", greater_equals),
    f("_>=_", "greater_equals_string", "(string, string) -> bool", greater_equals),
    f("_>=_", "greater_equals_bytes", "(bytes, bytes) -> bool", greater_equals),
    f("_>=_", "greater_equals_timestamp", "(timestamp, timestamp) -> bool", greater_equals),
    f("_>=_", "greater_equals_duration", "(duration, duration) -> bool", greater_equals),
];

/// Comparisons between numbers of different types.
pub(super) const CROSS_TYPE: &[Decl] = &[
    f("_<_", "less_int64_double", "(int, double) -> bool", less),
    f("_<_", "less_int64_uint64", "(int, uint) -> bool", less),
    f("_<_", "less_uint64_double", "(uint, double) -> bool", less),
    f("_<_", "less_uint64_int64", "(uint, int) -> bool", less),
    f("_<_", "less_double_int64", "(double, int) -> bool", less),
    f("_<_", "less_double_uint64", "(double, uint) -> bool", less),
    f("_<=_", "less_equals_int64_double", "(int, double) -> bool", less_equals),
    f("_<=_", "less_equals_int64_uint64", "(int, uint) -> bool", less_equals),
    f("_<=_", "less_equals_uint64_double", "(uint, double) -> bool", less_equals),
    f("_<=_", "less_equals_uint64_int64", "(uint, int) -> bool", less_equals),
    f("_<=_", "less_equals_double_int64", "(double, int) -> bool", less_equals),
    f("_<=_", "less_equals_double_uint64", "(double, uint) -> bool", less_equals),
    f("_>_", "greater_int64_double", "(int, double) -> bool", greater),
    f("_>_", "greater_int64_uint64", "(int, uint) -> bool", greater),
    f("_>_", "greater_uint64_double", "(uint, double) -> bool", greater),
    f("_>_", "greater_uint64_int64", "(uint, int) -> bool", greater),
    f("_>_", "greater_double_int64", "(double, int) -> bool", greater),
    f("_>_", "greater_double_uint64", "(double, uint) -> bool", greater),
    f("_>=_", "greater_equals_int64_double", "(int, double) -> bool", greater_equals),
    f("_>=_", "greater_equals_int64_uint64", "(int, uint) -> bool", greater_equals),
    f("_>=_", "greater_equals_uint64_double", "(uint, double) -> bool", greater_equals),
    f("_>=_", "greater_equals_uint64_int64", "(uint, int) -> bool", greater_equals),
    f("_>=_", "greater_equals_double_int64", "(double, int) -> bool", greater_equals),
    f("_>=_", "greater_equals_double_uint64", "(double, uint) -> bool", greater_equals),
];

/// Functions.
pub(super) const FUNCTIONS: &[Decl] = &[
    f("size", "size_bytes", "(bytes) -> int", size),
    f("size", "bytes_size", "bytes.() -> int", size),
    f("size", "size_list", "(list(A)) -> int", size),
    f("size", "list_size", "list(A).() -> int", size),
    f("size", "size_map", "(map(A, B)) -> int", size),
    f("size", "map_size", "map(A, B).() -> int", size),
    f("size", "size_string", "(string) -> int", size),
    f("size", "string_size", "string.() -> int", size),
    f("contains", "contains_string", "string.(string) -> bool", |args| {
        texts(args).map(|(text, part)| Val::Bool(text.contains(&**part)))
    }),
    f("endsWith", "ends_with_string", "string.(string) -> bool", |args| {
        texts(args).map(|(text, part)| Val::Bool(text.ends_with(&**part)))
    }),
    f("startsWith", "starts_with_string", "string.(string) -> bool", |args| {
        texts(args).map(|(text, part)| Val::Bool(text.starts_with(&**part)))
    }),
    f("matches", "matches", "(string, string) -> bool", super::regex::match_text),
    f("matches", "matches_string", "string.(string) -> bool", super::regex::match_text),
    f("type", "type", "(A) -> type(A)", |args| match args {
        [value] => Ok(Val::Type(value.type_of())),
        _ => no_overload(),
    }),
    f("dyn", "to_dyn", "(A) -> dyn", |args| {
        args.first().cloned().ok_or_else(EvalError::no_such_overload)
    }),
];
