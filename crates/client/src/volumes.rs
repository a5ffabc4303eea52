//! What claims and volumes say of each other, and which volume suits which claim: for the binder, which binds at once, and
//! for the scheduler, which binds for a pod. Knows no cluster: values in, an answer out.

use std::collections::BTreeMap;

use apimachinery::labels::Selector;
use apimachinery::quantity::{Format, Quantity};
use apimachinery::{Object, Value};

/// The binding was a controller's choice, not somebody's who named the other side.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// A claim's binding was complete once.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The node that the scheduler wants a claim's volume for.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// The class of a claim or a volume as it was written before there was a field for it.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The value of an annotation; `None` where it is not there.
#[must_use]
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.at(&["metadata", "annotations", key]).and_then(Value::as_str)
}

/// The storage class of a claim or a volume; empty for none.
#[must_use]
pub fn class(object: &Value) -> &str {
    annotation(object, BETA_CLASS).unwrap_or_else(|| object.str_at(&["spec", "storageClassName"]))
}

/// Whether a claim says nothing of its class, not even that it wants none.
#[must_use]
pub fn leaves_class_open(claim: &Value) -> bool {
    annotation(claim, BETA_CLASS).is_none()
        && claim.at(&["spec", "storageClassName"]).is_none_or(Value::is_null)
}

/// Whether a volume is meant for a claim: by name, and by uid where it says one.
#[must_use]
pub fn is_meant_for(volume: &Value, claim: &Value) -> bool {
    let Some(reference) = volume.at(&["spec", "claimRef"]).filter(|it| !it.is_null()) else {
        return false;
    };
    let metadata = |member| claim.str_at(&["metadata", member]);
    let uid = reference.str_at(&["uid"]);
    reference.str_at(&["name"]) == metadata("name")
        && reference.str_at(&["namespace"]) == metadata("namespace")
        && (uid.is_empty() || uid == metadata("uid"))
}

/// Whether one has a file system and the other is a device.
#[must_use]
pub fn modes_differ(claim: &Value, volume: &Value) -> bool {
    let mode = |it: &Value| match it.str_at(&["spec", "volumeMode"]) {
        "" => "Filesystem".to_owned(),
        mode => mode.to_owned(),
    };
    mode(claim) != mode(volume)
}

/// Why a claim cannot have the volume that it names.
///
/// # Errors
/// In upstream's words.
pub fn satisfies(claim: &Value, volume: &Value) -> Result<(), &'static str> {
    if capacity(volume) < wanted(claim) {
        return Err("requested PV is too small");
    }
    if class(claim) != class(volume) {
        return Err("storageClassName does not match");
    }
    if modes_differ(claim, volume) {
        return Err("incompatible volumeMode");
    }
    if attributes(claim) != attributes(volume) {
        return Err("VolumeAttributesClassName does not match");
    }
    if !has_access_modes(volume, claim) {
        return Err("incompatible accessMode");
    }
    Ok(())
}

/// The volume for a claim: of those with the fewest access modes that do, one that is meant for it, else the smallest that
/// is large enough. A claim that waits for its pod gets only what is meant for it.
#[must_use]
pub fn best<'a>(
    claim: &Value,
    volumes: impl Iterator<Item = &'a Value>,
    waits: bool,
) -> Option<&'a Value> {
    let mut by_modes: BTreeMap<(usize, Vec<&str>), Vec<&'a Value>> = BTreeMap::new();
    for volume in volumes.filter(|it| has_access_modes(it, claim)) {
        let mut modes = access_modes(volume);
        modes.sort_unstable();
        modes.dedup();
        by_modes.entry((modes.len(), modes)).or_default().push(volume);
    }
    by_modes.values().find_map(|volumes| {
        let suited = suitable(claim, volumes.iter().copied());
        suited.into_iter().find(|it| !waits || is_meant_for(it, claim))
    })
}

/// The volumes that a claim can have, the best first: the one that is meant for it alone, else those that are free, the
/// smallest first.
#[must_use]
pub fn suitable<'a>(claim: &Value, volumes: impl Iterator<Item = &'a Value>) -> Vec<&'a Value> {
    let usable = |it: &&'a Value| {
        capacity(it) >= wanted(claim)
            && has_access_modes(it, claim)
            && !modes_differ(claim, it)
            && attributes(it) == attributes(claim)
            && it.at(&["metadata", "deletionTimestamp"]).is_none()
    };
    let mut usable: Vec<&'a Value> = volumes.filter(usable).collect();
    if let Some(meant) = usable.iter().find(|it| is_meant_for(it, claim)) {
        return vec![meant];
    }
    let asked = claim.at(&["spec", "selector"]).filter(|it| !it.is_null());
    let selector = asked.map(|it| Selector::from_value(Some(it)).unwrap_or(Selector::NOTHING));
    usable.retain(|it| takes(claim, selector.as_ref(), it));
    usable.sort_by_cached_key(|it| (capacity(it), it.str_at(&["metadata", "name"]).to_owned()));
    usable
}

/// Whether a volume that is meant for nobody will do.
fn takes(claim: &Value, selector: Option<&Selector>, volume: &Value) -> bool {
    let labels = volume.at(&["metadata", "labels"]).and_then(Value::as_object);
    let empty = Object::new();
    volume.at(&["spec", "claimRef"]).is_none_or(Value::is_null)
        && volume.str_at(&["status", "phase"]) == "Available"
        && class(volume) == class(claim)
        && selector.is_none_or(|it| it.matches_labels(Some(labels.unwrap_or(&empty))))
}

