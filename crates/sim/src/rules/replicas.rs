//! A ReplicaSet, and a ReplicationController, never has more pods made than it asks for.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::Value;
use compact_str::CompactString;
use tokio::time::Instant;

use super::{History, Rule, controller, is_active, uid};
use crate::observer::{Change, Context};

const RULE: &str = "no more pods than a ReplicaSet asks for";
const KINDS: [&str; 2] = ["ReplicaSet", "ReplicationController"];

#[derive(Debug, Default)]
struct Set {
    asked: History,
    active: BTreeSet<CompactString>,
    /// When it took pods over that it had not made.
    adopted: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Replicas {
    sets: BTreeMap<CompactString, Set>,
}

impl Rule for Replicas {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        match (change.kind, change.new) {
            (kind, Some(new)) if KINDS.contains(&kind) => {
                let asked = new.i64_at(&["spec", "replicas"]).unwrap_or(1);
                self.sets.entry(uid(new).into()).or_default().asked.set(context.now, asked);
            }
            (kind, None) if KINDS.contains(&kind) => {
                if let Some(old) = change.old {
                    self.sets.remove(uid(old));
                }
            }
            ("Pod", _) => self.pod(change, context),
            _ => {}
        }
    }
}

impl Replicas {
    fn pod(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let owner = |it: Option<&Value>| {
            let it = it?;
            let owner = KINDS.iter().find_map(|kind| controller(it, kind))?;
            Some((CompactString::from(owner), is_active(it)))
        };
        let (before, after) = (owner(change.old), owner(change.new));
        let Some(pod) = change.new.or(change.old) else { return };
        if let Some((set, _)) = &before
            && after.as_ref().is_none_or(|(other, active)| other != set || !active)
            && let Some(set) = self.sets.get_mut(set)
        {
            set.active.remove(uid(pod));
        }
        let Some((owner, true)) = after else { return };
        let Some(set) = self.sets.get_mut(&owner) else { return };
        set.active.insert(uid(pod).into());
        if change.old.is_some() {
            if before.is_none_or(|(other, _)| other != owner) {
                set.adopted = Some(context.now);
            }
            return;
        }
        let most = set.asked.max_since(context.since);
        let have = i64::try_from(set.active.len()).unwrap_or(i64::MAX);
        let excused = set.adopted.is_some_and(|at| at >= context.since);
        if have > most && !excused {
            let (namespace, name) = (&change.place.namespace, &change.place.name);
            let what = format!("{namespace}/{name} makes {have} pods where {most} were asked for");
            context.ledger.violation(RULE, what);
        }
    }
}
