//! A compiled expression: what is left to do when the objects are there.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::activation::Activation;
use crate::budget::Budget;
use crate::cost::{CostEstimate, runtime::Rule};
use crate::decl::Overload;
use crate::error::EvalError;
use crate::eval::Machine;
use crate::types::Type;
use crate::value::{Key, Result, Val};

/// A compiled expression. It may be evaluated any number of times, by several threads.
#[derive(Debug)]
pub struct Program {
    root: Node,
    slots: usize,
    output: Type,
    estimate: CostEstimate,
    variables: Vec<usize>,
}

impl Program {
    pub(crate) fn new(
        root: Node,
        slots: usize,
        output: Type,
        estimate: CostEstimate,
        variables: Vec<usize>,
    ) -> Self {
        Self { root, slots, output, estimate, variables }
    }

    /// The type of its result.
    #[must_use]
    pub fn output_type(&self) -> &Type {
        &self.output
    }

    /// What it costs at least and at most.
    #[must_use]
    pub fn cost_estimate(&self) -> CostEstimate {
        self.estimate
    }

    /// Whether it reads a variable of its environment; a rule that reads `oldSelf` is for updates.
    #[must_use]
    pub fn reads(&self, env: &crate::env::Env, name: &str) -> bool {
        env.variable(name).is_some_and(|(index, _)| self.variables.contains(&index))
    }

    /// Its value for these variables.
    ///
    /// # Errors
    /// Where it has none, or costs too much.
    pub fn eval<'v, 'o: 'v>(
        &'v self,
        variables: &Activation<'o>,
        budget: &mut Budget<'_>,
    ) -> Result<Val<'v>> {
        let mut machine = Machine::new(variables, budget, self.slots);
        let result = machine.eval(&self.root);
        let cost = machine.cost();
        budget.spend(cost)?;
        result
    }
}

/// A step of a program.
pub(crate) enum Node {
    Const(Val<'static>),
    /// What nothing can evaluate.
    Fail(EvalError),
    Path(Box<Path>),
    Call(Box<Call>),
    And(Box<(Node, Node)>),
    Or(Box<(Node, Node)>),
    Cond(Box<(Node, Node, Node)>),
    /// `==`, or `!=` where it is negated.
    Equal(Box<(Node, Node)>, bool),
    InSet(Box<(Node, BTreeSet<Key<'static>>)>),
    Regex(Box<RegexCall>),
    List(Box<[ElementNode]>),
    Map(Box<[EntryNode]>),
    Struct(Box<StructNode>),
    Fold(Box<Fold>),
    Bind(Box<Bind>),
    /// `a.or(b)`, or `a.orValue(b)`.
    OrElse(Box<(Node, Node)>, bool),
}

/// A variable or value, and what is selected from it.
pub(crate) struct Path {
    pub(crate) root: Root,
    pub(crate) steps: Vec<Step>,
    /// `has(...)`: asks for the last step only.
    pub(crate) test_only: bool,
    /// What it costs beyond its steps.
    pub(crate) cost: u64,
}

pub(crate) enum Root {
    /// A variable of the environment.
    Variable(usize, Arc<str>),
    /// A variable of a loop.
    Slot(usize),
    Node(Node),
    /// A name that nothing declares.
    Unknown(Arc<str>),
}

pub(crate) struct Step {
    pub(crate) optional: bool,
    pub(crate) by: By,
}

pub(crate) enum By {
    Field(Arc<str>),
    Key(Val<'static>),
    /// What it evaluates to, and what that costs beyond its own.
    Node(Node, u64),
}

pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) overloads: Vec<Arc<Overload>>,
    pub(crate) args: Vec<Node>,
    pub(crate) rule: Rule,
}

/// `matches`, `find` and `findAll` with a constant pattern.
pub(crate) struct RegexCall {
    pub(crate) call: Call,
    pub(crate) regex: regex::Regex,
    pub(crate) function: fn(&regex::Regex, &[Val<'_>]) -> Result<Val<'static>>,
}

pub(crate) struct ElementNode {
    pub(crate) value: Node,
    pub(crate) optional: bool,
}

pub(crate) struct EntryNode {
    pub(crate) key: Node,
    pub(crate) value: Node,
    pub(crate) optional: bool,
}

pub(crate) struct StructNode {
    pub(crate) name: Arc<str>,
    pub(crate) fields: Vec<(Arc<str>, ElementNode)>,
}

/// A loop.
pub(crate) struct Fold {
    pub(crate) range: Node,
    /// Where its first variable is kept; the second is behind it.
    pub(crate) slot: usize,
    pub(crate) two_variables: bool,
    pub(crate) kind: FoldKind,
}

pub(crate) enum FoldKind {
    All(Node),
    Exists(Node),
    ExistsOne(Node),
    Collect {
        filter: Option<Node>,
        value: Node,
        /// What the first list costs, and each list of one item.
        costs: (u64, u64),
    },
    Insert {
        filter: Option<Node>,
        /// Under the first variable; else the value is a map to be merged.
        keyed: bool,
        value: Node,
        cost: u64,
    },
}

pub(crate) struct Bind {
    pub(crate) slot: usize,
    pub(crate) init: Node,
    pub(crate) result: Node,
    pub(crate) cost: u64,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Const(_) => "Const",
            Self::Fail(_) => "Fail",
            Self::Path(_) => "Path",
            Self::Call(it) => it.name,
            Self::And(_) => "And",
            Self::Or(_) => "Or",
            Self::Cond(_) => "Cond",
            Self::Equal(..) => "Equal",
            Self::InSet(_) => "InSet",
            Self::Regex(_) => "Regex",
            Self::List(_) => "List",
            Self::Map(_) => "Map",
            Self::Struct(_) => "Struct",
            Self::Fold(_) => "Fold",
            Self::Bind(_) => "Bind",
            Self::OrElse(..) => "OrElse",
        })
    }
}
