//! A job and its pods in memory: plans are carried out until nothing is left to do.

use super::*;

/// The job, its pods, and what was told.
struct World {
    job: Job,
    pods: Vec<Arc<Pod>>,
    failures: Failures,
    now: Timestamp,
    made: usize,
    events: Vec<String>,
}

impl World {
    fn new(spec: &str) -> Self {
        let text = r#"{"metadata":{"name":"j","namespace":"ns","uid":"job"},
            "spec":{"selector":{"matchLabels":{"job":"j"}},"backoffLimit":6,"parallelism":1,"completions":1,
            "template":{"metadata":{"labels":{"job":"j"}},"spec":{"restartPolicy":"Never","containers":[{"name":"c"}]}}}}"#;
        let mut job = apimachinery::json::parse(text.as_bytes()).unwrap();
        let changes = apimachinery::json::parse(spec.as_bytes()).unwrap();
        for (key, value) in changes.as_object().unwrap().iter() {
            job.set_at(&["spec", key], value.clone());
        }
        let mut world = Self {
            job: typed(&job),
            pods: Vec::new(),
            failures: Failures::default(),
            now: Timestamp::UNIX_EPOCH,
            made: 0,
            events: Vec::new(),
        };
        world.settle();
        world
    }

    /// Carries out plans until one has nothing to do.
    fn settle(&mut self) {
        for _ in 0..20 {
            let plan = plan(
                &self.job,
                Seen { pods: &self.pods, groups: None },
                &mut self.failures,
                self.now,
            );
            if plan.is_quiet() {
                return;
            }
            let actions = plan.stages.into_iter().flat_map(|it| it.actions);
            for planned in actions.collect::<Vec<_>>() {
                self.carry_out(&planned.action);
                self.events.extend(planned.on_success.map(|it| it.reason.to_owned()));
            }
        }
        panic!("the plans do not come to an end");
    }

    fn carry_out(&mut self, action: &Action) {
        match action {
            Action::Create { object, .. } => {
                let mut pod = object.clone();
                let name = format!("{}{}", pod.str_at(&["metadata", "generateName"]), self.made);
                self.made += 1;
                pod.set_at(&["metadata", "name"], name.as_str());
                pod.set_at(&["metadata", "uid"], name);
                pod.set_at(&["status", "phase"], "Pending");
                let mut pod: Pod = typed(&pod);
                pod.metadata.creation_timestamp = Some(Time(self.now));
                self.pods.push(pod.into());
            }
            Action::Update { object, .. } => self.job = typed(object),
            Action::Delete { key, .. } => {
                let pod = self
                    .pods
                    .iter_mut()
                    .map(Arc::make_mut)
                    .find(|it| owner::key_of(&it.metadata) == *key);
                if let Some(pod) = pod {
                    pod.metadata.deletion_timestamp = Some(Time(self.now));
                }
            }
            Action::Patch { key, .. } => {
                let pod = self
                    .pods
                    .iter_mut()
                    .map(Arc::make_mut)
                    .find(|it| owner::key_of(&it.metadata) == *key);
                if let Some(pod) = pod {
                    pod.metadata.finalizers = None;
                }
            }
            other => panic!("a job does no such thing: {other:?}"),
        }
    }

    /// Ends a live pod in this phase, then lets the controller work.
    fn end(&mut self, place: usize, phase: &str) {
        let mut live = self.pods.iter_mut().map(Arc::make_mut).filter(|pod| pods::is_active(pod));
        let pod = live.nth(place).unwrap();
        pod.status.as_mut().unwrap().phase = Some(phase.into());
        self.settle();
    }

    /// Pods that were deleted are gone.
    fn gone(&mut self) {
        self.pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        self.settle();
    }

    fn pass(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        self.settle();
    }

    fn shown(&self) -> String {
        let status = to_value(&self.job.status);
        let mut parts = Vec::new();
        for member in ["active", "succeeded", "failed", "terminating"] {
            if let Some(count) = status.i64_at(&[member]).filter(|it| *it != 0) {
                parts.push(format!("{member} {count}"));
            }
        }
        for member in ["completedIndexes", "failedIndexes"] {
            match status.str_at(&[member]) {
                "" => {}
                text => parts.push(format!("{member} {text}")),
            }
        }
        let holding = status.items_at(&["conditions"]).iter();
        let holding = holding.filter(|it| it.str_at(&["status"]) == "True");
        parts.extend(
            holding.map(|it| format!("{}({})", it.str_at(&["type"]), it.str_at(&["reason"]))),
        );
        let tracked = self.pods.iter().filter(|pod| tracking::is_tracked(pod)).count();
        parts.push(format!("tracked {tracked}"));
        parts.join(", ")
    }
}

