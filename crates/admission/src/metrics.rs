//! What admission counts, in upstream's names.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use component_base::metrics::Summary;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use registry::expressions::evaluate::Matched;
use tokio::time::Instant;
use webhook::CertificateFault;

use crate::{Attributes, Operation, manifests};

const PLUGINS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOKS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
const CONDITIONS: [f64; 7] = [0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25];
const CHECKS: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];
/// Codes beyond are counted as one (upstream's bound).
const CODE_MAX: u16 = 600;

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// A plugin's part in a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfPlugin {
    pub(crate) name: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) rejected: &'static str,
    pub(crate) r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStep {
    operation: &'static str,
    rejected: &'static str,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWebhook {
    name: String,
    operation: &'static str,
    rejected: &'static str,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    code: u16,
    name: String,
    operation: &'static str,
    rejected: &'static str,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    error_type: &'static str,
    name: String,
    operation: &'static str,
    rejection_code: u16,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailedOpen {
    name: String,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCondition {
    kind: &'static str,
    name: String,
    operation: &'static str,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMutation {
    error_type: &'static str,
    policy: String,
    policy_binding: String,
}

/// What Pod Security found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Evaluated {
    decision: &'static str,
    mode: &'static str,
    policy_level: String,
    policy_version: String,
    #[prometheus(flatten)]
    of: OfWrite,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EvaluationError {
    fatal: &'static str,
    #[prometheus(flatten)]
    of: OfWrite,
}

/// What Pod Security looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWrite {
    request_operation: &'static str,
    resource: &'static str,
    subresource: String,
}

impl OfWrite {
    fn new(attributes: &Attributes<'_>) -> Self {
        Self {
            request_operation: match attributes.operation {
                Operation::Create => "create",
                Operation::Update => "update",
                Operation::Delete => "delete",
                Operation::Connect => "connect",
            },
            resource: match (attributes.group, attributes.resource) {
                ("", "pods") => "pod",
                ("", "namespaces") => "namespace",
                _ => "controller",
            },
            subresource: attributes.subresource.to_owned(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    enforcement_action: &'static str,
    error_type: &'static str,
    policy: String,
    policy_binding: String,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The webhook answered, and allows.
    Allowed,
    /// It answered, and refuses with this code.
    Denied(u16),
    /// It did not answer; whether that refuses the request.
    Failed { code: u16, rejected: bool },
    /// What it answered could not be used.
    Unusable,
}

/// The counters of one server's admission.
#[derive(Debug)]
pub struct Metrics {
    plugins: Histograms<OfPlugin>,
    steps: Histograms<OfStep>,
    webhooks: Histograms<OfWebhook>,
    requests: Family<Called, Counter<u64, AtomicU64>>,
    rejections: Family<Rejected, Counter<u64, AtomicU64>>,
    fail_open: Family<FailedOpen, Counter<u64, AtomicU64>>,
    condition_errors: Family<OfCondition, Counter<u64, AtomicU64>>,
    exclusions: Family<OfCondition, Counter<u64, AtomicU64>>,
    condition_seconds: Histograms<OfCondition>,
    certificates: Certificates,
    checks: Family<OfPolicy, Counter<u64, AtomicU64>>,
    check_durations: Histograms<OfPolicy>,
    mutations: Family<OfMutation, Counter<u64, AtomicU64>>,
    mutation_durations: Histograms<OfMutation>,
    evaluations: Family<Evaluated, Counter<u64, AtomicU64>>,
    exemptions: Family<OfWrite, Counter<u64, AtomicU64>>,
    evaluation_errors: Family<EvaluationError, Counter<u64, AtomicU64>>,
    manifests: manifests::Metrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            plugins: Family::new_with_constructor(|| Histogram::new(PLUGINS)),
            steps: Family::new_with_constructor(|| Histogram::new(PLUGINS)),
            webhooks: Family::new_with_constructor(|| Histogram::new(WEBHOOKS)),
            requests: Family::default(),
            rejections: Family::default(),
            fail_open: Family::default(),
            condition_errors: Family::default(),
            exclusions: Family::default(),
            condition_seconds: Family::new_with_constructor(|| Histogram::new(CONDITIONS)),
            certificates: Certificates::default(),
            checks: Family::default(),
            check_durations: Family::new_with_constructor(|| Histogram::new(CHECKS)),
            mutations: Family::default(),
            mutation_durations: Family::new_with_constructor(|| Histogram::new(CHECKS)),
            evaluations: Family::default(),
            exemptions: Family::default(),
            evaluation_errors: Family::default(),
            manifests: manifests::Metrics::default(),
        }
    }
}

/// Webhooks whose certificates are of a form that is not taken any more.
#[derive(Debug, Default)]
struct Certificates {
    missing_san: Counter,
    insecure_sha1: Counter,
}

/// Whether plugins may change an object, or judge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Admit,
    Validate,
}

/// What all plugins together took, as a summary: by operation, whether it was refused, and step.
#[derive(Debug, Default)]
pub(crate) struct Summaries([OnceLock<Box<Summary>>; 16]);

/// The place of a series among those of a plugin.
fn place(step: Step, operation: Operation, rejected: bool) -> usize {
    let operation = match operation {
        Operation::Create => 0,
        Operation::Update => 1,
        Operation::Delete => 2,
        Operation::Connect => 3,
    };
    operation * 4 + usize::from(rejected) * 2 + usize::from(step == Step::Validate)
}

impl Summaries {
    pub(crate) fn count(
        &self,
        (step, operation): (Step, Operation),
        rejected: bool,
        took: Duration,
    ) {
        self.0[place(step, operation, rejected)].get_or_init(Box::default).observe(took);
    }

    /// Writes what there is of it.
    pub(crate) fn text(&self, out: &mut String) {
        let name = "apiserver_admission_step_admission_duration_seconds_summary";
        out.push_str("# HELP ");
        out.push_str(name);
        out.push_str(
            " How long all plugins together took for a request, of the last hours\n# TYPE ",
        );
        out.push_str(name);
        out.push_str(" summary\n");
        let operations =
            [Operation::Create, Operation::Update, Operation::Delete, Operation::Connect];
        for operation in operations {
            for rejected in [false, true] {
                for (step, r#type) in [(Step::Admit, "admit"), (Step::Validate, "validate")] {
                    let found = self.0[place(step, operation, rejected)].get();
                    let operation = crate::matching::operation(operation);
                    let labels = format!(
                        "operation=\"{operation}\",rejected=\"{rejected}\",type=\"{type}\""
                    );
                    found.into_iter().for_each(|it| it.write(name, &labels, out));
                }
            }
        }
    }
}

/// The histograms of a plugin, looked up once each: every write passes here many times.
#[derive(Debug, Default)]
pub(crate) struct Timers([OnceLock<Histogram>; 16]);

impl Timers {
    /// Counts what a plugin took; all together where it has no name.
    pub(crate) fn count(
        &self,
        metrics: &Metrics,
        (name, step, operation): (&'static str, Step, Operation),
        rejected: bool,
        took: Duration,
    ) {
        let histogram = self.0[place(step, operation, rejected)].get_or_init(|| {
            let r#type = match step {
                Step::Admit => "admit",
                Step::Validate => "validate",
            };
            let (operation, rejected) = (crate::matching::operation(operation), truth(rejected));
            let of = OfPlugin { name, operation, rejected, r#type };
            if name.is_empty() { metrics.step(&of) } else { metrics.plugin(&of) }
        });
        histogram.observe(took.as_secs_f64());
    }
}

fn truth(it: bool) -> &'static str {
    if it { "true" } else { "false" }
}

impl Metrics {
    pub(crate) fn with_manifests(self, manifests: manifests::Metrics) -> Self {
        Self { manifests, ..self }
    }

    /// Shows them among others.
    pub fn register(&self, registry: &mut Registry) {
        self.manifests.register(registry);
        registry.register(
            "apiserver_admission_controller_admission_duration_seconds",
            "How long one plugin took for a request",
            self.plugins.clone(),
        );
        registry.register(
            "apiserver_admission_step_admission_duration_seconds",
            "How long all plugins together took for a request",
            self.steps.clone(),
        );
        registry.register(
            "apiserver_admission_webhook_admission_duration_seconds",
            "How long one webhook took for a request",
            self.webhooks.clone(),
        );
        registry.register(
            "apiserver_admission_webhook_request",
            "Webhooks called",
            self.requests.clone(),
        );
        registry.register(
            "apiserver_admission_webhook_rejection_count",
            "Requests that were refused because of a webhook",
            self.rejections.clone(),
        );
        registry.register(
            "apiserver_admission_webhook_fail_open_count",
            "Requests that went on although a webhook failed",
            self.fail_open.clone(),
        );
        registry.register(
            "apiserver_admission_match_condition_evaluation_errors",
            "Requests of which match conditions could not be told",
            self.condition_errors.clone(),
        );
        registry.register(
            "apiserver_admission_match_condition_exclusions",
            "Requests that match conditions left out",
            self.exclusions.clone(),
        );
        registry.register(
            "apiserver_admission_match_condition_evaluation_seconds",
            "How long match conditions took for a request",
            self.condition_seconds.clone(),
        );
        let Certificates { missing_san, insecure_sha1 } = &self.certificates;
        registry.register(
            "apiserver_webhooks_x509_missing_san",
            "Calls that failed as the webhook's certificate names it by its common name alone",
            missing_san.clone(),
        );
        registry.register(
            "apiserver_webhooks_x509_insecure_sha1",
            "Calls that failed as a certificate of the webhook is signed with SHA-1",
            insecure_sha1.clone(),
        );
        self.register_policies(registry);
        self.register_pod_security(registry);
    }

    fn register_policies(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_validating_admission_policy_check",
            "What policies said of requests",
            self.checks.clone(),
        );
        registry.register(
            "apiserver_validating_admission_policy_check_duration_seconds",
            "How long a policy took for a request",
            self.check_durations.clone(),
        );
        registry.register(
            "apiserver_mutating_admission_policy_check",
            "Requests that mutating policies looked at",
            self.mutations.clone(),
        );
        registry.register(
            "apiserver_mutating_admission_policy_check_duration_seconds",
            "How long a mutating policy took for a request",
            self.mutation_durations.clone(),
        );
    }

    fn register_pod_security(&self, registry: &mut Registry) {
        registry.register(
            "pod_security_evaluations",
            "What Pod Security decided, of what is neither exempt nor of no interest",
            self.evaluations.clone(),
        );
        registry.register(
            "pod_security_exemptions",
            "Requests that are exempt from Pod Security",
            self.exemptions.clone(),
        );
        registry.register(
            "pod_security_errors",
            "Requests that Pod Security could not judge, or judged by its strictest policy since labels mean nothing",
            self.evaluation_errors.clone(),
        );
    }

    /// Counts what a level of Pod Security says of a request.
    pub(crate) fn evaluated(
        &self,
        attributes: &Attributes<'_>,
        mode: &'static str,
        (policy_level, policy_version): (String, String),
        allowed: bool,
    ) {
        let of = OfWrite::new(attributes);
        let decision = if allowed { "allow" } else { "deny" };
        let of = Evaluated { decision, mode, policy_level, policy_version, of };
        self.evaluations.get_or_create(&of).inc();
    }

    /// Counts a request that Pod Security does not look at.
    pub(crate) fn exempted(&self, attributes: &Attributes<'_>) {
        self.exemptions.get_or_create(&OfWrite::new(attributes)).inc();
    }

    /// Counts a request whose policy could not be told, or not in full.
    pub(crate) fn not_evaluated(&self, attributes: &Attributes<'_>, fatal: bool) {
        let of = EvaluationError { fatal: truth(fatal), of: OfWrite::new(attributes) };
        self.evaluation_errors.get_or_create(&of).inc();
    }

    /// Counts what a mutating policy came to.
    pub(crate) fn mutation(&self, (policy, binding): (&str, &str), failed: bool, took: Duration) {
        let error_type = if failed { "invalid_error" } else { "no_error" };
        let (policy, policy_binding) = (policy.to_owned(), binding.to_owned());
        let of = OfMutation { error_type, policy, policy_binding };
        self.mutations.get_or_create(&of).inc();
        self.mutation_durations.get_or_create(&of).observe(took.as_secs_f64());
    }

    /// The histogram of a plugin.
    fn plugin(&self, of: &OfPlugin) -> Histogram {
        self.plugins.get_or_create_owned(of)
    }

    /// The histogram of all plugins together.
    fn step(&self, of: &OfPlugin) -> Histogram {
        let OfPlugin { operation, rejected, r#type, .. } = *of;
        self.steps.get_or_create_owned(&OfStep { operation, rejected, r#type })
    }

    /// Counts a call.
    pub(crate) fn webhook(
        &self,
        hook: &str,
        operation: &'static str,
        kind: &'static str,
        took: Duration,
        end: End,
    ) {
        let (rejected, code, error_type) = match end {
            End::Allowed => (false, 200, ""),
            End::Denied(code) => (true, code, "no_error"),
            End::Failed { code, rejected } => (rejected, code, "calling_webhook_error"),
            End::Unusable => (true, 0, "apiserver_internal_error"),
        };
        let (name, shown, code) = (hook.to_owned(), truth(rejected), code.min(CODE_MAX));
        let of = OfWebhook { name, operation, rejected: shown, r#type: kind };
        self.webhooks.get_or_create(&of).observe(took.as_secs_f64());
        let OfWebhook { name, .. } = of;
        if rejected {
            let name = name.clone();
            let of = Rejected { error_type, name, operation, rejection_code: code, r#type: kind };
            self.rejections.get_or_create(&of).inc();
        }
        let of = Called { code, name, operation, rejected: shown, r#type: kind };
        self.requests.get_or_create(&of).inc();
    }

    pub(crate) fn failed_open(&self, hook: &str, kind: &'static str) {
        self.fail_open.get_or_create(&FailedOpen { name: hook.to_owned(), r#type: kind }).inc();
    }

    /// Counts what match conditions did to a request, and how long that took.
    pub(crate) fn condition(
        &self,
        name: &str,
        (kind, r#type): (&'static str, &'static str),
        operation: &'static str,
        matched: &Matched,
        began: Instant,
    ) {
        let of = OfCondition { kind, name: name.to_owned(), operation, r#type };
        let took = began.elapsed().as_secs_f64();
        self.condition_seconds.get_or_create(&of).observe(took);
        let family = match matched {
            Matched::Yes => return,
            Matched::No => &self.exclusions,
            Matched::Failed(_) => &self.condition_errors,
        };
        family.get_or_create(&of).inc();
    }

    /// Counts a call that failed with these words, where that was for the form of a certificate.
    pub(crate) fn certificate(&self, why: &str) {
        match webhook::certificate_fault(why) {
            Some(CertificateFault::MissingSan) => self.certificates.missing_san.inc(),
            Some(CertificateFault::InsecureSha1) => self.certificates.insecure_sha1.inc(),
            None => return,
        };
    }

    /// Counts what a policy said.
    pub(crate) fn policy(
        &self,
        (policy, binding): (&str, &str),
        enforcement_action: &'static str,
        failed: bool,
        took: Duration,
    ) {
        let error_type = if failed { "invalid_error" } else { "no_error" };
        let (policy, policy_binding) = (policy.to_owned(), binding.to_owned());
        let of = OfPolicy { enforcement_action, error_type, policy, policy_binding };
        self.checks.get_or_create(&of).inc();
        self.check_durations.get_or_create(&of).observe(took.as_secs_f64());
    }
}
