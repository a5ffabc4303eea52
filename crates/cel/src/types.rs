//! Types: of expressions, of declared variables, and as values of `type(x)`.

use std::fmt;
use std::sync::Arc;

/// A type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// Stands for a type that an error has hidden.
    Error,
    /// Known at run time only.
    Dyn,
    /// Of `null`.
    Null,
    /// `true`, `false`
    Bool,
    /// 64 bits, signed.
    Int,
    /// 64 bits, unsigned.
    Uint,
    /// 64 bits, floating.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// A span of time.
    Duration,
    /// A point in time.
    Timestamp,
    /// A list of something.
    List(Arc<Type>),
    /// A map from something to something.
    Map(Arc<(Type, Type)>),
    /// An object with declared fields.
    Struct(Arc<str>),
    /// A type of a library, such as `kubernetes.Quantity` or `optional_type(int)`.
    Opaque(Arc<Opaque>),
    /// A parameter of an overload, or a type that is being found out.
    Param(Arc<str>),
    /// The type of types.
    Type(Arc<Type>),
}

/// A type of a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opaque {
    /// Its name.
    pub name: Arc<str>,
    /// What it is of.
    pub params: Vec<Type>,
}

/// The name of the type of optional values.
pub(crate) const OPTIONAL: &str = "optional_type";

impl Type {
    /// A list of these.
    #[must_use]
    pub fn list(item: Self) -> Self {
        Self::List(Arc::new(item))
    }

    /// A map.
    #[must_use]
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// An object type by name.
    #[must_use]
    pub fn object(name: &str) -> Self {
        Self::Struct(name.into())
    }

    /// A library's type by name.
    #[must_use]
    pub fn opaque(name: &str) -> Self {
        Self::Opaque(Arc::new(Opaque { name: name.into(), params: Vec::new() }))
    }

    /// An optional one of these.
    #[must_use]
    pub fn optional(of: Self) -> Self {
        Self::Opaque(Arc::new(Opaque { name: OPTIONAL.into(), params: vec![of] }))
    }

    /// The type of this type.
    #[must_use]
    pub fn type_of(of: Self) -> Self {
        Self::Type(Arc::new(of))
    }

    /// What is inside an optional type.
    #[must_use]
    pub fn as_optional(&self) -> Option<&Self> {
        match self {
            Self::Opaque(it) if &*it.name == OPTIONAL => it.params.first(),
            _ => None,
        }
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// The types that it is made of.
    pub(crate) fn params(&self) -> Vec<&Self> {
        match self {
            Self::List(item) => vec![item],
            Self::Map(it) => vec![&it.0, &it.1],
            Self::Opaque(it) => it.params.iter().collect(),
            Self::Type(of) => vec![of],
            _ => Vec::new(),
        }
    }

    /// Whether it is made of more than so many types.
    pub(crate) fn is_larger_than(&self, parts: usize) -> bool {
        fn count(ty: &Type, left: usize) -> Option<usize> {
            let left = left.checked_sub(1)?;
            ty.params().into_iter().try_fold(left, |left, it| count(it, left))
        }
        count(self, parts).is_none()
    }

    /// The same with each part replaced.
    pub(crate) fn with_params(&self, mut part: impl FnMut(&Self) -> Self) -> Self {
        match self {
            Self::List(item) => Self::list(part(item)),
            Self::Map(it) => {
                let key = part(&it.0);
                Self::map(key, part(&it.1))
            }
            Self::Opaque(it) if !it.params.is_empty() => {
                let params = it.params.iter().map(part).collect();
                Self::Opaque(Arc::new(Opaque { name: Arc::clone(&it.name), params }))
            }
            Self::Type(of) => Self::type_of(part(of)),
            other => other.clone(),
        }
    }

    /// What `type(x)` is called; parts are left out.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Error => "error",
            Self::Dyn => "dyn",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "google.protobuf.Duration",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Struct(name) | Self::Param(name) => name,
            Self::Opaque(it) => &it.name,
            Self::Type(_) => "type",
        }
    }
}

/// As checker errors show it.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(it) => write!(f, "map({}, {})", it.0, it.1),
            Self::Opaque(it) if !it.params.is_empty() => {
                write!(f, "{}(", it.name)?;
                for (index, param) in it.params.iter().enumerate() {
                    write!(f, "{}{param}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
            Self::Type(of) if **of != Self::Dyn => write!(f, "type({of})"),
            other => f.write_str(other.name()),
        }
    }
}

/// Reads a type as library tables write it: `list(A)`, `map(string, dyn)`, `optional(V)`, `kubernetes.Quantity`.
/// A single capital letter is a parameter.
pub(crate) fn read(text: &str) -> Type {
    let text = text.trim();
    let inner = |prefix: &str| text.strip_prefix(prefix)?.strip_prefix('(')?.strip_suffix(')');
    if let Some(item) = inner("list") {
        return Type::list(read(item));
    }
    if let Some(parts) = inner("map") {
        let parts = split(parts);
        return Type::map(read(parts[0]), read(parts[1]));
    }
    if let Some(of) = inner("optional") {
        return Type::optional(read(of));
    }
    if let Some(of) = inner("type") {
        return Type::type_of(read(of));
    }
    match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        _ if text.len() == 1 => Type::Param(text.into()),
        _ if text.starts_with("kubernetes.") => Type::object(text),
        _ => Type::opaque(text),
    }
}

/// Splits at commas outside parentheses.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < text.len() {
        parts.push(&text[start..]);
    }
    parts
}
