//! Jobs count right, and make no more pods than they may.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::Value;
use compact_str::CompactString;
use tokio::time::Instant;

use super::{History, Rule, controller, is_active, is_deleting, uid};
use crate::observer::{Change, Context};

const COUNT: &str = "Jobs count right";
const MOST: &str = "no more pods than a Job asks for";
const KIND: &str = "Job";
const TRACKED: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

#[derive(Debug, Default)]
struct Job {
    parallelism: History,
    completions: Option<i64>,
    indexed: bool,
    /// Pods that succeeded.
    succeeded: BTreeSet<CompactString>,
    /// Those of them that were neither on their way out nor let go then, with when. The others may have been counted before.
    clean: BTreeMap<CompactString, Instant>,
    /// Pods that were counted as failed, when they were over or since the job was.
    failed: BTreeSet<CompactString>,
    indexes: BTreeSet<i64>,
    clean_indexes: BTreeMap<i64, Instant>,
    active: BTreeMap<CompactString, Option<i64>>,
}

#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: BTreeMap<CompactString, Job>,
}

impl Rule for Jobs {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        match (change.kind, change.new) {
            (KIND, Some(new)) => self.job(new, change, context),
            (KIND, None) => {
                if let Some(old) = change.old {
                    self.jobs.remove(uid(old));
                }
            }
            ("Pod", _) => self.pod(change, context),
            _ => {}
        }
    }
}

/// The numbers of `0-2,5`.
fn numbers(text: &str) -> Vec<i64> {
    let ranges = text.split(',').filter(|it| !it.is_empty());
    let ranges = ranges.filter_map(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        Some(from.parse::<i64>().ok()?..=to.parse::<i64>().ok()?)
    });
    ranges.flatten().collect()
}

fn is_finished(job: &Value) -> bool {
    let conditions = job.items_at(&["status", "conditions"]);
    conditions.iter().any(|it| {
        matches!(it.str_at(&["type"]), "Complete" | "Failed") && it.str_at(&["status"]) == "True"
    })
}

impl Jobs {
    fn job(&mut self, new: &Value, change: &Change<'_>, context: &Context<'_>) {
        let job = self.jobs.entry(uid(new).into()).or_default();
        let suspended = new.bool_at(&["spec", "suspend"]);
        let asked = if suspended { 0 } else { new.i64_at(&["spec", "parallelism"]).unwrap_or(1) };
        job.parallelism.set(context.now, asked);
        job.completions = new.i64_at(&["spec", "completions"]);
        job.indexed = new.str_at(&["spec", "completionMode"]) == "Indexed";
        let (namespace, name) = (&change.place.namespace, &change.place.name);
        let broken = |what: String| {
            let status = &new["status"];
            context.ledger.violation(COUNT, format!("{namespace}/{name}: {what}: {status:?}"));
        };
        let told = |it: &Value| it.i64_at(&["status", "succeeded"]).unwrap_or(0);
        let count = |it: usize| i64::try_from(it).unwrap_or(i64::MAX);
        if change.old.is_some_and(|old| told(old) > told(new)) {
            broken(format!("succeeded went back to {}", told(new)));
        }
        // A job that ends counts pods as failed which run, or did as far as its controller knows (upstream's does too).
        let failed = new.items_at(&["status", "uncountedTerminatedPods", "failed"]);
        for uid in failed.iter().filter_map(Value::as_str) {
            job.failed.insert(uid.into());
            if job.clean.get(uid).is_some_and(|at| *at >= context.since) {
                job.clean.remove(uid);
            }
        }
        let completed = numbers(new.str_at(&["status", "completedIndexes"]));
        if let Some(index) = completed.iter().find(|it| !job.indexes.contains(it)) {
            broken(format!("index {index} is said to be completed, and no pod of it succeeded"));
        }
        let truth = if job.indexed { job.indexes.len() } else { job.succeeded.len() };
        if told(new) > count(truth) {
            broken(format!("{} are said to have succeeded, and {truth} did", told(new)));
        }
        if !is_finished(new) || change.old.is_some_and(is_finished) || is_deleting(new) {
            return;
        }
        let least = if job.indexed { 0 } else { job.clean.len() };
        if told(new) < count(least) {
            broken(format!("{} are said to have succeeded, and {least} did", told(new)));
        }
    }

    fn pod(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let Some(pod) = change.new.or(change.old) else { return };
        let Some(job) = controller(pod, KIND).and_then(|it| self.jobs.get_mut(it)) else { return };
        let index = pod.str_at(&["metadata", "annotations", INDEX]).parse::<i64>().ok();
        let succeeded = change.new.is_some_and(|it| it.str_at(&["status", "phase"]) == "Succeeded");
        if succeeded && job.succeeded.insert(uid(pod).into()) {
            job.indexes.extend(index);
            // One that is let go uncounted, since the job is over, may succeed after that.
            let finalizers = pod.items_at(&["metadata", "finalizers"]);
            let tracked = finalizers.iter().any(|it| it.as_str() == Some(TRACKED));
            if tracked && !is_deleting(pod) && !job.failed.contains(uid(pod)) {
                job.clean.insert(uid(pod).into(), context.now);
                job.clean_indexes.extend(index.map(|it| (it, context.now)));
            }
        }
        if !change.new.is_some_and(is_active) {
            job.active.remove(uid(pod));
            return;
        }
        let twin = index.is_some() && job.active.values().any(|it| *it == index);
        let is_new = job.active.insert(uid(pod).into(), index).is_none();
        if is_new && change.old.is_none() {
            job.judge(index, twin, change, context);
        }
    }
}

impl Job {
    /// Judges a pod that was just made.
    fn judge(&self, index: Option<i64>, twin: bool, change: &Change<'_>, context: &Context<'_>) {
        let (namespace, name) = (&change.place.namespace, &change.place.name);
        let broken = |what: String| {
            context.ledger.violation(MOST, format!("{namespace}/{name} {what}"));
        };
        let active = i64::try_from(self.active.len()).unwrap_or(i64::MAX);
        let most = self.parallelism.max_since(context.since);
        if active > most {
            broken(format!("is active number {active} where {most} were asked for"));
        }
        if twin {
            broken(format!("is made for index {index:?}, for which there is an active one"));
        }
        let done = index.and_then(|it| self.clean_indexes.get(&it));
        if done.is_some_and(|at| *at < context.since) {
            broken(format!("is made for index {index:?}, which is done"));
        }
        let (Some(completions), false) = (self.completions, self.indexed) else { return };
        let done = self.clean.values().filter(|at| **at < context.since).count();
        let done = i64::try_from(done).unwrap_or(i64::MAX);
        if done + active > completions {
            broken(format!("is active number {active} where {done} of {completions} are done"));
        }
    }
}
