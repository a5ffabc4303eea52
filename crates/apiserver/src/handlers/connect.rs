//! Streams to nodes: `log`, `exec`, `attach`, `portforward` of pods.
//!
//! The server reaches a node only through the agent's port, over TLS, also on one machine. It passes bytes: what is
//! inside a stream is between the client and the agent.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use admission::Operation;
use apimachinery::status::{Cause, Details};
use apimachinery::{Status, Value};
use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONNECTION, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use percent_encoding::NON_ALPHANUMERIC;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::admit::{Admission, admit, judge};
use super::{create, log_options};
use crate::Server;
use crate::body::Body;
use crate::exchange::{Exchange, RequestBody};
use crate::forward::{self, Onward};
use crate::metrics::Held;
use crate::persist;
use crate::target::Target;

/// How much of an agent's refusal is passed on, in bytes (upstream's limit).
const REFUSAL_BYTES: usize = 50_000;
/// The parameter of logs by which whoever answers for a node is believed.
const UNVERIFIED: &str = "insecureSkipTLSVerifyBackend";
/// How it is told that somebody answers who cannot prove who they are.
const DISTRUST: &str = "tls: failed to verify certificate";
/// The port of a node's agent, where its status names no other.
const AGENT_PORT: u16 = 10_250;
/// Which of a node's addresses are tried, where nothing else is said.
const ADDRESS_TYPES: [&str; 2] = ["InternalIP", "ExternalIP"];

/// How the server speaks to nodes.
#[derive(Clone)]
pub struct NodeDialer {
    tls: Arc<ClientConfig>,
    /// Which of a node's addresses are tried, the first that it has.
    address_types: Arc<[String]>,
}

impl std::fmt::Debug for NodeDialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeDialer")
    }
}

impl NodeDialer {
    /// Speaks TLS with this certificate and these roots.
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls, address_types: ADDRESS_TYPES.map(str::to_owned).into() }
    }

    /// The same where nodes are reached by the first of their addresses of these types.
    #[must_use]
    pub fn with_address_types(self, types: Vec<String>) -> Self {
        Self { address_types: types.into(), ..self }
    }

    /// The same without asking who answers.
    fn unverified(&self) -> Self {
        let tls = Arc::new(component_base::tls::unverified(&self.tls));
        Self { tls, address_types: Arc::clone(&self.address_types) }
    }

    /// Where a path of a node's agent is.
    async fn onward(&self, node: &Value, path: String) -> Result<Onward, String> {
        let addresses = node.items_at(&["status", "addresses"]);
        let of = |kind: &String| addresses.iter().find(|it| it.str_at(&["type"]) == kind);
        let found = self.address_types.iter().find_map(of).map(|it| it.str_at(&["address"]));
        let found = found.ok_or("its status names no address that is preferred")?;
        let port = port_of(node);
        if let Ok(address) = found.parse::<IpAddr>() {
            let tls = Some((Arc::clone(&self.tls), ServerName::from(address)));
            return Ok(Onward { address: SocketAddr::new(address, port), tls, path });
        }
        let name = ServerName::try_from(found.to_owned()).map_err(|error| error.to_string())?;
        let resolved = tokio::net::lookup_host((found, port)).await;
        let first = resolved.map_err(|error| format!("lookup {found}: {error}"))?.next();
        let address = first.ok_or_else(|| format!("lookup {found}: no such host"))?;
        Ok(Onward { address, tls: Some((Arc::clone(&self.tls), name)), path })
    }

    /// Reads something of a node's agent, up to `limit` bytes.
    pub(crate) async fn get(
        &self,
        node: &Value,
        path: &str,
        limit: usize,
    ) -> Result<Bytes, String> {
        let onward = self.onward(node, path.to_owned()).await?;
        let request = Request::get(path).header(HOST, onward.address.to_string());
        let request =
            request.body(forward::full(Bytes::new())).map_err(|error| error.to_string())?;
        let answer = forward::ask(&onward, request).await?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), limit).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        if code.is_success() { Ok(body) } else { Err(format!("its agent answers {code}")) }
    }
}

