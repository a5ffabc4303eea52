//! `kubelith kube-controller-manager`: the controllers alone, for an API server elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use auth::jwt::SigningKey;
use auth::service_account::TokenIssuer;
use client::Client;
use client::transport::Transport;
use component_base::feature_gates::FeatureGates;
use component_base::metrics::RestClient;
use component_base::{Clock, Random, RealClock, Shutdown, SystemRandom};
use controllers::node_ipam::NodeRanges;
use controllers::serviceaccount_token::TokenSigner;
use ipnet::IpNet;
use prometheus_client::registry::Registry;

use super::accounts::AccountTransport;
use super::migration::MigrationOptions;
use super::{ClientFor, Manager, ManagerOptions, NAME, election};
use crate::control_plane::SecretTokens;
use crate::gates::{COORDINATED_LEADER_ELECTION, GENERIC_WORKLOAD};
use crate::http::{Access, HttpTransport};
use crate::leading::ElectionOptions;
use crate::server::Signals;
use crate::serving::Check;
use crate::startup::Startup;
use crate::upstream::Given;
use crate::{log, memory, serving};

/// Where it tells of itself.
const SERVED: serving::Part = serving::Part { name: NAME, port: 10_257 };
/// Who the client says it is.
const AGENT: &str = "kube-controller-manager/v1.37.1";

/// Flags of `kubelith kube-controller-manager`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How the API server is reached
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Address of the API server (default: the kubeconfig's)
    #[arg(long, value_name = "URL")]
    master: Option<String>,
    /// Features of upstream to switch: Name=true,Other=false
    #[arg(long, value_name = "GATES")]
    feature_gates: Vec<String>,
    /// Whether each controller works under a service account of its own
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    use_service_account_credentials: bool,
    /// Authority that pods are to trust, in PEM (default: the kubeconfig's)
    #[arg(long, value_name = "FILE")]
    root_ca_file: Option<PathBuf>,
    /// Key that signs the tokens in Secrets; without it no such tokens are made
    #[arg(long, value_name = "FILE")]
    service_account_private_key_file: Option<PathBuf>,
    /// The ranges of pods' addresses
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    cluster_cidr: Vec<IpNet>,
    /// The ranges of services' addresses, which nodes do not get
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    service_cluster_ip_range: Vec<IpNet>,
    #[command(flatten)]
    manager: ManagerOptions,
    #[command(flatten)]
    serving: serving::Options,
    #[command(flatten)]
    election: ElectionOptions,
    #[command(flatten)]
    migration: MigrationOptions,
    #[command(flatten)]
    log: log::Options,
}

/// Runs controllers alone until they are told to stop, or have lost their lease.
pub(crate) fn run(options: Options, (given, warnings): (&Given, &[String])) -> Result<()> {
    options.log.start(warnings)?;
    memory::give_back();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(alone(options, given.all()))
}

async fn alone(options: Options, flags: Vec<(String, String)>) -> Result<()> {
    let features = crate::gates::parse(&options.feature_gates)?;
    options.manager.check()?;
    let (clock, random): (Arc<dyn Clock>, Arc<dyn Random>) =
        (Arc::new(RealClock), Arc::new(SystemRandom::new()));
    let election = election(&options.election, random.as_ref())?;
    let migration = options.migration.migration(NAME)?;
    let access = Access::read(&options.kubeconfig)?.at(options.master.clone());
    let (authorities, tokens) = (options.manager.signers(None)?, options.tokens()?);
    let (root_ca, node_ranges) = (options.root_ca(&access)?, options.node_ranges()?);
    let signals = Signals::catch()?;
    let startup = Startup::begin(NAME);
    let shutdown = Shutdown::new();
    let calls = RestClient::default();
    let transport = HttpTransport::new(&access)?.counted(calls.clone());
    let transport = Arc::new(transport) as Arc<dyn Transport>;
    let client = Client::new(transport, AGENT);
    let metrics = controllers::Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    calls.register(&mut registry);
    let elections = client::leader::Metrics::default();
    elections.register(&mut registry);
    let queues = metrics.queues.clone();
    let pages = serving::Pages {
        checks: election.iter().map(|_| Check::leader_election()).collect(),
        running: Some(Box::new(move || queues.running())),
        ..serving::Pages::new(registry, flags, Arc::clone(&features))
    };
    let address = options.serving.start(SERVED, &client, pages, shutdown.signal()).await?;
    if let Some(address) = address {
        startup.up("controllers", &format!("https://{address}"));
    }
    let client_for = match options.use_service_account_credentials {
        true => accounts(&client, &access, &clock, &calls),
        false => {
            let client = client.clone();
            Arc::new(move |_: &str| client.clone()) as ClientFor
        }
    };
    let stop = shutdown.signal();
    signals.end(&shutdown);
    let mut manager = Manager {
        client,
        client_for,
        clock,
        random,
        root_ca,
        node_ranges,
        authorities,
        tokens,
        metrics,
        elections,
        options: options.manager,
        more: of_features(&features),
        one_server: false,
        features,
        caches: None,
        election,
        migration,
        stop,
    };
    manager.stand();
    Box::pin(manager.until_stopped_or_lost()).await
}

/// What an API server serves besides, where these features are on.
fn of_features(features: &FeatureGates) -> Vec<client::Resource> {
    let all = [
        (GENERIC_WORKLOAD, "scheduling.k8s.io", "podgroups"),
        (GENERIC_WORKLOAD, "scheduling.k8s.io", "workloads"),
        (COORDINATED_LEADER_ELECTION, "coordination.k8s.io", "leasecandidates"),
    ];
    let on = all.into_iter().filter(|(feature, ..)| features.enabled(feature));
    on.map(|(_, group, plural)| client::Resource::built_in(group, plural)).collect()
}

/// Clients under the controllers' own accounts.
fn accounts(
    manager: &Client,
    access: &Access,
    clock: &Arc<dyn Clock>,
    calls: &RestClient,
) -> ClientFor {
    let (manager, clock, calls) = (manager.clone(), Arc::clone(clock), calls.clone());
    let (server, authority) = (access.server().to_owned(), access.authority().to_owned());
    Arc::new(move |account| {
        let transport = AccountTransport {
            manager: manager.clone(),
            server: server.clone(),
            authority: authority.clone(),
            account: account.to_owned(),
            clock: Arc::clone(&clock),
            calls: calls.clone(),
            current: tokio::sync::Mutex::default(),
        };
        Client::new(Arc::new(transport), AGENT)
    })
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

impl Options {
    fn root_ca(&self, access: &Access) -> Result<Arc<str>> {
        match &self.root_ca_file {
            Some(path) => Ok(read(path)?.into()),
            None => Ok(access.authority().into()),
        }
    }

    fn tokens(&self) -> Result<Option<Arc<dyn TokenSigner>>> {
        let Some(path) = &self.service_account_private_key_file else { return Ok(None) };
        let key = SigningKey::from_pem(&read(path)?)
            .with_context(|| format!("could not use {}", path.display()))?;
        // Tokens in Secrets name an issuer of their own, and no audience.
        let issuer = TokenIssuer::new(key, Vec::new(), "", Vec::new());
        Ok(Some(Arc::new(SecretTokens(Arc::new(issuer)))))
    }

    fn node_ranges(&self) -> Result<NodeRanges> {
        if !self.manager.allocate_node_cidrs.unwrap_or(false) {
            return Ok(NodeRanges::default());
        }
        if self.cluster_cidr.is_empty() {
            bail!("--allocate-node-cidrs needs --cluster-cidr");
        }
        self.manager.node_ranges(&self.cluster_cidr, &self.service_cluster_ip_range)
    }
}
