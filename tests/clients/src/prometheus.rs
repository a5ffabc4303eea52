//! A real Prometheus: it scrapes a cluster with the token of a service account, and a cluster scales by what it knows, first
//! with all parts in one process and then with each in its own, on the same store. What the parts tell of themselves
//! is looked at by promtool too.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::api::Client;
use crate::server::{End, Server, free_port};
use crate::{Options, PATIENCE, PAUSE};

/// The namespace of what is scaled.
const SHOP: &str = "shop";
/// Upstream's metrics whose names promtool does not like. They are API.
const KNOWN: [&str; 11] = [
    "apiserver_admission_step_admission_duration_seconds_summary ",
    "apiserver_admission_webhook_",
    "authenticated_user_requests ",
    "authentication_attempts ",
    "attach_detach_controller_attachdetach_controller_forced_detaches ",
    "endpoint_slice_controller_changes ",
    "endpoint_slice_controller_syncs ",
    "node_ipam_controller_",
    "apiserver_flowcontrol_latest_s ",
    "apiserver_flowcontrol_next_discounted_s_bounds ",
    "apiserver_flowcontrol_next_s_bounds ",
];
/// The parts that are scraped, as Prometheus knows them.
const PARTS: [&str; 3] = ["kube-apiserver", "kube-scheduler", "kube-controller-manager"];
/// What scrapes found in each of them that only it has.
const TOLD: [&str; 3] = [
    r#"apiserver_request_total{job="kube-apiserver",code="201",resource="horizontalpodautoscalers"}"#,
    r#"scheduler_schedule_attempts_total{job="kube-scheduler"}"#,
    r#"workqueue_adds_total{job="kube-controller-manager",name="deployment"}"#,
];

/// A process that is killed when this is dropped.
struct Part {
    name: &'static str,
    process: Child,
}

impl Part {
    fn start(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        directory: &Path,
    ) -> Result<Self> {
        let log = File::create(directory.join(format!("{name}.log")))?;
        let process = Command::new(program)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {name}"))?;
        Ok(Self { name, process })
    }

    fn lives(&mut self) -> Result<()> {
        let ended = self.process.try_wait()?;
        ensure!(ended.is_none(), "{} has ended by itself: {ended:?}", self.name);
        Ok(())
    }
}

/// What the application tells of itself, which Prometheus scrapes.
#[derive(Debug, Clone, Default)]
struct Application(Arc<Mutex<String>>);

impl Application {
    async fn start(&self) -> Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (port, told) = (listener.local_addr()?.port(), Arc::clone(&self.0));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let text = told.lock().map(|it| it.clone()).unwrap_or_default();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\
                     content-length: {}\r\n\r\n{text}",
                    text.len()
                );
                tokio::spawn(async move {
                    // A request without a body: one read has all of it.
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Ok(port)
    }

    fn tell(&self, text: String) {
        if let Ok(mut told) = self.0.lock() {
            *told = text;
        }
    }
}

/// Where everything listens.
struct Ports {
    prometheus: u16,
    scheduler: u16,
    controllers: u16,
}

