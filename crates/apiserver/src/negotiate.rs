//! Which form an answer takes: what the client accepts against what the server can write.

use http::header::{ACCEPT, USER_AGENT};

use apimachinery::Status;

use crate::exchange::Exchange;

/// How bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
    /// `application/cbor`, where the server has it.
    Cbor,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// The object itself.
    None,
    /// A `Table` of this version of `meta.k8s.io`.
    Table(&'static str),
    /// Metadata alone, of this version of `meta.k8s.io`.
    Partial(&'static str),
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// How bytes are written.
    pub encoding: Encoding,
    /// What is written.
    pub transform: Transform,
    /// Spaces and line breaks, for people.
    pub pretty: bool,
    /// What rows of tables have besides their cells.
    pub include: Include,
}

/// What rows of tables have besides their cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    /// The metadata of their objects.
    #[default]
    Metadata,
    /// Their objects.
    Object,
    /// Nothing.
    Nothing,
}

impl Include {
    /// What a client asks for.
    ///
    /// # Errors
    /// 400 where there is no such thing.
    fn of(exchange: &Exchange) -> Result<Self, Status> {
        match exchange.query.get("includeObject").unwrap_or_default() {
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            "None" => Ok(Self::Nothing),
            other => Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
                apimachinery::field::quote(other)
            ))),
        }
    }
}

/// What the server can write and read for most requests, as it is told to clients that want something else.
const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// The media types of objects, by whether CBOR is among them.
pub(crate) fn media_types(cbor: bool) -> String {
    if cbor { format!("{MEDIA_TYPES}, {}", crate::cbor::MEDIA_TYPE) } else { MEDIA_TYPES.into() }
}

impl Encoding {
    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => crate::proto::MEDIA_TYPE,
            Self::Cbor => crate::cbor::MEDIA_TYPE,
        }
    }
}

impl Default for Form {
    fn default() -> Self {
        Self {
            encoding: Encoding::Json,
            transform: Transform::None,
            pretty: false,
            include: Include::default(),
        }
    }
}

/// One clause of an Accept header.
#[derive(Debug)]
struct Clause<'h> {
    kind: &'h str,
    sub: &'h str,
    quality: f32,
    params: Vec<(&'h str, &'h str)>,
}

impl Clause<'_> {
    /// Whether the router lets it pass: `application/*` is none of the types it knows.
    fn is_known(&self, cbor: bool) -> bool {
        match (self.kind, self.sub) {
            ("*", "*") | ("application", "json" | "yaml" | "vnd.kubernetes.protobuf") => true,
            ("application", "cbor") => cbor,
            _ => false,
        }
    }

    fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(it, _)| *it == name).map_or("", |(_, value)| value)
    }
}

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = header
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .filter_map(|text| {
            let mut parts = text.split(';').map(str::trim);
            let (kind, sub) = match parts.next()? {
                "*" => ("*", "*"),
                name => name.split_once('/')?,
            };
            let params: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
            let quality =
                params.iter().find(|(name, _)| *name == "q").and_then(|(_, q)| q.parse().ok());
            let quality = quality.unwrap_or(1.0);
            Some(Clause { kind: kind.trim(), sub: sub.trim(), quality, params })
        })
        .collect();
    // Stable: equal ones keep the client's order.
    clauses.sort_by(|a, b| {
        b.quality.total_cmp(&a.quality).then_with(|| wildness(a).cmp(&wildness(b)))
    });
    clauses
}

fn wildness(clause: &Clause<'_>) -> u8 {
    u8::from(clause.sub == "*") + u8::from(clause.kind == "*")
}

/// The form of an answer about a resource.
///
/// # Errors
/// 406 where the client accepts nothing the server can write.
pub(crate) fn negotiate(exchange: &Exchange) -> Result<Form, Status> {
    let offered = Offered::of(exchange);
    let form = for_people(exchange, choose(exchange.header(ACCEPT), offered)?);
    match form.transform {
        Transform::Table(_) => Ok(Form { include: Include::of(exchange)?, ..form }),
        Transform::None | Transform::Partial(_) => Ok(form),
    }
}

/// The form of an answer about what is nothing but asked: reviews, tokens, bindings. No rows can be made of them.
///
/// # Errors
/// 406 where the client accepts nothing the server can write.
pub(crate) fn negotiate_without_rows(exchange: &Exchange) -> Result<Form, Status> {
    let offered = Offered { tables: false, ..Offered::of(exchange) };
    Ok(for_people(exchange, choose(exchange.header(ACCEPT), offered)?))
}

/// The form of a document that tells what is served. Upstream's aggregator answers for groups itself, where no router asks first.
///
/// # Errors
/// 406 where the client accepts nothing the server can write.
pub(crate) fn document(exchange: &Exchange, routed: bool) -> Result<Form, Status> {
    let offered = Offered { transforms: false, routed, ..Offered::of(exchange) };
    Ok(for_people(exchange, choose(exchange.header(ACCEPT), offered)?))
}

/// Whether a client accepts a document that is in this media type alone.
///
/// # Errors
/// 406 where it does not.
pub(crate) fn produces(exchange: &Exchange, media_type: &str) -> Result<(), Status> {
    let header = exchange.header(ACCEPT);
    let named = |it: &Clause<'_>| media_type.split_once('/') == Some((it.kind, it.sub));
    let accepted = |it: &Clause<'_>| (it.kind, it.sub) == ("*", "*") || named(it);
    if header.is_empty() || clauses(header).iter().any(accepted) {
        return Ok(());
    }
    Err(no_representation(media_type))
}

