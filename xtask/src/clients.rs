//! `cargo xtask clients`: clients in other languages through restarts of the server, and Prometheus, by the crate of
//! that name. Builds and installs what it needs: packages of pip, npm and apt, and a program that uses kube-rs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::command::{program, run};
use crate::{Places, install};

/// Runs them; fails where one fails.
pub(crate) fn run_command(places: &Places) -> Result<()> {
    let sources = places.root.join("tests/clients");
    let python = install::packages_of_pip(&places.root, &sources.join("python/requirements.txt"))?;
    let node = install::packages_of_npm(&places.root, &python, &sources.join("node"))?;
    let kube_rs = kube_rs(places, &sources.join("kube-rs"))?;
    // One after the other: what others build of Kubelith has the same features.
    for package in ["kubelith", "clients"] {
        places.build(&[package])?;
    }
    let built = places.built();
    let prometheus = install::prometheus(&places.root)?;
    let pairs = [
        ("--kubelith", built.join("kubelith")),
        ("--python-packages", python),
        ("--node-packages", node),
        ("--kube-rs", kube_rs),
        ("--python", sources.join("python")),
        ("--prometheus", prometheus),
    ];
    let arguments: Vec<String> =
        pairs.iter().map(|(flag, path)| format!("{flag}={}", path.display())).collect();
    let tests = built.join("clients").to_string_lossy().into_owned();
    let status = program(&tests, &arguments, &places.root).status();
    let status = status.context("could not start the tests of clients")?;
    ensure!(status.success(), "not all clients were told what happened");
    Ok(())
}

/// The program that uses kube-rs, with a target directory of its own: what it needs is no part of the workspace.
fn kube_rs(places: &Places, sources: &Path) -> Result<PathBuf> {
    run("cargo", &["fmt", "--check"], sources)?;
    let target = places.built().join("kube-rs");
    let directory = format!("--target-dir={}", target.display());
    run("cargo", &["build", "--quiet", "--locked", &directory], sources)?;
    Ok(target.join("debug/kube-rs-client"))
}
