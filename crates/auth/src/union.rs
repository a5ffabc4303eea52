//! Several authorizers in turn: the first that allows or denies decides.

use std::sync::Arc;

use apimachinery::Status;
use futures::future::BoxFuture;

use crate::{Attributes, Authorizer, Decision, Rules, UserInfo};

/// Authorizers in the order they are asked.
#[derive(Debug, Clone, Default)]
pub struct Union(pub Vec<Arc<dyn Authorizer>>);

/// What was heard of those who decide nothing.
#[derive(Debug, Default)]
struct Heard {
    reasons: Vec<String>,
    failures: Vec<String>,
}

impl Heard {
    /// The decision, where this is one.
    fn says(&mut self, decision: Decision) -> Option<Decision> {
        match decision {
            Decision::NoOpinion(reason) if reason.is_empty() => {}
            Decision::NoOpinion(reason) => self.reasons.push(reason),
            Decision::Failed { why, denies: false } => self.failures.push(why),
            Decision::Allow(_) | Decision::Deny(_) => return Some(decision),
            Decision::Failed { denies: true, .. } => return Some(decision),
        }
        None
    }

    /// Nobody has decided.
    fn nothing(self) -> Decision {
        match self.failures.as_slice() {
            [] => Decision::NoOpinion(self.reasons.join("\n")),
            [why] => Decision::Failed { why: why.clone(), denies: false },
            // As Go writes several errors.
            many => Decision::Failed { why: format!("[{}]", many.join(", ")), denies: false },
        }
    }
}

impl Authorizer for Union {
    fn decide(&self, attributes: &Attributes<'_>) -> Option<Decision> {
        let mut heard = Heard::default();
        for authorizer in &self.0 {
            if let Some(decision) = heard.says(authorizer.decide(attributes)?) {
                return Some(decision);
            }
        }
        Some(heard.nothing())
    }

    fn ask<'a>(&'a self, attributes: &'a Attributes<'a>) -> BoxFuture<'a, Decision> {
        Box::pin(async move {
            let mut heard = Heard::default();
            for authorizer in &self.0 {
                if let Some(decision) = heard.says(authorizer.authorize(attributes).await) {
                    return decision;
                }
            }
            heard.nothing()
        })
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<Rules, Status> {
        let mut all = Rules::default();
        for authorizer in &self.0 {
            let rules = authorizer.rules_for(user, namespace)?;
            all.resource.extend(rules.resource);
            all.non_resource.extend(rules.non_resource);
            all.incomplete |= rules.incomplete;
            if !rules.evaluation_error.is_empty() {
                if !all.evaluation_error.is_empty() {
                    all.evaluation_error.push_str(", ");
                }
                all.evaluation_error.push_str(&rules.evaluation_error);
            }
        }
        Ok(all)
    }
}
