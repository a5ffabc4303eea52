//! ValidatingAdmissionWebhook: all webhooks that a request concerns are asked at once, and each may refuse it.

use apimachinery::Status;
use async_trait::async_trait;
use futures::future::join_all;
use tokio::time::Instant;

use super::Webhooks;
use crate::{Attributes, Plugin};

/// The plugin.
#[derive(Debug)]
pub(crate) struct Validating(pub(crate) Webhooks);

#[async_trait]
impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        self.0.handles(attributes)
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let configurations = self.0.configurations(attributes);
        let mut concerned = Vec::new();
        for hook in configurations.iter().flat_map(|it| it.hooks()).enumerate() {
            concerned.extend(self.0.concerns(hook, attributes).await?);
        }
        let calls = concerned.iter().map(|asked| {
            let attributes = &*attributes;
            async move {
                let began = Instant::now();
                let result = self.0.ask(asked, attributes).await;
                (began.elapsed(), result)
            }
        });
        let results = join_all(calls).await;
        *attributes.waited += results.iter().map(|(took, _)| *took).max().unwrap_or_default();
        let mut refusal = None;
        for (asked, (took, result)) in concerned.iter().zip(results) {
            match &result {
                Ok(answer) => {
                    attributes.warnings.extend(answer.warnings.iter().cloned());
                    attributes.annotations.extend(answer.annotations.iter().cloned());
                }
                Err(_) if asked.hook.ignores_failure => {
                    let key = format!(
                        "failed-open.validating.webhook.admission.k8s.io/round_0_index_{}",
                        asked.index
                    );
                    attributes.annotations.insert(key, asked.hook.name.clone());
                }
                Err(_) => {}
            }
            // Every call is counted; the first refusal is told.
            let settled = self.0.settle(asked, attributes, took, &result);
            refusal = refusal.or(settled.err());
        }
        refusal.map_or(Ok(()), Err)
    }
}
