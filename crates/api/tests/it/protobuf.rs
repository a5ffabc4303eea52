//! Kinds with every field set: what upstream wrote in protobuf, JSON and YAML is the same object here.

use apimachinery::{Value, conform, json, protobuf, yaml};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/api-golden");
/// How many kinds there have to be, so that the test cannot pass by finding none.
const KINDS_MIN: usize = 90;

/// Kinds with fields that 1.36, which wrote the bytes, had and 1.37 has no more.
const CHANGED: [&str; 4] = [
    "core.v1.Pod",
    "resource.k8s.io.v1.ResourceSlice",
    "resource.k8s.io.v1beta1.ResourceSlice",
    "resource.k8s.io.v1beta2.ResourceSlice",
];

struct Golden {
    name: String,
    json: Value,
    bytes: Vec<u8>,
}

fn golden() -> Vec<Golden> {
    let Ok(folder) = std::fs::read_dir(GOLDEN) else {
        eprintln!("skipped: there is no {GOLDEN}");
        return Vec::new();
    };
    let mut names: Vec<String> = folder
        .filter_map(|entry| {
            entry.unwrap().file_name().into_string().unwrap().strip_suffix(".pb").map(Into::into)
        })
        .collect();
    names.sort();
    let read = |name: &str, end: &str| std::fs::read(format!("{GOLDEN}/{name}.{end}")).unwrap();
    names
        .into_iter()
        .map(|name| Golden {
            json: json::parse(&read(&name, "json")).unwrap(),
            bytes: read(&name, "pb"),
            name,
        })
        .collect()
}

/// What differs in the first line that does.
fn difference(a: &Value, b: &Value) -> String {
    let pretty = |value: &Value| {
        json::to_string(value)
            .replace(",\"", ",\n\"")
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (a, b) = (pretty(a), pretty(b));
    let first = a.iter().zip(&b).find(|(a, b)| a != b);
    first
        .map_or_else(|| format!("{} and {} lines", a.len(), b.len()), |(a, b)| format!("{a} | {b}"))
}

fn check(it: &Golden, node: u16) -> Result<(), String> {
    let (schema, tags) = (api::schema(), api::protobuf_tags());
    let envelope = protobuf::unwrap(&it.bytes).map_err(|error| error.to_string())?;
    let mut decoded =
        protobuf::decode(schema, tags, node, envelope.raw).map_err(|error| error.to_string())?;
    decoded.set_at(&["kind"], envelope.kind.as_str());
    decoded.set_at(&["apiVersion"], envelope.api_version.as_str());
    let mut wanted = it.json.clone();
    for value in [&mut decoded, &mut wanted] {
        conform::conform(schema, node, value).map_err(|error| error.to_string())?;
    }
    if decoded != wanted {
        return Err(format!("decoded: {}", difference(&decoded, &wanted)));
    }
    let mut encoded = Vec::new();
    protobuf::wrap(&envelope.api_version, &envelope.kind, &mut encoded, |out| {
        protobuf::encode(schema, tags, node, &it.json, out);
    });
    let again = protobuf::unwrap(&encoded).map_err(|error| error.to_string())?;
    let mut again =
        protobuf::decode(schema, tags, node, again.raw).map_err(|error| error.to_string())?;
    again.set_at(&["kind"], envelope.kind.as_str());
    again.set_at(&["apiVersion"], envelope.api_version.as_str());
    conform::conform(schema, node, &mut again).map_err(|error| error.to_string())?;
    if again != wanted {
        return Err(format!("encoded: {}", difference(&again, &wanted)));
    }
    if encoded != it.bytes && !CHANGED.contains(&it.name.as_str()) {
        let at = encoded.iter().zip(&it.bytes).position(|(a, b)| a != b);
        return Err(format!("bytes differ at {at:?} of {} and {}", encoded.len(), it.bytes.len()));
    }
    Ok(())
}

#[test]
fn protobuf_and_json_say_the_same() {
    let (mut seen, mut wrong) = (0, Vec::new());
    let all = golden();
    for it in &all {
        let api_version = it.json.str_at(&["apiVersion"]);
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = it.json.str_at(&["kind"]);
        let Some(node) = api::type_of_kind(group, version, kind) else { continue };
        seen += 1;
        if let Err(why) = check(it, node) {
            wrong.push(format!("{}: {why}", it.name));
        }
    }
    assert!(all.is_empty() || seen >= KINDS_MIN, "only {seen} kinds");
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn yaml_is_written_as_upstream_writes_it() {
    for it in golden() {
        let wanted = std::fs::read_to_string(format!("{GOLDEN}/{}.yaml", it.name)).unwrap();
        let written = yaml::to_string(&it.json);
        let different = written.lines().zip(wanted.lines()).find(|(a, b)| a != b);
        assert!(written == wanted, "{}: {different:?}", it.name);
    }
}

#[test]
fn broken_messages_are_errors_and_never_panics() {
    let node = api::type_of_kind("", "v1", "Pod").unwrap();
    for it in golden().iter().filter(|it| it.name == "core.v1.Pod") {
        let raw = protobuf::unwrap(&it.bytes).unwrap().raw.to_vec();
        for at in (0..raw.len()).step_by(11) {
            let mut broken = raw.clone();
            broken[at] ^= 0x5a;
            // Whatever it says: it comes back.
            let _ = protobuf::decode(api::schema(), api::protobuf_tags(), node, &broken);
            let _ = protobuf::decode(api::schema(), api::protobuf_tags(), node, &raw[..at]);
        }
    }
    let deep: Vec<u8> = (0..300).fold(Vec::new(), |inner, _| {
        let mut out = Vec::with_capacity(inner.len() + 8);
        protobuf::write_bytes(28, &inner, &mut out);
        out
    });
    let props = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let node = api::type_of_definition(props).unwrap();
    let error = protobuf::decode(api::schema(), api::protobuf_tags(), node, &deep).unwrap_err();
    assert_eq!(error, protobuf::ProtobufError::Depth);
}
