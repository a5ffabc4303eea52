//! ServiceAccounts: every namespace has one called `default`. Upstream: `pkg/controller/serviceaccount`.

use apimachinery::value;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};

use crate::owner::is_terminating;

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct ServiceAccounts;

/// The account that every namespace has.
const DEFAULT: &str = "default";

/// What it sees of a namespace.
#[derive(Debug)]
pub struct Observed {
    name: String,
    has_account: bool,
}

impl Controller for ServiceAccounts {
    const NAME: &'static str = "serviceaccount-controller";
    const ACCOUNT: &'static str = "service-account-controller";
    const QUEUE: &'static str = "serviceaccount";
    /// A namespace.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<Namespace>().on::<ServiceAccount>(|change, _| {
            let key = change.key();
            if key.name == DEFAULT { vec![ObjectKey::new("", key.namespace)] } else { Vec::new() }
        })
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let namespace: Namespace = snapshot.get(key)?;
        if is_terminating(&namespace) {
            return None;
        }
        let account = ObjectKey::new(key.name.clone(), DEFAULT);
        let has_account = snapshot.store::<ServiceAccount>().get(&account).is_some();
        Some(Observed { name: key.name.to_string(), has_account })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        if !observed.has_account {
            plan.act(Action::Create {
                resource: Resource::of::<ServiceAccount>(),
                namespace: observed.name.clone(),
                object: value!({"apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"name": DEFAULT, "namespace": (observed.name.as_str())}}),
                exists_is_fine: true,
            });
        }
        plan
    }
}
