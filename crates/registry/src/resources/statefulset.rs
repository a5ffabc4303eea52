//! StatefulSet.

use apimachinery::labels::Selector;
use apimachinery::{FieldErrors, Path, Value, value};
use jiff::Timestamp;

use super::{printing, workload};
use crate::Rules;
use crate::apis::Features;
use crate::check;
use crate::declaration::{Declaration, MetadataChecks, Scale};
use crate::pod_spec::claims;
use crate::pod_spec::defaults;
use crate::pod_spec::validate::template as validate_template;
use crate::{status, table};

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "apps",
        resource: "statefulsets",
        warnings,
        default,
        default_gated,
        name: crate::metadata::label_name,
        validate_create: |it, errors| check_spec(it, Checks::CREATE, errors),
        validate_update,
        validate_status,
        row,
        metadata_checks: MetadataChecks::Update,
        rules: Rules { scale: Some(Scale::REPLICAS), ..Declaration::SPEC_AND_STATUS.rules },
        ..Declaration::SPEC_AND_STATUS
    }
}

fn default(value: &mut Value) {
    let spec = value.member_mut("spec");
    spec.default_at(&["podManagementPolicy"], "OrderedReady");
    let strategy = spec.member_mut("updateStrategy");
    if strategy.str_at(&["type"]).is_empty() {
        strategy.set_at(&["type"], "RollingUpdate");
        strategy.default_at(&["rollingUpdate", "partition"], 0);
    } else if strategy.str_at(&["type"]) == "RollingUpdate"
        && strategy.get("rollingUpdate").is_some()
    {
        strategy.default_at(&["rollingUpdate", "partition"], 0);
    }
    spec.default_at(&["persistentVolumeClaimRetentionPolicy", "whenDeleted"], "Retain");
    spec.default_at(&["persistentVolumeClaimRetentionPolicy", "whenScaled"], "Retain");
    spec.default_at(&["replicas"], 1);
    spec.default_at(&["revisionHistoryLimit"], 10);
    for claim in spec.items_at_mut(&["volumeClaimTemplates"]) {
        // Whatever is said: upstream forgets it, and says so itself.
        claim.set_at(&["apiVersion"], "v1");
        claim.set_at(&["kind"], "PersistentVolumeClaim");
        defaults::claim_spec(claim.member_mut("spec"));
        claim.default_at(&["status", "phase"], "Pending");
    }
    defaults::template(Some(spec.member_mut("template")));
}

fn default_gated(features: Features, value: &mut Value) {
    let strategy = value.member_mut("spec").member_mut("updateStrategy");
    let rolls = strategy.str_at(&["type"]) == "RollingUpdate";
    if features.max_unavailable_stateful_set && rolls && strategy.get("rollingUpdate").is_some() {
        strategy.default_at(&["rollingUpdate", "maxUnavailable"], 1);
    }
}

/// What is checked beside all else.
#[derive(Debug, Clone, Copy)]
struct Checks {
    /// What may not change: the name of the service and the templates of claims.
    fixed: bool,
    /// The template's pods.
    pods: bool,
}

impl Checks {
    const CREATE: Self = Self { fixed: true, pods: true };
    /// Of a change. Sets are older than some of the rules: what cannot be put right any more is let be.
    const UPDATE: Self = Self { fixed: false, pods: true };
}

fn check_spec(value: &Value, checks: Checks, errors: &mut FieldErrors) {
    let empty = Value::object();
    let spec = value.get("spec").unwrap_or(&empty);
    let path = Path::new("spec");
    let policy = spec.str_at(&["podManagementPolicy"]);
    match policy {
        "" => errors.required(&path.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        odd => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.invalid_text(&path.child("podManagementPolicy"), odd, detail);
        }
    }
    strategy(spec.get("updateStrategy").unwrap_or(&empty), &path.child("updateStrategy"), errors);
    if let Some(policy) = spec.get("persistentVolumeClaimRetentionPolicy") {
        let at = path.child("persistentVolumeClaimRetentionPolicy");
        for member in ["whenDeleted", "whenScaled"] {
            if check::required_text(policy, member, &at, errors) {
                check::one_of(policy, member, &["Retain", "Delete"], &at, errors);
            }
        }
    }
    check::non_negative(spec, &["replicas", "minReadySeconds"], &path, errors);
    if let Some(ordinals) = spec.get("ordinals") {
        check::non_negative(ordinals, &["start"], &path.child("ordinals"), errors);
    }
    if checks.fixed {
        let list = path.child("volumeClaimTemplates");
        for (index, claim) in spec.items_at(&["volumeClaimTemplates"]).iter().enumerate() {
            let at = list.index(index);
            claims::spec(claim.get("spec").unwrap_or(&empty), &at.child("spec"), errors);
        }
        let label = apimachinery::validation::dns1123_label;
        check::optional_name(spec, "serviceName", label, &path, errors);
    }
    workload::selector(spec, "statefulset", &path, errors);
    template(spec, checks, &path, errors);
    check::non_negative(spec, &["revisionHistoryLimit"], &path, errors);
}

