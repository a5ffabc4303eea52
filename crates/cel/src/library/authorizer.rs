//! `authorizer`: asks what the user of a request, or a service account, may do.

use std::fmt;
use std::sync::Arc;

use apimachinery::labels;

use super::opaque::Opaque;
use super::standard::no_overload;
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::value::{Result, Val};

/// The type of the variable `authorizer`.
pub const AUTHORIZER_TYPE: &str = "kubernetes.authorization.Authorizer";
/// The type of the variable `authorizer.requestResource`.
pub const RESOURCE_CHECK_TYPE: &str = "kubernetes.authorization.ResourceCheck";

/// What one check costs: an expression can pay for two.
pub(crate) const CHECK_COST: u64 = 350_000;

/// Who answers. The answer must not wait for anything for long.
pub trait Authorizer: Send + Sync + fmt::Debug {
    /// Whether this may be done.
    fn authorize(&self, attributes: &Attributes) -> Decision;
}

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceAccount {
    /// Where it is.
    pub namespace: String,
    /// What it is called.
    pub name: String,
}

/// What is to be done. With a path it is a request for no resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// On behalf of whom; of the request's user, where it is not set.
    pub service_account: Option<ServiceAccount>,
    /// The verb.
    pub verb: String,
    /// The path, where no resource is meant.
    pub path: Option<String>,
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object.
    pub name: String,
    /// Which fields the objects have; with why it cannot be read, where it cannot.
    pub field_selector: Option<(String, Option<String>)>,
    /// Which labels the objects have; with why it cannot be read, where it cannot.
    pub label_selector: Option<(String, Option<String>)>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// A value on the way from `authorizer` to an answer.
#[derive(Debug, Clone)]
pub struct AuthorizerValue {
    authorizer: Arc<dyn Authorizer>,
    stage: Stage,
    attributes: Attributes,
    decision: Decision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
    Decision,
}

impl PartialEq for AuthorizerValue {
    fn eq(&self, other: &Self) -> bool {
        self.stage == other.stage
            && self.attributes == other.attributes
            && self.decision == other.decision
    }
}

impl AuthorizerValue {
    /// The name of its type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self.stage {
            Stage::Authorizer => AUTHORIZER_TYPE,
            Stage::Path => "kubernetes.authorization.PathCheck",
            Stage::Group => "kubernetes.authorization.GroupCheck",
            Stage::Resource => RESOURCE_CHECK_TYPE,
            Stage::Decision => "kubernetes.authorization.Decision",
        }
    }
}

impl Val<'_> {
    /// The value of the variable `authorizer`.
    #[must_use]
    pub fn authorizer(authorizer: Arc<dyn Authorizer>) -> Self {
        Self::opaque(Opaque::Authorizer(Box::new(AuthorizerValue {
            authorizer,
            stage: Stage::Authorizer,
            attributes: Attributes::default(),
            decision: Decision::default(),
        })))
    }

    /// The value of `authorizer.requestResource`: a check of what the request itself is for.
    #[must_use]
    pub fn authorizer_for(authorizer: Arc<dyn Authorizer>, attributes: Attributes) -> Self {
        Self::opaque(Opaque::Authorizer(Box::new(AuthorizerValue {
            authorizer,
            stage: Stage::Resource,
            attributes,
            decision: Decision::default(),
        })))
    }
}