/// Whether a subresource is a stream to a node.
pub(crate) fn is_stream(resource: &str, subresource: &str) -> bool {
    resource == "pods" && matches!(subresource, "log" | "exec" | "attach" | "portforward")
}

/// Passes a request to the agent of a node, and its answer back.
pub(crate) async fn connect(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let name = exchange.info.name.to_string();
    let subresource = exchange.info.subresource.clone();
    if subresource == "log" {
        log_options::check(&exchange.query, &name)?;
    }
    let current = persist::current(server, target, &name).await?;
    let mut options = stream_options(exchange);
    if subresource != "log" {
        needs_create(server, exchange).await?;
        let admission = Admission {
            operation: Operation::Connect,
            target,
            subresource: &subresource,
            name,
            dry_run: false,
            delete_options: Value::Null,
        };
        admit(server, exchange, &admission, &mut options, Some(&current.value)).await?;
        judge(server, exchange, &admission, &mut options, Some(&current.value)).await?;
    }
    let path = path_of(exchange, &current.value, &options)?;
    // Nothing is there to read before the pod has a node.
    if subresource == "log" && current.value.str_at(&["spec", "nodeName"]).is_empty() {
        let mut nothing = Response::new(Body::empty());
        *nothing.status_mut() = StatusCode::NO_CONTENT;
        return Ok(nothing);
    }
    let node = node_of(server, &current.value)?;
    if subresource != "log" && !asks_upgrade(exchange) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let body = body.read().await?;
    let node_name = node.str_at(&["metadata", "name"]).to_owned();
    let method = match exchange.parts.method {
        Method::HEAD => Method::GET,
        ref other => other.clone(),
    };
    exchange.lasting = Some(server.metrics.hold(exchange));
    exchange.bytes_per_second = server.operating.stream_bytes_per_second;
    let unverified = subresource == "log" && exchange.query.flag(UNVERIFIED);
    let passed = match agent_of(server, &node, (path, unverified)).await {
        Ok(to) => forward::forward(exchange, &to, method, forward::full(body)).await,
        Err(why) => Err(why),
    };
    if subresource == "log" {
        let distrusted = passed.as_ref().err().is_some_and(|it| it.starts_with(DISTRUST));
        server.metrics.logs.asked(unverified, distrusted);
    }
    let answer = passed.map_err(|error| {
        Status::internal(format!("error dialing backend: node {node_name}: {error}"))
    })?;
    if subresource == "log" && !answer.status().is_success() {
        return Err(refused(answer, &exchange.info.name).await);
    }
    Ok(counted(exchange.lasting.take(), answer))
}

/// Counts a log as open until its end.
fn counted(held: Option<Held>, answer: Response<Body>) -> Response<Body> {
    answer.map(|body| match body {
        Body::Full(bytes) => Body::Full(bytes),
        Body::Stream(pieces) => {
            let counted = pieces.map(move |piece| {
                let _held = &held;
                piece
            });
            Body::Stream(counted.boxed())
        }
    })
}

/// Options of streams that are yes or no.
const FLAGS: [&str; 4] = ["stdin", "stdout", "stderr", "tty"];

/// The options of a stream as an object: `PodExecOptions` and the like.
fn stream_options(exchange: &Exchange) -> Value {
    let kind = match exchange.info.subresource.as_str() {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        _ => "PodPortForwardOptions",
    };
    let mut options = Value::object();
    options.set_at(&["kind"], kind);
    options.set_at(&["apiVersion"], "v1");
    let query = &exchange.query;
    for flag in FLAGS.into_iter().filter(|it| query.flag(it)) {
        options.set_at(&[flag], true);
    }
    if let Some(container) = query.get("container").filter(|it| !it.is_empty()) {
        options.set_at(&["container"], container);
    }
    let command: Vec<&str> = query.all("command").collect();
    if !command.is_empty() {
        options.set_at(&["command"], command.into_iter().collect::<Value>());
    }
    let ports: Vec<i64> = query.all("ports").filter_map(|it| it.parse().ok()).collect();
    if !ports.is_empty() {
        options.set_at(&["ports"], ports.into_iter().map(Value::from).collect::<Value>());
    }
    options
}

