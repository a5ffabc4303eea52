//! `proxy` of pods, services and nodes: a client of the API speaks HTTP with what runs in the cluster.
//!
//! Upstream: `ResourceLocation` of the three resources, and `UpgradeAwareHandler`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use admission::Operation;
use apimachinery::status::GroupResource;
use apimachinery::{Status, Value, value};
use component_base::tls::Trust;
use http::header::{HOST, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::admit::{Admission, admit, judge};
use super::connect::{self, address_of, agent_of};
use super::links::{self, Way};
use crate::Server;
use crate::body::Body;
use crate::exchange::{Exchange, RequestBody};
use crate::forward::{self, Onward};
use crate::persist;
use crate::target::Target;

const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The ports of schemes.
const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// Passes a request to a pod, one of a service's endpoints, or a node.
pub(super) async fn proxy(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let resource = target.served.facts.resource;
    let id = exchange.info.name.to_string();
    let asked = Asked::parse(&id).ok_or_else(|| {
        let what = resource.trim_end_matches('s');
        Status::bad_request(format!("invalid {what} request {}", apimachinery::field::quote(&id)))
    })?;
    let current = persist::current(server, target, asked.name).await;
    let current = current.map_err(|status| not_there(status, resource, &asked))?;
    let admission = Admission {
        operation: Operation::Connect,
        target,
        subresource: "proxy",
        name: id.clone(),
        dry_run: false,
        delete_options: Value::Null,
    };
    let segments = if target.served.facts.namespaced { 7 } else { 5 };
    let path = exchange.parts.uri.path().to_owned();
    let (prefix, rest) = path.split_at(end_of(&path, segments));
    let mut options = value!({"kind": (options_kind(resource)), "apiVersion": "v1", "path": rest});
    admit(server, exchange, &admission, &mut options, Some(&current.value)).await?;
    judge(server, exchange, &admission, &mut options, Some(&current.value)).await?;
    // Admission may have changed where it goes.
    let rest = options.str_at(&["path"]);
    let query = exchange.parts.uri.query().map(|it| format!("?{it}")).unwrap_or_default();
    let is_open = rest.is_empty() && !connect::asks_upgrade(exchange);
    let rest = if rest.is_empty() { "/" } else { rest };
    let onward = format!("{rest}{query}");
    let to = match resource {
        "pods" => pod(&asked, &current.value, onward)?,
        "services" => service(server, &asked, &id, &current.value, onward)?,
        _ => node(server, &asked, &current.value, onward).await?,
    };
    if is_open {
        return Ok(moved(&format!("{path}/{query}")));
    }
    tell_origin(exchange, &path);
    let here = exchange.parts.headers.get(FORWARDED_HOST).and_then(|it| it.to_str().ok());
    let way = Way {
        prefix: prefix.to_owned(),
        behind: to.address.to_string(),
        here: here.map(str::to_owned),
    };
    let method = exchange.parts.method.clone();
    if connect::asks_upgrade(exchange) {
        exchange.lasting = Some(server.metrics.hold(exchange));
        exchange.bytes_per_second = server.operating.stream_bytes_per_second;
    }
    let passed = forward::forward(exchange, &to, method, forward::streamed(body)).await;
    let answer = passed.map_err(|error| {
        Status::service_unavailable(format!("error trying to reach service: {error}"))
    })?;
    Ok(links::rewritten(answer, way))
}

/// The kind of the options of a proxied request.
pub(super) fn options_kind(resource: &str) -> &'static str {
    match resource {
        "pods" => "PodProxyOptions",
        "services" => "ServiceProxyOptions",
        _ => "NodeProxyOptions",
    }
}

