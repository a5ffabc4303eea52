//! What the scheduler keeps of devices: slices, classes, claims, and what was given to pods a moment ago.
//!
//! Knows no watch: somebody calls `set_*`. What a pod gets is decided elsewhere.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use apimachinery::Value;
use client::ObjectKey;
use compact_str::{CompactString, format_compact};
use component_base::Clock;
use dynamic_resource_allocation::claim::DEVICE_CLASS_PREFIX;
use dynamic_resource_allocation::slice::Labels as NodeLabels;
use dynamic_resource_allocation::taint::Rule;
use dynamic_resource_allocation::{
    Allocated, Allocation, Claim, Class, Selectors, Slice, Slices, Supply,
};

use crate::labels::Labels;
use crate::pod::{ClaimRef, PodLite};

mod possible;

pub(crate) use possible::Asked;
use possible::Possible;

impl NodeLabels for Labels {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

/// What was decided for a claim that does not say so yet.
#[derive(Debug, Clone)]
struct Pending {
    /// The pod's uid.
    pod: CompactString,
    allocation: Allocation,
}

/// What is to be written into claims before a pod is bound.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClaimBindings {
    /// All claims of the pod, with what they get where they have nothing yet.
    pub claims: Vec<(ObjectKey, Option<Value>)>,
    /// The claim that is made for the pod's extended resources.
    pub extended: Option<ExtendedClaim>,
}

/// A claim for the extended resources of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtendedClaim {
    /// Its requests.
    pub requests: Vec<Value>,
    /// Which containers have the devices of which request, as the pod's status says it.
    pub mappings: Vec<Value>,
    /// What it gets.
    pub allocation: Value,
    /// Its name, once it is there.
    pub made: Arc<OnceLock<CompactString>>,
}

/// What a change of a claim may mean for those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimChange {
    /// Nothing.
    Nothing,
    /// It is new, or what is known of it changed.
    Changed,
    /// It gave back devices.
    GaveBack,
}

/// Everything about devices.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    /// As they are seen: with the taints that rules add.
    slices: Slices,
    /// As they were published.
    published: BTreeMap<CompactString, Arc<Slice>>,
    rules: BTreeMap<CompactString, Rule>,
    classes: BTreeMap<CompactString, Class>,
    /// The classes whose devices serve an extended resource, the one that was made last first.
    serving: BTreeMap<CompactString, BTreeSet<(Reverse<CompactString>, CompactString)>>,
    claims: BTreeMap<ObjectKey, Claim>,
    /// Claims that were made for the extended resources of pods, by the uids of the pods.
    extended: BTreeMap<CompactString, ObjectKey>,
    /// By the uids of the claims.
    pending: BTreeMap<CompactString, Pending>,
    allocated: Allocated,
    selectors: Arc<Selectors>,
    possible: Possible,
    clock: Option<Arc<dyn Clock>>,
}

impl Devices {
    /// Tells the time by this clock, so that searches end and waiting does.
    pub fn set_clock(&mut self, clock: Arc<dyn Clock>) {
        self.clock = Some(clock);
    }

    /// What tells the time; nothing where time does not pass.
    #[must_use]
    pub fn clock(&self) -> Option<&Arc<dyn Clock>> {
        self.clock.as_ref()
    }

    /// A claim.
    #[must_use]
    pub fn claim(&self, key: &ObjectKey) -> Option<&Claim> {
        self.claims.get(key)
    }

    /// Whether there is such a class.
    #[must_use]
    pub fn has_class(&self, name: &str) -> bool {
        self.classes.contains_key(name)
    }

    /// The class whose devices serve an extended resource.
    #[must_use]
    pub fn class_serving(&self, resource: &str) -> Option<&str> {
        if let Some(name) = self.serving.get(resource).and_then(|it| it.first()) {
            return Some(&name.1);
        }
        let name = resource.strip_prefix(DEVICE_CLASS_PREFIX)?;
        self.classes.get(name).map(|it| it.name.as_str())
    }

    /// The claim that was made for the extended resources of a pod.
    #[must_use]
    pub fn extended_claim_of(&self, pod_uid: &str) -> Option<&Claim> {
        self.claims.get(self.extended.get(pod_uid)?)
    }

    /// Stands for the uid of such a claim before it is made.
    pub(crate) fn pending_extended(pod_uid: &str) -> CompactString {
        format_compact!("extended resources of {pod_uid}")
    }

