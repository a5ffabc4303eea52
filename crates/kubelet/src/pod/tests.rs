//! Plans and statuses as text, one line a step.

use cri::{ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::memory::{Failure, Memory, ProbeResults, Stage};
use super::observed::{Observed, marks};
use super::plan::{Action, plan};
use super::status::{NodeFacts, status};

/// A pod, what the runtime has of it, and the agent's memory.
struct Story {
    pod: Pod,
    observed: Observed,
    memory: Memory,
    second: i64,
}

fn story(spec: &str) -> Story {
    let text = format!(
        r#"{{"metadata":{{"name":"p","namespace":"ns","uid":"u","generation":1}},"spec":{spec}}}"#
    );
    let pod = serde_json::from_str(&text).unwrap();
    Story { pod, observed: Observed::default(), memory: Memory::default(), second: 100 }
}

impl Story {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.second).unwrap()
    }

    fn sandbox(mut self, state: PodSandboxState) -> Self {
        let mut sandbox =
            PodSandboxStatus { ips: vec!["10.0.0.9".parse().unwrap()], ..Default::default() };
        sandbox.sandbox.id = "s".into();
        sandbox.sandbox.state = state;
        self.observed = Observed::new(vec![sandbox], std::mem::take(&mut self.observed.containers));
        self
    }

    fn ready(self) -> Self {
        self.sandbox(PodSandboxState::Ready)
    }

    /// A container in this state; `code` is its exit code. Newer ones are added later.
    fn container(mut self, name: &str, state: ContainerState, code: i32) -> Self {
        let before = self.observed.of(name).count();
        let mut it = ContainerStatus { exit_code: code, ..ContainerStatus::default() };
        it.container.id = format!("{name}{before}");
        it.container.metadata.name = name.into();
        it.container.pod_sandbox_id = "s".into();
        it.container.state = state;
        it.container.created_at = i64::try_from(before).unwrap();
        it.container.annotations.insert(marks::RESTART_COUNT.into(), before.to_string());
        it.finished_at = self.second * 1_000_000_000;
        it.reason = if code == 0 { "Completed".into() } else { "Error".into() };
        let mut containers = std::mem::take(&mut self.observed.containers);
        containers.push(it);
        self.observed = Observed::new(std::mem::take(&mut self.observed.sandboxes), containers);
        self
    }

    fn running(self, name: &str) -> Self {
        self.container(name, ContainerState::Running, 0)
    }

    fn exited(self, name: &str, code: i32) -> Self {
        self.container(name, ContainerState::Exited, code)
    }

    fn deleted(mut self, grace: i64) -> Self {
        self.pod.metadata.deletion_timestamp = Some(crate::time::to_time(self.now()));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Memory)) -> Self {
        change(&mut self.memory);
        self
    }

    fn after(mut self, seconds: i64) -> Self {
        self.second += seconds;
        self
    }

    fn plan(&mut self) -> String {
        let plan = plan(
            &self.pod,
            &self.observed,
            &mut self.memory,
            Timestamp::from_second(self.second).unwrap(),
        );
        let mut text: Vec<String> = plan.actions.iter().map(told).collect();
        if let Some(at) = plan.wake_at {
            text.push(format!("wake+{}", at.as_second() - self.second));
        }
        text.join("; ")
    }

    fn phase(&self) -> String {
        let it = status(&self.pod, &self.observed, &self.memory, &NodeFacts::default(), self.now());
        let conditions = it.conditions.iter().flatten().map(|it| {
            let letters: String = it.type_.chars().filter(char::is_ascii_uppercase).collect();
            format!(
                "{letters}={}{}",
                &it.status[..1],
                it.reason.as_deref().map(|it| format!("({it})")).unwrap_or_default()
            )
        });
        let containers =
            it.init_container_statuses.iter().chain(&it.container_statuses).flatten().map(|it| {
                let state = it.state.clone().unwrap_or_default();
                let state = match (state.waiting, state.running, state.terminated) {
                    (Some(it), ..) => it.reason.unwrap_or_default(),
                    (_, Some(_), _) => "running".into(),
                    (.., Some(it)) => format!("{}{}", it.reason.unwrap_or_default(), it.exit_code),
                    _ => "none".into(),
                };
                format!(
                    "{}:{state}/{}{}",
                    it.name,
                    it.restart_count,
                    if it.ready { "/ready" } else { "" }
                )
            });
        let parts: Vec<String> = conditions.chain(containers).collect();
        format!("{} {}", it.phase.unwrap_or_default(), parts.join(" "))
    }
}