/// The whole story; a line about it comes back.
pub(crate) async fn play(options: &Options, directory: &Path) -> Result<String> {
    let ports =
        Ports { prometheus: free_port()?, scheduler: free_port()?, controllers: free_port()? };
    let application = Application::default();
    let application_port = application.start().await?;
    fs::write(directory.join("rules.yaml"), RULES)?;
    let adapter: Vec<String> = vec![
        "--metrics-adapter-config".to_owned(),
        directory.join("rules.yaml").display().to_string(),
        format!("--prometheus-url=http://127.0.0.1:{}", ports.prometheus),
        "--metrics-relist-interval=1s".into(),
    ];
    let mut flags = adapter.clone();
    flags.extend(["--fake-nodes=1".into(), "--horizontal-pod-autoscaler-sync-period=1s".into()]);
    let mut server = Server::start(&options.kubelith, directory, flags).await?;
    let client = server.client()?;
    may_scrape(&client).await?;
    token(&client, directory).await?;
    let scraped = [server.port(), ports.scheduler, ports.controllers];
    fs::write(directory.join("prometheus.yml"), configuration(scraped, application_port))?;
    let mut prometheus = prometheus(options, directory, ports.prometheus)?;
    application.tell(format!("queue_messages_ready{{namespace=\"{SHOP}\",queue=\"orders\"}} 6\n"));
    // Six messages, two for each pod.
    scaled_by_queue(&client).await?;
    let pods = pods_of(&client, "web", 2).await?;
    let looked_at =
        check(options, &client, &format!("https://127.0.0.1:{}/metrics", server.port())).await?;
    server.end(End::Told).await?;

    let mut parts = parts(options, directory, (&server, &ports), &adapter)?;
    server.ready().await?;
    token(&client, directory).await?;
    // Thirty for each of two pods, fifteen for each is wanted.
    let busy = pods.iter().map(|pod| {
        format!(
            "jobs_in_flight{{namespace=\"{SHOP}\",pod=\"{pod}\",shard=\"a\"}} 20\n\
                 jobs_in_flight{{namespace=\"{SHOP}\",pod=\"{pod}\",shard=\"b\"}} 10\n"
        )
    });
    application.tell(busy.collect());
    scaled_by_pods(&client).await?;
    let asked = format!(
        "sum(kube_pod_resource_request{{namespace=\"{SHOP}\",resource=\"cpu\"}}) == 7 * 0.25"
    );
    for known in ["apiserver_storage_size_bytes > 0", &asked] {
        knows(&client, ports.prometheus, known).await?;
    }
    for (part, told) in PARTS.iter().zip(TOLD) {
        let up = format!("up{{job=\"{part}\"}} == 1 and on(job) {told}");
        knows(&client, ports.prometheus, &up).await?;
    }
    let mut looked_at = looked_at;
    let own = scraped.map(|port| format!("https://127.0.0.1:{port}/metrics"));
    for url in own.iter().chain([&format!("{}/resources", own[1])]) {
        looked_at += check(options, &client, url).await?;
    }
    no_scrape_was_refused(&client, ports.prometheus).await?;
    prometheus.lives()?;
    for part in &mut parts {
        part.lives()?;
    }
    Ok(format!(
        "Prometheus scraped {PARTS:?}, two Deployments were scaled by what it knows, promtool looked at {looked_at} metrics"
    ))
}

const RULES: &str = r#"
rules:
- seriesQuery: jobs_in_flight{namespace!="",pod!=""}
  resources:
    overrides:
      namespace: {resource: namespace}
      pod: {resource: pod}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
externalRules:
- seriesQuery: queue_messages_ready{namespace!=""}
  resources:
    overrides:
      namespace: {resource: namespace}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>})
"#;

/// Prometheus' own file: each part by its port, with the token of a service account.
fn configuration(scraped: [u16; 3], application: u16) -> String {
    let mut text =
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n".to_owned();
    for (part, port) in PARTS.iter().zip(scraped) {
        text.push_str(&format!(
            "- job_name: {part}\n  scheme: https\n  authorization: {{credentials_file: token}}\n  \
             tls_config: {{ca_file: data/pki/ca.crt}}\n  \
             static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n"
        ));
    }
    text.push_str(&format!(
        "- job_name: resources\n  scheme: https\n  metrics_path: /metrics/resources\n  \
         honor_labels: true\n  authorization: {{credentials_file: token}}\n  \
         tls_config: {{ca_file: data/pki/ca.crt}}\n  \
         static_configs: [{{targets: ['127.0.0.1:{}']}}]\n",
        scraped[1]
    ));
    text.push_str(&format!(
        "- job_name: application\n  honor_labels: true\n  \
         static_configs: [{{targets: ['127.0.0.1:{application}']}}]\n"
    ));
    text
}

fn prometheus(options: &Options, directory: &Path, port: u16) -> Result<Part> {
    let arguments = [
        "--config.file=prometheus.yml".to_owned(),
        "--storage.tsdb.path=series".into(),
        format!("--web.listen-address=127.0.0.1:{port}"),
        "--log.level=warn".into(),
    ];
    Part::start("prometheus", &options.prometheus.join("prometheus"), &arguments, directory)
}

