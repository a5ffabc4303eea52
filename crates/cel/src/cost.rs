//! What an expression costs at least and at most, before anything is there to evaluate it on.
//!
//! Sizes come from literals, from the schema of variables along their paths, and from what functions make of sizes. The
//! numbers are upstream's: which rules a custom resource may have depends on them.

mod calls;
pub(crate) mod runtime;

use std::collections::BTreeMap;

use crate::ast::{ACCUMULATOR, Comprehension, Expr, ExprKind, Literal, Name, NodeId, op};
use crate::check::Checked;
use crate::env::Env;
use crate::limits::{LIST_CREATE, MAP_CREATE, SELECT, STRUCT_CREATE};
use crate::schema::{DeclKind, DeclType};
use crate::types::Type;

/// What something costs at least and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CostEstimate {
    /// At least.
    pub min: u64,
    /// At most.
    pub max: u64,
}

/// How large something is at least and at most.
pub(crate) type Size = CostEstimate;

impl CostEstimate {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    pub(crate) const fn fixed(cost: u64) -> Self {
        Self { min: cost, max: cost }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(crate) fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    pub(crate) fn by_factor(self, factor: f64) -> Self {
        Self {
            min: runtime::by_factor(self.min, factor),
            max: runtime::by_factor(self.max, factor),
        }
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// What is known of a value by where it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Origin<'e> {
    /// A place in the schema of a variable.
    Decl(&'e DeclType),
    /// A key of a map of a schema: of no size, as upstream has it.
    Key,
}

/// The sizes of what is in a list or map.
#[derive(Debug, Clone, Copy, PartialEq)]
struct EntrySize {
    is_list: bool,
    key: Size,
    value: Size,
}

impl EntrySize {
    fn union(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let (a, b) = (a?, b?);
        Some(Self { is_list: a.is_list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

struct Local<'e> {
    name: Name,
    origin: Option<Origin<'e>>,
    size: Option<Size>,
    entry: Option<EntrySize>,
}

/// What a call costs, and how large its result is.
struct CallEstimate {
    cost: CostEstimate,
    size: Option<Size>,
}

struct Coster<'e> {
    env: &'e Env,
    checked: &'e Checked,
    origins: BTreeMap<NodeId, Origin<'e>>,
    locals: Vec<Local<'e>>,
    sizes: BTreeMap<NodeId, Size>,
    entries: BTreeMap<NodeId, EntrySize>,
}

/// What an expression costs.
pub(crate) fn estimate(env: &Env, checked: &Checked) -> CostEstimate {
    let mut coster = Coster {
        env,
        checked,
        origins: BTreeMap::new(),
        locals: Vec::new(),
        sizes: BTreeMap::new(),
        entries: BTreeMap::new(),
    };
    coster.cost(&checked.expr)
}

fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => {
            true
        }
        _ => ty.as_optional().is_some_and(is_scalar),
    }
}

impl<'e> Coster<'e> {
    fn cost(&mut self, expr: &'e Expr) -> CostEstimate {
        match &expr.kind {
            ExprKind::Error | ExprKind::Literal(_) => CostEstimate::default(),
            ExprKind::Ident(name) => {
                let origin = match self.local(name) {
                    Some(local) => local.origin,
                    None => self.variable(name),
                };
                self.set_origin(expr, origin);
                CostEstimate::fixed(SELECT)
            }
            ExprKind::Select { operand, field, test_only } => {
                self.select(expr, operand, field, *test_only)
            }
            ExprKind::Call { function, target, args } => {
                self.call(expr, function, target.as_deref(), args)
            }
            ExprKind::List(elements) => {
                let items = elements.iter().map(|it| &it.value).collect::<Vec<_>>();
                let cost = self.sum(&items);
                let value = self.spread(&items);
                self.entries
                    .insert(expr.id, EntrySize { is_list: true, key: Size::fixed(1), value });
                cost.plus(CostEstimate::fixed(LIST_CREATE))
            }
            ExprKind::Map(entries) => {
                let (keys, values): (Vec<_>, Vec<_>) =
                    entries.iter().map(|it| (&it.key, &it.value)).unzip();
                let cost = self.sum(&keys).plus(self.sum(&values));
                let (key, value) = (self.spread(&keys), self.spread(&values));
                self.entries.insert(expr.id, EntrySize { is_list: false, key, value });
                cost.plus(CostEstimate::fixed(MAP_CREATE))
            }
            ExprKind::Struct { fields, .. } => {
                let values = fields.iter().map(|it| &it.value).collect::<Vec<_>>();
                self.sum(&values).plus(CostEstimate::fixed(STRUCT_CREATE))
            }
            ExprKind::Comprehension(it) if &*it.accu != ACCUMULATOR => self.binding(expr, it),
            ExprKind::Comprehension(it) => self.comprehension(expr, it),
        }
    }

    fn sum(&mut self, exprs: &[&'e Expr]) -> CostEstimate {
        exprs.iter().fold(CostEstimate::default(), |sum, it| sum.plus(self.cost(it)))
    }

    /// The smallest and largest size of these.
    fn spread(&mut self, exprs: &[&'e Expr]) -> Size {
        let start = Size { min: if exprs.is_empty() { 0 } else { u64::MAX }, max: 0 };
        exprs.iter().fold(start, |spread, it| spread.union(self.size_or_unknown(it)))
    }

    fn local(&self, name: &str) -> Option<&Local<'e>> {
        self.locals.iter().rev().find(|it| &*it.name == name)
    }

    fn variable(&self, name: &str) -> Option<Origin<'e>> {
        let (_, variable) = self.env.variable(name)?;
        variable.decl.as_deref().map(Origin::Decl)
    }

    fn set_origin(&mut self, expr: &Expr, origin: Option<Origin<'e>>) {
        match origin {
            Some(origin) => drop(self.origins.insert(expr.id, origin)),
            None => drop(self.origins.remove(&expr.id)),
        }
    }

    fn origin(&self, expr: &Expr) -> Option<Origin<'e>> {
        if let ExprKind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.origin;
        }
        self.origins.get(&expr.id).copied()
    }

