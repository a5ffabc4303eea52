//! `AuthorizationConfiguration`: who is asked whether a request may go on, in which order.

use std::collections::BTreeSet;
use std::path::{Path as File, PathBuf};
use std::time::Duration;

use apimachinery::{FieldErrors, Path, Value, duration};
use cel::{IssueKind, Program, Type};

use super::{Shape, joined, read};
use crate::expressions;

/// How many conditions a webhook may have.
const MAX_CONDITIONS: usize = 64;
/// The longest that a webhook may be waited for.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a webhook's yes counts where nothing is said of it.
const AUTHORIZED_TTL: Duration = Duration::from_secs(5 * 60);
/// How long any other answer of it does.
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);
/// The types of authorizers; webhooks may be several.
pub const TYPES: [&str; 6] = ["ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];

const CONDITION: Shape = Shape::Object(&[("expression", Shape::Text)]);
const WEBHOOK: Shape = Shape::Object(&[
    ("timeout", Shape::Text),
    ("authorizedTTL", Shape::Text),
    ("unauthorizedTTL", Shape::Text),
    ("cacheAuthorizedRequests", Shape::Bool),
    ("cacheUnauthorizedRequests", Shape::Bool),
    ("subjectAccessReviewVersion", Shape::Text),
    ("matchConditionSubjectAccessReviewVersion", Shape::Text),
    ("failurePolicy", Shape::Text),
    ("connectionInfo", Shape::Object(&[("type", Shape::Text), ("kubeConfigFile", Shape::Text)])),
    ("matchConditions", Shape::List(&CONDITION)),
]);
const MEMBERS: &[(&str, Shape)] = &[(
    "authorizers",
    Shape::List(&Shape::Object(&[
        ("type", Shape::Text),
        ("name", Shape::Text),
        ("webhook", WEBHOOK),
    ])),
)];

/// The whole file: the authorizers in order.
#[derive(Debug)]
pub struct AuthorizationConfiguration {
    /// Asked one after the other.
    pub authorizers: Vec<Named>,
}

/// One authorizer.
#[derive(Debug)]
pub struct Named {
    /// As metrics call it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// What an authorizer is.
#[derive(Debug)]
#[allow(missing_docs, reason = "they are upstream's types")]
pub enum Kind {
    Abac,
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Webhook(Box<Webhook>),
}

/// A webhook that is asked.
#[derive(Debug)]
pub struct Webhook {
    /// How long it is waited for.
    pub timeout: Duration,
    /// How long it is believed who said yes; not at all, where it is zero.
    pub authorized_ttl: Duration,
    /// How long it is believed who did not.
    pub unauthorized_ttl: Duration,
    /// `v1` or `v1beta1`
    pub version: String,
    /// Whether nobody may anything where it cannot be asked; others are asked otherwise.
    pub denies_on_failure: bool,
    /// Where it is; `None` for the cluster itself.
    pub kubeconfig: Option<PathBuf>,
    /// It is asked where all of these hold.
    pub conditions: Vec<Condition>,
}

/// What must hold for a webhook to be asked.
#[derive(Debug)]
pub struct Condition {
    /// As it was written.
    pub text: String,
    /// What it does.
    pub program: Program,
}

impl Kind {
    /// Upstream's name of the type.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Abac => "ABAC",
            Self::AlwaysAllow => "AlwaysAllow",
            Self::AlwaysDeny => "AlwaysDeny",
            Self::Node => "Node",
            Self::Rbac => "RBAC",
            Self::Webhook(_) => "Webhook",
        }
    }

    /// An authorizer that needs nothing else.
    fn plain(name: &str) -> Option<Self> {
        Some(match name {
            "ABAC" => Self::Abac,
            "AlwaysAllow" => Self::AlwaysAllow,
            "AlwaysDeny" => Self::AlwaysDeny,
            "Node" => Self::Node,
            "RBAC" => Self::Rbac,
            _ => return None,
        })
    }
}

impl AuthorizationConfiguration {
    /// The configuration of a file's text.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let versions = ["v1", "v1beta1", "v1alpha1"];
        let value = read(text, "AuthorizationConfiguration", &versions, MEMBERS)?;
        // A file cannot say where the policies of ABAC are.
        let known: Vec<&str> = TYPES.into_iter().filter(|it| *it != "ABAC").collect();
        Self::of(&value, &known)
    }

    /// The same of what was read, or made of flags.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn of(value: &Value, known: &[&str]) -> Result<Self, String> {
        let mut errors = FieldErrors::new();
        let root = Path::new("authorizers");
        let all = value.items_at(&["authorizers"]);
        if all.is_empty() {
            errors.required(&root, "at least one authorization mode must be defined");
        }
        let mut seen = Seen::default();
        let mut authorizers = Vec::new();
        for (index, it) in all.iter().enumerate() {
            authorizers.extend(named(it, known, &mut seen, &root.index(index), &mut errors));
        }
        if errors.is_empty() { Ok(Self { authorizers }) } else { Err(joined(&errors)) }
    }
}

