//! `componentstatuses`: whether scheduler, controllers and store are well, found out when somebody asks. Deprecated
//! upstream, and served there still: `pkg/registry/core/componentstatus`.

use std::sync::Arc;
use std::time::Duration;

use api::ResourceFacts;
use apimachinery::labels::Selector;
use apimachinery::{Status, Value, fields, value};
use component_base::tls::Trust;
use futures::future::join_all;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use crate::Server;
use crate::body::Body;
use crate::exchange::Exchange;
use crate::negotiate::{Transform, negotiate};
use crate::request::RequestInfo;
use crate::respond;

/// How long a component may take to answer (upstream's).
const PATIENCE: Duration = Duration::from_secs(20);
/// The most that is read of an answer.
const ANSWER_BYTES_MAX: usize = 10 << 10;

/// Where a part of the control plane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In this process, which would have ended where it had.
    Here,
    /// Behind this port of the machine.
    Port(u16),
}

/// A part of the control plane by upstream's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlPart {
    /// `scheduler`, `controller-manager`
    pub name: &'static str,
    /// Where it is.
    pub place: Place,
}

/// Where upstream's servers look for the others.
pub const ELSEWHERE: [ControlPart; 2] = [
    ControlPart { name: "controller-manager", place: Place::Port(10_257) },
    ControlPart { name: "scheduler", place: Place::Port(10_259) },
];

impl Server {
    /// Says where the other parts of the control plane are, once; [`ELSEWHERE`], where nobody says.
    pub fn set_control_parts(&self, parts: Vec<ControlPart>) {
        // A second word about it would be a mistake, and the first counts.
        let _ = self.control_parts.set(parts);
    }
}

/// What was found out.
struct Found {
    name: String,
    is_well: bool,
    message: String,
}

impl Found {
    fn to_value(&self) -> Value {
        let status = if self.is_well { "True" } else { "False" };
        value!({"metadata": {"name": (self.name.as_str())},
            "conditions": [{"type": "Healthy", "status": status, "message": (self.message.as_str())}]})
    }

    fn cells(&self) -> Value {
        let status = if self.is_well { "Healthy" } else { "Unhealthy" };
        [self.name.as_str(), status, self.message.as_str(), ""].into_iter().collect()
    }
}

const RESOURCE: &str = "componentstatuses";

fn facts() -> Option<&'static ResourceFacts> {
    api::resources().iter().find(|it| it.group.is_empty() && it.resource == RESOURCE)
}

/// What is known of component statuses, where a request is about them.
pub(crate) fn find(info: &RequestInfo) -> Option<&'static ResourceFacts> {
    if !info.group.is_empty() || info.resource != RESOURCE {
        return None;
    }
    facts().filter(|it| info.version == it.version)
}

/// Answers it.
pub(crate) async fn read(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    facts: &ResourceFacts,
) -> Result<Response<Body>, Status> {
    let info = &exchange.info;
    if !info.subresource.is_empty() || !info.namespace.is_empty() {
        return Err(Status::no_route());
    }
    if exchange.parts.method == Method::HEAD || !facts.verbs.contains(&info.verb) {
        return Err(Status::method_not_allowed());
    }
    exchange.warnings.push("v1 ComponentStatus is deprecated in v1.19+".into());
    let form = negotiate(exchange)?;
    let is_list = exchange.info.verb == "list";
    let mut names = vec!["controller-manager", "etcd-0", "scheduler"];
    if is_list {
        let wanted = selected(exchange)?;
        names.retain(|name| wanted(name));
    } else if !names.contains(&exchange.info.name.as_str()) {
        let message = format!("Component not found: {}", exchange.info.name);
        return Err(Status { code: 500, message, ..Status::default() });
    } else {
        names.retain(|name| *name == exchange.info.name);
    }
    let found = join_all(names.into_iter().map(|name| ask(server, name))).await;
    let content = match form.transform {
        Transform::Table(version) => table(&found, facts, version),
        Transform::Partial(version) => partial(&found, is_list, version),
        Transform::None if is_list => {
            let items: Value = found.iter().map(Found::to_value).collect();
            value!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items})
        }
        Transform::None => {
            let mut one = found.first().map(Found::to_value).unwrap_or_default();
            one.set_at(&["kind"], "ComponentStatus");
            one.set_at(&["apiVersion"], "v1");
            one
        }
    };
    Ok(respond::plain(form, 200, &content))
}

