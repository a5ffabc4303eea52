//! Events: what components tell people about objects, in upstream's form and with upstream's aggregation.
//!
//! Equal events become one with a count, many similar ones become one that speaks for all. Writing is in the background and bounded: when the server
//! does not keep up, the oldest unsent events are dropped and counted in the log, never the component held up.

mod correlate;

use std::collections::VecDeque;
use std::sync::Arc;

use apimachinery::{Value, time, value};
use component_base::{Clock, Random, ShutdownSignal};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

use correlate::Correlator;

use crate::call::{Client, PatchKind};
use crate::resource::Resource;

/// How many events wait to be sent at most.
const MAX_QUEUED: usize = 1_000;
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
        let mut correlator = Correlator::default();
        loop {
            while let Some(event) = self.next() {
                self.write(&client, &mut correlator, event).await;
            }
            if stop.is_requested() {
                return;
            }
            tokio::select! {
                biased;
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

    async fn write(&self, client: &Client, correlator: &mut Correlator, event: Pending) {
        let Some(it) = correlator.correlate(event) else { return };
        let resource = Resource::built_in("", "events");
        let event = &it.event;
        let namespace = if event.about.namespace.is_empty() {
            "default"
        } else {
            event.about.namespace.as_str()
        };
        if let Some(before) = it.before {
            let count = before.count + 1;
            let patch = value!({"count": count, "message": (event.message.as_str()),
                "lastTimestamp": (time::format_time(event.at))});
            let patched = client
                .patch(&resource, namespace, &before.name, "", PatchKind::Strategic, &patch)
                .await;
            match patched {
                Ok(_) => return correlator.remember(it.key, before.name, count),
                // It has expired meanwhile: written anew below.
                Err(error) if error.is_not_found() => {}
                Err(error) => return self.lost(event, &error),
            }
        }
        let name = format!("{}.{:x}", event.about.name, unique(event.at, self.random.as_ref()));
        match client.create(&resource, namespace, &self.object(event, namespace, &name)).await {
            Ok(_) => correlator.remember(it.key, name, 1),
            Err(error) => self.lost(event, &error),
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
