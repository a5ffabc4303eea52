//! CBOR on the wire, where the server has it: objects, lists, tables, metadata, statuses, watches, what is applied.

use std::sync::Arc;

use apimachinery::cbor::{self, CborError, MAGIC, Unknown};
use apimachinery::{Value, value};
use apiserver::{Body, Peer, RequestBody};
use auth::UserInfo;
use futures::StreamExt;

use crate::cluster::{Cluster, admin};
use crate::custom::{definition, until};

const CBOR: &str = "application/cbor";
const SEQUENCE: &str = "application/cbor-seq";
const APPLY: &str = "application/apply-patch+cbor";
const SECRETS: &str = "/api/v1/namespaces/ns/secrets";

async fn cluster() -> Cluster {
    let cluster = Cluster::with_cbor().await;
    cluster.done("POST /api/v1/namespaces", Some(&value!({"metadata": {"name": "ns"}}))).await;
    cluster
}

/// An answer: its code and media type, and what is in it.
struct Answer {
    code: u16,
    media: String,
    warnings: Vec<String>,
    body: Body,
}

impl Answer {
    fn value(self) -> Value {
        let Body::Full(bytes) = self.body else { panic!("a stream where one piece was expected") };
        read(&bytes.unwrap_or_default()).unwrap()
    }

    /// `422 Invalid ...`
    fn refusal(self) -> String {
        let (code, media) = (self.code, self.media.clone());
        assert_eq!(media, CBOR);
        let status = self.value();
        format!("{code} {} {}", status.str_at(&["reason"]), status.str_at(&["message"]))
    }
}

/// A whole body, which says that it is CBOR.
fn read(bytes: &[u8]) -> Result<Value, CborError> {
    assert!(bytes.starts_with(MAGIC), "{bytes:?}");
    cbor::decode(bytes, None, Unknown::Refuse)
}

async fn send(cluster: &Cluster, request: &str, media: &str, body: Vec<u8>) -> Answer {
    let (method, path) = request.split_once(' ').unwrap();
    let (accept, path) = path.split_once(" accept ").map_or((CBOR, path), |(path, it)| (it, path));
    let mut builder = http::Request::builder().method(method).uri(path).header("accept", accept);
    if !media.is_empty() {
        builder = builder.header("content-type", media);
    }
    let user = Some(Arc::new(UserInfo::new("admin", &["system:masters"])));
    let request = builder.body(RequestBody::Bytes(body.into())).unwrap();
    let response = cluster.server.serve(request, Peer { user, ..Peer::default() }).await;
    let header = |name: &str| {
        let all = response.headers().get_all(name).iter();
        all.map(|it| it.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (media, warnings) = (header("content-type").pop().unwrap_or_default(), header("warning"));
    Answer { code: response.status().as_u16(), media, warnings, body: response.into_body() }
}

fn body(value: &Value) -> Vec<u8> {
    cbor::to_vec(value, None)
}

#[tokio::test]
async fn objects_go_in_and_out_in_cbor() {
    let cluster = cluster().await;
    // Text of bytes is base64, bytes in tag 22 are bytes.
    let node = api::type_of_kind("", "v1", "Secret").unwrap();
    let secret = value!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "AQID"}});
    let typed = cbor::to_vec(&secret, Some(cbor::Typed { schema: api::schema(), node }));
    for (name, bytes) in
        [("s", typed), ("t", body(&value!({"metadata": {"name": "t"}, "data": {"a": "AQID"}})))]
    {
        let made = send(&cluster, &format!("POST {SECRETS}"), CBOR, bytes).await;
        assert_eq!((made.code, made.media.as_str()), (201, CBOR), "{name}");
        assert_eq!(made.value().str_at(&["data", "a"]), "AQID");
        let stored = cluster.done(&format!("GET {SECRETS}/{name}"), None).await;
        assert_eq!(stored.str_at(&["data", "a"]), "AQID", "{name}");
    }
    let Body::Full(bytes) = send(&cluster, &format!("GET {SECRETS}/s"), "", vec![]).await.body
    else {
        panic!("not one piece")
    };
    let bytes = bytes.unwrap();
    assert!(bytes.windows(7).any(|it| it == b"\x41a\xd6\x43\x01\x02\x03"), "bytes, tagged");
    let list = send(&cluster, &format!("GET {SECRETS}"), "", vec![]).await.value();
    assert_eq!((list.str_at(&["kind"]), list.items_at(&["items"]).len()), ("SecretList", 2));
    let json = cluster.done(&format!("GET {SECRETS}"), None).await;
    assert_eq!(list, json, "the same in both");
    let patch = value!({"data": {"b": "BA=="}});
    let (code, _) = cluster.send(&admin(), &format!("PATCH {SECRETS}/s"), Some(&patch)).await;
    assert_eq!(code, 200);
    let options = value!({"preconditions": {"uid": "other"}});
    let refused = send(&cluster, &format!("DELETE {SECRETS}/s"), CBOR, body(&options)).await;
    assert!(refused.refusal().starts_with("409 Conflict"));
}

