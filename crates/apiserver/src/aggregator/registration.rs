//! APIServices of custom resources, which this server serves itself: made and deleted with them. Upstream: the
//! controllers of registration of custom resources and of automatic registration.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::{Value, value};
use compact_str::{CompactString, format_compact};
use http::Method;

use crate::Server;
use crate::bootstrap::{Bootstrap, BootstrapError};

/// Who has this label belongs to the server; `true` is for as long as its group is served.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const COLLECTION: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
/// Upstream's: custom resources come after what is built in.
const GROUP_PRIORITY: i64 = 1_000;
const VERSION_PRIORITY: i64 = 100;

/// What is known of an APIService that exists.
#[derive(Debug, Clone)]
pub(super) struct Known {
    managed: bool,
    uid: String,
    spec: Value,
}

impl Known {
    pub(super) fn of(object: &Value) -> Self {
        Self {
            managed: object.str_at(&["metadata", "labels", MANAGED]) == "true",
            uid: object.str_at(&["metadata", "uid"]).to_owned(),
            spec: object["spec"].clone(),
        }
    }
}

/// The APIServices that custom resources need, by name.
fn wanted(server: &Server) -> BTreeMap<CompactString, Value> {
    let custom = server.catalog.custom();
    let views = custom.installed().flat_map(|it| it.definition.served());
    let wanted = views.map(|view| {
        let (group, version) = (view.facts().group, view.facts().version);
        let spec = value!({"group": group, "version": version,
            "groupPriorityMinimum": GROUP_PRIORITY, "versionPriority": VERSION_PRIORITY});
        (format_compact!("{version}.{group}"), spec)
    });
    wanted.collect()
}

/// Makes, mends and deletes what is not as it should be; says whether all of it worked.
pub(super) async fn keep(server: &Arc<Server>, known: &BTreeMap<CompactString, Known>) -> bool {
    let wanted = wanted(server);
    let bootstrap = Bootstrap::new(server);
    let (mut good, mut written_any) = (true, false);
    let mut report = |written: Result<Option<Value>, BootstrapError>| {
        written_any = true;
        if let Err(error) = written {
            tracing::warn!(%error, "could not keep the APIService of a custom resource");
            good = false;
        }
    };
    for (name, spec) in &wanted {
        match known.get(name) {
            None => {
                let object = object(name, spec);
                report(bootstrap.send(Method::POST, COLLECTION, Some(&object)).await);
            }
            Some(it) if it.managed && it.spec != *spec => {
                report(mend(&bootstrap, name, spec).await);
            }
            Some(_) => {}
        }
    }
    for (name, it) in known.iter().filter(|(name, it)| it.managed && !wanted.contains_key(*name)) {
        let options = value!({"preconditions": {"uid": (it.uid.as_str())}});
        let path = format!("{COLLECTION}/{name}");
        report(bootstrap.send(Method::DELETE, &path, Some(&options)).await);
    }
    // What was written is in the caches before they are looked at again.
    if written_any && let Err(error) = server.hub.catch_up().await {
        tracing::warn!(%error, "the caches do not follow");
        good = false;
    }
    good
}

fn object(name: &str, spec: &Value) -> Value {
    let mut object = value!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": name}, "spec": (spec.clone())});
    object.set_at(&["metadata", "labels", MANAGED], "true");
    object
}

async fn mend(
    bootstrap: &Bootstrap<'_>,
    name: &str,
    spec: &Value,
) -> Result<Option<Value>, BootstrapError> {
    let path = format!("{COLLECTION}/{name}");
    let Some(mut current) = bootstrap.send(Method::GET, &path, None).await? else {
        return Ok(None);
    };
    current.set_at(&["spec"], spec.clone());
    bootstrap.send(Method::PUT, &path, Some(&current)).await
}
