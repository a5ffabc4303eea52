//! From a container's configuration to what a shim starts: defaults, environment, mounts, devices, limits.
//!
//! Decides only; reads the host where the host is what is asked about (devices, seccomp profiles).

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cri::{
    ContainerConfig, CriError, ImageConfig, LinuxContainerResources, MountPropagation,
    NamespaceMode, ProfileType,
};
use sys::cgroup::{DeviceRule, Hierarchies, Limits, Version};
use sys::mount::{NODEV, NOEXEC, NOSUID, STRICTATIME};

use super::capabilities;
use crate::seccomp;
use crate::spec::{
    CgroupSpec, DeviceNode, LaunchSpec, MountSource, MountSpec, ProcessSpec, Propagation, RootSpec,
    UserSpec,
};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Device files that a privileged container gets: more than any node has.
const MAX_HOST_DEVICES: usize = 4096;

/// What a container is built from.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) id: &'a str,
    pub(super) config: &'a ContainerConfig,
    pub(super) image: &'a ImageConfig,
    pub(super) root: RootSpec,
    pub(super) cgroup: String,
    pub(super) hierarchies: &'a Hierarchies,
    /// `/etc/hostname`'s content is here, and `/etc/resolv.conf`'s.
    pub(super) sandbox_dir: &'a Path,
    pub(super) shm: PathBuf,
    pub(super) hostname: &'a str,
    /// Capabilities that the node has.
    pub(super) available: u64,
    /// The layers of image volumes, by mount point.
    pub(super) volumes: Vec<(String, Vec<String>)>,
}

/// The whole specification.
///
/// # Errors
/// When something is asked that cannot be, or is not supported.
pub(super) fn launch_spec(parts: &Parts<'_>) -> Result<LaunchSpec, CriError> {
    let security = &parts.config.linux.security_context;
    refuse_unsupported(parts.config)?;
    let process = process(parts)?;
    let mut devices = if security.privileged { host_devices() } else { standard_devices() };
    let mut rules = default_rules();
    for device in &parts.config.devices {
        let (node, rule) = configured_device(device)?;
        devices.push(node);
        rules.push(rule);
    }
    let mut limits = limits(&parts.config.linux.resources);
    limits.oom_group = parts.hierarchies.version == Version::V2;
    limits.devices = (!security.privileged).then_some(rules);
    let paths = |list: &[String]| if security.privileged { Vec::new() } else { list.to_vec() };
    Ok(LaunchSpec {
        id: parts.id.to_owned(),
        root: RootSpec { readonly: security.readonly_rootfs, ..parts.root.clone() },
        mounts: mounts(parts)?,
        devices,
        masked_paths: paths(&security.masked_paths),
        readonly_paths: paths(&security.readonly_paths),
        cgroup: CgroupSpec {
            hierarchies: parts.hierarchies.clone(),
            path: parts.cgroup.clone(),
            limits,
            writable: security.privileged,
        },
        process,
    })
}

/// Nothing is accepted and ignored.
fn refuse_unsupported(config: &ContainerConfig) -> Result<(), CriError> {
    let security = &config.linux.security_context;
    if security.selinux_options.as_ref().is_some_and(|o| *o != cri::SelinuxOption::default()) {
        return Err(CriError::unimplemented("SELinux options are not supported"));
    }
    if security.apparmor.profile_type == ProfileType::Localhost {
        return Err(CriError::unimplemented("apparmor is not supported"));
    }
    if security.namespace_options.userns_options.is_some() {
        return Err(CriError::unimplemented("user namespaces are not supported"));
    }
    Ok(())
}

fn process(parts: &Parts<'_>) -> Result<ProcessSpec, CriError> {
    let (config, image) = (parts.config, parts.image);
    let security = &config.linux.security_context;
    let capabilities =
        capabilities::resolve(&security.capabilities, security.privileged, parts.available)
            .map_err(CriError::invalid)?;
    let ambient =
        capabilities::ambient(&security.capabilities).map_err(CriError::invalid)? & capabilities;
    let cwd = [&config.working_dir, &image.working_dir].into_iter().find(|d| !d.is_empty());
    Ok(ProcessSpec {
        args: command(config, image)?,
        env: environment(config, image, parts.hostname),
        cwd: cwd.map_or("/", |d| d).to_owned(),
        user: user(config, image)?,
        capabilities,
        ambient,
        no_new_privs: security.no_new_privs,
        seccomp: seccomp_filters(config, capabilities)?,
        tty: config.tty,
        oom_score_adj: i32::try_from(config.linux.resources.oom_score_adj).ok(),
    })
}

