//! Checked trees to programs: names become places, calls their overloads, macros' comprehensions loops, constants values.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ast::{Comprehension, Element, Entry, Expr, ExprKind, FieldInit, Literal, Name, op};
use crate::check::{Checked, Reference, type_named};
use crate::cost::runtime::{self, Rule};
use crate::decl::Overload;
use crate::env::Env;
use crate::error::EvalError;
use crate::library::regex;
use crate::limits::{LIST_CREATE, MAP_CREATE, SELECT};
use crate::program::{
    Bind, By, Call, ElementNode, EntryNode, Fold, FoldKind, Node, Path, RegexCall, Root, Step,
    StructNode,
};
use crate::source::{Issue, IssueKind, Issues};
use crate::types::Type;
use crate::value::{Entries, Map, Text, Val};

/// The program and how many slots its loops need.
pub(crate) fn plan(env: &Env, checked: &Checked) -> Result<(Node, usize), Issues> {
    let mut planner = Planner { env, checked, scopes: Vec::new(), slots: 0 };
    let root = planner.node(&checked.expr)?;
    Ok((root, planner.slots))
}

/// A program cannot be made: a constant is refused.
fn refused(error: impl Into<EvalError>) -> Issues {
    Issues::one(Issue::unplaced(IssueKind::Instantiation, error.into().to_string()))
}

type Plan<T> = Result<T, Issues>;

struct Planner<'e> {
    env: &'e Env,
    checked: &'e Checked,
    scopes: Vec<(Name, usize)>,
    slots: usize,
}

/// Functions that are evaluated at once where their argument is a constant.
const CONVERSIONS: [&str; 9] =
    ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "uint"];

