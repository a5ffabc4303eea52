//! What ValidatingAdmissionPolicy and MutatingAdmissionPolicy share: policies and bindings made ready, whom a request
//! concerns, and the parameters. Upstream: `pkg/admission/plugin/policy/generic`.
//!
//! What expressions say is the registry's (`expressions::evaluate`).

pub(crate) mod mutating;
mod params;
pub(crate) mod validating;

use std::sync::Arc;

use crate::request::Questions;
use api::ResourceFacts;
use apimachinery::obj::Obj;
use apimachinery::status::GroupResource;
use apimachinery::{Status, Value};
use auth::Authorizer;
use registry::expressions::evaluate::{Asking, Inputs, Matched, Policy};
use tokio::time::Instant;

use crate::followed::Followed;
use crate::manifests::{Fixed, Loaded, Source, both};
use crate::matching::{Constraints, is_exempt, is_review, namespace_of, operation};
use crate::metrics::Metrics;
use crate::{Attributes, Objects, Parts, request};
use params::{ParamKind, ParamRef};

/// A policy, ready to be run.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) name: String,
    constraints: Constraints,
    pub(crate) policy: Policy,
    params: Option<ParamKind>,
    /// It sees an object again that others have changed.
    pub(crate) is_reinvoked: bool,
    /// It is of a file: bindings of files put it in force, and no others.
    is_fixed: bool,
}

/// Everything of a kind at one moment.
type All<T> = Arc<[Arc<T>]>;

/// What puts a policy in force.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) name: String,
    policy: String,
    constraints: Option<Constraints>,
    params: Option<ParamRef>,
    /// As they are written.
    pub(crate) actions: Value,
    /// It is of a file.
    is_fixed: bool,
}

impl Definition {
    fn new(value: &Value) -> Self {
        let spec = &value["spec"];
        Self {
            name: value.str_at(&["metadata", "name"]).to_owned(),
            constraints: Constraints::of_policy(&spec["matchConstraints"]),
            policy: Policy::new(spec),
            params: spec.get("paramKind").map(ParamKind::of),
            is_reinvoked: spec.str_at(&["reinvocationPolicy"]) == "IfNeeded",
            is_fixed: false,
        }
    }
}

impl Binding {
    fn new(value: &Value) -> Self {
        let spec = &value["spec"];
        Self {
            name: value.str_at(&["metadata", "name"]).to_owned(),
            policy: spec.str_at(&["policyName"]).to_owned(),
            constraints: spec.get("matchResources").map(Constraints::of_policy),
            params: spec.get("paramRef").map(ParamRef::of),
            actions: spec["validationActions"].clone(),
            is_fixed: false,
        }
    }

    fn is_of(&self, definition: &Definition) -> bool {
        self.is_fixed == definition.is_fixed && self.policy == definition.name
    }
}

/// What files say.
fn of_files(loaded: &Loaded) -> (All<Definition>, All<Binding>) {
    let definition = |it| Arc::new(Definition { is_fixed: true, ..Definition::new(it) });
    let binding = |it| Arc::new(Binding { is_fixed: true, ..Binding::new(it) });
    (loaded.objects.iter().map(definition).collect(), loaded.bindings.iter().map(binding).collect())
}

/// The policies and bindings of one kind.
#[derive(Debug)]
pub(crate) struct Policies {
    /// Those of files, which come first and are for all requests.
    fixed: Option<Fixed<(All<Definition>, All<Binding>)>>,
    definitions: Followed<Definition>,
    bindings: Followed<Binding>,
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
    pub(crate) metrics: Arc<Metrics>,
}

/// One run of a policy: by a binding, with one of its parameters, or without any.
pub(crate) struct Run<'p> {
    pub(crate) definition: &'p Definition,
    pub(crate) binding: &'p Binding,
    pub(crate) params: Option<Arc<Value>>,
    pub(crate) version: &'static ResourceFacts,
}

/// A policy that cannot be run.
#[derive(Debug)]
pub(crate) struct Misfit<'p> {
    pub(crate) definition: &'p Definition,
    pub(crate) binding: Option<&'p Binding>,
    pub(crate) why: String,
}

/// What a request has to do with the policies.
#[derive(Default)]
pub(crate) struct Concerned<'p> {
    pub(crate) runs: Vec<Run<'p>>,
    /// Those that refuse the request because they cannot be run.
    pub(crate) misfits: Vec<Misfit<'p>>,
}

impl Policies {
    pub(crate) fn new(
        parts: &Parts,
        (definitions, bindings): (&str, &str),
        files: Option<Arc<Source>>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let objects = parts.objects.as_ref();
        Self {
            fixed: files.map(|it| Fixed::new(it, |loaded, _| of_files(loaded))),
            definitions: Followed::new(objects, definitions, |it, _| Definition::new(it)),
            bindings: Followed::new(objects, bindings, |it, _| Binding::new(it)),
            objects: Arc::clone(&parts.objects),
            authorizer: Arc::clone(&parts.authorizer),
            metrics: Arc::clone(metrics),
        }
    }

