//! Text to tree, by precedence climbing, with the messages of upstream's generated parser.
//!
//! Depth and size are bounded as upstream bounds them. Recovery follows the generated parser where clients commonly see it:
//! after a stray token in place of an operand, and at the end of the expression.

mod literals;

use std::sync::Arc;

use crate::ast::{Expr, ExprKind, Literal, Name, NodeId, op};
use crate::lexer::{self, Kind, Token, display};
use crate::macros::{self, Macros};
use crate::source::{Found, Issues, Source};

/// How deep expressions may nest, and how many operators, selections and calls one may hang in another.
pub const RECURSION_MAX: usize = 250;
/// How many code points an expression may have.
pub const CODE_POINTS_MAX: usize = 100_000;
/// How many nodes a tree may have once macros are expanded; macros for optionals copy their receiver.
pub const NODES_MAX: usize = 200_000;
/// How often the parser recovers before it gives up.
const RECOVERIES_MAX: usize = 30;

/// What an operand starts with, as the generated parser lists it.
const OPERAND: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
const MAP_KEY: &str = "{'[', '{', '}', '(', '.', ',', '-', '!', '?', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
const LIST_ELEMENT: &str = "{'[', '{', ']', '(', '.', ',', '-', '!', '?', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
const ARGUMENT: &str = "{'[', '{', '(', ')', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
const FIELD: &str = "{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}";

const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether an identifier may not be used as one.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// A tree and the places of its nodes.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The tree.
    pub expr: Expr,
    /// The text.
    pub source: Source,
    /// The code point of each node.
    pub positions: Vec<u32>,
}

/// What the parser accepts beyond the core.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Syntax {
    /// `a.?b`, `a[?b]`, `{?k: v}`, `[?a]`
    pub(crate) optionals: bool,
    /// Names in backquotes.
    pub(crate) escaped_names: bool,
    pub(crate) macros: Macros,
}

/// Where the parser cannot go on; the issue is reported already.
pub(crate) struct Stop;
type Parse<T> = Result<T, Stop>;

pub(crate) struct Parser<'s> {
    source: &'s Source,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    syntax: Syntax,
    pub(crate) positions: Vec<u32>,
    issues: Found,
    /// Set from an error to the next token that fits; no errors are reported between.
    recovering: bool,
    recoveries: usize,
    nodes: usize,
}

/// The tree of a text.
pub(crate) fn parse(text: &str, syntax: Syntax) -> Result<Parsed, Issues> {
    let source = Source::new(text);
    let size = source.chars().len();
    if size > CODE_POINTS_MAX {
        let message = format!(
            "expression code point size exceeds limit: size: {size}, limit {CODE_POINTS_MAX}"
        );
        return Err(Issues::one(source.issue(None, message)));
    }
    let (tokens, issues) = lexer::tokens(&source);
    let mut parser = Parser {
        source: &source,
        tokens,
        at: 0,
        depth: 0,
        syntax,
        positions: vec![0],
        issues,
        recovering: false,
        recoveries: 0,
        nodes: 0,
    };
    let expr = parser.start();
    let Parser { positions, issues, .. } = parser;
    match expr {
        Ok(expr) if issues.is_empty() => Ok(Parsed { expr, source, positions }),
        _ => Err(issues.sorted()),
    }
}

