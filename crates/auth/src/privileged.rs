//! The group that may do everything: upstream's `system:masters`.

use apimachinery::{Status, value};

use crate::{Attributes, Authorizer, Decision, Rules, UserInfo, user::MASTERS};

/// Allows members of `system:masters` everything; of others it knows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrivilegedGroup;

impl Authorizer for PrivilegedGroup {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.is_in(MASTERS) {
            Decision::Allow
        } else {
            Decision::NoOpinion(String::new())
        }
    }

    fn rules_for(&self, user: &UserInfo, _namespace: &str) -> Result<Rules, Status> {
        if !user.is_in(MASTERS) {
            return Ok(Rules::default());
        }
        Ok(Rules {
            resource: vec![value!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})],
            non_resource: vec![value!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
            ..Rules::default()
        })
    }
}
