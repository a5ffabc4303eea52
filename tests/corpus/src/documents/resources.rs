//! Requests and limits: memory, processors, classes of service.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::case::{Case, condition, container, message, number, text};
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "001-0026 001-0146 001-0200 002-1245: memory within, above and beyond",
        run: memory,
        alone: false,
    },
    Test {
        name: "001-0262 001-0331: processors limited, and more than there are",
        run: processors,
        alone: false,
    },
    Test {
        name: "001-0406 001-0459 001-0505 001-0539: classes of service",
        run: classes,
        alone: false,
    },
    Test { name: "002-1306: resources of a whole pod", run: whole_pod, alone: false },
    Test { name: "001-0671 001-0779 001-0819: extended resources", run: extended, alone: false },
];

fn memory(case: Case<'_>) -> Result<()> {
    let case = case.within("mem-example")?;
    case.apply(&["001-0026", "001-0146", "001-0200"])?;
    case.ready(&["memory-demo"])?;
    let pod = case.get("pod", "memory-demo")?;
    ensure!(
        pod["spec"]["containers"][0]["resources"]
            == json!({"limits": {"memory": "200Mi"}, "requests": {"memory": "100Mi"}}),
        "{}",
        pod["spec"]
    );
    case.until("pods", "memory-demo-2", "it was killed for want of memory and waits", |pod| {
        let killed = ["/state/terminated", "/lastState/terminated"].iter().any(|at| {
            text(container(pod, at), "/reason") == "OOMKilled"
                && number(container(pod, at), "/exitCode") == 137
        });
        let waits = text(container(pod, "/state/waiting"), "/reason") == "CrashLoopBackOff";
        killed && waits
    })?;
    case.event("memory-demo-2", "BackOff", "Back-off restarting failed container")?;
    let pod = case.until("pods", "memory-demo-3", "it cannot be scheduled", |pod| {
        condition(pod, "PodScheduled") == "False"
    })?;
    let told = message(&pod, "PodScheduled");
    ensure!(told.starts_with("0/1 nodes are available: 1 Insufficient memory."), "{told}");
    case.event("memory-demo-3", "FailedScheduling", "1 Insufficient memory")?;
    case.remove(&["memory-demo"])?;
    case.apply(&["002-1245"])?;
    case.ready(&["memory-demo"])?;
    case.kubectl(&["delete", "pods", "--all", "--grace-period=0", "--force"]).map(drop)
}

fn processors(case: Case<'_>) -> Result<()> {
    let _alone = case.processors();
    let case = case.within("cpu-example")?;
    case.apply(&["001-0262", "001-0331"])?;
    case.ready(&["cpu-demo"])?;
    let pod = case.get("pod", "cpu-demo")?;
    let requests = &pod["spec"]["containers"][0]["resources"]["requests"];
    ensure!(requests == &json!({"cpu": "500m"}), "{requests}");
    let pod = case.until("pods", "cpu-demo-2", "it cannot be scheduled", |pod| {
        condition(pod, "PodScheduled") == "False"
    })?;
    let told = message(&pod, "PodScheduled");
    ensure!(told.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{told}");
    case.remove(&["cpu-demo", "cpu-demo-2"])
}

fn classes(case: Case<'_>) -> Result<()> {
    let _alone = case.processors();
    let case = case.within("qos-example")?;
    case.apply(&["001-0406", "001-0459", "001-0505", "001-0539"])?;
    let expected = [
        ("qos-demo", "Guaranteed"),
        ("qos-demo-2", "Burstable"),
        ("qos-demo-3", "BestEffort"),
        ("qos-demo-4", "Burstable"),
    ];
    for (name, class) in expected {
        case.ready(&[name])?;
        let pod = case.get("pod", name)?;
        ensure!(text(&pod, "/status/qosClass") == class, "{name}: {}", pod["status"]);
    }
    case.remove(&expected.map(|(name, _)| name))
}

fn whole_pod(case: Case<'_>) -> Result<()> {
    let _alone = case.processors();
    case.apply(&["002-1306"])?;
    case.ready(&["pod-level-resource-demo"])?;
    let pod = case.get("pod", "pod-level-resource-demo")?;
    ensure!(pod["spec"]["resources"]["limits"] == json!({"cpu": "1", "memory": "512Mi"}), "{pod}");
    case.remove(&["pod-level-resource-demo"])
}

fn extended(case: Case<'_>) -> Result<()> {
    let node = crate::cluster::NODES[0];
    let patch = case.document("001-0671")?;
    let advertise =
        ["patch", "node", node, "--subresource=status", "--type=json", "--patch", &patch];
    case.kubectl(&advertise)?;
    case.apply(&["001-0779"])?;
    case.ready(&["extended-resource-demo"])?;
    case.apply(&["001-0819"])?;
    let pod = case.until("pods", "extended-resource-demo-2", "it cannot be scheduled", |pod| {
        condition(pod, "PodScheduled") == "False"
    })?;
    let told = message(&pod, "PodScheduled");
    ensure!(
        told.starts_with("0/1 nodes are available: 1 Insufficient example.com/dongle."),
        "{told}"
    );
    case.remove(&["extended-resource-demo"])?;
    case.ready(&["extended-resource-demo-2"])?;
    case.remove(&["extended-resource-demo-2"])
}
