//! Pods that run because a file says so, whatever the API server says: read from a directory and kept in step with it.
//!
//! What people see of them on the server is a mirror, which the pod's worker keeps: see [`mirror`].

pub(crate) mod mirror;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::reflector::{Cached, StoreChange};
use component_base::ShutdownSignal;
use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use k8s_openapi::api::core::v1::Pod;
use registry::{AnyResource, Registry, Served};
use sha2::{Digest, Sha256};

use crate::manager::Manager;
use crate::shared::Shared;

/// Annotations of a pod that has a source. Upstream's own names.
pub(crate) const SOURCE: &str = "kubernetes.io/config.source";
pub(crate) const HASH: &str = "kubernetes.io/config.hash";
const SEEN: &str = "kubernetes.io/config.seen";
/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 10 << 20;
/// Files of a directory that are read at most.
const MAX_FILES: usize = 1_000;

/// The version of what no server has written: of a pod that a store would hold.
const UNWRITTEN: &str = "0";

/// Whether a pod is of a file. What the server sends has a version, whatever its annotations say.
pub(crate) fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    pod.metadata.resource_version.as_deref().is_none_or(|it| it == UNWRITTEN)
        && annotations.and_then(|it| it.get(SOURCE)).is_some_and(|it| it == "file")
}

/// Runs until `stop`: reads the directory, and again whenever something in it changes.
pub(crate) async fn run(
    shared: Arc<Shared>,
    manager: Arc<Manager>,
    dir: PathBuf,
    stop: ShutdownSignal,
) {
    let mut changes = match watch(&dir) {
        Ok(it) => it,
        Err(error) => {
            tracing::error!(dir = %dir.display(), %error, "could not watch the directory of static pods: none runs");
            return;
        }
    };
    let judge = Judge::new();
    let mut known = BTreeMap::new();
    loop {
        match read(&dir, &shared, &judge) {
            Ok(found) => update(&manager, &mut known, found),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "could not read the directory of static pods");
            }
        }
        tokio::select! {
            it = changes.next() => if it.is_none() { return },
            () = stop.requested() => return,
        }
    }
}

fn watch(dir: &Path) -> io::Result<impl StreamExt<Item = ()> + Unpin + use<>> {
    fs::create_dir_all(dir)?;
    let inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::CREATE;
    inotify.watches().add(dir, mask)?;
    Ok(inotify.into_event_stream(vec![0; 4096])?.map(|_| ()))
}

/// Says of a pod what a server would.
#[derive(Debug)]
struct Judge {
    pods: Arc<dyn AnyResource>,
    served: Served,
}

impl Judge {
    fn new() -> Self {
        let registry = Registry::built_in();
        let (place, served) =
            registry.find("", "v1", "pods").expect("because pods are built into every registry");
        Self { pods: Arc::clone(&registry.resources()[place]), served }
    }

    /// Why a server would refuse to create the pod, or its mirror.
    fn problem(&self, pod: &Value) -> Option<String> {
        let mut pod = pod.clone();
        if let Err(error) = self.pods.conform(&self.served, &mut pod) {
            return Some(error.to_string());
        }
        self.pods.default(&self.served, &mut pod);
        self.pods.to_storage(&self.served, &mut pod);
        self.pods.prepare_create(&mut pod);
        // It would have to be read for a pod that no server has looked at, and no mirror of it may be made.
        match api::pod_references::first_of(&pod) {
            Ok(None) => {}
            Ok(Some(named)) => return Some(format!("static pods may not reference {named}")),
            Err(why) => return Some(why),
        }
        let errors = self.pods.validate(&self.served, &pod);
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

type Known = BTreeMap<String, Arc<Cached>>;

/// Tells the manager what changed. A changed file is another pod: the old one ends first.
fn update(manager: &Manager, known: &mut Known, found: Known) {
    for (uid, old) in known.iter().filter(|(uid, _)| !found.contains_key(*uid)) {
        tracing::info!(uid, pod = %old.key, "a static pod is to end");
        manager.change(StoreChange { old: Some(Arc::clone(old)), new: None });
    }
    for (uid, new) in &found {
        if !known.contains_key(uid) {
            manager.change(StoreChange { old: None, new: Some(Arc::clone(new)) });
        }
    }
    *known = found;
}

/// The pods of a directory, by uid. A file that holds none is told in the log and left out.
fn read(dir: &Path, shared: &Shared, judge: &Judge) -> io::Result<Known> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?.flatten().map(|it| it.path()).collect();
    paths.retain(|it| {
        let hidden = it.file_name().is_some_and(|it| it.as_encoded_bytes().starts_with(b"."));
        !hidden && it.is_file()
    });
    paths.sort();
    let mut found = Known::new();
    for path in paths.into_iter().take(MAX_FILES) {
        let seen = time::format_time(shared.clock.now());
        let prepared =
            read_file(&path).and_then(|it| prepare(it, &path, &shared.config.node_name, &seen));
        let judged = prepared.and_then(|pod| match judge.problem(&pod) {
            None => Ok(pod),
            Some(problem) => Err(format!("it is invalid: {problem}")),
        });
        match judged {
            Ok(pod) => {
                let cached = Cached::new(pod);
                found.insert(cached.uid.to_string(), Arc::new(cached));
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "could not read a static pod");
            }
        }
    }
    Ok(found)
}

