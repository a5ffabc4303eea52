//! `cargo xtask replay`: upstream's recorded answers against a fresh server of ours.
//!
//! Answers that are to differ stand with their reasons in `docs/replay-exceptions.tsv`, and are not judged.
//! A ratchet, `docs/replay.tsv`, holds how many answers of each topic were right when it was last written: fewer is a
//! failure, more asks to write it anew with `--write`.

#![allow(clippy::print_stdout, reason = "this is a program for people")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the tool itself waits for a real process"
)]

mod controllers;
mod node;
mod scheduler;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{output, program};
use crate::{Places, metrics};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(30);

/// A server without controllers.
pub(crate) const BARE: &[&str] = &["--disable=agent,proxy,dns,scheduler,controllers"];

/// What else the recorded server was given: addresses of this range are masked.
const RECORDED: &[&str] =
    &["--disable=agent,proxy,dns,scheduler,controllers", "--service-cidr=10.96.0.0/16"];

/// What is played.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Only judge this topic (repeatable)
    #[arg(long, value_name = "NAME")]
    topic: Vec<String>,
    /// Show this many wrong answers of each topic
    #[arg(long, default_value_t = 0, value_name = "N")]
    show: usize,
    /// Play what upstream's kubelet did with pods to a node of ours; topics are then beginnings of names
    #[arg(long)]
    node: bool,
    /// Play upstream's recorded stories of controllers; the topic is then the beginning of their names
    #[arg(long)]
    controllers: bool,
    /// The stories too that take minutes each
    #[arg(long)]
    long: bool,
    /// Write the number of right answers to docs/replay.tsv
    #[arg(long)]
    write: bool,
    #[command(subcommand)]
    of: Option<Of>,
}

