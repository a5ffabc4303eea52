//! What a failed pod means for its job.

use k8s_openapi::api::batch::v1::{
    Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::owner::key_of;

/// What is done about a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// It counts.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The job has failed, for this reason.
    FailJob(String),
}

/// What the first rule of the job's policy says that a failed pod matches; it counts where none does.
pub(super) fn action(job: &Job, pod: &Pod) -> Action {
    rule(job, pod).unwrap_or(Action::Count)
}

/// The same; `None` where none does.
pub(super) fn rule(job: &Job, pod: &Pod) -> Option<Action> {
    let spec = job.spec.as_ref();
    let policy = spec.and_then(|it| it.pod_failure_policy.as_ref());
    let per_index = spec.is_some_and(|it| it.backoff_limit_per_index.is_some());
    for (place, rule) in policy.iter().flat_map(|it| it.rules.iter()).enumerate() {
        if rule.action == "FailIndex" && !per_index {
            continue;
        }
        let Some(what) = matched(rule, pod) else { continue };
        return Some(match rule.action.as_str() {
            "Ignore" => Action::Ignore,
            "FailIndex" => Action::FailIndex,
            "FailJob" => Action::FailJob(format!("{what} matching FailJob rule at index {place}")),
            _ => Action::Count,
        });
    }
    None
}

/// How a rule matches a pod, in upstream's words.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let key = key_of(&pod.metadata);
    if let Some(wanted) = &rule.on_exit_codes {
        let (name, code) = exited(wanted, pod)?;
        return Some(format!("Container {name} for pod {key} failed with exit code {code}"));
    }
    let status = pod.status.as_ref()?;
    let conditions = || status.conditions.iter().flatten();
    let found = rule.on_pod_conditions.iter().flatten().find_map(|pattern| {
        conditions().find(|it| {
            let wanted = pattern.status.as_deref().filter(|it| !it.is_empty()).unwrap_or("True");
            it.type_ == pattern.type_ && it.status == wanted
        })
    })?;
    Some(format!("Pod {key} has condition {}", found.type_))
}

fn exited(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let code = |it: &ContainerStatus| Some(it.state.as_ref()?.terminated.as_ref()?.exit_code);
    all.filter(|it| wanted.container_name.as_ref().is_none_or(|name| *name == it.name))
        .filter_map(|it| Some((it.name.clone(), code(it)?)))
        .find(|(_, code)| {
            let listed = wanted.values.contains(code);
            *code != 0 && if wanted.operator == "NotIn" { !listed } else { listed }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let check = |rules: &str, expected: Action| {
            let job =
                format!(r#"{{"spec":{{"template":{{}},"podFailurePolicy":{{"rules":{rules}}}}}}}"#);
            let pod = r#"{"metadata":{"name":"p","namespace":"ns"},"status":{"conditions":[{"type":"DisruptionTarget","status":"True"}],
                "containerStatuses":[{"name":"a","image":"","imageID":"","ready":false,"restartCount":0,"state":{"terminated":{"exitCode":0}}},
                {"name":"b","image":"","imageID":"","ready":false,"restartCount":0,"state":{"terminated":{"exitCode":42}}}]}}"#;
            let job: Job = serde_json::from_str(&job).unwrap();
            assert_eq!(action(&job, &serde_json::from_str(pod).unwrap()), expected, "{rules}");
        };
        let codes = |action: &str, rest: &str| {
            format!(r#"{{"action":"{action}","onExitCodes":{{{rest}}}}}"#)
        };
        let in_42 = r#""operator":"In","values":[1,42]"#;
        let failed =
            "Container b for pod ns/p failed with exit code 42 matching FailJob rule at index 0";
        check("[]", Action::Count);
        check(&format!("[{}]", codes("FailJob", in_42)), Action::FailJob(failed.into()));
        check(&format!("[{}]", codes("FailIndex", in_42)), Action::Count);
        check(
            &format!("[{}]", codes("Ignore", r#""operator":"NotIn","values":[42]"#)),
            Action::Count,
        );
        check(
            &format!(
                "[{}]",
                codes("Ignore", r#""operator":"In","values":[42],"containerName":"a""#)
            ),
            Action::Count,
        );
        let disrupted = r#"{"action":"Ignore","onPodConditions":[{"type":"DisruptionTarget","status":"True"}]}"#;
        check(&format!("[{disrupted},{}]", codes("FailJob", in_42)), Action::Ignore);
        let failing = disrupted.replace("Ignore", "FailJob");
        let why = "Pod ns/p has condition DisruptionTarget matching FailJob rule at index 0";
        check(&format!("[{failing}]"), Action::FailJob(why.into()));
    }
}
