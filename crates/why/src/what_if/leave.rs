//! Pods leave nodes: drained one by one as budgets allow, or lost with their node.

use std::sync::Arc;

use apimachinery::Value;

use super::place::Pending;
use super::{Noted, Play, WhatIfError};
use crate::objects::{controller_of, is_going, key_of};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// How a pod leaves.
enum Leaving {
    /// It stays, and why.
    Stays(&'static str),
    /// Its owner makes it again.
    MadeAgain,
    /// Nobody does.
    Lost,
}

impl Play<'_> {
    pub(super) fn drain(&mut self, nodes: &[String]) -> Result<(), WhatIfError> {
        self.check(nodes)?;
        self.report.action = format!("drain {}", nodes.join(", "));
        nodes.iter().for_each(|it| self.cordon(it));
        let mut to_go = Vec::new();
        let there: Vec<Arc<Value>> = nodes.iter().flat_map(|it| self.pods_on(it)).collect();
        for pod in there {
            match leaving(&pod, false) {
                Leaving::Stays(why) => self.report.ignored.push(noted(&pod, why)),
                Leaving::MadeAgain | Leaving::Lost => to_go.push(pod),
            }
        }
        to_go.iter().for_each(|it| self.warn(it));
        // As evictions go: all that budgets allow at once, and again when those have found a place.
        loop {
            let mut kept = Vec::new();
            let before = to_go.len();
            for pod in to_go {
                match self.budgets.evict(&pod) {
                    Ok(()) => self.leave(&pod),
                    Err(why) => kept.push((pod, why)),
                }
            }
            self.settle()?;
            if kept.is_empty() || kept.len() == before {
                let blocked = kept.iter().map(|(pod, why)| noted(pod, why));
                self.report.blocked.extend(blocked);
                return Ok(());
            }
            to_go = kept.into_iter().map(|(pod, _)| pod).collect();
        }
    }

    pub(super) fn lose(&mut self, nodes: &[String]) -> Result<(), WhatIfError> {
        self.check(nodes)?;
        self.report.action = format!("lose {}", nodes.join(", "));
        let pods: Vec<Arc<Value>> = nodes.iter().flat_map(|it| self.pods_on(it)).collect();
        for name in nodes {
            self.cluster.remove_node(name);
            self.around.nodes.remove(name);
        }
        for pod in &pods {
            match leaving(pod, true) {
                Leaving::Stays(why) => {
                    self.cluster.remove_pod(&key_of(pod));
                    self.report.ignored.push(noted(pod, why));
                }
                Leaving::MadeAgain | Leaving::Lost => {
                    self.budgets.lose(pod);
                    self.leave(pod);
                }
            }
        }
        self.settle()
    }

    /// A pod leaves its node; where somebody makes it again, it is to be placed.
    pub(super) fn leave(&mut self, pod: &Arc<Value>) {
        self.cluster.remove_pod(&key_of(pod));
        if matches!(leaving(pod, false), Leaving::MadeAgain) {
            self.queue.push_back(Pending::again(pod));
            return;
        }
        let why = match is_going(pod) {
            true => "it is being deleted already",
            false => "no controller makes it again",
        };
        self.report.lost.push(noted(pod, why));
    }

    fn warn(&mut self, pod: &Value) {
        let volumes = pod.items_at(&["spec", "volumes"]).iter();
        let empty: Vec<&str> = volumes
            .filter(|it| it.get("emptyDir").is_some_and(|it| !it.is_null()))
            .map(|it| it.str_at(&["name"]))
            .collect();
        if !empty.is_empty() {
            let note = format!("data of its emptyDir volumes is lost: {}", empty.join(", "));
            self.report.warnings.push(noted(pod, &note));
        }
        if controller_of(pod).is_none() && !is_going(pod) {
            self.report
                .warnings
                .push(noted(pod, "no controller makes it again: drain needs --force"));
        }
    }
}

fn leaving(pod: &Value, node_is_lost: bool) -> Leaving {
    if pod.at(&["metadata", "annotations", MIRROR]).is_some() {
        return Leaving::Stays("static pod: it belongs to its node");
    }
    match controller_of(pod).map(|it| it.str_at(&["kind"])) {
        Some("DaemonSet") if node_is_lost => Leaving::Stays("DaemonSet pod: it goes with its node"),
        Some("DaemonSet") => Leaving::Stays("DaemonSet pod: drain leaves it"),
        Some("Node") => Leaving::Stays("static pod: it belongs to its node"),
        Some(_) if !is_going(pod) => Leaving::MadeAgain,
        // A pod that is going was replaced already.
        _ => Leaving::Lost,
    }
}

pub(super) fn noted(pod: &Value, note: &str) -> Noted {
    Noted {
        pod: key_of(pod),
        node: pod.str_at(&["spec", "nodeName"]).to_owned(),
        note: note.to_owned(),
    }
}
