//! From a request's bytes to an object: media type, syntax, kind, types, defaults.

use api::ResourceFacts;
use apimachinery::cbor::CborError;
use apimachinery::conform::{ConformError, conform};
use apimachinery::patch::go_text;
use apimachinery::{FieldErrors, Path, Status, Value, head, json, yaml};
use bytes::Bytes;
use http::header::CONTENT_TYPE;

use crate::exchange::Exchange;
use crate::negotiate::media_types;
use crate::options::FieldValidation;
use crate::posted;
use crate::target::Target;

/// How many bytes of a body an error message shows.
const SHOWN_BYTES: usize = 30;
/// The type of the options of a delete.
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// What upstream calls its scheme of all kinds.
const SCHEME: &str = "pkg/api/legacyscheme/scheme.go:30";
/// And the one that the options of deletes are read by.
const META_SCHEME: &str = "pkg/apis/meta/internalversion/scheme/register.go:27";
/// What that one knows besides, in whatever version.
const META_KINDS: [&str; 7] = [
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
    "APIVersions",
    "CreateOptions",
    "Status",
    "UpdateOptions",
];
/// Versions that upstream reads and does not serve.
const RETIRED: [(&str, &[&str]); 4] = [
    ("policy/v1beta1", &["Eviction", "PodDisruptionBudget"]),
    ("apps/v1beta1", &["ControllerRevision", "Deployment", "Scale", "StatefulSet"]),
    (
        "apps/v1beta2",
        &["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "Scale", "StatefulSet"],
    ),
    (
        "extensions/v1beta1",
        &["DaemonSet", "Deployment", "Ingress", "NetworkPolicy", "ReplicaSet", "Scale"],
    ),
];

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Json,
    Yaml,
    Protobuf,
    Cbor,
}

/// The syntax a request says its body is in.
pub(crate) fn syntax_of(exchange: &Exchange) -> Result<Syntax, Status> {
    let (media, parameters) = exchange
        .header(CONTENT_TYPE)
        .split_once(';')
        .unwrap_or((exchange.header(CONTENT_TYPE), ""));
    let media = if are_parameters(parameters) { media.trim() } else { "?" };
    let lower = media.bytes().any(|it| it.is_ascii_uppercase()).then(|| media.to_ascii_lowercase());
    match lower.as_deref().unwrap_or(media) {
        "" | "application/json" => Ok(Syntax::Json),
        "application/yaml" => Ok(Syntax::Yaml),
        crate::proto::MEDIA_TYPE => Ok(Syntax::Protobuf),
        crate::cbor::MEDIA_TYPE if exchange.cbor => Ok(Syntax::Cbor),
        _ => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            media_types(exchange.cbor)
        ))),
    }
}

/// Whether parameters of a media type are such that Go takes them: names with values, and nothing after a last semicolon.
/// Quoted values are not looked into.
fn are_parameters(text: &str) -> bool {
    let is_token = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    let is_one = |text: &str| {
        text.split_once('=')
            .is_some_and(|(name, value)| is_token(name.trim()) && is_token(value.trim()))
    };
    let text = text.trim();
    let text = text.strip_suffix(';').unwrap_or(text);
    text.is_empty() || text.contains('"') || text.split(';').all(is_one)
}

/// A body as a value, and what strict validation says of members that stand twice in it. `default` is the apiVersion
/// and kind of a message that says none; `also` are versions whose messages are the same.
fn parse(
    syntax: Syntax,
    bytes: &[u8],
    default: (&str, &str),
    also: &[&str],
) -> Result<(Value, Vec<String>), String> {
    let (value, repeated) = match syntax {
        // Only options come this way: what they do not know is dropped without a word.
        Syntax::Cbor => {
            let node = crate::cbor::type_of_body(bytes, default)?;
            let value = crate::cbor::decode(bytes, node).map_err(|error| error.to_string())?;
            (value, Vec::new())
        }
        Syntax::Protobuf => {
            let value =
                crate::proto::decode(bytes, default, also).map_err(|error| error.to_string())?;
            (value, Vec::new())
        }
        Syntax::Json => {
            let (value, repeated) =
                json::parse_input(bytes).map_err(|error| head::unread(&error.to_string()))?;
            (value, repeated.iter().map(|path| format!("duplicate field \"{path}\"")).collect())
        }
        Syntax::Yaml => {
            let (value, repeated) =
                yaml::parse_reporting(bytes).map_err(|error| error.to_string())?;
            (value, yaml::strict_error(&repeated).into_iter().collect())
        }
    };
    Ok((head::object(value)?, repeated))
}

