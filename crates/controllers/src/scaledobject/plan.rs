//! One look at a ScaledObject: its autoscaler, what its triggers say, and whether there is to be anything at all.
//! Upstream: `RequestScale` of `pkg/scaling/executor`.

use apimachinery::{Value, value};
use client::call::PatchKind;
use client::events::{EventType, ObjectReference};
use client::{ObjectKey, Resource};
use controller::plan::PlannedAction;
use controller::{Action, Event, Fetch, Plan};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use keda::{Measure, ScaledObject, Trigger};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::status::{Ready, Status};
use super::{Memory, Observed};

/// Keeps an object until the replicas are back that were there before.
const FINALIZER: &str = "finalizer.keda.sh";

/// What the triggers say together.
#[derive(Debug, Default)]
struct Said {
    active: bool,
    /// Why triggers do not answer.
    errors: Vec<String>,
    /// How many were asked.
    asked: usize,
}

struct Look<'o> {
    seen: &'o Observed,
    plan: Plan,
    status: Status,
    now: Timestamp,
}

pub(super) fn plan(seen: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
    let status = Status::of(&seen.object, now);
    let look = Look { seen, plan: Plan::nothing(), status, now };
    if !seen.object.str_at(&["metadata", "deletionTimestamp"]).is_empty() {
        return look.end_of_object();
    }
    let (scaled, target) = match (&seen.scaled, &seen.target) {
        (Ok(scaled), Ok(target)) => (scaled, target),
        (Err(why), _) | (_, Err(why)) => return look.refuse(memory, why),
    };
    let annotations = seen.object.at(&["metadata", "annotations"]).cloned().unwrap_or_default();
    let generation = seen.object.i64_at(&["metadata", "generation"]).unwrap_or_default();
    let version = (generation, annotations);
    let due = memory.next.is_none_or(|it| it <= now) || memory.seen.as_ref() != Some(&version);
    let good = match (&seen.autoscaler, scaled.paused) {
        (Some(there), None) => look.fits(there, scaled, target),
        (there, Some(_)) => there.is_none(),
        (None, None) => false,
    };
    if good && !due {
        return Plan { requeue_at: memory.next, ..Plan::nothing() };
    }
    look.reconcile(memory, (scaled, target), version)
}

