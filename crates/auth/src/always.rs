//! Authorizers that always say the same: `AlwaysAllow` and `AlwaysDeny`.

use apimachinery::{Status, value};

use crate::{Attributes, Authorizer, Decision, Rules, UserInfo};

/// Allows everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct AlwaysAllow;

/// Allows nothing that nobody else allows.
#[derive(Debug, Clone, Copy, Default)]
pub struct AlwaysDeny;

impl Authorizer for AlwaysAllow {
    fn decide(&self, _attributes: &Attributes<'_>) -> Option<Decision> {
        Some(Decision::Allow(String::new()))
    }

    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Result<Rules, Status> {
        Ok(Rules {
            resource: vec![value!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})],
            non_resource: vec![value!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
            ..Rules::default()
        })
    }
}

impl Authorizer for AlwaysDeny {
    fn decide(&self, _attributes: &Attributes<'_>) -> Option<Decision> {
        Some(Decision::NoOpinion("Everything is forbidden.".into()))
    }

    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Result<Rules, Status> {
        Ok(Rules::default())
    }
}
