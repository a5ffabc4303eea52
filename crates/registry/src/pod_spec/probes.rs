//! Checks of probes and of what runs when a container starts and stops.

use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use crate::check;

/// Checks the probes and hooks of a container that may have them.
pub(super) fn probes_and_hooks(
    container: &Value,
    grace_period: i64,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if let Some(lifecycle) = container.get("lifecycle") {
        let at = path.child("lifecycle");
        for hook in ["postStart", "preStop"] {
            if let Some(it) = lifecycle.get(hook) {
                handler(it, grace_period, &at.child(hook), errors);
            }
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(it) = container.get(name) else { continue };
        let at = path.child(name);
        probe(it, grace_period, &at, errors);
        if name == "readinessProbe" {
            if let Some(seconds) = it.get("terminationGracePeriodSeconds") {
                let at = at.child("terminationGracePeriodSeconds");
                errors.invalid(&at, seconds, "must not be set for readinessProbes");
            }
        } else if it.i64_at(&["successThreshold"]) != Some(1) {
            let given = it.i64_at(&["successThreshold"]).unwrap_or_default();
            errors.invalid(&at.child("successThreshold"), &given.into(), "must be 1");
        }
    }
}

fn probe(probe: &Value, grace_period: i64, path: &Path<'_>, errors: &mut FieldErrors) {
    handler(probe, grace_period, path, errors);
    let counts = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    check::non_negative(probe, &counts, path, errors);
    if let Some(seconds) = probe.i64_at(&["terminationGracePeriodSeconds"]).filter(|it| *it <= 0) {
        let at = path.child("terminationGracePeriodSeconds");
        errors.invalid(&at, &seconds.into(), "must be greater than 0");
    }
}

/// What a probe or hook does: exactly one thing.
fn handler(handler: &Value, grace_period: i64, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut count = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = handler.get(kind) else { continue };
        let at = path.child(kind);
        if count > 0 {
            errors.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        count += 1;
        match kind {
            "exec" if action.items_at(&["command"]).is_empty() => {
                errors.required(&at.child("command"), "");
            }
            "exec" => {}
            "httpGet" => http_get(action, &at, errors),
            "sleep" => sleep(action, grace_period, &at, errors),
            _ => check::port(action.get("port"), &at.child("port"), errors),
        }
    }
    if count == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(action: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required_text(action, "path", path, errors);
    check::port(action.get("port"), &path.child("port"), errors);
    check::one_of(action, "scheme", &["HTTP", "HTTPS"], path, errors);
    for header in action.items_at(&["httpHeaders"]) {
        let name = header.str_at(&["name"]);
        errors.invalid_all(&path.child("httpHeaders"), name, validation::http_header_name(name));
    }
}

fn sleep(action: &Value, grace_period: i64, path: &Path<'_>, errors: &mut FieldErrors) {
    let seconds = action.i64_at(&["seconds"]).unwrap_or_default();
    if seconds < 0 || seconds > grace_period {
        let detail = format!(
            "must be non-negative and less than terminationGracePeriodSeconds ({grace_period})"
        );
        errors.invalid(path, &seconds.into(), &detail);
    }
}
