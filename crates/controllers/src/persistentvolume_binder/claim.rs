//! What is planned for a claim: the volume that suits it best, or having one made.

use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use client::events::EventType;
use client::indexes::{BY_CLAIM, FOR_CLAIM, UNBOUND, claim_entry, unbound_entry};
use controller::{Event, Plan, Snapshot};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::provision::{
    PROVISIONER, default_class, provisioner, waiting_for, with_default_class, with_migration,
    with_provisioner,
};
use super::{Memory, Metrics, TELL_AGAIN, about, full_name, in_phase, name, uid, update};
use client::volumes::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, annotation, best, class, is_meant_for,
    leaves_class_open, satisfies, with_claim,
};

/// What it sees of a claim.
#[derive(Debug)]
pub struct Observed {
    claim: Arc<Value>,
    /// The volume that it names.
    named: Option<Arc<Value>>,
    /// Volumes that nobody has, and those that are meant for it.
    candidates: Vec<Arc<Value>>,
    class: Option<Arc<Value>>,
    /// The class that it gets when it names none.
    default: Option<Arc<Value>>,
    /// Pods that have it and no node yet.
    pods: Vec<String>,
    /// Whether volumes are made for claims.
    provisions: bool,
}

pub(super) fn observe(snapshot: &Snapshot, key: &ObjectKey, provisions: bool) -> Option<Observed> {
    let claim = snapshot.store::<PersistentVolumeClaim>().get(key)?.value();
    let (volumes, classes) =
        (snapshot.store::<PersistentVolume>(), snapshot.store::<StorageClass>());
    let cluster_wide = |name: &str| ObjectKey::new("", name);
    let volume_name = claim.str_at(&["spec", "volumeName"]);
    let named = volumes.get(&cluster_wide(volume_name)).map(|it| it.value());
    let looks = volume_name.is_empty() && annotation(&claim, BIND_COMPLETED).is_none();
    let mut seen = Observed {
        class: classes.get(&cluster_wide(class(&claim))).map(|it| it.value()),
        claim,
        named,
        candidates: Vec::new(),
        default: None,
        pods: Vec::new(),
        provisions,
    };
    if !looks {
        return Some(seen);
    }
    let own = claim_entry(&key.namespace, &key.name);
    let meant = volumes.by_index(FOR_CLAIM, &own);
    let free = volumes.by_index(UNBOUND, &unbound_entry(class(&seen.claim)));
    seen.candidates = meant.iter().chain(&free).map(|it| it.value()).collect();
    if leaves_class_open(&seen.claim) {
        let all: Vec<Arc<Value>> = classes.list("").iter().map(|it| it.value()).collect();
        seen.default = default_class(all.iter().map(|it| &**it)).cloned().map(Arc::new);
    }
    if waits(&seen) {
        let pods = snapshot.store::<Pod>().by_index(BY_CLAIM, &own);
        let unscheduled = pods.iter().filter(|it| it.pod().node.is_empty() && !it.pod().is_over());
        seen.pods = unscheduled.map(|it| it.key.name.to_string()).collect();
        seen.pods.sort_unstable();
    }
    Some(seen)
}

/// Whether its class says that claims are bound when a pod needs them.
fn waits(observed: &Observed) -> bool {
    let class = observed.class.as_ref();
    class.is_some_and(|it| it.str_at(&["volumeBindingMode"]) == "WaitForFirstConsumer")
}

pub(super) fn plan(
    observed: &Observed,
    (memory, metrics): (&mut Memory, &Metrics),
    now: Timestamp,
) -> Plan {
    let claim = &*observed.claim;
    let mut told = Told { memory, now };
    let maker = PROVISIONER.iter().find_map(|key| annotation(claim, key));
    if let Some(claim) = maker.and_then(|it| with_migration(claim, it)) {
        let mut plan = Plan::nothing();
        plan.act(update::<PersistentVolumeClaim>("", claim));
        return plan;
    }
    if annotation(claim, BIND_COMPLETED).is_some() {
        return bound(observed, now);
    }
    match (&observed.named, claim.str_at(&["spec", "volumeName"])) {
        (_, "") => choose(observed, &mut told, metrics),
        (None, _) => pending(claim),
        (Some(volume), _) => take_named(claim, volume, &mut told),
    }
}

