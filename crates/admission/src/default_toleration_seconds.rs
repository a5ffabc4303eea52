//! DefaultTolerationSeconds: pods stay five minutes, or as long as the operator says, on a node that is not ready or cannot be reached.

use apimachinery::{Status, Value, value};
use async_trait::async_trait;

use crate::{Attributes, Operation, Plugin};

/// Upstream's `--default-not-ready-toleration-seconds` and its kin.
const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// How many seconds pods stay that do not say so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DefaultTolerationSeconds {
    pub(crate) not_ready: i64,
    pub(crate) unreachable: i64,
}

impl Default for DefaultTolerationSeconds {
    fn default() -> Self {
        Self { not_ready: SECONDS, unreachable: SECONDS }
    }
}

/// Whether a toleration is for the taint `key:NoExecute`.
fn covers(toleration: &Value, key: &str) -> bool {
    let its_key = toleration.str_at(&["key"]);
    (its_key == key || its_key.is_empty())
        && matches!(toleration.str_at(&["effect"]), "NoExecute" | "")
}

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is("", "pods")
            && matches!(attributes.operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let mut tolerations = attributes.object.items_at(&["spec", "tolerations"]).to_vec();
        let before = tolerations.len();
        let seconds = [self.not_ready, self.unreachable];
        let missing: Vec<(&str, i64)> = TAINTS
            .into_iter()
            .zip(seconds)
            .filter(|(key, _)| !tolerations.iter().any(|it| covers(it, key)))
            .collect();
        for (key, seconds) in missing {
            tolerations.push(value!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}));
        }
        if tolerations.len() > before {
            attributes.object.set_at(&["spec", "tolerations"], tolerations);
        }
        Ok(())
    }
}
