//! What calls cost by the sizes of their arguments.

use super::{CallEstimate, CostEstimate, Coster, EntrySize, Size, short_circuits};
use crate::ast::{Expr, ExprKind, Literal, op};
use crate::library::authorizer::CHECK_COST;
use crate::library::format::{FORMAT_SIZE_MAX, REGEX_BYTES_MAX};
use crate::limits::{LIST_CREATE, REGEX_LENGTH, STRING_TRAVERSAL, STRUCT_CREATE};
use crate::types::Type;

/// A call whose arguments are estimated.
pub(super) struct Call<'e, 'c> {
    pub(super) expr: &'e Expr,
    pub(super) function: &'c str,
    pub(super) overload: &'c str,
    pub(super) target: Option<&'e Expr>,
    pub(super) args: &'e [Expr],
    pub(super) costs: &'c [CostEstimate],
}

/// A cost without a size.
fn only(cost: CostEstimate) -> Option<CallEstimate> {
    Some(CallEstimate { cost, size: None })
}

fn sized(cost: CostEstimate, size: Size) -> Option<CallEstimate> {
    Some(CallEstimate { cost, size: Some(size) })
}

fn walk(size: Size) -> CostEstimate {
    size.by_factor(STRING_TRAVERSAL)
}

const ONE: CostEstimate = CostEstimate::fixed(1);

impl<'e> Coster<'e> {
    pub(super) fn estimate_call(&mut self, call: &Call<'e, '_>) -> CallEstimate {
        let args = call.costs.iter().fold(CostEstimate::default(), |sum, it| sum.plus(*it));
        if let Some(estimate) = self.library_call(call) {
            return CallEstimate { cost: estimate.cost.plus(args), size: estimate.size };
        }
        if short_circuits(call.function)
            && let [left, right] = call.costs
        {
            let cost = CostEstimate { min: left.min, max: left.plus(*right).max };
            return CallEstimate { cost, size: None };
        }
        if let (op::CONDITIONAL, [_, then, otherwise]) = (call.function, call.args) {
            return self.conditional(call, then, otherwise);
        }
        let estimate = self.standard_call(call).unwrap_or(CallEstimate { cost: ONE, size: None });
        CallEstimate { cost: estimate.cost.plus(args), size: estimate.size }
    }

    fn conditional(
        &mut self,
        call: &Call<'e, '_>,
        then: &'e Expr,
        otherwise: &'e Expr,
    ) -> CallEstimate {
        let size = self.size_or_unknown(then).union(self.size_or_unknown(otherwise));
        if let Some(entry) = EntrySize::union(self.entry_size(then), self.entry_size(otherwise)) {
            self.entries.insert(call.expr.id, entry);
        }
        let [condition, then, otherwise] = call.costs else {
            return CallEstimate { cost: ONE, size: None };
        };
        CallEstimate { cost: condition.plus(then.union(*otherwise)), size: Some(size) }
    }

