//! Custom resources, with owners and dependents; their definition comes and goes.

use apimachinery::{Value, value};
use client::Resource;
use client::call::DeleteParams;

use super::{Driver, objects, ours, resource};
use crate::observer::Place;
use crate::rules::is_deleting;

/// The group of the custom resource.
pub(crate) const GROUP: &str = "sim.example";
const DEFINITION: &str = "widgets.sim.example";
const KIND: &str = "Widget";
/// What a widget may wait for before it goes.
const FINALIZER: &str = "sim.example/wait";

pub(super) fn widgets() -> Resource {
    Resource {
        group: GROUP.into(),
        version: "v1".into(),
        plural: "widgets".into(),
        kind: KIND.into(),
        namespaced: true,
    }
}

fn definition() -> Value {
    let schema = value!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 0, "default": 1}}},
        "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}}});
    value!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": DEFINITION},
        "spec": {"group": GROUP, "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": KIND, "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema,
                "subresources": {"status": {}}}]}})
}

/// Whether a widget waits for whoever keeps it.
fn is_held(widget: &Value) -> bool {
    let finalizers = widget.items_at(&["metadata", "finalizers"]);
    finalizers.iter().any(|it| it.as_str() == Some(FINALIZER))
}

fn place() -> Place {
    Place { namespace: "".into(), name: DEFINITION.into() }
}

impl Driver {
    pub(super) async fn define(&self) {
        let definitions = resource("CustomResourceDefinition");
        self.user.create(&definitions, &definition()).await;
    }

    /// Takes the definition away, with everything that there is of it.
    pub(super) async fn undefine(&self) {
        let definitions = resource("CustomResourceDefinition");
        self.user.delete(&definitions, &place(), &DeleteParams::default()).await;
    }

    /// A widget that may belong to others, and may wait before it goes.
    pub(super) async fn widget(&self) {
        let namespace = self.a_namespace();
        let kinds = ["ConfigMap", "Deployment", KIND];
        let owner = self.owner(namespace, &kinds);
        let name = format!("widget-{}", self.dice.between(1, 6));
        let mut object = objects::object("sim.example/v1", KIND, namespace, &name);
        object.set_at(&["spec", "size"], self.dice.between(0, 9));
        if self.dice.chance(500) {
            object.set_at(
                &["metadata", "ownerReferences"],
                owner.into_iter().collect::<Vec<Value>>(),
            );
        }
        if self.dice.chance(150) {
            object.set_at(&["metadata", "finalizers"], vec![Value::from(FINALIZER)]);
        }
        let made = self.user.create(&widgets(), &object).await;
        self.written(KIND, made).await;
    }

    /// Changes a widget or its status, lets one go that waits, or deletes one.
    pub(super) async fn change_widget(&self) {
        let Some((_, place)) = self.some(&[KIND]) else { return self.define().await };
        let size = self.dice.between(0, 9);
        match self.dice.below(4) {
            0 => {
                let patch = value!({"status": {"size": size}});
                self.user.patch(&widgets(), &place, "status", &patch).await;
            }
            1 if self.is_going(&place) => self.let_go(&place).await,
            2 => {
                let ways = ["Background", "Foreground", "Orphan"];
                let way = ways[self.dice.below(ways.len())];
                let params = DeleteParams { propagation: Some(way), ..DeleteParams::default() };
                self.user.delete(&widgets(), &place, &params).await;
            }
            _ => {
                let patch = value!({"spec": {"size": size}});
                let done = self.user.patch(&widgets(), &place, "", &patch).await;
                self.written(KIND, done).await;
            }
        }
    }

    fn is_going(&self, place: &Place) -> bool {
        self.user
            .observer
            .with(|state| state.get(KIND, place).is_some_and(|it| is_deleting(&it.value)))
    }

    /// Does what whoever keeps a widget would do once it goes.
    async fn let_go(&self, place: &Place) {
        let waits = self
            .user
            .observer
            .with(|state| state.get(KIND, place).is_some_and(|it| is_held(&it.value)));
        if waits {
            self.user
                .update(&widgets(), place, |it| {
                    let own = it.items_at(&["metadata", "finalizers"]);
                    let others: Vec<Value> =
                        own.iter().filter(|it| it.as_str() != Some(FINALIZER)).cloned().collect();
                    it.set_at(&["metadata", "finalizers"], others);
                })
                .await;
        }
    }

    /// When faults have stopped: whoever waits is let go, and the definition is there, so that dependents can be judged.
    pub(super) async fn settle_custom(&self) {
        for _ in 0..120 {
            // Those too that go later, with their owner or their namespace.
            for place in self.user.observer.with(|state| ours(state, KIND)) {
                self.let_go(&place).await;
            }
            let (definition, any_held) = self.user.observer.with(|state| {
                let definition = state.get("CustomResourceDefinition", &place());
                let held = state.all(KIND).any(|(_, it)| is_held(it));
                (definition.map(|it| is_deleting(&it.value)), held)
            });
            match definition {
                Some(false) if !any_held => return,
                Some(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
                None => self.define().await,
            }
        }
    }
}
