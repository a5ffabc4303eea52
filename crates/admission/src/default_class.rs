//! DefaultStorageClass and DefaultIngressClass: what names no class gets the one that is marked as default.

use std::sync::Arc;

use apimachinery::{Status, Value};
use async_trait::async_trait;

use crate::{Attributes, Objects, Operation, Plugin};

const BETA_STORAGE_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

/// What differs between the two.
#[derive(Debug)]
pub(crate) struct DefaultClass {
    objects: Arc<dyn Objects>,
    name: &'static str,
    of: (&'static str, &'static str),
    classes: (&'static str, &'static str),
    field: &'static str,
    /// An annotation that names the class in the old way.
    annotation: &'static str,
    /// The annotations that mark a class as default.
    marks: &'static [&'static str],
}

pub(crate) fn storage(objects: Arc<dyn Objects>) -> DefaultClass {
    DefaultClass {
        objects,
        name: "DefaultStorageClass",
        of: ("", "persistentvolumeclaims"),
        classes: ("storage.k8s.io", "storageclasses"),
        field: "storageClassName",
        annotation: BETA_STORAGE_CLASS,
        marks: &[
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ],
    }
}

pub(crate) fn ingress(objects: Arc<dyn Objects>) -> DefaultClass {
    DefaultClass {
        objects,
        name: "DefaultIngressClass",
        of: ("networking.k8s.io", "ingresses"),
        classes: ("networking.k8s.io", "ingressclasses"),
        field: "ingressClassName",
        annotation: INGRESS_CLASS,
        marks: &["ingressclass.kubernetes.io/is-default-class"],
    }
}

impl DefaultClass {
    /// The class that is marked: the newest of several, the first by name of several as new.
    fn default_class(&self) -> Option<Value> {
        let (group, resource) = self.classes;
        let marked = |class: &Value| {
            self.marks.iter().any(|mark| class.str_at(&["metadata", "annotations", mark]) == "true")
        };
        let classes = self.objects.list(group, resource, "");
        let mut classes: Vec<Value> =
            classes.iter().filter_map(|it| it.to_value().ok()).filter(marked).collect();
        let created = |class: &Value| class.str_at(&["metadata", "creationTimestamp"]).to_owned();
        classes.sort_by(|a, b| {
            let names = a.str_at(&["metadata", "name"]).cmp(b.str_at(&["metadata", "name"]));
            created(b).cmp(&created(a)).then(names)
        });
        classes.into_iter().next()
    }
}

#[async_trait]
impl Plugin for DefaultClass {
    fn name(&self) -> &'static str {
        self.name
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && attributes.is(self.of.0, self.of.1)
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let old_way = ["metadata", "annotations", self.annotation];
        // An empty name is a choice too: no class.
        let named = attributes.object.at(&["spec", self.field]).is_some()
            || attributes.object.at(&old_way).is_some();
        if named {
            return Ok(());
        }
        if let Some(class) = self.default_class() {
            attributes.object.set_at(&["spec", self.field], class.str_at(&["metadata", "name"]));
        }
        Ok(())
    }
}
