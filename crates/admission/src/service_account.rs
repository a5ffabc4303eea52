//! ServiceAccount: every pod runs as an account that exists, and finds its token, unless it declines.

use std::sync::Arc;
use std::time::Duration;

use api::pod_references::{self, is_mirror};
use apimachinery::{Status, Value, value};
use async_trait::async_trait;
use component_base::Random;

use crate::{Attributes, Objects, Operation, Plugin};

/// The account of a pod that names none.
const DEFAULT: &str = "default";
/// Where containers find token, certificate and namespace.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the volume's name begins with.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Seconds after which the token is renewed: an hour, and what tells old clients (who get a year) from new ones.
const EXPIRATION_SECONDS: i64 = 3_607;
/// Says of an account that its pods use no secrets but those that it lists.
const ENFORCED: &str = "kubernetes.io/enforce-mountable-secrets";
/// The letters at the end of the volume's name.
const SUFFIX_LENGTH: usize = 5;

/// How often the account is looked for that every namespace gets a moment after it is made (upstream's).
const ATTEMPTS: u32 = 10;
/// The least pause between two looks, and how much longer it may be.
const PAUSE_MS: u64 = 100;
/// What an account says of its pods.
const TOLD: [&str; 3] = ["automountServiceAccountToken", "imagePullSecrets", ENFORCED];

#[derive(Debug)]
pub(crate) struct ServiceAccount {
    objects: Arc<dyn Objects>,
    random: Arc<dyn Random>,
}

impl ServiceAccount {
    pub(crate) fn new(objects: Arc<dyn Objects>, random: Arc<dyn Random>) -> Self {
        Self { objects, random }
    }

