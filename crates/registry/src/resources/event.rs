//! Event: stored as core/v1, served as events.k8s.io/v1 too. The two versions differ in names only.

use apimachinery::{FieldErrors, Path, Value, validation};
use compact_str::CompactString;
use jiff::Timestamp;

use crate::declaration::{Alternative, Declaration, FieldLabel, MetadataChecks};
use crate::{Rules, metadata, table};

/// Seconds an event lives after its last write (upstream: `--event-ttl`, one hour).
const TTL_SECONDS: u32 = 3_600;

/// Names in core/v1 and in events.k8s.io/v1.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The selectable fields, by path.
const FIELDS: &[FieldLabel] = &[
    FieldLabel::new("involvedObject.kind", |it| text(it, &["involvedObject", "kind"])),
    FieldLabel::new("involvedObject.namespace", |it| text(it, &["involvedObject", "namespace"])),
    FieldLabel::new("involvedObject.name", |it| text(it, &["involvedObject", "name"])),
    FieldLabel::new("involvedObject.uid", |it| text(it, &["involvedObject", "uid"])),
    FieldLabel::new("involvedObject.apiVersion", |it| text(it, &["involvedObject", "apiVersion"])),
    FieldLabel::new("involvedObject.resourceVersion", |it| {
        text(it, &["involvedObject", "resourceVersion"])
    }),
    FieldLabel::new("involvedObject.fieldPath", |it| text(it, &["involvedObject", "fieldPath"])),
    FieldLabel::new("reason", |it| text(it, &["reason"])),
    FieldLabel::new("reportingComponent", |it| text(it, &["reportingComponent"])),
    FieldLabel::new("source", source),
    FieldLabel::new("type", |it| text(it, &["type"])),
];

/// What events.k8s.io/v1 calls them (upstream: `pkg/apis/events/v1/conversion.go`).
const LABELS: &[(&str, &str)] = &[
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    ("regarding.resourceVersion", "involvedObject.resourceVersion"),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("reason", "reason"),
    ("reportingController", "reportingComponent"),
    ("type", "type"),
];

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "events",
        alternatives: &[Alternative {
            group: "events.k8s.io",
            version: "v1",
            default: Some(|_| {}),
            validate: validate_newer,
            to_storage: |value| {
                rename(value, RENAMED.iter().map(|(core, events)| (*events, *core)))
            },
            from_storage: |value| rename(value, RENAMED.iter().copied()),
            labels: Some(LABELS),
        }],
        name: metadata::path_segment_name,
        validate,
        fields: FIELDS,
        row,
        metadata_checks: MetadataChecks::None,
        rules: Rules {
            ttl_seconds: TTL_SECONDS,
            create_on_update: true,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

fn text(value: &Value, path: &[&str]) -> CompactString {
    value.str_at(path).into()
}

/// The component, by its older name or by its newer one.
fn source(value: &Value) -> CompactString {
    match value.str_at(&["source", "component"]) {
        "" => text(value, &["reportingComponent"]),
        component => component.into(),
    }
}

fn rename<'n>(value: &mut Value, names: impl Iterator<Item = (&'n str, &'n str)>) {
    for (from, to) in names {
        if let Some(member) = value.as_object_mut().and_then(|object| object.remove(from)) {
            value.set_at(&[to], member);
        }
    }
}

/// The longest name of a reporter, action or reason, in characters.
const WORD_MAX: usize = 128;
/// The longest message, in characters.
const MESSAGE_MAX: usize = 1024;

fn validate(event: &Value, errors: &mut FieldErrors) {
    let root = Path::new("");
    let mut own = FieldErrors::new();
    let namespace = event.str_at(&["metadata", "namespace"]);
    let involved = event.str_at(&["involvedObject", "namespace"]);
    let timed = event.get("eventTime").is_some();
    // Events of things outside namespaces lie in the default one.
    let agree = match involved {
        "" => namespace == "default" || (timed && namespace == "kube-system"),
        _ => timed || involved == namespace,
    };
    if !agree {
        let at = root.child("involvedObject");
        own.invalid_text(&at.child("namespace"), involved, "does not match event.namespace");
    }
    if timed {
        reporter(event, &root, &mut own);
    }
    if !own.is_empty() {
        // Metadata is looked at once the rest is right.
        *errors = own;
    }
}

