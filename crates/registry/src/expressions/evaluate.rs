//! Expressions of admission, run: the conditions of webhooks and policies, and what policies say. Upstream:
//! `pkg/admission/plugin/cel` and `pkg/admission/plugin/policy`.
//!
//! Values in, decisions out: what is to be done about a decision is admission's business.

use std::sync::Arc;

use apimachinery::Value;
use cel::library::{Attributes, Authorizer, Library, MutationTypes};
use cel::{Activation, Budget, Composition, Env, EvalError, Program, Type, Val, limits};

use super::{ADMISSION, Names, POLICIES, told, with};

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What expressions are about.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'v> {
    /// The object; null where there is none.
    pub object: &'v Value,
    /// What it was; null where it is new.
    pub old: &'v Value,
    /// The request, without the objects.
    pub request: &'v Value,
    /// The parameters of a policy; null where it has none.
    pub params: &'v Value,
    /// The namespace of the object; null where it has none.
    pub namespace: &'v Value,
    /// Who answers what the user may do.
    pub asking: &'v Asking,
}

/// Who answers what the user may do, and what the request itself asks for.
#[derive(Debug, Clone)]
pub struct Asking {
    /// Who answers.
    pub authorizer: Arc<dyn Authorizer>,
    /// What the request is for.
    pub resource: Attributes,
}

impl<'v> Inputs<'v> {
    fn activation(&self, env: &Env) -> Activation<'v> {
        let ask = || Val::authorizer(Arc::clone(&self.asking.authorizer));
        let ask_for = || {
            let authorizer = Arc::clone(&self.asking.authorizer);
            Val::authorizer_for(authorizer, self.asking.resource.clone())
        };
        // What an environment does not declare it does not keep.
        Activation::new(env)
            .with(env, "object", Val::plain(self.object))
            .with(env, "oldObject", Val::plain(self.old))
            .with(env, "request", Val::plain(self.request))
            .with(env, "params", Val::plain(self.params))
            .with(env, "namespaceObject", Val::plain(self.namespace))
            .with(env, "authorizer", ask())
            .with(env, "authorizer.requestResource", ask_for())
    }
}

/// An expression, or why it is none.
#[derive(Debug)]
struct Compiled {
    text: String,
    program: Result<Program, String>,
}

impl Compiled {
    fn new(env: &Env, text: &str, types: &[Type]) -> Self {
        let program = env.compile(text, types).map_err(|issues| told(&issues));
        Self { text: text.to_owned(), program }
    }

    /// Its value; the inner error is its own, the outer one ends all.
    fn eval<'v, 'o: 'v>(
        &'v self,
        activation: &Activation<'o>,
        budget: &mut Budget<'_>,
    ) -> Result<Result<Val<'v>, String>, String> {
        let program = match &self.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        match program.eval(activation, budget) {
            Ok(value) => Ok(Ok(value)),
            Err(EvalError::OutOfBudget) => Err(OUT_OF_BUDGET.into()),
            Err(error) => Ok(Err(format!("expression '{}' resulted in error: {error}", self.text))),
        }
    }
}

/// Whether all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matched {
    /// They do.
    Yes,
    /// One does not.
    No,
    /// It cannot be told; by the failure policy that is a refusal.
    Failed(String),
}

/// `matchConditions`
#[derive(Debug)]
pub struct Conditions {
    env: Env,
    all: Vec<Compiled>,
    ignores_failure: bool,
}

impl Conditions {
    /// The conditions of a webhook, or of a policy without parameters. What is wrong with one is told when it is run.
    #[must_use]
    pub fn of_webhook(hook: &Value) -> Self {
        let env = with(&ADMISSION, Names { authorizer: true, ..Names::default() });
        Self::new(env, hook)
    }

    fn new(env: Env, of: &Value) -> Self {
        let expression =
            |it: &Value| Compiled::new(&env, it.str_at(&["expression"]), &[Type::Bool]);
        let all = of.items_at(&["matchConditions"]).iter().map(expression).collect();
        Self { all, ignores_failure: of.str_at(&["failurePolicy"]) == "Ignore", env }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether all hold. One that does not is an answer whatever the others say.
    #[must_use]
    pub fn hold(&self, inputs: &Inputs<'_>) -> Matched {
        if self.all.is_empty() {
            return Matched::Yes;
        }
        let activation = inputs.activation(&self.env);
        let mut budget = Budget::new(limits::MATCH_CONDITIONS_COST_BUDGET);
        let mut errors: Vec<String> = Vec::new();
        for condition in &self.all {
            match condition.eval(&activation, &mut budget) {
                Err(why) => return self.failed(why),
                Ok(Err(why)) if errors.contains(&why) => {}
                Ok(Err(why)) => errors.push(why),
                Ok(Ok(value)) if value.as_bool() == Some(false) => return Matched::No,
                Ok(Ok(_)) => {}
            }
        }
        match errors.as_slice() {
            [] => Matched::Yes,
            [one] => self.failed(one.clone()),
            many => self.failed(format!("[{}]", many.join(", "))),
        }
    }

    fn failed(&self, why: String) -> Matched {
        if self.ignores_failure { Matched::No } else { Matched::Failed(why) }
    }
}

/// What a validation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It holds.
    Admit,
    /// It has no value, which the failure policy ignores.
    Ignored,
    /// It does not hold.
    Deny {
        /// Why.
        message: String,
        /// The reason that the policy gives; empty where there was an error.
        reason: String,
    },
}

