//! What a ScaledObject says of itself: its conditions, in upstream's words.

use apimachinery::{Value, time, value};
use jiff::Timestamp;

pub(super) const NO_TARGET: &str =
    "ScaledObject doesn't have correct scaleTargetRef specification:";
const IS_READY: &str = "ScaledObject is defined correctly and is ready for scaling";

/// How far an object is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready<'a> {
    Yes,
    /// It cannot be used.
    Wrong(&'a str),
    /// Its triggers do not answer: all, or some.
    Mute {
        all: bool,
    },
}

/// A status as it comes to be.
#[derive(Debug)]
pub(super) struct Status {
    value: Value,
    before: Value,
    now: String,
}

impl Status {
    pub(super) fn of(object: &Value, now: Timestamp) -> Self {
        let before = object.get("status").cloned().unwrap_or_else(Value::object);
        Self { value: before.clone(), before, now: time::format_time(now).to_string() }
    }

    pub(super) fn set(&mut self, member: &str, value: impl Into<Value>) {
        self.value.set_at(&[member], value);
    }

    /// When it was active last.
    pub(super) fn last_active(&self) -> Option<Timestamp> {
        time::parse_time(self.value.str_at(&["lastActiveTime"])).ok()
    }

    pub(super) fn set_active_now(&mut self) {
        let now = self.now.clone();
        self.set("lastActiveTime", now);
    }

    pub(super) fn ready(&mut self, ready: Ready<'_>) {
        let (status, reason, message) = match ready {
            Ready::Yes => ("True", "ScaledObjectReady", IS_READY),
            Ready::Wrong(why) => ("False", "ScaledObjectCheckFailed", why),
            Ready::Mute { all: true } => (
                "False",
                "TriggerError",
                "Triggers defined in ScaledObject are not working correctly",
            ),
            Ready::Mute { all: false } => (
                "Unknown",
                "PartialTriggerError",
                "Some triggers defined in ScaledObject are not working correctly",
            ),
        };
        self.condition("Ready", status, (reason, message));
    }

    pub(super) fn active(&mut self, active: Option<bool>) {
        let told = match active {
            Some(true) => {
                ("True", "ScalerActive", "Scaling is performed because triggers are active")
            }
            Some(false) => (
                "False",
                "ScalerNotActive",
                "Scaling is not performed because triggers are not active",
            ),
            None => ("Unknown", "UnknownState", "It is not known whether triggers are active"),
        };
        self.condition("Active", told.0, (told.1, told.2));
    }

    pub(super) fn paused(&mut self, paused: bool) {
        let told = match paused {
            true => ("True", "ScaledObjectPaused", "ScaledObject is paused"),
            false => ("False", "ScaledObjectNotPaused", "ScaledObject is not paused"),
        };
        self.condition("Paused", told.0, (told.1, told.2));
    }

    fn condition(&mut self, kind: &str, status: &str, (reason, message): (&str, &str)) {
        let mut all = self.value.items_at(&["conditions"]).to_vec();
        let told = value!({"type": kind, "status": status, "reason": reason, "message": message});
        match all.iter_mut().find(|it| it.str_at(&["type"]) == kind) {
            Some(known) => *known = told,
            None => all.push(told),
        }
        self.value.set_at(&["conditions"], all);
    }

    /// The object with this status, where it is another one.
    pub(super) fn changed(self, object: &Value) -> Option<Value> {
        (self.value != self.before).then(|| {
            let mut object = object.clone();
            object.set_at(&["status"], self.value);
            object
        })
    }
}
