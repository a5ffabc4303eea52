//! What pods say about where they want to be: node selectors, pod affinity, spread, tolerations.
//!
//! Parsed once when a pod arrives. Knows no cluster.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::labels::{Operator, Requirement, Selector};
use apimachinery::node_selector::NodeSelectorTerm;
use compact_str::CompactString;
use smallvec::SmallVec;

use crate::labels::Labels;
use crate::tallies::Attitude;

/// What a pod says about nodes: `nodeSelector` and node affinity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeWish {
    selector: Vec<(CompactString, CompactString)>,
    /// One of these terms must match; `None` where there is no such affinity.
    required: Option<Vec<NodeSelectorTerm>>,
    /// Terms with their weights.
    pub preferred: Vec<(i64, NodeSelectorTerm)>,
}

impl NodeWish {
    /// What a pod's spec says.
    #[must_use]
    pub fn from_spec(spec: &Value) -> Self {
        let pairs = spec.at(&["nodeSelector"]).and_then(Value::as_object);
        let pairs = pairs.into_iter().flat_map(|it| it.iter());
        let affinity = spec.at(&["affinity", "nodeAffinity"]).unwrap_or(&Value::Null);
        let required = affinity.at(&["requiredDuringSchedulingIgnoredDuringExecution"]);
        let required = required.filter(|it| !it.is_null());
        let terms = |it: &Value| {
            it.items_at(&["nodeSelectorTerms"]).iter().map(NodeSelectorTerm::from_value).collect()
        };
        let preferred = affinity.items_at(&["preferredDuringSchedulingIgnoredDuringExecution"]);
        let weighted = |it: &Value| {
            let term = NodeSelectorTerm::from_value(it.at(&["preference"]).unwrap_or(&Value::Null));
            (it.i64_at(&["weight"]).unwrap_or_default(), term)
        };
        Self {
            selector: pairs
                .map(|(key, value)| (key.into(), value.as_str().unwrap_or_default().into()))
                .collect(),
            required: required.map(terms),
            preferred: preferred.iter().map(weighted).collect(),
        }
    }

    /// Whether any node will do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.required.is_none()
    }

    /// Whether a node is allowed.
    #[must_use]
    pub fn allows(&self, name: &str, labels: &Labels) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.required.as_ref().is_none_or(|terms| {
                terms.iter().any(|term| term.matches(name, |key| labels.get(key)))
            })
    }

    /// The names of the only nodes that may be allowed, where every term names some.
    #[must_use]
    pub fn names(&self) -> Option<Vec<CompactString>> {
        let terms = self.required.as_ref().filter(|terms| !terms.is_empty())?;
        let mut names = Vec::new();
        for term in terms {
            names.extend(term.names()?);
        }
        Some(names)
    }
}

/// A term of pod affinity or anti-affinity.
#[derive(Debug, Clone, PartialEq)]
pub struct PodTerm {
    /// Differs for nearly all terms that differ.
    pub(crate) signature: u64,
    selector: Selector,
    namespaces: SmallVec<[CompactString; 1]>,
    namespace_selector: Selector,
    /// The label of nodes that makes a domain.
    pub topology_key: CompactString,
    /// 1 to 100 where it is a preference.
    pub weight: i64,
}

impl PodTerm {
    fn new(term: &Value, weight: i64, namespace: &str) -> Self {
        let named = term.items_at(&["namespaces"]).iter().filter_map(Value::as_str);
        let mut namespaces: SmallVec<[CompactString; 1]> = named.map(Into::into).collect();
        let by_label = term.at(&["namespaceSelector"]);
        if namespaces.is_empty() && by_label.is_none_or(Value::is_null) {
            namespaces.push(namespace.into());
        }
        // The server has checked the selectors; one that does not parse selects nothing.
        Self {
            signature: signature(term, weight, &namespaces),
            selector: Selector::from_value(term.at(&["labelSelector"]))
                .unwrap_or(Selector::NOTHING),
            namespaces,
            namespace_selector: Selector::from_value(by_label).unwrap_or(Selector::NOTHING),
            topology_key: term.str_at(&["topologyKey"]).into(),
            weight,
        }
    }

    /// Whether a pod is meant, by its namespace, that namespace's labels, and its own labels.
    #[must_use]
    pub fn matches(&self, namespace: &str, namespace_labels: &Labels, labels: &Labels) -> bool {
        (self.namespaces.iter().any(|it| it == namespace)
            || self.namespace_selector.matches(|key| namespace_labels.get(key)))
            && self.selector.matches(|key| labels.get(key))
    }

    /// The same, with the labels of the namespace looked up only where they matter.
    pub(crate) fn matches_with(
        &self,
        namespace: &str,
        labels_of: &dyn Fn(&str) -> Arc<Labels>,
        labels: &Labels,
    ) -> bool {
        self.selector.matches(|key| labels.get(key))
            && (self.namespaces.iter().any(|it| it == namespace)
                || (!self.namespace_selector.is_nothing() && {
                    let namespace_labels = labels_of(namespace);
                    self.namespace_selector.matches(|key| namespace_labels.get(key))
                }))
    }
}

fn signature(term: &Value, weight: i64, namespaces: &[CompactString]) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    apimachinery::json::to_vec(term).hash(&mut hasher);
    weight.hash(&mut hasher);
    namespaces.hash(&mut hasher);
    hasher.finish()
}

/// Every term of a pod about other pods.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodTerms {
    /// All must hold.
    pub affinity: Vec<PodTerm>,
    /// None may hold.
    pub anti_affinity: Vec<PodTerm>,
    /// Better where it holds.
    pub preferred: Vec<PodTerm>,
    /// Worse where it holds.
    pub preferred_anti: Vec<PodTerm>,
}

