//! The public ConfigMap that says where the cluster is, signed with each token, so that who has one can trust it.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use ring::hmac;

use super::{NAMESPACE, PREFIX, data, expiration, is_token};

/// Where the ConfigMap lies, and what in it is signed.
const PUBLIC_NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
/// How the members that hold signatures begin.
const SIGNATURE: &str = "jws-kubeconfig-";

/// The controller. It has one key: the ConfigMap.
#[derive(Debug, Clone, Copy)]
pub struct BootstrapSigner;

/// What it sees.
#[derive(Debug)]
pub struct Observed {
    config_map: Arc<Value>,
    secrets: Vec<Arc<Value>>,
}

fn key() -> ObjectKey {
    ObjectKey::new(PUBLIC_NAMESPACE, NAME)
}

impl Controller for BootstrapSigner {
    const NAME: &'static str = "bootstrap-signer-controller";
    const ACCOUNT: &'static str = "bootstrap-signer";
    const QUEUE: &'static str = "bootstrap_signer_queue";
    /// The ConfigMap.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches
            .on::<ConfigMap>(
                |change, _| {
                    if change.key() == key() { vec![key()] } else { Vec::new() }
                },
            )
            .on::<Secret>(|change, _| {
                let objects = [&change.old, &change.new].into_iter().flatten();
                let token = objects.into_iter().any(|it| is_token(&it.value()));
                if token && change.key().namespace == NAMESPACE { vec![key()] } else { Vec::new() }
            })
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let config_map = snapshot.store::<ConfigMap>().get(key)?.value();
        let secrets = snapshot.store::<Secret>().list(NAMESPACE);
        let secrets = secrets.iter().filter(|it| it.key.name.starts_with(PREFIX));
        let secrets = secrets.map(|it| it.value()).filter(|it| is_token(it)).collect();
        Some(Observed { config_map, secrets })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(content) = observed.config_map.at(&["data", CONTENT]).and_then(Value::as_str)
        else {
            return plan;
        };
        let mut wanted = BTreeMap::new();
        for secret in &observed.secrets {
            let Some((id, word)) = token(secret, now) else { continue };
            wanted.insert(format!("{SIGNATURE}{id}"), signature(content, &id, &word));
            if let Ok(Some(at)) = expiration(secret) {
                plan.requeue_by(at);
            }
        }
        let members = observed.config_map.at(&["data"]).and_then(Value::as_object);
        let present: BTreeMap<String, String> = members
            .into_iter()
            .flat_map(apimachinery::Object::iter)
            .filter(|(key, _)| key.starts_with(SIGNATURE))
            .map(|(key, text)| (key.to_owned(), text.as_str().unwrap_or_default().to_owned()))
            .collect();
        if present != wanted {
            let mut object = Value::clone(&observed.config_map);
            for key in present.keys() {
                object.remove_at(&["data", key]);
            }
            for (key, text) in wanted {
                object.set_at(&["data", &key], text);
            }
            let resource = Resource::of::<ConfigMap>();
            plan.act(Action::Update { resource, subresource: "", object });
        }
        plan
    }
}

/// Id and secret of a token that may sign and is not over.
fn token(secret: &Value, now: Timestamp) -> Option<(String, String)> {
    let (id, word) = (data(secret, "token-id"), data(secret, "token-secret"));
    let named = secret.str_at(&["metadata", "name"]).strip_prefix(PREFIX) == Some(id.as_str());
    let current = expiration(secret).is_ok_and(|it| it.is_none_or(|at| now < at));
    let signs = data(secret, "usage-bootstrap-signing") == "true";
    (named && !word.is_empty() && current && signs).then_some((id, word))
}

/// A signature without its content: JWS, HMAC with SHA-256.
fn signature(content: &str, id: &str, word: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, word.as_bytes());
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_that_may_sign_signs() {
        let check = |members: &str, signatures: &str, expected: &str| {
            let parse = |text: &str| Arc::new(apimachinery::json::parse(text.as_bytes()).unwrap());
            let config_map = format!(r#"{{"data":{{"kubeconfig":"x"{signatures}}}}}"#);
            let secret = format!(
                r#"{{"metadata":{{"name":"bootstrap-token-abcdef"}},"data":{{"token-id":"YWJjZGVm","token-secret":"czNjcjN0"{members}}}}}"#
            );
            let observed =
                Observed { config_map: parse(&config_map), secrets: vec![parse(&secret)] };
            let plan = BootstrapSigner.plan(&observed, &mut (), Timestamp::UNIX_EPOCH);
            let outcome = match plan.stages.first().map(|it| &it.actions[0].action) {
                Some(Action::Update { object, .. }) => {
                    let data = object.at(&["data"]).and_then(Value::as_object).unwrap();
                    data.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>().join(" ")
                }
                _ => String::new(),
            };
            assert_eq!(outcome, expected, "{members}");
        };
        let signs = r#","usage-bootstrap-signing":"dHJ1ZQ==""#;
        check(signs, "", "jws-kubeconfig-abcdef kubeconfig");
        check("", "", "");
        check("", r#","jws-kubeconfig-abcdef":"old""#, "kubeconfig");
        let over = format!(r#"{signs},"expiration":"MTk2OS0wMS0wMVQwMDowMDowMFo=""#);
        check(&over, r#","jws-kubeconfig-abcdef":"old""#, "kubeconfig");
        let right = format!(r#","jws-kubeconfig-abcdef":"{}""#, signature("x", "abcdef", "s3cr3t"));
        check(signs, &right, "");
    }

    #[test]
    fn a_signature_has_no_content_in_it() {
        let signature = signature("payload", "abcdef", "secret");
        let parts: Vec<&str> = signature.split('.').collect();
        assert_eq!(parts[0], "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9");
        assert_eq!((parts.len(), parts[1], parts[2].len()), (3, "", 43));
    }
}
