//! What the runtime is told of a pod's sandbox and of one container. Pure.

use std::collections::BTreeMap;

use cri::{
    Capabilities, ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerResources,
    LinuxContainerSecurityContext, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, ProfileType, Protocol, SecurityProfile,
    SupplementalGroupsPolicy,
};
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};

use super::containers::hash;
use super::observed::marks;
use crate::config::Config;
use crate::expand::expand;
use crate::hosts::{self, DnsFacts};
use crate::resources::{self, QosClass};
use crate::spec::{self, ContainerKind};

/// The group of a pod: `/kubepods/burstable/podUID`.
pub(crate) fn cgroup_of(config: &Config, pod: &Pod) -> String {
    let class = match resources::qos_class(pod) {
        QosClass::Guaranteed => "",
        QosClass::Burstable => "/burstable",
        QosClass::BestEffort => "/besteffort",
    };
    format!("{}{class}/pod{}", config.cgroup_root, spec::uid(pod))
}

fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    [
        (marks::POD_NAME.to_owned(), spec::name(pod).to_owned()),
        (marks::POD_NAMESPACE.to_owned(), spec::namespace(pod).to_owned()),
        (marks::POD_UID.to_owned(), spec::uid(pod).to_owned()),
    ]
    .into()
}

fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = spec::spec(pod);
    let node_if = |it: Option<bool>| {
        if it == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod }
    };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => NamespaceMode::Node,
        (_, Some(true)) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    NamespaceOption {
        network: node_if(spec.host_network),
        ipc: node_if(spec.host_ipc),
        pid,
        ..NamespaceOption::default()
    }
}

/// The sandbox. `node_resolv_conf` is the text of the node's own file.
pub(crate) fn sandbox(
    config: &Config,
    pod: &Pod,
    attempt: u32,
    node_resolv_conf: &str,
) -> PodSandboxConfig {
    let facts = DnsFacts {
        cluster_dns: &config.cluster_dns,
        cluster_domain: &config.cluster_domain,
        node: node_resolv_conf,
    };
    let (hostname, domain) = hosts::names(pod, &config.cluster_domain);
    let whole = match domain {
        Some(domain) if spec::spec(pod).set_hostname_as_fqdn == Some(true) => {
            format!("{hostname}.{domain}")
        }
        _ => hostname,
    };
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(pod_labels(pod));
    let mut it = PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: spec::name(pod).to_owned(),
            uid: spec::uid(pod).to_owned(),
            namespace: spec::namespace(pod).to_owned(),
            attempt,
        },
        hostname: if spec::is_host_network(pod) { String::new() } else { whole },
        log_directory: config
            .pod_log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod))
            .display()
            .to_string(),
        dns_config: Some(hosts::dns(pod, facts)),
        port_mappings: port_mappings(pod),
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        ..PodSandboxConfig::default()
    };
    it.linux.cgroup_parent = cgroup_of(config, pod);
    let context = &mut it.linux.security_context;
    context.namespace_options = namespaces(pod);
    context.seccomp.profile_type = ProfileType::RuntimeDefault;
    let own = spec::spec(pod).security_context.as_ref();
    context.run_as_user = own.and_then(|it| it.run_as_user);
    context.run_as_group =
        own.and_then(|it| it.run_as_group).filter(|_| context.run_as_user.is_some());
    context.supplemental_groups = groups(pod);
    context.privileged = spec::all_containers(pod)
        .iter()
        .any(|(_, it)| it.security_context.as_ref().and_then(|it| it.privileged) == Some(true));
    let sysctls = own.and_then(|it| it.sysctls.as_ref()).into_iter().flatten();
    it.linux.sysctls = sysctls.map(|it| (it.name.clone(), it.value.clone())).collect();
    it
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let number = |port: i32| u16::try_from(port).unwrap_or_default();
    let all = spec::ports(pod).map(|it| PortMapping {
        protocol: match it.protocol.as_deref() {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        container_port: number(it.container_port),
        host_port: it.host_port.map_or(0, number),
        host_ip: it.host_ip.clone().unwrap_or_default(),
    });
    if spec::is_host_network(pod) {
        Vec::new()
    } else {
        all.filter(|it| it.host_port != 0).collect()
    }
}

fn groups(pod: &Pod) -> Vec<i64> {
    let own = spec::spec(pod).security_context.as_ref();
    let more = own.and_then(|it| it.supplemental_groups.clone()).unwrap_or_default();
    own.and_then(|it| it.fs_group).into_iter().chain(more).collect()
}

/// What of the node and the image a container's configuration is made from.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) image: &'a cri::Image,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) restart_count: i32,
    /// Where the termination message is written on the node.
    pub(crate) message_file: String,
    pub(crate) node_memory: i64,
    /// The id of the container whose processes an ephemeral container sees.
    pub(crate) target_id: Option<String>,
}

