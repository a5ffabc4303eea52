//! The structural schema of a version, read once into what pruning, defaulting and validation walk.

use apimachinery::schema::ListKind;
use apimachinery::{Object, Value};
use compact_str::CompactString;
use regex::Regex;

use super::formats::{self, Format};
use super::rules::{self, Rules};

/// How deep a schema is read; definitions that nest deeper are refused when they are written.
const DEPTH_MAX: usize = 110;

/// The types of JSON as schemas name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Array,
    Boolean,
    Integer,
    Number,
    Object,
    String,
}

impl Kind {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "array" => Self::Array,
            "boolean" => Self::Boolean,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "object" => Self::Object,
            "string" => Self::String,
            _ => return None,
        })
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Array => "array",
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Object => "object",
            Self::String => "string",
        }
    }
}

/// What members are that `properties` does not name.
#[derive(Debug)]
pub(super) enum Additional {
    /// Nothing is said of them.
    Unsaid,
    /// Whatever they are.
    Anything,
    /// There may be none.
    Nothing,
    /// This.
    Of(Box<Node>),
}

/// A node of a schema.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Option<Kind>,
    pub(super) nullable: bool,
    pub(super) int_or_string: bool,
    pub(super) preserve_unknown: bool,
    pub(super) embedded: bool,
    pub(super) default: Option<Value>,
    /// Sorted by name; the names lie close together, since they are searched.
    pub(super) properties: Vec<(CompactString, Box<Node>)>,
    /// The places of properties that have a default.
    pub(super) defaulted: Vec<usize>,
    pub(super) additional: Additional,
    pub(super) items: Option<Box<Node>>,
    pub(super) list: ListKind,
    pub(super) keys: Vec<CompactString>,
    pub(super) atomic_map: bool,
    /// What values are checked for; most nodes have nothing.
    pub(super) checks: Option<Box<Checks>>,
    /// Rules in the expression language.
    pub(super) rules: Option<Box<Rules>>,
    /// Whether this node or any below has something, so that walks leave out what needs none.
    pub(super) below: Below,
}

/// What there is at a node or below it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Below {
    pub(super) rules: bool,
    pub(super) unique_lists: bool,
    pub(super) embedded: bool,
}

/// A bound of a number.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) limit: f64,
    /// As the schema has it.
    pub(super) shown: Value,
    pub(super) exclusive: bool,
}

/// A pattern as the schema has it; `None` where it cannot be compiled, with why.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) text: String,
    pub(super) regex: Result<Regex, String>,
}

/// What a value is checked for beyond its type.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) format: Option<Format>,
    /// What the format is called, also where text is not checked for it.
    pub(super) format_name: CompactString,
    pub(super) pattern: Option<Pattern>,
    pub(super) values: Vec<Value>,
    pub(super) minimum: Option<Bound>,
    pub(super) maximum: Option<Bound>,
    pub(super) multiple_of: Option<Bound>,
    pub(super) min_length: Option<i64>,
    pub(super) max_length: Option<i64>,
    pub(super) min_items: Option<i64>,
    pub(super) max_items: Option<i64>,
    pub(super) unique_items: bool,
    pub(super) min_properties: Option<i64>,
    pub(super) max_properties: Option<i64>,
    pub(super) required: Vec<CompactString>,
    pub(super) all_of: Vec<Node>,
    pub(super) any_of: Vec<Node>,
    pub(super) one_of: Vec<Node>,
    pub(super) not: Option<Node>,
}

impl Node {
    /// The root of a version's schema.
    pub(super) fn root(schema: &Value) -> Self {
        read(schema, true, 0)
    }

    /// A part of a schema by itself; `is_object` says that its values say what they are.
    pub(super) fn of(schema: &Value, is_object: bool) -> Self {
        let mut node = read(schema, is_object, 0);
        node.embedded |= is_object;
        node.below.embedded |= is_object;
        node
    }

    /// The node of a named property.
    pub(super) fn property(&self, name: &str) -> Option<&Self> {
        let place = self.properties.binary_search_by(|(it, _)| it.as_str().cmp(name)).ok()?;
        Some(&self.properties[place].1)
    }

    /// The node of a member, named or not.
    pub(super) fn member(&self, name: &str) -> Option<&Self> {
        self.property(name).or(match &self.additional {
            Additional::Of(node) => Some(node),
            Additional::Unsaid | Additional::Anything | Additional::Nothing => None,
        })
    }

    /// All children, in no order that matters.
    fn children(&self) -> impl Iterator<Item = &Self> {
        let additional = match &self.additional {
            Additional::Of(node) => Some(&**node),
            Additional::Unsaid | Additional::Anything | Additional::Nothing => None,
        };
        let alternatives = self.checks.iter().flat_map(|it| it.all_of.iter());
        self.properties
            .iter()
            .map(|(_, it)| &**it)
            .chain(additional)
            .chain(self.items.as_deref())
            .chain(alternatives)
    }
}