/// It was bound once: it is bound still, or lost.
fn bound(observed: &Observed, now: Timestamp) -> Plan {
    let claim = &*observed.claim;
    if claim.str_at(&["spec", "volumeName"]).is_empty() {
        let message =
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lost(claim, "ClaimLost", message);
    }
    let Some(volume) = &observed.named else {
        let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lost(claim, "ClaimLost", message);
    };
    let unclaimed = volume.at(&["spec", "claimRef"]).is_none_or(Value::is_null);
    if unclaimed || volume.str_at(&["spec", "claimRef", "uid"]) == uid(claim) {
        return bind(volume, claim, now);
    }
    let message = "Two claims are bound to the same volume, this one is bound incorrectly";
    lost(claim, "ClaimMisbound", message)
}

/// It names no volume: the best there is, or one is made.
fn choose(observed: &Observed, told: &mut Told<'_>, metrics: &Metrics) -> Plan {
    let claim = &*observed.claim;
    let candidates = observed.candidates.iter().map(|it| &**it);
    if let Some(volume) = best(claim, candidates, waits(observed)) {
        return bind(volume, claim, told.now);
    }
    if let Some(claim) = with_default_class(claim, observed.default.as_deref()) {
        let mut plan = Plan::nothing();
        plan.act(update::<PersistentVolumeClaim>("", claim)).counters = Some(metrics.of_class());
        return plan;
    }
    if waits(observed) && annotation(claim, SELECTED_NODE).is_none() {
        let (reason, message) = match observed.pods.as_slice() {
            [] => (
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding".to_owned(),
            ),
            [pod] => ("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => (
                "WaitForPodScheduled",
                format!("waiting for pods {} to be scheduled", pods.join(",")),
            ),
        };
        let mut plan = pending(claim);
        told.tell(&mut plan, claim, EventType::Normal, reason, message);
        return plan;
    }
    if class(claim).is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        let mut plan = pending(claim);
        told.tell(&mut plan, claim, EventType::Normal, "FailedBinding", message.to_owned());
        return plan;
    }
    if !observed.provisions {
        return Plan::nothing();
    }
    provision(observed, told)
}

fn provision(observed: &Observed, told: &mut Told<'_>) -> Plan {
    let claim = &*observed.claim;
    let mut plan = Plan::nothing();
    let maker = match &observed.class {
        Some(class) => provisioner(class),
        None => Err(format!("storageclass.storage.k8s.io \"{}\" not found", class(claim))),
    };
    match maker {
        Err(message) => {
            told.tell(&mut plan, claim, EventType::Warning, "ProvisioningFailed", message);
        }
        Ok(maker) => {
            if let Some(claim) = with_provisioner(claim, &maker.name) {
                plan.act(update::<PersistentVolumeClaim>("", claim));
            } else if let Some(refusal) = maker.refusal {
                let message = refusal.to_owned();
                told.tell(&mut plan, claim, EventType::Warning, "ProvisioningFailed", message);
            } else {
                let message = waiting_for(&maker.name);
                told.tell(&mut plan, claim, EventType::Normal, "ExternalProvisioning", message);
            }
        }
    }
    plan
}

/// It names a volume that is there.
fn take_named(claim: &Value, volume: &Value, told: &mut Told<'_>) -> Plan {
    if volume.at(&["spec", "claimRef"]).is_none_or(Value::is_null) {
        let Err(why) = satisfies(claim, volume) else { return bind(volume, claim, told.now) };
        let message = format!("Cannot bind to requested volume \"{}\": {why}", name(volume));
        let mut plan = pending(claim);
        told.tell(&mut plan, claim, EventType::Warning, "VolumeMismatch", message);
        return plan;
    }
    if is_meant_for(volume, claim) {
        return bind(volume, claim, told.now);
    }
    let mut plan = pending(claim);
    let message = format!("volume \"{}\" already bound to a different claim.", name(volume));
    told.tell(&mut plan, claim, EventType::Warning, "FailedBinding", message);
    if annotation(claim, BOUND_BY_CONTROLLER).is_some() {
        let reference = |member| volume.str_at(&["spec", "claimRef", member]);
        plan.error = Some(format!(
            "invalid binding of claim \"{}\" to volume \"{}\": volume already claimed by \"{}/{}\"",
            full_name(claim),
            name(volume),
            reference("namespace"),
            reference("name")
        ));
    }
    plan
}

/// The next step of a binding: the volume's claim, the volume's phase, the claim's volume, the claim's phase. What is
/// written is seen again, and then the next is planned.
fn bind(volume: &Value, claim: &Value, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if !is_meant_for(volume, claim) || volume.str_at(&["spec", "claimRef", "uid"]) != uid(claim) {
        plan.act(update::<PersistentVolume>("", with_claim(volume, claim)));
        return plan;
    }
    if let Some(write) = in_phase(volume, "Bound", "", now) {
        plan.act(write);
    }
    if let Some(claim) = with_volume(claim, volume) {
        plan.then().act(update::<PersistentVolumeClaim>("", claim));
    } else if let Some(claim) = in_bound_phase(claim, volume) {
        plan.then().act(update::<PersistentVolumeClaim>("status", claim));
    }
    plan
}

