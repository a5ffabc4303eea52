//! Macros: calls that become comprehensions, conditionals and presence tests while the text is parsed.
//!
//! The trees are those of upstream, since costs are counted on them.

use crate::ast::{
    ACCUMULATOR, Comprehension, Element, Expr, ExprKind, Literal, Name, NodeId, UNUSED, op,
};
use crate::parser::{Parser, Stop, call, literal, name};

/// Which macros there are beyond the standard ones.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Macros {
    /// `optMap`, `optFlatMap`
    pub(crate) optionals: bool,
    /// `all`, `exists`, `existsOne`, `transformList`, `transformMap`, `transformMapEntry` with two variables.
    pub(crate) two_variables: bool,
    /// `cel.bind`
    pub(crate) bindings: bool,
    /// `math.greatest`, `math.least`
    pub(crate) math: bool,
    /// `sortBy`
    pub(crate) lists: bool,
}

/// The expansion, or what was given where this is no macro.
type Expanded<T> = Result<Result<Expr, T>, Stop>;
/// The expansion, or what is wrong: with which node, and what.
type Expansion = Result<Expr, (NodeId, String)>;

/// A macro called without a receiver.
pub(crate) fn global(
    parser: &mut Parser<'_>,
    id: NodeId,
    function: &str,
    mut args: Vec<Expr>,
) -> Expanded<Vec<Expr>> {
    if function != "has" || args.len() != 1 {
        return Ok(Err(args));
    }
    let arg = args.remove(0);
    let mut build = Build { parser, at: id };
    let expansion = match arg.kind {
        ExprKind::Select { operand, field, test_only: false } => {
            Ok(build.expr(ExprKind::Select { operand, field, test_only: true }))
        }
        _ => Err((arg.id, "invalid argument to has() macro".into())),
    };
    Ok(Ok(build.finish(expansion)))
}

/// A macro called on a receiver.
pub(crate) fn member(
    parser: &mut Parser<'_>,
    id: NodeId,
    function: &str,
    target: Expr,
    args: Vec<Expr>,
) -> Expanded<(Expr, Vec<Expr>)> {
    let macros = parser.macros();
    let namespace = match &target.kind {
        ExprKind::Ident(name) => name.trim_start_matches('.').to_owned(),
        _ => String::new(),
    };
    let two = macros.two_variables;
    let mut build = Build { parser, at: id };
    let expansion = match (function, args.len()) {
        ("bind", 3) if macros.bindings && namespace == "cel" => build.bind(args),
        ("greatest", _) if macros.math && namespace == "math" => {
            build.extreme("greatest", "math.@max", args)
        }
        ("least", _) if macros.math && namespace == "math" => {
            build.extreme("least", "math.@min", args)
        }
        ("all", 2) => build.all(target, args, false),
        ("exists", 2) => build.exists(target, args, false),
        ("exists_one" | "existsOne", 2) => build.exists_one(target, args, false),
        ("map", 2 | 3) => build.map(target, args),
        ("filter", 2) => build.filter(target, args),
        ("all", 3) if two => build.all(target, args, true),
        ("exists", 3) if two => build.exists(target, args, true),
        ("exists_one" | "existsOne", 3) if two => build.exists_one(target, args, true),
        ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) if two => {
            build.transform(function, target, args)
        }
        ("sortBy", 2) if macros.lists => build.sort_by(target, args),
        ("optMap" | "optFlatMap", 2) if macros.optionals => {
            build.parser.charge(target.size())?;
            build.optional(function, target, args)
        }
        _ => return Ok(Err((target, args))),
    };
    Ok(Ok(build.finish(expansion)))
}

/// Makes nodes at the place of the macro's call.
struct Build<'p, 's> {
    parser: &'p mut Parser<'s>,
    at: NodeId,
}

/// The loop variables and the rest of a macro's arguments.
struct Variables {
    var: Name,
    var2: Option<Name>,
    rest: Vec<Expr>,
}

impl Build<'_, '_> {
    fn finish(mut self, expansion: Expansion) -> Expr {
        expansion.unwrap_or_else(|(id, message)| {
            let position = self.parser.position(id);
            self.parser.report(position, message);
            self.expr(ExprKind::Error)
        })
    }

    fn id(&mut self) -> NodeId {
        let position = self.parser.position(self.at);
        self.parser.fresh(position)
    }

    fn expr(&mut self, kind: ExprKind) -> Expr {
        Expr { id: self.id(), kind }
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        let id = self.id();
        call(id, function, args)
    }

    fn literal(&mut self, value: Literal) -> Expr {
        let id = self.id();
        literal(id, value)
    }

    fn ident(&mut self, text: &str) -> Expr {
        self.expr(ExprKind::Ident(name(text)))
    }

