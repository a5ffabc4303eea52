//! `Status`: the one error that crosses HTTP, with upstream's reasons and words.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::field::FieldErrors;
use crate::value::{Object, Value};

/// An answer that is not an object: usually a failure.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// Upstream's reason, such as `NotFound`; empty where there is none.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
    /// `Success` instead of `Failure`.
    pub success: bool,
}

/// What a [`Status`] is about.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its kind or resource.
    pub kind: String,
    /// Its uid.
    pub uid: String,
    /// One entry a problem.
    pub causes: Vec<Cause>,
    /// Seconds after which trying again makes sense; 0 where it is not known.
    pub retry_after_seconds: u32,
}

/// One of several problems.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cause {
    /// Upstream's reason.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The field it is about.
    pub field: String,
}

/// The resource a [`Status`] is about, as upstream names it: `deployments.apps`.
#[derive(Debug, Clone, Copy)]
pub struct GroupResource<'r> {
    /// The group; empty for the core one.
    pub group: &'r str,
    /// The plural name.
    pub resource: &'r str,
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

impl GroupResource<'_> {
    fn details(&self, name: &str) -> Option<Box<Details>> {
        Some(Box::new(Details {
            name: name.into(),
            group: self.group.into(),
            kind: self.resource.into(),
            ..Details::default()
        }))
    }
}

/// How many reasons that upstream does not know are kept. They come from webhooks, which are the administrator's.
const REASONS_MAX: usize = 1_000;

/// The reasons that upstream knows.
const REASONS: [&str; 24] = [
    "AlreadyExists",
    "BadRequest",
    "Conflict",
    "Expired",
    "Forbidden",
    "Gone",
    "InternalError",
    "Invalid",
    "MethodNotAllowed",
    "NotAcceptable",
    "NotFound",
    "RequestEntityTooLarge",
    "ServerTimeout",
    "ServiceUnavailable",
    "StorageReadError",
    "Timeout",
    "TooManyRequests",
    "Unauthorized",
    "Unknown",
    "UnsupportedMediaType",
    "FieldValueInvalid",
    "FieldValueRequired",
    "FieldValueDuplicate",
    "FieldValueNotSupported",
];

/// A reason that lives as long as the process; empty for one too many.
#[must_use]
pub fn reason_of(text: &str) -> &'static str {
    static OTHERS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    if text.is_empty() {
        return "";
    }
    if let Some(known) = REASONS.iter().find(|it| **it == text) {
        return known;
    }
    let mut others = OTHERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = others.get(text) {
        return known;
    }
    if others.len() >= REASONS_MAX {
        return "";
    }
    let kept: &'static str = Box::leak(text.to_owned().into_boxed_str());
    others.insert(kept);
    kept
}

