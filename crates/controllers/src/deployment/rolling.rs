//! Rolling from one template to the next, within surge and unavailability. Upstream: `rolling.go`.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::plan::Step;
use super::sets;

/// How large the new set is to be now.
pub(super) fn new_size(step: &Step<'_>) -> i32 {
    let wanted = sets::wanted(step.deployment);
    if !sets::is_rolling(step.deployment) {
        return wanted;
    }
    let current = step.new.map_or(0, sets::replicas);
    let total = sets::total_wanted(step.all());
    let most = wanted + sets::max_surge(step.deployment);
    if total >= most {
        return current;
    }
    current + (most - total).min(wanted - current)
}

/// One step: the new set grows, or the old ones shrink.
pub(super) fn roll(step: &mut Step<'_>) {
    let Some(new) = step.new else { return };
    let wanted = sets::wanted(step.deployment);
    let size = if sets::replicas(new) > wanted { wanted } else { new_size(step) };
    if sets::replicas(new) != size {
        return step.resize(new, size);
    }
    shrink_old(step, new);
}

fn shrink_old(step: &mut Step<'_>, new: &ReplicaSet) {
    let old_total = sets::total_wanted(step.old.iter().copied());
    if old_total == 0 {
        return;
    }
    let all = old_total + sets::replicas(new);
    let least = sets::wanted(step.deployment) - sets::max_unavailable(step.deployment);
    let new_unavailable = sets::replicas(new) - sets::available(new);
    let most_to_go = all - least - new_unavailable;
    if most_to_go <= 0 {
        return;
    }
    let mut old: Vec<(&ReplicaSet, i32)> = step
        .old
        .iter()
        .map(|set| (*set, sets::replicas(set)))
        .filter(|(_, size)| *size > 0)
        .collect();
    let unhealthy = shrink_unhealthy(&mut old, most_to_go);
    let available: i32 = step.all().map(sets::available).sum();
    // What the sets say of themselves may be of before they last shrank, what is asked of them is not: both count.
    shrink_healthy(&mut old, (available - least).min(most_to_go - unhealthy));
    for (set, size) in old {
        step.resize_if_needed(set, size);
    }
}

/// Pods that are not available go first: that costs nothing.
fn shrink_unhealthy(old: &mut [(&ReplicaSet, i32)], most: i32) -> i32 {
    let mut gone = 0;
    for (set, size) in old {
        if gone >= most {
            break;
        }
        let unhealthy = *size - sets::available(set);
        let here = unhealthy.clamp(0, most - gone);
        *size -= here;
        gone += here;
    }
    gone
}

fn shrink_healthy(old: &mut [(&ReplicaSet, i32)], mut left: i32) {
    for (_, size) in old {
        if left <= 0 {
            break;
        }
        let here = (*size).min(left);
        *size -= here;
        left -= here;
    }
}

#[cfg(test)]
mod tests {
    use controller::Action;
    use jiff::Timestamp;

    use crate::deployment::{Memory, Observed, plan};

    #[test]
    fn the_old_set_shrinks_by_what_the_new_one_can_carry() {
        // Sizes and available pods of the old and of the new set; ten pods are wanted, three more and two fewer are fine.
        let check = |[old, old_available, new, new_available]: [i32; 4], expected: &str| {
            let set = |name: &str, image: &str, size: i32, available: i32| {
                format!(
                    r#"{{"metadata":{{"name":"{name}","uid":"{name}","labels":{{"a":"b"}},"annotations":{{"deployment.kubernetes.io/revision":"{image}","deployment.kubernetes.io/desired-replicas":"10"}},
                    "ownerReferences":[{{"apiVersion":"apps/v1","kind":"Deployment","name":"d","uid":"D","controller":true}}]}},
                    "spec":{{"replicas":{size},"selector":{{}},"template":{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{{"name":"c","image":"{image}"}}]}}}}}},
                    "status":{{"replicas":{size},"availableReplicas":{available}}}}}"#
                )
            };
            let deployment = r#"{"metadata":{"name":"d","uid":"D"},"spec":{"replicas":10,"selector":{"matchLabels":{"a":"b"}},
                "strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":3,"maxUnavailable":2}},
                "template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"2"}]}}}}"#;
            let parse = |text: &str| serde_json::from_str(text).unwrap();
            let observed = Observed {
                deployment: serde_json::from_str(deployment).unwrap(),
                sets: vec![
                    parse(&set("old", "1", old, old_available)),
                    parse(&set("new", "2", new, new_available)),
                ],
                collisions: None,
                running_pods: std::collections::BTreeMap::new(),
            };
            let plan = plan::plan(&observed, &mut Memory::default(), Timestamp::UNIX_EPOCH);
            let actions = plan.stages.iter().flat_map(|it| &it.actions);
            let resized = actions.filter_map(|it| match &it.action {
                Action::Update { subresource: "", object, .. } => {
                    let name = object.str_at(&["metadata", "name"]);
                    Some(format!("{name} {}", object.i64_at(&["spec", "replicas"])?))
                }
                _ => None,
            });
            let shown: Vec<String> = resized.filter(|it| it.starts_with("old")).collect();
            assert_eq!(shown.join(" "), expected, "{old} {old_available} {new} {new_available}");
        };
        check([8, 8, 5, 0], "");
        check([8, 8, 5, 1], "old 7");
        check([8, 8, 5, 5], "old 3");
        check([8, 6, 5, 5], "old 3");
        // The old set has shrunk already and does not say so yet.
        check([7, 8, 6, 2], "old 6");
    }
}