/// What a name asks for: `name`, `name:port`, `scheme:name:port` (upstream: `SplitSchemeNamePort`).
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Asked<'a> {
    fn parse(id: &'a str) -> Option<Self> {
        let mut parts = id.split(':');
        let (https, name, port) = match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            (name, None, ..) => (false, name, ""),
            (name, Some(port), None, _) => (false, name, port),
            ("" | "http", Some(name), Some(port), None) => (false, name, port),
            ("https", Some(name), Some(port), None) => (true, name, port),
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { https, name, port })
    }

    fn port(&self) -> Result<u16, Status> {
        match self.port {
            "" if self.https => Ok(HTTPS),
            "" => Ok(HTTP),
            number => number.parse().map_err(|_| {
                let why = format!("dial tcp: lookup tcp/{number}: unknown port");
                Status::service_unavailable(format!("error trying to reach service: {why}"))
            }),
        }
    }

    fn onward(&self, address: IpAddr, port: u16, path: String) -> Result<Onward, Status> {
        if !is_global_unicast(address) {
            return Err(not_allowed());
        }
        // What runs in a pod has no certificate that this server could know (upstream: the same).
        let tls = if self.https {
            let config = component_base::tls::client(Trust::Anybody).map_err(Status::internal)?;
            let mut config: ClientConfig = config.with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Some((Arc::new(config), ServerName::from(address)))
        } else {
            None
        };
        Ok(Onward { address: SocketAddr::new(address, port), tls, path })
    }
}

fn not_allowed() -> Status {
    Status::bad_request("address not allowed")
}

/// Upstream's rule for addresses that may be reached this way (Go: `IP.IsGlobalUnicast`).
fn is_global_unicast(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(it) => it.is_link_local() || it == Ipv4Addr::BROADCAST,
        IpAddr::V6(it) => it.segments()[0] & 0xffc0 == 0xfe80 || it == Ipv6Addr::UNSPECIFIED,
    };
    !link_local && !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

fn pod(asked: &Asked<'_>, pod: &Value, path: String) -> Result<Onward, Status> {
    let address = pod.items_at(&["status", "podIPs"]).first().map(|it| it.str_at(&["ip"]));
    let address = address.unwrap_or_else(|| pod.str_at(&["status", "podIP"]));
    let address: IpAddr = address.parse().map_err(|_| not_allowed())?;
    let mut ports = pod.items_at(&["spec", "containers"]).iter();
    let first = ports.find_map(|container| {
        container.items_at(&["ports"]).first().and_then(|it| it.i64_at(&["containerPort"]))
    });
    let port = match (asked.port, first.and_then(|it| u16::try_from(it).ok())) {
        ("", Some(first)) => first,
        _ => asked.port()?,
    };
    asked.onward(address, port, path)
}

/// Upstream looks at a service itself only for the names of its ports, and otherwise misses its Endpoints.
fn not_there(status: Status, resource: &str, asked: &Asked<'_>) -> Status {
    let by_number = asked.port.parse::<i64>().is_ok();
    if resource != "services" || by_number || status.code != 404 {
        return status;
    }
    Status::not_found(GroupResource { group: "", resource: "endpoints" }, asked.name)
}

/// One of the ready endpoints in a service's slices, behind a port that is given by name, by number, or is the only one.
fn service(
    server: &Server,
    asked: &Asked<'_>,
    id: &str,
    service: &Value,
    path: String,
) -> Result<Onward, Status> {
    let name = apimachinery::field::quote(asked.name);
    let ports = service.items_at(&["spec", "ports"]);
    let wanted = match asked.port.parse::<i64>() {
        Ok(number) => {
            let found = ports.iter().find(|it| it.i64_at(&["port"]) == Some(number));
            let found = found.map(|it| it.str_at(&["name"]));
            found.ok_or_else(|| {
                let why = format!("no service port {number} found for service {name}");
                Status::service_unavailable(why)
            })?
        }
        Err(_) => asked.port,
    };
    let none = |of: &str| {
        let of = apimachinery::field::quote(of);
        Status::service_unavailable(format!("no endpoints available for service {of}"))
    };
    let slices = slices_of(server, service);
    if slices.is_empty() {
        return Err(none(asked.name));
    }
    let candidates: Vec<(IpAddr, u16)> =
        slices.iter().flat_map(|slice| ready_in(slice, wanted)).collect();
    let many = u64::try_from(candidates.len()).unwrap_or(u64::MAX);
    let nth = if many == 0 { return Err(none(id)) } else { server.random.below(many) };
    let (address, port) = candidates[usize::try_from(nth).unwrap_or_default()];
    asked.onward(address, port, path)
}