impl Status {
    /// The failure that an object of this kind tells: a webhook's.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        let code = value.i64_at(&["code"]).and_then(|it| u16::try_from(it).ok());
        let details = value.get("details").filter(|it| it.as_object().is_some()).map(|details| {
            let text = |member: &str| details.str_at(&[member]).to_owned();
            let cause = |cause: &Value| Cause {
                reason: reason_of(cause.str_at(&["reason"])),
                message: cause.str_at(&["message"]).to_owned(),
                field: cause.str_at(&["field"]).to_owned(),
            };
            let seconds = details.i64_at(&["retryAfterSeconds"]);
            Box::new(Details {
                name: text("name"),
                group: text("group"),
                kind: text("kind"),
                uid: text("uid"),
                causes: details.items_at(&["causes"]).iter().map(cause).collect(),
                retry_after_seconds: seconds.and_then(|it| u32::try_from(it).ok()).unwrap_or(0),
            })
        });
        Self {
            code: code.unwrap_or_default(),
            reason: reason_of(value.str_at(&["reason"])),
            message: value.str_at(&["message"]).to_owned(),
            details,
            success: false,
        }
    }

    fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, success: false }
    }

    fn about(
        code: u16,
        reason: &'static str,
        of: GroupResource<'_>,
        name: &str,
        message: String,
    ) -> Self {
        Self { details: of.details(name), ..Self::failure(code, reason, message) }
    }

    /// 404: no such object.
    #[must_use]
    pub fn not_found(of: GroupResource<'_>, name: &str) -> Self {
        Self::about(
            404,
            "NotFound",
            of,
            name,
            format!("{of} {} not found", crate::field::quote(name)),
        )
    }

    /// 404: no such path.
    #[must_use]
    pub fn no_route() -> Self {
        Self {
            details: Some(Box::default()),
            ..Self::failure(404, "NotFound", "the server could not find the requested resource")
        }
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(of: GroupResource<'_>, name: &str) -> Self {
        Self::about(
            409,
            "AlreadyExists",
            of,
            name,
            format!("{of} {} already exists", crate::field::quote(name)),
        )
    }

    /// 409: the object is not what the request expected.
    #[must_use]
    pub fn conflict(of: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {of} {}: {why}", crate::field::quote(name));
        Self::about(409, "Conflict", of, name, message)
    }

    /// 403: not allowed, for a reason other than authorization.
    #[must_use]
    pub fn forbidden(of: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = match (of.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (_, true) => format!("{of} is forbidden: {why}"),
            _ => format!("{of} {} is forbidden: {why}", crate::field::quote(name)),
        };
        Self::about(403, "Forbidden", of, name, message)
    }

    /// 422: the object is not valid.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &FieldErrors) -> Self {
        let of = GroupResource { group, resource: kind };
        let mut seen: Vec<String> = Vec::new();
        for error in errors.iter().map(ToString::to_string) {
            if !seen.contains(&error) {
                seen.push(error);
            }
        }
        let all = match seen.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = if errors.is_empty() {
            format!("{of} {} is invalid", crate::field::quote(name))
        } else {
            format!("{of} {} is invalid: {all}", crate::field::quote(name))
        };
        let mut status = Self::about(422, "Invalid", of, name, message);
        if let Some(details) = &mut status.details {
            details.causes = errors
                .iter()
                .map(|error| Cause {
                    reason: error.kind.reason(),
                    message: error.body.clone(),
                    field: error.field.clone(),
                })
                .collect();
        }
        status
    }

    /// 400: the request cannot be understood.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 401: who is it?
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 405: not a verb of this resource.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self {
            details: Some(Box::default()),
            ..Self::failure(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )
        }
    }

    /// 405: not a verb of a custom resource.
    #[must_use]
    pub fn method_not_supported(of: GroupResource<'_>, verb: &str) -> Self {
        let shown = crate::field::quote(&of.to_string());
        let message = format!("{verb} is not supported on resources of kind {shown}");
        Self::about(405, "MethodNotAllowed", of, "", message)
    }

    /// 406: no form the client accepts.
    #[must_use]
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::failure(406, "NotAcceptable", message)
    }

    /// 415: a body in a form that is not understood.
    #[must_use]
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 413: a body over the limit.
    #[must_use]
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::failure(413, "RequestEntityTooLarge", message)
    }

    /// 410: the resource version is not kept any more.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// 429: try again later.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self {
            details: Some(Box::new(Details { retry_after_seconds, ..Details::default() })),
            ..Self::failure(429, "TooManyRequests", message)
        }
    }

    /// 504: not in time.
    #[must_use]
    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self {
            details: Some(Box::new(Details { retry_after_seconds, ..Details::default() })),
            ..Self::failure(504, "Timeout", message)
        }
    }

    /// 500 without a reason: an error that knows nothing of statuses, in its own words.
    #[must_use]
    pub fn unexplained(message: impl Into<String>) -> Self {
        Self::failure(500, "", message)
    }

    /// 500: the server failed.
    #[must_use]
    pub fn internal(why: impl fmt::Display) -> Self {
        Self {
            details: Some(Box::new(Details {
                causes: vec![Cause { message: why.to_string(), ..Cause::default() }],
                ..Details::default()
            })),
            ..Self::failure(500, "InternalError", format!("Internal error occurred: {why}"))
        }
    }

    /// 501: known, and not built yet.
    #[must_use]
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::failure(501, "NotImplemented", message)
    }

    /// 503: try again later.
    #[must_use]
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    /// The object as JSON with its fields in the order in which upstream writes them, which clients that compare
    /// text see.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        const FIELDS: [&str; 8] =
            ["kind", "apiVersion", "metadata", "status", "message", "reason", "details", "code"];
        const DETAILS: [&str; 6] = ["name", "group", "kind", "uid", "causes", "retryAfterSeconds"];
        const CAUSE: [&str; 3] = ["reason", "message", "field"];
        let mut out = Vec::with_capacity(256);
        write_in_order(&self.to_value(), &FIELDS, &mut out, &|field, value, out| match field {
            "details" => write_in_order(value, &DETAILS, out, &|field, value, out| {
                let Some(causes) = value.as_array().filter(|_| field == "causes") else {
                    return crate::json::write(value, out);
                };
                let mut separator = b'[';
                for cause in causes {
                    out.push(separator);
                    separator = b',';
                    write_in_order(cause, &CAUSE, out, &|_, value, out| {
                        crate::json::write(value, out);
                    });
                }
                out.push(b']');
            }),
            _ => crate::json::write(value, out),
        });
        out
    }

    /// The object as it is sent.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut status = Object::new();
        status.insert("kind", "Status");
        status.insert("apiVersion", "v1");
        status.insert("metadata", Object::new());
        status.insert("status", if self.success { "Success" } else { "Failure" });
        insert_text(&mut status, "message", &self.message);
        insert_text(&mut status, "reason", self.reason);
        if let Some(details) = &self.details {
            status.insert("details", details.to_value());
        }
        if self.code != 0 {
            status.insert("code", i32::from(self.code));
        }
        Value::Object(status)
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut details = Object::new();
        insert_text(&mut details, "name", &self.name);
        insert_text(&mut details, "group", &self.group);
        insert_text(&mut details, "kind", &self.kind);
        insert_text(&mut details, "uid", &self.uid);
        if !self.causes.is_empty() {
            details.insert("causes", self.causes.iter().map(Cause::to_value).collect::<Value>());
        }
        if self.retry_after_seconds > 0 {
            details.insert("retryAfterSeconds", self.retry_after_seconds);
        }
        Value::Object(details)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut cause = Object::new();
        insert_text(&mut cause, "reason", self.reason);
        insert_text(&mut cause, "message", &self.message);
        insert_text(&mut cause, "field", &self.field);
        Value::Object(cause)
    }
}