fn command(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, CriError> {
    let (program, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let all: Vec<String> = program.iter().chain(args).cloned().collect();
    if all.is_empty() {
        return Err(CriError::unknown("no command specified"));
    }
    Ok(all)
}

fn environment(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut put = |name: &str, value: &str| match env.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => value.clone_into(old),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    put("PATH", DEFAULT_PATH);
    put("HOSTNAME", hostname);
    if config.tty {
        put("TERM", "xterm");
    }
    for pair in &image.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        put(name, value);
    }
    for (name, value) in &config.envs {
        put(name, value);
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn user(config: &ContainerConfig, image: &ImageConfig) -> Result<UserSpec, CriError> {
    let security = &config.linux.security_context;
    let id = |id: i64| {
        u32::try_from(id).map_err(|_| CriError::invalid(format!("id {id} is out of range")))
    };
    let (mut user, mut group) = match image.user.split_once(':') {
        Some((user, group)) => (user.to_owned(), group.to_owned()),
        None => (image.user.clone(), String::new()),
    };
    if let Some(uid) = security.run_as_user {
        (user, group) = (id(uid)?.to_string(), String::new());
    } else if !security.run_as_username.is_empty() {
        (user, group) = (security.run_as_username.clone(), String::new());
    }
    if let Some(gid) = security.run_as_group {
        if security.run_as_user.is_none() && security.run_as_username.is_empty() {
            let text = "runAsGroup is specified without runAsUser or runAsUsername";
            return Err(CriError::invalid(text));
        }
        group = id(gid)?.to_string();
    }
    let supplemental =
        security.supplemental_groups.iter().map(|g| id(*g)).collect::<Result<_, _>>()?;
    let merge_groups = security.supplemental_groups_policy == cri::SupplementalGroupsPolicy::Merge;
    Ok(UserSpec { user, group, supplemental, merge_groups })
}

fn seccomp_filters(config: &ContainerConfig, capabilities: u64) -> Result<Vec<String>, CriError> {
    let security = &config.linux.security_context;
    if security.privileged {
        return Ok(Vec::new());
    }
    match security.seccomp.profile_type {
        ProfileType::Unconfined => Ok(Vec::new()),
        ProfileType::RuntimeDefault => Ok(seccomp::default_filters(capabilities)),
        ProfileType::Localhost => {
            let path = &security.seccomp.localhost_ref;
            let text = fs::read(path).map_err(|e| {
                let reason = crate::launch::program::os_text(&e);
                CriError::unknown(format!("cannot load seccomp profile {path:?}: {reason}"))
            })?;
            seccomp::profile_filters(&text, capabilities).map_err(|e| {
                CriError::unknown(format!("cannot load seccomp profile {path:?}: {e}"))
            })
        }
    }
}

/// As a limit of a cgroup.
pub(super) fn limits(from: &LinuxContainerResources) -> Limits {
    Limits {
        cpu_shares: u64::try_from(from.cpu_shares).unwrap_or(0),
        cpu_quota: from.cpu_quota,
        cpu_period: u64::try_from(from.cpu_period).unwrap_or(0),
        memory: from.memory_limit_in_bytes,
        memory_and_swap: from.memory_swap_limit_in_bytes,
        pids: from.pids_limit,
        cpuset_cpus: from.cpuset_cpus.clone(),
        cpuset_mems: from.cpuset_mems.clone(),
        hugepages: from.hugepage_limits.iter().map(|l| (l.page_size.clone(), l.limit)).collect(),
        unified: from.unified.clone(),
        oom_group: false,
        devices: None,
    }
}

fn new_mount(target: &str, kind: &str, options: &[(&str, &str)], attributes: u64) -> MountSpec {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    MountSpec {
        target: target.into(),
        source: MountSource::New { kind: kind.to_owned(), options },
        readonly: false,
        recursive_readonly: false,
        attributes,
    }
}

fn bind(target: &str, source: impl Into<PathBuf>, readonly: bool) -> MountSpec {
    MountSpec {
        target: target.into(),
        source: MountSource::Bind { path: source.into(), propagation: Propagation::Private },
        readonly,
        recursive_readonly: false,
        attributes: 0,
    }
}

fn mounts(parts: &Parts<'_>) -> Result<Vec<MountSpec>, CriError> {
    let security = &parts.config.linux.security_context;
    let plain = NOSUID | NODEV | NOEXEC;
    let mut sysfs = new_mount("/sys", "sysfs", &[], plain);
    sysfs.readonly = !security.privileged;
    if let (MountSource::New { options, .. }, true) = (&mut sysfs.source, sysfs.readonly) {
        options.push(("ro".into(), String::new()));
    }
    let mut cgroup = new_mount("/sys/fs/cgroup", "cgroup", &[], 0);
    cgroup.source = MountSource::Cgroup;
    let terminals = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let mut all = vec![
        new_mount("/proc", "proc", &[], plain),
        new_mount("/dev", "tmpfs", &[("mode", "755"), ("size", "65536k")], NOSUID | STRICTATIME),
        new_mount("/dev/pts", "devpts", &terminals, NOSUID | NOEXEC),
        new_mount("/dev/mqueue", "mqueue", &[], plain),
        sysfs,
        cgroup,
    ];
    let readonly = security.readonly_rootfs;
    let mut own = Vec::new();
    let given = |path: &str| parts.config.mounts.iter().any(|m| m.container_path == path);
    for (path, file) in [("/etc/hostname", "hostname"), ("/etc/resolv.conf", "resolv.conf")] {
        if !given(path) {
            own.push(bind(path, parts.sandbox_dir.join(file), readonly));
        }
    }
    if !given("/dev/shm") {
        own.push(bind("/dev/shm", &parts.shm, false));
    }
    for mount in &parts.config.mounts {
        own.push(configured_mount(parts, mount)?);
    }
    // A mount point comes before what lies below it.
    own.sort_by_key(|m: &MountSpec| m.target.components().count());
    all.extend(own);
    Ok(all)
}

fn configured_mount(parts: &Parts<'_>, mount: &cri::Mount) -> Result<MountSpec, CriError> {
    let propagation = match mount.propagation {
        MountPropagation::Private => Propagation::Private,
        MountPropagation::HostToContainer => Propagation::FromHost,
        MountPropagation::Bidirectional => Propagation::Both,
    };
    if mount.recursive_read_only && !(mount.readonly && propagation == Propagation::Private) {
        return Err(CriError::invalid(format!(
            "recursive read-only mount {} must be read-only and private",
            mount.container_path
        )));
    }
    let source = match &mount.image {
        Some(_) => {
            let lower = parts.volumes.iter().find(|(path, _)| *path == mount.container_path);
            let (_, lower) = lower.ok_or_else(|| {
                CriError::not_found(format!("image of mount {} is not here", mount.container_path))
            })?;
            let index = parts.volumes.iter().position(|(path, _)| *path == mount.container_path);
            let at = parts.root.target.with_file_name(format!("image-{}", index.unwrap_or(0)));
            let sub_path = PathBuf::from(&mount.image_sub_path);
            MountSource::Image { lower: lower.clone(), at, sub_path }
        }
        None => MountSource::Bind { path: PathBuf::from(&mount.host_path), propagation },
    };
    Ok(MountSpec {
        target: PathBuf::from(&mount.container_path),
        source,
        readonly: mount.readonly,
        recursive_readonly: mount.recursive_read_only,
        attributes: 0,
    })
}

fn standard_devices() -> Vec<DeviceNode> {
    [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ]
    .into_iter()
    .map(|(name, major, minor)| DeviceNode {
        path: Path::new("/dev").join(name),
        block: false,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    })
    .collect()
}

/// What every container may use: nodes of any device may be made, these may be opened.
fn default_rules() -> Vec<DeviceRule> {
    let rule = |kind, major, minor, access: &str| DeviceRule {
        kind,
        major,
        minor,
        access: access.to_owned(),
    };
    let mut rules = vec![rule('c', None, None, "m"), rule('b', None, None, "m")];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule('c', Some(major), Some(minor), "rwm"));
    }
    rules.push(rule('c', Some(136), None, "rwm"));
    rules
}

fn device_node(host: &Path, container: PathBuf) -> Option<DeviceNode> {
    let meta = fs::metadata(host).ok()?;
    let kind = meta.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return None;
    }
    Some(DeviceNode {
        path: container,
        block: kind.is_block_device(),
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

fn configured_device(device: &cri::Device) -> Result<(DeviceNode, DeviceRule), CriError> {
    let node = device_node(Path::new(&device.host_path), PathBuf::from(&device.container_path))
        .ok_or_else(|| CriError::invalid(format!("{:?} is not a device", device.host_path)))?;
    let rule = DeviceRule {
        kind: if node.block { 'b' } else { 'c' },
        major: Some(node.major),
        minor: Some(node.minor),
        access: if device.permissions.is_empty() {
            "rwm".into()
        } else {
            device.permissions.clone()
        },
    };
    Ok((node, rule))
}

/// All devices of the node, for privileged containers; not what containers have of their own.
fn host_devices() -> Vec<DeviceNode> {
    fn walk(dir: &Path, found: &mut Vec<DeviceNode>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            let own = ["pts", "shm", "fd", "mqueue", "console", "ptmx"];
            if found.len() >= MAX_HOST_DEVICES || own.iter().any(|n| entry.file_name() == *n) {
                continue;
            }
            if kind.is_dir() {
                walk(&path, found);
            } else if (kind.is_block_device() || kind.is_char_device())
                && let Some(node) = device_node(&path, path.clone())
            {
                found.push(node);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/dev"), &mut found);
    found
}

/// Whose process ids a container sees; the target's first process is looked up by the caller.
pub(super) fn shares_pod_pids(mode: NamespaceMode) -> bool {
    mode == NamespaceMode::Pod
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn a_command_replaces_the_images_entrypoint_and_arguments() {
        let image = ImageConfig {
            entrypoint: strings(&["/entry"]),
            cmd: strings(&["default"]),
            ..ImageConfig::default()
        };
        for (command_given, args, expected) in [
            (&[][..], &[][..], "/entry default"),
            (&[], &["x"], "/entry x"),
            (&["/bin/sh"], &[], "/bin/sh"),
            (&["/bin/sh"], &["-c"], "/bin/sh -c"),
        ] {
            let config = ContainerConfig {
                command: strings(command_given),
                args: strings(args),
                ..ContainerConfig::default()
            };
            assert_eq!(command(&config, &image).unwrap().join(" "), expected);
        }
        let nothing = command(&ContainerConfig::default(), &ImageConfig::default());
        assert_eq!(nothing.unwrap_err().to_string(), "no command specified");
    }

    #[test]
    fn the_pods_environment_wins_over_the_images() {
        let image =
            ImageConfig { env: strings(&["PATH=/p", "A=1", "B"]), ..ImageConfig::default() };
        let envs = vec![("A".to_owned(), "2=3".to_owned()), ("C".to_owned(), String::new())];
        let config = ContainerConfig { envs, ..ContainerConfig::default() };
        assert_eq!(
            environment(&config, &image, "web-0").join(" "),
            "PATH=/p HOSTNAME=web-0 A=2=3 B= C="
        );
    }

    #[test]
    fn a_group_without_a_user_is_refused() {
        let mut config = ContainerConfig::default();
        config.linux.security_context.run_as_group = Some(5);
        user(&config, &ImageConfig::default()).unwrap_err();
        config.linux.security_context.run_as_user = Some(7);
        let image = ImageConfig { user: "web:www".into(), ..ImageConfig::default() };
        let got = user(&config, &image).unwrap();
        assert_eq!((got.user.as_str(), got.group.as_str()), ("7", "5"));
        config.linux.security_context = cri::LinuxContainerSecurityContext::default();
        let got = user(&config, &image).unwrap();
        assert_eq!((got.user.as_str(), got.group.as_str()), ("web", "www"));
    }
}
