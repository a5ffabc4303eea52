//! Tokens of service accounts in Secrets, for who cannot ask for one: a Secret of the type gets its token, and goes with its
//! account. Upstream: `pkg/controller/serviceaccount/tokens_controller.go`.

use std::fmt::Debug;
use std::sync::Arc;

use apimachinery::Value;
use client::indexes::{BY_SERVICE_ACCOUNT, account_entry};
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Fetch, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};

use crate::owner::{self, to_value};

/// The type of such a Secret.
pub const TYPE: &str = "kubernetes.io/service-account-token";
/// The annotations that name the account.
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
pub(crate) const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Whom a token is for.
#[derive(Debug, Clone, Copy)]
pub struct TokenFor<'t> {
    /// The account's namespace.
    pub namespace: &'t str,
    /// The account.
    pub account: &'t str,
    /// Its uid.
    pub uid: &'t str,
    /// The Secret that it dies with.
    pub secret: &'t str,
}

/// Who makes tokens that never expire.
pub trait TokenSigner: Send + Sync + Debug {
    /// A signed token.
    ///
    /// # Errors
    /// Where it cannot be made.
    fn sign(&self, token: TokenFor<'_>) -> Result<String, String>;
}

/// The controller.
#[derive(Debug, Clone)]
pub struct ServiceAccountTokens {
    /// Makes the tokens.
    pub signer: Arc<dyn TokenSigner>,
    /// The authority's certificate, as PEM.
    pub root_ca: Arc<str>,
}

/// What it plans for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A Secret.
    Secret(ObjectKey),
    /// An account that may still name a Secret which is gone.
    Reference(ObjectKey, String),
}

/// What it sees.
#[derive(Debug)]
pub enum Observed {
    /// A Secret, and its account as far as is known.
    Secret(Arc<Value>, Account),
    /// An account that names a Secret which is gone.
    Reference(Arc<Value>, String),
}

/// What is known of an account.
#[derive(Debug)]
pub enum Account {
    /// Its uid.
    Present(String),
    /// The cache does not have it.
    Missing,
    /// A live read did not find it either.
    Gone,
}

impl Controller for ServiceAccountTokens {
    const NAME: &'static str = "serviceaccount-token-controller";
    const ACCOUNT: &'static str = crate::ROOT_ACCOUNT;
    const QUEUE: &'static str = "serviceaccount_tokens_secret";
    type Key = Key;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<Key>) -> Watches<Key> {
        watches.on::<Secret>(of_secret).on::<ServiceAccount>(|change, snapshot| {
            let key = change.key();
            let entry = account_entry(&key.namespace, &key.name);
            let secrets = snapshot.store::<Secret>().by_index(BY_SERVICE_ACCOUNT, &entry);
            secrets.iter().map(|it| Key::Secret(it.key.clone())).collect()
        })
    }

    fn observe(&self, snapshot: &Snapshot, key: &Key) -> Option<Observed> {
        match key {
            Key::Secret(key) => {
                let secret = snapshot.store::<Secret>().get(key)?.value();
                let account = account(snapshot, &secret);
                Some(Observed::Secret(secret, account))
            }
            Key::Reference(key, secret) => {
                let account = snapshot.store::<ServiceAccount>().get(key)?.value();
                let gone = ObjectKey::new(key.namespace.clone(), secret.as_str());
                let there = snapshot.store::<Secret>().get(&gone).is_some();
                (!there).then(|| Observed::Reference(account, secret.clone()))
            }
        }
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        match observed {
            Observed::Secret(secret, Account::Present(uid)) => self.fill(secret, uid),
            Observed::Secret(secret, Account::Missing) => {
                let mut plan = Plan::nothing();
                plan.fetches.push(fetch(secret));
                plan
            }
            Observed::Secret(secret, Account::Gone) => delete(secret),
            Observed::Reference(account, secret) => forget(account, secret),
        }
    }
}

fn fetch(secret: &Value) -> Fetch {
    let name = secret.str_at(&["metadata", "annotations", ACCOUNT_NAME]);
    let key = ObjectKey::new(secret.str_at(&["metadata", "namespace"]), name);
    Fetch::read(Resource::of::<ServiceAccount>(), key)
}

/// The account of a Secret, if it is the one that the Secret means.
fn account(snapshot: &Snapshot, secret: &Value) -> Account {
    let fetch = fetch(secret);
    let wanted = secret.str_at(&["metadata", "annotations", ACCOUNT_UID]);
    let fits = |account: &Value| {
        let uid = account.str_at(&["metadata", "uid"]);
        (wanted.is_empty() || wanted == uid).then(|| uid.to_owned())
    };
    let cached = snapshot.store::<ServiceAccount>().get(&fetch.key);
    if let Some(uid) = cached.and_then(|it| fits(&it.value())) {
        return Account::Present(uid);
    }
    match snapshot.fetched(&fetch) {
        None => Account::Missing,
        Some(found) => found.and_then(fits).map_or(Account::Gone, Account::Present),
    }
}

