//! `x-kubernetes-validations`: rules in the expression language, compiled once for a node, run on its values. What they may
//! be is checked when a definition is written ([`super::rules_check`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::field::{ErrorType, FieldError};
use apimachinery::{FieldErrors, Path, Value};
use cel::{Activation, Budget, DeclType, Env, EvalError, Program, Type, Val, limits};

use super::check;
use super::schema::Node;

const SELF: &str = "self";
const OLD_SELF: &str = "oldSelf";

/// The rules of a node.
#[derive(Debug)]
pub(super) struct Rules {
    decl: Arc<DeclType>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    message: String,
    reason: String,
    /// What is appended to the path of an error, normalised.
    field: String,
    env: Env,
    program: Result<Program, String>,
    /// It compares with the old value.
    is_transition: bool,
    /// The old value is an optional, so that the rule also runs where there is none.
    optional_old: bool,
    message_expression: Option<(Env, Program)>,
}

/// What a node's variables are declared as.
pub(super) fn environment(decl: &Arc<DeclType>, optional_old: bool) -> Env {
    let env = Env::kubernetes().with_variable(SELF, Arc::clone(decl));
    if optional_old {
        env.with_variable(OLD_SELF, Type::optional(decl.ty().clone()))
    } else {
        env.with_variable(OLD_SELF, Arc::clone(decl))
    }
}

/// The rules that stand at a schema's node, those of its `allOf` included.
pub(super) fn compile(schema: &Value, is_root: bool) -> Option<Box<Rules>> {
    let own = schema.items_at(&["x-kubernetes-validations"]).iter();
    let more = schema.items_at(&["allOf"]).iter();
    let more = more.flat_map(|it| it.items_at(&["x-kubernetes-validations"]).iter());
    let all: Vec<&Value> = own.chain(more).collect();
    if all.is_empty() {
        return None;
    }
    let decl = Arc::new(DeclType::from_schema(schema, "selfType", is_root)?);
    let rules = all.into_iter().map(|it| rule(schema, it, &decl)).collect();
    Some(Box::new(Rules { decl, rules }))
}

fn rule(schema: &Value, rule: &Value, decl: &Arc<DeclType>) -> Rule {
    let text = rule.str_at(&["rule"]).to_owned();
    let optional_old = rule.bool_at(&["optionalOldSelf"]);
    let env = environment(decl, optional_old);
    let program = env.compile(&text, &[Type::Bool]).map_err(|issues| issues.to_string());
    let expression = rule.str_at(&["messageExpression"]);
    let message_expression = (!expression.is_empty())
        .then(|| Some((env.clone(), env.compile(expression, &[Type::String]).ok()?)))
        .flatten();
    let path = rule.str_at(&["fieldPath"]);
    Rule {
        is_transition: program.as_ref().is_ok_and(|it| it.reads(&env, OLD_SELF)),
        text,
        message: rule.str_at(&["message"]).trim().to_owned(),
        reason: rule.str_at(&["reason"]).to_owned(),
        field: field_path(schema, path).unwrap_or_default(),
        env,
        program,
        optional_old,
        message_expression,
    }
}

/// A path within a node as errors show it.
///
/// # Errors
/// Why it is none.
pub(super) fn field_path(schema: &Value, text: &str) -> Result<String, String> {
    resolve(schema, text, true).map(|it| it.0)
}

/// A path within a schema as errors show it, and what it leads to; `brackets` says that steps may stand in some.
///
/// # Errors
/// Why it is none.
pub(crate) fn resolve<'v>(
    schema: &'v Value,
    text: &str,
    brackets: bool,
) -> Result<(String, &'v Value), String> {
    let mut shown = String::new();
    let mut schema = schema;
    let mut rest = text;
    while !rest.is_empty() {
        if rest.starts_with('[') && !brackets {
            return Err("array notation is not allowed".into());
        }
        let (name, after) = step(rest)?;
        rest = after;
        let is_named =
            schema.get("properties").and_then(Value::as_object).is_some_and(|it| !it.is_empty());
        if is_named {
            let found = schema.at(&["properties", &name]);
            schema = found.ok_or("does not refer to a valid field")?;
            shown.push_str(if shown.is_empty() { "" } else { "." });
            shown.push_str(&name);
        } else {
            let values = schema.get("additionalProperties").filter(|it| it.as_object().is_some());
            schema = values.ok_or("does not refer to a valid field")?;
            shown.push_str(&format!("[{name}]"));
        }
    }
    Ok((shown, schema))
}

