//! `kube-rs-client KUBECONFIG FOLLOWED HANDLED RECORD`: what people do with kube-rs. It follows ConfigMaps and Widgets of the
//! namespace FOLLOWED by watchers and stores, and runs a controller for Widgets of the namespace HANDLED, with a finalizer
//! and a ConfigMap for each that it owns.
//!
//! What it is told and does goes to RECORD, a line of JSON each; what its stores hold at the end, when it is told to stop, too.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{Error as FinalizerError, Event as Finalized, finalizer};
use kube::runtime::reflector::{self, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{Controller, WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, Config, Resource, ResourceExt as _};
use serde_json::{Value, json};

const SELECTOR: &str = "followed=yes";
const FINALIZER: &str = "clients.example.com/kube-rs";
const MANAGER: &str = "kube-rs-client";
/// Before anything that has failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, followed, handled, record] = arguments.as_slice() else {
        anyhow::bail!("kube-rs-client KUBECONFIG FOLLOWED HANDLED RECORD");
    };
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let record = Record(Arc::new(Mutex::new(File::create(record)?)));

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), followed);
    let things: Api<DynamicObject> = Api::namespaced_with(client.clone(), followed, &widgets());
    let listed = watcher::Config::default().labels(SELECTOR);
    let maps = follow("ConfigMap", (maps, ()), listed.clone(), record.clone());
    let things = follow("Widget", (things, widgets()), listed.streaming_lists(), record.clone());
    tokio::spawn(control(client, handled.clone(), record.clone()));

    let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    end.recv().await;
    maps.state().iter().for_each(|it| record.object("has", it.as_ref()));
    things.state().iter().for_each(|it| record.object("has", it.as_ref()));
    record.line(&json!({"event": "end"}));
    Ok(())
}

fn widgets() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("clients.example.com", "v1", "Widget"))
}

/// The file.
#[derive(Clone)]
struct Record(Arc<Mutex<File>>);

impl Record {
    fn line(&self, line: &Value) {
        let mut file = self.0.lock().expect("nobody panics while writing");
        writeln!(file, "{line}").expect("the record can be written");
    }

    fn object(&self, event: &str, object: &impl Followed) {
        self.line(&json!({"event": event, "kind": object.kind(), "name": object.name_any(),
            "uid": object.uid(), "version": object.resource_version(), "n": object.number()}));
    }
}

/// What both kinds say.
trait Followed: Resource {
    fn kind(&self) -> &'static str;
    fn number(&self) -> i64;
}

impl Followed for ConfigMap {
    fn kind(&self) -> &'static str {
        "ConfigMap"
    }

    fn number(&self) -> i64 {
        let n = self.data.as_ref().and_then(|it| it.get("n"));
        n.and_then(|n| n.parse().ok()).unwrap_or_default()
    }
}

impl Followed for DynamicObject {
    fn kind(&self) -> &'static str {
        "Widget"
    }

    fn number(&self) -> i64 {
        self.data["spec"]["n"].as_i64().unwrap_or_default()
    }
}

/// Follows a kind into a store.
fn follow<K>(
    name: &'static str,
    (api, kind): (Api<K>, K::DynamicType),
    config: watcher::Config,
    record: Record,
) -> Store<K>
where
    K: Followed + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone + Send + Sync,
{
    let writer = reflector::store::Writer::new(kind);
    let store = writer.as_reader();
    let changes = watch(api, config).backoff(Constant).reflect(writer);
    tokio::spawn(changes.for_each(move |event| {
        match event {
            Ok(Event::Apply(it) | Event::InitApply(it)) => record.object("set", &it),
            Ok(Event::Delete(it)) => record.object("gone", &it),
            Ok(Event::Init) => record.line(&json!({"event": "list", "kind": name})),
            // The watcher goes on where it was.
            Ok(Event::InitDone) | Err(_) => {}
        }
        std::future::ready(())
    }));
    store
}

/// The same pause each time.
#[derive(Debug, Clone, Copy)]
struct Constant;

impl Iterator for Constant {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(PAUSE)
    }
}

impl Backoff for Constant {
    fn reset(&mut self) {}
}

/// What reconciling needs.
struct Context {
    client: Client,
    namespace: String,
    record: Record,
}

type ReconcileError = FinalizerError<kube::Error>;

async fn control(client: Client, namespace: String, record: Record) {
    let things: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &widgets());
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let context = Arc::new(Context { client, namespace, record });
    Controller::new_with(things, watcher::Config::default(), widgets())
        .owns(maps, watcher::Config::default())
        .trigger_backoff(Constant)
        .run(reconcile, |_, _, _| Action::requeue(PAUSE), context)
        .for_each(|_| std::future::ready(()))
        .await;
}

async fn reconcile(
    widget: Arc<DynamicObject>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let things: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &context.namespace, &widgets());
    let api = things.clone();
    finalizer(&api, FINALIZER, widget, |event| async move {
        match event {
            Finalized::Apply(widget) => apply(&things, &widget, &context).await,
            Finalized::Cleanup(widget) => {
                context.record.object("delete", widget.as_ref());
                Ok(Action::await_change())
            }
        }
    })
    .await
}

/// The ConfigMap that belongs to it, and a word in its status.
async fn apply(
    things: &Api<DynamicObject>,
    widget: &DynamicObject,
    context: &Context,
) -> Result<Action, kube::Error> {
    let (name, n) = (widget.name_any(), widget.number());
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.namespace);
    let owner = widget.controller_owner_ref(&widgets());
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "ownerReferences": [owner]}, "data": {"n": n.to_string()}});
    let applied = PatchParams::apply(MANAGER).force();
    maps.patch(&name, &applied, &Patch::Apply(map)).await?;
    if widget.data["status"]["seen"] != n {
        context.record.object("update", widget);
        let status = json!({"status": {"seen": n}});
        things.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
    }
    Ok(Action::await_change())
}
