//! One test's view of the cluster: its namespace, its documents, waiting.

use std::fs;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::kubectl::Kubectl;

/// How long a pod may take to come, with others coming at the same time.
pub(crate) const PATIENCE: u32 = 90;

/// What tests must not use at the same time.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    processors: Mutex<()>,
    labels: Mutex<()>,
}

/// A test while it runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) cluster: &'a Cluster<'a>,
    pub(crate) kubectl: &'a Kubectl,
    pub(crate) namespace: &'a str,
    pub(crate) shared: &'a Shared,
}

impl<'a> Case<'a> {
    /// The same in another namespace, which is made.
    pub(crate) fn within(self, namespace: &'a str) -> Result<Self> {
        self.kubectl.make_namespace(namespace)?;
        Ok(Self { namespace, ..self })
    }

    /// Kubectl in the test's namespace.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.run(&self.here(arguments))
    }

    /// The words of a line, separated by single blanks.
    pub(crate) fn line(&self, words: &str) -> Result<String> {
        self.kubectl(&words.split(' ').collect::<Vec<_>>())
    }

    /// What a call complains of, which must fail.
    pub(crate) fn fails(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.fails(&self.here(arguments))
    }

    fn here<'b>(&'b self, arguments: &[&'b str]) -> Vec<&'b str> {
        [&["--namespace", self.namespace], arguments].concat()
    }

    /// A document's text, which may be changed before it is applied.
    pub(crate) fn document(&self, id: &str) -> Result<String> {
        let directory = if id.contains('/') { id.split_once('/') } else { None };
        let (folder, prefix) = directory.unwrap_or(("", id));
        let folder = self.cluster.corpus().join(folder);
        let mut found = fs::read_dir(&folder)?
            .flatten()
            .map(|it| it.path())
            .filter(|it| it.file_name().is_some_and(|it| it.to_string_lossy().starts_with(prefix)));
        let file = found.next().with_context(|| format!("there is no document {id}"))?;
        ensure!(found.next().is_none(), "more than one document begins with {id}");
        fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))
    }

    /// Applies documents as they are.
    pub(crate) fn apply(&self, ids: &[&str]) -> Result<()> {
        ids.iter().try_for_each(|id| self.apply_text(&self.document(id)?).map(drop))
    }

    /// Applies a manifest.
    pub(crate) fn apply_text(&self, text: &str) -> Result<String> {
        self.kubectl.run_with(&self.here(&["apply", "-f", "-"]), text)
    }

    /// Something to read and to be told.
    pub(crate) fn with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.kubectl.run_with(&self.here(arguments), input)
    }

    /// What a call complains of, given something to read.
    pub(crate) fn refused_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        match self.with_input(arguments, input) {
            Ok(told) => bail!("{} went well, which it must not: {told}", arguments.join(" ")),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Kubectl in the test's namespace, not begun.
    pub(crate) fn command(&self, words: &str) -> Command {
        let words: Vec<&str> = words.split(' ').collect();
        self.kubectl.command(&self.here(&words))
    }

    /// An object as it is now.
    pub(crate) fn get(&self, kind: &str, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["get", kind, name, "--output=json"])?)?)
    }

    /// Follows one object until it is as it should be.
    pub(crate) fn until(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        check: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let selector = format!("--field-selector=metadata.name={name}");
        self.kubectl.until(&self.here(&[kind, &selector]), PATIENCE, what, &check)
    }

    /// Follows all objects of a kind until one is as it should be.
    pub(crate) fn until_any(
        &self,
        kind: &str,
        what: &str,
        check: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.kubectl.until(&self.here(&[kind]), PATIENCE, what, &check)
    }

    /// Waits for pods to be ready.
    pub(crate) fn ready(&self, pods: &[&str]) -> Result<()> {
        pods.iter().try_for_each(|pod| {
            self.until("pods", pod, "it is ready", |it| condition(it, "Ready") == "True").map(drop)
        })
    }

    /// Waits for an event about an object.
    pub(crate) fn event(&self, name: &str, reason: &str, message: &str) -> Result<Value> {
        let selector = format!("--field-selector=involvedObject.name={name},reason={reason}");
        let what = format!("there is an event {reason} with {message:?}");
        self.kubectl.until(&self.here(&["events", &selector]), PATIENCE, &what, &|it| {
            text(it, "/message").contains(message)
        })
    }

    /// What a container printed, once the pod has ended well.
    pub(crate) fn log_of_finished(&self, pod: &str) -> Result<String> {
        self.until("pods", pod, "it has succeeded", |it| text(it, "/status/phase") == "Succeeded")?;
        self.kubectl(&["logs", pod])
    }

    /// Runs something in a pod's first container.
    pub(crate) fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", pod, "--"], command].concat())
    }

    /// Deletes a pod at once.
    pub(crate) fn remove(&self, pods: &[&str]) -> Result<()> {
        let words = ["delete", "pods", "--grace-period=1", "--wait=true"];
        self.kubectl(&[&words, pods].concat()).map(drop)
    }

    /// No other test asks for processors meanwhile.
    pub(crate) fn processors(&self) -> MutexGuard<'a, ()> {
        self.shared.processors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No other test uses the node's labels meanwhile.
    pub(crate) fn labels(&self) -> MutexGuard<'a, ()> {
        self.shared.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A text in an object; empty where it is not there.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number in an object.
pub(crate) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// A condition's member.
fn of_condition<'a>(object: &'a Value, kind: &str, member: &str) -> &'a str {
    let all = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = all.into_iter().flatten().find(|it| it["type"] == kind);
    found.and_then(|it| it[member].as_str()).unwrap_or_default()
}

/// A condition's status.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    of_condition(object, kind, "status")
}

/// A condition's message.
pub(crate) fn message<'a>(object: &'a Value, kind: &str) -> &'a str {
    of_condition(object, kind, "message")
}

/// The first container's status.
pub(crate) fn container<'a>(pod: &'a Value, pointer: &str) -> &'a Value {
    const NOTHING: &Value = &Value::Null;
    pod.pointer(&format!("/status/containerStatuses/0{pointer}")).unwrap_or(NOTHING)
}
