//! Metrics of Prometheus and of the triggers of ScaledObjects, as the server serves them: flags, and the seam between the
//! two.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use apimachinery::{Status, Value, value};
use apiserver::computed::{Computed, ComputedVersion};
use apiserver::query::Query;
use apiserver::request::RequestInfo;
use apiserver::{InProcess, Server, bootstrap};
use async_trait::async_trait;
use auth::UserInfo;
use client::Client;
use component_base::{Clock, ShutdownSignal};
use metrics_adapter::{Adapter, Asked, CUSTOM, EXTERNAL, Place, Prometheus, Rules, Source};

use crate::control_plane::period;

/// Under which objects are read: what of them may be is in the role of this name.
const USER: &str = "system:kubelith:metrics-adapter";
/// The controller whose triggers are answered where it runs.
pub(crate) const SCALED_OBJECTS: &str = "scaledobject-controller";

/// Flags of the metrics of Prometheus.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "metrics-adapter")]
#[command(next_help_heading = "metrics adapter")]
pub(crate) struct AdapterOptions {
    /// Rules in prometheus-adapter's form: custom.metrics.k8s.io and external.metrics.k8s.io are answered by them
    #[arg(long, value_name = "FILE", requires = "prometheus_url")]
    metrics_adapter_config: Option<PathBuf>,
    /// Prometheus, for the rules: http://prometheus.monitoring.svc:9090
    #[arg(long, value_name = "URL", requires = "metrics_adapter_config")]
    prometheus_url: Option<String>,
    /// The authorities of Prometheus' certificate, in PEM (default: this machine's)
    #[arg(long, value_name = "FILE", requires = "prometheus_url")]
    prometheus_ca_file: Option<PathBuf>,
    /// A token that Prometheus is shown
    #[arg(long, value_name = "FILE", requires = "prometheus_url")]
    prometheus_token_file: Option<PathBuf>,
    /// How long Prometheus may take to answer
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = period)]
    prometheus_timeout: Duration,
    /// How many bytes an answer of Prometheus may have
    #[arg(long, default_value_t = metrics_adapter::MAX_BYTES, value_name = "BYTES")]
    prometheus_max_response_bytes: usize,
    /// How often Prometheus is asked which metrics there are
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = period)]
    metrics_relist_interval: Duration,
}

impl AdapterOptions {
    /// What is asked, where something is.
    ///
    /// # Errors
    /// What is wrong with a flag or a file.
    pub(crate) fn source(&self) -> Result<Option<Source>> {
        let (Some(rules), Some(url)) = (&self.metrics_adapter_config, &self.prometheus_url) else {
            return Ok(None);
        };
        let rules =
            Rules::read(rules).map_err(|error| anyhow!("--metrics-adapter-config: {error}"))?;
        let authorities = match &self.prometheus_ca_file {
            Some(path) => std::fs::read(path).with_context(|| {
                format!("--prometheus-ca-file: could not read {}", path.display())
            })?,
            None => Vec::new(),
        };
        if self.prometheus_token_file.is_some() && !url.starts_with("https://") {
            bail!("--prometheus-token-file: a token is shown to a --prometheus-url of https only");
        }
        let place = Place::new(
            &authorities,
            self.prometheus_token_file.clone(),
            self.prometheus_timeout,
            self.prometheus_max_response_bytes,
        );
        let place = place.map_err(|why| anyhow!("--prometheus-ca-file: {why}"))?;
        let prometheus =
            Prometheus::new(url, place).map_err(|why| anyhow!("--prometheus-url: {why}"))?;
        Ok(Some(Source { prometheus, rules, relist: self.metrics_relist_interval }))
    }
}

/// Serves metrics, where there is something to ask, and makes the objects that tell of it.
///
/// # Errors
/// When the adapter or an object cannot be made.
pub(crate) async fn start(
    server: &Arc<Server>,
    clock: &Arc<dyn Clock>,
    options: &AdapterOptions,
    scaled_objects: bool,
    stop: ShutdownSignal,
) -> Result<()> {
    let source = options.source()?;
    if source.is_none() && !scaled_objects {
        return Ok(());
    }
    // What the adapter may read comes before it reads.
    bootstrap::ensure_all(server, objects(source.is_some(), scaled_objects)).await?;
    let reader = InProcess::new(Arc::clone(server), UserInfo::new(USER, &[]));
    let adapter = Adapter::new(metrics_adapter::Parts {
        source,
        scaled_objects,
        client: Client::new(Arc::new(reader), "metrics-adapter"),
        clock: Arc::clone(clock),
    });
    let adapter = adapter.map_err(|why| anyhow!("could not serve metrics: {why}"))?;
    server.set_computed(Arc::new(Adapted(Arc::clone(&adapter))));
    let server: Arc<Server> = Arc::clone(server);
    tokio::spawn(adapter.run(stop, move || server.computed_changed()));
    Ok(())
}

