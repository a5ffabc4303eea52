//! Which changes might help against a plugin's refusal of a node. Whether they do is found out by others.

use apimachinery::node_selector::NodeSelectorTerm;
use apimachinery::{Object, Value, value};
use scheduler::decide::Refused;
use scheduler::labels::Labels;
use scheduler::node::Row;
use scheduler::terms::{Taint, Toleration};

use super::resources;
use crate::explanation::{Change, Target};

/// By how much a spread is widened at most.
const MAX_MORE_SKEW: i64 = 5;
/// The terms of pods and nodes that are looked at.
const MAX_TERMS: usize = 8;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// A change that might help.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// Changes of one sort differ in their amount only: the smallest is told of.
    pub(super) sort: String,
    pub(super) amount: i64,
    /// Changes of lower rank come first.
    pub(super) rank: usize,
    pub(super) change: Change,
}

/// Changes of the node's place in the cluster are easier to make than those of pods, mostly.
pub(super) mod rank {
    pub(in crate::changes) const SWITCH: usize = 1;
    pub(in crate::changes) const POD: usize = 2;
    pub(in crate::changes) const AMOUNT: usize = 3;
    pub(in crate::changes) const NODE: usize = 4;
}

/// The changes for a refusal.
pub(super) fn of(
    (plugin, _): &Refused,
    pod: &Value,
    node: &Value,
    row: Option<&Row>,
) -> Vec<Candidate> {
    match *plugin {
        "NodeUnschedulable" => vec![uncordon(node)],
        "TaintToleration" => taints(pod, node),
        "NodeAffinity" => [selector(pod, node), affinity(pod, node)].concat(),
        "NodeResourcesFit" => row.map_or_else(Vec::new, |row| resources::of(pod, node, row)),
        "NodePorts" => ports(pod),
        "PodTopologySpread" => spread(pod),
        "InterPodAffinity" => pod_terms(pod),
        // Volumes and devices are not invented.
        _ => Vec::new(),
    }
}

pub(super) fn on_pod(sort: String, rank: usize, text: String, patch: Value) -> Candidate {
    let change = Change { target: Target::Pod, text, patch };
    Candidate { sort, amount: 0, rank, change }
}

pub(super) fn on_node(node: &Value, sort: String, text: String, patch: Value) -> Candidate {
    let target = Target::Node(name_of(node).to_owned());
    Candidate { sort, amount: 0, rank: rank::NODE, change: Change { target, text, patch } }
}

pub(super) fn name_of(node: &Value) -> &str {
    node.str_at(&["metadata", "name"])
}

/// A member's name in a JSON pointer.
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The cordon and the taint that goes with it.
fn uncordon(node: &Value) -> Candidate {
    const TAINT: &str = "node.kubernetes.io/unschedulable";
    let mut patch = vec![value!({"op": "remove", "path": "/spec/unschedulable"})];
    let taints = node.items_at(&["spec", "taints"]).iter();
    if let Some(place) = taints.clone().position(|it| it.str_at(&["key"]) == TAINT) {
        let path = format!("/spec/taints/{place}");
        patch.push(value!({"op": "remove", "path": (path)}));
    }
    let name = name_of(node);
    let (sort, text) = ("uncordon".to_owned(), format!("uncordon node {name}"));
    Candidate { rank: rank::SWITCH, ..on_node(node, sort, text, Value::Array(patch)) }
}

