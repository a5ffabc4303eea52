//! An authorizer that asks a webhook. Upstream: `plugin/pkg/authorizer/webhook`.

use std::num::NonZeroUsize;

use apimachinery::{Object, Status, Value, json};
use futures::future::BoxFuture;
use webhook::Client;

use crate::config::authorization::Webhook as Configuration;
use crate::metrics::{Asked, Metrics};
use crate::remembered::Remembered;
use crate::{Attributes, Authorizer, Decision, Rules, UserInfo, expressions, remote, selectors};

/// How many answers are remembered (upstream's limit).
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(8_192).expect("because it is not 0");
/// The longest question whose answer is remembered: who asks can make it as long as they like.
const MAX_ASKED_BYTES: usize = 10_000;

/// Asks a webhook.
#[derive(Debug)]
pub struct WebhookAuthorizer {
    name: String,
    configuration: Configuration,
    client: Client,
    known: Remembered<Vec<u8>, Decision>,
    metrics: Metrics,
}

/// Whether a webhook is for a question.
enum Concerned {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// Nobody can tell.
    Failed(String),
}

impl WebhookAuthorizer {
    /// The authorizer of a configuration, under the name that metrics have for it.
    ///
    /// # Errors
    /// What is wrong with its kubeconfig.
    pub fn new(name: &str, configuration: Configuration, metrics: Metrics) -> Result<Self, String> {
        let file = configuration.kubeconfig.as_deref().ok_or("it names no kubeconfig")?;
        let client = Client::from_kubeconfig(file)?;
        client.count_in(metrics.calls());
        let known = Remembered::new(MAX_REMEMBERED);
        Ok(Self { name: name.to_owned(), configuration, client, known, metrics })
    }

    fn failed(&self, why: String) -> Decision {
        Decision::Failed { why, denies: self.configuration.denies_on_failure }
    }

    /// Whether all conditions hold. One that does not is an answer whatever the others say.
    fn concerned(&self, spec: &Value) -> Concerned {
        if self.configuration.conditions.is_empty() {
            return Concerned::Yes;
        }
        let began = tokio::time::Instant::now();
        let concerned = self.conditions_hold(spec);
        self.metrics.conditions(&self.name, began.elapsed());
        concerned
    }

