//! The cluster under test: the binary as a server on the first node, and what stands outside of the cluster: a registry
//! of images, a name server, a web server.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::Options;
use crate::kubectl::Kubectl;
use crate::lab::{Lab, Machine, WORLD};
use crate::process::{Background, command, run};

/// Names of the nodes: two of them are named in the corpus.
pub(crate) const NODES: [&str; 3] = ["kube-01", "k8s03", "node-c"];
/// The administrator's token, for programs that have no certificate.
pub(crate) const ADMIN_TOKEN: &str = "token-admin";
/// Addresses of pods, as the recordings have them, and of services.
const PODS: &str = "10.99.0.0/16";
const SERVICES: &str = "10.96.0.0/16";
/// What the corpus selects nodes by.
const LABELS: &str = "--node-labels=eks.amazonaws.com/nodegroup=common";
/// How long the certificates of nodes that join are good: so short that they are renewed while tests run.
const SIGNED_FOR: &str = "40s";
/// The port of the registry.
const REGISTRY_PORT: u16 = 5000;
/// A name that the corpus asks for, answered by our web server.
const FAR_SITE: &str = "info.cern.ch";
/// Registries that the mirror stands in for.
const MIRRORED: [&str; 4] = ["docker.io", "registry.k8s.io", "gcr.io", "quay.io"];

/// A running cluster; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Cluster<'a> {
    lab: &'a Lab,
    options: &'a Options,
    pub(crate) kubectl: Kubectl,
    /// The first node's address.
    pub(crate) address: Ipv4Addr,
    running: Mutex<Vec<Background>>,
}

impl<'a> Cluster<'a> {
    pub(crate) fn start(options: &'a Options, lab: &'a Lab) -> Result<Self> {
        let mut running = vec![registry(options, lab)?];
        running.extend(outside(options, lab)?);
        let (first, name) = (lab.machines().first().context("there is a first node")?, NODES[0]);
        let kubeconfig = lab.path("kubeconfig");
        write_tokens(lab)?;
        running.push(server(options, lab, first, name, &kubeconfig)?);
        let cluster = Self {
            lab,
            options,
            kubectl: Kubectl {
                program: options.kubectl.clone(),
                server: format!("https://{}:6443", first.address),
                world: lab.world_namespace(),
                kubeconfig,
                home: lab.path("home"),
            },
            address: first.address.parse()?,
            running: Mutex::new(running),
        };
        fs::create_dir(&cluster.kubectl.home)?;
        cluster.wait_for_node(name)?;
        Ok(cluster)
    }

    fn wait_for_node(&self, name: &str) -> Result<()> {
        for state in ["--for=create", "--for=condition=Ready"] {
            let wait = ["wait", &format!("node/{name}"), state, "--timeout=60s"];
            self.kubectl.run(&wait).with_context(|| format!("node {name} is not ready"))?;
        }
        Ok(())
    }

    /// Where the manifests are.
    pub(crate) fn corpus(&self) -> &Path {
        &self.options.corpus
    }

    /// A program of another age: `kubectl-1.22/kubectl`.
    pub(crate) fn client(&self, path: &str) -> PathBuf {
        self.options.clients.join(path)
    }

    /// Lets all other nodes join, by the token that the server wrote.
    pub(crate) fn join(&self) -> Result<()> {
        let machines = self.lab.machines();
        let first = machines.first().context("there is a first node")?;
        let token = fs::read_to_string(first.directory.join("data/node-token"))
            .context("the server wrote no token for nodes")?;
        for (machine, name) in machines.iter().zip(NODES).skip(1) {
            let mut agent = machine.inside(&self.options.kubelith);
            agent
                .args(["agent", LABELS, &format!("--server={}", self.kubectl.server)])
                .arg(format!("--token={}", token.trim()))
                .args(node_flags(self.lab, machine, name));
            let log = self.lab.path(&format!("{name}.log"));
            let agent = Background::start(&agent, &log)?;
            self.running.lock().unwrap_or_else(PoisonError::into_inner).push(agent);
            self.wait_for_node(name)?;
        }
        Ok(())
    }

