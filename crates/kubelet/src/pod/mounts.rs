//! Where a container's mounts come from: volumes and parts of them, `/etc/hosts`, the termination message.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cri::{ImageSpec, Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use crate::expand::{expand, missing};
use crate::shared::Shared;
use crate::spec;
use crate::volumes;

/// The mounts of a container and the file of its termination message.
#[derive(Debug)]
pub(crate) struct Mounts {
    pub(crate) mounts: Vec<Mount>,
    pub(crate) message_file: String,
}

/// Makes what has to be there for a container's mounts.
///
/// # Errors
/// When one cannot be had, in the words of a container's status.
pub(crate) async fn prepare(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    environment: &[(String, String)],
    ips: &[std::net::IpAddr],
) -> Result<Mounts, String> {
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        mounts.push(volume(shared, pod, container, (index, mount), environment).await?);
    }
    let pod_dir = shared.config.pod_dir(spec::uid(pod));
    if !mounts.iter().any(|it| it.container_path == "/etc/hosts") {
        let text = hosts(shared, pod, ips);
        let path = pod_dir.join("etc-hosts");
        write(&path, text.as_bytes(), 0o644)
            .map_err(|it| format!("could not write the hosts file: {it}"))?;
        mounts.push(bind("/etc/hosts", &path));
    }
    let name = shared.random.suffix(8);
    let file = pod_dir.join("containers").join(&container.name).join(name);
    write(&file, b"", 0o666)
        .map_err(|it| format!("could not make the termination message: {it}"))?;
    let at = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    mounts.push(bind(at, &file));
    Ok(Mounts { mounts, message_file: file.display().to_string() })
}

fn bind(container_path: &str, host_path: &Path) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        ..Mount::default()
    }
}

fn write(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn hosts(shared: &Shared, pod: &Pod, ips: &[std::net::IpAddr]) -> String {
    let node = if spec::is_host_network(pod) {
        fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        String::new()
    };
    crate::hosts::hosts(pod, ips, &shared.config.cluster_domain, &node)
}

async fn volume(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    (index, mount): (usize, &VolumeMount),
    environment: &[(String, String)],
) -> Result<Mount, String> {
    let mut volumes = spec::spec(pod).volumes.iter().flatten();
    let found = volumes.find(|it| it.name == mount.name);
    let volume = found.ok_or_else(|| {
        format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name)
    })?;
    let container_path = if mount.mount_path.starts_with('/') {
        mount.mount_path.clone()
    } else {
        format!("/{}", mount.mount_path)
    };
    let recursive = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    let mut result = Mount {
        container_path,
        readonly: mount.read_only.unwrap_or_default() || volumes::claim::is_read_only(volume),
        recursive_read_only: recursive,
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            _ => MountPropagation::Private,
        },
        ..Mount::default()
    };
    let sub_path = sub_path(mount, environment)?;
    if let Some(image) = &volume.image {
        result.image = Some(ImageSpec::new(image.reference.clone().unwrap_or_default()));
        result.image_sub_path = sub_path.unwrap_or_default();
        result.readonly = true;
        return Ok(result);
    }
    let Some(place) = volumes::place(shared, pod, volume) else {
        return Err(format!("volume {:?} has no place on this node", volume.name));
    };
    let source = match sub_path {
        None => place,
        Some(sub_path) => {
            let to = shared
                .config
                .pod_dir(spec::uid(pod))
                .join("volume-subpaths")
                .join(&volume.name)
                .join(&container.name)
                .join(index.to_string());
            bind_part(shared, place, sub_path.clone(), to).await.map_err(|error| {
                tracing::warn!(
                    pod = spec::full_name(pod),
                    sub_path,
                    error,
                    "could not prepare a subPath"
                );
                format!(
                    "failed to prepare subPath for volumeMount {:?} of container {:?}",
                    mount.name, container.name
                )
            })?
        }
    };
    result.host_path = source.display().to_string();
    Ok(result)
}

fn sub_path(
    mount: &VolumeMount,
    environment: &[(String, String)],
) -> Result<Option<String>, String> {
    if let Some(expression) = mount.sub_path_expr.as_deref().filter(|it| !it.is_empty()) {
        let known = |name: &str| environment.iter().any(|it| it.0 == name);
        if let Some(name) = missing(expression, known).first() {
            return Err(format!("missing value for {name}"));
        }
        let lookup = |name: &str| environment.iter().find(|it| it.0 == name).map(|it| it.1.clone());
        return Ok(Some(expand(expression, lookup)));
    }
    Ok(mount.sub_path.clone().filter(|it| !it.is_empty()))
}

async fn bind_part(
    shared: &Shared,
    volume: PathBuf,
    sub_path: String,
    to: PathBuf,
) -> Result<PathBuf, String> {
    let work = move || volumes::subpath::bind(&volume, &sub_path, &to);
    let done = shared.blocking.run(work).await.map_err(|it| it.to_string())?;
    done.map_err(|it| it.to_string())
}
