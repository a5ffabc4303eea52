//! What a claim of devices was given, who uses it, and how the devices are (upstream: `ValidateResourceClaimStatusUpdate`).

use apimachinery::{FieldErrors, Path, Value, validation};

use super::{devices, resourceslice};
use crate::pod_spec::scheduling;
use crate::rules::each;
use crate::{check, go, status};

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONFIGURATIONS_MAX: usize = 64;
const REQUESTS_MAX: usize = 32;
const BINDING_CONDITIONS_MAX: usize = 4;
const DEVICE_CONDITIONS_MAX: usize = 8;
const DATA_MAX: usize = 10 * 1024;
const INTERFACE_NAME_MAX: usize = 256;
const HARDWARE_ADDRESS_MAX: usize = 128;
const IPS_MAX: usize = 16;

/// Devices that are given back have nothing to tell any more.
pub(super) fn prepare(claim: &mut Value, old: &Value) {
    status::keep_metadata(claim, old);
    let now = allocated(claim);
    let gone: Vec<Id> = allocated(old).into_iter().filter(|it| !now.contains(it)).collect();
    if gone.is_empty() {
        return;
    }
    let all = claim.items_at(&["status", "devices"]).iter();
    let left: Vec<Value> = all.filter(|it| !gone.contains(&Id::of(it))).cloned().collect();
    if left.is_empty() {
        claim.remove_at(&["status", "devices"]);
    } else {
        claim.set_at(&["status", "devices"], left);
    }
}

/// Which device, or which share of one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Id([String; 4]);

impl Id {
    fn of(device: &Value) -> Self {
        Self(["driver", "pool", "device", "shareID"].map(|it| device.str_at(&[it]).to_owned()))
    }

    fn shown(&self) -> Value {
        let parts: Vec<&str> = self.0.iter().map(String::as_str).collect();
        parts.join("/").trim_end_matches('/').into()
    }
}

fn allocated(claim: &Value) -> Vec<Id> {
    let results = claim.items_at(&["status", "allocation", "devices", "results"]);
    results.iter().map(Id::of).collect()
}

/// Checks a change of status.
pub(super) fn validate(claim: &Value, old: &Value, errors: &mut FieldErrors) {
    let (path, status) = (Path::new("status"), &claim["status"]);
    reserved(status, &path, errors);
    let known = allocated(claim);
    let mut seen: Vec<Id> = Vec::new();
    each(status, "devices", &path, errors, |it, at, errors| device(it, &known, at, errors));
    each(status, "devices", &path, errors, |device, at, errors| {
        let id = Id::of(device);
        if seen.contains(&id) {
            errors.duplicate(at, &id.shown());
        }
        seen.push(id);
    });
    let (now, before) = (status.get("allocation"), old.at(&["status", "allocation"]));
    reservations(claim, old, &path.child("reservedFor"), errors);
    let at = path.child("allocation");
    match (now, before) {
        (Some(now), Some(before)) if now != before => {
            let shown = go::compact(now, go::ALLOCATION);
            check::invalid_shown(&at, &shown, "field is immutable", errors);
        }
        (Some(now), None) => {
            let names = devices::request_names(&claim["spec"]["devices"]);
            allocation(now, &names, &at, errors);
        }
        _ => {}
    }
}

/// Who uses the claim: each once.
fn reserved(status: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let count = status.items_at(&["reservedFor"]).len();
    if count > RESERVED_MAX {
        errors.too_many(&path.child("reservedFor"), count, RESERVED_MAX);
        return;
    }
    each(status, "reservedFor", path, errors, |it, at, errors| {
        for member in ["resource", "name", "uid"] {
            check::required_text(it, member, at, errors);
        }
    });
    unique(status, "reservedFor", |it| it["uid"].clone(), path, errors);
}

fn unique(
    of: &Value,
    member: &str,
    key: impl Fn(&Value) -> Value,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let mut seen: Vec<Value> = Vec::new();
    each(of, member, path, errors, |item, at, errors| {
        let key = key(item);
        if seen.contains(&key) {
            errors.duplicate(at, &key);
        }
        seen.push(key);
    });
}

