//! What to do next for a pod. Pure: the same facts, the same plan.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::backoff::{BackOff, CRASH_LOOP, go_duration};
use super::containers::{hash, is_initialized, is_started, restarts_after, should_start};
use super::memory::{Busy, Failure, Memory, Stage, StartFailure};
use super::observed::{Observed, has_exited, is_running, marks, restart_count, time_of};
use super::phase::Phase;
use super::terminate;
use crate::spec::{self, ContainerKind, RestartPolicy};

/// One thing to do. Those of one plan do not depend on each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make volumes and the pod's group, then a sandbox.
    CreateSandbox {
        /// Counts the pod's sandboxes.
        attempt: u32,
    },
    /// Stop all that is left of a sandbox.
    StopSandbox {
        /// Its id.
        id: String,
    },
    /// Pull the image, make the container, start it, run its hook.
    Start {
        /// Its list.
        kind: ContainerKind,
        /// Its name.
        name: String,
        /// How often it was started before.
        restart_count: i32,
    },
    /// Run the hook that a container has for its end, and stop it.
    Kill {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// The text of the event.
        message: String,
        /// Between asking and killing.
        grace_seconds: i64,
    },
    /// Remove a container that was made and never started.
    Remove {
        /// Its id.
        id: String,
    },
    /// Tell that a container waits before it starts again.
    TellBackOff {
        /// Its list.
        kind: ContainerKind,
        /// Its name.
        name: String,
    },
    /// Tell that the pod's time is over.
    TellDeadline {
        /// As the status says it.
        message: String,
    },
    /// Take volumes and groups away.
    Clean,
}

/// What to do, and when to look again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake_at: Option<Timestamp>,
}

impl Plan {
    pub(crate) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |have| have.min(at)));
    }
}

/// Decides. Back-offs and the stage advance in `memory`; what was begun is noted there as busy by the caller.
pub(crate) fn plan(pod: &Pod, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
    let mut planner = Planner { pod, observed, memory, now, plan: Plan::default() };
    planner.advance();
    match planner.memory.stage {
        Stage::Running => planner.run(),
        Stage::Terminating | Stage::Terminated => {
            terminate::plan(pod, observed, planner.memory, now, &mut planner.plan);
        }
        Stage::Cleaned => {}
    }
    planner.plan
}

struct Planner<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    memory: &'a mut Memory,
    now: Timestamp,
    plan: Plan,
}

/// Whether the start of a pod's main containers is held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InitProgress {
    Done,
    Waiting,
}