    /// What Kubernetes' libraries and extensions say their functions cost.
    fn library_call(&self, call: &Call<'e, '_>) -> Option<CallEstimate> {
        let size = |expr: &Expr| self.size_or_unknown(expr);
        let first = call.args.first();
        match (call.function, call.target) {
            ("check", _) => only(CostEstimate::fixed(CHECK_COST)),
            ("fieldSelector" | "labelSelector", Some(_)) => only(selector(size(first?))),
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(target)) => {
                only(self.traversal(target))
            }
            ("url" | "jsonpatch.escapeKey", None) => sized(walk(size(first?)), size(first?)),
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(target)) => {
                sized(walk(size(target)), size(target))
            }
            ("replace", Some(target)) => {
                let [from, to, ..] = call.args else { return None };
                let result = replaced(size(target), size(from), size(to));
                sized(size(target).by_factor(2.0 * STRING_TRAVERSAL), result)
            }
            ("split", Some(target)) => {
                let limit = match call.args.get(1).map(|it| &it.kind) {
                    Some(ExprKind::Literal(Literal::Int(limit))) => limit.cast_unsigned(),
                    _ => size(target).max,
                };
                let cost = size(target).by_factor(2.0 * STRING_TRAVERSAL);
                sized(cost, Size { min: 0, max: limit })
            }
            ("join", Some(target)) => self.join(target, first),
            ("find" | "findAll", Some(target)) => {
                sized(matching(size(target), size(first?)), Size { min: 0, max: size(target).max })
            }
            ("ip", Some(_)) => only(ONE),
            ("containsIP", Some(_)) => {
                let parses = call.overload == "cidr_contains_ip_string";
                only(contains_ip(parses.then(|| size(first.unwrap_or(call.expr)))))
            }
            ("containsCIDR", Some(_)) => {
                let parses = call.overload == "cidr_contains_cidr_string";
                let parsed = parses.then(|| size(first.unwrap_or(call.expr)));
                only(contains_ip(parsed).plus(walk(ADDRESS_BYTES)).plus(ONE))
            }
            ("validate", Some(_)) => {
                let pattern = pattern_factor();
                only(walk(size(first?)).by_factor(pattern))
            }
            ("sets.contains" | "sets.intersects", None) => only(self.sets(call.args, 1)),
            ("sets.equivalent", None) => only(self.sets(call.args, 2)),
            ("_==_", None) => equality_of_library_types(
                self.checked.ty(first?),
                self.checked.ty(call.args.get(1)?),
            ),
            _ => self.parsers(call),
        }
    }

    fn parsers(&self, call: &Call<'e, '_>) -> Option<CallEstimate> {
        match (call.function, call.target, call.args) {
            (
                "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver"
                | "isSemver",
                None,
                [text, ..],
            ) => only(walk(self.size_or_unknown(text))),
            ("ip.isCanonical", None, [text]) => {
                only(self.size_or_unknown(text).by_factor(2.0 * STRING_TRAVERSAL))
            }
            _ => None,
        }
    }

    /// What the functions of the language cost where that depends on sizes.
    fn standard_call(&mut self, call: &Call<'e, '_>) -> Option<CallEstimate> {
        let size = |expr: &Expr| self.size_or_unknown(expr);
        let first = call.args.first();
        match call.overload {
            "string_format" => {
                sized(walk(size(call.target?)), size(call.target?).plus(size(first?)))
            }
            "string_to_bytes" => {
                let text = size(first?);
                sized(walk(text), Size { min: text.min, max: text.max.saturating_mul(4) })
            }
            "bytes_to_string" => {
                let bytes = size(first?);
                sized(walk(bytes), Size { min: bytes.min / 4, max: bytes.max })
            }
            "strings_quote" => {
                let text = size(first?);
                let max = text.max.saturating_mul(2).saturating_add(2);
                sized(walk(text), Size { min: text.min.saturating_add(2), max })
            }
            "starts_with_string" | "ends_with_string" => only(walk(size(first?))),
            "in_list" => only(size(call.args.get(1)?)),
            "matches_string" => only(matching(size(call.target?), size(first?))),
            "contains_string" => only(walk(size(call.target?)).times(walk(size(first?)))),
            "add_string" | "add_bytes" | "add_list" => self.addition(call),
            "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals" => {
                let max = size(first?).max.min(size(call.args.get(1)?).max);
                only(walk(Size { min: u64::from(max > 0), max }))
            }
            _ => self.list_call(call),
        }
    }

    /// Functions that make lists from lists.
    fn list_call(&self, call: &Call<'e, '_>) -> Option<CallEstimate> {
        let size = |expr: &Expr| self.size_or_unknown(expr);
        let made = |factor: f64, items: Size| {
            sized(items.by_factor(factor).plus(ONE).plus(CostEstimate::fixed(LIST_CREATE)), items)
        };
        let squared = |list: &Expr, factor: f64| made(factor, size(list).times(size(list)));
        let first = call.args.first();
        match (call.overload, call.target) {
            ("list_slice", Some(target)) => {
                let from = constant(first, 0);
                let to = constant(call.args.get(1), size(target).max);
                made(1.0, Size::fixed(to.wrapping_sub(from)))
            }
            ("lists_range", None) => made(1.0, Size::fixed(constant(first, u64::MAX))),
            ("list_reverse", Some(target)) => made(1.0, size(target)),
            ("list_flatten" | "list_flatten_int", Some(target)) => {
                let levels = if first.is_some() { constant(first, u64::MAX) } else { 1 };
                #[expect(clippy::cast_precision_loss, reason = "as upstream counts")]
                made(levels as f64, size(target))
            }
            ("list_distinct", Some(target)) => squared(target, 2.0),
            (id, Some(target)) if id.starts_with("list_") && id.ends_with("_sort") => {
                squared(target, sort_factor(id))
            }
            (id, Some(_)) if id.ends_with("_sortByAssociatedKeys") => {
                squared(first?, sort_factor(id))
            }
            _ => None,
        }
    }

    fn addition(&mut self, call: &Call<'e, '_>) -> Option<CallEstimate> {
        let [left, right] = call.args else { return None };
        let size = self.size_or_unknown(left).plus(self.size_or_unknown(right));
        if let Some(entry) = EntrySize::union(self.entry_size(left), self.entry_size(right)) {
            self.entries.insert(call.expr.id, entry);
        }
        let cost = if call.overload == "add_list" { ONE } else { walk(size) };
        sized(cost, size)
    }

    /// The walk through a list, and through the text in it; or through text.
    fn traversal(&self, target: &Expr) -> CostEstimate {
        let size = self.size_or_unknown(target);
        match self.checked.ty(target) {
            Type::List(item) if matches!(**item, Type::String | Type::Bytes) => {
                size.times(ONE.plus(walk(self.item_size(target))))
            }
            Type::List(_) => size.times(ONE),
            _ => walk(size),
        }
    }

    fn join(&self, list: &Expr, separator: Option<&Expr>) -> Option<CallEstimate> {
        let items = self.size_or_unknown(list);
        let mut size = items.times(self.item_size(list));
        if let Some(separator) = separator {
            let gaps = Size { min: items.min.saturating_sub(1), max: items.max.saturating_sub(1) };
            size = size.plus(self.size_or_unknown(separator).times(gaps));
        }
        sized(walk(size), size)
    }

    fn sets(&self, args: &[Expr], factor: u64) -> CostEstimate {
        let [left, right] = args else { return ONE };
        let pairs = self.size_or_unknown(left).times(self.size_or_unknown(right));
        ONE.plus(pairs.times(CostEstimate::fixed(factor)))
    }
}