    fn conditions_hold(&self, spec: &Value) -> Concerned {
        let seen = every_field(spec);
        let mut errors = Vec::new();
        for condition in &self.configuration.conditions {
            let program = (condition.text.as_str(), &condition.program);
            match expressions::eval((&expressions::REQUEST, "request"), program, &seen) {
                Ok(value) if value.as_bool() == Some(false) => {
                    self.metrics.excluded(&self.name);
                    return Concerned::No;
                }
                Ok(_) => {}
                Err(why) => errors.push(format!("cel evaluation error: {why}")),
            }
        }
        let why = match errors.as_slice() {
            [] => return Concerned::Yes,
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        self.metrics.condition_failed(&self.name);
        Concerned::Failed(why)
    }

    async fn fetch(&self, spec: Value, key: Vec<u8>) -> Decision {
        let mut review = Object::new();
        review.insert("kind", "SubjectAccessReview");
        let version = &self.configuration.version;
        review.insert("apiVersion", format!("authorization.k8s.io/{version}"));
        review.insert("metadata", Object::new());
        review.insert("spec", if version == "v1" { spec } else { old_spec(spec) });
        review.insert("status", apimachinery::value!({"allowed": false}));
        let began = tokio::time::Instant::now();
        let timeout = self.configuration.timeout;
        let answer = remote::review(&self.client, &Value::Object(review), timeout).await;
        let asked = match &answer {
            Ok(_) => Asked::Success,
            Err(error) if error.message().contains("context deadline exceeded") => Asked::Timeout,
            Err(_) => Asked::Error,
        };
        let open = answer.is_err() && !self.configuration.denies_on_failure;
        self.metrics.asked(&self.name, asked, began.elapsed(), open);
        let status = match answer {
            Ok(answer) => answer["status"].clone(),
            Err(error) => {
                tracing::error!(%error, name = self.name, "failed to make webhook authorizer request");
                return self.failed(error.message().to_owned());
            }
        };
        let (allowed, denied) = (status.bool_at(&["allowed"]), status.bool_at(&["denied"]));
        let reason = status.str_at(&["reason"]).to_owned();
        let decision = match (denied, allowed) {
            (true, true) => {
                // That is no answer, whatever is said of failures (upstream: `Authorize`).
                let why = "webhook subject access review returned both allow and deny response";
                return Decision::Failed { why: why.to_owned(), denies: true };
            }
            (true, false) => Decision::Deny(reason),
            (false, true) => Decision::Allow(reason),
            (false, false) => Decision::NoOpinion(reason),
        };
        if key.len() < MAX_ASKED_BYTES {
            let Configuration { authorized_ttl, unauthorized_ttl, .. } = self.configuration;
            let ttl = if allowed { authorized_ttl } else { unauthorized_ttl };
            self.known.keep(key, decision.clone(), ttl);
        }
        decision
    }
}

/// The `spec` of a review.
fn spec(asked: &Attributes<'_>) -> Value {
    let mut spec = Object::new();
    let set = |into: &mut Object, member: &str, text: &str| {
        if !text.is_empty() {
            into.insert(member, text);
        }
    };
    if asked.is_resource() {
        let mut of = Object::new();
        for (member, text) in [
            ("namespace", asked.namespace),
            ("verb", asked.verb),
            ("group", asked.group),
            ("version", asked.version),
            ("resource", asked.resource),
            ("subresource", asked.subresource),
            ("name", asked.name),
        ] {
            set(&mut of, member, text);
        }
        if let Some(selector) = selectors::of_fields(asked.field_selector) {
            of.insert("fieldSelector", selector);
        }
        if let Some(selector) = selectors::of_labels(asked.label_selector) {
            of.insert("labelSelector", selector);
        }
        spec.insert("resourceAttributes", of);
    } else {
        let mut of = Object::new();
        set(&mut of, "path", asked.path);
        set(&mut of, "verb", asked.verb);
        spec.insert("nonResourceAttributes", of);
    }
    let list = |all: &[String]| all.iter().map(String::as_str).collect::<Value>();
    set(&mut spec, "user", &asked.user.name);
    if !asked.user.groups.is_empty() {
        spec.insert("groups", list(&asked.user.groups));
    }
    if !asked.user.extra.is_empty() {
        let extra = asked.user.extra.iter().map(|(key, values)| (key.as_str(), list(values)));
        spec.insert("extra", Object::from_iter(extra));
    }
    set(&mut spec, "uid", &asked.user.uid);
    Value::Object(spec)
}

/// The same as v1beta1 has it: groups are called `group`, and there are no selectors.
fn old_spec(mut spec: Value) -> Value {
    if let Some(groups) = spec.remove_at(&["groups"]) {
        spec.set_at(&["group"], groups);
    }
    for selector in ["fieldSelector", "labelSelector"] {
        spec.remove_at(&["resourceAttributes", selector]);
    }
    spec
}

/// The same as expressions see it: texts that are empty are there too.
fn every_field(spec: &Value) -> Value {
    const RESOURCE: [&str; 7] =
        ["namespace", "verb", "group", "version", "resource", "subresource", "name"];
    let mut seen = spec.clone();
    for member in ["user", "uid"] {
        seen.default_at(&[member], "");
    }
    seen.default_at(&["groups"], Value::Array(Vec::new()));
    seen.default_at(&["extra"], Value::object());
    let parts: [(&str, &[&str]); 2] =
        [("resourceAttributes", &RESOURCE), ("nonResourceAttributes", &["path", "verb"])];
    for (part, members) in parts {
        if spec.get(part).is_some() {
            for member in members {
                seen.default_at(&[part, *member], "");
            }
        }
    }
    seen
}

impl Authorizer for WebhookAuthorizer {
    fn decide(&self, attributes: &Attributes<'_>) -> Option<Decision> {
        let spec = spec(attributes);
        match self.concerned(&spec) {
            Concerned::No => return Some(Decision::NoOpinion(String::new())),
            Concerned::Failed(why) => return Some(self.failed(why)),
            Concerned::Yes => {}
        }
        self.known.get(&json::to_vec(&spec))
    }

    fn ask<'a>(&'a self, attributes: &'a Attributes<'a>) -> BoxFuture<'a, Decision> {
        let spec = spec(attributes);
        let key = json::to_vec(&spec);
        Box::pin(self.fetch(spec, key))
    }

    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Result<Rules, Status> {
        let evaluation_error = "webhook authorizer does not support user rule resolution".into();
        Ok(Rules { incomplete: true, evaluation_error, ..Rules::default() })
    }
}