impl Planner<'_> {
    /// Leaves the running stage when the pod is deleted, failed, out of time or has finished.
    fn advance(&mut self) {
        if self.memory.stage != Stage::Running {
            return;
        }
        self.check_deadline();
        let told = self.pod.status.as_ref().and_then(|it| it.phase.as_deref());
        let is_over = told.and_then(Phase::parse).is_some_and(Phase::is_terminal)
            || spec::is_deleting(self.pod)
            || self.memory.failure.is_some()
            || is_finished(self.pod, self.observed);
        if is_over {
            self.memory.stage = Stage::Terminating;
        }
    }

    fn check_deadline(&mut self) {
        let Some(seconds) = spec::spec(self.pod).active_deadline_seconds else { return };
        let noted = self
            .pod
            .status
            .as_ref()
            .and_then(|it| it.start_time.as_ref())
            .map(crate::time::from_time);
        let Some(start) = noted.or(self.memory.start_time) else { return };
        let end = start.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        if end > self.now {
            self.plan.wake(end);
        } else if self.memory.failure.is_none() {
            let message = "Pod was active on the node longer than the specified deadline";
            self.plan.actions.push(Action::TellDeadline { message: message.into() });
            self.memory.failure = Some(Failure {
                reason: "DeadlineExceeded".into(),
                message: message.into(),
                grace_period_seconds: None,
                rejected: false,
                disrupted: false,
            });
        }
    }

    fn run(&mut self) {
        if self.observed.ready_sandbox().is_none() {
            self.make_sandbox();
            return;
        }
        self.ephemeral();
        if self.init() == InitProgress::Done {
            self.main();
        }
    }

    fn make_sandbox(&mut self) {
        if self.memory.busy.contains(&Busy::Sandbox) {
            return;
        }
        let wanted = spec::main_containers(self.pod)
            .iter()
            .any(|it| should_start(self.pod, ContainerKind::Main, it, self.observed));
        if !wanted && self.observed.running().next().is_none() {
            return;
        }
        // What still runs in a sandbox that is not ready goes with it.
        let left: Vec<_> = self.observed.running().cloned().collect();
        if !left.is_empty() {
            for status in left {
                self.kill(&status, "Pod sandbox changed, it will be killed and re-created.", 0);
            }
            return;
        }
        if let Some(at) = self.memory.sandbox_retry_at.filter(|at| *at > self.now) {
            self.plan.wake(at);
            return;
        }
        let attempt =
            self.observed.sandboxes.first().map_or(0, |it| it.sandbox.metadata.attempt + 1);
        self.plan.actions.push(Action::CreateSandbox { attempt });
    }

    fn ephemeral(&mut self) {
        for container in spec::ephemeral_containers(self.pod) {
            if self.observed.latest(&container.name).is_none() {
                self.start(ContainerKind::Ephemeral, &container);
            }
        }
    }

    /// Starts the next init container, and sidecars that ended again.
    fn init(&mut self) -> InitProgress {
        let initialized = is_initialized(self.pod, self.observed);
        for container in spec::init_containers(self.pod) {
            let status = self.observed.latest_here(&container.name).cloned();
            let sidecar = spec::is_sidecar(container);
            if !sidecar && initialized {
                continue;
            }
            match status {
                Some(status) if is_running(&status) => {
                    if sidecar {
                        self.check_running(ContainerKind::Init, container, &status);
                    }
                    if !(initialized || sidecar && is_started(container, &status, self.memory)) {
                        return InitProgress::Waiting;
                    }
                }
                Some(status) if !sidecar && has_exited(&status) && status.exit_code == 0 => {}
                _ => {
                    self.start(ContainerKind::Init, container);
                    if !initialized {
                        return InitProgress::Waiting;
                    }
                }
            }
        }
        InitProgress::Done
    }

    fn main(&mut self) {
        for container in spec::main_containers(self.pod) {
            match self.observed.latest(&container.name) {
                Some(status) if is_running(status) => {
                    let status = status.clone();
                    self.check_running(ContainerKind::Main, container, &status);
                }
                _ if should_start(self.pod, ContainerKind::Main, container, self.observed) => {
                    self.start(ContainerKind::Main, container);
                }
                _ => {}
            }
        }
    }

    /// Kills a container whose definition changed, that a probe gave up, or whose hook failed.
    fn check_running(
        &mut self,
        kind: ContainerKind,
        container: &Container,
        status: &cri::ContainerStatus,
    ) {
        let id = &status.container.id;
        let results = self.memory.results(id);
        let known = status.container.annotations.get(marks::HASH);
        let changed = known.is_some_and(|it| *it != hash(container));
        let grace = spec::grace_period_seconds(self.pod);
        let own = |probe: Option<&k8s_openapi::api::core::v1::Probe>| {
            probe.and_then(|it| it.termination_grace_period_seconds).unwrap_or(grace)
        };
        let (message, grace, restarts) = if let Some(message) = self.memory.condemned.get(id) {
            (message.clone(), grace, None)
        } else if changed {
            (format!("Container {} definition changed", container.name), grace, Some(true))
        } else if results.liveness == Some(false) {
            let text = format!("Container {} failed liveness probe", container.name);
            (
                text,
                own(container.liveness_probe.as_ref()),
                self.restarts_when_killed(kind, container),
            )
        } else if results.startup == Some(false) {
            let text = format!("Container {} failed startup probe", container.name);
            (
                text,
                own(container.startup_probe.as_ref()),
                self.restarts_when_killed(kind, container),
            )
        } else {
            return;
        };
        let suffix = if restarts == Some(true) { ", will be restarted" } else { "" };
        self.kill(status, &format!("{message}{suffix}"), grace);
    }

    fn restarts_when_killed(&self, kind: ContainerKind, container: &Container) -> Option<bool> {
        let policy = super::containers::policy(self.pod, kind, container);
        Some(policy != RestartPolicy::Never)
    }

    fn kill(&mut self, status: &cri::ContainerStatus, message: &str, grace_seconds: i64) {
        let id = status.container.id.clone();
        if self.memory.is_being_killed(&id) {
            return;
        }
        let name = status.container.metadata.name.clone();
        let message = message.to_owned();
        self.plan.actions.push(Action::Kill { id, name, message, grace_seconds });
    }

    /// Starts a container unless it is on its way, has to wait, or may not start again.
    fn start(&mut self, kind: ContainerKind, container: &Container) {
        let name = container.name.as_str();
        if self.memory.is_starting(name) {
            return;
        }
        let latest = self.observed.latest(name);
        if let Some(status) = latest.filter(|it| !is_running(it) && !has_exited(it)) {
            // Made and never started: this process or the runtime ended in between.
            self.plan.actions.push(Action::Remove { id: status.container.id.clone() });
            return;
        }
        if let Some(status) = latest.filter(|it| has_exited(it)) {
            let here = self.observed.latest_here(name).is_some();
            if here && !restarts_after(self.pod, kind, container, status.exit_code) {
                return;
            }
            if self.backs_off(kind, container, time_of(status.finished_at)) {
                return;
            }
        }
        if let Some(failure) = self.memory.failures.get(name)
            && failure.retry_at > self.now
        {
            self.plan.wake(failure.retry_at);
            return;
        }
        if let Some(status) = latest.filter(|it| has_exited(it)) {
            let key = back_off_key(container);
            let entry = self.memory.back_offs.get(&key).copied();
            let next = BackOff::next(entry, CRASH_LOOP, time_of(status.finished_at), self.now);
            self.memory.back_offs.insert(key, next);
        }
        let restart_count = latest.map_or(0, |it| restart_count(it) + 1);
        let name = name.to_owned();
        self.plan.actions.push(Action::Start { kind, name, restart_count });
    }

    fn backs_off(&mut self, kind: ContainerKind, container: &Container, ended: Timestamp) -> bool {
        let Some(entry) = self.memory.back_offs.get(&back_off_key(container)) else { return false };
        let Some(until) = entry.until(CRASH_LOOP, ended, self.now) else { return false };
        let message = format!(
            "back-off {} restarting failed container={} pod={}",
            go_duration(entry.pause),
            container.name,
            spec::full_name(self.pod)
        );
        let failure = StartFailure { reason: "CrashLoopBackOff".into(), message, retry_at: until };
        let name = container.name.clone();
        if self.memory.told_back_offs.insert(name.clone(), until) != Some(until) {
            self.plan.actions.push(Action::TellBackOff { kind, name: name.clone() });
        }
        // Why a container could not run at all is shown for as long as it waits, as upstream's statuses do: they
        // tell what the round before came to.
        let known = self.memory.failures.get(&name).map(|it| it.reason.as_str());
        if known != Some("RunContainerError") {
            self.memory.failures.insert(name, failure);
        }
        self.plan.wake(until);
        true
    }
}

/// A container that is made anew begins without a past.
fn back_off_key(container: &Container) -> String {
    format!("{}_{}", container.name, hash(container))
}

/// Whether nothing of the pod will ever run again.
pub(crate) fn is_finished(pod: &Pod, observed: &Observed) -> bool {
    let init_failed = !is_initialized(pod, observed)
        && spec::init_containers(pod).iter().any(|container| {
            observed.latest_here(&container.name).is_some_and(|status| {
                has_exited(status)
                    && status.exit_code != 0
                    && !restarts_after(pod, ContainerKind::Init, container, status.exit_code)
            })
        });
    let main = spec::main_containers(pod);
    let all_done = !main.is_empty()
        && main.iter().all(|container| {
            observed.latest(&container.name).is_some_and(|status| {
                has_exited(status)
                    && !restarts_after(pod, ContainerKind::Main, container, status.exit_code)
            })
        });
    init_failed || all_done
}
