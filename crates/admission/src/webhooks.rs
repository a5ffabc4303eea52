//! What MutatingAdmissionWebhook and ValidatingAdmissionWebhook share: the configurations made ready, whom a request
//! concerns, and one call. Upstream: `pkg/admission/plugin/webhook`.
//!
//! Knows nothing of connections and TLS: that is the `webhook` crate's.

pub(crate) mod mutating;
mod review;
pub(crate) mod validating;

use std::sync::Arc;
use std::time::Duration;

use api::ResourceFacts;
use apimachinery::{Status, Value};
use auth::Authorizer;
use component_base::Random;
use registry::expressions::evaluate::{Conditions, Inputs, Matched};
use tokio::time::Instant;
use webhook::{Call, Client, Credentials, Resolver};

use crate::followed::Followed;
use crate::manifests::{Fixed, Loaded, Source, both};
use crate::matching::{Constraints, is_exempt, is_review, operation};
use crate::metrics::{End, Metrics};
use crate::{Attributes, Objects, Parts, request};
pub(crate) use review::Answer;
use review::Version;

/// What the server calls itself to webhooks.
const USER_AGENT: &str = "kube-apiserver-admission";
/// How long a webhook may take that does not say, in seconds.
const TIMEOUT_SECONDS: u64 = 10;

/// One webhook of a configuration.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) name: String,
    pub(crate) configuration: String,
    /// Its name among all: that of its configuration, its own, and which of that name it is.
    pub(crate) uid: String,
    constraints: Constraints,
    conditions: Conditions,
    pub(crate) ignores_failure: bool,
    pub(crate) is_reinvoked: bool,
    timeout: Duration,
    side_effects: String,
    version: Option<Version>,
    client_config: Value,
    client: Arc<Client>,
}

/// The webhooks of a configuration, in order.
#[derive(Debug)]
pub(crate) struct Configuration(Vec<Hook>);

impl Configuration {
    /// `prefix` keeps the webhooks of files from being taken for others of their names.
    fn new(value: &Value, before: Option<&Self>, (reached, prefix): (&Reached, &str)) -> Self {
        let configuration = value.str_at(&["metadata", "name"]);
        let mut hooks: Vec<Hook> = Vec::new();
        for hook in value.items_at(&["webhooks"]) {
            let name = hook.str_at(&["name"]);
            let same = hooks.iter().filter(|it| it.name == name).count();
            // Connections outlive a change of something else.
            let mut kept = before.into_iter().flat_map(|it| &it.0);
            let kept = kept.find(|it| it.client_config == hook["clientConfig"]);
            let client = kept.map_or_else(
                || Arc::new(reached.client(&hook["clientConfig"])),
                |it| Arc::clone(&it.client),
            );
            let seconds = hook.i64_at(&["timeoutSeconds"]).and_then(|it| u64::try_from(it).ok());
            let versions = hook.items_at(&["admissionReviewVersions"]).iter();
            hooks.push(Hook {
                name: name.to_owned(),
                configuration: configuration.to_owned(),
                uid: format!("{prefix}{configuration}/{name}/{same}"),
                constraints: Constraints::of_webhook(hook),
                conditions: Conditions::of_webhook(hook),
                ignores_failure: hook.str_at(&["failurePolicy"]) == "Ignore",
                is_reinvoked: hook.str_at(&["reinvocationPolicy"]) == "IfNeeded",
                timeout: Duration::from_secs(seconds.unwrap_or(TIMEOUT_SECONDS)),
                side_effects: hook.str_at(&["sideEffects"]).to_owned(),
                version: versions.filter_map(Value::as_str).find_map(Version::of),
                client_config: hook["clientConfig"].clone(),
                client,
            });
        }
        Self(hooks)
    }
}

/// How webhooks are reached.
struct Reached {
    resolver: Arc<dyn Resolver>,
    /// As whom, where that is said.
    credentials: Option<Arc<Credentials>>,
}

impl Reached {
    fn client(&self, config: &Value) -> Client {
        Client::with_credentials(config, Arc::clone(&self.resolver), self.credentials.as_deref())
    }
}

