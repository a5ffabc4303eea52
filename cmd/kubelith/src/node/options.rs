//! Flags of a node, whether it runs in the server's process or alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use runtime::Registries;
use sha2::{Digest, Sha256};
use sys::netlink::{Netns, Rtnetlink};

/// Where sockets and pinned namespaces lie for the default data directory.
const STATE_DIR: &str = "/run/kubelith";
/// The control group of all pods, below the root that is given.
pub(crate) const PODS_CGROUP: &str = "/kubepods";
/// The default data directory.
pub(crate) const DATA_DIR: &str = "/var/lib/kubelith";

/// Flags of a node.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "node")]
#[command(next_help_heading = "Node")]
pub(crate) struct Options {
    /// Name of the node (default: the host's)
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub(crate) node_name: Option<String>,
    /// Addresses of the node (default: that of the default route)
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    pub(crate) node_ip: Vec<IpAddr>,
    /// Labels of the node
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) node_labels: Vec<(String, String)>,
    /// Addresses of all pods
    #[arg(long, default_value = "10.42.0.0/16", value_delimiter = ',', value_name = "CIDR")]
    pub(crate) cluster_cidr: Vec<IpNet>,
    /// Addresses of services
    #[arg(
        long,
        default_value = "10.96.0.0/12",
        value_delimiter = ',',
        value_name = "CIDR",
        visible_alias = "service-cluster-ip-range"
    )]
    pub(crate) service_cidr: Vec<IpNet>,
    /// The cluster's DNS servers (default: the tenth address of the first range of services)
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    pub(crate) cluster_dns: Vec<IpAddr>,
    /// The cluster's domain
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub(crate) cluster_domain: String,
    /// The node's resolver configuration
    #[arg(long, default_value = "/etc/resolv.conf", value_name = "FILE")]
    pub(crate) resolv_conf: PathBuf,
    /// Mirrors, credentials and trust of image registries, in the shape of k3s' registries.yaml
    #[arg(long, value_name = "FILE")]
    registries: Option<PathBuf>,
    /// Where sockets and pinned namespaces lie (default: a directory of its own below /run)
    #[arg(long, value_name = "DIR", value_parser = crate::data_dir::place)]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) kubelet: Kubelet,
    #[command(flatten)]
    pub(crate) proxy: Proxy,
}

/// Upstream's flags of the node agent.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "kubelet")]
#[command(next_help_heading = "kubelet")]
pub(crate) struct Kubelet {
    /// The most pods on the node
    #[arg(long, default_value_t = 110, value_name = "N", allow_negative_numbers = true)]
    max_pods: u32,
    /// The most processes of a pod; -1 is no limit
    #[arg(long, default_value_t = -1, value_name = "N", allow_negative_numbers = true)]
    pod_max_pids: i64,
    /// Port of the node agent's server
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    pub(crate) port: u16,
    /// The control group that pods' groups are made in; made where it is missing
    #[arg(long, default_value = "/", value_name = "GROUP")]
    cgroup_root: String,
    /// Kept from pods for the system: cpu=200m,memory=150Mi
    #[arg(long, value_name = "AMOUNTS", value_delimiter = ',')]
    system_reserved: Vec<String>,
    /// Kept from pods for Kubernetes: cpu=200m,memory=150Mi
    #[arg(long, value_name = "AMOUNTS", value_delimiter = ',')]
    kube_reserved: Vec<String>,
    /// Below which pods are evicted
    #[arg(
        long,
        default_value = "memory.available<100Mi,nodefs.available<10%",
        value_name = "THRESHOLDS",
        value_delimiter = ','
    )]
    eviction_hard: Vec<String>,
    /// Size of a container's log above which it is rotated
    #[arg(long, default_value = "10Mi", value_name = "SIZE")]
    container_log_max_size: String,
    /// The most files of a container's log; at least 2
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    container_log_max_files: u32,
    /// Unused images are removed when more of the disk than this is used, in per cent
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(i64).range(0..=100))]
    image_gc_high_threshold: i64,
    /// Until no more than this is used
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(i64).range(0..=100))]
    image_gc_low_threshold: i64,
    /// Kernel parameters besides the safe ones that pods may set: names, or beginnings such as net.*
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = sysctl)]
    allowed_unsafe_sysctls: Vec<String>,
    /// Directory of pods that run without the API server's word
    #[arg(long, value_name = "DIR")]
    pod_manifest_path: Option<PathBuf>,
}