fn read(schema: &Value, is_root: bool, depth: usize) -> Node {
    let embedded = schema.bool_at(&["x-kubernetes-embedded-resource"]);
    let deeper = |schema: &Value| read(schema, false, depth + 1);
    let readable = depth < DEPTH_MAX;
    let properties = schema.get("properties").and_then(Value::as_object).filter(|_| readable);
    let properties = properties.into_iter().flat_map(Object::iter);
    let mut node = Node {
        kind: Kind::parse(schema.str_at(&["type"])),
        nullable: schema.bool_at(&["nullable"]),
        int_or_string: schema.bool_at(&["x-kubernetes-int-or-string"]),
        preserve_unknown: schema.bool_at(&["x-kubernetes-preserve-unknown-fields"]),
        embedded,
        default: schema.get("default").filter(|it| !it.is_null()).cloned(),
        properties: properties.map(|(name, it)| (name.into(), Box::new(deeper(it)))).collect(),
        defaulted: Vec::new(),
        additional: match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => Additional::Anything,
            Some(Value::Bool(false)) => Additional::Nothing,
            Some(it @ Value::Object(_)) if readable => Additional::Of(Box::new(deeper(it))),
            _ => Additional::Unsaid,
        },
        items: schema
            .get("items")
            .filter(|it| readable && it.as_object().is_some())
            .map(|it| Box::new(deeper(it))),
        list: match schema.str_at(&["x-kubernetes-list-type"]) {
            "set" => ListKind::Set,
            "map" => ListKind::Map,
            _ => ListKind::Atomic,
        },
        keys: texts(schema, "x-kubernetes-list-map-keys"),
        atomic_map: schema.str_at(&["x-kubernetes-map-type"]) == "atomic",
        checks: checks(schema, readable, &deeper),
        rules: rules::compile(schema, is_root || embedded),
        below: Below::default(),
    };
    node.properties.sort_by(|a, b| a.0.cmp(&b.0));
    let has_default = |it: &(usize, &(CompactString, Box<Node>))| it.1.1.default.is_some();
    let defaulted = node.properties.iter().enumerate().filter(has_default);
    node.defaulted = defaulted.map(|(place, _)| place).collect();
    node.below = below(&node);
    node
}

fn below(node: &Node) -> Below {
    let own = Below {
        rules: node.rules.is_some(),
        unique_lists: node.kind == Some(Kind::Array) && node.list != ListKind::Atomic,
        embedded: node.embedded,
    };
    node.children().fold(own, |sum, it| Below {
        rules: sum.rules || it.below.rules,
        unique_lists: sum.unique_lists || it.below.unique_lists,
        embedded: sum.embedded || it.below.embedded,
    })
}

fn texts(schema: &Value, member: &str) -> Vec<CompactString> {
    schema.items_at(&[member]).iter().filter_map(Value::as_str).map(CompactString::from).collect()
}

/// The words that make checks necessary.
const CHECKED: &[&str] = &[
    "format",
    "pattern",
    "enum",
    "minimum",
    "maximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "required",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
];

fn checks(schema: &Value, readable: bool, deeper: &dyn Fn(&Value) -> Node) -> Option<Box<Checks>> {
    CHECKED.iter().any(|it| schema.get(it).is_some()).then_some(())?;
    let int = |member: &str| schema.i64_at(&[member]);
    let all = |member: &str| -> Vec<Node> {
        let list = if readable { schema.items_at(&[member]) } else { &[] };
        list.iter().map(deeper).collect()
    };
    let pattern = schema.str_at(&["pattern"]);
    Some(Box::new(Checks {
        format: formats::find(supported_format(schema)),
        format_name: supported_format(schema).into(),
        pattern: (!pattern.is_empty())
            .then(|| Pattern { text: pattern.to_owned(), regex: cel::pattern(pattern) }),
        values: schema.items_at(&["enum"]).to_vec(),
        minimum: bound(schema, "minimum", "exclusiveMinimum"),
        maximum: bound(schema, "maximum", "exclusiveMaximum"),
        multiple_of: bound(schema, "multipleOf", ""),
        min_length: int("minLength"),
        max_length: int("maxLength"),
        min_items: int("minItems"),
        max_items: int("maxItems"),
        unique_items: schema.bool_at(&["uniqueItems"]),
        min_properties: int("minProperties"),
        max_properties: int("maxProperties"),
        required: texts(schema, "required"),
        all_of: all("allOf"),
        any_of: all("anyOf"),
        one_of: all("oneOf"),
        not: schema.get("not").filter(|it| readable && it.as_object().is_some()).map(deeper),
    }))
}

/// The format, if it is one that its type can have.
fn supported_format(schema: &Value) -> &str {
    let format = schema.str_at(&["format"]);
    let is_known = match schema.str_at(&["type"]) {
        "" | "string" => formats::find(format).is_some(),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if is_known { format } else { "" }
}

fn bound(schema: &Value, member: &str, exclusive: &str) -> Option<Bound> {
    let shown = schema.get(member)?;
    Some(Bound {
        limit: number(shown)?,
        shown: shown.clone(),
        exclusive: schema.bool_at(&[exclusive]),
    })
}

/// A number as Go's `float64`.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        #[expect(clippy::cast_precision_loss, reason = "upstream compares as float64 too")]
        Value::Int(it) => Some(*it as f64),
        Value::Float(it) => Some(*it),
        _ => None,
    }
}
