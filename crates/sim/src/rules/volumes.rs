//! A volume has one claim and a claim one volume; what is to be kept is kept, what is in use stays, and pods are bound with
//! their claims only.

use std::collections::BTreeMap;

use apimachinery::Value;
use compact_str::CompactString;
use tokio::time::Instant;

use super::{GIVEN_UP, Rule, claims_of, is_deleting, is_retained, is_terminal, uid};
use crate::observer::{Change, Context, Place};

const ONE_CLAIM: &str = "a volume is bound to one claim";
const ONE_VOLUME: &str = "a claim is bound to one volume";
const KEPT: &str = "volumes and claims that are to be kept stay";
const IN_USE: &str = "no volume or claim goes that is in use";
const BOUND: &str = "pods are bound to nodes with claims that are bound";
const POLICY: &str = "claims of a set belong to it or its pods by its policy only";

/// When a set said last that its claims go with it, and with its pods.
#[derive(Debug, Default)]
struct Policy {
    when_deleted: Option<Instant>,
    when_scaled: Option<Instant>,
    now: (bool, bool),
}

#[derive(Debug, Default)]
pub(super) struct Volumes {
    policies: BTreeMap<Place, Policy>,
    /// When pods were bound to their nodes.
    placed: BTreeMap<CompactString, Instant>,
    /// When claims were made.
    made: BTreeMap<CompactString, Instant>,
    /// When claims got their volumes.
    given: BTreeMap<CompactString, Instant>,
}

impl Rule for Volumes {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        match change.kind {
            "PersistentVolume" => self.volume(change, context),
            "PersistentVolumeClaim" => self.claim(change, context),
            "Pod" => self.pod(change, context),
            "StatefulSet" => self.set(change, context),
            _ => {}
        }
    }
}

fn was_given_up(object: &Value) -> bool {
    object.str_at(&["metadata", "annotations", GIVEN_UP]) == "yes"
}

fn phase(object: &Value) -> &str {
    object.str_at(&["status", "phase"])
}

impl Volumes {
    fn volume(&self, change: &Change<'_>, context: &Context<'_>) {
        let name = &change.place.name;
        let claim = |it: &Value| it.str_at(&["spec", "claimRef", "uid"]).to_owned();
        let Some(new) = change.new else {
            let Some(old) = change.old else { return };
            if is_retained(old) && !was_given_up(old) {
                context
                    .ledger
                    .violation(KEPT, format!("{name} is removed, and its policy is Retain"));
            }
            if phase(old) == "Bound" {
                context.ledger.violation(IN_USE, format!("{name} is removed while it is bound"));
            }
            return;
        };
        let has = claim(new);
        let had = change.old.map(claim).unwrap_or_default();
        if !had.is_empty() && !has.is_empty() && had != has {
            let what = format!("{name} goes from claim {had} to {has}");
            context.ledger.violation(ONE_CLAIM, what);
        }
        // Who has not seen yet which volume a claim got may give it another one, and takes that back.
        let settled = self.given.get(has.as_str()).is_some_and(|at| *at < context.since);
        if settled && phase(new) == "Bound" {
            let mut others = context.state.all("PersistentVolume").filter(|(place, it)| {
                place.name != *name && phase(it) == "Bound" && claim(it) == has
            });
            if let Some((other, _)) = others.next() {
                let what = format!("{name} and {} are bound to {has}", other.name);
                context.ledger.violation(ONE_VOLUME, what);
            }
        }
    }

