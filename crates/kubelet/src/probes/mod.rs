//! Probes: one task for each probe of a running container, which tells the pod's worker when its word changes.

mod check;
mod count;
mod grpc;

use std::sync::Arc;
use std::time::Duration;

use client::events::EventType;
use component_base::ShutdownSignal;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};

use crate::pod::inbox::{Inbox, Outcome, ProbeKind};
use crate::shared::Shared;
use crate::spec::ContainerKind;
use check::Found;
use count::Count;

/// What is probed.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) pod: Pod,
    pub(crate) list: ContainerKind,
    pub(crate) container: Container,
    pub(crate) container_id: String,
    pub(crate) pod_ip: Option<String>,
    /// How long it runs already.
    pub(crate) age: Duration,
    pub(crate) kind: ProbeKind,
    pub(crate) probe: Probe,
}

/// The probe of a kind, if the container has it.
pub(crate) fn probe_of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let set = value.and_then(|it| u64::try_from(it).ok()).filter(|it| *it > 0);
    Duration::from_secs(set.unwrap_or(default))
}

/// Probes until told to stop, or until there is nothing more to find out.
pub(crate) async fn run(
    shared: Arc<Shared>,
    subject: Subject,
    inbox: Arc<Inbox>,
    stop: ShutdownSignal,
) {
    let probe = &subject.probe;
    let period = seconds(probe.period_seconds, 10);
    let delay = seconds(probe.initial_delay_seconds, 0).saturating_sub(subject.age);
    let mut count = Count::new(
        u32::try_from(probe.success_threshold.unwrap_or(1)).unwrap_or(1),
        u32::try_from(probe.failure_threshold.unwrap_or(3)).unwrap_or(3),
    );
    let mut ticks = tokio::time::interval_at(shared.clock.monotonic() + delay, period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.requested() => return,
        }
        let found = tokio::select! {
            it = check::check(&shared, &subject) => it,
            () = stop.requested() => return,
        };
        tell(&shared, &subject, &found);
        let Some(word) = count.add(found.is_success()) else { continue };
        inbox.report(Outcome::Probe(subject.container_id.clone(), subject.kind, word));
        // A container that is given up is not asked again; one that has started neither.
        if subject.kind == ProbeKind::Startup || (subject.kind == ProbeKind::Liveness && !word) {
            return;
        }
    }
}

fn tell(shared: &Shared, subject: &Subject, found: &Found) {
    let word = subject.kind.word();
    let message = match found {
        Found::Success => return,
        Found::Failure(output) => format!("{word} probe failed: {output}"),
        Found::Error(why) => format!("{word} probe errored and resulted in unknown state: {why}"),
    };
    let about = (subject.list, subject.container.name.as_str());
    let event = (EventType::Warning, "Unhealthy");
    shared.container_event(&subject.pod, about, event, &message);
}
