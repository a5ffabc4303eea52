//! Who may do what in this cluster: the flags, and the authenticators, authorizers and admission plugins made of them.

mod authentication;
mod authorization;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use admission::Parts;
use anyhow::{Context, Result, anyhow, bail};
use apiserver::bootstrap::FrontProxySettings;
use apiserver::{Access, CachedObjects, ProxyClient};
use auth::abac::Abac;
use auth::anonymous::Anonymous;
use auth::bootstrap_token::BootstrapTokens;
use auth::configured::{AuthorizerParts, ConfiguredAuthorizers, ConfiguredIssuers, Prepared};
use auth::front_proxy::FrontProxy;
use auth::jwt::{SigningKey, VerifyingKey};
use auth::metrics::{Metrics, Reloaded};
use auth::node::NodeAuthorizer;
use auth::rbac::Rbac;
use auth::service_account::{ExternalSigner, LegacyUses, ServiceAccountTokens, TokenIssuer};
use auth::static_token::StaticTokens;
use auth::token_webhook::TokenWebhook;
use auth::x509::ClientCertificates;
use auth::{Authenticator, Authorizer};
use component_base::{Clock, Random, ShutdownSignal};

use crate::files;
use crate::pki::{Directory, Identity, Subject};
use authentication::AuthenticationOptions;
use authorization::AuthorizationOptions;

/// A documentation address: asking the way to it tells our own address, and sends nothing.
const FAR_AWAY: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// The file of the key that signs service accounts' tokens, where no other is given.
const OWN_KEY: &str = "service-account.key";

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
    /// Who the tokens of service accounts say made them; further ones made tokens that are good still
    #[arg(long, default_value = "https://kubernetes.default.svc", value_name = "URL")]
    service_account_issuer: Vec<String>,
    /// The longest that tokens of service accounts live (default: as long as they are asked for)
    #[arg(long, value_name = "DURATION", value_parser = crate::control_plane::period)]
    service_account_max_token_expiration: Option<std::time::Duration>,
    /// Whether tokens in pods live a year, and are warned of after the hour that they are asked for
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    service_account_extend_token_expiration: bool,
    /// Whether a token in a Secret is good only as long as the Secret and its account are there
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    service_account_lookup: bool,
    /// Key that signs the tokens of service accounts (default: one of its own, below DATA_DIR/pki)
    #[arg(long, value_name = "FILE")]
    service_account_signing_key_file: Option<PathBuf>,
    /// Socket of a signer that keeps the key and is asked for each token, in place of key files
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["service_account_signing_key_file", "service_account_key_file"])]
    service_account_signing_endpoint: Option<PathBuf>,
    /// Further keys that service accounts' tokens may be signed with
    #[arg(long, value_name = "FILE")]
    service_account_key_file: Vec<PathBuf>,
    /// Whom tokens for this API server are meant for (default: the issuer)
    #[arg(long, value_delimiter = ',', value_name = "AUDIENCE")]
    api_audiences: Vec<String>,
    /// Whether requests without credentials are those of system:anonymous
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(crate) anonymous_auth: bool,
    /// Certificate by which this server proves itself to API servers behind it (default: one of its own)
    #[arg(long, value_name = "FILE", requires = "proxy_client_key_file")]
    proxy_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "proxy_client_cert_file")]
    proxy_client_key_file: Option<PathBuf>,
    /// Certificate of this server (default: one of its own, below DATA_DIR/pki). Read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Authority of clients' certificates, besides the cluster's own. Read again when it changes
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    #[command(flatten)]
    front_proxy: FrontProxyOptions,
    #[command(flatten)]
    authentication: AuthenticationOptions,
    #[command(flatten)]
    authorization: AuthorizationOptions,
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

/// Upstream's flags of the front proxy.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "front-proxy")]
#[command(next_help_heading = "kube-apiserver")]
struct FrontProxyOptions {
    /// Authority of the proxies that are believed who sends a request (default: one of its own, below DATA_DIR/pki)
    #[arg(long, value_name = "FILE")]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of those proxies; any, where it is empty
    #[arg(long, value_delimiter = ',', default_value = FRONT_PROXY_CLIENT, value_name = "NAME")]
    requestheader_allowed_names: Vec<String>,
    /// Headers in which they name the user
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-User", value_name = "HEADER")]
    requestheader_username_headers: Vec<String>,
    /// Headers in which they tell the user's uid
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Uid", value_name = "HEADER")]
    requestheader_uid_headers: Vec<String>,
    /// Headers in which they name groups
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Group", value_name = "HEADER")]
    requestheader_group_headers: Vec<String>,
    /// What headers of extra values begin with
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Extra-", value_name = "PREFIX")]
    requestheader_extra_headers_prefix: Vec<String>,
}

