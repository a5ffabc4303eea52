//! Functions: their overloads by type, and what each does.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::{self, Type};
use crate::value::{Result, Val};

/// What an overload does. It may trust the types of its arguments at the top, not those of their parts.
pub(crate) type Body = for<'v> fn(&[Val<'v>]) -> Result<Val<'v>>;

/// A row of a library's table.
pub(crate) struct Decl {
    pub(crate) name: &'static str,
    pub(crate) id: &'static str,
    /// `string.(int) -> string` for a method, `(string) -> int` for a function.
    pub(crate) signature: &'static str,
    pub(crate) body: Body,
}

/// A row of a library's table.
pub(crate) const fn f(
    name: &'static str,
    id: &'static str,
    signature: &'static str,
    body: Body,
) -> Decl {
    Decl { name, id, signature, body }
}

/// One way to call a function.
#[derive(Debug, Clone)]
pub(crate) struct Overload {
    pub(crate) id: &'static str,
    pub(crate) is_member: bool,
    pub(crate) params: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) type_params: Vec<Arc<str>>,
    pub(crate) body: Body,
}

/// All functions by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Functions(BTreeMap<&'static str, Vec<Arc<Overload>>>);

impl Functions {
    /// Adds a library. An overload that is there already is replaced.
    pub(crate) fn add(&mut self, table: &[Decl]) {
        for decl in table {
            let overloads = self.0.entry(decl.name).or_default();
            overloads.retain(|it| it.id != decl.id);
            overloads.push(Arc::new(Overload::read(decl)));
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<(&'static str, &[Arc<Overload>])> {
        let (name, overloads) = self.0.get_key_value(name)?;
        Some((name, overloads))
    }
}

impl Overload {
    fn read(decl: &Decl) -> Self {
        let (before, result) =
            decl.signature.split_once(" -> ").expect("because tables of libraries are tested");
        let (receiver, params) = match before.strip_prefix('(') {
            Some(params) => (None, params),
            None => {
                let (receiver, params) =
                    before.rsplit_once(".(").expect("because tables of libraries are tested");
                (Some(receiver), params)
            }
        };
        let params = types::split(params.strip_suffix(')').unwrap_or_default());
        let params = receiver.into_iter().chain(params).map(types::read).collect::<Vec<_>>();
        let result = types::read(result);
        let mut type_params = Vec::new();
        params.iter().chain([&result]).for_each(|it| collect_params(it, &mut type_params));
        let is_member = receiver.is_some();
        Self { id: decl.id, is_member, params, result, type_params, body: decl.body }
    }

    /// Whether these arguments can be given, as far as a look at each tells.
    pub(crate) fn accepts(&self, args: &[Val<'_>]) -> bool {
        self.params.len() == args.len()
            && self.params.iter().zip(args).all(|(ty, arg)| is_of(ty, arg))
    }
}

fn collect_params(ty: &Type, into: &mut Vec<Arc<str>>) {
    match ty {
        Type::Param(name) if !into.contains(name) => into.push(Arc::clone(name)),
        _ => ty.params().into_iter().for_each(|it| collect_params(it, into)),
    }
}

fn is_of(ty: &Type, value: &Val<'_>) -> bool {
    match (ty, value) {
        (Type::Dyn | Type::Error | Type::Param(_), _)
        | (Type::Null, Val::Null)
        | (Type::Bool, Val::Bool(_))
        | (Type::Int, Val::Int(_))
        | (Type::Uint, Val::Uint(_))
        | (Type::Double, Val::Double(_))
        | (Type::String, Val::String(_))
        | (Type::Bytes, Val::Bytes(_))
        | (Type::Duration, Val::Duration(_))
        | (Type::Timestamp, Val::Timestamp(_))
        | (Type::List(_), Val::List(_))
        | (Type::Map(_), Val::Map(_))
        | (Type::Type(_), Val::Type(_)) => true,
        (Type::Struct(_) | Type::Opaque(_), Val::Opaque(it)) => it.type_name() == ty.name(),
        (Type::Struct(name), Val::Map(map)) => map.struct_name() == Some(name),
        (Type::Opaque(_), Val::Optional(_)) => ty.as_optional().is_some(),
        _ => false,
    }
}
