//! LimitRange.

use apimachinery::quantity::Quantity;
use apimachinery::validation::{self, Problems};
use apimachinery::{FieldErrors, Object, Path, Value};

use crate::Rules;
use crate::declaration::{Declaration, MetadataChecks};
use crate::pod_spec::defaults::resource_list;
use crate::rules::{self, each};

const TYPES: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "limitranges",
        default,
        prepare_create,
        validate,
        metadata_checks: MetadataChecks::New,
        rules: Rules { create_on_update: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

/// What a container gets where it says nothing follows from what it may have.
fn default(range: &mut Value) {
    for limit in range.items_at_mut(&["spec", "limits"]) {
        if limit.str_at(&["type"]) == "Container" {
            container_amounts(limit);
        }
        for member in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            resource_list(limit.get_mut(member));
        }
    }
}

fn container_amounts(limit: &mut Value) {
    for (from, into) in
        [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
    {
        let given = limit.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, amount) in given {
            limit.default_at(&[into, name.as_str()], amount);
        }
    }
}

/// A range without a name is named by its uid.
fn prepare_create(range: &mut Value) {
    if range.str_at(&["metadata", "name"]).is_empty() {
        let uid = range.str_at(&["metadata", "uid"]).to_owned();
        range.set_at(&["metadata", "name"], uid);
    }
}

fn validate(range: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let mut types: Vec<String> = Vec::new();
    each(&range["spec"], "limits", &path, errors, |limit, at, errors| {
        let kind = limit.str_at(&["type"]);
        errors.invalid_all(&at.child("type"), kind, limit_type(kind));
        if types.iter().any(|it| it == kind) {
            errors.duplicate(&at.child("type"), &kind.into());
        }
        types.push(kind.to_owned());
        names(limit, at, errors);
        amounts(limit, at, errors);
    });
}

fn limit_type(name: &str) -> Problems {
    let problems = validation::qualified_name(name);
    if problems.is_empty() && !name.contains('/') && !TYPES.contains(&name) {
        return vec!["must be a standard limit type or fully qualified".into()];
    }
    problems
}

fn names(limit: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = limit.str_at(&["type"]);
    let rule = if matches!(kind, "Pod" | "Container") {
        rules::container_resource_name
    } else {
        rules::resource_name
    };
    let check = |member: &str, errors: &mut FieldErrors| {
        let at = path.child(member);
        for (name, _) in rules::quantities(limit, member) {
            errors.invalid_all(&at.key(name), name, rule(name));
        }
    };
    check("max", errors);
    check("min", errors);
    for member in ["default", "defaultRequest"] {
        if kind != "Pod" {
            check(member, errors);
        } else if rules::quantities(limit, member).next().is_some() {
            errors.forbidden(&path.child(member), "may not be specified when `type` is 'Pod'");
        }
    }
    if kind == "PersistentVolumeClaim"
        && limit.at(&["max", "storage"]).is_none()
        && limit.at(&["min", "storage"]).is_none()
    {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&path.child("limits"), detail);
    }
    check("maxLimitRequestRatio", errors);
}

/// An amount as it is compared and as it is shown.
type Amount<'l> = Option<(Quantity, &'l str)>;

fn amounts(limit: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let members = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let mut all: Vec<&str> = members
        .iter()
        .filter_map(|member| limit.get(member).and_then(Value::as_object))
        .flat_map(Object::keys)
        .collect();
    all.sort_unstable();
    all.dedup();
    for name in all {
        let amount = |member: &str| -> Amount<'_> {
            // Pods have no defaults: that there are some is told, and what they are does not matter then.
            if limit.str_at(&["type"]) == "Pod" && member.starts_with("default") {
                return None;
            }
            let text = limit.at(&[member, name]).and_then(Value::as_str)?;
            Some((Quantity::parse(text).ok()?, text))
        };
        in_order(name, amount, path, errors);
        ratio(name, amount, path, errors);
    }
}

/// `min <= defaultRequest <= default <= max`
fn in_order<'l>(
    name: &str,
    amount: impl Fn(&str) -> Amount<'l>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    // The smaller one, the larger one, whose field and amount are shown, and what upstream calls the two.
    let pairs = [
        ("min", "max", "min", "min value {} is greater than max value {}"),
        (
            "min",
            "defaultRequest",
            "defaultRequest",
            "min value {} is greater than default request value {}",
        ),
        (
            "defaultRequest",
            "max",
            "defaultRequest",
            "default request value {} is greater than max value {}",
        ),
        (
            "defaultRequest",
            "default",
            "defaultRequest",
            "default request value {} is greater than default limit value {}",
        ),
        ("min", "default", "default", "min value {} is greater than default value {}"),
        ("default", "max", "default", "default value {} is greater than max value {}"),
    ];
    for (small, large, shown, words) in pairs {
        let (Some((less, less_text)), Some((more, more_text))) = (amount(small), amount(large))
        else {
            continue;
        };
        if less > more {
            let text = if shown == small { less_text } else { more_text };
            let detail = words.replacen("{}", less_text, 1).replacen("{}", more_text, 1);
            errors.invalid_text(&path.child(shown).key(name), text, &detail);
        }
    }
}

fn ratio<'l>(
    name: &str,
    amount: impl Fn(&str) -> Amount<'l>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let Some((ratio, text)) = amount("maxLimitRequestRatio") else { return };
    let member = path.child("maxLimitRequestRatio");
    let at = member.key(name);
    if ratio.milli_value() < 1000 {
        errors.invalid_text(&at, text, &format!("ratio {text} is less than 1"));
    }
    if let (Some((least, _)), Some((most, _))) = (amount("min"), amount("max")) {
        let limit = most.as_f64() / least.as_f64();
        if ratio.as_f64() > limit {
            let detail = format!("ratio {text} is greater than max/min = {limit:.6}");
            errors.invalid_text(&at, text, &detail);
        }
    }
}
