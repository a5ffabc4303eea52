//! Annotations that say how a pod is treated. Upstream: `ValidatePodSpecificAnnotations`.

use apimachinery::field::quote;
use apimachinery::{FieldErrors, Object, Path, Value, value};

use super::security::app_armor;
use super::volumes::descending_path;

/// Marks the pod that stands for a static one.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
pub(crate) const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(crate) const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub(crate) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const LOCALHOST: &str = "localhost/";

/// Checks the annotations of a pod, or of a template of pods, that stand at `path`.
pub(crate) fn validate(pod: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_change(pod, None, path, errors);
}

/// The same of a pod that is changed: a cost that was none before may stay (upstream: `AllowInvalidPodDeletionCost`).
pub(crate) fn validate_change(
    pod: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let before = old.map(|it| it.str_at(&["metadata", "annotations", DELETION_COST]));
    let forgives = before.is_some_and(|it| !it.is_empty() && !is_cost(it));
    let Some(all) = pod.at(&["metadata", "annotations"]).and_then(Value::as_object) else { return };
    let text = |key: &str| all.get(key).and_then(Value::as_str);
    if let Some(mirror) = text(MIRROR)
        && pod.str_at(&["spec", "nodeName"]).is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid_text(&path.key(MIRROR), mirror, detail);
    }
    if let Some(cost) = text(DELETION_COST)
        && !is_cost(cost)
        && !forgives
    {
        errors.invalid_text(&path.key(DELETION_COST), cost, "must be a 32bit integer");
    }
    if let Some(profile) = text(SECCOMP) {
        seccomp(profile, &path.child(SECCOMP), errors);
    }
    for (key, profile) in beginning(all, SECCOMP_CONTAINER) {
        seccomp(profile, &path.child(key), errors);
    }
    for (key, profile) in beginning(all, APP_ARMOR) {
        let name = &key[APP_ARMOR.len()..];
        let mut names = LISTS.iter().flat_map(|list| pod.items_at(&["spec", list]));
        if !names.any(|it| it.str_at(&["name"]) == name) {
            errors.invalid_text(&path.key(key), name, "container not found");
        }
        if !["", "runtime/default", "unconfined"].contains(&profile)
            && !profile.starts_with(LOCALHOST)
        {
            let detail = format!("invalid AppArmor profile name: {}", quote(profile));
            errors.invalid_text(&path.key(key), profile, &detail);
        }
    }
}

/// The annotations whose names begin so, with their texts.
fn beginning<'o>(all: &'o Object, start: &str) -> impl Iterator<Item = (&'o str, &'o str)> {
    all.iter()
        .filter(move |(key, _)| key.starts_with(start))
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
}

/// Whether this is a number as it is written: neither signs for positive ones nor leading zeros.
fn is_cost(text: &str) -> bool {
    let written =
        text == "0" || text.starts_with(|first| first == '-' || ('1'..='9').contains(&first));
    written && text.parse::<i32>().is_ok()
}

fn seccomp(profile: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        _ => match profile.strip_prefix(LOCALHOST) {
            Some(file) => descending_path(file, path, errors),
            None => errors.invalid_text(path, profile, "must be a valid seccomp profile"),
        },
    }
}

/// In a new pod, what annotations and fields say of profiles is the same.
pub(crate) fn match_fields(pod: &Value, errors: &mut FieldErrors) {
    let annotation = |key: &str| pod.at(&["metadata", "annotations", key]).and_then(Value::as_str);
    let (spec, path) = (&pod["spec"], Path::new("spec"));
    let given = |of: &'_ Value, field: &str| of.at(&["securityContext", field]).cloned();
    if let Some(profile) = given(spec, "seccompProfile")
        && let Some(annotation) = annotation(SECCOMP)
    {
        let at = path.child("securityContext");
        matches(annotation, &profile, "seccomp", &at.child("seccompProfile"), errors);
    }
    each_container(spec, &path, |container, at| {
        let key = format!("{SECCOMP_CONTAINER}{}", container.str_at(&["name"]));
        if let Some(profile) = given(container, "seccompProfile")
            && let Some(annotation) = annotation(&key)
        {
            matches(annotation, &profile, "seccomp", &at.child("seccompProfile"), errors);
        }
    });
    if spec.str_at(&["os", "name"]) == "windows" {
        return;
    }
    each_container(spec, &path, |container, at| {
        let key = format!("{APP_ARMOR}{}", container.str_at(&["name"]));
        let profile = given(container, "appArmorProfile");
        if let Some(profile) = profile.or_else(|| given(spec, "appArmorProfile"))
            && let Some(annotation) = annotation(&key)
        {
            matches(annotation, &profile, "apparmor", &at.child("appArmorProfile"), errors);
        }
    });
}

