//! Measures a server, and a trivial one beside it, under the same load. `cargo xtask bench` builds both, gives this a
//! network of its own, and keeps the table in `docs/benchmarks.md`.

#![allow(clippy::print_stdout, reason = "this is a program for people")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "it measures real time")]

mod api;
mod controllers;
mod etcd;
mod large;
mod load;
mod node;
mod parts;
mod reference;
mod server;
mod start;
mod table;
mod watch;
mod wide;
mod workloads;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use futures::future::LocalBoxFuture;
use indicatif::{ProgressBar, ProgressStyle};

use crate::table::Figure;

/// Measure a server.
#[derive(Debug, Parser)]
struct Options {
    /// The server's binary
    #[arg(long)]
    binary: PathBuf,
    /// Where the programs that measure single parts are: `load`, `service_figures`, `throughput`
    #[arg(long)]
    examples: PathBuf,
    /// The image that pods run, as an archive
    #[arg(long)]
    image: PathBuf,
    /// An address of this machine for the node
    #[arg(long, default_value = "10.88.77.1")]
    node_ip: String,
    /// Write the table here
    #[arg(long)]
    out: Option<PathBuf>,
    /// Which workload of the scheduler, by the beginning of its name; `all` for all
    #[arg(long)]
    workload: Option<String>,
    /// Which scenarios; all where none is named
    scenarios: Vec<String>,
}

type Measure = for<'a> fn(&'a Options) -> LocalBoxFuture<'a, Result<Vec<Figure>>>;

/// Everything that is measured, in the order of the table.
const SCENARIOS: &[(&str, Measure)] = &[
    ("create", |it| Box::pin(api::create(it))),
    ("etcd", |it| Box::pin(etcd::create(it))),
    ("get", |it| Box::pin(api::get(it))),
    ("update", |it| Box::pin(api::update(it))),
    ("patch", |it| Box::pin(api::patch(it))),
    ("pods", |it| Box::pin(api::pods(it))),
    ("list", |it| Box::pin(api::list(it))),
    ("watch", |it| Box::pin(watch::watch(it))),
    ("apply", |it| Box::pin(wide::apply(it))),
    ("protobuf", |it| Box::pin(wide::protobuf(it))),
    ("admission", |it| Box::pin(wide::admission(it))),
    ("definitions", |it| Box::pin(wide::definitions(it))),
    ("informers", |it| Box::pin(wide::informers(it))),
    ("large", |it| Box::pin(large::measure(it))),
    ("idle", |it| Box::pin(start::idle(it))),
    ("start", |it| Box::pin(start::fresh(it))),
    ("restart", |it| Box::pin(start::with_objects(it))),
    ("pod-start", |it| Box::pin(node::one_by_one(it))),
    ("pod-burst", |it| Box::pin(node::at_once(it))),
    ("dns", |it| Box::pin(std::future::ready(parts::dns(it)))),
    ("proxy", |it| Box::pin(std::future::ready(parts::proxy(it)))),
    ("decisions", |it| Box::pin(std::future::ready(parts::scheduler(it)))),
    ("scheduler", |it| Box::pin(workloads::measure(it))),
    ("controllers", |it| Box::pin(controllers::measure(it))),
    ("scale", |it| Box::pin(controllers::many(it))),
];

fn main() -> Result<()> {
    let options = Options::parse();
    let named = |name: &str| SCENARIOS.iter().any(|(it, _)| *it == name);
    if let Some(unknown) = options.scenarios.iter().find(|it| !named(it)) {
        let names: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
        bail!("there is no scenario {unknown}; there are {}", names.join(", "));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let wanted =
        |name: &str| options.scenarios.is_empty() || options.scenarios.iter().any(|it| it == name);
    let chosen: Vec<_> = SCENARIOS.iter().filter(|(name, _)| wanted(name)).collect();
    let bar = ProgressBar::new(chosen.len() as u64);
    bar.set_style(ProgressStyle::with_template("[{pos}/{len}] {bar:30} {msg} {elapsed}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut figures = Vec::new();
    for (name, measure) in chosen {
        bar.set_message(*name);
        match runtime.block_on(measure(&options)) {
            Ok(measured) => {
                bar.suspend(|| measured.iter().for_each(|it| println!("{name:10} {it}")));
                figures.extend(measured.into_iter().map(|it| (*name, it)));
            }
            Err(error) => {
                bar.suspend(|| println!("{name:10} could not be measured: {error:#}"));
                figures.push((*name, Figure::missing(&format!("{error:#}"))));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some(out) = &options.out {
        std::fs::write(out, table::document(&figures))?;
    }
    Ok(())
}
