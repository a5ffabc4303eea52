//! What the statuses of several kinds share: what a write to one leaves alone, and checks of what they hold. Which kind does
//! which is said in its declaration.

use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use crate::check;
use crate::rules::{self, each};

/// The longest reason and message of a condition, in bytes.
const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;
const REASON_SHAPE: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";
const REASON_RULE: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
const REASON_EXAMPLES: &[&str] =
    &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
/// What may be said of a condition.
pub(crate) const CONDITION_STATUSES: &[&str] = &["False", "True", "Unknown"];
const ONE_OF_EACH_FAMILY: &str = "may specify no more than one IP for each IP family";

/// Makes what stands at a path what it is in another value.
pub(crate) fn copy(from: &Value, to: &mut Value, path: &[&str]) {
    match from.at(path) {
        Some(value) => to.set_at(path, value.clone()),
        None => {
            to.remove_at(path);
        }
    }
}

/// Keeps members of the metadata.
pub(crate) fn keep_members(value: &mut Value, old: &Value, members: &[&str]) {
    for member in members {
        copy(old, value, &["metadata", member]);
    }
}

/// Keeps what of the metadata is not the server's own (upstream: `ResetObjectMetaForStatus`).
pub(crate) fn keep_metadata(value: &mut Value, old: &Value) {
    let members = [
        "deletionTimestamp",
        "generation",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ];
    keep_members(value, old, &members);
}

/// Whether a condition is true.
pub(crate) fn holds(object: &Value, kind: &str) -> bool {
    let conditions = object.items_at(&["status", "conditions"]);
    conditions.iter().any(|it| it.str_at(&["type"]) == kind && it.str_at(&["status"]) == "True")
}

/// Checks the conditions of a kind that has upstream's common ones (`metav1.Condition`).
pub(crate) fn conditions(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let all = of.items_at(&["conditions"]);
    let list = path.child("conditions");
    for (index, condition) in all.iter().enumerate() {
        let at = list.index(index);
        let kind = condition.str_at(&["type"]);
        if all[..index].iter().any(|it| it.str_at(&["type"]) == kind) {
            errors.duplicate(&at.child("type"), &kind.into());
        }
        one_condition(condition, &at, errors);
    }
}

fn one_condition(condition: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = condition.str_at(&["type"]);
    errors.invalid_all(&path.child("type"), kind, validation::qualified_name(kind));
    check::one_of(condition, "status", CONDITION_STATUSES, path, errors);
    if let Some(number) = condition.i64_at(&["observedGeneration"]).filter(|it| *it < 0) {
        let detail = "must be greater than or equal to zero";
        errors.invalid(&path.child("observedGeneration"), &number.into(), detail);
    }
    if condition.str_at(&["lastTransitionTime"]).is_empty() {
        errors.required(&path.child("lastTransitionTime"), "must be set");
    }
    let (reason, at) = (condition.str_at(&["reason"]), path.child("reason"));
    if reason.is_empty() {
        errors.required(&at, "must be set");
    } else {
        if !is_reason(reason) {
            let detail = validation::pattern(REASON_RULE, REASON_SHAPE, REASON_EXAMPLES);
            errors.invalid_text(&at, reason, &detail);
        }
        if reason.len() > REASON_MAX {
            errors.too_long(&at, REASON_MAX);
        }
    }
    if condition.str_at(&["message"]).len() > MESSAGE_MAX {
        errors.too_long(&path.child("message"), MESSAGE_MAX);
    }
}

/// Whether a text is of [`REASON_SHAPE`].
fn is_reason(text: &str) -> bool {
    let bytes = text.as_bytes();
    let word = |it: &u8| it.is_ascii_alphanumeric() || *it == b'_';
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|it| word(it) || matches!(it, b',' | b':'))
}

/// Checks conditions of which each has a type of its own, and no more is known.
pub(crate) fn typed_conditions(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<String> = Vec::new();
    each(of, "conditions", path, errors, |condition, at, errors| {
        let kind = condition.str_at(&["type"]).to_owned();
        if seen.contains(&kind) {
            errors.duplicate(&at.child("type"), &kind.as_str().into());
        }
        if kind.is_empty() {
            errors.required(&at.child("type"), "must not be empty");
        }
        seen.push(kind);
    });
}

/// A count that may not become less, and does not go once it is there.
pub(crate) fn never_less(value: &Value, old: &Value, member: &str, errors: &mut FieldErrors) {
    let path = ["status", member];
    let (now, before) = (value.i64_at(&path), old.i64_at(&path));
    let less = now.zip(before).map_or(now.is_none() && before.is_some(), |(now, it)| now < it);
    if less {
        let status = Path::new("status");
        let shown = Value::from(now.unwrap_or_default());
        errors.invalid(&status.child(member), &shown, "cannot be decremented");
    }
}

/// What a load balancer says of the addresses it gave; `modes` are those of its addresses, where they have any.
pub(crate) fn load_balancer(
    (status, old): (&Value, &Value),
    modes: Option<&[&str]>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let before: Vec<&str> =
        old.items_at(&["ingress"]).iter().map(|it| it.str_at(&["ip"])).collect();
    each(status, "ingress", path, errors, |ingress, at, errors| {
        let ip = ingress.str_at(&["ip"]);
        if !ip.is_empty() {
            rules::kept_ip(ip, &before, &at.child("ip"), errors);
        }
        if let Some(modes) = modes {
            ip_mode(ingress, modes, at, errors);
        }
        let (host, at) = (ingress.str_at(&["hostname"]), at.child("hostname"));
        if !host.is_empty() {
            errors.invalid_all(&at, host, validation::dns1123_subdomain(host));
            if validation::parse_ip(host).is_some() {
                errors.invalid_text(&at, host, "must be a DNS name, not an IP address");
            }
        }
    });
}

