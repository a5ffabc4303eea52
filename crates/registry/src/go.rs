//! Values as upstream shows its internal types in messages: by Go's field names, in Go's order, zero values and all.
//!
//! Knows shapes as tables; which message shows which type is the caller's to say.

mod pod;

use std::fmt::Write as _;

use apimachinery::Value;

/// A field of an internal type: its Go name, its JSON name, and what it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field(&'static str, &'static str, Shape);

/// What a field is, which says how it is shown where it is not set.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Text,
    Number,
    Truth,
    /// A pointer, list or map of plain values, or a type that has JSON names of its own.
    Plain,
    Struct(&'static [Field]),
    Pointer(&'static [Field]),
    List(&'static [Field]),
}

use Shape::{List, Number, Plain, Pointer, Struct, Text, Truth};

/// A label selector, whose fields have JSON names that Go drops when they are empty.
const QUANTITIES: Shape = Plain;

const OBJECT_REFERENCE: &[Field] = &[
    Field("APIGroup", "apiGroup", Plain),
    Field("Kind", "kind", Text),
    Field("Name", "name", Text),
];

const TYPED_REFERENCE: &[Field] = &[
    Field("APIGroup", "apiGroup", Plain),
    Field("Kind", "kind", Text),
    Field("Name", "name", Text),
    Field("Namespace", "namespace", Plain),
];

/// The spec of a claim.
pub(crate) const CLAIM_SPEC: &[Field] = &[
    Field("AccessModes", "accessModes", Plain),
    Field("Selector", "selector", Plain),
    Field(
        "Resources",
        "resources",
        Struct(&[Field("Limits", "limits", QUANTITIES), Field("Requests", "requests", QUANTITIES)]),
    ),
    Field("VolumeName", "volumeName", Text),
    Field("StorageClassName", "storageClassName", Plain),
    Field("VolumeMode", "volumeMode", Plain),
    Field("DataSource", "dataSource", Pointer(OBJECT_REFERENCE)),
    Field("DataSourceRef", "dataSourceRef", Pointer(TYPED_REFERENCE)),
    Field("VolumeAttributesClassName", "volumeAttributesClassName", Plain),
];

/// An attribute of a device.
pub(crate) const DEVICE_ATTRIBUTE: &[Field] = &[
    Field("IntValue", "int", Plain),
    Field("BoolValue", "bool", Plain),
    Field("StringValue", "string", Plain),
    Field("VersionValue", "version", Plain),
    // Lists need a gate that is off, and are not taken.
    Field("IntValues", "", Plain),
    Field("BoolValues", "", Plain),
    Field("StringValues", "", Plain),
    Field("VersionValues", "", Plain),
];

/// What an address belongs to.
pub(crate) const PARENT_REFERENCE: &[Field] = &[
    Field("Group", "group", Text),
    Field("Resource", "resource", Text),
    Field("Namespace", "namespace", Text),
    Field("Name", "name", Text),
];

const SECRET_REFERENCE: &[Field] =
    &[Field("Name", "name", Text), Field("Namespace", "namespace", Text)];

/// A source of volumes that pods and persistent volumes share.
pub(crate) const NFS: Field = Field(
    "NFS",
    "nfs",
    Pointer(&[
        Field("Server", "server", Text),
        Field("Path", "path", Text),
        Field("ReadOnly", "readOnly", Truth),
    ]),
);

/// Where a persistent volume lies. Storage systems of the past are shown as their JSON.
pub(crate) const VOLUME_SOURCE: &[Field] = &[
    Field("GCEPersistentDisk", "gcePersistentDisk", Plain),
    Field("AWSElasticBlockStore", "awsElasticBlockStore", Plain),
    Field(
        "HostPath",
        "hostPath",
        Pointer(&[Field("Path", "path", Text), Field("Type", "type", Plain)]),
    ),
    Field("Glusterfs", "glusterfs", Plain),
    NFS,
    Field("RBD", "rbd", Plain),
    Field("Quobyte", "quobyte", Plain),
    Field("ISCSI", "iscsi", Plain),
    Field("FlexVolume", "flexVolume", Plain),
    Field("Cinder", "cinder", Plain),
    Field("CephFS", "cephfs", Plain),
    Field("FC", "fc", Plain),
    Field("Flocker", "flocker", Plain),
    Field("AzureFile", "azureFile", Plain),
    Field("VsphereVolume", "vsphereVolume", Plain),
    Field("AzureDisk", "azureDisk", Plain),
    Field("PhotonPersistentDisk", "photonPersistentDisk", Plain),
    Field("PortworxVolume", "portworxVolume", Plain),
    Field("ScaleIO", "scaleIO", Plain),
    Field(
        "Local",
        "local",
        Pointer(&[Field("Path", "path", Text), Field("FSType", "fsType", Plain)]),
    ),
    Field("StorageOS", "storageos", Plain),
    Field(
        "CSI",
        "csi",
        Pointer(&[
            Field("Driver", "driver", Text),
            Field("VolumeHandle", "volumeHandle", Text),
            Field("ReadOnly", "readOnly", Truth),
            Field("FSType", "fsType", Text),
            Field("VolumeAttributes", "volumeAttributes", Plain),
            Field(
                "ControllerPublishSecretRef",
                "controllerPublishSecretRef",
                Pointer(SECRET_REFERENCE),
            ),
            Field("NodeStageSecretRef", "nodeStageSecretRef", Pointer(SECRET_REFERENCE)),
            Field("NodePublishSecretRef", "nodePublishSecretRef", Pointer(SECRET_REFERENCE)),
            Field(
                "ControllerExpandSecretRef",
                "controllerExpandSecretRef",
                Pointer(SECRET_REFERENCE),
            ),
            Field("NodeExpandSecretRef", "nodeExpandSecretRef", Pointer(SECRET_REFERENCE)),
        ]),
    ),
];

/// A driver of a node.
pub(crate) const CSI_NODE_DRIVER: &[Field] = &[
    Field("Name", "name", Text),
    Field("NodeID", "nodeID", Text),
    Field("TopologyKeys", "topologyKeys", Plain),
    Field("Allocatable", "allocatable", Plain),
];

/// The spec of an attachment.
pub(crate) const VOLUME_ATTACHMENT_SPEC: &[Field] = &[
    Field("Attacher", "attacher", Text),
    Field(
        "Source",
        "source",
        Struct(&[
            Field("PersistentVolumeName", "persistentVolumeName", Plain),
            Field("InlineVolumeSpec", "inlineVolumeSpec", Plain),
        ]),
    ),
    Field("NodeName", "nodeName", Text),
];

const SELECTOR: &[Field] =
    &[Field("CEL", "cel", Pointer(&[Field("Expression", "expression", Text)]))];

pub(crate) const TOLERATION: &[Field] = &[
    Field("Key", "key", Text),
    Field("Operator", "operator", Text),
    Field("Value", "value", Text),
    Field("Effect", "effect", Text),
    Field("TolerationSeconds", "tolerationSeconds", Plain),
];

const CAPACITY: &[Field] = &[Field("Requests", "requests", QUANTITIES)];

const DEVICES: &[Field] = &[
    Field(
        "Requests",
        "requests",
        List(&[
            Field("Name", "name", Text),
            Field(
                "Exactly",
                "exactly",
                Pointer(&[
                    Field("DeviceClassName", "deviceClassName", Text),
                    Field("Selectors", "selectors", List(SELECTOR)),
                    Field("AllocationMode", "allocationMode", Text),
                    Field("Count", "count", Number),
                    Field("AdminAccess", "adminAccess", Plain),
                    Field("Tolerations", "tolerations", List(TOLERATION)),
                    Field("Capacity", "capacity", Pointer(CAPACITY)),
                ]),
            ),
            Field(
                "FirstAvailable",
                "firstAvailable",
                List(&[
                    Field("Name", "name", Text),
                    Field("DeviceClassName", "deviceClassName", Text),
                    Field("Selectors", "selectors", List(SELECTOR)),
                    Field("AllocationMode", "allocationMode", Text),
                    Field("Count", "count", Number),
                    Field("Tolerations", "tolerations", List(TOLERATION)),
                    Field("Capacity", "capacity", Pointer(CAPACITY)),
                ]),
            ),
        ]),
    ),
    Field(
        "Constraints",
        "constraints",
        List(&[
            Field("Requests", "requests", Plain),
            Field("MatchAttribute", "matchAttribute", Plain),
            Field("DistinctAttribute", "distinctAttribute", Plain),
        ]),
    ),
    Field(
        "Config",
        "config",
        List(&[Field("Requests", "requests", Plain), Field("Opaque", "opaque", Pointer(OPAQUE))]),
    ),
];

/// The spec of a claim of devices.
pub(crate) const DEVICE_CLAIM_SPEC: &[Field] = &[Field("Devices", "devices", Struct(DEVICES))];

/// The spec of a template of such claims, without metadata.
pub(crate) const DEVICE_CLAIM_TEMPLATE_SPEC: &[Field] =
    &[Field("Spec", "spec", Struct(DEVICE_CLAIM_SPEC))];

/// What a claim of devices was given.
pub(crate) const ALLOCATION: &[Field] = &[
    Field(
        "Devices",
        "devices",
        Struct(&[
            Field(
                "Results",
                "results",
                List(&[
                    Field("Request", "request", Text),
                    Field("Driver", "driver", Text),
                    Field("Pool", "pool", Text),
                    Field("Device", "device", Text),
                    Field("AdminAccess", "adminAccess", Plain),
                    Field("Tolerations", "tolerations", List(TOLERATION)),
                    Field("BindingConditions", "bindingConditions", Plain),
                    Field("BindingFailureConditions", "bindingFailureConditions", Plain),
                    Field("ShareID", "shareID", Plain),
                    Field("ConsumedCapacity", "consumedCapacity", Plain),
                ]),
            ),
            Field(
                "Config",
                "config",
                List(&[
                    Field("Source", "source", Text),
                    Field("Requests", "requests", Plain),
                    Field("Opaque", "opaque", Pointer(OPAQUE)),
                ]),
            ),
        ]),
    ),
    Field(
        "NodeSelector",
        "nodeSelector",
        Pointer(&[Field("NodeSelectorTerms", "nodeSelectorTerms", List(pod::NODE_TERM))]),
    ),
    Field("AllocationTimestamp", "allocationTimestamp", Plain),
];

/// Where a volume is.
pub(crate) const VOLUME_AFFINITY: &[Field] = &[Field(
    "Required",
    "required",
    Pointer(&[Field("NodeSelectorTerms", "nodeSelectorTerms", List(pod::NODE_TERM))]),
)];

/// Parameters for a driver.
const OPAQUE: &[Field] =
    &[Field("Driver", "driver", Text), Field("Parameters", "parameters", Plain)];

/// A version of a custom resource, once what all versions share stands elsewhere.
pub(crate) const CRD_VERSION: &[Field] = &[
    Field("Name", "name", Text),
    Field("Served", "served", Truth),
    Field("Storage", "storage", Truth),
    Field("Deprecated", "deprecated", Truth),
    Field("DeprecationWarning", "deprecationWarning", Plain),
    Field("Schema", "schema", Plain),
    Field("Subresources", "subresources", Plain),
    Field("AdditionalPrinterColumns", "additionalPrinterColumns", Plain),
    Field("SelectableFields", "selectableFields", Plain),
];

/// What a quota counts only.
pub(crate) const SCOPE_SELECTOR: &[Field] = &[Field(
    "MatchExpressions",
    "matchExpressions",
    List(&[
        Field("ScopeName", "scopeName", Text),
        Field("Operator", "operator", Text),
        Field("Values", "values", Plain),
    ]),
)];

/// How a deployment replaces its pods.
pub(crate) const DEPLOYMENT_STRATEGY: &[Field] = &[
    Field("Type", "type", Text),
    Field(
        "RollingUpdate",
        "rollingUpdate",
        Pointer(&[
            Field("MaxUnavailable", "maxUnavailable", Number),
            Field("MaxSurge", "maxSurge", Number),
        ]),
    ),
];

/// A rule of a schema.
pub(crate) const VALIDATION_RULE: &[Field] = &[
    Field("Rule", "rule", Text),
    Field("Message", "message", Text),
    Field("MessageExpression", "messageExpression", Text),
    Field("Reason", "reason", Plain),
    Field("FieldPath", "fieldPath", Text),
    Field("OptionalOldSelf", "optionalOldSelf", Plain),
];

/// The value on one line.
pub(crate) fn compact(value: &Value, fields: &[Field]) -> String {
    let mut out = String::new();
    write(value, Pointer(&[]), Some(fields), None, &mut out);
    out
}

/// A list of such values on one line; `null` where it is absent.
pub(crate) fn compact_list(items: &[Value], fields: &[Field]) -> String {
    if items.is_empty() {
        return "null".into();
    }
    let items: Vec<String> = items.iter().map(|it| compact(it, fields)).collect();
    format!("[{}]", items.join(","))
}

/// Two values line by line, as far as they differ: what `diff -u` shows below its head.
pub(crate) fn difference(before: &Value, after: &Value, fields: &[Field]) -> String {
    let text = |value: &Value| {
        let mut out = String::new();
        write(value, Pointer(&[]), Some(fields), Some(0), &mut out);
        out
    };
    unified(&text(before), &text(after))
}

/// The fields of a pod's spec that the internal type has in its security context.
const IN_SECURITY_CONTEXT: [&str; 5] =
    ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];

/// The spec of a pod with fields where the internal type has them.
fn internal_pod_spec(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for member in IN_SECURITY_CONTEXT {
        if let Some(value) = spec.remove_at(&[member]) {
            spec.set_at(&["securityContext", member], value);
        }
    }
    spec
}

/// How the specs of two pods differ.
pub(crate) fn pod_difference(before: &Value, after: &Value) -> String {
    difference(&internal_pod_spec(before), &internal_pod_spec(after), pod::SPEC)
}

/// Conditions on one line, in the order of Go's fields.
pub(crate) fn conditions(all: &[Value]) -> String {
    let members =
        ["type", "status", "observedGeneration", "lastTransitionTime", "reason", "message"];
    let one = |condition: &Value| {
        let told = members.iter().filter_map(|it| Some((it, condition.get(it)?)));
        let told = told.map(|(name, it)| format!("{name:?}:{}", apimachinery::json::to_string(it)));
        format!("{{{}}}", told.collect::<Vec<_>>().join(","))
    };
    if all.is_empty() {
        return "null".into();
    }
    format!("[{}]", all.iter().map(one).collect::<Vec<_>>().join(","))
}

/// Terms of a selector of nodes on one line; `null` where there are none.
pub(crate) fn node_terms(terms: &[Value]) -> String {
    compact_list(terms, pod::NODE_TERM)
}

/// One of them.
pub(crate) fn node_term(term: &Value) -> String {
    compact(term, pod::NODE_TERM)
}

/// A pod template on one line: metadata by its JSON names, then the spec.
pub(crate) fn pod_template(template: &Value) -> String {
    let mut out = String::from("{");
    for member in ["name", "labels", "annotations", "finalizers"] {
        if let Some(value) = template.at(&["metadata", member]) {
            let _ = write!(out, "{member:?}:{},", apimachinery::json::to_string(value));
        }
    }
    let spec = compact(&internal_pod_spec(&template["spec"]), pod::SPEC);
    let _ = write!(out, "\"Spec\":{spec}}}");
    out
}

fn write(
    value: &Value,
    shape: Shape,
    whole: Option<&[Field]>,
    depth: Option<usize>,
    out: &mut String,
) {
    let absent = value.is_null();
    if let Some(fields) = whole {
        return members(value, fields, depth, out);
    }
    match shape {
        Text if absent => out.push_str("\"\""),
        Number if absent => out.push('0'),
        Truth if absent => out.push_str("false"),
        Plain | Pointer(_) | List(_) if absent => out.push_str("null"),
        Text | Number | Truth | Plain => plain(value, depth, out),
        Struct(fields) | Pointer(fields) => members(value, fields, depth, out),
        List(fields) => {
            let items = value.as_array().unwrap_or_default();
            surround(items.len(), depth, ['[', ']'], out, |index, inner, out| {
                write(&items[index], Plain, Some(fields), inner, out);
            });
        }
    }
}

fn members(value: &Value, fields: &[Field], depth: Option<usize>, out: &mut String) {
    surround(fields.len(), depth, ['{', '}'], out, |index, inner, out| {
        let Field(go, json, shape) = fields[index];
        let space = if inner.is_some() { " " } else { "" };
        // Writing to a string does not fail.
        let _ = write!(out, "\"{go}\":{space}");
        write(&value[json], shape, None, inner, out);
    });
}

/// A value that is shown as its JSON.
fn plain(value: &Value, depth: Option<usize>, out: &mut String) {
    match value {
        Value::Array(items) => {
            surround(items.len(), depth, ['[', ']'], out, |index, inner, out| {
                plain(&items[index], inner, out);
            })
        }
        Value::Object(object) => {
            let all: Vec<(&str, &Value)> = object.iter().collect();
            surround(all.len(), depth, ['{', '}'], out, |index, inner, out| {
                let space = if inner.is_some() { " " } else { "" };
                let _ =
                    write!(out, "{}:{space}", apimachinery::json::to_string(&all[index].0.into()));
                plain(all[index].1, inner, out);
            });
        }
        other => out.push_str(&apimachinery::json::to_string(other)),
    }
}

/// Items between brackets, each on a line of its own where a depth is given.
fn surround(
    count: usize,
    depth: Option<usize>,
    [open, close]: [char; 2],
    out: &mut String,
    mut item: impl FnMut(usize, Option<usize>, &mut String),
) {
    let inner = depth.map(|it| it + 1);
    let line = |depth: Option<usize>, out: &mut String| {
        if let Some(depth) = depth {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', depth));
        }
    };
    out.push(open);
    for index in 0..count {
        if index > 0 {
            out.push(',');
        }
        line(inner, out);
        item(index, inner, out);
    }
    if count > 0 {
        line(depth, out);
    }
    out.push(close);
}

/// How many unchanged lines stand around a change.
const CONTEXT: usize = 3;

/// One line of a comparison: its mark and its text.
type Line<'t> = (char, &'t str);

