//! Functions of numbers.

use std::cmp::Ordering;

use super::equal;
use super::standard::no_overload;
use crate::decl::{Body, Decl, f};
use crate::error::EvalError;
use crate::value::{Result, Val};

fn extreme<'v>(args: &[Val<'v>], wanted: Ordering) -> Result<Val<'v>> {
    let items = match args {
        [Val::List(list)] => list.iter().collect::<Result<Vec<_>>>()?,
        other => other.to_vec(),
    };
    let mut best: Option<Val<'v>> = None;
    for item in items {
        if !matches!(item, Val::Int(_) | Val::Uint(_) | Val::Double(_)) {
            return no_overload();
        }
        if best.as_ref().is_none_or(|best| equal::numbers(&item, best) == Some(wanted)) {
            best = Some(item);
        }
    }
    best.ok_or_else(|| EvalError::new("math.@min(list) argument must not be empty"))
}

fn max<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    extreme(args, Ordering::Greater)
}

fn min<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    extreme(args, Ordering::Less)
}

fn double<'v>(args: &[Val<'v>], of: fn(f64) -> f64) -> Result<Val<'v>> {
    match args {
        [Val::Double(number)] => Ok(Val::Double(of(*number))),
        _ => no_overload(),
    }
}

fn test<'v>(args: &[Val<'v>], of: fn(f64) -> bool) -> Result<Val<'v>> {
    match args {
        [Val::Double(number)] => Ok(Val::Bool(of(*number))),
        _ => no_overload(),
    }
}

fn abs<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Int(number)] => {
            number.checked_abs().map(Val::Int).ok_or_else(|| EvalError::new("integer overflow"))
        }
        [Val::Uint(number)] => Ok(Val::Uint(*number)),
        [Val::Double(number)] => Ok(Val::Double(number.abs())),
        _ => no_overload(),
    }
}

fn sign<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Int(number)] => Ok(Val::Int(number.signum())),
        [Val::Uint(number)] => Ok(Val::Uint((*number).min(1))),
        [Val::Double(number)] if number.is_nan() || *number == 0.0 => Ok(Val::Double(*number)),
        [Val::Double(number)] => Ok(Val::Double(number.signum())),
        _ => no_overload(),
    }
}

fn bits<'v>(args: &[Val<'v>], of: fn(u64, u64) -> u64) -> Result<Val<'v>> {
    match args {
        [Val::Int(a), Val::Int(b)] => {
            Ok(Val::Int(of(a.cast_unsigned(), b.cast_unsigned()).cast_signed()))
        }
        [Val::Uint(a), Val::Uint(b)] => Ok(Val::Uint(of(*a, *b))),
        _ => no_overload(),
    }
}

fn shift<'v>(args: &[Val<'v>], of: fn(u64, u32) -> Option<u64>) -> Result<Val<'v>> {
    let by = match args {
        [_, Val::Int(by)] if *by < 0 => {
            return Err(EvalError::new(format!("math.bitShift() negative offset: {by}")));
        }
        [_, Val::Int(by)] => u32::try_from(*by).unwrap_or(u32::MAX),
        _ => return no_overload(),
    };
    match args {
        [Val::Int(number), _] => {
            Ok(Val::Int(of(number.cast_unsigned(), by).unwrap_or(0).cast_signed()))
        }
        [Val::Uint(number), _] => Ok(Val::Uint(of(*number, by).unwrap_or(0))),
        _ => no_overload(),
    }
}

fn not<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Int(number)] => Ok(Val::Int(!number)),
        [Val::Uint(number)] => Ok(Val::Uint(!number)),
        _ => no_overload(),
    }
}

fn sqrt<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let number = match args {
        [Val::Double(number)] => *number,
        [Val::Int(number)] => crate::value::int_to_double(*number),
        [Val::Uint(number)] => crate::value::uint_to_double(*number),
        _ => return no_overload(),
    };
    Ok(Val::Double(number.sqrt()))
}

fn round(number: f64) -> f64 {
    // Half a unit goes away from zero; what is not a number stays so.
    if number.is_finite() { number.round() } else { number }
}

const AND: Body = |args| bits(args, |a, b| a & b);
const OR: Body = |args| bits(args, |a, b| a | b);
const XOR: Body = |args| bits(args, |a, b| a ^ b);
const LEFT: Body = |args| shift(args, |a, by| a.checked_shl(by));
const RIGHT: Body = |args| shift(args, |a, by| a.checked_shr(by));

