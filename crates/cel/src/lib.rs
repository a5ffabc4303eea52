//! CEL, the Common Expression Language, as Kubernetes v1.37 uses it.
//!
//! A text is parsed, its macros expanded, its types checked, its cost estimated, and what is left to do made a
//! [`Program`]: all of that once, when a policy or a definition is written. A program is then run on objects as they are,
//! without converting them, under a [`Budget`]. Errors are those that clients of upstream read, costs are upstream's.
//!
//! | to | use |
//! |---|---|
//! | say what an expression may use | [`Env`]: variables, object types, libraries, by [`Version`] |
//! | know objects by their schema | [`DeclType::from_schema`], or a [`schema::TypeProvider`] |
//! | compile | [`Env::compile`]: a [`Program`] or all [`Issues`] |
//! | bound what is written | [`Program::cost_estimate`] against [`limits`] |
//! | run | [`Program::eval`] with an [`Activation`] and a [`Budget`] |
//! | name expressions for others | [`Env::compose`]: `variables.NAME`, each evaluated when it is needed |
//! | let expressions ask what a user may do | [`library::Authorizer`] |
//! | let expressions make objects and patches | [`library::MutationTypes`], [`Val::to_json`] |
//!
//! # A rule of a custom resource
//!
//! ```
//! use std::sync::Arc;
//! use apimachinery::value;
//! use cel::{Activation, Budget, DeclType, Env, Type, limits};
//!
//! let schema = value!({"type": "object", "properties": {
//!     "replicas": {"type": "integer"},
//!     "names": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 63}},
//! }});
//! // `self` is what the rule stands at, so this is no root of a resource. The type's name shows in errors only.
//! let decl = Arc::new(DeclType::from_schema(&schema, "selfType", false).expect("the schema can be seen"));
//! let env = Env::kubernetes().with_variable("self", Arc::clone(&decl)).with_variable("oldSelf", decl);
//!
//! let rule = env.compile(
//!     "self.replicas >= oldSelf.replicas && self.names.all(n, n.startsWith('web-'))",
//!     &[Type::Bool],
//! )?;
//! assert!(rule.reads(&env, "oldSelf"), "so it is for updates only");
//! assert!(rule.cost_estimate().max <= limits::STATIC_ESTIMATED_COST_LIMIT);
//!
//! let (old, new) = (value!({"replicas": 2}), value!({"replicas": 3, "names": ["web-1", "db-1"]}));
//! let variables = Activation::new(&env).with_json(&env, "self", &new)?.with_json(&env, "oldSelf", &old)?;
//! let mut budget = Budget::new(limits::RUNTIME_COST_BUDGET);
//! assert_eq!(rule.eval(&variables, &mut budget)?.as_bool(), Some(false));
//!
//! let issues = env.compile("self.replica > 1", &[Type::Bool]).unwrap_err();
//! assert_eq!(
//!     issues.to_string(),
//!     "ERROR: <input>:1:5: undefined field 'replica'\n | self.replica > 1\n | ....^"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # An expression of a policy
//!
//! Policies see objects of any kind: `object`, `oldObject`, `request` and `params` have no declared type. Objects that
//! have no old version are given as null.
//!
//! ```
//! use apimachinery::value;
//! use cel::{Activation, Budget, Env, Type, Val, limits};
//!
//! let base = ["object", "oldObject", "request", "params"]
//!     .into_iter()
//!     .fold(Env::kubernetes(), |env, name| env.with_variable(name, Type::Dyn));
//! let mut variables = base.compose();
//! variables.define("containers", "object.spec.template.spec.containers")?;
//! variables.define("images", "variables.containers.map(c, c.image)")?;
//! let env = variables.env();
//! let validation = env.compile(
//!     "request.operation == 'CREATE' && oldObject == null \
//!      && variables.images.all(i, i.startsWith(params.registry))",
//!     &[Type::Bool],
//! )?;
//!
//! let object = value!({"spec": {"template": {"spec": {"containers": [{"image": "r.example.com/a"}]}}}});
//! let (request, params) = (value!({"operation": "CREATE"}), value!({"registry": "r.example.com/"}));
//! let activation = Activation::new(env)
//!     .with(env, "object", Val::plain(&object))
//!     .with(env, "oldObject", Val::Null)
//!     .with(env, "request", Val::plain(&request))
//!     .with(env, "params", Val::plain(&params))
//!     .with_composition(&variables);
//! // One budget for the policy: `containers` and `images` are paid for once, whoever asks first.
//! let mut budget = Budget::new(limits::RUNTIME_COST_BUDGET);
//! assert_eq!(validation.eval(&activation, &mut budget)?.as_bool(), Some(true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Layer 0: no I/O, no clock, no async. Knows no kind by name, and of policies and custom resources only what is above.

pub mod activation;
pub mod ast;
pub mod budget;
mod check;
pub mod composition;
pub mod cost;
mod decl;
pub mod env;
pub mod error;
mod eval;
mod lexer;
pub mod library;
pub mod limits;
mod macros;
pub mod parser;
mod plan;
pub mod program;
pub mod schema;
pub mod source;
pub mod types;
mod unescape;
pub mod value;

pub use activation::Activation;
pub use budget::Budget;
pub use composition::Composition;
pub use cost::CostEstimate;
pub use env::{Env, Version};
pub use error::EvalError;
pub use library::Library;
pub use program::Program;
pub use schema::DeclType;
pub use source::{Issue, IssueKind, Issues};
pub use types::Type;
pub use value::Val;

/// A pattern in the syntax of Go's regular expressions.
///
/// # Errors
/// Why it is none, in Go's words for the common cases.
pub fn pattern(text: &str) -> Result<regex::Regex, String> {
    library::regex::compile(text)
}
