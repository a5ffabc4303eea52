//! What is planned for a volume: its phase follows its claim, and it is taken back when the claim is gone.

use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use controller::{Plan, Snapshot};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::provision::{migrated, with_migration};
use super::{MIGRATED_TO, PROVISIONED_BY, about, fetch, in_phase, name, uid, update, warning};
use client::volumes::{BOUND_BY_CONTROLLER, annotation, modes_differ};

/// Keeps a volume until one of upstream's own plugins has deleted what is behind it.
const IN_TREE: &str = "kubernetes.io/pv-controller";
/// The same, for provisioners outside.
const OUTSIDE: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// What it sees of a volume.
#[derive(Debug)]
pub struct Observed {
    volume: Arc<Value>,
    /// The claim that it is meant for, by the cache.
    claim: Option<Arc<Value>>,
    /// The same by a live read; `None` where none was made.
    live: Option<Option<Value>>,
}

fn reference(volume: &Value) -> Option<&Value> {
    volume.at(&["spec", "claimRef"]).filter(|it| !it.is_null())
}

fn claim_key(reference: &Value) -> ObjectKey {
    ObjectKey::new(reference.str_at(&["namespace"]), reference.str_at(&["name"]))
}

pub(super) fn observe(snapshot: &Snapshot, name: &str) -> Option<Observed> {
    let volume = snapshot.store::<PersistentVolume>().get(&ObjectKey::new("", name))?.value();
    let key = reference(&volume).map(claim_key);
    let claim = key
        .as_ref()
        .and_then(|key| snapshot.store::<PersistentVolumeClaim>().get(key).map(|it| it.value()));
    let live = key.and_then(|key| {
        snapshot.fetched(&fetch::<PersistentVolumeClaim>(key)).map(|it| it.cloned())
    });
    Some(Observed { volume, claim, live })
}

pub(super) fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let volume = &*observed.volume;
    if let Some(volume) = as_made(volume) {
        plan.act(update::<PersistentVolume>("", volume));
        return plan;
    }
    let Some(reference) = reference(volume) else {
        act(&mut plan, in_phase(volume, "Available", "", now));
        return plan;
    };
    // Meant for a claim that is not bound to it yet.
    if reference.str_at(&["uid"]).is_empty() {
        act(&mut plan, in_phase(volume, "Available", "", now));
        return plan;
    }
    let is_it = |claim: &&Value| uid(claim) == reference.str_at(&["uid"]);
    let cached = observed.claim.as_deref().filter(is_it);
    let taken_back = matches!(volume.str_at(&["status", "phase"]), "Released" | "Failed");
    let claim = match (cached, &observed.live) {
        (Some(claim), _) => Some(claim),
        (None, Some(live)) => live.as_ref().filter(is_it),
        (None, None) if taken_back => None,
        // The cache may not know the claim yet: what it says is made sure of before data is given up.
        (None, None) => {
            plan.fetches.push(fetch::<PersistentVolumeClaim>(claim_key(reference)));
            return plan;
        }
    };
    match claim {
        None => release(&mut plan, volume, now),
        Some(claim) => follow(&mut plan, volume, claim, now),
    }
    plan
}

/// A volume that was made for a claim with what its maker calls for: the driver that does its work, and the finalizer that
/// keeps the object until what is behind it is deleted; `None` where it has that. Upstream:
/// `updateVolumeMigrationAnnotationsAndFinalizers`.
fn as_made(volume: &Value) -> Option<Value> {
    let maker = annotation(volume, PROVISIONED_BY)?;
    let mut made = with_migration(volume, maker).unwrap_or_else(|| volume.clone());
    let mut finalizers = volume.items_at(&["metadata", "finalizers"]).to_vec();
    let has = |all: &[Value], name| all.iter().any(|it| it.as_str() == Some(name));
    let deletes = volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == "Delete";
    if migrated(maker).is_some() {
        finalizers.retain(|it| it.as_str() != Some(IN_TREE));
    } else if maker.starts_with("kubernetes.io/") {
        finalizers.retain(|it| it.as_str() != Some(OUTSIDE));
        let deleting = volume.at(&["metadata", "deletionTimestamp"]).is_some();
        match deletes {
            true if !deleting && !has(&finalizers, IN_TREE) => finalizers.push(IN_TREE.into()),
            true => {}
            false => finalizers.retain(|it| it.as_str() != Some(IN_TREE)),
        }
    }
    if finalizers != volume.items_at(&["metadata", "finalizers"]) {
        made.set_at(&["metadata", "finalizers"], finalizers);
    }
    (made != *volume).then_some(made)
}

fn act(plan: &mut Plan, action: Option<controller::Action>) {
    if let Some(action) = action {
        plan.act(action);
    }
}

