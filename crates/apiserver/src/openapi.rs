//! `/openapi/v2` and `/openapi/v3`: what the server serves, for clients that read schemas.
//!
//! Documents are made when they are first asked for, one piece at a time, and kept compressed. Their ETags are hashes
//! of what they say, so that a client that knows a hash may keep a document for ever.

mod custom;
mod definitions;
mod document;
mod gnostic;
mod parameters;
mod paths;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use api::ResourceFacts;
use apimachinery::{Object, Status, Value, value};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, EXPIRES, HeaderValue,
    IF_NONE_MATCH, LOCATION, VARY,
};
use http::{Response, StatusCode};
use parking_lot::Mutex;
use registry::custom::Definition;
use sha2::{Digest, Sha512};

use crate::Server;
use crate::aggregator::{RemoteVersion as Remote, View};
use crate::body::Body;
use crate::discovery;
use crate::exchange::Exchange;
use crate::respond;
use document::{Encoding, Part};

/// A year: what is addressed by its hash never changes.
const FOREVER_SECONDS: i64 = 365 * 24 * 3600;

const V2_PROTOBUF: &[&str] = &[
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];
const V3_PROTOBUF: &[&str] = &[
    "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
];

/// The version of OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// 2.0: one document.
    V2,
    /// 3.0: a document for each group and version.
    V3,
}

impl Version {
    fn reference(self, definition: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{definition}"),
            Self::V3 => format!("#/components/schemas/{definition}"),
        }
    }

    fn protobuf_types(self) -> &'static [&'static str] {
        match self {
            Self::V2 => V2_PROTOBUF,
            Self::V3 => V3_PROTOBUF,
        }
    }
}

/// The documents of what is built in, which last, and those of custom resources for as long as they are the same.
#[derive(Debug)]
pub(crate) struct BuiltIn {
    source: Arc<Source>,
    parts: Vec<Arc<Document>>,
    kept: Mutex<BTreeMap<(&'static str, &'static str), Kept>>,
}

/// A document of custom resources, with what it was made of.
#[derive(Debug)]
struct Kept {
    made_of: Vec<[u8; 32]>,
    document: Arc<Document>,
}

/// All documents for one set of resources.
#[derive(Debug)]
pub(crate) struct Documents {
    everything: Document,
    parts: Vec<Arc<Document>>,
    /// The documents of other servers: their places in the index, and where they are.
    remote: Vec<(String, String)>,
    index: OnceLock<Packed>,
}

/// What documents are made of.
#[derive(Debug)]
pub(super) struct Source {
    facts: Vec<&'static ResourceFacts>,
    custom: Vec<Arc<Definition>>,
    /// Parts of other servers' documents of version 2.
    remote: Vec<Arc<Value>>,
    server_version: String,
}

#[derive(Debug)]
struct Document {
    part: Part,
    version: Version,
    source: Arc<Source>,
    /// The hash of its JSON, which the index tells before anybody has asked for the document.
    hash: OnceLock<String>,
    json: OnceLock<Packed>,
    protobuf: OnceLock<Packed>,
}

/// A document as it is kept.
#[derive(Debug)]
struct Packed {
    gzip: Bytes,
    etag: HeaderValue,
}

impl Document {
    fn new(part: Part, version: Version, source: &Arc<Source>) -> Self {
        let source = Arc::clone(source);
        let (hash, json, protobuf) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { part, version, source, hash, json, protobuf }
    }

    /// `apis/apps/v1`, `version`: its place in the index.
    fn path(&self) -> String {
        match &self.part {
            Part::Everything => String::new(),
            Part::Root(path) | Part::Path(path, _, _) => path.trim_matches('/').to_owned(),
            Part::Group(group) => format!("apis/{group}"),
            Part::GroupVersion("", version) => format!("api/{version}"),
            Part::GroupVersion(group, version) => format!("apis/{group}/{version}"),
        }
    }

    fn write(&self, encoding: Encoding) -> Vec<u8> {
        document::write(&self.part, &self.source, self.version, encoding)
    }

    fn hash(&self) -> &str {
        self.hash.get_or_init(|| hash(&self.write(Encoding::Json)))
    }

