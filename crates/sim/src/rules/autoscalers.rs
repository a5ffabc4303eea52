//! An autoscaler asks for no more than it may, and for no less.

use std::collections::BTreeMap;

use apimachinery::Value;

use super::{History, Rule};
use crate::observer::{Change, Context, Place};

const RULE: &str = "an autoscaler keeps within its bounds";
const KIND: &str = "HorizontalPodAutoscaler";

#[derive(Debug, Default)]
struct Bounds {
    most: History,
    /// The least, negated, so that its largest is what counts.
    least: History,
}

#[derive(Debug, Default)]
pub(super) struct Autoscalers {
    /// By the kind and the place of what they scale.
    targets: BTreeMap<(String, Place), Bounds>,
}

fn target(autoscaler: &Value, place: &Place) -> (String, Place) {
    let reference = |member| autoscaler.str_at(&["spec", "scaleTargetRef", member]);
    let place = Place { namespace: place.namespace.clone(), name: reference("name").into() };
    (reference("kind").to_owned(), place)
}

/// Whether `spec.replicas` was written by the controllers last, through the scale of the object.
fn is_scaled_by_controllers(object: &Value) -> bool {
    object.items_at(&["metadata", "managedFields"]).iter().any(|it| {
        it.str_at(&["manager"]) == "kube-controller-manager"
            && it.str_at(&["subresource"]) == "scale"
    })
}

impl Rule for Autoscalers {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let Some(new) = change.new else { return };
        if change.kind == KIND {
            let bounds = self.targets.entry(target(new, change.place)).or_default();
            bounds.most.set(context.now, new.i64_at(&["spec", "maxReplicas"]).unwrap_or(0));
            bounds.least.set(context.now, -new.i64_at(&["spec", "minReplicas"]).unwrap_or(1));
            let desired = |it: &Value| it.i64_at(&["status", "desiredReplicas"]).unwrap_or(0);
            let wanted = desired(new);
            if wanted != 0 && change.old.map(desired) != Some(wanted) {
                bounds.judge(wanted, change, context);
            }
            return;
        }
        let replicas = |it: &Value| it.i64_at(&["spec", "replicas"]);
        let changed = change.old.is_some_and(|old| replicas(old) != replicas(new));
        let Some(bounds) = self.targets.get(&(change.kind.to_owned(), change.place.clone())) else {
            return;
        };
        if changed && is_scaled_by_controllers(new) {
            bounds.judge(replicas(new).unwrap_or(1), change, context);
        }
    }
}

impl Bounds {
    fn judge(&self, wanted: i64, change: &Change<'_>, context: &Context<'_>) {
        let since = context.since;
        let (most, least) = (self.most.max_since(since), -self.least.max_since(since));
        if wanted > most || wanted < least {
            let (kind, Place { namespace, name }) = (change.kind, change.place);
            let what =
                format!("{kind} {namespace}/{name}: {wanted} replicas, not {least} to {most}");
            context.ledger.violation(RULE, what);
        }
    }
}
