//! From a request's bytes to an object: media type, syntax, kind, types, defaults.

use apimachinery::conform::ConformError;
use apimachinery::patch::go_text;
use apimachinery::{FieldErrors, Path, Status, Value, json, yaml};
use bytes::Bytes;
use http::header::CONTENT_TYPE;

use crate::exchange::Exchange;
use crate::options::FieldValidation;
use crate::target::Target;

/// How many bytes of a body an error message shows.
const SHOWN_BYTES: usize = 30;

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Json,
    Yaml,
    Protobuf,
}

/// The syntax a request says its body is in.
pub(crate) fn syntax_of(exchange: &Exchange) -> Result<Syntax, Status> {
    let media = exchange.header(CONTENT_TYPE);
    match media.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => Ok(Syntax::Json),
        "application/yaml" => Ok(Syntax::Yaml),
        crate::proto::MEDIA_TYPE => Ok(Syntax::Protobuf),
        _ => Err(Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// A body as a value, and what strict validation says of members that stand twice in it.
fn parse(syntax: Syntax, bytes: &[u8], target: &Target) -> Result<(Value, Vec<String>), String> {
    match syntax {
        Syntax::Protobuf => {
            let facts = target.served.facts;
            let value = crate::proto::decode(bytes, (&facts.api_version(), facts.kind))
                .map_err(|error| error.to_string())?;
            Ok((value, Vec::new()))
        }
        Syntax::Json => {
            let (value, repeated) = json::parse_input(bytes).map_err(|error| error.to_string())?;
            Ok((value, repeated.iter().map(|path| format!("duplicate field \"{path}\"")).collect()))
        }
        Syntax::Yaml => {
            let (value, repeated) =
                yaml::parse_reporting(bytes).map_err(|error| error.to_string())?;
            Ok((value, yaml::strict_error(&repeated).into_iter().collect()))
        }
    }
}

/// Decodes a body of the target's kind, with defaults, in the version of the request.
pub(crate) fn object(
    exchange: &mut Exchange,
    target: &Target,
    body: &Bytes,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let syntax = syntax_of(exchange)?;
    let facts = target.served.facts;
    let parsed = parse(syntax, body, target).and_then(|(value, repeated)| match value {
        Value::Null => Ok((Value::object(), repeated)),
        Value::Object(_) => Ok((value, repeated)),
        other => Err(format!(
            "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            other.kind_name()
        )),
    });
    let (mut value, repeated) = parsed.map_err(|why| {
        let why = match syntax {
            Syntax::Json => format!("couldn't get version/kind; json parse error: {why}"),
            Syntax::Yaml | Syntax::Protobuf => why,
        };
        unrecognized(facts.kind, &why, body)
    })?;
    check_kind(&mut value, target)?;
    let unknown = typed(target, &mut value, &repeated, validation)?;
    report(exchange, target, unknown, validation)?;
    target.resource().default(&target.served, &mut value);
    Ok(value)
}

/// A body of another kind than the target's, as it is written. `default` is the apiVersion and kind that a message
/// without them has.
pub(crate) fn untyped(
    exchange: &Exchange,
    body: &[u8],
    default: (&str, &str),
) -> Result<Value, Status> {
    let parsed = match syntax_of(exchange)? {
        Syntax::Json => json::parse(body).map_err(|error| error.to_string()),
        Syntax::Yaml => yaml::parse(body).map_err(|error| error.to_string()),
        Syntax::Protobuf => crate::proto::decode(body, default).map_err(|error| error.to_string()),
    };
    parsed.map_err(Status::bad_request)
}

/// What is left without the unknown fields may not nest more than can be held; upstream has no such limit below that
/// of the text.
fn refuse_deep(value: &Value) -> Result<(), String> {
    if json::is_too_deep(value) {
        return Err(format!("values nest deeper than {}", json::KEPT_DEPTH_MAX));
    }
    Ok(())
}

/// How a value came out of a patch: what does not fit is told differently.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patched<'p> {
    /// By server-side apply.
    Applied,
    /// Text was patched (JSON patch, merge patch): the whole result is shown.
    Text,
    /// Go's maps were patched by this one (strategic merge): the patch is shown.
    Map(&'p Value),
}

/// Types and defaults of a value that came out of a patch.
pub(crate) fn patched(
    exchange: &mut Exchange,
    target: &Target,
    value: &mut Value,
    validation: FieldValidation,
    origin: Patched<'_>,
) -> Result<(), Status> {
    keeps_its_kind(target, value, origin)?;
    let whole = matches!(origin, Patched::Text).then(|| value.clone());
    let fits = target.resource().conform(&target.served, value);
    let unknown = fits.map_err(|error| match origin {
        Patched::Applied => Status::bad_request(error.to_string()),
        Patched::Text => {
            let whole = json::to_vec(&whole.unwrap_or_default());
            does_not_fit(&String::from_utf8_lossy(&whole), &error.to_string())
        }
        Patched::Map(patch) => does_not_fit(&go_text(patch), &restored(&error)),
    })?;
    refuse_deep(value).map_err(Status::bad_request)?;
    let unknown: Vec<String> =
        unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
    match validation {
        FieldValidation::Strict if !unknown.is_empty() => {
            return Err(Status::bad_request(format!(
                "strict decoding error: {}",
                unknown.join(", ")
            )));
        }
        FieldValidation::Warn => exchange.warnings.extend(unknown),
        FieldValidation::Strict | FieldValidation::Ignore => {}
    }
    target.resource().default(&target.served, value);
    Ok(())
}

/// A patch cannot make another kind of an object.
fn keeps_its_kind(target: &Target, value: &mut Value, origin: Patched<'_>) -> Result<(), Status> {
    let facts = target.served.facts;
    let version = match facts.group {
        "" => facts.version.to_owned(),
        group => format!("{group}/{}", facts.version),
    };
    let given = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if given == (version.as_str(), facts.kind) {
        return Ok(());
    }
    if matches!(origin, Patched::Text) {
        let why = format!(
            "no kind \"{}\" is registered for version \"{}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            given.1, given.0
        );
        return Err(does_not_fit(&String::from_utf8_lossy(&json::to_vec(value)), &why));
    }
    // Upstream does not look at them on these ways.
    value.set_at(&["apiVersion"], version.as_str());
    value.set_at(&["kind"], facts.kind);
    Ok(())
}

/// 422: a patch whose result is no object of the kind.
fn does_not_fit(shown: &str, why: &str) -> Status {
    let mut errors = FieldErrors::new();
    errors.invalid_text(&Path::new("patch"), shown, why);
    Status::invalid("", "", "", &errors)
}

/// A fault of types in the words of upstream's conversion from Go's maps (`runtime/converter.go`).
fn restored(error: &ConformError) -> String {
    let (found, wanted) = match error {
        ConformError::Field { found, wanted, .. } | ConformError::Value { found, wanted } => {
            (found.as_str(), wanted.as_str())
        }
        ConformError::Text(text) => return text.clone(),
    };
    let (kind, name) = match found.split(' ').next().unwrap_or_default() {
        "number" if found.contains(['.', 'e']) => ("float64", "float64"),
        "number" => ("int64", "int64"),
        "array" => ("slice", "[]interface {}"),
        "object" => ("map", "map[string]interface {}"),
        other => (other, other),
    };
    if wanted.starts_with("[]") {
        format!("cannot restore slice from {kind}")
    } else if wanted.starts_with("map[") {
        format!("cannot restore map from {kind}")
    } else if wanted.contains('.') {
        format!("cannot restore struct from: {kind}")
    } else {
        format!("cannot convert {name} to {wanted}")
    }
}

/// 400: the body is not an object at all. JSON objects are shown as they are, anything else in hexadecimal.
fn unrecognized(kind: &str, why: &str, body: &[u8]) -> Status {
    let (shown, dots) =
        if body.len() > SHOWN_BYTES { (&body[..SHOWN_BYTES], " ...") } else { (body, "") };
    let text = match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {why} ({text}{dots})"
    ))
}

