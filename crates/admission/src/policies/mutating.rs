//! MutatingAdmissionPolicy: policies change the object, one after the other.

use apimachinery::patch::{PatchError, json_patch};
use apimachinery::status::{Cause, reason_of};
use apimachinery::{Status, Value};
use async_trait::async_trait;
use registry::expressions::evaluate::{Made, Matched};
use tokio::time::Instant;

use super::{Misfit, Policies, Run, inputs};
use crate::{Attributes, Plugin, managed, request};

/// The plugin.
#[derive(Debug)]
pub(crate) struct Mutating(pub(crate) Policies);

#[async_trait]
impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        self.0.handles(attributes)
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let again = attributes.reinvocation.again;
        if again {
            attributes.reinvocation.policies.compare(attributes.object);
        }
        let (definitions, bindings) = self.0.all(attributes);
        let concerned = self.0.concerned((&definitions, &bindings), attributes).await;
        let mut refusals: Vec<(String, &'static str)> =
            concerned.misfits.iter().map(|it| (misfit(it), "Forbidden")).collect();
        for run in &concerned.runs {
            let key = key_of(run);
            let due = !again || attributes.reinvocation.policies.is_due(&key);
            let began = Instant::now();
            let ran = self.run(run, due, attributes).await?;
            if !matches!(ran, Ran::Not) {
                let names = (run.definition.name.as_str(), run.binding.name.as_str());
                let failed = match &ran {
                    Ran::Failed(_) => true,
                    Ran::Mutated { failures, .. } => !failures.is_empty(),
                    Ran::Not => false,
                };
                self.0.metrics.mutation(names, failed, began.elapsed());
            }
            match ran {
                Ran::Not => continue,
                Ran::Failed(why) => refusals.extend(refusals_of(run, vec![why])),
                Ran::Mutated { changed, failures } => {
                    refusals.extend(refusals_of(run, failures));
                    if changed {
                        attributes.reinvocation.policies.require();
                        attributes.reinvocation.wanted = true;
                    }
                }
            }
            if run.definition.is_reinvoked {
                attributes.reinvocation.policies.note(&key);
            }
        }
        attributes.reinvocation.policies.leave(attributes.object);
        refuse(attributes, refusals)
    }
}

/// What became of a run.
enum Ran {
    /// It is not for this request, or not again.
    Not,
    /// It was carried out.
    Mutated {
        /// Whether that changed the object.
        changed: bool,
        /// Why some of its mutations could not be.
        failures: Vec<String>,
    },
    /// It could not be told whether it is for this request.
    Failed(String),
}

impl Mutating {
    async fn run(
        &self,
        run: &Run<'_>,
        due: bool,
        attributes: &mut Attributes<'_>,
    ) -> Result<Ran, Status> {
        let namespace = self.0.namespace(attributes).await?;
        let questions = self.0.questions(attributes);
        let request = request::request(attributes, run.version);
        let policy = &run.definition.policy;
        let objects = request::objects(attributes, run.version).await?;
        let matched = {
            let inputs = inputs(run, &objects, (&request, &namespace), questions.asking());
            self.0.matched(run, "admit", attributes, (&questions, &inputs)).await
        };
        match matched {
            Matched::Yes => {}
            Matched::No => return Ok(Ran::Not),
            Matched::Failed(why) => return Ok(Ran::Failed(why)),
        }
        if !due || attributes.object.is_null() {
            return Ok(Ran::Not);
        }
        drop(objects);
        let before = attributes.object.clone();
        let mut failures = Vec::new();
        for index in 0..policy.mutations() {
            let objects = request::objects(attributes, run.version).await?;
            let inputs = inputs(run, &objects, (&request, &namespace), questions.asking());
            let seen = objects.object.as_ref();
            let made = questions.settle(|| policy.mutate(index, &inputs)).await;
            let strictly = matches!(made, Ok(Made::Patch(_)));
            let made = match made {
                Ok(Made::Patch(patch)) => patched(seen, &patch),
                Ok(Made::Configuration(configuration)) => {
                    apply(run, attributes, seen, configuration).map(Some)
                }
                Err(why) => Err(why),
            };
            drop(objects);
            match made {
                Ok(Some(made)) => {
                    // What is no object of this kind is a failure of the server, whatever is said of failures.
                    let (context, object) = (attributes.context, &*attributes.object);
                    let taken = context.take_version(made, run.version, object, strictly).await;
                    *attributes.object = taken?;
                }
                // It is not meant for this object.
                Ok(None) => {}
                // The others are carried out all the same.
                Err(why) => failures.push(why),
            }
        }
        managed::restore(attributes, managed::of(&before));
        let changed = before != *attributes.object;
        Ok(Ran::Mutated { changed, failures })
    }
}

/// What failures come to, by the policy's failure policy.
fn refusals_of(run: &Run<'_>, failures: Vec<String>) -> Vec<(String, &'static str)> {
    if run.definition.policy.ignores_failure() {
        return Vec::new();
    }
    failures.into_iter().map(|why| (refused(run, &why), "Invalid")).collect()
}

/// An object with a patch applied to it; none, where a `test` of the patch says that it is not meant for this one.
fn patched(object: &Value, patch: &Value) -> Result<Option<Value>, String> {
    match json_patch::apply(object, patch) {
        Ok(made) => Ok(Some(made)),
        Err(PatchError::TestFailed(_)) => Ok(None),
        Err(error) => Err(format!("JSONPath: {error}")),
    }
}

/// An object with a configuration applied to it, which need not say what it is of.
fn apply(
    run: &Run<'_>,
    attributes: &Attributes<'_>,
    object: &Value,
    mut configuration: Value,
) -> Result<Value, String> {
    for member in ["apiVersion", "kind"] {
        configuration.set_at(&[member], object[member].clone());
    }
    let merged = attributes.context.merge(object, &configuration, run.version);
    merged.map_err(|why| format!("error applying patch: {why}"))
}

/// What a run is called: a policy by a binding with its parameters.
fn key_of(run: &Run<'_>) -> String {
    let params = run.params.as_deref();
    let text = |member| params.map(|it| it.str_at(&["metadata", member])).unwrap_or_default();
    let (policy, binding) = (&run.definition.name, &run.binding.name);
    format!("{policy}/{binding}/{}/{}", text("namespace"), text("name"))
}

fn refused(run: &Run<'_>, why: &str) -> String {
    let (policy, binding) = (&run.definition.name, &run.binding.name);
    format!("policy '{policy}' with binding '{binding}' denied request: {why}")
}

fn misfit(misfit: &Misfit<'_>) -> String {
    let (policy, why) = (&misfit.definition.name, &misfit.why);
    match misfit.binding {
        None => format!("policy {policy:?} denied request: failed to configure policy: {why}"),
        Some(binding) => format!(
            "policy '{policy}' with binding '{}' denied request: failed to configure binding: {why}",
            binding.name
        ),
    }
}

fn refuse(
    attributes: &Attributes<'_>,
    refusals: Vec<(String, &'static str)>,
) -> Result<(), Status> {
    let Some((message, reason)) = refusals.first() else { return Ok(()) };
    let mut status = attributes.forbid("admission request denied by policy");
    status.message.clone_from(message);
    status.reason = reason_of(reason);
    if let Some(details) = &mut status.details {
        let causes = refusals.into_iter();
        details.causes.extend(causes.map(|(message, _)| Cause { message, ..Cause::default() }));
    }
    Err(status)
}