#[tokio::test]
async fn tables_metadata_and_statuses_are_cbor_too() {
    let cluster = cluster().await;
    cluster.done(&format!("POST {SECRETS}"), Some(&value!({"metadata": {"name": "s"}}))).await;
    let of = |what: &str| format!("application/cbor;as={what};v=v1;g=meta.k8s.io");
    for (request, kind) in [
        (format!("GET {SECRETS} accept {}", of("Table")), "Table"),
        (format!("GET {SECRETS}/s accept {}", of("Table")), "Table"),
        (
            format!("GET {SECRETS}/s accept {}", of("PartialObjectMetadata")),
            "PartialObjectMetadata",
        ),
        (
            format!("GET {SECRETS} accept {}", of("PartialObjectMetadataList")),
            "PartialObjectMetadataList",
        ),
        (format!("GET {SECRETS}/none"), "Status"),
        ("GET /apis".to_owned(), "APIGroupList"),
    ] {
        let answer = send(&cluster, &request, "", vec![]).await;
        assert_eq!(answer.media, CBOR, "{request}");
        assert_eq!(answer.value().str_at(&["kind"]), kind, "{request}");
    }
    let table = send(&cluster, &format!("GET {SECRETS} accept {}", of("Table")), "", vec![]).await;
    let table = table.value();
    assert_eq!(table.items_at(&["rows"])[0].items_at(&["cells"])[2], Value::Int(0));
}

#[tokio::test]
async fn a_watch_is_a_sequence_of_data_items() {
    let cluster = cluster().await;
    let watch = format!("GET {SECRETS}?watch=1");
    for name in ["a", "b"] {
        cluster.done(&format!("POST {SECRETS}"), Some(&value!({"metadata": {"name": name}}))).await;
    }
    let answer = send(&cluster, &watch, "", vec![]).await;
    assert_eq!((answer.code, answer.media.as_str()), (200, SEQUENCE));
    let Body::Stream(mut pieces) = answer.body else { panic!("no stream") };
    let mut bytes = Vec::new();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        bytes.extend_from_slice(&pieces.next().await.unwrap());
        seen.clear();
        // A frame begins where the last one ends: at each length the bytes are tried.
        let mut start = 0;
        for end in 1..=bytes.len() {
            if let Ok(event) = cbor::decode(&bytes[start..end], None, Unknown::Refuse) {
                assert!(
                    bytes[start..]
                        .starts_with(b"\xd9\xd9\xf7\xa2\x44type\x45ADDED\x46object\xd9\xd9\xf7")
                );
                seen.push(event.str_at(&["object", "metadata", "name"]).to_owned());
                start = end;
            }
        }
    }
    assert_eq!(seen, ["a", "b"]);
}

#[tokio::test]
async fn configurations_are_applied_in_cbor() {
    let cluster = cluster().await;
    let map = "/api/v1/namespaces/ns/configmaps/m";
    let request = format!("PATCH {map}?fieldManager=me");
    let config = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1"}});
    let made = send(&cluster, &request, APPLY, body(&config)).await;
    assert_eq!(made.code, 201);
    let made = made.value();
    let entry = &made.items_at(&["metadata", "managedFields"])[0];
    assert_eq!((entry.str_at(&["manager"]), entry.str_at(&["operation"])), ("me", "Apply"));
    let map_twice = b"\xa2\x41a\x01\x41a\x02".to_vec();
    for (bytes, expected) in [
        (
            map_twice,
            r#"400 BadRequest error decoding YAML: cbor: found duplicate map key "a" at map element index 1"#,
        ),
        (
            b"\x80".to_vec(),
            "400 BadRequest error decoding YAML: cbor: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        (b"".to_vec(), "400 BadRequest error decoding YAML: EOF"),
    ] {
        assert_eq!(send(&cluster, &request, APPLY, bytes).await.refusal(), expected);
    }
}

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be_are_refused_in_upstreams_words() {
    let cluster = cluster().await;
    let maps = "POST /api/v1/namespaces/ns/configmaps?dryRun=All";
    let strictly = format!("{maps}&fieldValidation=Strict");
    let twice = b"\xa1\x44data\xa2\x41a\x41b\x41a\x41c".to_vec();
    let number = body(&value!({"data": {"a": 1}}));
    let unknown = body(&value!({"metadata": {"name": "m"}, "bogus": 1}));
    let secret = body(&value!({"apiVersion": "v1", "kind": "Secret"}));
    let cannot = "400 BadRequest ConfigMap in version \"v1\" cannot be handled as a ConfigMap:";
    let not = "400 BadRequest the object provided is unrecognized (must be of type ConfigMap): unable to determine group/version/kind:";
    for (request, bytes, expected) in [
        (maps, vec![], format!("{not} EOF (<empty>)")),
        (maps, b"\x80".to_vec(), format!("{not} cbor: cannot unmarshal array into Go value of type v1.TypeMeta (cannot decode CBOR array to struct without toarray option) (80)")),
        (maps, b"\xa1\x41".to_vec(), format!("{not} unexpected EOF (a141)")),
        (maps, b"\xf9\x7e\x00".to_vec(), format!("{not} cbor: data item of cbor type primitives is not accepted by protocol: floating-point NaN (f97e00)")),
        (maps, twice, format!("{cannot} cbor: found duplicate map key \"a\" at map element index 1")),
        (maps, number, format!("{cannot} cbor: cannot unmarshal positive integer into Go struct field v1.ConfigMap.data of type string")),
        (&strictly, unknown, format!("{cannot} strict decoding error: cbor: found unknown field at map element index 0")),
        (maps, secret, "400 BadRequest Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion".into()),
        (maps, body(&value!({})), "422 Invalid ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required".into()),
    ] {
        assert_eq!(send(&cluster, request, CBOR, bytes).await.refusal(), expected);
    }
    let unknown = body(&value!({"metadata": {"name": "m"}, "bogus": 1}));
    let warned = send(&cluster, maps, CBOR, unknown).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.warnings, ["299 - \"cbor: found unknown field at map element index 0\""]);
}