/// The value of an argument that is a constant.
fn constant(arg: Option<&Expr>, otherwise: u64) -> u64 {
    match arg.map(|it| &it.kind) {
        Some(ExprKind::Literal(Literal::Int(number))) => {
            u64::try_from(*number).unwrap_or(otherwise)
        }
        _ => otherwise,
    }
}

fn sort_factor(overload: &str) -> f64 {
    let is_text = overload.starts_with("list_string") || overload.starts_with("list_bytes");
    if is_text { 2.0 + STRING_TRAVERSAL } else { 2.0 }
}

/// How many bytes an address has.
const ADDRESS_BYTES: Size = Size { min: 4, max: 16 };

fn contains_ip(parsed: Option<Size>) -> CostEstimate {
    walk(ADDRESS_BYTES.plus(ADDRESS_BYTES)).plus(parsed.map(walk).unwrap_or_default())
}

fn matching(text: Size, pattern: Size) -> CostEstimate {
    walk(text.plus(Size::fixed(1))).times(pattern.by_factor(REGEX_LENGTH))
}

#[expect(clippy::cast_precision_loss, reason = "a small constant")]
fn pattern_factor() -> f64 {
    REGEX_BYTES_MAX as f64 * REGEX_LENGTH
}

fn selector(length: Size) -> CostEstimate {
    #[expect(clippy::cast_precision_loss, reason = "a small constant")]
    let each = (LIST_CREATE + STRUCT_CREATE) as f64;
    CostEstimate::fixed(LIST_CREATE).plus(walk(length)).plus(length.by_factor(0.5).by_factor(each))
}

/// How long text may become when parts of it are replaced.
fn replaced(text: Size, from: Size, to: Size) -> Size {
    let divided = |a: u64, b: u64| a.div_ceil(b.max(1));
    // The longest: nothing between letters, or as many of the shortest parts by the longest.
    let max = if from.min == 0 {
        text.max.saturating_add(1).saturating_mul(to.max).saturating_add(text.max)
    } else if to.max <= from.min {
        text.max
    } else {
        divided(text.max, from.min).saturating_mul(to.max)
    };
    let min = if from.max == 0 {
        text.min.saturating_add(1).saturating_mul(to.min).saturating_add(text.min)
    } else if from.max <= to.min {
        text.min
    } else {
        divided(text.min, from.max).saturating_mul(to.min)
    };
    Size { min, max }
}

/// Values of libraries are compared in one step.
fn equality_of_library_types(left: &Type, right: &Type) -> Option<CallEstimate> {
    if left != right {
        return None;
    }
    match left.name() {
        "net.IP" | "net.CIDR" | "kubernetes.Quantity" | "kubernetes.Semver" => only(ONE),
        name if name.starts_with("kubernetes.authorization.") => only(ONE),
        "kubernetes.NamedFormat" => only(walk(Size { min: 1, max: FORMAT_SIZE_MAX })),
        "kubernetes.URL" => only(walk(Size { min: 1, max: 1 })),
        _ => None,
    }
}
