//! What is to be done for a job: its status first, then the finalizers of the pods it counts, then pods to make or take.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::Value;
use client::Resource;
use client::events::{EventType, ObjectReference};
use controller::{Action, Event, Plan};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, SuccessPolicy};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff::Failures;
use super::conditions::{self, SUSPENDED, Verdict, Wanted};
use super::failure_policy::{self, Action as PolicyAction};
use super::groups::{self, Groups, Step};
use super::indexes::{self, Indexes};
use super::{manage, tracking};
use crate::owner::{self, Owner, is_deleting, reference_to, to_value};
use crate::pods;

/// What is known of a job at one instant.
pub(super) struct Round<'j> {
    pub(super) job: &'j Job,
    pub(super) spec: &'j JobSpec,
    /// The pods that the job controls.
    pub(super) pods: Vec<&'j Pod>,
    /// Those that are neither over nor on their way out.
    pub(super) active: Vec<&'j Pod>,
    pub(super) parallelism: usize,
    pub(super) completions: Option<u32>,
    pub(super) indexed: bool,
    /// How often each index may fail.
    pub(super) per_index: Option<i32>,
    pub(super) succeeded: u32,
    pub(super) failed: i64,
    pub(super) succeeded_indexes: Indexes,
    pub(super) failed_indexes: Indexes,
    /// Failed pods that wait for their replacement, by index.
    pub(super) delayed: BTreeMap<u32, &'j Pod>,
    /// The group that its pods are in.
    pub(super) group: Option<String>,
}

/// What is seen beside a job.
#[derive(Clone, Copy)]
pub(super) struct Seen<'s> {
    /// Its pods, or those that it might adopt.
    pub(super) pods: &'s [Arc<Pod>],
    /// What they may be in, where groups are made.
    pub(super) groups: Option<&'s Groups>,
}

pub(super) fn plan(job: &Job, seen: Seen<'_>, failures: &mut Failures, now: Timestamp) -> Plan {
    let pods = seen.pods;
    let mut plan = Plan::nothing();
    let Some(spec) = job.spec.as_ref() else { return plan };
    let mine = adopt(&mut plan, job, pods);
    let mine: Vec<&Pod> = mine.iter().map(AsRef::as_ref).collect();
    if conditions::is_finished(job) {
        for pod in mine.into_iter().filter(|pod| tracking::is_tracked(pod)) {
            plan.act(tracking::release(pod));
        }
        return plan;
    }
    let mut group = None;
    if let Some(groups) = seen.groups.filter(|_| !is_deleting(&job.metadata)) {
        match groups::ensure(&mut plan, job, pods, groups) {
            Step::Alone => {}
            Step::In(name) => group = Some(name),
            Step::Wait => return plan,
        }
    }
    let mut status = job.status.clone().unwrap_or_default();
    move_counted(&mut status, &mine);
    let mut round = Round::new(job, spec, mine, &status);
    round.group = group;
    failures.note(pods, &round.newly_finished(&status));
    if status.start_time.is_none() && !round.suspended() {
        status.start_time = Some(Time(now));
    }
    let earlier = Verdict::earlier(job);
    let verdict = earlier.clone().or_else(|| round.verdict(&status, &mut plan, now));
    let mut uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let tally = &mut failures.tally;
    let released = tracking::count(&round, verdict.as_ref(), (&mut uncounted, &mut *tally));
    let settled = uncounted.succeeded.is_none() && uncounted.failed.is_none();
    let waiting = uncounted.failed.as_ref().map_or(0, Vec::len);
    tally.failed = status.failed.unwrap_or_default() + i32::try_from(waiting).unwrap_or(i32::MAX);
    status.uncounted_terminated_pods = Some(uncounted);
    round.write_counts(&mut status, verdict.is_some());
    tally.terminating = status.terminating.unwrap_or_default();
    let manages = verdict.is_none() && !is_deleting(&job.metadata);
    let mut events = Vec::new();
    if let Some(verdict) = &verdict {
        let done = settled && released.is_empty() && round.active.is_empty() && earlier.is_some();
        round.conclude(&mut status, verdict, done, now, &mut events);
    } else if manages {
        round.suspend_or_resume(&mut status, now, &mut events);
    }
    write(&mut plan, &round, &status, events);
    plan.then();
    released.iter().for_each(|pod| {
        plan.act(tracking::release(pod));
    });
    if verdict.is_some() {
        manage::delete(&mut plan, &round, &round.active);
    } else if manages {
        manage::manage(&mut plan, &round, failures, now);
    }
    plan
}

