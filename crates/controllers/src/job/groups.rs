//! The group of a job's pods, where `WorkloadWithJob` is on: a Workload that says how they are scheduled, and the PodGroup made
//! from it, both before the first pod. Upstream: `job_scheduling_manager.go`.

use std::sync::Arc;

use apimachinery::hash::{fnv1a, safe_encode};
use apimachinery::{Value, value};
use client::call::PatchKind;
use client::events::EventType;
use client::{ObjectKey, Resource};
use controller::{Action, Event, Plan, Snapshot};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1beta1::{PodGroup, Workload};

use crate::owner::{self, Owner, reference_to, to_value};

/// Says of a job whose parent makes the Workload that the job makes its own group, from this template.
const TEMPLATE: &str = "scheduling.k8s.io/podgroup-template";
/// The longest name.
const NAME_MAX: usize = 253;

/// Workloads and groups that may be a job's.
#[derive(Debug, Default)]
pub struct Groups {
    /// Those that name the job, or what controls it.
    workloads: Vec<Arc<Value>>,
    /// Those that the job controls.
    groups: Vec<Arc<Value>>,
}

/// What there is to do before pods are made.
pub(super) enum Step {
    /// Pods are in no group.
    Alone,
    /// They are in this one.
    In(String),
    /// Something is made first: nothing else is done in this plan.
    Wait,
}

/// Who makes what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nobody here.
    Nothing,
    /// The job makes both.
    Both,
    /// What controls the job has made the Workload.
    GroupOnly,
}

fn mode(job: &Job) -> Mode {
    let template = job.spec.as_ref().and_then(|it| it.template.spec.as_ref());
    if template.is_some_and(|it| it.scheduling_group.is_some()) {
        return Mode::Nothing;
    }
    if owner::controller_of(&job.metadata).is_none() {
        return Mode::Both;
    }
    let delegated = job.metadata.annotations.as_ref().is_some_and(|it| it.contains_key(TEMPLATE));
    if delegated { Mode::GroupOnly } else { Mode::Nothing }
}

impl Groups {
    /// Looks for them.
    pub(super) fn seen(snapshot: &Snapshot, job: &Job) -> Self {
        if mode(job) == Mode::Nothing {
            return Self::default();
        }
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let of = |resource: &Resource| {
            let all = snapshot.store_for(resource).list(namespace);
            all.iter().map(|it| it.value()).collect::<Vec<_>>()
        };
        let (group, kind, name) = made_for(job);
        let mut workloads = of(&Resource::of::<Workload>());
        workloads.retain(|it| {
            let at = |member: &str| it.str_at(&["spec", "controllerRef", member]);
            (at("apiGroup"), at("kind"), at("name"))
                == (group.as_str(), kind.as_str(), name.as_str())
        });
        let mut groups = of(&Resource::of::<PodGroup>());
        groups.retain(|it| is_controlled(it, job));
        Self { workloads, groups }
    }
}

/// Whom a job's Workload names: the job, or what controls it.
fn made_for(job: &Job) -> (String, String, String) {
    match owner::controller_of(&job.metadata) {
        None => {
            let name = job.metadata.name.clone().unwrap_or_default();
            ("batch".into(), "Job".into(), name)
        }
        Some(parent) => {
            let group = parent.api_version.split_once('/').map_or("", |it| it.0);
            (group.to_owned(), parent.kind.clone(), parent.name.clone())
        }
    }
}

fn is_controlled(object: &Value, job: &Job) -> bool {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let owners = object.items_at(&["metadata", "ownerReferences"]);
    owners.iter().any(|it| it.bool_at(&["controller"]) && it.str_at(&["uid"]) == uid)
}

/// Whether a job has never begun: one that has keeps what it has.
fn is_new(job: &Job, pods: &[Arc<Pod>]) -> bool {
    let Some(status) = &job.status else { return pods.is_empty() };
    let suspended =
        status.conditions.iter().flatten().any(|it| it.type_ == super::conditions::SUSPENDED);
    pods.is_empty()
        && !suspended
        && status.start_time.is_none()
        && status.succeeded.unwrap_or_default() == 0
        && status.failed.unwrap_or_default() == 0
}

