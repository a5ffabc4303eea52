//! ServiceCIDRs: ready once they are kept by a finalizer, gone once no address of theirs is taken. Upstream:
//! `pkg/controller/servicecidrs`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan, Snapshot, Watches};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};

use crate::finalizers::{self, Step};

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct ServiceCidrs;

/// Who makes the addresses of services, and the label that says so.
const MANAGER: &str = "ipallocator.k8s.io";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How long those who give out addresses have to see that a range is going.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// What it sees of a range.
#[derive(Debug)]
pub struct Observed {
    range: Arc<Value>,
    /// The ranges of others that are not going.
    others: Vec<IpNet>,
    /// The addresses that are taken.
    addresses: Vec<IpAddr>,
}

impl Controller for ServiceCidrs {
    const NAME: &'static str = "service-cidr-controller";
    const ACCOUNT: &'static str = "service-cidrs-controller";
    const QUEUE: &'static str = "servicecidrs";
    /// A range.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches
            .on::<ServiceCIDR>(|change, snapshot| {
                let mut keys = going(snapshot);
                keys.insert(change.key());
                keys.into_iter().collect()
            })
            .on::<IPAddress>(let_go)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let range = snapshot.store::<ServiceCIDR>().get(key)?.value();
        if !is_going(&range) {
            return Some(Observed { range, others: Vec::new(), addresses: Vec::new() });
        }
        let all = snapshot.store::<ServiceCIDR>().list("");
        let others = all.iter().filter(|it| it.key != *key).map(|it| it.value());
        let others = others.filter(|it| !is_going(it)).flat_map(|it| ranges(&it)).collect();
        let addresses = snapshot.store::<IPAddress>().list("");
        // Those that others than services have keep nothing.
        let of_services = |it: &Value| it.str_at(&["metadata", "labels", MANAGED_BY]) == MANAGER;
        let addresses = addresses.iter().filter(|it| of_services(&it.value()));
        let addresses = addresses.filter_map(|it| it.key.name.parse().ok()).collect();
        Some(Observed { range, others, addresses })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        plan(observed, now)
    }
}

fn is_going(range: &Value) -> bool {
    range.at(&["metadata", "deletionTimestamp"]).is_some()
}

fn ranges(range: &Value) -> Vec<IpNet> {
    let ranges = range.items_at(&["spec", "cidrs"]).iter();
    ranges.filter_map(|it| it.as_str()?.parse().ok()).collect()
}

/// The ranges that wait to go.
fn going(snapshot: &Snapshot) -> BTreeSet<ObjectKey> {
    let all = snapshot.store::<ServiceCIDR>().list("");
    all.iter().filter(|it| is_going(&it.value())).map(|it| it.key.clone()).collect()
}

fn let_go(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    if change.new.is_some() {
        return Vec::new();
    }
    going(snapshot).into_iter().collect()
}

fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let range = &observed.range;
    let nets = ranges(range);
    let used = observed.addresses.iter().any(|ip| {
        nets.iter().any(|net| net.contains(ip))
            && !observed.others.iter().any(|other| other.contains(ip))
    });
    let step = finalizers::step(range, FINALIZER, || used);
    if step == Step::Release {
        let since = time::parse_time(range.str_at(&["metadata", "deletionTimestamp"])).ok();
        let until = since.and_then(|it| it.checked_add(GRACE).ok());
        if let Some(until) = until.filter(|until| *until > now) {
            plan.requeue_by(until);
            return plan;
        }
    }
    let resource = Resource::of::<ServiceCIDR>();
    if let Some(write) = finalizers::write(resource, range, FINALIZER, step) {
        plan.act(write);
        // What follows is planned from the object as it is then.
        return plan;
    }
    if is_going(range) && used {
        let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        ready(&mut plan, range, ["False", "Terminating", message], now);
    } else if !is_going(range) {
        ready(&mut plan, range, ["True", "", "Kubernetes Service CIDR is ready"], now);
    }
    plan
}

/// Writes the condition Ready, where its status differs.
fn ready(plan: &mut Plan, range: &Value, [status, reason, message]: [&str; 3], now: Timestamp) {
    let conditions = range.items_at(&["status", "conditions"]);
    let old = conditions.iter().find(|it| it.str_at(&["type"]) == "Ready");
    if old.is_some_and(|it| it.str_at(&["status"]) == status) {
        return;
    }
    let mut all: Vec<Value> =
        conditions.iter().filter(|it| it.str_at(&["type"]) != "Ready").cloned().collect();
    all.push(value!({"type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": (time::format_time(now))}));
    let mut object = Value::clone(range);
    object.set_at(&["status", "conditions"], Value::Array(all));
    let resource = Resource::of::<ServiceCIDR>();
    plan.act(Action::Update { resource, subresource: "status", object });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_goes_when_no_address_of_it_is_taken() {
        let check = |metadata: &str, others: &[&str], addresses: &[&str], expected: &str| {
            let text = format!(r#"{{"metadata":{metadata},"spec":{{"cidrs":["10.0.0.0/24"]}}}}"#);
            let observed = Observed {
                range: apimachinery::json::parse(text.as_bytes()).unwrap().into(),
                others: others.iter().map(|it| it.parse().unwrap()).collect(),
                addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            };
            let plan = plan(&observed, "2026-01-01T00:00:05Z".parse().unwrap());
            let actions =
                plan.stages.iter().flat_map(|it| &it.actions).map(|it| match &it.action {
                    Action::Update { subresource: "status", object, .. } => {
                        object.items_at(&["status", "conditions"])[0].str_at(&["status"]).to_owned()
                    }
                    Action::Update { object, .. } => {
                        format!("{} finalizers", object.items_at(&["metadata", "finalizers"]).len())
                    }
                    _ => "other".into(),
                });
            let mut did: Vec<String> = actions.collect();
            did.extend(plan.requeue_at.map(|at| at.to_string()));
            assert_eq!(did.join(" "), expected, "{metadata}");
        };
        let kept = r#"{"finalizers":["networking.k8s.io/service-cidr-finalizer"]}"#;
        check("{}", &[], &[], "1 finalizers");
        check(kept, &[], &[], "True");
        let going = |at: &str| kept.replace('{', &format!(r#"{{"deletionTimestamp":"{at}","#));
        check(&going("2026-01-01T00:00:00Z"), &[], &[], "2026-01-01T00:00:10Z");
        check(&going("2025-12-31T23:59:55Z"), &[], &[], "0 finalizers");
        check(&going("2025-12-31T23:59:55Z"), &[], &["10.0.0.9"], "False");
        check(&going("2025-12-31T23:59:55Z"), &["10.0.0.0/16"], &["10.0.0.9"], "0 finalizers");
        check(&going("2025-12-31T23:59:55Z"), &["10.0.0.8/29"], &["10.0.0.9"], "0 finalizers");
        check(&going("2025-12-31T23:59:55Z"), &["10.0.0.8/29"], &["10.0.0.99"], "False");
    }
}
