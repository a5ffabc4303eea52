//! Pod.

use apimachinery::{FieldErrors, Path, Value, value};
use compact_str::CompactString;

use super::{pod_row, pod_status, pod_update};
use crate::declaration::{Declaration, DeletionRule, FieldLabel};
use crate::pod_spec::{
    annotations, containers, defaults, label_keys, resources, validate as checks,
};
use crate::{Generation, Rules};

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "pods",
        default: defaults::pod,
        prepare_create,
        prepare_status: pod_status::prepare,
        prepare_subresource: pod_update::prepare_subresource,
        validate,
        validate_create,
        validate_update: pod_update::validate_update,
        validate_status: pod_status::validate,
        validate_subresource: pod_update::validate_subresource,
        warnings,
        warnings_as_sent: annotations::warnings_as_sent,
        row: pod_row::row,
        fields: FIELDS,
        rules: Rules {
            generation: Generation::Spec,
            has_status: true,
            deletion: DeletionRule::Graceful,
            returns_deleted: true,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

const FIELDS: &[FieldLabel] = &[
    FieldLabel::new("spec.nodeName", |pod| text(pod, &["spec", "nodeName"])),
    FieldLabel::new("spec.restartPolicy", |pod| text(pod, &["spec", "restartPolicy"])),
    FieldLabel::new("spec.schedulerName", |pod| text(pod, &["spec", "schedulerName"])),
    FieldLabel::new("spec.serviceAccountName", |pod| text(pod, &["spec", "serviceAccountName"])),
    FieldLabel::new("spec.hostNetwork", |pod| {
        if pod.bool_at(&["spec", "hostNetwork"]) { "true".into() } else { "false".into() }
    }),
    FieldLabel::new("status.phase", |pod| text(pod, &["status", "phase"])),
    FieldLabel::new("status.podIP", |pod| {
        let first = pod.items_at(&["status", "podIPs"]).first();
        first.map_or_else(|| text(pod, &["status", "podIP"]), |first| text(first, &["ip"]))
    }),
    // Upstream takes it, and knows no pod by it.
    FieldLabel::new("status.podIPs", |_| CompactString::default()),
    FieldLabel::new("status.nominatedNodeName", |pod| text(pod, &["status", "nominatedNodeName"])),
];

fn text(value: &Value, path: &[&str]) -> CompactString {
    value.str_at(path).into()
}

/// A pod begins pending, with the class of its spec.
fn prepare_create(pod: &mut Value) {
    label_keys::merge(pod);
    annotations::to_fields(pod);
    let class = pod.get("spec").map_or("BestEffort", resources::qos_class);
    pod.set_at(&["status"], value!({"phase": "Pending", "qosClass": class}));
    if !pod.items_at(&["spec", "schedulingGates"]).is_empty() {
        let made = pod["metadata"]["creationTimestamp"].clone();
        let gated = value!({
            "type": "PodScheduled",
            "status": "False",
            "lastProbeTime": null,
            "lastTransitionTime": (made),
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates"
        });
        pod.set_at(&["status", "conditions"], vec![gated]);
    }
}

/// Everything wrong with a pod, new or changed.
pub(super) fn validate(pod: &Value, errors: &mut FieldErrors) {
    annotations::validate(pod, &Path::new("metadata").child("annotations"), errors);
    let empty = Value::object();
    let spec = pod.get("spec").unwrap_or(&empty);
    let path = Path::new("spec");
    checks::pod_spec(spec, &path, errors);
    if spec.str_at(&["serviceAccountName"]).is_empty() {
        projected_tokens(spec, &path, errors);
    }
    for list in ["containers", "initContainers"] {
        let at = path.child(list);
        for (index, container) in spec.items_at(&[list]).iter().enumerate() {
            containers::image_without_spaces(container, &at.index(index), errors);
        }
    }
    if !spec.str_at(&["nodeName"]).is_empty() && !spec.items_at(&["schedulingGates"]).is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), detail);
    }
}

/// What a new pod may not have.
fn validate_create(pod: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    if !pod.items_at(&["spec", "ephemeralContainers"]).is_empty() {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    annotations::match_fields(pod, errors);
}

/// A pod without service account has no token to show.
fn projected_tokens(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let volumes = path.child("volumes");
    for (index, volume) in spec.items_at(&["volumes"]).iter().enumerate() {
        let at = volumes.index(index);
        let projected = at.child("projected");
        let sources = projected.child("sources");
        for (index, source) in volume.items_at(&["projected", "sources"]).iter().enumerate() {
            if source.get("serviceAccountToken").is_some() {
                let at = sources.index(index);
                let detail = "must not be specified when serviceAccountName is not set";
                errors.forbidden(&at.child("serviceAccountToken"), detail);
            }
        }
    }
}

/// People make pods and seldom change them: who does is not warned.
fn warnings(pod: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let name = pod.str_at(&["metadata", "name"]);
    let mut found: Vec<String> =
        crate::pod_spec::warnings::of_name(name, "the Pod's hostname").into_iter().collect();
    found.extend(crate::pod_spec::warnings::of(pod, ""));
    found
}