/// Makes what is missing of a job's Workload and group, and follows a changed size.
pub(super) fn ensure(plan: &mut Plan, job: &Job, pods: &[Arc<Pod>], seen: &Groups) -> Step {
    let (mode, new) = (mode(job), is_new(job, pods));
    let template_name = match mode {
        Mode::Nothing => return Step::Alone,
        Mode::Both => "",
        Mode::GroupOnly => {
            let annotations = job.metadata.annotations.as_ref();
            annotations.and_then(|it| it.get(TEMPLATE)).map_or("", String::as_str)
        }
    };
    let own = |it: &&Arc<Value>| mode == Mode::GroupOnly || is_controlled(it, job);
    let workloads: Vec<&Arc<Value>> = seen.workloads.iter().filter(own).collect();
    let workload = match workloads.as_slice() {
        [] if mode == Mode::Both && new => {
            plan.add(workload_creation(job));
            return Step::Wait;
        }
        [] => return Step::Alone,
        [workload] => workload,
        [workload, ..] if mode == Mode::GroupOnly => workload,
        several => {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            tracing::warn!(
                job = name,
                count = several.len(),
                "a job has several workloads: its pods are in no group"
            );
            return Step::Alone;
        }
    };
    let templates = workload.items_at(&["spec", "podGroupTemplates"]);
    if mode == Mode::Both && templates.len() != 1 {
        plan.error = Some(format!(
            "workload {} for job {} has {} PodGroupTemplates, want exactly 1",
            key(workload),
            owner::key_of(&job.metadata),
            templates.len()
        ));
        return Step::Wait;
    }
    let named = |it: &&Value| template_name.is_empty() || it.str_at(&["name"]) == template_name;
    let Some(template) = templates.iter().find(named) else { return Step::Alone };
    let name = workload.str_at(&["metadata", "name"]);
    let of = |it: &&Arc<Value>| it.str_at(&["spec", "workloadRef", "workloadName"]) == name;
    let groups: Vec<&Arc<Value>> = seen.groups.iter().filter(of).collect();
    let group = match groups.as_slice() {
        [] if new => {
            plan.add(group_creation(job, workload, template, mode == Mode::Both));
            return Step::Wait;
        }
        [] => return Step::Alone,
        [group] => group,
        several => {
            tracing::warn!(
                workload = name,
                count = several.len(),
                "a workload has several groups: a job's pods are in none"
            );
            return Step::Alone;
        }
    };
    let wanted = match mode {
        Mode::GroupOnly => template.i64_at(&["schedulingPolicy", "gang", "minCount"]),
        Mode::Both | Mode::Nothing => policy(job).i64_at(&["gang", "minCount"]),
    };
    if let Some(count) = wanted {
        resize(plan, workload, group, count, mode);
    }
    Step::In(group.str_at(&["metadata", "name"]).to_owned())
}

fn key(object: &Value) -> ObjectKey {
    ObjectKey::new(object.str_at(&["metadata", "namespace"]), object.str_at(&["metadata", "name"]))
}

/// How the pods are scheduled: as the job says, each for itself where it says nothing; of a gang whose size is not said all
/// that run at once.
fn policy(job: &Job) -> Value {
    let Some(spec) = &job.spec else { return value!({"basic": {}}) };
    let said = spec.scheduling.as_ref().and_then(|it| it.scheduling_policy.as_ref());
    match said.and_then(|it| it.gang.as_ref()) {
        None => value!({"basic": {}}),
        Some(gang) => {
            let all = spec.parallelism.unwrap_or(1).max(1);
            let count = i64::from(gang.min_count.unwrap_or(all));
            value!({"gang": {"minCount": count}})
        }
    }
}

/// The size of the gang is the one thing that may change.
fn resize(plan: &mut Plan, workload: &Value, group: &Value, count: i64, mode: Mode) {
    let differs =
        |policy: &Value| policy.i64_at(&["gang", "minCount"]).is_some_and(|before| before != count);
    let template = &workload.items_at(&["spec", "podGroupTemplates"])[0];
    if mode == Mode::Both && differs(&template["schedulingPolicy"]) {
        let mut changed = template.clone();
        changed.set_at(&["schedulingPolicy", "gang", "minCount"], count);
        let patch = value!({"spec": {"podGroupTemplates": [changed]}});
        plan.act(patch_of(Resource::of::<Workload>(), workload, patch));
    }
    if differs(&group["spec"]["schedulingPolicy"]) {
        let patch = value!({"spec": {"schedulingPolicy": {"gang": {"minCount": count}}}});
        plan.act(patch_of(Resource::of::<PodGroup>(), group, patch));
    }
}

fn patch_of(resource: Resource, object: &Value, mut patch: Value) -> Action {
    patch.set_at(&["metadata", "uid"], object.str_at(&["metadata", "uid"]));
    let (key, kind) = (key(object), PatchKind::Merge);
    Action::Patch { resource, key, subresource: "", kind, patch, gone_is_fine: false }
}

fn event(job: &Job, kind: EventType, reason: &'static str, message: String) -> Event {
    Event { about: reference_to("batch/v1", "Job", &job.metadata), kind, reason, message }
}