/// The first step of a path, and what follows.
fn step(text: &str) -> Result<(String, &str), String> {
    if let Some(after) = text.strip_prefix('.') {
        if after.is_empty() {
            return Err("unexpected end of JSON path".into());
        }
        // A sign that parts steps is a step of its own where none is expected.
        let end = after.find(['.', '[', ']']).unwrap_or(after.len()).max(1);
        return Ok((after[..end].to_owned(), &after[end..]));
    }
    let Some(after) = text.strip_prefix('[') else {
        let found = &text[..text.find(['.', '[', ']']).unwrap_or(text.len())];
        return Err(format!("expected [ or . but got: {found}"));
    };
    let Some(inner) = after.strip_prefix('\'') else {
        let found = &after[..after.find(['.', '[', ']']).unwrap_or(after.len())];
        return Err(format!("expected single quoted string but got {found}"));
    };
    let mut name = String::new();
    let mut letters = inner.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\'' => {
                let rest = inner[at + 1..].strip_prefix(']');
                return rest.map(|it| (name, it)).ok_or("unexpected end of JSON path".into());
            }
            '\\' => name.push(match letters.next().map(|(_, it)| it) {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(it @ ('\'' | '\\')) => it,
                Some(other) => {
                    return Err(format!("invalid string literal: invalid escape char \\{other}"));
                }
                None => return Err("unexpected end of JSON path".into()),
            }),
            other => name.push(other),
        }
    }
    Err("unexpected end of JSON path".into())
}

/// Runs every rule of an object; `old` is what it was.
pub(super) fn run(root: &Node, value: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    if !root.below.rules {
        return;
    }
    let mut run = Run { budget: Budget::new(limits::RUNTIME_COST_BUDGET), errors };
    let now = old.map(|old| (value, old));
    // Without a budget left, nothing more is run; that was said.
    let _stopped = run.node(root, value, old, Known { current: now, parent: None }, &Path::new(""));
}

/// What a value can be compared with: what it was itself, or the nearest value around it of which that is known.
#[derive(Debug, Clone, Copy)]
struct Known<'v> {
    current: Option<(&'v Value, &'v Value)>,
    parent: Option<(&'v Value, &'v Value)>,
}

impl<'v> Known<'v> {
    fn is_unchanged(self) -> bool {
        self.current.or(self.parent).is_some_and(|(now, old)| now == old)
    }

    fn below(self, now: &'v Value, old: Option<&'v Value>) -> Self {
        match self.current {
            None => self,
            Some(_) => Self { current: old.map(|old| (now, old)), parent: self.current },
        }
    }
}

/// No further rules are to be run.
struct Stop;

struct Run<'r> {
    budget: Budget<'static>,
    errors: &'r mut FieldErrors,
}

