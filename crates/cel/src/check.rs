//! Types of expressions, found before anything is evaluated, with upstream's words for what does not fit.

mod infer;

use std::sync::Arc;

use crate::ast::{
    Comprehension, Element, Entry, Expr, ExprKind, FieldInit, Literal, Name, NodeId, op,
};
use crate::decl::Overload;
use crate::env::Env;
use crate::parser::Parsed;
use crate::source::{Found, Issues, Source};
use crate::types::Type;
use infer::Inference;

/// How many types a type may be made of: `{x: x}` doubles that of `x`.
const TYPE_PARTS_MAX: usize = 2_000;

/// A tree with the types and meanings of its nodes.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) expr: Expr,
    pub(crate) types: Vec<Option<Type>>,
    pub(crate) references: Vec<Option<Reference>>,
    pub(crate) is_checked: bool,
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub(crate) enum Reference {
    /// A variable of the environment, by index.
    Variable(usize),
    /// A variable of a loop.
    Local,
    /// A type.
    Type(Type),
    /// The overloads of a function that can be meant.
    Overloads(Vec<Arc<Overload>>),
}

fn index(id: NodeId) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

impl Checked {
    pub(crate) fn ty(&self, expr: &Expr) -> &Type {
        self.types.get(index(expr.id)).and_then(Option::as_ref).unwrap_or(&Type::Dyn)
    }

    pub(crate) fn reference(&self, expr: &Expr) -> Option<&Reference> {
        self.references.get(index(expr.id))?.as_ref()
    }

    pub(crate) fn overloads(&self, expr: &Expr) -> &[Arc<Overload>] {
        match self.reference(expr) {
            Some(Reference::Overloads(it)) => it,
            _ => &[],
        }
    }

    pub(crate) fn output(&self) -> Type {
        self.ty(&self.expr).clone()
    }

    /// The variables of the environment that it reads.
    pub(crate) fn variables_used(&self) -> Vec<usize> {
        let variable = |it: &Option<Reference>| match it {
            Some(Reference::Variable(index)) => Some(*index),
            _ => None,
        };
        let mut used = self.references.iter().filter_map(variable).collect::<Vec<_>>();
        used.sort_unstable();
        used.dedup();
        used
    }
}

/// The type of a name that every expression knows.
pub(crate) fn type_named(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "int" => Type::Int,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "null_type" => Type::Null,
        "string" => Type::String,
        "type" => Type::type_of(Type::Dyn),
        "uint" => Type::Uint,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "optional_type" => Type::optional(Type::Dyn),
        "net.IP" | "net.CIDR" => Type::opaque(name),
        _ => return None,
    })
}

pub(crate) fn unchecked(parsed: Parsed) -> Checked {
    let nodes = parsed.positions.len();
    Checked {
        expr: parsed.expr,
        types: vec![None; nodes],
        references: vec![None; nodes],
        is_checked: false,
    }
}

pub(crate) fn check(env: &Env, parsed: Parsed) -> Result<Checked, Issues> {
    let Parsed { mut expr, source, positions } = parsed;
    let mut checker = Checker {
        env,
        source: &source,
        positions: &positions,
        types: vec![None; positions.len()],
        references: vec![None; positions.len()],
        scopes: Vec::new(),
        infer: Inference::default(),
        issues: Found::default(),
    };
    checker.check(&mut expr);
    if env.validates_literals && checker.issues.is_empty() {
        checker.literals(&expr);
    }
    if !checker.issues.is_empty() {
        return Err(checker.issues.sorted());
    }
    let Checker { types, references, infer, .. } = checker;
    let types = types.into_iter().map(|ty| ty.map(|ty| infer.substitute(&ty, true))).collect();
    Ok(Checked { expr, types, references, is_checked: true })
}

struct Checker<'e> {
    env: &'e Env,
    source: &'e Source,
    positions: &'e [u32],
    types: Vec<Option<Type>>,
    references: Vec<Option<Reference>>,
    scopes: Vec<(Name, Type)>,
    infer: Inference,
    issues: Found,
}

