//! Conditions that the API server itself keeps: whether the priority level of a flow schema exists, whether what an
//! APIService names can be reached. Upstream: the configuration consumer of `pkg/util/flowcontrol` and the aggregator's
//! controller of remote availability.
//!
//! One task; it looks again when one of the kinds concerned has changed, and writes what is different by ordinary
//! requests. Knows nothing of flow control and proxying themselves.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::obj::Obj;
use apimachinery::{Value, time, value};
use auth::Objects;
use compact_str::CompactString;
use component_base::ShutdownSignal;
use http::Method;

use crate::Server;
use crate::bootstrap::{Bootstrap, BootstrapError};
use crate::cache::{Cache, Scope};
use crate::objects::CachedObjects;

const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";
const REGISTRATION: &str = "apiregistration.k8s.io";
/// Who writes the condition of a flow schema.
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";

/// What a condition is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    r#type: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Condition {
    fn to_value(&self, now: &str) -> Value {
        value!({"type": (self.r#type), "status": (self.status), "lastTransitionTime": now,
            "reason": (self.reason), "message": (self.message.as_str())})
    }

    /// Whether the object says so already.
    fn is_told_by(&self, object: &Value) -> bool {
        condition(object, self.r#type).is_some_and(|it| {
            it.str_at(&["status"]) == self.status
                && it.str_at(&["reason"]) == self.reason
                && it.str_at(&["message"]) == self.message
        })
    }

    /// Since when the object is in this state.
    fn since<'v>(&self, object: &'v Value, now: &'v str) -> &'v str {
        condition(object, self.r#type)
            .filter(|it| it.str_at(&["status"]) == self.status)
            .map_or(now, |it| it.str_at(&["lastTransitionTime"]))
    }
}

fn condition<'v>(object: &'v Value, r#type: &str) -> Option<&'v Value> {
    let conditions = object.items_at(&["status", "conditions"]);
    conditions.iter().find(|it| it.str_at(&["type"]) == r#type)
}

/// Keeps the conditions until the server stops.
pub async fn run(server: Arc<Server>, stop: ShutdownSignal) {
    let objects = CachedObjects::new(Arc::clone(&server.hub), Arc::clone(&server.catalog));
    let kinds = [
        (FLOW_CONTROL, "flowschemas"),
        (FLOW_CONTROL, "prioritylevelconfigurations"),
        (REGISTRATION, "apiservices"),
        // Asked for below only while an APIService names one.
        ("", "services"),
        ("discovery.k8s.io", "endpointslices"),
    ];
    let caches = kinds.iter().filter_map(|(group, resource)| objects.cache(group, resource));
    let caches: Vec<Arc<Cache>> = caches.map(Cow::into_owned).collect();
    let mut remote = true;
    let mut known = Known::default();
    loop {
        let wanted = if remote { caches.len() } else { 3 };
        let notifies: Vec<_> =
            caches.iter().take(wanted).map(|cache| cache.wake_for(Scope::All)).collect();
        // Made before looking, so that what happens meanwhile is seen.
        let woken = notifies.iter().map(|notify| {
            let mut notified = Box::pin(notify.notified());
            notified.as_mut().enable();
            notified
        });
        let woken = futures::future::select_all(woken.collect::<Vec<_>>());
        let had_remote = remote;
        remote = look(&server, &objects, &mut known).await;
        if remote && !had_remote {
            continue;
        }
        tokio::select! {
            _ = woken => {}
            () = stop.requested() => return,
        }
    }
}

/// What was seen to be right, so that it is not decoded again: names to versions.
#[derive(Debug, Default)]
struct Known {
    /// Flow schemas with the level that each names, which was there.
    schemas: BTreeMap<CompactString, (u64, String)>,
    /// APIServices that name no service.
    local: BTreeMap<CompactString, u64>,
}

/// How many names are remembered before all are forgotten: those that were deleted are never missed otherwise.
const KNOWN_MAX: usize = 10_000;

impl Known {
    fn bound(&mut self) {
        if self.schemas.len() + self.local.len() > KNOWN_MAX {
            *self = Self::default();
        }
    }

    fn is_told(&self, schema: &Obj, objects: &CachedObjects) -> bool {
        self.schemas.get(&schema.facts.name).is_some_and(|(version, level)| {
            *version == schema.resource_version && has_level(level, objects)
        })
    }

    fn is_local(&self, service: &Obj) -> bool {
        self.local.get(&service.facts.name) == Some(&service.resource_version)
    }
}

fn has_level(name: &str, objects: &dyn Objects) -> bool {
    objects.get(FLOW_CONTROL, "prioritylevelconfigurations", "", name).is_some()
}