/// Decodes a body of the target's kind, with defaults, in the version of the request.
pub(crate) fn object(
    exchange: &mut Exchange,
    target: &Target,
    body: &Bytes,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let facts = target.served.facts;
    let resource = target.resource();
    let conform = |value: &mut Value| {
        resource.from_removed(&target.served, value);
        forgets_managers(target, value);
        resource.conform(&target.served, value)
    };
    let updates = exchange.info.verb == "update";
    let custom = |value: &mut Value, facts: &'static ResourceFacts, _: &[&str]| {
        check_custom_kind(value, facts, body, updates)
    };
    let check: Check<'_> = if resource.is_custom() { &custom } else { &check_kind };
    let mut value = of_kind(exchange, (facts, &[]), body, validation, check, &conform)?;
    exchange.labelled = value.at(&["metadata", "labels"]).is_some();
    target.resource().default(&target.served, &mut value);
    record(exchange, &value);
    Ok(value)
}

/// An empty list of managers asks for forgetting all of them, as one with an empty entry does. It is made that one, since types
/// drop empty lists. Metadata of custom resources has lost it by the time that upstream looks.
fn forgets_managers(target: &Target, value: &mut Value) {
    let path = ["metadata", "managedFields"];
    let empty = value.at(&path).and_then(Value::as_array).is_some_and(<[_]>::is_empty);
    if empty && !target.resource().is_custom() {
        value.set_at(&path, vec![Value::object()]);
    }
}

/// Tells the audit what was sent.
fn record(exchange: &Exchange, value: &Value) {
    if let Some(audited) = &exchange.audit {
        audited.request(value);
    }
}

