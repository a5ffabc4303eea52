//! ResourceQuota: what a namespace uses stays within what it may, counted in the write itself.
//!
//! Usage is kept in the quota's status and moved there by compare-and-set, so that two writes never both take the
//! last of something. What a write took that failed afterwards is given back by the quota controller.

pub(crate) mod limited;
mod usage;

use std::sync::Arc;

use apimachinery::{Status, Value};
use async_trait::async_trait;

use crate::{Attributes, Objects, Operation, Plugin};
use limited::Limited;
use quota::{Amounts, add, amounts};
use usage::Usage;

/// How often a quota that changed meanwhile is checked again.
const ATTEMPTS: usize = 8;

#[derive(Debug)]
pub(crate) struct ResourceQuota {
    objects: Arc<dyn Objects>,
    /// What may be used only where a quota covers it.
    limited: Vec<Limited>,
}

/// What a write does to a quota.
enum Verdict {
    /// Nothing.
    Same,
    /// This is the quota with the new usage.
    Uses(Value),
}

impl ResourceQuota {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects, limited: Vec::new() }
    }

    pub(crate) fn limited(self, limited: Vec<Limited>) -> Self {
        Self { limited, ..self }
    }

    /// Whether a write fits one quota as it is now.
    async fn look(
        &self,
        attributes: &Attributes<'_>,
        name: &str,
        usage: &Usage<'_>,
    ) -> Result<(), Status> {
        let live = self.objects.get_live("", "resourcequotas", attributes.namespace, name).await?;
        let Some(live) = live else { return Ok(()) };
        let quota = live.to_value().map_err(Status::internal)?;
        judge(attributes, &quota, usage).map(|_| ())
    }

    /// Counts a write against one quota.
    async fn charge(
        &self,
        attributes: &Attributes<'_>,
        name: &str,
        usage: &Usage<'_>,
    ) -> Result<(), Status> {
        for _ in 0..ATTEMPTS {
            let live =
                self.objects.get_live("", "resourcequotas", attributes.namespace, name).await?;
            let Some(live) = live else { return Ok(()) };
            let quota = live.to_value().map_err(Status::internal)?;
            let Verdict::Uses(changed) = judge(attributes, &quota, usage)? else { return Ok(()) };
            if attributes.dry_run
                || self.objects.compare_and_set_status("", "resourcequotas", changed).await?
            {
                return Ok(());
            }
        }
        Err(Status::conflict(
            apimachinery::status::GroupResource { group: "", resource: "resourcequotas" },
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        ))
    }
}

/// Whether the write fits, and what the quota says then.
fn judge(attributes: &Attributes<'_>, quota: &Value, usage: &Usage<'_>) -> Result<Verdict, Status> {
    let name = quota.str_at(&["metadata", "name"]);
    let hard = amounts(&quota["status"]["hard"]);
    let wanted_hard = amounts(&quota["spec"]["hard"]);
    if !usage.in_scope(quota) {
        return Ok(Verdict::Same);
    }
    if let Some(lacking) = usage.lacking(&wanted_hard) {
        return Err(attributes.forbid(&format!("failed quota: {name}: must specify {lacking}")));
    }
    let mut asked = usage.change(quota);
    asked.retain(|resource, amount| wanted_hard.contains_key(resource) && !amount.is_zero());
    if asked.is_empty() {
        return Ok(Verdict::Same);
    }
    let used = amounts(&quota["status"]["used"]);
    let unknown: Vec<&str> = asked
        .keys()
        .map(String::as_str)
        .filter(|it| !hard.contains_key(*it) || !used.contains_key(*it))
        .collect();
    if !unknown.is_empty() {
        return Err(attributes.forbid(&format!(
            "status unknown for quota: {name}, resources: {}",
            unknown.join(",")
        )));
    }
    let mut sum = used.clone();
    add(&mut sum, &asked);
    let exceeded: Vec<&String> = asked
        .iter()
        .filter(|(resource, amount)| amount.sign() > 0 && sum[*resource] > hard[*resource])
        .map(|(resource, _)| resource)
        .collect();
    if exceeded.is_empty() {
        let mut changed = quota.clone();
        for resource in asked.keys() {
            changed.set_at(&["status", "used", resource], sum[resource].to_text());
        }
        return Ok(Verdict::Uses(changed));
    }
    let show = |amounts: &Amounts| -> String {
        let parts = exceeded.iter().filter_map(|it| Some(format!("{it}={}", amounts.get(*it)?)));
        parts.collect::<Vec<_>>().join(",")
    };
    Err(attributes.forbid(&format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        show(&asked),
        show(&used),
        show(&hard)
    )))
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        !attributes.namespace.is_empty()
            && usage::is_charged_for(attributes)
            && attributes.resource != "events"
            && match attributes.operation {
                Operation::Create => true,
                Operation::Update => usage::changes_by_update(attributes),
                Operation::Delete | Operation::Connect => false,
            }
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let quotas = self.objects.list("", "resourcequotas", attributes.namespace);
        if quotas.is_empty() && self.limited.is_empty() {
            return Ok(());
        }
        let usage = Usage::of(attributes);
        if quotas.len() > 1 {
            // None is charged for a write that another refuses.
            for quota in &quotas {
                self.look(attributes, &quota.facts.name, &usage).await?;
            }
        }
        limited::check((&self.limited, &quotas), attributes, &usage)?;
        for quota in quotas {
            self.charge(attributes, &quota.facts.name, &usage).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