/// The claim is there: the volume is bound, waits for the claim to say so, or is let go of.
fn follow(plan: &mut Plan, volume: &Value, claim: &Value, now: Timestamp) {
    let named = claim.str_at(&["spec", "volumeName"]);
    if named == name(volume) {
        return act(plan, in_phase(volume, "Bound", "", now));
    }
    if named.is_empty() {
        if modes_differ(claim, volume) {
            let text = format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{}\" due to incompatible volumeMode.",
                name(claim)
            );
            plan.events.push(warning("PersistentVolume", volume, "VolumeMismatch", text));
            let text = format!(
                "Cannot bind PersistentVolume \"{}\" to requested PersistentVolumeClaim due to incompatible volumeMode.",
                name(volume)
            );
            plan.events.push(warning("PersistentVolumeClaim", claim, "VolumeMismatch", text));
        }
        // The claim's own plan does the rest.
        return;
    }
    // The claim has another volume. What was made for it is of no use to anybody else.
    let made = annotation(volume, PROVISIONED_BY).is_some();
    if made && volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == "Delete" {
        return release(plan, volume, now);
    }
    let mut free = volume.clone();
    if annotation(volume, BOUND_BY_CONTROLLER).is_some() {
        free.remove_at(&["spec", "claimRef"]);
        free.remove_at(&["metadata", "annotations", BOUND_BY_CONTROLLER]);
    } else {
        free.remove_at(&["spec", "claimRef", "uid"]);
        free.remove_at(&["spec", "claimRef", "resourceVersion"]);
    }
    // Its phase follows when the cache shows that.
    plan.act(update::<PersistentVolume>("", free));
}

/// The claim is gone.
fn release(plan: &mut Plan, volume: &Value, now: Timestamp) {
    if !matches!(volume.str_at(&["status", "phase"]), "Released" | "Failed") {
        // It is taken back when the cache shows that.
        return act(plan, in_phase(volume, "Released", "", now));
    }
    if annotation(volume, MIGRATED_TO).is_some() {
        return;
    }
    let failure = match volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) {
        "Retain" => None,
        "Delete" => not_deleted(volume).map(|it| ("VolumeFailedDelete", it)),
        "Recycle" => Some(("VolumeFailedRecycle", not_recycled(volume))),
        other => Some((
            "VolumeUnknownReclaimPolicy",
            format!("Volume has unrecognized PersistentVolumeReclaimPolicy: {other}"),
        )),
    };
    let Some((reason, message)) = failure else { return };
    if let Some(action) = in_phase(volume, "Failed", &message, now) {
        let event = controller::Event {
            about: about("PersistentVolume", volume),
            kind: client::events::EventType::Warning,
            reason,
            message,
        };
        plan.act(action).on_success = Some(event);
    }
}

/// Why a volume is not deleted from here; `None` where who made it deletes it.
fn not_deleted(volume: &Value) -> Option<String> {
    match annotation(volume, PROVISIONED_BY).unwrap_or_default() {
        "" => {}
        maker if !maker.starts_with("kubernetes.io/") => return None,
        "kubernetes.io/host-path" | "kubernetes.io/nfs" => {}
        maker => return Some(format!("no volume plugin matched name: {maker}")),
    }
    let path = volume.str_at(&["spec", "hostPath", "path"]);
    if volume.at(&["spec", "hostPath"]).is_some() {
        // Upstream deletes below /tmp of the machine that its controllers run on, for tests on one machine.
        return Some(if path.len() > "/tmp/".len() && path.starts_with("/tmp/") {
            format!("host_path volumes are not deleted: {path} is left as it is")
        } else {
            format!("host_path deleter only supports /tmp/.+ but received provided {path}")
        });
    }
    // Upstream's controllers know these, and none of them can delete.
    let known = ["nfs", "local", "csi"];
    let why = if known.iter().any(|it| volume.at(&["spec", it]).is_some()) {
        "no deletable volume plugin matched"
    } else {
        "no volume plugin matched"
    };
    let name = name(volume);
    Some(format!("error getting deleter volume plugin for volume \"{name}\": {why}"))
}