/// The ready endpoints of a slice, behind its port of this name. Whether one is ready that does not say so, is not known:
/// then it is.
fn ready_in(slice: &Value, port: &str) -> Vec<(IpAddr, u16)> {
    let mut ports = slice.items_at(&["ports"]).iter();
    let port = ports.find(|it| it.str_at(&["name"]) == port).and_then(|it| it.i64_at(&["port"]));
    let Some(port) = port.and_then(|it| u16::try_from(it).ok()) else { return Vec::new() };
    let endpoints = slice.items_at(&["endpoints"]).iter();
    let ready = endpoints
        .filter(|it| it.at(&["conditions", "ready"]).and_then(Value::as_bool) != Some(false));
    let addresses = ready.filter_map(|it| it.items_at(&["addresses"]).first()?.as_str());
    addresses.filter_map(|it| Some((it.parse().ok()?, port))).collect()
}

fn slices_of(server: &Server, service: &Value) -> Vec<Value> {
    let name = service.str_at(&["metadata", "name"]);
    let namespace = service.str_at(&["metadata", "namespace"]);
    let place = server.catalog.built_in().place("discovery.k8s.io", "endpointslices");
    let Some(cache) = place.map(|it| server.hub.cache(it)) else { return Vec::new() };
    let mut slices = cache.everything(namespace, 0).objects.into_objects();
    slices.retain(|it| it.facts.label("kubernetes.io/service-name") == Some(name));
    slices.iter().filter_map(|it| it.to_value().ok()).collect()
}

/// A node's agent, or another port of the node.
async fn node(
    server: &Server,
    asked: &Asked<'_>,
    node: &Value,
    path: String,
) -> Result<Onward, Status> {
    let unreachable =
        |why: String| Status::service_unavailable(format!("error trying to reach service: {why}"));
    let (address, agent) = address_of(node).map_err(unreachable)?;
    // A node writes its address itself: nobody comes to what listens beside this server by it.
    if !is_global_unicast(address) {
        return Err(not_allowed());
    }
    if asked.port.is_empty() || asked.port == agent.to_string() {
        return agent_of(server, node, (path, false)).await.map_err(unreachable);
    }
    asked.onward(address, asked.port()?, path)
}

/// Where the first so many segments of a path end.
fn end_of(path: &str, segments: usize) -> usize {
    let mut seen = 0;
    let mut inside = false;
    for (at, byte) in path.bytes().enumerate() {
        if byte == b'/' {
            if seen == segments && inside {
                return at;
            }
            inside = false;
        } else if !inside {
            inside = true;
            seen += 1;
        }
    }
    path.len()
}

/// Relative links of a page need a path that ends in a slash.
fn moved(to: &str) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(LOCATION, to);
    }
    answer
}

/// Says where the client believes to be.
pub(crate) fn tell_origin(exchange: &mut Exchange, path: &str) {
    let authority = exchange.parts.uri.authority().map(|it| it.as_str().to_owned());
    let host = exchange.parts.headers.get(HOST).cloned();
    let host = host.or_else(|| HeaderValue::try_from(authority?).ok());
    let headers = &mut exchange.parts.headers;
    if let Ok(path) = HeaderValue::from_str(path) {
        headers.insert(FORWARDED_URI, path);
    }
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_a_scheme_and_a_port() {
        let it = |https, name, port| Some(Asked { https, name, port });
        for (id, expected) in [
            ("a", it(false, "a", "")),
            ("a:80", it(false, "a", "80")),
            ("a:web", it(false, "a", "web")),
            ("http:a:80", it(false, "a", "80")),
            ("https:a:", it(true, "a", "")),
            (":a:80", it(false, "a", "80")),
            ("ftp:a:80", None),
            (":80", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(Asked::parse(id), expected, "{id}");
        }
    }

    #[test]
    fn a_path_ends_after_its_segments() {
        for (path, expected) in [
            ("/api/v1/nodes/n/proxy", ""),
            ("/api/v1/nodes/n/proxy/", "/"),
            ("//api/v1/nodes/n/proxy//x/%2F", "//x/%2F"),
            ("/api", ""),
        ] {
            assert_eq!(&path[end_of(path, 5)..], expected, "{path}");
        }
    }

    #[test]
    fn what_is_not_global_is_not_reached() {
        for (address, expected) in [
            ("10.0.0.1", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("255.255.255.255", false),
        ] {
            assert_eq!(is_global_unicast(address.parse().unwrap()), expected, "{address}");
        }
    }
}
