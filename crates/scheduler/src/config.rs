//! `KubeSchedulerConfiguration` of `kubescheduler.config.k8s.io/v1`: read strictly, with upstream's defaults and in its
//! words where something is wrong. Knows no file and no cluster.

mod args;
mod features;
mod profiles;
mod reader;
mod validate;

use std::time::Duration;

use apimachinery::Value;
use apimachinery::field::quote;

pub use args::{
    AffinityArgs, Args, DynamicResourcesArgs, FitArgs, PreemptionArgs, SpreadArgs,
    VolumeBindingArgs, cpu_and_memory,
};
pub use features::Features;
pub use profiles::{Plugin, PluginSet, Plugins};

use reader::{Problems, Reader};

use crate::queue::Backoff;

/// The API group.
pub const GROUP: &str = "kubescheduler.config.k8s.io";
/// The group with the only version there is.
pub const VERSION: &str = "kubescheduler.config.k8s.io/v1";
/// The kind.
pub const KIND: &str = "KubeSchedulerConfiguration";

/// How long an extender may take where its configuration does not say.
const EXTENDER_TIMEOUT: Duration = Duration::from_secs(5);

/// The scheduler of pods that name none.
const DEFAULT_NAME: &str = "default-scheduler";

/// How a scheduler is to be.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// How many threads upstream works on one pod with. Here one is enough: it has no effect.
    pub parallelism: i64,
    /// Who of several schedulers works.
    pub leader_election: LeaderElection,
    /// How the API server is reached.
    pub client_connection: ClientConnection,
    /// Which share of the nodes suffices, once they will do; 0 for one that depends on their number.
    pub percentage_of_nodes_to_score: i64,
    /// The pause after the first failure.
    pub pod_initial_backoff_seconds: i64,
    /// The longest pause.
    pub pod_max_backoff_seconds: i64,
    /// The schedulers that pods may name.
    pub profiles: Vec<ProfileConfig>,
    /// Whether profiles of the process may be asked for, where the scheduler has a port.
    pub profiling: bool,
    /// Others that have a say.
    pub extenders: Vec<ExtenderConfig>,
    /// Whether caches are filled only once this is the leader.
    pub delay_cache_until_active: bool,
    /// What is on, of which a configuration's text says nothing.
    pub features: Features,
}

/// Who of several works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderElection {
    /// Whether there may be several at all; upstream takes it so where nothing is said.
    pub leader_elect: Option<bool>,
    /// How long others wait for the leader.
    pub lease_duration: Duration,
    /// How long the leader tries to keep its lease.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry_period: Duration,
    /// `leases`
    pub resource_lock: String,
    /// The name of the lease.
    pub resource_name: String,
    /// Its namespace.
    pub resource_namespace: String,
}

impl Default for LeaderElection {
    fn default() -> Self {
        Self {
            leader_elect: None,
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            resource_lock: "leases".into(),
            resource_name: "kube-scheduler".into(),
            resource_namespace: "kube-system".into(),
        }
    }
}

/// How the API server is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientConnection {
    /// The file with address and credentials.
    pub kubeconfig: String,
    /// What is accepted.
    pub accept_content_types: String,
    /// What is sent.
    pub content_type: String,
    /// Requests a second.
    pub qps: f64,
    /// Requests at once.
    pub burst: i64,
}

/// A scheduler that pods may name.
#[derive(Debug, Clone)]
pub struct ProfileConfig {
    /// Its name.
    pub scheduler_name: String,
    /// See [`Configuration::percentage_of_nodes_to_score`], which it replaces.
    pub percentage_of_nodes_to_score: Option<i64>,
    /// The plugins as they were given.
    pub plugins: Plugins,
    /// What they are told.
    pub args: Args,
}

/// Somebody who has a say, over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtenderConfig {
    /// Where.
    pub url_prefix: String,
    /// What is appended for each call; empty for calls that are not made.
    pub filter_verb: String,
    /// See above.
    pub preempt_verb: String,
    /// See above.
    pub prioritize_verb: String,
    /// See above.
    pub bind_verb: String,
    /// What its scores count.
    pub weight: i64,
    /// Whether TLS is spoken.
    pub enable_https: bool,
    /// How.
    pub tls: Option<ExtenderTls>,
    /// How long it may take.
    pub http_timeout: Duration,
    /// Whether names of nodes are enough for it.
    pub node_cache_capable: bool,
    /// Only pods that ask for one of these are shown to it; all where there are none.
    pub managed_resources: Vec<ManagedResource>,
    /// Whether pods are placed without it when it fails.
    pub ignorable: bool,
}

/// A resource that an extender counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedResource {
    /// Its name.
    pub name: String,
    /// Whether it counts it alone.
    pub ignored_by_scheduler: bool,
}

/// How TLS is spoken with an extender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtenderTls {
    /// Whoever answers is taken.
    pub insecure: bool,
    /// The name that its certificate must have.
    pub server_name: String,
    /// Files with certificate, key and authorities, in PEM.
    pub cert_file: String,
    /// See above.
    pub key_file: String,
    /// See above.
    pub ca_file: String,
    /// The same as text, which wins.
    pub cert_data: Vec<u8>,
    /// See above.
    pub key_data: Vec<u8>,
    /// See above.
    pub ca_data: Vec<u8>,
}

