//! Several authorizers in turn: the first that allows or denies decides.

use std::sync::Arc;

use apimachinery::Status;
use futures::future::BoxFuture;

use crate::{Attributes, Authorizer, Decision, Rules, UserInfo};

/// Authorizers in the order they are asked.
#[derive(Debug, Clone, Default)]
pub struct Union(pub Vec<Arc<dyn Authorizer>>);

impl Authorizer for Union {
    fn decide(&self, attributes: &Attributes<'_>) -> Option<Decision> {
        let mut reasons: Vec<String> = Vec::new();
        for authorizer in &self.0 {
            match authorizer.decide(attributes)? {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decision @ (Decision::Allow(_) | Decision::Deny(_)) => return Some(decision),
            }
        }
        Some(Decision::NoOpinion(reasons.join("\n")))
    }

    fn ask<'a>(&'a self, attributes: &'a Attributes<'a>) -> BoxFuture<'a, Decision> {
        Box::pin(async move {
            let mut reasons: Vec<String> = Vec::new();
            for authorizer in &self.0 {
                match authorizer.authorize(attributes).await {
                    Decision::NoOpinion(reason) if reason.is_empty() => {}
                    Decision::NoOpinion(reason) => reasons.push(reason),
                    decision @ (Decision::Allow(_) | Decision::Deny(_)) => return decision,
                }
            }
            Decision::NoOpinion(reasons.join("\n"))
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
