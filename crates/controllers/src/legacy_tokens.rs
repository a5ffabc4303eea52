//! Tokens that were made for accounts without being asked for and that nobody has used for a year are first declared
//! invalid, then, after another year, deleted. Upstream: `LegacySATokenCleaner` of `pkg/controller/serviceaccount`.
//!
//! When a token was used last stands in a label of its Secret, which the API server writes, by the day.

use std::sync::Arc;

use apimachinery::{Value, value};
use client::call::PatchKind;
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};

use crate::serviceaccount_token::{ACCOUNT_NAME, ACCOUNT_UID, TYPE};

/// The day on which a token was used last.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The day since which it is not taken any more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Where the API server says since when it writes such labels.
const TRACKING: (&str, &str) =
    ("kube-system", "kube-apiserver-legacy-service-account-token-tracking");
/// A day is the unit of all of it.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct LegacyTokenCleaner {
    /// How long a token may be unused (upstream: `--legacy-service-account-token-clean-up-period`).
    pub period: SignedDuration,
}

impl Default for LegacyTokenCleaner {
    fn default() -> Self {
        Self { period: SignedDuration::from_hours(365 * 24) }
    }
}

/// What it sees of a Secret that has a token.
#[derive(Debug)]
pub struct Observed {
    secret: Arc<Value>,
    /// The day since which uses are written down; empty where nobody says.
    since: String,
    /// Its account names it: then nobody has asked for it.
    automatic: bool,
    /// A pod of the namespace has it as a volume, or in its environment.
    mounted: bool,
}

impl Controller for LegacyTokenCleaner {
    const NAME: &'static str = "legacy-serviceaccount-token-cleaner-controller";
    const ACCOUNT: &'static str = "legacy-service-account-token-cleaner";
    const QUEUE: &'static str = "legacy_serviceaccount_token_cleaner";
    /// A Secret.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        // Accounts and pods are looked at when a day is over: nothing has to be done sooner.
        watches
            .on::<ConfigMap>(|_, _| Vec::new())
            .on::<ServiceAccount>(|_, _| Vec::new())
            .on::<Pod>(|_, _| Vec::new())
            .on::<Secret>(token)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let secret = snapshot.store::<Secret>().get(key)?.value();
        if secret.str_at(&["type"]) != TYPE {
            return None;
        }
        let tracking = ObjectKey::new(TRACKING.0, TRACKING.1);
        let tracking = snapshot.store::<ConfigMap>().get(&tracking);
        let since = tracking.map(|it| it.value().str_at(&["data", "since"]).to_owned());
        let automatic = is_automatic(snapshot, &secret);
        let pods = || snapshot.store::<Pod>().list(&key.namespace);
        let mounted = automatic && pods().iter().any(|it| mounts(&it.value(), &key.name));
        Some(Observed { secret, since: since.unwrap_or_default(), automatic, mounted })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        plan.requeue_by(now.saturating_add(DAY).unwrap_or(Timestamp::MAX));
        let before = now.saturating_sub(self.period).unwrap_or(Timestamp::MIN);
        if self.is_needed(observed, before) {
            return plan;
        }
        let secret = &observed.secret;
        let metadata = |member| secret.str_at(&["metadata", member]);
        let key = ObjectKey::new(metadata("namespace"), metadata("name"));
        let invalid_since = secret.str_at(&["metadata", "labels", INVALID_SINCE]);
        if !is_day(invalid_since) {
            let today = day(now);
            let labels = value!({INVALID_SINCE: (today.as_str())});
            plan.act(Action::Patch {
                resource: Resource::of::<Secret>(),
                key,
                subresource: "",
                kind: PatchKind::Merge,
                patch: value!({"metadata": {"uid": (metadata("uid")), "labels": labels}}),
                gone_is_fine: true,
            });
        } else if *invalid_since < *day(before) {
            // Whoever has used it in this moment has changed it.
            plan.act(Action::Delete {
                resource: Resource::of::<Secret>(),
                key,
                uid: metadata("uid").to_owned(),
                propagation: None,
                grace_period_seconds: None,
                resource_version: metadata("resourceVersion").to_owned(),
            });
        }
        plan
    }
}

impl LegacyTokenCleaner {
    /// Whether a token may still be of use: what was not used before this time is not.
    fn is_needed(&self, observed: &Observed, before: Timestamp) -> bool {
        let secret = &observed.secret;
        let tracked = next_day(&observed.since).is_some_and(|it| it <= before);
        let created = secret.str_at(&["metadata", "creationTimestamp"]).parse::<Timestamp>();
        let old = created.is_ok_and(|it| it < before);
        let going = secret.at(&["metadata", "deletionTimestamp"]).is_some();
        let unused = match secret.at(&["metadata", "labels", LAST_USED]).and_then(Value::as_str) {
            None => true,
            Some(last) => is_day(last) && *last < *day(before),
        };
        !(tracked && old && !going && unused && observed.automatic && !observed.mounted)
    }
}

/// A day as labels have it.
fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

fn is_day(text: &str) -> bool {
    text.parse::<jiff::civil::Date>().is_ok() && text.len() == "2006-01-02".len()
}

/// The beginning of the day after this one.
fn next_day(text: &str) -> Option<Timestamp> {
    let day = text.parse::<jiff::civil::Date>().ok()?.tomorrow().ok()?;
    day.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|it| it.timestamp())
}

