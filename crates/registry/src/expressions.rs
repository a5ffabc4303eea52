//! Expressions of admission and of device selectors, compiled to see what is wrong with them. Upstream:
//! `pkg/admission/plugin/cel`.
//!
//! Knows what each sort of expression may name. What is compiled here is thrown away; what admission runs is in
//! [`evaluate`].

pub mod evaluate;
pub mod types;

use std::sync::{Arc, LazyLock};

use apimachinery::{FieldErrors, Path, Value};
use cel::library::{AUTHORIZER_TYPE, Library, MutationTypes, RESOURCE_CHECK_TYPE};
use cel::{Env, IssueKind, Issues, Type};
use dynamic_resource_allocation::selector::{self, Selector};

const REQUEST: &str = "kubernetes.AdmissionRequest";
const NAMESPACE: &str = "kubernetes.Namespace";

/// What an expression may name beside the objects and the request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Names {
    /// `params`
    pub(crate) params: bool,
    /// `authorizer`
    pub(crate) authorizer: bool,
}

fn strings() -> Type {
    Type::list(Type::String)
}

fn field(name: &str, ty: Type) -> (Arc<str>, Type) {
    (name.into(), ty)
}

/// Expressions of admission, before `params` and `authorizer`.
static ADMISSION: LazyLock<Env> = LazyLock::new(|| {
    let text = |names: &[&str]| names.iter().map(|it| field(it, Type::String)).collect::<Vec<_>>();
    let kind = || Type::object("kubernetes.GroupVersionKind");
    let resource = || Type::object("kubernetes.GroupVersionResource");
    let mut request =
        text(&["subResource", "requestSubResource", "name", "namespace", "operation"]);
    request.extend([
        field("kind", kind()),
        field("resource", resource()),
        field("requestKind", kind()),
        field("requestResource", resource()),
        field("userInfo", Type::object("kubernetes.UserInfo")),
        field("dryRun", Type::Bool),
        field("options", Type::Dyn),
    ]);
    let mut user = text(&["username", "uid"]);
    user.extend([field("groups", strings()), field("extra", Type::map(Type::String, strings()))]);
    Env::kubernetes()
        .with_object_type(REQUEST, request)
        .with_object_type("kubernetes.GroupVersionKind", text(&["group", "version", "kind"]))
        .with_object_type(
            "kubernetes.GroupVersionResource",
            text(&["group", "version", "resource"]),
        )
        .with_object_type("kubernetes.UserInfo", user)
        .with_variable("object", Type::Dyn)
        .with_variable("oldObject", Type::Dyn)
        .with_variable("request", Type::object(REQUEST))
});

/// The same with the namespace of the object, which webhooks do not see.
static POLICIES: LazyLock<Env> = LazyLock::new(|| {
    let map = || Type::map(Type::String, Type::String);
    let mut metadata: Vec<_> = ["name", "generateName", "namespace", "UID", "resourceVersion"]
        .iter()
        .map(|it| field(it, Type::String))
        .collect();
    metadata.extend([
        field("labels", map()),
        field("annotations", map()),
        field("creationTimestamp", Type::Timestamp),
        field("deletionTimestamp", Type::Timestamp),
        field("deletionGracePeriodSeconds", Type::Int),
        field("generation", Type::Int),
        field("finalizers", strings()),
    ]);
    ADMISSION
        .clone()
        .with_object_type("kubernetes.NamespaceMetadata", metadata)
        .with_object_type("kubernetes.NamespaceSpec", [field("finalizers", strings())])
        .with_object_type("kubernetes.NamespaceStatus", [field("phase", Type::String)])
        .with_object_type(
            NAMESPACE,
            [
                field("metadata", Type::object("kubernetes.NamespaceMetadata")),
                field("spec", Type::object("kubernetes.NamespaceSpec")),
                field("status", Type::object("kubernetes.NamespaceStatus")),
            ],
        )
        .with_variable("namespaceObject", Type::object(NAMESPACE))
});

fn with(env: &Env, names: Names) -> Env {
    let mut env = env.clone();
    if names.params {
        env = env.with_variable("params", Type::Dyn);
    }
    if names.authorizer {
        env = env
            .with_variable("authorizer", Type::object(AUTHORIZER_TYPE))
            .with_variable("authorizer.requestResource", Type::object(RESOURCE_CHECK_TYPE));
    }
    env
}

/// Upstream's words for what is wrong.
fn told(issues: &Issues) -> String {
    match issues.0.first().map(|it| it.kind) {
        Some(IssueKind::OutputType) => issues.to_string(),
        Some(IssueKind::Instantiation) => format!("program instantiation failed: {issues}"),
        _ => format!("compilation failed: {issues}"),
    }
}

fn check(env: &Env, text: &str, types: &[Type], path: &Path<'_>, errors: &mut FieldErrors) {
    if let Err(issues) = env.compile(text, types) {
        errors.invalid_text(path, text, &told(&issues));
    }
}

