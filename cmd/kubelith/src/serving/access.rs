//! Who may read what a part tells of itself: certificates, headers of front proxies and tokens say who asks, the API server
//! whether they may. Upstream: `DelegatingAuthenticationOptions`, `DelegatingAuthorizationOptions`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use apimachinery::status::GroupResource;
use apimachinery::{Status, Value, json, value};
use apiserver::Peer;
use apiserver::client_certificates::{Judged, Speaking, Tls};
use arc_swap::ArcSwap;
use auth::front_proxy::FrontProxy;
use auth::remembered::Remembered;
use auth::x509::ClientCertificates;
use auth::{Authenticator as _, Credentials, UserInfo, Warnings, user};
use client::call::ListParams;
use client::error::ClientError;
use client::watch::WatchEvent;
use client::{Client, Resource};
use component_base::{ShutdownSignal, metrics};
use http::Request;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::Part;
use crate::audit_log::span;
use crate::files;
use crate::http::HttpTransport;
use crate::tls::Serving;

/// Where the cluster says whose certificates are believed.
const AUTHENTICATION: (&str, &str) = ("kube-system", "extension-apiserver-authentication");
/// How many answers are remembered.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(4_096).expect("because it is not 0");
/// How long until the cluster is asked again that did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Upstream's buckets of how long who asks, and who may, takes.
const DELEGATED: [f64; 8] = [0.25, 0.5, 0.7, 1.0, 1.5, 3.0, 5.0, 10.0];

/// Upstream's flags of who may read there.
#[derive(Debug, clap::Args)]
#[group(id = "serving-access")]
#[command(next_help_heading = "Serving")]
pub(super) struct AccessOptions {
    /// How the API server is reached that says whose tokens are good (default: as for everything else)
    #[arg(long, value_name = "FILE")]
    authentication_kubeconfig: Option<PathBuf>,
    /// Whether the cluster is not asked whose certificates are good, where flags do not say
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    authentication_skip_lookup: bool,
    /// Whether it does no harm if the cluster cannot be asked when the process starts; it is asked again until it answers
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    authentication_tolerate_lookup_failure: bool,
    /// How long it is believed whose a token is
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = span)]
    authentication_token_webhook_cache_ttl: Duration,
    /// Paths that anybody may read; one that ends in * stands for all that begin so
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "/healthz,/readyz,/livez",
        value_name = "PATHS"
    )]
    authorization_always_allow_paths: Vec<String>,
    /// How the API server is reached that says who may read (default: as for everything else)
    #[arg(long, value_name = "FILE")]
    authorization_kubeconfig: Option<PathBuf>,
    /// How long it is believed that somebody may
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = span)]
    authorization_webhook_cache_authorized_ttl: Duration,
    /// How long it is believed that somebody may not
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = span)]
    authorization_webhook_cache_unauthorized_ttl: Duration,
    /// Authority of clients' certificates (default: the cluster's). Read again when it changes
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Authority of front proxies (default: the cluster's). Read again when it changes
    #[arg(long, value_name = "FILE")]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of those proxies; any, where it is empty
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    requestheader_allowed_names: Vec<String>,
    /// Headers in which they name the user
    #[arg(long, value_delimiter = ',', default_value = "x-remote-user", value_name = "HEADER")]
    requestheader_username_headers: Vec<String>,
    /// Headers in which they tell the user's uid
    #[arg(long, value_delimiter = ',', value_name = "HEADER")]
    requestheader_uid_headers: Vec<String>,
    /// Headers in which they name groups
    #[arg(long, value_delimiter = ',', default_value = "x-remote-group", value_name = "HEADER")]
    requestheader_group_headers: Vec<String>,
    /// What headers of extra values begin with
    #[arg(long, value_delimiter = ',', default_value = "x-remote-extra-", value_name = "PREFIX")]
    requestheader_extra_headers_prefix: Vec<String>,
}

/// What is counted of questions about who asks, and who may, in upstream's names.
#[derive(Debug, Clone)]
struct Delegated {
    count: Family<Code, Counter>,
    took: Family<Code, metrics::Histogram, fn() -> metrics::Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: String,
}

impl Delegated {
    fn new(registry: &mut Registry, what: &str) -> Self {
        let of = registry.sub_registry_with_prefix(format!("apiserver_delegated_{what}"));
        let this = Self {
            count: Family::default(),
            took: Family::new_with_constructor(|| metrics::Histogram::seconds(&DELEGATED)),
        };
        of.register("request", "Questions to the API server", this.count.clone());
        let help = "How long the API server took for a question";
        of.register("request_duration_seconds", help, this.took.clone());
        this
    }