/// Upstream's flags of the service proxy.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "proxy")]
#[command(next_help_heading = "kube-proxy")]
pub(crate) struct Proxy {
    /// Masquerade everything that is sent to services
    #[arg(long)]
    pub(crate) masquerade_all: bool,
    /// The bit of the packet mark that stands for masquerade
    #[arg(long, default_value_t = proxy::Config::MASQUERADE_BIT, value_name = "BIT", value_parser = clap::value_parser!(u8).range(0..32))]
    pub(crate) iptables_masquerade_bit: u8,
    /// Addresses that node ports are served on (default: every one of the node)
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    pub(crate) nodeport_addresses: Vec<IpAddr>,
}

/// Upstream's rule: names are in small letters, whatever is given.
fn node_name(text: &str) -> Result<String, String> {
    let name = text.trim().to_lowercase();
    kubelet::check_node_name(&name).map(|()| name)
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    kubelet::check_node_label(pair.0, pair.1)?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

fn sysctl(text: &str) -> Result<String, String> {
    kubelet::check_sysctl_pattern(text).map(|()| text.to_owned())
}

impl Options {
    /// The node's name: upstream's rule is the host's name in small letters.
    pub(crate) fn name(&self) -> String {
        let host = || rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        self.node_name.clone().unwrap_or_else(host)
    }

    /// The node's addresses.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        if self.node_ip.is_empty() {
            vec![crate::access::own_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))]
        } else {
            self.node_ip.clone()
        }
    }

    /// The cluster's DNS servers.
    pub(crate) fn dns(&self) -> Vec<IpAddr> {
        const TENTH: u32 = 10;
        match (self.cluster_dns.as_slice(), self.service_cidr.first()) {
            ([], Some(IpNet::V4(it))) => {
                vec![IpAddr::V4(Ipv4Addr::from_bits(it.network().to_bits().saturating_add(TENTH)))]
            }
            ([], Some(IpNet::V6(it))) => {
                vec![IpAddr::V6((it.network().to_bits().saturating_add(u128::from(TENTH))).into())]
            }
            (given, _) => given.to_vec(),
        }
    }

    /// Where sockets and pinned namespaces lie.
    pub(crate) fn state_dir(&self, data_dir: &Path) -> PathBuf {
        Self::state_dir_of(self.state_dir.as_deref(), data_dir)
    }

    /// [`Self::state_dir`] for commands: two data directories never share one.
    pub(crate) fn state_dir_of(given: Option<&Path>, data_dir: &Path) -> PathBuf {
        if let Some(dir) = given {
            return dir.to_owned();
        }
        if data_dir == Path::new(DATA_DIR) {
            return PathBuf::from(STATE_DIR);
        }
        let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
        PathBuf::from(format!("{STATE_DIR}-{}", hex::encode(&digest[..4])))
    }

    /// What cannot be, before anything is begun.
    pub(crate) fn check(&self, data_dir: &Path) -> Result<()> {
        self.kubelet_config(data_dir)?;
        self.registries().map(drop)
    }

    /// That what is said of this machine is so (upstream refuses the same).
    fn check_machine(&self) -> Result<()> {
        let root = &self.kubelet.cgroup_root;
        if !root.starts_with('/') || root.split('/').any(|it| it == "..") {
            bail!("--cgroup-root {root:?}: it must be the path of a control group, such as /pods");
        }
        let own = Rtnetlink::open(&Netns::own()).and_then(|mut it| it.addresses());
        let own = own.context("could not list this machine's addresses")?;
        match self.node_ip.iter().find(|it| own.iter().all(|own| own.net.addr() != **it)) {
            Some(ip) => bail!("--node-ip {ip} is no address of this machine's network interfaces"),
            None => Ok(()),
        }
    }

    /// The control group of all pods.
    pub(crate) fn pods_cgroup(&self) -> String {
        format!("{}{PODS_CGROUP}", self.kubelet.cgroup_root.trim_end_matches('/'))
    }

    /// The configuration of registries.
    pub(crate) fn registries(&self) -> Result<Registries> {
        let Some(path) = &self.registries else { return Ok(Registries::default()) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("could not read {}", path.display()))?;
        Registries::parse(&text).with_context(|| format!("{}", path.display()))
    }

    /// What the node agent is told.
    pub(crate) fn kubelet_config(&self, data_dir: &Path) -> Result<kubelet::Config> {
        let own = &self.kubelet;
        // One that was given is good by now.
        kubelet::check_node_name(&self.name())
            .map_err(anyhow::Error::msg)
            .context("the host's name is no name of a node: give --node-name")?;
        let mut config = kubelet::Config {
            node_ips: self.addresses(),
            labels: self.node_labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            cluster_dns: self.dns(),
            cluster_domain: self.cluster_domain.clone(),
            resolv_conf: Some(self.resolv_conf.clone()),
            max_pods: own.max_pods,
            pod_pids_limit: own.pod_max_pids.max(0),
            port: own.port,
            container_log_max_bytes: log_size(&own.container_log_max_size)?,
            container_log_max_files: usize::try_from(own.container_log_max_files)?,
            image_gc_high_percent: own.image_gc_high_threshold,
            image_gc_low_percent: own.image_gc_low_threshold,
            static_pods: own.pod_manifest_path.clone(),
            allowed_unsafe_sysctls: own.allowed_unsafe_sysctls.clone(),
            cgroup_root: self.pods_cgroup(),
            version: crate::VERSION.into(),
            ..kubelet::Config::new(&self.name(), &data_dir.join("agent"))
        };
        self.check_machine()?;
        if config.image_gc_low_percent >= config.image_gc_high_percent
            && config.image_gc_high_percent < 100
        {
            bail!("--image-gc-low-threshold must be below --image-gc-high-threshold");
        }
        for amount in own.system_reserved.iter().chain(&own.kube_reserved) {
            reserve(&mut config.reserved, amount)
                .with_context(|| format!("reserved {amount:?}"))?;
        }
        // What is given stands in place of all defaults (upstream: the same).
        (config.eviction_memory_bytes, config.eviction_disk_percent) = (0, 0);
        for threshold in own.eviction_hard.iter().filter(|it| !it.is_empty()) {
            evict(&mut config, threshold)
                .with_context(|| format!("--eviction-hard {threshold:?}"))?;
        }
        Ok(config)
    }
}

