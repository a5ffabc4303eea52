//! Events: what components tell people about objects, in upstream's form and with upstream's aggregation.
//!
//! Equal events within ten minutes become one with a count. Writing is in the background and bounded: when the server
//! does not keep up, the oldest unsent events are dropped and counted in the log, never the component held up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, time, value};
use component_base::{Clock, Random, ShutdownSignal};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::call::{Client, PatchKind};
use crate::resource::Resource;

/// How many events wait to be sent at most.
const MAX_QUEUED: usize = 1_000;
/// How many events are remembered for aggregation.
const MAX_REMEMBERED: usize = 4_096;
/// How long equal events are counted into one (upstream: 10 minutes).
const AGGREGATION: Duration = Duration::from_secs(600);

/// `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// All is as it should be.
    Normal,
    /// Something may be wrong.
    Warning,
}

/// What an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectReference {
    /// `v1`, `apps/v1`
    pub api_version: String,
    /// `Pod`
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// `spec.containers{c}`, where it is about a part.
    pub field_path: String,
}

impl ObjectReference {
    /// A reference to an object that has its kind in it.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        Self {
            api_version: object.str_at(&["apiVersion"]).into(),
            kind: object.str_at(&["kind"]).into(),
            namespace: object.str_at(&["metadata", "namespace"]).into(),
            name: object.str_at(&["metadata", "name"]).into(),
            uid: object.str_at(&["metadata", "uid"]).into(),
            resource_version: object.str_at(&["metadata", "resourceVersion"]).into(),
            field_path: String::new(),
        }
    }

    /// The same, about a part.
    #[must_use]
    pub fn field(mut self, path: impl Into<String>) -> Self {
        self.field_path = path.into();
        self
    }

    fn to_value(&self) -> Value {
        let mut reference = value!({});
        let members = [
            ("apiVersion", &self.api_version),
            ("kind", &self.kind),
            ("namespace", &self.namespace),
            ("name", &self.name),
            ("uid", &self.uid),
            ("resourceVersion", &self.resource_version),
            ("fieldPath", &self.field_path),
        ];
        for (key, text) in members.into_iter().filter(|(_, text)| !text.is_empty()) {
            reference.set_at(&[key], text.as_str());
        }
        reference
    }
}

#[derive(Debug, Clone)]
struct Pending {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Pending {
    fn same(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.reason == other.reason
            && self.message == other.message
            && self.about.uid == other.about.uid
            && self.about.name == other.about.name
            && self.about.namespace == other.about.namespace
            && self.about.field_path == other.about.field_path
    }
}

/// An event that was written, to be counted up.
#[derive(Debug, Clone)]
struct Written {
    event: Pending,
    name: String,
    count: i64,
}

#[derive(Debug, Default)]
struct Queue {
    pending: VecDeque<Pending>,
    dropped: u64,
}

/// Records events of one component.
#[derive(Debug)]
pub struct EventRecorder {
    component: String,
    host: String,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    queue: Mutex<Queue>,
    wake: Notify,
}

impl EventRecorder {
    /// A recorder for a component (`kubelet`, `deployment-controller`) on a host (empty where it does not matter).
    #[must_use]
    pub fn new(
        component: &str,
        host: &str,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Arc<Self> {
        Arc::new(Self {
            component: component.into(),
            host: host.into(),
            clock,
            random,
            queue: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// Records an event. Never waits.
    pub fn record(
        &self,
        about: ObjectReference,
        kind: EventType,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) {
        let event = Pending {
            about,
            kind,
            reason: reason.into(),
            message: message.into(),
            at: self.clock.now(),
        };
        let mut queue = self.queue.lock();
        if queue.pending.len() >= MAX_QUEUED {
            queue.pending.pop_front();
            queue.dropped += 1;
        }
        queue.pending.push_back(event);
        drop(queue);
        self.wake.notify_one();
    }

    /// Writes what is recorded, until `stop`; what is queued then is still written.
    pub async fn run(self: Arc<Self>, client: Client, stop: ShutdownSignal) {
        let mut written: VecDeque<Written> = VecDeque::new();
        loop {
            while let Some(event) = self.next() {
                self.write(&client, &mut written, event).await;
            }
            if stop.is_requested() {
                return;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = stop.requested() => {}
            }
        }
    }

    fn next(&self) -> Option<Pending> {
        let mut queue = self.queue.lock();
        if queue.dropped > 0 {
            tracing::warn!(
                component = self.component,
                dropped = queue.dropped,
                "events were dropped: the server does not keep up"
            );
            queue.dropped = 0;
        }
        queue.pending.pop_front()
    }

    async fn write(&self, client: &Client, written: &mut VecDeque<Written>, event: Pending) {
        let resource = Resource::built_in("", "events");
        let horizon = jiff::SignedDuration::try_from(AGGREGATION).unwrap_or_default();
        let known = written
            .iter_mut()
            .find(|it| it.event.same(&event) && event.at.duration_since(it.event.at) < horizon);
        let namespace = if event.about.namespace.is_empty() {
            "default"
        } else {
            event.about.namespace.as_str()
        };
        let now = time::format_time(event.at);
        if let Some(known) = known {
            let patch = value!({"count": (known.count + 1), "lastTimestamp": now});
            let patched = client
                .patch(&resource, namespace, &known.name, "", PatchKind::Strategic, &patch)
                .await;
            match patched {
                Ok(_) => {
                    known.count += 1;
                    known.event.at = event.at;
                    return;
                }
                // It has expired meanwhile: written anew below.
                Err(error) if error.is_not_found() => written.retain(|it| !it.event.same(&event)),
                Err(error) => return self.lost(&event, &error),
            }
        }
        let name = format!("{}.{:x}", event.about.name, unique(event.at, self.random.as_ref()));
        match client.create(&resource, namespace, &self.object(&event, namespace, &name)).await {
            Ok(_) => {
                written.push_back(Written { event, name, count: 1 });
                if written.len() > MAX_REMEMBERED {
                    written.pop_front();
                }
            }
            Err(error) => self.lost(&event, &error),
        }
    }

    fn lost(&self, event: &Pending, error: &crate::ClientError) {
        if !error.is_namespace_terminating() {
            tracing::warn!(reason = event.reason, object = event.about.name, %error, "could not write an event");
        }
    }

    fn object(&self, event: &Pending, namespace: &str, name: &str) -> Value {
        let now = time::format_time(event.at);
        let kind = match event.kind {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        };
        let mut source = value!({"component": (self.component.as_str())});
        if !self.host.is_empty() {
            source.set_at(&["host"], self.host.as_str());
        }
        value!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": (event.about.to_value()),
            "reason": (event.reason.as_str()), "message": (event.message.as_str()), "type": kind,
            "source": source, "reportingComponent": (self.component.as_str()), "reportingInstance": (self.host.as_str()),
            "firstTimestamp": (now.clone()), "lastTimestamp": now, "count": 1
        })
    }
}

/// The time in nanoseconds, as upstream's event names end in; made unique by its last digits.
fn unique(at: Timestamp, random: &dyn Random) -> i128 {
    at.as_nanosecond() / 1_000 * 1_000 + i128::from(random.below(1_000))
}
