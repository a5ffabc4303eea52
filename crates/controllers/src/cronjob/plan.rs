//! What is to be done for a cron job: its list of active jobs, old jobs to take away, and a job that is due.

use std::collections::BTreeSet;

use apimachinery::cron::Schedule;
use apimachinery::{Value, value};
use client::events::EventType;
use client::{ObjectKey, Resource};
use controller::{Action, Event, Plan};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Memory, Observed};
use crate::owner::{Owner, is_deleting, key_of, reference_to, to_value};

/// The annotation that says for when a job was scheduled.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are worth a warning.
const MANY_MISSED: i64 = 100;
/// How long after its time a job is looked for, so that it is surely due (upstream: `nextScheduleDelta`).
const AFTER: SignedDuration = SignedDuration::from_millis(100);

struct Step<'c> {
    cron_job: &'c CronJob,
    spec: &'c CronJobSpec,
    jobs: Vec<&'c Job>,
    /// The names of active jobs that are somebody else's now: nobody misses them.
    strangers: &'c BTreeSet<String>,
    status: CronJobStatus,
    plan: Plan,
    now: Timestamp,
    /// The uids of the jobs that the plan takes away.
    removed: BTreeSet<String>,
}

pub(super) fn plan(observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
    let Observed { cron_job, jobs, strangers } = observed;
    let spec = &cron_job.spec;
    let mut step = Step {
        cron_job,
        spec,
        jobs: jobs.iter().map(AsRef::as_ref).collect(),
        strangers,
        status: cron_job.status.clone().unwrap_or_default(),
        plan: Plan::nothing(),
        now,
        removed: BTreeSet::new(),
    };
    step.clean_up();
    step.follow_jobs(memory);
    let starts = step.due(memory);
    step.write_status();
    memory.late = starts.map(|at| now.duration_since(at));
    if let Some(at) = starts {
        step.start(at);
    }
    memory.removed.append(&mut step.removed);
    step.plan
}