    /// Whether something was decided for a claim that it does not say yet.
    #[must_use]
    pub fn is_pending(&self, claim: &Claim) -> bool {
        self.pending.contains_key(&claim.uid)
    }

    /// The claims of a pod.
    ///
    /// # Errors
    /// Why they are not all there, in upstream's words.
    pub fn claims_of(&self, pod: &PodLite) -> Result<Vec<&Claim>, String> {
        let mut claims = Vec::new();
        let of = || format!("{}/{}", pod.key.namespace, pod.key.name);
        for used in &pod.ask.resource_claims {
            let (name, generated) = match &used.claim {
                ClaimRef::Named(name) => (name, false),
                ClaimRef::Generated(name) => (name, true),
                ClaimRef::NotNeeded => continue,
                ClaimRef::NotCreated => {
                    return Err(format!("pod \"{}\": ResourceClaim not created yet", of()));
                }
                ClaimRef::Unknown => {
                    let (pod, name) = (of(), &used.name);
                    return Err(format!(
                        "pod \"{pod}\", spec.resourceClaim \"{name}\": none of the supported fields are set"
                    ));
                }
            };
            let key = ObjectKey::new(pod.key.namespace.clone(), name.clone());
            let claim = self.claims.get(&key);
            let claim = claim.ok_or_else(|| format!("could not find ResourceClaim \"{key}\""))?;
            if claim.going {
                return Err(format!("resourceclaim \"{name}\" is being deleted"));
            }
            if generated && claim.controller != pod.uid {
                let (claim, pod) = (claim.key(), of());
                return Err(format!(
                    "ResourceClaim {claim} was not created for pod {pod} (pod is not owner)"
                ));
            }
            claims.push(claim);
        }
        Ok(claims)
    }

    /// What there is to choose from, for a search that ends when `interrupted` says so.
    pub fn supply<'a>(&'a self, interrupted: Box<dyn Fn() -> bool + 'a>) -> Supply<'a> {
        Supply {
            slices: &self.slices,
            classes: &self.classes,
            allocated: &self.allocated,
            selectors: &self.selectors,
            interrupted,
        }
    }