/// The conditions of a webhook; empty ones are somebody else's to tell.
pub(crate) fn webhook_conditions(hook: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if hook.items_at(&["matchConditions"]).is_empty() {
        return;
    }
    let env = with(&ADMISSION, Names { authorizer: true, ..Names::default() });
    conditions(&env, hook, path, errors);
}

fn conditions(env: &Env, of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    crate::rules::each(of, "matchConditions", path, errors, |it, at, errors| {
        member(env, it, "expression", &[Type::Bool], at, errors);
    });
}

fn member(
    env: &Env,
    of: &Value,
    name: &str,
    types: &[Type],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let text = of.str_at(&[name]);
    if !text.trim().is_empty() {
        check(env, text, types, &path.child(name), errors);
    }
}

/// All expressions of an admission policy.
pub(crate) fn policy(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let params = spec.get("paramKind").is_some();
    let asking = with(&POLICIES, Names { params, authorizer: true });
    conditions(&asking, spec, path, errors);
    let mut composed = asking.compose();
    // Messages may use variables, and ask nobody.
    let mut told_by = with(&POLICIES, Names { params, authorizer: false }).compose();
    crate::rules::each(spec, "variables", path, errors, |it, at, errors| {
        let (name, text) = (it.str_at(&["name"]), it.str_at(&["expression"]));
        if text.trim().is_empty() {
            return;
        }
        if let Err(issues) = composed.define(name, text) {
            errors.invalid_text(&at.child("expression"), text, &told(&issues));
        }
        // What only this environment refuses is refused where it is used.
        let _ = told_by.define(name, text);
    });
    let env = composed.env();
    crate::rules::each(spec, "validations", path, errors, |it, at, errors| {
        member(env, it, "expression", &[Type::Bool], at, errors);
        member(told_by.env(), it, "messageExpression", &[Type::String], at, errors);
    });
    crate::rules::each(spec, "auditAnnotations", path, errors, |it, at, errors| {
        member(env, it, "valueExpression", &[Type::String, Type::Null], at, errors);
    });
    mutations(env, spec, path, errors);
}

fn mutations(env: &Env, spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (object, patches) = (Type::object("Object"), Type::list(Type::object("JSONPatch")));
    let env = env.clone().with_provider(Arc::new(MutationTypes)).with_library(Library::JsonPatch);
    crate::rules::each(spec, "mutations", path, errors, |it, at, errors| {
        let (name, ty) = match it.str_at(&["patchType"]) {
            "ApplyConfiguration" => ("applyConfiguration", &object),
            "JSONPatch" => ("jsonPatch", &patches),
            _ => return,
        };
        let at = at.child(name);
        member(&env, &it[name], "expression", std::slice::from_ref(ty), &at, errors);
    });
}

/// A selector of devices.
pub(crate) fn device_selector(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    match Selector::compile(text) {
        Err(issues) => errors.invalid_text(path, text, &told(&issues)),
        Ok(selector) if selector.cost_max() > selector::COST_MAX => {
            errors.forbidden(path, "too complex, exceeds cost limit");
        }
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    fn check(spec: &Value, expected: &[&str]) {
        let mut errors = FieldErrors::new();
        policy(spec, &Path::new("spec"), &mut errors);
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, part) in told.iter().zip(expected) {
            assert!(told.contains(part), "{told} lacks {part}");
        }
    }

    #[test]
    fn a_policy_may_name_what_upstream_gives_it() {
        check(
            &value!({
                "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "matchConditions": [{"expression": "request.userInfo.username != 'a' && authorizer.path('/x').check('get').allowed()"}],
                "variables": [{"name": "n", "expression": "object.metadata.name"}],
                "validations": [{"expression": "variables.n != params.data.n && namespaceObject.metadata.name != ''", "messageExpression": "'no ' + string(variables.n)"}],
                "auditAnnotations": [{"valueExpression": "null"}]
            }),
            &[],
        );
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        let bad = value!([{"expression": "params.x"}, {"expression": "1"}, {"expression": "request.nope == ''"}]);
        check(
            &value!({"validations": (bad)}),
            &[
                "spec.validations[0].expression: Invalid value: \"params.x\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'",
                "spec.validations[1].expression: Invalid value: \"1\": must evaluate to bool",
                "undefined field 'nope'",
            ],
        );
    }

    #[test]
    fn selectors_see_devices() {
        let mut errors = FieldErrors::new();
        let path = Path::new("cel");
        device_selector(
            "device.driver == 'd' && device.attributes['d'].x == 1",
            &path,
            &mut errors,
        );
        assert!(errors.is_empty(), "{errors:?}");
        device_selector("device.nope", &path, &mut errors);
        assert_eq!(errors.iter().count(), 1);
    }
}