/// The adapter, as the server asks it.
#[derive(Debug)]
struct Adapted(Arc<Adapter>);

#[async_trait]
impl Computed for Adapted {
    fn serves(&self, group: &str, version: &str) -> bool {
        self.0.serves(group, version)
    }

    fn versions(&self) -> Vec<ComputedVersion> {
        let served = self.0.served().into_iter().map(|it| ComputedVersion {
            group: it.group.into(),
            version: it.version.into(),
            resources: it.resources,
        });
        served.collect()
    }

    fn available(&self, group: &str) -> Result<(), String> {
        self.0.available(group)
    }

    async fn answer(&self, info: &RequestInfo, query: &Query) -> Result<Value, Status> {
        let of = |name| query.get(name).unwrap_or_default().to_owned();
        let asked = Asked {
            group: info.group.to_string(),
            version: info.version.to_string(),
            namespace: info.namespace.to_string(),
            resource: info.resource.to_string(),
            name: info.name.to_string(),
            metric: info.subresource.to_string(),
            selector: of("labelSelector"),
            metric_selector: of("metricLabelSelector"),
        };
        self.0.answer(&asked).await
    }
}

/// What a cluster has where metrics are served: APIServices, who may read objects for them, and what the controller of
/// ScaledObjects may.
fn objects(custom: bool, scaled_objects: bool) -> Vec<Value> {
    let mut objects = vec![api_service(EXTERNAL, "v1beta1", 100)];
    if custom {
        objects.push(api_service(CUSTOM, "v1beta1", 100));
        objects.push(api_service(CUSTOM, "v1beta2", 200));
    }
    let read = |groups: &[&str], resources: &[&str]| rule(groups, resources, &["get", "list"]);
    let reads = vec![
        read(
            &[""],
            &[
                "namespaces",
                "nodes",
                "persistentvolumeclaims",
                "persistentvolumes",
                "pods",
                "replicationcontrollers",
                "services",
            ],
        ),
        read(&["apps", "autoscaling", "batch", "discovery.k8s.io", "networking.k8s.io"], &["*"]),
        read(&["apiextensions.k8s.io"], &["customresourcedefinitions"]),
        read(&[keda::GROUP], &[keda::PLURAL]),
    ];
    objects.push(role(USER, reads));
    let user = value!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": USER});
    objects.push(binding(USER, user));
    if scaled_objects {
        let name = "system:controller:scaledobject-controller";
        let own = format!("{}/status", keda::PLURAL);
        let rules = vec![
            rule(
                &[keda::GROUP],
                &[keda::PLURAL, &own],
                &["get", "list", "watch", "update", "patch"],
            ),
            rule(
                &["autoscaling"],
                &["horizontalpodautoscalers"],
                &["get", "list", "watch", "create", "update", "delete"],
            ),
            rule(&["*"], &["*/scale"], &["get", "update"]),
            rule(&[EXTERNAL], &["*"], &["get", "list"]),
            rule(&["apiextensions.k8s.io"], &["customresourcedefinitions"], &["list", "watch"]),
            rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]),
        ];
        objects.push(role(name, rules));
        let account =
            value!({"kind": "ServiceAccount", "name": SCALED_OBJECTS, "namespace": "kube-system"});
        objects.push(binding(name, account));
    }
    objects
}

fn api_service(group: &str, version: &str, priority: i64) -> Value {
    value!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": (format!("{version}.{group}")),
            "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
        "spec": {"group": group, "version": version,
            "groupPriorityMinimum": 100, "versionPriority": priority}})
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    let list = |all: &[&str]| all.iter().copied().collect::<Value>();
    value!({"apiGroups": (list(groups)), "resources": (list(resources)), "verbs": (list(verbs))})
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name, "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
        "rules": (Value::Array(rules))})
}

fn binding(name: &str, subject: Value) -> Value {
    value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [subject]})
}