    /// Where devices for such claims were found, and where not.
    pub(crate) fn asked(&self, claims: &[&Claim]) -> Asked<'_> {
        self.possible.asked(claims, &self.slices, &self.allocated)
    }

    /// Notes what was decided for a claim of a pod.
    pub fn reserve(&mut self, pod: &PodLite, claim: &ObjectKey, allocation: &Value) {
        let Some(claim) = self.claims.get(claim) else { return };
        let uid = claim.uid.clone();
        self.take(pod, uid, allocation);
    }

    /// Notes what was decided for the extended resources of a pod.
    pub fn reserve_extended(&mut self, pod: &PodLite, allocation: &Value) {
        self.take(pod, Self::pending_extended(&pod.uid), allocation);
    }

    fn take(&mut self, pod: &PodLite, claim: CompactString, allocation: &Value) {
        let allocation = Allocation::from_value(allocation);
        self.allocated.take(&allocation);
        let pending = Pending { pod: pod.uid.clone(), allocation };
        if let Some(before) = self.pending.insert(claim, pending) {
            self.allocated.give_back(&before.allocation);
        }
    }

    /// Forgets what was decided for a pod.
    pub fn unreserve(&mut self, pod_uid: &str) {
        let (gone, kept) =
            std::mem::take(&mut self.pending).into_iter().partition(|(_, it)| it.pod == pod_uid);
        self.pending = kept;
        let gone: BTreeMap<CompactString, Pending> = gone;
        gone.values().for_each(|it| self.allocated.give_back(&it.allocation));
    }

    /// Sets or forgets a claim, as it was read or as it was written. What is older than what is known is not looked at.
    pub fn set_claim(&mut self, key: &ObjectKey, claim: Option<&Value>) -> ClaimChange {
        let new = claim.map(Claim::from_value);
        let old = self.claims.get(key);
        if let (Some(new), Some(old)) = (&new, old)
            && (new.uid == old.uid && new.version < old.version)
        {
            return ClaimChange::Nothing;
        }
        let allocation = |it: Option<&Claim>| it.and_then(|it| it.allocation.clone());
        let (before, after) = (allocation(old), allocation(new.as_ref()));
        let uid = old.map(|it| it.uid.clone());
        let changed = match (old, &new) {
            (Some(old), Some(new)) => {
                old.uid != new.uid
                    || old.reserved_for != new.reserved_for
                    || before != after
                    || old.going != new.going
                    || old.controller != new.controller
            }
            _ => true,
        };
        if let Some(before) = &before {
            self.allocated.give_back(before);
        }
        if let Some(after) = &after {
            self.allocated.take(after);
        }
        // What was decided is said now, or is not to be had any more.
        let done = after.is_some() || new.is_none();
        let either = new.as_ref().or(self.claims.get(key));
        let made_for = either.filter(|it| it.extended).map(|it| it.controller.clone());
        let promised = made_for.as_ref().map(|it| Self::pending_extended(it));
        for it in uid.into_iter().chain(promised).filter(|_| done) {
            if let Some(pending) = self.pending.remove(&it) {
                self.allocated.give_back(&pending.allocation);
            }
        }
        let gone = new.is_none() && made_for.is_some();
        if let Some(pod) = made_for {
            match &new {
                Some(_) => drop(self.extended.insert(pod, key.clone())),
                None => drop(self.extended.remove(&pod)),
            }
        }
        match new {
            Some(new) => drop(self.claims.insert(key.clone(), new)),
            None => drop(self.claims.remove(key)),
        }
        // A pod for which a claim was made waits until that is gone.
        match ((before.is_some() && after.is_none()) || gone, changed) {
            (true, _) => ClaimChange::GaveBack,
            (false, true) => ClaimChange::Changed,
            (false, false) => ClaimChange::Nothing,
        }
    }

    /// Sets or forgets a class.
    pub fn set_class(&mut self, name: &str, class: Option<&Value>) {
        self.possible.forget();
        let entry = |class: &Class| {
            let resource = class.extended_resource.clone()?;
            Some((resource, (Reverse(class.created.clone()), class.name.clone())))
        };
        if let Some((resource, entry)) = self.classes.remove(name).as_ref().and_then(entry)
            && let Some(classes) = self.serving.get_mut(&resource)
        {
            classes.remove(&entry);
            if classes.is_empty() {
                self.serving.remove(&resource);
            }
        }
        let Some(class) = class.map(Class::from_value) else { return };
        if let Some((resource, entry)) = entry(&class) {
            self.serving.entry(resource).or_default().insert(entry);
        }
        self.classes.insert(name.into(), class);
    }

    /// Sets or forgets a slice.
    pub fn set_slice(&mut self, name: &str, slice: Option<&Value>) {
        // What was found out before holds no more, so that pools that are gone need not be remembered.
        self.allocated.forget_changes();
        match slice {
            Some(slice) => {
                let slice = Arc::new(Slice::from_value(slice));
                self.slices.set(name, Some(self.tainted(&slice)));
                self.published.insert(name.into(), slice);
            }
            None => {
                self.slices.set(name, None);
                self.published.remove(name);
            }
        }
    }

    /// Sets or forgets a rule that taints devices.
    pub fn set_rule(&mut self, name: &str, rule: Option<&Value>) {
        match rule {
            Some(rule) => drop(self.rules.insert(name.into(), Rule::from_value(rule))),
            None => drop(self.rules.remove(name)),
        }
        for (name, slice) in &self.published {
            self.slices.set(name, Some(self.tainted(slice)));
        }
    }

    /// A slice with the taints that rules add.
    fn tainted(&self, slice: &Arc<Slice>) -> Arc<Slice> {
        let selects = |rule: &&Rule| slice.devices.iter().any(|it| rule.selects(&it.id));
        let rules: Vec<&Rule> = self.rules.values().filter(selects).collect();
        if rules.is_empty() {
            return Arc::clone(slice);
        }
        let mut slice = Slice::clone(slice);
        for device in &mut slice.devices {
            let added = rules.iter().filter(|it| it.selects(&device.id));
            device.taints.extend(added.map(|it| it.taint.clone()));
        }
        Arc::new(slice)
    }
}

/// Gives shares of devices their names.
pub(crate) fn name_shares(allocation: &mut Value, mut name: impl FnMut() -> String) {
    for result in allocation.items_at_mut(&["devices", "results"]) {
        if result.get("shareID").is_some() {
            result.set_at(&["shareID"], name());
        }
    }
}
