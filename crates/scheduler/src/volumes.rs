//! What the scheduler keeps of claims, volumes and storage classes.

use std::collections::BTreeMap;

use apimachinery::Value;
use client::ObjectKey;
use compact_str::CompactString;

use crate::terms::NodeTerm;

/// Labels of volumes and nodes that say where they are.
pub const PLACES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// A claim.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The volume that it is bound to; `None` while it is not.
    pub volume: Option<CompactString>,
    /// Whether one pod only may use it.
    pub one_pod: bool,
    /// Its storage class.
    pub class: CompactString,
}

/// A volume.
#[derive(Debug, Clone)]
pub struct Volume {
    /// One of these terms must match the node; `None` where any will do.
    pub nodes: Option<Vec<NodeTerm>>,
    /// Labels of nodes with the values that will do.
    pub places: Vec<(&'static str, Vec<CompactString>)>,
}

/// Everything about volumes.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    claims: BTreeMap<ObjectKey, Claim>,
    volumes: BTreeMap<CompactString, Volume>,
    /// Whether the volumes of a class are bound when a pod needs them.
    waiting_classes: BTreeMap<CompactString, bool>,
}

impl Volumes {
    /// A claim.
    #[must_use]
    pub fn claim(&self, key: &ObjectKey) -> Option<&Claim> {
        self.claims.get(key)
    }

    /// A volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)
    }

    /// Whether the volumes of a class are bound when a pod needs them.
    #[must_use]
    pub fn waits_for_pods(&self, class: &str) -> bool {
        self.waiting_classes.get(class).copied().unwrap_or_default()
    }

    /// Sets or forgets a claim.
    pub fn set_claim(&mut self, key: &ObjectKey, claim: Option<&Value>) {
        let Some(value) = claim else {
            self.claims.remove(key);
            return;
        };
        let annotations = value.at(&["metadata", "annotations"]).and_then(Value::as_object);
        let complete =
            annotations.is_some_and(|it| it.contains_key("pv.kubernetes.io/bind-completed"));
        let volume = value.str_at(&["spec", "volumeName"]);
        let mut modes = value.items_at(&["spec", "accessModes"]).iter();
        let claim = Claim {
            volume: (complete && !volume.is_empty()).then(|| volume.into()),
            one_pod: modes.any(|it| it.as_str() == Some("ReadWriteOncePod")),
            class: value.str_at(&["spec", "storageClassName"]).into(),
        };
        self.claims.insert(key.clone(), claim);
    }

    /// Sets or forgets a volume.
    pub fn set_volume(&mut self, name: &str, volume: Option<&Value>) {
        let Some(value) = volume else {
            self.volumes.remove(name);
            return;
        };
        let required = value.at(&["spec", "nodeAffinity", "required"]);
        let terms = |it: &Value| {
            it.items_at(&["nodeSelectorTerms"]).iter().map(NodeTerm::from_value).collect()
        };
        let place = |key: &'static str| {
            let value = value.str_at(&["metadata", "labels", key]);
            (!value.is_empty()).then(|| (key, value.split("__").map(Into::into).collect()))
        };
        let volume = Volume {
            nodes: required.map(terms),
            places: PLACES.into_iter().filter_map(place).collect(),
        };
        self.volumes.insert(name.into(), volume);
    }

    /// Sets or forgets a storage class.
    pub fn set_class(&mut self, name: &str, class: Option<&Value>) {
        match class {
            Some(value) => {
                let waits = value.str_at(&["volumeBindingMode"]) == "WaitForFirstConsumer";
                self.waiting_classes.insert(name.into(), waits);
            }
            None => drop(self.waiting_classes.remove(name)),
        }
    }
}
