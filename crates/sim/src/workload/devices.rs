//! Claims of devices: templates, claims that pods share, and pods that use them.

use apimachinery::{Value, value};
use client::Resource;
use client::call::DeleteParams;

use super::{Driver, NAMES, namespaces, objects, resource};
use crate::hardware::DEVICES;
use crate::observer::{Place, State};
use crate::rules::{device_claims_of, is_deleting};

/// The class of the devices, and the template of claims for one.
const CLASS: &str = "gpu";
const TEMPLATE: &str = "one-gpu";

fn class() -> Value {
    let expression = format!("device.driver == '{DEVICES}'");
    value!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": CLASS},
        "spec": {"selectors": [{"cel": {"expression": (expression.as_str())}}]}})
}

fn request(count: i64) -> Value {
    value!({"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": CLASS, "count": count}}]}})
}

fn template(namespace: &str) -> Value {
    let mut it =
        objects::object("resource.k8s.io/v1", "ResourceClaimTemplate", namespace, TEMPLATE);
    it.set_at(&["spec", "spec"], request(1));
    it
}

fn claim(namespace: &str, name: &str, count: i64) -> Value {
    let mut it = objects::object("resource.k8s.io/v1", "ResourceClaim", namespace, name);
    it.set_at(&["spec"], request(count));
    it
}

/// Has pods use devices: one of their own each, or of a claim that is there by name.
fn with_devices(pod_spec: &mut Value, claim: Option<&str>) {
    let mut wanted = value!({"name": "gpu"});
    match claim {
        Some(claim) => wanted.set_at(&["resourceClaimName"], claim),
        None => wanted.set_at(&["resourceClaimTemplateName"], TEMPLATE),
    }
    pod_spec.set_at(&["resourceClaims"], vec![wanted]);
    for container in pod_spec.items_at_mut(&["containers"]) {
        container.set_at(&["resources", "claims"], vec![value!({"name": "gpu"})]);
    }
}

/// Has the pods of a template use a device each.
pub(super) fn with_own_device(pod_spec: &mut Value) {
    with_devices(pod_spec, None);
}

impl Driver {
    /// Makes the class of the devices.
    pub(super) async fn prepare_devices(&self) {
        let classes = Resource::built_in("resource.k8s.io", "deviceclasses");
        self.user.create(&classes, &class()).await;
    }

    /// What pods of a namespace name as the template of their claims.
    pub(super) async fn device_template(&self, namespace: &str) {
        let templates = Resource::built_in("resource.k8s.io", "resourceclaimtemplates");
        self.user.create(&templates, &template(namespace)).await;
    }

    pub(super) async fn device_claim(&self) {
        let name = format!("shared-{}", self.dice.between(1, NAMES));
        let claim = claim(self.a_namespace(), &name, self.dice.between(1, 2));
        let made = self.user.create(&resource("ResourceClaim"), &claim).await;
        self.written("ResourceClaim", made).await;
    }

    pub(super) async fn pod_with_device(&self) {
        let name = format!("device-{}", self.dice.between(1, NAMES));
        let mut pod = objects::pod(&self.dice, self.a_namespace(), &name);
        let shared = format!("shared-{}", self.dice.between(1, NAMES));
        let shared = self.dice.chance(500).then_some(shared.as_str());
        with_devices(pod.member_mut("spec"), shared);
        let made = self.user.create(&resource("Pod"), &pod).await;
        self.written("Pod", made).await;
    }

    pub(super) async fn delete_device_claim(&self) {
        let Some((kind, place)) = self.some(&["ResourceClaim"]) else {
            return self.device_claim().await;
        };
        self.user.delete(&resource(kind), &place, &DeleteParams::default()).await;
    }

    /// When faults have stopped: templates and shared claims are there, and pods whose claim goes go too.
    pub(super) async fn settle_devices(&self) {
        for pod in self.user.observer.with(users_of_going) {
            self.user.delete(&resource("Pod"), &pod, &DeleteParams::default()).await;
        }
        for namespace in self.user.observer.with(namespaces) {
            self.device_template(namespace).await;
            for number in 1..=NAMES {
                let claim = claim(namespace, &format!("shared-{number}"), 1);
                self.user.create(&resource("ResourceClaim"), &claim).await;
            }
        }
    }
}

/// The pods whose claims are on their way out, or were made for another pod.
fn users_of_going(state: &State) -> Vec<Place> {
    let going = |place: &Place, pod: &Value| {
        device_claims_of(place, pod).iter().flatten().any(|claim| {
            let claim = state.get("ResourceClaim", claim);
            claim.is_none_or(|it| is_deleting(&it.value))
        })
    };
    let pods = state.all("Pod").filter(|(place, pod)| going(place, pod));
    pods.map(|(place, _)| place.clone()).collect()
}
