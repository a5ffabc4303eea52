//! Claims and volumes: what users do with them, and which of them they may use.

use std::collections::BTreeSet;

use apimachinery::{Value, value};
use client::Resource;
use client::call::DeleteParams;

use super::{Driver, NAMES, namespaces, objects, resource};
use crate::dice::Dice;
use crate::hardware::{DISKS, LATE, MANUAL, NOW_KEPT};
use crate::observer::{Place, State};
use crate::rules::{GIVEN_UP, claims_of, is_deleting, is_retained, is_terminal};

/// How many volumes are made by hand.
const BY_HAND: i64 = 4;

/// The classes of volumes, as an administrator makes them.
fn classes() -> Vec<Value> {
    let class = |name: &str, maker: &str, policy: &str, mode: &str| {
        value!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": maker, "reclaimPolicy": policy, "volumeBindingMode": mode})
    };
    vec![
        class(LATE, DISKS, "Delete", "WaitForFirstConsumer"),
        class(NOW_KEPT, DISKS, "Retain", "Immediate"),
        class(MANUAL, "kubernetes.io/no-provisioner", "Retain", "Immediate"),
    ]
}

fn csi_driver() -> Value {
    value!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DISKS},
        "spec": {"attachRequired": true}})
}

/// What a claim asks for.
pub(super) fn claim_spec(dice: &Dice, class: &str) -> Value {
    let size = format!("{}Gi", dice.between(1, 4));
    value!({"accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": {"requests": {"storage": (size.as_str())}}})
}

/// A class whose volumes are made for claims.
pub(super) fn a_class(dice: &Dice) -> &'static str {
    if dice.chance(650) { LATE } else { NOW_KEPT }
}

fn claim(dice: &Dice, namespace: &str, name: &str, class: &str) -> Value {
    let mut it = objects::object("v1", "PersistentVolumeClaim", namespace, name);
    it.set_at(&["spec"], claim_spec(dice, class));
    it
}

