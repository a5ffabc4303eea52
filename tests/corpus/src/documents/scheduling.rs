//! Where pods go: node names, selectors, affinity.

use anyhow::{Result, ensure};

use crate::case::{Case, condition, message, text};
use crate::cluster::NODES;
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[
    Test { name: "001-2245 002-1535: a node selector", run: selector, alone: false },
    Test { name: "001-3061 001-2275: a node by its name", run: node_name, alone: false },
    Test {
        name: "001-2353 001-2406 001-3125 001-3160 002-1573: node affinity",
        run: affinity,
        alone: false,
    },
    Test { name: "002-1548: hardware that no node has", run: no_such_hardware, alone: false },
    Test {
        name: "001-2882: a pod that wants to be beside one that is not there",
        run: no_such_neighbour,
        alone: false,
    },
    Test {
        name: "001-2658 001-2710 001-2764: spread over what nodes have not",
        run: spread,
        alone: false,
    },
];

const NO_MATCH: &str =
    "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";

fn stays_pending(case: &Case<'_>, pod: &str) -> Result<()> {
    let pod = case.until("pods", pod, "it cannot be scheduled", |pod| {
        condition(pod, "PodScheduled") == "False"
    })?;
    let told = message(&pod, "PodScheduled");
    ensure!(told.starts_with(NO_MATCH), "{told}");
    Ok(())
}

/// Runs with a label on the node.
fn labelled(case: &Case<'_>, label: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    case.kubectl(&["label", "node", NODES[0], label])?;
    let done = run();
    let key = label.split('=').next().unwrap_or_default();
    case.kubectl(&["label", "node", NODES[0], &format!("{key}-")])?;
    done
}

fn selector(case: Case<'_>) -> Result<()> {
    let _alone = case.labels();
    case.apply(&["001-2245", "002-1535"])?;
    stays_pending(&case, "nginx")?;
    stays_pending(&case, "example-pod")?;
    labelled(&case, "disktype=ssd", || case.ready(&["nginx", "example-pod"]))?;
    case.remove(&["nginx", "example-pod"])
}

fn node_name(case: Case<'_>) -> Result<()> {
    case.apply(&["001-3061"])?;
    case.ready(&["nginx"])?;
    let pod = case.get("pod", "nginx")?;
    ensure!(text(&pod, "/spec/nodeName") == "kube-01", "{}", pod["spec"]);
    case.remove(&["nginx"])?;
    // There is no such node, and nobody looks for another.
    case.apply(&["001-2275"])?;
    let pod = case.get("pod", "nginx")?;
    ensure!(text(&pod, "/status/phase") == "Pending", "{}", pod["status"]);
    ensure!(text(&pod, "/spec/nodeName") == "k8s03", "{}", pod["spec"]);
    case.kubectl(&["delete", "pod", "nginx", "--grace-period=0", "--force"]).map(drop)
}

fn affinity(case: Case<'_>) -> Result<()> {
    let _alone = case.labels();
    case.apply(&["001-2353", "001-2406", "001-3125", "002-1573"])?;
    // It prefers labels that no node has.
    case.ready(&["with-affinity-preferred-weight"])?;
    for pod in ["with-node-affinity", "nginx", "affinity-pod"] {
        stays_pending(&case, pod)?;
    }
    labelled(&case, "topology.kubernetes.io/zone=antarctica-west1", || {
        case.ready(&["with-node-affinity"])
    })?;
    labelled(&case, "disktype=ssd", || case.ready(&["nginx", "affinity-pod"]))?;
    case.remove(&["nginx"])?;
    case.apply(&["001-3160"])?;
    case.ready(&["nginx"])?;
    case.remove(&["nginx", "affinity-pod", "with-node-affinity", "with-affinity-preferred-weight"])
}

fn no_such_hardware(case: Case<'_>) -> Result<()> {
    case.apply(&["002-1548"])?;
    stays_pending(&case, "gpu-pod")?;
    case.remove(&["gpu-pod"])
}

fn told(case: &Case<'_>, pod: &str, expected: &str) -> Result<()> {
    let pod = case.until("pods", pod, "it cannot be scheduled", |pod| {
        condition(pod, "PodScheduled") == "False"
    })?;
    let told = message(&pod, "PodScheduled");
    ensure!(told.starts_with(expected), "{told}");
    Ok(())
}

fn no_such_neighbour(case: Case<'_>) -> Result<()> {
    case.apply(&["001-2882"])?;
    told(
        &case,
        "with-pod-affinity",
        "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
    )?;
    case.remove(&["with-pod-affinity"])
}

fn spread(case: Case<'_>) -> Result<()> {
    // The node's zone is another test's now and then.
    let _alone = case.labels();
    let missing = "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label).";
    for (id, pod) in [("001-2658", "pod4-test-zone"), ("001-2710", "mypod"), ("001-2764", "mypod")]
    {
        case.apply(&[id])?;
        told(&case, pod, missing)?;
        case.remove(&[pod])?;
    }
    Ok(())
}