/// What was read before.
#[derive(Default)]
struct Seen<'v> {
    types: BTreeSet<&'v str>,
    names: BTreeSet<&'v str>,
}

fn named<'v>(
    value: &'v Value,
    known: &[&str],
    seen: &mut Seen<'v>,
    at: &Path<'_>,
    errors: &mut FieldErrors,
) -> Option<Named> {
    let (kind, name) = (value.str_at(&["type"]), value.str_at(&["name"]));
    let kind_at = at.child("type");
    if kind.is_empty() {
        errors.required(&kind_at, "");
        return None;
    }
    if !known.contains(&kind) {
        errors.not_supported(&kind_at, &Value::from(kind), known.iter().copied());
        return None;
    }
    if !seen.types.insert(kind) && kind != "Webhook" {
        errors.duplicate(&kind_at, &Value::from(kind));
        return None;
    }
    let name_at = at.child("name");
    if name.is_empty() {
        errors.required(&name_at, "");
    } else if seen.names.contains(name) {
        errors.duplicate(&name_at, &Value::from(name));
    } else {
        let problems = apimachinery::validation::dns1123_subdomain(name);
        let problems: Vec<&str> = problems.iter().map(AsRef::as_ref).collect();
        if !problems.is_empty() {
            let why = format!("authorizer name is invalid: {}", problems.join(", "));
            errors.invalid_text(&name_at, name, &why);
        }
    }
    seen.names.insert(name);
    let hook = value.get("webhook").filter(|it| !it.is_null());
    let hook_at = at.child("webhook");
    let kind = match (Kind::plain(kind), hook) {
        (Some(kind), None) => kind,
        (Some(kind), Some(_)) => {
            let why = "may only be specified when type=Webhook";
            errors.invalid_text(&hook_at, "non-null", why);
            kind
        }
        (None, None) => {
            errors.required(&hook_at, "required when type=Webhook");
            return None;
        }
        (None, Some(hook)) => Kind::Webhook(Box::new(webhook(hook, at, errors)?)),
    };
    Some(Named { name: name.to_owned(), kind })
}

/// Its errors name members as if they were the authorizer's own, as upstream's do.
fn webhook(value: &Value, at: &Path<'_>, errors: &mut FieldErrors) -> Option<Webhook> {
    let before = errors.len();
    let timeout = time(value, "timeout", at, errors);
    if timeout.is_some_and(|it| it > MAX_TIMEOUT) {
        let at = at.child("timeout");
        errors.invalid_text(&at, value.str_at(&["timeout"]), "must be > 0s and <= 30s");
    }
    let ttl = |member, default, is_kept: &str, errors: &mut FieldErrors| {
        let text = value.str_at(&[member]);
        let ttl = match duration::Duration::parse(text) {
            _ if text.is_empty() => Some(default),
            // Upstream fills in its default where there is none, and cannot tell that from zero.
            Ok(said) if said.as_nanos() == 0 => Some(default),
            _ => time(value, member, at, errors),
        };
        let is_kept = value.get(is_kept).and_then(Value::as_bool).unwrap_or(true);
        ttl.filter(|_| is_kept).unwrap_or_default()
    };
    let authorized_ttl = ttl("authorizedTTL", AUTHORIZED_TTL, "cacheAuthorizedRequests", errors);
    let unauthorized_ttl =
        ttl("unauthorizedTTL", UNAUTHORIZED_TTL, "cacheUnauthorizedRequests", errors);
    let one_of = |member, known: &[&str], errors: &mut FieldErrors| {
        let text = value.str_at(&[member]);
        match text {
            "" => errors.required(&at.child(member), ""),
            text if known.contains(&text) => {}
            other => {
                let known = known.iter().copied();
                errors.not_supported(&at.child(member), &Value::from(other), known);
            }
        }
        text.to_owned()
    };
    let version = one_of("subjectAccessReviewVersion", &["v1", "v1beta1"], errors);
    let conditions = value.items_at(&["matchConditions"]);
    let member = "matchConditionSubjectAccessReviewVersion";
    match value.str_at(&[member]) {
        "" if !conditions.is_empty() => {
            errors.required(&at.child(member), "required if match conditions are specified");
        }
        "" | "v1" => {}
        other => errors.not_supported(&at.child(member), &Value::from(other), ["v1"]),
    }
    let failure = one_of("failurePolicy", &["NoOpinion", "Deny"], errors);
    let kubeconfig = connection(value, &at.child("connectionInfo"), errors);
    let conditions = match_conditions(conditions, &at.child("matchConditions"), errors);
    if errors.len() > before {
        return None;
    }
    Some(Webhook {
        timeout: timeout?,
        authorized_ttl,
        unauthorized_ttl,
        version,
        denies_on_failure: failure == "Deny",
        kubeconfig,
        conditions,
    })
}