impl FrontProxyOptions {
    /// Nothing, where no authority is given and none is made.
    fn settings(&self, pki: Option<&Directory>) -> Result<Option<FrontProxySettings>> {
        let authority = match (&self.requestheader_client_ca_file, pki) {
            (Some(path), _) => read(path)?,
            (None, Some(pki)) => pki.authority("front-proxy-ca", "front-proxy-ca")?.certificate,
            (None, None) => return Ok(None),
        };
        let list = |all: &[String]| all.iter().filter(|it| !it.is_empty()).cloned().collect();
        let proxy = FrontProxy {
            allowed_names: list(&self.requestheader_allowed_names),
            username_headers: list(&self.requestheader_username_headers),
            uid_headers: list(&self.requestheader_uid_headers),
            group_headers: list(&self.requestheader_group_headers),
            extra_header_prefixes: list(&self.requestheader_extra_headers_prefix),
        };
        Ok(Some(FrontProxySettings { authority, proxy }))
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

/// The address of the default route, where there is one.
pub(crate) fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(FAR_AWAY).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whose certificates are good.
#[derive(Debug)]
pub(crate) struct Authorities {
    pub(crate) clients: String,
    pub(crate) front_proxies: String,
}

impl Options {
    /// Certificate and key that the server presents instead of its own.
    pub(crate) fn presented(&self) -> Result<Option<(Identity, Vec<PathBuf>)>> {
        let (Some(certificate), Some(key)) = (&self.tls_cert_file, &self.tls_private_key_file)
        else {
            return Ok(None);
        };
        let identity = Identity { certificate: read(certificate)?, key: read(key)? };
        Ok(Some((identity, vec![certificate.clone(), key.clone()])))
    }

    /// Whose certificates are good; the cluster's own authority always is, since it signs those of nodes.
    pub(crate) fn authorities(&self, own: &str, front_proxies: &str) -> Result<Authorities> {
        let more = self.client_ca_file.as_deref().map(read).transpose()?.unwrap_or_default();
        let proxies = self.front_proxy.requestheader_client_ca_file.as_deref().map(read);
        let proxies = proxies.transpose()?.unwrap_or_else(|| front_proxies.to_owned());
        Ok(Authorities { clients: format!("{own}{more}"), front_proxies: proxies })
    }

    /// The files of authorities, which are followed.
    pub(crate) fn authority_files(&self) -> Vec<PathBuf> {
        let files = [&self.client_ca_file, &self.front_proxy.requestheader_client_ca_file];
        files.into_iter().flatten().cloned().collect()
    }
}

/// What was read from files.
#[derive(Debug)]
pub(crate) struct Credentials {
    tokens: StaticTokens,
    issuer: Arc<TokenIssuer>,
    issuers: Option<Arc<ConfiguredIssuers>>,
    webhook: Option<TokenWebhook>,
    front_proxy: Option<Arc<FrontProxy>>,
    anonymous: Anonymous,
    authorizers: Prepared,
    abac: Abac,
    /// Whether tokens in Secrets are looked up.
    looks_up: bool,
    /// The files that are followed.
    authentication_file: Option<PathBuf>,
    authorization_file: Option<PathBuf>,
    setting: Setting,
}

/// What is needed to find out who asks.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) stop: ShutdownSignal,
    /// Whether nodes may join by tokens that are Secrets.
    pub(crate) takes_bootstrap_tokens: bool,
    /// Which plugins a write must pass.
    pub(crate) plugins: crate::operating::Plugins,
}

/// The shortest limit of how long tokens live, in seconds, and the longest (upstream's limits).
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 3_600..=1 << 32;

impl Options {
    /// The authority of front proxies, and what they are believed.
    pub(crate) fn front_proxy(
        &self,
        pki: Option<&Directory>,
    ) -> Result<Option<FrontProxySettings>> {
        self.front_proxy.settings(pki)
    }

