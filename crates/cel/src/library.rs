//! The functions that expressions can call, by library, and the version of Kubernetes that brought each.

pub(crate) mod authorizer;
pub(crate) mod convert;
pub(crate) mod encoders;
pub(crate) mod equal;
pub(crate) mod format;
mod json_patch;
mod lists;
mod lists_extended;
mod math;
mod net;
pub(crate) mod opaque;
mod optionals;
mod quantity;
pub(crate) mod regex;
mod semver;
mod sets;
mod standard;
mod strings;
mod text_format;
pub(crate) mod time;
mod urls;

use crate::decl::Decl;
use crate::env::Version;

pub use authorizer::{
    AUTHORIZER_TYPE, Attributes, Authorizer, Decision, RESOURCE_CHECK_TYPE, ServiceAccount,
};
pub use json_patch::MutationTypes;
pub use time::Time;

/// A semantic version, read as `semver` reads it.
pub(crate) fn semver(text: &str) -> crate::value::Result<opaque::Opaque> {
    let version = semver::Semver::parse(text).map_err(crate::error::EvalError::new)?;
    Ok(opaque::Opaque::Semver(version))
}

/// A library of functions and macros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Operators, conversions, `size`, `matches`, times.
    Standard,
    /// Comparisons between numbers of different types.
    CrossTypeComparisons,
    /// `url`, `isURL`
    Urls,
    /// `find`, `findAll`
    Regex,
    /// `isSorted`, `sum`, `min`, `max`, `indexOf`
    Lists,
    /// `authorizer.group(...)...check(...)`
    Authorizer,
    /// `fieldSelector`, `labelSelector`
    AuthorizerSelectors,
    /// `?.`, `[?_]`, `optional.of`
    Optionals,
    /// `quantity`
    Quantity,
    /// `charAt`, `indexOf`, `replace`, `split`, ...
    Strings,
    /// `format`, `strings.quote`
    StringsFormat,
    /// `reverse`; in no environment of Kubernetes.
    StringsReverse,
    /// `sets.contains`, ...
    Sets,
    /// `ip`
    Ip,
    /// `cidr`
    Cidr,
    /// `format.named`, `validate`
    Format,
    /// `transformList`, `transformMap`, ...
    TwoVariableComprehensions,
    /// `semver`
    Semver,
    /// `slice`, `flatten`, `sort`, `sortBy`, `distinct`, `reverse`, `lists.range`
    ListsExtended,
    /// `jsonpatch.escapeKey`; of mutating policies.
    JsonPatch,
    /// `cel.bind`; of device selectors.
    Bindings,
    /// `math.greatest`, ...; in no environment of Kubernetes.
    Math,
    /// `base64.encode`, ...; in no environment of Kubernetes.
    Encoders,
}

/// Which library every environment has, since when, and until when if another took its place. Libraries that are not
/// here belong to one kind of expression, and are added where that is compiled.
pub(crate) const INTRODUCED: &[(Version, Option<Version>, Library)] = &[
    (Version::FIRST, None, Library::Standard),
    (Version::FIRST, None, Library::Urls),
    (Version::FIRST, None, Library::Regex),
    (Version::FIRST, None, Library::Lists),
    (Version::FIRST, None, Library::Strings),
    (Version::v1(27), None, Library::Authorizer),
    (Version::v1(28), None, Library::CrossTypeComparisons),
    (Version::v1(28), None, Library::Optionals),
    (Version::v1(28), None, Library::Quantity),
    (Version::v1(29), None, Library::StringsFormat),
    (Version::v1(29), None, Library::Sets),
    (Version::v1(30), None, Library::Ip),
    (Version::v1(30), None, Library::Cidr),
    (Version::v1(31), None, Library::Format),
    (Version::v1(31), None, Library::AuthorizerSelectors),
    (Version::v1(32), None, Library::TwoVariableComprehensions),
    (Version::v1(33), None, Library::Semver),
    (Version::v1(34), None, Library::ListsExtended),
];

impl Library {
    pub(crate) fn tables(self) -> Vec<&'static [Decl]> {
        match self {
            Self::Standard => {
                vec![standard::OPERATORS, standard::FUNCTIONS, convert::FUNCTIONS, time::FUNCTIONS]
            }
            Self::CrossTypeComparisons => vec![standard::CROSS_TYPE],
            Self::Urls => vec![urls::FUNCTIONS],
            Self::Regex => vec![regex::FUNCTIONS],
            Self::Lists => vec![lists::FUNCTIONS],
            Self::Authorizer => vec![authorizer::FUNCTIONS],
            Self::AuthorizerSelectors => vec![authorizer::SELECTORS],
            Self::Optionals => vec![optionals::FUNCTIONS],
            Self::Quantity => vec![quantity::FUNCTIONS],
            Self::Strings => vec![strings::FUNCTIONS],
            Self::StringsFormat => vec![strings::FORMAT],
            Self::StringsReverse => vec![strings::REVERSE],
            Self::Sets => vec![sets::FUNCTIONS],
            Self::Ip => vec![net::IP],
            Self::Cidr => vec![net::CIDR],
            Self::Format => vec![format::FUNCTIONS],
            Self::TwoVariableComprehensions => vec![optionals::MAP_INSERT],
            Self::Semver => vec![semver::FUNCTIONS],
            Self::ListsExtended => vec![lists_extended::FUNCTIONS],
            Self::JsonPatch => vec![json_patch::FUNCTIONS],
            Self::Bindings => Vec::new(),
            Self::Math => vec![math::FUNCTIONS],
            Self::Encoders => vec![encoders::FUNCTIONS],
        }
    }
}
