//! The parameters of operations: what may stand in queries and paths.

use apimachinery::{Object, Value, value};

use super::Version;

/// A parameter of a query or a path.
#[derive(Debug)]
pub(super) struct Parameter {
    name: &'static str,
    kind: &'static str,
    about: &'static str,
    place: &'static str,
}

const fn text(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, kind: "string", about, place: "query" }
}

const fn number(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, kind: "integer", about, place: "query" }
}

const fn flag(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, kind: "boolean", about, place: "query" }
}

const fn path(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, kind: "string", about, place: "path" }
}

/// In paths.
pub(super) static NAMESPACE: Parameter =
    path("namespace", "The namespace of the object or objects");
pub(super) static NAME: Parameter = path("name", "The name of the object");
pub(super) static PATH: Parameter = path("path", "The path that the proxied request asks for");
/// Of every operation on objects.
pub(super) static PRETTY: Parameter =
    text("pretty", "`true` writes the answer with spaces and line breaks");

/// Of lists and watches.
pub(super) static LIST: &[Parameter] = &[
    flag("allowWatchBookmarks", "Ask for BOOKMARK events on a watch"),
    text("continue", "The token that the page before this one came with"),
    text("fieldSelector", "Only objects whose fields match"),
    text("labelSelector", "Only objects whose labels match"),
    number("limit", "How many objects a page holds at most"),
    text("resourceVersion", "The version that the answer has to be of, or newer than"),
    text("resourceVersionMatch", "How resourceVersion is meant: `Exact` or `NotOlderThan`"),
    flag("sendInitialEvents", "Begin a watch with what there is, then a BOOKMARK that says so"),
    number("timeoutSeconds", "How long a list or watch may take"),
    flag("watch", "Watch changes instead of listing"),
];

/// Of operations that create or replace.
pub(super) static WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
/// Of patches.
pub(super) static PATCH: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
/// Of deletions of one object.
pub(super) static DELETE: &[Parameter] =
    &[DRY_RUN, GRACE_PERIOD, IGNORE_READ_ERROR, ORPHAN, PROPAGATION];
/// Of deletions of many.
pub(super) static DELETE_COLLECTION: &[Parameter] = &[
    text("continue", "The token that the page before this one came with"),
    DRY_RUN,
    text("fieldSelector", "Only objects whose fields match"),
    GRACE_PERIOD,
    IGNORE_READ_ERROR,
    text("labelSelector", "Only objects whose labels match"),
    number("limit", "How many objects a page holds at most"),
    ORPHAN,
    PROPAGATION,
    text("resourceVersion", "The version that the answer has to be of, or newer than"),
    text("resourceVersionMatch", "How resourceVersion is meant: `Exact` or `NotOlderThan`"),
    flag("sendInitialEvents", "Begin a watch with what there is, then a BOOKMARK that says so"),
    number("timeoutSeconds", "How long a list or watch may take"),
];

const DRY_RUN: Parameter = text("dryRun", "`All` goes through all stages and stores nothing");
const FIELD_MANAGER: Parameter = text("fieldManager", "Who owns the fields that this request sets");
const FIELD_VALIDATION: Parameter = text(
    "fieldValidation",
    "What unknown and repeated fields are met with: `Ignore`, `Warn`, `Strict`",
);
const FORCE: Parameter = flag("force", "Take over fields that others own (apply patches only)");
const GRACE_PERIOD: Parameter =
    number("gracePeriodSeconds", "How long the object may take to end; 0 is at once");
const IGNORE_READ_ERROR: Parameter = flag(
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "Delete the object even where it cannot be read, without finalizers and preconditions",
);
const ORPHAN: Parameter = flag("orphanDependents", "Older form of propagationPolicy");
const PROPAGATION: Parameter =
    text("propagationPolicy", "What becomes of dependents: `Orphan`, `Background`, `Foreground`");

static LOG: &[Parameter] = &[
    text("container", "The container whose log is asked for, where there are several"),
    flag("follow", "Go on with what is written from now on"),
    flag("insecureSkipTLSVerifyBackend", "Do not check the certificate of the node"),
    number("limitBytes", "How many bytes are sent at most"),
    flag("previous", "The log of the container's last instance that ended"),
    number("sinceSeconds", "Only what was written in the last so many seconds"),
    text("stream", "`All`, `Stdout` or `Stderr`"),
    number("tailLines", "Only the last so many lines"),
    flag("timestamps", "Begin each line with its time"),
];
static STREAMS: &[Parameter] = &[
    text("container", "The container, where there are several"),
    flag("stderr", "Connect standard error"),
    flag("stdin", "Connect standard input"),
    flag("stdout", "Connect standard output"),
    flag("tty", "Connect a terminal"),
];
static COMMAND: &[Parameter] = &[text("command", "The command and its arguments, one each")];
static PORTS: &[Parameter] = &[number("ports", "The ports to forward (WebSockets only)")];
static PROXY: &[Parameter] = &[text("path", "The path that the proxied request asks for")];

/// The parameters of a subresource that streams.
pub(super) fn of_stream(subresource: &str) -> Vec<&'static Parameter> {
    match subresource {
        "log" => LOG.iter().collect(),
        "attach" => STREAMS.iter().collect(),
        "exec" => COMMAND.iter().chain(STREAMS).collect(),
        "portforward" => PORTS.iter().collect(),
        _ => PROXY.iter().collect(),
    }
}

/// Every parameter that 2.0 refers to, each name once.
pub(super) fn shared() -> impl Iterator<Item = &'static Parameter> {
    let lists = [LIST, PATCH, DELETE, LOG, STREAMS, COMMAND, PORTS, PROXY];
    let mut seen = std::collections::BTreeSet::new();
    [&NAMESPACE, &NAME, &PATH, &PRETTY]
        .into_iter()
        .chain(lists.into_iter().flatten())
        .filter(move |it| seen.insert((it.name, it.place)))
}

impl Parameter {
    /// What 2.0 refers to it by.
    pub(super) fn key(&self) -> String {
        format!("{}-{}", self.name, self.place)
    }

    /// In full.
    pub(super) fn value(&self, version: Version) -> Value {
        let mut out = Object::new();
        out.insert("name", self.name);
        out.insert("in", self.place);
        out.insert("description", self.about);
        if self.place == "path" {
            out.insert("required", true);
        }
        match version {
            Version::V2 => {
                out.insert("type", self.kind);
                out.insert("uniqueItems", true);
            }
            Version::V3 => {
                out.insert("schema", value!({"type": (self.kind), "uniqueItems": true}));
            }
        }
        Value::Object(out)
    }

    /// As an operation holds it. 3.0 has it in full, since clients look there for names; so has 2.0 with the two
    /// that kubectl looks for.
    pub(super) fn used(&self, version: Version) -> Value {
        let looked_for = matches!(self.name, "dryRun" | "fieldValidation");
        match version {
            Version::V2 if !looked_for => {
                value!({"$ref": (format!("#/parameters/{}", self.key()))})
            }
            Version::V2 | Version::V3 => self.value(version),
        }
    }
}
