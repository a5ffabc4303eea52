//! The real kubectl: calls, objects, waiting for a state by a watch.

use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{command, finish, run, shown, with_input};

/// No call may take longer, in seconds.
const LONGEST: &str = "150";

/// How to call it.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    pub(crate) program: PathBuf,
    pub(crate) server: String,
    pub(crate) world: String,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) home: PathBuf,
}

impl Kubectl {
    /// A call that has not begun and may take as long as it likes.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.within(&[], arguments)
    }

    /// A call that is ended when it takes too long.
    fn bounded(&self, arguments: &[&str]) -> Command {
        self.within(&["timeout", LONGEST], arguments)
    }

    fn within(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let mut command = command("nsenter", &[format!("--net=/run/netns/{}", self.world)]);
        command
            .args(wrapper)
            .arg(&self.program)
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--server={}", self.server))
            .args(arguments)
            .env("HOME", &self.home);
        command
    }

    /// What it prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.bounded(arguments))
    }

    /// What it prints, given something to read.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let command = self.bounded(arguments);
        let what = shown(&command);
        let output = with_input(command, input)?;
        let (out, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("{what} failed ({}):\n{error}{out}", output.status);
        }
        Ok(out.into_owned())
    }

    /// Makes a namespace; one that is there already will do.
    pub(crate) fn make_namespace(&self, name: &str) -> Result<()> {
        let manifest = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n");
        self.run_with(&["apply", "-f", "-"], &manifest).map(drop)
    }

    /// What it complains of.
    pub(crate) fn fails(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.bounded(arguments);
        let output = finish(&mut command)?;
        if output.status.success() {
            bail!("{} went well, which it must not", shown(&command));
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Follows objects until one is as it should be.
    pub(crate) fn until(
        &self,
        arguments: &[&str],
        seconds: u32,
        what: &str,
        check: &dyn Fn(&Value) -> bool,
    ) -> Result<Value> {
        let limit = format!("--request-timeout={seconds}s");
        let mut command =
            self.command(&[&["get", "--watch", "--output=json", &limit], arguments].concat());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", shown(&command)))?;
        let out = BufReader::new(child.stdout.take().context("its output is ours")?);
        let (mut last, mut found) = (None, None);
        for object in serde_json::Deserializer::from_reader(out).into_iter::<Value>() {
            let Ok(object) = object else { break };
            if check(&object) {
                found = Some(object);
                break;
            }
            last = Some(object);
        }
        let _ = child.kill();
        let error = child.wait_with_output()?.stderr;
        found.with_context(|| {
            let last = last.map_or_else(|| "nothing".to_owned(), |it| brief(&it));
            format!(
                "waited {seconds} s in vain until {what} ({}): last seen {last}\n{}",
                arguments.join(" "),
                String::from_utf8_lossy(&error)
            )
        })
    }
}

/// What tells most of an object: its status, or a part of an event.
fn brief(object: &Value) -> String {
    let mut object = object.clone();
    if let Some(members) = object.as_object_mut() {
        members.remove("spec");
        if let Some(metadata) = members.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            metadata.remove("annotations");
        }
    }
    object.to_string()
}