/// Tolerate a taint, or take it away.
fn taints(pod: &Value, node: &Value) -> Vec<Candidate> {
    let tolerations = pod.items_at(&["spec", "tolerations"]);
    let parsed: Vec<Toleration> = tolerations.iter().map(Toleration::from_value).collect();
    let mut all = Vec::new();
    for (place, it) in node.items_at(&["spec", "taints"]).iter().enumerate() {
        let Some(taint) = Taint::from_value(it).filter(Taint::is_hard) else { continue };
        if parsed.iter().any(|it| it.tolerates(&taint)) {
            continue;
        }
        let (key, effect) = (taint.key.as_str(), it.str_at(&["effect"]));
        let shown = match taint.value.as_str() {
            "" => format!("{key}:{effect}"),
            value => format!("{key}={value}:{effect}"),
        };
        let mut toleration = value!({"key": key, "effect": effect});
        if taint.value.is_empty() {
            toleration.set_at(&["operator"], "Exists");
        } else {
            toleration.set_at(&["operator"], "Equal");
            toleration.set_at(&["value"], taint.value.as_str());
        }
        let patch = if tolerations.is_empty() {
            value!([{"op": "add", "path": "/spec/tolerations", "value": [(toleration)]}])
        } else {
            value!([{"op": "add", "path": "/spec/tolerations/-", "value": (toleration)}])
        };
        let text = format!("tolerate taint {shown}");
        all.push(on_pod(format!("tolerate {shown}"), rank::POD, text, patch));
        let path = format!("/spec/taints/{place}");
        let name = name_of(node);
        let text = format!("remove taint {shown} from node {name}");
        let patch = value!([{"op": "remove", "path": (path)}]);
        all.push(on_node(node, format!("untaint {shown}"), text, patch));
    }
    all
}

/// Drop a pair of the node selector, or label the node so.
fn selector(pod: &Value, node: &Value) -> Vec<Candidate> {
    let pairs = pod.at(&["spec", "nodeSelector"]).and_then(Value::as_object);
    let labels = node.at(&["metadata", "labels"]).and_then(Value::as_object);
    let mut all = Vec::new();
    for (key, value) in pairs.into_iter().flat_map(Object::iter) {
        if labels.and_then(|it| it.get(key)) == Some(value) {
            continue;
        }
        let shown = format!("{key}={}", value.as_str().unwrap_or_default());
        let path = format!("/spec/nodeSelector/{}", escaped(key));
        let patch = value!([{"op": "remove", "path": (path)}]);
        let text = format!("remove the node selector {shown}");
        all.push(on_pod(format!("selector {shown}"), rank::POD, text, patch));
        let path = format!("/metadata/labels/{}", escaped(key));
        let patch = match labels {
            Some(_) => value!([{"op": "add", "path": (path), "value": (value.clone())}]),
            None => {
                let labels: Object = [(key, value.clone())].into_iter().collect();
                value!([{"op": "add", "path": "/metadata/labels", "value": (labels)}])
            }
        };
        let text = format!("label node {} {shown}", name_of(node));
        all.push(on_node(node, format!("label {shown}"), text, patch));
    }
    all
}

/// Drop what required node affinity demands of the node beyond what it is.
fn affinity(pod: &Value, node: &Value) -> Vec<Candidate> {
    let path = ["spec", "affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"];
    let terms = pod.items_at(&path);
    if terms.is_empty() {
        return Vec::new();
    }
    let labels = Labels::from_value(node.at(&["metadata", "labels"]));
    let at = format!("/spec/affinity/nodeAffinity/{REQUIRED}");
    let mut all = Vec::new();
    for (nth, term) in terms.iter().enumerate().take(MAX_TERMS) {
        let expressions = term.items_at(&["matchExpressions"]);
        if expressions.len() + term.items_at(&["matchFields"]).len() < 2 {
            continue;
        }
        for (place, it) in expressions.iter().enumerate().take(MAX_TERMS) {
            let alone = NodeSelectorTerm::from_value(&value!({"matchExpressions": [(it.clone())]}));
            if alone.matches(name_of(node), |key| labels.get(key)) {
                continue;
            }
            let path = format!("{at}/nodeSelectorTerms/{nth}/matchExpressions/{place}");
            let shown = expression(it);
            let text = format!("remove {shown} from the required node affinity");
            let patch = value!([{"op": "remove", "path": (path)}]);
            all.push(on_pod(format!("affinity {nth} {shown}"), rank::POD, text, patch));
        }
    }
    let shown: Vec<String> = terms
        .iter()
        .flat_map(|it| it.items_at(&["matchExpressions"]).iter().map(expression))
        .collect();
    let text = format!("remove the required node affinity ({})", shown.join("; "));
    let patch = value!([{"op": "remove", "path": (at)}]);
    all.push(on_pod("affinity".to_owned(), rank::AMOUNT, text, patch));
    all
}

