//! What is looked at of every pod of many: some hundred bytes, where a decoded pod has thousands.

use std::borrow::Cow;

use compact_str::CompactString;
use jiff::Timestamp;
use serde::Deserialize;

/// The annotation that says how much is lost with a pod, among those of one set. Upstream: `core.PodDeletionCost`.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// `status.phase`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not all of its containers run yet.
    Pending,
    /// They run.
    Running,
    /// It is over, and went well.
    Succeeded,
    /// It is over, and did not.
    Failed,
    /// Anything else, and nothing.
    #[default]
    Unknown,
}

impl Phase {
    /// The phase of this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        match name {
            "Pending" => Self::Pending,
            "Running" => Self::Running,
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            _ => Self::Unknown,
        }
    }
}

/// What is looked at of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodBrief {
    /// `status.phase`
    pub phase: Phase,
    /// Whether it is on its way out.
    pub deleting: bool,
    /// Whether its condition Ready is true.
    pub ready: bool,
    /// Since when it is ready.
    pub ready_since: Option<Timestamp>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The node that it is bound to; empty for none.
    pub node: CompactString,
    /// The restarts of the container that was restarted most often.
    pub restarts: i32,
    /// What its annotation says of how much is lost with it; 0 where that is no number.
    pub deletion_cost: i32,
}

impl PodBrief {
    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether it still counts: neither over nor being deleted.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.is_over() && !self.deleting
    }

    /// Of a pod's text. What does not fit, which the server's types prevent, is as if it were not there.
    pub(crate) fn of(json: &[u8]) -> Self {
        let Ok(pod) = serde_json::from_slice::<Text<'_>>(json) else { return Self::default() };
        let status = pod.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions.iter().find(|it| it.kind == "Ready" && it.status == "True");
        let containers = status.container_statuses.unwrap_or_default();
        let annotations = pod.metadata.annotations.unwrap_or_default();
        Self {
            phase: Phase::of(status.phase.as_deref().unwrap_or_default()),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            ready: ready.is_some(),
            ready_since: ready.and_then(|it| it.last_transition_time.as_ref()?.parse().ok()),
            created: pod.metadata.creation_timestamp.and_then(|it| it.parse().ok()),
            node: pod.spec.and_then(|it| it.node_name).unwrap_or_default().into(),
            restarts: containers.iter().map(|it| it.restart_count).max().unwrap_or_default(),
            deletion_cost: annotations.cost.and_then(|it| it.parse().ok()).unwrap_or_default(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Text<'t> {
    #[serde(borrow)]
    metadata: Metadata<'t>,
    #[serde(borrow)]
    spec: Option<Spec<'t>>,
    #[serde(borrow)]
    status: Option<Status<'t>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata<'t> {
    #[serde(borrow)]
    creation_timestamp: Option<Cow<'t, str>>,
    #[serde(borrow)]
    deletion_timestamp: Option<Cow<'t, str>>,
    #[serde(borrow)]
    annotations: Option<Annotations<'t>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations<'t> {
    #[serde(borrow, rename = "controller.kubernetes.io/pod-deletion-cost")]
    cost: Option<Cow<'t, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec<'t> {
    #[serde(borrow)]
    node_name: Option<Cow<'t, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status<'t> {
    #[serde(borrow)]
    phase: Option<Cow<'t, str>>,
    #[serde(borrow)]
    conditions: Option<Vec<Condition<'t>>>,
    container_statuses: Option<Vec<Container>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition<'t> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'t, str>,
    #[serde(borrow)]
    status: Cow<'t, str>,
    #[serde(borrow)]
    last_transition_time: Option<Cow<'t, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    restart_count: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_is_read_from_the_text() {
        let check = |json: &str, expected: &PodBrief| {
            assert_eq!(PodBrief::of(json.as_bytes()), *expected, "{json}");
        };
        let time = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        check("{}", &PodBrief::default());
        check(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"a":"\u0062","controller.kubernetes.io/pod-deletion-cost":"-5"},"creationTimestamp":"2026-01-01T00:00:00Z","name":"p"},"spec":{"containers":[{"name":"c"}],"nodeName":"n\u0031"},"status":{"conditions":[{"status":"False","type":"PodScheduled"},{"lastTransitionTime":"2026-01-01T00:00:09Z","status":"True","type":"Ready"}],"containerStatuses":[{"restartCount":1},{"restartCount":3}],"phase":"Running"}}"#,
            &PodBrief {
                phase: Phase::Running,
                ready: true,
                ready_since: time("2026-01-01T00:00:09Z"),
                created: time("2026-01-01T00:00:00Z"),
                node: "n1".into(),
                restarts: 3,
                deletion_cost: -5,
                deleting: false,
            },
        );
        check(
            r#"{"metadata":{"annotations":{"controller.kubernetes.io/pod-deletion-cost":"much"},"deletionTimestamp":"2026-01-01T00:00:00Z"},"status":{"conditions":[{"status":"False","type":"Ready"}],"phase":"Failed"}}"#,
            &PodBrief { phase: Phase::Failed, deleting: true, ..PodBrief::default() },
        );
    }
}