/// A Workload of one template.
fn workload_creation(job: &Job) -> controller::plan::PlannedAction {
    let owner = Owner { api_version: "batch/v1", kind: "Job", metadata: &job.metadata };
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut template = value!({"name": (format!("{name}-pgt-0"))});
    template.set_at(&["schedulingPolicy"], policy(job));
    let spec = job.spec.as_ref();
    let scheduling = spec.and_then(|it| it.scheduling.as_ref());
    if let Some(mode) = scheduling.and_then(|it| it.disruption_mode.as_ref()) {
        template.set_at(&["disruptionMode"], to_value(mode));
    }
    if let Some(constraints) = scheduling.and_then(|it| it.scheduling_constraints.as_ref()) {
        template.set_at(&["schedulingConstraints"], to_value(constraints));
    }
    let class = spec.and_then(|it| it.template.spec.as_ref()?.priority_class_name.as_ref());
    if let Some(class) = class.filter(|it| !it.is_empty()) {
        template.set_at(&["priorityClassName"], class.as_str());
    }
    let object = value!({
        "apiVersion": "scheduling.k8s.io/v1beta1", "kind": "Workload",
        "metadata": {"name": (workload_name(job)), "ownerReferences": [(owner.reference())]},
        "spec": {"controllerRef": {"apiGroup": "batch", "kind": "Job", "name": name},
            "podGroupTemplates": [template]}
    });
    let created = format!("Created Workload {{name}} for Job {name}");
    let failed = format!("Failed to create Workload for Job {name}: {{error}}");
    controller::plan::PlannedAction::new(
        creation(Resource::of::<Workload>(), job, object),
        Some(event(job, EventType::Normal, "WorkloadCreated", created)),
        vec![event(job, EventType::Warning, "FailedWorkloadCreate", failed)],
    )
}

/// A group as the template says.
fn group_creation(
    job: &Job,
    workload: &Value,
    template: &Value,
    owned: bool,
) -> controller::plan::PlannedAction {
    let owner = Owner { api_version: "batch/v1", kind: "Job", metadata: &job.metadata };
    let (workload_name, name) =
        (workload.str_at(&["metadata", "name"]), template.str_at(&["name"]));
    let mut owners = vec![owner.reference()];
    if owned {
        let uid = workload.str_at(&["metadata", "uid"]);
        owners.push(value!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "Workload",
            "name": workload_name, "uid": uid}));
    }
    let mut spec = template.clone();
    spec.remove_at(&["name"]);
    spec.set_at(&["workloadRef"], value!({"workloadName": workload_name, "templateName": name}));
    let mut object = value!({
        "apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
        "metadata": {"name": (group_name(workload_name, name))}
    });
    object.set_at(&["metadata", "ownerReferences"], Value::Array(owners));
    object.set_at(&["spec"], spec);
    let job_name = job.metadata.name.as_deref().unwrap_or_default();
    let created = format!("Created PodGroup {{name}} for Job {job_name}");
    controller::plan::PlannedAction::new(
        creation(Resource::of::<PodGroup>(), job, object),
        Some(event(job, EventType::Normal, "PodGroupCreated", created)),
        Vec::new(),
    )
}

fn creation(resource: Resource, job: &Job, object: Value) -> Action {
    let namespace = job.metadata.namespace.clone().unwrap_or_default();
    Action::Create { resource, namespace, object, exists_is_fine: false }
}

/// As much of a name as fits.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.len().min(most)]
}

/// The job's name, and a hash of its uid.
fn workload_name(job: &Job) -> String {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    // As Go shows a uid.
    let hash = safe_encode(&fnv1a(format!("(types.UID){uid}").as_bytes()).to_string());
    let name = job.metadata.name.as_deref().unwrap_or_default();
    format!("{}-{hash}", cut(name, NAME_MAX - hash.len() - 1))
}

/// The names of Workload and template, and a hash of both.
fn group_name(workload: &str, template: &str) -> String {
    let hash = safe_encode(&fnv1a(format!("{workload}{template}").as_bytes()).to_string());
    let room = NAME_MAX - hash.len() - 2;
    let half = room / 2;
    let (workload, template) = if workload.len() + template.len() <= room {
        (workload, template)
    } else if workload.len() <= half {
        (workload, cut(template, room - workload.len()))
    } else if template.len() <= half {
        (cut(workload, room - template.len()), template)
    } else {
        (cut(workload, room - half), cut(template, half))
    };
    format!("{workload}-{template}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_within_their_length() {
        let long = "x".repeat(250);
        for (workload, template) in [("w", "t"), ("w", &long), (&long, "t"), (&long, &long)] {
            let name = group_name(workload, template);
            assert!(name.len() <= NAME_MAX, "{}", name.len());
        }
    }

    #[test]
    fn a_gang_is_as_large_as_it_says_or_as_many_as_run_at_once() {
        let of = |spec: Value| {
            let job = value!({"metadata": {"name": "j"}, "spec": spec});
            let text = apimachinery::json::to_vec(&job);
            policy(&serde_json::from_slice::<Job>(&text).unwrap())
        };
        let basic = value!({"basic": {}});
        assert_eq!(of(value!({"parallelism": 4, "template": {}})), basic);
        let gang = |gang: Value| {
            of(value!({"parallelism": 4, "template": {},
                "scheduling": {"schedulingPolicy": {"gang": gang}}}))
        };
        assert_eq!(gang(value!({})), value!({"gang": {"minCount": 4}}));
        assert_eq!(gang(value!({"minCount": 2})), value!({"gang": {"minCount": 2}}));
    }
}
