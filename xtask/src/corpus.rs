//! `cargo xtask corpus`: the manifest corpus on a real cluster, by the crate of that name. Builds and finds what it needs.

#![allow(clippy::print_stdout, reason = "this is a program for people")]

use std::path::PathBuf;

use anyhow::Result;

use crate::command::run;
use crate::{Places, images, install};

/// Beside the tables: the manifests.
const MANIFESTS: &str = "../requirements/corpus";

/// What is run; handed on as it is.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Arguments of the tests: `-- --help` lists them
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the tests; fails where one fails.
pub(crate) fn run_command(places: &Places, options: &Options) -> Result<()> {
    let manifests = places.reference.join(MANIFESTS);
    if !manifests.is_dir() {
        println!("corpus: {} is not there, skipped", manifests.display());
        return Ok(());
    }
    let images = images::ensure(places)?;
    let clients = install::clients(&places.root)?;
    run("cargo", &["build", "--quiet", "--package=kubelith", "--package=corpus"], &places.root)?;
    let built = places.built();
    let pairs: [(&str, PathBuf); 5] = [
        ("--kubelith", built.join("kubelith")),
        ("--kubectl", clients.join("bin/kubectl")),
        ("--corpus", manifests),
        ("--registry-root", images.registry_root()),
        ("--program", images.program()),
    ];
    let mut arguments = Vec::new();
    for (flag, path) in pairs {
        arguments.extend([flag.to_owned(), path.to_string_lossy().into_owned()]);
    }
    arguments.extend(options.arguments.iter().cloned());
    run(&built.join("corpus").to_string_lossy(), &arguments, &places.root)
}
