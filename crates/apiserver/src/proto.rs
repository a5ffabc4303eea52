//! Protobuf bodies: objects, lists and metadata in envelopes, and the frames of watches.
//!
//! Only built-in kinds have protobuf; what has none is told by `None`, and its answer is JSON.

use apimachinery::protobuf::{self, ProtobufError, write_bytes, write_len};
use apimachinery::schema::NodeId;
use apimachinery::{Object, Value};

/// The media type of bodies.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The media type of watches.
pub(crate) const WATCH_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Group and version of `apps/v1` or `v1`.
pub(crate) fn split(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn meta_type(name: &str) -> Option<NodeId> {
    api::type_of_definition(&format!("{META}{name}"))
}

/// The type of a kind by its apiVersion.
pub(crate) fn type_of(api_version: &str, kind: &str) -> Option<NodeId> {
    let (group, version) = split(api_version);
    let found = api::type_of_kind(group, version, kind);
    // Clients write the options of a delete in the version of what they delete.
    let of_meta = matches!(api_version, "v1" | "") || kind == "DeleteOptions";
    let removed = || {
        let own = api::type_of_removed(group, version, kind);
        own.or_else(|| {
            let (group, version) = registry::message_of_removed(group, version, kind)?;
            api::type_of_kind(group, version, kind)
        })
    };
    found.or_else(|| if of_meta { meta_type(kind) } else { None }).or_else(removed)
}

/// Writes the message of a value of this type, without envelope.
pub(crate) fn write_message(node: NodeId, value: &Value, out: &mut Vec<u8>) {
    protobuf::encode(api::schema(), api::protobuf_tags(), node, value, out);
}

/// What writes a message.
type Write<'c> = Box<dyn Fn(&mut Vec<u8>) + 'c>;

/// An answer with its envelope; `None` where its kind has no protobuf.
pub(crate) fn encode(content: &Value) -> Option<Vec<u8>> {
    let (kind, api_version) = (content.str_at(&["kind"]), content.str_at(&["apiVersion"]));
    let write: Write<'_> = match (split(api_version), kind) {
        (("meta.k8s.io", _), "PartialObjectMetadata") => {
            let node = meta_type("ObjectMeta")?;
            Box::new(move |out| partial(node, content, out))
        }
        (("meta.k8s.io", version), "PartialObjectMetadataList") => {
            let (node, list) = (meta_type("ObjectMeta")?, meta_type("ListMeta")?);
            // The older version has the two fields the other way round.
            let (metadata, items) = if version == "v1" { (1, 2) } else { (2, 1) };
            Box::new(move |out| {
                let of_list = content.get("metadata").unwrap_or(&Value::Null);
                write_len(metadata, out, |out| write_message(list, of_list, out));
                for item in content.items_at(&["items"]) {
                    write_len(items, out, |out| partial(node, item, out));
                }
            })
        }
        _ => {
            let node = type_of(api_version, kind)?;
            Box::new(move |out| write_message(node, content, out))
        }
    };
    let mut out = Vec::with_capacity(1024);
    protobuf::wrap(api_version, kind, &mut out, write);
    Some(out)
}

fn partial(node: NodeId, content: &Value, out: &mut Vec<u8>) {
    let metadata = content.get("metadata").unwrap_or(&Value::Null);
    write_len(1, out, |out| write_message(node, metadata, out));
}

/// A list, one object at a time: what is held is the bytes, and one decoded object.
pub(crate) fn encode_list<E>(
    api_version: &str,
    kind: &str,
    metadata: &Object,
    items: impl Iterator<Item = Result<Value, E>>,
) -> Result<Option<Vec<u8>>, E> {
    let (Some(node), Some(list)) = (type_of(api_version, kind), meta_type("ListMeta")) else {
        return Ok(None);
    };
    let metadata = Value::Object(metadata.clone());
    let mut out = Vec::with_capacity(4096);
    let mut failed = None;
    protobuf::wrap(api_version, &format!("{kind}List"), &mut out, |out| {
        write_len(1, out, |out| write_message(list, &metadata, out));
        for item in items {
            match item {
                Ok(item) => write_len(2, out, |out| write_message(node, &item, out)),
                Err(error) => {
                    failed = Some(error);
                    return;
                }
            }
        }
    });
    failed.map_or(Ok(Some(out)), Err)
}

/// An event of a watch, with its length in front.
pub(crate) fn write_frame(kind: &str, content: &Value, out: &mut Vec<u8>) {
    let Some(object) = encode(content) else { return };
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write_bytes(1, kind.as_bytes(), out);
    write_len(2, out, |out| write_bytes(1, &object, out));
    let len = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// The value of a body, of which `default` is the version and kind where it says none; `also` are versions with the same
/// message. Where its kind is not known, only kind and version are in it, for the caller to refuse.
pub(crate) fn decode(
    bytes: &[u8],
    default: (&str, &str),
    also: &[&str],
) -> Result<Value, ProtobufError> {
    let envelope = protobuf::unwrap(bytes)?;
    let or = |text: &str, default: &str| if text.is_empty() { default } else { text }.to_owned();
    let kind = or(&envelope.kind, default.1);
    let api_version = or(&envelope.api_version, default.0);
    let of = if also.contains(&api_version.as_str()) { default.0 } else { &api_version };
    let mut value = match type_of(of, &kind) {
        Some(node) => protobuf::decode(api::schema(), api::protobuf_tags(), node, envelope.raw)?,
        None => Value::object(),
    };
    value.set_at(&["kind"], kind);
    value.set_at(&["apiVersion"], api_version);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn an_object_comes_back_as_it_was() {
        let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": "i"}], "hostNetwork": true}});
        let bytes = encode(&pod).unwrap();
        let again = decode(&bytes, ("v1", "Pod"), &[]).unwrap();
        assert_eq!(again, pod);
        assert_eq!(encode(&value!({"apiVersion": "x.io/v1", "kind": "Other"})), None);
    }

    #[test]
    fn versions_that_say_the_same_are_read_as_one() {
        let eviction = value!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": "a"}});
        let mut bytes = Vec::new();
        let node = type_of("policy/v1", "Eviction").unwrap();
        let (old, today) = ("policy/v1beta1", ("policy/v1", "Eviction"));
        protobuf::wrap(old, "Eviction", &mut bytes, |out| write_message(node, &eviction, out));
        let name = |also: &[&str]| {
            decode(&bytes, today, also).unwrap().str_at(&["metadata", "name"]).to_owned()
        };
        assert_eq!((name(&[old]), name(&[])), ("a".to_owned(), String::new()));
    }

    #[test]
    fn a_frame_is_as_long_as_it_says() {
        let mut out = Vec::new();
        let status = apimachinery::Status::no_route().to_value();
        write_frame("ERROR", &status, &mut out);
        let len = u32::from_be_bytes(out[..4].try_into().unwrap());
        assert_eq!(out.len(), 4 + len as usize);
        assert_eq!(&out[4..11], b"\x0a\x05ERROR");
    }
}