impl Look<'_> {
    fn namespace(&self) -> &str {
        self.seen.object.str_at(&["metadata", "namespace"])
    }

    fn name(&self) -> &str {
        self.seen.object.str_at(&["metadata", "name"])
    }

    fn reference(&self) -> ObjectReference {
        let mut reference = ObjectReference::of(&self.seen.object);
        (reference.api_version, reference.kind) = (keda::API_VERSION.into(), keda::KIND.into());
        reference
    }

    /// Says something once, until something else is said.
    fn say(&mut self, memory: &mut Memory, kind: EventType, reason: &'static str, message: &str) {
        if memory.said != message {
            message.clone_into(&mut memory.said);
            let about = self.reference();
            self.plan.event(about, kind, reason, message);
        }
    }

    fn refuse(mut self, memory: &mut Memory, why: &str) -> Plan {
        self.say(memory, EventType::Warning, "ScaledObjectCheckFailed", why);
        self.status.ready(Ready::Wrong(why));
        self.status.active(None);
        self.write_status();
        self.plan
    }

    fn write_status(&mut self) {
        let status = std::mem::replace(&mut self.status, Status::of(&Value::Null, self.now));
        if let Some(object) = status.changed(&self.seen.object) {
            let resource = self.seen.own.clone();
            self.plan.then().act(Action::Update { resource, subresource: "status", object });
        }
    }

    fn reconcile(
        mut self,
        memory: &mut Memory,
        (scaled, target): (&ScaledObject, &Resource),
        version: (i64, Value),
    ) -> Plan {
        let path = target.path(self.namespace(), &scaled.target.name, "scale");
        let (said, mut unread) = self.asked(scaled);
        let scale = self.seen.answers.get(&path);
        if scale.is_none() {
            unread.push(path);
        }
        if !unread.is_empty() {
            let reads = unread.into_iter().map(|path| Fetch::path(self.seen.own.clone(), path));
            return Plan { fetches: reads.collect(), ..Plan::nothing() };
        }
        let scale = scale.and_then(|it| it.get("answer"));
        let next = self.next(scaled);
        (memory.next, memory.seen) = (Some(next), Some(version));
        self.plan.requeue_by(next);
        let Some(scale) = scale else {
            let why = format!("{} Target resource doesn't exist", super::status::NO_TARGET);
            return self.refuse(memory, &why);
        };
        if scaled.restores {
            self.keep();
        }
        self.describe(scaled, target, scale);
        if let Some(at) = scaled.paused {
            return self.pause((scaled, target), scale, at);
        }
        if let Err(why) = self.autoscaler(scaled, target) {
            return self.refuse(memory, &why);
        }
        self.status.paused(false);
        self.decide(memory, (scaled, target), scale, &said)
    }

    /// When triggers are asked again: after a period, or when the clock changes what one of them says.
    fn next(&self, scaled: &ScaledObject) -> Timestamp {
        let after = |pause: SignedDuration| self.now.checked_add(pause).unwrap_or(Timestamp::MAX);
        let changes = scaled.triggers.iter().filter_map(|it| match &it.measure {
            Measure::Cron(cron) => cron.changes_after(self.now),
            Measure::Prometheus(_) | Measure::MetricsApi(_) | Measure::Resource { .. } => None,
        });
        changes.chain([after(scaled.polling)]).min().unwrap_or(Timestamp::MAX)
    }

    /// What the triggers say, as far as they were asked, and what is to be read first.
    fn asked(&self, scaled: &ScaledObject) -> (Said, Vec<String>) {
        let (mut said, mut unread) = (Said::default(), Vec::new());
        let only_resources =
            scaled.triggers.iter().all(|it| matches!(it.measure, Measure::Resource { .. }));
        said.active = only_resources;
        for trigger in &scaled.triggers {
            match &trigger.measure {
                Measure::Resource { .. } => {}
                Measure::Cron(cron) => {
                    said.asked += 1;
                    said.active |= cron.is_active(self.now);
                }
                Measure::Prometheus(_) | Measure::MetricsApi(_) => {
                    said.asked += 1;
                    let path = self.metric_path(trigger);
                    match self.seen.answers.get(&path) {
                        None => unread.push(path),
                        Some(answer) => match value_of(answer) {
                            Ok(value) => said.active |= value > trigger.activation,
                            Err(why) => said.errors.push(why),
                        },
                    }
                }
            }
        }
        (said, unread)
    }

    fn metric_path(&self, trigger: &Trigger) -> String {
        let selector = format!("{}={}", keda::NAME_LABEL, self.name());
        format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{}?labelSelector={}",
            self.namespace(),
            trigger.metric().unwrap_or_default(),
            utf8_percent_encode(&selector, NON_ALPHANUMERIC)
        )
    }

    /// The autoscaler that the object is to have.
    fn wanted(&self, scaled: &ScaledObject, target: &Resource) -> Value {
        let metrics: Value = scaled.triggers.iter().map(|it| it.spec(self.name())).collect();
        let mut spec = value!({
            "scaleTargetRef": {"apiVersion": (target.api_version()), "kind": (target.kind.as_str()),
                "name": (scaled.target.name.as_str())},
            "minReplicas": (i64::from(scaled.min.max(1))), "maxReplicas": (i64::from(scaled.max)),
            "metrics": metrics
        });
        if let Some(behavior) = &scaled.behavior {
            spec.set_at(&["behavior"], behavior.clone());
        }
        spec
    }

    fn is_own(&self, autoscaler: &Value) -> bool {
        let uid = self.seen.object.str_at(&["metadata", "uid"]);
        let owners = autoscaler.items_at(&["metadata", "ownerReferences"]);
        owners.iter().any(|it| it.str_at(&["uid"]) == uid && it.bool_at(&["controller"]))
    }

    fn fits(&self, autoscaler: &Value, scaled: &ScaledObject, target: &Resource) -> bool {
        self.is_own(autoscaler) && has(&autoscaler["spec"], &self.wanted(scaled, target))
    }

    /// Makes or mends the autoscaler.
    fn autoscaler(&mut self, scaled: &ScaledObject, target: &Resource) -> Result<(), String> {
        let spec = self.wanted(scaled, target);
        let resource = Resource::of::<HorizontalPodAutoscaler>();
        let Some(there) = &self.seen.autoscaler else {
            let object = self.new_autoscaler(scaled, spec);
            let namespace = self.namespace().to_owned();
            let create = Action::Create { resource, namespace, object, exists_is_fine: false };
            self.plan.act(create);
            return Ok(());
        };
        if !self.is_own(there) {
            let name = &scaled.hpa_name;
            return Err(format!(
                "the autoscaler {name:?} is there and is not of this ScaledObject"
            ));
        }
        if !has(&there["spec"], &spec) {
            let mut object = Value::clone(there);
            object.set_at(&["spec"], spec);
            self.plan.act(Action::Update { resource, subresource: "", object });
        }
        Ok(())
    }

    fn new_autoscaler(&self, scaled: &ScaledObject, spec: Value) -> Value {
        let uid = self.seen.object.str_at(&["metadata", "uid"]);
        let mut labels = value!({
            "app.kubernetes.io/name": (scaled.hpa_name.as_str()),
            "app.kubernetes.io/part-of": (self.name()),
            "app.kubernetes.io/managed-by": "keda-operator"
        });
        let own = self.seen.object.at(&["metadata", "labels"]).and_then(Value::as_object);
        for (name, text) in own.into_iter().flat_map(apimachinery::Object::iter) {
            labels.set_at(&[name], text.clone());
        }
        value!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": (scaled.hpa_name.as_str()), "namespace": (self.namespace()), "labels": labels,
                "ownerReferences": [{"apiVersion": (keda::API_VERSION), "kind": (keda::KIND),
                    "name": (self.name()), "uid": uid, "controller": true, "blockOwnerDeletion": true}]},
            "spec": spec})
    }

    /// What the status says of the target.
    fn describe(&mut self, scaled: &ScaledObject, target: &Resource, scale: &Value) {
        let (group, version) = (target.group.as_str(), target.version.as_str());
        let place = value!({"group": group, "version": version,
            "kind": (target.kind.as_str()), "resource": (target.plural.as_str())});
        self.status.set("scaleTargetKind", format!("{}.{}", target.api_version(), target.kind));
        self.status.set("scaleTargetGVKR", place);
        self.status.set("hpaName", scaled.hpa_name.as_str());
        let names = scaled.triggers.iter().filter_map(Trigger::metric);
        self.status.set("externalMetricNames", names.map(Value::from).collect::<Value>());
        let before = self.seen.object.at(&["status", "originalReplicaCount"]);
        if before.is_none() {
            self.status.set("originalReplicaCount", replicas(scale));
        }
    }

    fn pause(
        mut self,
        (scaled, target): (&ScaledObject, &Resource),
        scale: &Value,
        at: Option<i32>,
    ) -> Plan {
        if let Some(there) = self.seen.autoscaler.as_ref().filter(|it| self.is_own(it)) {
            self.plan.act(Action::Delete {
                resource: Resource::of::<HorizontalPodAutoscaler>(),
                key: ObjectKey::new(self.namespace(), scaled.hpa_name.as_str()),
                uid: there.str_at(&["metadata", "uid"]).to_owned(),
                propagation: None,
                grace_period_seconds: None,
                resource_version: String::new(),
            });
        }
        if let Some(wanted) = at.map(i64::from).filter(|it| *it != replicas(scale)) {
            self.scale(target, scale, wanted, None);
        }
        self.status.ready(Ready::Yes);
        self.status.active(None);
        self.status.paused(true);
        self.write_status();
        self.plan
    }

    /// From nothing to something and back; between these the autoscaler decides.
    fn decide(
        mut self,
        memory: &mut Memory,
        (scaled, target): (&ScaledObject, &Resource),
        scale: &Value,
        said: &Said,
    ) -> Plan {
        let (current, min) = (replicas(scale), i64::from(scaled.min));
        let idle = scaled.idle.map(i64::from);
        if let Some(why) = said.errors.first() {
            self.say(memory, EventType::Warning, "KEDAScalerFailed", why);
        } else {
            let told = "ScaledObject is ready for scaling";
            self.say(memory, EventType::Normal, "ScaledObjectReady", told);
        }
        self.status.ready(match said.errors.len() {
            0 => Ready::Yes,
            mute => Ready::Mute { all: mute == said.asked },
        });
        let kind = format!(
            "{}.{} {}/{}",
            target.api_version(),
            target.kind,
            self.namespace(),
            scaled.target.name
        );
        if said.active {
            self.status.set_active_now();
            if current == 0 || idle.is_some_and(|it| current <= it) && current < min {
                let wanted = min.max(1);
                let told = format!("Scaled {kind} from {current} to {wanted}");
                self.scale(target, scale, wanted, Some(("KEDAScaleTargetActivated", told)));
            }
        } else if said.errors.is_empty() {
            let lowest = idle.or((min == 0).then_some(0));
            match lowest {
                Some(lowest) if current > lowest && self.has_cooled(scaled) => {
                    let told = format!("Deactivated {kind} from {current} to {lowest}");
                    self.scale(target, scale, lowest, Some(("KEDAScaleTargetDeactivated", told)));
                }
                None if current < min => self.scale(target, scale, min, None),
                Some(_) | None => {}
            }
        }
        self.status.active(match said {
            Said { active: false, errors, .. } if !errors.is_empty() => None,
            Said { active, .. } => Some(*active),
        });
        self.write_status();
        self.plan
    }

    /// Whether it was active too long ago to be needed.
    fn has_cooled(&self, scaled: &ScaledObject) -> bool {
        let since = |at: Timestamp| self.now.duration_since(at);
        match self.status.last_active() {
            Some(at) => since(at) > scaled.cooldown,
            None => {
                let made = self.seen.object.str_at(&["metadata", "creationTimestamp"]);
                let made = apimachinery::time::parse_time(made);
                made.is_ok_and(|it| since(it) >= scaled.initial_cooldown)
            }
        }
    }

    fn scale(
        &mut self,
        target: &Resource,
        scale: &Value,
        wanted: i64,
        told: Option<(&'static str, String)>,
    ) {
        let mut object = scale.clone();
        object.set_at(&["spec", "replicas"], wanted);
        let action = Action::Update { resource: target.clone(), subresource: "scale", object };
        let about = self.reference();
        let on_success =
            told.map(|(reason, message)| Event { about, kind: EventType::Normal, reason, message });
        self.plan.then().add(PlannedAction::new(action, on_success, Vec::new()));
    }

    fn finalizers(&self) -> Vec<Value> {
        self.seen.object.items_at(&["metadata", "finalizers"]).to_vec()
    }

    fn patch_finalizers(&mut self, finalizers: Vec<Value>) {
        // With the version, so that nobody else's is lost.
        let version = self.seen.object.str_at(&["metadata", "resourceVersion"]);
        let mut patch = value!({"metadata": {"resourceVersion": version}});
        patch.set_at(&["metadata", "finalizers"], finalizers);
        let key = ObjectKey::new(self.namespace(), self.name());
        self.plan.then().act(Action::Patch {
            resource: self.seen.own.clone(),
            key,
            subresource: "",
            kind: PatchKind::Merge,
            patch,
            gone_is_fine: true,
        });
    }

    /// Makes sure that the object stays until its target has the replicas of before.
    fn keep(&mut self) {
        let mut finalizers = self.finalizers();
        if !finalizers.contains(&Value::from(FINALIZER)) {
            finalizers.push(FINALIZER.into());
            self.patch_finalizers(finalizers);
        }
    }

    /// The object is on its way out: its target gets the replicas of before, where that was asked for.
    fn end_of_object(mut self) -> Plan {
        let mut finalizers = self.finalizers();
        if !finalizers.contains(&Value::from(FINALIZER)) {
            return self.plan;
        }
        if let (Ok(scaled), Ok(target)) = (&self.seen.scaled, &self.seen.target) {
            let path = target.path(self.namespace(), &scaled.target.name, "scale");
            let Some(answer) = self.seen.answers.get(&path) else {
                let fetch = Fetch::path(self.seen.own.clone(), path);
                return Plan { fetches: vec![fetch], ..Plan::nothing() };
            };
            let before = self.seen.object.i64_at(&["status", "originalReplicaCount"]);
            if let (Some(scale), Some(before), true) =
                (answer.get("answer"), before, scaled.restores)
            {
                self.scale(target, scale, before, None);
            }
        }
        finalizers.retain(|it| it.as_str() != Some(FINALIZER));
        self.patch_finalizers(finalizers);
        self.plan
    }
}

fn replicas(scale: &Value) -> i64 {
    scale.i64_at(&["spec", "replicas"]).unwrap_or_default()
}

/// The value of an external metric, of one trigger.
fn value_of(answer: &Value) -> Result<f64, String> {
    let Some(list) = answer.get("answer") else {
        return Err(answer.str_at(&["error", "message"]).to_owned());
    };
    let items = list.items_at(&["items"]);
    if items.is_empty() {
        return Err("no metrics returned from external metrics API".into());
    }
    let values = items.iter().map(|it| {
        let text = it.str_at(&["value"]);
        let parsed = apimachinery::quantity::Quantity::parse(text).map(|it| it.as_f64());
        parsed.map_err(|_| format!("{text:?} is no quantity"))
    });
    values.sum()
}

/// Whether all that is wanted is there; what the server has added is no difference.
fn has(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(name, it)| there.get(name).is_some_and(|there| has(there, it)))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(a, b)| has(a, b))
        }
        (there, wanted) => there == wanted,
    }
}