/// Where an annotation of a new pod says an AppArmor profile that the container's field does not: the list and the place of the
/// container, the annotation, and the field that it comes to, if there is one that the pod has not for all. Upstream:
/// `applyAppArmorVersionSkew`, which copies no fields to annotations any more.
fn annotated_profiles(pod: &Value) -> Vec<(&'static str, usize, String, Option<Value>)> {
    let mut found = Vec::new();
    let spec = &pod["spec"];
    if spec.str_at(&["os", "name"]) == "windows" {
        return found;
    }
    let of_all = spec.at(&["securityContext", "appArmorProfile"]);
    for list in LISTS {
        for (index, container) in spec.items_at(&[list]).iter().enumerate() {
            let key = format!("{APP_ARMOR}{}", container.str_at(&["name"]));
            let annotation = pod.at(&["metadata", "annotations", &key]).and_then(Value::as_str);
            let Some(annotation) = annotation else { continue };
            if container.at(&["securityContext", "appArmorProfile"]).is_some() {
                continue;
            }
            let field = profile_of(annotation);
            if field.is_none() || field.as_ref() != of_all {
                found.push((list, index, key, field));
            }
        }
    }
    found
}

/// The field that an annotation comes to; none where that would not be valid.
fn profile_of(annotation: &str) -> Option<Value> {
    let profile = match annotation {
        "unconfined" => value!({"type": "Unconfined"}),
        "runtime/default" => value!({"type": "RuntimeDefault"}),
        _ => match annotation.strip_prefix(LOCALHOST)? {
            "" => return None,
            name => value!({"type": "Localhost", "localhostProfile": name}),
        },
    };
    let mut errors = FieldErrors::new();
    app_armor(&profile, &Path::new("appArmorProfile"), &mut errors);
    errors.is_empty().then_some(profile)
}

/// Gives containers of a new pod the AppArmor profiles that its annotations say.
pub(crate) fn to_fields(pod: &mut Value) {
    for (list, index, _, field) in annotated_profiles(pod) {
        let containers = pod.get_mut("spec").map(|spec| spec.items_at_mut(&[list]));
        let container = containers.into_iter().flatten().nth(index);
        if let (Some(container), Some(field)) = (container, field) {
            container.set_at(&["securityContext", "appArmorProfile"], field);
        }
    }
}

/// What to warn of in a new pod before its annotations become fields.
pub(crate) fn warnings_as_sent(pod: &Value) -> Vec<String> {
    let said = |(_, _, key, _)| {
        format!(
            "metadata.annotations[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
        )
    };
    annotated_profiles(pod).into_iter().map(said).collect()
}

/// Goes through containers, with the paths of their security contexts.
fn each_container(spec: &Value, path: &Path<'_>, mut each: impl FnMut(&Value, &Path<'_>)) {
    for list in LISTS {
        let at = path.child(list);
        for (index, container) in spec.items_at(&[list]).iter().enumerate() {
            each(container, &at.index(index).child("securityContext"));
        }
    }
}

fn matches(text: &str, profile: &Value, what: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let same = match profile.str_at(&["type"]) {
        "Unconfined" => text == "unconfined",
        "RuntimeDefault" => {
            text == "runtime/default" || (what == "seccomp" && text == "docker/default")
        }
        "Localhost" => text.starts_with(LOCALHOST),
        _ => true,
    };
    if !same {
        let detail = format!("{what} type in annotation and field must match");
        errors.forbidden(&path.child("type"), &detail);
    } else if profile.str_at(&["type"]) == "Localhost"
        && text.strip_prefix(LOCALHOST) != profile["localhostProfile"].as_str()
    {
        let detail = format!("{what} profile in annotation and field must match");
        errors.forbidden(&path.child("localhostProfile"), &detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod with this annotation for its container `c`, whose field and whose pod's are these.
    fn check(annotation: &str, own: Option<&str>, of_all: Option<&str>, expected: &str) {
        let mut pod = value!({"metadata": {"annotations": {}}, "spec": {"containers": [{"name": "b"}, {"name": "c"}]}});
        pod.set_at(&["metadata", "annotations", &format!("{APP_ARMOR}c")], annotation);
        let field = |kind: &str| value!({"appArmorProfile": {"type": kind}});
        if let Some(kind) = of_all {
            pod.set_at(&["spec", "securityContext"], field(kind));
        }
        if let Some(kind) = own {
            let containers = pod.get_mut("spec").unwrap().items_at_mut(&["containers"]);
            containers[1].set_at(&["securityContext"], field(kind));
        }
        let warned = warnings_as_sent(&pod).len();
        to_fields(&mut pod);
        let profile = pod.items_at(&["spec", "containers"])[1].at(&["securityContext"]);
        let shown = profile.map(apimachinery::json::to_string).unwrap_or_default();
        assert_eq!(format!("{warned} {shown}"), expected, "{annotation} {own:?} {of_all:?}");
    }

    #[test]
    fn annotations_of_app_armor_become_fields() {
        let kind = |kind: &str| format!(r#"{{"appArmorProfile":{{"type":"{kind}"}}}}"#);
        check("unconfined", None, None, &format!("1 {}", kind("Unconfined")));
        check(
            "runtime/default",
            None,
            Some("Unconfined"),
            &format!("1 {}", kind("RuntimeDefault")),
        );
        let named = r#"1 {"appArmorProfile":{"localhostProfile":"p","type":"Localhost"}}"#;
        check("localhost/p", None, None, named);
        // What the pod says for all needs no copy, what cannot be read is only warned of, and fields count.
        check("unconfined", None, Some("Unconfined"), "0 ");
        check("localhost/ p", None, None, "1 ");
        check("unconfined", Some("Unconfined"), None, &format!("0 {}", kind("Unconfined")));
    }
}