/// What the node's agent is asked for by these options: parameters of its own names (upstream: `streamParams`).
fn parameters_of(options: &Value) -> String {
    let mut parameters = String::new();
    let mut add = |name: &str, value: &str| {
        let value = percent_encoding::utf8_percent_encode(value, NON_ALPHANUMERIC);
        let and = if parameters.is_empty() { "" } else { "&" };
        parameters.push_str(&format!("{and}{name}={value}"));
    };
    for (flag, parameter) in FLAGS.into_iter().zip(["input", "output", "error", "tty"]) {
        if options.bool_at(&[flag]) {
            add(parameter, "1");
        }
    }
    for word in options.items_at(&["command"]).iter().filter_map(Value::as_str) {
        add("command", word);
    }
    let ports = options.items_at(&["ports"]).iter().filter_map(Value::as_i64);
    let ports: Vec<String> = ports.map(|it| it.to_string()).collect();
    if !ports.is_empty() {
        add("port", &ports.join(","));
    }
    parameters
}

/// Whether the client wants to speak another protocol (upstream: `httpstream.IsUpgradeRequest`).
pub(crate) fn asks_upgrade(exchange: &Exchange) -> bool {
    let mut connection = exchange.parts.headers.get_all(CONNECTION).iter();
    connection.any(|it| it.as_bytes().to_ascii_lowercase().windows(7).any(|it| it == b"upgrade"))
}

/// An agent refuses in plain text; clients of the API are told a status that says the same (upstream:
/// `GenericHttpResponseChecker`).
async fn refused(answer: Response<Body>, pod: &str) -> Status {
    let code = answer.status();
    let text = Limited::new(answer.into_body(), REFUSAL_BYTES).collect().await;
    let text = text.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let (reason, message) = match code {
        StatusCode::INTERNAL_SERVER_ERROR => return Status::internal(text),
        StatusCode::BAD_REQUEST => return Status::bad_request(text),
        StatusCode::NOT_FOUND => {
            ("NotFound", "the server could not find the requested resource".to_owned())
        }
        StatusCode::FORBIDDEN => ("Forbidden", text.clone()),
        StatusCode::SERVICE_UNAVAILABLE => ("ServiceUnavailable", text.clone()),
        other => {
            let code = other.as_u16();
            let details = "but did not return more details";
            ("", format!("the server responded with the status code {code} {details}"))
        }
    };
    let cause = Cause { reason: "UnexpectedServerResponse", message: text, field: String::new() };
    let details = Details {
        name: pod.into(),
        kind: "pods/log".into(),
        causes: vec![cause],
        ..Details::default()
    };
    Status {
        code: code.as_u16(),
        reason,
        message: format!("{message} ( pods/log {pod})"),
        details: Some(Box::new(details)),
        ..Status::default()
    }
}

/// A stream into a container is as good as creating one, whatever method opens it (upstream:
/// `AuthorizePodWebsocketUpgradeCreatePermission`).
async fn needs_create(server: &Server, exchange: &Exchange) -> Result<(), Status> {
    let info = &exchange.info;
    if info.verb == "create" || info.resource != "pods" {
        return Ok(());
    }
    let failed = |message| Status { code: 500, message, ..Status::default() };
    create::may_create(server, exchange, failed).await
}

/// The node that a pod runs on.
fn node_of(server: &Server, pod: &Value) -> Result<Value, Status> {
    let name = pod.str_at(&["metadata", "name"]);
    let node = pod.str_at(&["spec", "nodeName"]);
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let found = server
        .catalog
        .built_in()
        .place("", "nodes")
        .and_then(|index| server.hub.cache(index).get(node));
    let found = found.ok_or_else(|| {
        // Upstream says `pods` here, with the name of the node.
        Status::not_found(apimachinery::status::GroupResource { group: "", resource: "pods" }, node)
    })?;
    found.to_value().map_err(Status::internal)
}