impl Run<'_> {
    fn node<'v>(
        &mut self,
        node: &Node,
        value: &'v Value,
        old: Option<&'v Value>,
        known: Known<'v>,
        path: &Path<'_>,
    ) -> Result<(), Stop> {
        if value.is_null() || !node.below.rules {
            return Ok(());
        }
        if let Some(rules) = &node.rules {
            for rule in &rules.rules {
                self.rule(rule, &rules.decl, value, old.filter(|it| !it.is_null()), known, path)?;
            }
        }
        match value {
            Value::Object(object) => {
                for (name, member) in object.iter() {
                    let Some(of) = node.member(name) else { continue };
                    let before = old.and_then(|it| it.get(name));
                    let unseen = known.parent.is_none() && matches!(name, "apiVersion" | "kind");
                    let below = if unseen {
                        Known { current: None, parent: None }
                    } else {
                        known.below(member, before)
                    };
                    let at = match node.property(name) {
                        Some(_) => path.child(name),
                        None => path.key(name),
                    };
                    self.node(of, member, before, below, &at)?;
                }
                Ok(())
            }
            Value::Array(items) => {
                let Some(of) = &node.items else { return Ok(()) };
                let olds: BTreeMap<String, &Value> = check::old_items(node, old);
                for (index, item) in items.iter().enumerate() {
                    let before = if olds.is_empty() {
                        None
                    } else {
                        olds.get(&check::key_text(node, item)).copied()
                    };
                    let below = known.below(item, before);
                    self.node(of, item, before, below, &path.index(index))?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn rule(
        &mut self,
        rule: &Rule,
        decl: &DeclType,
        value: &Value,
        old: Option<&Value>,
        known: Known<'_>,
        path: &Path<'_>,
    ) -> Result<(), Stop> {
        let program = match &rule.program {
            Ok(program) => program,
            Err(error) => {
                self.invalid(path, &format!("rule compile error: {error}"));
                return Ok(());
            }
        };
        if rule.is_transition && old.is_none() && !rule.optional_old {
            return Ok(());
        }
        if self.budget.remaining() == 0 {
            self.invalid(path, &EvalError::OutOfBudget.to_string());
            return Err(Stop);
        }
        let activation = match activation(rule, decl, value, old) {
            Ok(activation) => activation,
            Err(error) => return self.failed(rule, &error, path),
        };
        match program.eval(&activation, &mut self.budget) {
            Ok(result) if result.as_bool() == Some(true) => Ok(()),
            Ok(_) => {
                let message = self.message(rule, &activation, path)?;
                if rule.is_transition || !known.is_unchanged() {
                    self.refuse(rule, &message, value, path);
                }
                Ok(())
            }
            Err(error) => self.failed(rule, &error, path),
        }
    }

    /// What a broken rule is told: the message that it makes, or has, or its text.
    fn message(
        &mut self,
        rule: &Rule,
        activation: &Activation<'_>,
        path: &Path<'_>,
    ) -> Result<String, Stop> {
        if let Some((_, expression)) = &rule.message_expression {
            match expression.eval(activation, &mut self.budget) {
                Ok(text) => {
                    let text = text.as_str().unwrap_or_default().trim().to_owned();
                    let fits = text.len() <= limits::MESSAGE_EXPRESSION_BYTES_MAX;
                    if !text.is_empty() && fits && !text.contains('\n') {
                        return Ok(text);
                    }
                }
                Err(EvalError::OutOfBudget) => {
                    let detail = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
                    self.invalid(path, detail);
                    return Err(Stop);
                }
                Err(EvalError::CostLimitExceeded) => {
                    let detail = "no further validation rules will be run due to call cost exceeds limit for messageExpression";
                    self.invalid(path, detail);
                    return Err(Stop);
                }
                // What cannot be made is replaced by what is written.
                Err(EvalError::Failed(_) | EvalError::Interrupted) => {}
            }
        }
        Ok(match rule.message.as_str() {
            "" => format!("failed rule: {}", rule.text.trim()),
            message => message.to_owned(),
        })
    }

    /// A rule that has no result.
    fn failed(&mut self, rule: &Rule, error: &EvalError, path: &Path<'_>) -> Result<(), Stop> {
        let shown = match rule.message.as_str() {
            "" => rule.text.trim(),
            message => message,
        };
        match error {
            EvalError::OutOfBudget => {
                self.invalid(path, &error.to_string());
                return Err(Stop);
            }
            EvalError::CostLimitExceeded => {
                let detail = format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                );
                self.invalid(path, &detail);
                return Err(Stop);
            }
            EvalError::Failed(text) if text.starts_with("no such overload") => {
                let detail = format!(
                    "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
                );
                self.invalid(path, &detail);
            }
            EvalError::Failed(_) | EvalError::Interrupted => {
                self.invalid(path, &format!("{error} evaluating rule: {shown}"));
            }
        }
        Ok(())
    }

    /// A rule that does not hold, told by its reason and at the field that it names. What has parts is not shown.
    fn refuse(&mut self, rule: &Rule, detail: &str, value: &Value, path: &Path<'_>) {
        let is_shown = !matches!(value, Value::Array(_) | Value::Object(_));
        let mut shown = FieldErrors::new();
        let (kind, body) = match rule.reason.as_str() {
            "FieldValueForbidden" => (ErrorType::Forbidden, format!("Forbidden: {detail}")),
            "FieldValueRequired" => (ErrorType::Required, format!("Required value: {detail}")),
            "FieldValueDuplicate" => {
                shown.duplicate(path, value);
                (ErrorType::Duplicate, "Duplicate value".to_owned())
            }
            _ => {
                shown.invalid(path, value, detail);
                (ErrorType::Invalid, format!("Invalid value: {detail}"))
            }
        };
        let shown = shown.iter().next().filter(|_| is_shown);
        let body = shown.map_or(body, |it| it.body.clone());
        let at = path.to_string();
        let field = match (at.as_str(), rule.field.as_str()) {
            ("", "") => "<nil>".to_owned(),
            (_, "") => at,
            ("", field) => field.to_owned(),
            (at, field) => format!("{at}.{field}"),
        };
        self.errors.push(FieldError { kind, field, body });
    }

    /// An error of which no value is shown.
    fn invalid(&mut self, path: &Path<'_>, detail: &str) {
        let at = path.to_string();
        let field = if at.is_empty() { "<nil>".to_owned() } else { at };
        let body = format!("Invalid value: {detail}");
        self.errors.push(FieldError { kind: ErrorType::Invalid, field, body });
    }
}

fn activation<'v>(
    rule: &Rule,
    decl: &'v DeclType,
    value: &'v Value,
    old: Option<&'v Value>,
) -> Result<Activation<'v>, EvalError> {
    let activation = Activation::new(&rule.env);
    let activation = activation.with(&rule.env, SELF, Val::json(value, Some(decl))?);
    let old = old.map(|old| Val::json(old, Some(decl))).transpose()?;
    Ok(match (old, rule.optional_old) {
        (Some(old), false) => activation.with(&rule.env, OLD_SELF, old),
        (Some(old), true) => activation.with(&rule.env, OLD_SELF, Val::some(old)),
        (None, true) => activation.with(&rule.env, OLD_SELF, Val::Optional(None)),
        (None, false) => activation,
    })
}