/// The pods of the job; those are taken in that fit, and let go that do not. What is taken in counts at once: it is seen as it
/// will be, with its finalizer.
fn adopt<'j>(plan: &mut Plan, job: &Job, pods: &'j [Arc<Pod>]) -> Vec<Cow<'j, Pod>> {
    let owner = Owner { api_version: "batch/v1", kind: "Job", metadata: &job.metadata };
    let selector = super::selector(job);
    let deleting = is_deleting(&job.metadata);
    let mut mine = Vec::new();
    for pod in pods.iter().map(AsRef::as_ref) {
        let fits = selector.matches(&pod.metadata);
        match owner::controller_of(&pod.metadata) {
            Some(_) if fits || deleting => mine.push(Cow::Borrowed(pod)),
            Some(_) => {
                plan.act(tracking::untracked(owner.release(Resource::of::<Pod>(), &pod.metadata)));
            }
            None if fits && !deleting => {
                plan.act(tracking::tracked(owner.adopt(Resource::of::<Pod>(), &pod.metadata)));
                let mut pod = pod.clone();
                pod.metadata.finalizers.get_or_insert_default().push(super::FINALIZER.into());
                mine.push(Cow::Owned(pod));
            }
            None => {}
        }
    }
    mine
}

/// Moves pods that wait in the status, and have lost their finalizer since, into its counts.
fn move_counted(status: &mut JobStatus, pods: &[&Pod]) {
    let Some(uncounted) = &mut status.uncounted_terminated_pods else { return };
    let tracked: BTreeSet<&String> = pods
        .iter()
        .filter(|pod| tracking::is_tracked(pod))
        .filter_map(|pod| pod.metadata.uid.as_ref())
        .collect();
    let waits = |uid: &String| tracked.contains(uid);
    let lists = [
        (&mut uncounted.succeeded, &mut status.succeeded),
        (&mut uncounted.failed, &mut status.failed),
    ];
    for (list, count) in lists {
        let Some(uids) = list.as_mut() else { continue };
        let before = uids.len();
        uids.retain(waits);
        let moved = i32::try_from(before - uids.len()).unwrap_or(i32::MAX);
        if uids.is_empty() {
            *list = None;
        }
        *count = some(count.unwrap_or_default().saturating_add(moved));
    }
}

/// A count as a status writes it: nothing for none.
fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

impl<'j> Round<'j> {
    fn new(job: &'j Job, spec: &'j JobSpec, pods: Vec<&'j Pod>, status: &JobStatus) -> Self {
        let completions = spec.completions.and_then(|it| u32::try_from(it).ok());
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or_default();
        let mut round = Self {
            job,
            spec,
            active: pods.iter().copied().filter(|pod| pods::is_active(pod)).collect(),
            pods,
            parallelism,
            completions,
            indexed,
            per_index: spec.backoff_limit_per_index.filter(|_| indexed),
            succeeded: 0,
            failed: 0,
            succeeded_indexes: Indexes::new(),
            failed_indexes: Indexes::new(),
            delayed: BTreeMap::new(),
            group: None,
        };
        round.tally(status);
        round
    }

    /// Counts what has succeeded and failed, in the status or not yet.
    fn tally(&mut self, status: &JobStatus) {
        let uncounted = status.uncounted_terminated_pods.as_ref();
        let waiting = |list: Option<&Vec<String>>| list.map_or(0, Vec::len);
        let new = self.newly_finished(status);
        let succeeded = new.iter().filter(|pod| pods::phase(pod) == "Succeeded").count()
            + waiting(uncounted.and_then(|it| it.succeeded.as_ref()));
        let failed = new
            .iter()
            .filter(|pod| pods::phase(pod) != "Succeeded" && tracking::counts(self.job, pod))
            .count()
            + waiting(uncounted.and_then(|it| it.failed.as_ref()));
        let before = u32::try_from(status.succeeded.unwrap_or_default()).unwrap_or_default();
        self.succeeded = before.saturating_add(u32::try_from(succeeded).unwrap_or(u32::MAX));
        self.failed = i64::from(status.failed.unwrap_or_default())
            .saturating_add(i64::try_from(failed).unwrap_or(i64::MAX));
        let Some(completions) = self.completions.filter(|_| self.indexed) else { return };
        let text = status.completed_indexes.as_deref().unwrap_or_default();
        self.succeeded_indexes = indexes::parse(text, completions);
        let done = self
            .pods
            .iter()
            .filter(|pod| pods::phase(pod) == "Succeeded" && tracking::is_tracked(pod))
            .filter_map(|pod| indexes::of_pod(pod, completions));
        self.succeeded_indexes.extend(done);
        self.succeeded = u32::try_from(self.succeeded_indexes.len()).unwrap_or(u32::MAX);
        if let Some(limit) = self.per_index {
            self.failed_indexes =
                tracking::failed_indexes(self.job, &self.pods, completions, limit);
            self.delayed = tracking::delayed(self);
        }
    }