impl Default for Configuration {
    fn default() -> Self {
        let empty = Value::object();
        let mut problems = Problems::default();
        let mut reader = Reader::new(KIND, &empty, "", &mut problems);
        read(&mut reader, &mut problems)
    }
}

impl Configuration {
    /// Reads a document, for a scheduler whose features are upstream's defaults.
    ///
    /// # Errors
    /// See [`Self::parse_with`].
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        Self::parse_with(text, Features::default())
    }

    /// Reads a document.
    ///
    /// # Errors
    /// When it is of another kind or version, has members that there are none of, or says what it may not.
    pub fn parse_with(text: &[u8], features: Features) -> Result<Self, String> {
        let (value, repeated) =
            apimachinery::yaml::parse_reporting(text).map_err(|error| error.to_string())?;
        if let Some(problem) = apimachinery::yaml::strict_error(&repeated) {
            return Err(format!("strict decoding error: {problem}"));
        }
        Self::from_value(&value, features)
    }

    /// The pauses after failures.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        let seconds = |it: i64| Duration::from_secs(it.unsigned_abs());
        Backoff {
            first: seconds(self.pod_initial_backoff_seconds),
            longest: seconds(self.pod_max_backoff_seconds),
        }
    }

    /// The same for a document that was read already.
    ///
    /// # Errors
    /// See [`Self::parse_with`].
    pub fn from_value(value: &Value, features: Features) -> Result<Self, String> {
        let (version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
        for (member, text) in [("Kind", kind), ("apiVersion", version)] {
            if text.is_empty() {
                return Err(format!("Object '{member}' is missing"));
            }
        }
        if version != VERSION || kind != KIND {
            return Err(not_registered(kind, version));
        }
        let mut problems = Problems::default();
        let mut reader = Reader::new(KIND, value, "", &mut problems);
        reader.any("apiVersion");
        reader.any("kind");
        let config = Self { features, ..read(&mut reader, &mut problems) };
        reader.finish(&mut problems);
        problems.finish()?;
        config.validated()?;
        Ok(config)
    }

    /// Whether it says nothing that it may not.
    ///
    /// # Errors
    /// All that is wrong, in upstream's words.
    pub fn validated(&self) -> Result<(), String> {
        let errors = validate::validate(self);
        if errors.is_empty() {
            return Ok(());
        }
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Err(if all.len() == 1 { all.concat() } else { format!("[{}]", all.join(", ")) })
    }
}

fn not_registered(kind: &str, version: &str) -> String {
    format!("no kind {} is registered for version {} in scheme", quote(kind), quote(version))
}

fn read(reader: &mut Reader<'_>, problems: &mut Problems) -> Configuration {
    let leader_election = leader_election(reader, problems);
    let client_connection = client_connection(reader, problems);
    let mut profiles = Vec::new();
    let given = reader.list("profiles", problems);
    // Of several profiles each has a name of its own.
    let default_name = if given.len() == 1 { DEFAULT_NAME } else { "" };
    for (index, (value, at)) in given.into_iter().enumerate() {
        let mut profile = Reader::new("KubeSchedulerProfile", value, at, problems);
        profiles.push(read_profile(&mut profile, index, default_name, problems));
        profile.finish(problems);
    }
    if profiles.is_empty() {
        profiles.push(ProfileConfig::new(DEFAULT_NAME));
    }
    let extenders = reader.list("extenders", problems).into_iter().map(|(value, at)| {
        let mut extender = Reader::new("Extender", value, at, problems);
        let read = read_extender(&mut extender, problems);
        extender.finish(problems);
        read
    });
    let extenders = extenders.collect();
    // There is no profile of contention: said or not.
    reader.flag("enableContentionProfiling", problems);
    Configuration {
        profiling: reader.flag("enableProfiling", problems).unwrap_or(true),
        parallelism: reader.integer("parallelism", problems).unwrap_or(16),
        leader_election,
        client_connection,
        percentage_of_nodes_to_score: reader
            .integer("percentageOfNodesToScore", problems)
            .unwrap_or(0),
        pod_initial_backoff_seconds: reader
            .integer("podInitialBackoffSeconds", problems)
            .unwrap_or(1),
        pod_max_backoff_seconds: reader.integer("podMaxBackoffSeconds", problems).unwrap_or(10),
        profiles,
        extenders,
        delay_cache_until_active: reader
            .flag("delayCacheUntilActive", problems)
            .unwrap_or_default(),
        features: Features::default(),
    }
}

fn leader_election(reader: &mut Reader<'_>, problems: &mut Problems) -> LeaderElection {
    let mut it = reader.object("leaderElection", "LeaderElectionConfiguration", problems);
    let default = LeaderElection::default();
    let read = LeaderElection {
        leader_elect: it.flag("leaderElect", problems),
        lease_duration: span(it.duration("leaseDuration", problems), default.lease_duration),
        renew_deadline: span(it.duration("renewDeadline", problems), default.renew_deadline),
        retry_period: span(it.duration("retryPeriod", problems), default.retry_period),
        resource_lock: text(it.string("resourceLock", problems), &default.resource_lock),
        resource_name: text(it.string("resourceName", problems), &default.resource_name),
        resource_namespace: text(
            it.string("resourceNamespace", problems),
            &default.resource_namespace,
        ),
    };
    it.finish(problems);
    read
}