impl Planner<'_> {
    fn node(&mut self, expr: &Expr) -> Plan<Node> {
        match &expr.kind {
            ExprKind::Error => Err(refused("expression does not parse")),
            ExprKind::Literal(value) => Ok(Node::Const(constant(value))),
            ExprKind::Ident(name) => Ok(self.ident(expr, name)),
            ExprKind::Select { operand, field, test_only } => {
                self.select(expr, operand, field, *test_only)
            }
            ExprKind::Call { function, target, args } => {
                self.call(expr, function, target.as_deref(), args)
            }
            ExprKind::List(elements) => self.list(elements),
            ExprKind::Map(entries) => self.map(entries),
            ExprKind::Struct { name, fields } => self.object(name, fields),
            ExprKind::Comprehension(it) => self.comprehension(it),
        }
    }

    fn list(&mut self, elements: &[Element]) -> Plan<Node> {
        let elements = elements.iter().map(|it| self.element(&it.value, it.optional));
        let elements = elements.collect::<Plan<_>>()?;
        Ok(self.folded_list(elements))
    }

    fn map(&mut self, entries: &[Entry]) -> Plan<Node> {
        let entry = |it: &Entry| {
            let (key, value) = (self.node(&it.key)?, self.node(&it.value)?);
            Ok(EntryNode { key, value, optional: it.optional })
        };
        let entries = entries.iter().map(entry).collect::<Plan<Vec<_>>>()?;
        self.folded_map(entries)
    }

    fn object(&mut self, name: &Name, fields: &[FieldInit]) -> Plan<Node> {
        let field =
            |it: &FieldInit| Ok((Arc::clone(&it.field), self.element(&it.value, it.optional)?));
        let fields = fields.iter().map(field).collect::<Plan<Vec<_>>>()?;
        Ok(Node::Struct(Box::new(StructNode { name: Arc::clone(name), fields })))
    }

    fn element(&mut self, value: &Expr, optional: bool) -> Plan<ElementNode> {
        Ok(ElementNode { value: self.node(value)?, optional })
    }

    fn folded_list(&self, elements: Vec<ElementNode>) -> Node {
        let value = |it: &ElementNode| match &it.value {
            Node::Const(value) if !it.optional => Some(value.clone()),
            _ => None,
        };
        if self.env.folds_constants
            && let Some(items) = elements.iter().map(value).collect::<Option<Vec<_>>>()
        {
            return Node::Const(Val::list(items));
        }
        Node::List(elements.into())
    }

    fn folded_map(&self, entries: Vec<EntryNode>) -> Plan<Node> {
        let constant = |it: &EntryNode| match (&it.key, &it.value) {
            (Node::Const(key), Node::Const(value)) if !it.optional => {
                Some((key.clone(), value.clone()))
            }
            _ => None,
        };
        if self.env.folds_constants
            && let Some(known) = entries.iter().map(constant).collect::<Option<Vec<_>>>()
        {
            let mut map = Entries::default();
            for (key, value) in known {
                map.insert(key, value, "Failed with repeated key: ").map_err(refused)?;
            }
            return Ok(Node::Const(Val::Map(Map::new(map))));
        }
        Ok(Node::Map(entries.into()))
    }

    fn path(root: Root, cost: u64) -> Node {
        Node::Path(Box::new(Path { root, steps: Vec::new(), test_only: false, cost }))
    }

    /// What a name stands for: a loop's variable, the environment's, or a type.
    fn ident(&self, expr: &Expr, name: &Name) -> Node {
        match self.checked.reference(expr) {
            Some(Reference::Variable(index)) => {
                Self::path(Root::Variable(*index, Arc::clone(name)), SELECT)
            }
            Some(Reference::Type(ty)) => Self::type_value(ty.clone()),
            _ => self
                .find(name)
                .unwrap_or_else(|| Self::path(Root::Unknown(Arc::clone(name)), SELECT)),
        }
    }

    fn type_value(ty: Type) -> Node {
        Self::path(Root::Node(Node::Const(Val::Type(ty))), SELECT)
    }

    /// A name that the checker did not look up, or found to be a loop's.
    fn find(&self, name: &str) -> Option<Node> {
        if let Some((_, slot)) = self.scopes.iter().rev().find(|it| &*it.0 == name) {
            return Some(Self::path(Root::Slot(*slot), SELECT));
        }
        for candidate in self.env.candidates(name) {
            if let Some((index, _)) = self.env.variable(&candidate) {
                return Some(Self::path(Root::Variable(index, candidate.into()), SELECT));
            }
            if let Some(ty) = type_named(&candidate) {
                return Some(Self::type_value(ty));
            }
        }
        None
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &Name, test_only: bool) -> Plan<Node> {
        if !self.checked.is_checked && !test_only {
            let name = expr.qualified_name().unwrap_or_default();
            let first = name.split('.').next().unwrap_or_default();
            let is_local = self.scopes.iter().any(|it| &*it.0 == first);
            if let Some(node) =
                Some(&name).filter(|it| !is_local && !it.is_empty()).and_then(|it| self.find(it))
            {
                return Ok(node);
            }
        }
        let operand = self.node(operand)?;
        let step = Step { optional: false, by: By::Field(Arc::clone(field)) };
        Ok(extend(operand, step, test_only))
    }

    /// The overloads that may be meant.
    fn overloads(
        &self,
        expr: &Expr,
        function: &str,
        count: usize,
        is_member: bool,
    ) -> Vec<Arc<Overload>> {
        if self.checked.is_checked {
            return self.checked.overloads(expr).to_vec();
        }
        let candidates = self.env.candidates(function);
        let all =
            candidates.iter().find_map(|it| self.env.functions.get(it)).map_or(&[][..], |it| it.1);
        let fits = |it: &&Arc<Overload>| it.is_member == is_member && it.params.len() == count;
        all.iter().filter(fits).cloned().collect()
    }

    fn call(
        &mut self,
        expr: &Expr,
        function: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Plan<Node> {
        match (args, target) {
            ([left, right], None) if is_step(function) => self.pair(function, left, right),
            ([condition, then, otherwise], None) if function == op::CONDITIONAL => {
                self.conditional(condition, then, otherwise)
            }
            ([other], Some(target)) if matches!(function, "or" | "orValue") => {
                let pair = Box::new((self.node(target)?, self.node(other)?));
                Ok(Node::OrElse(pair, function == "orValue"))
            }
            _ => self.function(expr, function, target, args),
        }
    }

    fn conditional(&mut self, condition: &Expr, then: &Expr, otherwise: &Expr) -> Plan<Node> {
        let condition = self.node(condition)?;
        let (then, otherwise) = (free(self.node(then)?), free(self.node(otherwise)?));
        Ok(Node::Cond(Box::new((condition, then, otherwise))))
    }

    fn pair(&mut self, function: &str, left: &Expr, right: &Expr) -> Plan<Node> {
        match function {
            op::INDEX | op::OPT_INDEX => return self.index(left, right, function == op::OPT_INDEX),
            op::OPT_SELECT => return self.optional_select(left, right),
            _ => {}
        }
        let pair = Box::new((self.node(left)?, self.node(right)?));
        Ok(match function {
            op::AND => Node::And(pair),
            op::OR => Node::Or(pair),
            _ => Node::Equal(pair, function == op::NOT_EQUALS),
        })
    }

    fn function(
        &mut self,
        expr: &Expr,
        function: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Plan<Node> {
        let mut target = target;
        let mut name = function.to_owned();
        // `a.b()` may be the function `a.b`; the checker has seen to it where there was one.
        if let Some(prefix) =
            target.filter(|_| !self.checked.is_checked).and_then(Expr::qualified_name)
        {
            let candidates = self.env.candidates(&format!("{prefix}.{function}"));
            if let Some(found) =
                candidates.into_iter().find(|it| self.env.functions.get(it).is_some())
            {
                name = found;
                target = None;
            }
        }
        let all = target.into_iter().chain(args).collect::<Vec<_>>();
        let overloads = self.overloads(expr, &name, all.len(), target.is_some());
        let known = self.env.candidates(&name).iter().find_map(|it| self.env.functions.get(it));
        let name = known.map_or("", |it| it.0);
        if name.is_empty() {
            return Ok(Node::Fail(EvalError::new(format!("unbound function: {function}"))));
        }
        let args = all.into_iter().map(|it| self.node(it)).collect::<Plan<Vec<_>>>()?;
        let only = match overloads.as_slice() {
            [only] => Some(only.id),
            _ => None,
        };
        let call = Call { name, overloads, args, rule: runtime::rule(name, only) };
        self.specialised(call)
    }

    /// A call that can be made cheaper since an argument is constant.
    fn specialised(&self, call: Call) -> Plan<Node> {
        match (call.name, call.args.as_slice()) {
            (op::IN, [_, Node::Const(Val::List(list))]) if self.env.folds_constants => {
                let keys = list.iter().map(|it| it.ok().and_then(|it| set_key(&it)));
                if let Some(keys) = keys.collect::<Option<BTreeSet<_>>>() {
                    let value = call.args.into_iter().next().unwrap_or(Node::Const(Val::Null));
                    return Ok(Node::InSet(Box::new((value, keys))));
                }
                let is_primitive =
                    |it: &Val<'_>| set_key(it).is_some() || matches!(it, Val::Double(_));
                let rule = if list.iter().all(|it| it.is_ok_and(|it| is_primitive(&it))) {
                    Rule::FREE
                } else {
                    call.rule
                };
                Ok(Node::Call(Box::new(Call { rule, ..call })))
            }
            ("matches" | "find" | "findAll", [_, Node::Const(Val::String(pattern)), ..]) => {
                let function = match call.name {
                    "matches" => regex::matches,
                    "find" => regex::find,
                    _ => regex::find_all,
                };
                let regex = regex::compile(pattern).map_err(refused)?;
                Ok(Node::Regex(Box::new(RegexCall { call, regex, function })))
            }
            (name, [Node::Const(value)])
                if self.env.folds_constants && CONVERSIONS.contains(&name) =>
            {
                let args = [value.clone()];
                let overload = call.overloads.iter().find(|it| it.accepts(&args));
                let overload = overload.ok_or_else(|| refused(EvalError::no_such_overload()))?;
                (overload.body)(&args).map(Node::Const).map_err(refused)
            }
            _ => Ok(Node::Call(Box::new(call))),
        }
    }

    fn index(&mut self, operand: &Expr, index: &Expr, optional: bool) -> Plan<Node> {
        let operand = self.node(operand)?;
        let by = match self.node(index)? {
            Node::Const(Val::String(Text::Shared(name))) => By::Field(name),
            Node::Const(key) => By::Key(key),
            path @ Node::Path(_) => By::Node(path, 0),
            other => By::Node(other, SELECT),
        };
        Ok(extend(operand, Step { optional, by }, false))
    }

    fn optional_select(&mut self, operand: &Expr, field: &Expr) -> Plan<Node> {
        let operand = self.node(operand)?;
        let ExprKind::Literal(Literal::String(name)) = &field.kind else {
            return Err(refused("unsupported optional field selection"));
        };
        Ok(extend(operand, Step { optional: true, by: By::Field(Arc::clone(name)) }, false))
    }

    fn comprehension(&mut self, it: &Comprehension) -> Plan<Node> {
        if &*it.var == crate::ast::UNUSED {
            return self.binding(it);
        }
        let range = self.node(&it.range)?;
        let outside = self.scopes.len();
        let slot = self.enter(&it.var);
        if let Some(name) = &it.var2 {
            self.enter(name);
        }
        let kind = self.fold_kind(it)?;
        self.scopes.truncate(outside);
        let two_variables = it.var2.is_some();
        Ok(Node::Fold(Box::new(Fold { range, slot, two_variables, kind })))
    }

    /// A slot for a name, from here to the end of its scope.
    fn enter(&mut self, name: &Name) -> usize {
        let slot = self.scopes.last().map_or(0, |it| it.1 + 1);
        self.scopes.push((Arc::clone(name), slot));
        self.slots = self.slots.max(slot + 1);
        slot
    }

    fn binding(&mut self, it: &Comprehension) -> Plan<Node> {
        let init = self.node(&it.init)?;
        let slot = self.enter(&it.accu);
        let result = self.node(&it.result)?;
        self.scopes.pop();
        let cost = if self.env.folds_constants { 0 } else { LIST_CREATE };
        Ok(Node::Bind(Box::new(Bind { slot, init, result, cost })))
    }

    /// Which macro a comprehension was: macros alone make them, each with a step of its own form.
    fn fold_kind(&mut self, it: &Comprehension) -> Plan<FoldKind> {
        let folds = self.env.folds_constants;
        let args = |expr: &'_ Expr, name: &str| match &expr.kind {
            ExprKind::Call { function, target: None, args } if &**function == name => {
                Some(args.clone())
            }
            _ => None,
        };
        if let Some(args) = args(&it.step, op::AND) {
            return Ok(FoldKind::All(self.node(&args[1])?));
        }
        if let Some(args) = args(&it.step, op::OR) {
            return Ok(FoldKind::Exists(self.node(&args[1])?));
        }
        let (filter, step) = match args(&it.step, op::CONDITIONAL) {
            Some(mut args) => (Some(args.remove(0)), args.remove(0)),
            None => (None, it.step.clone()),
        };
        let filter = filter.map(|it| self.node(&it)).transpose()?;
        if let Some(args) = args(&step, op::MAP_INSERT) {
            let keyed = args.len() == 3;
            let value = self.node(args.last().unwrap_or(&step))?;
            let cost = if folds { 0 } else { MAP_CREATE };
            return Ok(FoldKind::Insert { filter, keyed, value, cost });
        }
        let added = args(&step, op::ADD).unwrap_or_default();
        match added.get(1).map(|it| &it.kind) {
            Some(ExprKind::List(elements)) if elements.len() == 1 => {
                let value = self.node(&elements[0].value)?;
                let is_constant = matches!(value, Node::Const(_));
                let first = if folds { 0 } else { LIST_CREATE };
                let each = if folds && is_constant { 0 } else { LIST_CREATE };
                Ok(FoldKind::Collect { filter, value, costs: (first, each) })
            }
            Some(_) => match filter {
                Some(test) => Ok(FoldKind::ExistsOne(test)),
                None => Err(refused("unsupported comprehension")),
            },
            None => Err(refused("unsupported comprehension")),
        }
    }
}

