//! The revisions of a DaemonSet. Upstream: `update.go`.

use apimachinery::value;
use client::Resource;
use client::call::PatchKind;
use controller::{Action, Plan};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Pod;

use super::Observed;
use super::template::HASH_LABEL;
use crate::history::{self, number};
use crate::owner::{Owner, key_of, to_value};

/// The revisions of a set.
pub(super) struct Revisions<'o> {
    /// What the present template's revision is called in labels.
    pub(super) hash: String,
    /// The revisions of other templates, oldest first.
    pub(super) old: Vec<&'o ControllerRevision>,
}

fn hash_of(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    let hash = labels.and_then(|it| it.get(HASH_LABEL)).or(revision.metadata.name.as_ref());
    hash.map(String::as_str).unwrap_or_default()
}

/// Sorts the revisions out; plans the present one where it is missing or not the newest.
pub(super) fn construct<'o>(
    plan: &mut Plan,
    observed: &'o Observed,
    owner: &Owner<'_>,
    mine: Vec<&'o ControllerRevision>,
    pods: &[&Pod],
) -> Revisions<'o> {
    for revision in &mine {
        let labelled =
            revision.metadata.labels.as_ref().is_some_and(|it| it.contains_key(HASH_LABEL));
        if !labelled {
            let mut object = to_value(*revision);
            object.set_at(&["metadata", "labels", HASH_LABEL], hash_of(revision));
            let resource = history::resource();
            plan.act(Action::Update { resource, subresource: "", object });
        }
    }
    let (mut current, mut old): (Vec<_>, Vec<_>) =
        mine.into_iter().partition(|it| history::is_of(it, &observed.kept));
    history::sort(&mut current);
    history::sort(&mut old);
    let next = old.last().map_or(0, |it| number(it)) + 1;
    let hash = match (current.pop(), &observed.kept.existing) {
        (Some(kept), _) => {
            if !current.is_empty() {
                merge(plan, kept, &current, pods);
            }
            if number(kept) < next {
                plan.act(history::renumber(kept, next));
            }
            hash_of(kept).to_owned()
        }
        (None, Some(existing)) => hash_of(existing).to_owned(),
        (None, None) => {
            plan.act(history::create(owner, &observed.kept, next, HASH_LABEL));
            observed.kept.hash.clone()
        }
    };
    Revisions { hash, old }
}

/// Several revisions of one template become one, and the pods are labelled with it.
fn merge(
    plan: &mut Plan,
    kept: &ControllerRevision,
    others: &[&ControllerRevision],
    pods: &[&Pod],
) {
    let hash = hash_of(kept);
    let label = |pod: &Pod| pod.metadata.labels.as_ref().and_then(|it| it.get(HASH_LABEL)).cloned();
    for pod in pods.iter().filter(|pod| label(pod).as_deref() != Some(hash)) {
        plan.act(Action::Patch {
            resource: Resource::of::<Pod>(),
            key: key_of(&pod.metadata),
            subresource: "",
            kind: PatchKind::Merge,
            patch: value!({"metadata": {"labels": {HASH_LABEL: hash}}}),
            gone_is_fine: true,
        });
    }
    plan.then();
    others.iter().for_each(|it| {
        plan.act(history::delete(it));
    });
}

/// Deletes old revisions beyond the history that is to be kept, the oldest first, none that a pod is of.
pub(super) fn clean_up(plan: &mut Plan, limit: i32, old: &[&ControllerRevision], pods: &[&Pod]) {
    let keep = usize::try_from(limit).unwrap_or_default();
    let surplus = old.len().saturating_sub(keep);
    let live = |revision: &ControllerRevision| {
        let hash = hash_of(revision);
        pods.iter().any(|pod| {
            let labels = pod.metadata.labels.as_ref();
            labels.and_then(|it| it.get(HASH_LABEL)).is_some_and(|it| it == hash)
        })
    };
    for revision in old.iter().filter(|it| !live(it)).take(surplus) {
        plan.act(history::delete(revision));
    }
}