    /// The account; null where it says nothing that matters to a pod, as most do.
    async fn account(&self, attributes: &Attributes<'_>, name: &str) -> Result<Value, Status> {
        let namespace = attributes.namespace;
        let mut found = self.objects.get("", "serviceaccounts", namespace, name);
        let attempts = if name == DEFAULT { ATTEMPTS } else { 1 };
        for attempt in 0..attempts {
            if found.is_some() {
                break;
            }
            if attempt > 0 {
                let pause = PAUSE_MS + self.random.below(PAUSE_MS);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            found = self.objects.get_live("", "serviceaccounts", namespace, name).await?;
        }
        match found {
            Some(found) if TOLD.iter().any(|it| found.mentions(it)) => {
                found.to_value().map_err(Status::internal)
            }
            Some(_) => Ok(Value::Null),
            None => Err(attributes.forbid(&format!(
                "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
            ))),
        }
    }

    /// Gives the containers that have nothing at the path the token's volume.
    fn mount(&self, pod: &mut Value) {
        let volumes = pod.items_at(&["spec", "volumes"]);
        let mut names = volumes.iter().map(|it| it.str_at(&["name"]));
        let existing = names.find(|it| it.starts_with(VOLUME_PREFIX)).map(str::to_owned);
        let exists = existing.is_some();
        let name = existing
            .unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", self.random.suffix(SUFFIX_LENGTH)));
        let mut needed = false;
        for list in ["initContainers", "containers"] {
            for container in pod.items_at_mut(&["spec", list]) {
                let mut mounts = container.items_at(&["volumeMounts"]).to_vec();
                if mounts.iter().any(|it| it.str_at(&["mountPath"]) == MOUNT_PATH) {
                    continue;
                }
                mounts.push(
                    value!({"name": (name.as_str()), "readOnly": true, "mountPath": MOUNT_PATH}),
                );
                container.set_at(&["volumeMounts"], mounts);
                needed = true;
            }
        }
        if needed && !exists {
            let mut volumes = pod.items_at(&["spec", "volumes"]).to_vec();
            volumes.push(volume(&name));
            pod.set_at(&["spec", "volumes"], volumes);
        }
    }
}

/// The volume with token, certificate and namespace.
fn volume(name: &str) -> Value {
    let token =
        value!({"serviceAccountToken": {"expirationSeconds": EXPIRATION_SECONDS, "path": "token"}});
    let authority = value!({"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}});
    let namespace = value!({"downwardAPI": {"items": [
        {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}});
    value!({"name": name, "projected": {"sources": [token, authority, namespace], "defaultMode": 420}})
}

fn automounts(account: &Value, pod: &Value) -> bool {
    let own = pod.at(&["spec", "automountServiceAccountToken"]).and_then(Value::as_bool);
    let of_account = account.get(TOLD[0]).and_then(Value::as_bool);
    own.or(of_account).unwrap_or(true)
}

/// A mirror pod is only its node's: it names nothing that others own.
fn check_mirror(attributes: &Attributes<'_>) -> Result<(), Status> {
    let pod = &*attributes.object;
    let projects = |volume: &Value| {
        let sources = volume.items_at(&["projected", "sources"]);
        sources.iter().any(|it| it.get("serviceAccountToken").is_some())
    };
    let why = if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        "a mirror pod may not reference service accounts"
    } else if !pod_references::secrets(pod).is_empty() {
        "a mirror pod may not reference secrets"
    } else if pod.items_at(&["spec", "volumes"]).iter().any(projects) {
        "a mirror pod may not use ServiceAccountToken volume projections"
    } else {
        return Ok(());
    };
    Err(attributes.forbid(why))
}

/// Whether pods of an account use no secrets but those that it lists.
fn is_enforced(account: &Value) -> bool {
    let said = account.str_at(&["metadata", "annotations", ENFORCED]);
    // What Go reads as true.
    ["1", "t", "T", "TRUE", "true", "True"].contains(&said)
}

/// Names of a list of an account.
fn listed<'a>(account: &'a Value, list: &str) -> Vec<&'a str> {
    account.items_at(&[list]).iter().map(|it| it.str_at(&["name"])).collect()
}

/// Why a pod may not run as an account that says which secrets it may use; as upstream, of volumes only those of secrets count.
fn refused_secret(account: &Value, pod: &Value) -> Option<String> {
    let name = account.str_at(&["metadata", "name"]);
    let mountable = listed(account, "secrets");
    let volumes = pod.items_at(&["spec", "volumes"]).iter();
    let named = volumes.filter_map(|it| it.at(&["secret"])).map(|it| it.str_at(&["secretName"]));
    if let Some(secret) = named.into_iter().find(|it| !mountable.contains(it)) {
        return Some(format!(
            "volume with secret.secretName=\"{secret}\" is not allowed because service account {name} does not reference that secret"
        ));
    }
    let lists = [("initContainers", "init container"), ("containers", "container")];
    if let Some(why) = lists.into_iter().find_map(|list| refused_variable(account, pod, list)) {
        return Some(why);
    }
    let pull = listed(account, "imagePullSecrets");
    let wanted = pod.items_at(&["spec", "imagePullSecrets"]).iter();
    let mut wanted = wanted.map(|it| it.str_at(&["name"])).enumerate();
    let (index, secret) = wanted.find(|(_, it)| !pull.contains(it))?;
    Some(format!(
        "imagePullSecrets[{index}].name=\"{secret}\" is not allowed because service account {name} does not reference that imagePullSecret"
    ))
}

/// Why the containers of a list may not have their variables.
fn refused_variable(account: &Value, pod: &Value, (list, word): (&str, &str)) -> Option<String> {
    let mountable = listed(account, "secrets");
    let is_refused = |reference: &Value| !mountable.contains(&reference.str_at(&["name"]));
    let of_container = |container: &Value| {
        let variable = container.items_at(&["env"]).iter().find_map(|variable| {
            let secret = variable.at(&["valueFrom", "secretKeyRef"])?;
            is_refused(secret).then(|| (format!("envVar {}", variable.str_at(&["name"])), secret))
        });
        let all = || {
            let mut sources = container.items_at(&["envFrom"]).iter();
            let secret = sources.find_map(|it| it.get("secretRef").filter(|it| is_refused(it)))?;
            Some(("envFrom".to_owned(), secret))
        };
        let (how, secret) = variable.or_else(all)?;
        Some(format!(
            "{word} {} with {how} referencing secret.secretName=\"{}\" is not allowed because service account {} does not reference that secret",
            container.str_at(&["name"]),
            secret.str_at(&["name"]),
            account.str_at(&["metadata", "name"]),
        ))
    };
    pod.items_at(&["spec", list]).iter().find_map(of_container)
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_new_pod() || is_debugging(attributes)
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        if is_mirror(attributes.object) || is_debugging(attributes) {
            return self.validate(attributes).await;
        }
        let name = match attributes.object.str_at(&["spec", "serviceAccountName"]) {
            "" => DEFAULT.to_owned(),
            name => name.to_owned(),
        };
        let account = self.account(attributes, &name).await?;
        let pod = &mut *attributes.object;
        // The field's old name is written too, as upstream's conversion does.
        pod.set_at(&["spec", "serviceAccountName"], name.as_str());
        pod.set_at(&["spec", "serviceAccount"], name.as_str());
        if automounts(&account, pod) {
            self.mount(pod);
        }
        if pod.items_at(&["spec", "imagePullSecrets"]).is_empty() {
            let secrets = account.items_at(&[TOLD[1]]);
            if !secrets.is_empty() {
                pod.set_at(&["spec", "imagePullSecrets"], secrets.to_vec());
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let pod = &*attributes.object;
        let debugs = is_debugging(attributes);
        if !debugs && is_mirror(pod) {
            return check_mirror(attributes);
        }
        let account = pod.str_at(&["spec", "serviceAccountName"]);
        if account.is_empty() {
            let name = attributes.object_name();
            let why =
                format!("no service account specified for pod {}/{name}", attributes.namespace);
            return Err(attributes.forbid(&why));
        }
        let account = self.account(attributes, account).await?;
        if !is_enforced(&account) {
            return Ok(());
        }
        let refused = if debugs {
            refused_variable(&account, pod, ("ephemeralContainers", "ephemeral container"))
        } else {
            refused_secret(&account, pod)
        };
        refused.map_or(Ok(()), |why| Err(attributes.forbid(&why)))
    }
}

/// Whether containers are added to a pod that runs.
fn is_debugging(attributes: &Attributes<'_>) -> bool {
    attributes.operation == Operation::Update
        && (attributes.group, attributes.resource) == ("", "pods")
        && attributes.subresource == "ephemeralcontainers"
}
