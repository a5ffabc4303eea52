//! Whether the defaults of a schema are what the schema allows, in upstream's words.

use apimachinery::field::FieldError;
use apimachinery::{FieldErrors, Path, Value, value};

use super::schema::{Kind, Node};
use super::structural::properties;
use super::{check, lists, prune, rules};

/// What is wrong with the defaults of a whole schema. Defaults of what is not described may have been let in long ago:
/// `unpruned` says that they may stay.
pub(super) fn check(schema: &Value, unpruned: bool, path: &Path<'_>) -> FieldErrors {
    let mut checker = Checker { unpruned, errors: FieldErrors::new() };
    let around = Around { root: schema, steps: Vec::new(), in_meta: false };
    checker.node(schema, true, &around, path);
    checker.errors
}

/// The object around a default.
struct Around<'v> {
    /// The schema of the nearest object that says what it is.
    root: &'v Value,
    /// The way from there.
    steps: Vec<Step<'v>>,
    /// Whether that object's type or metadata is described.
    in_meta: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step<'v> {
    Member(&'v str),
    Item,
}

struct Checker {
    unpruned: bool,
    errors: FieldErrors,
}

impl Checker {
    fn node<'v>(&mut self, schema: &'v Value, is_root: bool, around: &Around<'v>, path: &Path<'_>) {
        let is_object = is_root || schema.bool_at(&["x-kubernetes-embedded-resource"]);
        let own = Around { root: schema, steps: Vec::new(), in_meta: false };
        let around = if is_object { &own } else { around };
        if let Some(default) = schema.get("default").filter(|it| !it.is_null()) {
            let at = path.child("default");
            let errors = if let Some(kind) = strange_type(schema) {
                of_strange_type(kind, default, &at)
            } else if around.in_meta {
                within_meta(schema, default, around, &at)
            } else {
                self.plain(schema, default, is_object, &at)
            };
            self.errors.extend(errors);
        }
        let below = |step: Step<'v>, in_meta: bool| {
            let mut steps = around.steps.clone();
            steps.push(step);
            Around { root: around.root, steps, in_meta: around.in_meta || in_meta }
        };
        if let Some(items) = schema.get("items").filter(|it| it.as_object().is_some()) {
            self.node(items, false, &below(Step::Item, false), &path.child("items"));
        }
        let at = path.child("properties");
        for (name, it) in properties(schema) {
            let in_meta = is_object && matches!(name, "metadata" | "apiVersion" | "kind");
            self.node(it, false, &below(Step::Member(name), in_meta), &at.key(name));
        }
    }

    fn plain(
        &self,
        schema: &Value,
        default: &Value,
        is_object: bool,
        at: &Path<'_>,
    ) -> FieldErrors {
        let node = Node::of(schema, is_object);
        let mut errors = FieldErrors::new();
        if !self.unpruned && prune::knows_not(&node, default) {
            errors.invalid(at, default, "must not have unknown fields");
        }
        let mut embedded = FieldErrors::new();
        lists::embedded(&node, default, at, &mut embedded);
        if embedded.is_empty() {
            errors.extend(by_schema(&node, default, at));
        } else {
            errors.extend(embedded);
        }
        errors
    }
}

/// The type of a schema where that is none that there is.
fn strange_type(schema: &Value) -> Option<&str> {
    let kind = schema.str_at(&["type"]);
    Some(kind).filter(|it| !it.is_empty() && Kind::parse(it).is_none())
}

/// Nothing is of a type that there is not.
fn of_strange_type(kind: &str, default: &Value, at: &Path<'_>) -> FieldErrors {
    let found = default.schema_type();
    let mut errors = FieldErrors::new();
    errors.type_invalid(at, &found.into(), &format!(" in body must be of type {kind}: {found:?}"));
    errors
}

/// A default of a part of what says what an object is: it has to make such an object.
fn within_meta(schema: &Value, default: &Value, around: &Around<'_>, at: &Path<'_>) -> FieldErrors {
    let mut object = value!({"apiVersion": "validation/v1", "kind": "Validation"});
    let mut inner = default.clone();
    for (place, step) in around.steps.iter().enumerate().rev() {
        match step {
            Step::Item => inner = Value::Array(vec![inner]),
            Step::Member(name) if place == 0 => object.set_at(&[name], std::mem::take(&mut inner)),
            Step::Member(name) => {
                let mut one = value!({});
                one.set_at(&[name], inner);
                inner = one;
            }
        }
    }
    let mut found = FieldErrors::new();
    lists::embedded(&Node::of(around.root, true), &object, &Path::new(""), &mut found);
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    let mut errors = FieldErrors::new();
    match &told[..] {
        [] => errors = by_schema(&Node::of(schema, false), default, at),
        [one] => errors.invalid(at, default, &format!("must result in valid metadata: {one}")),
        all => {
            let all = all.join(", ");
            errors.invalid(at, default, &format!("must result in valid metadata: [{all}]"));
        }
    }
    errors
}

/// The default as a value of its schema, and by the rules that stand there: those that compare with what was before are
/// asked with the default itself, and with nothing.
fn by_schema(node: &Node, default: &Value, at: &Path<'_>) -> FieldErrors {
    let mut errors = FieldErrors::new();
    check::check(node, default, None, &mut errors);
    if errors.is_empty() {
        rules::run(node, default, Some(default), &mut errors);
    }
    if errors.is_empty() {
        rules::run(node, default, None, &mut errors);
    }
    let base = at.to_string();
    let mut moved = FieldErrors::new();
    // Upstream's check of defaults does not know that what may be a number or text may be nothing else.
    let of_either = |it: &FieldError| it.body.contains("must be of type integer,string:");
    for it in errors.iter().filter(|it| !of_either(it)) {
        let field = match it.field.as_str() {
            "" | "<nil>" => base.clone(),
            below if below.starts_with('[') => format!("{base}{below}"),
            below => format!("{base}.{below}"),
        };
        moved.push(FieldError { field, ..it.clone() });
    }
    moved
}

/// Whether a schema has a default with members that it does not describe.
pub(super) fn has_unpruned(schema: &Value) -> bool {
    let own = || {
        let node = Node::of(schema, schema.bool_at(&["x-kubernetes-embedded-resource"]));
        schema.get("default").is_some_and(|it| prune::knows_not(&node, it))
    };
    let items = schema.get("items").filter(|it| it.as_object().is_some());
    own() || items.into_iter().chain(properties(schema).map(|(_, it)| it)).any(has_unpruned)
}
