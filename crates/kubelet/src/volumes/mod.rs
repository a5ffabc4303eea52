//! The volumes of pods: made before the sandbox, kept up to date while containers run, taken away at the end.
//!
//! Knows files and mounts; knows nothing of containers but where their mounts come from.

pub(crate) mod atomic;
pub(crate) mod claim;
mod content;
mod host_path;
pub(crate) mod subpath;
pub(crate) mod token;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};

use crate::objects::User;
use crate::resources;
use crate::shared::Shared;
use crate::spec;
use atomic::{Group, Payload};

/// Who needs what of a pod's volumes.
#[derive(Debug)]
pub(crate) struct VolumeContext<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) pod: &'a Pod,
    pub(crate) user: &'a User,
    pub(crate) pod_ips: Vec<String>,
}

/// A volume that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountFailure {
    /// The text of the event.
    pub(crate) message: String,
}

/// Makes every volume of a pod, or brings it up to date. Repeatable.
///
/// # Errors
/// The first volume that cannot be had.
pub(crate) async fn set_up(cx: &VolumeContext<'_>) -> Result<(), MountFailure> {
    for volume in spec::spec(cx.pod).volumes.iter().flatten() {
        if let Some(claim) = claim::name(cx.pod, volume) {
            claim::set_up(cx, volume, &claim).await?;
        } else if let Err(error) = one(cx, volume).await {
            let message =
                format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name);
            return Err(MountFailure { message });
        }
    }
    Ok(())
}

async fn one(cx: &VolumeContext<'_>, volume: &Volume) -> Result<(), String> {
    if let Some(payload) = content::payload(cx, volume).await? {
        return write(cx, volume, payload).await;
    }
    if let Some(source) = &volume.empty_dir {
        return empty_dir(cx, volume, source).await;
    }
    if let Some(source) = volume.host_path.clone() {
        return block(cx.shared, move || host_path::check(&source)).await;
    }
    if volume.image.is_some() {
        // The runtime mounts it.
        return Ok(());
    }
    Err("this node does not know this kind of volume".into())
}

async fn block(
    shared: &Shared,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), String> {
    match shared.blocking.run(work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Where a volume lies on the node; `None` where the runtime finds it by itself.
pub(crate) fn place(shared: &Shared, pod: &Pod, volume: &Volume) -> Option<PathBuf> {
    if let Some(source) = &volume.host_path {
        return Some(PathBuf::from(&source.path));
    }
    if claim::name(pod, volume).is_some() {
        return claim::place(shared, pod, volume);
    }
    let plugin = plugin(volume)?;
    Some(shared.config.volume_dir(spec::uid(pod), plugin, &volume.name))
}

fn plugin(volume: &Volume) -> Option<&'static str> {
    if volume.config_map.is_some() {
        Some("configmap")
    } else if volume.secret.is_some() {
        Some("secret")
    } else if volume.downward_api.is_some() {
        Some("downward-api")
    } else if volume.projected.is_some() {
        Some("projected")
    } else if volume.empty_dir.is_some() {
        Some("empty-dir")
    } else {
        None
    }
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = spec::spec(pod).security_context.as_ref().and_then(|it| it.fs_group)?;
    u32::try_from(group).ok()
}

async fn write(cx: &VolumeContext<'_>, volume: &Volume, payload: Payload) -> Result<(), String> {
    let Some(dir) = place(cx.shared, cx.pod, volume) else { return Err("it has no place".into()) };
    let secret =
        volume.secret.is_some() || volume.projected.is_some() || volume.downward_api.is_some();
    let group = fs_group(cx.pod).map(|id| Group { id, writable: false });
    let now = cx.shared.clock.now();
    block(cx.shared, move || {
        make_dir(&dir, 0o777)?;
        if secret {
            // What is secret is never on a disk.
            mount_tmpfs(&dir, None)?;
        }
        atomic::write(&dir, &payload, group, now).map(|_| ())
    })
    .await
}

async fn empty_dir(
    cx: &VolumeContext<'_>,
    volume: &Volume,
    source: &EmptyDirVolumeSource,
) -> Result<(), String> {
    let Some(dir) = place(cx.shared, cx.pod, volume) else { return Err("it has no place".into()) };
    let medium = source.medium.clone().unwrap_or_default();
    let limit =
        source.size_limit.as_ref().map(|it| resources::amount("memory", it)).filter(|it| *it > 0);
    let memory = resources::pod_limits(cx.pod).get("memory").copied().filter(|it| *it > 0);
    let size = match (limit, memory) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let size = size.unwrap_or(cx.shared.machine.memory_bytes);
    let mode = source.mode.and_then(|it| u32::try_from(it).ok()).unwrap_or(0o777);
    let group = fs_group(cx.pod).map(|id| Group { id, writable: true });
    block(cx.shared, move || {
        let fresh = !dir.exists();
        make_dir(&dir, mode)?;
        match medium.as_str() {
            "" => {}
            "Memory" => mount_tmpfs(&dir, Some(size))?,
            other => {
                let text = format!("medium {other:?} is not known to this node");
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        }
        match group {
            Some(group) if fresh => atomic::own(&dir, group),
            _ => Ok(()),
        }
    })
    .await
}

fn make_dir(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

/// Mounts memory over a directory, once.
fn mount_tmpfs(dir: &Path, size: Option<i64>) -> io::Result<()> {
    if is_mount_point(dir)? {
        return Ok(());
    }
    let options = size.map(|it| format!("size={it}"));
    let options = options.map(std::ffi::CString::new).transpose()?;
    sys::mount::plain("tmpfs", dir, options.as_deref())
}

/// Whether another file system begins here.
fn is_mount_point(dir: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let parent = dir.parent().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(dir.metadata()?.dev() != parent.metadata()?.dev())
}

/// Unmounts and removes all that a pod has on the node.
///
/// # Errors
/// When something stays.
pub(crate) fn tear_down(pod_dir: &Path) -> io::Result<()> {
    if !pod_dir.exists() {
        return Ok(());
    }
    for mount in mounts_below(pod_dir)? {
        sys::mount::detach(&mount)?;
    }
    sys::fs::remove_tree(pod_dir)
}

/// Mount points below a directory, the innermost first.
fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| {
            PathBuf::from(path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        })
        .filter(|path| path.starts_with(dir))
        .collect();
    found.sort();
    found.reverse();
    Ok(found)
}