/// The form of an answer that is always the object itself, errors included: what is not understood is JSON.
#[must_use]
pub(crate) fn plain(exchange: &Exchange) -> Form {
    let offered = Offered { transforms: false, routed: false, ..Offered::of(exchange) };
    for_people(exchange, choose(exchange.header(ACCEPT), offered).unwrap_or_default())
}

fn for_people(exchange: &Exchange, form: Form) -> Form {
    let wanted = crate::pretty::is_wanted;
    let pretty = form.pretty || wanted(exchange.query.get("pretty"), exchange.header(USER_AGENT));
    Form { pretty, ..form }
}

/// What there is to choose from besides objects as JSON, YAML and protobuf.
#[derive(Debug, Clone, Copy)]
struct Offered {
    /// Tables and metadata alone.
    transforms: bool,
    /// Tables, where there are transforms.
    tables: bool,
    cbor: bool,
    /// Upstream's router asks first what is accepted.
    routed: bool,
}

impl Offered {
    fn of(exchange: &Exchange) -> Self {
        let (cbor, routed) = (exchange.cbor, !exchange.unrouted);
        Self { transforms: true, tables: true, cbor, routed }
    }
}

fn choose(header: &str, offered: Offered) -> Result<Form, Status> {
    if header.is_empty() {
        return Ok(Form::default());
    }
    let clauses = clauses(header);
    if offered.routed && !clauses.iter().any(|it| it.is_known(offered.cbor)) {
        return Err(no_representation(&media_types(offered.cbor)));
    }
    for clause in clauses {
        let encoding = match (clause.kind, clause.sub) {
            ("application" | "*", "json") | ("application" | "*", "*") => Encoding::Json,
            ("application", "yaml") => Encoding::Yaml,
            ("application", "vnd.kubernetes.protobuf") => Encoding::Protobuf,
            ("application", "cbor") if offered.cbor => Encoding::Cbor,
            _ => continue,
        };
        let Some(transform) = transform_of(&clause, offered) else { continue };
        // A table holds what protobuf has no message for.
        if matches!((encoding, transform), (Encoding::Protobuf, Transform::Table(_))) {
            continue;
        }
        let pretty = clause.param("pretty") == "1";
        return Ok(Form { encoding, transform, pretty, include: Include::default() });
    }
    Err(Status::not_acceptable(format!(
        "only the following media types are accepted: {}",
        media_types(offered.cbor)
    )))
}

/// 406 of the router, which upstream asks before any handler: nothing that is produced here is accepted.
fn no_representation(available: &str) -> Status {
    Status {
        details: Some(Box::default()),
        ..Status::not_acceptable(format!(
            "406: Not Acceptable\n\nAvailable representations: {available}"
        ))
    }
}

/// 406: no form in which objects follow each other.
pub(crate) fn no_stream(cbor: bool) -> Status {
    let also = if cbor { format!(", {}", crate::cbor::WATCH_MEDIA_TYPE) } else { String::new() };
    Status::not_acceptable(format!(
        "only the following media types are accepted: application/json;stream=watch, {}{also}",
        crate::proto::WATCH_MEDIA_TYPE
    ))
}

fn transform_of(clause: &Clause<'_>, offered: Offered) -> Option<Transform> {
    let (what, group, version) = (clause.param("as"), clause.param("g"), clause.param("v"));
    if what.is_empty() {
        return Some(Transform::None);
    }
    let version = match (group, version) {
        ("meta.k8s.io", "v1") => "v1",
        ("meta.k8s.io", "v1beta1") => "v1beta1",
        _ => return None,
    };
    match what {
        _ if !offered.transforms => None,
        "Table" if offered.tables => Some(Transform::Table(version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Transform::Partial(version)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: &str) {
        check_of(false, accept, expected);
    }

    fn check_of(cbor: bool, accept: &str, expected: &str) {
        let text =
            match choose(accept, Offered { transforms: true, tables: true, cbor, routed: true }) {
                Ok(form) => format!("{} {:?}", form.encoding.media_type(), form.transform),
                Err(status) => status.code.to_string(),
            };
        assert_eq!(text, expected, "for {accept}");
    }

    #[test]
    fn the_first_form_that_can_be_written_is_taken() {
        check("*/*", "application/json None");
        check("application/yaml", "application/yaml None");
        check(
            "application/vnd.kubernetes.protobuf, application/json",
            "application/vnd.kubernetes.protobuf None",
        );
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io, application/json",
            "application/json None",
        );
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            r#"application/vnd.kubernetes.protobuf Partial("v1")"#,
        );
        check("application/*", "406");
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            r#"application/json Table("v1")"#,
        );
        check(
            "application/json;as=Bogus;v=v1;g=meta.k8s.io, application/json;q=0.5",
            "application/json None",
        );
        check("text/html", "406");
    }

    #[test]
    fn cbor_is_taken_where_the_server_has_it() {
        let table = "application/cbor;as=Table;v=v1;g=meta.k8s.io";
        check("application/cbor", "406");
        check("application/cbor, application/json;q=0.9", "application/json None");
        check_of(true, "application/cbor", "application/cbor None");
        check_of(true, "application/cbor-seq", "406");
        check_of(true, "application/cbor, application/json;q=0.9", "application/cbor None");
        check_of(true, "application/cbor;q=0.5, application/json", "application/json None");
        check_of(true, table, r#"application/cbor Table("v1")"#);
        check_of(true, "*/*", "application/json None");
    }
}
