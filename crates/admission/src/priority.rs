//! Priority: the class of a pod, or of a group of pods, becomes a number; there is one default class at most.

use std::sync::Arc;

use apimachinery::{Status, Value};
use async_trait::async_trait;

use crate::{Attributes, Objects, Operation, Plugin};

const GROUP: &str = "scheduling.k8s.io";
/// What a pod has without any class.
const NONE: (&str, i64, &str) = ("", 0, "PreemptLowerPriority");

#[derive(Debug)]
pub(crate) struct Priority {
    objects: Arc<dyn Objects>,
}

/// What a class says.
struct Class {
    name: String,
    value: i64,
    preemption: String,
}

impl Class {
    fn of(value: &Value) -> Self {
        let preemption = match value.str_at(&["preemptionPolicy"]) {
            "" => NONE.2,
            given => given,
        };
        Self {
            name: value.str_at(&["metadata", "name"]).into(),
            value: value.i64_at(&["value"]).unwrap_or_default(),
            preemption: preemption.into(),
        }
    }
}

impl Priority {
    pub(crate) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    fn default_class(&self) -> Class {
        let classes = self.objects.list(GROUP, "priorityclasses", "");
        // Each pod asks, and hardly a class is one that need be decoded.
        let likely = classes.iter().filter(|it| it.mentions("\"globalDefault\":true"));
        let classes = likely.filter_map(|it| it.to_value().ok());
        let default = classes
            .filter(|it| it.bool_at(&["globalDefault"]))
            .min_by_key(|it| it.i64_at(&["value"]));
        default
            .map_or(Class { name: NONE.0.into(), value: NONE.1, preemption: NONE.2.into() }, |it| {
                Class::of(&it)
            })
    }

    async fn class(&self, attributes: &Attributes<'_>, name: &str) -> Result<Class, Status> {
        let found = match self.objects.get(GROUP, "priorityclasses", "", name) {
            Some(found) => Some(found),
            None => self.objects.get_live(GROUP, "priorityclasses", "", name).await?,
        };
        match found {
            Some(found) => Ok(Class::of(&found.to_value().map_err(Status::internal)?)),
            None => Err(attributes.forbid(&format!("no PriorityClass with name {name} was found"))),
        }
    }

    async fn resolve(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let name = attributes.object.str_at(&["spec", "priorityClassName"]).to_owned();
        let class = if name.is_empty() {
            self.default_class()
        } else {
            self.class(attributes, &name).await?
        };
        if name.is_empty() && !class.name.is_empty() {
            attributes.object.set_at(&["spec", "priorityClassName"], class.name.as_str());
        }
        let is_group = is_group(attributes);
        let given = attributes.object.i64_at(&["spec", "priority"]);
        if given.is_some_and(|it| it != class.value) {
            let whose = if is_group { "pod group" } else { "pod" };
            return Err(attributes.forbid(&format!(
                "the integer value of priority ({}) must not be provided in {whose} spec; priority admission controller computed {} from the given PriorityClass name",
                given.unwrap_or_default(),
                class.value
            )));
        }
        attributes.object.set_at(&["spec", "priority"], class.value);
        if is_group {
            // Groups have a policy of preemption behind a feature that is off.
            return Ok(());
        }
        let policy = attributes.object.str_at(&["spec", "preemptionPolicy"]).to_owned();
        if !policy.is_empty() && policy != class.preemption {
            return Err(attributes.forbid(&format!(
                "the string value of PreemptionPolicy ({policy}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                class.preemption
            )));
        }
        attributes.object.set_at(&["spec", "preemptionPolicy"], class.preemption);
        Ok(())
    }
}

/// Whether it is about a group of pods itself.
fn is_group(attributes: &Attributes<'_>) -> bool {
    attributes.is(GROUP, "podgroups")
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && (attributes.is("", "pods")
                || attributes.is(GROUP, "priorityclasses")
                || is_group(attributes))
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let is_new_group = is_group(attributes) && attributes.operation == Operation::Create;
        if attributes.is_new_pod() || is_new_group {
            return self.resolve(attributes).await;
        }
        if attributes.is("", "pods") {
            // What is left out of an update stays.
            for member in ["priority", "preemptionPolicy"] {
                let path = ["spec", member];
                let before = attributes.old.and_then(|old| old.at(&path)).cloned();
                if let Some(before) = before {
                    attributes.object.default_at(&path, before);
                }
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        if !attributes.is(GROUP, "priorityclasses")
            || !attributes.object.bool_at(&["globalDefault"])
        {
            return Ok(());
        }
        let default = self.default_class();
        if default.name.is_empty() || default.name == attributes.object_name() {
            return Ok(());
        }
        Err(attributes.forbid(&format!(
            "PriorityClass {} is already marked as default. Only one default can exist",
            default.name
        )))
    }
}
