//! Lists as sets.

use super::equal;
use super::standard::no_overload;
use crate::decl::{Decl, f};
use crate::value::{List, Result, Val};

fn contains(all: &List<'_>, part: &List<'_>) -> Result<bool> {
    for wanted in part.iter() {
        if !equal::contains(all, &wanted?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn intersects(a: &List<'_>, b: &List<'_>) -> Result<bool> {
    for wanted in b.iter() {
        if equal::contains(a, &wanted?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn with<'v>(args: &[Val<'v>], test: fn(&List<'_>, &List<'_>) -> Result<bool>) -> Result<Val<'v>> {
    match args {
        [Val::List(a), Val::List(b)] => test(a, b).map(Val::Bool),
        _ => no_overload(),
    }
}

pub(super) const FUNCTIONS: &[Decl] = &[
    f("sets.contains", "list_sets_contains_list", "(list(T), list(T)) -> bool", |args| {
        with(args, contains)
    }),
    f("sets.equivalent", "list_sets_equivalent_list", "(list(T), list(T)) -> bool", |args| {
        with(args, |a, b| Ok(contains(a, b)? && contains(b, a)?))
    }),
    f("sets.intersects", "list_sets_intersects_list", "(list(T), list(T)) -> bool", |args| {
        with(args, intersects)
    }),
];
