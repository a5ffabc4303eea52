//! What calls cost when they happen.

use crate::library::format::REGEX_BYTES_MAX;
use crate::library::opaque::Opaque;
use crate::limits::{LIST_CREATE, REGEX_LENGTH, STRING_TRAVERSAL, STRUCT_CREATE};
use crate::value::Val;

/// How what a call costs is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Fixed(u64),
    /// The walk through the first argument, so many times.
    Walk(u8),
    /// Twice the walk through the result.
    ResultTwice,
    /// One for each item; text and what is in lists by length.
    Traverse,
    /// Of a string by a pattern.
    Match,
    Contains,
    AddText,
    /// One for each item of the second argument.
    InList,
    /// The shorter of both.
    Compare,
    ContainsIp {
        parses: bool,
    },
    ContainsCidr {
        parses: bool,
    },
    /// Of a string by a named format.
    Validate,
    Selector,
    /// One, and so many for each pair of items.
    Sets(u64),
    /// As many as the list that is made has items.
    Slice,
    Range,
    Reverse,
    /// As many as the list has items, for each level.
    Flatten,
    /// Each item with each: of the argument with this number.
    SelfCompare(usize),
}

/// A cost of so much for each unit, rounded up.
pub(crate) fn by_factor(size: u64, factor: f64) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "as upstream counts")]
    let cost = (size as f64 * factor).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "conversion saturates"
    )]
    {
        cost as u64
    }
}

fn size(value: &Val<'_>) -> u64 {
    value.size().map_or(1, |it| u64::try_from(it).unwrap_or(u64::MAX))
}

fn walk(size: u64) -> u64 {
    by_factor(size, STRING_TRAVERSAL)
}

/// The rule for a function; operators and what is not listed cost one.
pub(crate) fn rule(function: &str, overload: Option<&str>) -> Rule {
    match function {
        "check" => Rule::Fixed(crate::library::authorizer::CHECK_COST),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => Rule::Traverse,
        "ip" if overload == Some("cidr_ip") => Rule::Fixed(1),
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "ip"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => Rule::Walk(1),
        "replace" | "split" | "ip.isCanonical" => Rule::Walk(2),
        "join" => Rule::ResultTwice,
        "find" | "findAll" => Rule::Match,
        "fieldSelector" | "labelSelector" => Rule::Selector,
        "containsIP" => Rule::ContainsIp { parses: overload == Some("cidr_contains_ip_string") },
        "containsCIDR" => {
            Rule::ContainsCidr { parses: overload == Some("cidr_contains_cidr_string") }
        }
        "validate" => Rule::Validate,
        "sets.contains" | "sets.intersects" => Rule::Sets(1),
        "sets.equivalent" => Rule::Sets(2),
        _ => overload.map_or(Rule::Fixed(1), by_overload),
    }
}

fn by_overload(overload: &str) -> Rule {
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
        | "strings_quote" | "string_format" => Rule::Walk(1),
        "in_list" => Rule::InList,
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes" => Rule::Compare,
        "add_string" | "add_bytes" => Rule::AddText,
        "list_slice" => Rule::Slice,
        "lists_range" => Rule::Range,
        "list_reverse" => Rule::Reverse,
        "list_flatten" | "list_flatten_int" => Rule::Flatten,
        "list_distinct" => Rule::SelfCompare(0),
        id if id.starts_with("list_") && id.ends_with("_sort") => Rule::SelfCompare(0),
        id if id.ends_with("_sortByAssociatedKeys") => Rule::SelfCompare(1),
        "matches_string" => Rule::Match,
        "contains_string" => Rule::Contains,
        _ => Rule::Fixed(1),
    }
}

impl Rule {
    /// Whether the cost is known only once the result is.
    pub(crate) fn is_by_result(self) -> bool {
        self == Self::ResultTwice
    }

    pub(crate) fn after(self, result: &Val<'_>) -> u64 {
        if self.is_by_result() { by_factor(size(result), 2.0 * STRING_TRAVERSAL) } else { 0 }
    }