    /// A question is over.
    fn asked(&self, result: Result<(), &ClientError>, took: Duration) {
        let code = match result {
            // What is asked is created.
            Ok(()) => "201".to_owned(),
            Err(ClientError::Api(status)) => status.code.to_string(),
            Err(_) => "<error>".to_owned(),
        };
        let of = Code { code };
        self.count.get_or_create(&of).inc();
        self.took.get_or_create(&of).observe(took);
    }
}

/// What is counted of both.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    authn: Delegated,
    authz: Delegated,
}

impl Counted {
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self { authn: Delegated::new(registry, "authn"), authz: Delegated::new(registry, "authz") }
    }
}

/// Whose certificates are believed, and what a proxy's say of others.
#[derive(Debug, Clone, Default)]
struct Trust {
    clients: String,
    front_proxies: String,
    proxy: FrontProxy,
}

impl Trust {
    /// What the cluster's object says.
    fn of(data: &Value) -> Self {
        let list = |name: &str| -> Vec<String> {
            let parsed = json::parse(data.str_at(&[name]).as_bytes()).unwrap_or_default();
            let items = parsed.as_array().unwrap_or_default().iter();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            clients: data.str_at(&["client-ca-file"]).to_owned(),
            front_proxies: data.str_at(&["requestheader-client-ca-file"]).to_owned(),
            proxy: FrontProxy {
                allowed_names: list("requestheader-allowed-names"),
                username_headers: list("requestheader-username-headers"),
                uid_headers: list("requestheader-uid-headers"),
                group_headers: list("requestheader-group-headers"),
                extra_header_prefixes: list("requestheader-extra-headers-prefix"),
            },
        }
    }
}

/// What says who may read.
pub(super) struct Access {
    speaking: Speaking,
    proxy: Arc<ArcSwap<FrontProxy>>,
    authentication: Client,
    authorization: Client,
    tokens: Remembered<Vec<u8>, UserInfo>,
    verdicts: Remembered<String, bool>,
    ttls: Ttls,
    open: Vec<String>,
    counted: Counted,
    certificates: ClientCertificates,
}

/// How long answers are believed.
#[derive(Debug, Clone, Copy)]
struct Ttls {
    token: Duration,
    allowed: Duration,
    refused: Duration,
}

impl AccessOptions {
    /// What of flags and cluster says who may read; it follows both until `stop`.
    ///
    /// # Errors
    /// Files that cannot be used; a cluster that does not answer, where that matters.
    pub(super) async fn start(
        &self,
        part: Part,
        client: &Client,
        (certificate, counted): (Serving, Counted),
        stop: ShutdownSignal,
    ) -> Result<Access> {
        let other = |file: &Option<PathBuf>| match file {
            Some(file) if !file.as_os_str().is_empty() => reached_by(file, part),
            _ => Ok(client.clone()),
        };
        let authentication = other(&self.authentication_kubeconfig)?;
        let authorization = other(&self.authorization_kubeconfig)?;
        let said = Trust::default();
        let speaking = Speaking::from(certificate.api_server_tls("", "")?);
        let proxy = Arc::new(ArcSwap::from_pointee(said.proxy));
        let follower = Follower {
            files: [&self.client_ca_file, &self.requestheader_client_ca_file]
                .map(|it| it.clone().filter(|it| !it.as_os_str().is_empty())),
            own: self.own_proxy(),
            certificate,
            speaking: speaking.clone(),
            proxy: Arc::clone(&proxy),
        };
        self.begin(follower, &authentication, stop).await?;
        Ok(Access {
            speaking,
            proxy,
            authentication,
            authorization,
            tokens: Remembered::new(MAX_REMEMBERED),
            verdicts: Remembered::new(MAX_REMEMBERED),
            ttls: Ttls {
                token: self.authentication_token_webhook_cache_ttl,
                allowed: self.authorization_webhook_cache_authorized_ttl,
                refused: self.authorization_webhook_cache_unauthorized_ttl,
            },
            open: self.authorization_always_allow_paths.clone(),
            counted,
            certificates: ClientCertificates::new(
                Arc::new(component_base::RealClock),
                auth::metrics::Metrics::default(),
            ),
        })
    }

    /// What flags say of front proxies.
    fn own_proxy(&self) -> FrontProxy {
        let list = |all: &[String]| all.iter().filter(|it| !it.is_empty()).cloned().collect();
        FrontProxy {
            allowed_names: list(&self.requestheader_allowed_names),
            username_headers: list(&self.requestheader_username_headers),
            uid_headers: list(&self.requestheader_uid_headers),
            group_headers: list(&self.requestheader_group_headers),
            extra_header_prefixes: list(&self.requestheader_extra_headers_prefix),
        }
    }