fn read_file(path: &Path) -> Result<Value, String> {
    let size = path.metadata().map_err(|it| it.to_string())?.len();
    if size > MAX_FILE_BYTES {
        return Err(format!("it has {size} bytes; at most {MAX_FILE_BYTES} are read"));
    }
    let text = fs::read(path).map_err(|it| it.to_string())?;
    apimachinery::yaml::parse(&text).map_err(|it| it.to_string())
}

/// Makes a pod of what a file says, as upstream does: its name tells the node, and its uid its content.
fn prepare(mut pod: Value, path: &Path, node: &str, seen: &str) -> Result<Value, String> {
    if pod.str_at(&["kind"]) != "Pod" || pod.str_at(&["apiVersion"]) != "v1" {
        return Err("it is no Pod of v1".into());
    }
    let name = pod.str_at(&["metadata", "name"]).to_owned();
    if name.is_empty() || pod.items_at(&["spec", "containers"]).is_empty() {
        return Err("it has no name or no containers".into());
    }
    let digest = Sha256::new()
        .chain_update(apimachinery::json::to_vec(&pod))
        .chain_update(node)
        .chain_update(path.as_os_str().as_encoded_bytes())
        .finalize();
    let digest: String = digest.iter().take(16).map(|it| format!("{it:02x}")).collect();
    let own = pod.str_at(&["metadata", "uid"]).to_owned();
    let uid = if own.is_empty() { digest.clone() } else { own };
    pod.set_at(&["metadata", "uid"], uid.as_str());
    pod.set_at(&["metadata", "name"], format!("{name}-{}", node.to_lowercase()).as_str());
    if pod.str_at(&["metadata", "namespace"]).is_empty() {
        pod.set_at(&["metadata", "namespace"], "default");
    }
    for (key, text) in [(HASH, digest.as_str()), (SOURCE, "file"), (SEEN, seen)] {
        pod.set_at(&["metadata", "annotations", key], text);
    }
    if let Some(metadata) = pod.at_mut(&["metadata"]) {
        metadata.remove_at(&["resourceVersion"]);
        metadata.remove_at(&["deletionTimestamp"]);
    }
    pod.set_at(&["spec", "nodeName"], node);
    let mut tolerations = pod.items_at(&["spec", "tolerations"]).to_vec();
    tolerations.push(value!({"operator": "Exists", "effect": "NoExecute"}));
    pod.set_at(&["spec", "tolerations"], Value::Array(tolerations));
    pod.set_at(&["status"], value!({"phase": "Pending"}));
    serde_json::from_slice::<Pod>(&apimachinery::json::to_vec(&pod))
        .map_err(|it| it.to_string())?;
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(text: &str) -> Result<Value, String> {
        let value = apimachinery::yaml::parse(text.as_bytes()).unwrap();
        prepare(value, Path::new("/etc/pods/p.yaml"), "Node-1", "now")
    }

    const TEXT: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, resourceVersion: '5'}\n\
                        spec:\n  containers: [{name: c, image: i}]\n";

    #[test]
    fn a_file_becomes_a_pod_of_the_node() {
        let pod = prepared(TEXT).unwrap();
        assert_eq!(pod.str_at(&["metadata", "name"]), "p-node-1");
        assert_eq!(pod.str_at(&["metadata", "namespace"]), "default");
        assert_eq!(pod.str_at(&["spec", "nodeName"]), "Node-1");
        let uid = pod.str_at(&["metadata", "uid"]);
        assert_eq!((uid.len(), uid), (32, pod.str_at(&["metadata", "annotations", HASH])));
        // As its worker sees it.
        let typed: Pod = Cached::new(pod).decode().unwrap();
        assert!(is_static(&typed), "version {:?}", typed.metadata.resource_version);
        let mut of_server = typed;
        of_server.metadata.resource_version = Some("5".into());
        assert!(!is_static(&of_server), "an annotation alone makes no static pod");
    }

    #[test]
    fn a_changed_file_is_another_pod() {
        let uid = |text: &str| prepared(text).unwrap().str_at(&["metadata", "uid"]).to_owned();
        assert_eq!(uid(TEXT), uid(TEXT));
        assert_ne!(uid(TEXT), uid(&TEXT.replace("image: i", "image: j")));
    }

    #[test]
    fn what_a_server_would_refuse_does_not_run() {
        let judge = Judge::new();
        let problem = |text: &str| {
            let value = apimachinery::yaml::parse(text.as_bytes()).unwrap();
            judge.problem(&prepare(value, Path::new("/p.yaml"), "node-1", "now").unwrap())
        };
        assert_eq!(problem(TEXT), None);
        let twice = "{name: c, image: i}, {name: c, image: i}";
        for (text, field) in [
            (TEXT.replace("{name: p,", "{name: '../../x',"), "metadata.name"),
            (TEXT.replace("{name: p,", "{name: p, namespace: '../../x',"), "metadata.namespace"),
            (TEXT.replace("{name: c, image: i}", twice), "spec.containers[1].name"),
        ] {
            let problem = problem(&text).unwrap_or_default();
            assert!(problem.starts_with(field), "{problem}");
        }
        let named = TEXT.replace("image: i}", "image: i, envFrom: [{configMapRef: {name: m}}]}");
        assert_eq!(problem(&named).as_deref(), Some("static pods may not reference configmaps"));
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        for (text, expected) in [
            ("kind: Node\napiVersion: v1\n", "it is no Pod of v1"),
            ("kind: Pod\napiVersion: v1\nmetadata: {}\n", "it has no name or no containers"),
        ] {
            assert_eq!(prepared(text).unwrap_err(), expected);
        }
        assert!(prepared(&TEXT.replace("image: i", "image: [1]")).is_err());
    }
}
