//! What the whole of the API costs: server-side apply, protobuf, pages, policies, webhooks, definitions, many informers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Options;
use crate::api::{CONFIG_MAPS, OBJECTS, config_map, fill, plain_server, server_without};
use crate::load::{Ask, Clients, IN_FLIGHT, percentile};
use crate::reference;
use crate::table::{Bar, Figure};

/// Pages that are read, and how many objects each has.
const PAGES: usize = 400;
const PAGE: usize = 500;
/// Requests of which the middle one counts, where what something adds is asked for.
const TIMED: usize = 1_000;
const RULES: usize = 50;
/// Where ConfigMaps are that no policy and no webhook judges.
const UNJUDGED: &str = "/api/v1/namespaces/unjudged/configmaps";
const DEFINITIONS: usize = 1_000;
/// How often custom and built-in objects are created in turn.
const ROUNDS: usize = 3;
const INFORMERS: usize = 1_000;
const INFORMED: usize = 20_000;
/// No step takes longer, unless it is stuck.
const PATIENCE: Duration = Duration::from_secs(120);

fn apply_of(nth: usize) -> Ask {
    Ask {
        media_type: "application/apply-patch+yaml",
        ..Ask::json(
            Method::PATCH,
            format!("{CONFIG_MAPS}/cm-{nth}?fieldManager=bench&force=true"),
            config_map(nth, 2),
        )
    }
}

/// Objects that others made are applied.
pub(crate) async fn apply(options: &Options) -> Result<Vec<Figure>> {
    let server = plain_server(options).await?;
    fill(&server.clients, OBJECTS).await?;
    let first = server.clients.load(OBJECTS, IN_FLIGHT, apply_of).await?;
    let page = |_| Ask::get(format!("{CONFIG_MAPS}?limit={PAGE}"));
    let bytes = server.clients.send(0, &page(0)).await?;
    let pages = server.clients.load(PAGES, 4, page).await?;
    drop(server);
    let trivial = reference::answering(bytes).await?.load(PAGES, 4, page).await?;
    Ok(vec![
        Figure::new(
            "ConfigMaps applied (server-side)",
            first.per_second,
            "/s",
            Bar::AtLeast(6_000.0),
        ),
        Figure::new("lists of 500", pages.per_second, "/s", Bar::AtLeast(2_000.0))
            .beside(trivial.per_second),
    ])
}

/// A field of a protobuf message that has a length.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap_or_default());
    bytes.extend_from_slice(content);
    bytes
}

fn entry(key: &str, value: &[u8]) -> Vec<u8> {
    [field(1, key.as_bytes()), field(2, value)].concat()
}

/// The pod of the row in JSON, as client-go writes it in protobuf.
fn protobuf_pod(nth: usize) -> Bytes {
    let quantity = |text: &str| field(1, text.as_bytes());
    let amounts = |number, cpu: &str, memory: &str| {
        let of = |name, text| field(number, &entry(name, &quantity(text)));
        [of("cpu", cpu), of("memory", memory)].concat()
    };
    let variable = |name: &str, value: &str| {
        field(7, &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat())
    };
    // The port 80, as a number of its own kind.
    let port = [24, 80];
    let probe = field(2, &[field(1, b"/"), field(2, &[8, 0, 16, 80])].concat());
    let container = [
        field(1, b"c"),
        field(2, b"registry.example/pause:1"),
        field(6, &port),
        variable("A", "1"),
        variable("B", "2"),
        field(8, &[amounts(1, "100m", "64Mi"), amounts(2, "10m", "16Mi")].concat()),
        field(11, &field(1, &probe)),
    ]
    .concat();
    // `automountServiceAccountToken` is the 21st field: its tag has two bytes.
    let spec = [field(2, &container), vec![0xa8, 0x01, 0]].concat();
    let name = format!("pod-{nth}");
    let metadata = [field(1, name.as_bytes()), field(11, &entry("app", b"bench"))].concat();
    let pod = [field(1, &metadata), field(2, &spec)].concat();
    let kind = [field(1, b"v1"), field(2, b"Pod")].concat();
    [b"k8s\0".to_vec(), field(1, &kind), field(2, &pod)].concat().into()
}

pub(crate) async fn protobuf(options: &Options) -> Result<Vec<Figure>> {
    let server = server_without(options, "agent,proxy,dns,scheduler,controllers").await?;
    let account = json!({"metadata": {"name": "default"}}).to_string();
    let path = "/api/v1/namespaces/bench/serviceaccounts";
    server.clients.send(0, &Ask::json(Method::POST, path, account)).await?;
    let pod = |nth| Ask {
        media_type: "application/vnd.kubernetes.protobuf",
        ..Ask::json(Method::POST, "/api/v1/namespaces/bench/pods", protobuf_pod(nth))
    };
    let ours = server.clients.load(OBJECTS, IN_FLIGHT, pod).await?;
    let what = "Pods created in protobuf, API server alone";
    Ok(vec![Figure::new(what, ours.per_second, "/s", Bar::AtLeast(9_000.0))])
}