    pub(crate) fn before(self, args: &[Val<'_>]) -> u64 {
        let arg = |index: usize| args.get(index).map_or(0, size);
        match self {
            Self::Fixed(cost) => cost,
            Self::Walk(times) => by_factor(arg(0), f64::from(times) * STRING_TRAVERSAL),
            Self::ResultTwice => 0,
            Self::Traverse => args.first().map_or(0, traversal),
            Self::Match => {
                let text = by_factor(arg(0).saturating_add(1), STRING_TRAVERSAL);
                text.saturating_mul(by_factor(arg(1), REGEX_LENGTH))
            }
            Self::Contains => walk(arg(0)).saturating_mul(walk(arg(1))),
            Self::AddText => walk(arg(0).saturating_add(arg(1))),
            Self::InList => arg(1),
            Self::Compare => walk(arg(0).min(arg(1))),
            Self::ContainsIp { parses } => walk(2 * arg(0)) + if parses { walk(arg(1)) } else { 0 },
            Self::ContainsCidr { parses } => {
                walk(2 * arg(0)) + walk(arg(0)) + 1 + if parses { walk(arg(1)) } else { 0 }
            }
            Self::Validate => {
                let text = by_factor(arg(1).saturating_add(1), STRING_TRAVERSAL);
                let pattern = match args.first() {
                    Some(Val::Opaque(it)) => match &**it {
                        Opaque::Format(format) => format.pattern_bytes,
                        _ => REGEX_BYTES_MAX,
                    },
                    _ => REGEX_BYTES_MAX,
                };
                text.saturating_mul(by_factor(pattern, REGEX_LENGTH))
            }
            Self::Selector => {
                let length = arg(1);
                let requirements = by_factor(length, 0.5);
                let each = LIST_CREATE + STRUCT_CREATE;
                LIST_CREATE + walk(length) + requirements.saturating_mul(each)
            }
            Self::Sets(factor) => 1 + arg(0).saturating_mul(arg(1)).saturating_mul(factor),
            Self::Slice => {
                let (from, to) = (number(args.get(1)), number(args.get(2)));
                allocation(to.min(arg(0)).saturating_sub(from), 1.0)
            }
            Self::Range => allocation(number(args.first()), 1.0),
            Self::Reverse => allocation(arg(0), 1.0),
            Self::Flatten => {
                let levels = args.get(1).map_or(1, |it| number(Some(it)));
                allocation(arg(0).saturating_mul(levels), 1.0)
            }
            Self::SelfCompare(index) => {
                let size = arg(index);
                let first = match args.get(index) {
                    Some(Val::List(list)) => list.get(0).ok(),
                    _ => None,
                };
                let is_text = matches!(first, Some(Val::String(_) | Val::Bytes(_)));
                let factor = if is_text { 2.0 + STRING_TRAVERSAL } else { 2.0 };
                allocation(size.saturating_mul(size), factor)
            }
        }
    }
}

fn number(value: Option<&Val<'_>>) -> u64 {
    match value {
        Some(Val::Int(number)) => u64::try_from(*number).unwrap_or_default(),
        _ => 0,
    }
}

/// A call that makes a list.
#[expect(clippy::cast_precision_loss, reason = "as upstream counts")]
fn allocation(size: u64, factor: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "conversion saturates"
    )]
    let cost = (size as f64 * factor) as u64;
    cost.saturating_add(1 + LIST_CREATE)
}

/// What `==` costs. Values of libraries compare in one step, with `==` only.
pub(crate) fn equality(left: &Val<'_>, right: &Val<'_>, negated: bool) -> u64 {
    match left {
        Val::Opaque(_) if !negated => 1,
        _ => walk(size(left).min(size(right))),
    }
}

/// One for each scalar in it, a tenth for each byte of text. What has more parts than a call may cost is not counted out.
fn traversal(value: &Val<'_>) -> u64 {
    let mut parts = crate::limits::PER_CALL_LIMIT;
    count(value, &mut parts).unwrap_or(u64::MAX)
}

fn count(value: &Val<'_>, parts: &mut u64) -> Option<u64> {
    *parts = parts.checked_sub(1)?;
    let bytes = |len: usize| Some(u64::try_from(len).unwrap_or(u64::MAX) / 10);
    match value {
        Val::String(text) => bytes(text.len()),
        Val::Bytes(it) => bytes(it.len()),
        Val::List(list) => {
            let mut items = list.iter().map(|item| item.map_or(Some(1), |it| count(&it, parts)));
            items.try_fold(0u64, |sum, it| Some(sum.saturating_add(it?)))
        }
        Val::Map(map) => {
            let entries = map.entries().unwrap_or_default();
            entries.iter().try_fold(0u64, |sum, (key, value)| {
                Some(sum.saturating_add(count(key, parts)?).saturating_add(count(value, parts)?))
            })
        }
        _ => Some(1),
    }
}

/// What an opaque value counts as where sizes are asked for.
pub(crate) fn opaque_size(value: &Opaque) -> Option<usize> {
    match value {
        Opaque::Ip(std::net::IpAddr::V4(_)) => Some(4),
        Opaque::Ip(std::net::IpAddr::V6(_)) => Some(16),
        Opaque::Cidr(_, bits) => Some(usize::from(*bits).div_ceil(8)),
        _ => None,
    }
}