/// Which webhooks.
pub(crate) struct Settings {
    /// What their configurations are.
    pub(crate) resource: &'static str,
    /// `admit` or `validating`, as metrics call it.
    pub(crate) kind: &'static str,
    pub(crate) credentials: Option<Arc<Credentials>>,
    /// Where those of files are.
    pub(crate) files: Option<Arc<Source>>,
}

/// Why a call is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The webhook could not be asked, or answered nonsense; by the failure policy that is a refusal.
    Calling { why: String, code: u16 },
    /// The answer cannot be used, whatever the failure policy is.
    Unusable(Status),
}

type Configurations = Arc<[Arc<Configuration>]>;

/// What files say; connections outlive a change of something else.
fn of_files(loaded: &Loaded, before: Option<&Configurations>, reached: &Reached) -> Configurations {
    let named = |value: &Value| {
        let name = value.str_at(&["metadata", "name"]);
        let same =
            |it: &&Arc<Configuration>| it.0.first().is_some_and(|hook| hook.configuration == name);
        before.and_then(|all| all.iter().find(same)).map(AsRef::as_ref)
    };
    let made = loaded.objects.iter();
    made.map(|it| Arc::new(Configuration::new(it, named(it), (reached, "manifest/")))).collect()
}

/// The webhooks of one kind of configuration.
#[derive(Debug)]
pub(crate) struct Webhooks {
    /// Those of files, which come first and are for all requests.
    fixed: Option<Fixed<Configurations>>,
    configurations: Followed<Configuration>,
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
    random: Arc<dyn Random>,
    pub(crate) metrics: Arc<Metrics>,
    /// `admit` or `validating`, as metrics call it.
    pub(crate) kind: &'static str,
}

/// What a webhook is to be asked.
pub(crate) struct Asked<'h> {
    pub(crate) hook: &'h Hook,
    /// Its place among all webhooks.
    pub(crate) index: usize,
    pub(crate) version: &'static ResourceFacts,
}

impl Webhooks {
    pub(crate) fn new(parts: &Parts, settings: Settings, metrics: &Arc<Metrics>) -> Self {
        let Settings { resource, kind, credentials, files } = settings;
        let services = Arc::clone(&parts.objects);
        let services = crate::services::Services::new(services).counted(parts.calls.clone());
        let resolver: Arc<dyn Resolver> = Arc::new(services);
        let reached = Arc::new(Reached { resolver, credentials });
        let of_file = Arc::clone(&reached);
        let make = move |value: &Value, before: Option<&Configuration>| {
            Configuration::new(value, before, (&reached, ""))
        };
        let fixed = files.map(|files| {
            Fixed::new(files, move |loaded, before| of_files(loaded, before, &of_file))
        });
        Self {
            fixed,
            configurations: Followed::new(parts.objects.as_ref(), resource, make),
            objects: Arc::clone(&parts.objects),
            authorizer: Arc::clone(&parts.authorizer),
            random: Arc::clone(&parts.random),
            metrics: Arc::clone(metrics),
            kind,
        }
    }

    /// Whether any webhook might be for a request.
    pub(crate) fn handles(&self, attributes: &Attributes<'_>) -> bool {
        // Reviews are questions, not objects (upstream's gate ExcludeAdmissionWebhookVirtualResources, on by default).
        let fixed = || self.fixed.as_ref().is_some_and(|it| !it.now().is_empty());
        let of_objects = !self.configurations.is_empty() && !is_exempt(attributes);
        (of_objects || fixed()) && !is_review(attributes)
    }

    /// The configurations that may be for a request, those of files first. Objects never have a say in what becomes of
    /// objects of their kinds.
    pub(crate) fn configurations(&self, attributes: &Attributes<'_>) -> Configurations {
        let Some(fixed) = &self.fixed else { return self.configurations.all() };
        let fixed = fixed.now();
        if is_exempt(attributes) { fixed } else { both(&fixed, &self.configurations.all()) }
    }

