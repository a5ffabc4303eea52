//! Optional values, and the insertions that loops with two variables become.

use super::standard::no_overload;
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::value::{Map, Result, Val};

/// Whether a value is what its type starts with.
fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null | Val::Optional(None) => true,
        Val::Bool(truth) => !truth,
        Val::Int(number) => *number == 0,
        Val::Uint(number) => *number == 0,
        Val::Double(number) => *number == 0.0,
        Val::Duration(it) => it.as_nanos() == 0,
        Val::Timestamp(at) => *at == super::time::Time::FIRST,
        Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_) => value.size() == Some(0),
        Val::Type(_) | Val::Opaque(_) | Val::Optional(Some(_)) => false,
    }
}

fn unwrap<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Optional(Some(value))] => Ok((**value).clone()),
        [Val::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => no_overload(),
    }
}

pub(super) const FUNCTIONS: &[Decl] = &[
    f("optional.of", "optional_of", "(V) -> optional(V)", |args| match args {
        [value] => Ok(Val::some(value.clone())),
        _ => no_overload(),
    }),
    f(
        "optional.ofNonZeroValue",
        "optional_ofNonZeroValue",
        "(V) -> optional(V)",
        |args| match args {
            [value] if is_zero(value) => Ok(Val::Optional(None)),
            [value] => Ok(Val::some(value.clone())),
            _ => no_overload(),
        },
    ),
    f("optional.none", "optional_none", "() -> optional(V)", |_| Ok(Val::Optional(None))),
    f("value", "optional_value", "optional(V).() -> V", unwrap),
    f("hasValue", "optional_hasValue", "optional(V).() -> bool", |args| match args {
        [Val::Optional(value)] => Ok(Val::Bool(value.is_some())),
        _ => no_overload(),
    }),
    // Those that choose are steps of a program.
    f("or", "optional_or_optional", "optional(V).(optional(V)) -> optional(V)", |_| no_overload()),
    f("orValue", "optional_orValue_value", "optional(V).(V) -> V", |_| no_overload()),
    f("_?._", "select_optional_field", "(dyn, string) -> optional(V)", |_| no_overload()),
    f("_[?_]", "list_optindex_optional_int", "(list(V), int) -> optional(V)", |_| no_overload()),
    f(
        "_[?_]",
        "optional_list_optindex_optional_int",
        "(optional(list(V)), int) -> optional(V)",
        |_| no_overload(),
    ),
    f("_[?_]", "map_optindex_optional_value", "(map(K, V), K) -> optional(V)", |_| no_overload()),
    f(
        "_[?_]",
        "optional_map_optindex_optional_value",
        "(optional(map(K, V)), K) -> optional(V)",
        |_| no_overload(),
    ),
    f("_[_]", "optional_list_index_int", "(optional(list(V)), int) -> optional(V)", |_| {
        no_overload()
    }),
    f("_[_]", "optional_map_index_value", "(optional(map(K, V)), K) -> optional(V)", |_| {
        no_overload()
    }),
];

/// The steps of `transformMap` and `transformMapEntry`; they run as part of the loop.
pub(super) const MAP_INSERT: &[Decl] = &[
    f("cel.@mapInsert", "@mapInsert_map_map", "(map(K, V), map(K, V)) -> map(K, V)", |args| {
        match args {
            [Val::Map(a), Val::Map(b)] => {
                let mut entries = crate::value::Entries::default();
                for (key, value) in a.entries()?.into_iter().chain(b.entries()?) {
                    entries.insert(key, value, "insert failed: key already exists: ")?;
                }
                Ok(Val::Map(Map::new(entries)))
            }
            _ => no_overload(),
        }
    }),
    f("cel.@mapInsert", "@mapInsert_map_key_value", "(map(K, V), K, V) -> map(K, V)", |args| {
        match args {
            [Val::Map(map), key, value] => {
                let mut entries = crate::value::Entries::default();
                for (key, value) in map.entries()?.into_iter().chain([(key.clone(), value.clone())])
                {
                    entries.insert(key, value, "insert failed: key already exists: ")?;
                }
                Ok(Val::Map(Map::new(entries)))
            }
            _ => no_overload(),
        }
    }),
];