impl Parser<'_> {
    fn start(&mut self) -> Parse<Expr> {
        let expr = self.expr()?;
        if self.kind() != Kind::End {
            let verb = if self.kind_after() == Kind::End { "extraneous" } else { "mismatched" };
            self.unexpected(verb, "<EOF>");
        }
        Ok(expr)
    }

    fn token(&self) -> Token {
        self.tokens[self.at]
    }

    fn kind(&self) -> Kind {
        self.token().kind
    }

    fn kind_after(&self) -> Kind {
        self.tokens.get(self.at + 1).map_or(Kind::End, |it| it.kind)
    }

    fn is(&self, text: &'static str) -> bool {
        self.kind() == Kind::Punct(text)
    }

    fn advance(&mut self) -> Token {
        let token = self.token();
        if token.kind != Kind::End {
            self.at += 1;
        }
        self.recovering = false;
        token
    }

    fn accept(&mut self, text: &'static str) -> Option<Token> {
        self.is(text).then(|| self.advance())
    }

    fn text(&self, token: Token) -> String {
        self.source.chars()[token.start..token.end].iter().collect()
    }

    fn shown(&self, token: Token) -> String {
        if token.kind == Kind::End { "<EOF>".into() } else { display(&self.text(token)) }
    }

    /// A fresh number for a node at a token.
    fn id(&mut self, token: Token) -> NodeId {
        self.fresh(u32::try_from(token.start).unwrap_or(u32::MAX))
    }

    /// A fresh number for a node at a code point.
    pub(crate) fn fresh(&mut self, position: u32) -> NodeId {
        let id = u32::try_from(self.positions.len()).unwrap_or(u32::MAX);
        self.positions.push(position);
        id
    }

    pub(crate) fn position(&self, id: NodeId) -> u32 {
        self.positions.get(usize::try_from(id).unwrap_or(usize::MAX)).copied().unwrap_or_default()
    }

    /// Counts nodes that a macro copies.
    pub(crate) fn charge(&mut self, nodes: usize) -> Parse<()> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            let message = format!("expression node count exceeds limit: {NODES_MAX}");
            return Err(self.stop(message));
        }
        Ok(())
    }

    pub(crate) fn report(&mut self, position: u32, message: String) {
        self.issues.add(self.source, Some(position), message);
    }

    fn report_at(&mut self, token: Token, message: String) {
        self.report(u32::try_from(token.start).unwrap_or(u32::MAX), message);
    }

    /// Ends the parse with an error that has no place.
    fn stop(&mut self, message: String) -> Stop {
        self.issues.add(self.source, None, message);
        Stop
    }

    fn syntax_error(&mut self, token: Token, message: &str) {
        if !self.recovering {
            self.report_at(token, format!("Syntax error: {message}"));
        }
    }

    /// `mismatched input 'x' expecting y`, for the token at hand.
    fn unexpected(&mut self, verb: &str, expected: &str) {
        let token = self.token();
        let shown = self.shown(token);
        self.syntax_error(token, &format!("{verb} input '{shown}' expecting {expected}"));
    }

    /// Notes an error after which the parse goes on; too many end it.
    fn recover(&mut self) -> Parse<()> {
        self.recovering = true;
        self.recoveries += 1;
        if self.recoveries > RECOVERIES_MAX {
            self.recovering = false;
            let token = self.token();
            let message = format!("error recovery attempt limit exceeded: {RECOVERIES_MAX}");
            self.syntax_error(token, &message);
            return Err(Stop);
        }
        Ok(())
    }

    fn error_expr(&mut self) -> Expr {
        let id = self.id(self.token());
        Expr { id, kind: ExprKind::Error }
    }

    /// A token that must be here.
    fn expect(&mut self, text: &'static str, follows: fn(Kind) -> bool) -> Parse<()> {
        if self.accept(text).is_some() {
            return Ok(());
        }
        let expected = format!("'{text}'");
        if self.kind_after() == Kind::Punct(text) {
            self.unexpected("extraneous", &expected);
            self.recover()?;
            self.at += 1;
            self.advance();
            return Ok(());
        }
        if follows(self.kind()) {
            let token = self.token();
            let shown = self.shown(token);
            self.syntax_error(token, &format!("missing '{text}' at '{shown}'"));
            return self.recover();
        }
        self.unexpected("mismatched", &expected);
        self.recover()?;
        self.skip_to(text);
        Ok(())
    }

    /// Goes on behind the token, if it is ahead in this expression.
    fn skip_to(&mut self, text: &'static str) {
        let ahead = self.tokens[self.at..].iter().position(|it| it.kind == Kind::Punct(text));
        if let Some(ahead) = ahead {
            self.at += ahead + 1;
        }
    }

    pub(crate) fn expr(&mut self) -> Parse<Expr> {
        self.depth += 1;
        if self.depth > RECURSION_MAX {
            return Err(self.stop(format!("expression recursion limit exceeded: {RECURSION_MAX}")));
        }
        let condition = self.operators(OR_CLOSENESS)?;
        let expr = match self.accept("?") {
            None => condition.expr,
            Some(token) => {
                let id = self.id(token);
                let then = self.operators(OR_CLOSENESS)?.expr;
                self.expect(":", starts_operand)?;
                let otherwise = self.expr()?;
                call(id, op::CONDITIONAL, vec![condition.expr, then, otherwise])
            }
        };
        self.depth -= 1;
        Ok(expr)
    }

    /// Operands and the operators between them that bind at least so closely.
    fn operators(&mut self, closeness: u8) -> Parse<Chain> {
        let mut left = self.unary()?;
        while let Some((function, found)) = operator(self.kind()).filter(|it| it.1 >= closeness) {
            left = if found <= AND_CLOSENESS {
                self.logical(left, function, found)?
            } else {
                self.binary(left, function, found)?
            };
        }
        Ok(left)
    }

    /// `a || b || c` or `a && b && c`, as a balanced tree, so that long ones stay shallow.
    fn logical(&mut self, first: Chain, function: &str, closeness: u8) -> Parse<Chain> {
        let mut height = first.height;
        let mut operands = vec![Some(first.expr)];
        let mut ids = Vec::new();
        while operator(self.kind()).is_some_and(|it| it.1 == closeness) {
            let token = self.advance();
            ids.push(self.id(token));
            let next = self.operators(closeness + 1)?;
            height = height.max(next.height);
            operands.push(Some(next.expr));
        }
        Ok(Chain { expr: balanced(function, &mut operands, &ids), height })
    }

    fn binary(&mut self, left: Chain, function: &str, closeness: u8) -> Parse<Chain> {
        let token = self.advance();
        let right = self.operators(closeness + 1)?;
        let height = self.higher(left.height.max(right.height))?;
        let id = self.id(token);
        Ok(Chain { expr: call(id, function, vec![left.expr, right.expr]), height })
    }

    /// One operator, selection or call more on the way down.
    fn higher(&mut self, height: usize) -> Parse<usize> {
        if height >= RECURSION_MAX {
            return Err(self.stop("max recursion depth exceeded".into()));
        }
        Ok(height + 1)
    }

    fn unary(&mut self) -> Parse<Chain> {
        let token = self.token();
        let sign = match token.kind {
            Kind::Punct("!") => "!",
            Kind::Punct("-") => "-",
            _ => return self.member(),
        };
        let mut count = 0;
        let mut last = token;
        while self.is(sign) {
            // The last minus before a number belongs to the number.
            if sign == "-" && matches!(self.kind_after(), Kind::Int | Kind::Float) {
                break;
            }
            last = self.advance();
            count += 1;
        }
        if !starts_operand(self.kind()) && sign == "-" {
            let shown = self.shown(last);
            let token = self.token();
            self.syntax_error(token, &format!("no viable alternative at input '{shown}'"));
        }
        let operand = self.member()?;
        if count % 2 == 0 {
            return Ok(operand);
        }
        let function = if sign == "!" { op::NOT } else { op::NEGATE };
        let id = self.id(token);
        Ok(Chain { expr: call(id, function, vec![operand.expr]), height: operand.height })
    }

    /// An operand and what hangs on it: selections, calls, indexes.
    fn member(&mut self) -> Parse<Chain> {
        let expr = self.primary()?;
        let mut chain = Chain { expr, height: 0 };
        loop {
            if let Some(token) = self.accept(".") {
                chain = self.selection(chain, token)?;
            } else if let Some(token) = self.accept("[") {
                chain = self.index(chain, token)?;
            } else {
                return Ok(chain);
            }
        }
    }

    fn optional_mark(&mut self, shown: &str, token: Token) -> bool {
        if self.accept("?").is_none() {
            return false;
        }
        if !self.syntax.optionals {
            self.report_at(token, format!("unsupported syntax '{shown}'"));
        }
        true
    }

    fn index(&mut self, chain: Chain, token: Token) -> Parse<Chain> {
        let optional = self.optional_mark("[?", token);
        let id = self.id(token);
        let index = self.expr()?;
        self.expect("]", ends_operand)?;
        let function = if optional { op::OPT_INDEX } else { op::INDEX };
        let height = self.higher(chain.height)?;
        Ok(Chain { expr: call(id, function, vec![chain.expr, index]), height })
    }

    fn selection(&mut self, chain: Chain, dot: Token) -> Parse<Chain> {
        let optional = self.optional_mark(".?", dot);
        let Some(name) = self.field_name() else { return self.no_field(chain, dot) };
        let height = self.higher(chain.height)?;
        let is_ident = self.tokens[self.at - 1].kind == Kind::Ident;
        if !optional && is_ident && self.is("(") {
            let open = self.advance();
            let id = self.id(open);
            let args = self.arguments()?;
            let expr = self.member_call(id, &name, chain.expr, args)?;
            return Ok(Chain { expr, height });
        }
        if !optional
            && is_ident
            && self.is("{")
            && let Some(prefix) = chain.expr.qualified_name()
        {
            let expr = self.struct_literal(&format!("{prefix}.{name}"))?;
            return Ok(Chain { expr, height: 0 });
        }
        if optional {
            let field = self.id(self.tokens[self.at - 1]);
            let field = literal(field, Literal::String(name));
            let id = self.id(dot);
            return Ok(Chain { expr: call(id, op::OPT_SELECT, vec![chain.expr, field]), height });
        }
        let id = self.id(dot);
        let kind =
            ExprKind::Select { operand: Box::new(chain.expr), field: name, test_only: false };
        Ok(Chain { expr: Expr { id, kind }, height })
    }

    /// A name behind a dot or before a colon.
    fn field_name(&mut self) -> Option<Name> {
        let token = self.token();
        match token.kind {
            Kind::Ident => {
                self.advance();
                Some(self.text(token).into())
            }
            Kind::EscapedIdent => {
                self.advance();
                if !self.syntax.escaped_names {
                    self.report_at(token, "unsupported syntax: '`'".into());
                }
                Some(self.text(token).trim_matches('`').into())
            }
            _ => None,
        }
    }

    fn no_field(&mut self, chain: Chain, dot: Token) -> Parse<Chain> {
        let token = self.token();
        let named = chain.expr.qualified_name().is_some();
        if named && token.kind != Kind::End && !self.is(".") {
            self.unexpected("mismatched", "IDENTIFIER");
        } else {
            let shown = if token.kind == Kind::End { String::new() } else { self.shown(token) };
            let dot = self.shown(dot);
            self.syntax_error(token, &format!("no viable alternative at input '{dot}{shown}'"));
        }
        self.recover()?;
        if token.kind != Kind::End && !ends_operand(token.kind) {
            self.at += 1;
        }
        Ok(chain)
    }

    fn primary(&mut self) -> Parse<Expr> {
        let token = self.token();
        match token.kind {
            Kind::Int | Kind::Uint | Kind::Float => self.number(),
            Kind::Punct("-") if matches!(self.kind_after(), Kind::Int | Kind::Float) => {
                self.number()
            }
            Kind::String | Kind::Bytes => self.string(),
            Kind::Word("true") => self.constant(Literal::Bool(true)),
            Kind::Word("false") => self.constant(Literal::Bool(false)),
            Kind::Word("null") => self.constant(Literal::Null),
            Kind::Punct("(") => {
                self.advance();
                let inner = self.expr()?;
                self.expect(")", ends_operand)?;
                Ok(inner)
            }
            Kind::Punct("[") => self.list(),
            Kind::Punct("{") => self.map(),
            Kind::Punct(".") => self.leading_dot(),
            Kind::Ident => self.name(""),
            _ => self.no_operand(OPERAND),
        }
    }

    /// A token where an operand should be: skipped if one follows, else left to what encloses this.
    fn no_operand(&mut self, expected: &str) -> Parse<Expr> {
        if self.kind() != Kind::End && starts_operand(self.kind_after()) {
            self.unexpected("extraneous", expected);
            self.recover()?;
            self.at += 1;
            return self.primary();
        }
        self.unexpected("mismatched", expected);
        self.recover()?;
        while self.kind() != Kind::End && !ends_operand(self.kind()) {
            self.at += 1;
        }
        Ok(self.error_expr())
    }

    fn constant(&mut self, value: Literal) -> Parse<Expr> {
        let token = self.advance();
        Ok(literal(self.id(token), value))
    }

    fn leading_dot(&mut self) -> Parse<Expr> {
        let dot = self.advance();
        if self.kind() == Kind::Ident {
            return self.name(".");
        }
        let token = self.token();
        let shown = if token.kind == Kind::End { String::new() } else { self.shown(token) };
        let dot = self.shown(dot);
        self.syntax_error(token, &format!("no viable alternative at input '{dot}{shown}'"));
        self.recover()?;
        Ok(self.error_expr())
    }

    fn name(&mut self, dot: &str) -> Parse<Expr> {
        let token = self.advance();
        let text = self.text(token);
        let name = format!("{dot}{text}");
        if is_reserved(&text) && !self.is("{") {
            self.report_at(token, format!("reserved identifier: {text}"));
            if self.accept("(").is_some() {
                self.arguments()?;
            }
            let id = self.id(token);
            return Ok(Expr { id, kind: ExprKind::Error });
        }
        if self.is("(") {
            let open = self.advance();
            let id = self.id(open);
            let args = self.arguments()?;
            return self.global_call(id, &name, args);
        }
        if self.is("{") {
            return self.struct_literal(&name);
        }
        let id = self.id(token);
        Ok(Expr { id, kind: ExprKind::Ident(name.into()) })
    }

    fn global_call(&mut self, id: NodeId, name: &str, args: Vec<Expr>) -> Parse<Expr> {
        match macros::global(self, id, name, args)? {
            Ok(expanded) => Ok(expanded),
            Err(args) => Ok(call(id, name, args)),
        }
    }

    fn member_call(
        &mut self,
        id: NodeId,
        name: &str,
        target: Expr,
        args: Vec<Expr>,
    ) -> Parse<Expr> {
        match macros::member(self, id, name, target, args)? {
            Ok(expanded) => Ok(expanded),
            Err((target, args)) => {
                let target = Some(Box::new(target));
                Ok(Expr { id, kind: ExprKind::Call { function: name.into(), target, args } })
            }
        }
    }

    pub(crate) fn macros(&self) -> Macros {
        self.syntax.macros
    }

    /// The arguments up to and with the closing parenthesis.
    fn arguments(&mut self) -> Parse<Vec<Expr>> {
        let mut args = Vec::new();
        if self.accept(")").is_some() {
            return Ok(args);
        }
        if !starts_operand(self.kind()) {
            args.push(self.no_operand(ARGUMENT)?);
        } else {
            args.push(self.expr()?);
        }
        while self.accept(",").is_some() {
            args.push(self.expr()?);
        }
        self.expect(")", ends_operand)?;
        Ok(args)
    }
}

