//! Volumes of claims: which PersistentVolume a claim has, and where that lies on the node.
//!
//! A link in the pod's directory names the place, so that an agent that starts anew finds it, and taking the pod away
//! never touches what is in the volume.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use apimachinery::Value;
use client::Resource;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, Volume};

use super::atomic::{self, Group};
use super::{MountFailure, VolumeContext, block, fs_group, host_path};
use crate::shared::Shared;
use crate::spec;

/// What the links are kept under.
const PLUGIN: &str = "persistent-volume";

/// The claim that a volume of a pod is of.
pub(super) fn name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    let own = || format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name);
    volume.ephemeral.as_ref().map(|_| own())
}

/// Whether the pod may only read a volume, whatever its mounts say.
pub(crate) fn is_read_only(volume: &Volume) -> bool {
    volume.persistent_volume_claim.as_ref().is_some_and(|it| it.read_only == Some(true))
}

fn link(shared: &Shared, pod: &Pod, volume: &Volume) -> PathBuf {
    shared.config.volume_dir(spec::uid(pod), PLUGIN, &volume.name)
}

/// Where the volume of a claim lies, once it was set up.
pub(super) fn place(shared: &Shared, pod: &Pod, volume: &Volume) -> Option<PathBuf> {
    fs::read_link(link(shared, pod, volume)).ok()
}

/// Finds the volume of a claim and makes it ready, once.
///
/// # Errors
/// In upstream's words: the claim is not bound, the volume is not to be had.
pub(super) async fn set_up(
    cx: &VolumeContext<'_>,
    volume: &Volume,
    claim: &str,
) -> Result<(), MountFailure> {
    let link = link(cx.shared, cx.pod, volume);
    if link.symlink_metadata().is_ok() {
        return Ok(());
    }
    let found = find(cx, volume, claim).await.map_err(|error| MountFailure {
        message: format!(
            "Unable to attach or mount volumes: unmounted volumes=[{0}], unattached volumes=[], failed to process \
             volumes=[{0}]: error processing PVC {1}/{claim}: {error}",
            volume.name,
            spec::namespace(cx.pod)
        ),
    })?;
    let name = found.str_at(&["metadata", "name"]).to_owned();
    let failed = |error: String| MountFailure {
        message: format!("MountVolume.SetUp failed for volume {name:?} : {error}"),
    };
    let source = Source::of(&found).map_err(failed)?;
    let group = fs_group(cx.pod).map(|id| Group { id, writable: true });
    let policy = spec::spec(cx.pod).security_context.as_ref();
    let policy = policy.and_then(|it| it.fs_group_change_policy.clone());
    let only_root = policy.as_deref() == Some("OnRootMismatch");
    let ready = block(cx.shared, move || {
        let place = source.ready(group, only_root)?;
        let dir = link.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(dir)?;
        symlink(place, &link)
    });
    ready.await.map_err(failed)
}

/// The volume that a claim is bound to.
async fn find(cx: &VolumeContext<'_>, volume: &Volume, name: &str) -> Result<Value, String> {
    let claims = Resource::built_in("", "persistentvolumeclaims");
    let claim = cx.shared.client.get(&claims, spec::namespace(cx.pod), name).await;
    let claim = claim.map_err(|it| format!("failed to fetch PVC from API server: {it}"))?;
    if volume.ephemeral.is_some() {
        let mut owners = claim.items_at(&["metadata", "ownerReferences"]).iter();
        let uid = spec::uid(cx.pod);
        if !owners.any(|it| it.bool_at(&["controller"]) && it.str_at(&["uid"]) == uid) {
            return Err(format!(
                "PVC {0}/{name} was not created for pod {0}/{1} (pod is not owner)",
                spec::namespace(cx.pod),
                cx.pod.metadata.name.as_deref().unwrap_or_default()
            ));
        }
    }
    if claim.at(&["metadata", "deletionTimestamp"]).is_some() {
        return Err("PVC is being deleted".to_owned());
    }
    let volume = claim.str_at(&["spec", "volumeName"]);
    if claim.str_at(&["status", "phase"]) != "Bound" || volume.is_empty() {
        return Err("PVC is not bound".to_owned());
    }
    let volumes = Resource::built_in("", "persistentvolumes");
    let found = cx.shared.client.get(&volumes, "", volume).await;
    let found = found.map_err(|it| format!("failed to fetch PV {volume} from API server: {it}"))?;
    let (meant, uid) =
        (found.str_at(&["spec", "claimRef", "uid"]), claim.str_at(&["metadata", "uid"]));
    if meant != uid {
        return Err(format!(
            "found PV object {volume} with Spec.ClaimRef.UID {meant:?} which does not point to claim UID {uid:?}"
        ));
    }
    Ok(found)
}