fn told(action: &Action) -> String {
    match action {
        Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
        Action::StopSandbox { id } => format!("stop {id}"),
        Action::Start { name, restart_count, .. } => format!("start {name} {restart_count}"),
        Action::Kill { id, message, grace_seconds, .. } => {
            format!("kill {id} {grace_seconds}s ({message})")
        }
        Action::Remove { id } => format!("remove {id}"),
        Action::TellBackOff { name, .. } => format!("back-off {name}"),
        Action::TellDeadline { .. } => "tell".into(),
        Action::Clean => "clean".into(),
    }
}

const ONE: &str = r#"{"containers":[{"name":"c","image":"i"}]}"#;
const NEVER: &str = r#"{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}"#;
const INIT: &str =
    r#"{"initContainers":[{"name":"i1"},{"name":"i2"}],"containers":[{"name":"c"}]}"#;
const SIDECAR: &str = r#"{"restartPolicy":"Never","initContainers":[{"name":"side","restartPolicy":"Always"},{"name":"i2"}],"containers":[{"name":"main"}]}"#;

fn check(mut story: Story, expected: &str) {
    assert_eq!(story.plan(), expected);
}

#[test]
fn containers_start_in_order() {
    check(story(ONE), "sandbox 0");
    check(story(ONE).sandbox(PodSandboxState::NotReady), "sandbox 1");
    check(story(ONE).ready(), "start c 0");
    check(story(ONE).ready().running("c"), "");
    check(story(ONE).ready().container("c", ContainerState::Created, 0), "remove c0");
    check(story(INIT).ready(), "start i1 0");
    check(story(INIT).ready().running("i1"), "");
    check(story(INIT).ready().exited("i1", 0), "start i2 0");
    check(story(INIT).ready().exited("i1", 1), "start i1 1");
    check(story(INIT).ready().exited("i1", 0).exited("i2", 0), "start c 0");
    check(story(SIDECAR).ready(), "start side 0");
    check(story(SIDECAR).ready().running("side"), "start i2 0");
    check(story(SIDECAR).ready().running("side").exited("i2", 0), "start main 0");
    check(story(SIDECAR).ready().exited("side", 1).exited("i2", 0).running("main"), "start side 1");
}

#[test]
fn the_first_restart_is_at_once_and_the_next_waits() {
    let mut it = story(ONE).ready().exited("c", 1);
    assert_eq!(it.plan(), "start c 1");
    let mut it = it.after(1).exited("c", 1);
    assert_eq!(it.plan(), "back-off c; wake+10");
    assert_eq!(it.plan(), "wake+10", "the back-off is told once");
    assert_eq!(
        it.phase(),
        "Running PRTSC=T I=T R=F(ContainersNotReady) CR=F(ContainersNotReady) PS=T c:CrashLoopBackOff/1"
    );
    let mut it = it.after(10);
    assert_eq!(it.plan(), "start c 2");
    let mut it = it.exited("c", 1);
    assert_eq!(it.plan(), "back-off c; wake+20");
}

#[test]
fn a_pod_that_finished_is_taken_down() {
    let mut it = story(NEVER).ready().exited("c", 0);
    assert_eq!(it.plan(), "stop s");
    assert_eq!(
        it.phase(),
        "Pending PRTSC=T I=T(PodCompleted) R=F(PodCompleted) CR=F(PodCompleted) PS=T c:Completed0/0"
    );
    let mut it = it.sandbox(PodSandboxState::NotReady);
    assert_eq!(it.plan(), "clean");
    assert_eq!(
        it.phase(),
        "Succeeded PRTSC=F I=T(PodCompleted) R=F(PodCompleted) CR=F(PodCompleted) PS=T c:Completed0/0"
    );
    let failed = story(
        r#"{"restartPolicy":"Never","initContainers":[{"name":"i"}],"containers":[{"name":"c"}]}"#,
    );
    let mut it = failed.ready().exited("i", 2);
    assert_eq!(it.plan(), "stop s");
    let it = it.sandbox(PodSandboxState::NotReady);
    assert_eq!(
        it.phase(),
        "Failed PRTSC=F I=F(ContainersNotInitialized) R=F(PodFailed) CR=F(PodFailed) PS=T i:Error2/0 c:PodInitializing/0"
    );
}

#[test]
fn sidecars_end_last() {
    let mut it = story(SIDECAR).ready().running("side").exited("i2", 0).exited("main", 0);
    assert_eq!(it.plan(), "kill side0 30s (Stopping container side)");
    let mut it = story(SIDECAR).ready().running("side").exited("i2", 0).running("main").deleted(5);
    assert_eq!(it.plan(), "kill main0 5s (Stopping container main); wake+5");
    let mut it = it.after(6);
    assert_eq!(
        it.plan(),
        "kill side0 0s (Stopping container side); kill main0 0s (Stopping container main)"
    );
}

