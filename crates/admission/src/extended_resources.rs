//! ExtendedResourceToleration: who asks for an extended resource may go to the nodes that are kept for it.

use std::collections::BTreeSet;

use apimachinery::validation::is_extended_resource;
use apimachinery::{Object, Status, Value, value};
use async_trait::async_trait;

use crate::{Attributes, Operation, Plugin};

#[derive(Debug)]
pub(crate) struct ExtendedResourceToleration;

fn wanted(pod: &Value) -> BTreeSet<String> {
    let lists = ["containers", "initContainers"];
    let containers = lists.into_iter().flat_map(|list| pod.items_at(&["spec", list]));
    let requests = containers.filter_map(|it| it["resources"]["requests"].as_object());
    let names = requests.flat_map(Object::iter).map(|(name, _)| name.to_owned());
    names.filter(|name| is_extended_resource(name)).collect()
}

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && attributes.is("", "pods")
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let wanted = wanted(attributes.object);
        if wanted.is_empty() {
            return Ok(());
        }
        let mut all = attributes.object.items_at(&["spec", "tolerations"]).to_vec();
        for resource in &wanted {
            let key = resource.as_str();
            let toleration = value!({"key": (key), "operator": "Exists", "effect": "NoSchedule"});
            // One of the same key, effect, operator and value is replaced.
            let same = |it: &&mut Value| {
                ["key", "operator", "effect", "value"]
                    .iter()
                    .all(|member| it.str_at(&[member]) == toleration.str_at(&[member]))
            };
            match all.iter_mut().find(same) {
                Some(found) => *found = toleration,
                None => all.push(toleration),
            }
        }
        attributes.object.set_at(&["spec", "tolerations"], all);
        Ok(())
    }
}
