//! What is to be done, as data.

use apimachinery::Value;
use client::call::PatchKind;
use client::events::{EventType, ObjectReference};
use client::{ObjectKey, Resource};
use compact_str::CompactString;
use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;

/// A write.
#[derive(Debug, Clone)]
pub enum Action {
    /// Create an object.
    Create {
        /// The resource.
        resource: Resource,
        /// The namespace; empty for cluster-wide resources.
        namespace: String,
        /// The object.
        object: Value,
        /// Whether it is fine when the name is taken.
        exists_is_fine: bool,
    },
    /// Replace an object, or the part of it that `subresource` is.
    Update {
        /// The resource.
        resource: Resource,
        /// `""` for the object itself.
        subresource: &'static str,
        /// The object with the version it was read at.
        object: Value,
    },
    /// Change an object.
    Patch {
        /// The resource.
        resource: Resource,
        /// Which one.
        key: ObjectKey,
        /// `""` for the object itself.
        subresource: &'static str,
        /// How the patch is written.
        kind: PatchKind,
        /// The patch.
        patch: Value,
        /// Whether it is fine when the object is gone.
        gone_is_fine: bool,
    },
    /// Delete an object. That it is gone already is always fine.
    Delete {
        /// The resource.
        resource: Resource,
        /// Which one.
        key: ObjectKey,
        /// The uid it must have; empty for any.
        uid: String,
        /// `Background`, `Foreground`, `Orphan`.
        propagation: Option<&'static str>,
        /// Seconds; the object's own where it is not given.
        grace_period_seconds: Option<i64>,
        /// The version it must have; empty for any.
        resource_version: String,
    },
    /// Delete every object of a namespace.
    DeleteCollection {
        /// The resource.
        resource: Resource,
        /// The namespace.
        namespace: String,
    },
    /// Create something below an object.
    Subresource {
        /// The resource.
        resource: Resource,
        /// Which one.
        key: ObjectKey,
        /// `eviction`, `token`.
        subresource: &'static str,
        /// What is created.
        object: Value,
    },
}

impl Action {
    /// Whether it creates an object of this resource.
    #[must_use]
    pub fn creates(&self, plural: &str) -> bool {
        matches!(self, Self::Create { resource, .. } if resource.plural == plural)
    }
}

/// An event to record once its stage is done.
#[derive(Debug, Clone)]
pub struct Event {
    /// What it is about.
    pub about: ObjectReference,
    /// How serious it is.
    pub kind: EventType,
    /// Upstream's reason.
    pub reason: &'static str,
    /// Upstream's message.
    pub message: String,
}

/// What is to be written together, and what is told of it.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    /// The writes, carried out side by side.
    pub actions: Vec<PlannedAction>,
    /// Whether what follows is carried out even if a write of this stage fails; the plan is then tried again all the same.
    pub goes_on: bool,
    /// What is written where a write of this stage is refused for good: trying again would not help.
    pub refused: Option<Refused>,
}

/// What is written where another write was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What it is made of.
    pub object: Value,
    /// Makes it, from that and from why the other one was refused.
    pub write: fn(&Value, &str) -> Action,
}

/// Why a plan was not carried out whole: the first of its writes that failed, or its own error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The message.
    pub why: String,
    /// Whether the server said no, and would again.
    pub is_final: bool,
    /// What was written: the kind of write, and the plural of the resource. None for a plan's own error and for reads.
    pub of: Option<(&'static str, CompactString)>,
    /// The namespace of what was written; empty for a plan's own error.
    pub namespace: CompactString,
    /// The code of the server's answer. None for a plan's own error, and without an answer.
    pub code: Option<u16>,
}

impl Failure {
    /// Whether a write of this kind (`create`, `update`, `patch`, `delete`) to this resource failed.
    #[must_use]
    pub fn is_of(&self, kind: &str, plural: &str) -> bool {
        self.of.as_ref().is_some_and(|(verb, of)| *verb == kind && of == plural)
    }
}

