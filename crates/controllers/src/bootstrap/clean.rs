//! Tokens go when their time is over.

use std::sync::Arc;

use apimachinery::Value;
use client::{ObjectKey, Resource};
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use super::{NAMESPACE, expiration, is_token};
use crate::owner;

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct TokenCleaner;

impl Controller for TokenCleaner {
    const NAME: &'static str = "token-cleaner-controller";
    const ACCOUNT: &'static str = "token-cleaner";
    const QUEUE: &'static str = "token_cleaner";
    /// A secret.
    type Key = ObjectKey;
    type Observed = Arc<Value>;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.on::<Secret>(|change, _| {
            let token = change.new.as_ref().is_some_and(|it| is_token(&it.value()));
            let key = change.key();
            if token && key.namespace == NAMESPACE { vec![key] } else { Vec::new() }
        })
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Arc<Value>> {
        snapshot.store::<Secret>().get(key).map(|it| it.value())
    }

    fn plan(&self, secret: &Arc<Value>, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        match expiration(secret) {
            Ok(None) => return plan,
            Ok(Some(at)) if now < at => {
                plan.requeue_by(at);
                return plan;
            }
            Ok(Some(_)) | Err(_) => {}
        }
        plan.act(owner::delete_value(Resource::of::<Secret>(), secret));
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_when_its_time_is_over() {
        let check = |expiration: &str, expected: &str| {
            let text =
                format!(r#"{{"metadata":{{"name":"t"}},"data":{{"expiration":"{expiration}"}}}}"#);
            let secret = Arc::new(apimachinery::json::parse(text.as_bytes()).unwrap());
            let now = "2026-01-01T00:00:00Z".parse().unwrap();
            let plan = TokenCleaner.plan(&secret, &mut (), now);
            let later = plan.requeue_at.map(|at| at.to_string()).unwrap_or_default();
            let outcome = if plan.is_quiet() { later } else { "delete".into() };
            assert_eq!(outcome, expected, "{expiration}");
        };
        check("", "");
        check("MjAyNi0wMS0wMVQwMDowMDowMVo=", "2026-01-01T00:00:01Z");
        check("MjAyNi0wMS0wMVQwMDowMDowMFo=", "delete");
        check("c29vbg==", "delete");
    }
}
