//! What mutating policies make: patches, and parts of objects.

use super::standard::no_overload;
use crate::decl::{Decl, f};
use crate::schema::TypeProvider;
use crate::types::Type;
use crate::value::Val;

/// The object types of mutations: `JSONPatch{op: ..., path: ..., value: ...}`, and `Object{...}` with `Object.spec{...}`
/// and so on for any path. Fields of objects are of any type: what is made is checked when it is applied.
#[derive(Debug, Clone, Copy, Default)]
pub struct MutationTypes;

const JSON_PATCH: &str = "JSONPatch";
const OBJECT: &str = "Object";

impl TypeProvider for MutationTypes {
    fn has_type(&self, name: &str) -> bool {
        let is_path =
            || name.strip_prefix(OBJECT).is_some_and(|it| it.starts_with('.') && it.len() > 1);
        name == JSON_PATCH || name == OBJECT || is_path()
    }

    fn field(&self, type_name: &str, field: &str) -> Option<Type> {
        if type_name != JSON_PATCH {
            return self.has_type(type_name).then_some(Type::Dyn);
        }
        match field {
            "op" | "from" | "path" => Some(Type::String),
            "value" => Some(Type::Dyn),
            _ => None,
        }
    }
}

pub(super) const FUNCTIONS: &[Decl] = &[f(
    "jsonpatch.escapeKey",
    "string_jsonpatch_escapeKey_string",
    "(string) -> string",
    |args| match args {
        [Val::String(key)] => Ok(Val::string(&key.replace('~', "~0").replace('/', "~1"))),
        _ => no_overload(),
    },
)];