/// The path at the agent for a stream of a pod.
fn path_of(exchange: &Exchange, pod: &Value, options: &Value) -> Result<String, Status> {
    let namespace = pod.str_at(&["metadata", "namespace"]);
    let name = pod.str_at(&["metadata", "name"]);
    let (verb, query) = match exchange.info.subresource.as_str() {
        "portforward" => {
            let query = parameters_of(options);
            return Ok(format!("/portForward/{namespace}/{name}?{query}"));
        }
        // What a log is asked for by has the same names there.
        "log" => ("containerLogs", exchange.parts.uri.query().unwrap_or_default().to_owned()),
        "exec" => ("exec", parameters_of(options)),
        _ => ("attach", parameters_of(options)),
    };
    let container = container_of(options.str_at(&["container"]), pod)?;
    Ok(format!("/{verb}/{namespace}/{name}/{container}?{query}"))
}

/// The container that is meant: the one named, or the only one there is.
fn container_of(wanted: &str, pod: &Value) -> Result<String, Status> {
    let names = |list: &str| -> Vec<&str> {
        pod.items_at(&["spec", list]).iter().map(|it| it.str_at(&["name"])).collect()
    };
    let containers = names("containers");
    let others: Vec<&str> =
        names("initContainers").into_iter().chain(names("ephemeralContainers")).collect();
    let name = pod.str_at(&["metadata", "name"]);
    if wanted.is_empty() {
        return match containers.as_slice() {
            [one] => Ok((*one).to_owned()),
            many => {
                let mut message = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    many.join(" ")
                );
                let init = names("initContainers");
                if !init.is_empty() {
                    message
                        .push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(Status::bad_request(message))
            }
        };
    }
    if containers.contains(&wanted) || others.contains(&wanted) {
        return Ok(wanted.to_owned());
    }
    Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
}

/// Where the agent of a node listens.
pub(super) fn address_of(node: &Value) -> Result<(IpAddr, u16), String> {
    let addresses = node.items_at(&["status", "addresses"]);
    let find = |kind: &str| {
        let found = addresses.iter().find(|it| it.str_at(&["type"]) == kind);
        found.and_then(|it| it.str_at(&["address"]).parse().ok())
    };
    let address = find("InternalIP").or_else(|| find("ExternalIP"));
    let address = address.ok_or("its status names no address")?;
    Ok((address, port_of(node)))
}

fn port_of(node: &Value) -> u16 {
    let port = node.i64_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]);
    port.and_then(|it| u16::try_from(it).ok()).filter(|it| *it > 0).unwrap_or(AGENT_PORT)
}

/// Where a path of a node's agent is.
///
/// # Errors
/// When the node tells no address, or this server has no way to nodes.
pub(super) async fn agent_of(
    server: &Server,
    node: &Value,
    (path, unverified): (String, bool),
) -> Result<Onward, String> {
    let dialer = server.nodes.as_ref().ok_or("this server has no way to nodes")?;
    match unverified {
        true => dialer.unverified().onward(node, path).await,
        false => dialer.onward(node, path).await,
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn an_agent_is_asked_by_its_own_names() {
        let all = value!({"stdin": true, "stdout": true, "stderr": true, "tty": true,
            "container": "c", "command": ["sh", "a b&c"]});
        let expected = "input=1&output=1&error=1&tty=1&command=sh&command=a%20b%26c";
        assert_eq!(parameters_of(&all), expected);
        assert_eq!(parameters_of(&value!({"ports": [80, 443]})), "port=80%2C443");
    }

    async fn check(code: u16, text: &str, expected: &str) {
        let mut answer = Response::new(Body::full(text.to_owned()));
        *answer.status_mut() = StatusCode::from_u16(code).unwrap();
        let status = refused(answer, "p").await;
        assert_eq!(format!("{} {} {}", status.code, status.reason, status.message), expected);
    }

    #[tokio::test]
    async fn an_agent_s_refusal_is_told_as_a_status() {
        let text = "container \"c\" in pod \"p\" is waiting to start: ContainerCreating";
        check(400, text, &format!("400 BadRequest {text}")).await;
        let not_found = "the server could not find the requested resource ( pods/log p)";
        check(404, "", &format!("404 NotFound {not_found}")).await;
        check(500, "x", "500 InternalError Internal error occurred: x").await;
        let teapot = "the server responded with the status code 418 but did not return more details ( pods/log p)";
        check(418, "x", &format!("418  {teapot}")).await;
    }
}
