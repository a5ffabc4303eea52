//! Programs: run to their end, or in the background until dropped. It knows nothing of clusters.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long anything in the background may take to be there.
pub(crate) const START: Duration = Duration::from_secs(60);
/// How long a condition that nothing announces is waited for between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// A program and its arguments.
pub(crate) fn command<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[A]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs to the end; what it printed comes back, or what it complained of.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = finish(command)?;
    if !output.status.success() {
        bail!(
            "{} failed ({}):\n{}{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end, however it ends.
pub(crate) fn finish(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("could not start {}", shown(command)))
}

/// Runs to the end with something to read, however it ends.
pub(crate) fn with_input(mut command: Command, input: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {}", shown(&command)))?;
    // What does not fit into the pipe is read while the program runs; one that ends early reads nothing.
    let _ = child.stdin.take().context("its input is ours")?.write_all(input.as_bytes());
    Ok(child.wait_with_output()?)
}

/// A command as one would type it, of kubectl's only what differs.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|it| it.to_string_lossy()).collect();
    let kubectl = words.iter().position(|it| it.ends_with("/kubectl"));
    // Its first two arguments say where the server is.
    match kubectl.and_then(|at| words.get(at + 3..)) {
        Some(arguments) => format!("kubectl {}", arguments.join(" ")),
        None => words.join(" "),
    }
}

/// The `ip` tool.
pub(crate) fn ip(words: &str) -> Result<String> {
    run(&mut command("ip", &words.split(' ').collect::<Vec<_>>()))
}

/// A program in the background; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    what: String,
}

impl Background {
    /// Starts; output goes to a file. It ends with the thread that starts it, even if that is killed.
    pub(crate) fn start(wanted: &Command, log: &Path) -> Result<Self> {
        let log =
            File::create(log).with_context(|| format!("could not write {}", log.display()))?;
        let what = shown(wanted);
        let mut command = command("setpriv", &["--pdeathsig", "KILL"]);
        command.arg(wanted.get_program()).args(wanted.get_args());
        for (name, value) in wanted.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let child = command
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("could not start {what}"))?;
        Ok(Self { child, what })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The only child of this process, once it is there.
    pub(crate) fn child_id(&mut self) -> Result<u32> {
        let file = format!("/proc/{0}/task/{0}/children", self.id());
        self.until("has a child", || {
            std::fs::read_to_string(&file).ok()?.split_whitespace().next()?.parse().ok()
        })
    }

    /// Waits for what `look` finds, as long as the program runs.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}) before it {what}", self.what);
            }
            if begun.elapsed() > START {
                bail!("{}: waited {START:?} until it {what}", self.what);
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