    /// Reads files and asks the cluster; follows both.
    async fn begin(&self, follower: Follower, client: &Client, stop: ShutdownSignal) -> Result<()> {
        let follower = Arc::new(follower);
        let complete = follower.files.iter().all(Option::is_some);
        let asks = !self.authentication_skip_lookup && !complete;
        let mut trust = Trust::default();
        if asks {
            let resource = Resource::built_in("", "configmaps");
            match client.get(&resource, AUTHENTICATION.0, AUTHENTICATION.1).await {
                Ok(object) => trust = Trust::of(&object["data"]),
                Err(error) if error.is_not_found() => {}
                Err(error) if self.authentication_tolerate_lookup_failure => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "could not ask the cluster whose certificates are good: they are not, until it answers"
                    );
                }
                Err(error) => {
                    return Err(error).context(
                        "could not ask the cluster whose certificates are good \
                         (--authentication-tolerate-lookup-failure goes on without)",
                    );
                }
            }
        }
        follower.take(&trust)?;
        let told = Arc::new(ArcSwap::from_pointee(trust));
        let files: Vec<PathBuf> = follower.files.iter().flatten().cloned().collect();
        if !files.is_empty() {
            let (follower, told) = (Arc::clone(&follower), Arc::clone(&told));
            tokio::spawn(files::follow(files, stop.clone(), async move |_| {
                follower.changed(&told.load());
            }));
        }
        if asks {
            let client = client.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = follow(&client, &follower, &told) => {}
                    () = stop.requested() => {}
                }
            });
        }
        Ok(())
    }
}

fn reached_by(kubeconfig: &Path, part: Part) -> Result<Client> {
    let access = crate::http::Access::read(kubeconfig)?;
    let transport = HttpTransport::new(&access)
        .with_context(|| format!("kubeconfig {}", kubeconfig.display()))?;
    Ok(Client::new(Arc::new(transport), &format!("{}/v1.37.1", part.name)))
}

