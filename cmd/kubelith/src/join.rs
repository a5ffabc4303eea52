//! How a further node joins: a token lets it ask for certificates, which the cluster's controllers approve and sign.
//!
//! Upstream's way (KEP-43, kubelet TLS bootstrap): a bootstrap token, `cluster-info` in `kube-public`, and certificate
//! signing requests. The token is `K10HASH::ID.SECRET`, in which `HASH` is the SHA-256 of the cluster's authority in PEM,
//! so that a node knows its server before it tells the secret.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apimachinery::{Value, value};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use client::call::ListParams;
use client::{Client, ObjectKey, Reflector, Resource, Store};
use component_base::{Random, Shutdown};
use sha2::{Digest as _, Sha256};

use crate::http::{Access, HttpTransport};
use crate::pki::{self, Identity, Subject};

/// The group of nodes that are about to join.
const JOINERS: &str = "system:bootstrappers:kubelith:default-node-token";
/// The group of all nodes.
pub(crate) const NODES: &str = "system:nodes";
/// How long a request for a certificate may take.
const PATIENCE: Duration = Duration::from_secs(120);
const PREFIX: &str = "K10";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// What lets a node join.
#[derive(Clone)]
pub(crate) struct Token {
    /// SHA-256 of the authority's PEM, in hexadecimal digits.
    authority: Option<String>,
    id: String,
    secret: String,
}

impl Token {
    /// Reads one, with or without the hash of the authority.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (authority, rest) = match text.strip_prefix(PREFIX).and_then(|it| it.split_once("::")) {
            Some((hash, rest)) => (Some(hash.to_owned()), rest),
            None => (None, text),
        };
        match rest.split_once('.') {
            Some((id, secret)) if id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH => {
                Ok(Self { authority, id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => bail!(
                "the token is not ID.SECRET or K10HASH::ID.SECRET; the server keeps it in DATA_DIR/node-token"
            ),
        }
    }

    /// A new one, for nodes that trust this authority.
    pub(crate) fn make(authority: &str, random: &dyn Random) -> String {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let word = |length: usize| -> String {
            let below = || random.below(u64::try_from(LETTERS.len()).unwrap_or(1));
            let letter = |_| char::from(LETTERS[usize::try_from(below()).unwrap_or_default()]);
            (0..length).map(letter).collect()
        };
        format!("{PREFIX}{}::{}.{}", hash(authority), word(ID_LENGTH), word(SECRET_LENGTH))
    }
}

fn hash(pem: &str) -> String {
    hex::encode(Sha256::digest(pem.as_bytes()))
}

/// As whom this server asks nodes' agents (upstream's name).
pub(crate) const AGENTS_CLIENT: &str = "kube-apiserver-kubelet-client";

/// The objects that let nodes join with this token, let everybody see the authority, and let this server ask agents.
pub(crate) fn objects(token: &str, authority: &str, server: &str) -> Result<Vec<Value>> {
    let token = Token::parse(token)?;
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    certificate-authority-data: {}\n    server: {server}\n",
        BASE64_STANDARD.encode(authority)
    );
    let data = |text: &str| BASE64_STANDARD.encode(text);
    let binding = |name: &str, role: &str, group: &str| {
        value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}]})
    };
    const CSR: &str = "system:certificates.k8s.io:certificatesigningrequests";
    Ok(vec![
        value!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": (format!("bootstrap-token-{}", token.id)), "namespace": "kube-system"},
            "data": {"token-id": (data(&token.id)), "token-secret": (data(&token.secret)),
                "usage-bootstrap-authentication": (data("true")), "auth-extra-groups": (data(JOINERS)),
                "description": (data("lets nodes join; kept in node-token of the data directory"))}}),
        value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
            "data": {"kubeconfig": kubeconfig}}),
        value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "kubelith:cluster-info", "namespace": "kube-public"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}]}),
        value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "kubelith:cluster-info", "namespace": "kube-public"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "kubelith:cluster-info"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}]}),
        value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "kubelith:get-nodes"},
            "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]}),
        binding("kubelith:get-nodes", "kubelith:get-nodes", JOINERS),
        binding("kubelith:node-bootstrap", "system:node-bootstrapper", JOINERS),
        binding("kubelith:node-autoapprove-bootstrap", &format!("{CSR}:nodeclient"), JOINERS),
        value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "kubelith:node-serving-approver"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": "system:certificates.k8s.io:kubelet-serving-approver"},
            "subjects": [{"kind": "ServiceAccount", "name": "certificate-controller", "namespace": "kube-system"}]}),
        binding("kubelith:node-autoapprove-rotation", &format!("{CSR}:selfnodeclient"), NODES),
        value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "kubelith:kubelet-api-admin"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:kubelet-api-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": AGENTS_CLIENT}]}),
    ])
}

/// Which node asks, and under which addresses it serves.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) random: Arc<dyn Random>,
}

/// Makes the kubeconfig of a node that has a token.
pub(crate) async fn join(
    server: &str,
    token: &str,
    asker: &Asker,
    kubeconfig: &Path,
) -> Result<()> {
    let token = Token::parse(token)?;
    let authority = authority(server, &token).await?;
    let bearer = format!("{}.{}", token.id, token.secret);
    let access = Access::by_token(server, &authority, &bearer);
    let client = Client::new(Arc::new(HttpTransport::new(&access)?), "kubelith-agent");
    asker.name_is_free(&client).await?;
    asker.credentials(&client, server, &authority, kubeconfig).await
}

