//! `/statusz` and `/flagz`: what a program is, and what it was started with.
//!
//! Upstream: `k8s.io/component-base/zpages`. For people as text; as an object where a client asks for that one by name.

use std::fmt::Write as _;

use apimachinery::{Object, Status, Value, time, value};
use http::Response;
use http::header::ACCEPT;
use jiff::Timestamp;

use crate::Server;
use crate::body::Body;
use crate::exchange::Exchange;
use crate::negotiate::{Encoding, Form};
use crate::respond;

const NAME: &str = "kube-apiserver";
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
    guarantees and is for debugging purposes only.\n";
const GROUP: &str = "config.k8s.io";
const VERSION: &str = "v1beta1";
/// Other paths that tell something, which `/statusz` names.
const PATHS: [&str; 7] =
    ["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"];

/// Whether `/statusz` is there.
pub(crate) fn tells_status(server: &Server) -> bool {
    server.operating.features.enabled("ComponentStatusz")
}

/// Whether `/flagz` is there.
pub(crate) fn tells_flags(server: &Server) -> bool {
    server.operating.features.enabled("ComponentFlagz")
}

/// The paths that tell something.
pub(crate) fn paths(server: &Server) -> impl Iterator<Item = &'static str> {
    let (status, flags) = (tells_status(server), tells_flags(server));
    PATHS.into_iter().filter(move |it| match *it {
        "/statusz" => status,
        "/flagz" => flags,
        _ => true,
    })
}

/// What the client takes: text, or the object in this encoding.
fn form(exchange: &Exchange, kind: &str) -> Result<Option<Encoding>, Status> {
    let accepted = exchange.header(ACCEPT);
    if accepted.is_empty() {
        return Ok(None);
    }
    for media in accepted.split(',') {
        let mut parts = media.split(';').map(str::trim);
        let encoding = match parts.next().unwrap_or_default() {
            "*/*" | "text/*" | "text/plain" => return Ok(None),
            "application/json" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let said: Vec<&str> = parts.collect();
        let wanted = [format!("g={GROUP}"), format!("v={VERSION}"), format!("as={kind}")];
        if wanted.iter().all(|it| said.contains(&it.as_str())) {
            return Ok(Some(encoding));
        }
    }
    let parameters = format!(";as={kind};g={GROUP};v={VERSION}");
    Err(Status::not_acceptable(format!(
        "only the following media types are accepted: application/json{parameters}, \
         application/yaml{parameters}, text/plain"
    )))
}

fn answer(encoding: Option<Encoding>, text: String, object: &Value) -> Response<Body> {
    match encoding {
        None => respond::text(200, text),
        Some(encoding) => {
            let form = Form { encoding, ..Form::default() };
            respond::plain(form, 200, object)
        }
    }
}

fn object(kind: &str) -> Value {
    value!({"kind": kind, "apiVersion": (format!("{GROUP}/{VERSION}")), "metadata": {"name": NAME}})
}

/// `/statusz`
pub(crate) fn status(server: &Server, exchange: &Exchange) -> Result<Response<Body>, Status> {
    let encoding = form(exchange, "Statusz")?;
    let up = server.began.elapsed().as_secs();
    let binary = server.version.git.trim_start_matches('v');
    let emulated = format!("{}.{}", server.version.major, server.version.minor);
    let mut text = format!("\n{NAME} statusz\n{WARNING}\n");
    let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
    let began = server.clock.now() - std::time::Duration::from_secs(up);
    let lines = [
        ("Started", said(began)),
        ("Up", format!("{hours} hr {minutes:02} min {seconds:02} sec")),
        ("Binary version", binary.to_owned()),
        ("Emulation version", emulated.clone()),
        ("Paths", paths(server).collect::<Vec<_>>().join(" ")),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "{name}: {value}");
    }
    let mut object = object("Statusz");
    object.set_at(&["startTime"], time::format_time(began));
    object.set_at(&["uptimeSeconds"], i64::try_from(up).unwrap_or(i64::MAX));
    object.set_at(&["binaryVersion"], binary);
    object.set_at(&["emulationVersion"], emulated);
    object.set_at(&["paths"], paths(server).collect::<Value>());
    Ok(answer(encoding, text, &object))
}

/// A time as people write it: `Wed Oct 16 21:03:43 UTC 2024`.
fn said(at: Timestamp) -> String {
    at.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()
}

/// `/flagz`
pub(crate) fn flags(server: &Server, exchange: &Exchange) -> Result<Response<Body>, Status> {
    let encoding = form(exchange, "Flagz")?;
    let mut text = format!("\n{NAME} flags\n{WARNING}\n");
    let mut flags = Object::new();
    for (name, value) in &server.operating.component.flags {
        let _ = writeln!(text, "{name}={value}");
        flags.insert(name.as_str(), value.as_str());
    }
    let mut object = object("Flagz");
    object.set_at(&["flags"], flags);
    Ok(answer(encoding, text, &object))
}
