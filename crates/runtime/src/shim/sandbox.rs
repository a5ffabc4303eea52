//! What the containers of a pod share: the shim itself enters it, and they are born into it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use sys::process::{self, Child, CloneRequest};
use sys::{mount, namespace};

use crate::spec::{SANDBOX_FILE, SandboxSpec};

/// Shared memory of a pod, as other runtimes size it.
const SHM_BYTES: &str = "67108864";

/// A made sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// The process with id 1, where process ids are shared.
    pub(super) pause: Option<Child>,
    /// The process namespace of the node.
    pub(super) host_pid: OwnedFd,
    /// That of the pod.
    pub(super) pod_pid: Option<OwnedFd>,
}

/// Enters new namespaces and furnishes them.
pub(super) fn create(directory: &Path) -> Result<Sandbox, String> {
    let file = directory.join(SANDBOX_FILE);
    let text = fs::read(&file).map_err(|e| format!("read {}: {e}", file.display()))?;
    let spec: SandboxSpec =
        serde_json::from_slice(&text).map_err(|e| format!("decode {}: {e}", file.display()))?;
    let host_pid = namespace::open("self", "pid").map_err(|e| format!("open namespace: {e}"))?;
    enter_namespaces(&spec)?;
    for (name, value) in &spec.sysctls {
        let path = sysctl_path(name, &spec)?;
        fs::write(&path, value).map_err(|e| format!("set sysctl {name} to {value:?}: {e}"))?;
    }
    if let Some(shm) = &spec.shm {
        shared_memory(shm).map_err(|e| format!("mount {}: {e}", shm.display()))?;
    }
    let (pause, pod_pid) = if spec.shared_pid {
        let (pause, pid) = start_pause()?;
        (Some(pause), Some(pid))
    } else {
        (None, None)
    };
    Ok(Sandbox { pause, host_pid, pod_pid })
}

fn enter_namespaces(spec: &SandboxSpec) -> Result<(), String> {
    let mut kinds = 0;
    if spec.own_ipc {
        kinds |= libc::CLONE_NEWIPC;
    }
    if spec.netns.is_some() {
        kinds |= libc::CLONE_NEWNET;
    }
    if !spec.hostname.is_empty() {
        kinds |= libc::CLONE_NEWUTS;
    }
    namespace::unshare(kinds).map_err(|e| format!("make namespaces: {e}"))?;
    if !spec.hostname.is_empty() {
        rustix::system::sethostname(spec.hostname.as_bytes())
            .map_err(|e| format!("set hostname {:?}: {e}", spec.hostname))?;
    }
    if let Some(path) = &spec.netns {
        namespace::pin("net", path).map_err(|e| format!("pin {}: {e}", path.display()))?;
    }
    Ok(())
}

/// Only parameters of a namespace that the pod has of its own: others would change the node.
fn sysctl_path(name: &str, spec: &SandboxSpec) -> Result<PathBuf, String> {
    const OF_IPC: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    let name = name.replace('/', ".");
    let own = name.starts_with("net.") && spec.netns.is_some()
        || OF_IPC.iter().any(|prefix| name.starts_with(prefix)) && spec.own_ipc;
    if !own || name.contains("..") {
        return Err(format!("sysctl {name:?} is not in a separate kernel namespace"));
    }
    Ok(Path::new("/proc/sys").join(name.replace('.', "/")))
}

fn shared_memory(at: &Path) -> std::io::Result<()> {
    fs::create_dir_all(at)?;
    let options = [("mode", "1777"), ("size", SHM_BYTES)];
    let attributes = mount::NOSUID | mount::NODEV | mount::NOEXEC;
    let tree = mount::new_filesystem("tmpfs", &options, attributes)?;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    mount::attach(tree, rustix::fs::open(at, flags, rustix::fs::Mode::empty())?)
}

/// The process with id 1 of a shared namespace: it only takes orphans.
fn start_pause() -> Result<(Child, OwnedFd), String> {
    let request = CloneRequest { namespaces: libc::CLONE_NEWPID, into_cgroup: None };
    // SAFETY: a shim has one thread.
    let child = unsafe { process::clone_process(&request) }.map_err(|e| format!("clone: {e}"))?;
    let Some(child) = child else { pause() };
    let pid = namespace::open(&child.pid.to_string(), "pid")
        .map_err(|e| format!("open the pod's process namespace: {e}"))?;
    Ok((child, pid))
}

fn pause() -> ! {
    // The name may stay the shim's if this fails.
    let _ = process::set_name(c"pause");
    process::reset_signals();
    process::ignore_children();
    // SAFETY: nothing owns a descriptor here that is used again: this process only sleeps.
    let _ = unsafe { process::close_from(0) };
    loop {
        // SAFETY: no arguments; it returns when a signal came.
        unsafe { libc::pause() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_namespaces_are_set() {
        for (name, expected) in [
            ("net.core.somaxconn", Some("/proc/sys/net/core/somaxconn")),
            ("kernel.shm_rmid_forced", Some("/proc/sys/kernel/shm_rmid_forced")),
            ("kernel.panic", None),
            ("vm.swappiness", None),
            ("net...kernel.panic", None),
        ] {
            let own = SandboxSpec {
                netns: Some("/netns".into()),
                own_ipc: true,
                ..SandboxSpec::default()
            };
            let path = sysctl_path(name, &own).ok();
            assert_eq!(path.as_deref(), expected.map(Path::new), "{name}");
            // On the node's own namespaces none is.
            sysctl_path(name, &SandboxSpec::default()).unwrap_err();
        }
    }
}
