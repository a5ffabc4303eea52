//! `cargo xtask images`: the images that the documents under test name, made of Debian's packages and one program of
//! ours, in a registry that stands in for all others.
//!
//! Everything lies in `target/images`. A layer is made once for each recipe, so that a second run only compares.

#![allow(clippy::print_stdout, reason = "this is a program for people")]
#![allow(clippy::disallowed_types, reason = "the tool itself measures real time")]

mod catalog;
mod debian;
mod layer;
mod layout;
mod registry;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Places;
use crate::command::run;

/// What is done with the images.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Serve them on this port of loopback until interrupted
    #[arg(long, value_name = "PORT")]
    serve: Option<u16>,
}

/// Where the images lie.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    directory: PathBuf,
}

impl Images {
    fn at(places: &Places) -> Self {
        Self { directory: places.root.join("target/images") }
    }

    /// What Debian's registry serves.
    pub(crate) fn registry_root(&self) -> PathBuf {
        self.directory.join("registry")
    }

    /// A bare busybox as an archive: the image that the recorded kubelet ran.
    pub(crate) fn recorded_busybox(&self) -> PathBuf {
        self.directory.join("recorded-busybox.tar")
    }

    /// Our program, built for images; it also runs outside of them.
    pub(crate) fn program(&self) -> PathBuf {
        self.directory.join("build/release/testapp")
    }
}

/// Makes what is missing, and serves it where that is asked for.
pub(crate) fn run_command(places: &Places, options: &Options) -> Result<()> {
    let images = ensure(places)?;
    let Some(port) = options.serve else { return Ok(()) };
    let mirrors = images.directory.join("registries.yaml");
    std::fs::write(&mirrors, registry::mirrors("127.0.0.1", port))?;
    println!("serving on 127.0.0.1:{port}: give a server `--registries {}`", mirrors.display());
    registry::Registry::start(&images.registry_root(), port)?.wait()
}

/// Makes what is missing.
pub(crate) fn ensure(places: &Places) -> Result<Images> {
    let begun = Instant::now();
    let images = Images::at(places);
    std::fs::create_dir_all(&images.directory)?;
    build_program(places, &images)?;
    let layers = layer::Cache::open(&images)?;
    let layout = layout::Layout::open(&images.directory.join("layout"))?;
    let bar = progress(catalog::IMAGES.len())?;
    let mut made = Vec::new();
    for image in catalog::IMAGES {
        let name = image.names.first().context("an image has a name")?;
        bar.set_message((*name).to_owned());
        let built = image.layers.iter().map(|it| layers.get(it)).collect::<Result<Vec<_>>>();
        let built = built.with_context(|| format!("could not make image {name}"))?;
        made.push((image, layout.image(image, &built)?));
        bar.inc(1);
    }
    bar.finish_and_clear();
    recorded_busybox(&images, &layers, &layout)?;
    let pushed = registry::push_all(&images, &layout, &made)?;
    println!(
        "images: {} names, {pushed} of them new, in {:.1} s",
        made.iter().map(|(image, _)| image.names.len()).sum::<usize>(),
        begun.elapsed().as_secs_f64()
    );
    Ok(images)
}

/// The image for recordings goes into no registry: its name is taken there.
fn recorded_busybox(images: &Images, layers: &layer::Cache, layout: &layout::Layout) -> Result<()> {
    let (image, archive) = (&catalog::RECORDED_BUSYBOX, images.recorded_busybox());
    let built = image.layers.iter().map(|it| layers.get(it)).collect::<Result<Vec<_>>>()?;
    let descriptor = layout.image(image, &built)?;
    let marker = archive.with_extension("digest");
    if std::fs::read_to_string(&marker).is_ok_and(|it| it == descriptor.digest) {
        return Ok(());
    }
    registry::archive(layout, &descriptor, &image.names.concat(), &archive)?;
    Ok(std::fs::write(&marker, descriptor.digest)?)
}

/// Linked statically, so that it runs in an image that has nothing else.
fn build_program(places: &Places, images: &Images) -> Result<()> {
    let target = images.directory.join("build").to_string_lossy().into_owned();
    let arguments = [
        "rustc",
        "--quiet",
        "--release",
        "--package=testapp",
        "--bin=testapp",
        "--target-dir",
        &target,
        "--",
        "-Ctarget-feature=+crt-static",
        "-Cstrip=symbols",
    ];
    run("cargo", &arguments, &places.root)
}

fn progress(images: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("images [{bar:30}] {pos}/{len} {msg}")?;
    Ok(ProgressBar::new(u64::try_from(images)?).with_style(style.progress_chars("=> ")))
}

/// A path as an argument.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