/// Recordings of something else.
#[derive(Debug, clap::Subcommand)]
enum Of {
    /// Play upstream's recorded decisions of the scheduler; the last line is RIGHT/ALL right
    Scheduler {
        /// The decisions, one scenario a line [default: those beside the repository]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

impl Options {
    /// The recorded kubelet, whole.
    pub(crate) fn of_node() -> Self {
        Self { node: true, ..Self::default() }
    }

    /// The recorded controllers.
    pub(crate) fn of_controllers() -> Self {
        Self { controllers: true, ..Self::default() }
    }
}

/// A server that is ended when this is dropped.
pub(crate) struct Server {
    process: Child,
    port: u16,
    url: String,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to save: its store is in memory.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// A fresh one with these flags, whose administrator, named as in the recordings, has the token `replay`.
    pub(crate) fn start(places: &Places, flags: &[&str]) -> Result<Self> {
        places.build(&["kubelith"])?;
        let directory = tempfile::tempdir()?;
        let tokens = directory.path().join("tokens");
        fs::write(&tokens, "replay,admin,1,system:masters\n")?;
        // Bound to find a free port; the server binds it a moment later.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let data = directory.path().join("data");
        let port_text = port.to_string();
        let (data, tokens) = (text(&data), text(&tokens));
        let usual = [
            "server",
            "--storage=memory",
            "--bind-address=127.0.0.1",
            "--data-dir",
            &data,
            "--secure-port",
            &port_text,
            "--token-auth-file",
            &tokens,
        ];
        let arguments: Vec<&str> = usual.into_iter().chain(flags.iter().copied()).collect();
        let log = fs::File::create(directory.path().join("log"))?;
        let binary = places.built().join("kubelith");
        let process = program(&text(&binary), &arguments, &places.root)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("could not start the server")?;
        let url = format!("https://127.0.0.1:{port}");
        let mut server = Self { process, port, url, _directory: directory };
        server.wait()?;
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.process.try_wait()? {
                let log =
                    fs::read_to_string(self._directory.path().join("log")).unwrap_or_default();
                bail!("the server ended at its start: {status}\n{log}");
            }
            if begun.elapsed() > START {
                bail!("the server does not listen after {START:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Plays the recordings; fails where fewer answers are right than before, twice in a row: some tell times, and a run that
/// crosses a second at the wrong moment orders managed fields otherwise.
pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    if let Some(Of::Scheduler { file: Some(file) }) = &options.of {
        return scheduler::run(places, file);
    }
    if !places.has_reference() {
        println!("replay: {} is not there, skipped", places.reference.display());
        return Ok(());
    }
    if options.of.is_some() {
        return scheduler::run(places, &places.reference.join("scheduler-decisions.jsonl"));
    }
    if options.node {
        return node::run(places, options);
    }
    if options.controllers {
        return controllers::run(places, options);
    }
    let file = places.root.join("docs/replay.tsv");
    let mut answers = answers(places, options, None)?;
    if !answers.wrong.is_empty() {
        println!("played again: {}", answers.wrong.join(", "));
        answers.mend(&self::answers(places, options, Some(&answers.wrong))?);
    }
    if options.write {
        write(&file, &answers.right)?;
        return tell(&places.root.join("docs/gaps.md"), &answers.right);
    }
    compare(&file, &answers.right)
}

/// What came of a play.
struct Answers {
    /// Topic to (right, all).
    right: BTreeMap<String, (u32, u32)>,
    /// The answers that were wrong: topic, slash, name.
    wrong: Vec<String>,
}

impl Answers {
    /// Takes in what was right the second time, where only what was wrong was judged.
    fn mend(&mut self, again: &Self) {
        for (topic, (right, _)) in &again.right {
            if let Some((before, _)) = self.right.get_mut(topic) {
                *before += right;
            }
        }
    }
}

/// Plays the recordings to a fresh server. All are sent, since later ones build on earlier ones; `only` these are judged.
fn answers(places: &Places, options: &Options, only: Option<&[String]>) -> Result<Answers> {
    let directory = tempfile::tempdir()?;
    let wrong = text(&directory.path().join("wrong.json"));
    let judged = text(&directory.path().join("judged"));
    let server = Server::start(places, RECORDED)?;
    let player = places.reference.join("../tools/replay.py");
    let url = server.url();
    let show = options.show.to_string();
    let player = text(&player);
    let exceptions = text(&places.root.join("docs/replay-exceptions.tsv"));
    let mut arguments =
        vec![player.as_str(), "--server", url, "--token", "replay", "--show", &show];
    arguments.extend(["--except", &exceptions, "--json", &wrong]);
    if let Some(only) = only {
        fs::write(&judged, only.join("\n")).context("could not write what is judged")?;
        arguments.extend(["--only", &judged]);
    }
    for topic in &options.topic {
        arguments.extend(["--topic", topic]);
    }
    // It exits with failure as long as anything is wrong: what it prints is what counts.
    let output =
        program("python3", &arguments, &places.root).output().context("could not start python3")?;
    if only.is_none() {
        check_metrics(places, &server)?;
    }
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{printed}");
    let mut right = counts(&printed);
    if right.is_empty() {
        bail!("the player printed no result: {}", String::from_utf8_lossy(&output.stderr));
    }
    let wrong = fs::read(&wrong).context("the player did not say what is wrong")?;
    let wrong: Vec<serde_json::Value> = serde_json::from_slice(&wrong)?;
    let names = wrong.iter().filter_map(|it| it["id"].as_str());
    let wrong = names.filter(|it| !it.starts_with(CUSTOM)).map(str::to_owned).collect();
    if only.is_none() && right.contains_key(CUSTOM) {
        custom(places, &show, &mut right)?;
    }
    Ok(Answers { right, wrong })
}

/// What was counted meanwhile is told as upstream tells it.
fn check_metrics(places: &Places, server: &Server) -> Result<()> {
    let url = format!("{}/metrics", server.url());
    let arguments = [
        "--silent",
        "--show-error",
        "--fail",
        "--insecure",
        "-H",
        "Authorization: Bearer replay",
        &url,
    ];
    let page = output("curl", &arguments, &places.root)?;
    let problems = metrics::shapes(&places.reference, &page)?;
    problems.iter().for_each(|problem| println!("metrics: {problem}"));
    if problems.is_empty() { Ok(()) } else { bail!("{} metrics differ", problems.len()) }
}

/// Stories of a custom resource. Of the stories before them the recordings lack the step that lets the definition go
/// which these define anew, so they are judged on a server of their own.
const CUSTOM: &str = "custom-resources";

/// Plays the stories of custom resources alone, and corrects the numbers.
fn custom(places: &Places, show: &str, right: &mut BTreeMap<String, (u32, u32)>) -> Result<()> {
    let server = Server::start(places, BARE)?;
    let directory = tempfile::tempdir()?;
    let name = format!("{CUSTOM}.jsonl");
    let recorded = places.reference.join("recorded").join(&name);
    fs::copy(&recorded, directory.path().join(&name))
        .with_context(|| format!("could not copy {}", recorded.display()))?;
    let player = text(&places.reference.join("../tools/replay.py"));
    let recorded = text(directory.path());
    let arguments = [
        player.as_str(),
        "--server",
        server.url(),
        "--token",
        "replay",
        "--show",
        show,
        "--recorded",
        &recorded,
    ];
    let output =
        program("python3", &arguments, &places.root).output().context("could not start python3")?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{CUSTOM}, alone:");
    print!("{printed}");
    let Some(alone) = counts(&printed).remove(CUSTOM) else {
        bail!("the player printed no result: {}", String::from_utf8_lossy(&output.stderr));
    };
    let before = right.insert(CUSTOM.to_owned(), alone);
    if let (Some((among, _)), Some((all, _))) = (before, right.get_mut("all")) {
        *all = all.saturating_sub(among) + alone.0;
    }
    Ok(())
}

/// Between these lines of `docs/gaps.md` stands the table of topics.
const TABLE: [&str; 2] = ["<!-- recorded answers: begin -->\n", "<!-- recorded answers: end -->\n"];

/// Writes the table of topics into a document.
fn tell(file: &Path, right: &BTreeMap<String, (u32, u32)>) -> Result<()> {
    let shown = file.display();
    let text = fs::read_to_string(file).with_context(|| format!("could not read {shown}"))?;
    let parts = text.split_once(TABLE[0]);
    let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(TABLE[1])?.1)));
    let Some((before, after)) = parts else {
        bail!("{shown} has no place for the table of topics")
    };
    let mut table = String::from("| topic | right | of | share |\n|---|---|---|---|\n");
    for (topic, (right, all)) in right {
        let share = f64::from(*right) / f64::from(*all).max(1.0) * 100.0;
        writeln!(table, "| {topic} | {right} | {all} | {share:.1} % |")?;
    }
    let text = [before, TABLE[0], &table, TABLE[1], after].concat();
    fs::write(file, text).with_context(|| format!("could not write {shown}"))
}

/// Topic to (right, all), read from lines such as `auth  43 right,  44 status, of 67`.
fn counts(printed: &str) -> BTreeMap<String, (u32, u32)> {
    let mut counts = BTreeMap::new();
    for line in printed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [topic, right, "right,", _, "status,", "of", all] = words[..]
            && let (Ok(right), Ok(all)) = (right.parse(), all.parse())
        {
            counts.insert(topic.to_owned(), (right, all));
        }
    }
    counts
}

/// What is known to be wrong, with the reasons: lines of name, tab, reason below a heading.
fn exceptions(file: &Path) -> Result<BTreeMap<String, String>> {
    let all =
        fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
    let rows = all.lines().skip(1).filter_map(|line| line.split_once('\t'));
    Ok(rows.map(|(name, reason)| (name.to_owned(), reason.to_owned())).collect())
}

fn write(file: &Path, right: &BTreeMap<String, (u32, u32)>) -> Result<()> {
    let mut text = String::from("topic\tright\tof\n");
    for (topic, (right, all)) in right {
        writeln!(text, "{topic}\t{right}\t{all}")?;
    }
    fs::write(file, text).with_context(|| format!("could not write {}", file.display()))
}

fn compare(file: &Path, right: &BTreeMap<String, (u32, u32)>) -> Result<()> {
    let known = fs::read_to_string(file).unwrap_or_default();
    let mut worse = Vec::new();
    for line in known.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [topic, floor, _] = columns[..] else { continue };
        let floor: u32 = floor.parse().unwrap_or_default();
        let Some((now, _)) = right.get(topic) else { continue };
        if *now < floor {
            worse.push(format!("{topic}: {now} right, {floor} before"));
        }
    }
    if worse.is_empty() {
        Ok(())
    } else {
        bail!("fewer recorded answers are right than before: {}", worse.join("; "))
    }
}
