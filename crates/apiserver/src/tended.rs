//! Flow control as its objects want it: the server follows schemas and levels, lets levels lend and borrow, and says
//! whether the level of a schema exists. Upstream: the configuration consumer of `pkg/util/flowcontrol`.
//!
//! One task; it looks again when one of the kinds concerned has changed, and writes what is different by ordinary
//! requests. Knows nothing of flow control itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::obj::Obj;
use apimachinery::{Value, time, value};
use auth::Objects;
use compact_str::CompactString;
use component_base::ShutdownSignal;
use tokio::time::Instant;

use crate::Server;
use crate::bootstrap::{Bootstrap, BootstrapError};
use crate::cache::{Cache, Scope};
use crate::fairness::Fairness;
use crate::objects::CachedObjects;

const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";
/// How often levels lend and borrow anew (upstream's).
const ADJUSTING: Duration = Duration::from_secs(10);
/// Who writes the condition of a flow schema.
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";

/// What a condition is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) r#type: &'static str,
    pub(crate) status: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Condition {
    pub(crate) fn to_value(&self, now: &str) -> Value {
        value!({"type": (self.r#type), "status": (self.status), "lastTransitionTime": now,
            "reason": (self.reason), "message": (self.message.as_str())})
    }

    /// Whether the object says so already.
    pub(crate) fn is_told_by(&self, object: &Value) -> bool {
        condition(object, self.r#type).is_some_and(|it| {
            it.str_at(&["status"]) == self.status
                && it.str_at(&["reason"]) == self.reason
                && it.str_at(&["message"]) == self.message
        })
    }

    /// Since when the object is in this state.
    pub(crate) fn since<'v>(&self, object: &'v Value, now: &'v str) -> &'v str {
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
    let kinds = [(FLOW_CONTROL, "flowschemas"), (FLOW_CONTROL, "prioritylevelconfigurations")];
    let caches = kinds.iter().filter_map(|(group, resource)| objects.cache(group, resource));
    let caches: Vec<Arc<Cache>> = caches.map(Cow::into_owned).collect();
    let mut known = Known::default();
    let mut adjusting = Instant::now() + ADJUSTING;
    loop {
        let notifies: Vec<_> = caches.iter().map(|cache| cache.wake_for(Scope::All)).collect();
        // Made before looking, so that what happens meanwhile is seen.
        let woken = notifies.iter().map(|notify| {
            let mut notified = Box::pin(notify.notified());
            notified.as_mut().enable();
            notified
        });
        let mut woken = futures::future::select_all(woken.collect::<Vec<_>>());
        // First what people see.
        look(&server, &objects, &mut known).await;
        if let Some(fairness) = &server.fairness {
            digest(fairness, &objects);
        }
        loop {
            tokio::select! {
                biased;
                _ = &mut woken => break,
                () = tokio::time::sleep_until(adjusting) => adjusting += ADJUSTING,
                () = stop.requested() => return,
            }
            let Some(fairness) = &server.fairness else { continue };
            fairness.adjust();
            if fairness.has_leftovers() {
                break;
            }
        }
    }
}

/// Makes the server follow the schemas and levels there are.
pub(crate) fn digest(fairness: &Fairness, objects: &CachedObjects) {
    let all = |resource| -> Vec<Value> {
        let all = objects.list(FLOW_CONTROL, resource, "");
        all.iter().filter_map(|it| it.to_value().ok()).collect()
    };
    fairness.digest(&all("prioritylevelconfigurations"), &all("flowschemas"));
}

/// What was seen to be right, so that it is not decoded again: names to versions.
#[derive(Debug, Default)]
struct Known {
    /// Flow schemas with the level that each names, which was there.
    schemas: BTreeMap<CompactString, (u64, String)>,
}

/// How many names are remembered before all are forgotten: those that were deleted are never missed otherwise.
const KNOWN_MAX: usize = 10_000;

impl Known {
    fn bound(&mut self) {
        if self.schemas.len() > KNOWN_MAX {
            *self = Self::default();
        }
    }

    fn is_told(&self, schema: &Obj, objects: &CachedObjects) -> bool {
        self.schemas.get(&schema.facts.name).is_some_and(|(version, level)| {
            *version == schema.resource_version && has_level(level, objects)
        })
    }
}

fn has_level(name: &str, objects: &dyn Objects) -> bool {
    objects.get(FLOW_CONTROL, "prioritylevelconfigurations", "", name).is_some()
}

/// Writes what is different.
async fn look(server: &Arc<Server>, objects: &CachedObjects, known: &mut Known) {
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