    /// A program outside of the cluster.
    pub(crate) fn outside(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let net = format!("--net=/run/netns/{}", self.lab.world_namespace());
        run(&mut command("nsenter", &[[net.as_str(), program].as_slice(), arguments].concat()))
    }
}

fn registry(options: &Options, lab: &Lab) -> Result<Background> {
    let config = lab.path("registry.yaml");
    fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}, maintenance: {{readonly: {{enabled: true}}}}}}\n\
             http: {{addr: '{WORLD}:{REGISTRY_PORT}'}}\n",
            options.registry_root.display()
        ),
    )?;
    let mirrors: String = MIRRORED
        .iter()
        .map(|it| format!("  {it}:\n    endpoint: ['http://{WORLD}:{REGISTRY_PORT}']\n"))
        .collect();
    fs::write(lab.path("registries.yaml"), format!("mirrors:\n{mirrors}"))?;
    let mut serve = lab.outside(Path::new("docker-registry"));
    serve.arg("serve").arg(&config);
    Background::start(&serve, &lab.path("registry.log"))
}

/// A name server and a web server.
fn outside(options: &Options, lab: &Lab) -> Result<Vec<Background>> {
    fs::write(lab.path("resolv.conf"), format!("nameserver {WORLD}\n"))?;
    let mut resolver = lab.outside(&options.program);
    resolver.args(["resolver", "--address", WORLD, "--answer", &format!("{FAR_SITE}={WORLD}")]);
    let mut web = lab.outside(&options.program);
    web.args(["netexec", "--http-port=80"]);
    Ok(vec![
        Background::start(&resolver, &lab.path("resolver.log"))?,
        Background::start(&web, &lab.path("web.log"))?,
    ])
}

/// Who comes without a certificate.
fn write_tokens(lab: &Lab) -> Result<()> {
    Ok(fs::write(lab.path("tokens"), format!("{ADMIN_TOKEN},admin,admin,system:masters\n"))?)
}

fn node_flags(lab: &Lab, machine: &Machine, name: &str) -> Vec<String> {
    let path = |it: &str| machine.directory.join(it).to_string_lossy().into_owned();
    let shared = |it: &str| lab.path(it).to_string_lossy().into_owned();
    vec![
        format!("--data-dir={}", path("data")),
        format!("--state-dir={}", path("run")),
        format!("--node-name={name}"),
        format!("--node-ip={}", machine.address),
        format!("--registries={}", shared("registries.yaml")),
        format!("--resolv-conf={}", shared("resolv.conf")),
        format!("--cgroup-root={}", lab.cgroup()),
        // Memory and disk are the machine's: how full they are must not decide what a test shows.
        "--eviction-hard=memory.available<0,nodefs.available<0%".to_owned(),
        format!("--cluster-cidr={PODS}"),
        format!("--service-cidr={SERVICES}"),
    ]
}

fn server(
    options: &Options,
    lab: &Lab,
    machine: &Machine,
    name: &str,
    kubeconfig: &Path,
) -> Result<Background> {
    if let Some(image) = options.recorded.image() {
        let place = machine.directory.join("data/images");
        fs::create_dir_all(&place)?;
        fs::copy(image, place.join("recorded.tar")).context("the recorded image")?;
    }
    let mut server = machine.inside(&options.kubelith);
    server
        .args(["server", LABELS])
        .args(node_flags(lab, machine, name))
        .arg(format!("--advertise-address={}", machine.address))
        .arg(format!("--kube-controller-manager-arg=cluster-signing-duration={SIGNED_FOR}"))
        // So that autoscaling is seen within the patience of a test.
        .args(["--metrics-resolution=5s", "--horizontal-pod-autoscaler-sync-period=5s"])
        .args([
            "--horizontal-pod-autoscaler-initial-readiness-delay=1s",
            "--horizontal-pod-autoscaler-cpu-initialization-period=5s",
        ])
        .arg(format!("--token-auth-file={}", lab.path("tokens").display()))
        .arg(format!("--write-kubeconfig={}", kubeconfig.display()));
    let mut server = Background::start(&server, &lab.path("server.log"))?;
    server
        .until("has written its kubeconfig", || kubeconfig.exists().then_some(()))
        .with_context(|| fs::read_to_string(lab.path("server.log")).unwrap_or_default())?;
    Ok(server)
}
