//! MutatingAdmissionWebhook: one webhook after the other may change the object.

use std::collections::BTreeMap;

use apimachinery::patch::json_patch;
use apimachinery::{Status, Value, json};
use async_trait::async_trait;
use tokio::time::Instant;

use super::{Answer, Asked, Webhooks};
use crate::{Attributes, Plugin, managed};

/// The plugin.
#[derive(Debug)]
pub(crate) struct Mutating(pub(crate) Webhooks);

#[async_trait]
impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        self.0.handles(attributes)
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let again = attributes.reinvocation.again;
        if again {
            attributes.reinvocation.webhooks.compare(attributes.object);
        }
        let configurations = self.0.configurations(attributes);
        let hooks = configurations.iter().flat_map(|it| it.hooks());
        for hook in hooks.enumerate() {
            let Some(asked) = self.0.concerns(hook, attributes).await? else { continue };
            let uid = &asked.hook.uid;
            // Nobody is asked for the first time on the second round.
            if again && !attributes.reinvocation.webhooks.is_due(uid) {
                continue;
            }
            let changed = self.call(&asked, attributes).await?;
            let reinvocation = &mut *attributes.reinvocation;
            if changed {
                reinvocation.webhooks.require();
                reinvocation.wanted = true;
            }
            if asked.hook.is_reinvoked {
                reinvocation.webhooks.note(uid);
            }
        }
        attributes.reinvocation.webhooks.leave(attributes.object);
        Ok(())
    }
}

impl Mutating {
    /// Calls a webhook; whether it changed the object comes back.
    async fn call(
        &self,
        asked: &Asked<'_>,
        attributes: &mut Attributes<'_>,
    ) -> Result<bool, Status> {
        let began = Instant::now();
        let result = self.0.ask(asked, attributes).await;
        *attributes.waited += began.elapsed();
        if let Ok(answer) = &result {
            attributes.warnings.extend(answer.warnings.iter().cloned());
            attributes.annotations.extend(answer.annotations.iter().cloned());
        }
        let changed = match &result {
            Ok(Answer { denied: None, patch: Some(patch), .. }) => {
                patched(asked, attributes, patch).await
            }
            _ => Ok(false),
        };
        let mutated = matches!(changed, Ok(true));
        if let Ok(Answer { patch: Some(patch), .. }) = &result
            && mutated
        {
            annotate_patch(asked, attributes, patch);
        }
        annotate(asked, attributes, mutated, result.is_err());
        let result = match changed {
            Err(status) => Err(super::Failure::Unusable(status)),
            Ok(_) => result,
        };
        self.0.settle(asked, attributes, began.elapsed(), &result)?;
        Ok(mutated)
    }
}

/// Applies a webhook's patch to the object in the version that it saw.
async fn patched(
    asked: &Asked<'_>,
    attributes: &mut Attributes<'_>,
    patch: &[u8],
) -> Result<bool, Status> {
    let patch = json::parse(patch).map_err(Status::internal)?;
    if patch.as_array().is_none_or(<[Value]>::is_empty) {
        return Ok(false);
    }
    if attributes.object.is_null() {
        return Err(Status::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            asked.hook.name
        )));
    }
    let converted = attributes.context.to_version(attributes.object, asked.version).await?;
    let seen = converted.as_ref().unwrap_or(attributes.object);
    let changed = json_patch::apply(seen, &patch).map_err(Status::internal)?;
    let context = attributes.context;
    let taken = context.take_version(changed, asked.version, attributes.object, false).await?;
    let before = managed::of(attributes.object);
    let is_changed = taken != *attributes.object;
    *attributes.object = taken;
    managed::restore(attributes, before);
    Ok(is_changed)
}

/// Tells the audit what became of a call.
fn annotate(asked: &Asked<'_>, attributes: &mut Attributes<'_>, mutated: bool, failed: bool) {
    let round = u8::from(attributes.reinvocation.again);
    let place = format!("round_{round}_index_{}", asked.index);
    let (configuration, webhook) = (asked.hook.configuration.as_str(), asked.hook.name.as_str());
    let told = apimachinery::value!({"configuration": configuration, "mutated": mutated, "webhook": webhook});
    let key = format!("mutation.webhook.admission.k8s.io/{place}");
    attributes.annotations.insert(key, json::to_string(&told));
    if failed && asked.hook.ignores_failure {
        let key = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
        attributes.annotations.insert(key, webhook.to_owned());
    }
}

/// Tells the audit, where it records objects, how one was changed.
fn annotate_patch(asked: &Asked<'_>, attributes: &mut Attributes<'_>, patch: &[u8]) {
    let Ok(patch) = json::parse(patch) else { return };
    let round = u8::from(attributes.reinvocation.again);
    let key = format!("patch.webhook.admission.k8s.io/round_{round}_index_{}", asked.index);
    let told = apimachinery::value!({"configuration": (asked.hook.configuration.as_str()), "patch": patch,
        "patchType": "JSONPatch", "webhook": (asked.hook.name.as_str())});
    attributes.annotations.insert(key, json::to_string(&told));
}

/// What the audit is to be told of a request.
pub type Annotations = BTreeMap<String, String>;