fn is_token(secret: &Value) -> bool {
    secret.str_at(&["type"]) == TYPE
        && !secret.str_at(&["metadata", "annotations", ACCOUNT_NAME]).is_empty()
}

fn of_secret(change: &StoreChange, _: &Snapshot) -> Vec<Key> {
    if let Some(new) = &change.new {
        return if is_token(&new.value()) { vec![Key::Secret(change.key())] } else { Vec::new() };
    }
    let Some(old) = change.old.as_ref().map(|it| it.value()).filter(|it| is_token(it)) else {
        return Vec::new();
    };
    let key = change.key();
    let account = old.str_at(&["metadata", "annotations", ACCOUNT_NAME]);
    vec![Key::Reference(ObjectKey::new(key.namespace, account), key.name.to_string())]
}

impl ServiceAccountTokens {
    /// Puts into a Secret what it lacks.
    fn fill(&self, secret: &Value, uid: &str) -> Plan {
        let mut plan = Plan::nothing();
        let namespace = secret.str_at(&["metadata", "namespace"]);
        let account = secret.str_at(&["metadata", "annotations", ACCOUNT_NAME]);
        let encoded = |text: &str| to_value(&ByteString(text.as_bytes().to_vec()));
        let mut object = secret.clone();
        let authority = encoded(&self.root_ca);
        if !self.root_ca.is_empty() && secret.at(&["data", "ca.crt"]) != Some(&authority) {
            object.set_at(&["data", "ca.crt"], authority);
        }
        if secret.str_at(&["data", "namespace"]).is_empty() {
            object.set_at(&["data", "namespace"], encoded(namespace));
        }
        if secret.str_at(&["data", "token"]).is_empty() {
            let name = secret.str_at(&["metadata", "name"]);
            match self.signer.sign(TokenFor { namespace, account, uid, secret: name }) {
                Ok(token) => object.set_at(&["data", "token"], encoded(&token)),
                Err(problem) => {
                    plan.error =
                        Some(format!("could not sign the token of secret {name}: {problem}"));
                    return plan;
                }
            }
        }
        object.set_at(&["metadata", "annotations", ACCOUNT_UID], uid);
        if object != *secret {
            plan.act(Action::Update {
                resource: Resource::of::<Secret>(),
                subresource: "",
                object,
            });
        }
        plan
    }
}

fn delete(secret: &Value) -> Plan {
    let mut plan = Plan::nothing();
    plan.act(owner::delete_value(Resource::of::<Secret>(), secret));
    plan
}

/// Takes a Secret from those that an account names.
fn forget(account: &Value, secret: &str) -> Plan {
    let mut plan = Plan::nothing();
    let names = account.items_at(&["secrets"]);
    let left: Vec<Value> =
        names.iter().filter(|it| it.str_at(&["name"]) != secret).cloned().collect();
    if left.len() != names.len() {
        let mut object = account.clone();
        object.set_at(&["secrets"], Value::Array(left));
        let resource = Resource::of::<ServiceAccount>();
        plan.act(Action::Update { resource, subresource: "", object });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed;

    impl TokenSigner for Fixed {
        fn sign(&self, token: TokenFor<'_>) -> Result<String, String> {
            Ok(format!("{}/{}/{}/{}", token.namespace, token.account, token.uid, token.secret))
        }
    }

    #[test]
    fn a_secret_gets_what_it_lacks_and_goes_with_its_account() {
        let check = |data: &str, account: Account, expected: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"t","namespace":"n","annotations":{{"kubernetes.io/service-account.name":"x","kubernetes.io/service-account.uid":"U"}}}},"data":{data}}}"#
            );
            let secret = apimachinery::json::parse(text.as_bytes()).unwrap();
            let controller = ServiceAccountTokens { signer: Arc::new(Fixed), root_ca: "ca".into() };
            let observed = Observed::Secret(secret.into(), account);
            let plan = controller.plan(&observed, &mut (), Timestamp::UNIX_EPOCH);
            let outcome = match plan.stages.first().map(|it| &it.actions[0].action) {
                Some(Action::Update { object, .. }) => {
                    let data = object.at(&["data"]).and_then(Value::as_object).unwrap();
                    let data =
                        data.iter().map(|(key, it)| format!("{key}={}", it.as_str().unwrap()));
                    data.collect::<Vec<_>>().join(" ")
                }
                Some(Action::Delete { .. }) => "delete".into(),
                Some(_) => "other".into(),
                None if plan.fetches.is_empty() => "nothing".into(),
                None => "look".into(),
            };
            assert_eq!(outcome, expected, "{data}");
        };
        let whole = "ca.crt=Y2E= namespace=bg== token=bi94L1UvdA==";
        check("{}", Account::Present("U".into()), whole);
        let data = r#"{"ca.crt":"Y2E=","namespace":"bg==","token":"dA=="}"#;
        check(data, Account::Present("U".into()), "nothing");
        check("{}", Account::Missing, "look");
        check("{}", Account::Gone, "delete");
    }
}