/// Takes what the cluster says, each time that it says something else, for ever.
async fn follow(client: &Client, follower: &Follower, told: &ArcSwap<Trust>) {
    let resource = Resource::built_in("", "configmaps");
    let params = ListParams {
        field_selector: format!("metadata.name={}", AUTHENTICATION.1),
        ..ListParams::default()
    };
    loop {
        match client.watch(&resource, AUTHENTICATION.0, &params, true).await {
            Ok(mut watch) => {
                while let Ok(Some(event)) = watch.next().await {
                    let trust = match event {
                        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                            let Ok(object) = object.to_value() else { continue };
                            Trust::of(&object["data"])
                        }
                        WatchEvent::Deleted(_) => Trust::default(),
                        WatchEvent::Bookmark { .. } => continue,
                        WatchEvent::Error(_) => break,
                    };
                    told.store(Arc::new(trust));
                    follower.changed(&told.load());
                }
            }
            Err(error) => {
                tracing::debug!(%error, "could not ask the cluster whose certificates are good");
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Makes of what is said what counts.
struct Follower {
    /// Those of clients and of front proxies, which go before what the cluster says.
    files: [Option<PathBuf>; 2],
    /// What flags say of front proxies.
    own: FrontProxy,
    certificate: Serving,
    speaking: Speaking,
    proxy: Arc<ArcSwap<FrontProxy>>,
}

impl Follower {
    fn take(&self, told: &Trust) -> Result<()> {
        let read = |file: &Option<PathBuf>, told: &str| match file {
            Some(file) => std::fs::read_to_string(file)
                .with_context(|| format!("could not read {}", file.display())),
            None => Ok(told.to_owned()),
        };
        let [clients, proxies] = &self.files;
        let of_file = proxies.is_some();
        let (clients, proxies) =
            (read(clients, &told.clients)?, read(proxies, &told.front_proxies)?);
        let tls: Tls = self.certificate.api_server_tls(&clients, &proxies)?;
        // Before their authority is: nobody is believed by another one's headers.
        self.proxy.store(Arc::new(if of_file { self.own.clone() } else { told.proxy.clone() }));
        self.speaking.replace(tls);
        Ok(())
    }

    fn changed(&self, told: &Trust) {
        match self.take(told) {
            Ok(()) => tracing::info!("the authorities of the port's clients were read again"),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the authorities of the port's clients have changed, and cannot be used: what was read before counts"
            ),
        }
    }
}

impl Access {
    /// How TLS is spoken.
    pub(super) fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.speaking.now().config)
    }

    /// Whoever presented these certificates.
    pub(super) fn client(&self, certificates: &[CertificateDer<'_>]) -> Judged {
        Judged::new(self.speaking.clone(), certificates, None)
    }

    /// # Errors
    /// Unauthorized, where it is not true who asks; forbidden, where they may not.
    pub(super) async fn allows<B>(
        &self,
        client: &Peer,
        request: &Request<B>,
    ) -> Result<(), Status> {
        let path = request.uri().path();
        let is_open = |it: &String| match it.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => path.trim_start_matches('/') == it.trim_start_matches('/'),
        };
        let user = self.who(client, request).await?;
        // Upstream's `AlwaysAllowGroups`.
        if self.open.iter().any(is_open) || user.is_in(user::MASTERS) {
            return Ok(());
        }
        self.may_read(&user, path, &request.method().as_str().to_ascii_lowercase()).await
    }

    /// Who asks; `system:anonymous` where they do not say.
    async fn who<B>(&self, client: &Peer, request: &Request<B>) -> Result<Arc<UserInfo>, Status> {
        let warnings = Warnings::default();
        let credentials = Credentials {
            headers: request.headers(),
            certificates: &client.certificates,
            proxy_certificates: &client.proxy_certificates,
            warnings: &warnings,
        };
        let refused = |error: auth::AuthenticationError| {
            tracing::debug!(error = error.0, "it is not true who asks");
            Status::unauthorized()
        };
        let proxy = self.proxy.load_full();
        if let Some(user) = proxy.authenticate(&credentials).await.map_err(refused)? {
            return Ok(user);
        }
        if let Some(user) = self.certificates.authenticate(&credentials).await.map_err(refused)? {
            return Ok(user);
        }
        if let Some(token) = credentials.bearer_token() {
            return self.bearer(token).await.map(Arc::new);
        }
        if client.has_bad_certificate {
            return Err(Status::unauthorized());
        }
        Ok(Arc::new(UserInfo::anonymous()))
    }

    /// Whose token it is.
    async fn bearer(&self, token: &str) -> Result<UserInfo, Status> {
        let key = Sha256::digest(token).to_vec();
        if let Some(user) = self.tokens.get(&key) {
            return Ok(user);
        }
        let review = value!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}
        });
        let reviews = Resource::built_in("authentication.k8s.io", "tokenreviews");
        let began = Instant::now();
        let answer = self.authentication.create(&reviews, "", &review).await;
        self.counted.authn.asked(answer.as_ref().map(|_| ()), began.elapsed());
        let answer = answer.map_err(|error| {
            tracing::warn!(%error, "could not ask whose a token is");
            Status::unauthorized()
        })?;
        if !answer.bool_at(&["status", "authenticated"]) {
            return Err(Status::unauthorized());
        }
        let user = UserInfo::of_review(&answer["status"]["user"]);
        self.tokens.keep(key, user.clone(), self.ttls.token);
        Ok(user)
    }

    async fn may_read(&self, user: &UserInfo, path: &str, verb: &str) -> Result<(), Status> {
        let who = Value::from(user);
        let spec = value!({
            "user": (user.name.as_str()), "uid": (user.uid.as_str()), "groups": (who["groups"].clone()),
            "extra": (who["extra"].clone()), "nonResourceAttributes": {"verb": verb, "path": path}
        });
        let key = json::to_string(&spec);
        let allowed = match self.verdicts.get(&key) {
            Some(known) => known,
            None => self.ask(&spec, key, user, verb).await?,
        };
        if allowed {
            return Ok(());
        }
        let why = format!("User {:?} cannot {verb} path {path:?}", user.name);
        Err(Status::forbidden(GroupResource { group: "", resource: "" }, "", &why))
    }

    async fn ask(
        &self,
        spec: &Value,
        key: String,
        user: &UserInfo,
        verb: &str,
    ) -> Result<bool, Status> {
        let review = value!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": (spec.clone())
        });
        let reviews = Resource::built_in("authorization.k8s.io", "subjectaccessreviews");
        let began = Instant::now();
        let answer = self.authorization.create(&reviews, "", &review).await;
        self.counted.authz.asked(answer.as_ref().map(|_| ()), began.elapsed());
        match answer {
            Ok(answer) => {
                let allowed = answer.bool_at(&["status", "allowed"]);
                let ttl = if allowed { self.ttls.allowed } else { self.ttls.refused };
                self.verdicts.keep(key, allowed, ttl);
                Ok(allowed)
            }
            Err(error) => {
                tracing::warn!(%error, user = user.name, "could not ask what a user may do");
                let why = format!("Authorization error (user={}, verb={verb})", user.name);
                Err(Status::internal(why))
            }
        }
    }
}