#[test]
fn a_shorter_grace_period_comes_later_and_counts() {
    let mut it = story(ONE).ready().running("c").deleted(30);
    assert_eq!(it.plan(), "kill c0 30s (Stopping container c)");
    let mut it = it.with(|memory| {
        memory.busy.insert(super::memory::Busy::Kill("c0".into()));
    });
    assert_eq!(it.plan(), "");
    let mut it = it.after(2).deleted(1);
    assert_eq!(it.plan(), "kill c0 1s (Stopping container c)");
}

#[test]
fn probes_and_changed_images_restart_a_container() {
    let probed =
        r#"{"containers":[{"name":"c","livenessProbe":{"terminationGracePeriodSeconds":1}}]}"#;
    let mut it = story(probed).ready().running("c").with(|memory| {
        let results = ProbeResults { liveness: Some(false), ..ProbeResults::default() };
        memory.probes.insert("c0".into(), results);
    });
    assert_eq!(it.plan(), "kill c0 1s (Container c failed liveness probe, will be restarted)");
    let mut it = story(ONE).ready().running("c");
    it.observed.containers[0].container.annotations.insert(marks::HASH.into(), "old".into());
    assert_eq!(it.plan(), "kill c0 30s (Container c definition changed, will be restarted)");
}

#[test]
fn deadlines_and_evictions_fail_a_pod() {
    let mut it =
        story(r#"{"activeDeadlineSeconds":5,"containers":[{"name":"c"}]}"#).ready().running("c");
    it.memory.start_time = Some(it.now());
    assert_eq!(it.plan(), "wake+5");
    let mut it = it.after(5);
    assert_eq!(it.plan(), "tell; kill c0 30s (Stopping container c)");
    assert!(it.phase().starts_with("Pending"), "{}", it.phase());
    let mut it = story(ONE).with(|memory| {
        memory.failure = Some(Failure {
            reason: "OutOfcpu".into(),
            message: "full".into(),
            grace_period_seconds: None,
            rejected: true,
            disrupted: false,
        });
    });
    assert_eq!(it.plan(), "clean");
    assert_eq!(it.memory.stage, Stage::Terminated);
    assert_eq!(it.phase(), "Failed ");
}

#[test]
fn statuses_follow_the_start() {
    let mut it = story(INIT);
    it.plan();
    assert_eq!(
        it.phase(),
        "Pending PRTSC=F I=F(ContainersNotInitialized) R=F(ContainersNotReady) CR=F(ContainersNotReady) PS=T i1:PodInitializing/0 i2:PodInitializing/0 c:PodInitializing/0"
    );
    let made = story(INIT).ready().container("i1", ContainerState::Created, 0);
    assert_eq!(
        made.phase(),
        "Pending PRTSC=T I=F(ContainersNotInitialized) R=F(ContainersNotReady) CR=F(ContainersNotReady) PS=T i1:PodInitializing/0 i2:PodInitializing/0 c:PodInitializing/0"
    );
    let it = it.ready().running("i1");
    assert_eq!(
        it.phase(),
        "Pending PRTSC=T I=F(ContainersNotInitialized) R=F(ContainersNotReady) CR=F(ContainersNotReady) PS=T i1:running/0 i2:PodInitializing/0 c:PodInitializing/0"
    );
    let it = story(INIT).ready().exited("i1", 0).exited("i2", 0).running("c");
    assert_eq!(
        it.phase(),
        "Running PRTSC=T I=T R=T CR=T PS=T i1:Completed0/0/ready i2:Completed0/0/ready c:running/0/ready"
    );
    let it = story(SIDECAR).ready().running("side");
    assert_eq!(
        it.phase(),
        "Pending PRTSC=T I=F(ContainersNotInitialized) R=F(ContainersNotReady) CR=F(ContainersNotReady) PS=T side:running/0/ready i2:PodInitializing/0 main:PodInitializing/0"
    );
}

#[test]
fn readiness_waits_for_its_probe_and_gates() {
    let probed = r#"{"containers":[{"name":"c","readinessProbe":{}}]}"#;
    let it = story(probed).ready().running("c");
    assert_eq!(
        it.phase(),
        "Running PRTSC=T I=T R=F(ContainersNotReady) CR=F(ContainersNotReady) PS=T c:running/0"
    );
    let gated = r#"{"readinessGates":[{"conditionType":"x/y"}],"containers":[{"name":"c"}]}"#;
    let it = story(gated).ready().running("c");
    assert_eq!(
        it.phase(),
        "Running PRTSC=T I=T R=F(ReadinessGatesNotReady) CR=T PS=T c:running/0/ready"
    );
}
