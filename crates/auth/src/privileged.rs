//! The group that may do everything: upstream's `system:masters`.

use apimachinery::Status;

use crate::{Attributes, Authorizer, Decision, Rules, UserInfo, user::MASTERS};

/// Allows members of `system:masters` everything; of others it knows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrivilegedGroup;

impl Authorizer for PrivilegedGroup {
    fn decide(&self, attributes: &Attributes<'_>) -> Option<Decision> {
        Some(if attributes.user.is_in(MASTERS) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        })
    }

    /// Nothing: as upstream, the group's rules are told by the role it is bound to.
    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Result<Rules, Status> {
        Ok(Rules::default())
    }
}
