//! What expressions of configuration files may use: `claims`, `user`, `request`.

use std::sync::{Arc, LazyLock};

use apimachinery::Value;
use cel::{Activation, Budget, Env, Program, Type, Val, limits};

const USER_TYPE: &str = "kubernetes.UserInfo";
const REVIEW: &str = "kubernetes.SubjectAccessReviewSpec";
const RESOURCE: &str = "kubernetes.ResourceAttributes";
const PATH: &str = "kubernetes.NonResourceAttributes";
const FIELDS: &str = "kubernetes.FieldSelectorAttributes";
const LABELS: &str = "kubernetes.LabelSelectorAttributes";
const REQUIREMENT: &str = "kubernetes.SelectorRequirement";

type Field = (Arc<str>, Type);

fn field(name: &str, ty: Type) -> Field {
    (name.into(), ty)
}

fn texts(names: &[&str]) -> Vec<Field> {
    names.iter().map(|it| field(it, Type::String)).collect()
}

fn strings() -> Type {
    Type::list(Type::String)
}

/// Groups and extra values, which users and reviews have alike.
fn of_user() -> [Field; 2] {
    [field("groups", strings()), field("extra", Type::map(Type::String, strings()))]
}

/// What is said of the claims of a token.
pub(crate) static CLAIMS: LazyLock<Env> =
    LazyLock::new(|| Env::kubernetes().with_variable("claims", Type::map(Type::String, Type::Dyn)));

/// What is said of the user that claims make.
pub(crate) static USER: LazyLock<Env> = LazyLock::new(|| {
    let mut user = texts(&["username", "uid"]);
    user.extend(of_user());
    Env::kubernetes()
        .with_object_type(USER_TYPE, user)
        .with_variable("user", Type::object(USER_TYPE))
});

/// What is said of a question to an authorizer.
pub(crate) static REQUEST: LazyLock<Env> = LazyLock::new(|| {
    let mut review = texts(&["user", "uid"]);
    review.extend(of_user());
    review.extend([
        field("resourceAttributes", Type::object(RESOURCE)),
        field("nonResourceAttributes", Type::object(PATH)),
    ]);
    let names = ["namespace", "verb", "group", "version", "resource", "subresource", "name"];
    let mut resource = texts(&names);
    resource.extend([
        field("fieldSelector", Type::object(FIELDS)),
        field("labelSelector", Type::object(LABELS)),
    ]);
    let selector = || {
        let mut selector = texts(&["rawSelector"]);
        selector.push(field("requirements", Type::list(Type::object(REQUIREMENT))));
        selector
    };
    let mut requirement = texts(&["key", "operator"]);
    requirement.push(field("values", strings()));
    Env::kubernetes()
        .with_object_type(REVIEW, review)
        .with_object_type(RESOURCE, resource)
        .with_object_type(PATH, texts(&["path", "verb"]))
        .with_object_type(FIELDS, selector())
        .with_object_type(LABELS, selector())
        .with_object_type(REQUIREMENT, requirement)
        .with_variable("request", Type::object(REVIEW))
});

/// The value of an expression of one variable.
///
/// # Errors
/// Where it has none.
pub(crate) fn eval<'v>(
    (env, name): (&Env, &str),
    (text, program): (&str, &'v Program),
    value: &'v Value,
) -> Result<Val<'v>, String> {
    let activation = Activation::new(env).with(env, name, Val::plain(value));
    let mut budget = Budget::new(limits::RUNTIME_COST_BUDGET);
    let result = program.eval(&activation, &mut budget);
    result.map_err(|error| format!("expression '{text}' resulted in error: {error}"))
}