/// A container.
///
/// # Errors
/// When it would run as root and must not.
pub(crate) fn container(
    pod: &Pod,
    kind: ContainerKind,
    container: &Container,
    parts: Parts<'_>,
) -> Result<ContainerConfig, String> {
    check_user(pod, container, parts.image)?;
    let lookup =
        |name: &str| parts.environment.iter().find(|it| it.0 == name).map(|it| it.1.clone());
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|it| expand(it, lookup)).collect()
    };
    let mut labels = pod_labels(pod);
    labels.insert(marks::CONTAINER_NAME.into(), container.name.clone());
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let annotations = [
        (marks::HASH, hash(container)),
        (marks::RESTART_COUNT, parts.restart_count.to_string()),
        (marks::MESSAGE_PATH, path.to_owned()),
        (marks::MESSAGE_POLICY, policy.to_owned()),
        (marks::GRACE_PERIOD, spec::grace_period_seconds(pod).to_string()),
        (marks::MESSAGE_FILE, parts.message_file.clone()),
    ];
    let attempt = u32::try_from(parts.restart_count).unwrap_or_default();
    let mut it = ContainerConfig {
        metadata: ContainerMetadata { name: container.name.clone(), attempt },
        image: ImageSpec {
            image: parts.image.id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        },
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        log_path: format!("{}/{attempt}.log", container.name),
        stdin: container.stdin.unwrap_or_default(),
        stdin_once: container.stdin_once.unwrap_or_default(),
        tty: container.tty.unwrap_or_default(),
        annotations: annotations.map(|(k, v)| (k.to_owned(), v)).into(),
        labels,
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|it| it.stop_signal.clone())
            .unwrap_or_default(),
        ..ContainerConfig::default()
    };
    it.linux.resources = container_resources(pod, container, parts.node_memory);
    it.linux.security_context = security(pod, kind, container, parts.target_id);
    it.envs = parts.environment;
    it.mounts = parts.mounts;
    Ok(it)
}

fn check_user(pod: &Pod, container: &Container, image: &cri::Image) -> Result<(), String> {
    let own = container.security_context.as_ref();
    let of_pod = spec::spec(pod).security_context.as_ref();
    let non_root =
        own.and_then(|it| it.run_as_non_root).or(of_pod.and_then(|it| it.run_as_non_root));
    if non_root != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: {:?}, container: {})", spec::full_name(pod), container.name);
    let user = own.and_then(|it| it.run_as_user).or(of_pod.and_then(|it| it.run_as_user));
    match (user, image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {place}")),
        (Some(_), _) => Ok(()),
        (None, Some(uid)) if uid != 0 => Ok(()),
        (None, None) if !image.username.is_empty() && image.username != "root" => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image.username
        )),
        (None, _) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
    }
}

fn container_resources(
    pod: &Pod,
    container: &Container,
    node_memory: i64,
) -> LinuxContainerResources {
    let (requests, limits) = (resources::requests(container), resources::limits(container));
    let of = |map: &BTreeMap<String, _>, name: &str| {
        map.get(name).map_or(0, |it| resources::amount(name, it))
    };
    let (quota, period) = resources::cpu_quota(of(&limits, "cpu"));
    let hugepages = limits.iter().filter_map(|(name, it)| {
        let size = name.strip_prefix("hugepages-")?;
        let limit = u64::try_from(resources::amount(name, it)).ok()?;
        Some(cri::HugepageLimit {
            page_size: size.replace("Mi", "MB").replace("Gi", "GB").replace("Ki", "KB"),
            limit,
        })
    });
    LinuxContainerResources {
        cpu_period: period,
        cpu_quota: quota,
        cpu_shares: resources::cpu_shares(of(&requests, "cpu")),
        memory_limit_in_bytes: of(&limits, "memory"),
        oom_score_adj: resources::oom_score_adj(pod, container, node_memory),
        hugepage_limits: hugepages.collect(),
        ..LinuxContainerResources::default()
    }
}

fn profile(own: Option<&SeccompProfile>) -> SecurityProfile {
    match own.map(|it| it.type_.as_str()) {
        Some("RuntimeDefault") => SecurityProfile {
            profile_type: ProfileType::RuntimeDefault,
            ..SecurityProfile::default()
        },
        Some("Localhost") => SecurityProfile {
            profile_type: ProfileType::Localhost,
            localhost_ref: own.and_then(|it| it.localhost_profile.clone()).unwrap_or_default(),
        },
        _ => SecurityProfile::default(),
    }
}

fn security(
    pod: &Pod,
    kind: ContainerKind,
    container: &Container,
    target_id: Option<String>,
) -> LinuxContainerSecurityContext {
    let own = container.security_context.clone().unwrap_or_default();
    let of_pod = spec::spec(pod).security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.unwrap_or_default();
    let privileged = own.privileged.unwrap_or_default();
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let list = |paths: &[&str]| -> Vec<String> {
        if unmasked { Vec::new() } else { paths.iter().map(|it| (*it).to_owned()).collect() }
    };
    let mut namespace_options = namespaces(pod);
    if let (ContainerKind::Ephemeral, Some(target)) = (kind, target_id)
        && namespace_options.pid == NamespaceMode::Container
    {
        namespace_options.pid = NamespaceMode::Target;
        namespace_options.target_id = target;
    }
    LinuxContainerSecurityContext {
        capabilities: Capabilities {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        },
        privileged,
        namespace_options,
        run_as_user: own.run_as_user.or(of_pod.run_as_user),
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or_default(),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: match of_pod.supplemental_groups_policy.as_deref() {
            Some("Strict") => SupplementalGroupsPolicy::Strict,
            _ => SupplementalGroupsPolicy::Merge,
        },
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: list(&cri::security::DEFAULT_MASKED_PATHS),
        readonly_paths: list(&cri::security::DEFAULT_READONLY_PATHS),
        seccomp: profile(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref())),
        ..LinuxContainerSecurityContext::default()
    }
}
