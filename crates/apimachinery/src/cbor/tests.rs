//! Tables of bytes: what upstream's own tests of its modes hold, and RFC 8949's examples.

use std::borrow::Cow;

use super::*;
use crate::schema::{Field, List, ListKind, Map, Node, Patch, Presence, Struct};
use crate::{json, value};

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What bytes are without a type: JSON, or an error.
fn read(text: &str) -> String {
    match decode(&bytes(text), None, Unknown::Refuse) {
        Ok(value) => json::to_string(&value),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_examples_of_the_rfc_are_read_and_written_as_upstream_does() {
    // What it is, and what is written of it where that differs.
    for (text, value, written) in [
        ("00", "0", ""),
        ("17", "23", ""),
        ("1818", "24", ""),
        ("1903e8", "1000", ""),
        ("1a000f4240", "1000000", ""),
        ("1b000000e8d4a51000", "1000000000000", ""),
        ("1b7fffffffffffffff", "9223372036854775807", ""),
        ("20", "-1", ""),
        ("3863", "-100", ""),
        ("3903e7", "-1000", ""),
        ("3b7fffffffffffffff", "-9223372036854775808", ""),
        ("f90000", "0", ""),
        ("f98000", "0", ""),
        ("f93c00", "1", ""),
        ("fb3ff199999999999a", "1.1", ""),
        ("f93e00", "1.5", ""),
        ("f97bff", "65504", ""),
        ("fa47c35000", "100000", ""),
        ("fb7e37e43c8800759c", "1e+300", ""),
        ("f90001", "5.960464477539063e-8", ""),
        ("f90400", "0.00006103515625", ""),
        ("f9c400", "-4", ""),
        ("fbc010666666666666", "-4.1", ""),
        ("fb4000000000000000", "2", "f94000"),
        ("f4", "false", ""),
        ("f5", "true", ""),
        ("f6", "null", ""),
        ("40", r#""""#, ""),
        ("6161", r#""a""#, "4161"),
        ("64f0908591", "\"𐅑\"", "44f0908591"),
        ("80", "[]", ""),
        ("8301820203820405", "[1,[2,3],[4,5]]", ""),
        ("a26161016162820203", r#"{"a":1,"b":[2,3]}"#, "a24161014162820203"),
        ("5f42010243030405ff", r#""\u0001\u0002\u0003\u0004\u0005""#, "450102030405"),
        ("7f657374726561646d696e67ff", r#""streaming""#, "4973747265616d696e67"),
        ("9f018202039f0405ffff", "[1,[2,3],[4,5]]", "8301820203820405"),
        ("bf6346756ef563416d7421ff", r#"{"Amt":-2,"Fun":true}"#, "a243416d74214346756ef5"),
        ("a243626262014161f5", r#"{"a":true,"bbb":1}"#, "a24161f54362626201"),
        ("d9d9f7d9d9f701", "1", "01"),
    ] {
        let found = decode(&bytes(text), None, Unknown::Refuse).unwrap();
        assert_eq!(json::to_string(&found), value, "{text}");
        let mut out = Vec::new();
        encode(&found, None, &mut out);
        assert_eq!(hex(&out), if written.is_empty() { text } else { written }, "{text}");
    }
}

#[test]
fn tags_say_what_text_is_made_of() {
    for (text, expected) in [
        ("d64401020304", r#""AQIDBA==""#),
        ("d54401020304", r#""AQIDBA""#),
        ("d74401020304", r#""01020304""#),
        ("d7824142d681d54143", r#"["42",["Qw"]]"#),
        ("d818456449455446", r#""dIETF""#),
        ("c48221196ab3", "[-2,27315]"),
        ("c074323030362d30312d30325431353a30343a30355a", r#""2006-01-02T15:04:05Z""#),
        ("c11a514b67b0", r#""2013-03-21T20:04:00Z""#),
        ("c1fb41d452d9ec200000", r#""2013-03-21T20:04:00.5Z""#),
        ("c120", r#""1969-12-31T23:59:59Z""#),
        ("c1f9b800", r#""1969-12-31T23:59:59.5Z""#),
        (
            "c11b0000003afff44181",
            "cbor: decoded time cannot be represented in RFC3339 format with sub-second precision: Time.MarshalText: year outside of range [0,9999]",
        ),
        (
            "c06474657874",
            r#"cbor: cannot set text for time.Time: parsing time "text" as "2006-01-02T15:04:05Z07:00": cannot parse "text" as "2006""#,
        ),
        (
            "c054323030362d30312d30325431353a30343a30355a",
            "cbor: tag number 0 must be followed by text string, got byte string",
        ),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn what_is_refused_is_told_as_upstream_tells_it() {
    let accepted = "cbor: data item of cbor type";
    for (text, expected) in [
        ("", "EOF".to_owned()),
        ("41", "unexpected EOF".into()),
        ("1a0000", "unexpected EOF".into()),
        ("a141", "unexpected EOF".into()),
        ("9f01", "unexpected EOF".into()),
        ("d6", "unexpected EOF".into()),
        ("0102", "cbor: 1 bytes of extraneous data starting at index 1".into()),
        ("1c", "cbor: invalid additional information 28 for type positive integer".into()),
        ("df", "cbor: invalid additional information 31 for type tag".into()),
        ("ff", r#"cbor: unexpected "break" code"#.into()),
        ("bf01ff", r#"cbor: unexpected "break" code"#.into()),
        ("f81f", "cbor: invalid simple value 31 for type primitives".into()),
        ("5f6161ff", "cbor: wrong element type UTF-8 text string for indefinite-length byte string".into()),
        ("7f7fffff", "cbor: indefinite-length UTF-8 text string chunk is not definite-length".into()),
        ("5bffffffffffffffff", "cbor: byte string length 18446744073709551615 is too large, causing integer overflow".into()),
        ("9bffffffffffffffff", "cbor: array length 18446744073709551615 is too large, it would cause integer overflow".into()),
        ("990401", "cbor: exceeded max number of elements 1024 for CBOR array".into()),
        ("b90401", "cbor: exceeded max number of key-value pairs 1024 for CBOR map".into()),
        ("6180", "cbor: invalid UTF-8 string".into()),
        ("f7", format!("{accepted} primitives is not accepted by protocol: simple value 23 is not recognized")),
        ("f8ff", format!("{accepted} primitives is not accepted by protocol: simple value 255 is not recognized")),
        ("f97c00", format!("{accepted} primitives is not accepted by protocol: floating-point infinity")),
        ("fb7ff8000000000000", format!("{accepted} primitives is not accepted by protocol: floating-point NaN")),
        ("c249010000000000000000", format!("{accepted} tag is not accepted by protocol: bignum")),
        ("1bffffffffffffffff", "cbor: cannot unmarshal positive integer into Go value of type int64 (18446744073709551615 overflows Go's int64)".into()),
        ("3bffffffffffffffff", "cbor: cannot unmarshal negative integer into Go value of type int64 (-18446744073709551616 overflows Go's int64)".into()),
        ("a201020304", "cbor: cannot unmarshal positive integer into Go value of type string".into()),
        ("a1fb40091eb851eb851f63706965", "cbor: cannot unmarshal primitives into Go value of type string".into()),
        ("a2414101614102", r#"cbor: found duplicate map key "A" at map element index 1"#.into()),
        ("a25f426865436c6c6fff015f416844656c6c6fff02", r#"cbor: found duplicate map key "hello" at map element index 1"#.into()),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn nesting_has_a_limit() {
    let nested = |levels: usize| format!("{}00", "81".repeat(levels));
    assert_eq!(read(&nested(64)), format!("{}0{}", "[".repeat(64), "]".repeat(64)));
    assert_eq!(read(&nested(65)), "cbor: exceeded max nested level 64");
    assert_eq!(read(&nested(100_000)), "cbor: exceeded max nested level 64");
    assert_eq!(read(&format!("{}00", "c6".repeat(100_000))), "cbor: exceeded max nested level 64");
    let long = |count: usize| format!("9f{}ff", "00".repeat(count));
    assert!(read(&long(1024)).starts_with("[0,"));
    assert_eq!(read(&long(1025)), "cbor: exceeded max number of elements 1024 for CBOR array");
}

const TOP: u16 = 0;

fn field(name: &'static str, node: u16) -> Field {
    Field {
        name: name.into(),
        node,
        presence: Presence::OmitEmpty,
        patch: Patch::REPLACE,
        merge_key: "".into(),
    }
}

fn schema() -> Schema {
    let structure = |name: &'static str, fields: Vec<Field>| {
        Node::Struct(Struct {
            name: name.into(),
            package: "v1".into(),
            atomic: false,
            preserve_unknown: false,
            fields: fields.into(),
        })
    };
    let nodes = vec![
        structure(
            "Top",
            vec![
                field("at", 7),
                field("data", 3),
                field("item", 1),
                field("list", 4),
                field("share", 6),
            ],
        ),
        structure("Item", vec![field("count", 5), field("name", 2), field("port", 8)]),
        Node::String,
        Node::Bytes,
        Node::List(List {
            item: 1,
            kind: ListKind::Atomic,
            keys: Cow::Borrowed(&[]),
            defaults: None,
        }),
        Node::Int32,
        Node::Float64,
        Node::Time,
        Node::IntOrString,
        Node::Map(Map { value: 2, atomic: false }),
    ];
    Schema { nodes: nodes.into(), go_names: (&[]).into() }
}

fn read_typed(text: &str, unknown: Unknown) -> String {
    let schema = schema();
    match decode(&bytes(text), Some(Typed { schema: &schema, node: TOP }), unknown) {
        Ok(value) => json::to_string(&value),
        Err(error) => error.to_string(),
    }
}

#[test]
fn types_say_what_bytes_are_and_which_numbers_are_floats() {
    let schema = schema();
    let typed = Some(Typed { schema: &schema, node: TOP });
    let value = value!({"data": "AQIDBA==", "share": 1, "at": "2006-01-02T15:04:05Z",
        "list": [{"count": 1, "name": "a"}, {}]});
    let mut out = Vec::new();
    encode(&value, typed, &mut out);
    // {'at': '...', 'data': 22(h'01020304'), 'list': [{'name': 'a', 'count': 1}, {}], 'share': 1.0_1}
    let expected = concat!(
        "a4",
        "426174",
        "54323030362d30312d30325431353a30343a30355a",
        "4464617461",
        "d64401020304",
        "446c697374",
        "82a2446e616d65416145636f756e7401a0",
        "457368617265",
        "f93c00",
    );
    assert_eq!(hex(&out), expected);
    let again = decode(&out, typed, Unknown::Refuse).unwrap();
    assert_eq!(json::to_string(&again), json::to_string(&value));
}

#[test]
fn what_a_type_cannot_take_is_told_with_the_outermost_field() {
    let cannot = "cbor: cannot unmarshal";
    for (text, expected) in [
        // {"item": {"count": 1.5}}
        (
            "a1646974656da165636f756e74f93e00",
            format!("{cannot} primitives into Go struct field v1.Top.item of type int32"),
        ),
        // {"item": {"count": 3000000000}}
        (
            "a1646974656da165636f756e741ab2d05e00",
            format!(
                "{cannot} positive integer into Go struct field v1.Top.item of type int32 (3000000000 overflows int32)"
            ),
        ),
        // {"item": []}
        (
            "a1646974656d80",
            format!(
                "{cannot} array into Go struct field v1.Top.item of type v1.Item (cannot decode CBOR array to struct without toarray option)"
            ),
        ),
        // {"list": {}}
        (
            "a1646c697374a0",
            format!("{cannot} map into Go struct field v1.Top.list of type []v1.Item"),
        ),
        // {"at": 1}
        (
            "a162617401",
            format!("{cannot} positive integer into Go struct field v1.Top.at of type string"),
        ),
        // {"data": "AQ=="} as text
        (
            "a164646174616441513d3d",
            format!("{cannot} UTF-8 text string into Go struct field v1.Top.data of type []uint8"),
        ),
        // {"data": 'x'}
        (
            "a1646461746141ff",
            "cbor: failed to decode base64 from byte string: illegal base64 data at input byte 0"
                .into(),
        ),
        // {"item": {"port": 80, "name": null}}
        ("a1646974656da264706f72741850646e616d65f6", r#"{"item":{"name":null,"port":80}}"#.into()),
        ("01", format!("{cannot} positive integer into Go value of type v1.Top")),
        (
            "a1f501",
            format!(
                "{cannot} primitives into Go value of type string (map key is of type primitives and cannot be used to match struct field name)"
            ),
        ),
        (
            "a2646461746140646461746140",
            r#"cbor: found duplicate map key "data" at map element index 1"#.into(),
        ),
    ] {
        assert_eq!(read_typed(text, Unknown::Skip), expected, "{text}");
    }
}

#[test]
fn unknown_fields_are_skipped_or_the_first_of_the_outermost_map_is_told() {
    // {"x": {"a": 1, "a": 2}, "item": {"y": 1}, "z": 0}
    let text = "a36178a2616101616102646974656da1617901617a00";
    assert_eq!(read_typed(text, Unknown::Skip), r#"{"item":{}}"#);
    assert_eq!(
        read_typed(text, Unknown::Refuse),
        "cbor: found unknown field at map element index 0"
    );
    // {"item": {"name": 'a', "y": 1}, "data": ''}
    let inner = "a2646974656da2646e616d654161617901646461746140";
    assert_eq!(
        read_typed(inner, Unknown::Refuse),
        "cbor: found unknown field at map element index 1"
    );
    assert_eq!(read_typed(inner, Unknown::Skip), r#"{"data":"","item":{"name":"a"}}"#);
}

#[test]
fn a_body_says_its_kind() {
    let kind = |text: &str| match kind_of(&bytes(text)) {
        Ok((version, kind)) => format!("{version} {kind}"),
        Err(error) => error.to_string(),
    };
    let pod = to_vec(&value!({"apiVersion": "v1", "kind": "Pod", "spec": {}}), None);
    assert_eq!(hex(&pod[..4]), "d9d9f7a3");
    assert_eq!(kind(&hex(&pod)), "v1 Pod");
    assert_eq!(kind("f6"), " ");
    assert_eq!(
        kind("80"),
        "cbor: cannot unmarshal array into Go value of type v1.TypeMeta (cannot decode CBOR array to struct without toarray option)"
    );
    assert_eq!(
        kind("a1446b696e6401"),
        "cbor: cannot unmarshal positive integer into Go struct field v1.TypeMeta.kind of type string"
    );
    assert_eq!(
        kind("a2416101416101"),
        r#"cbor: found duplicate map key "a" at map element index 1"#
    );
    assert_eq!(
        kind("6161"),
        "cbor: cannot unmarshal UTF-8 text string into Go value of type v1.TypeMeta"
    );
}

#[test]
fn no_bytes_make_the_decoder_panic() {
    let schema = schema();
    let typed = Typed { schema: &schema, node: TOP };
    let seeds = [
        "a36178a2616101616102646974656da1617901617a00",
        "bf6346756ef563416d7421ff",
        "d7824142d681d54143",
        "c1fb41d452d9ec200000",
    ];
    for seed in seeds.map(bytes) {
        for at in 0..seed.len() {
            for byte in 0..=u8::MAX {
                let mut broken = seed.clone();
                broken[at] = byte;
                let _ = kind_of(&broken);
                let _ = decode(&broken, Some(typed), Unknown::Skip);
                let Ok(value) = decode(&broken, None, Unknown::Refuse) else { continue };
                let mut out = Vec::new();
                encode(&value, None, &mut out);
                let again = decode(&out, None, Unknown::Refuse).unwrap();
                assert_eq!(json::to_string(&again), json::to_string(&value), "{}", hex(&broken));
            }
        }
    }
}

#[test]
fn halves_are_the_numbers_they_were() {
    for bits in 0..=u16::MAX {
        let number = half_to_f32(bits);
        if number.is_finite() {
            assert_eq!(f32_to_half(number), Some(bits), "{number}");
        }
    }
    for number in [1.1, 65520.0, 1e-8, 100_000.0, f32::MIN_POSITIVE] {
        assert_eq!(f32_to_half(number), None, "{number}");
    }
}
