//! ImagePolicyWebhook: a webhook says whether pods may have their images. Upstream: `plugin/pkg/admission/imagepolicy`.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Object, Status, Value, json, value};
use async_trait::async_trait;
use auth::remembered::Remembered;
use component_base::metrics::RestClient;
use webhook::{Asking, Client, Kubeconfig};

use crate::{Attributes, Operation, Plugin, configuration};

/// How many answers are remembered (upstream's limit).
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("because it is not 0");
/// The longest question whose answer is remembered: who asks can make it as long as they like.
const MAX_ASKED_BYTES: usize = 64 << 10;
/// How long an answer may take (upstream's limit of webhooks that files name).
const TIMEOUT: Duration = Duration::from_secs(30);
const USER_AGENT: &str = "kube-apiserver-admission";
const AUDIT_PREFIX: &str = "imagepolicywebhook.image-policy.k8s.io/";
const FAILED_OPEN: &str = "alpha.image-policy.k8s.io/failed-open";

/// What the configuration says.
#[derive(Debug, Clone)]
pub(crate) struct ImagePolicy {
    client: Arc<Client>,
    allow_ttl: Duration,
    deny_ttl: Duration,
    retry_backoff: Duration,
    default_allow: bool,
}

/// How long something is: in units of the file, by its limits.
struct Span {
    member: &'static str,
    unit: Duration,
    least: Duration,
    most: Duration,
    usual: Duration,
}

const SECOND: Duration = Duration::from_secs(1);
const ALLOW_TTL: Span = Span {
    member: "allowTTL",
    unit: SECOND,
    least: SECOND,
    most: Duration::from_secs(30 * 60),
    usual: Duration::from_secs(5 * 60),
};
const DENY_TTL: Span = Span { member: "denyTTL", usual: Duration::from_secs(30), ..ALLOW_TTL };
const RETRY_BACKOFF: Span = Span {
    member: "retryBackoff",
    unit: Duration::from_millis(1),
    least: Duration::from_millis(1),
    most: Duration::from_secs(5 * 60),
    usual: Duration::from_millis(500),
};

impl Span {
    /// 0 is the usual, -1 none at all.
    fn of(&self, policy: &Value) -> Result<Duration, String> {
        let Span { member, unit, least, most, usual } = self;
        let given = policy.get(member).filter(|it| !it.is_null());
        let given = given.cloned().unwrap_or_else(|| 0.into());
        let number =
            given.as_i64().ok_or_else(|| format!("imagePolicy.{member}: must be a number"))?;
        let outside = || {
            let shown = |it: &Duration| {
                let nanos = i64::try_from(it.as_nanos()).unwrap_or(i64::MAX);
                apimachinery::duration::Duration::from_nanos(nanos)
            };
            let (low, high) = (shown(least), shown(most));
            let unit = i64::try_from(unit.as_nanos()).unwrap_or(i64::MAX);
            let given = apimachinery::duration::Duration::from_nanos(number.saturating_mul(unit));
            format!("valid value is between {low} and {high}, got {given}")
        };
        match number {
            0 => Ok(*usual),
            -1 => Ok(Duration::ZERO),
            number => {
                let number = u32::try_from(number).map_err(|_| outside())?;
                let span = unit.checked_mul(number).ok_or_else(outside)?;
                if span < *least || span > *most { Err(outside()) } else { Ok(span) }
            }
        }
    }
}

impl ImagePolicy {
    pub(crate) fn of(value: &Value) -> Result<Self, String> {
        const MEMBERS: [&str; 5] =
            ["allowTTL", "defaultAllow", "denyTTL", "kubeConfigFile", "retryBackoff"];
        configuration::members(value, "", &["imagePolicy"])?;
        let empty = Value::object();
        let policy = value.get("imagePolicy").filter(|it| !it.is_null()).unwrap_or(&empty);
        configuration::members(policy, "imagePolicy.", &MEMBERS)?;
        let (retry_backoff, allow_ttl, deny_ttl) =
            (RETRY_BACKOFF.of(policy)?, ALLOW_TTL.of(policy)?, DENY_TTL.of(policy)?);
        let file = policy.str_at(&["kubeConfigFile"]);
        if file.is_empty() {
            return Err("imagePolicy.kubeConfigFile: it names no kubeconfig".into());
        }
        let client = Arc::new(Client::of_kubeconfig(Kubeconfig::read(Path::new(file))?));
        let default_allow = policy.bool_at(&["defaultAllow"]);
        Ok(Self { client, allow_ttl, deny_ttl, retry_backoff, default_allow })
    }
}

