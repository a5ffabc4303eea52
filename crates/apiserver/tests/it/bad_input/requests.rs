//! Broken paths, queries, credentials.

#![allow(clippy::too_many_lines, reason = "tables of cases")]

use apimachinery::{json, value};
use auth::service_account::{Named, TokenSpec};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::{Case, case};
use crate::cluster::Cluster;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const NO_ROUTE: &str = "the server could not find the requested resource";
const NO_METHOD: &str = "the server does not allow this method on the requested resource";

fn get(path: &str, code: u16, says: &str) -> Case {
    case(&format!("GET {path}"), &[], "", code, says)
}

pub(super) fn paths() -> Vec<Case> {
    let maps = |rest: &str, code, says: &str| get(&format!("{MAPS}/{rest}"), code, says);
    let method = |name: &str| case(&format!("{name} {MAPS}"), &[], "", 405, NO_METHOD);
    vec![
        get("/api/v2", 404, NO_ROUTE),
        get("/apis/nope.example", 404, "404 page not found\n"),
        get("/api/v1/namespaces/default/nopes", 404, NO_ROUTE),
        get("/etc/passwd", 404, "404 page not found\n"),
        get("/../../etc/passwd", 404, "404 page not found\n"),
        get("/readyz/../api", 404, "404 page not found\n"),
        get("/api/v1/namespaces/../secrets", 500, r#"invalid key: "/secrets/..""#),
        maps("..", 400, r#"Name parameter invalid: "..": may not be '..'"#),
        maps("%2e%2e", 400, r#"Name parameter invalid: "..": may not be '..'"#),
        maps("a%25", 400, r#"Name parameter invalid: "a%": may not contain '%'"#),
        maps(
            "a?resourceVersion=x",
            500,
            "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        maps("..%2fsecrets", 404, NO_ROUTE),
        maps("%2fregistry%2fsecrets", 404, NO_ROUTE),
        maps("a%00b", 404, r#"configmaps "a\x00b" not found"#),
        maps("a%zz", 400, "400 Bad Request"),
        maps("a%2", 400, "400 Bad Request"),
        maps(&"x".repeat(5000), 404, &format!("configmaps \"{}\" not found", "x".repeat(5000))),
        method("BREW"),
        method("TRACE"),
        method("OPTIONS"),
        case(&format!("HEAD {MAPS}"), &[], "", 405, ""),
        case(
            &format!("GET {MAPS}"),
            &["Accept: garbage"],
            "",
            406,
            "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
        ),
        case("HEAD /readyz", &[], "", 200, ""),
        case("BREW /api", &[], "", 405, NO_METHOD),
        case("HEAD /apis/apps/v1", &[], "", 405, ""),
        // Over all namespaces one can look, and nothing else.
        case("DELETE /api/v1/configmaps", &[], "", 405, NO_METHOD),
        case("POST /api/v1/configmaps", &[], "{}", 405, NO_METHOD),
        case("PUT /api/v1/configmaps", &[], "{}", 405, NO_METHOD),
        case("DELETE /api/v1/configmaps/a", &[], "", 404, NO_ROUTE),
        get("/api/v1/configmaps/a", 404, NO_ROUTE),
        case(&format!("PUT {MAPS}"), &[], "{}", 405, NO_METHOD),
        case(
            &format!("PATCH {MAPS}"),
            &["Content-Type: application/merge-patch+json"],
            "{}",
            405,
            NO_METHOD,
        ),
        case("PUT /api/v1/nodes", &[], "{}", 405, NO_METHOD),
        case(
            "DELETE /api/v1/namespaces/kube-system",
            &[],
            "",
            403,
            "namespaces \"kube-system\" is forbidden: this namespace may not be deleted",
        ),
        // An upgrade where there is nothing to upgrade to is an ordinary request.
        case(
            &format!("GET {MAPS}"),
            &["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: nope"],
            "",
            200,
            "ConfigMapList",
        ),
        case(
            "GET /api/v1/namespaces/default/pods/none/exec?command=sh",
            &[
                "Upgrade: websocket",
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Protocol: nope",
            ],
            "",
            404,
            "pods \"none\" not found",
        ),
        case(
            "POST /api/v1/namespaces/default/pods/none/exec",
            &["Upgrade: SPDY/3.1"],
            "",
            404,
            "pods \"none\" not found",
        ),
    ]
}

/// A token as pages are continued with.
fn page(claims: &str) -> String {
    format!("continue={}", BASE64_URL_SAFE_NO_PAD.encode(claims))
}

pub(super) fn queries() -> Vec<Case> {
    let list = |query: &str, code, says: &str| get(&format!("{MAPS}?{query}"), code, says);
    let bad_page = |why: &str| format!("invalid continue token: continue key is not valid: {why}");
    let long = "x".repeat(64);
    vec![
        list(
            "labelSelector=a+b+c",
            400,
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        list("labelSelector=n%3Din(", 400, "found '(', expected: ',' or 'end of string'"),
        list(
            &format!("labelSelector={}", "(".repeat(5000)),
            400,
            "found '(', expected: !, identifier, or 'end of string'",
        ),
        list(
            "labelSelector=a%00b",
            400,
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        list(
            &format!("labelSelector={long}%3D1"),
            400,
            &format!(
                "unable to parse requirement: <nil>: Invalid value: \"{long}\": name part must be no more than 63 bytes"
            ),
        ),
        list(
            &format!("labelSelector=a%3D{long}"),
            400,
            &format!(
                "unable to parse requirement: values[0][a]: Invalid value: \"{long}\": must be no more than 63 bytes"
            ),
        ),
        list(
            "fieldSelector=data.x%3D1",
            400,
            r#""data.x" is not a known field selector: only "metadata.name", "metadata.namespace""#,
        ),
        list("fieldSelector=a", 400, "invalid selector: 'a'; can't understand 'a'"),
        list(
            "fieldSelector=metadata.name%3Da%5Cb",
            400,
            r"invalid field selector: invalid escape sequence: \b",
        ),
        get(
            "/api/v1/pods?fieldSelector=spec.bogus%3D1",
            400,
            "field label not supported: spec.bogus",
        ),
        list("limit=x", 400, r#"strconv.ParseInt: parsing "x": invalid syntax"#),
        list(
            "limit=99999999999999999999",
            400,
            r#"strconv.ParseInt: parsing "99999999999999999999": value out of range"#,
        ),
        list("timeoutSeconds=x", 400, r#"strconv.ParseInt: parsing "x": invalid syntax"#),
        list(
            "continue=abc",
            400,
            &bad_page("invalid character 'i' looking for beginning of value"),
        ),
        list(
            &page(r#"{"rv":7,"start":"x"}"#),
            400,
            &bad_page("server does not recognize this encoded version \"\""),
        ),
        list(
            &page(r#"{"v":"meta.k8s.io/v1","rv":7,"start":"../secrets/"}"#),
            400,
            &bad_page("../secrets/"),
        ),
        list(
            &page(r#"{"v":"meta.k8s.io/v9","rv":7,"start":"a"}"#),
            400,
            &bad_page("server does not recognize this encoded version \"meta.k8s.io/v9\""),
        ),
        list(
            &format!("continue={}", "A".repeat(20_000)),
            400,
            &bad_page(r"invalid character '\x00' looking for beginning of value"),
        ),
        list(
            "resourceVersion=999999999",
            504,
            "Timeout: Too large resource version: 999999999, current: ...",
        ),
        list(
            "resourceVersion=abc",
            400,
            r#"invalid resource version: resourceVersion: Invalid value: "abc": strconv.ParseUint: parsing "abc": invalid syntax"#,
        ),
        list(
            "resourceVersion=-1",
            400,
            r#"invalid resource version: resourceVersion: Invalid value: "-1": strconv.ParseUint: parsing "-1": invalid syntax"#,
        ),
        list(
            "resourceVersion=18446744073709551616",
            400,
            r#"invalid resource version: resourceVersion: Invalid value: "18446744073709551616": strconv.ParseUint: parsing "18446744073709551616": value out of range"#,
        ),
        list(
            "resourceVersion=1&resourceVersionMatch=Bogus",
            422,
            r#"ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Unsupported value: "Bogus": supported values: "Exact", "NotOlderThan", """#,
        ),
        list(
            "resourceVersionMatch=Exact",
            422,
            r#"ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"#,
        ),
        list(
            "sendInitialEvents=true",
            422,
            r#"ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"#,
        ),
        list(
            "watch=1&resourceVersion=abc",
            500,
            r#"resourceVersion: Invalid value: "abc": strconv.ParseUint: parsing "abc": invalid syntax"#,
        ),
        list(
            "watch=true&sendInitialEvents=true",
            422,
            r#"ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"#,
        ),
    ]
}

/// A token of the account `default`, as `change` makes it.
fn token(cluster: &Cluster, change: impl FnOnce(&mut TokenSpec<'_>), seconds_ago: i64) -> String {
    let account = Named { name: "default".into(), uid: String::new() };
    let mut spec = TokenSpec {
        namespace: "default",
        account: Some(account),
        audiences: vec!["https://me".into()],
        expiration_seconds: 3600,
        id: "1".into(),
        ..TokenSpec::default()
    };
    change(&mut spec);
    let now = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds_ago);
    // It has its own key, and waits for nobody.
    futures::FutureExt::now_or_never(cluster.issuer.issue(&spec, now)).unwrap().unwrap()
}

fn unsigned(header: &str, claims: &str, signature: &[u8]) -> String {
    let text = |it: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(it);
    format!("{}.{}.{}", text(header.as_bytes()), text(claims.as_bytes()), text(signature))
}

pub(super) fn credentials(cluster: &Cluster) -> Vec<Case> {
    let good = token(cluster, |_| {}, 0);
    let claims = good.split('.').nth(1).unwrap().to_owned();
    let claims = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let admin = value!({"iss": "https://me", "aud": ["https://me"], "sub": "system:admin"});
    let mut forged = good.clone().into_bytes();
    let last = forged.len() - 10;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let public = cluster.issuer.key_set();
    // The public key taken for a shared secret: what matters is that such algorithms do not exist here.
    let confused = unsigned(r#"{"alg":"HS256"}"#, &claims, &json::to_vec(&public)[..32]);
    let tokens = [
        ("expired", token(cluster, |_| {}, 7200)),
        ("not yet", token(cluster, |_| {}, -7200)),
        ("wrong audience", token(cluster, |it| it.audiences = vec!["vault".into()], 0)),
        (
            "no such account",
            token(
                cluster,
                |it| it.account = Some(Named { name: "none".into(), uid: "1".into() }),
                0,
            ),
        ),
        ("forged signature", String::from_utf8(forged).unwrap()),
        ("no signature", format!("{}.", good.rsplit_once('.').unwrap().0)),
        ("alg none", unsigned(r#"{"alg":"none"}"#, &claims, b"")),
        ("alg None", unsigned(r#"{"alg":"None"}"#, &json::to_string(&admin), b"")),
        ("key confusion", confused),
        (
            "own key in the header",
            unsigned(r#"{"alg":"ES256","jwk":{"kty":"EC"}}"#, &claims, &[1; 64]),
        ),
        ("deep claims", unsigned(r#"{"alg":"ES256"}"#, &"[".repeat(8000), &[1; 64])),
        ("oversized", "A".repeat(60_000)),
        ("two dots", "..".into()),
        ("garbage", "x".into()),
        ("bytes", "\u{fffd}".into()),
    ];
    let mut cases: Vec<Case> = tokens
        .iter()
        .map(|(what, token)| {
            let header = format!("Authorization: Bearer {token}");
            let line = format!("GET {MAPS}");
            Case { what: (*what).to_owned(), ..case(&line, &[&header], "", 401, "Unauthorized") }
        })
        .collect();
    // What is no bearer token is no credential.
    let line = format!("GET {MAPS}");
    for header in ["Authorization: Basic eDp5", "Authorization: Bearer"] {
        cases.push(case(&line, &[header], "", 403, &denied("system:anonymous")));
    }
    cases
}

fn denied(user: &str) -> String {
    format!(
        "configmaps is forbidden: User \"{user}\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    )
}

pub(super) fn impersonation() -> Vec<Case> {
    // The first of upstream's ways that is refused is told.
    let refused = "configmaps is forbidden: User \"bob\" cannot impersonate-on:user-info:list resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    let line = format!("GET {MAPS}");
    let nameless = |uid: &str, groups: &str| {
        format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:\"{uid}\", Groups:{groups}, Extra:map[string][]string(nil)}} without impersonating a user name"
        )
    };
    let bob = "Authorization: Bearer bob-token";
    let many: Vec<String> =
        (0..500).map(|number| format!("Impersonate-Group: g{number}")).collect();
    let many: Vec<&str> =
        std::iter::once("Impersonate-User: x").chain(many.iter().map(String::as_str)).collect();
    vec![
        case(&line, &["Impersonate-Group: g"], "", 400, &nameless("", "[]string{\"g\"}")),
        case(&line, &["Impersonate-Uid: 1"], "", 400, &nameless("1", "[]string(nil)")),
        case(&line, &["Impersonate-User: system:anonymous"], "", 403, &denied("system:anonymous")),
        case(
            &line,
            &["Impersonate-User: system:serviceaccount:"],
            "",
            403,
            &denied("system:serviceaccount:"),
        ),
        // Letters that are not ASCII are letters, and not nobody.
        case(&line, &["Impersonate-User: jürgen"], "", 403, &denied("jürgen")),
        case(&line, &many, "", 403, &denied("x")),
        case(&line, &[bob, "Impersonate-User: alice"], "", 403, refused),
        case(
            &line,
            &[bob, "Impersonate-User: x", "Impersonate-Group: system:masters"],
            "",
            403,
            refused,
        ),
    ]
}
