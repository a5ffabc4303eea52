//! `kubelith uninstall`: takes back everything that a node has made on this machine.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use component_base::{RealClock, SystemRandom};
use cri::{CriError, NetworkRequest, PodNetworkResult, PodSandboxFilter, RuntimeService as _};
use network::PodNetwork;
use proxy::Proxy;
use runtime::{EmbeddedRuntime, Registries, ZygoteCommand};
use sys::cgroup::Hierarchies;
use sys::netlink::Netns;

use crate::data_dir;
use crate::node::{self, OnlyNode, Options as NodeOptions, Place};

/// The group that those of shims are in.
const OWN_GROUP: &str = "/kubelith";

/// Flags of `kubelith uninstall`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The data directory of the server or agent, which must have ended
    #[arg(long, default_value = node::options::DATA_DIR, value_name = "DIR", value_parser = crate::data_dir::place)]
    data_dir: PathBuf,
    /// Where that process had its sockets (default: as that process finds it)
    #[arg(long, value_name = "DIR", value_parser = crate::data_dir::place)]
    state_dir: Option<PathBuf>,
    /// Do it: containers are killed, and all data is deleted
    #[arg(long)]
    yes: bool,
}

/// The network of pods that are taken away as a whole afterwards.
#[derive(Debug)]
struct TakenLater;

#[async_trait]
impl cri::PodNetwork for TakenLater {
    async fn setup(&self, _request: &NetworkRequest) -> Result<PodNetworkResult, CriError> {
        Err(CriError::unknown("nothing is set up any more"))
    }

    async fn teardown(&self, _request: &NetworkRequest) -> Result<(), CriError> {
        Ok(())
    }
}

/// Runs the command.
#[allow(clippy::print_stdout, reason = "telling is part of the command")]
pub(crate) fn run(options: &Options) -> Result<()> {
    let data_dir = &options.data_dir;
    if !data_dir.exists() {
        println!("there is no {}: nothing to uninstall", data_dir.display());
        return Ok(());
    }
    let state_dir = NodeOptions::state_dir_of(options.state_dir.as_deref(), data_dir);
    if !options.yes {
        bail!(
            "this kills all containers of {0}, removes their networks and mounts, and deletes {0} and {1}; \
             say --yes to do it",
            data_dir.display(),
            state_dir.display()
        );
    }
    let held = data_dir::hold(data_dir)?;
    let is_node = is_node(data_dir);
    let only = if is_node { alone(data_dir)? } else { None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(end_containers(data_dir, &state_dir))?;
    println!("containers: {ended} pods ended");
    if only.is_some() {
        PodNetwork::remove(&Netns::own(), network::Config::DEVICE, &state_dir.join("network"))
            .context("could not remove the pod network")?;
        Proxy::remove(&Netns::own()).context("could not remove the rules of services")?;
        println!("network: links, routes and rules removed");
    } else if is_node {
        println!("network: gone already, with the network namespace that it was in");
    }
    let mounts = unmount(&[data_dir.clone(), state_dir.clone()])?;
    println!("mounts: {mounts} removed");
    if is_node {
        remove_groups(data_dir)?;
    }
    drop(held);
    for dir in [data_dir, &state_dir] {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("could not delete {}", dir.display()));
            }
            _ => println!("deleted {}", dir.display()),
        }
    }
    Ok(())
}

/// Whether a node has run with this data directory, and not just a server.
fn is_node(data_dir: &Path) -> bool {
    data_dir.join("agent/runtime").exists()
}

/// Links, routes and rules have fixed names: they may be taken away only where they are this node's. Nothing where they are
/// gone.
fn alone(data_dir: &Path) -> Result<Option<OnlyNode>> {
    match node::place(data_dir)? {
        Place::Here => {}
        Place::Gone => return Ok(None),
        Place::Elsewhere => bail!(
            "the network of the node of {} is in another network namespace: run this there (`nsenter --net=...`)",
            data_dir.display()
        ),
    }
    let only = OnlyNode::here();
    only.map(Some).context("its links and rules have the same names as those of this node would")
}

async fn end_containers(data_dir: &Path, state_dir: &Path) -> Result<usize> {
    let root_dir = data_dir.join("agent/runtime");
    if !root_dir.exists() {
        return Ok(0);
    }
    let runtime = EmbeddedRuntime::open(runtime::Options {
        root_dir,
        state_dir: state_dir.join("runtime"),
        zygote: ZygoteCommand {
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec![node::ZYGOTE.into()],
        },
        shim_cgroup: node::SHIM_CGROUP.into(),
        registries: Registries::default(),
        network: Arc::new(TakenLater),
        clock: Arc::new(RealClock),
        random: Arc::new(SystemRandom::new()),
    })
    .await
    .context("could not open the container runtime")?;
    let sandboxes = runtime.list_pod_sandbox(&PodSandboxFilter::default()).await?;
    for sandbox in &sandboxes {
        let removing = || format!("could not remove the pod sandbox {}", sandbox.id);
        runtime.stop_pod_sandbox(&sandbox.id).await.with_context(removing)?;
        runtime.remove_pod_sandbox(&sandbox.id).await.with_context(removing)?;
    }
    Ok(sandboxes.len())
}

/// Unmounts everything below some directories, the innermost first. Says how many that were.
fn unmount(dirs: &[PathBuf]) -> Result<usize> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("could not read mounts")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(plain);
    let mut below: Vec<PathBuf> =
        points.filter(|point| dirs.iter().any(|dir| point.starts_with(dir))).collect();
    below.sort();
    for point in below.iter().rev() {
        sys::mount::detach(point)
            .with_context(|| format!("could not unmount {}", point.display()))?;
    }
    Ok(below.len())
}

/// A path without the kernel's escapes: `\040` is a space.
fn plain(text: &str) -> PathBuf {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|it| u8::from_str_radix(it, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}

/// Removes groups that have no process any more; another node of this machine may use the same.
fn remove_groups(data_dir: &Path) -> Result<()> {
    let hierarchies = Hierarchies::detect().context("could not find the control groups")?;
    let kept = std::fs::read_to_string(data_dir.join(node::CGROUP_FILE));
    let pods = kept.unwrap_or_else(|_| node::options::PODS_CGROUP.to_owned());
    for group in [pods.as_str(), OWN_GROUP] {
        for dir in hierarchies.dirs(group) {
            remove_group(&dir);
            // A root of one's own goes too, unless somebody else has groups or processes there.
            let above = std::path::Path::new(group).ancestors().skip(1);
            for (_, dir) in
                above.zip(dir.ancestors().skip(1)).filter(|(it, _)| it.parent().is_some())
            {
                let _ = std::fs::remove_dir(dir);
            }
        }
    }
    Ok(())
}

fn remove_group(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            remove_group(&entry.path());
        }
    }
    // A group with processes is somebody's, and stays.
    let _ = std::fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_without_escapes() {
        for (text, wanted) in
            [("/a/b", "/a/b"), (r"/a\040b", "/a b"), (r"/a\134", "/a\\"), (r"\9", "\\9")]
        {
            assert_eq!(plain(text), PathBuf::from(wanted));
        }
    }
}
