//! `cargo xtask bench`: builds what is measured and what measures, gives both a network of their own, keeps the table.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{Places, command};

/// The node's address in the measurement's network, with its prefix.
const NODE: &str = "10.88.77.1";
/// What the image is called that pods run.
const IMAGE: &str = "localhost/bench:1";
/// Programs that measure single parts, each an example of its crate.
const EXAMPLES: &[(&str, &str)] =
    &[("dns", "load"), ("proxy", "service_figures"), ("scheduler", "throughput")];

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Scenarios; all, and the table anew, where none is named
    scenarios: Vec<String>,
    /// Which workload `scheduler` measures, by the beginning of its name (default: all)
    #[arg(long, value_name = "NAME")]
    workload: Option<String>,
    /// Write the table here
    #[arg(long, value_name = "FILE")]
    out: Option<std::path::PathBuf>,
    /// Measure this binary instead of building one
    #[arg(long)]
    binary: Option<std::path::PathBuf>,
}

/// Measures.
pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    if !is_root()? {
        bail!("measuring needs root: it makes a network namespace and runs pods");
    }
    build(places, options)?;
    let release = places.built().with_file_name("release");
    let directory = tempfile::tempdir()?;
    let image = image(places, directory.path())?;
    let network = Network::new(&format!("kl-bench-{}", std::process::id()))?;
    let binary = options.binary.clone().unwrap_or_else(|| release.join("kubelith"));
    let net = format!("--net=/run/netns/{}", network.0);
    let mut arguments = vec![net, release.join("bench").display().to_string()];
    arguments.push(format!("--binary={}", binary.display()));
    arguments.push(format!("--examples={}", release.join("examples").display()));
    arguments.push(format!("--image={image}"));
    arguments.push(format!("--node-ip={NODE}"));
    arguments.extend(options.workload.iter().map(|it| format!("--workload={it}")));
    let page = || places.root.join("docs/benchmarks.md");
    let out = options.out.clone().or_else(|| options.scenarios.is_empty().then(page));
    arguments.extend(out.map(|it| format!("--out={}", it.display())));
    arguments.extend(options.scenarios.iter().cloned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    command::run("nsenter", &arguments, &places.root)
}

fn is_root() -> Result<bool> {
    Ok(command::output("id", &["-u"], Path::new("/"))?.trim() == "0")
}

fn build(places: &Places, options: &Options) -> Result<()> {
    let mut packages = vec!["build", "--release", "-p", "bench"];
    if options.binary.is_none() {
        packages.extend(["-p", "kubelith"]);
    }
    command::run("cargo", &packages, &places.root)?;
    for (package, example) in EXAMPLES {
        let arguments = ["build", "--release", "-p", package, "--example", example];
        command::run("cargo", &arguments, &places.root)?;
    }
    Ok(())
}

/// An image with busybox and nothing else.
fn image(places: &Places, directory: &Path) -> Result<String> {
    let root = directory.join("root");
    fs::create_dir_all(root.join("bin"))?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))
        .context("pods run busybox: install busybox-static")?;
    let archive = directory.join("image.tar").display().to_string();
    let (root, script) = (root.display().to_string(), "examples/build-image.sh");
    command::run("sh", &[script, IMAGE, &root, &archive], &places.root)?;
    Ok(archive)
}

/// A network namespace with an address for the node; it goes when dropped.
struct Network(String);

impl Network {
    fn new(name: &str) -> Result<Self> {
        let ip = |arguments: &str| {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            command::run("ip", &arguments, Path::new("/"))
        };
        ip(&format!("netns add {name}"))?;
        let network = Self(name.to_owned());
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link add node0 type veth peer name node1"))?;
        ip(&format!("-n {name} address add {NODE}/24 dev node0"))?;
        ip(&format!("-n {name} link set node1 up"))?;
        ip(&format!("-n {name} link set node0 up"))?;
        ip(&format!("-n {name} route add default dev node0"))?;
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = command::run("ip", &["netns", "delete", &self.0], Path::new("/"));
    }
}
