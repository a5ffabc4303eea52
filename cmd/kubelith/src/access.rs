//! Who may do what in this cluster: the flags, and the authenticators, authorizers and admission plugins made of them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use admission::{Chain, Parts};
use anyhow::{Context, Result};
use apiserver::{Access, CachedObjects, ProxyClient};
use auth::bootstrap_token::BootstrapTokens;
use auth::jwt::{SigningKey, VerifyingKey};
use auth::node::NodeAuthorizer;
use auth::privileged::PrivilegedGroup;
use auth::rbac::Rbac;
use auth::service_account::{ServiceAccountTokens, TokenIssuer};
use auth::static_token::StaticTokens;
use auth::union::Union;
use auth::x509::ClientCertificates;
use auth::{Authenticator, Authorizer};
use component_base::{Clock, Random};

use crate::pki::{Directory, Identity, Subject};

/// A documentation address: asking the way to it tells our own address, and sends nothing.
const FAR_AWAY: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// What the cluster's own front proxy, which is this server, is called.
const FRONT_PROXY_CLIENT: &str = "front-proxy-client";

/// Flags about access.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "access")]
#[command(next_help_heading = "kube-apiserver")]
pub(crate) struct Options {
    /// File of static bearer tokens: token,user,uid,"groups"
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// Who the tokens of service accounts say made them
    #[arg(long, default_value = "https://kubernetes.default.svc", value_name = "URL")]
    service_account_issuer: String,
    /// Key that signs the tokens of service accounts (default: one of its own, below DATA_DIR/pki)
    #[arg(long, value_name = "FILE")]
    service_account_signing_key_file: Option<PathBuf>,
    /// Further keys that service accounts' tokens may be signed with
    #[arg(long, value_name = "FILE")]
    service_account_key_file: Vec<PathBuf>,
    /// Whom tokens for this API server are meant for (default: the issuer)
    #[arg(long, value_delimiter = ',', value_name = "AUDIENCE")]
    api_audiences: Vec<String>,
    /// Whether requests without credentials are those of system:anonymous
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    anonymous_auth: bool,
    /// Certificate by which this server proves itself to API servers behind it (default: one of its own)
    #[arg(long, value_name = "FILE", requires = "proxy_client_key_file")]
    proxy_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "proxy_client_cert_file")]
    proxy_client_key_file: Option<PathBuf>,
    /// The most requests in flight that change nothing; watches are not counted
    #[arg(long, default_value_t = 400, value_name = "N")]
    pub(crate) max_requests_inflight: usize,
    /// The most requests in flight that change something
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub(crate) max_mutating_requests_inflight: usize,
    /// Whether the places of both are shared out by priority and fairness
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(crate) enable_priority_and_fairness: bool,
    /// Address under which pods and other machines reach this server (default: that of the default route)
    #[arg(long, value_name = "IP")]
    advertise_address: Option<IpAddr>,
    /// Further names and addresses that the server's certificate is good for
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) tls_san: Vec<String>,
}

/// The address of the default route, where there is one.
pub(crate) fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(FAR_AWAY).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// What was read from files.
#[derive(Debug)]
pub(crate) struct Credentials {
    tokens: StaticTokens,
    issuer: Arc<TokenIssuer>,
    anonymous: bool,
}

impl Options {
    /// Reads tokens and keys; makes the signing key where there is none.
    pub(crate) fn credentials(&self, pki: &Directory) -> Result<Credentials> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
        };
        let tokens = self.token_auth_file.as_ref().map(read).transpose()?.unwrap_or_default();
        let key = match &self.service_account_signing_key_file {
            Some(path) => read(path)?,
            None => pki.secret("service-account.key", || {
                Ok(rcgen::KeyPair::generate()?.serialize_pem())
            })?,
        };
        let key = SigningKey::from_pem(&key).with_context(|| {
            let own = pki.path("service-account.key");
            let file = self.service_account_signing_key_file.as_ref().unwrap_or(&own);
            format!("could not use the key of service accounts in {}", file.display())
        })?;
        let mut verifying = Vec::new();
        for path in &self.service_account_key_file {
            let key = VerifyingKey::from_pem(&read(path)?);
            verifying.push(key.with_context(|| format!("could not use {}", path.display()))?);
        }
        let (issuer, audiences) = (&self.service_account_issuer, self.api_audiences.clone());
        Ok(Credentials {
            tokens: StaticTokens::parse(&tokens).with_context(|| {
                let file = self.token_auth_file.clone().unwrap_or_default();
                format!("could not use {}", file.display())
            })?,
            issuer: Arc::new(TokenIssuer::new(key, verifying, issuer, audiences)),
            anonymous: self.anonymous_auth,
        })
    }

    /// What this server proves itself by to API servers behind it.
    pub(crate) fn proxy_client(&self, pki: &Directory) -> Result<ProxyClient> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
        };
        let (Some(certificate), Some(key)) =
            (&self.proxy_client_cert_file, &self.proxy_client_key_file)
        else {
            let authority = pki.authority("front-proxy-ca", "front-proxy-ca")?;
            let subject = Subject::Client { name: FRONT_PROXY_CLIENT, groups: &[] };
            return pki.identity("front-proxy-client", &authority, &subject)?.proxy_client();
        };
        let identity = Identity { certificate: read(certificate)?, key: read(key)? };
        identity.proxy_client().with_context(|| {
            format!("could not use {} with {}", certificate.display(), key.display())
        })
    }

    /// The address that other machines are told, the node's where nothing else is given; loopback where this machine has
    /// no other.
    pub(crate) fn advertised(&self, bind: IpAddr, node: &[IpAddr]) -> IpAddr {
        if let Some(address) = self.advertise_address {
            return address;
        }
        if !bind.is_unspecified() {
            return bind;
        }
        let own = node.first().copied().or_else(own_address);
        own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

impl Credentials {
    /// Who makes tokens.
    pub(crate) fn issuer(&self) -> Arc<TokenIssuer> {
        Arc::clone(&self.issuer)
    }

    /// Authenticators, authorizers and plugins, reading from these caches.
    pub(crate) fn access(
        self,
        objects: &Arc<CachedObjects>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Access {
        let read = || Arc::clone(objects) as Arc<dyn auth::Objects>;
        let rbac = Arc::new(Rbac::new(objects.as_ref()));
        let all: Vec<apimachinery::Value> = api::bootstrap_objects().collect();
        let node_rules = auth::node::rules_of(all.iter());
        let authorizer: Arc<dyn Authorizer> = Arc::new(Union(vec![
            // First: whoever is in it can never be locked out.
            Arc::new(PrivilegedGroup),
            Arc::new(NodeAuthorizer::new(read(), node_rules)),
            Arc::clone(&rbac) as Arc<dyn Authorizer>,
        ]));
        let authenticators: Vec<Arc<dyn Authenticator>> = vec![
            Arc::new(ClientCertificates),
            Arc::new(self.tokens),
            Arc::new(ServiceAccountTokens::new(
                Arc::clone(&self.issuer),
                read(),
                Arc::clone(&clock),
            )),
            Arc::new(BootstrapTokens::new(read(), Arc::clone(&clock))),
        ];
        let parts = Parts {
            objects: Arc::clone(objects) as Arc<dyn admission::Objects>,
            rbac,
            authorizer: Arc::clone(&authorizer),
            clock,
            random,
        };
        Access {
            authenticators,
            authorizer,
            admission: Chain::standard(&parts),
            anonymous: self.anonymous,
            tokens: Some(self.issuer),
        }
    }
}
