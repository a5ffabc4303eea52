//! `kubelith kube-apiserver`: an API server alone, in place of upstream's, with upstream's flags.
//!
//! Nothing is made that has to be there before: keys, certificates and authorities are files that somebody else keeps.

pub(crate) mod flags;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use apiserver::allocate::ServiceRange;
use apiserver::bootstrap::FrontProxySettings;
use apiserver::client_certificates::Speaking;
use apiserver::{Component, NodeDialer, Operating, Server, Version, bootstrap};
use component_base::feature_gates::FeatureGates;
use component_base::tls::Trust;
use component_base::{Clock, Random, RealClock, SystemRandom};
use ipnet::IpNet;
use storage::Store;

use crate::access::Setting;
use crate::etcd::Opened;
use crate::pki::Identity;
use crate::server::{Ends, Signals};
use crate::sni::NamedFiles;
use crate::startup::Startup;
use crate::upstream::Given;
use crate::{data_dir, log, memory, presenting, server, tls};

/// What the program is called.
pub(crate) const NAME: &str = "kube-apiserver";
/// What /logs shows.
const LOGS: &str = "/var/log";

/// Flags of `kubelith kube-apiserver`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where the embedded store is kept, in place of --etcd-servers
    #[arg(long, value_name = "DIR", value_parser = data_dir::place)]
    data_dir: Option<PathBuf>,
    /// Serve versions of resources too that Kubernetes has removed, such as extensions/v1beta1 and batch/v1beta1
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    serve_removed_apis: bool,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    bind_address: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 6443, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    secure_port: u16,
    /// Where the certificate is that is presented, or made, where --tls-cert-file gives none
    #[arg(long, default_value = "/var/run/kubernetes", value_name = "DIR")]
    cert_dir: PathBuf,
    /// Under which name clients elsewhere reach this server
    #[arg(long, value_name = "NAME")]
    external_hostname: Option<String>,
    /// The range of services' addresses (default: 10.0.0.0/24)
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    service_cluster_ip_range: Vec<IpNet>,
    /// Whether containers may be privileged
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    allow_privileged: bool,
    /// Whether nodes may join by tokens that are Secrets
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    enable_bootstrap_token_auth: bool,
    /// How the endpoints of the service `kubernetes` are kept right
    #[arg(long, value_enum, default_value_t = Endpoints::Lease, value_name = "TYPE")]
    endpoint_reconciler_type: Endpoints,
    /// Certificate by which this server proves itself to nodes' agents
    #[arg(long, value_name = "FILE", requires = "kubelet_client_key")]
    kubelet_client_certificate: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "kubelet_client_certificate")]
    kubelet_client_key: Option<PathBuf>,
    /// Authority of the agents' certificates (default: none, whoever answers is taken for the agent)
    #[arg(long, value_name = "FILE")]
    kubelet_certificate_authority: Option<PathBuf>,
    /// By which of its addresses a node is reached: the first that it has
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP",
        value_name = "TYPES"
    )]
    kubelet_preferred_address_types: Vec<String>,
    /// Where others are told that the keys of service accounts' tokens are
    #[arg(long, value_name = "URL")]
    service_account_jwks_uri: Option<String>,
    /// Certificate and key for clients that ask for one of these names: FILE,FILE[:NAMES]; without names those of the
    /// certificate. Read again when they change
    #[arg(long, value_delimiter = ';', value_name = "FILES")]
    tls_sni_cert_key: Vec<NamedFiles>,
    /// Whether other processes may listen on the port too
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    permit_port_sharing: bool,
    /// Whether /logs shows the files of /var/log
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    enable_logs_handler: bool,
    /// How many bytes a second each direction of a stream to a node or pod may carry; 0 for as many as there are
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    max_connection_bytes_per_sec: u64,
    /// Features of upstream to switch: Name=true,Other=false
    #[arg(long, value_name = "GATES")]
    feature_gates: Vec<String>,
    #[command(flatten)]
    tls: tls::LimitOptions,
    #[command(flatten)]
    access: crate::access::Options,
    #[command(flatten)]
    audit: crate::audit_log::AuditOptions,
    #[command(flatten)]
    etcd: crate::etcd::EtcdOptions,
    #[command(flatten)]
    encryption: crate::at_rest::EncryptionOptions,
    #[command(flatten)]
    operating: crate::operating::OperatingOptions,
    #[command(flatten)]
    adapter: crate::metrics_adapter::AdapterOptions,
    /// Whether external.metrics.k8s.io has the metrics of ScaledObjects, whose controller runs elsewhere
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    scaledobject_metrics: bool,
    #[command(flatten)]
    log: log::Options,
}