/// A claim that says that it has the volume; `None` where it does.
fn with_volume(claim: &Value, volume: &Value) -> Option<Value> {
    let names_it = claim.str_at(&["spec", "volumeName"]) == name(volume);
    if names_it && annotation(claim, BIND_COMPLETED).is_some() {
        return None;
    }
    let mut changed = claim.clone();
    if !names_it {
        changed.set_at(&["spec", "volumeName"], name(volume));
        changed.set_at(&["metadata", "annotations", BOUND_BY_CONTROLLER], "yes");
    }
    changed.set_at(&["metadata", "annotations", BIND_COMPLETED], "yes");
    Some(changed)
}

/// A claim with the phase and what its volume gives; `None` where it has that. The size is the volume's when the claim
/// is bound; later it moves with the file system on it.
fn in_bound_phase(claim: &Value, volume: &Value) -> Option<Value> {
    let mut changed = claim.clone();
    if claim.str_at(&["status", "phase"]) != "Bound" {
        changed.set_at(&["status", "phase"], "Bound");
        let capacity = volume.at(&["spec", "capacity"]).cloned().unwrap_or_else(Value::object);
        changed.set_at(&["status", "capacity"], capacity);
    }
    let modes = volume.at(&["spec", "accessModes"]).cloned().unwrap_or_default();
    changed.set_at(&["status", "accessModes"], modes);
    match volume.str_at(&["spec", "volumeAttributesClassName"]) {
        "" => {}
        class => changed.set_at(&["status", "currentVolumeAttributesClassName"], class),
    }
    (changed != *claim).then_some(changed)
}

/// It waits.
fn pending(claim: &Value) -> Plan {
    let mut plan = Plan::nothing();
    if let Some(claim) = without_volume(claim, "Pending") {
        plan.act(update::<PersistentVolumeClaim>("status", claim));
    }
    plan
}

fn lost(claim: &Value, reason: &'static str, message: &str) -> Plan {
    let mut plan = Plan::nothing();
    if let Some(changed) = without_volume(claim, "Lost") {
        let about = about("PersistentVolumeClaim", claim);
        let event = Event { about, kind: EventType::Warning, reason, message: message.to_owned() };
        plan.act(update::<PersistentVolumeClaim>("status", changed)).on_success = Some(event);
    }
    plan
}

/// A claim in a phase in which it has no volume; `None` where it is in it.
fn without_volume(claim: &Value, phase: &str) -> Option<Value> {
    let mut changed = claim.clone();
    changed.set_at(&["status", "phase"], phase);
    changed.remove_at(&["status", "accessModes"]);
    changed.remove_at(&["status", "capacity"]);
    (changed != *claim).then_some(changed)
}

/// Tells what keeps a claim waiting, not over and over.
struct Told<'m> {
    memory: &'m mut Memory,
    now: Timestamp,
}