/// What a policy wants audited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Annotation {
    /// This.
    Publish {
        /// Under this key.
        key: String,
        /// The text.
        value: String,
    },
    /// It cannot be told, which is a refusal.
    Deny(String),
}

/// What a validating policy says of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// One for each validation.
    pub decisions: Vec<Decision>,
    /// What is to be audited.
    pub annotations: Vec<Annotation>,
}

/// A policy, compiled.
#[derive(Debug)]
pub struct Policy {
    conditions: Conditions,
    composition: Composition,
    /// The same variables where nobody is asked.
    quiet: Composition,
    validations: Vec<Validation>,
    annotations: Vec<(String, Compiled)>,
    mutations: Vec<Mutation>,
    /// Its environment for mutations.
    mutating: Env,
    ignores_failure: bool,
}

#[derive(Debug)]
struct Validation {
    expression: Compiled,
    message_expression: Option<Compiled>,
    message: String,
    reason: String,
}

#[derive(Debug)]
struct Mutation {
    expression: Compiled,
    is_patch: bool,
}

/// What a mutation makes.
#[derive(Debug, Clone, PartialEq)]
pub enum Made {
    /// An object to be applied.
    Configuration(Value),
    /// Operations of a JSON patch.
    Patch(Value),
}

impl Policy {
    /// The policy of a `spec`. What is wrong with an expression is told when it is run.
    #[must_use]
    pub fn new(spec: &Value) -> Self {
        let params = spec.get("paramKind").is_some();
        let asking = with(&POLICIES, Names { params, authorizer: true });
        let conditions = Conditions::new(asking.clone(), spec);
        let mut composition = asking.compose();
        let mut quiet = with(&POLICIES, Names { params, authorizer: false }).compose();
        for variable in spec.items_at(&["variables"]) {
            let (name, text) = (variable.str_at(&["name"]), variable.str_at(&["expression"]));
            // What refers to a bad one cannot be compiled, and says so.
            let _ = composition.define(name, text);
            let _ = quiet.define(name, text);
        }
        let env = composition.env();
        let mutating = env.clone().with_provider(Arc::new(MutationTypes));
        let mutating = mutating.with_library(Library::JsonPatch);
        let validations = spec.items_at(&["validations"]).iter();
        let validations = validations.map(|it| Validation::new(env, quiet.env(), it)).collect();
        let annotations = spec.items_at(&["auditAnnotations"]).iter();
        let annotations = annotations.map(|it| {
            let text = it.str_at(&["valueExpression"]);
            let compiled = Compiled::new(env, text, &[Type::String, Type::Null]);
            (it.str_at(&["key"]).to_owned(), compiled)
        });
        let annotations = annotations.collect();
        let mutations = spec.items_at(&["mutations"]).iter();
        let mutations = mutations.map(|it| Mutation::new(&mutating, it)).collect();
        let ignores_failure = spec.str_at(&["failurePolicy"]) == "Ignore";
        Self {
            conditions,
            composition,
            quiet,
            validations,
            annotations,
            mutations,
            mutating,
            ignores_failure,
        }
    }

    /// Whether errors are as good as no policy.
    #[must_use]
    pub fn ignores_failure(&self) -> bool {
        self.ignores_failure
    }