fn not_recycled(volume: &Value) -> String {
    let known = ["hostPath", "nfs"].iter().any(|it| volume.at(&["spec", it]).is_some());
    if known {
        // Upstream runs a pod that empties it; the policy is deprecated.
        "volumes are not recycled: the reclaim policy Recycle is not built".to_owned()
    } else {
        "No recycler plugin found for the volume!".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;
    use controller::Action;

    use super::*;

    fn check(volume: &str, claim: Option<&str>, live: Option<Option<&str>>, expected: &str) {
        let parse = |text: &str| apimachinery::json::parse(text.as_bytes()).unwrap();
        let observed = Observed {
            volume: Arc::new(parse(volume)),
            claim: claim.map(|it| Arc::new(parse(it))),
            live: live.map(|it| it.map(parse)),
        };
        let plan = plan(&observed, Timestamp::UNIX_EPOCH);
        let mut did: Vec<String> = plan.fetches.iter().map(|_| "ask".to_owned()).collect();
        for planned in plan.stages.iter().flat_map(|it| &it.actions) {
            let Action::Update { subresource, object, .. } = &planned.action else { continue };
            did.push(match *subresource {
                "status" => {
                    let (phase, why) = (
                        object.str_at(&["status", "phase"]),
                        object.str_at(&["status", "message"]),
                    );
                    format!("{phase} {why}").trim().to_owned()
                }
                _ => format!(
                    "let go {}",
                    object.at(&["spec", "claimRef"]).unwrap_or(&Value::Null).str_at(&["name"])
                ),
            });
        }
        assert_eq!(did.join("; "), expected, "{volume}");
    }

    #[test]
    fn the_phase_follows_the_claim() {
        let claim = r#"{"metadata":{"uid":"U","name":"c"},"spec":{"volumeName":"v"}}"#;
        let elsewhere = r#"{"metadata":{"uid":"U","name":"c"},"spec":{"volumeName":"w"}}"#;
        let meant = |more: &str| {
            format!(
                r#"{{"metadata":{{"name":"v"{more}}},"spec":{{"claimRef":{{"name":"c","uid":"U"}},"persistentVolumeReclaimPolicy":"Retain"}}}}"#
            )
        };
        check(r#"{"spec":{}}"#, None, None, "Available");
        check(r#"{"spec":{},"status":{"phase":"Available"}}"#, None, None, "");
        check(r#"{"spec":{"claimRef":{"name":"c"}}}"#, Some(claim), None, "Available");
        check(&meant(""), Some(claim), None, "Bound");
        check(&meant(""), None, None, "ask");
        check(&meant(""), None, Some(Some(claim)), "Bound");
        check(&meant(""), None, Some(None), "Released");
        check(&meant(""), Some(elsewhere), None, "let go c");
        let ours = r#","annotations":{"pv.kubernetes.io/bound-by-controller":"yes"}"#;
        check(&meant(ours), Some(elsewhere), None, "let go ");
    }

    #[test]
    fn a_volume_that_was_made_has_what_its_maker_calls_for() {
        let check = |maker: &str, policy: &str, finalizers: &[&str], expected: Option<&[&str]>| {
            let mut volume = value!({"metadata": {"name": "v"}, "spec": {"persistentVolumeReclaimPolicy": policy}});
            let finalizers: Vec<Value> = finalizers.iter().map(|it| (*it).into()).collect();
            volume.set_at(&["metadata", "finalizers"], finalizers);
            volume.set_at(&["metadata", "annotations", PROVISIONED_BY], maker);
            let made = as_made(&volume);
            let finalizers = made.as_ref().map(|it| it.items_at(&["metadata", "finalizers"]));
            let finalizers =
                finalizers.map(|it| it.iter().filter_map(Value::as_str).collect::<Vec<_>>());
            assert_eq!(finalizers.as_deref(), expected, "{maker} {policy}");
        };
        check("example.com/p", "Delete", &[OUTSIDE], None);
        check("kubernetes.io/host-path", "Delete", &[OUTSIDE], Some(&[IN_TREE]));
        check("kubernetes.io/host-path", "Delete", &[IN_TREE], None);
        check("kubernetes.io/host-path", "Retain", &[IN_TREE], Some(&[]));
        check("kubernetes.io/aws-ebs", "Delete", &[IN_TREE, OUTSIDE], Some(&[OUTSIDE]));
    }

    #[test]
    fn a_released_volume_is_kept_or_says_why_it_is_not_taken_back() {
        let check = |policy: &str, source: &str, maker: &str, expected: &str| {
            let mut volume = value!({"metadata": {"name": "v"}, "status": {"phase": "Released"},
                "spec": {"claimRef": {"name": "c", "uid": "U"}, "persistentVolumeReclaimPolicy": policy}});
            volume.set_at(&["spec", source], value!({"path": "/x"}));
            if !maker.is_empty() {
                volume.set_at(&["metadata", "annotations", PROVISIONED_BY], maker);
            }
            let text = String::from_utf8(apimachinery::json::to_vec(&volume)).unwrap();
            self::check(&text, None, None, expected);
        };
        check("Retain", "hostPath", "", "");
        check("Delete", "csi", "example.com/p", "");
        check(
            "Delete",
            "hostPath",
            "",
            "Failed host_path deleter only supports /tmp/.+ but received provided /x",
        );
        check(
            "Delete",
            "local",
            "",
            "Failed error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched",
        );
        check(
            "Delete",
            "fc",
            "",
            "Failed error getting deleter volume plugin for volume \"v\": no volume plugin matched",
        );
        check("Recycle", "local", "", "Failed No recycler plugin found for the volume!");
    }
}