    fn packed(&self, encoding: Encoding) -> &Packed {
        let cell = match encoding {
            Encoding::Json => &self.json,
            Encoding::Protobuf => &self.protobuf,
        };
        cell.get_or_init(|| {
            let text = self.write(encoding);
            if encoding == Encoding::Json {
                self.hash.get_or_init(|| hash(&text));
            }
            Packed::new(&text, self.hash())
        })
    }
}

impl Packed {
    fn new(text: &[u8], hash: &str) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let written = encoder.write_all(text).and_then(|()| encoder.finish());
        let gzip = written.expect("because a vector takes what it is given");
        let etag = HeaderValue::from_str(&format!("\"{hash}\""))
            .expect("because a hash is hexadecimal digits");
        Self { gzip: gzip.into(), etag }
    }
}

/// SHA-512 in upper case, as upstream writes it.
fn hash(text: &[u8]) -> String {
    let mut out = String::with_capacity(128);
    for byte in Sha512::digest(text) {
        let _ = write!(out, "{byte:02X}");
    }
    out
}

impl BuiltIn {
    pub(crate) fn new(facts: Vec<&'static ResourceFacts>, server_version: &str) -> Self {
        let parts = document::parts(&facts);
        let (custom, remote) = (Vec::new(), Vec::new());
        let source = Source { facts, custom, remote, server_version: server_version.into() };
        let source = Arc::new(source);
        let document = |part| Arc::new(Document::new(part, Version::V3, &source));
        Self { parts: parts.into_iter().map(document).collect(), kept: Mutex::default(), source }
    }

    /// The documents of the versions of custom groups. What has not changed is not made again.
    fn custom(&self, custom: &[(Arc<Definition>, [u8; 32])]) -> Vec<Arc<Document>> {
        let mut versions: BTreeMap<(&'static str, &'static str), Vec<usize>> = BTreeMap::new();
        for (place, (definition, _)) in custom.iter().enumerate() {
            for view in definition.served() {
                let facts = view.facts();
                versions.entry((facts.group, facts.version)).or_default().push(place);
            }
        }
        let mut kept = self.kept.lock();
        kept.retain(|name, _| versions.contains_key(name));
        let document = |((group, version), places): (_, Vec<usize>)| {
            let made_of: Vec<[u8; 32]> = places.iter().map(|it| custom[*it].1).collect();
            if let Some(same) = kept.get(&(group, version)).filter(|it| it.made_of == made_of) {
                return Arc::clone(&same.document);
            }
            let own: Vec<_> = places.iter().map(|it| Arc::clone(&custom[*it].0)).collect();
            let source = Arc::new(Source {
                facts: discovery::custom_facts(&own),
                custom: own,
                remote: Vec::new(),
                server_version: self.source.server_version.clone(),
            });
            let part = Part::GroupVersion(group, version);
            let document = Arc::new(Document::new(part, Version::V3, &source));
            kept.insert((group, version), Kept { made_of, document: Arc::clone(&document) });
            document
        };
        versions.into_iter().map(document).collect()
    }
}

impl Documents {
    /// The documents of the built-in resources and of these custom ones, with what those are made of; and what is known
    /// of those of other servers.
    pub(crate) fn new(
        built_in: &BuiltIn,
        custom: &[(Arc<Definition>, [u8; 32])],
        remote: &View,
    ) -> Self {
        let mut parts = built_in.parts.clone();
        parts.extend(built_in.custom(custom));
        parts.retain(|it| match it.part {
            Part::GroupVersion(group, version) => remote.find(group, version).is_none(),
            Part::Everything | Part::Root(_) | Part::Group(_) | Part::Path(..) => true,
        });
        let definitions: Vec<_> = custom.iter().map(|(it, _)| Arc::clone(it)).collect();
        let mut facts = built_in.source.facts.clone();
        facts.extend(discovery::custom_facts(&definitions));
        facts.retain(|it| remote.find(it.group, it.version).is_none());
        let server_version = built_in.source.server_version.clone();
        let merged = remote.versions.iter().filter_map(|it| it.openapi_v2.clone()).collect();
        let source = Source { facts, custom: definitions, remote: merged, server_version };
        let everything = Document::new(Part::Everything, Version::V2, &Arc::new(source));
        let known = remote.versions.iter().filter(|it| !it.openapi.is_empty());
        let place = |it: &Remote| (format!("apis/{}/{}", it.group, it.version), it.openapi.clone());
        let remote = known.map(place).collect();
        Self { parts, remote, everything, index: OnceLock::new() }
    }

