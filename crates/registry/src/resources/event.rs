//! Event: stored as core/v1, served as events.k8s.io/v1 too. The two versions differ in names only.

use apimachinery::Value;
use compact_str::CompactString;

use crate::Rules;
use crate::declaration::{Alternative, Declaration, FieldLabel};

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

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "events",
        alternatives: &[Alternative {
            group: "events.k8s.io",
            version: "v1",
            default: |_| {},
            to_storage: |value| {
                rename(value, RENAMED.iter().map(|(core, events)| (*events, *core)))
            },
            from_storage: |value| rename(value, RENAMED.iter().copied()),
        }],
        fields: FIELDS,
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