/// What differs between two texts, in hunks with their places.
fn unified(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let lines = compare(&old, &new);
    let changed: Vec<usize> = (0..lines.len()).filter(|index| lines[*index].0 != ' ').collect();
    let mut out = String::new();
    let mut rest = &changed[..];
    while let Some(first) = rest.first() {
        let near = |pair: &[usize]| pair[1] - pair[0] <= 2 * CONTEXT;
        let count = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
        let start = first.saturating_sub(CONTEXT);
        let end = (rest[count - 1] + CONTEXT + 1).min(lines.len());
        hunk(&lines, start..end, &mut out);
        rest = &rest[count..];
    }
    out
}

fn hunk(lines: &[Line<'_>], range: std::ops::Range<usize>, out: &mut String) {
    let count = |lines: &[Line<'_>], other: char| lines.iter().filter(|it| it.0 != other).count();
    let (ahead, inside) = (&lines[..range.start], &lines[range.clone()]);
    let _ = writeln!(
        out,
        "@@ -{},{} +{},{} @@",
        count(ahead, '+') + 1,
        count(inside, '+'),
        count(ahead, '-') + 1,
        count(inside, '-')
    );
    for (mark, text) in inside {
        let _ = writeln!(out, "{mark}{text}");
    }
}

/// The longest common sequence of lines stays; the rest goes or comes. What is equal at both ends is not searched.
fn compare<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old_rest[..old_rest.len() - tail], &new_rest[..new_rest.len() - tail]);
    let mut longest = vec![vec![0_u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] = if a[i] == b[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let mut lines: Vec<Line<'t>> = old[..head].iter().map(|it| (' ', *it)).collect();
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push((' ', a[i]));
            i += 1;
            j += 1;
        } else if i < a.len() && (j == b.len() || longest[i + 1][j] >= longest[i][j + 1]) {
            lines.push(('-', a[i]));
            i += 1;
        } else {
            lines.push(('+', b[j]));
            j += 1;
        }
    }
    lines.extend(old_rest[old_rest.len() - tail..].iter().map(|it| (' ', *it)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    #[test]
    fn a_changed_claim_is_shown_as_upstream_shows_it() {
        let before = value!({"accessModes": ["ReadWriteOnce"], "resources": {}});
        let after = value!({"accessModes": ["ReadWriteOncez"], "resources": {}});
        let expected = concat!(
            "@@ -1,6 +1,6 @@\n",
            " {\n",
            "  \"AccessModes\": [\n",
            "-  \"ReadWriteOnce\"\n",
            "+  \"ReadWriteOncez\"\n",
            "  ],\n",
            "  \"Selector\": null,\n",
            "  \"Resources\": {\n",
        );
        assert_eq!(difference(&before, &after, CLAIM_SPEC), expected);
    }

    #[test]
    fn values_are_shown_with_what_is_not_set() {
        let spec = value!({"attacher": "a", "source": {"persistentVolumeName": "p"}});
        assert_eq!(
            compact(&spec, VOLUME_ATTACHMENT_SPEC),
            r#"{"Attacher":"a","Source":{"PersistentVolumeName":"p","InlineVolumeSpec":null},"NodeName":""}"#
        );
        assert_eq!(compact_list(&[], CRD_VERSION), "null");
    }
}