impl PodTerms {
    /// Those of one sort.
    pub(crate) fn of(&self, attitude: Attitude) -> &[PodTerm] {
        match attitude {
            Attitude::Needed => &self.affinity,
            Attitude::Refused => &self.anti_affinity,
            Attitude::Liked => &self.preferred,
            Attitude::Disliked => &self.preferred_anti,
        }
    }

    /// The terms in a pod's spec; `None` where there are none.
    #[must_use]
    pub fn from_spec(spec: &Value, namespace: &str) -> Option<Self> {
        let affinity = spec.at(&["affinity"])?;
        let required = |kind| {
            let path = [kind, "requiredDuringSchedulingIgnoredDuringExecution"];
            let terms = affinity.items_at(&path).iter();
            terms.map(|term| PodTerm::new(term, 0, namespace)).collect::<Vec<_>>()
        };
        let preferred = |kind| {
            let path = [kind, "preferredDuringSchedulingIgnoredDuringExecution"];
            let terms = affinity.items_at(&path).iter().map(|it| {
                let term = it.at(&["podAffinityTerm"]).unwrap_or(&Value::Null);
                PodTerm::new(term, it.i64_at(&["weight"]).unwrap_or_default(), namespace)
            });
            terms.collect::<Vec<_>>()
        };
        let terms = Self {
            affinity: required("podAffinity"),
            anti_affinity: required("podAntiAffinity"),
            preferred: preferred("podAffinity"),
            preferred_anti: preferred("podAntiAffinity"),
        };
        let any = [&terms.affinity, &terms.anti_affinity, &terms.preferred, &terms.preferred_anti]
            .iter()
            .any(|it| !it.is_empty());
        any.then_some(terms)
    }
}

/// How evenly pods are to lie over the domains of a label.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    /// How far apart two domains may be.
    pub max_skew: i64,
    /// The label of nodes that makes a domain.
    pub topology_key: CompactString,
    /// Whether it must hold (`DoNotSchedule`) or should.
    pub required: bool,
    /// How many domains there must be before the emptiest counts.
    pub min_domains: usize,
    /// Which pods count.
    pub selector: Selector,
    /// Whether nodes that the pod's own selector refuses are left out (`Honor`, the default).
    pub honor_node_affinity: bool,
    /// Whether nodes with taints that the pod does not tolerate are left out.
    pub honor_taints: bool,
}

impl Spread {
    /// A constraint in a pod's spec.
    #[must_use]
    pub fn from_value(it: &Value, labels: &Labels) -> Self {
        let mut selector =
            Selector::from_value(it.at(&["labelSelector"])).unwrap_or(Selector::NOTHING);
        let keys = it.items_at(&["matchLabelKeys"]).iter().filter_map(Value::as_str);
        let equal = |key: &str| {
            let value = labels.get(key)?;
            Requirement::new(key, Operator::In, SmallVec::from_elem(value.into(), 1)).ok()
        };
        let extra: Vec<Requirement> = keys.filter_map(equal).collect();
        if !selector.is_nothing() && !extra.is_empty() {
            selector = Selector::new([selector.requirements(), &extra].concat());
        }
        let min_domains = it.i64_at(&["minDomains"]).unwrap_or(1);
        Self {
            max_skew: it.i64_at(&["maxSkew"]).unwrap_or(1),
            topology_key: it.str_at(&["topologyKey"]).into(),
            required: it.str_at(&["whenUnsatisfiable"]) != "ScheduleAnyway",
            min_domains: usize::try_from(min_domains).unwrap_or(1),
            selector,
            honor_node_affinity: it.str_at(&["nodeAffinityPolicy"]) != "Ignore",
            honor_taints: it.str_at(&["nodeTaintsPolicy"]) == "Honor",
        }
    }
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// No new pods.
    NoSchedule,
    /// Rather no new pods.
    PreferNoSchedule,
    /// No pods.
    NoExecute,
}

impl Effect {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "NoSchedule" => Some(Self::NoSchedule),
            "PreferNoSchedule" => Some(Self::PreferNoSchedule),
            "NoExecute" => Some(Self::NoExecute),
            _ => None,
        }
    }
}

/// A taint of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: CompactString,
    /// Its value.
    pub value: CompactString,
    /// What it does.
    pub effect: Effect,
}

impl Taint {
    /// A taint in a node's spec; `None` where its effect is none that is known.
    #[must_use]
    pub fn from_value(taint: &Value) -> Option<Self> {
        Some(Self {
            key: taint.str_at(&["key"]).into(),
            value: taint.str_at(&["value"]).into(),
            effect: Effect::from_text(taint.str_at(&["effect"]))?,
        })
    }

    /// Whether it keeps pods away that do not tolerate it.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.effect != Effect::PreferNoSchedule
    }
}

/// A toleration of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    key: CompactString,
    exists: bool,
    value: CompactString,
    /// `None` for every effect.
    pub effect: Option<Effect>,
}

impl Toleration {
    /// A toleration in a pod's spec.
    #[must_use]
    pub fn from_value(it: &Value) -> Self {
        Self {
            key: it.str_at(&["key"]).into(),
            exists: it.str_at(&["operator"]) == "Exists",
            value: it.str_at(&["value"]).into(),
            effect: Effect::from_text(it.str_at(&["effect"])),
        }
    }

    /// Whether a taint does not matter to the pod.
    #[must_use]
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.exists || (!self.key.is_empty() && self.value == taint.value))
    }
}
