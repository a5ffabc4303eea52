//! Role, ClusterRole, RoleBinding, ClusterRoleBinding: one rule each for what may be done, and to whom it is granted.

use apimachinery::labels::Selector;
use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use super::printing;
use crate::declaration::Declaration;
use crate::rules::each;
use crate::{Rules, check, metadata, table};

const GROUP: &str = "rbac.authorization.k8s.io";
const SUBJECTS: &[&str] = &["ServiceAccount", "User", "Group"];

/// What the four share: roles are named freely (`system:node`), and `PUT` may create.
const COMMON: Declaration = Declaration {
    group: GROUP,
    name: metadata::whole_path_segment_name,
    rules: Rules { create_on_update: true, ..Declaration::PLAIN.rules },
    ..Declaration::PLAIN
};

pub(super) fn role() -> Declaration {
    Declaration {
        resource: "roles",
        validate: |it, errors| policy_rules(it, true, errors),
        ..COMMON
    }
}

pub(super) fn cluster_role() -> Declaration {
    Declaration {
        resource: "clusterroles",
        validate: |it, errors| {
            policy_rules(it, false, errors);
            aggregation(it, errors);
        },
        ..COMMON
    }
}

pub(super) fn role_binding() -> Declaration {
    Declaration {
        resource: "rolebindings",
        default,
        validate: |it, errors| binding(it, &["Role", "ClusterRole"], errors),
        validate_update: same_role,
        row,
        ..COMMON
    }
}

pub(super) fn cluster_role_binding() -> Declaration {
    Declaration {
        resource: "clusterrolebindings",
        default,
        validate: |it, errors| binding(it, &["ClusterRole"], errors),
        validate_update: same_role,
        row,
        ..COMMON
    }
}

fn default(binding: &mut Value) {
    binding.default_zero_at(&["roleRef", "apiGroup"], GROUP);
    for subject in binding.items_at_mut(&["subjects"]) {
        if matches!(subject.str_at(&["kind"]), "User" | "Group") {
            subject.default_at(&["apiGroup"], GROUP);
        }
    }
}

fn policy_rules(role: &Value, namespaced: bool, errors: &mut FieldErrors) {
    each(role, "rules", &Path::new(""), errors, |rule, at, errors| {
        policy_rule(rule, namespaced, at, errors);
    });
}

fn policy_rule(rule: &Value, namespaced: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let none = |member: &str| rule.items_at(&[member]).is_empty();
    if none("verbs") {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    let urls = path.child("nonResourceURLs");
    if !none("nonResourceURLs") {
        let mut refuse = |detail| errors.invalid(&urls, &rule["nonResourceURLs"], detail);
        if namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if !none("apiGroups") || !none("resources") || !none("resourceNames") {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    for (member, what) in [("apiGroups", "api group"), ("resources", "resource")] {
        if none(member) {
            let detail = format!("resource rules must supply at least one {what}");
            errors.required(&path.child(member), &detail);
        }
    }
}

fn aggregation(role: &Value, errors: &mut FieldErrors) {
    let Some(rule) = role.get("aggregationRule") else { return };
    let path = Path::new("aggregationRule");
    if rule.items_at(&["clusterRoleSelectors"]).is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.required(&path.child("clusterRoleSelectors"), detail);
    }
    each(rule, "clusterRoleSelectors", &path, errors, |selector, at, errors| {
        check::label_selector(Some(selector), at, errors);
        // Upstream shows what came of the selector, which is nothing.
        if Selector::from_value(Some(selector)).is_err() {
            errors.invalid(at, &Value::Null, "invalid label selector.");
        }
    });
}

fn binding(binding: &Value, roles: &[&str], errors: &mut FieldErrors) {
    let role = &binding["roleRef"];
    let path = Path::new("roleRef");
    check::one_of(role, "apiGroup", &[GROUP], &path, errors);
    check::one_of(role, "kind", roles, &path, errors);
    check::required_name(role, "name", validation::path_segment_name, &path, errors);
    let namespaced = roles.contains(&"Role");
    each(binding, "subjects", &Path::new(""), errors, |it, at, errors| {
        subject(it, namespaced, at, errors);
    });
}

fn subject(subject: &Value, namespaced: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let named = check::required_text(subject, "name", path, errors);
    let (name, group) = (subject.str_at(&["name"]), subject.str_at(&["apiGroup"]));
    match subject.str_at(&["kind"]) {
        "ServiceAccount" => {
            if named {
                let problems = validation::dns1123_subdomain(name);
                errors.invalid_all(&path.child("name"), name, problems);
            }
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), &group.into(), [""]);
            }
            if !namespaced {
                check::required_text(subject, "namespace", path, errors);
            }
        }
        "User" | "Group" => check::one_of(subject, "apiGroup", &[GROUP], path, errors),
        _ => check::one_of(subject, "kind", SUBJECTS, path, errors),
    }
}

fn same_role(binding: &Value, old: &Value, errors: &mut FieldErrors) {
    let role = &binding["roleRef"];
    if role != &old["roleRef"] {
        let fields = [("APIGroup", "apiGroup"), ("Kind", "kind"), ("Name", "name")];
        let shown = check::go_struct(role, &fields);
        check::invalid_shown(&Path::new("roleRef"), &shown, "cannot change roleRef", errors);
    }
}

fn row(binding: &Value, now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| -> Value {
        let subjects = binding.items_at(&["subjects"]).iter();
        let names = subjects.filter(|it| it.str_at(&["kind"]) == kind).map(|it| {
            let name = it.str_at(&["name"]);
            match it.str_at(&["namespace"]) {
                namespace if kind == "ServiceAccount" && !namespace.is_empty() => {
                    format!("{namespace}/{name}")
                }
                _ => name.to_owned(),
            }
        });
        names.collect::<Vec<_>>().join(", ").into()
    };
    let role = format!(
        "{}/{}",
        binding.str_at(&["roleRef", "kind"]),
        binding.str_at(&["roleRef", "name"])
    );
    let [name, age] =
        [printing::name_and_age(binding, now)[0].clone(), table::created(binding, now)];
    vec![name, role.into(), age, of("User"), of("Group"), of("ServiceAccount")]
}
