//! FlowSchema and PriorityLevelConfiguration: who is served before whom.

use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use crate::declaration::{Declaration, MetadataChecks};
use crate::rules::each;
use crate::{check, status, table};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const PRECEDENCE_MAX: i64 = 10_000;
const PRECEDENCE_DEFAULT: i64 = 1_000;
const SHARES_DEFAULT: i64 = 30;
const QUEUES_MAX: i64 = 10_000_000;
/// What is there from the start, and may not be made otherwise.
const MANDATORY: &[&str] = &["exempt", "catch-all"];

pub(super) fn schema() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "flowschemas",
        default: |it| {
            if it.i64_at(&["spec", "matchingPrecedence"]).unwrap_or_default() == 0 {
                it.set_at(&["spec", "matchingPrecedence"], PRECEDENCE_DEFAULT);
            }
        },
        validate: validate_schema,
        prepare_status: status::keep_metadata,
        validate_status: |it, _, errors| {
            status::typed_conditions(&it["status"], &Path::new("status"), errors);
        },
        row: schema_row,
        metadata_checks: MetadataChecks::New,
        ..Declaration::SPEC_AND_STATUS
    }
}

fn validate_schema(schema: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &schema["spec"];
    let precedence = spec.i64_at(&["matchingPrecedence"]).unwrap_or_default();
    let at = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(&at, &precedence.into(), "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        let detail = format!("must not be greater than {PRECEDENCE_MAX}");
        errors.invalid(&at, &precedence.into(), &detail);
    }
    if precedence == 1 && schema.str_at(&["metadata", "name"]) != "exempt" {
        errors.invalid(
            &at,
            &precedence.into(),
            "only the schema named 'exempt' may have matchingPrecedence 1",
        );
    }
    if let Some(method) = spec.get("distinguisherMethod") {
        let kind = method.str_at(&["type"]);
        if !matches!(kind, "ByNamespace" | "ByUser") {
            let place = path.child("distinguisherMethod");
            let shown = check::go_struct(method, &[("Type", "type")]);
            unsupported_shown(&place.child("type"), &shown, &["ByNamespace", "ByUser"], errors);
        }
    }
    let reference = path.child("priorityLevelConfiguration");
    let name = spec.str_at(&["priorityLevelConfiguration", "name"]);
    let at = reference.child("name");
    if name.is_empty() {
        errors.required(&at, "must reference a priority level");
    } else {
        errors.invalid_all(&at, name, validation::dns1123_subdomain(name));
    }
    each(spec, "rules", &path, errors, rule);
}

/// `Unsupported value: [..]: supported values: ..`, for a value that is not shown as JSON.
fn unsupported_shown(path: &Path<'_>, shown: &str, supported: &[&str], errors: &mut FieldErrors) {
    let list: Vec<String> = supported.iter().map(|it| format!("{it:?}")).collect();
    errors.push(apimachinery::field::FieldError {
        kind: apimachinery::field::ErrorType::NotSupported,
        field: path.to_string(),
        body: format!("Unsupported value: {shown}: supported values: {}", list.join(", ")),
    });
}

fn rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if rule.items_at(&["subjects"]).is_empty() {
        errors.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    each(rule, "subjects", path, errors, subject);
    let none = |member| rule.items_at(&[member]).is_empty();
    if none("resourceRules") && none("nonResourceRules") {
        errors.required(
            path,
            "at least one of resourceRules and nonResourceRules has to be non-empty",
        );
    }
    each(rule, "resourceRules", path, errors, |it, at, errors| {
        verbs(it, at, errors);
        for (member, what) in [("apiGroups", "api group"), ("resources", "resource")] {
            some_or_all(
                it,
                member,
                &format!("resource rules must supply at least one {what}"),
                at,
                errors,
            );
        }
        let list = it.items_at(&["namespaces"]);
        if list.is_empty() && !it.bool_at(&["clusterScope"]) {
            let detail =
                "resource rules that are not cluster scoped must supply at least one namespace";
            errors.required(&at.child("namespaces"), detail);
        }
        each(it, "namespaces", at, errors, |namespace, at, errors| {
            let name = namespace.as_str().unwrap_or_default();
            if name != "*" {
                let problems = validation::dns1123_label(name).into_iter().map(|problem| {
                    format!("each member of this list must be '*' or a DNS-1123 label; {problem}")
                });
                errors.invalid_all(at, name, problems);
            }
        });
    });
    each(rule, "nonResourceRules", path, errors, |it, at, errors| {
        verbs(it, at, errors);
        urls(it, at, errors);
    });
}