    /// Whether it is for every request.
    #[must_use]
    pub fn has_conditions(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Whether its conditions hold.
    #[must_use]
    pub fn conditions_hold(&self, inputs: &Inputs<'_>) -> Matched {
        self.conditions.hold(inputs)
    }

    /// What it says of a request of which its conditions say this.
    #[must_use]
    pub fn judge(&self, matched: &Matched, inputs: &Inputs<'_>) -> Judgement {
        match matched {
            Matched::Yes => {}
            Matched::No => return Judgement::default(),
            Matched::Failed(why) => return self.only(why.clone()),
        }
        let env = self.composition.env();
        let activation = inputs.activation(env).with_composition(&self.composition);
        let mut budget = Budget::new(limits::RUNTIME_COST_BUDGET);
        let mut results = Vec::with_capacity(self.validations.len());
        for validation in &self.validations {
            match validation.expression.eval(&activation, &mut budget) {
                Ok(result) => results.push(result.map(|it| it.as_bool() == Some(true))),
                Err(why) => return self.only(why),
            }
        }
        let quiet = inputs.activation(self.quiet.env()).with_composition(&self.quiet);
        let mut decisions = Vec::with_capacity(results.len());
        for (validation, result) in self.validations.iter().zip(results) {
            decisions.push(match result {
                Ok(true) => Decision::Admit,
                Ok(false) => match validation.told(&quiet, &mut budget) {
                    Ok(message) => Decision::Deny { message, reason: validation.reason.clone() },
                    Err(why) => self.error(format!("failed messageExpression: {why}")),
                },
                Err(why) => self.error(why),
            });
        }
        let mut budget = Budget::new(limits::RUNTIME_COST_BUDGET);
        let mut annotations = Vec::new();
        for (key, expression) in &self.annotations {
            match expression.eval(&activation, &mut budget) {
                Err(why) => return self.only(why),
                Ok(Err(why)) if !self.ignores_failure => annotations.push(Annotation::Deny(why)),
                Ok(Err(_)) => {}
                Ok(Ok(value)) => {
                    let value = value.as_str().unwrap_or_default().trim().to_owned();
                    if !value.is_empty() {
                        annotations.push(Annotation::Publish { key: key.clone(), value });
                    }
                }
            }
        }
        Judgement { decisions, annotations }
    }

    fn error(&self, message: String) -> Decision {
        if self.ignores_failure {
            Decision::Ignored
        } else {
            Decision::Deny { message, reason: String::new() }
        }
    }

    fn only(&self, why: String) -> Judgement {
        Judgement { decisions: vec![self.error(why)], annotations: Vec::new() }
    }

    /// How many mutations it makes.
    #[must_use]
    pub fn mutations(&self) -> usize {
        self.mutations.len()
    }

    /// What one of its mutations makes of a request.
    ///
    /// # Errors
    /// Where it makes nothing.
    pub fn mutate(&self, index: usize, inputs: &Inputs<'_>) -> Result<Made, String> {
        let mutation = self.mutations.get(index).ok_or("there is no such mutation")?;
        let activation = inputs.activation(&self.mutating).with_composition(&self.composition);
        let mut budget = Budget::new(limits::RUNTIME_COST_BUDGET);
        let value = mutation.expression.eval(&activation, &mut budget)??;
        let misnamed =
            if mutation.is_patch { misnamed_in_patch(&value) } else { value.misnamed_types() };
        if !misnamed.is_empty() {
            return Err(format!("type mismatch: {}", misnamed.join("\n")));
        }
        let json = value.to_json().map_err(|error| error.to_string())?;
        Ok(if mutation.is_patch { Made::Patch(json) } else { Made::Configuration(json) })
    }
}

/// What is wrong with the types of objects that a patch sets.
fn misnamed_in_patch(patch: &Val<'_>) -> Vec<String> {
    let Val::List(operations) = patch else { return Vec::new() };
    let operations = operations.iter().filter_map(Result::ok);
    operations
        .flat_map(|it| it.member("value").map(Val::misnamed_types).unwrap_or_default())
        .collect()
}

impl Validation {
    fn new(env: &Env, quiet: &Env, it: &Value) -> Self {
        let expression = it.str_at(&["messageExpression"]);
        let message_expression =
            (!expression.is_empty()).then(|| Compiled::new(quiet, expression, &[Type::String]));
        let reason = match it.str_at(&["reason"]) {
            "" => "Invalid",
            reason => reason,
        };
        Self {
            expression: Compiled::new(env, it.str_at(&["expression"]), &[Type::Bool]),
            message_expression,
            message: it.str_at(&["message"]).trim().to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// What is told of it where it does not hold: the message that it makes, or has, or its text.
    fn told(&self, quiet: &Activation<'_>, budget: &mut Budget<'_>) -> Result<String, String> {
        if let Some(expression) = &self.message_expression
            && let Ok(value) = expression.eval(quiet, budget)?
        {
            let text = value.as_str().unwrap_or_default().trim();
            let fits = text.len() <= limits::MESSAGE_EXPRESSION_BYTES_MAX;
            if !text.is_empty() && fits && !text.contains('\n') {
                return Ok(text.to_owned());
            }
        }
        Ok(match self.message.as_str() {
            "" => format!("failed expression: {}", self.expression.text.trim()),
            message => message.to_owned(),
        })
    }
}

impl Mutation {
    fn new(env: &Env, it: &Value) -> Self {
        let is_patch = it.str_at(&["patchType"]) == "JSONPatch";
        let (member, ty) = if is_patch {
            ("jsonPatch", Type::list(Type::object("JSONPatch")))
        } else {
            ("applyConfiguration", Type::object("Object"))
        };
        Self { expression: Compiled::new(env, it.str_at(&[member, "expression"]), &[ty]), is_patch }
    }
}