fn quantity(text: &str) -> Result<apimachinery::quantity::Quantity> {
    apimachinery::quantity::Quantity::parse(text)
        .with_context(|| format!("{text:?} is no quantity"))
}

fn log_size(text: &str) -> Result<u64> {
    let size = quantity(text).context("--container-log-max-size")?.value();
    let size = u64::try_from(size).ok().filter(|it| *it > 0);
    size.with_context(|| format!("--container-log-max-size {text} is not above zero"))
}

fn reserve(reserved: &mut BTreeMap<String, i64>, text: &str) -> Result<()> {
    let (name, amount) = text.split_once('=').context("it is not NAME=QUANTITY")?;
    let amount = quantity(amount)?;
    let amount = match name {
        "cpu" => amount.milli_value(),
        "memory" | "ephemeral-storage" => amount.value(),
        _ => bail!("{name} cannot be reserved; cpu, memory and ephemeral-storage can"),
    };
    *reserved.entry(name.to_owned()).or_default() += amount;
    Ok(())
}

fn evict(config: &mut kubelet::Config, text: &str) -> Result<()> {
    let (signal, limit) = text.split_once('<').context("it is not SIGNAL<LIMIT")?;
    match signal {
        "memory.available" => config.eviction_memory_bytes = quantity(limit)?.value(),
        "nodefs.available" => {
            let percent = limit.strip_suffix('%').context("its limit must be in per cent")?;
            config.eviction_disk_percent = percent.parse().context("its limit is no number")?;
        }
        _ => bail!("the signals are memory.available and nodefs.available"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        node: Options,
    }

    fn parse(flag: &str) -> Result<Options, String> {
        let parsed = Command::try_parse_from(["kubelith", flag]);
        parsed.map(|it| it.node).map_err(|it| it.to_string())
    }

    #[test]
    fn what_the_server_would_refuse_for_good_is_refused_at_once() {
        assert_eq!(parse("--node-name= Node-1 ").unwrap().name(), "node-1");
        for (flag, expected) in [
            ("--node-name=Bad_Name!", "a lowercase RFC 1123 subdomain must consist of"),
            (
                "--node-labels=a=b,kubernetes.io/foo=x",
                "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: \
                 [kubernetes.io/foo]",
            ),
            ("--node-labels=a", "\"a\" is not KEY=VALUE"),
            ("--allowed-unsafe-sysctls=vm.swappiness", "are not known to be namespaced"),
        ] {
            let error = parse(flag).unwrap_err();
            assert!(error.contains(expected), "{flag}: {error}");
        }
    }

    #[test]
    fn the_agent_is_told_which_sysctls_are_allowed() {
        let options = parse("--allowed-unsafe-sysctls=kernel.msg*,net.core.somaxconn").unwrap();
        let config = options.kubelet_config(Path::new("/d")).unwrap();
        assert_eq!(config.allowed_unsafe_sysctls, ["kernel.msg*", "net.core.somaxconn"]);
    }
}