impl Told<'_> {
    fn tell(
        &mut self,
        plan: &mut Plan,
        claim: &Value,
        kind: EventType,
        reason: &'static str,
        message: String,
    ) {
        let since = self.memory.at.map(|at| self.now.duration_since(at));
        if self.memory.told != message || since.is_none_or(|it| it >= TELL_AGAIN) {
            self.memory.told.clone_from(&message);
            self.memory.at = Some(self.now);
            plan.event(about("PersistentVolumeClaim", claim), kind, reason, message);
        }
        let last = self.memory.at.unwrap_or(self.now);
        plan.requeue_by(last + TELL_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;
    use controller::Action;

    use super::*;

    fn claim() -> Value {
        value!({"metadata": {"name": "c", "namespace": "n", "uid": "U", "resourceVersion": "1"},
            "spec": {"accessModes": ["RWO"], "storageClassName": "s", "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}})
    }

    fn volume() -> Value {
        value!({"metadata": {"name": "v"}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["RWO"], "storageClassName": "s"}})
    }

    fn observed(claim: Value) -> Observed {
        Observed {
            claim: Arc::new(claim),
            named: None,
            candidates: Vec::new(),
            class: None,
            default: None,
            pods: Vec::new(),
            provisions: true,
        }
    }

    /// The writes and events of a plan, in order.
    fn text(plan: &Plan) -> String {
        let actions = plan.stages.iter().flat_map(|it| &it.actions);
        let mut did: Vec<String> = actions
            .map(|it| {
                let Action::Update { resource, subresource, object } = &it.action else {
                    return "other".to_owned();
                };
                let phase = object.str_at(&["status", "phase"]);
                let event = it.on_success.as_ref().map(|it| it.reason).unwrap_or_default();
                let what = if subresource.is_empty() { "" } else { phase };
                format!("{} {what}{event}", resource.plural).trim().to_owned()
            })
            .collect();
        did.extend(plan.events.iter().map(|it| format!("{}: {}", it.reason, it.message)));
        did.join("; ")
    }

    fn check(observed: &Observed, expected: &str) {
        let plan =
            plan(observed, (&mut Memory::default(), &Metrics::default()), Timestamp::UNIX_EPOCH);
        assert_eq!(text(&plan), expected);
    }

    #[test]
    fn binding_goes_step_by_step_and_is_quiet_in_the_end() {
        let (mut claim, mut volume) = (claim(), volume());
        let mut steps = Vec::new();
        for _ in 0..6 {
            let mut seen = observed(claim.clone());
            seen.candidates = vec![Arc::new(volume.clone())];
            if !claim.str_at(&["spec", "volumeName"]).is_empty() {
                seen.named = Some(Arc::new(volume.clone()));
            }
            let plan =
                plan(&seen, (&mut Memory::default(), &Metrics::default()), Timestamp::UNIX_EPOCH);
            steps.push(text(&plan));
            for planned in plan.stages.into_iter().flat_map(|it| it.actions) {
                let Action::Update { resource, object, .. } = planned.action else { continue };
                let target =
                    if resource.plural == "persistentvolumes" { &mut volume } else { &mut claim };
                *target = object;
            }
        }
        assert_eq!(
            steps,
            [
                "persistentvolumes",
                "persistentvolumes Bound; persistentvolumeclaims",
                "persistentvolumeclaims Bound",
                "",
                "",
                ""
            ]
        );
        assert_eq!(claim.str_at(&["status", "capacity", "storage"]), "1Gi");
        assert_eq!(volume.str_at(&["spec", "claimRef", "uid"]), "U");
        assert_eq!(annotation(&volume, BOUND_BY_CONTROLLER), Some("yes"));
    }

    #[test]
    fn a_claim_without_a_volume_says_what_it_waits_for() {
        let mut seen = observed(claim());
        check(&seen, "ProvisioningFailed: storageclass.storage.k8s.io \"s\" not found");
        let class = |mode: &str| {
            Some(Arc::new(value!({"provisioner": "example.com/p", "volumeBindingMode": mode})))
        };
        seen.class = class("Immediate");
        check(&seen, "persistentvolumeclaims");
        seen.class = class("WaitForFirstConsumer");
        check(
            &seen,
            "WaitForFirstConsumer: waiting for first consumer to be created before binding",
        );
        seen.pods = vec!["a".into(), "b".into()];
        check(&seen, "WaitForPodScheduled: waiting for pods a,b to be scheduled");
        let mut chosen = claim();
        chosen.set_at(&["metadata", "annotations", SELECTED_NODE], "n1");
        seen.claim = Arc::new(chosen);
        check(&seen, "persistentvolumeclaims");
        let mut plain = claim();
        plain.set_at(&["spec", "storageClassName"], "");
        check(
            &observed(plain),
            "FailedBinding: no persistent volumes available for this claim and no storage class is set",
        );
    }

    #[test]
    fn a_bound_claim_whose_volume_is_gone_is_lost() {
        let mut lost = claim();
        lost.set_at(&["metadata", "annotations", BIND_COMPLETED], "yes");
        lost.set_at(&["spec", "volumeName"], "v");
        let mut seen = observed(lost);
        check(&seen, "persistentvolumeclaims LostClaimLost");
        let mut other = volume();
        other.set_at(&["spec", "claimRef"], value!({"name": "c", "namespace": "n", "uid": "X"}));
        seen.named = Some(Arc::new(other));
        check(&seen, "persistentvolumeclaims LostClaimMisbound");
    }

    #[test]
    fn the_same_is_not_told_twice_in_a_row() {
        let (seen, mut memory) = (observed(claim()), Memory::default());
        let mut told = |now| plan(&seen, (&mut memory, &Metrics::default()), now).events.len();
        let start = Timestamp::UNIX_EPOCH;
        assert_eq!((told(start), told(start), told(start + TELL_AGAIN)), (1, 0, 1));
    }
}
