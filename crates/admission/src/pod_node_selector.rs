//! PodNodeSelector: the pods of a namespace go to the nodes that its annotation, or the configuration, names.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::{Object, Status, Value, validation};
use async_trait::async_trait;

use crate::namespace_exists::find;
use crate::{Attributes, Objects, Plugin, configuration};

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
/// What the configuration calls the selector of namespaces that name none.
const DEFAULT: &str = "clusterDefaultNodeSelector";

type Labels = BTreeMap<String, String>;

/// Selectors by namespace: the labels that its pods may select, and those of every namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selectors(Labels);

impl Selectors {
    pub(crate) fn of(value: &Value) -> Result<Self, String> {
        const MEMBER: &str = "podNodeSelectorPluginConfig";
        configuration::members(value, "", &[MEMBER])?;
        let given = value.get(MEMBER).and_then(Value::as_object);
        let mut selectors = Labels::new();
        for (namespace, selector) in given.into_iter().flat_map(Object::iter) {
            let at = || format!("{MEMBER}[{namespace}]");
            let text = selector.as_str().ok_or_else(|| format!("{}: must be a string", at()))?;
            labels_of(text).map_err(|why| format!("{}: {why}", at()))?;
            selectors.insert(namespace.to_owned(), text.to_owned());
        }
        Ok(Self(selectors))
    }

    fn labels(&self, name: &str) -> Result<Labels, Status> {
        let text = self.0.get(name).map(String::as_str).unwrap_or_default();
        labels_of(text).map_err(Status::unexplained)
    }
}

/// `a=b,c=d`
fn labels_of(text: &str) -> Result<Labels, String> {
    let mut labels = Labels::new();
    if text.is_empty() {
        return Ok(labels);
    }
    for label in text.split(',') {
        let parts: Vec<&str> = label.split('=').collect();
        let [key, value] = parts.as_slice() else {
            return Err(format!("invalid selector: [{}]", parts.join(" ")));
        };
        let (key, value) = (key.trim(), value.trim());
        let problems = validation::qualified_name(key);
        if !problems.is_empty() {
            return Err(format!("<nil>: Invalid value: {key:?}: {}", problems.join("; ")));
        }
        let problems = validation::label_value(value);
        if !problems.is_empty() {
            return Err(format!("[{key}]: Invalid value: {value:?}: {}", problems.join("; ")));
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

fn selector_of(pod: &Value) -> Labels {
    let selector = pod["spec"]["nodeSelector"].as_object();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    selector
        .into_iter()
        .flat_map(Object::iter)
        .map(|(key, it)| (key.to_owned(), text(it)))
        .collect()
}

fn conflict(one: &Labels, other: &Labels) -> bool {
    one.iter().any(|(key, value)| other.get(key).is_some_and(|it| it != value))
}

#[derive(Debug)]
pub(crate) struct PodNodeSelector {
    objects: Arc<dyn Objects>,
    selectors: Selectors,
}

impl PodNodeSelector {
    pub(crate) fn new(objects: Arc<dyn Objects>, selectors: Selectors) -> Self {
        Self { objects, selectors }
    }

    /// What a namespace selects.
    async fn of_namespace(&self, name: &str) -> Result<Labels, Status> {
        let found = find(self.objects.as_ref(), name).await?;
        let missing = || Status::internal(format!("namespace {name} does not exist"));
        let namespace = found.ok_or_else(missing)?.to_value().map_err(Status::internal)?;
        match namespace.at(&["metadata", "annotations", ANNOTATION]).and_then(Value::as_str) {
            Some(text) => labels_of(text).map_err(Status::unexplained),
            None => self.selectors.labels(DEFAULT),
        }
    }

    fn refuse(attributes: &Attributes<'_>, why: &str) -> Status {
        let name = attributes.object.str_at(&["metadata", "name"]);
        Status::forbidden(attributes.group_resource(), name, why)
    }

    async fn check(&self, attributes: &Attributes<'_>) -> Result<Labels, Status> {
        let of_namespace = self.of_namespace(attributes.namespace).await?;
        if conflict(&of_namespace, &selector_of(attributes.object)) {
            let why = "pod node label selector conflicts with its namespace node label selector";
            return Err(Self::refuse(attributes, why));
        }
        Ok(of_namespace)
    }
}

#[async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_new_pod()
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let mut selector = self.check(attributes).await?;
        selector.extend(selector_of(attributes.object));
        if !selector.is_empty() {
            let selector = selector.iter().map(|(key, it)| (key.as_str(), it.as_str()));
            attributes.object.set_at(&["spec", "nodeSelector"], Object::from_iter(selector));
        }
        self.validate(attributes).await
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        self.check(attributes).await?;
        let permitted = self.selectors.labels(attributes.namespace)?;
        let is_permitted = |(key, value): (&String, &String)| permitted.get(key) == Some(value);
        if permitted.is_empty() || selector_of(attributes.object).iter().all(is_permitted) {
            return Ok(());
        }
        let why = "pod node label selector labels conflict with its namespace whitelist";
        Err(Self::refuse(attributes, why))
    }
}