/// How long a create takes, the middle one of many, one after another: in a namespace that nothing judges, and in one that
/// something does. In turn, since what a machine takes for a request alone changes by more than what is asked for.
async fn middles(clients: &Clients) -> Result<[Duration; 2]> {
    let paths = [UNJUDGED, CONFIG_MAPS].map(|path| format!("{path}?dryRun=All"));
    let mut took = [(); 2].map(|()| Vec::with_capacity(TIMED));
    for nth in 0..TIMED {
        let map = json!({"metadata": {"name": format!("map-{nth}")}, "data": {"a": "b"}});
        for (path, took) in paths.iter().zip(&mut took) {
            let ask = Ask::json(Method::POST, path, map.to_string());
            let begun = Instant::now();
            clients.send(0, &ask).await?;
            took.push(begun.elapsed());
        }
    }
    Ok(took.map(|mut it| percentile(&mut it, 50)))
}

/// Waits until a create is refused: what refuses it is followed then.
async fn until_refused(clients: &Clients, why: &str) -> Result<()> {
    let map = json!({"metadata": {"name": "refused"}}).to_string();
    let ask = Ask::json(Method::POST, format!("{CONFIG_MAPS}?dryRun=All"), map);
    let begun = Instant::now();
    loop {
        match clients.send(0, &ask).await {
            Err(error) if error.to_string().contains(why) => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) if begun.elapsed() > PATIENCE => bail!("nothing refuses it"),
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn rules_on_config_maps() -> Value {
    json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}])
}

/// What fifty rules of a policy, and a webhook, add to a create.
pub(crate) async fn admission(options: &Options) -> Result<Vec<Figure>> {
    let server = plain_server(options).await?;
    let clients = &server.clients;
    let policies = "/apis/admissionregistration.k8s.io/v1";
    let post = async |path: String, object: Value| {
        clients.send(0, &Ask::json(Method::POST, path, object.to_string())).await
    };
    let unjudged = json!({"metadata": {"name": "unjudged"}});
    post("/api/v1/namespaces".to_owned(), unjudged).await?;
    // Those of the scenario's own namespace.
    let judged = json!({"matchLabels": {"kubernetes.io/metadata.name": "bench"}});
    let mut validations = vec![json!({"expression": "object.metadata.name != 'refused'"})];
    validations.extend((1..RULES).map(|nth| {
        json!({"expression": format!("!has(object.data) || object.data.all(k, k != 'no-{nth}' && object.data[k].size() < 1024)")})
    }));
    let policy = json!({"metadata": {"name": "bench"}, "spec": {
        "matchConstraints": {"resourceRules": rules_on_config_maps()}, "validations": validations}});
    post(format!("{policies}/validatingadmissionpolicies"), policy).await?;
    let binding = json!({"metadata": {"name": "bench"}, "spec": {"policyName": "bench",
        "validationActions": ["Deny"], "matchResources": {"namespaceSelector": judged}}});
    post(format!("{policies}/validatingadmissionpolicybindings"), binding).await?;
    until_refused(clients, "denied request").await?;
    let [plain, ruled] = middles(clients).await?;
    let gone = |path: &str| Ask::json(Method::DELETE, format!("{policies}/{path}"), "{}");
    clients.send(0, &gone("validatingadmissionpolicybindings/bench")).await?;
    clients.send(0, &gone("validatingadmissionpolicies/bench")).await?;
    let (url, authority) = reference::reviewing()?;
    let hook = json!({"metadata": {"name": "bench"}, "webhooks": [{"name": "bench.example.com", "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "rules": rules_on_config_maps(), "failurePolicy": "Fail",
        "namespaceSelector": judged,
        "clientConfig": {"url": url, "caBundle": authority}}]});
    post(format!("{policies}/validatingwebhookconfigurations"), hook).await?;
    until_refused(clients, "denied the request").await?;
    let [unreviewed, reviewed] = middles(clients).await?;
    let added = micros(ruled.saturating_sub(plain));
    Ok(vec![
        Figure::new(
            "a create without either, the middle one of 1,000",
            micros(plain),
            "us",
            Bar::None,
        ),
        Figure::new("50 rules of a policy add", added, "us", Bar::AtMost(50.0)),
        Figure::ms("a webhook on loopback adds", reviewed.saturating_sub(unreviewed), 0.5),
    ])
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn definition(nth: usize) -> Value {
    // With descriptions, of about the size that operators' definitions have.
    let property = |it: usize| json!({"type": "string", "description": "What it is, and what it is not. ".repeat(8 + it % 3)});
    let properties: serde_json::Map<_, _> =
        (0..50).map(|it| (format!("field{it}"), property(it))).collect();
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things{nth}.g{nth}.bench.example.com")},
        "spec": {"group": format!("g{nth}.bench.example.com"), "scope": "Namespaced",
            "names": {"plural": format!("things{nth}"), "singular": format!("thing{nth}"), "kind": format!("Thing{nth}"), "listKind": format!("Thing{nth}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": properties}}}}}]}})
}

