//! Whether containers may be privileged: an operator may say that none is (`--allow-privileged=false`).

use api::ResourceFacts;
use apimachinery::{FieldErrors, Path, Value};

use crate::Server;

/// The lists of containers in a pod's specification.
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Where a kind has the specification of pods.
fn place(facts: &ResourceFacts) -> Option<&'static [&'static str]> {
    Some(match (facts.group, facts.resource) {
        ("", "pods") => &["spec"],
        ("", "podtemplates") => &["template", "spec"],
        ("", "replicationcontrollers") | ("batch", "jobs") => &["spec", "template", "spec"],
        ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets") => {
            &["spec", "template", "spec"]
        }
        ("batch", "cronjobs") => &["spec", "jobTemplate", "spec", "template", "spec"],
        _ => return None,
    })
}

/// Refuses privileged containers where there may be none.
pub(crate) fn check(
    server: &Server,
    facts: &ResourceFacts,
    object: &Value,
    errors: &mut FieldErrors,
) {
    if server.operating.allow_privileged {
        return;
    }
    if let Some([first, rest @ ..]) = place(facts) {
        let pod = object.get(first).unwrap_or(&Value::Null);
        walk(pod, &Path::new(first), rest, errors);
    }
}

fn walk(value: &Value, at: &Path<'_>, rest: &[&str], errors: &mut FieldErrors) {
    if let [next, rest @ ..] = rest {
        return walk(value.get(next).unwrap_or(&Value::Null), &at.child(next), rest, errors);
    }
    for list in LISTS {
        let list_at = at.child(list);
        for (index, container) in value.items_at(&[list]).iter().enumerate() {
            if container.bool_at(&["securityContext", "privileged"]) {
                let (item, context) = (list_at.index(index), "securityContext");
                let context = item.child(context);
                errors.forbidden(&context.child("privileged"), "disallowed by cluster policy");
            }
        }
    }
}