    /// Whether a webhook is for a request, and in which version it is to see it.
    pub(crate) async fn concerns<'h>(
        &self,
        (index, hook): (usize, &'h Hook),
        attributes: &Attributes<'_>,
    ) -> Result<Option<Asked<'h>>, Status> {
        let found = hook.constraints.find(attributes, self.objects.as_ref()).await?;
        let Some(version) = found else { return Ok(None) };
        if !hook.conditions.is_empty() && !self.conditions_hold(hook, attributes, version).await? {
            return Ok(None);
        }
        Ok(Some(Asked { hook, index, version }))
    }

    async fn conditions_hold(
        &self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        version: &'static ResourceFacts,
    ) -> Result<bool, Status> {
        let objects = request::objects(attributes, version).await?;
        let request = request::request(attributes, version);
        let questions = request::questions(attributes, &self.authorizer);
        let inputs = Inputs {
            object: &objects.object,
            old: &objects.old,
            request: &request,
            params: &Value::Null,
            namespace: &Value::Null,
            asking: questions.asking(),
        };
        let began = Instant::now();
        let matched = questions.settle(|| hook.conditions.hold(&inputs)).await;
        let (what, on) = (("webhook", self.kind), operation(attributes.operation));
        self.metrics.condition(&hook.name, what, on, &matched, began);
        match matched {
            Matched::Yes => Ok(true),
            Matched::No => Ok(false),
            Matched::Failed(why) => Err(attributes.forbid(&why)),
        }
    }

    /// Asks a webhook about a request.
    pub(crate) async fn ask(
        &self,
        asked: &Asked<'_>,
        attributes: &Attributes<'_>,
    ) -> Result<Answer, Failure> {
        let hook = asked.hook;
        if attributes.dry_run && !matches!(hook.side_effects.as_str(), "None" | "NoneOnDryRun") {
            let message = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Failure::Unusable(Status::bad_request(message)));
        }
        let Some(version) = hook.version else {
            let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            return Err(Failure::Calling { why: why.into(), code: 400 });
        };
        let objects =
            request::objects(attributes, asked.version).await.map_err(Failure::Unusable)?;
        let request = request::request(attributes, asked.version);
        let uid = self.random.uid().to_string();
        let body = review::write(version, &uid, &request, &objects);
        let call = Call {
            body: body.into(),
            timeout: hook.timeout,
            tells_timeout: true,
            user_agent: USER_AGENT,
        };
        let answer = hook.client.post(call).await;
        if let Err(error) = &answer {
            self.metrics.certificate(error.message());
        }
        let answer = answer
            .map_err(|error| Failure::Calling { code: error.code(), why: error.to_string() })?;
        let invalid = |why: String| Failure::Calling { why, code: 503 };
        let unread = |why| invalid(format!("failed to call webhook: {why}"));
        let answer = answer.object().map_err(unread)?;
        if let Some(why) = review::unlike(version, &answer) {
            return Err(unread(why));
        }
        let answer = review::read((version, &uid, &hook.name), self.kind == "admit", &answer)
            .map_err(|why| invalid(format!("received invalid webhook response: {why}")))?;
        Ok(answer)
    }

    /// Counts a call and, where it failed and the failure policy says so, makes it a refusal.
    pub(crate) fn settle(
        &self,
        asked: &Asked<'_>,
        attributes: &Attributes<'_>,
        took: Duration,
        result: &Result<Answer, Failure>,
    ) -> Result<(), Status> {
        let hook = asked.hook;
        let end = match result {
            Ok(Answer { denied: None, .. }) => End::Allowed,
            Ok(Answer { denied: Some(status), .. }) => End::Denied(status.code),
            Err(Failure::Unusable(_)) => End::Unusable,
            Err(Failure::Calling { code, .. }) => {
                End::Failed { code: *code, rejected: !hook.ignores_failure }
            }
        };
        self.metrics.webhook(&hook.name, operation(attributes.operation), self.kind, took, end);
        match result {
            Ok(Answer { denied: None, .. }) => Ok(()),
            Ok(Answer { denied: Some(status), .. }) | Err(Failure::Unusable(status)) => {
                Err(status.clone())
            }
            Err(Failure::Calling { why, .. }) => {
                let message = format!("failed calling webhook {:?}: {why}", hook.name);
                if !hook.ignores_failure {
                    return Err(Status::internal(message));
                }
                tracing::warn!(hook = %hook.name, %message, "failing open");
                self.metrics.failed_open(&hook.name, self.kind);
                Ok(())
            }
        }
    }
}

impl Configuration {
    pub(crate) fn hooks(&self) -> &[Hook] {
        &self.0
    }
}
