//! ResourcePoolStatusRequest: a question about a driver's pools of devices, which a controller answers once.

use apimachinery::{FieldErrors, Path, Value};

use super::{devices, resourceslice};
use crate::declaration::Declaration;
use crate::status;
use crate::{Rules, check};

/// How many pools may be asked for.
const LIMIT_MAX: i64 = 1_000;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: devices::GROUP,
        version: "v1alpha3",
        resource: "resourcepoolstatusrequests",
        default: |it| _ = it.default_at(&["spec", "limit"], 100),
        // `DRAPartitionableDevicesType` is off.
        prepare_create: |it| drop(it.remove_at(&["spec", "defaultPartitionTypeAttribute"])),
        prepare_status: status::keep_metadata,
        validate: |it, errors| validate(&it["spec"], &Path::new("spec"), errors),
        validate_update: |it, old, errors| {
            check::immutable(it.get("spec"), old.get("spec"), &Path::new("spec"), errors);
        },
        validate_status,
        row: super::printing::name_and_age,
        rules: Rules { has_status: true, unconditional_update: false, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn validate(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    devices::driver(spec, path, errors);
    if spec.get("poolName").is_some() {
        resourceslice::pool_name(spec, "poolName", path, errors);
    }
    let Some(limit) = spec.i64_at(&["limit"]) else { return };
    let detail = match limit {
        ..1 => "must be greater than or equal to 1",
        1..=LIMIT_MAX => return,
        _ => "must be less than or equal to 1000",
    };
    errors.invalid(&path.child("limit"), &limit.into(), detail);
}

fn validate_status(request: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    let was_answered = old.at(&["status"]).is_some_and(|it| *it != Value::object());
    if was_answered {
        check::immutable(request.get("status"), old.get("status"), &path, errors);
        return;
    }
    let now = &request["status"];
    for (index, pool) in now.items_at(&["pools"]).iter().enumerate() {
        let list = path.child("pools");
        let at = list.index(index);
        devices::driver(pool, &at, errors);
        resourceslice::pool_name(pool, "poolName", &at, errors);
        let counts = ["generation", "resourceSliceCount", "totalDevices", "allocatedDevices"];
        for member in counts.into_iter().chain(["availableDevices", "unavailableDevices"]) {
            if pool.i64_at(&[member]).is_some_and(|it| it < 0) {
                let value = pool.get(member).cloned().unwrap_or_default();
                errors.invalid(&at.child(member), &value, check::NOT_NEGATIVE);
            }
        }
    }
    status::conditions(now, &path, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_has_to_be_known_and_small() {
        for (spec, wanted) in [
            (r#"{"driver":"gpu.example.com","poolName":"a/b","limit":1000}"#, ""),
            ("{}", "spec.driver: Required value"),
            (
                r#"{"driver":"d","limit":0}"#,
                "spec.limit: Invalid value: 0: must be greater than or equal to 1",
            ),
            (
                r#"{"driver":"d","limit":1001}"#,
                "spec.limit: Invalid value: 1001: must be less than or equal to 1000",
            ),
        ] {
            let mut errors = FieldErrors::new();
            let spec = apimachinery::json::parse(spec.as_bytes()).unwrap();
            validate(&spec, &Path::new("spec"), &mut errors);
            let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(told.join(" "), wanted);
        }
    }
}
