//! Which container a log is asked of, by what the pod's status says. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// The id of the container, with its scheme.
///
/// # Errors
/// Why there is no log yet, or none any more, in upstream's words.
pub(super) fn container(pod: &Pod, name: &str, previous: bool) -> Result<String, String> {
    let about = format!("container {name:?} in pod {:?}", crate::spec::name(pod));
    let Some(status) = status_of(pod, name) else {
        return Err(format!("{about} is not available"));
    };
    let known = |id: Option<&String>| id.filter(|it| !it.is_empty()).cloned();
    let ended = status.last_state.as_ref().and_then(|it| it.terminated.as_ref());
    let last = known(ended.and_then(|it| it.container_id.as_ref()));
    if previous {
        return last.ok_or_else(|| format!("previous terminated {about} not found"));
    }
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() {
        return known(status.container_id.as_ref())
            .ok_or_else(|| format!("{about} is not available"));
    }
    let gone = || format!("{about} is terminated");
    if let Some(it) = &state.terminated {
        return known(it.container_id.as_ref()).or(last).ok_or_else(gone);
    }
    if ended.is_some() {
        return last.ok_or_else(gone);
    }
    let reason = state.waiting.and_then(|it| it.reason).unwrap_or_default();
    Err(match reason.as_str() {
        "" => format!("{about} is waiting to start - no logs yet"),
        "ErrImagePull" => format!("{about} is waiting to start: image can't be pulled"),
        "ImagePullBackOff" => {
            format!("{about} is waiting to start: trying and failing to pull image")
        }
        other => format!("{about} is waiting to start: {other}"),
    })
}

fn status_of<'p>(pod: &'p Pod, name: &str) -> Option<&'p ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists.into_iter().flatten().flatten().find(|it| it.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: &str, previous: bool, expected: Result<&str, &str>) {
        let pod: Pod = serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p"}},"status":{{"containerStatuses":[{status}]}}}}"#
        ))
        .unwrap();
        let got = container(&pod, "c", previous);
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(got, expected, "{status}");
    }

    const COMMON: &str = r#""name":"c","image":"","imageID":"","ready":true,"restartCount":0"#;

    #[test]
    fn the_status_says_whose_log_there_is() {
        let of = |rest: &str| format!("{{{COMMON},{rest}}}");
        let running = of(r#""containerID":"k://1","state":{"running":{}}"#);
        check(&running, false, Ok("k://1"));
        check(&running, true, Err("previous terminated container \"c\" in pod \"p\" not found"));
        let again = of(
            r#""containerID":"k://2","state":{"running":{}},"lastState":{"terminated":{"exitCode":1,"containerID":"k://1"}}"#,
        );
        check(&again, true, Ok("k://1"));
        let backs_off = of(
            r#""state":{"waiting":{"reason":"CrashLoopBackOff"}},"lastState":{"terminated":{"exitCode":1,"containerID":"k://1"}}"#,
        );
        check(&backs_off, false, Ok("k://1"));
        let ended = of(r#""state":{"terminated":{"exitCode":1,"containerID":"k://3"}}"#);
        check(&ended, false, Ok("k://3"));
        for (reason, expected) in [
            ("ContainerCreating", "waiting to start: ContainerCreating"),
            ("ErrImagePull", "waiting to start: image can't be pulled"),
            ("ImagePullBackOff", "waiting to start: trying and failing to pull image"),
        ] {
            let text = format!("container \"c\" in pod \"p\" is {expected}");
            let status = of(&format!(r#""state":{{"waiting":{{"reason":"{reason}"}}}}"#));
            check(&status, false, Err(&text));
        }
    }

    #[test]
    fn a_pod_without_a_status_has_no_log() {
        let got = container(&Pod::default(), "c", false);
        assert_eq!(got, Err("container \"c\" in pod \"\" is not available".to_owned()));
    }
}