/// Checks the template as its pods will be: with the volumes of their claims.
fn template(spec: &Value, checks: Checks, path: &Path<'_>, errors: &mut FieldErrors) {
    let empty = Value::object();
    let mut template = spec.get("template").unwrap_or(&empty).clone();
    let at = path.child("template");
    match Selector::from_value(spec.get("selector")) {
        Err(_) => {
            check::invalid_selector(&path.child("selector"), &spec["selector"], "", errors);
        }
        Ok(selector) => {
            if !selector.is_everything() {
                workload::template_labels(&selector, &template, &at, errors);
            }
            // Upstream checks the labels of these templates once more than those of others.
            let labels = template.at(&["metadata", "labels"]);
            check::label_map(labels, &at.child("labels"), errors);
            if checks.pods {
                let claims = spec.items_at(&["volumeClaimTemplates"]);
                add_claims(&mut template, claims);
                validate_template(&template, &at, errors);
            }
        }
    }
    workload::lasting_pods(&template, "StatefulSet", &at, errors);
}

/// The volumes that a template's pods have of their claims.
fn add_claims(template: &mut Value, claims: &[Value]) {
    if claims.is_empty() {
        return;
    }
    let names: Vec<&str> = claims.iter().map(|it| it.str_at(&["metadata", "name"])).collect();
    let mut volumes: Vec<Value> = names
        .iter()
        .map(|name| value!({"name": (*name), "persistentVolumeClaim": {"claimName": (*name)}}))
        .collect();
    let own = template.items_at(&["spec", "volumes"]);
    volumes.extend(own.iter().filter(|it| !names.contains(&it.str_at(&["name"]))).cloned());
    template.set_at(&["spec", "volumes"], volumes);
}

fn strategy(strategy: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let rolling = strategy.get("rollingUpdate");
    let at = path.child("rollingUpdate");
    match (strategy.str_at(&["type"]), rolling) {
        ("", _) => errors.required(path, ""),
        ("OnDelete", Some(rolling)) => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            check::invalid_shown(&at, &shown(rolling), detail, errors);
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        ("RollingUpdate", Some(rolling)) => {
            check::non_negative(rolling, &["partition"], &at, errors);
            if let Some(most) = rolling.get("maxUnavailable") {
                let place = at.child("maxUnavailable");
                check::int_or_percent(Some(most), &place, errors);
                if check::int_or_percent_value(Some(most)) == 0 {
                    errors.invalid(&place, most, "cannot be 0");
                }
                check::at_most_all(Some(most), &place, errors);
            }
        }
        (odd, rolling) => {
            let shown = format!(
                "{{\"Type\":{},\"RollingUpdate\":{}}}",
                apimachinery::field::quote(odd),
                rolling.map_or_else(|| "null".into(), shown)
            );
            check::invalid_shown(path, &shown, "must be 'RollingUpdate' or 'OnDelete'", errors);
        }
    }
}

/// A rolling update in the words of upstream's own type.
fn shown(rolling: &Value) -> String {
    let partition = rolling.i64_at(&["partition"]).unwrap_or_default();
    let most = apimachinery::json::to_string(&rolling["maxUnavailable"]);
    format!("{{\"Partition\":{partition},\"MaxUnavailable\":{most}}}")
}

/// What of a stateful set may change.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn validate_update(value: &Value, old: &Value, errors: &mut FieldErrors) {
    let mut wrong_before = FieldErrors::new();
    check_spec(old, Checks::UPDATE, &mut wrong_before);
    let pods = wrong_before.is_empty();
    check_spec(value, Checks { pods, ..Checks::UPDATE }, errors);
    let rest = |it: &Value| {
        let mut spec = it.get("spec").cloned().unwrap_or_default();
        for member in CHANGEABLE {
            spec.remove_at(&[member]);
        }
        for claim in spec.items_at_mut(&["volumeClaimTemplates"]) {
            claim.remove_at(&["status"]);
        }
        spec
    };
    if rest(value) != rest(old) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.forbidden(&Path::new("spec"), detail);
    }
}

fn validate_status(value: &Value, old: &Value, errors: &mut FieldErrors) {
    let counts = [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    workload::status_counts(value, &counts, errors);
    for less in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        workload::at_most(value, less, "replicas", errors);
    }
    let count = |member| value.i64_at(&["status", member]).unwrap_or_default();
    let available = count("availableReplicas");
    if available > count("readyReplicas") {
        let detail = "cannot be greater than status.readyReplicas";
        errors.invalid(&Path::new("status").child("availableReplicas"), &available.into(), detail);
    }
    status::never_less(value, old, "collisionCount", errors);
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = printing::containers(value.at(&["spec", "template", "spec"]));
    let count = |path: &[&str]| value.i64_at(path).unwrap_or_default();
    let ready = format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"]));
    let name = value.str_at(&["metadata", "name"]).into();
    vec![name, ready.into(), table::created(value, now), names, images]
}

fn warnings(set: &Value, old: Option<&Value>) -> Vec<String> {
    let mut found = crate::pod_spec::warnings::of_workload(set, old, &["spec", "template"], false);
    let generation = |it: &Value| it.i64_at(&["metadata", "generation"]);
    if old.is_none_or(|old| generation(old) != generation(set)) {
        for (index, claim) in set.items_at(&["spec", "volumeClaimTemplates"]).iter().enumerate() {
            let at = format!("spec.volumeClaimTemplates[{index}].spec");
            crate::pod_spec::warnings::of_claim(&claim["spec"], &at, &mut found);
        }
        if set.i64_at(&["spec", "revisionHistoryLimit"]).is_some_and(|it| it < 0) {
            let said =
                "a negative value retains all historical revisions; a value >= 0 is recommended";
            found.push(format!("spec.revisionHistoryLimit: {said}"));
        }
    }
    found
}