/// An event that says when it happened says by whom and why, too.
fn reporter(event: &Value, root: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["reportingComponent", "reportingInstance", "action", "reason"] {
        let said = if member == "reportingComponent" { "reportingController" } else { member };
        let (text, at) = (event.str_at(&[member]), root.child(said));
        if text.is_empty() {
            errors.required(&at, "");
        }
        if member == "reportingComponent" {
            errors.invalid_all(&at, text, validation::qualified_name(text));
        } else if text.len() > WORD_MAX {
            errors.invalid_text(&at, "", &format!("can have at most {WORD_MAX} characters"));
        }
    }
    if event.str_at(&["message"]).len() > MESSAGE_MAX {
        let detail = format!("can have at most {MESSAGE_MAX} characters");
        errors.invalid_text(&root.child("message"), "", &detail);
    }
}

/// What the newer version asks for besides.
fn validate_newer(event: &Value, errors: &mut FieldErrors) {
    let root = Path::new("");
    let (metadata, name) = (root.child("metadata"), event.str_at(&["metadata", "name"]));
    if !name.is_empty() {
        errors.invalid_all(&metadata.child("name"), name, validation::dns1123_subdomain(name));
    }
    if let Some(series) = event.get("series") {
        let at = root.child("series");
        if series.i64_at(&["count"]).unwrap_or_default() < 2 {
            errors.invalid_text(&at.child("count"), "", "should be at least 2");
        }
        if series.get("lastObservedTime").is_none() {
            errors.required(&at.child("lastObservedTime"), "");
        }
    }
    if event.get("eventTime").is_none() {
        errors.required(&root.child("eventTime"), "");
    }
    let kind = event.str_at(&["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid_text(&root.child("type"), "", &format!("has invalid value: {kind}"));
    }
    let source = event.get("source").and_then(Value::as_object);
    for (member, given) in [
        ("firstTimestamp", event.get("firstTimestamp").is_some()),
        ("lastTimestamp", event.get("lastTimestamp").is_some()),
        ("count", event.i64_at(&["count"]).unwrap_or_default() != 0),
        ("source", source.is_some_and(|it| !it.is_empty())),
    ] {
        if given {
            errors.invalid_text(&root.child(member), "", "needs to be unset");
        }
    }
}

fn row(event: &Value, now: Timestamp) -> Vec<Value> {
    let ago = |path: &[&str]| table::age(event, path, now);
    let first = if event.get("firstTimestamp").is_some() {
        ago(&["firstTimestamp"])
    } else {
        ago(&["eventTime"])
    };
    let mut last =
        if event.get("lastTimestamp").is_some() { ago(&["lastTimestamp"]) } else { first.clone() };
    let mut count = event.i64_at(&["count"]).unwrap_or_default();
    if event.get("series").is_some() {
        last = ago(&["series", "lastObservedTime"]);
        count = event.i64_at(&["series", "count"]).unwrap_or_default();
    } else if count == 0 {
        count = 1;
    }
    vec![
        last,
        event.str_at(&["type"]).into(),
        event.str_at(&["reason"]).into(),
        object(&event["involvedObject"]).into(),
        event.str_at(&["involvedObject", "fieldPath"]).into(),
        reported_by(event).into(),
        event.str_at(&["message"]).trim().into(),
        first,
        count.into(),
        event.str_at(&["metadata", "name"]).into(),
    ]
}

fn object(reference: &Value) -> String {
    let (kind, name) = (reference.str_at(&["kind"]), reference.str_at(&["name"]));
    if name.is_empty() { kind.to_lowercase() } else { format!("{}/{name}", kind.to_lowercase()) }
}

fn reported_by(event: &Value) -> String {
    let first = |source: &str, reporting: &str| match event.str_at(&["source", source]) {
        "" => event.str_at(&[reporting]).to_owned(),
        given => given.to_owned(),
    };
    let component = first("component", "reportingComponent");
    match first("host", "reportingInstance") {
        instance if instance.is_empty() => component,
        instance => format!("{component}, {instance}"),
    }
}
