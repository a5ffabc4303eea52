//! Whether the server of an APIService can be asked: by the caches first, then by asking it. Upstream: the
//! controller of remote availability.

use std::sync::Arc;

use apimachinery::obj::Obj;
use apimachinery::{Value, time};
use auth::Objects;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;

use super::ask::{address_of, anybody};
use super::routes::Remote;
use crate::Server;
use crate::tended::Condition;

/// How many requests are made at once; one that is answered suffices (upstream's).
const ATTEMPTS: usize = 5;

/// A condition of this status.
pub(super) fn condition(good: bool, reason: &'static str, message: String) -> Condition {
    let status = if good { "True" } else { "False" };
    Condition { r#type: "Available", status, reason, message }
}

/// The condition of what this server answers itself.
pub(super) fn local() -> Condition {
    condition(true, "Local", "Local APIServices are always available".into())
}

/// Writes a condition into an APIService.
pub(super) fn set(object: &mut Value, condition: &Condition, now: Timestamp) {
    let now = time::format_time(now);
    let told = condition.to_value(condition.since(object, &now));
    let conditions = object.items_at(&["status", "conditions"]).iter();
    let mut conditions: Vec<Value> =
        conditions.filter(|it| it.str_at(&["type"]) != "Available").cloned().collect();
    conditions.push(told);
    object.set_at(&["status", "conditions"], conditions);
}

/// What of the caches the answer depends on: it is asked anew where this is different.
pub(super) fn seen(remote: &Remote, objects: &dyn Objects) -> Vec<u64> {
    let service = &remote.service;
    let found = objects.get("", "services", &service.namespace, &service.name);
    let mut seen: Vec<u64> = found.iter().map(|it| it.resource_version).collect();
    seen.extend(slices(remote, objects).iter().map(|it| it.resource_version));
    seen
}

fn slices(remote: &Remote, objects: &dyn Objects) -> Vec<Arc<Obj>> {
    let service = &remote.service;
    let mut slices = objects.list("discovery.k8s.io", "endpointslices", &service.namespace);
    slices.retain(|it| it.facts.label("kubernetes.io/service-name") == Some(service.name.as_str()));
    slices
}

/// Why the caches say that nobody can answer.
pub(super) fn unreachable(
    remote: &Remote,
    objects: &dyn Objects,
) -> Result<(), (&'static str, String)> {
    let (namespace, name) = (&remote.service.namespace, &remote.service.name);
    let port = remote.service.port;
    let found = objects.get("", "services", namespace, name).and_then(|it| it.value().ok());
    let Some(found) = found else {
        return Err(("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    if found.str_at(&["spec", "type"]) != "ClusterIP" {
        return Ok(());
    }
    let ports = found.items_at(&["spec", "ports"]);
    let Some(named) = ports.iter().find(|it| it.i64_at(&["port"]) == Some(i64::from(port))) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Err(("ServicePortError", message));
    };
    let slices = slices(remote, objects);
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Err(("EndpointsNotFound", message));
    }
    let port_name = named.str_at(&["name"]);
    let mut values = slices.iter().filter_map(|it| it.value().ok());
    if values.any(|it| has_ready(&it, port_name)) {
        return Ok(());
    }
    let message = format!(
        "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
    );
    Err(("MissingEndpoints", message))
}

/// Whether a slice has an endpoint that is ready, behind a port of this name.
fn has_ready(slice: &Value, port_name: &str) -> bool {
    slice.items_at(&["ports"]).iter().any(|it| it.str_at(&["name"]) == port_name)
        && slice
            .items_at(&["endpoints"])
            .iter()
            .any(|it| it.at(&["conditions", "ready"]).and_then(Value::as_bool) != Some(false))
}

/// Asks the server for a document that it must have.
pub(super) async fn asked(server: &Server, remote: &Remote) -> Condition {
    let mut attempts: FuturesUnordered<_> =
        (0..ATTEMPTS).map(|_| attempt(server, remote)).collect();
    let mut last = String::new();
    while let Some(result) = attempts.next().await {
        match result {
            Ok(()) => return condition(true, "Passed", "all checks passed".into()),
            Err(why) => last = why,
        }
    }
    condition(false, "FailedDiscoveryCheck", last)
}

async fn attempt(server: &Server, remote: &Remote) -> Result<(), String> {
    let address = address_of(server, remote).await?;
    let tls = server.aggregator.tls(None)?;
    let path = remote.path();
    let url = format!("https://{address}{path}");
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    match anybody(&tls, address, &path).await {
        Ok(200..300) => Ok(()),
        Ok(code) => Err(failed(format!("bad status from {url}: {code}"))),
        Err(why) => Err(failed(format!("Get {url:?}: {why}"))),
    }
}