/// Writes an object's members in this order, each by `write`.
fn write_in_order(
    object: &Value,
    fields: &[&str],
    out: &mut Vec<u8>,
    write: &dyn Fn(&str, &Value, &mut Vec<u8>),
) {
    let mut separator = b'{';
    for field in fields {
        let Some(value) = object.get(field) else { continue };
        out.push(separator);
        separator = b',';
        crate::json::write_string(field, out);
        out.push(b':');
        write(field, value, out);
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
}

fn insert_text(object: &mut Object, key: &'static str, text: &str) {
    if !text.is_empty() {
        object.insert(key, text);
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_in_upstreams_order() {
        let of = GroupResource { group: "apps", resource: "deployments" };
        let mut status = Status::not_found(of, "web");
        let details = status.details.as_mut().unwrap();
        details.causes.push(Cause { reason: "R", message: "m".into(), field: "f".into() });
        details.causes.push(Cause::default());
        assert_eq!(
            String::from_utf8(status.to_json()).unwrap(),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"deployments.apps \"web\" not found","reason":"NotFound","details":{"name":"web","group":"apps","kind":"deployments","causes":[{"reason":"R","message":"m","field":"f"},{}]},"code":404}"#
        );
        assert_eq!(crate::json::parse(&status.to_json()).unwrap(), status.to_value());
        let empty = String::from_utf8(Status::no_route().to_json()).unwrap();
        assert!(empty.contains(r#""details":{},"#), "{empty}");
    }
}
