//! `cargo xtask corpus`: the manifest corpus on a real cluster, by the crate of that name. Builds and finds what it needs.

#![allow(clippy::print_stdout, reason = "this is a program for people")]

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::command::{output, program};
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
    let Some(mut tests) = Tests::build(places)? else { return Ok(()) };
    tests.arguments.extend(options.arguments.iter().cloned());
    // A person may hold the cluster until a line is read.
    let status = program(&tests.program, &tests.arguments, &places.root)
        .stdin(Stdio::inherit())
        .status()
        .context("could not start the tests")?;
    ensure!(status.success(), "not all documents passed");
    Ok(())
}

/// The recorded kubelet's pods, played to a node of ours; what was printed comes back.
pub(crate) fn recordings(places: &Places, more: &[String], show: bool) -> Result<Option<String>> {
    let Some(mut tests) = Tests::build(places)? else { return Ok(None) };
    let pairs = [
        ("--recordings", places.reference.join("node.jsonl")),
        ("--player", places.reference.join("../tools/node.py")),
        ("--recorded-image", tests.images.recorded_busybox()),
    ];
    tests.add(&pairs);
    tests.arguments.push("--jobs=14".to_owned());
    tests.arguments.extend(more.iter().map(|it| format!("--recording={it}")));
    if show {
        tests.arguments.push("--show".to_owned());
    }
    output(&tests.program, &tests.arguments, &places.root).map(Some)
}

/// The tests' program with what it always needs.
struct Tests {
    program: String,
    arguments: Vec<String>,
    images: images::Images,
}

impl Tests {
    /// Nothing where the manifests are not there.
    fn build(places: &Places) -> Result<Option<Self>> {
        let manifests = places.reference.join(MANIFESTS);
        if !manifests.is_dir() {
            println!("corpus: {} is not there, skipped", manifests.display());
            return Ok(None);
        }
        let images = images::ensure(places)?;
        let clients = install::clients(&places.root)?;
        let others = install::other_clients(&places.root)?;
        places.build(&["kubelith", "corpus"])?;
        let built = places.built();
        let program = built.join("corpus").to_string_lossy().into_owned();
        let pairs = [
            ("--kubelith", built.join("kubelith")),
            ("--kubectl", clients.join("bin/kubectl")),
            ("--clients", others),
            ("--corpus", manifests),
            ("--registry-root", images.registry_root()),
            ("--program", images.program()),
        ];
        let mut tests = Self { program, arguments: Vec::new(), images };
        tests.add(&pairs);
        Ok(Some(tests))
    }

    fn add(&mut self, pairs: &[(&str, PathBuf)]) {
        for (flag, path) in pairs {
            self.arguments.extend([(*flag).to_owned(), path.to_string_lossy().into_owned()]);
        }
    }
}