/// How the endpoints of the service `kubernetes` are kept right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Endpoints {
    /// Each server says in the store that it lives
    Lease,
    /// They are somebody else's business
    None,
    /// Upstream's old way, which is not built
    MasterCount,
}

/// Runs until it is told to stop.
pub(crate) fn run(options: Options, (given, warnings): (&Given, &[String])) -> Result<()> {
    options.log.start(warnings)?;
    memory::give_back();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options, given))
}

async fn serve(mut options: Options, given: &Given) -> Result<()> {
    options.settle(given)?;
    let signals = Signals::catch()?;
    let startup = Startup::begin(NAME);
    let held = options.embedded().map(data_dir::hold).transpose()?;
    let address = SocketAddr::new(options.bind_address, options.secure_port);
    let listener = server::bind(address, options.permit_port_sharing).await?;
    let ends = Ends::default();
    signals.end(&ends.shutdown);
    let started = Box::pin(start(&options, given, &ends)).await?;
    startup.up("API server", &format!("https://{address}"));
    let Started { server, speaking, living, audit } = started;
    apiserver::listen::listen(server, listener, speaking).await?;
    ends.last(living, audit.as_deref()).await;
    drop(held);
    Ok(())
}

/// A server that is ready to be asked.
struct Started {
    server: Arc<Server>,
    speaking: Speaking,
    /// Tells other servers that this one lives, and last that it goes.
    living: Option<tokio::task::JoinHandle<()>>,
    audit: Option<Arc<audit::Audit>>,
}

async fn start(options: &Options, given: &Given, ends: &Ends) -> Result<Started> {
    let shutdown = &ends.shutdown;
    let (clock, random): (Arc<dyn Clock>, Arc<dyn Random>) =
        (Arc::new(RealClock), Arc::new(SystemRandom::new()));
    let advertised = options.access.advertised(options.bind_address, &[]);
    let front_proxy = options.access.front_proxy(None)?;
    let authority = options.access.authorities("", "")?.clients;
    let speaking = options.speaking(advertised, front_proxy.as_ref(), ends)?;
    let opened = options.open_store(ends).await?;
    let kept = {
        let with = (&clock, &random);
        options.encryption.wrap(opened.store, with, &advertised, shutdown.signal()).await?
    };
    let store = apiserver::StoredForms::over(kept.store, options.etcd.write_as());
    let setting = options.setting(&clock, advertised, ends)?;
    let audit = options.audit.start(&clock, &random, setting.metrics.calls())?;
    let credentials = options.access.credentials(None, front_proxy.as_ref(), &setting).await?;
    let credentials = credentials.with_keys_url(options.service_account_jwks_uri.clone());
    let (uses, used) = apiserver::legacy_tokens::channel();
    let range = options.service_range()?;
    let features = crate::gates::parse(&options.feature_gates)?;
    let config = apiserver::Config {
        audit: audit.clone(),
        checks: kept.checks,
        operating: Operating {
            tracer: options.operating.tracer((&clock, &random), ends)?,
            ..options.operated(given, &features)?
        },
        registry: options.operating.registry(&features, options.serve_removed_apis)?,
        ..options.config(store, (&clock, &random), (advertised, range))?
    };
    let access = |objects: &Arc<apiserver::CachedObjects>| {
        credentials.access(objects, Arc::clone(&clock), Arc::clone(&random), uses)
    };
    let server = Server::start(config, shutdown.signal(), access).await;
    let server = server.context("could not load the store")?;
    kept.encrypted.iter().for_each(|kept| server.metrics().register(|it| kept.register(it)));
    Opened::register(opened.metrics.as_ref(), &server);
    server::follow_store(&server, ends);
    let settings = options.settings(authority, front_proxy, (advertised, range));
    server::furnish(&server, &settings, used, shutdown).await?;
    let (adapter, scaled_objects) = (&options.adapter, options.scaledobject_metrics);
    crate::metrics_adapter::start(&server, &clock, adapter, scaled_objects, shutdown.signal())
        .await?;
    let told = (&options.access, String::new());
    server::keep_objects(&server, settings, told, shutdown.signal());
    let (given, times) = ((&clock, &random), options.operating.coordination()?);
    let counted = client::leader::Metrics::default();
    server.metrics().register(|it| counted.register(it));
    crate::elections::start(&server, &features, given, (times, counted), shutdown.signal());
    let living = options.etcd.is_wanted().then(|| {
        let reached = (advertised, options.secure_port);
        let membership = apiserver::masterleases::Membership {
            tells_endpoints: options.endpoint_reconciler_type == Endpoints::Lease,
            ..crate::etcd::membership(reached, random.as_ref())
        };
        let server = Arc::clone(&server);
        tokio::spawn(apiserver::masterleases::run(server, membership, shutdown.signal()))
    });
    Ok(Started { server, speaking, living, audit })
}

