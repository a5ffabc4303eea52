//! Says in the status of admission policies what of their expressions does not fit the kinds that they are for. Upstream:
//! `pkg/controller/validatingadmissionpolicystatus`.

use std::sync::Arc;

use apimachinery::{Value, value};
use client::call::PatchKind;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use registry::expressions::types::{self, Definitions, Kind};

use crate::custom;

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct PolicyStatus;

/// Who owns the status.
const MANAGER: &str = "validatingadmissionpolicy-status";

/// What it sees of a policy that was not checked yet.
#[derive(Debug)]
pub struct Observed {
    policy: Arc<Value>,
    warnings: Vec<types::Warning>,
}

impl Controller for PolicyStatus {
    const NAME: &'static str = "validatingadmissionpolicy-status-controller";
    const QUEUE: &'static str = "validatingadmissionpolicy-status";
    /// A policy.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        // Definitions are looked up; a policy is checked once, as upstream's.
        let watches = watches.own::<ValidatingAdmissionPolicy>();
        watches.on_resource(custom::definitions(), |_, _| Vec::new())
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let policy = snapshot.store::<ValidatingAdmissionPolicy>().get(key)?.value();
        let seen = policy.i64_at(&["status", "observedGeneration"]).unwrap_or_default();
        if policy.i64_at(&["metadata", "generation"]).unwrap_or_default() <= seen {
            return None;
        }
        let spec = policy.at(&["spec"]).cloned().unwrap_or_default();
        let warnings = types::check(&spec, &Custom(snapshot));
        Some(Observed { policy, warnings })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let name = observed.policy.str_at(&["metadata", "name"]);
        let generation = observed.policy.i64_at(&["metadata", "generation"]).unwrap_or_default();
        let warnings = observed.warnings.iter().map(
            |it| value!({"fieldRef": (it.field_ref.as_str()), "warning": (it.warning.as_str())}),
        );
        let warnings: Vec<Value> = warnings.collect();
        let mut checked = Value::object();
        if !warnings.is_empty() {
            checked.set_at(&["expressionWarnings"], Value::Array(warnings));
        }
        let patch = value!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "status": {"observedGeneration": generation, "typeChecking": checked}
        });
        plan.act(Action::Patch {
            resource: Resource::of::<ValidatingAdmissionPolicy>(),
            key: ObjectKey::new("", name),
            subresource: "status",
            kind: PatchKind::Apply { manager: MANAGER },
            patch,
            gone_is_fine: true,
        });
        plan
    }
}

/// Custom resources as their definitions tell of them.
struct Custom<'a>(&'a Snapshot);

impl Custom<'_> {
    fn served<'d>(definition: &'d Value, version: &str) -> Option<&'d Value> {
        let mut versions = definition.items_at(&["spec", "versions"]).iter();
        versions.find(|it| it.str_at(&["name"]) == version && it.bool_at(&["served"]))
    }
}

impl Definitions for Custom<'_> {
    fn kind(&self, group: &str, version: &str, resource: &str) -> Option<String> {
        let key = ObjectKey::new("", format!("{resource}.{group}"));
        let definition = self.0.store_for(&custom::definitions()).get(&key)?.value();
        Self::served(&definition, version)?;
        Some(definition.str_at(&["spec", "names", "kind"]).to_owned())
    }

    fn schema(&self, kind: &Kind) -> Option<Value> {
        let all = self.0.store_for(&custom::definitions()).list("");
        let definitions = all.iter().map(|it| it.value());
        let definition = definitions.into_iter().find(|it| {
            it.str_at(&["spec", "group"]) == kind.group
                && it.str_at(&["spec", "names", "kind"]) == kind.kind
        })?;
        Self::served(&definition, &kind.version)?.at(&["schema", "openAPIV3Schema"]).cloned()
    }
}
