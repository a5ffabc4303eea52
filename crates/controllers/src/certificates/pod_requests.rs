//! Takes requests for certificates of pods away: their nodes are done with them long before. Upstream: `PCRCleanerController`
//! of `pkg/controller/certificates/cleaner`, which looks every five minutes.

use std::sync::Arc;

use apimachinery::Value;
use client::{ObjectKey, Resource};
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};

use crate::owner;

/// How long a request stays.
const STAY: SignedDuration = SignedDuration::from_mins(15);

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct PodRequestCleaner;

fn requests() -> Resource {
    Resource::built_in("certificates.k8s.io", "podcertificaterequests")
}

impl Controller for PodRequestCleaner {
    const NAME: &'static str = "podcertificaterequest-cleaner-controller";
    const ACCOUNT: &'static str = "podcertificaterequestcleaner";
    /// A request.
    type Key = ObjectKey;
    type Observed = Arc<Value>;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.on_resource(requests(), |change, _| vec![change.key()])
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Arc<Value>> {
        Some(snapshot.store_for(&requests()).get(key)?.value())
    }

    fn plan(&self, request: &Arc<Value>, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let created = request.str_at(&["metadata", "creationTimestamp"]).parse::<Timestamp>();
        let due = created.unwrap_or(now).saturating_add(STAY).unwrap_or(now);
        if now < due {
            plan.requeue_by(due);
        } else {
            plan.act(owner::delete_value(requests(), request));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;
    use controller::Action;

    use super::*;

    #[test]
    fn a_request_goes_after_a_quarter_of_an_hour() {
        let request = Arc::new(value!({"metadata": {"name": "r", "namespace": "n", "uid": "u",
            "creationTimestamp": "2026-01-01T00:00:00Z"}}));
        let at = |time: &str| {
            let now = time.parse().unwrap();
            PodRequestCleaner.plan(&request, &mut (), now)
        };
        let early = at("2026-01-01T00:14:59Z");
        assert!(early.is_quiet());
        assert_eq!(early.requeue_at, Some("2026-01-01T00:15:00Z".parse().unwrap()));
        let due = at("2026-01-01T00:15:00Z");
        let Action::Delete { key, uid, .. } = &due.stages[0].actions[0].action else { panic!() };
        assert_eq!((key.name.as_str(), uid.as_str()), ("r", "u"));
    }
}