    /// The pods that have ended and that the status does not know of.
    fn newly_finished(&self, status: &JobStatus) -> Vec<&'j Pod> {
        let uncounted = status.uncounted_terminated_pods.as_ref();
        let lists = uncounted.into_iter().flat_map(|it| [&it.succeeded, &it.failed]);
        let known: BTreeSet<&String> = lists.flatten().flatten().collect();
        self.pods
            .iter()
            .copied()
            .filter(|pod| tracking::is_tracked(pod))
            .filter(|pod| pods::phase(pod) == "Succeeded" || tracking::is_failed(self.job, pod))
            .filter(|pod| !pod.metadata.uid.as_ref().is_some_and(|it| known.contains(it)))
            .collect()
    }

    pub(super) fn suspended(&self) -> bool {
        self.spec.suspend.unwrap_or_default()
    }

    /// How many pods are on their way out and not over.
    pub(super) fn terminating(&self) -> usize {
        let going = self.pods.iter().filter(|pod| is_deleting(&pod.metadata));
        going.filter(|pod| !matches!(pods::phase(pod), "Succeeded" | "Failed")).count()
    }

    pub(super) fn reference(&self) -> ObjectReference {
        reference_to("batch/v1", "Job", &self.job.metadata)
    }

    /// Whether the job ends, and how.
    fn verdict(&self, status: &JobStatus, plan: &mut Plan, now: Timestamp) -> Option<Verdict> {
        self.failure(status, plan, now).or_else(|| self.success())
    }

    fn failure(&self, status: &JobStatus, plan: &mut Plan, now: Timestamp) -> Option<Verdict> {
        let failed = self.pods.iter().filter(|pod| tracking::is_failed(self.job, pod));
        for pod in failed {
            if let PolicyAction::FailJob(message) = failure_policy::action(self.job, pod) {
                return Some(Verdict::failure("PodFailurePolicy", message));
            }
        }
        let limit = i64::from(self.spec.backoff_limit.unwrap_or(6));
        if self.failed > limit || self.restarts_exceed(limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(Verdict::failure("BackoffLimitExceeded", message));
        }
        if let Some(at) = self.deadline(status) {
            if at <= now {
                let message = "Job was active longer than specified deadline";
                return Some(Verdict::failure("DeadlineExceeded", message));
            }
            plan.requeue_by(at);
        }
        let most = self.spec.max_failed_indexes.and_then(|it| usize::try_from(it).ok());
        if most.is_some_and(|most| self.failed_indexes.len() > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Verdict::failure("MaxFailedIndexesExceeded", message));
        }
        None
    }

    /// Whether containers that restart in their pods have done so too often.
    fn restarts_exceed(&self, limit: i64) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|it| it.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let live = self.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let statuses = live.filter_map(|pod| pod.status.as_ref()).flat_map(|it| {
            it.init_container_statuses.iter().chain(&it.container_statuses).flatten()
        });
        let restarts: i64 = statuses.map(|it| i64::from(it.restart_count)).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn deadline(&self, status: &JobStatus) -> Option<Timestamp> {
        let seconds = self.spec.active_deadline_seconds.filter(|_| !self.suspended())?;
        let start = status.start_time.as_ref()?.0;
        start.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    fn success(&self) -> Option<Verdict> {
        let policy = self.spec.success_policy.as_ref().filter(|_| self.indexed);
        if let Some(place) = policy.and_then(|policy| self.matches(policy)) {
            let message = format!("Matched rules at index {place}");
            return Some(Verdict::success("SuccessPolicy", message));
        }
        if is_deleting(&self.job.metadata) {
            return None;
        }
        let reached = || {
            let message = "Reached expected number of succeeded pods";
            Verdict::success("CompletionsReached", message)
        };
        let Some(completions) = self.completions else {
            return (self.succeeded > 0 && self.active.is_empty()).then(reached);
        };
        let failed = u32::try_from(self.failed_indexes.len()).unwrap_or(u32::MAX);
        if self.succeeded.saturating_add(failed) < completions {
            return None;
        }
        if failed > 0 {
            return Some(Verdict::failure("FailedIndexes", "Job has failed indexes"));
        }
        Some(reached())
    }

    /// The first rule of a success policy that is met.
    fn matches(&self, policy: &SuccessPolicy) -> Option<usize> {
        let completions = self.completions.unwrap_or_default();
        policy.rules.iter().position(|rule| {
            let among = match &rule.succeeded_indexes {
                Some(text) => indexes::parse(text, completions),
                None => (0..completions).collect(),
            };
            let done = among.intersection(&self.succeeded_indexes).count();
            match rule.succeeded_count {
                Some(count) => i64::try_from(done).unwrap_or(i64::MAX) >= i64::from(count),
                None => done == among.len(),
            }
        })
    }

    /// Counts and indexes of the status.
    fn write_counts(&self, status: &mut JobStatus, ends: bool) {
        // Once the job ends, what runs is on its way out.
        let (active, going) = if ends { (0, self.active.len()) } else { (self.active.len(), 0) };
        let ready = self.active.iter().filter(|pod| pods::is_ready(pod)).count();
        status.active = some(number(active));
        status.ready = Some(if ends { 0 } else { number(ready) });
        status.terminating = Some(number(self.terminating() + going));
        if self.indexed {
            status.succeeded = some(i32::try_from(self.succeeded).unwrap_or(i32::MAX));
            let text = indexes::format(&self.succeeded_indexes);
            status.completed_indexes = (!text.is_empty()).then_some(text);
        }
        if self.per_index.is_some() {
            status.failed_indexes = Some(indexes::format(&self.failed_indexes));
        }
    }

    /// Tells of the verdict; ends the job where every pod is counted and gone.
    fn conclude(
        &self,
        status: &mut JobStatus,
        verdict: &Verdict,
        settled: bool,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) {
        let all = status.conditions.get_or_insert_default();
        let (reason, message) = (verdict.reason.as_str(), verdict.message.as_str());
        let told = |kind| Wanted { kind, holds: true, reason, message };
        conditions::set(all, told(verdict.interim()), now);
        if !settled || status.terminating.unwrap_or_default() > 0 {
            return;
        }
        conditions::set(all, told(verdict.last()), now);
        let (kind, reason, message) = if verdict.success {
            status.completion_time = Some(Time(now));
            if self.spec.completions.is_some_and(|it| status.succeeded.unwrap_or_default() > it) {
                let (kind, reason) = (EventType::Warning, "TooManySucceededPods");
                let message = "Too many succeeded pods running after completion count reached";
                events.push(Event {
                    about: self.reference(),
                    kind,
                    reason,
                    message: message.into(),
                });
            }
            (EventType::Normal, "Completed", "Job completed".to_owned())
        } else {
            (EventType::Warning, failure_reason(reason), message.to_owned())
        };
        events.push(Event { about: self.reference(), kind, reason, message });
    }

    fn suspend_or_resume(&self, status: &mut JobStatus, now: Timestamp, events: &mut Vec<Event>) {
        let holds = self.suspended();
        let (reason, message, event) = if holds {
            ("JobSuspended", "Job suspended", "Suspended")
        } else {
            ("JobResumed", "Job resumed", "Resumed")
        };
        let mut all = status.conditions.clone().unwrap_or_default();
        let wanted = Wanted { kind: SUSPENDED, holds, reason, message };
        if !conditions::set(&mut all, wanted, now) {
            return;
        }
        status.conditions = Some(all);
        // The time that a job may take counts from when it goes on.
        status.start_time = (!holds).then_some(Time(now));
        let (about, message) = (self.reference(), message.to_owned());
        events.push(Event { about, kind: EventType::Normal, reason: event, message });
    }
}

/// The reasons for failures that this controller gives.
fn failure_reason(reason: &str) -> &'static str {
    const ALL: [&str; 5] = [
        "PodFailurePolicy",
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "MaxFailedIndexesExceeded",
        "FailedIndexes",
    ];
    ALL.into_iter().find(|it| *it == reason).unwrap_or("Failed")
}

/// Writes the status if it is another; events are told once it is written.
fn write(plan: &mut Plan, round: &Round<'_>, status: &JobStatus, mut events: Vec<Event>) {
    let status: Value = to_value(status);
    if status == to_value(&round.job.status) {
        return;
    }
    let mut object = to_value(round.job);
    object.set_at(&["status"], status);
    let resource = Resource::of::<Job>();
    plan.act(Action::Update { resource, subresource: "status", object }).on_success = events.pop();
}

#[cfg(test)]
mod tests;
