//! How a job ends: a verdict, told at once by one condition, and by another when every pod is counted and gone.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(super) const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
pub(super) const FAILURE_TARGET: &str = "FailureTarget";
pub(super) const COMPLETE: &str = "Complete";
pub(super) const FAILED: &str = "Failed";
pub(super) const SUSPENDED: &str = "Suspended";

/// How a job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Verdict {
    pub(super) fn success(reason: &str, message: impl Into<String>) -> Self {
        Self { success: true, reason: reason.into(), message: message.into() }
    }

    pub(super) fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { success: false, reason: reason.into(), message: message.into() }
    }

    /// The verdict that a job has had before.
    pub(super) fn earlier(job: &Job) -> Option<Self> {
        let conditions = || job.status.iter().flat_map(|it| it.conditions.iter().flatten());
        let holds = |kind: &str| conditions().find(|it| it.type_ == kind && it.status == "True");
        let (success, found) = match holds(FAILURE_TARGET) {
            Some(found) => (false, found),
            None => (true, holds(SUCCESS_CRITERIA_MET)?),
        };
        let text = |it: &Option<String>| it.clone().unwrap_or_default();
        Some(Self { success, reason: text(&found.reason), message: text(&found.message) })
    }

    /// The condition that tells of it at once.
    pub(super) fn interim(&self) -> &'static str {
        if self.success { SUCCESS_CRITERIA_MET } else { FAILURE_TARGET }
    }

    /// The condition that ends the job.
    pub(super) fn last(&self) -> &'static str {
        if self.success { COMPLETE } else { FAILED }
    }
}

/// Whether a job is over.
pub(super) fn is_finished(job: &Job) -> bool {
    let mut conditions = job.status.iter().flat_map(|it| it.conditions.iter().flatten());
    conditions.any(|it| matches!(it.type_.as_str(), COMPLETE | FAILED) && it.status == "True")
}

/// What a condition is to say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'w> {
    pub(super) kind: &'w str,
    pub(super) holds: bool,
    pub(super) reason: &'w str,
    pub(super) message: &'w str,
}

/// Sets a condition; says whether it changed. One that does not hold is not added.
pub(super) fn set(conditions: &mut Vec<JobCondition>, wanted: Wanted<'_>, now: Timestamp) -> bool {
    let status = if wanted.holds { "True" } else { "False" };
    let condition = JobCondition {
        type_: wanted.kind.into(),
        status: status.into(),
        reason: Some(wanted.reason.into()),
        message: Some(wanted.message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|it| it.type_ == wanted.kind) {
        Some(it) if it.status == status => false,
        Some(it) => {
            *it = condition;
            true
        }
        None if wanted.holds => {
            conditions.push(condition);
            true
        }
        None => false,
    }
}