/// Zero stands for the default.
fn span(given: Option<Duration>, default: Duration) -> Duration {
    given.filter(|it| !it.is_zero()).unwrap_or(default)
}

fn text(given: String, default: &str) -> String {
    if given.is_empty() { default.to_owned() } else { given }
}

fn client_connection(reader: &mut Reader<'_>, problems: &mut Problems) -> ClientConnection {
    let mut it = reader.object("clientConnection", "ClientConnectionConfiguration", problems);
    let read = ClientConnection {
        kubeconfig: it.string("kubeconfig", problems),
        accept_content_types: it.string("acceptContentTypes", problems),
        content_type: text(
            it.string("contentType", problems),
            "application/vnd.kubernetes.protobuf",
        ),
        qps: it.number("qps", problems).filter(|it| *it != 0.0).unwrap_or(50.0),
        burst: it.integer("burst", problems).filter(|it| *it != 0).unwrap_or(100),
    };
    it.finish(problems);
    read
}

impl ProfileConfig {
    /// A profile with upstream's defaults.
    #[must_use]
    pub fn new(scheduler_name: &str) -> Self {
        Self {
            scheduler_name: scheduler_name.to_owned(),
            percentage_of_nodes_to_score: None,
            plugins: Plugins::default(),
            args: Args::default(),
        }
    }
}

fn read_profile(
    reader: &mut Reader<'_>,
    index: usize,
    default_name: &str,
    problems: &mut Problems,
) -> ProfileConfig {
    let mut args = Args::default();
    for (place, (value, at)) in reader.list("pluginConfig", problems).into_iter().enumerate() {
        let mut item = Reader::new("PluginConfig", value, at, problems);
        let name = item.string("name", problems);
        let given = item.any("args").cloned().unwrap_or(Value::object());
        item.finish(problems);
        if let Err(error) = args.set(&name, &given) {
            let place = format!("decoding .profiles[{index}].pluginConfig[{place}]");
            problems.nested(format!("{place}: {error}"));
        }
    }
    ProfileConfig {
        scheduler_name: reader.text("schedulerName", problems).unwrap_or(default_name).to_owned(),
        percentage_of_nodes_to_score: reader.integer("percentageOfNodesToScore", problems),
        plugins: Plugins::read(reader.object("plugins", "Plugins", problems), problems),
        args,
    }
}

fn read_extender(reader: &mut Reader<'_>, problems: &mut Problems) -> ExtenderConfig {
    let managed = reader.list("managedResources", problems).into_iter().map(|(value, at)| {
        let mut item = Reader::new("ExtenderManagedResource", value, at, problems);
        let read = ManagedResource {
            name: item.string("name", problems),
            ignored_by_scheduler: item.flag("ignoredByScheduler", problems).unwrap_or_default(),
        };
        item.finish(problems);
        read
    });
    let managed_resources = managed.collect();
    let tls = reader.maybe_object("tlsConfig", "ExtenderTLSConfig", problems);
    let tls = tls.map(|mut it| {
        let read = ExtenderTls {
            insecure: it.flag("insecure", problems).unwrap_or_default(),
            server_name: it.string("serverName", problems),
            cert_file: it.string("certFile", problems),
            key_file: it.string("keyFile", problems),
            ca_file: it.string("caFile", problems),
            cert_data: data(it.text("certData", problems), problems),
            key_data: data(it.text("keyData", problems), problems),
            ca_data: data(it.text("caData", problems), problems),
        };
        it.finish(problems);
        read
    });
    ExtenderConfig {
        url_prefix: reader.string("urlPrefix", problems),
        filter_verb: reader.string("filterVerb", problems),
        preempt_verb: reader.string("preemptVerb", problems),
        prioritize_verb: reader.string("prioritizeVerb", problems),
        bind_verb: reader.string("bindVerb", problems),
        weight: reader.integer("weight", problems).unwrap_or_default(),
        enable_https: reader.flag("enableHTTPS", problems).unwrap_or_default(),
        tls,
        http_timeout: span(reader.duration("httpTimeout", problems), EXTENDER_TIMEOUT),
        node_cache_capable: reader.flag("nodeCacheCapable", problems).unwrap_or_default(),
        managed_resources,
        ignorable: reader.flag("ignorable", problems).unwrap_or_default(),
    }
}

/// Bytes, as JSON has them.
fn data(text: Option<&str>, problems: &mut Problems) -> Vec<u8> {
    use base64::Engine as _;
    let Some(text) = text else { return Vec::new() };
    match base64::prelude::BASE64_STANDARD.decode(text) {
        Ok(bytes) => bytes,
        Err(error) => {
            problems.nested(format!("illegal base64 data: {error}"));
            Vec::new()
        }
    }
}
