//! The devices of a ResourceSlice: what they have, what they use up, and which nodes reach them.

use apimachinery::{FieldErrors, Object, Path, Value, validation};

use crate::check;
use crate::go::{self, Field};
use crate::pod_spec::scheduling;
use crate::rules::{self, each};

const PLACES: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
const MISPLACED: &str = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
const BOTH_POLICIES: &str = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
const ONE_VALUE: &str = "exactly one value must be specified";
/// How many attributes and capacities a device may have.
const QUALITIES_MAX: usize = 32;
/// How many taints a device may have.
const TAINTS_MAX: usize = 16;
/// The longest value of an attribute, in bytes.
const VALUE_MAX: usize = 64;

/// The values that an attribute can have, of which it has one.
const VALUES: [&str; 4] = ["int", "bool", "string", "version"];

/// Checks what a device is and has.
pub(super) fn validate(device: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let count = members(device, "attributes").count() + members(device, "capacity").count();
    if count > QUALITIES_MAX {
        let detail = format!(
            "the total number of attributes and capacities must not exceed {QUALITIES_MAX}"
        );
        errors.invalid(path, &Value::from(i64::try_from(count).unwrap_or_default()), &detail);
    }
    let at = path.child("attributes");
    for (name, value) in members(device, "attributes") {
        attribute(value, &at.key(name), errors);
    }
    let shared = device.bool_at(&["allowMultipleAllocations"]);
    let at = path.child("capacity");
    for (name, value) in members(device, "capacity") {
        capacity(value, shared, &at.key(name), errors);
    }
    let taints = device.items_at(&["taints"]).len();
    if taints > TAINTS_MAX {
        errors.too_many(&path.child("taints"), taints, TAINTS_MAX);
    }
    each(device, "taints", path, errors, |taint, at, errors| {
        check::required_name(taint, "key", validation::qualified_name, at, errors);
        check::optional_name(taint, "value", validation::label_value, at, errors);
        let effects = ["NoExecute", "NoSchedule", "None"];
        rules::required_one_of(taint, "effect", &effects, at, errors);
    });
    each(device, "consumesCounters", path, errors, |used, at, errors| {
        check::required_name(used, "counterSet", validation::dns1123_label, at, errors);
        counters(used, at, errors);
    });
}

fn members<'v>(of: &'v Value, name: &str) -> impl Iterator<Item = (&'v str, &'v Value)> {
    of.get(name).and_then(Value::as_object).into_iter().flat_map(Object::iter)
}

fn attribute(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["string", "version"] {
        if value.str_at(&[member]).len() > VALUE_MAX {
            errors.too_long(&path.child(member), VALUE_MAX);
        }
    }
    if let Some(version) = value.get("version").and_then(Value::as_str)
        && !is_semantic_version(version)
    {
        let detail = "must be a string compatible with semver.org spec 2.0.0";
        errors.invalid_text(&path.child("version"), version, detail);
    }
    match VALUES.iter().filter(|it| value.get(it).is_some()).count() {
        0 => errors.required(path, ONE_VALUE),
        1 => {}
        _ => check::invalid_shown(path, &go::compact(value, ATTRIBUTE), ONE_VALUE, errors),
    }
}

const ATTRIBUTE: &[Field] = go::DEVICE_ATTRIBUTE;

/// `1.2.3`, with a part after `-` and one after `+` where they are given.
fn is_semantic_version(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    let (core, before) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
    let number =
        |it: &str| it == "0" || !it.starts_with('0') && it.bytes().all(|b| b.is_ascii_digit());
    let word =
        |it: &str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let numbers: Vec<&str> = core.split('.').collect();
    let identifier = |it: &str| word(it) && (!it.bytes().all(|b| b.is_ascii_digit()) || number(it));
    numbers.len() == 3
        && numbers.iter().all(|it| !it.is_empty() && number(it))
        && before.is_none_or(|it| it.split('.').all(identifier))
        && build.is_none_or(|it| it.split('.').all(word))
}

fn capacity(capacity: &Value, shared: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(policy) = capacity.get("requestPolicy") else { return };
    let at = path.child("requestPolicy");
    if !shared {
        errors.forbidden(&at, "allowMultipleAllocations must be true");
    } else if !policy.items_at(&["validValues"]).is_empty() && policy.get("validRange").is_some() {
        errors.forbidden(&at, BOTH_POLICIES);
    }
}

/// Counters by name, at least one.
pub(super) fn counters(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("counters");
    if members(of, "counters").next().is_none() {
        errors.required(&at, "");
    }
    for (name, _) in members(of, "counters") {
        errors.invalid_all(&at, name, validation::dns1123_label(name));
    }
}

/// Which nodes reach a device: said of each device, or of none.
pub(super) fn place(device: &Value, per_device: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let given = ["nodeName", "nodeSelector", "allNodes"].map(|it| device.get(it));
    if !per_device {
        if given.iter().any(Option::is_some) {
            errors.invalid(path, &Value::Null, MISPLACED);
        }
        return;
    }
    let mut set = Vec::new();
    let [name, selector, all] = given;
    if let Some(name) = name.and_then(Value::as_str) {
        let at = path.child("nodeName");
        if name.is_empty() {
            errors.invalid_text(&at, name, "must not be empty");
        } else {
            set.push("`nodeName`");
            errors.invalid_all(&at, name, validation::dns1123_subdomain(name));
        }
    }
    if let Some(selector) = selector {
        set.push("`nodeSelector`");
        scheduling::node_selector(selector, &path.child("nodeSelector"), errors);
    }
    match all.and_then(Value::as_bool) {
        Some(true) => set.push("`allNodes`"),
        Some(false) => {
            let detail = "must be either unset or set to true";
            errors.invalid(&path.child("allNodes"), &false.into(), detail);
        }
        None => {}
    }
    match set.len() {
        0 => errors.required(path, PLACES),
        1 => {}
        _ => errors.invalid_text(path, &format!("{{{}}}", set.join(", ")), PLACES),
    }
}

#[cfg(test)]
mod tests {
    use super::is_semantic_version;

    #[test]
    fn versions_are_those_of_semver() {
        for good in ["1.2.3", "0.0.0", "1.2.3-a.1", "1.2.3+5.a", "1.0.0-0a.b-c+x"] {
            assert!(is_semantic_version(good), "{good}");
        }
        for bad in ["1.2", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "v1.2.3", "", "1.2.x"] {
            assert!(!is_semantic_version(bad), "{bad}");
        }
    }
}