/// A volume that says that it is the claim's.
#[must_use]
pub fn with_claim(volume: &Value, claim: &Value) -> Value {
    let mut changed = volume.clone();
    if !is_meant_for(volume, claim) {
        changed.set_at(&["metadata", "annotations", BOUND_BY_CONTROLLER], "yes");
    }
    let metadata = |member| claim.str_at(&["metadata", member]).to_owned();
    for (member, text) in [
        ("apiVersion", "v1".to_owned()),
        ("kind", "PersistentVolumeClaim".to_owned()),
        ("namespace", metadata("namespace")),
        ("name", metadata("name")),
        ("uid", metadata("uid")),
        ("resourceVersion", metadata("resourceVersion")),
    ] {
        changed.set_at(&["spec", "claimRef", member], text);
    }
    changed
}

fn access_modes(object: &Value) -> Vec<&str> {
    object.items_at(&["spec", "accessModes"]).iter().filter_map(Value::as_str).collect()
}

fn has_access_modes(volume: &Value, claim: &Value) -> bool {
    let has = access_modes(volume);
    access_modes(claim).iter().all(|it| has.contains(it))
}

fn capacity(volume: &Value) -> Quantity {
    quantity(volume.str_at(&["spec", "capacity", "storage"]))
}

/// How much a claim asks for.
#[must_use]
pub fn wanted(claim: &Value) -> Quantity {
    quantity(claim.str_at(&["spec", "resources", "requests", "storage"]))
}

fn attributes(object: &Value) -> &str {
    object.str_at(&["spec", "volumeAttributesClassName"])
}

/// What the server admitted is a quantity; what is not there is none.
fn quantity(text: &str) -> Quantity {
    Quantity::parse(text).unwrap_or_else(|_| Quantity::from_milli(0, Format::BinarySI))
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    fn volume(name: &str, size: &str, modes: &[&str]) -> Value {
        let modes: Vec<Value> = modes.iter().map(|it| (*it).into()).collect();
        value!({"metadata": {"name": name}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": size}, "accessModes": (Value::Array(modes)), "storageClassName": "s"}})
    }

    fn claim(size: &str) -> Value {
        value!({"metadata": {"name": "c", "namespace": "n", "uid": "U"},
            "spec": {"accessModes": ["RWO"], "storageClassName": "s", "resources": {"requests": {"storage": size}}}})
    }

    #[test]
    fn the_smallest_that_is_large_enough_wins_unless_one_is_meant_for_the_claim() {
        let mut meant = volume("meant", "9Gi", &["RWO"]);
        meant.set_at(&["spec", "claimRef"], value!({"namespace": "n", "name": "c"}));
        let mut other = volume("other", "3Gi", &["RWO"]);
        other.set_at(&["spec", "claimRef"], value!({"namespace": "n", "name": "d"}));
        let mut device = volume("device", "3Gi", &["RWO"]);
        device.set_at(&["spec", "volumeMode"], "Block");
        let mut going = volume("going", "3Gi", &["RWO"]);
        going.set_at(&["metadata", "deletionTimestamp"], "x");
        let small = volume("small", "1Gi", &["RWO"]);
        let (middle, big) = (volume("middle", "4Gi", &["RWO"]), volume("big", "8Gi", &["RWO"]));
        let shared = volume("shared", "3Gi", &["RWO", "RWX"]);
        let unfit = [&other, &device, &going, &small];
        let check = |more: &[&Value], waits: bool, expected: Option<&str>| {
            let volumes = unfit.iter().copied().chain(more.iter().copied());
            let found = best(&claim("3Gi"), volumes, waits);
            assert_eq!(found.map(|it| it.str_at(&["metadata", "name"])), expected);
        };
        check(&[], false, None);
        check(&[&big, &middle], false, Some("middle"));
        check(&[&big, &middle], true, None);
        check(&[&big, &middle, &meant], false, Some("meant"));
        check(&[&big, &meant], true, Some("meant"));
        check(&[&big, &shared], false, Some("big"));
        check(&[&shared], false, Some("shared"));
    }

    #[test]
    fn a_claim_may_select_by_labels() {
        let mut labelled = volume("labelled", "1Gi", &["RWO"]);
        labelled.set_at(&["metadata", "labels"], value!({"a": "b"}));
        let plain = volume("a", "1Gi", &["RWO"]);
        let mut claim = claim("1Gi");
        claim.set_at(&["spec", "selector"], value!({"matchLabels": {"a": "b"}}));
        let found = best(&claim, [&plain, &labelled].into_iter(), false).unwrap();
        assert_eq!(found.str_at(&["metadata", "name"]), "labelled");
        assert!(best(&claim, [&plain].into_iter(), false).is_none());
    }

    #[test]
    fn a_named_volume_that_will_not_do_is_told_why() {
        let check = |path: &[&str], value: Value, expected: Result<(), &str>| {
            let mut volume = volume("v", "1Gi", &["RWO"]);
            volume.set_at(path, value);
            assert_eq!(satisfies(&claim("1Gi"), &volume), expected);
        };
        check(&["x"], Value::Null, Ok(()));
        check(&["spec", "capacity", "storage"], "1Mi".into(), Err("requested PV is too small"));
        check(&["spec", "storageClassName"], "t".into(), Err("storageClassName does not match"));
        check(&["spec", "volumeMode"], "Block".into(), Err("incompatible volumeMode"));
        check(&["spec", "accessModes"], value!(["RWX"]), Err("incompatible accessMode"));
    }
}