fn of<'a>(args: &'a [Val<'_>]) -> Result<&'a AuthorizerValue> {
    match args {
        [Val::Opaque(it), ..] => match &**it {
            Opaque::Authorizer(value) => Ok(value),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The next stage, with the texts of the call put in.
fn next<'v>(
    args: &[Val<'v>],
    stage: Stage,
    set: fn(&mut Attributes, &str, &str) -> std::result::Result<(), String>,
) -> Result<Val<'v>> {
    let text = |index: usize| args.get(index).and_then(Val::as_str).unwrap_or_default();
    let mut value = of(args)?.clone();
    value.stage = stage;
    set(&mut value.attributes, text(1), text(2)).map_err(EvalError::new)?;
    Ok(Val::opaque(Opaque::Authorizer(Box::new(value))))
}

fn check<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let [_, Val::String(verb)] = args else { return no_overload() };
    let mut value = of(args)?.clone();
    value.attributes.verb = verb.to_string();
    value.decision = value.authorizer.authorize(&value.attributes);
    value.stage = Stage::Decision;
    Ok(Val::opaque(Opaque::Authorizer(Box::new(value))))
}

fn is_name(text: &str) -> std::result::Result<(), String> {
    match apimachinery::validation::dns1123_subdomain(text).into_iter().next() {
        Some(problem) => Err(format!("Invalid service account name: {problem}")),
        None => Ok(()),
    }
}

const PATH: Stage = Stage::Path;
const RESOURCE: Stage = Stage::Resource;

pub(super) const FUNCTIONS: &[Decl] = &[
    f(
        "path",
        "authorizer_path",
        "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.PathCheck",
        |args| {
            next(args, PATH, |it, path, _| {
                if path.is_empty() {
                    return Err("path must not be empty".into());
                }
                it.path = Some(path.into());
                Ok(())
            })
        },
    ),
    f(
        "group",
        "authorizer_group",
        "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.GroupCheck",
        |args| {
            next(args, Stage::Group, |it, group, _| {
                it.group = group.into();
                Ok(())
            })
        },
    ),
    f(
        "serviceAccount",
        "authorizer_serviceaccount",
        "kubernetes.authorization.Authorizer.(string, string) -> kubernetes.authorization.Authorizer",
        |args| {
            next(args, Stage::Authorizer, |it, namespace, name| {
                is_name(name)?;
                if let Some(problem) =
                    apimachinery::validation::dns1123_label(namespace).into_iter().next()
                {
                    return Err(format!("Invalid service account namespace: {problem}"));
                }
                it.service_account =
                    Some(ServiceAccount { namespace: namespace.into(), name: name.into() });
                Ok(())
            })
        },
    ),
    f(
        "resource",
        "groupcheck_resource",
        "kubernetes.authorization.GroupCheck.(string) -> kubernetes.authorization.ResourceCheck",
        |args| {
            next(args, RESOURCE, |it, resource, _| {
                it.resource = resource.into();
                Ok(())
            })
        },
    ),
    f(
        "subresource",
        "resourcecheck_subresource",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        |args| {
            next(args, RESOURCE, |it, subresource, _| {
                it.subresource = subresource.into();
                Ok(())
            })
        },
    ),
    f(
        "namespace",
        "resourcecheck_namespace",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        |args| {
            next(args, RESOURCE, |it, namespace, _| {
                it.namespace = namespace.into();
                Ok(())
            })
        },
    ),
    f(
        "name",
        "resourcecheck_name",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        |args| {
            next(args, RESOURCE, |it, name, _| {
                it.name = name.into();
                Ok(())
            })
        },
    ),
    f(
        "check",
        "pathcheck_check",
        "kubernetes.authorization.PathCheck.(string) -> kubernetes.authorization.Decision",
        check,
    ),
    f(
        "check",
        "resourcecheck_check",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.Decision",
        check,
    ),
    f("errored", "decision_errored", "kubernetes.authorization.Decision.() -> bool", |args| {
        of(args).map(|it| Val::Bool(it.decision.error.is_some()))
    }),
    f("error", "decision_error", "kubernetes.authorization.Decision.() -> string", |args| {
        of(args).map(|it| Val::string(it.decision.error.as_deref().unwrap_or_default()))
    }),
    f("allowed", "decision_allowed", "kubernetes.authorization.Decision.() -> bool", |args| {
        of(args).map(|it| Val::Bool(it.decision.allowed))
    }),
    f("reason", "decision_reason", "kubernetes.authorization.Decision.() -> string", |args| {
        of(args).map(|it| Val::string(&it.decision.reason))
    }),
];

/// Checks that are for some objects only. A selector that cannot be read widens the check, and the answer says why.
pub(super) const SELECTORS: &[Decl] = &[
    f(
        "fieldSelector",
        "authorizer_fieldselector",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        |args| {
            next(args, RESOURCE, |it, selector, _| {
                let error =
                    apimachinery::fields::Selector::parse(selector).err().map(|it| it.to_string());
                it.field_selector = Some((selector.into(), error));
                Ok(())
            })
        },
    ),
    f(
        "labelSelector",
        "authorizer_labelselector",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        |args| {
            next(args, RESOURCE, |it, selector, _| {
                let error = labels::Selector::parse(selector).err().map(|it| it.to_string());
                it.label_selector = Some((selector.into(), error));
                Ok(())
            })
        },
    ),
];