fn some_or_all(of: &Value, member: &str, none: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = of.items_at(&[member]);
    let at = path.child(member);
    if list.is_empty() {
        errors.required(&at, none);
    } else if list.len() > 1 && list.iter().any(|it| it.as_str() == Some("*")) {
        let detail = "if '*' is present, must not specify other items";
        errors.invalid(&at, &of[member], detail);
    }
}

fn verbs(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("verbs");
    let list = rule.items_at(&["verbs"]);
    let known = |it: &Value| VERBS.contains(&it.as_str().unwrap_or_default());
    if list.is_empty() {
        errors.required(&at, "verbs must contain at least one value");
    } else if list.iter().any(|it| it.as_str() == Some("*")) {
        if list.len() > 1 {
            let detail = "if '*' is present, must not specify other verbs";
            errors.invalid(&at, &rule["verbs"], detail);
        }
    } else if !list.iter().all(known) {
        errors.not_supported(&at, &rule["verbs"], VERBS.iter().copied());
    }
}

fn urls(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = rule.items_at(&["nonResourceURLs"]);
    let at = path.child("nonResourceURLs");
    if list.is_empty() {
        errors.required(&at, "nonResourceURLs must contain at least one value");
    } else if list.iter().any(|it| it.as_str() == Some("*")) {
        if list.len() > 1 {
            let detail = "if '*' is present, must not specify other non-resource URLs";
            errors.invalid(&at, &rule["nonResourceURLs"], detail);
        }
        return;
    }
    each(rule, "nonResourceURLs", path, errors, |it, at, errors| {
        let url = it.as_str().unwrap_or_default();
        if !url.starts_with('/') {
            errors.invalid_text(at, url, "must start with slash");
        }
        if url.contains(' ') {
            errors.invalid_text(at, url, "must not contain white-space");
        }
        if url.contains("//") {
            errors.invalid_text(at, url, "must not contain double slash");
        }
        if url.strip_suffix("/*").unwrap_or(url).contains('*') {
            errors.invalid_text(at, url, "wildcard can only do suffix matching");
        }
    });
}

fn subject(subject: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = subject.str_at(&["kind"]);
    let member = match kind {
        "ServiceAccount" => "serviceAccount",
        "User" => "user",
        "Group" => "group",
        _ => {
            check::one_of(subject, "kind", &["Group", "ServiceAccount", "User"], path, errors);
            return;
        }
    };
    for (other, of) in [("serviceAccount", "ServiceAccount"), ("user", "User"), ("group", "Group")]
    {
        if other != member && subject.get(other).is_some() {
            let detail = format!("{other} is forbidden when subject kind is not '{of}'");
            errors.forbidden(&path.child(other), &detail);
        }
    }
    let at = path.child(member);
    let Some(it) = subject.get(member) else {
        errors.required(&at, &format!("{member} is required when subject kind is '{kind}'"));
        return;
    };
    check::required_text(it, "name", &at, errors);
    if member == "serviceAccount" {
        let name = it.str_at(&["name"]);
        if !matches!(name, "" | "*") {
            errors.invalid_all(&at.child("name"), name, validation::dns1123_subdomain(name));
        }
        check::required_name(it, "namespace", validation::dns1123_label, &at, errors);
    }
}

fn schema_row(schema: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &schema["spec"];
    let method = spec.at(&["distinguisherMethod", "type"]).and_then(Value::as_str);
    let method = method.unwrap_or("<none>");
    let dangling = schema.items_at(&["status", "conditions"]).iter();
    let dangling = dangling.filter(|it| it.str_at(&["type"]) == "Dangling");
    let missing = dangling.map(|it| it.str_at(&["status"])).next().unwrap_or("?");
    vec![
        schema.str_at(&["metadata", "name"]).into(),
        spec.str_at(&["priorityLevelConfiguration", "name"]).into(),
        spec.i64_at(&["matchingPrecedence"]).unwrap_or_default().into(),
        method.into(),
        table::created(schema, now),
        missing.into(),
    ]
}

pub(super) fn priority_level() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "prioritylevelconfigurations",
        default: level_defaults,
        validate: validate_level,
        prepare_status: status::keep_metadata,
        validate_status: |it, _, errors| {
            status::typed_conditions(&it["status"], &Path::new("status"), errors);
        },
        metadata_checks: MetadataChecks::New,
        row: level_row,
        ..Declaration::SPEC_AND_STATUS
    }
}

