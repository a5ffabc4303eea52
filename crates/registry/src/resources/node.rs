//! Node.

use apimachinery::{FieldErrors, Path, Value, validation};
use compact_str::CompactString;
use jiff::Timestamp;

use super::node_config;
use crate::check;
use crate::declaration::{Declaration, FieldLabel};
use crate::pod_spec::defaults::resource_list;
use crate::rules::{self, each};
use crate::{Rules, table};

const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
/// The longest name of a feature, in characters.
const FEATURE_MAX: usize = 253;

/// The selectable fields.
const FIELDS: &[FieldLabel] = &[FieldLabel::new("spec.unschedulable", |it| {
    CompactString::const_new(if it.bool_at(&["spec", "unschedulable"]) { "true" } else { "false" })
})];

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "nodes",
        prefix: "minions",
        default: |it| {
            if let Some(spec) = it.at_mut(&["spec"]) {
                rules::first_of(spec, "podCIDR", "podCIDRs", None);
            }
            if let Some(all) = it.at(&["status", "capacity"]).cloned() {
                it.default_at(&["status", "allocatable"], all);
            }
            for member in ["capacity", "allocatable"] {
                resource_list(it.at_mut(&["status", member]));
            }
        },
        validate,
        validate_update,
        validate_status: validate_update,
        fields: FIELDS,
        row,
        created_with_status: true,
        rules: Rules { has_status: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn validate(node: &Value, errors: &mut FieldErrors) {
    let (metadata, spec) = (Path::new("metadata"), Path::new("spec"));
    // Upstream names taints as if they stood in metadata.
    taints(&node["spec"], &metadata, errors);
    resources(node, errors);
    let swap = node.i64_at(&["status", "nodeInfo", "swap", "capacity"]);
    if let Some(swap) = swap.filter(|it| *it <= 0) {
        let at = metadata.child("nodeSwapStatus");
        errors.invalid(&at.child("capacity"), &swap.into(), "must be greater than 0");
    }
    features(node, errors);
    pod_cidrs(&node["spec"], &spec, errors);
}

fn resources(node: &Value, errors: &mut FieldErrors) {
    let status = Path::new("status");
    for member in ["capacity", "allocatable"] {
        let at = status.child(member);
        for (name, text) in rules::quantities(&node["status"], member) {
            rules::amount(name, text, &at.child(name), errors);
        }
    }
}

/// Features that a node says it has: in order, each once.
fn features(node: &Value, errors: &mut FieldErrors) {
    let status = Path::new("status");
    let mut before: Option<String> = None;
    each(&node["status"], "declaredFeatures", &status, errors, |feature, at, errors| {
        let name = feature.as_str().unwrap_or_default();
        match &before {
            Some(before) if before == name => errors.duplicate(at, feature),
            Some(before) if before.as_str() > name => {
                errors.invalid(at, feature, "list must be sorted alphabetically");
            }
            _ => {}
        }
        before = Some(name.to_owned());
        let detail = if name.len() > FEATURE_MAX {
            format!("must be no more than {FEATURE_MAX} characters")
        } else if is_feature(name) {
            return;
        } else {
            "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes".to_owned()
        };
        errors.invalid_text(at, name, &format!("invalid feature name {name:?}: {detail}"));
    });
}

fn is_feature(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name
            .split('/')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

fn taints(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<(String, String)> = Vec::new();
    each(spec, "taints", path, errors, |taint, at, errors| {
        let (key, text) = (taint.str_at(&["key"]), taint.str_at(&["value"]));
        errors.invalid_all(&at.child("key"), key, validation::qualified_name(key));
        let problems = validation::label_value(text);
        if !problems.is_empty() {
            errors.invalid_text(&at.child("value"), text, &problems.join(";"));
        }
        rules::required_one_of(taint, "effect", TAINT_EFFECTS, at, errors);
        let pair = (key.to_owned(), taint.str_at(&["effect"]).to_owned());
        if seen.contains(&pair) {
            let shown = check::go_struct(taint, &[("Key", "key"), ("Value", "value")]);
            errors.push(apimachinery::field::FieldError {
                kind: apimachinery::field::ErrorType::Duplicate,
                field: at.to_string(),
                body: format!(
                    "Duplicate value: {shown}: taints must be unique by key and effect pair"
                ),
            });
        }
        seen.push(pair);
    });
}

/// The networks of a node; the single one of older clients comes first.
fn networks(spec: &Value) -> Vec<&str> {
    let all: Vec<&str> = spec.items_at(&["podCIDRs"]).iter().filter_map(Value::as_str).collect();
    match spec.str_at(&["podCIDR"]) {
        "" => all,
        one if all.first() == Some(&one) => all,
        one => vec![one],
    }
}

fn pod_cidrs(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("podCIDRs");
    let all = networks(spec);
    for (index, cidr) in all.iter().enumerate() {
        errors.invalid_all(&at.index(index), cidr, rules::network(cidr));
    }
    let is_v6 = |cidr: &str| validation::parse_cidr(cidr).is_some_and(|(ip, _)| ip.is_ipv6());
    let one_family = all.len() == 2 && is_v6(all[0]) == is_v6(all[1]);
    if all.len() > 2 || one_family {
        let shown: Value = all.iter().copied().collect();
        errors.invalid(&at, &shown, "may specify no more than one CIDR for each IP family");
    }
}

/// What is wrong with a change, of the node or of its status.
fn validate_update(node: &Value, old: &Value, errors: &mut FieldErrors) {
    let (metadata, path) = (Path::new("metadata"), Path::new("spec"));
    resources(node, errors);
    features(node, errors);
    addresses(node, errors);
    let (spec, before) = (&node["spec"], &old["spec"]);
    let (now, then) = (networks(spec), networks(before));
    let changes = match now.len() == then.len() {
        true => now.iter().zip(&then).filter(|(now, then)| now != then).count(),
        false => 1,
    };
    for _ in 0..changes.min(then.len()) {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.forbidden(&path.child("podCIDRs"), detail);
    }
    let provider = before.str_at(&["providerID"]);
    if !provider.is_empty() && spec.str_at(&["providerID"]) != provider {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden(&path.child("providerID"), detail);
    }
    if let Some(source) = spec.get("configSource") {
        node_config::source(source, node_config::In::Spec, &path.child("configSource"), errors);
    }
    if let Some(config) = node.at(&["status", "config"]) {
        let status = Path::new("status");
        node_config::status(config, &status.child("config"), errors);
    }
    taints(spec, &metadata, errors);
    if spec.str_at(&["externalID"]) != before.str_at(&["externalID"]) {
        errors.forbidden(&path.child("externalID"), "may not be updated");
    }
}

/// Addresses, each once.
fn addresses(node: &Value, errors: &mut FieldErrors) {
    let status = Path::new("status");
    let mut seen: Vec<Value> = Vec::new();
    each(&node["status"], "addresses", &status, errors, |address, at, errors| {
        if seen.contains(address) {
            let shown = check::go_struct(address, &[("Type", "type"), ("Address", "address")]);
            check::duplicate_shown(at, &shown, errors);
        }
        seen.push(address.clone());
    });
}

fn row(node: &Value, now: Timestamp) -> Vec<Value> {
    let or = |text: &str, otherwise: &str| -> Value {
        if text.is_empty() { otherwise.into() } else { text.into() }
    };
    let info = |member: &str| node.str_at(&["status", "nodeInfo", member]);
    let address = |kind: &str| {
        let list = node.items_at(&["status", "addresses"]).iter();
        let found =
            list.filter(|it| it.str_at(&["type"]) == kind).map(|it| it.str_at(&["address"]));
        found.into_iter().next().unwrap_or_default()
    };
    vec![
        node.str_at(&["metadata", "name"]).into(),
        state(node).into(),
        or(&roles(node), "<none>"),
        table::created(node, now),
        info("kubeletVersion").into(),
        or(address("InternalIP"), "<none>"),
        or(address("ExternalIP"), "<none>"),
        or(info("osImage"), "<unknown>"),
        or(info("kernelVersion"), "<unknown>"),
        or(info("containerRuntimeVersion"), "<unknown>"),
    ]
}

fn state(node: &Value) -> String {
    let ready = node.items_at(&["status", "conditions"]).iter();
    let ready = ready.filter(|it| it.str_at(&["type"]) == "Ready").map(|it| it.str_at(&["status"]));
    let mut words = vec![match ready.into_iter().next() {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if node.bool_at(&["spec", "unschedulable"]) {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(node: &Value) -> String {
    let labels = node.at(&["metadata", "labels"]).and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flat_map(apimachinery::Object::iter)
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles.join(",")
}