    fn accu(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn list(&mut self, values: Vec<Expr>) -> Expr {
        let elements = values.into_iter().map(|value| Element { value, optional: false });
        self.expr(ExprKind::List(elements.collect()))
    }

    /// The first arguments as names of loop variables.
    fn variables(
        &self,
        mut args: Vec<Expr>,
        two: bool,
        message: &str,
    ) -> Result<Variables, (NodeId, String)> {
        let simple = |arg: &Expr| match &arg.kind {
            ExprKind::Ident(name) if !name.starts_with('.') => Ok(std::sync::Arc::clone(name)),
            _ => Err((arg.id, message.to_owned())),
        };
        let var = simple(&args[0])?;
        let var2 = if two { Some(simple(&args[1])?) } else { None };
        if var2.as_ref() == Some(&var) {
            return Err((args[1].id, format!("duplicate variable name: {var}")));
        }
        let rest = args.split_off(if two { 2 } else { 1 });
        Ok(Variables { var, var2, rest })
    }

    /// A loop whose result is the accumulator, unless `result` says otherwise.
    fn fold(
        &mut self,
        range: Expr,
        vars: (Name, Option<Name>),
        parts: [Expr; 3],
        result: Option<Expr>,
    ) -> Expr {
        let result = result.unwrap_or_else(|| self.accu());
        let [init, condition, step] = parts;
        let (var, var2) = vars;
        let accu = name(ACCUMULATOR);
        let fold = Comprehension { range, var, var2, accu, init, condition, step, result };
        self.expr(ExprKind::Comprehension(Box::new(fold)))
    }

    fn all(&mut self, range: Expr, args: Vec<Expr>, two: bool) -> Expansion {
        let mut it = self.variables(args, two, "argument must be a simple name")?;
        let init = self.literal(Literal::Bool(true));
        let accu = self.accu();
        let condition = self.call(op::NOT_STRICTLY_FALSE, vec![accu]);
        let accu = self.accu();
        let step = self.call(op::AND, vec![accu, it.rest.remove(0)]);
        Ok(self.fold(range, (it.var, it.var2), [init, condition, step], None))
    }

    fn exists(&mut self, range: Expr, args: Vec<Expr>, two: bool) -> Expansion {
        let mut it = self.variables(args, two, "argument must be a simple name")?;
        let init = self.literal(Literal::Bool(false));
        let accu = self.accu();
        let not = self.call(op::NOT, vec![accu]);
        let condition = self.call(op::NOT_STRICTLY_FALSE, vec![not]);
        let accu = self.accu();
        let step = self.call(op::OR, vec![accu, it.rest.remove(0)]);
        Ok(self.fold(range, (it.var, it.var2), [init, condition, step], None))
    }

    fn exists_one(&mut self, range: Expr, args: Vec<Expr>, two: bool) -> Expansion {
        let mut it = self.variables(args, two, "argument must be a simple name")?;
        let init = self.literal(Literal::Int(0));
        let condition = self.literal(Literal::Bool(true));
        let (accu, one) = (self.accu(), self.literal(Literal::Int(1)));
        let more = self.call(op::ADD, vec![accu, one]);
        let same = self.accu();
        let step = self.call(op::CONDITIONAL, vec![it.rest.remove(0), more, same]);
        let (accu, one) = (self.accu(), self.literal(Literal::Int(1)));
        let result = self.call(op::EQUALS, vec![accu, one]);
        Ok(self.fold(range, (it.var, it.var2), [init, condition, step], Some(result)))
    }

    /// The step `accu + [value]`, where `filter` holds.
    fn append(&mut self, value: Expr, filter: Option<Expr>) -> Expr {
        let (accu, element) = (self.accu(), self.list(vec![value]));
        let step = self.call(op::ADD, vec![accu, element]);
        self.filtered(step, filter)
    }

    fn filtered(&mut self, step: Expr, filter: Option<Expr>) -> Expr {
        let Some(filter) = filter else { return step };
        let same = self.accu();
        self.call(op::CONDITIONAL, vec![filter, step, same])
    }

    fn map(&mut self, range: Expr, args: Vec<Expr>) -> Expansion {
        let mut it = self.variables(args, false, "argument is not an identifier")?;
        let filter = (it.rest.len() == 2).then(|| it.rest.remove(0));
        let init = self.list(Vec::new());
        let condition = self.literal(Literal::Bool(true));
        let step = self.append(it.rest.remove(0), filter);
        Ok(self.fold(range, (it.var, None), [init, condition, step], None))
    }

    fn filter(&mut self, range: Expr, mut args: Vec<Expr>) -> Expansion {
        let value = args[0].clone();
        let filter = args.pop();
        let it = self.variables(args, false, "argument is not an identifier")?;
        let init = self.list(Vec::new());
        let condition = self.literal(Literal::Bool(true));
        let step = self.append(value, filter);
        Ok(self.fold(range, (it.var, None), [init, condition, step], None))
    }

    fn transform(&mut self, function: &str, range: Expr, args: Vec<Expr>) -> Expansion {
        let mut it = self.variables(args, true, "argument must be a simple name")?;
        let filter = (it.rest.len() == 2).then(|| it.rest.remove(0));
        let value = it.rest.remove(0);
        let is_list = function == "transformList";
        let init =
            if is_list { self.list(Vec::new()) } else { self.expr(ExprKind::Map(Vec::new())) };
        let condition = self.literal(Literal::Bool(true));
        let step = match function {
            "transformList" => self.append(value, filter),
            "transformMap" => {
                let (accu, key) = (self.accu(), self.ident(&it.var));
                let insert = self.call(op::MAP_INSERT, vec![accu, key, value]);
                self.filtered(insert, filter)
            }
            _ => {
                let accu = self.accu();
                let insert = self.call(op::MAP_INSERT, vec![accu, value]);
                self.filtered(insert, filter)
            }
        };
        Ok(self.fold(range, (it.var, it.var2), [init, condition, step], None))
    }

    /// A comprehension over nothing: the accumulator is the bound name.
    fn binding(&mut self, accu: &str, init: Expr, result: Expr) -> Expr {
        let range = self.list(Vec::new());
        let condition = self.literal(Literal::Bool(false));
        let step = self.ident(accu);
        let (var, accu) = (name(UNUSED), name(accu));
        let it = Comprehension { range, var, var2: None, accu, init, condition, step, result };
        self.expr(ExprKind::Comprehension(Box::new(it)))
    }

    fn bind(&mut self, args: Vec<Expr>) -> Expansion {
        let mut it =
            self.variables(args, false, "cel.bind() variable names must be simple identifiers")?;
        let init = it.rest.remove(0);
        Ok(self.binding(&it.var, init, it.rest.remove(0)))
    }

    /// The list, sorted by what is made of each item: `bind(input, list, input.@sort(input.map(...)))`.
    fn sort_by(&mut self, target: Expr, args: Vec<Expr>) -> Expansion {
        const INPUT: &str = "@__sortBy_input__";
        if matches!(target.kind, ExprKind::Literal(_) | ExprKind::Map(_) | ExprKind::Struct { .. })
        {
            let message = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return Err((target.id, message.into()));
        }
        let input = self.ident(INPUT);
        let keys = self.map(input, args)?;
        let input = Some(Box::new(self.ident(INPUT)));
        let function = name("@sortByAssociatedKeys");
        let sorted = self.expr(ExprKind::Call { function, target: input, args: vec![keys] });
        Ok(self.binding(INPUT, target, sorted))
    }

    fn method(&mut self, target: Expr, function: &str) -> Expr {
        let target = Some(Box::new(target));
        self.expr(ExprKind::Call { function: name(function), target, args: Vec::new() })
    }

    /// A function in the namespace `optional`.
    fn optional_call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.call(&format!("optional.{function}"), args)
    }

