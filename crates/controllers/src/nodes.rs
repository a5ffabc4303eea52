//! What controllers ask of nodes: which pods may run there, by selector, affinity and taints. Upstream:
//! `component-helpers/scheduling/corev1`.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::labels::{Operator, Requirement, Selector};
use client::reflector::{Cached, Store};
use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use parking_lot::Mutex;

/// What decides which pods run on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints: key, value, effect.
    pub taints: Vec<(String, String, String)>,
}

impl NodeFacts {
    /// The facts of a node.
    #[must_use]
    pub fn of(node: &Value) -> Self {
        let labels = node.at(&["metadata", "labels"]).and_then(Value::as_object);
        let labels = labels.into_iter().flat_map(apimachinery::Object::iter);
        let text = |it: &Value, key: &str| it.str_at(&[key]).to_owned();
        let taints = node.items_at(&["spec", "taints"]).iter();
        Self {
            name: node.str_at(&["metadata", "name"]).to_owned(),
            labels: labels
                .filter_map(|(key, value)| Some((key.to_owned(), value.as_str()?.to_owned())))
                .collect(),
            taints: taints
                .map(|it| (text(it, "key"), text(it, "value"), text(it, "effect")))
                .collect(),
        }
    }

    /// Whether the selector and the required affinity of a pod take the node.
    #[must_use]
    pub fn fits(&self, spec: &PodSpec) -> bool {
        let selector = spec.node_selector.iter().flatten();
        let selected = selector.into_iter().all(|(key, value)| self.labels.get(key) == Some(value));
        let affinity = spec.affinity.as_ref().and_then(|it| it.node_affinity.as_ref());
        let required =
            affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
        selected
            && required.is_none_or(|it| it.node_selector_terms.iter().any(|term| self.meets(term)))
    }

    fn meets(&self, term: &NodeSelectorTerm) -> bool {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        if expressions.is_empty() && fields.is_empty() {
            return false;
        }
        let field = |key: &str| (key == "metadata.name").then_some(self.name.as_str());
        requirements(expressions)
            .is_some_and(|it| it.matches(|key| self.labels.get(key).map(String::as_str)))
            && requirements(fields).is_some_and(|it| it.matches(field))
    }

    /// Whether there is a taint with one of these effects that none of the tolerations stands.
    #[must_use]
    pub fn repels(&self, tolerations: &[Toleration], effects: &[&str]) -> bool {
        self.taints.iter().any(|(key, value, effect)| {
            let taint = Taint {
                key: key.clone(),
                value: Some(value.clone()),
                effect: effect.clone(),
                time_added: None,
            };
            effects.contains(&effect.as_str())
                && !tolerations.iter().any(|it| tolerates(it, &taint))
        })
    }
}

/// `None` for what cannot be read, which fits no node.
fn requirements(expressions: &[NodeSelectorRequirement]) -> Option<Selector> {
    let requirement = |it: &NodeSelectorRequirement| {
        let operator = match it.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::GreaterThan,
            "Lt" => Operator::LessThan,
            _ => return None,
        };
        let values = it.values.iter().flatten().map(|it| it.as_str().into()).collect();
        Requirement::new(&it.key, operator, values).ok()
    };
    Some(Selector::new(expressions.iter().map(requirement).collect::<Option<Vec<_>>>()?))
}

/// Whether a toleration stands a taint.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    let fits =
        (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key);
    let (value, tainted) = (text(&toleration.value), text(&taint.value));
    fits && match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => value == tainted,
        "Exists" => true,
        operator @ ("Lt" | "Gt") => match (value.parse::<i64>(), tainted.parse::<i64>()) {
            (Ok(value), Ok(tainted)) if operator == "Lt" => tainted < value,
            (Ok(value), Ok(tainted)) => tainted > value,
            _ => false,
        },
        _ => false,
    }
}

/// The facts of all nodes, read again only where a node has changed.
#[derive(Debug, Default)]
pub struct NodeCache(Mutex<BTreeMap<String, (u64, Arc<NodeFacts>)>>);

impl NodeCache {
    /// The facts of all nodes, by name.
    #[must_use]
    pub fn all(&self, store: &Store) -> Vec<Arc<NodeFacts>> {
        let mut known = self.0.lock();
        let nodes = store.list("");
        let fresh = |node: &Arc<Cached>, old: Option<(u64, Arc<NodeFacts>)>| match old {
            Some((version, facts)) if version == node.resource_version() => facts,
            _ => Arc::new(NodeFacts::of(&node.value())),
        };
        let mut now = BTreeMap::new();
        for node in &nodes {
            let name = node.key.name.to_string();
            let facts = fresh(node, known.remove(&name));
            now.insert(name, (node.resource_version(), facts));
        }
        *known = now;
        known.values().map(|(_, facts)| Arc::clone(facts)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_fits_where_selector_affinity_and_taints_let_it() {
        let node = NodeFacts {
            name: "n1".into(),
            labels: [("zone", "a"), ("cpus", "8")].map(|(a, b)| (a.into(), b.into())).into(),
            taints: vec![("k".into(), "v".into(), "NoSchedule".into())],
        };
        let check = |spec: &str, expected: (bool, bool)| {
            let spec: PodSpec =
                serde_json::from_str(&format!(r#"{{"containers":[]{spec}}}"#)).unwrap();
            let tolerations = spec.tolerations.clone().unwrap_or_default();
            let repels = node.repels(&tolerations, &["NoSchedule", "NoExecute"]);
            assert_eq!((node.fits(&spec), repels), expected, "{spec:?}");
        };
        let terms = |terms: &str| {
            format!(
                r#","affinity":{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{terms}]}}}}}}"#
            )
        };
        check("", (true, true));
        check(r#","nodeSelector":{"zone":"a"}"#, (true, true));
        check(r#","nodeSelector":{"zone":"b"}"#, (false, true));
        check(r#","tolerations":[{"key":"k","operator":"Exists"}]"#, (true, false));
        check(&terms(""), (false, true));
        check(&terms("{}"), (false, true));
        let name = |name: &str| {
            format!(
                r#"{{"matchFields":[{{"key":"metadata.name","operator":"In","values":["{name}"]}}]}}"#
            )
        };
        check(&terms(&name("n1")), (true, true));
        check(&terms(&name("n2")), (false, true));
        check(&terms(&format!("{},{}", name("n2"), name("n1"))), (true, true));
        let gt = r#"{"matchExpressions":[{"key":"cpus","operator":"Gt","values":["4"]}]}"#;
        check(&terms(gt), (true, true));
    }
}
