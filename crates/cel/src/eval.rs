//! Programs run: a walk over their steps, counting what each costs.

mod fold;
mod path;

use smallvec::SmallVec;

use crate::activation::Activation;
use crate::budget::Budget;
use crate::decl::Overload;
use crate::error::EvalError;
use crate::library::equal;
use crate::limits::{LIST_CREATE, MAP_CREATE, STRUCT_CREATE};
use crate::program::{Bind, Call, ElementNode, EntryNode, Node, RegexCall, StructNode};
use crate::value::{Entries, Map, Result, Val};

/// A run of a program: `'v` is the life of what it makes, `'o` that of the objects it reads.
pub(crate) struct Machine<'v, 'o, 'a, 'b> {
    variables: &'a Activation<'o>,
    budget: &'a mut Budget<'b>,
    slots: SmallVec<[Val<'v>; 4]>,
    cost: u64,
    limit: u64,
    turns: u32,
    /// The key that the last step did not find.
    missed: Val<'v>,
}

type Args<'v> = SmallVec<[Val<'v>; 3]>;

impl<'v, 'o: 'v, 'a, 'b> Machine<'v, 'o, 'a, 'b> {
    pub(crate) fn new(
        variables: &'a Activation<'o>,
        budget: &'a mut Budget<'b>,
        slots: usize,
    ) -> Self {
        let limit = budget.call_limit();
        let slots = SmallVec::from_elem(Val::Null, slots);
        Self { variables, budget, slots, cost: 0, limit, turns: 0, missed: Val::Null }
    }

    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    fn charge(&mut self, cost: u64) -> Result<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::CostLimitExceeded) } else { Ok(()) }
    }

    /// A turn of a loop.
    fn turn(&mut self) -> Result<()> {
        self.turns = self.turns.wrapping_add(1);
        if self.budget.is_interrupted(self.turns) { Err(EvalError::Interrupted) } else { Ok(()) }
    }

    pub(crate) fn eval(&mut self, node: &'v Node) -> Result<Val<'v>> {
        match node {
            Node::Const(value) => Ok(constant(value)),
            Node::Fail(error) => Err(error.clone()),
            Node::Path(path) => self.path(path),
            Node::Call(call) => self.call(call),
            Node::And(pair) => self.logical(pair, false),
            Node::Or(pair) => self.logical(pair, true),
            Node::Cond(parts) => self.conditional(parts),
            Node::Equal(pair, negated) => self.equal(pair, *negated),
            Node::InSet(pair) => {
                let value = self.eval(&pair.0)?;
                let key = value.to_key();
                Ok(Val::Bool(key.is_some_and(|key| pair.1.contains(&key))))
            }
            Node::Regex(call) => self.regex(call),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Struct(it) => self.object(it),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(bind) => self.bind(bind),
            Node::OrElse(pair, unwraps) => self.or_else(pair, *unwraps),
        }
    }

    /// `&&` or `||`: the side that decides wins, even against an error on the other.
    fn logical(&mut self, pair: &'v (Node, Node), deciding: bool) -> Result<Val<'v>> {
        let left = self.eval(&pair.0);
        match &left {
            Ok(Val::Bool(truth)) if *truth == deciding => return left,
            Ok(Val::Bool(_)) => return self.truth(&pair.1).map(Val::Bool),
            Err(error) if !error.is_absorbable() => return left,
            Ok(_) | Err(_) => {}
        }
        match self.eval(&pair.1) {
            Ok(Val::Bool(truth)) if truth == deciding => Ok(Val::Bool(deciding)),
            Err(error) if !error.is_absorbable() => Err(error),
            _ => Err(left.err().unwrap_or_else(EvalError::no_such_overload)),
        }
    }

    fn truth(&mut self, node: &'v Node) -> Result<bool> {
        self.eval(node)?.as_bool().ok_or_else(EvalError::no_such_overload)
    }

    fn conditional(
        &mut self,
        (condition, then, otherwise): &'v (Node, Node, Node),
    ) -> Result<Val<'v>> {
        if self.truth(condition)? { self.eval(then) } else { self.eval(otherwise) }
    }

    fn equal(&mut self, pair: &'v (Node, Node), negated: bool) -> Result<Val<'v>> {
        let (left, right) = (self.eval(&pair.0)?, self.eval(&pair.1)?);
        self.charge(crate::cost::runtime::equality(&left, &right, negated))?;
        Ok(Val::Bool(equal::equal(&left, &right)? != negated))
    }

    fn args(&mut self, call: &'v Call) -> Result<Args<'v>> {
        call.args.iter().map(|it| self.eval(it)).collect()
    }

    fn call(&mut self, call: &'v Call) -> Result<Val<'v>> {
        let args = self.args(call)?;
        self.charge(call.rule.before(&args))?;
        let result = dispatch(call, &args)?;
        if call.rule.is_by_result() {
            self.charge(call.rule.after(&result))?;
        }
        Ok(result)
    }

    fn regex(&mut self, it: &'v RegexCall) -> Result<Val<'v>> {
        let args = self.args(&it.call)?;
        self.charge(it.call.rule.before(&args))?;
        (it.function)(&it.regex, &args)
    }

    /// A value that may be missing.
    fn element(&mut self, element: &'v ElementNode) -> Result<Option<Val<'v>>> {
        let value = self.eval(&element.value)?;
        if element.optional { present(value) } else { Ok(Some(value)) }
    }

    fn list(&mut self, elements: &'v [ElementNode]) -> Result<Val<'v>> {
        let mut items = Vec::with_capacity(elements.len());
        for element in elements {
            items.extend(self.element(element)?);
        }
        self.charge(LIST_CREATE)?;
        Ok(Val::list(items))
    }

    fn map(&mut self, entries: &'v [EntryNode]) -> Result<Val<'v>> {
        let mut map = Entries::default();
        for entry in entries {
            let key = self.eval(&entry.key)?;
            let value = self.eval(&entry.value)?;
            let value = if entry.optional { present(value)? } else { Some(value) };
            if let Some(value) = value {
                map.insert(key, value, "Failed with repeated key: ")?;
            }
        }
        self.charge(MAP_CREATE)?;
        Ok(Val::Map(Map::new(map)))
    }

    fn object(&mut self, it: &'v StructNode) -> Result<Val<'v>> {
        let mut object =
            Entries { name: Some(std::sync::Arc::clone(&it.name)), ..Entries::default() };
        for (name, element) in &it.fields {
            if let Some(value) = self.element(element)? {
                let key = Val::String(crate::value::Text::Borrowed(name));
                object.insert(key, value, "repeated field: ")?;
            }
        }
        self.charge(STRUCT_CREATE)?;
        Ok(Val::Map(Map::new(object)))
    }

    fn bind(&mut self, bind: &'v Bind) -> Result<Val<'v>> {
        self.charge(bind.cost)?;
        let value = self.eval(&bind.init)?;
        self.slots[bind.slot] = value;
        self.eval(&bind.result)
    }

    fn or_else(&mut self, pair: &'v (Node, Node), unwraps: bool) -> Result<Val<'v>> {
        match self.eval(&pair.0)? {
            Val::Optional(Some(value)) if unwraps => Ok((*value).clone()),
            Val::Optional(Some(value)) => Ok(Val::Optional(Some(value))),
            Val::Optional(None) => self.eval(&pair.1),
            _ => Err(EvalError::no_such_overload()),
        }
    }
}

/// A constant, borrowed where that spares a count.
fn constant<'v>(value: &'v Val<'static>) -> Val<'v> {
    match value {
        Val::String(text) => Val::String(crate::value::Text::Borrowed(text)),
        other => other.clone(),
    }
}

/// The value of an optional one, if it has one.
fn present(value: Val<'_>) -> Result<Option<Val<'_>>> {
    match value {
        Val::Optional(value) => Ok(value.map(|it| (*it).clone())),
        other => {
            let name = other.type_of();
            Err(EvalError::new(format!(
                "cannot initialize optional entry from non-optional value {}",
                name.name()
            )))
        }
    }
}

/// Calls the overload that takes these arguments.
fn dispatch<'v>(call: &Call, args: &[Val<'v>]) -> Result<Val<'v>> {
    let fits = |it: &&std::sync::Arc<Overload>| it.accepts(args);
    match call.overloads.iter().find(fits) {
        Some(overload) => (overload.body)(args),
        None => Err(no_such_overload(call.name, args)),
    }
}

fn no_such_overload(name: &str, args: &[Val<'_>]) -> EvalError {
    if !name.starts_with(|it: char| it.is_ascii_alphabetic()) {
        return EvalError::no_such_overload();
    }
    let types = args.iter().map(|it| it.type_of().name().to_owned()).collect::<Vec<_>>();
    EvalError::new(format!("no such overload: {name}({})", types.join(", ")))
}
