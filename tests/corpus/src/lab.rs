//! The network that tests run in: a namespace that plays the world, and one for each node, all on one bridge.
//!
//! A node also has a process and a mount namespace. Ending its first process ends everything on the node and undoes
//! every mount: nothing is left however a run ends.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::{Background, command, ip, run};

/// The world's address.
pub(crate) const WORLD: &str = "10.88.0.1";
/// How many nodes there can be.
pub(crate) const NODES: usize = 3;
/// Where control groups are, one directory a controller or one for all.
const CGROUPS: &str = "/sys/fs/cgroup";
/// What the control groups of a run are called, before its number.
const GROUP: &str = "kubelith-corpus-";

/// Namespaces, a directory, control groups: gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Lab {
    id: u32,
    directory: TempDir,
    nodes: Vec<Machine>,
}

/// A node's namespaces.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) address: String,
    pub(crate) directory: PathBuf,
    /// Holds the namespaces; dropped first.
    _holder: Background,
    init: u32,
}

impl Lab {
    pub(crate) fn build() -> Result<Self> {
        sweep()?;
        let id = std::process::id();
        let directory = tempfile::Builder::new().prefix(&format!("klc-{id}-")).tempdir()?;
        let mut lab = Self { id, directory, nodes: Vec::new() };
        lab.world()?;
        for number in 1..=NODES {
            let machine = lab.machine(number).with_context(|| format!("node {number}"))?;
            lab.nodes.push(machine);
        }
        Ok(lab)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// For a person who looks on.
    pub(crate) fn tell_how_to_reach(&self, kubectl: &Path) {
        println!(
            "nsenter --net=/run/netns/{} {} --kubeconfig {} --server https://{}:6443",
            self.world_namespace(),
            kubectl.display(),
            self.path("kubeconfig").display(),
            self.nodes.first().map_or("", |it| it.address.as_str()),
        );
    }

    /// The logs outlive a run that failed.
    pub(crate) fn keep_logs(&self) -> Result<()> {
        let kept = std::env::temp_dir().join("kubelith-corpus-logs");
        fs::create_dir_all(&kept)?;
        for entry in fs::read_dir(self.directory.path())?.flatten() {
            if entry.path().extension().is_some_and(|it| it == "log") {
                fs::copy(entry.path(), kept.join(entry.file_name()))?;
            }
        }
        println!("logs of the cluster: {}", kept.display());
        Ok(())
    }

    pub(crate) fn machines(&self) -> &[Machine] {
        &self.nodes
    }

    /// The control group that all nodes' groups are in.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{GROUP}{}", self.id)
    }

    pub(crate) fn world_namespace(&self) -> String {
        format!("klc{}w", self.id)
    }

    /// A program in the world.
    pub(crate) fn outside(&self, program: &Path) -> Command {
        let net = format!("--net=/run/netns/{}", self.world_namespace());
        let mut command = command("nsenter", &[net.as_str()]);
        command.arg(program);
        command
    }

    fn namespace(&self, number: usize) -> String {
        format!("klc{}n{number}", self.id)
    }

    fn world(&self) -> Result<()> {
        let world = self.world_namespace();
        ip(&format!("netns add {world}"))?;
        ip(&format!("-n {world} link set lo up"))?;
        ip(&format!("-n {world} link add br0 type bridge"))?;
        ip(&format!("-n {world} address add {WORLD}/24 dev br0"))?;
        ip(&format!("-n {world} link set br0 up"))?;
        Ok(())
    }

    fn machine(&self, number: usize) -> Result<Machine> {
        let (name, world) = (self.namespace(number), self.world_namespace());
        let address = format!("10.88.0.{}", 10 + number);
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link add eth0 type veth peer name n{number} netns {world}"))?;
        ip(&format!("-n {world} link set n{number} up master br0"))?;
        ip(&format!("-n {name} address add {address}/24 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} route add default via {WORLD}"))?;
        let directory = self.path(&format!("n{number}"));
        fs::create_dir(&directory)?;
        // The first process takes in orphans, and waits so that none stays a zombie.
        let net = format!("--net=/run/netns/{name}");
        let words = [
            net.as_str(),
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "busybox",
            "sh",
            "-c",
            "while true; do sleep 3600 & wait $!; done",
        ];
        let mut holder =
            Background::start(&command("nsenter", &words), &directory.join("init.log"))?;
        let init = holder.child_id()?;
        Ok(Machine { address, directory, _holder: holder, init })
    }
}

impl Machine {
    /// A program on the node.
    pub(crate) fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let target = self.init.to_string();
        let mut command = command("nsenter", &["--target", &target, "--mount", "--pid", "--net"]);
        command.arg(program);
        command
    }
}

/// Takes away what runs left that were killed; their processes went with them.
fn sweep() -> Result<()> {
    let gone = |number: &str| {
        let is_number = !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit());
        is_number && !Path::new("/proc").join(number).exists()
    };
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|it| it.file_name().to_string_lossy().into_owned()).collect()
    };
    for name in names(Path::new("/run/netns")) {
        let number = name.strip_prefix("klc").and_then(|it| it.split(['n', 'w']).next());
        if number.is_some_and(gone) {
            ip(&format!("netns delete {name}"))?;
        }
    }
    let temporary = std::env::temp_dir();
    for name in names(&temporary) {
        let number = name.strip_prefix("klc-").and_then(|it| it.split('-').next());
        if number.is_some_and(gone) {
            fs::remove_dir_all(temporary.join(name))?;
        }
    }
    let hierarchies = names(Path::new(CGROUPS)).into_iter().map(|it| Path::new(CGROUPS).join(it));
    let groups: BTreeSet<String> = hierarchies.flat_map(|it| names(&it)).collect();
    for group in groups {
        if group.strip_prefix(GROUP).is_some_and(gone) {
            remove_groups(&group);
        }
    }
    Ok(())
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.nodes.clear();
        // Best effort: what is not there needs no removal.
        for number in 1..=NODES {
            let _ = ip(&format!("netns delete {}", self.namespace(number)));
        }
        let _ = ip(&format!("netns delete {}", self.world_namespace()));
        remove_groups(&self.cgroup());
    }
}

/// Removes a tree of control groups in every hierarchy, deepest first.
fn remove_groups(group: &str) {
    let hierarchies = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|it| it.path());
    for hierarchy in hierarchies.chain([PathBuf::from(CGROUPS)]) {
        let tree = hierarchy.join(group.trim_start_matches('/'));
        if tree.is_dir() {
            // A group is removed as a directory; its files go with it. Processes that were killed take a moment to go.
            let script = "for i in $(seq 100); do find \"$1\" -depth -type d -exec rmdir {} + 2>/dev/null; \
                          [ -e \"$1\" ] || exit 0; sleep 0.05; done; exit 1";
            if run(&mut command("sh", &["-c", script, "sh", &tree.to_string_lossy()])).is_err() {
                println!("left over: {}", tree.display());
            }
        }
    }
}
