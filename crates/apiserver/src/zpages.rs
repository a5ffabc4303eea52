//! `/statusz` and `/flagz`: what a program is, and what it was started with.
//!
//! Upstream: `k8s.io/component-base/zpages`. For people as text; as an object where a client asks for that one by name.

use std::fmt::Write as _;
use std::time::Duration;

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

/// A program that tells of itself.
#[derive(Debug, Clone)]
pub struct Component<'c> {
    /// Upstream's name of it.
    pub name: &'c str,
    /// Its version, without a `v`.
    pub binary: &'c str,
    /// The minor version that it behaves as: `1.37`.
    pub emulated: String,
}

/// What is told, in the form that a client asks for.
#[derive(Debug, Clone)]
pub struct Told {
    encoding: Option<Encoding>,
    text: String,
    object: Value,
}

impl Told {
    /// Its media type, and it.
    #[must_use]
    pub fn content(self) -> (&'static str, Vec<u8>) {
        match self.encoding {
            None => ("text/plain; charset=utf-8", self.text.into_bytes()),
            Some(Encoding::Yaml) => {
                ("application/yaml", apimachinery::yaml::to_string(&self.object).into_bytes())
            }
            Some(_) => ("application/json", apimachinery::json::to_vec(&self.object)),
        }
    }
}

/// What the client takes: text, or the object in this encoding.
fn form(accepted: &str, kind: &str) -> Result<Option<Encoding>, Status> {
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

fn object(name: &str, kind: &str) -> Value {
    value!({"kind": kind, "apiVersion": (format!("{GROUP}/{VERSION}")), "metadata": {"name": name}})
}

/// `/statusz` of a program that began then and has been there for so long; `paths` tell something too.
///
/// # Errors
/// The client takes none of the forms that there are.
pub fn statusz(
    component: &Component<'_>,
    accepted: &str,
    (began, up): (Timestamp, Duration),
    paths: &[&str],
) -> Result<Told, Status> {
    let encoding = form(accepted, "Statusz")?;
    let Component { name, binary, emulated } = component;
    let up = up.as_secs();
    let mut text = format!("\n{name} statusz\n{WARNING}\n");
    let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
    let lines = [
        ("Started", said(began)),
        ("Up", format!("{hours} hr {minutes:02} min {seconds:02} sec")),
        ("Binary version", (*binary).to_owned()),
        ("Emulation version", emulated.clone()),
        ("Paths", paths.join(" ")),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "{name}: {value}");
    }
    let mut object = object(name, "Statusz");
    object.set_at(&["startTime"], time::format_time(began));
    object.set_at(&["uptimeSeconds"], i64::try_from(up).unwrap_or(i64::MAX));
    object.set_at(&["binaryVersion"], *binary);
    object.set_at(&["emulationVersion"], emulated.as_str());
    object.set_at(&["paths"], paths.iter().copied().collect::<Value>());
    Ok(Told { encoding, text, object })
}

/// A time as people write it: `Wed Oct 16 21:03:43 UTC 2024`.
fn said(at: Timestamp) -> String {
    at.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()
}

/// `/flagz` of a program that has these flags.
///
/// # Errors
/// The client takes none of the forms that there are.
pub fn flagz(name: &str, accepted: &str, flags: &[(String, String)]) -> Result<Told, Status> {
    let encoding = form(accepted, "Flagz")?;
    let mut text = format!("\n{name} flags\n{WARNING}\n");
    let mut all = Object::new();
    for (name, value) in flags {
        let _ = writeln!(text, "{name}={value}");
        all.insert(name.as_str(), value.as_str());
    }
    let mut object = object(name, "Flagz");
    object.set_at(&["flags"], all);
    Ok(Told { encoding, text, object })
}

fn answer(told: Told) -> Response<Body> {
    match told.encoding {
        None => respond::text(200, told.text),
        Some(encoding) => {
            let form = Form { encoding, ..Form::default() };
            respond::plain(form, 200, &told.object)
        }
    }
}

/// `/statusz` of the server.
pub(crate) fn status(server: &Server, exchange: &Exchange) -> Result<Response<Body>, Status> {
    let up = server.began.elapsed();
    let component = Component {
        name: NAME,
        binary: server.version.git.trim_start_matches('v'),
        emulated: format!("{}.{}", server.version.major, server.version.minor),
    };
    let began = server.clock.now() - Duration::from_secs(up.as_secs());
    let paths: Vec<&str> = paths(server).collect();
    statusz(&component, exchange.header(ACCEPT), (began, up), &paths).map(answer)
}

/// `/flagz` of the server.
pub(crate) fn flags(server: &Server, exchange: &Exchange) -> Result<Response<Body>, Status> {
    flagz(NAME, exchange.header(ACCEPT), &server.operating.component.flags).map(answer)
}
