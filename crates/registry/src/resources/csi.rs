//! CSIDriver, CSINode, CSIStorageCapacity, VolumeAttributesClass: what storage drivers say of themselves.

use apimachinery::quantity::Quantity;
use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use super::storageclass;
use crate::declaration::{Declaration, MetadataChecks};
use crate::pod_spec::volume_plugins;
use crate::rules::{self, each};
use crate::{Generation, Rules, check, go, metadata, table};

const GROUP: &str = "storage.k8s.io";
/// The longest id of a node that a driver gives, in bytes.
const NODE_ID_MAX: usize = 256;

pub(super) fn driver() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "csidrivers",
        default: driver_defaults,
        name: metadata::subdomain_name,
        validate: validate_driver,
        validate_update: |it, old, errors| {
            let path = Path::new("spec");
            let (now, before) = (&it["spec"], &old["spec"]);
            let at = path.child("attachedRequired");
            let member = "attachRequired";
            check::immutable(now.get(member), before.get(member), &at, errors);
            rules::immutable(now, before, "volumeLifecycleModes", &path, errors);
        },
        metadata_checks: MetadataChecks::Update,
        row: driver_row,
        rules: Rules {
            generation: Generation::Changes,
            returns_deleted: true,
            unconditional_update: false,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

fn driver_defaults(driver: &mut Value) {
    driver.default_at(&["spec", "attachRequired"], true);
    for member in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        driver.default_at(&["spec", member], false);
    }
    driver.default_at(&["spec", "fsGroupPolicy"], "ReadWriteOnceWithFSType");
    if driver.items_at(&["spec", "volumeLifecycleModes"]).is_empty() {
        driver.set_at(&["spec", "volumeLifecycleModes"], Value::from_iter(["Persistent"]));
    }
}

fn validate_driver(driver: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &driver["spec"];
    for member in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
        if spec.get(member).is_none() {
            errors.required(&path.child(member), "");
        }
    }
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    check::optional_one_of(spec, "fsGroupPolicy", &policies, &path, errors);
    let mut audiences = Vec::new();
    each(spec, "tokenRequests", &path, errors, |request, at, errors| {
        let audience = request.str_at(&["audience"]).to_owned();
        if audiences.contains(&audience) {
            errors.duplicate(&at.child("audience"), &Value::from(audience.as_str()));
            return;
        }
        audiences.push(audience);
        let place = at.child("expirationSeconds");
        let Some(seconds) = request.i64_at(&["expirationSeconds"]) else { return };
        if seconds < 600 {
            let detail = "may not specify a duration less than 10 minutes";
            errors.invalid(&place, &seconds.into(), detail);
        }
        if seconds > 1 << 32 {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.invalid(&place, &seconds.into(), detail);
        }
    });
    let at = path.child("volumeLifecycleModes");
    for mode in spec.items_at(&["volumeLifecycleModes"]) {
        if !matches!(mode.as_str(), Some("Persistent" | "Ephemeral")) {
            errors.not_supported(&at, mode, ["Persistent", "Ephemeral"]);
        }
    }
    let member = "nodeAllocatableUpdatePeriodSeconds";
    if let Some(seconds) = spec.i64_at(&[member]).filter(|it| *it < 10) {
        let detail = "must be greater than or equal to 10 seconds";
        errors.invalid(&path.child(member), &seconds.into(), detail);
    }
}