    /// Reads tokens, keys and configurations; makes the signing key in `pki` where there is none.
    pub(crate) async fn credentials(
        &self,
        pki: Option<&Directory>,
        front_proxy: Option<&FrontProxySettings>,
        setting: &Setting,
    ) -> Result<Credentials> {
        setting.plugins.follow(&setting.metrics, &setting.clock, &setting.stop)?;
        let tokens = self.token_auth_file.as_deref().map(read).transpose()?.unwrap_or_default();
        let issuer = Arc::new(self.issuer(pki, setting).await?);
        let authentication = self.authentication.configured(issuer.issuers())?;
        let authorization = self.authorization.configured()?;
        let authorizers = Prepared::new(authorization.configuration, &setting.metrics);
        if authorization.file.is_some() {
            setting.metrics.configured(Reloaded::Authorization, authorization.text.as_bytes());
        }
        let parts = auth::oidc::Parts {
            clock: Arc::clone(&setting.clock),
            metrics: setting.metrics.clone(),
            stop: setting.stop.clone(),
        };
        Ok(Credentials {
            tokens: StaticTokens::parse(&tokens).with_context(|| {
                let file = self.token_auth_file.clone().unwrap_or_default();
                format!("could not use {}", file.display())
            })?,
            webhook: self.authentication.webhook(issuer.audiences())?,
            issuer,
            front_proxy: front_proxy.map(|it| Arc::new(it.proxy.clone())),
            anonymous: authentication.anonymous(self.anonymous_auth),
            authentication_file: authentication.file.clone(),
            issuers: authentication.issuers(parts)?,
            authorizers: authorizers.map_err(|why| anyhow!("{why}"))?,
            abac: authorization.abac,
            looks_up: self.service_account_lookup,
            authorization_file: authorization.file,
            setting: setting.clone(),
        })
    }

    /// Who makes the tokens of service accounts.
    async fn issuer(&self, pki: Option<&Directory>, setting: &Setting) -> Result<TokenIssuer> {
        let Some((first, former)) = self.service_account_issuer.split_first() else {
            bail!("service-account-issuer is a required flag");
        };
        let limit = self.service_account_max_token_expiration.map(|it| it.as_secs());
        let limit = limit.map(|it| i64::try_from(it).unwrap_or(i64::MAX));
        if limit.is_some_and(|it| !TOKEN_SECONDS.contains(&it)) {
            bail!(
                "the service-account-max-token-expiration must be between 1 hour and 2^32 seconds"
            );
        }
        let extends = self.service_account_extend_token_expiration;
        let Some(socket) = &self.service_account_signing_endpoint else {
            let issuer = self.own_issuer(pki, first)?;
            return Ok(issuer.with_former(former).with_limits(limit, extends));
        };
        let signer =
            ExternalSigner::start(socket.clone(), Arc::clone(&setting.clock), &setting.metrics)
                .await;
        let signer = signer.map_err(|why| anyhow!("{why}"))?;
        let most = signer.max_seconds();
        if limit.is_some_and(|it| it > most) {
            bail!(
                "service-account-max-token-expiration cannot be set longer than the token expiration supported by \
                 service-account-signing-endpoint: {most} s"
            );
        }
        tokio::spawn(Arc::clone(&signer).follow(setting.stop.clone()));
        let issuer = TokenIssuer::external(signer, first, self.api_audiences.clone());
        Ok(issuer.with_former(former).with_limits(Some(limit.unwrap_or(most)), extends))
    }

    /// Signs with a key of a file, or of its own.
    fn own_issuer(&self, pki: Option<&Directory>, issuer: &str) -> Result<TokenIssuer> {
        let (text, file) = match (&self.service_account_signing_key_file, pki) {
            (Some(path), _) => (read(path)?, path.clone()),
            (None, Some(pki)) => {
                let make = || Ok(rcgen::KeyPair::generate()?.serialize_pem());
                (pki.secret(OWN_KEY, make)?, pki.path(OWN_KEY))
            }
            (None, None) => bail!("service-account-signing-key-file is a required flag"),
        };
        let key = SigningKey::from_pem(&text).with_context(|| {
            format!("could not use the key of service accounts in {}", file.display())
        })?;
        let mut verifying = Vec::new();
        for path in &self.service_account_key_file {
            let keys = VerifyingKey::all_from_pem(&read(path)?);
            verifying.extend(keys.with_context(|| format!("could not use {}", path.display()))?);
        }
        Ok(TokenIssuer::new(key, verifying, issuer, self.api_audiences.clone()))
    }

    /// What this server proves itself by to API servers behind it.
    pub(crate) fn proxy_client(&self, pki: Option<&Directory>) -> Result<Option<ProxyClient>> {
        let (Some(certificate), Some(key)) =
            (&self.proxy_client_cert_file, &self.proxy_client_key_file)
        else {
            let Some(pki) = pki else { return Ok(None) };
            let authority = pki.authority("front-proxy-ca", "front-proxy-ca")?;
            let subject = Subject::Client { name: FRONT_PROXY_CLIENT, groups: &[] };
            return pki
                .identity("front-proxy-client", &authority, &subject)?
                .proxy_client()
                .map(Some);
        };
        let identity = Identity { certificate: read(certificate)?, key: read(key)? };
        let client = identity.proxy_client().with_context(|| {
            format!("could not use {} with {}", certificate.display(), key.display())
        })?;
        Ok(Some(client))
    }