/// What a PersistentVolume is on this node.
#[derive(Debug, Clone, PartialEq)]
enum Source {
    HostPath(HostPathVolumeSource),
    /// A directory, or a file system to be.
    Local(PathBuf),
}

impl Source {
    /// # Errors
    /// What this node does not mount, and that it does not.
    fn of(volume: &Value) -> Result<Self, String> {
        if volume.str_at(&["spec", "volumeMode"]) == "Block" {
            return Err("this node has no volumes of mode Block yet".to_owned());
        }
        if let Some(source) = volume.at(&["spec", "hostPath"]) {
            let type_ = Some(source.str_at(&["type"]).to_owned());
            let path = source.str_at(&["path"]).to_owned();
            return Ok(Self::HostPath(HostPathVolumeSource { path, type_ }));
        }
        match volume.str_at(&["spec", "local", "path"]) {
            "" => {}
            path => return Ok(Self::Local(path.into())),
        }
        let spec = volume.at(&["spec"]).and_then(Value::as_object);
        let sources = ["nfs", "csi", "iscsi", "fc", "rbd", "cephfs", "glusterfs"];
        let kind = sources.iter().find(|it| spec.is_some_and(|spec| spec.contains_key(it)));
        let kind = kind.copied().unwrap_or("this kind");
        Err(format!("this node does not mount volumes of {kind} yet"))
    }

    /// Makes it ready; where it lies.
    fn ready(self, group: Option<Group>, only_root: bool) -> io::Result<PathBuf> {
        match self {
            Self::HostPath(source) => {
                host_path::check(&source)?;
                Ok(source.path.into())
            }
            Self::Local(path) => {
                let about = match path.metadata() {
                    Ok(it) => it,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        let text = format!("path {:?} does not exist", path.display());
                        return Err(io::Error::new(error.kind(), text));
                    }
                    Err(error) => return Err(error),
                };
                if about.file_type().is_block_device() {
                    let text = format!(
                        "{} is a device: this node does not mount the file systems on devices yet",
                        path.display()
                    );
                    return Err(io::Error::new(io::ErrorKind::Unsupported, text));
                }
                match group {
                    Some(group) if !(only_root && has_group(&path, group)?) => {
                        atomic::own(&path, group)?;
                    }
                    Some(_) | None => {}
                }
                Ok(path)
            }
        }
    }
}

/// Whether a directory is its group's already, as `fsGroupChangePolicy: OnRootMismatch` asks.
fn has_group(path: &Path, group: Group) -> io::Result<bool> {
    const GROUP_MAY: u32 = 0o2070;
    let about = path.metadata()?;
    Ok(about.gid() == group.id && about.mode() & GROUP_MAY == GROUP_MAY)
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn what_is_not_mounted_is_said_so() {
        let check = |spec: Value, expected: Result<Source, &str>| {
            let found = Source::of(&value!({"spec": spec}));
            assert_eq!(found, expected.map_err(str::to_owned));
        };
        check(value!({"local": {"path": "/x"}}), Ok(Source::Local("/x".into())));
        check(value!({"nfs": {"path": "/x"}}), Err("this node does not mount volumes of nfs yet"));
        check(
            value!({"local": {"path": "/x"}, "volumeMode": "Block"}),
            Err("this node has no volumes of mode Block yet"),
        );
    }

    #[test]
    fn a_local_volume_gets_the_pod_s_group_unless_its_root_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let (root, file) = (dir.path().join("v"), dir.path().join("v/file"));
        fs::create_dir(&root).unwrap();
        fs::write(&file, b"x").unwrap();
        let ready = |id: u32, only_root: bool| {
            let group = Some(Group { id, writable: true });
            Source::Local(root.clone()).ready(group, only_root).unwrap();
            (root.metadata().unwrap().gid(), file.metadata().unwrap().gid())
        };
        assert_eq!(ready(4000, true), (4000, 4000));
        std::os::unix::fs::chown(&file, None, Some(0)).unwrap();
        assert_eq!(ready(4000, true), (4000, 0));
        assert_eq!(ready(4000, false), (4000, 4000));
        let missing = Source::Local(dir.path().join("w")).ready(None, false).unwrap_err();
        assert!(missing.to_string().ends_with("does not exist"), "{missing}");
    }
}
