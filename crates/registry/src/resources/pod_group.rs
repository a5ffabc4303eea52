//! Workload and PodGroup: pods that are scheduled together, and what such groups are made from.

use apimachinery::{Value, value};

use super::pod_group_checks as checks;
use crate::declaration::{Alternative, Declaration, MetadataChecks};
use crate::{Rules, metadata};

const GROUP: &str = "scheduling.k8s.io";
const VERSION: &str = "v1beta1";
const OTHERS: &[Alternative] = &[Alternative::same(GROUP, "v1alpha3")];
/// Fields of a group and of templates that belong to features which are off: `DRAWorkloadResourceClaims`,
/// `PodGroupPreemptionPolicy`, `CompositePodGroup`.
const OFF: &[&str] = &["resourceClaims", "preemptionPolicy", "parentCompositePodGroupName"];
/// The one that belongs to `TopologyAwareWorkloadScheduling`.
const CONSTRAINTS: &str = "schedulingConstraints";

/// With constraints of topology, or without.
pub(super) fn resource<const TOPOLOGY: bool>() -> Declaration {
    Declaration {
        group: GROUP,
        version: VERSION,
        resource: "podgroups",
        alternatives: OTHERS,
        default: |it| {
            it.default_at(&["spec", "disruptionMode"], value!({"single": {}}));
        },
        name: metadata::subdomain_name,
        prepare_create: |it| drop_off::<TOPOLOGY>(it.member_mut("spec"), None),
        prepare_update: |it, old| drop_off::<TOPOLOGY>(it.member_mut("spec"), old.get("spec")),
        prepare_status: |it, old| {
            if old.items_at(&["spec", "resourceClaims"]).is_empty() {
                it.remove_at(&["status", "resourceClaimStatuses"]);
            }
        },
        validate_create: |it, errors| checks::group(&it["spec"], None, errors),
        validate_update: |it, old, errors| checks::group(&it["spec"], Some(&old["spec"]), errors),
        validate_status: |it, _, errors| checks::status(it, errors),
        metadata_checks: MetadataChecks::Update,
        rules: Rules { has_status: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

/// With constraints of topology, or without.
pub(super) fn workload<const TOPOLOGY: bool>() -> Declaration {
    Declaration {
        group: GROUP,
        version: VERSION,
        resource: "workloads",
        alternatives: OTHERS,
        prepare_create: |it| drop_of_templates::<TOPOLOGY>(it, None),
        prepare_update: |it, old| drop_of_templates::<TOPOLOGY>(it, Some(old)),
        validate_create: |it, errors| checks::workload(&it["spec"], None, errors),
        validate_update: |it, old, errors| {
            checks::workload(&it["spec"], Some(&old["spec"]), errors);
        },
        metadata_checks: MetadataChecks::Update,
        ..Declaration::PLAIN
    }
}

/// Drops what belongs to features that are off, unless it was there before.
fn drop_off<const TOPOLOGY: bool>(spec: &mut Value, old: Option<&Value>) {
    let constraints = Some(&CONSTRAINTS).filter(|_| !TOPOLOGY);
    for member in OFF.iter().chain(constraints) {
        if old.and_then(|it| it.get(member)).is_none() {
            spec.remove_at(&[member]);
        }
    }
}

fn drop_of_templates<const TOPOLOGY: bool>(workload: &mut Value, old: Option<&Value>) {
    let before = old.map_or(&[][..], |it| it.items_at(&["spec", "podGroupTemplates"]));
    for template in workload.items_at_mut(&["spec", "podGroupTemplates"]) {
        let name = template.str_at(&["name"]).to_owned();
        drop_off::<TOPOLOGY>(template, before.iter().find(|it| it.str_at(&["name"]) == name));
    }
}
