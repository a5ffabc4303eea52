//! Going back to an earlier template, where an annotation from the time of older versions asks for it. Upstream:
//! `rollback.go`.

use apimachinery::Value;
use client::Resource;
use client::events::EventType;
use controller::Action;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::plan::Step;
use super::{rolling, sets};
use crate::owner::{Owner, to_value};

/// The revision that is asked for, 0 for the last one; what is no number asks for none.
pub(super) fn wanted(deployment: &Deployment) -> Option<i64> {
    deployment.metadata.annotations.as_ref()?.get(sets::ROLLBACK_TO)?.parse().ok()
}

/// Puts the template of a revision back, and takes the question away whatever the answer is.
pub(super) fn roll_back(step: &mut Step<'_>, owner: &Owner<'_>, revision: i64) {
    step.ensure_new_set(owner, rolling::new_size(step));
    if step.moved {
        return;
    }
    let revision = if revision == 0 { last(step) } else { revision };
    let set = step.all().find(|set| revision != 0 && sets::revision(set) == revision).cloned();
    let mut object = to_value(step.deployment);
    let name = step.deployment.metadata.name.clone().unwrap_or_default();
    let same = set.as_ref().is_some_and(|set| has_template_of(step.deployment, set));
    let (kind, reason, message) = match &set {
        None if revision == 0 => not_found("Unable to find last revision."),
        None => not_found("Unable to find the revision to rollback to."),
        Some(_) if same => (
            EventType::Warning,
            "DeploymentRollbackTemplateUnchanged",
            format!(
                "The rollback revision contains the same template as current deployment \"{name}\""
            ),
        ),
        Some(set) => {
            put_back(&mut object, set);
            let message = format!("Rolled back deployment \"{name}\" to revision {revision}");
            (EventType::Normal, "DeploymentRollback", message)
        }
    };
    object.remove_at(&["metadata", "annotations", sets::ROLLBACK_TO]);
    let event = step.event(kind, reason, message);
    let resource = Resource::of::<Deployment>();
    step.plan.act(Action::Update { resource, subresource: "", object }).on_success = Some(event);
}

fn not_found(message: &str) -> (EventType, &'static str, String) {
    (EventType::Warning, "DeploymentRollbackRevisionNotFound", message.to_owned())
}

/// The revision before the newest; 0 where there is none.
fn last(step: &Step<'_>) -> i64 {
    let mut revisions: Vec<i64> = step.all().map(sets::revision).collect();
    revisions.sort_unstable();
    revisions.iter().rev().nth(1).copied().unwrap_or_default()
}

fn has_template_of(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let template = set.spec.template.as_ref().map(sets::plain_template);
    template.as_ref() == Some(&sets::plain_template(&sets::spec(deployment).template))
}

/// Gives a deployment the template of a set, and the annotations that the two share.
fn put_back(deployment: &mut Value, set: &ReplicaSet) {
    let template = set.spec.template.as_ref().map(sets::plain_template).unwrap_or_default();
    deployment.set_at(&["spec", "template"], template);
    let own = deployment.at(&["metadata", "annotations"]).and_then(Value::as_object);
    let own: Vec<String> =
        own.into_iter().flat_map(|it| it.keys().map(|key| (*key).to_owned())).collect();
    for key in own.iter().filter(|key| sets::is_shared(key)) {
        deployment.remove_at(&["metadata", "annotations", key]);
    }
    let of_set = set.metadata.annotations.iter().flatten();
    for (key, text) in of_set.filter(|(key, _)| sets::is_shared(key)) {
        deployment.set_at(&["metadata", "annotations", key], text.as_str());
    }
}

#[cfg(test)]
mod tests {
    use controller::Action;
    use jiff::Timestamp;

    use crate::deployment::{Memory, Observed, plan};

    #[test]
    fn a_deployment_goes_back_to_the_revision_that_it_names() {
        // Two sets, revision 2 is the present one; what the annotation says, and the image and event that come of it.
        let check = |wanted: &str, expected: &str| {
            let set = |image: &str| {
                let text = format!(
                    r#"{{"metadata":{{"name":"d-{image}","uid":"{image}","labels":{{"a":"b"}},
                    "annotations":{{"why":"{image}","deployment.kubernetes.io/revision":"{image}","deployment.kubernetes.io/desired-replicas":"1"}},
                    "ownerReferences":[{{"apiVersion":"apps/v1","kind":"Deployment","name":"d","uid":"D","controller":true}}]}},
                    "spec":{{"replicas":1,"selector":{{}},"template":{{"metadata":{{"labels":{{"a":"b","pod-template-hash":"h"}}}},"spec":{{"containers":[{{"name":"c","image":"{image}"}}]}}}}}}}}"#
                );
                serde_json::from_str(&text).unwrap()
            };
            let deployment = format!(
                r#"{{"metadata":{{"name":"d","uid":"D","annotations":{{"why":"2","deprecated.deployment.rollback.to":"{wanted}","deployment.kubernetes.io/revision":"2"}}}},
                "spec":{{"replicas":1,"selector":{{"matchLabels":{{"a":"b"}}}},"template":{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{{"name":"c","image":"2"}}]}}}}}}}}"#
            );
            let observed = Observed {
                deployment: serde_json::from_str(&deployment).unwrap(),
                sets: vec![set("1"), set("2")],
                collisions: None,
                running_pods: std::collections::BTreeMap::new(),
            };
            let plan = plan::plan(&observed, &mut Memory::default(), Timestamp::UNIX_EPOCH);
            let actions = plan.stages.iter().flat_map(|it| &it.actions);
            let shown: Vec<String> = actions
                .filter_map(|it| match &it.action {
                    Action::Update { subresource: "", object, .. } => {
                        let containers =
                            object.items_at(&["spec", "template", "spec", "containers"]);
                        let event = it.on_success.as_ref().map(|it| it.reason).unwrap_or_default();
                        let why = object.str_at(&["metadata", "annotations", "why"]);
                        let labels =
                            object.at(&["spec", "template", "metadata", "labels"]).unwrap();
                        assert_eq!(labels.as_object().unwrap().len(), 1);
                        Some(format!("{} {why} {event}", containers[0].str_at(&["image"])))
                    }
                    _ => None,
                })
                .collect();
            assert_eq!(shown.join(", "), expected, "{wanted}");
        };
        check("1", "1 1 DeploymentRollback");
        check("0", "1 1 DeploymentRollback");
        check("2", "2 2 DeploymentRollbackTemplateUnchanged");
        check("7", "2 2 DeploymentRollbackRevisionNotFound");
        check("x", "");
    }
}