fn token(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    let token = change.new.as_ref().is_some_and(|it| it.value().str_at(&["type"]) == TYPE);
    if token { vec![change.key()] } else { Vec::new() }
}

/// Whether the account of a Secret is there, is the one meant, and names it.
fn is_automatic(snapshot: &Snapshot, secret: &Value) -> bool {
    let metadata = |member| secret.str_at(&["metadata", member]);
    let annotation = |key| secret.str_at(&["metadata", "annotations", key]);
    let key = ObjectKey::new(metadata("namespace"), annotation(ACCOUNT_NAME));
    let Some(account) = snapshot.store::<ServiceAccount>().get(&key) else { return false };
    let uid = annotation(ACCOUNT_UID);
    let account = account.value();
    (uid.is_empty() || uid == account.str_at(&["metadata", "uid"]))
        && account.items_at(&["secrets"]).iter().any(|it| it.str_at(&["name"]) == metadata("name"))
}

/// Whether a pod has a Secret: as a volume, in its environment, or to pull images.
fn mounts(pod: &Value, secret: &str) -> bool {
    let named = |it: &Value, path: &[&str]| it.str_at(path) == secret;
    let volume = |it: &Value| {
        let sources = it.items_at(&["projected", "sources"]);
        named(it, &["secret", "secretName"])
            || sources.iter().any(|it| named(it, &["secret", "name"]))
    };
    let container = |it: &Value| {
        let from = it.items_at(&["envFrom"]);
        let env = it.items_at(&["env"]);
        from.iter().any(|it| named(it, &["secretRef", "name"]))
            || env.iter().any(|it| named(it, &["valueFrom", "secretKeyRef", "name"]))
    };
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    pod.items_at(&["spec", "volumes"]).iter().any(volume)
        || pod.items_at(&["spec", "imagePullSecrets"]).iter().any(|it| named(it, &["name"]))
        || lists.iter().flat_map(|list| pod.items_at(&["spec", list])).any(container)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done on 2026-06-01 with a token of 2024 that is tracked since then.
    fn done(labels: &str, change: impl Fn(&mut Observed)) -> String {
        let text = format!(
            r#"{{"metadata":{{"name":"t","namespace":"d","uid":"u","resourceVersion":"7",
            "creationTimestamp":"2024-01-01T00:00:00Z","labels":{{{labels}}}}}}}"#
        );
        let secret = Arc::new(apimachinery::json::parse(text.as_bytes()).unwrap());
        let mut observed =
            Observed { secret, since: "2024-01-01".into(), automatic: true, mounted: false };
        change(&mut observed);
        let now = "2026-06-01T12:00:00Z".parse().unwrap();
        let plan = LegacyTokenCleaner::default().plan(&observed, &mut (), now);
        assert_eq!(plan.requeue_at, Some("2026-06-02T12:00:00Z".parse().unwrap()));
        let action = plan.stages.first().map(|it| &it.actions[0].action);
        match action {
            None => "nothing".to_owned(),
            Some(Action::Patch { patch, .. }) => {
                format!("invalid since {}", patch.str_at(&["metadata", "labels", INVALID_SINCE]))
            }
            Some(Action::Delete { resource_version, .. }) => {
                format!("delete at {resource_version}")
            }
            Some(other) => format!("{other:?}"),
        }
    }

    #[test]
    fn a_token_that_nobody_uses_is_invalid_and_then_gone() {
        let used = |day: &str| format!(r#""{LAST_USED}":"{day}""#);
        let invalid = |day: &str| format!(r#""{INVALID_SINCE}":"{day}""#);
        for (labels, wanted) in [
            (String::new(), "invalid since 2026-06-01"),
            (used("2025-06-01"), "nothing"),
            (used("2025-05-31"), "invalid since 2026-06-01"),
            (used("long ago"), "nothing"),
            (invalid("2025-06-01"), "nothing"),
            (invalid("2025-05-31"), "delete at 7"),
            (invalid("soon"), "invalid since 2026-06-01"),
        ] {
            assert_eq!(done(&labels, |_| {}), wanted, "{labels}");
        }
    }

    #[test]
    fn what_may_be_of_use_stays() {
        assert_eq!(done("", |it| it.automatic = false), "nothing");
        assert_eq!(done("", |it| it.mounted = true), "nothing");
        assert_eq!(done("", |it| it.since = "2025-06-01".into()), "nothing");
        assert_eq!(done("", |it| it.since = String::new()), "nothing");
    }

    #[test]
    fn a_pod_may_have_a_secret_in_several_ways() {
        for (spec, has) in [
            (r#"{"volumes":[{"secret":{"secretName":"s"}}]}"#, true),
            (r#"{"volumes":[{"projected":{"sources":[{"secret":{"name":"s"}}]}}]}"#, true),
            (r#"{"containers":[{"envFrom":[{"secretRef":{"name":"s"}}]}]}"#, true),
            (r#"{"initContainers":[{"env":[{"valueFrom":{"secretKeyRef":{"name":"s"}}}]}]}"#, true),
            (r#"{"imagePullSecrets":[{"name":"s"}]}"#, true),
            (r#"{"volumes":[{"secret":{"secretName":"other"}}]}"#, false),
        ] {
            let pod = format!(r#"{{"spec":{spec}}}"#);
            let pod = apimachinery::json::parse(pod.as_bytes()).unwrap();
            assert_eq!(mounts(&pod, "s"), has, "{spec}");
        }
    }
}