fn level_defaults(level: &mut Value) {
    if let Some(limited) = level.at_mut(&["spec", "limited"]) {
        limited.default_at(&["nominalConcurrencyShares"], SHARES_DEFAULT);
        limited.default_at(&["lendablePercent"], 0);
        if let Some(queuing) = limited.at_mut(&["limitResponse", "queuing"]) {
            for (member, number) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                if queuing.i64_at(&[member]).unwrap_or_default() == 0 {
                    queuing.set_at(&[member], number);
                }
            }
        }
    }
    if let Some(exempt) = level.at_mut(&["spec", "exempt"]) {
        exempt.default_at(&["nominalConcurrencyShares"], 0);
        exempt.default_at(&["lendablePercent"], 0);
    }
}

fn validate_level(level: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let (spec, name) = (&level["spec"], level.str_at(&["metadata", "name"]));
    let kind = spec.str_at(&["type"]);
    check::one_of(spec, "type", &["Exempt", "Limited"], &path, errors);
    if MANDATORY.contains(&name) && ((name == "exempt") != (kind == "Exempt")) {
        let at = path.child("type");
        let wanted = if name == "exempt" { "Exempt" } else { "Limited" };
        let detail = format!("must be '{wanted}' for the mandatory priority level '{name}'");
        errors.invalid_text(&at, kind, &detail);
    }
    let other = if kind == "Exempt" { "limited" } else { "exempt" };
    if matches!(kind, "Exempt" | "Limited") && spec.get(other).is_some() {
        let shown = if kind == "Exempt" { "Exempt" } else { "Limited" };
        let detail = format!("must be nil if the type is {shown}");
        errors.forbidden(&path.child(other), &detail);
    }
    if kind != "Limited" {
        return;
    }
    match spec.get("limited") {
        None => {
            errors.required(&path.child("limited"), "must not be empty when type is Limited");
        }
        Some(it) => limited(it, &path.child("limited"), errors),
    }
}

fn limited(limited: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let shares = limited.i64_at(&["nominalConcurrencyShares"]).unwrap_or_default();
    if shares < 0 {
        let detail = "must be a non-negative integer";
        errors.invalid(&path.child("nominalConcurrencyShares"), &shares.into(), detail);
    }
    let lendable = limited.i64_at(&["lendablePercent"]).unwrap_or_default();
    if !(0..=100).contains(&lendable) {
        let detail = "must be between 0 and 100, inclusive";
        errors.invalid(&path.child("lendablePercent"), &lendable.into(), detail);
    }
    if let Some(percent) = limited.i64_at(&["borrowingLimitPercent"]).filter(|it| *it < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid(&path.child("borrowingLimitPercent"), &percent.into(), detail);
    }
    let (response, at) = (&limited["limitResponse"], path.child("limitResponse"));
    let queuing = at.child("queuing");
    match (response.str_at(&["type"]), response.get("queuing")) {
        ("Reject", Some(_)) => {
            errors.forbidden(&queuing, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Reject", None) => {}
        ("Queue", None) => {
            errors.required(&queuing, "must not be empty if limited.limitResponse.type is Limited");
        }
        ("Queue", Some(it)) => queues(it, &queuing, errors),
        _ => check::one_of(response, "type", &["Queue", "Reject"], &at, errors),
    }
}

fn queues(queuing: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let number = |member| queuing.i64_at(&[member]).unwrap_or_default();
    let mut positive = |member: &str, number: i64| {
        if number <= 0 {
            errors.invalid(&path.child(member), &number.into(), "must be positive");
        }
    };
    positive("queueLengthLimit", number("queueLengthLimit"));
    positive("queues", number("queues"));
    positive("handSize", number("handSize"));
    let (queues, hand) = (number("queues"), number("handSize"));
    if queues > QUEUES_MAX {
        let detail = format!("must not be greater than {QUEUES_MAX}");
        errors.invalid(&path.child("queues"), &queues.into(), &detail);
    }
    if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        errors.invalid(&path.child("handSize"), &hand.into(), &detail);
    }
}

fn level_row(level: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &level["spec"];
    let number =
        |path: &[&str]| -> Value { spec.i64_at(path).map_or("<none>".into(), Value::from) };
    let exempt = spec.str_at(&["type"]) == "Exempt";
    let shares = if exempt {
        number(&["exempt", "nominalConcurrencyShares"])
    } else {
        number(&["limited", "nominalConcurrencyShares"])
    };
    let queuing = |member| number(&["limited", "limitResponse", "queuing", member]);
    vec![
        level.str_at(&["metadata", "name"]).into(),
        spec.str_at(&["type"]).into(),
        shares,
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        table::created(level, now),
    ]
}
