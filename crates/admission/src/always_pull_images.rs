//! AlwaysPullImages: images are pulled each time, so that nobody uses one that others may pull.

use std::collections::BTreeSet;

use apimachinery::{Status, Value};
use async_trait::async_trait;

use crate::{Attributes, Operation, Plugin, containers};

const ALWAYS: &str = "Always";

#[derive(Debug)]
pub(crate) struct AlwaysPullImages;

/// Every image of a pod: those of containers, and those that are volumes.
fn images(pod: &Value) -> BTreeSet<&str> {
    let volumes = pod.items_at(&["spec", "volumes"]).iter().filter_map(|it| it.get("image"));
    let run = containers::all(pod).map(|(_, _, it)| it.str_at(&["image"]));
    run.chain(volumes.map(|it| it.str_at(&["reference"]))).collect()
}

/// Whether a change brings an image that was not there.
fn is_news(attributes: &Attributes<'_>) -> bool {
    attributes.old.is_none_or(|old| !images(attributes.object).is_subset(&images(old)))
}

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && attributes.is("", "pods")
            && is_news(attributes)
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        for list in containers::LISTS {
            let mut all = attributes.object.items_at(&["spec", list]).to_vec();
            if all.is_empty() {
                continue;
            }
            for container in &mut all {
                container.set_at(&["imagePullPolicy"], ALWAYS);
            }
            attributes.object.set_at(&["spec", list], all);
        }
        let mut volumes = attributes.object.items_at(&["spec", "volumes"]).to_vec();
        if volumes.iter().any(|it| it.get("image").is_some()) {
            for volume in volumes.iter_mut().filter(|it| it.get("image").is_some()) {
                volume.set_at(&["image", "pullPolicy"], ALWAYS);
            }
            attributes.object.set_at(&["spec", "volumes"], volumes);
        }
        Ok(())
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let pod = &*attributes.object;
        let run = containers::all(pod).map(|(list, index, it)| {
            let policy = it.str_at(&["imagePullPolicy"]);
            (format!("spec.{list}[{index}].imagePullPolicy"), policy)
        });
        let volumes = pod.items_at(&["spec", "volumes"]).iter().enumerate();
        let volumes = volumes.filter(|(_, it)| it.get("image").is_some()).map(|(index, it)| {
            let policy = it.str_at(&["image", "pullPolicy"]);
            (format!("spec.volumes[{index}].image.pullPolicy"), policy)
        });
        let wrong = run.chain(volumes).filter(|(_, policy)| *policy != ALWAYS);
        let wrong: Vec<String> = wrong
            .map(|(path, policy)| {
                let why =
                    format!("{path}: Unsupported value: {policy:?}: supported values: {ALWAYS:?}");
                attributes.forbid(&why).message
            })
            .collect();
        match wrong.as_slice() {
            [] => Ok(()),
            // Upstream's several errors in one are no refusal of a kind that clients know.
            [one] => Err(Status::unexplained(one)),
            many => Err(Status::unexplained(format!("[{}]", many.join(", ")))),
        }
    }
}