fn typed<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_slice(&apimachinery::json::to_vec(value)).unwrap()
}

#[test]
fn a_job_runs_until_enough_pods_have_succeeded() {
    let mut world = World::new(r#"{"parallelism":2,"completions":3}"#);
    assert_eq!(world.shown(), "active 2, tracked 2");
    world.end(0, "Succeeded");
    assert_eq!(world.shown(), "active 2, succeeded 1, tracked 2");
    world.end(0, "Succeeded");
    assert_eq!(world.shown(), "active 1, succeeded 2, tracked 1");
    world.end(0, "Succeeded");
    let done = "succeeded 3, SuccessCriteriaMet(CompletionsReached), Complete(CompletionsReached), tracked 0";
    assert_eq!(world.shown(), done);
    assert_eq!(world.events.last().unwrap(), "Completed");
    assert!(world.job.status.unwrap().completion_time.is_some());
}

#[test]
fn failed_pods_are_replaced_after_a_pause_until_there_are_too_many() {
    let mut world = World::new(r#"{"backoffLimit":1}"#);
    world.end(0, "Failed");
    assert_eq!(world.shown(), "failed 1, tracked 0");
    world.pass(600);
    assert_eq!(world.shown(), "active 1, failed 1, tracked 1");
    world.end(0, "Failed");
    let failed =
        "failed 2, FailureTarget(BackoffLimitExceeded), Failed(BackoffLimitExceeded), tracked 0";
    assert_eq!(world.shown(), failed);
}

#[test]
fn a_job_past_its_deadline_fails_once_its_pods_are_gone() {
    let mut world = World::new(r#"{"activeDeadlineSeconds":3}"#);
    world.pass(3);
    let target = "failed 1, terminating 1, FailureTarget(DeadlineExceeded), tracked 0";
    assert_eq!(world.shown(), target);
    world.gone();
    let failed = "failed 1, FailureTarget(DeadlineExceeded), Failed(DeadlineExceeded), tracked 0";
    assert_eq!(world.shown(), failed);
}

#[test]
fn indexes_succeed_and_fail_one_by_one() {
    let spec =
        r#"{"parallelism":3,"completions":3,"completionMode":"Indexed","backoffLimitPerIndex":0}"#;
    let mut world = World::new(spec);
    world.end(1, "Failed");
    assert_eq!(world.shown(), "active 2, failed 1, failedIndexes 2, tracked 2");
    world.end(0, "Succeeded");
    world.end(0, "Succeeded");
    assert_eq!(
        world.shown(),
        "succeeded 2, failed 1, completedIndexes 0,1, failedIndexes 2, FailureTarget(FailedIndexes), Failed(FailedIndexes), tracked 0"
    );
}

#[test]
fn an_index_is_tried_again_and_counts_on() {
    let spec = r#"{"completionMode":"Indexed","backoffLimitPerIndex":1}"#;
    let mut world = World::new(spec);
    world.end(0, "Failed");
    assert_eq!(world.shown(), "tracked 1", "it waits for its replacement");
    world.pass(10);
    assert_eq!(world.shown(), "active 1, failed 1, tracked 1");
    let annotations = world.pods[1].metadata.annotations.clone().unwrap();
    assert_eq!(annotations[tracking::FAILURES], "1");
    world.end(0, "Failed");
    assert_eq!(
        world.shown(),
        "failed 2, failedIndexes 0, FailureTarget(FailedIndexes), Failed(FailedIndexes), tracked 0"
    );
}

#[test]
fn a_success_policy_ends_the_job_early() {
    let spec = r#"{"parallelism":3,"completions":3,"completionMode":"Indexed","successPolicy":{"rules":[{"succeededIndexes":"0"}]}}"#;
    let mut world = World::new(spec);
    world.end(0, "Succeeded");
    let met = "succeeded 1, terminating 2, completedIndexes 0, SuccessCriteriaMet(SuccessPolicy), tracked 0";
    assert_eq!(world.shown(), met);
    world.gone();
    let done = "succeeded 1, completedIndexes 0, SuccessCriteriaMet(SuccessPolicy), Complete(SuccessPolicy), tracked 0";
    assert_eq!(world.shown(), done);
}

#[test]
fn a_suspended_job_has_no_pods_and_goes_on_later() {
    let mut world = World::new(r#"{"parallelism":2,"completions":2}"#);
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    world.settle();
    assert_eq!(world.shown(), "terminating 2, Suspended(JobSuspended), tracked 0");
    world.gone();
    assert_eq!(world.shown(), "Suspended(JobSuspended), tracked 0");
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    world.pass(5);
    assert_eq!(world.shown(), "active 2, tracked 2");
    assert_eq!(world.job.status.unwrap().start_time, Some(Time(world.now)));
}

#[test]
fn pods_that_do_not_count_are_replaced_without_end() {
    let spec = r#"{"backoffLimit":0,"podFailurePolicy":{"rules":[{"action":"Ignore","onPodConditions":[{"type":"DisruptionTarget","status":"True"}]}]}}"#;
    let mut world = World::new(spec);
    let condition = serde_json::from_str(r#"{"type":"DisruptionTarget","status":"True"}"#).unwrap();
    Arc::make_mut(&mut world.pods[0]).status.as_mut().unwrap().conditions = Some(vec![condition]);
    world.end(0, "Failed");
    world.pass(600);
    assert_eq!(world.shown(), "active 1, tracked 1");
}

#[test]
fn fewer_pods_run_when_less_parallelism_is_wanted() {
    let mut world = World::new(r#"{"parallelism":3,"completions":5}"#);
    world.job.spec.as_mut().unwrap().parallelism = Some(1);
    world.settle();
    assert_eq!(world.shown(), "active 1, terminating 2, tracked 1");
    world.gone();
    assert_eq!(world.shown(), "active 1, tracked 1");
}

/// Found by the simulation, seed 1016: the pod had succeeded meanwhile, lost its finalizer, and was never counted.
#[test]
fn a_pod_too_many_is_let_go_only_in_the_state_that_was_seen() {
    let mut world = World::new(r#"{"parallelism":2,"completions":5}"#);
    for pod in world.pods.iter_mut().map(Arc::make_mut) {
        pod.metadata.resource_version = Some("7".into());
    }
    world.job.spec.as_mut().unwrap().parallelism = Some(1);
    let plan =
        plan(&world.job, Seen { pods: &world.pods, groups: None }, &mut world.failures, world.now);
    let actions = plan.stages.iter().flat_map(|it| &it.actions).map(|it| &it.action);
    let versions: Vec<String> = actions
        .filter_map(|it| match it {
            Action::Patch { patch, .. } => {
                Some(patch.str_at(&["metadata", "resourceVersion"]).into())
            }
            _ => None,
        })
        .collect();
    assert_eq!(versions, ["7"]);
}

#[test]
fn an_adopted_pod_is_counted_and_one_that_is_let_go_is_not() {
    let job: Job = typed(
        &apimachinery::json::parse(
            br#"{"metadata":{"name":"j","uid":"job"},"spec":{"selector":{"matchLabels":{"job":"j"}},"template":{"spec":{}}}}"#,
        )
        .unwrap(),
    );
    let check = |pod: &str, expected: &str| {
        let pods = [Arc::new(typed(&apimachinery::json::parse(pod.as_bytes()).unwrap()))];
        let seen = Seen { pods: &pods, groups: None };
        let plan = plan(&job, seen, &mut Failures::default(), Timestamp::UNIX_EPOCH);
        let Action::Patch { patch, .. } = &plan.stages[0].actions[0].action else { panic!() };
        let finalizers = ["finalizers", "$deleteFromPrimitiveList/finalizers"];
        let shown = finalizers.map(|it| patch.items_at(&["metadata", it]).len().to_string());
        assert_eq!(shown.join(" "), expected);
    };
    check(r#"{"metadata":{"name":"p","labels":{"job":"j"}}}"#, "1 0");
    check(
        r#"{"metadata":{"name":"p","ownerReferences":[{"apiVersion":"batch/v1","kind":"Job","name":"j","uid":"job","controller":true}]}}"#,
        "0 1",
    );
}

#[test]
fn pods_that_have_succeeded_count_in_the_plan_that_takes_them_in() {
    let parse = |text: &str| apimachinery::json::parse(text.as_bytes()).unwrap();
    let job: Job = typed(&parse(
        r#"{"metadata":{"name":"j","uid":"job"},"spec":{"completions":2,"parallelism":2,"backoffLimit":6,
            "selector":{"matchLabels":{"job":"j"}},"template":{"spec":{}}}}"#,
    ));
    let pod = |name: &str| {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","uid":"{name}","labels":{{"job":"j"}}}},"status":{{"phase":"Succeeded"}}}}"#
        );
        Arc::new(typed(&parse(&text)))
    };
    let pods = [pod("a"), pod("b"), pod("c")];
    let seen = Seen { pods: &pods, groups: None };
    let plan = plan(&job, seen, &mut Failures::default(), Timestamp::UNIX_EPOCH);
    let actions = || plan.stages.iter().flat_map(|it| &it.actions);
    let made = actions().filter(|it| matches!(it.action, Action::Create { .. })).count();
    let patched = actions().filter(|it| matches!(it.action, Action::Patch { .. })).count();
    // Each is taken in, and let go once it is counted.
    assert_eq!((made, patched), (0, 6));
}
