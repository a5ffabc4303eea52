//! Groups that are computed in the process, through the whole server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apimachinery::{Status, Value, value};
use apiserver::computed::{Computed, ComputedVersion};
use apiserver::query::Query;
use apiserver::request::RequestInfo;
use async_trait::async_trait;
use auth::UserInfo;

use crate::cluster::{As, Cluster, admin};

const GROUP: &str = "external.metrics.k8s.io";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const METRIC: &str = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/depth";

#[derive(Debug, Default)]
struct Depth {
    fails: AtomicBool,
}

#[async_trait]
impl Computed for Depth {
    fn serves(&self, group: &str, version: &str) -> bool {
        (group, version) == (GROUP, "v1beta1")
    }

    fn versions(&self) -> Vec<ComputedVersion> {
        let resource = value!({"name": "depth", "singularName": "", "namespaced": true,
            "kind": "ExternalMetricValueList", "verbs": ["get"]});
        let (group, version) = (GROUP.into(), "v1beta1".into());
        vec![ComputedVersion { group, version, resources: vec![resource] }]
    }

    fn available(&self, _group: &str) -> Result<(), String> {
        match self.fails.load(Ordering::Relaxed) {
            true => Err("nobody measures".into()),
            false => Ok(()),
        }
    }

    async fn answer(&self, info: &RequestInfo, query: &Query) -> Result<Value, Status> {
        let of = query.get("labelSelector").unwrap_or_default();
        Ok(value!({"kind": "ExternalMetricValueList", "of": of, "in": (info.namespace.as_str())}))
    }
}

async fn start() -> (Cluster, Arc<Depth>) {
    let cluster = Cluster::start().await;
    let depth = Arc::new(Depth::default());
    cluster.server.set_computed(Arc::clone(&depth) as _);
    let service = value!({"metadata": {"name": "v1beta1.external.metrics.k8s.io"},
        "spec": {"group": GROUP, "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100}});
    cluster.done(&format!("POST {SERVICES}"), Some(&service)).await;
    (cluster, depth)
}

/// Waits until something is so: who follows APIServices is a task of its own.
async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !check().await {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await;
    waited.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn what_is_computed_is_told_answered_and_guarded() {
    let (cluster, _) = start().await;
    let (code, list) =
        cluster.send(&admin(), &format!("GET {METRIC}?labelSelector=a%3Db"), None).await;
    assert_eq!((code, list.str_at(&["of"]), list.str_at(&["in"])), (200, "a=b", "default"));
    let list = cluster.done(&format!("GET /apis/{GROUP}/v1beta1"), None).await;
    assert_eq!(list.items_at(&["resources"])[0].str_at(&["name"]), "depth");
    until("the group is told", async || {
        let groups = cluster.done("GET /apis", None).await;
        groups.items_at(&["groups"]).iter().any(|it| it.str_at(&["name"]) == GROUP)
    })
    .await;
    for (request, expected) in [
        (format!("POST {METRIC}"), 405),
        (format!("DELETE {METRIC}"), 405),
        (format!("GET {METRIC}?watch=true"), 405),
        (format!("GET /apis/{GROUP}/v1"), 404),
    ] {
        let (code, answer) = cluster.send(&admin(), &request, None).await;
        assert_eq!(code, expected, "{request}: {answer:?}");
    }
    // Who may not elsewhere may not here.
    let bob = As::User(UserInfo::new("bob", &[]));
    assert_eq!(cluster.send(&bob, &format!("GET {METRIC}"), None).await.0, 403);
}

#[tokio::test]
async fn its_api_service_tells_whether_it_can_be_asked_and_another_server_goes_before() {
    let (cluster, depth) = start().await;
    let path = format!("{SERVICES}/v1beta1.{GROUP}");
    let told = async |status: &str, reason: &str| {
        until(reason, async || {
            let service = cluster.done(&format!("GET {path}"), None).await;
            let mut conditions = service.items_at(&["status", "conditions"]).iter();
            conditions
                .any(|it| it.str_at(&["status"]) == status && it.str_at(&["reason"]) == reason)
        })
        .await;
    };
    told("True", "Local").await;
    depth.fails.store(true, Ordering::Relaxed);
    cluster.server.computed_changed();
    told("False", "FailedDiscoveryCheck").await;
    let mut service = cluster.done(&format!("GET {path}"), None).await;
    service.set_at(&["spec", "service"], value!({"namespace": "default", "name": "metrics"}));
    service.set_at(&["spec", "insecureSkipTLSVerify"], true);
    cluster.done(&format!("PUT {path}"), Some(&service)).await;
    told("False", "ServiceNotFound").await;
    assert_eq!(cluster.send(&admin(), &format!("GET {METRIC}"), None).await.0, 503);
}
