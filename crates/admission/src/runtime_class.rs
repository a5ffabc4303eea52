//! RuntimeClass: a pod pays the overhead of its runtime and goes where that runtime is.

use std::sync::Arc;

use apimachinery::{Object, Status, Value};
use async_trait::async_trait;

use crate::{Attributes, Objects, Plugin};

#[derive(Debug)]
pub(crate) struct RuntimeClass {
    objects: Arc<dyn Objects>,
}

impl RuntimeClass {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    async fn class_of(&self, attributes: &Attributes<'_>) -> Result<Option<Value>, Status> {
        let name = attributes.object.str_at(&["spec", "runtimeClassName"]);
        if name.is_empty() {
            return Ok(None);
        }
        let found = match self.objects.get("node.k8s.io", "runtimeclasses", "", name) {
            Some(found) => Some(found),
            None => self.objects.get_live("node.k8s.io", "runtimeclasses", "", name).await?,
        };
        match found {
            Some(found) => found.to_value().map(Some).map_err(Status::internal),
            None => {
                Err(attributes.forbid(&format!("pod rejected: RuntimeClass {name:?} not found")))
            }
        }
    }
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_new_pod()
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let Some(class) = self.class_of(attributes).await? else { return Ok(()) };
        let refuse = |why: &str| Err(attributes.forbid(why));
        if let Some(overhead) = class.at(&["overhead", "podFixed"]) {
            match attributes.object.at(&["spec", "overhead"]) {
                Some(given) if given != overhead => {
                    return refuse(
                        "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
                    );
                }
                _ => attributes.object.set_at(&["spec", "overhead"], overhead.clone()),
            }
        }
        let Some(scheduling) = class.get("scheduling") else { return Ok(()) };
        let mut selector: Object =
            attributes.object["spec"]["nodeSelector"].as_object().cloned().unwrap_or_default();
        for (key, wanted) in
            scheduling["nodeSelector"].as_object().into_iter().flat_map(Object::iter)
        {
            if selector.get(key).is_some_and(|it| it != wanted) {
                return Err(attributes.forbid(&format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    wanted.as_str().unwrap_or_default(),
                    selector.get(key).and_then(Value::as_str).unwrap_or_default()
                )));
            }
            selector.insert(key, wanted.clone());
        }
        if !selector.is_empty() {
            attributes.object.set_at(&["spec", "nodeSelector"], selector);
        }
        let mut tolerations = attributes.object.items_at(&["spec", "tolerations"]).to_vec();
        for toleration in scheduling.items_at(&["tolerations"]) {
            if !tolerations.contains(toleration) {
                tolerations.push(toleration.clone());
            }
        }
        if !tolerations.is_empty() {
            attributes.object.set_at(&["spec", "tolerations"], tolerations);
        }
        Ok(())
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let class = self.class_of(attributes).await?;
        let has_overhead = class.is_some_and(|it| it.at(&["overhead", "podFixed"]).is_some());
        if attributes.object.at(&["spec", "overhead"]).is_some() && !has_overhead {
            return Err(attributes
                .forbid("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"));
        }
        Ok(())
    }
}
