//! `AdmissionReview`: what is sent, and what an answer has to be. Upstream: `pkg/admission/plugin/webhook/request` and
//! `webhook/errors`.

use apimachinery::status::reason_of;
use apimachinery::{Status, Value, json};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::request::Objects;

const GROUP: &str = "admission.k8s.io";

/// A version of `AdmissionReview`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V1Beta1,
}

impl Version {
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
        }
    }
}

/// What a webhook said.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The refusal, where it does not allow.
    pub(crate) denied: Option<Status>,
    /// A JSON patch.
    pub(crate) patch: Option<Vec<u8>>,
    pub(crate) warnings: Vec<String>,
    pub(crate) annotations: Vec<(String, String)>,
}

/// The bytes of a review.
pub(crate) fn write(
    version: Version,
    uid: &str,
    request: &Value,
    objects: &Objects<'_>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 << 10);
    let head = format!(
        "{{\"kind\":\"AdmissionReview\",\"apiVersion\":\"{GROUP}/{}\",\"request\":{{\"uid\":\"{uid}\"",
        version.name()
    );
    out.extend_from_slice(head.as_bytes());
    let members = request.as_object().into_iter().flat_map(apimachinery::Object::iter);
    let objects = [("object", objects.object.as_ref()), ("oldObject", objects.old.as_ref())];
    for (name, value) in members.chain(objects) {
        out.push(b',');
        json::write_string(name, &mut out);
        out.push(b':');
        json::write(value, &mut out);
    }
    out.extend_from_slice(b"}}");
    out
}

/// Why an answer cannot be read as one of this version, in upstream's words: it is a review of another one, or a status.
pub(crate) fn unlike(version: Version, review: &Value) -> Option<String> {
    let (told, kind) = (review.str_at(&["apiVersion"]), review.str_at(&["kind"]));
    let (other, is_known) = match (told.split_once('/'), kind) {
        (Some((GROUP, told)), "AdmissionReview") => (told, Version::of(told) != Some(version)),
        (None, "Status") if told == "v1" => (told, true),
        _ => return None,
    };
    let known = is_known && Version::of(other).is_some();
    let wanted = version.name();
    known.then(|| {
        format!("converting ({other}.{kind}) to ({wanted}.AdmissionReview): unknown conversion")
    })
}

/// What an answer says.
///
/// # Errors
/// Why it is none, in upstream's words.
pub(crate) fn read(
    (version, uid, hook): (Version, &str, &str),
    mutating: bool,
    review: &Value,
) -> Result<Answer, String> {
    let response = review.get("response").filter(|it| it.as_object().is_some());
    let response = response.ok_or("webhook response was absent")?;
    if version == Version::V1 {
        let found = response.str_at(&["uid"]);
        if found != uid {
            return Err(format!("expected response.uid={uid:?}, got {found:?}"));
        }
        let (api_version, kind) = (review.str_at(&["apiVersion"]), review.str_at(&["kind"]));
        if (api_version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
            let shown = if api_version.is_empty() { "/" } else { api_version };
            return Err(format!(
                "expected webhook response of {GROUP}/v1, Kind=AdmissionReview, got {shown}, Kind={kind}"
            ));
        }
        check_patch(response, mutating)?;
    }
    let text = response.str_at(&["patch"]);
    let patch = (mutating && !text.is_empty()).then(|| BASE64_STANDARD.decode(text)).transpose();
    let patch = patch.map_err(|error| format!("illegal base64 data in response.patch: {error}"))?;
    let kind = response.str_at(&["patchType"]);
    if version == Version::V1 && patch.is_some() && kind != "JSONPatch" {
        return Err(format!("unsupported patch type {kind:?}"));
    }
    let warnings = response.items_at(&["warnings"]).iter();
    let annotations = response.at(&["auditAnnotations"]).and_then(Value::as_object);
    let annotations = annotations.into_iter().flat_map(apimachinery::Object::iter);
    let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    let allowed = response.bool_at(&["allowed"]);
    Ok(Answer {
        denied: (!allowed).then(|| denial(hook, response.get("status"))),
        patch,
        warnings: warnings.map(text).collect(),
        annotations: annotations.map(|(key, it)| (format!("{hook}/{key}"), text(it))).collect(),
    })
}

/// Patch and type come together, from who may change something.
fn check_patch(response: &Value, mutating: bool) -> Result<(), String> {
    let patch = !response.str_at(&["patch"]).is_empty();
    let kind = response.get("patchType").filter(|it| !it.is_null()).and_then(Value::as_str);
    match (mutating, patch, kind) {
        (true, true, None) => {
            Err("webhook returned response.patch but not response.patchType".into())
        }
        (true, false, Some(_)) => {
            Err("webhook returned response.patchType but not response.patch".into())
        }
        (true, _, Some("")) => Err("webhook returned invalid response.patchType of \"\"".into()),
        (false, true, _) => Err("validating webhook may not return response.patch".into()),
        (false, false, Some(_)) => {
            Err("validating webhook may not return response.patchType".into())
        }
        (_, _, _) => Ok(()),
    }
}

/// The refusal that a webhook's status makes.
fn denial(hook: &str, given: Option<&Value>) -> Status {
    let none = Value::Null;
    let given = given.unwrap_or(&none);
    let mut status = Status::from_value(given);
    let code = given.i64_at(&["code"]).and_then(|it| u16::try_from(it).ok()).unwrap_or_default();
    // A refusal is never a success.
    status.code = if (400..600).contains(&code) { code } else { 400 };
    status.success = false;
    let denied = format!("admission webhook {hook:?} denied the request");
    let (message, reason) = (given.str_at(&["message"]), given.str_at(&["reason"]));
    status.message = match (message, reason) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    status.reason = reason_of(reason);
    status
}
