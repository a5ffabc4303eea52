//! What is refused alike for every kind: the words are upstream's generic ones, the names the kind's own.

use api::ResourceFacts;

use super::Row;

const BAD_REQUEST: &str = "BadRequest";
const FORMATS: &str = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf";
const NO_KIND: &str = "couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" } (5b5d)";
const OTHER_NAMESPACE: &str =
    "the namespace of the provided object does not match the namespace sent on the request";
const NO_ROUTE: &str = "the server could not find the requested resource";
const NO_SELECTOR: &str =
    "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt";
const NO_PAGE: &str = "invalid continue token: continue key is not valid: invalid character 'i' looking for beginning of value";

/// Whether a resource is one that requests can be wrong about in several ways.
pub(super) fn is_served(facts: &ResourceFacts) -> bool {
    facts.verbs.contains(&"create")
}

/// Where its objects are, or those of one namespace.
pub(super) fn path(facts: &ResourceFacts) -> String {
    let root = if facts.group.is_empty() { "/api" } else { "/apis" };
    let place = if facts.namespaced { "/namespaces/rec" } else { "" };
    format!("{root}/{}{place}/{}", facts.api_version(), facts.resource)
}

/// Makes the rows of a kind.
type Make = fn(&ResourceFacts) -> Vec<Row>;

/// All rows of all kinds.
pub(super) fn rows() -> Vec<Row> {
    let all = api::resources().iter().filter(|it| is_served(it));
    all.flat_map(|facts| {
        let mut rows = Vec::new();
        let made: [(&str, Make); 5] = [
            ("create", creates),
            ("get", gets),
            ("list", lists),
            ("patch", patches),
            ("delete", deletes),
        ];
        for (verb, make) in made {
            if facts.verbs.contains(&verb) {
                rows.extend(make(facts));
            }
        }
        rows
    })
    .collect()
}