    /// Lets everybody do everything, as upstream does where nobody says otherwise.
    pub(crate) fn allow_always(&mut self) {
        self.authorization.allow_always();
    }

    /// Whether everybody may do everything.
    pub(crate) fn allows_always(&self) -> bool {
        self.authorization.allows_always()
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
    /// The same where others tell of the keys of tokens.
    pub(crate) fn with_keys_url(mut self, url: Option<String>) -> Self {
        if let Some(issuer) = Arc::get_mut(&mut self.issuer) {
            issuer.set_keys_url(url);
        }
        self
    }

    /// Who makes tokens.
    pub(crate) fn issuer(&self) -> Arc<TokenIssuer> {
        Arc::clone(&self.issuer)
    }

    /// Authenticators, authorizers and plugins, reading from these caches. Files that may change are followed.
    pub(crate) fn access(
        self,
        objects: &Arc<CachedObjects>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        uses: Arc<dyn LegacyUses>,
    ) -> Access {
        let read = || Arc::clone(objects) as Arc<dyn auth::Objects>;
        let rbac = Arc::new(Rbac::new(objects.as_ref()));
        let all: Vec<apimachinery::Value> = api::bootstrap_objects().collect();
        let node_rules = auth::node::rules_of(all.iter());
        let metrics = &self.setting.metrics;
        let authorizers = ConfiguredAuthorizers::new(
            self.authorizers,
            AuthorizerParts {
                node: Arc::new(NodeAuthorizer::new(read(), node_rules, metrics.clone())),
                rbac: Arc::clone(&rbac) as Arc<dyn Authorizer>,
                abac: Arc::new(self.abac),
                metrics: self.setting.metrics.clone(),
            },
        );
        let authorizers = Arc::new(authorizers);
        if let Some(file) = self.authorization_file {
            follow_authorizers(file, Arc::clone(&authorizers), &self.setting);
        }
        let mut authenticators: Vec<Arc<dyn Authenticator>> = vec![
            Arc::new(ClientCertificates::new(Arc::clone(&clock), metrics.clone())),
            Arc::new(self.tokens),
            Arc::new(
                ServiceAccountTokens::new(Arc::clone(&self.issuer), read(), Arc::clone(&clock))
                    .with_uses(uses)
                    .counted(self.setting.metrics.clone())
                    .without_lookup(!self.looks_up),
            ),
        ];
        if self.setting.takes_bootstrap_tokens {
            authenticators.push(Arc::new(BootstrapTokens::new(read(), Arc::clone(&clock))));
        }
        if let Some(issuers) = self.issuers {
            if let Some(file) = self.authentication_file {
                follow_issuers(file, Arc::clone(&issuers), self.setting.stop.clone());
            }
            authenticators.push(issuers);
        }
        // Last: whoever is known without asking is not asked for.
        let webhook = self.webhook.map(|it| it.counted(self.setting.metrics.clone()));
        authenticators.extend(webhook.map(|it| Arc::new(it) as Arc<dyn Authenticator>));
        let authorizer: Arc<dyn Authorizer> = authorizers;
        let parts = Parts {
            objects: Arc::clone(objects) as Arc<dyn admission::Objects>,
            rbac,
            authorizer: Arc::clone(&authorizer),
            clock,
            random,
            calls: self.setting.metrics.calls(),
        };
        Access {
            authenticators,
            authorizer,
            admission: self.setting.plugins.of(&parts),
            front_proxy: self.front_proxy,
            anonymous: self.anonymous,
            metrics: self.setting.metrics,
            tokens: Some(self.issuer),
        }
    }
}

fn follow_issuers(file: PathBuf, issuers: Arc<ConfiguredIssuers>, stop: ShutdownSignal) {
    tokio::spawn(files::follow(vec![file.clone()], stop, async move |contents| {
        let text = contents.into_iter().next().unwrap_or_default();
        told(&file, issuers.reload(&text).await);
    }));
}

fn follow_authorizers(file: PathBuf, authorizers: Arc<ConfiguredAuthorizers>, setting: &Setting) {
    let (stop, clock) = (setting.stop.clone(), Arc::clone(&setting.clock));
    tokio::spawn(files::follow(vec![file.clone()], stop, async move |contents| {
        let text = contents.into_iter().next().unwrap_or_default();
        let now = clock.now().as_duration().as_secs_f64();
        told(&file, authorizers.reload(&text, now));
    }));
}

/// Says whether a file was taken that has changed.
fn told(file: &Path, reloaded: Result<(), String>) {
    match reloaded {
        Ok(()) => tracing::info!(file = %file.display(), "read again, since it has changed"),
        Err(error) => {
            tracing::error!(file = %file.display(), error, "has changed, and cannot be used: what was read before counts");
        }
    }
}