/// A control plane of three processes on the store and with the keys of the server that has ended.
fn parts(
    options: &Options,
    directory: &Path,
    (server, ports): (&Server, &Ports),
    adapter: &[String],
) -> Result<Vec<Part>> {
    let file = |name: &str| directory.join("data").join(name).display().to_string();
    let presented = [
        "--bind-address=127.0.0.1".to_owned(),
        format!("--tls-cert-file={}", file("pki/apiserver.crt")),
        format!("--tls-private-key-file={}", file("pki/apiserver.key")),
    ];
    let of = |name: &str, port: u16, more: &[String]| {
        let first = [name.to_owned(), format!("--secure-port={port}")];
        [&first[..], &presented, more].concat()
    };
    let mut own = vec![
        format!("--data-dir={}", directory.join("data").display()),
        format!("--token-auth-file={}", directory.join("tokens").display()),
        format!("--client-ca-file={}", file("pki/ca.crt")),
        "--authorization-mode=RBAC".into(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={}", file("pki/service-account.key")),
        format!("--service-account-signing-key-file={}", file("pki/service-account.key")),
        "--service-cluster-ip-range=10.96.0.0/12".into(),
    ];
    own.extend_from_slice(adapter);
    let client = [format!("--kubeconfig={}", file("kubeconfig")), "--leader-elect=false".into()];
    let controllers =
        [&client[..], &["--horizontal-pod-autoscaler-sync-period=1s".to_owned()]].concat();
    let all = [
        (PARTS[0], server.port(), own),
        (PARTS[1], ports.scheduler, client.to_vec()),
        (PARTS[2], ports.controllers, controllers),
    ];
    all.into_iter()
        .map(|(name, port, more)| {
            Part::start(name, &options.kubelith, &of(name, port, &more), directory)
        })
        .collect()
}

/// A service account that may read metrics, and a namespace for what is scaled.
async fn may_scrape(client: &Client) -> Result<()> {
    for name in [SHOP, "monitoring"] {
        client.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await?;
    }
    let name = json!({"name": "prometheus"});
    client
        .create("/api/v1/namespaces/monitoring/serviceaccounts", &json!({"metadata": name}))
        .await?;
    let role = json!({"metadata": name,
        "rules": [{"nonResourceURLs": ["/metrics", "/metrics/resources"], "verbs": ["get"]}]});
    let binding = json!({"metadata": name,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "prometheus"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "monitoring", "name": "prometheus"}]});
    let path = "/apis/rbac.authorization.k8s.io/v1";
    client.create(&format!("{path}/clusterroles"), &role).await?;
    client.create(&format!("{path}/clusterrolebindings"), &binding).await?;
    Ok(())
}

/// Writes a token of that account to where Prometheus reads it, at each scrape.
async fn token(client: &Client, directory: &Path) -> Result<()> {
    let path = "/api/v1/namespaces/monitoring/serviceaccounts/prometheus/token";
    let answer = client.create(path, &json!({"spec": {}})).await?;
    let token = answer["status"]["token"].as_str().context("no token")?;
    Ok(fs::write(directory.join("token"), token)?)
}

fn deployment(name: &str, replicas: u32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "example.com/i",
                "resources": {"requests": {"cpu": "250m"}}}]}}}})
}

fn autoscaler(name: &str, metric: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"minReplicas": 1, "maxReplicas": 9, "metrics": [metric],
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}}})
}

fn of(group: &str, resource: &str) -> String {
    format!("/apis/{group}/namespaces/{SHOP}/{resource}")
}

/// A Deployment that has one pod for two messages of a queue.
async fn scaled_by_queue(client: &Client) -> Result<()> {
    for (name, replicas) in [("queue", 1), ("web", 2)] {
        client.create(&of("apps/v1", "deployments"), &deployment(name, replicas)).await?;
    }
    let path = of("external.metrics.k8s.io/v1beta1", "queue_messages_ready");
    let is_six = |_: u16, list: &Value| list["items"][0]["value"] == "6";
    client.until("the queue's length is known", &path, is_six).await?;
    let metric = json!({"type": "External", "external": {"metric": {"name": "queue_messages_ready"},
        "target": {"type": "AverageValue", "averageValue": "2"}}});
    client
        .create(&of("autoscaling/v2", "horizontalpodautoscalers"), &autoscaler("queue", &metric))
        .await?;
    has_replicas(client, "queue", 3).await
}