/// Writes what is different; says whether any APIService names a service.
async fn look(server: &Arc<Server>, objects: &CachedObjects, known: &mut Known) -> bool {
    known.bound();
    let bootstrap = Bootstrap::new(server);
    let now = time::format_time(server.clock.now());
    for object in objects.list(FLOW_CONTROL, "flowschemas", "") {
        if known.is_told(&object, objects) {
            continue;
        }
        let Ok(schema) = object.to_value() else { continue };
        let wanted = dangling(&schema, objects);
        if wanted.is_told_by(&schema) {
            if wanted.status == "False" {
                let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
                let entry = (object.resource_version, level.to_owned());
                known.schemas.insert(object.facts.name.clone(), entry);
            }
            continue;
        }
        let told = wanted.to_value(wanted.since(&schema, &now));
        report(write_schema(&bootstrap, schema, told).await);
    }
    let mut remote = false;
    for object in objects.list(REGISTRATION, "apiservices", "") {
        if known.is_local(&object) {
            continue;
        }
        let Ok(service) = object.to_value() else { continue };
        if service.at(&["spec", "service"]).is_none() {
            known.local.insert(object.facts.name.clone(), object.resource_version);
            continue;
        }
        remote = true;
        let wanted = available(&service, objects);
        if wanted.is_told_by(&service) {
            continue;
        }
        let told = wanted.to_value(wanted.since(&service, &now));
        report(write_service(&bootstrap, service, told).await);
    }
    remote
}

fn report(written: Result<Option<Value>, BootstrapError>) {
    // An object that changed meanwhile wakes this task again, and is looked at anew.
    if let Err(error) = written {
        tracing::debug!(%error, "a condition could not be written");
    }
}

async fn write_schema(
    bootstrap: &Bootstrap<'_>,
    mut schema: Value,
    condition: Value,
) -> Result<Option<Value>, BootstrapError> {
    let name = schema.str_at(&["metadata", "name"]);
    let path = format!("/apis/{FLOW_CONTROL}/v1/flowschemas/{name}");
    schema.set_at(&["status"], value!({"conditions": [condition]}));
    bootstrap.apply_status(&path, CONSUMER, &schema).await
}

async fn write_service(
    bootstrap: &Bootstrap<'_>,
    mut service: Value,
    condition: Value,
) -> Result<Option<Value>, BootstrapError> {
    let name = service.str_at(&["metadata", "name"]);
    let path = format!("/apis/{REGISTRATION}/v1/apiservices/{name}/status");
    let conditions = service.items_at(&["status", "conditions"]).iter();
    let mut conditions: Vec<Value> =
        conditions.filter(|it| it.str_at(&["type"]) != "Available").cloned().collect();
    conditions.push(condition);
    service.set_at(&["status", "conditions"], conditions);
    bootstrap.send(Method::PUT, &path, Some(&service)).await
}

/// Whether a flow schema names a priority level that does not exist.
fn dangling(schema: &Value, objects: &dyn Objects) -> Condition {
    let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
    let named =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let found = has_level(level, objects);
    let (status, reason, rest) = if found {
        ("False", "Found", "and it exists")
    } else {
        ("True", "NotFound", "but there is no such object")
    };
    Condition { r#type: "Dangling", status, reason, message: format!("{named} {rest}") }
}

/// Whether the service of an APIService could be asked.
fn available(service: &Value, objects: &dyn Objects) -> Condition {
    let reference = &service["spec"]["service"];
    let (namespace, name) = (reference.str_at(&["namespace"]), reference.str_at(&["name"]));
    let port = reference.i64_at(&["port"]).unwrap_or(443);
    let (reason, message) = unreachable_because(namespace, name, port, objects);
    Condition { r#type: "Available", status: "False", reason, message }
}

fn unreachable_because(
    namespace: &str,
    name: &str,
    port: i64,
    objects: &dyn Objects,
) -> (&'static str, String) {
    let found = objects.get("", "services", namespace, name).and_then(|it| it.to_value().ok());
    let Some(found) = found else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return ("ServiceNotFound", message);
    };
    if found.str_at(&["spec", "type"]) == "ClusterIP" {
        let ports = found.items_at(&["spec", "ports"]);
        let Some(named) = ports.iter().find(|it| it.i64_at(&["port"]) == Some(port)) else {
            let message =
                format!("service/{name} in {namespace:?} is not listening on port {port}");
            return ("ServicePortError", message);
        };
        let slices = objects.list("discovery.k8s.io", "endpointslices", namespace);
        let slices: Vec<Value> = slices
            .iter()
            .filter_map(|it| it.to_value().ok())
            .filter(|it| it.str_at(&["metadata", "labels", "kubernetes.io/service-name"]) == name)
            .collect();
        if slices.is_empty() {
            let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
            return ("EndpointsNotFound", message);
        }
        let port_name = named.str_at(&["name"]);
        if !slices.iter().any(|it| has_ready(it, port_name)) {
            let message = format!(
                "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
            );
            return ("MissingEndpoints", message);
        }
    }
    let message = "requests are not passed on to other API servers yet".to_owned();
    ("FailedDiscoveryCheck", message)
}

/// Whether a slice has an endpoint that is ready, behind a port of this name.
fn has_ready(slice: &Value, port_name: &str) -> bool {
    slice.items_at(&["ports"]).iter().any(|it| it.str_at(&["name"]) == port_name)
        && slice
            .items_at(&["endpoints"])
            .iter()
            .any(|it| it.at(&["conditions", "ready"]).and_then(Value::as_bool) != Some(false))
}