/// A volume that somebody made by hand, which is kept whatever becomes of its claim.
fn volume(dice: &Dice, number: i64) -> Value {
    let size = format!("{}Gi", dice.between(1, 6));
    let path = format!("/disks/{number}");
    value!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": (format!("by-hand-{number}"))},
        "spec": {"capacity": {"storage": (size.as_str())}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": MANUAL, "hostPath": {"path": (path.as_str())}}})
}

/// What becomes of the claims of a set with it and with its pods.
fn retention(dice: &Dice) -> Value {
    let policy = || if dice.chance(500) { "Delete" } else { "Retain" };
    value!({"whenDeleted": (policy()), "whenScaled": (policy())})
}

/// Gives the pods of a set claims of their own.
pub(super) fn with_claims(set: &mut Value, dice: &Dice) {
    let spec = claim_spec(dice, a_class(dice));
    let template = value!({"metadata": {"name": "data"}, "spec": spec});
    set.set_at(&["spec", "volumeClaimTemplates"], vec![template]);
    set.set_at(&["spec", "persistentVolumeClaimRetentionPolicy"], retention(dice));
}

/// Gives pods a claim that comes and goes with each.
pub(super) fn with_ephemeral(pod_spec: &mut Value, dice: &Dice) {
    let spec = claim_spec(dice, a_class(dice));
    let source = value!({"volumeClaimTemplate": {"spec": spec}});
    pod_spec.set_at(&["volumes"], vec![value!({"name": "scratch", "ephemeral": source})]);
}

fn claims() -> Resource {
    resource("PersistentVolumeClaim")
}

impl Driver {
    /// Makes what claims need.
    pub(super) async fn prepare_disks(&self) {
        let storage = |plural| Resource::built_in("storage.k8s.io", plural);
        self.user.create(&storage("csidrivers"), &csi_driver()).await;
        for class in classes() {
            self.user.create(&storage("storageclasses"), &class).await;
        }
    }

    /// A claim that pods may use, or one for a volume that was made by hand.
    pub(super) async fn claim(&self) {
        let number = self.dice.between(1, NAMES);
        let namespace = self.a_namespace();
        let object = if self.dice.chance(600) {
            claim(&self.dice, namespace, &format!("data-{number}"), a_class(&self.dice))
        } else {
            claim(&self.dice, namespace, &format!("spare-{number}"), MANUAL)
        };
        let made = self.user.create(&claims(), &object).await;
        self.written("PersistentVolumeClaim", made).await;
    }

    /// A pod that uses a claim, which may be there or not; several may use one.
    pub(super) async fn pod_with_claim(&self) {
        let name = format!("stored-{}", self.dice.between(1, NAMES));
        let mut pod = objects::pod(&self.dice, self.a_namespace(), &name);
        let claim = format!("data-{}", self.dice.between(1, NAMES));
        let source = value!({"claimName": (claim.as_str())});
        pod.set_at(
            &["spec", "volumes"],
            vec![value!({"name": "data", "persistentVolumeClaim": source})],
        );
        let made = self.user.create(&resource("Pod"), &pod).await;
        self.written("Pod", made).await;
    }

    /// Says that nobody needs a claim any more, and deletes it, whoever uses it.
    pub(super) async fn delete_claim(&self) {
        let Some((kind, place)) = self.some(&["PersistentVolumeClaim"]) else {
            return self.claim().await;
        };
        self.give_up(kind, &place).await;
    }

    async fn give_up(&self, kind: &str, place: &Place) {
        let patch = value!({"metadata": {"annotations": {GIVEN_UP: "yes"}}});
        if self.user.patch(&resource(kind), place, "", &patch).await.is_some() {
            self.user.delete(&resource(kind), place, &DeleteParams::default()).await;
        }
    }

    /// What an administrator does: volumes are made, given up, and those that a claim has left are given back.
    pub(super) async fn tend_volumes(&self) {
        let kind = "PersistentVolume";
        let left = |it: &Value| it.str_at(&["status", "phase"]) == "Released" && is_retained(it);
        match self.dice.below(4) {
            0 => {
                if let Some(place) = self.a_volume(|_| true) {
                    return self.give_up(kind, &place).await;
                }
            }
            1 | 2 => {
                if let Some(place) = self.a_volume(left) {
                    let patch = value!({"spec": {"claimRef": null}});
                    self.user.patch(&resource(kind), &place, "", &patch).await;
                    return;
                }
            }
            _ => {}
        }
        let volume = volume(&self.dice, self.dice.between(1, BY_HAND));
        let made = self.user.create(&resource(kind), &volume).await;
        self.written(kind, made).await;
    }

    fn a_volume(&self, which: impl Fn(&Value) -> bool) -> Option<Place> {
        let places = self.user.observer.with(|state| -> Vec<Place> {
            let all = state.all("PersistentVolume").filter(|(_, it)| is_retained(it) && which(it));
            all.map(|(place, _)| place.clone()).collect()
        });
        self.dice.pick(&places).cloned()
    }

    /// Another word about what becomes of a set's claims.
    pub(super) async fn change_retention(&self) {
        let Some((kind, place)) = self.some(&["StatefulSet"]) else {
            return self.namespace().await;
        };
        let patch =
            value!({"spec": {"persistentVolumeClaimRetentionPolicy": (retention(&self.dice))}});
        let done = self.user.patch(&resource(kind), &place, "", &patch).await;
        self.written(kind, done).await;
    }

    /// When faults have stopped: every claim that pods ask for is there, pods whose claim goes go too, and what was
    /// made by hand is there for whoever may have it.
    pub(super) async fn settle_disks(&self) {
        self.clear_the_way().await;
        for namespace in self.user.observer.with(namespaces) {
            for number in 1..=NAMES {
                let name = format!("data-{number}");
                let place = Place { namespace: namespace.into(), name: name.as_str().into() };
                let has = |state: &State| {
                    let claim = state.get("PersistentVolumeClaim", &place);
                    claim.is_some_and(|it| !is_deleting(&it.value))
                };
                if !self.user.observer.with(has) {
                    self.make_again(&claim(&self.dice, namespace, &name, LATE)).await;
                }
            }
        }
    }

    /// Deletes pods whose claims go, and those that controllers make instead of them while they have not yet heard of it:
    /// kubelets refuse such pods, and the claims wait for them. So does a claim of an earlier set of the same name, which the
    /// collector finds a moment later.
    async fn clear_the_way(&self) {
        let mut clear = 0;
        for _ in 0..120 {
            let pods = self.user.observer.with(in_the_way);
            clear = if pods.is_empty() { clear + 1 } else { 0 };
            if clear == 20 {
                return;
            }
            for pod in pods {
                self.user.delete(&resource("Pod"), &pod, &DeleteParams::default()).await;
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }

    /// Makes a claim as soon as an older one of that name is gone.
    async fn make_again(&self, claim: &Value) {
        for _ in 0..60 {
            if self.user.create(&claims(), claim).await.is_some() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
}

/// The pods whose claims are on their way out, which they keep from going, and those that may wait on another node for a
/// disk that an earlier pod has.
fn in_the_way(state: &State) -> Vec<Place> {
    let mut seen = BTreeSet::new();
    let pods = state.all("Pod").filter(|(place, pod)| {
        let claims = claims_of(place, pod);
        let going = claims.iter().any(|claim| {
            let claim = state.get("PersistentVolumeClaim", claim);
            claim.is_some_and(|it| is_deleting(&it.value))
        });
        going || (!is_terminal(pod) && !claims.into_iter().all(|it| seen.insert(it)))
    });
    pods.map(|(place, _)| place.clone()).collect()
}
