//! Which types fit which, and what type parameters stand for.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::decl::Overload;
use crate::types::Type;

/// What parameters have been found to stand for.
#[derive(Debug, Default)]
pub(super) struct Inference {
    found: BTreeMap<Arc<str>, Type>,
    /// What was known before each change of the check at hand, so that a check that fails leaves no trace.
    trail: Vec<(Arc<str>, Option<Type>)>,
    count: usize,
}

/// An overload whose parameters are fresh.
pub(super) struct Fresh {
    pub(super) params: Vec<Type>,
    pub(super) result: Type,
}

impl Inference {
    /// A type that nothing is known of.
    pub(super) fn fresh(&mut self) -> Type {
        self.count += 1;
        Type::Param(format!("_var{}", self.count).into())
    }

    pub(super) fn instantiate(&mut self, overload: &Overload) -> Fresh {
        let names = overload.type_params.iter();
        let names = names.map(|name| (Arc::clone(name), self.fresh())).collect::<BTreeMap<_, _>>();
        let replace = |ty: &Type| substitute_in(&names, ty);
        Fresh {
            params: overload.params.iter().map(replace).collect(),
            result: replace(&overload.result),
        }
    }

    /// The type with what is known put in; what is not becomes dyn where `to_dyn` says so.
    pub(super) fn substitute(&self, ty: &Type, to_dyn: bool) -> Type {
        match ty {
            Type::Param(name) => match self.found.get(name) {
                Some(found) => self.substitute(found, to_dyn),
                None if to_dyn => Type::Dyn,
                None => ty.clone(),
            },
            _ => ty.with_params(|it| self.substitute(it, to_dyn)),
        }
    }

    /// Whether a value of `value` can be where `wanted` is; what this says of parameters is kept if so.
    pub(super) fn is_assignable(&mut self, wanted: &Type, value: &Type) -> bool {
        let fits = self.unify(wanted, value);
        self.settle(fits)
    }

    pub(super) fn all_assignable(&mut self, values: &[Type], wanted: &[Type]) -> bool {
        if values.len() != wanted.len() {
            return false;
        }
        let fits = values.iter().zip(wanted).all(|(value, wanted)| self.unify(value, wanted));
        self.settle(fits)
    }

    /// Keeps what a check found, or takes it back.
    fn settle(&mut self, fits: bool) -> bool {
        while let Some((name, before)) = self.trail.pop() {
            match before {
                _ if fits => {}
                Some(ty) => drop(self.found.insert(name, ty)),
                None => drop(self.found.remove(&name)),
            }
        }
        fits
    }

    fn learn(&mut self, param: &Arc<str>, ty: Type) {
        let before = self.found.insert(Arc::clone(param), ty);
        self.trail.push((Arc::clone(param), before));
    }

    fn unify(&mut self, left: &Type, right: &Type) -> bool {
        if let Type::Param(name) = right {
            let (fits, known) = self.stands_for(left, name);
            if fits || known {
                return fits;
            }
        }
        if let Type::Param(name) = left {
            return self.stands_for(right, name).0;
        }
        if left.is_dyn_or_error() || right.is_dyn_or_error() {
            return true;
        }
        match (left, right) {
            (Type::Null, other) | (other, Type::Null) => is_nullable(other),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(_), Type::List(_)) | (Type::Map(_), Type::Map(_)) => {
                self.parts(left, right)
            }
            (Type::Opaque(a), Type::Opaque(b)) => a.name == b.name && self.parts(left, right),
            _ => left == right,
        }
    }

    fn parts(&mut self, left: &Type, right: &Type) -> bool {
        let (left, right) = (left.params(), right.params());
        left.len() == right.len() && left.into_iter().zip(right).all(|(a, b)| self.unify(a, b))
    }

    /// Whether a parameter can stand for a type, and whether something was known of it.
    fn stands_for(&mut self, ty: &Type, param: &Arc<str>) -> (bool, bool) {
        if matches!(ty, Type::Param(name) if name == param) {
            return (true, true);
        }
        if let Some(found) = self.found.get(param).cloned() {
            if found == *ty {
                return (true, true);
            }
            if !self.unify(ty, &found) {
                return (false, true);
            }
            let general = most_general(ty.clone(), found);
            if !self.mentions(&general, param) {
                self.learn(param, general);
            }
            return (true, true);
        }
        if self.mentions(ty, param) {
            return (false, false);
        }
        self.learn(param, ty.clone());
        (true, false)
    }

    /// Whether a parameter occurs in a type.
    fn mentions(&self, ty: &Type, param: &Arc<str>) -> bool {
        match ty {
            Type::Param(name) if name == param => true,
            Type::Param(name) => self.found.get(name).is_some_and(|it| self.mentions(it, param)),
            _ => ty.params().into_iter().any(|it| self.mentions(it, param)),
        }
    }
}

fn substitute_in(names: &BTreeMap<Arc<str>, Type>, ty: &Type) -> Type {
    match ty {
        Type::Param(name) => names.get(name).cloned().unwrap_or_else(|| ty.clone()),
        _ => ty.with_params(|it| substitute_in(names, it)),
    }
}

fn is_nullable(ty: &Type) -> bool {
    matches!(ty, Type::Null | Type::Struct(_) | Type::Opaque(_) | Type::Duration | Type::Timestamp)
}

/// The less specific of two types that fit.
pub(super) fn most_general(left: Type, right: Type) -> Type {
    if is_less_specific(&left, &right) { left } else { right }
}

fn is_less_specific(left: &Type, right: &Type) -> bool {
    match (left, right) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (other, Type::Null) => is_nullable(other),
        (Type::List(_), Type::List(_))
        | (Type::Map(_), Type::Map(_))
        | (Type::Opaque(_), Type::Opaque(_)) => {
            let (a, b) = (left.params(), right.params());
            left.name() == right.name()
                && a.len() == b.len()
                && a.into_iter().zip(b).all(|(a, b)| is_less_specific(a, b))
        }
        (Type::Type(_), Type::Type(_)) => true,
        _ => left == right,
    }
}