impl Options {
    /// What cannot be, before anything is begun; and what follows from what was not said.
    fn settle(&mut self, given: &Given) -> Result<()> {
        let features = crate::gates::parse(&self.feature_gates)?;
        self.operating.operating(&features)?;
        self.operating.plugins(&features)?;
        self.operating.coordination()?;
        if let Err(missing) = self.operating.check_features(&features) {
            tracing::warn!("{missing:#}");
        }
        match (self.etcd.is_wanted(), &self.data_dir) {
            (false, None) => {
                bail!("--etcd-servers must be specified, or --data-dir for a store of its own")
            }
            (true, Some(_)) => bail!("--etcd-servers and --data-dir are two stores: give one"),
            _ => {}
        }
        if !given.has("service-account-issuer") {
            bail!("service-account-issuer is a required flag");
        }
        if self.endpoint_reconciler_type == Endpoints::MasterCount {
            bail!("--endpoint-reconciler-type=master-count is not built: give lease or none");
        }
        self.service_range()?;
        // Upstream's own, where nobody says who is asked.
        if !given.has("authorization-mode") && !given.has("authorization-config") {
            self.access.allow_always();
        }
        if self.access.allows_always() && self.access.anonymous_auth {
            tracing::warn!(
                "AnonymousAuth is not allowed with the AlwaysAllow authorizer. Resetting AnonymousAuth to false. \
                 You should use a different authorizer"
            );
            self.access.anonymous_auth = false;
        }
        Ok(())
    }