/// `Complete` or `Failed`, where a job is over.
fn finished(job: &Job) -> Option<&str> {
    let conditions = job.status.iter().flat_map(|it| it.conditions.iter().flatten());
    let mut over = conditions.filter(|it| it.status == "True").map(|it| it.type_.as_str());
    over.find(|it| matches!(*it, "Complete" | "Failed"))
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

impl Step<'_> {
    fn tell(&mut self, kind: EventType, reason: &'static str, message: String) {
        let about = reference_to("batch/v1", "CronJob", &self.cron_job.metadata);
        self.plan.event(about, kind, reason, message);
    }

    /// Takes the oldest jobs away that are over, beyond what is to be kept of each outcome.
    fn clean_up(&mut self) {
        let limits = [
            ("Complete", self.spec.successful_jobs_history_limit),
            ("Failed", self.spec.failed_jobs_history_limit),
        ];
        for (outcome, limit) in limits {
            let Some(keep) = limit.and_then(|it| usize::try_from(it).ok()) else { continue };
            let mut over: Vec<&Job> =
                self.jobs.iter().copied().filter(|job| finished(job) == Some(outcome)).collect();
            over.sort_by_key(|job| {
                let started = job.status.as_ref().and_then(|it| it.start_time.as_ref());
                (started.map(|it| it.0), name(job).to_owned())
            });
            let surplus = over.len().saturating_sub(keep);
            for job in over.into_iter().take(surplus).filter(|job| !is_deleting(&job.metadata)) {
                self.delete(job.metadata.uid.as_deref(), name(job));
            }
        }
    }

    fn delete(&mut self, uid: Option<&str>, name: &str) {
        let namespace = self.cron_job.metadata.namespace.clone().unwrap_or_default();
        let about = reference_to("batch/v1", "CronJob", &self.cron_job.metadata);
        let planned = self.plan.act(Action::Delete {
            resource: Resource::of::<Job>(),
            key: ObjectKey::new(namespace, name),
            uid: uid.unwrap_or_default().into(),
            propagation: Some("Background"),
            grace_period_seconds: None,
            resource_version: String::new(),
        });
        let event = |kind, reason, message| Event { about: about.clone(), kind, reason, message };
        planned.on_success =
            Some(event(EventType::Normal, "SuccessfulDelete", format!("Deleted job {name}")));
        let failed = "Deleted job: {error}".to_owned();
        planned.on_failure = vec![event(EventType::Warning, "FailedDelete", failed)];
        self.status.active.iter_mut().for_each(|all| all.retain(|it| it.uid.as_deref() != uid));
        self.removed.extend(uid.map(str::to_owned));
    }

    /// Brings the list of active jobs up to date with the jobs that there are.
    fn follow_jobs(&mut self, memory: &mut Memory) {
        for job in self.jobs.clone() {
            let active = self.active().iter().any(|it| it.uid == job.metadata.uid);
            match finished(job) {
                None if active => {}
                None => self.found(job),
                Some(outcome) if active => {
                    let message = format!("Saw completed job: {}, condition: {outcome}", name(job));
                    self.tell(EventType::Normal, "SawCompletedJob", message);
                    let all = self.status.active.iter_mut();
                    all.for_each(|all| all.retain(|it| it.uid != job.metadata.uid));
                }
                Some(_) => {}
            }
            if finished(job) == Some("Complete") {
                let at = job.status.as_ref().and_then(|it| it.completion_time.clone());
                let last = self.status.last_successful_time.clone();
                self.status.last_successful_time = last.max(at);
            }
        }
        let gone: Vec<ObjectReference> = self
            .active()
            .iter()
            .filter(|it| !self.jobs.iter().any(|job| job.metadata.uid == it.uid))
            .filter(|it| !it.name.as_ref().is_some_and(|it| self.strangers.contains(it)))
            .cloned()
            .collect();
        memory.removed.retain(|uid| self.active().iter().any(|it| it.uid.as_ref() == Some(uid)));
        for it in gone {
            if !it.uid.as_ref().is_some_and(|uid| memory.removed.contains(uid)) {
                let message = format!("Active job went missing: {}", it.name.unwrap_or_default());
                self.tell(EventType::Normal, "MissingJob", message);
            }
            let all = self.status.active.iter_mut();
            all.for_each(|all| all.retain(|other| other.uid != it.uid));
        }
    }

    fn active(&self) -> &[ObjectReference] {
        self.status.active.as_deref().unwrap_or_default()
    }

    /// A live job that the status does not know: the one that was just started, or one from elsewhere.
    fn found(&mut self, job: &Job) {
        let scheduled = job.metadata.annotations.as_ref().and_then(|it| it.get(SCHEDULED));
        let scheduled = scheduled.and_then(|it| it.parse::<Timestamp>().ok());
        let last = self.status.last_schedule_time.as_ref().map(|it| it.0);
        let started = scheduled.filter(|at| {
            last.is_none_or(|last| *at > last) && job_name(self.cron_job, *at) == name(job)
        });
        let Some(at) = started else {
            let message =
                format!("Saw a job that the controller did not create or forgot: {}", name(job));
            return self.tell(EventType::Warning, "UnexpectedJob", message);
        };
        self.status.last_schedule_time = Some(Time(at));
        self.status.active.get_or_insert_default().push(ObjectReference {
            api_version: Some("batch/v1".into()),
            kind: Some("Job".into()),
            namespace: job.metadata.namespace.clone(),
            name: job.metadata.name.clone(),
            uid: job.metadata.uid.clone(),
            resource_version: job.metadata.resource_version.clone(),
            field_path: None,
        });
    }

    /// The time for which a job is to be started now, if any; plans again for the next.
    fn due(&mut self, memory: &mut Memory) -> Option<Timestamp> {
        if is_deleting(&self.cron_job.metadata) || self.spec.suspend.unwrap_or_default() {
            return None;
        }
        let (schedule, zone) = self.schedule()?;
        let Some(next) = schedule.next(self.now, &zone) else {
            let why = "time difference between two schedules is less than 1 second";
            let message = format!("invalid schedule: {} : {why}", self.spec.schedule);
            self.tell(EventType::Warning, "InvalidSchedule", message);
            return None;
        };
        self.plan.requeue_by(next.saturating_add(AFTER).unwrap_or(next));
        let (at, missed) = self.latest(&schedule, &zone)?;
        let first_look = memory.told.is_none_or(|told| told < at);
        if missed > MANY_MISSED && first_look {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.tell(EventType::Warning, "TooManyMissedTimes", message.into());
        }
        if self.is_too_late(at) {
            if first_look {
                let shown = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
                let message = format!("Missed scheduled time to start a job: {shown}");
                self.tell(EventType::Warning, "MissSchedule", message);
            }
            memory.told = Some(at);
            return None;
        }
        let name = job_name(self.cron_job, at);
        let processed = self.active().iter().any(|it| it.name.as_deref() == Some(name.as_str()))
            || self.status.last_schedule_time.as_ref().is_some_and(|it| it.0 == at)
            || self.jobs.iter().any(|job| job.metadata.name.as_deref() == Some(name.as_str()));
        if processed {
            return None;
        }
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !self.active().is_empty() => {
                if first_look {
                    let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                    self.tell(EventType::Normal, "JobAlreadyActive", message.into());
                }
                memory.told = Some(at);
                return None;
            }
            Some("Replace") => {
                for it in self.active().to_vec() {
                    self.delete(it.uid.as_deref(), it.name.as_deref().unwrap_or_default());
                }
            }
            _ => {}
        }
        Some(at)
    }

    fn schedule(&mut self) -> Option<(Schedule, TimeZone)> {
        let zone = match self.spec.time_zone.as_deref() {
            None => TimeZone::UTC,
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(error) => {
                    let message = format!("invalid timeZone: {name:?}: {error}");
                    self.tell(EventType::Warning, "UnknownTimeZone", message);
                    return None;
                }
            },
        };
        match Schedule::parse(&self.spec.schedule) {
            Ok((schedule, own)) => Some((schedule, own.unwrap_or(zone))),
            Err(why) => {
                let message = format!("unparseable schedule: {:?} : {why}", self.spec.schedule);
                self.tell(EventType::Warning, "UnparseableSchedule", message);
                None
            }
        }
    }

    /// The latest time that has come since the last start, and how many have.
    fn latest(&self, schedule: &Schedule, zone: &TimeZone) -> Option<(Timestamp, i64)> {
        let created = self.cron_job.metadata.creation_timestamp.as_ref().map(|it| it.0);
        let last = self.status.last_schedule_time.as_ref().map(|it| it.0);
        let mut from = last.or(created).unwrap_or(self.now);
        if let Some(seconds) = self.spec.starting_deadline_seconds {
            let earliest = self.now.saturating_sub(SignedDuration::from_secs(seconds)).ok()?;
            from = from.max(earliest);
        }
        let first = schedule.next(from, zone).filter(|at| *at <= self.now)?;
        let Some(second) = schedule.next(first, zone).filter(|at| *at <= self.now) else {
            return Some((first, 1));
        };
        // The pauses may differ: the estimate is put right by walking on from it.
        let pause = second.duration_since(first).as_secs().max(1);
        let missed = self.now.duration_since(first).as_secs() / pause + 1;
        let skipped = SignedDuration::from_secs(pause * (missed - 1) - 1);
        let mut latest = first;
        let mut next = schedule.next(first.checked_add(skipped).ok()?, zone);
        while let Some(at) = next.filter(|at| *at <= self.now) {
            latest = at;
            next = schedule.next(at, zone);
        }
        Some((latest, missed))
    }

    fn is_too_late(&self, at: Timestamp) -> bool {
        self.spec.starting_deadline_seconds.is_some_and(|seconds| {
            let until = at.saturating_add(SignedDuration::from_secs(seconds));
            until.is_ok_and(|until| until < self.now)
        })
    }

    fn write_status(&mut self) {
        if self.status.active.as_ref().is_some_and(Vec::is_empty) {
            self.status.active = None;
        }
        let status: Value = to_value(&self.status);
        let before = self.cron_job.status.as_ref().map_or_else(Value::object, to_value);
        if status == before {
            return;
        }
        let mut object = to_value(self.cron_job);
        object.set_at(&["status"], status);
        self.plan.then();
        let resource = Resource::of::<CronJob>();
        self.plan.act(Action::Update { resource, subresource: "status", object });
    }

    /// Starts the job of a time; the next plan finds it and writes it down.
    fn start(&mut self, at: Timestamp) {
        let metadata = &self.cron_job.metadata;
        let owner = Owner { api_version: "batch/v1", kind: "CronJob", metadata };
        let name = job_name(self.cron_job, at);
        let template = to_value(&self.spec.job_template);
        let mut object = value!({"apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": (name.as_str()), "ownerReferences": [(owner.reference())]}});
        object.set_at(&["spec"], template["spec"].clone());
        for member in ["labels", "annotations"] {
            if let Some(given) = template.at(&["metadata", member]) {
                object.set_at(&["metadata", member], given.clone());
            }
        }
        object.set_at(&["metadata", "annotations", SCHEDULED], self.shown(at));
        let about = reference_to("batch/v1", "CronJob", metadata);
        let event = |kind, reason, message| Event { about: about.clone(), kind, reason, message };
        self.plan.then();
        let planned = self.plan.act(Action::Create {
            resource: Resource::of::<Job>(),
            namespace: key_of(metadata).namespace.to_string(),
            object,
            exists_is_fine: false,
        });
        planned.on_success =
            Some(event(EventType::Normal, "SuccessfulCreate", format!("Created job {name}")));
        let failed = "Error creating job: {error}".to_owned();
        planned.on_failure = vec![event(EventType::Warning, "FailedCreate", failed)];
    }

    /// A time in the zone of the schedule, as the annotation has it.
    fn shown(&self, at: Timestamp) -> String {
        let zone = self.spec.time_zone.as_deref().and_then(|it| TimeZone::get(it).ok());
        match zone.filter(|zone| !zone.to_offset(at).is_zero()) {
            Some(zone) => at.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
            None => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

/// The name of the job for a time: the same time never makes two.
fn job_name(cron_job: &CronJob, at: Timestamp) -> String {
    let name = cron_job.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{}", at.as_second() / 60)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn cron_job(spec: &str, status: &str) -> CronJob {
        let text = format!(
            r#"{{"metadata":{{"name":"c","namespace":"ns","uid":"c","creationTimestamp":"2026-01-01T00:00:00Z"}},
            "spec":{{"schedule":"0 * * * *","jobTemplate":{{"metadata":{{"labels":{{"a":"b"}}}}}}{spec}}},"status":{status}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn job(name: &str, condition: &str) -> Arc<Job> {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","uid":"{name}"}},"status":{{"completionTime":"2026-01-01T02:30:00Z","conditions":[{{"type":"{condition}","status":"True"}}]}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn observed(cron_job: &CronJob, jobs: &[Arc<Job>]) -> Observed {
        let strangers = BTreeSet::new();
        Observed { cron_job: cron_job.clone(), jobs: jobs.to_vec(), strangers }
    }

    fn did(cron_job: &CronJob, jobs: &[Arc<Job>], now: &str) -> String {
        let observed = observed(cron_job, jobs);
        let plan = plan(&observed, &mut Memory::default(), now.parse().unwrap());
        let actions = plan.stages.iter().flat_map(|it| &it.actions);
        let mut did: Vec<String> = actions
            .map(|it| match &it.action {
                Action::Create { object, .. } => {
                    format!("create {}", object.str_at(&["metadata", "name"]))
                }
                Action::Delete { key, .. } => format!("delete {}", key.name),
                Action::Update { object, .. } => {
                    let active = object.items_at(&["status", "active"]).len();
                    format!("status with {active} active")
                }
                other => format!("{other:?}"),
            })
            .collect();
        did.extend(plan.events.iter().map(|it| it.reason.to_owned()));
        did.join(", ")
    }

    #[test]
    fn a_job_starts_when_it_is_due() {
        let check = |spec: &str, status: &str, now: &str, expected: &str| {
            assert_eq!(did(&cron_job(spec, status), &[], now), expected, "{spec} {status} {now}");
        };
        // 2026-01-01T01:00 is minute 29453820.
        check("", "{}", "2026-01-01T00:59:59Z", "");
        check("", "{}", "2026-01-01T01:00:00Z", "create c-29453820");
        check("", "{}", "2026-01-01T03:10:00Z", "create c-29453940");
        check(r#","suspend":true"#, "{}", "2026-01-01T03:10:00Z", "");
        let done = r#"{"lastScheduleTime":"2026-01-01T03:00:00Z"}"#;
        check("", done, "2026-01-01T03:10:00Z", "");
        check(r#","startingDeadlineSeconds":60"#, "{}", "2026-01-01T03:10:00Z", "");
        check(
            r#","startingDeadlineSeconds":60"#,
            "{}",
            "2026-01-01T03:00:30Z",
            "create c-29453940",
        );
        check("", "{}", "2026-01-09T00:00:00Z", "create c-29465280, TooManyMissedTimes");
    }

    #[test]
    fn jobs_of_before_are_followed() {
        let active = r#"{"lastScheduleTime":"2026-01-01T01:00:00Z","active":[{"name":"c-29453820","uid":"c-29453820"}]}"#;
        let running = [job("c-29453820", "Suspended")];
        let check = |spec: &str, jobs: &[Arc<Job>], expected: &str| {
            let now = "2026-01-01T02:00:00Z";
            assert_eq!(did(&cron_job(spec, active), jobs, now), expected, "{spec}");
        };
        check("", &running, "create c-29453880");
        check(r#","concurrencyPolicy":"Forbid""#, &running, "JobAlreadyActive");
        check(
            r#","concurrencyPolicy":"Replace""#,
            &running,
            "delete c-29453820, status with 0 active, create c-29453880",
        );
        let over = [job("c-29453820", "Complete")];
        check(
            r#","concurrencyPolicy":"Forbid""#,
            &over,
            "status with 0 active, create c-29453880, SawCompletedJob",
        );
        check(
            r#","suspend":true,"successfulJobsHistoryLimit":0"#,
            &over,
            "delete c-29453820, status with 0 active",
        );
        check(r#","suspend":true"#, &[], "status with 0 active, MissingJob");
    }

    #[test]
    fn jobs_that_were_taken_away_here_are_not_missed() {
        let active = r#"{"lastScheduleTime":"2026-01-01T01:00:00Z","active":[{"name":"c-29453820","uid":"c-29453820"}]}"#;
        let replaces = cron_job(r#","concurrencyPolicy":"Replace""#, active);
        let (running, now) =
            ([job("c-29453820", "Suspended")], "2026-01-01T02:00:00Z".parse().unwrap());
        let mut memory = Memory::default();
        let events = |jobs: &[Arc<Job>], memory: &mut Memory| {
            plan(&observed(&replaces, jobs), memory, now).events.len()
        };
        assert_eq!(events(&running, &mut memory), 0);
        // The status was not written, and names the job still.
        assert_eq!(events(&[], &mut memory), 0);
        assert_eq!(events(&[], &mut Memory::default()), 1);
        // It was let go of, and is still there.
        let mut released = observed(&replaces, &[]);
        released.strangers.insert("c-29453820".into());
        assert!(plan(&released, &mut Memory::default(), now).events.is_empty());
    }

    #[test]
    fn a_schedule_that_never_comes_is_told() {
        let mut never = cron_job("", "{}");
        never.spec.schedule = "0 0 31 2 *".into();
        let plan = plan(&observed(&never, &[]), &mut Memory::default(), Timestamp::UNIX_EPOCH);
        let told: Vec<_> = plan.events.iter().map(|it| (it.reason, it.message.as_str())).collect();
        let message = "invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second";
        assert_eq!(told, [("InvalidSchedule", message)]);
        assert!(plan.requeue_at.is_none());
    }
}
