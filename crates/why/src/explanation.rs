//! What is told of an object, and its form in JSON: `why.kubelith.io/v1alpha1`, kind `Explanation`.

use apimachinery::{Object, Value, value};
use client::{ObjectKey, Resource};

/// The version of everything that this crate tells.
pub const API_VERSION: &str = "why.kubelith.io/v1alpha1";

/// How many nodes are told of one by one. Others are counted in groups.
pub const MAX_NODES_TOLD: usize = 100;
/// How many objects of one sort are named. Others are counted.
pub const MAX_NAMED: usize = 5;

/// What somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its kind.
    pub kind: Resource,
    /// Where it lies.
    pub key: ObjectKey,
}

/// How an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is as it is to be.
    Settled,
    /// It is on its way, and nothing holds it up.
    Progressing,
    /// Gates keep the scheduler from looking at it.
    Gated,
    /// No node will do.
    Unschedulable,
    /// Something else holds it up.
    Waiting,
    /// It has a place, and does not work yet.
    NotReady,
    /// It is being deleted, and something keeps it.
    Terminating,
    /// It has ended.
    Ended,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "Settled",
            Self::Progressing => "Progressing",
            Self::Gated => "Gated",
            Self::Unschedulable => "Unschedulable",
            Self::Waiting => "Waiting",
            Self::NotReady => "NotReady",
            Self::Terminating => "Terminating",
            Self::Ended => "Ended",
        }
    }
}

/// An explanation.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Of what.
    pub subject: Subject,
    /// How it is.
    pub state: State,
    /// All of it in one line.
    pub summary: String,
    /// What was found, the most important first.
    pub findings: Vec<Finding>,
    /// For a pod that no node takes.
    pub scheduling: Option<Scheduling>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// One word, for programs.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// `pods/web-0`, where it is of another object.
    pub object: Option<String>,
    /// What explains it.
    pub because: Vec<Finding>,
}

impl Finding {
    /// Of the object itself.
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), object: None, because: Vec::new() }
    }

    /// Of another object.
    pub(crate) fn of(mut self, resource: &str, key: &ObjectKey) -> Self {
        self.object = Some(format!("{resource}/{}", key.name));
        self
    }

    /// With what explains it.
    pub(crate) fn because(mut self, findings: Vec<Finding>) -> Self {
        self.because = findings;
        self
    }

    fn to_value(&self) -> Value {
        let mut all = Object::new();
        all.insert("reason", self.reason);
        all.insert("message", self.message.as_str());
        if let Some(object) = &self.object {
            all.insert("object", object.as_str());
        }
        if !self.because.is_empty() {
            all.insert("because", list(&self.because, Self::to_value));
        }
        Value::Object(all)
    }
}

/// What the nodes say, and what would help.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scheduling {
    /// The scheduler's own message.
    pub message: String,
    /// How many nodes there are.
    pub nodes: usize,
    /// Nodes that say the same.
    pub groups: Vec<Group>,
    /// Nodes one by one, [`MAX_NODES_TOLD`] at most.
    pub verdicts: Vec<NodeVerdict>,
    /// What would make it fit, the smallest first; each was tried.
    pub suggestions: Vec<Suggestion>,
    /// Whether there may be more: the search has a limit.
    pub search_ended: bool,
    /// Who would have to go for it.
    pub preemption: Option<Preemption>,
}

/// Nodes that say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The plugin that refuses them.
    pub plugin: &'static str,
    /// Its reasons.
    pub reasons: Vec<String>,
    /// How many there are.
    pub count: usize,
    /// [`MAX_NAMED`] of them.
    pub nodes: Vec<String>,
}

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeVerdict {
    /// The node.
    pub node: String,
    /// The plugin that refuses it; empty where it will do.
    pub plugin: &'static str,
    /// Its reasons.
    pub reasons: Vec<String>,
}

/// What a change is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The pod.
    Pod,
    /// A node.
    Node(String),
}

/// A change of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Of what.
    pub target: Target,
    /// In words.
    pub text: String,
    /// As a JSON patch (RFC 6902).
    pub patch: Value,
}

/// Changes that make the pod fit, together.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    /// The changes.
    pub changes: Vec<Change>,
    /// How many nodes would do then.
    pub fits: usize,
    /// [`MAX_NAMED`] of them.
    pub nodes: Vec<String>,
}

impl Suggestion {
    /// In words.
    #[must_use]
    pub fn summary(&self) -> String {
        let texts: Vec<&str> = self.changes.iter().map(|it| it.text.as_str()).collect();
        texts.join(", and ")
    }
}