/// The cluster's authority, as the server tells it; the token's hash proves it.
async fn authority(server: &str, token: &Token) -> Result<String> {
    let client = Client::new(Arc::new(HttpTransport::unverified(server)?), "kubelith-agent");
    let info = client
        .get(&Resource::built_in("", "configmaps"), "kube-public", "cluster-info")
        .await
        .with_context(|| format!("could not read cluster-info of {server}"))?;
    let access = Access::parse_clusters(info.str_at(&["data", "kubeconfig"]).as_bytes())
        .context("cluster-info of the server")?;
    match &token.authority {
        Some(wanted) if *wanted != hash(&access) => {
            bail!("{server} is not the server that the token is for: its authority is another")
        }
        Some(_) => {}
        None => tracing::warn!(
            server,
            "the token has no hash of the cluster's authority: the server is trusted unseen"
        ),
    }
    Ok(access)
}

impl Asker {
    /// That no node that lives has this name: two that share one would take each other's pods.
    async fn name_is_free(&self, client: &Client) -> Result<()> {
        let node = match client.get(&Resource::built_in("", "nodes"), "", &self.name).await {
            Ok(node) => node,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "could not see whether the node's name is taken");
                return Ok(());
            }
        };
        let ready = node.items_at(&["status", "conditions"]).iter().any(|condition| {
            condition.str_at(&["type"]) == "Ready" && condition.str_at(&["status"]) == "True"
        });
        if ready {
            bail!(
                "a node named {0:?} is in the cluster already, and Ready: give this one another --node-name, or, where it \
                 is this machine that comes back, `kubectl delete node {0}` first",
                self.name
            );
        }
        Ok(())
    }

    /// The certificate of a node's own server.
    pub(crate) async fn serving(&self, client: &Client) -> Result<Identity> {
        let user = format!("system:node:{}", self.name);
        let names = [self.name.clone()];
        let subject = Subject::Server {
            name: &user,
            names: &names,
            addresses: &self.addresses,
            groups: &[NODES],
        };
        self.certificate(client, "kubernetes.io/kubelet-serving", "server auth", &subject).await
    }

    /// Writes a kubeconfig with a certificate that `client` asks for.
    pub(crate) async fn credentials(
        &self,
        client: &Client,
        server: &str,
        authority: &str,
        kubeconfig: &Path,
    ) -> Result<()> {
        const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
        let user = format!("system:node:{}", self.name);
        let subject = Subject::Client { name: &user, groups: &[NODES] };
        let identity = self.certificate(client, SIGNER, "client auth", &subject).await;
        let identity = identity.context("the cluster gave no certificate for this node")?;
        let text = crate::kubeconfig::text(server, authority, &user, &identity);
        pki::write_secret(kubeconfig, text.as_bytes())
    }

    /// Asks for a certificate and waits for it.
    async fn certificate(
        &self,
        client: &Client,
        signer: &str,
        usage: &str,
        subject: &Subject<'_>,
    ) -> Result<Identity> {
        let (key, request) = pki::request(subject)?;
        let resource = Resource::built_in("certificates.k8s.io", "certificatesigningrequests");
        let object = value!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"generateName": "csr-"},
            "spec": {"request": (BASE64_STANDARD.encode(&request)), "signerName": signer,
                "usages": ["digital signature", usage]}});
        let made = client.create(&resource, "", &object).await?;
        let name = made.str_at(&["metadata", "name"]).to_owned();
        let store = Store::new(resource, &[]);
        let stop = Shutdown::new();
        let params =
            ListParams { field_selector: format!("metadata.name={name}"), ..ListParams::default() };
        let random = Arc::clone(&self.random);
        let reflector = Reflector::new(client.clone(), store.clone(), "", params, random);
        let following = tokio::spawn(reflector.run(stop.signal()));
        let key_of = ObjectKey::new("", name.as_str());
        let look = || {
            let value = store.get(&key_of)?.value();
            let conditions = value.items_at(&["status", "conditions"]);
            let bad =
                conditions.iter().find(|it| matches!(it.str_at(&["type"]), "Denied" | "Failed"));
            if let Some(bad) = bad {
                return Some(Err(format!(
                    "{}: {}",
                    bad.str_at(&["type"]),
                    bad.str_at(&["message"])
                )));
            }
            let certificate = value.str_at(&["status", "certificate"]);
            (!certificate.is_empty()).then(|| Ok(certificate.to_owned()))
        };
        let found = tokio::time::timeout(PATIENCE, crate::node::until(&store, look)).await;
        stop.request();
        let ended = following.await;
        debug_assert!(ended.is_ok(), "a reflector ends by its signal");
        let found = found.with_context(|| {
            format!("nobody approved the request {name} in {} s", PATIENCE.as_secs())
        })?;
        let certificate = found.map_err(|why| anyhow::anyhow!("request {name}: {why}"))?;
        let certificate = String::from_utf8(BASE64_STANDARD.decode(certificate)?)?;
        Ok(Identity { certificate, key })
    }
}

#[cfg(test)]
mod tests {
    use component_base::SeededRandom;

    use super::*;

    #[test]
    fn a_token_names_the_authority_and_lets_in() {
        let text = Token::make("authority", &SeededRandom::new(7));
        let token = Token::parse(&text).unwrap();
        assert_eq!(token.authority, Some(hash("authority")));
        let objects = objects(&text, "authority", "https://h:1").unwrap();
        let name = format!("bootstrap-token-{}", token.id);
        assert_eq!(objects[0].str_at(&["metadata", "name"]), name);
        assert!(Token::parse("abcdef.0123456789abcdef").unwrap().authority.is_none());
        for bad in ["", "K10abc::x", "abcdef", "abcdef.short"] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }
}
