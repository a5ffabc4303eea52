//! PodSecurity: the labels of a namespace say how much its pods may do. Pods that do more are refused; whoever writes a
//! template of such pods is warned.
//!
//! The cluster's defaults are upstream's, everything is privileged and nothing is exempt, unless a configuration says
//! otherwise ([`crate::configuration`]).

mod baseline;
mod checks;
mod existing;
mod pod;
pub(crate) mod policy;
mod restricted;

use std::sync::Arc;

use apimachinery::field::{FieldErrors, quote};
use apimachinery::{Status, Value};
use async_trait::async_trait;
use component_base::Clock;

use self::baseline::SECCOMP_OF_CONTAINER;
use self::pod::{Pod, name_of};
use self::policy::{Level, LevelVersion, Policy, Version};
use crate::configuration::PodSecurityConfiguration;
use crate::metrics::Metrics;
use crate::{Attributes, Objects, Operation, Plugin};

/// The subresources of pods that change nothing of what is judged. Those that are not known here are judged.
const HARMLESS: [&str; 8] =
    ["attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "status"];

/// The newest release that policies may be of, by its minor version; later ones are still to come.
const NEWEST: i64 = 37;

#[derive(Debug)]
pub(crate) struct PodSecurity {
    objects: Arc<dyn Objects>,
    clock: Arc<dyn Clock>,
    configuration: PodSecurityConfiguration,
    metrics: Arc<Metrics>,
}

/// What a write is to this plugin.
enum Subject {
    Namespace,
    Pod,
    /// Something with a template of pods, which is there.
    Template(&'static [&'static str]),
}

impl Subject {
    fn of(attributes: &Attributes<'_>) -> Option<Self> {
        let whole = attributes.subresource.is_empty();
        match (attributes.group, attributes.resource) {
            ("", "pods") => (!HARMLESS.contains(&attributes.subresource)).then_some(Self::Pod),
            _ if !whole => None,
            ("", "namespaces") => Some(Self::Namespace),
            ("", "podtemplates") => Some(Self::Template(&["template"])),
            ("", "replicationcontrollers")
            | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets")
            | ("batch", "jobs") => Some(Self::Template(&["spec", "template"])),
            ("batch", "cronjobs") => {
                Some(Self::Template(&["spec", "jobTemplate", "spec", "template"]))
            }
            _ => None,
        }
    }
}

impl PodSecurity {
    pub(crate) fn new(objects: Arc<dyn Objects>, clock: Arc<dyn Clock>) -> Self {
        let configuration = PodSecurityConfiguration::default();
        Self { objects, clock, configuration, metrics: Arc::default() }
    }

