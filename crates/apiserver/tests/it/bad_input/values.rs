//! Broken bodies: syntax, depth, values, patches.

#![allow(clippy::too_many_lines, reason = "tables of cases")]

use std::io::Write;

use super::{Case, case};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const APPS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JSON: &str = "Content-Type: application/json";
const YAML: &str = "Content-Type: application/yaml";

fn post(path: &str, media: &str, body: impl AsRef<[u8]>, code: u16, says: &str) -> Case {
    let start: String = String::from_utf8_lossy(body.as_ref()).chars().take(60).collect();
    let made = case(&format!("POST {path}?dryRun=All"), &[media], body, code, says);
    Case { what: format!("{} {start}", made.what), ..made }
}

fn no_map(why: &str) -> String {
    format!("the object provided is unrecognized (must be of type ConfigMap): {why}")
}

fn no_json(why: &str) -> String {
    no_map(&format!("couldn't get version/kind; json parse error: {why}"))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn syntax() -> Vec<Case> {
    let json = |body: &[u8], says: &str| post(MAPS, JSON, body, 400, &no_json(says));
    let yaml = |body: &[u8], says: &str| post(MAPS, YAML, body, 400, &no_map(says));
    let other = |media: &str| {
        post(
            MAPS,
            media,
            "{}",
            415,
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )
    };
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..20 {
        let items = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    let anchors: String = (0..150).map(|number| format!("&a{number} [")).collect();
    let anchors = format!("{anchors}{}{}", "x".repeat(1 << 20), "]".repeat(150));
    let protobuf = "Content-Type: application/vnd.kubernetes.protobuf";
    let gzipped = no_json(r"invalid character '\x1f' looking for beginning of value...");
    let encoded = |body: &[u8], code, says: &str| {
        let headers = [JSON, "Content-Encoding: gzip"];
        case(&format!("POST {MAPS}?dryRun=All"), &headers, body, code, says)
    };
    vec![
        json(b"", "unexpected end of JSON input (<empty>)"),
        json(
            br#"{"metadata":{"name":"raw"},}"#,
            r#"invalid character '}' looking for beginning of object key string ({"metadata":{"name":"raw"},})"#,
        ),
        json(b"[]", "json: cannot unmarshal array into Go value of type struct..."),
        json(b"\"x\"", "json: cannot unmarshal string into Go value of type struct..."),
        json(
            b"\x1f\x8b\x08\x00abc",
            r"invalid character '\x1f' looking for beginning of value (1f8b0800616263)",
        ),
        // Upstream does not decompress what it is sent, and so no body is larger than it looks.
        encoded(&gzip(br#"{"metadata":{"name":"x"}}"#), 400, &gzipped),
        encoded(&gzip(&vec![b' '; 64 << 20]), 400, &gzipped),
        encoded(br#"{"metadata":{"name":"x"}}"#, 201, "ConfigMap"),
        json(b"{\"a\":\"x\ny\"}", r"invalid character '\n' in string literal..."),
        json(b"{\"a\":1}\x00", r"invalid character '\x00' after top-level value..."),
        json(
            br#"{"metadata":{"generation":1e999}}"#,
            "json: cannot unmarshal number 1e999 into Go value of type float64...",
        ),
        post(
            MAPS,
            JSON,
            b"{\"metadata\":{\"name\":\"\xff\"}}",
            422,
            "ConfigMap \"\u{fffd}\" is invalid: metadata.name: Invalid value: \"\u{fffd}\": a lowercase RFC 1123 subdomain must consist...",
        ),
        post(
            MAPS,
            JSON,
            "null",
            422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        post(
            &format!("{MAPS}?fieldValidation=Strict&x"),
            JSON,
            r#"{"metadata":{"name":"x","name":"y"}}"#,
            400,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"metadata.name\"",
        ),
        yaml(b"metadata: {name: \xff}", "yaml: invalid leading UTF-8 octet..."),
        yaml(b"\tx", "yaml: found character that cannot start any token (0978)"),
        yaml(b"metadata: &a {name: *a}\n", "yaml: line 1: anchor value contains itself..."),
        yaml(bomb.as_bytes(), "yaml: document contains excessive aliasing..."),
        yaml(anchors.as_bytes(), "yaml: document contains excessive aliasing..."),
        // Of several documents the first counts.
        post(MAPS, YAML, "metadata: {name: a}\n---\n[", 201, "ConfigMap"),
        post(
            MAPS,
            protobuf,
            "\0\u{1}",
            400,
            &no_map(
                "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] (0001)",
            ),
        ),
        post(MAPS, protobuf, "k8s\0junk", 400, &no_map("unexpected EOF (6b3873006a756e6b)")),
        other("Content-Type: text/plain"),
        other("Content-Type: application/x-www-form-urlencoded"),
        other("Content-Type: application/json-patch+json"),
    ]
}

pub(super) fn depth() -> Vec<Case> {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let unknown =
        |levels: usize| format!(r#"{{"metadata":{{"name":"x"}},"x":{}}}"#, nested(levels));
    let revision = |levels: usize| {
        format!(r#"{{"metadata":{{"name":"x"}},"revision":1,"data":{}}}"#, nested(levels))
    };
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let json = |body: String, says: &str| post(MAPS, JSON, body, 400, &no_json(says));
    vec![
        json("[".repeat(1 << 20), "exceeded max depth..."),
        json(unknown(10_000), "exceeded max depth..."),
        json(r#"{"a":"#.repeat(1 << 18), "exceeded max depth..."),
        // As deep as upstream takes it, in a field that is dropped.
        post(MAPS, JSON, unknown(9_999), 201, "ConfigMap"),
        post(revisions, JSON, revision(390), 201, "ControllerRevision"),
        post(
            revisions,
            JSON,
            revision(5_000),
            400,
            "ControllerRevision in version \"v1\" cannot be handled as a ControllerRevision: values nest deeper than 400",
        ),
        post(
            MAPS,
            YAML,
            "[".repeat(1 << 20),
            400,
            &no_map("yaml: line 1: exceeded max depth of 200..."),
        ),
        post(
            MAPS,
            YAML,
            "- ".repeat(1 << 20),
            400,
            &no_map("yaml: line 1: exceeded max depth of 200..."),
        ),
    ]
}

pub(super) fn values() -> Vec<Case> {
    let map = |body: &str, code, says: &str| post(MAPS, JSON, body, code, says);
    let cannot =
        |why: &str| format!("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: {why}");
    let deployment = |member: &str, code, says: &str| {
        let body = format!(r#"{{"metadata":{{"name":"x"}},"spec":{{{member}}}}}"#);
        post(APPS, JSON, body, code, says)
    };
    let quota = |cpu: &str, code, says: &str| {
        let body = format!(r#"{{"metadata":{{"name":"q"}},"spec":{{"hard":{{"cpu":"{cpu}"}}}}}}"#);
        post("/api/v1/namespaces/default/resourcequotas", JSON, body, code, says)
    };
    let no_deployment = "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal number";
    let no_quota = "ResourceQuota in version \"v1\" cannot be handled as a ResourceQuota";
    let format = format!(
        "{no_quota}: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    );
    vec![
        map(
            r#"{"apiVersion":"v2","kind":"ConfigMap"}"#,
            400,
            "ConfigMap in version \"v2\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"v2\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
        map(
            r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#,
            400,
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion",
        ),
        map(
            r#"{"metadata":"x"}"#,
            400,
            &cannot(
                "json: cannot unmarshal string into Go struct field ConfigMap.metadata of type v1.ObjectMeta",
            ),
        ),
        map(
            r#"{"metadata":{"name":"x"},"data":{"a":1}}"#,
            400,
            &cannot(
                "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
            ),
        ),
        map(
            r#"{"metadata":{"name":"x"},"binaryData":{"a":"!!"}}"#,
            400,
            &cannot("illegal base64 data at input byte 0"),
        ),
        map(
            r#"{"metadata":{"name":"x","namespace":"other"}}"#,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        map(
            r#"{"metadata":{"name":"../../x"}}"#,
            422,
            "ConfigMap \"../../x\" is invalid: metadata.name: Invalid value: \"../../x\":...",
        ),
        map(
            r#"{"metadata":{"name":"x"},"data":{"../x":"1"}}"#,
            422,
            "ConfigMap \"x\" is invalid: [data[../x]: Invalid value: \"../x\":...",
        ),
        // A null kind is the kind of the URL.
        map(r#"{"apiVersion":"v1","kind":null,"metadata":{"name":"x"}}"#, 201, "ConfigMap"),
        deployment(
            r#""replicas":1.5"#,
            400,
            &format!(
                "{no_deployment} 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"
            ),
        ),
        deployment(
            r#""replicas":4294967296"#,
            400,
            &format!(
                "{no_deployment} 4294967296 into Go struct field DeploymentSpec.spec.replicas of type int32"
            ),
        ),
        deployment(
            r#""replicas":-1"#,
            422,
            "Deployment.apps \"x\" is invalid: [spec.replicas: Invalid value: -1: must be greater than or equal to 0,...",
        ),
        quota("1x", 400, &format),
        quota("", 400, &format),
        quota("--1", 400, &format!("{no_quota}: unable to parse quantity's suffix")),
        quota(
            "-1",
            422,
            "ResourceQuota \"q\" is invalid: spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        quota("1e99999999", 201, "ResourceQuota"),
        case(
            &format!("POST {MAPS}?dryRun=Maybe"),
            &[JSON],
            "{}",
            422,
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Maybe\"]: supported values: \"All\"",
        ),
        case(
            &format!("POST {MAPS}?fieldValidation=Bogus"),
            &[JSON],
            "{}",
            422,
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Bogus\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        ),
        case(
            &format!("DELETE {MAPS}/x"),
            &[JSON],
            r#"{"gracePeriodSeconds":"x"}"#,
            400,
            "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
        ),
        case(
            &format!("DELETE {MAPS}/x?propagationPolicy=Bogus"),
            &[],
            "",
            422,
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Bogus\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
    ]
}

pub(super) fn patches() -> Vec<Case> {
    let patch = |media: &str, query: &str, body: &str, code, says: &str| {
        let header = format!("Content-Type: application/{media}");
        let made = case(&format!("PATCH {APPS}/web?{query}"), &[&header], body, code, says);
        let start: String = body.chars().take(80).collect();
        Case { what: format!("{} {media} {start}", made.what), ..made }
    };
    let json = |body: &str, code, says: &str| patch("json-patch+json", "", body, code, says);
    let merge =
        |body: &str, code, says: &str| patch("merge-patch+json", "dryRun=All", body, code, says);
    let strategic =
        |body: &str, code, says: &str| patch("strategic-merge-patch+json", "", body, code, says);
    let apply = |query: &str, body: &str, code, says: &str| {
        patch("apply-patch+yaml", query, body, code, says)
    };
    let cannot = "the server rejected our request due to an error in our request";
    let many = format!("[{}]", vec![r#"{"op":"test","path":"/a"}"#; 10_001].join(","));
    // Each copy doubles the size.
    let copy = |number| {
        format!(
            r#"{{"op":"copy","from":"/metadata/annotations","path":"/metadata/annotations/b{number}"}}"#
        )
    };
    let copies: Vec<String> = (0..30).map(copy).collect();
    let copies = format!("[{}]", copies.join(","));
    // Each pair doubles the depth.
    let mut path = String::from("/metadata");
    let mut steps = Vec::new();
    for power in 0..14 {
        steps.push(format!(r#"{{"op":"copy","from":"/metadata","path":"/b"}},{{"op":"move","from":"/b","path":"{path}/m"}}"#));
        path.push_str(&"/m".repeat(1 << power));
    }
    let deep = format!("[{}]", steps.join(","));
    let long = format!(r#"[{{"op":"add","path":"{}","value":1}}]"#, "/a".repeat(100_000));
    let nested = format!("{{\"x\":{}1{}", r#"{"a":"#.repeat(5000), "}".repeat(5001));
    let too_nested = format!("{{\"x\":{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_001));
    vec![
        json("{", 400, "error decoding patch: unexpected end of JSON input"),
        json(
            "{}",
            400,
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ),
        json(
            &many,
            413,
            "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
        ),
        json(&copies, 422, cannot),
        json(&deep, 422, cannot),
        json(&long, 422, cannot),
        json(
            r#"[{"op":"add","path":"/spec/template/spec/containers/99999999999999999999","value":1}]"#,
            422,
            cannot,
        ),
        json(
            r#"[{"op":"remove","path":"/spec/template/spec/containers/-9223372036854775808"}]"#,
            422,
            cannot,
        ),
        json(r#"[{"op":"move","from":"/spec","path":"/spec/template"}]"#, 422, cannot),
        merge(
            "[]",
            400,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        merge("null", 400, "Invalid JSON Patch"),
        merge(&nested, 200, "Deployment"),
        merge(&too_nested, 400, "error decoding patch: exceeded max depth"),
        merge(
            r#"{"metadata":{"name":"other"}}"#,
            400,
            "the name of the object (other) does not match the name on the URL (web)",
        ),
        strategic(
            r#"{"spec":{"template":{"spec":{"containers":[{"$patch":"explode"}]}}}}"#,
            500,
            "unknown patch type: explode in map: map[$patch:explode]",
        ),
        strategic(
            r#"{"spec":{"template":{"spec":{"containers":[{"image":"x"}]}}}}"#,
            500,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        strategic(
            r#"{"spec":{"strategy":{"$retainKeys":5}}}"#,
            400,
            "invalid patch format of retainKeys",
        ),
        patch("x-patch", "", "{}", 415, "415: Unsupported Media Type"),
        apply(
            "",
            "{}",
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        apply(
            &format!("fieldManager={}", "x".repeat(200)),
            "{}",
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes",
        ),
        apply(
            "fieldManager=a%00",
            "{}",
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\x00\": invalid character U+0000 (at position 1)",
        ),
        apply(
            "fieldManager=a",
            "a: &a [*a]",
            400,
            "error decoding YAML: error converting YAML to JSON: yaml: line 1: anchor value contains itself",
        ),
        apply(
            "fieldManager=a",
            "apiVersion: v1\nkind: Pod",
            400,
            "Incorrect version specified in apply patch. Specified patch version: v1, expected: apps/v1",
        ),
    ]
}