/// Who would have to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    /// The least priority with which it may push others away.
    pub priority: i32,
    /// Whether the pod has that already.
    pub has_it: bool,
    /// A priority class that gives as much, where there is one.
    pub class: Option<String>,
    /// The node.
    pub node: String,
    /// The pods that would go, with their priorities.
    pub victims: Vec<(ObjectKey, i32)>,
    /// How many of them their budgets would keep.
    pub violations: usize,
}

impl Explanation {
    /// An explanation of a subject.
    pub(crate) fn new(subject: &Subject, state: State, summary: impl Into<String>) -> Self {
        Self {
            subject: subject.clone(),
            state,
            summary: summary.into(),
            findings: Vec::new(),
            scheduling: None,
        }
    }

    /// With what was found.
    pub(crate) fn with(mut self, findings: Vec<Finding>) -> Self {
        self.findings = findings;
        self
    }

    /// As JSON.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let subject = &self.subject;
        let mut of = Object::new();
        of.insert("apiVersion", subject.kind.api_version());
        of.insert("kind", subject.kind.kind.as_str());
        if !subject.key.namespace.is_empty() {
            of.insert("namespace", subject.key.namespace.as_str());
        }
        of.insert("name", subject.key.name.as_str());
        let mut all = value!({
            "apiVersion": API_VERSION, "kind": "Explanation", "subject": (of),
            "state": (self.state.as_str()), "summary": (self.summary.as_str()),
            "findings": (list(&self.findings, Finding::to_value)),
        });
        if let Some(scheduling) = &self.scheduling {
            all.set_at(&["scheduling"], scheduling.to_value());
        }
        all
    }
}

impl Scheduling {
    fn to_value(&self) -> Value {
        let group = |it: &Group| {
            value!({"plugin": (it.plugin), "reasons": (texts(&it.reasons)), "count": (count(it.count)),
                "nodes": (texts(&it.nodes))})
        };
        let verdict = |it: &NodeVerdict| match it.plugin {
            "" => value!({"node": (it.node.as_str()), "fits": true}),
            plugin => value!({"node": (it.node.as_str()), "fits": false, "plugin": plugin,
                "reasons": (texts(&it.reasons))}),
        };
        let mut all = value!({
            "message": (self.message.as_str()), "nodeCount": (count(self.nodes)),
            "groups": (list(&self.groups, group)), "nodes": (list(&self.verdicts, verdict)),
            "suggestions": (list(&self.suggestions, Suggestion::to_value)),
            "searchEnded": (self.search_ended),
        });
        if let Some(it) = &self.preemption {
            all.set_at(&["preemption"], it.to_value());
        }
        all
    }
}

impl Suggestion {
    fn to_value(&self) -> Value {
        let change = |it: &Change| {
            let (kind, name) = match &it.target {
                Target::Pod => ("Pod", ""),
                Target::Node(name) => ("Node", name.as_str()),
            };
            let mut all =
                value!({"kind": kind, "text": (it.text.as_str()), "patch": (it.patch.clone())});
            if !name.is_empty() {
                all.set_at(&["name"], name);
            }
            all
        };
        value!({"summary": (self.summary()), "changes": (list(&self.changes, change)),
            "fits": (count(self.fits)), "nodes": (texts(&self.nodes))})
    }
}

impl Preemption {
    fn to_value(&self) -> Value {
        let victim = |(key, priority): &(ObjectKey, i32)| value!({"namespace": (key.namespace.as_str()), "name": (key.name.as_str()), "priority": (*priority)});
        let mut all = value!({
            "priority": (self.priority), "hasPriority": (self.has_it), "node": (self.node.as_str()),
            "victims": (list(&self.victims, victim)), "budgetViolations": (count(self.violations)),
        });
        if let Some(class) = &self.class {
            all.set_at(&["priorityClassName"], class.as_str());
        }
        all
    }
}

/// Values of a list.
pub(crate) fn list<T>(items: &[T], to_value: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(to_value).collect())
}

/// A list of texts.
pub(crate) fn texts(items: &[String]) -> Value {
    list(items, |it| it.as_str().into())
}

/// A count.
pub(crate) fn count(count: usize) -> Value {
    i64::try_from(count).unwrap_or(i64::MAX).into()
}

/// `a, b and 3 more`.
#[must_use]
pub fn some_of<T: AsRef<str>>(names: &[T]) -> String {
    let named: Vec<&str> = names.iter().take(MAX_NAMED).map(AsRef::as_ref).collect();
    match names.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// `1 pod`, `2 pods`.
#[must_use]
pub fn counted(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}