    /// The same, which counts here.
    pub(crate) fn counted(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// Counts what a mode's policy says.
    fn evaluated(
        &self,
        attributes: &Attributes<'_>,
        mode: &'static str,
        policy: LevelVersion,
        allowed: bool,
    ) {
        let version = match policy.version {
            _ if policy.level == Level::Privileged => "latest".to_owned(),
            Version::Minor(minor) if minor > NEWEST => "future".to_owned(),
            version => version.to_string(),
        };
        let of = (policy.level.to_string(), version);
        self.metrics.evaluated(attributes, mode, of, allowed);
    }

    pub(crate) fn configured(self, configuration: PodSecurityConfiguration) -> Self {
        Self { configuration, ..self }
    }

    /// Whether nobody looks at what is written there or by this user; the audit is told.
    fn is_exempt(&self, attributes: &mut Attributes<'_>) -> bool {
        let configuration = &self.configuration;
        let why = if configuration.namespaces.contains(attributes.namespace) {
            "namespace"
        } else if configuration.usernames.contains(&attributes.user.name) {
            "user"
        } else {
            return false;
        };
        annotate(attributes, "exempt", why.to_owned());
        self.metrics.exempted(attributes);
        true
    }

    /// The same by how a pod is run.
    fn is_exempt_class(&self, pod: Pod<'_>) -> bool {
        let classes = &self.configuration.runtime_classes;
        !classes.is_empty() && classes.contains(pod.spec.str_at(&["runtimeClassName"]))
    }

    fn policy_of(&self, namespace: &Value) -> (Policy, FieldErrors) {
        let labels = namespace.at(&["metadata", "labels"]);
        Policy::of(|key| labels?.get(key)?.as_str(), &self.configuration.defaults)
    }

    /// Labels of a namespace that nobody looks at mean nothing, which is told.
    fn warn_of_exempt(&self, attributes: &mut Attributes<'_>, policy: &Policy) {
        if policy.is_privileged() || *policy == self.configuration.defaults {
            return;
        }
        let name = quote(attributes.object_name());
        let warning = format!(
            "namespace {name} is exempt from Pod Security, and the policy ({policy}) will be ignored"
        );
        warn(attributes, [warning]);
    }

    /// The policy of a namespace, and what is wrong with its labels: from the caches, or from the store where they do
    /// not know it yet.
    async fn policy(&self, namespace: &str) -> Result<(Policy, FieldErrors), Status> {
        let found = match self.objects.get("", "namespaces", "", namespace) {
            Some(found) => Some(found),
            None => self.objects.get_live("", "namespaces", "", namespace).await?,
        };
        let failed = || format!("failed to lookup namespace {}", quote(namespace));
        let found = found.ok_or_else(|| Status::internal(failed()))?;
        // Labels that mean nothing were refused when they came; what is left of others is judged strictly.
        Ok(Policy::of(|key| found.facts.label(key), &self.configuration.defaults))
    }

    async fn validate_namespace(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let (new, errors) = self.policy_of(attributes.object);
        let old = attributes.old.map(|it| self.policy_of(it));
        let errors_are_new = old.as_ref().is_none_or(|(_, before)| *before != errors);
        if !errors.is_empty() && errors_are_new {
            let name = attributes.object_name();
            return Err(Status::invalid(attributes.group, attributes.kind, name, &errors));
        }
        if self.configuration.namespaces.contains(attributes.object_name()) {
            self.warn_of_exempt(attributes, &new);
            return Ok(());
        }
        let Some((old, _)) = old else { return Ok(()) };
        let (new, old) = (new.enforce, old.enforce);
        let relaxed = new.version == old.version && new.level <= old.level;
        if new.level == Level::Privileged || relaxed {
            return Ok(());
        }
        let name = attributes.object_name();
        let mut pods = self.objects.list("", "pods", name);
        if !self.configuration.runtime_classes.is_empty() {
            let judged = |it: &Value| !self.is_exempt_class(Pod::of(it));
            pods.retain(|it| it.to_value().is_ok_and(|it| judged(&it)));
        }
        let warnings = existing::warnings(&*self.clock, name, pods, new).await;
        warn(attributes, warnings);
        Ok(())
    }

    async fn validate_pod(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        if self.is_exempt(attributes) {
            return Ok(());
        }
        let found = self.policy(attributes.namespace).await;
        let (policy, errors) =
            found.inspect_err(|_| self.metrics.not_evaluated(attributes, true))?;
        let enforced = policy.enforce.to_string();
        if policy.is_privileged() {
            self.evaluated(attributes, "enforce", policy.enforce, true);
            annotate(attributes, "enforce-policy", enforced);
            return Ok(());
        }
        if attributes.old.is_some_and(|old| !differs(attributes.object, old)) {
            return Ok(());
        }
        if self.is_exempt_class(Pod::of(attributes.object)) {
            annotate(attributes, "exempt", "runtimeClass".to_owned());
            self.metrics.exempted(attributes);
            return Ok(());
        }
        annotate(attributes, "enforce-policy", enforced);
        let violations = would_violate(Pod::of(attributes.object), policy.audit);
        self.count_audit(attributes, policy, violations.is_some(), &errors);
        tell_audit(attributes, violations, &errors);
        let pod = Pod::of(attributes.object);
        let findings = checks::violations(pod, policy.enforce);
        self.evaluated(attributes, "enforce", policy.enforce, findings.is_empty());
        if !findings.is_empty() {
            let by = quote(&policy.enforce.to_string());
            let details = checks::details(&findings);
            return Err(attributes.forbid(&format!("violates PodSecurity {by}: {details}")));
        }
        if policy.warn != policy.enforce {
            let warning = would_violate(pod, policy.warn);
            if warning.is_some() {
                self.evaluated(attributes, "warn", policy.warn, false);
            }
            warn(attributes, warning);
        }
        Ok(())
    }

    /// Counts what is wrong with the labels, and what the audit is told.
    fn count_audit(
        &self,
        attributes: &Attributes<'_>,
        policy: Policy,
        violates: bool,
        errors: &FieldErrors,
    ) {
        if !errors.is_empty() {
            self.metrics.not_evaluated(attributes, false);
        }
        if violates {
            self.evaluated(attributes, "audit", policy.audit, false);
        }
    }

    /// Only warns: what is written as a template is refused when pods are made of it.
    async fn validate_template(&self, attributes: &mut Attributes<'_>, at: &[&str]) {
        if self.is_exempt(attributes) {
            return;
        }
        // Nothing is refused here, so nothing is said either where the namespace cannot be read.
        let Ok((policy, errors)) = self.policy(attributes.namespace).await else {
            self.metrics.not_evaluated(attributes, true);
            return;
        };
        let Some(template) = attributes.object.at(at) else { return };
        if self.is_exempt_class(Pod::of(template)) {
            annotate(attributes, "exempt", "runtimeClass".to_owned());
            self.metrics.exempted(attributes);
            return;
        }
        let violations = would_violate(Pod::of(template), policy.audit);
        let warning = would_violate(Pod::of(template), policy.warn);
        self.count_audit(attributes, policy, violations.is_some(), &errors);
        if warning.is_some() {
            self.evaluated(attributes, "warn", policy.warn, false);
        }
        tell_audit(attributes, violations, &errors);
        warn(attributes, warning);
    }
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && Subject::of(attributes).is_some()
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        match Subject::of(attributes) {
            Some(Subject::Namespace) => self.validate_namespace(attributes).await,
            Some(Subject::Pod) => self.validate_pod(attributes).await,
            Some(Subject::Template(at)) => {
                self.validate_template(attributes, at).await;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn would_violate(pod: Pod<'_>, policy: LevelVersion) -> Option<String> {
    let findings = checks::violations(pod, policy);
    let by = quote(&policy.to_string());
    let details = checks::details(&findings);
    (!findings.is_empty()).then(|| format!("would violate PodSecurity {by}: {details}"))
}

/// Tells the audit what violates a policy, and what is wrong with the namespace's labels.
fn tell_audit(attributes: &mut Attributes<'_>, violations: Option<String>, errors: &FieldErrors) {
    if !errors.is_empty() {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let all = if all.len() == 1 { all.concat() } else { format!("[{}]", all.join(", ")) };
        annotate(attributes, "error", format!("Failed to parse policy: {all}"));
    }
    if let Some(violations) = violations {
        annotate(attributes, "audit-violations", violations);
    }
}

fn annotate(attributes: &mut Attributes<'_>, key: &str, value: String) {
    attributes.annotations.insert(format!("pod-security.kubernetes.io/{key}"), value);
}

/// Says each thing once, however often a write is tried.
fn warn(attributes: &mut Attributes<'_>, warnings: impl IntoIterator<Item = String>) {
    for warning in warnings {
        if !attributes.warnings.contains(&warning) {
            attributes.warnings.push(warning);
        }
    }
}

/// Whether an update changes anything that is judged: of what can be changed at all in a pod, these are images, profiles
/// in annotations and new ephemeral containers.
fn differs(new: &Value, old: &Value) -> bool {
    let (pod, before) = (Pod::of(new), Pod::of(old));
    let changed = |container: &Value, other: &Value| {
        let key = format!("{SECCOMP_OF_CONTAINER}{}", name_of(container));
        container.str_at(&["image"]) != other.str_at(&["image"])
            || pod.annotation(&key) != before.annotation(&key)
    };
    let fixed = ["containers", "initContainers"].iter().any(|list| {
        let (all, others) = (pod.spec.items_at(&[list]), before.spec.items_at(&[list]));
        all.len() != others.len() || all.iter().zip(others).any(|(new, old)| changed(new, old))
    });
    let others = before.spec.items_at(&["ephemeralContainers"]);
    let added = pod.spec.items_at(&["ephemeralContainers"]).iter().any(|container| {
        let old = others.iter().find(|it| name_of(it) == name_of(container));
        old.is_none_or(|old| changed(container, old))
    });
    fixed || added
}

#[cfg(test)]
mod tests;