fn creates(facts: &ResourceFacts) -> Vec<Row> {
    let (path, kind) = (path(facts), facts.kind);
    let post = |query: &str, body: &str| Row::new(&format!("POST {path}{query}"), body);
    let bad = |row: Row, why: &str| row.refused(400, BAD_REQUEST, why);
    let cannot = |why: &str| {
        let version = facts.version;
        format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}")
    };
    let mut rows = vec![
        bad(
            post("", r#"{"metadata":"x"}"#),
            &cannot(&format!(
                "json: cannot unmarshal string into Go struct field {kind}.metadata of type v1.ObjectMeta"
            )),
        ),
        bad(
            post("?fieldValidation=Strict", r#"{"bogus":1}"#),
            &cannot("strict decoding error: unknown field \"bogus\""),
        ),
        bad(
            post("?fieldValidation=Strict", r#"{"metadata":{"name":"x","name":"y","labelz":{}}}"#),
            &cannot(
                "strict decoding error: duplicate field \"metadata.name\", unknown field \"metadata.labelz\"",
            ),
        ),
        bad(
            post("", "[]"),
            &format!("the object provided is unrecognized (must be of type {kind}): {NO_KIND}"),
        ),
        post("", "{}").media("text/plain").refused(415, "UnsupportedMediaType", FORMATS),
        post("?dryRun=Some", "{}")
            .refused(422, "Invalid", "CreateOptions.meta.k8s.io \"\" is invalid:")
            .cause(
                "FieldValueNotSupported",
                "dryRun",
                "Unsupported value: [\"Some\"]: supported values: \"All\"",
            ),
    ];
    if facts.namespaced {
        let body = r#"{"metadata":{"name":"x","namespace":"other"}}"#;
        rows.push(bad(post("", body), OTHER_NAMESPACE));
    }
    rows.extend(other_kind(facts).map(|why| {
        bad(
            post("", r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease"}"#),
            &format!("Lease in version \"v1\" cannot be handled as a {kind}: {why}"),
        )
    }));
    rows
}

/// Why a Lease is none of the kind; definitions and API services have schemes of their own, which do not know it.
fn other_kind(facts: &ResourceFacts) -> Option<String> {
    let package = match facts.group {
        _ if facts.kind == "Lease" => return None,
        "apiextensions.k8s.io" | "apiregistration.k8s.io" => return None,
        "" | "events.k8s.io" => "core",
        "internal.apiserver.k8s.io" => "apiserverinternal",
        "rbac.authorization.k8s.io" => "rbac",
        group => group.split('.').next()?,
    };
    Some(format!("converting (v1.Lease) to ({package}.{}): unknown conversion", facts.kind))
}

fn not_found(facts: &ResourceFacts, row: Row) -> Row {
    let of = match facts.group {
        "" => facts.resource.to_owned(),
        group => format!("{}.{group}", facts.resource),
    };
    row.refused(404, "NotFound", &format!("{of} \"none\" not found"))
}

fn gets(facts: &ResourceFacts) -> Vec<Row> {
    let path = path(facts);
    let mut rows = vec![
        not_found(facts, Row::new(&format!("GET {path}/none"), "")),
        Row::new(&format!("GET {path}/none/bogus"), "").refused(404, "NotFound", NO_ROUTE),
    ];
    if facts.subresources.iter().any(|it| it.name == "status" && it.verbs.contains(&"get")) {
        rows.push(not_found(facts, Row::new(&format!("GET {path}/none/status"), "")));
    }
    if facts.verbs.contains(&"update") {
        let body = r#"{"metadata":{"name":"other"}}"#;
        let why = "the name of the object (other) does not match the name on the URL (none)";
        rows.push(Row::new(&format!("PUT {path}/none"), body).refused(400, BAD_REQUEST, why));
    }
    rows
}

/// What upstream's conversions of field labels say of one that they do not know.
fn unknown_label(facts: &ResourceFacts) -> String {
    let label = "bogus.field";
    match (facts.group, facts.kind) {
        ("batch", "Job") => format!("field label \"{label}\" not supported for batchv1.Job"),
        ("resource.k8s.io", "ResourceSlice") => {
            let version = facts.version;
            format!(
                "field label not supported for resource.k8s.io/{version}, Kind=ResourceSlice: {label}"
            )
        }
        (
            "",
            "Pod" | "Node" | "ReplicationController" | "Event" | "Namespace" | "Secret" | "Service",
        )
        | ("events.k8s.io", "Event")
        | ("certificates.k8s.io", _) => format!("field label not supported: {label}"),
        _ => format!(
            "\"{label}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ),
    }
}

fn lists(facts: &ResourceFacts) -> Vec<Row> {
    let path = path(facts);
    let list = |query: &str| Row::new(&format!("GET {path}?{query}"), "");
    let mut rows = vec![
        list("labelSelector=a+b+c").refused(400, BAD_REQUEST, NO_SELECTOR),
        list("continue=abc").refused(400, BAD_REQUEST, NO_PAGE),
        list("resourceVersionMatch=Exact")
            .refused(422, "Invalid", "ListOptions.meta.k8s.io \"\" is invalid:")
            .cause(
                "FieldValueForbidden",
                "resourceVersionMatch",
                "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
        list("limit=x").refused(
            400,
            BAD_REQUEST,
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
    ];
    // Upstream's documentation and its conversions say different things of replica sets.
    if facts.kind != "ReplicaSet" {
        let row = list("fieldSelector=bogus.field%3D1");
        rows.push(row.refused(400, BAD_REQUEST, &unknown_label(facts)));
    }
    if facts.verbs.contains(&"watch") {
        rows.push(
            list("watch=true&sendInitialEvents=true")
                .refused(422, "Invalid", "ListOptions.meta.k8s.io \"\" is invalid:")
                .cause(
                    "FieldValueForbidden",
                    "resourceVersionMatch",
                    "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ),
        );
    }
    // Whoever converts labels by a list of its own leaves out the namespace of what has none.
    if !facts.namespaced && !unknown_label(facts).contains("known field selector") {
        let why = unknown_label(facts).replace("bogus.field", "metadata.namespace");
        rows.push(list("fieldSelector=metadata.namespace%3Dx").refused(400, BAD_REQUEST, &why));
    }
    rows
}

fn patches(facts: &ResourceFacts) -> Vec<Row> {
    let path = path(facts);
    let patch = |media: &str, query: &str, body: &str| {
        Row::new(&format!("PATCH {path}/none{query}"), body).media(&format!("application/{media}"))
    };
    vec![
        not_found(facts, patch("json-patch+json", "", "[]")),
        not_found(facts, patch("merge-patch+json", "", "{}")),
        not_found(facts, patch("strategic-merge-patch+json", "", "{}")),
        patch("apply-patch+yaml", "", "{}")
            .refused(422, "Invalid", "PatchOptions.meta.k8s.io \"\" is invalid:")
            .cause(
                "FieldValueRequired",
                "fieldManager",
                "Required value: is required for apply patch",
            ),
        patch("merge-patch+json", "?force=true", "{}")
            .refused(422, "Invalid", "PatchOptions.meta.k8s.io \"\" is invalid:")
            .cause(
                "FieldValueForbidden",
                "force",
                "Forbidden: may not be specified for non-apply patch",
            ),
        patch("json", "", "{}").refused(415, "UnsupportedMediaType", "415: Unsupported Media Type"),
    ]
}

fn deletes(facts: &ResourceFacts) -> Vec<Row> {
    let path = path(facts);
    let delete = |query: &str, body: &str| Row::new(&format!("DELETE {path}/none{query}"), body);
    let mut rows = vec![
        not_found(facts, delete("", "")),
        delete("?propagationPolicy=Bogus", "")
            .refused(422, "Invalid", "DeleteOptions.meta.k8s.io \"\" is invalid:")
            .cause(
                "FieldValueNotSupported",
                "propagationPolicy",
                "Unsupported value: \"Bogus\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
            ),
        delete("", r#"{"gracePeriodSeconds":"x"}"#).refused(
            400,
            BAD_REQUEST,
            "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
        ),
    ];
    if facts.verbs.contains(&"deletecollection") {
        let all = format!("DELETE {path}?labelSelector=a+b+c");
        rows.push(Row::new(&all, "").refused(400, BAD_REQUEST, NO_SELECTOR));
    }
    rows
}
