//! The revisions of a StatefulSet: the one its pods are led to, and the one they come from.

use apimachinery::Value;
use controller::Plan;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Pod;

use super::{Observed, identity};
use crate::history::{self, number};
use crate::owner::{self, Owner};

/// The label of a revision's hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// A revision.
#[derive(Debug, Clone)]
pub(super) struct Revision {
    pub(super) name: String,
    pub(super) template: Value,
}

impl Revision {
    fn of(revision: &ControllerRevision) -> Self {
        let name = revision.metadata.name.clone().unwrap_or_default();
        Self { name, template: history::template(revision) }
    }
}

/// The revisions that matter.
#[derive(Debug)]
pub(super) struct Revisions<'o> {
    pub(super) current: Revision,
    pub(super) update: Revision,
    /// All there are, oldest first.
    pub(super) all: Vec<&'o ControllerRevision>,
}

/// Finds the revisions; plans the one of the present template where it is missing or not the newest.
pub(super) fn find<'o>(
    plan: &mut Plan,
    observed: &'o Observed,
    owner: &Owner<'_>,
) -> Revisions<'o> {
    let deleting = owner::is_deleting(owner.metadata);
    let orphans = observed.revisions.iter().filter(|it| {
        owner::controller_of(&it.metadata).is_none() && !owner::is_deleting(&it.metadata)
    });
    for orphan in orphans.filter(|_| !deleting) {
        plan.act(owner.adopt(history::resource(), &orphan.metadata));
    }
    let mut all: Vec<&ControllerRevision> = observed.revisions.iter().map(AsRef::as_ref).collect();
    history::sort(&mut all);
    let next = all.last().map_or(0, |it| number(it)) + 1;
    let equal = all.iter().rposition(|it| history::is_of(it, &observed.kept));
    let update = match (equal, &observed.kept.existing) {
        (Some(place), _) => {
            if place + 1 != all.len() {
                plan.act(history::renumber(all[place], next));
            }
            Revision::of(all[place])
        }
        (None, Some(existing)) => Revision::of(existing),
        (None, None) => {
            plan.act(history::create(owner, &observed.kept, next, HASH_LABEL));
            let template = observed.kept.data.at(&["spec", "template"]).cloned();
            let mut template = template.unwrap_or_default();
            template.remove_at(&["$patch"]);
            Revision { name: observed.kept.name.clone(), template }
        }
    };
    let named = observed.set.status.as_ref().and_then(|it| it.current_revision.as_ref());
    let current = all.iter().find(|it| named.is_some() && it.metadata.name.as_ref() == named);
    let current = current.map_or_else(|| update.clone(), |it| Revision::of(it));
    Revisions { current, update, all }
}

/// Deletes revisions beyond the history that is to be kept, the oldest first, none that is in use.
pub(super) fn clean_up(
    plan: &mut Plan,
    observed: &Observed,
    revisions: &Revisions<'_>,
    pods: &[&Pod],
) {
    let live = |name: &str| {
        name == revisions.current.name
            || name == revisions.update.name
            || pods.iter().any(|pod| identity::revision(pod) == name)
    };
    let idle: Vec<_> = revisions
        .all
        .iter()
        .filter(|it| !live(it.metadata.name.as_deref().unwrap_or_default()))
        .collect();
    let limit = observed.set.spec.revision_history_limit.unwrap_or(10);
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
    for revision in idle.into_iter().take(surplus) {
        plan.act(history::delete(revision));
    }
}