const OR_CLOSENESS: u8 = 1;
const AND_CLOSENESS: u8 = 2;

/// The function of an operator between two operands, and how closely it binds.
fn operator(kind: Kind) -> Option<(&'static str, u8)> {
    let text = match kind {
        Kind::Word("in") => return Some((op::IN, 3)),
        Kind::Punct(text) => text,
        _ => return None,
    };
    Some(match text {
        "||" => (op::OR, OR_CLOSENESS),
        "&&" => (op::AND, AND_CLOSENESS),
        "<=" => ("_<=_", 3),
        ">=" => ("_>=_", 3),
        "==" => (op::EQUALS, 3),
        "!=" => (op::NOT_EQUALS, 3),
        "<" => ("_<_", 3),
        ">" => ("_>_", 3),
        "+" => (op::ADD, 4),
        "-" => ("_-_", 4),
        "*" => ("_*_", 5),
        "/" => ("_/_", 5),
        "%" => ("_%_", 5),
        _ => return None,
    })
}

/// A part of an expression and how many operators, selections and calls hang in one another in it.
struct Chain {
    expr: Expr,
    height: usize,
}

pub(crate) fn call(id: NodeId, function: &str, args: Vec<Expr>) -> Expr {
    Expr { id, kind: ExprKind::Call { function: function.into(), target: None, args } }
}