/// A claim is used once it has devices, and by nobody new once it is to go.
fn reservations(claim: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (now, before) =
        (claim.items_at(&["status", "reservedFor"]), old.items_at(&["status", "reservedFor"]));
    if now.is_empty() {
        return;
    }
    if claim.at(&["status", "allocation"]).is_none() {
        errors.forbidden(path, "may not be specified when `allocated` is not set");
    } else if claim.at(&["metadata", "deletionTimestamp"]).is_some()
        && now.iter().any(|it| !before.contains(it))
    {
        let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(path, detail);
    }
}

fn allocation(allocation: &Value, names: &[String], path: &Path<'_>, errors: &mut FieldErrors) {
    let (given, at) = (&allocation["devices"], path.child("devices"));
    if short(given, "results", RESULTS_MAX, &at, errors) {
        each(given, "results", &at, errors, |it, at, errors| result(it, names, at, errors));
    }
    if short(given, "config", CONFIGURATIONS_MAX, &at, errors) {
        each(given, "config", &at, errors, |it, at, errors| {
            if check::required_text(it, "source", at, errors) {
                check::one_of(it, "source", &["FromClaim", "FromClass"], at, errors);
            }
            if short(it, "requests", REQUESTS_MAX, at, errors) {
                devices::named_requests(it, names, at, errors);
                unique(it, "requests", Value::clone, at, errors);
            }
            devices::configuration(it, at, errors);
        });
    }
    if let Some(selector) = allocation.get("nodeSelector") {
        scheduling::node_selector(selector, &path.child("nodeSelector"), errors);
    }
}

/// Whether a list is no longer than it may be; one that is is not looked at.
fn short(
    of: &Value,
    member: &str,
    limit: usize,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) -> bool {
    let count = of.items_at(&[member]).len();
    if count > limit {
        errors.too_many(&path.child(member), count, limit);
    }
    count <= limit
}

/// A device that a request was given.
fn result(result: &Value, names: &[String], path: &Path<'_>, errors: &mut FieldErrors) {
    devices::request_reference(result.str_at(&["request"]), names, &path.child("request"), errors);
    place(result, path, errors);
    for member in ["bindingConditions", "bindingFailureConditions"] {
        if short(result, member, BINDING_CONDITIONS_MAX, path, errors) {
            crate::rules::each_text(result, member, validation::qualified_name, path, errors);
        }
    }
    unique(result, "bindingConditions", Value::clone, path, errors);
    let wanted = result.items_at(&["bindingConditions"]);
    let mut seen: Vec<&Value> = Vec::new();
    let list = path.child("bindingFailureConditions");
    let failures = result.items_at(&["bindingFailureConditions"]);
    for (index, condition) in failures.iter().enumerate() {
        let at = list.index(index);
        if seen.contains(&condition) {
            errors.duplicate(&at, condition);
        }
        seen.push(condition);
        if wanted.contains(condition) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.invalid(&at, condition, detail);
        }
    }
    for (has, lacks, other) in [
        (failures, wanted, ["bindingConditions", "bindingFailureConditions"]),
        (wanted, failures, ["bindingFailureConditions", "bindingConditions"]),
    ] {
        if !has.is_empty() && lacks.is_empty() {
            let detail = format!("{} are required to use {}", other[0], other[1]);
            errors.invalid(&path.child(other[0]), &result[other[0]], &detail);
        }
    }
    share(result, path, errors);
}

/// Where a device is.
fn place(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    devices::driver(of, path, errors);
    resourceslice::pool_name(of, "pool", path, errors);
    let device = of.str_at(&["device"]);
    errors.invalid_all(&path.child("device"), device, validation::dns1123_label(device));
}

fn share(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(uid) = of.get("shareID").and_then(Value::as_str)
        && !validation::is_uid(uid)
    {
        let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
        errors.invalid_text(&path.child("shareID"), uid, detail);
    }
}