    /// The data directory of the embedded store, where that is used.
    fn embedded(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    async fn open_store(&self, ends: &Ends) -> Result<Opened> {
        match self.embedded() {
            Some(data_dir) => server::open_embedded(data_dir, &ends.shutdown).map(Into::into),
            None => self.etcd.open(ends.shutdown.signal()).await,
        }
    }

    fn setting(&self, clock: &Arc<dyn Clock>, advertised: IpAddr, ends: &Ends) -> Result<Setting> {
        let plugins = self.operating.plugins(&*crate::gates::parse(&self.feature_gates)?)?;
        Ok(Setting {
            clock: Arc::clone(clock),
            metrics: auth::metrics::Metrics::new(&advertised.to_string()),
            stop: ends.shutdown.signal(),
            takes_bootstrap_tokens: self.enable_bootstrap_token_auth,
            // Upstream has it on where it is asked for only.
            plugins: plugins.unless_enabled("NodeRestriction", &self.operating),
        })
    }

    fn operated(&self, given: &Given, features: &Arc<FeatureGates>) -> Result<Operating> {
        let operating = self.operating.operating(features)?;
        operating.memory.as_ref().map_or(Ok(()), memory::watch_over)?;
        Ok(Operating {
            component: Component { flags: given.all() },
            allow_privileged: self.allow_privileged,
            size_poll_interval: self.etcd.etcd_db_metric_poll_interval,
            stream_bytes_per_second: NonZeroU64::new(self.max_connection_bytes_per_sec),
            logs: self.enable_logs_handler.then(|| PathBuf::from(LOGS)),
            ..operating
        })
    }

    fn service_range(&self) -> Result<ServiceRange> {
        match self.service_cluster_ip_range.as_slice() {
            [] => Ok(ServiceRange::new(Ipv4Addr::new(10, 0, 0, 0), 24)),
            given => server::service_range(given, "--service-cluster-ip-range"),
        }
    }

    fn config(
        &self,
        store: Arc<dyn Store>,
        (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
        (advertised, range): (IpAddr, ServiceRange),
    ) -> Result<apiserver::Config> {
        let reached = SocketAddr::new(advertised, self.secure_port).to_string();
        let external = self.external_hostname.as_ref();
        Ok(apiserver::Config {
            store,
            registry: registry::Registry::built_in(),
            clock: Arc::clone(clock),
            random: Arc::clone(random),
            max_mutating_in_flight: self.access.max_mutating_requests_inflight,
            max_in_flight: self.access.max_requests_inflight,
            priority_and_fairness: self.access.enable_priority_and_fairness,
            service_range: range,
            external_address: match external {
                Some(name) => format!("{name}:{}", self.secure_port),
                None => reached,
            },
            nodes: Some(self.nodes()?),
            proxy_client: self.access.proxy_client(None)?,
            metrics_resolution: None,
            audit: None,
            checks: Vec::new(),
            store_check_timeout: self.etcd.etcd_healthcheck_timeout,
            shares_store: self.etcd.is_wanted(),
            operating: Operating::default(),
            // Its scheduler is elsewhere: by the defaults.
            explain: Some(Arc::new(crate::explain::FromCaches(why::Explainer::default()))),
            version: Version { major: "1".into(), minor: "37".into(), git: crate::VERSION.into() },
        })
    }

    fn settings(
        &self,
        client_authority: String,
        front_proxy: Option<FrontProxySettings>,
        (advertised, range): (IpAddr, ServiceRange),
    ) -> bootstrap::Settings {
        bootstrap::Settings {
            front_proxy,
            address: advertised,
            port: self.secure_port,
            service_ranges: range.texts(),
            service_address: range.address(1),
            client_authority,
            // Endpoints are told together with other servers', or by somebody else.
            shares_store: self.etcd.is_wanted() || self.endpoint_reconciler_type == Endpoints::None,
        }
    }

    /// How nodes' agents are reached.
    fn nodes(&self) -> Result<NodeDialer> {
        let trust = match &self.kubelet_certificate_authority {
            Some(file) => Trust::Authorities(tls::roots(read(file)?.as_bytes())?),
            None => Trust::Anybody,
        };
        let files = self.kubelet_client_certificate.as_ref().zip(self.kubelet_client_key.as_ref());
        let mut config = match files {
            Some((certificate, key)) => {
                let identity = Identity { certificate: read(certificate)?, key: read(key)? };
                identity.client_of(trust).with_context(|| {
                    format!("could not use {} with {}", certificate.display(), key.display())
                })?
            }
            None => component_base::tls::client(trust)?.with_no_client_auth(),
        };
        // Upgrades are of HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let dialer = NodeDialer::new(Arc::new(config));
        Ok(dialer.with_address_types(self.kubelet_preferred_address_types.clone()))
    }

    /// What is presented, and whose certificates are believed.
    fn speaking(
        &self,
        advertised: IpAddr,
        front_proxy: Option<&FrontProxySettings>,
        ends: &Ends,
    ) -> Result<Speaking> {
        let stop = ends.shutdown.signal();
        let certificate = match presenting::of_files(&self.access, &stop)? {
            Some(certificate) => certificate,
            None => tls::Serving::new(&self.own_certificate(advertised)?)?,
        };
        let certificate = certificate.with_limits(self.tls.limits()?);
        presenting::by_name(&self.tls_sni_cert_key, &certificate, &stop)?;
        let front_proxies = front_proxy.map(|it| it.authority.clone()).unwrap_or_default();
        presenting::speaking(&self.access, &certificate, (String::new(), front_proxies), stop)
    }

    /// The certificate in `--cert-dir`, made where there is none.
    fn own_certificate(&self, advertised: IpAddr) -> Result<Identity> {
        let mut names: Vec<String> =
            ["kubernetes.default.svc", "kubernetes.default", "kubernetes", "localhost"]
                .map(str::to_owned)
                .into();
        names.extend([advertised.to_string(), Ipv4Addr::LOCALHOST.to_string()]);
        names.extend(self.external_hostname.clone());
        crate::pki::unsigned(&self.cert_dir, "apiserver", names)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}