#[derive(Debug)]
pub(crate) struct ImagePolicyWebhook {
    policy: ImagePolicy,
    known: Remembered<Vec<u8>, Value>,
}

/// What the webhook is asked about a pod.
fn spec(attributes: &Attributes<'_>) -> Value {
    let pod = &*attributes.object;
    let lists: &[&str] = match attributes.subresource {
        "ephemeralcontainers" => &["ephemeralContainers"],
        _ => &["containers", "initContainers"],
    };
    let containers = lists.iter().flat_map(|list| pod.items_at(&["spec", list]));
    let containers = containers.map(|it| value!({"image": (it.str_at(&["image"]))}));
    let annotations = pod.at(&["metadata", "annotations"]).and_then(Value::as_object);
    let annotations = annotations.into_iter().flat_map(Object::iter);
    let told = annotations.filter(|(name, _)| name.contains(".image-policy.k8s.io/"));
    let told: Object = told.map(|(name, it)| (name, it.clone())).collect();
    let mut spec = Object::new();
    spec.insert("containers", containers.collect::<Value>());
    if !told.is_empty() {
        spec.insert("annotations", told);
    }
    spec.insert("namespace", attributes.namespace);
    Value::Object(spec)
}

impl ImagePolicyWebhook {
    pub(crate) fn new(policy: ImagePolicy, calls: &RestClient) -> Self {
        policy.client.count_in(calls.clone());
        Self { policy, known: Remembered::new(REMEMBERED) }
    }

    /// The `status` of the webhook's answer.
    async fn ask(&self, spec: Value) -> Result<Value, String> {
        let key = json::to_vec(&spec);
        if let Some(known) = self.known.get(&key) {
            return Ok(known);
        }
        let mut review = Object::new();
        review.insert("kind", "ImageReview");
        review.insert("apiVersion", "imagepolicy.k8s.io/v1alpha1");
        review.insert("metadata", value!({"creationTimestamp": null}));
        review.insert("spec", spec);
        review.insert("status", value!({"allowed": false}));
        let asking = Asking {
            timeout: TIMEOUT,
            first_pause: self.policy.retry_backoff,
            user_agent: USER_AGENT,
        };
        let answer = self.policy.client.review(&Value::Object(review), &asking).await;
        let answer = answer.map_err(|error| error.message().to_owned())?;
        let status = answer["status"].clone();
        let ImagePolicy { allow_ttl, deny_ttl, .. } = self.policy;
        let ttl = if status.bool_at(&["allowed"]) { allow_ttl } else { deny_ttl };
        if key.len() <= MAX_ASKED_BYTES {
            self.known.keep(key, status.clone(), ttl);
        }
        Ok(status)
    }
}

#[async_trait]
impl Plugin for ImagePolicyWebhook {
    fn name(&self) -> &'static str {
        "ImagePolicyWebhook"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && attributes.group.is_empty()
            && attributes.resource == "pods"
            && matches!(attributes.subresource, "" | "ephemeralcontainers")
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let status = match self.ask(spec(attributes)).await {
            Ok(status) => status,
            Err(why) if self.policy.default_allow => {
                tracing::warn!(%why, "pod allowed in spite of the image policy webhook's failure");
                attributes.annotations.insert(format!("{AUDIT_PREFIX}failed-open"), "true".into());
                attributes.object.set_at(&["metadata", "annotations", FAILED_OPEN], "true");
                return Ok(());
            }
            Err(why) => return Err(attributes.forbid(&why)),
        };
        let told = status.get("auditAnnotations").and_then(Value::as_object);
        for (name, text) in told.into_iter().flat_map(Object::iter) {
            let text = text.as_str().unwrap_or_default().to_owned();
            attributes.annotations.insert(format!("{AUDIT_PREFIX}{name}"), text);
        }
        if status.bool_at(&["allowed"]) {
            return Ok(());
        }
        Err(attributes.forbid(&match status.str_at(&["reason"]) {
            "" => "one or more images rejected by webhook backend".to_owned(),
            reason => format!("image policy webhook backend denied one or more images: {reason}"),
        }))
    }
}
