//! Pod.

use apimachinery::{Value, value};
use compact_str::CompactString;

use crate::declaration::{Declaration, DeletionRule, FieldLabel};
use crate::pod_spec::{defaults, resources};
use crate::{Generation, Rules};

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "pods",
        default: defaults::pod,
        prepare_create,
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
    FieldLabel::new("status.nominatedNodeName", |pod| text(pod, &["status", "nominatedNodeName"])),
];

fn text(value: &Value, path: &[&str]) -> CompactString {
    value.str_at(path).into()
}

/// A pod begins pending, with the class of its spec.
fn prepare_create(pod: &mut Value) {
    let class = pod.get("spec").map_or("BestEffort", resources::qos_class);
    pod.set_at(&["status"], value!({"phase": "Pending", "qosClass": class}));
    if !pod.items_at(&["spec", "schedulingGates"]).is_empty() {
        let gated = value!({
            "type": "PodScheduled",
            "status": "False",
            "lastProbeTime": null,
            "lastTransitionTime": null,
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates"
        });
        pod.set_at(&["status", "conditions"], vec![gated]);
    }
}
