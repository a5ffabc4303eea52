//! ValidatingAdmissionPolicy: policies judge the object, and their bindings say what becomes of that.

use std::collections::BTreeMap;
use std::time::Duration;

use apimachinery::status::{Cause, reason_of};
use apimachinery::{Status, Value, json, value};
use async_trait::async_trait;
use registry::expressions::evaluate::{Annotation, Decision};
use tokio::time::Instant;

use super::{Misfit, Policies, Run, inputs};
use crate::{Attributes, Plugin, request};

/// How long an audit annotation may be, in bytes (upstream's limit).
const ANNOTATION_BYTES: usize = 10 << 10;
const FAILURE_KEY: &str = "validation.policy.admission.k8s.io/validation_failure";

/// The plugin.
#[derive(Debug)]
pub(crate) struct Validating(pub(crate) Policies);

/// The first refusal: what is told, and the reason that the policy gives.
struct Refusal {
    message: String,
    reason: String,
}

/// What is gathered over all runs.
#[derive(Default)]
struct Outcome {
    refusal: Option<Refusal>,
    warnings: Vec<String>,
    /// By key, each text once.
    annotations: BTreeMap<String, Vec<String>>,
    failures: Vec<Value>,
}

#[async_trait]
impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        self.0.handles(attributes)
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let (definitions, bindings) = self.0.all(attributes);
        let concerned = self.0.concerned((&definitions, &bindings), attributes).await;
        let mut outcome = Outcome::default();
        for misfit in &concerned.misfits {
            outcome.misfit(misfit);
        }
        if !concerned.runs.is_empty() {
            let namespace = self.0.namespace(attributes).await?;
            let questions = self.0.questions(attributes);
            for run in &concerned.runs {
                let objects = request::objects(attributes, run.version).await?;
                let request = request::request(attributes, run.version);
                let began = Instant::now();
                let inputs = inputs(run, &objects, (&request, &namespace), questions.asking());
                let matched =
                    self.0.matched(run, "validate", attributes, (&questions, &inputs)).await;
                let policy = &run.definition.policy;
                let judged = questions.settle(|| policy.judge(&matched, &inputs)).await;
                let took = began.elapsed();
                for (index, decision) in judged.decisions.into_iter().enumerate() {
                    self.decide(run, (index, decision), took, &mut outcome);
                }
                for annotation in judged.annotations {
                    outcome.annotation(run, annotation);
                }
            }
        }
        outcome.tell(attributes)
    }
}

impl Validating {
    fn decide(
        &self,
        run: &Run<'_>,
        (index, decision): (usize, Decision),
        took: Duration,
        outcome: &mut Outcome,
    ) {
        let names = (run.definition.name.as_str(), run.binding.name.as_str());
        let (message, reason) = match decision {
            Decision::Admit => return,
            Decision::Ignored => {
                self.0.metrics.policy(names, "allow", true, took);
                return;
            }
            Decision::Deny { message, reason } => (message, reason),
        };
        let (policy, binding) = names;
        for action in run.binding.actions.as_array().unwrap_or_default() {
            let counted = match action.as_str() {
                Some("Deny") => {
                    outcome.refuse(run, &message, &reason);
                    "deny"
                }
                Some("Audit") => {
                    let actions = run.binding.actions.clone();
                    let index = i64::try_from(index).unwrap_or(i64::MAX);
                    outcome.failures.push(value!({"message": (message.as_str()), "policy": policy,
                        "binding": binding, "expressionIndex": index,
                        "validationActions": (actions)}));
                    "audit"
                }
                Some("Warn") => {
                    outcome.warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {message}"
                    ));
                    "warn"
                }
                _ => continue,
            };
            self.0.metrics.policy(names, counted, reason.is_empty(), took);
        }
    }
}

impl Outcome {
    fn misfit(&mut self, misfit: &Misfit<'_>) {
        let (what, why) = (&misfit.definition.name, &misfit.why);
        let message = match misfit.binding {
            None => format!(
                "ValidatingAdmissionPolicy '{what}' denied request: failed to configure policy: {why}"
            ),
            Some(binding) => format!(
                "ValidatingAdmissionPolicy '{what}' with binding '{}' denied request: failed to configure binding: {why}",
                binding.name
            ),
        };
        self.refusal.get_or_insert(Refusal { message, reason: String::new() });
    }

    fn refuse(&mut self, run: &Run<'_>, message: &str, reason: &str) {
        let (policy, binding) = (&run.definition.name, &run.binding.name);
        let message = format!(
            "ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}"
        );
        let reason = reason.to_owned();
        self.refusal.get_or_insert(Refusal { message, reason });
    }

    fn annotation(&mut self, run: &Run<'_>, annotation: Annotation) {
        match annotation {
            Annotation::Deny(why) => self.refuse(run, &why, ""),
            Annotation::Publish { key, mut value } => {
                let mut end = value.len().min(ANNOTATION_BYTES);
                while !value.is_char_boundary(end) {
                    end -= 1;
                }
                value.truncate(end);
                let key = format!("{}/{key}", run.definition.name);
                let texts = self.annotations.entry(key).or_default();
                if !texts.contains(&value) {
                    texts.push(value);
                }
            }
        }
    }

    fn tell(self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        attributes.warnings.extend(self.warnings);
        for (key, texts) in self.annotations {
            attributes.annotations.insert(key, texts.join(", "));
        }
        // Upstream keeps the first alone.
        if let Some(first) = self.failures.into_iter().next() {
            let list: Value = [first].into_iter().collect();
            attributes.annotations.insert(FAILURE_KEY.into(), json::to_string(&list));
        }
        let Some(Refusal { message, reason }) = self.refusal else { return Ok(()) };
        let mut status = attributes.forbid(&message);
        let reason = if reason.is_empty() { "Invalid" } else { reason.as_str() };
        status.reason = reason_of(reason);
        status.code = match reason {
            "Unauthorized" => 401,
            "Forbidden" => 403,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        if let Some(details) = &mut status.details {
            details.causes.push(Cause { message, ..Cause::default() });
        }
        Err(status)
    }
}