pub(super) const FUNCTIONS: &[Decl] = &[
    f("math.@max", "math_@max_double", "(double) -> double", max),
    f("math.@max", "math_@max_int", "(int) -> int", max),
    f("math.@max", "math_@max_uint", "(uint) -> uint", max),
    f("math.@max", "math_@max_double_double", "(double, double) -> double", max),
    f("math.@max", "math_@max_int_int", "(int, int) -> int", max),
    f("math.@max", "math_@max_uint_uint", "(uint, uint) -> uint", max),
    f("math.@max", "math_@max_int_uint", "(int, uint) -> dyn", max),
    f("math.@max", "math_@max_int_double", "(int, double) -> dyn", max),
    f("math.@max", "math_@max_double_int", "(double, int) -> dyn", max),
    f("math.@max", "math_@max_double_uint", "(double, uint) -> dyn", max),
    f("math.@max", "math_@max_uint_int", "(uint, int) -> dyn", max),
    f("math.@max", "math_@max_uint_double", "(uint, double) -> dyn", max),
    f("math.@max", "math_@max_list_double", "(list(double)) -> double", max),
    f("math.@max", "math_@max_list_int", "(list(int)) -> int", max),
    f("math.@max", "math_@max_list_uint", "(list(uint)) -> uint", max),
    f("math.@min", "math_@min_double", "(double) -> double", min),
    f("math.@min", "math_@min_int", "(int) -> int", min),
    f("math.@min", "math_@min_uint", "(uint) -> uint", min),
    f("math.@min", "math_@min_double_double", "(double, double) -> double", min),
    f("math.@min", "math_@min_int_int", "(int, int) -> int", min),
    f("math.@min", "math_@min_uint_uint", "(uint, uint) -> uint", min),
    f("math.@min", "math_@min_int_uint", "(int, uint) -> dyn", min),
    f("math.@min", "math_@min_int_double", "(int, double) -> dyn", min),
    f("math.@min", "math_@min_double_int", "(double, int) -> dyn", min),
    f("math.@min", "math_@min_double_uint", "(double, uint) -> dyn", min),
    f("math.@min", "math_@min_uint_int", "(uint, int) -> dyn", min),
    f("math.@min", "math_@min_uint_double", "(uint, double) -> dyn", min),
    f("math.@min", "math_@min_list_double", "(list(double)) -> double", min),
    f("math.@min", "math_@min_list_int", "(list(int)) -> int", min),
    f("math.@min", "math_@min_list_uint", "(list(uint)) -> uint", min),
    f("math.ceil", "math_ceil_double", "(double) -> double", |args| double(args, f64::ceil)),
    f("math.floor", "math_floor_double", "(double) -> double", |args| double(args, f64::floor)),
    f("math.round", "math_round_double", "(double) -> double", |args| double(args, round)),
    f("math.trunc", "math_trunc_double", "(double) -> double", |args| double(args, f64::trunc)),
    f("math.isInf", "math_isInf_double", "(double) -> bool", |args| test(args, f64::is_infinite)),
    f("math.isNaN", "math_isNaN_double", "(double) -> bool", |args| test(args, f64::is_nan)),
    f("math.isFinite", "math_isFinite_double", "(double) -> bool", |args| {
        test(args, f64::is_finite)
    }),
    f("math.abs", "math_abs_double", "(double) -> double", abs),
    f("math.abs", "math_abs_int", "(int) -> int", abs),
    f("math.abs", "math_abs_uint", "(uint) -> uint", abs),
    f("math.sign", "math_sign_double", "(double) -> double", sign),
    f("math.sign", "math_sign_int", "(int) -> int", sign),
    f("math.sign", "math_sign_uint", "(uint) -> uint", sign),
    f("math.sqrt", "math_sqrt_double", "(double) -> double", sqrt),
    f("math.sqrt", "math_sqrt_int", "(int) -> double", sqrt),
    f("math.sqrt", "math_sqrt_uint", "(uint) -> double", sqrt),
    f("math.bitAnd", "math_bitAnd_int_int", "(int, int) -> int", AND),
    f("math.bitAnd", "math_bitAnd_uint_uint", "(uint, uint) -> uint", AND),
    f("math.bitOr", "math_bitOr_int_int", "(int, int) -> int", OR),
    f("math.bitOr", "math_bitOr_uint_uint", "(uint, uint) -> uint", OR),
    f("math.bitXor", "math_bitXor_int_int", "(int, int) -> int", XOR),
    f("math.bitXor", "math_bitXor_uint_uint", "(uint, uint) -> uint", XOR),
    f("math.bitNot", "math_bitNot_int_int", "(int) -> int", not),
    f("math.bitNot", "math_bitNot_uint_uint", "(uint) -> uint", not),
    f("math.bitShiftLeft", "math_bitShiftLeft_int_int", "(int, int) -> int", LEFT),
    f("math.bitShiftLeft", "math_bitShiftLeft_uint_int", "(uint, int) -> uint", LEFT),
    f("math.bitShiftRight", "math_bitShiftRight_int_int", "(int, int) -> int", RIGHT),
    f("math.bitShiftRight", "math_bitShiftRight_uint_int", "(uint, int) -> uint", RIGHT),
];
