//! An expression as a tree. Macros are expanded in it: what is left are identifiers, selections, calls, literals and
//! comprehensions.
//!
//! Each node has a number; places, types and resolved names are tables by that number.

use std::sync::Arc;

/// The number of a node.
pub type NodeId = u32;

/// A name in an expression.
pub type Name = Arc<str>;

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    /// Its number.
    pub id: NodeId,
    /// What it is.
    pub kind: ExprKind,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum ExprKind {
    /// What stands where the text does not parse.
    Error,
    /// A constant.
    Literal(Literal),
    /// A name; a leading dot is kept.
    Ident(Name),
    /// `operand.field`, or `has(operand.field)`.
    Select {
        /// What is selected from.
        operand: Box<Expr>,
        /// The field.
        field: Name,
        /// Only asks whether it is there.
        test_only: bool,
    },
    /// `function(args)` or `target.function(args)`; operators too.
    Call {
        /// The function; operators have names such as `_+_`.
        function: Name,
        /// The receiver.
        target: Option<Box<Expr>>,
        /// The arguments.
        args: Vec<Expr>,
    },
    /// `[a, ?b]`
    List(Vec<Element>),
    /// `{k: v, ?k: v}`
    Map(Vec<Entry>),
    /// `Type{field: value}`
    Struct {
        /// The name of the type.
        name: Name,
        /// The fields.
        fields: Vec<FieldInit>,
    },
    /// What macros become.
    Comprehension(Box<Comprehension>),
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `true`
    Bool(bool),
    /// `1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.0`
    Double(f64),
    /// `"a"`
    String(Arc<str>),
    /// `b"a"`
    Bytes(Arc<[u8]>),
}

/// An element of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    /// Its value, or an optional one.
    pub value: Expr,
    /// Left out where its value is none.
    pub optional: bool,
}

/// An entry of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its number.
    pub id: NodeId,
    /// The key.
    pub key: Expr,
    /// The value.
    pub value: Expr,
    /// Left out where its value is none.
    pub optional: bool,
}

/// A field of a struct literal.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldInit {
    /// Its number.
    pub id: NodeId,
    /// The field.
    pub field: Name,
    /// The value.
    pub value: Expr,
    /// Left out where its value is none.
    pub optional: bool,
}

/// A loop over a list or a map with one accumulator.
#[derive(Debug, Clone, PartialEq)]
pub struct Comprehension {
    /// What is looped over.
    pub range: Expr,
    /// The element of a list, the key of a map; with two variables the index or key.
    pub var: Name,
    /// The element or value.
    pub var2: Option<Name>,
    /// The accumulator's name.
    pub accu: Name,
    /// Its first value.
    pub init: Expr,
    /// The loop goes on while this holds.
    pub condition: Expr,
    /// The accumulator's next value.
    pub step: Expr,
    /// The result.
    pub result: Expr,
}

impl Expr {
    /// Whether `name.field` or `name.?field` is anywhere in it.
    #[must_use]
    pub fn selects(&self, name: &str, field: &str) -> bool {
        let is_name = |it: &Self| matches!(&it.kind, ExprKind::Ident(ident) if &**ident == name);
        let is_field = |it: &Self| matches!(&it.kind, ExprKind::Literal(Literal::String(text)) if &**text == field);
        let within = |it: &Self| it.selects(name, field);
        match &self.kind {
            ExprKind::Error | ExprKind::Literal(_) | ExprKind::Ident(_) => false,
            ExprKind::Select { operand, field: selected, .. } => {
                is_name(operand) && &**selected == field || within(operand)
            }
            ExprKind::Call { function, target, args } => {
                let optional = &**function == op::OPT_SELECT
                    && matches!(args.as_slice(), [of, it] if is_name(of) && is_field(it));
                optional || target.as_deref().is_some_and(within) || args.iter().any(within)
            }
            ExprKind::List(elements) => elements.iter().any(|it| within(&it.value)),
            ExprKind::Map(entries) => entries.iter().any(|it| within(&it.key) || within(&it.value)),
            ExprKind::Struct { fields, .. } => fields.iter().any(|it| within(&it.value)),
            ExprKind::Comprehension(it) => {
                [&it.range, &it.init, &it.condition, &it.step, &it.result].into_iter().any(within)
            }
        }
    }
}

/// The accumulator of macros; no identifier can be spelled so.
pub(crate) const ACCUMULATOR: &str = "@result";
/// The iteration variable of `cel.bind` and `optMap`.
pub(crate) const UNUSED: &str = "#unused";

/// The names of operators.
pub(crate) mod op {
    pub(crate) const AND: &str = "_&&_";
    pub(crate) const OR: &str = "_||_";
    pub(crate) const NOT: &str = "!_";
    pub(crate) const NEGATE: &str = "-_";
    pub(crate) const CONDITIONAL: &str = "_?_:_";
    pub(crate) const EQUALS: &str = "_==_";
    pub(crate) const NOT_EQUALS: &str = "_!=_";
    pub(crate) const ADD: &str = "_+_";
    pub(crate) const IN: &str = "@in";
    pub(crate) const INDEX: &str = "_[_]";
    pub(crate) const OPT_INDEX: &str = "_[?_]";
    pub(crate) const OPT_SELECT: &str = "_?._";
    pub(crate) const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    pub(crate) const MAP_INSERT: &str = "cel.@mapInsert";
}

impl Expr {
    /// `a.b.c`, if this is such a chain of names.
    #[must_use]
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            ExprKind::Ident(name) => Some(name.to_string()),
            ExprKind::Select { operand, field, test_only: false } => {
                let mut name = operand.qualified_name()?;
                name.push('.');
                name.push_str(field);
                Some(name)
            }
            _ => None,
        }
    }

    /// How many nodes it has.
    #[must_use]
    pub fn size(&self) -> usize {
        1 + match &self.kind {
            ExprKind::Error | ExprKind::Literal(_) | ExprKind::Ident(_) => 0,
            ExprKind::Select { operand, .. } => operand.size(),
            ExprKind::Call { target, args, .. } => {
                let target = target.as_ref().map_or(0, |it| it.size());
                target + args.iter().map(Self::size).sum::<usize>()
            }
            ExprKind::List(elements) => elements.iter().map(|it| it.value.size()).sum(),
            ExprKind::Map(entries) => {
                entries.iter().map(|it| it.key.size() + it.value.size()).sum()
            }
            ExprKind::Struct { fields, .. } => fields.iter().map(|it| it.value.size()).sum(),
            ExprKind::Comprehension(it) => {
                let parts = [&it.range, &it.init, &it.condition, &it.step, &it.result];
                parts.iter().map(|part| part.size()).sum()
            }
        }
    }
}
