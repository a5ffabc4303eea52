//! A StatefulSet makes no pod beyond its replicas, and an ordered one no pod before the ones below were ready.

use std::collections::BTreeMap;

use compact_str::CompactString;
use tokio::time::Instant;

use super::{History, Rule, controller, is_active, is_ready, uid};
use crate::observer::{Change, Context, Place};

const BEYOND: &str = "no more pods than a StatefulSet asks for";
const ORDER: &str = "pods of an ordered StatefulSet come one after the other";
const KIND: &str = "StatefulSet";

#[derive(Debug, Default)]
struct Set {
    asked: History,
    ordered: bool,
    name: CompactString,
}

#[derive(Debug, Default)]
pub(super) struct Ordinals {
    sets: BTreeMap<CompactString, Set>,
    /// When a pod of a set was ready last; while it is, this is now.
    ready: BTreeMap<Place, (bool, Instant)>,
}

impl Rule for Ordinals {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        match (change.kind, change.new) {
            (KIND, Some(new)) => {
                let set = self.sets.entry(uid(new).into()).or_default();
                set.asked.set(context.now, new.i64_at(&["spec", "replicas"]).unwrap_or(1));
                set.ordered = new.str_at(&["spec", "podManagementPolicy"]) != "Parallel";
                set.name = change.place.name.clone();
            }
            (KIND, None) => {
                if let Some(old) = change.old {
                    self.sets.remove(uid(old));
                }
            }
            ("Pod", _) => self.pod(change, context),
            _ => {}
        }
    }
}

impl Ordinals {
    fn pod(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let Some(pod) = change.new.or(change.old) else { return };
        // Of those too that have lost their set: another of its name takes them over.
        let ready = change.new.is_some_and(|it| is_active(it) && is_ready(it));
        let was = self.ready.get(change.place).is_some_and(|it| it.0);
        if ready || was {
            self.ready.insert(change.place.clone(), (ready, context.now));
        }
        let Some(owner) = controller(pod, KIND) else { return };
        let Some(set) = self.sets.get(owner) else { return };
        let number = change.place.name.strip_prefix(&format!("{}-", set.name));
        let number = number.and_then(|it| it.parse::<i64>().ok());
        let (Some(number), None, Some(_)) = (number, change.old, change.new) else { return };
        let (namespace, name) = (&change.place.namespace, &change.place.name);
        let most = set.asked.max_since(context.since);
        if number >= most {
            let what = format!("{namespace}/{name} is made where {most} were asked for");
            context.ledger.violation(BEYOND, what);
        }
        for below in (0..number).filter(|_| set.ordered) {
            let name_below: CompactString = format!("{}-{below}", set.name).into();
            let place = Place { namespace: namespace.clone(), name: name_below };
            let fine =
                self.ready.get(&place).is_some_and(|(ready, at)| *ready || *at >= context.since);
            if !fine {
                let what = format!("{namespace}/{name} is made while {} is not ready", place.name);
                context.ledger.violation(ORDER, what);
            }
        }
    }
}