    fn index(&self) -> &Packed {
        self.index.get_or_init(|| {
            let paths = self.parts.iter().map(|document| {
                let path = document.path();
                let url = format!("/openapi/v3/{path}?hash={}", document.hash());
                (path, value!({"serverRelativeURL": url}))
            });
            let remote = self.remote.iter();
            let remote = remote
                .map(|(path, url)| (path.clone(), value!({"serverRelativeURL": (url.as_str())})));
            let paths: Object = paths.chain(remote).collect();
            let text = apimachinery::json::to_vec(&value!({"paths": paths}));
            Packed::new(&text, &hash(&text))
        })
    }
}

/// Answers a request below `/openapi`; `None` where the path is another one.
pub(crate) fn answer(
    server: &Server,
    exchange: &Exchange,
) -> Option<Result<Response<Body>, Status>> {
    let rest = exchange.info.path.strip_prefix("/openapi/")?;
    server.catalog.with_openapi(|documents| answer_from(server, exchange, rest, documents))
}

fn answer_from(
    server: &Server,
    exchange: &Exchange,
    rest: &str,
    documents: &Documents,
) -> Option<Result<Response<Body>, Status>> {
    let found = match rest {
        "v2" => serve(exchange, &documents.everything),
        "v3" => send(exchange, documents.index(), "application/json"),
        path => {
            let path = path.strip_prefix("v3/")?;
            let Some(document) = documents.parts.iter().find(|it| it.path() == path) else {
                return Some(Ok(unknown()));
            };
            match exchange.query.get("hash") {
                None | Some("") => serve(exchange, document),
                Some(hash) if hash == document.hash() => {
                    let answer = serve(exchange, document);
                    answer.map(|response| keep_forever(server, response))
                }
                Some(_) => Ok(moved(document.hash(), path)),
            }
        }
    };
    Some(found)
}

/// Nobody serves this version: upstream's handler of these documents says so without a word.
fn unknown() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// The document in the first form that the client accepts.
fn serve(exchange: &Exchange, document: &Document) -> Result<Response<Body>, Status> {
    let accept = exchange.header(ACCEPT);
    let types = document.version.protobuf_types();
    for clause in accept.split(',').map(|it| it.split(';').next().unwrap_or_default().trim()) {
        let (encoding, media) = match clause {
            "" | "*/*" | "application/*" | "application/json" => {
                (Encoding::Json, "application/json")
            }
            other => match types.iter().find(|it| **it == other) {
                Some(_) => (Encoding::Protobuf, types[0]),
                None => continue,
            },
        };
        return send(exchange, document.packed(encoding), media);
    }
    let accepted = ["application/json"].iter().chain(types).copied().collect::<Vec<_>>();
    Err(Status::not_acceptable(format!(
        "only the following media types are accepted: {}",
        accepted.join(", ")
    )))
}

fn send(
    exchange: &Exchange,
    packed: &Packed,
    media: &'static str,
) -> Result<Response<Body>, Status> {
    let zipped =
        exchange.header(ACCEPT_ENCODING).split(',').any(|it| it.trim().starts_with("gzip"));
    let mut response = if exchange.parts.headers.get(IF_NONE_MATCH) == Some(&packed.etag) {
        respond::bytes(304, media, "")
    } else if zipped {
        let mut response = respond::bytes(200, media, packed.gzip.clone());
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        let mut text = Vec::new();
        GzDecoder::new(&*packed.gzip).read_to_end(&mut text).map_err(Status::internal)?;
        respond::bytes(200, media, text)
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, packed.etag.clone());
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    Ok(response)
}

/// A document that is asked for by its hash never changes.
fn keep_forever(server: &Server, mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    let now = server.clock.now();
    let then = now.checked_add(jiff::SignedDuration::from_secs(FOREVER_SECONDS)).unwrap_or(now);
    let text = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&then);
    if let Some(value) = text.ok().and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(EXPIRES, value);
    }
    response
}

/// Another hash than the document has now: it is elsewhere.
fn moved(hash: &str, path: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(to) = HeaderValue::from_str(&format!("/openapi/v3/{path}?hash={hash}")) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}
