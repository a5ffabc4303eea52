//! Approves what nodes ask for themselves. Upstream: `pkg/controller/certificates/approver`.

use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Fetch, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;

use super::request::{has_condition, is_signed};
use super::{ACCOUNT, NODE_USER, NODES, Request};
use crate::owner::to_value;

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct Approver;

/// What it sees of a request.
#[derive(Debug)]
pub struct Observed {
    csr: CertificateSigningRequest,
    kind: Kind,
    /// The answer to the review; `None` before it was asked for.
    allowed: Option<bool>,
}

/// Which rule a request falls under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    SelfNodeClient,
    NodeClient,
    /// Every name in it is one that the node's object has.
    OwnServing,
}

impl Kind {
    fn of(csr: &CertificateSigningRequest, snapshot: &Snapshot) -> Option<Self> {
        let request = Request::parse(&csr.spec.request.0).ok()?;
        let own = csr.spec.username.as_deref() == Some(&request.common_name);
        if request.is_node_client(&csr.spec) {
            return Some(if own { Self::SelfNodeClient } else { Self::NodeClient });
        }
        let is_node = csr.spec.groups.as_deref().unwrap_or_default().iter().any(|it| it == NODES);
        if !(own && is_node && request.is_node_serving(&csr.spec)) {
            return None;
        }
        let name = request.common_name.strip_prefix(NODE_USER)?;
        let node: Node = snapshot.get(&ObjectKey::new("", name))?;
        let known = node.status.and_then(|it| it.addresses).unwrap_or_default();
        let has = |name: &str| known.iter().any(|it| it.address == name);
        let all = request.dns_names.iter().all(|it| has(it))
            && request.addresses.iter().all(|it| has(&it.to_string()));
        all.then_some(Self::OwnServing)
    }

    /// The right that the requester must have, as a subresource, and what the condition says then.
    fn rule(self) -> (Option<&'static str>, &'static str) {
        match self {
            Self::SelfNodeClient => (
                Some("selfnodeclient"),
                "Auto approving self kubelet client certificate after SubjectAccessReview.",
            ),
            Self::NodeClient => (
                Some("nodeclient"),
                "Auto approving kubelet client certificate after SubjectAccessReview.",
            ),
            Self::OwnServing => {
                (None, "Auto approving kubelet serving certificate for the node's own addresses.")
            }
        }
    }
}

/// May the requester do what this rule asks for?
fn review(csr: &CertificateSigningRequest, subresource: &str) -> Fetch {
    let spec = &csr.spec;
    let groups = spec.groups.iter().flatten().map(|it| it.as_str().into()).collect();
    let mut question = value!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": (spec.username.as_deref().unwrap_or_default()), "groups": (Value::Array(groups)),
            "uid": (spec.uid.as_deref().unwrap_or_default()),
            "resourceAttributes": {"group": "certificates.k8s.io", "version": "*", "verb": "create",
                "resource": "certificatesigningrequests", "subresource": subresource}}});
    if let Some(extra) = &spec.extra {
        question.set_at(&["spec", "extra"], to_value(extra));
    }
    Fetch::review(Resource::built_in("authorization.k8s.io", "subjectaccessreviews"), &question)
}

impl Controller for Approver {
    const NAME: &'static str = "certificatesigningrequest-approving-controller";
    const ACCOUNT: &'static str = ACCOUNT;
    const QUEUE: &'static str = "certificate";
    /// A request.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        // A node's addresses may come after its request.
        watches.own::<CertificateSigningRequest>().on::<Node>(|change, snapshot| {
            let user = format!("{NODE_USER}{}", change.key().name);
            let all: Vec<Arc<CertificateSigningRequest>> = snapshot.list("");
            let waiting = all.into_iter().filter(|it| !is_signed(it));
            let own = waiting.filter(|it| it.spec.username.as_deref() == Some(&user));
            own.filter_map(|it| it.metadata.name.clone()).map(|it| ObjectKey::new("", it)).collect()
        })
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let csr: CertificateSigningRequest = snapshot.get(key)?;
        if is_signed(&csr) || has_condition(&csr, "Approved") || has_condition(&csr, "Denied") {
            return None;
        }
        let kind = Kind::of(&csr, snapshot)?;
        let allowed = match kind.rule().0 {
            None => Some(true),
            Some(right) => snapshot
                .fetched(&review(&csr, right))
                .map(|it| it.is_some_and(|it| it.bool_at(&["status", "allowed"]))),
        };
        Some(Observed { csr, kind, allowed })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        let (right, message) = observed.kind.rule();
        let mut plan = Plan::nothing();
        match (observed.allowed, right) {
            (Some(true), _) => {
                let now = time::format_time(now);
                let mut object = to_value(&observed.csr);
                let mut conditions = object.items_at(&["status", "conditions"]).to_vec();
                conditions.push(value!({"type": "Approved", "status": "True", "reason": "AutoApproved",
                    "message": message, "lastUpdateTime": (now.as_str()), "lastTransitionTime": (now.as_str())}));
                object.set_at(&["status", "conditions"], Value::Array(conditions));
                let resource = Resource::of::<CertificateSigningRequest>();
                plan.act(Action::Update { resource, subresource: "approval", object });
            }
            (None, Some(right)) => plan.fetches.push(review(&observed.csr, right)),
            // Whoever may not have it approved by itself waits for an administrator.
            (Some(false), _) | (None, None) => {}
        }
        plan
    }
}
