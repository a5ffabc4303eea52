//! What the pods of a namespace would violate of a level that it begins to enforce: each sort of violation is told once,
//! with the first pod that has it and how many more there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use apimachinery::field::quote;
use apimachinery::obj::Obj;
use component_base::Clock;

use super::checks;
use super::pod::Pod;
use super::policy::LevelVersion;

/// How many pods are judged (upstream's limit).
const PODS_MAX: usize = 3_000;
/// For how long pods are judged (upstream's limit): a client waits for it.
const TIME_MAX: Duration = Duration::from_secs(1);
/// After so many pods others have their turn.
const PODS_AT_ONCE: usize = 64;

/// The pods that violate a level in the same way.
struct Alike {
    /// The first by name.
    pod: String,
    others: usize,
}

/// What to tell whoever raises the level of a namespace. The pods of one controller are alike as a rule, so that one
/// of each comes before all others.
pub(super) async fn warnings(
    clock: &dyn Clock,
    namespace: &str,
    pods: Vec<Arc<Obj>>,
    enforce: LevelVersion,
) -> Vec<String> {
    let deadline = clock.monotonic() + TIME_MAX;
    let total = pods.len();
    let mut review = Review { enforce, found: BTreeMap::new(), judged: 0 };
    let (mut controllers, mut later) = (BTreeSet::new(), Vec::new());
    for (index, object) in pods.into_iter().enumerate() {
        if review.is_over(clock, deadline) {
            break;
        }
        if index % PODS_AT_ONCE == PODS_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        // One that cannot be read is not judged, and is counted as such.
        let Ok(pod) = object.value() else { continue };
        match controller_of(&pod) {
            Some(uid) if !controllers.insert(uid.to_owned()) => later.push(object),
            _ => review.judge(&object.facts.name, &pod),
        }
    }
    for (index, object) in later.into_iter().enumerate() {
        if review.is_over(clock, deadline) {
            break;
        }
        if index % PODS_AT_ONCE == PODS_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        let Ok(pod) = object.value() else { continue };
        review.judge(&object.facts.name, &pod);
    }
    review.into_warnings(namespace, total)
}

struct Review {
    enforce: LevelVersion,
    /// By what is violated.
    found: BTreeMap<String, Alike>,
    judged: usize,
}

impl Review {
    /// Whether enough was judged. At least one pod is, however late it is.
    fn is_over(&self, clock: &dyn Clock, deadline: tokio::time::Instant) -> bool {
        self.judged >= PODS_MAX || self.judged > 0 && clock.monotonic() > deadline
    }

    fn judge(&mut self, name: &str, pod: &Value) {
        self.judged += 1;
        let findings = checks::violations(Pod::of(pod), self.enforce);
        if findings.is_empty() {
            return;
        }
        match self.found.get_mut(&checks::reasons(&findings)) {
            Some(alike) => {
                alike.others += 1;
                if name < alike.pod.as_str() {
                    name.clone_into(&mut alike.pod);
                }
            }
            None => {
                let alike = Alike { pod: name.to_owned(), others: 0 };
                self.found.insert(checks::reasons(&findings), alike);
            }
        }
    }

    fn into_warnings(self, namespace: &str, total: usize) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.judged < total {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {} of {total} existing pods",
                self.judged
            ));
        }
        if !self.found.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {} violate the new PodSecurity enforce level {}",
                quote(namespace),
                quote(&self.enforce.to_string())
            ));
        }
        let mut pods: Vec<String> = self.found.iter().map(|(why, it)| it.tell(why)).collect();
        pods.sort();
        warnings.append(&mut pods);
        warnings
    }
}

impl Alike {
    fn tell(&self, why: &str) -> String {
        match self.others {
            0 => format!("{}: {why}", self.pod),
            1 => format!("{} (and 1 other pod): {why}", self.pod),
            others => format!("{} (and {others} other pods): {why}", self.pod),
        }
    }
}

/// The uid of the owner that controls a pod.
fn controller_of(pod: &Value) -> Option<&str> {
    let owners = pod.items_at(&["metadata", "ownerReferences"]);
    let controller = owners.iter().find(|it| it.bool_at(&["controller"]))?;
    Some(controller.str_at(&["uid"]))
}