    fn select(
        &mut self,
        expr: &'e Expr,
        operand: &'e Expr,
        field: &str,
        test_only: bool,
    ) -> CostEstimate {
        // Presence costs nothing beyond its operand: so it was when the first rules were written.
        let cost = self.cost(operand);
        if test_only {
            return cost;
        }
        let origin = match self.origin(operand) {
            Some(Origin::Decl(decl)) => match decl.kind() {
                DeclKind::Object(object) => object.field(field).map(|it| Origin::Decl(&it.decl)),
                DeclKind::Map(value) => Some(Origin::Decl(value)),
                _ => None,
            },
            _ => None,
        };
        self.set_origin(expr, origin);
        match self.checked.ty(operand) {
            Type::Map(_) | Type::Struct(_) | Type::Param(_) => {
                cost.plus(CostEstimate::fixed(SELECT))
            }
            _ => cost,
        }
    }

    fn call(
        &mut self,
        expr: &'e Expr,
        function: &str,
        target: Option<&'e Expr>,
        args: &'e [Expr],
    ) -> CostEstimate {
        if let ("dyn", [arg]) = (function, args) {
            let cost = self.cost(arg);
            self.copy_sizes(expr, arg);
            return cost.plus(CostEstimate::fixed(1));
        }
        let costs = args.iter().map(|it| self.cost(it)).collect::<Vec<_>>();
        let overloads = self.checked.overloads(expr);
        if overloads.is_empty() {
            return CostEstimate::default();
        }
        let receiver = target.map_or(CostEstimate::default(), |it| self.cost(it));
        let mut cost: Option<CostEstimate> = None;
        let mut size: Option<Size> = None;
        for overload in overloads {
            let call =
                calls::Call { expr, function, overload: overload.id, target, args, costs: &costs };
            let estimate = self.estimate_call(&call);
            cost = Some(cost.map_or(estimate.cost, |it| it.union(estimate.cost)));
            size = match (size, estimate.size) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            if let ("index_list" | "index_map", Some(of)) = (overload.id, args.first()) {
                size = self.entry_size(of).map(|it| it.value);
                let origin = self.element_origin(of, overload.id == "index_list");
                self.set_origin(expr, origin);
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        receiver.plus(cost.unwrap_or_default())
    }

    /// Where the items or values of something come from.
    fn element_origin(&self, of: &Expr, is_list: bool) -> Option<Origin<'e>> {
        match self.origin(of)? {
            Origin::Decl(decl) => match decl.kind() {
                DeclKind::List(list) if is_list => Some(Origin::Decl(&list.item)),
                DeclKind::Map(value) if !is_list => Some(Origin::Decl(value)),
                _ => None,
            },
            Origin::Key => None,
        }
    }

    fn binding(&mut self, expr: &'e Expr, it: &'e Comprehension) -> CostEstimate {
        let cost = self.cost(&it.range).plus(self.cost(&it.init));
        self.push_bound(&it.accu, &it.init);
        let cost = cost.plus(self.cost(&it.result));
        // The result's sizes are asked for while its names are still known.
        self.copy_sizes(expr, &it.result);
        self.locals.pop();
        cost
    }

    fn push_bound(&mut self, name: &Name, value: &'e Expr) {
        let (origin, size, entry) = (self.origin(value), self.size(value), self.entry_size(value));
        self.locals.push(Local { name: std::sync::Arc::clone(name), origin, size, entry });
    }

    fn push_loop(&mut self, it: &'e Comprehension) {
        let entry = self.entry_size(&it.range);
        let is_list =
            entry.map_or(matches!(self.checked.ty(&it.range), Type::List(_)), |it| it.is_list);
        let value_origin = self.element_origin(&it.range, is_list);
        let is_known_map = matches!(self.origin(&it.range), Some(Origin::Decl(decl)) if matches!(decl.kind(), DeclKind::Map(_)));
        let key_origin = (!is_list && is_known_map).then_some(Origin::Key);
        let key = (key_origin, entry.map(|it| it.key));
        let value = (value_origin, entry.map(|it| it.value));
        let (first, second) = match &it.var2 {
            Some(_) => (key, value),
            None if is_list => (value, key),
            None => (key, value),
        };
        self.locals.push(Local {
            name: std::sync::Arc::clone(&it.var),
            origin: first.0,
            size: first.1,
            entry: None,
        });
        if let Some(name) = &it.var2 {
            self.locals.push(Local {
                name: std::sync::Arc::clone(name),
                origin: second.0,
                size: second.1,
                entry: None,
            });
        }
    }

    fn comprehension(&mut self, expr: &'e Expr, it: &'e Comprehension) -> CostEstimate {
        let cost = self.cost(&it.range).plus(self.cost(&it.init));
        self.push_bound(&it.accu, &it.init);
        let outside = self.locals.len();
        self.push_loop(it);
        let turn = self.cost(&it.condition).plus(self.cost(&it.step));
        self.locals.truncate(outside);
        let cost = cost.plus(self.cost(&it.result));
        self.locals.pop();
        let count = self.size_or_unknown(&it.range);
        match &it.init.kind {
            ExprKind::List(_) | ExprKind::Map(_) => {
                self.sizes.insert(expr.id, count);
                if let Some(entry) = self.entry_size(&it.step) {
                    self.entries.insert(expr.id, entry);
                }
            }
            _ => {
                if let Some(size) = self.size(&it.init) {
                    self.sizes.insert(expr.id, size);
                }
            }
        }
        cost.plus(count.times(turn))
    }

    fn copy_sizes(&mut self, to: &Expr, from: &'e Expr) {
        if let Some(size) = self.size(from) {
            self.sizes.insert(to.id, size);
        }
        if let Some(entry) = self.entry_size(from) {
            self.entries.insert(to.id, entry);
        }
    }

    fn size_or_unknown(&self, expr: &Expr) -> Size {
        self.size(expr).unwrap_or(Size::UNKNOWN)
    }

    /// How large the value of an expression is, if anything is known.
    fn size(&self, expr: &Expr) -> Option<Size> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        let exact = |count: usize| Some(Size::fixed(u64::try_from(count).unwrap_or(u64::MAX)));
        match &expr.kind {
            ExprKind::Literal(Literal::String(text)) => return exact(text.chars().count()),
            ExprKind::Literal(Literal::Bytes(bytes)) => return exact(bytes.len()),
            ExprKind::Literal(_) => return exact(1),
            ExprKind::List(elements) => return exact(elements.len()),
            ExprKind::Map(entries) => return exact(entries.len()),
            _ => {}
        }
        if let Some(size) = self.origin(expr).map(declared_size) {
            return Some(size);
        }
        if is_scalar(self.checked.ty(expr)) {
            return Some(Size::fixed(1));
        }
        match &expr.kind {
            ExprKind::Ident(name) => self.local(name).and_then(|it| it.size),
            _ => None,
        }
    }

    /// How large the items of a list are, or the keys and values of a map.
    fn entry_size(&self, expr: &Expr) -> Option<EntrySize> {
        if let Some(entry) = self.entries.get(&expr.id) {
            return Some(*entry);
        }
        match &expr.kind {
            ExprKind::Ident(name) => self.local(name).and_then(|it| it.entry),
            _ => None,
        }
    }

    /// The size of the items of a list by its schema.
    fn item_size(&self, list: &Expr) -> Size {
        match self.origin(list) {
            Some(Origin::Decl(decl)) => {
                decl.item().map_or(Size::UNKNOWN, |it| declared_size(Origin::Decl(it)))
            }
            _ => Size::UNKNOWN,
        }
    }
}

fn declared_size(origin: Origin<'_>) -> Size {
    let max = match origin {
        Origin::Decl(decl) => u64::try_from(decl.max_elements).unwrap_or_default(),
        Origin::Key => 0,
    };
    Size { min: 0, max }
}

/// Whether a call is an operator whose arguments may stay unevaluated.
fn short_circuits(function: &str) -> bool {
    matches!(function, op::AND | op::OR)
}
