//! The claims of pods' ephemeral volumes, which go with the pod. Upstream: `pkg/controller/volume/ephemeral`.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::{Value, value};
use client::events::{EventType, ObjectReference};
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Event, Failure, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct EphemeralVolumes {
    /// What it counts.
    pub metrics: Metrics,
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    creates: Counter,
    failures: Counter,
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let help = "[ALPHA] Number of PersistentVolumeClaim creation requests";
        registry.register("ephemeral_volume_controller_create", help, self.creates.clone());
        let help = "[ALPHA] Number of PersistentVolumeClaim creation requests that failed";
        let name = "ephemeral_volume_controller_create_failures";
        registry.register(name, help, self.failures.clone());
    }
}

/// What it sees of a pod.
#[derive(Debug)]
pub struct Observed {
    pod: Arc<Value>,
    /// The claims that there are of its ephemeral volumes, by name.
    claims: BTreeMap<String, Arc<Value>>,
}

impl Controller for EphemeralVolumes {
    const NAME: &'static str = "ephemeral-volume-controller";
    const SOURCE: &'static str = "ephemeral_volume";
    const QUEUE: &'static str = "ephemeral_volume";
    /// A pod.
    type Key = ObjectKey;
    type Observed = Observed;
    /// How many claims are being made for the pod.
    type Memory = u64;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.on::<Pod>(with_volumes).on::<PersistentVolumeClaim>(of_gone_claim)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let pod = snapshot.store::<Pod>().get(key)?.value();
        let store = snapshot.store::<PersistentVolumeClaim>();
        let names = volumes(&pod).map(|volume| claim_name(&pod, volume));
        let claims = names
            .filter_map(|name| {
                let claim = store.get(&ObjectKey::new(key.namespace.clone(), name.as_str()))?;
                Some((name, claim.value()))
            })
            .collect();
        Some(Observed { pod, claims })
    }

    fn applied(&self, creates: &mut u64, failure: Option<&Failure>) {
        self.metrics.creates.inc_by(std::mem::take(creates));
        if failure.is_some_and(|it| it.is_of("create", "persistentvolumeclaims")) {
            self.metrics.failures.inc();
        }
    }

    fn plan(&self, observed: &Observed, creates: &mut u64, _now: Timestamp) -> Plan {
        let plan = plan(observed);
        *creates = plan.stages.iter().map(|it| it.actions.len() as u64).sum();
        plan
    }
}

fn volumes(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.items_at(&["spec", "volumes"]).iter().filter(|it| it.at(&["ephemeral"]).is_some())
}

fn claim_name(pod: &Value, volume: &Value) -> String {
    format!("{}-{}", pod.str_at(&["metadata", "name"]), volume.str_at(&["name"]))
}

fn with_volumes(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    let new = change.new.as_ref().filter(|it| it.mentions("\"ephemeral\""));
    let concerned = new.is_some_and(|it| volumes(&it.value()).next().is_some());
    if concerned { vec![change.key()] } else { Vec::new() }
}

/// The pod that a claim was made for that is gone.
fn of_gone_claim(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    if change.new.is_some() {
        return Vec::new();
    }
    controller::watches::controllers(change, "Pod")
}

fn plan(observed: &Observed) -> Plan {
    let mut plan = Plan::nothing();
    let pod = &observed.pod;
    let over = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed");
    if over || pod.at(&["metadata", "deletionTimestamp"]).is_some() {
        return plan;
    }
    for volume in volumes(pod) {
        let name = claim_name(pod, volume);
        match observed.claims.get(&name) {
            Some(claim) if is_for(claim, pod) => {}
            Some(_) => {
                let namespace = pod.str_at(&["metadata", "namespace"]);
                let (owner, volume) = (pod.str_at(&["metadata", "name"]), volume.str_at(&["name"]));
                let why = format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{owner} (pod is not owner)"
                );
                let message = format!("ephemeral volume {volume}: {why}");
                plan.event(about(pod), EventType::Warning, "FailedBinding", message);
                plan.error = Some(why);
                return plan;
            }
            None => create(&mut plan, pod, volume, name),
        }
    }
    plan
}

fn is_for(claim: &Value, pod: &Value) -> bool {
    let uid = pod.str_at(&["metadata", "uid"]);
    let owners = claim.items_at(&["metadata", "ownerReferences"]);
    owners.iter().any(|it| it.bool_at(&["controller"]) && it.str_at(&["uid"]) == uid)
}

fn about(pod: &Value) -> ObjectReference {
    ObjectReference { api_version: "v1".into(), kind: "Pod".into(), ..ObjectReference::of(pod) }
}

fn create(plan: &mut Plan, pod: &Value, volume: &Value, name: String) {
    let template = volume.at(&["ephemeral", "volumeClaimTemplate"]);
    let at = |member: &str| template.and_then(|it| it.get(member)).cloned();
    let owner = value!({"apiVersion": "v1", "kind": "Pod", "name": (pod.str_at(&["metadata", "name"])),
        "uid": (pod.str_at(&["metadata", "uid"])), "controller": true, "blockOwnerDeletion": true});
    let metadata = at("metadata").unwrap_or_else(Value::object);
    let namespace = pod.str_at(&["metadata", "namespace"]).to_owned();
    let mut claim = value!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "ownerReferences": [owner]}, "spec": (at("spec").unwrap_or_default())
    });
    for member in ["labels", "annotations"] {
        if let Some(value) = metadata.get(member) {
            claim.set_at(&["metadata", member], value.clone());
        }
    }
    let planned = plan.act(Action::Create {
        resource: Resource::of::<PersistentVolumeClaim>(),
        namespace,
        object: claim,
        exists_is_fine: false,
    });
    planned.on_failure = vec![Event {
        about: about(pod),
        kind: EventType::Warning,
        reason: "ProvisioningFailed",
        message: "ephemeral volume: failed to create PVC: {error}".into(),
    }];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_s_volumes_get_claims_of_their_own() {
        let check = |status: &str, claims: &[&str], expected: &str| {
            let parse = |text: &str| apimachinery::json::parse(text.as_bytes()).unwrap();
            let pod = format!(
                r#"{{"metadata":{{"name":"p","uid":"U","namespace":"n"}},"status":{status},
                "spec":{{"volumes":[{{"name":"v","ephemeral":{{"volumeClaimTemplate":{{"spec":{{"x":1}}}}}}}},{{"name":"w"}}]}}}}"#
            );
            let claims = claims.iter().map(|it| parse(it));
            let claims = claims.map(|it| ("p-v".to_owned(), Arc::new(it))).collect();
            let plan = plan(&Observed { pod: parse(&pod).into(), claims });
            let actions = plan.stages.iter().flat_map(|it| &it.actions);
            let mut did: Vec<String> = actions
                .map(|it| match &it.action {
                    Action::Create { object, .. } => {
                        object.str_at(&["metadata", "name"]).to_owned()
                    }
                    _ => "other".into(),
                })
                .collect();
            did.extend(plan.events.iter().map(|it| format!("{}: {}", it.reason, it.message)));
            assert_eq!(did.join(" "), expected);
        };
        check("{}", &[], "p-v");
        check(r#"{"phase":"Failed"}"#, &[], "");
        check("{}", &[r#"{"metadata":{"ownerReferences":[{"uid":"U","controller":true}]}}"#], "");
        let foreign = "FailedBinding: ephemeral volume v: PVC n/p-v was not created for pod n/p (pod is not owner)";
        check("{}", &["{}"], foreign);
    }
}