fn cannot_handle(kind: &str, version: &str, wanted: &str, why: impl std::fmt::Display) -> Status {
    Status::bad_request(format!(
        "{kind} in version \"{version}\" cannot be handled as a {wanted}: {why}"
    ))
}

/// Checks that the body is of the target's kind; fills in kind and version where they are left out.
fn check_kind(value: &mut Value, target: &Target) -> Result<(), Status> {
    let facts = target.served.facts;
    let wanted = facts.api_version();
    let kind = text_member(value, "kind", facts.kind);
    let version = text_member(value, "apiVersion", &wanted);
    if kind != facts.kind || version != wanted {
        let (group, short) = version
            .split_once('/')
            .map_or(("", version.as_str()), |(group, version)| (group, version));
        let why = if api::type_of_kind(group, short, &kind).is_some() {
            format!(
                "converting ({short}.{kind}) to ({}.{}): unknown conversion",
                internal_package(facts.group),
                facts.kind
            )
        } else {
            format!(
                "no kind \"{kind}\" is registered for version \"{version}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
            )
        };
        return Err(cannot_handle(&kind, short, facts.kind, why));
    }
    value.set_at(&["kind"], facts.kind);
    value.set_at(&["apiVersion"], wanted);
    Ok(())
}

fn text_member(value: &Value, key: &str, default: &str) -> String {
    match value.str_at(&[key]) {
        "" => default.to_owned(),
        text => text.to_owned(),
    }
}

/// What upstream's Go package of a group's internal types is called.
fn internal_package(group: &str) -> &str {
    match group {
        "" => "core",
        "rbac.authorization.k8s.io" => "rbac",
        other => other.split('.').next().unwrap_or(other),
    }
}

/// Conforms the value; what strict validation objects to comes back.
fn typed(
    target: &Target,
    value: &mut Value,
    repeated: &[String],
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    let facts = target.served.facts;
    let unknown = target.resource().conform(&target.served, value);
    let unknown = unknown.map_err(|error: ConformError| {
        cannot_handle(facts.kind, facts.version, facts.kind, error)
    })?;
    refuse_deep(value).map_err(|why| cannot_handle(facts.kind, facts.version, facts.kind, why))?;
    if validation == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    Ok(repeated
        .iter()
        .cloned()
        .chain(unknown.iter().map(|path| format!("unknown field \"{path}\"")))
        .collect())
}

fn report(
    exchange: &mut Exchange,
    target: &Target,
    problems: Vec<String>,
    validation: FieldValidation,
) -> Result<(), Status> {
    let facts = target.served.facts;
    if validation == FieldValidation::Strict && !problems.is_empty() {
        let why = format!("strict decoding error: {}", problems.join(", "));
        return Err(cannot_handle(facts.kind, facts.version, facts.kind, why));
    }
    exchange.warnings.extend(problems);
    Ok(())
}