    fn optional(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Expansion {
        let message = format!("{function}() variable name must be a simple identifier");
        let mut it = self.variables(args, false, &message)?;
        let has_value = self.method(target.clone(), "hasValue");
        let value = self.method(target, "value");
        let bound = self.binding(&it.var, value, it.rest.remove(0));
        let some = if function == "optMap" { self.optional_call("of", vec![bound]) } else { bound };
        let none = self.optional_call("none", Vec::new());
        Ok(self.call(op::CONDITIONAL, vec![has_value, some, none]))
    }

    /// `math.greatest` and `math.least` of one, two or more arguments.
    fn extreme(&mut self, short: &str, function: &str, args: Vec<Expr>) -> Expansion {
        let numeric = |arg: &Expr| {
            !matches!(
                &arg.kind,
                ExprKind::Literal(
                    Literal::Null | Literal::Bool(_) | Literal::String(_) | Literal::Bytes(_)
                ) | ExprKind::Map(_)
                    | ExprKind::Struct { .. }
            )
        };
        let is_list = |arg: &Expr| matches!(arg.kind, ExprKind::List(_));
        if args.is_empty() {
            return Err((self.at, format!("math.{short}() requires at least one argument")));
        }
        if let [only] = args.as_slice() {
            let valid = match &only.kind {
                ExprKind::List(it) => !it.is_empty() && it.iter().all(|it| numeric(&it.value)),
                _ => numeric(only),
            };
            if !valid {
                return Err((only.id, format!("math.{short}() invalid single argument value")));
            }
            return Ok(self.call(function, args));
        }
        if let Some(wrong) = args.iter().find(|it| !numeric(it) || is_list(it)) {
            let message = format!("math.{short}() simple literal arguments must be numeric");
            return Err((wrong.id, message));
        }
        if args.len() == 2 {
            return Ok(self.call(function, args));
        }
        let list = self.list(args);
        Ok(self.call(function, vec![list]))
    }
}
