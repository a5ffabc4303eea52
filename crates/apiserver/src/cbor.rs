//! CBOR bodies: objects, lists, tables and metadata, and the frames of watches.
//!
//! Of a built-in kind the type is needed, for bytes and floats; everything else is what it looks like.

use apimachinery::Value;
use apimachinery::cbor::{self, CborError, Typed, Unknown};
use apimachinery::schema::NodeId;

use crate::proto::type_of;

/// The media type of bodies.
pub(crate) const MEDIA_TYPE: &str = "application/cbor";
/// The media type of watches: one data item after the other (RFC 8742).
pub(crate) const WATCH_MEDIA_TYPE: &str = "application/cbor-seq";
/// The media type of what is applied.
pub(crate) const APPLY_MEDIA_TYPE: &str = "application/apply-patch+cbor";

fn typed(node: NodeId) -> Typed<'static> {
    Typed { schema: api::schema(), node }
}

/// An answer.
pub(crate) fn encode(content: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    write(content, &mut out);
    out
}

fn write(content: &Value, out: &mut Vec<u8>) {
    let (kind, api_version) = (content.str_at(&["kind"]), content.str_at(&["apiVersion"]));
    out.extend_from_slice(cbor::MAGIC);
    let item = kind.strip_suffix("List").and_then(|kind| type_of(api_version, kind));
    match (type_of(api_version, kind), item) {
        (Some(node), _) => cbor::encode(content, Some(typed(node)), out),
        (None, Some(item)) => write_list(content, item, out),
        (None, None) => cbor::encode(content, None, out),
    }
}

/// A list whose items are of this type.
fn write_list(content: &Value, item: NodeId, out: &mut Vec<u8>) {
    let mut members: Vec<(&str, &Value)> =
        content.as_object().map(|it| it.iter().collect()).unwrap_or_default();
    members.sort_by_key(|(key, _)| key.len());
    cbor::write_map_head(members.len(), out);
    for (key, value) in members {
        cbor::write_text(key, out);
        match value {
            Value::Array(items) if key == "items" => {
                cbor::write_array_head(items.len(), out);
                items.iter().for_each(|value| cbor::encode(value, Some(typed(item)), out));
            }
            value => cbor::encode(value, None, out),
        }
    }
}

/// An event of a watch.
pub(crate) fn write_frame(kind: &str, content: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(cbor::MAGIC);
    cbor::write_map_head(2, out);
    cbor::write_text("type", out);
    cbor::write_text(kind, out);
    cbor::write_text("object", out);
    write(content, out);
}

/// The type of a body by what it says it is; `default` is what it is where it says nothing.
pub(crate) fn type_of_body(bytes: &[u8], default: (&str, &str)) -> Result<Option<NodeId>, String> {
    let (api_version, kind) = cbor::kind_of(bytes)
        .map_err(|error| format!("unable to determine group/version/kind: {error}"))?;
    let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    Ok(type_of(&or(api_version, default.0), &or(kind, default.1)))
}

/// The value of a body. What is no field of the type is left out.
pub(crate) fn decode(bytes: &[u8], node: Option<NodeId>) -> Result<Value, CborError> {
    cbor::decode(bytes, node.map(typed), Unknown::Skip)
}

/// What strict validation says of a body: it names the first field that its type does not have.
pub(crate) fn unknown_field(
    bytes: &[u8],
    node: Option<NodeId>,
) -> Result<Option<String>, CborError> {
    match cbor::decode(bytes, node.map(typed), Unknown::Refuse) {
        Ok(_) => Ok(None),
        Err(error @ CborError::UnknownField(_)) => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

/// The value of what a server wrote, in which arrays and maps may have any number of elements.
pub(crate) fn decode_own(bytes: &[u8]) -> Result<Value, CborError> {
    cbor::decode_own(bytes)
}

/// Why a data item that is no map is no object.
pub(crate) fn no_map(bytes: &[u8], value: &Value) -> String {
    cbor::wrong_type(bytes, "map[string]interface {}")
        .map_or_else(|| format!("cbor: {} is no object", value.kind_name()), |it| it.to_string())
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    /// How many kinds there have to be, so that the test cannot pass by finding none.
    const KINDS_MIN: usize = 60;

    #[test]
    fn every_kind_comes_back_as_it_was() {
        let golden = crate::stored::tests::golden();
        let mut seen = 0;
        for (name, mut value) in golden {
            let (api_version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
            let Some(node) = type_of(api_version, kind) else { continue };
            seen += 1;
            apimachinery::conform::conform(api::schema(), node, &mut value).unwrap();
            let bytes = encode(&value);
            let mut typed =
                cbor::decode(&bytes, Some(super::typed(node)), Unknown::Refuse).unwrap();
            apimachinery::conform::conform(api::schema(), node, &mut typed).unwrap();
            assert_eq!(typed, value, "{name}");
            assert_eq!(encode(&typed), bytes, "{name}");
            // Without a type it is the same text.
            let untyped = decode_own(&bytes).unwrap();
            let text = apimachinery::json::to_string;
            assert_eq!(text(&untyped), text(&value), "{name}");
        }
        assert!(seen == 0 || seen >= KINDS_MIN, "only {seen} kinds");
    }

    #[test]
    fn bytes_of_a_secret_are_bytes_in_lists_and_frames_too() {
        let secret = value!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "AQI="}});
        let text =
            |bytes: &[u8]| -> String { bytes.iter().map(|it| format!("{it:02x}")).collect() };
        assert!(text(&encode(&secret)).starts_with("d9d9f7a34464617461a14161d6420102"));
        let list = value!({"apiVersion": "v1", "kind": "SecretList", "metadata": {},
            "items": [{"data": {"a": "AQI="}}]});
        let expected =
            "d9d9f7a4446b696e644a5365637265744c697374456974656d7381a14464617461a14161d6420102";
        assert!(text(&encode(&list)).starts_with(expected));
        let mut frame = Vec::new();
        write_frame("ADDED", &secret, &mut frame);
        // {'type': 'ADDED', 'object': 55799({...})}
        let expected = "d9d9f7a2447479706545414444454446 6f626a656374d9d9f7a3";
        assert!(text(&frame).starts_with(&expected.replace(' ', "")), "{}", text(&frame));
        let again = decode(&encode(&list), None).unwrap();
        assert_eq!(again, list);
    }
}