fn ip_mode(ingress: &Value, modes: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    let (has_ip, at) = (!ingress.str_at(&["ip"]).is_empty(), path.child("ipMode"));
    match (ingress.get("ipMode"), has_ip) {
        (None, true) => errors.required(&at, "must be specified when `ip` is set"),
        (None, false) => {}
        (Some(_), false) => errors.forbidden(&at, "may not be specified when `ip` is not set"),
        (Some(_), true) => check::one_of(ingress, "ipMode", modes, path, errors),
    }
}

/// Addresses of which each family has one: those of pods and of their hosts.
pub(crate) fn pair_of_ips(
    (status, old): (&Value, &Value),
    member: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let texts = |of: &Value| -> Vec<String> {
        of.items_at(&[member]).iter().map(|it| it.str_at(&["ip"]).to_owned()).collect()
    };
    let (ips, before, at) = (texts(status), texts(old), path.child(member));
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    for (index, ip) in ips.iter().enumerate() {
        rules::kept_ip(ip, &before, &at.index(index), errors);
    }
    if ips.len() < 2 {
        return;
    }
    let shown = |ip: &str| format!("{{\"IP\":{}}}", apimachinery::field::quote(ip));
    let parsed: Vec<_> = ips.iter().map(|it| validation::parse_ip(it)).collect();
    let wrong = parsed.iter().position(Option::is_none);
    if let Some(index) = wrong {
        errors.push(apimachinery::field::FieldError {
            kind: apimachinery::field::ErrorType::InternalError,
            field: at.to_string(),
            body: format!(
                "Internal error: failed to check for dual stack with error:invalid IP[{index}]: <nil>"
            ),
        });
    }
    let of_family = |v6: bool| parsed.iter().flatten().any(|it| it.is_ipv6() == v6);
    if wrong.is_some() || !of_family(true) || !of_family(false) || ips.len() > 2 {
        let all: Vec<String> = ips.iter().map(|it| shown(it)).collect();
        let all = format!("[{}]", all.join(","));
        check::invalid_shown(&at, &all, ONE_OF_EACH_FAMILY, errors);
    }
    for (index, ip) in ips.iter().enumerate() {
        if ips[..index].contains(ip) {
            check::duplicate_shown(&at.index(index), &shown(ip), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    fn words(check: impl FnOnce(&Path<'_>, &mut FieldErrors)) -> Vec<String> {
        let mut errors = FieldErrors::new();
        check(&Path::new("status"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn conditions_have_a_time_and_a_reason() {
        let time = "2024-01-01T00:00:00Z";
        let fine =
            value!({"type": "A", "status": "True", "reason": "Ok", "lastTransitionTime": time});
        let bad = value!({"type": "A", "status": "Foo", "observedGeneration": (-1)});
        let odd =
            value!({"type": "", "status": "True", "reason": "a b", "lastTransitionTime": time});
        let of = value!({"conditions": [(fine), (bad), (odd)]});
        let reason = validation::pattern(REASON_RULE, REASON_SHAPE, REASON_EXAMPLES);
        let kind = validation::qualified_name("");
        let expected = [
            "status.conditions[1].type: Duplicate value: \"A\"".to_owned(),
            "status.conditions[1].status: Unsupported value: \"Foo\": supported values: \"False\", \"True\", \"Unknown\"".into(),
            "status.conditions[1].observedGeneration: Invalid value: -1: must be greater than or equal to zero".into(),
            "status.conditions[1].lastTransitionTime: Required value: must be set".into(),
            "status.conditions[1].reason: Required value: must be set".into(),
        ];
        let more =
            kind.iter().map(|it| format!("status.conditions[2].type: Invalid value: \"\": {it}"));
        let last = format!("status.conditions[2].reason: Invalid value: \"a b\": {reason}");
        let expected: Vec<String> = expected.into_iter().chain(more).chain([last]).collect();
        assert_eq!(words(|path, errors| conditions(&of, path, errors)), expected);
    }

    #[test]
    fn addresses_are_one_of_each_family() {
        let of = |ips: &[&str]| {
            let ips: Vec<Value> = ips.iter().map(|ip| value!({"ip": (*ip)})).collect();
            value!({"podIPs": (ips)})
        };
        let told = |now: &[&str], before: &[&str]| {
            words(|path, errors| pair_of_ips((&of(now), &of(before)), "podIPs", path, errors))
        };
        assert_eq!(told(&["1.2.3.4", "::1"], &[]), [""; 0]);
        assert_eq!(
            told(&["1.2.3.4", "1.2.3.4"], &[]),
            [
                "status.podIPs: Invalid value: [{\"IP\":\"1.2.3.4\"},{\"IP\":\"1.2.3.4\"}]: may specify no more than one IP for each IP family",
                "status.podIPs[1]: Duplicate value: {\"IP\":\"1.2.3.4\"}",
            ]
        );
        assert_eq!(
            told(&["x"], &[]),
            [
                "status.podIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            ]
        );
        assert_eq!(told(&["x"], &["x"]), [""; 0]);
    }
}
