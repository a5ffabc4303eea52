//! What is counted of claims, in upstream's names.

use apimachinery::Value;
use client::reflector::StoreChange;
use controller::{Action, Plan};
use dynamic_resource_allocation::claim::{EXTENDED_RESOURCE_CLAIM, POD_CLAIM_NAME};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Created {
    status: &'static str,
    admin_access: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct There {
    allocated: &'static str,
    admin_access: &'static str,
    source: &'static str,
}

/// Claims that a plan makes: without and with access for administrators.
pub(super) type Made = [u64; 2];

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    creates: Family<Created, Counter>,
    claims: Family<There, Gauge>,
}

fn truth(it: bool) -> &'static str {
    if it { "true" } else { "false" }
}

fn admin_access(claim: &Value) -> bool {
    let requests = claim.items_at(&["spec", "devices", "requests"]).iter();
    requests.map(|it| it.get("exactly").unwrap_or(it)).any(|it| it.bool_at(&["adminAccess"]))
}

impl There {
    fn of(claim: &Value) -> Self {
        let annotation = |key| claim.at(&["metadata", "annotations", key]).is_some();
        Self {
            allocated: truth(claim.at(&["status", "allocation"]).is_some_and(|it| !it.is_null())),
            admin_access: truth(admin_access(claim)),
            source: match () {
                () if annotation(POD_CLAIM_NAME) => "resource_claim_template",
                () if annotation(EXTENDED_RESOURCE_CLAIM) => "extended_resource",
                () => "",
            },
        }
    }
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("resourceclaim_controller");
        let help =
            "[ALPHA] ResourceClaims that were made or could not be, by access for administrators";
        registry.register("creates", help, self.creates.clone());
        let help =
            "[ALPHA] ResourceClaims by whether they are allocated, their access and their source";
        registry.register("resource_claims", help, self.claims.clone());
    }

    /// A claim came, changed or went.
    pub(super) fn see(&self, change: &StoreChange) {
        for (claim, sign) in [(&change.old, -1), (&change.new, 1)] {
            if let Some(claim) = claim {
                self.claims.get_or_create(&There::of(&claim.value())).inc_by(sign);
            }
        }
    }

    /// Takes note of how the creates of a plan went.
    pub(super) fn created(&self, made: Made, failed: bool) {
        let status = if failed { "failure" } else { "success" };
        for (count, admin_access) in made.into_iter().zip(["false", "true"]) {
            if count > 0 {
                self.creates.get_or_create(&Created { status, admin_access }).inc_by(count);
            }
        }
    }
}

/// The claims that a plan makes.
pub(super) fn made(plan: &Plan) -> Made {
    let mut made = Made::default();
    for planned in plan.stages.iter().flat_map(|it| &it.actions) {
        if let Action::Create { object, .. } = &planned.action {
            made[usize::from(admin_access(object))] += 1;
        }
    }
    made
}