/// Whether a call with two arguments is a step of its own.
fn is_step(function: &str) -> bool {
    matches!(
        function,
        op::AND | op::OR | op::EQUALS | op::NOT_EQUALS | op::INDEX | op::OPT_INDEX | op::OPT_SELECT
    )
}

/// A value in a set of constants: what can be compared as a key.
fn set_key<'v>(value: &Val<'v>) -> Option<crate::value::Key<'v>> {
    match value {
        Val::Bool(_) | Val::Int(_) | Val::Uint(_) | Val::String(_) | Val::Double(_) => {
            value.to_key()
        }
        _ => None,
    }
}

/// A branch of a conditional: its variable is not paid for.
fn free(node: Node) -> Node {
    match node {
        Node::Path(mut path) => {
            path.cost = 0;
            Node::Path(path)
        }
        other => other,
    }
}

/// One step more behind a value.
fn extend(operand: Node, step: Step, test_only: bool) -> Node {
    let mut path = match operand {
        Node::Path(path) if !path.test_only => path,
        other => {
            let cost = if matches!(other, Node::Cond(_)) { 0 } else { SELECT };
            Box::new(Path { root: Root::Node(other), steps: Vec::new(), test_only: false, cost })
        }
    };
    path.steps.push(step);
    if test_only {
        path.test_only = true;
        path.cost = 0;
    }
    Node::Path(path)
}

fn constant(value: &Literal) -> Val<'static> {
    match value {
        Literal::Null => Val::Null,
        Literal::Bool(truth) => Val::Bool(*truth),
        Literal::Int(number) => Val::Int(*number),
        Literal::Uint(number) => Val::Uint(*number),
        Literal::Double(number) => Val::Double(*number),
        Literal::String(text) => Val::String(Text::Shared(Arc::clone(text))),
        Literal::Bytes(bytes) => Val::Bytes(Arc::clone(bytes)),
    }
}

impl Rule {
    pub(crate) const FREE: Self = Self::Fixed(0);
}