/// `zone In (a, b)`
fn expression(it: &Value) -> String {
    let values: Vec<&str> =
        it.items_at(&["values"]).iter().filter_map(Value::as_str).take(MAX_TERMS).collect();
    let (key, operator) = (it.str_at(&["key"]), it.str_at(&["operator"]));
    match values.is_empty() {
        true => format!("{key} {operator}"),
        false => format!("{key} {operator} ({})", values.join(", ")),
    }
}

/// Do without a port of the node.
fn ports(pod: &Value) -> Vec<Candidate> {
    let mut all = Vec::new();
    for (nth, container) in pod.items_at(&["spec", "containers"]).iter().enumerate() {
        for (place, port) in container.items_at(&["ports"]).iter().enumerate().take(MAX_TERMS) {
            let Some(number) = port.i64_at(&["hostPort"]).filter(|it| *it > 0) else { continue };
            let path = format!("/spec/containers/{nth}/ports/{place}/hostPort");
            let patch = value!([{"op": "remove", "path": (path)}]);
            let name = container.str_at(&["name"]);
            let text = format!("do without host port {number} of container {name}");
            all.push(on_pod(format!("port {nth} {place}"), rank::POD, text, patch));
        }
    }
    all
}

/// Widen a spread, or only prefer it.
fn spread(pod: &Value) -> Vec<Candidate> {
    let mut all = Vec::new();
    let constraints = pod.items_at(&["spec", "topologySpreadConstraints"]).iter().enumerate();
    for (nth, it) in constraints.take(MAX_TERMS) {
        if it.str_at(&["whenUnsatisfiable"]) == "ScheduleAnyway" {
            continue;
        }
        let at = format!("/spec/topologySpreadConstraints/{nth}");
        let (key, skew) = (it.str_at(&["topologyKey"]), it.i64_at(&["maxSkew"]).unwrap_or(1));
        for more in 1..=MAX_MORE_SKEW {
            let path = format!("{at}/maxSkew");
            let patch = value!([{"op": "replace", "path": (path), "value": (skew + more)}]);
            let text =
                format!("raise maxSkew of the spread over {key} from {skew} to {}", skew + more);
            let candidate = on_pod(format!("skew {nth}"), rank::AMOUNT, text, patch);
            all.push(Candidate { amount: more, ..candidate });
        }
        let path = format!("{at}/whenUnsatisfiable");
        let patch = value!([{"op": "add", "path": (path), "value": "ScheduleAnyway"}]);
        let text = format!("only prefer the spread over {key} (whenUnsatisfiable: ScheduleAnyway)");
        all.push(on_pod(format!("anyway {nth}"), rank::POD, text, patch));
    }
    all
}

/// Do without a term about other pods.
fn pod_terms(pod: &Value) -> Vec<Candidate> {
    let mut all = Vec::new();
    for (list, shown) in [("podAntiAffinity", "pod anti-affinity"), ("podAffinity", "pod affinity")]
    {
        let terms = pod.items_at(&["spec", "affinity", list, REQUIRED]).iter().enumerate();
        for (nth, term) in terms.take(MAX_TERMS) {
            let path = format!("/spec/affinity/{list}/{REQUIRED}/{nth}");
            let patch = value!([{"op": "remove", "path": (path)}]);
            let selector = apimachinery::labels::Selector::from_value(term.at(&["labelSelector"]));
            let selector = selector.map(|it| it.to_string()).unwrap_or_default();
            let key = term.str_at(&["topologyKey"]);
            let text = format!("remove the required {shown} to pods {selector} over {key}");
            all.push(on_pod(format!("{list} {nth}"), rank::POD, text, patch));
        }
    }
    all
}
