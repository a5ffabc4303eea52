//! Kubernetes' quantities.

use std::cmp::Ordering;

use apimachinery::quantity::{Format, Quantity};

use super::opaque::Opaque;
use super::standard::no_overload;
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::value::{Result, Val};

fn of(value: &Val<'_>) -> Result<Quantity> {
    match value {
        Val::Opaque(it) => match &**it {
            Opaque::Quantity(quantity) => Ok(*quantity),
            _ => Err(EvalError::no_such_overload()),
        },
        Val::Int(number) => Ok(Quantity::new(*number, Format::DecimalSI)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn first(args: &[Val<'_>]) -> Result<Quantity> {
    args.first().ok_or_else(EvalError::no_such_overload).and_then(of)
}

fn both(args: &[Val<'_>]) -> Result<(Quantity, Quantity)> {
    match args {
        [a, b] => Ok((of(a)?, of(b)?)),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The value as an integer, if it is one that fits.
fn integer(quantity: &Quantity) -> Option<i64> {
    let value = quantity.value();
    (Quantity::new(value, quantity.format()) == *quantity).then_some(value)
}

fn number(order: Ordering) -> Val<'static> {
    Val::Int(order as i64)
}

pub(super) const FUNCTIONS: &[Decl] = &[
    f("quantity", "string_to_quantity", "(string) -> kubernetes.Quantity", |args| match args {
        [Val::String(text)] => match Quantity::parse(text) {
            Ok(it) => Ok(Val::opaque(Opaque::Quantity(it))),
            Err(error) => Err(EvalError::new(error.to_string())),
        },
        _ => no_overload(),
    }),
    f("isQuantity", "is_quantity_string", "(string) -> bool", |args| match args {
        [Val::String(text)] => Ok(Val::Bool(Quantity::parse(text).is_ok())),
        _ => no_overload(),
    }),
    f("sign", "quantity_sign", "kubernetes.Quantity.() -> int", |args| {
        first(args).map(|it| Val::Int(i64::from(it.sign())))
    }),
    f("isInteger", "quantity_is_integer", "kubernetes.Quantity.() -> bool", |args| {
        first(args).map(|it| Val::Bool(integer(&it).is_some()))
    }),
    f("asInteger", "quantity_as_integer", "kubernetes.Quantity.() -> int", |args| {
        let value = integer(&first(args)?);
        value.map(Val::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
    }),
    f("asApproximateFloat", "quantity_get_float", "kubernetes.Quantity.() -> double", |args| {
        first(args).map(|it| Val::Double(it.as_f64()))
    }),
    f(
        "isGreaterThan",
        "quantity_is_greater_than",
        "kubernetes.Quantity.(kubernetes.Quantity) -> bool",
        |args| both(args).map(|(a, b)| Val::Bool(a > b)),
    ),
    f(
        "isLessThan",
        "quantity_is_less_than",
        "kubernetes.Quantity.(kubernetes.Quantity) -> bool",
        |args| both(args).map(|(a, b)| Val::Bool(a < b)),
    ),
    f(
        "compareTo",
        "quantity_compare_to",
        "kubernetes.Quantity.(kubernetes.Quantity) -> int",
        |args| both(args).map(|(a, b)| number(a.cmp(&b))),
    ),
    f(
        "add",
        "quantity_add",
        "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity",
        |args| both(args).map(|(a, b)| Val::opaque(Opaque::Quantity(a + b))),
    ),
    f("add", "quantity_add_int", "kubernetes.Quantity.(int) -> kubernetes.Quantity", |args| {
        both(args).map(|(a, b)| Val::opaque(Opaque::Quantity(a + b)))
    }),
    f(
        "sub",
        "quantity_sub",
        "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity",
        |args| both(args).map(|(a, b)| Val::opaque(Opaque::Quantity(a - b))),
    ),
    f("sub", "quantity_sub_int", "kubernetes.Quantity.(int) -> kubernetes.Quantity", |args| {
        both(args).map(|(a, b)| Val::opaque(Opaque::Quantity(a - b)))
    }),
];