pub(crate) fn literal(id: NodeId, value: Literal) -> Expr {
    Expr { id, kind: ExprKind::Literal(value) }
}

fn balanced(function: &str, operands: &mut [Option<Expr>], ids: &[NodeId]) -> Expr {
    if let [only] = operands {
        return only.take().expect("because each operand is taken once");
    }
    let middle = ids.len() / 2;
    let (left, right) = operands.split_at_mut(middle + 1);
    let left = balanced(function, left, &ids[..middle]);
    let right = balanced(function, right, &ids[middle + 1..]);
    call(ids[middle], function, vec![left, right])
}

fn starts_operand(kind: Kind) -> bool {
    match kind {
        Kind::Int | Kind::Uint | Kind::Float | Kind::String | Kind::Bytes | Kind::Ident => true,
        Kind::Word(word) => word != "in",
        Kind::Punct(text) => matches!(text, "[" | "{" | "(" | "." | "-" | "!"),
        Kind::EscapedIdent | Kind::End => false,
    }
}

/// What can stand behind an operand.
fn ends_operand(kind: Kind) -> bool {
    match kind {
        Kind::End | Kind::Word("in") => true,
        Kind::Punct(text) => !matches!(text, "(" | "{" | "!"),
        _ => false,
    }
}

/// Text shared by nodes.
pub(crate) fn name(text: &str) -> Name {
    Arc::from(text)
}