#[tokio::test]
async fn custom_resources_have_cbor_where_they_have_no_protobuf() {
    let cluster = cluster().await;
    let path = "/apis/ex.example/v1/namespaces/ns/things";
    let definitions = "POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.done(definitions, Some(&definition("things", "Thing"))).await;
    until(&cluster, &format!("GET {path}"), |code, _| code == 200).await;
    let thing = value!({"apiVersion": "ex.example/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"color": "red"}});
    let made = send(&cluster, &format!("POST {path}"), CBOR, body(&thing)).await;
    assert_eq!((made.code, made.media.as_str()), (201, CBOR));
    assert_eq!(made.value().at(&["spec", "size"]), Some(&Value::Int(3)), "defaulted");
    let list = send(&cluster, &format!("GET {path}"), "", vec![]).await.value();
    assert_eq!((list.str_at(&["kind"]), list.items_at(&["items"]).len()), ("ThingList", 1));
    let mut wrong = thing.clone();
    wrong.set_at(&["spec", "size"], "big");
    wrong.set_at(&["metadata", "name"], "u");
    let refused = send(&cluster, &format!("POST {path}"), CBOR, body(&wrong)).await.refusal();
    let why = r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#;
    assert!(refused.starts_with("422 Invalid") && refused.contains(why), "{refused}");
    let mut unknown = thing.clone();
    unknown.set_at(&["spec", "bogus"], 1);
    let strictly = format!("POST {path}?fieldValidation=Strict");
    let refused = send(&cluster, &strictly, CBOR, body(&unknown)).await.refusal();
    assert!(refused.ends_with("strict decoding error: unknown field \"spec.bogus\""), "{refused}");
    let config = value!({"apiVersion": "ex.example/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"size": 5}});
    let applied =
        send(&cluster, &format!("PATCH {path}/t?fieldManager=me&force=true"), APPLY, body(&config))
            .await;
    assert_eq!(applied.code, 200);
    assert_eq!(applied.value().at(&["spec", "size"]), Some(&Value::Int(5)));
}

#[tokio::test]
async fn a_server_without_cbor_says_what_it_has() {
    let cluster = Cluster::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let types = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let message = async |request: &str, media: &str| {
        let answer = send(&cluster, request, media, b"\xa0".to_vec()).await;
        let Body::Full(bytes) = answer.body else { panic!("a stream") };
        let status = apimachinery::json::parse(&bytes.unwrap()).unwrap();
        (answer.code, status.str_at(&["message"]).to_owned())
    };
    let (code, said) = message(&format!("POST {maps}"), CBOR).await;
    let expected = format!(
        "the body of the request was in an unknown format - accepted media types include: {types}"
    );
    assert_eq!((code, said), (415, expected));
    let (code, said) = message(&format!("GET {maps}/x"), "").await;
    assert_eq!(
        (code, said),
        (406, format!("406: Not Acceptable\n\nAvailable representations: {types}"))
    );
    let (code, _) =
        message(&format!("PATCH {maps}/x?fieldManager=a accept application/json"), APPLY).await;
    assert_eq!(code, 415);
}
