//! Bodies of another kind or version than the URL wants, and the kinds that are only ever posted.

#![allow(clippy::too_many_lines, reason = "tables of cases")]

use super::{Case, case};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const POD: &str = "/api/v1/namespaces/default/pods/p";
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";
const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const JSON: &str = "Content-Type: application/json";
const YAML: &str = "Content-Type: application/yaml";
const FORMATS: &str = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf";
const OTHER_NAMESPACE: &str =
    "the namespace of the provided object does not match the namespace sent on the request";

fn sent(line: &str, body: &str, code: u16, says: &str) -> Case {
    let made = case(line, &[JSON], body, code, says);
    Case { what: format!("{line} {body}"), ..made }
}

fn not_an_object(found: &str) -> String {
    format!(
        "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
    )
}

/// Nothing of these is there: options are read before objects are looked for.
pub(super) fn deletes() -> Vec<Case> {
    let both = |body: &str, code, says: &str| {
        let collection = format!("DELETE {MAPS}?labelSelector=no%3Done");
        [
            sent(&format!("DELETE {MAPS}/none"), body, code, says),
            sent(&collection, body, code, says),
        ]
    };
    let unregistered = |kind: &str, version: &str| {
        format!(
            "no kind \"{kind}\" is registered for version \"{version}\" in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\""
        )
    };
    let field = |name: &str, found: &str, wanted: &str| {
        format!(
            "json: cannot unmarshal {found} into Go struct field DeleteOptions.{name} of type {wanted}"
        )
    };
    let none = r#"configmaps "none" not found"#;
    let mut cases: Vec<Case> = [
        both("[]", 400, &not_an_object("array")),
        both("\"x\"", 400, &not_an_object("string")),
        both("7", 400, &not_an_object("number")),
        both(
            "{",
            400,
            "couldn't get version/kind; json parse error: unexpected end of JSON input",
        ),
        both(
            r#"{"apiVersion":true}"#,
            400,
            "couldn't get version/kind; json parse error: json: cannot unmarshal bool into Go struct field .apiVersion of type string",
        ),
        both(r#"{"kind":"fixed"}"#, 400, &unregistered("fixed", "meta.k8s.io/v1")),
        both(r#"{"kind":"Pod","apiVersion":"v1"}"#, 400, &unregistered("Pod", "v1")),
        both(
            r#"{"kind":"APIResourceList","apiVersion":"v1"}"#,
            400,
            "converting (v1.APIResourceList) to (v1.DeleteOptions): unknown conversion",
        ),
        both(r#"{"gracePeriodSeconds":"x"}"#, 400, &field("gracePeriodSeconds", "string", "int64")),
        both(r#"{"dryRun":"All"}"#, 400, &field("dryRun", "string", "[]string")),
        both(r#"{"orphanDependents":1}"#, 400, &field("orphanDependents", "number", "bool")),
        both(r#"{"preconditions":[]}"#, 400, &field("preconditions", "array", "v1.Preconditions")),
        both(
            r#"{"dryRun":["Some"]}"#,
            422,
            "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        both(
            r#"{"propagationPolicy":"Bogus"}"#,
            422,
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Bogus\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    // In any version, and whatever else is in them.
    for body in [
        r#"{"kind":"DeleteOptions","apiVersion":"policy/v1"}"#,
        r#"{"kind":"DeleteOptions","apiVersion":"no/such"}"#,
        r#"{"bogus":{"a":[1]},"metadata":7}"#,
        "null",
    ] {
        cases.push(sent(&format!("DELETE {MAPS}/none"), body, 404, none));
        cases.push(sent(
            &format!("DELETE {MAPS}?labelSelector=no%3Done"),
            body,
            200,
            "ConfigMapList",
        ));
    }
    let delete = format!("DELETE {MAPS}/none");
    cases.push(case(&delete, &["Content-Type: text/plain"], "{}", 415, FORMATS));
    cases.push(case(&delete, &["Content-Type: application/json-patch+json"], "{}", 415, FORMATS));
    cases.push(case(&delete, &[YAML], "dryRun: [All]", 404, none));
    cases.push(case(
        &delete,
        &[YAML],
        "a: b: c",
        400,
        "yaml: mapping values are not allowed in this context",
    ));
    cases.push(sent(
        &format!("DELETE {MAPS}?limit=x"),
        r#"{"kind":"fixed"}"#,
        400,
        "strconv.ParseInt: parsing \"x\": invalid syntax",
    ));
    cases
}

pub(super) fn objects() -> Vec<Case> {
    let post = |path: &str, body: &str, code, says: &str| {
        sent(&format!("POST {path}?dryRun=All"), body, code, says)
    };
    let other = |given: &str, wanted: &str| {
        format!(
            "the API version in the data ({given}) does not match the expected API version ({wanted})"
        )
    };
    let apps = "/apis/apps/v1/namespaces/default/deployments";
    let scalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    vec![
        post(
            scalers,
            r#"{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler"}"#,
            400,
            &other("autoscaling/v1", "autoscaling/v2"),
        ),
        post(
            "/apis/events.k8s.io/v1/namespaces/default/events",
            r#"{"apiVersion":"v1","kind":"Event"}"#,
            400,
            &other("v1", "events.k8s.io/v1"),
        ),
        post(
            apps,
            r#"{"apiVersion":"extensions/v1beta1","kind":"Deployment"}"#,
            400,
            &other("extensions/v1beta1", "apps/v1"),
        ),
        post(
            apps,
            r#"{"apiVersion":"apps/v1","kind":"ReplicaSet"}"#,
            400,
            "ReplicaSet in version \"v1\" cannot be handled as a Deployment: converting (v1.ReplicaSet) to (apps.Deployment): unknown conversion",
        ),
        post(
            apps,
            r#"{"kind":["Deployment"]}"#,
            400,
            "the object provided is unrecognized (must be of type Deployment): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go struct field .kind of type string ({\"kind\":[\"Deployment\"]})",
        ),
        case(
            &format!("POST {apps}"),
            &[YAML],
            "just text",
            400,
            &format!(
                "the object provided is unrecognized (must be of type Deployment): {} (6a7573742074657874)",
                not_an_object("string")
            ),
        ),
    ]
}

fn unrecognized(kind: &str) -> String {
    format!(
        "the object provided is unrecognized (must be of type {kind}): {} (5b5d)",
        not_an_object("array")
    )
}

fn strict(kind: &str) -> String {
    format!(
        "{kind} in version \"v1\" cannot be handled as a {kind}: strict decoding error: unknown field \"bogus\""
    )
}

pub(super) fn evictions() -> Vec<Case> {
    let line = format!("POST {POD}/eviction");
    let strictly = format!("{line}?fieldValidation=Strict");
    let post = |body: &str, code, says: &str| sent(&line, body, code, says);
    vec![
        post("[]", 400, &unrecognized("Eviction")),
        post(
            r#"{"apiVersion":"policy/v1","kind":"Nope"}"#,
            400,
            "Nope in version \"v1\" cannot be handled as a Eviction: no kind \"Nope\" is registered for version \"policy/v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
        post(
            r#"{"apiVersion":"v1","kind":"Pod"}"#,
            400,
            "Pod in version \"v1\" cannot be handled as a Eviction: converting (v1.Pod) to (policy.Eviction): unknown conversion",
        ),
        post(
            r#"{"apiVersion":"policy/v2","kind":"Eviction"}"#,
            400,
            "Eviction in version \"v2\" cannot be handled as a Eviction: no kind \"Eviction\" is registered for version \"policy/v2\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
        post(
            r#"{"deleteOptions":"x"}"#,
            400,
            "Eviction in version \"v1\" cannot be handled as a Eviction: json: cannot unmarshal string into Go struct field Eviction.deleteOptions of type v1.DeleteOptions",
        ),
        post("{}", 400, "name in URL does not match name in Eviction object"),
        post(
            r#"{"metadata":{"name":"q"}}"#,
            400,
            "name in URL does not match name in Eviction object",
        ),
        post(r#"{"metadata":{"name":"p","namespace":"other"}}"#, 400, OTHER_NAMESPACE),
        sent(&strictly, r#"{"metadata":{"name":"p"},"bogus":1}"#, 400, &strict("Eviction")),
        case(&line, &["Content-Type: text/plain"], "{}", 415, FORMATS),
        // The old version says the same.
        sent(
            &format!("{line}?dryRun=All"),
            r#"{"apiVersion":"policy/v1beta1","kind":"Eviction","metadata":{"name":"p"}}"#,
            201,
            "Status",
        ),
    ]
}

pub(super) fn bindings() -> Vec<Case> {
    let line = "POST /api/v1/namespaces/default/pods/q/binding".to_owned();
    let strictly = format!("{line}?fieldValidation=Strict");
    let post = |body: &str, code, says: &str| sent(&line, body, code, says);
    vec![
        post("[]", 400, &unrecognized("Binding")),
        post(
            r#"{"apiVersion":"v1","kind":"Pod"}"#,
            400,
            "Pod in version \"v1\" cannot be handled as a Binding: converting (v1.Pod) to (core.Binding): unknown conversion",
        ),
        post(
            r#"{"target":"n"}"#,
            400,
            "Binding in version \"v1\" cannot be handled as a Binding: json: cannot unmarshal string into Go struct field Binding.target of type v1.ObjectReference",
        ),
        post(
            r#"{"target":{"name":"n"}}"#,
            400,
            "name in URL does not match name in Binding object",
        ),
        post(r#"{"metadata":{"name":"q","namespace":"other"}}"#, 400, OTHER_NAMESPACE),
        post(r#"{"metadata":{"name":"q"}}"#, 500, "target.name: Required value"),
        sent(&strictly, r#"{"metadata":{"name":"q"},"bogus":1}"#, 400, &strict("Binding")),
        case(&line, &["Content-Type: bogus"], "{}", 415, FORMATS),
    ]
}

pub(super) fn tokens() -> Vec<Case> {
    let line = format!("POST {ACCOUNT}/token");
    let post = |body: &str, code, says: &str| sent(&line, body, code, says);
    vec![
        post("[]", 400, &unrecognized("TokenRequest")),
        post(
            r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview"}"#,
            400,
            "TokenReview in version \"v1\" cannot be handled as a TokenRequest: converting (v1.TokenReview) to (authentication.TokenRequest): unknown conversion",
        ),
        post(
            r#"{"spec":{"audiences":"x"}}"#,
            400,
            "TokenRequest in version \"v1\" cannot be handled as a TokenRequest: json: cannot unmarshal string into Go struct field TokenRequestSpec.spec.audiences of type []string",
        ),
        post(r#"{"metadata":{"namespace":"other"}}"#, 400, OTHER_NAMESPACE),
        sent(
            &format!("{line}?fieldValidation=Strict"),
            r#"{"bogus":1}"#,
            400,
            &strict("TokenRequest"),
        ),
    ]
}

pub(super) fn scales() -> Vec<Case> {
    let line = format!("PUT {WEB}/scale");
    let put = |body: &str, code, says: &str| sent(&line, body, code, says);
    vec![
        put("[]", 400, &unrecognized("Scale")),
        put(
            r#"{"apiVersion":"apps/v1beta2","kind":"Scale","metadata":{"name":"web"}}"#,
            400,
            "the API version in the data (apps/v1beta2) does not match the expected API version (autoscaling/v1)",
        ),
        put(
            r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"}}"#,
            400,
            "Deployment in version \"v1\" cannot be handled as a Scale: converting (v1.Deployment) to (autoscaling.Scale): unknown conversion",
        ),
        put(
            r#"{"metadata":{"name":"other"}}"#,
            400,
            "the name of the object (other) does not match the name on the URL (web)",
        ),
        put(r#"{"metadata":{"name":"web","namespace":"other"}}"#, 400, OTHER_NAMESPACE),
        put(
            r#"{"metadata":{"name":"web"},"spec":{"replicas":"many"}}"#,
            400,
            "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal string into Go struct field ScaleSpec.spec.replicas of type int32",
        ),
        put(
            r#"{"metadata":{"name":"web"},"spec":{"replicas":-1}}"#,
            422,
            "Scale.autoscaling \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        sent(
            &format!("{line}?fieldValidation=Strict"),
            r#"{"metadata":{"name":"web"},"bogus":1}"#,
            400,
            &strict("Scale"),
        ),
        case(&format!("PATCH {WEB}/scale"), &[JSON], "{}", 415, "415: Unsupported Media Type"),
        case(&format!("PATCH {WEB}/scale"), &[], "{}", 415, "415: Unsupported Media Type"),
    ]
}