/// Decodes a body of a kind that is posted to a subresource, which may be written in the versions `also` too.
pub(crate) fn posted(
    exchange: &mut Exchange,
    (facts, also): (&'static ResourceFacts, &[&str]),
    body: &Bytes,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let node = posted::served(facts)?.node;
    let conform = |value: &mut Value| conform(api::schema(), node, value);
    let value = of_kind(exchange, (facts, also), body, validation, &check_kind, &conform)?;
    record(exchange, &value);
    Ok(value)
}

/// Drops unknown fields, whose paths come back, and checks types.
type Conform<'c> = &'c dyn Fn(&mut Value) -> Result<Vec<String>, ConformError>;

/// Checks that a body is of a kind, which may be written in some more versions.
type Check<'c> = &'c dyn Fn(&mut Value, &'static ResourceFacts, &[&str]) -> Result<(), Status>;

/// Decodes a body of a kind: syntax, kind, types, and what strict validation objects to.
fn of_kind(
    exchange: &mut Exchange,
    (facts, also): (&'static ResourceFacts, &[&str]),
    body: &Bytes,
    validation: FieldValidation,
    check: Check<'_>,
    conform: Conform<'_>,
) -> Result<Value, Status> {
    let syntax = syntax_of(exchange)?;
    let (mut value, repeated) = match syntax {
        Syntax::Cbor => cbor_body(facts, body, validation)?,
        syntax => parse(syntax, body, (&facts.api_version(), facts.kind), also)
            .map_err(|why| unrecognized(facts.kind, &why, body))?,
    };
    check(&mut value, facts, also)?;
    let cannot = |why: String| cannot_handle(facts.kind, facts.version, facts.kind, why);
    let unknown = conform(&mut value).map_err(|error| match syntax {
        Syntax::Json => cannot(error.as_written_in(body).to_string()),
        _ => cannot(error.to_string()),
    })?;
    refuse_deep(&value).map_err(cannot)?;
    let unknown = unknown.iter().map(|path| format!("unknown field \"{path}\""));
    let problems: Vec<String> = repeated.into_iter().chain(unknown).collect();
    match validation {
        FieldValidation::Strict if !problems.is_empty() => {
            Err(cannot(format!("strict decoding error: {}", problems.join(", "))))
        }
        FieldValidation::Strict | FieldValidation::Ignore => Ok(value),
        FieldValidation::Warn => {
            problems.iter().for_each(|problem| warn(exchange, problem));
            Ok(value)
        }
    }
}

/// Warns of what strict validation would refuse; of several repeated keys in YAML one by one.
pub(crate) fn warn(exchange: &mut Exchange, problem: &str) {
    let lines = problem.strip_prefix("yaml: unmarshal errors:\n").unwrap_or(problem);
    exchange.warnings.extend(lines.lines().map(|line| line.trim().to_owned()));
}

/// A body in CBOR, which is read into its type where that is built in, and what strict validation says of unknown fields.
fn cbor_body(
    facts: &ResourceFacts,
    body: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let default = (&*facts.api_version(), facts.kind);
    let unrecognized = |why: String| unrecognized(facts.kind, &why, body);
    let node = crate::cbor::type_of_body(body, default).map_err(unrecognized)?;
    let cannot = |error: CborError| cannot_handle(facts.kind, facts.version, facts.kind, error);
    let unknown = match validation {
        FieldValidation::Ignore => None,
        FieldValidation::Strict | FieldValidation::Warn => {
            crate::cbor::unknown_field(body, node).map_err(cannot)?
        }
    };
    let value = crate::cbor::decode(body, node).map_err(cannot)?;
    let value = match value {
        Value::Null => Value::object(),
        Value::Object(object) => Value::Object(object),
        other => return Err(unrecognized(crate::cbor::no_map(body, &other))),
    };
    Ok((value, unknown.into_iter().collect()))
}

/// Decodes the options in the body of a delete, which are the same in every version. Unknown fields are dropped.
pub(crate) fn delete_options(exchange: &Exchange, body: &Bytes) -> Result<Value, Status> {
    let syntax = syntax_of(exchange)?;
    let default = ("meta.k8s.io/v1", "DeleteOptions");
    let (mut value, _) = parse(syntax, body, default, &[]).map_err(Status::bad_request)?;
    let kind = text_member(&value, "kind", default.1);
    if META_KINDS.contains(&kind.as_str()) {
        let why = format!("converting (v1.{kind}) to (v1.DeleteOptions): unknown conversion");
        return Err(Status::bad_request(why));
    }
    if kind != default.1 {
        let version = text_member(&value, "apiVersion", default.0);
        return Err(Status::bad_request(not_registered(&kind, &version, META_SCHEME)));
    }
    let node = api::type_of_definition(DELETE_OPTIONS)
        .ok_or_else(|| Status::internal("the type DeleteOptions is missing"))?;
    conform(api::schema(), node, &mut value)
        .map_err(|error| Status::bad_request(error.to_string()))?;
    refuse_deep(&value).map_err(Status::bad_request)?;
    value.set_at(&["kind"], default.1);
    value.default_at(&["apiVersion"], default.0);
    record(exchange, &value);
    Ok(value)
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

/// Types and defaults of a value that came out of a patch; `of_patch` is what strict validation says of the patch itself.
pub(crate) fn patched(
    exchange: &mut Exchange,
    target: &Target,
    value: &mut Value,
    (validation, of_patch): (FieldValidation, &[String]),
    origin: Patched<'_>,
) -> Result<(), Status> {
    keeps_its_kind(target, value, origin)?;
    let whole = matches!(origin, Patched::Text).then(|| value.clone());
    forgets_managers(target, value);
    let fits = target.resource().conform(&target.served, value);
    let told = Told { origin, whole: whole.as_ref() };
    told.settle(exchange, fits, value, (validation, of_patch))?;
    exchange.labelled = value.at(&["metadata", "labels"]).is_some();
    target.resource().default(&target.served, value);
    Ok(())
}

/// The same of a `Scale`, which is patched as one.
pub(crate) fn patched_scale(
    exchange: &mut Exchange,
    value: &mut Value,
    strictly: (FieldValidation, &[String]),
    origin: Patched<'_>,
) -> Result<(), Status> {
    let facts = &posted::SCALE;
    let given = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    let version = facts.api_version();
    if given != (version.as_str(), facts.kind) {
        if matches!(origin, Patched::Text) {
            let why = not_registered(given.1, given.0, SCHEME);
            return Err(does_not_fit(&String::from_utf8_lossy(&json::to_vec(value)), &why));
        }
        value.set_at(&["apiVersion"], version.as_str());
        value.set_at(&["kind"], facts.kind);
    }
    let whole = matches!(origin, Patched::Text).then(|| value.clone());
    let fits = conform(api::schema(), posted::served(facts)?.node, value);
    Told { origin, whole: whole.as_ref() }.settle(exchange, fits, value, strictly)
}

/// How it is told what does not fit of a value that came out of a patch.
struct Told<'t> {
    origin: Patched<'t>,
    /// What came out, where the whole of it is shown.
    whole: Option<&'t Value>,
}

impl Told<'_> {
    fn refused(&self, why: &str) -> Status {
        match self.origin {
            Patched::Applied => Status::bad_request(why),
            Patched::Text => {
                let whole = json::to_vec(self.whole.unwrap_or(&Value::Null));
                does_not_fit(&String::from_utf8_lossy(&whole), why)
            }
            Patched::Map(patch) => does_not_fit(&go_text(patch), why),
        }
    }

    /// Refuses what is of other types, and what strict validation objects to, or warns of that.
    fn settle(
        &self,
        exchange: &mut Exchange,
        fits: Result<Vec<String>, ConformError>,
        value: &Value,
        (validation, of_patch): (FieldValidation, &[String]),
    ) -> Result<(), Status> {
        let unknown = fits.map_err(|error| match (self.origin, error) {
            (Patched::Text, error) => self.refused(&error.to_string()),
            (Patched::Map(_), ConformError::Conversion(why)) => plain_failure(why),
            (Patched::Map(_), error) => self.refused(&restored(&error)),
            (Patched::Applied, ConformError::Conversion(why)) => {
                plain_failure(format!("failed to convert to unversioned: {why}"))
            }
            (Patched::Applied, error) => self.refused(&error.to_string()),
        })?;
        refuse_deep(value).map_err(Status::bad_request)?;
        let unknown = unknown.iter().map(|path| format!("unknown field \"{path}\""));
        let problems: Vec<String> = of_patch.iter().cloned().chain(unknown).collect();
        match validation {
            FieldValidation::Strict if !problems.is_empty() => {
                Err(self.refused(&format!("strict decoding error: {}", problems.join(", "))))
            }
            FieldValidation::Warn => {
                exchange.warnings.extend(problems);
                Ok(())
            }
            FieldValidation::Strict | FieldValidation::Ignore => Ok(()),
        }
    }
}

/// 500: what upstream passes on as it is.
fn plain_failure(message: String) -> Status {
    Status { code: 500, message, ..Status::default() }
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
    if matches!(origin, Patched::Text) && target.resource().is_custom() && !given.1.is_empty() {
        let mut errors = FieldErrors::new();
        let wanted = [("apiVersion", given.0, version.as_str()), ("kind", given.1, facts.kind)];
        for (member, is, should_be) in wanted.into_iter().filter(|it| it.1 != it.2) {
            errors.invalid_text(&Path::new(member), is, &format!("must be {should_be}"));
        }
        let name = value.str_at(&["metadata", "name"]);
        return Err(Status::invalid(facts.group, given.1, name, &errors));
    }
    if matches!(origin, Patched::Text) {
        let why = not_registered(given.1, given.0, SCHEME);
        return Err(does_not_fit(&String::from_utf8_lossy(&json::to_vec(value)), &why));
    }
    // Upstream does not look at them on these ways.
    value.set_at(&["apiVersion"], version.as_str());
    value.set_at(&["kind"], facts.kind);
    Ok(())
}

/// 422: a patch whose result is no object of the kind.
pub(crate) fn does_not_fit(shown: &str, why: &str) -> Status {
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
        ConformError::Text(text) | ConformError::Conversion(text) => return text.clone(),
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

fn not_registered(kind: &str, version: &str, scheme: &str) -> String {
    format!("no kind \"{kind}\" is registered for version \"{version}\" in scheme \"{scheme}\"")
}

/// Checks that the body is of the kind; fills in kind and version where they are left out.
fn check_kind(
    value: &mut Value,
    facts: &'static ResourceFacts,
    also: &[&str],
) -> Result<(), Status> {
    let wanted = facts.api_version();
    let kind = text_member(value, "kind", facts.kind);
    let version = text_member(value, "apiVersion", &wanted);
    if kind == facts.kind && (version == wanted || also.contains(&version.as_str())) {
        value.set_at(&["kind"], facts.kind);
        value.set_at(&["apiVersion"], wanted);
        return Ok(());
    }
    let (group, short) = version.split_once('/').unwrap_or(("", version.as_str()));
    let retired = RETIRED
        .iter()
        .any(|(retired, kinds)| *retired == version && kinds.contains(&kind.as_str()));
    let known = retired || api::type_of_kind(group, short, &kind).is_some();
    // Kinds that moved from one group to another are the same kind.
    if known && kind == facts.kind && (retired || group == facts.group || kind == "Event") {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    let why = if known {
        format!(
            "converting ({short}.{kind}) to ({}.{}): unknown conversion",
            internal_package(facts.group),
            facts.kind
        )
    } else {
        not_registered(&kind, &version, SCHEME)
    };
    Err(cannot_handle(&kind, short, facts.kind, why))
}

/// The same for a custom resource, which has to say its kind, and is then compared with what it should be.
fn check_custom_kind(
    value: &mut Value,
    facts: &'static ResourceFacts,
    body: &[u8],
    updates: bool,
) -> Result<(), Status> {
    let wanted = facts.api_version();
    let kind = value.str_at(&["kind"]).to_owned();
    if kind.is_empty() {
        // JSON is shown as it was sent.
        let sent = body.trim_ascii();
        let shown = if sent.starts_with(b"{") || sent == b"null" {
            String::from_utf8_lossy(body).trim().to_owned()
        } else {
            json::to_string(value)
        };
        let why = format!("Object 'Kind' is missing in '{shown}'");
        return Err(unrecognized(facts.kind, &why, body));
    }
    let version = value.str_at(&["apiVersion"]).to_owned();
    if version != wanted {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    // An update without a version is refused for that, or because there is nothing to update.
    let refused_later = updates && value.str_at(&["metadata", "resourceVersion"]).is_empty();
    if kind != facts.kind && !refused_later {
        let mut errors = FieldErrors::new();
        let detail = format!("must be {}", facts.kind);
        errors.invalid_text(&Path::new("kind"), &kind, &detail);
        let name = value.str_at(&["metadata", "name"]);
        return Err(Status::invalid(facts.group, &kind, name, &errors));
    }
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
        "" | "events.k8s.io" => "core",
        "internal.apiserver.k8s.io" => "apiserverinternal",
        "rbac.authorization.k8s.io" => "rbac",
        other => other.split('.').next().unwrap_or(other),
    }
}