    fn claim(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let Place { namespace, name } = change.place;
        let told = |rule, what: &str| {
            context.ledger.violation(rule, format!("{namespace}/{name} {what}"));
        };
        if let (Some(new), None) = (change.new, change.old) {
            self.made.insert(uid(new).into(), context.now);
        }
        let going = change.new.is_none_or(is_deleting) && !change.old.is_none_or(is_deleting);
        if let Some(old) = change.old.filter(|_| going) {
            let owned = !old.items_at(&["metadata", "ownerReferences"]).is_empty();
            if !owned && !was_given_up(old) && !namespace_goes(change.place, context) {
                told(KEPT, "is deleted, and nobody asked for it");
            }
        }
        let volume = |it: &Value| it.str_at(&["spec", "volumeName"]).to_owned();
        if let Some(new) = change.new.filter(|it| !volume(it).is_empty()) {
            self.given.entry(uid(new).into()).or_insert(context.now);
        }
        if let (Some(old), Some(new)) = (change.old, change.new)
            && !volume(old).is_empty()
            && volume(old) != volume(new)
        {
            told(ONE_VOLUME, &format!("goes from {} to {}", volume(old), volume(new)));
        }
        if let Some(new) = change.new {
            self.owners(new, change, context);
            return;
        }
        if let Some(old) = change.old {
            self.made.remove(uid(old));
            self.given.remove(uid(old));
        }
        let users = context.state.all("Pod").filter(|(place, pod)| {
            let placed = self.placed.get(uid(pod)).is_some_and(|at| *at < context.since);
            placed && !is_terminal(pod) && claims_of(place, pod).contains(change.place)
        });
        for (place, _) in users {
            told(IN_USE, &format!("is removed while {} uses it", place.name));
        }
    }

    /// The owners that a claim of a set has, where it has any.
    fn owners(&self, new: &Value, change: &Change<'_>, context: &Context<'_>) {
        let Place { namespace, name } = change.place;
        let Some((set, _)) = name.strip_prefix("data-").and_then(|it| it.rsplit_once('-')) else {
            return;
        };
        let place = Place { namespace: namespace.clone(), name: set.into() };
        let Some(policy) = self.policies.get(&place) else { return };
        let before = |uid: &str| {
            let owners = change.old.map(|it| it.items_at(&["metadata", "ownerReferences"]));
            owners.unwrap_or_default().iter().any(|it| it.str_at(&["uid"]) == uid)
        };
        for owner in new.items_at(&["metadata", "ownerReferences"]) {
            let (is_now, last) = match owner.str_at(&["kind"]) {
                "StatefulSet" => (policy.now.0, policy.when_deleted),
                "Pod" => (policy.now.1, policy.when_scaled),
                _ => continue,
            };
            let fine = is_now || last.is_some_and(|at| at >= context.since);
            if !fine && !before(owner.str_at(&["uid"])) {
                let kind = owner.str_at(&["kind"]);
                let what = format!("{namespace}/{name} gets a {kind} as its owner");
                context.ledger.violation(POLICY, what);
            }
        }
    }

    fn set(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let policy = self.policies.entry(change.place.clone()).or_default();
        if policy.now.0 {
            policy.when_deleted = Some(context.now);
        }
        if policy.now.1 {
            policy.when_scaled = Some(context.now);
        }
        let goes = |when: &str| {
            let path = ["spec", "persistentVolumeClaimRetentionPolicy", when];
            change.new.is_some_and(|it| it.str_at(&path) == "Delete")
        };
        policy.now = (goes("whenDeleted"), goes("whenScaled"));
    }

    fn pod(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let Some(pod) = change.new else {
            if let Some(old) = change.old {
                self.placed.remove(uid(old));
            }
            return;
        };
        let on_node = |it: &Value| !it.str_at(&["spec", "nodeName"]).is_empty();
        if !on_node(pod) || change.old.is_none_or(on_node) {
            return;
        }
        self.placed.insert(uid(pod).into(), context.now);
        for place in claims_of(change.place, pod) {
            // One that is gone may have been there when the scheduler decided.
            let Some(claim) = context.state.get("PersistentVolumeClaim", &place) else { continue };
            let made = self.made.get(uid(&claim.value));
            let settled = made.is_some_and(|at| *at < context.since);
            if settled && claim.value.str_at(&["spec", "volumeName"]).is_empty() {
                let (namespace, name) = (&change.place.namespace, &change.place.name);
                let what = format!("{namespace}/{name} is bound, and {} is not", place.name);
                context.ledger.violation(BOUND, what);
            }
        }
    }
}

fn namespace_goes(place: &Place, context: &Context<'_>) -> bool {
    let namespace = Place { namespace: CompactString::default(), name: place.namespace.clone() };
    context.state.get("Namespace", &namespace).is_none_or(|it| is_deleting(&it.value))
}