    /// Whether any policy might be for a request.
    pub(crate) fn handles(&self, attributes: &Attributes<'_>) -> bool {
        let fixed = || self.fixed.as_ref().is_some_and(|it| !it.now().0.is_empty());
        let of_objects = !self.definitions.is_empty() && !is_exempt(attributes);
        (of_objects || fixed()) && !is_review(attributes)
    }

    /// The policies and bindings that may be for a request, those of files first. Objects never have a say in what becomes of
    /// objects of their kinds.
    pub(crate) fn all(&self, attributes: &Attributes<'_>) -> (All<Definition>, All<Binding>) {
        let Some(fixed) = &self.fixed else { return (self.definitions.all(), self.bindings.all()) };
        let (definitions, bindings) = fixed.now();
        if is_exempt(attributes) {
            return (definitions, bindings);
        }
        (both(&definitions, &self.definitions.all()), both(&bindings, &self.bindings.all()))
    }

    /// The runs that a request asks for.
    pub(crate) async fn concerned<'p>(
        &self,
        (definitions, bindings): (&'p [Arc<Definition>], &'p [Arc<Binding>]),
        attributes: &Attributes<'_>,
    ) -> Concerned<'p> {
        let mut concerned = Concerned::default();
        for definition in definitions {
            let of_policy: Vec<&Arc<Binding>> =
                bindings.iter().filter(|it| it.is_of(definition)).collect();
            if of_policy.is_empty() {
                continue;
            }
            let mut misfit = |binding, why: String| {
                if !definition.policy.ignores_failure() {
                    concerned.misfits.push(Misfit { definition, binding, why });
                }
            };
            let found = definition.constraints.find(attributes, self.objects.as_ref()).await;
            let version = match found {
                Ok(Some(version)) => version,
                Ok(None) => continue,
                Err(status) => {
                    misfit(None, status.message);
                    continue;
                }
            };
            let kind = match definition.params.as_ref().map(|it| it.find(self.objects.as_ref())) {
                Some(Err(why)) => {
                    misfit(None, why);
                    continue;
                }
                Some(Ok(facts)) => Some(facts),
                None => None,
            };
            for binding in of_policy {
                let found = self.bound(binding, kind, attributes).await;
                match found {
                    Ok(params) => concerned.runs.extend(params.into_iter().map(|params| Run {
                        definition,
                        binding,
                        params,
                        version,
                    })),
                    Err(why) => misfit(Some(binding), why),
                }
            }
        }
        concerned
    }

    /// The parameters that a binding gives for a request; none where it is for others.
    async fn bound(
        &self,
        binding: &Binding,
        kind: Option<&'static ResourceFacts>,
        attributes: &Attributes<'_>,
    ) -> Result<Vec<Option<Arc<Value>>>, String> {
        if let Some(constraints) = &binding.constraints {
            let found = constraints.find(attributes, self.objects.as_ref()).await;
            if found.map_err(|status| status.message)?.is_none() {
                return Ok(Vec::new());
            }
        }
        let (Some(kind), Some(reference)) = (kind, &binding.params) else { return Ok(vec![None]) };
        let found = reference.find(kind, namespace_of(attributes), self.objects.as_ref()).await?;
        Ok(found.into_iter().map(Some).collect())
    }

    /// The namespace of the object of a request; null for what is in none.
    pub(crate) async fn namespace(
        &self,
        attributes: &Attributes<'_>,
    ) -> Result<Arc<Value>, Status> {
        let name = attributes.namespace;
        if name.is_empty() {
            return Ok(Arc::new(Value::Null));
        }
        let found: Option<Arc<Obj>> = match self.objects.get("", "namespaces", "", name) {
            Some(found) => Some(found),
            None => self.objects.get_live("", "namespaces", "", name).await?,
        };
        let of = GroupResource { group: "", resource: "namespaces" };
        let found = found.ok_or_else(|| Status::not_found(of, name))?;
        found.value().map_err(Status::internal)
    }

    /// Whether the conditions of a policy hold, counted as of this kind.
    pub(crate) async fn matched(
        &self,
        run: &Run<'_>,
        kind: &'static str,
        attributes: &Attributes<'_>,
        (questions, inputs): (&Questions, &Inputs<'_>),
    ) -> Matched {
        let Definition { name, policy, .. } = run.definition;
        if !policy.has_conditions() {
            return Matched::Yes;
        }
        let began = Instant::now();
        let matched = questions.settle(|| policy.conditions_hold(inputs)).await;
        let what = ("policy", kind);
        self.metrics.condition(name, what, operation(attributes.operation), &matched, began);
        matched
    }

    pub(crate) fn questions(&self, attributes: &Attributes<'_>) -> Questions {
        request::questions(attributes, &self.authorizer)
    }
}

static NONE: Value = Value::Null;

/// What the expressions of a run are about.
pub(crate) fn inputs<'v>(
    run: &'v Run<'_>,
    objects: &'v request::Objects<'_>,
    (request, namespace): (&'v Value, &'v Value),
    asking: &'v Asking,
) -> Inputs<'v> {
    let (object, old) = (objects.object.as_ref(), objects.old.as_ref());
    let params = run.params.as_deref().unwrap_or(&NONE);
    Inputs { object, old, request, params, namespace, asking }
}