impl Checker<'_> {
    fn ty(&self, expr: &Expr) -> Type {
        self.types[index(expr.id)].clone().unwrap_or(Type::Error)
    }

    fn types(&self, exprs: &[Expr]) -> Vec<Type> {
        exprs.iter().map(|it| self.ty(it)).collect()
    }

    fn set(&mut self, id: NodeId, ty: Type) {
        self.types[index(id)] = Some(ty);
    }

    /// Sets the type of a list or map, which is where types grow.
    fn set_literal(&mut self, id: NodeId, ty: Type) {
        if ty.is_larger_than(TYPE_PARTS_MAX) {
            self.report(id, format!("type size limit exceeded: {TYPE_PARTS_MAX}"));
            return self.set(id, Type::Error);
        }
        self.set(id, ty);
    }

    fn refer(&mut self, id: NodeId, reference: Reference) {
        self.references[index(id)] = Some(reference);
    }

    fn report(&mut self, id: NodeId, message: String) {
        let position = self.positions.get(index(id)).copied();
        self.issues.add(self.source, position, message);
    }

    fn undeclared(&mut self, id: NodeId, name: &str) {
        let name = name.trim_start_matches('.');
        let container = &self.env.container;
        self.report(id, format!("undeclared reference to '{name}' (in container '{container}')"));
    }

    fn mismatch(&mut self, id: NodeId, expected: &Type, found: &Type) {
        let (expected, found) =
            (self.infer.substitute(expected, false), self.infer.substitute(found, false));
        self.report(id, format!("expected type '{expected}' but found '{found}'"));
    }

    fn check(&mut self, expr: &mut Expr) {
        let id = expr.id;
        match &mut expr.kind {
            ExprKind::Error => self.set(id, Type::Error),
            ExprKind::Literal(value) => {
                let ty = literal_type(value);
                self.set(id, ty);
            }
            ExprKind::Ident(name) => {
                let name = Arc::clone(name);
                self.ident(id, &name);
            }
            ExprKind::Select { .. } => self.select(expr),
            ExprKind::Call { .. } => self.call(expr),
            ExprKind::List(elements) => self.list(id, elements),
            ExprKind::Map(entries) => self.map(id, entries),
            ExprKind::Struct { name, fields } => self.object(id, name, fields),
            ExprKind::Comprehension(it) => self.comprehension(id, it),
        }
    }

    /// What a name of one or more parts stands for.
    fn lookup(&self, name: &str) -> Option<(Reference, Type, Option<String>)> {
        if let Some((_, ty)) = self.scopes.iter().rev().find(|(it, _)| &**it == name) {
            return Some((Reference::Local, ty.clone(), None));
        }
        for candidate in self.env.candidates(name) {
            if let Some((index, variable)) = self.env.variable(&candidate) {
                return Some((Reference::Variable(index), variable.ty.clone(), Some(candidate)));
            }
            let known = type_named(&candidate)
                .or_else(|| self.env.has_type(&candidate).then(|| Type::object(&candidate)));
            if let Some(ty) = known {
                return Some((Reference::Type(ty.clone()), Type::type_of(ty), None));
            }
        }
        None
    }

    fn ident(&mut self, id: NodeId, name: &str) {
        match self.lookup(name) {
            Some((reference, ty, _)) => {
                self.refer(id, reference);
                self.set(id, ty);
            }
            None => {
                self.set(id, Type::Error);
                self.undeclared(id, name);
            }
        }
    }

    fn select(&mut self, expr: &mut Expr) {
        let id = expr.id;
        // `a.b` may be one name.
        if let Some(name) = expr.qualified_name() {
            let is_local = |first: &str| self.scopes.iter().any(|(it, _)| &**it == first);
            let first = name.split('.').next().unwrap_or_default();
            if !is_local(first)
                && let Some((reference, ty, full)) = self.lookup(&name)
            {
                let name = full.unwrap_or(name);
                expr.kind = ExprKind::Ident(name.as_str().into());
                self.refer(id, reference);
                self.set(id, ty);
                return;
            }
        }
        let ExprKind::Select { operand, field, test_only } = &mut expr.kind else { return };
        self.check(operand);
        let (field, test_only) = (Arc::clone(field), *test_only);
        let operand = self.ty(operand);
        let ty = self.field(id, &operand, &field, false);
        self.set(id, if test_only { Type::Bool } else { ty });
    }

    /// The type of a field of something of this type.
    fn field(&mut self, id: NodeId, operand: &Type, field: &str, optional: bool) -> Type {
        let operand = self.infer.substitute(operand, false);
        let (target, is_optional) = match operand.as_optional() {
            Some(inner) => (self.infer.substitute(inner, false), true),
            None => (operand, optional),
        };
        let ty = match &target {
            Type::Map(it) => it.1.clone(),
            Type::Struct(name) => self.declared_field(id, name, field),
            Type::Param(_) => {
                self.infer.is_assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            _ => {
                if !target.is_dyn_or_error() {
                    self.report(id, format!("type '{target}' does not support field selection"));
                }
                Type::Dyn
            }
        };
        if is_optional { Type::optional(ty) } else { ty }
    }

    fn declared_field(&mut self, id: NodeId, type_name: &str, field: &str) -> Type {
        if let Some(ty) = self.env.field(type_name, field) {
            return ty;
        }
        if self.env.has_type(type_name) {
            self.report(id, format!("undefined field '{field}'"));
        } else {
            self.report(id, format!("unexpected failed resolution of '{type_name}'"));
        }
        Type::Error
    }

    fn call(&mut self, expr: &mut Expr) {
        let id = expr.id;
        let ExprKind::Call { function, target, args } = &mut expr.kind else { return };
        if &**function == op::OPT_SELECT {
            return self.optional_select(expr);
        }
        for arg in args.iter_mut() {
            self.check(arg);
        }
        let Some(receiver) = target else {
            let (name, args) = (Arc::clone(function), self.types(args));
            return self.global_call(id, &name, &args);
        };
        // `a.b()` may be the function `a.b`.
        if let Some(prefix) = receiver.qualified_name() {
            let name = format!("{prefix}.{function}");
            let candidates = self.env.candidates(&name);
            if let Some(name) =
                candidates.into_iter().find(|it| self.env.functions.get(it).is_some())
            {
                *function = name.as_str().into();
                *target = None;
                let args = self.types(args);
                return self.global_call(id, &name, &args);
            }
        }
        self.check(receiver);
        let mut types = vec![self.ty(receiver)];
        types.extend(args.iter().map(|it| self.ty(it)));
        let name = Arc::clone(function);
        match self.env.functions.get(&name) {
            Some((name, overloads)) => {
                let overloads = overloads.to_vec();
                self.resolve(id, name, &overloads, &types, true);
            }
            None => {
                self.set(id, Type::Error);
                self.undeclared(id, &name);
            }
        }
    }

    fn global_call(&mut self, id: NodeId, name: &str, args: &[Type]) {
        let candidates = self.env.candidates(name);
        let found = candidates.iter().find_map(|it| self.env.functions.get(it));
        let Some((name, overloads)) = found else {
            self.set(id, Type::Error);
            return self.undeclared(id, name);
        };
        let overloads = overloads.to_vec();
        self.resolve(id, name, &overloads, args, false);
    }

    /// Finds the overloads that take these arguments.
    fn resolve(
        &mut self,
        id: NodeId,
        name: &str,
        all: &[Arc<Overload>],
        args: &[Type],
        is_member: bool,
    ) {
        let mut fitting = Vec::new();
        let mut result: Option<Type> = None;
        for overload in all.iter().filter(|it| it.is_member == is_member) {
            let fresh = self.infer.instantiate(overload);
            if !self.infer.all_assignable(args, &fresh.params) {
                continue;
            }
            fitting.push(Arc::clone(overload));
            let ty = self.infer.substitute(&fresh.result, false);
            result = Some(match result {
                None => ty,
                Some(before) if before == Type::Dyn || before == ty => before,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let args = args.iter().map(|it| self.infer.substitute(it, true).to_string());
            let args = args.collect::<Vec<_>>();
            let signature = match (is_member, args.split_first()) {
                (true, Some((target, args))) => format!("{target}.({})", args.join(", ")),
                _ => format!("({})", args.join(", ")),
            };
            self.report(
                id,
                format!("found no matching overload for '{name}' applied to '{signature}'"),
            );
            return self.set(id, Type::Error);
        };
        self.refer(id, Reference::Overloads(fitting));
        self.set(id, result);
    }

    fn optional_select(&mut self, expr: &mut Expr) {
        let id = expr.id;
        let ExprKind::Call { args, .. } = &mut expr.kind else { return };
        let [operand, field] = args.as_mut_slice() else { return };
        self.check(operand);
        self.check(field);
        let name = match &field.kind {
            ExprKind::Literal(Literal::String(name)) => Arc::clone(name),
            _ => {
                self.report(field.id, "unsupported optional field selection".into());
                return self.set(id, Type::Error);
            }
        };
        let operand = self.ty(operand);
        let ty = self.field(id, &operand, &name, true);
        self.set(id, ty);
        if let Some((_, overloads)) = self.env.functions.get(op::OPT_SELECT) {
            self.refer(id, Reference::Overloads(overloads.to_vec()));
        }
    }

    /// The type of a value, unwrapped where it stands for one that may be missing.
    fn unwrapped(&mut self, value: &Expr, optional: bool) -> Type {
        let ty = self.infer.substitute(&self.ty(value), false);
        if !optional {
            return ty;
        }
        match ty.as_optional() {
            Some(inner) => inner.clone(),
            None => {
                if !ty.is_dyn_or_error() {
                    let expected = Type::optional(ty.clone());
                    self.mismatch(value.id, &expected, &ty);
                }
                ty
            }
        }
    }

    fn join(&mut self, id: NodeId, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else { return current };
        if self.infer.is_assignable(&previous, &current) {
            return infer::most_general(previous, current);
        }
        if self.env.mixed_literals {
            return Type::Dyn;
        }
        self.mismatch(id, &previous, &current);
        Type::Error
    }

    fn list(&mut self, id: NodeId, elements: &mut [Element]) {
        let mut item = None;
        for element in elements {
            self.check(&mut element.value);
            let ty = self.unwrapped(&element.value, element.optional);
            item = Some(self.join(element.value.id, item, ty));
        }
        let item = item.unwrap_or_else(|| self.infer.fresh());
        self.set_literal(id, Type::list(item));
    }

    fn map(&mut self, id: NodeId, entries: &mut [Entry]) {
        let (mut key, mut value) = (None, None);
        for entry in entries {
            self.check(&mut entry.key);
            let ty = self.ty(&entry.key);
            key = Some(self.join(entry.key.id, key, ty));
            self.check(&mut entry.value);
            let ty = self.unwrapped(&entry.value, entry.optional);
            value = Some(self.join(entry.value.id, value, ty));
        }
        let key = key.unwrap_or_else(|| self.infer.fresh());
        let value = value.unwrap_or_else(|| self.infer.fresh());
        self.set_literal(id, Type::map(key, value));
    }

    fn object(&mut self, id: NodeId, name: &mut Name, fields: &mut [FieldInit]) {
        let candidates = self.env.candidates(name);
        let found = candidates.into_iter().find(|it| self.env.has_type(it));
        let Some(full) = found else {
            self.undeclared(id, &Arc::clone(name));
            for field in fields {
                self.check(&mut field.value);
            }
            return self.set(id, Type::Error);
        };
        for field in fields {
            self.check(&mut field.value);
            let declared = self.declared_field(field.id, &full, &field.field);
            let ty = self.unwrapped(&field.value, field.optional);
            if !self.infer.is_assignable(&declared, &ty) {
                let name = &field.field;
                let ty = self.infer.substitute(&ty, false);
                let message = format!(
                    "expected type of field '{name}' is '{declared}' but provided type is '{ty}'"
                );
                self.report(field.id, message);
            }
        }
        self.set(id, Type::object(&full));
        *name = full.as_str().into();
    }

    fn comprehension(&mut self, id: NodeId, it: &mut Comprehension) {
        self.check(&mut it.range);
        self.check(&mut it.init);
        let range = self.infer.substitute(&self.ty(&it.range), false);
        let accu = self.ty(&it.init);
        self.scopes.push((Arc::clone(&it.accu), accu.clone()));
        let has_two = it.var2.is_some();
        let (var, var2) = match &range {
            Type::List(item) if has_two => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Dyn),
            Type::Map(it) => it.as_ref().clone(),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.infer.is_assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(it.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        let outside = self.scopes.len();
        self.scopes.push((Arc::clone(&it.var), var));
        if let Some(name) = &it.var2 {
            self.scopes.push((Arc::clone(name), var2));
        }
        self.check(&mut it.condition);
        self.assert_type(&it.condition, &Type::Bool);
        self.check(&mut it.step);
        self.assert_type(&it.step, &accu);
        self.scopes.truncate(outside);
        self.check(&mut it.result);
        self.scopes.truncate(outside - 1);
        let ty = self.infer.substitute(&self.ty(&it.result), false);
        self.set(id, ty);
    }

    fn assert_type(&mut self, expr: &Expr, expected: &Type) {
        let ty = self.ty(expr);
        if !self.infer.is_assignable(expected, &ty) {
            self.mismatch(expr.id, expected, &ty);
        }
    }

    /// Constants that functions would refuse at run time.
    fn literals(&mut self, expr: &Expr) {
        walk(expr, &mut |it| {
            let ExprKind::Call { function, target, args } = &it.kind else { return };
            let is_pattern_second = &**function == "matches" && target.is_none();
            let arg = args.get(usize::from(is_pattern_second));
            let Some(Expr { id, kind: ExprKind::Literal(Literal::String(text)) }) = arg else {
                return;
            };
            let valid = match &**function {
                "duration" => crate::library::time::duration(text).is_ok(),
                "timestamp" => crate::library::time::timestamp(text).is_ok(),
                "matches" => crate::library::regex::compile(text).is_ok(),
                _ => true,
            };
            if !valid {
                self.report(*id, format!("invalid {function} argument"));
            }
        });
    }
}

fn literal_type(value: &Literal) -> Type {
    match value {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

fn walk(expr: &Expr, visit: &mut impl FnMut(&Expr)) {
    visit(expr);
    match &expr.kind {
        ExprKind::Error | ExprKind::Literal(_) | ExprKind::Ident(_) => {}
        ExprKind::Select { operand, .. } => walk(operand, visit),
        ExprKind::Call { target, args, .. } => {
            target.iter().for_each(|it| walk(it, visit));
            args.iter().for_each(|it| walk(it, visit));
        }
        ExprKind::List(elements) => elements.iter().for_each(|it| walk(&it.value, visit)),
        ExprKind::Map(entries) => {
            for entry in entries {
                walk(&entry.key, visit);
                walk(&entry.value, visit);
            }
        }
        ExprKind::Struct { fields, .. } => fields.iter().for_each(|it| walk(&it.value, visit)),
        ExprKind::Comprehension(it) => {
            for part in [&it.range, &it.init, &it.condition, &it.step, &it.result] {
                walk(part, visit);
            }
        }
    }
}