fn custom_object(nth: usize) -> Ask {
    let object = json!({"apiVersion": "g0.bench.example.com/v1", "kind": "Thing0", "metadata": {"name": format!("cm-{nth}"),
        "labels": {"app": "bench"}}, "spec": {"field0": "x".repeat(1024), "generation": "0"}});
    let path = "/apis/g0.bench.example.com/v1/namespaces/bench/things0";
    Ask::json(Method::POST, path, object.to_string())
}

/// Many definitions, and objects of one of them beside objects of a built-in kind.
pub(crate) async fn definitions(options: &Options) -> Result<Vec<Figure>> {
    let server = plain_server(options).await?;
    let clients = &server.clients;
    let before = server.memory_mb("VmRSS")?;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let begun = Instant::now();
    clients
        .load(DEFINITIONS, 16, move |nth| {
            Ask::json(Method::POST, path, definition(nth).to_string())
        })
        .await?;
    for nth in 0..DEFINITIONS {
        let list = Ask::get(format!("/apis/g{nth}.bench.example.com/v1/things{nth}"));
        while let Err(error) = clients.send(0, &list).await {
            if begun.elapsed() > PATIENCE {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let served = begun.elapsed();
    #[allow(clippy::cast_precision_loss, reason = "there are a thousand")]
    let each = (server.memory_mb("VmRSS")? - before) * 1e3 / DEFINITIONS as f64;
    // In turns: what the server does beside them, it does beside both.
    let (mut own, mut built_in) = (0.0, 0.0);
    for round in 0..ROUNDS {
        let from = round * OBJECTS;
        let custom = clients.load(OBJECTS, IN_FLIGHT, move |nth| custom_object(from + nth));
        own += 1.0 / custom.await?.per_second;
        let plain = clients.load(OBJECTS, IN_FLIGHT, move |nth| {
            Ask::json(Method::POST, CONFIG_MAPS, config_map(from + nth, 0))
        });
        built_in += 1.0 / plain.await?.per_second;
    }
    Ok(vec![
        Figure::seconds("1,000 definitions until all are served", served, 20.0),
        Figure::new("memory for each", each, "KB", Bar::AtMost(200.0)),
        Figure::new(
            "custom objects created, of built-in ones",
            built_in / own,
            "x",
            Bar::AtLeast(0.9),
        ),
    ])
}

/// Informers that open at once, each with its first list by a watch.
pub(crate) async fn informers(options: &Options) -> Result<Vec<Figure>> {
    let server = plain_server(options).await?;
    fill(&server.clients, INFORMED).await?;
    let before = server.memory_mb("VmRSS")?;
    let begun = Instant::now();
    let opened: Vec<_> =
        (0..INFORMERS).map(|nth| tokio::spawn(inform(server.clients.clone(), nth))).collect();
    let open = Arc::new(futures::future::join_all(opened).await);
    for it in open.iter() {
        it.as_ref()
            .map_err(ToString::to_string)
            .map_err(anyhow::Error::msg)?
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error:#}"))?;
    }
    let more = server.memory_mb("VmHWM")? - before;
    Ok(vec![
        Figure::new(
            "1,000 informers on 20,000 objects, until all have them",
            begun.elapsed().as_secs_f64(),
            "s",
            Bar::None,
        ),
        Figure::new("more memory meanwhile", more, "MB", Bar::AtMost(100.0)),
    ])
}

/// Reads a watch until it tells that the first list is over.
async fn inform(clients: Clients, nth: usize) -> Result<()> {
    let path = format!(
        "{CONFIG_MAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&resourceVersion="
    );
    let mut body = clients.open(nth, &Ask::get(path)).await?.into_body();
    // The mark may be split between two frames.
    let (mark, mut end) = (&b"k8s.io/initial-events-end"[..], Vec::new());
    loop {
        let frame = body.frame().await.context("the watch ended")??;
        let Some(data) = frame.data_ref() else { continue };
        end.extend_from_slice(data);
        if memchr::memmem::find(&end, mark).is_some() {
            return Ok(());
        }
        end.drain(..end.len().saturating_sub(mark.len()));
    }
}