fn driver_row(driver: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &driver["spec"];
    let modes: Vec<&str> =
        spec.items_at(&["volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
    let tokens: Vec<&str> =
        spec.items_at(&["tokenRequests"]).iter().map(|it| it.str_at(&["audience"])).collect();
    vec![
        driver.str_at(&["metadata", "name"]).into(),
        spec.bool_at(&["attachRequired"]).into(),
        spec.bool_at(&["podInfoOnMount"]).into(),
        spec.bool_at(&["storageCapacity"]).into(),
        if tokens.is_empty() { "<unset>".into() } else { tokens.join(",").into() },
        spec.bool_at(&["requiresRepublish"]).into(),
        if modes.is_empty() { "<none>".into() } else { modes.join(",").into() },
        table::created(driver, now),
    ]
}

pub(super) fn node() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "csinodes",
        validate: validate_node,
        validate_update: validate_node_update,
        row: |it, now| {
            let count = i64::try_from(it.items_at(&["spec", "drivers"]).len()).unwrap_or_default();
            vec![it.str_at(&["metadata", "name"]).into(), count.into(), table::created(it, now)]
        },
        metadata_checks: MetadataChecks::New,
        rules: Rules {
            returns_deleted: true,
            unconditional_update: false,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

fn validate_node(node: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let mut names: Vec<String> = Vec::new();
    each(&node["spec"], "drivers", &path, errors, |driver, at, errors| {
        volume_plugins::csi_driver(driver, "name", at, errors);
        let (id, place) = (driver.str_at(&["nodeID"]), at.child("nodeID"));
        if id.is_empty() {
            errors.required(&place, "");
        } else if id.len() > NODE_ID_MAX {
            let detail = format!("must be {NODE_ID_MAX} characters or less");
            errors.invalid_text(&place, id, &detail);
        }
        check::non_negative(&driver["allocatable"], &["count"], &at.child("allocatable"), errors);
        let name = driver.str_at(&["name"]);
        if names.iter().any(|it| it == name) {
            errors.duplicate(&at.child("name"), &name.into());
        }
        names.push(name.to_owned());
        topology_keys(driver, at, errors);
    });
}

/// Keys that a driver knows places by. Upstream tells all of the driver itself.
fn topology_keys(driver: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut keys = Vec::new();
    for key in driver.items_at(&["topologyKeys"]).iter().filter_map(Value::as_str) {
        if key.is_empty() {
            errors.required(path, "");
        }
        if keys.contains(&key) {
            errors.duplicate(path, &key.into());
        }
        keys.push(key);
        errors.invalid_all(path, key, validation::qualified_name(key));
    }
}

/// A driver may come and go; of what is said of it only how much it can take changes.
fn validate_node_update(node: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let at = path.child("drivers");
    for before in old.items_at(&["spec", "drivers"]) {
        let same = |it: &&Value| it.str_at(&["name"]) == before.str_at(&["name"]);
        for driver in node.items_at(&["spec", "drivers"]).iter().filter(same) {
            let (mut now, mut then) = (driver.clone(), before.clone());
            now.remove_at(&["allocatable"]);
            then.remove_at(&["allocatable"]);
            if now != then {
                let shown = go::compact(&now, go::CSI_NODE_DRIVER);
                check::invalid_shown(&at, &shown, "field is immutable", errors);
            }
        }
    }
}

pub(super) fn capacity() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "csistoragecapacities",
        validate: |it, errors| {
            let root = Path::new("");
            check::label_selector(it.get("nodeTopology"), &root.child("nodeTopology"), errors);
            let name = it.str_at(&["storageClassName"]);
            let at = root.child("storageClassName");
            errors.invalid_all(&at, name, validation::dns1123_subdomain(name));
            for member in ["capacity", "maximumVolumeSize"] {
                let text = it.str_at(&[member]);
                if Quantity::parse(text).is_ok_and(|it| it.sign() < 0) {
                    let detail = check::NOT_NEGATIVE;
                    errors.invalid_text(&root.child(member), text, detail);
                }
            }
        },
        validate_update: |it, old, errors| {
            let root = Path::new("");
            rules::immutable(it, old, "nodeTopology", &root, errors);
            rules::immutable_text(it, old, "storageClassName", &root, errors);
        },
        rules: Rules { unconditional_update: false, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

pub(super) fn attributes_class() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "volumeattributesclasses",
        validate: |it, errors| {
            let root = Path::new("");
            if check::required_text(it, "driverName", &root, errors) {
                let name = it.str_at(&["driverName"]);
                let lower = name.to_lowercase();
                errors.invalid_all(&root.child("driverName"), &lower, rules::driver_name(name));
            }
            storageclass::parameters(it, "parameters", true, &root, errors);
        },
        validate_update: |it, old, errors| {
            for member in ["driverName", "parameters"] {
                if it.get(member) != old.get(member) {
                    let detail = format!("updates to {member} are forbidden.");
                    errors.forbidden(&Path::new(member), &detail);
                }
            }
        },
        row: |it, now| {
            vec![
                it.str_at(&["metadata", "name"]).into(),
                it.str_at(&["driverName"]).into(),
                table::created(it, now),
            ]
        },
        rules: Rules { returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}
