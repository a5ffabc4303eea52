//! The checks that the level `restricted` adds: what a careful pod gives up.

use std::collections::BTreeSet;

use apimachinery::{Object, Value};

use super::baseline::{OWN_USERS, added_capabilities, bad_seccomp, unmasked_proc};
use super::checks::Finding;
use super::pod::{Pod, Setters, containers, name_of, plural, quoted};
use super::policy::Version;

/// Since then, pods say for which system they are, and those for Windows need not set what is Linux'.
const SYSTEMS: Version = Version::Minor(25);

/// The sources that a volume may have.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn is_for_windows(pod: Pod<'_>, version: Version) -> bool {
    version >= SYSTEMS && pod.is_windows()
}

fn has_own_users(pod: Pod<'_>, version: Version) -> bool {
    version >= OWN_USERS && pod.has_own_users()
}

pub(super) fn privilege_escalation(pod: Pod<'_>, version: Version) -> Option<Finding> {
    if is_for_windows(pod, version) {
        return None;
    }
    let names = pod.containers_that(|container| {
        let allowed = container.at(&["securityContext", "allowPrivilegeEscalation"]);
        allowed.and_then(Value::as_bool) != Some(false)
    });
    (!names.is_empty()).then(|| Finding {
        reason: "allowPrivilegeEscalation != false",
        detail: format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            containers(&names)
        ),
    })
}

pub(super) fn capabilities(pod: Pod<'_>, version: Version) -> Option<Finding> {
    if is_for_windows(pod, version) {
        return None;
    }
    let keep = pod.containers_that(|container| {
        let dropped = container.items_at(&["securityContext", "capabilities", "drop"]);
        !dropped.iter().any(|it| it.as_str() == Some("ALL"))
    });
    let mut told = Vec::new();
    if !keep.is_empty() {
        let names = containers(&keep);
        told.push(format!("{names} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    told.extend(added_capabilities(pod, &["NET_BIND_SERVICE"]));
    (!told.is_empty())
        .then(|| Finding { reason: "unrestricted capabilities", detail: told.join("; ") })
}

pub(super) fn proc_mount(pod: Pod<'_>, _: Version) -> Option<Finding> {
    unmasked_proc(pod)
}

pub(super) fn volumes(pod: Pod<'_>, _: Version) -> Option<Finding> {
    let mut kinds = BTreeSet::new();
    let mut names = Vec::new();
    for volume in pod.spec.items_at(&["volumes"]) {
        if VOLUMES.iter().any(|source| volume.get(source).is_some()) {
            continue;
        }
        names.push(name_of(volume));
        let mut members = volume.as_object().into_iter().flat_map(Object::iter);
        kinds.insert(members.find(|(key, _)| *key != "name").map_or("unknown", |(key, _)| key));
    }
    (!names.is_empty()).then(|| Finding {
        reason: "restricted volume types",
        detail: format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", names.len()),
            quoted(&names),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(kinds)
        ),
    })
}

pub(super) fn run_as_non_root(pod: Pod<'_>, version: Version) -> Option<Finding> {
    const REASON: &str = "runAsNonRoot != true";
    if has_own_users(pod, version) {
        return None;
    }
    let of = |context: &Value| context.get("runAsNonRoot").and_then(Value::as_bool);
    let root = Setters::find(pod, |context| (of(context) == Some(false)).then_some(""));
    if let Some(setters) = root.joined() {
        let detail = format!("{setters} must not set securityContext.runAsNonRoot=false");
        return Some(Finding { reason: REASON, detail });
    }
    let silent = silent_containers(pod, |context| of(context).is_some())?;
    let detail = format!("pod or {silent} must set securityContext.runAsNonRoot=true");
    Some(Finding { reason: REASON, detail })
}

/// The containers for which neither they nor their pod say anything, in words.
fn silent_containers(pod: Pod<'_>, says: impl Fn(&Value) -> bool) -> Option<String> {
    if says(pod.context()) {
        return None;
    }
    let names = pod.containers_that(|it| !says(&it["securityContext"]));
    (!names.is_empty()).then(|| containers(&names))
}

pub(super) fn run_as_user(pod: Pod<'_>, version: Version) -> Option<Finding> {
    if has_own_users(pod, version) {
        return None;
    }
    let is_root = |context: &Value| context.i64_at(&["runAsUser"]) == Some(0);
    let setters = Setters::find(pod, |context| is_root(context).then_some("")).joined()?;
    Some(Finding { reason: "runAsUser=0", detail: format!("{setters} must not set runAsUser=0") })
}

pub(super) fn seccomp_profile(pod: Pod<'_>, version: Version) -> Option<Finding> {
    if is_for_windows(pod, version) {
        return None;
    }
    if let Some(finding) = bad_seccomp(pod) {
        return Some(finding);
    }
    let silent = silent_containers(pod, |context| context.get("seccompProfile").is_some())?;
    Some(Finding {
        reason: "seccompProfile",
        detail: format!(
            "pod or {silent} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        ),
    })
}