/// How a device is.
fn device(device: &Value, known: &[Id], path: &Path<'_>, errors: &mut FieldErrors) {
    place(device, path, errors);
    share(device, path, errors);
    let id = Id::of(device);
    if !known.contains(&id) {
        errors.invalid(path, &id.shown(), "must be an allocated device in the claim");
    }
    short(device, "conditions", DEVICE_CONDITIONS_MAX, path, errors);
    status::conditions(device, path, errors);
    if let Some(data) = device.get("data") {
        let at = path.child("data");
        if apimachinery::json::to_string(data).len() > DATA_MAX {
            errors.too_long(&at, DATA_MAX);
        } else if data.as_object().is_none() {
            errors.invalid_text(&at, "<value omitted>", "must be a valid JSON object");
        }
    }
    let (network, at) = (&device["networkData"], path.child("networkData"));
    let limits = [("interfaceName", INTERFACE_NAME_MAX), ("hardwareAddress", HARDWARE_ADDRESS_MAX)];
    for (member, limit) in limits {
        if network.str_at(&[member]).len() > limit {
            errors.too_long(&at.child(member), limit);
        }
    }
    if short(network, "ips", IPS_MAX, &at, errors) {
        crate::rules::each_text(network, "ips", validation::interface_address, &at, errors);
        unique(network, "ips", Value::clone, &at, errors);
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::{json, value};

    use super::*;

    /// Checks what is told of a change of a claim's status.
    fn check(old: &str, new: &str, expected: &[&str]) {
        let read = |text: &str| json::parse(text.as_bytes()).unwrap();
        let claim = |status: &str| value!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {}}]}}, "status": (read(status))});
        let mut errors = FieldErrors::new();
        validate(&claim(new), &claim(old), &mut errors);
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, expected, "{old} to {new}");
    }

    const GIVEN: &str = r#"{"allocation":{"devices":{"results":[{"request":"r","driver":"d.example","pool":"p","device":"a"}]}}}"#;

    #[test]
    fn what_was_given_stays_and_is_used_once_it_is_there() {
        check("{}", GIVEN, &[]);
        check(GIVEN, "{}", &[]);
        check(
            "{}",
            r#"{"reservedFor":[{"resource":"pods","name":"p","uid":"1"},{"resource":"pods","name":"q","uid":"1"}]}"#,
            &[
                "status.reservedFor[1]: Duplicate value: \"1\"",
                "status.reservedFor: Forbidden: may not be specified when `allocated` is not set",
            ],
        );
        check(
            "{}",
            &GIVEN.replace("\"r\"", "\"x\"").replace("\"p\"", "\"\""),
            &[
                "status.allocation.devices.results[0].request: Invalid value: \"x\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                "status.allocation.devices.results[0].pool: Required value",
            ],
        );
        check(
            GIVEN,
            &GIVEN.replace("\"a\"", "\"b\""),
            &[
                "status.allocation: Invalid value: {\"Devices\":{\"Results\":[{\"Request\":\"r\",\"Driver\":\"d.example\",\"Pool\":\"p\",\"Device\":\"b\",\"AdminAccess\":null,\"Tolerations\":null,\"BindingConditions\":null,\"BindingFailureConditions\":null,\"ShareID\":null,\"ConsumedCapacity\":null}],\"Config\":null},\"NodeSelector\":null,\"AllocationTimestamp\":null}: field is immutable",
            ],
        );
    }

    #[test]
    fn devices_that_are_told_of_were_given() {
        let device = r#""devices":[{"driver":"d.example","pool":"p","device":"b","networkData":{"ips":["10.0.0.1"]}}]}"#;
        let told = GIVEN.strip_suffix('}').unwrap().to_owned() + "," + device;
        check(
            GIVEN,
            &told,
            &[
                "status.devices[0]: Invalid value: \"d.example/p/b\": must be an allocated device in the claim",
                "status.devices[0].networkData.ips[0]: Invalid value: \"10.0.0.1\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ],
        );
        let mut claim =
            value!({"status": {"devices": [{"driver": "d", "pool": "p", "device": "a"}]}});
        let old = value!({"status": {"allocation": {"devices": {"results": [{"driver": "d", "pool": "p", "device": "a"}]}}}});
        prepare(&mut claim, &old);
        assert!(claim.at(&["status", "devices"]).is_none());
    }
}