/// A write, with the events that tell of its success or failure.
#[derive(Debug, Clone)]
pub struct PlannedAction {
    /// The write.
    pub action: Action,
    /// Recorded when it succeeded; `{name}` in the message stands for the name the server chose.
    pub on_success: Option<Event>,
    /// Recorded when it failed; `{error}` in the message stands for why.
    pub on_failure: Vec<Event>,
    /// Whether a conflict is no failure to tell of: the key has its next try with what is newer by then, and that is all.
    pub conflict_is_fine: bool,
    /// Counts it when it succeeded, and when it failed.
    pub counters: Option<[Counter; 2]>,
}

impl PlannedAction {
    /// A write with the events of its success and of its failure, of which a conflict is one.
    #[must_use]
    pub fn new(action: Action, on_success: Option<Event>, on_failure: Vec<Event>) -> Self {
        Self { action, on_success, on_failure, conflict_is_fine: false, counters: None }
    }
}

/// A live read that the plan needs; the runner reads and plans again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fetch {
    /// The resource.
    pub resource: Resource,
    /// Which object; all of its namespace where the name is empty.
    pub key: ObjectKey,
    /// What is created to get the answer, as JSON: for reviews, which are questions. `None` for a plain read.
    pub question: Option<String>,
    /// What is read instead, below any path; a refusal is an answer then. See [`Fetch::path`].
    pub path: Option<String>,
}

impl Fetch {
    /// A read of one object, or of a namespace.
    #[must_use]
    pub fn read(resource: Resource, key: ObjectKey) -> Self {
        Self { resource, key, question: None, path: None }
    }

    /// A review: `question` is created and answered, and never stored.
    #[must_use]
    pub fn review(resource: Resource, question: &Value) -> Self {
        let text = String::from_utf8(apimachinery::json::to_vec(question));
        Self { resource, key: ObjectKey::new("", ""), question: text.ok(), path: None }
    }

    /// A read of any path on behalf of `resource`. The plan gets to see refusals too: `{"answer": ...}` or
    /// `{"error": {"code", "reason", "message"}}`.
    #[must_use]
    pub fn path(resource: Resource, path: String) -> Self {
        Self { resource, key: ObjectKey::new("", ""), question: None, path: Some(path) }
    }
}

/// What is to be done for a key.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Writes: side by side inside a stage, stage after stage. The first failure ends the plan, unless its stage goes on.
    pub stages: Vec<Stage>,
    /// Events that depend on no write.
    pub events: Vec<Event>,
    /// When to plan again although nothing changed.
    pub requeue_at: Option<Timestamp>,
    /// Why the plan is to be tried again with back-off although its writes succeed.
    pub error: Option<String>,
    /// What is remembered of the key is no longer needed.
    pub forget: bool,
    /// Live reads that are needed before anything is done.
    pub fetches: Vec<Fetch>,
}

impl Plan {
    /// Nothing to do.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Adds a write to the last stage.
    pub fn act(&mut self, action: Action) -> &mut PlannedAction {
        self.add(PlannedAction::new(action, None, Vec::new()))
    }

    /// Adds a write with its events to the last stage.
    pub fn add(&mut self, planned: PlannedAction) -> &mut PlannedAction {
        if self.stages.is_empty() {
            self.stages.push(Stage::default());
        }
        let stage = self.stages.last_mut().expect("because one was pushed just above");
        stage.actions.push(planned);
        stage.actions.last_mut().expect("because one was pushed just above")
    }

    /// Begins a new stage: what follows happens only after everything before has succeeded.
    pub fn then(&mut self) -> &mut Self {
        if self.stages.last().is_some_and(|stage| !stage.actions.is_empty()) {
            self.stages.push(Stage::default());
        }
        self
    }

    /// Adds an event.
    pub fn event(
        &mut self,
        about: ObjectReference,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.events.push(Event { about, kind, reason, message: message.into() });
    }

    /// Plans again at this time at the latest.
    pub fn requeue_by(&mut self, at: Timestamp) {
        self.requeue_at = Some(self.requeue_at.map_or(at, |other| other.min(at)));
    }

    /// Whether nothing is written.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.stages.iter().all(|stage| stage.actions.is_empty())
    }
}