/// Which names the selectors of a request mean.
fn selected(exchange: &Exchange) -> Result<impl Fn(&str) -> bool + use<>, Status> {
    let bad = |why: &dyn std::fmt::Display| Status::bad_request(why.to_string());
    let query = |name| exchange.query.get(name).unwrap_or_default();
    let labels = Selector::parse(query("labelSelector")).map_err(|error| bad(&error))?;
    let fields = fields::Selector::parse(query("fieldSelector")).map_err(|error| bad(&error))?;
    for term in fields.terms() {
        if term.field != "metadata.name" {
            return Err(bad(&format!("field label not supported: {}", term.field)));
        }
    }
    Ok(move |name: &str| {
        // None has labels.
        labels.matches(|_| None)
            && fields.matches(|field| (field == "metadata.name").then_some(name))
    })
}

fn table(found: &[Found], facts: &ResourceFacts, version: &str) -> Value {
    let describe = |name| api::columns::description(facts, name);
    let columns: Value = facts
        .columns
        .iter()
        .map(|it| {
            value!({"name": (it.name), "type": (it.kind), "format": (it.format),
                "description": (describe(it.name)), "priority": (i64::from(it.priority))})
        })
        .collect();
    let row = |it: &Found| {
        let object = respond::partial(&it.to_value(), version);
        value!({"cells": (it.cells()), "object": object})
    };
    let rows: Value = found.iter().map(row).collect();
    value!({"kind": "Table", "apiVersion": (format!("meta.k8s.io/{version}")), "metadata": {},
        "columnDefinitions": columns, "rows": rows})
}

fn partial(found: &[Found], is_list: bool, version: &str) -> Value {
    let one = |it: &Found| respond::partial(&it.to_value(), version);
    if !is_list {
        return found.first().map(one).unwrap_or_default();
    }
    let items: Value = found.iter().map(one).collect();
    value!({"kind": "PartialObjectMetadataList", "apiVersion": (format!("meta.k8s.io/{version}")),
        "metadata": {}, "items": items})
}

async fn ask(server: &Arc<Server>, name: &str) -> Found {
    let answer = if name == "etcd-0" {
        let asked = server.hub.store().progress();
        match tokio::time::timeout(server.store_check_timeout, asked).await {
            Ok(Ok(_)) => Ok("ok".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("context deadline exceeded".to_owned()),
        }
    } else {
        let parts = server.control_parts.get().map_or(&ELSEWHERE[..], Vec::as_slice);
        let place = parts.iter().find(|it| it.name == name).map_or(Place::Here, |it| it.place);
        match place {
            Place::Here => Ok("ok".to_owned()),
            Place::Port(port) => {
                let asked = tokio::time::timeout(PATIENCE, probe(port));
                let late = || Err(format!("{}: context deadline exceeded", url(port)));
                asked.await.unwrap_or_else(|_| late())
            }
        }
    };
    let is_well = answer.is_ok();
    Found { name: name.to_owned(), is_well, message: answer.unwrap_or_else(|why| why) }
}

fn url(port: u16) -> String {
    format!("Get \"https://127.0.0.1:{port}/healthz\"")
}

/// Asks for the health of who listens on a port of this machine, whoever that is.
async fn probe(port: u16) -> Result<String, String> {
    let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", url(port));
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    let stream = stream.map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            failed(&format!("dial tcp 127.0.0.1:{port}: connect: connection refused"))
        }
        _ => failed(&format!("dial tcp 127.0.0.1:{port}: {error}")),
    })?;
    let tls = component_base::tls::client(Trust::Anybody).map_err(|error| failed(&error))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls.with_no_client_auth()));
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let stream = connector.connect(name, stream).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let driving = tokio::spawn(connection);
    let request = Request::get("/healthz")
        .header(http::header::HOST, format!("127.0.0.1:{port}"))
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let code = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    driving.abort();
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if code.is_success() {
        return Ok(text);
    }
    Err(format!("HTTP probe failed with statuscode: {}", code.as_u16()))
}