/// A span of time that must be there, and more than nothing.
fn time(value: &Value, member: &str, at: &Path<'_>, errors: &mut FieldErrors) -> Option<Duration> {
    let text = value.str_at(&[member]);
    let at = at.child(member);
    let parsed = match duration::Duration::parse(text) {
        _ if text.is_empty() => {
            errors.required(&at, "");
            return None;
        }
        Ok(parsed) => parsed.as_nanos(),
        Err(error) => {
            errors.invalid_text(&at, text, &error.to_string());
            return None;
        }
    };
    if parsed == 0 {
        errors.required(&at, "");
        return None;
    }
    let positive = u64::try_from(parsed).ok().map(Duration::from_nanos);
    if positive.is_none() {
        let limit = if member == "timeout" { " and <= 30s" } else { "" };
        errors.invalid_text(&at, text, &format!("must be > 0s{limit}"));
    }
    positive
}

fn connection(value: &Value, at: &Path<'_>, errors: &mut FieldErrors) -> Option<PathBuf> {
    const TYPES: [&str; 2] = ["InClusterConfig", "KubeConfigFile"];
    let file = value.str_at(&["connectionInfo", "kubeConfigFile"]);
    let file_at = at.child("kubeConfigFile");
    match value.str_at(&["connectionInfo", "type"]) {
        "" => errors.required(&at.child("type"), ""),
        "InClusterConfig" if !file.is_empty() => {
            errors.invalid_text(&file_at, file, "can only be set when type=KubeConfigFile");
        }
        "InClusterConfig" => {
            // Its service account, and the variables that name the server, are a pod's; this process is none.
            let why = "this server does not run in a pod: use type=KubeConfigFile";
            errors.invalid_text(&at.child("type"), "InClusterConfig", why);
        }
        "KubeConfigFile" if file.is_empty() => errors.required(&file_at, ""),
        "KubeConfigFile" if !File::new(file).is_absolute() => {
            errors.invalid_text(&file_at, file, "must be an absolute path");
        }
        "KubeConfigFile" => match std::fs::metadata(file) {
            Err(error) => {
                let why = format!("error loading file: {}", told(file, &error));
                errors.invalid_text(&file_at, file, &why);
            }
            Ok(it) if !it.is_file() => {
                errors.invalid_text(&file_at, file, "must be a regular file");
            }
            Ok(_) => return Some(file.into()),
        },
        other => errors.not_supported(&at.child("type"), &Value::from(other), TYPES),
    }
    None
}

/// An error about a file as Go tells it.
fn told(file: &str, error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound {
        return format!("stat {file}: no such file or directory");
    }
    format!("stat {file}: {error}")
}

fn match_conditions(all: &[Value], at: &Path<'_>, errors: &mut FieldErrors) -> Vec<Condition> {
    if all.len() > MAX_CONDITIONS {
        errors.too_many(at, all.len(), MAX_CONDITIONS);
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (index, condition) in all.iter().enumerate() {
        let item = at.index(index);
        let at = item.child("expression");
        let text = condition.str_at(&["expression"]);
        if text.trim().is_empty() {
            errors.required(&at, "");
            continue;
        }
        if !seen.insert(text) {
            errors.duplicate(&at, &Value::from(text));
            continue;
        }
        match compile(text) {
            Ok(program) => found.push(Condition { text: text.to_owned(), program }),
            Err(why) => errors.invalid_text(&at, text, &why),
        }
    }
    found
}

fn compile(text: &str) -> Result<Program, String> {
    let env = &*expressions::REQUEST;
    env.compile(text, &[Type::Bool]).map_err(|issues| {
        if issues.0.iter().all(|it| it.kind != IssueKind::OutputType) {
            return format!("compilation failed: {issues}");
        }
        // What it is instead is known of what may be anything.
        match env.compile(text, &[]) {
            Ok(program) => format!("{issues} but got {}", program.output_type().name()),
            Err(_) => issues.to_string(),
        }
    })
}

#[cfg(test)]
mod tests;
