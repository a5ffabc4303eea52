//! The role-based authorizer: roles and bindings, compiled as they change, asked by subject.
//!
//! Nothing is decoded for a request: the index follows the caches' changes.

mod index;
mod rule;

use apimachinery::Status;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use rule::{Rule, missing};

use crate::objects::{Changes, Feed};
use crate::{Attributes, Authorizer, Decision, Objects, Rules, UserInfo};
use index::{Bound, Index, Sort};

/// The group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The role-based authorizer.
#[derive(Debug)]
pub struct Rbac(RwLock<State>);

#[derive(Debug)]
struct State {
    feeds: Vec<(Sort, Box<dyn Feed>)>,
    index: Index,
}

/// Where a binding's role lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleRef<'r> {
    /// `Role` or `ClusterRole`
    pub kind: &'r str,
    /// Its name.
    pub name: &'r str,
    /// The binding's namespace, in which a `Role` is looked for.
    pub namespace: &'r str,
}

impl Rbac {
    /// The authorizer of these objects' roles.
    #[must_use]
    pub fn new(objects: &dyn Objects) -> Self {
        let feeds = Sort::ALL
            .into_iter()
            .filter_map(|sort| objects.feed(GROUP, sort.resource()).map(|feed| (sort, feed)));
        Self(RwLock::new(State { feeds: feeds.collect(), index: Index::default() }))
    }

    /// The index as of now.
    fn index(&self) -> RwLockReadGuard<'_, State> {
        let state = self.0.read();
        if !state.feeds.iter().any(|(_, feed)| feed.is_behind()) {
            return state;
        }
        drop(state);
        let mut state = self.0.write();
        let State { feeds, index } = &mut *state;
        for (sort, feed) in feeds {
            match feed.take() {
                Changes::All(objects) => index.replace(*sort, &objects),
                Changes::Some(changes) => {
                    changes.iter().for_each(|it| index.apply(*sort, &it.object, it.deleted));
                }
            }
        }
        RwLockWriteGuard::downgrade(state)
    }

    /// Every rule that holds for a user in a namespace, and what could not be found out.
    #[must_use]
    pub fn user_rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let state = self.index();
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for bound in state.index.bindings_of(user, namespace) {
            match state.index.role_of(bound.binding) {
                Ok(role) => rules.extend_from_slice(role),
                Err(error) => errors.push(error),
            }
        }
        (rules, errors)
    }

    /// The rules of a role.
    ///
    /// # Errors
    /// Where there is no such role, in upstream's words.
    pub fn role_rules(&self, role: RoleRef<'_>) -> Result<Vec<Rule>, String> {
        self.index().index.role(role).map(<[Rule]>::to_vec)
    }
}

impl Authorizer for Rbac {
    fn decide(&self, attributes: &Attributes<'_>) -> Option<Decision> {
        let state = self.index();
        let mut errors: Vec<String> = Vec::new();
        for bound in state.index.candidates(attributes.user, attributes.namespace) {
            match state.index.role_of(bound.binding) {
                Ok(role) if role.iter().any(|rule| rule.allows(attributes)) => {
                    let reason = format!("RBAC: allowed by {}", Shown(&bound));
                    return Some(Decision::Allow(reason));
                }
                Ok(_) => {}
                Err(error) if errors.contains(&error) => {}
                Err(error) => errors.push(error),
            }
        }
        Some(Decision::NoOpinion(match errors.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        }))
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<Rules, Status> {
        let (rules, errors) = self.user_rules(user, namespace);
        let mut all = Rules { incomplete: !errors.is_empty(), ..Rules::default() };
        all.evaluation_error = errors.join(", ");
        for rule in &rules {
            let (is_resource, value) = rule.to_review();
            if is_resource { all.resource.push(value) } else { all.non_resource.push(value) }
        }
        Ok(all)
    }
}

/// A binding as the reason of a decision names it.
struct Shown<'b>(&'b Bound<'b>);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Bound { binding, subject, .. } = self.0;
        match binding.namespace.as_str() {
            "" => write!(f, "ClusterRoleBinding \"{}\"", binding.name)?,
            namespace => write!(f, "RoleBinding \"{}/{namespace}\"", binding.name)?,
        }
        write!(f, " of {} \"{}\" to ", binding.role_kind, binding.role_name)?;
        let (kind, name) = (&subject.kind, &subject.name);
        match subject.namespace.as_str() {
            "" => write!(f, "{kind} \"{name}\""),
            namespace => write!(f, "{kind} \"{name}/{namespace}\""),
        }
    }
}

#[cfg(test)]
mod tests;
