//! StorageClass.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use crate::declaration::Declaration;
use crate::rules;
use crate::{Rules, check, table};

/// How many parameters a class may have, and how long they may be together, in bytes.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 * 1024;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "storage.k8s.io",
        resource: "storageclasses",
        warnings: |it, _| {
            let mut found = Vec::new();
            for (index, term) in it.items_at(&["allowedTopologies"]).iter().enumerate() {
                let all = term.items_at(&["matchLabelExpressions"]).iter().enumerate();
                for (place, expression) in all {
                    let key = expression.str_at(&["key"]);
                    if let Some(said) = crate::pod_spec::warnings::of_label(key) {
                        let at =
                            format!("allowedTopologies[{index}].matchLabelExpressions[{place}]");
                        found.push(format!("{at}: {said}"));
                    }
                }
            }
            found
        },
        default: |it| {
            it.default_at(&["reclaimPolicy"], "Delete");
            it.default_at(&["volumeBindingMode"], "Immediate");
        },
        validate,
        validate_update,
        row,
        rules: Rules { returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn validate(class: &Value, errors: &mut FieldErrors) {
    let root = Path::new("");
    let provisioner = class.str_at(&["provisioner"]);
    if check::required_text(class, "provisioner", &root, errors) {
        let lower = provisioner.to_lowercase();
        errors.invalid_all(&root.child("provisioner"), &lower, rules::driver_name(provisioner));
    }
    parameters(class, "parameters", false, &root, errors);
    let policies = ["Delete", "Retain"];
    check::optional_one_of(class, "reclaimPolicy", &policies, &root, errors);
    let modes = ["Immediate", "WaitForFirstConsumer"];
    if class.get("volumeBindingMode").is_none() {
        errors.required(&root.child("volumeBindingMode"), "");
    } else {
        check::one_of(class, "volumeBindingMode", &modes, &root, errors);
    }
    topologies(class, &root, errors);
}

/// Parameters for a driver: what the cluster does not read, within limits.
pub(super) fn parameters(
    of: &Value,
    member: &str,
    needed: bool,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let at = path.child(member);
    let entries: Vec<(&str, &str)> = rules::quantities(of, member).collect();
    if needed && entries.is_empty() {
        errors.required(&at, "must contain at least one key/value pair");
        return;
    }
    if entries.len() > PARAMETERS_MAX {
        errors.too_long(&at, PARAMETERS_MAX);
        return;
    }
    let mut bytes = 0;
    for (key, value) in entries {
        if key.is_empty() {
            errors.invalid_text(&at, key, "field can not be empty.");
        }
        bytes += key.len() + value.len();
    }
    if bytes > PARAMETERS_BYTES_MAX {
        errors.too_long(&at, PARAMETERS_BYTES_MAX);
    }
}

/// Upstream: `validateAllowedTopologies`. A term that says nothing counts as one that was there before, once for each term.
fn topologies(class: &Value, root: &Path<'_>, errors: &mut FieldErrors) {
    let terms = class.items_at(&["allowedTopologies"]).len();
    let mut earlier: Vec<Term<'_>> = vec![Term::new(); terms];
    let list = root.child("allowedTopologies");
    for (index, term) in class.items_at(&["allowedTopologies"]).iter().enumerate() {
        let at = list.index(index);
        let found = topology(term, &at, errors);
        for _ in earlier.iter().filter(|it| **it == found) {
            errors.duplicate(&at.child("matchLabelExpressions"), &"".into());
        }
        earlier.push(found);
    }
}

/// The values of each key.
type Term<'v> = BTreeMap<&'v str, BTreeSet<&'v str>>;

fn topology<'v>(term: &'v Value, path: &Path<'_>, errors: &mut FieldErrors) -> Term<'v> {
    let mut found = Term::new();
    let list = path.child("matchLabelExpressions");
    for (index, expression) in term.items_at(&["matchLabelExpressions"]).iter().enumerate() {
        let at = list.index(index);
        let (key, values) = (expression.str_at(&["key"]), at.child("values"));
        let texts = expression.items_at(&["values"]);
        if texts.is_empty() {
            errors.required(&values, "");
        }
        let mut set = BTreeSet::new();
        for (index, text) in texts.iter().filter_map(Value::as_str).enumerate() {
            if !set.insert(text) {
                errors.duplicate(&values.index(index), &text.into());
            }
        }
        let problems = apimachinery::validation::qualified_name(key);
        errors.invalid_all(&at.child("key"), key, problems);
        if found.insert(key, set).is_some() {
            errors.duplicate(&at.child("key"), &key.into());
        }
    }
    found
}

fn validate_update(class: &Value, old: &Value, errors: &mut FieldErrors) {
    let root = Path::new("");
    if class.get("parameters") != old.get("parameters") {
        errors.forbidden(&root.child("parameters"), "updates to parameters are forbidden.");
    }
    rules::immutable(class, old, "provisioner", &root, errors);
    if class.get("reclaimPolicy") != old.get("reclaimPolicy") {
        errors.forbidden(&root.child("reclaimPolicy"), "updates to reclaimPolicy are forbidden.");
    }
    rules::immutable(class, old, "volumeBindingMode", &root, errors);
}

fn row(class: &Value, now: Timestamp) -> Vec<Value> {
    let name = class.str_at(&["metadata", "name"]);
    let annotation = |key: &str| class.str_at(&["metadata", "annotations", key]) == "true";
    let default = annotation("storageclass.kubernetes.io/is-default-class")
        || annotation("storageclass.beta.kubernetes.io/is-default-class");
    let name = if default { format!("{name} (default)") } else { name.to_owned() };
    let or = |member, otherwise: &str| -> Value {
        class.get(member).and_then(Value::as_str).unwrap_or(otherwise).into()
    };
    vec![
        name.into(),
        class.str_at(&["provisioner"]).into(),
        or("reclaimPolicy", "Delete"),
        or("volumeBindingMode", "Immediate"),
        class.bool_at(&["allowVolumeExpansion"]).into(),
        table::created(class, now),
    ]
}