/// A Deployment whose pods have a share of what is to be done.
async fn scaled_by_pods(client: &Client) -> Result<()> {
    let path = of("custom.metrics.k8s.io/v1beta2", "pods/*/jobs_in_flight");
    let are_thirty = |_: u16, list: &Value| {
        let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
        items.len() == 2 && items.iter().all(|it| it["value"] == "30")
    };
    client.until("the pods' jobs are known", &path, are_thirty).await?;
    let metric = json!({"type": "Pods", "pods": {"metric": {"name": "jobs_in_flight"},
        "target": {"type": "AverageValue", "averageValue": "15"}}});
    client
        .create(&of("autoscaling/v2", "horizontalpodautoscalers"), &autoscaler("web", &metric))
        .await?;
    has_replicas(client, "web", 4).await
}

async fn has_replicas(client: &Client, name: &str, replicas: u64) -> Result<()> {
    let what = format!("{name} has {replicas} replicas");
    let path = of("apps/v1", &format!("deployments/{name}"));
    let is_so = |_: u16, it: &Value| it["status"]["replicas"] == replicas;
    client.until(&what, &path, is_so).await.map(drop)
}

/// The names of the running pods of a Deployment, once there are as many.
async fn pods_of(client: &Client, name: &str, count: usize) -> Result<Vec<String>> {
    let path = format!("/api/v1/namespaces/{SHOP}/pods?labelSelector=app={name}");
    let running = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
        let running = items.iter().filter(|it| it["status"]["phase"] == "Running");
        running.filter_map(|it| it["metadata"]["name"].as_str().map(str::to_owned)).collect()
    };
    let what = format!("{count} pods of {name} run");
    let (_, list) = client.until(&what, &path, |_, list| running(list).len() == count).await?;
    Ok(running(&list))
}

/// Waits until Prometheus answers a query with something.
async fn knows(client: &Client, port: u16, query: &str) -> Result<()> {
    let begun = Instant::now();
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let url = format!("http://127.0.0.1:{port}/api/v1/query?query={encoded}");
    loop {
        let answer = client.text(&url).await;
        if let Ok(text) = &answer {
            let answer: Value = serde_json::from_str(text)?;
            if answer["data"]["result"].as_array().is_some_and(|it| !it.is_empty()) {
                return Ok(());
            }
        }
        ensure!(begun.elapsed() < PATIENCE, "Prometheus does not know {query}: {answer:?}");
        sleep(PAUSE).await;
    }
}

/// Prometheus took every sample that it was told, and no target that is up was misunderstood.
async fn no_scrape_was_refused(client: &Client, port: u16) -> Result<()> {
    let own = client.text(&format!("http://127.0.0.1:{port}/metrics")).await?;
    for name in ["duplicate_timestamp", "out_of_bounds", "out_of_order"] {
        let line = format!("prometheus_target_scrapes_sample_{name}_total 0");
        ensure!(own.lines().any(|it| it == line), "{name}: Prometheus refused samples");
    }
    let targets = client.text(&format!("http://127.0.0.1:{port}/api/v1/targets")).await?;
    let targets: Value = serde_json::from_str(&targets)?;
    for target in targets["data"]["activeTargets"].as_array().context("no targets")? {
        ensure!(target["lastError"] == "", "{}: {}", target["scrapeUrl"], target["lastError"]);
    }
    Ok(())
}

/// Lets promtool look at what is told at a URL; how many metrics it saw.
async fn check(options: &Options, client: &Client, url: &str) -> Result<usize> {
    let text = client.text(url).await?;
    let mut promtool = Command::new(options.prometheus.join("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("could not start promtool")?;
    let mut input = promtool.stdin.take().context("promtool takes nothing")?;
    input.write_all(text.as_bytes()).await?;
    drop(input);
    let output = promtool.wait_with_output().await?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let wrong = said.lines().filter(|line| !KNOWN.iter().any(|it| line.starts_with(it)));
    let wrong: Vec<&str> = wrong.collect();
    ensure!(wrong.is_empty(), "promtool says of {url}: {}", wrong.join("\n"));
    let metrics = text.lines().filter(|it| it.starts_with("# TYPE ")).count();
    ensure!(metrics > 0, "{url} tells nothing");
    Ok(metrics)
}
